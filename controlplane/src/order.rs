//! What must happen before what: commands to the dataplane are numbered by tags, and a message of
//! an IKE SA leaves only when the commands of that IKE SA before it have taken effect.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ike::IkeId;

/// Number of a command to the dataplane, in the order of submission over all sessions.
pub(crate) type Tag = u64;

/// Commands under way and what waits for them.
pub(crate) struct Sequencer<T> {
    next: Tag,
    outstanding: BTreeSet<Tag>,
    /// Last command of each IKE SA.
    last: HashMap<Option<IkeId>, Tag>,
    /// By the command it waits for, then by age.
    waiting: BTreeMap<(Tag, u64), T>,
    age: u64,
}

impl<T> Sequencer<T> {
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            outstanding: BTreeSet::new(),
            last: HashMap::new(),
            waiting: BTreeMap::new(),
            age: 0,
        }
    }

    /// A command for an IKE SA is under way.
    pub(crate) fn begin(&mut self, ike: Option<IkeId>) -> Tag {
        let tag = self.next;
        self.next += 1;
        self.outstanding.insert(tag);
        self.last.insert(ike, tag);
        tag
    }

    /// It has taken effect, or failed.
    pub(crate) fn end(&mut self, tag: Tag) {
        self.outstanding.remove(&tag);
    }

    /// `item` waits for the commands of its IKE SA so far.
    pub(crate) fn push(&mut self, ike: Option<IkeId>, item: T) {
        let after = self.last.get(&ike).copied().unwrap_or(0);
        self.age += 1;
        self.waiting.insert((after, self.age), item);
    }

    /// `item` waits for all commands so far.
    pub(crate) fn push_last(&mut self, item: T) {
        self.age += 1;
        self.waiting.insert((self.next - 1, self.age), item);
    }

    /// Items that need not wait any more, in order.
    pub(crate) fn ready(&mut self) -> Vec<T> {
        let mut ready = Vec::new();
        let first = self.outstanding.first().copied().unwrap_or(Tag::MAX);
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 >= first {
                break;
            }
            ready.push(entry.remove());
        }
        ready
    }

    /// The IKE SA is gone.
    pub(crate) fn forget(&mut self, ike: Option<IkeId>) {
        self.last.remove(&ike);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<IkeId> = Some(IkeId(1));
    const TWO: Option<IkeId> = Some(IkeId(2));

    #[test]
    fn a_message_waits_for_the_commands_before_it() {
        let mut sequencer = Sequencer::new();
        sequencer.push(ONE, "early");
        let first = sequencer.begin(ONE);
        let second = sequencer.begin(ONE);
        sequencer.push(ONE, "late");
        sequencer.push(TWO, "other");
        assert_eq!(sequencer.ready(), ["early", "other"]);
        sequencer.end(second);
        assert!(sequencer.ready().is_empty());
        sequencer.end(first);
        assert_eq!(sequencer.ready(), ["late"]);
    }

    #[test]
    fn messages_of_one_ike_sa_keep_their_order() {
        let mut sequencer = Sequencer::new();
        let first = sequencer.begin(ONE);
        sequencer.push(ONE, 1);
        let second = sequencer.begin(ONE);
        sequencer.push(ONE, 2);
        sequencer.push(ONE, 3);
        sequencer.end(second);
        sequencer.end(first);
        assert_eq!(sequencer.ready(), [1, 2, 3]);
        sequencer.forget(ONE);
        sequencer.push(ONE, 4);
        assert_eq!(sequencer.ready(), [4]);
    }
}

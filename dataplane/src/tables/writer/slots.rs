//! Small numbers of children. One that is given back is used again when no worker can know it.

use std::collections::VecDeque;

use crate::quiescence::{Grace, Quiescence};

/// Most children, those that were deleted just now included.
pub(in crate::tables) const MAX_SLOTS: u32 = 1 << 21;

/// Which numbers are in use.
#[derive(Default)]
pub(super) struct Slots {
    /// All below were in use at some time.
    next: u32,
    free: Vec<u32>,
    /// Given back since policies were last published.
    returned: Vec<u32>,
    /// Given back before that: free when the workers have ended their turns.
    draining: VecDeque<(Grace, Vec<u32>)>,
}

impl Slots {
    /// A number that no child has; `None` if all [`MAX_SLOTS`] are in use.
    pub(super) fn take(&mut self, quiescence: &Quiescence) -> Option<u32> {
        let passed = |(grace, _): &&(Grace, _)| grace.passed(quiescence);
        let passed = self.draining.iter().take_while(passed).count();
        let slots = self.draining.drain(..passed);
        self.free.extend(slots.flat_map(|(_, slots)| slots));
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = (self.next < MAX_SLOTS).then_some(self.next)?;
        self.next += 1;
        Some(slot)
    }

    /// The child with this number is gone, and so are, with the next version, its policies.
    pub(super) fn put_back(&mut self, slot: u32) {
        self.returned.push(slot);
    }

    /// A version without the policies of those children is out.
    pub(super) fn published(&mut self, quiescence: &Quiescence) {
        if !self.returned.is_empty() {
            let slots = std::mem::take(&mut self.returned);
            self.draining.push_back((quiescence.grace(), slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_only_after_publication_and_grace() {
        let quiescence = Quiescence::new(1);
        let mut slots = Slots::default();
        assert_eq!(slots.take(&quiescence), Some(0));
        slots.put_back(0);
        assert_eq!(slots.take(&quiescence), Some(1), "not published");
        let turn = quiescence.enter(0).unwrap();
        slots.published(&quiescence);
        assert_eq!(slots.take(&quiescence), Some(2), "a worker may know it");
        drop(turn);
        assert_eq!(slots.take(&quiescence), Some(0));
        assert_eq!(slots.take(&quiescence), Some(3));
    }

    #[test]
    fn slots_are_limited() {
        let quiescence = Quiescence::new(1);
        let mut slots = Slots {
            next: MAX_SLOTS - 1,
            ..Slots::default()
        };
        assert_eq!(slots.take(&quiescence), Some(MAX_SLOTS - 1));
        assert_eq!(slots.take(&quiescence), None);
    }
}

//! What changed in the policies since the base of the published ones was made: publishing a change
//! costs what changed, and now and then a new base.

use api::id::PolicyId;
use api::record::{Direction, Policy};

use super::HashMap;

/// A base of fewer rules is made anew with every change, in less than a millisecond: then searches
/// need not look at two places.
const FEW_RULES: usize = 1024;
/// With each change all that came before it are filed again, and with each base all its rules:
/// both together cost least when a base gets as many changes as the square root of its size, times
/// what a rule of a base costs more than one of the changes.
const CHANGES_PER_ROOT: usize = 4;

/// Where a policy stands in the base.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) direction: Direction,
    pub(super) priority: u32,
}

/// The policies that are not as in the base.
#[derive(Default)]
pub(super) struct Since {
    /// Their place in the base; `None` for one that is new.
    places: HashMap<PolicyId, Option<Place>>,
    base_len: usize,
    /// So much changed that the base is of no more use.
    all: bool,
    /// There are changes that were not published.
    news: bool,
}

impl Since {
    /// Something was committed, if only that there is nothing.
    pub(super) fn commit(&mut self) {
        self.news = true;
    }

    /// The policy changed; `held` is what it was.
    pub(super) fn note(&mut self, id: PolicyId, held: Option<&Policy>) {
        if self.all {
            return;
        }
        self.places.entry(id).or_insert_with(|| {
            held.map(|policy| Place {
                direction: policy.direction,
                priority: policy.priority,
            })
        });
        let few = self.base_len < FEW_RULES;
        if few || self.places.len() > CHANGES_PER_ROOT * self.base_len.isqrt() {
            self.places = HashMap::default();
            self.all = true;
        }
    }

    /// Whether there is something to publish; from now on it is published.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// All changes with places in the base; `None` when there has to be a new base.
    pub(super) fn changes(&self) -> Option<impl Iterator<Item = (PolicyId, Option<Place>)>> {
        let places = self.places.iter().map(|(id, place)| (*id, *place));
        (!self.all).then_some(places)
    }

    /// There is a new base of so many policies: all is in it.
    pub(super) fn rebased(&mut self, base_len: usize) {
        self.places = HashMap::default();
        self.base_len = base_len;
        self.all = false;
    }
}

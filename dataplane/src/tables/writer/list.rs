//! What the tables hold, for operators.

use api::record::{Policy, SaInfo};

use super::TablesWriter;
use crate::tables::sad::Sa;

impl TablesWriter {
    /// The committed policies, by id.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.policies.values()
    }

    /// All SAs, in no order, and what they were made with.
    pub fn sas(&self) -> impl ExactSizeIterator<Item = (&Sa, &SaInfo)> {
        self.sas
            .values()
            .map(|entry| (entry.sa.as_ref(), &entry.info))
    }
}

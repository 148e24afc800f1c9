//! What the tables hold, for operators.

use api::id::SaId;
use api::record::Policy;

use super::{SaEntry, TablesWriter};
use crate::tables::sad::Sa;

impl TablesWriter {
    /// The committed policies, by id.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.policies.values()
    }

    /// All SAs, in no order.
    pub fn sas(&self) -> impl ExactSizeIterator<Item = &SaEntry> {
        self.sas.values().map(Box::as_ref)
    }

    /// An SA as workers see it.
    #[must_use]
    pub fn sa(&self, id: SaId) -> Option<&Sa> {
        self.sad.get(id)
    }
}

//! What the tables hold, for operators.

use api::id::SaId;
use api::record::Policy;

use super::{SaEntry, TablesWriter};
use crate::tables::child::Child;
use crate::tables::sad::Sa;

impl TablesWriter {
    /// The committed policies, by id.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.policies.values().map(Box::as_ref)
    }

    /// All SAs, in no order.
    pub fn sas(&self) -> impl Iterator<Item = SaEntry<'_>> {
        let sas = self.sas.iter();
        sas.filter_map(|(id, child)| self.entry(*id, child))
    }

    /// How many SAs there are.
    #[must_use]
    pub fn sa_count(&self) -> usize {
        self.sas.len()
    }

    pub(super) fn entry<'w>(&'w self, id: SaId, child: &'w Child) -> Option<SaEntry<'w>> {
        let sa = self.sad.get(id)?;
        Some(SaEntry {
            info: sa.info(child.id),
            row: sa.row,
            child,
        })
    }

    /// An SA as workers see it.
    #[must_use]
    pub fn sa(&self, id: SaId) -> Option<&Sa> {
        self.sad.get(id)
    }
}

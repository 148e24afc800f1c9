//! What dead dataplanes left: their regions, and how the state of a key is taken out of them.

use super::{Flags, Snapshot, StateView, Uncertain, WINDOW_UNIT_WORDS, split_identity, word};
use crate::id::SaId;
use crate::record::Direction;
use crate::region::read_part;
use crate::sync::Ordering;
use crate::window::WindowSlot;

/// What a key is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyName {
    pub id: SaId,
    pub spi: u32,
    pub direction: Direction,
    pub fingerprint: u64,
}

/// The state of an SA as a dead dataplane left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub row: Snapshot,
    /// The window but for its newest word, in the order of that region; none when replay protection was
    /// off.
    pub window: Vec<u64>,
}

impl StateView {
    /// Whether this region knows the key, living, deleted or uncertain.
    fn knows(&self, key: &KeyName) -> bool {
        let Some(row) = self.layout.geometry.row(key.id) else {
            return false;
        };
        let words = self.row(row);
        let get = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
        let (spi, id) = split_identity(get(word::IDENTITY));
        spi == key.spi && id == key.id && get(word::FINGERPRINT) == key.fingerprint
    }

    /// Takes the row of a key out of this region.
    fn adopt(&self, key: &KeyName) -> Result<Adopted, Uncertain> {
        let row = self.snapshot(key.id)?;
        if row.flags.has(Flags::DELETED) || !row.flags.has(Flags::USED) {
            return Err(Uncertain::Deleted);
        }
        if row.direction() != key.direction || row.spi != key.spi {
            return Err(Uncertain::Mismatch);
        }
        let window = match row.window {
            None => Vec::new(),
            Some(slot) => self.window(slot).ok_or(Uncertain::Mismatch)?,
        };
        if self.snapshot(key.id)?.generation != row.generation {
            return Err(Uncertain::Odd);
        }
        Ok(Adopted { row, window })
    }

    fn window(&self, slot: WindowSlot) -> Option<Vec<u64>> {
        if !slot.is_within(self.layout.window_units) {
            return None;
        }
        let at = self.layout.windows_at + slot.unit() as usize * WINDOW_UNIT_WORDS;
        let words = read_part(self.view.words(), at, slot.words());
        Some(
            words
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect(),
        )
    }
}

/// The regions of dead dataplanes, newest first.
#[derive(Clone, Default)]
pub struct Elders {
    regions: Vec<StateView>,
}

impl Elders {
    /// Sorts the regions by their own generations: the order in which they were handed over is not
    /// trusted with nonces.
    #[must_use]
    pub fn new(mut regions: Vec<StateView>) -> Self {
        regions.sort_by_key(|region| core::cmp::Reverse(region.generation()));
        Self { regions }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Finds the state of a key. The newest region that knows the key decides, even when it knows
    /// it as deleted or uncertain: what an older one says is out of date.
    ///
    /// # Errors
    /// [`Uncertain`]: the key must not be used again.
    pub fn find(&self, key: &KeyName) -> Result<Adopted, Uncertain> {
        let newest = self.regions.iter().find(|region| region.knows(key));
        let region = newest.ok_or(Uncertain::Unknown)?;
        if region.view.writer_lives().unwrap_or(true) {
            return Err(Uncertain::WriterLives);
        }
        region.adopt(key)
    }
}

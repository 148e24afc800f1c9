//! The I region: IKE writes it, new for each session.
//!
//! ```text
//! header │ command slots (256 bytes each)
//! ```
//! In the header: commands produced, events consumed.

use super::{HEADER_WORDS, Kind, check_size, narrow, read_header, word, write_header};
use crate::record::RECORD_WORDS;
use crate::ring::Layout;
use crate::shm::{Pages, Region, ShmError, View};

/// Commands that can be under way by default.
pub const COMMAND_CAPACITY: u32 = 4096;

/// Sizes of an I region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandSizes {
    /// Commands that can be under way; a power of two.
    pub command_capacity: u32,
    pub pages: Pages,
}

impl Default for CommandSizes {
    fn default() -> Self {
        Self {
            command_capacity: COMMAND_CAPACITY,
            pages: Pages::Ordinary,
        }
    }
}

/// Where the parts of an I region lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandRegion {
    pub(crate) commands: Layout,
}

impl CommandRegion {
    fn new(capacity: u32) -> Self {
        let commands = Layout {
            slots_at: HEADER_WORDS,
            capacity,
            stride: RECORD_WORDS,
            produced_at: word::PRODUCED,
            consumed_at: word::CONSUMED,
        };
        Self { commands }
    }

    fn words(&self) -> usize {
        HEADER_WORDS + self.commands.slot_words()
    }

    pub(crate) fn create(sizes: &CommandSizes) -> Result<(Self, Region), ShmError> {
        let layout = Self::new(sizes.command_capacity);
        let region = Region::create("culvert-ike", layout.words(), sizes.pages)?;
        layout.check(region.words().len())?;
        let capacity = u64::from(sizes.command_capacity);
        write_header(&region, Kind::Command, layout.words(), &[capacity]);
        Ok((layout, region))
    }

    pub(crate) fn read(view: &View) -> Result<Self, ShmError> {
        let [capacity] = read_header(view.words(), Kind::Command)?;
        let layout = Self::new(narrow("command capacity", capacity)?);
        layout.check(view.words().len())?;
        check_size(view.words(), layout.words())?;
        Ok(layout)
    }

    fn check(&self, words: usize) -> Result<(), ShmError> {
        if self.commands.fits(words, HEADER_WORDS) {
            return Ok(());
        }
        let found = u64::from(self.commands.capacity);
        Err(ShmError::Header {
            field: "command capacity",
            found,
            expected: 0,
        })
    }
}

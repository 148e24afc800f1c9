//! What lies where in the three regions.
//!
//! Every region starts with one page of header. Sizes stand in it as numbers; a reader computes the
//! offsets from them with the writer's own function and refuses a region whose size is another, so
//! no offset of another process is ever followed.

mod command;
mod state;

use std::time::SystemTime;

pub(crate) use command::CommandRegion;
pub use command::{COMMAND_CAPACITY, CommandSizes};
pub use state::{EVENT_CAPACITY, StateSizes};
pub(crate) use state::{StateLayout, counters, publish, session_start};

use crate::record::RECORD_BYTES;
use crate::shm::{ReadWord, Region, ShmError};
use crate::sync::{AtomicU64, Ordering};

/// Version of everything that is shared: records, headers, rows, counters, handshake.
pub const VERSION: u64 = 2;
/// Feature bits that this build knows and sets; a region with another bit is refused.
pub const FEATURES: u64 = 0;

/// Words of a header: one page.
pub(crate) const HEADER_WORDS: usize = 512;

/// Words of the header that all regions have.
pub(crate) mod word {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 1;
    pub(crate) const RECORD_BYTES: usize = 2;
    pub(crate) const FEATURES: usize = 3;
    pub(crate) const GENERATION: usize = 4;
    pub(crate) const PID: usize = 5;
    pub(crate) const WORDS: usize = 6;
    /// The first of a region's own sizes.
    pub(crate) const SIZES: usize = 8;
    // Indices that are written often have two cache lines each.
    pub(crate) const PRODUCED: usize = 32;
    /// The word behind it says whether the consumer sleeps.
    pub(crate) const CONSUMED: usize = 48;
    pub(crate) const OVERFLOWS: usize = 64;
    pub(crate) const SESSION: usize = 80;
}

/// Which region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    State,
    Command,
    Park,
}

impl Kind {
    const fn magic(self) -> u64 {
        u64::from_be_bytes(match self {
            Self::State => *b"culvertD",
            Self::Command => *b"culvertI",
            Self::Park => *b"culvertP",
        })
    }
}

/// Writes a header; the magic comes last, so that a header is whole or not there. Returns the
/// region's generation, a number that no other region of this machine has.
pub(crate) fn write_header(region: &Region, kind: Kind, words: usize, sizes: &[u64]) -> u64 {
    let header = region.words();
    let set = |at: usize, value: u64| {
        if let Some(word) = header.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    };
    let generation = generation();
    set(word::VERSION, VERSION);
    set(word::RECORD_BYTES, RECORD_BYTES as u64);
    set(word::FEATURES, FEATURES);
    set(word::GENERATION, generation);
    set(word::PID, u64::from(std::process::id()));
    set(word::WORDS, words as u64);
    for (at, size) in sizes.iter().enumerate() {
        set(word::SIZES + at, *size);
    }
    if let Some(magic) = header.first() {
        magic.store(kind.magic(), Ordering::Release);
    }
    generation
}

/// Checks what all headers have and gives the region's `N` own sizes.
pub(crate) fn read_header<const N: usize>(
    words: &[ReadWord],
    kind: Kind,
) -> Result<[u64; N], ShmError> {
    if words.len() < HEADER_WORDS {
        return Err(ShmError::Size(words.len() as u64 * 8));
    }
    let get = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Acquire));
    expect("magic", get(word::MAGIC), kind.magic())?;
    expect("version", get(word::VERSION), VERSION)?;
    expect("record bytes", get(word::RECORD_BYTES), RECORD_BYTES as u64)?;
    expect("feature bits", get(word::FEATURES), FEATURES)?;
    Ok(core::array::from_fn(|at| get(word::SIZES + at)))
}

/// The size that the sizes of a header lead to must be the size that it states and that is mapped.
pub(crate) fn check_size(words: &[ReadWord], computed: usize) -> Result<(), ShmError> {
    let stated = words
        .get(word::WORDS)
        .map_or(0, |word| word.load(Ordering::Relaxed));
    expect("size in words", stated, computed as u64)?;
    if words.len() < computed {
        return Err(ShmError::Size(words.len() as u64 * 8));
    }
    Ok(())
}

pub(crate) fn expect(field: &'static str, found: u64, expected: u64) -> Result<(), ShmError> {
    if found == expected {
        return Ok(());
    }
    Err(ShmError::Header {
        field,
        found,
        expected,
    })
}

/// A size of a header as a smaller integer.
pub(crate) fn narrow<T: TryFrom<u64>>(field: &'static str, found: u64) -> Result<T, ShmError> {
    T::try_from(found).map_err(|_| ShmError::Header {
        field,
        found,
        expected: 0,
    })
}

/// Nanoseconds since 1970: unique among the regions of one machine, and later is larger.
fn generation() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The words from `at` on; empty when they do not exist.
#[inline]
pub(crate) fn part(words: &[AtomicU64], at: usize, len: usize) -> &[AtomicU64] {
    at.checked_add(len)
        .and_then(|end| words.get(at..end))
        .unwrap_or_default()
}

/// The words from `at` on; empty when they do not exist.
pub(crate) fn read_part(words: &[ReadWord], at: usize, len: usize) -> &[ReadWord] {
    at.checked_add(len)
        .and_then(|end| words.get(at..end))
        .unwrap_or_default()
}

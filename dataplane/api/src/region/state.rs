//! The D region: the dataplane writes it as long as it lives.
//!
//! ```text
//! header │ event slots │ counter blocks │ SA rows (128 bytes each) │ replay windows
//! ```
//! In the header: events produced, commands consumed, overflows, session.

use super::{
    HEADER_WORDS, Kind, check_size, expect, narrow, part, read_header, read_part, word,
    write_header,
};
use crate::counters::{BLOCK_WORDS, Block, Counts, Totals};
use crate::id::{Geometry, MAX_WORKERS};
use crate::record::{MAX_WINDOW_BITS, RECORD_WORDS};
use crate::ring::Layout;
use crate::shm::{Pages, Region, ShmError, View};
use crate::state::{ROW_WORDS, WINDOW_UNIT_WORDS};
use crate::sync::Ordering;

/// Events that can be under way by default.
pub const EVENT_CAPACITY: u32 = 4096;
/// Most units of replay windows: each of 2^20 SAs has the largest window.
const MAX_WINDOW_UNITS: u64 = (1 << 20) * (MAX_WINDOW_BITS as u64 / 64) / 8;

/// Sizes of a D region.
///
/// An SA takes 128 bytes, an inbound one also its window, rounded up to a power of two of at least
/// 64 bytes: 512 bytes for the default of 4,096 packets. 2^20 SAs, half of them inbound with that
/// window, take 384 MiB; what is never used takes nothing, as pages come with their first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSizes {
    pub geometry: Geometry,
    /// Who publishes counters: the workers, and the control thread behind them.
    pub owners: u32,
    /// Events that can be under way; a power of two.
    pub event_capacity: u32,
    /// Memory for replay windows in units of 64 bytes.
    pub window_units: u32,
    pub pages: Pages,
}

impl StateSizes {
    /// Sizes for `workers` workers and one control thread, and a window of `window_bits` for every
    /// row.
    #[must_use]
    pub fn new(geometry: Geometry, workers: u32, window_bits: u32) -> Self {
        let units = u64::from(window_bits.div_ceil(512).max(1).next_power_of_two());
        let all = (units * u64::from(geometry.rows())).min(MAX_WINDOW_UNITS);
        Self {
            geometry,
            owners: workers.saturating_add(1),
            event_capacity: EVENT_CAPACITY,
            window_units: u32::try_from(all).unwrap_or(u32::MAX),
            pages: Pages::Ordinary,
        }
    }
}

/// Where the parts of a D region lie, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateLayout {
    pub(crate) geometry: Geometry,
    pub(crate) events: Layout,
    pub(crate) owners: u32,
    pub(crate) window_units: u32,
    pub(crate) counters_at: usize,
    pub(crate) rows_at: usize,
    pub(crate) windows_at: usize,
    pub(crate) words: usize,
}

impl StateLayout {
    fn new(
        geometry: Geometry,
        owners: u32,
        event_capacity: u32,
        window_units: u32,
    ) -> Result<Self, ShmError> {
        if owners == 0 || owners > MAX_WORKERS + 1 {
            return Err(refused("counter owners", owners));
        }
        if u64::from(window_units) > MAX_WINDOW_UNITS {
            return Err(refused("window units", window_units));
        }
        let events = Layout {
            slots_at: HEADER_WORDS,
            capacity: event_capacity,
            stride: RECORD_WORDS,
            produced_at: word::PRODUCED,
            consumed_at: word::CONSUMED,
        };
        let counters_at = HEADER_WORDS + events.slot_words();
        let rows_at = counters_at + owners as usize * BLOCK_WORDS;
        let windows_at = rows_at + geometry.rows() as usize * ROW_WORDS;
        let words = windows_at + window_units as usize * WINDOW_UNIT_WORDS;
        if !events.fits(words, HEADER_WORDS) {
            return Err(refused("event capacity", event_capacity));
        }
        Ok(Self {
            geometry,
            events,
            owners,
            window_units,
            counters_at,
            rows_at,
            windows_at,
            words,
        })
    }

    /// Makes the region and gives it a header.
    pub(crate) fn create(sizes: &StateSizes) -> Result<(Self, Region), ShmError> {
        let StateSizes {
            geometry,
            owners,
            event_capacity,
            window_units,
            pages,
        } = *sizes;
        let layout = Self::new(geometry, owners, event_capacity, window_units)?;
        let region = Region::create("culvert-dataplane", layout.words, pages)?;
        layout.write(&region);
        Ok((layout, region))
    }

    fn write(&self, region: &Region) {
        let sizes = [
            self.geometry.shards(),
            self.geometry.rows_per_shard(),
            self.geometry.static_rows(),
            self.owners,
            self.events.capacity,
            self.window_units,
        ]
        .map(u64::from);
        let fixed = [BLOCK_WORDS as u64, ROW_WORDS as u64];
        let sizes: Vec<u64> = sizes.into_iter().chain(fixed).collect();
        write_header(region, Kind::State, self.words, &sizes);
    }

    /// Reads and checks the header of another process' region.
    pub(crate) fn read(view: &View) -> Result<Self, ShmError> {
        let sizes: [u64; 8] = read_header(view.words(), Kind::State)?;
        let [
            shards,
            per_shard,
            static_rows,
            owners,
            events,
            units,
            block,
            row,
        ] = sizes;
        expect("counter block words", block, BLOCK_WORDS as u64)?;
        expect("row words", row, ROW_WORDS as u64)?;
        let geometry = Geometry::from_parts(
            narrow("shards", shards)?,
            narrow("rows per shard", per_shard)?,
            narrow("static rows", static_rows)?,
        )
        .map_err(|_| ShmError::Header {
            field: "shards",
            found: shards,
            expected: 0,
        })?;
        let layout = Self::new(
            geometry,
            narrow("counter owners", owners)?,
            narrow("event capacity", events)?,
            narrow("window units", units)?,
        )?;
        check_size(view.words(), layout.words)?;
        Ok(layout)
    }
}

fn refused(field: &'static str, found: u32) -> ShmError {
    ShmError::Header {
        field,
        found: u64::from(found),
        expected: 0,
    }
}

/// Publishes the numbers of one owner; `false` when there is no such owner.
pub(crate) fn publish(region: &Region, layout: &StateLayout, owner: u32, counts: &Counts) -> bool {
    if owner >= layout.owners {
        return false;
    }
    let at = layout.counters_at + owner as usize * BLOCK_WORDS;
    counts.publish(&Block::new(part(region.words(), at, BLOCK_WORDS)));
    true
}

/// The counters of all owners or of one.
pub(crate) fn counters(view: &View, layout: &StateLayout, owner: Option<u32>) -> Totals {
    let (first, blocks) = match owner {
        None => (0, layout.owners as usize),
        Some(owner) => (owner as usize, usize::from(owner < layout.owners)),
    };
    let at = layout.counters_at + first * BLOCK_WORDS;
    Totals::read(read_part(view.words(), at, blocks * BLOCK_WORDS))
}

/// Empties both rings for a new session and gives its number, from 1.
pub(crate) fn session_start(region: &Region) -> u64 {
    let header = region.words();
    let word = |at: usize| header.get(at);
    let cleared = [
        word::PRODUCED,
        word::CONSUMED,
        word::CONSUMED + 1,
        word::OVERFLOWS,
    ];
    for at in cleared.into_iter().filter_map(word) {
        at.store(0, Ordering::Relaxed);
    }
    let Some(session) = word(word::SESSION) else {
        return 0;
    };
    let number = session.load(Ordering::Relaxed).wrapping_add(1);
    session.store(number, Ordering::Release);
    number
}

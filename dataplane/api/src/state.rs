//! What a packet changes of an SA: sequence number, replay window, counters. It outlives the
//! dataplane, because IKE holds the region's descriptor and hands it to the next one.
//!
//! ```text
//! line 0: generation  sequence  newest bits  packets  bytes  last used  auth drops  flags
//! line 1: SPI | id  fingerprint  window  mapping address (2)  mapping port | changes  replay drops  -
//! ```
//! A usual packet of either direction touches line 0 alone: of the replay window it has the word with
//! the highest number.
//!
//! A row has one writer: its worker, or the control thread before a worker knows of it and after
//! the last has forgotten it. The generation is odd while several words change together, so a
//! reader sees all of a change or knows that it does not; what a killed dataplane left odd stays
//! odd, and such an SA is never used again.
//!
//! Memory: 128 bytes an SA; an inbound one also has a window of a power of two, 64 bytes (up to 512
//! packets) to 8 KiB (65,536 packets).

mod elders;

use core::net::{IpAddr, Ipv6Addr};

use crate::counters::{Counts, Totals};
use crate::id::{Geometry, SaId};
use crate::record::Direction;
use crate::region::{self, StateLayout, part, read_part};
use crate::shm::{ReadWord, Region, ShmError, View};
use crate::sync::{AtomicU64, Ordering, fence, keep_program_order};
use crate::window::WindowSlot;

pub use elders::{Adopted, Elders, KeyName};

/// Words of a row: two cache lines.
pub const ROW_WORDS: usize = 16;
/// Words of a unit of window memory: one cache line, so that no two SAs share one.
pub const WINDOW_UNIT_WORDS: usize = 8;

/// How often a snapshot is tried while the writer is busy with the row.
const SNAPSHOT_TRIES: usize = 1_000;

mod word {
    pub(super) const GENERATION: usize = 0;
    pub(super) const SEQUENCE: usize = 1;
    pub(super) const NEWEST_BITS: usize = 2;
    pub(super) const PACKETS: usize = 3;
    pub(super) const BYTES: usize = 4;
    pub(super) const LAST_USED_MS: usize = 5;
    pub(super) const AUTH_DROPS: usize = 6;
    pub(super) const FLAGS: usize = 7;
    /// SPI in the low half, id in the high half.
    pub(super) const IDENTITY: usize = 8;
    pub(super) const FINGERPRINT: usize = 9;
    pub(super) const WINDOW: usize = 10;
    pub(super) const MAPPING_HIGH: usize = 11;
    pub(super) const MAPPING_LOW: usize = 12;
    /// Port in the low half, number of changes in the high half.
    pub(super) const MAPPING_PORT: usize = 13;
    pub(super) const REPLAY_DROPS: usize = 14;

    pub(super) const COUNTERS: [usize; 5] =
        [PACKETS, BYTES, LAST_USED_MS, REPLAY_DROPS, AUTH_DROPS];
    pub(super) const MAPPING: [usize; 3] = [MAPPING_HIGH, MAPPING_LOW, MAPPING_PORT];
}

/// What a row says besides its numbers. Soft, hard, deleted and mapping stay set until the row is
/// installed anew, so a reader that missed the event finds it here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// An SA lives here.
    pub const USED: Self = Self(1);
    pub const INBOUND: Self = Self(1 << 1);
    pub const ESN: Self = Self(1 << 2);
    /// The soft limit was reached.
    pub const SOFT: Self = Self(1 << 3);
    /// The hard limit was reached.
    pub const HARD: Self = Self(1 << 4);
    /// The SA that was here is gone and no worker touches the row.
    pub const DELETED: Self = Self(1 << 5);
    /// The peer's address or port changed.
    pub const MAPPING: Self = Self(1 << 6);
    /// The flags that tell what an event tells.
    pub const EVENTS: Self = Self(0b111_1000);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// How a row starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRow {
    pub id: SaId,
    pub spi: u32,
    pub direction: Direction,
    pub esn: bool,
    /// Tells keys apart without telling them: 64 bits of a cryptographic hash.
    pub fingerprint: u64,
    /// Outbound: the last number used. Inbound: the highest authenticated.
    pub sequence: u64,
    /// Inbound: the replay window's word with the bit of that number.
    pub newest_bits: u64,
    pub window: Option<WindowSlot>,
}

/// One row, for its writer.
#[derive(Clone, Copy, Debug)]
pub struct SaRow<'a> {
    words: &'a [AtomicU64; ROW_WORDS],
}

impl<'a> SaRow<'a> {
    #[inline]
    fn get(self, at: usize) -> u64 {
        self.words[at].load(Ordering::Relaxed)
    }

    #[inline]
    fn set(self, at: usize, value: u64) {
        self.words[at].store(value, Ordering::Relaxed);
    }

    #[inline]
    fn add(self, at: usize, n: u64) {
        self.set(at, self.get(at).wrapping_add(n));
    }

    /// Outbound: the last number used. Inbound: the highest authenticated.
    #[inline]
    #[must_use]
    pub fn sequence(self) -> u64 {
        self.get(word::SEQUENCE)
    }

    /// The highest authenticated number and the word with its bit, for a replay window. To be stored to
    /// within an [`Update`] only.
    #[inline]
    #[must_use]
    pub fn newest(self) -> &'a [AtomicU64; 2] {
        const { assert!(word::NEWEST_BITS == word::SEQUENCE + 1) };
        let [_, newest @ .., _, _, _, _, _, _, _, _, _, _, _, _, _] = self.words;
        newest
    }

    /// Takes `n` sequence numbers of an outbound SA and gives the last one before them; `None`,
    /// and nothing taken, when fewer are left below `last`. They are used up from now on, whatever
    /// happens, so no nonce can repeat. One word changes: the row stays certain throughout.
    #[inline]
    #[must_use]
    pub fn take_sequence(self, n: u64, last: u64) -> Option<u64> {
        let used = self.sequence();
        let next = used.checked_add(n).filter(|next| *next <= last)?;
        self.words[word::SEQUENCE].store(next, Ordering::Release);
        keep_program_order();
        Some(used)
    }

    /// Packets so far.
    #[inline]
    #[must_use]
    pub fn packets(self) -> u64 {
        self.get(word::PACKETS)
    }

    /// Bytes so far.
    #[inline]
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.get(word::BYTES)
    }

    /// What the row says besides its numbers.
    #[inline]
    #[must_use]
    pub fn flags(self) -> Flags {
        Flags(self.get(word::FLAGS))
    }

    /// Sets flags; `true` when one of them is new, so that an event is due. Any thread of the
    /// dataplane may.
    pub fn raise(self, flags: Flags) -> bool {
        let before = self.words[word::FLAGS].fetch_or(flags.0, Ordering::Relaxed);
        before & flags.0 != flags.0
    }

    /// Clears flags: soft and hard, when the limits were raised. Any thread of the dataplane may.
    pub fn lower(self, flags: Flags) {
        self.words[word::FLAGS].fetch_and(!flags.0, Ordering::Relaxed);
    }

    /// Counts packets that the window refused.
    #[inline]
    pub fn add_replay_drops(self, n: u64) {
        self.add(word::REPLAY_DROPS, n);
    }

    /// Counts packets with a wrong integrity check value.
    #[inline]
    pub fn add_auth_drops(self, n: u64) {
        self.add(word::AUTH_DROPS, n);
    }

    /// Starts a change of several words: sequence and window of an inbound SA, counters. Between
    /// this and [`Update::finish`] a snapshot waits and a kill makes the row uncertain, so keep it
    /// short. An update that is dropped without being finished leaves the row uncertain.
    #[inline]
    pub fn update(self) -> Update<'a> {
        let generation = self.get(word::GENERATION);
        self.set(word::GENERATION, generation | 1);
        // Release: the odd generation is seen before any word that changes after it. Pairs with
        // the acquire fence in `snapshot`.
        fence(Ordering::Release);
        keep_program_order();
        // What was odd already was broken off once and stays uncertain.
        let next = if generation & 1 == 0 {
            generation.wrapping_add(2)
        } else {
            generation
        };
        Update { row: self, next }
    }

    /// Starts a new SA in a row that no worker uses. All counters start at zero.
    pub fn install(self, new: &NewRow) {
        self.fill(new, [0; 5]);
    }

    /// Continues an SA: sequence, counters and flags are those of the snapshot. The window was
    /// copied before.
    pub fn install_adopted(self, new: &NewRow, from: &Snapshot) {
        let counters = [
            from.packets,
            from.bytes,
            from.last_used_ms,
            from.replay_drops,
            from.auth_drops,
        ];
        self.fill(
            &NewRow {
                sequence: from.sequence,
                newest_bits: from.newest_bits,
                ..*new
            },
            counters,
        );
        let limits = Flags::SOFT.with(Flags::HARD);
        self.raise(Flags(from.flags.0 & limits.0));
    }

    fn fill(self, new: &NewRow, counters: [u64; 5]) {
        // The SA that was here is gone: what was uncertain about it goes with it.
        let fresh = self.get(word::GENERATION) & !1;
        self.set(word::GENERATION, fresh);
        let update = self.update();
        let inbound = if new.direction == Direction::Inbound {
            Flags::INBOUND
        } else {
            Flags(0)
        };
        let esn = if new.esn { Flags::ESN } else { Flags(0) };
        self.set(word::SEQUENCE, new.sequence);
        self.set(word::NEWEST_BITS, new.newest_bits);
        for (at, value) in word::COUNTERS.into_iter().zip(counters) {
            self.set(at, value);
        }
        self.set(
            word::IDENTITY,
            u64::from(new.id.0) << 32 | u64::from(new.spi),
        );
        self.set(word::FINGERPRINT, new.fingerprint);
        self.set(word::WINDOW, new.window.map_or(0, WindowSlot::pack));
        for at in word::MAPPING {
            self.set(at, 0);
        }
        self.set(word::FLAGS, Flags::USED.with(inbound).with(esn).0);
        update.finish();
    }

    /// Ends the SA: no worker touches the row any more. SPI, id and fingerprint stay, so that a
    /// later region that deleted the key hides an older one that still has it.
    pub fn retire(self) {
        let update = self.update();
        self.set(word::WINDOW, 0);
        self.lower(Flags::USED);
        self.raise(Flags::DELETED);
        update.finish();
    }

    /// Whether an SA lives here, or one is gone of which IKE may not know yet.
    #[must_use]
    pub fn is_used(self) -> bool {
        self.flags().has(Flags::USED)
    }

    /// SPI and id of the SA that lives or last lived here.
    #[must_use]
    pub fn identity(self) -> (u32, SaId) {
        split_identity(self.get(word::IDENTITY))
    }

    /// The peer's new outer address and port, if it ever changed. For the row's writer.
    #[must_use]
    pub fn mapping(self) -> Option<(IpAddr, u16)> {
        let words: [u64; ROW_WORDS] = core::array::from_fn(|at| self.get(at));
        decode(&words, 0).mapping
    }

    /// Fingerprint of the key.
    #[must_use]
    pub fn fingerprint(self) -> u64 {
        self.get(word::FINGERPRINT)
    }

    /// Whether the last change was finished. A dataplane asks it of its own rows too, before it
    /// says that an SA exists.
    #[must_use]
    pub fn is_certain(self) -> bool {
        self.get(word::GENERATION) & 1 == 0
    }

    /// All of the row at one moment.
    ///
    /// # Errors
    /// [`Uncertain::Odd`] when a change was broken off.
    pub fn snapshot(self) -> Result<Snapshot, Uncertain> {
        snapshot(ReadWord::of(self.words))
    }
}

/// A change of several words of a row. See [`SaRow::update`].
#[derive(Debug)]
#[must_use = "a row whose update is not finished is uncertain"]
pub struct Update<'a> {
    row: SaRow<'a>,
    next: u64,
}

impl Update<'_> {
    /// Stores the highest authenticated number of an inbound SA.
    #[inline]
    pub fn sequence(&self, highest: u64) {
        self.row.set(word::SEQUENCE, highest);
    }

    /// Counts packets and bytes, and when: milliseconds of a clock of the dataplane's choice.
    #[inline]
    pub fn traffic(&self, packets: u64, bytes: u64, now_ms: u64) {
        self.row.add(word::PACKETS, packets);
        self.row.add(word::BYTES, bytes);
        self.row.set(word::LAST_USED_MS, now_ms);
    }

    /// Notes the peer's new outer address and port and raises [`Flags::MAPPING`].
    pub fn mapping(&self, remote: IpAddr, port: u16) {
        let bits = match remote {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let changes = (self.row.get(word::MAPPING_PORT) >> 32).wrapping_add(1);
        self.row.set(word::MAPPING_HIGH, high64(bits));
        self.row.set(word::MAPPING_LOW, low64(bits));
        self.row
            .set(word::MAPPING_PORT, changes << 32 | u64::from(port));
        self.row.raise(Flags::MAPPING);
    }

    /// Ends the change: the row is certain again, unless it was not before.
    #[inline]
    pub fn finish(self) {
        keep_program_order();
        // Release: pairs with the acquire load in `snapshot`.
        self.row.words[word::GENERATION].store(self.next, Ordering::Release);
        keep_program_order();
    }
}

/// All of a row at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SaId,
    pub spi: u32,
    pub flags: Flags,
    pub fingerprint: u64,
    pub sequence: u64,
    /// Inbound: the replay window's word with the bit of that number.
    pub newest_bits: u64,
    pub packets: u64,
    pub bytes: u64,
    /// Milliseconds of the dataplane's clock; 0 is never.
    pub last_used_ms: u64,
    pub replay_drops: u64,
    pub auth_drops: u64,
    pub window: Option<WindowSlot>,
    /// The peer's new outer address and port, if it ever changed.
    pub mapping: Option<(IpAddr, u16)>,
    /// How often it changed.
    pub mapping_changes: u32,
    generation: u64,
}

impl Snapshot {
    /// The direction of the SA.
    #[must_use]
    pub fn direction(&self) -> Direction {
        if self.flags.has(Flags::INBOUND) {
            Direction::Inbound
        } else {
            Direction::Outbound
        }
    }
}

/// Why a key must not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncertain {
    /// The row's generation is odd: a change was broken off, or is under way without end.
    Odd,
    /// No row has this id, SPI and fingerprint.
    Unknown,
    /// The row is that of a deleted SA.
    Deleted,
    /// The row is of another direction or its window lies outside the region.
    Mismatch,
    /// The process that made the region still lives and may use the key.
    WriterLives,
}

/// Reads a row with a generation check.
fn snapshot(words: &[ReadWord]) -> Result<Snapshot, Uncertain> {
    let Ok(words) = <&[ReadWord; ROW_WORDS]>::try_from(words) else {
        return Err(Uncertain::Unknown);
    };
    for _ in 0..SNAPSHOT_TRIES {
        // Acquire: pairs with the release in `Update::finish`.
        let before = words[word::GENERATION].load(Ordering::Acquire);
        if before & 1 == 0 {
            let copy: [u64; ROW_WORDS] =
                core::array::from_fn(|at| words[at].load(Ordering::Relaxed));
            // Acquire: pairs with the release fence in `SaRow::update`.
            fence(Ordering::Acquire);
            if words[word::GENERATION].load(Ordering::Relaxed) == before {
                return Ok(decode(&copy, before));
            }
        }
        core::hint::spin_loop();
    }
    Err(Uncertain::Odd)
}

fn decode(words: &[u64; ROW_WORDS], generation: u64) -> Snapshot {
    let (spi, id) = split_identity(words[word::IDENTITY]);
    let bits = u128::from(words[word::MAPPING_HIGH]) << 64 | u128::from(words[word::MAPPING_LOW]);
    let mapping_changes = high32(words[word::MAPPING_PORT]);
    let address = Ipv6Addr::from_bits(bits).to_canonical();
    let port = low16(words[word::MAPPING_PORT]);
    Snapshot {
        id,
        spi,
        flags: Flags(words[word::FLAGS]),
        fingerprint: words[word::FINGERPRINT],
        sequence: words[word::SEQUENCE],
        newest_bits: words[word::NEWEST_BITS],
        packets: words[word::PACKETS],
        bytes: words[word::BYTES],
        last_used_ms: words[word::LAST_USED_MS],
        replay_drops: words[word::REPLAY_DROPS],
        auth_drops: words[word::AUTH_DROPS],
        window: WindowSlot::unpack(words[word::WINDOW]),
        mapping: (mapping_changes != 0).then_some((address, port)),
        mapping_changes,
        generation,
    }
}

fn split_identity(word: u64) -> (u32, SaId) {
    (low32(word), SaId(high32(word)))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
pub(crate) const fn low32(word: u64) -> u32 {
    word as u32
}

pub(crate) const fn high32(word: u64) -> u32 {
    low32(word >> 32)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low quarter is what is asked for"
)]
const fn low16(word: u64) -> u16 {
    word as u16
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low64(bits: u128) -> u64 {
    bits as u64
}

const fn high64(bits: u128) -> u64 {
    low64(bits >> 64)
}

/// The D region for its writer. Clones share it; each worker has one.
#[derive(Clone)]
pub struct States {
    pub(crate) region: Region,
    pub(crate) layout: StateLayout,
}

impl States {
    /// How ids become rows.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.layout.geometry
    }

    /// A row by its number; `None` behind the last.
    #[inline]
    #[must_use]
    pub fn row(&self, row: u32) -> Option<SaRow<'_>> {
        if row >= self.layout.geometry.rows() {
            return None;
        }
        let at = self.layout.rows_at + row as usize * ROW_WORDS;
        let words = self.region.words().get(at..at + ROW_WORDS)?;
        Some(SaRow {
            words: words.try_into().ok()?,
        })
    }

    /// The row of an SA; `None` when the table has no such row.
    #[must_use]
    pub fn row_of(&self, id: SaId) -> Option<SaRow<'_>> {
        self.row(self.layout.geometry.row(id)?)
    }

    /// The words of a window; none when the slot lies outside the region.
    #[inline]
    #[must_use]
    pub fn window(&self, slot: WindowSlot) -> &[AtomicU64] {
        if !slot.is_within(self.layout.window_units) {
            return &[];
        }
        let at = self.layout.windows_at + slot.unit() as usize * WINDOW_UNIT_WORDS;
        part(self.region.words(), at, slot.words())
    }

    /// Reads a part of the region, so that the kernel gives memory for its pages; false behind the
    /// end.
    pub fn touch(&self, words: core::ops::Range<usize>) -> bool {
        let all = self.region.words();
        let end = words.end.min(all.len());
        let Some(part) = all.get(words.start..end).filter(|part| !part.is_empty()) else {
            return false;
        };
        for page in part.chunks(region::HEADER_WORDS) {
            core::hint::black_box(page.first().map(|word| word.load(Ordering::Relaxed)));
        }
        true
    }

    /// Publishes the counters of one owner: a worker by its number, or the control thread, which
    /// has the number of workers. `false` when there is no such owner.
    #[inline]
    pub fn publish(&self, owner: u32, counts: &Counts) -> bool {
        region::publish(&self.region, &self.layout, owner, counts)
    }

    /// The same region for readers.
    #[must_use]
    pub fn view(&self) -> StateView {
        StateView {
            view: self.region.view(),
            layout: self.layout,
        }
    }
}

/// The D region of this or another process, for readers.
#[derive(Clone)]
pub struct StateView {
    pub(crate) view: View,
    pub(crate) layout: StateLayout,
}

impl StateView {
    /// Maps a received D region and checks its header.
    ///
    /// # Errors
    /// [`ShmError`] names what is not as it should be.
    pub fn map(fd: std::os::fd::OwnedFd) -> Result<Self, ShmError> {
        let view = View::map(fd)?;
        let layout = StateLayout::read(&view)?;
        Ok(Self { view, layout })
    }

    /// A new read-only descriptor, to be handed to the next dataplane.
    ///
    /// # Errors
    /// [`ShmError::System`].
    pub fn read_only_fd(&self) -> Result<std::os::fd::OwnedFd, ShmError> {
        self.view.read_only_fd()
    }

    /// The number that no other region of this machine has; later regions have larger ones.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.header(region::word::GENERATION)
    }

    /// The process that made the region.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.header(region::word::PID)
    }

    pub(crate) fn header(&self, at: usize) -> u64 {
        self.view
            .words()
            .get(at)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// How ids become rows.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.layout.geometry
    }

    /// The counters of all owners, added up.
    #[must_use]
    pub fn totals(&self) -> Totals {
        region::counters(&self.view, &self.layout, None)
    }

    /// The counters of one owner; zeros when there is none.
    #[must_use]
    pub fn totals_of(&self, owner: u32) -> Totals {
        region::counters(&self.view, &self.layout, Some(owner))
    }

    /// Owners of counters: the workers and the control thread.
    #[must_use]
    pub fn owners(&self) -> u32 {
        self.layout.owners
    }

    fn row(&self, row: u32) -> &[ReadWord] {
        if row >= self.layout.geometry.rows() {
            return &[];
        }
        read_part(
            self.view.words(),
            self.layout.rows_at + row as usize * ROW_WORDS,
            ROW_WORDS,
        )
    }

    /// The row of an SA at one moment, whoever lives in it: compare the id.
    ///
    /// # Errors
    /// [`Uncertain::Odd`] or, when the table has no such row, [`Uncertain::Unknown`].
    pub fn snapshot(&self, id: SaId) -> Result<Snapshot, Uncertain> {
        let row = self.layout.geometry.row(id).ok_or(Uncertain::Unknown)?;
        snapshot(self.row(row))
    }

    /// The rows with a flag that tells what an event tells: what to look at after an overflow, and
    /// at the start of a session. Rows that are uncertain are left out.
    pub fn flagged(&self) -> impl Iterator<Item = Snapshot> + '_ {
        let flagged = |row: &[ReadWord]| {
            let flags = row
                .get(word::FLAGS)
                .map_or(0, |flags| flags.load(Ordering::Relaxed));
            Flags(flags).has_any(Flags::EVENTS)
        };
        self.rows()
            .filter(move |row| flagged(row))
            .filter_map(|row| snapshot(row).ok())
    }

    /// The rows in which an SA lives; those that are uncertain are left out.
    pub fn used(&self) -> impl Iterator<Item = Snapshot> + '_ {
        self.rows()
            .filter_map(|row| snapshot(row).ok())
            .filter(|row| row.flags.has(Flags::USED))
    }

    fn rows(&self) -> impl Iterator<Item = &[ReadWord]> {
        (0..self.layout.geometry.rows()).map(|row| self.row(row))
    }
}

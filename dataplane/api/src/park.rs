//! The P region: IKE parks the checkpoint of each IKE SA here, sealed, so that its successor can go
//! on after a kill.
//!
//! ```text
//! header │ entries (64 bytes each) │ blob memory in units of 512 bytes
//!
//! entry: key  commit  place A  sum A  place B  sum B  -  -
//! ```
//! A blob is written in two phases: into free memory, with its place and checksum in the half of
//! the entry that is not current; then one store of `commit` makes that half current. A kill
//! between two instructions leaves the old blob or the new one, never a mixture. A checksum finds
//! what should not happen; that nobody altered a blob is for its seal (an AEAD of IKE's) to prove.

use core::fmt;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use crate::buddy::Buddy;
use crate::region::{
    HEADER_WORDS, Kind, check_size, expect, narrow, part, read_header, write_header,
};
use crate::shm::{Pages, ReadWord, Region, ShmError};
use crate::state::{high32, low32};
use crate::sync::{AtomicU64, Ordering, keep_program_order};

/// Longest blob in bytes.
pub const MAX_BLOB_BYTES: usize = 65_536;
/// Most entries.
pub const MAX_ENTRIES: u32 = 1 << 20;
/// Bytes of a unit of blob memory; a blob takes a power of two of them.
pub const UNIT_BYTES: usize = 512;

const UNIT_WORDS: usize = UNIT_BYTES / 8;
const MAX_UNITS: u32 = 1 << 27;
/// 65,536 bytes are 128 units.
const MAX_ORDER: u32 = 7;
const ENTRY_WORDS: usize = 8;

mod word {
    pub(super) const KEY: usize = 0;
    /// 0 when the entry is free; else twice a counter, and 1 more when half B is current.
    pub(super) const COMMIT: usize = 1;
    pub(super) const HALVES: usize = 2;
}

/// Sizes of a P region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkSizes {
    /// IKE SAs that can be parked.
    pub entries: u32,
    /// Blob memory in units of [`UNIT_BYTES`]. While a blob is replaced both are there.
    pub units: u32,
    pub pages: Pages,
}

impl ParkSizes {
    /// Room for `entries` blobs of 4 KiB each; what is never used takes no memory.
    #[must_use]
    pub fn new(entries: u32) -> Self {
        // One blob of the largest size can always be replaced.
        let units = entries
            .saturating_mul(8)
            .saturating_add(1 << (MAX_ORDER + 1));
        Self {
            entries,
            units,
            pages: Pages::Ordinary,
        }
    }
}

/// Why a blob is not parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkError {
    /// The blob is empty or longer than [`MAX_BLOB_BYTES`].
    Length(usize),
    /// All entries are taken.
    Entries,
    /// The blob memory is used up.
    Memory,
}

impl fmt::Display for ParkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => {
                write!(
                    f,
                    "park: a blob of {bytes} bytes is not 1 to {MAX_BLOB_BYTES} long"
                )
            }
            Self::Entries => f.write_str("park: all entries are taken"),
            Self::Memory => f.write_str("park: the blob memory is used up"),
        }
    }
}

impl core::error::Error for ParkError {}

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    unit: u32,
    bytes: u32,
}

impl Place {
    fn pack(self) -> u64 {
        u64::from(self.bytes) << 32 | u64::from(self.unit)
    }

    fn unpack(word: u64) -> Option<Self> {
        let (unit, bytes) = (low32(word), high32(word));
        let possible = bytes != 0 && bytes as usize <= MAX_BLOB_BYTES;
        possible.then_some(Self { unit, bytes })
    }

    fn order(self) -> u32 {
        (self.bytes as usize)
            .div_ceil(UNIT_BYTES)
            .next_power_of_two()
            .ilog2()
    }

    fn words(self) -> usize {
        (self.bytes as usize).div_ceil(8)
    }
}

/// The P region for its writer.
pub struct Park {
    region: Region,
    entries: u32,
    units: u32,
    /// Private, rebuilt when the region is taken over.
    places: HashMap<u64, u32>,
    free_entries: Vec<u32>,
    memory: Buddy,
}

impl Park {
    /// Makes an empty region.
    ///
    /// # Errors
    /// [`ShmError`] when a size is impossible or memory runs out.
    pub fn create(sizes: &ParkSizes) -> Result<Self, ShmError> {
        let ParkSizes {
            entries,
            units,
            pages,
        } = *sizes;
        let words = words(entries, units)?;
        let region = Region::create("culvert-park", words, pages)?;
        write_header(
            &region,
            Kind::Park,
            words,
            &[u64::from(entries), u64::from(units)],
        );
        Ok(Self::empty(region, entries, units))
    }

    /// Goes on with the region of a dead IKE process. Gives also the number of entries that were
    /// not whole; they are free now.
    ///
    /// # Errors
    /// [`ShmError::InUse`] while its writer lives; otherwise what is wrong with the region.
    pub fn take_over(fd: &OwnedFd) -> Result<(Self, usize), ShmError> {
        let region = Region::take_over(fd)?;
        let view = region.view();
        let [entries, units] = read_header(view.words(), Kind::Park)?;
        let (entries, units) = (
            narrow("park entries", entries)?,
            narrow("park units", units)?,
        );
        check_size(view.words(), words(entries, units)?)?;
        let mut park = Self::empty(region, entries, units);
        let lost = park.rebuild();
        Ok((park, lost))
    }

    fn empty(region: Region, entries: u32, units: u32) -> Self {
        let memory = Buddy::new(units, MAX_ORDER);
        let free_entries = (0..entries).rev().collect();
        Self {
            region,
            entries,
            units,
            places: HashMap::new(),
            free_entries,
            memory,
        }
    }

    /// Reads all entries; frees those that are not whole and counts them.
    fn rebuild(&mut self) -> usize {
        let mut lost = 0;
        let mut taken = HashSet::new();
        for at in 0..self.entries {
            if self.commit(at) == 0 {
                continue;
            }
            match self.whole(at) {
                Some((key, place))
                    if !self.places.contains_key(&key)
                        && self.memory.reserve(place.unit, place.order()) =>
                {
                    self.places.insert(key, at);
                    taken.insert(at);
                }
                _ => {
                    self.set_commit(at, 0);
                    lost += 1;
                }
            }
        }
        self.free_entries.retain(|at| !taken.contains(at));
        lost
    }

    /// Parks a blob under a key, in place of the one that is there. When this returns, the new one
    /// survives a kill; until then the old one does.
    ///
    /// # Errors
    /// [`ParkError`]; the old blob stays.
    pub fn put(&mut self, key: u64, blob: &[u8]) -> Result<(), ParkError> {
        let too_long = || ParkError::Length(blob.len());
        let bytes = u32::try_from(blob.len()).map_err(|_| too_long())?;
        if blob.is_empty() || blob.len() > MAX_BLOB_BYTES {
            return Err(too_long());
        }
        let known = self.places.get(&key).copied();
        let at = known
            .or_else(|| self.free_entries.last().copied())
            .ok_or(ParkError::Entries)?;
        let order = Place { unit: 0, bytes }.order();
        let unit = self.memory.allocate(order).ok_or(ParkError::Memory)?;
        let place = Place { unit, bytes };
        let old = known.and_then(|_| self.current(at));
        let sum = self.write(key, place, blob);
        self.switch(at, key, place, sum);
        match old {
            Some(old) => self.memory.release(old.unit, old.order()),
            None => {
                self.free_entries.pop();
                self.places.insert(key, at);
            }
        }
        Ok(())
    }

    /// The blob under a key, if it is there and whole.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<Vec<u8>> {
        let at = *self.places.get(&key)?;
        let (_, place) = self.whole(at)?;
        let blob = self.blob(place);
        let bytes = blob
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        Some(bytes.take(place.bytes as usize).collect())
    }

    /// Forgets a key and overwrites its blob; `false` when it is not there.
    pub fn remove(&mut self, key: u64) -> bool {
        let Some(at) = self.places.remove(&key) else {
            return false;
        };
        let place = self.current(at);
        self.set_commit(at, 0);
        if let Some(place) = place {
            for word in self.blob(place) {
                word.store(0, Ordering::Relaxed);
            }
            self.memory.release(place.unit, place.order());
        }
        self.free_entries.push(at);
        true
    }

    /// All keys with their blobs, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
        self.places
            .keys()
            .filter_map(|key| Some((*key, self.get(*key)?)))
    }

    /// How many blobs there is room for.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// How many blobs are parked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A read-only descriptor for the dataplane to hold.
    ///
    /// # Errors
    /// [`ShmError::System`] when descriptors run out.
    pub fn read_only_fd(&self) -> Result<OwnedFd, ShmError> {
        self.region.read_only_fd()
    }

    /// The eight words of an entry, which `words` made room for.
    fn words(&self, at: u32) -> &[AtomicU64] {
        part(
            self.region.words(),
            HEADER_WORDS + at as usize * ENTRY_WORDS,
            ENTRY_WORDS,
        )
    }

    fn entry(&self, at: u32, word: usize) -> u64 {
        self.words(at)
            .get(word)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, at: u32, word: usize, value: u64) {
        if let Some(word) = self.words(at).get(word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn commit(&self, at: u32) -> u64 {
        self.entry(at, word::COMMIT)
    }

    /// Where the current half of an entry says that its blob lies, within the region.
    fn current(&self, at: u32) -> Option<Place> {
        let place = Place::unpack(self.entry(at, half(self.commit(at))))?;
        let end = place.unit.checked_add(1 << place.order())?;
        (end <= self.units).then_some(place)
    }

    /// The entry's key and place if the checksum is right.
    fn whole(&self, at: u32) -> Option<(u64, Place)> {
        let key = self.entry(at, word::KEY);
        let place = self.current(at)?;
        let sum = checksum(key, place.bytes, ReadWord::of(self.blob(place)));
        (self.entry(at, half(self.commit(at)) + 1) == sum).then_some((key, place))
    }

    fn blob(&self, place: Place) -> &[AtomicU64] {
        let at =
            HEADER_WORDS + self.entries as usize * ENTRY_WORDS + place.unit as usize * UNIT_WORDS;
        part(self.region.words(), at, place.words())
    }

    /// First phase: the blob goes to where nobody looks.
    fn write(&self, key: u64, place: Place, blob: &[u8]) -> u64 {
        let words = self.blob(place);
        for (word, bytes) in words.iter().zip(blob.chunks(8)) {
            let mut padded = [0; 8];
            for (to, from) in padded.iter_mut().zip(bytes) {
                *to = *from;
            }
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        checksum(key, place.bytes, ReadWord::of(words))
    }

    /// Second phase: one store makes it current.
    fn switch(&self, at: u32, key: u64, place: Place, sum: u64) {
        let commit = self.commit(at);
        // The counter goes up and the half changes: 2 (A), 5 (B), 6 (A), 9 (B) and so on.
        let next = (commit & !1)
            .wrapping_add(2)
            .wrapping_add(u64::from(commit & 1 == 0));
        let next = if commit == 0 { 2 } else { next };
        self.set(at, half(next), place.pack());
        self.set(at, half(next) + 1, sum);
        self.set(at, word::KEY, key);
        keep_program_order();
        self.set_commit(at, next);
    }

    fn set_commit(&self, at: u32, value: u64) {
        if let Some(word) = self.words(at).get(word::COMMIT) {
            word.store(value, Ordering::Release);
        }
        keep_program_order();
    }
}

/// The word with the place of the current half; its checksum follows.
const fn half(commit: u64) -> usize {
    if commit & 1 == 0 {
        word::HALVES
    } else {
        word::HALVES + 2
    }
}

fn words(entries: u32, units: u32) -> Result<usize, ShmError> {
    if entries == 0 || entries > MAX_ENTRIES {
        expect("park entries", u64::from(entries), u64::from(MAX_ENTRIES))?;
    }
    if units == 0 || units > MAX_UNITS {
        expect("park units", u64::from(units), u64::from(MAX_UNITS))?;
    }
    Ok(HEADER_WORDS + entries as usize * ENTRY_WORDS + units as usize * UNIT_WORDS)
}

/// FNV-1a over words. Finds accidents; attacks are for the seal to find.
fn checksum(key: u64, bytes: u32, words: &[ReadWord]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
    let start = step(step(OFFSET, key), u64::from(bytes));
    words
        .iter()
        .fold(start, |sum, word| step(sum, word.load(Ordering::Relaxed)))
}

#[cfg(test)]
#[cfg(not(any(loom, miri)))]
mod tests {
    use super::*;

    fn park(entries: u32, units: u32) -> Park {
        Park::create(&ParkSizes {
            entries,
            units,
            pages: Pages::Ordinary,
        })
        .unwrap()
    }

    /// Ends the writer and starts the next.
    fn follow(park: Park) -> (Park, usize) {
        let fd = park.read_only_fd().unwrap();
        drop(park);
        Park::take_over(&fd).unwrap()
    }

    #[test]
    fn blobs_of_all_sizes_survive_the_writer() {
        let mut park = park(16, 1_000);
        let blobs: Vec<Vec<u8>> = [1, 7, 8, 9, 511, 512, 513, 4_096, 65_535, 65_536]
            .map(|len| (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect())
            .into();
        for (key, blob) in (0..).zip(&blobs) {
            park.put(key, blob).unwrap();
        }
        let (park, lost) = follow(park);
        assert_eq!((lost, park.len()), (0, blobs.len()));
        for (key, blob) in (0..).zip(&blobs) {
            assert_eq!(park.get(key).as_ref(), Some(blob));
        }
        assert_eq!(park.iter().count(), blobs.len());
    }

    #[test]
    fn replacing_and_removing_leak_nothing() {
        let mut park = park(2, 4);
        for round in 0..200_u8 {
            park.put(7, &[round; 600]).unwrap();
            assert_eq!(park.get(7), Some(vec![round; 600]));
        }
        assert!(park.remove(7));
        assert!(!park.remove(7));
        assert_eq!(park.get(7), None);
        park.put(8, &[1; 2_048]).unwrap();
        assert_eq!(park.put(9, &[1]), Err(ParkError::Memory));
    }

    #[test]
    fn limits_have_edges() {
        let mut park = park(2, 512);
        assert_eq!(park.put(1, &[]), Err(ParkError::Length(0)));
        assert_eq!(
            park.put(1, &vec![0; 65_537]),
            Err(ParkError::Length(65_537))
        );
        park.put(1, &vec![1; 65_536]).unwrap();
        park.put(2, &[2]).unwrap();
        assert_eq!(park.put(3, &[3]), Err(ParkError::Entries));
        park.put(2, &[4]).unwrap();
        assert!(
            Park::create(&ParkSizes {
                entries: 0,
                units: 1,
                pages: Pages::Ordinary
            })
            .is_err()
        );
    }

    #[test]
    fn a_kill_in_either_phase_leaves_the_old_blob() {
        let mut park = park(4, 64);
        park.put(1, b"old").unwrap();
        let at = park.places[&1];
        let unit = park.memory.allocate(0).unwrap();
        let place = Place { unit, bytes: 3 };
        let sum = park.write(1, place, b"new");
        // The place is written, the commit is not.
        park.set(at, word::HALVES + 2, place.pack());
        park.set(at, word::HALVES + 3, sum);
        let (park, lost) = follow(park);
        assert_eq!((lost, park.get(1)), (0, Some(b"old".to_vec())));
    }

    #[test]
    fn a_torn_blob_is_found_and_its_entry_freed() {
        let mut park = park(1, 64);
        park.put(1, &[5; 100]).unwrap();
        let place = park.current(park.places[&1]).unwrap();
        park.blob(place)[3].store(6, Ordering::Relaxed);
        assert_eq!(park.get(1), None);
        let (mut park, lost) = follow(park);
        assert_eq!((lost, park.len()), (1, 0));
        park.put(2, &[1]).unwrap();
        assert_eq!(park.get(2), Some(vec![1]));
    }

    #[test]
    fn entries_that_overlap_or_lead_outside_are_lost() {
        let mut park = park(4, 64);
        for key in [1, 2, 3] {
            park.put(key, &[9; 10]).unwrap();
        }
        let (first, second, third) = (park.places[&1], park.places[&2], park.places[&3]);
        let copy: Vec<u64> = (0..ENTRY_WORDS)
            .map(|word| park.entry(first, word))
            .collect();
        for (word, value) in copy.into_iter().enumerate() {
            park.set(second, word, value);
        }
        park.set(
            third,
            word::HALVES,
            Place {
                unit: 64,
                bytes: 10,
            }
            .pack(),
        );
        let (park, lost) = follow(park);
        assert_eq!((lost, park.len()), (2, 1));
        assert_eq!(park.get(1), Some(vec![9; 10]));
    }

    #[test]
    fn two_writers_cannot_be() {
        let park = park(1, 1);
        let fd = park.read_only_fd().unwrap();
        assert_eq!(Park::take_over(&fd).err(), Some(ShmError::InUse));
    }

    #[test]
    fn another_region_is_no_park() {
        let region = Region::create("test", HEADER_WORDS, Pages::Ordinary).unwrap();
        let fd = region.read_only_fd().unwrap();
        drop(region);
        let error = Park::take_over(&fd).err();
        assert!(matches!(
            error,
            Some(ShmError::Header { field: "magic", .. })
        ));
    }
}

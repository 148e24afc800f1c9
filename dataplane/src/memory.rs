//! Memory that workers read while the control thread changes it: the dataplane's only `unsafe`.
//!
//! [`Slots`] is an array of values in hugepages where there are some. A worker finds a value with one
//! load of a dense table of tags and one address computation, so it can ask for all lines of a
//! value before it knows whether the value is there. Values are never changed in place: a new
//! version lies in another cell, and a cell is used again only after a grace period, when no
//! worker can hold a reference into it.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use rustix::mm::{self, Advice, MapFlags, ProtFlags};

use crate::quiescence::{Grace, Quiescence, Turn};

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Bytes of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Bytes of the smallest page.
const PAGE_BYTES: usize = 4096;

/// Asks for the first cache line of `target`. A hint: it changes nothing and cannot fail.
#[inline(always)]
pub fn prefetch<T: ?Sized>(target: &T) {
    prefetch_line(core::ptr::from_ref(target).cast());
}

#[inline(always)]
fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless: it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Types that may be all zero bytes.
///
/// # Safety
/// Zero bytes are a valid value.
unsafe trait Zero {}
// SAFETY: an integer.
unsafe impl Zero for AtomicU32 {}
// SAFETY: an integer.
unsafe impl Zero for AtomicU64 {}
// SAFETY: integers.
unsafe impl<const N: usize> Zero for [u64; N] {}
// SAFETY: nothing is claimed about the bytes of a `MaybeUninit`.
unsafe impl<T> Zero for Cell<T> {}

/// A fixed array of zeroed memory in huge pages of its own, as far as the kernel gives some. Pages that
/// are not touched take no memory.
struct Pages<T> {
    first: NonNull<T>,
    len: usize,
    /// All that was mapped, in bytes.
    mapped: NonNull<c_void>,
    mapped_bytes: usize,
}

// SAFETY: the array is owned by this value; what it holds decides.
unsafe impl<T: Send> Send for Pages<T> {}
// SAFETY: shared access gives out shared references only.
unsafe impl<T: Sync> Sync for Pages<T> {}

impl<T: Zero> Pages<T> {
    /// # Panics
    /// When the address space is used up: the process has only just started then.
    #[expect(clippy::panic, reason = "as an allocation that fails")]
    fn new(len: usize) -> Self {
        let bytes = (len * size_of::<T>())
            .max(1)
            .next_multiple_of(HUGE_PAGE_BYTES);
        // Somewhere in so many bytes a huge page begins.
        let mapped_bytes = bytes + HUGE_PAGE_BYTES;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let flags = flags | MapFlags::NORESERVE;
        let anywhere = core::ptr::null_mut();
        // SAFETY: the kernel chooses the address, so no other mapping is touched.
        let mapped = unsafe { mm::mmap_anonymous(anywhere, mapped_bytes, protection, flags) };
        let Some(mapped) = mapped.ok().and_then(NonNull::new) else {
            panic!("no address space for {bytes} bytes of tables");
        };
        let before = mapped.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: less than a huge page on, so that `bytes` are left behind it.
        let first = unsafe { mapped.byte_add(before) };
        // SAFETY: the range was mapped above; the advice changes no byte of it. Without huge pages
        // lookups are slower and just as right.
        let _ = unsafe { mm::madvise(first.as_ptr(), bytes, Advice::LinuxHugepage) };
        // SAFETY: as above; the tables hold keys, which belong in no core dump.
        let _ = unsafe { mm::madvise(first.as_ptr(), bytes, Advice::LinuxDontDump) };
        Self {
            first: first.cast(),
            len,
            mapped,
            mapped_bytes,
        }
    }
}

impl<T> Pages<T> {
    /// Takes memory for a part of the array. What was written stays as it is.
    fn populate(&self, from_bytes: usize, bytes: usize) -> rustix::io::Result<()> {
        let all = self.len * size_of::<T>();
        let from = from_bytes.min(all) / PAGE_BYTES * PAGE_BYTES;
        let end = from_bytes.saturating_add(bytes).min(all);
        let at = self.first.as_ptr().cast::<u8>().wrapping_add(from);
        // SAFETY: the range is within the mapping and begins on a page; populating changes no byte
        // of it, whoever reads or writes meanwhile.
        unsafe { mm::madvise(at.cast(), end - from, Advice::LinuxPopulateWrite) }
    }

    #[inline(always)]
    fn as_slice(&self) -> &[T] {
        // SAFETY: mapped, page-aligned, zeroed (a valid value by `Zero`) and ours until the drop.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> Pages<T> {
    #[inline(always)]
    fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no reference outlives `self`. A failure leaves it
        // mapped, which harms nobody.
        let _ = unsafe { mm::munmap(self.mapped.as_ptr(), self.mapped_bytes) };
    }
}

/// Entries of `N` words, zeros at first, that one thread has for itself.
pub struct Entries<const N: usize>(Pages<[u64; N]>);

impl<const N: usize> Entries<N> {
    /// So many; those that are never written take no memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self(Pages::new(len))
    }

    /// The entry with this number.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&[u64; N]> {
        self.0.as_slice().get(at)
    }

    /// The same, to write.
    #[inline(always)]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut [u64; N]> {
        self.0.as_mut_slice().get_mut(at)
    }
}

/// Up to `N` values on the stack.
pub struct Bounded<T, const N: usize> {
    values: [MaybeUninit<T>; N],
    len: usize,
}

impl<T, const N: usize> Default for Bounded<T, N> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            values: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }
}

impl<T, const N: usize> Bounded<T, N> {
    /// Adds a value and gives its place, to be filled in there; `None` when all are taken.
    #[inline(always)]
    pub fn push(&mut self, value: T) -> Option<&mut T> {
        let place = self.values.get_mut(self.len)?;
        self.len += 1;
        Some(place.write(value))
    }

    /// Drops all values.
    #[inline(always)]
    pub fn clear(&mut self) {
        let values: *mut [T] = core::ptr::from_mut(&mut **self);
        self.len = 0;
        // SAFETY: they were written, and are dropped once, here: nothing leads to them any more.
        unsafe { values.drop_in_place() };
    }
}

impl<T, const N: usize> core::ops::Deref for Bounded<T, N> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        let first: *const T = self.values.as_ptr().cast();
        // SAFETY: the first `len` values were written, and `MaybeUninit<T>` lies as `T` does.
        unsafe { core::slice::from_raw_parts(first, self.len) }
    }
}

impl<T, const N: usize> core::ops::DerefMut for Bounded<T, N> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        let first: *mut T = self.values.as_mut_ptr().cast();
        // SAFETY: as in `deref`, borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(first, self.len) }
    }
}

impl<T, const N: usize> Drop for Bounded<T, N> {
    #[inline(always)]
    fn drop(&mut self) {
        self.clear();
    }
}

/// A dense table of numbers, 0 at first, that one thread sets and all read.
pub struct Numbers(Pages<AtomicU32>);

impl Numbers {
    /// A table for so many.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self(Pages::new(len as usize))
    }

    /// The number there; 0 behind the end.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> u32 {
        let number = self.0.as_slice().get(index as usize);
        // Acquire: who sees the number sees what it stands for.
        number.map_or(0, |number| number.load(Ordering::Acquire))
    }

    /// Sets a number; one behind the end stays 0.
    pub fn set(&self, index: u32, to: u32) {
        if let Some(number) = self.0.as_slice().get(index as usize) {
            number.store(to, Ordering::Release);
        }
    }
}

/// Room for one value.
struct Cell<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: a cell is written by the only `SlotsWriter`, and only while no tag leads to it and no
// worker can still hold a reference from when one did; in between it is only read.
unsafe impl<T: Send + Sync> Sync for Cell<T> {}

/// Values by a dense index, each with a tag that tells the users of one index apart.
///
/// The tags table says `tag << 32 | cell`, or 0 for an empty slot. A slot's first cell has the
/// slot's own number.
pub struct Slots<T> {
    tags: Pages<AtomicU64>,
    cells: Pages<Cell<T>>,
    quiescence: Arc<Quiescence>,
}

/// The hand that changes [`Slots`]. There is one for each.
pub struct SlotsWriter<T> {
    slots: Arc<Slots<T>>,
    /// Of each cell: whether it holds a value, with or without a tag that leads to it.
    full: Box<[bool]>,
    /// Cells for new versions of values.
    spare: Vec<u32>,
    /// Cells of old versions, with the grace period that each waits for.
    resting: Vec<(u32, Grace)>,
    /// Cells in front that have memory.
    ready_bytes: usize,
}

/// A value that no worker finds any more, but some may still hold.
#[derive(Debug)]
#[must_use = "its slot stays taken until it is reclaimed"]
pub struct Removed {
    slot: u32,
    cell: u32,
    grace: Grace,
}

/// Cells beyond one a slot: new versions of values that wait for a grace period.
const SPARE_CELLS: u32 = 256;
/// Slots that have memory before they are used, once somebody had the time to take it.
pub const READY_SLOTS: u32 = 1 << 18;
/// Memory taken at once: a huge page.
const POPULATE_BYTES: usize = 2 << 20;

impl<T: Send + Sync> Slots<T> {
    /// `len` empty slots whose readers are the workers of `quiescence`.
    pub fn new(len: u32, quiescence: &Arc<Quiescence>) -> (Arc<Self>, SlotsWriter<T>) {
        let cells = len as usize + SPARE_CELLS as usize;
        let slots = Arc::new(Self {
            tags: Pages::new(len as usize),
            cells: Pages::new(cells),
            quiescence: Arc::clone(quiescence),
        });
        let writer = SlotsWriter {
            slots: Arc::clone(&slots),
            full: vec![false; cells].into(),
            spare: (len..len + SPARE_CELLS).collect(),
            resting: Vec::new(),
            ready_bytes: 0,
        };
        (slots, writer)
    }

    /// The value of a slot, if the tag is its own. It stays where it is until the turn ends.
    #[inline(always)]
    pub fn get<'t>(&'t self, slot: u32, tag: u32, turn: &'t Turn<'_>) -> Option<&'t T> {
        debug_assert!(turn.is_of(&self.quiescence), "a turn of another table");
        self.find(slot, tag)
    }

    #[inline(always)]
    fn find(&self, slot: u32, tag: u32) -> Option<&T> {
        // Acquire: pairs with the release in `publish`.
        let word = self
            .tags
            .as_slice()
            .get(slot as usize)?
            .load(Ordering::Acquire);
        if word >> 32 != u64::from(tag) || tag == 0 {
            return None;
        }
        let cell = self.cells.as_slice().get((word & 0xffff_ffff) as usize)?;
        // SAFETY: a tag leads only to a cell that holds a value. The cell is overwritten only after
        // a grace period that began when its tag was gone, and the caller is a worker within a turn,
        // or the writer itself.
        let value = unsafe { &*cell.0.get() };
        // SAFETY: as above.
        Some(unsafe { value.assume_init_ref() })
    }

    /// Asks for the tag of a slot and for a cache line of what most likely is its value.
    #[inline(always)]
    pub fn prefetch(&self, slot: u32, line: usize) {
        if let Some(tag) = self.tags.as_slice().get(slot as usize) {
            prefetch(tag);
        }
        if let Some(cell) = self.cells.as_slice().get(slot as usize) {
            let first = core::ptr::from_ref(cell).cast::<u8>();
            prefetch_line(first.wrapping_add(line * LINE_BYTES));
        }
    }
}

impl<T: Send + Sync> SlotsWriter<T> {
    /// The value of a slot, if the tag is its own.
    pub fn get(&self, slot: u32, tag: u32) -> Option<&T> {
        self.slots.find(slot, tag)
    }

    /// Asks for the tag of a slot.
    pub fn prefetch(&self, slot: u32) {
        if let Some(tag) = self.slots.tags.as_slice().get(slot as usize) {
            prefetch(tag);
        }
    }

    /// Takes memory for the cells of the first [`READY_SLOTS`], some more with every call, so that
    /// values need not wait for it; false when there is no more to take.
    pub fn take_memory(&mut self) -> bool {
        let most = self.slots.tags.len.min(READY_SLOTS as usize) * size_of::<T>();
        if self.ready_bytes >= most {
            return false;
        }
        let more = POPULATE_BYTES.min(most - self.ready_bytes);
        // A kernel that cannot do it gives memory when it is used.
        self.ready_bytes = match self.slots.cells.populate(self.ready_bytes, more) {
            Ok(()) => self.ready_bytes + more,
            Err(_) => most,
        };
        true
    }

    /// Whether some value, also one that was removed and not reclaimed yet, has the slot's cell.
    pub fn is_taken(&self, slot: u32) -> bool {
        let tag = self.slots.tags.as_slice().get(slot as usize);
        tag.is_some_and(|tag| tag.load(Ordering::Relaxed) != 0)
    }

    /// Puts a value into an empty slot. False, and the value dropped, when there is no such slot, it
    /// is taken, the tag is 0 or all cells are.
    pub fn insert(&mut self, slot: u32, tag: u32, value: T) -> bool {
        if tag == 0 || self.is_taken(slot) {
            return false;
        }
        let own = self.full.get(slot as usize).is_some_and(|full| !full);
        let cell = if own { Some(slot) } else { self.take_spare() };
        cell.is_some_and(|cell| self.publish(slot, tag, cell, value))
    }

    /// Puts a new version of a value into its slot: workers find the old one or the new one. False,
    /// and nothing changed, when the slot has another tag or no cell comes free.
    pub fn replace(&mut self, slot: u32, tag: u32, value: T) -> bool {
        let Some(old) = self.cell_of(slot, tag) else {
            return false;
        };
        let Some(cell) = self.take_spare() else {
            return false;
        };
        let published = self.publish(slot, tag, cell, value);
        let grace = self.slots.quiescence.grace();
        self.resting.push((old, grace));
        published
    }

    /// Empties a slot.
    pub fn remove(&mut self, slot: u32, tag: u32) -> Option<Removed> {
        let cell = self.cell_of(slot, tag)?;
        self.slots
            .tags
            .as_slice()
            .get(slot as usize)?
            .store(0, Ordering::Release);
        let grace = self.slots.quiescence.grace();
        Some(Removed { slot, cell, grace })
    }

    /// Drops a removed value, if no worker can hold it any more; else gives it back.
    ///
    /// # Errors
    /// The same, to be tried again.
    pub fn reclaim(&mut self, removed: Removed) -> Result<(), Removed> {
        if !removed.grace.passed(&self.slots.quiescence) {
            return Err(removed);
        }
        self.drop_value(removed.cell);
        if removed.cell != removed.slot {
            self.spare.push(removed.cell);
        }
        Ok(())
    }

    fn cell_of(&self, slot: u32, tag: u32) -> Option<u32> {
        let word = self
            .slots
            .tags
            .as_slice()
            .get(slot as usize)?
            .load(Ordering::Relaxed);
        let (own, cell) = (word >> 32 == u64::from(tag), word & 0xffff_ffff);
        u32::try_from(cell).ok().filter(|_| own && tag != 0)
    }

    /// A cell for a new version. Waits for the oldest grace period when all are used up: a turn
    /// takes microseconds.
    fn take_spare(&mut self) -> Option<u32> {
        loop {
            let quiescence = Arc::clone(&self.slots.quiescence);
            let resting = core::mem::take(&mut self.resting);
            let (passed, waiting): (Vec<_>, _) = resting
                .into_iter()
                .partition(|(_, grace)| grace.passed(&quiescence));
            self.resting = waiting;
            for (cell, _) in passed {
                self.drop_value(cell);
                self.spare.push(cell);
            }
            if let Some(cell) = self.spare.pop() {
                // A slot's own cell that became a spare one may have gone back to its slot since.
                if self.full.get(cell as usize).is_some_and(|full| !full) {
                    return Some(cell);
                }
                continue;
            }
            if self.resting.is_empty() {
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// Writes a value into a free cell and lets the slot lead to it.
    fn publish(&mut self, slot: u32, tag: u32, cell: u32, value: T) -> bool {
        let (tags, cells) = (self.slots.tags.as_slice(), self.slots.cells.as_slice());
        let place = (tags.get(slot as usize), cells.get(cell as usize));
        let (Some(word), Some(room)) = place else {
            return false;
        };
        if let Some(full) = self.full.get_mut(cell as usize) {
            *full = true;
        }
        // SAFETY: the cell was free: no tag leads to it, and the grace period of the last value that
        // lay there has passed; this is the only writer.
        let room = unsafe { &mut *room.0.get() };
        room.write(value);
        // Release: whoever sees the tag sees the value.
        word.store(u64::from(tag) << 32 | u64::from(cell), Ordering::Release);
        true
    }

    /// Drops the value of a cell that nobody can reach.
    fn drop_value(&mut self, cell: u32) {
        let room = self.slots.cells.as_slice().get(cell as usize);
        let (Some(room), Some(full)) = (room, self.full.get_mut(cell as usize)) else {
            return;
        };
        if !std::mem::take(full) {
            return;
        }
        // SAFETY: the cell holds a value, no tag leads to it and the grace period has passed.
        let room = unsafe { &mut *room.0.get() };
        // SAFETY: as above; `full` is false from here on, so it is dropped once.
        unsafe { room.assume_init_drop() };
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        if !core::mem::needs_drop::<T>() {
            return;
        }
        for word in self.tags.as_slice() {
            let word = word.load(Ordering::Relaxed);
            if word == 0 {
                continue;
            }
            if let Some(cell) = self.cells.as_slice().get((word & 0xffff_ffff) as usize) {
                // SAFETY: a tag leads to a cell with a value, and nobody else has the slots.
                let value = unsafe { &mut *cell.0.get() };
                // SAFETY: as above; the memory is not looked at again.
                unsafe { value.assume_init_drop() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts its drops.
    struct Value(u32, Arc<AtomicU32>);

    impl Drop for Value {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_value_is_found_by_slot_and_tag_and_dropped_once() {
        let quiescence = Arc::new(Quiescence::new(1));
        let drops = Arc::default();
        let value = |n| Value(n, Arc::clone(&drops));
        let (slots, mut writer) = Slots::new(4, &quiescence);
        assert!(writer.insert(2, 7, value(1)));
        assert!(!writer.insert(2, 8, value(2)), "taken");
        assert!(!writer.insert(4, 8, value(2)), "no such slot");
        assert!(!writer.insert(1, 0, value(2)), "no tag");
        assert_eq!(drops.load(Ordering::Relaxed), 3);
        let turn = quiescence.enter(0).unwrap();
        let found = |slot, tag| slots.get(slot, tag, &turn).map(|value| value.0);
        assert_eq!(
            (found(2, 7), found(2, 8), found(1, 7), found(9, 7)),
            (Some(1), None, None, None)
        );
        let removed = writer.remove(2, 7).unwrap();
        assert!(writer.remove(2, 7).is_none());
        assert_eq!(found(2, 7), None);
        // The turn may still hold the value.
        let removed = writer.reclaim(removed).unwrap_err();
        assert_eq!(drops.load(Ordering::Relaxed), 3);
        drop(turn);
        writer.reclaim(removed).unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 4);
        assert!(writer.insert(2, 9, value(3)));
        drop((writer, slots));
        assert_eq!(drops.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn taking_memory_ends_and_changes_no_value() {
        let quiescence = Arc::new(Quiescence::new(1));
        let len = u32::try_from(3 * POPULATE_BYTES / size_of::<[u64; 8]>()).unwrap() + 1;
        let (slots, mut writer) = Slots::new(len, &quiescence);
        assert!(writer.insert(0, 1, [7_u64; 8]) && writer.insert(len - 1, 1, [8; 8]));
        let calls = (0..10).take_while(|_| writer.take_memory()).count();
        assert_eq!(calls, 4);
        let turn = quiescence.enter(0).unwrap();
        assert_eq!(slots.get(0, 1, &turn), Some(&[7; 8]));
        assert_eq!(slots.get(len - 1, 1, &turn), Some(&[8; 8]));
        assert!(writer.insert(1, 1, [9; 8]));
    }

    #[test]
    fn a_reader_keeps_the_version_it_found() {
        let quiescence = Arc::new(Quiescence::new(1));
        let (slots, mut writer) = Slots::new(1, &quiescence);
        assert!(writer.insert(0, 1, String::from("old")));
        let turn = quiescence.enter(0).unwrap();
        let held = slots.get(0, 1, &turn).unwrap();
        assert!(writer.replace(0, 1, String::from("new")));
        assert!(!writer.replace(0, 2, String::from("other")));
        assert_eq!(slots.get(0, 1, &turn).unwrap(), "new");
        assert_eq!(held, "old");
        drop(turn);
        // Many times as often as there are spare cells.
        for n in 0..SPARE_CELLS * 4 {
            assert!(writer.replace(0, 1, n.to_string()));
        }
        assert_eq!(
            writer.get(0, 1).unwrap(),
            &(SPARE_CELLS * 4 - 1).to_string()
        );
    }
}

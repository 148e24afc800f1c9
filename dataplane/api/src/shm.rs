//! Shared memory: sealed memfds, mapped by one writer and by readers that cannot write.
//!
//! A [`Region`] is ours to write and gives out `&[AtomicU64]`; a [`View`] is somebody else's and
//! gives out `&[ReadWord]`, which has no store. Everything above is safe code.
//!
//! A memfd is mode 0600 (the default, 0777, lets anyone who holds a read-only descriptor reopen it
//! for writing), sealed against growing and shrinking (a reader can never run off the end) and left
//! out of core dumps. Its writer holds an exclusive `flock` on its own open file as long as it
//! lives, so that a successor can ask the kernel whether the writer is really dead.

use core::fmt;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::raw::c_void;
use std::sync::Arc;

use rustix::fs::{self, FlockOperation, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};

use crate::sync::{AtomicU64, Ordering};

/// The largest region, in bytes: 64 GiB, far above what the limits of this crate need.
pub const MAX_REGION_BYTES: u64 = 1 << 36;

const HUGE_PAGE_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4096;
const WORD_BYTES: usize = size_of::<AtomicU64>();

/// What backs a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary pages; the kernel may join them to huge ones.
    #[default]
    Ordinary,
    /// Reserved 2 MiB pages, ordinary ones when there are not enough.
    Huge,
}

/// Why a region cannot be made or mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShmError {
    /// A system call failed.
    System { doing: &'static str, errno: Errno },
    /// The descriptor is not a memfd sealed against growing and shrinking.
    NotSealed,
    /// The size in bytes is 0, no multiple of 8, or above [`MAX_REGION_BYTES`].
    Size(u64),
    /// The header's word, called `field`, is not as this build expects it.
    Header {
        field: &'static str,
        found: u64,
        expected: u64,
    },
    /// Another process writes to the region.
    InUse,
}

impl fmt::Display for ShmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { doing, errno } => write!(f, "shared memory: {doing}: {errno}"),
            Self::NotSealed => f.write_str("shared memory: the descriptor is no sealed memfd"),
            Self::Size(bytes) => write!(f, "shared memory: a size of {bytes} bytes is impossible"),
            Self::Header {
                field,
                found,
                expected,
            } => {
                write!(
                    f,
                    "shared memory: {field} is {found:#x}, expected {expected:#x}"
                )
            }
            Self::InUse => f.write_str("shared memory: another process still writes to it"),
        }
    }
}

impl core::error::Error for ShmError {}

/// Turns an errno into an error that says what was tried.
fn failed(doing: &'static str) -> impl FnOnce(Errno) -> ShmError {
    move |errno| ShmError::System { doing, errno }
}

/// A word that another process, or another part of this one, writes: it can be read only.
#[derive(Debug)]
#[repr(transparent)]
pub struct ReadWord(AtomicU64);

impl ReadWord {
    /// Reads the word.
    #[inline]
    #[must_use]
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    /// Sees writable words as words that can be read only.
    #[must_use]
    pub fn of(words: &[AtomicU64]) -> &[Self] {
        let view = core::ptr::from_ref(words) as *const [Self];
        // SAFETY: `ReadWord` is a transparent wrapper of `AtomicU64`, so both slices have one
        // layout, and the lifetime is that of `words`.
        unsafe { &*view }
    }
}

/// Words that stay in place until this is dropped.
struct Memory {
    first: NonNull<AtomicU64>,
    len: usize,
    /// The memfd; `None` when the words are on the heap, for tests under loom and miri.
    fd: Option<OwnedFd>,
}

// SAFETY: the pointer is owned by this value alone and leads to atomics, which any thread may use.
unsafe impl Send for Memory {}
// SAFETY: shared access gives out only `&AtomicU64`, which is `Sync`.
unsafe impl Sync for Memory {}

impl Memory {
    fn on_heap(len: usize) -> Self {
        let words: Box<[AtomicU64]> = (0..len).map(|_| AtomicU64::new(0)).collect();
        let first = NonNull::from(Box::leak(words)).cast();
        Self {
            first,
            len,
            fd: None,
        }
    }

    /// Maps the whole of a memfd whose size is sealed.
    fn map(fd: OwnedFd, len: usize, protection: ProtFlags) -> Result<Self, ShmError> {
        let bytes = len * WORD_BYTES;
        let at = core::ptr::null_mut();
        // SAFETY: the kernel chooses the address, so no other mapping is replaced; the file's size
        // is sealed and was checked, so no access to the mapping is behind its end.
        let first = unsafe { mm::mmap(at, bytes, protection, MapFlags::SHARED, &fd, 0) }
            .map_err(failed("map"))?;
        let first = NonNull::new(first.cast()).ok_or(ShmError::Size(0))?;
        let memory = Self {
            first,
            len,
            fd: Some(fd),
        };
        memory
            .advise(Advice::LinuxDontDump)
            .map_err(failed("keep out of core dumps"))?;
        Ok(memory)
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        let at: *mut c_void = self.first.as_ptr().cast();
        // SAFETY: the range is exactly this value's mapping, and the two advices used (do not
        // dump, huge pages) change no byte of it.
        unsafe { mm::madvise(at, self.len * WORD_BYTES, advice) }
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `first` leads to `len` words that are mapped or allocated, aligned (a page or
        // a box starts there) and initialised (zeros at first) until `self` is dropped; all access
        // in this process is atomic, and writes of other processes are too.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.fd.is_none() {
            let words = core::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.len);
            // SAFETY: without a descriptor the words came from `Box::leak` in `on_heap`, and no
            // reference outlives `self`.
            drop(unsafe { Box::from_raw(words) });
            return;
        }
        // SAFETY: the range is exactly this value's mapping and no reference outlives `self`.
        // A failure leaves it mapped, which harms nobody.
        let _unmapped = unsafe { mm::munmap(self.first.as_ptr().cast(), self.len * WORD_BYTES) };
    }
}

/// Memory that this process writes. Clones share it.
#[derive(Clone)]
pub struct Region {
    memory: Arc<Memory>,
}

impl Region {
    /// Makes a zeroed memfd of at least `words` words and maps it for writing. The size is rounded
    /// up to whole pages.
    ///
    /// # Errors
    /// [`ShmError`] when the size is impossible or the kernel refuses.
    pub fn create(name: &str, words: usize, pages: Pages) -> Result<Self, ShmError> {
        if pages == Pages::Huge {
            // Falls through when no huge pages are reserved: slower, not wrong.
            let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            if let Ok(region) = Self::make(name, words, flags, HUGE_PAGE_BYTES) {
                return Ok(region);
            }
        }
        let region = Self::make(name, words, MemfdFlags::empty(), PAGE_BYTES)?;
        if pages == Pages::Huge {
            // Only advice: a kernel that is set to `never` refuses it.
            let _advised = region.memory.advise(Advice::LinuxHugepage);
        }
        Ok(region)
    }

    fn make(
        name: &str,
        words: usize,
        flags: MemfdFlags,
        page_bytes: usize,
    ) -> Result<Self, ShmError> {
        let bytes = words
            .checked_mul(WORD_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(page_bytes))
            .ok_or(ShmError::Size(u64::MAX))?;
        if bytes == 0 || bytes as u64 > MAX_REGION_BYTES {
            return Err(ShmError::Size(bytes as u64));
        }
        let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = fs::memfd_create(name, flags).map_err(failed("create memfd"))?;
        fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(failed("set mode 0600"))?;
        fs::ftruncate(&fd, bytes as u64).map_err(failed("set size"))?;
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fs::fcntl_add_seals(&fd, seals).map_err(failed("seal"))?;
        lock_for_writing(&fd)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let memory = Memory::map(fd, bytes / WORD_BYTES, protection)?;
        Ok(Self {
            memory: Arc::new(memory),
        })
    }

    /// Opens a memfd that a dead process left, for writing. The descriptor may be read-only: it is
    /// reopened, which the mode allows to the same user only.
    ///
    /// # Errors
    /// [`ShmError::InUse`] while its writer lives; as [`View::map`] otherwise.
    pub fn take_over(fd: &OwnedFd) -> Result<Self, ShmError> {
        let len = checked_words(fd)?;
        let fd = reopen(fd.as_fd(), OFlags::RDWR)?;
        lock_for_writing(&fd)?;
        let memory = Memory::map(fd, len, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self {
            memory: Arc::new(memory),
        })
    }

    /// Zeroed words on the heap, for tests in one process, under loom and miri.
    #[must_use]
    pub fn on_heap(words: usize) -> Self {
        Self {
            memory: Arc::new(Memory::on_heap(words)),
        }
    }

    /// The words.
    #[inline]
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// This region for readers in this process.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            memory: Arc::clone(&self.memory),
        }
    }

    /// A new read-only descriptor, to be handed to another process. It shares neither access mode
    /// nor lock with ours.
    ///
    /// # Errors
    /// [`ShmError::System`]; always for memory on the heap.
    pub fn read_only_fd(&self) -> Result<OwnedFd, ShmError> {
        self.view().read_only_fd()
    }
}

/// Memory that this process only reads. Clones share it.
#[derive(Clone)]
pub struct View {
    memory: Arc<Memory>,
}

impl View {
    /// Maps a received memfd for reading, once its seals and size are checked. The header is
    /// checked by who knows it.
    ///
    /// # Errors
    /// [`ShmError::NotSealed`], [`ShmError::Size`] or [`ShmError::System`].
    pub fn map(fd: OwnedFd) -> Result<Self, ShmError> {
        let len = checked_words(&fd)?;
        // Whoever sends the descriptor may have opened it for writing; ours must not be.
        let fd = reopen(fd.as_fd(), OFlags::RDONLY)?;
        Ok(Self {
            memory: Arc::new(Memory::map(fd, len, ProtFlags::READ)?),
        })
    }

    /// The words.
    ///
    /// Only loads of 64 bits, relaxed or acquire, are ever made: these are plain loads on every
    /// 64-bit machine and may touch memory that is mapped for reading only.
    #[inline]
    #[must_use]
    pub fn words(&self) -> &[ReadWord] {
        ReadWord::of(self.memory.words())
    }

    /// A new read-only descriptor.
    ///
    /// # Errors
    /// [`ShmError::System`]; always for memory on the heap.
    pub fn read_only_fd(&self) -> Result<OwnedFd, ShmError> {
        let on_heap = ShmError::System {
            doing: "hand over heap memory",
            errno: Errno::BADF,
        };
        reopen(
            self.memory.fd.as_ref().ok_or(on_heap)?.as_fd(),
            OFlags::RDONLY,
        )
    }

    /// Whether the process that made this region still lives and may write to it.
    ///
    /// # Errors
    /// [`ShmError::System`] when the kernel does not say.
    pub fn writer_lives(&self) -> Result<bool, ShmError> {
        // Memory on the heap has no other process.
        let Some(fd) = &self.memory.fd else {
            return Ok(false);
        };
        match fs::flock(fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                fs::flock(fd, FlockOperation::Unlock).map_err(failed("unlock"))?;
                Ok(false)
            }
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(failed("ask for the writer")(errno)),
        }
    }
}

/// The lock ends with the last descriptor of this open file, that is with this process.
fn lock_for_writing(fd: &OwnedFd) -> Result<(), ShmError> {
    match fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(ShmError::InUse),
        Err(errno) => Err(failed("lock")(errno)),
    }
}

fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd, ShmError> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).map_err(failed("reopen memfd"))
}

/// The size in words of a memfd that can neither grow nor shrink.
fn checked_words(fd: &OwnedFd) -> Result<usize, ShmError> {
    let needed = SealFlags::GROW | SealFlags::SHRINK;
    // What is no memfd has no seals and answers with an error.
    let seals = fs::fcntl_get_seals(fd).map_err(|_| ShmError::NotSealed)?;
    if !seals.contains(needed) {
        return Err(ShmError::NotSealed);
    }
    let size = fs::fstat(fd).map_err(failed("ask for size"))?.st_size;
    let bytes = u64::try_from(size).map_err(|_| ShmError::Size(0))?;
    let whole = bytes % WORD_BYTES as u64 == 0;
    if bytes == 0 || !whole || bytes > MAX_REGION_BYTES {
        return Err(ShmError::Size(bytes));
    }
    usize::try_from(bytes / WORD_BYTES as u64).map_err(|_| ShmError::Size(bytes))
}

#[cfg(test)]
#[cfg(not(any(loom, miri)))]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_view_sees_what_the_writer_writes() {
        let region = Region::create("test", 100, Pages::Ordinary).unwrap();
        assert_eq!(region.words().len(), PAGE_BYTES / WORD_BYTES);
        let view = View::map(region.read_only_fd().unwrap()).unwrap();
        region.words()[99].store(7, Ordering::Release);
        assert_eq!(view.words()[99].load(Ordering::Acquire), 7);
        assert_eq!(view.words().len(), region.words().len());
    }

    #[test]
    fn the_memfd_is_private_sealed_and_readers_cannot_write() {
        let region = Region::create("test", 1, Pages::Ordinary).unwrap();
        let fd = region.memory.fd.as_ref().unwrap();
        assert_eq!(fs::fstat(fd).unwrap().st_mode & 0o777, 0o600);
        assert!(fs::ftruncate(fd, 1 << 20).is_err());
        assert!(fs::ftruncate(fd, 0).is_err());
        assert!(fs::fcntl_add_seals(fd, SealFlags::WRITE).is_err());
        let reader = region.read_only_fd().unwrap();
        assert_eq!(rustix::io::write(&reader, b"x"), Err(Errno::BADF));
        let mut text = String::new();
        std::fs::File::open("/proc/self/smaps")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let ours = text.split("/memfd:test").nth(1).unwrap();
        let flags = ours
            .lines()
            .find(|line| line.starts_with("VmFlags"))
            .unwrap();
        assert!(flags.contains(" dd"), "not left out of core dumps: {flags}");
    }

    #[test]
    fn what_is_no_sealed_memfd_is_refused() {
        let unsealed = fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        fs::ftruncate(&unsealed, 4096).unwrap();
        assert_eq!(View::map(unsealed).err(), Some(ShmError::NotSealed));
        let shrinks = fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        fs::fcntl_add_seals(&shrinks, SealFlags::GROW).unwrap();
        assert_eq!(View::map(shrinks).err(), Some(ShmError::NotSealed));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(View::map(null.into()).err(), Some(ShmError::NotSealed));
    }

    #[test]
    fn odd_sizes_are_refused() {
        for bytes in [0, 12] {
            let fd = fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
            fs::ftruncate(&fd, bytes).unwrap();
            fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK).unwrap();
            assert_eq!(View::map(fd).err(), Some(ShmError::Size(bytes)));
        }
        assert_eq!(
            Region::create("t", 0, Pages::Ordinary).err(),
            Some(ShmError::Size(0))
        );
        assert!(Region::create("t", usize::MAX, Pages::Ordinary).is_err());
    }

    #[test]
    fn a_living_writer_is_seen_and_a_dead_one_can_be_followed() {
        let region = Region::create("test", 1, Pages::Ordinary).unwrap();
        region.words()[0].store(5, Ordering::Relaxed);
        let left = region.read_only_fd().unwrap();
        let view = View::map(left.try_clone().unwrap()).unwrap();
        assert_eq!(view.writer_lives(), Ok(true));
        assert_eq!(Region::take_over(&left).err(), Some(ShmError::InUse));
        drop(region);
        assert_eq!(view.writer_lives(), Ok(false));
        let next = Region::take_over(&left).unwrap();
        assert_eq!(next.words()[0].load(Ordering::Relaxed), 5);
        assert_eq!(view.writer_lives(), Ok(true));
    }

    #[test]
    fn a_read_only_view_survives_a_writable_descriptor() {
        let region = Region::create("test", 1, Pages::Ordinary).unwrap();
        let writable = region.memory.fd.as_ref().unwrap().try_clone().unwrap();
        let view = View::map(writable).unwrap();
        let mut file = std::fs::File::from(view.read_only_fd().unwrap());
        assert_eq!(
            file.seek(std::io::SeekFrom::End(0)).unwrap(),
            PAGE_BYTES as u64
        );
    }

    #[test]
    fn huge_pages_fall_back() {
        let region = Region::create("test", 1, Pages::Huge).unwrap();
        region.words()[0].store(1, Ordering::Relaxed);
        assert!(View::map(region.read_only_fd().unwrap()).is_ok());
    }
}

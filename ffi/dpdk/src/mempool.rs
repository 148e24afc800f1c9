//! Pools of packet buffers.

use std::ffi::CString;
use std::fmt;
use std::ptr::NonNull;

use dpdk_sys::inline::mbuf_alloc;
use dpdk_sys::{
    RTE_PKTMBUF_HEADROOM, rte_mempool, rte_mempool_avail_count, rte_pktmbuf_pool_create,
};

use crate::{Eal, Errno, Mbuf, thread};

/// Free bytes in front of a received frame. Encapsulation adds at most IPv6 (40), UDP (8), ESP (8)
/// and IV (8) between the frame's own Ethernet header and its packet.
pub const HEADROOM_BYTES: u16 = 128;
const _: () = assert!(HEADROOM_BYTES as u32 == RTE_PKTMBUF_HEADROOM);

/// Free bytes behind the longest frame: ESP padding and trailer, ICV, and one vector of slack.
pub const TAIL_BYTES: u16 = 64;

/// Any NUMA node.
const SOCKET_ANY: i32 = -1;

/// Size of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Buffers in the pool. One below a power of two wastes least.
    pub mbufs: u32,
    /// Buffers that each registered thread keeps for itself, at most 512 and `mbufs / 1.5`.
    pub cache: u32,
    /// The longest frame that fits without a second segment. [`HEADROOM_BYTES`] and
    /// [`TAIL_BYTES`] come on top.
    pub frame_bytes: u16,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            mbufs: 8191,
            cache: 256,
            frame_bytes: 2048 + 128,
        }
    }
}

impl MempoolConfig {
    /// Memory to give the EAL for this pool: an upper estimate, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        const PAGE: u64 = 4096;
        /// Headers of the object and of the mbuf, and the spread over memory channels.
        const OVERHEAD: u64 = 64 + 128 + 256;
        /// The ring and one cache for each of 128 threads.
        const FIXED: u64 = 2 << 20;
        let object = u64::from(HEADROOM_BYTES + TAIL_BYTES) + u64::from(self.frame_bytes);
        // Without hugepages no object crosses a page unless it is larger than one.
        let object = match PAGE / (object + OVERHEAD) {
            0 => (object + OVERHEAD).next_multiple_of(PAGE),
            per_page => PAGE / per_page,
        };
        u64::from(self.mbufs) * object + FIXED
    }
}

/// A pool of packet buffers. It lives as long as the process; the handle can be copied and shared.
#[derive(Debug, Clone, Copy)]
pub struct Mempool(NonNull<rte_mempool>);

// SAFETY: mempools are made to be shared; the caches are per thread.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

/// A pool cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MempoolError {
    pub name: String,
    pub config: MempoolConfig,
    pub errno: Errno,
}

impl fmt::Display for MempoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MempoolConfig {
            mbufs,
            cache,
            frame_bytes,
        } = self.config;
        let need_mib = self.config.memory_bytes().div_ceil(1 << 20);
        write!(
            f,
            "pool {}: {} ({mbufs} buffers for frames of {frame_bytes} bytes, cache {cache}; \
             needs about {need_mib} MiB of EAL memory)",
            self.name, self.errno
        )
    }
}

impl std::error::Error for MempoolError {}

impl Mempool {
    /// Makes a pool.
    ///
    /// # Errors
    /// When the name is taken, longer than 25 bytes or not a C string, when the cache is too
    /// large, or when the EAL has not enough memory.
    pub fn new(_eal: &Eal, name: &str, config: MempoolConfig) -> Result<Self, MempoolError> {
        const EINVAL: i32 = 22;
        let fail = |errno| MempoolError {
            name: name.to_owned(),
            config,
            errno,
        };
        let c_name = CString::new(name).map_err(|_| fail(Errno(EINVAL)))?;
        let room = config
            .frame_bytes
            .checked_add(HEADROOM_BYTES + TAIL_BYTES)
            .ok_or_else(|| fail(Errno(EINVAL)))?;
        // SAFETY: the EAL is up (the token proves it) and the name is a C string.
        let pool = unsafe {
            rte_pktmbuf_pool_create(
                c_name.as_ptr(),
                config.mbufs,
                config.cache,
                0,
                room,
                SOCKET_ANY,
            )
        };
        NonNull::new(pool)
            .map(Self)
            .ok_or_else(|| fail(Errno::last()))
    }

    /// An empty buffer, or `None` when none is left.
    #[inline(always)]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: pools live for ever; the id is the calling thread's.
        let raw = unsafe { mbuf_alloc(self.0.as_ptr(), thread::lcore()) };
        // SAFETY: null or fresh from the pool.
        unsafe { Mbuf::from_raw(raw) }
    }

    /// A buffer with a copy of `frame`, or `None` when none is left or it does not fit.
    #[must_use]
    pub fn alloc_copy(&self, frame: &[u8]) -> Option<Mbuf> {
        let mut mbuf = self.alloc()?;
        mbuf.append(frame.len())?.copy_from_slice(frame);
        Some(mbuf)
    }

    /// Buffers in the pool now, those in the caches of threads included. Slow.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: pools live for ever.
        unsafe { rte_mempool_avail_count(self.0.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.0.as_ptr()
    }
}

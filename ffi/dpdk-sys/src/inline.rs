//! DPDK's inline packet-path functions in Rust, over the generated layouts.
//!
//! A C call per mbuf would cost more than the work itself; these compile into the worker's loop.

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU16, Ordering};

use crate::{
    DPDK_MBUF_BUF_LEN, DPDK_MBUF_DATA_LEN, DPDK_MBUF_DATA_OFF, DPDK_MBUF_NB_SEGS, DPDK_MBUF_NEXT,
    DPDK_MBUF_OL_FLAGS, DPDK_MBUF_PACKET_TYPE, DPDK_MBUF_PKT_LEN, DPDK_MBUF_POOL, DPDK_MBUF_PORT,
    DPDK_MBUF_REFCNT, DPDK_MBUF_TX_OFFLOAD, DPDK_MBUF_VLAN_TCI, DPDK_MBUF_VLAN_TCI_OUTER,
    RTE_MAX_LCORE, RTE_MBUF_F_EXTERNAL, RTE_MBUF_F_INDIRECT, RTE_PKTMBUF_HEADROOM, dpdk_mbuf_free,
    dpdk_mbuf_raw_alloc, rte_eth_call_rx_callbacks, rte_eth_call_tx_callbacks, rte_eth_fp_ops,
    rte_mbuf, rte_mempool, rte_mempool_cache,
};

/// The id of a thread that is not registered: it has no mempool cache.
pub const LCORE_NONE: u32 = u32::MAX;

/// Port number of an mbuf that no port received.
const PORT_NONE: u16 = u16::MAX;

#[allow(clippy::cast_possible_truncation)] // 128
const HEADROOM: u16 = RTE_PKTMBUF_HEADROOM as u16;

/// Asks for a cache line. A hint: it changes nothing and cannot fail, whatever the address.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for a cache line that will be written: another core that has it gives it up at once. A line
/// that is only asked for stays shared, and every store into it waits for that core again.
#[inline(always)]
pub fn prefetch_to_write(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        // The intrinsic for this reads instead where the target's baseline lacks the instruction.
        // SAFETY: a prefetch never faults; CPUs that do not know this one take it for a NOP.
        unsafe {
            core::arch::asm!(
                "prefetchw [{at}]",
                at = in(reg) at,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Pointer to the field of `mbuf` at `offset`, one of `DPDK_MBUF_*`.
///
/// # Safety
/// `mbuf` points to a live mbuf and `T` is the type that the field has in C.
#[inline(always)]
unsafe fn field<T>(mbuf: *mut rte_mbuf, offset: u32) -> *mut T {
    // SAFETY: the offset was computed by the C compiler for this very structure.
    unsafe { mbuf.byte_add(offset as usize).cast() }
}

/// Reads a field of `mbuf`, see [`field`].
///
/// # Safety
/// As for [`field`].
#[inline(always)]
pub unsafe fn get<T: Copy>(mbuf: *mut rte_mbuf, offset: u32) -> T {
    // SAFETY: the caller's promise.
    let field = unsafe { field::<T>(mbuf, offset) };
    // SAFETY: initialised when its pool was made.
    unsafe { *field }
}

/// Writes a field of `mbuf`, see [`field`].
///
/// # Safety
/// As for [`field`], and the mbuf is the caller's alone.
#[inline(always)]
pub unsafe fn set<T: Copy>(mbuf: *mut rte_mbuf, offset: u32, value: T) {
    // SAFETY: the caller's promise.
    let field = unsafe { field::<T>(mbuf, offset) };
    // SAFETY: the caller's promise.
    unsafe { *field = value };
}

/// Element `index` of an array of pointers.
///
/// # Safety
/// The array has it.
#[inline(always)]
unsafe fn element(array: *mut *mut c_void, index: u16) -> *mut c_void {
    // SAFETY: the caller's promise.
    let element = unsafe { array.add(usize::from(index)) };
    // SAFETY: the caller's promise.
    unsafe { *element }
}

/// Receives up to `count` mbufs into `mbufs`; returns how many.
///
/// # Safety
/// The port is started and has that receive queue, which no other thread uses at the same time;
/// `mbufs` has room for `count` pointers.
#[inline(always)]
pub unsafe fn rx_burst(port: u16, queue: u16, mbufs: *mut *mut rte_mbuf, count: u16) -> u16 {
    // SAFETY: an element of a C array, which is never written while its port is started.
    let ops = unsafe { &raw const rte_eth_fp_ops[usize::from(port)] };
    // SAFETY: as above.
    let Some(burst) = (unsafe { (*ops).rx_pkt_burst }) else {
        return 0;
    };
    // SAFETY: as above.
    let queues = unsafe { (*ops).rxq };
    // SAFETY: the queue exists, so its slot does.
    let data = unsafe { element(queues.data, queue) };
    // SAFETY: the driver's own function on its own queue; room as the caller promised.
    let received = unsafe { burst(data, mbufs, count) };
    // SAFETY: as `data`.
    let callbacks = unsafe { element(queues.clbk, queue) };
    if callbacks.is_null() {
        return received;
    }
    // SAFETY: the arguments of the burst and the callbacks of this queue.
    unsafe { rte_eth_call_rx_callbacks(port, queue, mbufs, received, count, callbacks.cast()) }
}

/// Sends up to `count` mbufs; returns how many the driver took from the front of `mbufs`.
///
/// # Safety
/// The port is started and has that transmit queue, which no other thread uses at the same time;
/// `mbufs` holds `count` live mbufs, and those taken belong to the driver afterwards.
#[inline(always)]
pub unsafe fn tx_burst(port: u16, queue: u16, mbufs: *mut *mut rte_mbuf, count: u16) -> u16 {
    // SAFETY: an element of a C array, which is never written while its port is started.
    let ops = unsafe { &raw const rte_eth_fp_ops[usize::from(port)] };
    // SAFETY: as above.
    let Some(burst) = (unsafe { (*ops).tx_pkt_burst }) else {
        return 0;
    };
    // SAFETY: as above.
    let queues = unsafe { (*ops).txq };
    // SAFETY: the queue exists, so its slot does.
    let data = unsafe { element(queues.data, queue) };
    // SAFETY: as `data`.
    let callbacks = unsafe { element(queues.clbk, queue) };
    let mut count = count;
    if !callbacks.is_null() {
        // SAFETY: the arguments of the burst and the callbacks of this queue.
        count = unsafe { rte_eth_call_tx_callbacks(port, queue, mbufs, count, callbacks.cast()) };
    }
    // SAFETY: the driver's own function on its own queue; mbufs as the caller promised.
    unsafe { burst(data, mbufs, count) }
}

/// The cache that `lcore` has in `pool`, if any.
///
/// # Safety
/// `pool` is a live mempool and `lcore` the id of the calling thread or [`LCORE_NONE`].
#[inline(always)]
unsafe fn cache(pool: *mut rte_mempool, lcore: u32) -> *mut rte_mempool_cache {
    // SAFETY: the pool lives.
    let caches = unsafe { (*pool).local_cache };
    // SAFETY: as above.
    let cached = unsafe { (*pool).cache_size } != 0;
    if !cached || lcore >= RTE_MAX_LCORE {
        return null_mut();
    }
    // SAFETY: a pool with caches has one for each of the RTE_MAX_LCORE ids.
    unsafe { caches.add(lcore as usize) }
}

/// Slot `index` of a cache.
///
/// # Safety
/// `cache` is live and `index` below the size the pool was created with.
#[inline(always)]
unsafe fn slot(cache: *mut rte_mempool_cache, index: u32) -> *mut *mut rte_mbuf {
    // SAFETY: no read; the field exists in a live cache.
    let objects: *mut *mut rte_mbuf = unsafe { (&raw mut (*cache).objs).cast() };
    // SAFETY: the array is at least as long as the size of the cache.
    unsafe { objects.add(index as usize) }
}

/// An empty mbuf with the standard headroom, or null when the pool has none left.
///
/// # Safety
/// `pool` is a live packet pool and `lcore` the id of the calling thread or [`LCORE_NONE`].
#[inline(always)]
pub unsafe fn mbuf_alloc(pool: *mut rte_mempool, lcore: u32) -> *mut rte_mbuf {
    // SAFETY: the caller's promise.
    let cache = unsafe { cache(pool, lcore) };
    // SAFETY: the caller's promise.
    let mbuf = unsafe { cache_pop(cache) };
    let mbuf = if mbuf.is_null() {
        // SAFETY: any live packet pool; it refills the cache.
        unsafe { dpdk_mbuf_raw_alloc(pool) }
    } else {
        mbuf
    };
    if !mbuf.is_null() {
        // SAFETY: fresh from its pool, so nobody else has it.
        unsafe { mbuf_reset(mbuf) };
    }
    mbuf
}

/// # Safety
/// `cache` is null or the calling thread's.
#[inline(always)]
unsafe fn cache_pop(cache: *mut rte_mempool_cache) -> *mut rte_mbuf {
    if cache.is_null() {
        return null_mut();
    }
    // SAFETY: only the thread that owns the cache touches it.
    let len = unsafe { &mut (*cache).len };
    let Some(left) = len.checked_sub(1) else {
        return null_mut();
    };
    *len = left;
    // SAFETY: below the number of objects held.
    let slot = unsafe { slot(cache, left) };
    // SAFETY: written when the object was put.
    unsafe { *slot }
}

/// What `rte_pktmbuf_reset` does. A free mbuf already has one segment and no next.
///
/// # Safety
/// `mbuf` is live and the caller's alone.
#[inline(always)]
pub unsafe fn mbuf_reset(mbuf: *mut rte_mbuf) {
    // SAFETY: the caller's promise; each write below is to a plain field of an owned mbuf.
    let room = unsafe { get::<u16>(mbuf, DPDK_MBUF_BUF_LEN) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_NEXT, null_mut::<rte_mbuf>()) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_PKT_LEN, 0_u32) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_TX_OFFLOAD, 0_u64) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_VLAN_TCI, 0_u16) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_VLAN_TCI_OUTER, 0_u16) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_NB_SEGS, 1_u16) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_PORT, PORT_NONE) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_OL_FLAGS, 0_u64) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_PACKET_TYPE, 0_u32) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_DATA_OFF, HEADROOM.min(room)) };
    // SAFETY: as above.
    unsafe { set(mbuf, DPDK_MBUF_DATA_LEN, 0_u16) };
}

/// Whether nothing but one store is needed to give `mbuf` back: one owner, one segment, own buffer.
///
/// # Safety
/// `mbuf` is live.
#[inline(always)]
unsafe fn is_plain(mbuf: *mut rte_mbuf) -> bool {
    // SAFETY: the caller's promise.
    let owners = unsafe { field(mbuf, DPDK_MBUF_REFCNT) };
    // SAFETY: 16 aligned bits that C touches atomically.
    let owners = unsafe { AtomicU16::from_ptr(owners) };
    // SAFETY: a live mbuf's field.
    let segments: u16 = unsafe { get(mbuf, DPDK_MBUF_NB_SEGS) };
    // SAFETY: a live mbuf's field.
    let flags: u64 = unsafe { get(mbuf, DPDK_MBUF_OL_FLAGS) };
    // Pairs with the release in the driver that dropped the last other reference.
    owners.load(Ordering::Acquire) == 1
        && segments == 1
        && flags & (RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL) == 0
}

/// Gives an mbuf, with all its segments, back to its pool.
///
/// # Safety
/// `mbuf` is live and the caller's, and not used again; `lcore` is the id of the calling thread
/// or [`LCORE_NONE`].
#[inline(always)]
pub unsafe fn mbuf_free(mbuf: *mut rte_mbuf, lcore: u32) {
    // SAFETY: the caller's promise.
    let plain = unsafe { is_plain(mbuf) };
    // SAFETY: a live mbuf's field.
    let pool: *mut rte_mempool = unsafe { get(mbuf, DPDK_MBUF_POOL) };
    // SAFETY: pools outlive their mbufs.
    let cache = unsafe { cache(pool, lcore) };
    // SAFETY: the calling thread's cache.
    let cached = plain && unsafe { cache_push(cache, mbuf) };
    if !cached {
        // SAFETY: the caller gives the mbuf away.
        unsafe { dpdk_mbuf_free(mbuf) };
    }
}

/// False when there is no cache or it is full.
///
/// # Safety
/// `cache` is null or the calling thread's; `mbuf` is plain and of the same pool.
#[inline(always)]
unsafe fn cache_push(cache: *mut rte_mempool_cache, mbuf: *mut rte_mbuf) -> bool {
    if cache.is_null() {
        return false;
    }
    // SAFETY: only the thread that owns the cache touches it.
    let size = unsafe { (*cache).size };
    // SAFETY: as above.
    let len = unsafe { &mut (*cache).len };
    let at = *len;
    if at >= size {
        return false;
    }
    *len = at + 1;
    // SAFETY: below the size of the cache.
    let slot = unsafe { slot(cache, at) };
    // SAFETY: as above.
    unsafe { *slot = mbuf };
    true
}

//! One packet buffer with one owner.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use dpdk_sys::inline::{self, mbuf_free};
use dpdk_sys::{
    DPDK_MBUF_BUF_ADDR, DPDK_MBUF_BUF_LEN, DPDK_MBUF_DATA_LEN, DPDK_MBUF_DATA_OFF,
    DPDK_MBUF_NB_SEGS, DPDK_MBUF_PKT_LEN, DPDK_MBUF_PORT, rte_mbuf,
};

use crate::thread;

/// An owned packet buffer: headroom, data, tailroom. It dereferences to its data and goes back to
/// its pool on drop.
///
/// ```text
/// | headroom | data (len) | tailroom |
///    prepend ◀            ▶ append
///        adj ▶            ◀ trim
/// ```
///
/// A packet of several segments ([`Mbuf::is_linear`] is false) shows its first only and takes no
/// more data; the usual thing is to drop it.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an mbuf is plain memory with one owner; its pool takes it back from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// Takes ownership; `None` for null.
    ///
    /// # Safety
    /// `raw` is null or a live mbuf, fit for use, that nobody else owns.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(raw: *mut rte_mbuf) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    #[inline(always)]
    fn get<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: an owned mbuf is live; each caller below names the type of the field.
        unsafe { inline::get(self.0.as_ptr(), offset) }
    }

    #[inline(always)]
    fn set<T: Copy>(&mut self, offset: u32, value: T) {
        // SAFETY: as in `get`, by the only owner.
        unsafe { inline::set(self.0.as_ptr(), offset, value) };
    }

    /// Start of the data.
    #[inline(always)]
    fn start(&self) -> *mut u8 {
        let buffer: *mut u8 = self.get(DPDK_MBUF_BUF_ADDR);
        // SAFETY: the data offset never exceeds the buffer.
        unsafe { buffer.add(self.headroom()) }
    }

    /// Bytes of the packet (of the first segment).
    #[inline(always)]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: `data_off + data_len <= buf_len`; the memory is the pool's and always mapped.
        unsafe { core::slice::from_raw_parts(self.start(), self.len()) }
    }

    /// Bytes of the packet (of the first segment).
    #[inline(always)]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; the mbuf has one owner, borrowed mutably here.
        unsafe { core::slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    /// Bytes of data (of the first segment).
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.get::<u16>(DPDK_MBUF_DATA_LEN))
    }

    /// Whether there is no data.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the packet over all its segments.
    #[inline(always)]
    #[must_use]
    pub fn packet_len(&self) -> usize {
        self.get::<u32>(DPDK_MBUF_PKT_LEN) as usize
    }

    /// Free bytes before the data.
    #[inline(always)]
    #[must_use]
    pub fn headroom(&self) -> usize {
        usize::from(self.get::<u16>(DPDK_MBUF_DATA_OFF))
    }

    /// Free bytes behind the data.
    #[inline(always)]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        let room = usize::from(self.get::<u16>(DPDK_MBUF_BUF_LEN));
        room.saturating_sub(self.headroom() + self.len())
    }

    /// Segments of the packet, 1 for a linear one.
    #[inline(always)]
    #[must_use]
    pub fn segments(&self) -> u16 {
        self.get(DPDK_MBUF_NB_SEGS)
    }

    /// Whether all bytes are in this buffer.
    #[inline(always)]
    #[must_use]
    pub fn is_linear(&self) -> bool {
        self.segments() == 1
    }

    /// The DPDK number of the port that received it, 65535 for none.
    #[inline(always)]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.get(DPDK_MBUF_PORT)
    }

    /// Grows the data by `count` bytes at its start and gives them, with whatever they contain.
    /// `None`, changing nothing, when the headroom is smaller.
    #[inline(always)]
    #[must_use]
    pub fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let offset = self.headroom().checked_sub(count)?;
        self.place(offset, self.len().checked_add(count)?)?;
        self.data_mut().get_mut(..count)
    }

    /// Grows the data by `count` bytes at its end and gives them, with whatever they contain.
    /// `None`, changing nothing, when the tailroom is smaller or the packet not linear.
    #[inline(always)]
    #[must_use]
    pub fn append(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.tailroom() || !self.is_linear() {
            return None;
        }
        let old = self.len();
        self.place(self.headroom(), old.checked_add(count)?)?;
        self.data_mut().get_mut(old..)
    }

    /// Cuts `count` bytes off the start. `None`, changing nothing, when there are fewer.
    #[inline(always)]
    #[must_use]
    pub fn adj(&mut self, count: usize) -> Option<()> {
        let len = self.len().checked_sub(count)?;
        self.place(self.headroom().checked_add(count)?, len)
    }

    /// Cuts `count` bytes off the end. `None`, changing nothing, when there are fewer or the
    /// packet is not linear.
    #[inline(always)]
    #[must_use]
    pub fn trim(&mut self, count: usize) -> Option<()> {
        if !self.is_linear() {
            return None;
        }
        let len = self.len().checked_sub(count)?;
        self.place(self.headroom(), len)
    }

    /// Moves both ends of a linear packet: the data starts `front` bytes earlier (later, when
    /// negative) and is `len` bytes long. `None`, changing nothing, when that does not fit into the
    /// buffer or the packet is not linear.
    #[inline(always)]
    #[must_use]
    pub fn reframe(&mut self, front: isize, len: usize) -> Option<()> {
        let room = usize::from(self.get::<u16>(DPDK_MBUF_BUF_LEN));
        let offset = self.headroom().checked_add_signed(-front)?;
        if !self.is_linear() || offset.checked_add(len)? > room {
            return None;
        }
        let (offset, short) = (u16::try_from(offset).ok()?, u16::try_from(len).ok()?);
        self.set(DPDK_MBUF_DATA_OFF, offset);
        self.set(DPDK_MBUF_DATA_LEN, short);
        self.set(DPDK_MBUF_PKT_LEN, u32::from(short));
        Some(())
    }

    /// Keeps `len` bytes from `front` on of a linear packet. `None`, changing nothing, when there are
    /// fewer or the packet is not linear.
    #[inline(always)]
    #[must_use]
    pub fn narrow(&mut self, front: usize, len: usize) -> Option<()> {
        if !self.is_linear() || front.checked_add(len)? > self.len() {
            return None;
        }
        let (front, len) = (u16::try_from(front).ok()?, u16::try_from(len).ok()?);
        // Not beyond the data, which ends within 65,535 bytes of the buffer's start.
        let offset: u16 = self.get(DPDK_MBUF_DATA_OFF);
        self.set(DPDK_MBUF_DATA_OFF, offset.wrapping_add(front));
        self.set(DPDK_MBUF_DATA_LEN, len);
        self.set(DPDK_MBUF_PKT_LEN, u32::from(len));
        Some(())
    }

    /// Asks for the fields that describe the buffer.
    #[inline(always)]
    pub fn prefetch(&self) {
        inline::prefetch(self.0.as_ptr().cast());
    }

    /// Asks for the fields that describe the buffer, which another core has written last and which
    /// will be written.
    #[inline(always)]
    pub fn prefetch_to_write(&self) {
        inline::prefetch_to_write(self.0.as_ptr().cast());
    }

    /// As [`prefetch_data`](Self::prefetch_data), for data that another core has and that will be
    /// written.
    #[inline(always)]
    pub fn prefetch_data_to_write(&self, before: usize, lines: usize) {
        let first = self.start().wrapping_sub(64 * before);
        for line in 0..before + lines {
            inline::prefetch_to_write(first.wrapping_add(64 * line));
        }
    }

    /// Asks for `before` cache lines in front of the data and `lines` from its start on. Reads the
    /// fields: ask for them before.
    #[inline(always)]
    pub fn prefetch_data(&self, before: usize, lines: usize) {
        let first = self.start().wrapping_sub(64 * before);
        for line in 0..before + lines {
            inline::prefetch(first.wrapping_add(64 * line));
        }
    }

    /// Sets where the data lies. Callers have checked that it stays within the buffer.
    #[inline(always)]
    fn place(&mut self, offset: usize, len: usize) -> Option<()> {
        let packet = (self.packet_len() + len).checked_sub(self.len())?;
        let (offset, len) = (u16::try_from(offset).ok()?, u16::try_from(len).ok()?);
        let packet = u32::try_from(packet).ok()?;
        self.set(DPDK_MBUF_DATA_OFF, offset);
        self.set(DPDK_MBUF_DATA_LEN, len);
        self.set(DPDK_MBUF_PKT_LEN, packet);
        Some(())
    }
}

impl Deref for Mbuf {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        self.data()
    }
}

impl DerefMut for Mbuf {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }
}

impl Drop for Mbuf {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the only owner gives it away, on the thread whose id `lcore` is.
        unsafe { mbuf_free(self.0.as_ptr(), thread::lcore()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("port", &self.port())
            .field("len", &self.len())
            .field("headroom", &self.headroom())
            .field("tailroom", &self.tailroom())
            .field("segments", &self.segments())
            .finish()
    }
}

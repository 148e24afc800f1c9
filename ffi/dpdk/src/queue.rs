//! Receive and transmit queues: one owner each.

use std::sync::Arc;

use dpdk_sys::inline;

use crate::port::Device;
use crate::{Batch, Mbuf};

/// A receive queue of a started port. It can move to another thread but not be shared.
#[derive(Debug)]
pub struct RxQueue {
    device: Arc<Device>,
    index: u16,
}

/// A transmit queue of a started port. It can move to another thread but not be shared.
#[derive(Debug)]
pub struct TxQueue {
    device: Arc<Device>,
    index: u16,
}

/// At most 64, the room of a batch.
#[allow(clippy::cast_possible_truncation)]
const fn burst_size(room: usize) -> u16 {
    room as u16
}

impl RxQueue {
    pub(crate) fn new(device: Arc<Device>, index: u16) -> Self {
        Self { device, index }
    }

    /// The DPDK number of the port.
    #[inline(always)]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.device.id()
    }

    /// The number of the queue on its port.
    #[inline(always)]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Receives into the free room of `batch`; returns how many packets were added.
    #[inline(always)]
    pub fn rx_burst(&mut self, batch: &mut Batch) -> usize {
        let (port, queue) = (self.device.id(), self.index);
        let burst = |end: *mut Mbuf, room: usize| {
            // SAFETY: the device stays started while a queue exists, `&mut` keeps other threads
            // away, and there is room for as many pointers.
            let received = unsafe { inline::rx_burst(port, queue, end.cast(), burst_size(room)) };
            usize::from(received)
        };
        // SAFETY: the driver writes as many mbufs as it says and owns them no more.
        unsafe { batch.fill(burst) }
    }
}

impl TxQueue {
    pub(crate) fn new(device: Arc<Device>, index: u16) -> Self {
        Self { device, index }
    }

    /// The DPDK number of the port.
    #[inline(always)]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.device.id()
    }

    /// The number of the queue on its port.
    #[inline(always)]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Sends from the front of `batch`; returns how many packets the driver took. The others stay
    /// in the batch, to be tried again or dropped.
    #[inline(always)]
    pub fn tx_burst(&mut self, batch: &mut Batch) -> usize {
        let (port, queue) = (self.device.id(), self.index);
        let burst = |first: *mut Mbuf, held: usize| {
            // SAFETY: the device stays started while a queue exists, `&mut` keeps other threads
            // away, and these are live mbufs of the batch.
            let sent = unsafe { inline::tx_burst(port, queue, first.cast(), burst_size(held)) };
            usize::from(sent)
        };
        // SAFETY: the driver owns as many mbufs as it says, from the front.
        unsafe { batch.give(burst) }
    }
}

/// What may move to a worker thread.
const _: () = {
    const fn movable<T: Send>() {}
    movable::<RxQueue>();
    movable::<TxQueue>();
    movable::<Batch>();
    movable::<crate::Port>();
    movable::<crate::Eal>();
};

//! The ways out of a worker. Each takes a packet for good and counts it.

use std::net::IpAddr;

use api::config::ExceptionLimits;
use api::counters::{Counter, Counts, DropReason, PortCounter};
use crossbeam_channel::TrySendError;
use dpdk::{Batch, Mbuf, TxQueue};

use super::handover::Leaving;
use crate::limit::TokenBucket;
use crate::links::{Class, Exception, Held, Notice, Punt, WorkerLinks};
use crate::packet::Packet;
use crate::port::{MAX_PORTS, PortIndex};

/// Tries to send a batch that the driver did not take whole.
const TX_TRIES: u32 = 4;
/// ICMP errors of one worker: a second, and at once (RFC 4443 2.4 f, RFC 1812 4.3.2.8).
const ICMP_ERRORS_PER_S: u32 = 1000;
const ICMP_ERRORS_BURST: u32 = 50;
/// A class may send this many times its rate per second at once, in tenths.
const BURST_TENTHS: u32 = 2;

/// How a packet leaves a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Not at all.
    Drop(DropReason),
    /// By this port; the frame is finished.
    Transmit(PortIndex),
    /// To Linux through its port's twin, within the limits of the class.
    Punt(Class),
    /// The same without limit: an answer to Linux, limited as such.
    ToTwin,
    /// To the control thread until the next hop has an address; otherwise finished.
    Hold {
        /// Egress port.
        port: PortIndex,
        /// Whose Ethernet address is missing.
        next_hop: IpAddr,
    },
    /// To another worker.
    HandOver(usize),
}

impl From<DropReason> for Exit {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Frames on their way to one port.
#[derive(Default)]
struct Outgoing {
    queue: Option<TxQueue>,
    batch: Batch,
    /// Bytes in the batch.
    bytes: u64,
}

/// All exits of one worker, and its counters.
pub(super) struct Exits {
    pub(super) counts: Counts,
    pub(super) links: WorkerLinks,
    /// Packets for other workers.
    pub(super) leaving: Leaving,
    outgoing: Vec<Outgoing>,
    /// Ports whose batch is not empty, one bit each.
    waiting: u32,
    /// `None` is no limit.
    classes: [Option<TokenBucket>; Class::COUNT],
    /// Frames that wait for a next hop's address: a flood to one that never answers must leave room
    /// in the channel for what the classes let through.
    held: Option<TokenBucket>,
    icmp_errors: TokenBucket,
    now_ms: u64,
    /// Something waits for the control thread.
    told_control: bool,
}

impl Exits {
    pub(super) fn new(links: WorkerLinks, limits: &ExceptionLimits) -> Self {
        let rates = [
            limits.ike_init,
            limits.ike_init_cookie,
            limits.ike_established,
            limits.neighbour,
            limits.other,
        ];
        let bucket = |rate: u32| {
            let burst = (rate / 10).saturating_mul(BURST_TENTHS).max(1);
            (rate > 0).then(|| TokenBucket::new(rate, burst))
        };
        Self {
            counts: Counts::new(),
            leaving: Leaving::new(links.peers.len()),
            links,
            outgoing: (0..MAX_PORTS).map(|_| Outgoing::default()).collect(),
            waiting: 0,
            classes: rates.map(bucket),
            held: bucket(limits.neighbour),
            icmp_errors: TokenBucket::new(ICMP_ERRORS_PER_S, ICMP_ERRORS_BURST),
            now_ms: 0,
            told_control: false,
        }
    }

    pub(super) fn set_queue(&mut self, port: PortIndex, queue: TxQueue) {
        if let Some(outgoing) = self.outgoing.get_mut(port.index()) {
            outgoing.queue = Some(queue);
        }
    }

    #[cfg(test)]
    pub(super) fn take_queue(&mut self, port: PortIndex) -> Option<TxQueue> {
        self.outgoing.get_mut(port.index())?.queue.take()
    }

    /// Ends a packet's way.
    #[cold]
    #[inline(never)]
    pub(super) fn leave(&mut self, packet: &mut Packet, exit: Exit) {
        match exit {
            Exit::Drop(reason) => self.discard(packet, reason),
            Exit::Transmit(port) => self.send(packet, port),
            Exit::Punt(class) => self.punt(packet, class),
            Exit::ToTwin => {
                let port = packet.port;
                let class = Class::Rest;
                self.tell(packet, |frame| Exception::Punt(Punt { frame, port, class }));
            }
            Exit::Hold { port, next_hop } => self.hold(packet, port, next_hop),
            Exit::HandOver(worker) => self.hand_over(packet, worker),
        }
    }

    pub(super) fn start_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Drops a packet.
    pub(super) fn discard(&mut self, packet: &mut Packet, reason: DropReason) {
        self.discard_frame(packet.take_frame(), reason);
    }

    pub(super) fn discard_frame(&mut self, frame: Option<Mbuf>, reason: DropReason) {
        drop(frame);
        self.counts.drop_one(reason);
    }

    /// Sends a finished packet.
    #[inline(always)]
    pub(super) fn send(&mut self, packet: &mut Packet, port: PortIndex) {
        match packet.take_frame() {
            Some(frame) => self.transmit(frame, port),
            None => self.counts.drop_one(DropReason::Internal),
        }
    }

    #[inline(always)]
    fn transmit(&mut self, frame: Mbuf, port: PortIndex) {
        let Some(outgoing) = self.outgoing.get_mut(port.index()) else {
            return self.discard_frame(Some(frame), DropReason::Internal);
        };
        self.waiting |= 1 << port.index();
        outgoing.bytes += frame.len() as u64;
        if let Err(frame) = outgoing.batch.push(frame) {
            self.transmit_full(frame, port);
        }
    }

    /// Makes room first.
    #[cold]
    fn transmit_full(&mut self, frame: Mbuf, port: PortIndex) {
        let bytes = frame.len() as u64;
        self.flush(port);
        let Some(outgoing) = self.outgoing.get_mut(port.index()) else {
            return self.discard_frame(Some(frame), DropReason::Internal);
        };
        outgoing.bytes = bytes;
        if let Err(frame) = outgoing.batch.push(frame) {
            self.discard_frame(Some(frame), DropReason::TxFull);
        }
    }

    /// Gives a packet for the gateway itself to the control thread, within its class's limit.
    fn punt(&mut self, packet: &mut Packet, class: Class) {
        let now_ms = self.now_ms;
        let bucket = self.classes.get_mut(class.index()).and_then(Option::as_mut);
        if bucket.is_some_and(|bucket| !bucket.take(now_ms)) {
            return self.discard(packet, limit_reason(class));
        }
        let port = packet.port;
        self.tell(packet, |frame| Exception::Punt(Punt { frame, port, class }));
    }

    /// Gives a finished frame to the control thread, to wait for its next hop's address, no more of
    /// them than neighbour messages.
    fn hold(&mut self, packet: &mut Packet, port: PortIndex, next_hop: IpAddr) {
        let now_ms = self.now_ms;
        let bucket = self.held.as_mut();
        if bucket.is_some_and(|bucket| !bucket.take(now_ms)) {
            return self.discard(packet, DropReason::NeighbourUnresolved);
        }
        self.tell(packet, |frame| {
            Exception::Held(Held {
                frame,
                port,
                next_hop,
            })
        });
    }

    fn tell(&mut self, packet: &mut Packet, message: impl FnOnce(Mbuf) -> Exception) {
        let Some(frame) = packet.take_frame() else {
            return self.counts.drop_one(DropReason::Internal);
        };
        match self.links.exceptions.try_send(message(frame)) {
            Ok(()) => self.told_control = true,
            Err(TrySendError::Full(_)) => self.counts.drop_one(DropReason::PuntFull),
            Err(TrySendError::Disconnected(_)) => self.counts.drop_one(DropReason::Stopping),
        }
    }

    /// Tells the control plane something; true if there was room.
    pub(super) fn notify(&mut self, notice: Notice) -> bool {
        let sent = self.links.notices.try_send(notice).is_ok();
        self.told_control |= sent;
        sent
    }

    /// True when an ICMP error may be sent now.
    pub(super) fn may_answer(&mut self) -> bool {
        self.icmp_errors.take(self.now_ms)
    }

    /// Counts a packet as dropped whose buffer one of our own takes over.
    pub(super) fn reused(&mut self, reason: DropReason) {
        self.counts.drop_one(reason);
        self.counts.add(Counter::Generated, 1);
    }

    /// Sends what waits for all ports, and wakes the control thread if it has work.
    #[inline]
    pub(super) fn flush_all(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        while waiting != 0 {
            if let Some(port) = PortIndex::new(waiting.trailing_zeros() as usize) {
                self.flush(port);
            }
            waiting &= waiting - 1;
        }
        if std::mem::take(&mut self.told_control) {
            self.links.bell.ring();
        }
    }

    #[inline]
    fn flush(&mut self, port: PortIndex) {
        let Some(outgoing) = self.outgoing.get_mut(port.index()) else {
            return;
        };
        let Some(queue) = &mut outgoing.queue else {
            outgoing.bytes = 0;
            let lost = outgoing.batch.drain().count();
            return self.counts.drop_many(DropReason::PortDown, lost as u64);
        };
        let mut sent = 0;
        for _ in 0..TX_TRIES {
            sent += queue.tx_burst(&mut outgoing.batch) as u64;
            if outgoing.batch.is_empty() {
                break;
            }
        }
        let left: usize = outgoing.batch.iter().map(|frame| frame.len()).sum();
        let bytes = std::mem::take(&mut outgoing.bytes).saturating_sub(left as u64);
        let lost = outgoing.batch.drain().count();
        let number = port.index();
        self.counts.add(Counter::Tx, sent);
        self.counts.add_port(number, PortCounter::TxPackets, sent);
        self.counts.add_port(number, PortCounter::TxBytes, bytes);
        self.counts.drop_many(DropReason::TxFull, lost as u64);
    }
}

fn limit_reason(class: Class) -> DropReason {
    match class {
        Class::IkeInit => DropReason::LimitIkeInit,
        Class::IkeInitCookie => DropReason::LimitIkeCookie,
        Class::Ike => DropReason::LimitIkeEstablished,
        Class::Neighbour => DropReason::LimitNeighbour,
        Class::Rest => DropReason::LimitOther,
    }
}

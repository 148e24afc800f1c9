//! Packets of SAs that another worker owns: they are collected by worker until the turn ends, and
//! leave in few messages. Those of one SA stay in order: they wait for each other, and a message in
//! front of another is taken in first.

use api::counters::{Counter, DropReason};
use api::id::MAX_WORKERS;
use dpdk::BATCH_SIZE;

use super::View;
use super::exits::Exits;
use super::flight::Flight;
use super::passes::{HEADER_LINES, Work};
use crate::handover::{Frames, MESSAGE_FRAMES, Refusal};
use crate::links::HandedOver;
use crate::packet::Packet;

// One bit a worker.
const _: () = assert!(MAX_WORKERS <= u64::BITS);
// A turn that has had as many frames as it wants has no room for a message more.
const _: () = assert!(MESSAGE_FRAMES <= BATCH_SIZE);

/// Packets that leave when the turn ends.
pub(super) struct Leaving {
    /// By worker.
    collected: Box<[Frames]>,
    /// Workers that there is something for, one bit each.
    waiting: u64,
}

impl Leaving {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            collected: (0..workers).map(|_| Frames::new()).collect(),
            waiting: 0,
        }
    }
}

impl Exits {
    /// Takes a packet for the worker that owns its SA.
    pub(super) fn hand_over(&mut self, packet: &mut Packet, worker: usize) {
        let (port, origin, vrf) = (packet.port, packet.origin, packet.vrf);
        let hops = packet.hops;
        let Some(frame) = packet.take_frame() else {
            return self.counts.drop_one(DropReason::Internal);
        };
        // An SA that changes hands all the time must not keep a packet for ever.
        if hops >= HandedOver::MAX_HOPS {
            return self.discard_frame(Some(frame), DropReason::HandoverFull);
        }
        let Some(collected) = self.leaving.collected.get_mut(worker) else {
            return self.discard_frame(Some(frame), DropReason::Internal);
        };
        collected.push(HandedOver {
            frame,
            port,
            origin,
            vrf,
            hops: hops + 1,
        });
        self.leaving.waiting |= 1 << worker;
        if collected.is_full() {
            self.send_over(worker);
        }
    }

    /// What was collected in the turn leaves.
    #[inline]
    pub(super) fn end_turn(&mut self) {
        while self.leaving.waiting != 0 {
            self.send_over(self.leaving.waiting.trailing_zeros() as usize);
        }
    }

    /// Sends what was collected for a worker; drops what that has no room for.
    #[inline(never)]
    fn send_over(&mut self, worker: usize) {
        self.leaving.waiting &= !(1 << worker);
        let Some(collected) = self.leaving.collected.get_mut(worker) else {
            return;
        };
        let all = collected.len() as u64;
        let sent = match self.links.peers.get(worker) {
            Some(peer) => peer.send(collected),
            None => Err(Refusal::Stopped),
        };
        let lost = collected.len() as u64;
        self.counts.add(Counter::HandedOver, all - lost);
        if let Err(refusal) = sent {
            collected.clear();
            self.counts.drop_many(reason(refusal), lost);
        }
    }

    /// Takes nothing any more from other workers, whose packets are dropped. For the end.
    pub(super) fn stop(&mut self) {
        let Self { links, counts, .. } = self;
        for frames in links.handed_over.close() {
            let lost = frames.len() as u64;
            counts.add(Counter::TakenOver, lost);
            counts.drop_many(DropReason::Stopping, lost);
        }
    }
}

const fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Full => DropReason::HandoverFull,
        Refusal::Stopped => DropReason::Stopping,
    }
}

impl Work {
    /// A burst of what other workers have handed over, as far as whole messages fit into it.
    pub(super) fn take_handed_over<'t>(
        &mut self,
        view: &View<'t>,
        flights: &mut [Flight<'t>],
    ) -> usize {
        let slot = self.line.slot();
        let Some(flight) = flights.get_mut(slot) else {
            return 0;
        };
        while flight.lanes.len() + MESSAGE_FRAMES <= BATCH_SIZE {
            let Some(frames) = self.exits.links.handed_over.receive() else {
                break;
            };
            self.board(flight, frames);
        }
        let taken = flight.lanes.len();
        if taken > 0 {
            let mut bytes = 0;
            for frame in flight.lanes.iter().filter_map(|lane| lane.packet.frame()) {
                frame.prefetch_data_to_write(0, HEADER_LINES);
                bytes += frame.len() as u64;
            }
            self.line.press(taken, bytes);
            self.set_out(view, flights, slot);
            self.transmit();
        }
        taken
    }

    fn board(&mut self, flight: &mut Flight<'_>, frames: Frames) {
        let counts = &mut self.exits.counts;
        counts.add(Counter::TakenOver, frames.len() as u64);
        for from in frames {
            let HandedOver {
                frame,
                port,
                origin,
                vrf,
                hops,
            } = from;
            frame.prefetch_to_write();
            match flight.board(frame, port, vrf, origin) {
                Some(packet) => packet.hops = hops,
                None => counts.drop_one(DropReason::Internal),
            }
        }
    }
}

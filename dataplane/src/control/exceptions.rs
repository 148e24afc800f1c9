//! The exception path: frames between workers and the twins, and frames that wait for a neighbour.
//!
//! The control thread counts what becomes of them in its own counters, under the same rule as the
//! workers: what came in is somewhere.

use crossbeam_channel::TrySendError;
use dpdk::Mempool;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use api::counters::{Counter, Counts, DropReason};

use super::mirror::Mirror;
use super::neighbours::Key;
use super::tap::Tap;
use super::waiting::Waiting;
use crate::links::{ControlLinks, Exception, Held, Injected};
use crate::port::PortIndex;
use crate::tables::fib::Neighbours;

/// Frames taken from one source before the others get their turn.
const TURN_FRAMES: usize = 256;
/// The longest frame that a twin sends, in bytes.
const FRAME_BYTES: usize = 9_216 + 18;

/// One port's twin.
pub struct Twin {
    pub port: PortIndex,
    pub name: String,
    pub tap: Tap,
    /// Somebody removed it; nothing more to read or wait for.
    pub lost: bool,
}

/// Both directions of the exception path.
pub struct Exceptions {
    links: ControlLinks,
    twins: Vec<Twin>,
    pool: Mempool,
    waiting: Waiting<Held>,
    counts: Counts,
    room: Vec<u8>,
}

impl Exceptions {
    /// `pool` is where frames from the twins are put.
    #[must_use]
    pub fn new(links: ControlLinks, twins: Vec<Twin>, pool: Mempool) -> Self {
        Self {
            links,
            twins,
            pool,
            waiting: Waiting::default(),
            counts: Counts::new(),
            room: vec![0; FRAME_BYTES],
        }
    }

    /// The channels to the workers.
    #[must_use]
    pub fn links(&self) -> &ControlLinks {
        &self.links
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The same, for what else the control thread counts.
    pub fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// Descriptors of the twins, to wait on.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let twins = self.twins.iter().filter(|twin| !twin.lost);
        twins.map(|twin| twin.tap.as_fd())
    }

    /// Names of the twins by port.
    #[must_use]
    pub fn twin_name(&self, port: PortIndex) -> Option<&str> {
        let twin = self.twins.iter().find(|twin| twin.port == port)?;
        Some(&twin.name)
    }

    /// Moves what waits, both ways. True if there may be more.
    pub fn turn(&mut self, mirror: &mut Mirror, neighbours: &Neighbours, now: Instant) -> bool {
        let from_workers = self.take_exceptions(mirror, neighbours, now);
        let from_twins = self.take_injections();
        self.ask_and_expire(mirror, now);
        self.counts.set(
            Counter::Held,
            u64::try_from(self.waiting.len()).unwrap_or(u64::MAX),
        );
        from_workers | from_twins
    }

    /// Lets frames go whose next hop has become known.
    pub fn neighbours_changed(&mut self, neighbours: &Neighbours) {
        let known: Vec<Key> = self
            .waiting
            .hops()
            .filter(|hop| neighbours.contains_key(hop))
            .collect();
        for hop in known {
            for held in self.waiting.take(&hop) {
                self.inject(hop.0, Injected::Released(held));
            }
        }
    }

    /// Drops all that waits: the dataplane ends.
    pub fn stop(&mut self) {
        let hops: Vec<Key> = self.waiting.hops().collect();
        let frames: usize = hops.iter().map(|hop| self.waiting.take(hop).len()).sum();
        self.counts.drop_many(DropReason::Stopping, frames as u64);
        self.counts.set(Counter::Held, 0);
    }

    fn take_exceptions(&mut self, mirror: &mut Mirror, known: &Neighbours, now: Instant) -> bool {
        for _ in 0..TURN_FRAMES {
            match self.links.exceptions.try_recv() {
                Ok(Exception::Punt(punt)) => self.write_twin(punt.port, &punt.frame),
                Ok(Exception::Held(held)) => self.hold(held, mirror, known, now),
                Err(_) => return false,
            }
        }
        true
    }

    fn write_twin(&mut self, port: PortIndex, frame: &[u8]) {
        let Some(twin) = self.twins.iter().find(|twin| twin.port == port) else {
            return self.counts.drop_one(DropReason::TapFailed);
        };
        match twin.tap.write(frame) {
            Ok(true) => self.counts.add(Counter::Punted, 1),
            Ok(false) => self.counts.drop_one(DropReason::TapFull),
            Err(error) => {
                log::debug!(
                    "twin {}: frame of {} bytes: {error}",
                    twin.name,
                    frame.len()
                );
                self.counts.drop_one(DropReason::TapFailed);
            }
        }
    }

    fn hold(&mut self, held: Held, mirror: &mut Mirror, known: &Neighbours, now: Instant) {
        let (port, hop): (PortIndex, IpAddr) = (held.port, held.next_hop);
        // It may have become known while the frame was on its way here.
        if known.contains_key(&(port, hop)) {
            return self.inject(port, Injected::Released(held));
        }
        self.counts.add(Counter::NeighbourRequests, 1);
        mirror.resolve(port, hop, now);
        if self.waiting.push(port, hop, held, now).is_err() {
            self.counts.drop_one(DropReason::HeldTooLong);
        }
    }

    fn ask_and_expire(&mut self, mirror: &mut Mirror, now: Instant) {
        for (port, hop) in self.waiting.hops() {
            mirror.resolve(port, hop, now);
        }
        let late = self.waiting.expire(now).len();
        self.counts
            .drop_many(DropReason::NeighbourUnresolved, late as u64);
    }

    fn take_injections(&mut self) -> bool {
        let mut more = false;
        for index in 0..self.twins.len() {
            more |= self.read_twin(index);
        }
        more
    }

    fn read_twin(&mut self, index: usize) -> bool {
        let mut room = std::mem::take(&mut self.room);
        let mut taken = 0;
        while taken < TURN_FRAMES {
            let Some(twin) = self.twins.get_mut(index).filter(|twin| !twin.lost) else {
                break;
            };
            let port = twin.port;
            match twin.tap.read(&mut room) {
                Ok(Some(frame)) => self.take_frame(port, frame),
                Ok(None) => break,
                Err(error) => {
                    log::error!("twin {}: {error}; restart to make it anew", twin.name);
                    twin.lost = true;
                }
            }
            taken += 1;
        }
        self.room = room;
        taken >= TURN_FRAMES
    }

    fn take_frame(&mut self, port: PortIndex, frame: &[u8]) {
        self.counts.add(Counter::Injected, 1);
        match self.pool.alloc_copy(frame) {
            Some(frame) => self.inject(port, Injected::FromTwin { frame, port }),
            None => self.counts.drop_one(DropReason::NoBuffer),
        }
    }

    /// One worker takes all frames of a port, so that they stay in order.
    fn inject(&mut self, port: PortIndex, frame: Injected) {
        let workers = self.links.workers.len().max(1);
        let Some(worker) = self.links.workers.get(port.index() % workers) else {
            return self.counts.drop_one(DropReason::Stopping);
        };
        match worker.try_send(frame) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.counts.drop_one(DropReason::InjectFull),
            Err(TrySendError::Disconnected(_)) => self.counts.drop_one(DropReason::Stopping),
        }
    }
}

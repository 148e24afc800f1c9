//! The stages of a turn, in the order in which packets pass them.

use api::counters::{Counter, DropReason, PortCounter};
use dpdk::{Batch, RxQueue};

use super::classify::{self, FromTwin, Sorted};
use super::crypto::{Engine, Lent};
use super::exits::{Exit, Exits};
use super::forward::{self, Clear, Onward};
use super::inbound::{self, Inbound, InboundBatch};
use super::outbound::{self, Outbound, OutboundBatch};
use super::{View, answer};
use crate::links::Injected;
use crate::packet::{Origin, Packet};
use crate::port::PortIndex;

/// Frames that one turn takes from each channel.
const CHANNEL_BURST: usize = 64;

/// An item that a stage can end the way of.
pub(super) trait Carries {
    fn packet_mut(&mut self) -> &mut Packet;
}

/// Runs a stage over all items, in order: those that it refuses leave by the exit it names.
fn stage<T: Carries>(
    items: &mut Vec<T>,
    exits: &mut Exits,
    mut step: impl FnMut(&mut T, &mut Exits) -> Result<(), Exit>,
) {
    items.retain_mut(|item| match step(item, exits) {
        Ok(()) => true,
        Err(exit) => {
            exits.leave(item.packet_mut().take(), exit);
            false
        }
    });
}

/// Queues, exits and the packets under way.
pub(super) struct Work {
    receivers: Vec<(PortIndex, RxQueue)>,
    pub(super) exits: Exits,
    engine: Engine,
    arrivals: Vec<Packet>,
    inbound: InboundBatch,
    clear: Vec<Clear>,
    outbound: OutboundBatch,
}

impl Work {
    pub(super) fn new(receivers: Vec<(PortIndex, RxQueue)>, exits: Exits) -> Self {
        Self {
            receivers,
            exits,
            engine: Engine::default(),
            arrivals: Vec::new(),
            inbound: InboundBatch::default(),
            clear: Vec::new(),
            outbound: OutboundBatch::default(),
        }
    }

    /// The packet's way, one line a stage.
    pub(super) fn process(&mut self, view: &View<'_>) {
        self.classify(view);
        self.look_up_sas(view);
        self.check_replay(view);
        self.open();
        self.commit_replay(view);
        self.decapsulate();
        self.check_selectors(view);
        self.deliver(view);
        self.admit(view);
        self.route(view);
        self.assign_sas(view);
        self.fit(view);
        self.number(view);
        self.encapsulate();
        self.seal();
        self.depart(view);
        self.exits.flush_all();
    }
}

impl Work {
    /// A burst of each port, and what other threads have for us. Gives the number of packets.
    pub(super) fn receive(&mut self, view: &View<'_>) -> usize {
        let mut receivers = std::mem::take(&mut self.receivers);
        for (port, queue) in &mut receivers {
            let mut batch = Batch::new();
            if queue.rx_burst(&mut batch) > 0 {
                self.accept(view, *port, batch);
            }
        }
        self.receivers = receivers;
        self.take_injected(view);
        self.take_handed_over();
        self.arrivals.len()
    }

    /// Takes in what a port received.
    pub(super) fn accept(&mut self, view: &View<'_>, port: PortIndex, mut batch: Batch) {
        let vrf = view.port(port).map(|info| info.vrf).unwrap_or_default();
        let (count, bytes): (usize, usize) =
            (batch.len(), batch.iter().map(|frame| frame.len()).sum());
        let counts = &mut self.exits.counts;
        counts.add(Counter::Rx, count as u64);
        counts.add(Counter::RxBatches, 1);
        counts.add_port(port.index(), PortCounter::RxPackets, count as u64);
        counts.add_port(port.index(), PortCounter::RxBytes, bytes as u64);
        let packets = batch
            .drain()
            .map(|frame| Packet::new(frame, port, vrf, Origin::Wire));
        self.arrivals.extend(packets);
    }

    fn take_injected(&mut self, view: &View<'_>) {
        for _ in 0..CHANNEL_BURST {
            let Ok(injected) = self.exits.links.injected.try_recv() else {
                return;
            };
            let (frame, port, held) = match injected {
                Injected::FromTwin { frame, port } => (frame, port, None),
                Injected::Released(held) => (held.frame, held.port, Some(held.next_hop)),
            };
            let vrf = view.port(port).map(|info| info.vrf).unwrap_or_default();
            let mut packet = Packet::new(frame, port, vrf, Origin::Twin);
            packet.next_hop = held;
            self.arrivals.push(packet);
        }
    }

    fn take_handed_over(&mut self) {
        for _ in 0..CHANNEL_BURST {
            let Ok(from) = self.exits.links.handed_over.try_recv() else {
                return;
            };
            let mut packet = Packet::new(from.frame, from.port, from.vrf, from.origin);
            packet.hops = from.hops;
            self.exits.counts.add(Counter::TakenOver, 1);
            self.arrivals.push(packet);
        }
    }

    /// Sorts what arrived: ESP, clear packets, exceptions.
    fn classify(&mut self, view: &View<'_>) {
        let Self {
            exits,
            arrivals,
            inbound,
            clear,
            ..
        } = self;
        for mut packet in arrivals.drain(..) {
            match sort(view, &mut packet) {
                Ok(Sorted::Esp(esp)) => inbound.items.push(Inbound::new(packet, esp)),
                Ok(Sorted::Clear(found)) => {
                    let (ip, to_us) = (found.ip, found.to_us);
                    clear.push(Clear { packet, ip, to_us });
                }
                Ok(Sorted::Exception(class)) => exits.leave(packet, Exit::Punt(class)),
                Err(exit) => exits.leave(packet, exit),
            }
        }
    }

    fn look_up_sas(&mut self, view: &View<'_>) {
        let InboundBatch { items, groups } = &mut self.inbound;
        stage(items, &mut self.exits, |item, _| {
            inbound::lookup(view, item, groups)
        });
    }

    fn check_replay(&mut self, view: &View<'_>) {
        let InboundBatch { items, groups } = &mut self.inbound;
        stage(items, &mut self.exits, |item, _| {
            inbound::check_replay(view, item, groups)
        });
    }

    fn open(&mut self) {
        if self.inbound.items.is_empty() {
            return;
        }
        self.exits.counts.add(Counter::CryptoBatches, 1);
        self.engine
            .submit(Lent::Inbound(std::mem::take(&mut self.inbound)));
        self.complete();
    }

    fn commit_replay(&mut self, view: &View<'_>) {
        let InboundBatch { items, groups } = &mut self.inbound;
        stage(items, &mut self.exits, |item, exits| {
            inbound::commit_replay(view, item, groups, exits)
        });
    }

    fn decapsulate(&mut self) {
        let InboundBatch { items, groups } = &mut self.inbound;
        stage(items, &mut self.exits, |item, _| {
            inbound::decapsulate(item, groups)
        });
    }

    fn check_selectors(&mut self, view: &View<'_>) {
        let InboundBatch { items, groups } = &mut self.inbound;
        stage(items, &mut self.exits, |item, _| {
            inbound::check_selectors(view, item, groups)
        });
    }

    /// Decrypted packets join the clear ones.
    fn deliver(&mut self, view: &View<'_>) {
        let InboundBatch { items, groups } = &mut self.inbound;
        self.clear
            .extend(items.drain(..).map(|item| inbound::into_clear(view, item)));
        groups.clear();
    }

    fn admit(&mut self, view: &View<'_>) {
        stage(&mut self.clear, &mut self.exits, |clear, exits| {
            forward::admit(view, clear, exits)
        });
    }

    /// Sends clear packets on, or towards their tunnel.
    fn route(&mut self, view: &View<'_>) {
        let Self {
            exits,
            clear,
            outbound,
            ..
        } = self;
        for mut clear in clear.drain(..) {
            match forward::route(view, &clear, exits) {
                Ok(Onward::Protect {
                    policy,
                    child,
                    flow,
                }) => {
                    outbound
                        .items
                        .push(Outbound::new(clear, policy, child, flow));
                }
                Ok(Onward::AsItIs) => {
                    let port = clear.packet.port;
                    exits.leave(clear.packet, Exit::Transmit(port));
                }
                Ok(Onward::Port { port, next_hop }) => {
                    match forward::forward(view, &mut clear, port) {
                        Ok(()) => {
                            let family = clear.ip.family;
                            let packet = &mut clear.packet;
                            let exit = outbound::next_hop(view, packet, family, port, next_hop);
                            exits.leave(clear.packet, exit);
                        }
                        Err(refusal) => {
                            answer::refuse(view, exits, clear.packet, &clear.ip, refusal);
                        }
                    }
                }
                Err(exit) => exits.leave(clear.packet, exit),
            }
        }
    }

    fn assign_sas(&mut self, view: &View<'_>) {
        let OutboundBatch { items, groups } = &mut self.outbound;
        stage(items, &mut self.exits, |item, exits| {
            outbound::assign(view, item, groups, exits)
        });
    }

    fn fit(&mut self, view: &View<'_>) {
        let Self {
            exits,
            outbound: OutboundBatch { items, groups },
            ..
        } = self;
        items.retain_mut(|item| match outbound::fit(item, groups) {
            Ok(()) => true,
            Err(refusal) => {
                let packet = item.clear.packet.take();
                answer::refuse(view, exits, packet, &item.clear.ip, refusal);
                false
            }
        });
    }

    /// Sequence numbers of the whole batch, stored before crypto sees one of them.
    fn number(&mut self, view: &View<'_>) {
        let OutboundBatch { items, groups } = &mut self.outbound;
        stage(items, &mut self.exits, |item, exits| {
            outbound::number(view, item, groups, exits)
        });
        outbound::store_sequences(view, groups);
    }

    fn encapsulate(&mut self) {
        let OutboundBatch { items, groups } = &mut self.outbound;
        stage(items, &mut self.exits, |item, exits| {
            outbound::encapsulate(item, groups, exits)
        });
    }

    fn seal(&mut self) {
        if self.outbound.items.is_empty() {
            return;
        }
        self.exits.counts.add(Counter::CryptoBatches, 1);
        self.engine
            .submit(Lent::Outbound(std::mem::take(&mut self.outbound)));
        self.complete();
    }

    fn depart(&mut self, view: &View<'_>) {
        let OutboundBatch { items, groups } = &mut self.outbound;
        stage(items, &mut self.exits, |item, _| {
            outbound::depart(view, item, groups)
        });
        groups.clear();
    }

    /// Takes a lent batch back.
    fn complete(&mut self) {
        match self.engine.complete() {
            Some(Lent::Inbound(batch)) => self.inbound = batch,
            Some(Lent::Outbound(batch)) => self.outbound = batch,
            None => {}
        }
    }
}

/// Sorts one packet by where it came from.
fn sort(view: &View<'_>, packet: &mut Packet) -> Result<Sorted, Exit> {
    if let Some(next_hop) = packet.next_hop {
        return Err(outbound::release(view, packet, next_hop));
    }
    let locals = &view.snapshot.locals;
    let port = view.port(packet.port).ok_or(DropReason::Internal)?;
    if packet.frame_mut().is_none_or(|frame| !frame.is_linear()) {
        return Err(DropReason::ChainedMbuf.into());
    }
    let sorted = match packet.origin {
        Origin::Wire => classify::wire(packet.bytes(), port, packet.vrf, locals)?,
        Origin::Twin => match classify::twin(packet.bytes(), packet.vrf, locals)? {
            FromTwin::Implicit => return Err(Exit::Transmit(packet.port)),
            FromTwin::Clear(found) => Sorted::Clear(found),
        },
        Origin::Tunnel => classify::tunnel(packet.bytes())?,
    };
    match sorted {
        Sorted::Exception(class) => Err(Exit::Punt(class)),
        _ if !view.snapshot.committed => Err(DropReason::NotReady.into()),
        sorted => Ok(sorted),
    }
}

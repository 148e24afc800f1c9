//! The stages of a turn, in the order in which packets pass them.

use api::counters::{Counter, DropReason, PortCounter};
use api::id::SaId;
use dpdk::{Batch, RxQueue};

use super::classify::{self, FromTwin, Sorted};
use super::crypto::{self, Verdicts};
use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::forward::{self, Onward};
use super::recall::Recall;
use super::search::Search;
use super::stage_clock::StageClock;
use super::{View, answer, inbound, outbound};
use crate::links::{Held, Injected};
use crate::packet::{Origin, Packet};
use crate::port::{PortIndex, PortInfo};

/// Frames that one turn takes from each channel.
const CHANNEL_BURST: usize = dpdk::BATCH_SIZE;
/// How many frames ahead of the one whose headers are asked for descriptions are.
const PREFETCH_FRAMES: usize = 8;
/// Cache lines of a frame that classification and the stages behind it look at.
pub(super) const HEADER_LINES: usize = 2;
/// Those in front of it that outer headers will be written to.
const ROOM_LINES: usize = 1;

/// Queues, exits and what the stages count.
pub(super) struct Work {
    pub(super) receivers: Vec<(PortIndex, RxQueue)>,
    pub(super) exits: Exits,
    search: Search,
    recall: Recall,
    clock: StageClock,
    /// The stages' time goes on from the last one.
    busy: bool,
}

impl Work {
    pub(super) fn new(
        receivers: Vec<(PortIndex, RxQueue)>,
        exits: Exits,
        recall: Recall,
        clock: StageClock,
    ) -> Self {
        Self {
            receivers,
            exits,
            search: Search::default(),
            recall,
            clock,
            busy: false,
        }
    }

    /// The packet's way, one line a pass over the burst. What a pass needs of memory, the one before
    /// has asked for.
    pub(super) fn process<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>) {
        self.classify(view, flight);

        let esp = self.look_up_sas(view, flight, flight.esp);
        let opened = self.check_replay_and_open(view, flight, esp);
        let inner = self.decapsulate(view, flight, opened);
        let inner = self.deliver(view, flight, inner);

        let known = self.recall_tunnels(view, flight, flight.flows);
        let clear = inner | flight.clear | flight.flows.without(known);
        let clear = self.admit(view, flight, clear);
        let clear = self.look_for_ways(view, flight, clear);
        let outbound = known | self.route(view, flight, clear);

        let outbound = self.choose_sas(view, flight, outbound);
        let outbound = self.take_sas(view, flight, outbound);
        let sealed = self.encapsulate_and_seal(view, flight, outbound);
        self.depart(view, flight, sealed);
        self.transmit();
    }
}

impl Work {
    /// A burst of each port, and what other threads have for us, each from end to end. Gives the
    /// number of packets.
    pub(super) fn turn(&mut self, view: &View<'_>) -> usize {
        let mut packets = 0;
        for at in 0..self.receivers.len() {
            self.start_clock();
            let Some((port, queue)) = self.receivers.get_mut(at) else {
                break;
            };
            let (port, mut batch) = (*port, Batch::new());
            if queue.rx_burst(&mut batch) > 0 {
                packets += batch.len();
                self.accept(view, port, batch);
            }
        }
        packets += self.take_injected(view);
        packets + self.take_handed_over(view)
    }

    /// What lies between two turns with packets is the turn's own.
    #[inline]
    fn start_clock(&mut self) {
        if std::mem::take(&mut self.busy) {
            self.lap(Counter::StageTurn);
        } else {
            self.clock.start();
        }
    }

    /// Takes in what a port received.
    pub(super) fn accept(&mut self, view: &View<'_>, port: PortIndex, mut batch: Batch) {
        let vrf = view.port(port).map(|info| info.vrf).unwrap_or_default();
        let count = batch.len() as u64;
        let (mut flight, mut bytes) = (Flight::default(), 0);
        for frame in batch.iter().take(PREFETCH_FRAMES) {
            frame.prefetch();
        }
        for (at, frame) in batch.iter().enumerate() {
            if let Some(ahead) = batch.get(at + PREFETCH_FRAMES) {
                ahead.prefetch();
            }
            frame.prefetch_data(0, HEADER_LINES);
            bytes += frame.len() as u64;
        }
        for frame in batch.drain() {
            if flight.board(frame, port, vrf, Origin::Wire).is_none() {
                self.exits.counts.drop_one(DropReason::Internal);
            }
        }
        let counts = &mut self.exits.counts;
        counts.add(Counter::Rx, count);
        counts.add(Counter::RxBatches, 1);
        counts.add_port(port.index(), PortCounter::RxPackets, count);
        counts.add_port(port.index(), PortCounter::RxBytes, bytes);
        self.lap(Counter::StageRx);
        self.process(view, &mut flight);
    }

    fn take_injected(&mut self, view: &View<'_>) -> usize {
        let mut flight = Flight::default();
        let mut taken = 0;
        for _ in 0..CHANNEL_BURST {
            let Ok(injected) = self.exits.links.injected.try_recv() else {
                break;
            };
            taken += 1;
            match injected {
                Injected::FromTwin { frame, port } => {
                    let vrf = view.port(port).map(|info| info.vrf).unwrap_or_default();
                    if flight.board(frame, port, vrf, Origin::Twin).is_none() {
                        self.exits.counts.drop_one(DropReason::Internal);
                    }
                }
                Injected::Released(held) => self.release(view, held),
            }
        }
        if taken > 0 {
            self.process(view, &mut flight);
        }
        taken
    }

    /// A finished frame whose next hop may have an address now.
    fn release(&mut self, view: &View<'_>, held: Held) {
        let Held {
            frame,
            port,
            next_hop,
        } = held;
        let vrf = view.port(port).map(|info| info.vrf).unwrap_or_default();
        let mut packet = Packet::new(frame, port, vrf, Origin::Twin);
        let exit = outbound::release(view, &mut packet, next_hop);
        self.exits.leave(&mut packet, exit);
    }

    /// Sorts what arrived: ESP, clear packets, exceptions.
    fn classify<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>) {
        let Self { exits, recall, .. } = self;
        let Flight {
            lanes,
            esp,
            flows,
            clear,
        } = flight;
        let mut own = OwnMac::default();
        for (number, lane) in lanes.iter_mut().enumerate() {
            match sort(view, lane, &mut own) {
                Ok(Sorted::Esp) => {
                    inbound::announce(view, lane);
                    esp.insert(number);
                }
                Ok(Sorted::Clear) if recall.ask_tunnel(view, lane) => flows.insert(number),
                Ok(Sorted::Clear) => clear.insert(number),
                Ok(Sorted::Exception(class)) => exits.leave(&mut lane.packet, Exit::Punt(class)),
                Err(Exit::Transmit(port)) => exits.send(&mut lane.packet, port),
                Err(exit) => exits.leave(&mut lane.packet, exit),
            }
        }
        self.lap(Counter::StageClassify);
    }

    fn look_up_sas<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let mut last = None;
        let passed = flight.stage(set, &mut self.exits, |lane, _| {
            inbound::look_up(view, lane, &mut last)
        });
        self.done(Counter::StageLookup, passed)
    }

    /// Replay windows are looked at packet by packet, then crypto has all of them.
    fn check_replay_and_open<'t>(
        &mut self,
        view: &View<'t>,
        flight: &mut Flight<'t>,
        set: Set,
    ) -> Set {
        if set.is_empty() {
            return set;
        }
        self.exits.counts.add(Counter::CryptoBatches, 1);
        let Verdicts { asked, good } =
            crypto::open(flight, set, &mut self.exits, inbound::ReplayCheck);
        flight.stage(asked.without(good), &mut self.exits, |lane, _| {
            Err(inbound::forged(view, lane))
        });
        self.done(Counter::StageCrypto, good)
    }

    /// Moves replay windows, strips outer headers, checks selectors.
    fn decapsulate<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let passed = inbound::decapsulate(view, flight, set, &mut self.exits, &self.recall);
        self.done(Counter::StageEncap, passed)
    }

    /// Sends what goes to a destination that is remembered; gives the rest.
    fn deliver<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self { exits, recall, .. } = self;
        let rest = flight.stage(set, exits, |lane, _| recall.deliver(view, lane));
        self.done(Counter::StageLookup, rest)
    }

    /// Flows whose tunnel is remembered.
    fn recall_tunnels<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let mut known = Set::default();
        for number in set {
            if let Some(lane) = flight.lanes.get_mut(number)
                && self.recall.tunnel(view, lane)
            {
                view.tables.prefetch_active(lane.child);
                known.insert(number);
            }
        }
        Recall::count(&mut self.exits, known.len(), set.len() - known.len());
        self.done(Counter::StageLookup, known)
    }

    fn admit<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self { exits, search, .. } = self;
        let passed = flight.stage(set, exits, |lane, exits| {
            forward::admit(view, lane, search, exits)
        });
        self.done(Counter::StageLookup, passed)
    }

    fn look_for_ways<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self { exits, search, .. } = self;
        let passed = flight.stage(set, exits, |lane, _| {
            forward::look_for_way(view, lane, search)
        });
        self.done(Counter::StageLookup, passed)
    }

    /// Sends clear packets on, or towards their tunnel.
    fn route<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self {
            exits,
            search,
            recall,
            ..
        } = self;
        let passed = flight.stage(set, exits, |lane, exits| {
            match forward::route(view, lane, search, exits)? {
                Onward::Protect => {
                    recall.note_tunnel(view, lane);
                    Ok(())
                }
                Onward::AsItIs => Err(Exit::Transmit(lane.port())),
                Onward::Port { port, next_hop } => match forward::forward(view, lane, port) {
                    Ok(()) => {
                        let family = lane.head.family;
                        let packet = &mut lane.packet;
                        let exit = outbound::next_hop(view, packet, family, port, next_hop);
                        if let Exit::Transmit(port) = exit {
                            recall.note_destination(view, lane, port);
                        }
                        Err(exit)
                    }
                    Err(refusal) => Err(answer::refuse(view, exits, &mut lane.packet, refusal)),
                },
            }
        });
        self.done(Counter::StageLookup, passed)
    }

    fn choose_sas<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let mut last = SaId(0);
        let passed = flight.stage(set, &mut self.exits, |lane, exits| {
            outbound::choose_sa(view, lane, exits)?;
            if let Some(frame) = lane.packet.frame() {
                frame.prefetch_data(ROOM_LINES, 0);
            }
            if lane.sa_id != last {
                view.announce(lane.sa_id);
                last = lane.sa_id;
            }
            Ok(())
        });
        self.done(Counter::StageLookup, passed)
    }

    fn take_sas<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let mut last = None;
        let passed = flight.stage(set, &mut self.exits, |lane, _| {
            outbound::take_sa(view, lane, &mut last)
        });
        self.done(Counter::StageLookup, passed)
    }

    /// Size, sequence numbers and outer headers packet by packet, then crypto has all of them.
    fn encapsulate_and_seal<'t>(
        &mut self,
        view: &View<'t>,
        flight: &mut Flight<'t>,
        set: Set,
    ) -> Set {
        if set.is_empty() {
            return set;
        }
        self.exits.counts.add(Counter::CryptoBatches, 1);
        let preparation = outbound::Encapsulation::new(view);
        let Verdicts { asked, good } = crypto::seal(flight, set, &mut self.exits, preparation);
        flight.stage(asked.without(good), &mut self.exits, |_, _| {
            Err(DropReason::CryptoFailed.into())
        });
        self.done(Counter::StageCrypto, good)
    }

    fn depart<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) {
        flight.stage(set, &mut self.exits, |lane, _| {
            Err(outbound::depart(view, lane))
        });
    }

    /// What waits for the ports leaves.
    fn transmit(&mut self) {
        self.exits.flush_all();
        self.lap(Counter::StageTx);
        self.busy = true;
    }

    /// Ends a stage: the lanes that passed it.
    #[inline(always)]
    fn done(&mut self, stage: Counter, passed: Set) -> Set {
        self.lap(stage);
        passed
    }

    #[inline(always)]
    fn lap(&mut self, stage: Counter) {
        self.clock.lap(&mut self.exits.counts, stage);
    }
}

/// The Ethernet address of the last packet's port: of a burst it is always the same.
#[derive(Default)]
struct OwnMac {
    port: Option<PortIndex>,
    mac: u64,
}

impl OwnMac {
    #[inline(always)]
    fn of(&mut self, port: &PortInfo) -> u64 {
        if self.port != Some(port.index) {
            self.port = Some(port.index);
            self.mac = port.mac.word();
        }
        self.mac
    }
}

/// Sorts one packet by where it came from.
#[inline(always)]
fn sort(view: &View<'_>, lane: &mut Lane<'_>, own: &mut OwnMac) -> Result<Sorted, Exit> {
    let locals = &view.snapshot.locals;
    let port = view.port(lane.port()).ok_or(DropReason::Internal)?;
    if lane.packet.frame().is_none_or(|frame| !frame.is_linear()) {
        return Err(DropReason::ChainedMbuf.into());
    }
    let sorted = match lane.packet.origin {
        Origin::Wire => classify::wire(lane, port, own.of(port), locals)?,
        Origin::Twin => match classify::twin(lane, locals)? {
            FromTwin::Implicit => return Err(Exit::Transmit(lane.port())),
            FromTwin::Clear => Sorted::Clear,
        },
        Origin::Tunnel => classify::tunnel(lane)?,
    };
    match sorted {
        Sorted::Exception(class) => Err(Exit::Punt(class)),
        _ if !view.snapshot.committed => Err(DropReason::NotReady.into()),
        sorted => Ok(sorted),
    }
}

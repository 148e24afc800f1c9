//! The stages of a turn, in the order in which packets pass them.

use api::counters::{Counter, DropReason, PortCounter};
use api::id::SaId;
use arrayvec::ArrayVec;
use dpdk::{BATCH_SIZE, Batch, RxQueue};

use super::classify::{self, Arrival, Sorted};
use super::crypto::{self, Verdicts};
use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::forward::{self, Onward, Way};
use super::recall::Recall;
use super::search::Search;
use super::stage_clock::StageClock;
use super::{View, answer, inbound, outbound};
use crate::links::{Held, Injected};
use crate::packet::{Origin, Packet};
use crate::port::{PortIndex, PortInfo};

/// Frames that one turn takes from each channel.
const CHANNEL_BURST: usize = BATCH_SIZE;
/// How many frames ahead of the one whose headers are asked for descriptions are.
const PREFETCH_FRAMES: usize = 8;
/// Lanes of a flight: of a burst's packets so many travel together. What more of them touch, with an SA
/// each, does not stay in the first cache from one pass to the next.
const FLIGHT_LANES: usize = 32;
/// Cache lines of a frame that classification and the stages behind it look at.
pub(super) const HEADER_LINES: usize = 2;

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
        let known = self.recall_tunnels(view, flight);

        let mut inner = Set::default();
        if !flight.esp.is_empty() {
            let esp = self.look_up_sas(view, flight, flight.esp);
            let opened = self.check_replay_and_open(view, flight, esp);
            inner = self.decapsulate(view, flight, opened);
            inner = self.deliver(view, flight, inner);
            inner = self.check_selectors(view, flight, inner);
        }
        let mut outbound = known;
        let clear = inner | flight.clear;
        if !clear.is_empty() {
            let clear = self.admit(view, flight, clear);
            outbound |= self.route(view, flight, clear);
        }
        if !outbound.is_empty() {
            let sealed = self.encapsulate_and_seal(view, flight, outbound);
            self.depart(view, flight, sealed);
        }
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
        let mut bytes = 0;
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
        let counts = &mut self.exits.counts;
        counts.add(Counter::Rx, count);
        counts.add(Counter::RxBatches, 1);
        counts.add_port(port.index(), PortCounter::RxPackets, count);
        counts.add_port(port.index(), PortCounter::RxBytes, bytes);
        let mut frames = batch.drain();
        while frames.len() > 0 {
            let mut flight = Flight::default();
            for frame in frames.by_ref().take(FLIGHT_LANES) {
                if flight.board(frame, port, vrf, Origin::Wire).is_none() {
                    self.exits.counts.drop_one(DropReason::Internal);
                }
            }
            self.lap(Counter::StageRx);
            self.process(view, &mut flight);
        }
        drop(frames);
        self.transmit();
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
            self.transmit();
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
    #[inline(never)]
    fn classify<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>) {
        let Self { exits, recall, .. } = self;
        let mut arrival = Arrival::default();
        let Flight {
            lanes,
            esp,
            flows,
            clear,
        } = flight;
        for (number, lane) in lanes.iter_mut().enumerate() {
            let port = arrival.turn_to(view, lane);
            if classify::usual_flow(lane, &arrival).is_some() {
                recall.ask_tunnel(lane);
                flows.insert(number);
                continue;
            }
            if classify::usual_esp(lane, &arrival).is_some() {
                inbound::announce(view, lane);
                esp.insert(number);
                continue;
            }
            match sort(view, lane, &mut arrival, port) {
                Ok(Sorted::Esp) => {
                    inbound::announce(view, lane);
                    esp.insert(number);
                }
                Ok(Sorted::Clear) => clear.insert(number),
                other => {
                    let exit = exit_of(lane.port(), other);
                    exits.leave(&mut lane.packet, exit);
                }
            }
        }
        self.lap(Counter::StageClassify);
    }

    /// Finds the SAs of flows whose tunnel is remembered. All others are sorted now.
    #[inline(never)]
    fn recall_tunnels<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>) -> Set {
        let Self { exits, recall, .. } = self;
        let (mut known, mut missed, mut last) = (Set::default(), Set::default(), SaId(0));
        for number in flight.flows {
            let Some(lane) = flight.lanes.get_mut(number) else {
                continue;
            };
            if !recall.tunnel(view, lane) {
                missed.insert(number);
                continue;
            }
            match outbound::choose_sa(view, lane, exits, &mut last) {
                Ok(()) => known.insert(number),
                Err(exit) => exits.leave(&mut lane.packet, exit),
            }
        }
        Recall::count(exits, flight.flows.without(missed).len(), missed.len());
        if !missed.is_empty() {
            self.sort_missed(view, flight, missed);
        }
        self.done(Counter::StageLookup, known)
    }

    #[cold]
    fn sort_missed<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, missed: Set) {
        let mut arrival = Arrival::default();
        for number in missed {
            let Some(lane) = flight.lanes.get_mut(number) else {
                continue;
            };
            match classify::to_station(lane, &mut arrival, &view.snapshot.locals) {
                Ok(Sorted::Esp) => {
                    inbound::announce(view, lane);
                    flight.esp.insert(number);
                }
                Ok(Sorted::Clear) => flight.clear.insert(number),
                other => {
                    let exit = exit_of(lane.port(), other);
                    self.exits.leave(&mut lane.packet, exit);
                }
            }
        }
    }

    #[inline(never)]
    fn look_up_sas<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let mut last = None;
        let passed = flight.stage(set, &mut self.exits, |lane, _| {
            inbound::look_up(view, lane, &mut last)
        });
        self.done(Counter::StageLookup, passed)
    }

    /// Replay windows are looked at packet by packet, then crypto has all of them.
    #[inline(never)]
    fn check_replay_and_open<'t>(
        &mut self,
        view: &View<'t>,
        flight: &mut Flight<'t>,
        set: Set,
    ) -> Set {
        let Self { exits, clock, .. } = self;
        let Verdicts { asked, good } =
            crypto::open(flight, set, exits, clock, inbound::ReplayCheck);
        flight.stage(asked.without(good), &mut self.exits, |lane, _| {
            Err(inbound::forged(view, lane))
        });
        self.done(Counter::StageCrypto, good)
    }

    /// Moves replay windows, strips outer headers.
    #[inline(never)]
    fn decapsulate<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let passed = inbound::decapsulate(view, flight, set, &mut self.exits, &self.recall);
        self.done(Counter::StageEncap, passed)
    }

    /// Sends what goes between hosts whose way is remembered; gives the rest.
    #[inline(never)]
    fn deliver<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self { exits, recall, .. } = self;
        let mut rest = Set::default();
        for number in set {
            let Some(lane) = flight.lanes.get_mut(number) else {
                continue;
            };
            match recall.deliver(view, lane) {
                Some(port) => exits.send(&mut lane.packet, port),
                None => rest.insert(number),
            }
        }
        self.done(Counter::StageLookup, rest)
    }

    /// What is not remembered is looked at: the inner packet's head, and whether its child carries it.
    #[inline(never)]
    fn check_selectors<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let passed = flight.stage(set, &mut self.exits, |lane, _| {
            inbound::read_inner(lane)?;
            Ok(inbound::check_selectors(view, lane)?)
        });
        self.done(Counter::StageLookup, passed)
    }

    #[inline(never)]
    fn admit<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self { exits, search, .. } = self;
        let passed = flight.stage(set, exits, |lane, exits| {
            forward::admit(view, lane, search, exits)
        });
        self.done(Counter::StageLookup, passed)
    }

    /// Sends clear packets on, or towards their tunnel.
    #[inline(never)]
    fn route<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let Self {
            exits,
            search,
            recall,
            ..
        } = self;
        let mut ways: ArrayVec<Way, BATCH_SIZE> = ArrayVec::new();
        let set = flight.stage(set, exits, |lane, _| {
            ways.push(forward::look_for_way(view, lane, search)?);
            Ok(())
        });
        let (mut ways, mut last) = (ways.iter(), SaId(0));
        let passed = flight.stage(set, exits, |lane, exits| {
            let way = ways.next().ok_or(DropReason::Internal)?;
            match forward::route(view, lane, way, search, exits)? {
                Onward::Protect => {
                    recall.note_tunnel(view, lane);
                    outbound::choose_sa(view, lane, exits, &mut last)
                }
                Onward::AsItIs => Err(Exit::Transmit(lane.port())),
                Onward::Port { port, next_hop } => match forward::forward(view, lane, port) {
                    Ok(()) => {
                        let family = lane.head.family;
                        let packet = &mut lane.packet;
                        let exit = outbound::next_hop(view, packet, family, port, next_hop);
                        if let Exit::Transmit(port) = exit {
                            recall.note_pair(view, lane, port);
                        }
                        Err(exit)
                    }
                    Err(refusal) => Err(answer::refuse(view, exits, &mut lane.packet, refusal)),
                },
            }
        });
        self.done(Counter::StageLookup, passed)
    }

    /// Size, sequence numbers and outer headers packet by packet, then crypto has all of them.
    #[inline(never)]
    fn encapsulate_and_seal<'t>(
        &mut self,
        view: &View<'t>,
        flight: &mut Flight<'t>,
        set: Set,
    ) -> Set {
        let preparation = outbound::Encapsulation::new(view);
        let Self { exits, clock, .. } = self;
        let Verdicts { asked, good } = crypto::seal(flight, set, exits, clock, preparation);
        flight.stage(asked.without(good), &mut self.exits, |_, _| {
            Err(DropReason::CryptoFailed.into())
        });
        self.done(Counter::StageCrypto, good)
    }

    #[inline(never)]
    fn depart<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) {
        for number in set {
            let Some(lane) = flight.lanes.get_mut(number) else {
                continue;
            };
            match lane.egress {
                Some(port) if !lane.unfinished => self.exits.send(&mut lane.packet, port),
                _ => {
                    let exit = outbound::depart(view, lane);
                    self.exits.leave(&mut lane.packet, exit);
                }
            }
        }
    }

    /// What waits for the ports leaves.
    pub(super) fn transmit(&mut self) {
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

/// Sorts any packet, by where it came from.
#[inline(never)]
fn sort<'v>(
    view: &View<'v>,
    lane: &mut Lane<'_>,
    arrival: &mut Arrival<'v>,
    port: Option<&PortInfo>,
) -> Result<Sorted, DropReason> {
    let locals = &view.snapshot.locals;
    let port = port.ok_or(DropReason::Internal)?;
    if lane.packet.frame().is_none_or(|frame| !frame.is_linear()) {
        return Err(DropReason::ChainedMbuf);
    }
    let sorted = match lane.packet.origin {
        Origin::Wire => classify::wire(lane, arrival, port, locals)?,
        Origin::Twin => classify::twin(lane, locals)?,
        Origin::Tunnel => classify::tunnel(lane)?,
    };
    match sorted {
        Sorted::Esp | Sorted::Clear if !view.snapshot.committed => Err(DropReason::NotReady),
        sorted => Ok(sorted),
    }
}

/// How a packet leaves that is neither ESP nor for the SPD.
#[cold]
fn exit_of(port: PortIndex, sorted: Result<Sorted, DropReason>) -> Exit {
    match sorted {
        Ok(Sorted::Exception(class)) => Exit::Punt(class),
        Ok(Sorted::Implicit) => Exit::Transmit(port),
        Ok(Sorted::Esp | Sorted::Clear) => DropReason::Internal.into(),
        Err(reason) => reason.into(),
    }
}

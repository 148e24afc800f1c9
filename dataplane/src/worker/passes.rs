//! The stages of a turn, in the order in which packets pass them.

use api::counters::{Counter, DropReason, PortCounter};
use arrayvec::ArrayVec;
use dpdk::{BATCH_SIZE, Batch, RxQueue};

use super::classify::{self, Arrival, Sorted};
use super::crypto::{self, Preparation, Verdicts};
use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::forward::{self, Onward};
use super::line::{FLIGHTS, Line, Wait};
use super::recall::Recall;
use super::search::Search;
use super::stage_clock::StageClock;
use super::{View, answer, inbound, outbound};
use crate::lending::Way;
use crate::links::{Held, Injected};
use crate::packet::{Origin, Packet};
use crate::port::{PortIndex, PortInfo};

/// Frames that one turn takes from each channel.
const CHANNEL_BURST: usize = BATCH_SIZE;
/// How many frames ahead of the one whose headers are asked for descriptions are.
const PREFETCH_FRAMES: usize = 8;
/// Lanes of a flight: of a burst's packets so many travel together. What more of them touch, with an SA
/// each, does not stay in the first cache from one pass to the next. Where so many packets or more come to an SA
/// that changes, all of a burst do: crypto has longer batches. (64 bytes: 64 lanes cost 3 % less than 32 with
/// one SA, and 4 % more with 1,000.)
const FLIGHT_LANES: usize = 32;
const PACKETS_A_RUN: u64 = 8;
/// Bursts of each port that a turn takes while something is lent: enough that what is lost at its end,
/// waiting for the last loan, does not count. With long packets it is a millisecond.
const ROUNDS: usize = 32;
/// Cache lines of a frame that classification and the stages behind it look at.
pub(super) const HEADER_LINES: usize = 2;

/// Queues, exits and what the stages count.
pub(super) struct Work {
    pub(super) receivers: Vec<(PortIndex, RxQueue)>,
    pub(super) exits: Exits,
    search: Search,
    recall: Recall,
    pub(super) line: Line,
    clock: StageClock,
    /// Lanes of the next flight.
    lanes: usize,
    /// The stages' time goes on from the last one.
    busy: bool,
}

impl Work {
    pub(super) fn new(
        receivers: Vec<(PortIndex, RxQueue)>,
        exits: Exits,
        recall: Recall,
        line: Line,
        clock: StageClock,
    ) -> Self {
        Self {
            receivers,
            exits,
            search: Search::default(),
            recall,
            line,
            clock,
            lanes: FLIGHT_LANES,
            busy: false,
        }
    }

    /// The packet's way, one line a pass over the burst. What a pass needs of memory, the one before
    /// has asked for. If crypto is done elsewhere, the flight waits for it, and its way goes on in
    /// [`resume`](Self::resume).
    fn process<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>) -> Option<Wait> {
        self.classify(view, flight);
        let known = self.recall_tunnels(view, flight);
        if flight.esp.is_empty() {
            return self.forward(view, flight, Set::default(), known);
        }
        let esp = self.look_up_sas(view, flight, flight.esp);
        match self.check_replay_and_open(view, flight, esp) {
            Ok(opened) => self.forward(view, flight, opened, known),
            Err(wait) => Some(wait.with(known)),
        }
    }

    /// The second half: what crypto has opened, and what needs none before it is routed.
    fn forward<'t>(
        &mut self,
        view: &View<'t>,
        flight: &mut Flight<'t>,
        opened: Set,
        known: Set,
    ) -> Option<Wait> {
        let mut inner = Set::default();
        if !opened.is_empty() {
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
            match self.encapsulate_and_seal(view, flight, outbound) {
                Ok(sealed) => self.depart(view, flight, sealed),
                Err(wait) => return Some(wait),
            }
        }
        None
    }

    /// A flight's way from its crypto on.
    fn resume<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, wait: Wait) -> Option<Wait> {
        flight.stage(wait.lost, &mut self.exits, |_, _| {
            Err(DropReason::SaDeleted.into())
        });
        match wait.way {
            Way::Open => {
                let opened = self.opened(view, flight, wait.verdicts);
                self.forward(view, flight, opened, wait.known)
            }
            Way::Seal => {
                let sealed = self.sealed(flight, wait.verdicts);
                self.depart(view, flight, sealed);
                None
            }
        }
    }
}

impl Work {
    /// A burst of each port, and what other threads have for us, each from end to end. Gives the
    /// number of packets.
    pub(super) fn turn(&mut self, view: &View<'_>) -> usize {
        self.line.begin_turn();
        if self.line.is_lending() {
            return self.long_turn(view);
        }
        self.round(view, &mut [Flight::default()])
    }

    /// A turn of which some may be lent. A function of its own: the flights of it are 150 KB of stack, of
    /// which each page is touched when it begins.
    #[inline(never)]
    fn long_turn(&mut self, view: &View<'_>) -> usize {
        let mut flights: [Flight<'_>; FLIGHTS] = std::array::from_fn(|_| Flight::default());
        let mut packets = self.round(view, &mut flights);
        // Nothing stays lent behind the turn's end, when what it has found may change. While something
        // is, there is time for more.
        for _ in 1..ROUNDS {
            if self.line.is_empty() {
                break;
            }
            let more = self.round(view, &mut flights);
            self.exits.end_turn();
            if more == 0 {
                self.press_on(view, &mut flights);
                self.exits.flush_all();
            }
            packets += more;
        }
        self.end_line(view, &mut flights);
        packets
    }

    /// What a port has received, in one turn, and what happens behind each burst.
    #[cfg(test)]
    pub(super) fn take(
        &mut self,
        view: &View<'_>,
        port: PortIndex,
        bursts: impl Iterator<Item = Batch>,
        mut behind: impl FnMut(),
    ) {
        let mut flights: [Flight<'_>; FLIGHTS] = std::array::from_fn(|_| Flight::default());
        self.line.lend_now();
        for batch in bursts {
            self.accept(view, &mut flights, port, batch);
            behind();
            self.go_on(view, &mut flights);
            self.transmit();
        }
        self.end_line(view, &mut flights);
    }

    /// One burst of everything.
    fn round<'t>(&mut self, view: &View<'t>, flights: &mut [Flight<'t>]) -> usize {
        let mut packets = 0;
        for at in 0..self.receivers.len() {
            self.start_clock();
            let Some((port, queue)) = self.receivers.get_mut(at) else {
                break;
            };
            let (port, mut batch) = (*port, Batch::new());
            if queue.rx_burst(&mut batch) > 0 {
                packets += batch.len();
                self.accept(view, flights, port, batch);
            }
        }
        packets += self.take_injected(view, flights);
        packets + self.take_handed_over(view, flights)
    }

    /// A flight that has boarded sets out.
    #[inline(always)]
    pub(super) fn set_out<'t>(&mut self, view: &View<'t>, flights: &mut [Flight<'t>], slot: usize) {
        if !self.line.is_empty() {
            self.go_on(view, flights);
        }
        let Some(flight) = flights.get_mut(slot) else {
            return;
        };
        match self.process(view, flight) {
            None => flight.clear(),
            Some(wait) => self.put_into_line(view, flights, slot, wait),
        }
    }

    fn put_into_line<'t>(
        &mut self,
        view: &View<'t>,
        flights: &mut [Flight<'t>],
        slot: usize,
        wait: Wait,
    ) {
        let lent = self.line.push(slot, wait, view, flights);
        self.exits.counts.add(Counter::Lent, lent);
        while self.line.is_full() {
            self.press_on(view, flights);
        }
    }

    /// Flights go on whose crypto, and that of all in front of them, is done. False if there are none.
    #[inline(never)]
    fn go_on<'t>(&mut self, view: &View<'t>, flights: &mut [Flight<'t>]) -> bool {
        self.line.collect(flights);
        let mut gone = false;
        while let Some((slot, wait)) = self.line.next() {
            let Some(flight) = flights.get_mut(slot) else {
                continue;
            };
            gone = true;
            match self.resume(view, flight, wait) {
                None => {
                    flight.clear();
                    self.line.release(slot);
                }
                Some(again) => self.put_into_line(view, flights, slot, again),
            }
        }
        gone
    }

    /// With nothing else to do: what nobody has begun with is done here, what somebody has is waited for.
    fn press_on<'t>(&mut self, view: &View<'t>, flights: &mut [Flight<'t>]) {
        if self.go_on(view, flights) {
            return;
        }
        match self.line.take_back(view, flights) {
            0 => self.line.wait(),
            packets => self.exits.counts.add(Counter::TakenBack, packets),
        }
    }

    /// All that waits goes on.
    pub(super) fn end_line<'t>(&mut self, view: &View<'t>, flights: &mut [Flight<'t>]) {
        if self.line.is_empty() {
            return;
        }
        while !self.line.is_empty() {
            self.press_on(view, flights);
        }
        self.transmit();
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
    pub(super) fn accept<'t>(
        &mut self,
        view: &View<'t>,
        flights: &mut [Flight<'t>],
        port: PortIndex,
        mut batch: Batch,
    ) {
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
        self.line.press(batch.len(), bytes);
        // What is lent is to come back soon.
        let lanes = if self.line.is_lending() {
            FLIGHT_LANES
        } else {
            self.lanes
        };
        let mut frames = batch.drain();
        while frames.len() > 0 {
            let slot = self.line.slot();
            let Some(flight) = flights.get_mut(slot) else {
                break;
            };
            for frame in frames.by_ref().take(lanes) {
                if flight.board(frame, port, vrf, Origin::Wire).is_none() {
                    self.exits.counts.drop_one(DropReason::Internal);
                }
            }
            self.lap(Counter::StageRx);
            self.set_out(view, flights, slot);
        }
        drop(frames);
        self.transmit();
    }

    fn take_injected<'t>(&mut self, view: &View<'t>, flights: &mut [Flight<'t>]) -> usize {
        let slot = self.line.slot();
        let Some(flight) = flights.get_mut(slot) else {
            return 0;
        };
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
            self.set_out(view, flights, slot);
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
        let (mut known, mut missed) = (Set::default(), Set::default());
        let mut last = outbound::Last::default();
        flight.each(flight.flows, |number, lane| {
            if !recall.tunnel(view, lane) {
                return missed.insert(number);
            }
            match outbound::choose_sa(view, lane, exits, &mut last) {
                Ok(()) => known.insert(number),
                Err(exit) => exits.leave(&mut lane.packet, exit),
            }
        });
        Recall::count(exits, flight.flows.without(missed).len(), missed.len());
        self.suit_flights(last.runs, known);
        if !missed.is_empty() {
            self.sort_missed(view, flight, missed);
        }
        self.done(Counter::StageLookup, known)
    }

    #[cold]
    fn sort_missed<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, missed: Set) {
        let (mut esp, mut clear, mut arrival) = (flight.esp, flight.clear, Arrival::default());
        flight.each(missed, |number, lane| {
            match classify::to_station(lane, &mut arrival, &view.snapshot.locals) {
                Ok(Sorted::Esp) => {
                    inbound::announce(view, lane);
                    esp.insert(number);
                }
                Ok(Sorted::Clear) => clear.insert(number),
                other => {
                    let exit = exit_of(lane.port(), other);
                    self.exits.leave(&mut lane.packet, exit);
                }
            }
        });
        (flight.esp, flight.clear) = (esp, clear);
    }

    #[inline(never)]
    fn look_up_sas<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let mut last = inbound::Last::default();
        let passed = flight.stage(set, &mut self.exits, |lane, _| {
            inbound::look_up(view, lane, &mut last)
        });
        self.suit_flights(last.runs, passed);
        self.done(Counter::StageLookup, passed)
    }

    /// Replay windows are looked at packet by packet, then crypto has all of them.
    #[inline(never)]
    fn check_replay_and_open<'t>(
        &mut self,
        view: &View<'t>,
        flight: &mut Flight<'t>,
        set: Set,
    ) -> Result<Set, Wait> {
        let opened = self.crypt(flight, set, Way::Open, inbound::ReplayCheck);
        opened.map(|verdicts| self.opened(view, flight, verdicts))
    }

    /// What was opened, without what was forged.
    #[inline(always)]
    fn opened<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, verdicts: Verdicts) -> Set {
        let Verdicts { asked, good } = verdicts;
        flight.stage(asked.without(good), &mut self.exits, |lane, _| {
            Err(inbound::forged(view, lane))
        });
        self.done(Counter::StageCrypto, good)
    }

    /// Crypto of a set: here and now, or elsewhere, or behind what is elsewhere.
    #[inline(always)]
    fn crypt<'t>(
        &mut self,
        flight: &mut Flight<'t>,
        set: Set,
        way: Way,
        preparation: impl Preparation<'t>,
    ) -> Result<Verdicts, Wait> {
        if let Some(loan) = self.line.loan(flight, set) {
            let wait = crypto::lend(flight, set, &mut self.exits, preparation, way, loan);
            self.lap(Counter::StageCrypto);
            return Err(wait);
        }
        let Self { exits, clock, .. } = self;
        let verdicts = match way {
            Way::Seal => crypto::seal(flight, set, exits, clock, preparation),
            Way::Open => crypto::open(flight, set, exits, clock, preparation),
        };
        if self.line.is_empty() {
            return Ok(verdicts);
        }
        self.lap(Counter::StageCrypto);
        Err(Wait::behind(way, verdicts))
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
        flight.each(set, |number, lane| match recall.deliver(view, lane) {
            Some(port) => exits.send(&mut lane.packet, port),
            None => rest.insert(number),
        });
        self.done(Counter::StageLookup, rest)
    }

    /// What is not remembered is looked at: the inner packet's head, and whether its child carries it.
    #[inline(never)]
    fn check_selectors<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) -> Set {
        let passed = flight.stage(set, &mut self.exits, |lane, _| {
            inbound::restore_ethernet(lane)?;
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
        let mut ways: ArrayVec<forward::Way, BATCH_SIZE> = ArrayVec::new();
        let set = flight.stage(set, exits, |lane, _| {
            ways.push(forward::look_for_way(view, lane, search)?);
            Ok(())
        });
        let (mut ways, mut last) = (ways.iter(), outbound::Last::default());
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
    ) -> Result<Set, Wait> {
        let preparation = outbound::Encapsulation::new(view);
        let sealed = self.crypt(flight, set, Way::Seal, preparation);
        sealed.map(|verdicts| self.sealed(flight, verdicts))
    }

    #[inline(always)]
    fn sealed(&mut self, flight: &mut Flight<'_>, verdicts: Verdicts) -> Set {
        let Verdicts { asked, good } = verdicts;
        flight.stage(asked.without(good), &mut self.exits, |_, _| {
            Err(DropReason::CryptoFailed.into())
        });
        self.done(Counter::StageCrypto, good)
    }

    #[inline(never)]
    fn depart<'t>(&mut self, view: &View<'t>, flight: &mut Flight<'t>, set: Set) {
        flight.each(set, |_, lane| match lane.egress {
            Some(port) if !lane.unfinished => self.exits.send(&mut lane.packet, port),
            _ => {
                let exit = outbound::depart(view, lane);
                self.exits.leave(&mut lane.packet, exit);
            }
        });
    }

    /// What waits for the ports leaves.
    pub(super) fn transmit(&mut self) {
        self.exits.flush_all();
        self.lap(Counter::StageTx);
        self.busy = true;
    }

    /// Makes flights that suit what there is: `runs` of packets of one SA.
    #[inline(always)]
    fn suit_flights(&mut self, runs: u64, packets: Set) {
        if packets.is_empty() {
            return;
        }
        let few = runs * PACKETS_A_RUN <= packets.len();
        self.lanes = if few { BATCH_SIZE } else { FLIGHT_LANES };
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

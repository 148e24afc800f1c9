//! Two gateways, a network between them that loses, repeats, delays and reorders, and a clock that
//! jumps to the next event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ike::config::{Connection, Secret, Settings};
use ike::{Action, Endpoint, Host, IkeId, Request, SaEvent, State, Target, Time, Verb, Verdict};
use zeroize::Zeroizing;

use super::plane::Plane;

/// A generator that is the same for the same seed (SplitMix64).
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(crate) struct SimHost {
    rng: Rng,
    pub(crate) spis: HashSet<u32>,
    pub(crate) packets: HashMap<u32, u64>,
}

impl Host for SimHost {
    fn fill_random(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.rng.next().to_le_bytes()[0];
        }
    }

    fn allocate_spi(&mut self) -> Option<u32> {
        loop {
            let spi = 256 + (self.rng.next() as u32 >> 1);
            if self.spis.insert(spi) {
                return Some(spi);
            }
        }
    }

    fn release_spi(&mut self, spi: u32) {
        assert!(self.spis.remove(&spi), "SPI {spi:08x} was not allocated");
    }

    fn reserve_spi(&mut self, spi: u32) {
        self.spis.insert(spi);
    }

    fn inbound_packets(&self, spi: u32) -> u64 {
        self.packets.get(&spi).copied().unwrap_or(0)
    }
}

pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: SimHost,
    pub(crate) plane: Plane,
    pub(crate) checkpoints: BTreeMap<IkeId, Zeroizing<Vec<u8>>>,
    pub(crate) done: HashMap<u64, Result<(), Verdict>>,
    pub(crate) keepalives: u64,
    connections: Vec<Connection>,
    secrets: Vec<Secret>,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) loss_percent: u64,
    pub(crate) repeat_percent: u64,
    pub(crate) delay_ms: u64,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        loss_percent: 0,
        repeat_percent: 0,
        delay_ms: 0,
    };
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Debug)]
struct Flight {
    at: u64,
    order: u64,
    to: usize,
    source: SocketAddr,
    destination: SocketAddr,
    bytes: Vec<u8>,
}

pub(crate) struct Sim {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) sides: [Side; 2],
    pub(crate) faults: Faults,
    pub(crate) log: Vec<String>,
    /// Datagrams sent so far.
    pub(crate) sent: u64,
    /// Source address that the responder sees in place of the initiator's (a NAT).
    pub(crate) nat: Option<(IpAddr, u16)>,
    flights: BinaryHeap<Reverse<Flight>>,
    next_request: u64,
}

pub(crate) fn settings() -> Settings {
    Settings {
        retransmit_timeout_ms: 500,
        retransmit_tries: 6,
        drain_s: 5,
        ..Settings::default()
    }
}

impl Side {
    fn new(rng: Rng, connections: Vec<Connection>, secrets: Vec<Secret>) -> Self {
        let host = SimHost {
            rng,
            spis: HashSet::new(),
            packets: HashMap::new(),
        };
        Self {
            endpoint: Endpoint::new(settings()),
            host,
            plane: Plane::default(),
            checkpoints: BTreeMap::new(),
            done: HashMap::new(),
            keepalives: 0,
            connections,
            secrets,
            settings: settings(),
        }
    }
}

impl Sim {
    pub(crate) fn new(
        seed: u64,
        a: Vec<Connection>,
        b: Vec<Connection>,
        secrets: [Vec<Secret>; 2],
    ) -> Self {
        let mut rng = Rng(seed);
        let [secrets_a, secrets_b] = secrets;
        let sides = [
            Side::new(Rng(rng.next()), a, secrets_a),
            Side::new(Rng(rng.next()), b, secrets_b),
        ];
        let mut sim = Self {
            now: 1_000,
            rng,
            sides,
            faults: Faults::NONE,
            log: Vec::new(),
            sent: 0,
            nat: None,
            flights: BinaryHeap::new(),
            next_request: 0,
        };
        for side in 0..2 {
            sim.load(side);
        }
        sim
    }

    pub(crate) fn set_settings(&mut self, side: usize, settings: Settings) {
        self.sides[side].settings = settings.clone();
        self.sides[side].endpoint = Endpoint::new(settings);
        self.load(side);
    }

    fn load(&mut self, side: usize) {
        let now = Time(self.now);
        let one = &mut self.sides[side];
        let (connections, secrets) = (one.connections.clone(), one.secrets.clone());
        one.endpoint.load(now, &mut one.host, connections, secrets);
        one.endpoint.start(now, &mut one.host);
        self.drain(side);
    }

    pub(crate) fn command(&mut self, side: usize, verb: Verb) -> u64 {
        self.next_request += 1;
        let id = self.next_request;
        self.log
            .push(format!("{} side {side}: {verb:?} ({id})", self.now));
        let one = &mut self.sides[side];
        one.endpoint
            .handle_command(Time(self.now), &mut one.host, Request { id, verb });
        self.drain(side);
        id
    }

    pub(crate) fn event(&mut self, side: usize, event: SaEvent) {
        let one = &mut self.sides[side];
        one.endpoint
            .handle_sa_event(Time(self.now), &mut one.host, event);
        self.drain(side);
    }

    pub(crate) fn initiate(&mut self, side: usize, child: &str) -> u64 {
        let (connection, child) = ("conn".to_owned(), Some(child.to_owned()));
        self.command(side, Verb::Initiate { connection, child })
    }

    pub(crate) fn rekey_child(&mut self, side: usize, child: &str) -> u64 {
        let target = Target::ChildName {
            connection: None,
            child: child.to_owned(),
        };
        self.command(side, Verb::Rekey(target))
    }

    pub(crate) fn rekey_ike(&mut self, side: usize) -> u64 {
        self.command(side, Verb::Rekey(Target::Connection("conn".to_owned())))
    }

    pub(crate) fn result(&self, side: usize, request: u64) -> Option<&Result<(), Verdict>> {
        self.sides[side].done.get(&request)
    }

    pub(crate) fn shutdown(&mut self, side: usize) {
        let one = &mut self.sides[side];
        one.endpoint.shutdown(Time(self.now), &mut one.host);
        self.drain(side);
    }

    /// The next datagram on the network, taken off it.
    pub(crate) fn take_flight(&mut self) -> Option<Vec<u8>> {
        self.flights.pop().map(|Reverse(flight)| flight.bytes)
    }

    /// A datagram of somebody else.
    pub(crate) fn inject(&mut self, side: usize, source: &str, bytes: &[u8]) {
        let destination = format!("192.0.2.{}:500", side + 1).parse().unwrap();
        let one = &mut self.sides[side];
        let source = source.parse().unwrap();
        one.endpoint
            .handle_datagram(Time(self.now), &mut one.host, destination, source, bytes);
        self.drain(side);
    }

    /// The process of one side dies and another takes over.
    pub(crate) fn restart(&mut self, side: usize) {
        self.log.push(format!("{} side {side}: restart", self.now));
        let now = Time(self.now);
        let one = &mut self.sides[side];
        one.endpoint = Endpoint::new(one.settings.clone());
        one.host.spis.clear();
        let (connections, secrets) = (one.connections.clone(), one.secrets.clone());
        one.endpoint.load(now, &mut one.host, connections, secrets);
        let stored: Vec<&[u8]> = one
            .checkpoints
            .values()
            .map(|bytes| bytes.as_slice())
            .collect();
        one.endpoint.restore(now, &mut one.host, &stored);
        one.endpoint.start(now, &mut one.host);
        let old = std::mem::take(&mut one.plane);
        let mut uncertain = Vec::new();
        for output in one.endpoint.children_to_install() {
            one.plane.apply(&output.action, &mut one.host);
            let (child, spi) = match &output.action {
                Action::InstallChild(install) => (install.spec.child, install.pair.inbound.spi),
                Action::InstallRekeyed(rekeyed) => (rekeyed.child, rekeyed.pair.inbound.spi),
                _ => continue,
            };
            if !old
                .children
                .get(&child)
                .is_some_and(|c| c.inbound.contains_key(&spi))
            {
                uncertain.push(SaEvent::Uncertain { child, spi });
            }
        }
        let live: HashSet<u32> = one
            .plane
            .children
            .values()
            .flat_map(|child| child.inbound.keys().copied())
            .collect();
        one.host.packets.retain(|spi, _| live.contains(spi));
        self.drain(side);
        for event in uncertain {
            self.event(side, event);
        }
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.sides[side].endpoint.poll_output() {
            let one = &mut self.sides[side];
            one.plane.apply(&output.action, &mut one.host);
            match output.action {
                Action::Transmit {
                    local,
                    remote,
                    bytes,
                } => {
                    self.transmit(side, local, remote, bytes);
                }
                Action::Keepalive { .. } => one.keepalives += 1,
                Action::Checkpoint { bytes } => {
                    one.checkpoints.insert(output.ike.unwrap(), bytes);
                }
                Action::Forget => {
                    assert!(one.checkpoints.remove(&output.ike.unwrap()).is_some());
                }
                Action::Done { request, result } => {
                    self.log.push(format!(
                        "{} side {side}: done {request} {result:?}",
                        self.now
                    ));
                    assert!(one.done.insert(request, result).is_none(), "done twice");
                }
                Action::Log { text, .. } => {
                    self.log.push(format!("{} side {side}: {text}", self.now));
                }
                _ => self
                    .log
                    .push(format!("{} side {side}: {:?}", self.now, output.action)),
            }
        }
    }

    fn transmit(&mut self, side: usize, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        self.sent += 1;
        let source = match self.nat {
            Some((address, offset)) if side == 0 => SocketAddr::new(address, local.port() + offset),
            _ => local,
        };
        let destination = match self.nat {
            Some((address, offset)) if side == 1 && remote.ip() == address => {
                SocketAddr::new("192.0.2.1".parse().unwrap(), remote.port() - offset)
            }
            _ => remote,
        };
        let copies = u64::from(!self.rng.chance(self.faults.loss_percent))
            + u64::from(self.rng.chance(self.faults.repeat_percent));
        for _ in 0..copies {
            let at = self.now + 5 + self.rng.below(self.faults.delay_ms + 1);
            let order = self.rng.next() >> 32 << 32 | self.sent;
            let order = if self.faults.delay_ms == 0 {
                self.sent
            } else {
                order
            };
            let (bytes, to) = (bytes.clone(), 1 - side);
            self.flights.push(Reverse(Flight {
                at,
                order,
                to,
                source,
                destination,
                bytes,
            }));
        }
    }

    fn next_event(&self) -> Option<u64> {
        let flight = self.flights.peek().map(|Reverse(flight)| flight.at);
        let timers = self
            .sides
            .iter()
            .filter_map(|side| side.endpoint.poll_timeout());
        flight.into_iter().chain(timers.map(|at| at.0)).min()
    }

    /// Lets everything happen up to that time.
    pub(crate) fn run_until(&mut self, end: u64) {
        let mut steps = 0u64;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            steps += 1;
            assert!(steps < 200_000, "no end of events");
            self.now = self.now.max(at);
            while let Some(Reverse(flight)) = self.flights.peek()
                && flight.at <= self.now
            {
                let Reverse(flight) = self.flights.pop().unwrap();
                let side = &mut self.sides[flight.to];
                side.endpoint.handle_datagram(
                    Time(self.now),
                    &mut side.host,
                    flight.destination,
                    flight.source,
                    &flight.bytes,
                );
                self.drain(flight.to);
            }
            for side in 0..2 {
                let one = &mut self.sides[side];
                one.endpoint.handle_timeout(Time(self.now), &mut one.host);
                self.drain(side);
            }
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms);
    }

    /// Sends one packet through each active outbound SA. `strict`: the peer has to have its twin.
    pub(crate) fn traffic(&mut self, strict: bool) {
        for side in 0..2 {
            let active: Vec<(u32, Vec<u8>)> = self.sides[side]
                .plane
                .children
                .values()
                .filter_map(|child| {
                    let spi = child.active?;
                    Some((spi, child.outbound[&spi].clone()))
                })
                .collect();
            for (spi, key) in active {
                let peer = &mut self.sides[1 - side];
                let found = peer.plane.children.values().any(|child| {
                    child
                        .inbound
                        .get(&spi)
                        .is_some_and(|inbound| *inbound == key)
                });
                if found {
                    *peer.host.packets.entry(spi).or_insert(0) += 1;
                } else if strict {
                    let text = self.log.join("\n");
                    panic!("side {side} sends on {spi:08x}, the peer has no twin\n{text}");
                }
            }
        }
    }

    /// IKE SAs of a side, by their SPIs; all are established.
    pub(crate) fn ike_sas(&self, side: usize) -> Vec<(u64, u64)> {
        let views = self.sides[side].endpoint.list();
        let mut sas: Vec<_> = views.iter().map(|view| (view.spi_i, view.spi_r)).collect();
        sas.sort_unstable();
        sas
    }

    /// Pairs of a side: SPI pair as the first side sees it.
    pub(crate) fn pairs(&self, side: usize) -> Vec<(u32, u32)> {
        let views = self.sides[side].endpoint.list();
        let children = views.iter().flat_map(|view| &view.children);
        let pairs = children.flat_map(|child| &child.sas);
        let mut pairs: Vec<_> = pairs
            .map(|sa| match side {
                0 => (sa.inbound_spi, sa.outbound_spi),
                _ => (sa.outbound_spi, sa.inbound_spi),
            })
            .collect();
        pairs.sort_unstable();
        pairs
    }

    /// Nothing is going on, and both sides agree.
    pub(crate) fn is_calm(&self) -> bool {
        let calm = |side: &Side| {
            side.endpoint.list().iter().all(|view| {
                let single =
                    |child: &ike::ChildView| child.sas.len() == 1 && child.sas[0].state == "active";
                view.state == State::Established && view.children.iter().all(single)
            })
        };
        self.sides.iter().all(calm)
            && self.ike_sas(0) == self.ike_sas(1)
            && self.pairs(0) == self.pairs(1)
            // No offer is outstanding either.
            && self.sides.iter().all(|side| side.host.spis.len() == self.pairs(0).len())
    }

    /// At rest both sides agree, and neither has anything too much.
    pub(crate) fn check_rest(&self) {
        let text = || {
            format!(
                "\n{}\n{:#?}",
                self.log.join("\n"),
                self.sides.each_ref().map(|s| s.endpoint.list())
            )
        };
        for side in &self.sides {
            for view in side.endpoint.list() {
                assert_eq!(view.state, State::Established, "{}", text());
                for child in &view.children {
                    assert_eq!(child.sas.len(), 1, "one pair a child{}", text());
                    assert_eq!(child.sas[0].state, "active", "{}", text());
                }
            }
        }
        assert_eq!(self.ike_sas(0), self.ike_sas(1), "IKE SAs{}", text());
        assert_eq!(self.pairs(0), self.pairs(1), "pairs{}", text());
        for (number, side) in self.sides.iter().enumerate() {
            let planes = side.plane.children.values();
            let mut installed: Vec<u32> = planes
                .clone()
                .flat_map(|child| child.inbound.keys().copied())
                .collect();
            let outbound: usize = planes.clone().map(|child| child.outbound.len()).sum();
            assert_eq!(
                outbound,
                installed.len(),
                "side {number} one way only{}",
                text()
            );
            assert!(
                planes.clone().all(|child| child.active.is_some()),
                "{}",
                text()
            );
            installed.sort_unstable();
            let mut owned: Vec<u32> = side.host.spis.iter().copied().collect();
            owned.sort_unstable();
            assert_eq!(installed, owned, "side {number} leaks SPIs{}", text());
            let known: usize = side
                .endpoint
                .list()
                .iter()
                .map(|view| view.children.len())
                .sum();
            assert_eq!(
                known,
                side.plane.children.len(),
                "side {number} children{}",
                text()
            );
            let stored: Vec<IkeId> = side.checkpoints.keys().copied().collect();
            let live: Vec<IkeId> = side.endpoint.list().iter().map(|view| view.id).collect();
            assert_eq!(stored, live, "side {number} checkpoints{}", text());
        }
    }
}

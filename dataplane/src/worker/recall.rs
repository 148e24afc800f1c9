//! What a worker remembers: the tunnel of a flow, and where packets between two hosts go that came out
//! of a tunnel. Both save all searches for the usual packet; what is not remembered takes the long
//! way, and is then.

use api::counters::Counter;
use esp::ether;
use esp::head;
use esp::ip::{self, Family};

use super::View;
use super::exits::Exits;
use super::flight::Lane;
use super::inbound;
use super::outbound::ethertype;
use crate::packet::{ETHERNET_BYTES, Origin};
use crate::port::{PortIndex, Side};
use crate::tables::memo::{Memo, Place};

/// Most answers of one kind that a worker remembers, 32 or 64 bytes each; only as many as there are
/// take memory.
const MOST_ANSWERS: u32 = 1 << 21;
/// Answers for each SA that there can be.
const ANSWERS_PER_SA: u32 = 4;

/// Words of a question and its answer: with IPv4 addresses, and with IPv6 addresses.
const V4_WORDS: usize = 4;
const V6_WORDS: usize = 8;

/// One worker's memory.
pub(super) struct Recall {
    /// Child and rule of a flow from an inside port, by
    /// [`Snapshot::ways_version`](crate::tables::Snapshot).
    flows: Answers,
    /// Inside port and Ethernet address for packets of a child between two hosts, whatever they
    /// carry, by [`Snapshot::version`](crate::tables::Snapshot).
    pairs: Answers,
}

impl Recall {
    pub(super) fn new(max_sas: u32) -> Self {
        let most = max_sas
            .saturating_mul(ANSWERS_PER_SA)
            .clamp(1 << 12, MOST_ANSWERS);
        Self {
            flows: Answers::new(most),
            pairs: Answers::new(most),
        }
    }

    /// Asks for the tunnel of a flow that shows ports.
    #[inline(always)]
    pub(super) fn ask_tunnel(&self, lane: &mut Lane<'_>) {
        let rest = lane.head.ports.word() << 32 | origin(lane) | u64::from(lane.head.protocol);
        let addresses = match lane.head.family {
            Family::V4 => head::both_addresses_v4(lane.packet.network()),
            Family::V6 => 0,
        };
        self.flows.ask(lane, lane.head.family, [addresses, rest]);
    }

    /// Finds the flow's tunnel: the lane gets child and rule.
    #[inline(always)]
    pub(super) fn tunnel(&self, view: &View<'_>, lane: &mut Lane<'_>) -> bool {
        let version = view.snapshot.ways_version;
        let asked = Asked::by(lane, version);
        let Some(answer) = self
            .flows
            .recall(lane.head.family, lane.packet.network(), asked)
        else {
            return false;
        };
        (lane.child, lane.rule) = halves(answer);
        true
    }

    /// Remembers the tunnel that was found the long way, if it was asked for.
    pub(super) fn note_tunnel(&mut self, view: &View<'_>, lane: &Lane<'_>) {
        if !lane.to_us && lane.packet.origin == Origin::Wire {
            let answer = u64::from(lane.child) << 32 | u64::from(lane.rule);
            self.flows
                .remember(lane, view.snapshot.ways_version, answer);
        }
    }

    /// Asks for the way of a packet that came out of the child's tunnel; of one over IPv4 `hosts` has
    /// the addresses.
    #[inline(always)]
    pub(super) fn ask_pair(&self, lane: &mut Lane<'_>, family: Family, hosts: u64, child: u32) {
        let rest = u64::from(child) << 32 | origin(lane);
        self.pairs.ask(lane, family, [hosts, rest]);
    }

    /// Makes a packet out of a tunnel ready to leave, if its way is remembered: then its child carries
    /// it. Gives the port; without one the packet is as it was.
    #[inline(always)]
    pub(super) fn deliver(&self, view: &View<'_>, lane: &mut Lane<'_>) -> Option<PortIndex> {
        let asked = Asked::by(lane, view.snapshot.version);
        let frame = lane.packet.bytes_mut();
        let (ethernet, packet) = frame.split_first_chunk_mut::<ETHERNET_BYTES>()?;
        let family = match packet {
            [first, ..] if *first >> 4 == 6 => Family::V6,
            _ => Family::V4,
        };
        let answer = self.pairs.recall(family, packet, asked)?;
        let [_, port, ..] = answer.to_be_bytes();
        let port = PortIndex::new(port.into())?;
        let info = view.port(port)?;
        if packet.len() > info.mtu_bytes.into() {
            return None;
        }
        ip::decrement_ttl(packet)?;
        ether::write_words(ethernet, answer & MAC, info.mac.word(), ethertype(family))?;
        Some(port)
    }

    /// Remembers the way that was found the long way, if it leads out of an inside port and holds for
    /// all that these hosts may say to each other.
    pub(super) fn note_pair(&mut self, view: &View<'_>, lane: &Lane<'_>, port: PortIndex) {
        let inside = view
            .port(port)
            .is_some_and(|port| port.side == Side::Inside);
        let out = inside && lane.packet.origin == Origin::Tunnel;
        if !out || !inbound::carries_all(view, lane) {
            return;
        }
        if let Some(&[a, b, c, d, e, f]) = lane.packet.bytes().first_chunk() {
            let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            let answer = (port.index() as u64) << 48 | mac;
            self.pairs.remember(lane, view.snapshot.version, answer);
        }
    }

    /// Counts what a look at the flows gave.
    pub(super) fn count(exits: &mut Exits, hits: u64, misses: u64) {
        exits.counts.add(Counter::FlowCacheHits, hits);
        exits.counts.add(Counter::FlowCacheMisses, misses);
    }
}

/// The Ethernet address in an answer.
const MAC: u64 = (1 << 48) - 1;

/// Answers for packets of both families, by their addresses and one word more.
struct Answers {
    v4: Memo<V4_WORDS>,
    v6: Memo<V6_WORDS>,
}

impl Answers {
    fn new(most: u32) -> Self {
        Self {
            v4: Memo::new(most),
            v6: Memo::new(most),
        }
    }

    #[inline(always)]
    fn ask(&self, lane: &mut Lane<'_>, family: Family, words: [u64; 2]) {
        lane.asked = words;
        lane.place = match family {
            Family::V4 => self.v4.place(&words),
            Family::V6 => {
                let [question @ .., _, _] = Asked::by(lane, 0).about_v6(lane.packet.network());
                self.v6.place(&question)
            }
        };
    }

    #[inline(always)]
    fn recall(&self, family: Family, packet: &[u8], asked: Asked) -> Option<u64> {
        match family {
            Family::V4 => self.v4.recall(asked.place, &asked.about_v4()),
            Family::V6 => self.v6.recall(asked.place, &asked.about_v6(packet)),
        }
    }

    fn remember(&mut self, lane: &Lane<'_>, version: u64, answer: u64) {
        let asked = Asked::by(lane, version);
        let (place, packet) = (asked.place, lane.packet.network());
        match lane.head.family {
            Family::V4 => self.v4.remember(place, &asked.about_v4(), answer),
            Family::V6 => self.v6.remember(place, &asked.about_v6(packet), answer),
        }
    }
}

/// What a lane asks a memory, but for IPv6 addresses, which stay in the packet.
#[derive(Clone, Copy)]
struct Asked {
    words: [u64; 2],
    place: Place,
    version: u64,
}

impl Asked {
    #[inline(always)]
    fn by(lane: &Lane<'_>, version: u64) -> Self {
        Self {
            words: lane.asked,
            place: lane.place,
            version,
        }
    }

    #[inline(always)]
    fn about_v4(self) -> [u64; V4_WORDS - 1] {
        let [addresses, rest] = self.words;
        [addresses, rest, self.version]
    }

    #[inline(always)]
    fn about_v6(self, packet: &[u8]) -> [u64; V6_WORDS - 1] {
        let (source, destination) = head::addresses_v6(packet);
        let ([s0, s1], [d0, d1], [_, rest]) = (words(source), words(destination), self.words);
        [s0, s1, d0, d1, rest, 0, self.version]
    }
}

/// Routing instance and port, above the protocol's byte.
#[inline(always)]
fn origin(lane: &Lane<'_>) -> u64 {
    u64::from(lane.packet.vrf.0) << 16 | (lane.port().index() as u64) << 8
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn words(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

#[inline(always)]
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}

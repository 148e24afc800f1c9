//! What a worker remembers: the tunnel of a flow, and the neighbour of a destination. Both save all
//! searches for the usual packet; what is not remembered takes the long way, and is then.

use api::counters::{Counter, DropReason};
use api::id::Vrf;
use esp::head;
use esp::ip::Family;

use super::View;
use super::exits::{Exit, Exits};
use super::flight::Lane;
use super::{forward, outbound};
use crate::packet::Origin;
use crate::port::{Mac, PortIndex, Side};
use crate::tables::memo::{Memo, Question};

/// Most flows that a worker remembers; 32 bytes each, and only as many as there are take memory.
const MOST_FLOWS: u32 = 1 << 20;
/// Flows for each SA that there can be.
const FLOWS_PER_SA: u32 = 4;
/// Destinations behind inside ports that a worker remembers.
const DESTINATIONS: u32 = 1 << 16;

/// One worker's memory.
pub(super) struct Recall {
    /// Child and rule of a flow, by [`Snapshot::ways_version`](crate::tables::Snapshot).
    flows: Memo,
    /// Port and Ethernet address of a destination, by
    /// [`Snapshot::hops_version`](crate::tables::Snapshot).
    destinations: Memo,
}

impl Recall {
    pub(super) fn new(max_sas: u32) -> Self {
        let flows = max_sas
            .saturating_mul(FLOWS_PER_SA)
            .clamp(1 << 12, MOST_FLOWS);
        Self {
            flows: Memo::new(flows),
            destinations: Memo::new(DESTINATIONS),
        }
    }

    /// Asks for a flow's tunnel. False, and nothing asked, for a packet that is not of the kind
    /// whose answer is remembered: IPv4 with ports, from an inside port.
    #[inline(always)]
    pub(super) fn ask_tunnel(&self, view: &View<'_>, lane: &mut Lane<'_>) -> bool {
        let Some(ports) = lane.head.ports.both() else {
            return false;
        };
        let inside = view
            .port(lane.port())
            .is_some_and(|port| port.side == Side::Inside);
        if lane.to_us || lane.head.family != Family::V4 || !inside {
            return false;
        }
        let (from, to) = head::addresses_v4(lane.packet.network());
        // The protocol stays in the lowest byte: moved up, it would be loaded as a word, which has to
        // wait for the bytes of the head to arrive.
        let rest = u64::from(lane.packet.vrf.0) << 16
            | (lane.port().index() as u64) << 8
            | u64::from(lane.head.protocol);
        lane.question = Question(u64::from(from) << 32 | u64::from(to), ports << 32 | rest);
        lane.place = self.flows.place(lane.question);
        true
    }

    /// Finds the flow's tunnel: the lane gets child and rule.
    #[inline(always)]
    pub(super) fn tunnel(&self, view: &View<'_>, lane: &mut Lane<'_>) -> bool {
        let version = view.snapshot.ways_version;
        let Some(answer) = self.flows.recall(lane.place, lane.question, version) else {
            return false;
        };
        (lane.child, lane.rule) = halves(answer);
        true
    }

    /// Remembers the tunnel that was found the long way.
    pub(super) fn note_tunnel(&mut self, view: &View<'_>, lane: &Lane<'_>) {
        if lane.question != Question(0, 0) && lane.packet.origin == Origin::Wire {
            let version = view.snapshot.ways_version;
            let answer = u64::from(lane.child) << 32 | u64::from(lane.rule);
            self.flows
                .remember(lane.place, lane.question, version, answer);
        }
    }

    /// Asks for the neighbour of a decrypted packet.
    #[inline(always)]
    pub(super) fn ask_destination(&self, lane: &mut Lane<'_>) {
        lane.question = Question(0, 0);
        if lane.head.family == Family::V4 {
            let (_, to) = head::addresses_v4(lane.packet.network());
            lane.question = destination(lane.packet.vrf, to);
            lane.place = self.destinations.place(lane.question);
        }
    }

    /// Sends a decrypted packet whose neighbour is remembered. `Ok` is for those that take the long
    /// way.
    #[inline(always)]
    pub(super) fn deliver(&self, view: &View<'_>, lane: &mut Lane<'_>) -> Result<(), Exit> {
        let version = view.snapshot.hops_version.into();
        let Some(answer) = self.destinations.recall(lane.place, lane.question, version) else {
            return Ok(());
        };
        let [_, port, mac @ ..] = answer.to_be_bytes();
        let port = PortIndex::new(port.into()).ok_or(DropReason::Internal)?;
        let info = view.port(port).ok_or(DropReason::Internal)?;
        if lane.head.total_len > info.mtu_bytes || lane.head.ttl <= 1 {
            return Ok(());
        }
        let _ = forward::hop(lane);
        outbound::write_ethernet(&mut lane.packet, Mac(mac), info.mac, lane.head.family)
            .ok_or(DropReason::Internal)?;
        Err(Exit::Transmit(port))
    }

    /// Remembers the neighbour that was found the long way, if it is behind an inside port.
    pub(super) fn note_destination(&mut self, view: &View<'_>, lane: &Lane<'_>, port: PortIndex) {
        let inside = view
            .port(port)
            .is_some_and(|port| port.side == Side::Inside);
        let mac = lane.packet.bytes().first_chunk::<6>();
        let asked = lane.question != Question(0, 0) && lane.packet.origin == Origin::Tunnel;
        if let Some(&[a, b, c, d, e, f]) = mac.filter(|_| asked && inside) {
            let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            let answer = (port.index() as u64) << 48 | mac;
            let version = view.snapshot.hops_version.into();
            self.destinations
                .remember(lane.place, lane.question, version, answer);
        }
    }

    /// Counts what a look at the flows gave.
    pub(super) fn count(exits: &mut Exits, hits: u64, misses: u64) {
        exits.counts.add(Counter::FlowCacheHits, hits);
        exits.counts.add(Counter::FlowCacheMisses, misses);
    }
}

fn destination(vrf: Vrf, address: u32) -> Question {
    Question(u64::from(vrf.0) << 32 | u64::from(address), 1)
}

#[inline(always)]
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}

//! The search for a packet's policy, in two halves: the first asks for memory, the second reads it.

use api::id::Interface;
use esp::head;
use esp::ip::{Family, Ports as Shown};

use super::flight::Lane;
use super::forward::Towards;
use crate::tables::address::Address;
use crate::tables::flow_cache::{FlowCache, Place};
use crate::tables::spd::{FlowOf, Index, Match, Ports, Probe, Spd};

/// One worker's way through the SPD: straight where policies are found fast, else by way of its
/// cache of flows.
#[derive(Default)]
pub(super) struct Search {
    flows: FlowCache,
}

/// A search that has begun, of the same index and flow that it is ended with.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    probe: Probe,
    place: Place,
}

impl Begun {
    /// None at all.
    pub(super) const EMPTY: Self = Self {
        probe: Probe::EMPTY,
        place: Place::EMPTY,
    };
}

impl Search {
    /// The first half.
    #[inline(always)]
    pub(super) fn begin(
        &self,
        spd: &Spd,
        lane: &Lane<'_>,
        interface: Interface,
        towards: Towards,
    ) -> Begun {
        match lane.head.family {
            Family::V4 => self.begin_in(spd.v4(), &flow_v4(lane, interface, towards)),
            Family::V6 => self.begin_in(spd.v6(), &flow_v6(lane, interface, towards)),
        }
    }

    /// The second half: the first policy that matches; `None` is a discard.
    #[inline(always)]
    pub(super) fn end(
        &mut self,
        begun: Begun,
        spd: &Spd,
        lane: &Lane<'_>,
        interface: Interface,
        towards: Towards,
    ) -> Option<Match> {
        match lane.head.family {
            Family::V4 => self.end_in(begun, spd.v4(), &flow_v4(lane, interface, towards)),
            Family::V6 => self.end_in(begun, spd.v6(), &flow_v6(lane, interface, towards)),
        }
    }

    #[inline(always)]
    fn begin_in<A: Address>(&self, index: &Index<A>, flow: &FlowOf<A>) -> Begun {
        let mut begun = Begun::EMPTY;
        if index.is_direct() {
            begun.probe = index.prepare(flow);
        } else {
            begun.place = self.flows.prepare(flow);
        }
        begun
    }

    #[inline(always)]
    fn end_in<A: Address>(
        &mut self,
        begun: Begun,
        index: &Index<A>,
        flow: &FlowOf<A>,
    ) -> Option<Match> {
        if index.is_direct() {
            index.finish(begun.probe, flow)
        } else {
            self.flows.find(begun.place, index, flow)
        }
    }
}

/// What an IPv4 packet is matched by.
#[inline(always)]
pub(super) fn flow_v4(lane: &Lane<'_>, interface: Interface, towards: Towards) -> FlowOf<u32> {
    flow(
        lane,
        head::addresses_v4(lane.packet.network()),
        interface,
        towards,
    )
}

/// What an IPv6 packet is matched by.
#[inline]
pub(super) fn flow_v6(lane: &Lane<'_>, interface: Interface, towards: Towards) -> FlowOf<u128> {
    flow(
        lane,
        head::addresses_v6(lane.packet.network()),
        interface,
        towards,
    )
}

#[inline(always)]
fn flow<A>(
    lane: &Lane<'_>,
    (source, destination): (A, A),
    interface: Interface,
    towards: Towards,
) -> FlowOf<A> {
    let ports = match lane.head.ports.unpack() {
        Shown::None | Shown::Opaque => None,
        Shown::TypeCode(both) => Some((both, both)),
        Shown::Pair {
            source,
            destination,
        } => Some((source, destination)),
    };
    let (local, remote, ports) = match towards {
        Towards::Us => (destination, source, ports.map(|(a, b)| (b, a))),
        Towards::Others => (source, destination, ports),
    };
    FlowOf {
        vrf: lane.packet.vrf,
        interface,
        local,
        remote,
        protocol: lane.head.protocol,
        ports: ports.map(|(local, remote)| Ports { local, remote }),
    }
}

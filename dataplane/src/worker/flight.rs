//! Packets that travel together: one burst, from reception to its exits.
//!
//! Each packet has a lane that it keeps throughout, and a [`Set`] says which lanes a stage is for.
//! So nothing is moved or sorted between stages, and the order within a set is that of arrival.

use std::ops::{BitOr, BitOrAssign};

use api::id::{SaId, Vrf};
use api::state::SaRow;
use dpdk::{BATCH_SIZE, Mbuf};
use esp::head::{Head, PackedPorts};
use esp::ip::{Family, Fragment};
use esp::replay::Window;

use super::exits::{Exit, Exits};
use crate::memory::Bounded;
use crate::packet::{Origin, Packet};
use crate::port::PortIndex;
use crate::tables::memo::Place;
use crate::tables::sad::Sa;

/// One packet and what the stages found out about it.
#[repr(align(16))]
pub(super) struct Lane<'t> {
    pub(super) packet: Packet,
    /// The IP header in front: the outer one until decapsulation, of usual ESP no more than its family;
    /// the inner one once somebody has to know it.
    pub(super) head: Head,
    /// Inbound: where ESP stands, in bytes of the outer packet. Outbound: where the sealed part of the
    /// frame begins.
    pub(super) esp: (u16, u16),
    /// Inbound: UDP source port of ESP in UDP.
    pub(super) udp_source: Option<u16>,
    /// Inbound: DSCP and ECN of the outer header.
    pub(super) outer_tos: u8,
    /// For the gateway itself, or for a group that it may belong to.
    pub(super) to_us: bool,
    /// Full sequence number.
    pub(super) sequence: u64,
    /// The SA's row in the state region, and inbound its replay window.
    pub(super) row: Option<SaRow<'t>>,
    pub(super) window: Option<Window<'t>>,
    /// Outbound: the SA that the child's packets take.
    pub(super) sa_id: SaId,
    pub(super) sa: Option<&'t Sa>,
    /// Outbound: the outer packet is not complete before it is sealed.
    pub(super) unfinished: bool,
    /// What a memory was asked for packets like this one, and where the answer would be. Of ESP until
    /// decapsulation: outer addresses, if of IPv4, and the word with SPI and sequence number.
    pub(super) asked: [u64; 2],
    pub(super) place: Place,
    /// Outbound: the port that the finished frame leaves by.
    pub(super) egress: Option<PortIndex>,
    /// Outbound: place of the protect policy, and slot of its child.
    pub(super) rule: u32,
    pub(super) child: u32,
}

// All of it is written for each packet.
const _: () = assert!(size_of::<Lane<'_>>() == 144);

/// What a lane has before anybody has looked.
const NO_HEAD: Head = Head {
    total_len: 0,
    l4_offset: 0,
    ports: PackedPorts::NONE,
    family: Family::V4,
    protocol: 0,
    tos: 0,
    ttl: 0,
    fragment: Fragment::No,
    df: false,
};

impl Lane<'_> {
    /// One without a packet. Copied from a constant and then filled in: built from parts, it would
    /// be put together on the stack and moved, which costs more than all else at reception.
    const BLANK: Self = Self {
        packet: Packet::NONE,
        head: NO_HEAD,
        esp: (0, 0),
        udp_source: None,
        outer_tos: 0,
        to_us: false,
        sequence: 0,
        row: None,
        window: None,
        sa_id: SaId(0),
        sa: None,
        unfinished: false,
        asked: [0; 2],
        place: Place::NONE,
        egress: None,
        rule: 0,
        child: 0,
    };

    /// The port that the packet arrived at.
    #[inline]
    pub(super) const fn port(&self) -> PortIndex {
        self.packet.port
    }
}

/// Numbers of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

// One bit a lane.
const _: () = assert!(BATCH_SIZE == 64);

impl Set {
    #[inline]
    pub(super) const fn insert(&mut self, lane: usize) {
        self.0 |= 1 << (lane % BATCH_SIZE);
    }

    #[inline]
    pub(super) const fn has(self, lane: usize) -> bool {
        self.0 & (1 << (lane % BATCH_SIZE)) != 0
    }

    /// Those of this set that are not in `other`.
    #[inline]
    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many lanes there are.
    #[inline]
    pub(super) fn len(self) -> u64 {
        self.0.count_ones().into()
    }

    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Iterator for Set {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(lanes: I) -> Self {
        let mut set = Self::default();
        lanes.into_iter().for_each(|lane| set.insert(lane));
        set
    }
}

impl BitOr for Set {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Set {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A burst under way.
#[derive(Default)]
pub(super) struct Flight<'t> {
    pub(super) lanes: Bounded<Lane<'t>, BATCH_SIZE>,
    /// ESP packets for us.
    pub(super) esp: Set,
    /// Packets of flows whose tunnel may be remembered.
    pub(super) flows: Set,
    /// All other clear packets.
    pub(super) clear: Set,
}

impl<'t> Flight<'t> {
    /// Gives a frame a lane. `None`, and the frame freed, when all are taken: callers bring no more
    /// frames than there are lanes.
    #[inline(always)]
    pub(super) fn board(
        &mut self,
        frame: Mbuf,
        port: PortIndex,
        vrf: Vrf,
        origin: Origin,
    ) -> Option<&mut Packet> {
        let packet = &mut self.lanes.push(Lane::BLANK)?.packet;
        packet.put(frame, port, vrf, origin);
        Some(packet)
    }

    /// Makes room for other packets, once all have left.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        (self.esp, self.flows, self.clear) = Default::default();
    }

    /// Does a step for the lanes of a set, in order.
    #[inline(always)]
    pub(super) fn each(&mut self, set: Set, mut step: impl FnMut(usize, &mut Lane<'t>)) {
        for number in set {
            if let Some(lane) = self.lanes.get_mut(number) {
                step(number, lane);
            }
        }
    }

    /// Runs a stage over the lanes of a set, in order: those that it refuses leave by the exit it
    /// names. Gives the others.
    #[inline(always)]
    pub(super) fn stage(
        &mut self,
        set: Set,
        exits: &mut Exits,
        mut step: impl FnMut(&mut Lane<'t>, &mut Exits) -> Result<(), Exit>,
    ) -> Set {
        let mut passed = Set::default();
        self.each(set, |number, lane| match step(lane, exits) {
            Ok(()) => passed.insert(number),
            Err(Exit::Transmit(port)) => exits.send(&mut lane.packet, port),
            Err(exit) => exits.leave(&mut lane.packet, exit),
        });
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_count_up_and_know_their_edges() {
        let mut set = Set::default();
        assert!(set.is_empty());
        for lane in [63, 5, 0] {
            set.insert(lane);
        }
        assert!(set.eq([0, 5, 63]));
        assert!(set.has(63) && !set.has(62));
        let mut other = Set::default();
        other.insert(1);
        other.insert(5);
        assert!((set | other).eq([0, 1, 5, 63]));
        assert!(set.without(other).eq([0, 63]));
    }
}

//! Outbound ESP (RFC 4303 3.3, RFC 4301 5.1): Child, SA, size, sequence numbers, headers, crypto,
//! route of the tunnel.

use std::net::IpAddr;

use api::counters::{Counter, DropReason};
use api::state::SaRow;
use esp::encap::{EncapError, Tunnel};
use esp::ether;
use esp::ip::Family;

use super::answer::{Answer, Refusal};
use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::{View, forward, limits};
use crate::links::Notice;
use crate::packet::{ETHERNET_BYTES, Packet};
use crate::port::{Mac, PortIndex};
use crate::tables::fib::Target;
use crate::tables::sad::{Hop, HopCache, Sa, Way};
use crate::tables::spd::Decision;

/// IKE is told when this part of an SA's sequence numbers is left.
const REKEY_FRACTION: u64 = 16;

/// Finds the number of the child's SA and asks for what it will need. Without an SA IKE is asked.
#[inline(always)]
pub(super) fn choose_sa(
    view: &View<'_>,
    lane: &mut Lane<'_>,
    exits: &mut Exits,
) -> Result<(), Exit> {
    let Some(id) = view.tables.active(lane.child) else {
        acquire(view, lane, exits);
        return Err(DropReason::NoSa.into());
    };
    lane.sa_id = id;
    if let Some(row) = view.tables.sad.geometry().row(id) {
        view.announce(row);
    }
    Ok(())
}

#[cold]
fn acquire(view: &View<'_>, lane: &Lane<'_>, exits: &mut Exits) {
    let Some(rule) = view.snapshot.policies.outbound_spd().rule(lane.rule) else {
        return;
    };
    let Decision::Protect(child) = &rule.decision else {
        return;
    };
    if !child.may_acquire(view.now_ms) {
        return;
    }
    exits.counts.add(Counter::Acquires, 1);
    exits.notify(Notice::Acquire {
        policy: rule.id,
        child: child.id,
        packet: forward::five_tuple(lane),
    });
}

/// Takes the SA. One of another worker gets the packet before it has a sequence number.
#[inline(always)]
pub(super) fn take_sa<'t>(view: &View<'t>, lane: &mut Lane<'t>) -> Result<(), Exit> {
    view.own(lane.sa_id)?;
    // Deleted since it was chosen: as if there were none.
    let sa = view.tables.sad.get(lane.sa_id, view.turn);
    let sa = sa.ok_or(DropReason::NoSa)?;
    lane.key = view.tables.sad.key(sa, view.turn);
    lane.row = Some(view.state.row(sa.row).ok_or(DropReason::SaDeleted)?);
    lane.sa = Some(sa);
    if let Some(key) = lane.key {
        key.prefetch(lane.head.len());
    }
    Ok(())
}

/// What only outbound SAs have.
#[inline(always)]
fn tunnel<'t>(lane: &Lane<'t>) -> Result<(&'t Sa, &'t Tunnel), DropReason> {
    let sa = lane.sa.ok_or(DropReason::Internal)?;
    let tunnel = sa.tunnel.as_ref().ok_or(DropReason::Internal)?;
    Ok((sa, tunnel))
}

/// Refuses what has no route, no hop left or does not fit (RFC 4301 8.2), before it costs a
/// sequence number.
#[inline(always)]
pub(super) fn fit(view: &View<'_>, lane: &mut Lane<'_>) -> Result<(), Refusal> {
    let (sa, tunnel) = tunnel(lane)?;
    let Way::Outbound { mtu_bytes, hop } = &sa.way else {
        return Err(DropReason::Internal.into());
    };
    let most = match hop.get(view.snapshot.hops_version) {
        Some(known) => known.inner_mtu_bytes,
        None => find_hop(view, sa, tunnel, *mtu_bytes, hop)?,
    };
    if lane.head.total_len > most {
        let answer = lane.head.df.then_some(Answer::TooBig { mtu: most.into() });
        return Err(Refusal {
            reason: DropReason::TooBig,
            answer,
        });
    }
    forward::hop(lane)
}

/// Looks the tunnel's route up, and remembers it once the neighbour is known. Gives the longest
/// inner packet in bytes.
#[cold]
fn find_hop(
    view: &View<'_>,
    sa: &Sa,
    tunnel: &Tunnel,
    mtu_bytes: u16,
    cache: &HopCache,
) -> Result<u16, DropReason> {
    let (port, next_hop) = way_out(view, sa)?;
    let port_mtu = view.port(port).map_or(0, |port| port.mtu_bytes);
    let mtu = if mtu_bytes == 0 {
        port_mtu
    } else {
        mtu_bytes.min(port_mtu)
    };
    let inner_mtu_bytes = u16::try_from(tunnel.inner_mtu(mtu.into())).unwrap_or(0);
    if let Some(mac) = view.snapshot.neighbours.get(port, next_hop) {
        let hop = Hop {
            port,
            mac,
            inner_mtu_bytes,
        };
        cache.set(view.snapshot.hops_version, hop);
    }
    Ok(inner_mtu_bytes)
}

/// Egress port and next hop of a tunnel.
fn way_out(view: &View<'_>, sa: &Sa) -> Result<(PortIndex, IpAddr), DropReason> {
    let (remote, _) = sa.peer;
    match view.snapshot.fib.lookup(sa.vrf, remote) {
        Some(Target::Port { port, gateway }) => Ok((port, gateway.unwrap_or(remote))),
        Some(Target::Discard) => Err(DropReason::DiscardRoute),
        None => Err(DropReason::NoRoute),
    }
}

/// Packets of one SA that follow each other: their numbers and counters are stored at once.
struct Run<'t> {
    sa: &'t Sa,
    row: SaRow<'t>,
    /// Last number given out.
    sequence: u64,
    packets: u64,
    bytes: u64,
}

impl<'t> Run<'t> {
    #[inline]
    fn start(lane: &Lane<'t>, sa: &'t Sa) -> Result<Self, DropReason> {
        let row = lane.row.ok_or(DropReason::Internal)?;
        Ok(Self {
            sa,
            row,
            sequence: row.sequence(),
            packets: 0,
            bytes: 0,
        })
    }

    /// Stores the last number where it outlives us. Only after this may crypto use them.
    #[inline]
    fn finish(self, now_ms: u64) {
        if self.packets > 0 {
            let update = self.row.update();
            update.sequence(self.sequence);
            update.traffic(self.packets, self.bytes, now_ms);
            update.finish();
        }
    }
}

/// Sequence numbers of the whole set, counted against the limits of their SAs, and stored before
/// crypto sees one of them.
#[inline]
pub(super) fn number<'t>(
    view: &View<'t>,
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
) -> Set {
    let mut run: Option<Run<'t>> = None;
    let numbered = flight.stage(set, exits, |lane, exits| {
        let sa = lane.sa.ok_or(DropReason::Internal)?;
        if run.as_ref().is_none_or(|run| !std::ptr::eq(run.sa, sa))
            && let Some(ended) = run.replace(Run::start(lane, sa)?)
        {
            ended.finish(view.now_ms);
        }
        match &mut run {
            Some(run) => next_number(lane, run, exits),
            None => Err(DropReason::Internal.into()),
        }
    });
    if let Some(run) = run {
        run.finish(view.now_ms);
    }
    numbered
}

#[inline(always)]
fn next_number(lane: &mut Lane<'_>, run: &mut Run<'_>, exits: &mut Exits) -> Result<(), Exit> {
    let (sa, row) = (run.sa, run.row);
    let last = last_sequence(sa);
    if run.sequence >= last {
        // RFC 4303 3.3.3: never cycle.
        limits::expire(sa, row, exits, true);
        return Err(DropReason::SequenceOverflow.into());
    }
    let bytes = run.bytes.saturating_add(lane.head.len() as u64);
    limits::check(sa, row, exits, (run.packets + 1, bytes))?;
    run.packets += 1;
    run.bytes = bytes;
    run.sequence += 1;
    if run.sequence > last - last / REKEY_FRACTION {
        limits::expire(sa, row, exits, false);
    }
    lane.sequence = run.sequence;
    Ok(())
}

/// RFC 4303 3.3.3 and 2.2.1.
#[inline]
fn last_sequence(sa: &Sa) -> u64 {
    if sa.esn() { u64::MAX } else { u32::MAX.into() }
}

/// Writes outer headers, ESP header and trailer around the packet, and cuts off what Ethernet
/// padded.
#[inline(always)]
pub(super) fn encapsulate(lane: &mut Lane<'_>, exits: &mut Exits) -> Result<(), Exit> {
    let (sa, tunnel) = tunnel(lane)?;
    let (inner, sequence) = (lane.head, lane.sequence);
    let sizes = tunnel.sizes(inner.len());
    let len = ETHERNET_BYTES + sizes.prepend + inner.len() + sizes.append;
    let front = isize::try_from(sizes.prepend).map_err(|_| DropReason::NoHeadroom)?;
    let frame = lane.packet.frame_mut().ok_or(DropReason::Internal)?;
    frame.reframe(front, len).ok_or(DropReason::NoHeadroom)?;
    let outer = lane.packet.network_mut();
    let written = tunnel.write(outer, &inner, sa.spi, sequence, sa.esn());
    written.map_err(encap_reason)?;
    exits.counts.add(Counter::Encapsulated, 1);
    exits
        .counts
        .add(Counter::EncapsulatedBytes, inner.len() as u64);
    Ok(())
}

#[cold]
fn encap_reason(error: EncapError) -> DropReason {
    match error {
        EncapError::Length => DropReason::Internal,
        EncapError::TooLong => DropReason::TooBig,
        EncapError::Sequence => DropReason::SequenceOverflow,
    }
}

/// After crypto: completes the outer packet and sends it on its way.
#[inline(always)]
pub(super) fn depart(view: &View<'_>, lane: &mut Lane<'_>) -> Result<PortIndex, Exit> {
    let (sa, tunnel) = tunnel(lane)?;
    tunnel.finish(lane.packet.network_mut());
    let family = tunnel.family();
    let Way::Outbound { hop, .. } = &sa.way else {
        return Err(DropReason::Internal.into());
    };
    if let Some(hop) = hop.get(view.snapshot.hops_version) {
        let from = view.port(hop.port).ok_or(DropReason::Internal)?.mac;
        write_ethernet(&mut lane.packet, hop.mac, from, family).ok_or(DropReason::Internal)?;
        return Ok(hop.port);
    }
    let (port, to) = way_out(view, sa)?;
    match next_hop(view, &mut lane.packet, family, port, to) {
        Exit::Transmit(port) => Ok(port),
        exit => Err(exit),
    }
}

#[inline(always)]
fn write_ethernet(packet: &mut Packet, to: Mac, from: Mac, family: Family) -> Option<()> {
    let ethertype = match family {
        Family::V4 => ether::IPV4,
        Family::V6 => ether::IPV6,
    };
    ether::write(packet.bytes_mut(), to.0, from.0, ethertype)
}

/// Writes the Ethernet header for the next hop: the frame leaves, or waits for the address.
#[inline]
pub(super) fn next_hop(
    view: &View<'_>,
    packet: &mut Packet,
    family: Family,
    port: PortIndex,
    next_hop: IpAddr,
) -> Exit {
    let Some(info) = view.port(port) else {
        return DropReason::Internal.into();
    };
    let mac = view.snapshot.neighbours.get(port, next_hop);
    if write_ethernet(packet, mac.unwrap_or_default(), info.mac, family).is_none() {
        return DropReason::Internal.into();
    }
    match mac {
        Some(_) => Exit::Transmit(port),
        None => Exit::Hold { port, next_hop },
    }
}

/// Sends a frame that was held on its way, if its next hop has an address now.
pub(super) fn release(view: &View<'_>, packet: &mut Packet, to: IpAddr) -> Exit {
    let port = packet.port;
    let Ok(ethernet) = ether::Ethernet::parse(packet.bytes()) else {
        return DropReason::Internal.into();
    };
    let family = if ethernet.ethertype == ether::IPV4 {
        Family::V4
    } else {
        Family::V6
    };
    next_hop(view, packet, family, port, to)
}

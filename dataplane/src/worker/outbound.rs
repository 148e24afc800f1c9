//! Outbound ESP (RFC 4303 3.3, RFC 4301 5.1): Child, SA, size, sequence numbers, headers, crypto,
//! route of the tunnel.

use std::net::IpAddr;

use api::counters::{Counter, DropReason};
use api::state::SaRow;
use esp::encap::{EncapError, Tunnel};
use esp::ether;
use esp::ip::Family;

use super::answer::{self, Answer, Refusal};
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

/// Finds the number of the child's SA. Without one IKE is asked.
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

/// Takes the SA; of packets that follow each other it is often the last one. One of another worker
/// gets the packet before it has a sequence number.
#[inline(always)]
pub(super) fn take_sa<'t>(
    view: &View<'t>,
    lane: &mut Lane<'t>,
    last: &mut Option<&'t Sa>,
) -> Result<(), Exit> {
    let known = last.filter(|sa| sa.id == lane.sa_id);
    if known.is_none() {
        view.own(lane.sa_id)?;
        // Deleted since it was chosen: as if there were none.
        let sa = view.tables.sad.get(lane.sa_id, view.turn);
        let sa = sa.ok_or(DropReason::NoSa)?;
        sa.key.prefetch(lane.head.len());
        *last = Some(sa);
    }
    lane.sa = *last;
    Ok(())
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

/// Packets of one SA that follow each other: what they have in common, and their numbers and
/// counters, which are stored at once.
struct Run<'t> {
    sa: &'t Sa,
    tunnel: &'t Tunnel,
    row: SaRow<'t>,
    hop: Option<Hop>,
    /// Ethernet address of the port they leave by.
    from: Mac,
    /// Longest inner packet in bytes.
    most: u16,
    /// Last number given out.
    sequence: u64,
    packets: u64,
    bytes: u64,
}

impl<'t> Run<'t> {
    #[inline(always)]
    fn start(view: &View<'t>, sa: &'t Sa) -> Result<Self, DropReason> {
        let tunnel = sa.tunnel.as_ref().ok_or(DropReason::Internal)?;
        let Way::Outbound { mtu_bytes, hop } = &sa.way else {
            return Err(DropReason::Internal);
        };
        let row = view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
        let known = hop.get(view.snapshot.hops_version);
        let most = match known {
            Some(known) => known.inner_mtu_bytes,
            None => find_hop(view, sa, tunnel, *mtu_bytes, hop)?,
        };
        let port = known.and_then(|hop| view.port(hop.port));
        Ok(Self {
            sa,
            tunnel,
            row,
            hop: known,
            from: port.map(|port| port.mac).unwrap_or_default(),
            most,
            sequence: row.sequence(),
            packets: 0,
            bytes: 0,
        })
    }

    /// Stores the last number where it outlives us. Only after this may crypto use them.
    #[inline(always)]
    fn finish(self, now_ms: u64) {
        if self.packets > 0 {
            let update = self.row.update();
            update.sequence(self.sequence);
            update.traffic(self.packets, self.bytes, now_ms);
            update.finish();
        }
    }
}

/// All that comes before crypto, packet by packet: size and hop limit, the sequence number, outer
/// headers. Numbers are counted against the limits of their SAs and stored before crypto sees one
/// of them.
#[inline(always)]
pub(super) fn encapsulate<'t>(
    view: &View<'t>,
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
) -> Set {
    let mut run: Option<Run<'t>> = None;
    let passed = flight.stage(set, exits, |lane, exits| {
        let sa = lane.sa.ok_or(DropReason::Internal)?;
        if run.as_ref().is_none_or(|run| !std::ptr::eq(run.sa, sa)) {
            if let Some(ended) = run.take() {
                ended.finish(view.now_ms);
            }
            run = Some(Run::start(view, sa)?);
        }
        let run = run.as_mut().ok_or(DropReason::Internal)?;
        fit(lane, run).map_err(|refusal| answer::refuse(view, exits, &mut lane.packet, refusal))?;
        number(lane, run, exits)?;
        write_headers(lane, run, exits)
    });
    if let Some(run) = run {
        run.finish(view.now_ms);
    }
    exits.counts.add(Counter::Encapsulated, passed.len());
    passed
}

/// Refuses what does not fit (RFC 4301 8.2) or has no hop left, before it costs a sequence number.
#[inline(always)]
fn fit(lane: &mut Lane<'_>, run: &Run<'_>) -> Result<(), Refusal> {
    if lane.head.total_len > run.most {
        let mtu = run.most.into();
        let answer = lane.head.df.then_some(Answer::TooBig { mtu });
        return Err(Refusal {
            reason: DropReason::TooBig,
            answer,
        });
    }
    forward::hop(lane)
}

#[inline(always)]
fn number(lane: &mut Lane<'_>, run: &mut Run<'_>, exits: &mut Exits) -> Result<(), Exit> {
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
#[inline(always)]
fn last_sequence(sa: &Sa) -> u64 {
    if sa.esn() { u64::MAX } else { u32::MAX.into() }
}

/// Writes outer headers, ESP header and trailer around the packet, and cuts off what Ethernet
/// padded.
#[inline(always)]
fn write_headers(lane: &mut Lane<'_>, run: &Run<'_>, exits: &mut Exits) -> Result<(), Exit> {
    let (sa, tunnel) = (run.sa, run.tunnel);
    let inner_len = lane.head.len();
    let sizes = tunnel.sizes(inner_len);
    let len = ETHERNET_BYTES + sizes.prepend + inner_len + sizes.append;
    let front = isize::try_from(sizes.prepend).map_err(|_| DropReason::NoHeadroom)?;
    let frame = lane.packet.frame_mut().ok_or(DropReason::Internal)?;
    frame.reframe(front, len).ok_or(DropReason::NoHeadroom)?;
    let (ethernet, outer) = frame
        .data_mut()
        .split_first_chunk_mut::<ETHERNET_BYTES>()
        .ok_or(DropReason::NoHeadroom)?;
    let written = tunnel.write(outer, &lane.head, sa.spi, lane.sequence, sa.esn());
    written.map_err(encap_reason)?;
    if let Some(hop) = run.hop {
        *ethernet = ether::header(hop.mac.0, run.from.0, ethertype(tunnel.family()));
        lane.egress = Some(hop.port);
    }
    exits
        .counts
        .add(Counter::EncapsulatedBytes, inner_len as u64);
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
pub(super) fn depart(view: &View<'_>, lane: &mut Lane<'_>) -> Exit {
    let sa = lane.sa;
    let Some((sa, tunnel)) = sa.and_then(|sa| Some((sa, sa.tunnel.as_ref()?))) else {
        return DropReason::Internal.into();
    };
    tunnel.finish(lane.packet.network_mut());
    if let Some(port) = lane.egress {
        return Exit::Transmit(port);
    }
    match way_out(view, sa) {
        Ok((port, to)) => next_hop(view, &mut lane.packet, tunnel.family(), port, to),
        Err(reason) => reason.into(),
    }
}

#[inline(always)]
const fn ethertype(family: Family) -> u16 {
    match family {
        Family::V4 => ether::IPV4,
        Family::V6 => ether::IPV6,
    }
}

#[inline(always)]
pub(super) fn write_ethernet(
    packet: &mut Packet,
    to: Mac,
    from: Mac,
    family: Family,
) -> Option<()> {
    ether::write(packet.bytes_mut(), to.0, from.0, ethertype(family))
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

//! Outbound ESP (RFC 4303 3.3, RFC 4301 5.1): Child, SA, size, sequence numbers, headers, crypto,
//! route of the tunnel.

use std::net::IpAddr;

use api::counters::{Counter, DropReason};
use api::state::SaRow;
use esp::encap::EncapError;
use esp::ether;
use esp::ip::Family;
use esp::plain::{self, Plain};

use super::answer::{self, Answer, Refusal};
use super::crypto::Preparation;
use super::exits::{Exit, Exits};
use super::flight::Lane;
use super::{View, forward, limits};
use crate::links::Notice;
use crate::packet::{ETHERNET_BYTES, Packet};
use crate::port::{Mac, PortIndex};
use crate::tables::fib::Target;
use crate::tables::sad::{Hop, Sa, Way};
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
fn find_hop(view: &View<'_>, sa: &Sa) -> Result<u16, DropReason> {
    let Way::Outbound { mtu_bytes } = sa.way else {
        return Err(DropReason::Internal);
    };
    let tunnel = sa.tunnel.as_ref().ok_or(DropReason::Internal)?;
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
            mac: mac.word(),
            inner_mtu_bytes,
        };
        sa.hop.set(view.snapshot.hops_version, hop);
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

/// All that comes before crypto, packet by packet: size and hop limit, the sequence number, outer
/// headers. Numbers and counters of packets of one SA that follow each other are stored at once,
/// before crypto sees one of them.
pub(super) struct Encapsulation<'v, 't> {
    view: &'v View<'t>,
    /// The SA of the last packet, and what is not stored of it yet.
    sa: Option<&'t Sa>,
    row: Option<SaRow<'t>>,
    /// Some limit is to be looked at for each packet.
    limited: bool,
    /// Last number given out, the last there is, and from which on IKE is told.
    sequence: u64,
    last: u64,
    rekey: u64,
    packets: u64,
    bytes: u64,
    /// The port that the last packet leaves by, and its Ethernet address.
    from: (Option<PortIndex>, u64),
}

impl<'v, 't> Encapsulation<'v, 't> {
    pub(super) const fn new(view: &'v View<'t>) -> Self {
        Self {
            view,
            sa: None,
            row: None,
            limited: false,
            sequence: 0,
            last: 0,
            rekey: 0,
            packets: 0,
            bytes: 0,
            from: (None, 0),
        }
    }

    /// Goes over to the lane's SA, if it is not the last one's.
    #[inline(always)]
    fn turn_to(&mut self, sa: &'t Sa) -> Result<(), DropReason> {
        if self.sa.is_some_and(|last| std::ptr::eq(last, sa)) {
            return Ok(());
        }
        self.store();
        let row = self.view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
        (self.sa, self.row) = (Some(sa), Some(row));
        self.limited = limits::apply(sa, row);
        self.sequence = row.sequence();
        self.last = last_sequence(sa);
        self.rekey = self.last - self.last / REKEY_FRACTION;
        (self.packets, self.bytes) = (0, 0);
        Ok(())
    }

    /// Stores the last number where it outlives us. Only after this may crypto use them.
    #[inline(always)]
    fn store(&mut self) {
        if let Some(row) = self.row.filter(|_| self.packets > 0) {
            let update = row.update();
            update.sequence(self.sequence);
            update.traffic(self.packets, self.bytes, self.view.now_ms);
            update.finish();
        }
        self.sa = None;
    }

    /// The Ethernet address of a port.
    #[inline(always)]
    fn address_of(&mut self, port: PortIndex) -> u64 {
        if self.from.0 != Some(port) {
            let info = self.view.port(port);
            self.from = (Some(port), info.map_or(0, |info| info.mac.word()));
        }
        self.from.1
    }

    #[inline(always)]
    fn number(
        &mut self,
        lane: &mut Lane<'_>,
        sa: &Sa,
        exits: &mut Exits,
    ) -> Result<(), DropReason> {
        let row = self.row.ok_or(DropReason::Internal)?;
        if self.sequence >= self.last {
            // RFC 4303 3.3.3: never cycle.
            limits::expire(sa, row, exits, true);
            return Err(DropReason::SequenceOverflow);
        }
        let (packets, bytes) = (self.packets + 1, self.bytes + lane.head.len() as u64);
        if self.limited {
            limits::check(sa, row, exits, (packets, bytes))?;
        }
        (self.packets, self.bytes) = (packets, bytes);
        self.sequence += 1;
        if self.sequence > self.rekey {
            limits::expire(sa, row, exits, false);
        }
        lane.sequence = self.sequence;
        Ok(())
    }
}

impl<'t> Preparation<'t> for Encapsulation<'_, 't> {
    #[inline(always)]
    fn prepare(&mut self, lane: &mut Lane<'t>, exits: &mut Exits) -> Result<(), Exit> {
        let view = self.view;
        let sa = lane.sa.ok_or(DropReason::Internal)?;
        self.turn_to(sa)?;
        let hop = sa.hop.get(view.snapshot.hops_version);
        let most = match hop {
            Some(known) => known.inner_mtu_bytes,
            None => find_hop(view, sa)?,
        };
        fit(lane, most)
            .map_err(|refusal| answer::refuse(view, exits, &mut lane.packet, refusal))?;
        self.number(lane, sa, exits)?;
        exits.counts.add(Counter::Encapsulated, 1);
        let bytes = lane.head.len() as u64;
        exits.counts.add(Counter::EncapsulatedBytes, bytes);
        let from = hop.map_or(0, |hop| self.address_of(hop.port));
        match (&sa.plain, hop) {
            (Some(plain), Some(hop)) => {
                let written = write_plain(lane, plain, hop, from);
                written.ok_or_else(|| DropReason::NoHeadroom.into())
            }
            _ => write_any(lane, sa, hop, from),
        }
    }

    fn end(&mut self) {
        self.store();
    }
}

/// Refuses what does not fit (RFC 4301 8.2) or has no hop left, before it costs a sequence number.
#[inline(always)]
fn fit(lane: &mut Lane<'_>, most: u16) -> Result<(), Refusal> {
    if lane.head.total_len > most {
        let mtu = most.into();
        let answer = lane.head.df.then_some(Answer::TooBig { mtu });
        return Err(Refusal {
            reason: DropReason::TooBig,
            answer,
        });
    }
    forward::hop(lane)
}

/// RFC 4303 3.3.3 and 2.2.1.
#[inline(always)]
fn last_sequence(sa: &Sa) -> u64 {
    if sa.esn() { u64::MAX } else { u32::MAX.into() }
}

/// Writes the usual outer packet, IPv4 without UDP, towards a neighbour that is known, and cuts off
/// what Ethernet padded.
#[inline(always)]
fn write_plain(lane: &mut Lane<'_>, plain: &Plain, hop: Hop, from: u64) -> Option<()> {
    const FRONT_BYTES: u16 = 50;
    const _: () = assert!(FRONT_BYTES as usize == ETHERNET_BYTES + plain::HEADERS_BYTES);
    let sealed_len = plain.sealed_len(lane.head.len());
    // No longer than the MTU of the way: `fit` has seen to it.
    let outer_len = u16::try_from(plain::HEADERS_BYTES + sealed_len).ok()?;
    let frame = lane.packet.frame_mut()?;
    frame.reframe(
        plain::HEADERS_BYTES.cast_signed(),
        usize::from(FRONT_BYTES) + sealed_len,
    )?;
    let data = frame.data_mut();
    let (ethernet, packet) = data.split_first_chunk_mut::<ETHERNET_BYTES>()?;
    let (headers, sealed) = packet.split_first_chunk_mut()?;
    ether::write_words(ethernet, hop.mac, from, ether::IPV4)?;
    plain.write(headers, sealed, &lane.head, lane.sequence, outer_len)?;
    lane.egress = Some(hop.port);
    lane.esp.0 = FRONT_BYTES;
    Some(())
}

/// Writes any other outer packet, and cuts off what Ethernet padded.
#[inline(never)]
fn write_any(lane: &mut Lane<'_>, sa: &Sa, hop: Option<Hop>, from: u64) -> Result<(), Exit> {
    let tunnel = sa.tunnel.as_ref().ok_or(DropReason::Internal)?;
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
    lane.esp.0 = u16::try_from(ETHERNET_BYTES + sizes.prepend).unwrap_or(u16::MAX);
    if let Some(hop) = hop {
        ether::write_words(ethernet, hop.mac, from, ethertype(tunnel.family()))
            .ok_or(DropReason::Internal)?;
        lane.egress = Some(hop.port);
    }
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

//! Outbound ESP (RFC 4303 3.3, RFC 4301 5.1): Child, SA, size, sequence numbers, headers, crypto,
//! route of the tunnel.

use std::net::IpAddr;

use api::counters::{Counter, DropReason};
use api::id::SaId;
use api::state::SaRow;
use crypto::Op;
use esp::ether;
use esp::head::Head;
use esp::ip::{self, Family};

use super::answer::{self, Answer, Refusal};
use super::crypto::{Ops, Preparation};
use super::exits::{Exit, Exits};
use super::flight::Lane;
use super::{View, forward, limits};
use crate::links::Notice;
use crate::memory::prefetch;
use crate::packet::{ETHERNET_BYTES, Origin, Packet};
use crate::port::{Mac, PortIndex};
use crate::tables::fib::Target;
use crate::tables::sad::{Hop, Marks, Sa, Sending, Way};
use crate::tables::spd::Decision;

/// IKE is told when this part of an SA's sequence numbers is left.
const REKEY_FRACTION: u64 = 16;
/// The cache line of an SA that an outbound packet looks at, its key apart.
const SA_LINE: usize = 1;
/// Cache lines in front of a frame that outer headers will be written to.
const ROOM_LINES: usize = 1;

/// The SA of the last packet, and how many times it was another one.
#[derive(Default)]
pub(super) struct Last {
    id: Option<SaId>,
    pub(super) runs: u64,
}

/// Finds the number of the child's SA, and asks for what it needs. Without one IKE is asked.
#[inline(always)]
pub(super) fn choose_sa(
    view: &View<'_>,
    lane: &mut Lane<'_>,
    exits: &mut Exits,
    last: &mut Last,
) -> Result<(), Exit> {
    let Some(id) = view.tables.active(lane.child) else {
        acquire(view, lane, exits);
        return Err(DropReason::NoSa.into());
    };
    lane.sa_id = id;
    if let Some(frame) = lane.packet.frame() {
        frame.prefetch_data(ROOM_LINES, 0);
    }
    if Some(id) != last.id {
        view.announce(id, SA_LINE);
        if let Some(row) = row(view, id) {
            prefetch(row.newest());
        }
        last.id = Some(id);
        last.runs += 1;
    }
    Ok(())
}

/// The row of an SA in the state region.
#[inline(always)]
fn row<'t>(view: &View<'t>, id: SaId) -> Option<SaRow<'t>> {
    view.state.row(view.tables.sad.geometry().row(id)?)
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

/// Looks the tunnel's route up, and remembers it once the neighbour is known. Gives the longest
/// inner packet in bytes.
#[cold]
fn find_hop(view: &View<'_>, sa: &Sa) -> Result<u16, DropReason> {
    let Way::Outbound { mtu_bytes } = sa.way else {
        return Err(DropReason::Internal);
    };
    let sending = sa.sending.as_ref().ok_or(DropReason::Internal)?;
    let (port, next_hop) = way_out(view, sa)?;
    let port_mtu = view.port(port).map_or(0, |port| port.mtu_bytes);
    let mtu = if mtu_bytes == 0 {
        port_mtu
    } else {
        mtu_bytes.min(port_mtu)
    };
    let inner_mtu_bytes = u16::try_from(sending.tunnel.inner_mtu(mtu.into())).unwrap_or(0);
    if let Some(mac) = view.snapshot.neighbours.get(port, next_hop) {
        let hop = Hop {
            port,
            mac: mac.word(),
            inner_mtu_bytes,
        };
        sending.hop.set(view.snapshot.hops_version, hop);
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
/// headers.
pub(super) struct Encapsulation<'v, 't> {
    view: &'v View<'t>,
    /// The SA of the last packet.
    run: Option<Run<'t>>,
    packets: u64,
    bytes: u64,
}

/// Packets of one SA that follow each other: what they have in common, and their numbers and counters,
/// which are stored at once before crypto sees one of them.
struct Run<'t> {
    id: SaId,
    sa: &'t Sa,
    sending: &'t Sending,
    row: SaRow<'t>,
    /// Where they leave, and the Ethernet address of that port, once the neighbour is known.
    hop: Option<(Hop, u64)>,
    /// Longest inner packet in bytes.
    most: u16,
    /// Last number given out, and from which on there is something to be looked at.
    sequence: u64,
    watched: u64,
    packets: u64,
    bytes: u64,
}

impl<'t> Run<'t> {
    /// Takes the SA that a lane has chosen. One of another worker gets the packet before it has a
    /// sequence number.
    #[inline(always)]
    fn start(view: &View<'t>, id: SaId, len: usize) -> Result<Self, Exit> {
        view.own(id)?;
        // Deleted since it was chosen: as if there were none.
        let sa = view.tables.sad.get(id, view.turn).ok_or(DropReason::NoSa)?;
        sa.key.prefetch(len);
        let sending = sa.sending.as_ref().ok_or(DropReason::Internal)?;
        let row = row(view, id).ok_or(DropReason::SaDeleted)?;
        let hop = sending.hop.get(view.snapshot.hops_version);
        let most = match hop {
            Some(known) => known.inner_mtu_bytes,
            None => find_hop(view, sa)?,
        };
        let from = |hop: &Hop| view.port(hop.port).map_or(0, |info| info.mac.word());
        Ok(Self {
            id,
            sa,
            sending,
            row,
            hop: hop.map(|hop| (hop, from(&hop))),
            most,
            sequence: row.sequence(),
            watched: if limits::apply(sending.marks, row) {
                0
            } else {
                rekey_from(sending.marks)
            },
            packets: 0,
            bytes: 0,
        })
    }

    /// Stores the last number where it outlives us. Only after this may crypto use them.
    #[inline(always)]
    fn store(&self, now_ms: u64) {
        if self.packets > 0 {
            let update = self.row.update();
            update.sequence(self.sequence);
            update.traffic(self.packets, self.bytes, now_ms);
            update.finish();
        }
    }

    /// Limits and the end of the numbers, of which IKE is told.
    #[cold]
    fn watch(&self, exits: &mut Exits, more: (u64, u64)) -> Result<(), DropReason> {
        let (sa, row) = (self.sa, self.row);
        if self.sequence >= last_sequence(sa.marks) {
            // RFC 4303 3.3.3: never cycle.
            limits::expire(sa, row, exits, true);
            return Err(DropReason::SequenceOverflow);
        }
        if limits::apply(sa.marks, row) {
            limits::check(sa, row, exits, more)?;
        }
        if self.sequence >= rekey_from(sa.marks) {
            limits::expire(sa, row, exits, false);
        }
        Ok(())
    }

    /// Gives the packet its number.
    #[inline(always)]
    fn number(&mut self, exits: &mut Exits, len: usize) -> Result<(), DropReason> {
        let (packets, bytes) = (self.packets + 1, self.bytes + len as u64);
        if self.sequence >= self.watched {
            self.watch(exits, (packets, bytes))?;
        }
        (self.packets, self.bytes) = (packets, bytes);
        self.sequence += 1;
        Ok(())
    }
}

impl<'v, 't> Encapsulation<'v, 't> {
    pub(super) const fn new(view: &'v View<'t>) -> Self {
        Self {
            view,
            run: None,
            packets: 0,
            bytes: 0,
        }
    }

    /// Stores what the last run has changed.
    #[inline(always)]
    fn store(&mut self) {
        if let Some(run) = self.run.take() {
            run.store(self.view.now_ms);
            self.packets += run.packets;
            self.bytes += run.bytes;
        }
    }
}

impl<'t> Preparation<'t> for Encapsulation<'_, 't> {
    const STAGE: Counter = Counter::StageEncap;

    #[inline(never)]
    fn prepare<'f>(
        &mut self,
        lane: &'f mut Lane<'t>,
        exits: &mut Exits,
        ops: &mut Ops<'f>,
    ) -> Result<(), Exit> {
        let inner_len = lane.head.len();
        if self.run.as_ref().is_none_or(|run| run.id != lane.sa_id) {
            self.store();
            self.run = Some(Run::start(self.view, lane.sa_id, inner_len)?);
        }
        let run = self.run.as_mut().ok_or(DropReason::Internal)?;
        let forwarded = lane.packet.origin != Origin::Twin;
        // Refused before it costs a sequence number.
        if lane.head.total_len > run.most || (forwarded && lane.head.ttl <= 1) {
            let refusal = refusal(lane, run.most);
            return Err(answer::refuse(self.view, exits, &mut lane.packet, refusal));
        }
        run.number(exits, inner_len)?;
        lane.sequence = run.sequence;
        lane.sa = Some(run.sa);
        lane.unfinished = run.sending.tunnel.is_finished_later();
        lane.egress = run.hop.map(|(hop, _)| hop.port);
        let sizes = run.sending.tunnel.sizes(inner_len);
        let len = ETHERNET_BYTES + sizes.prepend + inner_len + sizes.append;
        let frame = lane.packet.frame_mut().ok_or(DropReason::Internal)?;
        // Room in front is what it depends on; `most` has seen to the rest.
        frame
            .reframe(sizes.prepend.cast_signed(), len)
            .ok_or(DropReason::NoHeadroom)?;
        let op = enclose(frame.data_mut(), &lane.head, run, forwarded);
        ops.push(op.ok_or(DropReason::Internal)?);
        Ok(())
    }

    fn end(&mut self, exits: &mut Exits) {
        self.store();
        exits.counts.add(Counter::Encapsulated, self.packets);
        exits.counts.add(Counter::EncapsulatedBytes, self.bytes);
    }
}

/// Takes a hop off the inner packet, writes all headers in front of it and the trailer behind. Gives
/// what is to be sealed: all behind outer headers, ESP header and IV (RFC 4106 3).
#[inline(always)]
fn enclose<'f>(
    frame: &'f mut [u8],
    inner: &Head,
    run: &Run<'f>,
    forwarded: bool,
) -> Option<Op<'f>> {
    let Sending {
        spi, marks, tunnel, ..
    } = run.sending;
    let (ethernet, outer) = frame.split_first_chunk_mut::<ETHERNET_BYTES>()?;
    if let Some((hop, from)) = run.hop {
        ether::write_words(ethernet, hop.mac, from, ethertype(tunnel.family()))?;
    }
    let sealed = tunnel.enclose(outer, inner, *spi, run.sequence)?;
    // Linux has not routed its own packets, only sent them.
    if forwarded {
        ip::decrement_ttl(sealed)?;
    }
    let aad = esp::aad(*spi, run.sequence, marks.has(Marks::ESN));
    Op::new(&run.sa.key, run.sequence.to_be_bytes(), aad, sealed).ok()
}

/// What does not fit (RFC 4301 8.2) or has no hop left.
#[cold]
fn refusal(lane: &Lane<'_>, most: u16) -> Refusal {
    if lane.head.total_len > most {
        let mtu = most.into();
        return Refusal {
            reason: DropReason::TooBig,
            answer: lane.head.df.then_some(Answer::TooBig { mtu }),
        };
    }
    forward::no_hop_left()
}

/// The number from which on IKE is told that an SA's numbers come to their end.
#[inline(always)]
fn rekey_from(marks: Marks) -> u64 {
    let last = last_sequence(marks);
    last - last / REKEY_FRACTION
}

/// RFC 4303 3.3.3 and 2.2.1.
#[inline(always)]
fn last_sequence(marks: Marks) -> u64 {
    if marks.has(Marks::ESN) {
        u64::MAX
    } else {
        u32::MAX.into()
    }
}

/// After crypto: completes an outer packet, or finds its way out.
#[cold]
pub(super) fn depart(view: &View<'_>, lane: &mut Lane<'_>) -> Exit {
    let sa = lane.sa;
    let Some((sa, sending)) = sa.and_then(|sa| Some((sa, sa.sending.as_ref()?))) else {
        return DropReason::Internal.into();
    };
    let tunnel = &sending.tunnel;
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
pub(super) const fn ethertype(family: Family) -> u16 {
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

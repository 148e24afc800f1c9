//! Inbound ESP (RFC 4303 3.4, RFC 4301 5.2): SAD, replay check, crypto, replay commit, inner packet.

use std::net::IpAddr;
use std::ops::Range;

use api::counters::{Counter, DropReason};
use api::id::SaId;
use api::state::{Flags, SaRow, Update};
use crypto::Op;
use esp::CLEAR_BYTES;
use esp::decap::{self, DecapError, Trailer};
use esp::head::{self, Head};
use esp::ip::Family;
use esp::replay::{self, Verdict, Window};

use super::classify::esp_reason;
use super::crypto::{Ops, Preparation};
use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::forward::Towards;
use super::outbound::ethertype;
use super::recall::Recall;
use super::search::{flow_v4, flow_v6};
use super::{View, limits};
use crate::links::Notice;
use crate::memory::prefetch;
use crate::packet::{ETHERNET_BYTES, Origin};
use crate::tables::sad::{Marks, Sa, Way};

/// The cache line of an SA that an inbound packet looks at, its key apart.
const SA_LINE: usize = 0;
/// The bits of explicit congestion notification (RFC 3168 5).
const ECN_MASK: u8 = 0b11;

/// Asks for what the packet's SPI says will be needed, if it is one of ours.
#[inline(always)]
pub(super) fn announce(view: &View<'_>, lane: &Lane<'_>) {
    view.announce(SaId(asked(lane).0), SA_LINE);
}

/// SPI and sequence number as the packet shows them.
#[inline(always)]
fn asked(lane: &Lane<'_>) -> (u32, u32) {
    let [_, word] = lane.asked;
    replay::halves(word)
}

/// An SA, its row and its window: of packets that follow each other it is often the same.
#[derive(Clone, Copy)]
pub(super) struct Found<'t> {
    sa: &'t Sa,
    row: SaRow<'t>,
    window: Window<'t>,
}

/// The SA of the last packet, and how many times it was another one.
#[derive(Default)]
pub(super) struct Last<'t> {
    found: Option<Found<'t>>,
    pub(super) runs: u64,
}

/// Finds the SA by protocol, SPI, local address, VRF and encapsulation (RFC 4301 4.1). A packet of
/// another worker's SA goes there before anything is counted.
#[inline(always)]
pub(super) fn look_up<'t>(
    view: &View<'t>,
    lane: &mut Lane<'t>,
    last: &mut Last<'t>,
) -> Result<(), Exit> {
    let (spi, low) = asked(lane);
    lane.sequence = low.into();
    // A static SA is named by its address too.
    let known = last
        .found
        .filter(|last| last.sa.spi == spi && !last.sa.id.is_static());
    let Some(found) = known else {
        let found = find(view, lane, spi)?;
        announce_more(lane, &found);
        last.found = Some(found);
        last.runs += 1;
        return found.board(view, lane);
    };
    found.board(view, lane)
}

impl<'t> Found<'t> {
    /// Gives the SA to a packet that fits it.
    #[inline(always)]
    fn board(self, view: &View<'t>, lane: &mut Lane<'t>) -> Result<(), Exit> {
        if !fits(view, lane, self.sa) {
            return Err(DropReason::WrongSaUse.into());
        }
        lane.sa = Some(self.sa);
        (lane.row, lane.window) = (Some(self.row), Some(self.window));
        Ok(())
    }
}

/// Asks for what only the SA itself can tell of.
#[inline(always)]
fn announce_more(lane: &Lane<'_>, found: &Found<'_>) {
    let len = lane.esp.1.saturating_sub(lane.esp.0);
    found.sa.key.prefetch(len.into());
    prefetch(found.row.newest());
    if let Some(word) = found.window.left_by(lane.sequence) {
        prefetch(word);
    }
}

#[inline(always)]
fn find<'t>(view: &View<'t>, lane: &Lane<'_>, spi: u32) -> Result<Found<'t>, Exit> {
    if spi == 0 {
        // Never on the wire (RFC 4303 2.1).
        return Err(DropReason::MalformedEsp.into());
    }
    let local = || head::addresses(lane.packet.network()).1;
    let sa = view
        .tables
        .sad
        .inbound(lane.packet.vrf, local, spi, view.turn)
        .ok_or(DropReason::UnknownSpi)?;
    view.own(sa.id)?;
    let row = view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
    let window = view.window(row, sa)?;
    Ok(Found { sa, row, window })
}

#[inline(always)]
fn fits(view: &View<'_>, lane: &Lane<'_>, sa: &Sa) -> bool {
    let Way::Inbound { local, .. } = sa.way else {
        return false;
    };
    let to_local = match (local, lane.head.family) {
        (IpAddr::V4(v4), Family::V4) => v4.to_bits() == replay::halves(lane.asked[0]).1,
        (IpAddr::V6(v6), Family::V6) => v6.to_bits() == head::addresses_v6(lane.packet.network()).1,
        _ => false,
    };
    let by_port = || view.port(lane.port()).map(|port| port.interface) == Some(sa.interface);
    to_local
        && sa.vrf == lane.packet.vrf
        && sa.marks.has(Marks::UDP) == lane.udp_source.is_some()
        && (sa.interface.0 == 0 || by_port())
}

/// The last look before crypto.
pub(super) struct ReplayCheck;

impl<'t> Preparation<'t> for ReplayCheck {
    const STAGE: Counter = Counter::StageReplay;

    #[inline(never)]
    fn prepare<'f>(
        &mut self,
        lane: &'f mut Lane<'t>,
        _: &mut Exits,
        ops: &mut Ops<'f>,
    ) -> Result<(), Exit> {
        let sa = lane.sa.ok_or(DropReason::Internal)?;
        check_replay(lane, sa)?;
        let sealed = sealed(lane, sa).map_err(esp_reason)?;
        let (clear, data) = lane
            .packet
            .bytes_mut()
            .get_mut(sealed)
            .and_then(<[u8]>::split_first_chunk_mut::<CLEAR_BYTES>)
            .ok_or(DropReason::Internal)?;
        let iv = *clear.last_chunk().ok_or(DropReason::Internal)?;
        let aad = esp::aad(sa.spi, lane.sequence, sa.esn());
        let op = Op::new(&sa.key, iv, aad, data);
        ops.push(op.map_err(|_| DropReason::MalformedEsp)?);
        Ok(())
    }
}

/// Infers the full sequence number, and refuses what the window has seen (RFC 4303 3.4.3).
#[inline(always)]
fn check_replay(lane: &mut Lane<'_>, sa: &Sa) -> Result<(), DropReason> {
    let row = lane.row.ok_or(DropReason::Internal)?;
    let window = lane.window.as_ref().ok_or(DropReason::Internal)?;
    if sa.esn() {
        let low = u32::try_from(lane.sequence).map_err(|_| DropReason::Internal)?;
        lane.sequence = window.infer(low).ok_or(DropReason::Late)?;
    }
    fresh(row, window.check(lane.sequence))
}

/// Where ESP stands in the frame, if it can be.
#[inline(always)]
fn sealed(lane: &Lane<'_>, sa: &Sa) -> Result<Range<usize>, DecapError> {
    let esp = usize::from(lane.esp.0)..usize::from(lane.esp.1);
    decap::sealed(esp.clone(), sa.icv_bytes.into())?;
    Ok(ETHERNET_BYTES + esp.start..ETHERNET_BYTES + esp.end)
}

#[inline(always)]
fn fresh(row: SaRow<'_>, verdict: Verdict) -> Result<(), DropReason> {
    let reason = match verdict {
        Verdict::Fresh => return Ok(()),
        Verdict::Late | Verdict::Zero => DropReason::Late,
        Verdict::Duplicate => DropReason::Replayed,
    };
    row.add_replay_drops(1);
    Err(reason)
}

/// Packets of one SA that follow each other: their numbers and counters are one change of its row.
/// A row whose change a kill interrupts is uncertain, and its key is not used again.
struct Run<'t> {
    row: SaRow<'t>,
    number: u32,
    /// Some limit is to be looked at for each packet.
    limited: bool,
    update: Update<'t>,
    packets: u64,
    bytes: u64,
}

impl<'t> Run<'t> {
    #[inline]
    fn start(lane: &Lane<'t>, sa: &Sa) -> Result<Self, DropReason> {
        let row = lane.row.ok_or(DropReason::Internal)?;
        Ok(Self {
            row,
            number: sa.row,
            limited: limits::apply(sa.marks, row),
            update: row.update(),
            packets: 0,
            bytes: 0,
        })
    }

    /// Counts a packet with so many inner bytes, within the limits of its SA.
    #[inline(always)]
    fn count(&mut self, sa: &Sa, exits: &mut Exits, len: u64) -> Result<(), DropReason> {
        let more = (self.packets + 1, self.bytes + len);
        if self.limited {
            limits::check(sa, self.row, exits, more)?;
        }
        (self.packets, self.bytes) = more;
        Ok(())
    }

    /// A peer behind NAT may come from another address or port (RFC 7296 2.23). Only a packet ahead of
    /// all others says so: an old one that was kept back must not.
    #[inline(always)]
    fn look_where_from(&self, lane: &Lane<'t>, sa: &Sa, exits: &mut Exits) {
        let same = match (sa.peer.0, lane.head.family) {
            (IpAddr::V4(peer), Family::V4) => peer.to_bits() == replay::halves(lane.asked[0]).0,
            (IpAddr::V6(peer), Family::V6) => {
                peer.to_bits() == head::addresses_v6(lane.packet.network()).0
            }
            _ => false,
        };
        if !same || lane.udp_source != Some(sa.peer.1) {
            self.tell_moved(lane, sa, exits);
        }
    }

    #[cold]
    fn tell_moved(&self, lane: &Lane<'t>, sa: &Sa, exits: &mut Exits) {
        let remote = head::addresses(lane.packet.network()).0;
        let port = lane.udp_source.unwrap_or_default();
        // The flag goes when IKE gives the path an address: what was told before that is settled.
        let told = self.row.mapping();
        if told.filter(|_| self.row.flags().has(Flags::MAPPING)) == Some((remote, port)) {
            return;
        }
        self.update.mapping(remote, port);
        exits.counts.add(Counter::MappingChanges, 1);
        exits.notify(Notice::MappingChanged {
            sa: sa.id,
            remote,
            port,
        });
    }
}

/// After crypto, in order, packet by packet: moves the window, counts, strips the outer headers and
/// asks where to. Nothing is delivered whose number is not in the window.
#[inline(always)]
pub(super) fn decapsulate<'t>(
    view: &View<'t>,
    flight: &mut Flight<'t>,
    opened: Set,
    exits: &mut Exits,
    recall: &Recall,
) -> Set {
    let mut decapsulation = Decapsulation {
        view,
        recall,
        run: None,
        packets: 0,
        bytes: 0,
        bad: 0,
    };
    let passed = flight.stage(opened, exits, |lane, exits| decapsulation.take(lane, exits));
    decapsulation.end(exits);
    passed
}

/// What goes from packet to packet while they are decapsulated.
struct Decapsulation<'v, 't> {
    view: &'v View<'t>,
    recall: &'v Recall,
    run: Option<Run<'t>>,
    packets: u64,
    bytes: u64,
    /// Packets with nothing in them that could be delivered.
    bad: u64,
}

impl<'t> Decapsulation<'_, 't> {
    /// A function of its own, as [`Preparation::prepare`].
    #[inline(never)]
    fn take(&mut self, lane: &mut Lane<'t>, exits: &mut Exits) -> Result<(), Exit> {
        let sa = lane.sa.ok_or(DropReason::Internal)?;
        if self.run.as_ref().is_none_or(|run| run.number != sa.row) {
            self.end_run();
            self.run = Some(Run::start(lane, sa)?);
        }
        let run = self.run.as_mut().ok_or(DropReason::Internal)?;
        let ahead = lane.sequence > run.row.sequence();
        let window = lane.window.as_ref().ok_or(DropReason::Internal)?;
        fresh(run.row, window.commit(lane.sequence))?;
        if ahead && lane.udp_source.is_some() {
            run.look_where_from(lane, sa, exits);
        }
        // A packet that was received counts, whatever is in it; of a bad one no bytes do.
        let inner = match Inner::read(lane, sa) {
            Ok(inner) => inner,
            Err(reason) => {
                run.count(sa, exits, 0)?;
                self.bad += 1;
                return Err(reason.into());
            }
        };
        run.count(sa, exits, inner.len.into())?;
        let addresses = inner.strip(lane).ok_or(DropReason::Internal)?;
        // Without congestion outside, and the inner DSCP staying, the inner header stays as it is.
        if lane.outer_tos & ECN_MASK != 0 || sa.marks.has(Marks::COPY_DSCP) {
            copy_marks(lane, sa)?;
        }
        (lane.packet.origin, lane.packet.vrf) = (Origin::Tunnel, sa.inner_vrf);
        self.recall
            .ask_pair(lane, inner.family, addresses, sa.child);
        Ok(())
    }

    fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            if run.packets > 0 {
                run.update.traffic(run.packets, run.bytes, self.view.now_ms);
            }
            run.update.finish();
            self.packets += run.packets;
            self.bytes += run.bytes;
        }
    }

    fn end(mut self, exits: &mut Exits) {
        self.end_run();
        let packets = self.packets - self.bad;
        exits.counts.add(Counter::Decapsulated, packets);
        exits.counts.add(Counter::DecapsulatedBytes, self.bytes);
    }
}

/// A packet whose ICV is wrong: it is counted where its SA is.
#[cold]
pub(super) fn forged(view: &View<'_>, lane: &Lane<'_>) -> Exit {
    if let Some(row) = lane.sa.and_then(|sa| view.state.row(sa.row)) {
        row.add_auth_drops(1);
    }
    DropReason::AuthFailed.into()
}

/// The packet inside an opened one, as far as anybody has to know who knows its hosts' way. It is handed on
/// in a register: with more in it, it would be put together in memory, and read before it is there.
struct Inner {
    family: Family,
    /// Its length in bytes.
    len: u16,
}

impl Inner {
    #[inline(always)]
    fn read(lane: &Lane<'_>, sa: &Sa) -> Result<Self, DropReason> {
        let start = ETHERNET_BYTES + usize::from(lane.esp.0) + CLEAR_BYTES;
        let end = ETHERNET_BYTES + usize::from(lane.esp.1);
        let plain = end
            .checked_sub(sa.icv_bytes.into())
            .and_then(|end| lane.packet.bytes().get(start..end))
            .ok_or(DropReason::Internal)?;
        let (family, len) = match decap::trailer(plain) {
            Ok(Trailer::Packet(family, len)) => (family, len),
            Ok(Trailer::Dummy) => return Err(DropReason::DummyPacket),
            Err(error) => return Err(esp_reason(error)),
        };
        let payload = plain.get(..len).ok_or(DropReason::Internal)?;
        let len = match Head::whole(family, payload) {
            Some(len) => len,
            None => any_len(family, payload)?,
        };
        Ok(Self { family, len })
    }

    /// Strips the outer headers: what is left is room for an Ethernet header and the inner packet, as if
    /// it had come in by a port of the child's VRF (RFC 4301 5.1.2.1, RFC 6040 4.2). Gives an IPv4
    /// packet's addresses.
    #[inline(always)]
    fn strip(&self, lane: &mut Lane<'_>) -> Option<u64> {
        let front = usize::from(lane.esp.0) + CLEAR_BYTES;
        let frame = lane.packet.frame_mut()?;
        frame.narrow(front, ETHERNET_BYTES + usize::from(self.len))?;
        Some(match self.family {
            Family::V4 => head::both_addresses_v4(frame.get(ETHERNET_BYTES..)?),
            Family::V6 => 0,
        })
    }
}

#[cold]
#[inline(never)]
fn any_len(family: Family, payload: &[u8]) -> Result<u16, DropReason> {
    match Head::parse_as(family, payload) {
        Ok(head) => Ok(head.total_len),
        Err(_) => Err(DropReason::MalformedInner),
    }
}

/// Writes the Ethernet header of a stripped packet, with the addresses that its frame came with: what is not
/// [delivered](Recall::deliver) may go to somebody who looks at them.
pub(super) fn restore_ethernet(lane: &mut Lane<'_>) -> Result<(), DropReason> {
    let front = usize::from(lane.esp.0) + CLEAR_BYTES;
    let kind = match lane.packet.network() {
        [first, ..] if *first >> 4 == 6 => ethertype(Family::V6),
        _ => ethertype(Family::V4),
    };
    let frame = lane.packet.frame_mut().ok_or(DropReason::Internal)?;
    let old = frame.prepend(front).and_then(|front| front.first_chunk());
    let addresses: [u8; 12] = *old.ok_or(DropReason::Internal)?;
    frame.adj(front).ok_or(DropReason::Internal)?;
    let header = frame.first_chunk_mut::<ETHERNET_BYTES>();
    let (to, last) = header
        .ok_or(DropReason::Internal)?
        .split_at_mut(addresses.len());
    to.copy_from_slice(&addresses);
    last.copy_from_slice(&kind.to_be_bytes());
    Ok(())
}

/// The lane's head is that of the inner packet from here on.
pub(super) fn read_inner(lane: &mut Lane<'_>) -> Result<(), DropReason> {
    lane.head = Head::parse(lane.packet.network()).map_err(|_| DropReason::MalformedInner)?;
    Ok(())
}

#[inline(never)]
fn copy_marks(lane: &mut Lane<'_>, sa: &Sa) -> Result<(), DropReason> {
    let (dscp, ecn) = (
        sa.marks.has(Marks::COPY_DSCP),
        sa.marks.has(Marks::COPY_ECN),
    );
    read_inner(lane)?;
    let (outer_tos, packet) = (lane.outer_tos, lane.packet.network_mut());
    decap::apply_outer_tos(packet, &mut lane.head, outer_tos, dscp, ecn).map_err(esp_reason)
}

/// Refuses a packet that its child does not carry (RFC 4301 5.2 step 4).
pub(super) fn check_selectors(view: &View<'_>, lane: &Lane<'_>) -> Result<(), DropReason> {
    let sa = lane.sa.ok_or(DropReason::Internal)?;
    let port = view.port(lane.port()).ok_or(DropReason::Internal)?;
    let policies = &view.snapshot.policies;
    let carried = match lane.head.family {
        Family::V4 => policies.carries_v4(sa.child, &flow_v4(lane, port.interface, Towards::Us)),
        Family::V6 => policies.carries_v6(sa.child, &flow_v6(lane, port.interface, Towards::Us)),
    };
    if carried {
        Ok(())
    } else {
        Err(DropReason::InnerSelector)
    }
}

/// Whether the child carries whatever the packet's hosts may say to each other.
pub(super) fn carries_all(view: &View<'_>, lane: &Lane<'_>) -> bool {
    let (Some(sa), Some(port)) = (lane.sa, view.port(lane.port())) else {
        return false;
    };
    let policies = &view.snapshot.policies;
    match lane.head.family {
        Family::V4 => {
            policies.carries_all_v4(sa.child, &flow_v4(lane, port.interface, Towards::Us))
        }
        Family::V6 => {
            policies.carries_all_v6(sa.child, &flow_v6(lane, port.interface, Towards::Us))
        }
    }
}

impl<'t> View<'t> {
    /// The SA's replay window.
    #[inline(always)]
    fn window(&self, row: SaRow<'t>, sa: &Sa) -> Result<Window<'t>, DropReason> {
        let Way::Inbound {
            window_bits,
            window,
            ..
        } = sa.way
        else {
            return Err(DropReason::Internal);
        };
        self.state
            .window(row, window, window_bits)
            .ok_or(DropReason::Internal)
    }

    /// Ends the stage with a hand-over if the SA is another worker's.
    #[inline(always)]
    pub(super) fn own(&self, sa: SaId) -> Result<(), Exit> {
        let owner = self.tables.owner(sa);
        if owner == self.worker {
            Ok(())
        } else {
            Err(Exit::HandOver(owner))
        }
    }

    /// Asks for a cache line of an SA, and for the way to it.
    #[inline(always)]
    pub(super) fn announce(&self, id: SaId, line: usize) {
        if let Some(row) = self.tables.sad.geometry().row(id) {
            self.tables.sad.prefetch(row, line);
        }
    }
}

//! Inbound ESP (RFC 4303 3.4, RFC 4301 5.2): SAD, replay check, crypto, replay commit, inner packet.

use std::net::IpAddr;

use api::counters::{Counter, DropReason};
use api::id::SaId;
use api::state::{Flags, SaRow, Update};
use esp::decap::{self, EspHeader, Trailer};
use esp::ether;
use esp::head::{self, Head};
use esp::ip::Family;
use esp::replay::{Verdict, Window};
use esp::{ESP_HEADER_BYTES, IV_BYTES};

use super::classify::esp_reason;
use super::crypto::Preparation;
use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::forward::Towards;
use super::recall::Recall;
use super::search::{flow_v4, flow_v6};
use super::{View, limits};
use crate::links::Notice;
use crate::memory::prefetch;
use crate::packet::{ETHERNET_BYTES, Origin};
use crate::tables::sad::{Marks, Sa, Way};

/// The bits of explicit congestion notification (RFC 3168 5).
const ECN_MASK: u8 = 0b11;

/// Asks for what the packet's SPI says will be needed, if it is one of ours.
#[inline(always)]
pub(super) fn announce(view: &View<'_>, lane: &Lane<'_>) {
    let at = usize::from(lane.esp.0);
    let spi = lane
        .packet
        .network()
        .get(at..)
        .and_then(<[u8]>::first_chunk);
    if let Some(&spi) = spi {
        view.announce(SaId(u32::from_be_bytes(spi)));
    }
}

/// An SA, its row and its window: of packets that follow each other it is often the same.
#[derive(Clone, Copy)]
pub(super) struct Found<'t> {
    sa: &'t Sa,
    row: SaRow<'t>,
    window: Window<'t>,
}

/// Finds the SA by protocol, SPI, local address, VRF and encapsulation (RFC 4301 4.1). A packet of
/// another worker's SA goes there before anything is counted.
#[inline(always)]
pub(super) fn look_up<'t>(
    view: &View<'t>,
    lane: &mut Lane<'t>,
    last: &mut Option<Found<'t>>,
) -> Result<(), Exit> {
    let packet = lane.packet.network();
    let (start, end) = (usize::from(lane.esp.0), usize::from(lane.esp.1));
    let esp = packet.get(start..end).unwrap_or_default();
    let header = EspHeader::parse(esp).map_err(esp_reason)?;
    // A static SA is named by its address too.
    let known = last.filter(|last| last.sa.spi == header.spi && !last.sa.id.is_static());
    let found = match known {
        Some(known) => known,
        None => find(view, lane, header.spi)?,
    };
    let sa = found.sa;
    if !fits(view, lane, sa) {
        return Err(DropReason::WrongSaUse.into());
    }
    lane.sequence = header.sequence.into();
    lane.sa = Some(sa);
    if known.is_none() {
        sa.key.prefetch(end - start);
        view.snapshot.policies.prefetch_carried(sa.child);
    }
    if let Some(word) = found.window.word_of(lane.sequence) {
        prefetch(word);
    }
    (lane.row, lane.window) = (Some(found.row), Some(found.window));
    *last = Some(found);
    Ok(())
}

#[inline(always)]
fn find<'t>(view: &View<'t>, lane: &Lane<'_>, spi: u32) -> Result<Found<'t>, Exit> {
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
    let packet = lane.packet.network();
    let to_local = match (local, lane.head.family) {
        (IpAddr::V4(v4), Family::V4) => v4.to_bits() == head::addresses_v4(packet).1,
        (IpAddr::V6(v6), Family::V6) => v6.to_bits() == head::addresses_v6(packet).1,
        _ => false,
    };
    let any = sa.interface.0 == 0;
    let by_port = || view.port(lane.port()).map(|port| port.interface) == Some(sa.interface);
    to_local
        && sa.vrf == lane.packet.vrf
        && sa.marks.has(Marks::UDP) == lane.udp_source.is_some()
        && (any || by_port())
}

/// The last look before crypto.
pub(super) struct ReplayCheck;

impl<'t> Preparation<'t> for ReplayCheck {
    #[inline(always)]
    fn prepare(&mut self, lane: &mut Lane<'t>, _: &mut Exits) -> Result<(), Exit> {
        check_replay(lane)
    }
}

/// Infers the full sequence number, and refuses what the window has seen (RFC 4303 3.4.3) or what
/// cannot be ESP.
#[inline(always)]
fn check_replay(lane: &mut Lane<'_>) -> Result<(), Exit> {
    let sa = lane.sa.ok_or(DropReason::Internal)?;
    let row = lane.row.ok_or(DropReason::Internal)?;
    let window = lane.window.as_ref().ok_or(DropReason::Internal)?;
    if sa.esn() {
        let low = u32::try_from(lane.sequence).map_err(|_| DropReason::Internal)?;
        lane.sequence = window.infer(low).ok_or(DropReason::Late)?;
    }
    fresh(row, window.check(lane.sequence))?;
    let esp = usize::from(lane.esp.0)..usize::from(lane.esp.1);
    decap::sealed(esp, sa.icv_bytes.into()).map_err(esp_reason)?;
    Ok(())
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
            limited: limits::apply(sa, row),
            update: row.update(),
            packets: 0,
            bytes: 0,
        })
    }

    #[inline]
    fn finish(self, now_ms: u64) {
        if self.packets > 0 {
            self.update.traffic(self.packets, self.bytes, now_ms);
        }
        self.update.finish();
    }
}

/// After crypto, in order, packet by packet: moves the window, counts, strips the outer headers and
/// looks whether the child carries what was inside. Nothing is delivered whose number is not in the
/// window.
#[inline(always)]
pub(super) fn decapsulate<'t>(
    view: &View<'t>,
    flight: &mut Flight<'t>,
    opened: Set,
    exits: &mut Exits,
    recall: &Recall,
) -> Set {
    let mut run: Option<Run<'t>> = None;
    let passed = flight.stage(opened, exits, |lane, exits| {
        let sa = lane.sa.ok_or(DropReason::Internal)?;
        if run.as_ref().is_none_or(|run| run.number != sa.row)
            && let Some(ended) = run.replace(Run::start(lane, sa)?)
        {
            ended.finish(view.now_ms);
        }
        let run = run.as_mut().ok_or(DropReason::Internal)?;
        commit_replay(lane, sa, run, exits)?;
        strip(lane, sa)?;
        check_selectors(view, lane, sa)?;
        recall.ask_destination(lane);
        Ok(())
    });
    if let Some(run) = run {
        run.finish(view.now_ms);
    }
    passed
}

/// A packet whose ICV is wrong: it is counted where its SA is.
#[cold]
pub(super) fn forged(view: &View<'_>, lane: &Lane<'_>) -> Exit {
    if let Some(row) = lane.sa.and_then(|sa| view.state.row(sa.row)) {
        row.add_auth_drops(1);
    }
    DropReason::AuthFailed.into()
}

#[inline(always)]
fn commit_replay<'t>(
    lane: &mut Lane<'t>,
    sa: &Sa,
    run: &mut Run<'t>,
    exits: &mut Exits,
) -> Result<(), Exit> {
    let moved = moved(lane, sa, run.row);
    let window = lane.window.as_ref().ok_or(DropReason::Internal)?;
    fresh(run.row, window.commit(lane.sequence))?;
    // A packet that was received counts, whatever is in it; of a bad one no bytes do.
    let inner = read_inner(lane, sa);
    let bytes = if inner.is_ok() {
        lane.head.len() as u64
    } else {
        0
    };
    let more = (run.packets + 1, run.bytes + bytes);
    if run.limited {
        limits::check(sa, run.row, exits, more)?;
    }
    (run.packets, run.bytes) = more;
    if let Some(moved) = moved {
        tell_moved(sa, run, exits, moved);
    }
    inner?;
    exits.counts.add(Counter::Decapsulated, 1);
    exits.counts.add(Counter::DecapsulatedBytes, bytes);
    Ok(())
}

#[cold]
fn tell_moved(sa: &Sa, run: &Run<'_>, exits: &mut Exits, (remote, port): (IpAddr, u16)) {
    run.update.mapping(remote, port);
    exits.counts.add(Counter::MappingChanges, 1);
    exits.notify(Notice::MappingChanged {
        sa: sa.id,
        remote,
        port,
    });
}

/// Reads trailer and inner header: the lane's head is the inner one from here on.
#[inline(always)]
fn read_inner(lane: &mut Lane<'_>, sa: &Sa) -> Result<(), DropReason> {
    let start = inner_start(lane);
    let end = usize::from(lane.esp.1).checked_sub(sa.icv_bytes.into());
    let packet = lane.packet.network();
    let plain = end.and_then(|end| packet.get(start..end));
    let plain = plain.ok_or(DropReason::Internal)?;
    let (family, len) = match decap::trailer(plain) {
        Ok(Trailer::Packet(family, len)) => (family, len),
        Ok(Trailer::Dummy) => return Err(DropReason::DummyPacket),
        Err(error) => return Err(esp_reason(error)),
    };
    let payload = plain.get(..len).ok_or(DropReason::Internal)?;
    if family == Family::V4
        && let Some(head) = Head::plain_v4(payload)
    {
        lane.head = head;
        return Ok(());
    }
    let head = Head::parse_as(family, payload);
    lane.head = head.map_err(|_| DropReason::MalformedInner)?;
    Ok(())
}

/// Where the inner packet stands in the outer one.
#[inline]
fn inner_start(lane: &Lane<'_>) -> usize {
    usize::from(lane.esp.0) + ESP_HEADER_BYTES + IV_BYTES
}

/// A peer behind NAT may come from another address or port (RFC 7296 2.23). Only a packet ahead of
/// all others says so: an old one that was kept back must not. `None` if nothing new is to be told.
#[inline(always)]
fn moved(lane: &Lane<'_>, sa: &Sa, row: SaRow<'_>) -> Option<(IpAddr, u16)> {
    let port = lane.udp_source?;
    let source = (head::addresses(lane.packet.network()).0, port);
    if source == sa.peer || lane.sequence <= row.sequence() {
        return None;
    }
    // The flag goes when IKE gives the path an address: what was told before that is settled.
    let told = row.mapping().filter(|_| row.flags().has(Flags::MAPPING));
    (told != Some(source)).then_some(source)
}

/// Strips the outer headers: what is left is an Ethernet header, with the addresses that the frame
/// came with, and the inner packet, as if it had come in by a port of the child's VRF (RFC 4301
/// 5.1.2.1, RFC 6040 4.2).
#[inline(always)]
fn strip(lane: &mut Lane<'_>, sa: &Sa) -> Result<(), Exit> {
    let start = inner_start(lane);
    let ethertype = match lane.head.family {
        Family::V4 => ether::IPV4,
        Family::V6 => ether::IPV6,
    };
    let len = ETHERNET_BYTES + lane.head.len();
    cut(lane, start, len, ethertype).ok_or(DropReason::Internal)?;
    // Without congestion outside, and the inner DSCP staying, the inner header stays as it is.
    if lane.outer_tos & ECN_MASK != 0 || sa.marks.has(Marks::COPY_DSCP) {
        copy_marks(lane, sa)?;
    }
    lane.packet.origin = Origin::Tunnel;
    lane.packet.vrf = sa.inner_vrf;
    Ok(())
}

#[inline(never)]
fn copy_marks(lane: &mut Lane<'_>, sa: &Sa) -> Result<(), DropReason> {
    let (dscp, ecn) = (
        sa.marks.has(Marks::COPY_DSCP),
        sa.marks.has(Marks::COPY_ECN),
    );
    let (outer_tos, packet) = (lane.outer_tos, lane.packet.network_mut());
    decap::apply_outer_tos(packet, &mut lane.head, outer_tos, dscp, ecn).map_err(esp_reason)
}

#[inline(always)]
fn cut(lane: &mut Lane<'_>, start: usize, len: usize, ethertype: u16) -> Option<()> {
    let addresses = *lane.packet.bytes().first_chunk::<12>()?;
    let front = isize::try_from(start).ok()?;
    lane.packet.frame_mut()?.reframe(-front, len)?;
    let header = lane
        .packet
        .bytes_mut()
        .first_chunk_mut::<ETHERNET_BYTES>()?;
    let (to, kind) = header.split_first_chunk_mut::<12>()?;
    *to = addresses;
    kind.copy_from_slice(&ethertype.to_be_bytes());
    Some(())
}

/// Refuses a packet that its child does not carry (RFC 4301 5.2 step 4).
#[inline(always)]
fn check_selectors(view: &View<'_>, lane: &Lane<'_>, sa: &Sa) -> Result<(), DropReason> {
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

    /// Asks for what any packet needs of an SA, its key apart.
    #[inline(always)]
    pub(super) fn announce(&self, id: SaId) {
        if let Some(row) = self.tables.sad.geometry().row(id) {
            self.tables.sad.prefetch(row);
            if let Some(row) = self.state.row(row) {
                prefetch(row.sequence_word());
            }
        }
    }
}

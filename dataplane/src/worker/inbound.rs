//! Inbound ESP (RFC 4303 3.4, RFC 4301 5.2): SAD, replay check, crypto, replay commit, inner packet.

use std::net::IpAddr;
use std::sync::Arc;

use api::counters::{Counter, DropReason};
use api::id::SaId;
use api::record::Path;
use api::state::{Flags, SaRow};
use esp::Protected;
use esp::decap::{self, EspHeader, Inner};
use esp::ether;
use esp::ip::{Family, IpPacket};
use esp::replay::{Verdict, Window};

use super::classify::{EspPacket, esp_reason};
use super::crypto::Cryptic;
use super::exits::{Exit, Exits};
use super::forward::{Clear, Towards, flow};
use super::work::Carries;
use super::{View, limits};
use crate::links::Notice;
use crate::packet::{ETHERNET_BYTES, Origin, Packet};
use crate::tables::child::ChildSettings;
use crate::tables::sad::Sa;

/// ESP packets of one batch and the SAs they belong to.
#[derive(Default)]
pub(super) struct InboundBatch {
    pub(super) items: Vec<Inbound>,
    pub(super) groups: Vec<InboundGroup>,
}

/// An ESP packet on its way through the stages.
pub(super) struct Inbound {
    pub(super) packet: Packet,
    pub(super) esp: EspPacket,
    /// Position among the SAs of the batch.
    pub(super) group: usize,
    /// The clear part of the ESP packet.
    header: EspHeader,
    /// Full sequence number.
    sequence: u64,
    /// What crypto opens.
    protected: Option<Protected>,
    opened: bool,
    /// The decrypted packet.
    inner: Option<IpPacket>,
}

/// An SA with packets in the batch.
pub(super) struct InboundGroup {
    pub(super) sa: Arc<Sa>,
    settings: Arc<ChildSettings>,
    path: Arc<Path>,
}

impl Carries for Inbound {
    fn packet_mut(&mut self) -> &mut Packet {
        &mut self.packet
    }
}

impl Cryptic for Inbound {
    fn protected(&self) -> Option<&Protected> {
        self.protected.as_ref()
    }

    fn packet_mut(&mut self) -> &mut Packet {
        &mut self.packet
    }

    fn set_ok(&mut self, ok: bool) {
        self.opened = ok;
    }
}

impl Inbound {
    pub(super) fn new(packet: Packet, esp: EspPacket) -> Self {
        let header = EspHeader {
            spi: 0,
            sequence: 0,
            iv: [0; 8],
        };
        Self {
            packet,
            esp,
            group: 0,
            header,
            sequence: 0,
            protected: None,
            opened: false,
            inner: None,
        }
    }
}

/// Finds the SA by protocol, SPI, local address, VRF and encapsulation (RFC 4301 4.1). A packet of
/// another worker's SA goes there before anything is counted.
pub(super) fn lookup(
    view: &View<'_>,
    item: &mut Inbound,
    groups: &mut Vec<InboundGroup>,
) -> Result<(), Exit> {
    let esp = item
        .packet
        .network()
        .get(item.esp.esp.clone())
        .unwrap_or_default();
    item.header = EspHeader::parse(esp).map_err(esp_reason)?;
    item.group = find_group(view, item, groups)?;
    let group = groups.get(item.group).ok_or(DropReason::Internal)?;
    if !fits(view, item, &group.path) {
        return Err(DropReason::WrongSaUse.into());
    }
    view.own(group.sa.id)
}

fn find_group(
    view: &View<'_>,
    item: &Inbound,
    groups: &mut Vec<InboundGroup>,
) -> Result<usize, DropReason> {
    let (spi, local, vrf) = (item.header.spi, item.esp.outer.destination, item.packet.vrf);
    let is_it = |group: &InboundGroup| {
        group.sa.spi == spi && group.path.local == local && group.path.vrf == vrf
    };
    if let Some(known) = groups.iter().position(is_it) {
        return Ok(known);
    }
    let sa = view
        .tables
        .sad
        .inbound(vrf, local, spi)
        .ok_or(DropReason::UnknownSpi)?;
    let settings = sa.child.settings();
    let path = settings.path.load();
    groups.push(InboundGroup { sa, settings, path });
    Ok(groups.len() - 1)
}

fn fits(view: &View<'_>, item: &Inbound, path: &Path) -> bool {
    let interface = view.port(item.packet.port).map(|port| port.interface);
    path.local == item.esp.outer.destination
        && path.vrf == item.packet.vrf
        && path.udp_encapsulation == item.esp.udp.is_some()
        && (path.interface.0 == 0 || interface == Some(path.interface))
}

/// Infers the full sequence number, refuses what the window has seen (RFC 4303 3.4.3) and says
/// what is to be opened.
pub(super) fn check_replay(
    view: &View<'_>,
    item: &mut Inbound,
    groups: &[InboundGroup],
) -> Result<(), Exit> {
    let sa = &groups.get(item.group).ok_or(DropReason::Internal)?.sa;
    let row = view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
    let window = view.window(row, sa)?;
    item.sequence = if sa.esn {
        window.infer(item.header.sequence).ok_or(DropReason::Late)?
    } else {
        item.header.sequence.into()
    };
    fresh(row, window.check(item.sequence))?;
    let esp = item.esp.esp.clone();
    let sealed = item
        .header
        .sealed(esp, sa.key.icv_len(), item.sequence, sa.esn);
    item.protected = Some(sealed.map_err(esp_reason)?);
    Ok(())
}

fn fresh(row: SaRow<'_>, verdict: Verdict) -> Result<(), DropReason> {
    let reason = match verdict {
        Verdict::Fresh => return Ok(()),
        Verdict::Late | Verdict::Zero => DropReason::Late,
        Verdict::Duplicate => DropReason::Replayed,
    };
    row.add_replay_drops(1);
    Err(reason)
}

/// After crypto, in order: moves the window, counts, and reads the inner packet. Nothing is
/// delivered whose number is not in the window.
pub(super) fn commit_replay(
    view: &View<'_>,
    item: &mut Inbound,
    groups: &[InboundGroup],
    exits: &mut Exits,
) -> Result<(), Exit> {
    let group = groups.get(item.group).ok_or(DropReason::Internal)?;
    let sa = &group.sa;
    let row = view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
    if !item.opened {
        row.add_auth_drops(1);
        return Err(DropReason::AuthFailed.into());
    }
    let moved = moved(item, group, row);
    let inner = match plaintext(item, sa.key.icv_len()).map(decap::inner) {
        Ok(Ok(Inner::Packet(inner))) => Ok(inner),
        Ok(Ok(Inner::Dummy)) => Err(DropReason::DummyPacket),
        Ok(Err(error)) => Err(esp_reason(error)),
        Err(reason) => Err(reason),
    };
    let window = view.window(row, sa)?;
    // A row whose update a kill interrupts is uncertain, and its key is not used again.
    let update = row.update();
    let verdict = window.commit(item.sequence);
    let counted = if verdict == Verdict::Fresh {
        moved.inspect(|&(remote, port)| update.mapping(remote, port));
        let bytes = inner.as_ref().map_or(0, |inner| inner.total_len as u64);
        let counted = limits::check(sa, row, exits, (1, bytes));
        let packets = u64::from(counted.is_ok());
        update.traffic(
            packets,
            if counted.is_ok() { bytes } else { 0 },
            view.now_ms,
        );
        counted
    } else {
        Ok(())
    };
    update.finish();
    fresh(row, verdict)?;
    if let Some((remote, port)) = moved {
        exits.counts.add(Counter::MappingChanges, 1);
        exits.notify(Notice::MappingChanged {
            sa: sa.id,
            remote,
            port,
        });
    }
    counted?;
    let inner = inner?;
    exits.counts.add(Counter::Decapsulated, 1);
    exits
        .counts
        .add(Counter::DecapsulatedBytes, inner.total_len as u64);
    item.inner = Some(inner);
    Ok(())
}

fn plaintext(item: &Inbound, icv_len: usize) -> Result<&[u8], DropReason> {
    let data = item
        .protected
        .as_ref()
        .ok_or(DropReason::Internal)?
        .data
        .clone();
    let end = data.end.checked_sub(icv_len).ok_or(DropReason::Internal)?;
    item.packet
        .network()
        .get(data.start..end)
        .ok_or(DropReason::Internal)
}

/// A peer behind NAT may come from another address or port (RFC 7296 2.23). Only a packet ahead of
/// all others says so: an old one that was kept back must not. `None` if nothing new is to be told.
fn moved(item: &Inbound, group: &InboundGroup, row: SaRow<'_>) -> Option<(IpAddr, u16)> {
    let (port, _) = item.esp.udp?;
    let source = (item.esp.outer.source, port);
    let known = (group.path.remote, group.path.remote_port);
    if source == known || item.sequence <= row.sequence() {
        return None;
    }
    // The flag goes when IKE gives the path an address: what was told before that is settled.
    let told = row.snapshot().ok();
    let told = told.filter(|row| row.flags.has(Flags::MAPPING));
    let told = told.and_then(|row| row.mapping);
    (told != Some(source)).then_some(source)
}

/// Strips the outer headers: what is left is an Ethernet header and the inner packet, as if it had
/// come in by a port of the child's VRF (RFC 4301 5.1.2.1, RFC 6040 4.2).
pub(super) fn decapsulate(item: &mut Inbound, groups: &[InboundGroup]) -> Result<(), Exit> {
    let child = &groups
        .get(item.group)
        .ok_or(DropReason::Internal)?
        .settings
        .record;
    let mut inner = item.inner.ok_or(DropReason::Internal)?;
    let start = item
        .protected
        .as_ref()
        .ok_or(DropReason::Internal)?
        .data
        .start;
    strip(&mut item.packet, start, &inner).ok_or(DropReason::Internal)?;
    let (dscp, ecn) = (child.copy_dscp.inwards(), child.copy_ecn);
    let packet = item.packet.network_mut();
    let outer_tos = item.esp.outer.tos;
    decap::apply_outer_tos(packet, &mut inner, outer_tos, dscp, ecn).map_err(esp_reason)?;
    item.packet.origin = Origin::Tunnel;
    item.packet.vrf = child.vrf;
    item.inner = Some(inner);
    Ok(())
}

/// Leaves `inner`, which begins `start` bytes behind the outer header, with the Ethernet addresses
/// that the frame came with.
fn strip(packet: &mut Packet, start: usize, inner: &IpPacket) -> Option<()> {
    let addresses = *packet.bytes().first_chunk::<12>()?;
    let frame = packet.frame_mut()?;
    frame.adj(start)?;
    frame.trim(frame.len().checked_sub(ETHERNET_BYTES + inner.total_len)?)?;
    let ethertype = match inner.family {
        Family::V4 => ether::IPV4,
        Family::V6 => ether::IPV6,
    };
    let header = packet.bytes_mut();
    *header.first_chunk_mut::<12>()? = addresses;
    *header.get_mut(12..)?.first_chunk_mut::<2>()? = ethertype.to_be_bytes();
    Some(())
}

/// Refuses a packet that its child does not carry (RFC 4301 5.2 step 4).
pub(super) fn check_selectors(
    view: &View<'_>,
    item: &mut Inbound,
    groups: &[InboundGroup],
) -> Result<(), Exit> {
    let group = groups.get(item.group).ok_or(DropReason::Internal)?;
    let inner = item.inner.ok_or(DropReason::Internal)?;
    let interface = view
        .port(item.packet.port)
        .ok_or(DropReason::Internal)?
        .interface;
    let flow = flow(&inner, item.packet.vrf, interface, Towards::Us);
    if view
        .snapshot
        .policies
        .child_carries(group.sa.child.id, &flow)
    {
        return Ok(());
    }
    Err(DropReason::InnerSelector.into())
}

/// The decrypted packet, on its way to its destination.
pub(super) fn into_clear(view: &View<'_>, item: Inbound) -> Clear {
    let Inbound {
        packet, inner, esp, ..
    } = item;
    // Every packet that gets here was decapsulated.
    let ip = inner.unwrap_or(esp.outer);
    let to_us = view.snapshot.locals.contains(packet.vrf, ip.destination);
    Clear { packet, ip, to_us }
}

impl<'a> View<'a> {
    /// The SA's replay window.
    fn window(&self, row: SaRow<'a>, sa: &Sa) -> Result<Window<'a>, DropReason> {
        self.state
            .window(row, sa.window, sa.window_bits)
            .ok_or(DropReason::Internal)
    }

    /// Ends the stage with a hand-over if the SA is another worker's.
    pub(super) fn own(&self, sa: SaId) -> Result<(), Exit> {
        let owner = self.tables.owner(sa);
        if owner == self.worker {
            Ok(())
        } else {
            Err(Exit::HandOver(owner))
        }
    }
}

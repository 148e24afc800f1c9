//! Outbound ESP (RFC 4303 3.3, RFC 4301 5.1): Child, SA, size, sequence numbers, headers, crypto,
//! route of the tunnel.

use std::net::IpAddr;
use std::sync::Arc;

use api::counters::{Counter, DropReason};
use api::id::PolicyId;
use api::record;
use esp::Protected;
use esp::encap::{Df, Dscp, EncapError, Tunnel, TunnelConfig};
use esp::ether;
use esp::ip::{Family, IpPacket};

use super::answer::{Answer, Refusal};
use super::crypto::Cryptic;
use super::exits::{Exit, Exits};
use super::forward::Clear;
use super::work::Carries;
use super::{View, forward, limits};
use crate::links::Notice;
use crate::packet::{ETHERNET_BYTES, Packet};
use crate::port::PortIndex;
use crate::tables::child::Child;
use crate::tables::fib::Target;
use crate::tables::sad::Sa;
use crate::tables::spd::Flow;

/// IKE is told when this part of an SA's sequence numbers is left.
const REKEY_FRACTION: u64 = 16;

/// Packets for tunnels of one batch and the SAs they take.
#[derive(Default)]
pub(super) struct OutboundBatch {
    pub(super) items: Vec<Outbound>,
    pub(super) groups: Vec<OutboundGroup>,
}

/// A packet on its way into a tunnel.
pub(super) struct Outbound {
    pub(super) clear: Clear,
    policy: PolicyId,
    child: Arc<Child>,
    flow: Flow,
    /// Position among the SAs of the batch.
    pub(super) group: usize,
    sequence: u64,
    /// What crypto seals.
    protected: Option<Protected>,
    sealed: bool,
}

/// An SA with packets in the batch.
pub(super) struct OutboundGroup {
    pub(super) sa: Arc<Sa>,
    tunnel: Tunnel,
    /// Where the tunnel leaves; an error if it cannot.
    route: Result<Hop, DropReason>,
    /// Longest inner packet in bytes.
    inner_mtu: usize,
    /// Last sequence number given out in this batch.
    sequence: u64,
    /// Packets and inner bytes of this batch.
    traffic: (u64, u64),
}

/// Egress of a tunnel.
#[derive(Clone, Copy)]
struct Hop {
    port: PortIndex,
    next_hop: IpAddr,
}

impl Carries for Outbound {
    fn packet_mut(&mut self) -> &mut Packet {
        &mut self.clear.packet
    }
}

impl Cryptic for Outbound {
    fn protected(&self) -> Option<&Protected> {
        self.protected.as_ref()
    }

    fn packet_mut(&mut self) -> &mut Packet {
        &mut self.clear.packet
    }

    fn set_ok(&mut self, ok: bool) {
        self.sealed = ok;
    }
}

impl Outbound {
    pub(super) fn new(clear: Clear, policy: PolicyId, child: Arc<Child>, flow: Flow) -> Self {
        Self {
            clear,
            policy,
            child,
            flow,
            group: 0,
            sequence: 0,
            protected: None,
            sealed: false,
        }
    }
}

/// Finds the child's SA. Without one IKE is asked; another worker's SA gets the packet before it
/// has a sequence number.
pub(super) fn assign(
    view: &View<'_>,
    item: &mut Outbound,
    groups: &mut Vec<OutboundGroup>,
    exits: &mut Exits,
) -> Result<(), Exit> {
    let is_it = |group: &OutboundGroup| Arc::ptr_eq(&group.sa.child, &item.child);
    if let Some(known) = groups.iter().position(is_it) {
        item.group = known;
        return Ok(());
    }
    let Some(sa) = item.child.outbound() else {
        acquire(view, item, exits);
        return Err(DropReason::NoSa.into());
    };
    view.own(sa.id)?;
    groups.push(OutboundGroup::new(view, sa)?);
    item.group = groups.len() - 1;
    Ok(())
}

fn acquire(view: &View<'_>, item: &Outbound, exits: &mut Exits) {
    let Outbound {
        policy,
        child,
        flow,
        ..
    } = item;
    if !child.may_acquire(view.now_ms) {
        return;
    }
    exits.counts.add(Counter::Acquires, 1);
    let packet = forward::five_tuple(flow);
    exits.notify(Notice::Acquire {
        policy: *policy,
        child: child.id,
        packet,
    });
}

impl OutboundGroup {
    fn new(view: &View<'_>, sa: Arc<Sa>) -> Result<Self, DropReason> {
        let settings = sa.child.settings();
        let path = settings.path.load();
        let config = tunnel_config(&path, &settings.record, sa.key.icv_len());
        let tunnel = Tunnel::new(&config).map_err(|_| DropReason::Internal)?;
        let route = hop(view, &path);
        let port_mtu = match &route {
            Ok(hop) => view.port(hop.port).map_or(0, |port| port.mtu_bytes),
            Err(_) => 0,
        };
        let mtu = if path.mtu_bytes == 0 {
            port_mtu
        } else {
            path.mtu_bytes.min(port_mtu)
        };
        let inner_mtu = tunnel.inner_mtu(mtu.into());
        let row = view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
        let sequence = row.sequence();
        Ok(Self {
            sa,
            tunnel,
            route,
            inner_mtu,
            sequence,
            traffic: (0, 0),
        })
    }
}

fn tunnel_config(path: &record::Path, child: &record::Child, icv_len: usize) -> TunnelConfig {
    let dscp = match path.dscp {
        Some(fixed) => Dscp::Fixed(fixed),
        None if child.copy_dscp.outwards() => Dscp::Copy,
        None => Dscp::Fixed(0),
    };
    TunnelConfig {
        local: path.local,
        remote: path.remote,
        udp_ports: path
            .udp_encapsulation
            .then_some((path.local_port, path.remote_port)),
        icv_len,
        df: if child.copy_df { Df::Copy } else { Df::Clear },
        dscp,
        copy_ecn: child.copy_ecn,
    }
}

fn hop(view: &View<'_>, path: &record::Path) -> Result<Hop, DropReason> {
    match view.snapshot.fib.lookup(path.vrf, path.remote) {
        Some(Target::Port { port, gateway }) => Ok(Hop {
            port,
            next_hop: gateway.unwrap_or(path.remote),
        }),
        Some(Target::Discard) => Err(DropReason::DiscardRoute),
        None => Err(DropReason::NoRoute),
    }
}

/// Refuses what has no route, no hop left or does not fit (RFC 4301 8.2), before it costs a
/// sequence number.
pub(super) fn fit(item: &mut Outbound, groups: &[OutboundGroup]) -> Result<(), Refusal> {
    let group = groups.get(item.group).ok_or(DropReason::Internal)?;
    group.route.as_ref().map_err(|&reason| reason)?;
    let ip = &item.clear.ip;
    if ip.total_len > group.inner_mtu {
        let mtu = u32::try_from(group.inner_mtu).unwrap_or(0);
        let answer = ip.df.then_some(Answer::TooBig { mtu });
        return Err(Refusal {
            reason: DropReason::TooBig,
            answer,
        });
    }
    forward::hop(&mut item.clear)
}

/// Gives the packet its sequence number and counts it against the SA's limits.
pub(super) fn number(
    view: &View<'_>,
    item: &mut Outbound,
    groups: &mut [OutboundGroup],
    exits: &mut Exits,
) -> Result<(), Exit> {
    let group = groups.get_mut(item.group).ok_or(DropReason::Internal)?;
    let sa = &group.sa;
    let row = view.state.row(sa.row).ok_or(DropReason::SaDeleted)?;
    let last = last_sequence(sa);
    if group.sequence >= last {
        // RFC 4303 3.3.3: never cycle.
        limits::expire(sa, row, exits, true);
        return Err(DropReason::SequenceOverflow.into());
    }
    let (packets, bytes) = group.traffic;
    let traffic = (
        packets + 1,
        bytes.saturating_add(item.clear.ip.total_len as u64),
    );
    limits::check(sa, row, exits, traffic)?;
    group.traffic = traffic;
    group.sequence += 1;
    if group.sequence > last - last / REKEY_FRACTION {
        limits::expire(sa, row, exits, false);
    }
    item.sequence = group.sequence;
    Ok(())
}

/// Stores each SA's last number where it outlives us. Only after this may crypto use them.
pub(super) fn store_sequences(view: &View<'_>, groups: &[OutboundGroup]) {
    for group in groups {
        let (packets, bytes) = group.traffic;
        if let Some(row) = view.state.row(group.sa.row).filter(|_| packets > 0) {
            let update = row.update();
            update.sequence(group.sequence);
            update.traffic(packets, bytes, view.now_ms);
            update.finish();
        }
    }
}

/// RFC 4303 3.3.3 and 2.2.1.
fn last_sequence(sa: &Sa) -> u64 {
    if sa.esn { u64::MAX } else { u32::MAX.into() }
}

/// Writes outer headers, ESP header and trailer around the packet.
pub(super) fn encapsulate(
    item: &mut Outbound,
    groups: &[OutboundGroup],
    exits: &mut Exits,
) -> Result<(), Exit> {
    let group = groups.get(item.group).ok_or(DropReason::Internal)?;
    let inner = item.clear.ip;
    make_room(&mut item.clear.packet, &inner, &group.tunnel).ok_or(DropReason::NoHeadroom)?;
    let (spi, esn) = (group.sa.spi, group.sa.esn);
    let outer = item.clear.packet.network_mut();
    let written = group.tunnel.write(outer, &inner, spi, item.sequence, esn);
    item.protected = Some(written.map_err(encap_reason)?);
    exits.counts.add(Counter::Encapsulated, 1);
    exits
        .counts
        .add(Counter::EncapsulatedBytes, inner.total_len as u64);
    Ok(())
}

/// Cuts off what Ethernet padded, and grows the frame at both ends.
fn make_room(packet: &mut Packet, inner: &IpPacket, tunnel: &Tunnel) -> Option<()> {
    let sizes = tunnel.sizes(inner.total_len);
    let frame = packet.frame_mut()?;
    frame.trim(frame.len().checked_sub(ETHERNET_BYTES + inner.total_len)?)?;
    frame.append(sizes.append)?;
    frame.prepend(sizes.prepend)?;
    Some(())
}

fn encap_reason(error: EncapError) -> DropReason {
    match error {
        EncapError::Length => DropReason::Internal,
        EncapError::TooLong => DropReason::TooBig,
        EncapError::Sequence => DropReason::SequenceOverflow,
    }
}

/// After crypto: completes the outer packet and sends it on its way.
pub(super) fn depart(
    view: &View<'_>,
    item: &mut Outbound,
    groups: &[OutboundGroup],
) -> Result<(), Exit> {
    let group = groups.get(item.group).ok_or(DropReason::Internal)?;
    if !item.sealed {
        return Err(DropReason::CryptoFailed.into());
    }
    group.tunnel.finish(item.clear.packet.network_mut());
    let hop = group.route?;
    Err(next_hop(
        view,
        &mut item.clear.packet,
        group.tunnel.family(),
        hop.port,
        hop.next_hop,
    ))
}

/// Writes the Ethernet header for the next hop: the frame leaves, or waits for the address.
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
    let ethertype = match family {
        Family::V4 => ether::IPV4,
        Family::V6 => ether::IPV6,
    };
    let mac = view.snapshot.neighbours.get(&(port, next_hop));
    let destination = mac.map_or([0; 6], |mac| mac.0);
    if ether::write(packet.bytes_mut(), destination, info.mac.0, ethertype).is_none() {
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

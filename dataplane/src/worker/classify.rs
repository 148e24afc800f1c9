//! One look at a frame: what it is and whose business it is. Pure functions on bytes.

use std::ops::Range;

use api::counters::DropReason;
use api::id::Vrf;
use esp::decap::{self, DecapError, InUdp, UsualEsp};
use esp::ether::{self, Ethernet, EthernetError};
use esp::head::{self, Head};
use esp::ip::{Family, Fragment, IpError, IpPacket, Ports};
use esp::{NAT_PORT, protocol, replay};

use super::View;
use super::flight::Lane;
use crate::links::Class;
use crate::packet::{ETHERNET_BYTES, Origin};
use crate::port::{PortInfo, Side};
use crate::tables::fib::Locals;

/// UDP port of IKE (RFC 7296 2).
pub(super) const IKE_PORT: u16 = 500;
/// Hop limit of neighbour discovery: it never crossed a router (RFC 4861 7.1).
const ND_HOP_LIMIT: u8 = 255;
/// Router solicitation to redirect (RFC 4861 4).
const ND_TYPES: std::ops::RangeInclusive<u8> = 133..=137;
/// Multicast listener query, report and done (RFC 2710 3.1).
const MLD_TYPES: std::ops::RangeInclusive<u8> = 130..=132;
/// Version 2 multicast listener report (RFC 3810 5.2).
const MLD_REPORT_2: u8 = 143;
/// Hop limit of MLD and TTL of IGMP (RFC 3810 5, RFC 3376 4): no router forwards them.
const MEMBERSHIP_HOP_LIMIT: u8 = 1;
/// The type of IPv4, and the first byte of a header without options.
const ETHERNET_V4: u64 = 0x08_0045;
/// The type of IPv6, and the first byte of a header: version and traffic class.
const ETHERNET_V6: u64 = 0x86_dd60;
const ETHERNET_V6_LAST: u64 = 0x86_dd6f;
/// ARP for IPv4 over Ethernet, in bytes (RFC 826).
const ARP_BYTES: usize = 28;

/// What a frame off the wire is; the lane says the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sorted {
    /// For Linux, whatever the policies say.
    Exception(Class),
    /// ESP for one of the gateway's addresses.
    Esp,
    /// Anything else that is IP.
    Clear,
    /// From Linux, and it goes out as it is: ARP, neighbour discovery, group membership, or of an IKE
    /// socket of ours.
    Implicit,
}

/// What the packets of a burst have in common, worked out once.
#[derive(Default)]
pub(super) struct Arrival<'v> {
    port: Option<&'v PortInfo>,
    /// The port's Ethernet address.
    mac: u64,
    inside: bool,
    /// There are policies.
    committed: bool,
    /// The last destinations that were the gateway's own.
    local_v4: u64,
    local_v6: Option<(Vrf, u128)>,
}

impl<'v> Arrival<'v> {
    /// Goes over to the lane's port, if it is not the last one's.
    #[inline(always)]
    pub(super) fn turn_to(&mut self, view: &View<'v>, lane: &Lane<'_>) -> Option<&'v PortInfo> {
        if self.port.is_none_or(|port| port.index != lane.port()) {
            let port = view.port(lane.port())?;
            self.port = Some(port);
            (self.mac, self.inside) = (port.mac.word(), port.side == Side::Inside);
            self.committed = view.snapshot.committed;
        }
        self.port
    }

    #[inline(always)]
    fn is_local_v4(&mut self, locals: &Locals, vrf: Vrf, address: u32) -> bool {
        let last = local_v4(vrf, address);
        if self.local_v4 == last {
            return true;
        }
        let local = locals.contains_v4(vrf, address);
        if local {
            self.local_v4 = last;
        }
        local
    }

    #[inline(always)]
    fn is_local_v6(&mut self, locals: &Locals, vrf: Vrf, address: u128) -> bool {
        let last = Some((vrf, address));
        if self.local_v6 == last {
            return true;
        }
        let local = locals.contains_v6(vrf, address);
        if local {
            self.local_v6 = last;
        }
        local
    }
}

/// Routing instance and address in one word that is not 0.
#[inline(always)]
fn local_v4(vrf: Vrf, address: u32) -> u64 {
    1 << 63 | u64::from(vrf.0) << 32 | u64::from(address)
}

/// Sorts a frame that a port received.
#[inline(always)]
pub(super) fn wire(
    lane: &mut Lane<'_>,
    arrival: &mut Arrival<'_>,
    port: &PortInfo,
    locals: &Locals,
) -> Result<Sorted, DropReason> {
    let Some(head) = plain(lane.packet.bytes(), arrival.mac) else {
        return any(lane, arrival, port, locals);
    };
    lane.head = head;
    to_station(lane, arrival, locals)
}

/// The usual packet at an inside port: [`plain`], with ports, of a flow that may be remembered. Nobody has
/// looked yet at where it comes from and goes to: [`to_station`] does if it is not. `None`, and nothing
/// noted, for all others, good or bad.
#[inline(always)]
pub(super) fn usual_flow(lane: &mut Lane<'_>, arrival: &Arrival<'_>) -> Option<()> {
    if !arrival.inside {
        return None;
    }
    let head = plain(usual(lane, arrival)?, arrival.mac)?;
    if !head.ports.are_a_pair() {
        return None;
    }
    lane.head = head;
    Some(())
}

/// A frame off the wire that is all in one buffer, once packets may be taken at all.
#[inline(always)]
fn usual<'l>(lane: &'l Lane<'_>, arrival: &Arrival<'_>) -> Option<&'l [u8]> {
    let frame = lane.packet.frame()?;
    let usual = arrival.committed && lane.packet.origin == Origin::Wire && frame.is_linear();
    usual.then_some(frame)
}

/// The usual ESP packet at an outside port, to the address that the last one was for, over IPv4 with or
/// without UDP. `None`, and nothing noted, for all others, good or bad: [`wire`] sorts them.
#[inline(always)]
pub(super) fn usual_esp(lane: &mut Lane<'_>, arrival: &Arrival<'_>) -> Option<()> {
    if arrival.inside {
        return None;
    }
    let (kind, packet) = to_port(usual(lane, arrival)?, arrival.mac)?;
    let vrf = lane.packet.vrf;
    let (family, esp, local) = match kind {
        ETHERNET_V4 => {
            let esp = decap::usual_esp_v4(packet)?;
            let (source, destination) = replay::halves(esp.addresses);
            let local = arrival.local_v4 == local_v4(vrf, destination);
            (Family::V4, esp, local && is_unicast_source_v4(source))
        }
        ETHERNET_V6..=ETHERNET_V6_LAST => {
            let esp = decap::usual_esp_v6(packet)?;
            let (source, destination) = head::addresses_v6(packet);
            let local = arrival.local_v6 == Some((vrf, destination));
            (Family::V6, esp, local && is_unicast_source_v6(source))
        }
        _ => return None,
    };
    if !local {
        return None;
    }
    lane.head.family = family;
    let UsualEsp {
        addresses,
        tos,
        udp_source,
        range,
        front,
    } = esp;
    lane.to_us = true;
    lane.outer_tos = tos;
    lane.udp_source = udp_source;
    lane.esp = range;
    lane.asked = [addresses, front];
    Some(())
}

/// Of a frame that somebody else sent to the port's own address, without a tag: type and the first byte
/// behind it, in three bytes, and the packet.
#[inline(always)]
fn to_port(frame: &[u8], own: u64) -> Option<(u64, &[u8])> {
    let (header, _) = frame.first_chunk::<16>()?.as_chunks::<8>();
    let [first, second] = header.first_chunk()?.map(u64::from_be_bytes);
    let (destination, source) = (first >> 16, (first & 0xffff) << 32 | second >> 32);
    // From ourselves is a loop, which `any` counts.
    if destination != own || source == own {
        return None;
    }
    Some((second >> 8 & 0xff_ffff, frame.get(ETHERNET_BYTES..)?))
}

/// The usual frame, told by one masked compare: to the port's address, untagged, IPv4 without
/// options or IPv6. What is wrong with any other frame is for [`any`] to say.
#[inline(always)]
fn plain(frame: &[u8], own: u64) -> Option<Head> {
    let (kind, packet) = to_port(frame, own)?;
    match kind {
        ETHERNET_V4 => Head::plain_v4(packet),
        ETHERNET_V6..=ETHERNET_V6_LAST => Head::plain_v6(packet),
        _ => None,
    }
}

/// Sorts any frame.
#[cold]
#[inline(never)]
fn any(
    lane: &mut Lane<'_>,
    arrival: &mut Arrival<'_>,
    port: &PortInfo,
    locals: &Locals,
) -> Result<Sorted, DropReason> {
    let ethernet = ethernet(lane.packet.bytes())?;
    if !ethernet.is_group() && ethernet.destination != port.mac.0 {
        return Err(DropReason::NotForUs);
    }
    if ethernet.source == port.mac.0 {
        return Err(DropReason::OwnFrame);
    }
    let packet = lane.packet.network();
    let Some(family) = family(&ethernet, packet)? else {
        return Ok(Sorted::Exception(Class::Neighbour));
    };
    let ip = parse(family, packet)?;
    lane.head = Head::of(&ip).map_err(|error| ip_reason(family, error))?;
    let to_us = locals.contains(lane.packet.vrf, ip.destination) || ip.destination_is_group();
    if to_us && (is_neighbour_discovery(&lane.head) || is_membership(&ip)) {
        return Ok(Sorted::Exception(Class::Neighbour));
    }
    if ethernet.is_group() && ip.source_is_unicast() && !ip.destination_is_group() {
        return Err(DropReason::Broadcast);
    }
    to_station(lane, arrival, locals)
}

/// Sorts an IP packet that came to the port's own address or a group's.
#[inline(always)]
pub(super) fn to_station(
    lane: &mut Lane<'_>,
    arrival: &mut Arrival<'_>,
    locals: &Locals,
) -> Result<Sorted, DropReason> {
    match lane.head.family {
        Family::V4 => sort_v4(lane, arrival, locals),
        Family::V6 => sort_v6(lane, arrival, locals),
    }
}

#[inline(always)]
fn sort_v4(
    lane: &mut Lane<'_>,
    arrival: &mut Arrival<'_>,
    locals: &Locals,
) -> Result<Sorted, DropReason> {
    let (source, destination) = head::addresses_v4(lane.packet.network());
    if !is_unicast_source_v4(source) {
        return Err(DropReason::BadAddress);
    }
    if arrival.is_local_v4(locals, lane.packet.vrf, destination) {
        return for_gateway(lane);
    }
    lane.to_us = is_group_v4(destination);
    if !lane.to_us && (is_link_local_v4(source) || is_link_local_v4(destination)) {
        return Err(DropReason::LinkLocal);
    }
    Ok(Sorted::Clear)
}

#[inline(always)]
fn sort_v6(
    lane: &mut Lane<'_>,
    arrival: &mut Arrival<'_>,
    locals: &Locals,
) -> Result<Sorted, DropReason> {
    let (source, destination) = head::addresses_v6(lane.packet.network());
    if !is_unicast_source_v6(source) {
        return Err(DropReason::BadAddress);
    }
    if arrival.is_local_v6(locals, lane.packet.vrf, destination) {
        return for_gateway(lane);
    }
    lane.to_us = is_group_v6(destination);
    if !lane.to_us && (is_link_local_v6(source) || is_link_local_v6(destination)) {
        return Err(DropReason::LinkLocal);
    }
    Ok(Sorted::Clear)
}

/// Sorts a frame that Linux sent through a twin.
pub(super) fn twin(lane: &mut Lane<'_>, locals: &Locals) -> Result<Sorted, DropReason> {
    let ethernet = ethernet(lane.packet.bytes())?;
    let packet = lane.packet.network();
    let Some(family) = family(&ethernet, packet)? else {
        return Ok(Sorted::Implicit);
    };
    let ip = parse(family, packet)?;
    lane.head = Head::of(&ip).map_err(|error| ip_reason(family, error))?;
    let of_the_link = is_neighbour_discovery(&lane.head) || is_membership(&ip);
    if of_the_link || is_ike(&ip, lane.packet.vrf, locals) {
        return Ok(Sorted::Implicit);
    }
    Ok(Sorted::Clear)
}

/// Of an IKE socket of the gateway's own.
fn is_ike(ip: &IpPacket, vrf: Vrf, locals: &Locals) -> bool {
    let from_ike = matches!(
        ip.ports,
        Ports::Pair {
            source: IKE_PORT | NAT_PORT,
            ..
        }
    );
    from_ike
        && ip.protocol == protocol::UDP
        && ip.fragment == Fragment::No
        && locals.contains(vrf, ip.source)
}

/// Sorts a decrypted packet that another worker handed over.
pub(super) fn tunnel(lane: &mut Lane<'_>) -> Result<Sorted, DropReason> {
    lane.head = Head::parse(lane.packet.network()).map_err(|_| DropReason::Internal)?;
    Ok(Sorted::Clear)
}

fn ethernet(frame: &[u8]) -> Result<Ethernet, DropReason> {
    let ethernet = Ethernet::parse(frame).map_err(|error| match error {
        EthernetError::Short => DropReason::MalformedEthernet,
        EthernetError::Length => DropReason::UnsupportedEthertype,
        EthernetError::Tags => DropReason::Vlan,
    })?;
    if ethernet.payload_offset != ETHERNET_BYTES {
        return Err(DropReason::Vlan);
    }
    Ok(ethernet)
}

/// The IP version; `None` for ARP.
fn family(ethernet: &Ethernet, payload: &[u8]) -> Result<Option<Family>, DropReason> {
    match ethernet.ethertype {
        ether::IPV4 => Ok(Some(Family::V4)),
        ether::IPV6 => Ok(Some(Family::V6)),
        ether::ARP if payload.len() < ARP_BYTES => Err(DropReason::MalformedArp),
        ether::ARP => Ok(None),
        _ => Err(DropReason::UnsupportedEthertype),
    }
}

fn parse(family: Family, packet: &[u8]) -> Result<IpPacket, DropReason> {
    IpPacket::parse_as(family, packet).map_err(|error| ip_reason(family, error))
}

fn ip_reason(family: Family, error: IpError) -> DropReason {
    match (family, error) {
        (_, IpError::Checksum) => DropReason::Ipv4Checksum,
        (_, IpError::Extension | IpError::ExtensionOrder) => DropReason::Ipv6Extension,
        (_, IpError::Fragment) => DropReason::Fragment,
        (Family::V4, _) => DropReason::MalformedIpv4,
        (Family::V6, _) => DropReason::MalformedIpv6,
    }
}

/// RFC 4861: solicitations, advertisements and redirects that were sent on this very link.
fn is_neighbour_discovery(ip: &Head) -> bool {
    let Ports::TypeCode(type_code) = ip.ports.unpack() else {
        return false;
    };
    let [kind, _] = type_code.to_be_bytes();
    ip.protocol == protocol::ICMPV6
        && ip.fragment == Fragment::No
        && ip.ttl == ND_HOP_LIMIT
        && ND_TYPES.contains(&kind)
}

/// Who listens to which group on this very link: MLD (RFC 2710, RFC 3810), IGMP (RFC 3376).
fn is_membership(ip: &IpPacket) -> bool {
    let told = match (ip.family, ip.protocol, ip.ports) {
        (Family::V4, protocol::IGMP, _) => true,
        (Family::V6, protocol::ICMPV6, Ports::TypeCode(type_code)) => {
            let [kind, _] = type_code.to_be_bytes();
            MLD_TYPES.contains(&kind) || kind == MLD_REPORT_2
        }
        _ => false,
    };
    told && ip.fragment == Fragment::No
        && ip.ttl == MEMBERSHIP_HOP_LIMIT
        && ip.destination_is_group()
}

/// As [`IpPacket::source_is_unicast`].
#[inline(always)]
const fn is_unicast_source_v4(source: u32) -> bool {
    let first = source >> 24;
    first != 0 && first != 127 && first < 224
}

/// As [`IpPacket::source_is_unicast`]: not unspecified, not loopback, no group.
#[inline(always)]
const fn is_unicast_source_v6(source: u128) -> bool {
    source > 1 && !is_group_v6(source)
}

/// Multicast.
#[inline(always)]
pub(super) const fn is_group_v6(address: u128) -> bool {
    address >> 120 == 0xff
}

/// Multicast and the limited broadcast address.
#[inline]
pub(super) const fn is_group_v4(address: u32) -> bool {
    address >> 28 == 0xe || address == u32::MAX
}

#[inline]
const fn is_link_local_v4(address: u32) -> bool {
    address >> 16 == 0xa9fe
}

const fn is_link_local_v6(address: u128) -> bool {
    address >> 118 == 0x3fa
}

/// Sorts a packet for one of the gateway's own addresses.
#[inline(always)]
fn for_gateway(lane: &mut Lane<'_>) -> Result<Sorted, DropReason> {
    lane.to_us = true;
    match lane.head.protocol {
        protocol::ESP => {
            let esp = decap::esp_plain(&lane.head).map_err(esp_reason)?;
            found_esp(lane, &esp, None)
        }
        protocol::AH => Err(DropReason::AhUnsupported),
        protocol::UDP => for_udp(lane),
        _ => Ok(Sorted::Clear),
    }
}

fn for_udp(lane: &mut Lane<'_>) -> Result<Sorted, DropReason> {
    let Ports::Pair {
        source,
        destination,
    } = lane.head.ports.unpack()
    else {
        return Ok(Sorted::Clear);
    };
    let packet = lane.packet.network();
    match destination {
        // Linux looks at length and checksum.
        IKE_PORT if lane.head.fragment == Fragment::No => {
            let datagram = lane.head.l4(packet);
            let message = datagram.get(esp::UDP_HEADER_BYTES..).unwrap_or_default();
            Ok(Sorted::Exception(ike_class(message)))
        }
        IKE_PORT => Err(DropReason::Fragment),
        NAT_PORT => match decap::esp_in_udp(&lane.head, packet).map_err(esp_reason)? {
            InUdp::Keepalive => Err(DropReason::Keepalive),
            InUdp::Ike(message) => {
                let message = packet.get(message).unwrap_or_default();
                Ok(Sorted::Exception(ike_class(message)))
            }
            InUdp::Esp(esp) => found_esp(lane, &esp, Some(source)),
        },
        _ => Ok(Sorted::Clear),
    }
}

/// Notes where ESP stands in the packet, and what its SA will be looked for by.
#[inline(always)]
fn found_esp(
    lane: &mut Lane<'_>,
    esp: &Range<usize>,
    udp_source: Option<u16>,
) -> Result<Sorted, DropReason> {
    let packet = lane.packet.network();
    let front = packet
        .get(esp.clone())
        .and_then(<[u8]>::first_chunk::<{ esp::CLEAR_BYTES }>)
        .and_then(|clear| clear.first_chunk())
        .ok_or(DropReason::MalformedEsp)?;
    let addresses = match lane.head.family {
        Family::V4 => head::both_addresses_v4(packet),
        Family::V6 => 0,
    };
    lane.asked = [addresses, u64::from_be_bytes(*front)];
    let short = |n: usize| u16::try_from(n).map_err(|_| DropReason::MalformedEsp);
    lane.esp = (short(esp.start)?, short(esp.end)?);
    lane.udp_source = udp_source;
    lane.outer_tos = lane.head.tos;
    Ok(Sorted::Esp)
}

/// The class of an IKE message (RFC 7296 3.1): what it costs us to answer it.
fn ike_class(message: &[u8]) -> Class {
    const NEXT_PAYLOAD: usize = 16;
    const FLAGS: usize = 19;
    const RESPONSE: u8 = 0x20;
    const HEADER_BYTES: usize = 28;
    const NOTIFY: u8 = 41;
    const COOKIE: [u8; 2] = 16390_u16.to_be_bytes();
    let byte = |at: usize| message.get(at).copied();
    let responder_spi = message.get(8..16).unwrap_or(&[0; 8]);
    // A refusal of IKE_SA_INIT is a response without a responder's SPI (RFC 7296 2.6).
    let response = byte(FLAGS).is_some_and(|flags| flags & RESPONSE != 0);
    if response || responder_spi != [0; 8] {
        return Class::Ike;
    }
    let notify_type = message.get(HEADER_BYTES + 6..HEADER_BYTES + 8);
    if byte(NEXT_PAYLOAD) == Some(NOTIFY) && notify_type == Some(&COOKIE) {
        return Class::IkeInitCookie;
    }
    Class::IkeInit
}

/// The reason for what is wrong with an ESP packet.
#[cold]
pub(super) fn esp_reason(error: DecapError) -> DropReason {
    match error {
        DecapError::Fragment => DropReason::Fragment,
        DecapError::UdpLength => DropReason::MalformedUdp,
        DecapError::UdpChecksum => DropReason::UdpChecksum,
        DecapError::Short | DecapError::Spi | DecapError::Alignment => DropReason::MalformedEsp,
        DecapError::Padding => DropReason::BadPadding,
        DecapError::NextHeader(_) => DropReason::BadNextHeader,
        DecapError::Inner(_) => DropReason::MalformedInner,
        DecapError::Ecn => DropReason::EcnIllegal,
    }
}

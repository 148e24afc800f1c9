//! One look at a frame: what it is and whose business it is. Pure functions on bytes.

use std::net::IpAddr;
use std::ops::Range;

use api::counters::DropReason;
use api::id::Vrf;
use esp::decap::{self, DecapError, InUdp};
use esp::ether::{self, Ethernet, EthernetError};
use esp::ip::{Family, Fragment, IpError, IpPacket, Ports};
use esp::protocol;

use crate::links::Class;
use crate::packet::ETHERNET_BYTES;
use crate::port::PortInfo;
use crate::tables::fib::Locals;

/// UDP port of IKE (RFC 7296 2).
pub(super) const IKE_PORT: u16 = 500;
/// UDP port of IKE and ESP behind NAT (RFC 3948).
pub(super) const NAT_PORT: u16 = 4500;
/// Hop limit of neighbour discovery: it never crossed a router (RFC 4861 7.1).
const ND_HOP_LIMIT: u8 = 255;
/// Router solicitation to redirect (RFC 4861 4).
const ND_TYPES: std::ops::RangeInclusive<u8> = 133..=137;
/// ARP for IPv4 over Ethernet, in bytes (RFC 826).
const ARP_BYTES: usize = 28;

/// What a frame off the wire is.
#[derive(Debug, PartialEq)]
pub(super) enum Sorted {
    /// For Linux, whatever the policies say.
    Exception(Class),
    /// ESP for one of the gateway's addresses.
    Esp(EspPacket),
    /// Anything else that is IP.
    Clear(ClearPacket),
}

/// An ESP packet, not looked into yet. The range is in bytes of the outer IP packet.
#[derive(Debug, PartialEq)]
pub(super) struct EspPacket {
    pub(super) outer: IpPacket,
    pub(super) esp: Range<usize>,
    /// UDP source and destination port where it is encapsulated.
    pub(super) udp: Option<(u16, u16)>,
}

/// A clear IP packet.
#[derive(Debug, PartialEq)]
pub(super) struct ClearPacket {
    pub(super) ip: IpPacket,
    /// For the gateway itself, or for a group that it may belong to.
    pub(super) to_us: bool,
}

/// Sorts a frame that a port received.
pub(super) fn wire(
    frame: &[u8],
    port: &PortInfo,
    vrf: Vrf,
    locals: &Locals,
) -> Result<Sorted, DropReason> {
    let ethernet = ethernet(frame)?;
    if !ethernet.is_group() && ethernet.destination != port.mac.0 {
        return Err(DropReason::NotForUs);
    }
    if ethernet.source == port.mac.0 {
        return Err(DropReason::OwnFrame);
    }
    let packet = frame.get(ETHERNET_BYTES..).unwrap_or_default();
    let Some(family) = family(&ethernet, packet)? else {
        return Ok(Sorted::Exception(Class::Neighbour));
    };
    let ip = parse(family, packet)?;
    let to_us = locals.contains(vrf, ip.destination) || ip.destination_is_group();
    if to_us && is_neighbour_discovery(&ip) {
        return Ok(Sorted::Exception(Class::Neighbour));
    }
    if !ip.source_is_unicast() {
        return Err(DropReason::BadAddress);
    }
    if ethernet.is_group() && !ip.destination_is_group() {
        return Err(DropReason::Broadcast);
    }
    if locals.contains(vrf, ip.destination) {
        return for_gateway(ip, packet);
    }
    if !to_us && (is_link_local(ip.source) || is_link_local(ip.destination)) {
        return Err(DropReason::LinkLocal);
    }
    Ok(Sorted::Clear(ClearPacket { ip, to_us }))
}

/// What a frame from Linux is.
#[derive(Debug, PartialEq)]
pub(super) enum FromTwin {
    /// ARP, neighbour discovery, or of an IKE socket of ours: goes out as it is.
    Implicit,
    /// Has to pass the SPD.
    Clear(ClearPacket),
}

/// Sorts a frame that Linux sent through a twin.
pub(super) fn twin(frame: &[u8], vrf: Vrf, locals: &Locals) -> Result<FromTwin, DropReason> {
    let ethernet = ethernet(frame)?;
    let packet = frame.get(ETHERNET_BYTES..).unwrap_or_default();
    let Some(family) = family(&ethernet, packet)? else {
        return Ok(FromTwin::Implicit);
    };
    let ip = parse(family, packet)?;
    let ike = matches!(
        ip.ports,
        Ports::Pair {
            source: IKE_PORT | NAT_PORT,
            ..
        }
    ) && ip.protocol == protocol::UDP
        && ip.fragment == Fragment::No
        && locals.contains(vrf, ip.source);
    if ike || is_neighbour_discovery(&ip) {
        return Ok(FromTwin::Implicit);
    }
    Ok(FromTwin::Clear(ClearPacket { ip, to_us: false }))
}

/// Sorts a decrypted packet that another worker handed over.
pub(super) fn tunnel(frame: &[u8]) -> Result<Sorted, DropReason> {
    let packet = frame.get(ETHERNET_BYTES..).unwrap_or_default();
    let ip = IpPacket::parse(packet).map_err(|_| DropReason::Internal)?;
    Ok(Sorted::Clear(ClearPacket { ip, to_us: false }))
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
    IpPacket::parse_as(family, packet).map_err(|error| match (family, error) {
        (_, IpError::Checksum) => DropReason::Ipv4Checksum,
        (_, IpError::Extension | IpError::ExtensionOrder) => DropReason::Ipv6Extension,
        (_, IpError::Fragment) => DropReason::Fragment,
        (Family::V4, _) => DropReason::MalformedIpv4,
        (Family::V6, _) => DropReason::MalformedIpv6,
    })
}

/// RFC 4861: solicitations, advertisements and redirects that were sent on this very link.
fn is_neighbour_discovery(ip: &IpPacket) -> bool {
    let Ports::TypeCode(type_code) = ip.ports else {
        return false;
    };
    let [kind, _] = type_code.to_be_bytes();
    ip.protocol == protocol::ICMPV6
        && ip.fragment == Fragment::No
        && ip.ttl == ND_HOP_LIMIT
        && ND_TYPES.contains(&kind)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Sorts a packet for one of the gateway's own addresses.
fn for_gateway(ip: IpPacket, packet: &[u8]) -> Result<Sorted, DropReason> {
    match ip.protocol {
        protocol::ESP => {
            let esp = decap::esp_plain(&ip).map_err(esp_reason)?;
            Ok(Sorted::Esp(EspPacket {
                outer: ip,
                esp,
                udp: None,
            }))
        }
        protocol::AH => Err(DropReason::AhUnsupported),
        protocol::UDP => for_udp(ip, packet),
        _ => Ok(Sorted::Clear(ClearPacket { ip, to_us: true })),
    }
}

fn for_udp(ip: IpPacket, packet: &[u8]) -> Result<Sorted, DropReason> {
    let Ports::Pair {
        source,
        destination,
    } = ip.ports
    else {
        return Ok(Sorted::Clear(ClearPacket { ip, to_us: true }));
    };
    match destination {
        // Linux looks at length and checksum.
        IKE_PORT if ip.fragment == Fragment::No => {
            let message = ip
                .l4(packet)
                .get(esp::UDP_HEADER_BYTES..)
                .unwrap_or_default();
            Ok(Sorted::Exception(ike_class(message)))
        }
        IKE_PORT => Err(DropReason::Fragment),
        NAT_PORT => match decap::esp_in_udp(&ip, packet).map_err(esp_reason)? {
            InUdp::Keepalive => Err(DropReason::Keepalive),
            InUdp::Ike(message) => {
                let message = packet.get(message).unwrap_or_default();
                Ok(Sorted::Exception(ike_class(message)))
            }
            InUdp::Esp(esp) => {
                let udp = Some((source, destination));
                Ok(Sorted::Esp(EspPacket {
                    outer: ip,
                    esp,
                    udp,
                }))
            }
        },
        _ => Ok(Sorted::Clear(ClearPacket { ip, to_us: true })),
    }
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

//! One pass over an IP packet: what lookups, selectors and ESP need to know of it.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{array, put, u8_at, u16_at};
use crate::{checksum, protocol};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Length of the fixed IPv6 header, in bytes.
pub const IPV6_HEADER_BYTES: usize = 40;
/// Most IPv6 extension headers followed; nobody sends more with good intent.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Longest reassembled payload of either family, in bytes.
const MAX_PAYLOAD_BYTES: usize = 65_535;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Whether a packet is a fragment. An atomic IPv6 fragment (RFC 6946) is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet.
    No,
    /// Offset 0, more to come: has the upper layer's header.
    First,
    /// Has no upper layer header: ports are unknown.
    NonFirst,
}

/// What the upper layer offers to selectors (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The protocol has none.
    None,
    /// It has some, but they cannot be seen here: a later fragment or a header cut short.
    Opaque,
    /// TCP, UDP, UDP-Lite, SCTP, DCCP.
    Pair {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP, ICMPv6: type in the high and code in the low 8 bits; mobility header: type in the
    /// high 8 bits (RFC 7296 3.13.1).
    TypeCode(u16),
}

/// What one pass found. Offsets and lengths are in bytes from the start of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// IP version.
    pub family: Family,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Next layer protocol behind the extension headers 0, 43, 44 and 60. As RFC 4301 4.4.1.1 has
    /// it, AH and ESP count as the next layer. In a later fragment, whatever the fragment header
    /// names.
    pub protocol: u8,
    /// Where that protocol's header starts; in a later fragment, its data.
    pub l4_offset: usize,
    /// Length of the packet by its own header; the slice may be longer (Ethernet or TFC padding).
    pub total_len: usize,
    /// Length of the IPv4 header with options, or 40.
    pub header_len: usize,
    /// Ports or ICMP type and code.
    pub ports: Ports,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// Identification that groups fragments (IPv4: 16 bits; IPv6: 0 without fragment header).
    pub id: u32,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP (6 bits) and ECN (2 bits): type of service, or traffic class.
    pub tos: u8,
    /// Don't fragment. Always true for IPv6, which routers never fragment.
    pub df: bool,
}

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpError {
    /// The slice ends inside the IP header.
    Short,
    /// The version is not the expected one, or neither 4 nor 6.
    Version,
    /// IPv4 header length below 20 bytes or beyond the packet.
    HeaderLength,
    /// The length field is smaller than the headers or larger than the slice.
    TotalLength,
    /// The IPv4 header checksum is wrong.
    Checksum,
    /// An extension header runs past the end, or is missing from a first fragment (RFC 7112).
    Extension,
    /// More than [`MAX_EXTENSION_HEADERS`], two fragment headers, or hop-by-hop options not in
    /// front (RFC 8200 4.1).
    ExtensionOrder,
    /// A fragment that ends beyond 65,535 bytes or whose length is no multiple of 8 (RFC 8200 4.5).
    Fragment,
}

impl fmt::Display for IpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "packet ends inside the IP header",
            Self::Version => "wrong IP version",
            Self::HeaderLength => "bad IPv4 header length",
            Self::TotalLength => "length field disagrees with the packet",
            Self::Checksum => "bad IPv4 header checksum",
            Self::Extension => "IPv6 extension header cut short",
            Self::ExtensionOrder => "too many or misplaced IPv6 extension headers",
            Self::Fragment => "impossible fragment",
        })
    }
}

impl std::error::Error for IpError {}

impl IpPacket {
    /// Parses a packet of either family by its version field.
    ///
    /// # Errors
    /// [`IpError`]
    pub fn parse(packet: &[u8]) -> Result<Self, IpError> {
        match u8_at(packet, 0).ok_or(IpError::Short)? >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            _ => Err(IpError::Version),
        }
    }

    /// Parses a packet that the layer below says is of `family` (ethertype, next header).
    ///
    /// # Errors
    /// [`IpError`]; [`IpError::Version`] if the packet says otherwise.
    pub fn parse_as(family: Family, packet: &[u8]) -> Result<Self, IpError> {
        let version = u8_at(packet, 0).ok_or(IpError::Short)? >> 4;
        match (family, version) {
            (Family::V4, 4) => parse_v4(packet),
            (Family::V6, 6) => parse_v6(packet),
            _ => Err(IpError::Version),
        }
    }

    /// The upper layer's bytes of the packet this was parsed from, without trailing padding.
    #[must_use]
    pub fn l4<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet
            .get(self.l4_offset..self.total_len)
            .unwrap_or_default()
    }

    /// Whether the source is a single host's address, so that it can be answered.
    #[must_use]
    pub fn source_is_unicast(&self) -> bool {
        match self.source {
            IpAddr::V4(a) => {
                let [first, ..] = a.octets();
                // 0/8 "this network", 127/8, multicast, class E and limited broadcast (RFC 1122
                // 3.2.1.3).
                !matches!(first, 0 | 127 | 224..)
            }
            IpAddr::V6(a) => !(a.is_unspecified() || a.is_loopback() || a.is_multicast()),
        }
    }

    /// Whether the destination is a group or the limited broadcast address.
    #[must_use]
    pub fn destination_is_group(&self) -> bool {
        match self.destination {
            IpAddr::V4(a) => a.is_multicast() || a.is_broadcast(),
            IpAddr::V6(a) => a.is_multicast(),
        }
    }
}

fn parse_v4(packet: &[u8]) -> Result<IpPacket, IpError> {
    use IpError::{Checksum, HeaderLength, Short, TotalLength};
    let fixed = packet.first_chunk::<IPV4_HEADER_BYTES>().ok_or(Short)?;
    let [
        version_ihl,
        tos,
        l0,
        l1,
        i0,
        i1,
        f0,
        f1,
        ttl,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        ..,
    ] = *fixed;
    let [.., d0, d1, d2, d3] = *fixed;
    let header_len = usize::from(version_ihl & 0x0f).saturating_mul(4);
    let total_len = usize::from(u16::from_be_bytes([l0, l1]));
    if header_len < IPV4_HEADER_BYTES {
        return Err(HeaderLength);
    }
    if total_len > packet.len() {
        return Err(TotalLength);
    }
    let payload_len = total_len.checked_sub(header_len).ok_or(HeaderLength)?;
    let header = packet.get(..header_len).ok_or(HeaderLength)?;
    if checksum::internet(header) != 0 {
        return Err(Checksum);
    }
    let flags = u16::from_be_bytes([f0, f1]);
    let offset = usize::from(flags & 0x1fff).saturating_mul(8);
    let fragment = fragment(offset, flags & 0x2000 != 0, payload_len)?;
    let l4 = packet.get(header_len..total_len).unwrap_or_default();
    Ok(IpPacket {
        family: Family::V4,
        source: IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3)),
        destination: IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3)),
        protocol,
        l4_offset: header_len,
        total_len,
        header_len,
        ports: ports(protocol, fragment, l4),
        fragment,
        id: u32::from(u16::from_be_bytes([i0, i1])),
        ttl,
        tos,
        df: flags & 0x4000 != 0,
    })
}

fn parse_v6(packet: &[u8]) -> Result<IpPacket, IpError> {
    use IpError::{Short, TotalLength};
    let fixed = packet.first_chunk::<IPV6_HEADER_BYTES>().ok_or(Short)?;
    let [b0, b1, _, _, l0, l1, next_header, hop_limit, ..] = *fixed;
    let source = array::<16>(fixed, 8).ok_or(Short)?;
    let destination = array::<16>(fixed, 24).ok_or(Short)?;
    let total_len = usize::from(u16::from_be_bytes([l0, l1])).saturating_add(IPV6_HEADER_BYTES);
    let whole = packet.get(..total_len).ok_or(TotalLength)?;
    let chain = extension_headers(whole, next_header)?;
    let l4 = whole.get(chain.l4_offset..).unwrap_or_default();
    Ok(IpPacket {
        family: Family::V6,
        source: IpAddr::V6(Ipv6Addr::from(source)),
        destination: IpAddr::V6(Ipv6Addr::from(destination)),
        protocol: chain.protocol,
        l4_offset: chain.l4_offset,
        total_len,
        header_len: IPV6_HEADER_BYTES,
        ports: ports(chain.protocol, chain.fragment, l4),
        fragment: chain.fragment,
        id: chain.id,
        ttl: hop_limit,
        tos: (b0 << 4) | (b1 >> 4),
        df: true,
    })
}

/// What stands at the end of an IPv6 header chain.
struct Chain {
    protocol: u8,
    l4_offset: usize,
    fragment: Fragment,
    id: u32,
}

/// Follows the extension headers of `packet`, which is exactly as long as its length field says.
fn extension_headers(packet: &[u8], next_header: u8) -> Result<Chain, IpError> {
    use IpError::{Extension, ExtensionOrder};
    let mut seen_fragment_header = false;
    let mut chain = Chain {
        protocol: next_header,
        l4_offset: IPV6_HEADER_BYTES,
        fragment: Fragment::No,
        id: 0,
    };
    for position in 0..=MAX_EXTENSION_HEADERS {
        let at = chain.l4_offset;
        let len = match chain.protocol {
            protocol::HOP_BY_HOP if position > 0 => return Err(ExtensionOrder),
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let units = u8_at(packet, at.saturating_add(1)).ok_or(Extension)?;
                usize::from(units).saturating_add(1).saturating_mul(8)
            }
            // A second one could make a fragment look whole.
            protocol::FRAGMENT if seen_fragment_header => return Err(ExtensionOrder),
            protocol::FRAGMENT => {
                seen_fragment_header = true;
                read_fragment_header(packet, at, &mut chain)?;
                8
            }
            _ => return Ok(chain),
        };
        chain.protocol = u8_at(packet, at).ok_or(Extension)?;
        chain.l4_offset = at.saturating_add(len);
        if chain.l4_offset > packet.len() {
            return Err(Extension);
        }
        // Behind a later fragment's header stands data, not a header.
        if chain.fragment == Fragment::NonFirst {
            return Ok(chain);
        }
    }
    Err(ExtensionOrder)
}

/// RFC 8200 4.5: next header, reserved, offset (13 bits) and M flag, identification.
fn read_fragment_header(packet: &[u8], at: usize, chain: &mut Chain) -> Result<(), IpError> {
    let header = array::<8>(packet, at).ok_or(IpError::Extension)?;
    let [_, _, o0, o1, i0, i1, i2, i3] = header;
    let field = u16::from_be_bytes([o0, o1]);
    let more = field & 1 != 0;
    let payload_len = packet.len().saturating_sub(at.saturating_add(8));
    if more && payload_len & 7 != 0 {
        return Err(IpError::Fragment);
    }
    chain.fragment = fragment(usize::from(field & 0xfff8), more, payload_len)?;
    chain.id = u32::from_be_bytes([i0, i1, i2, i3]);
    Ok(())
}

fn fragment(offset: usize, more: bool, payload_len: usize) -> Result<Fragment, IpError> {
    match (offset, more) {
        (0, false) => Ok(Fragment::No),
        (0, true) => Ok(Fragment::First),
        _ if offset.saturating_add(payload_len) > MAX_PAYLOAD_BYTES => Err(IpError::Fragment),
        _ => Ok(Fragment::NonFirst),
    }
}

fn ports(protocol: u8, fragment: Fragment, l4: &[u8]) -> Ports {
    let seen = match protocol {
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::DCCP => {
            array(l4, 0).map(|[s0, s1, d0, d1]| Ports::Pair {
                source: u16::from_be_bytes([s0, s1]),
                destination: u16::from_be_bytes([d0, d1]),
            })
        }
        protocol::ICMP | protocol::ICMPV6 => u16_at(l4, 0).map(Ports::TypeCode),
        // RFC 6275 6.1.1: payload protocol, length, type.
        protocol::MOBILITY => u8_at(l4, 2).map(|t| Ports::TypeCode(u16::from_be_bytes([t, 0]))),
        // A later fragment's data may hold ports if its next header is a skipped one.
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::FRAGMENT
        | protocol::DESTINATION_OPTIONS => None,
        _ => return Ports::None,
    };
    match fragment {
        Fragment::NonFirst => Ports::Opaque,
        Fragment::No | Fragment::First => seen.unwrap_or(Ports::Opaque),
    }
}

/// Counts the TTL or hop limit down by one as forwarding does (RFC 1812 5.3.1, RFC 8200 3).
///
/// Of a packet that enters a tunnel it is the forwarding step before encapsulation that calls this
/// (RFC 4301 5.1.2.1 note 2); neither [`crate::encap`] nor [`crate::decap`] does.
/// None, and nothing changed, if the packet has to be discarded: TTL was 0 or 1.
#[inline(always)]
#[must_use]
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<IPV4_HEADER_BYTES>()?;
    let [version, _, _, _, _, _, _, hop_limit, rest @ ..] = header;
    if *version >> 4 != 4 {
        let left = hop_limit.checked_sub(1).filter(|left| *left > 0)?;
        *hop_limit = left;
        return Some(left);
    }
    // TTL, protocol, checksum: one word.
    let word = rest.first_chunk_mut::<4>()?;
    let old = u32::from_be_bytes(*word);
    if old < 2 << 24 {
        return None;
    }
    // RFC 1624 3: of a word whose high byte is one less, the complement of the sum grows by 0x100;
    // 0xffff would be the other zero.
    let sum = (old & 0xffff).wrapping_add(0x100);
    let sum = sum.wrapping_add(u32::from(sum >= 0xffff)) & 0xffff;
    let new = (old & 0xffff_0000).wrapping_sub(1 << 24) | sum;
    *word = new.to_be_bytes();
    let [ttl, ..] = *word;
    Some(ttl)
}

/// Replaces DSCP and ECN; the IPv4 checksum follows. None if `packet` is no IP header.
#[must_use]
pub fn set_tos(packet: &mut [u8], tos: u8) -> Option<()> {
    match packet {
        [b0, ..] if *b0 >> 4 == 4 => put_v4_byte(packet, 1, tos),
        [b0, b1, ..] if *b0 >> 4 == 6 => {
            *b0 = (*b0 & 0xf0) | (tos >> 4);
            *b1 = (*b1 & 0x0f) | (tos << 4);
            Some(())
        }
        _ => None,
    }
}

/// Writes one byte of an IPv4 header and corrects the checksum (RFC 1624).
fn put_v4_byte(packet: &mut [u8], at: usize, value: u8) -> Option<()> {
    let word_at = at & !1;
    let (old, sum) = (u16_at(packet, word_at)?, u16_at(packet, 10)?);
    put(packet, at, [value])?;
    let new = u16_at(packet, word_at)?;
    put(packet, 10, checksum::update(sum, old, new).to_be_bytes())
}

#[cfg(test)]
mod tests;

//! The short form of [`IpPacket`]: what stages behind classification need, in 24 bytes. Addresses stay
//! in the packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{array, u8_at};
use crate::checksum;
use crate::ip::{Family, Fragment, IPV4_HEADER_BYTES, IpError, IpPacket, Ports};
use crate::protocol;

/// [`Ports`] in one word, written and read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedPorts(u64);

impl PackedPorts {
    const OPAQUE: u64 = 1 << 32;
    const TYPE_CODE: u64 = 2 << 32;
    const PAIR: u64 = 3 << 32;

    /// The protocol has none.
    pub const NONE: Self = Self(0);

    /// Source and destination as they stand in the packet.
    #[inline(always)]
    const fn pair(both: u32) -> Self {
        Self(Self::PAIR | both as u64)
    }

    /// In one word.
    #[must_use]
    pub fn pack(ports: Ports) -> Self {
        match ports {
            Ports::None => Self::NONE,
            Ports::Opaque => Self(Self::OPAQUE),
            Ports::TypeCode(both) => Self(Self::TYPE_CODE | u64::from(both)),
            Ports::Pair {
                source,
                destination,
            } => Self::pair(u32::from(source) << 16 | u32::from(destination)),
        }
    }

    /// As they were.
    #[inline(always)]
    #[must_use]
    pub fn unpack(self) -> Ports {
        let [_, _, _, kind, s0, s1, d0, d1] = self.0.to_be_bytes();
        let (high, low) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        match kind {
            0 => Ports::None,
            1 => Ports::Opaque,
            2 => Ports::TypeCode(low),
            _ => Ports::Pair {
                source: high,
                destination: low,
            },
        }
    }

    /// Whether they are a source and a destination port.
    #[inline(always)]
    #[must_use]
    pub const fn are_a_pair(self) -> bool {
        self.0 >= Self::PAIR
    }

    /// All of it; of a pair the source is in the high, the destination in the low half of 32 bits.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }
}

/// What one pass over an IP packet found. Offsets and lengths are in bytes from the IP header's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Ports or ICMP type and code.
    pub ports: PackedPorts,
    /// Length of the packet by its own header; the slice may be longer.
    pub total_len: u16,
    /// Where the next layer's header starts; in a later fragment, its data.
    pub l4_offset: u16,
    /// IP version.
    pub family: Family,
    /// Next layer protocol, as in [`IpPacket::protocol`].
    pub protocol: u8,
    /// DSCP (6 bits) and ECN (2 bits).
    pub tos: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// Don't fragment; true for IPv6.
    pub df: bool,
}

impl Head {
    /// Reads a packet of either family by its version field.
    ///
    /// # Errors
    /// As [`IpPacket::parse`].
    pub fn parse(packet: &[u8]) -> Result<Self, IpError> {
        match Self::plain_v4(packet) {
            Some(head) => Ok(head),
            None => Self::of(&IpPacket::parse(packet)?),
        }
    }

    /// Reads any packet that the layer below says is of `family`. For most there is
    /// [`plain_v4`](Self::plain_v4).
    ///
    /// # Errors
    /// As [`IpPacket::parse_as`].
    #[cold]
    #[inline(never)]
    pub fn parse_as(family: Family, packet: &[u8]) -> Result<Self, IpError> {
        Self::of(&IpPacket::parse_as(family, packet)?)
    }

    /// The short form.
    ///
    /// # Errors
    /// [`IpError::TotalLength`] for a jumbo of more than 65,535 bytes with its header.
    pub fn of(ip: &IpPacket) -> Result<Self, IpError> {
        let short = |n: usize| u16::try_from(n).map_err(|_| IpError::TotalLength);
        Ok(Self {
            total_len: short(ip.total_len)?,
            l4_offset: short(ip.l4_offset)?,
            ports: PackedPorts::pack(ip.ports),
            family: ip.family,
            protocol: ip.protocol,
            tos: ip.tos,
            ttl: ip.ttl,
            fragment: ip.fragment,
            df: ip.df,
        })
    }

    /// A whole IPv4 packet without options, with a right checksum, TCP, UDP, ESP or AH; `None` for all
    /// else, bad or good.
    #[inline(always)]
    #[must_use]
    pub fn plain_v4(packet: &[u8]) -> Option<Self> {
        let start = packet.first_chunk::<24>()?;
        let (words, _) = start.as_chunks::<8>();
        // Fields are cut out of words: read byte by byte, the words would be put together from pieces.
        let [first, second, third] = words.first_chunk()?.map(u64::from_be_bytes);
        let total_len = right_v4(packet.len(), first, second, high32(third))?;
        let protocol = low8(second >> 48);
        let ports = plain_ports(protocol, total_len >= 24, low32(third))?;
        Some(Self {
            total_len,
            l4_offset: 20,
            ports,
            family: Family::V4,
            protocol,
            tos: low8(first >> 48),
            ttl: low8(second >> 56),
            fragment: Fragment::No,
            df: first & 0x4000 != 0,
        })
    }

    /// An IPv6 packet with TCP, UDP or ESP right behind its header; `None` for all else, bad or good.
    #[inline(always)]
    #[must_use]
    pub fn plain_v6(packet: &[u8]) -> Option<Self> {
        let start = packet.first_chunk::<44>()?;
        let first = u64::from_be_bytes(*start.first_chunk()?);
        let ports = u32::from_be_bytes(*start.last_chunk()?);
        let protocol = low8(first >> 8);
        let total_len = low16(first >> 16).checked_add(40)?;
        let fits = (44..=packet.len()).contains(&total_len.into());
        // AH is an extension header that something may follow.
        if first >> 60 != 6 || !fits || protocol == protocol::AH {
            return None;
        }
        Some(Self {
            total_len,
            l4_offset: 40,
            ports: plain_ports(protocol, true, ports)?,
            family: Family::V6,
            protocol,
            tos: low8(first >> 52),
            ttl: low8(first),
            fragment: Fragment::No,
            df: true,
        })
    }

    /// Length in bytes of a packet of which no more is to be known than that it is right: all that
    /// [`plain`](Self::plain) takes, and IPv4 with any protocol that is no fragment.
    #[inline(always)]
    #[must_use]
    pub fn whole(family: Family, packet: &[u8]) -> Option<u16> {
        match family {
            Family::V4 => whole_v4(packet),
            Family::V6 => Self::plain_v6(packet).map(|head| head.total_len),
        }
    }

    /// [`plain_v4`](Self::plain_v4) or [`plain_v6`](Self::plain_v6).
    #[inline(always)]
    #[must_use]
    pub fn plain(family: Family, packet: &[u8]) -> Option<Self> {
        match family {
            Family::V4 => Self::plain_v4(packet),
            Family::V6 => Self::plain_v6(packet),
        }
    }

    /// Length of the packet in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.total_len.into()
    }

    /// Never: a packet has a header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.total_len == 0
    }

    /// The upper layer's bytes of the packet this was read from, without trailing padding.
    #[must_use]
    pub fn l4<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        let range = usize::from(self.l4_offset)..usize::from(self.total_len);
        packet.get(range).unwrap_or_default()
    }
}

#[inline(always)]
fn whole_v4(packet: &[u8]) -> Option<u16> {
    let (words, last) = packet
        .first_chunk::<IPV4_HEADER_BYTES>()?
        .split_first_chunk::<16>()?;
    let (words, _) = words.as_chunks::<8>();
    let [first, second] = words.first_chunk()?.map(u64::from_be_bytes);
    let last = u32::from_be_bytes(*last.first_chunk()?);
    right_v4(packet.len(), first, second, last)
}

/// The length of an IPv4 packet with the first 20 bytes `first`, `second` and `third`, if it lies whole in
/// `len` bytes, has no options, is no fragment and its checksum is right.
#[inline(always)]
pub(crate) fn right_v4(len: usize, first: u64, second: u64, third: u32) -> Option<u16> {
    let total_len = low16(first >> 32);
    let fits = (IPV4_HEADER_BYTES..=len).contains(&usize::from(total_len));
    // Version and header length; more-fragments and offset, which have to be zero.
    let plain = first & 0xff00_0000_0000_3fff == 0x4500_0000_0000_0000;
    (plain && fits && checksum::is_right_v4(first, second, third)).then_some(total_len)
}

/// The ports of a whole packet of the usual protocols, if it is long enough to have some.
#[inline(always)]
const fn plain_ports(protocol: u8, long: bool, ports: u32) -> Option<PackedPorts> {
    match protocol {
        protocol::TCP | protocol::UDP if long => Some(PackedPorts::pair(ports)),
        protocol::ESP | protocol::AH => Some(PackedPorts::NONE),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
pub(crate) const fn low8(word: u64) -> u8 {
    word as u8
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
pub(crate) const fn low16(word: u64) -> u16 {
    word as u16
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
pub(crate) const fn low32(word: u64) -> u32 {
    word as u32
}

pub(crate) const fn high32(word: u64) -> u32 {
    low32(word >> 32)
}

/// Source and destination of an IPv4 packet; zeros if it is too short to have any.
#[inline(always)]
#[must_use]
pub fn addresses_v4(packet: &[u8]) -> (u32, u32) {
    let both = both_addresses_v4(packet);
    (high32(both), low32(both))
}

/// The same in one word, the source in its high half.
#[inline(always)]
#[must_use]
pub fn both_addresses_v4(packet: &[u8]) -> u64 {
    u64::from_be_bytes(array::<8>(packet, 12).unwrap_or_default())
}

/// Source and destination of an IPv6 packet; zeros if it is too short to have any.
#[inline]
#[must_use]
pub fn addresses_v6(packet: &[u8]) -> (u128, u128) {
    let at = |at| u128::from_be_bytes(array::<16>(packet, at).unwrap_or_default());
    (at(8), at(24))
}

/// Source and destination by the version field.
#[must_use]
pub fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if u8_at(packet, 0).is_some_and(|first| first >> 4 == 6) {
        let (source, destination) = addresses_v6(packet);
        let v6 = |bits| IpAddr::V6(Ipv6Addr::from_bits(bits));
        return (v6(source), v6(destination));
    }
    let (source, destination) = addresses_v4(packet);
    let v4 = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
    (v4(source), v4(destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Usual packets of both families, 64 bytes long.
    fn usual() -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for protocol in [protocol::TCP, protocol::UDP, protocol::ESP, protocol::AH] {
            let mut v4 = vec![0x45, 0xb9, 0, 64, 1, 2, 0x40, 0, 64, protocol, 0, 0];
            v4.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = checksum::internet(&v4);
            v4[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut v6 = vec![0x6b, 0x90, 0, 7, 0, 24, protocol, 64];
            v6.extend([0x20; 32]);
            for mut packet in [v4, v6] {
                packet.resize(64, 0x5a);
                packets.push(packet);
            }
        }
        packets
    }

    /// The short way says what the long one says, or nothing: of whole packets, cut ones, and ones with
    /// any byte of the headers changed.
    #[test]
    fn plain_packets_parse_as_any_do() {
        let (mut plain, mut all) = (0, 0);
        let mut compare = |packet: &[u8]| {
            for family in [Family::V4, Family::V6] {
                all += 1;
                if let Some(head) = Head::plain(family, packet) {
                    assert_eq!(Head::parse_as(family, packet), Ok(head), "{packet:x?}");
                    assert_eq!(Head::whole(family, packet), Some(head.total_len));
                    plain += 1;
                }
                if let Some(len) = Head::whole(family, packet) {
                    let parsed = Head::parse_as(family, packet).map(|head| head.total_len);
                    assert_eq!(parsed, Ok(len), "{packet:x?}");
                }
            }
        };
        for packet in usual() {
            for len in 0..=packet.len() {
                compare(&packet[..len]);
            }
            compare(&[&packet[..], &[0; 7]].concat());
            for at in 0..44 {
                for byte in 0..=u8::MAX {
                    let mut changed = packet.clone();
                    changed[at] = byte;
                    compare(&changed);
                    // A wrong checksum must not be all that keeps a fragment out.
                    if changed[0] == 0x45 {
                        changed[10..12].fill(0);
                        let sum = checksum::internet(&changed[..20]);
                        changed[10..12].copy_from_slice(&sum.to_be_bytes());
                        compare(&changed);
                    }
                }
            }
        }
        assert!(plain > all / 8 && plain < all * 3 / 4, "{plain} of {all}");
        for packet in usual() {
            let family = if packet[0] >> 4 == 4 {
                Family::V4
            } else {
                Family::V6
            };
            let ah_v6 = family == Family::V6 && packet[6] == protocol::AH;
            assert_eq!(Head::plain(family, &packet).is_none(), ah_v6);
        }
    }
}

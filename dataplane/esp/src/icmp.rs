//! ICMP errors that a gateway answers with: too big and time exceeded (RFC 792, 1191, 1812, 4443).

use core::fmt;
use std::net::IpAddr;

use crate::bytes::{put, u8_at};
use crate::checksum;
use crate::ip::{Family, Fragment, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpPacket};
use crate::protocol;

/// Longest ICMPv4 error in bytes (RFC 1812 4.3.2.3).
pub const MAX_V4_BYTES: usize = 576;
/// Longest ICMPv6 error in bytes: the minimum MTU (RFC 4443 2.4 c).
pub const MAX_V6_BYTES: usize = 1280;
/// Smallest IPv4 MTU in bytes (RFC 1191 3).
pub const MIN_V4_MTU: u32 = 68;
/// Smallest IPv6 MTU in bytes (RFC 8200 5).
pub const MIN_V6_MTU: u32 = 1280;
/// Type, code, checksum and 4 more bytes, in both versions.
const ICMP_HEADER_BYTES: usize = 8;
const TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 4.3.2.5).
const TOS: u8 = 0xc0;

/// Why no error is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The packet is an ICMP error (or redirect) itself.
    IcmpError,
    /// It is a later fragment.
    Fragment,
    /// Its source is no single host.
    Source,
    /// It was sent to a group.
    Group,
    /// Our own address is of the other family.
    Family,
    /// The buffer is too small.
    Room,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IcmpError => "no ICMP error about an ICMP error",
            Self::Fragment => "no ICMP error about a later fragment",
            Self::Source => "source address cannot be answered",
            Self::Group => "no ICMP error about a packet to a group",
            Self::Family => "no address of that IP version to answer from",
            Self::Room => "buffer is too small for the ICMP error",
        })
    }
}

impl std::error::Error for NoAnswer {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    TooBig { mtu: u32 },
    TimeExceeded,
}

/// Writes "fragmentation needed" (ICMPv4 3/4) or "packet too big" (ICMPv6 2/0) about `offending`,
/// which `packet` was parsed from, sent from `source`. Returns the length of the IP packet in
/// `out`; [`MAX_V4_BYTES`] or [`MAX_V6_BYTES`] are always enough room.
///
/// `mtu` in bytes is raised to the family's minimum: below it hosts would not believe it (RFC 1191
/// 3, RFC 8201 4). Frames that came by link-layer broadcast must not be answered: the caller knows
/// them.
///
/// # Errors
/// [`NoAnswer`] where RFC 1122 3.2.2 or RFC 4443 2.4 e forbid an answer.
pub fn too_big(
    offending: &[u8],
    packet: &IpPacket,
    mtu: u32,
    source: IpAddr,
    out: &mut [u8],
) -> Result<usize, NoAnswer> {
    build(offending, packet, Kind::TooBig { mtu }, source, out)
}

/// Writes "time exceeded in transit" (ICMPv4 11/0, ICMPv6 3/0), otherwise like [`too_big`].
///
/// # Errors
/// [`NoAnswer`] where RFC 1122 3.2.2 or RFC 4443 2.4 e forbid an answer.
pub fn time_exceeded(
    offending: &[u8],
    packet: &IpPacket,
    source: IpAddr,
    out: &mut [u8],
) -> Result<usize, NoAnswer> {
    build(offending, packet, Kind::TimeExceeded, source, out)
}

fn build(
    offending: &[u8],
    packet: &IpPacket,
    kind: Kind,
    source: IpAddr,
    out: &mut [u8],
) -> Result<usize, NoAnswer> {
    may_answer(offending, packet, kind)?;
    if Family::of(source) != packet.family {
        return Err(NoAnswer::Family);
    }
    let whole = offending.get(..packet.total_len).ok_or(NoAnswer::Room)?;
    match packet.family {
        Family::V4 => build_v4(whole, packet, kind, source, out),
        Family::V6 => build_v6(whole, packet, kind, source, out),
    }
    .ok_or(NoAnswer::Room)
}

/// RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4 e.
fn may_answer(offending: &[u8], packet: &IpPacket, kind: Kind) -> Result<(), NoAnswer> {
    if packet.fragment == Fragment::NonFirst {
        return Err(NoAnswer::Fragment);
    }
    if !packet.source_is_unicast() {
        return Err(NoAnswer::Source);
    }
    // RFC 4443 2.4 e.3: too-big about multicast is allowed, path MTU discovery needs it.
    let group_allowed = packet.family == Family::V6 && kind != Kind::TimeExceeded;
    if packet.destination_is_group() && !group_allowed {
        return Err(NoAnswer::Group);
    }
    match (packet.protocol, u8_at(packet.l4(offending), 0)) {
        // An error type that cannot be seen may be one.
        (protocol::ICMP | protocol::ICMPV6, None) => Err(NoAnswer::IcmpError),
        // All but the queries and their answers: echo, timestamp, information, address mask,
        // router.
        (protocol::ICMP, Some(kind)) if !matches!(kind, 0 | 8..=10 | 13..=18) => {
            Err(NoAnswer::IcmpError)
        }
        // RFC 4443 2.1: types below 128 are errors; 137 is redirect (RFC 4443 2.4 e.2).
        (protocol::ICMPV6, Some(0..128 | 137)) => Err(NoAnswer::IcmpError),
        _ => Ok(()),
    }
}

fn build_v4(
    whole: &[u8],
    packet: &IpPacket,
    kind: Kind,
    source: IpAddr,
    out: &mut [u8],
) -> Option<usize> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, packet.source) else {
        return None;
    };
    let headers = IPV4_HEADER_BYTES + ICMP_HEADER_BYTES;
    let (total, quote) = quote(whole, headers, MAX_V4_BYTES)?;
    let out = out.get_mut(..total)?;
    let (header, icmp) = out.split_at_mut_checked(IPV4_HEADER_BYTES)?;
    put(header, 0, [0x45, TOS])?;
    put(header, 2, u16::try_from(total).ok()?.to_be_bytes())?;
    // Identification 0 with DF: an atomic datagram (RFC 6864 4.1).
    put(header, 4, [0, 0, 0x40, 0, TTL, protocol::ICMP, 0, 0])?;
    put(header, 12, source.octets())?;
    put(header, 16, destination.octets())?;
    let sum = checksum::internet(header);
    put(header, 10, sum.to_be_bytes())?;
    let (kind, code, mtu) = match kind {
        // RFC 1191 4: 16 bits unused, then the next-hop MTU.
        Kind::TooBig { mtu } => (3, 4, u16::try_from(mtu.max(MIN_V4_MTU)).unwrap_or(u16::MAX)),
        Kind::TimeExceeded => (11, 0, 0),
    };
    put(icmp, 0, [kind, code, 0, 0, 0, 0])?;
    put(icmp, 6, mtu.to_be_bytes())?;
    icmp.get_mut(ICMP_HEADER_BYTES..)?.copy_from_slice(quote);
    let sum = checksum::internet(icmp);
    put(icmp, 2, sum.to_be_bytes())?;
    Some(total)
}

fn build_v6(
    whole: &[u8],
    packet: &IpPacket,
    kind: Kind,
    source: IpAddr,
    out: &mut [u8],
) -> Option<usize> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, packet.source) else {
        return None;
    };
    let headers = IPV6_HEADER_BYTES + ICMP_HEADER_BYTES;
    let (total, quote) = quote(whole, headers, MAX_V6_BYTES)?;
    let out = out.get_mut(..total)?;
    let (header, icmp) = out.split_at_mut_checked(IPV6_HEADER_BYTES)?;
    let payload_len = u16::try_from(icmp.len()).ok()?;
    put(header, 0, [0x60, 0, 0, 0])?;
    put(header, 4, payload_len.to_be_bytes())?;
    put(header, 6, [protocol::ICMPV6, TTL])?;
    put(header, 8, source.octets())?;
    put(header, 24, destination.octets())?;
    let (kind, field) = match kind {
        Kind::TooBig { mtu } => (2, mtu.max(MIN_V6_MTU)),
        Kind::TimeExceeded => (3, 0),
    };
    put(icmp, 0, [kind, 0, 0, 0])?;
    put(icmp, 4, field.to_be_bytes())?;
    icmp.get_mut(ICMP_HEADER_BYTES..)?.copy_from_slice(quote);
    let pseudo = checksum::pseudo_v6(
        source,
        destination,
        u32::from(payload_len),
        protocol::ICMPV6,
    );
    let sum = pseudo.bytes(icmp).finish();
    put(icmp, 2, sum.to_be_bytes())?;
    Some(total)
}

/// As much of the offending packet as fits behind `headers` bytes into `max`, and the whole length.
fn quote(whole: &[u8], headers: usize, max: usize) -> Option<(usize, &[u8])> {
    let len = whole.len().min(max.checked_sub(headers)?);
    Some((headers.checked_add(len)?, whole.get(..len)?))
}

#[cfg(test)]
mod tests;

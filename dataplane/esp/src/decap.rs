//! Decapsulation: from an outer packet to what crypto opens, and from there to the inner packet
//! (RFC 4303 3.4, RFC 3948, RFC 4301 5.2, RFC 6040 4.2).

use core::fmt;
use core::ops::Range;
use std::net::Ipv6Addr;

use crate::bytes::{array, u16_at, u32_at};
use crate::head::{self, Head};
use crate::ip::{self, Family, Fragment, IpError};
use crate::{
    ALIGNMENT_BYTES, ESP_HEADER_BYTES, IV_BYTES, NAT_PORT, Protected, TRAILER_BYTES,
    UDP_HEADER_BYTES, aad, checksum, protocol,
};

/// Length of the marker in front of IKE messages on port 4500, in bytes (RFC 3948 2.2).
pub const NON_ESP_MARKER_BYTES: usize = 4;
const KEEPALIVE: u8 = 0xff;
const ECN_MASK: u8 = 0b11;

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecapError {
    /// A fragment: ESP and UDP are only looked at in whole packets (RFC 4303 3.4.1).
    Fragment,
    /// The UDP length field disagrees with the packet.
    UdpLength,
    /// UDP over IPv6 with a wrong checksum or none (RFC 8200 8.1).
    UdpChecksum,
    /// Too short for header, IV, trailer and ICV.
    Short,
    /// SPI 0 is never on the wire (RFC 4303 2.1).
    Spi,
    /// The ciphertext does not end on a 4-byte boundary (RFC 4303 2.4).
    Alignment,
    /// Pad length beyond the payload, or padding that is not 1, 2, 3, .. (RFC 4303 2.4).
    Padding,
    /// A next header other than 4, 41 and 59 (RFC 4303 2.6).
    NextHeader(u8),
    /// The inner packet is broken.
    Inner(IpError),
    /// CE outside, Not-ECT inside: RFC 6040 4.2 says drop.
    Ecn,
}

impl fmt::Display for DecapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fragment => f.write_str("fragment"),
            Self::UdpLength => f.write_str("UDP length disagrees with the packet"),
            Self::UdpChecksum => f.write_str("bad UDP checksum over IPv6"),
            Self::Short => f.write_str("too short for ESP"),
            Self::Spi => f.write_str("SPI 0"),
            Self::Alignment => f.write_str("ESP ciphertext is not aligned to 4 bytes"),
            Self::Padding => f.write_str("bad ESP padding"),
            Self::NextHeader(n) => write!(f, "next header {n} in an ESP tunnel"),
            Self::Inner(error) => write!(f, "inner packet: {error}"),
            Self::Ecn => f.write_str("congestion mark on a packet that knows no ECN"),
        }
    }
}

impl std::error::Error for DecapError {}

/// What a datagram on port 4500 is (RFC 3948 2). Ranges are in bytes of the outer packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InUdp {
    /// An ESP packet.
    Esp(Range<usize>),
    /// An IKE message, without its marker.
    Ike(Range<usize>),
    /// A NAT keepalive: to be dropped silently.
    Keepalive,
}

/// The outer packet of usual ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsualEsp {
    /// Of IPv4 the source in the high, the destination in the low half.
    pub addresses: u64,
    /// DSCP and ECN.
    pub tos: u8,
    /// UDP source port, if it is in UDP.
    pub udp_source: Option<u16>,
    /// Where ESP stands in the packet, in bytes.
    pub range: (u16, u16),
    /// SPI in the high half, sequence number in the low half.
    pub front: u64,
}

/// Reads a whole IPv4 packet without options, no fragment, with a right checksum, of ESP or of ESP in
/// UDP (RFC 3948) that is long enough for header and IV. `None` for all else, bad or good.
#[inline(always)]
#[must_use]
pub fn usual_esp_v4(packet: &[u8]) -> Option<UsualEsp> {
    const PLAIN: u16 = 20;
    const IN_UDP: u16 = 28;
    const HEADERS: u16 = 16;
    let start = packet.first_chunk::<36>()?;
    let word = |at| array(start, at).map(u64::from_be_bytes);
    let (first, second, third) = (word(0)?, word(8)?, word(16)?);
    let total_len = head::right_v4(packet.len(), first, second, head::high32(third))?;
    let usual = |udp_source, range, front| UsualEsp {
        addresses: second << 32 | third >> 32,
        tos: head::low8(first >> 48),
        udp_source,
        range,
        front,
    };
    match head::low8(second >> 48) {
        protocol::ESP if total_len >= PLAIN + HEADERS => {
            Some(usual(None, (PLAIN, total_len), word(PLAIN.into())?))
        }
        protocol::UDP => {
            let (ports, udp) = (head::low32(third), word(24)?);
            let end = head::low16(udp >> 48).checked_add(PLAIN)?;
            let front = word(IN_UDP.into())?;
            // RFC 3948 2.1: over IPv4 the checksum is not looked at. 2.2: IKE begins with zeros.
            let esp = head::low16(ports.into()) == NAT_PORT && front >> 32 != 0;
            let fits = (IN_UDP + HEADERS..=total_len).contains(&end);
            let source = head::low16(u64::from(ports) >> 16);
            (esp && fits).then(|| usual(Some(source), (IN_UDP, end), front))
        }
        _ => None,
    }
}

/// Reads a whole IPv6 packet with ESP right behind its header that is long enough for header and IV.
/// `None` for all else, bad or good: in UDP there is a checksum to be looked at.
#[inline(always)]
#[must_use]
pub fn usual_esp_v6(packet: &[u8]) -> Option<UsualEsp> {
    const HEADER: u16 = 40;
    let start = packet.first_chunk::<56>()?;
    let first = u64::from_be_bytes(array(start, 0)?);
    let total_len = head::low16(first >> 16).checked_add(HEADER)?;
    let fits = (start.len()..=packet.len()).contains(&total_len.into());
    if first >> 60 != 6 || head::low8(first >> 8) != protocol::ESP || !fits {
        return None;
    }
    Some(UsualEsp {
        addresses: 0,
        tos: head::low8(first >> 52),
        udp_source: None,
        range: (HEADER, total_len),
        front: u64::from_be_bytes(array(start, HEADER.into())?),
    })
}

/// Where ESP stands in an outer packet with protocol 50.
///
/// # Errors
/// [`DecapError::Fragment`]
pub fn esp_plain(outer: &Head) -> Result<Range<usize>, DecapError> {
    match outer.fragment {
        Fragment::No => Ok(usize::from(outer.l4_offset)..outer.len()),
        Fragment::First | Fragment::NonFirst => Err(DecapError::Fragment),
    }
}

/// What an outer UDP packet, parsed from `packet`, carries on port 4500. Ports are not looked at.
///
/// # Errors
/// [`DecapError`]: fragment, bad UDP length, bad checksum over IPv6, too short for any of the
/// three.
#[inline(always)]
pub fn esp_in_udp(outer: &Head, packet: &[u8]) -> Result<InUdp, DecapError> {
    let l4 = esp_plain(outer)?;
    let start = l4.start.saturating_add(UDP_HEADER_BYTES);
    // The UDP header, and SPI or marker.
    let datagram = packet.get(l4.clone()).unwrap_or_default();
    if let Some(&[_, _, _, _, l0, l1, _, _, ref spi @ ..]) = datagram.first_chunk::<12>()
        && outer.family == Family::V4
        && *spi != [0; NON_ESP_MARKER_BYTES]
    {
        // RFC 3948 2.1: over IPv4 the checksum is not looked at.
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if (UDP_HEADER_BYTES + NON_ESP_MARKER_BYTES..=datagram.len()).contains(&length) {
            return Ok(InUdp::Esp(start..l4.start.saturating_add(length)));
        }
    }
    any_in_udp(outer, packet, l4)
}

#[inline(never)]
fn any_in_udp(outer: &Head, packet: &[u8], l4: Range<usize>) -> Result<InUdp, DecapError> {
    let rest = packet.get(l4.clone()).ok_or(DecapError::UdpLength)?;
    let length = usize::from(u16_at(rest, 4).ok_or(DecapError::UdpLength)?);
    let datagram = rest.get(..length).ok_or(DecapError::UdpLength)?;
    let payload = datagram
        .get(UDP_HEADER_BYTES..)
        .ok_or(DecapError::UdpLength)?;
    if outer.family == Family::V6 {
        let (source, destination) = head::addresses_v6(packet);
        let (source, destination) = (
            Ipv6Addr::from_bits(source),
            Ipv6Addr::from_bits(destination),
        );
        let sent = u16_at(datagram, 6).unwrap_or(0);
        if sent == 0 || checksum::udp_v6(source, destination, datagram) != 0xffff {
            return Err(DecapError::UdpChecksum);
        }
    }
    let start = l4.start.saturating_add(UDP_HEADER_BYTES);
    let end = l4.start.saturating_add(length);
    match (payload, u32_at(payload, 0)) {
        ([KEEPALIVE], _) => Ok(InUdp::Keepalive),
        (_, None) => Err(DecapError::Short),
        (_, Some(0)) => Ok(InUdp::Ike(start.saturating_add(NON_ESP_MARKER_BYTES)..end)),
        (_, Some(_)) => Ok(InUdp::Esp(start..end)),
    }
}

/// The clear part of an ESP packet with AES-GCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspHeader {
    /// Security parameters index.
    pub spi: u32,
    /// Sequence number, or its low half if it is extended.
    pub sequence: u32,
    /// Explicit IV.
    pub iv: [u8; IV_BYTES],
}

impl EspHeader {
    /// Reads the header; nothing in it is authentic yet.
    ///
    /// # Errors
    /// [`DecapError::Short`], [`DecapError::Spi`]
    #[inline(always)]
    pub fn parse(esp: &[u8]) -> Result<Self, DecapError> {
        let spi = u32_at(esp, 0).ok_or(DecapError::Short)?;
        let sequence = u32_at(esp, 4).ok_or(DecapError::Short)?;
        let iv = array(esp, ESP_HEADER_BYTES).ok_or(DecapError::Short)?;
        if spi == 0 {
            return Err(DecapError::Spi);
        }
        Ok(Self { spi, sequence, iv })
    }

    /// What to open: `esp` is the range of the ESP packet, `sequence` its full number
    /// ([`crate::replay::Window::infer`] with ESN).
    ///
    /// # Errors
    /// [`DecapError::Short`], [`DecapError::Alignment`]
    pub fn sealed(
        &self,
        esp: Range<usize>,
        icv_len: usize,
        sequence: u64,
        esn: bool,
    ) -> Result<Protected, DecapError> {
        Ok(Protected {
            data: sealed(esp, icv_len)?,
            iv: self.iv,
            aad: aad(self.spi, sequence, esn),
        })
    }
}

/// Where ciphertext and ICV stand in an ESP packet.
///
/// # Errors
/// [`DecapError::Short`], [`DecapError::Alignment`]
#[inline(always)]
pub fn sealed(esp: Range<usize>, icv_len: usize) -> Result<Range<usize>, DecapError> {
    let start = esp.start.saturating_add(ESP_HEADER_BYTES + IV_BYTES);
    let sealed_len = esp.end.checked_sub(start).ok_or(DecapError::Short)?;
    let plain_len = sealed_len.checked_sub(icv_len).ok_or(DecapError::Short)?;
    if plain_len < ALIGNMENT_BYTES {
        return Err(DecapError::Short);
    }
    if plain_len & (ALIGNMENT_BYTES - 1) != 0 {
        return Err(DecapError::Alignment);
    }
    Ok(start..esp.end)
}

/// What an opened ESP packet held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// A packet, at the start of the plaintext and `total_len` bytes long.
    Packet(Head),
    /// A dummy packet (RFC 4303 2.6): to be dropped silently.
    Dummy,
}

/// What the trailer of an opened ESP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// A packet of this family lies in so many bytes at the start of the plaintext.
    Packet(Family, usize),
    /// A dummy packet (RFC 4303 2.6): to be dropped silently.
    Dummy,
}

/// Reads the trailer of `plaintext`, which is what was opened, without the ICV.
///
/// # Errors
/// [`DecapError::Padding`], [`DecapError::NextHeader`]
#[inline(always)]
pub fn trailer(plaintext: &[u8]) -> Result<Trailer, DecapError> {
    if let Some((family, payload_len)) = short_trailer(plaintext) {
        return Ok(Trailer::Packet(family, payload_len));
    }
    any_trailer(plaintext)
}

/// The usual trailer: a packet, and few bytes of right padding, all in the last word.
#[inline(always)]
fn short_trailer(plaintext: &[u8]) -> Option<(Family, usize)> {
    /// Padding (RFC 4303 2.4), the first byte lowest.
    const PADDING: u64 = 0x06_05_04_03_02_01;
    const NEXT_IPV4: u64 = protocol::IPV4 as u64;
    const NEXT_IPV6: u64 = protocol::IPV6 as u64;
    let last = u64::from_le_bytes(*plaintext.last_chunk::<8>()?);
    // Cut out of the word: read by themselves, the rest would be put together from pieces.
    let (pad_len, next_header) = (last >> 48 & 0xff, last >> 56);
    let family = match next_header {
        NEXT_IPV4 => Family::V4,
        NEXT_IPV6 => Family::V6,
        _ => return None,
    };
    let pad_bits = pad_len.wrapping_mul(8);
    let behind = 48_u64.checked_sub(pad_bits)?;
    let mask = (1_u64 << (pad_bits & 63)).wrapping_sub(1);
    if ((last >> (behind & 63)) ^ PADDING) & mask != 0 {
        return None;
    }
    let trailer_len = usize::try_from(pad_len).ok()?.wrapping_add(TRAILER_BYTES);
    Some((family, plaintext.len().checked_sub(trailer_len)?))
}

#[cold]
#[inline(never)]
fn any_trailer(plaintext: &[u8]) -> Result<Trailer, DecapError> {
    let (body, [pad_len, next_header]) = plaintext
        .split_last_chunk::<TRAILER_BYTES>()
        .ok_or(DecapError::Padding)?;
    let payload_len = body
        .len()
        .checked_sub(usize::from(*pad_len))
        .ok_or(DecapError::Padding)?;
    let family = match *next_header {
        protocol::IPV4 => Family::V4,
        protocol::IPV6 => Family::V6,
        protocol::NO_NEXT_HEADER => return Ok(Trailer::Dummy),
        other => return Err(DecapError::NextHeader(other)),
    };
    let padding = body.get(payload_len..).ok_or(DecapError::Padding)?;
    if !is_padding(padding) {
        return Err(DecapError::Padding);
    }
    Ok(Trailer::Packet(family, payload_len))
}

/// Reads trailer and inner packet of `plaintext`, which is what was opened, without the ICV.
///
/// The inner packet may be shorter than the payload: the rest is TFC padding (RFC 4303 2.7).
///
/// # Errors
/// [`DecapError::Padding`], [`DecapError::NextHeader`], [`DecapError::Inner`]
pub fn inner(plaintext: &[u8]) -> Result<Inner, DecapError> {
    let Trailer::Packet(family, payload_len) = trailer(plaintext)? else {
        return Ok(Inner::Dummy);
    };
    let payload = plaintext.get(..payload_len).unwrap_or_default();
    let plain = Head::plain(family, payload);
    let head = plain.map_or_else(|| Head::parse_as(family, payload), Ok);
    head.map(Inner::Packet).map_err(DecapError::Inner)
}

/// RFC 4303 2.4: 1, 2, 3, .. as far as there is padding.
fn is_padding(padding: &[u8]) -> bool {
    padding.iter().zip(1..=u8::MAX).all(|(is, due)| *is == due)
}

/// Carries DSCP and ECN of the outer header over to the inner packet, and corrects its checksum.
///
/// Without `copy_dscp` the inner DSCP stays (RFC 4301 5.1.2.1 note 5); without `copy_ecn` the outer
/// ECN is ignored. `inner` was parsed from `packet`; its `tos` follows.
///
/// # Errors
/// [`DecapError::Ecn`] for a packet that RFC 6040 has us drop.
#[inline(always)]
pub fn apply_outer_tos(
    packet: &mut [u8],
    inner: &mut Head,
    outer_tos: u8,
    copy_dscp: bool,
    copy_ecn: bool,
) -> Result<(), DecapError> {
    let dscp = if copy_dscp {
        outer_tos & !ECN_MASK
    } else {
        inner.tos & !ECN_MASK
    };
    let ecn = if copy_ecn {
        ecn(inner.tos, outer_tos)?
    } else {
        inner.tos & ECN_MASK
    };
    let tos = dscp | ecn;
    if tos != inner.tos {
        ip::set_tos(packet, tos).ok_or(DecapError::Inner(IpError::Short))?;
        inner.tos = tos;
    }
    Ok(())
}

/// RFC 6040 4.2, figure 4: the ECN field that goes on, from that of inner and outer header.
const fn ecn(inner_tos: u8, outer_tos: u8) -> Result<u8, DecapError> {
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;
    const CE: u8 = 0b11;
    match (inner_tos & ECN_MASK, outer_tos & ECN_MASK) {
        (NOT_ECT, CE) => Err(DecapError::Ecn),
        (NOT_ECT, _) => Ok(NOT_ECT),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (ECT_0 | ECT_1, CE) => Ok(CE),
        (inner, _) => Ok(inner),
    }
}

#[cfg(test)]
mod tests;

//! Encapsulation: sizes, outer headers, ESP header, trailer (RFC 4303 2, RFC 4301 5.1.2, RFC 3948).
//!
//! ```text
//! | outer IP 20 or 40 | UDP 0 or 8 | SPI, sequence 8 | IV 8 | inner packet | pad 0..3 | 2 | ICV |
//! |<------------------- prepend ----------------------->|              |<---- append ---->|
//! |                   cleartext                         |<-------- sealed in place -------->|
//! ```

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{array, put};
use crate::head::Head;
use crate::ip::{Family, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};
use crate::{
    ALIGNMENT_BYTES, ESP_HEADER_BYTES, IV_BYTES, Protected, TRAILER_BYTES, UDP_HEADER_BYTES, aad,
    checksum, protocol,
};

/// TTL or hop limit of the outer header (RFC 4301 5.1.2.1 note 2: not copied).
pub const OUTER_TTL: u8 = 64;
/// Longest outer header: IPv6 and UDP, in bytes.
const MAX_HEADER_BYTES: usize = IPV6_HEADER_BYTES + UDP_HEADER_BYTES;
pub(crate) const ECN_MASK: u8 = 0b11;
pub(crate) const DF_FLAG: u16 = 0x4000;

/// DF of an outer IPv4 header (RFC 4301 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Df {
    /// That of the inner packet; an inner IPv6 packet counts as "don't fragment".
    Copy,
    /// Always set.
    Set,
    /// Never set.
    Clear,
}

/// DSCP of the outer header (RFC 4301 5.1.2.1 note 5, RFC 2983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// That of the inner packet.
    Copy,
    /// Always this one, 0..=63.
    Fixed(u8),
}

/// Describes a tunnel's outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Our address.
    pub local: IpAddr,
    /// The peer's, of the same family.
    pub remote: IpAddr,
    /// Source and destination port of UDP encapsulation (RFC 3948); none for plain ESP.
    pub udp_ports: Option<(u16, u16)>,
    /// Length of the ICV in bytes.
    pub icv_len: usize,
    /// DF of an outer IPv4 header.
    pub df: Df,
    /// DSCP of the outer header.
    pub dscp: Dscp,
    /// Copy ECN to the outer header (RFC 6040 4.1 normal mode), or leave it 0.
    pub copy_ecn: bool,
}

/// Why a tunnel cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelError {
    /// Local and remote address are of different families.
    Family,
    /// A DSCP above 63.
    Dscp(u8),
    /// An ICV of other than 8, 12 or 16 bytes.
    IcvLength(usize),
}

impl fmt::Display for TunnelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family => f.write_str("tunnel addresses are of different IP versions"),
            Self::Dscp(dscp) => write!(f, "DSCP {dscp}: use 0 to 63"),
            Self::IcvLength(n) => write!(f, "ICV of {n} bytes: use 8, 12 or 16"),
        }
    }
}

impl std::error::Error for TunnelError {}

/// Why a packet was not encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncapError {
    /// The frame is not [`Sizes`] larger than the inner packet.
    Length,
    /// The outer packet would be longer than IP can say.
    TooLong,
    /// The sequence number is 0, or needs more than 32 bits without ESN (RFC 4303 3.3.3).
    Sequence,
}

impl fmt::Display for EncapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "frame has not the room that encapsulation needs",
            Self::TooLong => "encapsulated packet is longer than an IP packet can be",
            Self::Sequence => "sequence numbers of this SA are used up",
        })
    }
}

impl std::error::Error for EncapError {}

/// How many bytes to put around an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// In front of it.
    pub prepend: usize,
    /// Behind it.
    pub append: usize,
}

/// The prebuilt outer header of one outbound SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub(crate) header: [u8; MAX_HEADER_BYTES],
    /// One's complement sum of the header's constant 16-bit words, IPv4 only.
    pub(crate) sum: u32,
    pub(crate) family: Family,
    pub(crate) udp: bool,
    pub(crate) icv_len: u8,
    pub(crate) df: Df,
    pub(crate) dscp: Dscp,
    pub(crate) copy_ecn: bool,
}

// One cache line: every outbound packet reads it.
const _: () = assert!(size_of::<Tunnel>() <= 64);

impl Tunnel {
    /// Prebuilds the outer header.
    ///
    /// # Errors
    /// [`TunnelError`] names the field that is wrong.
    pub fn new(config: &TunnelConfig) -> Result<Self, TunnelError> {
        if let Dscp::Fixed(dscp @ 64..) = config.dscp {
            return Err(TunnelError::Dscp(dscp));
        }
        let icv_len = match config.icv_len {
            8 => 8,
            12 => 12,
            16 => 16,
            other => return Err(TunnelError::IcvLength(other)),
        };
        let udp = config.udp_ports.is_some();
        let mut header = match (config.local, config.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => header_v4(local, remote, udp),
            (IpAddr::V6(local), IpAddr::V6(remote)) => header_v6(local, remote, udp),
            _ => return Err(TunnelError::Family),
        };
        let family = Family::of(config.local);
        if let Some((source, destination)) = config.udp_ports {
            let at = ip_header_len(family);
            // Both fit: MAX_HEADER_BYTES counts the UDP header.
            let _ = put(&mut header, at, source.to_be_bytes());
            let _ = put(&mut header, at.saturating_add(2), destination.to_be_bytes());
        }
        let (df, dscp, copy_ecn) = (config.df, config.dscp, config.copy_ecn);
        let sum = header.first_chunk().map_or(0, constant_sum);
        Ok(Self {
            header,
            sum,
            family,
            udp,
            icv_len,
            df,
            dscp,
            copy_ecn,
        })
    }

    /// IP version of the outer header.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Length of the ICV in bytes.
    #[must_use]
    pub fn icv_len(&self) -> usize {
        usize::from(self.icv_len)
    }

    /// How many bytes to put around an inner packet of `inner_len` bytes.
    #[inline(always)]
    #[must_use]
    pub fn sizes(&self, inner_len: usize) -> Sizes {
        let trailer = pad_len(inner_len).saturating_add(TRAILER_BYTES);
        Sizes {
            prepend: self.prepend(),
            append: trailer.saturating_add(self.icv_len()),
        }
    }

    /// How many bytes longer the outer packet is.
    #[inline(always)]
    #[must_use]
    pub fn overhead(&self, inner_len: usize) -> usize {
        let sizes = self.sizes(inner_len);
        sizes.prepend.saturating_add(sizes.append)
    }

    /// The longest inner packet whose outer packet fits into `path_mtu` bytes; 0 if none does.
    #[must_use]
    pub fn inner_mtu(&self, path_mtu: usize) -> usize {
        let sealed = path_mtu
            .saturating_sub(self.prepend())
            .saturating_sub(self.icv_len());
        (sealed & !(ALIGNMENT_BYTES - 1)).saturating_sub(TRAILER_BYTES)
    }

    /// Writes all headers and the trailer around the inner packet, and says what to seal.
    ///
    /// `frame` is the whole outer packet: [`Sizes::prepend`] bytes of any content, the inner packet
    /// that `inner` was read from (cut to its length), [`Sizes::append`] bytes of any content. The
    /// IV is the 64-bit sequence number: unique per key as long as that is (RFC 4106 3.1). TTL of
    /// the inner packet is left alone: see [`crate::ip::decrement_ttl`].
    ///
    /// # Errors
    /// [`EncapError`]; then nothing has been written.
    #[inline(always)]
    pub fn write(
        &self,
        frame: &mut [u8],
        inner: &Head,
        spi: u32,
        sequence: u64,
        esn: bool,
    ) -> Result<Protected, EncapError> {
        let sizes = self.sizes(inner.len());
        let outer_len = inner.len().saturating_add(self.overhead(inner.len()));
        let outer_len_field = u16::try_from(outer_len).map_err(|_| EncapError::TooLong)?;
        if frame.len() != outer_len {
            return Err(EncapError::Length);
        }
        let limit = if esn { u64::MAX } else { u64::from(u32::MAX) };
        if !(1..=limit).contains(&sequence) {
            return Err(EncapError::Sequence);
        }
        let (headers, sealed) = frame
            .split_at_mut_checked(sizes.prepend)
            .ok_or(EncapError::Length)?;
        self.headers(headers, inner, spi, sequence, outer_len_field)
            .ok_or(EncapError::Length)?;
        let written = trailer(inner).and_then(|trailer| put(sealed, inner.len(), trailer));
        written.ok_or(EncapError::Length)?;
        Ok(Protected {
            data: sizes.prepend..outer_len,
            iv: sequence.to_be_bytes(),
            aad: aad(spi, sequence, esn),
        })
    }

    /// Completes the outer packet after sealing: the UDP checksum over IPv6, which covers the
    /// ciphertext (RFC 8200 8.1). Over IPv4 it stays zero (RFC 3948 2.1).
    #[inline]
    pub fn finish(&self, frame: &mut [u8]) {
        if self.udp && self.family == Family::V6 {
            // A frame shorter than its headers was never written by `write`.
            let _ = put_udp_v6_checksum(frame);
        }
    }

    /// Bytes in front of the inner packet: outer headers, ESP header and IV.
    #[inline(always)]
    #[must_use]
    pub fn prepend(&self) -> usize {
        self.header_len()
            .saturating_add(ESP_HEADER_BYTES + IV_BYTES)
    }

    #[inline(always)]
    fn header_len(&self) -> usize {
        let udp = if self.udp { UDP_HEADER_BYTES } else { 0 };
        ip_header_len(self.family).saturating_add(udp)
    }

    /// The first 8 bytes of the IPv4 header, and the checksum of all.
    #[inline(always)]
    fn variable_v4(&self, inner: &Head, spi: u32, sequence: u64, outer_len: u16) -> (u64, u16) {
        let df = match self.df {
            Df::Copy => inner.df,
            Df::Set => true,
            Df::Clear => false,
        };
        let flags = if df { DF_FLAG } else { 0 };
        let (tos, id) = (self.tos(inner.tos), id_v4(spi, sequence));
        let variable = u32::from(tos)
            .wrapping_add(u32::from(outer_len))
            .wrapping_add(u32::from(id))
            .wrapping_add(u32::from(flags));
        let first = 0x45_u64 << 56
            | u64::from(tos) << 48
            | u64::from(outer_len) << 32
            | u64::from(id) << 16
            | u64::from(flags);
        (first, checksum::fold(self.sum.wrapping_add(variable)))
    }

    fn headers(
        &self,
        headers: &mut [u8],
        inner: &Head,
        spi: u32,
        sequence: u64,
        outer_len: u16,
    ) -> Option<()> {
        let (outer, esp) = headers.split_at_mut_checked(self.header_len())?;
        outer.copy_from_slice(self.header.get(..outer.len())?);
        let payload_len = match self.family {
            Family::V4 => {
                self.fill_v4(outer, inner, spi, sequence, outer_len)?;
                outer_len.checked_sub(20)?
            }
            Family::V6 => {
                let payload_len = outer_len.checked_sub(40)?;
                self.fill_v6(outer, inner, spi, payload_len)?;
                payload_len
            }
        };
        if self.udp {
            let at = ip_header_len(self.family).saturating_add(4);
            put(outer, at, payload_len.to_be_bytes())?;
        }
        write_esp(esp, spi, sequence)
    }

    fn fill_v4(
        &self,
        outer: &mut [u8],
        inner: &Head,
        spi: u32,
        sequence: u64,
        outer_len: u16,
    ) -> Option<()> {
        let (first, sum) = self.variable_v4(inner, spi, sequence, outer_len);
        put(outer, 0, first.to_be_bytes())?;
        put(outer, 10, sum.to_be_bytes())
    }

    fn fill_v6(&self, outer: &mut [u8], inner: &Head, spi: u32, payload_len: u16) -> Option<()> {
        let tos = u32::from(self.tos(inner.tos));
        let first = (6 << 28) | (tos << 20) | flow_label(spi);
        put(outer, 0, first.to_be_bytes())?;
        put(outer, 4, payload_len.to_be_bytes())
    }

    /// DSCP by configuration, ECN copied (RFC 6040 4.1 normal mode) or 0.
    const fn tos(&self, inner_tos: u8) -> u8 {
        let dscp = match self.dscp {
            Dscp::Copy => inner_tos & !ECN_MASK,
            Dscp::Fixed(dscp) => dscp << 2,
        };
        if self.copy_ecn {
            dscp | (inner_tos & ECN_MASK)
        } else {
            dscp
        }
    }
}

const fn ip_header_len(family: Family) -> usize {
    match family {
        Family::V4 => IPV4_HEADER_BYTES,
        Family::V6 => IPV6_HEADER_BYTES,
    }
}

fn header_v4(local: Ipv4Addr, remote: Ipv4Addr, udp: bool) -> [u8; MAX_HEADER_BYTES] {
    let protocol = if udp { protocol::UDP } else { protocol::ESP };
    let mut header = [0; MAX_HEADER_BYTES];
    let fields = [0x45, 0, 0, 0, 0, 0, 0, 0, OUTER_TTL, protocol, 0, 0];
    let octets = fields
        .into_iter()
        .chain(local.octets())
        .chain(remote.octets());
    header
        .iter_mut()
        .zip(octets)
        .for_each(|(to, from)| *to = from);
    header
}

fn header_v6(local: Ipv6Addr, remote: Ipv6Addr, udp: bool) -> [u8; MAX_HEADER_BYTES] {
    let next_header = if udp { protocol::UDP } else { protocol::ESP };
    let mut header = [0; MAX_HEADER_BYTES];
    let fields = [0x60, 0, 0, 0, 0, 0, next_header, OUTER_TTL];
    let octets = fields
        .into_iter()
        .chain(local.octets())
        .chain(remote.octets());
    header
        .iter_mut()
        .zip(octets)
        .for_each(|(to, from)| *to = from);
    header
}

/// Padding that aligns inner packet, padding and the two bytes behind it (RFC 4303 2.4).
pub(crate) const fn pad_len(inner_len: usize) -> usize {
    inner_len.wrapping_add(TRAILER_BYTES).wrapping_neg() & (ALIGNMENT_BYTES - 1)
}

/// Padding 1, 2, 3, .. (RFC 4303 2.4) and its length, by length; the first byte lowest. The next
/// header follows, and what stands behind is overwritten by the ICV.
const TRAILERS: [u64; ALIGNMENT_BYTES] = [0x00, 0x01_01, 0x02_02_01, 0x03_03_02_01];

/// Padding, its length, next header. The ICV behind them has at least 8 bytes, so that 8 can be
/// written at once.
#[inline(always)]
pub(crate) fn trailer(inner: &Head) -> Option<[u8; 8]> {
    let next_header = match inner.family {
        Family::V4 => protocol::IPV4,
        Family::V6 => protocol::IPV6,
    };
    let pad_len = pad_len(inner.len());
    let behind = (pad_len as u64).wrapping_add(1).wrapping_mul(8);
    let trailer = TRAILERS.get(pad_len)? | u64::from(next_header) << (behind & 63);
    Some(trailer.to_le_bytes())
}

/// SPI, sequence number, and the IV, which is the whole sequence number (RFC 4303 2, RFC 4106 3.1).
#[inline(always)]
fn write_esp(esp: &mut [u8], spi: u32, sequence: u64) -> Option<()> {
    let (spi, sequence) = (u64::from(spi), sequence);
    let clear = (spi << 32) | (sequence & 0xffff_ffff);
    put(esp, 0, clear.to_be_bytes())?;
    put(esp, ESP_HEADER_BYTES, sequence.to_be_bytes())
}

/// The sum of a header whose variable fields and checksum are zero.
fn constant_sum(header: &[u8; IPV4_HEADER_BYTES]) -> u32 {
    let (words, _) = header.as_chunks::<2>();
    let words = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)));
    words.fold(0, u32::wrapping_add)
}

/// IPv4 identification: counts with the sequence number, so that fragments of packets of one SA do
/// not mix while the field lasts (RFC 6864 4.3), and starts elsewhere for each SPI.
fn id_v4(spi: u32, sequence: u64) -> u16 {
    let [.., y, z] = sequence.to_be_bytes();
    id_start(spi).wrapping_add(u16::from_be_bytes([y, z]))
}

/// Where an SA's identifications start.
#[inline(always)]
pub(crate) fn id_start(spi: u32) -> u16 {
    let [a, b, c, d] = spi.to_be_bytes();
    u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d])
}

/// 20-bit flow label (RFC 6437, RFC 6438 3), the same for all packets of an SA: a router spreads
/// SAs over its paths, keeps the order within one, and learns nothing of the flows inside.
const fn flow_label(spi: u32) -> u32 {
    spi.wrapping_mul(0x9e37_79b1) >> 12
}

fn put_udp_v6_checksum(frame: &mut [u8]) -> Option<()> {
    let source = Ipv6Addr::from(array::<16>(frame, 8)?);
    let destination = Ipv6Addr::from(array::<16>(frame, 24)?);
    let datagram = frame.get_mut(IPV6_HEADER_BYTES..)?;
    put(datagram, 6, [0, 0])?;
    let sum = checksum::udp_v6(source, destination, datagram);
    put(datagram, 6, sum.to_be_bytes())
}

#[cfg(test)]
mod tests;

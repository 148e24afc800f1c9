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
const ECN_MASK: u8 = 0b11;
const DF_FLAG: u16 = 0x4000;

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

/// What the outer headers are, which says how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    V4,
    V4Udp,
    V6,
    V6Udp,
}

/// Outer headers, ESP header and IV of each [`Shape`], in bytes.
const V4_BYTES: usize = IPV4_HEADER_BYTES + ESP_HEADER_BYTES + IV_BYTES;
const V4_UDP_BYTES: usize = V4_BYTES + UDP_HEADER_BYTES;
const V6_BYTES: usize = IPV6_HEADER_BYTES + ESP_HEADER_BYTES + IV_BYTES;
const V6_UDP_BYTES: usize = V6_BYTES + UDP_HEADER_BYTES;

/// The prebuilt outer header of one outbound SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tunnel {
    /// One's complement sum of the header's constant 16-bit words, IPv4 only.
    sum: u32,
    /// DF: what of the inner one counts, and what is always set.
    df_copied: u16,
    df_fixed: u16,
    /// Type of service: what of the inner one counts, and what is always set.
    tos_copied: u8,
    tos_fixed: u8,
    icv_len: u8,
    shape: Shape,
    header: [u8; MAX_HEADER_BYTES],
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
        let (df_copied, df_fixed) = match config.df {
            Df::Copy => (DF_FLAG, 0),
            Df::Set => (0, DF_FLAG),
            Df::Clear => (0, 0),
        };
        // DSCP by configuration, ECN copied (RFC 6040 4.1 normal mode) or 0.
        let (dscp_copied, tos_fixed) = match config.dscp {
            Dscp::Copy => (!ECN_MASK, 0),
            Dscp::Fixed(dscp) => (0, dscp << 2),
        };
        let ecn_copied = if config.copy_ecn { ECN_MASK } else { 0 };
        Ok(Self {
            sum: header.first_chunk().map_or(0, constant_sum),
            df_copied,
            df_fixed,
            tos_copied: dscp_copied | ecn_copied,
            tos_fixed,
            icv_len,
            shape: match (family, udp) {
                (Family::V4, false) => Shape::V4,
                (Family::V4, true) => Shape::V4Udp,
                (Family::V6, false) => Shape::V6,
                (Family::V6, true) => Shape::V6Udp,
            },
            header,
        })
    }

    /// IP version of the outer header.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.shape {
            Shape::V4 | Shape::V4Udp => Family::V4,
            Shape::V6 | Shape::V6Udp => Family::V6,
        }
    }

    /// Whether [`finish`](Self::finish) has something to do.
    #[inline(always)]
    #[must_use]
    pub const fn is_finished_later(&self) -> bool {
        matches!(self.shape, Shape::V6Udp)
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
        let trailer = pad_len(inner_len).wrapping_add(TRAILER_BYTES);
        Sizes {
            prepend: self.prepend(),
            append: trailer.wrapping_add(self.icv_len()),
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
        if outer_len > u16::MAX.into() {
            return Err(EncapError::TooLong);
        }
        if frame.len() != outer_len {
            return Err(EncapError::Length);
        }
        let limit = if esn { u64::MAX } else { u64::from(u32::MAX) };
        if !(1..=limit).contains(&sequence) {
            return Err(EncapError::Sequence);
        }
        self.enclose(frame, inner, spi, sequence)
            .ok_or(EncapError::Length)?;
        Ok(Protected {
            data: sizes.prepend..outer_len,
            iv: sequence.to_be_bytes(),
            aad: aad(spi, sequence, esn),
        })
    }

    /// As [`write`](Self::write), of a packet that is known to be as long as it has to be and a number
    /// that is one of the SA's. Gives what is to be sealed; `None`, with nothing of use written, if
    /// `outer` is shorter than its headers and the inner packet, or longer than IP can say.
    #[inline(always)]
    #[must_use]
    pub fn enclose<'f>(
        &self,
        outer: &'f mut [u8],
        inner: &Head,
        spi: u32,
        sequence: u64,
    ) -> Option<&'f mut [u8]> {
        match self.shape {
            Shape::V4 => self.enclose_as::<V4_BYTES>(outer, inner, spi, sequence),
            Shape::V4Udp => self.enclose_as::<V4_UDP_BYTES>(outer, inner, spi, sequence),
            Shape::V6 => self.enclose_as::<V6_BYTES>(outer, inner, spi, sequence),
            Shape::V6Udp => self.enclose_as::<V6_UDP_BYTES>(outer, inner, spi, sequence),
        }
    }

    /// Of the shape with `N` bytes of headers: whatever depends on that alone is settled when this is
    /// compiled, and all is written in words.
    #[inline(always)]
    fn enclose_as<'f, const N: usize>(
        &self,
        outer: &'f mut [u8],
        inner: &Head,
        spi: u32,
        sequence: u64,
    ) -> Option<&'f mut [u8]> {
        let v6 = N >= V6_BYTES;
        let outer_len = u16::try_from(outer.len()).ok()?;
        let (headers, sealed) = outer.split_first_chunk_mut::<N>()?;
        let at = N.wrapping_sub(ESP_HEADER_BYTES + IV_BYTES);
        let (ip, esp) = headers.split_at_mut_checked(at)?;
        ip.copy_from_slice(self.header.get(..at)?);
        let tos = u64::from(inner.tos & self.tos_copied | self.tos_fixed);
        let ip_len = if v6 {
            IPV6_HEADER_BYTES
        } else {
            IPV4_HEADER_BYTES
        };
        let payload_len = outer_len.wrapping_sub(if v6 { 40 } else { 20 });
        if v6 {
            let label = 6 << 28 | tos << 20 | u64::from(flow_label(spi));
            let [.., next_header, hop_limit] = *ip.first_chunk::<8>()?;
            let rest = u64::from(u16::from_be_bytes([next_header, hop_limit]));
            put(
                ip,
                0,
                (label << 32 | u64::from(payload_len) << 16 | rest).to_be_bytes(),
            )?;
        } else {
            let df = if inner.df { self.df_copied } else { 0 };
            let (flags, id) = (
                u64::from(df | self.df_fixed),
                u64::from(id_v4(spi, sequence)),
            );
            let first = 0x4500 << 48 | tos << 48 | u64::from(outer_len) << 32 | id << 16 | flags;
            // Four 16-bit words at most: it fits.
            let variable = tos
                .wrapping_add(u64::from(outer_len))
                .wrapping_add(id)
                .wrapping_add(flags);
            let sum = self.sum.wrapping_add(u32::try_from(variable).ok()?);
            put(ip, 0, first.to_be_bytes())?;
            put(ip, 10, checksum::fold(sum).to_be_bytes())?;
        }
        if at > ip_len {
            put(ip, ip_len.wrapping_add(4), payload_len.to_be_bytes())?;
        }
        write_esp(esp, spi, sequence)?;
        *sealed.get_mut(inner.len()..)?.first_chunk_mut()? = trailer(inner)?;
        Some(sealed)
    }

    /// Completes the outer packet after sealing: the UDP checksum over IPv6, which covers the
    /// ciphertext (RFC 8200 8.1). Over IPv4 it stays zero (RFC 3948 2.1).
    #[inline]
    pub fn finish(&self, frame: &mut [u8]) {
        if self.is_finished_later() {
            // A frame shorter than its headers was never written by `write`.
            let _ = put_udp_v6_checksum(frame);
        }
    }

    /// Bytes in front of the inner packet: outer headers, ESP header and IV.
    #[inline(always)]
    #[must_use]
    pub const fn prepend(&self) -> usize {
        match self.shape {
            Shape::V4 => V4_BYTES,
            Shape::V4Udp => V4_UDP_BYTES,
            Shape::V6 => V6_BYTES,
            Shape::V6Udp => V6_UDP_BYTES,
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
const fn pad_len(inner_len: usize) -> usize {
    inner_len.wrapping_add(TRAILER_BYTES).wrapping_neg() & (ALIGNMENT_BYTES - 1)
}

/// Padding 1, 2, 3, .. (RFC 4303 2.4) and its length, by length; the first byte lowest. The next
/// header follows, and what stands behind is overwritten by the ICV.
const TRAILERS: [u64; ALIGNMENT_BYTES] = [0x00, 0x01_01, 0x02_02_01, 0x03_03_02_01];

/// Padding, its length, next header. The ICV behind them has at least 8 bytes, so that 8 can be
/// written at once.
#[inline(always)]
fn trailer(inner: &Head) -> Option<[u8; 8]> {
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
fn id_start(spi: u32) -> u16 {
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

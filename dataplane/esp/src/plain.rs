//! The usual encapsulation, IPv4 outside without UDP, from words that are computed once for packets
//! of one SA that follow each other. Writes what [`Tunnel::write`] would.

use crate::encap::{DF_FLAG, Df, Dscp, ECN_MASK, Tunnel, id_start, pad_len, trailer};
use crate::head::Head;
use crate::ip::{Family, IPV4_HEADER_BYTES};
use crate::{ESP_HEADER_BYTES, IV_BYTES, TRAILER_BYTES, checksum};

/// IPv4 header, ESP header and IV, in bytes.
pub const HEADERS_BYTES: usize = IPV4_HEADER_BYTES + ESP_HEADER_BYTES + IV_BYTES;

/// The constant words of one SA's outer headers.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// TTL, protocol, room for the checksum, source address.
    middle: u64,
    /// Destination address and SPI.
    last: u64,
    /// Sum of the constant 16-bit words of the IPv4 header.
    sum: u32,
    /// Where the identification starts to count.
    id_start: u16,
    /// DF: what of the inner one counts, and what is always set.
    df_copied: u16,
    df_fixed: u16,
    /// Type of service: what of the inner one counts, and what is always set.
    tos_copied: u8,
    tos_fixed: u8,
    icv_len: u8,
}

impl Plain {
    /// The words of a tunnel; `None` if it is not of the usual kind.
    #[inline(always)]
    #[must_use]
    pub fn new(tunnel: &Tunnel, spi: u32) -> Option<Self> {
        if tunnel.family != Family::V4 || tunnel.udp {
            return None;
        }
        let header = tunnel.header.first_chunk::<IPV4_HEADER_BYTES>()?;
        let (middle, destination) = header.get(8..)?.split_first_chunk::<8>()?;
        let destination = u32::from_be_bytes(*destination.first_chunk()?);
        let (df_copied, df_fixed) = match tunnel.df {
            Df::Copy => (DF_FLAG, 0),
            Df::Set => (0, DF_FLAG),
            Df::Clear => (0, 0),
        };
        let (dscp_copied, tos_fixed) = match tunnel.dscp {
            Dscp::Copy => (!ECN_MASK, 0),
            Dscp::Fixed(dscp) => (0, dscp << 2),
        };
        let ecn_copied = if tunnel.copy_ecn { ECN_MASK } else { 0 };
        Some(Self {
            middle: u64::from_be_bytes(*middle),
            last: u64::from(destination) << 32 | u64::from(spi),
            sum: tunnel.sum,
            id_start: id_start(spi),
            df_copied,
            df_fixed,
            tos_copied: dscp_copied | ecn_copied,
            tos_fixed,
            icv_len: tunnel.icv_len,
        })
    }

    /// Bytes behind the headers: inner packet, padding, trailer and ICV.
    #[inline(always)]
    #[must_use]
    pub const fn sealed_len(&self, inner_len: usize) -> usize {
        inner_len
            .wrapping_add(pad_len(inner_len))
            .wrapping_add(TRAILER_BYTES)
            .wrapping_add(self.icv_len as usize)
    }

    /// Writes the headers in front of an inner packet, and the trailer behind it. `outer_len` is
    /// [`HEADERS_BYTES`] and [`sealed_len`](Self::sealed_len), `sealed` as long as the latter says.
    /// `None`, with nothing of use written, if it is shorter.
    #[inline(always)]
    pub fn write(
        &self,
        headers: &mut [u8; HEADERS_BYTES],
        sealed: &mut [u8],
        inner: &Head,
        sequence: u64,
        outer_len: u16,
    ) -> Option<()> {
        let [.., low_high, low_low] = sequence.to_be_bytes();
        let low = u16::from_be_bytes([low_high, low_low]);
        let id = u64::from(self.id_start.wrapping_add(low));
        let df = if inner.df { self.df_copied } else { 0 };
        let flags = u64::from(df | self.df_fixed);
        let tos = u64::from(inner.tos & self.tos_copied | self.tos_fixed);
        let variable = tos
            .wrapping_add(u64::from(outer_len))
            .wrapping_add(id)
            .wrapping_add(flags);
        // Four 16-bit words at most: it fits.
        let variable = u32::try_from(variable).ok()?;
        let sum = u64::from(checksum::fold(self.sum.wrapping_add(variable)));
        let first = 0x4500 << 48 | tos << 48 | u64::from(outer_len) << 32 | id << 16 | flags;
        let words = [
            first,
            self.middle | sum << 32,
            self.last,
            sequence.rotate_left(32),
        ];
        let (chunks, rest) = headers.as_chunks_mut::<8>();
        for (to, from) in chunks.iter_mut().zip(words) {
            *to = from.to_be_bytes();
        }
        let [.., s0, s1, s2, s3] = sequence.to_be_bytes();
        *rest.first_chunk_mut::<4>()? = [s0, s1, s2, s3];
        let behind = sealed.get_mut(inner.len()..)?;
        *behind.first_chunk_mut()? = trailer(inner)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::TunnelConfig;

    /// An inner IPv4 packet of this length and marks, with a right checksum.
    fn inner(len: u16, tos: u8, df: bool) -> Vec<u8> {
        let [l0, l1] = len.to_be_bytes();
        let mut packet = vec![
            0x45,
            tos,
            l0,
            l1,
            0,
            0,
            if df { 0x40 } else { 0 },
            0,
            64,
            17,
        ];
        packet.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::internet(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.resize(len.into(), 0xa5);
        packet
    }

    #[test]
    fn writes_what_the_tunnel_writes() {
        let mut compared = 0;
        for shape in 0..36_usize {
            let config = TunnelConfig {
                local: [192, 0, 2, 1].into(),
                remote: [198, 51, 100, 2].into(),
                udp_ports: None,
                icv_len: [8, 12, 16][shape % 3],
                df: [Df::Copy, Df::Set, Df::Clear][shape / 3 % 3],
                dscp: [Dscp::Copy, Dscp::Fixed(46)][shape / 9 % 2],
                copy_ecn: shape / 18 % 2 == 0,
            };
            let tunnel = Tunnel::new(&config).unwrap();
            for (n, len) in (28..80).chain([570, 1400, 1438]).enumerate() {
                let sequence = [1, 0xffff, 0x1_0000, u64::MAX][n % 4];
                let packet = inner(len, 0xb9, n % 2 == 0);
                let head = Head::parse(&packet).unwrap();
                let sizes = tunnel.sizes(packet.len());
                let room = [&vec![0; sizes.prepend], &packet[..], &vec![0; sizes.append]].concat();
                let (mut by_tunnel, mut by_plain) = (room.clone(), room);
                tunnel
                    .write(&mut by_tunnel, &head, 0x1234_5678, sequence, true)
                    .unwrap();
                let plain = Plain::new(&tunnel, 0x1234_5678).unwrap();
                let sealed_len = plain.sealed_len(packet.len());
                assert_eq!(HEADERS_BYTES + sealed_len, by_plain.len());
                let outer_len = u16::try_from(by_plain.len()).unwrap();
                let (headers, sealed) = by_plain.split_first_chunk_mut().unwrap();
                plain
                    .write(headers, sealed, &head, sequence, outer_len)
                    .unwrap();
                assert_eq!(
                    by_plain, by_tunnel,
                    "{config:?}, {len} bytes, number {sequence}"
                );
                compared += 1;
            }
        }
        assert_eq!(compared, 36 * 55);
    }

    #[test]
    fn other_tunnels_have_none() {
        let plain = TunnelConfig {
            local: [192, 0, 2, 1].into(),
            remote: [198, 51, 100, 2].into(),
            udp_ports: None,
            icv_len: 16,
            df: Df::Copy,
            dscp: Dscp::Copy,
            copy_ecn: true,
        };
        let udp = TunnelConfig {
            udp_ports: Some((4500, 4500)),
            ..plain
        };
        let six = TunnelConfig {
            local: "2001:db8::1".parse().unwrap(),
            remote: "2001:db8::2".parse().unwrap(),
            ..plain
        };
        for other in [udp, six] {
            assert!(Plain::new(&Tunnel::new(&other).unwrap(), 256).is_none());
        }
    }
}

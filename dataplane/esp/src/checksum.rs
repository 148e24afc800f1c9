//! The Internet checksum: full (RFC 1071), incremental (RFC 1624), and that of UDP over IPv6.

use std::net::Ipv6Addr;

use crate::protocol;

/// A one's complement sum under way. Everything added must start at an even offset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd tail is padded with zero, so only the last piece may be odd (RFC 1071
    /// 4.1).
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // 2^32 words of 32 bits fit in 64 bits; no slice of ours comes near.
        let (mut sum, mut rest) = (self.0, bytes);
        while let Some((word, after)) = rest.split_first_chunk() {
            sum = sum.wrapping_add(u64::from(u32::from_be_bytes(*word)));
            rest = after;
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum = sum.wrapping_add(u64::from(u32::from_be_bytes(last)));
        Self(sum)
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(word)))
    }

    /// Adds one 32-bit field.
    #[must_use]
    pub fn long(self, long: u32) -> Self {
        Self(self.0.wrapping_add(u64::from(long)))
    }

    /// The checksum: the complement of the folded sum.
    #[must_use]
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff).wrapping_add(sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(0)
    }
}

/// The checksum of `bytes`; zero if they contain a correct one (RFC 1071).
#[must_use]
pub fn internet(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

/// The complement of a sum of few 16-bit words, folded.
#[inline(always)]
#[must_use]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    let [_, _, high, low] = sum.to_be_bytes();
    !u16::from_be_bytes([high, low])
}

/// Whether the checksum of an IPv4 header without options is right: its words, first to last, in any
/// byte order (RFC 1071 2 B). The sum of 64-bit words with their carries is the one of 16-bit words
/// but for multiples of 0xffff, and only a header of zeros sums up to none.
#[inline(always)]
#[must_use]
pub const fn is_right_v4(first: u64, second: u64, third: u32) -> bool {
    let (sum, carry) = first.overflowing_add(second);
    // A sum that carried is below the largest.
    let sum = sum.wrapping_add(carry as u64);
    let (sum, carry) = sum.overflowing_add(third as u64);
    let sum = sum.wrapping_add(carry as u64);
    // A multiple of 0xffff, by its inverse modulo 2^64: one multiplication (Granlund and Montgomery,
    // "Division by invariant integers using multiplication", 9).
    sum.wrapping_mul(0xfffe_fffe_fffe_ffff) <= u64::MAX / 0xffff
}

/// The checksum after one 16-bit word changed from `old` to `new` (RFC 1624 3, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default().word(!checksum).word(!old).word(new).finish()
}

/// The sum over the IPv6 pseudo-header (RFC 8200 8.1). `length` is that of the upper layer, in
/// bytes.
#[must_use]
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, length: u32, next_header: u8) -> Sum {
    Sum::default()
        .bytes(&source.octets())
        .bytes(&destination.octets())
        .long(length)
        .word(u16::from(next_header))
}

/// The checksum field for a UDP datagram over IPv6 whose own field is zero (RFC 8200 8.1): never
/// zero.
///
/// Over a datagram with its checksum in place it is 0xffff exactly if that is right.
#[must_use]
pub fn udp_v6(source: Ipv6Addr, destination: Ipv6Addr, datagram: &[u8]) -> u16 {
    let length = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
    match pseudo_v6(source, destination, length, protocol::UDP)
        .bytes(datagram)
        .finish()
    {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By words against the definition: every checksum over a few headers.
    #[test]
    fn right_headers_are_told_by_words() {
        for seed in [0_u8, 1, 0x7f, 0xff] {
            let mut header: [u8; 20] = core::array::from_fn(|at| {
                seed.wrapping_mul(u8::try_from(at).unwrap())
                    .wrapping_add(seed)
            });
            header[0] = 0x45;
            for sum in 0..=u16::MAX {
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                let word = |at: usize| u64::from_be_bytes(*header[at..].first_chunk().unwrap());
                let last = u32::from_be_bytes(*header[16..].first_chunk().unwrap());
                let right = internet(&header) == 0;
                assert_eq!(is_right_v4(word(0), word(8), last), right, "{sum:x}");
            }
        }
    }

    /// RFC 1071 3: the example sums to ddf2.
    #[test]
    fn rfc_1071_example() {
        assert_eq!(
            internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    /// The header in RFC 1624's spirit, with the well-known value b861.
    #[test]
    fn ipv4_header() {
        let mut header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(internet(&header), 0xb861);
        header[10..12].copy_from_slice(&[0xb8, 0x61]);
        assert_eq!(internet(&header), 0);
    }

    #[test]
    fn an_odd_tail_is_padded() {
        for len in 0..9 {
            let bytes = [0xab; 9];
            let padded = [&bytes[..len], &[0; 9][..(4 - len % 4) % 4]].concat();
            assert_eq!(internet(&bytes[..len]), internet(&padded), "{len} bytes");
        }
        assert_eq!(internet(&[0x12]), !0x1200);
        assert_eq!(internet(&[0, 0, 0x12]), !0x1200);
    }

    /// RFC 1624 4: the example where RFC 1141's formula gives ffff instead of 0000.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn incremental_equals_full() {
        let mut bytes = [0x45, 0x11, 0x22, 0x33, 0xff, 0xff, 0x00, 0x00, 0x80, 0x01];
        for value in (0..=u16::MAX).step_by(257) {
            let old = u16::from_be_bytes([bytes[2], bytes[3]]);
            let before = internet(&bytes);
            bytes[2..4].copy_from_slice(&value.to_be_bytes());
            assert_eq!(update(before, old, value), internet(&bytes));
        }
    }

    #[test]
    fn udp_checksum_is_never_zero_and_checks_to_all_ones() {
        let (a, b) = (
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
        );
        for fill in 0..=u8::MAX {
            let mut datagram = [fill; 19];
            datagram[6..8].fill(0);
            let checksum = udp_v6(a, b, &datagram);
            assert_ne!(checksum, 0);
            datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(udp_v6(a, b, &datagram), 0xffff);
            datagram[18] ^= 1;
            assert_ne!(udp_v6(a, b, &datagram), 0xffff);
        }
        // The datagram whose sum is 0: its checksum is sent as ffff.
        let mut datagram = [0; 10];
        let checksum = udp_v6(a, b, &datagram);
        datagram[8..].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(udp_v6(a, b, &datagram), 0xffff);
    }
}

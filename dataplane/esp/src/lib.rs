//! ESP tunnel mode on bytes (RFC 4303): headers, encapsulation, replay windows. No I/O, no clock.
//!
//! Outbound: [`ip::IpPacket::parse`] the inner packet, take [`encap::Tunnel::sizes`], make room,
//! [`encap::Tunnel::write`] headers and trailer, seal what it says with `crypto`, then
//! [`encap::Tunnel::finish`]. Inbound: [`ip::IpPacket::parse`] the outer packet, find ESP in it
//! ([`decap::esp_in_udp`] behind UDP 4500), [`decap::EspHeader::parse`], [`replay::Window::infer`]
//! and [`replay::Window::check`], open [`decap::EspHeader::sealed`], [`replay::Window::commit`],
//! [`decap::inner`], [`decap::apply_outer_tos`].
//!
//! Offsets are relative to the slice that was passed in. No input panics: every access is checked.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod bytes;
pub mod checksum;
pub mod decap;
pub mod encap;
pub mod ether;
pub mod head;
pub mod icmp;
pub mod ip;
pub mod replay;

/// What the crypto of one packet works on: one [`crypto::Op`] without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Plaintext with room for the ICV, or ciphertext with the ICV, in bytes of the packet.
    pub data: core::ops::Range<usize>,
    /// Explicit IV as it stands in the packet.
    pub iv: [u8; IV_BYTES],
    /// SPI and sequence number, with its high half if extended numbers are in use.
    pub aad: crypto::Aad,
}

/// Length of SPI and sequence number in bytes (RFC 4303 2).
pub const ESP_HEADER_BYTES: usize = 8;
/// Length of the explicit IV of AES-GCM in bytes (RFC 4106 3.1).
pub const IV_BYTES: usize = 8;
/// SPI, sequence number and IV of AES-GCM: what precedes the ciphertext, in bytes.
pub const CLEAR_BYTES: usize = ESP_HEADER_BYTES + IV_BYTES;
/// Length of pad length and next header in bytes (RFC 4303 2).
pub const TRAILER_BYTES: usize = 2;
/// Ciphertext ends on a multiple of this many bytes (RFC 4303 2.4).
pub const ALIGNMENT_BYTES: usize = 4;
/// UDP port of IKE and of ESP in UDP (RFC 3948).
pub const NAT_PORT: u16 = 4500;
/// Length of a UDP header in bytes.
pub const UDP_HEADER_BYTES: usize = 8;

/// The additional data of RFC 4106 5 for one packet.
#[inline]
#[must_use]
pub fn aad(spi: u32, sequence: u64, esn: bool) -> crypto::Aad {
    if esn {
        return crypto::Aad::extended(spi, sequence);
    }
    let (_, low) = replay::halves(sequence);
    crypto::Aad::sequence(spi, low)
}

/// IANA protocol numbers this crate acts on.
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IGMP (RFC 3376).
    pub const IGMP: u8 = 2;
    /// IPv4 in a tunnel (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// IPv6 in a tunnel (RFC 2473).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header (RFC 8200 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 4.5).
    pub const FRAGMENT: u8 = 44;
    /// ESP (RFC 4303).
    pub const ESP: u8 = 50;
    /// AH (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Nothing follows; in ESP a dummy packet (RFC 4303 2.6).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options (RFC 8200 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// Mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
}

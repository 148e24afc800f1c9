//! What must hold for any bytes. Shared by the fuzz target and `tests/random.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use esp::checksum;
use esp::decap::{self, EspHeader, InUdp, Inner};
use esp::encap::{Df, Dscp, Tunnel, TunnelConfig};
use esp::ether::Ethernet;
use esp::head::{self, Head};
use esp::icmp;
use esp::ip::{self, Family, IpPacket};

/// Feeds `frame` to every parser: as an Ethernet frame, as an IP packet, as an opened ESP payload.
pub(crate) fn frame(frame: &[u8]) {
    if let Ok(header) = Ethernet::parse(frame) {
        assert!(header.payload_offset <= frame.len());
        packet(&frame[header.payload_offset..]);
    }
    packet(frame);
    plaintext(frame);
}

/// Once as it is, and once with a right IPv4 checksum, which random bytes hardly ever have.
fn packet(bytes: &[u8]) {
    parsed(bytes);
    let header_len = usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
    if bytes.len() >= header_len && header_len >= 20 && bytes[0] >> 4 == 4 {
        let mut fixed = bytes.to_vec();
        fixed[10..12].fill(0);
        let sum = checksum::internet(&fixed[..header_len]);
        fixed[10..12].copy_from_slice(&sum.to_be_bytes());
        parsed(&fixed);
    }
}

fn parsed(bytes: &[u8]) {
    let Ok(packet) = IpPacket::parse(bytes) else {
        return;
    };
    assert!(packet.header_len <= packet.l4_offset);
    assert!(packet.l4_offset <= packet.total_len && packet.total_len <= bytes.len());
    // The short form, by its own fast way, says the same.
    let short = Head::parse(bytes);
    assert_eq!(short, Head::of(&packet));
    assert_eq!(head::addresses(bytes), (packet.source, packet.destination));
    edited(bytes, &packet);
    answered(bytes, &packet);
    let Ok(packet) = short else { return };
    if let Ok(range) = decap::esp_plain(&packet) {
        esp_packet(&bytes[range.clone()], range);
    }
    if let Ok(InUdp::Esp(range) | InUdp::Ike(range)) = decap::esp_in_udp(&packet, bytes) {
        assert!(range.end <= packet.len());
        esp_packet(&bytes[range.clone()], range);
    }
    encapsulated(&bytes[..packet.len()], &packet);
}

/// Edits keep the packet a packet and change only what they say.
fn edited(bytes: &[u8], packet: &IpPacket) {
    let mut copy = bytes.to_vec();
    if let Some(ttl) = ip::decrement_ttl(&mut copy) {
        assert_eq!(IpPacket::parse(&copy), Ok(IpPacket { ttl, ..*packet }));
        assert_eq!(ttl, packet.ttl - 1);
    } else {
        assert!(packet.ttl <= 1);
    }
    let Ok(mut inner) = Head::of(packet) else {
        return;
    };
    let mut copy = bytes.to_vec();
    let outer_tos = packet.ttl;
    if decap::apply_outer_tos(&mut copy, &mut inner, outer_tos, true, true).is_ok() {
        assert_eq!(Head::parse(&copy), Ok(inner));
    }
}

/// An ICMP error is a packet that must not be answered with another one.
fn answered(bytes: &[u8], packet: &IpPacket) {
    let us = match packet.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    };
    let mut out = [0; icmp::MAX_V6_BYTES];
    let mut again = [0; icmp::MAX_V6_BYTES];
    for result in [
        icmp::time_exceeded(bytes, packet, us, &mut again),
        icmp::too_big(bytes, packet, 1400, us, &mut out),
    ] {
        let Ok(len) = result else { continue };
        assert!(len <= icmp::MAX_V6_BYTES);
    }
    if let Ok(len) = icmp::too_big(bytes, packet, 1400, us, &mut out) {
        let error = IpPacket::parse(&out[..len]);
        let Ok(error) = error else {
            panic!("bad ICMP error: {error:?}")
        };
        assert_eq!((error.total_len, error.destination), (len, packet.source));
        assert!(icmp::too_big(&out[..len], &error, 1400, us, &mut again).is_err());
    }
}

fn esp_packet(esp: &[u8], range: std::ops::Range<usize>) {
    let Ok(header) = EspHeader::parse(esp) else {
        return;
    };
    for icv_len in [8, 12, 16] {
        let sealed = header.sealed(range.clone(), icv_len, u64::from(header.sequence), false);
        let Ok(protected) = sealed else { continue };
        assert_eq!(protected.data.end, range.end);
        assert!(protected.data.start + icv_len + 4 <= range.end);
    }
}

fn plaintext(bytes: &[u8]) {
    if let Ok(Inner::Packet(inner)) = decap::inner(bytes) {
        assert!(inner.len() + 2 <= bytes.len());
    }
}

/// Without crypto in between, what goes into the tunnel comes out of it.
fn encapsulated(inner: &[u8], packet: &Head) {
    for v6 in [false, true] {
        let (local, remote): (IpAddr, IpAddr) = match v6 {
            false => (
                Ipv4Addr::new(192, 0, 2, 1).into(),
                Ipv4Addr::new(192, 0, 2, 2).into(),
            ),
            true => (
                Ipv6Addr::from(1_u128 << 100).into(),
                Ipv6Addr::from(2_u128 << 100).into(),
            ),
        };
        let config = TunnelConfig {
            local,
            remote,
            udp_ports: Some((4500, 4500)),
            icv_len: 16,
            df: Df::Copy,
            dscp: Dscp::Copy,
            copy_ecn: true,
        };
        let Ok(tunnel) = Tunnel::new(&config) else {
            panic!("tunnel refused")
        };
        let sizes = tunnel.sizes(inner.len());
        let mut frame = [&vec![0; sizes.prepend], inner, &vec![0; sizes.append]].concat();
        let written = tunnel.write(&mut frame, packet, 0x1000, 7, false);
        let Ok(protected) = written else {
            assert!(frame.len() > 65_535, "{written:?}");
            continue;
        };
        tunnel.finish(&mut frame);
        let outer = Head::parse(&frame);
        let Ok(outer) = outer else {
            panic!("outer: {outer:?}")
        };
        assert_eq!((outer.tos, outer.len()), (packet.tos, frame.len()));
        let found = decap::esp_in_udp(&outer, &frame);
        let Ok(InUdp::Esp(range)) = found else {
            panic!("ESP: {found:?}")
        };
        let header = EspHeader::parse(&frame[range.clone()]);
        let Ok(header) = header else {
            panic!("header: {header:?}")
        };
        assert_eq!(header.sealed(range, 16, 7, false), Ok(protected.clone()));
        let plain = &frame[protected.data.start..protected.data.end - 16];
        assert_eq!(decap::inner(plain), Ok(Inner::Packet(*packet)));
    }
}

use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const US_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const US_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe));
const HOST_V4: [u8; 4] = [10, 0, 0, 1];
const PEER_V4: [u8; 4] = [10, 0, 0, 2];

fn v4(protocol: u8, source: [u8; 4], destination: [u8; 4], flags: u16, l4: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let sum = checksum::internet(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(l4);
    packet
}

fn v6(next_header: u8, source: Ipv6Addr, destination: Ipv6Addr, l4: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(l4.len()).unwrap().to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(l4);
    packet
}

fn host_v6() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)
}

fn peer_v6() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)
}

fn answer_too_big(packet: &[u8], mtu: u32) -> Result<Vec<u8>, NoAnswer> {
    let parsed = IpPacket::parse(packet).unwrap();
    let us = if parsed.family == Family::V4 {
        US_V4
    } else {
        US_V6
    };
    let mut out = [0xee; MAX_V6_BYTES];
    too_big(packet, &parsed, mtu, us, &mut out).map(|len| out[..len].to_vec())
}

fn answer_time_exceeded(packet: &[u8]) -> Result<Vec<u8>, NoAnswer> {
    let parsed = IpPacket::parse(packet).unwrap();
    let us = if parsed.family == Family::V4 {
        US_V4
    } else {
        US_V6
    };
    let mut out = [0xee; MAX_V6_BYTES];
    time_exceeded(packet, &parsed, us, &mut out).map(|len| out[..len].to_vec())
}

/// RFC 1191 4 and RFC 1812 4.3.2.3: up to 576 bytes in all.
#[test]
fn v4_too_big() {
    for len in [0, 8, 527, 528, 529, 1480] {
        let packet = v4(17, HOST_V4, PEER_V4, 0x4000, &vec![0x5a; len]);
        let answer = answer_too_big(&packet, 1446).unwrap();
        let quoted = packet.len().min(548);
        assert_eq!(answer.len(), 28 + quoted);
        let parsed = IpPacket::parse(&answer).unwrap();
        assert_eq!(
            (parsed.source, parsed.destination),
            (US_V4, IpAddr::from(HOST_V4))
        );
        assert_eq!((parsed.protocol, parsed.total_len), (1, answer.len()));
        let icmp = parsed.l4(&answer);
        assert_eq!(checksum::internet(icmp), 0);
        assert_eq!(icmp[..2], [3, 4]);
        assert_eq!(icmp[4..8], [0, 0, 0x05, 0xa6]);
        assert_eq!(icmp[8..], packet[..quoted]);
    }
}

/// RFC 4443 3.2 and 2.4 c: up to 1280 bytes in all.
#[test]
fn v6_too_big() {
    for len in [0, 1191, 1192, 1193, 1460] {
        let packet = v6(17, host_v6(), peer_v6(), &vec![0x5a; len]);
        let answer = answer_too_big(&packet, 1406).unwrap();
        let quoted = packet.len().min(1232);
        assert_eq!(answer.len(), 48 + quoted);
        let parsed = IpPacket::parse(&answer).unwrap();
        assert_eq!(
            (parsed.source, parsed.destination),
            (US_V6, IpAddr::V6(host_v6()))
        );
        let icmp = parsed.l4(&answer);
        let length = u32::try_from(icmp.len()).unwrap();
        let IpAddr::V6(us) = US_V6 else {
            unreachable!()
        };
        let sum = checksum::pseudo_v6(us, host_v6(), length, 58)
            .bytes(icmp)
            .finish();
        assert_eq!(sum, 0);
        assert_eq!(icmp[..2], [2, 0]);
        assert_eq!(icmp[4..8], 1406_u32.to_be_bytes());
        assert_eq!(icmp[8..], packet[..quoted]);
    }
}

#[test]
fn an_mtu_nobody_would_believe_is_raised() {
    let mtu_v4 = |mtu| {
        let answer = answer_too_big(&v4(17, HOST_V4, PEER_V4, 0, &[0; 8]), mtu).unwrap();
        u16::from_be_bytes([answer[26], answer[27]])
    };
    assert_eq!(
        [0, 67, 68, 65_535, 65_536].map(mtu_v4),
        [68, 68, 68, 65_535, 65_535]
    );
    let answer = answer_too_big(&v6(17, host_v6(), peer_v6(), &[0; 8]), 1279).unwrap();
    assert_eq!(answer[44..48], 1280_u32.to_be_bytes());
}

#[test]
fn time_exceeded_types() {
    let four = answer_time_exceeded(&v4(17, HOST_V4, PEER_V4, 0, &[0; 8])).unwrap();
    assert_eq!((four[20], four[21]), (11, 0));
    assert_eq!(four[24..28], [0; 4]);
    assert_eq!(checksum::internet(&four[20..]), 0);
    let six = answer_time_exceeded(&v6(17, host_v6(), peer_v6(), &[0; 8])).unwrap();
    assert_eq!((six[40], six[41]), (3, 0));
    assert_eq!(six[44..48], [0; 4]);
}

/// Trailing bytes of the frame are not part of the packet and are not quoted.
#[test]
fn padding_is_not_quoted() {
    let mut packet = v4(17, HOST_V4, PEER_V4, 0, &[1; 8]);
    packet.extend([0xee; 18]);
    assert_eq!(answer_too_big(&packet, 1400).unwrap().len(), 28 + 28);
}

/// RFC 1122 3.2.2, RFC 4443 2.4 e.
#[test]
fn never_about_icmp_errors() {
    for kind in 0..=u8::MAX {
        let four = answer_too_big(&v4(1, HOST_V4, PEER_V4, 0, &[kind; 8]), 1400);
        let query = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18].contains(&kind);
        assert_eq!(four.is_ok(), query, "ICMP type {kind}");
        let six = answer_too_big(&v6(58, host_v6(), peer_v6(), &[kind; 8]), 1400);
        assert_eq!(
            six.is_ok(),
            kind >= 128 && kind != 137,
            "ICMPv6 type {kind}"
        );
    }
    let unseen = answer_too_big(&v4(1, HOST_V4, PEER_V4, 0, &[]), 1400);
    assert_eq!(unseen, Err(NoAnswer::IcmpError));
}

#[test]
fn never_about_later_fragments() {
    let first = v4(17, HOST_V4, PEER_V4, 0x2000, &[0; 8]);
    assert!(answer_time_exceeded(&first).is_ok());
    let later = v4(17, HOST_V4, PEER_V4, 0x0001, &[0; 8]);
    assert_eq!(answer_time_exceeded(&later), Err(NoAnswer::Fragment));
    assert_eq!(answer_too_big(&later, 1400), Err(NoAnswer::Fragment));
}

#[test]
fn never_to_or_about_groups() {
    for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4]] {
        let packet = v4(17, source, PEER_V4, 0, &[0; 8]);
        assert_eq!(
            answer_too_big(&packet, 1400),
            Err(NoAnswer::Source),
            "{source:?}"
        );
    }
    for destination in [[224, 0, 0, 5], [255; 4]] {
        let packet = v4(17, HOST_V4, destination, 0, &[0; 8]);
        assert_eq!(answer_too_big(&packet, 1400), Err(NoAnswer::Group));
    }
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, group] {
        let packet = v6(17, source, peer_v6(), &[0; 8]);
        assert_eq!(
            answer_too_big(&packet, 1400),
            Err(NoAnswer::Source),
            "{source}"
        );
    }
    let to_group = v6(17, host_v6(), group, &[0; 8]);
    assert_eq!(answer_time_exceeded(&to_group), Err(NoAnswer::Group));
    assert!(
        answer_too_big(&to_group, 1400).is_ok(),
        "RFC 4443 2.4 e.3 allows it"
    );
}

#[test]
fn room_and_family() {
    let packet = v4(17, HOST_V4, PEER_V4, 0, &[0; 8]);
    let parsed = IpPacket::parse(&packet).unwrap();
    for len in 0..56 {
        let result = too_big(&packet, &parsed, 1400, US_V4, &mut vec![0; len]);
        assert_eq!(result, Err(NoAnswer::Room), "{len} bytes");
    }
    assert_eq!(too_big(&packet, &parsed, 1400, US_V4, &mut [0; 56]), Ok(56));
    let wrong = too_big(&packet, &parsed, 1400, US_V6, &mut [0; 2000]);
    assert_eq!(wrong, Err(NoAnswer::Family));
    let cut = too_big(&packet[..20], &parsed, 1400, US_V4, &mut [0; 2000]);
    assert!(cut.is_err(), "a slice shorter than what was parsed");
}

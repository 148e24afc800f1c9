use super::*;

fn v4(options: &[u8], protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let total = u16::try_from(header_len + payload.len()).unwrap();
    let mut packet = vec![0x40 | u8::try_from(header_len / 4).unwrap(), 0xb9];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(options);
    let sum = checksum::internet(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6b, 0x91, 0x23, 0x45];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
    packet.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
    packet.extend(payload);
    packet
}

fn fragment_header(next: u8, offset_and_more: u16) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend(offset_and_more.to_be_bytes());
    header.extend([0, 0, 0xab, 0xcd]);
    header
}

const UDP: [u8; 8] = [0x11, 0x94, 0x01, 0xf4, 0, 8, 0, 0];

#[test]
fn ipv4_fields() {
    let packet = v4(&[], protocol::UDP, DF, &UDP);
    let parsed = IpPacket::parse(&packet).unwrap();
    assert_eq!(parsed.family, Family::V4);
    assert_eq!(parsed.source, IpAddr::from([10, 0, 0, 1]));
    assert_eq!(parsed.destination, IpAddr::from([10, 0, 0, 2]));
    assert_eq!(
        (parsed.protocol, parsed.ttl, parsed.tos, parsed.df),
        (17, 64, 0xb9, true)
    );
    assert_eq!(
        (parsed.header_len, parsed.l4_offset, parsed.total_len),
        (20, 20, 28)
    );
    assert_eq!((parsed.fragment, parsed.id), (Fragment::No, 0x1234));
    assert_eq!(
        parsed.ports,
        Ports::Pair {
            source: 4500,
            destination: 500
        }
    );
    assert_eq!(parsed.l4(&packet), UDP);
}

const DF: u16 = 0x4000;
const MF: u16 = 0x2000;

#[test]
fn ipv4_options_and_padding_behind_the_packet() {
    let mut packet = v4(&[1; 40], protocol::UDP, 0, &UDP);
    packet.extend([0xee; 46]);
    let parsed = IpPacket::parse(&packet).unwrap();
    assert_eq!(
        (parsed.header_len, parsed.l4_offset, parsed.total_len),
        (60, 60, 68)
    );
    assert_eq!((parsed.l4(&packet), parsed.df), (&UDP[..], false));
}

#[test]
fn ipv4_fragments() {
    let parse = |flags, payload: &[u8]| IpPacket::parse(&v4(&[], 17, flags, payload));
    let first = parse(MF, &UDP).unwrap();
    assert_eq!(first.fragment, Fragment::First);
    assert_eq!(
        first.ports,
        Ports::Pair {
            source: 4500,
            destination: 500
        }
    );
    for flags in [1, MF | 1, 185] {
        let later = parse(flags, &UDP).unwrap();
        assert_eq!(
            (later.fragment, later.ports),
            (Fragment::NonFirst, Ports::Opaque)
        );
    }
    // 8191 * 8 = 65528, so 7 bytes are the most that fit.
    assert!(parse(0x1fff, &UDP[..7]).is_ok());
    assert_eq!(parse(0x1fff, &UDP), Err(IpError::Fragment));
}

#[test]
fn ipv4_refused() {
    let good = v4(&[], 17, 0, &UDP);
    for len in 0..20 {
        assert_eq!(
            IpPacket::parse(&good[..len]),
            Err(IpError::Short),
            "{len} bytes"
        );
    }
    for len in 20..good.len() {
        assert_eq!(
            IpPacket::parse(&good[..len]),
            Err(IpError::TotalLength),
            "{len} bytes"
        );
    }
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        IpPacket::parse(&packet)
    };
    assert_eq!(with(0, 0x44), Err(IpError::HeaderLength));
    assert_eq!(with(0, 0x4f), Err(IpError::HeaderLength));
    assert_eq!(with(3, 19), Err(IpError::HeaderLength));
    assert_eq!(with(3, 29), Err(IpError::TotalLength));
    for version in [0, 5, 7, 15] {
        assert_eq!(with(0, version << 4 | 5), Err(IpError::Version));
    }
    for at in [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 19] {
        assert_eq!(with(at, good[at] ^ 4), Err(IpError::Checksum), "byte {at}");
    }
    assert!(with(20, 0).is_ok(), "the payload is not covered");
}

#[test]
fn ipv6_fields() {
    let packet = v6(protocol::UDP, &UDP);
    let parsed = IpPacket::parse(&packet).unwrap();
    assert_eq!(parsed.family, Family::V6);
    assert_eq!(
        (parsed.protocol, parsed.ttl, parsed.tos, parsed.df),
        (17, 64, 0xb9, true)
    );
    assert_eq!(
        (parsed.header_len, parsed.l4_offset, parsed.total_len),
        (40, 40, 48)
    );
    assert_eq!(
        parsed.ports,
        Ports::Pair {
            source: 4500,
            destination: 500
        }
    );
    assert_eq!(parsed.source.to_string(), "2001:db8::1");
    assert_eq!(parsed.destination.to_string(), "2001:db8::2");
}

/// RFC 4301 4.4.1.1: extension headers 0, 43, 44 and 60 are skipped, AH and ESP are not.
#[test]
fn ipv6_extension_headers() {
    let mut chain = vec![protocol::DESTINATION_OPTIONS, 1];
    chain.extend([0; 14]);
    chain.extend([protocol::ROUTING, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([protocol::FRAGMENT, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend(fragment_header(protocol::UDP, 0));
    chain.extend(UDP);
    let parsed = IpPacket::parse(&v6(protocol::HOP_BY_HOP, &chain)).unwrap();
    assert_eq!(
        (parsed.protocol, parsed.l4_offset),
        (17, 40 + 16 + 8 + 8 + 8)
    );
    assert_eq!(
        parsed.ports,
        Ports::Pair {
            source: 4500,
            destination: 500
        }
    );
    assert_eq!(
        (parsed.fragment, parsed.id),
        (Fragment::No, 0xabcd),
        "RFC 6946: atomic"
    );
    for upper in [protocol::AH, protocol::ESP, protocol::NO_NEXT_HEADER] {
        let parsed = IpPacket::parse(&v6(upper, &chain)).unwrap();
        assert_eq!((parsed.protocol, parsed.l4_offset), (upper, 40));
        assert_eq!(parsed.ports, Ports::None);
    }
}

#[test]
fn ipv6_chain_refused() {
    let mut options = vec![protocol::DESTINATION_OPTIONS, 0];
    options.extend([0; 6]);
    let mut at_most = options.repeat(MAX_EXTENSION_HEADERS);
    let last = at_most.len() - 8;
    at_most[last] = protocol::UDP;
    at_most.extend(UDP);
    assert!(IpPacket::parse(&v6(60, &at_most)).is_ok());
    let too_many = [&options[..], &at_most].concat();
    assert_eq!(
        IpPacket::parse(&v6(60, &too_many)),
        Err(IpError::ExtensionOrder)
    );
    let late_hop_by_hop = [&[protocol::HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0], &options[..]].concat();
    assert_eq!(
        IpPacket::parse(&v6(60, &late_hop_by_hop)),
        Err(IpError::ExtensionOrder)
    );
    let whole = at_most.len() - UDP.len();
    for len in 0..whole {
        let parsed = IpPacket::parse(&v6(60, &at_most[..len]));
        assert_eq!(parsed, Err(IpError::Extension), "cut to {len}");
    }
    let oversized = [protocol::UDP, 255, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        IpPacket::parse(&v6(43, &oversized)),
        Err(IpError::Extension)
    );
}

#[test]
fn ipv6_refused() {
    let good = v6(17, &UDP);
    for len in 0..40 {
        assert_eq!(IpPacket::parse(&good[..len]), Err(IpError::Short));
    }
    for len in 40..good.len() {
        assert_eq!(IpPacket::parse(&good[..len]), Err(IpError::TotalLength));
    }
}

#[test]
fn ipv6_fragments() {
    let parse = |offset_and_more, next, data: &[u8]| {
        IpPacket::parse(&v6(
            44,
            &[&fragment_header(next, offset_and_more), data].concat(),
        ))
    };
    let first = parse(1, 17, &UDP).unwrap();
    assert_eq!(
        (first.fragment, first.id, first.protocol),
        (Fragment::First, 0xabcd, 17)
    );
    assert!(matches!(first.ports, Ports::Pair { .. }));
    let later = parse(8, 17, &UDP[..5]).unwrap();
    assert_eq!(
        (later.fragment, later.ports),
        (Fragment::NonFirst, Ports::Opaque)
    );
    assert_eq!(later.l4_offset, 48);
    // Data of a later fragment is not followed even if it claims to be a header.
    let hidden = parse(8, protocol::DESTINATION_OPTIONS, &[255; 16]).unwrap();
    assert_eq!(
        (hidden.protocol, hidden.ports),
        (protocol::DESTINATION_OPTIONS, Ports::Opaque)
    );
    assert_eq!(
        parse(1, 17, &UDP[..7]),
        Err(IpError::Fragment),
        "not a multiple of 8"
    );
    assert_eq!(
        parse(0xfff8, 17, &UDP),
        Err(IpError::Fragment),
        "ends beyond 65,535"
    );
    let nested = fragment_header(17, 0);
    assert_eq!(
        parse(1, protocol::FRAGMENT, &nested),
        Err(IpError::ExtensionOrder)
    );
}

#[test]
fn ports_by_protocol() {
    let of = |protocol, l4: &[u8]| IpPacket::parse(&v4(&[], protocol, 0, l4)).unwrap().ports;
    for protocol in [6, 17, 33, 132, 136] {
        let pair = Ports::Pair {
            source: 0x0102,
            destination: 0x0304,
        };
        assert_eq!(of(protocol, &[1, 2, 3, 4]), pair);
        assert_eq!(of(protocol, &[1, 2, 3]), Ports::Opaque);
    }
    assert_eq!(of(protocol::ICMP, &[8, 0]), Ports::TypeCode(0x0800));
    assert_eq!(of(protocol::ICMPV6, &[128, 7]), Ports::TypeCode(0x8007));
    assert_eq!(of(protocol::ICMP, &[8]), Ports::Opaque);
    assert_eq!(
        of(protocol::MOBILITY, &[59, 0, 5, 0]),
        Ports::TypeCode(0x0500)
    );
    assert_eq!(of(47, &[1, 2, 3, 4]), Ports::None);
}

#[test]
fn family_must_match_the_layer_below() {
    let (four, six) = (v4(&[], 17, 0, &UDP), v6(17, &UDP));
    assert!(IpPacket::parse_as(Family::V4, &four).is_ok());
    assert!(IpPacket::parse_as(Family::V6, &six).is_ok());
    assert_eq!(IpPacket::parse_as(Family::V6, &four), Err(IpError::Version));
    assert_eq!(IpPacket::parse_as(Family::V4, &six), Err(IpError::Version));
    assert_eq!(IpPacket::parse_as(Family::V4, &[]), Err(IpError::Short));
}

#[test]
fn ttl_counts_down_to_one() {
    for packet in [v4(&[1; 4], 17, DF, &UDP), v6(17, &UDP)] {
        let mut packet = packet;
        for ttl in (1..64).rev() {
            assert_eq!(decrement_ttl(&mut packet), Some(ttl));
            assert_eq!(IpPacket::parse(&packet).unwrap().ttl, ttl);
        }
        let before = packet.clone();
        assert_eq!(decrement_ttl(&mut packet), None);
        assert_eq!(packet, before);
    }
    assert_eq!(decrement_ttl(&mut []), None);
    assert_eq!(decrement_ttl(&mut [0x45, 0, 0, 0, 0, 0, 0, 0, 9]), None);
}

#[test]
fn tos_is_replaced_and_nothing_else() {
    for packet in [v4(&[], 17, DF, &UDP), v6(17, &UDP)] {
        for tos in 0..=u8::MAX {
            let mut changed = packet.clone();
            set_tos(&mut changed, tos).unwrap();
            let parsed = IpPacket::parse(&changed).unwrap();
            assert_eq!(
                parsed,
                IpPacket {
                    tos,
                    ..IpPacket::parse(&packet).unwrap()
                }
            );
            set_tos(&mut changed, 0xb9).unwrap();
            assert_eq!(changed, packet);
        }
    }
    assert_eq!(set_tos(&mut [], 0), None);
    assert_eq!(set_tos(&mut [0x45, 0, 0], 1), None);
}

#[test]
fn addresses_that_cannot_be_answered() {
    let from = |source: [u8; 4]| {
        let mut packet = v4(&[], 17, 0, &UDP);
        packet[12..16].copy_from_slice(&source);
        packet[10..12].fill(0);
        let sum = checksum::internet(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        IpPacket::parse(&packet).unwrap().source_is_unicast()
    };
    assert!(from([10, 0, 0, 1]) && from([223, 255, 255, 255]));
    for bad in [
        [0; 4],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255; 4],
    ] {
        assert!(!from(bad), "{bad:?}");
    }
}

/// Against the definition (RFC 1624 3), for every checksum.
#[test]
fn a_hop_less_keeps_the_checksum_right() {
    let mut header = [0; 20];
    (header[0], header[8], header[9]) = (0x45, 64, 17);
    for sum in 0..=u16::MAX {
        header[8] = 64;
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(decrement_ttl(&mut header), Some(63));
        let due = checksum::update(sum, 0x4011, 0x3f11);
        assert_eq!(header[10..12], due.to_be_bytes(), "{sum:x}");
    }
}

use super::*;
use crate::CLEAR_BYTES;
use crate::ip::Ports;
use std::net::Ipv6Addr;

fn udp_v4(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(28 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = checksum::internet(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x11, 0x94, 0x11, 0x94]);
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0xba, 0xad]); // a wrong checksum, which RFC 3948 2.1 has us ignore
    packet.extend(payload);
    packet
}

fn udp_v6(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(Ipv6Addr::LOCALHOST.octets());
    packet.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
    packet.extend([0x11, 0x94, 0x11, 0x94]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let sum = checksum::udp_v6(
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        &packet[40..],
    );
    packet[46..48].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn classify(packet: &[u8]) -> Result<InUdp, DecapError> {
    esp_in_udp(&Head::parse(packet).unwrap(), packet)
}

/// RFC 3948 2.
#[test]
fn what_port_4500_carries() {
    for (v6, start) in [(false, 28), (true, 48)] {
        let make = |payload: &[u8]| if v6 { udp_v6(payload) } else { udp_v4(payload) };
        assert_eq!(classify(&make(&[0xff])), Ok(InUdp::Keepalive));
        assert_eq!(
            classify(&make(&[0, 0, 0, 1, 9])),
            Ok(InUdp::Esp(start..start + 5))
        );
        assert_eq!(
            classify(&make(&[0, 0, 0, 0, 9])),
            Ok(InUdp::Ike(start + 4..start + 5))
        );
        assert_eq!(
            classify(&make(&[0, 0, 0, 0])),
            Ok(InUdp::Ike(start + 4..start + 4))
        );
        assert_eq!(
            classify(&make(&[0xff; 4])),
            Ok(InUdp::Esp(start..start + 4))
        );
        for short in [&[][..], &[0], &[0xfe], &[0xff, 0xff], &[0, 0, 0]] {
            assert_eq!(classify(&make(short)), Err(DecapError::Short), "{short:?}");
        }
    }
}

#[test]
fn udp_length_rules() {
    let mut packet = udp_v4(&[1; 8]);
    for (length, expected) in [
        (16, Ok(InUdp::Esp(28..36))),
        (12, Ok(InUdp::Esp(28..32))),
        (17, Err(DecapError::UdpLength)),
        (7, Err(DecapError::UdpLength)),
        (0, Err(DecapError::UdpLength)),
        (8, Err(DecapError::Short)),
    ] {
        packet[25] = length;
        assert_eq!(classify(&packet), expected, "{length}");
    }
}

#[test]
fn udp_over_ipv6_needs_its_checksum() {
    let good = udp_v6(&[1; 9]);
    for at in 40..good.len() {
        let mut packet = good.clone();
        packet[at] ^= 0x10;
        assert!(classify(&packet).is_err(), "byte {at}");
    }
    let mut none = good;
    none[46..48].fill(0);
    assert_eq!(classify(&none), Err(DecapError::UdpChecksum));
}

#[test]
fn fragments_are_not_looked_at() {
    let mut packet = Head::parse(&udp_v4(&[1; 8])).unwrap();
    for fragment in [Fragment::First, Fragment::NonFirst] {
        packet.fragment = fragment;
        assert_eq!(esp_plain(&packet), Err(DecapError::Fragment));
        assert_eq!(
            esp_in_udp(&packet, &udp_v4(&[1; 8])),
            Err(DecapError::Fragment)
        );
    }
}

#[test]
fn header_fields_and_edges() {
    let esp = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let header = EspHeader::parse(&esp).unwrap();
    assert_eq!((header.spi, header.sequence), (0x0102_0304, 0x0506_0708));
    assert_eq!(header.iv, [9, 10, 11, 12, 13, 14, 15, 16]);
    for len in 0..16 {
        assert_eq!(EspHeader::parse(&esp[..len]), Err(DecapError::Short));
    }
    assert_eq!(EspHeader::parse(&[0; 16]), Err(DecapError::Spi));
}

#[test]
fn sealed_range_and_aad() {
    let header = EspHeader {
        spi: 5,
        sequence: 7,
        iv: [1; 8],
    };
    let sealed = |len: usize, icv_len| header.sealed(20..20 + len, icv_len, 9 << 32 | 7, true);
    for icv_len in [8, 12, 16] {
        let least = 16 + 4 + icv_len;
        for len in 0..least {
            assert_eq!(sealed(len, icv_len), Err(DecapError::Short), "{len} bytes");
        }
        for extra in 1..4 {
            assert_eq!(sealed(least + extra, icv_len), Err(DecapError::Alignment));
        }
        let protected = sealed(least + 4, icv_len).unwrap();
        assert_eq!(protected.data, 36..20 + least + 4);
        assert_eq!(protected.aad, crypto::Aad::extended(5, 9 << 32 | 7));
        assert_eq!(protected.iv, [1; 8]);
    }
    let short = header.sealed(0..40, 16, 7, false).unwrap();
    assert_eq!(short.aad, crypto::Aad::sequence(5, 7));
    let (start, end) = (9, 3);
    assert_eq!(
        header.sealed(start..end, 16, 7, false),
        Err(DecapError::Short)
    );
}

#[test]
fn trailer_edges() {
    assert_eq!(inner(&[]), Err(DecapError::Padding));
    assert_eq!(inner(&[4]), Err(DecapError::Padding));
    assert_eq!(inner(&[1, 4]), Err(DecapError::Padding));
    assert_eq!(inner(&[0, 4]), Err(DecapError::Inner(IpError::Short)));
    assert_eq!(inner(&[0, 59]), Ok(Inner::Dummy));
    assert_eq!(
        inner(&[1, 59]),
        Err(DecapError::Padding),
        "even a dummy has a sane length"
    );
    assert_eq!(inner(&[0, 6]), Err(DecapError::NextHeader(6)));
    let packet = udp_v4(&[1, 2]);
    assert_eq!(packet.len(), 30);
    let with = |trailer: &[u8]| inner(&[&packet[..], trailer].concat());
    assert!(matches!(with(&[1, 2, 2, 4]), Ok(Inner::Packet(p)) if p.total_len == 30));
    assert_eq!(with(&[1, 1, 2, 4]), Err(DecapError::Padding));
    assert_eq!(with(&[0, 1, 2, 4]), Err(DecapError::Padding));
    assert_eq!(
        with(&[1, 2, 2, 41]),
        Err(DecapError::Inner(IpError::Version))
    );
}

/// RFC 6040 4.2, figure 4, row by row: inner Not-ECT, ECT(0), ECT(1), CE; the outer ECN in the
/// order Not-ECT, ECT(0), ECT(1), CE.
#[test]
fn rfc_6040_figure_4() {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    const OUTER: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];
    let figure = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE); 4]),
    ];
    for (inner_ecn, row) in figure {
        for (outer_ecn, expected) in OUTER.into_iter().zip(row) {
            let (mut packet, mut parsed) = marked(0x88 | inner_ecn);
            let result = apply_outer_tos(&mut packet, &mut parsed, 0x60 | outer_ecn, false, true);
            let at = format!("inner {inner_ecn}, outer {outer_ecn}");
            match expected {
                None => assert_eq!(result, Err(DecapError::Ecn), "{at}"),
                Some(ecn) => {
                    assert_eq!(result, Ok(()), "{at}");
                    assert_eq!(parsed.tos, 0x88 | ecn, "{at}");
                    assert_eq!(Head::parse(&packet), Ok(parsed), "{at}");
                }
            }
        }
    }
}

fn marked(tos: u8) -> (Vec<u8>, Head) {
    let mut packet = udp_v4(&[1; 8]);
    ip::set_tos(&mut packet, tos).unwrap();
    let parsed = Head::parse(&packet).unwrap();
    (packet, parsed)
}

#[test]
fn outer_dscp_only_if_asked_for() {
    for (copy_dscp, copy_ecn, expected) in [
        (false, false, 0x89),
        (true, false, 0x61),
        (false, true, 0x8b),
        (true, true, 0x63),
    ] {
        let (mut packet, mut parsed) = marked(0x89);
        apply_outer_tos(&mut packet, &mut parsed, 0x63, copy_dscp, copy_ecn).unwrap();
        assert_eq!(parsed.tos, expected);
        assert_eq!(Head::parse(&packet), Ok(parsed));
    }
    let (mut packet, mut parsed) = marked(0x88);
    assert_eq!(
        apply_outer_tos(&mut packet, &mut parsed, 0x03, false, false),
        Ok(())
    );
}

/// A checksum that comes out as 0 is sent as ffff: a 0 there is none, though the sum would agree.
#[test]
fn udp_over_ipv6_with_a_zero_that_sums_up_is_refused() {
    let first = udp_v6(&[1, 1, 1, 1, 0, 0]);
    let mut packet = udp_v6(&[1, 1, 1, 1, first[46], first[47]]);
    assert_eq!(packet[46..48], [0xff, 0xff]);
    assert!(classify(&packet).is_ok());
    packet[46..48].fill(0);
    assert_eq!(classify(&packet), Err(DecapError::UdpChecksum));
}

/// The short way says what the long one says, or nothing: all last four bytes that are near to right ones.
#[test]
fn short_trailers_are_read_as_any_are() {
    let mut short = 0;
    for len in 2..24_usize {
        for pad_len in 0..=8_u8 {
            for next_header in [4, 41, 59, 6] {
                for wrong in [None, Some(0), Some(1), Some(5)] {
                    let mut plain = vec![0xee; len];
                    let end = len - 2;
                    let start = end.saturating_sub(pad_len.into());
                    for (byte, due) in plain[start..end].iter_mut().zip(1..) {
                        *byte = due;
                    }
                    (plain[end], plain[end + 1]) = (pad_len, next_header);
                    if let Some(byte) = wrong.and_then(|at: usize| plain[..end].get_mut(start + at))
                    {
                        *byte ^= 0x40;
                    }
                    if let Some((family, payload_len)) = short_trailer(&plain) {
                        assert_eq!(
                            any_trailer(&plain),
                            Ok(Trailer::Packet(family, payload_len))
                        );
                        short += 1;
                    }
                }
            }
        }
    }
    assert!(short > 100, "{short}");
}

/// What the general way says of an outer packet, as far as the short ones say it.
fn any_esp(packet: &[u8]) -> Option<UsualEsp> {
    let head = Head::parse(packet).ok()?;
    let (range, udp_source) = match (head.protocol, head.ports.unpack()) {
        (protocol::ESP, _) => (esp_plain(&head).ok()?, None),
        (
            protocol::UDP,
            Ports::Pair {
                source,
                destination: NAT_PORT,
            },
        ) => match esp_in_udp(&head, packet).ok()? {
            InUdp::Esp(range) => (range, Some(source)),
            InUdp::Ike(_) | InUdp::Keepalive => return None,
        },
        _ => return None,
    };
    let addresses = match head.family {
        Family::V4 => head::both_addresses_v4(packet),
        Family::V6 => 0,
    };
    let front = packet.get(range.clone())?.first_chunk::<CLEAR_BYTES>()?;
    let short = |n: usize| u16::try_from(n).unwrap();
    Some(UsualEsp {
        addresses,
        tos: head.tos,
        udp_source,
        range: (short(range.start), short(range.end)),
        front: u64::from_be_bytes(*front.first_chunk()?),
    })
}

fn with_right_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = checksum::internet(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The short ways say what the long one says, or nothing: of whole packets, cut ones, ones with bytes
/// behind them, and ones with any byte of the headers changed, with and without a right checksum.
#[test]
fn usual_esp_is_what_any_esp_is() {
    let esp: Vec<u8> = (1..=60).collect();
    let (in_udp, mut over_v6) = (udp_v4(&esp), udp_v6(&esp));
    let mut bare = in_udp.clone();
    bare[9] = protocol::ESP;
    over_v6[6] = protocol::ESP;
    let usual_esp = |packet: &[u8]| {
        let both = [usual_esp_v4(packet), usual_esp_v6(packet)];
        assert!(both.contains(&None));
        both.into_iter().flatten().next()
    };
    let (mut usual, mut all) = (0, 0);
    let mut compare = |packet: &[u8]| {
        all += 1;
        if let Some(found) = usual_esp(packet) {
            assert_eq!(Some(found), any_esp(packet), "{packet:x?}");
            usual += 1;
        }
    };
    for packet in [with_right_checksum(bare), in_udp, over_v6] {
        assert_eq!(usual_esp(&packet), any_esp(&packet));
        assert!(usual_esp(&packet).is_some());
        compare(&[&packet[..], &[0; 7]].concat());
        for len in 0..packet.len() {
            compare(&packet[..len]);
        }
        for at in 0..60 {
            for byte in 0..=u8::MAX {
                let mut changed = packet.clone();
                changed[at] = byte;
                compare(&changed);
                compare(&with_right_checksum(changed));
            }
        }
    }
    assert!(usual > all / 4 && usual < all, "{usual} of {all}");
}

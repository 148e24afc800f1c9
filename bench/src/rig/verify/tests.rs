//! A right frame passes, and each way of being wrong is found.

use super::super::cell::{Cell, Size};
use super::super::plan::PEER_MAC;
use super::*;
use crate::soak::packet::{Header, ethernet, ethertype, fix_v4_checksum, short};
use crate::soak::pcap::Capture;

const FLOW: u32 = 3;
const LENGTH: usize = 70;

fn plan(way: Way, family: Family, udp: bool, key_bits: u16) -> Plan {
    let cell = Cell {
        size: Size::Fixed(LENGTH),
        key_bits,
        way,
        family,
        udp,
        ..Cell::usual(10)
    };
    Plan::new(cell, 1).unwrap()
}

/// What a right gateway makes of a packet: TTL one less, ESP, sealed with `ring`.
struct Gateway {
    sequence: u32,
    iv: u64,
    pad_from: u8,
    next: Option<u8>,
    flow: u32,
    ttl_less: u8,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            sequence: 1,
            iv: 1,
            pad_from: 1,
            next: None,
            flow: FLOW,
            ttl_less: 1,
        }
    }
}

impl Gateway {
    fn forwarded(&self, plan: &Plan) -> Vec<u8> {
        let outward = plan.cell.way == Way::Enc;
        let mut packet = inner(plan, FLOW, LENGTH, outward);
        let at = if is_v4(&packet) { 8 } else { 7 };
        packet[at] -= self.ttl_less;
        if is_v4(&packet) {
            fix_v4_checksum(&mut packet);
        }
        packet
    }

    fn esp(&self, plan: &Plan) -> Vec<u8> {
        let inner = self.forwarded(plan);
        let pad = u8::try_from((inner.len() + 2).next_multiple_of(4) - inner.len() - 2).unwrap();
        let next = match plan.cell.family {
            Family::V4 => NEXT_IPV4,
            Family::V6 => NEXT_IPV6,
        };
        let mut body = inner;
        body.extend((0..pad).map(|n| n + self.pad_from));
        body.extend([pad, self.next.unwrap_or(next)]);
        let material = plan.key(FLOW, false);
        let (key, salt) = material.split_at(material.len() - 4);
        let algorithm = if key.len() == 16 {
            &AES_128_GCM
        } else {
            &AES_256_GCM
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap());
        let iv = self.iv.to_be_bytes();
        let nonce = [salt, &iv].concat().try_into().unwrap();
        let spi = Plan::spi_out(FLOW).to_be_bytes();
        let aad = [spi, self.sequence.to_be_bytes()].concat();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&aad),
            &mut body,
        )
        .unwrap();
        [&aad[..], &iv, &body].concat()
    }

    fn frame(&self, plan: &Plan) -> Vec<u8> {
        let esp = self.esp(plan);
        let (from, to) = (plan.gateway(), plan.far_gateway(self.flow));
        let packet = if plan.cell.udp {
            let port = NAT_T_PORT.to_be_bytes();
            let length = short(UDP_BYTES + esp.len()).to_be_bytes();
            let udp = [&port[..], &port, &length, &[0, 0], &esp].concat();
            Header::new(from, to, UDP).around(&udp)
        } else {
            Header::new(from, to, ESP).around(&esp)
        };
        ethernet(PEER_MAC, PEER_MAC, ethertype(&packet), &packet)
    }
}

fn check(plan: &Plan, gateway: &Gateway) -> Checked<()> {
    Checker::new(plan).frame(&gateway.frame(plan))
}

#[test]
fn what_a_right_gateway_sends_passes() {
    for (family, udp) in [(Family::V4, false), (Family::V4, true), (Family::V6, false)] {
        for key_bits in [128, 256] {
            let plan = plan(Way::Enc, family, udp, key_bits);
            assert_eq!(check(&plan, &Gateway::default()), Ok(()));
        }
    }
}

#[test]
fn a_nonce_may_be_used_once() {
    let plan = plan(Way::Enc, Family::V4, false, 128);
    let mut checker = Checker::new(&plan);
    let again = Gateway {
        sequence: 2,
        ..Gateway::default()
    };
    assert_eq!(checker.frame(&Gateway::default().frame(&plan)), Ok(()));
    let error = checker.frame(&again.frame(&plan)).unwrap_err();
    assert!(error.contains("used twice"), "{error}");
}

#[test]
fn each_wrong_field_is_found() {
    let plan = plan(Way::Enc, Family::V4, false, 128);
    let wrong = [
        (
            "sequence number 0",
            Gateway {
                sequence: 0,
                ..Gateway::default()
            },
        ),
        (
            "bad padding",
            Gateway {
                pad_from: 2,
                ..Gateway::default()
            },
        ),
        (
            "next header 41",
            Gateway {
                next: Some(41),
                ..Gateway::default()
            },
        ),
        (
            "wrong outer addresses",
            Gateway {
                flow: 4,
                ..Gateway::default()
            },
        ),
        (
            "inner TTL",
            Gateway {
                ttl_less: 2,
                ..Gateway::default()
            },
        ),
    ];
    for (text, gateway) in wrong {
        let error = check(&plan, &gateway).unwrap_err();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn no_byte_behind_ethernet_can_change() {
    let plan = plan(Way::Enc, Family::V4, true, 128);
    let right = Gateway::default().frame(&plan);
    for at in ETHERNET_BYTES..right.len() {
        let mut frame = right.clone();
        frame[at] ^= 1;
        let result = Checker::new(&plan).frame(&frame);
        // RFC 3948 2.1: a receiver does not look at the UDP checksum.
        let checksum = ETHERNET_BYTES + 26..ETHERNET_BYTES + 28;
        assert_eq!(result.is_ok(), checksum.contains(&at), "byte {at}");
    }
}

#[test]
fn decrypted_packets_are_those_that_were_offered() {
    let plan = plan(Way::Dec, Family::V4, false, 128);
    let frame = |packet: &[u8]| ethernet(PEER_MAC, PEER_MAC, ethertype(packet), packet);
    let packet = Gateway::default().forwarded(&plan);
    let mut checker = Checker::new(&plan);
    assert_eq!(checker.frame(&frame(&packet)), Ok(()));
    // Behind the packet Ethernet may pad.
    assert_eq!(
        checker.frame(&[frame(&packet), vec![0; 6]].concat()),
        Ok(())
    );
    let mut wrong = packet.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(checker.frame(&frame(&wrong)).is_err());
    assert!(checker.frame(&frame(&packet[..40])).is_err());
    assert!(checker.frame(&[]).is_err());
}

#[test]
fn a_capture_with_nothing_or_something_wrong_in_it_fails() {
    let plan = plan(Way::Enc, Family::V4, false, 128);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tx.pcap");
    let write = |frames: &[Vec<u8>]| {
        let mut capture = Capture::create(&path).unwrap();
        frames.iter().for_each(|frame| capture.push(frame).unwrap());
        capture.finish().unwrap();
        super::capture(&plan, &path).map_err(|error| error.to_string())
    };
    let right = Gateway::default().frame(&plan);
    let kernel = [&[0x33; 6][..], &right[6..]].concat();
    assert_eq!(write(&[right.clone(), kernel.clone()]), Ok(1));
    assert!(write(&[kernel]).unwrap_err().contains("nothing"));
    let error = write(&[right.clone(), right]).unwrap_err();
    assert!(
        error.contains("1 of 2") && error.contains("used twice"),
        "{error}"
    );
}

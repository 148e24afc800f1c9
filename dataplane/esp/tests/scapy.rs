//! Against scapy: what we seal is byte for byte what scapy seals, and what it seals we open.
//! The files are made by `vectors/make.py`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may panic as the test"
)]

use core::ops::Range;
use core::sync::atomic::AtomicU64;

use crypto::{ICV_ROOM, KeyContext, Op};
use esp::decap::{self, DecapError, EspHeader, InUdp, Inner};
use esp::encap::{Df, Dscp, Tunnel, TunnelConfig};
use esp::head::Head;
use esp::ip::IpError;
use esp::replay::{Verdict, Window};
use esp::{Protected, protocol};

const OUTBOUND: &str = include_str!("vectors/outbound.txt");
const INBOUND: &str = include_str!("vectors/inbound.txt");
const WINDOW_BITS: u32 = 64;

struct Case {
    key: KeyContext,
    spi: u32,
    sequence: u64,
    esn: bool,
    config: TunnelConfig,
    inner: Vec<u8>,
    outer: Vec<u8>,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').collect())
}

fn cases() -> impl Iterator<Item = Case> {
    lines(OUTBOUND).map(|f| Case {
        key: KeyContext::aes_gcm_keymat(&hex(f[0]), 16).unwrap(),
        spi: u32::from_str_radix(f[1], 16).unwrap(),
        sequence: u64::from_str_radix(f[2], 16).unwrap(),
        esn: f[3] == "1",
        config: TunnelConfig {
            local: f[4].parse().unwrap(),
            remote: f[5].parse().unwrap(),
            udp_ports: f[6]
                .split_once(',')
                .map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())),
            icv_len: 16,
            df: match f[7] {
                "copy" => Df::Copy,
                "set" => Df::Set,
                "clear" => Df::Clear,
                other => panic!("df {other}"),
            },
            dscp: match f[8] {
                "copy" => Dscp::Copy,
                fixed => Dscp::Fixed(fixed.parse().unwrap()),
            },
            copy_ecn: f[9] == "1",
        },
        inner: hex(f[10]),
        outer: hex(f[11]),
    })
}

/// Runs `call` on a packet, with room behind it as crypto wants for a short ICV.
fn run(
    key: &KeyContext,
    protected: &Protected,
    packet: &mut [u8],
    call: fn(&mut [Op<'_>]),
) -> bool {
    let range = protected.data.clone();
    let mut data = packet[range.clone()].to_vec();
    data.resize(range.len() - key.icv_len() + ICV_ROOM, 0xa5);
    let mut ops = [Op::new(key, protected.iv, protected.aad, &mut data).unwrap()];
    call(&mut ops);
    let ok = ops[0].ok();
    packet[range.clone()].copy_from_slice(&data[..range.len()]);
    ok
}

fn seal(case: &Case) -> Vec<u8> {
    let tunnel = Tunnel::new(&case.config).unwrap();
    let sizes = tunnel.sizes(case.inner.len());
    let mut packet = [
        &vec![0xee; sizes.prepend],
        &case.inner[..],
        &vec![0xee; sizes.append],
    ]
    .concat();
    let inner = Head::parse(&case.inner).unwrap();
    let protected = tunnel
        .write(&mut packet, &inner, case.spi, case.sequence, case.esn)
        .unwrap();
    assert!(run(&case.key, &protected, &mut packet, crypto::seal));
    tunnel.finish(&mut packet);
    packet
}

/// The way of a packet from the wire to its plaintext: none if its ICV is wrong.
fn open(
    packet: &mut [u8],
    key: &KeyContext,
    window: Window<'_>,
    esn: bool,
) -> Result<Option<(Range<usize>, u64)>, DecapError> {
    let outer = Head::parse(packet).map_err(DecapError::Inner)?;
    let range = match outer.protocol {
        protocol::ESP => decap::esp_plain(&outer)?,
        _ => match decap::esp_in_udp(&outer, packet)? {
            InUdp::Esp(range) => range,
            other => panic!("{other:?}"),
        },
    };
    let header = EspHeader::parse(&packet[range.clone()])?;
    let low = header.sequence;
    let sequence = if esn {
        window.infer(low).unwrap()
    } else {
        u64::from(low)
    };
    let protected = header.sealed(range, key.icv_len(), sequence, esn)?;
    let ok = run(key, &protected, packet, crypto::open);
    let plain = protected.data.start..protected.data.end - key.icv_len();
    Ok(ok.then_some((plain, sequence)))
}

#[test]
fn sealed_like_scapy() {
    let mut count = 0;
    for case in cases() {
        assert_eq!(seal(&case), case.outer, "case {count}: {:?}", case.config);
        count += 1;
    }
    assert!(count > 100, "only {count} cases");
}

#[test]
fn opened_from_scapy() {
    for (number, case) in cases().enumerate() {
        let words = [const { AtomicU64::new(0) }; 1];
        let newest = [AtomicU64::new(case.sequence - 1), AtomicU64::new(0)];
        let window = Window::new(&words, &newest, WINDOW_BITS).unwrap();
        let mut packet = case.outer.clone();
        let (plain, sequence) = open(&mut packet, &case.key, window, case.esn)
            .unwrap()
            .unwrap();
        assert_eq!(sequence, case.sequence, "case {number}");
        assert_eq!(window.commit(sequence), Verdict::Fresh);
        assert_eq!(window.commit(sequence), Verdict::Duplicate);
        let Inner::Packet(inner) = decap::inner(&packet[plain.clone()]).unwrap() else {
            panic!("dummy in case {number}");
        };
        assert_eq!(packet[plain][..inner.len()], case.inner, "case {number}");
    }
}

#[test]
fn a_changed_byte_in_the_esp_packet_never_opens() {
    for case in cases().filter(|case| case.inner.len() < 70).step_by(5) {
        let words = [const { AtomicU64::new(0) }; 1];
        let newest = [AtomicU64::new(case.sequence - 1), AtomicU64::new(0)];
        let window = Window::new(&words, &newest, WINDOW_BITS).unwrap();
        let tunnel = Tunnel::new(&case.config).unwrap();
        let esp_at = tunnel.sizes(0).prepend - 16;
        for at in esp_at..case.outer.len() {
            let mut packet = case.outer.clone();
            packet[at] ^= 0x40;
            tunnel.finish(&mut packet); // a right UDP checksum, so that only the ICV can tell
            let opened = open(&mut packet, &case.key, window, case.esn);
            assert!(matches!(opened, Ok(None)), "byte {at}: {opened:?}");
        }
    }
}

/// With ESN the high half is authenticated though it is not sent (RFC 4303 2.2.1).
#[test]
fn a_wrong_high_half_never_opens() {
    let mut tried = 0;
    for case in cases().filter(|case| case.esn && case.sequence > u64::from(u32::MAX) + 64) {
        let words = [const { AtomicU64::new(0) }; 1];
        let newest = [AtomicU64::new(case.sequence - (1 << 32)), AtomicU64::new(0)];
        let window = Window::new(&words, &newest, WINDOW_BITS).unwrap();
        let opened = open(&mut case.outer.clone(), &case.key, window, true).unwrap();
        assert_eq!(opened, None);
        tried += 1;
    }
    assert!(tried > 0);
}

#[test]
fn what_others_may_send() {
    for fields in lines(INBOUND) {
        let key = KeyContext::aes_gcm_keymat(&hex(fields[1]), 16).unwrap();
        let words = [const { AtomicU64::new(0) }; 1];
        let newest = [AtomicU64::new(0), AtomicU64::new(0)];
        let window = Window::new(&words, &newest, WINDOW_BITS).unwrap();
        let mut packet = hex(fields[3]);
        let (plain, sequence) = open(&mut packet, &key, window, false).unwrap().unwrap();
        assert_eq!(sequence.to_string(), fields[2]);
        let outcome = match decap::inner(&packet[plain]) {
            Ok(Inner::Packet(inner)) => {
                assert_eq!(inner.total_len, 60);
                "packet"
            }
            Ok(Inner::Dummy) => "dummy",
            Err(DecapError::Padding) => "padding",
            Err(DecapError::NextHeader(6 | 144)) => "next_header",
            Err(DecapError::Inner(IpError::Version)) => "version",
            Err(DecapError::Inner(IpError::TotalLength)) => "total_length",
            Err(DecapError::Inner(IpError::Short)) => "short",
            Err(DecapError::Inner(IpError::Checksum)) => "checksum",
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(outcome, fields[0], "{}", fields[3]);
    }
}

//! From host to host through two gateways.

use api::counters::{Counter, DropReason};
use api::record::Direction;
use esp::ip::{Fragment, IpPacket};

use super::bench::{Gateway, HOST_MAC, INSIDE, OUTSIDE, TunnelShape, mac};
use super::packets::{TestPacket, frame};
use crate::links::Notice;

/// Sends a packet of site A to site B and gives what was on the wire between.
fn across(a: &mut Gateway, b: &mut Gateway, packet: TestPacket) -> Vec<u8> {
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    let sealed = a.sent_one(OUTSIDE);
    b.receive(OUTSIDE, std::slice::from_ref(&sealed));
    let arrived = b.sent_one(INSIDE);
    assert_eq!(
        arrived,
        frame(HOST_MAC, mac(2, INSIDE), &packet.after_hops(2).ip())
    );
    sealed
}

fn inner(v6: bool) -> TestPacket {
    if v6 {
        TestPacket::new("fd00:1::9", "fd00:2::9")
    } else {
        TestPacket::new("10.1.0.9", "10.2.0.9")
    }
}

#[test]
fn all_families_with_and_without_udp_and_esn() {
    for case in 0..16_u8 {
        let shape = TunnelShape {
            outer_v6: case & 1 != 0,
            udp: case & 2 != 0,
            esn: case & 4 != 0,
            key_bytes: if case & 1 == 0 { 20 } else { 36 },
            ..TunnelShape::default()
        };
        let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
        let sealed = across(&mut a, &mut b, inner(case & 8 != 0));
        assert_eq!(&sealed[..12], [mac(2, OUTSIDE), mac(1, OUTSIDE)].concat());
        let outer = IpPacket::parse(&sealed[14..]).unwrap();
        assert_eq!(outer.source.is_ipv6(), shape.outer_v6, "{shape:?}");
        assert_eq!(outer.protocol, if shape.udp { 17 } else { 50 });
        assert_eq!((outer.ttl, outer.fragment), (64, Fragment::No));
        let esp = &outer.l4(&sealed[14..])[if shape.udp { 8 } else { 0 }..];
        assert_eq!(esp[..4], b.inbound_id().0.to_be_bytes(), "SPI");
        assert_eq!(esp[4..8], 1_u32.to_be_bytes(), "sequence number");
        assert_eq!(esp[8..16], 1_u64.to_be_bytes(), "IV");
        assert_eq!(
            (
                a.count(Counter::Encapsulated),
                b.count(Counter::Decapsulated)
            ),
            (1, 1)
        );
    }
}

#[test]
fn a_batch_keeps_its_order_and_its_numbers() {
    let shape = TunnelShape::default();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    let packets: Vec<TestPacket> = (0..64)
        .map(|n| TestPacket {
            payload_bytes: 40 + n * 7,
            ..inner(n % 2 == 1)
        })
        .collect();
    let frames: Vec<_> = packets
        .iter()
        .map(|p| a.frame_to(INSIDE, &p.ip()))
        .collect();
    a.receive(INSIDE, &frames);
    let sealed = a.sent(OUTSIDE);
    let numbers: Vec<u32> = sealed
        .iter()
        .map(|f| u32::from_be_bytes(f[38..42].try_into().unwrap()))
        .collect();
    assert!(numbers.iter().copied().eq(1..=64));
    b.receive(OUTSIDE, &sealed);
    let arrived = b.sent(INSIDE);
    let expected = packets
        .iter()
        .map(|p| frame(HOST_MAC, mac(2, INSIDE), &p.after_hops(2).ip()));
    assert!(arrived.into_iter().eq(expected));
    // Two flights.
    assert_eq!(a.count(Counter::CryptoBatches), 2);
}

#[test]
fn traffic_goes_both_ways_and_rows_count_it() {
    let shape = TunnelShape::default();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    across(&mut a, &mut b, inner(false));
    let back = TestPacket::new("10.2.0.9", "10.1.0.9");
    b.receive(INSIDE, &[b.frame_to(INSIDE, &back.ip())]);
    let sealed = b.sent_one(OUTSIDE);
    a.receive(OUTSIDE, &[sealed]);
    assert_eq!(
        a.sent_one(INSIDE),
        frame(HOST_MAC, mac(1, INSIDE), &back.after_hops(2).ip())
    );
    for gateway in [&a, &b] {
        for id in [gateway.inbound_id(), gateway.outbound_id()] {
            let row = gateway.writer.tables().sad.geometry().row(id).unwrap();
            let row = gateway.state.row(row).unwrap().snapshot().unwrap();
            assert_eq!((row.packets, row.bytes, row.sequence), (1, 128, 1));
            assert_ne!(row.last_used_ms, 0);
        }
    }
}

#[test]
fn extended_numbers_go_on_past_32_bits() {
    let shape = TunnelShape {
        esn: true,
        start_sequence: u64::from(u32::MAX) - 1,
        ..TunnelShape::default()
    };
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    for _ in 0..4 {
        across(&mut a, &mut b, inner(false));
    }
    let row = a
        .writer
        .tables()
        .sad
        .geometry()
        .row(a.outbound_id())
        .unwrap();
    assert_eq!(a.state.row(row).unwrap().sequence(), (1 << 32) + 2);
    assert_eq!(b.drops(), []);
}

#[test]
fn short_numbers_never_cycle() {
    let start_sequence = u64::from(u32::MAX) - 1;
    let shape = TunnelShape {
        start_sequence,
        ..TunnelShape::default()
    };
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    across(&mut a, &mut b, inner(false));
    a.receive(INSIDE, &[a.frame_to(INSIDE, &inner(false).ip())]);
    assert_eq!(a.drops(), [(DropReason::SequenceOverflow, 1)]);
    // Asked for a new SA long before, too.
    let sa = a.outbound_id();
    let told = [false, true].map(|hard| Notice::Expire { sa, hard });
    assert_eq!(a.notices(), told);
}

#[test]
fn marks_are_copied_as_configured() {
    let shape = TunnelShape::default();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    // DSCP 46 with ECT(0): the child copies DSCP outwards (RFC 2983) and ECN (RFC 6040 4.1).
    let marked = TestPacket {
        tos: 46 << 2 | 0b10,
        df: true,
        ..inner(false)
    };
    let sealed = across(&mut a, &mut b, marked);
    let outer = IpPacket::parse(&sealed[14..]).unwrap();
    assert_eq!((outer.tos, outer.df), (46 << 2 | 0b10, true));
}

#[test]
fn a_rekey_loses_no_packet_and_touches_no_policy() {
    use api::id::{ChildId, SaId};
    use api::record::{Command, Status};
    let shape = TunnelShape::default();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    across(&mut a, &mut b, inner(false));
    let fresh = SaId::new(1, 30, 1).unwrap();
    let mut receiving = b.sa(shape, Direction::Inbound);
    (receiving.id, receiving.spi) = (fresh, fresh.0);
    assert_eq!(b.apply(Command::SaAdd(receiving)), Status::Ok);
    let mut sending = a.sa(shape, Direction::Outbound);
    (sending.id, sending.spi) = (SaId::new(1, 31, 1).unwrap(), fresh.0);
    let activate = Command::ActivateOutbound {
        child: ChildId(1),
        sa: sending.id,
    };
    assert_eq!(a.apply(Command::SaAdd(sending)), Status::Ok);
    let version = a.writer.tables().snapshot().version;
    assert_eq!(a.apply(activate), Status::Ok);
    assert_eq!(a.apply(Command::SaDelete(a.outbound_id())), Status::Ok);
    let sealed = across(&mut a, &mut b, inner(false));
    assert_eq!(sealed[34..38], fresh.0.to_be_bytes());
    assert_eq!(a.writer.tables().snapshot().version, version);
}

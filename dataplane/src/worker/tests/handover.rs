//! Packets of an SA that another worker owns.

use api::counters::{Counter, DropReason};

use super::bench::{Gateway, HOST_MAC, INSIDE, OUTSIDE, TunnelShape, mac};
use super::packets::{TestPacket, frame};
use crate::handover::HANDOVER_FRAMES;

/// Its SAs are the second worker's, and packets come to the first.
fn elsewhere() -> TunnelShape {
    TunnelShape {
        shard: 2,
        ..TunnelShape::default()
    }
}

/// Packets that differ in length.
fn packets(count: usize) -> Vec<TestPacket> {
    let packet = |n| TestPacket {
        payload_bytes: 40 + n * 7,
        ..TestPacket::new("10.1.0.9", "10.2.0.9")
    };
    (0..count).map(packet).collect()
}

fn frames(gateway: &Gateway, packets: &[TestPacket]) -> Vec<Vec<u8>> {
    let frame = |packet: &TestPacket| gateway.frame_to(INSIDE, &packet.ip());
    packets.iter().map(frame).collect()
}

fn sequences(sealed: &[Vec<u8>]) -> Vec<u32> {
    let sequence = |frame: &Vec<u8>| u32::from_be_bytes(frame[38..42].try_into().unwrap());
    sealed.iter().map(sequence).collect()
}

#[test]
fn packets_are_handed_over_before_they_are_numbered() {
    let shape = elsewhere();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    let packet = TestPacket::new("10.1.0.9", "10.2.0.9");
    let geometry = a.writer.tables().sad.geometry();
    let row = geometry.row(a.outbound_id()).unwrap();
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    assert_eq!(a.state.row(row).unwrap().sequence(), 0);
    assert_eq!(a.sent(OUTSIDE), Vec::<Vec<u8>>::new());
    a.second_turn();
    assert_eq!(a.state.row(row).unwrap().sequence(), 1);
    b.receive(OUTSIDE, &[a.sent_one(OUTSIDE)]);
    b.second_turn();
    let arrived = packet.after_hops(2).ip();
    assert_eq!(
        b.sent_one(INSIDE),
        frame(HOST_MAC, mac(2, INSIDE), &arrived)
    );
    for gateway in [&a, &b] {
        assert_eq!(gateway.count(Counter::HandedOver), 1);
        assert_eq!(gateway.count(Counter::TakenOver), 1);
        assert_eq!(gateway.drops(), []);
    }
}

#[test]
fn a_batch_that_is_handed_over_keeps_its_order_and_its_numbers() {
    let shape = elsewhere();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    let packets = packets(64);
    a.receive(INSIDE, &frames(&a, &packets));
    a.second_turn();
    let sealed = a.sent(OUTSIDE);
    assert!(sequences(&sealed).into_iter().eq(1..=64));
    b.receive(OUTSIDE, &sealed);
    b.second_turn();
    let expected = packets
        .iter()
        .map(|p| frame(HOST_MAC, mac(2, INSIDE), &p.after_hops(2).ip()));
    assert!(b.sent(INSIDE).into_iter().eq(expected));
    for gateway in [&a, &b] {
        assert_eq!(gateway.count(Counter::HandedOver), 64);
        assert_eq!(gateway.count(Counter::TakenOver), 64);
        assert_eq!(gateway.count(Counter::CryptoBatches), 1);
    }
}

#[test]
fn messages_of_a_few_packets_are_taken_over_together() {
    let mut a = Gateway::new(1, elsewhere());
    for packet in packets(20) {
        a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    }
    a.second_turn();
    assert!(sequences(&a.sent(OUTSIDE)).into_iter().eq(1..=20));
    assert_eq!(a.count(Counter::CryptoBatches), 1);
}

#[test]
fn what_a_full_peer_has_no_room_for_is_dropped_and_counted() {
    let mut a = Gateway::new(1, elsewhere());
    let burst = frames(&a, &packets(60));
    // 4,080 fit, and 16 of the next burst; then no more.
    for _ in 0..HANDOVER_FRAMES / 60 + 3 {
        a.receive(INSIDE, &burst);
    }
    let came = (HANDOVER_FRAMES / 60 + 3) * 60;
    let lost = (came - HANDOVER_FRAMES) as u64;
    assert_eq!(a.drops(), [(DropReason::HandoverFull, lost)]);
    assert_eq!(a.count(Counter::HandedOver), HANDOVER_FRAMES as u64);
    let mut numbers = Vec::new();
    while a.count(Counter::TakenOver) < HANDOVER_FRAMES as u64 {
        a.second_turn();
        numbers.extend(sequences(&a.sent(OUTSIDE)));
    }
    assert!(numbers.into_iter().eq(1..=4096));
    a.receive(INSIDE, &burst);
    a.second_turn();
    assert_eq!(a.sent(OUTSIDE).len(), 60, "there is room again");
    assert_eq!(a.drops(), [(DropReason::HandoverFull, lost)]);
}

#[test]
fn a_stop_in_between_loses_nothing_uncounted() {
    let mut a = Gateway::new(1, elsewhere());
    let burst = frames(&a, &packets(40));
    a.receive(INSIDE, &burst);
    a.stop_second();
    assert_eq!(a.drops(), [(DropReason::Stopping, 40)]);
    assert_eq!(a.count(Counter::TakenOver), 40);
    a.receive(INSIDE, &burst);
    assert_eq!(a.drops(), [(DropReason::Stopping, 80)]);
    assert_eq!(a.count(Counter::HandedOver), 40, "nobody took the others");
}

#[test]
fn a_packet_is_handed_on_so_many_times_only() {
    let mut a = Gateway::new(1, elsewhere());
    let packet = &frames(&a, &packets(1))[0];
    a.hand_over_to_first(packet, crate::links::HandedOver::MAX_HOPS - 1);
    a.second_turn();
    assert_eq!(a.sent(OUTSIDE).len(), 1);
    a.hand_over_to_first(packet, crate::links::HandedOver::MAX_HOPS);
    assert_eq!(a.drops(), [(DropReason::HandoverFull, 1)]);
    assert_eq!(a.count(Counter::TakenOver), 3);
}

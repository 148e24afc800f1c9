//! Crypto that is lent, with a test in the place of crypto workers: what may happen between the moments
//! at which a flight is made ready and goes on.

use std::sync::Arc;
use std::time::Duration;

use api::counters::{Counter, DropReason};
use api::record::Command;
use dpdk::{Batch, RxQueue};

use super::bench::{Gateway, INSIDE, OUTSIDE, TunnelShape};
use super::packets::TestPacket;
use crate::lending::Borrower;
use crate::tables::Tables;

/// A full burst, and what is counted of it.
const BURST: u16 = 64;
const PACKETS: u64 = 64;
/// Bursts without a loan when a crypto worker was late the first time.
const RESTS: usize = 64;
const SHAPE: TunnelShape = TunnelShape {
    window_bits: 256,
    ..TunnelShape::USUAL
};

/// Two sites; the one with this number lends.
fn pair(lender: u8, shape: TunnelShape) -> ([Gateway; 2], [(usize, Borrower); 2]) {
    let mut sites = [1, 2].map(|site| Gateway::new(site, shape));
    let crypto = sites[usize::from(lender) - 1].lend();
    (sites, crypto.try_into().ok().unwrap())
}

/// So many packets of one flow, which their length tells apart.
fn packets(gateway: &Gateway, count: u16, at_least_bytes: usize) -> Vec<Vec<u8>> {
    let frame = |number| {
        let packet = TestPacket {
            payload_bytes: at_least_bytes + usize::from(number),
            ..TestPacket::new("10.1.0.9", "10.2.0.9")
        };
        gateway.frame_to(INSIDE, &packet.ip())
    };
    (0..count).map(frame).collect()
}

fn long(gateway: &Gateway) -> Vec<Vec<u8>> {
    packets(gateway, BURST, 1000)
}

fn received(wire: &mut RxQueue) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let mut batch = Batch::new();
        if wire.rx_burst(&mut batch) == 0 {
            return frames;
        }
        frames.extend(batch.iter().map(|frame| frame.to_vec()));
    }
}

fn sent(gateway: &mut Gateway, by: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let more = gateway.sent(by);
        if more.is_empty() {
            return frames;
        }
        frames.extend(more);
    }
}

/// Sequence numbers of ESP over IPv4.
fn sequences(frames: &[Vec<u8>]) -> Vec<u32> {
    let number = |frame: &Vec<u8>| u32::from_be_bytes(frame[38..42].try_into().unwrap());
    frames.iter().map(number).collect()
}

fn lengths(frames: &[Vec<u8>]) -> Vec<usize> {
    frames.iter().map(Vec::len).collect()
}

/// Does all that is lent.
fn work((index, borrower): &mut (usize, Borrower), tables: &Tables) -> usize {
    let mut loans = 0;
    while let Some(claimed) = borrower.claim() {
        claimed.work(tables, *index);
        loans += 1;
    }
    loans
}

/// A burst that A has sealed.
fn sealed(a: &mut Gateway) -> Vec<Vec<u8>> {
    let plain = long(a);
    a.receive(INSIDE, &plain);
    sent(a, OUTSIDE)
}

#[test]
fn what_nobody_begins_with_is_taken_back() {
    let ([mut a, _], _crypto) = pair(1, SHAPE);
    let frames = sealed(&mut a);
    assert_eq!(sequences(&frames), Vec::from_iter(1..=64));
    assert_eq!(a.count(Counter::Lent), PACKETS);
    assert_eq!(a.count(Counter::TakenBack), PACKETS);
}

#[test]
fn lent_packets_of_every_shape_arrive() {
    for number in 0..16_u8 {
        let shape = TunnelShape {
            outer_v6: number & 1 != 0,
            udp: number & 2 != 0,
            esn: number & 4 != 0,
            key_bytes: if number & 8 != 0 { 36 } else { 20 },
            ..SHAPE
        };
        let ([mut a, mut b], mut of_a) = pair(1, shape);
        let mut of_b = b.lend();
        let plain = long(&a);
        let burst = [plain.clone()];
        a.receive_bursts(INSIDE, &burst, |_, writer, _| {
            assert_eq!(work(&mut of_a[0], writer.tables()), 2);
        });
        let burst = [sent(&mut a, OUTSIDE)];
        b.receive_bursts(OUTSIDE, &burst, |_, writer, _| {
            assert_eq!(work(&mut of_b[0], writer.tables()), 2);
        });
        // IP packets are the same, but for a hop or two.
        let arrived = sent(&mut b, INSIDE);
        assert_eq!(
            lengths(&arrived),
            lengths(&plain),
            "{shape:?}: {:?}",
            b.drops()
        );
        let payload = |frames: &[Vec<u8>]| Vec::from_iter(frames.iter().map(|f| f[34..].to_vec()));
        assert_eq!(payload(&arrived), payload(&plain), "{shape:?}");
        for site in [a, b] {
            assert_eq!(site.count(Counter::Lent), PACKETS);
            assert_eq!(site.count(Counter::TakenBack), 0);
        }
    }
}

#[test]
fn a_flight_waits_for_the_one_in_front_however_early_it_is_done() {
    let ([mut a, _], [(first, b0), mut second]) = pair(1, SHAPE);
    let (mut b0, mut held) = (b0, None);
    let mut b0 = Some(&mut b0);
    let bursts = [long(&a), packets(&a, 3, 10), packets(&a, 3, 10)];
    a.receive_bursts(INSIDE, &bursts, |number, writer, wires| match number {
        // Of two flights the second is done first.
        0 => {
            held = b0.take().unwrap().claim();
            assert!(held.is_some());
            assert_eq!(work(&mut second, writer.tables()), 1);
        }
        // These are not lent, and done at once.
        1 => assert_eq!(received(&mut wires[OUTSIDE]).len(), 0, "behind two flights"),
        _ => {
            assert_eq!(
                received(&mut wires[OUTSIDE]).len(),
                0,
                "behind three flights"
            );
            held.take().unwrap().work(writer.tables(), first);
        }
    });
    let frames = sent(&mut a, OUTSIDE);
    assert_eq!(sequences(&frames), Vec::from_iter(1..=70));
    assert_eq!(a.count(Counter::Lent), PACKETS);
    assert_eq!(a.count(Counter::TakenBack), 0);
}

#[test]
fn a_packet_twice_in_flights_under_way_at_once_passes_once() {
    let ([mut a, mut b], mut crypto) = pair(2, SHAPE);
    let (plain, frames) = (long(&a), sealed(&mut a));
    let bursts = [frames.clone(), frames];
    b.receive_bursts(OUTSIDE, &bursts, |number, writer, _| {
        if number == 1 {
            assert_eq!(
                work(&mut crypto[0], writer.tables()),
                4,
                "all passed the first look"
            );
        }
    });
    assert_eq!(lengths(&sent(&mut b, INSIDE)), lengths(&plain));
    assert_eq!(b.drops(), [(DropReason::Replayed, PACKETS)]);
}

#[test]
fn a_forged_packet_of_a_loan_is_dropped_alone() {
    let ([mut a, mut b], mut crypto) = pair(2, SHAPE);
    let (mut plain, mut frames) = (long(&a), sealed(&mut a));
    frames[40][100] ^= 1;
    plain.remove(40);
    b.receive_bursts(OUTSIDE, &[frames], |_, writer, _| {
        assert_eq!(work(&mut crypto[1], writer.tables()), 2);
    });
    assert_eq!(lengths(&sent(&mut b, INSIDE)), lengths(&plain));
    assert_eq!(b.drops(), [(DropReason::AuthFailed, 1)]);
}

#[test]
fn packets_of_an_sa_that_is_deleted_while_they_are_lent_are_dropped() {
    let ([mut a, _], mut crypto) = pair(1, SHAPE);
    let (burst, id) = ([long(&a)], a.outbound_id());
    a.receive_bursts(INSIDE, &burst, |_, writer, _| {
        writer.apply(Command::SaDelete(id));
        assert_eq!(work(&mut crypto[0], writer.tables()), 2);
    });
    assert_eq!(sent(&mut a, OUTSIDE).len(), 0);
    assert_eq!(a.drops(), [(DropReason::SaDeleted, PACKETS)]);
}

#[test]
fn a_loan_that_returns_undone_is_not_sent() {
    let ([mut a, _], mut crypto) = pair(1, SHAPE);
    // The same memory has been used for a loan that was done.
    sealed(&mut a);
    let burst = [long(&a)];
    a.receive_bursts(INSIDE, &burst, |_, _, _| {
        while let Some(claimed) = crypto[0].1.claim() {
            drop(claimed);
        }
    });
    assert_eq!(sent(&mut a, OUTSIDE).len(), 0);
    assert_eq!(a.drops(), [(DropReason::SaDeleted, PACKETS)]);
}

#[test]
fn short_packets_and_short_bursts_are_not_lent() {
    let ([mut a, _], _crypto) = pair(1, SHAPE);
    for frames in [packets(&a, BURST, 10), packets(&a, BURST - 1, 1000)] {
        a.receive(INSIDE, &frames);
        assert_eq!(sent(&mut a, OUTSIDE).len(), frames.len());
    }
    assert_eq!(a.count(Counter::Lent), 0);
}

#[test]
fn flights_beyond_those_that_can_wait_push_the_first_ones_on() {
    let ([mut a, _], _crypto) = pair(1, SHAPE);
    let bursts = vec![long(&a); 10];
    let mut early = Vec::new();
    a.receive_bursts(INSIDE, &bursts, |_, _, wires| {
        early.extend(received(&mut wires[OUTSIDE]))
    });
    assert!(!early.is_empty());
    let frames = [early, sent(&mut a, OUTSIDE)].concat();
    assert_eq!(sequences(&frames), Vec::from_iter(1..=640));
}

#[test]
fn a_crypto_worker_that_is_waited_for_too_long_gets_no_more_for_a_while() {
    let ([mut a, _], [(index, mut borrower), _]) = pair(1, SHAPE);
    let burst = [long(&a)];
    for rests in [RESTS, 2 * RESTS] {
        let lent = a.count(Counter::Lent);
        std::thread::scope(|scope| {
            let mut borrower = Some(&mut borrower);
            a.receive_bursts(INSIDE, &burst, |_, writer, _| {
                let claimed = borrower.take().unwrap().claim().unwrap();
                let tables = Arc::clone(writer.tables());
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(200));
                    claimed.work(&tables, index);
                });
            });
        });
        assert_eq!(a.count(Counter::Lent), lent + PACKETS);
        let mut frames = sent(&mut a, OUTSIDE);
        for _ in 0..rests {
            a.receive(INSIDE, &burst[0]);
            frames.extend(sent(&mut a, OUTSIDE));
        }
        assert_eq!(a.count(Counter::Lent), lent + PACKETS, "it rests");
        a.receive(INSIDE, &burst[0]);
        assert_eq!(a.count(Counter::Lent), lent + 2 * PACKETS, "then not");
        frames.extend(sent(&mut a, OUTSIDE));
        assert_eq!(frames.len(), (rests + 2) * usize::from(BURST));
        assert!(sequences(&frames).is_sorted());
    }
}

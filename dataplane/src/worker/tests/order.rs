//! No packet of an SA overtakes another, and none is lost: with real worker threads, by sequence
//! number on the wire and by a number inside each packet.
//!
//! ```text
//! this thread ─▶ A, two workers ─▶ this thread looks at sequence numbers ─▶ B, two workers ─┐
//!      ▲                                                                                    │
//!      └──────────────── this thread looks at the numbers inside packets ◀─────────────────┘
//! ```
//! `CULVERT_ORDER_PACKETS` says how many; `make order` sends ten million.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use api::counters::Counter;
use dpdk::{Batch, Mbuf, RxQueue, TxQueue};

use super::bench::{Gateway, INSIDE, OUTSIDE, Rings, TunnelShape, buffer};
use super::packets::TestPacket;
use crate::lending::CryptoWorker;
use crate::worker::Worker;

const PACKETS: u64 = 50_000;
/// Packets under way at once: fewer than the smallest ring holds, so that none is lost to haste.
const WINDOW: u64 = 1000;
/// Nothing has come for so long: something is lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ethernet, IPv4 and UDP.
const NUMBER_AT: usize = 14 + 20 + 8;
/// Seven short, four middling, one long.
const PAYLOADS: [usize; 12] = [36, 528, 36, 36, 528, 36, 1300, 36, 528, 36, 36, 528];

/// The SAs are those of a worker that receives nothing from ports.
const ELSEWHERE: TunnelShape = TunnelShape {
    shard: 2,
    ..TunnelShape::USUAL
};

/// A gateway whose workers run by themselves, and what its first worker is fed through.
struct Side {
    gateway: Gateway,
    crypto_workers: Vec<CryptoWorker>,
    input: TxQueue,
    /// The port that packets leave by.
    to: usize,
}

impl Side {
    /// Packets come in at `from`. The SAs are the first worker's (shard 1) or the second's.
    fn new(site: u8, shape: TunnelShape, from: usize, lends: bool) -> Self {
        let mut gateway = Gateway::new(site, shape);
        let borrowers = if lends { gateway.lend() } else { Vec::new() };
        let crypto_worker = |(index, borrower)| CryptoWorker {
            index,
            tables: Arc::clone(gateway.writer.tables()),
            borrower,
            max_latency_us: 50,
            time: Arc::default(),
        };
        let crypto_workers = borrowers.into_iter().map(crypto_worker).collect();
        let mut rings = Rings::take();
        gateway.receive_from(from, rings.wires.remove(0));
        if shape.shard == 2 {
            gateway.swap_senders();
        }
        Self {
            gateway,
            crypto_workers,
            input: rings.transmit.remove(0),
            to: 1 - from,
        }
    }

    fn split(&mut self) -> ([&mut Worker; 2], Ends<'_>) {
        let (workers, wires) = self.gateway.split();
        let ends = Ends {
            input: &mut self.input,
            output: &mut wires[self.to],
        };
        (workers, ends)
    }

    fn assert_all_passed(mut self, packets: u64, handed_over: bool, lends: bool) {
        if handed_over {
            self.gateway.swap_senders();
        }
        self.gateway.settle();
        let gateway = &self.gateway;
        assert_eq!(gateway.drops(), []);
        assert_eq!(gateway.count(Counter::Tx), packets);
        let elsewhere = if handed_over { packets } else { 0 };
        assert_eq!(gateway.count(Counter::HandedOver), elsewhere);
        assert_eq!(gateway.count(Counter::TakenOver), elsewhere);
        let lent = gateway.count(Counter::Lent);
        if lends {
            assert!(lent > gateway.count(Counter::TakenBack), "of {lent}");
        } else {
            assert_eq!(lent, 0);
        }
    }
}

/// Where packets go into a gateway and come out of it.
struct Ends<'a> {
    input: &'a mut TxQueue,
    output: &'a mut RxQueue,
}

/// Ends worker threads however the test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn packets() -> u64 {
    std::env::var("CULVERT_ORDER_PACKETS").map_or(PACKETS, |word| word.parse().unwrap())
}

/// A core for each thread, as far as there are as many.
fn pin(number: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if !cores.is_empty() {
        core_affinity::set_for_current(cores[number % cores.len()]);
    }
}

/// Gives a batch to a port's ring, which has room for the window.
fn give(queue: &mut TxQueue, batch: &mut Batch) {
    queue.tx_burst(batch);
    assert!(batch.is_empty(), "a ring is full");
}

fn take(queue: &mut RxQueue) -> Batch {
    let mut batch = Batch::new();
    queue.rx_burst(&mut batch);
    batch
}

fn sequence(frame: &Mbuf) -> u64 {
    u32::from_be_bytes(frame[38..42].try_into().unwrap()).into()
}

fn number(frame: &Mbuf) -> u64 {
    u64::from_be_bytes(frame[NUMBER_AT..NUMBER_AT + 8].try_into().unwrap())
}

/// Numbered packets of one flow.
struct Source {
    templates: Vec<Vec<u8>>,
    next: u64,
}

impl Source {
    fn new(gateway: &Gateway) -> Self {
        let template = |payload_bytes| {
            let packet = TestPacket {
                payload_bytes,
                ..TestPacket::new("10.1.0.9", "10.2.0.9")
            };
            gateway.frame_to(INSIDE, &packet.ip())
        };
        Self {
            templates: PAYLOADS.map(template).to_vec(),
            next: 0,
        }
    }

    /// The next ones, no more than up to `end`.
    fn batch(&mut self, end: u64) -> Batch {
        let mut batch = Batch::new();
        while self.next < end && !batch.is_full() {
            let at = usize::try_from(self.next).unwrap() % self.templates.len();
            let frame = &mut self.templates[at];
            frame[NUMBER_AT..NUMBER_AT + 8].copy_from_slice(&self.next.to_be_bytes());
            batch.push(buffer(frame)).unwrap();
            self.next += 1;
        }
        batch
    }
}

/// Feeds both and looks at all that comes, until all have come or nothing comes any more.
fn watch(mut source: Source, a: Ends<'_>, b: Ends<'_>, packets: u64) {
    let (mut sealed, mut opened) = (0, 0);
    let mut last = Instant::now();
    while opened < packets {
        give(a.input, &mut source.batch(packets.min(opened + WINDOW)));
        let mut wire = take(a.output);
        for frame in wire.iter() {
            sealed += 1;
            assert_eq!(sequence(frame), sealed, "on the wire");
        }
        give(b.input, &mut wire);
        let arrived = take(b.output);
        for frame in arrived.iter() {
            assert_eq!(number(frame), opened, "behind both gateways");
            opened += 1;
        }
        if !arrived.is_empty() {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            eprintln!("{} sent, {sealed} sealed, {opened} arrived", source.next);
            return;
        } else {
            std::thread::yield_now();
        }
    }
}

fn check(shape: TunnelShape, lends: bool) {
    let packets = packets();
    let mut a = Side::new(1, shape, INSIDE, lends);
    let mut b = Side::new(2, shape, OUTSIDE, lends);
    let source = Source::new(&a.gateway);
    let crypto_workers = [&mut a, &mut b].map(|side| std::mem::take(&mut side.crypto_workers));
    // Crypto workers are the last to stop: workers wait for what they lent.
    let (crypto_stop, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _crypto_stop = Stop(&crypto_stop);
        for (number, crypto_worker) in crypto_workers.into_iter().flatten().enumerate() {
            let stop = &crypto_stop;
            scope.spawn(move || {
                pin(number);
                crypto_worker.run(stop);
            });
        }
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            let (of_a, ends_of_a) = a.split();
            let (of_b, ends_of_b) = b.split();
            for (number, worker) in of_a.into_iter().chain(of_b).enumerate() {
                let stop = &stop;
                scope.spawn(move || {
                    pin(number);
                    worker.run(stop);
                });
            }
            watch(source, ends_of_a, ends_of_b, packets);
        });
    });
    for side in [a, b] {
        side.assert_all_passed(packets, shape.shard == 2, lends);
    }
}

#[test]
fn packets_of_one_sa_stay_in_order_at_home() {
    check(TunnelShape::USUAL, false);
}

#[test]
fn packets_of_one_sa_stay_in_order_when_handed_over() {
    check(ELSEWHERE, false);
}

#[test]
fn packets_of_one_sa_stay_in_order_when_lent() {
    check(TunnelShape::USUAL, true);
}

#[test]
fn packets_of_one_sa_stay_in_order_when_handed_over_and_lent() {
    check(ELSEWHERE, true);
}

//! The share of its time that a worker needs for packets.

use api::counters::Counter;

use super::bench::{Gateway, HOST_MAC, INSIDE, TunnelShape, mac};
use super::packets::{TestPacket, frame};

#[test]
fn turns_without_packets_and_waits_are_not_busy() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let packet = TestPacket::new("10.1.0.1", "10.1.0.9").ip();
    let packet = frame(HOST_MAC, mac(1, INSIDE), &packet);
    a.run_by_clock(&[
        (1_000, Some(&packet)),
        // A turn with a packet.
        (1_010, None),
        // An empty turn; a packet comes while the worker waits.
        (1_015, Some(&packet)),
        // The wait.
        (1_215, None),
        // A turn with a packet, and an empty one.
        (1_235, None),
        (1_236, None),
        // Another wait.
        (1_237, Some(&packet)),
        // The last turn.
        (1_277, None),
    ]);
    assert_eq!(a.count(Counter::EmptyPolls), 2);
    assert_eq!(a.count(Counter::Cycles), 277);
    assert_eq!(a.count(Counter::BusyCycles), 10 + 20 + 40);
}

//! What is remembered must never say more than the tables would.

use api::counters::{Counter, DropReason};
use api::id::{ChildId, PolicyId};
use api::record::{Action, Command, Direction, Status};
use esp::ether;

use super::bench::{Gateway, INSIDE, OUTSIDE, TunnelShape, mac, net, policy, port, selector};
use super::packets::{TestPacket, frame, ip, udp};
use crate::port::Mac;

/// Both families: hosts at A and B.
const HOSTS: [(&str, &str); 2] = [("10.1.0.9", "10.2.0.9"), ("fd00:1::9", "fd00:2::9")];

fn pair() -> (Gateway, Gateway) {
    let shape = TunnelShape::default();
    (Gateway::new(1, shape), Gateway::new(2, shape))
}

/// UDP from the host at A to this port of the host at B.
fn to_port((from, to): (&str, &str), destination: u16) -> Vec<u8> {
    let datagram = udp(1000, destination, b"payload");
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    ip(from, to, 17, 64, 0, false, &datagram)
}

fn send(a: &mut Gateway, b: &mut Gateway, packet: &[u8]) {
    a.receive(INSIDE, &[a.frame_to(INSIDE, packet)]);
    b.receive(OUTSIDE, &[a.sent_one(OUTSIDE)]);
}

fn looks(gateway: &Gateway) -> (u64, u64) {
    (
        gateway.count(Counter::FlowCacheHits),
        gateway.count(Counter::FlowCacheMisses),
    )
}

#[test]
fn the_second_packet_of_a_flow_is_remembered_and_looks_like_the_first() {
    for hosts in HOSTS {
        let (mut a, mut b) = pair();
        for turn in 0..3_u64 {
            send(&mut a, &mut b, &to_port(hosts, 2000));
            assert_eq!(looks(&a), (turn, 1), "{hosts:?}");
            let inner = b.sent_one(INSIDE);
            let mut due = to_port(hosts, 2000);
            for _ in 0..2 {
                esp::ip::decrement_ttl(&mut due).unwrap();
            }
            assert_eq!(inner[14..], due, "{hosts:?}, packet {turn}");
            let ethernet = ether::Ethernet::parse(&inner).unwrap();
            assert_eq!(ethernet.source, mac(2, INSIDE));
        }
        // Another flow is another question.
        send(&mut a, &mut b, &to_port(hosts, 2001));
        assert_eq!(looks(&a), (2, 2));
    }
}

#[test]
fn what_has_no_ports_or_is_for_the_gateway_is_not_asked_for() {
    let (mut a, _) = pair();
    let (from, to) = ("10.1.0.9".parse().unwrap(), "10.2.0.9".parse().unwrap());
    let echo = ip(from, to, 1, 64, 0, false, &[8, 0, 0, 0, 0, 1, 0, 1]);
    for _ in 0..2 {
        a.receive(INSIDE, &[a.frame_to(INSIDE, &echo)]);
        a.sent_one(OUTSIDE);
    }
    assert_eq!(looks(&a), (0, 0));
    let to_us = to_port(("10.1.0.9", "10.1.0.1"), 2000);
    for _ in 0..2 {
        a.receive(INSIDE, &[a.frame_to(INSIDE, &to_us)]);
    }
    // Nobody knows before the look that it is, and it is not remembered.
    assert_eq!(looks(&a), (0, 2));
    assert_eq!(a.sent(OUTSIDE), Vec::<Vec<u8>>::new());
}

#[test]
fn a_remembered_flow_is_forgotten_with_its_policy() {
    for (hosts, id) in HOSTS.into_iter().zip([1, 3]) {
        let (mut a, _) = pair();
        for _ in 0..2 {
            a.receive(INSIDE, &[a.frame_to(INSIDE, &to_port(hosts, 2000))]);
            a.sent_one(OUTSIDE);
        }
        assert_eq!(a.apply(Command::PolicyDelete(PolicyId(id))), Status::Ok);
        a.receive(INSIDE, &[a.frame_to(INSIDE, &to_port(hosts, 2000))]);
        assert_eq!(a.sent(OUTSIDE), Vec::<Vec<u8>>::new(), "{hosts:?}");
        assert_eq!(a.drops(), [(DropReason::NoPolicy, 1)]);
    }
}

/// What a pair of hosts may say to each other depends on ports: one allowed packet says nothing of
/// others (RFC 4301 5.2 step 4).
#[test]
fn selectors_with_ports_are_looked_at_for_each_packet() {
    for (v6, hosts) in [false, true].into_iter().zip(HOSTS) {
        let (mut a, mut b) = pair();
        let id = PolicyId(2 + u32::from(v6) * 2);
        let mut narrow = selector(&net(2, v6), &net(1, v6));
        (narrow.protocol, narrow.local_ports) = (17, (2000, 2000));
        let action = Action::Protect(ChildId(1));
        let replaced = policy(id, Direction::Inbound, action, 100, narrow);
        assert_eq!(b.apply(Command::PolicyDelete(id)), Status::Ok);
        assert_eq!(b.apply(Command::PolicyAdd(replaced)), Status::Ok);
        for _ in 0..2 {
            send(&mut a, &mut b, &to_port(hosts, 2000));
            b.sent_one(INSIDE);
            send(&mut a, &mut b, &to_port(hosts, 2001));
            assert_eq!(b.sent(INSIDE), Vec::<Vec<u8>>::new(), "{hosts:?}");
        }
        assert_eq!(b.drops(), [(DropReason::InnerSelector, 2)]);
    }
}

#[test]
fn a_remembered_pair_is_forgotten_with_its_policy_and_its_neighbour() {
    for (v6, hosts) in [false, true].into_iter().zip(HOSTS) {
        let (mut a, mut b) = pair();
        for _ in 0..2 {
            send(&mut a, &mut b, &to_port(hosts, 2000));
            b.sent_one(INSIDE);
        }
        let moved = Mac([2, 0, 0, 0, 7, 7]);
        let host = hosts.1.parse().unwrap();
        b.writer.set_neighbour(port(INSIDE), host, Some(moved));
        b.writer.publish();
        send(&mut a, &mut b, &to_port(hosts, 2000));
        assert_eq!(b.sent_one(INSIDE)[..6], moved.0, "{hosts:?}");
        let id = PolicyId(2 + u32::from(v6) * 2);
        assert_eq!(b.apply(Command::PolicyDelete(id)), Status::Ok);
        send(&mut a, &mut b, &to_port(hosts, 2000));
        assert_eq!(b.sent(INSIDE), Vec::<Vec<u8>>::new());
        assert_eq!(b.drops(), [(DropReason::InnerSelector, 1)]);
    }
}

/// Hop limit and size are the packet's own, whatever is remembered of its hosts.
#[test]
fn a_remembered_way_is_no_way_for_a_packet_without_hops() {
    let (mut a, mut b) = pair();
    let packet = TestPacket::new("10.1.0.9", "10.2.0.9");
    for ttl in [64, 64, 2] {
        send(&mut a, &mut b, &TestPacket { ttl, ..packet }.ip());
    }
    assert_eq!(b.sent(INSIDE).len(), 2);
    assert_eq!(b.drops(), [(DropReason::TtlExceeded, 1)]);
    let last = TestPacket { ttl: 1, ..packet }.ip();
    a.receive(INSIDE, &[frame(mac(1, INSIDE), [2; 6], &last)]);
    assert_eq!(a.drops(), [(DropReason::TtlExceeded, 1)]);
}

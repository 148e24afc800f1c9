//! Clear packets, exceptions, and frames that are no good.

use api::counters::{Counter, DropReason};
use api::record::{Action, Direction, Status};
use esp::ether;

use super::bench::{
    Excepted, Gateway, HOST_MAC, INSIDE, OUTSIDE, TunnelShape, any_v4, mac, outer, port,
};
use super::packets::{TestPacket, frame, frame_of, ip, udp};
use crate::links::Class;
use crate::port::Mac;

const NONE: [Vec<u8>; 0] = [];

fn with_bypass() -> Gateway {
    let mut gateway = Gateway::new(1, TunnelShape::default());
    for (id, direction) in [(50, Direction::Inbound), (51, Direction::Outbound)] {
        assert_eq!(
            gateway.apply(any_v4(id, direction, Action::Bypass)),
            Status::Ok
        );
    }
    gateway
}

#[test]
fn before_the_first_commit_only_exceptions_pass() {
    let mut a = Gateway::bare(1);
    let clear = TestPacket::new("10.1.0.9", "10.7.0.9").ip();
    let ike = ip(
        outer(2, false),
        outer(1, false),
        17,
        64,
        0,
        false,
        &udp(500, 500, &[0; 28]),
    );
    a.receive(INSIDE, &[a.frame_to(INSIDE, &clear)]);
    a.receive(OUTSIDE, &[a.frame_to(OUTSIDE, &ike)]);
    a.inject(INSIDE, &frame(HOST_MAC, mac(1, INSIDE), &clear));
    assert_eq!(a.drops(), [(DropReason::NotReady, 2)]);
    assert!(matches!(
        a.excepted[..],
        [Excepted::Punt {
            class: Class::IkeInit,
            ..
        }]
    ));
}

#[test]
fn no_policy_is_a_discard_in_both_directions() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let out = TestPacket::new("10.1.0.9", "10.7.0.9").ip();
    let back = TestPacket::new("10.7.0.9", "10.1.0.9").ip();
    a.receive(INSIDE, &[a.frame_to(INSIDE, &out)]);
    a.receive(OUTSIDE, &[a.frame_to(OUTSIDE, &back)]);
    a.inject(OUTSIDE, &frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &out));
    assert_eq!(a.drops(), [(DropReason::NoPolicy, 3)]);
    assert_eq!((a.sent(INSIDE), a.sent(OUTSIDE)), (vec![], vec![]));
}

#[test]
fn a_discard_policy_wins_by_priority() {
    let mut a = with_bypass();
    let selector_command = any_v4(60, Direction::Outbound, Action::Discard);
    let api::record::Command::PolicyAdd(mut discard) = selector_command else {
        unreachable!()
    };
    discard.priority = 1;
    assert_eq!(
        a.apply(api::record::Command::PolicyAdd(discard)),
        Status::Ok
    );
    let packet = TestPacket::new("10.1.0.9", "10.2.0.9").ip();
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet)]);
    assert_eq!(a.drops(), [(DropReason::DiscardPolicy, 1)]);
}

#[test]
fn bypassed_packets_are_routed() {
    let mut a = with_bypass();
    let out = TestPacket::new("10.1.0.9", "198.51.100.1");
    a.receive(INSIDE, &[a.frame_to(INSIDE, &out.ip())]);
    let expected = frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &out.after_hops(1).ip());
    assert_eq!(a.sent_one(OUTSIDE), expected);
    let back = TestPacket::new("198.51.100.1", "10.1.0.9");
    a.receive(OUTSIDE, &[a.frame_to(OUTSIDE, &back.ip())]);
    let expected = frame(HOST_MAC, mac(1, INSIDE), &back.after_hops(1).ip());
    assert_eq!(a.sent_one(INSIDE), expected);
    assert_eq!(a.count(Counter::Bypassed), 2);
}

#[test]
fn what_linux_sends_is_bypassed_as_it_is() {
    let mut a = with_bypass();
    let sent = frame(
        HOST_MAC,
        mac(1, INSIDE),
        &TestPacket::new("10.1.0.1", "10.1.0.9").ip(),
    );
    a.inject(INSIDE, &sent);
    assert_eq!(a.sent_one(INSIDE), sent);
}

#[test]
fn ike_arp_and_neighbour_discovery_pass_both_ways_without_policy() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let arp = frame_of([0xff; 6], HOST_MAC, ether::ARP, &[0; 28]);
    let solicit = [&[135, 0, 0, 0][..], &[0; 20]].concat();
    let to = "ff02::1:ff00:1".parse().unwrap();
    let nd = ip("fe80::9".parse().unwrap(), to, 58, 255, 0, false, &solicit);
    let nd = frame([0x33, 0x33, 0xff, 0, 0, 1], HOST_MAC, &nd);
    a.receive(INSIDE, &[arp.clone(), nd.clone()]);
    let neighbour = |frame| Excepted::Punt {
        port: INSIDE,
        class: Class::Neighbour,
        frame,
    };
    assert_eq!(a.excepted, [neighbour(arp.clone()), neighbour(nd.clone())]);
    let ike = ip(
        outer(1, false),
        outer(2, false),
        17,
        64,
        0,
        false,
        &udp(500, 500, &[0; 28]),
    );
    let ike = frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &ike);
    for sent in [&arp, &nd, &ike] {
        a.inject(OUTSIDE, sent);
    }
    assert_eq!(a.sent(OUTSIDE), [arp, nd, ike]);
    let stolen = ip(
        "10.1.0.9".parse().unwrap(),
        outer(2, false),
        17,
        64,
        0,
        false,
        &udp(500, 500, &[]),
    );
    a.inject(OUTSIDE, &frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &stolen));
    assert_eq!(
        a.drops(),
        [(DropReason::NoPolicy, 1)],
        "not an address of ours"
    );
}

/// A multicast listener report of this type, behind a router alert (RFC 3810 5).
fn mld(kind: u8, hop_limit: u8, to: &str) -> Vec<u8> {
    let (from, to) = ("fe80::9".parse().unwrap(), to.parse().unwrap());
    let router_alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let report = [&router_alert[..], &[kind, 0, 0, 0], &[0; 20]].concat();
    ip(from, to, 0, hop_limit, 0, false, &report)
}

fn igmp(ttl: u8, to: &str) -> Vec<u8> {
    let (from, to) = ("10.1.0.9".parse().unwrap(), to.parse().unwrap());
    ip(from, to, 2, ttl, 0, false, &[0x22, 0, 0, 0, 0, 0, 0, 0])
}

#[test]
fn group_membership_passes_both_ways_without_policy() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let mut frames: Vec<_> = [130, 131, 132, 143]
        .map(|kind| mld(kind, 1, "ff02::16"))
        .into();
    frames.push(igmp(1, "224.0.0.22"));
    let group = [0x33, 0x33, 0, 0, 0, 0x16];
    let frames: Vec<_> = frames.iter().map(|ip| frame(group, HOST_MAC, ip)).collect();
    a.receive(INSIDE, &frames);
    let punted = frames.iter().map(|frame| Excepted::Punt {
        port: INSIDE,
        class: Class::Neighbour,
        frame: frame.clone(),
    });
    assert_eq!(a.excepted, punted.collect::<Vec<_>>());
    for frame in &frames {
        a.inject(OUTSIDE, frame);
    }
    assert_eq!(a.sent(OUTSIDE), frames);
    assert_eq!(a.drops(), []);
}

#[test]
fn group_membership_beyond_the_link_is_no_exception() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let others = [
        mld(143, 2, "ff02::16"),
        mld(128, 1, "ff02::16"),
        igmp(2, "224.0.0.22"),
        igmp(1, "10.2.0.9"),
    ];
    for ip in &others {
        a.inject(OUTSIDE, &frame([0x33; 6], HOST_MAC, ip));
    }
    assert_eq!(a.sent(OUTSIDE).len(), 1, "the last one into the tunnel");
    assert_eq!(a.count(Counter::Encapsulated), 1);
    assert_eq!(a.drops(), [(DropReason::NoPolicy, 3)]);
}

#[test]
fn neighbour_discovery_that_crossed_a_router_is_no_exception() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let solicit = [&[135, 0, 0, 0][..], &[0; 20]].concat();
    let local = "fd00:1::1".parse().unwrap();
    let nd = ip(
        "fd00:1::9".parse().unwrap(),
        local,
        58,
        254,
        0,
        false,
        &solicit,
    );
    a.receive(INSIDE, &[a.frame_to(INSIDE, &nd)]);
    assert_eq!(a.drops(), [(DropReason::NoPolicy, 1)]);
}

#[test]
fn ike_is_sorted_by_what_it_costs() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let mut message = vec![7; 8];
    message.extend([0; 8]);
    message.extend([33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0, 40]);
    message.extend([0; 12]);
    let mut cookie = message.clone();
    cookie[16] = 41;
    cookie[28 + 6..28 + 8].copy_from_slice(&16390_u16.to_be_bytes());
    let mut response = message.clone();
    response[19] = 0x20;
    let mut established = message.clone();
    established[8] = 1;
    for bytes in [message, cookie, response, established] {
        let packet = ip(
            outer(2, false),
            outer(1, false),
            17,
            64,
            0,
            false,
            &udp(500, 500, &bytes),
        );
        a.receive(OUTSIDE, &[a.frame_to(OUTSIDE, &packet)]);
    }
    let class = |excepted: &Excepted| match excepted {
        Excepted::Punt { class, .. } => *class,
        Excepted::Held { .. } => Class::Rest,
    };
    let classes: Vec<_> = a.excepted.iter().map(class).collect();
    assert_eq!(
        classes,
        [Class::IkeInit, Class::IkeInitCookie, Class::Ike, Class::Ike]
    );
}

#[test]
fn exceptions_are_limited_by_class() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let ike = ip(
        outer(2, false),
        outer(1, false),
        17,
        64,
        0,
        false,
        &udp(500, 500, &[0; 28]),
    );
    let frames = vec![a.frame_to(OUTSIDE, &ike); 64];
    for _ in 0..10 {
        a.receive(OUTSIDE, &frames);
    }
    let passed = a.count(Counter::Punted);
    assert!((400..640).contains(&passed), "{passed} of 640, burst 400");
    assert_eq!(a.drops(), [(DropReason::LimitIkeInit, 640 - passed)]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn frames_that_are_no_good_are_dropped_with_their_reason() {
    use DropReason as R;
    let mut a = with_bypass();
    let good = TestPacket::new("10.1.0.9", "198.51.100.1").ip();
    let to = mac(1, INSIDE);
    let changed = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        frame(to, HOST_MAC, &packet)
    };
    let packet = |from: &str, dst: &str| {
        ip(
            from.parse().unwrap(),
            dst.parse().unwrap(),
            17,
            64,
            0,
            false,
            &udp(1, 2, &[0; 20]),
        )
    };
    let cases = [
        (R::MalformedEthernet, vec![0; 13]),
        (R::NotForUs, frame([2, 9, 9, 9, 9, 9], HOST_MAC, &good)),
        (R::OwnFrame, frame(to, to, &good)),
        (
            R::Vlan,
            frame_of(to, HOST_MAC, 0x8100, &[&[0, 7, 8, 0][..], &good].concat()),
        ),
        (
            R::UnsupportedEthertype,
            frame_of(to, HOST_MAC, 0x88cc, &good),
        ),
        (
            R::UnsupportedEthertype,
            frame_of(to, HOST_MAC, 0x0100, &good),
        ),
        (
            R::MalformedArp,
            frame_of(to, HOST_MAC, ether::ARP, &[0; 27]),
        ),
        (
            R::MalformedIpv4,
            frame(to, HOST_MAC, &good[..good.len() - 1]),
        ),
        (R::MalformedIpv4, changed(0, 0x44)),
        (R::Ipv4Checksum, changed(8, 9)),
        (R::MalformedIpv6, frame_of(to, HOST_MAC, ether::IPV6, &good)),
        (
            R::BadAddress,
            frame(to, HOST_MAC, &packet("127.0.0.1", "198.51.100.1")),
        ),
        (
            R::BadAddress,
            frame(to, HOST_MAC, &packet("224.0.0.1", "198.51.100.1")),
        ),
        (R::Broadcast, frame([0xff; 6], HOST_MAC, &good)),
        (
            R::LinkLocal,
            frame(to, HOST_MAC, &packet("fe80::9", "fd00:2::9")),
        ),
        (
            R::NoPolicy,
            frame(to, HOST_MAC, &packet("fd00:1::9", "fd00:7::9")),
        ),
        (
            R::Multicast,
            frame([0x33; 6], HOST_MAC, &packet("fd00:1::9", "ff02::fb")),
        ),
        (R::AhUnsupported, {
            let ah = ip(
                "10.1.0.9".parse().unwrap(),
                "10.1.0.1".parse().unwrap(),
                51,
                64,
                0,
                false,
                &[0; 24],
            );
            frame(to, HOST_MAC, &ah)
        }),
    ];
    for (reason, frame) in cases {
        let before = a.state.totals().dropped(reason);
        a.receive(INSIDE, &[frame]);
        assert_eq!(a.state.totals().dropped(reason), before + 1, "{reason}");
    }
    assert_eq!(a.sent(OUTSIDE), NONE);
    assert_eq!(a.excepted, []);
}

#[test]
fn ethernet_padding_does_not_travel() {
    let mut a = with_bypass();
    let short = TestPacket {
        payload_bytes: 2,
        ..TestPacket::new("10.1.0.9", "10.2.0.9")
    };
    let mut b = Gateway::new(2, TunnelShape::default());
    let mut padded = a.frame_to(INSIDE, &short.ip());
    padded.resize(60, 0xee);
    a.receive(INSIDE, &[padded]);
    b.receive(OUTSIDE, &[a.sent_one(OUTSIDE)]);
    assert_eq!(b.sent_one(INSIDE)[14..], short.after_hops(2).ip());
}

#[test]
fn a_clear_packet_waits_for_its_neighbour_and_then_leaves() {
    let mut a = with_bypass();
    let packet = TestPacket::new("198.51.100.1", "10.1.0.77");
    a.receive(OUTSIDE, &[a.frame_to(OUTSIDE, &packet.ip())]);
    let next_hop = "10.1.0.77".parse().unwrap();
    assert_eq!(
        a.excepted,
        [Excepted::Held {
            port: INSIDE,
            next_hop
        }]
    );
    a.writer
        .set_neighbour(port(INSIDE), next_hop, Some(Mac(HOST_MAC)));
    a.writer.publish();
    a.release_held();
    let expected = frame(HOST_MAC, mac(1, INSIDE), &packet.after_hops(1).ip());
    assert_eq!(a.sent_one(INSIDE), expected);
}

#[test]
fn a_flood_to_a_neighbour_that_never_answers_is_limited() {
    let mut a = with_bypass();
    let packet = TestPacket::new("198.51.100.1", "10.1.0.77").ip();
    let frames = vec![a.frame_to(OUTSIDE, &packet); 64];
    for _ in 0..10 {
        a.receive(OUTSIDE, &frames);
    }
    let held = a.excepted.len();
    assert!((400..640).contains(&held), "{held} of 640, burst 400");
    let dropped = 640 - held as u64;
    assert_eq!(a.drops(), [(DropReason::NeighbourUnresolved, dropped)]);
}

#[test]
fn random_and_cut_frames_are_all_accounted_for() {
    let mut a = with_bypass();
    let good = a.frame_to(INSIDE, &TestPacket::new("10.1.0.9", "10.2.0.9").ip());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap()
    };
    for _ in 0..300 {
        let frames: Vec<Vec<u8>> = (0..16)
            .map(|_| {
                let mut frame = good[..random() % (good.len() + 1)].to_vec();
                for _ in 0..random() % 4 {
                    let len = frame.len().max(1);
                    if let Some(byte) = frame.get_mut(random() % len) {
                        *byte = u8::try_from(random() % 256).unwrap();
                    }
                }
                frame
            })
            .collect();
        a.receive(if random() % 2 == 0 { INSIDE } else { OUTSIDE }, &frames);
        a.sent(INSIDE);
        a.sent(OUTSIDE);
    }
    assert_eq!(a.count(Counter::Rx), 300 * 16);
}

#[test]
fn between_inside_ports_a_policy_is_needed_too() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let packet = TestPacket::new("10.1.0.77", "10.1.0.9");
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    assert_eq!(a.drops(), [(DropReason::NoPolicy, 1)]);
    assert_eq!(
        a.apply(any_v4(51, Direction::Outbound, Action::Bypass)),
        Status::Ok
    );
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    assert_eq!(a.sent_one(INSIDE)[14..], packet.after_hops(1).ip());
}

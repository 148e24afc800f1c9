//! Packets towards a tunnel that do not get there (RFC 4301 5.1, 8.2).

use api::counters::{Counter, DropReason};
use api::id::{ChildId, PolicyId};
use api::record::{Command, FiveTuple, Limits, Status};
use esp::ip::{IpPacket, Ports};

use super::bench::{Excepted, Gateway, HOST_MAC, INSIDE, OUTSIDE, TunnelShape, mac, port};
use super::packets::{TestPacket, frame};
use crate::links::{Class, Notice};

fn packet(v6: bool, total_bytes: usize) -> TestPacket {
    let (from, to, headers) = if v6 {
        ("fd00:1::9", "fd00:2::9", 48)
    } else {
        ("10.1.0.9", "10.2.0.9", 28)
    };
    let payload_bytes = total_bytes - headers;
    TestPacket {
        payload_bytes,
        df: true,
        ..TestPacket::new(from, to)
    }
}

/// Checks an ICMP error: from where, what kind, and the MTU it tells.
fn assert_icmp(frame: &[u8], v6: bool, type_code: u16, mtu: u32) {
    let packet = &frame[14..];
    let parsed = IpPacket::parse(packet).unwrap();
    let (from, to) = if v6 {
        ("fd00:1::1", "fd00:1::9")
    } else {
        ("10.1.0.1", "10.1.0.9")
    };
    assert_eq!(
        (parsed.source, parsed.destination),
        (from.parse().unwrap(), to.parse().unwrap())
    );
    assert_eq!(parsed.ports, Ports::TypeCode(type_code));
    let told = u32::from_be_bytes(parsed.l4(packet)[4..8].try_into().unwrap());
    assert_eq!(told, mtu);
}

#[test]
fn the_largest_packet_passes_and_one_byte_more_is_answered() {
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let shape = TunnelShape {
            udp,
            ..TunnelShape::default()
        };
        let mut a = Gateway::new(1, shape);
        // IPv4 20, UDP 8, ESP 8, IV 8, trailer 2, ICV 16; the ciphertext ends on 4 bytes.
        let largest = if udp { 1438 } else { 1446 };
        a.receive(INSIDE, &[a.frame_to(INSIDE, &packet(v6, largest).ip())]);
        assert!(a.sent_one(OUTSIDE).len() <= 14 + 1500);
        let offending = packet(v6, largest + 1).ip();
        a.receive(INSIDE, &[a.frame_to(INSIDE, &offending)]);
        assert_eq!(a.sent(OUTSIDE), Vec::<Vec<u8>>::new());
        let answer = a.sent_one(INSIDE);
        assert_eq!(answer[..12], [HOST_MAC, mac(1, INSIDE)].concat());
        let kind = if v6 { 0x0200 } else { 0x0304 };
        assert_icmp(&answer, v6, kind, u32::try_from(largest).unwrap());
        assert_eq!(a.drops(), [(DropReason::TooBigAnswered, 1)]);
        assert_eq!(a.count(Counter::Generated), 1);
    }
}

#[test]
fn too_big_without_df_is_dropped_with_its_own_reason() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let packet = TestPacket {
        df: false,
        ..packet(false, 1500)
    };
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    assert_eq!(a.drops(), [(DropReason::TooBig, 1)]);
    assert_eq!(a.sent(INSIDE), Vec::<Vec<u8>>::new());
}

#[test]
fn the_paths_own_mtu_counts() {
    let shape = TunnelShape::default();
    let mut a = Gateway::new(1, shape);
    let path = api::record::Path {
        mtu_bytes: 1000,
        ..a.path(shape)
    };
    assert_eq!(a.apply(Command::PathUpdate(path)), Status::Ok);
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet(false, 947).ip())]);
    assert_icmp(&a.sent_one(INSIDE), false, 0x0304, 946);
}

#[test]
fn linux_hears_of_its_own_too_big_packets_through_the_twin() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let big = TestPacket {
        from: "10.1.0.1",
        ..packet(false, 1500)
    };
    let from_linux = frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &big.ip());
    a.inject(OUTSIDE, &from_linux);
    let [
        Excepted::Punt {
            port,
            class: Class::Rest,
            frame,
        },
    ] = &a.excepted[..]
    else {
        panic!("{:?}", a.excepted);
    };
    assert_eq!(*port, OUTSIDE);
    assert_eq!(frame[..6], mac(1, OUTSIDE));
    let answer = IpPacket::parse(&frame[14..]).unwrap();
    assert_eq!(answer.ports, Ports::TypeCode(0x0304));
    let (source, destination) = (answer.source.to_string(), answer.destination.to_string());
    assert_eq!(
        (source.as_str(), destination.as_str()),
        ("10.2.0.9", "10.1.0.1")
    );
}

#[test]
fn the_last_hop_is_answered_with_time_exceeded() {
    for v6 in [false, true] {
        let mut a = Gateway::new(1, TunnelShape::default());
        let packet = TestPacket {
            ttl: 1,
            ..packet(v6, 200)
        };
        a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
        assert_icmp(&a.sent_one(INSIDE), v6, if v6 { 0x0300 } else { 0x0b00 }, 0);
        assert_eq!(a.drops(), [(DropReason::TtlExceeded, 1)]);
    }
}

#[test]
fn packets_of_linux_keep_their_hop_limit() {
    let shape = TunnelShape::default();
    let (mut a, mut b) = (Gateway::new(1, shape), Gateway::new(2, shape));
    let packet = TestPacket::new("10.1.0.1", "10.2.0.9");
    a.inject(
        OUTSIDE,
        &frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &packet.ip()),
    );
    b.receive(OUTSIDE, &[a.sent_one(OUTSIDE)]);
    assert_eq!(b.sent_one(INSIDE)[14..], packet.after_hops(1).ip());
}

#[test]
fn without_an_sa_ike_is_asked_once_and_nothing_leaves() {
    let mut a = Gateway::new(1, TunnelShape::default());
    assert_eq!(a.apply(Command::SaDelete(a.outbound_id())), Status::Ok);
    let frame = a.frame_to(INSIDE, &packet(false, 100).ip());
    a.receive(INSIDE, &[frame.clone(), frame]);
    assert_eq!(a.drops(), [(DropReason::NoSa, 2)]);
    assert_eq!(a.sent(OUTSIDE), Vec::<Vec<u8>>::new());
    let packet = FiveTuple {
        local: "10.1.0.9".parse().unwrap(),
        remote: "10.2.0.9".parse().unwrap(),
        protocol: 17,
        local_port: 1000,
        remote_port: 2000,
    };
    let asked = Notice::Acquire {
        policy: PolicyId(1),
        child: ChildId(1),
        packet,
    };
    assert_eq!(a.notices(), [asked]);
}

#[test]
fn hard_limits_stop_the_sender_exactly() {
    let limits = Limits {
        soft_packets: 1,
        hard_packets: 2,
        ..Limits::default()
    };
    let mut a = Gateway::new(
        1,
        TunnelShape {
            limits,
            ..TunnelShape::default()
        },
    );
    let frame = a.frame_to(INSIDE, &packet(false, 100).ip());
    a.receive(INSIDE, &[frame.clone(), frame.clone(), frame.clone()]);
    a.receive(INSIDE, &[frame]);
    assert_eq!(a.sent(OUTSIDE).len(), 2);
    assert_eq!(a.drops(), [(DropReason::HardLimit, 2)]);
    let sa = a.outbound_id();
    assert_eq!(
        a.notices(),
        [false, true].map(|hard| Notice::Expire { sa, hard })
    );
}

#[test]
fn a_tunnel_without_a_route_costs_no_sequence_number() {
    let mut a = Gateway::new(1, TunnelShape::default());
    a.writer.set_routes([]);
    a.writer.publish();
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet(false, 100).ip())]);
    assert_eq!(a.drops(), [(DropReason::NoRoute, 1)]);
    let row = a
        .writer
        .tables()
        .sad
        .geometry()
        .row(a.outbound_id())
        .unwrap();
    assert_eq!(a.state.row(row).unwrap().sequence(), 0);
}

#[test]
fn a_tunnel_whose_next_hop_is_unknown_waits_finished() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let peer = "192.0.2.2".parse().unwrap();
    a.writer.set_neighbour(port(OUTSIDE), peer, None);
    a.writer.publish();
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet(false, 100).ip())]);
    assert_eq!(
        a.excepted,
        [Excepted::Held {
            port: OUTSIDE,
            next_hop: peer
        }]
    );
    assert_eq!(a.sent(OUTSIDE), Vec::<Vec<u8>>::new());
}

#[test]
fn the_peer_moves_and_packets_follow() {
    let shape = TunnelShape {
        udp: true,
        ..TunnelShape::default()
    };
    let mut a = Gateway::new(1, shape);
    let remote = "198.51.100.7".parse().unwrap();
    let moved = api::record::Path {
        remote,
        remote_port: 20_000,
        ..a.path(shape)
    };
    assert_eq!(a.apply(Command::PathUpdate(moved)), Status::Ok);
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet(false, 100).ip())]);
    let sealed = a.sent_one(OUTSIDE);
    let outer = IpPacket::parse(&sealed[14..]).unwrap();
    assert_eq!(outer.destination, remote);
    assert_eq!(
        outer.ports,
        Ports::Pair {
            source: 4500,
            destination: 20_000
        }
    );
}

#[test]
fn an_sa_of_the_wrong_direction_is_not_activated() {
    let mut a = Gateway::new(1, TunnelShape::default());
    let wrong = Command::ActivateOutbound {
        child: ChildId(1),
        sa: a.inbound_id(),
    };
    assert!(matches!(a.apply(wrong), Status::Invalid(_)));
}

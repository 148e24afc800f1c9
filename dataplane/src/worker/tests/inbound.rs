//! ESP that must not pass, and what is said about it (RFC 4303 3.4, RFC 4301 5.2).

use api::counters::{Counter, DropReason};
use api::id::PolicyId;
use api::record::{Command, Direction, Limits, Row, Status, Table};
use api::state::Flags;

use super::bench::{Excepted, Gateway, INSIDE, OUTSIDE, TunnelShape, any_v4, mac, outer};
use super::packets::{TestPacket, frame, ip, udp};
use crate::links::{Class, Notice};

fn pair(shape: TunnelShape) -> (Gateway, Gateway) {
    (Gateway::new(1, shape), Gateway::new(2, shape))
}

/// A sealed frame from A on its way to B.
fn sealed(a: &mut Gateway) -> Vec<u8> {
    let packet = TestPacket::new("10.1.0.9", "10.2.0.9");
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    a.sent_one(OUTSIDE)
}

fn row(gateway: &Gateway) -> api::state::Snapshot {
    let row = gateway
        .writer
        .tables()
        .sad
        .geometry()
        .row(gateway.inbound_id())
        .unwrap();
    gateway.state.row(row).unwrap().snapshot().unwrap()
}

/// A counter that nothing fills misleads.
#[test]
fn every_stage_counts_its_time() {
    let (mut a, mut b) = pair(TunnelShape::default());
    let good = sealed(&mut a);
    b.receive(OUTSIDE, &[good]);
    let always = [
        Counter::StageRx,
        Counter::StageClassify,
        Counter::StageLookup,
        Counter::StageCrypto,
        Counter::StageEncap,
        Counter::StageTx,
    ];
    for stage in always {
        assert!(a.count(stage) > 0, "encrypting: {stage}");
        assert!(b.count(stage) > 0, "decrypting: {stage}");
    }
    assert_eq!(a.count(Counter::StageReplay), 0);
    assert!(b.count(Counter::StageReplay) > 0);
}

#[test]
fn every_altered_byte_behind_the_spi_is_noticed() {
    let (mut a, mut b) = pair(TunnelShape::default());
    let good = sealed(&mut a);
    let first = 14 + 20 + 4;
    for at in (first..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        b.receive(OUTSIDE, &[bad]);
        assert_eq!(b.sent(INSIDE), Vec::<Vec<u8>>::new(), "byte {at}");
    }
    let drops = b.drops();
    assert!(
        matches!(drops[..], [(DropReason::AuthFailed, _)]),
        "{drops:?}"
    );
    assert_eq!(row(&b).auth_drops, drops[0].1);
    b.receive(OUTSIDE, &[good]);
    assert_eq!(b.sent(INSIDE).len(), 1, "failures leave the window alone");
}

#[test]
fn a_replayed_packet_is_dropped_and_counted_in_its_row() {
    let (mut a, mut b) = pair(TunnelShape::default());
    let good = sealed(&mut a);
    b.receive(OUTSIDE, std::slice::from_ref(&good));
    b.receive(OUTSIDE, &[good]);
    assert_eq!(b.sent(INSIDE).len(), 1);
    assert_eq!(b.drops(), [(DropReason::Replayed, 1)]);
    assert_eq!(row(&b).replay_drops, 1);
}

#[test]
fn a_packet_twice_in_one_batch_passes_once() {
    let (mut a, mut b) = pair(TunnelShape::default());
    let good = sealed(&mut a);
    b.receive(OUTSIDE, &[good.clone(), good]);
    assert_eq!(b.sent(INSIDE).len(), 1);
    assert_eq!(b.drops(), [(DropReason::Replayed, 1)]);
}

#[test]
fn a_late_packet_is_dropped_at_the_edge_of_the_window() {
    let (mut a, mut b) = pair(TunnelShape::default());
    let all: Vec<_> = (0..66).map(|_| sealed(&mut a)).collect();
    b.receive(OUTSIDE, &all[65..]);
    // 66 was the highest: 3 is the left edge of 64, 2 is left of it (RFC 4303 3.4.3).
    b.receive(OUTSIDE, &[all[2].clone(), all[1].clone()]);
    assert_eq!(b.sent(INSIDE).len(), 2);
    assert_eq!(b.drops(), [(DropReason::Late, 1)]);
}

#[test]
fn replay_protection_can_be_off() {
    let (mut a, mut b) = pair(TunnelShape {
        window_bits: 0,
        ..TunnelShape::default()
    });
    let good = sealed(&mut a);
    b.receive(OUTSIDE, &[good.clone(), good]);
    assert_eq!(b.sent(INSIDE).len(), 2);
}

#[test]
fn unknown_spis_never_reach_linux() {
    let shape = TunnelShape {
        udp: true,
        ..TunnelShape::default()
    };
    let (mut a, mut b) = pair(shape);
    let mut strange = sealed(&mut a);
    // Behind Ethernet, IPv4 and UDP.
    strange[14 + 28 + 3] ^= 0x40;
    b.receive(OUTSIDE, &[strange]);
    assert_eq!(b.drops(), [(DropReason::UnknownSpi, 1)]);
    assert_eq!(b.excepted, []);
}

#[test]
fn encapsulation_and_address_must_be_those_of_the_path() {
    let plain = TunnelShape::default();
    let (mut a, _) = pair(plain);
    let over_udp = TunnelShape { udp: true, ..plain };
    let mut b = Gateway::new(2, over_udp);
    b.receive(OUTSIDE, &[sealed(&mut a)]);
    assert_eq!(
        b.drops(),
        [(DropReason::WrongSaUse, 1)],
        "plain ESP on a UDP path"
    );
    let mut c = Gateway::new(1, over_udp);
    let mut d = Gateway::new(2, plain);
    d.receive(OUTSIDE, &[sealed(&mut c)]);
    assert_eq!(
        d.drops(),
        [(DropReason::WrongSaUse, 1)],
        "UDP on a plain path"
    );
    let mut e = Gateway::new(
        2,
        TunnelShape {
            outer_v6: true,
            ..plain
        },
    );
    e.receive(OUTSIDE, &[sealed(&mut a)]);
    assert_eq!(
        e.drops(),
        [(DropReason::WrongSaUse, 1)],
        "another local address"
    );
}

#[test]
fn what_an_sa_must_not_carry_is_dropped_after_decryption() {
    let (mut a, mut b) = pair(TunnelShape::default());
    assert_eq!(b.apply(Command::PolicyDelete(PolicyId(2))), Status::Ok);
    b.receive(OUTSIDE, &[sealed(&mut a)]);
    assert_eq!(b.drops(), [(DropReason::InnerSelector, 1)]);
    assert_eq!(b.count(Counter::Decapsulated), 1);
}

#[test]
fn a_deleted_sa_is_unknown_at_once() {
    let (mut a, mut b) = pair(TunnelShape::default());
    assert_eq!(b.apply(Command::SaDelete(b.inbound_id())), Status::Ok);
    b.receive(OUTSIDE, &[sealed(&mut a)]);
    assert_eq!(b.drops(), [(DropReason::UnknownSpi, 1)]);
}

#[test]
fn a_decrypted_packet_for_the_gateway_goes_to_the_twin_of_its_port() {
    let (mut a, mut b) = pair(TunnelShape::default());
    let packet = TestPacket::new("10.1.0.9", "10.2.0.1");
    a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    b.receive(OUTSIDE, &[a.sent_one(OUTSIDE)]);
    // Not forwarded by B, so only A took a hop off.
    let inner = packet.after_hops(1).ip();
    let frame = frame(mac(2, OUTSIDE), mac(1, OUTSIDE), &inner);
    assert_eq!(
        b.excepted,
        [Excepted::Punt {
            port: OUTSIDE,
            class: Class::Rest,
            frame
        }]
    );
}

#[test]
fn hard_limits_are_exact_and_told_once() {
    let limits = Limits {
        soft_packets: 2,
        hard_packets: 3,
        ..Limits::default()
    };
    let (mut a, _) = pair(TunnelShape::default());
    let mut b = Gateway::new(
        2,
        TunnelShape {
            limits,
            ..TunnelShape::default()
        },
    );
    let all: Vec<_> = (0..5).map(|_| sealed(&mut a)).collect();
    b.receive(OUTSIDE, &all);
    assert_eq!(b.sent(INSIDE).len(), 3);
    assert_eq!(b.drops(), [(DropReason::HardLimit, 2)]);
    let sa = b.inbound_id();
    let told = [false, true].map(|hard| Notice::Expire { sa, hard });
    assert_eq!(b.notices(), told);
}

#[test]
fn byte_limits_count_inner_bytes() {
    // Three packets of 128 bytes would be 384.
    let limits = Limits {
        hard_bytes: 383,
        ..Limits::default()
    };
    let (mut a, _) = pair(TunnelShape::default());
    let mut b = Gateway::new(
        2,
        TunnelShape {
            limits,
            ..TunnelShape::default()
        },
    );
    let all: Vec<_> = (0..3).map(|_| sealed(&mut a)).collect();
    b.receive(OUTSIDE, &all);
    assert_eq!(b.sent(INSIDE).len(), 2);
    assert_eq!(b.drops(), [(DropReason::HardLimit, 1)]);
}

#[test]
fn a_new_nat_mapping_is_told_once_and_only_by_authentic_packets() {
    let (mut a, mut b) = pair(TunnelShape {
        udp: true,
        ..TunnelShape::default()
    });
    let mut frames: Vec<_> = (0..3).map(|_| sealed(&mut a)).collect();
    for frame in &mut frames {
        // UDP source port; over IPv4 there is no checksum.
        frame[34..36].copy_from_slice(&20_000_u16.to_be_bytes());
    }
    let last = frames[0].len() - 1;
    frames[0][last] ^= 1;
    b.receive(OUTSIDE, &frames[..1]);
    assert_eq!(b.notices(), []);
    b.receive(OUTSIDE, &frames[1..]);
    let remote = outer(1, false);
    let told = Notice::MappingChanged {
        sa: b.inbound_id(),
        remote,
        port: 20_000,
    };
    assert_eq!(b.notices(), [told]);
    assert_eq!(row(&b).mapping, Some((remote, 20_000)));
    assert_eq!(b.sent(INSIDE).len(), 2);
}

#[test]
fn after_a_path_update_a_mapping_is_told_anew() {
    let (mut a, mut b) = pair(TunnelShape {
        udp: true,
        ..TunnelShape::default()
    });
    let moved = |a: &mut Gateway| {
        let mut frame = sealed(a);
        frame[34..36].copy_from_slice(&20_000_u16.to_be_bytes());
        frame
    };
    for path_was_updated in [false, true] {
        let frames = [moved(&mut a), moved(&mut a)];
        b.receive(OUTSIDE, &frames);
        assert_eq!(b.notices().len(), 1, "{path_was_updated}");
        assert!(row(&b).flags.has(Flags::MAPPING));
        // IKE says that the peer is where it was.
        let get = Command::Get {
            table: Table::Path,
            id: 1,
        };
        let Some(Row::Path(path)) = b.writer.apply(get).row else {
            unreachable!()
        };
        assert_eq!(b.apply(Command::PathUpdate(path)), Status::Ok);
        assert!(!row(&b).flags.has(Flags::MAPPING));
    }
}

#[test]
fn port_4500_is_ike_esp_or_a_keepalive() {
    let mut b = Gateway::new(2, TunnelShape::default());
    let datagram = |payload: &[u8]| {
        let packet = ip(
            outer(1, false),
            outer(2, false),
            17,
            64,
            0,
            false,
            &udp(4500, 4500, payload),
        );
        b.frame_to(OUTSIDE, &packet)
    };
    let ike = datagram(&[[0; 4].as_slice(), &[1; 28]].concat());
    let frames = [datagram(&[0xff]), ike.clone(), datagram(&[0, 0, 9])];
    b.receive(OUTSIDE, &frames);
    assert_eq!(
        b.drops(),
        [(DropReason::Keepalive, 1), (DropReason::MalformedEsp, 1)]
    );
    let punt = Excepted::Punt {
        port: OUTSIDE,
        class: Class::Ike,
        frame: ike,
    };
    assert_eq!(b.excepted, [punt]);
}

#[test]
fn clear_packets_of_a_protected_flow_are_dropped() {
    let mut b = Gateway::new(2, TunnelShape::default());
    assert_eq!(
        b.apply(any_v4(50, Direction::Inbound, api::record::Action::Bypass)),
        Status::Ok
    );
    let clear = TestPacket::new("10.1.0.9", "10.2.0.9").ip();
    let other = TestPacket::new("10.7.0.9", "10.2.0.9");
    b.receive(
        OUTSIDE,
        &[
            b.frame_to(OUTSIDE, &clear),
            b.frame_to(OUTSIDE, &other.ip()),
        ],
    );
    assert_eq!(b.drops(), [(DropReason::ClearOfProtected, 1)]);
    assert_eq!(b.sent_one(INSIDE)[14..], other.after_hops(1).ip());
}

#[test]
fn a_packet_that_was_kept_back_moves_no_mapping() {
    let (mut a, mut b) = pair(TunnelShape {
        udp: true,
        ..TunnelShape::default()
    });
    let mut kept_back = sealed(&mut a);
    let newer = sealed(&mut a);
    kept_back[34..36].copy_from_slice(&20_000_u16.to_be_bytes());
    b.receive(OUTSIDE, &[newer, kept_back]);
    assert_eq!(b.sent(INSIDE).len(), 2, "it is authentic and new");
    assert_eq!(b.notices(), []);
}

#[test]
fn an_sa_that_refused_one_packet_refuses_smaller_ones_too() {
    let limits = Limits {
        hard_bytes: 200,
        ..Limits::default()
    };
    let (mut a, _) = pair(TunnelShape::default());
    let mut b = Gateway::new(
        2,
        TunnelShape {
            limits,
            ..TunnelShape::default()
        },
    );
    for payload_bytes in [100, 100, 10] {
        let packet = TestPacket {
            payload_bytes,
            ..TestPacket::new("10.1.0.9", "10.2.0.9")
        };
        a.receive(INSIDE, &[a.frame_to(INSIDE, &packet.ip())]);
    }
    b.receive(OUTSIDE, &a.sent(OUTSIDE));
    assert_eq!(b.sent(INSIDE).len(), 1);
    assert_eq!(b.drops(), [(DropReason::HardLimit, 2)]);
}

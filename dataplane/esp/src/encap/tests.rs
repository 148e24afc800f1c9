use super::*;
use crate::ip::IpPacket;

const BASE: TunnelConfig = TunnelConfig {
    local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    remote: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    udp_ports: None,
    icv_len: 16,
    df: Df::Copy,
    dscp: Dscp::Copy,
    copy_ecn: true,
};
const LOCAL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const REMOTE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

fn configs() -> Vec<TunnelConfig> {
    let mut configs = Vec::new();
    for (local, remote) in [(BASE.local, BASE.remote), (LOCAL_V6, REMOTE_V6)] {
        for udp_ports in [None, Some((4500, 4500))] {
            for icv_len in [8, 12, 16] {
                configs.push(TunnelConfig {
                    local,
                    remote,
                    udp_ports,
                    icv_len,
                    ..BASE
                });
            }
        }
    }
    configs
}

/// An IPv4 packet of `len` bytes.
fn inner_v4(len: usize, tos: u8, df: bool) -> Vec<u8> {
    let mut packet = vec![0x45, tos];
    packet.extend(u16::try_from(len).unwrap().to_be_bytes());
    packet.extend([
        0,
        0,
        if df { 0x40 } else { 0 },
        0,
        64,
        47,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        0,
        0,
        2,
    ]);
    let sum = checksum::internet(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.resize(len, 0x5a);
    packet
}

/// Encapsulates without sealing.
fn wrap(tunnel: &Tunnel, inner: &[u8], spi: u32, sequence: u64) -> (Vec<u8>, Protected) {
    let sizes = tunnel.sizes(inner.len());
    let mut frame = [&vec![0xee; sizes.prepend], inner, &vec![0xee; sizes.append]].concat();
    let parsed = Head::parse(inner).unwrap();
    let protected = tunnel
        .write(&mut frame, &parsed, spi, sequence, true)
        .unwrap();
    (frame, protected)
}

#[test]
fn known_sizes() {
    let sizes = |config: &TunnelConfig, len| Tunnel::new(config).unwrap().sizes(len);
    assert_eq!(
        sizes(&BASE, 62),
        Sizes {
            prepend: 36,
            append: 18
        }
    );
    assert_eq!(
        sizes(&BASE, 63),
        Sizes {
            prepend: 36,
            append: 21
        }
    );
    assert_eq!(
        sizes(&BASE, 64),
        Sizes {
            prepend: 36,
            append: 20
        }
    );
    assert_eq!(
        sizes(&BASE, 65),
        Sizes {
            prepend: 36,
            append: 19
        }
    );
    let six = TunnelConfig {
        local: LOCAL_V6,
        remote: REMOTE_V6,
        ..BASE
    };
    assert_eq!(sizes(&six, 62).prepend, 56);
    let udp = TunnelConfig {
        udp_ports: Some((4500, 4500)),
        ..six
    };
    assert_eq!(sizes(&udp, 62).prepend, 64);
}

/// `inner_mtu` is the inverse of `overhead`: its answer fits, one byte more does not.
#[test]
fn inner_mtu_is_exact() {
    for config in configs() {
        let tunnel = Tunnel::new(&config).unwrap();
        for path_mtu in 100..1600 {
            let inner = tunnel.inner_mtu(path_mtu);
            assert!(
                inner + tunnel.overhead(inner) <= path_mtu,
                "{config:?}, {path_mtu}"
            );
            let more = inner + 1;
            assert!(
                more + tunnel.overhead(more) > path_mtu,
                "{config:?}, {path_mtu}"
            );
        }
        for path_mtu in 0..36 {
            assert_eq!(tunnel.inner_mtu(path_mtu), 0);
        }
    }
    assert_eq!(Tunnel::new(&BASE).unwrap().inner_mtu(1500), 1446);
}

#[test]
fn outer_packet_parses_back() {
    for config in configs() {
        let tunnel = Tunnel::new(&config).unwrap();
        for len in 20..90 {
            let inner = inner_v4(len, 0xb9, true);
            let (mut frame, protected) = wrap(&tunnel, &inner, 0xdead_beef, 0x1_0000_0007);
            tunnel.finish(&mut frame);
            let outer = IpPacket::parse(&frame).unwrap();
            assert_eq!(
                (outer.source, outer.destination),
                (config.local, config.remote)
            );
            assert_eq!(
                (outer.total_len, outer.ttl, outer.tos),
                (frame.len(), 64, 0xb9)
            );
            assert_eq!(
                outer.protocol,
                if config.udp_ports.is_some() { 17 } else { 50 }
            );
            let prepend = tunnel.sizes(len).prepend;
            assert_eq!(protected.data, prepend..frame.len());
            assert_eq!((frame.len() - prepend - config.icv_len) % 4, 0);
            assert_eq!(
                frame[prepend - 16..prepend - 8],
                [0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 7]
            );
            assert_eq!(frame[prepend - 8..prepend], [0, 0, 0, 1, 0, 0, 0, 7]);
            assert_eq!(frame[prepend..prepend + len], inner);
        }
    }
}

/// RFC 4303 2.4: 1, 2, 3, .. then the length and the next header.
#[test]
fn trailer_bytes() {
    let tunnel = Tunnel::new(&BASE).unwrap();
    let trailer = |len: usize| {
        let (frame, _) = wrap(&tunnel, &inner_v4(len, 0, false), 1, 1);
        frame[36 + len..frame.len() - 16].to_vec()
    };
    assert_eq!(trailer(62), [0, 4]);
    assert_eq!(trailer(61), [1, 1, 4]);
    assert_eq!(trailer(60), [1, 2, 2, 4]);
    assert_eq!(trailer(59), [1, 2, 3, 3, 4]);
}

/// RFC 4301 8.1.
#[test]
fn df_is_copied_set_or_cleared() {
    let outer_df = |df, inner_df| {
        let tunnel = Tunnel::new(&TunnelConfig { df, ..BASE }).unwrap();
        let (frame, _) = wrap(&tunnel, &inner_v4(40, 0, inner_df), 1, 1);
        IpPacket::parse(&frame).unwrap().df
    };
    for inner_df in [false, true] {
        assert_eq!(outer_df(Df::Copy, inner_df), inner_df);
        assert!(outer_df(Df::Set, inner_df));
        assert!(!outer_df(Df::Clear, inner_df));
    }
}

/// RFC 6040 4.1 normal mode copies all four codepoints; RFC 2983 for the DSCP.
#[test]
fn dscp_and_ecn() {
    for inner_tos in 0..=u8::MAX {
        for (dscp, expected) in [(Dscp::Copy, inner_tos >> 2), (Dscp::Fixed(46), 46)] {
            for copy_ecn in [false, true] {
                let tunnel = Tunnel::new(&TunnelConfig {
                    dscp,
                    copy_ecn,
                    ..BASE
                })
                .unwrap();
                let (frame, _) = wrap(&tunnel, &inner_v4(20, inner_tos, false), 1, 1);
                let ecn = if copy_ecn { inner_tos & 3 } else { 0 };
                assert_eq!(IpPacket::parse(&frame).unwrap().tos, expected << 2 | ecn);
            }
        }
    }
}

#[test]
fn packets_of_an_sa_have_different_ids_and_one_flow_label() {
    let ids: std::collections::HashSet<_> = (1..=65_536).map(|s| id_v4(7 << 16, s)).collect();
    assert_eq!(ids.len(), 65_536);
    for spi in [0, 1, 256, u32::MAX] {
        assert!(flow_label(spi) < 1 << 20);
    }
    assert_ne!(flow_label(256), flow_label(257));
}

#[test]
fn refused_with_nothing_written() {
    let tunnel = Tunnel::new(&BASE).unwrap();
    let inner = inner_v4(62, 0, false);
    let parsed = Head::parse(&inner).unwrap();
    let whole = 62 + tunnel.overhead(62);
    let refused = |len: usize, sequence, esn| {
        let mut frame = vec![0xee; len];
        let result = tunnel.write(&mut frame, &parsed, 1, sequence, esn);
        assert!(result.is_ok() || frame.iter().all(|byte| *byte == 0xee));
        result.err()
    };
    assert_eq!(refused(whole, 1, false), None);
    for len in (0..whole + 20).filter(|len| *len != whole) {
        assert_eq!(refused(len, 1, false), Some(EncapError::Length));
    }
    assert_eq!(refused(whole, 0, false), Some(EncapError::Sequence));
    assert_eq!(refused(whole, u64::from(u32::MAX), false), None);
    assert_eq!(refused(whole, 1 << 32, false), Some(EncapError::Sequence));
    assert_eq!(refused(whole, 1 << 32, true), None);
    assert_eq!(refused(whole, u64::MAX, true), None);
    assert_eq!(refused(whole, 0, true), Some(EncapError::Sequence));
}

#[test]
fn too_long_for_ip() {
    let tunnel = Tunnel::new(&BASE).unwrap();
    let largest = tunnel.inner_mtu(65_535);
    for (len, expected) in [(largest, None), (largest + 1, Some(EncapError::TooLong))] {
        let parsed = Head::parse(&inner_v4(len, 0, false)).unwrap();
        let mut frame = vec![0; len + tunnel.overhead(len)];
        assert_eq!(
            tunnel.write(&mut frame, &parsed, 1, 1, false).err(),
            expected
        );
    }
}

#[test]
fn bad_tunnels() {
    let new = |config| Tunnel::new(&config).err();
    assert_eq!(
        new(TunnelConfig {
            remote: REMOTE_V6,
            ..BASE
        }),
        Some(TunnelError::Family)
    );
    assert_eq!(
        new(TunnelConfig {
            dscp: Dscp::Fixed(64),
            ..BASE
        }),
        Some(TunnelError::Dscp(64))
    );
    assert_eq!(
        new(TunnelConfig {
            dscp: Dscp::Fixed(63),
            ..BASE
        }),
        None
    );
    assert_eq!(
        new(TunnelConfig {
            icv_len: 10,
            ..BASE
        }),
        Some(TunnelError::IcvLength(10))
    );
}

#[test]
fn finish_of_a_short_frame_is_harmless() {
    let config = TunnelConfig {
        local: LOCAL_V6,
        remote: REMOTE_V6,
        udp_ports: Some((1, 2)),
        ..BASE
    };
    let tunnel = Tunnel::new(&config).unwrap();
    for len in 0..48 {
        tunnel.finish(&mut vec![0; len]);
    }
}

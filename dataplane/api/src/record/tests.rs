//! Round trips of every record, and hostile records.

use core::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::id::{ChildId, Interface, PathId, PolicyId, SaId, Vrf};
use crate::selector::{ANY_PORTS, AddrRange, OPAQUE_PORTS, Selector};

fn address(v4: bool) -> BoxedStrategy<IpAddr> {
    if v4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    }
}

fn unicast(v4: bool) -> impl Strategy<Value = IpAddr> {
    address(v4).prop_filter("unicast", |a| !a.is_unspecified() && !a.is_multicast())
}

fn range(v4: bool) -> impl Strategy<Value = AddrRange> {
    (address(v4), address(v4)).prop_map(|(a, b)| AddrRange {
        first: a.min(b),
        last: a.max(b),
    })
}

fn ports() -> impl Strategy<Value = (u16, u16)> {
    let some = any::<(u16, u16)>().prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![Just(ANY_PORTS), Just(OPAQUE_PORTS), some]
}

fn selector() -> impl Strategy<Value = Selector> {
    any::<bool>()
        .prop_flat_map(|v4| (range(v4), range(v4), any::<u8>(), ports(), ports()))
        .prop_map(
            |(local, remote, protocol, local_ports, remote_ports)| Selector {
                local,
                remote,
                protocol,
                local_ports,
                remote_ports,
            },
        )
}

fn path() -> impl Strategy<Value = Path> {
    let port = 1..=u16::MAX;
    let addresses = any::<bool>().prop_flat_map(|v4| (unicast(v4), unicast(v4)));
    let ports = prop::option::of((port.clone(), port));
    let mtu_bytes = prop_oneof![Just(0), MIN_PATH_MTU_BYTES..];
    let names = any::<(u32, u16, u16)>();
    (
        names,
        addresses,
        ports,
        mtu_bytes,
        prop::option::of(0..64_u8),
    )
        .prop_map(
            |((id, vrf, interface), (local, remote), ports, mtu_bytes, dscp)| Path {
                id: PathId(id),
                vrf: Vrf(vrf),
                interface: Interface(interface),
                local,
                remote,
                local_port: ports.map_or(0, |ports| ports.0),
                remote_port: ports.map_or(0, |ports| ports.1),
                udp_encapsulation: ports.is_some(),
                mtu_bytes,
                dscp,
            },
        )
}

fn child() -> impl Strategy<Value = Child> {
    let copy_dscp = prop::sample::select(vec![
        CopyDscp::Out,
        CopyDscp::In,
        CopyDscp::Both,
        CopyDscp::No,
    ]);
    (any::<(u32, u32, u64, u16, u16, bool, bool)>(), copy_dscp).prop_map(
        |((id, path, cookie, vrf, interface, copy_df, copy_ecn), copy_dscp)| Child {
            id: ChildId(id),
            path: PathId(path),
            cookie,
            vrf: Vrf(vrf),
            interface: Interface(interface),
            mode: Mode::Tunnel,
            copy_df,
            copy_ecn,
            copy_dscp,
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    any::<[u64; 4]>().prop_map(|[a, b, c, d]| Limits {
        soft_bytes: a.min(b),
        hard_bytes: a.max(b),
        soft_packets: if d == 0 { c } else { c.min(d) },
        hard_packets: d,
    })
}

fn sa() -> impl Strategy<Value = Sa> {
    let id = (1..=1023_u16, 0..16_384_u16, any::<u8>())
        .prop_map(|(shard, index, tweak)| SaId::new(shard, index, tweak).unwrap());
    let key = prop::sample::select(vec![20_usize, 28, 36])
        .prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    let window = prop_oneof![Just(0), MIN_WINDOW_BITS..=MAX_WINDOW_BITS];
    let peer_spi = 256..=u32::MAX;
    let rest = any::<(u32, bool, bool, bool, u64)>();
    (id, key, window, peer_spi, rest, limits()).prop_map(
        |(id, key, window, peer_spi, (child, inbound, esn, adopt, sequence), limits)| Sa {
            id,
            child: ChildId(child),
            direction: if inbound {
                Direction::Inbound
            } else {
                Direction::Outbound
            },
            spi: if inbound && !id.is_static() {
                id.0
            } else {
                peer_spi
            },
            algorithm: Algorithm::AesGcm16,
            key: SaKey::new(&key).unwrap(),
            esn,
            window_bits: if inbound { window } else { 0 },
            start_sequence: if esn { sequence } else { sequence >> 32 },
            adopt,
            limits,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let action = prop_oneof![
        any::<u32>().prop_map(|id| Action::Protect(ChildId(id))),
        Just(Action::Bypass),
        Just(Action::Discard),
    ];
    (any::<(u32, bool, u32, u16, u16)>(), action, selector()).prop_map(
        |((id, inbound, priority, vrf, interface), action, selector)| Policy {
            id: PolicyId(id),
            direction: if inbound {
                Direction::Inbound
            } else {
                Direction::Outbound
            },
            action,
            priority,
            vrf: Vrf(vrf),
            interface: Interface(interface),
            selector,
        },
    )
}

fn table() -> impl Strategy<Value = Table> {
    prop::sample::select(vec![Table::Path, Table::Child, Table::Sa, Table::Policy])
}

fn command() -> impl Strategy<Value = Command> {
    let id = any::<u32>;
    prop_oneof![
        any::<bool>().prop_map(|resync| Command::Begin { resync }),
        Just(Command::Commit),
        path().prop_map(Command::PathAdd),
        path().prop_map(Command::PathUpdate),
        id().prop_map(|id| Command::PathDelete(PathId(id))),
        child().prop_map(Command::ChildAdd),
        child().prop_map(Command::ChildUpdate),
        id().prop_map(|id| Command::ChildDelete(ChildId(id))),
        sa().prop_map(Command::SaAdd),
        (id(), limits()).prop_map(|(id, limits)| Command::SaUpdate {
            id: SaId(id),
            limits
        }),
        id().prop_map(|id| Command::SaDelete(SaId(id))),
        (id(), id()).prop_map(|(child, sa)| Command::ActivateOutbound {
            child: ChildId(child),
            sa: SaId(sa),
        }),
        policy().prop_map(Command::PolicyAdd),
        policy().prop_map(Command::PolicyUpdate),
        id().prop_map(|id| Command::PolicyDelete(PolicyId(id))),
        (table(), id()).prop_map(|(table, id)| Command::Get { table, id }),
        table().prop_map(|table| Command::Flush { table }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let status = prop_oneof![
        prop::sample::select(vec![
            Status::Ok,
            Status::Exists,
            Status::NotFound,
            Status::Full,
            Status::Uncertain,
            Status::Busy,
        ]),
        any::<u16>().prop_map(|field| Status::Invalid(Field(field))),
    ];
    let packet = (address(true), address(false), any::<(u8, u16, u16)>()).prop_map(
        |(local, remote, (protocol, local_port, remote_port))| FiveTuple {
            local,
            remote,
            protocol,
            local_port,
            remote_port,
        },
    );
    let row = prop_oneof![
        path().prop_map(Row::Path),
        child().prop_map(Row::Child),
        sa().prop_map(|sa| Row::Sa(sa.info())),
        policy().prop_map(Row::Policy),
    ];
    let number = any::<u64>;
    let id = any::<u32>;
    prop_oneof![
        (number(), status).prop_map(|(command, status)| Event::Completed { command, status }),
        id().prop_map(|id| Event::Deleted { sa: SaId(id) }),
        (id(), any::<bool>()).prop_map(|(id, hard)| Event::Expire { sa: SaId(id), hard }),
        (id(), id(), packet).prop_map(|(policy, child, packet)| Event::Acquire {
            policy: PolicyId(policy),
            child: ChildId(child),
            packet,
        }),
        (id(), address(true), any::<u16>()).prop_map(|(id, remote, port)| {
            Event::MappingChanged {
                sa: SaId(id),
                remote,
                port,
            }
        }),
        (number(), row).prop_map(|(command, row)| Event::Row { command, row }),
    ]
}

fn config() -> ProptestConfig {
    // Files of failed cases cannot be written under miri.
    let cases = if cfg!(miri) { 8 } else { 2_000 };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn commands_come_back(command in command()) {
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn events_come_back(event in event()) {
        prop_assert_eq!(Event::decode(&event.encode()), Ok(event));
    }

    #[test]
    fn what_is_decoded_from_altered_records_is_what_they_say(
        command in command(),
        at in 0..RECORD_BYTES,
        bits in 1..=255_u8,
    ) {
        let mut record = command.encode();
        record.0[at / 8] ^= u64::from(bits) << (at % 8 * 8);
        if let Ok(other) = Command::decode(&record) {
            prop_assert_eq!(other.encode().0, record.0);
        }
    }

    #[test]
    fn random_records_never_panic(words in any::<[u64; RECORD_WORDS]>(), kind in 0..20_u64) {
        let mut record = Record(words);
        record.0[0] = record.0[0] & !0xffff | kind;
        let _command = Command::decode(&record);
        record.0[0] += 0x100;
        let _event = Event::decode(&record);
    }
}

fn sample_path() -> Path {
    Path {
        id: PathId(1),
        vrf: Vrf(0),
        interface: Interface(0),
        local: IpAddr::from([192, 0, 2, 1]),
        remote: IpAddr::from([192, 0, 2, 2]),
        local_port: 0,
        remote_port: 0,
        udp_encapsulation: false,
        mtu_bytes: 0,
        dscp: None,
    }
}

fn sample_sa() -> Sa {
    let id = SaId::new(1, 2, 3).unwrap();
    Sa {
        id,
        child: ChildId(7),
        direction: Direction::Inbound,
        spi: id.0,
        algorithm: Algorithm::AesGcm16,
        key: SaKey::new(&[0xab; 36]).unwrap(),
        esn: false,
        window_bits: 4096,
        start_sequence: 0,
        adopt: false,
        limits: Limits::default(),
    }
}

fn path_fault(change: impl FnOnce(&mut Path)) -> Field {
    let mut path = sample_path();
    change(&mut path);
    Command::decode(&Command::PathAdd(path).encode())
        .unwrap_err()
        .field
}

fn sa_fault(change: impl FnOnce(&mut Sa)) -> Field {
    let mut sa = sample_sa();
    change(&mut sa);
    Command::decode(&Command::SaAdd(sa).encode())
        .unwrap_err()
        .field
}

#[test]
fn faults_of_paths_name_the_field() {
    assert!(Command::decode(&Command::PathAdd(sample_path()).encode()).is_ok());
    assert_eq!(
        path_fault(|p| p.remote = "2001:db8::1".parse().unwrap()),
        Field::PATH_REMOTE
    );
    assert_eq!(path_fault(|p| p.remote = [0; 4].into()), Field::PATH_REMOTE);
    assert_eq!(
        path_fault(|p| p.local = [224, 0, 0, 1].into()),
        Field::PATH_LOCAL
    );
    assert_eq!(path_fault(|p| p.local_port = 4500), Field::PATH_LOCAL_PORT);
    assert_eq!(
        path_fault(|p| p.udp_encapsulation = true),
        Field::PATH_LOCAL_PORT
    );
    assert_eq!(path_fault(|p| p.mtu_bytes = 575), Field::PATH_MTU);
    assert_eq!(path_fault(|p| p.dscp = Some(64)), Field::PATH_DSCP);
}

#[test]
fn faults_of_sas_name_the_field() {
    assert!(Command::decode(&Command::SaAdd(sample_sa()).encode()).is_ok());
    assert_eq!(sa_fault(|sa| sa.id = SaId(5)), Field::SA_ID);
    assert_eq!(sa_fault(|sa| sa.spi += 1), Field::SA_SPI);
    assert_eq!(
        sa_fault(|sa| {
            sa.direction = Direction::Outbound;
            sa.window_bits = 0;
            sa.spi = 255;
        }),
        Field::SA_SPI
    );
    assert_eq!(
        sa_fault(|sa| sa.direction = Direction::Outbound),
        Field::SA_WINDOW
    );
    assert_eq!(sa_fault(|sa| sa.window_bits = 63), Field::SA_WINDOW);
    assert_eq!(sa_fault(|sa| sa.window_bits = 65_537), Field::SA_WINDOW);
    assert_eq!(
        sa_fault(|sa| sa.key = SaKey::new(&[1; 21]).unwrap()),
        Field::SA_KEY
    );
    assert_eq!(
        sa_fault(|sa| sa.start_sequence = 1 << 32),
        Field::SA_SEQUENCE
    );
    assert_eq!(
        sa_fault(|sa| sa.limits = Limits {
            soft_bytes: 2,
            hard_bytes: 1,
            ..sa.limits
        }),
        Field::SA_LIMITS
    );
}

#[test]
fn a_key_that_is_longer_than_its_room_is_refused() {
    assert!(SaKey::new(&[1; MAX_KEY_BYTES]).is_ok());
    assert_eq!(
        SaKey::new(&[1; MAX_KEY_BYTES + 1]).unwrap_err().field,
        Field::SA_KEY
    );
    assert_eq!(SaKey::new(&[1; 300]).unwrap_err().value, 300);
    let mut record = Command::SaAdd(sample_sa()).encode();
    let bytes: Vec<u8> = record
        .0
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let at = bytes
        .windows(2)
        .position(|pair| pair == [36, 0xab])
        .unwrap();
    record.0[at / 8] |= 0xff << (at % 8 * 8);
    assert_eq!(
        Command::decode(&record).unwrap_err(),
        FieldError::new(Field::SA_KEY, 255)
    );
}

#[test]
fn what_stands_behind_a_record_is_refused() {
    let mut record = Command::Commit.encode();
    record.0[31] = 1 << 63;
    assert_eq!(
        Command::decode(&record).unwrap_err(),
        FieldError::new(Field::TRAILING, 255)
    );
    record.0 = [0; RECORD_WORDS];
    assert_eq!(Command::decode(&record).unwrap_err().field, Field::KIND);
    assert_eq!(Event::decode(&record).unwrap_err().field, Field::KIND);
}

#[test]
fn bools_are_zero_or_one() {
    let mut record = Command::Begin { resync: true }.encode();
    record.0[0] += 1 << 16;
    assert_eq!(
        Command::decode(&record).unwrap_err(),
        FieldError::new(Field::BEGIN_RESYNC, 2)
    );
}

#[test]
fn keys_are_not_shown() {
    let text = format!("{:?}", Command::SaAdd(sample_sa()));
    assert!(text.contains("SaKey(36 bytes)"), "{text}");
    assert!(!text.contains("171"), "{text}");
}

#[test]
fn keys_compare_whole() {
    let key = |last: u8| SaKey::new(&[1, 2, last]).unwrap();
    assert_eq!(key(3), key(3));
    assert_ne!(key(3), key(4));
    assert_ne!(
        SaKey::new(&[1, 2]).unwrap(),
        SaKey::new(&[1, 2, 0]).unwrap()
    );
}

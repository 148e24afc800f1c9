//! Records that tests share.

use api::id::{ChildId, Interface, PathId, PolicyId, Vrf};
use api::record::{Action, Child, CopyDscp, Direction, Mode, Path, Policy};
use api::selector::{ANY_PORTS, AddrRange, Selector};

/// From 192.0.2.1 to 192.0.2.2, ESP in IP.
pub(crate) fn path(id: PathId) -> Path {
    Path {
        id,
        vrf: Vrf(0),
        interface: Interface(0),
        local: [192, 0, 2, 1].into(),
        remote: [192, 0, 2, 2].into(),
        local_port: 0,
        remote_port: 0,
        udp_encapsulation: false,
        mtu_bytes: 0,
        dscp: None,
    }
}

/// On path 1.
pub(crate) fn child(id: ChildId) -> Child {
    Child {
        id,
        path: PathId(1),
        cookie: 7,
        vrf: Vrf(0),
        interface: Interface(0),
        mode: Mode::Tunnel,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: CopyDscp::Out,
    }
}

/// For all packets of IPv4 that go out; its priority is its number.
pub(crate) fn policy(id: PolicyId, action: Action) -> Policy {
    Policy {
        id,
        direction: Direction::Outbound,
        action,
        priority: id.0,
        vrf: Vrf(0),
        interface: Interface(0),
        selector: all_of_v4(),
    }
}

/// Every packet of IPv4.
pub(crate) fn all_of_v4() -> Selector {
    let all = AddrRange::all([0; 4].into());
    Selector {
        local: all,
        remote: all,
        protocol: 0,
        local_ports: ANY_PORTS,
        remote_ports: ANY_PORTS,
    }
}

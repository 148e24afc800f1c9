//! Traps: policies without SAs that call for them (`start_action = trap`).

use super::Endpoint;
use crate::child_sa::spec;
use crate::config::{AddressSpec, ChildConfig, Connection};
use crate::context::Context;
use crate::event::{Action, ChildId, ChildSpec, Output, PathSpec};
use crate::host::{Host, Time};
use crate::selector::Selectors;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Policies that are installed for a child that is not up.
pub(super) struct Trap {
    spec: ChildSpec,
}

impl Trap {
    fn is_of(&self, connection: &str, child: &str) -> bool {
        self.spec.connection == connection && self.spec.name == child
    }
}

impl Endpoint {
    /// Makes the traps those of the configuration; what has not changed stays as it is.
    pub(super) fn reload_traps(&mut self, now: Time, host: &mut dyn Host) {
        let connections = self.shared.connections.clone();
        let configured = connections.iter().flat_map(|connection| {
            connection
                .children
                .iter()
                .map(move |child| (connection, child))
        });
        let wanted: Vec<_> = configured
            .filter(|(_, child)| child.start_action.trap)
            .collect();
        let kept = |trap: &Trap| {
            wanted.iter().any(|(connection, child)| {
                trap_spec(trap.spec.child, connection, child, host_address(connection)) == trap.spec
            })
        };
        let (keep, drop): (Vec<_>, Vec<_>) = self.traps.drain(..).partition(kept);
        self.traps = keep;
        for trap in drop {
            self.remove_trap(&trap);
        }
        for (connection, child) in wanted {
            self.set_trap(now, host, &connection.name, &child.name);
        }
    }

    /// Installs the trap of a child, if it is not there.
    pub(super) fn set_trap(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        connection: &str,
        child: &str,
    ) {
        if self.stopping || self.traps.iter().any(|trap| trap.is_of(connection, child)) {
            return;
        }
        let Some(connection) = self.shared.connection(connection) else {
            return;
        };
        let Some(child) = connection.child(child) else {
            return;
        };
        let mut ctx = Context {
            now,
            host,
            shared: &mut self.shared,
        };
        let id = ctx.next_child();
        let spec = trap_spec(id, &connection, child, host_address(&connection));
        let action = Action::InstallTrap(Box::new(spec.clone()));
        self.shared.outputs.push_back(Output { ike: None, action });
        self.traps.push(Trap { spec });
    }

    pub(super) fn remove_traps(&mut self) {
        for trap in std::mem::take(&mut self.traps) {
            self.remove_trap(&trap);
        }
    }

    fn remove_trap(&mut self, trap: &Trap) {
        let action = Action::RemoveChild {
            child: trap.spec.child,
        };
        self.shared.outputs.push_back(Output { ike: None, action });
    }

    /// A packet has met the policies of a trap.
    pub(super) fn acquire(&mut self, now: Time, host: &mut dyn Host, child: ChildId) {
        let trap = self.traps.iter().find(|trap| trap.spec.child == child);
        let Some(trap) = trap else { return };
        let (connection, child) = (trap.spec.connection.clone(), trap.spec.name.clone());
        if !self.stopping {
            self.bring_up(now, host, &connection, Some(&child), None);
        }
    }

    /// Installs of all traps, for a new dataplane.
    pub(super) fn traps_to_install(&self) -> impl Iterator<Item = Output> {
        self.traps.iter().map(|trap| Output {
            ike: None,
            action: Action::InstallTrap(Box::new(trap.spec.clone())),
        })
    }
}

/// Single addresses of both sides, unspecified where there is none.
fn host_address(connection: &Connection) -> (IpAddr, IpAddr) {
    let single = |specs: &[AddressSpec]| {
        let single = specs.iter().find_map(|spec| match spec {
            AddressSpec::Range(first, last) if first == last => Some(*first),
            AddressSpec::Any | AddressSpec::AnyOf { .. } | AddressSpec::Range(..) => None,
        });
        single.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    };
    (
        single(&connection.local_addrs),
        single(&connection.remote_addrs),
    )
}

fn trap_spec(
    id: ChildId,
    connection: &Connection,
    child: &ChildConfig,
    addresses: (IpAddr, IpAddr),
) -> ChildSpec {
    let selectors = Selectors::resolve(&child.local_ts, &child.remote_ts, addresses);
    let path = PathSpec {
        local: SocketAddr::new(addresses.0, 0),
        remote: SocketAddr::new(addresses.1, 0),
        udp_encapsulation: false,
    };
    spec(id, connection, child, &selectors, path)
}

//! What the dataplane should hold, child by child, and the commands that make it so.
//!
//! The book is written first, then the commands go out. So whatever happens to the dataplane, the
//! whole of it can be said again ([`Book::resync`]).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use api::id::{ChildId, Interface, PathId, PolicyId, SaId, Vrf};
use api::record::{
    Action, Algorithm, Child, Command, CopyDscp, Direction, Limits, MAX_WINDOW_BITS,
    MIN_WINDOW_BITS, Mode, Path, Policy, Sa, SaKey,
};
use api::selector::{AddrRange, Selector};
use ike::config::CopyDscp as IkeCopyDscp;
use ike::{ChildSpec, PathSpec, Rekeyed, SaKeys, SaPair, SelectorPair};

use crate::config::{Shunt, ShuntAction};
use crate::pool::{Pool, outbound_of};
use crate::priority;

/// A command, and what its failure is about.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) command: Command,
    pub(crate) subject: Subject,
}

/// What a command was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Failure means that this pair of SAs is not installed.
    Pair { child: u32, inbound_spi: u32 },
    /// Failure of an adoption means that the SA must be rekeyed.
    Adopted {
        child: u32,
        spi: u32,
        inbound_spi: u32,
    },
    /// Nobody waits for it.
    Removal,
    /// A row that nothing was in is free.
    RemovalOf(SaId),
    /// The end of a resync.
    Resync,
}

/// One SA as the dataplane knows it.
struct SaEntry {
    id: SaId,
    spi: u32,
    /// Inbound SPI of the pair it came with.
    inbound_spi: u32,
    direction: Direction,
    key: SaKey,
    esn: bool,
    window_bits: u32,
    limits: Limits,
}

struct ChildEntry {
    spec: ChildSpec,
    trap: bool,
    policies: Vec<Policy>,
    sas: Vec<SaEntry>,
    /// SPI of the outbound SA in use.
    active: Option<u32>,
}

/// Everything IKE wants installed.
#[derive(Default)]
pub(crate) struct Book {
    children: BTreeMap<u32, ChildEntry>,
    by_sa: HashMap<SaId, (u32, u32)>,
    policies: u32,
    /// Policies without a child, by configuration (`mode = pass | drop`).
    shunts: Vec<Policy>,
}

impl Book {
    /// Child and SPI of an SA.
    pub(crate) fn owner(&self, id: SaId) -> Option<(u32, u32)> {
        self.by_sa.get(&id).copied()
    }

    /// The SA of a child with this SPI.
    pub(crate) fn sa(&self, child: u32, spi: u32, direction: Direction) -> Option<SaId> {
        let entry = self.children.get(&child)?;
        let found = entry
            .sas
            .iter()
            .find(|sa| sa.spi == spi && sa.direction == direction)?;
        Some(found.id)
    }

    /// Peer address and selectors of a child, for its kernel routes.
    pub(crate) fn ways(&self, child: u32) -> Option<(IpAddr, &[SelectorPair])> {
        let entry = self.children.get(&child)?;
        Some((entry.spec.path.remote.ip(), &entry.spec.selectors))
    }

    /// Rows in use.
    pub(crate) fn holds(&self, id: SaId) -> bool {
        self.by_sa.contains_key(&id)
    }

    /// A child with a pair of SAs, or a trap without.
    pub(crate) fn install(
        &mut self,
        spec: ChildSpec,
        pair: Option<SaPair>,
        pool: &mut Pool,
    ) -> Vec<Order> {
        let child = spec.child.0;
        // What the book still has under this number is replaced.
        let mut orders = self.remove_child(child);
        let policies = self.policies_of(&spec, pair.is_none());
        let entry = ChildEntry {
            spec,
            trap: pair.is_none(),
            policies,
            sas: Vec::new(),
            active: None,
        };
        let subject = Subject::Pair {
            child,
            inbound_spi: pair.as_ref().map_or(0, |p| p.inbound.spi),
        };
        orders.push(Order {
            command: Command::PathAdd(entry.path()),
            subject,
        });
        orders.push(Order {
            command: Command::ChildAdd(entry.child()),
            subject,
        });
        let policies = entry.policies.clone();
        self.children.insert(child, entry);
        if let Some(pair) = pair {
            orders.extend(self.add_pair(child, &pair, true, pool));
        }
        orders.extend(transaction(
            policies.into_iter().map(Command::PolicyAdd),
            subject,
        ));
        orders
    }

    /// A further pair for a child.
    pub(crate) fn rekeyed(&mut self, rekeyed: &Rekeyed, pool: &mut Pool) -> Vec<Order> {
        let child = rekeyed.child.0;
        let mut orders = self.add_pair(child, &rekeyed.pair, rekeyed.activate, pool);
        if let Some(selectors) = &rekeyed.selectors {
            let subject = Subject::Pair {
                child,
                inbound_spi: rekeyed.pair.inbound.spi,
            };
            orders.extend(self.replace_policies(child, selectors.clone(), subject));
        }
        orders
    }

    fn replace_policies(
        &mut self,
        child: u32,
        selectors: Vec<SelectorPair>,
        subject: Subject,
    ) -> Vec<Order> {
        let Some(entry) = self.children.get(&child) else {
            return Vec::new();
        };
        let mut spec = entry.spec.clone();
        spec.selectors = selectors;
        let new = self.policies_of(&spec, false);
        let Some(entry) = self.children.get_mut(&child) else {
            return Vec::new();
        };
        entry.spec = spec;
        let old = std::mem::replace(&mut entry.policies, new.clone());
        let deleted = old
            .into_iter()
            .map(|policy| Command::PolicyDelete(policy.id));
        transaction(
            new.into_iter().map(Command::PolicyAdd).chain(deleted),
            subject,
        )
    }

    fn add_pair(
        &mut self,
        child: u32,
        pair: &SaPair,
        activate: bool,
        pool: &mut Pool,
    ) -> Vec<Order> {
        let inbound_spi = pair.inbound.spi;
        let subject = Subject::Pair { child, inbound_spi };
        let inbound_id = SaId(inbound_spi);
        if pair.adopt {
            pool.reserve(inbound_id);
        }
        let outbound_id = outbound_of(inbound_id).unwrap_or(SaId(0));
        let entry = |keys: &SaKeys, id, direction| {
            Some(SaEntry {
                id,
                spi: keys.spi,
                inbound_spi,
                direction,
                key: SaKey::new(&keys.key).ok()?,
                esn: pair.esn,
                window_bits: window_bits(pair.window_packets, direction),
                limits: limits(&pair.limits),
            })
        };
        let inbound = entry(&pair.inbound, inbound_id, Direction::Inbound);
        let outbound = entry(&pair.outbound, outbound_id, Direction::Outbound);
        let (Some(inbound), Some(outbound), Some(child_entry)) =
            (inbound, outbound, self.children.get_mut(&child))
        else {
            // Nothing of it can be installed: an order that fails says so.
            return vec![Order {
                command: Command::SaDelete(SaId(0)),
                subject,
            }];
        };
        let mut orders = Vec::new();
        let outbound = if pair.inbound_only {
            pool.release(outbound_id);
            None
        } else {
            Some(outbound)
        };
        for sa in std::iter::once(inbound).chain(outbound) {
            let subject = sa.subject(child, pair.adopt);
            orders.push(Order {
                command: sa.add(child, pair.adopt),
                subject,
            });
            self.by_sa.insert(sa.id, (child, sa.spi));
            child_entry.sas.push(sa);
        }
        if activate && !pair.inbound_only {
            child_entry.active = Some(pair.outbound.spi);
            let command = Command::ActivateOutbound {
                child: ChildId(child),
                sa: outbound_id,
            };
            orders.push(Order { command, subject });
        }
        orders
    }

    /// Sends on another outbound SA from now on.
    pub(crate) fn activate(&mut self, child: u32, spi: u32) -> Vec<Order> {
        let Some(sa) = self.sa(child, spi, Direction::Outbound) else {
            return Vec::new();
        };
        let Some(entry) = self.children.get_mut(&child) else {
            return Vec::new();
        };
        entry.active = Some(spi);
        let inbound_spi = entry
            .sas
            .iter()
            .find(|e| e.id == sa)
            .map_or(0, |entry| entry.inbound_spi);
        let command = Command::ActivateOutbound {
            child: ChildId(child),
            sa,
        };
        vec![Order {
            command,
            subject: Subject::Pair { child, inbound_spi },
        }]
    }

    /// One SA less.
    pub(crate) fn remove_sa(&mut self, child: u32, spi: u32, inbound: bool) -> Vec<Order> {
        let direction = if inbound {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let Some(id) = self.sa(child, spi, direction) else {
            return Vec::new();
        };
        if let Some(entry) = self.children.get_mut(&child) {
            entry.sas.retain(|sa| sa.id != id);
            if !inbound && entry.active == Some(spi) {
                entry.active = None;
            }
        }
        self.by_sa.remove(&id);
        vec![Order {
            command: Command::SaDelete(id),
            subject: Subject::RemovalOf(id),
        }]
    }

    /// Policies, SAs, child and path, in the order in which nothing is used any more.
    pub(crate) fn remove_child(&mut self, child: u32) -> Vec<Order> {
        let Some(entry) = self.children.remove(&child) else {
            return Vec::new();
        };
        let subject = Subject::Removal;
        let policies = entry
            .policies
            .iter()
            .map(|policy| Command::PolicyDelete(policy.id));
        let mut orders = transaction(policies, subject);
        for sa in &entry.sas {
            self.by_sa.remove(&sa.id);
            orders.push(Order {
                command: Command::SaDelete(sa.id),
                subject: Subject::RemovalOf(sa.id),
            });
        }
        orders.push(Order {
            command: Command::ChildDelete(ChildId(child)),
            subject,
        });
        orders.push(Order {
            command: Command::PathDelete(PathId(child)),
            subject,
        });
        orders
    }

    /// All children.
    pub(crate) fn remove_all(&mut self) -> Vec<Order> {
        let children: Vec<u32> = self.children.keys().copied().collect();
        children
            .into_iter()
            .flat_map(|child| self.remove_child(child))
            .collect()
    }

    /// The peer is elsewhere now.
    pub(crate) fn update_path(&mut self, child: u32, path: PathSpec) -> Vec<Order> {
        let Some(entry) = self.children.get_mut(&child) else {
            return Vec::new();
        };
        entry.spec.path = path;
        vec![Order {
            command: Command::PathUpdate(entry.path()),
            subject: Subject::Removal,
        }]
    }

    /// All of it again, for a dataplane that may be new: keys go on only where their state is
    /// certain, and what the book does not have is deleted at the end.
    pub(crate) fn resync(&self) -> Vec<Order> {
        let subject = Subject::Removal;
        let mut orders = vec![Order {
            command: Command::Begin { resync: true },
            subject,
        }];
        for (child, entry) in &self.children {
            orders.push(Order {
                command: Command::PathAdd(entry.path()),
                subject,
            });
            orders.push(Order {
                command: Command::ChildAdd(entry.child()),
                subject,
            });
            for sa in &entry.sas {
                orders.push(Order {
                    command: sa.add(*child, true),
                    subject: sa.subject(*child, true),
                });
            }
            let active = entry
                .sas
                .iter()
                .find(|sa| sa.direction == Direction::Outbound && Some(sa.spi) == entry.active);
            if let Some(sa) = active {
                let command = Command::ActivateOutbound {
                    child: ChildId(*child),
                    sa: sa.id,
                };
                orders.push(Order { command, subject });
            }
            let policies = entry.policies.iter().cloned();
            orders.extend(policies.map(|p| Order {
                command: Command::PolicyAdd(p),
                subject,
            }));
        }
        let shunts = self.shunts.iter().cloned();
        orders.extend(shunts.map(|p| Order {
            command: Command::PolicyAdd(p),
            subject,
        }));
        orders.push(Order {
            command: Command::Commit,
            subject: Subject::Resync,
        });
        orders
    }

    /// Replaces the policies that pass or drop without a child.
    pub(crate) fn set_shunts(&mut self, shunts: &[Shunt]) -> Vec<Order> {
        let mut new = Vec::new();
        for shunt in shunts {
            for pair in &shunt.selectors {
                let pair = &SelectorPair {
                    local: pair.local,
                    remote: pair.remote,
                    protocol: pair.protocol,
                    local_ports: pair.local_ports,
                    remote_ports: pair.remote_ports,
                };
                let action = match shunt.action {
                    ShuntAction::Bypass => Action::Bypass,
                    ShuntAction::Discard => Action::Discard,
                };
                new.extend(self.both_ways(pair, action, shunt.priority, false));
            }
        }
        let old = std::mem::replace(&mut self.shunts, new.clone());
        if old.is_empty() && new.is_empty() {
            return Vec::new();
        }
        let deleted = old
            .into_iter()
            .map(|policy| Command::PolicyDelete(policy.id));
        transaction(
            new.into_iter().map(Command::PolicyAdd).chain(deleted),
            Subject::Removal,
        )
    }

    fn policies_of(&mut self, spec: &ChildSpec, trap: bool) -> Vec<Policy> {
        let action = Action::Protect(ChildId(spec.child.0));
        let pairs = spec.selectors.iter();
        pairs
            .flat_map(|pair| self.both_ways(pair, action, spec.priority, trap))
            .collect()
    }

    fn both_ways(
        &mut self,
        pair: &SelectorPair,
        action: Action,
        priority: u32,
        trap: bool,
    ) -> [Policy; 2] {
        let selector = selector(pair);
        let priority = match priority {
            0 => priority::automatic(&selector, trap),
            given if trap => given.saturating_add(priority::TRAP),
            given => given,
        };
        [Direction::Outbound, Direction::Inbound].map(|direction| {
            self.policies = self.policies.wrapping_add(1) & 0x7fff_ffff;
            Policy {
                id: PolicyId(self.policies),
                direction,
                action,
                priority,
                vrf: Vrf(0),
                interface: Interface(0),
                selector,
            }
        })
    }

    /// Number of children, traps included.
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether a child is a trap.
    pub(crate) fn is_trap(&self, child: u32) -> bool {
        self.children.get(&child).is_some_and(|entry| entry.trap)
    }
}

impl ChildEntry {
    fn path(&self) -> Path {
        let PathSpec {
            local,
            remote,
            udp_encapsulation,
        } = self.spec.path;
        let port = |port: u16| if udp_encapsulation { port } else { 0 };
        Path {
            id: PathId(self.spec.child.0),
            vrf: Vrf(0),
            interface: Interface(0),
            local: local.ip(),
            remote: remote.ip(),
            local_port: port(local.port()),
            remote_port: port(remote.port()),
            udp_encapsulation,
            mtu_bytes: 0,
            dscp: None,
        }
    }

    fn child(&self) -> Child {
        let id = self.spec.child.0;
        Child {
            id: ChildId(id),
            path: PathId(id),
            cookie: u64::from(id),
            vrf: Vrf(0),
            interface: Interface(0),
            mode: Mode::Tunnel,
            copy_df: self.spec.copy_df,
            copy_ecn: self.spec.copy_ecn,
            copy_dscp: match self.spec.copy_dscp {
                IkeCopyDscp::Out => CopyDscp::Out,
                IkeCopyDscp::In => CopyDscp::In,
                IkeCopyDscp::Both => CopyDscp::Both,
                IkeCopyDscp::No => CopyDscp::No,
            },
        }
    }
}

impl SaEntry {
    fn add(&self, child: u32, adopt: bool) -> Command {
        Command::SaAdd(Sa {
            id: self.id,
            child: ChildId(child),
            direction: self.direction,
            spi: self.spi,
            algorithm: Algorithm::AesGcm16,
            key: self.key.clone(),
            esn: self.esn,
            window_bits: self.window_bits,
            start_sequence: 0,
            adopt,
            limits: self.limits,
        })
    }

    const fn subject(&self, child: u32, adopt: bool) -> Subject {
        let inbound_spi = self.inbound_spi;
        if adopt {
            Subject::Adopted {
                child,
                spi: self.spi,
                inbound_spi,
            }
        } else {
            Subject::Pair { child, inbound_spi }
        }
    }
}

/// Policy changes that take effect together.
fn transaction(commands: impl Iterator<Item = Command>, subject: Subject) -> Vec<Order> {
    let begin = std::iter::once(Command::Begin { resync: false });
    let all = begin
        .chain(commands)
        .chain(std::iter::once(Command::Commit));
    all.map(|command| Order { command, subject }).collect()
}

/// A window that the dataplane can have: 64 packets and more, or none.
fn window_bits(packets: u32, direction: Direction) -> u32 {
    match (direction, packets) {
        (Direction::Outbound, _) | (_, 0) => 0,
        (Direction::Inbound, packets) => packets
            .clamp(MIN_WINDOW_BITS, MAX_WINDOW_BITS)
            .checked_next_power_of_two()
            .unwrap_or(MAX_WINDOW_BITS),
    }
}

const fn limits(of: &ike::Limits) -> Limits {
    Limits {
        soft_bytes: of.soft_bytes,
        hard_bytes: of.hard_bytes,
        soft_packets: of.soft_packets,
        hard_packets: of.hard_packets,
    }
}

fn selector(pair: &SelectorPair) -> Selector {
    let range = |(first, last)| AddrRange { first, last };
    Selector {
        local: range(pair.local),
        remote: range(pair.remote),
        protocol: pair.protocol,
        local_ports: pair.local_ports,
        remote_ports: pair.remote_ports,
    }
}

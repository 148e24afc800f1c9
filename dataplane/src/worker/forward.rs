//! Clear packets: the boundary's rules (RFC 4301 5.1, 5.2) and the FIB.
//!
//! ```text
//! from           to us                      to an inside port      to an outside port
//! outside port   inbound bypass             inbound bypass         inbound and outbound
//! inside port    inbound bypass             outbound               outbound
//! twin           -                          outbound               outbound
//! tunnel         selectors checked: twin    selectors checked      outbound
//! ```
//! "Outbound" is the policy for packets that leave, whose answer may be protect. A packet without
//! a route has no interface, but a protect policy for any interface still takes it: the tunnel has
//! a route of its own.

use std::net::IpAddr;
use std::sync::Arc;

use api::counters::{Counter, DropReason};
use api::id::{Interface, PolicyId, Vrf};
use api::record::FiveTuple;
use esp::ip::{self, IpPacket};

use super::View;
use super::answer::{Answer, Refusal};
use super::exits::{Exit, Exits};
use super::work::Carries;
use crate::links::Class;
use crate::packet::{Origin, Packet};
use crate::port::{PortIndex, Side};
use crate::tables::child::Child;
use crate::tables::fib::Target;
use crate::tables::spd::{Decision, Flow, Ports};

/// A clear IP packet on its way through the stages.
pub(super) struct Clear {
    pub(super) packet: Packet,
    pub(super) ip: IpPacket,
    /// For the gateway itself, or for a group that it may belong to.
    pub(super) to_us: bool,
}

impl Carries for Clear {
    fn packet_mut(&mut self) -> &mut Packet {
        &mut self.packet
    }
}

/// Where a packet crosses the boundary to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    /// Its destination is the protected side.
    Us,
    /// Its destination is the unprotected side.
    Others,
}

/// What a packet is matched by.
pub(super) fn flow(ip: &IpPacket, vrf: Vrf, interface: Interface, towards: Towards) -> Flow {
    let ports = match ip.ports {
        ip::Ports::None | ip::Ports::Opaque => None,
        ip::Ports::TypeCode(both) => Some((both, both)),
        ip::Ports::Pair {
            source,
            destination,
        } => Some((source, destination)),
    };
    let (local, remote, ports) = match towards {
        Towards::Us => (ip.destination, ip.source, ports.map(|(a, b)| (b, a))),
        Towards::Others => (ip.source, ip.destination, ports),
    };
    let ports = ports.map(|(local, remote)| Ports { local, remote });
    Flow {
        vrf,
        interface,
        local,
        remote,
        protocol: ip.protocol,
        ports,
    }
}

/// The flow as an acquire tells it.
pub(super) fn five_tuple(flow: &Flow) -> FiveTuple {
    let ports = flow.ports.unwrap_or(Ports {
        local: 0,
        remote: 0,
    });
    FiveTuple {
        local: flow.local,
        remote: flow.remote,
        protocol: flow.protocol,
        local_port: ports.local,
        remote_port: ports.remote,
    }
}

/// What is left to be done with a clear packet.
pub(super) enum Onward {
    /// Out of a port in clear.
    Port {
        /// Egress port.
        port: PortIndex,
        /// Next hop.
        next_hop: IpAddr,
    },
    /// Out of the twin's port as Linux made it.
    AsItIs,
    /// Into a tunnel.
    Protect {
        /// The policy that says so.
        policy: PolicyId,
        /// Its child.
        child: Arc<Child>,
        /// What it was matched by.
        flow: Flow,
    },
}

/// Refuses what must not come in in clear, and gives to Linux what is for Linux.
pub(super) fn admit(view: &View<'_>, clear: &Clear, exits: &mut Exits) -> Result<(), Exit> {
    let port = view.port(clear.packet.port).ok_or(DropReason::Internal)?;
    match clear.packet.origin {
        Origin::Twin => return Ok(()),
        Origin::Tunnel if clear.to_us => return Err(Exit::Punt(Class::Rest)),
        Origin::Tunnel if clear.ip.destination_is_group() => {
            return Err(DropReason::Multicast.into());
        }
        Origin::Tunnel => return Ok(()),
        Origin::Wire => {}
    }
    if !clear.to_us && port.side == Side::Inside {
        return Ok(());
    }
    let flow = flow(&clear.ip, clear.packet.vrf, port.interface, Towards::Us);
    match view
        .snapshot
        .policies
        .inbound(&flow)
        .map(|rule| &rule.decision)
    {
        Some(Decision::Bypass) => exits.counts.add(Counter::Bypassed, 1),
        Some(Decision::Protect(_)) => return Err(DropReason::ClearOfProtected.into()),
        Some(Decision::Discard) => return Err(DropReason::DiscardPolicy.into()),
        None => return Err(no_inbound_policy(&clear.ip).into()),
    }
    if clear.to_us {
        Err(Exit::Punt(Class::Rest))
    } else {
        Ok(())
    }
}

/// Groups that nobody asked for are background noise, and counted as such.
fn no_inbound_policy(ip: &IpPacket) -> DropReason {
    match ip.destination {
        IpAddr::V4(v4) if v4.is_broadcast() => DropReason::Broadcast,
        address if address.is_multicast() => DropReason::Multicast,
        _ => DropReason::NoPolicy,
    }
}

/// Route and policy of a packet that leaves.
pub(super) fn route(view: &View<'_>, clear: &Clear, exits: &mut Exits) -> Result<Onward, Exit> {
    if clear.packet.origin == Origin::Twin {
        let port = view.port(clear.packet.port).ok_or(DropReason::Internal)?;
        return leave(view, clear, Some(port.interface), exits)
            .map(|onward| onward.unwrap_or(Onward::AsItIs));
    }
    let target = view
        .snapshot
        .fib
        .lookup(clear.packet.vrf, clear.ip.destination);
    let egress = match target {
        Some(Target::Port { port, .. }) => view.port(port),
        Some(Target::Discard) | None => None,
    };
    let inside = egress.is_some_and(|port| port.side == Side::Inside);
    let admitted = match clear.packet.origin {
        Origin::Tunnel => true,
        Origin::Wire => view
            .port(clear.packet.port)
            .is_some_and(|p| p.side == Side::Outside),
        Origin::Twin => false,
    };
    if !(inside && admitted) {
        let interface = egress.map(|port| port.interface);
        if let Some(protect) = leave(view, clear, interface, exits)? {
            return Ok(protect);
        }
    }
    match target {
        Some(Target::Port { port, gateway }) => Ok(Onward::Port {
            port,
            next_hop: gateway.unwrap_or(clear.ip.destination),
        }),
        Some(Target::Discard) => Err(DropReason::DiscardRoute.into()),
        None => Err(DropReason::NoRoute.into()),
    }
}

/// The outbound policy: protect, or `None` for a bypass.
fn leave(
    view: &View<'_>,
    clear: &Clear,
    interface: Option<Interface>,
    exits: &mut Exits,
) -> Result<Option<Onward>, Exit> {
    let interface_or_none = interface.unwrap_or_default();
    let flow = flow(
        &clear.ip,
        clear.packet.vrf,
        interface_or_none,
        Towards::Others,
    );
    let rule = view.snapshot.policies.outbound(&flow);
    match rule.map(|rule| (rule.id, &rule.decision)) {
        Some((policy, Decision::Protect(child))) => {
            let child = Arc::clone(child);
            Ok(Some(Onward::Protect {
                policy,
                child,
                flow,
            }))
        }
        Some((_, Decision::Bypass)) => {
            exits.counts.add(Counter::Bypassed, 1);
            Ok(None)
        }
        Some((_, Decision::Discard)) => Err(DropReason::DiscardPolicy.into()),
        None => Err(DropReason::NoPolicy.into()),
    }
}

/// Makes a clear packet ready to leave by a port: hop limit and size (RFC 1812 5.2, RFC 8200 5).
pub(super) fn forward(view: &View<'_>, clear: &mut Clear, port: PortIndex) -> Result<(), Refusal> {
    let mtu = view.port(port).map_or(0, |port| port.mtu_bytes);
    let fragmentable = !clear.ip.df;
    if clear.ip.total_len > usize::from(mtu) {
        let answer = (!fragmentable).then_some(Answer::TooBig { mtu: mtu.into() });
        return Err(Refusal {
            reason: DropReason::TooBig,
            answer,
        });
    }
    hop(clear)
}

/// Takes one hop off a forwarded packet; Linux has not routed its own packets, only sent them.
pub(super) fn hop(clear: &mut Clear) -> Result<(), Refusal> {
    if clear.packet.origin == Origin::Twin {
        return Ok(());
    }
    match ip::decrement_ttl(clear.packet.network_mut()) {
        Some(ttl) => {
            clear.ip.ttl = ttl;
            Ok(())
        }
        None => {
            let answer = Some(Answer::TimeExceeded);
            Err(Refusal {
                reason: DropReason::TtlExceeded,
                answer,
            })
        }
    }
}

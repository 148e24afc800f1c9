//! SAs in the form that the admin socket gives them.

use ike::{ChildView, IkeSaView, SaView, State, Time};

use crate::admin::{ChildSa, Endpoint, IkeSa, Spi};

pub(crate) const fn is_established(view: &IkeSaView) -> bool {
    matches!(view.state, State::Established)
}

/// An IKE SA with the children that are up.
pub(crate) fn ike_sa(view: &IkeSaView, now: Time) -> IkeSa {
    let end = |address: std::net::SocketAddr, id: Option<&String>| Endpoint {
        address: address.ip().to_string(),
        port: address.port(),
        id: id.cloned().unwrap_or_default(),
    };
    IkeSa {
        connection: view.connection.clone(),
        id: view.id.0,
        state: state(view.state).to_owned(),
        initiator: view.initiator,
        local: end(view.local, view.local_id.as_ref()),
        remote: end(view.remote, view.remote_id.as_ref()),
        spi_initiator: format!("{:016x}", view.spi_i),
        spi_responder: format!("{:016x}", view.spi_r),
        proposal: view.algorithms.clone().unwrap_or_default(),
        nat_local: view.nat_local,
        nat_remote: view.nat_remote,
        age_s: now.since_ms(view.established) / 1000,
        rekey_in_s: view.rekey_at.map(|at| at.since_ms(now) / 1000),
        children: view
            .children
            .iter()
            .filter_map(|child| child_sa(child, now))
            .collect(),
    }
}

const fn state(state: State) -> &'static str {
    match state {
        State::Initiated | State::Authenticating | State::HalfOpen => "connecting",
        State::Established => "established",
        State::Replaced => "rekeyed",
        _ => "deleting",
    }
}

/// A child by the pair that it sends with.
fn child_sa(child: &ChildView, now: Time) -> Option<ChildSa> {
    let in_use = |sa: &&SaView| sa.state == "active";
    let sa = child.sas.iter().find(in_use).or_else(|| child.sas.last())?;
    let fresh = child.sas.iter().any(|sa| sa.state == "ready");
    let texts = |side: &[ike::wire::TrafficSelector]| side.iter().map(selector).collect::<Vec<_>>();
    Some(ChildSa {
        name: child.name.clone(),
        id: child.id.0,
        state: match sa.state {
            "active" if fresh => "rekeying",
            "active" => "installed",
            other => other,
        }
        .to_owned(),
        mode: "tunnel".to_owned(),
        udp_encapsulation: child.udp_encapsulation,
        proposal: sa.algorithms.clone(),
        spi_in: Spi(sa.inbound_spi),
        spi_out: Spi(sa.outbound_spi),
        local_ts: texts(&child.selectors.local),
        remote_ts: texts(&child.selectors.remote),
        age_s: now.since_ms(sa.created) / 1000,
        rekey_in_s: sa.rekey_at.map(|at| at.since_ms(now) / 1000),
        expires_in_s: sa.expire_at.map(|at| at.since_ms(now) / 1000),
    })
}

/// `10.1.0.0/24[udp/7000]`, as in the configuration.
fn selector(ts: &ike::wire::TrafficSelector) -> String {
    let range = api::selector::AddrRange {
        first: ts.first,
        last: ts.last,
    };
    let ports = match (ts.start_port, ts.end_port) {
        (0, u16::MAX) => None,
        (u16::MAX, 0) => Some("opaque".to_owned()),
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    };
    let protocol = match ts.protocol {
        0 => "any".to_owned(),
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        other => other.to_string(),
    };
    match ports {
        None if ts.protocol == 0 => range.to_string(),
        None => format!("{range}[{protocol}]"),
        Some(ports) => format!("{range}[{protocol}/{ports}]"),
    }
}

//! The SAs and policies of the configuration, as commands to the tables.

use std::fmt;
use std::net::IpAddr;

use api::config::selector::SelectorPair;
use api::config::{
    CopyDscp as ConfiguredDscp, DataplaneConfig, PolicyDirection, StaticAction, StaticKey,
    StaticPolicy, StaticSa,
};
use api::id::{ChildId, Interface, PathId, PolicyId, STATIC_SHARD, SaId, Vrf};
use api::record::{
    Action, Algorithm, Child, Command, CopyDscp, Direction, FieldError, Limits, Mode, Path, Policy,
    Sa, SaKey, Status,
};
use api::selector::{AddrRange, Selector};

use crate::tables::writer::TablesWriter;

/// A command of the configuration that the tables refused.
#[derive(Debug)]
pub struct StaticError {
    name: String,
    what: &'static str,
    status: Status,
}

impl fmt::Display for StaticError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, what, status } = self;
        write!(
            f,
            "{what} of \"{name}\" in the configuration cannot be installed: {status}"
        )
    }
}

impl std::error::Error for StaticError {}

/// One direction of a static SA: the id it gets, and where its key and number come from.
pub struct StaticRow<'a> {
    pub id: SaId,
    pub name: &'a str,
    pub direction: Direction,
    pub key: &'a StaticKey,
}

/// Rows that the configuration's SAs need.
#[must_use]
pub fn rows(config: &DataplaneConfig) -> Vec<StaticRow<'_>> {
    let both = config.static_sas.iter().flat_map(|sa| {
        let inbound = sa
            .inbound
            .iter()
            .map(|key| (&sa.name, Direction::Inbound, key));
        let outbound = sa
            .outbound
            .iter()
            .map(|key| (&sa.name, Direction::Outbound, key));
        inbound.chain(outbound)
    });
    let rows = (0..)
        .zip(both)
        .filter_map(|(index, (name, direction, key))| {
            let id = SaId::new(STATIC_SHARD, index, 0)?;
            Some(StaticRow {
                id,
                name,
                direction,
                key,
            })
        });
    rows.collect()
}

/// Installs all SAs and policies of the configuration, as one version of the policies.
///
/// `start` gives the last sequence number that is already used, for each row of [`rows`].
pub fn install(
    writer: &mut TablesWriter,
    config: &DataplaneConfig,
    start: impl Fn(SaId) -> u64,
) -> Result<(), StaticError> {
    if config.static_sas.is_empty() && config.policies.is_empty() {
        return Ok(());
    }
    let mut install = Install {
        writer,
        policies: 0,
    };
    install.apply("", "begin", Command::Begin { resync: false })?;
    let mut rows = rows(config).into_iter().peekable();
    for (number, sa) in (0..).zip(&config.static_sas) {
        install.tunnel(number, sa)?;
        while let Some(row) = rows.next_if(|row| row.name == sa.name) {
            let record = record(sa, &row, ChildId::fixed(number), start(row.id))
                .map_err(|error| refused(&sa.name, "key", error.into()))?;
            install.apply(&sa.name, "SA", Command::SaAdd(record))?;
            if row.direction == Direction::Outbound {
                let child = ChildId::fixed(number);
                let activate = Command::ActivateOutbound { child, sa: row.id };
                install.apply(&sa.name, "SA", activate)?;
            }
        }
    }
    for policy in &config.policies {
        install.plain_policy(policy)?;
    }
    install.apply("", "commit", Command::Commit)?;
    // A bypass must not let out in clear text what a policy of IKE would protect.
    if config.awaits_ike {
        writer.await_ike();
    }
    Ok(())
}

struct Install<'a> {
    writer: &'a mut TablesWriter,
    policies: u32,
}

impl Install<'_> {
    fn apply(
        &mut self,
        name: &str,
        what: &'static str,
        command: Command,
    ) -> Result<(), StaticError> {
        let status = self.writer.apply(command).status;
        if status.is_success() {
            return Ok(());
        }
        Err(refused(name, what, status))
    }

    /// Path, Child and protect policies of a static SA.
    fn tunnel(&mut self, number: u32, sa: &StaticSa) -> Result<(), StaticError> {
        let (vrf, interface) = (Vrf(sa.vrf), Interface(sa.interface));
        let path = Path {
            id: PathId::fixed(number),
            vrf,
            interface: Interface(0),
            local: sa.local,
            remote: sa.remote,
            local_port: sa.local_port,
            remote_port: sa.remote_port,
            udp_encapsulation: sa.udp_encapsulation,
            mtu_bytes: sa.mtu_bytes,
            dscp: None,
        };
        self.apply(&sa.name, "path", Command::PathAdd(path))?;
        let child = Child {
            id: ChildId::fixed(number),
            path: PathId::fixed(number),
            cookie: 0,
            vrf,
            interface,
            mode: Mode::Tunnel,
            copy_df: sa.copy_df,
            copy_ecn: sa.copy_ecn,
            copy_dscp: copy_dscp(sa.copy_dscp),
        };
        self.apply(&sa.name, "child", Command::ChildAdd(child))?;
        let action = Action::Protect(ChildId::fixed(number));
        for pair in &sa.selectors {
            for direction in [Direction::Inbound, Direction::Outbound] {
                self.policy(
                    &sa.name,
                    direction,
                    action,
                    sa.priority,
                    (vrf, interface),
                    pair,
                )?;
            }
        }
        Ok(())
    }

    fn plain_policy(&mut self, policy: &StaticPolicy) -> Result<(), StaticError> {
        let directions: &[Direction] = match policy.direction {
            PolicyDirection::Inbound => &[Direction::Inbound],
            PolicyDirection::Outbound => &[Direction::Outbound],
            PolicyDirection::Both => &[Direction::Inbound, Direction::Outbound],
        };
        let action = match policy.action {
            StaticAction::Bypass => Action::Bypass,
            StaticAction::Discard => Action::Discard,
        };
        let place = (Vrf(policy.vrf), Interface(policy.interface));
        for pair in &policy.selectors {
            for direction in directions {
                self.policy(
                    &policy.name,
                    *direction,
                    action,
                    policy.priority,
                    place,
                    pair,
                )?;
            }
        }
        Ok(())
    }

    fn policy(
        &mut self,
        name: &str,
        direction: Direction,
        action: Action,
        priority: u32,
        (vrf, interface): (Vrf, Interface),
        pair: &SelectorPair,
    ) -> Result<(), StaticError> {
        let id = PolicyId::fixed(self.policies);
        self.policies = self.policies.saturating_add(1);
        let selector = selector(pair);
        let policy = Policy {
            id,
            direction,
            action,
            priority,
            vrf,
            interface,
            selector,
        };
        self.apply(name, "policy", Command::PolicyAdd(policy))
    }
}

fn refused(name: &str, what: &'static str, status: Status) -> StaticError {
    StaticError {
        name: name.to_owned(),
        what,
        status,
    }
}

fn record(
    sa: &StaticSa,
    row: &StaticRow<'_>,
    child: ChildId,
    start_sequence: u64,
) -> Result<Sa, FieldError> {
    let inbound = row.direction == Direction::Inbound;
    Ok(Sa {
        id: row.id,
        child,
        direction: row.direction,
        spi: row.key.spi,
        algorithm: Algorithm::AesGcm16,
        key: SaKey::new(&row.key.key)?,
        esn: sa.proposal.esn,
        window_bits: if inbound { sa.window_bits } else { 0 },
        start_sequence,
        adopt: false,
        limits: Limits::default(),
    })
}

fn selector(pair: &SelectorPair) -> Selector {
    let range = |(first, last): (IpAddr, IpAddr)| AddrRange { first, last };
    Selector {
        local: range(pair.local),
        remote: range(pair.remote),
        protocol: pair.protocol,
        local_ports: pair.local_ports,
        remote_ports: pair.remote_ports,
    }
}

fn copy_dscp(configured: ConfiguredDscp) -> CopyDscp {
    match configured {
        ConfiguredDscp::Out => CopyDscp::Out,
        ConfiguredDscp::In => CopyDscp::In,
        ConfiguredDscp::Both => CopyDscp::Both,
        ConfiguredDscp::No => CopyDscp::No,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::config::parse_dataplane;
    use api::id::Geometry;
    use api::region::StateSizes;
    use api::side::DataplaneSide;

    use super::*;
    use crate::state::State;

    const BYPASS: &str = r#"
[dataplane]
[[dataplane.ports]]
name = "inside"
device = "net_af_packet0,iface=veth-in"
side = "inside"
[[dataplane.policies]]
name = "all"
action = "bypass"
local_ts = "0.0.0.0/0"
remote_ts = "0.0.0.0/0"
"#;

    /// Whether workers let packets pass once the file is installed, and after a commit of IKE.
    fn committed(text: &str) -> (bool, bool) {
        let (config, _) = parse_dataplane(std::path::Path::new("t.toml"), text).unwrap();
        let geometry = Geometry::new(64, 1, 4).unwrap();
        let side = DataplaneSide::create(&StateSizes::new(geometry, 1, 512)).unwrap();
        let state = Arc::new(State::new(side.states().clone()));
        let mut writer = TablesWriter::new(geometry, 1, 0, state);
        install(&mut writer, &config, |_| 0).unwrap();
        writer.publish();
        let first = writer.tables().snapshot().committed;
        for command in [Command::Begin { resync: true }, Command::Commit] {
            assert_eq!(writer.apply(command).status, Status::Ok);
        }
        writer.publish();
        let second = writer.tables().snapshot().committed;
        (first, second)
    }

    #[test]
    fn policies_of_the_file_wait_for_those_of_ike() {
        assert_eq!(committed(BYPASS), (true, true));
        let with_ike = format!("{BYPASS}[connections.site]\n");
        assert_eq!(committed(&with_ike), (false, true));
    }
}

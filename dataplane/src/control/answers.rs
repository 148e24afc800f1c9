//! Answers for the admin socket, from what the control thread holds.

use api::config::Side;
use api::counters::{Counter, DropReason, PortCounter, Totals};
use api::id::ChildId;
use api::record::{Action, Direction, SaInfo};
use api::selector::AddrRange;

use super::admin::rows::{
    CounterRow, CryptoWorkerRow, NeighbourRow, PolicyRow, PortRow, RouteRow, SaRow, Spi, Status,
    Table, TableName, WorkerRow,
};
use super::ports::OpenPort;
use super::run::Control;
use super::statics;
use crate::port::PortIndex;
use crate::tables::fib::Target;

impl Control<'_> {
    /// Answers a client.
    pub(super) fn answer(&self, table: TableName) -> Table {
        match table {
            TableName::Status => Table::Status(self.status()),
            TableName::Counters => Table::Counters(counters(&self.state.totals())),
            TableName::Ports => {
                let totals = self.state.totals();
                Table::Ports(
                    self.ports
                        .iter()
                        .map(|port| self.port(port, &totals))
                        .collect(),
                )
            }
            TableName::Policies => Table::Policies(self.policies()),
            TableName::Sas => Table::Sas(self.sas()),
            TableName::Routes => Table::Routes(self.routes()),
            TableName::Neighbours => Table::Neighbours(self.neighbours()),
        }
    }

    fn status(&self) -> Status {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let workers = self.cores.workers.iter().enumerate().map(|(index, core)| {
            let totals = self.state.totals_of(index);
            WorkerRow {
                core: u32::try_from(*core).unwrap_or(u32::MAX),
                rx_packets: totals.get(Counter::Rx),
                tx_packets: totals.get(Counter::Tx),
                busy_percent: percent(totals.get(Counter::BusyCycles), totals.get(Counter::Cycles)),
            }
        });
        let crypto_workers = self.cores.crypto.iter().zip(&self.crypto_times);
        let crypto_workers = crypto_workers.map(|(core, time)| {
            let (busy_ns, all_ns) = time.ns();
            CryptoWorkerRow {
                core: u32::try_from(*core).unwrap_or(u32::MAX),
                busy_percent: percent(busy_ns, all_ns),
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            workers: workers.collect(),
            crypto_workers: crypto_workers.collect(),
            crypto: crypto::tier().to_string(),
            hugepages: self.hugepages,
            ike_connected: self.contract.is_connected(),
            committed: self.writer.tables().snapshot().committed,
            sas: count(self.writer.sa_count()),
            max_sas: self.writer.tables().sad.geometry().max_sas().into(),
            policies: count(self.writer.policies().len()),
            routes: count(self.routes.len()),
        }
    }

    fn port_name(&self, index: PortIndex) -> String {
        let port = self.ports.get(index.index());
        port.map_or_else(|| index.to_string(), |port| port.info.name.clone())
    }

    fn port(&self, port: &OpenPort, totals: &Totals) -> PortRow {
        let info = &port.info;
        let number = info.index.index();
        let configured = self.config.ports.get(number);
        let stats = if port.removed {
            None
        } else {
            port.device.stats().ok()
        };
        let stats = stats.unwrap_or_default();
        let locals = self
            .locals
            .iter()
            .filter(|(_, _, on)| *on == Some(info.index));
        PortRow {
            name: info.name.clone(),
            device: configured
                .map(|port| port.device.clone())
                .unwrap_or_default(),
            side: match configured.map(|port| port.side) {
                Some(Side::Inside) => "inside".to_owned(),
                _ => "outside".to_owned(),
            },
            twin: port.twin.clone(),
            mac: info.mac.to_string(),
            mtu_bytes: info.mtu_bytes,
            link_up: !port.removed && port.device.link().is_ok_and(|link| link.up),
            queues: port.queues,
            vrf: info.vrf.0,
            addresses: locals.map(|(_, address, _)| address.to_string()).collect(),
            rx_packets: totals.port(number, PortCounter::RxPackets),
            tx_packets: totals.port(number, PortCounter::TxPackets),
            rx_bytes: totals.port(number, PortCounter::RxBytes),
            tx_bytes: totals.port(number, PortCounter::TxBytes),
            rx_missed: stats.rx_missed.saturating_add(stats.rx_no_mbuf),
            tx_errors: stats.tx_errors,
        }
    }

    fn policies(&self) -> Vec<PolicyRow> {
        let rows = self.writer.policies().map(|policy| {
            let selector = &policy.selector;
            let (action, child) = match policy.action {
                Action::Protect(child) => ("protect", Some(child.0)),
                Action::Bypass => ("bypass", None),
                Action::Discard => ("discard", None),
            };
            let side = |range, ports| side_text(range, selector.protocol, ports);
            PolicyRow {
                id: policy.id.0,
                direction: direction(policy.direction),
                action: action.to_owned(),
                child,
                priority: policy.priority,
                vrf: policy.vrf.0,
                interface: policy.interface.0,
                local_ts: side(selector.local, selector.local_ports),
                remote_ts: side(selector.remote, selector.remote_ports),
            }
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| {
            (&a.direction, a.priority, a.id).cmp(&(&b.direction, b.priority, b.id))
        });
        rows
    }

    fn sas(&self) -> Vec<SaRow> {
        let names = statics::rows(self.config);
        let rows = self.writer.sas().map(|sa| {
            let info = &sa.info;
            let child = sa.child.settings();
            let path = child.path.load();
            let snapshot = self.state.row(sa.row).and_then(|row| row.snapshot().ok());
            let value = |pick: fn(&api::state::Snapshot) -> u64| snapshot.as_ref().map_or(0, pick);
            let name = names.iter().find(|row| row.id == info.id);
            SaRow {
                id: info.id.0,
                child: info.child.0,
                direction: direction(info.direction),
                spi: Spi(info.spi),
                name: name.map(|row| row.name.to_owned()),
                local: path.local.to_string(),
                remote: path.remote.to_string(),
                udp_encapsulation: path.udp_encapsulation,
                algorithm: self.algorithm(info),
                active: self.writer.tables().active(sa.child.slot) == Some(info.id),
                packets: value(|row| row.packets),
                bytes: value(|row| row.bytes),
                sequence: value(|row| row.sequence),
                window_bits: info.window_bits,
                replay_drops: value(|row| row.replay_drops),
                auth_drops: value(|row| row.auth_drops),
                idle_s: self.state.idle_s(value(|row| row.last_used_ms)),
            }
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| (row.child, row.id));
        rows
    }

    /// How an SA encrypts; the key's length is known for static SAs.
    fn algorithm(&self, sa: &SaInfo) -> String {
        let name = "AES_GCM_16";
        let number = sa.child.0 & !ChildId::fixed(0).0;
        let configured = usize::try_from(number)
            .ok()
            .and_then(|n| self.config.static_sas.get(n));
        let bits = configured.filter(|_| sa.child.is_static());
        let bits = bits.map_or_else(String::new, |sa| format!("-{}", sa.proposal.key_bits));
        format!("{name}{bits}{}", if sa.esn { "/ESN" } else { "" })
    }

    fn routes(&self) -> Vec<RouteRow> {
        let rows = self.routes.iter().map(|route| {
            let (gateway, port, kind) = match route.target {
                Target::Port { port, gateway } => (gateway, Some(port), "forward"),
                Target::Discard => (None, None, "discard"),
            };
            RouteRow {
                vrf: route.vrf.0,
                prefix: format!("{}/{}", route.prefix, route.length),
                gateway: gateway.map(|address| address.to_string()),
                port: port.map(|port| self.port_name(port)),
                kind: kind.to_owned(),
            }
        });
        rows.collect()
    }

    fn neighbours(&self) -> Vec<NeighbourRow> {
        let rows = self.mirror.neighbours().rows();
        let mut rows: Vec<_> = rows
            .map(|((port, address), mac, state)| NeighbourRow {
                port: self.port_name(port),
                address: address.to_string(),
                mac: mac.map(|mac| mac.to_string()),
                state,
            })
            .collect();
        rows.sort_by(|a, b| (&a.port, &a.address).cmp(&(&b.port, &b.address)));
        rows
    }
}

fn counters(totals: &Totals) -> Vec<CounterRow> {
    let counters = Counter::ALL.iter().map(|counter| CounterRow {
        name: counter.name().to_owned(),
        value: totals.get(*counter),
        help: counter.sentence().to_owned(),
        drop: false,
    });
    let drops = DropReason::ALL.iter().map(|reason| CounterRow {
        name: reason.name().to_owned(),
        value: totals.dropped(*reason),
        help: reason.sentence().to_owned(),
        drop: true,
    });
    counters.chain(drops).collect()
}

fn direction(direction: Direction) -> String {
    match direction {
        Direction::Inbound => "in".to_owned(),
        Direction::Outbound => "out".to_owned(),
    }
}

/// Of a worker's time since it started, that with something to do.
fn percent(busy: u64, all: u64) -> u32 {
    let percent = u128::from(busy) * 100 / u128::from(all).max(1);
    u32::try_from(percent).unwrap_or(100)
}

/// One side of a selector as swanctl writes it: `10.1.0.0/24[udp/7000]`.
fn side_text(range: AddrRange, protocol: u8, ports: (u16, u16)) -> String {
    let mut text = match range.prefix_bits() {
        Some(bits) => format!("{}/{bits}", range.first),
        None => format!("{}-{}", range.first, range.last),
    };
    let any = api::selector::ANY_PORTS;
    if protocol == 0 && ports == any {
        return text;
    }
    let name = match protocol {
        0 => String::new(),
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        number => number.to_string(),
    };
    let (first, last) = ports;
    text += &match (first, last) {
        _ if ports == any => format!("[{name}]"),
        _ if ports == api::selector::OPAQUE_PORTS => format!("[{name}/opaque]"),
        _ if first == last => format!("[{name}/{first}]"),
        _ => format!("[{name}/{first}-{last}]"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn range(first: &str, last: &str) -> AddrRange {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        AddrRange {
            first: parse(first),
            last: parse(last),
        }
    }

    #[test]
    fn selectors_read_like_swanctl() {
        let net = range("10.1.0.0", "10.1.0.255");
        assert_eq!(side_text(net, 0, (0, u16::MAX)), "10.1.0.0/24");
        assert_eq!(side_text(net, 17, (7000, 7000)), "10.1.0.0/24[udp/7000]");
        assert_eq!(side_text(net, 6, (0, u16::MAX)), "10.1.0.0/24[tcp]");
        assert_eq!(
            side_text(net, 132, (u16::MAX, 0)),
            "10.1.0.0/24[132/opaque]"
        );
        let odd = range("10.1.0.1", "10.1.0.9");
        assert_eq!(side_text(odd, 0, (0, 9)), "10.1.0.1-10.1.0.9[/0-9]");
    }

    #[test]
    fn every_counter_has_a_row_of_its_own() {
        let rows = counters(&Totals::default());
        let names: std::collections::HashSet<_> = rows.iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), Counter::COUNT + DropReason::COUNT);
    }
}

//! What the processes answer, as tables or as JSON.

use std::io::Write;

use serde_json::{Value, json};

use super::client::{Client, Failure};
use super::table::{self, age, bytes, or_dash};
use crate::admin::{ChildSa, IkeSa, PortRow, Reply, SaRow, Table, TableName};
use crate::admin::{DataplaneStatus, IkeStatus};

fn print_json(value: &Value, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{value:#}")?;
    Ok(())
}

fn to_json(value: &impl serde::Serialize) -> Value {
    // Plain structs of numbers and strings always have a JSON form.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A progress line of a command.
pub(super) fn reply(reply: &Reply, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    match reply {
        _ if json => writeln!(out, "{}", to_json(reply))?,
        Reply::Log(line) if line.level == "info" => writeln!(out, "{}", line.text)?,
        Reply::Log(line) if line.level == "debug" => {}
        // Beside the verdict, which comes last.
        Reply::Log(line) => {
            let _ = writeln!(std::io::stderr(), "{}: {}", line.level, line.text);
        }
        Reply::Status(_) | Reply::Sa(_) | Reply::Ok(_) | Reply::Error(_) => {}
    }
    out.flush()?;
    Ok(())
}

/// `culvert status`: what runs, and what does not.
pub(super) fn status(client: &Client, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let ike = client.ike_status();
    let dataplane = client
        .dataplane(TableName::Status)
        .and_then(|table| match table {
            Table::Status(status) => Ok(status),
            _ => Err(wrong_table()),
        });
    if json {
        let value = json!({ "ike": ike.as_ref().ok(), "dataplane": dataplane.as_ref().ok() });
        print_json(&value, out)?;
    } else {
        match &dataplane {
            Ok(status) => out.write_all(dataplane_status(status).as_bytes())?,
            Err(failure) => writeln!(out, "dataplane  {failure}")?,
        }
        match &ike {
            Ok(status) => out.write_all(ike_status(status).as_bytes())?,
            Err(failure) => writeln!(out, "ike        {failure}")?,
        }
    }
    if ike.is_err() || dataplane.is_err() {
        let text = "not every process answers".to_owned();
        return Err(Failure::Refused(text));
    }
    Ok(())
}

fn wrong_table() -> Failure {
    let text = "another table than was asked for".to_owned();
    Failure::Garbled {
        process: "culvert-dataplane",
        text,
    }
}

fn dataplane_status(status: &DataplaneStatus) -> String {
    let core = |core, busy_percent| format!("core {core} ({busy_percent}% busy)");
    let workers = status.workers.iter();
    let workers: Vec<_> = workers
        .map(|worker| core(worker.core, worker.busy_percent))
        .collect();
    let crypto = status.crypto_workers.iter();
    let crypto: Vec<_> = crypto
        .map(|worker| core(worker.core, worker.busy_percent))
        .collect();
    let crypto = match &crypto[..] {
        [] => String::new(),
        cores => format!("; crypto workers: {}", cores.join(", ")),
    };
    format!(
        "dataplane  version {}, pid {}, up {}\n\
         \x20          workers: {}{crypto}\n\
         \x20          crypto {}, hugepages {}, {} of {} SAs, {} policies, {} routes\n\
         \x20          {}, {}\n",
        status.version,
        status.pid,
        age(status.uptime_s),
        workers.join(", "),
        status.crypto,
        if status.hugepages { "yes" } else { "no" },
        status.sas,
        status.max_sas,
        status.policies,
        status.routes,
        if status.ike_connected {
            "culvert-ike is connected"
        } else {
            "culvert-ike is away"
        },
        if status.committed {
            "policies are in force"
        } else {
            "no policies yet: all discarded"
        },
    )
}

fn ike_status(status: &IkeStatus) -> String {
    format!(
        "ike        version {}, pid {}, up {}\n\
         \x20          {} connections, {} IKE SAs ({} half-open), {} child SAs\n\
         \x20          {}\n",
        status.version,
        status.pid,
        age(status.uptime_s),
        status.connections,
        status.ike_sas,
        status.half_open,
        status.child_sas,
        if status.dataplane_connected {
            "dataplane connected"
        } else {
            "dataplane is away"
        },
    )
}

/// `culvert sas`: what culvert-ike knows, with the dataplane's counts beside it.
pub(super) fn sas(client: &Client, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let ike = client.ike_sas();
    let rows = client
        .dataplane(TableName::Sas)
        .and_then(|table| match table {
            Table::Sas(rows) => Ok(rows),
            _ => Err(wrong_table()),
        });
    let (ike, rows) = match (ike, rows) {
        (Err(failure), Err(_)) => return Err(failure),
        // Keys outlive their negotiator: what still runs is worth showing.
        (Err(failure), Ok(rows)) => {
            warn(&failure);
            (Vec::new(), rows)
        }
        (Ok(ike), Err(failure)) => {
            warn(&failure);
            (ike, Vec::new())
        }
        (Ok(ike), Ok(rows)) => (ike, rows),
    };
    if json {
        return print_json(&json!({ "ike_sas": ike, "sas": rows }), out);
    }
    for sa in &ike {
        out.write_all(ike_sa(sa, &rows).as_bytes())?;
    }
    let rest: Vec<_> = rows.iter().filter(|row| !is_named(&ike, row)).collect();
    if !rest.is_empty() {
        out.write_all(loose_sas(&rest).as_bytes())?;
    }
    if ike.is_empty() && rest.is_empty() {
        writeln!(out, "no SAs")?;
    }
    Ok(())
}

fn warn(failure: &Failure) {
    // Standard error is for people; a failure to write there changes nothing.
    let _ = writeln!(std::io::stderr(), "culvert: {failure}");
}

fn row_of<'r>(rows: &'r [SaRow], child: &ChildSa, direction: &str) -> Option<&'r SaRow> {
    let spi = if direction == "in" {
        child.spi_in
    } else {
        child.spi_out
    };
    rows.iter()
        .find(|r| r.child == child.id && r.direction == direction && r.spi == spi)
}

fn is_named(ike: &[IkeSa], row: &SaRow) -> bool {
    let children = ike.iter().flat_map(|sa| &sa.children);
    children.filter(|child| child.id == row.child).any(|child| {
        row.spi
            == if row.direction == "in" {
                child.spi_in
            } else {
                child.spi_out
            }
    })
}

fn ike_sa(sa: &IkeSa, rows: &[SaRow]) -> String {
    let end = |end: &crate::admin::Endpoint| format!("{}:{} ({})", end.address, end.port, end.id);
    let nat = match (sa.nat_local, sa.nat_remote) {
        (false, false) => "",
        (true, false) => ", we are behind a NAT",
        (false, true) => ", the peer is behind a NAT",
        (true, true) => ", both are behind a NAT",
    };
    let rekey = sa
        .rekey_in_s
        .map_or_else(|| "never".to_owned(), |s| format!("in {}", age(s)));
    let mut text = format!(
        "{}  #{}  {}  {}  for {}, rekey {rekey}{nat}\n  {} == {}\n  {}  {}_i {}_r\n",
        sa.connection,
        sa.id,
        sa.state.to_uppercase(),
        if sa.initiator {
            "initiator"
        } else {
            "responder"
        },
        age(sa.age_s),
        end(&sa.local),
        end(&sa.remote),
        sa.proposal,
        sa.spi_initiator,
        sa.spi_responder,
    );
    for child in &sa.children {
        text.push_str(&child_sa(child, rows));
    }
    text
}

fn child_sa(child: &ChildSa, rows: &[SaRow]) -> String {
    let in_s = |s: Option<u64>| s.map_or_else(|| "never".to_owned(), |s| format!("in {}", age(s)));
    let mut text = format!(
        "  {}  {{{}}}  {}, {}{}, {}, for {}, rekey {}, expires {}\n    {} == {}\n",
        child.name,
        child.id,
        child.state.to_uppercase(),
        child.mode,
        if child.udp_encapsulation {
            " in UDP"
        } else {
            ""
        },
        child.proposal,
        age(child.age_s),
        in_s(child.rekey_in_s),
        in_s(child.expires_in_s),
        child.local_ts.join(" "),
        child.remote_ts.join(" "),
    );
    for (direction, spi) in [("in", child.spi_in), ("out", child.spi_out)] {
        let counts = row_of(rows, child, direction).map_or_else(String::new, counts);
        text.push_str(&format!("    {direction:<3} {:08x}{counts}\n", spi.0));
    }
    text
}

fn counts(row: &SaRow) -> String {
    let idle = row
        .idle_s
        .map_or_else(String::new, |s| format!(", last {} ago", age(s)));
    let drops = match row.replay_drops + row.auth_drops {
        0 => String::new(),
        _ => format!(
            ", dropped {} replayed, {} altered",
            row.replay_drops, row.auth_drops
        ),
    };
    format!(
        "  {} packets, {}{idle}{drops}",
        row.packets,
        bytes(row.bytes)
    )
}

/// SAs of the dataplane that no IKE SA names: static ones, or ones culvert-ike left behind.
fn loose_sas(rows: &[&SaRow]) -> String {
    let mut table = table::Table::new(&[
        "SA",
        "DIR",
        "SPI",
        "LOCAL",
        "REMOTE",
        "ALGORITHM",
        "PACKETS",
        "BYTES",
        "REPLAYED",
        "ALTERED",
    ]);
    for row in rows {
        table.row(vec![
            row.name
                .clone()
                .unwrap_or_else(|| format!("child {}", row.child)),
            row.direction.clone(),
            format!("{:08x}", row.spi.0),
            row.local.clone(),
            row.remote.clone(),
            row.algorithm.clone(),
            row.packets.to_string(),
            bytes(row.bytes),
            row.replay_drops.to_string(),
            row.auth_drops.to_string(),
        ]);
    }
    table.render("no SAs")
}

/// One table of the dataplane.
pub(super) fn table(
    client: &Client,
    name: TableName,
    json: bool,
    all: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let table = client.dataplane(name)?;
    if json {
        return print_json(&to_json(&table), out);
    }
    let text = match table {
        Table::Policies(rows) => policies(&rows),
        Table::Counters(rows) => counters(&rows, all),
        Table::Ports(rows) => ports(&rows),
        Table::Routes(rows) => routes(&rows),
        Table::Neighbours(rows) => neighbours(&rows),
        Table::Status(_) | Table::Sas(_) | Table::Error(_) => return Err(wrong_table()),
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn policies(rows: &[crate::admin::PolicyRow]) -> String {
    let mut table = table::Table::new(&[
        "PRIORITY",
        "DIR",
        "ACTION",
        "LOCAL",
        "REMOTE",
        "VRF",
        "INTERFACE",
        "ID",
    ]);
    for row in rows {
        let action = match row.child {
            Some(child) => format!("{} {{{child}}}", row.action),
            None => row.action.clone(),
        };
        let interface = (row.interface != 0).then(|| row.interface.to_string());
        table.row(vec![
            row.priority.to_string(),
            row.direction.clone(),
            action,
            row.local_ts.clone(),
            row.remote_ts.clone(),
            row.vrf.to_string(),
            or_dash(interface),
            row.id.to_string(),
        ]);
    }
    table.render("no policies: all is discarded")
}

fn counters(rows: &[crate::admin::Counter], all: bool) -> String {
    let mut table = table::Table::new(&["COUNTER", "VALUE", "MEANING"]);
    for row in rows.iter().filter(|row| all || row.value > 0) {
        table.row(vec![
            row.name.clone(),
            row.value.to_string(),
            row.help.clone(),
        ]);
    }
    table.render("all counters are 0")
}

fn ports(rows: &[PortRow]) -> String {
    let mut table = table::Table::new(&[
        "PORT",
        "SIDE",
        "LINK",
        "TWIN",
        "MAC",
        "MTU",
        "QUEUES",
        "RX",
        "TX",
        "MISSED",
        "ADDRESSES",
        "DEVICE",
    ]);
    for row in rows {
        table.row(vec![
            row.name.clone(),
            row.side.clone(),
            if row.link_up { "up" } else { "down" }.to_owned(),
            or_dash(row.twin.clone()),
            row.mac.clone(),
            row.mtu_bytes.to_string(),
            row.queues.to_string(),
            row.rx_packets.to_string(),
            row.tx_packets.to_string(),
            row.rx_missed.to_string(),
            row.addresses.join(" "),
            row.device.clone(),
        ]);
    }
    table.render("no ports")
}

fn routes(rows: &[crate::admin::RouteRow]) -> String {
    let mut table = table::Table::new(&["PREFIX", "KIND", "GATEWAY", "PORT", "VRF"]);
    for row in rows {
        table.row(vec![
            row.prefix.clone(),
            row.kind.clone(),
            or_dash(row.gateway.clone()),
            or_dash(row.port.clone()),
            row.vrf.to_string(),
        ]);
    }
    table.render("no routes")
}

fn neighbours(rows: &[crate::admin::NeighbourRow]) -> String {
    let mut table = table::Table::new(&["ADDRESS", "MAC", "STATE", "PORT"]);
    for row in rows {
        let mac = or_dash(row.mac.clone());
        table.row(vec![
            row.address.clone(),
            mac,
            row.state.clone(),
            row.port.clone(),
        ]);
    }
    table.render("no neighbours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{CryptoWorkerRow, WorkerRow};

    #[test]
    fn crypto_workers_stand_behind_the_workers_if_there_are_any() {
        let worker = |core, busy_percent| WorkerRow {
            core,
            busy_percent,
            ..WorkerRow::default()
        };
        let mut status = DataplaneStatus {
            workers: vec![worker(1, 7), worker(2, 0)],
            ..DataplaneStatus::default()
        };
        let workers = "workers: core 1 (7% busy), core 2 (0% busy)";
        assert!(dataplane_status(&status).contains(&format!("{workers}\n")));
        status.crypto_workers.push(CryptoWorkerRow {
            core: 3,
            busy_percent: 12,
        });
        let both = format!("{workers}; crypto workers: core 3 (12% busy)\n");
        assert!(dataplane_status(&status).contains(&both));
    }
}

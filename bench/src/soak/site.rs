//! A gateway in a network namespace of its own: configuration, process, counters.
//!
//! ```text
//! in.pcap ──▶ "in"  10.1.0.1/24    culvert-dataplane    192.0.2.1/24  "out" ◀── out.pcap
//!                   fd00:1::1/64                      2001:db8::1/64
//! ```
//! What the ports send goes nowhere. Routes and permanent neighbours stand on the twins, which
//! outlive the process, so every later start finds them there.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::packet::Mac;
use super::traffic::{
    GATEWAY_INSIDE, GATEWAY_OUTSIDE, HOST_MAC, NETWORK_BYPASS, NETWORK_DISCARD, NETWORK_UNRESOLVED,
    PEER, PEER_MAC,
};
use super::tunnel::Tunnel;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long the dataplane may take to start, to answer and to stop.
const PATIENCE: Duration = Duration::from_secs(20);
/// What namespaces are called, with the number of the process behind it.
const NAMESPACE: &str = "culvert-bench-";

/// Namespace, directory and binary.
pub(crate) struct Site {
    namespace: String,
    pub(crate) dir: PathBuf,
    binary: PathBuf,
}

fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("ip {arguments}: {}", words.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Namespaces of runs that were killed.
fn remove_leftovers() -> Result<()> {
    for line in ip("netns list")?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix(NAMESPACE);
        let dead = |pid: &str| !Path::new("/proc").join(pid).exists();
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && dead(pid)) {
            // Another process may be faster.
            let _ = ip(&format!("netns del {name}"));
        }
    }
    Ok(())
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Site {
    /// Makes the namespace. `dir` holds configuration, captures, log and run directory.
    pub(crate) fn new(dir: &Path, binary: &Path) -> Result<Self> {
        remove_leftovers()?;
        let namespace = format!("{NAMESPACE}{}", std::process::id());
        ip(&format!("netns add {namespace}"))?;
        let site = Self {
            namespace,
            dir: dir.to_owned(),
            binary: binary.to_owned(),
        };
        site.ip("link set lo up")?;
        Ok(site)
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-n {} {arguments}", self.namespace))
    }

    /// Where a port's frames come from.
    pub(crate) fn capture(&self, port: usize) -> PathBuf {
        self.dir.join(["in.pcap", "out.pcap"][port])
    }

    /// Where the dataplane's sockets are.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Writes the configuration: two ports, a static SA for each tunnel, policies. `rx_arguments`
    /// go to the end of each port's device string.
    pub(crate) fn configure(&self, tunnels: &[Tunnel], rx_arguments: [&str; 2]) -> Result<()> {
        let mut text = format!(
            "[dataplane]\nrun_dir = \"{}\"\nhuge = false\nmemory_mib = 128\nmax_sas = 64\n\
             allow_static_keys = true\n",
            self.run_dir().display()
        );
        let gateways = [
            ("in", "inside", GATEWAY_INSIDE, 24),
            ("out", "outside", GATEWAY_OUTSIDE, 24),
        ];
        for (port, (name, side, addresses, bits)) in gateways.into_iter().enumerate() {
            let capture = self.capture(port);
            writeln!(
                text,
                "[[dataplane.ports]]\nname = \"{name}\"\nside = \"{side}\"\n\
                 device = \"net_pcap{port},rx_pcap={}{}\"\n\
                 addresses = [\"{}/{bits}\", \"{}/64\"]",
                capture.display(),
                rx_arguments[port],
                addresses[0],
                addresses[1],
            )?;
        }
        for tunnel in tunnels {
            text += &static_sa(tunnel);
        }
        text += &policies();
        self.write_configuration(&text)
    }

    /// Writes the file that the dataplane is started with.
    pub(crate) fn write_configuration(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.join("culvert.toml"), text)?)
    }

    /// Puts neighbours and routes on the twins of a running dataplane, if they are not there.
    pub(crate) fn add_routes(&self) -> Result<()> {
        let mut batch = String::new();
        let mut neighbour = |address: &str, device, mac| {
            let mac = mac_text(mac);
            batch += &format!("neigh replace {address} dev {device} lladdr {mac} nud permanent\n");
        };
        for address in PEER {
            neighbour(address, "cv-out", PEER_MAC);
        }
        for host in 2..=254 {
            neighbour(&format!("10.1.0.{host}"), "cv-in", HOST_MAC);
            neighbour(&format!("fd00:1::{host:x}"), "cv-in", HOST_MAC);
        }
        let nobody = ["192.0.2.99", "2001:db8::99"];
        for (network, [v4, v6]) in [
            (NETWORK_BYPASS, PEER),
            (NETWORK_DISCARD, PEER),
            (NETWORK_UNRESOLVED, nobody),
        ] {
            batch += &format!("route replace 10.{network}.0.0/16 via {v4} dev cv-out\n");
            batch += &format!("route replace fd00:{network:x}::/64 via {v6} dev cv-out\n");
        }
        let file = self.dir.join("routes");
        fs::write(&file, batch)?;
        self.ip(&format!("-batch {}", file.display())).map(drop)
    }

    /// Ethernet address of a twin, which is its port's.
    pub(crate) fn mac(&self, twin: &str) -> Result<Mac> {
        let links: Value = serde_json::from_str(&self.ip(&format!("-j link show dev {twin}"))?)?;
        let text = links[0]["address"]
            .as_str()
            .ok_or("a twin without Ethernet address")?;
        let bytes: std::result::Result<Vec<u8>, _> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect();
        bytes?
            .try_into()
            .map_err(|_| format!("\"{text}\" is no Ethernet address").into())
    }

    /// Starts the dataplane and waits until it answers.
    pub(crate) fn start(&self) -> Result<Dataplane<'_>> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .arg(&self.binary)
            .arg("-c")
            .arg(self.dir.join("culvert.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut dataplane = Dataplane { site: self, child };
        let end = Instant::now() + PATIENCE;
        while dataplane.counters().is_err() {
            if let Some(status) = dataplane.child.try_wait()? {
                return Err(format!("the dataplane did not start ({status}){}", self.log()).into());
            }
            if Instant::now() > end {
                return Err(format!("the dataplane does not answer{}", self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(dataplane)
    }

    /// The end of the dataplane's log, for messages.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        format!("; its log ends with:\n{}", tail.join("\n"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

fn static_sa(tunnel: &Tunnel) -> String {
    let shape = tunnel.shape;
    let family = usize::from(shape.v6);
    let esn = if shape.esn { "-esn" } else { "" };
    let network = shape.network;
    let [inbound, outbound] = &tunnel.key_hex;
    format!(
        "[[dataplane.static_sas]]\nname = \"{}\"\nlocal = \"{}\"\nremote = \"{}\"\n\
         esp_proposal = \"aes{}gcm16{esn}\"\nudp_encapsulation = {}\nreplay_window = {}\n\
         inbound = {{ spi = {}, key = \"{inbound}\", sequence = 0 }}\n\
         outbound = {{ spi = {}, key = \"{outbound}\", sequence = 0 }}\n\
         local_ts = \"10.1.0.0/24, fd00:1::/64\"\n\
         remote_ts = \"10.{network}.0.0/24, fd00:{network:x}::/64\"\n",
        shape.name,
        GATEWAY_OUTSIDE[family],
        PEER[family],
        shape.key_bits,
        shape.udp,
        shape.window,
        tunnel.spi,
        0x2000_0000 + u32::from(network),
    )
}

/// Bypass and discard for the networks that have no tunnel; ICMP for the gateway itself.
fn policies() -> String {
    let mut text = String::new();
    let networks = [
        (NETWORK_BYPASS, "bypass"),
        (NETWORK_UNRESOLVED, "bypass"),
        (NETWORK_DISCARD, "discard"),
    ];
    for (network, action) in networks {
        let _ = writeln!(
            text,
            "[[dataplane.policies]]\nname = \"net-{network}\"\naction = \"{action}\"\n\
             local_ts = \"10.1.0.0/24, fd00:1::/64\"\n\
             remote_ts = \"10.{network}.0.0/16, fd00:{network:x}::/64\""
        );
    }
    for (name, local, remote) in [
        ("icmp-v4", "0.0.0.0/0[icmp]", "192.0.2.0/24"),
        ("icmp-v6", "::/0[58]", "2001:db8::/64"),
        ("icmp-in-v4", "10.1.0.1[icmp]", "10.1.0.0/24"),
        ("icmp-in-v6", "fd00:1::1[58]", "fd00:1::/64"),
    ] {
        let _ = writeln!(
            text,
            "[[dataplane.policies]]\nname = \"{name}\"\naction = \"bypass\"\n\
             local_ts = \"{local}\"\nremote_ts = \"{remote}\""
        );
    }
    text
}

/// A running dataplane; killed on drop.
pub(crate) struct Dataplane<'a> {
    site: &'a Site,
    child: Child,
}

/// One row of the counters.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: u64,
    #[serde(rename = "drop")]
    pub(crate) is_drop: bool,
}

impl Dataplane<'_> {
    /// Reads all counters.
    pub(crate) fn counters(&self) -> Result<Counters> {
        let mut stream = UnixStream::connect(self.site.run_dir().join("dataplane-admin.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"{\"get\":\"counters\"}\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line)?;
        let rows = serde_json::from_value(answer["counters"].take())?;
        Ok(Counters { rows })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended.
    pub(crate) fn assert_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the dataplane ended: {status}{}", self.site.log()).into()),
        }
    }

    /// Ends it with SIGTERM and waits.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) => return clean(status, self.site),
                None if Instant::now() > end => {
                    return Err(
                        format!("SIGTERM does not end the dataplane{}", self.site.log()).into(),
                    );
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn clean(status: ExitStatus, site: &Site) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "the dataplane ended with {status} after SIGTERM{}",
        site.log()
    )
    .into())
}

impl Drop for Dataplane<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counters at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) rows: Vec<Row>,
}

impl Counters {
    /// A counter's value; 0 for one that does not exist.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.rows
            .iter()
            .find(|row| row.name == name)
            .map_or(0, |row| row.value)
    }

    /// What came in less what became of it: 0 at rest.
    pub(crate) fn unaccounted(&self) -> i128 {
        let signed = |row: &Row| match row.name.as_str() {
            _ if row.is_drop => -i128::from(row.value),
            "tx" | "punted" | "held" => -i128::from(row.value),
            "rx" | "injected" | "generated" => i128::from(row.value),
            _ => 0,
        };
        self.rows.iter().map(signed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: u64, is_drop: bool) -> Row {
        Row {
            name: name.to_owned(),
            value,
            is_drop,
        }
    }

    #[test]
    fn a_packet_that_is_nowhere_shows() {
        let mut rows = vec![
            row("rx", 10, false),
            row("generated", 1, false),
            row("tx", 6, false),
        ];
        rows.extend([
            row("held", 1, false),
            row("rounds", 99, false),
            row("late", 4, true),
        ]);
        let mut counters = Counters { rows };
        assert_eq!(counters.unaccounted(), 0);
        counters.rows[5].value = 3;
        assert_eq!(counters.unaccounted(), 1);
    }
}

//! Network namespaces for tests, and the real binary in them.
//!
//! A gateway between two hosts:
//! ```text
//! host a  eth0 ───── eth0  gateway  eth1 ───── eth0  host b
//! 10.1.0.2/24    10.1.0.1      10.2.0.1    10.2.0.2/24
//! fd00:1::2/64   fd00:1::1     fd00:2::1   fd00:2::2/64
//! ```
//! Needs root and network namespaces; a test without them says so and passes.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// True when namespaces can be made; else says what is missing.
pub(crate) fn possible() -> bool {
    if rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists() {
        return true;
    }
    eprintln!("SKIPPED: needs root, network namespaces and /dev/net/tun");
    false
}

/// Runs a command line; panics with its output if it fails.
pub(crate) fn sh(line: &str) -> String {
    let output = try_sh(line);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{line}: {out}{err}");
    out
}

pub(crate) fn try_sh(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

/// Waits until `ready` is true, at most so long.
pub(crate) fn wait_for(what: &str, most: Duration, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + most;
    while !ready() {
        assert!(Instant::now() < end, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Three namespaces and a run directory; removed on drop.
pub(crate) struct Net {
    id: String,
    pub(crate) dir: PathBuf,
}

impl Net {
    pub(crate) fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("cvt{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&id);
        fs::create_dir_all(&dir).unwrap();
        let net = Self { id, dir };
        for side in ["a", "g", "b"] {
            let ns = net.ns(side);
            sh(&format!("ip netns add {ns} && ip -n {ns} link set lo up"));
            net.run(
                side,
                "sysctl -qw net.ipv6.conf.default.accept_dad=0 \
                           net.ipv6.conf.all.accept_dad=0",
            );
        }
        net.run(
            "g",
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        net.link("a", "eth0", 1);
        net.link("b", "eth1", 2);
        net
    }

    fn link(&self, host: &str, device: &str, number: u8) {
        let (ns, gateway) = (self.ns(host), self.ns("g"));
        sh(&format!(
            "ip link add eth0 netns {ns} type veth peer name {device} netns {gateway}"
        ));
        for (ns, device, last) in [(&ns, "eth0", 2), (&gateway, device, 1)] {
            sh(&format!(
                "ip -n {ns} address add 10.{number}.0.{last}/24 dev {device} && \
                 ip -n {ns} address add fd00:{number}::{last}/64 dev {device} nodad && \
                 ip -n {ns} link set {device} up"
            ));
        }
        // As on real Ethernet: whole checksums, no merged packets.
        self.run(
            host,
            "ethtool -K eth0 tx off gso off gro off tso off 2> /dev/null || true",
        );
        sh(&format!(
            "ip -n {ns} route add default via 10.{number}.0.1 && \
             ip -n {ns} -6 route add default via fd00:{number}::1"
        ));
    }

    pub(crate) fn ns(&self, side: &str) -> String {
        format!("{}{side}", self.id)
    }

    /// Runs a command line in a namespace.
    pub(crate) fn run(&self, side: &str, line: &str) -> String {
        let script = line.replace('\'', "'\\''");
        sh(&format!("ip netns exec {} sh -c '{script}'", self.ns(side)))
    }

    pub(crate) fn succeeds(&self, side: &str, line: &str) -> bool {
        let script = line.replace('\'', "'\\''");
        let line = format!("ip netns exec {} sh -c '{script}'", self.ns(side));
        try_sh(&line).status.success()
    }

    /// Addresses, routes, settings and rules of the gateway, for comparison.
    pub(crate) fn gateway_state(&self) -> String {
        self.run(
            "g",
            "ip address; ip route show table all | sort; ip -6 route show table all | sort; \
             sysctl -a 2> /dev/null | grep -E 'eth[01].(arp_ignore|disable_ipv6)'; \
             ethtool -k eth0; nft list ruleset",
        )
    }

    /// Lines of `before` that are missing now (`-`), and new ones (`+`).
    pub(crate) fn changes_since(&self, before: &str) -> Vec<String> {
        let now = self.gateway_state();
        let gone = before
            .lines()
            .filter(|line| !now.lines().any(|other| other == *line));
        let new = now
            .lines()
            .filter(|line| !before.lines().any(|other| other == *line));
        let gone = gone.map(|line| format!("-{line}"));
        gone.chain(new.map(|line| format!("+{line}"))).collect()
    }

    /// Writes a configuration with both ports and what is given in addition.
    pub(crate) fn config(&self, more: &str) -> PathBuf {
        let ports = "[[dataplane.ports]]\nname = \"in\"\nside = \"inside\"\n\
             device = \"net_af_packet0,iface=eth0\"\n\
             [[dataplane.ports]]\nname = \"out\"\nside = \"outside\"\n\
             device = \"net_af_packet1,iface=eth1\"\n";
        self.config_of("g", &format!("{ports}{more}"))
    }

    /// Writes the configuration of a gateway in any of the namespaces.
    pub(crate) fn config_of(&self, side: &str, more: &str) -> PathBuf {
        let run_dir = self.run_dir(side);
        let text = format!(
            "[dataplane]\nrun_dir = \"{}\"\nhuge = false\nmemory_mib = 64\n\
             max_sas = 64\nallow_static_keys = true\n{more}",
            run_dir.display()
        );
        self.write(&format!("{side}.toml"), &text)
    }

    pub(crate) fn run_dir(&self, side: &str) -> PathBuf {
        self.dir.join(format!("run-{side}"))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts the dataplane and waits until it answers on its admin socket.
    pub(crate) fn start(&self, config: &Path) -> Dataplane<'_> {
        self.start_in("g", config)
    }

    /// The same in any of the namespaces.
    pub(crate) fn start_in(&self, side: &str, config: &Path) -> Dataplane<'_> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let child = self.command(side, config).stderr(log).spawn().unwrap();
        let mut dataplane = Dataplane { net: self, child };
        wait_for("start", Duration::from_secs(10), || {
            let ended = dataplane.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended: {ended:?}: {}", self.log());
            self.admin_of(side, "status").is_some()
        });
        dataplane
    }

    /// Runs the dataplane to its end.
    pub(crate) fn output(&self, config: &Path, arguments: &[&str]) -> Output {
        self.command("g", config).args(arguments).output().unwrap()
    }

    fn command(&self, side: &str, config: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.ns(side),
                env!("CARGO_BIN_EXE_culvert-dataplane"),
            ])
            .args(["--log", "debug", "-c"])
            .arg(config)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Asks the admin socket for a table; `None` if nobody answers.
    pub(crate) fn admin(&self, table: &str) -> Option<serde_json::Value> {
        self.admin_of("g", table)
    }

    /// The same of a gateway in any of the namespaces.
    pub(crate) fn admin_of(&self, side: &str, table: &str) -> Option<serde_json::Value> {
        let socket = self.run_dir(side).join("dataplane-admin.sock");
        let mut stream = UnixStream::connect(socket).ok()?;
        stream
            .write_all(format!("{{\"get\":\"{table}\"}}\n").as_bytes())
            .ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let answer: serde_json::Value = serde_json::from_str(&line).ok()?;
        answer.get(table).cloned()
    }

    /// The value of one counter.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.counter_of("g", name)
    }

    /// The same of a gateway in any of the namespaces.
    pub(crate) fn counter_of(&self, side: &str, name: &str) -> u64 {
        let counters = self.admin_of(side, "counters").unwrap();
        let rows = counters.as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no counter {name}"))["value"]
            .as_u64()
            .unwrap()
    }

    /// All counters that moved, for messages.
    pub(crate) fn moved(&self, side: &str) -> String {
        let counters = self.admin_of(side, "counters").unwrap();
        let rows = counters.as_array().unwrap().iter();
        let moved = rows.filter(|row| row["value"].as_u64().unwrap() > 0);
        moved
            .map(|row| format!("{}={} ", row["name"], row["value"]))
            .collect()
    }

    /// Received less what became of it; 0 at rest.
    pub(crate) fn unaccounted(&self) -> i128 {
        let counters = self.admin("counters").unwrap();
        let mut sum = 0_i128;
        for row in counters.as_array().unwrap() {
            let value = i128::from(row["value"].as_u64().unwrap());
            let name = row["name"].as_str().unwrap();
            if row["drop"].as_bool().unwrap() || ["tx", "punted", "held"].contains(&name) {
                sum -= value;
            } else if ["rx", "injected", "generated"].contains(&name) {
                sum += value;
            }
        }
        sum
    }

    /// Whether an address answers within a few seconds: on a loaded machine the first packets may
    /// wait for a neighbour in vain.
    pub(crate) fn reaches(&self, from: &str, to: &str) -> bool {
        (0..5).any(|_| self.ping(from, to))
    }

    /// Whether any of three pings is answered.
    pub(crate) fn ping(&self, from: &str, to: &str) -> bool {
        self.succeeds(from, &format!("ping -q -c 3 -i 0.05 -W 1 {to}"))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the dataplane\n{}", self.log());
        }
        for side in ["a", "g", "b"] {
            try_sh(&format!("ip netns del {}", self.ns(side)));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running dataplane; killed on drop.
pub(crate) struct Dataplane<'a> {
    net: &'a Net,
    child: Child,
}

impl Dataplane<'_> {
    pub(crate) fn signal(&self, name: &str) {
        sh(&format!("kill -{name} {}", self.child.id()));
    }

    /// Ends it in order; true if its exit status was 0.
    pub(crate) fn stop(mut self) -> bool {
        self.signal("TERM");
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < end, "does not stop: {}", self.net.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Dataplane<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The peer: DPDK's ipsec-secgw on one core, the same generator and the same frames.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cell::{Cell, Family, Way};
use super::generator::{Generator, Stats, Times};
use super::hugepages::HugePages;
use super::plan::{PEER_MAC, Plan};
use super::traffic::{self, hex};
use super::verify;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longest time for the end after SIGINT.
const PATIENCE: Duration = Duration::from_secs(10);
const MBUFS: u32 = 16_384;
/// Nothing is fragmented.
const MTU: u32 = 1700;
/// What secgw needs besides its SAs, MiB; and SAs for one more MiB.
const MEMORY_MIB: u64 = 512;
const SAS_PER_MIB: u64 = 50;
const SAS_MAX: u32 = 200_000;

/// How it does its crypto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// ipsec-mb called in place, SA by SA, through librte_ipsec.
    Cpu,
    /// Bursts over all SAs to the device crypto_aesni_gcm.
    Look,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Cpu, Self::Look];

    /// Whether it can do the cell at all: it has UDP encapsulation for inline devices only, and
    /// takes some 20 KiB of hugepages for an SA.
    pub(crate) fn can(cell: Cell) -> bool {
        !cell.udp && cell.sas <= SAS_MAX
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "secgw-cpu",
            Self::Look => "secgw-look",
        }
    }

    fn sa_type(self) -> &'static str {
        match self {
            Self::Cpu => "cpu-crypto",
            Self::Look => "no-offload",
        }
    }
}

/// What a run of the peer is told, besides the cell.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) plugin: PathBuf,
    pub(crate) times: Times,
    pub(crate) core: usize,
    /// Replay window in packets; 0 is off.
    pub(crate) window: u32,
}

/// A process that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One run; gives the figures and how many frames were looked at.
pub(crate) fn run(cell: Cell, mode: Mode, setup: &Setup, dir: &Path) -> Result<(Stats, usize)> {
    let plan = Plan::new(cell, 1)?;
    let generator = Generator {
        dir,
        cell,
        frames: None,
        times: setup.times,
        queues: 1,
        pace: None,
        gated: false,
    };
    let files = traffic::write(&plan, 1, dir)?;
    let configuration = dir.join("secgw.cfg");
    fs::write(&configuration, configure(&plan, mode)?)?;
    let memory = MEMORY_MIB + u64::from(cell.sas) / SAS_PER_MIB;
    let _huge = HugePages::reserve(memory + 32)
        .ok_or_else(|| format!("ipsec-secgw needs {memory} MiB of hugepages"))?;
    let log = File::create(dir.join("secgw.log"))?;
    let mut command = Command::new("nice");
    command.args(["-n", "-10"]).arg(&setup.binary);
    eal_arguments(&mut command, setup, memory);
    command
        .args(["--vdev", &generator.sender(&files)])
        .args(["--vdev", &generator.sink()])
        .args(["--vdev", "crypto_aesni_gcm0"])
        .arg("--");
    own_arguments(&mut command, cell, mode, setup, &configuration);
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let mut running = Running(child);
    let stats = generator.wait(|| match running.0.try_wait()? {
        None => Ok(()),
        Some(status) => Err(format!("ipsec-secgw ended with {status}{}", tail(dir)).into()),
    });
    stop(&mut running);
    let stats = stats?;
    stats.check(cell, false)?;
    let verified = verify::capture(&plan, &generator.dump())?;
    Ok((stats, verified))
}

fn eal_arguments(command: &mut Command, setup: &Setup, memory_mib: u64) {
    command
        .args(["-l", &setup.core.to_string()])
        .args(["--in-memory", "--no-pci", "--no-telemetry"])
        .args(["-m", &memory_mib.to_string()])
        .arg("-d")
        .arg(&setup.plugin);
}

fn own_arguments(command: &mut Command, cell: Cell, mode: Mode, setup: &Setup, file: &Path) {
    // The mask names the ports where ESP arrives.
    let unprotected = match cell.way {
        Way::Enc => "0x2",
        Way::Dec => "0x1",
    };
    let core = setup.core;
    command
        .args(["-p", "0x3", "-P", "-u", unprotected, "-f"])
        .arg(file)
        .arg("--config")
        .arg(format!("(0,0,{core}),(1,0,{core})"))
        .args(["--mtu", &MTU.to_string(), "-s", &MBUFS.to_string()]);
    if mode == Mode::Cpu || setup.window > 0 || cell.esn {
        command.arg("-l");
    }
    if cell.esn {
        command.arg("-e");
    }
    if setup.window > 0 {
        command.args(["-w", &setup.window.to_string()]);
    }
}

/// It ends at SIGINT; `nice` has made way for it, so the process is its own.
fn stop(running: &mut Running) {
    let _ = kill_process(Pid::from_child(&running.0), Signal::INT);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && matches!(running.0.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tail(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("secgw.log")).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// One policy and one SA for each flow, and what secgw wants besides.
fn configure(plan: &Plan, mode: Mode) -> Result<String> {
    let mut text = String::new();
    let outward = plan.cell.way == Way::Enc;
    let (way, side, other) = if outward {
        ("out", "dst", "in")
    } else {
        ("in", "src", "out")
    };
    let kind = mode.sa_type();
    let (ip, bits) = match plan.cell.family {
        Family::V4 => ("ipv4", 32),
        Family::V6 => ("ipv6", 128),
    };
    let algorithm = format!("aead_algo aes-{}-gcm", plan.cell.key_bits);
    for flow in 0..plan.cell.sas {
        let (gateway, far) = (plan.gateway(), plan.far_gateway(flow));
        let (spi, source, destination) = if outward {
            (Plan::spi_out(flow), gateway, far)
        } else {
            (plan.spi_in(flow), far, gateway)
        };
        let host = long_form(plan.far_host(flow));
        writeln!(
            text,
            "sp {ip} {way} esp protect {spi} pri 1 {side} {host}/{bits} \
             sport 0:65535 dport 0:65535"
        )?;
        writeln!(
            text,
            "sa {way} {spi} {algorithm} aead_key {} mode {ip}-tunnel src {} dst {} type {kind}",
            hex(&plan.key(flow, !outward), ":"),
            long_form(source),
            long_form(destination),
        )?;
    }
    // It wants an SA of each direction; this one never sees a packet.
    let key = hex(&[0x11; 20], ":");
    writeln!(
        text,
        "sp ipv4 {other} esp protect 9 pri 1 dst 192.0.2.1/32 sport 0:65535 dport 0:65535\n\
         sa {other} 9 aead_algo aes-128-gcm aead_key {key} mode ipv4-tunnel src 192.0.2.2 \
         dst 192.0.2.3 type {kind}"
    )?;
    let routes: &[&str] = match plan.cell.family {
        Family::V4 => &["ipv4 dst 172.0.0.0/8", "ipv4 dst 10.0.0.0/8"],
        Family::V6 => &[
            "ipv6 dst 2001:0db8:0001:0000:0000:0000:0000:0000/48",
            "ipv6 dst fd00:0000:0000:0000:0000:0000:0000:0000/16",
        ],
    };
    for route in routes {
        writeln!(text, "rt {route} port 1")?;
    }
    writeln!(text, "neigh port 1 {}", hex(&PEER_MAC, ":"))?;
    Ok(text)
}

/// Its parser takes IPv6 addresses in full only.
fn long_form(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let words: Vec<String> = v6.segments().iter().map(|w| format!("{w:04x}")).collect();
            words.join(":")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_a_policy_and_an_sa() {
        for (way, family, line) in [
            (
                Way::Enc,
                Family::V4,
                "sp ipv4 out esp protect 4099 pri 1 dst 10.16.0.3/32",
            ),
            (
                Way::Dec,
                Family::V6,
                "src fd00:0016:0000:0000:0000:0000:0000:0004/128",
            ),
        ] {
            let cell = Cell {
                key_bits: 256,
                way,
                family,
                ..Cell::usual(10)
            };
            let plan = Plan::new(cell, 1).unwrap();
            let text = configure(&plan, Mode::Look).unwrap();
            assert!(text.contains(line), "{text}");
            let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
            assert_eq!((count("sp "), count("sa ")), (11, 11));
            assert_eq!(text.matches("aes-256-gcm").count(), 10);
        }
    }
}

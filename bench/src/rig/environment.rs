//! The machine that figures were made on.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cache;
use super::generator::Stats;
use super::hugepages::HugePages;

/// Flags of the CPU that decide which code runs.
const FLAGS: [&str; 8] = [
    "aes",
    "pclmulqdq",
    "avx2",
    "vaes",
    "vpclmulqdq",
    "avx512f",
    "avx512bw",
    "avx512vl",
];
/// Memory of the probe with its bookkeeping.
const PROBE_MIB: u64 = 256;

/// What figures depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) cpu: String,
    pub(crate) flags: Vec<String>,
    pub(crate) crypto_tier: String,
    /// Core cycles per TSC cycle, of the last run.
    pub(crate) core_per_tsc: f64,
    pub(crate) core_ghz: f64,
    pub(crate) kernel: String,
    pub(crate) dpdk: String,
    /// Of the working tree, "+" behind it when something is not committed; empty outside of one.
    pub(crate) commit: String,
    /// Packet memory of culvert lies in hugepages.
    pub(crate) hugepages: bool,
    pub(crate) replay_window: u32,
    /// How long loads take, by working set.
    pub(crate) memory: Vec<Load>,
}

/// Core cycles of a load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) kib: u64,
    /// One after the other.
    pub(crate) dependent: f64,
    /// As many at once as the core can.
    pub(crate) independent: f64,
}

impl Environment {
    /// Looks at the machine; the probe of its memory runs on `core`.
    pub(crate) fn now(core: usize, tier: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": "))
                .map(|(_, value)| value.trim().to_owned())
        };
        let all = field("flags").unwrap_or_default();
        let all: Vec<&str> = all.split_whitespace().collect();
        let has = FLAGS.into_iter().filter(|flag| all.contains(flag));
        Ok(Self {
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            flags: has.map(str::to_owned).collect(),
            crypto_tier: tier.unwrap_or_else(|| crypto::tier().name()).to_owned(),
            core_per_tsc: 0.0,
            core_ghz: 0.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            dpdk: cache::dpdk_version()?,
            commit: commit(),
            hugepages: false,
            replay_window: super::link::WINDOW_BITS,
            memory: probe(core)?,
        })
    }

    /// Takes the clocks from a run.
    pub(crate) fn saw(&mut self, stats: &Stats) {
        self.core_per_tsc = stats.ratio;
        self.core_ghz = stats.core_ghz;
    }

    pub(crate) fn print(&self) {
        let Self {
            cpu,
            crypto_tier,
            dpdk,
            commit,
            ..
        } = self;
        println!("{cpu}, crypto tier {crypto_tier}, DPDK {dpdk}, commit {commit}");
        println!("  {}", self.flags.join(" "));
        let loads: Vec<String> = self
            .memory
            .iter()
            .map(|load| {
                format!(
                    "{} KiB {:.0}/{:.0}",
                    load.kib, load.dependent, load.independent
                )
            })
            .collect();
        println!(
            "  load, core cycles (one by one/at once): {}",
            loads.join(", ")
        );
    }
}

fn commit() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    let changed = git(&["status", "--porcelain", "-uno"]).is_some_and(|text| !text.is_empty());
    if changed { head + "+" } else { head }
}

fn probe(core: usize) -> Result<Vec<Load>, Box<dyn Error>> {
    let program = cache::memory_probe()?;
    let _huge = HugePages::reserve(PROBE_MIB);
    let text = taskset(core, &program)?;
    let loads = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        Some(Load {
            kib: words.next()?.parse().ok()?,
            dependent: words.next()?.parse().ok()?,
            independent: words.next()?.parse().ok()?,
        })
    });
    loads
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{}: not what it should print", program.display()).into())
}

fn taskset(core: usize, program: &Path) -> Result<String, Box<dyn Error>> {
    cache::run(
        Command::new("taskset")
            .arg("-c")
            .arg(core.to_string())
            .arg(program),
    )
}

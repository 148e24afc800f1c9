//! The real culvert-dataplane between the generator's ports, with SAs as IKE installs them.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::cell::{Cell, Family, Way};
use super::generator::{Generator, Stats, Times};
use super::hugepages::HugePages;
use super::link::{Installed, Link};
use super::plan::{PEER_MAC, Plan};
use super::report::Spread;
use super::resident::Resident;
use super::traffic;
use super::verify;
use crate::soak::packet::Mac;
use crate::soak::site::{Counters, Dataplane, Site};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Packet memory: 2 ports of 1,024 descriptors each way for each worker, and what is under way.
const MEMORY_MIB: u64 = 128;
/// Hugepages for the rows of SAs, beside the packets: at least, and SAs for one more MiB.
const TABLES_MIB: u64 = 64;
const SAS_PER_MIB: u64 = 1024;
/// The kernel's part of the mirroring, once `ip` has returned.
const MIRRORING: Duration = Duration::from_millis(200);
/// Children that come one by one after all others.
const ONE_BY_ONE: u32 = 300;
/// The worker wins against ordinary programs on its core.
const NICE: i32 = -10;
/// Between two looks at the stages' cycles.
const STAGE_WINDOW: Duration = Duration::from_millis(5);
/// Behind a sealing that do not count: as the generator, `SETTLE_PKTS` in gen.h.
const COLD_PACKETS: u64 = 20_000;

/// What a run of culvert is told, besides the cell.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) plugin: PathBuf,
    pub(crate) times: Times,
    /// The workers' cores.
    pub(crate) cores: Vec<usize>,
    /// Those of crypto workers.
    pub(crate) crypto_cores: Vec<usize>,
    /// Frames of the source, if not as many as usual.
    pub(crate) frames: Option<u32>,
    /// Where everything else of the process runs.
    pub(crate) control_core: usize,
    pub(crate) busy: bool,
    pub(crate) pace: Option<f64>,
    /// Crypto tier, if not the fastest.
    pub(crate) tier: Option<String>,
    pub(crate) stages: bool,
    /// Every packet arrives at another worker's queue.
    pub(crate) elsewhere: bool,
}

/// What a run gave.
pub(crate) struct Outcome {
    pub(crate) stats: Stats,
    pub(crate) installed: Installed,
    /// Frames that were looked at and are right.
    pub(crate) verified: usize,
    /// Name and cycles per packet of each stage, if the dataplane counts them.
    pub(crate) stages: Vec<(String, f64)>,
    pub(crate) latency: Vec<Latency>,
    pub(crate) huge: bool,
}

/// What installing without packets gave.
pub(crate) struct Install {
    pub(crate) installed: Installed,
    /// Before the first SA and behind the commit.
    pub(crate) resident: (Resident, Resident),
    /// Nanoseconds of single commands.
    pub(crate) trips: Vec<f64>,
    /// Milliseconds of single children.
    pub(crate) singles: Vec<f64>,
}

/// Everything of one start; dropping it ends the process and removes the namespace.
pub(crate) struct Bench {
    pub(crate) site: Site,
    pub(crate) plan: Plan,
    setup: Setup,
    huge: Option<HugePages>,
}

impl Bench {
    /// Namespace, traffic and configuration.
    pub(crate) fn new(cell: Cell, setup: &Setup, dir: &Path) -> Result<Self> {
        let workers = setup.cores.len();
        let mut plan = Plan::new(cell, u32::try_from(workers)?)?;
        plan.elsewhere = setup.elsewhere;
        let site = Site::new(dir, &setup.binary)?;
        let tables = u64::from(plan.max_sas()) / SAS_PER_MIB;
        let huge = HugePages::reserve(MEMORY_MIB * workers as u64 + TABLES_MIB + tables);
        Ok(Self {
            site,
            plan,
            setup: setup.clone(),
            huge,
        })
    }

    /// One run of the generator from start to end.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let workers = self.setup.cores.len();
        let generator = Generator {
            dir: &self.site.dir,
            cell: self.plan.cell,
            frames: self.setup.frames,
            times: self.setup.times,
            queues: workers,
            pace: self.setup.pace,
            gated: true,
        };
        let files = traffic::write(&self.plan, workers, &self.site.dir)?;
        let devices = [generator.sender(&files), generator.sink()];
        self.configure(&devices)?;
        let mut dataplane = self.site.start()?;
        self.prepare_links()?;
        let mut link = Link::connect(&self.site.run_dir())?;
        let installed = link
            .install(&self.plan)
            .map_err(|error| format!("{error}{}", self.site.log()))?;
        std::thread::sleep(MIRRORING);
        self.place(dataplane.pid())?;
        let before = dataplane.counters()?;
        generator.open_gate()?;
        let (stages, stats) = self.measure(&generator, &mut dataplane)?;
        let checked = self.check(&stats, &generator);
        let after = dataplane.counters()?;
        let verified =
            checked.map_err(|error| format!("{error}; drops: {}", drops(&before, &after)))?;
        drop(link);
        dataplane.stop()?;
        let latency = match self.setup.pace {
            Some(_) => latencies(&generator.latency_file())?,
            None => Vec::new(),
        };
        Ok(Outcome {
            stats,
            installed,
            verified,
            stages,
            latency,
            huge: self.huge.is_some(),
        })
    }

    /// Installs the SAs and measures some commands, without any packet.
    pub(crate) fn install_only(&self, trips: u32) -> Result<Install> {
        self.configure(&["net_gen0".to_owned(), "net_gen1".to_owned()])?;
        let dataplane = self.site.start()?;
        self.place(dataplane.pid())?;
        let mut link = Link::connect(&self.site.run_dir())?;
        let before = Resident::of(dataplane.pid())?;
        let installed = link
            .install(&self.plan)
            .map_err(|error| format!("{error}{}", self.site.log()))?;
        let after = Resident::of(dataplane.pid())?;
        let trips = link.round_trips(&self.plan, trips)?;
        let sas = self.plan.cell.sas;
        let singles = link.one_by_one(&self.plan, sas..sas + ONE_BY_ONE)?;
        drop(link);
        dataplane.stop()?;
        Ok(Install {
            installed,
            resident: (before, after),
            trips,
            singles,
        })
    }

    /// Traffic of the first `flows` as fast as it is taken, while `work` changes other SAs.
    pub(crate) fn under_load<T>(
        &self,
        flows: u32,
        work: impl FnOnce(&mut Link, &Plan) -> Result<T>,
    ) -> Result<T> {
        let of_traffic = self.plan.first(flows);
        let generator = Generator {
            dir: &self.site.dir,
            cell: of_traffic.cell,
            frames: self.setup.frames,
            times: self.setup.times,
            queues: self.setup.cores.len(),
            pace: None,
            gated: true,
        };
        let files = traffic::write(&of_traffic, self.setup.cores.len(), &self.site.dir)?;
        self.configure(&[generator.sender(&files), generator.sink()])?;
        let mut dataplane = self.site.start()?;
        self.prepare_links()?;
        let mut link = Link::connect(&self.site.run_dir())?;
        link.install(&of_traffic)?;
        std::thread::sleep(MIRRORING);
        self.place(dataplane.pid())?;
        let _away = Pinned::to(self.setup.control_core)?;
        generator.open_gate()?;
        let result =
            work(&mut link, &self.plan).map_err(|error| format!("{error}{}", self.site.log()))?;
        dataplane.assert_alive()?;
        drop(link);
        dataplane.stop()?;
        Ok(result)
    }

    fn check(&self, stats: &Stats, generator: &Generator<'_>) -> Result<usize> {
        // Handing over costs its receiver nothing it could refuse: at saturation some are lost.
        if !self.setup.elsewhere {
            stats.check(self.plan.cell, self.setup.pace.is_some())?;
        }
        verify::capture(&self.plan, &generator.dump())
    }

    /// Cycles of the stages while it measures, and the generator's figures.
    fn measure(
        &self,
        generator: &Generator<'_>,
        dataplane: &mut Dataplane<'_>,
    ) -> Result<(Vec<(String, f64)>, Stats)> {
        let Times { warm, secs } = self.setup.times;
        let mut seen = Vec::new();
        if self.setup.stages {
            std::thread::sleep(Duration::from_secs_f64(warm + secs * 0.1));
            let end = Instant::now() + Duration::from_secs_f64(secs * 0.8);
            while Instant::now() < end {
                seen.push(dataplane.counters()?);
                std::thread::sleep(STAGE_WINDOW);
            }
        }
        let stats = generator.wait(|| dataplane.assert_alive())?;
        Ok((stages(&seen, &stats), stats))
    }

    fn configure(&self, devices: &[String; 2]) -> Result<()> {
        let Setup {
            cores,
            crypto_cores,
            ..
        } = &self.setup;
        let memory = MEMORY_MIB * cores.len() as u64;
        let mut text = format!(
            "[dataplane]\nrun_dir = \"{}\"\nhuge = {}\nmemory_mib = {memory}\nmax_sas = {}\n\
             workers = {cores:?}\nidle = \"{}\"\nplugins = [\"{}\"]\n",
            self.site.run_dir().display(),
            self.huge.is_some(),
            self.plan.max_sas(),
            if self.setup.busy { "busy" } else { "adaptive" },
            self.setup.plugin.display(),
        );
        if let Some(tier) = &self.setup.tier {
            writeln!(text, "crypto_tier = \"{tier}\"")?;
        }
        if !crypto_cores.is_empty() {
            writeln!(text, "crypto_workers = {crypto_cores:?}")?;
        }
        if self.setup.stages {
            text += "stage_clock = true\n";
        }
        // Frames come in by the first port and leave by the second.
        let sides = match self.plan.cell.way {
            Way::Enc => ["inside", "outside"],
            Way::Dec => ["outside", "inside"],
        };
        for (side, device) in sides.iter().zip(devices) {
            let (name, prefix) = match *side {
                "inside" => ("in", self.near_prefix().to_owned()),
                _ => ("out", self.gateway_prefix()),
            };
            writeln!(
                text,
                "[[dataplane.ports]]\nname = \"{name}\"\nside = \"{side}\"\nmtu = 1600\n\
                 queues = {}\ndevice = \"{device}\"\naddresses = [\"{prefix}\"]",
                cores.len()
            )?;
        }
        self.site.write_configuration(&text)
    }

    fn near_prefix(&self) -> &'static str {
        match self.plan.cell.family {
            Family::V4 => "10.8.0.254/16",
            Family::V6 => "fd00:8::fe/64",
        }
    }

    fn gateway_prefix(&self) -> String {
        let bits = match self.plan.cell.family {
            Family::V4 => 24,
            Family::V6 => 64,
        };
        format!("{}/{bits}", self.plan.gateway())
    }

    /// Routes and neighbours that last, on the twins.
    fn prepare_links(&self) -> Result<()> {
        let far: &[&str] = match self.plan.cell.family {
            Family::V4 => &["172.0.0.0/8", "10.0.0.0/8"],
            Family::V6 => &["2001:db8:1::/48", "fd00:16::/32"],
        };
        let hop = self.plan.next_hop();
        let mut batch = String::new();
        for (address, device) in [(hop, "cv-out"), (self.plan.near_host(), "cv-in")] {
            let mac = mac_text(PEER_MAC);
            writeln!(
                batch,
                "neigh replace {address} dev {device} lladdr {mac} nud permanent"
            )?;
        }
        for network in far {
            writeln!(batch, "route replace {network} via {hop} dev cv-out")?;
        }
        let file = self.site.dir.join("links");
        fs::write(&file, batch)?;
        self.site.ip(&format!("-batch {}", file.display()))?;
        Ok(())
    }

    /// Keeps everything but the workers off their cores, and the workers in front of others there.
    fn place(&self, pid: u32) -> Result<()> {
        let mut control = CpuSet::new();
        control.set(self.setup.control_core);
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let id = task.file_name().to_string_lossy().parse().ok();
            let Some(id) = id.and_then(Pid::from_raw) else {
                continue;
            };
            if name.starts_with("worker-") || name.starts_with("crypto-") {
                setpriority_process(Some(id), NICE)?;
            } else {
                sched_setaffinity(Some(id), &control)?;
            }
        }
        Ok(())
    }
}

/// Whether the dataplane starts with what `setup` writes into its configuration.
pub(crate) fn accepts(cell: Cell, setup: &Setup) -> bool {
    let try_it = || -> Result<()> {
        let dir = tempfile::Builder::new()
            .prefix("culvert-bench-")
            .tempdir()?;
        let bench = Bench::new(cell, setup, dir.path())?;
        bench.configure(&["net_gen0".to_owned(), "net_gen1".to_owned()])?;
        bench.site.start()?.stop()
    };
    try_it().is_ok()
}

fn mac_text(mac: Mac) -> String {
    traffic::hex(&mac, ":")
}

fn drops(before: &Counters, after: &Counters) -> String {
    let rows = after.rows.iter().filter(|row| row.is_drop);
    let more: Vec<String> = rows
        .filter(|row| row.value > before.get(&row.name))
        .map(|row| format!("{} {}", row.name, row.value - before.get(&row.name)))
        .collect();
    if more.is_empty() {
        "none".to_owned()
    } else {
        more.join(", ")
    }
}

/// This thread, on one core for as long as this lives: the next dataplane inherits what it may use.
struct Pinned(CpuSet);

impl Pinned {
    fn to(core: usize) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // As it was: that was allowed.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Core cycles per transmitted packet of each `stage_NAME_cycles`, which count in TSC: of each the median of
/// the times between two looks, as `net` is that of windows, so that a lost core does not count in either.
fn stages(seen: &[Counters], stats: &Stats) -> Vec<(String, f64)> {
    let windows = || {
        seen.windows(2)
            .filter(|pair| counts(&pair[0], &pair[1], stats))
    };
    let rows = seen.first().map_or(&[][..], |first| &first.rows);
    let stages = rows.iter().filter_map(|row| {
        let name = row.name.strip_prefix("stage_")?.strip_suffix("_cycles")?;
        // The generator works inside of these two.
        let generator = match name {
            "rx" => stats.rx,
            "tx" => stats.tx,
            _ => 0.0,
        };
        let cycles = windows().map(|pair| {
            let packets = pair[1].get("tx") - pair[0].get("tx");
            let cycles = pair[1]
                .get(&row.name)
                .saturating_sub(pair[0].get(&row.name));
            cycles as f64 * stats.ratio / packets as f64
        });
        let spread = Spread::of(cycles)?;
        Some((name.to_owned(), spread.median - generator))
    });
    stages.collect()
}

/// Whether packets went through, and neither was everything sealed again meanwhile nor right before: that
/// is no time of the dataplane's, and its cache is cold then.
fn counts(first: &Counters, last: &Counters, stats: &Stats) -> bool {
    let (from, to) = (first.get("rx"), last.get("rx"));
    let sealed = stats.seal_tsc > 0.0 && stats.wraps(from.saturating_sub(COLD_PACKETS), to) > 0;
    last.get("tx") > first.get("tx") && !sealed
}

/// How often a packet took so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latency {
    pub(crate) ns: u64,
    pub(crate) count: u64,
    /// Without times in which the worker was preempted.
    pub(crate) quiet: u64,
}

/// What the generator writes: nanoseconds, how often, how often undisturbed.
fn latencies(path: &Path) -> Result<Vec<Latency>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| {
        let mut words = line.split(' ').map(|word| word.parse::<u64>().ok());
        Some(Latency {
            ns: words.next()??,
            count: words.next()??,
            quiet: words.next()??,
        })
    });
    pairs
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| format!("{}: not what the generator writes", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::site::Row;

    fn counters(tx: u64, rx: u64, crypto: u64) -> Counters {
        let row = |name: &str, value| Row {
            name: name.to_owned(),
            value,
            is_drop: false,
        };
        let rows = vec![
            row("tx", tx),
            row("rx", tx + 700),
            row("stage_rx_cycles", rx),
            row("stage_crypto_cycles", crypto),
            row("rounds", 7),
        ];
        Counters { rows }
    }

    #[test]
    fn stages_are_core_cycles_without_the_generator() {
        let text = r#"{"net":1,"net_p10":1,"gross":1,"rx":30,"tx":20,"windows":1,"clean":1,
            "tx_pps":1,"frames":100000,"ring":24,"seal_tsc":4000,"ratio":1.5,"core_ghz":1,"rx_pkts":1,"tx_pkts":1}"#;
        let stats: Stats = serde_json::from_str(text).unwrap();
        let seen = [
            counters(40_100, 50, 10),
            counters(40_300, 12_050, 20_010),
            // Nothing was sent.
            counters(40_300, 99_999, 99_999),
            // The core was lost: the median is of the other two.
            counters(40_400, 999_999, 999_999),
            counters(40_600, 1_011_999, 1_019_999),
            // Everything was sealed again, then the cache was cold.
            counters(100_600, 9_999_999, 9_999_999),
            counters(110_600, 99_999_999, 99_999_999),
        ];
        let expected = [("rx".to_owned(), 60.0), ("crypto".to_owned(), 150.0)];
        assert_eq!(stages(&seen, &stats), expected);
        assert_eq!(stages(&seen[..1], &stats), []);
    }

    #[test]
    fn latencies_are_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latency");
        fs::write(&path, "# recorded 3\n900 2 1\n1000 1 1\n").unwrap();
        let first = Latency {
            ns: 900,
            count: 2,
            quiet: 1,
        };
        assert_eq!(latencies(&path).unwrap()[0], first);
        fs::write(&path, "900 2\n").unwrap();
        assert!(latencies(&path).is_err());
    }
}

//! Frames through the real dataplane: it has to live, and every packet has to be somewhere.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::packet::Mac;
use super::pcap::Capture;
use super::site::{Counters, Dataplane, Site};
use super::traffic::{Traffic, tunnels};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Frames of one start of the dataplane: the captures stay small.
const ROUND_FRAMES: u64 = 1_000_000;
/// Longest time without one more frame received.
const STALL: Duration = Duration::from_secs(20);
/// Frames that wait for a neighbour do so for a second.
const REST: Duration = Duration::from_secs(10);
/// What a soak that reaches every stage cannot leave at 0.
const REACHED: [&str; 12] = [
    "tx",
    "punted",
    "injected",
    "generated",
    "encapsulated",
    "decapsulated",
    "bypassed",
    "auth_failed",
    "replayed",
    "late",
    "inner_selector",
    "clear_of_protected",
];

/// Sums over all rounds.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rounds: u64,
    pub(crate) frames: u64,
    /// By name, in the dataplane's order of names; true for a reason to drop.
    pub(crate) counters: BTreeMap<(bool, String), u64>,
}

impl Report {
    fn add(&mut self, counters: &Counters) {
        self.rounds += 1;
        self.frames += counters.get("rx");
        for row in &counters.rows {
            *self
                .counters
                .entry((row.is_drop, row.name.clone()))
                .or_default() += row.value;
        }
    }

    fn get(&self, name: &str) -> u64 {
        let of = |is_drop| self.counters.get(&(is_drop, name.to_owned())).copied();
        of(true).or_else(|| of(false)).unwrap_or_default()
    }

    /// Names of [`REACHED`] that stayed at 0.
    fn missed(&self) -> Vec<&'static str> {
        REACHED
            .into_iter()
            .filter(|name| self.get(name) == 0)
            .collect()
    }
}

/// Runs rounds until `frames` were received. On failure `dir` is left for a look.
pub(crate) fn run(frames: u64, seed: u64, binary: &Path, dir: &Path) -> Result<Report> {
    let site = Site::new(dir, binary)?;
    let mut random = Rng::with_seed(seed);
    let tunnels = tunnels(&mut random);
    site.configure(&tunnels, ["", ""])?;
    let ports = prepare(&site)?;
    let mut traffic = Traffic::new(random, tunnels, ports);
    let mut report = Report::default();
    while report.frames < frames {
        let count = ROUND_FRAMES.min(frames - report.frames);
        write_captures(&site, &mut traffic, count)?;
        report.add(&round(&site, count)?);
        eprintln!("soak: {} of {frames} frames", report.frames);
    }
    let missed = report.missed();
    // A handful of frames may well miss a stage.
    if frames >= 10_000 && !missed.is_empty() {
        return Err(format!("the frames never reached: {}", missed.join(", ")).into());
    }
    Ok(report)
}

/// A first start without frames, after which the twins have their routes.
pub(crate) fn prepare(site: &Site) -> Result<[Mac; 2]> {
    for port in 0..2 {
        Capture::create(&site.capture(port))?.finish()?;
    }
    let dataplane = site.start()?;
    site.add_routes()?;
    let ports = [site.mac("cv-in")?, site.mac("cv-out")?];
    dataplane.stop()?;
    Ok(ports)
}

fn write_captures(site: &Site, traffic: &mut Traffic, count: u64) -> Result<()> {
    let mut inside = Capture::create(&site.capture(0))?;
    let mut outside = Capture::create(&site.capture(1))?;
    while inside.frames + outside.frames < count {
        outside.push(&traffic.outside())?;
        if inside.frames + outside.frames < count {
            inside.push(&traffic.inside())?;
        }
    }
    inside.finish()?;
    outside.finish()?;
    Ok(())
}

/// One start of the dataplane with the captures as they are.
fn round(site: &Site, count: u64) -> Result<Counters> {
    let mut dataplane = site.start()?;
    site.add_routes()?;
    let received = receive(&mut dataplane, count)?;
    if received.get("rx") != count {
        return Err(format!("{} of {count} frames were received", received.get("rx")).into());
    }
    let counters = at_rest(&mut dataplane)?;
    dataplane.stop()?;
    Ok(counters)
}

/// Waits until all frames were received, or no more come.
fn receive(dataplane: &mut Dataplane<'_>, count: u64) -> Result<Counters> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        dataplane.assert_alive()?;
        let counters = dataplane.counters()?;
        let rx = counters.get("rx");
        if rx >= count || since.elapsed() > STALL {
            return Ok(counters);
        }
        if rx != seen {
            (seen, since) = (rx, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until every packet is somewhere and none waits.
fn at_rest(dataplane: &mut Dataplane<'_>) -> Result<Counters> {
    let end = Instant::now() + REST;
    loop {
        dataplane.assert_alive()?;
        let counters = dataplane.counters()?;
        let unaccounted = counters.unaccounted();
        if unaccounted == 0 && counters.get("held") == 0 {
            return Ok(counters);
        }
        if Instant::now() > end {
            let rows: Vec<_> = counters.rows.iter().filter(|row| row.value > 0).collect();
            return Err(format!("{unaccounted} packets are nowhere: {rows:?}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The dataplane beside this binary.
pub(crate) fn default_binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("culvert-dataplane");
    if binary.exists() {
        return Ok(binary);
    }
    Err(format!(
        "{} is not there: cargo build -p culvert-dataplane",
        binary.display()
    )
    .into())
}

//! SAs that come, change keys and go while packets of others flow.

use std::error::Error;
use std::time::{Duration, Instant};

use api::counters::{Counter, DropReason, Totals};

use super::cell::Cell;
use super::control::{Options, setup};
use super::culvert::Bench;
use super::link::{Link, deletion, installation, rekeying};
use super::plan::Plan;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// SAs whose packets flow.
pub(crate) const FLOWS: u32 = 1_000;
/// The generator goes on for longer than all of it takes.
const SECONDS: f64 = 600.0;
const WARM: Duration = Duration::from_secs(1);
const LINKS_SETTLE: Duration = Duration::from_secs(10);
/// What is compared with: before and after each part.
const CALM: Duration = Duration::from_secs(1);
/// How often and for how many seconds counters are read.
const READ_EVERY: Duration = Duration::from_secs(1);
const READS: u32 = 3;
/// A worker publishes its counters at least as often.
const PUBLISHED: Duration = Duration::from_millis(20);

/// One part of the run.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) commands: usize,
    pub(crate) seconds: f64,
    /// Packets transmitted a second, and the same in the second before.
    pub(crate) rate: f64,
    pub(crate) rate_before: f64,
    /// Reasons and packets lost.
    pub(crate) drops: Vec<(&'static str, u64)>,
}

impl Part {
    /// The traffic's rate against that before it.
    pub(crate) fn share(&self) -> f64 {
        self.rate / self.rate_before
    }

    pub(crate) fn lost(&self) -> u64 {
        self.drops.iter().map(|(_, lost)| lost).sum()
    }
}

/// Runs all parts with so many other tunnels.
pub(crate) fn run(options: &Options, tunnels: u32) -> Result<Vec<Part>> {
    let dir = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir()?;
    // Behind each tunnel's flow stands one for its new keys.
    let setup = setup(options, true, SECONDS)?;
    let bench = Bench::new(Cell::usual(FLOWS + 2 * tunnels), &setup, dir.path())?;
    bench.under_load(FLOWS, |link, plan| parts(link, plan, tunnels))
}

fn parts(link: &mut Link, plan: &Plan, tunnels: u32) -> Result<Vec<Part>> {
    let flows = FLOWS..FLOWS + tunnels;
    let works = [
        ("install", installation(plan, flows.clone())?),
        ("rekey", rekeying(plan, flows.clone())?),
        ("delete", deletion(plan, flows, true)?),
    ];
    std::thread::sleep(WARM);
    // What is lost here has nothing to do with changes of SAs: Linux reports its multicast groups
    // (RFC 3810) on twins that have just come up, and no policy is for these packets.
    let nothing = |_: &mut Link| {
        std::thread::sleep(LINKS_SETTLE);
        Ok((LINKS_SETTLE.as_secs_f64(), 0))
    };
    let mut parts = vec![part(link, "nothing", nothing)?];
    for (name, commands) in works {
        let work = |link: &mut Link| Ok((link.carry_out(&commands)?, commands.len()));
        parts.push(part(link, name, work)?);
        if name == "install" {
            parts.push(part(link, "counters each second", read_counters)?);
        }
    }
    Ok(parts)
}

fn read_counters(link: &mut Link) -> Result<(f64, usize)> {
    let (start, mut rows) = (Instant::now(), 0);
    let mut reading = Duration::ZERO;
    for second in 1..=READS {
        let begin = Instant::now();
        rows = link.state().used().count();
        reading += begin.elapsed();
        std::thread::sleep((READ_EVERY * second).saturating_sub(start.elapsed()));
    }
    Ok(((reading / READS).as_secs_f64(), rows))
}

fn part(
    link: &mut Link,
    name: &'static str,
    work: impl FnOnce(&mut Link) -> Result<(f64, usize)>,
) -> Result<Part> {
    let first = Sample::now(link);
    std::thread::sleep(CALM);
    let before = Sample::now(link);
    let (seconds, commands) = work(link)?;
    let after = Sample::now(link);
    std::thread::sleep(PUBLISHED);
    let last = Sample::now(link);
    let lost = |reason: &DropReason| {
        let lost = last.totals.dropped(*reason) - first.totals.dropped(*reason);
        (lost > 0).then(|| (reason.name(), lost))
    };
    Ok(Part {
        name,
        commands,
        seconds,
        rate: before.rate(&after),
        rate_before: first.rate(&before),
        drops: DropReason::ALL.iter().filter_map(lost).collect(),
    })
}

/// The counters at one moment.
struct Sample {
    at: Instant,
    totals: Totals,
}

impl Sample {
    fn now(link: &Link) -> Self {
        Self {
            totals: link.state().totals(),
            at: Instant::now(),
        }
    }

    fn rate(&self, later: &Self) -> f64 {
        let packets = later.totals.get(Counter::Tx) - self.totals.get(Counter::Tx);
        packets as f64 / (later.at - self.at).as_secs_f64()
    }
}

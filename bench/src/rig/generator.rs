//! The generator's arguments, and what it writes.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::cell::{Cell, Way};
use super::interrupt;
use super::traffic::Files;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Transmitted frames that are kept for a look.
const DUMP_FRAMES: u32 = 3000;
/// What loading and sealing may take on top of the run itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a run warms up and measures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warm: f64,
    pub(crate) secs: f64,
}

/// One run of the generator, in a directory of its own.
pub(crate) struct Generator<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) cell: Cell,
    /// Frames of the source, if not as many as usual.
    pub(crate) frames: Option<u32>,
    pub(crate) times: Times,
    pub(crate) queues: usize,
    /// Packets a second by a schedule; without it as fast as they are taken.
    pub(crate) pace: Option<f64>,
    /// Nothing is handed out before [`Generator::open_gate`].
    pub(crate) gated: bool,
}

/// What the generator found, in core cycles per transmitted packet: medians over clean windows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stats {
    /// Without the generator's own share.
    pub(crate) net: f64,
    /// The least tenth percentile: a machine without disturbance.
    pub(crate) net_p10: f64,
    pub(crate) gross: f64,
    /// The generator's own shares.
    pub(crate) rx: f64,
    pub(crate) tx: f64,
    pub(crate) windows: u32,
    pub(crate) clean: u32,
    /// Frames of the first queue's arena, and how many its ring holds.
    pub(crate) frames: u64,
    pub(crate) ring: u64,
    /// What sealing all of them again took, in TSC.
    pub(crate) seal_tsc: f64,
    /// Packets a second of all queues: received from the generator, and sent.
    #[serde(default)]
    pub(crate) rx_pps: f64,
    pub(crate) tx_pps: f64,
    /// Core cycles per TSC cycle.
    pub(crate) ratio: f64,
    pub(crate) core_ghz: f64,
    pub(crate) rx_pkts: u64,
    pub(crate) tx_pkts: u64,
}

impl Generator<'_> {
    /// Where the transmitted frames are.
    pub(crate) fn dump(&self) -> PathBuf {
        self.dir.join("tx.pcap")
    }

    fn stats_file(&self) -> PathBuf {
        self.dir.join("stats.json")
    }

    pub(crate) fn latency_file(&self) -> PathBuf {
        self.dir.join("latency")
    }

    fn gate(&self) -> PathBuf {
        self.dir.join("gate")
    }

    /// Device string of the port that frames come from.
    pub(crate) fn sender(&self, files: &Files) -> String {
        let Times { warm, secs } = self.times;
        let mut text = format!(
            "net_gen0,frames={},count={},queues={},warm={warm},secs={secs},stats={}",
            files.frames.display(),
            self.frames.unwrap_or_else(|| self.cell.size.frames()),
            self.queues,
            self.stats_file().display(),
        );
        if let Some(sas) = &files.sas {
            let _ = write!(text, ",sas={},reseal=1", sas.display());
        }
        if self.gated {
            let _ = write!(text, ",gate={}", self.gate().display());
        }
        if let Some(pps) = self.pace {
            let _ = write!(
                text,
                ",pps={pps:.0},latency={}",
                self.latency_file().display()
            );
        }
        text
    }

    /// Device string of the port that frames leave by.
    pub(crate) fn sink(&self) -> String {
        let (dump, queues) = (self.dump(), self.queues);
        format!(
            "net_gen1,queues={queues},tx_dump={},dump={DUMP_FRAMES}",
            dump.display()
        )
    }

    /// Lets frames flow.
    pub(crate) fn open_gate(&self) -> Result<()> {
        Ok(fs::write(self.gate(), "")?)
    }

    /// Waits for the figures; `alive` says when there is no use in waiting.
    pub(crate) fn wait(&self, mut alive: impl FnMut() -> Result<()>) -> Result<Stats> {
        let run = Duration::from_secs_f64(self.times.warm + self.times.secs);
        let end = Instant::now() + run + PATIENCE;
        while !self.stats_file().exists() {
            interrupt::check()?;
            alive()?;
            if Instant::now() > end {
                return Err("the generator gave no figures: nobody polls its port".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = fs::read_to_string(self.stats_file())?;
        serde_json::from_str(&text).map_err(|error| format!("{text}: {error}").into())
    }
}

impl Stats {
    /// How often everything was sealed again while the packets received went from `first` to `last`.
    pub(crate) fn wraps(&self, first: u64, last: u64) -> u64 {
        let before = |received: u64| (received + self.ring) / self.frames.max(1);
        before(last) - before(first).min(before(last))
    }

    /// A figure of packets most of which were dropped is none.
    pub(crate) fn check(&self, cell: Cell, paced: bool) -> Result<()> {
        /// Frames that may be under way, or lost to the first moments of a run.
        const UNDER_WAY: u64 = 20_000;
        if self.tx_pkts + UNDER_WAY < self.rx_pkts / 1000 * 999 {
            let (rx, tx) = (self.rx_pkts, self.tx_pkts);
            return Err(
                format!("{tx} of {rx} packets were transmitted, the others dropped").into(),
            );
        }
        if self.clean == 0 && !paced {
            let what = match cell.way {
                Way::Enc => "a busy machine",
                Way::Dec => "a busy machine, or sealing that takes all the time",
            };
            let text = format!("no window of {} was left alone: {what}", self.windows);
            return Err(text.into());
        }
        Ok(())
    }
}

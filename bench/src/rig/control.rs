//! SAs into a dataplane that polls its ports and gets no packets.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;

use super::cache;
use super::cell::Cell;
use super::culvert::{Bench, Install, Setup};
use super::generator::Times;
use super::interrupt;
use super::resident::Resident;
use crate::soak::dataplane::default_binary;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Commands of which each is there and back before the next leaves.
pub(super) const ROUND_TRIPS: u32 = 2_000;

#[derive(Args)]
pub(crate) struct Options {
    /// Also while packets of 1,000 other SAs flow as fast as they are taken: installs, rekeys and
    /// deletes as many tunnels, and reads all counters once a second
    #[arg(long)]
    pub(crate) under_load: bool,
    /// Numbers of tunnels, with two SAs each
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    pub(crate) sas: Vec<u32>,
    /// Starts of the dataplane for each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) runs: u8,
    /// The worker's core
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Where the control thread runs
    #[arg(long, default_value_t = 0)]
    control_core: usize,
    /// Also write the figures to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// The binary of the dataplane, if it is not beside this one
    #[arg(long)]
    dataplane: Option<PathBuf>,
}

/// What one start gave.
pub(crate) struct Installed {
    pub(crate) sas: u32,
    pub(crate) commands: u64,
    pub(crate) seconds: f64,
    pub(crate) commit_seconds: f64,
    pub(crate) round_trip_ns: f64,
    /// Memory of the process before the first SA and behind the commit.
    pub(crate) resident: (Resident, Resident),
    /// To commit one more child: median and longest, milliseconds.
    pub(crate) one_more_ms: (f64, f64),
}

/// Starts a dataplane and installs as many tunnels.
pub(crate) fn install(options: &Options, sas: u32) -> Result<Installed> {
    interrupt::check()?;
    let dir = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir()?;
    let bench = Bench::new(Cell::usual(sas), &setup(options, false, 0.0)?, dir.path())?;
    let Install {
        installed,
        resident,
        mut trips,
        mut singles,
    } = bench.install_only(ROUND_TRIPS)?;
    trips.sort_by(f64::total_cmp);
    singles.sort_by(f64::total_cmp);
    let median = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(Installed {
        sas: installed.sas,
        commands: installed.commands,
        seconds: installed.seconds,
        commit_seconds: installed.commit_seconds,
        resident,
        round_trip_ns: median(&trips),
        one_more_ms: (
            median(&singles),
            singles.last().copied().unwrap_or(f64::NAN),
        ),
    })
}

/// The dataplane of a run; `secs` is how long its generator measures.
pub(super) fn setup(options: &Options, busy: bool, secs: f64) -> Result<Setup> {
    Ok(Setup {
        binary: options.dataplane.clone().map_or_else(default_binary, Ok)?,
        plugin: cache::generator()?,
        times: Times { warm: 0.0, secs },
        cores: vec![options.core],
        crypto_cores: Vec::new(),
        frames: None,
        control_core: options.control_core,
        // Without packets a polling worker would leave two cores too few for both ends.
        busy,
        pace: None,
        tier: None,
        stages: false,
        elsewhere: false,
    })
}

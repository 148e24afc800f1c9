//! `culvert-bench compare`: culvert and DPDK's ipsec-secgw by turns on the same frames.

use std::error::Error;

use clap::Args;

use super::bars::{self, Bar};
use super::cache;
use super::cell::Cell;
use super::culvert;
use super::dataplane::{figure, start};
use super::environment::Environment;
use super::generator::Stats;
use super::interrupt;
use super::options::Options;
use super::progress;
use super::report::{Figure, Report};
use super::secgw::{self, Mode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Replay window of ipsec-secgw in packets; 0 is off, which is kinder to it
    #[arg(long, default_value_t = 0)]
    secgw_window: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let options = &arguments.options;
    let earlier = options.against.as_deref().map(Report::read).transpose()?;
    let ours = options.setup()?;
    let theirs = secgw::Setup {
        binary: cache::secgw()?,
        plugin: ours.plugin.clone(),
        times: ours.times,
        core: options.core,
        window: arguments.secgw_window,
    };
    let mut environment = Environment::now(options.core, options.tier.as_deref())?;
    environment.print();
    let mut figures = Vec::new();
    for cell in options.cells() {
        figures.extend(measure(cell, (&ours, &theirs), options, &mut environment));
    }
    progress::done();
    let report = Report::new(environment, figures);
    report.print(earlier.as_ref());
    print_ratios(&report);
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    report.verdict()
}

/// All programs by turns, so that a slow minute of the machine hits all of them.
fn measure(
    cell: Cell,
    (ours, theirs): (&culvert::Setup, &secgw::Setup),
    options: &Options,
    environment: &mut Environment,
) -> Vec<Figure> {
    let mut culvert = Runs::new("culvert");
    let mut peers: Vec<(Mode, Runs<(Stats, usize)>)> = Mode::ALL
        .into_iter()
        .filter(|_| Mode::can(cell))
        .map(|mode| (mode, Runs::new(mode.name())))
        .collect();
    for run in 1..=options.runs {
        progress::say(&format!("{} culvert, run {run}", cell.name()));
        culvert.push(start(cell, ours, options.keep));
        for (mode, runs) in &mut peers {
            progress::say(&format!("{} {}, run {run}", cell.name(), mode.name()));
            runs.push(peer(cell, *mode, theirs));
        }
    }
    if let Some(outcome) = culvert.good.last() {
        environment.saw(&outcome.stats);
        environment.hugepages = outcome.huge;
    }
    let mut figures = vec![culvert.figure(cell, |runs| figure(cell, runs))];
    for (mode, runs) in peers {
        figures.push(runs.figure(cell, |runs| {
            let stats: Vec<_> = runs.iter().map(|(stats, _)| stats.clone()).collect();
            let verified = runs.iter().map(|(_, frames)| frames).sum();
            Figure::new(cell.name(), mode.name(), &stats, verified)
        }));
    }
    figures
}

/// Runs of one program until the first that fails.
struct Runs<T> {
    by: &'static str,
    good: Vec<T>,
    error: Option<String>,
}

impl<T> Runs<T> {
    fn new(by: &'static str) -> Self {
        Self {
            by,
            good: Vec::new(),
            error: None,
        }
    }

    fn push(&mut self, result: Result<T>) {
        match result {
            Ok(run) => self.good.push(run),
            Err(error) => {
                self.error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn figure(self, cell: Cell, figure: impl FnOnce(&[T]) -> Figure) -> Figure {
        match self.error {
            Some(error) => Figure::failed(cell.name(), self.by, error),
            None => figure(&self.good),
        }
    }
}

fn peer(cell: Cell, mode: Mode, setup: &secgw::Setup) -> Result<(Stats, usize)> {
    interrupt::check()?;
    let dir = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir()?;
    secgw::run(cell, mode, setup, dir.path())
}

/// How many times faster than the better mode of the peer, and the bar.
fn print_ratios(report: &Report) {
    println!(
        "\n{:<30} {:>9} {:>9} {:<11} {:>7} {:>7} {:>6}   times faster than the better mode of ipsec-secgw",
        "", "culvert", "peer", "", "faster", "quiet", "bar"
    );
    for ours in report.cells.iter().filter(|figure| figure.by == "culvert") {
        let peers = Mode::ALL
            .into_iter()
            .filter_map(|mode| report.find(&ours.cell, mode.name()));
        let best = peers
            .filter_map(|figure| Some((figure.median()?, figure.by.as_str())))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let name = ours.cell.to_string();
        let (Some(net), Some((peer, by))) = (ours.median(), best) else {
            println!("{name:<30} nothing to compare");
            continue;
        };
        let times = peer / net;
        let undisturbed = quiet(report, ours).unwrap_or(f64::NAN);
        let bar = bars::find(&ours.cell, bars::has_avx512(&report.environment.flags));
        let bar = bar.map_or_else(String::new, |Bar(bar)| {
            let word = if times >= bar { "reached" } else { "missed" };
            format!("{bar:>6.1}   {word}")
        });
        println!(
            "{name:<30} {net:>9.1} {peer:>9.1} {by:<11} {times:>7.2} {undisturbed:>7.2} {bar}"
        );
    }
}

/// The same ratio of an undisturbed machine.
fn quiet(report: &Report, ours: &Figure) -> Option<f64> {
    let peers = Mode::ALL
        .into_iter()
        .filter_map(|mode| report.find(&ours.cell, mode.name())?.quiet);
    Some(peers.min_by(f64::total_cmp)? / ours.quiet?)
}

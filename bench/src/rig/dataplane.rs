//! `culvert-bench dataplane`: cycles per packet of the real process.

use std::error::Error;

use clap::Args;

use super::cell::Cell;
use super::culvert::{Bench, Outcome, Setup};
use super::environment::Environment;
use super::interrupt;
use super::options::Options;
use super::progress;
use super::report::{Figure, Report, Spread};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Also cycles per packet of each stage of the worker
    #[arg(long)]
    stages: bool,
    /// Workers and queues, on cores from --core upward: packets a second, and the ratio to one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    workers: u16,
    /// Every packet arrives at the queue of another worker than its SA's: what handing over costs
    #[arg(long)]
    elsewhere: bool,
    /// Crypto workers: packets a second, by turns with none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=16), conflicts_with = "workers")]
    crypto_workers: u16,
    /// Frames of the source, if not as many as need 120 to 400 MB
    #[arg(long)]
    frames: Option<u32>,
}

/// A start of culvert in a directory of its own, which stays if the run fails or is to be kept.
pub(crate) fn start(cell: Cell, setup: &Setup, keep: bool) -> Result<Outcome> {
    interrupt::check()?;
    let dir = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir()?;
    let outcome = Bench::new(cell, setup, dir.path()).and_then(|bench| bench.run());
    if keep {
        let kept = dir.keep();
        eprintln!("culvert-bench: kept {}", kept.display());
    }
    outcome
}

/// All runs of one cell.
pub(crate) fn measure(
    cell: Cell,
    setup: &Setup,
    options: &Options,
    environment: &mut Environment,
) -> Figure {
    let mut outcomes = Vec::new();
    for run in 1..=options.runs {
        progress::say(&format!("{} culvert, run {run}", cell.name()));
        match start(cell, setup, options.keep) {
            Ok(outcome) => {
                environment.saw(&outcome.stats);
                environment.hugepages = outcome.huge;
                outcomes.push(outcome);
            }
            Err(error) => return Figure::failed(cell.name(), "culvert", error.to_string()),
        }
    }
    figure(cell, &outcomes)
}

/// The figure of several runs.
pub(crate) fn figure(cell: Cell, outcomes: &[Outcome]) -> Figure {
    let stats: Vec<_> = outcomes.iter().map(|run| run.stats.clone()).collect();
    let verified = outcomes.iter().map(|run| run.verified).sum();
    let mut figure = Figure::new(cell.name(), "culvert", &stats, verified);
    let rate = |run: &Outcome| f64::from(run.installed.sas) / run.installed.seconds;
    figure.sas_per_second = Spread::of(outcomes.iter().map(rate)).map(|spread| spread.median);
    let names = outcomes.first().map_or(&[][..], |run| &run.stages[..]);
    for (at, (name, _)) in names.iter().enumerate() {
        let values = outcomes.iter().filter_map(|run| run.stages.get(at));
        let spread = Spread::of(values.map(|(_, cycles)| *cycles));
        if let Some(spread) = spread {
            figure.stages.insert(name.clone(), spread.median);
        }
    }
    figure
}

/// Whether this dataplane knows the key that turns its stage clock on.
fn counts_stages(options: &Options, setup: &Setup) -> bool {
    let mut setup = setup.clone();
    setup.stages = true;
    let Some(cell) = options.cells().first().copied() else {
        return false;
    };
    let known = super::culvert::accepts(cell, &setup);
    if !known {
        eprintln!("culvert-bench: this dataplane has no stage_clock: no cycles by stage");
    }
    known
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let options = &arguments.options;
    let earlier = options.against.as_deref().map(Report::read).transpose()?;
    let mut setup = options.setup()?;
    setup.stages = arguments.stages && counts_stages(options, &setup);
    setup.frames = arguments.frames;
    if arguments.elsewhere && arguments.workers < 2 {
        return Err("--elsewhere is another worker's queue: it needs --workers 2 or more".into());
    }
    let mut environment = Environment::now(options.core, options.tier.as_deref())?;
    environment.print();
    if arguments.workers > 1 {
        setup.elsewhere = arguments.elsewhere;
        return super::workers::run(options, &setup, arguments.workers, environment);
    }
    if arguments.crypto_workers > 0 {
        return super::crypto_workers::run(options, &setup, arguments.crypto_workers, environment);
    }
    let mut figures = Vec::new();
    for cell in options.cells() {
        figures.push(measure(cell, &setup, options, &mut environment));
    }
    progress::done();
    let report = Report::new(environment, figures);
    report.print(earlier.as_ref());
    if arguments.stages {
        print_stages(&report);
    }
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    report.verdict()
}

fn print_stages(report: &Report) {
    println!("\ncore cycles per packet by stage, the generator's share taken out of rx and tx");
    for figure in report.cells.iter().filter(|figure| figure.error.is_none()) {
        if figure.stages.is_empty() {
            println!(
                "{:<30} this dataplane counts no stages",
                figure.cell.to_string()
            );
            continue;
        }
        let parts: Vec<String> = figure
            .stages
            .iter()
            .map(|(name, cycles)| format!("{name} {cycles:.1}"))
            .collect();
        let sum: f64 = figure.stages.values().sum();
        println!(
            "{:<30} {} | sum {sum:.1} | net {:.1} gross {:.1}",
            figure.cell.to_string(),
            parts.join(", "),
            figure.median().unwrap_or(f64::NAN),
            figure.gross.map_or(f64::NAN, |gross| gross.median),
        );
    }
}

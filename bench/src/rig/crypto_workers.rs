//! One worker alone and with crypto workers to lend to, by turns: what counts is packets.

use std::error::Error;

use super::cell::Cell;
use super::culvert::{Outcome, Setup};
use super::dataplane::{figure, start};
use super::environment::Environment;
use super::hop;
use super::options::Options;
use super::progress;
use super::report::{Figure, Report, Spread};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Every cell, without and with so many crypto workers.
pub(crate) fn run(
    options: &Options,
    setup: &Setup,
    crypto_workers: u16,
    mut environment: Environment,
) -> Result<()> {
    let lending = Setup {
        crypto_cores: cores(options, crypto_workers)?,
        ..setup.clone()
    };
    let mut figures = Vec::new();
    println!(
        "\n{:<30} {:>9} {:>9} {:>7} {:>17} {:>7}   Mpps, the generator's work included; net is the worker's",
        "", "alone", "lending", "ratio", "net, quiet", "hop"
    );
    for cell in options.cells() {
        match by_turns(cell, [setup, &lending], options, &mut environment) {
            Ok(both) => figures.extend(both),
            Err(error) => figures.push(Figure::failed(cell.name(), "culvert", error.to_string())),
        }
    }
    progress::done();
    let report = Report::new(environment, figures);
    report.print(None);
    for pair in report.cells.chunks(2) {
        if let [alone, lending] = pair
            && let (Some(a), Some(b)) = (alone.pps, lending.pps)
            && let (Some(net), Some(left)) = (alone.median(), lending.median())
        {
            println!(
                "{:<30} {:.2} times as many packets, {:.2} times by the worker's net cycles",
                alone.cell.to_string(),
                b.median / a.median,
                net / left,
            );
        }
    }
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    report.verdict()
}

/// Cores of crypto workers: not the worker's, and the one of everything else last.
fn cores(options: &Options, crypto_workers: u16) -> Result<Vec<usize>> {
    let cpus = std::thread::available_parallelism()?.get();
    let mut cores: Vec<usize> = (0..cpus).filter(|core| *core != options.core).collect();
    cores.sort_by_key(|core| *core == options.control_core);
    cores.truncate(crypto_workers.into());
    if cores.len() < usize::from(crypto_workers) {
        return Err(format!(
            "{crypto_workers} crypto workers and a worker: there are {cpus} cores"
        )
        .into());
    }
    Ok(cores)
}

/// All runs of a cell, each without and with crypto workers, and how far those were meanwhile.
fn by_turns(
    cell: Cell,
    setups: [&Setup; 2],
    options: &Options,
    environment: &mut Environment,
) -> Result<[Figure; 2]> {
    let (mut alone, mut lending, mut hops) = (Vec::new(), Vec::new(), Vec::new());
    let near = setups[1].crypto_cores.first().copied().unwrap_or_default();
    for run in 1..=options.runs {
        progress::say(&format!("{} run {run}", cell.name()));
        alone.push(start(cell, setups[0], options.keep)?);
        // Where a virtual machine's cores are changes at any time.
        let before = hop::nanoseconds([options.core, near]);
        lending.push(start(cell, setups[1], options.keep)?);
        let after = hop::nanoseconds([options.core, near]);
        hops.extend([before, after].into_iter().flatten());
        if let (Some(a), Some(b)) = (alone.last(), lending.last()) {
            environment.saw(&b.stats);
            environment.hugepages = b.huge;
            progress::done();
            println!("{}", line(cell, [a, b], [before, after], environment));
        }
    }
    let mut figures = [figure(cell, &alone), figure(cell, &lending)];
    let crypto_workers = setups[1].crypto_cores.len();
    figures[1].by = format!("culvert +{crypto_workers}");
    figures[1].hop_ns = Spread::of(hops);
    Ok(figures)
}

/// One turn: the hop in TSC cycles, before and behind the start with crypto workers.
fn line(
    cell: Cell,
    [alone, lending]: [&Outcome; 2],
    hops: [Option<f64>; 2],
    environment: &Environment,
) -> String {
    let tsc_ghz = environment.core_ghz / environment.core_per_tsc;
    let [before, after] = hops.map(|ns| ns.unwrap_or(f64::NAN) * tsc_ghz);
    let (a, b) = (&alone.stats, &lending.stats);
    format!(
        "{:<30} {:>9.3} {:>9.3} {:>7.2} {:>17} {:>7}",
        cell.name().to_string(),
        a.tx_pps / 1e6,
        b.tx_pps / 1e6,
        b.tx_pps / a.tx_pps,
        format!("{:.0} / {:.0}", a.net_p10, b.net_p10),
        format!("{before:.0}/{after:.0}"),
    )
}

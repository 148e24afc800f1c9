//! `culvert-bench latency`: from when a packet should have departed to when it was transmitted.
//!
//! Departures follow a schedule that does not wait for the gateway, so one that stands still for a
//! moment pays for every packet that was due meanwhile.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::cell::{Cell, CellName};
use super::culvert::{Outcome, Setup};
use super::dataplane::start;
use super::environment::Environment;
use super::options::Options;
use super::progress;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Digits of a latency that count.
const DIGITS: u8 = 3;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Loads in percent of the measured maximum
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10,50,75,90,95",
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    loads: Vec<u8>,
    /// What a worker without packets does
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "busy,adaptive"
    )]
    idle: Vec<Idle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Idle {
    /// Polls without a pause
    Busy,
    /// Sleeps, 50 microseconds at most
    Adaptive,
}

/// One line of the table; times in nanoseconds.
#[derive(Serialize)]
struct Row {
    cell: CellName,
    idle: Idle,
    load_percent: u8,
    offered_pps: f64,
    /// Packets that departed and came out.
    recorded: u64,
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Serialize)]
struct LatencyReport<'a> {
    schema: u32,
    command: String,
    environment: &'a Environment,
    rows: &'a [Row],
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let options = &arguments.options;
    let setup = options.setup()?;
    let mut environment = Environment::now(options.core, options.tier.as_deref())?;
    environment.print();
    println!(
        "\n{:<30} {:<8} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "latency in microseconds", "idle", "load", "Mpps", "p50", "p99", "p99.9", "max", "packets"
    );
    let mut rows = Vec::new();
    for cell in options.cells() {
        progress::say(&format!("{} the maximum", cell.name()));
        let most = start(cell, &setup, options.keep)?;
        environment.saw(&most.stats);
        environment.hugepages = most.huge;
        for idle in &arguments.idle {
            for load in &arguments.loads {
                let pps = most.stats.tx_pps * f64::from(*load) / 100.0;
                progress::say(&format!("{} {load} %", cell.name()));
                let row = measure(cell, &setup, (*idle, *load, pps), options)
                    .map_err(|error| format!("{} at {load} %: {error}", cell.name()))?;
                progress::done();
                print(&row);
                rows.push(row);
            }
        }
    }
    if let Some(path) = &options.json {
        write(path, &environment, &rows)?;
    }
    Ok(())
}

/// One load, all runs of it together.
fn measure(
    cell: Cell,
    setup: &Setup,
    (idle, load_percent, pps): (Idle, u8, f64),
    options: &Options,
) -> Result<Row> {
    let mut setup = setup.clone();
    setup.busy = idle == Idle::Busy;
    setup.pace = Some(pps);
    let mut histogram = Histogram::<u64>::new(DIGITS)?;
    for _ in 0..options.runs {
        add(&mut histogram, &start(cell, &setup, options.keep)?)?;
    }
    if histogram.is_empty() {
        return Err("no packet came out".into());
    }
    Ok(Row {
        cell: cell.name(),
        idle,
        load_percent,
        offered_pps: pps,
        recorded: histogram.len(),
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
    })
}

fn add(histogram: &mut Histogram<u64>, outcome: &Outcome) -> Result<()> {
    for (ns, count) in &outcome.latency {
        histogram.record_n(*ns, *count)?;
    }
    Ok(())
}

fn print(row: &Row) {
    let us = |ns: u64| ns as f64 / 1e3;
    let idle = match row.idle {
        Idle::Busy => "busy",
        Idle::Adaptive => "adaptive",
    };
    println!(
        "{:<30} {idle:<8} {:>4}% {:>9.3} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>10}",
        row.cell.to_string(),
        row.load_percent,
        row.offered_pps / 1e6,
        us(row.p50),
        us(row.p99),
        us(row.p999),
        us(row.max),
        row.recorded,
    );
}

fn write(path: &PathBuf, environment: &Environment, rows: &[Row]) -> Result<()> {
    let report = LatencyReport {
        schema: super::report::SCHEMA,
        command: super::report::command(),
        environment,
        rows,
    };
    fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

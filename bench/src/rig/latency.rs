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
use super::culvert::Setup;
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
    all: Quantiles,
    /// Without times in which the machine had taken the worker's core away.
    quiet: Quantiles,
}

/// Nanoseconds.
#[derive(Clone, Copy, Serialize)]
struct Quantiles {
    /// Packets that departed and came out.
    packets: u64,
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            packets: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
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
        "\n{:<30} {:<8} {:>5} {:>7} {:>9} {:>9} {:>9} {:>9} | {:>6} {:>8} {:>8} {:>8} {:>8}",
        "latency in microseconds",
        "idle",
        "load",
        "Mpps",
        "p50",
        "p99",
        "p99.9",
        "max",
        "quiet",
        "p50",
        "p99",
        "p99.9",
        "max"
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
    let mut all = Histogram::<u64>::new(DIGITS)?;
    let mut quiet = Histogram::<u64>::new(DIGITS)?;
    for _ in 0..options.runs {
        for latency in start(cell, &setup, options.keep)?.latency {
            all.record_n(latency.ns, latency.count)?;
            quiet.record_n(latency.ns, latency.quiet)?;
        }
    }
    if all.is_empty() {
        return Err("no packet came out".into());
    }
    Ok(Row {
        cell: cell.name(),
        idle,
        load_percent,
        offered_pps: pps,
        all: Quantiles::of(&all),
        quiet: Quantiles::of(&quiet),
    })
}

fn print(row: &Row) {
    let us = |ns: u64| ns as f64 / 1e3;
    let idle = match row.idle {
        Idle::Busy => "busy",
        Idle::Adaptive => "adaptive",
    };
    let Row { all, quiet, .. } = row;
    println!(
        "{:<30} {idle:<8} {:>4}% {:>7.3} {:>9.1} {:>9.1} {:>9.1} {:>9.1} | \
         {:>5.0}% {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
        row.cell.to_string(),
        row.load_percent,
        row.offered_pps / 1e6,
        us(all.p50),
        us(all.p99),
        us(all.p999),
        us(all.max),
        quiet.packets as f64 * 100.0 / all.packets as f64,
        us(quiet.p50),
        us(quiet.p99),
        us(quiet.p999),
        us(quiet.max),
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

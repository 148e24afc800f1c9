//! Several workers with a queue each: what counts is packets, not cycles.

use std::error::Error;

use super::culvert::Setup;
use super::dataplane::measure;
use super::environment::Environment;
use super::options::Options;
use super::progress;
use super::report::{Figure, Report};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Every cell with one worker and with `workers`; prints packets a second and their ratio. If packets
/// are to arrive elsewhere, it is `workers` both times, first with packets that arrive at home.
pub(crate) fn run(
    options: &Options,
    setup: &Setup,
    workers: u16,
    mut environment: Environment,
) -> Result<()> {
    let many = Setup {
        cores: cores(options, workers)?,
        ..setup.clone()
    };
    let (base, names) = if setup.elsewhere {
        let home = Setup {
            elsewhere: false,
            ..many.clone()
        };
        (home, ["at home".to_owned(), "elsewhere".to_owned()])
    } else {
        let names = ["1 worker".to_owned(), format!("{workers} workers")];
        (setup.clone(), names)
    };
    let mut figures = Vec::new();
    for cell in options.cells() {
        if cell.sas < u32::from(workers) {
            println!("{}: fewer SAs than workers, left out", cell.name());
            continue;
        }
        let mut first = measure(cell, &base, options, &mut environment);
        if setup.elsewhere {
            first.by = format!("culvert x{workers}");
        }
        let mut second = measure(cell, &many, options, &mut environment);
        let mark = if setup.elsewhere { " elsewhere" } else { "" };
        second.by = format!("culvert x{workers}{mark}");
        figures.extend([first, second]);
    }
    progress::done();
    print(&figures, &names);
    let report = Report::new(environment, figures);
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    report.verdict()
}

fn cores(options: &Options, workers: u16) -> Result<Vec<usize>> {
    let mut cores: Vec<usize> = (options.core..).take(usize::from(workers)).collect();
    let cpus = std::thread::available_parallelism()?.get();
    if options.core + usize::from(workers) > cpus {
        // Two cores in all: the control thread shares one.
        cores = (0..cpus).take(usize::from(workers)).collect();
    }
    if cores.len() < usize::from(workers) {
        return Err(format!("{workers} workers need as many cores, there are {cpus}").into());
    }
    Ok(cores)
}

fn print(figures: &[Figure], [first, second]: &[String; 2]) {
    println!(
        "\n{:<30} {first:>12} {second:>14} {:>7} {:>9}   Mpps, the generator's work included",
        "", "ratio", "not sent"
    );
    for pair in figures.chunks(2) {
        let [one, many] = pair else { continue };
        let name = one.cell.to_string();
        match (one.pps, many.pps) {
            (Some(a), Some(b)) => println!(
                "{name:<30} {:>12.2} {:>14.2} {:>7.2} {:>8.1}%",
                a.median / 1e6,
                b.median / 1e6,
                b.median / a.median,
                many.lost.unwrap_or_default() * 100.0,
            ),
            _ => println!(
                "{name:<30} {}",
                one.error
                    .as_ref()
                    .or(many.error.as_ref())
                    .map_or("no run", String::as_str)
            ),
        }
    }
}

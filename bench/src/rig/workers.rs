//! Several workers with a queue each: what counts is packets, not cycles.

use std::error::Error;

use super::culvert::Setup;
use super::dataplane::measure;
use super::environment::Environment;
use super::options::Options;
use super::progress;
use super::report::Report;

/// Every cell with one worker and with `workers`; prints packets a second and their ratio.
pub(crate) fn run(
    options: &Options,
    setup: &Setup,
    workers: u16,
    mut environment: Environment,
) -> Result<(), Box<dyn Error>> {
    let one = setup.clone();
    let mut many = setup.clone();
    many.cores = (options.core..).take(usize::from(workers)).collect();
    let cpus = std::thread::available_parallelism()?.get();
    if options.core + usize::from(workers) > cpus {
        // Two cores in all: the control thread shares one.
        many.cores = (0..cpus).take(usize::from(workers)).collect();
    }
    if many.cores.len() < usize::from(workers) {
        return Err(format!("{workers} workers need as many cores, there are {cpus}").into());
    }
    let mut figures = Vec::new();
    for cell in options.cells() {
        if cell.sas < u32::from(workers) {
            println!("{}: fewer SAs than workers, left out", cell.name());
            continue;
        }
        let single = measure(cell, &one, options, &mut environment);
        let mut several = measure(cell, &many, options, &mut environment);
        several.by = format!("culvert x{workers}");
        figures.extend([single, several]);
    }
    progress::done();
    println!(
        "\n{:<30} {:>12} {:>14} {:>7}   Mpps, the generator's work included",
        "",
        "1 worker",
        format!("{workers} workers"),
        "ratio"
    );
    for pair in figures.chunks(2) {
        let [single, several] = pair else { continue };
        let name = single.cell.to_string();
        match (single.pps, several.pps) {
            (Some(one), Some(many)) => println!(
                "{name:<30} {:>12.2} {:>14.2} {:>7.2}",
                one.median / 1e6,
                many.median / 1e6,
                many.median / one.median
            ),
            _ => println!(
                "{name:<30} {}",
                single
                    .error
                    .as_ref()
                    .or(several.error.as_ref())
                    .map_or("no run", String::as_str)
            ),
        }
    }
    let report = Report::new(environment, figures);
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    report.verdict()
}

//! Random and mutated frames and IKE messages, a bounded number of them.

pub(crate) mod dataplane;
mod ike;
mod mutate;
pub(crate) mod packet;
pub(crate) mod pcap;
pub(crate) mod site;
pub(crate) mod traffic;
pub(crate) mod tunnel;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

#[derive(Args)]
pub(crate) struct Options {
    /// Frames for the dataplane; 0 leaves it out
    #[arg(long, default_value_t = 10_000_000)]
    frames: u64,
    /// Messages for the IKE parser and endpoint; 0 leaves them out
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// The same seed gives the same frames and messages; drawn and printed if not given
    #[arg(long)]
    seed: Option<u64>,
    /// The binary of the dataplane, if it is not beside this one
    #[arg(long)]
    dataplane: Option<PathBuf>,
}

/// Runs both parts and prints what became of the frames and messages.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("soak: seed {seed}");
    if options.frames > 0 {
        frames(options, seed).map_err(|error| format!("seed {seed}: {error}"))?;
    }
    if options.messages > 0 {
        ike::run(options.messages, seed).map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(())
}

fn frames(options: &Options, seed: u64) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let binary = options
        .dataplane
        .clone()
        .map_or_else(dataplane::default_binary, Ok)?;
    let dir = tempfile::Builder::new().prefix("culvert-soak-").tempdir()?;
    let report = match dataplane::run(options.frames, seed, &binary, dir.path()) {
        Ok(report) => report,
        Err(error) => {
            // Captures, configuration and log reproduce it.
            let kept = dir.keep();
            return Err(format!("{error}\nkept for a look: {}", kept.display()).into());
        }
    };
    for ((is_drop, name), value) in report.counters.iter().filter(|(_, value)| **value > 0) {
        println!(
            "{:9} {name:24} {value:>12}",
            if *is_drop { "dropped" } else { "" }
        );
    }
    println!(
        "soak: {} frames in {} starts, {:.1} s: no crash; \
         rx + injected + generated = tx + punted + held + drops",
        report.frames,
        report.rounds,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

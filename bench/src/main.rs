//! `culvert-bench`: measures the libraries and the real binaries.
#![forbid(unsafe_code)]

mod measure;
mod numbered;
mod pair;
mod rig;
mod soak;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The short benchmarks, under five minutes
    All(measure::Options),
    /// Cycles per packet of the real dataplane between ports that cost nothing; needs root
    Dataplane(rig::dataplane::Arguments),
    /// Time in the real dataplane by load, departures by a schedule; needs root
    Latency(rig::latency::Arguments),
    /// The contract's rings, and SAs a second into the real dataplane; needs root
    Control(rig::control::Options),
    /// AES-GCM of the crypto crate beside others
    Crypto(measure::PartOptions),
    /// `dataplane` beside DPDK's ipsec-secgw, which is built from Debian's source
    Compare(rig::compare::Arguments),
    /// Numbered UDP both ways at a steady rate; prints what was sent and what arrived
    Numbered(numbered::Options),
    /// Random and mutated frames and IKE messages: nothing may crash, every packet is accounted for
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::All(options) => measure::run(&options),
        Command::Dataplane(arguments) => rig::dataplane::run(&arguments),
        Command::Latency(arguments) => rig::latency::run(&arguments),
        Command::Control(options) => measure::run_control(&options),
        Command::Crypto(options) => measure::run_crypto(&options),
        Command::Compare(arguments) => rig::compare::run(&arguments),
        Command::Numbered(options) => numbered::run(&options),
        Command::Soak(options) => soak::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

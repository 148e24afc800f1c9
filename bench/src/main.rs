//! `culvert-bench`: measures the libraries and the real binaries.
#![forbid(unsafe_code)]

mod measure;
mod numbered;
mod pair;
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
    /// Numbered UDP both ways at a steady rate; prints what was sent and what arrived
    Numbered(numbered::Options),
    /// Random and mutated frames and IKE messages: nothing may crash, every packet is accounted for
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::All(options) => measure::run(&options),
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

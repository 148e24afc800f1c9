//! culvert-dataplane: the packet process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use culvert_dataplane::process::{self, Arguments};

fn main() -> ExitCode {
    match process::run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-dataplane: {error}");
            ExitCode::FAILURE
        }
    }
}

//! `culvert`: the operator's command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_controlplane::cli::main()
}

//! `culvert-ike`: the IKE process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_controlplane::process::main()
}

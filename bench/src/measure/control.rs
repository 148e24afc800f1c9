//! The contract into the real dataplane: SAs a second, and the way of one command there and back.

use std::error::Error;

use super::contract;
use super::table::Section;
use crate::rig::control::{Options, install};

/// The rings between two threads, then the real process with each number of SAs.
pub(super) fn sections(options: &Options) -> Result<Vec<Section>, Box<dyn Error>> {
    let runs = usize::from(options.runs);
    let mut section = Section::new("SAs into the real culvert-dataplane, over the contract", "");
    section.command = crate::rig::command();
    for sas in &options.sas {
        let mut rates = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            let installed = install(options, *sas)?;
            rates.0.push(f64::from(installed.sas) / installed.seconds);
            rates.1.push(installed.commands as f64 / installed.seconds);
            rates.2.push(installed.commit_seconds * 1e3);
            rates.3.push(installed.round_trip_ns);
        }
        let name = |what: &str| format!("{sas} tunnels: {what}");
        section.push(name("SAs, committed"), "culvert", "per second", rates.0);
        section.push(
            name("commands, completed"),
            "culvert",
            "per second",
            rates.1,
        );
        section.push(name("commit, part of that"), "culvert", "ms", rates.2);
        section.push(name("round trip, median"), "culvert", "ns", rates.3);
    }
    Ok(vec![contract::run(runs)?, section])
}

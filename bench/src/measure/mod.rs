//! The short benchmarks: libraries in this process, and the real dataplane on software ports.

mod clock;
mod contract;
mod control;
mod crypto;
mod forward;
mod handshake;
mod key_exchange;
mod table;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use table::Section;

#[derive(Args)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Runs of each cell; the table has their median and their ends
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(5..))]
    runs: u8,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// AES-GCM of the crypto crate beside `aes-gcm` and `ring`
    Crypto,
    /// Key exchange methods
    Ke,
    /// Whole IKE handshakes in memory
    Handshake,
    /// The rings between the processes
    Contract,
    /// The real dataplane between software ports; needs root and network namespaces
    Forward,
}

/// What a command that measures one part is told.
#[derive(Args)]
pub(crate) struct PartOptions {
    /// Runs of each cell; the table has their median and their ends
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// `culvert-bench crypto`.
pub(crate) fn run_crypto(options: &PartOptions) -> Result<(), Box<dyn Error>> {
    let sections = || Ok(vec![crypto::run(usize::from(options.runs))?]);
    report(options.json.as_deref(), sections)
}

/// `culvert-bench control`.
pub(crate) fn run_control(options: &crate::rig::control::Options) -> Result<(), Box<dyn Error>> {
    report(options.json.as_deref(), || control::sections(options))
}

/// Prints the sections and writes them.
fn report(
    json: Option<&Path>,
    sections: impl FnOnce() -> Result<Vec<Section>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let cpu = cpu_model();
    let ghz = clock::cycles_per_ns();
    println!("{cpu}, {ghz:.2} GHz now, crypto tier {}", ::crypto::tier());
    let sections = sections()?;
    for section in &sections {
        section.print();
    }
    if let Some(file) = json {
        let tier = ::crypto::tier().name();
        let all = json!({ "cpu": cpu, "ghz": ghz, "crypto_tier": tier, "sections": sections });
        fs::write(file, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// Measures, prints the table and writes the JSON.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if cfg!(debug_assertions) {
        eprintln!("culvert-bench: a debug build measures nothing of use: cargo run --release");
    }
    let cpu = cpu_model();
    let ghz = clock::cycles_per_ns();
    println!("{cpu}, {ghz:.2} GHz now, crypto tier {}", ::crypto::tier());
    let mut sections = Vec::new();
    for part in Part::value_variants() {
        if options.only.is_empty() || options.only.contains(part) {
            let section = measure(*part, usize::from(options.runs))?;
            section.print();
            sections.push(section);
        }
    }
    if let Some(file) = &options.json {
        let tier = ::crypto::tier().name();
        let all = json!({ "cpu": cpu, "ghz": ghz, "crypto_tier": tier, "sections": sections });
        fs::write(file, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

fn measure(part: Part, runs: usize) -> Result<Section, Box<dyn Error>> {
    match part {
        Part::Crypto => crypto::run(runs),
        Part::Ke => key_exchange::run(runs),
        Part::Handshake => handshake::run(runs),
        Part::Contract => contract::run(runs),
        Part::Forward => forward::run(runs),
    }
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = line
        .and_then(|line| line.split_once(": "))
        .map(|(_, name)| name.trim());
    name.unwrap_or("unknown CPU").to_owned()
}

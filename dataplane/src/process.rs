//! The process from its command line to its end.

use clap::Parser;
use std::error::Error;
use std::path::PathBuf;

use api::config::{self, LogLevel};

use crate::control;

/// Forwards packets, encrypts and decrypts them (RFC 4301). IKE is culvert-ike's part.
///
/// SIGTERM and SIGINT stop it. Its taps, and the rules that keep the kernel from forwarding packets
/// around IPsec, stay: until it runs again nothing passes. `--release` gives devices, addresses and
/// routes back to the kernel.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// Configuration file; its section [dataplane] counts.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/culvert/culvert.toml"
    )]
    config: PathBuf,
    /// Check the configuration, print its faults and do nothing else.
    #[arg(long)]
    check: bool,
    /// Put back what a stopped dataplane took over: addresses, routes, settings; remove its twins
    /// and rules. After that the kernel forwards packets in clear.
    #[arg(long, conflicts_with = "check")]
    release: bool,
    /// How much to log, instead of the configuration's.
    #[arg(long, value_name = "LEVEL")]
    log: Option<log::LevelFilter>,
}

/// Does what the command line says; returns when the process is to end.
///
/// # Errors
/// What to print before a non-zero exit.
pub fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (config, warnings) =
        config::load_dataplane(&arguments.config).map_err(|faults| faults.to_string())?;
    start_log(arguments.log.unwrap_or_else(|| level(config.log)));
    if !warnings.is_empty() {
        log::warn!("{warnings}");
    }
    if arguments.check {
        return Ok(());
    }
    if arguments.release {
        return control::release::release(&config);
    }
    control::run::run(&config)
}

fn level(configured: LogLevel) -> log::LevelFilter {
    match configured {
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warn => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Trace => log::LevelFilter::Trace,
    }
}

/// Logs to standard error, where systemd and containers look.
fn start_log(level: log::LevelFilter) {
    // A second call in one process changes nothing, which is what tests want.
    let _ = env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("culvert_dataplane", level)
        .format_target(false)
        .try_init();
}

/// Takes DPDK's messages into the log.
pub(crate) fn log_dpdk(level: dpdk::LogLevel, message: &str) {
    match level {
        dpdk::LogLevel::Error => log::error!("dpdk: {message}"),
        dpdk::LogLevel::Warning => log::warn!("dpdk: {message}"),
        dpdk::LogLevel::Info => log::info!("dpdk: {message}"),
    }
}

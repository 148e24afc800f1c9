//! The process `culvert-ike` from its arguments to its end.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use api::config::LogLevel;
use clap::Parser;
use ike::Endpoint;
use tracing_subscriber::EnvFilter;

use crate::admin::IKE_SOCKET;
use crate::admin_server;
use crate::book::Book;
use crate::config::{self, Config};
use crate::daemon::{Daemon, End, Signals};
use crate::host::Services;
use crate::link::Link;
use crate::order::Sequencer;
use crate::routes::Routes;
use crate::sockets::IkeSockets;
use crate::store::Store;

/// The contract's socket in the run directory.
const CONTRACT_SOCKET: &str = "dataplane.sock";
const FAULTS: u8 = 2;

/// The IKE process of a culvert gateway.
#[derive(Parser)]
#[command(name = "culvert-ike", version, about)]
struct Arguments {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/culvert/culvert.toml")]
    config: PathBuf,
    /// What to log, as `error`, `warn`, `info`, `debug`, or a filter by module.
    #[arg(long)]
    log: Option<String>,
}

/// The whole process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load(&arguments.config) {
        Ok((config, warnings)) => {
            eprint!("{warnings}");
            config
        }
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(FAULTS);
        }
    };
    start_log(arguments.log.as_deref(), &config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(run(arguments.config, config))) {
        Ok(End::Shutdown | End::Handover) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(asked: Option<&str>, config: &Config) {
    let filter = asked.map_or_else(|| word(config.daemon.log).to_owned(), str::to_owned);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
}

const fn word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

async fn run(config_path: PathBuf, config: Config) -> io::Result<End> {
    let run_dir = config.dataplane.run_dir.clone();
    let mut signals = Signals::listen()?;
    let mut daemon = assemble(config_path, config, &run_dir)?;
    tracing::info!("culvert-ike {} is up", env!("CARGO_PKG_VERSION"));
    if let Some(end) = daemon.await_dataplane(&mut signals).await {
        return Ok(end);
    }
    let socket = run_dir.join(IKE_SOCKET);
    let calls = admin_server::listen(&socket)?;
    let end = daemon.run(calls, signals).await;
    let _ = std::fs::remove_file(socket);
    Ok(end)
}

fn assemble(config_path: PathBuf, config: Config, run_dir: &Path) -> io::Result<Daemon> {
    let store = Store::open(&config.daemon.key_file)?;
    let settings = config.settings.clone();
    let sockets = IkeSockets::bind(settings.port, settings.port_nat_t)?;
    let twins = config
        .dataplane
        .ports
        .iter()
        .filter_map(|port| port.twin.clone())
        .collect();
    Ok(Daemon {
        endpoint: Endpoint::new(settings),
        host: Services::new(),
        book: Book::default(),
        link: Link::new(run_dir.join(CONTRACT_SOCKET)),
        sequencer: Sequencer::new(),
        sockets,
        routes: Routes::start(twins)?,
        store,
        pending: HashMap::new(),
        last_request: 0,
        config_path,
        config,
        started: Instant::now(),
        end: None,
        farewell: None,
        attached: false,
    })
}

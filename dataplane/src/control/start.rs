//! Bringing the process up, in an order in which nothing passes before policies say so: ports,
//! rules against the kernel's forwarding, twins, tables, and workers last.

use dpdk::{Eal, EalOptions, HugePages, Mempool, Queues};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use api::config::{CryptoTier, DataplaneConfig, HugePages as ConfiguredHuge, Idle};
use api::id::{Geometry, Vrf};
use api::region::StateSizes;
use api::shm::Pages;
use api::side::DataplaneSide;

use super::admin::Admin;
use super::contract::Contract;
use super::exceptions::{Exceptions, Twin};
use super::mirror::Mirror;
use super::netlink::Netlink;
use super::ports::{self, OpenPort};
use super::run::Control;
use super::sequences::Sequences;
use super::statics;
use super::workers::{self, Cores, Workers};
use crate::lending::{self, CryptoWorker};
use crate::links::{self, WorkerLinks};
use crate::port::{PortIndex, PortInfo};
use crate::process;
use crate::state::State;
use crate::tables::fib::Neighbours;
use crate::tables::writer::TablesWriter;
use crate::worker::WorkerParts;

/// Replay window that the state region has room for in every row, in packets; IKE's default.
const WINDOW_BITS: u32 = 4096;
/// Room for windows at least, in units of 64 bytes: what is not used takes no memory.
const WINDOW_UNITS_MIN: u32 = 1 << 16;

/// Ports, with the queues that workers get.
type Opened = (Vec<OpenPort>, Vec<(PortIndex, Queues)>);

/// Starts everything; the caller runs the loop.
pub(super) fn start(
    config: &DataplaneConfig,
) -> Result<(Control<'_>, Admin, Workers), Box<dyn Error>> {
    let cores = workers::cores(&config.workers, &config.crypto_workers)?;
    let sequences = Sequences::open(&config.state_dir, &statics::rows(config))?;
    let eal = start_eal(config)?;
    crypto::init(config.crypto_tier.map(crypto_tier))
        .map_err(|error| format!("\"dataplane.crypto_tier\": {error}"))?;
    let mut netlink = Netlink::open()?;
    let pool = ports::pool(&eal, &mut netlink, config)?;
    let (ports, queues) = open_ports(&eal, &mut netlink, config, cores.workers.len(), pool)?;
    let twins = make_twins(&mut netlink, config, &ports)?;
    let (side, state, writer) = make_tables(config, &cores, &sequences)?;

    let (control_links, worker_links) = links::connect(cores.workers.len())?;
    let hands = workers::deal(queues, cores.workers.len());
    let parts = worker_parts(config, &ports, (&writer, &state), hands, worker_links);
    let (parts, crypto_workers) = lend(config, &writer, parts, cores.crypto.len());
    let admin = Admin::listen(&config.run_dir, Arc::clone(&control_links.bell))?;
    let now = Instant::now();
    let vrf = |twin: &Twin| {
        ports
            .get(twin.port.index())
            .map_or(Vrf(0), |port| port.info.vrf)
    };
    let indices = twins
        .iter()
        .map(|twin| (twin.tap.index(), (twin.port, vrf(twin))));
    let mirror = Mirror::open(indices.collect::<HashMap<_, _>>(), now)?;
    let mut control = Control {
        config,
        started: now,
        hugepages: eal.has_huge_pages(),
        cores,
        crypto_times: crypto_workers
            .iter()
            .map(|worker| Arc::clone(&worker.time))
            .collect(),
        ports,
        state,
        writer,
        exceptions: Exceptions::new(control_links, twins, pool),
        mirror,
        contract: Contract::listen(&config.run_dir, side)?,
        routes: Vec::new(),
        locals: Vec::new(),
        neighbours: Neighbours::default(),
        sequences,
        ports_seen: now,
    };
    control.mirror_kernel(now)?;
    control.sequences.begin()?;
    let workers = match Workers::start(parts, crypto_workers, &control.cores) {
        Ok(workers) => workers,
        Err(error) => {
            control.stop_sequences()?;
            return Err(error.into());
        }
    };
    log::info!(
        "{} ports, {} workers, {} crypto workers: running",
        control.ports.len(),
        control.cores.workers.len(),
        control.cores.crypto.len()
    );
    Ok((control, admin, workers))
}

/// The crypto crate's name of what the configuration asks for.
fn crypto_tier(tier: CryptoTier) -> crypto::Tier {
    match tier {
        CryptoTier::Avx512Karatsuba => crypto::Tier::Avx512Karatsuba,
        CryptoTier::Avx512 => crypto::Tier::Avx512,
        CryptoTier::Avx2 => crypto::Tier::Avx2,
        CryptoTier::AesNi => crypto::Tier::AesNi,
        CryptoTier::Portable => crypto::Tier::Portable,
    }
}

/// Attaches all ports; one that cannot be ends the start before anything else is touched.
fn open_ports(
    eal: &Eal,
    netlink: &mut Netlink,
    config: &DataplaneConfig,
    workers: usize,
    pool: Mempool,
) -> Result<Opened, Box<dyn Error>> {
    let workers = u16::try_from(workers)?;
    let (mut open, mut queues) = (Vec::new(), Vec::new());
    for (index, port) in config.ports.iter().enumerate() {
        let index = PortIndex::new(index).ok_or("too many ports")?;
        let place = (index, port);
        let (port, hand) = ports::open(eal, netlink, place, workers, pool, &config.run_dir)?;
        open.push(port);
        queues.push((index, hand));
    }
    Ok((open, queues))
}

/// Keeps the kernel from forwarding, then makes the twins.
fn make_twins(
    netlink: &mut Netlink,
    config: &DataplaneConfig,
    open: &[OpenPort],
) -> Result<Vec<Twin>, Box<dyn Error>> {
    let mut twins = Vec::new();
    for port in &config.ports {
        ports::guard(port).map_err(|error| format!("port \"{}\": {error}", port.name))?;
    }
    for (port, open) in config.ports.iter().zip(open) {
        twins.extend(ports::make_twin(
            netlink,
            &config.run_dir,
            port,
            &open.info,
        )?);
    }
    Ok(twins)
}

/// The state region, and tables with what the configuration puts into them.
fn make_tables(
    config: &DataplaneConfig,
    cores: &Cores,
    sequences: &Sequences,
) -> Result<(DataplaneSide, Arc<State>, TablesWriter), Box<dyn Error>> {
    let static_rows = u32::try_from(statics::rows(config).len())?;
    let (workers, crypto_workers) = (cores.workers.len(), cores.crypto.len());
    let worker_count = u32::try_from(workers)?;
    let geometry = Geometry::new(config.max_sas, worker_count, static_rows)?;
    let mut sizes = StateSizes::new(geometry, worker_count, WINDOW_BITS);
    sizes.window_units = sizes.window_units.max(WINDOW_UNITS_MIN);
    // Behind packet memory, which must have them first.
    if config.huge != ConfiguredHuge::Never {
        sizes.pages = Pages::Huge;
    }
    let side = DataplaneSide::create(&sizes)?;
    let state = Arc::new(State::new(side.states().clone()));
    let (workers, crypto_workers) = (u8::try_from(workers)?, u8::try_from(crypto_workers)?);
    let mut writer = TablesWriter::new(geometry, workers, crypto_workers, Arc::clone(&state));
    statics::install(&mut writer, config, |id| sequences.start(id))?;
    writer.publish();
    Ok((side, state, writer))
}

fn worker_parts(
    config: &DataplaneConfig,
    ports: &[OpenPort],
    (writer, state): (&TablesWriter, &Arc<State>),
    hands: Vec<Vec<crate::worker::PortQueues>>,
    links: Vec<WorkerLinks>,
) -> Vec<WorkerParts> {
    let infos: Arc<[PortInfo]> = ports.iter().map(|port| port.info.clone()).collect();
    let parts = hands.into_iter().zip(links).enumerate();
    let parts = parts.map(|(index, (queues, links))| WorkerParts {
        index,
        tables: Arc::clone(writer.tables()),
        state: Arc::clone(state),
        ports: Arc::clone(&infos),
        queues,
        links,
        lender: None,
        limits: config.exception_limits,
        max_latency_us: max_latency_us(config),
        stage_clock: config.stage_clock,
    });
    parts.collect()
}

/// Crypto workers, and workers that know them.
fn lend(
    config: &DataplaneConfig,
    writer: &TablesWriter,
    mut parts: Vec<WorkerParts>,
    crypto_workers: usize,
) -> (Vec<WorkerParts>, Vec<CryptoWorker>) {
    let (lenders, borrowers) = lending::connect(parts.len(), crypto_workers);
    let workers = parts.len();
    for (parts, lender) in parts.iter_mut().zip(lenders) {
        parts.lender = Some(lender);
    }
    let borrowers = borrowers.into_iter().enumerate();
    let crypto_workers = borrowers.map(|(number, borrower)| CryptoWorker {
        index: workers + number,
        tables: Arc::clone(writer.tables()),
        borrower,
        max_latency_us: max_latency_us(config),
        time: Arc::default(),
    });
    (parts, crypto_workers.collect())
}

const fn max_latency_us(config: &DataplaneConfig) -> u32 {
    match config.idle {
        Idle::Busy => 0,
        Idle::Adaptive { max_latency_us } => max_latency_us,
    }
}

fn start_eal(config: &DataplaneConfig) -> Result<Eal, Box<dyn Error>> {
    let options = EalOptions {
        memory_mib: config.memory_mib,
        huge_pages: match config.huge {
            ConfiguredHuge::Auto => HugePages::Auto,
            ConfiguredHuge::Require => HugePages::Required,
            ConfiguredHuge::Never => HugePages::Never,
        },
        plugins: config.plugins.clone(),
        log: process::log_dpdk,
        ..EalOptions::default()
    };
    let devices = config.ports.iter().map(|port| port.device.as_str());
    let eal = Eal::init(&options.with_devices(devices))?;
    if let Some(warning) = eal.warning() {
        log::warn!("{warning}");
    }
    Ok(eal)
}

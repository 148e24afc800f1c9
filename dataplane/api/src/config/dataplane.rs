//! The `[dataplane]` section: typed, complete and checked.

use std::path::{Path, PathBuf};

use super::fault::hint;
use super::ports::{self, Port};
use super::reader::{Conversion, Table};
use super::statics::{self, StaticPolicy, StaticSa};
use super::values::{absolute, boolean, choice, number, text};

pub const RUN_DIR_DEFAULT: &str = "/run/culvert";
/// What outlives a restart of the machine, unlike the run directory.
const STATE_DIR_DEFAULT: &str = "/var/lib/culvert";
pub const WORKERS_MAX: usize = 64;
pub const SAS_MAX: u32 = 1 << 20;
const SAS_DEFAULT: u32 = 16_384;
const CORE_MAX: usize = 1_023;
const MEMORY_DEFAULT_MIB: u32 = 128;
const LATENCY_DEFAULT_US: u32 = 50;

/// Keys of later versions.
const UNBUILT: [&str; 3] = ["cryptodev", "flow_offload", "metrics"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// Which implementation of AES-GCM does the work. The dataplane knows which of them the CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptoTier {
    Avx512Karatsuba,
    Avx512,
    Avx2,
    AesNi,
    Portable,
}

const CRYPTO_TIERS: [(&str, CryptoTier); 5] = [
    ("avx512-karatsuba", CryptoTier::Avx512Karatsuba),
    ("avx512", CryptoTier::Avx512),
    ("avx2", CryptoTier::Avx2),
    ("aesni", CryptoTier::AesNi),
    ("portable", CryptoTier::Portable),
];

/// `log = "info"` of any section.
///
/// # Errors
/// The known levels, for a word that is none.
pub fn log_level(word: &str) -> Conversion<LogLevel> {
    choice(&LOG_LEVELS)(word)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// That many, on the cores the process may use.
    Count(usize),
    /// One on each of these cores.
    Cores(Vec<usize>),
}

impl Workers {
    /// How many workers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Cores(cores) => cores.len(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Hugepages if there are some, else ordinary memory with a warning.
    Auto,
    Require,
    Never,
}

/// What a worker without packets does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps, never longer than this.
    Adaptive { max_latency_us: u32 },
    /// Polls for ever.
    Busy,
}

/// Packets a second into the exception path, by class; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceptionLimits {
    /// IKE_SA_INIT requests without a cookie.
    pub ike_init: u32,
    /// IKE_SA_INIT requests with a cookie.
    pub ike_init_cookie: u32,
    /// Other IKE messages.
    pub ike_established: u32,
    /// ARP, neighbour discovery, MLD and IGMP.
    pub neighbour: u32,
    /// All else for the gateway itself.
    pub other: u32,
}

impl Default for ExceptionLimits {
    fn default() -> Self {
        Self {
            ike_init: 2_000,
            ike_init_cookie: 10_000,
            ike_established: 50_000,
            neighbour: 2_000,
            other: 100_000,
        }
    }
}

/// Everything culvert-dataplane needs to know.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    pub run_dir: PathBuf,
    /// Where the sequence numbers of static SAs are kept.
    pub state_dir: PathBuf,
    pub log: LogLevel,
    pub workers: Workers,
    /// Threads that workers lend crypto to.
    pub crypto_workers: Workers,
    pub huge: HugePages,
    pub memory_mib: u32,
    /// Shared objects with drivers that DPDK does not have itself.
    pub plugins: Vec<PathBuf>,
    /// Rows of IKE's SAs, both directions together; static SAs come on top.
    pub max_sas: u32,
    pub idle: Idle,
    /// Workers count the cycles of each stage.
    pub stage_clock: bool,
    /// The fastest that the CPU has, if none is named.
    pub crypto_tier: Option<CryptoTier>,
    pub allow_static_keys: bool,
    pub exception_limits: ExceptionLimits,
    pub ports: Vec<Port>,
    pub static_sas: Vec<StaticSa>,
    pub policies: Vec<StaticPolicy>,
    /// The file has `[connections]`: IKE comes, and nothing passes before its policies are there.
    pub awaits_ike: bool,
}

impl DataplaneConfig {
    /// Reads `[dataplane]` from the top of the file; faults go to its document.
    ///
    /// Always returns a value, so that the faults of other sections are found too; it is only
    /// meaningful if the document has no error in the end.
    pub fn read(root: &mut Table<'_>) -> Option<Self> {
        let awaits_ike = root.has("connections");
        let Some(mut table) = root.take_table("dataplane") else {
            root.error("section [dataplane] is missing: it names the ports and workers".to_owned());
            return None;
        };
        let table = &mut table;
        let workers = read_workers(table, "workers", 1);
        let crypto_workers = read_workers(table, "crypto_workers", 0);
        refuse_shared_cores(table, &workers, &crypto_workers);
        let ports = ports::read(table, workers.count());
        let allow_static_keys = table.take_or("allow_static_keys", false, boolean);
        let static_sas = statics::read_sas(table, &ports, allow_static_keys);
        let policies = statics::read_policies(table, &ports);
        refuse_default_policy(table);
        let run_dir = run_dir(table);
        let config = Self {
            state_dir: state_dir(table, &run_dir),
            run_dir,
            log: table.take_or("log", LogLevel::Info, log_level),
            workers,
            crypto_workers,
            huge: table.take_or("huge", HugePages::Auto, huge_pages),
            memory_mib: table.take_or("memory_mib", MEMORY_DEFAULT_MIB, number(16..=1 << 20)),
            plugins: table.take_list("plugins", absolute).unwrap_or_default(),
            max_sas: table.take_or("max_sas", SAS_DEFAULT, number(2..=SAS_MAX)),
            idle: read_idle(table),
            stage_clock: table.take_or("stage_clock", false, boolean),
            crypto_tier: table.take("crypto_tier", choice(&CRYPTO_TIERS)),
            allow_static_keys,
            exception_limits: read_limits(table),
            ports,
            static_sas,
            policies,
            awaits_ike,
        };
        table.finish(&UNBUILT);
        Some(config)
    }
}

fn run_dir(table: &mut Table<'_>) -> PathBuf {
    let word = table.take_or("run_dir", RUN_DIR_DEFAULT.to_owned(), text);
    let path = PathBuf::from(word);
    // The sockets inside must fit sun_path (108 bytes with its NUL).
    if path.is_absolute() && path.as_os_str().len() > 80 {
        table.error_at(
            "run_dir",
            "\"dataplane.run_dir\" is longer than 80 bytes".to_owned(),
        );
    }
    if !path.is_absolute() {
        table.error_at(
            "run_dir",
            "\"dataplane.run_dir\" must be an absolute path".to_owned(),
        );
    }
    path
}

/// Another run directory than the default one is that of a gateway beside others: its state is apart
/// too.
fn state_dir(table: &mut Table<'_>, run_dir: &Path) -> PathBuf {
    let Some(path) = table.take("state_dir", text).map(PathBuf::from) else {
        return if run_dir == Path::new(RUN_DIR_DEFAULT) {
            PathBuf::from(STATE_DIR_DEFAULT)
        } else {
            run_dir.to_owned()
        };
    };
    if !path.is_absolute() {
        table.error_at(
            "state_dir",
            "\"dataplane.state_dir\" must be an absolute path".to_owned(),
        );
    }
    path
}

/// `workers = 2`, or `workers = [2, 3]` for those cores; `crypto_workers` likewise.
fn read_workers(table: &mut Table<'_>, key: &'static str, least: usize) -> Workers {
    if !table.is_array(key) {
        return Workers::Count(table.take_or(key, least, number(least..=WORKERS_MAX)));
    }
    let cores = table
        .take_list(key, number(0..=CORE_MAX))
        .unwrap_or_default();
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != cores.len() {
        let text = format!("\"dataplane.{key}\" names a core twice: one worker a core");
        table.error_at(key, text);
    }
    if cores.is_empty() || cores.len() > WORKERS_MAX {
        let text = format!("\"dataplane.{key}\" must name 1 to {WORKERS_MAX} cores");
        table.error_at(key, text);
    }
    Workers::Cores(cores)
}

/// A worker and a crypto worker on one core would wait for each other.
fn refuse_shared_cores(table: &mut Table<'_>, workers: &Workers, crypto_workers: &Workers) {
    let (Workers::Cores(workers), Workers::Cores(crypto)) = (workers, crypto_workers) else {
        return;
    };
    if let Some(core) = crypto.iter().find(|core| workers.contains(core)) {
        let text = format!(
            "\"dataplane.crypto_workers\" names core {core}, which \"dataplane.workers\" names too"
        );
        table.error_at("crypto_workers", text);
    }
}

fn huge_pages(word: &str) -> Conversion<HugePages> {
    if word == "auto" {
        return Ok(HugePages::Auto);
    }
    let wrong = |_| format!("must be \"auto\", true or false{}", hint(word, ["auto"]));
    let require = boolean(word).map_err(wrong)?;
    Ok(if require {
        HugePages::Require
    } else {
        HugePages::Never
    })
}

fn read_idle(table: &mut Table<'_>) -> Idle {
    let busy = table.take_or(
        "idle",
        false,
        choice(&[("adaptive", false), ("busy", true)]),
    );
    let max_latency_us = table.take("max_latency_us", number(1..=100_000));
    if busy && max_latency_us.is_some() {
        let text = "\"dataplane.max_latency_us\" has no meaning with idle = \"busy\": remove it";
        table.error_at("max_latency_us", text.to_owned());
    }
    if busy {
        return Idle::Busy;
    }
    Idle::Adaptive {
        max_latency_us: max_latency_us.unwrap_or(LATENCY_DEFAULT_US),
    }
}

fn read_limits(table: &mut Table<'_>) -> ExceptionLimits {
    let default = ExceptionLimits::default();
    let Some(mut table) = table.take_table("exception_limits") else {
        return default;
    };
    let mut rate = |key, default| table.take_or(key, default, number(0..=u32::MAX));
    let limits = ExceptionLimits {
        ike_init: rate("ike_init", default.ike_init),
        ike_init_cookie: rate("ike_init_cookie", default.ike_init_cookie),
        ike_established: rate("ike_established", default.ike_established),
        neighbour: rate("neighbour", default.neighbour),
        other: rate("other", default.other),
    };
    table.finish(&[]);
    limits
}

/// The gateway fails closed: there is nothing to choose.
fn refuse_default_policy(table: &mut Table<'_>) {
    if table
        .take("default_policy", |word| Ok(word.to_owned()))
        .is_some_and(|w| w != "discard")
    {
        let text = "\"dataplane.default_policy\" is always \"discard\" (RFC 4301 section 5): \
                    write a [[dataplane.policies]] with action = \"bypass\" for what may pass";
        table.error_at("default_policy", text.to_owned());
    }
}

//! `[ike]`: settings of the daemon, with the names of charon's in strongswan.conf.

use std::path::{Path, PathBuf};

use api::config::values::{decimal, number, seconds, text};
use api::config::{Conversion, LogLevel, REPLAY_WINDOW_DEFAULT, Table, log_level, replay_window};
use ike::config::Settings;

const STATE_DIR_DEFAULT: &str = "/var/lib/culvert";
/// Most SAs that any limit may allow.
const COUNT_MAX: usize = 1 << 24;

/// Settings of the process, not of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    pub log: LogLevel,
    /// Directory of what outlives the process.
    pub state_dir: PathBuf,
    /// Key that seals the checkpoints of IKE SAs; made at the first start.
    pub key_file: PathBuf,
}

impl Default for Daemon {
    fn default() -> Self {
        let state_dir = PathBuf::from(STATE_DIR_DEFAULT);
        Self {
            log: LogLevel::Info,
            key_file: key_file(&state_dir),
            state_dir,
        }
    }
}

fn key_file(state_dir: &Path) -> PathBuf {
    state_dir.join("checkpoint.key")
}

/// Settings of charon that come later.
const UNBUILT: [&str; 26] = [
    "block_threshold",
    "cookie_threshold_ip",
    "dos_protection",
    "follow_redirects",
    "fragment_size",
    "ikesa_table_segments",
    "ikesa_table_size",
    "init_limit_job_load",
    "interfaces_ignore",
    "interfaces_use",
    "make_before_break",
    "max_packet",
    "multiple_authentication",
    "prefer_configured_proposals",
    "retransmit_jitter",
    "retransmit_limit",
    "reuse_ikesa",
    "rsa_pss",
    "signature_authentication",
    "signature_authentication_constraints",
    "spi_max",
    "spi_min",
    "threads",
    "load",
    "plugins",
    "filelog",
];

/// Settings of process and protocol, and the replay window that children have by default.
pub(super) fn read(root: &mut Table<'_>) -> (Daemon, Settings, u32) {
    let mut daemon = Daemon::default();
    let mut settings = Settings::default();
    let Some(mut table) = root.take_table("ike") else {
        return (daemon, settings, REPLAY_WINDOW_DEFAULT);
    };
    daemon.log = table.take_or("log", daemon.log, log_level);
    daemon.state_dir = table.take_or("state_dir", daemon.state_dir, absolute);
    let key_file = key_file(&daemon.state_dir);
    daemon.key_file = table.take_or("checkpoint_key", key_file, absolute);
    let window = table.take_or("replay_window", REPLAY_WINDOW_DEFAULT, replay_window);
    read_retransmission(&mut table, &mut settings);
    read_limits(&mut table, &mut settings);
    table.finish(&UNBUILT);
    (daemon, settings, window)
}

fn absolute(word: &str) -> Conversion<PathBuf> {
    let path = PathBuf::from(text(word)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("must be an absolute path, not \"{word}\""))
    }
}

/// As in strongswan.conf: seconds with a fraction, and a factor with one.
fn read_retransmission(table: &mut Table<'_>, s: &mut Settings) {
    s.retransmit_tries = table.take_or("retransmit_tries", s.retransmit_tries, number(0..=100));
    let milliseconds = decimal(3, 10..=3_600_000);
    s.retransmit_timeout_ms =
        table.take_or("retransmit_timeout", s.retransmit_timeout_ms, milliseconds);
    if let Some(percent) = table.take("retransmit_base", decimal(2, 100..=1_000)) {
        s.retransmit_base_percent = u32::try_from(percent).unwrap_or(u32::MAX);
    }
    s.keep_alive_s = table.take_or("keep_alive", s.keep_alive_s, seconds);
    s.drain_s = table.take_or("delete_rekeyed_delay", s.drain_s, seconds);
}

fn read_limits(table: &mut Table<'_>, s: &mut Settings) {
    s.port = table.take_or("port", s.port, number(1..=u16::MAX));
    s.port_nat_t = table.take_or("port_nat_t", s.port_nat_t, number(1..=u16::MAX));
    if s.port == s.port_nat_t {
        let text = "\"ike.port\" and \"ike.port_nat_t\" must differ (RFC 7296 section 2.23)";
        table.error_at("port_nat_t", text.to_owned());
    }
    s.cookie_threshold = table.take_or(
        "cookie_threshold",
        s.cookie_threshold,
        number(0..=COUNT_MAX),
    );
    s.half_open_timeout_s = table.take_or("half_open_timeout", s.half_open_timeout_s, seconds);
    table.take("init_limit_half_open", |_| -> Conversion<()> {
        Err("is called half_open_limit here: write that".to_owned())
    });
    s.half_open_limit = table.take_or("half_open_limit", s.half_open_limit, number(1..=COUNT_MAX));
    s.ike_sa_limit = table.take_or("ike_sa_limit", s.ike_sa_limit, number(1..=COUNT_MAX));
}

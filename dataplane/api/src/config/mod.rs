//! The configuration file `culvert.toml`: a reader that reports all faults at once, and the
//! `[dataplane]` section.
//!
//! culvert-dataplane reads its own section and leaves the others to culvert-ike, so each process
//! starts without the other's part being right.

mod dataplane;
mod fault;
mod ports;
mod reader;
pub mod selector;
mod statics;
pub mod values;

use std::path::Path;

use zeroize::Zeroizing;

pub use dataplane::{
    CryptoTier, DataplaneConfig, ExceptionLimits, HugePages, Idle, LogLevel, RUN_DIR_DEFAULT,
    SAS_MAX, WORKERS_MAX, Workers, log_level,
};
pub use fault::{FAULTS_MAX, Fault, Faults, Severity, hint, nearest};
pub use ports::{FRAME_MAX_BYTES, PORTS_MAX, Port, QUEUES_MAX, Side, shared_device};
pub use reader::{Conversion, Document, Table, has_suffix};
pub use statics::{
    CopyDscp, PRIORITY_DEFAULT, PolicyDirection, REPLAY_WINDOW_DEFAULT, REPLAY_WINDOW_MAX,
    STATIC_SAS_MAX, StaticAction, StaticKey, StaticPolicy, StaticProposal, StaticSa, copy_dscp,
    interface, replay_window, window_bits,
};

/// Sections of the file that are not the dataplane's.
pub const OTHER_SECTIONS: [&str; 3] = ["ike", "connections", "secrets"];

/// A configuration file is never larger than this.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// Reads the file into memory that is wiped afterwards: it may hold secrets.
///
/// # Errors
/// One fault: the file cannot be read, is too large or is not UTF-8.
pub fn read_file(path: &Path) -> Result<Zeroizing<String>, Faults> {
    let fail = |text: String| Faults::of_file(path, text);
    let size = std::fs::metadata(path)
        .map_err(|e| fail(e.to_string()))?
        .len();
    if size > FILE_MAX_BYTES {
        return Err(fail(format!("is larger than {FILE_MAX_BYTES} bytes")));
    }
    let bytes = std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|e| fail(e.to_string()))?;
    let text = std::str::from_utf8(&bytes);
    text.map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|e| {
            fail(format!(
                "is not UTF-8 text (first wrong byte at offset {})",
                e.valid_up_to()
            ))
        })
}

/// Loads the `[dataplane]` section of `path`, and the warnings about it.
///
/// # Errors
/// Every fault of the section and of the file's syntax.
pub fn load_dataplane(path: &Path) -> Result<(DataplaneConfig, Faults), Faults> {
    let text = read_file(path)?;
    parse_dataplane(path, &text)
}

/// As [`load_dataplane`], of text already in memory.
///
/// # Errors
/// Every fault of the section and of the file's syntax.
pub fn parse_dataplane(path: &Path, text: &str) -> Result<(DataplaneConfig, Faults), Faults> {
    let document = Document::parse(path, text);
    let config = {
        let mut root = document.root();
        let config = DataplaneConfig::read(&mut root);
        root.ignore(&OTHER_SECTIONS);
        root.finish(&UNBUILT_SECTIONS);
        config
    };
    document.finish(config)
}

/// Sections of swanctl.conf that come later.
pub const UNBUILT_SECTIONS: [&str; 3] = ["pools", "authorities", "include"];

#[cfg(test)]
mod tests;

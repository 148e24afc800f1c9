//! `culvert.toml` as culvert-ike understands it: `[ike]`, `[connections]` and `[secrets]` with the
//! keys of swanctl.conf, and the dataplane's section.

mod child;
mod connection;
mod keywords;
mod secret;
mod settings;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::config::values::boolean;
use api::config::{DataplaneConfig, Document, Faults, Table, UNBUILT_SECTIONS, read_file};
use ike::config::{Connection, Secret, Settings};

pub use child::{Shunt, ShuntAction};
pub use settings::Daemon;

/// Connections of one file.
pub const CONNECTIONS_MAX: usize = 65_536;
/// Children of one connection.
pub const CHILDREN_MAX: usize = 1_024;

/// The whole file, checked.
pub struct Config {
    pub dataplane: DataplaneConfig,
    pub daemon: Daemon,
    pub settings: Settings,
    /// In the order of the file.
    pub connections: Vec<Connection>,
    /// Children with `mode = "pass"` or `"drop"`: policies that stand without an IKE SA.
    pub shunts: Vec<Shunt>,
    pub secrets: Vec<Secret>,
}

/// Loads the file, and the warnings about it.
///
/// # Errors
/// Every fault of the file, each with line, column and fix.
pub fn load(path: &Path) -> Result<(Config, Faults), Faults> {
    let text = read_file(path)?;
    let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    parse_with_mode(path, &text, mode)
}

/// As [`load`], of text already in memory.
///
/// # Errors
/// Every fault of the text.
pub fn parse(path: &Path, text: &str) -> Result<(Config, Faults), Faults> {
    parse_with_mode(path, text, 0)
}

fn parse_with_mode(path: &Path, text: &str, mode: u32) -> Result<(Config, Faults), Faults> {
    let document = Document::parse(path, text);
    let config = read(&mut document.root(), mode);
    document.finish(config)
}

fn read(root: &mut Table<'_>, mode: u32) -> Option<Config> {
    let dataplane = DataplaneConfig::read(root);
    let (daemon, settings, replay_window) = settings::read(root);
    let secrets = secret::read(root, mode);
    let (connections, shunts) = connection::read(root, replay_window, &secrets);
    root.finish(&UNBUILT_SECTIONS);
    Some(Config {
        dataplane: dataplane?,
        daemon,
        settings,
        connections,
        shunts,
        secrets,
    })
}

/// Names appear in tables and in commands: none of the characters that swanctl.conf forbids.
pub(crate) fn refuse_name(section: &Table<'_>) {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || ".,:{}=\"#".contains(c);
    let name = section.own_name();
    if name.is_empty() || name.contains(wrong) {
        section.error(format!(
            "name of section {} must not be empty nor hold white space or one of \
             . , : {{ }} = \" #",
            section.name().escape_debug()
        ));
    }
}

/// Takes keys that are known, and built with one value only: pairs of key and value.
pub(crate) fn take_only(table: &mut Table<'_>, keys: &'static [(&'static str, &'static str)]) {
    for (key, value) in keys {
        table.take(key, |word| {
            if means_same(word, value) {
                Ok(())
            } else {
                Err(format!(
                    "is known, but not built yet: only \"{value}\" is taken"
                ))
            }
        });
    }
}

fn means_same(word: &str, value: &str) -> bool {
    // 0, 0s and 000000.
    let is_zero = |word: &str| {
        let unit = word.trim_start_matches('0');
        word.starts_with('0') && ["", "s", "m", "h", "d"].contains(&unit)
    };
    match (boolean(word), boolean(value)) {
        (Ok(typed), Ok(built)) => typed == built,
        _ => word.eq_ignore_ascii_case(value) || is_zero(word) && is_zero(value),
    }
}

#[cfg(test)]
mod tests;

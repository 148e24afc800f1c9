//! What a takeover moved, kept in `<run_dir>/takeover-<twin>.json` until it is put back.
//!
//! The file is written before anything is touched, so that the way back is known even after
//! SIGKILL. Addresses and routes are kept as the kernel described them (`netlink`, the message in
//! hexadecimal, exact to the last attribute) with a line for the reader (`text`).

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::control::devices::{self, Hears};
use crate::control::routes;

/// One address or route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub text: String,
    netlink: String,
}

/// One setting under /proc/sys and its value before the takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub path: String,
    pub value: String,
}

/// Everything that has to be put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub device: String,
    pub twin: String,
    /// Everything below has been moved: what is missing on the twin now was taken away on purpose.
    pub complete: bool,
    pub hears: Hears,
    pub addresses: Vec<Saved>,
    pub routes: Vec<Saved>,
    pub settings: Vec<Setting>,
    /// Offloads that were on, by ethtool's names.
    pub offloads: Vec<String>,
}

const PREFIX: &str = "takeover-";
const SUFFIX: &str = ".json";

impl Record {
    /// A record of nothing yet.
    #[must_use]
    pub fn new(device: &str, twin: &str) -> Self {
        Self {
            device: device.to_owned(),
            twin: twin.to_owned(),
            complete: false,
            hears: Hears::default(),
            addresses: Vec::new(),
            routes: Vec::new(),
            settings: Vec::new(),
            offloads: Vec::new(),
        }
    }

    /// Where the record of a twin is kept.
    #[must_use]
    pub fn path(run_dir: &Path, twin: &str) -> PathBuf {
        run_dir.join(format!("{PREFIX}{twin}{SUFFIX}"))
    }

    /// The record of a twin, if there is one.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The files of all records in a run directory.
    pub fn all(run_dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(run_dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Writes the record; the file is either the old one or the whole new one.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    }

    /// Adds what is not in the record yet; true if something was new.
    pub fn merge(&mut self, addresses: Vec<Saved>, routes: Vec<Saved>) -> bool {
        let before = (self.addresses.len(), self.routes.len());
        for (found, held) in [(addresses, &mut self.addresses), (routes, &mut self.routes)] {
            for one in found {
                match held.iter_mut().find(|known| known.text == one.text) {
                    Some(known) => *known = one,
                    None => held.push(one),
                }
            }
        }
        before != (self.addresses.len(), self.routes.len())
    }
}

impl Saved {
    /// Keeps an address.
    #[must_use]
    pub fn address(message: &AddressMessage) -> Self {
        let address = devices::local_of(message).map_or_else(String::new, |ip| ip.to_string());
        let text = format!("{address}/{}", message.header.prefix_len);
        Self {
            text,
            netlink: hex(message),
        }
    }

    /// Keeps a route.
    #[must_use]
    pub fn route(message: &RouteMessage) -> Self {
        Self {
            text: describe(message),
            netlink: hex(message),
        }
    }

    /// The address again; `None` if the record was damaged.
    #[must_use]
    pub fn to_address(&self) -> Option<AddressMessage> {
        AddressMessage::parse(&unhex(&self.netlink)?).ok()
    }

    /// The route again; `None` if the record was damaged.
    #[must_use]
    pub fn to_route(&self) -> Option<RouteMessage> {
        RouteMessage::parse(&unhex(&self.netlink)?).ok()
    }
}

/// What tells one route from another: destination, table, metric and type of service.
fn describe(message: &RouteMessage) -> String {
    let header = &message.header;
    let metric = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    let destination = routes::destination_of(message).map_or_else(String::new, |d| d.to_string());
    let mut text = format!("{destination}/{}", header.destination_prefix_length);
    for gateway in message.attributes.iter().filter_map(routes::gateway_of) {
        text += &format!(" via {gateway}");
    }
    text += &format!(" table {}", routes::table_of(message));
    if header.tos != 0 {
        text += &format!(" tos {}", header.tos);
    }
    if let Some(metric) = metric {
        text += &format!(" metric {metric}");
    }
    text
}

fn hex(message: &impl Emitable) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(
        pairs
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::address::AddressAttribute;

    fn address() -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 24;
        message.attributes = vec![AddressAttribute::Local("192.0.2.1".parse().unwrap())];
        message
    }

    #[test]
    fn what_is_saved_comes_back_exactly() {
        let saved = Saved::address(&address());
        assert_eq!(saved.text, "192.0.2.1/24");
        assert_eq!(saved.to_address(), Some(address()));
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet6;
        route.attributes = vec![RouteAttribute::Oif(3), RouteAttribute::Priority(7)];
        let saved = Saved::route(&route);
        assert_eq!(saved.text, "::/0 table 0 metric 7");
        assert_eq!(saved.to_route(), Some(route));
    }

    #[test]
    fn a_damaged_record_is_no_address() {
        for text in ["", "0", "zz", "00ff"] {
            let saved = Saved {
                text: String::new(),
                netlink: text.to_owned(),
            };
            assert_eq!(saved.to_address(), None);
        }
    }

    #[test]
    fn merging_again_adds_nothing() {
        let mut record = Record::new("eth0", "cv-eth0");
        let found = || vec![Saved::address(&address())];
        assert!(record.merge(found(), Vec::new()));
        assert!(!record.merge(found(), Vec::new()));
        assert_eq!(record.addresses.len(), 1);
    }
}

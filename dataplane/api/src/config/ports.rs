//! `[[dataplane.ports]]`: DPDK devices, their side and their twin.

use std::collections::HashMap;

use super::reader::{Conversion, Table};
use super::values::{Prefix, boolean, choice, name, number, prefix};

pub const PORTS_MAX: usize = 16;
pub const QUEUES_MAX: u16 = 64;
pub const FRAME_MAX_BYTES: u16 = 9_216;
/// Ethernet header with one VLAN tag.
const FRAME_OVERHEAD_BYTES: u16 = 18;
/// What IPv6 needs (RFC 8200 section 5).
const MTU_MIN_BYTES: u16 = 1_280;
/// IFNAMSIZ without its NUL.
const DEVICE_NAME_MAX: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Towards the protected hosts.
    Inside,
    /// Towards the peers.
    Outside,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// Number of the port in the contract: 1 for the first of the file (0 means any).
    pub interface: u16,
    /// DPDK device string: a PCI address, or a virtual device with its arguments.
    pub device: String,
    pub side: Side,
    /// Name of the tap that is the kernel's face of this port; none for tests without a kernel.
    pub twin: Option<String>,
    /// Network device whose addresses and routes move to the twin.
    pub takeover: Option<String>,
    /// Addresses given to the twin.
    pub addresses: Vec<Prefix>,
    /// None: as the device says.
    pub mtu_bytes: Option<u16>,
    /// One for each worker unless set.
    pub queues: u16,
    pub vrf: u16,
}

/// Reads all ports, and checks them against each other.
pub(super) fn read(table: &mut Table<'_>, workers: usize) -> Vec<Port> {
    let sections = table.take_tables("ports");
    if sections.is_empty() {
        table.error("no [[dataplane.ports]]: a gateway needs at least one port".to_owned());
    }
    if sections.len() > PORTS_MAX {
        table.error_at(
            "ports",
            format!("more than {PORTS_MAX} [[dataplane.ports]]"),
        );
    }
    let queues = u16::try_from(workers).unwrap_or(QUEUES_MAX);
    let mut seen = HashMap::new();
    let mut ports = Vec::new();
    for (index, mut section) in (1..).zip(sections.into_iter().take(PORTS_MAX)) {
        if let Some(port) = read_one(&mut section, index, queues) {
            refuse_twice(&section, &port, &mut seen);
            ports.push(port);
        }
        section.finish(&["promiscuous", "rx_descriptors", "tx_descriptors", "vlan"]);
    }
    ports
}

fn read_one(section: &mut Table<'_>, interface: u16, queues: u16) -> Option<Port> {
    let port_name = section.require("name", "a short name such as \"outside\"", name);
    let device_fix =
        "a DPDK device string such as \"0000:01:00.0\" or \"net_af_packet0,iface=eth1\"";
    let device = section.require("device", device_fix, device);
    let sides = choice(&[("inside", Side::Inside), ("outside", Side::Outside)]);
    let side = section.require("side", "\"inside\" (hosts) or \"outside\" (peers)", sides);
    let twin = read_twin(section, port_name.as_deref());
    let takeover = read_takeover(section, device.as_deref(), twin.is_some());
    let addresses = section.take_list("addresses", prefix).unwrap_or_default();
    if twin.is_none() && !addresses.is_empty() {
        let text = "\"dataplane.ports.addresses\" need a twin to stand on: remove twin = false";
        section.error_at("addresses", text.to_owned());
    }
    let mtu_range = MTU_MIN_BYTES..=FRAME_MAX_BYTES - FRAME_OVERHEAD_BYTES;
    let mtu_bytes = section.take("mtu", number(mtu_range));
    let queues = section.take_or("queues", queues, number(1..=QUEUES_MAX));
    let vrf = section.take_or("vrf", 0, number(0..=u16::MAX));
    Some(Port {
        name: port_name?,
        interface,
        device: device?,
        side: side?,
        twin,
        takeover,
        addresses,
        mtu_bytes,
        queues,
        vrf,
    })
}

/// `twin = "tap0"`, `twin = false`, or nothing for `cv-NAME`.
fn read_twin(section: &mut Table<'_>, port: Option<&str>) -> Option<String> {
    let default = port.map(|name| format!("cv-{name}"));
    let twin = match section.take("twin", switch_or_device) {
        None | Some(Switch::On) => default,
        Some(Switch::Off) => return None,
        Some(Switch::Device(device)) => Some(device),
    };
    if let Some(twin) = twin.as_deref().filter(|twin| twin.len() > DEVICE_NAME_MAX) {
        let text = format!(
            "the twin's name \"{twin}\" is longer than {DEVICE_NAME_MAX} bytes: \
             shorten \"name\" or set \"twin\""
        );
        section.error_at(if section.has("twin") { "twin" } else { "name" }, text);
    }
    twin
}

/// `takeover = "eth1"`, `takeover = false`, or nothing for the device a software port shares.
fn read_takeover(section: &mut Table<'_>, device: Option<&str>, twin: bool) -> Option<String> {
    let shared = device.and_then(shared_device).map(str::to_owned);
    match section.take("takeover", switch_or_device) {
        Some(Switch::Off) => None,
        None => shared.filter(|_| twin),
        Some(Switch::On) if shared.is_some() => shared,
        Some(Switch::Device(device)) if twin => Some(device),
        Some(Switch::On) => {
            let text = "\"dataplane.ports.takeover\" must name a network device: \
                        this DPDK device has no iface=";
            section.error_at("takeover", text.to_owned());
            None
        }
        Some(Switch::Device(_)) => {
            let text = "\"dataplane.ports.takeover\" needs a twin to move the addresses to: \
                        remove twin = false";
            section.error_at("takeover", text.to_owned());
            None
        }
    }
}

enum Switch {
    On,
    Off,
    Device(String),
}

fn switch_or_device(word: &str) -> Conversion<Switch> {
    match boolean(word) {
        Ok(true) => Ok(Switch::On),
        Ok(false) => Ok(Switch::Off),
        Err(_) => device_name(word).map(Switch::Device),
    }
}

fn device_name(word: &str) -> Conversion<String> {
    let bad = |c: char| c.is_whitespace() || c == '/' || c == ':' || c.is_control();
    if word.is_empty() || word.len() > DEVICE_NAME_MAX || word.chars().any(bad) {
        return Err(format!(
            "must be a network device's name of at most {DEVICE_NAME_MAX} bytes"
        ));
    }
    Ok(word.to_owned())
}

fn device(word: &str) -> Conversion<String> {
    if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must be a DPDK device string without blanks, such as \
                    \"net_af_packet0,iface=eth1\""
            .to_owned());
    }
    Ok(word.to_owned())
}

/// The network device that a software port shares with the kernel (`iface=` of af_packet, af_xdp).
#[must_use]
pub fn shared_device(device: &str) -> Option<&str> {
    let mut parts = device.split(',');
    let driver = parts.next()?;
    if !driver.starts_with("net_af_packet") && !driver.starts_with("net_af_xdp") {
        return None;
    }
    parts.find_map(|part| part.strip_prefix("iface="))
}

/// Names, devices and twins must be of one port only.
fn refuse_twice(section: &Table<'_>, port: &Port, seen: &mut HashMap<(&str, String), String>) {
    let driver = port.device.split(',').next().unwrap_or_default().to_owned();
    let mut facts = vec![
        ("name", "name", port.name.clone()),
        ("device", "device", driver),
    ];
    if let Some(shared) = shared_device(&port.device) {
        facts.push(("device", "network device", shared.to_owned()));
    }
    if let Some(twin) = &port.twin {
        facts.push(("twin", "twin", twin.clone()));
    }
    let mut told = false;
    for (key, what, value) in facts {
        let text = format!(
            "{what} \"{value}\" of port \"{}\" is already used by port",
            port.name
        );
        let other = seen.insert((what, value), port.name.clone());
        if let Some(other) = other.filter(|_| !told) {
            section.error_at(key, format!("{text} \"{other}\""));
            told = true; // Ports of one name also share a twin: one fault is enough.
        }
    }
}

//! `[[dataplane.static_sas]]` (manual keys) and `[[dataplane.policies]]` (bypass and discard).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use zeroize::Zeroizing;

use super::fault::hint;
use super::ports::Port;
use super::reader::{Conversion, Table};
use super::selector::{SelectorPair, fixed_selector, pairs};
use super::values::{address, boolean, choice, hex, name, number};

/// Static SAs one shard of the contract can hold in both directions.
pub const STATIC_SAS_MAX: usize = 8_192;
/// SPIs up to here are reserved (RFC 4303 section 2.1).
const SPI_RESERVED_MAX: u32 = 255;
pub const REPLAY_WINDOW_DEFAULT: u32 = 4_096;
pub const REPLAY_WINDOW_MAX: u32 = 65_536;
const REPLAY_WINDOW_MIN: u32 = 32;
/// Windows are kept in size classes, powers of two from here.
const WINDOW_CLASS_MIN_BITS: u32 = 64;
const SALT_BYTES: usize = 4;
const NAT_T_PORT: u16 = 4_500;

/// AES-GCM with a 16-byte ICV, the only transform of static SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticProposal {
    /// 128 or 256.
    pub key_bits: u16,
    pub esn: bool,
}

impl StaticProposal {
    /// Bytes of a key with its salt.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        usize::from(self.key_bits / 8) + SALT_BYTES
    }
}

/// One direction of a static SA.
#[derive(Clone)]
pub struct StaticKey {
    pub spi: u32,
    /// Cipher key, then the 4 bytes of salt.
    pub key: Zeroizing<Vec<u8>>,
    /// The last number already used: the next packet sent has `sequence + 1`; received ones must
    /// be new as seen from here.
    pub sequence: u64,
}

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticKey")
            .field("spi", &self.spi)
            .field("sequence", &self.sequence)
            .finish()
    }
}

/// Which way DSCP is copied between inner and outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDscp {
    Out,
    In,
    Both,
    No,
}

/// `copy_dscp = out | in | yes | no`.
///
/// # Errors
/// The four words, for another one.
pub fn copy_dscp(word: &str) -> Conversion<CopyDscp> {
    let words = [
        ("out", CopyDscp::Out),
        ("in", CopyDscp::In),
        ("yes", CopyDscp::Both),
        ("no", CopyDscp::No),
    ];
    let found = words.iter().find(|(known, _)| *known == word);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        format!(
            "must be out, in, yes or no{}",
            hint(word, words.iter().map(|w| w.0))
        )
    })
}

/// `replay_window`: packets, 0 is off.
///
/// # Errors
/// The range, for a number outside.
pub fn replay_window(word: &str) -> Conversion<u32> {
    let range = || format!("must be 0 (off) or {REPLAY_WINDOW_MIN} to {REPLAY_WINDOW_MAX} packets");
    match number(0..=REPLAY_WINDOW_MAX)(word) {
        Ok(window) if window == 0 || window >= REPLAY_WINDOW_MIN => Ok(window),
        _ => Err(range()),
    }
}

/// Bits of the window class that holds `packets`: 0, or a power of two from 64.
#[must_use]
pub fn window_bits(packets: u32) -> u32 {
    if packets == 0 {
        0
    } else {
        packets.next_power_of_two().max(WINDOW_CLASS_MIN_BITS)
    }
}

/// A tunnel with manual keys: at least one direction.
#[derive(Debug, Clone)]
pub struct StaticSa {
    pub name: String,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// UDP ports; only with encapsulation.
    pub local_port: u16,
    pub remote_port: u16,
    pub udp_encapsulation: bool,
    pub vrf: u16,
    /// Number of a port; 0 is any.
    pub interface: u16,
    pub proposal: StaticProposal,
    pub inbound: Option<StaticKey>,
    pub outbound: Option<StaticKey>,
    /// 0, or a power of two from 64 to 65,536 that holds what was typed.
    pub window_bits: u32,
    pub selectors: Vec<SelectorPair>,
    /// Lower is looked up first.
    pub priority: u32,
    pub copy_df: bool,
    pub copy_ecn: bool,
    pub copy_dscp: CopyDscp,
    /// MTU of the outer path; 0 is that of the port.
    pub mtu_bytes: u16,
}

pub const PRIORITY_DEFAULT: u32 = 10_000;

pub(super) fn read_sas(table: &mut Table<'_>, ports: &[Port], allowed: bool) -> Vec<StaticSa> {
    let sections = table.take_tables("static_sas");
    if !sections.is_empty() && !allowed {
        let text = "[[dataplane.static_sas]] need \"dataplane.allow_static_keys = true\": manual \
                    keys never change, so AES-GCM is only safe with them if no sequence number is \
                    ever used twice, not even after a restart (RFC 8221 section 3). Prefer IKE";
        table.error_at("static_sas", text.to_owned());
    }
    if sections.len() > STATIC_SAS_MAX {
        table.error_at(
            "static_sas",
            format!("more than {STATIC_SAS_MAX} static SAs"),
        );
    }
    let mut seen = Seen::default();
    let mut out = Vec::new();
    for mut section in sections.into_iter().take(STATIC_SAS_MAX) {
        if let Some(sa) = read_sa(&mut section, ports) {
            seen.refuse_twice(&section, &sa);
            out.push(sa);
        }
        section.finish(&[
            "mode",
            "rekey_time",
            "life_time",
            "life_bytes",
            "life_packets",
        ]);
    }
    out
}

fn read_sa(section: &mut Table<'_>, ports: &[Port]) -> Option<StaticSa> {
    let sa_name = section.require("name", "a name for tables and messages", name);
    let local = section.require("local", "this gateway's outer address", address);
    let remote = section.require("remote", "the peer's outer address", address);
    if let (Some(local), Some(remote)) = (local, remote)
        && local.is_ipv4() != remote.is_ipv4()
    {
        let text = "\"local\" and \"remote\" must be both IPv4 or both IPv6";
        section.error_at("remote", text.to_owned());
    }
    let fix = "\"aes128gcm16\" or \"aes256gcm16\", with \"-esn\" for 64-bit sequence numbers";
    let proposal = section.require("esp_proposal", fix, proposal);
    let inbound = read_key(section, "inbound", proposal);
    let outbound = read_key(section, "outbound", proposal);
    if !section.has("inbound") && !section.has("outbound") {
        section.error("a static SA needs \"inbound\" or \"outbound\" or both".to_owned());
    }
    let udp_encapsulation = section.take_or("udp_encapsulation", false, boolean);
    let window = section.take_or("replay_window", REPLAY_WINDOW_DEFAULT, replay_window);
    let mtu = section.take("mtu", number(1_280..=u16::MAX));
    Some(StaticSa {
        name: sa_name?,
        local: local?,
        remote: remote?,
        local_port: udp_port(section, "local_port", udp_encapsulation),
        remote_port: udp_port(section, "remote_port", udp_encapsulation),
        udp_encapsulation,
        vrf: section.take_or("vrf", 0, number(0..=u16::MAX)),
        interface: interface(section, ports),
        proposal: proposal?,
        inbound,
        outbound,
        window_bits: window_bits(window),
        selectors: read_selectors(section),
        priority: section.take_or("priority", PRIORITY_DEFAULT, number(0..=u32::MAX)),
        copy_df: section.take_or("copy_df", true, boolean),
        copy_ecn: section.take_or("copy_ecn", true, boolean),
        copy_dscp: section.take_or("copy_dscp", CopyDscp::Out, copy_dscp),
        mtu_bytes: mtu.unwrap_or(0),
    })
}

fn udp_port(section: &mut Table<'_>, key: &'static str, udp: bool) -> u16 {
    let port = section.take(key, number(1..=u16::MAX));
    if port.is_some() && !udp {
        let text = format!("\"{key}\" has no meaning without udp_encapsulation = true");
        section.error_at(key, text);
    }
    if udp { port.unwrap_or(NAT_T_PORT) } else { 0 }
}

fn proposal(word: &str) -> Conversion<StaticProposal> {
    let mut key_bits = None;
    let mut esn = false;
    for keyword in word.split('-') {
        match keyword {
            "aes128gcm16" | "aes128gcm128" => key_bits = Some(128),
            "aes256gcm16" | "aes256gcm128" => key_bits = Some(256),
            "esn" => esn = true,
            "noesn" => esn = false,
            _ => {
                let known = ["aes128gcm16", "aes256gcm16", "esn", "noesn"];
                return Err(format!(
                    "has \"{keyword}\", which static SAs do not take: use aes128gcm16 or \
                     aes256gcm16, with -esn if wanted{}",
                    hint(keyword, known)
                ));
            }
        }
    }
    let key_bits = key_bits.ok_or_else(|| "names no cipher: use aes128gcm16".to_owned())?;
    Ok(StaticProposal { key_bits, esn })
}

/// `[dataplane.static_sas.inbound]`, or the same inline.
fn read_key(
    section: &mut Table<'_>,
    direction: &'static str,
    proposal: Option<StaticProposal>,
) -> Option<StaticKey> {
    let mut table = section.take_table(direction)?;
    let spis = number(SPI_RESERVED_MAX + 1..=u32::MAX);
    let spi = table.require("spi", "the SPI of this direction, such as 0x1001", spis);
    let key = read_key_bytes(&mut table, proposal);
    let highest = if proposal.is_some_and(|p| p.esn) {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    let why = "the last sequence number already used with this key (0 only for a key never used). \
               AES-GCM loses all protection when a number is used twice with one key, so a static \
               SA must say where to go on (RFC 8221 section 3)";
    let sequence = table.require("sequence", why, number(0..=highest));
    table.finish(&[]);
    Some(StaticKey {
        spi: spi?,
        key: key?,
        sequence: sequence?,
    })
}

fn read_key_bytes(
    table: &mut Table<'_>,
    proposal: Option<StaticProposal>,
) -> Option<Zeroizing<Vec<u8>>> {
    if !table.has("key") {
        let text = format!(
            "\"{}\" is missing: the cipher key and its salt in hex",
            table.path_of("key")
        );
        table.error(text);
    }
    let convert = |word: &str| {
        let key = hex(word)?;
        match proposal {
            Some(proposal) if key.len() != proposal.key_bytes() => Err(format!(
                "must have {} bytes (key of {} and salt of {SALT_BYTES}), has {}",
                proposal.key_bytes(),
                proposal.key_bytes() - SALT_BYTES,
                key.len()
            )),
            _ => Ok(key),
        }
    };
    table.take_secret("key", convert)
}

fn read_selectors(section: &mut Table<'_>) -> Vec<SelectorPair> {
    let fix = "the protected addresses, such as \"10.1.0.0/24\"";
    let mut side = |key| {
        if !section.has(key) {
            section.error(format!("\"{}\" is missing: {fix}", section.path_of(key)));
        }
        section.take_list(key, fixed_selector).unwrap_or_default()
    };
    let (local, remote) = (side("local_ts"), side("remote_ts"));
    let pairs = pairs(&local, &remote);
    if pairs.is_empty() && !local.is_empty() && !remote.is_empty() {
        let text = "\"local_ts\" and \"remote_ts\" have no family and protocol in common";
        section.error_at("remote_ts", text.to_owned());
    }
    pairs
}

/// `interface = "outside"`: the number of the port of that name.
pub fn interface(section: &mut Table<'_>, ports: &[Port]) -> u16 {
    section.take_or("interface", 0, |word| {
        let port = ports.iter().find(|port| port.name == word);
        port.map(|port| port.interface).ok_or_else(|| {
            let known = ports.iter().map(|port| port.name.as_str());
            format!(
                "names the port \"{word}\", which is not configured{}",
                hint(word, known)
            )
        })
    })
}

/// What must be of one static SA only.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    spis: HashMap<(&'static str, u32, IpAddr, u16), String>,
    /// Keyed hashes: no copy of a key stays behind.
    hasher: RandomState,
    keys: HashSet<u64>,
}

impl Seen {
    fn refuse_twice(&mut self, section: &Table<'_>, sa: &StaticSa) {
        if !self.names.insert(sa.name.clone()) {
            section.error_at(
                "name",
                format!("static SA \"{}\" is configured twice", sa.name),
            );
        }
        let directions = [
            ("inbound", &sa.inbound, sa.local),
            ("outbound", &sa.outbound, sa.remote),
        ];
        for (direction, key, receiver) in directions {
            let Some(key) = key else { continue };
            let place = (direction, key.spi, receiver, sa.vrf);
            if let Some(other) = self.spis.insert(place, sa.name.clone()) {
                let text = format!(
                    "{direction} SPI {:#x} of static SA \"{}\" is already used by \"{other}\"",
                    key.spi, sa.name
                );
                section.error_at(direction, text);
            }
            if !self.keys.insert(self.hasher.hash_one(key.key.as_slice())) {
                let text = format!(
                    "the {direction} key of static SA \"{}\" is used twice in this file: every SA \
                     and direction needs its own (RFC 8221 section 3)",
                    sa.name
                );
                section.error_at(direction, text);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaticAction {
    Bypass,
    Discard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyDirection {
    Inbound,
    Outbound,
    /// One policy each way.
    Both,
}

/// A policy of the configuration, which stands with and without IKE.
#[derive(Debug, Clone)]
pub struct StaticPolicy {
    pub name: String,
    pub direction: PolicyDirection,
    pub action: StaticAction,
    /// Lower is looked up first.
    pub priority: u32,
    pub vrf: u16,
    /// Number of a port; 0 is any.
    pub interface: u16,
    pub selectors: Vec<SelectorPair>,
}

pub(super) fn read_policies(table: &mut Table<'_>, ports: &[Port]) -> Vec<StaticPolicy> {
    let mut names = HashSet::new();
    let mut out = Vec::new();
    for mut section in table.take_tables("policies") {
        if let Some(policy) = read_policy(&mut section, ports) {
            if !names.insert(policy.name.clone()) {
                let text = format!("policy \"{}\" is configured twice", policy.name);
                section.error_at("name", text);
            }
            out.push(policy);
        }
        section.finish(&[]);
    }
    out
}

fn read_policy(section: &mut Table<'_>, ports: &[Port]) -> Option<StaticPolicy> {
    let directions = choice(&[
        ("in", PolicyDirection::Inbound),
        ("out", PolicyDirection::Outbound),
        ("both", PolicyDirection::Both),
    ]);
    let actions = choice(&[
        ("bypass", StaticAction::Bypass),
        ("discard", StaticAction::Discard),
    ]);
    let policy_name = section.require("name", "a name for tables and messages", name);
    let action = section.require("action", "\"bypass\" or \"discard\"", actions);
    let direction = section.take_or("direction", PolicyDirection::Both, directions);
    let priority = section.take_or("priority", PRIORITY_DEFAULT, number(0..=u32::MAX));
    Some(StaticPolicy {
        direction,
        priority,
        vrf: section.take_or("vrf", 0, number(0..=u16::MAX)),
        interface: interface(section, ports),
        selectors: read_selectors(section),
        name: policy_name?,
        action: action?,
    })
}

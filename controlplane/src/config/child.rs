//! `[connections.NAME.children.CHILD]`.

use api::config::values::{boolean, bytes, choice, number, seconds};
use api::config::{Conversion, CopyDscp as ApiCopyDscp, Table, copy_dscp, replay_window};
use api::config::{hint, selector};
use ike::config::{Action, ChildConfig, CopyDscp, Lifetime, StartAction};
use ike::proposal::EspProposal;
use ike::{SelectorPair, SelectorSpec};

use super::keywords::{self, esp_proposals};
use super::{refuse_name, take_only};

const REKEY_DEFAULT_S: u64 = 3_600;

const ONLY: [(&str, &str); 19] = [
    ("sha256_96", "no"),
    ("hostaccess", "no"),
    ("policies", "yes"),
    ("policies_fwd_out", "no"),
    ("ipcomp", "no"),
    ("inactivity", "0"),
    ("reqid", "0"),
    ("mark_in", "0"),
    ("mark_out", "0"),
    ("mark_in_sa", "no"),
    ("if_id_in", "0"),
    ("if_id_out", "0"),
    ("tfc_padding", "0"),
    ("per_cpu_sas", "no"),
    ("hw_offload", "no"),
    ("icmp", "no"),
    ("set_mark_in", "0"),
    ("set_mark_out", "0"),
    ("label_mode", "system"),
];

const UNBUILT: [&str; 4] = ["ah_proposals", "interface", "updown", "label"];

/// What a shunt does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShuntAction {
    /// `mode = "pass"`.
    Bypass,
    /// `mode = "drop"`.
    Discard,
}

/// A child that is policies only (RFC 4301 section 4.4.1: BYPASS or DISCARD), in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shunt {
    pub connection: String,
    pub name: String,
    pub action: ShuntAction,
    /// 0: compute it from the selectors.
    pub priority: u32,
    pub selectors: Vec<SelectorPair>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Tunnel,
    Shunt(ShuntAction),
}

/// Reads the children of a connection; shunts go to their own list.
pub(super) fn read(
    connection: &mut Table<'_>,
    replay_window: u32,
    shunts: &mut Vec<Shunt>,
) -> Vec<ChildConfig> {
    let name = connection.own_name().to_owned();
    let Some(mut table) = connection.take_table("children") else {
        return Vec::new();
    };
    let mut children = Vec::new();
    for mut section in table.take_named() {
        refuse_name(&section);
        match section.take_or("mode", Mode::Tunnel, mode) {
            Mode::Tunnel => children.push(read_tunnel(&mut section, replay_window)),
            Mode::Shunt(action) => shunts.push(read_shunt(&mut section, &name, action)),
        }
        section.finish(&UNBUILT);
    }
    children
}

fn mode(word: &str) -> Conversion<Mode> {
    match word {
        "tunnel" => Ok(Mode::Tunnel),
        "pass" => Ok(Mode::Shunt(ShuntAction::Bypass)),
        "drop" => Ok(Mode::Shunt(ShuntAction::Discard)),
        "transport" | "transport_proxy" | "beet" | "iptfs" => Err(format!(
            "= \"{word}\" is known, but not built yet: write \"tunnel\""
        )),
        _ => {
            let known = ["tunnel", "pass", "drop", "transport"];
            Err(format!(
                "must be one of tunnel, pass, drop{}",
                hint(word, known)
            ))
        }
    }
}

fn read_tunnel(section: &mut Table<'_>, window: u32) -> ChildConfig {
    let proposals = section.take_list("esp_proposals", esp_proposals);
    let mut child = ChildConfig::new(section.own_name(), flat(proposals));
    child.local_ts = section
        .take_list("local_ts", keywords::selector)
        .unwrap_or_default();
    child.remote_ts = section
        .take_list("remote_ts", keywords::selector)
        .unwrap_or_default();
    refuse_selectors_apart(section, &child);
    let time = LifetimeKeys::TIME;
    child.time_s = read_lifetime(section, &time, REKEY_DEFAULT_S, seconds);
    child.bytes = read_lifetime(section, &LifetimeKeys::BYTES, 0, bytes);
    child.packets = read_lifetime(section, &LifetimeKeys::PACKETS, 0, number(0..=u64::MAX));
    child.start_action = section.take_or("start_action", StartAction::default(), start_action);
    child.close_action = section.take_or("close_action", Action::None, action);
    child.dpd_action = section.take_or("dpd_action", Action::None, action);
    child.replay_window = section.take_or("replay_window", window, replay_window);
    child.priority = section.take_or("priority", 0, number(0..=u32::MAX));
    child.copy_df = section.take_or("copy_df", true, boolean);
    child.copy_ecn = section.take_or("copy_ecn", true, boolean);
    child.copy_dscp = dscp(section.take_or("copy_dscp", ApiCopyDscp::Out, copy_dscp));
    take_only(section, &ONLY);
    child
}

fn flat(proposals: Option<Vec<Vec<EspProposal>>>) -> Vec<EspProposal> {
    match proposals {
        Some(proposals) => proposals.into_iter().flatten().collect(),
        None => esp_proposals("default").unwrap_or_default(),
    }
}

/// Fixed selectors of both sides must have a pair that some packet can match.
fn refuse_selectors_apart(section: &Table<'_>, child: &ChildConfig) {
    let fixed =
        |specs: &[SelectorSpec]| !specs.is_empty() && specs.iter().all(|spec| spec.range.is_some());
    if !fixed(&child.local_ts) || !fixed(&child.remote_ts) {
        return;
    }
    let meet = child.local_ts.iter().any(|local| {
        child.remote_ts.iter().any(|remote| {
            let protocols =
                local.protocol == remote.protocol || local.protocol == 0 || remote.protocol == 0;
            let family = |spec: &SelectorSpec| spec.range.map(|r| r.0.is_ipv4());
            protocols && family(local) == family(remote)
        })
    });
    if !meet {
        refuse_apart(section);
    }
}

fn refuse_apart(section: &Table<'_>) {
    let text = format!(
        "\"{}\" and local_ts have no family and protocol in common",
        section.path_of("remote_ts")
    );
    section.error_at("remote_ts", text);
}

struct LifetimeKeys {
    rekey: &'static str,
    life: &'static str,
    rand: &'static str,
}

impl LifetimeKeys {
    const TIME: Self = Self {
        rekey: "rekey_time",
        life: "life_time",
        rand: "rand_time",
    };
    const BYTES: Self = Self {
        rekey: "rekey_bytes",
        life: "life_bytes",
        rand: "rand_bytes",
    };
    const PACKETS: Self = Self {
        rekey: "rekey_packets",
        life: "life_packets",
        rand: "rand_packets",
    };
}

/// Soft, hard and random part. With a hard limit alone the soft one is a tenth before it.
fn read_lifetime(
    section: &mut Table<'_>,
    keys: &LifetimeKeys,
    default: u64,
    convert: impl Fn(&str) -> Conversion<u64>,
) -> Lifetime {
    let life = section.take(keys.life, &convert);
    let from_life = life.filter(|life| *life > 0).map(|life| life - life / 10);
    let rekey = section
        .take(keys.rekey, &convert)
        .or(from_life)
        .unwrap_or(default);
    let rand = section.take(keys.rand, &convert);
    if let Some(life) = life.filter(|life| rekey > 0 && *life > 0 && *life <= rekey) {
        let text = format!(
            "\"{}\" ({life}) must be more than {} ({rekey}), else it ends before it is replaced",
            section.path_of(keys.life),
            keys.rekey
        );
        section.error_at(keys.life, text);
    }
    if let Some(rand) = rand.filter(|rand| rekey > 0 && *rand >= rekey) {
        let text = format!(
            "\"{}\" ({rand}) must be less than {} ({rekey}): it is subtracted from it",
            section.path_of(keys.rand),
            keys.rekey
        );
        section.error_at(keys.rand, text);
    }
    Lifetime {
        rekey,
        life: life.filter(|life| *life > 0),
        rand,
    }
}

fn start_action(word: &str) -> Conversion<StartAction> {
    let mut out = StartAction::default();
    for part in word.split(['|', '+']).map(str::trim) {
        match part {
            "none" => {}
            "trap" | "route" => out.trap = true,
            "start" => out.start = true,
            _ => {
                let known = ["none", "trap", "start"];
                let near = hint(part, known);
                return Err(format!("must be none, trap, start or \"trap|start\"{near}"));
            }
        }
    }
    Ok(out)
}

fn action(word: &str) -> Conversion<Action> {
    choice(&[
        ("none", Action::None),
        ("trap", Action::Trap),
        ("start", Action::Start),
        ("clear", Action::None),
        ("route", Action::Trap),
        ("hold", Action::Trap),
        ("restart", Action::Start),
    ])(word)
}

fn dscp(copy: ApiCopyDscp) -> CopyDscp {
    match copy {
        ApiCopyDscp::Out => CopyDscp::Out,
        ApiCopyDscp::In => CopyDscp::In,
        ApiCopyDscp::Both => CopyDscp::Both,
        ApiCopyDscp::No => CopyDscp::No,
    }
}

fn read_shunt(section: &mut Table<'_>, connection: &str, action: ShuntAction) -> Shunt {
    let mut side = |key| {
        if !section.has(key) {
            let text = format!(
                "\"{}\" is missing: a shunt has no peer",
                section.path_of(key)
            );
            section.error(text);
        }
        let fixed = |word: &str| match selector::traffic_selector(word)? {
            selector::TrafficSelector {
                addresses: selector::Addresses::Dynamic,
                ..
            } => Err("cannot be dynamic in a shunt: write a subnet".to_owned()),
            selector => Ok(selector),
        };
        section.take_list(key, fixed).unwrap_or_default()
    };
    let (local, remote) = (side("local_ts"), side("remote_ts"));
    let selectors = selector::pairs(&local, &remote);
    if selectors.is_empty() && !local.is_empty() && !remote.is_empty() {
        refuse_apart(section);
    }
    let start = section.take_or("start_action", StartAction::default(), start_action);
    if !start.trap && !start.start {
        let text = format!(
            "\"{}\" must be \"trap\": a shunt stands from the start or never",
            section.path_of("start_action")
        );
        section.error_at("start_action", text);
    }
    Shunt {
        connection: connection.to_owned(),
        name: section.own_name().to_owned(),
        action,
        priority: section.take_or("priority", 0, number(0..=u32::MAX)),
        selectors: selectors.into_iter().map(pair).collect(),
    }
}

fn pair(pair: selector::SelectorPair) -> SelectorPair {
    SelectorPair {
        local: pair.local,
        remote: pair.remote,
        protocol: pair.protocol,
        local_ports: pair.local_ports,
        remote_ports: pair.remote_ports,
    }
}

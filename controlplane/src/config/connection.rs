//! `[connections.NAME]` and its `local` and `remote` sections.

use api::config::values::{boolean, choice, number, seconds};
use api::config::{Conversion, Table};
use ike::auth::Identity;
use ike::config::{AddressSpec, Childless, Connection, Secret, Unique};
use ike::proposal::IkeProposal;

use super::child::{self, Shunt};
use super::keywords::{address_spec, identity, ike_proposals};
use super::{CHILDREN_MAX, CONNECTIONS_MAX, refuse_name, secret, take_only};

const DPD_DELAY_DEFAULT_S: u64 = 30;
const REKEY_DEFAULT_S: u64 = 4 * 3_600;

/// Keys of swanctl.conf that are taken with the value that is built.
const ONLY: [(&str, &str); 12] = [
    ("mobike", "no"),
    ("aggressive", "no"),
    ("reauth_time", "0"),
    ("dscp", "000000"),
    ("send_certreq", "no"),
    ("ppk_required", "no"),
    ("mediation", "no"),
    ("pull", "yes"),
    ("dpd_timeout", "0"),
    ("if_id_in", "0"),
    ("if_id_out", "0"),
    ("send_cert", "ifasked"),
];

const UNBUILT: [&str; 6] = [
    "vips",
    "ocsp",
    "ppk_id",
    "pools",
    "mediated_by",
    "mediation_peer",
];

/// Keys of `local` and `remote` that come with certificates, EAP and XAuth.
const AUTH_UNBUILT: [&str; 14] = [
    "certs",
    "cert",
    "pubkeys",
    "eap_id",
    "aaa_id",
    "xauth_id",
    "ca_id",
    "cacerts",
    "cacert",
    "groups",
    "cert_policy",
    "revocation",
    "file",
    "handle",
];

pub(super) fn read(
    root: &mut Table<'_>,
    replay_window: u32,
    secrets: &[Secret],
) -> (Vec<Connection>, Vec<Shunt>) {
    let mut shunts = Vec::new();
    let mut connections = Vec::new();
    let Some(mut table) = root.take_table("connections") else {
        return (connections, shunts);
    };
    for mut section in table.take_named() {
        if connections.len() == CONNECTIONS_MAX {
            section.error(format!("more than {CONNECTIONS_MAX} connections"));
            break;
        }
        let connection = read_one(&mut section, replay_window, &mut shunts);
        if let Some((connection, psk)) = connection {
            if psk {
                refuse_without_secret(&section, &connection, secrets);
            }
            connections.push(connection);
        }
    }
    (connections, shunts)
}

/// The connection, and whether it authenticates with a shared key: other ways have been reported.
fn read_one(
    section: &mut Table<'_>,
    replay_window: u32,
    shunts: &mut Vec<Shunt>,
) -> Option<(Connection, bool)> {
    refuse_name(section);
    section.take("version", version);
    section.take("fragmentation", fragmentation);
    let proposals = section.take_list("proposals", ike_proposals);
    let local = read_auth(section, "local");
    let remote = read_auth(section, "remote");
    let remote_id = match remote.id {
        Some(id) => id,
        None => identity("%any").ok()?,
    };
    let shunts_before = shunts.len();
    let mut connection = Connection::new(section.own_name(), flat(proposals), remote_id);
    connection.local_id = local.id;
    read_addresses(section, &mut connection);
    read_lifetimes(section, &mut connection);
    read_behaviour(section, &mut connection);
    take_only(section, &ONLY);
    connection.children = child::read(section, replay_window, shunts);
    if connection.children.len() > CHILDREN_MAX {
        section.error_at("children", format!("more than {CHILDREN_MAX} children"));
    }
    refuse_start_without_peer(section, &connection);
    section.finish(&UNBUILT);
    // A connection of shunts alone needs no peer and no authentication.
    let only_shunts = connection.children.is_empty() && shunts.len() > shunts_before;
    if !only_shunts {
        refuse_without_auth(section, local.said, "local");
        refuse_without_auth(section, remote.said, "remote");
    }
    let psk = local.psk || remote.psk;
    (!only_shunts).then_some((connection, psk))
}

fn flat(proposals: Option<Vec<Vec<IkeProposal>>>) -> Vec<IkeProposal> {
    match proposals {
        Some(proposals) => proposals.into_iter().flatten().collect(),
        None => ike_proposals("default").unwrap_or_default(),
    }
}

fn version(word: &str) -> Conversion<()> {
    match word {
        "0" | "2" => Ok(()),
        "1" => Err("1 (IKEv1) is known, but not built yet: write 2".to_owned()),
        _ => Err("must be 2 (IKEv2), or 0 for every version that is built".to_owned()),
    }
}

/// Own messages are never fragmented, which is all that `accept` and `no` ask for.
fn fragmentation(word: &str) -> Conversion<()> {
    if word == "accept" || boolean(word) == Ok(false) {
        Ok(())
    } else {
        Err("is known, but not built yet: write \"no\"".to_owned())
    }
}

fn read_addresses(section: &mut Table<'_>, connection: &mut Connection) {
    connection.local_addrs = section
        .take_list("local_addrs", address_spec)
        .unwrap_or_default();
    connection.remote_addrs = section
        .take_list("remote_addrs", address_spec)
        .unwrap_or_default();
    let ports = || number(1..=u16::MAX);
    connection.local_port = section.take_or("local_port", connection.local_port, ports());
    connection.remote_port = section.take_or("remote_port", connection.remote_port, ports());
    let families = |specs: &[AddressSpec], v6: bool| {
        specs.is_empty() || specs.iter().any(|spec| is_of(spec, v6))
    };
    let (local, remote) = (&connection.local_addrs, &connection.remote_addrs);
    let meet = |v6| families(local, v6) && families(remote, v6);
    if !meet(false) && !meet(true) {
        let text = format!(
            "\"{}\" and local_addrs have no address family in common",
            section.path_of("remote_addrs")
        );
        section.error_at("remote_addrs", text);
    }
}

fn is_of(spec: &AddressSpec, v6: bool) -> bool {
    match spec {
        AddressSpec::Any => true,
        AddressSpec::AnyOf { v6: wanted } => *wanted == v6,
        AddressSpec::Range(first, _) => first.is_ipv6() == v6,
    }
}

fn read_lifetimes(section: &mut Table<'_>, connection: &mut Connection) {
    connection.rekey_time_s = section.take_or("rekey_time", REKEY_DEFAULT_S, seconds);
    connection.over_time_s = section.take("over_time", seconds);
    connection.rand_time_s = section.take("rand_time", seconds);
    let (rekey, rand) = (connection.rekey_time_s, connection.rand_time_s);
    if rekey > 0 && rand.is_some_and(|rand| rand >= rekey) {
        let text = format!(
            "\"{}\" must be shorter than rekey_time ({rekey} s): it is subtracted from it",
            section.path_of("rand_time")
        );
        section.error_at("rand_time", text);
    }
    connection.dpd_delay_s = section.take_or("dpd_delay", DPD_DELAY_DEFAULT_S, seconds);
}

fn read_behaviour(section: &mut Table<'_>, connection: &mut Connection) {
    connection.encap = section.take_or("encap", false, boolean);
    connection.keyingtries = section.take_or("keyingtries", 1, tries);
    let unique = choice(&[
        ("no", Unique::No),
        ("never", Unique::Never),
        ("keep", Unique::Keep),
        ("replace", Unique::Replace),
    ]);
    connection.unique = section.take_or("unique", Unique::No, unique);
    let childless = choice(&[
        ("allow", Childless::Allow),
        ("prefer", Childless::Prefer),
        ("force", Childless::Force),
        ("never", Childless::Never),
    ]);
    connection.childless = section.take_or("childless", Childless::Allow, childless);
}

/// `keyingtries = %forever` of older files is 0.
fn tries(word: &str) -> Conversion<u32> {
    if word == "%forever" {
        Ok(0)
    } else {
        number(0..=u32::MAX)(word)
    }
}

/// What one side says about authentication.
struct Auth {
    id: Option<Identity>,
    /// Whether it says something.
    said: bool,
    psk: bool,
}

/// The section `local` or `remote`, which may have a suffix (`local-1`).
fn read_auth(section: &mut Table<'_>, side: &'static str) -> Auth {
    let mut auth = Auth {
        id: None,
        said: false,
        psk: false,
    };
    let rounds = section.take_tables_suffixed(side);
    for (index, mut round) in rounds.into_iter().enumerate() {
        if index > 0 {
            let text = format!(
                "a second round \"{}\" is known, but not built yet",
                round.name()
            );
            round.error(text);
        }
        auth.said |= round.has("auth");
        auth.psk |= round.take("auth", psk).is_some();
        auth.id = round.take("id", identity);
        round.take("round", number(0..=u32::MAX));
        round.finish(&AUTH_UNBUILT);
    }
    auth
}

fn psk(word: &str) -> Conversion<()> {
    let later = [
        "pubkey", "rsa", "ecdsa", "ed25519", "ed448", "eap", "xauth", "ike:", "any",
    ];
    match word {
        "psk" => Ok(()),
        word if later.iter().any(|known| word.starts_with(known)) => Err(format!(
            "= \"{word}\" is known, but not built yet: write \"psk\""
        )),
        _ => Err(format!("must be \"psk\", not \"{word}\"")),
    }
}

fn refuse_without_auth(section: &Table<'_>, said: bool, side: &str) {
    if !said {
        let text = format!(
            "\"{}.auth\" is missing: its default \"pubkey\" is not built yet: write auth = \"psk\"",
            section.path_of(side)
        );
        section.error(text);
    }
}

fn refuse_start_without_peer(section: &Table<'_>, connection: &Connection) {
    let single = |spec: &AddressSpec| matches!(spec, AddressSpec::Range(a, b) if a == b);
    let starts = connection
        .children
        .iter()
        .find(|child| child.start_action.start);
    if let Some(child) = starts.filter(|_| !connection.remote_addrs.iter().any(single)) {
        let text = format!(
            "child \"{}\" has start_action = \"start\", but \"{}\" has no single address to call",
            child.name,
            section.path_of("remote_addrs")
        );
        section.error_at("remote_addrs", text);
    }
}

/// Without a secret for it a connection cannot authenticate.
fn refuse_without_secret(section: &Table<'_>, connection: &Connection, secrets: &[Secret]) {
    if secrets.iter().any(|one| secret::may_serve(one, connection)) {
        return;
    }
    let local = match &connection.local_id {
        Some(id) => format!("\"{id}\""),
        None => "the own address".to_owned(),
    };
    section.error(format!(
        "\"{}\" has no secret for {local} and \"{}\": write a [secrets.ike-NAME] with one of \
         them as id, or without id for every peer",
        section.name(),
        connection.remote_id
    ));
}

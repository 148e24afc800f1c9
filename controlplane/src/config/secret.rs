//! `[secrets.ike-NAME]`.

use std::collections::HashMap;

use api::config::values::hex;
use api::config::{Conversion, Table, has_suffix, hint};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ike::auth::Identity;
use ike::config::{AddressSpec, Connection, Secret};
use ike::wire::IdType;
use zeroize::Zeroizing;

use super::keywords::identity;

/// Longest secret, bytes.
const SECRET_MAX_BYTES: usize = 4_096;

/// Prefixes of section names whose secrets come later.
const UNBUILT: [&str; 10] = [
    "eap", "xauth", "ntlm", "ppk", "private", "rsa", "ecdsa", "pkcs8", "pkcs12", "token",
];

/// Reads all secrets; `mode` is that of the file, 0 if there is none.
pub(super) fn read(root: &mut Table<'_>, mode: u32) -> Vec<Secret> {
    let Some(mut table) = root.take_table("secrets") else {
        return Vec::new();
    };
    if mode & 0o077 != 0 {
        let text = format!(
            "others than the owner may open this file of secrets (mode {:03o}): \
             chmod 600",
            mode & 0o777
        );
        table.warn_at("secrets", text);
    }
    let mut secrets = Vec::new();
    let mut owners = HashMap::new();
    for mut section in table.take_named() {
        if !is_ike(&section) {
            continue;
        }
        let secret = read_one(&mut section);
        section.finish(&["file", "handle", "slot", "module", "pin"]);
        let Some((ids, secret)) = secret else {
            continue;
        };
        refuse_twice(&section, ids, &mut owners);
        secrets.push(secret);
    }
    secrets
}

fn is_ike(section: &Table<'_>) -> bool {
    let name = section.own_name();
    if has_suffix(name, "ike") {
        return true;
    }
    let text = match UNBUILT.iter().find(|prefix| has_suffix(name, prefix)) {
        Some(prefix) => {
            format!(
                "\"{}\": secrets of type \"{prefix}\" are known, but not built yet: remove it",
                section.name()
            )
        }
        None => {
            let prefix = name.split('-').next().unwrap_or_default();
            let near = hint(prefix, UNBUILT.iter().copied().chain(["ike"]));
            format!(
                "\"{}\" must start with \"ike\", such as [secrets.ike-1]{near}",
                section.name()
            )
        }
    };
    section.error(text);
    false
}

fn read_one(section: &mut Table<'_>) -> Option<(Vec<String>, Secret)> {
    if !section.has("secret") {
        let text = format!(
            "\"{}\" is missing: the shared key in quotes",
            section.path_of("secret")
        );
        section.error(text);
    }
    let key = section.take_secret("secret", secret);
    let both = |word: &str| identity(word).map(|id| (word.to_owned(), id));
    let typed: Vec<(String, Identity)> = section.take_values_suffixed("id", both);
    let (mut names, ids): (Vec<_>, Vec<_>) = typed.into_iter().unzip();
    names.sort();
    names.dedup();
    Some((names, Secret { ids, key: key? }))
}

/// Text, 0x hex or 0s base64. No message repeats any of it.
fn secret(word: &str) -> Conversion<Zeroizing<Vec<u8>>> {
    let key = if let Some(digits) = word.strip_prefix("0x") {
        hex(digits)?
    } else if let Some(encoded) = word.strip_prefix("0s") {
        let decoded = STANDARD.decode(encoded);
        Zeroizing::new(decoded.map_err(|_| "starts with 0s, but is not base64".to_owned())?)
    } else {
        Zeroizing::new(word.as_bytes().to_vec())
    };
    if key.is_empty() || key.len() > SECRET_MAX_BYTES {
        return Err(format!("must have 1 to {SECRET_MAX_BYTES} bytes"));
    }
    Ok(key)
}

/// Two secrets of the same owners: only one could ever be used.
fn refuse_twice(section: &Table<'_>, ids: Vec<String>, owners: &mut HashMap<Vec<String>, String>) {
    let name = section.name().to_owned();
    if let Some(other) = owners.insert(ids, name.clone()) {
        let text = format!("\"{name}\" is for the same identities as \"{other}\": remove one");
        section.error(text);
    }
}

/// Whether this secret could be the one of a connection: one of its owners is one of the ends.
pub(super) fn may_serve(secret: &Secret, connection: &Connection) -> bool {
    let remote = &connection.remote_id;
    // Without an own identity the address is used, which need not be known here.
    let local = |id: &Identity| match &connection.local_id {
        Some(local) => id.matches(local),
        None => is_own_address(id, connection),
    };
    let owner = |id: &Identity| id.matches(remote) || remote.matches(id) || local(id);
    secret.ids.is_empty() || secret.ids.iter().any(owner)
}

fn is_own_address(id: &Identity, connection: &Connection) -> bool {
    let Identity::Named {
        kind: IdType::IPV4_ADDR | IdType::IPV6_ADDR,
        ..
    } = id
    else {
        return *id == Identity::Any;
    };
    let is = |spec: &AddressSpec| match spec {
        AddressSpec::Range(first, last) if first == last => id.matches(&Identity::address(*first)),
        _ => true,
    };
    connection.local_addrs.is_empty() || connection.local_addrs.iter().any(is)
}

//! Words whose meaning crate `ike` knows: proposals, identities, addresses, selectors.

use std::net::IpAddr;

use api::config::Conversion;
use api::config::selector::{Addresses, traffic_selector};
use ike::SelectorSpec;
use ike::auth::{Identity, IdentityError};
use ike::config::AddressSpec;
use ike::proposal::{EspProposal, IkeProposal, ProposalError};

/// One IKE proposal, or several for `default`.
pub(super) fn ike_proposals(word: &str) -> Conversion<Vec<IkeProposal>> {
    if word.eq_ignore_ascii_case("default") {
        return Ok(IkeProposal::defaults());
    }
    word.parse()
        .map(|proposal| vec![proposal])
        .map_err(|e: ProposalError| format!("is wrong: {e}"))
}

/// One ESP proposal, or several for `default`.
pub(super) fn esp_proposals(word: &str) -> Conversion<Vec<EspProposal>> {
    if word.eq_ignore_ascii_case("default") {
        return Ok(EspProposal::defaults());
    }
    word.parse()
        .map(|proposal| vec![proposal])
        .map_err(|e: ProposalError| format!("is wrong: {e}"))
}

/// An identity as swanctl.conf types it.
pub(super) fn identity(word: &str) -> Conversion<Identity> {
    word.parse()
        .map_err(|e: IdentityError| format!("is wrong: {e}"))
}

/// An address, a network, a range, `%any`, `%any4` or `%any6`.
pub(super) fn address_spec(word: &str) -> Conversion<AddressSpec> {
    match word {
        "%any" | "0.0.0.0/0, ::/0" => return Ok(AddressSpec::Any),
        "%any4" | "0.0.0.0" => return Ok(AddressSpec::AnyOf { v6: false }),
        "%any6" | "::" => return Ok(AddressSpec::AnyOf { v6: true }),
        _ => {}
    }
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(AddressSpec::single(address));
    }
    let is_name = |word: &str| word.contains(|c: char| c.is_ascii_alphabetic() && c > 'f');
    if is_name(word) && !word.contains([':', '/', '[']) {
        return Err(format!(
            "has the DNS name \"{word}\": names are known, but not built yet: write the address"
        ));
    }
    match traffic_selector(word) {
        Ok(selector) if !word.contains('[') => match selector.addresses {
            Addresses::Range(first, last) => Ok(AddressSpec::Range(first, last)),
            Addresses::Dynamic => Ok(AddressSpec::Any),
        },
        _ => Err(format!(
            "must be an address, a network, a range or %any, not \"{word}\""
        )),
    }
}

/// A traffic selector, which may be `dynamic`.
pub(super) fn selector(word: &str) -> Conversion<SelectorSpec> {
    let selector = traffic_selector(word)?;
    let range = match selector.addresses {
        Addresses::Range(first, last) => Some((first, last)),
        Addresses::Dynamic => None,
    };
    Ok(SelectorSpec {
        range,
        protocol: selector.protocol,
        ports: selector.ports,
    })
}

//! Proposals: what the configuration allows, what goes into SA payloads, and what was agreed
//! (RFC 7296 2.7 and 3.3).

mod keyword;
mod parse;
mod select;
mod suite;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use parse::ProposalError;
pub use select::{Choice, EspChoice, IkeChoice, accept_esp, accept_ike, select_esp, select_ike};
pub use suite::{EspSuite, IkeSuite};

use crate::wire::{KeGroup, Proposal, ProtocolId, Transform, TransformType};

/// Default IKE proposals as swanctl would write them: AEADs, then CBC with HMAC.
pub const DEFAULT_IKE: [&str; 2] = [
    "aes256gcm16-aes128gcm16-prfsha384-prfsha256-prfsha512-x25519-ecp384-ecp256-modp3072-modp2048",
    "aes256-aes128-sha256-sha384-sha512-prfsha384-prfsha256-prfsha512\
     -x25519-ecp384-ecp256-modp3072-modp2048",
];

/// Default ESP proposal.
pub const DEFAULT_ESP: [&str; 1] = ["aes256gcm16-aes128gcm16-esn-noesn"];

/// A configured proposal for IKE SAs: transforms by type, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal(Vec<Transform>);

/// A configured proposal for ESP SAs: transforms by type, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal(Vec<Transform>);

macro_rules! configured {
    ($name:ident, $defaults:ident, $parse:path) => {
        impl FromStr for $name {
            type Err = ProposalError;

            /// Reads one proposal: keywords of swanctl joined by `-`.
            fn from_str(text: &str) -> Result<Self, ProposalError> {
                $parse(text).map(Self)
            }
        }

        impl $name {
            /// Reads a list of proposals, in which `default` stands for the default ones.
            ///
            /// # Errors
            /// `ProposalError` of the first text that is not a proposal.
            pub fn parse_list(texts: &[impl AsRef<str>]) -> Result<Vec<Self>, ProposalError> {
                let mut list = Vec::new();
                for text in texts.iter().map(|text| text.as_ref().trim()) {
                    match text {
                        "default" => list.extend(Self::defaults()),
                        _ => list.push(text.parse()?),
                    }
                }
                Ok(list)
            }

            /// The default proposals.
            #[must_use]
            pub fn defaults() -> Vec<Self> {
                $defaults
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect()
            }

            /// Key exchange methods in order of preference; NONE among them makes one optional.
            pub fn groups(&self) -> impl Iterator<Item = KeGroup> + '_ {
                of_kind(&self.0, TransformType::KE).map(|transform| KeGroup(transform.id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                suite::write_names(&self.0, f)
            }
        }
    };
}

configured!(IkeProposal, DEFAULT_IKE, parse::ike);
configured!(EspProposal, DEFAULT_ESP, parse::esp);

/// Proposals for an SA payload: without SPI for a first IKE SA, with that of the new one for a
/// rekey (RFC 7296 3.3.1).
#[must_use]
pub fn offer_ike(ours: &[IkeProposal], spi: Option<u64>) -> Vec<Proposal> {
    let spi = spi
        .map(|spi| spi.to_be_bytes().to_vec())
        .unwrap_or_default();
    let offers = ours.iter().map(|offer| offer.0.clone());
    numbered(ProtocolId::IKE, &spi, offers)
}

/// Proposals for an SA payload with our inbound SPI. `key_exchange` is false in IKE_AUTH, where no
/// Child SA has a key exchange of its own (RFC 7296 1.2).
#[must_use]
pub fn offer_esp(ours: &[EspProposal], spi: u32, key_exchange: bool) -> Vec<Proposal> {
    let keep = |transform: &&Transform| key_exchange || transform.kind != TransformType::KE;
    let offers = ours
        .iter()
        .map(|offer| offer.0.iter().filter(keep).cloned().collect());
    numbered(ProtocolId::ESP, &spi.to_be_bytes(), offers)
}

fn numbered(
    protocol: ProtocolId,
    spi: &[u8],
    offers: impl Iterator<Item = Vec<Transform>>,
) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = Vec::new();
    // Without their key exchange two proposals can become the same one.
    for transforms in offers.take(crate::wire::MAX_PROPOSALS) {
        if proposals
            .iter()
            .all(|proposal| proposal.transforms != transforms)
        {
            let number = u8::try_from(proposals.len() + 1).unwrap_or(u8::MAX);
            proposals.push(Proposal {
                number,
                protocol,
                spi: spi.to_vec(),
                transforms,
            });
        }
    }
    proposals
}

fn of_kind(transforms: &[Transform], kind: TransformType) -> impl Iterator<Item = &Transform> {
    transforms
        .iter()
        .filter(move |transform| transform.kind == kind)
}

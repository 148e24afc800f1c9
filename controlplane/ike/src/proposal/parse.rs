//! Reading of proposal strings.

use std::fmt;

use super::keyword::{Keyword, Meaning, Place, look_up};
use super::of_kind;
use crate::wire::{EncrId, Esn, IntegId, PrfId, Transform, TransformType};

/// Transforms that one proposal may hold: the count on the wire is one byte, less what is implied.
const MAX_WORDS: usize = 64;

/// Longest keyword worth comparing with the known ones.
const MAX_WORD_BYTES: usize = 64;

/// Why a text is not a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalError {
    /// No keyword has this name.
    Unknown {
        /// What was written.
        keyword: String,
        /// The nearest keyword there is.
        nearest: &'static str,
    },
    /// swanctl has the keyword, this program does not build the algorithm yet.
    Unbuilt(String),
    /// The algorithm is built, but not for this protocol.
    NotHere {
        /// What was written.
        keyword: String,
        /// "IKE" or "ESP".
        protocol: &'static str,
    },
    /// Nothing of a kind that the proposal needs.
    Missing(&'static str),
    /// AEAD and other ciphers in one proposal (RFC 7296 3.3).
    Mixed,
    /// More keywords than a proposal can hold.
    TooLong,
}

impl fmt::Display for ProposalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { keyword, nearest } => {
                write!(
                    f,
                    "unknown algorithm \"{keyword}\"; the nearest known one is \"{nearest}\""
                )
            }
            Self::Unbuilt(keyword) => write!(f, "algorithm \"{keyword}\" is not supported yet"),
            Self::NotHere { keyword, protocol } => {
                write!(
                    f,
                    "algorithm \"{keyword}\" is not supported in {protocol} proposals"
                )
            }
            Self::Missing(what) => write!(f, "proposal names no {what}"),
            Self::Mixed => f.write_str(
                "proposal mixes AEAD and other encryption algorithms; write two proposals",
            ),
            Self::TooLong => write!(f, "proposal has more than {MAX_WORDS} keywords"),
        }
    }
}

impl std::error::Error for ProposalError {}

/// Reads an IKE proposal. Like swanctl, an integrity algorithm also stands for its PRF where no PRF
/// is named, and does only that with an AEAD.
pub(super) fn ike(text: &str) -> Result<Vec<Transform>, ProposalError> {
    let mut all = words(text, Place::Ike)?;
    let aead = is_aead(&all)?;
    if of_kind(&all, TransformType::PRF).next().is_none() {
        let prfs: Vec<Transform> = of_kind(&all, TransformType::INTEG)
            .filter_map(prf_of)
            .collect();
        all.extend(prfs);
    }
    if aead {
        all.retain(|transform| transform.kind != TransformType::INTEG);
    } else {
        need(
            &all,
            TransformType::INTEG,
            "integrity algorithm (such as sha256)",
        )?;
    }
    need(
        &all,
        TransformType::PRF,
        "pseudo-random function (such as prfsha256)",
    )?;
    need(
        &all,
        TransformType::KE,
        "key exchange method (such as x25519)",
    )?;
    Ok(sorted(all))
}

/// Reads an ESP proposal. Sequence numbers of 32 bits unless `esn` is named.
pub(super) fn esp(text: &str) -> Result<Vec<Transform>, ProposalError> {
    let mut all = words(text, Place::Esp)?;
    if is_aead(&all)? {
        all.retain(|transform| transform.kind != TransformType::INTEG);
    } else {
        need(
            &all,
            TransformType::INTEG,
            "integrity algorithm (such as sha256)",
        )?;
    }
    if of_kind(&all, TransformType::ESN).next().is_none() {
        all.push(Transform::new(TransformType::ESN, Esn::NO.0));
    }
    Ok(sorted(all))
}

fn words(text: &str, place: Place) -> Result<Vec<Transform>, ProposalError> {
    let mut all = Vec::new();
    if text.trim().is_empty() {
        return Err(ProposalError::Missing("algorithm"));
    }
    for (index, word) in text.trim().split('-').map(str::trim).enumerate() {
        if word.is_empty() {
            return Err(ProposalError::Missing("algorithm between two dashes"));
        }
        if index >= MAX_WORDS {
            return Err(ProposalError::TooLong);
        }
        let transform = word_for(word, place)?.transform();
        if !all.contains(&transform) {
            all.push(transform);
        }
    }
    Ok(all)
}

fn word_for(word: &str, place: Place) -> Result<Keyword, ProposalError> {
    let short: String = word.chars().take(MAX_WORD_BYTES).collect();
    match look_up(&short) {
        Meaning::Built(keyword) if keyword.place == place || keyword.place == Place::Both => {
            Ok(keyword)
        }
        Meaning::Built(_) => {
            let protocol = if place == Place::Ike { "IKE" } else { "ESP" };
            Err(ProposalError::NotHere {
                keyword: short,
                protocol,
            })
        }
        Meaning::Unbuilt => Err(ProposalError::Unbuilt(short)),
        Meaning::Unknown { nearest } => Err(ProposalError::Unknown {
            keyword: short,
            nearest,
        }),
    }
}

/// True if every cipher is an AEAD, false if none is.
fn is_aead(all: &[Transform]) -> Result<bool, ProposalError> {
    need(
        all,
        TransformType::ENCR,
        "encryption algorithm (such as aes256gcm16)",
    )?;
    let aead = |transform: &Transform| EncrId(transform.id) == EncrId::AES_GCM_16;
    let count = of_kind(all, TransformType::ENCR)
        .filter(|transform| aead(transform))
        .count();
    match count {
        0 => Ok(false),
        _ if count == of_kind(all, TransformType::ENCR).count() => Ok(true),
        _ => Err(ProposalError::Mixed),
    }
}

fn need(all: &[Transform], kind: TransformType, what: &'static str) -> Result<(), ProposalError> {
    of_kind(all, kind)
        .next()
        .map(|_| ())
        .ok_or(ProposalError::Missing(what))
}

fn prf_of(integ: &Transform) -> Option<Transform> {
    let prf = match IntegId(integ.id) {
        IntegId::HMAC_SHA2_256_128 => PrfId::HMAC_SHA2_256,
        IntegId::HMAC_SHA2_384_192 => PrfId::HMAC_SHA2_384,
        IntegId::HMAC_SHA2_512_256 => PrfId::HMAC_SHA2_512,
        _ => return None,
    };
    Some(Transform::new(TransformType::PRF, prf.0))
}

/// Types together, each in the order of the text: strongSwan's names and ours then agree.
fn sorted(mut all: Vec<Transform>) -> Vec<Transform> {
    all.sort_by_key(|transform| match transform.kind {
        TransformType::ENCR => 0,
        TransformType::INTEG => 1,
        TransformType::PRF => 2,
        TransformType::KE => 3,
        _ => 4,
    });
    all
}

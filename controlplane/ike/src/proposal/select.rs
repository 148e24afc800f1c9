//! Choosing one suite from an SA payload (RFC 7296 2.7, 3.3.6).

use super::suite::{EspSuite, IkeSuite};
use super::{EspProposal, IkeProposal, of_kind};
use crate::wire::{Esn, IntegId, KeGroup, Proposal, ProtocolId, Transform, TransformType};

/// What one proposal of an SA payload came down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<S> {
    /// One algorithm of each type.
    pub suite: S,
    /// SPI that the peer put into the proposal.
    pub spi: Vec<u8>,
    number: u8,
    protocol: ProtocolId,
    transforms: Vec<Transform>,
}

/// Choice for an IKE SA.
pub type IkeChoice = Choice<IkeSuite>;

/// Choice for an ESP Child SA.
pub type EspChoice = Choice<EspSuite>;

impl<S> Choice<S> {
    /// The SA payload that accepts the proposal, with our own SPI (empty for a first IKE SA).
    #[must_use]
    pub fn answer(&self, spi: &[u8]) -> Vec<Proposal> {
        vec![Proposal {
            number: self.number,
            protocol: self.protocol,
            spi: spi.to_vec(),
            transforms: self.transforms.clone(),
        }]
    }
}

impl IkeChoice {
    /// The peer's SPI of the new IKE SA of a rekey.
    #[must_use]
    pub fn spi_u64(&self) -> Option<u64> {
        self.spi.as_slice().try_into().ok().map(u64::from_be_bytes)
    }
}

impl EspChoice {
    /// The peer's inbound SPI.
    #[must_use]
    pub fn spi_u32(&self) -> Option<u32> {
        self.spi.as_slice().try_into().ok().map(u32::from_be_bytes)
    }
}

const IKE_KINDS: &[TransformType] = &[
    TransformType::ENCR,
    TransformType::INTEG,
    TransformType::PRF,
    TransformType::KE,
];
const ESP_KINDS: &[TransformType] = &[
    TransformType::ENCR,
    TransformType::INTEG,
    TransformType::KE,
    TransformType::ESN,
];

/// What a proposal is searched for.
#[derive(Clone, Copy)]
struct Terms {
    protocol: ProtocolId,
    spi_bytes: usize,
    kinds: &'static [TransformType],
    /// False: no key exchange takes place, whatever the proposals say about it.
    key_exchange: bool,
    /// Method of the KE payload that came with the proposals.
    group: Option<KeGroup>,
}

impl Terms {
    const fn ike(rekey: bool, group: Option<KeGroup>) -> Self {
        let spi_bytes = if rekey { 8 } else { 0 };
        let protocol = ProtocolId::IKE;
        Self {
            protocol,
            spi_bytes,
            kinds: IKE_KINDS,
            key_exchange: true,
            group,
        }
    }

    const fn esp(key_exchange: bool, group: Option<KeGroup>) -> Self {
        let protocol = ProtocolId::ESP;
        Self {
            protocol,
            spi_bytes: 4,
            kinds: ESP_KINDS,
            key_exchange,
            group,
        }
    }

    fn fits(self, proposal: &Proposal) -> bool {
        proposal.protocol == self.protocol && proposal.spi.len() == self.spi_bytes
    }

    fn kinds(self) -> impl Iterator<Item = TransformType> {
        let wanted = move |kind: &TransformType| self.key_exchange || *kind != TransformType::KE;
        self.kinds.iter().copied().filter(wanted)
    }
}

/// Responder's choice for an IKE SA: the first of our proposals that has a common suite with one of
/// the peer's. Our order of algorithms counts, but for the key exchange: a method that we allow and
/// whose data came with the request (`group`) saves a round trip.
#[must_use]
pub fn select_ike(
    ours: &[IkeProposal],
    offered: &[Proposal],
    rekey: bool,
    group: Option<KeGroup>,
) -> Option<IkeChoice> {
    let ours = ours.iter().map(|proposal| proposal.0.as_slice());
    select(ours, offered, Terms::ike(rekey, group), IkeSuite::new)
}

/// Responder's choice for a Child SA, as `select_ike`. `key_exchange` is false in IKE_AUTH; else
/// the suite's group may still be NONE.
#[must_use]
pub fn select_esp(
    ours: &[EspProposal],
    offered: &[Proposal],
    key_exchange: bool,
    group: Option<KeGroup>,
) -> Option<EspChoice> {
    let ours = ours.iter().map(|proposal| proposal.0.as_slice());
    select(
        ours,
        offered,
        Terms::esp(key_exchange, group),
        EspSuite::new,
    )
}

/// Initiator's check of the answer for an IKE SA: one proposal, a subset of the one that we sent
/// under that number, with one transform of each type (RFC 7296 3.3.6).
#[must_use]
pub fn accept_ike(sent: &[Proposal], answer: &[Proposal], rekey: bool) -> Option<IkeChoice> {
    accept(sent, answer, Terms::ike(rekey, None), IkeSuite::new)
}

/// Initiator's check of the answer for a Child SA, as `accept_ike`.
#[must_use]
pub fn accept_esp(sent: &[Proposal], answer: &[Proposal], key_exchange: bool) -> Option<EspChoice> {
    accept(sent, answer, Terms::esp(key_exchange, None), EspSuite::new)
}

fn select<'a, S>(
    ours: impl Iterator<Item = &'a [Transform]>,
    offered: &[Proposal],
    terms: Terms,
    suite: impl Fn(&[Transform]) -> Option<S>,
) -> Option<Choice<S>> {
    for ours in ours {
        for theirs in offered.iter().filter(|proposal| terms.fits(proposal)) {
            let Some(full) = combine(ours, &theirs.transforms, terms) else {
                continue;
            };
            let Some(suite) = suite(&full) else { continue };
            // Answer with one transform of each type that the proposal has, and no other type.
            let named = |t: &Transform| of_kind(&theirs.transforms, t.kind).next().is_some();
            let transforms = full.into_iter().filter(named).collect();
            return Some(Choice {
                suite,
                spi: theirs.spi.clone(),
                number: theirs.number,
                protocol: theirs.protocol,
                transforms,
            });
        }
    }
    None
}

/// One transform of each type that both sides list.
fn combine(ours: &[Transform], theirs: &[Transform], terms: Terms) -> Option<Vec<Transform>> {
    // RFC 7296 3.3.6: a type that we do not understand makes the proposal unacceptable.
    if theirs
        .iter()
        .any(|transform| !terms.kinds.contains(&transform.kind))
    {
        return None;
    }
    terms
        .kinds()
        .map(|kind| {
            let ours = options(ours, kind);
            let theirs = options(theirs, kind);
            let in_hand =
                |t: &&Transform| kind == TransformType::KE && Some(KeGroup(t.id)) == terms.group;
            let mut common = ours.iter().filter(|transform| theirs.contains(transform));
            common
                .clone()
                .find(in_hand)
                .or_else(|| common.next())
                .cloned()
        })
        .collect()
}

/// Transforms of a type, or what its absence means. Those with attributes that we do not know equal
/// none of ours, so they are never chosen.
fn options(transforms: &[Transform], kind: TransformType) -> Vec<Transform> {
    let listed: Vec<Transform> = of_kind(transforms, kind).cloned().collect();
    if listed.is_empty() {
        implied(kind).into_iter().collect()
    } else {
        listed
    }
}

/// What a type that is left out stands for (RFC 7296 3.3.3).
const fn implied(kind: TransformType) -> Option<Transform> {
    match kind {
        TransformType::INTEG => Some(Transform::new(kind, IntegId::NONE.0)),
        TransformType::KE => Some(Transform::new(kind, KeGroup::NONE.0)),
        TransformType::ESN => Some(Transform::new(kind, Esn::NO.0)),
        _ => None,
    }
}

fn accept<S>(
    sent: &[Proposal],
    answer: &[Proposal],
    terms: Terms,
    suite: impl Fn(&[Transform]) -> Option<S>,
) -> Option<Choice<S>> {
    let [answer] = answer else { return None };
    let sent = sent
        .iter()
        .find(|proposal| proposal.number == answer.number)?;
    if !terms.fits(answer) || sent.protocol != answer.protocol {
        return None;
    }
    let known = |transform: &Transform| terms.kinds().any(|kind| kind == transform.kind);
    if !answer.transforms.iter().all(known) {
        return None;
    }
    let full: Vec<Transform> = terms
        .kinds()
        .map(|kind| match options(&answer.transforms, kind).as_slice() {
            [one] if options(&sent.transforms, kind).contains(one) => Some(one.clone()),
            _ => None,
        })
        .collect::<Option<_>>()?;
    Some(Choice {
        suite: suite(&full)?,
        spi: answer.spi.clone(),
        number: answer.number,
        protocol: answer.protocol,
        transforms: answer.transforms.clone(),
    })
}

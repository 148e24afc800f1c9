//! Negotiation of a Child SA, alike in IKE_AUTH and CREATE_CHILD_SA (RFC 7296 1.2, 1.3, 2.9, 2.17).

use std::sync::Arc;

use super::{Ke, NONCE_BYTES, PairRival, Parts, Refusal, answer_ke};
use crate::child_sa::{Child, Pair, PairState, Protection, limits};
use crate::config::ChildConfig;
use crate::context::Context;
use crate::crypto::SharedSecret;
use crate::event::{ChildId, Level};
use crate::ike_sa::{IkeSa, MAX_CHILDREN};
use crate::keymat::Nonces;
use crate::negotiate::{esp_groups, own_group};
use crate::proposal::{self, EspSuite};
use crate::selector::Selectors;
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{KeGroup, Payload};

/// A Child SA that we asked for.
#[derive(Debug)]
pub(crate) struct ChildOffer {
    /// New, or the one that is rekeyed.
    pub(crate) child: ChildId,
    pub(crate) config: Arc<ChildConfig>,
    /// Our inbound SPI.
    pub(crate) spi: u32,
    /// Our nonce of CREATE_CHILD_SA; empty in IKE_AUTH, which uses those of IKE_SA_INIT.
    pub(crate) nonce: Vec<u8>,
    pub(crate) ke: Option<Ke>,
    pub(crate) selectors: Selectors,
    /// Inbound SPI of the pair to replace.
    pub(crate) replaces: Option<u32>,
    /// Pair that the peer made for the same purpose meanwhile (RFC 7296 2.8.1).
    pub(crate) rival: Option<PairRival>,
    /// SPIs that the peer has deleted and that we did not know: one may be the answer to this.
    pub(crate) deleted: Vec<u32>,
}

/// What a Child SA exchange came to.
pub(crate) struct Agreed {
    pub(crate) config: Arc<ChildConfig>,
    pub(crate) selectors: Selectors,
    pub(crate) pair: Pair,
}

/// Material of one exchange for `agree`.
struct Material<'a> {
    config: &'a ChildConfig,
    suite: &'a EspSuite,
    inbound_spi: u32,
    outbound_spi: u32,
    nonces: (&'a [u8], &'a [u8]),
    shared: Option<&'a SharedSecret>,
    /// We sent the request.
    initiator: bool,
}

/// What a new offer is for.
pub(crate) struct Wish {
    pub(crate) config: Arc<ChildConfig>,
    /// In IKE_AUTH: without nonce and key exchange of its own.
    pub(crate) initial: bool,
    /// Child, inbound SPI of the pair to replace, and what it protects now.
    pub(crate) replaces: Option<(ChildId, u32, Selectors)>,
    /// Key exchange method that the peer wants.
    pub(crate) group: Option<KeGroup>,
}

impl IkeSa {
    /// Selectors of a configuration between the addresses of this IKE SA.
    pub(crate) fn configured(&self, config: &ChildConfig) -> Selectors {
        let addresses = self.path().addresses();
        Selectors::resolve(&config.local_ts, &config.remote_ts, addresses)
    }

    /// An offer and its payloads: SA, Ni, KEi, TSi, TSr.
    pub(crate) fn offer_child(
        &self,
        wish: Wish,
        ctx: &mut Context<'_>,
    ) -> Result<(ChildOffer, Vec<Payload>), Reason> {
        let proposals = &wish.config.esp_proposals;
        let group = if wish.initial {
            None
        } else {
            wish.group
                .or_else(|| esp_groups(proposals).first().copied())
        };
        let ke = group.map(|group| Ke::generate(group, ctx)).transpose();
        let ke = ke.map_err(|_| Reason::KeyExchange)?;
        let nonce = if wish.initial {
            Vec::new()
        } else {
            ctx.random(NONCE_BYTES)
        };
        let (child, replaces, selectors) = match wish.replaces {
            Some((child, spi, selectors)) => (child, Some(spi), selectors),
            None => (ctx.next_child(), None, self.configured(&wish.config)),
        };
        let spi = ctx.host.allocate_spi().ok_or(Reason::Limit)?;
        let mut payloads = vec![Payload::Sa(proposal::offer_esp(
            proposals,
            spi,
            !wish.initial,
        ))];
        if !wish.initial {
            payloads.push(Payload::Nonce(nonce.clone()));
        }
        payloads.extend(ke.as_ref().map(Ke::payload));
        payloads.push(Payload::TsI(selectors.local.clone()));
        payloads.push(Payload::TsR(selectors.remote.clone()));
        let (config, rival, deleted) = (wish.config, None, Vec::new());
        let offer = ChildOffer {
            child,
            config,
            spi,
            nonce,
            ke,
            selectors,
            replaces,
            rival,
            deleted,
        };
        Ok((offer, payloads))
    }

    /// The responder has taken our offer; checks the answer and makes the keys. `nonces` are those
    /// of initiator and responder of the exchange.
    pub(crate) fn take_child_answer(
        &self,
        offer: &mut ChildOffer,
        parts: &Parts<'_>,
        nonces: (&[u8], &[u8]),
        initial: bool,
        ctx: &mut Context<'_>,
    ) -> Result<Agreed, Reason> {
        let answer = parts.sa.ok_or(Reason::InvalidSyntax)?;
        let sent = proposal::offer_esp(&offer.config.esp_proposals, offer.spi, !initial);
        let choice =
            proposal::accept_esp(&sent, answer, !initial).ok_or(Reason::NoProposalChosen)?;
        let outbound_spi = choice.spi_u32().ok_or(Reason::InvalidSyntax)?;
        let suite = choice.suite;
        let (Some(ts_i), Some(ts_r)) = (parts.ts_i, parts.ts_r) else {
            return Err(Reason::InvalidSyntax);
        };
        let selectors = Selectors {
            local: ts_i.to_vec(),
            remote: ts_r.to_vec(),
        };
        if !selectors.is_within(&offer.selectors) || selectors.pairs().is_empty() {
            return Err(Reason::TsUnacceptable);
        }
        let shared = match (own_group(&suite), offer.ke.take()) {
            (Some(group), Some(ke)) => {
                let (peer_group, data) = parts.ke.ok_or(Reason::InvalidSyntax)?;
                if peer_group != group || ke.group != group {
                    return Err(Reason::InvalidKe);
                }
                Some(ke.exchange.agree(data).map_err(|_| Reason::KeyExchange)?)
            }
            (None, _) => None,
            (Some(_), None) => return Err(Reason::NoProposalChosen),
        };
        let material = Material {
            config: &offer.config,
            suite: &suite,
            inbound_spi: offer.spi,
            outbound_spi,
            nonces,
            shared: shared.as_ref(),
            initiator: true,
        };
        let pair = self.make_pair(&material, PairState::Active, ctx)?;
        Ok(Agreed {
            config: offer.config.clone(),
            selectors,
            pair,
        })
    }

    /// Answers the peer's wish for a Child SA: what was agreed, and the payloads SA, Nr, KEr, TSi,
    /// TSr, and our nonce. `initial`: in IKE_AUTH, the nonces of IKE_SA_INIT.
    pub(crate) fn accept_child(
        &self,
        parts: &Parts<'_>,
        initial: Option<(&[u8], &[u8])>,
        replaced: Option<&Child>,
        ctx: &mut Context<'_>,
    ) -> Result<(Agreed, Vec<Payload>, Vec<u8>), Refusal> {
        let (Some(offered), Some(ts_i), Some(ts_r)) = (parts.sa, parts.ts_i, parts.ts_r) else {
            return Err(Reason::InvalidSyntax.into());
        };
        if self.children.len() >= MAX_CHILDREN && replaced.is_none() {
            return Err(Reason::NoAdditionalSas.into());
        }
        let wanted = Selectors {
            local: ts_r.to_vec(),
            remote: ts_i.to_vec(),
        };
        let with_ke = initial.is_none();
        let group = parts.ke.map(|(group, _)| group);
        let (config, selectors, choice) = match replaced {
            Some(child) => choose_again(child, &wanted, offered, self, group)?,
            None => self.choose_child(&wanted, offered, with_ke, group)?,
        };
        let suite = choice.suite;
        let (shared, ke_payload) = own_group(&suite)
            .map(|group| answer_ke(parts, group, ctx))
            .transpose()?
            .unzip();
        let own_nonce = if with_ke {
            ctx.random(NONCE_BYTES)
        } else {
            Vec::new()
        };
        let nonces = match initial {
            Some(nonces) => nonces,
            None => (
                parts.nonce.ok_or(Reason::InvalidSyntax)?,
                own_nonce.as_slice(),
            ),
        };
        let outbound_spi = choice.spi_u32().ok_or(Reason::InvalidSyntax)?;
        let inbound_spi = ctx.host.allocate_spi().ok_or(Reason::NoAdditionalSas)?;
        let material = Material {
            config: &config,
            suite: &suite,
            inbound_spi,
            outbound_spi,
            nonces,
            shared: shared.as_ref(),
            initiator: false,
        };
        let state = if replaced.is_some() {
            PairState::Ready
        } else {
            PairState::Active
        };
        let pair = self.make_pair(&material, state, ctx).inspect_err(|_| {
            ctx.host.release_spi(inbound_spi);
        })?;
        let mut payloads = vec![Payload::Sa(choice.answer(&inbound_spi.to_be_bytes()))];
        if with_ke {
            payloads.push(Payload::Nonce(own_nonce.clone()));
        }
        payloads.extend(ke_payload);
        payloads.push(Payload::TsI(selectors.remote.clone()));
        payloads.push(Payload::TsR(selectors.local.clone()));
        let agreed = Agreed {
            config,
            selectors,
            pair,
        };
        Ok((agreed, payloads, own_nonce))
    }

    /// First child whose selectors overlap with the wish and whose proposals fit (RFC 7296 2.9).
    /// One whose selectors are those of the wish goes before one that would narrow it.
    fn choose_child(
        &self,
        wanted: &Selectors,
        offered: &[crate::wire::Proposal],
        with_ke: bool,
        group: Option<KeGroup>,
    ) -> Result<(Arc<ChildConfig>, Selectors, proposal::EspChoice), Refusal> {
        let children = self.connection.children.iter();
        let narrowed = children.filter_map(|config| {
            self.configured(config)
                .intersect(wanted)
                .map(|agreed| (config, agreed))
        });
        let (exact, narrower): (Vec<_>, Vec<_>) =
            narrowed.partition(|(_, agreed)| wanted.is_within(agreed));
        let mut reason = Reason::TsUnacceptable;
        for (config, selectors) in exact.into_iter().chain(narrower) {
            match proposal::select_esp(&config.esp_proposals, offered, with_ke, group) {
                Some(choice) => return Ok((Arc::new(config.clone()), selectors, choice)),
                None => reason = Reason::NoProposalChosen,
            }
        }
        Err(reason.into())
    }

    /// KEYMAT and limits of a new pair (RFC 7296 2.17).
    fn make_pair(
        &self,
        material: &Material<'_>,
        state: PairState,
        ctx: &mut Context<'_>,
    ) -> Result<Pair, Reason> {
        let keys = self.keys.as_ref().ok_or(Reason::InvalidSyntax)?;
        let (ni, nr) = material.nonces;
        let nonces = Nonces {
            initiator: ni,
            responder: nr,
        };
        let (initiator, responder) = keys
            .child(material.suite, material.shared, nonces)
            .ok_or(Reason::KeyExchange)?;
        let (outbound_key, inbound_key) = if material.initiator {
            (initiator, responder)
        } else {
            (responder, initiator)
        };
        let suite = material.suite;
        Ok(Pair {
            inbound_spi: material.inbound_spi,
            outbound_spi: material.outbound_spi,
            inbound_key,
            outbound_key,
            protection: Protection {
                encryption: suite.encr.0,
                key_bits: suite.key_bits,
                esn: suite.esn,
                group: own_group(suite),
            },
            limits: limits(material.config, suite.esn, ctx.host),
            window_packets: material.config.replay_window,
            state,
            created: ctx.now,
            ours: material.initiator,
            outbound_up: true,
        })
    }

    /// A new child goes into the dataplane.
    pub(crate) fn install_child(&mut self, id: ChildId, agreed: Agreed, ctx: &mut Context<'_>) {
        let Agreed {
            config,
            selectors,
            pair,
        } = agreed;
        self.start_lifetime(&config, &pair, ctx);
        let text = format!(
            "child {} {id} is up, SPIs {:08x} in, {:08x} out",
            config.name, pair.inbound_spi, pair.outbound_spi
        );
        self.log(ctx, Level::Info, text);
        let connection = self.connection.clone();
        let sending = pair.inbound_spi;
        let child = Child {
            id,
            connection,
            config,
            selectors,
            pairs: vec![pair],
            sending,
        };
        child.install(self.id, self.path(), false, ctx);
        ctx.shared.owners.insert(id, self.id);
        self.children.push(child);
        self.dirty = true;
    }

    /// A new pair goes into the dataplane beside the one it replaces.
    pub(crate) fn install_pair(&mut self, id: ChildId, agreed: Agreed, ctx: &mut Context<'_>) {
        let Agreed {
            config,
            selectors,
            pair,
        } = agreed;
        self.start_lifetime(&config, &pair, ctx);
        let text = format!(
            "child {} {id} is rekeyed, SPIs {:08x} in, {:08x} out",
            config.name, pair.inbound_spi, pair.outbound_spi
        );
        self.log(ctx, Level::Info, text);
        let ike = self.id;
        if let Some(child) = self.child_mut(id) {
            child.add(ike, pair, Some(selectors), ctx);
        }
        self.dirty = true;
    }

    fn start_lifetime(&mut self, config: &ChildConfig, pair: &Pair, ctx: &mut Context<'_>) {
        let soft_s = config.time_s.soft(ctx.host);
        if soft_s > 0 {
            self.timers
                .set(Timer::RekeyChild(pair.inbound_spi), ctx.now.after_s(soft_s));
        }
        let hard_s = config.time_s.hard();
        if hard_s > 0 {
            self.timers.set(
                Timer::ExpireChild(pair.inbound_spi),
                ctx.now.after_s(hard_s),
            );
        }
    }
}

/// A rekeyed child keeps its selectors if the wish has room for them: it must not be narrowed
/// (RFC 7296 2.9.2).
fn choose_again(
    child: &Child,
    wanted: &Selectors,
    offered: &[crate::wire::Proposal],
    sa: &IkeSa,
    group: Option<KeGroup>,
) -> Result<(Arc<ChildConfig>, Selectors, proposal::EspChoice), Refusal> {
    let selectors = if child.selectors.is_within(wanted) {
        child.selectors.clone()
    } else {
        let configured = sa.configured(&child.config);
        configured.intersect(wanted).ok_or(Reason::TsUnacceptable)?
    };
    let choice = proposal::select_esp(&child.config.esp_proposals, offered, true, group)
        .ok_or(Reason::NoProposalChosen)?;
    Ok((child.config.clone(), selectors, choice))
}

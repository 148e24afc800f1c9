//! CREATE_CHILD_SA that replaces the IKE SA (RFC 7296 1.3.2, 2.8, 2.8.2, 2.18, 2.25.2).

use super::{
    IkeRival, Ke, MAX_RESTARTS, NONCE_BYTES, Outstanding, Parts, Refusal, Rival, answer_ke, lowest,
    wanted_group,
};
use crate::context::{Context, Effect};
use crate::crypto::SharedSecret;
use crate::event::{IkeId, Level};
use crate::ike_sa::{IkeSa, Start, State};
use crate::keymat::{IkeSpis, Nonces};
use crate::keys::Keys;
use crate::negotiate::ike_groups;
use crate::proposal::{self, IkeSuite};
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{KeGroup, Message, Payload};

/// Times that TEMPORARY_FAILURE is taken for an answer before the task fails.
const MAX_REFUSALS: u32 = 20;
/// After a rekey that failed, try again in this time while the lifetime lasts.
const REKEY_AGAIN_S: u64 = 15;
/// An IKE SA that the peer should have deleted is deleted by us after this time.
pub(crate) const LEFT_OVER_S: u64 = 30;

/// An IKE SA that we asked for, to take the place of this one.
#[derive(Debug)]
pub(crate) struct IkeOffer {
    pub(crate) spi: u64,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ke: Option<Ke>,
    /// IKE SA that the peer made for the same purpose meanwhile.
    pub(crate) rival: Option<IkeRival>,
}

/// What a new IKE SA is made from.
struct Renewal<'a> {
    initiator: bool,
    spi_local: u64,
    spi_remote: u64,
    suite: &'a IkeSuite,
    shared: &'a SharedSecret,
    nonces: (&'a [u8], &'a [u8]),
}

impl IkeSa {
    pub(crate) fn begin_rekey_ike(&mut self, task: Task, ctx: &mut Context<'_>) {
        if self.state() != State::Established {
            ctx.done(&task.requests, &Ok(()));
            return;
        }
        let proposals = &self.connection.proposals;
        let offered = ike_groups(proposals);
        let current = self.keys.as_ref().map(Keys::group);
        let group = task
            .group
            .or_else(|| current.filter(|group| offered.contains(group)));
        let group = group
            .or_else(|| offered.first().copied())
            .unwrap_or(KeGroup::NONE);
        let Ok(ke) = Ke::generate(group, ctx) else {
            self.fail(&task, Reason::KeyExchange, ctx);
            return;
        };
        let (spi, nonce) = (ctx.ike_spi(), ctx.random(NONCE_BYTES));
        let payloads = vec![
            Payload::Sa(proposal::offer_ike(proposals, Some(spi))),
            Payload::Nonce(nonce.clone()),
            ke.payload(),
        ];
        let offer = IkeOffer {
            spi,
            nonce,
            ke: Some(ke),
            rival: None,
        };
        self.create_child_sa(payloads, task, Outstanding::RekeyIke(Box::new(offer)), ctx);
    }

    /// The peer wants to replace this IKE SA.
    pub(crate) fn answer_rekey_ike(
        &mut self,
        parts: &Parts<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let colliding = match self.pending.as_ref().map(|pending| &pending.outstanding) {
            // RFC 7296 2.25.2: not while Child SAs are made or deleted.
            Some(
                Outstanding::NewChild(_)
                | Outstanding::RekeyChild(_)
                | Outstanding::DeletePairs(_)
                | Outstanding::DeleteIke,
            ) => return Err(Reason::TemporaryFailure.into()),
            Some(Outstanding::RekeyIke(offer)) if offer.rival.is_some() => {
                return Err(Reason::TemporaryFailure.into());
            }
            Some(Outstanding::RekeyIke(_)) => true,
            Some(Outstanding::Init | Outstanding::Auth(_) | Outstanding::Liveness) | None => false,
        };
        let offered = parts.sa.ok_or(Reason::InvalidSyntax)?;
        let nonce_i = parts.nonce.ok_or(Reason::InvalidSyntax)?;
        let offered_group = parts.ke.map(|(group, _)| group);
        let choice = proposal::select_ike(&self.connection.proposals, offered, true, offered_group)
            .ok_or(Reason::NoProposalChosen)?;
        let spi_remote = choice
            .spi_u64()
            .filter(|spi| *spi != 0)
            .ok_or(Reason::InvalidSyntax)?;
        let group = choice.suite.group;
        let (shared, ke_payload) = answer_ke(parts, group, ctx)?;
        let nonce_r = ctx.random(NONCE_BYTES);
        let spi_local = ctx.ike_spi();
        let renewal = Renewal {
            initiator: false,
            spi_local,
            spi_remote,
            suite: &choice.suite,
            shared: &shared,
            nonces: (nonce_i, &nonce_r),
        };
        let mut new = self.renewed(&renewal, ctx).ok_or(Reason::InvalidSyntax)?;
        new.unsettled = colliding;
        let id = new.id;
        ctx.effect(Effect::Adopt(Box::new(new)));
        if colliding {
            let rival = Rival {
                sa: id,
                lowest: lowest(nonce_i, &nonce_r),
            };
            self.set_ike_rival(rival);
        } else {
            self.hand_over(id, ctx);
            self.timers.set(Timer::GiveUp, ctx.now.after_s(LEFT_OVER_S));
        }
        let answer = Payload::Sa(choice.answer(&spi_local.to_be_bytes()));
        Ok(vec![answer, Payload::Nonce(nonce_r), ke_payload])
    }

    fn set_ike_rival(&mut self, rival: IkeRival) {
        if let Some(pending) = &mut self.pending
            && let Outstanding::RekeyIke(offer) = &mut pending.outstanding
        {
            offer.rival = Some(rival);
        }
    }

    pub(crate) fn has_ike_rival(&self) -> bool {
        let outstanding = self.pending.as_ref().map(|pending| &pending.outstanding);
        matches!(outstanding, Some(Outstanding::RekeyIke(offer)) if offer.rival.is_some())
    }

    pub(crate) fn take_ike_rival(&mut self) -> Option<IkeRival> {
        match &mut self.pending.as_mut()?.outstanding {
            Outstanding::RekeyIke(offer) => offer.rival.take(),
            Outstanding::Init
            | Outstanding::Auth(_)
            | Outstanding::NewChild(_)
            | Outstanding::RekeyChild(_)
            | Outstanding::DeletePairs(_)
            | Outstanding::DeleteIke
            | Outstanding::Liveness => None,
        }
    }

    /// An IKE SA with new keys between the same two (RFC 7296 2.18).
    fn renewed(&self, renewal: &Renewal<'_>, ctx: &mut Context<'_>) -> Option<Self> {
        let (ni, nr) = renewal.nonces;
        let (initiator, responder) = if renewal.initiator {
            (renewal.spi_local, renewal.spi_remote)
        } else {
            (renewal.spi_remote, renewal.spi_local)
        };
        let nonces = Nonces {
            initiator: ni,
            responder: nr,
        };
        let spis = IkeSpis {
            initiator,
            responder,
        };
        let old = self.keys.as_ref()?;
        let keys = old.renewed(
            renewal.suite,
            renewal.shared,
            nonces,
            spis,
            renewal.initiator,
        )?;
        let start = Start {
            initiator: renewal.initiator,
            spi_local: renewal.spi_local,
            spi_remote: renewal.spi_remote,
            connection: self.connection.clone(),
            local: self.local,
            remote: self.remote,
            state: State::Established,
        };
        let mut new = Self::new(start, ctx);
        new.keys = Some(keys);
        new.nat = self.nat;
        new.local_id = self.local_id.clone();
        new.remote_id = self.remote_id.clone();
        new.peer_childless = self.peer_childless;
        new.start_lifetimes(ctx);
        new.dirty = true;
        Some(new)
    }

    /// The children go to another IKE SA, and this one waits for its end.
    pub(crate) fn hand_over(&mut self, to: IkeId, ctx: &mut Context<'_>) {
        self.log(ctx, Level::Info, format!("replaced by {to}"));
        self.set_state(State::Replaced, ctx);
        self.successor = Some(to);
        self.timers.stop(Timer::RekeyIke);
        self.timers.stop(Timer::Liveness);
        if let Some(task) = self.tasks.take(|kind| *kind == TaskKind::RekeyIke) {
            ctx.done(&task.requests, &Ok(()));
        }
        let end = self.tasks.take(|kind| *kind == TaskKind::DeleteIke);
        ctx.effect(Effect::Inherit {
            from: self.id,
            to,
            end,
        });
    }

    pub(crate) fn take_rekeyed_ike(
        &mut self,
        mut offer: IkeOffer,
        task: Task,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        let rival = offer.rival.take();
        match self.take_ike_answer(&mut offer, message, ctx) {
            Ok((new, low)) => {
                let id = new.id;
                ctx.effect(Effect::Adopt(Box::new(new)));
                self.settle_ike(id, &low, rival, ctx);
                ctx.done(&task.requests, &Ok(()));
            }
            Err(reason) => match rival {
                // The peer's rekey has done it.
                Some(rival) => {
                    ctx.done(&task.requests, &Ok(()));
                    self.hand_over(rival.sa, ctx);
                    self.timers.set(Timer::GiveUp, ctx.now.after_s(LEFT_OVER_S));
                }
                None => self.ike_refused(task, reason, message, ctx),
            },
        }
    }

    fn take_ike_answer(
        &self,
        offer: &mut IkeOffer,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Result<(Self, Vec<u8>), Reason> {
        if let Some(error) = message.error() {
            return Err(Reason::from_notify(error.kind));
        }
        let parts = Parts::of(message);
        let answer = parts.sa.ok_or(Reason::InvalidSyntax)?;
        let nonce_r = parts.nonce.ok_or(Reason::InvalidSyntax)?;
        let sent = proposal::offer_ike(&self.connection.proposals, Some(offer.spi));
        let choice = proposal::accept_ike(&sent, answer, true).ok_or(Reason::NoProposalChosen)?;
        let suite = choice.suite;
        let spi_remote = choice
            .spi_u64()
            .filter(|spi| *spi != 0)
            .ok_or(Reason::InvalidSyntax)?;
        let (group, data) = parts.ke.ok_or(Reason::InvalidSyntax)?;
        let ke = offer.ke.take().ok_or(Reason::KeyExchange)?;
        if group != suite.group || group != ke.group {
            return Err(Reason::InvalidKe);
        }
        let shared = ke.exchange.agree(data).map_err(|_| Reason::KeyExchange)?;
        let renewal = Renewal {
            initiator: true,
            spi_local: offer.spi,
            spi_remote,
            suite: &suite,
            shared: &shared,
            nonces: (&offer.nonce, nonce_r),
        };
        let new = self.renewed(&renewal, ctx).ok_or(Reason::InvalidSyntax)?;
        Ok((new, lowest(&offer.nonce, nonce_r)))
    }

    /// RFC 7296 2.8.2: of two new IKE SAs the one whose nonces include the lowest is closed by who
    /// asked for it; the other inherits, and who asked for that one deletes the old IKE SA.
    fn settle_ike(
        &mut self,
        ours: IkeId,
        low: &[u8],
        rival: Option<IkeRival>,
        ctx: &mut Context<'_>,
    ) {
        match rival {
            Some(rival) if low < rival.lowest.as_slice() => {
                self.hand_over(rival.sa, ctx);
                ctx.effect(Effect::Supersede(vec![ours]));
                self.timers.set(Timer::GiveUp, ctx.now.after_s(LEFT_OVER_S));
            }
            rival => {
                self.hand_over(ours, ctx);
                if let Some(rival) = rival {
                    ctx.effect(Effect::Discard(rival.sa));
                }
                self.push_own(TaskKind::DeleteIke, ctx);
            }
        }
    }

    fn ike_refused(
        &mut self,
        mut task: Task,
        reason: Reason,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        let offered = ike_groups(&self.connection.proposals);
        if let Some(group) = wanted_group(message)
            && offered.contains(&group)
            && task.regrouped < MAX_RESTARTS
        {
            task.group = Some(group);
            task.regrouped += 1;
            self.push(task, ctx);
        } else if reason == Reason::TemporaryFailure && task.refused < MAX_REFUSALS {
            self.postpone(task, ctx);
        } else {
            self.fail(&task, reason, ctx);
            self.timers
                .set(Timer::RekeyIke, ctx.now.after_s(REKEY_AGAIN_S));
            if message.error().is_none() {
                // The peer has a new IKE SA that we cannot use: nothing is certain any more.
                self.push_own(TaskKind::DeleteIke, ctx);
            }
        }
    }

    /// Timers of an IKE SA that is established.
    pub(crate) fn start_lifetimes(&mut self, ctx: &mut Context<'_>) {
        let connection = self.connection.clone();
        let (soft_s, hard_s) = connection.lifetime_s(ctx.host);
        if soft_s > 0 {
            self.timers.set(Timer::RekeyIke, ctx.now.after_s(soft_s));
        }
        if hard_s > 0 {
            self.timers.set(Timer::ExpireIke, ctx.now.after_s(hard_s));
        }
        if connection.dpd_delay_s > 0 {
            self.timers
                .set(Timer::Liveness, ctx.now.after_s(connection.dpd_delay_s));
        }
        let keep_alive_s = ctx.shared.settings.keep_alive_s;
        if self.nat.local && keep_alive_s > 0 {
            self.timers
                .set(Timer::Keepalive, ctx.now.after_s(keep_alive_s));
        }
    }
}

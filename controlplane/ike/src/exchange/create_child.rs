//! CREATE_CHILD_SA for Child SAs: new ones, and rekeys with their collisions
//! (RFC 7296 1.3.1, 1.3.3, 2.8, 2.8.1, 2.25.1).

use super::child::{Agreed, Wish};
use super::{
    ChildOffer, MAX_RESTARTS, Outstanding, Parts, Refusal, Reply, Rival, lowest, wanted_group,
};
use crate::child_sa::{Child, PairState};
use crate::context::Context;
use crate::event::{ChildId, Level};
use crate::host::random_below;
use crate::ike_sa::{IkeSa, State};
use crate::negotiate::esp_groups;
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{ExchangeType, Message, Notify, NotifyType, Payload, ProtocolId};

/// Times that TEMPORARY_FAILURE is taken for an answer before the task fails.
const MAX_REFUSALS: u32 = 20;
/// Wait after a TEMPORARY_FAILURE: at least this, and up to as much again, so that two sides which
/// collide do not do so for ever.
const REFUSED_WAIT_MS: u64 = 1_000;
/// After a rekey that failed for another reason, try again in this time while the lifetime lasts.
const REKEY_AGAIN_S: u64 = 15;
/// How often a responder looks whether the peer already sends on the new pair.
const CONFIRM_MS: u64 = 500;
/// A replaced pair that the peer does not delete is deleted by us after this time.
const REPLACED_S: u64 = 60;

impl IkeSa {
    pub(crate) fn begin_new_child(&mut self, name: &str, task: Task, ctx: &mut Context<'_>) {
        if self.has_child(name) {
            ctx.done(&task.requests, &Ok(()));
            return;
        }
        let Some(config) = Context::child_config(&self.connection, name) else {
            self.fail(&task, Reason::UnknownChild, ctx);
            return;
        };
        let wish = Wish {
            config,
            initial: false,
            replaces: None,
            group: task.group,
        };
        match self.offer_child(wish, ctx) {
            Ok((offer, payloads)) => {
                let outstanding = Outstanding::NewChild(Box::new(offer));
                self.create_child_sa(payloads, task, outstanding, ctx);
            }
            Err(reason) => self.fail(&task, reason, ctx),
        }
    }

    /// A child of that configuration is up.
    pub(crate) fn has_child(&self, name: &str) -> bool {
        self.children
            .iter()
            .any(|child| child.config.name == name && child.is_live())
    }

    pub(crate) fn begin_rekey_child(
        &mut self,
        id: ChildId,
        spi: u32,
        task: Task,
        ctx: &mut Context<'_>,
    ) {
        let Some(child) = self.child(id) else {
            self.fail(&task, Reason::NotFound, ctx);
            return;
        };
        let Some(pair) = child.rekeyable().filter(|pair| pair.inbound_spi == spi) else {
            // Somebody else has replaced it already: what the task wanted.
            ctx.done(&task.requests, &Ok(()));
            return;
        };
        let notify = Notify::about(NotifyType::REKEY_SA, ProtocolId::ESP, pair.inbound_spi);
        let replaces = Some((id, spi, child.selectors.clone()));
        let config = child.config.clone();
        // RFC 7296 1.3.3: the same key exchange method as before is the best guess.
        let group = task.group.or(pair.protection.group);
        let offered = esp_groups(&config.esp_proposals);
        let group = group.filter(|group| offered.contains(group));
        let wish = Wish {
            config,
            initial: false,
            replaces,
            group,
        };
        match self.offer_child(wish, ctx) {
            Ok((offer, mut payloads)) => {
                payloads.insert(0, Payload::Notify(notify));
                let outstanding = Outstanding::RekeyChild(Box::new(offer));
                self.create_child_sa(payloads, task, outstanding, ctx);
            }
            Err(reason) => self.fail(&task, reason, ctx),
        }
    }

    /// Sends the request.
    pub(crate) fn create_child_sa(
        &mut self,
        payloads: Vec<Payload>,
        task: Task,
        outstanding: Outstanding,
        ctx: &mut Context<'_>,
    ) {
        let exchange = ExchangeType::CREATE_CHILD_SA;
        if let Err((task, outstanding)) = self.request(exchange, payloads, task, outstanding, ctx) {
            if let Outstanding::NewChild(offer) | Outstanding::RekeyChild(offer) = outstanding {
                ctx.host.release_spi(offer.spi);
            }
            self.fail(&task, Reason::InvalidSyntax, ctx);
        }
    }

    /// The peer asks for a new child, a rekeyed one, or a rekeyed IKE SA.
    pub(crate) fn answer_create_child(
        &mut self,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Reply {
        let answer = match self.state() {
            State::Established => self.answer_established(message, ctx),
            // RFC 7296 2.25.2: this IKE SA is at its end.
            State::Replaced | State::Deleting => Err(Reason::TemporaryFailure.into()),
            State::Initiated
            | State::Authenticating
            | State::HalfOpen
            | State::Lingering
            | State::Closed => Err(Reason::InvalidSyntax.into()),
        };
        match answer {
            Ok(payloads) => Reply::new(payloads),
            Err(refusal) => {
                let text = format!("refused CREATE_CHILD_SA: {}", refusal.reason);
                self.log(ctx, Level::Warn, text);
                Reply::new(vec![self.refusal_payload(&refusal, message)])
            }
        }
    }

    /// CHILD_SA_NOT_FOUND names the SA that is not there (RFC 7296 2.25).
    fn refusal_payload(&self, refusal: &Refusal, message: &Message) -> Payload {
        let rekeyed = message.notify(NotifyType::REKEY_SA);
        match (refusal.reason, rekeyed) {
            (Reason::ChildSaNotFound, Some(notify)) => {
                let kind = refusal.reason.notify();
                Payload::Notify(Notify {
                    kind,
                    data: Vec::new(),
                    ..notify.clone()
                })
            }
            _ => refusal.payload(),
        }
    }

    fn answer_established(
        &mut self,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let parts = Parts::of(message);
        let proposals = parts.sa.ok_or(Reason::InvalidSyntax)?;
        if proposals
            .iter()
            .any(|proposal| proposal.protocol == ProtocolId::IKE)
        {
            return self.answer_rekey_ike(&parts, ctx);
        }
        // RFC 7296 2.25.2: not while the IKE SA is being rekeyed.
        if self
            .pending
            .as_ref()
            .is_some_and(|p| matches!(p.outstanding, Outstanding::RekeyIke(_)))
        {
            return Err(Reason::TemporaryFailure.into());
        }
        match message.notify(NotifyType::REKEY_SA) {
            Some(notify) => self.answer_rekey_child(notify, &parts, ctx),
            None => self.answer_new_child(&parts, ctx),
        }
    }

    fn answer_new_child(
        &mut self,
        parts: &Parts<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let (agreed, payloads, _) = self.accept_child(parts, None, None, ctx)?;
        let id = ctx.next_child();
        self.install_child(id, agreed, ctx);
        Ok(payloads)
    }

    fn answer_rekey_child(
        &mut self,
        notify: &Notify,
        parts: &Parts<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Refusal> {
        let spi = notify.spi_u32().ok_or(Reason::InvalidSyntax)?;
        let (id, pair) = self.pair_of_peer(spi).ok_or_else(|| self.unknown_child())?;
        let (old, state) = (pair.inbound_spi, pair.state);
        match state {
            PairState::Active => {}
            // The peer is ahead: it uses the pair, and wants the next one.
            PairState::Ready => self.confirm_pair(old, ctx),
            // RFC 7296 2.25.1: it is being closed.
            PairState::Replaced | PairState::Deleting | PairState::Draining => {
                return Err(Reason::TemporaryFailure.into());
            }
        }
        let colliding = self.is_rekeying(old);
        if colliding == Some(true) {
            return Err(Reason::TemporaryFailure.into());
        }
        let nonce_i = parts.nonce.ok_or(Reason::InvalidSyntax)?;
        let child = self.child(id).ok_or(Reason::ChildSaNotFound)?;
        let (agreed, payloads, nonce_r) = self.accept_child(parts, None, Some(child), ctx)?;
        let new = agreed.pair.inbound_spi;
        self.install_pair(id, agreed, ctx);
        self.timers
            .set(Timer::Confirm(new), ctx.now.after_ms(CONFIRM_MS));
        if colliding.is_some() {
            // Who wins is known when our own response comes (RFC 7296 2.8.1).
            let lowest = lowest(nonce_i, &nonce_r);
            if let Some(offer) = self
                .pending
                .as_mut()
                .and_then(|pending| pending.child_offer())
            {
                offer.rival = Some(Rival { sa: new, lowest });
            }
        } else {
            self.replace_pair(old, ctx);
            self.drop_rekey_task(id, old, ctx);
        }
        Ok(payloads)
    }

    /// The response that would tell us of the SA may still be on its way.
    fn unknown_child(&self) -> Reason {
        match self.pending.as_ref().map(|pending| &pending.outstanding) {
            Some(Outstanding::NewChild(_) | Outstanding::RekeyChild(_)) => Reason::TemporaryFailure,
            Some(
                Outstanding::Init
                | Outstanding::Auth(_)
                | Outstanding::RekeyIke(_)
                | Outstanding::DeletePairs(_)
                | Outstanding::DeleteIke
                | Outstanding::Liveness,
            )
            | None => Reason::ChildSaNotFound,
        }
    }

    /// Our own rekey of the pair is outstanding: whether it has met a rival already.
    fn is_rekeying(&self, old: u32) -> Option<bool> {
        match &self.pending.as_ref()?.outstanding {
            Outstanding::RekeyChild(offer) if offer.replaces == Some(old) => {
                Some(offer.rival.is_some())
            }
            _ => None,
        }
    }

    /// The peer did what a task of ours was for.
    fn drop_rekey_task(&mut self, child: ChildId, spi: u32, ctx: &mut Context<'_>) {
        let same = |kind: &TaskKind| *kind == TaskKind::RekeyChild { child, spi };
        if let Some(task) = self.tasks.take(same) {
            ctx.done(&task.requests, &Ok(()));
        }
    }

    /// Another pair takes the place of this one; its DELETE is to come.
    pub(crate) fn replace_pair(&mut self, inbound_spi: u32, ctx: &mut Context<'_>) {
        let Some(child) = self.child_with(inbound_spi) else {
            return;
        };
        let Some(pair) = child.pair_mut(inbound_spi) else {
            return;
        };
        match pair.state {
            PairState::Ready | PairState::Active => pair.state = PairState::Replaced,
            PairState::Replaced | PairState::Deleting | PairState::Draining => return,
        }
        self.timers.stop(Timer::RekeyChild(inbound_spi));
        self.timers.stop(Timer::Confirm(inbound_spi));
        self.timers
            .set(Timer::Replaced(inbound_spi), ctx.now.after_s(REPLACED_S));
        self.dirty = true;
    }

    /// The peer uses the pair: use it, too.
    pub(crate) fn confirm_pair(&mut self, inbound_spi: u32, ctx: &mut Context<'_>) {
        self.timers.stop(Timer::Confirm(inbound_spi));
        let ike = self.id;
        if let Some(child) = self.child_with(inbound_spi) {
            child.activate(ike, inbound_spi, ctx);
        }
        self.dirty = true;
    }

    /// Looks whether the peer sends on a pair that we agreed to.
    pub(crate) fn poll_pair(&mut self, inbound_spi: u32, ctx: &mut Context<'_>) {
        let ready = |child: &mut Child| {
            child
                .pair(inbound_spi)
                .is_some_and(|pair| pair.state == PairState::Ready)
        };
        if !self.child_with(inbound_spi).is_some_and(ready) {
            return;
        }
        if ctx.host.inbound_packets(inbound_spi) > 0 {
            self.confirm_pair(inbound_spi, ctx);
        } else {
            self.timers
                .set(Timer::Confirm(inbound_spi), ctx.now.after_ms(CONFIRM_MS));
        }
    }

    pub(crate) fn take_new_child(
        &mut self,
        mut offer: ChildOffer,
        task: Task,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        match self.take_child_response(&mut offer, message, ctx) {
            Ok((agreed, _)) if offer.deleted.contains(&agreed.pair.outbound_spi) => {
                // The peer's DELETE has overtaken its response.
                ctx.host.release_spi(offer.spi);
                self.fail(&task, Reason::DeletedByPeer, ctx);
            }
            Ok((agreed, _)) => {
                self.install_child(offer.child, agreed, ctx);
                ctx.done(&task.requests, &Ok(()));
            }
            Err(reason) => {
                ctx.host.release_spi(offer.spi);
                self.child_refused(&offer, task, reason, message, ctx);
            }
        }
    }

    /// Checks a response; gives the lowest nonce of the exchange, too.
    fn take_child_response(
        &self,
        offer: &mut ChildOffer,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Result<(Agreed, Vec<u8>), Reason> {
        if let Some(error) = message.error() {
            return Err(Reason::from_notify(error.kind));
        }
        let parts = Parts::of(message);
        let nonce_r = parts.nonce.ok_or(Reason::InvalidSyntax)?;
        let nonce_i = std::mem::take(&mut offer.nonce);
        let agreed = self.take_child_answer(offer, &parts, (&nonce_i, nonce_r), false, ctx)?;
        Ok((agreed, lowest(&nonce_i, nonce_r)))
    }

    /// No Child SA came of it: another try, or the end of the task.
    fn child_refused(
        &mut self,
        offer: &ChildOffer,
        mut task: Task,
        reason: Reason,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        let offered = esp_groups(&offer.config.esp_proposals);
        if let Some(group) = wanted_group(message)
            && offered.contains(&group)
            && task.regrouped < MAX_RESTARTS
        {
            task.group = Some(group);
            task.regrouped += 1;
            self.push(task, ctx);
            return;
        }
        if message.error().is_none() {
            // The peer has the Child SA, and we cannot use its answer.
            self.push_own(
                TaskKind::DeletePairs {
                    spis: vec![offer.spi],
                },
                ctx,
            );
        }
        if reason == Reason::TemporaryFailure && task.refused < MAX_REFUSALS {
            self.postpone(task, ctx);
            return;
        }
        self.fail(&task, reason, ctx);
        if let Some(spi) = offer.replaces {
            self.timers
                .set(Timer::RekeyChild(spi), ctx.now.after_s(REKEY_AGAIN_S));
        }
    }

    /// The peer is busy: later again (RFC 7296 2.25).
    pub(crate) fn postpone(&mut self, mut task: Task, ctx: &mut Context<'_>) {
        task.refused += 1;
        let wait_ms = REFUSED_WAIT_MS + random_below(ctx.host, REFUSED_WAIT_MS);
        task.not_before = ctx.now.after_ms(wait_ms);
        self.push(task, ctx);
    }

    pub(crate) fn take_rekeyed_child(
        &mut self,
        mut offer: ChildOffer,
        task: Task,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        match self.take_child_response(&mut offer, message, ctx) {
            Ok((agreed, _)) if offer.deleted.contains(&agreed.pair.outbound_spi) => {
                ctx.host.release_spi(offer.spi);
                self.fail(&task, Reason::DeletedByPeer, ctx);
            }
            Ok((agreed, low)) => {
                self.settle_rekey(&offer, agreed, &low, ctx);
                ctx.done(&task.requests, &Ok(()));
            }
            Err(reason) => {
                ctx.host.release_spi(offer.spi);
                self.rekey_refused(&offer, task, reason, message, ctx);
            }
        }
    }

    /// Both have agreed on a new pair. If the peer has made one, too, the one whose nonces include
    /// the lowest is deleted by who asked for it, the old pair by the other (RFC 7296 2.8.1).
    fn settle_rekey(
        &mut self,
        offer: &ChildOffer,
        mut agreed: Agreed,
        low: &[u8],
        ctx: &mut Context<'_>,
    ) {
        let new = agreed.pair.inbound_spi;
        let Some(child) = self.child(offer.child) else {
            // The child was deleted meanwhile, but the peer has made this pair afterwards.
            self.install_child(offer.child, agreed, ctx);
            return;
        };
        let old = offer.replaces.filter(|spi| child.pair(*spi).is_some());
        let rival = offer.rival.as_ref();
        let rival_lives = rival.is_some_and(|rival| child.pair(rival.sa).is_some());
        let lost = rival.is_some_and(|rival| low < rival.lowest.as_slice());
        if lost && rival_lives {
            agreed.pair.state = PairState::Ready;
            self.install_pair(offer.child, agreed, ctx);
            self.replace_pair(new, ctx);
            if let Some(old) = old {
                self.replace_pair(old, ctx);
            }
            self.push_own(TaskKind::DeletePairs { spis: vec![new] }, ctx);
            return;
        }
        self.install_pair(offer.child, agreed, ctx);
        if let Some(rival) = rival {
            self.replace_pair(rival.sa, ctx);
        }
        if let Some(old) = old {
            self.replace_pair(old, ctx);
            self.push_own(TaskKind::DeletePairs { spis: vec![old] }, ctx);
        }
    }

    fn rekey_refused(
        &mut self,
        offer: &ChildOffer,
        task: Task,
        reason: Reason,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        let child = self.child(offer.child);
        let old = offer.replaces.and_then(|spi| child?.pair(spi));
        let wanted = old.is_some_and(|pair| pair.state == PairState::Active);
        let old = old.map(|pair| pair.inbound_spi);
        let rival = offer.rival.as_ref().filter(|rival| {
            child.is_some_and(|child| {
                child
                    .pair(rival.sa)
                    .is_some_and(crate::child_sa::Pair::is_live)
            })
        });
        if rival.is_some() {
            // The peer's rekey has done it.
            if let Some(old) = old {
                self.replace_pair(old, ctx);
            }
            ctx.done(&task.requests, &Ok(()));
        } else if !wanted {
            self.fail(&task, reason, ctx);
        } else if reason == Reason::ChildSaNotFound {
            self.recreate_child(offer, task, ctx);
        } else {
            self.child_refused(offer, task, reason, message, ctx);
        }
    }

    /// The peer does not know the Child SA: drop it, and make a new one (RFC 7296 2.25.1).
    fn recreate_child(&mut self, offer: &ChildOffer, task: Task, ctx: &mut Context<'_>) {
        self.log(
            ctx,
            Level::Warn,
            format!("the peer has lost child {}", offer.child),
        );
        self.remove_child(offer.child, ctx);
        let name = offer.config.name.clone();
        self.push(
            Task {
                kind: TaskKind::NewChild { name },
                ..task
            },
            ctx,
        );
    }
}

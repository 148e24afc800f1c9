//! INFORMATIONAL: deletion, liveness (RFC 7296 1.4, 1.4.1, 2.4).

use super::{After, Outstanding, Reply};
use crate::child_sa::{Child, PairState};
use crate::config::Action as Wish;
use crate::context::{Context, Effect};
use crate::event::{ChildId, Level};
use crate::host::Time;
use crate::ike_sa::{IkeSa, State};
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{Delete, ExchangeType, Message, NotifyType, Payload, ProtocolId};

/// SPIs that a peer deleted before we knew them, kept for one exchange.
const MAX_EARLY_DELETES: usize = 16;

impl IkeSa {
    pub(crate) fn begin_delete_child(&mut self, id: ChildId, task: Task, ctx: &mut Context<'_>) {
        let Some(child) = self.child(id) else {
            ctx.done(&task.requests, &Ok(()));
            return;
        };
        let open = child.pairs.iter().filter(|pair| match pair.state {
            PairState::Ready | PairState::Active | PairState::Replaced => true,
            PairState::Deleting | PairState::Draining => false,
        });
        let spis = open.map(|pair| pair.inbound_spi).collect();
        self.delete_pairs(spis, task, ctx);
    }

    pub(crate) fn begin_delete_pairs(&mut self, spis: Vec<u32>, task: Task, ctx: &mut Context<'_>) {
        let gone = |state| matches!(state, PairState::Deleting | PairState::Draining);
        let open = spis.into_iter().filter(|spi| {
            let child = self.child_with(*spi);
            // A pair that is not installed exists at the peer only: that is why it is deleted.
            child
                .and_then(|child| child.pair(*spi))
                .is_none_or(|pair| !gone(pair.state))
        });
        let spis = open.collect();
        self.delete_pairs(spis, task, ctx);
    }

    /// Stops sending on the pairs and tells the peer; what still arrives on them is taken.
    fn delete_pairs(&mut self, spis: Vec<u32>, task: Task, ctx: &mut Context<'_>) {
        if spis.is_empty() {
            ctx.done(&task.requests, &Ok(()));
            return;
        }
        let ike = self.id;
        for spi in &spis {
            self.timers.take_child(*spi);
            if let Some(child) = self.child_with(*spi)
                && let Some(pair) = child.pair_mut(*spi)
            {
                pair.state = PairState::Deleting;
            }
        }
        // After all of them are marked, so that none takes over from another.
        for spi in &spis {
            if let Some(child) = self.child_with(*spi) {
                child.stop_sending(ike, *spi, ctx);
            }
        }
        let payloads = vec![Payload::Delete(Delete::esp(spis.clone()))];
        let outstanding = Outstanding::DeletePairs(spis);
        let exchange = ExchangeType::INFORMATIONAL;
        if let Err((task, _)) = self.request(exchange, payloads, task, outstanding, ctx) {
            self.fail(&task, Reason::InvalidSyntax, ctx);
        }
    }

    pub(crate) fn take_deleted_pairs(&mut self, spis: &[u32], task: &Task, ctx: &mut Context<'_>) {
        for spi in spis {
            self.end_pair(*spi, ctx);
        }
        ctx.done(&task.requests, &Ok(()));
    }

    /// A pair is deleted on both sides: it drains if another serves its child, otherwise the child
    /// is gone. Gives the child if it is gone.
    fn end_pair(&mut self, inbound_spi: u32, ctx: &mut Context<'_>) -> Option<Child> {
        let child = self.child_with(inbound_spi)?;
        let id = child.id;
        if let Some(pair) = child.pair_mut(inbound_spi) {
            pair.state = PairState::Draining;
        }
        let serves = |state| !matches!(state, PairState::Deleting | PairState::Draining);
        if child.pairs.iter().any(|pair| serves(pair.state)) {
            self.drain_pair(inbound_spi, ctx);
            return None;
        }
        self.log(ctx, Level::Info, format!("child {id} is closed"));
        self.remove_child(id, ctx)
    }

    /// Closes the IKE SA; `refused`: because its peer is not who it should be.
    pub(crate) fn begin_delete_ike(
        &mut self,
        refused: Option<Reason>,
        task: Task,
        ctx: &mut Context<'_>,
    ) {
        let mut payloads = Vec::new();
        if let Some(reason) = refused {
            payloads.push(Payload::notify(reason.notify(), Vec::new()));
        }
        payloads.push(Payload::Delete(Delete::ike()));
        self.set_state(State::Deleting, ctx);
        self.timers.stop_where(|timer| match timer {
            Timer::Liveness | Timer::RekeyIke | Timer::ExpireIke | Timer::GiveUp => true,
            Timer::Retransmit
            | Timer::Task
            | Timer::Keepalive
            | Timer::RekeyChild(_)
            | Timer::ExpireChild(_)
            | Timer::Confirm(_)
            | Timer::Drain(_)
            | Timer::Replaced(_) => false,
        });
        // Deleting the IKE SA deletes its children without naming them (RFC 7296 1.4.1).
        while let Some(id) = self.children.last().map(|child| child.id) {
            self.remove_child(id, ctx);
        }
        let exchange = ExchangeType::INFORMATIONAL;
        let outstanding = Outstanding::DeleteIke;
        if let Err((task, _)) = self.request(exchange, payloads, task, outstanding, ctx) {
            ctx.done(&task.requests, &Ok(()));
            self.close(Reason::Cancelled, ctx);
        }
    }

    pub(crate) fn take_deleted_ike(&mut self, task: &Task, ctx: &mut Context<'_>) {
        ctx.done(&task.requests, &Ok(()));
        self.log(ctx, Level::Info, "deleted");
        self.close(Reason::Cancelled, ctx);
    }

    pub(crate) fn begin_liveness(&mut self, task: Task, ctx: &mut Context<'_>) {
        let exchange = ExchangeType::INFORMATIONAL;
        let outstanding = Outstanding::Liveness;
        if let Err((task, _)) = self.request(exchange, Vec::new(), task, outstanding, ctx) {
            self.fail(&task, Reason::InvalidSyntax, ctx);
        }
    }

    pub(crate) fn answer_informational(
        &mut self,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Reply {
        let mut deleted = Vec::new();
        for payload in &message.payloads {
            let Payload::Delete(delete) = payload else {
                continue;
            };
            match delete.protocol {
                ProtocolId::IKE => return self.answer_delete_ike(ctx),
                ProtocolId::ESP => {
                    for spi in &delete.spis {
                        deleted.extend(self.answer_delete_pair(*spi, ctx));
                    }
                }
                // We have no SA of another protocol.
                _ => {}
            }
        }
        if message.notify(NotifyType::AUTHENTICATION_FAILED).is_some() {
            // RFC 7296 2.21.2: the initiator does not accept our AUTH.
            self.log(
                ctx,
                Level::Warn,
                "the peer does not accept our authentication",
            );
            return Reply {
                payloads: Vec::new(),
                after: After::End(Reason::AuthenticationFailed),
            };
        }
        let answer = (!deleted.is_empty()).then(|| Payload::Delete(Delete::esp(deleted)));
        Reply::new(answer.into_iter().collect())
    }

    fn answer_delete_ike(&mut self, ctx: &mut Context<'_>) -> Reply {
        self.log(ctx, Level::Info, "deleted by the peer");
        let rival = self.take_ike_rival();
        match (self.state(), rival) {
            // Its rekey was faster than ours, and it closes what was replaced (RFC 7296 2.8.2).
            (State::Established, Some(rival)) => {
                if let Some(task) = self
                    .pending
                    .as_mut()
                    .and_then(|pending| pending.task.as_mut())
                {
                    ctx.done(&std::mem::take(&mut task.requests), &Ok(()));
                }
                self.hand_over(rival.sa, ctx);
            }
            (State::Established, None) => {
                self.reopen_children(|child| child.config.close_action, ctx);
            }
            (
                State::Initiated
                | State::Authenticating
                | State::HalfOpen
                | State::Replaced
                | State::Deleting
                | State::Lingering
                | State::Closed,
                _,
            ) => {}
        }
        Reply {
            payloads: Vec::new(),
            after: After::End(Reason::DeletedByPeer),
        }
    }

    /// The peer deletes the pair that it names by its own inbound SPI: gives ours for the answer.
    fn answer_delete_pair(&mut self, spi: u32, ctx: &mut Context<'_>) -> Option<u32> {
        let Some((id, pair)) = self.pair_of_peer(spi) else {
            self.note_early_delete(spi);
            return None;
        };
        let inbound_spi = pair.inbound_spi;
        let ike = self.id;
        match pair.state {
            // RFC 7296 1.4.1: both delete it at once. The outbound SA goes now, the inbound one
            // with the response to our request, and the answer does not name it.
            PairState::Deleting => {
                if let Some(child) = self.child_mut(id) {
                    child.stop_sending(ike, inbound_spi, ctx);
                }
                None
            }
            PairState::Draining => None,
            PairState::Ready | PairState::Active | PairState::Replaced => {
                let by_peer = matches!(pair.state, PairState::Ready | PairState::Active);
                if let Some(child) = self.end_pair(inbound_spi, ctx)
                    && by_peer
                {
                    self.reopen(&child, child.config.close_action, ctx);
                }
                Some(inbound_spi)
            }
        }
    }

    /// The response that would tell us of this SPI is still on its way.
    fn note_early_delete(&mut self, spi: u32) {
        if let Some(offer) = self
            .pending
            .as_mut()
            .and_then(|pending| pending.child_offer())
            && offer.deleted.len() < MAX_EARLY_DELETES
        {
            offer.deleted.push(spi);
            self.dirty = true;
        }
    }

    /// All children are going; some shall come back.
    pub(crate) fn reopen_children(&self, wish: impl Fn(&Child) -> Wish, ctx: &mut Context<'_>) {
        for child in &self.children {
            self.reopen(child, wish(child), ctx);
        }
    }

    fn reopen(&self, child: &Child, wish: Wish, ctx: &mut Context<'_>) {
        let (connection, child) = (self.connection.name.clone(), child.config.name.clone());
        match wish {
            Wish::None => {}
            Wish::Trap => ctx.effect(Effect::Trap { connection, child }),
            Wish::Start => ctx.effect(Effect::Reopen { connection, child }),
        }
    }

    /// `dpd_delay` has passed: ask, unless something was heard meanwhile.
    pub(crate) fn check_liveness(&mut self, ctx: &mut Context<'_>) {
        let delay_s = self.connection.dpd_delay_s;
        if delay_s == 0 || self.state() != State::Established {
            return;
        }
        let pairs = self.children.iter().flat_map(|child| &child.pairs);
        let packets = pairs
            .map(|pair| ctx.host.inbound_packets(pair.inbound_spi))
            .sum();
        if packets > self.heard_packets {
            self.heard = ctx.now;
        }
        self.heard_packets = packets;
        let due = self.heard.after_s(delay_s);
        if due > ctx.now {
            self.timers.set(Timer::Liveness, due);
            return;
        }
        if self.pending.is_none() {
            self.push_own(TaskKind::Liveness, ctx);
        }
        self.timers.set(Timer::Liveness, ctx.now.after_s(delay_s));
    }

    /// The connection was loaded again with another `dpd_delay`.
    pub(crate) fn restart_liveness(&mut self, now: Time) {
        let delay_s = self.connection.dpd_delay_s;
        if delay_s > 0 && self.state() == State::Established {
            self.timers.set(Timer::Liveness, now.after_s(delay_s));
        }
    }
}

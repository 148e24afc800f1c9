//! Our requests: sending, sending again, giving up (RFC 7296 2.1), and the queue of what to do next.

use super::{Outstanding, Pending};
use crate::context::{Attempt, Context, Effect};
use crate::event::Level;
use crate::ike_sa::{IkeSa, State};
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{ExchangeType, Flags, Header, Message, Payload, VERSION};

impl IkeSa {
    /// Header of a message of ours.
    pub(crate) fn header(&self, exchange: ExchangeType, message_id: u32, response: bool) -> Header {
        let (spi_i, spi_r) = self.spis();
        let flags = Flags::new(self.initiator, response);
        Header {
            spi_i,
            spi_r,
            version: VERSION,
            exchange,
            flags,
            message_id,
        }
    }

    /// Sends an encrypted request.
    ///
    /// # Errors
    /// The task, if the message cannot be made. Nothing has changed then.
    pub(crate) fn request(
        &mut self,
        exchange: ExchangeType,
        payloads: Vec<Payload>,
        task: Task,
        outstanding: Outstanding,
        ctx: &mut Context<'_>,
    ) -> Result<(), (Task, Outstanding)> {
        let header = self.header(exchange, self.next_request, false);
        let message = Message { header, payloads };
        let Some(bytes) = self.keys.as_ref().and_then(|keys| keys.seal(&message, ctx)) else {
            return Err((task, outstanding));
        };
        let message_id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.await_response(message_id, bytes, Some(task), outstanding, ctx);
        Ok(())
    }

    /// Sends a request and waits for its response.
    pub(crate) fn await_response(
        &mut self,
        message_id: u32,
        bytes: Vec<u8>,
        task: Option<Task>,
        outstanding: Outstanding,
        ctx: &mut Context<'_>,
    ) {
        let wait_ms = ctx.shared.settings.retransmit_timeout_ms;
        self.timers
            .set(Timer::Retransmit, ctx.now.after_ms(wait_ms));
        self.send(bytes.clone());
        let pending = Pending {
            message_id,
            bytes,
            retransmissions: 0,
            wait_ms,
            task,
            outstanding,
        };
        self.pending = Some(Box::new(pending));
        self.dirty = true;
    }

    /// Sends the outstanding request again, or gives up.
    pub(crate) fn retransmit(&mut self, ctx: &mut Context<'_>) {
        let settings = &ctx.shared.settings;
        let (tries, percent) = (settings.retransmit_tries, settings.retransmit_base_percent);
        let Some(pending) = &mut self.pending else {
            return;
        };
        if pending.retransmissions >= tries {
            self.give_up(ctx);
            return;
        }
        pending.retransmissions += 1;
        pending.wait_ms = pending.wait_ms.saturating_mul(u64::from(percent)) / 100;
        let (bytes, wait_ms, id) = (pending.bytes.clone(), pending.wait_ms, pending.message_id);
        self.timers
            .set(Timer::Retransmit, ctx.now.after_ms(wait_ms));
        self.log(ctx, Level::Debug, format!("request {id} goes out again"));
        self.send(bytes);
    }

    /// The peer does not answer (RFC 7296 2.4): the IKE SA and its children are gone.
    fn give_up(&mut self, ctx: &mut Context<'_>) {
        self.log(ctx, Level::Warn, "the peer does not answer");
        match self.state() {
            State::Initiated | State::Authenticating => self.retry(ctx),
            State::Established if self.has_ike_rival() => {
                // Its rekey has reached us, so the peer goes on there.
                if let Some(rival) = self.take_ike_rival() {
                    self.hand_over(rival.sa, ctx);
                }
                ctx.effect(Effect::End {
                    ike: self.id,
                    reason: Reason::Timeout,
                });
            }
            State::Established => {
                self.reopen_children(|child| child.config.dpd_action, ctx);
                self.close(Reason::Timeout, ctx);
            }
            State::HalfOpen
            | State::Replaced
            | State::Deleting
            | State::Lingering
            | State::Closed => self.close(Reason::Timeout, ctx),
        }
    }

    /// `keyingtries`: starts over with the tasks of this IKE SA, or ends.
    fn retry(&mut self, ctx: &mut Context<'_>) {
        let tries = self.tries.saturating_add(1);
        let most = self.connection.keyingtries;
        if most != 0 && tries >= most {
            self.close(Reason::Timeout, ctx);
            return;
        }
        let mut tasks = self.tasks.drain();
        if let Some(mut pending) = self.pending.take() {
            pending.abandon(ctx);
            tasks.extend(pending.task.take());
        }
        let connection = self.connection.clone();
        ctx.effect(Effect::Retry(Box::new(Attempt {
            connection,
            tasks,
            tries,
        })));
        self.close(Reason::Timeout, ctx);
    }

    /// Starts the next tasks, as far as nothing is outstanding.
    pub(crate) fn start_tasks(&mut self, ctx: &mut Context<'_>) {
        self.timers.stop(Timer::Task);
        while self.pending.is_none() && self.may_start_tasks() {
            let Some(task) = self.tasks.take_ready(ctx.now) else {
                break;
            };
            self.begin(task, ctx);
        }
        if self.pending.is_none()
            && self.may_start_tasks()
            && let Some(at) = self.tasks.next()
        {
            self.timers.set(Timer::Task, at);
        }
    }

    const fn may_start_tasks(&self) -> bool {
        match self.state() {
            State::Established => !self.unsettled,
            State::Replaced => true,
            State::Initiated
            | State::Authenticating
            | State::HalfOpen
            | State::Deleting
            | State::Lingering
            | State::Closed => false,
        }
    }

    fn begin(&mut self, task: Task, ctx: &mut Context<'_>) {
        match task.kind.clone() {
            TaskKind::Establish => ctx.done(&task.requests, &Ok(())),
            TaskKind::NewChild { name } => self.begin_new_child(&name, task, ctx),
            TaskKind::RekeyChild { child, spi } => self.begin_rekey_child(child, spi, task, ctx),
            TaskKind::RekeyIke => self.begin_rekey_ike(task, ctx),
            TaskKind::DeletePairs { spis } => self.begin_delete_pairs(spis, task, ctx),
            TaskKind::DeleteChild { child } => self.begin_delete_child(child, task, ctx),
            TaskKind::DeleteIke => self.begin_delete_ike(None, task, ctx),
            TaskKind::Refuse { reason } => self.begin_delete_ike(Some(reason), task, ctx),
            TaskKind::Liveness => self.begin_liveness(task, ctx),
        }
    }

    /// A task failed for good.
    pub(crate) fn fail(&mut self, task: &Task, reason: Reason, ctx: &mut Context<'_>) {
        let text = match &task.kind {
            TaskKind::NewChild { name } => format!("child {name}: {reason}"),
            TaskKind::RekeyChild { child, .. } => format!("rekey of child {child}: {reason}"),
            TaskKind::RekeyIke => format!("rekey of the IKE SA: {reason}"),
            TaskKind::Establish
            | TaskKind::DeletePairs { .. }
            | TaskKind::DeleteChild { .. }
            | TaskKind::DeleteIke
            | TaskKind::Refuse { .. }
            | TaskKind::Liveness => reason.to_string(),
        };
        self.log(ctx, Level::Warn, &text);
        ctx.failed(&task.requests, reason, text);
    }
}

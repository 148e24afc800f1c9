//! Messages of the peer: which are new, which come again, and where they go (RFC 7296 2.2, 2.3).

use super::{After, Outstanding, Refusal, Reply, Route};
use crate::context::{Context, Effect};
use crate::event::Level;
use crate::ike_sa::{IkeSa, State};
use crate::task::TaskKind;
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{Encrypted, ExchangeType, Header, Message, Payload, ProtocolId, WireError};

impl IkeSa {
    /// A protected message of this IKE SA.
    pub(crate) fn handle_encrypted(
        &mut self,
        route: Route,
        encrypted: &Encrypted<'_>,
        ctx: &mut Context<'_>,
    ) {
        let header = *encrypted.header();
        if header.flags.is_initiator() == self.initiator {
            return;
        }
        let Some(opened) = self.keys.as_ref().and_then(|keys| keys.open(encrypted)) else {
            self.log(
                ctx,
                Level::Debug,
                format!("a message from {} is forged", route.remote),
            );
            return;
        };
        if header.flags.is_response() {
            self.handle_response(route, &header, opened, ctx);
        } else {
            self.handle_request(route, &header, opened, ctx);
        }
    }

    fn handle_request(
        &mut self,
        route: Route,
        header: &Header,
        opened: Result<Message, WireError>,
        ctx: &mut Context<'_>,
    ) {
        if header.message_id != self.next_expected {
            self.repeat_answer(route, header, ctx);
            return;
        }
        let reply = match opened {
            Ok(message) => self.answer_request(route, &message, ctx),
            Err(error) => self.answer_malformed(error, ctx),
        };
        let Some(reply) = reply else { return };
        self.heard_at(route, ctx);
        let header = self.header(header.exchange, header.message_id, true);
        let message = Message {
            header,
            payloads: reply.payloads,
        };
        let Some(bytes) = self.keys.as_ref().and_then(|keys| keys.seal(&message, ctx)) else {
            self.close(Reason::Limit, ctx);
            return;
        };
        self.next_expected = self.next_expected.wrapping_add(1);
        self.answer = Some(bytes.clone());
        self.dirty = true;
        // RFC 7296 2.11: back to where the request came from.
        self.send_to(route.local, route.remote, bytes);
        if let After::End(reason) = reply.after {
            // Once its children have moved, if they do.
            ctx.effect(Effect::End {
                ike: self.id,
                reason,
            });
        }
    }

    /// The last request again gets the last response again; anything older was answered and the
    /// answer has arrived (RFC 7296 2.3). Anything newer is outside our window of one.
    fn repeat_answer(&mut self, route: Route, header: &Header, ctx: &mut Context<'_>) {
        if header.message_id.wrapping_add(1) != self.next_expected {
            let text = format!("message ID {} is outside the window", header.message_id);
            self.log(ctx, Level::Debug, text);
            return;
        }
        if let Some(bytes) = self.answer.clone() {
            self.send_to(route.local, route.remote, bytes);
        }
    }

    /// `None`: no answer, and the message counts as not received.
    fn answer_request(
        &mut self,
        route: Route,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Option<Reply> {
        let exchange = message.header.exchange;
        if self.unsettled && !deletes_ike(message) {
            // The peer is ahead; when it comes again we will know (RFC 7296 2.8.2).
            return None;
        }
        match self.state() {
            State::HalfOpen => match exchange {
                ExchangeType::IKE_AUTH => Some(self.answer_auth(route, message, ctx)),
                _ => None,
            },
            State::Established | State::Replaced | State::Deleting => match exchange {
                ExchangeType::CREATE_CHILD_SA => Some(self.answer_create_child(message, ctx)),
                ExchangeType::INFORMATIONAL => Some(self.answer_informational(message, ctx)),
                _ => Some(Reply::new(vec![
                    Refusal::from(Reason::InvalidSyntax).payload(),
                ])),
            },
            // As initiator: the peer is ahead of its IKE_AUTH response, and will come again.
            State::Initiated | State::Authenticating | State::Lingering | State::Closed => None,
        }
    }

    /// RFC 7296 2.21.3: authenticated nonsense is the end of the IKE SA; an unknown critical
    /// payload is not (2.5).
    fn answer_malformed(&mut self, error: WireError, ctx: &mut Context<'_>) -> Option<Reply> {
        self.log(ctx, Level::Warn, format!("refused a request: {error}"));
        let (reason, fatal) = match error {
            WireError::UnsupportedCritical(kind) => (Reason::UnsupportedCritical(kind.0), false),
            _ => (Reason::InvalidSyntax, true),
        };
        let fatal = fatal || self.state() == State::HalfOpen;
        let after = if fatal {
            After::End(reason)
        } else {
            After::Continue
        };
        match self.state() {
            State::HalfOpen | State::Established | State::Replaced | State::Deleting => {
                Some(Reply {
                    payloads: vec![Refusal::from(reason).payload()],
                    after,
                })
            }
            State::Initiated | State::Authenticating | State::Lingering | State::Closed => None,
        }
    }

    /// The peer lives, and this is where.
    fn heard_at(&mut self, route: Route, ctx: &mut Context<'_>) {
        self.heard = ctx.now;
        // RFC 7296 2.23: a side that is itself behind a NAT does not follow.
        if self.nat.remote && !self.nat.local {
            self.follow(route.local, route.remote, ctx);
        }
    }

    fn handle_response(
        &mut self,
        route: Route,
        header: &Header,
        opened: Result<Message, WireError>,
        ctx: &mut Context<'_>,
    ) {
        let fits = |pending: &super::Pending| {
            pending.message_id == header.message_id
                && exchange_of(&pending.outstanding) == header.exchange
        };
        if !self.pending.as_deref().is_some_and(fits) {
            return;
        }
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.timers.stop(Timer::Retransmit);
        self.heard_at(route, ctx);
        self.dirty = true;
        match opened {
            Ok(message) => self.take_response(*pending, &message, ctx),
            Err(error) => {
                // RFC 7296 2.21.3: what the peer now thinks cannot be known.
                self.log(
                    ctx,
                    Level::Warn,
                    format!("a response is malformed: {error}"),
                );
                pending.abandon(ctx);
                if let Some(task) = &pending.task {
                    self.fail(task, Reason::InvalidSyntax, ctx);
                }
                self.end_malformed(ctx);
            }
        }
    }

    fn end_malformed(&mut self, ctx: &mut Context<'_>) {
        match self.state() {
            State::Established | State::Replaced => self.push_own(TaskKind::DeleteIke, ctx),
            State::Initiated
            | State::Authenticating
            | State::HalfOpen
            | State::Deleting
            | State::Lingering
            | State::Closed => self.close(Reason::InvalidSyntax, ctx),
        }
    }

    fn take_response(&mut self, pending: super::Pending, message: &Message, ctx: &mut Context<'_>) {
        let task = pending
            .task
            .unwrap_or_else(|| crate::task::Task::new(TaskKind::Establish, None));
        match pending.outstanding {
            // IKE_SA_INIT is not encrypted; its response does not come here.
            Outstanding::Init => {}
            Outstanding::Auth(offer) => self.take_auth(offer, task, message, ctx),
            Outstanding::NewChild(offer) => self.take_new_child(*offer, task, message, ctx),
            Outstanding::RekeyChild(offer) => self.take_rekeyed_child(*offer, task, message, ctx),
            Outstanding::RekeyIke(offer) => self.take_rekeyed_ike(*offer, task, message, ctx),
            Outstanding::DeletePairs(spis) => self.take_deleted_pairs(&spis, &task, ctx),
            Outstanding::DeleteIke => self.take_deleted_ike(&task, ctx),
            Outstanding::Liveness => ctx.done(&task.requests, &Ok(())),
        }
    }
}

fn deletes_ike(message: &Message) -> bool {
    message.payloads.iter().any(|payload| match payload {
        Payload::Delete(delete) => delete.protocol == ProtocolId::IKE,
        _ => false,
    })
}

const fn exchange_of(outstanding: &Outstanding) -> ExchangeType {
    match outstanding {
        Outstanding::Init => ExchangeType::IKE_SA_INIT,
        Outstanding::Auth(_) => ExchangeType::IKE_AUTH,
        Outstanding::NewChild(_) | Outstanding::RekeyChild(_) | Outstanding::RekeyIke(_) => {
            ExchangeType::CREATE_CHILD_SA
        }
        Outstanding::DeletePairs(_) | Outstanding::DeleteIke | Outstanding::Liveness => {
            ExchangeType::INFORMATIONAL
        }
    }
}

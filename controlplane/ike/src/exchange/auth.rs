//! IKE_AUTH with a pre-shared key (RFC 7296 1.2, 2.15, 2.16, 2.21.2; RFC 6023).

use super::child::Wish;
use super::{After, ChildOffer, Handshake, Outstanding, Parts, Refusal, Reply, Route};
use crate::auth::{Identity, SignedOctets};
use crate::config::{Childless, Connection, Unique};
use crate::context::{Context, Effect};
use crate::event::Level;
use crate::ike_sa::{IkeSa, State};
use crate::negotiate::agrees;
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{AuthMethod, ExchangeType, Identification, Message, NotifyType, Payload};
use std::sync::Arc;

/// A task, and the offer with its payloads if it is for a child.
type FirstChild = (Task, Option<(ChildOffer, Vec<Payload>)>);

impl IkeSa {
    /// Own identity on this connection: the configured one, else the own address.
    fn own_id(&self, connection: &Connection) -> Identity {
        connection
            .local_id
            .clone()
            .unwrap_or_else(|| Identity::address(self.local.ip()))
    }

    /// AUTH data of one side (RFC 7296 2.15).
    fn signed<'a>(
        &'a self,
        handshake: &'a Handshake,
        by_initiator: bool,
        id_body: &'a [u8],
    ) -> Option<SignedOctets<'a>> {
        let (message, peer_nonce) = if by_initiator {
            (&handshake.init_request, &handshake.nonce_r)
        } else {
            (&handshake.init_response, &handshake.nonce_i)
        };
        let sk_p = self.keys.as_ref()?.sk_p(by_initiator);
        Some(SignedOctets {
            message,
            peer_nonce,
            id_body,
            sk_p,
        })
    }

    fn own_auth(&self, local: &Identity, remote: &Identity, ctx: &Context<'_>) -> Option<Payload> {
        let handshake = self.handshake.as_deref()?;
        let body = local.to_wire()?.body();
        let secret = ctx.secret(local, remote)?;
        let prf = self.keys.as_ref()?.prf();
        let data = self
            .signed(handshake, self.initiator, &body)?
            .psk_auth(prf, &secret.key);
        Some(Payload::Auth {
            method: AuthMethod::PSK,
            data: data.to_vec(),
        })
    }

    /// The peer's AUTH payload is that of the identity it claims.
    fn peer_auth_holds(
        &self,
        claimed: &Identification,
        local: &Identity,
        auth: (AuthMethod, &[u8]),
        ctx: &Context<'_>,
    ) -> bool {
        let check = || {
            let handshake = self.handshake.as_deref()?;
            let body = claimed.body();
            let secret = ctx.secret(local, &Identity::from_wire(claimed))?;
            let prf = self.keys.as_ref()?.prf();
            let signed = self.signed(handshake, !self.initiator, &body)?;
            Some(signed.verify_psk(prf, &secret.key, auth.1))
        };
        auth.0 == AuthMethod::PSK && check() == Some(true)
    }

    /// Sends IKE_AUTH: IDi, [N(INITIAL_CONTACT)], [IDr], AUTH, [SAi2, TSi, TSr].
    pub(crate) fn begin_auth(&mut self, ctx: &mut Context<'_>) {
        let connection = self.connection.clone();
        let local = self.own_id(&connection);
        let remote = connection.remote_id.clone();
        let Some(id_i) = local.to_wire() else {
            return self.refuse_locally(Reason::AuthenticationFailed, "id has wildcards", ctx);
        };
        let Some(auth) = self.own_auth(&local, &remote, ctx) else {
            let text = format!("no secret for {local} and {remote}");
            return self.refuse_locally(Reason::NoSecret, &text, ctx);
        };
        let mut payloads = vec![Payload::IdI(id_i)];
        if connection.unique != Unique::Never && ctx.shared.is_first_contact(&local, &remote) {
            payloads.push(Payload::notify(NotifyType::INITIAL_CONTACT, Vec::new()));
        }
        payloads.extend(remote.to_wire().map(Payload::IdR));
        payloads.push(auth);
        self.local_id = Some(local);
        let (task, offer) = match self.first_child(ctx) {
            Ok((task, Some((offer, child)))) => {
                payloads.extend(child);
                (task, Some(Box::new(offer)))
            }
            Ok((task, None)) => {
                // RFC 6023: no SA and TS payloads at all.
                (task, None)
            }
            Err(reason) => return self.refuse_locally(reason, reason.text(), ctx),
        };
        self.set_state(State::Authenticating, ctx);
        let exchange = ExchangeType::IKE_AUTH;
        let outstanding = Outstanding::Auth(offer);
        if let Err((task, _)) = self.request(exchange, payloads, task, outstanding, ctx) {
            self.fail(&task, Reason::InvalidSyntax, ctx);
            self.close(Reason::InvalidSyntax, ctx);
        }
    }

    fn refuse_locally(&mut self, reason: Reason, text: &str, ctx: &mut Context<'_>) {
        self.log(ctx, Level::Warn, text);
        self.close(reason, ctx);
    }

    /// The child that goes with IKE_AUTH, and who waits for it. Without one if that is asked for
    /// and the peer can do it.
    fn first_child(&mut self, ctx: &mut Context<'_>) -> Result<FirstChild, Reason> {
        let childless = self.connection.childless;
        let can = self.peer_childless && childless != Childless::Never;
        if childless == Childless::Force && !self.peer_childless {
            return Err(Reason::ChildlessRefused);
        }
        let is_child = |kind: &TaskKind| matches!(kind, TaskKind::NewChild { .. });
        if can && matches!(childless, Childless::Force | Childless::Prefer) {
            return Ok((self.alone(), None));
        }
        let task = match self.tasks.take(is_child) {
            Some(task) => task,
            None if can => return Ok((self.alone(), None)),
            // The peer cannot do without: the first child that is configured.
            None => {
                let first = self
                    .connection
                    .children
                    .first()
                    .ok_or(Reason::ChildlessRefused)?;
                Task::new(
                    TaskKind::NewChild {
                        name: first.name.clone(),
                    },
                    None,
                )
            }
        };
        let TaskKind::NewChild { name } = &task.kind else {
            return Ok((task, None));
        };
        let Some(config) = Context::child_config(&self.connection, name) else {
            self.fail(&task, Reason::UnknownChild, ctx);
            return Err(Reason::UnknownChild);
        };
        let wish = Wish {
            config,
            initial: true,
            replaces: None,
            group: None,
        };
        let offer = self.offer_child(wish, ctx).inspect_err(|reason| {
            ctx.failed(&task.requests, *reason, reason.to_string());
        })?;
        Ok((task, Some(offer)))
    }

    /// Who waits for the IKE SA alone.
    fn alone(&mut self) -> Task {
        let waiting = self.tasks.take(|kind| *kind == TaskKind::Establish);
        waiting.unwrap_or_else(|| Task::new(TaskKind::Establish, None))
    }

    /// Response to IKE_AUTH.
    pub(crate) fn take_auth(
        &mut self,
        offer: Option<Box<ChildOffer>>,
        task: Task,
        message: &Message,
        ctx: &mut Context<'_>,
    ) {
        let parts = Parts::of(message);
        let verified = self.verify_responder(&parts, message, ctx);
        if let Err(reason) = verified {
            if let Some(offer) = &offer {
                ctx.host.release_spi(offer.spi);
            }
            self.fail(&task, reason, ctx);
            if parts.auth.is_some() {
                // RFC 7296 2.21.2: the responder believes that all is well.
                self.set_state(State::Established, ctx);
                self.handshake = None;
                self.fail_tasks(reason, ctx);
                self.push_own(TaskKind::Refuse { reason }, ctx);
            } else {
                self.close(reason, ctx);
            }
            return;
        }
        self.establish(ctx);
        let Some(mut offer) = offer else {
            ctx.done(&task.requests, &Ok(()));
            self.handshake = None;
            return;
        };
        match self.take_first_child(&mut offer, &parts, message, ctx) {
            Ok(agreed) => {
                self.install_child(offer.child, agreed, ctx);
                ctx.done(&task.requests, &Ok(()));
            }
            Err(reason) => {
                // RFC 7296 1.2: the IKE SA is up all the same.
                ctx.host.release_spi(offer.spi);
                self.fail(&task, reason, ctx);
                if message.error().is_none() {
                    self.push_own(
                        TaskKind::DeletePairs {
                            spis: vec![offer.spi],
                        },
                        ctx,
                    );
                }
            }
        }
        self.handshake = None;
    }

    fn fail_tasks(&mut self, reason: Reason, ctx: &mut Context<'_>) {
        for task in self.tasks.drain() {
            self.fail(&task, reason, ctx);
        }
    }

    fn take_first_child(
        &self,
        offer: &mut ChildOffer,
        parts: &Parts<'_>,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Result<super::child::Agreed, Reason> {
        if let Some(error) = message.error() {
            return Err(Reason::from_notify(error.kind));
        }
        let handshake = self.handshake.as_deref().ok_or(Reason::InvalidSyntax)?;
        let nonces = (handshake.nonce_i.as_slice(), handshake.nonce_r.as_slice());
        let agreed = self.take_child_answer(offer, parts, nonces, true, ctx)?;
        if offer.deleted.contains(&agreed.pair.outbound_spi) {
            return Err(Reason::DeletedByPeer);
        }
        Ok(agreed)
    }

    fn verify_responder(
        &mut self,
        parts: &Parts<'_>,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Result<(), Reason> {
        let (Some(id_r), Some(auth)) = (parts.id_r, parts.auth) else {
            let error = message
                .error()
                .map(|notify| Reason::from_notify(notify.kind));
            return Err(error.unwrap_or(Reason::InvalidSyntax));
        };
        let remote = Identity::from_wire(id_r);
        let local = self.local_id.clone().ok_or(Reason::AuthenticationFailed)?;
        if !self.connection.remote_id.matches(&remote) {
            let wanted = &self.connection.remote_id;
            self.log(
                ctx,
                Level::Warn,
                format!("the peer is {remote}, not {wanted}"),
            );
            return Err(Reason::AuthenticationFailed);
        }
        if !self.peer_auth_holds(id_r, &local, auth, ctx) {
            self.log(ctx, Level::Warn, format!("AUTH of {remote} is wrong"));
            return Err(Reason::AuthenticationFailed);
        }
        self.remote_id = Some(remote);
        Ok(())
    }

    /// Both sides are authenticated.
    fn establish(&mut self, ctx: &mut Context<'_>) {
        self.set_state(State::Established, ctx);
        self.established = ctx.now;
        self.tries = 0;
        self.timers.stop(Timer::GiveUp);
        self.start_lifetimes(ctx);
        if let Some(parties) = self.parties() {
            let text = format!("established between {} and {}", parties.0, parties.1);
            self.log(ctx, Level::Info, text);
            ctx.shared.register(parties, self.id);
        }
    }

    /// Request of the peer.
    pub(crate) fn answer_auth(
        &mut self,
        route: Route,
        message: &Message,
        ctx: &mut Context<'_>,
    ) -> Reply {
        // The initiator may have moved to the NAT-T port (RFC 7296 2.23).
        self.local = route.local;
        self.remote = route.remote;
        match self.admit(message, ctx) {
            Ok(payloads) => Reply::new(payloads),
            Err(reason) => {
                self.log(ctx, Level::Warn, format!("refused IKE_AUTH: {reason}"));
                let payloads = vec![Refusal::from(reason).payload()];
                Reply {
                    payloads,
                    after: After::End(reason),
                }
            }
        }
    }

    fn admit(&mut self, message: &Message, ctx: &mut Context<'_>) -> Result<Vec<Payload>, Reason> {
        let parts = Parts::of(message);
        let id_i = parts.id_i.ok_or(Reason::InvalidSyntax)?;
        // Without AUTH the peer wants EAP (RFC 7296 2.16), which is not offered here.
        let auth = parts.auth.ok_or(Reason::AuthenticationFailed)?;
        let remote = Identity::from_wire(id_i);
        let wanted = parts.id_r.map(Identity::from_wire);
        let (connection, local) = self
            .matching_connection(&remote, wanted.as_ref(), ctx)
            .ok_or_else(|| {
                self.log(
                    ctx,
                    Level::Warn,
                    format!("no connection for the peer {remote}"),
                );
                Reason::AuthenticationFailed
            })?;
        if !self.peer_auth_holds(id_i, &local, auth, ctx) {
            self.log(ctx, Level::Warn, format!("AUTH of {remote} is wrong"));
            return Err(Reason::AuthenticationFailed);
        }
        let own_auth = self
            .own_auth(&local, &remote, ctx)
            .ok_or(Reason::NoSecret)?;
        let id_r = local.to_wire().ok_or(Reason::AuthenticationFailed)?;
        self.connection = connection;
        self.local_id = Some(local);
        self.remote_id = Some(remote);
        self.heed_uniqueness(message, ctx)?;
        let childless = parts.sa.is_none() && parts.ts_i.is_none() && parts.ts_r.is_none();
        if childless && self.connection.childless == Childless::Never {
            return Err(Reason::InvalidSyntax);
        }
        self.establish(ctx);
        let mut payloads = vec![Payload::IdR(id_r), own_auth];
        if !childless {
            payloads.extend(self.admit_child(&parts, ctx));
        }
        self.handshake = None;
        Ok(payloads)
    }

    /// The child of IKE_AUTH, or the notification why there is none.
    fn admit_child(&mut self, parts: &Parts<'_>, ctx: &mut Context<'_>) -> Vec<Payload> {
        let handshake = self.handshake.take().unwrap_or_default();
        let nonces = (handshake.nonce_i.as_slice(), handshake.nonce_r.as_slice());
        let accepted = if self.connection.childless == Childless::Force {
            Err(Reason::NoAdditionalSas.into())
        } else {
            self.accept_child(parts, Some(nonces), None, ctx)
        };
        match accepted {
            Ok((agreed, payloads, _)) => {
                let id = ctx.next_child();
                self.install_child(id, agreed, ctx);
                payloads
            }
            Err(refusal) => {
                self.log(
                    ctx,
                    Level::Warn,
                    format!("refused the child: {}", refusal.reason),
                );
                vec![refusal.payload()]
            }
        }
    }

    /// First of the connections between these addresses that knows the identities and would have
    /// taken the proposal, best address match first.
    fn matching_connection(
        &self,
        remote: &Identity,
        wanted: Option<&Identity>,
        ctx: &Context<'_>,
    ) -> Option<(Arc<Connection>, Identity)> {
        let suite = self.keys.as_ref()?.suite();
        let init_request = &self.handshake.as_deref()?.init_request;
        super::init::candidates(self.local, self.remote, ctx.shared)
            .into_iter()
            .find_map(|connection| {
                let local = self.own_id(&connection);
                let fits = connection.remote_id.matches(remote)
                    && wanted.is_none_or(|wanted| local.matches(wanted))
                    && agrees(&connection.proposals, suite, init_request)
                    && ctx.secret(&local, remote).is_some();
                fits.then_some((connection, local))
            })
    }

    /// INITIAL_CONTACT and `unique` (RFC 7296 2.4). Older IKE SAs get a DELETE: should the peer
    /// still know them, both sides agree again.
    fn heed_uniqueness(&self, message: &Message, ctx: &mut Context<'_>) -> Result<(), Reason> {
        let Some(parties) = self.parties() else {
            return Ok(());
        };
        let others = ctx.shared.others(&parties, self.id);
        if others.is_empty() {
            return Ok(());
        }
        let initial = message.notify(NotifyType::INITIAL_CONTACT).is_some();
        match self.connection.unique {
            Unique::Never => {}
            Unique::No | Unique::Keep if initial => ctx.effect(Effect::Supersede(others)),
            Unique::No => {}
            Unique::Keep => return Err(Reason::AuthenticationFailed),
            Unique::Replace => ctx.effect(Effect::Supersede(others)),
        }
        Ok(())
    }
}

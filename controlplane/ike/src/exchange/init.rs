//! IKE_SA_INIT (RFC 7296 1.2, 1.3, 2.6, 2.7, 2.23). Nothing in it is authenticated yet, so what does
//! not fit is ignored rather than believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::{
    Handshake, Ke, MAX_RESTARTS, NONCE_BYTES, Outstanding, Parts, Refusal, Route, answer_ke,
    wanted_group,
};
use crate::config::{AddressSpec, Childless, Connection, rank};
use crate::context::{Attempt, Context, Shared};
use crate::event::Level;
use crate::ike_sa::{IkeSa, Start, State};
use crate::keymat::{IkeSpis, Nonces};
use crate::keys::Keys;
use crate::nat;
use crate::negotiate::ike_groups;
use crate::proposal;
use crate::timer::Timer;
use crate::verdict::Reason;
use crate::wire::{ExchangeType, Flags, Header, KeGroup, Message, NotifyType, Payload, VERSION};

/// Cookies have at most this many bytes (RFC 7296 2.6).
const MAX_COOKIE_BYTES: usize = 64;

/// Connections between these two addresses: the best match first, then in the order of the
/// configuration.
pub(crate) fn candidates(
    local: SocketAddr,
    remote: SocketAddr,
    shared: &Shared,
) -> Vec<Arc<Connection>> {
    let ranked = shared.connections.iter().filter_map(|connection| {
        let local = rank(&connection.local_addrs, local.ip())?;
        let remote = rank(&connection.remote_addrs, remote.ip())?;
        Some((remote * 8 + local, connection))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    ranked
        .into_iter()
        .map(|(_, connection)| connection.clone())
        .collect()
}

fn single(specs: &[AddressSpec]) -> Option<IpAddr> {
    specs.iter().find_map(|spec| match spec {
        AddressSpec::Range(first, last) if first == last => Some(*first),
        AddressSpec::Any | AddressSpec::AnyOf { .. } | AddressSpec::Range(..) => None,
    })
}

/// Addresses to call from and to.
fn endpoints(
    connection: &Connection,
    ctx: &mut Context<'_>,
) -> Result<(SocketAddr, SocketAddr), Reason> {
    let remote = single(&connection.remote_addrs).ok_or(Reason::NoPeerAddress)?;
    let local = match single(&connection.local_addrs) {
        Some(local) if local.is_ipv4() == remote.is_ipv4() => local,
        Some(_) => return Err(Reason::NoLocalAddress),
        None => match ctx.host.source_address(remote) {
            Some(local) if rank(&connection.local_addrs, local).is_some() => local,
            Some(_) => return Err(Reason::NoLocalAddress),
            None if remote.is_ipv4() => Ipv4Addr::UNSPECIFIED.into(),
            None => Ipv6Addr::UNSPECIFIED.into(),
        },
    };
    let remote = SocketAddr::new(remote, connection.remote_port);
    Ok((SocketAddr::new(local, connection.local_port), remote))
}

impl IkeSa {
    /// Starts an IKE SA as initiator.
    ///
    /// # Errors
    /// There is nobody to call, or no way to.
    pub(crate) fn initiate(
        attempt: Attempt,
        ctx: &mut Context<'_>,
    ) -> Result<Self, (Attempt, Reason)> {
        let (local, remote) = match endpoints(&attempt.connection, ctx) {
            Ok(endpoints) => endpoints,
            Err(reason) => return Err((attempt, reason)),
        };
        let groups = ike_groups(&attempt.connection.proposals);
        let group = groups.first().copied().unwrap_or(KeGroup::NONE);
        let Ok(ke) = Ke::generate(group, ctx) else {
            return Err((attempt, Reason::KeyExchange));
        };
        let start = Start {
            initiator: true,
            spi_local: ctx.ike_spi(),
            spi_remote: 0,
            connection: attempt.connection,
            local,
            remote,
            state: State::Initiated,
        };
        let mut sa = Self::new(start, ctx);
        sa.tries = attempt.tries;
        for task in attempt.tasks {
            sa.push(task, ctx);
        }
        let nonce_i = ctx.random(NONCE_BYTES);
        let handshake = Handshake {
            nonce_i,
            ke: Some(ke),
            ..Handshake::default()
        };
        sa.handshake = Some(Box::new(handshake));
        sa.log(ctx, Level::Info, format!("calling {remote}"));
        sa.send_init(ctx);
        Ok(sa)
    }

    /// Sends IKE_SA_INIT: [N(COOKIE)], SAi1, KEi, Ni, N(NAT_DETECTION_*). A repetition with cookie
    /// is otherwise the same (RFC 7296 2.6).
    fn send_init(&mut self, ctx: &mut Context<'_>) {
        let nat = nat::payloads(
            (self.spi_local, 0),
            self.local,
            self.remote,
            self.connection.encap,
            ctx,
        );
        let proposals = proposal::offer_ike(&self.connection.proposals, None);
        let header = self.header(ExchangeType::IKE_SA_INIT, 0, false);
        let Some(handshake) = self.handshake.as_deref_mut() else {
            return;
        };
        let mut payloads = Vec::new();
        if !handshake.cookie.is_empty() {
            payloads.push(Payload::notify(
                NotifyType::COOKIE,
                handshake.cookie.clone(),
            ));
        }
        payloads.push(Payload::Sa(proposals));
        payloads.extend(handshake.ke.as_ref().map(Ke::payload));
        payloads.push(Payload::Nonce(handshake.nonce_i.clone()));
        payloads.extend(nat);
        let Ok(bytes) = (Message { header, payloads }).encode() else {
            self.close(Reason::InvalidSyntax, ctx);
            return;
        };
        handshake.init_request.clone_from(&bytes);
        self.await_response(0, bytes, None, Outstanding::Init, ctx);
    }

    /// Response to IKE_SA_INIT.
    pub(crate) fn handle_init_response(
        &mut self,
        route: Route,
        message: &Message,
        bytes: &[u8],
        ctx: &mut Context<'_>,
    ) {
        let awaited = self.state() == State::Initiated
            && self
                .pending
                .as_ref()
                .is_some_and(|p| matches!(p.outstanding, Outstanding::Init));
        if !awaited || message.header.message_id != 0 || route.remote != self.remote {
            return;
        }
        if let Some(cookie) = message.notify(NotifyType::COOKIE) {
            self.start_over(
                |handshake, _| handshake.cookie.clone_from(&cookie.data),
                ctx,
            );
        } else if message.notify(NotifyType::INVALID_KE_PAYLOAD).is_some() {
            self.change_group(message, ctx);
        } else if let Some(error) = message.error() {
            let reason = Reason::from_notify(error.kind);
            self.log(ctx, Level::Warn, format!("the peer refuses: {reason}"));
            self.close(reason, ctx);
        } else {
            self.accept_init_response(message, bytes, ctx);
        }
    }

    /// RFC 7296 1.3: only a method that we offered, and not the one that was just refused.
    fn change_group(&mut self, message: &Message, ctx: &mut Context<'_>) {
        let offered = ike_groups(&self.connection.proposals);
        let handshake = self.handshake.as_deref();
        let current = handshake.and_then(|h| h.ke.as_ref()).map(|ke| ke.group);
        let Some(group) = wanted_group(message).filter(|group| offered.contains(group)) else {
            self.log(
                ctx,
                Level::Warn,
                "the peer wants a key exchange that was not offered",
            );
            self.close(Reason::InvalidKe, ctx);
            return;
        };
        if current == Some(group) {
            // A late repetition of the refusal.
            return;
        }
        match Ke::generate(group, ctx) {
            Ok(ke) => self.start_over(|handshake, _| handshake.ke = Some(ke), ctx),
            Err(_) => self.close(Reason::KeyExchange, ctx),
        }
    }

    fn start_over(
        &mut self,
        change: impl FnOnce(&mut Handshake, &mut Context<'_>),
        ctx: &mut Context<'_>,
    ) {
        let Some(handshake) = self.handshake.as_deref_mut() else {
            return;
        };
        handshake.restarts += 1;
        if handshake.restarts > MAX_RESTARTS {
            self.log(ctx, Level::Warn, "the peer keeps asking for something else");
            self.close(Reason::InvalidKe, ctx);
            return;
        }
        change(handshake, ctx);
        if handshake.cookie.len() > MAX_COOKIE_BYTES {
            handshake.cookie.clear();
            return;
        }
        self.pending = None;
        self.send_init(ctx);
    }

    fn accept_init_response(&mut self, message: &Message, bytes: &[u8], ctx: &mut Context<'_>) {
        let parts = Parts::of(message);
        let (Some(answer), Some((group, data)), Some(nonce_r)) = (parts.sa, parts.ke, parts.nonce)
        else {
            return;
        };
        if message.header.spi_r == 0 {
            return;
        }
        let sent = proposal::offer_ike(&self.connection.proposals, None);
        let verified = proposal::accept_ike(&sent, answer, false);
        let Some(suite) = verified.map(|choice| choice.suite) else {
            self.log(ctx, Level::Warn, "the peer chose what was not offered");
            return;
        };
        let Some(handshake) = self.handshake.as_deref_mut() else {
            return;
        };
        // An answer with another method than ours is none (and ours stays usable).
        if group != suite.group || handshake.ke.as_ref().is_none_or(|ke| ke.group != group) {
            return;
        }
        let Some(ke) = handshake.ke.take() else {
            return;
        };
        let Ok(shared) = ke.exchange.agree(data) else {
            self.log(
                ctx,
                Level::Warn,
                "the key exchange value of the peer is not valid",
            );
            self.close(Reason::KeyExchange, ctx);
            return;
        };
        handshake.nonce_r = nonce_r.to_vec();
        handshake.init_response = bytes.to_vec();
        let nonces = Nonces {
            initiator: &handshake.nonce_i,
            responder: nonce_r,
        };
        let spis = IkeSpis {
            initiator: self.spi_local,
            responder: message.header.spi_r,
        };
        let Some(keys) = Keys::initial(&suite, &shared, nonces, spis, true) else {
            self.close(Reason::KeyExchange, ctx);
            return;
        };
        self.keys = Some(keys);
        self.spi_remote = message.header.spi_r;
        self.peer_childless = message
            .notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED)
            .is_some();
        let spis = (self.spi_local, self.spi_remote);
        self.nat = nat::detect(
            message,
            spis,
            self.local,
            self.remote,
            self.connection.encap,
        );
        self.float_port(ctx);
        self.pending = None;
        self.timers.stop(Timer::Retransmit);
        self.next_request = 1;
        self.begin_auth(ctx);
    }

    /// Behind a NAT the initiator goes on at the NAT-T ports (RFC 7296 2.23).
    fn float_port(&mut self, ctx: &mut Context<'_>) {
        if !self.nat.encapsulate {
            return;
        }
        let (port, port_nat_t) = (ctx.shared.settings.port, ctx.shared.settings.port_nat_t);
        if self.local.port() == port {
            self.local.set_port(port_nat_t);
        }
        if self.remote.port() == 500 {
            self.remote.set_port(4500);
        }
        let text = match (self.nat.local, self.nat.remote) {
            (true, true) => "both sides are behind a NAT",
            (true, false) => "this side is behind a NAT",
            (false, true) => "the peer is behind a NAT",
            (false, false) => "UDP encapsulation is forced",
        };
        self.log(ctx, Level::Info, text);
    }

    /// Answers an IKE_SA_INIT request: the new IKE SA, or the response that refuses it.
    pub(crate) fn answer_init(
        route: Route,
        message: &Message,
        bytes: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<Self, Refusal> {
        let parts = Parts::of(message);
        let (Some(offered), Some((offered_group, _)), Some(nonce_i)) =
            (parts.sa, parts.ke, parts.nonce)
        else {
            return Err(Reason::InvalidSyntax.into());
        };
        let candidates = candidates(route.local, route.remote, ctx.shared);
        let chosen = candidates.into_iter().find_map(|connection| {
            let choice =
                proposal::select_ike(&connection.proposals, offered, false, Some(offered_group))?;
            Some((connection, choice))
        });
        let (connection, choice) = chosen.ok_or(Reason::NoProposalChosen)?;
        let (shared, ke_payload) = answer_ke(&parts, choice.suite.group, ctx)?;
        let nonce_r = ctx.random(NONCE_BYTES);
        let start = Start {
            initiator: false,
            spi_local: ctx.ike_spi(),
            spi_remote: message.header.spi_i,
            connection: connection.clone(),
            local: route.local,
            remote: route.remote,
            state: State::HalfOpen,
        };
        let mut sa = Self::new(start, ctx);
        let spis = IkeSpis {
            initiator: sa.spi_remote,
            responder: sa.spi_local,
        };
        let nonces = Nonces {
            initiator: nonce_i,
            responder: &nonce_r,
        };
        sa.keys = Keys::initial(&choice.suite, &shared, nonces, spis, false);
        // RFC 7296 2.23: the request was hashed with a responder SPI of zero.
        let request_spis = (sa.spi_remote, 0);
        sa.nat = nat::detect(
            message,
            request_spis,
            route.local,
            route.remote,
            connection.encap,
        );
        let payloads = vec![
            Payload::Sa(choice.answer(&[])),
            ke_payload,
            Payload::Nonce(nonce_r.clone()),
        ];
        let response = sa
            .init_response(payloads, ctx)
            .ok_or(Reason::InvalidSyntax)?;
        sa.handshake = Some(Box::new(Handshake {
            init_request: bytes.to_vec(),
            init_response: response.clone(),
            nonce_i: nonce_i.to_vec(),
            nonce_r,
            ..Handshake::default()
        }));
        sa.next_expected = 1;
        sa.answer = Some(response.clone());
        sa.send_to(route.local, route.remote, response);
        let timeout_s = ctx.shared.settings.half_open_timeout_s;
        sa.timers.set(Timer::GiveUp, ctx.now.after_s(timeout_s));
        Ok(sa)
    }

    /// The response: SAr1, KEr, Nr, N(NAT_DETECTION_*), [N(CHILDLESS_IKEV2_SUPPORTED)].
    fn init_response(&self, mut payloads: Vec<Payload>, ctx: &mut Context<'_>) -> Option<Vec<u8>> {
        let (encap, childless) = (self.connection.encap, self.connection.childless);
        payloads.extend(nat::payloads(
            self.spis(),
            self.local,
            self.remote,
            encap,
            ctx,
        ));
        if childless != Childless::Never {
            let kind = NotifyType::CHILDLESS_IKEV2_SUPPORTED;
            payloads.push(Payload::notify(kind, Vec::new()));
        }
        let header = self.header(ExchangeType::IKE_SA_INIT, 0, true);
        Message { header, payloads }.encode().ok()
    }
}

/// An unprotected response without an IKE SA (RFC 7296 2.21.1).
pub(crate) fn plain_response(request: &Header, payload: Payload) -> Option<Vec<u8>> {
    let header = Header {
        version: VERSION,
        flags: Flags::new(!request.flags.is_initiator(), true),
        ..*request
    };
    Message {
        header,
        payloads: vec![payload],
    }
    .encode()
    .ok()
}

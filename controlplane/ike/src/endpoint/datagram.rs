//! Messages: to whom they belong, and what to say when they belong to nobody.

use std::net::SocketAddr;

use super::Endpoint;
use crate::context::Context;
use crate::event::{Action, Level, Output};
use crate::exchange::init::plain_response;
use crate::exchange::{Parts, Refusal, Route};
use crate::host::{Host, Time};
use crate::ike_sa::IkeSa;
use crate::wire::{
    Encrypted, ExchangeType, Flags, HEADER_BYTES, Header, Message, NotifyType, Parsed, Payload,
    VERSION, WireError,
};

/// Longest cookie that is looked at (RFC 7296 2.6).
const MAX_COOKIE_BYTES: usize = 64;

impl Endpoint {
    /// Handles one IKE message, without non-ESP marker. `local` is where it arrived: its port tells
    /// whether it came by the NAT-T port.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        let route = Route { local, remote };
        match Message::parse(bytes) {
            Ok(Parsed::Encrypted(encrypted)) => self.handle_encrypted(now, host, route, &encrypted),
            Ok(Parsed::Plain(message)) => self.handle_plain(now, host, route, &message, bytes),
            Err(error) => self.handle_malformed(route, bytes, error),
        }
        self.settle(now, host);
    }

    fn handle_encrypted(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        route: Route,
        encrypted: &Encrypted<'_>,
    ) {
        let header = encrypted.header();
        let (ours, theirs) = if header.flags.is_initiator() {
            (header.spi_r, header.spi_i)
        } else {
            (header.spi_i, header.spi_r)
        };
        let id = self.by_spi.get(&ours).copied();
        let known = id.filter(|id| self.sas.get(id).is_some_and(|sa| sa.spi_remote == theirs));
        match known {
            Some(id) => self.with(now, host, id, |sa, ctx| {
                sa.handle_encrypted(route, encrypted, ctx);
            }),
            // RFC 7296 2.21.4 would allow an INVALID_IKE_SPI, which nobody could trust.
            None => {
                let text = format!("no IKE SA {ours:016x} for a message from {}", route.remote);
                self.log(Level::Debug, text);
            }
        }
    }

    fn handle_plain(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        route: Route,
        message: &Message,
        bytes: &[u8],
    ) {
        let header = &message.header;
        if header.exchange != ExchangeType::IKE_SA_INIT {
            // A hint in clear (RFC 7296 1.5): liveness checks find out whether there is truth in it.
            self.log(
                Level::Debug,
                format!("ignored a hint in clear from {}", route.remote),
            );
        } else if header.flags.is_response() {
            if let Some(id) = self.by_spi.get(&header.spi_i).copied() {
                self.with(now, host, id, |sa, ctx| {
                    sa.handle_init_response(route, message, bytes, ctx);
                });
            }
        } else if header.flags.is_initiator()
            && (header.spi_r, header.message_id) == (0, 0)
            && header.spi_i != 0
        {
            self.answer_init(now, host, route, message, bytes);
        }
    }

    /// A new caller, or one that comes again.
    fn answer_init(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        route: Route,
        message: &Message,
        bytes: &[u8],
    ) {
        let caller = (route.remote, message.header.spi_i);
        if let Some(id) = self.half_open.get(&caller).copied() {
            self.with(now, host, id, |sa, _| repeat_init(sa, route, bytes));
            return;
        }
        let settings = &self.shared.settings;
        let full = self.half_open.len() >= settings.half_open_limit
            || self.sas.len() >= settings.ike_sa_limit;
        if self.stopping || full {
            return;
        }
        let threshold = settings.cookie_threshold;
        if threshold > 0
            && self.half_open.len() >= threshold
            && !self.has_cookie(now, host, route, message)
        {
            return;
        }
        let mut ctx = Context {
            now,
            host,
            shared: &mut self.shared,
        };
        match IkeSa::answer_init(route, message, bytes, &mut ctx) {
            Ok(mut sa) => {
                sa.caller = Some(caller);
                self.half_open.insert(caller, sa.id);
                self.adopt(sa);
            }
            Err(refusal) => {
                let text = format!(
                    "refused IKE_SA_INIT of {}: {}",
                    route.remote, refusal.reason
                );
                self.log(Level::Warn, text);
                self.send_plain(route, plain_response(&message.header, refusal.payload()));
            }
        }
    }

    /// The caller has shown our cookie; if not, it gets one (RFC 7296 2.6).
    fn has_cookie(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        route: Route,
        message: &Message,
    ) -> bool {
        let Some(nonce) = Parts::of(message).nonce else {
            return false;
        };
        let (remote, spi_i) = (route.remote, message.header.spi_i);
        if let Some(cookie) = message.notify(NotifyType::COOKIE)
            && cookie.data.len() <= MAX_COOKIE_BYTES
            && self.cookies.check(now, &cookie.data, nonce, remote, spi_i)
        {
            return true;
        }
        let cookie = self.cookies.make(now, host, nonce, remote, spi_i);
        let payload = Payload::notify(NotifyType::COOKIE, cookie);
        self.send_plain(route, plain_response(&message.header, payload));
        false
    }

    fn handle_malformed(&mut self, route: Route, bytes: &[u8], error: WireError) {
        self.log(
            Level::Debug,
            format!("malformed message from {}: {error}", route.remote),
        );
        let Some(header) = raw_header(bytes) else {
            return;
        };
        if header.flags.is_response() {
            return;
        }
        let (kind, data) = error.notify();
        let answer = match error {
            // RFC 7296 2.5: with the highest version that we speak.
            WireError::MajorVersion(version) => version >> 4 > VERSION >> 4,
            _ => header.exchange == ExchangeType::IKE_SA_INIT && header.spi_r == 0,
        };
        if answer {
            self.send_plain(route, plain_response(&header, Payload::notify(kind, data)));
        }
    }

    fn send_plain(&mut self, route: Route, bytes: Option<Vec<u8>>) {
        let Some(bytes) = bytes else { return };
        let action = Action::Transmit {
            local: route.local,
            remote: route.remote,
            bytes,
        };
        self.shared.outputs.push_back(Output { ike: None, action });
    }
}

/// The same first message gets the same answer; another one with the same SPI gets none.
fn repeat_init(sa: &mut IkeSa, route: Route, bytes: &[u8]) {
    let same = sa
        .handshake
        .as_deref()
        .is_some_and(|handshake| handshake.init_request == bytes);
    if let Some(answer) = sa.answer.clone().filter(|_| same) {
        sa.send_to(route.local, route.remote, answer);
    }
}

/// Header fields of a message that cannot be read any further.
fn raw_header(bytes: &[u8]) -> Option<Header> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let word = |at: usize| {
        header
            .get(at..at + 8)?
            .try_into()
            .ok()
            .map(u64::from_be_bytes)
    };
    let message_id = header
        .get(20..24)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)?;
    Some(Header {
        spi_i: word(0)?,
        spi_r: word(8)?,
        version: VERSION,
        exchange: ExchangeType(header[18]),
        flags: Flags(header[19]),
        message_id,
    })
}

/// The notification for a request that cannot be answered otherwise.
impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        use crate::verdict::Reason;
        match error {
            WireError::UnsupportedCritical(kind) => Reason::UnsupportedCritical(kind.0).into(),
            _ => Reason::InvalidSyntax.into(),
        }
    }
}

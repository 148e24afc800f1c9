//! Exchanges: requests go out one at a time, responses come back to who asked, requests of the peer
//! are answered once and from memory after that (RFC 7296 2.1 to 2.3).

pub(crate) mod auth;
pub(crate) mod child;
pub(crate) mod create_child;
pub(crate) mod informational;
pub(crate) mod init;
pub(crate) mod rekey_ike;
mod request;
mod response;

use std::net::SocketAddr;

use zeroize::Zeroizing;

pub(crate) use child::ChildOffer;
pub(crate) use rekey_ike::IkeOffer;

use crate::context::Context;
use crate::crypto::{KeError, KeyExchange, SharedSecret};
use crate::event::IkeId;
use crate::task::Task;
use crate::verdict::Reason;
use crate::wire::{KeGroup, Message, NotifyType, Payload};

/// Bytes of our nonces: at least half of the longest PRF key (RFC 7296 2.10).
pub(crate) const NONCE_BYTES: usize = 32;

/// Times that a peer may ask for another cookie or key exchange method in one exchange.
pub(crate) const MAX_RESTARTS: u32 = 5;

/// Where a message came from, and where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What is needed until both sides are authenticated.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    /// First message, as it was sent: AUTH covers it (RFC 7296 2.15).
    pub(crate) init_request: Vec<u8>,
    /// Second message.
    pub(crate) init_response: Vec<u8>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    /// Initiator: cookie of the responder (RFC 7296 2.6).
    pub(crate) cookie: Vec<u8>,
    /// Initiator: our half of the key exchange.
    pub(crate) ke: Option<Ke>,
    /// Initiator: times that IKE_SA_INIT was started over.
    pub(crate) restarts: u32,
}

/// Our half of a key exchange, with the random bytes it was made of: a checkpoint stores those.
pub(crate) struct Ke {
    pub(crate) group: KeGroup,
    pub(crate) seed: Zeroizing<Vec<u8>>,
    pub(crate) exchange: KeyExchange,
}

impl std::fmt::Debug for Ke {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ke({})", self.group)
    }
}

impl Ke {
    /// A new key pair.
    pub(crate) fn generate(group: KeGroup, ctx: &mut Context<'_>) -> Result<Self, KeError> {
        let mut seed = Zeroizing::new(Vec::new());
        let host = &mut *ctx.host;
        let exchange = KeyExchange::generate(group, &mut |out: &mut [u8]| {
            host.fill_random(out);
            seed.extend_from_slice(out);
        })?;
        Ok(Self {
            group,
            seed,
            exchange,
        })
    }

    /// The same key pair again.
    pub(crate) fn replay(group: KeGroup, seed: &[u8]) -> Result<Self, KeError> {
        let mut rest = seed;
        let exchange = KeyExchange::generate(group, &mut |out: &mut [u8]| {
            let (head, tail) = rest.split_at_checked(out.len()).unwrap_or((&[], &[]));
            for (byte, from) in out.iter_mut().zip(head) {
                *byte = *from;
            }
            rest = tail;
        })?;
        Ok(Self {
            group,
            seed: Zeroizing::new(seed.to_vec()),
            exchange,
        })
    }

    pub(crate) fn payload(&self) -> Payload {
        Payload::Ke {
            group: self.group,
            data: self.exchange.public().to_vec(),
        }
    }
}

/// The other SA of a collision: made by the peer's request while ours was outstanding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rival<T> {
    pub(crate) sa: T,
    /// Lowest of the two nonces that made it (RFC 7296 2.8.1).
    pub(crate) lowest: Vec<u8>,
}

/// Our request that waits for its response.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) message_id: u32,
    /// As sent: a retransmission is the same, bit by bit (RFC 7296 2.1).
    pub(crate) bytes: Vec<u8>,
    pub(crate) retransmissions: u32,
    /// Wait before the next retransmission.
    pub(crate) wait_ms: u64,
    /// What it is for. IKE_SA_INIT alone has no task.
    pub(crate) task: Option<Task>,
    pub(crate) outstanding: Outstanding,
}

/// What a response is needed for.
#[derive(Debug)]
pub(crate) enum Outstanding {
    /// IKE_SA_INIT.
    Init,
    /// IKE_AUTH, with a first child or without.
    Auth(Option<Box<ChildOffer>>),
    /// CREATE_CHILD_SA for a new child.
    NewChild(Box<ChildOffer>),
    /// CREATE_CHILD_SA for a new pair in a child.
    RekeyChild(Box<ChildOffer>),
    /// CREATE_CHILD_SA for a new IKE SA.
    RekeyIke(Box<IkeOffer>),
    /// INFORMATIONAL that deletes the pairs with these inbound SPIs.
    DeletePairs(Vec<u32>),
    /// INFORMATIONAL that deletes the IKE SA.
    DeleteIke,
    /// Empty INFORMATIONAL.
    Liveness,
}

impl Pending {
    /// The response will never come: gives back what was reserved for it.
    pub(crate) fn abandon(&self, ctx: &mut Context<'_>) {
        match &self.outstanding {
            Outstanding::Auth(Some(offer))
            | Outstanding::NewChild(offer)
            | Outstanding::RekeyChild(offer) => ctx.host.release_spi(offer.spi),
            Outstanding::RekeyIke(_)
            | Outstanding::Auth(None)
            | Outstanding::Init
            | Outstanding::DeletePairs(_)
            | Outstanding::DeleteIke
            | Outstanding::Liveness => {}
        }
    }

    /// The offer of a Child SA in it.
    pub(crate) fn child_offer(&mut self) -> Option<&mut ChildOffer> {
        match &mut self.outstanding {
            Outstanding::Auth(Some(offer))
            | Outstanding::NewChild(offer)
            | Outstanding::RekeyChild(offer) => Some(offer),
            Outstanding::RekeyIke(_)
            | Outstanding::Auth(None)
            | Outstanding::Init
            | Outstanding::DeletePairs(_)
            | Outstanding::DeleteIke
            | Outstanding::Liveness => None,
        }
    }
}

/// Response to a request of the peer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) payloads: Vec<Payload>,
    pub(crate) after: After,
}

/// What becomes of the IKE SA once the response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It goes on.
    Continue,
    /// It is over, and answers repetitions for a while.
    End(Reason),
}

impl Reply {
    pub(crate) const fn new(payloads: Vec<Payload>) -> Self {
        Self {
            payloads,
            after: After::Continue,
        }
    }
}

/// Why a request of the peer is refused: the notification and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) data: Vec<u8>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let data = match reason {
            Reason::UnsupportedCritical(kind) => vec![kind],
            _ => Vec::new(),
        };
        Self { reason, data }
    }
}

impl Refusal {
    /// INVALID_KE_PAYLOAD names the method that would do (RFC 7296 1.3).
    pub(crate) fn group(group: KeGroup) -> Self {
        Self {
            reason: Reason::InvalidKe,
            data: group.0.to_be_bytes().to_vec(),
        }
    }

    pub(crate) fn payload(&self) -> Payload {
        Payload::notify(self.reason.notify(), self.data.clone())
    }
}

/// Parts of a message, each at most once; the codec has checked how many there may be.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) sa: Option<&'a [crate::wire::Proposal]>,
    pub(crate) ke: Option<(KeGroup, &'a [u8])>,
    pub(crate) nonce: Option<&'a [u8]>,
    pub(crate) id_i: Option<&'a crate::wire::Identification>,
    pub(crate) id_r: Option<&'a crate::wire::Identification>,
    pub(crate) auth: Option<(crate::wire::AuthMethod, &'a [u8])>,
    pub(crate) ts_i: Option<&'a [crate::wire::TrafficSelector]>,
    pub(crate) ts_r: Option<&'a [crate::wire::TrafficSelector]>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        let mut parts = Self::default();
        for payload in &message.payloads {
            match payload {
                Payload::Sa(proposals) => parts.sa = Some(proposals),
                Payload::Ke { group, data } => parts.ke = Some((*group, data)),
                Payload::Nonce(nonce) => parts.nonce = Some(nonce),
                Payload::IdI(id) => parts.id_i = Some(id),
                Payload::IdR(id) => parts.id_r = Some(id),
                Payload::Auth { method, data } => parts.auth = Some((*method, data)),
                Payload::TsI(selectors) => parts.ts_i = Some(selectors),
                Payload::TsR(selectors) => parts.ts_r = Some(selectors),
                Payload::Cert { .. }
                | Payload::CertReq { .. }
                | Payload::Notify(_)
                | Payload::Delete(_)
                | Payload::VendorId(_)
                | Payload::Configuration(_)
                | Payload::Eap(_)
                | Payload::Unknown { .. } => {}
            }
        }
        parts
    }
}

/// Our half of the key exchange of a request, done: the secret, and the payload for the response.
pub(crate) fn answer_ke(
    parts: &Parts<'_>,
    group: KeGroup,
    ctx: &mut Context<'_>,
) -> Result<(SharedSecret, Payload), Refusal> {
    let (peer_group, data) = parts.ke.ok_or_else(|| Refusal::group(group))?;
    if peer_group != group {
        return Err(Refusal::group(group));
    }
    if !KeyExchange::is_plausible(group, data) {
        return Err(Reason::KeyExchange.into());
    }
    let ke = Ke::generate(group, ctx).map_err(|_| Reason::KeyExchange)?;
    let payload = ke.payload();
    let shared = ke.exchange.agree(data).map_err(|_| Reason::KeyExchange)?;
    Ok((shared, payload))
}

/// Method that an INVALID_KE_PAYLOAD notification asks for.
pub(crate) fn wanted_group(message: &Message) -> Option<KeGroup> {
    let notify = message.notify(NotifyType::INVALID_KE_PAYLOAD)?;
    notify
        .data
        .as_slice()
        .try_into()
        .ok()
        .map(u16::from_be_bytes)
        .map(KeGroup)
}

/// The lower of two nonces, as byte strings (RFC 7296 2.8.1).
pub(crate) fn lowest<'a>(a: &'a [u8], b: &'a [u8]) -> Vec<u8> {
    a.min(b).to_vec()
}

/// An IKE SA made by a rekey of the peer while ours is outstanding.
pub(crate) type IkeRival = Rival<IkeId>;

/// A pair, by its inbound SPI, made by a rekey of the peer while ours is outstanding.
pub(crate) type PairRival = Rival<u32>;

//! NAT detection (RFC 7296 2.23).

use std::net::{IpAddr, SocketAddr};

use crate::context::Context;
use crate::crypto::sha1;
use crate::wire::{Message, NotifyType, Payload};

/// Bytes of a NAT detection hash.
const HASH_BYTES: usize = 20;

/// Which side is behind a NAT, and what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// This side: it sends keepalives.
    pub(crate) local: bool,
    /// The peer: its address may change.
    pub(crate) remote: bool,
    /// ESP travels in UDP.
    pub(crate) encapsulate: bool,
}

/// SHA-1 over SPIs, address and port.
fn hash(spis: (u64, u64), address: SocketAddr) -> [u8; HASH_BYTES] {
    let mut bytes = Vec::with_capacity(34);
    bytes.extend_from_slice(&spis.0.to_be_bytes());
    bytes.extend_from_slice(&spis.1.to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
    sha1(&[&bytes])
}

/// The two notifications of an IKE_SA_INIT message. `encap` forces UDP encapsulation by a source
/// hash that matches nothing.
pub(crate) fn payloads(
    spis: (u64, u64),
    local: SocketAddr,
    remote: SocketAddr,
    encap: bool,
    ctx: &mut Context<'_>,
) -> [Payload; 2] {
    let source = if encap {
        ctx.random(HASH_BYTES)
    } else {
        hash(spis, local).to_vec()
    };
    [
        Payload::notify(NotifyType::NAT_DETECTION_SOURCE_IP, source),
        Payload::notify(
            NotifyType::NAT_DETECTION_DESTINATION_IP,
            hash(spis, remote).to_vec(),
        ),
    ]
}

/// What the notifications of the peer say. A peer that sends none cannot do NAT traversal.
pub(crate) fn detect(
    message: &Message,
    spis: (u64, u64),
    local: SocketAddr,
    remote: SocketAddr,
    encap: bool,
) -> Nat {
    let count = |kind| {
        message
            .notifies()
            .filter(|notify| notify.kind == kind)
            .count()
    };
    let has = |kind, wanted: [u8; HASH_BYTES]| {
        message
            .notifies()
            .any(|notify| notify.kind == kind && notify.data == wanted)
    };
    let source = NotifyType::NAT_DETECTION_SOURCE_IP;
    let destination = NotifyType::NAT_DETECTION_DESTINATION_IP;
    if count(source) == 0 || count(destination) == 0 {
        return Nat::default();
    }
    // There may be several source hashes, one for each address that the peer may send from.
    let behind_remote = !has(source, hash(spis, remote));
    let behind_local = !has(destination, hash(spis, local));
    Nat {
        local: behind_local,
        remote: behind_remote,
        encapsulate: behind_local || behind_remote || encap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ExchangeType, Flags, Header, VERSION};

    fn message(payloads: Vec<Payload>) -> Message {
        let header = Header {
            spi_i: 1,
            spi_r: 0,
            version: VERSION,
            exchange: ExchangeType::IKE_SA_INIT,
            flags: Flags::INITIATOR,
            message_id: 0,
        };
        Message { header, payloads }
    }

    fn notified(source: &str, destination: &str) -> Message {
        let hash = |address: &str| hash((1, 0), address.parse().unwrap()).to_vec();
        message(vec![
            Payload::notify(NotifyType::NAT_DETECTION_SOURCE_IP, hash(source)),
            Payload::notify(NotifyType::NAT_DETECTION_DESTINATION_IP, hash(destination)),
        ])
    }

    fn seen(message: &Message) -> (bool, bool, bool) {
        let local = "192.0.2.2:500".parse().unwrap();
        let remote = "192.0.2.1:500".parse().unwrap();
        let nat = detect(message, (1, 0), local, remote, false);
        (nat.local, nat.remote, nat.encapsulate)
    }

    #[test]
    fn each_side_is_found_out() {
        let plain = notified("192.0.2.1:500", "192.0.2.2:500");
        assert_eq!(seen(&plain), (false, false, false));
        let remote = notified("10.0.0.1:500", "192.0.2.2:500");
        assert_eq!(seen(&remote), (false, true, true));
        let port = notified("192.0.2.1:501", "192.0.2.2:500");
        assert_eq!(seen(&port), (false, true, true));
        let local = notified("192.0.2.1:500", "203.0.113.1:500");
        assert_eq!(seen(&local), (true, false, true));
    }

    #[test]
    fn one_of_several_sources_is_enough() {
        let mut several = notified("10.0.0.1:500", "192.0.2.2:500");
        several
            .payloads
            .extend(notified("192.0.2.1:500", "192.0.2.2:500").payloads);
        assert_eq!(seen(&several), (false, false, false));
    }

    #[test]
    fn a_peer_without_nat_traversal_has_no_nat() {
        assert_eq!(seen(&message(Vec::new())), (false, false, false));
    }
}

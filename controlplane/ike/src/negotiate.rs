//! What the exchanges need of proposals beyond choosing among them.

use crate::crypto::{Prf, SkAlgorithm};
use crate::proposal::{EspProposal, EspSuite, IkeProposal, IkeSuite, select_ike};
use crate::wire::{EncrId, IntegId, KeGroup, Message, Parsed, Payload, PrfId};

/// Bytes of an IKE suite in a checkpoint.
const SUITE_BYTES: usize = 10;

fn distinct(groups: impl Iterator<Item = KeGroup>) -> Vec<KeGroup> {
    let mut list = Vec::new();
    for group in groups {
        if group != KeGroup::NONE && !list.contains(&group) {
            list.push(group);
        }
    }
    list
}

/// Key exchange methods of all proposals, in order of preference.
pub(crate) fn ike_groups(proposals: &[IkeProposal]) -> Vec<KeGroup> {
    distinct(proposals.iter().flat_map(IkeProposal::groups))
}

/// Key exchange methods of all proposals, in order of preference; empty: no PFS.
pub(crate) fn esp_groups(proposals: &[EspProposal]) -> Vec<KeGroup> {
    distinct(proposals.iter().flat_map(EspProposal::groups))
}

/// These proposals would have led to the same suite, given this first message.
pub(crate) fn agrees(proposals: &[IkeProposal], suite: &IkeSuite, init_request: &[u8]) -> bool {
    let Ok(Parsed::Plain(message)) = Message::parse(init_request) else {
        return false;
    };
    message.payloads.iter().any(|payload| match payload {
        Payload::Sa(offered) => select_ike(proposals, offered, false, Some(suite.group))
            .is_some_and(|choice| choice.suite == *suite),
        _ => false,
    })
}

/// Key exchange of a child's own, if there is one.
pub(crate) fn own_group(suite: &EspSuite) -> Option<KeGroup> {
    (suite.group != KeGroup::NONE).then_some(suite.group)
}

/// For a checkpoint.
pub(crate) fn suite_to_bytes(suite: &IkeSuite) -> [u8; SUITE_BYTES] {
    let sk = &suite.sk;
    let numbers = [
        sk.encr.0,
        sk.key_bits,
        sk.integ.0,
        suite.prf.id().0,
        suite.group.0,
    ];
    let mut bytes = [0; SUITE_BYTES];
    for (slot, number) in bytes.chunks_exact_mut(2).zip(numbers) {
        slot.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

/// From a checkpoint.
pub(crate) fn suite_from_bytes(bytes: &[u8]) -> Option<IkeSuite> {
    let bytes: &[u8; SUITE_BYTES] = bytes.try_into().ok()?;
    let mut numbers = bytes.chunks_exact(2).map(|pair| {
        pair.iter()
            .fold(0, |number, byte| number << 8 | u16::from(*byte))
    });
    let sk = SkAlgorithm {
        encr: EncrId(numbers.next()?),
        key_bits: numbers.next()?,
        integ: IntegId(numbers.next()?),
    };
    Some(IkeSuite {
        sk,
        prf: Prf::new(PrfId(numbers.next()?))?,
        group: KeGroup(numbers.next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_survive_a_checkpoint() {
        let suite = IkeSuite {
            sk: SkAlgorithm {
                encr: EncrId::AES_CBC,
                key_bits: 256,
                integ: IntegId::HMAC_SHA2_384_192,
            },
            prf: Prf::new(PrfId::HMAC_SHA2_512).unwrap(),
            group: KeGroup::ECP_384,
        };
        assert_eq!(suite_from_bytes(&suite_to_bytes(&suite)), Some(suite));
        assert_eq!(suite_from_bytes(&[1, 2, 3]), None);
    }

    #[test]
    fn none_is_no_method_to_start_with() {
        let proposals = EspProposal::parse_list(&["aes128gcm16-none-x25519"]).unwrap();
        assert_eq!(esp_groups(&proposals), vec![KeGroup::CURVE_25519]);
    }
}

//! Wycheproof's AES-GCM cases through the batch interface of every tier, where nonce and AAD fit ESP.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test"
)]

use crypto::{Aad, ICV_ROOM, KeyContext, Op, Tier};
use wycheproof::{TestResult, aead};

/// AAD of 8 or 12 bytes: ESP has no other.
fn esp_aad(bytes: &[u8]) -> Option<Aad> {
    let (spi, rest) = bytes.split_first_chunk()?;
    let spi = u32::from_be_bytes(*spi);
    match rest.len() {
        4 => Some(Aad::sequence(
            spi,
            u32::from_be_bytes(rest.try_into().ok()?),
        )),
        8 => Some(Aad::extended(
            spi,
            u64::from_be_bytes(rest.try_into().ok()?),
        )),
        _ => None,
    }
}

/// What an operation makes of `bytes` with `tag` behind: the payload, the tag and the verdict.
fn run(
    key: &KeyContext,
    (iv, aad): ([u8; 8], Aad),
    (bytes, tag): (&[u8], &[u8]),
    call: fn(&mut [Op<'_>]),
) -> (Vec<u8>, Vec<u8>, bool) {
    let mut data = [bytes, tag].concat();
    data.resize(bytes.len() + ICV_ROOM, 0);
    let mut ops = [Op::new(key, iv, aad, &mut data).unwrap()];
    call(&mut ops);
    let ok = ops[0].ok();
    let tag = data.split_off(bytes.len());
    (data, tag, ok)
}

/// The set has few cases with such an AAD, so this proves less than the comparison with `aes-gcm`,
/// which itself runs all cases in its unit test.
#[test]
fn every_tier() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut ran = 0;
    for group in &set.test_groups {
        if group.nonce_size != 96 || group.tag_size != 128 {
            continue;
        }
        for test in &group.tests {
            let Some(aad) = esp_aad(&test.aad) else {
                continue;
            };
            let (salt, iv) = test.nonce.split_first_chunk().unwrap();
            let nonce = (iv.try_into().unwrap(), aad);
            let valid = test.result == TestResult::Valid;
            for tier in Tier::ALL.into_iter().filter(|tier| tier.available()) {
                let key = KeyContext::with_tier(tier, &test.key, *salt, 16).unwrap();
                let (ct, tag, ok) = run(&key, nonce, (&test.pt, &[]), crypto::seal);
                assert!(ok);
                let same = ct == test.ct.to_vec() && tag == test.tag.to_vec();
                assert_eq!(same, valid, "{tier}: seal, test {}", test.tc_id);
                let (pt, _, ok) = run(&key, nonce, (&test.ct, &test.tag), crypto::open);
                assert_eq!(ok, valid, "{tier}: open, test {}", test.tc_id);
                assert!(!ok || pt == test.pt.to_vec(), "{tier}: test {}", test.tc_id);
                ran += 1;
            }
        }
    }
    println!("{ran} cases");
    assert!(ran >= 8, "only {ran} cases ran: the data set changed");
}

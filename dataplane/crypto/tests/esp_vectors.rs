//! The published AES-GCM-ESP cases through the batch interface, and their negative twins.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test may panic as the test"
)]

use crypto::{Aad, ICV_ROOM, KeyContext, Op, Tier};

const CASES: &str = include_str!("vectors/draft-mcgrew-gcm-test-01.txt");

struct Case {
    key: Vec<u8>,
    salt: [u8; 4],
    iv: [u8; 8],
    aad: Aad,
    plaintext: Vec<u8>,
    sealed: Vec<u8>,
}

fn hex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "odd hex: {text}");
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn aad(bytes: &[u8]) -> Aad {
    let spi = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    match bytes.len() {
        8 => Aad::sequence(spi, u32::from_be_bytes(bytes[4..].try_into().unwrap())),
        12 => Aad::extended(spi, u64::from_be_bytes(bytes[4..].try_into().unwrap())),
        n => panic!("AAD of {n} bytes"),
    }
}

fn cases() -> Vec<Case> {
    let lines = CASES.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.split(' ').map(hex).collect();
            Case {
                key: fields[0].clone(),
                salt: fields[1][..4].try_into().unwrap(),
                iv: fields[1][4..].try_into().unwrap(),
                aad: aad(&fields[2]),
                plaintext: fields[3].clone(),
                sealed: fields[4].clone(),
            }
        })
        .collect()
}

/// The tiers that this CPU has.
fn tiers() -> impl Iterator<Item = Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.available())
}

fn keys(cases: &[Case], tier: Tier, icv_len: usize) -> Vec<KeyContext> {
    cases
        .iter()
        .map(|c| KeyContext::with_tier(tier, &c.key, c.salt, icv_len).unwrap())
        .collect()
}

/// `data` of an operation: the bytes, and what means nothing up to the end of the room for an ICV.
fn room(bytes: &[u8], icv_len: usize) -> Vec<u8> {
    [bytes, &[0xee; ICV_ROOM][icv_len..]].concat()
}

/// Runs all cases as one batch over `data` and returns the verdicts.
fn run(
    cases: &[Case],
    keys: &[KeyContext],
    data: &mut [Vec<u8>],
    call: fn(&mut [Op<'_>]),
) -> Vec<bool> {
    let with_keys = cases.iter().zip(keys);
    let mut ops: Vec<_> = with_keys
        .zip(data)
        .map(|((case, key), data)| Op::new(key, case.iv, case.aad, data).unwrap())
        .collect();
    call(&mut ops);
    ops.iter().map(Op::ok).collect()
}

/// RFC 4106 6: the shorter ICVs are the first bytes of the full one. Without the room behind them.
fn sealed(case: &Case, icv_len: usize) -> Vec<u8> {
    case.sealed[..case.plaintext.len() + icv_len].to_vec()
}

#[test]
fn seal_and_open_give_the_published_bytes() {
    let cases = cases();
    assert_eq!(cases.len(), 14);
    for (tier, icv_len) in tiers().flat_map(|tier| [8, 12, 16].map(|icv_len| (tier, icv_len))) {
        let keys = keys(&cases, tier, icv_len);
        let clear = |c: &Case| room(&c.plaintext, 0);
        let mut data: Vec<_> = cases.iter().map(clear).collect();
        assert_eq!(run(&cases, &keys, &mut data, crypto::seal), [true; 14]);
        assert!(
            data.iter()
                .zip(&cases)
                .all(|(data, case)| data.starts_with(&sealed(case, icv_len)))
        );
        assert_eq!(run(&cases, &keys, &mut data, crypto::open), [true; 14]);
        assert!(
            data.iter()
                .zip(&cases)
                .all(|(data, case)| data.starts_with(&case.plaintext))
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "hours")]
fn one_flipped_bit_anywhere_fails_and_shows_no_plaintext() {
    for (tier, case) in tiers().flat_map(|tier| cases().into_iter().map(move |case| (tier, case))) {
        for icv_len in [8, 12, 16] {
            let key = KeyContext::with_tier(tier, &case.key, case.salt, icv_len).unwrap();
            for at in 0..case.plaintext.len() + icv_len {
                let mut data = room(&sealed(&case, icv_len), icv_len);
                data[at] ^= 1 << (at % 8);
                let mut expected = data[..case.plaintext.len()].to_vec();
                if tier != Tier::Portable {
                    expected.fill(0);
                }
                let mut ops = [Op::new(&key, case.iv, case.aad, &mut data).unwrap()];
                crypto::open(&mut ops);
                assert!(!ops[0].ok(), "{tier}: bit in byte {at} not noticed");
                assert_eq!(ops[0].payload(), expected, "{tier}: a failed packet shows");
            }
        }
    }
}

#[test]
fn other_aad_iv_key_salt_or_length_fails() {
    let cases = cases();
    let case = &cases[2]; // 8 bytes of AAD: SPI 4a2cbfe3, sequence 2
    let key = KeyContext::aes_gcm(&case.key, case.salt, 16).unwrap();
    let other_salt = KeyContext::aes_gcm(&case.key, *b"nope", 16).unwrap();
    let mut other = case.key.clone();
    other[31] ^= 0x80;
    let other_key = KeyContext::aes_gcm(&other, case.salt, 16).unwrap();
    let mut iv = case.iv;
    iv[7] ^= 1;
    let tries = [
        (&key, case.iv, Aad::sequence(0x4a2c_bfe2, 2)),
        (&key, case.iv, Aad::sequence(0x4a2c_bfe3, 3)),
        (&key, case.iv, Aad::extended(0x4a2c_bfe3, 2)),
        (&key, case.iv, Aad::extended(0x4a2c_bfe3, 2 << 32)),
        (&key, iv, case.aad),
        (&other_salt, case.iv, case.aad),
        (&other_key, case.iv, case.aad),
    ];
    for (i, (key, iv, aad)) in tries.into_iter().enumerate() {
        let mut data = case.sealed.clone();
        let mut ops = [Op::new(key, iv, aad, &mut data).unwrap()];
        crypto::open(&mut ops);
        assert!(!ops[0].ok(), "try {i}");
    }
    for cut in 1..=case.plaintext.len() {
        let mut data = case.sealed[..case.sealed.len() - cut].to_vec();
        let mut ops = [Op::new(&key, case.iv, case.aad, &mut data).unwrap()];
        crypto::open(&mut ops);
        assert!(!ops[0].ok(), "shortened by {cut}");
    }
}

/// One bad packet does not touch the verdict of its neighbours.
#[test]
fn verdicts_are_per_operation() {
    let cases = cases();
    for tier in tiers() {
        let keys = keys(&cases, tier, 16);
        let mut data: Vec<_> = cases.iter().map(|case| case.sealed.clone()).collect();
        for bad in (0..data.len()).step_by(3) {
            data[bad][0] ^= 1;
        }
        let verdicts = run(&cases, &keys, &mut data, crypto::open);
        for (i, (ok, case)) in verdicts.into_iter().zip(&cases).enumerate() {
            assert_eq!(ok, i % 3 != 0);
            assert_eq!(data[i].starts_with(&case.plaintext), ok);
        }
    }
}

#[test]
fn an_empty_payload_and_an_empty_batch() {
    crypto::seal(&mut []);
    crypto::open(&mut []);
    let key = KeyContext::aes_gcm(&[3; 24], [1; 4], 16).unwrap();
    let mut data = [0; 16];
    let mut ops = [Op::new(&key, [2; 8], Aad::sequence(9, 9), &mut data).unwrap()];
    crypto::seal(&mut ops);
    assert!(ops[0].ok() && ops[0].payload().is_empty());
    crypto::open(&mut ops);
    assert!(ops[0].ok());
}

//! Every tier that this CPU has against the portable one, which is `aes-gcm`.
//!
//! `CULVERT_SWEEP=full` takes every length at every alignment instead of a sample.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a helper of a test may panic as the test"
)]

use crypto::{Aad, ICV_ROOM, KeyContext, Op, Tier};
use fastrand::Rng;

const ICV_LENGTHS: [usize; 3] = [16, 12, 8];
const LONGEST: usize = 9216;

fn full() -> bool {
    std::env::var("CULVERT_SWEEP").is_ok_and(|word| word == "full")
}

/// The tiers under test.
fn tiers() -> impl Iterator<Item = Tier> {
    Tier::ALL
        .into_iter()
        .filter(|tier| *tier != Tier::Portable && tier.available())
}

/// A packet, and what it looks like sealed, by the portable tier.
struct Case {
    key: Vec<u8>,
    salt: [u8; 4],
    icv_len: usize,
    iv: [u8; 8],
    aad: Aad,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Case {
    fn new(rng: &mut Rng, key_len: usize, icv_len: usize, len: usize) -> Self {
        let key = (0..key_len).map(|_| rng.u8(..)).collect();
        let salt = rng.u32(..).to_le_bytes();
        Self::with_key(rng, key, salt, icv_len, len)
    }

    fn with_key(rng: &mut Rng, key: Vec<u8>, salt: [u8; 4], icv_len: usize, len: usize) -> Self {
        let plain = (0..len).map(|_| rng.u8(..)).collect();
        let iv = rng.u64(..).to_le_bytes();
        let aad = if rng.bool() {
            Aad::sequence(rng.u32(..), rng.u32(..))
        } else {
            Aad::extended(rng.u32(..), rng.u64(..))
        };
        let mut case = Self {
            key,
            salt,
            icv_len,
            iv,
            aad,
            plain,
            sealed: Vec::new(),
        };
        let oracle = case.key(Tier::Portable);
        let mut data = [&case.plain[..], &[0; ICV_ROOM]].concat();
        let mut ops = [case.op(&oracle, &mut data)];
        crypto::seal(&mut ops);
        assert!(ops[0].ok());
        data.truncate(len + icv_len);
        case.sealed = data;
        case
    }

    fn random(rng: &mut Rng, len: usize) -> Self {
        let key_len = [16, 24, 32][rng.usize(..3)];
        let icv_len = ICV_LENGTHS[rng.usize(..3)];
        Self::new(rng, key_len, icv_len, len)
    }

    fn key(&self, tier: Tier) -> KeyContext {
        KeyContext::with_tier(tier, &self.key, self.salt, self.icv_len).unwrap()
    }

    fn op<'a>(&self, key: &'a KeyContext, data: &'a mut [u8]) -> Op<'a> {
        Op::new(key, self.iv, self.aad, data).unwrap()
    }

    /// `data` of an operation: what is given, and bytes that mean nothing up to the end of the room.
    fn room(&self, bytes: &[u8]) -> Vec<u8> {
        let mut data = bytes.to_vec();
        data.resize(self.plain.len() + ICV_ROOM, 0xa5);
        data
    }

    /// Seals and opens the case in `place`, which is as long as `data` has to be.
    fn check(&self, key: &KeyContext, place: &mut [u8]) {
        let what = || {
            format!(
                "{} len {} icv {}",
                key.tier(),
                self.plain.len(),
                self.icv_len
            )
        };
        place.copy_from_slice(&self.room(&self.plain));
        let mut ops = [self.op(key, place)];
        crypto::seal(&mut ops);
        assert!(ops[0].ok(), "seal {}", what());
        assert!(place.starts_with(&self.sealed), "sealed {}", what());
        place.copy_from_slice(&self.room(&self.sealed));
        let mut ops = [self.op(key, place)];
        crypto::open(&mut ops);
        assert!(ops[0].ok(), "open {}", what());
        assert!(place.starts_with(&self.plain), "opened {}", what());
    }

    /// Opens `sealed` in place of the case's own: it must fail and show nothing.
    fn check_refused(&self, key: &KeyContext, aad: Aad, sealed: &[u8], what: &str) {
        let mut data = sealed.to_vec();
        let payload = data.len() - self.icv_len;
        data.resize(payload + ICV_ROOM, 0xa5);
        let mut ops = [Op::new(key, self.iv, aad, &mut data).unwrap()];
        crypto::open(&mut ops);
        assert!(!ops[0].ok(), "{}: {what} not noticed", key.tier());
        let cleared = data[..payload].iter().all(|byte| *byte == 0);
        assert!(cleared, "{}: {what}: not cleared", key.tier());
    }
}

#[test]
fn every_length() {
    let mut rng = Rng::with_seed(1);
    for len in 0..=LONGEST {
        let dense = full() || len <= 1600 || len % 61 == 0;
        if !dense {
            continue;
        }
        let case = Case::random(&mut rng, len);
        for tier in tiers() {
            let mut data = vec![0; len + ICV_ROOM];
            case.check(&case.key(tier), &mut data);
        }
    }
}

/// Every key length, ICV length and the longest packets, whose counters need their higher bytes.
#[test]
fn every_kind_of_key() {
    let mut rng = Rng::with_seed(2);
    for key_len in [16, 24, 32] {
        for icv_len in ICV_LENGTHS {
            for len in [0, 1, 52, 128, 129, 556, 1424, 4096, 8960, 65_519, 65_520] {
                let case = Case::new(&mut rng, key_len, icv_len, len);
                for tier in tiers() {
                    let mut data = vec![0; len + ICV_ROOM];
                    case.check(&case.key(tier), &mut data);
                }
            }
        }
    }
}

#[test]
fn every_alignment() {
    let mut rng = Rng::with_seed(3);
    let mut lengths: Vec<usize> = (0..=300).step_by(13).chain([352, 556, 1424]).collect();
    if full() {
        lengths = (0..=1600).collect();
    }
    for len in lengths {
        let case = Case::random(&mut rng, len);
        for tier in tiers() {
            let key = case.key(tier);
            let mut buffer = vec![0x77; len + ICV_ROOM + 192];
            let aligned = buffer.as_ptr().align_offset(64) + 64;
            for shift in 0..64 {
                let (from, to) = (aligned + shift, aligned + shift + len + ICV_ROOM);
                case.check(&key, &mut buffer[from..to]);
                let outside = buffer[..from].iter().chain(&buffer[to..]);
                assert!(outside.into_iter().all(|byte| *byte == 0x77));
                buffer[from..to].fill(0x77);
            }
        }
    }
}

/// Batches of any size, with keys, lengths and failures as they come; tiers mixed as well.
#[test]
fn random_batches() {
    let mut rng = Rng::with_seed(4);
    let rounds = if full() { 20_000 } else { 250 };
    let tiers: Vec<Tier> = tiers().chain([Tier::Portable]).collect();
    for round in 0..rounds {
        let seed = rng.u64(..);
        let mut rng = Rng::with_seed(seed);
        let count = if round % 10 == 0 {
            rng.usize(64..300)
        } else {
            rng.usize(1..=64)
        };
        let kind = rng.usize(..4);
        let cases: Vec<Case> = (0..count)
            .map(|_| {
                let len = match kind {
                    0 => rng.usize(..140),
                    1 => 52,
                    2 => [52, 52, 52, 556, 1424][rng.usize(..5)],
                    _ => rng.usize(..2000),
                };
                Case::random(&mut rng, len)
            })
            .collect();
        let mixed = rng.usize(..3) == 0;
        let tier = tiers[rng.usize(..tiers.len())];
        let mut tier = || {
            if mixed {
                tiers[rng.usize(..tiers.len())]
            } else {
                tier
            }
        };
        let keys: Vec<_> = cases.iter().map(|case| case.key(tier())).collect();
        batch(&cases, &keys.iter().collect::<Vec<_>>(), seed, rng.u64(..));
    }
}

/// Payload blocks and sizes of batches that the tests of batches go through: packets of as many blocks,
/// or vectors, are taken together, and what is left of them alone.
fn batches() -> impl Iterator<Item = (usize, usize)> {
    let counts = |blocks| {
        let all = full() || blocks <= 10;
        (1..=17)
            .chain([63, 64, 65, 130])
            .filter(move |count| all || [1, 2, 7, 65].contains(count))
    };
    (1..=40).flat_map(move |blocks| counts(blocks).map(move |count| (blocks, count)))
}

/// Keys of one length and of several.
#[test]
fn batches_of_one_length() {
    let mut rng = Rng::with_seed(7);
    for (blocks, count) in batches() {
        for key_len in [Some(16), Some(24), Some(32), None] {
            let cases: Vec<Case> = (0..count)
                .map(|_| {
                    let len = 16 * blocks - rng.usize(..16);
                    let key_len = key_len.unwrap_or_else(|| [16, 24, 32][rng.usize(..3)]);
                    let icv_len = ICV_LENGTHS[rng.usize(..3)];
                    Case::new(&mut rng, key_len, icv_len, len)
                })
                .collect();
            for tier in tiers() {
                let keys: Vec<_> = cases.iter().map(|case| case.key(tier)).collect();
                let keys: Vec<_> = keys.iter().collect();
                for bad in [0, rng.u64(..)] {
                    batch(&cases, &keys, 7, bad);
                }
            }
        }
    }
}

/// One key for all.
#[test]
fn batches_of_one_key() {
    let mut rng = Rng::with_seed(8);
    for (blocks, count) in batches() {
        let first = Case::random(&mut rng, 16 * blocks);
        let cases: Vec<Case> = (0..count)
            .map(|_| {
                let len = 16 * blocks - rng.usize(..16);
                Case::with_key(&mut rng, first.key.clone(), first.salt, first.icv_len, len)
            })
            .collect();
        for tier in tiers() {
            let key = first.key(tier);
            for bad in [0, rng.u64(..)] {
                batch(&cases, &vec![&key; count], 8, bad);
            }
        }
    }
}

fn batch(cases: &[Case], keys: &[&KeyContext], seed: u64, bad: u64) {
    let ops = |data: &mut [Vec<u8>], call: fn(&mut [Op<'_>])| -> Vec<bool> {
        let mut ops: Vec<_> = cases
            .iter()
            .zip(keys)
            .zip(data)
            .map(|((case, key), data)| case.op(key, data))
            .collect();
        call(&mut ops);
        ops.iter().map(Op::ok).collect()
    };
    let mut data: Vec<_> = cases.iter().map(|case| case.room(&case.plain)).collect();
    assert!(ops(&mut data, crypto::seal).into_iter().all(|ok| ok));
    for (data, case) in data.iter().zip(cases) {
        assert!(data.starts_with(&case.sealed), "seed {seed}");
    }
    let is_bad = |at: usize| bad >> (at % 64) & 3 == 3;
    for (at, (data, case)) in data.iter_mut().zip(cases).enumerate() {
        *data = case.room(&case.sealed);
        if is_bad(at) {
            data[at % case.sealed.len()] ^= 1 << (at % 8);
        }
    }
    let verdicts = ops(&mut data, crypto::open);
    for (at, ok) in verdicts.into_iter().enumerate() {
        assert_eq!(ok, !is_bad(at), "seed {seed} op {at}");
        let plain = &cases[at].plain;
        if ok {
            assert!(data[at].starts_with(plain), "seed {seed} op {at}");
        } else if plain.len() >= 4 {
            assert!(!data[at].starts_with(plain), "seed {seed} op {at}");
        }
    }
}

#[test]
fn any_change_is_noticed() {
    let mut rng = Rng::with_seed(5);
    for len in [
        0, 1, 15, 16, 17, 52, 64, 127, 128, 129, 352, 556, 1424, 4100,
    ] {
        for icv_len in ICV_LENGTHS {
            let case = Case::new(&mut rng, 16, icv_len, len);
            for tier in tiers() {
                let key = case.key(tier);
                let step = if full() || len <= 64 { 1 } else { 1 + len / 40 };
                let tag = len..len + icv_len;
                for at in (0..len).step_by(step).chain(tag) {
                    let mut sealed = case.sealed.clone();
                    sealed[at] ^= 1 << (at % 8);
                    case.check_refused(&key, case.aad, &sealed, &format!("byte {at} of {len}"));
                }
                for cut in 1..=len.min(40) {
                    let sealed = &case.sealed[..case.sealed.len() - cut];
                    case.check_refused(&key, case.aad, sealed, &format!("{cut} missing of {len}"));
                }
            }
        }
    }
}

/// RFC 4106 6: an ICV of 8 or 12 bytes is the start of that of 16, by `aes-gcm` itself; what stands
/// behind it in the room counts for nothing.
#[test]
fn a_shorter_icv_is_the_start_of_the_tag() {
    use aes_gcm::aead::{AeadInOut, KeyInit};
    let mut rng = Rng::with_seed(9);
    for blocks in 0..=100 {
        let len = 16 * blocks + rng.usize(..16);
        for icv_len in ICV_LENGTHS {
            let case = Case::new(&mut rng, 16, icv_len, len);
            let oracle = aes_gcm::Aes128Gcm::new_from_slice(&case.key).unwrap();
            let nonce = [&case.salt[..], &case.iv].concat();
            let nonce = <[u8; 12]>::try_from(nonce).unwrap();
            let mut sealed = case.plain.clone();
            let tag = oracle
                .encrypt_inout_detached(
                    &nonce.into(),
                    &case.aad.to_bytes(),
                    sealed.as_mut_slice().into(),
                )
                .unwrap();
            sealed.extend_from_slice(&tag[..icv_len]);
            for tier in tiers().chain([Tier::Portable]) {
                let key = case.key(tier);
                // Alone and several together, which take different ways.
                for count in [1, 9] {
                    let mut data = vec![case.room(&case.plain); count];
                    let mut ops: Vec<_> = data.iter_mut().map(|d| case.op(&key, d)).collect();
                    crypto::seal(&mut ops);
                    for data in &mut data {
                        assert!(data.starts_with(&sealed), "{tier} {len} {icv_len}");
                        data[len + icv_len..].fill(0x3c);
                    }
                    let mut ops: Vec<_> = data.iter_mut().map(|d| case.op(&key, d)).collect();
                    crypto::open(&mut ops);
                    assert!(ops.iter().all(Op::ok), "{tier} {len} {icv_len}");
                }
            }
        }
    }
}

#[test]
fn any_bit_of_the_aad_counts() {
    let mut rng = Rng::with_seed(6);
    for len in [0, 52, 352, 1424] {
        let mut case = Case::new(&mut rng, 32, 16, len);
        let (spi, sequence) = (rng.u32(..), rng.u64(..));
        for bit in 0..96 {
            let other = u128::from(spi) << 64 | u128::from(sequence);
            let other = other ^ 1 << bit;
            let other = Aad::extended((other >> 64) as u32, other as u64);
            case.aad = Aad::extended(spi, sequence);
            let portable = case.key(Tier::Portable);
            let mut sealed = case.room(&case.plain);
            crypto::seal(&mut [case.op(&portable, &mut sealed)]);
            for tier in tiers() {
                let key = case.key(tier);
                case.check_refused(&key, other, &sealed, &format!("AAD bit {bit}"));
            }
        }
    }
}

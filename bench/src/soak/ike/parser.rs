//! Damaged messages against the parser alone, plain ones and sealed ones.

use std::collections::BTreeMap;

use fastrand::Rng;
use ike::crypto::{OpenError, SkAlgorithm, SkCipher};
use ike::wire::{EncrId, IntegId, Message, Parsed, WireError};

use super::chain::{Chain, HEADER_BYTES, damaged};
use super::seal::Sealer;
use crate::soak::mutate;

/// Messages to be damaged.
pub(super) struct Corpus {
    /// As they were on the wire.
    pub(super) plain: Vec<Vec<u8>>,
    /// Decrypted: type of the first payload, and the payloads.
    pub(super) opened: Vec<(u8, Vec<u8>)>,
}

/// How often each outcome came.
pub(super) type Tally = BTreeMap<String, u64>;

/// What a message became, without the numbers that would make each one different.
fn outcome(bytes: &[u8], cipher: &SkCipher) -> String {
    let wire = |error: WireError| {
        format!("{error:?}")
            .split(['(', ' '])
            .next()
            .map(str::to_owned)
    };
    let name = match Message::parse(bytes) {
        Ok(Parsed::Plain(_)) => Some("accepted in clear".to_owned()),
        Ok(Parsed::Encrypted(encrypted)) => match encrypted.open(cipher) {
            Ok(_) => Some("accepted sealed".to_owned()),
            Err(OpenError::Wire(error)) => wire(error).map(|name| format!("sealed: {name}")),
            Err(error) => Some(format!("sealed: {error:?}")),
        },
        Err(error) => wire(error),
    };
    name.unwrap_or_default()
}

/// A header of some message, with random SPIs.
fn header(random: &mut Rng) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    random.fill(&mut header[..16]);
    header[17..20].copy_from_slice(&[
        0x20,
        random.u8(34..38),
        [0x08, 0x20, 0x28, 0][random.usize(..4)],
    ]);
    header[23] = random.u8(..4);
    header
}

/// Parses `count` damaged copies of the messages of `corpus`.
pub(super) fn run(
    count: u64,
    corpus: &Corpus,
    random: &mut Rng,
) -> Result<Tally, Box<dyn std::error::Error>> {
    let mut sk_e = [0; 36];
    random.fill(&mut sk_e);
    let algorithm = SkAlgorithm {
        encr: EncrId::AES_GCM_16,
        key_bits: 256,
        integ: IntegId::NONE,
    };
    let cipher = SkCipher::new(algorithm, &sk_e, &[])?;
    let sealer = Sealer::new(&sk_e).ok_or("AES-GCM takes no such key")?;
    let (plain, opened) = (&corpus.plain, &corpus.opened);
    let mut tally = Tally::new();
    for _ in 0..count {
        let message = match random.u8(..16) {
            0 => noise(random),
            1..=7 => damaged(&plain[random.usize(..plain.len())], random),
            _ => {
                let (first, plain) = &opened[random.usize(..opened.len())];
                let sealed = seal_damaged(&sealer, &header(random), *first, plain, random);
                sealed.ok_or("AES-GCM seals no such message")?
            }
        };
        *tally.entry(outcome(&message, &cipher)).or_default() += 1;
    }
    Ok(tally)
}

fn noise(random: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; random.usize(..2000)];
    random.fill(&mut bytes);
    if bytes.len() >= HEADER_BYTES && random.bool() {
        bytes[17] = 0x20;
        super::chain::fix_length(&mut bytes);
    }
    bytes
}

/// Seals a damaged copy of a plaintext, so that the damage is authentic.
pub(super) fn seal_damaged(
    sealer: &Sealer,
    header: &[u8; HEADER_BYTES],
    first: u8,
    plain: &[u8],
    random: &mut Rng,
) -> Option<Vec<u8>> {
    let mut chain = Chain::cut(first, plain);
    chain.damage(random);
    let (first, mut bytes) = chain.join();
    if random.u8(..6) == 0 {
        mutate::flip(&mut bytes, random);
    }
    bytes.truncate(60_000);
    let pad_length = if random.u8(..32) == 0 {
        random.u8(..)
    } else {
        0
    };
    sealer.seal(header, first, &bytes, pad_length, random)
}

//! Endpoints under fire: in the middle of a handshake, established, and from someone with keys.

use std::error::Error;

use fastrand::Rng;
use ike::crypto::{KeyExchange, Prf, SkAlgorithm};
use ike::keymat::{IkeKeys, IkeSpis, Nonces};
use ike::wire::{EncrId, IntegId, KeGroup, Message, Parsed, Payload, PrfId};

use super::chain::{HEADER_BYTES, damaged};
use super::parser::{Corpus, seal_damaged};
use super::seal::Sealer;
use crate::pair::{Datagram, Pair};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the keys are derived for.
const PROPOSAL: &str = "aes256gcm16-prfsha256-x25519";
/// Messages of each phase of one life.
const HANDSHAKE: u64 = 8;
const OUTSIDE: u64 = 600;
const INSIDE: u64 = 300;
/// Longer than a draining SA, a half-open IKE SA or a sequence of retransmissions lives.
const LONG_MS: u64 = 400_000;

/// What happened in all lives.
#[derive(Default)]
pub(super) struct Report {
    pub(super) lives: u64,
    pub(super) messages: u64,
    /// Handshakes that forged messages before the keys stand have spoiled, as they may
    /// (RFC 7296 2.4).
    pub(super) spoiled: u64,
    /// Times that the established SA was found working after the fire.
    pub(super) survived: u64,
    /// Messages with the right keys that ended the IKE SA, as a broken peer's may.
    pub(super) closed_by_insider: u64,
}

/// A message with keys: what the other side would send, opened.
struct Opened {
    to: usize,
    header: [u8; HEADER_BYTES],
    first: u8,
    plain: Vec<u8>,
}

/// Lives of a pair of endpoints until `count` messages were sent at them.
pub(super) fn run(count: u64, random: &mut Rng) -> Result<Report> {
    let mut report = Report::default();
    while report.messages < count {
        report.lives += 1;
        life(&mut report, random).map_err(|error| format!("life {}: {error}", report.lives))?;
    }
    Ok(report)
}

fn life(report: &mut Report, random: &mut Rng) -> Result<()> {
    let mut pair = Pair::new(PROPOSAL, random)?;
    pair.record = Some(Vec::new());
    let disturbed = random.bool();
    if !handshake(&mut pair, disturbed, report, random)? {
        report.spoiled += 1;
        return if disturbed {
            Ok(())
        } else {
            Err("no handshake, with nobody disturbing".into())
        };
    }
    let recorded = pair.record.take().unwrap_or_default();
    let sealers = keys(&pair, &recorded).ok_or("the keys of the IKE SA were not found")?;
    from_outside(&mut pair, &recorded, report, random)?;
    still_works(&mut pair).map_err(|error| format!("{error}{}", pair.log()))?;
    report.survived += 1;
    from_inside(&mut pair, &recorded, &sealers, report, random)?;
    pair.pass_ms(LONG_MS)
}

/// Brings the SA up while messages that were seen before come again, damaged.
fn handshake(
    pair: &mut Pair,
    disturbed: bool,
    report: &mut Report,
    random: &mut Rng,
) -> Result<bool> {
    let request = pair.initiate();
    let mut steps = 0;
    while let Some(genuine) = pair.wire.pop_front() {
        steps += 1;
        if steps > 200 {
            return Err("the handshake has no end".into());
        }
        if disturbed {
            for _ in 0..HANDSHAKE {
                let seen = pair.record.as_deref().unwrap_or_default();
                let mut forged = forge(seen, random);
                // A true copy that is faster and has another port is what a NAT would make of it.
                if seen.iter().any(|genuine| genuine.bytes == forged.bytes) {
                    forged = Datagram::forged(forged.to, 500, forged.bytes);
                }
                pair.deliver(&forged);
                report.messages += 1;
            }
        }
        pair.deliver(&genuine);
    }
    // A spoiled one may come up by retransmission.
    if disturbed {
        pair.pass_ms(LONG_MS)?;
    }
    Ok(pair.result(request).is_some_and(|result| result.is_ok()))
}

/// A message that someone without keys can make: damaged, repeated, or noise.
fn forge(seen: &[Datagram], random: &mut Rng) -> Datagram {
    let port = if random.u8(..4) == 0 {
        random.u16(1024..)
    } else {
        500
    };
    if seen.is_empty() || random.u8(..16) == 0 {
        let mut bytes = vec![0; random.usize(..400)];
        random.fill(&mut bytes);
        return Datagram::forged(random.usize(..2), port, bytes);
    }
    let model = &seen[random.usize(..seen.len())];
    let to = if random.u8(..4) == 0 {
        1 - model.to
    } else {
        model.to
    };
    let bytes = match random.u8(..8) {
        0 => model.bytes.clone(),
        _ => damaged(&model.bytes, random),
    };
    Datagram::forged(to, port, bytes)
}

fn from_outside(
    pair: &mut Pair,
    recorded: &[Datagram],
    report: &mut Report,
    random: &mut Rng,
) -> Result<()> {
    for number in 0..OUTSIDE {
        let forged = forge(recorded, random);
        pair.deliver(&forged);
        pair.settle()?;
        report.messages += 1;
        if number % 64 == 0 {
            pair.pass_ms(random.u64(..500))?;
        }
    }
    Ok(())
}

/// Both sides can give the child new keys, and nothing that the fire made is left.
fn still_works(pair: &mut Pair) -> Result<()> {
    pair.pass_ms(LONG_MS)?;
    for side in 0..2 {
        let request = pair.rekey_child(side);
        pair.settle()?;
        match pair.result(request) {
            Some(Ok(())) => {}
            Some(Err(verdict)) => {
                return Err(format!("side {side} cannot rekey: {verdict:?}").into());
            }
            None => return Err(format!("side {side} does not finish its rekey").into()),
        }
    }
    pair.pass_ms(LONG_MS)?;
    for (number, side) in pair.sides.iter().enumerate() {
        let list = side.endpoint.list();
        let pairs: usize = list
            .iter()
            .flat_map(|sa| &sa.children)
            .map(|child| child.sas.len())
            .sum();
        if (list.len(), pairs, side.host.spis.len()) != (1, 1, 1) {
            return Err(format!(
                "side {number} has {} IKE SAs, {pairs} pairs of SAs and {} SPIs in use: {list:?}",
                list.len(),
                side.host.spis.len()
            )
            .into());
        }
    }
    Ok(())
}

/// The keys of both directions, from what side 0 drew and what was on the wire. More than one
/// IKE_SA_INIT may have been answered: the right one opens what followed.
fn keys(pair: &Pair, recorded: &[Datagram]) -> Option<[Sealer; 2]> {
    let plain = |to: usize| -> Vec<Message> {
        let messages = recorded.iter().filter(|datagram| datagram.to == to);
        let parsed = messages.filter_map(|datagram| match Message::parse(&datagram.bytes) {
            Ok(Parsed::Plain(message)) if has_ke(&message) => Some(message),
            _ => None,
        });
        parsed.collect()
    };
    let (requests, responses) = (plain(1), plain(0));
    let both = requests
        .iter()
        .flat_map(|one| responses.iter().map(move |other| (one, other)));
    let mut candidates = both
        .filter_map(|(request, response)| keys_of(&pair.sides[0].host.draws, request, response));
    candidates.find(|sealers| !open(recorded, sealers).is_empty())
}

fn keys_of(draws: &[[u8; 32]], request: &Message, response: &Message) -> Option<[Sealer; 2]> {
    let own = ke(request)?;
    let secret = draws.iter().find_map(|draw| {
        let fill = &mut |out: &mut [u8]| out.copy_from_slice(draw);
        let exchange = KeyExchange::generate(KeGroup::CURVE_25519, fill).ok()?;
        if exchange.public() == own {
            exchange.agree(ke(response)?).ok()
        } else {
            None
        }
    })?;
    let nonces = Nonces {
        initiator: nonce(request)?,
        responder: nonce(response)?,
    };
    let spis = IkeSpis {
        initiator: response.header.spi_i,
        responder: response.header.spi_r,
    };
    let algorithm = SkAlgorithm {
        encr: EncrId::AES_GCM_16,
        key_bits: 256,
        integ: IntegId::NONE,
    };
    let prf = Prf::new(PrfId::HMAC_SHA2_256)?;
    let keys = IkeKeys::initial(prf, algorithm, &secret, nonces, spis).ok()?;
    Some([Sealer::new(&keys.sk_er)?, Sealer::new(&keys.sk_ei)?])
}

fn has_ke(message: &Message) -> bool {
    ke(message).is_some()
}

fn ke(message: &Message) -> Option<&[u8]> {
    message.payloads.iter().find_map(|payload| match payload {
        Payload::Ke { data, .. } => Some(&data[..]),
        _ => None,
    })
}

fn nonce(message: &Message) -> Option<&[u8]> {
    message.payloads.iter().find_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(&nonce[..]),
        _ => None,
    })
}

/// Opens everything sealed that was recorded. `sealers[to]` is the key of what goes to side `to`.
fn open(recorded: &[Datagram], sealers: &[Sealer; 2]) -> Vec<Opened> {
    let opened = recorded.iter().filter_map(|datagram| {
        let header = *datagram.bytes.first_chunk()?;
        let (first, plain) = sealers[datagram.to].open(&datagram.bytes)?;
        Some(Opened {
            to: datagram.to,
            header,
            first,
            plain,
        })
    });
    opened.collect()
}

/// Authentic messages with damaged content, in the order of message IDs that the side expects.
fn from_inside(
    pair: &mut Pair,
    recorded: &[Datagram],
    sealers: &[Sealer; 2],
    report: &mut Report,
    random: &mut Rng,
) -> Result<()> {
    let opened = open(recorded, sealers);
    if opened.is_empty() {
        return Err("no recorded message can be opened".into());
    }
    let mut next_id = [0_u32; 2];
    for _ in 0..INSIDE {
        let model = &opened[random.usize(..opened.len())];
        let mut header = model.header;
        header[18] = if random.u8(..4) == 0 {
            random.u8(34..39)
        } else {
            random.u8(36..38)
        };
        if random.u8(..8) == 0 {
            header[19] ^= 0x20;
        }
        // The window is one message wide: go through the IDs until one is taken.
        let id = next_id[model.to];
        next_id[model.to] = if random.u8(..64) == 0 {
            0
        } else {
            id.wrapping_add(1)
        };
        header[20..24].copy_from_slice(&id.to_be_bytes());
        let sealer = &sealers[model.to];
        let bytes = seal_damaged(sealer, &header, model.first, &model.plain, random)
            .ok_or("AES-GCM seals no such message")?;
        pair.deliver(&Datagram::forged(model.to, 500, bytes));
        pair.settle()?;
        report.messages += 1;
    }
    pair.pass_ms(1000)?;
    let alive = pair
        .sides
        .iter()
        .all(|side| !side.endpoint.list().is_empty());
    report.closed_by_insider += u64::from(!alive);
    Ok(())
}

/// Messages of a quiet life for the parser's corpus: plain ones, and sealed ones opened.
pub(super) fn corpus(random: &mut Rng) -> Result<Corpus> {
    let mut pair = Pair::new(PROPOSAL, random)?;
    pair.record = Some(Vec::new());
    let mut nobody = Report::default();
    if !handshake(&mut pair, false, &mut nobody, random)? {
        return Err("no handshake, with nobody disturbing".into());
    }
    let handshake = pair.record.clone().unwrap_or_default();
    let sealers = keys(&pair, &handshake).ok_or("the keys of the IKE SA were not found")?;
    for side in 0..2 {
        pair.rekey_child(side);
        pair.settle()?;
    }
    pair.terminate();
    pair.settle()?;
    let recorded = pair.record.take().unwrap_or_default();
    let opened = open(&recorded, &sealers)
        .into_iter()
        .map(|one| (one.first, one.plain));
    let plain = recorded.iter().map(|datagram| datagram.bytes.clone());
    Ok(Corpus {
        plain: plain.collect(),
        opened: opened.collect(),
    })
}

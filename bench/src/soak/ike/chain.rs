//! A message as a list of payloads that nobody has looked into, to be damaged and put together.

use fastrand::Rng;

use crate::soak::mutate;
use crate::soak::packet::short;

/// Bytes of the IKE header, and of the generic header of a payload (RFC 7296 3.1, 3.2).
pub(super) const HEADER_BYTES: usize = 28;
const GENERIC_BYTES: usize = 4;
const CRITICAL: u8 = 0x80;
/// Payload types that are known, SK and SKF among them.
const KINDS: [u8; 19] = [
    0, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 53, 99,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: u8,
    flags: u8,
    body: Vec<u8>,
}

/// Payloads in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain(pub(super) Vec<Part>);

impl Chain {
    /// Cuts `bytes`, whose first payload is of type `first`. What does not fit is left out.
    pub(super) fn cut(first: u8, mut bytes: &[u8]) -> Self {
        let (mut parts, mut kind) = (Vec::new(), first);
        while kind != 0 && bytes.len() >= GENERIC_BYTES {
            let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            let Some(body) = bytes.get(GENERIC_BYTES..length) else {
                break;
            };
            parts.push(Part {
                kind,
                flags: bytes[1],
                body: body.to_vec(),
            });
            (kind, bytes) = (bytes[0], &bytes[length..]);
        }
        Self(parts)
    }

    /// The bytes, and the type of the first payload.
    pub(super) fn join(&self) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        let next = self.0.iter().skip(1).map(|part| part.kind).chain([0]);
        for (part, next) in self.0.iter().zip(next) {
            bytes.extend([next, part.flags]);
            bytes.extend(short(GENERIC_BYTES + part.body.len()).to_be_bytes());
            bytes.extend(&part.body);
        }
        (self.0.first().map_or(0, |part| part.kind), bytes)
    }

    /// Changes the list or one of its bodies in one to three ways.
    pub(super) fn damage(&mut self, random: &mut Rng) {
        for _ in 0..random.u8(1..=3) {
            self.damage_once(random);
        }
    }

    fn damage_once(&mut self, random: &mut Rng) {
        let count = self.0.len();
        if count == 0 {
            let body = vec![random.u8(..); random.usize(..40)];
            self.0.push(Part {
                kind: KINDS[random.usize(..KINDS.len())],
                flags: 0,
                body,
            });
            return;
        }
        let at = random.usize(..count);
        match random.u8(..12) {
            0 => drop(self.0.remove(at)),
            1 => self.0.insert(random.usize(..=count), self.0[at].clone()),
            2 => self.0.swap(at, random.usize(..count)),
            3 => self.0[at].kind = KINDS[random.usize(..KINDS.len())],
            4 => {
                self.0[at].flags ^= if random.bool() {
                    CRITICAL
                } else {
                    random.u8(..)
                }
            }
            5 => mutate::truncate(&mut self.0[at].body, random),
            6 => {
                let longer = self.0[at].body.len() + random.usize(1..300);
                self.0[at].body.resize(longer, random.u8(..));
            }
            7 => mutate::overwrite(&mut self.0[at].body, random),
            // More of one kind than any message has.
            8 if random.u8(..32) == 0 => {
                let many = vec![self.0[at].clone(); random.usize(1..200)];
                self.0.splice(at..at, many);
            }
            8..=10 => number(&mut self.0[at].body, random),
            _ => mutate::flip(&mut self.0[at].body, random),
        }
    }
}

/// Puts an edge of a count or length somewhere.
fn number(body: &mut [u8], random: &mut Rng) {
    if body.len() < 2 {
        return;
    }
    let edges = [
        0, 1, 3, 4, 7, 8, 9, 0x7f, 0xff, 0x100, 0x7fff, 0x8000, 0xffff,
    ];
    let [high, low] = u16::to_be_bytes(edges[random.usize(..edges.len())]);
    let at = random.usize(..body.len() - 1);
    if random.bool() {
        body[at] = low;
    } else {
        body[at..at + 2].copy_from_slice(&[high, low]);
    }
}

/// Writes the length of a message into its header.
pub(super) fn fix_length(message: &mut [u8]) {
    let length = u32::try_from(message.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    if let Some(field) = message.get_mut(24..HEADER_BYTES) {
        field.copy_from_slice(&length);
    }
}

/// A damaged copy of a message as it is on the wire: in its payloads, in its bytes, or in both.
pub(super) fn damaged(message: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = message.to_vec();
    if bytes.len() >= HEADER_BYTES && random.u8(..4) != 0 {
        let mut chain = Chain::cut(bytes[16], &bytes[HEADER_BYTES..]);
        chain.damage(random);
        let (first, payloads) = chain.join();
        bytes.truncate(HEADER_BYTES);
        bytes[16] = first;
        bytes.extend(payloads);
    }
    match random.u8(..12) {
        0 => mutate::truncate(&mut bytes, random),
        1 | 2 => mutate::flip(&mut bytes, random),
        3 => mutate::overwrite(&mut bytes, random),
        4 => header(&mut bytes, random),
        5 => {
            let longer = bytes.len() + random.usize(1..100);
            bytes.resize(longer, random.u8(..));
        }
        _ => {}
    }
    bytes.truncate(usize::from(u16::MAX));
    // A wrong length is found first and hides everything else.
    if random.u8(..16) != 0 {
        fix_length(&mut bytes);
    }
    bytes
}

/// Exchange type, flags, version, message ID, one of the SPIs.
fn header(bytes: &mut [u8], random: &mut Rng) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    match random.u8(..6) {
        0 => bytes[18] = random.u8(33..40),
        1 => bytes[19] = random.u8(..) & 0x38,
        2 => bytes[17] = random.u8(..),
        3 => bytes[23] = random.u8(..4),
        4 => bytes[8..16].fill(0),
        _ => random.fill(&mut bytes[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_can_be_joined() {
        let bytes = [40, 0, 0, 6, 1, 2, 0, 128, 0, 4];
        let chain = Chain::cut(33, &bytes);
        assert_eq!(chain.0.len(), 2);
        assert_eq!(chain.join(), (33, bytes.to_vec()));
        // A length past the end, and one below a header.
        assert_eq!(Chain::cut(33, &[0, 0, 0, 9, 1]).0, []);
        assert_eq!(Chain::cut(33, &[0, 0, 0, 3, 1]).0, []);
    }

    #[test]
    fn damage_never_fails() {
        let mut random = Rng::with_seed(3);
        for length in 0..200 {
            let message = vec![33; length];
            for _ in 0..50 {
                damaged(&message, &mut random);
            }
        }
    }
}

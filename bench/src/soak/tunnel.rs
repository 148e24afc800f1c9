//! The peer's end of the static SAs: seals ESP with `aes-gcm` itself, not with the dataplane's code.

use std::net::IpAddr;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use fastrand::Rng;

use super::packet::{ESP, Header};

/// AES-GCM with a key of 128 or 256 bits.
enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

/// What tells the tunnels of the soak apart.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Third byte of the IPv4 and last group of the IPv6 network behind the peer.
    pub(crate) network: u8,
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) esn: bool,
    pub(crate) key_bits: u16,
    pub(crate) window: u32,
}

pub(crate) const SHAPES: [Shape; 4] = [
    Shape {
        name: "v4",
        network: 2,
        v6: false,
        udp: false,
        esn: false,
        key_bits: 128,
        window: 4096,
    },
    Shape {
        name: "v6",
        network: 3,
        v6: true,
        udp: false,
        esn: true,
        key_bits: 256,
        window: 64,
    },
    Shape {
        name: "v4-udp",
        network: 4,
        v6: false,
        udp: true,
        esn: true,
        key_bits: 256,
        window: 1024,
    },
    Shape {
        name: "v6-udp",
        network: 5,
        v6: true,
        udp: true,
        esn: false,
        key_bits: 128,
        window: 65_536,
    },
];

/// One inbound SA of the dataplane, as its peer sees it.
pub(crate) struct Tunnel {
    pub(crate) shape: Shape,
    pub(crate) spi: u32,
    /// Outer addresses: the peer's and the gateway's.
    outer: (IpAddr, IpAddr),
    cipher: Cipher,
    salt: [u8; 4],
    /// The last sequence number used.
    pub(crate) sequence: u64,
    /// Keys of both directions in hex, for the configuration.
    pub(crate) key_hex: [String; 2],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Tunnel {
    /// Draws keys. `outer` gives the peer's and the gateway's address.
    pub(crate) fn new(shape: Shape, outer: (IpAddr, IpAddr), random: &mut Rng) -> Option<Self> {
        let mut keymat = [0; 36];
        random.fill(&mut keymat);
        let key = &keymat[..usize::from(shape.key_bits / 8)];
        let cipher = match key.len() {
            16 => Cipher::Aes128(Box::new(Aes128Gcm::new_from_slice(key).ok()?)),
            _ => Cipher::Aes256(Box::new(Aes256Gcm::new_from_slice(key).ok()?)),
        };
        let salt = [keymat[32], keymat[33], keymat[34], keymat[35]];
        let mut other = [0; 36];
        random.fill(&mut other);
        let key_hex = [hex(key) + &hex(&salt), hex(&other[..key.len() + 4])];
        let spi = 0x1000_0000 + u32::from(shape.network);
        Some(Self {
            shape,
            spi,
            outer,
            cipher,
            salt,
            sequence: 0,
            key_hex,
        })
    }

    /// The packet from the peer that carries `plain` (RFC 4303 2, RFC 4106): sealed correctly,
    /// whatever `plain` and `next_header` are. `tos` is the outer header's.
    pub(crate) fn seal(&self, sequence: u64, plain: &Plain<'_>, tos: u8) -> Vec<u8> {
        let mut sealed = plain.bytes.to_vec();
        let padding = (4 - (sealed.len() + 2) % 4) % 4;
        sealed.extend((1..=4).take(padding));
        sealed.extend([plain.pad_length(padding), plain.next_header]);
        let mut esp = self.spi.to_be_bytes().to_vec();
        let halves = sequence.to_be_bytes();
        esp.extend(&halves[4..]);
        let aad = match self.shape.esn {
            true => [&esp[..4], &halves[..]].concat(),
            false => esp.clone(),
        };
        let iv = sequence.to_be_bytes();
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&iv);
        let icv = match &self.cipher {
            Cipher::Aes128(gcm) => {
                gcm.encrypt_inout_detached(&nonce.into(), &aad, sealed.as_mut_slice().into())
            }
            Cipher::Aes256(gcm) => {
                gcm.encrypt_inout_detached(&nonce.into(), &aad, sealed.as_mut_slice().into())
            }
        };
        esp.extend(iv);
        esp.extend(sealed);
        // Sealing fails for impossible lengths only; without an ICV the packet is one more bad one.
        esp.extend(icv.map(|icv| icv.to_vec()).unwrap_or_default());
        let header = Header {
            tos,
            ..Header::new(self.outer.0, self.outer.1, ESP)
        };
        if self.shape.udp {
            header.udp((4500, 4500), &esp)
        } else {
            header.around(&esp)
        }
    }
}

/// What goes into an ESP packet.
pub(crate) struct Plain<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) next_header: u8,
    /// Written in place of the true pad length.
    pub(crate) wrong_pad_length: Option<u8>,
}

impl Plain<'_> {
    fn pad_length(&self, padding: usize) -> u8 {
        self.wrong_pad_length
            .unwrap_or_else(|| u8::try_from(padding).unwrap_or_default())
    }
}

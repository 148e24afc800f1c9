//! AES-GCM as ESP uses it: batches of one SA's packets, sealed and opened in place.

use std::error::Error;

use ::crypto::{Aad, KeyContext, Op};
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadCore, AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};

use super::clock::cycles_per_item;
use super::table::Section;

/// Packets of a batch, as in the worker loop.
const BATCH: u32 = 64;
/// Bytes that are encrypted.
const SIZES_BYTES: [usize; 3] = [64, 352, 1424];
const ICV_BYTES: usize = 16;
const SPI: u32 = 0x1000;
const SALT: [u8; 4] = *b"salt";
const RUN_NS: f64 = 20e6;

/// A batch under one implementation.
trait Backend {
    fn name(&self) -> String;
    fn seal(&self, packets: &mut [Vec<u8>]) -> bool;
    fn open(&self, packets: &mut [Vec<u8>]) -> bool;
}

/// The dataplane's crate.
struct Ours(KeyContext);

/// The sequence number of a packet of the batch.
fn sequence(index: usize) -> u32 {
    u32::try_from(index).unwrap_or_default()
}

fn iv(index: usize) -> [u8; 8] {
    u64::from(sequence(index)).to_be_bytes()
}

fn nonce(index: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&SALT);
    nonce[4..].copy_from_slice(&iv(index));
    nonce
}

impl Ours {
    fn run(&self, packets: &mut [Vec<u8>], call: fn(&mut [Op<'_>])) -> bool {
        let numbered = packets.iter_mut().enumerate();
        let ops: Result<Vec<_>, _> = numbered
            .map(|(n, data)| Op::new(&self.0, iv(n), Aad::sequence(SPI, sequence(n)), data))
            .collect();
        let Ok(mut ops) = ops else { return false };
        call(&mut ops);
        ops.iter().all(Op::ok)
    }
}

impl Backend for Ours {
    fn name(&self) -> String {
        format!("culvert {}", ::crypto::tier())
    }

    fn seal(&self, packets: &mut [Vec<u8>]) -> bool {
        self.run(packets, ::crypto::seal)
    }

    fn open(&self, packets: &mut [Vec<u8>]) -> bool {
        self.run(packets, ::crypto::open)
    }
}

/// The crate `aes-gcm`, one call a packet.
struct RustCrypto<T>(T);

impl<T: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16>> Backend for RustCrypto<T> {
    fn name(&self) -> String {
        "aes-gcm".to_owned()
    }

    fn seal(&self, packets: &mut [Vec<u8>]) -> bool {
        packets.iter_mut().enumerate().all(|(n, data)| {
            let aad = Aad::sequence(SPI, sequence(n));
            let at = data.len() - ICV_BYTES;
            let (plain, icv) = data.split_at_mut(at);
            let sealed =
                self.0
                    .encrypt_inout_detached(&nonce(n).into(), aad.as_bytes(), plain.into());
            sealed.map(|tag| icv.copy_from_slice(&tag)).is_ok()
        })
    }

    fn open(&self, packets: &mut [Vec<u8>]) -> bool {
        packets.iter_mut().enumerate().all(|(n, data)| {
            let aad = Aad::sequence(SPI, sequence(n));
            let at = data.len() - ICV_BYTES;
            let (sealed, icv) = data.split_at_mut(at);
            let Ok(tag) = <[u8; ICV_BYTES]>::try_from(&*icv) else {
                return false;
            };
            let (nonce, aad) = (nonce(n).into(), aad.as_bytes());
            self.0
                .decrypt_inout_detached(&nonce, aad, sealed.into(), &tag.into())
                .is_ok()
        })
    }
}

/// The crate `ring`, one call a packet.
struct Ring(ring::aead::LessSafeKey);

impl Ring {
    fn new(key: &[u8]) -> Option<Self> {
        let kind = match key.len() {
            16 => &ring::aead::AES_128_GCM,
            _ => &ring::aead::AES_256_GCM,
        };
        let key = ring::aead::UnboundKey::new(kind, key).ok()?;
        Some(Self(ring::aead::LessSafeKey::new(key)))
    }
}

impl Backend for Ring {
    fn name(&self) -> String {
        "ring".to_owned()
    }

    fn seal(&self, packets: &mut [Vec<u8>]) -> bool {
        packets.iter_mut().enumerate().all(|(n, data)| {
            let at = data.len() - ICV_BYTES;
            let (plain, icv) = data.split_at_mut(at);
            let aad = ring::aead::Aad::from(Aad::sequence(SPI, sequence(n)).as_bytes().to_owned());
            let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(n));
            let sealed = self.0.seal_in_place_separate_tag(nonce, aad, plain);
            sealed.map(|tag| icv.copy_from_slice(tag.as_ref())).is_ok()
        })
    }

    fn open(&self, packets: &mut [Vec<u8>]) -> bool {
        packets.iter_mut().enumerate().all(|(n, data)| {
            let aad = Aad::sequence(SPI, sequence(n));
            let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(n));
            self.0
                .open_in_place(nonce, ring::aead::Aad::from(aad.as_bytes()), data)
                .is_ok()
        })
    }
}

fn backends(key: &[u8]) -> Result<Vec<Box<dyn Backend>>, Box<dyn Error>> {
    let baseline: Box<dyn Backend> = match key.len() {
        16 => Box::new(RustCrypto(Aes128Gcm::new_from_slice(key)?)),
        _ => Box::new(RustCrypto(Aes256Gcm::new_from_slice(key)?)),
    };
    let ours = KeyContext::aes_gcm(key, SALT, ICV_BYTES)?;
    let ring = Ring::new(key).ok_or("ring takes no such key")?;
    Ok(vec![Box::new(Ours(ours)), baseline, Box::new(ring)])
}

/// Cycles per packet of each implementation, by size, key and direction.
pub(super) fn run(runs: usize) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new(
        "AES-GCM, batches of 64 packets of one SA, in place",
        "crypto",
    );
    for key_bytes in [16, 32] {
        let backends = backends(&[7; 32][..key_bytes])?;
        for size in SIZES_BYTES {
            let bits = key_bytes * 8;
            measure(
                &mut section,
                &backends,
                &format!("aes{bits} {size} B"),
                size,
                runs,
            )?;
        }
    }
    section.compare_with("aes-gcm");
    Ok(section)
}

/// All implementations by turns, so that a disturbance hits all of them.
fn measure(
    section: &mut Section,
    backends: &[Box<dyn Backend>],
    name: &str,
    size: usize,
    runs: usize,
) -> Result<(), Box<dyn Error>> {
    let clear = vec![vec![0x5a; size + ICV_BYTES]; BATCH as usize];
    let mut sealed = clear.clone();
    let first = backends.first().ok_or("no implementation")?;
    if !first.seal(&mut sealed) {
        return Err(format!("{name}: sealing failed").into());
    }
    let mut figures = vec![(Vec::new(), Vec::new()); backends.len()];
    for _ in 0..runs {
        for (backend, (seals, opens)) in backends.iter().zip(&mut figures) {
            seals.push(seal_cycles(backend.as_ref(), &clear, &sealed)?);
            opens.push(open_cycles(backend.as_ref(), &sealed)?);
        }
    }
    let (seals, opens): (Vec<_>, Vec<_>) = figures.into_iter().unzip();
    for (verb, figures) in [("seal", seals), ("open", opens)] {
        for (backend, runs) in backends.iter().zip(figures) {
            section.push(
                format!("{verb} {name}"),
                &backend.name(),
                "cycles/packet",
                runs,
            );
        }
    }
    Ok(())
}

fn seal_cycles(
    backend: &dyn Backend,
    clear: &[Vec<u8>],
    expected: &[Vec<u8>],
) -> Result<f64, Box<dyn Error>> {
    let mut packets = clear.to_vec();
    // Warm, and right: what is fast and wrong is no figure.
    if !backend.seal(&mut packets) || packets != expected {
        return Err(format!("{} seals wrongly", backend.name()).into());
    }
    let mut ok = true;
    let cycles = cycles_per_item(BATCH, RUN_NS, || {}, || ok &= backend.seal(&mut packets));
    if ok {
        Ok(cycles)
    } else {
        Err(format!("{} fails to seal", backend.name()).into())
    }
}

fn open_cycles(backend: &dyn Backend, sealed: &[Vec<u8>]) -> Result<f64, Box<dyn Error>> {
    let packets = std::cell::RefCell::new(sealed.to_vec());
    let mut ok = true;
    let restore = || {
        for (packet, sealed) in packets.borrow_mut().iter_mut().zip(sealed) {
            packet.copy_from_slice(sealed);
        }
    };
    let cycles = cycles_per_item(BATCH, RUN_NS, restore, || {
        ok &= backend.open(&mut packets.borrow_mut())
    });
    if ok {
        Ok(cycles)
    } else {
        Err(format!("{} fails to open", backend.name()).into())
    }
}

//! AES-GCM as ESP uses it: batches of packets, sealed and opened in place.
//!
//! Packets lie in buffers like mbufs, unaligned, and neighbours have different keys if there are
//! several. ipsec-mb is C, so it runs as a child that is built from `bench/peers/ipsec_mb.c`.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use ::crypto::{Aad, KeyContext, Op, Tier};
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadCore, AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};

use super::clock::cycles_per_item;
use super::table::Section;

/// Packets of a batch, as in the worker loop.
const BATCH: usize = 64;
/// Buffers, which is also how many keys there are at most.
const PACKETS: usize = 256;
/// From one buffer to the next, as an mbuf of 2,048 bytes with headroom and header.
const STRIDE_BYTES: usize = 2048 + 256 + 64;
/// Where the payload begins: behind Ethernet, IPv4, ESP's header and IV.
const OFFSET_BYTES: usize = 50;
/// Bytes that are encrypted.
const SIZES_BYTES: [usize; 3] = [64, 352, 1424];
const KEY_COUNTS: [usize; 2] = [1, PACKETS];
const ICV_BYTES: usize = 16;
const SPI: u32 = 0x1000;
const SALT: [u8; 4] = *b"salt";
const RUN_NS: f64 = 20e6;

/// The buffers of a measurement.
#[derive(Clone, PartialEq)]
struct Packets {
    memory: Vec<u8>,
    /// To the first line of the memory.
    shift: usize,
    len: usize,
}

impl Packets {
    fn new(len: usize) -> Self {
        let memory = vec![0x5a; PACKETS * STRIDE_BYTES + 64];
        let shift = memory.as_ptr().align_offset(64).min(63);
        Self { memory, shift, len }
    }

    /// Payload and room for the ICV of each packet.
    fn iter(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let size = self.len + ICV_BYTES;
        let buffers = self.memory[self.shift..].chunks_exact_mut(STRIDE_BYTES);
        buffers.map(move |buffer| &mut buffer[OFFSET_BYTES..][..size])
    }

    fn copy_from(&mut self, other: &mut Self) {
        for (to, from) in self.iter().zip(other.iter()) {
            to.copy_from_slice(from);
        }
    }

    fn same(&mut self, other: &mut Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// All packets under one implementation.
trait Backend {
    fn name(&self) -> String;
    fn seal(&self, packets: &mut Packets) -> bool;
    fn open(&self, packets: &mut Packets) -> bool;
}

/// A tier of the dataplane's crate, with the key of each packet.
struct Ours(Tier, Vec<Rc<KeyContext>>);

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
    fn run(&self, packets: &mut Packets, call: fn(&mut [Op<'_>])) -> bool {
        let size = packets.len + ICV_BYTES;
        let mut ops = Vec::with_capacity(BATCH);
        let mut good = true;
        let mut n = 0;
        // Plain loops: chained adapters kept their state in memory, which was measured with the crate.
        let batches = packets.memory[packets.shift..].chunks_exact_mut(BATCH * STRIDE_BYTES);
        for (buffers, keys) in batches.zip(self.1.chunks_exact(BATCH)) {
            for (buffer, key) in buffers.chunks_exact_mut(STRIDE_BYTES).zip(keys) {
                let data = &mut buffer[OFFSET_BYTES..][..size];
                let Ok(op) = Op::new(key, iv(n), aad(n), data) else {
                    return false;
                };
                ops.push(op);
                n += 1;
            }
            call(&mut ops);
            good &= ops.iter().all(Op::ok);
            ops.clear();
        }
        good
    }
}

impl Backend for Ours {
    fn name(&self) -> String {
        format!("culvert {}", self.0)
    }

    fn seal(&self, packets: &mut Packets) -> bool {
        self.run(packets, ::crypto::seal)
    }

    fn open(&self, packets: &mut Packets) -> bool {
        self.run(packets, ::crypto::open)
    }
}

/// Calls for each packet with its number and key.
fn each<K>(packets: &mut Packets, keys: &[K], call: impl Fn(usize, &K, &mut [u8]) -> bool) -> bool {
    let keys = keys.iter().cycle();
    let mut numbered = packets.iter().zip(keys).enumerate();
    numbered.all(|(n, (data, key))| call(n, key, data))
}

fn aad(index: usize) -> Aad {
    Aad::sequence(SPI, sequence(index))
}

/// Payload and ICV.
fn split(data: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    data.split_at_mut(data.len() - ICV_BYTES)
}

/// The crate `aes-gcm`, one call a packet.
struct RustCrypto<T>(Vec<T>);

impl<T: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16>> Backend for RustCrypto<T> {
    fn name(&self) -> String {
        "aes-gcm".to_owned()
    }

    fn seal(&self, packets: &mut Packets) -> bool {
        each(packets, &self.0, |n, key, data| {
            let (plain, icv) = split(data);
            let (nonce, aad) = (nonce(n).into(), aad(n));
            let sealed = key.encrypt_inout_detached(&nonce, &aad.to_bytes(), plain.into());
            sealed.map(|tag| icv.copy_from_slice(&tag)).is_ok()
        })
    }

    fn open(&self, packets: &mut Packets) -> bool {
        each(packets, &self.0, |n, key, data| {
            let (sealed, icv) = split(data);
            let Ok(tag) = <[u8; ICV_BYTES]>::try_from(&*icv) else {
                return false;
            };
            let (nonce, aad) = (nonce(n).into(), aad(n));
            key.decrypt_inout_detached(&nonce, &aad.to_bytes(), sealed.into(), &tag.into())
                .is_ok()
        })
    }
}

/// The crate `ring`, one call a packet.
struct Ring(Vec<ring::aead::LessSafeKey>);

impl Ring {
    fn new(keys: &[Vec<u8>]) -> Option<Self> {
        let key = |key: &Vec<u8>| {
            let kind = match key.len() {
                16 => &ring::aead::AES_128_GCM,
                _ => &ring::aead::AES_256_GCM,
            };
            let key = ring::aead::UnboundKey::new(kind, key).ok()?;
            Some(ring::aead::LessSafeKey::new(key))
        };
        keys.iter().map(key).collect::<Option<_>>().map(Self)
    }
}

impl Backend for Ring {
    fn name(&self) -> String {
        "ring".to_owned()
    }

    fn seal(&self, packets: &mut Packets) -> bool {
        each(packets, &self.0, |n, key, data| {
            let (plain, icv) = split(data);
            let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(n));
            let aad = ring::aead::Aad::from(aad(n).to_bytes().to_vec());
            let sealed = key.seal_in_place_separate_tag(nonce, aad, plain);
            sealed.map(|tag| icv.copy_from_slice(tag.as_ref())).is_ok()
        })
    }

    fn open(&self, packets: &mut Packets) -> bool {
        each(packets, &self.0, |n, key, data| {
            let (nonce, aad) = (nonce(n), aad(n));
            let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
            key.open_in_place(nonce, ring::aead::Aad::from(&*aad.to_bytes()), data)
                .is_ok()
        })
    }
}

/// Debian's ipsec-mb in a process of its own, which answers questions with figures.
struct IpsecMb {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl IpsecMb {
    /// Compiles and starts it.
    fn start() -> Result<Self, Box<dyn Error>> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/ipsec_mb.c");
        let directory = tempfile::tempdir()?;
        let binary = directory.path().join("ipsec_mb");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-o"]).arg(&binary).arg(source);
        let built = cc.arg("-lIPSec_MB").output().map_err(|_| "cc is missing")?;
        if !built.status.success() {
            return Err("libipsec-mb-dev is missing".into());
        }
        let mut child = Command::new(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().ok_or("no pipe")?;
        let answer = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self {
            child,
            ask,
            answer,
            _directory: directory,
        })
    }

    /// Cycles a packet.
    fn measure(&mut self, cell: &Cell, verb: &str) -> Result<f64, Box<dyn Error>> {
        let Cell { bits, size, keys } = cell;
        writeln!(self.ask, "{bits} {size} {keys} {verb} 1")?;
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for IpsecMb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is measured.
struct Cell {
    bits: usize,
    size: usize,
    keys: usize,
}

fn backends(cell: &Cell) -> Result<Vec<Box<dyn Backend>>, Box<dyn Error>> {
    let mut keys = vec![vec![7; cell.bits / 8]; cell.keys];
    for (number, key) in keys.iter_mut().enumerate() {
        key[..4].copy_from_slice(&sequence(number).to_be_bytes());
    }
    let mut all: Vec<Box<dyn Backend>> = Vec::new();
    for tier in Tier::ALL.into_iter().filter(|tier| tier.available()) {
        let context =
            |key: &Vec<u8>| KeyContext::with_tier(tier, key, SALT, ICV_BYTES).map(Rc::new);
        let contexts = keys.iter().map(context).collect::<Result<Vec<_>, _>>()?;
        let of_packets = contexts.iter().cycle().take(PACKETS).cloned().collect();
        all.push(Box::new(Ours(tier, of_packets)));
    }
    let slices = keys.iter().map(Vec::as_slice);
    all.push(match cell.bits {
        128 => Box::new(RustCrypto(
            slices
                .map(Aes128Gcm::new_from_slice)
                .collect::<Result<Vec<_>, _>>()?,
        )),
        _ => Box::new(RustCrypto(
            slices
                .map(Aes256Gcm::new_from_slice)
                .collect::<Result<Vec<_>, _>>()?,
        )),
    });
    all.push(Box::new(Ring::new(&keys).ok_or("ring takes no such key")?));
    Ok(all)
}

/// Cycles per packet of each implementation, by size, key and direction.
pub(super) fn run(runs: usize) -> Result<Section, Box<dyn Error>> {
    let title = "AES-GCM, batches of 64 packets in place, 256 buffers";
    let mut section = Section::new(title, "crypto");
    let mut peer = match IpsecMb::start() {
        Ok(peer) => Some(peer),
        Err(error) => {
            println!("ipsec-mb is not measured: {error}");
            None
        }
    };
    for bits in [128, 256] {
        for size in SIZES_BYTES {
            for keys in KEY_COUNTS {
                let cell = Cell { bits, size, keys };
                measure(&mut section, &cell, peer.as_mut(), runs)?;
            }
        }
    }
    section.compare_with("aes-gcm");
    Ok(section)
}

/// All implementations by turns, so that a disturbance hits all of them.
fn measure(
    section: &mut Section,
    cell: &Cell,
    mut peer: Option<&mut IpsecMb>,
    runs: usize,
) -> Result<(), Box<dyn Error>> {
    let backends = backends(cell)?;
    let name = format!("aes{} {} B, {} keys", cell.bits, cell.size, cell.keys);
    let mut clear = Packets::new(cell.size);
    let mut sealed = Packets::new(cell.size);
    let first = backends.first().ok_or("no implementation")?;
    if !first.seal(&mut sealed) {
        return Err(format!("{name}: sealing failed").into());
    }
    let mut figures = vec![(Vec::new(), Vec::new()); backends.len()];
    let mut peers = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for (backend, (seals, opens)) in backends.iter().zip(&mut figures) {
            seals.push(seal_cycles(backend.as_ref(), &mut clear, &mut sealed)?);
            opens.push(open_cycles(backend.as_ref(), &mut sealed)?);
        }
        if let Some(peer) = peer.as_mut() {
            peers.0.push(peer.measure(cell, "seal")?);
            peers.1.push(peer.measure(cell, "open")?);
        }
    }
    let mut names: Vec<_> = backends.iter().map(|backend| backend.name()).collect();
    names.push("ipsec-mb".to_owned());
    figures.push(peers);
    let (seals, opens): (Vec<_>, Vec<_>) = figures.into_iter().unzip();
    for (verb, figures) in [("seal", seals), ("open", opens)] {
        for (by, runs) in names.iter().zip(figures) {
            section.push(format!("{verb} {name}"), by, "cycles/packet", runs);
        }
    }
    Ok(())
}

fn seal_cycles(
    backend: &dyn Backend,
    clear: &mut Packets,
    expected: &mut Packets,
) -> Result<f64, Box<dyn Error>> {
    let mut packets = Packets::new(clear.len);
    packets.copy_from(clear);
    // Warm, and right: what is fast and wrong is no figure.
    if !backend.seal(&mut packets) || !packets.same(expected) {
        return Err(format!("{} seals wrongly", backend.name()).into());
    }
    let mut ok = true;
    let count = u32::try_from(PACKETS)?;
    let cycles = cycles_per_item(count, RUN_NS, || {}, || ok &= backend.seal(&mut packets));
    if ok {
        Ok(cycles)
    } else {
        Err(format!("{} fails to seal", backend.name()).into())
    }
}

fn open_cycles(backend: &dyn Backend, sealed: &mut Packets) -> Result<f64, Box<dyn Error>> {
    let packets = std::cell::RefCell::new(Packets::new(sealed.len));
    let mut ok = true;
    let restore = || packets.borrow_mut().copy_from(sealed);
    let count = u32::try_from(PACKETS)?;
    let cycles = cycles_per_item(count, RUN_NS, restore, || {
        ok &= backend.open(&mut packets.borrow_mut())
    });
    if ok {
        Ok(cycles)
    } else {
        Err(format!("{} fails to open", backend.name()).into())
    }
}

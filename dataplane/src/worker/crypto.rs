//! The seam between stages and crypto: flights are handed in with the lanes that want it, and come
//! back with a verdict for each.
//!
//! The engine here does the work at once.

use arrayvec::ArrayVec;
use crypto::Op;
use dpdk::BATCH_SIZE;
use esp::{ESP_HEADER_BYTES, IV_BYTES};

use super::flight::{Flight, Lane, Set};

/// Encrypts the lanes of a set; gives those that could be.
pub(super) fn seal(flight: &mut Flight<'_>, set: Set) -> Set {
    run(flight, set, seal_op, crypto::seal)
}

/// Decrypts the lanes of a set; gives those whose ICV was right.
pub(super) fn open(flight: &mut Flight<'_>, set: Set) -> Set {
    run(flight, set, open_op, crypto::open)
}

#[inline(always)]
fn run<'f, 't>(
    flight: &'f mut Flight<'t>,
    set: Set,
    op: impl Fn(&'f mut Lane<'t>) -> Option<Op<'f>>,
    call: impl FnOnce(&mut [Op<'f>]),
) -> Set {
    let mut ops: ArrayVec<Op<'f>, BATCH_SIZE> = ArrayVec::new();
    let mut asked = Set::default();
    for (number, lane) in flight.lanes.iter_mut().enumerate() {
        if !set.has(number) {
            continue;
        }
        if let Some(op) = op(lane) {
            ops.push(op);
            asked.insert(number);
        }
    }
    call(&mut ops);
    let mut good = Set::default();
    for (number, op) in asked.zip(&ops) {
        if op.ok() {
            good.insert(number);
        }
    }
    good
}

/// An encapsulated packet: all behind outer headers, ESP header and IV (RFC 4106 3).
#[inline(always)]
fn seal_op<'a>(lane: &'a mut Lane<'_>) -> Option<Op<'a>> {
    let sa = lane.sa?;
    let start = sa.tunnel.as_ref()?.prepend();
    let aad = esp::aad(sa.spi, lane.sequence, sa.esn());
    let iv = lane.sequence.to_be_bytes();
    let data = lane.packet.network_mut().get_mut(start..)?;
    Op::new(&sa.key, iv, aad, data).ok()
}

/// A received packet: all behind ESP header and IV.
#[inline(always)]
fn open_op<'a>(lane: &'a mut Lane<'_>) -> Option<Op<'a>> {
    let sa = lane.sa?;
    let aad = esp::aad(sa.spi, lane.sequence, sa.esn());
    let esp = usize::from(lane.esp.0)..usize::from(lane.esp.1);
    let packet = lane.packet.network_mut().get_mut(esp)?;
    let (_, behind) = packet.split_first_chunk_mut::<ESP_HEADER_BYTES>()?;
    let (iv, data) = behind.split_first_chunk_mut::<IV_BYTES>()?;
    Op::new(&sa.key, *iv, aad, data).ok()
}

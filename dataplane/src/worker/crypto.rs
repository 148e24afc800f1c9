//! The seam between stages and crypto: the lanes of a set are made ready one by one, all of them are
//! handed in at once, and come back with a verdict for each.

use arrayvec::ArrayVec;
use crypto::Op;
use dpdk::BATCH_SIZE;
use esp::{ESP_HEADER_BYTES, IV_BYTES};

use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};

/// What happens to a lane right before crypto, while all of it is at hand.
pub(super) trait Preparation<'t> {
    /// The lane's own part. Those that are refused leave by the exit that it names.
    fn prepare(&mut self, lane: &mut Lane<'t>, exits: &mut Exits) -> Result<(), Exit>;

    /// After the last lane, before crypto sees one.
    fn end(&mut self) {}
}

/// Lanes that crypto was asked for, and those of them that it has done: all but forged ones.
#[derive(Clone, Copy, Default)]
pub(super) struct Verdicts {
    pub(super) asked: Set,
    pub(super) good: Set,
}

/// Encrypts the lanes of a set.
#[inline(always)]
pub(super) fn seal<'t>(
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
    preparation: impl Preparation<'t>,
) -> Verdicts {
    run(flight, set, exits, preparation, seal_op, crypto::seal)
}

/// Decrypts the lanes of a set.
#[inline(always)]
pub(super) fn open<'t>(
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
    preparation: impl Preparation<'t>,
) -> Verdicts {
    run(flight, set, exits, preparation, open_op, crypto::open)
}

#[inline(always)]
fn run<'f, 't: 'f>(
    flight: &'f mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
    mut preparation: impl Preparation<'t>,
    op: impl Fn(&'f mut Lane<'t>) -> Option<Op<'f>>,
    call: impl FnOnce(&mut [Op<'f>]),
) -> Verdicts {
    let mut ops: ArrayVec<Op<'f>, BATCH_SIZE> = ArrayVec::new();
    let mut verdicts = Verdicts::default();
    for (number, lane) in flight.lanes.iter_mut().enumerate() {
        if !set.has(number) {
            continue;
        }
        if let Err(exit) = preparation.prepare(lane, exits) {
            exits.leave(&mut lane.packet, exit);
            continue;
        }
        verdicts.asked.insert(number);
        if let Some(op) = op(lane) {
            ops.push(op);
            verdicts.good.insert(number);
        }
    }
    preparation.end();
    call(&mut ops);
    let mut bad = Set::default();
    for (number, op) in verdicts.good.zip(&ops) {
        if !op.ok() {
            bad.insert(number);
        }
    }
    verdicts.good = verdicts.good.without(bad);
    verdicts
}

/// An encapsulated packet: all behind outer headers, ESP header and IV (RFC 4106 3).
#[inline(always)]
fn seal_op<'a>(lane: &'a mut Lane<'_>) -> Option<Op<'a>> {
    let sa = lane.sa?;
    let start = usize::from(lane.esp.0);
    let aad = esp::aad(sa.spi, lane.sequence, sa.esn());
    let iv = lane.sequence.to_be_bytes();
    let data = lane.packet.bytes_mut().get_mut(start..)?;
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

//! The seam between stages and crypto: the lanes of a set are made ready one by one, all of them are
//! handed in at once, and come back with a verdict for each.

use std::ops::Range;

use api::counters::{Counter, DropReason};
use arrayvec::ArrayVec;
use crypto::{ICV_ROOM, Op};
use dpdk::BATCH_SIZE;

use super::exits::{Exit, Exits};
use super::flight::{Flight, Lane, Set};
use super::line::Wait;
use super::stage_clock::StageClock;
use crate::lending::{Item, Parcel, Way};

/// What crypto is asked to do for a burst.
pub(super) type Ops<'f> = ArrayVec<Op<'f>, BATCH_SIZE>;

/// What happens to a lane right before crypto, while all of it is at hand.
pub(super) trait Preparation<'t> {
    /// What its time is booked on.
    const STAGE: Counter;

    /// The lane's own part, and what crypto is to do, for which there is room in `ops`. Those that are
    /// refused leave by the exit that is named, once crypto is through with the others.
    ///
    /// A function of its own, not a part of the loop: what it keeps from packet to packet would not fit
    /// into registers, and be moved about on the stack for each.
    fn prepare<'f>(
        &mut self,
        lane: &'f mut Lane<'t>,
        exits: &mut Exits,
        ops: &mut Ops<'f>,
    ) -> Result<(), Exit>;

    /// After the last lane, before crypto sees one.
    fn end(&mut self, _: &mut Exits) {}
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
    clock: &mut StageClock,
    preparation: impl Preparation<'t>,
) -> Verdicts {
    run(flight, set, exits, clock, preparation, crypto::seal)
}

/// Decrypts the lanes of a set.
#[inline(always)]
pub(super) fn open<'t>(
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
    clock: &mut StageClock,
    preparation: impl Preparation<'t>,
) -> Verdicts {
    run(flight, set, exits, clock, preparation, crypto::open)
}

/// Makes the lanes of a set ready for crypto elsewhere: their frames are in the loan then.
#[inline(never)]
pub(super) fn lend<'t>(
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
    mut preparation: impl Preparation<'t>,
    way: Way,
    mut loan: Parcel,
) -> Wait {
    let mut asked = Set::default();
    flight.each(set, |number, lane| {
        let mut ops = Ops::new();
        let prepared = preparation.prepare(lane, exits, &mut ops);
        let payload = ops.first().map(|op| op.payload().as_ptr_range());
        drop(ops);
        let item = prepared.and_then(|()| Ok(item(lane, payload).ok_or(DropReason::Internal)?));
        match item {
            Ok(item) => {
                loan.items.push(item);
                asked.insert(number);
            }
            Err(exit) => exits.leave(&mut lane.packet, exit),
        }
    });
    preparation.end(exits);
    Wait::lent(asked, way, loan)
}

/// Takes the frame out of a lane, with what another thread needs to know of the operation.
fn item(lane: &mut Lane<'_>, payload: Option<Range<*const u8>>) -> Option<Item> {
    let (sa, payload) = (lane.sa?.id, payload?);
    let frame = lane.packet.bytes().as_ptr().addr();
    let start = payload.start.addr().checked_sub(frame)?;
    let end = payload.end.addr().checked_sub(frame)? + ICV_ROOM;
    Some(Item {
        data: (u16::try_from(start).ok()?, u16::try_from(end).ok()?),
        sa,
        sequence: lane.sequence,
        frame: lane.packet.take_frame()?,
    })
}

#[inline(always)]
fn run<'t, P: Preparation<'t>>(
    flight: &mut Flight<'t>,
    set: Set,
    exits: &mut Exits,
    clock: &mut StageClock,
    mut preparation: P,
    call: impl FnOnce(&mut [Op<'_>]),
) -> Verdicts {
    let mut ops = Ops::new();
    let mut refused: ArrayVec<(usize, Exit), BATCH_SIZE> = ArrayVec::new();
    let mut asked = Set::default();
    for (number, lane) in flight.lanes.iter_mut().enumerate() {
        if !set.has(number) {
            continue;
        }
        match preparation.prepare(lane, exits, &mut ops) {
            Ok(()) => asked.insert(number),
            Err(exit) => refused.push((number, exit)),
        }
    }
    preparation.end(exits);
    clock.lap(&mut exits.counts, P::STAGE);
    if !ops.is_empty() {
        exits.counts.add(Counter::CryptoBatches, 1);
        call(&mut ops);
    }
    let mut good = asked;
    if !ops.iter().all(Op::ok) {
        good = asked
            .zip(&ops)
            .filter(|(_, op)| op.ok())
            .map(|(number, _)| number)
            .collect();
    }
    drop(ops);
    // Nearly always none, and 2 KiB to move.
    for (number, exit) in refused.drain(..) {
        if let Some(lane) = flight.lanes.get_mut(number) {
            exits.leave(&mut lane.packet, exit);
        }
    }
    Verdicts { asked, good }
}

//! Flights whose crypto is lent, and those behind them: they go on in the order in which they were made
//! ready.
//!
//! Sequence numbers are given out, and replay windows looked at, when a flight is made ready. It waits
//! here even if its crypto is done at once, as long as another one is in front of it; so packets of an SA
//! leave, and are committed to its window, as if nothing had been lent.

use std::collections::VecDeque;

use crypto::ICV_ROOM;
use dpdk::BATCH_SIZE;

use super::View;
use super::crypto::Verdicts;
use super::flight::{Flight, Set};
use super::passes::HEADER_LINES;
use crate::lending::{Lender, Parcel, Way};
use crate::memory::prefetch;

/// Flights of a worker that lends: those that wait, and one to board.
pub(super) const FLIGHTS: usize = 16;
/// What a flight has at least to be worth the way to another core and back, and a burst for one of its flights
/// to have that.
const LEND_BYTES: usize = 8 << 10;
const LEND_BURST_BYTES: u64 = LEND_BYTES as u64;

/// Looks for a loan that has been begun with, some tenth of a millisecond: who takes longer has lost its core.
const PATIENCE: u32 = 10_000;
/// Full bursts without a loan after that, the first time and at most: a millisecond, and half a second. A core
/// that others use too takes more time by waiting than it gives, so each time it is twice as many.
const REST_BURSTS: (u32, u32) = (64, 32_768);
/// Loans that return in time until it is half as many again: more than a core does that is lost soon.
const RETURNS: u32 = 1024;

/// What is known of a flight at its crypto.
#[derive(Default)]
pub(super) struct Wait {
    pub(super) way: Way,
    pub(super) verdicts: Verdicts,
    /// Lanes that need no decryption.
    pub(super) known: Set,
    /// Lanes whose SA was gone when crypto came to them.
    pub(super) lost: Set,
    /// What is to be lent.
    pub(super) loan: Option<Parcel>,
    done: bool,
}

impl Wait {
    /// For these lanes of a flight.
    pub(super) fn lent(asked: Set, way: Way, mut loan: Parcel) -> Self {
        loan.way = way;
        let verdicts = Verdicts {
            asked,
            ..Verdicts::default()
        };
        Self {
            way,
            verdicts,
            loan: Some(loan),
            ..Self::default()
        }
    }

    /// Beside these lanes, which need no decryption.
    pub(super) fn with(mut self, known: Set) -> Self {
        self.known = known;
        self
    }

    /// For those in front only.
    pub(super) fn behind(way: Way, verdicts: Verdicts) -> Self {
        Self {
            way,
            verdicts,
            ..Self::default()
        }
    }
}

/// The flights that wait.
pub(super) struct Line {
    lender: Option<Lender>,
    /// This turn lends; what it has seen makes the next one lend.
    lending: bool,
    wanted: bool,
    /// There is more to do than the worker can.
    pressed: bool,
    /// Looks for loans since one returned.
    looks: u32,
    /// Full bursts that nothing is lent of, and how many it will be the next time.
    rest: u32,
    next_rest: u32,
    /// Loans that have returned since that changed.
    returns: u32,
    /// Their slots, in order.
    order: VecDeque<usize>,
    /// By slot.
    waits: [Wait; FLIGHTS],
    /// Slots that no flight waits in, one bit each.
    free: u32,
}

impl Line {
    pub(super) fn new(lender: Option<Lender>) -> Self {
        let slots = if lender.is_some() { FLIGHTS } else { 1 };
        Self {
            lender,
            lending: false,
            wanted: false,
            pressed: false,
            looks: 0,
            rest: 0,
            next_rest: REST_BURSTS.0,
            returns: 0,
            order: VecDeque::with_capacity(FLIGHTS),
            waits: Default::default(),
            free: (1 << slots) - 1,
        }
    }

    /// Begins a turn. It lends if the one before had a full burst of long packets: one that does not costs no more
    /// than without crypto workers.
    #[inline(always)]
    pub(super) const fn begin_turn(&mut self) {
        self.lending = self.wanted && self.lender.is_some();
        self.wanted = false;
    }

    /// Lends in this turn, whatever was before.
    #[cfg(test)]
    pub(super) const fn lend_now(&mut self) {
        self.lending = self.lender.is_some();
    }

    /// Whether this turn lends.
    #[inline(always)]
    pub(super) const fn is_lending(&self) -> bool {
        self.lending
    }

    /// A burst that was full has another one behind it. `bytes` are those of all its packets.
    #[inline(always)]
    pub(super) const fn press(&mut self, burst: usize, bytes: u64) {
        let full = burst == BATCH_SIZE;
        self.wanted |= full && bytes >= LEND_BURST_BYTES;
        self.pressed = self.lending && full && self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
    }

    /// Waits for a moment. A crypto worker that is waited for too long gets nothing for a while.
    pub(super) fn wait(&mut self) {
        self.looks = self.looks.saturating_add(1);
        if self.looks > PATIENCE && self.rest == 0 {
            self.rest = self.next_rest;
            self.next_rest = (2 * self.next_rest).min(REST_BURSTS.1);
            self.returns = 0;
        }
        std::hint::spin_loop();
    }

    fn returned_in_time(&mut self) {
        self.looks = 0;
        self.returns += 1;
        if self.returns == RETURNS {
            self.next_rest = (self.next_rest / 2).max(REST_BURSTS.0);
            self.returns = 0;
        }
    }

    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// No flight could board.
    pub(super) const fn is_full(&self) -> bool {
        self.free == 0
    }

    /// Where the next flight boards.
    #[inline(always)]
    pub(super) const fn slot(&self) -> usize {
        self.free.trailing_zeros() as usize
    }

    /// A loan for the lanes of a set, if it should be lent.
    #[inline(always)]
    pub(super) fn loan(&mut self, flight: &Flight<'_>, set: Set) -> Option<Parcel> {
        if !self.pressed {
            return None;
        }
        let lender = self.lender.as_mut().filter(|lender| lender.has_room())?;
        let lanes = set.filter_map(|number| flight.lanes.get(number));
        let bytes: usize = lanes.map(|lane| lane.packet.bytes().len()).sum();
        (bytes >= LEND_BYTES).then(|| lender.blank())
    }

    /// Puts a flight at the end, and lends what is to be lent of it. Gives the number of packets lent.
    #[inline(never)]
    pub(super) fn push(
        &mut self,
        slot: usize,
        mut wait: Wait,
        view: &View<'_>,
        flights: &mut [Flight<'_>],
    ) -> u64 {
        let loan = wait.loan.take();
        self.free &= !(1 << slot);
        self.order.push_back(slot);
        wait.done = loan.is_none();
        if let Some(place) = self.waits.get_mut(slot) {
            *place = wait;
        }
        let (Some(mut loan), Some(lender)) = (loan, &mut self.lender) else {
            return 0;
        };
        loan.slot = slot;
        let packets = loan.items.len() as u64;
        if let Err(mut loan) = lender.lend(loan) {
            loan.work(view.tables, view.turn);
            self.join(flights, loan);
            return 0;
        }
        packets
    }

    /// Joins what has returned with what was kept of it.
    #[inline]
    pub(super) fn collect(&mut self, flights: &mut [Flight<'_>]) {
        while let Some(loan) = self.lender.as_mut().and_then(Lender::returned) {
            self.returned_in_time();
            self.join(flights, loan);
        }
    }

    /// Does what is lent longest and not begun with. Gives the number of packets.
    pub(super) fn take_back(&mut self, view: &View<'_>, flights: &mut [Flight<'_>]) -> u64 {
        let Some(mut loan) = self.lender.as_mut().and_then(Lender::take_back) else {
            return 0;
        };
        let packets = loan.items.len() as u64;
        loan.work(view.tables, view.turn);
        self.join(flights, loan);
        packets
    }

    fn join(&mut self, flights: &mut [Flight<'_>], mut loan: Parcel) {
        let (Some(flight), Some(wait)) =
            (flights.get_mut(loan.slot), self.waits.get_mut(loan.slot))
        else {
            return;
        };
        let (mut found, mut good) = (Set::default(), Set::default());
        for (at, (number, item)) in wait.verdicts.asked.zip(loan.items.drain(..)).enumerate() {
            if loan.found >> at & 1 != 0 {
                found.insert(number);
            }
            if loan.good >> at & 1 != 0 {
                good.insert(number);
            }
            // Decapsulation reads the inner header and the trailer; of what was sealed nobody reads any.
            if loan.way == Way::Open {
                item.frame.prefetch_data(0, HEADER_LINES);
                if let Some(end) = item.frame.get(usize::from(item.data.1) - ICV_ROOM..) {
                    prefetch(end);
                }
            }
            if let Some(lane) = flight.lanes.get_mut(number) {
                lane.packet.give_back(item.frame);
            }
        }
        wait.lost = wait.verdicts.asked.without(found);
        (wait.verdicts.asked, wait.verdicts.good) = (found, good);
        wait.done = true;
        if let Some(lender) = &mut self.lender {
            lender.keep(loan);
        }
    }

    /// The flight in front, if its crypto is done. It keeps its slot.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(usize, Wait)> {
        let slot = *self.order.front()?;
        let wait = self.waits.get_mut(slot).filter(|wait| wait.done)?;
        self.order.pop_front();
        Some((slot, std::mem::take(wait)))
    }

    /// The slot is free again.
    #[inline]
    pub(super) const fn release(&mut self, slot: usize) {
        self.free |= 1 << slot;
    }
}

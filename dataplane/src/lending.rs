//! Crypto that a worker has more of than it can do, lent to crypto workers.
//!
//! A worker puts packets into a [`Loan`] once all that comes before crypto is done with them: a crypto
//! worker needs the frame, the SA's number and the sequence number, and nothing else. Taking a loan out
//! of its channel is the claim to it, for a crypto worker as for the worker itself, which takes back
//! what nobody has begun. Every loan returns, and the worker ends no turn before.
//!
//! A crypto worker finds SAs by itself, within a turn of its own. The worker's turn goes on meanwhile, so
//! the number leads to the very SA that the packet was made ready for, or to none: a slot is used again
//! only when that turn is over. So no sequence number ever meets another key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::id::SaId;
use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender, bounded};
use crypto::Op;
use dpdk::{BATCH_SIZE, Mbuf};
use esp::IV_BYTES;

use crate::idle::Idle;
use crate::quiescence::Turn;
use crate::tables::Tables;
use crate::tables::sad::Sa;

/// Loans of one worker at once, for each crypto worker: one is worked on, and there is always a next.
const LOANS: usize = 3;
/// Packets that crypto has at once, while the payload of as many more is on its way from the other core.
const GROUP: usize = 1;
/// Looks for a loan that are one empty turn of a crypto worker, so that it stays awake while a worker
/// that has ended a turn begins the next one.
const LOOKS: usize = 16;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

// A bit for each packet of a loan.
const _: () = assert!(BATCH_SIZE == u64::BITS as usize);

/// What crypto does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Encrypts.
    #[default]
    Seal,
    /// Decrypts.
    Open,
}

/// A packet that is ready for crypto.
#[derive(Debug)]
pub struct Item {
    /// From its Ethernet header on.
    pub frame: Mbuf,
    /// Its SA.
    pub sa: SaId,
    /// Its full sequence number.
    pub sequence: u64,
    /// Where payload and ICV stand in the frame: behind the IV.
    pub data: (u16, u16),
}

impl Item {
    fn op<'a>(&'a mut self, sa: &'a Sa) -> Option<Op<'a>> {
        let (start, end) = (usize::from(self.data.0), usize::from(self.data.1));
        let frame = self.frame.data_mut().get_mut(..end)?;
        let (clear, data) = frame.split_at_mut_checked(start)?;
        let iv: [u8; IV_BYTES] = *clear.last_chunk()?;
        let aad = esp::aad(sa.spi, self.sequence, sa.esn());
        Op::new(&sa.key, iv, aad, data).ok()
    }

    /// Asks for all that crypto will write, which another core has.
    #[inline(always)]
    fn announce(&self) {
        let lines = usize::from(self.data.1).div_ceil(LINE_BYTES);
        self.frame.prefetch_data_to_write(0, lines);
    }
}

/// Packets on their way to crypto and back, in order.
#[derive(Debug, Default)]
pub struct Loan {
    /// Where the worker keeps what it knows of them.
    pub slot: usize,
    /// What is to be done.
    pub way: Way,
    /// The packets.
    pub items: ArrayVec<Item, BATCH_SIZE>,
    /// A bit for each packet whose SA was there.
    pub found: u64,
    /// A bit for each packet that crypto has done.
    pub good: u64,
}

/// A loan on its way: a pointer.
pub type Parcel = Box<Loan>;

impl Loan {
    /// Does the crypto.
    pub fn work(&mut self, tables: &Tables, turn: &Turn<'_>) {
        (self.found, self.good) = (0, 0);
        for item in &self.items {
            item.frame.prefetch();
        }
        let (mut rest, mut last, mut first) = (&mut self.items[..], None, 0);
        while !rest.is_empty() {
            let (group, behind) = rest.split_at_mut(GROUP.min(rest.len()));
            for item in behind.iter().take(GROUP) {
                item.announce();
            }
            let mut ops: ArrayVec<Op<'_>, GROUP> = ArrayVec::new();
            let mut bits: ArrayVec<u64, GROUP> = ArrayVec::new();
            for (number, item) in group.iter_mut().enumerate() {
                let known = last.filter(|sa: &&Sa| sa.id == item.sa);
                last = known.or_else(|| tables.sad.get(item.sa, turn));
                ops.extend(last.and_then(|sa| item.op(sa)));
                if ops.len() > bits.len() {
                    bits.push(1 << (first + number));
                }
            }
            match self.way {
                Way::Seal => crypto::seal(&mut ops),
                Way::Open => crypto::open(&mut ops),
            }
            for (op, bit) in ops.iter().zip(bits) {
                self.found |= bit;
                self.good |= if op.ok() { bit } else { 0 };
            }
            (rest, first) = (behind, first + GROUP);
        }
    }
}

/// A worker's end.
pub struct Lender {
    loans: Sender<Parcel>,
    /// The same channel's other end: what nobody has claimed.
    unclaimed: Receiver<Parcel>,
    returned: Receiver<Parcel>,
    spare: Vec<Parcel>,
    /// Loans that have not returned, and how many there may be.
    out: usize,
    most: usize,
}

impl Lender {
    /// Whether there may be one more loan.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.out < self.most
    }

    /// An empty loan. One that returns as it is has no packet that may be sent.
    #[must_use]
    pub fn blank(&mut self) -> Parcel {
        let mut loan = self.spare.pop().unwrap_or_default();
        (loan.found, loan.good) = (0, 0);
        loan
    }

    /// Lends. Gives the loan back if there is no room, or nobody to lend to any more.
    ///
    /// # Errors
    /// The loan itself.
    pub fn lend(&mut self, loan: Parcel) -> Result<(), Parcel> {
        self.loans
            .try_send(loan)
            .map_err(crossbeam_channel::TrySendError::into_inner)?;
        self.out += 1;
        Ok(())
    }

    /// A loan that crypto is done with.
    #[inline]
    #[must_use]
    pub fn returned(&mut self) -> Option<Parcel> {
        if self.out == 0 {
            return None;
        }
        let loan = self.returned.try_recv().ok()?;
        self.out -= 1;
        Some(loan)
    }

    /// The oldest loan that nobody has begun with.
    #[must_use]
    pub fn take_back(&mut self) -> Option<Parcel> {
        let loan = self.unclaimed.try_recv().ok()?;
        self.out -= 1;
        Some(loan)
    }

    /// Keeps an empty loan for the next one.
    pub fn keep(&mut self, loan: Parcel) {
        self.spare.push(loan);
    }
}

/// A crypto worker's ends: one a worker.
#[derive(Default)]
pub struct Borrower {
    lenders: Vec<(Receiver<Parcel>, Sender<Parcel>)>,
    next: usize,
}

/// A claimed loan. It goes back whatever happens.
pub struct Claimed<'a> {
    loan: Option<Parcel>,
    returns: &'a Sender<Parcel>,
}

impl Claimed<'_> {
    /// Does its crypto, in a turn of the thread with this number.
    pub fn work(mut self, tables: &Tables, index: usize) {
        if let Some(loan) = &mut self.loan
            && let Some(turn) = tables.quiescence.enter(index)
        {
            loan.work(tables, &turn);
        }
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            // There is room for as many as there are. Without its worker, nobody misses it.
            let _ = self.returns.try_send(loan);
        }
    }
}

impl Borrower {
    /// Claims the oldest loan of a worker; workers have their turns.
    pub fn claim(&mut self) -> Option<Claimed<'_>> {
        for _ in 0..self.lenders.len() {
            self.next = (self.next + 1) % self.lenders.len();
            let (loans, returns) = self.lenders.get(self.next)?;
            if let Ok(loan) = loans.try_recv() {
                let loan = Some(loan);
                return Some(Claimed { loan, returns });
            }
        }
        None
    }
}

/// All ends between so many workers and crypto workers; nothing without crypto workers.
#[must_use]
pub fn connect(workers: usize, crypto_workers: usize) -> (Vec<Lender>, Vec<Borrower>) {
    let mut borrowers: Vec<_> = (0..crypto_workers).map(|_| Borrower::default()).collect();
    let most = LOANS * crypto_workers;
    let mut lender = |_| {
        let (loans, unclaimed) = bounded(most);
        let (returns, returned) = bounded(most);
        for borrower in &mut borrowers {
            borrower.lenders.push((unclaimed.clone(), returns.clone()));
        }
        Lender {
            loans,
            unclaimed,
            returned,
            spare: Vec::new(),
            out: 0,
            most,
        }
    };
    let lenders = (0..if most > 0 { workers } else { 0 })
        .map(&mut lender)
        .collect();
    (lenders, borrowers)
}

/// How much of its time a crypto worker works, for whoever wants to know.
#[derive(Debug, Default)]
pub struct BusyTime {
    all_ns: AtomicU64,
    busy_ns: AtomicU64,
}

impl BusyTime {
    fn add(&self, time: Duration, worked: bool) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.all_ns.fetch_add(ns, Ordering::Relaxed);
        if worked {
            self.busy_ns.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// Nanoseconds with work, and all since it started.
    #[must_use]
    pub fn ns(&self) -> (u64, u64) {
        let busy = self.busy_ns.load(Ordering::Relaxed);
        (busy, self.all_ns.load(Ordering::Relaxed))
    }
}

/// A thread that does nothing but crypto.
pub struct CryptoWorker {
    /// Among those that the tables know: behind all workers.
    pub index: usize,
    /// Where SAs are.
    pub tables: Arc<Tables>,
    /// Its ends of the channels.
    pub borrower: Borrower,
    /// Longest sleep in microseconds; 0 polls without end.
    pub max_latency_us: u32,
    /// What it says of itself.
    pub time: Arc<BusyTime>,
}

impl CryptoWorker {
    /// Works until told to stop, which workers must have been before: they wait for what they lent.
    pub fn run(mut self, stop: &AtomicBool) {
        let (mut idle, mut last) = (Idle::new(self.max_latency_us), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            let worked = (0..LOOKS).any(|_| self.help());
            if worked {
                idle.busy();
            } else {
                idle.wait();
            }
            let now = Instant::now();
            self.time.add(now - last, worked);
            last = now;
        }
    }

    /// Does the crypto of a loan. False if nothing is lent.
    fn help(&mut self) -> bool {
        let Some(claimed) = self.borrower.claim() else {
            std::hint::spin_loop();
            return false;
        };
        claimed.work(&self.tables, self.index);
        true
    }
}

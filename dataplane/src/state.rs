//! The state region as workers and the control thread use it: rows of SAs, windows, counters.

use std::sync::Arc;
use std::time::Duration;

use api::counters::{Counts, Totals};
use api::record::{Direction, Sa, Status};
use api::state::{Adopted, Elders, Flags, KeyName, NewRow, SaRow, StateView, States};
use api::window::{WindowSlot, Windows};
use esp::replay::Window;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::memory::{self, READY_SLOTS};

/// How often, and how far apart, a row that a worker is writing is looked at: 20 ms in all.
const SETTLE_TRIES: u32 = 40;
const SETTLE_PAUSE: Duration = Duration::from_micros(500);

/// Words of the region that have memory before they are used, once somebody had the time to take
/// it: 96 MiB, which is rows and windows of 4,096 packets for [`READY_SLOTS`].
const READY_WORDS: usize = READY_SLOTS as usize * (16 + 32);
/// Words taken at once: a millisecond.
const POPULATE_WORDS: usize = 1 << 16;

/// Milliseconds since the machine started: a clock that all processes share, so that times in the
/// region mean the same after a restart.
#[must_use]
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(millis)
}

/// The region, shared by all threads. Every row has one writer: its worker.
pub struct State {
    states: States,
    view: StateView,
}

impl State {
    /// Of the region that the dataplane's side of the contract made.
    #[must_use]
    pub fn new(states: States) -> Self {
        let view = states.view();
        Self { states, view }
    }

    /// A row by its number.
    #[inline(always)]
    #[must_use]
    pub fn row(&self, row: u32) -> Option<SaRow<'_>> {
        self.states.row(row)
    }

    /// An SA's replay window; `None` if the memory is not what it should be.
    #[inline(always)]
    #[must_use]
    pub fn window<'a>(
        &'a self,
        row: SaRow<'a>,
        slot: Option<WindowSlot>,
        window_bits: u32,
    ) -> Option<Window<'a>> {
        let words = slot
            .map(|slot| self.states.window(slot))
            .unwrap_or_default();
        Window::new(words, row.newest(), window_bits).ok()
    }

    /// Makes one owner's counters visible: workers by number, the control thread behind them.
    pub fn publish(&self, owner: usize, counts: &Counts) {
        // An owner that the region has no room for is none of ours.
        let _ = u32::try_from(owner).map(|owner| self.states.publish(owner, counts));
    }

    /// The counters of all owners as last published.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.view.totals()
    }

    /// The counters of one owner; zeros for one that does not exist.
    #[must_use]
    pub fn totals_of(&self, owner: usize) -> Totals {
        self.view
            .totals_of(u32::try_from(owner).unwrap_or(u32::MAX))
    }

    /// Seconds since a time that a row says; 0 for one in the future, `None` for never.
    #[must_use]
    pub fn idle_s(&self, last_used_ms: u64) -> Option<u64> {
        (last_used_ms != 0).then(|| now_ms().saturating_sub(last_used_ms) / 1000)
    }
}

/// Tells keys apart without giving one away: 64 bits of a hash of the key and what it is for.
#[must_use]
pub fn fingerprint(sa: &Sa) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"culvert sa");
    hash.update(sa.spi.to_be_bytes());
    hash.update([
        u8::from(sa.direction == Direction::Inbound),
        u8::from(sa.esn),
    ]);
    hash.update(sa.algorithm.transform_id().to_be_bytes());
    hash.update(sa.key.as_bytes());
    let mut digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    digest.zeroize();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Gives rows to SAs and takes them back. Lives in the control thread.
pub struct Rows {
    state: Arc<State>,
    windows: Windows,
    elders: Elders,
    /// Words of the region that have memory.
    ready_words: usize,
}

impl Rows {
    /// All rows of the region.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        let windows = Windows::new(&state.states);
        Self {
            state,
            windows,
            elders: Elders::default(),
            ready_words: 0,
        }
    }

    /// Asks for what installing an SA reads of its row.
    pub fn prefetch(&self, row: u32) {
        if let Some(row) = self.state.row(row) {
            memory::prefetch(row.newest());
        }
    }

    /// Takes memory for rows and windows that will be used, some more with every call; false when
    /// there is enough.
    pub fn take_memory(&mut self) -> bool {
        let words = &self.state.states;
        let (from, end) = (self.ready_words, self.ready_words + POPULATE_WORDS);
        if from >= READY_WORDS || !words.touch(from..end.min(READY_WORDS)) {
            return false;
        }
        self.ready_words = end;
        true
    }

    /// The regions of dead dataplanes, from which rows may be adopted.
    pub fn set_elders(&mut self, elders: Elders) {
        self.elders = elders;
    }

    /// Fills the row for an SA that no worker knows yet: anew, or with what a dead dataplane knew.
    /// Gives the SA's window.
    ///
    /// # Errors
    /// [`Status::Full`] when window memory is used up, [`Status::Uncertain`] when the key was used
    /// and how far is not known for certain: then nothing is installed.
    pub fn claim(&mut self, sa: &Sa, row: u32) -> Result<Option<WindowSlot>, Status> {
        let fingerprint = fingerprint(sa);
        let adopted = sa
            .adopt
            .then(|| self.adopted(sa, fingerprint))
            .transpose()?;
        let state = Arc::clone(&self.state);
        let target = state.row(row).ok_or(Status::Full)?;
        let window = match sa.window_bits {
            0 => None,
            bits => Some(
                self.windows
                    .allocate(&state.states, bits)
                    .ok_or(Status::Full)?,
            ),
        };
        let new = NewRow {
            id: sa.id,
            spi: sa.spi,
            direction: sa.direction,
            esn: sa.esn,
            fingerprint,
            sequence: sa.start_sequence,
            // What came before the start of an SA that goes on is not known: none of it may come again.
            newest_bits: if sa.start_sequence > 0 { u64::MAX } else { 0 },
            window,
        };
        match adopted {
            None => {
                self.close_below(sa.start_sequence, window);
                target.install(&new);
            }
            Some(adopted) => {
                self.copy_window(&adopted, window)?;
                target.install_adopted(&new, &adopted.row);
            }
        }
        Ok(window)
    }

    fn adopted(&self, sa: &Sa, fingerprint: u64) -> Result<Adopted, Status> {
        let name = KeyName {
            id: sa.id,
            spi: sa.spi,
            direction: sa.direction,
            fingerprint,
        };
        let adopted = self.elders.find(&name).map_err(|_| Status::Uncertain)?;
        // A window of another size would have to be translated; the key is better changed.
        let words = esp::replay::words_for(sa.window_bits);
        if adopted.window.len() == words {
            Ok(adopted)
        } else {
            Err(Status::Uncertain)
        }
    }

    /// The same for the rest of the window.
    fn close_below(&self, start_sequence: u64, window: Option<WindowSlot>) {
        let Some(slot) = window.filter(|_| start_sequence > 0) else {
            return;
        };
        for word in self.state.states.window(slot) {
            word.store(u64::MAX, api::sync::Ordering::Relaxed);
        }
    }

    fn copy_window(&mut self, from: &Adopted, to: Option<WindowSlot>) -> Result<(), Status> {
        let Some(slot) = to else { return Ok(()) };
        let words = self.state.states.window(slot);
        if words.len() != from.window.len() {
            self.windows.release(slot);
            return Err(Status::Uncertain);
        }
        for (to, from) in words.iter().zip(&from.window) {
            to.store(*from, api::sync::Ordering::Relaxed);
        }
        Ok(())
    }

    /// True when the living row has this key, and its numbers are certain.
    #[must_use]
    pub fn holds(&self, sa: &Sa, row: u32) -> bool {
        self.state.row(row).is_some_and(|row| {
            row.is_used()
                && row.identity() == (sa.spi, sa.id)
                && row.fingerprint() == fingerprint(sa)
                && settles(row)
        })
    }

    /// Clears flags of a living row.
    pub fn lower(&self, row: u32, flags: Flags) {
        if let Some(row) = self.state.row(row) {
            row.lower(flags);
        }
    }

    /// Frees the row of a deleted SA; no worker knows it any more.
    pub fn release(&mut self, row: u32, window: Option<WindowSlot>) {
        if let Some(row) = self.state.row(row) {
            row.retire();
        }
        if let Some(slot) = window {
            self.windows.release(slot);
        }
    }
}

/// True when the row is certain, or becomes so: a worker of this process that is in the middle of a
/// change ends it, at the latest when it is scheduled again.
fn settles(row: SaRow<'_>) -> bool {
    for _ in 0..SETTLE_TRIES {
        if row.is_certain() {
            return true;
        }
        std::thread::sleep(SETTLE_PAUSE);
    }
    row.is_certain()
}

/// Sets a flag; true if it was not set before.
pub(crate) fn raise(row: SaRow<'_>, flag: Flags) -> bool {
    row.flags() != row.flags().with(flag) && row.raise(flag)
}

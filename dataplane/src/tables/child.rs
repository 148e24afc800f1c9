//! Paths and Children: what stands between a policy and an SA (RFC 4301 4.4.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::id::{ChildId, PathId};
use api::record;
use arc_swap::ArcSwap;

/// Pause between two acquires of one child, in milliseconds.
const ACQUIRE_PAUSE_MS: u64 = 1000;

/// A path whose addresses can change under the SAs that use it (RFC 4555).
#[derive(Debug)]
pub struct PathSlot {
    /// Its number.
    pub id: PathId,
    current: ArcSwap<record::Path>,
}

impl PathSlot {
    pub(super) fn new(path: record::Path) -> Self {
        Self {
            id: path.id,
            current: ArcSwap::from_pointee(path),
        }
    }

    /// The path as it is now.
    #[must_use]
    pub fn load(&self) -> Arc<record::Path> {
        self.current.load_full()
    }

    pub(super) fn store(&self, path: record::Path) {
        self.current.store(Arc::new(path));
    }
}

/// What of a child may change while SAs use it.
#[derive(Debug)]
pub struct ChildSettings {
    /// As the control plane gave it.
    pub record: record::Child,
    /// Its path.
    pub path: Arc<PathSlot>,
}

/// A child: the policies that name it stay as they are while its SAs come and go.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub id: ChildId,
    /// A small number of its own for dense tables; another child has it only when no worker can
    /// see policies that name this one.
    pub slot: u32,
    settings: ArcSwap<ChildSettings>,
    /// Time of the last acquire plus one; 0 before the first.
    acquired_ms: AtomicU64,
}

impl Child {
    pub(super) fn new(record: record::Child, path: Arc<PathSlot>, slot: u32) -> Self {
        Self {
            id: record.id,
            slot,
            settings: ArcSwap::from_pointee(ChildSettings { record, path }),
            acquired_ms: AtomicU64::new(0),
        }
    }

    /// The child as it is now.
    #[must_use]
    pub fn settings(&self) -> Arc<ChildSettings> {
        self.settings.load_full()
    }

    /// True when an acquire may be sent now, and counts it as sent.
    #[must_use]
    pub fn may_acquire(&self, now_ms: u64) -> bool {
        let last = self.acquired_ms.load(Ordering::Relaxed);
        let due = last == 0 || now_ms.saturating_sub(last - 1) >= ACQUIRE_PAUSE_MS;
        let now = now_ms.saturating_add(1);
        let order = Ordering::Relaxed;
        due && self
            .acquired_ms
            .compare_exchange(last, now, order, order)
            .is_ok()
    }

    pub(super) fn update(&self, record: record::Child, path: Arc<PathSlot>) {
        self.settings
            .store(Arc::new(ChildSettings { record, path }));
    }
}

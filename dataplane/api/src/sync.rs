//! Atomics, so that loom can put its own in their place.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// Keeps the compiler from moving later stores before earlier ones. A process that is killed stops
/// between two instructions, so program order is what a survivor sees.
#[inline]
pub(crate) fn keep_program_order() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

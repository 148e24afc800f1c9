//! Threads that own queues, and the time-stamp counter.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use dpdk_sys::inline::LCORE_NONE;
use dpdk_sys::rte_thread_unregister;
use dpdk_sys::{RTE_MAX_LCORE, dpdk_lcore_id, rte_get_tsc_hz, rte_thread_register};

use crate::{Errno, eal};

thread_local! {
    /// The id under which this thread is registered; it owns the cache of that id in each pool.
    static LCORE: Cell<u32> = const { Cell::new(LCORE_NONE) };
}

/// The id of the calling thread, or [`LCORE_NONE`].
#[inline(always)]
pub(crate) fn lcore() -> u32 {
    LCORE.get()
}

/// Reads the id that DPDK gave the calling thread.
pub(crate) fn adopt_lcore() {
    // SAFETY: reads a thread-local integer.
    LCORE.set(unsafe { dpdk_lcore_id() });
}

/// Gives the calling thread a cache in every pool until dropped, on that same thread.
#[derive(Debug)]
pub struct Registration(PhantomData<*const ()>);

/// Why a thread cannot be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationError {
    /// [`crate::Eal::init`] has not succeeded yet.
    NoEal,
    /// This thread is registered (the one that initialised the EAL always is).
    Already,
    /// All ids are taken, or memory is short.
    Refused(Errno),
}

impl fmt::Display for RegistrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEal => f.write_str("thread registered before the EAL was initialised"),
            Self::Already => f.write_str("thread is registered already"),
            Self::Refused(errno) => {
                write!(
                    f,
                    "thread not registered (at most {RTE_MAX_LCORE}): {errno}"
                )
            }
        }
    }
}

impl std::error::Error for RegistrationError {}

impl Registration {
    /// Registers the calling thread. Set its affinity before: DPDK reads it here.
    ///
    /// # Errors
    /// Without an EAL, twice on one thread, or when more than 128 threads are registered.
    pub fn new() -> Result<Self, RegistrationError> {
        if !eal::is_initialised() {
            return Err(RegistrationError::NoEal);
        }
        if lcore() != LCORE_NONE {
            return Err(RegistrationError::Already);
        }
        // SAFETY: the EAL is up and this thread has no id yet.
        if unsafe { rte_thread_register() } < 0 {
            return Err(RegistrationError::Refused(Errno::last()));
        }
        adopt_lcore();
        Ok(Self(PhantomData))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        LCORE.set(LCORE_NONE);
        // SAFETY: the type is not `Send`, so this is the thread that registered.
        unsafe { rte_thread_unregister() };
    }
}

/// The time-stamp counter: monotonic, [`tsc_hz`] ticks a second.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time-stamp counter: monotonic, [`tsc_hz`] ticks a second.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { dpdk_sys::dpdk_tsc() }
}

/// Ticks a second of [`tsc`]; 0 before the EAL is initialised.
#[must_use]
pub fn tsc_hz() -> u64 {
    // SAFETY: reads a number that the EAL measured.
    unsafe { rte_get_tsc_hz() }
}

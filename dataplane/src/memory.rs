//! Memory that a worker will need soon: the one file of this crate with `unsafe`.

/// Asks the CPU to fetch the first cache line of `target` into every cache level. A hint: it
/// changes nothing but the time of the next access.
#[inline(always)]
pub fn prefetch<T>(target: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads and writes nothing, and the address is one of a live object.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(target).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}

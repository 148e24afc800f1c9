//! C status codes as a type.

use std::ffi::CStr;
use std::fmt;

use dpdk_sys::{dpdk_errno, rte_strerror};

/// A positive `errno` as DPDK reports it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The `rte_errno` of the calling thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { dpdk_errno() })
    }

    /// A status as most calls return it: negative is an error, the rest a value.
    pub(crate) fn check(status: i32) -> Result<u32, Self> {
        u32::try_from(status).map_err(|_| Self(status.saturating_neg()))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// `EPERM`, but also the bare -1 that many drivers return for anything.
        const UNSPECIFIC: i32 = 1;
        if self.0 == UNSPECIFIC {
            return f.write_str("refused");
        }
        // SAFETY: takes any number.
        let text = unsafe { rte_strerror(self.0) };
        // SAFETY: a string in a buffer of this thread, valid until the next call.
        let text = unsafe { CStr::from_ptr(text) };
        f.write_str(&text.to_string_lossy())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_status_is_an_error_with_its_text() {
        assert_eq!(Errno::check(3), Ok(3));
        assert_eq!(Errno::check(-2), Err(Errno(2)));
        assert_eq!(Errno(2).to_string(), "No such file or directory");
    }
}

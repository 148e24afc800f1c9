//! DPDK's log, through one function.

use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use dpdk_sys::{RTE_LOG_ERR, RTE_LOG_WARNING, dpdk_log_to, rte_log_set_global_level};

use crate::Errno;

/// How grave a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warning,
    Info,
}

/// Takes one message of DPDK, without a trailing newline, from any thread. It must not panic.
pub type LogSink = fn(LogLevel, &str);

static SINK: OnceLock<LogSink> = OnceLock::new();

/// Messages kept for the next error: the first names the cause, those behind it who gave up.
const RECENT_MESSAGES: usize = 4;

/// Messages since the last call that took them. DPDK's reasons are in its log, its status codes
/// say little.
static RECENT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The default sink: standard error, one line a message.
pub fn to_stderr(level: LogLevel, message: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "dpdk {level:?}: {message}");
}

/// Sends messages of level warning and above to `sink` from now on.
pub(crate) fn install(sink: LogSink) -> Result<(), Errno> {
    SINK.get_or_init(|| sink);
    // SAFETY: sets a number.
    unsafe { rte_log_set_global_level(RTE_LOG_WARNING) };
    // SAFETY: the function lives as long as the process.
    Errno::check(unsafe { dpdk_log_to(Some(receive)) }).map(|_| ())
}

/// Takes the messages logged since the previous call, for an error to quote.
pub(crate) fn take_recent() -> Option<String> {
    let recent = std::mem::take(&mut *RECENT.lock().unwrap_or_else(PoisonError::into_inner));
    (!recent.is_empty()).then(|| recent.join("; "))
}

extern "C" fn receive(level: u32, text: *const core::ffi::c_char, len: usize) {
    // SAFETY: the stream's buffer, `len` bytes, valid during the call.
    let bytes = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), len) };
    let level = match level {
        ..=RTE_LOG_ERR => LogLevel::Error,
        RTE_LOG_WARNING => LogLevel::Warning,
        _ => LogLevel::Info,
    };
    let message = String::from_utf8_lossy(bytes);
    let message = message.trim();
    if message.is_empty() {
        return;
    }
    if let Some(sink) = SINK.get() {
        sink(level, message);
    }
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if recent.len() < RECENT_MESSAGES {
        recent.push(message.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) {
        receive(RTE_LOG_ERR, text.as_ptr().cast(), text.len());
    }

    #[test]
    fn the_first_messages_are_kept_for_the_next_error() {
        assert_eq!(take_recent(), None);
        for text in ["cause\n", "  \n", "b", "c", "d", "too many"] {
            log(text);
        }
        assert_eq!(take_recent().as_deref(), Some("cause; b; c; d"));
        assert_eq!(take_recent(), None);
    }
}

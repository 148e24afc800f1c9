//! Where a command stands, on a terminal only.

use std::io::{IsTerminal, Write, stderr};

/// Overwrites the line of the terminal.
pub(crate) fn say(text: &str) {
    if stderr().is_terminal() {
        let mut stderr = stderr();
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}

/// Clears the line.
pub(crate) fn done() {
    say("");
}

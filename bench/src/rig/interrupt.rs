//! Ctrl-C ends the run that is under way in good order, so that nothing stays behind: no process,
//! no namespace, no hugepages.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM are noted; a second one ends at once.
pub(crate) fn watch() -> Result<(), Box<dyn Error>> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down.
        register_conditional_shutdown(signal, 130, Arc::clone(asked))?;
        register(signal, Arc::clone(asked))?;
    }
    Ok(())
}

/// An error once a signal has come.
pub(crate) fn check() -> Result<(), Box<dyn Error>> {
    match ASKED.get() {
        Some(asked) if asked.load(Ordering::Relaxed) => Err("interrupted".into()),
        _ => Ok(()),
    }
}

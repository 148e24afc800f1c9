//! Giving everything back to the kernel: the opposite of a start.

use std::error::Error;

use api::config::{DataplaneConfig, shared_device};

use super::lock::Lock;
use super::netlink::Netlink;
use super::nft;
use super::ports;
use super::takeover::{self, Record};

/// Puts back addresses, routes and settings, removes twins and rules. May be repeated.
///
/// # Errors
/// When a dataplane still runs, or when something cannot be put back; what was put back stays so.
pub fn release(config: &DataplaneConfig) -> Result<(), Box<dyn Error>> {
    let _lock = Lock::take(&config.run_dir)?;
    let mut netlink = Netlink::open()?;
    // Records tell of ports that the configuration may not name any more.
    for path in Record::all(&config.run_dir)? {
        let record = takeover::put_back(&mut netlink, &path)?;
        nft::release(&record.twin)?;
        log::info!(
            "{}: addresses and routes put back from {}",
            record.device,
            record.twin
        );
    }
    for port in &config.ports {
        if let Some(twin) = &port.twin {
            takeover::remove_twin(&mut netlink, twin)?;
        }
        if port.twin.is_some() || shared_device(&port.device).is_some() {
            nft::release(ports::rules_name(port))?;
        }
    }
    Ok(())
}

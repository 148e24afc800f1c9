//! Offloads of a shared device, through `ethtool`.
//!
//! Packet sockets see frames after the kernel merged them (GRO), which no port could carry on. A
//! machine without `ethtool` works as long as nothing is merged, hence only a warning.

use std::io;
use std::process::{Command, Output};

/// What is switched off, by the short names that every ethtool knows.
const OFF: [&str; 5] = ["tx", "tso", "gso", "gro", "lro"];

/// Names of all offloads that are on and can be switched.
pub(super) fn list(device: &str) -> Vec<String> {
    match ethtool(&["-k", device]) {
        Ok(output) => switched_on(&String::from_utf8_lossy(&output.stdout)),
        Err(_) => Vec::new(),
    }
}

/// Switches off what spoils frames for packet sockets.
pub(super) fn off(device: &str) {
    for name in OFF {
        match ethtool(&["-K", device, name, "off"]) {
            Ok(_) => {}
            Err(error) => {
                log::warn!(
                    "{device}: offloads stay as they are, packets that the kernel merged will be \
                     lost: cannot run ethtool: {error}"
                );
                return;
            }
        }
    }
}

/// Switches on what was on before.
pub(super) fn on(device: &str, before: &[String]) {
    let now = list(device);
    for name in before.iter().filter(|name| !now.contains(name)) {
        let answer = ethtool(&["-K", device, name, "on"]);
        if !answer.is_ok_and(|output| output.status.success()) {
            log::warn!("{device}: offload {name} could not be switched on again");
        }
    }
}

fn switched_on(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
    lines
        .filter(|(_, state)| *state == "on")
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn ethtool(arguments: &[&str]) -> io::Result<Output> {
    Command::new("ethtool").args(arguments).output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_and_not_fixed_is_kept() {
        let text = "Features for eth0:\nrx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    generic-receive-offload: off\nhighdma: on [fixed]\n\ttx-tcp-segmentation: on\n";
        assert_eq!(
            switched_on(text),
            ["rx-checksumming", "tx-tcp-segmentation"]
        );
    }
}

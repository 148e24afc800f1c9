//! Device strings: `0000:00:04.0`, `net_af_packet0,iface=eth1,qpairs=2`.

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// Drivers whose `iface` argument names a network device of Linux.
const KERNEL_DRIVERS: [&str; 4] = ["net_af_packet", "net_af_xdp", "net_tap", "net_pcap"];

/// The part of a device string before its arguments.
#[must_use]
pub fn name(device: &str) -> &str {
    device
        .split_once(',')
        .map_or(device, |(name, _)| name)
        .trim()
}

/// The value of argument `key`.
#[must_use]
pub fn argument<'a>(device: &'a str, key: &str) -> Option<&'a str> {
    device.split(',').skip(1).find_map(|argument| {
        let (name, value) = argument.split_once('=')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// Whether the device is on the PCI bus: `[domain:]bus:device.function`, in hexadecimal.
#[must_use]
pub fn is_pci(device: &str) -> bool {
    let Some((slot, function)) = name(device).rsplit_once('.') else {
        return false;
    };
    let parts: Vec<&str> = slot.split(':').collect();
    let hex = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let (domain, rest) = match parts.as_slice() {
        [domain, rest @ ..] if rest.len() == 2 => (*domain, rest),
        rest => ("0", rest),
    };
    matches!(rest, [bus, device] if hex(bus, 2) && hex(device, 2))
        && hex(domain, 8)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// The name under which DPDK lists the port of a device.
pub(crate) fn port_name(device: &str) -> String {
    let name = name(device);
    if !is_pci(name) {
        return name.to_owned();
    }
    let name = name.to_ascii_lowercase();
    if name.matches(':').count() == 1 {
        format!("0000:{name}")
    } else {
        name
    }
}

/// The network device of Linux that a software port shares or makes, if its string names one.
#[must_use]
pub fn kernel_interface(device: &str) -> Option<&str> {
    let driver = name(device).trim_end_matches(|c: char| c.is_ascii_digit());
    if KERNEL_DRIVERS.contains(&driver) {
        argument(device, "iface")
    } else {
        None
    }
}

/// The index of a network device in the network namespace of the calling thread.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses() {
        for device in ["0000:00:04.0", "03:00.1", "0000:AF:1f.7,representor=0"] {
            assert!(is_pci(device), "{device}");
        }
        for device in [
            "net_null0",
            "0000:00:04",
            "0000:00:04.8",
            "0:0:0:0.0",
            "xx:00.0",
            "",
            ".",
        ] {
            assert!(!is_pci(device), "{device}");
        }
    }

    #[test]
    fn port_names() {
        assert_eq!(port_name("AF:00.1,x=1"), "0000:af:00.1");
        assert_eq!(port_name("0000:af:00.1"), "0000:af:00.1");
        assert_eq!(port_name("net_null0,size=64"), "net_null0");
    }

    #[test]
    fn interfaces() {
        let device = "net_af_packet0,qpairs=2,iface=eth1";
        assert_eq!(kernel_interface(device), Some("eth1"));
        assert_eq!(argument(device, "qpairs"), Some("2"));
        assert_eq!(kernel_interface("net_pcap0,rx_pcap=a.pcap"), None);
        assert_eq!(kernel_interface("net_null0,iface=x"), None);
    }
}

//! Traffic selectors as swanctl.conf writes them: `subnet|range|dynamic[protocol/port]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Conversion;
use super::values::{address, family_bits, prefix};

/// Any port (RFC 7296 section 3.13.1).
pub const PORTS_ANY: (u16, u16) = (0, u16::MAX);
/// OPAQUE: only packets whose ports cannot be seen (RFC 4301 section 4.4.1.2).
pub const PORTS_OPAQUE: (u16, u16) = (u16::MAX, 0);

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const PROTOCOLS: [(&str, u8); 13] = [
    ("any", 0),
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipencap", 4),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", ICMPV6),
    ("ipv6-icmp", ICMPV6),
    ("ospf", 89),
    ("sctp", 132),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// First and last address, of one family.
    Range(IpAddr, IpAddr),
    /// The IKE endpoint's own address (or its virtual IP).
    Dynamic,
}

/// One selector of one side: addresses, protocol (0 is any) and ports as a closed range. For ICMP
/// the "port" is type in the high byte and code in the low one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    pub addresses: Addresses,
    pub protocol: u8,
    pub ports: (u16, u16),
}

/// A local and a remote selector of one family and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SelectorPair {
    pub local: (IpAddr, IpAddr),
    pub remote: (IpAddr, IpAddr),
    pub protocol: u8,
    pub local_ports: (u16, u16),
    pub remote_ports: (u16, u16),
}

/// Parses one selector.
///
/// # Errors
/// The text to show after the key's name, with an example of what is right.
pub fn traffic_selector(word: &str) -> Conversion<TrafficSelector> {
    let (addresses, protocol_port) = match word.split_once('[') {
        None => (word, ""),
        Some((addresses, rest)) => {
            let inside = rest.strip_suffix(']');
            (
                addresses,
                inside.ok_or_else(|| format!("lacks a closing ']' in \"{word}\""))?,
            )
        }
    };
    let addresses = parse_addresses(addresses.trim())?;
    let (protocol, ports) = parse_protocol_port(protocol_port)?;
    Ok(TrafficSelector {
        addresses,
        protocol,
        ports,
    })
}

/// As [`traffic_selector`], but `dynamic` is refused: there is no IKE endpoint to take it from.
pub(super) fn fixed_selector(word: &str) -> Conversion<TrafficSelector> {
    match traffic_selector(word)? {
        TrafficSelector {
            addresses: Addresses::Dynamic,
            ..
        } => Err("cannot be dynamic without IKE: write a subnet such as 10.1.0.0/24".to_owned()),
        selector => Ok(selector),
    }
}

fn parse_addresses(word: &str) -> Conversion<Addresses> {
    if word.is_empty() || word == "dynamic" {
        return Ok(Addresses::Dynamic);
    }
    if let Some((first, last)) = word.split_once('-') {
        let (first, last) = (address(first.trim())?, address(last.trim())?);
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(format!(
                "has the range \"{word}\" whose end is before its start"
            ));
        }
        return Ok(Addresses::Range(first, last));
    }
    if word.contains('/') {
        let prefix = prefix(word)?;
        let (first, last) = network(prefix.address, prefix.bits);
        return Ok(Addresses::Range(first, last));
    }
    address(word)
        .map(|host| Addresses::Range(host, host))
        .map_err(|_| {
            format!("must be a subnet such as 10.1.0.0/24, a range or dynamic, not \"{word}\"")
        })
}

/// First and last address of the network that holds `address`.
fn network(address: IpAddr, bits: u8) -> (IpAddr, IpAddr) {
    let host_bits = u32::from(family_bits(address).saturating_sub(bits));
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(32 - host_bits).unwrap_or(0);
            let first = address.to_bits() & !host;
            (
                Ipv4Addr::from_bits(first).into(),
                Ipv4Addr::from_bits(first | host).into(),
            )
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
            let first = address.to_bits() & !host;
            (
                Ipv6Addr::from_bits(first).into(),
                Ipv6Addr::from_bits(first | host).into(),
            )
        }
    }
}

fn parse_protocol_port(word: &str) -> Conversion<(u8, (u16, u16))> {
    if word.is_empty() {
        return Ok((0, PORTS_ANY));
    }
    let (protocol, port) = word.split_once('/').unwrap_or((word, "any"));
    let protocol = parse_protocol(protocol)?;
    let ports = parse_ports(port)?;
    if protocol == 0 && ports != PORTS_ANY {
        return Err(format!("names a port without a protocol in \"[{word}]\""));
    }
    // A number below 256 is an ICMP type with any code; a larger one is type << 8 | code.
    let is_type = |port: u16| matches!(protocol, ICMP | ICMPV6) && port < 256;
    if ports == PORTS_ANY || ports == PORTS_OPAQUE {
        return Ok((protocol, ports));
    }
    let first = if is_type(ports.0) {
        ports.0 << 8
    } else {
        ports.0
    };
    let last = if is_type(ports.1) {
        ports.1 << 8 | 0xff
    } else {
        ports.1
    };
    Ok((protocol, (first, last)))
}

fn parse_protocol(word: &str) -> Conversion<u8> {
    let known = PROTOCOLS
        .iter()
        .find(|(name, _)| *name == word.to_lowercase());
    known
        .map(|(_, number)| *number)
        .or_else(|| word.parse().ok())
        .ok_or_else(|| {
            format!("has the unknown protocol \"{word}\": use tcp, udp, icmp, ... or a number")
        })
}

fn parse_ports(word: &str) -> Conversion<(u16, u16)> {
    match word {
        "any" | "%any" | "" => return Ok(PORTS_ANY),
        "opaque" => return Ok(PORTS_OPAQUE),
        _ => {}
    }
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(format!(
            "must have a port, a range 1000-2000, any or opaque, not \"{word}\""
        )),
    }
}

/// Every pair of a local and a remote selector that packets can match: same family, and protocols
/// that agree (0 agrees with all). Dynamic selectors match nothing here.
#[must_use]
pub fn pairs(locals: &[TrafficSelector], remotes: &[TrafficSelector]) -> Vec<SelectorPair> {
    let mut out = Vec::new();
    for local in locals {
        out.extend(remotes.iter().filter_map(|remote| pair(local, remote)));
    }
    out
}

fn pair(local: &TrafficSelector, remote: &TrafficSelector) -> Option<SelectorPair> {
    let Addresses::Range(local_first, local_last) = local.addresses else {
        return None;
    };
    let Addresses::Range(remote_first, remote_last) = remote.addresses else {
        return None;
    };
    let agree = local.protocol == remote.protocol || local.protocol == 0 || remote.protocol == 0;
    if !agree || local_first.is_ipv4() != remote_first.is_ipv4() {
        return None;
    }
    Some(SelectorPair {
        local: (local_first, local_last),
        remote: (remote_first, remote_last),
        protocol: local.protocol.max(remote.protocol),
        local_ports: local.ports,
        remote_ports: remote.ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(word: &str) -> (String, String) {
        match traffic_selector(word).unwrap().addresses {
            Addresses::Range(first, last) => (first.to_string(), last.to_string()),
            Addresses::Dynamic => ("dynamic".to_owned(), String::new()),
        }
    }

    #[test]
    fn addresses_become_closed_ranges() {
        let cases = [
            ("10.1.0.0/24", "10.1.0.0", "10.1.0.255"),
            ("10.1.0.77/24", "10.1.0.0", "10.1.0.255"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("10.1.0.1/32", "10.1.0.1", "10.1.0.1"),
            ("10.1.0.1", "10.1.0.1", "10.1.0.1"),
            ("10.1.0.5-10.1.0.9", "10.1.0.5", "10.1.0.9"),
            ("fd00:1::/64", "fd00:1::", "fd00:1::ffff:ffff:ffff:ffff"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("dynamic", "dynamic", ""),
        ];
        for (word, first, last) in cases {
            assert_eq!(range(word), (first.to_owned(), last.to_owned()), "{word}");
        }
    }

    #[test]
    fn protocol_and_port_are_read() {
        let cases = [
            ("10.0.0.0/8[tcp]", 6, PORTS_ANY),
            ("10.0.0.0/8[udp/7000]", 17, (7000, 7000)),
            ("10.0.0.0/8[17/1000-2000]", 17, (1000, 2000)),
            ("dynamic[gre]", 47, PORTS_ANY),
            ("10.0.0.0/8[tcp/opaque]", 6, PORTS_OPAQUE),
            ("10.0.0.0/8[icmp/8]", 1, (0x0800, 0x08ff)),
            ("10.0.0.0/8[icmp/769]", 1, (0x0301, 0x0301)),
        ];
        for (word, protocol, ports) in cases {
            let selector = traffic_selector(word).unwrap();
            assert_eq!(
                (selector.protocol, selector.ports),
                (protocol, ports),
                "{word}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let words = [
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-fd00::1",
            "ten",
            "10.0.0.0/8[tcp",
            "10.0.0.0/8[any/5]",
            "10.0.0.0/8[warp]",
            "10.0.0.0/8[tcp/9-5]",
        ];
        for word in words {
            assert!(traffic_selector(word).is_err(), "{word}");
        }
    }

    #[test]
    fn only_pairs_that_packets_can_match_are_made() {
        let parse = |words: &[&str]| -> Vec<_> {
            words
                .iter()
                .map(|word| traffic_selector(word).unwrap())
                .collect()
        };
        let locals = parse(&["10.1.0.0/24[udp/7000]", "fd00::/64", "dynamic"]);
        let remotes = parse(&["10.2.0.0/24[udp]", "10.3.0.0/24[tcp]", "10.4.0.0/24"]);
        let pairs = pairs(&locals, &remotes);
        assert_eq!(pairs.len(), 2);
        assert!(
            pairs
                .iter()
                .all(|p| p.protocol == 17 && p.local_ports == (7000, 7000))
        );
    }
}

//! The priority of a policy that was given none: the more a selector says, the earlier it is asked.

use api::selector::{ANY_PORTS, Selector};

/// Of a selector that says nothing; lower is first.
const BASE: u32 = 100_000;
/// Added for a trap: its policies come after those of every child.
pub(crate) const TRAP: u32 = 200_000;

/// `100000 - 256 * (prefix bits of both sides, IPv4 counted as 96 more) - 2 * protocol given -
/// 1 for each side with ports`, and 200,000 more for a trap. A range that is no prefix counts the
/// bits that its ends share. At most 65,536 + 4 is subtracted, so the result is never negative.
pub(crate) fn automatic(selector: &Selector, trap: bool) -> u32 {
    let bits = |range: &api::selector::AddrRange| match (range.first, range.last) {
        (std::net::IpAddr::V4(first), std::net::IpAddr::V4(last)) => {
            96 + (first.to_bits() ^ last.to_bits()).leading_zeros()
        }
        (std::net::IpAddr::V6(first), std::net::IpAddr::V6(last)) => {
            (first.to_bits() ^ last.to_bits()).leading_zeros()
        }
        _ => 0,
    };
    let mut said = 256 * (bits(&selector.local) + bits(&selector.remote));
    said += 2 * u32::from(selector.protocol != 0);
    said += u32::from(selector.local_ports != ANY_PORTS);
    said += u32::from(selector.remote_ports != ANY_PORTS);
    BASE.saturating_sub(said) + if trap { TRAP } else { 0 }
}

#[cfg(test)]
mod tests {
    use api::selector::AddrRange;

    use super::*;

    fn selector(local: (&str, &str), protocol: u8, port: Option<u16>) -> Selector {
        let range = |(first, last): (&str, &str)| AddrRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        };
        Selector {
            local: range(local),
            remote: range(("10.2.0.0", "10.2.0.255")),
            protocol,
            local_ports: ANY_PORTS,
            remote_ports: port.map_or(ANY_PORTS, |port| (port, port)),
        }
    }

    #[test]
    fn more_specific_comes_first() {
        let net = ("10.1.0.0", "10.1.0.255");
        let order = [
            automatic(&selector(("10.1.0.1", "10.1.0.1"), 17, Some(7000)), false),
            automatic(&selector(("10.1.0.1", "10.1.0.1"), 0, None), false),
            automatic(&selector(net, 17, Some(7000)), false),
            automatic(&selector(net, 17, None), false),
            automatic(&selector(net, 0, None), false),
            automatic(&selector(("0.0.0.0", "255.255.255.255"), 0, None), false),
            automatic(&selector(("10.1.0.1", "10.1.0.1"), 17, Some(7000)), true),
        ];
        assert!(
            order.is_sorted() && order.windows(2).all(|w| w[0] != w[1]),
            "{order:?}"
        );
    }

    #[test]
    fn the_most_specific_is_still_positive() {
        let host = ("fd00::1", "fd00::1");
        let range = AddrRange::single("fd00::1".parse().unwrap());
        let mut most = selector(host, 17, Some(1));
        most.remote = range;
        assert!(automatic(&most, false) > 0);
    }
}

//! Selectors: which packets a policy is for (RFC 4301 4.4.1.1).

use core::fmt;
use core::net::IpAddr;

use crate::record::{Field, FieldError};

/// Ports 0 to 65,535: every packet matches, one without ports too.
pub const ANY_PORTS: (u16, u16) = (0, u16::MAX);
/// OPAQUE (RFC 4301 4.4.1.1): only packets whose ports cannot be seen match.
pub const OPAQUE_PORTS: (u16, u16) = (u16::MAX, 0);

/// A closed range of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddrRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl AddrRange {
    /// The range of one address.
    #[must_use]
    pub const fn single(address: IpAddr) -> Self {
        Self {
            first: address,
            last: address,
        }
    }

    /// Every address of the family of `of`.
    #[must_use]
    pub fn all(of: IpAddr) -> Self {
        match of {
            IpAddr::V4(_) => Self {
                first: [0; 4].into(),
                last: [255; 4].into(),
            },
            IpAddr::V6(_) => Self {
                first: [0; 16].into(),
                last: [255; 16].into(),
            },
        }
    }

    /// Whether the address lies in the range; one of the other family never does.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether both ends are of the same family.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    fn is_ordered(&self) -> bool {
        self.first.is_ipv4() == self.last.is_ipv4() && self.first <= self.last
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        match self.prefix_bits() {
            Some(bits) => write!(f, "{}/{bits}", self.first),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl AddrRange {
    /// The prefix length in bits when the range is exactly a prefix.
    #[must_use]
    pub fn prefix_bits(&self) -> Option<u32> {
        let (first, last, width) = match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u128::from(a.to_bits()), u128::from(b.to_bits()), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            _ => return None,
        };
        let free = first ^ last;
        let is_prefix = free & free.wrapping_add(1) == 0 && first & free == 0;
        is_prefix.then(|| width - free.count_ones())
    }
}

/// Which packets: closed ranges of addresses and ports and one protocol.
///
/// ICMP type and code stand in the ports as RFC 7296 3.13.1 puts them: type in the high byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    pub local: AddrRange,
    pub remote: AddrRange,
    /// IP protocol, 0 is any.
    pub protocol: u8,
    /// [`ANY_PORTS`], [`OPAQUE_PORTS`] or first and last.
    pub local_ports: (u16, u16),
    /// [`ANY_PORTS`], [`OPAQUE_PORTS`] or first and last.
    pub remote_ports: (u16, u16),
}

impl Selector {
    /// Whether the selector can be matched at all.
    ///
    /// # Errors
    /// Names the field: mixed families, a range that ends before it begins.
    pub fn validate(&self) -> Result<(), FieldError> {
        let family = FieldError::new(Field::SELECTOR_REMOTE, 0);
        if !self.local.is_ordered() {
            return Err(FieldError::new(Field::SELECTOR_LOCAL, 0));
        }
        if !self.remote.is_ordered() || self.local.is_ipv4() != self.remote.is_ipv4() {
            return Err(family);
        }
        ports(self.local_ports, Field::SELECTOR_LOCAL_PORTS)?;
        ports(self.remote_ports, Field::SELECTOR_REMOTE_PORTS)
    }

    /// Whether the addresses are IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.local.is_ipv4()
    }

    /// Whether a packet matches. `None` as port means that it cannot be seen: no ports in that
    /// protocol, or a fragment behind the first (RFC 4301 4.4.1.1).
    #[must_use]
    pub fn matches(
        &self,
        local: (IpAddr, Option<u16>),
        remote: (IpAddr, Option<u16>),
        protocol: u8,
    ) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && self.local.contains(local.0)
            && self.remote.contains(remote.0)
            && port_matches(self.local_ports, local.1)
            && port_matches(self.remote_ports, remote.1)
    }
}

fn ports(range: (u16, u16), field: Field) -> Result<(), FieldError> {
    if range.0 <= range.1 || range == OPAQUE_PORTS {
        return Ok(());
    }
    Err(FieldError::new(
        field,
        u64::from(range.0) << 16 | u64::from(range.1),
    ))
}

fn port_matches(range: (u16, u16), port: Option<u16>) -> bool {
    match port {
        Some(port) => range.0 <= port && port <= range.1,
        None => range == ANY_PORTS || range == OPAQUE_PORTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(first: &str, last: &str) -> AddrRange {
        AddrRange {
            first: address(first),
            last: address(last),
        }
    }

    fn selector() -> Selector {
        Selector {
            local: range("10.0.0.0", "10.0.0.255"),
            remote: range("10.1.0.7", "10.1.0.9"),
            protocol: 6,
            local_ports: ANY_PORTS,
            remote_ports: (80, 90),
        }
    }

    #[test]
    fn edges_of_ranges_match() {
        let s = selector();
        let from = (address("10.0.0.255"), Some(1));
        assert!(s.matches(from, (address("10.1.0.7"), Some(80)), 6));
        assert!(s.matches(from, (address("10.1.0.9"), Some(90)), 6));
        assert!(!s.matches(from, (address("10.1.0.9"), Some(91)), 6));
        assert!(!s.matches(from, (address("10.1.0.10"), Some(80)), 6));
        assert!(!s.matches(from, (address("10.1.0.9"), Some(80)), 17));
        assert!(!s.matches(from, (address("10.1.0.9"), None), 6));
        assert!(!s.matches(from, (address("::ffff:10.1.0.9"), Some(80)), 6));
    }

    #[test]
    fn opaque_matches_only_what_cannot_be_seen() {
        let s = Selector {
            remote_ports: OPAQUE_PORTS,
            ..selector()
        };
        let from = (address("10.0.0.1"), None);
        assert!(s.matches(from, (address("10.1.0.7"), None), 6));
        assert!(!s.matches(from, (address("10.1.0.7"), Some(80)), 6));
        assert_eq!(s.validate(), Ok(()));
    }

    #[test]
    fn faults_name_the_field() {
        let field = |s: Selector| s.validate().unwrap_err().field;
        let s = selector();
        let local = range("10.0.0.1", "10.0.0.0");
        assert_eq!(field(Selector { local, ..s }), Field::SELECTOR_LOCAL);
        let remote = range("::", "::1");
        assert_eq!(field(Selector { remote, ..s }), Field::SELECTOR_REMOTE);
        let ports = (9, 8);
        assert_eq!(
            field(Selector {
                local_ports: ports,
                ..s
            }),
            Field::SELECTOR_LOCAL_PORTS
        );
        assert_eq!(
            field(Selector {
                remote_ports: ports,
                ..s
            }),
            Field::SELECTOR_REMOTE_PORTS
        );
    }

    #[test]
    fn prefixes_are_shown_as_such() {
        assert_eq!(range("10.0.0.0", "10.0.0.255").to_string(), "10.0.0.0/24");
        assert_eq!(
            range("10.0.0.1", "10.0.0.2").to_string(),
            "10.0.0.1-10.0.0.2"
        );
        assert_eq!(range("10.0.0.1", "10.0.0.1").to_string(), "10.0.0.1");
        assert_eq!(AddrRange::all(address("::")).to_string(), "::/0");
        assert_eq!(AddrRange::all(address("0.0.0.0")).to_string(), "0.0.0.0/0");
    }
}

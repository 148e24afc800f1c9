//! What a worker knows of a port: fixed at start, one record a port.

use std::fmt;

use api::id::{Interface, Vrf};

/// Most ports of one process.
pub const MAX_PORTS: usize = 16;

/// Number of a port, 0..[`MAX_PORTS`], in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortIndex(u8);

impl PortIndex {
    /// The first port.
    pub const FIRST: Self = Self(0);

    /// The port with this number; `None` past [`MAX_PORTS`].
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index)
            .ok()
            .filter(|_| index < MAX_PORTS)
            .map(Self)
    }

    /// Position in an array of ports.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address as a number of 48 bits.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Side of the IPsec boundary that a port is on (RFC 4301 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Protected: the site's own networks.
    Inside,
    /// Unprotected: everything else.
    Outside,
}

/// One port as workers see it.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its number.
    pub index: PortIndex,
    /// Name in the configuration and name of its tap twin.
    pub name: String,
    /// Which side of the boundary it is on.
    pub side: Side,
    /// Routing instance of what arrives here.
    pub vrf: Vrf,
    /// Its number in policies; never 0, which means any.
    pub interface: Interface,
    /// Address frames leave with: the port's own, which its twin shares.
    pub mac: Mac,
    /// Largest IP packet, in bytes, without the Ethernet header.
    pub mtu_bytes: u16,
}

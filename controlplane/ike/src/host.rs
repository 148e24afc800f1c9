//! What the protocol needs from the program around it: time, randomness, SPIs.

use std::fmt;
use std::net::IpAddr;

/// Milliseconds of a clock that never goes back and counts suspension (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This time plus `ms` milliseconds, held at the end of time.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// This time plus `s` seconds.
    #[must_use]
    pub const fn after_s(self, s: u64) -> Self {
        self.after_ms(s.saturating_mul(1000))
    }

    /// Milliseconds since `earlier`, 0 if that is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

/// Services of the caller. Nothing here may block.
pub trait Host {
    /// Fills `out` with bytes of a cryptographic random generator.
    fn fill_random(&mut self, out: &mut [u8]);

    /// Reserves an inbound SPI (256 or more). `None`: no room for another SA.
    fn allocate_spi(&mut self) -> Option<u32>;

    /// Gives back an inbound SPI that was never named in an install. An installed one comes back by
    /// `Action::RemoveSa`: the caller frees it when the dataplane says `Deleted`.
    fn release_spi(&mut self, spi: u32);

    /// This inbound SPI is in use: it comes from a checkpoint.
    fn reserve_spi(&mut self, spi: u32) {
        let _ = spi;
    }

    /// Packets that passed integrity and replay checks on this inbound SA since it was installed.
    fn inbound_packets(&self, spi: u32) -> u64;

    /// Own address from which packets to `remote` leave, for connections that name none.
    fn source_address(&mut self, remote: IpAddr) -> Option<IpAddr> {
        let _ = remote;
        None
    }
}

/// Random number below `bound`, 0 if `bound` is 0. The bias of the remainder does not matter for
/// what this is used for: jitter.
pub(crate) fn random_below(host: &mut dyn Host, bound: u64) -> u64 {
    random_u64(host).checked_rem(bound).unwrap_or(0)
}

/// Random 64-bit number.
pub(crate) fn random_u64(host: &mut dyn Host) -> u64 {
    let mut bytes = [0; 8];
    host.fill_random(&mut bytes);
    u64::from_be_bytes(bytes)
}

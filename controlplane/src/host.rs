//! What the protocol core needs from the program: randomness, SPIs, a look at the SAs' counters.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use api::id::{Geometry, SaId};
use api::state::StateView;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use ike::Host;

use crate::pool::Pool;

/// The core's host.
pub(crate) struct Services {
    random: SystemRandom,
    pub(crate) pool: Pool,
    /// Inbound SPIs given to the core, of which nothing is installed yet.
    promised: HashSet<u32>,
    state: Option<StateView>,
    geometry: Option<Geometry>,
}

impl Services {
    pub(crate) fn new() -> Self {
        Self {
            random: SystemRandom::new(),
            pool: Pool::default(),
            promised: HashSet::new(),
            state: None,
            geometry: None,
        }
    }

    /// A dataplane is there. Its table may have another form than the one before.
    pub(crate) fn attach(&mut self, state: StateView) {
        let geometry = state.geometry();
        if self.geometry != Some(geometry) {
            let mut tweak = [0];
            self.fill_random(&mut tweak);
            let held = self.pool.taken();
            self.pool = Pool::new(&geometry, tweak[0]);
            for id in held.into_iter().filter(|id| id.index() % 2 == 0) {
                self.pool.reserve(id);
            }
            self.geometry = Some(geometry);
        }
        self.state = Some(state);
    }

    /// The core has named this SPI in an install, so the dataplane frees it from now on.
    pub(crate) fn installed(&mut self, spi: u32) {
        self.promised.remove(&spi);
    }

    /// Whether the core may still name this SPI in an install.
    pub(crate) fn promised(&self, spi: u32) -> bool {
        self.promised.contains(&spi)
    }
}

impl Host for Services {
    fn fill_random(&mut self, out: &mut [u8]) {
        // Without randomness nothing is safe: no key, no nonce, no cookie.
        if self.random.fill(out).is_err() {
            tracing::error!("the system has no randomness: giving up");
            std::process::abort();
        }
    }

    fn allocate_spi(&mut self) -> Option<u32> {
        let id = self.pool.allocate()?;
        self.promised.insert(id.0);
        Some(id.0)
    }

    fn release_spi(&mut self, spi: u32) {
        if self.promised.remove(&spi) {
            self.pool.release_pair(SaId(spi));
        }
    }

    fn reserve_spi(&mut self, spi: u32) {
        // The core may still name it in an install, or give it back.
        if self.pool.reserve(SaId(spi)) {
            self.promised.insert(spi);
        }
    }

    fn source_address(&mut self, remote: IpAddr) -> Option<IpAddr> {
        // Connecting sends nothing; it lets the kernel choose.
        let any: IpAddr = match remote {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((remote, 500)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    }

    fn inbound_packets(&self, spi: u32) -> u64 {
        self.state
            .as_ref()
            .and_then(|state| state.snapshot(SaId(spi)).ok())
            .filter(|row| row.id == SaId(spi))
            .map_or(0, |row| row.packets)
    }
}

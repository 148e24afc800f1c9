//! Cookies against floods of IKE_SA_INIT with false addresses (RFC 7296 2.6): the responder keeps
//! nothing until the initiator has shown that it gets our messages.

use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use crate::crypto::{Prf, equal};
use crate::host::{Host, Time};
use crate::wire::PrfId;

const SECRET_BYTES: usize = 32;
/// Life of a secret; the one before it is honoured for as long again.
const SECRET_LIFE_S: u64 = 60;

struct Secret {
    version: u8,
    born: Time,
    key: Zeroizing<Vec<u8>>,
}

/// Secrets of the cookies. `Cookie = <Version> | Hash(Ni | IPi | SPIi | <secret>)`.
#[derive(Default)]
pub(crate) struct Cookies {
    current: Option<Secret>,
    previous: Option<Secret>,
}

impl Cookies {
    /// A cookie for this initiator.
    pub(crate) fn make(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: u64,
    ) -> Vec<u8> {
        self.turn(now);
        let previous = self.previous.as_ref().map_or(0, |secret| secret.version);
        let secret = self.current.get_or_insert_with(|| {
            let mut key = Zeroizing::new(vec![0; SECRET_BYTES]);
            host.fill_random(&mut key);
            Secret {
                version: previous.wrapping_add(1),
                born: now,
                key,
            }
        });
        secret.cookie(nonce, remote, spi_i)
    }

    /// The cookie is one of ours for this initiator.
    pub(crate) fn check(
        &mut self,
        now: Time,
        cookie: &[u8],
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: u64,
    ) -> bool {
        self.turn(now);
        let secrets = self.current.iter().chain(&self.previous);
        let mut secrets = secrets.filter(|secret| cookie.first() == Some(&secret.version));
        secrets.any(|secret| equal(&secret.cookie(nonce, remote, spi_i), cookie))
    }

    fn turn(&mut self, now: Time) {
        let old = |secret: &Secret, lives: u64| now >= secret.born.after_s(SECRET_LIFE_S * lives);
        if self.current.as_ref().is_some_and(|secret| old(secret, 1)) {
            self.previous = self.current.take();
        }
        if self.previous.as_ref().is_some_and(|secret| old(secret, 2)) {
            self.previous = None;
        }
    }
}

impl Secret {
    fn cookie(&self, nonce: &[u8], remote: SocketAddr, spi_i: u64) -> Vec<u8> {
        let address = match remote.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let mut cookie = vec![self.version];
        if let Some(prf) = Prf::new(PrfId::HMAC_SHA2_256) {
            let parts = [nonce, &address, &spi_i.to_be_bytes()];
            cookie.extend_from_slice(&prf.compute(&self.key, &parts));
        }
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(u8);

    impl Host for Counter {
        fn fill_random(&mut self, out: &mut [u8]) {
            self.0 += 1;
            out.fill(self.0);
        }
        fn allocate_spi(&mut self) -> Option<u32> {
            None
        }
        fn release_spi(&mut self, _: u32) {}
        fn inbound_packets(&self, _: u32) -> u64 {
            0
        }
    }

    #[test]
    fn a_cookie_fits_its_initiator_for_a_while() {
        let mut cookies = Cookies::default();
        let mut host = Counter(0);
        let remote: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let other: SocketAddr = "192.0.2.2:500".parse().unwrap();
        let cookie = cookies.make(Time(0), &mut host, b"nonce", remote, 7);
        assert!(cookies.check(Time(0), &cookie, b"nonce", remote, 7));
        assert!(!cookies.check(Time(0), &cookie, b"nonce", other, 7));
        assert!(!cookies.check(Time(0), &cookie, b"nonce", remote, 8));
        assert!(!cookies.check(Time(0), &cookie, b"other", remote, 7));
        assert!(!cookies.check(Time(0), b"", b"nonce", remote, 7));
        let second = cookies.make(Time(61_000), &mut host, b"nonce", remote, 7);
        assert_ne!(cookie, second);
        assert!(cookies.check(Time(61_000), &cookie, b"nonce", remote, 7));
        assert!(cookies.check(Time(61_000), &second, b"nonce", remote, 7));
        assert!(!cookies.check(Time(120_000), &cookie, b"nonce", remote, 7));
    }
}

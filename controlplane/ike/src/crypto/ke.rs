//! Key exchange methods (RFC 7296 3.4, RFC 3526, RFC 5903, RFC 8031).

use std::fmt;

use aws_lc_rs::agreement::{
    self, Algorithm, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519,
};
use zeroize::Zeroizing;

use super::{Secret, equal, modp};
use crate::wire::KeGroup;

/// First byte of an uncompressed point (SEC 1), which IKE leaves out.
const UNCOMPRESSED: u8 = 4;

/// Draws of a private scalar before giving up: one fails with probability 2^-32 at most.
const SCALAR_DRAWS: usize = 16;

/// Our half of a key exchange. Used once; the private value is wiped when it is dropped.
pub struct KeyExchange {
    group: KeGroup,
    public: Vec<u8>,
    private: Private,
}

enum Private {
    Curve(PrivateKey),
    Modp(modp::PrivateKey),
}

/// Result of a key exchange (g^ir), wiped when dropped.
pub struct SharedSecret(Secret);

/// Why a key exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeError {
    /// The method is not built.
    Unsupported(KeGroup),
    /// The peer's data have another length than the method's.
    Length,
    /// The peer's value is not a valid one, or gives a trivial secret.
    Value,
    /// The random source gave no usable private value.
    Random,
}

impl fmt::Display for KeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(group) => write!(f, "key exchange method {group} is not built"),
            Self::Length => f.write_str("key exchange data have the wrong length"),
            Self::Value => f.write_str("key exchange value is not valid"),
            Self::Random => f.write_str("random source gave no private key"),
        }
    }
}

impl std::error::Error for KeError {}

impl SharedSecret {
    #[cfg(test)]
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, of the method's fixed length.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyExchange")
            .field(&self.group)
            .finish_non_exhaustive()
    }
}

impl KeyExchange {
    /// True if the method is built.
    #[must_use]
    pub fn is_supported(group: KeGroup) -> bool {
        curve(group).is_some() || modp::Group::new(group).is_some()
    }

    /// Draws a private value and computes the public one.
    ///
    /// # Errors
    /// `Unsupported`, or `Random` if `fill_random` keeps giving unusable bytes.
    pub fn generate(
        group: KeGroup,
        fill_random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Self, KeError> {
        if let Some(group_modp) = modp::Group::new(group) {
            let private = group_modp.generate(fill_random);
            return Ok(Self {
                group,
                public: private.public(),
                private: Private::Modp(private),
            });
        }
        let curve = curve(group).ok_or(KeError::Unsupported(group))?;
        for _ in 0..SCALAR_DRAWS {
            let mut scalar = Zeroizing::new(vec![0; curve.scalar_bytes]);
            fill_random(&mut scalar);
            let Ok(private) = PrivateKey::from_private_key(curve.algorithm, &scalar) else {
                continue; // not in 1..order: draw again, so that the choice stays uniform
            };
            let public = private.compute_public_key().map_err(|_| KeError::Random)?;
            let public = public
                .as_ref()
                .get(curve.prefix.len()..)
                .unwrap_or_default()
                .to_vec();
            return Ok(Self {
                group,
                public,
                private: Private::Curve(private),
            });
        }
        Err(KeError::Random)
    }

    /// Whether data of a peer can be a public value of the method at all: what costs nothing to find
    /// out is found out before a private value is drawn.
    #[must_use]
    pub fn is_plausible(group: KeGroup, peer: &[u8]) -> bool {
        match (modp::Group::new(group), curve(group)) {
            (Some(modp), _) => modp.is_plausible(peer),
            (None, Some(curve)) => peer.len() == curve.public_bytes,
            (None, None) => false,
        }
    }

    /// The method.
    #[must_use]
    pub const fn group(&self) -> KeGroup {
        self.group
    }

    /// Our key exchange data, as they are on the wire.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Combines the private value with the peer's key exchange data.
    ///
    /// # Errors
    /// `Length` or `Value` for data that the method does not allow: a point off the curve
    /// (RFC 5903 9), a secret of zeros (RFC 8031 3), a number out of 2..=p-2 (RFC 6989 2.1).
    pub fn agree(self, peer: &[u8]) -> Result<SharedSecret, KeError> {
        let secret = match self.private {
            Private::Modp(private) => private.agree(peer)?,
            Private::Curve(private) => {
                let curve = curve(self.group).ok_or(KeError::Unsupported(self.group))?;
                curve.agree(&private, peer)?
            }
        };
        if equal(&secret, &vec![0; secret.len()]) {
            return Err(KeError::Value);
        }
        Ok(SharedSecret(secret))
    }
}

/// A curve of the library, and how its public values differ from IKE's.
struct Curve {
    algorithm: &'static Algorithm,
    scalar_bytes: usize,
    public_bytes: usize,
    prefix: &'static [u8],
}

const fn curve(group: KeGroup) -> Option<Curve> {
    let (algorithm, scalar_bytes, public_bytes, prefix): (_, _, _, &[u8]) = match group {
        KeGroup::CURVE_25519 => (&X25519, 32, 32, &[]),
        KeGroup::ECP_256 => (&ECDH_P256, 32, 64, &[UNCOMPRESSED]),
        KeGroup::ECP_384 => (&ECDH_P384, 48, 96, &[UNCOMPRESSED]),
        _ => return None,
    };
    Some(Curve {
        algorithm,
        scalar_bytes,
        public_bytes,
        prefix,
    })
}

impl Curve {
    /// The library checks that the point is on the curve; the secret is its x coordinate
    /// (RFC 5903 7).
    fn agree(&self, private: &PrivateKey, peer: &[u8]) -> Result<Secret, KeError> {
        if peer.len() != self.public_bytes {
            return Err(KeError::Length);
        }
        let peer = UnparsedPublicKey::new(self.algorithm, [self.prefix, peer].concat());
        agreement::agree(private, peer, KeError::Value, |secret| {
            Ok(Zeroizing::new(secret.to_vec()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;

    const BUILT: [KeGroup; 6] = [
        KeGroup::CURVE_25519,
        KeGroup::ECP_256,
        KeGroup::ECP_384,
        KeGroup::MODP_2048,
        KeGroup::MODP_3072,
        KeGroup::MODP_4096,
    ];

    /// A key exchange whose private value is the given bytes.
    fn with_private(group: KeGroup, private: &str) -> KeyExchange {
        let private = hex(private);
        KeyExchange::generate(group, &mut |out| out.copy_from_slice(&private)).unwrap()
    }

    /// Different bytes for each seed.
    fn seeded(group: KeGroup, seed: u8) -> KeyExchange {
        let mut next = seed;
        let mut fill = |out: &mut [u8]| {
            out.fill_with(|| {
                next = next.wrapping_mul(181).wrapping_add(101);
                next
            });
        };
        KeyExchange::generate(group, &mut fill).unwrap()
    }

    fn check(group: KeGroup, private: [&str; 2], public: [&str; 2], shared: &str) {
        for (own, other) in [(0, 1), (1, 0)] {
            let ours = with_private(group, private[own]);
            assert_eq!(ours.public(), hex(public[own]));
            assert_eq!(
                ours.agree(&hex(public[other])).unwrap().as_bytes(),
                hex(shared)
            );
        }
    }

    #[test]
    fn rfc7748_curve25519_vector() {
        // RFC 7748 6.1.
        check(
            KeGroup::CURVE_25519,
            [
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            ],
            [
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ],
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        );
    }

    #[test]
    fn rfc5903_ecp256_vector() {
        // RFC 5903 8.1.
        check(
            KeGroup::ECP_256,
            [
                "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
                "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
            ],
            [
                "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180
                 5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
                "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63
                 56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
            ],
            "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
        );
    }

    #[test]
    fn rfc5903_ecp384_vector() {
        // RFC 5903 8.2.
        check(
            KeGroup::ECP_384,
            [
                "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655
                 E35B538041E649EE3FAEF896783AB194",
                "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942
                 E0308312916B8ED2960E4BD55A7448FC",
            ],
            [
                "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6
                 DE3AC808ACB4BDB4C88732AEE95F41AA9482ED1FC0EEB9CAFC4984625CCFC23F
                 65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
                "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D
                 0D1AC43A0336DEF96FDA41D0774A3571DCFBEC7AACF3196472169E838430367F
                 66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
            ],
            "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4
             D603135569B9E9D09CF5D4A270F59746",
        );
    }

    #[test]
    fn modp_vectors() {
        let lines = include_str!("../../tests/vectors/modp.txt").lines();
        let mut checked = 0;
        for line in lines.filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[group, private, public, peer, shared] = fields.as_slice() else {
                panic!("five fields a line");
            };
            let ours = with_private(KeGroup(group.parse().unwrap()), private);
            assert_eq!(ours.public(), hex(public));
            assert_eq!(ours.agree(&hex(peer)).unwrap().as_bytes(), hex(shared));
            checked += 1;
        }
        assert_eq!(checked, 6);
    }

    #[test]
    fn both_sides_get_the_same_secret_and_lengths_are_exact() {
        for group in BUILT {
            assert!(KeyExchange::is_supported(group));
            let (a, b) = (seeded(group, 1), seeded(group, 2));
            assert_ne!(a.public(), b.public());
            let (public_a, public_b) = (a.public().to_vec(), b.public().to_vec());
            let secret = a.agree(&public_b).unwrap();
            assert_eq!(secret.as_bytes(), b.agree(&public_a).unwrap().as_bytes());
            for bytes in [0, public_b.len() - 1, public_b.len() + 1] {
                let mut peer = public_b.clone();
                peer.resize(bytes, 0);
                assert_eq!(seeded(group, 1).agree(&peer).unwrap_err(), KeError::Length);
            }
        }
    }

    #[test]
    fn weak_and_invalid_values_are_refused() {
        // RFC 8031 3 and RFC 7748 6.1: points of small order give zeros.
        let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        for peer in [
            "00".repeat(32),
            "01".to_string() + &"00".repeat(31),
            order_8.to_string(),
        ] {
            let error = seeded(KeGroup::CURVE_25519, 1)
                .agree(&hex(&peer))
                .unwrap_err();
            assert_eq!(error, KeError::Value);
        }
        for (group, bytes) in [(KeGroup::ECP_256, 64), (KeGroup::ECP_384, 96)] {
            let good = seeded(group, 2).public().to_vec();
            let mut off_curve = good.clone();
            off_curve[bytes - 1] ^= 1;
            for peer in [vec![0; bytes], vec![0xff; bytes], off_curve] {
                assert_eq!(seeded(group, 1).agree(&peer).unwrap_err(), KeError::Value);
            }
            assert!(seeded(group, 1).agree(&good).is_ok());
        }
    }

    #[test]
    fn trivial_modp_values_are_refused() {
        for group in [KeGroup::MODP_2048, KeGroup::MODP_3072, KeGroup::MODP_4096] {
            let bytes = seeded(group, 1).public().len();
            let number = |value: u8| [vec![0; bytes - 1], vec![value]].concat();
            let modulus = modp::Group::new(group).unwrap().modulus();
            let near = |below: u8| {
                // RFC 3526 primes end in 64 one bits.
                let mut value = modulus.clone();
                *value.last_mut().unwrap() -= below;
                value
            };
            let mut above = vec![0xff; bytes];
            for peer in [number(0), number(1), near(1), near(0), above.clone()] {
                assert_eq!(seeded(group, 1).agree(&peer).unwrap_err(), KeError::Value);
            }
            above[0] = 0x7f;
            for peer in [number(2), near(2), above] {
                assert!(seeded(group, 1).agree(&peer).is_ok());
            }
        }
    }

    #[test]
    fn scalars_out_of_range_are_drawn_again() {
        let mut draws = 0;
        let mut fill = |out: &mut [u8]| {
            out.fill(match draws {
                0 => 0xff,
                1 => 0,
                _ => 0x11,
            });
            draws += 1;
        };
        assert!(KeyExchange::generate(KeGroup::ECP_256, &mut fill).is_ok());
        assert_eq!(draws, 3);
        let stuck = KeyExchange::generate(KeGroup::ECP_384, &mut |out| out.fill(0));
        assert_eq!(stuck.unwrap_err(), KeError::Random);
    }

    #[test]
    fn unbuilt_methods_have_their_own_error() {
        for group in [
            KeGroup::NONE,
            KeGroup::MODP_1024,
            KeGroup::ML_KEM_768,
            KeGroup(9999),
        ] {
            assert!(!KeyExchange::is_supported(group));
            let error = KeyExchange::generate(group, &mut |out| out.fill(1)).unwrap_err();
            assert_eq!(error, KeError::Unsupported(group));
        }
    }
}

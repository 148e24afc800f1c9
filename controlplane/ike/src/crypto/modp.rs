//! MODP groups of RFC 3526 with generator 2.
//!
//! Exponentiation is crypto-bigint's: time depends on sizes, never on values.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{CtGt, CtLt, U512, U2048, U3072, U4096, Uint};
use zeroize::{Zeroize, Zeroizing};

use super::{KeError, Secret};
use crate::wire::KeGroup;

/// A group that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Modp2048,
    Modp3072,
    Modp4096,
}

/// Secret exponent of a group.
pub(super) struct PrivateKey {
    group: Group,
    exponent: U512,
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.exponent.zeroize();
    }
}

impl Group {
    pub(super) const fn new(group: KeGroup) -> Option<Self> {
        match group {
            KeGroup::MODP_2048 => Some(Self::Modp2048),
            KeGroup::MODP_3072 => Some(Self::Modp3072),
            KeGroup::MODP_4096 => Some(Self::Modp4096),
            _ => None,
        }
    }

    /// Bits of the exponent: at least twice the higher estimate of the group's strength
    /// (RFC 3526 8), in whole words.
    const fn exponent_bits(self) -> u32 {
        match self {
            Self::Modp2048 => 320,
            Self::Modp3072 => 448,
            Self::Modp4096 => 512,
        }
    }

    /// Whether these bytes are a public value of the group.
    pub(super) fn is_plausible(self, peer: &[u8]) -> bool {
        match self {
            Self::Modp2048 => public_value::<Modp2048, { U2048::LIMBS }>(peer).is_ok(),
            Self::Modp3072 => public_value::<Modp3072, { U3072::LIMBS }>(peer).is_ok(),
            Self::Modp4096 => public_value::<Modp4096, { U4096::LIMBS }>(peer).is_ok(),
        }
    }

    #[cfg(test)]
    pub(super) fn modulus(self) -> Vec<u8> {
        match self {
            Self::Modp2048 => Modp2048::PARAMS.modulus().to_be_bytes().as_ref().to_vec(),
            Self::Modp3072 => Modp3072::PARAMS.modulus().to_be_bytes().as_ref().to_vec(),
            Self::Modp4096 => Modp4096::PARAMS.modulus().to_be_bytes().as_ref().to_vec(),
        }
    }

    pub(super) fn generate(self, fill_random: &mut dyn FnMut(&mut [u8])) -> PrivateKey {
        let mut bytes = Zeroizing::new([0; 64]);
        let used = self.exponent_bits() as usize / 8;
        if let Some(low) = bytes.get_mut(..used) {
            fill_random(low);
        }
        PrivateKey {
            group: self,
            exponent: U512::from_le_slice(bytes.as_slice()),
        }
    }
}

/// A peer's public value: as long as p, and 1 < y < p - 1 (RFC 6989 2.1): with safe primes that
/// leaves no small subgroup.
fn public_value<P: ConstMontyParams<LIMBS>, const LIMBS: usize>(
    peer: &[u8],
) -> Result<Uint<LIMBS>, KeError> {
    if peer.len() != Uint::<LIMBS>::BYTES {
        return Err(KeError::Length);
    }
    let peer = Uint::<LIMBS>::from_be_slice(peer);
    let greatest = ConstMontyForm::<P, LIMBS>::MODULUS
        .get()
        .wrapping_sub(&Uint::ONE);
    if !(peer.ct_gt(&Uint::ONE) & peer.ct_lt(&greatest)).to_bool() {
        return Err(KeError::Value);
    }
    Ok(peer)
}

impl PrivateKey {
    pub(super) fn public(&self) -> Vec<u8> {
        match self.group {
            Group::Modp2048 => self.raise::<Modp2048, { U2048::LIMBS }>(&Uint::from_u8(2)),
            Group::Modp3072 => self.raise::<Modp3072, { U3072::LIMBS }>(&Uint::from_u8(2)),
            Group::Modp4096 => self.raise::<Modp4096, { U4096::LIMBS }>(&Uint::from_u8(2)),
        }
        .to_vec()
    }

    pub(super) fn agree(&self, peer: &[u8]) -> Result<Secret, KeError> {
        match self.group {
            Group::Modp2048 => self.agree_in::<Modp2048, { U2048::LIMBS }>(peer),
            Group::Modp3072 => self.agree_in::<Modp3072, { U3072::LIMBS }>(peer),
            Group::Modp4096 => self.agree_in::<Modp4096, { U4096::LIMBS }>(peer),
        }
    }

    fn agree_in<P: ConstMontyParams<LIMBS>, const LIMBS: usize>(
        &self,
        peer: &[u8],
    ) -> Result<Secret, KeError> {
        let peer = public_value::<P, LIMBS>(peer)?;
        Ok(self.raise::<P, LIMBS>(&peer))
    }

    /// base^exponent mod p, as long as p.
    fn raise<P: ConstMontyParams<LIMBS>, const LIMBS: usize>(&self, base: &Uint<LIMBS>) -> Secret {
        let base = ConstMontyForm::<P, LIMBS>::new(base);
        let bits = self.group.exponent_bits();
        let power = Zeroizing::new(base.pow_bounded_exp(&self.exponent, bits));
        let power = Zeroizing::new(power.retrieve());
        let bytes = Zeroizing::new(power.to_be_bytes());
        Zeroizing::new(bytes.as_ref().to_vec())
    }
}

crypto_bigint::const_monty_params!(
    Modp2048,
    U2048,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    "RFC 3526 group of 2048 bits"
);

crypto_bigint::const_monty_params!(
    Modp3072,
    U3072,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
     A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
     D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
     08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
    "RFC 3526 group of 3072 bits"
);

crypto_bigint::const_monty_params!(
    Modp4096,
    U4096,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
     A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
     D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
     08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
     88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8\
     DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2\
     233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
     93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF",
    "RFC 3526 group of 4096 bits"
);

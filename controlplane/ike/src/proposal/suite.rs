//! The algorithms of an SA, one of each type, and their names.

use std::fmt;

use crate::crypto::{Prf, SkAlgorithm};
use crate::keymat::KeyBytes;
use crate::wire::{EncrId, Esn, IntegId, KeGroup, PrfId, Transform, TransformType};

/// Algorithms of an IKE SA. Its display is strongSwan's:
/// `AES_GCM_16-256/PRF_HMAC_SHA2_256/CURVE_25519`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeSuite {
    /// Encryption and integrity.
    pub sk: SkAlgorithm,
    /// Pseudo-random function.
    pub prf: Prf,
    /// Key exchange method.
    pub group: KeGroup,
}

/// Algorithms of an ESP SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EspSuite {
    /// Encryption algorithm.
    pub encr: EncrId,
    /// Its key length without salt.
    pub key_bits: u16,
    /// Integrity algorithm; NONE with an AEAD.
    pub integ: IntegId,
    /// Key exchange of its own; NONE: keys from the IKE SA alone.
    pub group: KeGroup,
    /// 64-bit sequence numbers.
    pub esn: bool,
}

impl IkeSuite {
    /// From exactly one transform of each type.
    pub(super) fn new(transforms: &[Transform]) -> Option<Self> {
        let encr = find(transforms, TransformType::ENCR)?;
        Some(Self {
            sk: SkAlgorithm {
                encr: EncrId(encr.id),
                key_bits: encr.key_bits?,
                integ: IntegId(find(transforms, TransformType::INTEG)?.id),
            },
            prf: Prf::new(PrfId(find(transforms, TransformType::PRF)?.id))?,
            group: KeGroup(find(transforms, TransformType::KE)?.id),
        })
    }
}

impl EspSuite {
    /// From exactly one transform of each type; without KE there is none.
    pub(super) fn new(transforms: &[Transform]) -> Option<Self> {
        let encr = find(transforms, TransformType::ENCR)?;
        let group = find(transforms, TransformType::KE).map_or(0, |transform| transform.id);
        Some(Self {
            encr: EncrId(encr.id),
            key_bits: encr.key_bits?,
            integ: IntegId(find(transforms, TransformType::INTEG)?.id),
            group: KeGroup(group),
            esn: find(transforms, TransformType::ESN)?.id == Esn::YES.0,
        })
    }

    /// What one SA takes from KEYMAT.
    #[must_use]
    pub const fn key_bytes(&self) -> KeyBytes {
        // The salt of AES-GCM belongs to its key (RFC 4106 8.1).
        let salt = if matches!(self.encr, EncrId::AES_GCM_16) {
            4
        } else {
            0
        };
        let integ = match self.integ {
            IntegId::HMAC_SHA2_256_128 => 32,
            IntegId::HMAC_SHA2_384_192 => 48,
            IntegId::HMAC_SHA2_512_256 => 64,
            _ => 0,
        };
        KeyBytes {
            encr: self.key_bits as usize / 8 + salt,
            integ,
        }
    }
}

fn find(transforms: &[Transform], kind: TransformType) -> Option<&Transform> {
    transforms.iter().find(|transform| transform.kind == kind)
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SkAlgorithm {
            encr,
            key_bits,
            integ,
        } = self.sk;
        write!(f, "{encr}-{key_bits}/")?;
        if integ != IntegId::NONE {
            write!(f, "{integ}/")?;
        }
        write!(f, "PRF_{}/{}", self.prf.id(), self.group)
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.encr, self.key_bits)?;
        if self.integ != IntegId::NONE {
            write!(f, "/{}", self.integ)?;
        }
        if self.group != KeGroup::NONE {
            write!(f, "/{}", self.group)?;
        }
        f.write_str(if self.esn { "/ESN" } else { "" })
    }
}

/// Writes the names of all transforms, in order, with `/` between them.
pub(super) fn write_names(transforms: &[Transform], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, transform) in transforms.iter().enumerate() {
        if index > 0 {
            f.write_str("/")?;
        }
        let id = transform.id;
        match transform.kind {
            TransformType::ENCR => write!(f, "{}", EncrId(id))?,
            TransformType::PRF => write!(f, "PRF_{}", PrfId(id))?,
            TransformType::INTEG => write!(f, "{}", IntegId(id))?,
            TransformType::KE if id == KeGroup::NONE.0 => f.write_str("KE_NONE")?,
            TransformType::KE => write!(f, "{}", KeGroup(id))?,
            TransformType::ESN if id == Esn::NO.0 => f.write_str("NO_EXT_SEQ")?,
            TransformType::ESN => f.write_str("EXT_SEQ")?,
            kind => write!(f, "{kind}-{id}")?,
        }
        if let Some(bits) = transform.key_bits {
            write!(f, "-{bits}")?;
        }
    }
    Ok(())
}

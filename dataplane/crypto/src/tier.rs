//! Which implementation does the work. Chosen once, here and nowhere else.

use core::fmt;
use std::sync::OnceLock;

/// An implementation of the batch interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// As [`Tier::Avx512`], with three multiplications for four and more of the cheaper instructions.
    Avx512Karatsuba,
    /// VAES and VPCLMULQDQ on vectors of four blocks: AVX-512.
    Avx512,
    /// VAES and VPCLMULQDQ on vectors of two blocks: AVX2.
    Avx2,
    /// AES-NI and PCLMULQDQ, one block at a time.
    AesNi,
    /// RustCrypto `aes-gcm`, on any CPU. It finds AES-NI and PCLMULQDQ by itself.
    Portable,
}

impl Tier {
    /// Every tier, fastest first: the order in which [`init`] looks for one. Which of the two of AVX-512
    /// is the faster one hangs on the CPU.
    pub const ALL: [Self; 5] = [
        Self::Avx512Karatsuba,
        Self::Avx512,
        Self::Avx2,
        Self::AesNi,
        Self::Portable,
    ];

    /// The name used in configuration (`crypto_tier`) and in `culvert status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avx512Karatsuba => "avx512-karatsuba",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::AesNi => "aesni",
            Self::Portable => "portable",
        }
    }

    /// The tier of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// Whether this CPU can run it.
    #[must_use]
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let aesni = has!("aes") && has!("pclmulqdq") && has!("ssse3") && has!("sse4.1");
            let avx2 = aesni && has!("avx2") && has!("bmi2") && has!("vaes") && has!("vpclmulqdq");
            let avx512 =
                has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            match self {
                Self::Avx512Karatsuba | Self::Avx512 => avx2 && avx512,
                Self::Avx2 => avx2,
                Self::AesNi => aesni,
                Self::Portable => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }
}

/// Whether multiplying costs so much more than AES that [`Tier::Avx512Karatsuba`] is faster than
/// [`Tier::Avx512`]. Two rounds on four blocks take a cycle on AMD's family 1Ah (Zen 5), and a
/// multiplication two; on Zen 4 each takes one.
fn prefers_karatsuba() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        let vendor = __cpuid(0);
        let version = __cpuid(1).eax;
        let family = (version >> 8 & 0xf) + (version >> 20 & 0xff);
        let amd = [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes);
        [vendor.ebx, vendor.edx, vendor.ecx] == amd && family >= 0x1a
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a tier was not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierError {
    /// This CPU lacks the instructions of the tier that was asked for.
    Unavailable(Tier),
    /// Another tier is in use since an earlier call.
    AlreadyChosen(Tier),
}

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(tier) => {
                write!(
                    f,
                    "this CPU lacks the instructions of {tier}; leave the key out for the fastest tier it has"
                )
            }
            Self::AlreadyChosen(tier) => write!(f, "crypto tier {tier} is already in use"),
        }
    }
}

impl std::error::Error for TierError {}

static CHOSEN: OnceLock<Tier> = OnceLock::new();

/// Chooses the tier for the life of the process: `forced`, or else the fastest that runs here.
///
/// Call it before the first key is set up. Repeating the same choice is harmless.
///
/// # Errors
/// [`TierError`] if `forced` cannot run here or another tier is in use already.
pub fn init(forced: Option<Tier>) -> Result<Tier, TierError> {
    if let Some(tier) = forced.filter(|tier| !tier.available()) {
        return Err(TierError::Unavailable(tier));
    }
    let chosen = *CHOSEN.get_or_init(|| forced.unwrap_or_else(fastest));
    match forced {
        Some(tier) if tier != chosen => Err(TierError::AlreadyChosen(chosen)),
        _ => Ok(chosen),
    }
}

/// The tier in use; the fastest that runs here if [`init`] was not called.
#[must_use]
pub fn tier() -> Tier {
    *CHOSEN.get_or_init(fastest)
}

fn fastest() -> Tier {
    Tier::ALL
        .into_iter()
        .find(|tier| tier.available() && (*tier != Tier::Avx512Karatsuba || prefers_karatsuba()))
        .unwrap_or(Tier::Portable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_choice_stays() {
        let chosen = init(None).unwrap();
        assert_eq!(chosen, fastest());
        assert_eq!(init(Some(chosen)), Ok(chosen));
        assert_eq!(tier(), chosen);
        for other in Tier::ALL.into_iter().filter(|tier| *tier != chosen) {
            let expected = if other.available() {
                TierError::AlreadyChosen(chosen)
            } else {
                TierError::Unavailable(other)
            };
            assert_eq!(init(Some(other)), Err(expected));
        }
    }

    #[test]
    fn names_are_unique_and_round_trip() {
        for tier in Tier::ALL {
            assert_eq!(Tier::from_name(tier.name()), Some(tier));
        }
        assert_eq!(Tier::from_name("fast"), None);
    }
}

//! Batched AEADs for ESP behind one interface.
//!
//! A caller fills an array of [`Op`], one per packet, each with its own key, and calls [`seal`] or
//! [`open`] once for all of them. Everything works in place and nothing allocates. Which
//! implementation does the work (the [`Tier`]) is chosen once at start by [`init`].
//!
//! ```
//! use crypto::{Aad, KeyContext, Op};
//! let key = KeyContext::aes_gcm(&[7; 16], *b"salt", 16)?;
//! let mut data = *b"a packet........................"; // 16 bytes, then 16 for the ICV
//! let mut ops = [Op::new(&key, [0, 0, 0, 0, 0, 0, 0, 1], Aad::sequence(0x1000, 1), &mut data)?];
//! crypto::seal(&mut ops);
//! assert!(ops[0].ok());
//! crypto::open(&mut ops);
//! assert!(ops[0].ok());
//! assert_eq!(&data[..16], b"a packet........");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod key;
mod op;
mod portable;
#[cfg(target_arch = "x86_64")]
mod simd;
mod tier;

pub use key::{KeyContext, KeyError, SALT_BYTES};
pub use op::{Aad, AadBytes, ICV_ROOM, MAX_DATA_BYTES, Op, OpError};
pub use tier::{Tier, TierError, init, tier};

/// Encrypts every operation in place and writes its ICV behind the ciphertext (RFC 4106).
///
/// Operations may mix keys and lengths freely. Afterwards [`Op::ok`] is true for each of them.
/// Uniqueness of (key, IV) is the caller's duty: it is what GCM's security rests on.
pub fn seal(ops: &mut [Op<'_>]) {
    run::<false>(ops);
}

/// Verifies every operation and decrypts in place those whose ICV is right (RFC 4106).
///
/// [`Op::ok`] tells them apart. The plaintext of a failed operation is never readable: the portable
/// tier checks the ICV first and leaves the ciphertext as it was; the others decrypt while they hash
/// and then clear what they wrote. A caller may rely on no more than "not plaintext".
pub fn open(ops: &mut [Op<'_>]) {
    run::<true>(ops);
}

/// All operations, by the tier of their keys: normally one run of a single tier.
fn run<const OPEN: bool>(ops: &mut [Op<'_>]) {
    for ops in ops.chunk_by_mut(|a, b| a.key.tier() == b.key.tier()) {
        let Some(first) = ops.first() else { return };
        match first.key.tier() {
            // SAFETY (of all four): a key is of a SIMD tier only if the CPU can run it, and so are
            // those of the whole run.
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx512Karatsuba => unsafe { simd::avx512_karatsuba::run::<OPEN>(ops) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx512 => unsafe { simd::avx512::run::<OPEN>(ops) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx2 => unsafe { simd::avx2::run::<OPEN>(ops) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::AesNi => unsafe { simd::aesni::run::<OPEN>(ops) },
            _ => portable::run::<OPEN>(ops),
        }
    }
}

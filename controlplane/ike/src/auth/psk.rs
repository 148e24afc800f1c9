//! AUTH with a pre-shared key.

use crate::crypto::{Prf, Secret, equal};

/// RFC 7296 2.15: mixed in so that a stored key can be one that serves IKE alone.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// What one side's AUTH covers:
/// `InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI`, and the same the other way.
#[derive(Clone, Copy)]
pub struct SignedOctets<'a> {
    /// That side's own first IKE_SA_INIT message as it was sent, from the SPIs to the last payload
    /// (the one with the cookie, if there was one), without non-ESP marker.
    pub message: &'a [u8],
    /// Nonce of the **other** side.
    pub peer_nonce: &'a [u8],
    /// That side's ID payload without generic header (`Identification::body`).
    pub id_body: &'a [u8],
    /// SK_pi for the initiator, SK_pr for the responder.
    pub sk_p: &'a [u8],
}

impl SignedOctets<'_> {
    /// AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), SignedOctets)
    #[must_use]
    pub fn psk_auth(&self, prf: Prf, secret: &[u8]) -> Secret {
        let key = prf.compute(secret, &[KEY_PAD]);
        let maced_id = prf.compute(self.sk_p, &[self.id_body]);
        prf.compute(&key, &[self.message, self.peer_nonce, &maced_id])
    }

    /// Compares the peer's AUTH data in constant time.
    #[must_use]
    pub fn verify_psk(&self, prf: Prf, secret: &[u8], auth: &[u8]) -> bool {
        equal(&self.psk_auth(prf, secret), auth)
    }
}

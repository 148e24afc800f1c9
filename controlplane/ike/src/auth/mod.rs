//! Who the peer is: identities, and the AUTH payload that proves them (RFC 7296 2.15).

mod identity;
mod psk;

pub use identity::{Identity, IdentityError};
pub use psk::SignedOctets;

//! Typed commands and events, and the 256-byte records that carry them.
//!
//! A record is plain little-endian integers: no `bool`, no enum, no pointer crosses the process
//! boundary. Decoding works on a private copy, checks every field and names the one that is wrong.

mod codec;
mod command;
mod event;
mod field;
#[cfg(test)]
mod tests;
mod types;

pub use codec::{RECORD_BYTES, RECORD_WORDS, Record};
pub use command::{Command, Table};
pub use event::{Event, FiveTuple, Row, Status};
pub use field::{Field, FieldError};
pub use types::{
    Action, Algorithm, Child, CopyDscp, Direction, Limits, MAX_KEY_BYTES, MAX_WINDOW_BITS,
    MIN_PATH_MTU_BYTES, MIN_WINDOW_BITS, Mode, Path, Policy, Sa, SaInfo, SaKey,
};

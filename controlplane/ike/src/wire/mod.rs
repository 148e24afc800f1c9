//! The bytes of IKEv2 messages (RFC 7296 section 3).
//!
//! Parsing gives a [`Message`] that was checked as far as one message alone can be: lengths,
//! nesting, counts, and which payloads the exchange needs and allows. It never panics and takes
//! memory in proportion to the input. Encrypted payloads are opened in `crypto`.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod config;
mod error;
mod header;
mod message;
mod notify;
mod number;
mod payload;
mod reader;
mod rules;
mod sa;
mod ts;
mod writer;

#[cfg(test)]
mod tests;

pub use config::{Configuration, ConfigurationAttribute};
pub use error::WireError;
pub use header::{Flags, HEADER_BYTES, Header, VERSION};
pub use message::{Encrypted, MAX_MESSAGE_BYTES, Message, Parsed};
pub use notify::{Delete, Notify};
pub use number::{
    AuthMethod, CertEncoding, CfgType, EncrId, Esn, ExchangeType, IdType, IntegId, KeGroup,
    NotifyType, PayloadType, PrfId, ProtocolId, TransformType, TsType,
};
pub use payload::{Identification, MAX_PAYLOADS, NONCE_BYTES, Payload};
pub use reader::Reader;
pub use sa::{Attribute, MAX_PROPOSALS, Proposal, Transform};
pub use ts::TrafficSelector;

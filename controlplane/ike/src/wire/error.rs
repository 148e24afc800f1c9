//! What can be wrong with the bytes of a message.

use std::fmt;

use super::{NotifyType, PayloadType};

/// Why bytes are not an IKEv2 message, or a message cannot be encoded. The text names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The field runs past the end of what holds it.
    Short(&'static str),
    /// Bytes are left over after the field.
    Trailing(&'static str),
    /// A length or count in the field contradicts its content or a limit.
    Length(&'static str),
    /// The field has a value that the RFC forbids.
    Value(&'static str),
    /// Major version other than 2 (RFC 7296 2.5); carries the version byte.
    MajorVersion(u8),
    /// Unknown payload with the critical bit (RFC 7296 2.5).
    UnsupportedCritical(PayloadType),
    /// The payload is only allowed inside an encrypted payload (RFC 7296 3.14).
    NotEncrypted(PayloadType),
    /// The payload must not be where it is in this exchange.
    Unexpected(PayloadType),
    /// The exchange needs the payload.
    Missing(PayloadType),
    /// The payload appears more often than the exchange allows.
    Repeated(PayloadType),
}

impl WireError {
    /// Notification that tells the peer, with its data (RFC 7296 3.10.1).
    pub fn notify(self) -> (NotifyType, Vec<u8>) {
        match self {
            Self::MajorVersion(_) => (NotifyType::INVALID_MAJOR_VERSION, Vec::new()),
            Self::UnsupportedCritical(kind) => {
                (NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
            }
            _ => (NotifyType::INVALID_SYNTAX, Vec::new()),
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(field) => write!(f, "{field} is cut short"),
            Self::Trailing(field) => write!(f, "bytes left over after {field}"),
            Self::Length(field) => write!(f, "{field} has an impossible length"),
            Self::Value(field) => write!(f, "{field} has a forbidden value"),
            Self::MajorVersion(version) => write!(f, "version {version:#04x} is not IKEv2"),
            Self::UnsupportedCritical(kind) => write!(f, "unsupported critical payload {kind}"),
            Self::NotEncrypted(kind) => write!(f, "payload {kind} is not encrypted"),
            Self::Unexpected(kind) => write!(f, "payload {kind} is not allowed here"),
            Self::Missing(kind) => write!(f, "payload {kind} is missing"),
            Self::Repeated(kind) => write!(f, "payload {kind} appears too often"),
        }
    }
}

impl std::error::Error for WireError {}

//! Why a negotiation failed, and which notification says so.

use std::fmt;

use crate::wire::NotifyType;

/// What went wrong. Errors of the protocol are small `Copy` values; the text is made at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request names a connection that is not configured.
    UnknownConnection,
    /// The request names a child that the connection does not have.
    UnknownChild,
    /// The request names an IKE SA or child that is not up.
    NotFound,
    /// The connection names no single peer address.
    NoPeerAddress,
    /// No address of the connection's `local_addrs` can be used.
    NoLocalAddress,
    /// No common proposal.
    NoProposalChosen,
    /// The peer wants a key exchange method that was not offered, or keeps changing its mind.
    InvalidKe,
    /// The peer refused us, its AUTH payload is wrong, or its identity is not the configured one.
    AuthenticationFailed,
    /// No secret for these two identities.
    NoSecret,
    /// The traffic selectors do not overlap.
    TsUnacceptable,
    /// A message contradicts RFC 7296.
    InvalidSyntax,
    /// A critical payload that is not known; carries its type.
    UnsupportedCritical(u8),
    /// The peer, or this side, is in the middle of something else (RFC 7296 2.25).
    TemporaryFailure,
    /// The Child SA to rekey does not exist (RFC 7296 2.25).
    ChildSaNotFound,
    /// No further Child SA wanted, or no room for one.
    NoAdditionalSas,
    /// No answer to any retransmission.
    Timeout,
    /// Deleted by the peer.
    DeletedByPeer,
    /// Deleted by command, by its lifetime or in favour of another.
    Cancelled,
    /// A limit of this side is reached.
    Limit,
    /// The dataplane did not take the SA.
    InstallFailed,
    /// The peer cannot make an IKE SA without Child SA (RFC 6023).
    ChildlessRefused,
    /// The key exchange computation failed.
    KeyExchange,
    /// An error notification without a meaning here; carries its number.
    Peer(u16),
}

impl Reason {
    /// The notification that tells the peer (RFC 7296 3.10.1). The one place that maps errors.
    pub(crate) const fn notify(self) -> NotifyType {
        match self {
            Self::NoProposalChosen => NotifyType::NO_PROPOSAL_CHOSEN,
            Self::InvalidKe => NotifyType::INVALID_KE_PAYLOAD,
            Self::AuthenticationFailed | Self::NoSecret => NotifyType::AUTHENTICATION_FAILED,
            Self::TsUnacceptable => NotifyType::TS_UNACCEPTABLE,
            Self::UnsupportedCritical(_) => NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
            Self::TemporaryFailure => NotifyType::TEMPORARY_FAILURE,
            Self::ChildSaNotFound => NotifyType::CHILD_SA_NOT_FOUND,
            Self::NoAdditionalSas | Self::Limit => NotifyType::NO_ADDITIONAL_SAS,
            Self::InvalidSyntax | Self::KeyExchange => NotifyType::INVALID_SYNTAX,
            Self::Peer(number) => NotifyType(number),
            Self::UnknownConnection
            | Self::UnknownChild
            | Self::NotFound
            | Self::NoPeerAddress
            | Self::NoLocalAddress
            | Self::Timeout
            | Self::DeletedByPeer
            | Self::Cancelled
            | Self::InstallFailed
            | Self::ChildlessRefused => NotifyType::NO_PROPOSAL_CHOSEN,
        }
    }

    /// What an error notification of the peer means.
    pub(crate) const fn from_notify(kind: NotifyType) -> Self {
        match kind {
            NotifyType::NO_PROPOSAL_CHOSEN => Self::NoProposalChosen,
            NotifyType::INVALID_KE_PAYLOAD => Self::InvalidKe,
            NotifyType::AUTHENTICATION_FAILED => Self::AuthenticationFailed,
            NotifyType::TS_UNACCEPTABLE => Self::TsUnacceptable,
            NotifyType::TEMPORARY_FAILURE => Self::TemporaryFailure,
            NotifyType::CHILD_SA_NOT_FOUND => Self::ChildSaNotFound,
            NotifyType::NO_ADDITIONAL_SAS => Self::NoAdditionalSas,
            NotifyType::INVALID_SYNTAX => Self::InvalidSyntax,
            NotifyType(number) => Self::Peer(number),
        }
    }

    /// One phrase for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownConnection => "no connection of that name",
            Self::UnknownChild => "the connection has no child of that name",
            Self::NotFound => "no such SA is up",
            Self::NoPeerAddress => "remote_addrs names no single address to call",
            Self::NoLocalAddress => "no usable address in local_addrs",
            Self::NoProposalChosen => "no common proposal",
            Self::InvalidKe => "no common key exchange method",
            Self::AuthenticationFailed => "authentication failed",
            Self::NoSecret => "no secret for these identities",
            Self::TsUnacceptable => "the traffic selectors do not overlap",
            Self::InvalidSyntax => "a message breaks the rules of IKEv2",
            Self::UnsupportedCritical(_) => "unknown critical payload",
            Self::TemporaryFailure => "one side is busy with another exchange",
            Self::ChildSaNotFound => "the other side does not know the Child SA",
            Self::NoAdditionalSas => "no further Child SA is accepted",
            Self::Timeout => "the peer does not answer",
            Self::DeletedByPeer => "deleted by the peer",
            Self::Cancelled => "deleted by this side",
            Self::Limit => "a limit of this gateway is reached",
            Self::InstallFailed => "the dataplane did not take the SA",
            Self::ChildlessRefused => "the peer needs a child with the IKE SA",
            Self::KeyExchange => "the key exchange value of the peer is not valid",
            Self::Peer(_) => "the peer reports an error",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(number) => write!(f, "{}: {}", self.text(), NotifyType(*number)),
            Self::UnsupportedCritical(kind) => write!(f, "{} {kind}", self.text()),
            _ => f.write_str(self.text()),
        }
    }
}

/// Outcome of a negotiation that failed: what, and in which words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For programs.
    pub reason: Reason,
    /// For people: who refused what.
    pub text: String,
}

impl From<Reason> for Verdict {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            text: reason.to_string(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Verdict {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_errors_survive_a_round_trip() {
        for reason in [
            Reason::NoProposalChosen,
            Reason::InvalidKe,
            Reason::AuthenticationFailed,
            Reason::TsUnacceptable,
            Reason::TemporaryFailure,
            Reason::ChildSaNotFound,
            Reason::NoAdditionalSas,
            Reason::InvalidSyntax,
            Reason::Peer(36),
        ] {
            assert_eq!(Reason::from_notify(reason.notify()), reason);
        }
    }

    #[test]
    fn a_missing_secret_does_not_tell_the_peer_so() {
        assert_eq!(Reason::NoSecret.notify(), NotifyType::AUTHENTICATION_FAILED);
    }
}

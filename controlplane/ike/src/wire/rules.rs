//! Which payloads an exchange needs and allows (RFC 7296 appendix C), and where.
//!
//! Only IKE_SA_INIT travels in clear. In every other exchange a payload counts only inside the
//! encrypted payload; a notification in clear is a hint at most (RFC 7296 2.21.4), and anything
//! else in clear is refused.

use super::{ExchangeType, Header, Message, NotifyType, Payload, PayloadType, WireError};

/// Payload type, least and most occurrences.
type Rule = (PayloadType, usize, usize);

const CERTS: usize = 16;
const CERT_REQUESTS: usize = 32;
const DELETES: usize = 32;

const INIT_REQUEST: &[Rule] = &[
    (PayloadType::SA, 1, 1),
    (PayloadType::KE, 1, 1),
    (PayloadType::NONCE, 1, 1),
];

const INIT_RESPONSE: &[Rule] = &[
    (PayloadType::SA, 1, 1),
    (PayloadType::KE, 1, 1),
    (PayloadType::NONCE, 1, 1),
    (PayloadType::CERTREQ, 0, CERT_REQUESTS),
];

const AUTH_REQUEST: &[Rule] = &[
    (PayloadType::ID_I, 1, 1),
    (PayloadType::CERT, 0, CERTS),
    (PayloadType::CERTREQ, 0, CERT_REQUESTS),
    (PayloadType::ID_R, 0, 1),
    (PayloadType::AUTH, 0, 1),
    (PayloadType::EAP, 0, 1),
    (PayloadType::CP, 0, 1),
    (PayloadType::SA, 0, 1),
    (PayloadType::TS_I, 0, 1),
    (PayloadType::TS_R, 0, 1),
];

const AUTH_RESPONSE: &[Rule] = &[
    (PayloadType::ID_R, 1, 1),
    (PayloadType::CERT, 0, CERTS),
    (PayloadType::AUTH, 1, 1),
    (PayloadType::EAP, 0, 1),
    (PayloadType::CP, 0, 1),
    (PayloadType::SA, 0, 1),
    (PayloadType::TS_I, 0, 1),
    (PayloadType::TS_R, 0, 1),
];

const CREATE_CHILD: &[Rule] = &[
    (PayloadType::SA, 1, 1),
    (PayloadType::NONCE, 1, 1),
    (PayloadType::KE, 0, 1),
    (PayloadType::TS_I, 0, 1),
    (PayloadType::TS_R, 0, 1),
    (PayloadType::CP, 0, 1),
];

const INFORMATIONAL: &[Rule] = &[(PayloadType::DELETE, 0, DELETES), (PayloadType::CP, 0, 1)];

/// Table of the exchange; none for one that we do not know, whose payloads are not looked at.
const fn rules(header: &Header) -> Option<&'static [Rule]> {
    match (header.exchange, header.flags.is_response()) {
        (ExchangeType::IKE_SA_INIT, false) => Some(INIT_REQUEST),
        (ExchangeType::IKE_SA_INIT, true) => Some(INIT_RESPONSE),
        (ExchangeType::IKE_AUTH, false) => Some(AUTH_REQUEST),
        (ExchangeType::IKE_AUTH, true) => Some(AUTH_RESPONSE),
        (ExchangeType::CREATE_CHILD_SA, _) => Some(CREATE_CHILD),
        (ExchangeType::INFORMATIONAL, _) => Some(INFORMATIONAL),
        _ => None,
    }
}

/// These may stand anywhere and as often as the message has room.
const fn is_free(kind: PayloadType) -> bool {
    match kind {
        PayloadType::NOTIFY | PayloadType::VENDOR_ID => true,
        PayloadType(33..=48) => false,
        PayloadType(_) => true,
    }
}

/// Checks a message without an encrypted payload.
pub(crate) fn check_plain(message: &Message) -> Result<(), WireError> {
    if message.header.exchange == ExchangeType::IKE_SA_INIT {
        return check_counts(message);
    }
    check_outside(&message.header, &message.payloads)?;
    // A hint (RFC 7296 1.5) is made of notifications; an empty message in clear says nothing.
    if message.notifies().next().is_none() {
        return Err(WireError::Missing(PayloadType::SK));
    }
    Ok(())
}

/// Checks what stands in clear before an encrypted payload.
pub(crate) fn check_outside(header: &Header, outside: &[Payload]) -> Result<(), WireError> {
    if header.exchange == ExchangeType::IKE_SA_INIT {
        return Err(WireError::Unexpected(PayloadType::SK));
    }
    match outside
        .iter()
        .map(Payload::kind)
        .find(|kind| !is_free(*kind))
    {
        Some(kind) => Err(WireError::NotEncrypted(kind)),
        None => Ok(()),
    }
}

/// Checks the content of an encrypted payload.
pub(crate) fn check_inside(message: &Message) -> Result<(), WireError> {
    check_counts(message)
}

fn check_counts(message: &Message) -> Result<(), WireError> {
    let Some(rules) = rules(&message.header) else {
        return Ok(());
    };
    let known = |kind| is_free(kind) || rules.iter().any(|rule| rule.0 == kind);
    if let Some(kind) = message
        .payloads
        .iter()
        .map(Payload::kind)
        .find(|kind| !known(*kind))
    {
        return Err(WireError::Unexpected(kind));
    }
    let complete = !cut_short(message);
    for &(kind, least, most) in rules {
        let count = message
            .payloads
            .iter()
            .filter(|payload| payload.kind() == kind)
            .count();
        if count > most {
            return Err(WireError::Repeated(kind));
        }
        if complete && count < least {
            return Err(WireError::Missing(kind));
        }
    }
    Ok(())
}

/// A response that refuses, or asks to come again, has no other payload.
fn cut_short(message: &Message) -> bool {
    message.header.flags.is_response()
        && message.notifies().any(|notify| {
            notify.kind.is_error()
                || matches!(notify.kind, NotifyType::COOKIE | NotifyType::REDIRECT)
        })
}

//! Whole messages, plain or with an encrypted payload still closed.

use super::payload::{ChainEnd, first_kind, parse_chain, write_chain};
use super::reader::Reader;
use super::rules;
use super::writer::Writer;
use super::{HEADER_BYTES, Header, Notify, NotifyType, Payload, PayloadType, WireError};

/// Bytes of the longest message: what fits one UDP datagram.
pub const MAX_MESSAGE_BYTES: usize = 65_535;

/// Bytes of the generic payload header (RFC 7296 3.2).
const GENERIC_BYTES: usize = 4;

/// A message whose content is known: sent in clear, or decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The IKE header.
    pub header: Header,
    /// In the order of the message; without the encrypted payload itself.
    pub payloads: Vec<Payload>,
}

/// A message as it came.
#[derive(Clone, Debug)]
pub enum Parsed<'a> {
    /// No encrypted payload.
    Plain(Message),
    /// With an encrypted payload; `open` it with the keys of the IKE SA.
    Encrypted(Encrypted<'a>),
}

/// A message with an encrypted payload (RFC 7296 3.14) that was not opened yet.
#[derive(Clone, Debug)]
pub struct Encrypted<'a> {
    header: Header,
    bytes: &'a [u8],
    associated_bytes: usize,
    first: PayloadType,
}

impl Parsed<'_> {
    /// The IKE header, not yet authenticated if the message is encrypted.
    #[must_use]
    pub const fn header(&self) -> &Header {
        match self {
            Self::Plain(message) => &message.header,
            Self::Encrypted(encrypted) => &encrypted.header,
        }
    }
}

impl Message {
    /// Reads one datagram, without non-ESP marker. A plain message is checked against the payload
    /// table of its exchange at once, an encrypted one when it is opened.
    ///
    /// # Errors
    /// Any `WireError`; `Header::parse` tells whom to answer.
    pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, WireError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(WireError::Length("message"));
        }
        let (header, first) = Header::parse_with_next(bytes)?;
        let mut reader = Reader::new(bytes);
        reader.take(HEADER_BYTES, "header")?;
        let (payloads, end) = parse_chain(first, &mut reader)?;
        match end {
            ChainEnd::Plain => {
                let message = Self { header, payloads };
                rules::check_plain(&message)?;
                Ok(Parsed::Plain(message))
            }
            ChainEnd::Encrypted { first, body } => {
                rules::check_outside(&header, &payloads)?;
                let associated_bytes = bytes.len().saturating_sub(body.len());
                Ok(Parsed::Encrypted(Encrypted {
                    header,
                    bytes,
                    associated_bytes,
                    first,
                }))
            }
        }
    }

    /// Writes a message without an encrypted payload.
    ///
    /// # Errors
    /// `Length` or `Value` if a payload cannot be written as it is.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let payloads = self.encode_payloads()?;
        let total = HEADER_BYTES.saturating_add(payloads.len());
        let mut writer = Writer::default();
        self.header.write(
            &mut writer,
            first_kind(&self.payloads),
            message_length(total)?,
        );
        writer.put(&payloads);
        Ok(writer.into_bytes())
    }

    /// Writes the payloads alone: the plaintext of an encrypted payload.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_payloads(&self) -> Result<Vec<u8>, WireError> {
        let mut writer = Writer::default();
        write_chain(&self.payloads, PayloadType::NONE, &mut writer)?;
        Ok(writer.into_bytes())
    }

    /// Writes the IKE header and the generic header of an encrypted payload whose body (IV,
    /// ciphertext, ICV) will have `body_bytes`: the associated data of RFC 5282 5.1.
    ///
    /// # Errors
    /// `Length` if the whole is longer than 65,535 bytes.
    pub fn encode_sk_prefix(&self, body_bytes: usize) -> Result<Vec<u8>, WireError> {
        let sk_bytes = GENERIC_BYTES.saturating_add(body_bytes);
        let total = HEADER_BYTES.saturating_add(sk_bytes);
        let length = message_length(total)?;
        let mut writer = Writer::default();
        self.header.write(&mut writer, PayloadType::SK, length);
        writer.put(&[first_kind(&self.payloads).0, 0]);
        writer.u16(u16::try_from(sk_bytes).map_err(|_| WireError::Length("message"))?);
        Ok(writer.into_bytes())
    }

    /// First notification of the type.
    #[must_use]
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    /// First error notification.
    #[must_use]
    pub fn error(&self) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind.is_error())
    }

    /// All notifications in order.
    pub fn notifies(&self) -> impl Iterator<Item = &Notify> {
        self.payloads.iter().filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify),
            _ => None,
        })
    }
}

impl<'a> Encrypted<'a> {
    /// The IKE header, not yet authenticated.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The whole message.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Everything before the IV, and the rest: IV, ciphertext, ICV.
    #[must_use]
    pub fn split(&self) -> (&'a [u8], &'a [u8]) {
        self.bytes
            .split_at_checked(self.associated_bytes)
            .unwrap_or((self.bytes, &[]))
    }

    /// Reads the decrypted payloads (padding already removed) and checks them against the payload
    /// table of the exchange.
    ///
    /// # Errors
    /// Any `WireError`. The sender was authenticated, so it deserves an answer.
    pub fn decode(&self, plaintext: &[u8]) -> Result<Message, WireError> {
        let mut reader = Reader::new(plaintext);
        let (payloads, end) = parse_chain(self.first, &mut reader)?;
        if matches!(end, ChainEnd::Encrypted { .. }) {
            return Err(WireError::Unexpected(PayloadType::SK));
        }
        let message = Message {
            header: self.header,
            payloads,
        };
        rules::check_inside(&message)?;
        Ok(message)
    }
}

fn message_length(total: usize) -> Result<u32, WireError> {
    if total > MAX_MESSAGE_BYTES {
        return Err(WireError::Length("message"));
    }
    u32::try_from(total).map_err(|_| WireError::Length("message"))
}

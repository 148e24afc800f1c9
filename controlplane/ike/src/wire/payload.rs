//! Payloads and the chain that links them.

use super::config::Configuration;
use super::notify::{Delete, Notify};
use super::reader::Reader;
use super::sa::{self, Proposal};
use super::ts::{self, TrafficSelector};
use super::writer::Writer;
use super::{AuthMethod, CertEncoding, IdType, KeGroup, PayloadType, WireError};

/// Payloads that one message may hold, inside and outside of the encrypted payload together.
pub const MAX_PAYLOADS: usize = 128;

/// Bytes of a nonce (RFC 7296 3.9).
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

const CRITICAL: u8 = 0x80;

/// One payload of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Proposals, or the accepted one.
    Sa(Vec<Proposal>),
    /// Key exchange data (RFC 7296 3.4).
    Ke {
        /// Method the data is of.
        group: KeGroup,
        /// Public value in the method's own form.
        data: Vec<u8>,
    },
    /// Identity of the initiator.
    IdI(Identification),
    /// Identity of the responder.
    IdR(Identification),
    /// Certificate (RFC 7296 3.6).
    Cert {
        /// Form of `data`.
        encoding: CertEncoding,
        /// The certificate or its hash and URL.
        data: Vec<u8>,
    },
    /// Certificate request (RFC 7296 3.7).
    CertReq {
        /// Wanted encoding.
        encoding: CertEncoding,
        /// Trusted authorities, for X.509 20 bytes each.
        data: Vec<u8>,
    },
    /// Authentication data (RFC 7296 3.8).
    Auth {
        /// How it was made.
        method: AuthMethod,
        /// Signature or MAC.
        data: Vec<u8>,
    },
    /// Random bytes of the sender, 16 to 256.
    Nonce(Vec<u8>),
    /// Notification.
    Notify(Notify),
    /// Deletion of SAs.
    Delete(Delete),
    /// Vendor ID (RFC 7296 3.12).
    VendorId(Vec<u8>),
    /// Traffic selectors of the initiator's side.
    TsI(Vec<TrafficSelector>),
    /// Traffic selectors of the responder's side.
    TsR(Vec<TrafficSelector>),
    /// Configuration request or reply (RFC 7296 3.15).
    Configuration(Configuration),
    /// EAP message (RFC 7296 3.16), as it is.
    Eap(Vec<u8>),
    /// A payload that we do not know and that is not critical.
    Unknown {
        /// Its type.
        kind: PayloadType,
        /// Its body.
        data: Vec<u8>,
    },
}

/// Identity as it is on the wire (RFC 7296 3.5).
///
/// ```text
/// |   ID Type     |                 RESERVED                      |
/// |                   Identification Data                         |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    /// Form of `data`.
    pub kind: IdType,
    /// Kept because AUTH covers the payload as it was sent.
    reserved: [u8; 3],
    /// Address, name or key identifier.
    pub data: Vec<u8>,
}

impl Identification {
    /// An identity to send.
    #[must_use]
    pub const fn new(kind: IdType, data: Vec<u8>) -> Self {
        Self {
            kind,
            reserved: [0; 3],
            data,
        }
    }

    /// Payload without its generic header: what AUTH covers (IDi' and IDr' of RFC 7296 2.15).
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let [a, b, c] = self.reserved;
        let mut body = vec![self.kind.0, a, b, c];
        body.extend_from_slice(&self.data);
        body
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = IdType(reader.u8("identification")?);
        let reserved = reader.array("identification")?;
        Ok(Self {
            kind,
            reserved,
            data: reader.rest().to_vec(),
        })
    }
}

impl Payload {
    /// Type of the payload.
    #[must_use]
    pub const fn kind(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::Ke { .. } => PayloadType::KE,
            Self::IdI(_) => PayloadType::ID_I,
            Self::IdR(_) => PayloadType::ID_R,
            Self::Cert { .. } => PayloadType::CERT,
            Self::CertReq { .. } => PayloadType::CERTREQ,
            Self::Auth { .. } => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
            Self::TsI(_) => PayloadType::TS_I,
            Self::TsR(_) => PayloadType::TS_R,
            Self::Configuration(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// A notification without SPI.
    #[must_use]
    pub const fn notify(kind: super::NotifyType, data: Vec<u8>) -> Self {
        Self::Notify(Notify::new(kind, data))
    }

    /// Reads the body of a payload that is not SK. Critical is honoured for unknown types only
    /// (RFC 7296 3.2).
    fn parse(
        kind: PayloadType,
        critical: bool,
        reader: &mut Reader<'_>,
    ) -> Result<Self, WireError> {
        let payload = match kind {
            PayloadType::SA => Self::Sa(sa::parse(reader)?),
            PayloadType::KE => Self::parse_ke(reader)?,
            PayloadType::ID_I => Self::IdI(Identification::parse(reader)?),
            PayloadType::ID_R => Self::IdR(Identification::parse(reader)?),
            PayloadType::CERT => Self::Cert {
                encoding: CertEncoding(reader.u8("certificate")?),
                data: reader.rest().to_vec(),
            },
            PayloadType::CERTREQ => Self::CertReq {
                encoding: CertEncoding(reader.u8("certificate request")?),
                data: reader.rest().to_vec(),
            },
            PayloadType::AUTH => Self::parse_auth(reader)?,
            PayloadType::NONCE => Self::Nonce(checked_nonce(reader.rest())?.to_vec()),
            PayloadType::NOTIFY => Self::Notify(Notify::parse(reader)?),
            PayloadType::DELETE => Self::Delete(Delete::parse(reader)?),
            PayloadType::VENDOR_ID => Self::VendorId(reader.rest().to_vec()),
            PayloadType::TS_I => Self::TsI(ts::parse(reader)?),
            PayloadType::TS_R => Self::TsR(ts::parse(reader)?),
            PayloadType::CP => Self::Configuration(Configuration::parse(reader)?),
            PayloadType::EAP => Self::Eap(reader.rest().to_vec()),
            PayloadType::SK => return Err(WireError::Unexpected(kind)),
            _ if critical => return Err(WireError::UnsupportedCritical(kind)),
            _ => Self::Unknown {
                kind,
                data: reader.rest().to_vec(),
            },
        };
        reader.finish("payload")?;
        Ok(payload)
    }

    fn parse_ke(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let group = KeGroup(reader.u16("key exchange")?);
        reader.u16("key exchange")?;
        Ok(Self::Ke {
            group,
            data: reader.rest().to_vec(),
        })
    }

    fn parse_auth(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let method = AuthMethod(reader.u8("authentication")?);
        reader.array::<3>("authentication")?;
        Ok(Self::Auth {
            method,
            data: reader.rest().to_vec(),
        })
    }

    fn write_body(&self, writer: &mut Writer) -> Result<(), WireError> {
        match self {
            Self::Sa(proposals) => return sa::write(proposals, writer),
            Self::TsI(selectors) | Self::TsR(selectors) => return ts::write(selectors, writer),
            Self::Notify(notify) => return notify.write(writer),
            Self::Delete(delete) => return delete.write(writer),
            Self::Configuration(configuration) => return configuration.write(writer),
            Self::Ke { group, data } => {
                writer.u16(group.0);
                writer.u16(0);
                writer.put(data);
            }
            Self::IdI(id) | Self::IdR(id) => writer.put(&id.body()),
            Self::Cert { encoding, data } | Self::CertReq { encoding, data } => {
                writer.u8(encoding.0);
                writer.put(data);
            }
            Self::Auth { method, data } => {
                writer.put(&[method.0, 0, 0, 0]);
                writer.put(data);
            }
            Self::Nonce(nonce) => writer.put(checked_nonce(nonce)?),
            Self::VendorId(data) | Self::Eap(data) | Self::Unknown { data, .. } => writer.put(data),
        }
        Ok(())
    }
}

fn checked_nonce(bytes: &[u8]) -> Result<&[u8], WireError> {
    if NONCE_BYTES.contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(WireError::Length("nonce"))
    }
}

/// What a chain of payloads ends with.
pub(crate) enum ChainEnd<'a> {
    /// The last payload was an ordinary one.
    Plain,
    /// An encrypted payload: the type of the first payload inside, and its body (IV to ICV).
    Encrypted { first: PayloadType, body: &'a [u8] },
}

/// Reads linked payloads until the end of the bytes.
///
/// # Errors
/// Any `WireError`; in particular `Trailing` if bytes follow the last payload.
pub(crate) fn parse_chain<'a>(
    first: PayloadType,
    reader: &mut Reader<'a>,
) -> Result<(Vec<Payload>, ChainEnd<'a>), WireError> {
    let mut payloads = Vec::new();
    let mut kind = first;
    while kind != PayloadType::NONE {
        if payloads.len() >= MAX_PAYLOADS {
            return Err(WireError::Length("payload count"));
        }
        let next = PayloadType(reader.u8("payload header")?);
        let critical = reader.u8("payload header")? & CRITICAL != 0;
        let length = reader.u16("payload header")?;
        let mut body = reader.sub(length, 4, "payload")?;
        if kind == PayloadType::SK {
            // RFC 7296 3.14: the last payload; its next field names the first one inside.
            reader.finish("encrypted payload")?;
            return Ok((
                payloads,
                ChainEnd::Encrypted {
                    first: next,
                    body: body.rest(),
                },
            ));
        }
        payloads.push(Payload::parse(kind, critical, &mut body)?);
        kind = next;
    }
    reader.finish("last payload")?;
    Ok((payloads, ChainEnd::Plain))
}

/// Writes linked payloads; `after` is the type that the last one names as next.
pub(crate) fn write_chain(
    payloads: &[Payload],
    after: PayloadType,
    writer: &mut Writer,
) -> Result<(), WireError> {
    if payloads.len() > MAX_PAYLOADS {
        return Err(WireError::Length("payload count"));
    }
    let next = payloads.iter().skip(1).map(Payload::kind).chain([after]);
    for (payload, next) in payloads.iter().zip(next) {
        writer.structure([next.0, 0], "payload", |w| payload.write_body(w))?;
    }
    Ok(())
}

/// Type of the first payload, NONE if there is none.
pub(crate) fn first_kind(payloads: &[Payload]) -> PayloadType {
    payloads.first().map_or(PayloadType::NONE, Payload::kind)
}

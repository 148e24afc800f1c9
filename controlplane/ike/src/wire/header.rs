//! The IKE header.

use super::reader::Reader;
use super::writer::Writer;
use super::{ExchangeType, PayloadType, WireError};

/// Bytes of the header (RFC 7296 3.1).
pub const HEADER_BYTES: usize = 28;

/// Version byte we send: major 2, minor 0.
pub const VERSION: u8 = 0x20;

/// Header flags (RFC 7296 3.1). Other bits are kept as received and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Sent by the original initiator of the IKE SA.
    pub const INITIATOR: Self = Self(0x08);
    /// The sender can speak a higher major version.
    pub const VERSION: Self = Self(0x10);
    /// A response to the request with the same message ID.
    pub const RESPONSE: Self = Self(0x20);

    /// Flags of a message from the original initiator or not, a response or not.
    #[must_use]
    pub const fn new(initiator: bool, response: bool) -> Self {
        let initiator = if initiator { Self::INITIATOR.0 } else { 0 };
        let response = if response { Self::RESPONSE.0 } else { 0 };
        Self(initiator | response)
    }

    /// The sender is the original initiator of the IKE SA.
    #[must_use]
    pub const fn is_initiator(self) -> bool {
        self.0 & Self::INITIATOR.0 != 0
    }

    /// The message is a response.
    #[must_use]
    pub const fn is_response(self) -> bool {
        self.0 & Self::RESPONSE.0 != 0
    }
}

/// Header without the fields that the codec fills in (next payload and length).
///
/// ```text
///                      1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// |                       IKE SA Initiator's SPI                  |
/// |                                                               |
/// |                       IKE SA Responder's SPI                  |
/// |                                                               |
/// |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
/// |                          Message ID                           |
/// |                            Length                             |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// SPI of the original initiator.
    pub spi_i: u64,
    /// SPI of the original responder; 0 in the first request.
    pub spi_r: u64,
    /// Major version in the high four bits, minor in the low.
    pub version: u8,
    /// What the message belongs to.
    pub exchange: ExchangeType,
    /// Initiator and response bits.
    pub flags: Flags,
    /// Number of the request and its response.
    pub message_id: u32,
}

impl Header {
    /// Reads the header alone, whatever follows: for looking up the IKE SA and for answering a
    /// message that does not parse.
    ///
    /// # Errors
    /// `Short` below 28 bytes, `Length` if the length field is not that of `bytes`,
    /// `MajorVersion` if it is not IKEv2.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        Self::parse_with_next(bytes).map(|(header, _)| header)
    }

    pub(crate) fn parse_with_next(bytes: &[u8]) -> Result<(Self, PayloadType), WireError> {
        let mut reader = Reader::new(bytes);
        let spi_i = reader.u64("header")?;
        let spi_r = reader.u64("header")?;
        let next = PayloadType(reader.u8("header")?);
        let version = reader.u8("header")?;
        let exchange = ExchangeType(reader.u8("header")?);
        let flags = Flags(reader.u8("header")?);
        let message_id = reader.u32("header")?;
        let length = reader.u32("header")?;
        if version >> 4 != VERSION >> 4 {
            return Err(WireError::MajorVersion(version));
        }
        if usize::try_from(length) != Ok(bytes.len()) {
            return Err(WireError::Length("message"));
        }
        Ok((
            Self {
                spi_i,
                spi_r,
                version,
                exchange,
                flags,
                message_id,
            },
            next,
        ))
    }

    /// Writes the header of a message of `length` bytes.
    pub(crate) fn write(&self, writer: &mut Writer, next: PayloadType, length: u32) {
        writer.u64(self.spi_i);
        writer.u64(self.spi_r);
        writer.u8(next.0);
        writer.u8(self.version);
        writer.u8(self.exchange.0);
        writer.u8(self.flags.0);
        writer.u32(self.message_id);
        writer.u32(length);
    }
}

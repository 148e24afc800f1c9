//! Notify and Delete payloads.

use super::reader::Reader;
use super::writer::Writer;
use super::{NotifyType, ProtocolId, WireError};

/// Notification (RFC 7296 3.10).
///
/// ```text
/// |  Protocol ID  |   SPI Size    |      Notify Message Type      |
/// |                Security Parameter Index (SPI)                 |
/// |                       Notification Data                       |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of `spi`; NONE if there is no SPI.
    pub protocol: ProtocolId,
    /// SA that the notification is about; empty if it is about the IKE SA or none.
    pub spi: Vec<u8>,
    /// What is told.
    pub kind: NotifyType,
    /// Depends on `kind`.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notification about no SA or the IKE SA itself.
    #[must_use]
    pub const fn new(kind: NotifyType, data: Vec<u8>) -> Self {
        Self {
            protocol: ProtocolId::NONE,
            spi: Vec::new(),
            kind,
            data,
        }
    }

    /// A notification about an ESP or AH SA, without data (REKEY_SA, CHILD_SA_NOT_FOUND).
    #[must_use]
    pub fn about(kind: NotifyType, protocol: ProtocolId, spi: u32) -> Self {
        Self {
            protocol,
            spi: spi.to_be_bytes().to_vec(),
            kind,
            data: Vec::new(),
        }
    }

    /// The SPI as the 4 bytes of AH or ESP.
    #[must_use]
    pub fn spi_u32(&self) -> Option<u32> {
        self.spi.as_slice().try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let protocol = ProtocolId(reader.u8("notify")?);
        let spi_bytes = reader.u8("notify")?;
        let kind = NotifyType(reader.u16("notify")?);
        let spi = reader.take(usize::from(spi_bytes), "notify SPI")?.to_vec();
        Ok(Self {
            protocol,
            spi,
            kind,
            data: reader.rest().to_vec(),
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        let spi_bytes =
            u8::try_from(self.spi.len()).map_err(|_| WireError::Length("notify SPI"))?;
        writer.u8(self.protocol.0);
        writer.u8(spi_bytes);
        writer.u16(self.kind.0);
        writer.put(&self.spi);
        writer.put(&self.data);
        Ok(())
    }
}

/// Deletion of SAs (RFC 7296 3.11).
///
/// ```text
/// | Protocol ID   |   SPI Size    |          Num of SPIs          |
/// |               Security Parameter Index(es) (SPI)              |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// IKE (then `spis` is empty and the IKE SA of the message is meant), AH or ESP.
    pub protocol: ProtocolId,
    /// Inbound SPIs of the sender.
    pub spis: Vec<u32>,
}

impl Delete {
    /// Deletes the IKE SA.
    #[must_use]
    pub const fn ike() -> Self {
        Self {
            protocol: ProtocolId::IKE,
            spis: Vec::new(),
        }
    }

    /// Deletes ESP SAs.
    #[must_use]
    pub const fn esp(spis: Vec<u32>) -> Self {
        Self {
            protocol: ProtocolId::ESP,
            spis,
        }
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let protocol = ProtocolId(reader.u8("delete")?);
        let spi_bytes = reader.u8("delete")?;
        let count = reader.u16("delete")?;
        let mut spis = Vec::new();
        match (protocol, spi_bytes, count) {
            (ProtocolId::IKE, 0, 0) => {}
            (ProtocolId::AH | ProtocolId::ESP, 4, _) => {
                for _ in 0..count {
                    spis.push(reader.u32("delete SPI")?);
                }
            }
            _ => return Err(WireError::Value("delete")),
        }
        Ok(Self { protocol, spis })
    }

    pub(crate) fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        let count = u16::try_from(self.spis.len()).map_err(|_| WireError::Length("delete SPI"))?;
        let spi_bytes = match self.protocol {
            ProtocolId::IKE if count == 0 => 0,
            ProtocolId::AH | ProtocolId::ESP => 4,
            _ => return Err(WireError::Value("delete")),
        };
        writer.u8(self.protocol.0);
        writer.u8(spi_bytes);
        writer.u16(count);
        for spi in &self.spis {
            writer.u32(*spi);
        }
        Ok(())
    }
}

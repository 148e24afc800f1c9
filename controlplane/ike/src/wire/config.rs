//! Configuration payload.

use super::reader::Reader;
use super::writer::Writer;
use super::{CfgType, WireError};

/// Configuration request, reply, set or acknowledgement (RFC 7296 3.15).
///
/// ```text
/// |   CFG Type    |                    RESERVED                   |
/// |                   Configuration Attributes                    |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Request, reply, set or acknowledgement.
    pub kind: CfgType,
    /// In the order of the message.
    pub attributes: Vec<ConfigurationAttribute>,
}

/// One configuration attribute (RFC 7296 3.15.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationAttribute {
    /// 15-bit attribute type.
    pub kind: u16,
    /// Depends on `kind`; empty in a request without a wish.
    pub value: Vec<u8>,
}

impl Configuration {
    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = CfgType(reader.u8("configuration")?);
        reader.array::<3>("configuration")?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            let attribute = reader.u16("configuration attribute")? & 0x7fff;
            let length = reader.u16("configuration attribute")?;
            let value = reader
                .take(usize::from(length), "configuration attribute")?
                .to_vec();
            attributes.push(ConfigurationAttribute {
                kind: attribute,
                value,
            });
        }
        Ok(Self { kind, attributes })
    }

    pub(crate) fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.put(&[self.kind.0, 0, 0, 0]);
        for attribute in &self.attributes {
            let length = u16::try_from(attribute.value.len())
                .map_err(|_| WireError::Length("configuration attribute"))?;
            writer.u16(attribute.kind & 0x7fff);
            writer.u16(length);
            writer.put(&attribute.value);
        }
        Ok(())
    }
}

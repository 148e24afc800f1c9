//! Security association payload: proposals and transforms.

use super::reader::Reader;
use super::writer::Writer;
use super::{ProtocolId, TransformType, WireError};

/// Proposals that one SA payload may hold.
pub const MAX_PROPOSALS: usize = 64;

const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
const KEY_LENGTH: u16 = 14;
const SHORT_ATTRIBUTE: u16 = 0x8000;

/// One proposal (RFC 7296 3.3.1).
///
/// ```text
/// | Last Substruc |   RESERVED    |         Proposal Length       |
/// | Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
/// |                        SPI (variable)                         |
/// |                        <Transforms>                           |
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// 1 for the first, then one more each; the answer repeats the number it accepts.
    pub number: u8,
    /// IKE, AH or ESP.
    pub protocol: ProtocolId,
    /// Empty for a first IKE SA, 8 bytes for its rekey, 4 for AH and ESP.
    pub spi: Vec<u8>,
    /// In the order of the message, which is the order of preference.
    pub transforms: Vec<Transform>,
}

/// One transform (RFC 7296 3.3.2).
///
/// ```text
/// | Last Substruc |   RESERVED    |        Transform Length       |
/// |Transform Type |   RESERVED    |          Transform ID         |
/// |                      Transform Attributes                     |
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    /// ENCR, PRF, INTEG, KE, ESN or one that we do not know.
    pub kind: TransformType,
    /// Algorithm: a number of the type's own registry.
    pub id: u16,
    /// Key Length attribute.
    pub key_bits: Option<u16>,
    /// Every other attribute. A transform that has any is not acceptable (RFC 7296 3.3.6).
    pub unknown: Vec<Attribute>,
}

/// Transform attribute other than Key Length (RFC 7296 3.3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Without the format bit.
    pub kind: u16,
    /// Sent as type and 2-byte value, without a length.
    pub short: bool,
    /// 2 bytes if `short`.
    pub value: Vec<u8>,
}

impl Proposal {
    /// The SPI as the 4 bytes of AH or ESP.
    #[must_use]
    pub fn spi_u32(&self) -> Option<u32> {
        self.spi.as_slice().try_into().ok().map(u32::from_be_bytes)
    }

    /// The SPI as the 8 bytes of a rekeyed IKE SA.
    #[must_use]
    pub fn spi_u64(&self) -> Option<u64> {
        self.spi.as_slice().try_into().ok().map(u64::from_be_bytes)
    }
}

impl Transform {
    /// A transform without attributes.
    #[must_use]
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: None,
            unknown: Vec::new(),
        }
    }

    /// A transform with a Key Length attribute.
    #[must_use]
    pub const fn with_key(kind: TransformType, id: u16, key_bits: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: Some(key_bits),
            unknown: Vec::new(),
        }
    }
}

/// Reads the body of an SA payload: one proposal or more, consecutively numbered.
pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Vec<Proposal>, WireError> {
    let mut proposals: Vec<Proposal> = Vec::new();
    loop {
        let last = reader.u8("proposal")?;
        reader.u8("proposal")?;
        let length = reader.u16("proposal")?;
        let mut body = reader.sub(length, 4, "proposal")?;
        let proposal = parse_proposal(&mut body)?;
        if let Some(previous) = proposals.last()
            && previous.number.checked_add(1) != Some(proposal.number)
        {
            return Err(WireError::Value("proposal number"));
        }
        proposals.push(proposal);
        if proposals.len() > MAX_PROPOSALS {
            return Err(WireError::Length("SA payload"));
        }
        if !more(last, MORE_PROPOSALS, reader, "SA payload")? {
            return Ok(proposals);
        }
    }
}

/// The Last Substruc field has to agree with what is left.
fn more(last: u8, marker: u8, reader: &Reader<'_>, field: &'static str) -> Result<bool, WireError> {
    match (last == marker, last == 0, reader.is_empty()) {
        (true, _, false) => Ok(true),
        (_, true, true) => Ok(false),
        (true, _, true) => Err(WireError::Short(field)),
        (_, true, false) => Err(WireError::Trailing(field)),
        _ => Err(WireError::Value("last substructure")),
    }
}

fn parse_proposal(reader: &mut Reader<'_>) -> Result<Proposal, WireError> {
    let number = reader.u8("proposal")?;
    let protocol = ProtocolId(reader.u8("proposal")?);
    let spi_bytes = reader.u8("proposal")?;
    let count = reader.u8("proposal")?;
    let spi = reader
        .take(usize::from(spi_bytes), "proposal SPI")?
        .to_vec();
    let mut transforms = Vec::new();
    let mut expect_more = count > 0;
    while expect_more {
        let last = reader.u8("transform")?;
        reader.u8("transform")?;
        let length = reader.u16("transform")?;
        let mut body = reader.sub(length, 4, "transform")?;
        transforms.push(parse_transform(&mut body)?);
        expect_more = more(last, MORE_TRANSFORMS, reader, "proposal")?;
    }
    if transforms.len() != usize::from(count) {
        return Err(WireError::Length("transform count"));
    }
    reader.finish("proposal")?;
    Ok(Proposal {
        number,
        protocol,
        spi,
        transforms,
    })
}

fn parse_transform(reader: &mut Reader<'_>) -> Result<Transform, WireError> {
    let kind = TransformType(reader.u8("transform")?);
    reader.u8("transform")?;
    let id = reader.u16("transform")?;
    let mut transform = Transform::new(kind, id);
    while !reader.is_empty() {
        let attribute = parse_attribute(reader)?;
        match (attribute.kind, attribute.short, attribute.value.as_slice()) {
            (KEY_LENGTH, true, &[high, low]) if transform.key_bits.is_none() => {
                transform.key_bits = Some(u16::from_be_bytes([high, low]));
            }
            _ => transform.unknown.push(attribute),
        }
    }
    Ok(transform)
}

fn parse_attribute(reader: &mut Reader<'_>) -> Result<Attribute, WireError> {
    let word = reader.u16("transform attribute")?;
    let short = word & SHORT_ATTRIBUTE != 0;
    let bytes = if short {
        2
    } else {
        reader.u16("transform attribute")?
    };
    let value = reader
        .take(usize::from(bytes), "transform attribute")?
        .to_vec();
    Ok(Attribute {
        kind: word & !SHORT_ATTRIBUTE,
        short,
        value,
    })
}

/// Writes the body of an SA payload.
pub(crate) fn write(proposals: &[Proposal], writer: &mut Writer) -> Result<(), WireError> {
    if proposals.is_empty() || proposals.len() > MAX_PROPOSALS {
        return Err(WireError::Length("SA payload"));
    }
    let last = proposals.len().saturating_sub(1);
    for (index, proposal) in proposals.iter().enumerate() {
        let marker = if index == last { 0 } else { MORE_PROPOSALS };
        writer.structure([marker, 0], "proposal", |w| write_proposal(proposal, w))?;
    }
    Ok(())
}

fn write_proposal(proposal: &Proposal, writer: &mut Writer) -> Result<(), WireError> {
    let length = |len: usize, field| u8::try_from(len).map_err(|_| WireError::Length(field));
    writer.u8(proposal.number);
    writer.u8(proposal.protocol.0);
    writer.u8(length(proposal.spi.len(), "proposal SPI")?);
    writer.u8(length(proposal.transforms.len(), "transform count")?);
    writer.put(&proposal.spi);
    let last = proposal.transforms.len().saturating_sub(1);
    for (index, transform) in proposal.transforms.iter().enumerate() {
        let marker = if index == last { 0 } else { MORE_TRANSFORMS };
        writer.structure([marker, 0], "transform", |w| write_transform(transform, w))?;
    }
    Ok(())
}

fn write_transform(transform: &Transform, writer: &mut Writer) -> Result<(), WireError> {
    writer.u8(transform.kind.0);
    writer.u8(0);
    writer.u16(transform.id);
    if let Some(bits) = transform.key_bits {
        writer.u16(SHORT_ATTRIBUTE | KEY_LENGTH);
        writer.u16(bits);
    }
    for attribute in &transform.unknown {
        write_attribute(attribute, writer)?;
    }
    Ok(())
}

fn write_attribute(attribute: &Attribute, writer: &mut Writer) -> Result<(), WireError> {
    let too_long = WireError::Length("transform attribute");
    if attribute.short {
        let value: [u8; 2] = attribute
            .value
            .as_slice()
            .try_into()
            .map_err(|_| too_long)?;
        writer.u16(SHORT_ATTRIBUTE | attribute.kind);
        writer.put(&value);
    } else {
        writer.u16(attribute.kind & !SHORT_ATTRIBUTE);
        writer.u16(u16::try_from(attribute.value.len()).map_err(|_| too_long)?);
        writer.put(&attribute.value);
    }
    Ok(())
}

//! Traffic selector payloads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Reader;
use super::writer::Writer;
use super::{TsType, WireError};

/// One traffic selector over a range of addresses (RFC 7296 3.13.1).
///
/// ```text
/// |   TS Type     |IP Protocol ID*|       Selector Length         |
/// |           Start Port          |           End Port            |
/// |                         Starting Address                      |
/// |                         Ending Address                        |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// First port, or ICMP type and code; 65535 with `end_port` 0 means OPAQUE.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
    /// First address.
    pub first: IpAddr,
    /// Last address, of the same family and not below `first`.
    pub last: IpAddr,
}

/// Reads the body of a TSi or TSr payload. Selectors of types that we do not know are left out: to
/// the narrowing they select nothing (RFC 7296 2.9), so the result may be empty.
pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Vec<TrafficSelector>, WireError> {
    let count = reader.u8("TS count")?;
    reader.array::<3>("TS payload")?;
    let mut selectors = Vec::new();
    for _ in 0..count {
        let kind = TsType(reader.u8("traffic selector")?);
        let protocol = reader.u8("traffic selector")?;
        let length = reader.u16("traffic selector")?;
        let mut body = reader.sub(length, 4, "traffic selector")?;
        match kind {
            TsType::IPV4_ADDR_RANGE => {
                selectors.push(parse_range::<4, Ipv4Addr>(protocol, &mut body)?)
            }
            TsType::IPV6_ADDR_RANGE => {
                selectors.push(parse_range::<16, Ipv6Addr>(protocol, &mut body)?)
            }
            _ => {}
        }
    }
    Ok(selectors)
}

fn parse_range<const N: usize, A>(
    protocol: u8,
    reader: &mut Reader<'_>,
) -> Result<TrafficSelector, WireError>
where
    A: From<[u8; N]> + Into<IpAddr>,
{
    let start_port = reader.u16("selector ports")?;
    let end_port = reader.u16("selector ports")?;
    let first = A::from(reader.array("selector address")?).into();
    let last = A::from(reader.array("selector address")?).into();
    reader.finish("traffic selector")?;
    let selector = TrafficSelector {
        protocol,
        start_port,
        end_port,
        first,
        last,
    };
    selector.check()?;
    Ok(selector)
}

impl TrafficSelector {
    /// Any port is 0..=65535.
    #[must_use]
    pub const fn any_port(&self) -> bool {
        self.start_port == 0 && self.end_port == u16::MAX
    }

    /// OPAQUE is 65535..=0: the ports cannot be seen (RFC 7296 3.13.1).
    #[must_use]
    pub const fn opaque_port(&self) -> bool {
        self.start_port == u16::MAX && self.end_port == 0
    }

    fn check(&self) -> Result<(), WireError> {
        if self.first.is_ipv4() != self.last.is_ipv4() || self.first > self.last {
            return Err(WireError::Value("selector addresses"));
        }
        if self.start_port > self.end_port && !self.opaque_port() {
            return Err(WireError::Value("selector ports"));
        }
        Ok(())
    }
}

/// Writes the body of a TSi or TSr payload.
pub(crate) fn write(selectors: &[TrafficSelector], writer: &mut Writer) -> Result<(), WireError> {
    let count = u8::try_from(selectors.len()).map_err(|_| WireError::Length("TS count"))?;
    writer.put(&[count, 0, 0, 0]);
    for selector in selectors {
        selector.check()?;
        let kind = match selector.first {
            IpAddr::V4(_) => TsType::IPV4_ADDR_RANGE,
            IpAddr::V6(_) => TsType::IPV6_ADDR_RANGE,
        };
        writer.structure([kind.0, selector.protocol], "traffic selector", |w| {
            w.u16(selector.start_port);
            w.u16(selector.end_port);
            put_address(selector.first, w);
            put_address(selector.last, w);
            Ok(())
        })?;
    }
    Ok(())
}

fn put_address(address: IpAddr, writer: &mut Writer) {
    match address {
        IpAddr::V4(v4) => writer.put(&v4.octets()),
        IpAddr::V6(v6) => writer.put(&v6.octets()),
    }
}

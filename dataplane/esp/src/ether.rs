//! Ethernet II headers with up to two VLAN tags (IEEE 802.3, 802.1Q).

use core::fmt;

use crate::bytes::{array, u16_at};

/// Length of an untagged header in bytes.
pub const HEADER_BYTES: usize = 14;
/// Length of one VLAN tag in bytes.
pub const VLAN_BYTES: usize = 4;
/// Most VLAN tags followed.
pub const MAX_VLAN_TAGS: usize = 2;

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Ethertype of a C-VLAN tag (802.1Q).
pub const VLAN: u16 = 0x8100;
/// Ethertype of an S-VLAN tag (802.1ad).
pub const S_VLAN: u16 = 0x88a8;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Smaller values of the type field are lengths of 802.3 frames.
const FIRST_TYPE: u16 = 0x0600;

/// A MAC address.
pub type Mac = [u8; 6];

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// VLAN tags, outermost first.
    pub vlan: [Option<VlanTag>; MAX_VLAN_TAGS],
    /// Type of the payload behind all tags.
    pub ethertype: u16,
    /// Where the payload starts, in bytes.
    pub payload_offset: usize,
}

/// One VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// [`VLAN`] or [`S_VLAN`].
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub tci: u16,
}

impl VlanTag {
    /// The VLAN identifier; 0 is a priority tag, which belongs to no VLAN.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EthernetError {
    /// It ends inside the header.
    Short,
    /// The type field is an 802.3 length: no protocol of ours.
    Length,
    /// More than [`MAX_VLAN_TAGS`] tags.
    Tags,
}

impl fmt::Display for EthernetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "frame ends inside the Ethernet header",
            Self::Length => "802.3 length instead of an ethertype",
            Self::Tags => "more than two VLAN tags",
        })
    }
}

impl std::error::Error for EthernetError {}

impl Ethernet {
    /// Parses the header of `frame` (without preamble and FCS).
    ///
    /// # Errors
    /// [`EthernetError`]
    pub fn parse(frame: &[u8]) -> Result<Self, EthernetError> {
        use EthernetError::{Length, Short, Tags};
        let destination = array(frame, 0).ok_or(Short)?;
        let source = array(frame, 6).ok_or(Short)?;
        let mut vlan = [None; MAX_VLAN_TAGS];
        let mut at = 12_usize;
        let mut ethertype = u16_at(frame, at).ok_or(Short)?;
        for tag in &mut vlan {
            if !matches!(ethertype, VLAN | S_VLAN) {
                break;
            }
            let tci = u16_at(frame, at.saturating_add(2)).ok_or(Short)?;
            *tag = Some(VlanTag {
                tpid: ethertype,
                tci,
            });
            at = at.saturating_add(VLAN_BYTES);
            ethertype = u16_at(frame, at).ok_or(Short)?;
        }
        match ethertype {
            VLAN | S_VLAN => Err(Tags),
            0..FIRST_TYPE => Err(Length),
            _ => {
                let payload_offset = at.saturating_add(2);
                Ok(Self {
                    destination,
                    source,
                    vlan,
                    ethertype,
                    payload_offset,
                })
            }
        }
    }

    /// Whether the frame was sent to more than one station (the group bit, broadcast included).
    #[must_use]
    pub const fn is_group(&self) -> bool {
        self.destination[0] & 1 != 0
    }
}

/// Writes an untagged header to the start of `frame`; none if there is no room.
#[must_use]
#[inline(always)]
pub fn write(frame: &mut [u8], destination: Mac, source: Mac, ethertype: u16) -> Option<()> {
    let header = frame.first_chunk_mut()?;
    write_words(header, word(destination), word(source), ethertype)
}

#[inline(always)]
const fn word(address: Mac) -> u64 {
    let [a, b, c, d, e, f] = address;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Writes a header without tags, addresses as numbers of 48 bits.
#[inline(always)]
pub fn write_words(
    header: &mut [u8; HEADER_BYTES],
    destination: u64,
    source: u64,
    ethertype: u16,
) -> Option<()> {
    let (first, rest) = header.split_first_chunk_mut::<8>()?;
    *first = (destination << 16 | source >> 32).to_be_bytes();
    let [.., s0, s1, s2, s3] = source.to_be_bytes();
    *rest.first_chunk_mut::<4>()? = [s0, s1, s2, s3];
    *rest.last_chunk_mut::<2>()? = ethertype.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&ADDRESSES, rest].concat()
    }

    #[test]
    fn untagged() {
        let parsed = Ethernet::parse(&frame(&[8, 0])).unwrap();
        assert_eq!(parsed.ethertype, IPV4);
        assert_eq!(parsed.destination, [1, 2, 3, 4, 5, 6]);
        assert_eq!(parsed.source, [7, 8, 9, 10, 11, 12]);
        assert_eq!((parsed.vlan, parsed.payload_offset), ([None, None], 14));
        assert!(parsed.is_group());
    }

    #[test]
    fn tags_are_reported_outermost_first() {
        let one = Ethernet::parse(&frame(&[0x81, 0, 0xe0, 7, 0x86, 0xdd])).unwrap();
        assert_eq!((one.ethertype, one.payload_offset), (IPV6, 18));
        let tag = one.vlan[0].unwrap();
        assert_eq!((tag.tpid, tag.id(), tag.tci), (VLAN, 7, 0xe007));
        let two = Ethernet::parse(&frame(&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7, 8, 0])).unwrap();
        assert_eq!(two.vlan.map(|tag| tag.unwrap().id()), [9, 7]);
        assert_eq!(two.payload_offset, 22);
    }

    #[test]
    fn refused() {
        let full = frame(&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7, 8, 0]);
        for len in 0..full.len() {
            assert_eq!(
                Ethernet::parse(&full[..len]),
                Err(EthernetError::Short),
                "{len} bytes"
            );
        }
        let three = frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0]);
        assert_eq!(Ethernet::parse(&three), Err(EthernetError::Tags));
        assert_eq!(
            Ethernet::parse(&frame(&[0x05, 0xff])),
            Err(EthernetError::Length)
        );
        assert!(Ethernet::parse(&frame(&[0x06, 0x00])).is_ok());
    }

    #[test]
    fn written_header_parses_back() {
        let mut bytes = [0; 14];
        write(&mut bytes, [2; 6], [4; 6], ARP).unwrap();
        let parsed = Ethernet::parse(&bytes).unwrap();
        assert_eq!((parsed.destination, parsed.source), ([2; 6], [4; 6]));
        assert_eq!((parsed.ethertype, parsed.is_group()), (ARP, false));
        assert_eq!(write(&mut [0; 13], [2; 6], [4; 6], ARP), None);
    }
}

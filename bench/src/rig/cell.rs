//! What is measured: how many SAs, which packets, which key, which way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of an Ethernet header: frame lengths count it, nothing behind the IP packet.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Seven short, four middling and one long frame.
const IMIX: [usize; 12] = [64, 64, 64, 64, 64, 64, 64, 570, 570, 570, 570, 1514];

/// Frame length of the plain packets: 14 bytes more than the IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Fixed(usize),
    Imix,
}

impl Size {
    /// Frame lengths of one round.
    pub(crate) fn lengths(self) -> Vec<usize> {
        match self {
            Self::Fixed(length) => vec![length],
            Self::Imix => IMIX.to_vec(),
        }
    }

    /// Frames of the source: 120 to 400 MB whatever their length, so that it never stays cached.
    pub(crate) fn frames(self) -> u32 {
        match self {
            Self::Fixed(length) if length <= 128 => 1 << 20,
            Self::Imix => 1 << 19,
            Self::Fixed(_) => 1 << 18,
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if word == "imix" {
            return Ok(Self::Imix);
        }
        let length = word.parse().ok().filter(|n| (64..=1514).contains(n));
        length
            .map(Self::Fixed)
            .ok_or_else(|| "a size is imix, or a frame length from 64 to 1514".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

/// Which way packets go through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// Plain packets become ESP
    Enc,
    /// ESP becomes plain packets
    Dec,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enc => "enc",
            Self::Dec => "dec",
        })
    }
}

/// Address family of inner and outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Family {
    V4,
    V6,
}

/// One cell of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) sas: u32,
    pub(crate) size: Size,
    pub(crate) key_bits: u16,
    pub(crate) way: Way,
    pub(crate) family: Family,
    pub(crate) udp: bool,
    pub(crate) esn: bool,
}

/// A cell in a file of figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CellName {
    pub(crate) sas: u32,
    /// Frame length, or "imix".
    pub(crate) size: String,
    pub(crate) key_bits: u16,
    /// "enc" or "dec".
    pub(crate) way: String,
    /// 4 or 6.
    pub(crate) ip: u8,
    pub(crate) udp: bool,
    pub(crate) esn: bool,
}

impl Cell {
    /// So many SAs and nothing special: 64 bytes to encrypt with AES-128, IPv4.
    pub(crate) fn usual(sas: u32) -> Self {
        Self {
            sas,
            size: Size::Fixed(64),
            key_bits: 128,
            way: Way::Enc,
            family: Family::V4,
            udp: false,
            esn: false,
        }
    }

    pub(crate) fn name(&self) -> CellName {
        CellName {
            sas: self.sas,
            size: self.size.to_string(),
            key_bits: self.key_bits,
            way: self.way.to_string(),
            ip: match self.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            udp: self.udp,
            esn: self.esn,
        }
    }
}

impl fmt::Display for CellName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sas,
            size,
            key_bits,
            way,
            ..
        } = self;
        write!(f, "{sas:>7} SA {size:>4} aes{key_bits} {way}")?;
        for (is, word) in [(self.ip == 6, "v6"), (self.udp, "udp"), (self.esn, "esn")] {
            if is {
                write!(f, " {word}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for word in ["64", "imix", "1420"] {
            assert_eq!(word.parse::<Size>().unwrap().to_string(), word);
        }
        for word in ["63", "1515", "IMIX", "", "-1"] {
            assert!(word.parse::<Size>().is_err(), "{word}");
        }
        assert_eq!(Size::Imix.lengths().iter().sum::<usize>(), 4242);
    }

    #[test]
    fn names_tell_the_variants_apart() {
        let cell = Cell {
            sas: 1000,
            size: Size::Imix,
            key_bits: 256,
            way: Way::Dec,
            family: Family::V6,
            udp: false,
            esn: true,
        };
        assert_eq!(cell.name().to_string(), "   1000 SA imix aes256 dec v6 esn");
    }
}

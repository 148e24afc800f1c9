//! What all commands of the rig are told: which cells, how long, on which cores.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;

use super::cache;
use super::cell::{Cell, Family, Size, Way};
use super::culvert;
use super::generator::Times;
use super::interrupt;
use crate::soak::dataplane::default_binary;

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Numbers of SAs
    #[arg(long, value_delimiter = ',', default_value = "1,1000")]
    pub(crate) sas: Vec<u32>,
    /// Frame lengths of plain packets (14 + IP length), or imix
    #[arg(long, value_delimiter = ',', default_value = "64,imix,1420")]
    pub(crate) sizes: Vec<Size>,
    /// AES key lengths in bits
    #[arg(long, value_delimiter = ',', default_value = "128", value_parser = key_bits)]
    pub(crate) keys: Vec<u16>,
    /// Directions
    #[arg(long, value_enum, value_delimiter = ',', default_value = "enc,dec")]
    pub(crate) ways: Vec<Way>,
    /// Address family of inner and outer packets
    #[arg(long, value_enum, default_value = "v4")]
    pub(crate) family: Family,
    /// ESP in UDP, port 4500 (IPv4)
    #[arg(long)]
    pub(crate) udp: bool,
    /// Extended sequence numbers
    #[arg(long)]
    pub(crate) esn: bool,
    /// All cells: both keys, 1 to 1,000,000 SAs, IPv6 and UDP encapsulation
    #[arg(long, conflicts_with_all = ["sas", "sizes", "keys", "ways", "family", "udp"])]
    pub(crate) full: bool,
    /// Starts of the program for each cell; the table has their median
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) runs: u8,
    /// Seconds that a start is measured
    #[arg(long, default_value_t = 1.0)]
    pub(crate) secs: f64,
    /// Seconds before that, which do not count
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warm: f64,
    /// The measured core; with more workers the first of theirs
    #[arg(long, default_value_t = 1)]
    pub(crate) core: usize,
    /// Where everything but the workers runs
    #[arg(long, default_value_t = 0)]
    pub(crate) control_core: usize,
    /// Crypto tier of culvert; the fastest if not given
    #[arg(long)]
    pub(crate) tier: Option<String>,
    /// Also write the figures to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Print ratios to the figures in this file of an earlier run
    #[arg(long)]
    pub(crate) against: Option<PathBuf>,
    /// The binary of the dataplane, if it is not beside this one
    #[arg(long)]
    pub(crate) dataplane: Option<PathBuf>,
    /// Keep the files of each run: configuration, frames, log
    #[arg(long)]
    pub(crate) keep: bool,
}

fn key_bits(word: &str) -> Result<u16, String> {
    match word {
        "128" => Ok(128),
        "256" => Ok(256),
        _ => Err("a key has 128 or 256 bits".to_owned()),
    }
}

impl Options {
    /// The cells, in the order of the table.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        if self.full {
            return full(self.esn);
        }
        let mut cells = Vec::new();
        for key_bits in &self.keys {
            for sas in &self.sas {
                for size in &self.sizes {
                    for way in &self.ways {
                        cells.push(Cell {
                            sas: (*sas).max(1),
                            size: *size,
                            key_bits: *key_bits,
                            way: *way,
                            family: self.family,
                            udp: self.udp && self.family == Family::V4,
                            esn: self.esn,
                        });
                    }
                }
            }
        }
        cells
    }

    pub(crate) fn times(&self) -> Times {
        Times {
            warm: self.warm,
            secs: self.secs,
        }
    }

    /// What culvert is started with: one worker, polling without a pause.
    pub(crate) fn setup(&self) -> Result<culvert::Setup, Box<dyn Error>> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces and hugepages need root: run it with sudo".into());
        }
        interrupt::watch()?;
        let binary = self.dataplane.clone().map_or_else(default_binary, Ok)?;
        Ok(culvert::Setup {
            binary,
            plugin: cache::generator()?,
            times: self.times(),
            cores: vec![self.core],
            crypto_cores: Vec::new(),
            frames: None,
            control_core: self.control_core,
            busy: true,
            pace: None,
            tier: self.tier.clone(),
            stages: false,
            elsewhere: false,
        })
    }
}

/// The whole table.
fn full(esn: bool) -> Vec<Cell> {
    let sizes = [Size::Fixed(64), Size::Imix, Size::Fixed(1420)];
    let mut cells = Vec::new();
    let mut push = |sas, size, key_bits, family, udp| {
        for way in [Way::Enc, Way::Dec] {
            cells.push(Cell {
                sas,
                size,
                key_bits,
                way,
                family,
                udp,
                esn,
            });
        }
    };
    for key_bits in [128, 256] {
        for sas in [1, 1_000, 10_000, 100_000] {
            for size in sizes {
                push(sas, size, key_bits, Family::V4, false);
            }
        }
        push(1_000_000, Size::Fixed(64), key_bits, Family::V4, false);
    }
    for size in [Size::Fixed(64), Size::Fixed(1420)] {
        push(1, size, 128, Family::V6, false);
        push(1, size, 128, Family::V4, true);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_has_each_cell_once() {
        let cells = full(false);
        assert_eq!(cells.len(), 2 * (2 * 13 + 4));
        for (at, cell) in cells.iter().enumerate() {
            assert!(!cells[..at].contains(cell), "{cell:?}");
        }
    }
}

//! How many times faster than the better mode of ipsec-secgw culvert is meant to be, by cell.

use super::cell::CellName;

/// A factor in net cycles per packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar(pub(crate) f64);

/// SAs, size, and the factors on a CPU with AVX-512 and on one with AVX2 only.
const BARS: [(u32, &str, f64, f64); 9] = [
    (1, "64", 2.0, 2.0),
    (1, "imix", 1.8, 1.9),
    (1, "1420", 1.5, 1.9),
    (1_000, "64", 2.0, 2.0),
    (1_000, "imix", 1.8, 1.9),
    (1_000, "1420", 1.6, 1.9),
    (10_000, "64", 2.0, 2.0),
    (10_000, "1420", 2.5, 2.5),
    (100_000, "64", 2.5, 2.5),
];

pub(crate) fn has_avx512(flags: &[String]) -> bool {
    flags.iter().any(|flag| flag == "avx512f")
}

/// The bar of a cell; there are bars for AES-128 over plain IPv4 only.
pub(crate) fn find(cell: &CellName, avx512: bool) -> Option<Bar> {
    if cell.key_bits != 128 || cell.ip != 4 || cell.udp || cell.esn {
        return None;
    }
    let row = BARS
        .iter()
        .find(|(sas, size, ..)| *sas == cell.sas && *size == cell.size)?;
    Some(Bar(if avx512 { row.2 } else { row.3 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_for_their_cells_only() {
        let mut cell = CellName {
            sas: 1_000,
            size: "1420".to_owned(),
            key_bits: 128,
            way: "enc".to_owned(),
            ip: 4,
            udp: false,
            esn: false,
        };
        assert_eq!(find(&cell, true), Some(Bar(1.6)));
        assert_eq!(find(&cell, false), Some(Bar(1.9)));
        cell.key_bits = 256;
        assert_eq!(find(&cell, true), None);
    }
}

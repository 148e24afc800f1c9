//! Address ranges as prefixes: what a hash table can look up.

use api::selector::AddrRange;

use crate::tables::address::Address;

/// A prefix and its length in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix<A> {
    pub(super) first: A,
    pub(super) bits: u32,
}

/// The fewest prefixes that make up the range, in order; `None` if they are more than `most` or
/// the range is of the other family.
pub(super) fn split<A: Address>(range: &AddrRange, most: usize) -> Option<Vec<Prefix<A>>> {
    let last = A::of(range.last)?.wide();
    let mut first = A::of(range.first)?.wide();
    let mut prefixes = Vec::new();
    while first <= last {
        if prefixes.len() == most {
            return None;
        }
        let aligned = first.trailing_zeros().min(A::BITS);
        // All 2^128 addresses are one more than can be counted.
        let size = (last - first).checked_add(1);
        let fitting = size.map_or(u128::BITS, u128::ilog2);
        let host_bits = aligned.min(fitting);
        prefixes.push(Prefix {
            first: A::narrow(first),
            bits: A::BITS - host_bits,
        });
        let step = 1_u128.checked_shl(host_bits);
        let Some(next) = step.and_then(|step| first.checked_add(step)) else {
            break;
        };
        first = next;
    }
    Some(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<A: Address>(range: &AddrRange) -> Option<Vec<u32>> {
        let prefixes = split::<A>(range, 16)?;
        Some(prefixes.iter().map(|prefix| prefix.bits).collect())
    }

    fn shown(first: &str, last: &str) -> Option<Vec<u32>> {
        let [first, last] = [first, last].map(|text| text.parse().unwrap());
        let range = AddrRange { first, last };
        if range.is_ipv4() {
            cut::<u32>(&range)
        } else {
            cut::<u128>(&range)
        }
    }

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        let all = AddrRange::all([0; 16].into());
        assert_eq!(cut::<u128>(&all), Some(vec![0]));
        assert_eq!(cut::<u32>(&all), None);
        assert_eq!(shown("0.0.0.0", "255.255.255.255"), Some(vec![0]));
        assert_eq!(shown("10.0.0.0", "10.0.0.255"), Some(vec![24]));
        assert_eq!(shown("10.0.0.1", "10.0.0.6"), Some(vec![32, 31, 31, 32]));
        assert_eq!(shown("255.255.255.255", "255.255.255.255"), Some(vec![32]));
        assert_eq!(shown("0.0.0.1", "255.255.255.254"), None);
        assert_eq!(shown("::", "::3"), Some(vec![126]));
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        assert_eq!(shown("10.0.0.2", "10.0.0.1"), Some(Vec::new()));
    }
}

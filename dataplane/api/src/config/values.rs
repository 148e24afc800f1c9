//! Conversions from what was typed to what it means, in the words of swanctl.conf.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::fault::hint;
use super::reader::Conversion;

/// yes, no, true, false, enabled, disabled, 1, 0.
pub fn boolean(word: &str) -> Conversion<bool> {
    match word.to_lowercase().as_str() {
        "yes" | "true" | "enabled" | "1" => Ok(true),
        "no" | "false" | "disabled" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Any text that is not empty.
pub fn text(word: &str) -> Conversion<String> {
    if word.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(word.to_owned())
    }
}

/// A path that does not depend on where the process was started.
pub fn absolute(word: &str) -> Conversion<PathBuf> {
    let path = PathBuf::from(word);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("must be an absolute path".to_owned())
    }
}

/// A name of ours: it is printed in tables and given to commands.
pub fn name(word: &str) -> Conversion<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if word.is_empty() || word.len() > 64 || !word.chars().all(good) {
        return Err("must be 1 to 64 letters, digits, '-', '_' or '.'".to_owned());
    }
    Ok(word.to_owned())
}

/// A decimal or 0x number inside a range.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Conversion<T>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    move |word| {
        let wrong = || format!("must be a number from {} to {}", range.start(), range.end());
        let number = unsigned(word)
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(wrong)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(wrong())
        }
    }
}

/// Decimal or with 0x.
pub(super) fn unsigned(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// A time in seconds: an integer with an optional s, m, h or d.
pub fn seconds(word: &str) -> Conversion<u64> {
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];
    scaled(word, &units).ok_or_else(|| "must be a time such as 30s, 10m, 4h or 1d".to_owned())
}

/// Bytes: an integer with an optional K, M or G (powers of 1,024).
pub fn bytes(word: &str) -> Conversion<u64> {
    let units = [('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)];
    scaled(word, &units).ok_or_else(|| "must be a size such as 500000, 64K, 10M or 1G".to_owned())
}

fn scaled(word: &str, units: &[(char, u64)]) -> Option<u64> {
    let last = word.chars().last()?.to_ascii_lowercase();
    match units.iter().find(|(unit, _)| *unit == last) {
        Some((_, factor)) => {
            let digits = word.get(..word.len() - 1)?;
            digits.trim_end().parse::<u64>().ok()?.checked_mul(*factor)
        }
        None => word.parse().ok(),
    }
}

/// A number with a fraction, in units of 10^-`places`: with 3 places `4.25` is 4,250.
pub fn decimal(places: u32, range: RangeInclusive<u64>) -> impl Fn(&str) -> Conversion<u64> {
    move |word| {
        let found = fixed_point(word, places).filter(|number| range.contains(number));
        found.ok_or_else(|| {
            let unit = 10_u64.saturating_pow(places);
            let show = |n: &u64| match n % unit {
                0 => format!("{}", n / unit),
                rest => format!("{}.{rest:0width$}", n / unit, width = places as usize),
            };
            format!(
                "must be a number from {} to {}",
                show(range.start()),
                show(range.end())
            )
        })
    }
}

/// Digits beyond the last place are cut off.
fn fixed_point(word: &str, places: u32) -> Option<u64> {
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    if !part.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let digits = part
        .chars()
        .chain(std::iter::repeat('0'))
        .take(places as usize);
    digits
        .filter_map(|c| c.to_digit(10))
        .try_fold(whole.parse::<u64>().ok()?, |number, digit| {
            number.checked_mul(10)?.checked_add(u64::from(digit))
        })
}

/// One of a set of words, with the meaning of each.
pub fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&str) -> Conversion<T> {
    move |word| {
        let found = words
            .iter()
            .find(|(known, _)| *known == word.to_lowercase());
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(known, _)| *known).collect();
            format!(
                "must be one of {}{}",
                known.join(", "),
                hint(word, known.iter().copied())
            )
        })
    }
}

/// An IP address.
pub fn address(word: &str) -> Conversion<IpAddr> {
    IpAddr::from_str(word).map_err(|_| format!("must be an IP address, not \"{word}\""))
}

/// An address with its prefix length, such as 192.0.2.1/24 (a host of that network).
pub fn prefix(word: &str) -> Conversion<Prefix> {
    let wrong = || format!("must be ADDRESS/LENGTH such as 192.0.2.1/24, not \"{word}\"");
    let (address, bits) = word.split_once('/').ok_or_else(wrong)?;
    let address = IpAddr::from_str(address).map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    if bits > family_bits(address) {
        return Err(wrong());
    }
    Ok(Prefix { address, bits })
}

/// An address and the length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub address: IpAddr,
    pub bits: u8,
}

pub(super) fn family_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Hex digits with an optional 0x. The message does not repeat them: they may be a key.
pub fn hex(word: &str) -> Conversion<Zeroizing<Vec<u8>>> {
    let digits = word.strip_prefix("0x").unwrap_or(word).as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return Err("must be hex digits, two a byte, such as 0x00ff".to_owned());
    }
    let mut out = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks_exact(2) {
        let byte = pair.iter().try_fold(0_u8, |byte, digit| {
            let digit = char::from(*digit)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())?;
            Some(byte << 4 | digit)
        });
        out.push(byte.ok_or_else(|| "holds something that is not a hex digit".to_owned())?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_numbers() {
        for (word, value) in [
            ("30", 30),
            ("30s", 30),
            ("10m", 600),
            ("4h", 14_400),
            ("1D", 86_400),
        ] {
            assert_eq!(seconds(word), Ok(value), "{word}");
        }
        for (word, value) in [
            ("0", 0),
            ("500000", 500_000),
            ("64K", 65_536),
            ("1G", 1 << 30),
        ] {
            assert_eq!(bytes(word), Ok(value), "{word}");
        }
        for (word, value) in [("4.0", 4_000), ("1.5", 1_500), ("3", 3_000), ("0.25", 250)] {
            assert_eq!(decimal(3, 250..=4_000)(word), Ok(value), "{word}");
        }
        let error = decimal(2, 100..=1_050)("11").unwrap_err();
        assert_eq!(error, "must be a number from 1 to 10.50");
        assert_eq!(number(1..=u32::MAX)("0xff"), Ok(255));
    }

    #[test]
    fn nonsense_is_refused() {
        for word in [
            "",
            "s",
            "-1",
            "1w",
            "1.5h",
            "99999999999999999999",
            "213503982334602d",
            "4é",
        ] {
            assert!(seconds(word).is_err(), "{word}");
        }
        for word in ["", "1T", "17179869184G", "K"] {
            assert!(bytes(word).is_err(), "{word}");
        }
        for word in ["", ".", ".5", "1.x", "-1", "1.-5", "99999999999999999999.0"] {
            assert!(decimal(2, 0..=u64::MAX)(word).is_err(), "{word}");
        }
        assert!(number(0..=10_u8)("256").is_err() && number(0..=10_u8)("11").is_err());
        assert!(prefix("10.0.0.0/33").is_err() && prefix("10.0.0.0").is_err());
        assert!(hex("0x").is_err() && hex("0x123").is_err() && hex("0xzz").is_err());
    }
}

//! A bounded run of what the fuzz target does, on mutated packets; the seed is printed on failure.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test may panic as the test"
)]

#[path = "../fuzz/exercise.rs"]
mod exercise;

const ROUNDS: u64 = if cfg!(miri) { 20 } else { 20_000 };

fn seeds() -> Vec<Vec<u8>> {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    };
    let lines = include_str!("vectors/outbound.txt")
        .lines()
        .filter(|l| !l.starts_with('#'));
    lines
        .flat_map(|l| l.rsplit(' ').take(2).map(hex).collect::<Vec<_>>())
        .collect()
}

fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}

/// Flips, overwrites, cuts and grows.
fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    const INTERESTING: [u8; 12] = [0, 1, 4, 17, 41, 43, 44, 50, 59, 60, 0x7f, 0xff];
    for _ in 0..next(state) % 6 {
        let at = next(state) % bytes.len().clamp(1, 64);
        let value = INTERESTING[next(state) % INTERESTING.len()];
        match (next(state) % 5, bytes.get_mut(at)) {
            (0, _) => bytes.truncate(at),
            (1, _) => bytes.extend(std::iter::repeat_n(value, at)),
            (2, Some(byte)) => *byte ^= 1 << (value & 7),
            (_, Some(byte)) => *byte = value,
            (_, None) => bytes.push(value),
        }
    }
}

#[test]
fn no_bytes_break_the_rules() {
    let seeds = seeds();
    for round in 1..=ROUNDS {
        let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = seeds[next(&mut state) % seeds.len()].clone();
        if next(&mut state) & 1 == 0 {
            let ethertype = if bytes[0] >> 4 == 4 {
                [8, 0]
            } else {
                [0x86, 0xdd]
            };
            bytes.splice(0..0, [2; 12].into_iter().chain(ethertype));
        }
        mutate(&mut bytes, &mut state);
        let result = std::panic::catch_unwind(|| exercise::frame(&bytes));
        assert!(result.is_ok(), "round {round}: {bytes:02x?}");
    }
}

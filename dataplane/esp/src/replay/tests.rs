use super::*;
use std::collections::HashSet;

/// The state of a window, owned.
struct State {
    ring: Vec<AtomicU64>,
    newest: Newest,
    bits: u32,
}

impl State {
    fn new(bits: u32, highest: u64) -> Self {
        Self {
            ring: (0..words_for(bits)).map(|_| AtomicU64::new(0)).collect(),
            newest: [AtomicU64::new(highest), AtomicU64::new(0)],
            bits,
        }
    }

    fn window(&self) -> Window<'_> {
        Window::new(&self.ring, &self.newest, self.bits).unwrap()
    }

    fn values(&self) -> Values {
        let value = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let [highest, word] = self.newest.each_ref().map(value);
        Values {
            ring: self.ring.iter().map(value).collect(),
            highest,
            word,
        }
    }

    fn set_values(&self, values: &Values) {
        let words = self.ring.iter().chain(&self.newest);
        let values = values.ring.iter().chain([&values.highest, &values.word]);
        for (word, value) in words.zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
    }
}

/// What a kill leaves.
struct Values {
    ring: Vec<u64>,
    highest: u64,
    word: u64,
}

/// The definition: a set of all numbers, and the highest.
#[derive(Default)]
struct Naive {
    seen: HashSet<u64>,
    highest: u64,
}

impl Naive {
    fn commit(&mut self, sequence: u64, bits: u32) -> Verdict {
        if sequence == 0 {
            return Verdict::Zero;
        }
        if u128::from(sequence) + u128::from(bits) <= u128::from(self.highest) {
            return Verdict::Late;
        }
        if !self.seen.insert(sequence) {
            return Verdict::Duplicate;
        }
        self.highest = self.highest.max(sequence);
        Verdict::Fresh
    }
}

/// xorshift64*: seeds are printed by the assertions that use it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

const SIZES: [u32; 10] = [32, 33, 63, 64, 65, 100, 128, 1000, 4096, 65_536];
const STEPS: usize = if cfg!(miri) { 200 } else { 4000 };

/// A number near the window: mostly ahead by little, or behind by up to two windows.
fn near(random: &mut Random, highest: u64, bits: u64) -> u64 {
    let step = match random.below(8) {
        0..3 => return highest.saturating_add(1),
        3 => random.below(4),
        4 => random.below(bits + 2),
        5 => random.below(bits * 3),
        _ => return highest.saturating_sub(random.below(bits * 2)),
    };
    highest.saturating_add(step)
}

#[test]
fn equals_a_naive_set() {
    for bits in SIZES {
        for start in [
            0,
            1,
            u64::from(u32::MAX) - 70,
            u64::MAX - 100_000,
            u64::MAX - 1000,
        ] {
            let mut random = Random(start ^ u64::from(bits) ^ 0x9e37_79b9_7f4a_7c15);
            let state = State::new(bits, start);
            let mut naive = Naive {
                highest: start,
                ..Naive::default()
            };
            for step in 0..STEPS {
                let sequence = near(&mut random, naive.highest, u64::from(bits));
                let expected = naive.commit(sequence, bits);
                let window = state.window();
                let at = format!("window {bits}, start {start}, step {step}, {sequence}");
                assert_eq!(window.check(sequence), expected, "check: {at}");
                assert_eq!(window.commit(sequence), expected, "commit: {at}");
                assert_eq!(window.highest(), naive.highest, "highest: {at}");
            }
        }
    }
}

/// RFC 4303 3.4.3: a window of W accepts the last W numbers, no more and no fewer.
#[test]
fn edges_of_the_window() {
    for bits in SIZES {
        let state = State::new(bits, 0);
        let window = state.window();
        let top = u64::from(bits) * 5 + 17;
        assert_eq!(window.commit(top), Verdict::Fresh);
        assert_eq!(
            window.check(top - u64::from(bits)),
            Verdict::Late,
            "window {bits}"
        );
        assert_eq!(
            window.commit(top - u64::from(bits) + 1),
            Verdict::Fresh,
            "window {bits}"
        );
        assert_eq!(window.commit(top - u64::from(bits) + 1), Verdict::Duplicate);
        assert_eq!(window.commit(top), Verdict::Duplicate);
        assert_eq!(window.commit(0), Verdict::Zero);
        assert_eq!(window.highest(), top);
    }
}

#[test]
fn every_number_is_accepted_once_whatever_the_order() {
    for bits in [32, 64, 100, 4096] {
        let state = State::new(bits, 0);
        let span = u64::from(bits);
        for sequence in (1..=span).rev() {
            assert_eq!(
                state.window().commit(sequence),
                Verdict::Fresh,
                "{sequence} of {bits}"
            );
        }
        for sequence in 1..=span {
            assert_eq!(state.window().commit(sequence), Verdict::Duplicate);
        }
        assert_eq!(state.window().commit(span + 1), Verdict::Fresh);
        assert_eq!(state.window().commit(1), Verdict::Late);
    }
}

#[test]
fn the_last_number_does_not_overflow() {
    let state = State::new(64, u64::MAX - 3);
    let window = state.window();
    assert_eq!(window.commit(u64::MAX), Verdict::Fresh);
    assert_eq!(window.commit(u64::MAX), Verdict::Duplicate);
    assert_eq!(window.commit(u64::MAX - 63), Verdict::Fresh);
    assert_eq!(window.commit(u64::MAX - 64), Verdict::Late);
    assert_eq!(window.infer(0), None, "beyond the last number");
    assert_eq!(window.infer(u32::MAX), Some(u64::MAX));
}

#[test]
fn a_switched_off_window_takes_everything_and_follows_the_highest() {
    let state = State::new(0, 0);
    for sequence in [5, 5, 1, 0x1_0000_0000, 7] {
        assert_eq!(state.window().commit(sequence), Verdict::Fresh);
    }
    assert_eq!(state.window().highest(), 0x1_0000_0000);
    assert_eq!(state.window().infer(9), Some(0x1_0000_0009));
    assert_eq!(state.window().infer(0xffff_fff0), Some(0xffff_fff0));
}

#[test]
fn sizes_are_checked() {
    let newest = [const { AtomicU64::new(0) }; 2];
    for (bits, words) in [
        (32, 1),
        (64, 1),
        (65, 2),
        (100, 2),
        (129, 4),
        (4096, 64),
        (65_536, 1024),
    ] {
        assert_eq!(words_for(bits), words);
    }
    for bits in [1, 31, 65_537, u32::MAX] {
        assert_eq!(
            Window::new(&[], &newest, bits).err(),
            Some(WindowError::Size(bits))
        );
    }
    let words = [const { AtomicU64::new(0) }; 3];
    assert_eq!(
        Window::new(&words, &newest, 64).err(),
        Some(WindowError::Words(3))
    );
    assert_eq!(
        Window::new(&words[..0], &newest, 64).err(),
        Some(WindowError::Words(0))
    );
    assert_eq!(
        Window::new(&words, &newest, 0).err(),
        Some(WindowError::Words(3))
    );
    assert!(Window::new(&words[..2], &newest, 65).is_ok());
}

/// RFC 4303 A2.1: every true number inside the window, or up to 2^32 - W ahead, is inferred right.
#[test]
fn inference_finds_the_true_number() {
    let edges = [
        0_u64,
        1,
        31,
        63,
        64,
        100,
        1 << 31,
        (1 << 32) - 64,
        (1 << 32) - 1,
        1 << 32,
    ];
    let tops = edges
        .iter()
        .flat_map(|e| [*e, e + (1 << 32), e + (7 << 32), e + (1 << 63)]);
    for top in tops {
        for bits in [32_u32, 64, 4096, 65_536] {
            let state = State::new(bits, top);
            let window = i128::from(bits);
            let reach = (1_i128 << 32) - window;
            let offsets = [
                1 - window,
                2 - window,
                -31,
                -1,
                0,
                1,
                2,
                window,
                reach - 1,
                reach,
            ];
            for offset in offsets {
                let truth = i128::from(top) + offset;
                let Ok(truth) = u64::try_from(truth) else {
                    continue;
                };
                let (_, low) = halves(truth);
                assert_eq!(
                    state.window().infer(low),
                    Some(truth),
                    "top {top}, window {bits}"
                );
            }
        }
    }
}

/// Before the first number there is nothing: a high low half at the start is not "minus one".
#[test]
fn inference_refuses_numbers_before_the_first() {
    let state = State::new(64, 5);
    assert_eq!(state.window().infer(u32::MAX), None);
    assert_eq!(state.window().infer(u32::MAX - 57), None);
    assert_eq!(
        state.window().infer(u32::MAX - 58),
        Some(u64::from(u32::MAX - 58))
    );
}

#[test]
fn esn_wraps_in_order_and_out_of_order() {
    let state = State::new(64, 0xffff_fff0);
    let order = [
        0xffff_fffe_u64,
        0x1_0000_0001,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0003,
    ];
    for sequence in order {
        let (_, low) = halves(sequence);
        assert_eq!(state.window().infer(low), Some(sequence));
        assert_eq!(state.window().commit(sequence), Verdict::Fresh);
        assert_eq!(state.window().commit(sequence), Verdict::Duplicate);
    }
}

/// Whatever stores of one commit made it before a kill, no number accepted earlier is fresh again.
///
/// Before `highest` moves, nothing or one place of the ring has changed. After that it is any of the
/// other words, old or new: taking every subset covers every place to be cut, in whatever order they
/// were stored.
#[test]
fn an_interrupted_commit_never_forgets() {
    let mut random = Random(0xdead_beef);
    let mut left = 0;
    for round in 0..if cfg!(miri) { 10 } else { 2000 } {
        let bits = [32, 64, 100, 256][round % 4];
        let state = State::new(bits, 0);
        let mut accepted = Vec::new();
        for _ in 0..random.below(200) {
            let sequence = near(&mut random, state.window().highest(), u64::from(bits));
            if state.window().commit(sequence) == Verdict::Fresh {
                accepted.push(sequence);
            }
        }
        let before = state.values();
        let next = near(&mut random, state.window().highest(), u64::from(bits));
        if state.window().commit(next) != Verdict::Fresh {
            continue;
        }
        let after = state.values();
        let cut = |values: &Values| {
            state.set_values(values);
            for sequence in &accepted {
                let verdict = state.window().check(*sequence);
                assert_ne!(
                    verdict,
                    Verdict::Fresh,
                    "{sequence} forgotten in round {round}"
                );
            }
        };
        let moved = if after.highest >> 6 == before.highest >> 6 {
            before
        } else {
            left += 1;
            state.set_values(&before);
            state.window().leave_word(before.highest);
            let values = state.values();
            cut(&values);
            values
        };
        for kept in 0_u32..2 << moved.ring.len() {
            let pick = |at: usize, old: u64, new: u64| if kept >> at & 1 == 1 { old } else { new };
            cut(&Values {
                ring: (0..moved.ring.len())
                    .map(|at| pick(at, moved.ring[at], after.ring[at]))
                    .collect(),
                highest: after.highest,
                word: pick(moved.ring.len(), moved.word, after.word),
            });
        }
    }
    assert!(left > if cfg!(miri) { 0 } else { 100 }, "only {left}");
}

/// The twin: `highest` last, cut before it, does forget. This is why the order is as it is.
#[test]
fn the_other_order_would_forget() {
    let state = State::new(64, 0);
    for sequence in 1..=64 {
        assert_eq!(state.window().commit(sequence), Verdict::Fresh);
    }
    assert_eq!(state.window().commit(150), Verdict::Fresh);
    let [highest, _] = &state.newest;
    highest.store(64, Ordering::Relaxed);
    assert_eq!(state.window().check(10), Verdict::Fresh);
}

/// And so does the word of the highest number, if it is left after `highest` has moved, or not at all.
#[test]
fn a_word_that_is_not_in_the_ring_would_be_forgotten() {
    let state = State::new(64, 0);
    for sequence in 1..=63 {
        assert_eq!(state.window().commit(sequence), Verdict::Fresh);
    }
    let [highest, _] = &state.newest;
    highest.store(64, Ordering::Relaxed);
    assert_eq!(state.window().check(10), Verdict::Fresh);
}

/// The order of stores itself, with one of the words lying in another: the later store wins.
#[test]
fn stores_come_in_their_order() {
    let values = |newest: &Newest| newest.each_ref().map(|word| word.load(Ordering::Relaxed));
    let newest = |highest, word| [AtomicU64::new(highest), AtomicU64::new(word)];
    // The ring is where `highest` is. In order, only the word that is left goes there: before it.
    let state = newest(63, 0b10);
    let ring = core::slice::from_ref(&state[0]);
    let window = Window::new(ring, &state, 64).unwrap();
    assert_eq!(window.commit(64), Verdict::Fresh);
    assert_eq!(values(&state), [64, 1]);
    // What was jumped over is cleared after it.
    let state = newest(0, 0);
    let ring = core::slice::from_ref(&state[0]);
    let window = Window::new(ring, &state, 64).unwrap();
    assert_eq!(window.commit(100), Verdict::Fresh);
    assert_eq!(values(&state), [0, 1 << (100 % 64)]);
    // The ring is where the newest word is, and that word comes last.
    let state = newest(63, 0b10);
    let ring = core::slice::from_ref(&state[1]);
    let window = Window::new(ring, &state, 64).unwrap();
    assert_eq!(window.commit(64), Verdict::Fresh);
    assert_eq!(values(&state), [64, 1]);
}

/// Bits above the highest number, which an interrupted commit or a start that closes all below it leaves,
/// say nothing once that number has moved.
#[test]
fn bits_ahead_of_the_highest_number_are_cleared() {
    for next in [1002, 1030, 1090] {
        let state = State::new(128, 1000);
        state.set_values(&Values {
            ring: vec![u64::MAX; 2],
            highest: 1000,
            word: u64::MAX,
        });
        let window = state.window();
        assert_eq!(window.commit(next), Verdict::Fresh);
        assert_eq!(window.check(1000), Verdict::Duplicate, "{next}");
        for sequence in 1001..next {
            assert_eq!(
                window.commit(sequence),
                Verdict::Fresh,
                "{sequence} behind {next}"
            );
        }
    }
}

/// A packet in order touches the newest words alone; the first one of a word also the place that it is
/// told to ask for.
#[test]
fn a_packet_in_order_leaves_the_ring_alone() {
    let state = State::new(256, 0);
    for sequence in 1..256 {
        let before = state.values();
        let left = state.window().left_by(sequence).map(core::ptr::from_ref);
        assert_eq!(state.window().commit(sequence), Verdict::Fresh);
        let after = state.values();
        for (at, word) in state.ring.iter().enumerate() {
            let changed = before.ring[at] != after.ring[at];
            assert_eq!(
                changed,
                left == Some(core::ptr::from_ref(word)),
                "{sequence}"
            );
        }
    }
}

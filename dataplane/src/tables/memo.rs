//! What a worker remembers of answers that are the same until tables change: one probe instead of
//! several searches. Nothing is ever deleted: a question names the version of the tables that its
//! answer counts for.

use std::hash::{BuildHasher, RandomState};

use crate::memory::{Entries, prefetch};

/// An answer is remembered in its place or in the one beside it, which with entries of 32 bytes is in
/// the same cache line. Where a question stands depends on secret factors, so that nobody can make
/// questions collide on purpose. An entry has `N` words: the question, all of it with the version last,
/// and the answer.
pub struct Memo<const N: usize> {
    entries: Entries<N>,
    factors: [u64; 2],
    shift: u32,
}

/// Where the answer to a question would be.
#[derive(Clone, Copy, Debug)]
pub struct Place(u32);

impl Place {
    /// That of no question.
    pub const NONE: Self = Self(u32::MAX);

    #[inline(always)]
    const fn beside(self) -> Self {
        Self(self.0 ^ 1)
    }
}

impl<const N: usize> Memo<N> {
    /// Room for this many answers, 2 to 2^30, rounded up to a power of two.
    #[must_use]
    pub fn new(answers: u32) -> Self {
        let answers = answers.clamp(2, 1 << 30).next_power_of_two();
        let random = RandomState::new();
        Self {
            entries: Entries::new(answers as usize),
            factors: [0, 1].map(|n: u8| random.hash_one(n) | 1),
            shift: u64::BITS - answers.trailing_zeros(),
        }
    }

    /// The first half of a look: computes the place from words of the question that tell it from
    /// others, and asks for it.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, words: &[u64]) -> Place {
        let [first, second] = self.factors;
        let (last, others) = words.split_last().unwrap_or((&0, &[]));
        // The high half of a product mixes all bits below it; once a word mixes all words.
        let mixed = others.iter().fold(0, |mixed: u64, word| {
            (mixed ^ word).wrapping_mul(first).rotate_left(32)
        });
        let hash = (mixed ^ last).wrapping_mul(second);
        let [.., a, b, c, d] = (hash >> self.shift).to_be_bytes();
        let place = u32::from_be_bytes([a, b, c, d]);
        if let Some(entry) = self.entries.get(place as usize) {
            prefetch(entry);
        }
        Place(place)
    }

    /// The second half: the answer, if it is remembered.
    #[inline(always)]
    #[must_use]
    pub fn recall<const Q: usize>(&self, place: Place, question: &[u64; Q]) -> Option<u64> {
        const {
            assert!(
                Q + 1 == N,
                "a question is all of an entry but the last word"
            )
        };
        self.compare(place, question)
            .or_else(|| self.compare(place.beside(), question))
    }

    #[inline(always)]
    fn compare<const Q: usize>(&self, place: Place, question: &[u64; Q]) -> Option<u64> {
        let entry = self.entries.get(place.0 as usize)?;
        let differs = entry
            .iter()
            .zip(question)
            .fold(0, |differs, (held, asked)| differs | (held ^ asked));
        (differs == 0).then_some(*entry.last()?)
    }

    /// Remembers an answer: beside its place if that is taken and the other one is not, by an answer
    /// of this version. So where three questions meet, one of them keeps its answer. Versions are not 0.
    pub fn remember<const Q: usize>(&mut self, place: Place, question: &[u64; Q], answer: u64) {
        let other = |place: Place| {
            self.entries.get(place.0 as usize).is_some_and(|entry| {
                let held = entry.split_last().map_or(&[][..], |(_, held)| held);
                held.last() == question.last() && held != question
            })
        };
        let beside = other(place) && !other(place.beside());
        let place = if beside { place.beside() } else { place };
        if let Some(entry) = self.entries.get_mut(place.0 as usize)
            && let Some((last, words)) = entry.split_last_mut()
        {
            words.copy_from_slice(question);
            *last = answer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_its_question_only() {
        let mut memo = Memo::<4>::new(1);
        let question = [1, 2, 3];
        let place = memo.place(&question);
        assert_eq!(memo.recall(place, &question), None);
        memo.remember(place, &question, 77);
        assert_eq!(memo.recall(place, &question), Some(77));
        for other in [[0, 2, 3], [1, 3, 3], [1, 2, 4]] {
            assert_eq!(memo.recall(place, &other), None);
        }
        // A question that meets it does not displace it, a third one meets one of both.
        let others = [[4, 2, 3], [5, 2, 3]];
        memo.remember(place, &others[0], 78);
        assert_eq!(memo.recall(place, &question), Some(77));
        assert_eq!(memo.recall(place, &others[0]), Some(78));
        memo.remember(place, &others[1], 79);
        let held = |question| memo.recall(place, question);
        assert_eq!(
            [&question, &others[0], &others[1]].map(held),
            [None, Some(78), Some(79)]
        );
        // What is of another version makes room.
        for question in [[1, 2, 4], [4, 2, 4]] {
            memo.remember(place, &question, question[0]);
        }
        assert_eq!(memo.recall(place, &[1, 2, 4]), Some(1));
        assert_eq!(memo.recall(place, &[4, 2, 4]), Some(4));
        assert_eq!(memo.recall(place, &others[1]), None);
        memo.remember(Place::NONE, &question, 78);
        assert_eq!(memo.recall(Place::NONE, &question), None);
    }

    #[test]
    fn neighbouring_questions_spread() {
        let memo = Memo::<4>::new(1 << 12);
        let questions = (0..1024_u64).map(|n| [10 << 56 | n, 4000 << 16 | 5000]);
        let places: std::collections::HashSet<u32> = questions.map(|q| memo.place(&q).0).collect();
        // Thrown at random, 1,024 of 4,096 places would leave about 906 different ones.
        assert!(places.len() > 800, "{}", places.len());
    }
}

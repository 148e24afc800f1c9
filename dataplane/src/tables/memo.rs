//! What a worker remembers of answers that are the same until tables change: one probe instead of
//! several searches. Nothing is ever deleted: a question names the version of the tables that its
//! answer counts for.

use std::hash::{BuildHasher, RandomState};

use crate::memory::{Entries, prefetch};

/// Direct-mapped; a new answer displaces the one in its place. Where a question stands depends on
/// secret factors, so that nobody can make questions collide on purpose. An entry has `N` words: the
/// question, all of it, and the answer in the last one.
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
        let [a, b] = self.factors;
        let (last, others) = words.split_last().unwrap_or((&0, &[]));
        // The high half of a product mixes all bits below it; once a word mixes all words.
        let mixed = others.iter().fold(0, |mixed: u64, word| {
            (mixed ^ word).wrapping_mul(a).rotate_left(32)
        });
        let hash = (mixed ^ last).wrapping_mul(b);
        let place = u32::try_from(hash >> self.shift).unwrap_or(0);
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
        let entry = self.entries.get(place.0 as usize)?;
        let differs = entry
            .iter()
            .zip(question)
            .fold(0, |differs, (held, asked)| differs | (held ^ asked));
        (differs == 0).then_some(*entry.last()?)
    }

    /// Remembers an answer. Questions have some word, as the version, that is not 0.
    pub fn remember<const Q: usize>(&mut self, place: Place, question: &[u64; Q], answer: u64) {
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
        memo.remember(Place::NONE, &question, 78);
        assert_eq!(memo.recall(Place::NONE, &question), None);
        assert_eq!(memo.recall(place, &question), Some(77));
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

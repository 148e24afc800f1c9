//! What a worker remembers of answers that are the same until tables change: one probe instead of
//! several searches. Nothing is ever deleted: an answer counts for one version of the tables.

use std::hash::{BuildHasher, RandomState};

use crate::memory::{Entries, prefetch};

/// Direct-mapped; a new answer displaces the one in its place. Where a question stands depends on
/// secret factors, so that nobody can make questions collide on purpose. An entry is question (two
/// words), version, answer.
pub struct Memo {
    entries: Entries,
    factors: [u64; 2],
    shift: u32,
}

/// A question: two words that say all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question(pub u64, pub u64);

/// Where the answer to a question would be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(u32);

impl Place {
    /// That of no question.
    pub const NONE: Self = Self(0);
}

impl Memo {
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

    /// The first half of a look: computes the place and asks for it.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, question: Question) -> Place {
        let [a, b] = self.factors;
        // The high half of a product mixes all bits below it; twice mixes both words.
        let hash = (question.0.wrapping_mul(a).rotate_left(32) ^ question.1).wrapping_mul(b);
        let place = u32::try_from(hash >> self.shift).unwrap_or(0);
        if let Some(entry) = self.entries.get(place as usize) {
            prefetch(entry);
        }
        Place(place)
    }

    /// The second half: the answer, if it is remembered and of this version.
    #[inline(always)]
    #[must_use]
    pub fn recall(&self, place: Place, question: Question, version: u64) -> Option<u64> {
        let [first, second, of, answer] = *self.entries.get(place.0 as usize)?;
        (first == question.0 && second == question.1 && of == version).then_some(answer)
    }

    /// Remembers an answer. Version 0 is that of no answer.
    pub fn remember(&mut self, place: Place, question: Question, version: u64, answer: u64) {
        if let Some(entry) = self.entries.get_mut(place.0 as usize) {
            *entry = [question.0, question.1, version, answer];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_its_question_and_version_only() {
        let mut memo = Memo::new(1);
        let question = Question(1, 2);
        let place = memo.place(question);
        assert_eq!(memo.recall(place, question, 1), None);
        memo.remember(place, question, 1, 77);
        assert_eq!(memo.recall(place, question, 1), Some(77));
        assert_eq!(memo.recall(place, question, 2), None);
        assert_eq!(memo.recall(place, Question(1, 3), 1), None);
        assert_eq!(memo.recall(place, Question(0, 2), 1), None);
    }

    #[test]
    fn neighbouring_questions_spread() {
        let memo = Memo::new(1 << 12);
        let questions = (0..1024_u64).map(|n| Question(10 << 56 | n, 4000 << 16 | 5000));
        let places: std::collections::HashSet<u32> = questions.map(|q| memo.place(q).0).collect();
        // Thrown at random, 1,024 of 4,096 places would leave about 906 different ones.
        assert!(places.len() > 800, "{}", places.len());
    }
}

//! How the rules of a base and those that changed since stand to each other.

use super::Rule;

/// Numbers of one direction: those of the base come first, those of changed rules behind. A rule
/// of the base that changed or was deleted is dead.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Rules of the base.
    base_len: u32,
    /// A bit for each rule of the base.
    dead: Box<[u64]>,
    /// Of each changed rule: how many rules of the base go before it.
    before: Box<[u32]>,
}

/// What the order goes by.
pub(super) fn key(rule: &Rule) -> (u32, u32) {
    (rule.priority, rule.id.0)
}

impl Order {
    /// Both lists are in order; `gone` are keys of rules that the base has.
    pub(super) fn new(base: &[Rule], gone: &[(u32, u32)], changed: &[Rule]) -> Self {
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let mut dead = vec![0_u64; base.len().div_ceil(64)];
        for gone in gone {
            if let Ok(at) = base.binary_search_by_key(gone, key)
                && let Some(word) = dead.get_mut(at / 64)
            {
                *word |= 1 << (at % 64);
            }
        }
        let before = |rule: &Rule| number(base.partition_point(|held| key(held) < key(rule)));
        Self {
            base_len: number(base.len()),
            dead: dead.into(),
            before: changed.iter().map(before).collect(),
        }
    }

    /// Whether the rule of the base still counts.
    #[inline]
    pub(super) fn lives(&self, rule: u32) -> bool {
        let word = self.dead.get(rule as usize / 64);
        word.is_none_or(|word| word >> (rule % 64) & 1 == 0)
    }

    /// Numbers of rules of the base that count no more.
    pub(super) fn dead(&self) -> impl Iterator<Item = usize> {
        let words = self.dead.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(at, word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 != 0);
            bits.map(move |bit| at * 64 + bit)
        })
    }

    /// Rules of the base below this number go before the changed rule; without one, all.
    #[inline]
    pub(super) fn bound(&self, changed: u32) -> u32 {
        let before = self.before.get(changed as usize);
        before.copied().unwrap_or(u32::MAX)
    }

    /// The number of a changed rule among all; that of none stays.
    #[inline]
    pub(super) fn number(&self, changed: u32) -> u32 {
        self.base_len.saturating_add(changed)
    }
}

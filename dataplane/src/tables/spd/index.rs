//! The rules of one direction and family, found without trying them all: tuple-space search.
//!
//! Rules whose selectors are prefixes stand in groups, a hash table for each pair of prefix
//! lengths. A range is cut into prefixes if they are few; the other rules are scanned in order.
//! Groups are searched in the order of their best rules, so that a search ends when nothing that
//! is left can go before what was found.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Rule;
use super::conditions::RangeRule;
use super::flow::{Best, FlowOf, Match};
use super::hash::{HashTable, Key, Start};
use super::order::Order;
use super::prefixes::{Prefix, split};
use crate::tables::address::Address;

/// Most pairs of prefixes that one rule is cut into.
const MAX_PIECES: usize = 16;
/// So many rules with ranges are scanned faster than found as prefixes of many lengths.
const FEW_RANGES: usize = 8;
/// Groups whose place in memory is computed and fetched ahead.
const PREPARED: usize = 2;
/// Most rules that are looked at in a row before a cache of flows is faster.
const DIRECT_SCAN: usize = 4;

/// Numbers versions; 0 is the empty index.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

/// All rules of one direction and family: those of the base, and what changed since in front of
/// them.
#[derive(Debug, Default)]
pub struct Index<A> {
    base: Filed<A>,
    /// Without changes, which is usual, a search knows nothing of them.
    changed: Option<Box<Changed<A>>>,
    direct: bool,
    version: u64,
}

/// Rules in the order they were filed: immutable, and shared by many versions.
#[derive(Clone, Debug, Default)]
struct Filed<A> {
    groups: Arc<[Group<A>]>,
    /// In order.
    scanned: Arc<[RangeRule<A>]>,
    direct: bool,
    version: u64,
}

/// Rules that are newer than the base.
#[derive(Debug)]
struct Changed<A> {
    rules: Filed<A>,
    order: Arc<Order>,
}

/// Rules with the same two prefix lengths.
#[derive(Debug)]
struct Group<A> {
    local_mask: A,
    remote_mask: A,
    /// The first of its rules.
    first: u32,
    table: HashTable<A>,
}

/// A search that has begun: see [`Index::prepare`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    starts: [Start; PREPARED],
}

impl Probe {
    /// That of no search.
    pub const EMPTY: Self = Self {
        starts: [Start(0); PREPARED],
    };
}

impl<A: Address> Index<A> {
    /// Files the rules of this family; all come in the order they are tried.
    pub(super) fn new(rules: &[Rule]) -> Self {
        Self::of_base(Filed::new(rules))
    }

    /// The base of this index.
    pub(super) fn without_changes(&self) -> Self {
        Self::of_base(self.base.clone())
    }

    fn of_base(base: Filed<A>) -> Self {
        Self {
            direct: base.direct,
            version: base.version,
            base,
            changed: None,
        }
    }

    /// The base of this index with other changes: `rules` in the order they are tried.
    pub(super) fn with(&self, rules: &[Rule], order: &Arc<Order>) -> Self {
        let rules = Filed::new(rules);
        Self {
            base: self.base.clone(),
            direct: self.base.direct && rules.direct,
            version: rules.version,
            changed: Some(Box::new(Changed {
                rules,
                order: Arc::clone(order),
            })),
        }
    }

    /// Begins a search: computes where the rules of the first groups stand and fetches the lines.
    #[inline(always)]
    #[must_use]
    pub fn prepare(&self, flow: &FlowOf<A>) -> Probe {
        if let Some(changed) = &self.changed {
            changed.fetch(flow);
        }
        self.base.prepare(flow)
    }

    /// Ends the search: the first policy that matches; `None` is a discard. The probe must come
    /// from this index and this flow.
    #[inline(always)]
    #[must_use]
    pub fn finish(&self, probe: Probe, flow: &FlowOf<A>) -> Option<Match> {
        self.best_of(probe, flow).found()
    }

    /// Both halves of a search at once.
    #[inline]
    #[must_use]
    pub fn lookup(&self, flow: &FlowOf<A>) -> Option<Match> {
        self.best(flow).found()
    }

    pub(in crate::tables) fn best(&self, flow: &FlowOf<A>) -> Best {
        self.best_of(self.prepare(flow), flow)
    }

    #[inline(always)]
    fn best_of(&self, probe: Probe, flow: &FlowOf<A>) -> Best {
        match &self.changed {
            None => self.base.search(probe, flow, Best::NONE, |_| true),
            Some(changed) => self.best_with(changed, probe, flow),
        }
    }

    /// Searches what changed, then what of the base stands before the rule found there.
    #[inline(never)]
    fn best_with(&self, changed: &Changed<A>, probe: Probe, flow: &FlowOf<A>) -> Best {
        let (rules, order) = (&changed.rules, &changed.order);
        let newer = rules.search(rules.prepare(flow), flow, Best::NONE, |_| true);
        let bound = Best {
            rule: order.bound(newer.rule),
            verdict: newer.verdict,
        };
        let older = self
            .base
            .search(probe, flow, bound, |rule| order.lives(rule));
        if older.rule < bound.rule {
            return older;
        }
        Best {
            rule: order.number(newer.rule),
            verdict: newer.verdict,
        }
    }

    /// True when every search is short, so that a [`FlowCache`](crate::tables::flow_cache::FlowCache)
    /// only costs.
    #[must_use]
    #[inline]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    /// Differs from that of every other index of this process that holds a rule.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<A: Address> Changed<A> {
    /// Fetches lines for [`Index::best_with`], which computes once more where they are: a probe is
    /// no larger for what is seldom there.
    #[inline(never)]
    fn fetch(&self, flow: &FlowOf<A>) {
        let _ = self.rules.prepare(flow);
    }
}

impl<A: Address> Filed<A> {
    fn new(rules: &[Rule]) -> Self {
        let mut draft = Draft::default();
        let of_family = || numbered(rules).filter(|(_, rule)| is_of::<A>(rule));
        let ranges = of_family().filter(|(_, rule)| exact::<A>(rule).is_none());
        let most_pieces = if ranges.count() <= FEW_RANGES {
            1
        } else {
            MAX_PIECES
        };
        let mut scanned = Vec::new();
        for (number, rule) in of_family() {
            if let Some(pair) = exact(rule) {
                draft.add(number, rule, pair);
            } else if let Some(pairs) = pieces::<A>(rule, most_pieces) {
                pairs.for_each(|pair| draft.add(number, rule, pair));
            } else {
                scanned.extend(RangeRule::new(number, rule));
            }
        }
        let groups = draft.into_groups(rules);
        let lists = groups.iter().map(|group| group.table.longest_list());
        let direct = groups.len() <= PREPARED
            && scanned.len() <= DIRECT_SCAN
            && lists.max().unwrap_or(0) <= DIRECT_SCAN;
        Self {
            groups: groups.into(),
            scanned: scanned.into(),
            direct,
            version: NEXT_VERSION.fetch_add(1, Ordering::Relaxed),
        }
    }

    #[inline(always)]
    fn prepare(&self, flow: &FlowOf<A>) -> Probe {
        let mut probe = Probe::default();
        for (start, group) in probe.starts.iter_mut().zip(self.groups.iter()) {
            *start = group.table.start(&group.key(flow));
            group.table.prefetch(*start);
        }
        probe
    }

    /// The first rule that matches, `lives` and goes before `best`, else `best`.
    #[inline(always)]
    fn search(
        &self,
        probe: Probe,
        flow: &FlowOf<A>,
        mut best: Best,
        lives: impl Fn(u32) -> bool + Copy,
    ) -> Best {
        let mut groups = self.groups.iter();
        for (start, group) in probe.starts.into_iter().zip(groups.by_ref()) {
            if group.first >= best.rule {
                return self.scan(flow, best, lives);
            }
            best = group
                .table
                .search(start, &group.key(flow), flow, best, lives);
        }
        self.search_rest(groups.as_slice(), flow, best, lives)
    }

    #[inline]
    fn search_rest(
        &self,
        groups: &[Group<A>],
        flow: &FlowOf<A>,
        mut best: Best,
        lives: impl Fn(u32) -> bool + Copy,
    ) -> Best {
        for group in groups {
            if group.first >= best.rule {
                break;
            }
            let key = group.key(flow);
            let start = group.table.start(&key);
            best = group.table.search(start, &key, flow, best, lives);
        }
        self.scan(flow, best, lives)
    }

    #[inline]
    fn scan(&self, flow: &FlowOf<A>, best: Best, lives: impl Fn(u32) -> bool) -> Best {
        let better = self.scanned.iter().take_while(|rule| rule.rule < best.rule);
        let found = better
            .into_iter()
            .find(|rule| rule.matches(flow) && lives(rule.rule));
        found.map_or(best, |rule| Best {
            rule: rule.rule,
            verdict: rule.verdict,
        })
    }
}

impl<A: Address> Group<A> {
    #[inline(always)]
    fn key(&self, flow: &FlowOf<A>) -> Key<A> {
        Key {
            vrf: flow.vrf,
            local: flow.local.and(self.local_mask),
            remote: flow.remote.and(self.remote_mask),
        }
    }
}

type Pair<A> = (Prefix<A>, Prefix<A>);
/// Keys and the rules that have them.
type Keys<A> = Vec<(Key<A>, u32)>;

/// Groups as they fill.
struct Draft<A> {
    /// Both prefix lengths and, in order, the keys.
    groups: Vec<((u32, u32), Keys<A>)>,
    by_bits: HashMap<(u32, u32), usize, foldhash::fast::RandomState>,
}

impl<A> Default for Draft<A> {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            by_bits: HashMap::default(),
        }
    }
}

impl<A: Address> Draft<A> {
    /// Rules come in order, so a group is there before all that begin with a later rule.
    fn add(&mut self, number: u32, rule: &Rule, (local, remote): Pair<A>) {
        let bits = (local.bits, remote.bits);
        let groups = &mut self.groups;
        let group = *self.by_bits.entry(bits).or_insert_with(|| {
            groups.push((bits, Vec::new()));
            groups.len() - 1
        });
        let key = Key {
            vrf: rule.vrf,
            local: local.first,
            remote: remote.first,
        };
        if let Some((_, keys)) = self.groups.get_mut(group) {
            keys.push((key, number));
        }
    }

    fn into_groups(self, rules: &[Rule]) -> Vec<Group<A>> {
        let group = |((local, remote), keys): (_, Keys<A>)| Group {
            local_mask: A::prefix_mask(local),
            remote_mask: A::prefix_mask(remote),
            first: keys.first().map_or(u32::MAX, |&(_, number)| number),
            table: HashTable::new(&keys, rules),
        };
        self.groups.into_iter().map(group).collect()
    }
}

fn numbered(rules: &[Rule]) -> impl Iterator<Item = (u32, &Rule)> {
    (0_u32..).zip(rules)
}

fn is_of<A: Address>(rule: &Rule) -> bool {
    A::of(rule.selector.local.first).is_some() && A::of(rule.selector.remote.first).is_some()
}

/// Both selectors, if they are prefixes.
fn exact<A: Address>(rule: &Rule) -> Option<Pair<A>> {
    let local = rule.selector.local;
    let remote = rule.selector.remote;
    let prefix = |first, bits| {
        Some(Prefix {
            first: A::of(first)?,
            bits,
        })
    };
    Some((
        prefix(local.first, local.prefix_bits()?)?,
        prefix(remote.first, remote.prefix_bits()?)?,
    ))
}

/// The pairs of prefixes that make up both selectors, if they are not too many.
fn pieces<A: Address>(rule: &Rule, most: usize) -> Option<impl Iterator<Item = Pair<A>>> {
    let local = split::<A>(&rule.selector.local, most)?;
    let remote = split::<A>(&rule.selector.remote, most)?;
    let pairs = local.len() * remote.len();
    let all = local.into_iter().flat_map(move |local| {
        remote
            .clone()
            .into_iter()
            .map(move |remote| (local, remote))
    });
    (pairs <= most).then_some(all)
}

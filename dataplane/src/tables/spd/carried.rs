//! What each child carries (RFC 4301 5.2 step 4): a record for each slot, in one cache line.

use std::collections::HashMap;
use std::sync::Arc;

use api::id::{ChildId, Vrf};

use super::conditions::{Conditions, RangeRule};
use super::flow::FlowOf;
use super::{Child, Decision, Rule, Spd};
use crate::tables::address::Address;

/// The inbound protect rules of each child: those of the base, which many versions share, unless
/// one of the child's rules changed since.
#[derive(Debug, Default)]
pub(super) struct Carried {
    base: Arc<Base>,
    changed: Option<Box<Changed>>,
}

/// What the base says.
#[derive(Debug, Default)]
struct Base {
    records: Vec<Record>,
    /// Rules of children that have several, each child's in a row.
    v4: Vec<RangeRule<u32>>,
    v6: Vec<RangeRule<u128>>,
    slots: HashMap<ChildId, u32, foldhash::fast::RandomState>,
    /// Slots and their rules' numbers, in order.
    rules: Vec<(u32, u32)>,
}

/// Children some of whose rules changed: all that they carry now, and the slots they have now.
#[derive(Debug, Default)]
struct Changed {
    carries: HashMap<u32, Rules, foldhash::fast::RandomState>,
    slots: HashMap<ChildId, Option<u32>, foldhash::fast::RandomState>,
}

/// Rules of one child.
#[derive(Debug, Default)]
struct Rules {
    v4: Vec<RangeRule<u32>>,
    v6: Vec<RangeRule<u128>>,
}

impl Rules {
    fn add(&mut self, rule: &Rule) {
        self.v4.extend(RangeRule::new(0, rule));
        self.v6.extend(RangeRule::new(0, rule));
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
enum Record {
    /// No rule.
    #[default]
    Nothing,
    /// One rule of IPv4.
    V4(RangeRule<u32>),
    /// One rule of IPv6, both of whose selectors are prefixes.
    V6(PrefixRule),
    /// Anything else.
    Several { v4: Run, v6: Run },
}

const _: () = assert!(size_of::<Record>() == 64);

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    begin: u32,
    len: u32,
}

/// A rule whose selectors are prefixes of IPv6.
#[derive(Clone, Copy, Debug)]
struct PrefixRule {
    local: u128,
    remote: u128,
    local_host_bits: u8,
    remote_host_bits: u8,
    vrf: Vrf,
    conditions: Conditions,
}

fn child_of(rule: &Rule) -> Option<&Child> {
    match &rule.decision {
        Decision::Protect(child) => Some(child),
        Decision::Bypass | Decision::Discard => None,
    }
}

impl Carried {
    /// Files the rules of one direction.
    pub(super) fn new(rules: &[Rule]) -> Self {
        Self {
            base: Arc::new(Base::new(rules)),
            changed: None,
        }
    }

    /// The same base with what the direction says now.
    pub(super) fn with(&self, spd: &Spd) -> Self {
        let mut changed = Changed::default();
        let dead = spd.order.dead().filter_map(|at| spd.base.get(at));
        for child in dead.filter_map(child_of) {
            changed.carries.insert(child.slot, Rules::default());
            changed.slots.insert(child.id, None);
        }
        for child in spd.changed.iter().filter_map(child_of) {
            changed.carries.insert(child.slot, Rules::default());
        }
        for (slot, rules) in &mut changed.carries {
            for number in self.base.rules_of(*slot) {
                let rule = usize::try_from(number).ok().and_then(|at| spd.base.get(at));
                if let Some(rule) = rule.filter(|_| spd.order.lives(number)) {
                    rules.add(rule);
                    changed
                        .slots
                        .extend(child_of(rule).map(|c| (c.id, Some(c.slot))));
                }
            }
        }
        for rule in &spd.changed {
            let Some(child) = child_of(rule) else {
                continue;
            };
            changed.slots.insert(child.id, Some(child.slot));
            if let Some(rules) = changed.carries.get_mut(&child.slot) {
                rules.add(rule);
            }
        }
        Self {
            base: Arc::clone(&self.base),
            changed: Some(Box::new(changed)),
        }
    }

    /// Whether the child carries the packet; with `all`, whatever else its hosts may send too.
    pub(super) fn v4(&self, slot: u32, flow: &FlowOf<u32>, all: bool) -> bool {
        match self.of_changed(slot) {
            None => self.base.v4(slot, flow, all),
            Some(rules) => any(&rules.v4, flow, all),
        }
    }

    /// As [`v4`](Self::v4).
    pub(super) fn v6(&self, slot: u32, flow: &FlowOf<u128>, all: bool) -> bool {
        match self.of_changed(slot) {
            None => self.base.v6(slot, flow, all),
            Some(rules) => any(&rules.v6, flow, all),
        }
    }

    #[inline]
    fn of_changed(&self, slot: u32) -> Option<&Rules> {
        self.changed.as_ref()?.carries.get(&slot)
    }

    /// The slot of a child that carries anything.
    pub(super) fn slot(&self, child: ChildId) -> Option<u32> {
        let changed = self.changed.as_ref();
        match changed.and_then(|changed| changed.slots.get(&child)) {
            Some(now) => *now,
            None => self.base.slots.get(&child).copied(),
        }
    }
}

impl Base {
    fn new(rules: &[Rule]) -> Self {
        let protected = || {
            rules
                .iter()
                .filter_map(|rule| Some((child_of(rule)?, rule)))
        };
        let mut carried = Self::default();
        let last = protected().map(|(child, _)| child.slot).max();
        let count = last.map_or(0, |slot| slot + 1);
        carried
            .records
            .resize(usize::try_from(count).unwrap_or(0), Record::Nothing);
        let mut several: Vec<(u32, &Rule)> = Vec::new();
        for (child, rule) in protected() {
            carried.slots.insert(child.id, child.slot);
            let Some(record) = carried.record_mut(child.slot) else {
                continue;
            };
            match (&record, single(rule)) {
                (Record::Nothing, Some(one)) => *record = one,
                _ => several.push((child.slot, rule)),
            }
        }
        // A child's first rule joins its others when these are filed.
        several.sort_by_key(|&(slot, _)| slot);
        for run in several.chunk_by(|(a, _), (b, _)| a == b) {
            carried.file(run);
        }
        let numbered = (0_u32..).zip(rules);
        let rules = numbered.filter_map(|(number, rule)| Some((child_of(rule)?.slot, number)));
        carried.rules = rules.collect();
        carried.rules.sort_unstable();
        carried
    }

    /// Numbers of the slot's rules.
    fn rules_of(&self, slot: u32) -> impl Iterator<Item = u32> {
        let begin = self.rules.partition_point(|(held, _)| *held < slot);
        let rest = self.rules.get(begin..).unwrap_or_default();
        let own = rest.iter().take_while(move |(held, _)| *held == slot);
        own.map(|(_, number)| *number)
    }

    fn record_mut(&mut self, slot: u32) -> Option<&mut Record> {
        self.records.get_mut(usize::try_from(slot).ok()?)
    }

    fn file(&mut self, run: &[(u32, &Rule)]) {
        let Some(&(slot, _)) = run.first() else {
            return;
        };
        let (v4_begin, v6_begin) = (self.v4.len(), self.v6.len());
        match self.record_mut(slot).map(std::mem::take) {
            Some(Record::V4(first)) => self.v4.push(first),
            Some(Record::V6(first)) => self.v6.push(first.widen()),
            _ => {}
        }
        self.v4
            .extend(run.iter().filter_map(|(_, rule)| RangeRule::new(0, rule)));
        self.v6
            .extend(run.iter().filter_map(|(_, rule)| RangeRule::new(0, rule)));
        let v4 = Run::new(v4_begin, self.v4.len());
        let v6 = Run::new(v6_begin, self.v6.len());
        if let Some(record) = self.record_mut(slot) {
            *record = Record::Several { v4, v6 };
        }
    }

    fn v4(&self, slot: u32, flow: &FlowOf<u32>, all: bool) -> bool {
        match self.record(slot) {
            Some(Record::V4(rule)) => rule.matches(flow) && (!all || rule.is_all()),
            Some(Record::Several { v4, .. }) => any(v4.of(&self.v4), flow, all),
            Some(Record::V6(_) | Record::Nothing) | None => false,
        }
    }

    fn v6(&self, slot: u32, flow: &FlowOf<u128>, all: bool) -> bool {
        match self.record(slot) {
            Some(Record::V6(rule)) => rule.matches(flow) && (!all || rule.conditions.is_all()),
            Some(Record::Several { v6, .. }) => any(v6.of(&self.v6), flow, all),
            Some(Record::V4(_) | Record::Nothing) | None => false,
        }
    }

    #[inline]
    fn record(&self, slot: u32) -> Option<&Record> {
        self.records.get(usize::try_from(slot).ok()?)
    }
}

fn any<A: Address>(rules: &[RangeRule<A>], flow: &FlowOf<A>, all: bool) -> bool {
    let mut rules = rules.iter();
    rules.any(|rule| rule.matches(flow) && (!all || rule.is_all()))
}

/// The rule as the only one of its child, if it fits into a record.
fn single(rule: &Rule) -> Option<Record> {
    if let Some(v4) = RangeRule::new(0, rule) {
        return Some(Record::V4(v4));
    }
    let (local, remote) = (rule.selector.local, rule.selector.remote);
    let host_bits = |bits: u32| u8::try_from(u128::BITS.checked_sub(bits)?).ok();
    Some(Record::V6(PrefixRule {
        local: u128::of(local.first)?,
        remote: u128::of(remote.first)?,
        local_host_bits: host_bits(local.prefix_bits()?)?,
        remote_host_bits: host_bits(remote.prefix_bits()?)?,
        vrf: rule.vrf,
        conditions: Conditions::new(rule),
    }))
}

impl PrefixRule {
    #[inline]
    fn matches(&self, flow: &FlowOf<u128>) -> bool {
        self.vrf == flow.vrf
            && self.local.agrees(flow.local, self.local_host_bits)
            && self.remote.agrees(flow.remote, self.remote_host_bits)
            && self.conditions.fit(flow)
    }

    fn widen(&self) -> RangeRule<u128> {
        let range = |first: u128, host_bits: u8| {
            let free = u128::MAX
                .checked_shl(host_bits.into())
                .map_or(u128::MAX, |mask| !mask);
            (first, first | free)
        };
        RangeRule::from_parts(
            self.vrf,
            range(self.local, self.local_host_bits),
            range(self.remote, self.remote_host_bits),
            self.conditions,
        )
    }
}

impl Run {
    fn new(begin: usize, end: usize) -> Self {
        Self {
            begin: u32::try_from(begin).unwrap_or(u32::MAX),
            len: u32::try_from(end - begin).unwrap_or(0),
        }
    }

    #[inline]
    fn of<T>(self, all: &[T]) -> &[T] {
        let begin = usize::try_from(self.begin).unwrap_or(usize::MAX);
        let len = usize::try_from(self.len).unwrap_or(0);
        let rest = all.get(begin..).unwrap_or_default();
        rest.get(..len).unwrap_or_default()
    }
}

//! What each child carries (RFC 4301 5.2 step 4): a record for each slot, in one cache line.

use std::collections::HashMap;

use api::id::{ChildId, Vrf};

use super::conditions::{Conditions, RangeRule};
use super::flow::FlowOf;
use super::{Decision, Rule};
use crate::memory;
use crate::tables::address::Address;

/// The inbound protect rules of each child.
#[derive(Debug, Default)]
pub(super) struct Carried {
    records: Vec<Record>,
    /// Rules of children that have several, each child's in a row.
    v4: Vec<RangeRule<u32>>,
    v6: Vec<RangeRule<u128>>,
    slots: HashMap<ChildId, u32, foldhash::fast::RandomState>,
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

impl Carried {
    /// Files the rules of one direction.
    pub(super) fn new(rules: &[Rule]) -> Self {
        let protected = || {
            rules.iter().filter_map(|rule| match &rule.decision {
                Decision::Protect(child) => Some((child, rule)),
                Decision::Bypass | Decision::Discard => None,
            })
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
        carried
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

    #[inline]
    pub(super) fn prefetch(&self, slot: u32) {
        if let Some(record) = self.record(slot) {
            memory::prefetch(record);
        }
    }

    #[inline]
    pub(super) fn v4(&self, slot: u32, flow: &FlowOf<u32>) -> bool {
        match self.record(slot) {
            Some(Record::V4(rule)) => rule.matches(flow),
            Some(Record::Several { v4, .. }) => v4.of(&self.v4).iter().any(|r| r.matches(flow)),
            Some(Record::V6(_) | Record::Nothing) | None => false,
        }
    }

    #[inline]
    pub(super) fn v6(&self, slot: u32, flow: &FlowOf<u128>) -> bool {
        match self.record(slot) {
            Some(Record::V6(rule)) => rule.matches(flow),
            Some(Record::Several { v6, .. }) => v6.of(&self.v6).iter().any(|r| r.matches(flow)),
            Some(Record::V4(_) | Record::Nothing) | None => false,
        }
    }

    /// The slot of a child that carries anything.
    pub(super) fn slot(&self, child: ChildId) -> Option<u32> {
        self.slots.get(&child).copied()
    }

    #[inline]
    fn record(&self, slot: u32) -> Option<&Record> {
        self.records.get(usize::try_from(slot).ok()?)
    }
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

//! One hash table of the SPD: all rules whose local and remote prefixes have the same two lengths.
//!
//! ```text
//! line (64 bytes, IPv6 two)   entry, entry: addresses, VRF, and the first rule for them
//! list                        the other rules for the same addresses, in order
//! ```
//! An entry holds what a usual rule asks for: interface, protocol and one range of ports. A rule
//! with ranges for both ports stands in the list.

use api::id::{Interface, Vrf};
use api::selector::ANY_PORTS;

use super::Rule;
use super::conditions::{Conditions, fits_frame, fits_port};
use super::flow::{Best, FlowOf, Packed};
use crate::memory;
use crate::tables::address::{Address, Seeds};

/// What a table is searched by: addresses are masked already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<A> {
    pub(super) vrf: Vrf,
    pub(super) local: A,
    pub(super) remote: A,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// No entry.
    #[default]
    Free,
    /// The rule takes all packets with these addresses.
    All,
    /// The rule takes any ports.
    AnyPorts,
    /// The rule takes any remote port and these local ones.
    LocalPorts,
    /// The rule takes any local port and these remote ones.
    RemotePorts,
    /// The rule stands first in the list.
    Listed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry<A> {
    local: A,
    remote: A,
    rule: u32,
    verdict: Packed,
    /// Where its list begins; [`NO_LIST`] if there is none.
    list: u32,
    ports: (u16, u16),
    vrf: Vrf,
    interface: Interface,
    protocol: u8,
    kind: Kind,
}

const NO_LIST: u32 = u32::MAX;
const ENTRIES_PER_LINE: usize = 2;

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line<A>([Entry<A>; ENTRIES_PER_LINE]);

const _: () = assert!(size_of::<Line<u32>>() == 64 && size_of::<Line<u128>>() == 128);

/// A rule in a list.
#[derive(Clone, Copy, Debug)]
struct Listed {
    rule: u32,
    verdict: Packed,
    conditions: Conditions,
    last: bool,
}

/// Where the search for a key begins: the number of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start(pub(super) u32);

impl Start {
    #[inline(always)]
    const fn line(self) -> usize {
        self.0 as usize / ENTRIES_PER_LINE
    }

    #[inline(always)]
    const fn way(self) -> usize {
        self.0 as usize % ENTRIES_PER_LINE
    }
}

/// An open-addressing hash table, at most a third full. A key's hash names an entry; if that is
/// taken, it goes to the other entry of the line, then to the next lines.
#[derive(Debug)]
pub(super) struct HashTable<A> {
    lines: Box<[Line<A>]>,
    lists: Vec<Listed>,
    seeds: Seeds,
    longest_list: usize,
}

impl<A: Address> HashTable<A> {
    /// Files the rules with these keys, which come in the order they are tried.
    pub(super) fn new(keys: &[(Key<A>, u32)], rules: &[Rule]) -> Self {
        let lines = (keys.len() + keys.len() / 2).next_power_of_two();
        let mut table = Self {
            lines: vec![Line::default(); lines].into(),
            lists: Vec::new(),
            seeds: Seeds::new(),
            longest_list: 0,
        };
        let mut listed = Vec::new();
        for &(key, number) in keys {
            let Some(rule) = usize::try_from(number).ok().and_then(|at| rules.get(at)) else {
                continue;
            };
            if let Some(place) = table.insert(key, number, rule) {
                let verdict = Packed::new(&rule.decision);
                let conditions = Conditions::new(rule);
                listed.push((
                    place,
                    Listed {
                        rule: number,
                        verdict,
                        conditions,
                        last: false,
                    },
                ));
            }
        }
        table.file_lists(listed);
        table
    }

    /// Makes the rule the first of its key; if there is one, or it does not fit into an entry,
    /// the entry to whose list it belongs.
    fn insert(&mut self, key: Key<A>, number: u32, rule: &Rule) -> Option<(usize, usize)> {
        let (at, way) = self.place(&key)?;
        let entry = self.lines.get_mut(at)?.0.get_mut(way)?;
        if entry.kind != Kind::Free {
            return Some((at, way));
        }
        *entry = Entry::new(key, number, rule);
        (entry.kind == Kind::Listed).then_some((at, way))
    }

    /// Line and number of the entry that has the key or would have it.
    fn place(&self, key: &Key<A>) -> Option<(usize, usize)> {
        let start = self.start(key);
        let mut lines = (0..self.lines.len()).map(|step| self.wrap(start.line() + step));
        lines.find_map(|at| {
            let entries = &self.lines.get(at)?.0;
            let fits = |way: &usize| {
                let entry = entries.get(*way);
                entry.is_some_and(|entry| entry.kind == Kind::Free || entry.has(key))
            };
            let way = [start.way(), start.way() ^ 1].into_iter().find(fits)?;
            Some((at, way))
        })
    }

    /// Puts what belongs to one entry in a row.
    fn file_lists(&mut self, mut listed: Vec<((usize, usize), Listed)>) {
        listed.sort_by_key(|&(place, _)| place);
        for run in listed.chunk_by(|(a, _), (b, _)| a == b) {
            let begin = u32::try_from(self.lists.len()).unwrap_or(NO_LIST);
            self.longest_list = self.longest_list.max(run.len());
            for &((at, way), rule) in run {
                self.lists.push(rule);
                let line = self.lines.get_mut(at);
                if let Some(entry) = line.and_then(|line| line.0.get_mut(way)) {
                    entry.list = begin;
                }
            }
            if let Some(rule) = self.lists.last_mut() {
                rule.last = true;
            }
        }
    }

    /// Where the search for a key begins.
    #[inline(always)]
    pub(super) fn start(&self, key: &Key<A>) -> Start {
        let hash = A::mix(&self.seeds, key.vrf, key.local, key.remote);
        // The entries of 2^21 rules at a third of the load fit into 32 bits.
        let entries = (self.lines.len() * ENTRIES_PER_LINE) as u64;
        Start(u32::try_from(hash & (entries - 1)).unwrap_or_default())
    }

    #[inline(always)]
    fn wrap(&self, line: usize) -> usize {
        line & (self.lines.len() - 1)
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, start: Start) {
        let line = self.lines.get(start.line());
        if let Some(entry) = line.and_then(|line| line.0.get(start.way())) {
            memory::prefetch(entry);
        }
    }

    /// The first rule with this key that fits, `lives` and goes before `best`, else `best`.
    #[inline(always)]
    pub(super) fn search(
        &self,
        start: Start,
        key: &Key<A>,
        flow: &FlowOf<A>,
        best: Best,
        lives: impl Fn(u32) -> bool + Copy,
    ) -> Best {
        for step in 0..self.lines.len() {
            let line = self.lines.get(self.wrap(start.line() + step));
            let entries = line.and_then(|line| {
                let first = line.0.get(start.way())?;
                Some((first, line.0.get(start.way() ^ 1)?))
            });
            let Some((first, second)) = entries else {
                return best;
            };
            if first.has(key) {
                return self.examine(first, flow, best, lives);
            }
            if second.has(key) {
                return self.examine(second, flow, best, lives);
            }
            if first.kind == Kind::Free || second.kind == Kind::Free {
                return best;
            }
        }
        best
    }

    #[inline(always)]
    fn examine(
        &self,
        entry: &Entry<A>,
        flow: &FlowOf<A>,
        best: Best,
        lives: impl Fn(u32) -> bool,
    ) -> Best {
        if entry.rule >= best.rule {
            return best;
        }
        if entry.fits(flow) && lives(entry.rule) {
            return Best {
                rule: entry.rule,
                verdict: entry.verdict,
            };
        }
        if entry.list == NO_LIST {
            return best;
        }
        self.examine_list(entry.list, flow, best, lives)
    }

    fn examine_list(
        &self,
        begin: u32,
        flow: &FlowOf<A>,
        best: Best,
        lives: impl Fn(u32) -> bool,
    ) -> Best {
        let begin = usize::try_from(begin).unwrap_or(usize::MAX);
        for listed in self.lists.get(begin..).unwrap_or_default() {
            if listed.rule >= best.rule {
                return best;
            }
            if listed.conditions.fit(flow) && lives(listed.rule) {
                return Best {
                    rule: listed.rule,
                    verdict: listed.verdict,
                };
            }
            if listed.last {
                return best;
            }
        }
        best
    }

    /// Most rules that stand behind one entry.
    pub(super) fn longest_list(&self) -> usize {
        self.longest_list
    }
}

impl<A: Address> Entry<A> {
    fn new(key: Key<A>, number: u32, rule: &Rule) -> Self {
        let (local, remote) = (rule.selector.local_ports, rule.selector.remote_ports);
        let frame = (rule.interface, rule.selector.protocol);
        let (kind, ports) = match (local == ANY_PORTS, remote == ANY_PORTS) {
            (true, true) if frame == (Interface(0), 0) => (Kind::All, ANY_PORTS),
            (true, true) => (Kind::AnyPorts, ANY_PORTS),
            (false, true) => (Kind::LocalPorts, local),
            (true, false) => (Kind::RemotePorts, remote),
            (false, false) => (Kind::Listed, ANY_PORTS),
        };
        Self {
            local: key.local,
            remote: key.remote,
            rule: number,
            verdict: Packed::new(&rule.decision),
            list: NO_LIST,
            ports,
            vrf: key.vrf,
            interface: rule.interface,
            protocol: rule.selector.protocol,
            kind,
        }
    }

    #[inline(always)]
    fn has(&self, key: &Key<A>) -> bool {
        self.local == key.local
            && self.remote == key.remote
            && self.vrf == key.vrf
            && self.kind != Kind::Free
    }

    #[inline(always)]
    fn fits(&self, flow: &FlowOf<A>) -> bool {
        self.kind == Kind::All || self.fits_more(flow)
    }

    #[inline(always)]
    fn fits_more(&self, flow: &FlowOf<A>) -> bool {
        fits_frame(self.interface, self.protocol, flow)
            && match self.kind {
                Kind::All | Kind::AnyPorts => true,
                Kind::LocalPorts => fits_port(self.ports, flow.ports, |ports| ports.local),
                Kind::RemotePorts => fits_port(self.ports, flow.ports, |ports| ports.remote),
                Kind::Free | Kind::Listed => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use api::id::PolicyId;

    use super::super::Decision;
    use super::*;
    use crate::tables::samples;

    fn rule() -> Rule {
        Rule {
            id: PolicyId(1),
            priority: 1,
            vrf: Vrf(0),
            interface: Interface(0),
            selector: samples::all_of_v4(),
            decision: Decision::Bypass,
        }
    }

    /// Lines that the search for each key reads, on average.
    fn lines_read(keys: &[(Key<u32>, u32)]) -> f64 {
        let rules = vec![rule(); keys.len()];
        let table = HashTable::new(keys, &rules);
        let read = |key: &Key<u32>| {
            let mut at = table.start(key).line();
            let mut lines = 1_u32;
            while !table.lines[at].0.iter().any(|entry| entry.has(key)) {
                at = table.wrap(at + 1);
                lines += 1;
            }
            f64::from(lines)
        };
        let sum: f64 = keys.iter().map(|(key, _)| read(key)).sum();
        sum / f64::from(u32::try_from(keys.len()).unwrap())
    }

    /// The addresses of the nth key.
    type Pattern = fn(u32) -> (u32, u32);

    /// Keys that differ in few bits, as those of neighbours and of one peer with many hosts do.
    #[test]
    fn regular_keys_spread_evenly() {
        let key = |local: u32, remote: u32| Key {
            vrf: Vrf(0),
            local,
            remote,
        };
        let patterns: [(&str, Pattern); 5] = [
            ("hosts of both sides", |n| {
                (0x0a00_0000 + n, 0x0b00_0000 + n)
            }),
            ("hosts of one side", |n| (0x0a00_0000, 0x0b00_0000 + n)),
            ("networks", |n| (0x0a00_0000, n << 8)),
            ("high bits", |n| (n << 16, n << 15)),
            ("a grid", |n| (n & 0xff, n >> 8)),
        ];
        for (name, pattern) in patterns {
            let keys: Vec<_> = (0..1 << 16)
                .map(|n| {
                    let (local, remote) = pattern(n);
                    (key(local, remote), n)
                })
                .collect();
            let lines = lines_read(&keys);
            assert!(lines < 1.25, "{name}: {lines} lines a search");
        }
    }
}

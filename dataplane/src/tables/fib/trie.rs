//! Longest-prefix match of one family: a multibit trie whose long tails are cut short.
//!
//! ```text
//! root      VRF 0: 65,536 entries, by the first 16 bits
//! node      256 entries, by the next 8 bits
//! few       up to four prefixes, longest first, tried one by one
//! skip      bits that all prefixes below have in common
//! ```
//! An entry is the answer or says where to go on. Prefixes are pushed down to the entries they
//! cover, so that the last entry holds the answer.

use std::collections::HashMap;

use api::id::Vrf;

use crate::tables::address::Address;

/// Bits that the root looks at.
const ROOT_BITS: u32 = 16;
/// Bits that a node looks at.
const STRIDE: u32 = 8;
/// Prefixes of a `Few`.
const FEW: usize = 4;

/// A prefix and what it leads to; 0 is nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf<A> {
    pub(super) vrf: Vrf,
    pub(super) first: A,
    /// Length in bits.
    pub(super) bits: u32,
    pub(super) value: u32,
}

/// A value, or the kind and place of what to look at next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry(u32);

enum Kind {
    Value,
    Node,
    Few,
    Skip,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Few<A> {
    first: [A; FEW],
    values: [u32; FEW],
    otherwise: u32,
    host_bits: [u8; FEW],
}

#[derive(Clone, Copy, Debug)]
struct Skip<A> {
    first: A,
    otherwise: u32,
    inside: Entry,
    /// Bits that follow those in common.
    host_bits: u8,
}

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Node([Entry; 256]);

/// All routes of one family, of all routing instances.
#[derive(Debug, Default)]
pub(super) struct Trie<A> {
    /// Of VRF 0; empty if that has no routes.
    root: Box<[Entry]>,
    others: HashMap<Vrf, Entry, foldhash::fast::RandomState>,
    nodes: Vec<Node>,
    few: Vec<Few<A>>,
    skips: Vec<Skip<A>>,
}

impl Entry {
    const KIND_SHIFT: u32 = 30;
    const PLACE: u32 = (1 << Self::KIND_SHIFT) - 1;

    fn new(kind: Kind, place: usize) -> Self {
        let tag: u32 = match kind {
            Kind::Value => 0,
            Kind::Node => 1,
            Kind::Few => 2,
            Kind::Skip => 3,
        };
        // At most 2^20 routes make far fewer nodes than 2^30.
        Self(tag << Self::KIND_SHIFT | u32::try_from(place).unwrap_or(0) & Self::PLACE)
    }

    #[inline]
    fn kind(self) -> Kind {
        match self.0 >> Self::KIND_SHIFT {
            0 => Kind::Value,
            1 => Kind::Node,
            2 => Kind::Few,
            _ => Kind::Skip,
        }
    }

    #[inline]
    fn place(self) -> usize {
        usize::try_from(self.0 & Self::PLACE).unwrap_or(0)
    }
}

impl<A: Address> Trie<A> {
    /// Files the prefixes; of two that are the same the later one counts.
    pub(super) fn new(mut leaves: Vec<Leaf<A>>) -> Self {
        leaves.sort_by_key(|leaf| (leaf.vrf, leaf.first, leaf.bits));
        leaves.reverse();
        leaves.dedup_by_key(|leaf| (leaf.vrf, leaf.first, leaf.bits));
        leaves.reverse();
        let mut trie = Self::default();
        for run in leaves.chunk_by(|a, b| a.vrf == b.vrf) {
            match run.first() {
                Some(leaf) if leaf.vrf == Vrf(0) => {
                    let mut root = vec![Entry::default(); 1 << ROOT_BITS];
                    trie.fill(&mut root, run, ROOT_BITS);
                    trie.root = root.into();
                }
                Some(leaf) => {
                    let entry = trie.entry(run, 0, 0);
                    trie.others.insert(leaf.vrf, entry);
                }
                None => {}
            }
        }
        trie
    }

    /// The value of the longest prefix that covers the address; 0 if none does.
    #[inline]
    pub(super) fn lookup(&self, vrf: Vrf, address: A) -> u32 {
        if vrf == Vrf(0) {
            let entry = self.root.get(root_place(address)).copied();
            self.follow(entry.unwrap_or_default(), A::BITS - ROOT_BITS, address)
        } else {
            let entry = self.others.get(&vrf).copied();
            self.follow(entry.unwrap_or_default(), A::BITS, address)
        }
    }

    /// Goes on from an entry that still has this many bits below it.
    #[inline]
    fn follow(&self, mut entry: Entry, mut below: u32, address: A) -> u32 {
        loop {
            match entry.kind() {
                Kind::Value => return entry.0,
                Kind::Node => {
                    below = below.saturating_sub(STRIDE);
                    let node = self.nodes.get(entry.place());
                    let next = node.and_then(|node| node.0.get(address.byte(below)));
                    entry = next.copied().unwrap_or_default();
                }
                Kind::Few => {
                    let few = self.few.get(entry.place());
                    return few.map_or(0, |few| few.lookup(address));
                }
                Kind::Skip => match self.skips.get(entry.place()) {
                    Some(skip) if skip.first.agrees(address, skip.host_bits) => {
                        below = skip.host_bits.into();
                        entry = skip.inside;
                    }
                    other => return other.map_or(0, |skip| skip.otherwise),
                },
            }
        }
    }

    /// Entries for the prefixes, all of which agree in the bits before the last `end`.
    fn fill(&mut self, entries: &mut [Entry], mut leaves: &[Leaf<A>], end: u32) {
        let below = A::BITS - end;
        let place = |leaf: &Leaf<A>| place(leaf.first, below, entries.len());
        let places: Vec<usize> = leaves.iter().map(place).collect();
        let mut places = places.as_slice();
        while let (Some(leaf), Some(&at)) = (leaves.first(), places.first()) {
            if leaf.bits <= end {
                let covered = 1_usize << (end - leaf.bits);
                let last = (at + covered).min(entries.len());
                if let Some(covered) = entries.get_mut(at..last) {
                    covered.fill(Entry(leaf.value));
                }
                (leaves, places) = (after(leaves, 1), after(places, 1));
                continue;
            }
            // Covering prefixes go before what they cover, so the value there is final.
            let run = places.iter().take_while(|&&other| other == at).count();
            if let Some(entry) = entries.get_mut(at) {
                let inside = leaves.get(..run).unwrap_or_default();
                *entry = self.entry(inside, end, entry.0);
            }
            (leaves, places) = (after(leaves, run), after(places, run));
        }
    }

    /// An entry for prefixes that agree in their first `depth` bits.
    fn entry(&mut self, leaves: &[Leaf<A>], depth: u32, otherwise: u32) -> Entry {
        let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else {
            return Entry(otherwise);
        };
        if leaves.len() <= FEW {
            self.few.push(Few::new(leaves, otherwise));
            return Entry::new(Kind::Few, self.few.len() - 1);
        }
        let shortest = leaves.iter().map(|leaf| leaf.bits).min().unwrap_or(depth);
        let common = first.first.common_bits(last.first).min(shortest);
        let skipped = common.saturating_sub(depth) / STRIDE * STRIDE;
        let inside = self.node(leaves, depth + skipped, otherwise);
        if skipped == 0 {
            return inside;
        }
        let host_bits = A::BITS - depth - skipped;
        self.skips.push(Skip {
            first: first.first,
            otherwise,
            inside,
            host_bits: u8::try_from(host_bits).unwrap_or(u8::MAX),
        });
        Entry::new(Kind::Skip, self.skips.len() - 1)
    }

    fn node(&mut self, leaves: &[Leaf<A>], depth: u32, otherwise: u32) -> Entry {
        let place = self.nodes.len();
        self.nodes.push(Node([Entry(otherwise); 256]));
        let mut entries = [Entry(otherwise); 256];
        self.fill(&mut entries, leaves, depth + STRIDE);
        if let Some(node) = self.nodes.get_mut(place) {
            node.0 = entries;
        }
        Entry::new(Kind::Node, place)
    }

    /// Bytes that the table takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.root)
            + size_of_val(self.nodes.as_slice())
            + size_of_val(self.few.as_slice())
            + size_of_val(self.skips.as_slice())
    }
}

impl<A: Address> Few<A> {
    /// No more than [`FEW`].
    fn new(leaves: &[Leaf<A>], otherwise: u32) -> Self {
        let mut longest_first: Vec<&Leaf<A>> = leaves.iter().collect();
        longest_first.sort_by_key(|leaf| std::cmp::Reverse(leaf.bits));
        // What is not used repeats the last one, which changes nothing.
        let last = longest_first.last();
        let pick = |at: usize| longest_first.get(at).or(last).copied();
        let places: [usize; FEW] = std::array::from_fn(|at| at);
        let host_bits = |leaf: &Leaf<A>| u8::try_from(A::BITS - leaf.bits).unwrap_or(u8::MAX);
        Self {
            first: places.map(|at| pick(at).map_or(A::MAX, |leaf| leaf.first)),
            values: places.map(|at| pick(at).map_or(otherwise, |leaf| leaf.value)),
            otherwise,
            host_bits: places.map(|at| pick(at).map_or(0, host_bits)),
        }
    }

    #[inline]
    fn lookup(&self, address: A) -> u32 {
        let prefixes = self.first.iter().zip(&self.host_bits).zip(&self.values);
        let found = prefixes
            .into_iter()
            .find(|((first, host_bits), _)| first.agrees(address, **host_bits));
        found.map_or(self.otherwise, |(_, value)| *value)
    }
}

#[inline]
fn root_place<A: Address>(address: A) -> usize {
    address.byte(A::BITS - 8) << 8 | address.byte(A::BITS - 16)
}

/// Which of so many entries, with `below` bits below them, the address falls to.
fn place<A: Address>(address: A, below: u32, entries: usize) -> usize {
    let wide = address.wide().checked_shr(below).unwrap_or(0);
    let mask = u128::try_from(entries).unwrap_or(1) - 1;
    usize::try_from(wide & mask).unwrap_or(0)
}

fn after<T>(slice: &[T], count: usize) -> &[T] {
    slice.get(count..).unwrap_or_default()
}

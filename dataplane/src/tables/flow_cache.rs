//! Answers of the SPD for whole flows (RFC 4301 4.4.1): for policies that take long to search.
//!
//! Each worker has a cache of its own. An answer counts only for the very index that gave it, so
//! nothing has to be deleted when policies change. Two flows that fall on one place displace each
//! other; which do depends on secret seeds.

use super::address::{Address, Seeds};
use super::spd::{Best, FlowOf, Index, Match, Packed, Ports};
use crate::memory;
use api::id::{Interface, Vrf};

/// Flows of one cache, each 64 bytes.
pub const FLOWS: usize = 1 << 15;

/// Answers for flows of both families and directions.
#[derive(Debug)]
pub struct FlowCache {
    entries: Box<[Entry]>,
    seeds: Seeds,
}

/// One flow and its answer. The one that nothing was put into stands for version 0 of an index,
/// which has no policies.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Entry {
    local: u128,
    remote: u128,
    version: u64,
    rule: u32,
    verdict: Packed,
    ports: Option<Ports>,
    vrf: Vrf,
    interface: Interface,
    protocol: u8,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// Where the cache keeps a flow: see [`FlowCache::prepare`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(usize);

impl Place {
    /// That of no flow.
    pub const EMPTY: Self = Self(0);
}

impl FlowCache {
    /// An empty cache for [`FLOWS`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_flows(FLOWS)
    }

    pub(super) fn with_flows(flows: usize) -> Self {
        let empty = Entry::new(0, &FlowOf::<u32>::default(), Best::NONE);
        Self {
            entries: vec![empty; flows.next_power_of_two()].into(),
            seeds: Seeds::new(),
        }
    }

    /// Computes where the flow's answer would be and fetches it.
    #[inline]
    #[must_use]
    pub fn prepare<A: Address>(&self, flow: &FlowOf<A>) -> Place {
        let addresses = A::mix(&self.seeds, flow.vrf, flow.local, flow.remote);
        let ports = flow.ports.map_or(u64::MAX, |ports| {
            u64::from(ports.local) << 16 | u64::from(ports.remote)
        });
        let rest = ports << 24 ^ u64::from(flow.interface.0) << 8 ^ u64::from(flow.protocol);
        let hash = self.seeds.stir(addresses, rest);
        let place = usize::try_from(hash).unwrap_or(0) & (self.entries.len() - 1);
        if let Some(entry) = self.entries.get(place) {
            memory::prefetch(entry);
        }
        Place(place)
    }

    /// The first policy of the index that matches, as [`Index::lookup`] finds it.
    #[inline]
    pub fn find<A: Address>(
        &mut self,
        place: Place,
        index: &Index<A>,
        flow: &FlowOf<A>,
    ) -> Option<Match> {
        let entry = self.entries.get_mut(place.0)?;
        if !entry.is(index.version(), flow) {
            *entry = Entry::new(index.version(), flow, index.best(flow));
        }
        entry.best().found()
    }
}

impl Default for FlowCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Entry {
    fn new<A: Address>(version: u64, flow: &FlowOf<A>, best: Best) -> Self {
        Self {
            local: flow.local.wide(),
            remote: flow.remote.wide(),
            version,
            rule: best.rule,
            verdict: best.verdict,
            ports: flow.ports,
            vrf: flow.vrf,
            interface: flow.interface,
            protocol: flow.protocol,
        }
    }

    #[inline]
    fn is<A: Address>(&self, version: u64, flow: &FlowOf<A>) -> bool {
        self.version == version
            && self.local == flow.local.wide()
            && self.remote == flow.remote.wide()
            && self.ports == flow.ports
            && self.vrf == flow.vrf
            && self.interface == flow.interface
            && self.protocol == flow.protocol
    }

    #[inline]
    fn best(&self) -> Best {
        Best {
            rule: self.rule,
            verdict: self.verdict,
        }
    }
}

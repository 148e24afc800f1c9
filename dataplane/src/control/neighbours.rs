//! The kernel's neighbours on the twins, as last known.
//!
//! An address that was known stays usable when the kernel forgets it or stops believing in it, for
//! [`LAST_KNOWN_S`] or until it learns another one: a lost ARP answer must not stop a tunnel.
//! Neighbours that workers asked for are kept alive: the kernel is told to use those it holds
//! stale, and to look again for those that failed.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::netlink::Netlink;
use crate::port::{Mac, PortIndex};
use crate::tables::fib::Neighbours;

/// How long an address is used after the kernel stopped believing in it, in seconds.
const LAST_KNOWN_S: u64 = 600;
/// How often the kernel is told that a neighbour is in use.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often the kernel is asked for one neighbour that workers wait for.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Most neighbours that are kept, all ports together.
const MAX_NEIGHBOURS: usize = 16_384;

/// Where a neighbour is: the port, and its address on that link.
pub type Key = (PortIndex, IpAddr);

#[derive(Clone, Debug)]
struct Entry {
    mac: Option<Mac>,
    state: NeighbourState,
    /// When the kernel stopped believing in `mac`.
    doubted: Option<Instant>,
    /// When the kernel was last asked for it on behalf of a worker.
    asked: Option<Instant>,
}

/// All neighbours on twins.
#[derive(Debug, Default)]
pub struct Table {
    entries: HashMap<Key, Entry>,
    kept_alive: Option<Instant>,
}

impl Table {
    /// Takes one message of the kernel. True if what workers see changed.
    pub fn learn(&mut self, key: Key, message: &NeighbourMessage, now: Instant) -> bool {
        if self.entries.len() >= MAX_NEIGHBOURS && !self.entries.contains_key(&key) {
            return false;
        }
        let state = message.header.state;
        let entry = self.entries.entry(key).or_insert_with(Entry::unknown);
        let before = entry.mac;
        entry.state = state;
        match mac_of(message).filter(|_| is_valid(state)) {
            Some(mac) => {
                entry.mac = Some(mac);
                entry.doubted = None;
            }
            None => {
                entry.doubted.get_or_insert(now);
            }
        }
        entry.mac != before
    }

    /// The kernel forgot one. True if what workers see changed.
    pub fn forget(&mut self, key: Key, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        // Somebody set this one by hand and takes it away by hand.
        if entry.state == NeighbourState::Permanent || entry.mac.is_none() {
            return self
                .entries
                .remove(&key)
                .is_some_and(|entry| entry.mac.is_some());
        }
        entry.state = NeighbourState::None;
        entry.doubted.get_or_insert(now);
        false
    }

    /// Before a new dump is learned: everything not in it is as good as forgotten.
    pub fn doubt_all(&mut self, now: Instant) {
        let keys: Vec<Key> = self.entries.keys().copied().collect();
        for key in keys {
            self.forget(key, now);
        }
    }

    /// What workers use.
    #[must_use]
    pub fn resolved(&self) -> Neighbours {
        let known = self.entries.iter();
        known
            .filter_map(|(key, entry)| entry.mac.map(|mac| (*key, mac)))
            .collect()
    }

    /// One neighbour's address.
    #[must_use]
    pub fn mac(&self, key: &Key) -> Option<Mac> {
        self.entries.get(key)?.mac
    }

    /// A worker needs this one: returns true if the kernel has to be asked now.
    pub fn want(&mut self, key: Key, now: Instant) -> bool {
        if self.entries.len() >= MAX_NEIGHBOURS && !self.entries.contains_key(&key) {
            return false;
        }
        let entry = self.entries.entry(key).or_insert_with(Entry::unknown);
        let again = entry
            .asked
            .is_none_or(|asked| now.duration_since(asked) >= ASK_AGAIN);
        if again {
            entry.asked = Some(now);
        }
        again
    }

    /// Neighbours that the kernel should look after now; forgets what nobody has heard of for long.
    /// The flag says whether what workers see changed.
    pub fn keep_alive(&mut self, now: Instant) -> (Vec<Key>, bool) {
        if self
            .kept_alive
            .is_some_and(|last| now.duration_since(last) < KEEP_ALIVE)
        {
            return (Vec::new(), false);
        }
        self.kept_alive = Some(now);
        let before = self.entries.len();
        let long = Duration::from_secs(LAST_KNOWN_S);
        self.entries.retain(|_, entry| {
            entry
                .doubted
                .is_none_or(|doubted| now.duration_since(doubted) < long)
        });
        let due = self.entries.iter().filter(|(_, entry)| {
            use NeighbourState::{Failed, None, Stale};
            let used = entry.asked.is_some() || entry.mac.is_some();
            used && matches!(entry.state, Stale | Failed | None)
        });
        (
            due.map(|(key, _)| *key).collect(),
            before != self.entries.len(),
        )
    }

    /// Rows for the operator: address, Ethernet address if known, and the kernel's state.
    pub fn rows(&self) -> impl Iterator<Item = (Key, Option<Mac>, String)> + '_ {
        let rows = self.entries.iter();
        rows.map(|(key, entry)| (*key, entry.mac, format!("{:?}", entry.state).to_lowercase()))
    }
}

impl Entry {
    fn unknown() -> Self {
        Self {
            mac: None,
            state: NeighbourState::None,
            doubted: None,
            asked: None,
        }
    }
}

/// Tells the kernel that a neighbour is in use, so that it resolves or confirms it.
pub fn use_now(netlink: &mut Netlink, ifindex: u32, address: IpAddr) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    })];
    netlink.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
}

/// The address that a message is about.
#[must_use]
pub fn address_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
            _ => None,
        })
}

fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                bytes.as_slice().try_into().ok().map(Mac)
            }
            _ => None,
        })
}

/// NUD_VALID of the kernel: states in which the address may be used.
fn is_valid(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Permanent | Noarp | Reachable | Probe | Stale | Delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn key() -> Key {
        (PortIndex::new(0).unwrap(), "192.0.2.2".parse().unwrap())
    }

    fn message(state: NeighbourState, mac: Option<[u8; 6]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        let attribute = |mac: [u8; 6]| NeighbourAttribute::LinkLayerAddress(mac.to_vec());
        message.attributes = mac.map(attribute).into_iter().collect();
        message
    }

    #[test]
    fn a_failed_neighbour_keeps_its_last_known_address_for_a_while() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert!(table.learn(key(), &message(NeighbourState::Reachable, Some(MAC)), now));
        assert!(!table.learn(key(), &message(NeighbourState::Failed, None), now));
        assert_eq!(table.mac(&key()), Some(Mac(MAC)));
        assert!(!table.forget(key(), now));
        assert_eq!(table.resolved().get(&key()), Some(&Mac(MAC)));
        let later = now + Duration::from_secs(LAST_KNOWN_S);
        assert!(table.keep_alive(later).1);
        assert_eq!(table.mac(&key()), None);
    }

    #[test]
    fn a_new_address_replaces_the_last_known_one() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.learn(key(), &message(NeighbourState::Stale, Some(MAC)), now);
        let other = [2, 0, 0, 0, 0, 9];
        assert!(table.learn(key(), &message(NeighbourState::Reachable, Some(other)), now));
        assert_eq!(table.mac(&key()), Some(Mac(other)));
    }

    #[test]
    fn a_permanent_neighbour_goes_when_it_is_deleted() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.learn(key(), &message(NeighbourState::Permanent, Some(MAC)), now);
        assert!(table.forget(key(), now));
        assert_eq!(table.mac(&key()), None);
    }

    #[test]
    fn stale_ones_are_kept_alive_and_reachable_ones_left_alone() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.learn(key(), &message(NeighbourState::Reachable, Some(MAC)), now);
        assert!(table.keep_alive(now).0.is_empty());
        table.learn(key(), &message(NeighbourState::Stale, Some(MAC)), now);
        assert!(table.keep_alive(now).0.is_empty(), "not again so soon");
        assert_eq!(table.keep_alive(now + KEEP_ALIVE).0, [key()]);
    }

    #[test]
    fn the_kernel_is_not_asked_for_every_packet() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert!(table.want(key(), now));
        assert!(!table.want(key(), now));
        assert!(table.want(key(), now + ASK_AGAIN));
    }
}

//! Checkpoints of IKE SAs: sealed, and parked in memory that the dataplane keeps for the next
//! process.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use api::park::{Park, ParkError, ParkSizes};
use zeroize::Zeroizing;

use crate::seal::Sealer;

/// IKE SAs that find room before the region is made anew, twice as large.
const ENTRIES: u32 = 4096;

/// Where checkpoints go.
pub(crate) struct Store {
    sealer: Sealer,
    park: Option<Park>,
    entries: u32,
    /// Checkpoints before there was a region, and those that found no room.
    early: HashMap<u64, Zeroizing<Vec<u8>>>,
    /// A new region that the dataplane does not hold yet.
    fresh: bool,
}

impl Store {
    /// # Errors
    /// The key file cannot be used.
    pub(crate) fn open(key_file: &Path) -> io::Result<Self> {
        let sealer = Sealer::open_key_file(key_file)?;
        Ok(Self {
            sealer,
            park: None,
            entries: ENTRIES,
            early: HashMap::new(),
            fresh: false,
        })
    }

    /// Takes the region of an earlier process over and opens what is in it; without one, or if it
    /// cannot be used, begins a new one.
    pub(crate) fn begin(&mut self, parked: Option<OwnedFd>) -> Vec<Zeroizing<Vec<u8>>> {
        let mut snapshots = Vec::new();
        if let Some(fd) = parked {
            match Park::take_over(&fd) {
                Ok((park, lost)) => {
                    if lost > 0 {
                        tracing::warn!("{lost} checkpoints were cut off in the middle");
                    }
                    for (key, blob) in park.iter() {
                        match self.sealer.open(&blob) {
                            Some(plain) => snapshots.push(plain),
                            None => tracing::warn!(
                                "checkpoint of IKE SA {key} does not open: another key file?"
                            ),
                        }
                    }
                    self.entries = self.entries.max(park.entries());
                    self.park = Some(park);
                    return snapshots;
                }
                Err(error) => tracing::warn!("checkpoints of the last process: {error}"),
            }
        }
        self.renew(self.entries);
        snapshots
    }

    fn renew(&mut self, entries: u32) {
        match Park::create(&ParkSizes::new(entries)) {
            Ok(mut park) => {
                for (key, blob) in self.park.iter().flat_map(Park::iter) {
                    let _ = park.put(key, &blob);
                }
                self.park = Some(park);
                self.entries = entries;
                self.fresh = true;
                for (key, plain) in std::mem::take(&mut self.early) {
                    self.put(key, &plain);
                }
            }
            Err(error) => tracing::error!("no memory for checkpoints: {error}"),
        }
    }

    /// Stores the state of an IKE SA in place of what was stored for it.
    pub(crate) fn put(&mut self, key: u64, plain: &[u8]) {
        let Some(park) = &mut self.park else {
            self.early.insert(key, Zeroizing::new(plain.to_vec()));
            return;
        };
        let sealed = match self.sealer.seal(plain) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!("checkpoint of IKE SA {key}: {error}");
                park.remove(key);
                return;
            }
        };
        match park.put(key, &sealed) {
            Ok(()) => {}
            Err(ParkError::Entries | ParkError::Memory) if self.entries < 1 << 20 => {
                self.early.insert(key, Zeroizing::new(plain.to_vec()));
                self.renew(self.entries * 2);
            }
            Err(error) => {
                tracing::error!("checkpoint of IKE SA {key}: {error}");
                // An old one would use message IDs, and so nonces, a second time: none is better.
                park.remove(key);
            }
        }
    }

    /// Every IKE SA is gone.
    pub(crate) fn clear(&mut self) {
        let keys: Vec<u64> = self
            .park
            .iter()
            .flat_map(Park::iter)
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            self.remove(key);
        }
    }

    /// The IKE SA is gone.
    pub(crate) fn remove(&mut self, key: u64) {
        self.early.remove(&key);
        if let Some(park) = &mut self.park {
            park.remove(key);
        }
    }

    /// The region, for a dataplane to hold.
    pub(crate) fn region(&self) -> Option<OwnedFd> {
        self.park.as_ref()?.read_only_fd().ok()
    }

    /// A region that the dataplane has not been given yet.
    pub(crate) fn take_fresh(&mut self) -> Option<OwnedFd> {
        std::mem::take(&mut self.fresh)
            .then(|| self.region())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file(name: &str) -> std::path::PathBuf {
        let file =
            std::env::temp_dir().join(format!("culvert-store-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&file);
        file
    }

    #[test]
    fn the_next_process_reads_what_this_one_stored() {
        let file = key_file("next");
        let mut first = Store::open(&file).unwrap();
        first.put(1, b"before there is a region");
        assert!(first.begin(None).is_empty());
        first.put(2, b"an IKE SA");
        first.put(3, b"one that goes");
        first.remove(3);
        let region = first.take_fresh().unwrap();
        assert!(first.take_fresh().is_none());
        drop(first);
        let mut second = Store::open(&file).unwrap();
        let mut found: Vec<Vec<u8>> = second
            .begin(Some(region))
            .iter()
            .map(|plain| plain.to_vec())
            .collect();
        found.sort();
        assert_eq!(
            found,
            [b"an IKE SA".to_vec(), b"before there is a region".to_vec()]
        );
        assert!(
            second.take_fresh().is_none(),
            "the dataplane holds it already"
        );
    }

    #[test]
    fn another_key_file_opens_nothing() {
        let mut first = Store::open(&key_file("mine")).unwrap();
        first.begin(None);
        first.put(1, b"an IKE SA");
        let region = first.region().unwrap();
        drop(first);
        let mut other = Store::open(&key_file("other")).unwrap();
        assert!(other.begin(Some(region)).is_empty());
    }

    #[test]
    fn more_sas_than_room_make_a_larger_region() {
        let mut store = Store::open(&key_file("more")).unwrap();
        store.entries = 2;
        store.begin(None);
        let large = vec![7; 3000];
        for key in 0..20 {
            store.put(key, &large);
        }
        assert_eq!(store.park.as_ref().unwrap().len(), 20);
        assert!(store.entries > 2);
    }
}

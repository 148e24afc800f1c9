//! A dataplane that only checks: every command has to make sense when it comes.

use std::collections::{BTreeMap, HashMap, HashSet};

use ike::{Action, ChildId, SaKeys, SaPair};

use super::net::SimHost;

/// SAs of one child: key by SPI.
#[derive(Default, Debug)]
pub(crate) struct PlaneChild {
    pub(crate) active: Option<u32>,
    pub(crate) inbound: HashMap<u32, Vec<u8>>,
    pub(crate) outbound: HashMap<u32, Vec<u8>>,
}

/// What a dataplane would hold.
#[derive(Default, Debug)]
pub(crate) struct Plane {
    pub(crate) children: BTreeMap<ChildId, PlaneChild>,
    pub(crate) traps: HashSet<ChildId>,
}

fn put(table: &mut HashMap<u32, Vec<u8>>, keys: &SaKeys) {
    let old = table.insert(keys.spi, keys.key.to_vec());
    assert!(old.is_none(), "SA {keys:?} twice");
}

impl Plane {
    pub(crate) fn apply(&mut self, action: &Action, host: &mut SimHost) {
        match action {
            Action::InstallChild(install) => {
                let id = install.spec.child;
                assert!(!install.spec.selectors.is_empty());
                let old = self.children.insert(id, PlaneChild::default());
                assert!(old.is_none(), "child {id} twice");
                self.add(id, &install.pair, true, host);
            }
            Action::InstallRekeyed(rekeyed) => {
                self.add(rekeyed.child, &rekeyed.pair, rekeyed.activate, host);
            }
            Action::ActivateOutbound { child, spi } => {
                let child = self.child(*child);
                assert!(
                    child.outbound.contains_key(spi),
                    "outbound {spi:08x} is there"
                );
                child.active = Some(*spi);
            }
            Action::RemoveSa {
                child,
                spi,
                inbound,
            } => self.remove(*child, *spi, *inbound, host),
            Action::RemoveChild { child } => {
                if !self.traps.remove(child) {
                    let child = self.children.remove(child).expect("child is there");
                    assert!(
                        child.inbound.is_empty() && child.outbound.is_empty(),
                        "SAs are left"
                    );
                }
            }
            Action::InstallTrap(spec) => assert!(self.traps.insert(spec.child)),
            Action::UpdatePath { child, .. } => assert!(self.children.contains_key(child)),
            Action::Transmit { .. }
            | Action::Keepalive { .. }
            | Action::Checkpoint { .. }
            | Action::Forget
            | Action::Done { .. }
            | Action::Log { .. } => {}
        }
    }

    fn child(&mut self, id: ChildId) -> &mut PlaneChild {
        self.children.get_mut(&id).expect("child is there")
    }

    fn add(&mut self, id: ChildId, pair: &SaPair, activate: bool, host: &mut SimHost) {
        let child = self.child(id);
        put(&mut child.inbound, &pair.inbound);
        if !pair.inbound_only {
            put(&mut child.outbound, &pair.outbound);
            if activate {
                child.active = Some(pair.outbound.spi);
            }
        }
        host.packets.entry(pair.inbound.spi).or_insert(0);
    }

    fn remove(&mut self, id: ChildId, spi: u32, inbound: bool, host: &mut SimHost) {
        let child = self.child(id);
        if inbound {
            assert!(
                child.inbound.remove(&spi).is_some(),
                "inbound {spi:08x} is there"
            );
            assert!(host.spis.remove(&spi), "SPI {spi:08x} was allocated");
            host.packets.remove(&spi);
        } else {
            assert!(
                child.outbound.remove(&spi).is_some(),
                "outbound {spi:08x} is there"
            );
            if child.active == Some(spi) {
                child.active = None;
            }
        }
    }
}

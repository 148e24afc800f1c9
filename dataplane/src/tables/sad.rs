//! The SAD (RFC 4301 4.4.2): a row an SA, both directions, found by number or by SPI.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{Geometry, SaId, Vrf};
use api::record::{Direction, Limits};
use api::window::WindowSlot;
use arc_swap::{ArcSwap, ArcSwapOption};
use crypto::KeyContext;

use super::child::Child;

/// What a worker needs of an SA. Nothing in it changes: an update makes a new one. Sequence
/// number, window and counters stand in the SA's row of the state region.
#[derive(Clone, Debug)]
pub struct Sa {
    /// Its number.
    pub id: SaId,
    /// Its row in the SAD and in the state region.
    pub row: u32,
    /// Its SPI on the wire.
    pub spi: u32,
    /// Which way packets go.
    pub direction: Direction,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
    /// Replay window; 0 is off.
    pub window_bits: u32,
    /// Where it lies.
    pub window: Option<WindowSlot>,
    /// How far it may be used.
    pub limits: Limits,
    /// The child it belongs to.
    pub child: Arc<Child>,
    /// The expanded key.
    pub key: Arc<KeyContext>,
}

/// Names a static inbound SA, whose SPI was not allocated here.
type StaticKey = (u32, IpAddr, Vrf);

/// All SAs.
pub struct Sad {
    geometry: Geometry,
    rows: Box<[ArcSwapOption<Sa>]>,
    statics: ArcSwap<HashMap<StaticKey, Arc<Sa>>>,
}

impl Sad {
    /// An empty SAD of this shape.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        let rows = (0..geometry.rows())
            .map(|_| ArcSwapOption::empty())
            .collect();
        Self {
            geometry,
            rows,
            statics: ArcSwap::default(),
        }
    }

    /// Its shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The SA with this number.
    #[must_use]
    pub fn get(&self, id: SaId) -> Option<Arc<Sa>> {
        let sa = self.slot(id)?.load();
        sa.as_ref().filter(|sa| sa.id == id).cloned()
    }

    /// The inbound SA that an ESP packet to this local address names. The caller still has to
    /// compare address, routing instance and encapsulation with the SA's path.
    #[must_use]
    pub fn inbound(&self, vrf: Vrf, local: IpAddr, spi: u32) -> Option<Arc<Sa>> {
        let allocated = self
            .get(SaId(spi))
            .filter(|sa| sa.direction == Direction::Inbound);
        allocated
            .filter(|sa| !sa.id.is_static())
            .or_else(|| self.statics.load().get(&(spi, local, vrf)).cloned())
    }

    /// Puts an SA into its row. False if this SAD has no such row.
    pub(super) fn insert(&self, sa: &Arc<Sa>) -> bool {
        let Some(slot) = self.slot(sa.id) else {
            return false;
        };
        slot.store(Some(Arc::clone(sa)));
        if sa.id.is_static() && sa.direction == Direction::Inbound {
            self.change_statics(|statics| {
                statics.insert(static_key(sa), Arc::clone(sa));
            });
        }
        true
    }

    /// Empties the SA's row.
    pub(super) fn remove(&self, sa: &Sa) {
        if let Some(slot) = self.slot(sa.id) {
            slot.store(None);
        }
        if sa.id.is_static() && sa.direction == Direction::Inbound {
            self.change_statics(|statics| {
                statics.retain(|_, held| held.id != sa.id);
            });
        }
    }

    /// True when another static inbound SA has the same SPI, local address and VRF.
    pub(super) fn collides(&self, sa: &Sa) -> bool {
        let inbound_static = sa.id.is_static() && sa.direction == Direction::Inbound;
        let statics = self.statics.load();
        let held = statics.get(&static_key(sa));
        inbound_static && held.is_some_and(|held| held.id != sa.id)
    }

    /// Files a static SA anew after its path has changed.
    pub(super) fn refile(&self, sa: &Arc<Sa>) {
        self.remove(sa);
        self.insert(sa);
    }

    /// True when some SA has the row.
    pub(super) fn is_taken(&self, row: u32) -> bool {
        let slot = usize::try_from(row).ok().and_then(|row| self.rows.get(row));
        slot.is_some_and(|slot| slot.load().is_some())
    }

    fn slot(&self, id: SaId) -> Option<&ArcSwapOption<Sa>> {
        let row = self.geometry.row(id)?;
        self.rows.get(usize::try_from(row).ok()?)
    }

    fn change_statics(&self, change: impl FnOnce(&mut HashMap<StaticKey, Arc<Sa>>)) {
        let mut statics = HashMap::clone(&self.statics.load());
        change(&mut statics);
        self.statics.store(Arc::new(statics));
    }
}

fn static_key(sa: &Sa) -> StaticKey {
    let path = sa.child.settings().path.load();
    (sa.spi, path.local, path.vrf)
}

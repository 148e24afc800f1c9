//! The SAD (RFC 4301 4.4.2): a row an SA, both directions, found by number or by SPI.
//!
//! ```text
//! tags        8 bytes a row: which SA is there; a flood of unknown SPIs touches nothing else
//! Sa          line 0: what inbound packets compare; line 1: what outbound packets need;
//!             lines 2, 3: other tunnels, limits, NAT; then the expanded key
//! state row   (api) sequence number, newest word of the window, counters; its other words by their slot
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::id::{ChildId, Geometry, Interface, SaId, Vrf};
use api::record::{Algorithm, Direction, Limits, SaInfo};
use api::window::WindowSlot;
use arc_swap::ArcSwap;
use crypto::KeyContext;
use esp::encap::Tunnel;

use crate::memory::{Removed, Slots, SlotsWriter};
use crate::port::PortIndex;
use crate::quiescence::{Quiescence, Turn};

/// What a worker needs of an SA. Only the cached hop changes: any update makes a new version.
/// Sequence number, window and counters stand in the SA's row of the state region.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Sa {
    /// Its number.
    pub id: SaId,
    /// Its SPI on the wire.
    pub spi: u32,
    /// Its row in the SAD and in the state region.
    pub row: u32,
    /// The slot of the child it belongs to.
    pub child: u32,
    /// Routing instance of its outer packets.
    pub vrf: Vrf,
    /// Port that inbound packets must come by; 0 is any.
    pub interface: Interface,
    /// Routing instance of its inner packets.
    pub inner_vrf: Vrf,
    /// Length of the ICV in bytes.
    pub icv_bytes: u8,
    /// What is special about it.
    pub marks: Marks,
    /// Which way packets go, and what that direction needs.
    pub way: Way,
    /// What a usual outbound packet needs besides the key.
    pub sending: Option<Sending>,
    /// How far it may be used; looked at if [`Marks::LIMITED`].
    pub limits: Limits,
    /// The peer's address and UDP port, to notice a change.
    pub peer: (IpAddr, u16),
    /// The expanded key.
    pub key: KeyContext,
}

// What each packet touches of an SA: inbound the first line, outbound the second.
const _: () = assert!(std::mem::offset_of!(Sa, sending) == 64);
// What IPv4 needs of the tunnel begins it; of IPv6 the last address is a line further.
const _: () = assert!(std::mem::offset_of!(Sending, tunnel) == 24);
const _: () = assert!(std::mem::offset_of!(Sa, key) == 256);

/// What a usual outbound packet needs of its SA besides the key, in one line: some of it stands in the
/// SA too.
#[derive(Debug)]
#[repr(C)]
pub struct Sending {
    /// Where the SA's packets leave, as last looked up.
    pub hop: HopCache,
    /// The SA's.
    pub spi: u32,
    /// The SA's.
    pub marks: Marks,
    /// The headers around a packet.
    pub tunnel: Tunnel,
}

/// Properties of an SA, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(pub u8);

impl Marks {
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub const ESN: Self = Self(1);
    /// ESP in UDP (RFC 3948).
    pub const UDP: Self = Self(1 << 1);
    /// It has a limit of packets or bytes.
    pub const LIMITED: Self = Self(1 << 2);
    /// Inbound: copy DSCP to the inner header (RFC 4301 5.1.2.1).
    pub const COPY_DSCP: Self = Self(1 << 3);
    /// Inbound: copy ECN to the inner header (RFC 6040 4.2).
    pub const COPY_ECN: Self = Self(1 << 4);

    /// This set, with `other` if `condition` holds.
    #[must_use]
    pub const fn with_if(self, other: Self, condition: bool) -> Self {
        Self(if condition { self.0 | other.0 } else { self.0 })
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What only one direction has.
#[derive(Debug)]
pub enum Way {
    /// From the peer.
    Inbound {
        /// Replay window in packets; 0 is off.
        window_bits: u32,
        /// Where it lies.
        window: Option<WindowSlot>,
        /// The address that packets must be sent to.
        local: IpAddr,
    },
    /// To the peer.
    Outbound {
        /// Path MTU of outer packets in bytes; 0 is that of the port.
        mtu_bytes: u16,
    },
}

impl Sa {
    /// Extended sequence numbers (RFC 4303 2.2.1).
    #[inline]
    #[must_use]
    pub const fn esn(&self) -> bool {
        self.marks.has(Marks::ESN)
    }

    /// Which way its packets go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self.way {
            Way::Inbound { .. } => Direction::Inbound,
            Way::Outbound { .. } => Direction::Outbound,
        }
    }

    /// Where its replay window lies, if it has one.
    #[must_use]
    pub fn window(&self) -> Option<WindowSlot> {
        match self.way {
            Way::Inbound { window, .. } => window,
            Way::Outbound { .. } => None,
        }
    }

    /// What it was made with, the present limits included; it belongs to this child.
    #[must_use]
    pub fn info(&self, child: ChildId) -> SaInfo {
        SaInfo {
            id: self.id,
            child,
            direction: self.direction(),
            spi: self.spi,
            algorithm: Algorithm::AesGcm16,
            esn: self.esn(),
            window_bits: match self.way {
                Way::Inbound { window_bits, .. } => window_bits,
                Way::Outbound { .. } => 0,
            },
            limits: self.limits,
        }
    }
}

/// Where the packets of an SA leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Egress port.
    pub port: PortIndex,
    /// Ethernet address of the next hop, see [`Mac::word`].
    pub mac: u64,
    /// Longest inner packet in bytes.
    pub inner_mtu_bytes: u16,
}

/// The [`Hop`] of an SA, good for one version of routes and neighbours.
///
/// Only the worker that owns the SA writes it. Another one that still reads it, while the SA
/// changes hands, finds its own version or a newer answer.
#[derive(Debug, Default)]
pub struct HopCache {
    /// Version, port, longest inner packet: 32, 16, 16 bits.
    place: AtomicU64,
    mac: AtomicU64,
}

impl HopCache {
    /// The answer, if it is of this version; 0 is never a version.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, version: u32) -> Option<Hop> {
        // Acquire: pairs with the release in `set`.
        let place = self.place.load(Ordering::Acquire);
        if place >> 32 != u64::from(version) {
            return None;
        }
        let [.., port, m0, m1] = place.to_be_bytes();
        Some(Hop {
            port: PortIndex::new(port.into())?,
            mac: self.mac.load(Ordering::Relaxed),
            inner_mtu_bytes: u16::from_be_bytes([m0, m1]),
        })
    }

    /// Keeps an answer.
    pub fn set(&self, version: u32, hop: Hop) {
        let place = u64::from(version) << 32
            | (hop.port.index() as u64) << 16
            | u64::from(hop.inner_mtu_bytes);
        self.place.store(0, Ordering::Release);
        self.mac.store(hop.mac, Ordering::Release);
        self.place.store(place, Ordering::Release);
    }
}

/// Names a static inbound SA, whose SPI was not allocated here.
type StaticKey = (u32, IpAddr, Vrf);

/// Static SAs by what their packets show.
type Statics = HashMap<StaticKey, SaId>;

/// All SAs, for workers.
pub struct Sad {
    geometry: Geometry,
    sas: Arc<Slots<Sa>>,
    statics: Arc<ArcSwap<Statics>>,
}

impl Sad {
    /// An empty SAD of this shape, and the hand that changes it.
    #[must_use]
    pub fn new(geometry: Geometry, quiescence: &Arc<Quiescence>) -> (Self, SadWriter) {
        let (sas, sas_writer) = Slots::new(geometry.rows(), quiescence);
        let statics = Arc::new(ArcSwap::default());
        let writer = SadWriter {
            geometry,
            sas: sas_writer,
            statics: Arc::clone(&statics),
        };
        let sad = Self {
            geometry,
            sas,
            statics,
        };
        (sad, writer)
    }

    /// Its shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The SA with this number.
    #[inline]
    #[must_use]
    pub fn get<'t>(&'t self, id: SaId, turn: &'t Turn<'_>) -> Option<&'t Sa> {
        self.sas.get(self.geometry.row(id)?, id.0, turn)
    }

    /// The inbound SA that an ESP packet to this local address names. The caller still has to
    /// compare address, routing instance and encapsulation with the SA.
    #[inline]
    #[must_use]
    pub fn inbound<'t>(
        &'t self,
        vrf: Vrf,
        local: impl FnOnce() -> IpAddr,
        spi: u32,
        turn: &'t Turn<'_>,
    ) -> Option<&'t Sa> {
        let id = SaId(spi);
        if !id.is_static()
            && let Some(sa) = self.get(id, turn)
            && matches!(sa.way, Way::Inbound { .. })
        {
            return Some(sa);
        }
        let id = *self.statics.load().get(&(spi, local(), vrf))?;
        self.get(id, turn)
    }

    /// Asks for a cache line of the SA in this row, and for the way to it.
    #[inline(always)]
    pub fn prefetch(&self, row: u32, line: usize) {
        self.sas.prefetch(row, line);
    }
}

/// The hand that changes the SAD.
pub struct SadWriter {
    geometry: Geometry,
    sas: SlotsWriter<Sa>,
    statics: Arc<ArcSwap<Statics>>,
}

/// An SA that no worker finds any more, but some may still hold.
#[must_use = "its row stays taken until it is reclaimed"]
pub struct RemovedSa(Option<Removed>);

impl SadWriter {
    /// Its shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The SA with this number.
    #[must_use]
    pub fn get(&self, id: SaId) -> Option<&Sa> {
        self.sas.get(self.geometry.row(id)?, id.0)
    }

    /// Asks for what installing an SA in this row reads of it.
    pub fn prefetch(&self, row: u32) {
        self.sas.prefetch(row);
    }

    /// Takes memory for rows that will be used, a bit more with every call; false when there is
    /// enough.
    pub fn take_memory(&mut self) -> bool {
        self.sas.take_memory()
    }

    /// True when some SA has the row.
    #[must_use]
    pub fn is_taken(&self, row: u32) -> bool {
        self.sas.is_taken(row)
    }

    /// Puts an SA into its row. False if this SAD has no such row, or it is taken.
    pub fn insert(&mut self, sa: Sa) -> bool {
        if self.sas.is_taken(sa.row) {
            return false;
        }
        self.file(&sa);
        self.sas.insert(sa.row, sa.id.0, sa)
    }

    /// Puts a new version of an SA in the place of the old one. False if there is none.
    pub fn replace(&mut self, sa: Sa) -> bool {
        let id = sa.id;
        self.unfile(id);
        self.file(&sa);
        self.sas.replace(sa.row, id.0, sa)
    }

    /// Empties the SA's row.
    pub fn remove(&mut self, id: SaId) -> RemovedSa {
        self.unfile(id);
        let row = self.geometry.row(id);
        RemovedSa(row.and_then(|row| self.sas.remove(row, id.0)))
    }

    /// Frees the row of a removed SA and wipes its key, if no worker can hold it any more.
    ///
    /// # Errors
    /// The same, to be tried again.
    pub fn reclaim(&mut self, removed: RemovedSa) -> Result<(), RemovedSa> {
        let Some(removed) = removed.0 else {
            return Ok(());
        };
        self.sas
            .reclaim(removed)
            .map_err(|left| RemovedSa(Some(left)))
    }

    /// True when another static inbound SA has the same SPI, local address and VRF.
    #[must_use]
    pub fn collides(&self, sa: &Sa) -> bool {
        let statics = self.statics.load();
        static_key(sa).is_some_and(|key| statics.get(&key).is_some_and(|held| *held != sa.id))
    }

    /// Static inbound SAs are found by what their packets show.
    fn file(&self, sa: &Sa) {
        if let Some(key) = static_key(sa) {
            self.change_statics(|statics| {
                statics.insert(key, sa.id);
            });
        }
    }

    fn unfile(&self, id: SaId) {
        if id.is_static() {
            self.change_statics(|statics| statics.retain(|_, held| *held != id));
        }
    }

    fn change_statics(&self, change: impl FnOnce(&mut Statics)) {
        let mut statics = Statics::clone(&self.statics.load());
        change(&mut statics);
        self.statics.store(Arc::new(statics));
    }
}

fn static_key(sa: &Sa) -> Option<StaticKey> {
    match sa.way {
        Way::Inbound { local, .. } if sa.id.is_static() => Some((sa.spi, local, sa.vrf)),
        _ => None,
    }
}

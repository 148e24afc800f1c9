//! What is up, for people and programs.

use std::net::SocketAddr;

use super::Endpoint;
use crate::child_sa::{Child, Pair, PairState};
use crate::event::{ChildId, IkeId};
use crate::host::Time;
use crate::ike_sa::{IkeSa, State};
use crate::keys::Keys;
use crate::selector::Selectors;
use crate::timer::Timer;

/// An IKE SA.
#[derive(Clone, Debug)]
pub struct IkeSaView {
    /// Number.
    pub id: IkeId,
    /// Name of the connection.
    pub connection: String,
    /// Where it is in its life.
    pub state: State,
    /// We are the original initiator.
    pub initiator: bool,
    /// SPI of the initiator.
    pub spi_i: u64,
    /// SPI of the responder.
    pub spi_r: u64,
    /// Own address and port.
    pub local: SocketAddr,
    /// Peer's address and port.
    pub remote: SocketAddr,
    /// Own identity.
    pub local_id: Option<String>,
    /// Peer's identity.
    pub remote_id: Option<String>,
    /// This side is behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT.
    pub nat_remote: bool,
    /// Algorithms, such as `AES_GCM_16-256/PRF_HMAC_SHA2_256/CURVE_25519`.
    pub algorithms: Option<String>,
    /// When it was made.
    pub established: Time,
    /// When it will be rekeyed.
    pub rekey_at: Option<Time>,
    /// Its children.
    pub children: Vec<ChildView>,
}

/// A child.
#[derive(Clone, Debug)]
pub struct ChildView {
    /// Number.
    pub id: ChildId,
    /// Name of its configuration.
    pub name: String,
    /// What it protects.
    pub selectors: Selectors,
    /// ESP travels in UDP.
    pub udp_encapsulation: bool,
    /// Its pairs of SAs, oldest first.
    pub sas: Vec<SaView>,
}

/// A pair of SAs.
#[derive(Clone, Debug)]
pub struct SaView {
    /// Our SPI.
    pub inbound_spi: u32,
    /// The peer's SPI.
    pub outbound_spi: u32,
    /// `ready`, `active`, `replaced`, `deleting` or `draining`.
    pub state: &'static str,
    /// Algorithms, such as `AES_GCM_16-256/ECP_384/ESN`.
    pub algorithms: String,
    /// When it was made.
    pub created: Time,
    /// When it will be rekeyed.
    pub rekey_at: Option<Time>,
    /// When it ends.
    pub expire_at: Option<Time>,
}

impl Endpoint {
    /// Every IKE SA that is not over.
    #[must_use]
    pub fn list(&self) -> Vec<IkeSaView> {
        let live = self
            .sas
            .values()
            .filter(|sa| sa.state() != State::Lingering);
        live.map(ike_view).collect()
    }
}

fn ike_view(sa: &IkeSa) -> IkeSaView {
    let (spi_i, spi_r) = sa.spis();
    IkeSaView {
        id: sa.id,
        connection: sa.connection.name.clone(),
        state: sa.state(),
        initiator: sa.initiator,
        spi_i,
        spi_r,
        local: sa.local,
        remote: sa.remote,
        local_id: sa.local_id.as_ref().map(ToString::to_string),
        remote_id: sa.remote_id.as_ref().map(ToString::to_string),
        nat_local: sa.nat.local,
        nat_remote: sa.nat.remote,
        algorithms: sa.keys.as_ref().map(Keys::suite).map(ToString::to_string),
        established: sa.established,
        rekey_at: sa.timers.get(Timer::RekeyIke),
        children: sa
            .children
            .iter()
            .map(|child| child_view(sa, child))
            .collect(),
    }
}

fn child_view(sa: &IkeSa, child: &Child) -> ChildView {
    ChildView {
        id: child.id,
        name: child.config.name.clone(),
        selectors: child.selectors.clone(),
        udp_encapsulation: sa.nat.encapsulate,
        sas: child.pairs.iter().map(|pair| sa_view(sa, pair)).collect(),
    }
}

fn sa_view(sa: &IkeSa, pair: &Pair) -> SaView {
    let protection = &pair.protection;
    let encryption = crate::wire::EncrId(protection.encryption);
    let mut algorithms = format!("{encryption}-{}", protection.key_bits);
    if let Some(group) = protection.group {
        algorithms.push_str(&format!("/{group}"));
    }
    if protection.esn {
        algorithms.push_str("/ESN");
    }
    SaView {
        inbound_spi: pair.inbound_spi,
        outbound_spi: pair.outbound_spi,
        state: match pair.state {
            PairState::Ready => "ready",
            PairState::Active => "active",
            PairState::Replaced => "replaced",
            PairState::Deleting => "deleting",
            PairState::Draining => "draining",
        },
        algorithms,
        created: pair.created,
        rekey_at: sa.timers.get(Timer::RekeyChild(pair.inbound_spi)),
        expire_at: sa.timers.get(Timer::ExpireChild(pair.inbound_spi)),
    }
}

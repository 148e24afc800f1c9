//! A Child: policies that keep their identity, and the pairs of SAs that serve them by turns.
//!
//! RFC 7296 calls each pair a Child SA and rekeys by making another one (2.8). Here both belong to
//! the same `Child`, so a rekey changes no policy.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::{ChildConfig, Connection};
use crate::context::Context;
use crate::event::{
    Action, ChildId, ChildInstall, ChildSpec, IkeId, Limits, PathSpec, Rekeyed, SaKeys, SaPair,
};
use crate::host::{Host, Time};
use crate::selector::Selectors;
use crate::wire::KeGroup;

/// Packets that one SA without extended sequence numbers can send (RFC 4303 3.3.3).
const SEQUENCE_LIMIT: u64 = u32::MAX as u64;
/// Without ESN, rekey at this many packets at the latest: three quarters of the sequence numbers.
const SEQUENCE_SOFT: u64 = SEQUENCE_LIMIT / 4 * 3;

/// Life of a pair of SAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairState {
    /// Agreed as responder of a rekey: takes packets, is not sent on yet.
    Ready,
    /// In use.
    Active,
    /// Another pair takes its place; a DELETE of it is to come.
    Replaced,
    /// Our DELETE is outstanding.
    Deleting,
    /// Deleted; late packets are still taken.
    Draining,
}

/// What was agreed about the protection of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protection {
    /// ENCR transform.
    pub(crate) encryption: u16,
    /// Key length in bits.
    pub(crate) key_bits: u16,
    pub(crate) esn: bool,
    /// Key exchange of its own; none if the keys come from those of the IKE SA alone.
    pub(crate) group: Option<KeGroup>,
}

/// One pair of SAs.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) inbound_spi: u32,
    pub(crate) outbound_spi: u32,
    pub(crate) inbound_key: Zeroizing<Vec<u8>>,
    pub(crate) outbound_key: Zeroizing<Vec<u8>>,
    pub(crate) protection: Protection,
    pub(crate) limits: Limits,
    pub(crate) window_packets: u32,
    pub(crate) state: PairState,
    pub(crate) created: Time,
    /// The peer agreed to our rekey request, not we to the peer's.
    pub(crate) ours: bool,
    /// The outbound SA is still in the dataplane.
    pub(crate) outbound_up: bool,
}

impl Pair {
    /// The pair for the dataplane.
    pub(crate) fn install(&self, adopt: bool) -> SaPair {
        SaPair {
            inbound: SaKeys {
                spi: self.inbound_spi,
                key: self.inbound_key.clone(),
            },
            outbound: SaKeys {
                spi: self.outbound_spi,
                key: self.outbound_key.clone(),
            },
            encryption: self.protection.encryption,
            esn: self.protection.esn,
            window_packets: self.window_packets,
            limits: self.limits,
            adopt,
            inbound_only: !self.outbound_up,
        }
    }

    /// Can it become, or is it, the one in use?
    pub(crate) const fn is_live(&self) -> bool {
        match self.state {
            PairState::Ready | PairState::Active => true,
            PairState::Replaced | PairState::Deleting | PairState::Draining => false,
        }
    }
}

/// Limits of a new pair: those configured, and what the sequence numbers allow.
pub(crate) fn limits(config: &ChildConfig, esn: bool, host: &mut dyn Host) -> Limits {
    let mut limits = Limits {
        soft_bytes: config.bytes.soft(host),
        hard_bytes: config.bytes.hard(),
        soft_packets: config.packets.soft(host),
        hard_packets: config.packets.hard(),
    };
    if !esn {
        let cap = |value: u64, most: u64| if value == 0 { most } else { value.min(most) };
        limits.soft_packets = cap(limits.soft_packets, SEQUENCE_SOFT);
        limits.hard_packets = cap(limits.hard_packets, SEQUENCE_LIMIT);
    }
    limits
}

/// A Child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ChildId,
    pub(crate) connection: Arc<Connection>,
    pub(crate) config: Arc<ChildConfig>,
    pub(crate) selectors: Selectors,
    /// Oldest first.
    pub(crate) pairs: Vec<Pair>,
    /// Inbound SPI of the pair that the dataplane sends on.
    pub(crate) sending: u32,
}

impl Child {
    /// The pair that the dataplane sends on, if it can send.
    pub(crate) fn active(&self) -> Option<&Pair> {
        self.pair(self.sending).filter(|pair| pair.outbound_up)
    }

    /// The pair that a rekey replaces: in use, and nobody has begun to replace it.
    pub(crate) fn rekeyable(&self) -> Option<&Pair> {
        self.pairs
            .iter()
            .find(|pair| pair.state == PairState::Active)
    }

    pub(crate) fn pair(&self, inbound_spi: u32) -> Option<&Pair> {
        self.pairs
            .iter()
            .find(|pair| pair.inbound_spi == inbound_spi)
    }

    pub(crate) fn pair_mut(&mut self, inbound_spi: u32) -> Option<&mut Pair> {
        self.pairs
            .iter_mut()
            .find(|pair| pair.inbound_spi == inbound_spi)
    }

    /// A pair that is not yet deleted, by the SPI that the peer names it with.
    pub(crate) fn pair_of_peer(&self, outbound_spi: u32) -> Option<&Pair> {
        let live = |pair: &&Pair| pair.state != PairState::Draining;
        self.pairs
            .iter()
            .filter(live)
            .find(|pair| pair.outbound_spi == outbound_spi)
    }

    /// By any of its two SPIs.
    pub(crate) fn pair_with(&self, spi: u32) -> Option<&Pair> {
        self.pair(spi)
            .or_else(|| self.pairs.iter().find(|pair| pair.outbound_spi == spi))
    }

    pub(crate) fn is_live(&self) -> bool {
        self.pairs.iter().any(Pair::is_live)
    }

    /// Policies and path for the dataplane.
    pub(crate) fn spec(&self, path: PathSpec) -> ChildSpec {
        spec(
            self.id,
            &self.connection,
            &self.config,
            &self.selectors,
            path,
        )
    }

    /// Installs the child with its first pair.
    pub(crate) fn install(&self, ike: IkeId, path: PathSpec, adopt: bool, ctx: &mut Context<'_>) {
        let Some(pair) = self.active() else { return };
        let install = ChildInstall {
            spec: self.spec(path),
            pair: pair.install(adopt),
        };
        ctx.emit(ike, Action::InstallChild(Box::new(install)));
    }

    /// Installs a pair beside those that are there. It is in use at once if it is `Active`.
    pub(crate) fn add(
        &mut self,
        ike: IkeId,
        pair: Pair,
        selectors: Option<Selectors>,
        ctx: &mut Context<'_>,
    ) {
        let activate = pair.state == PairState::Active;
        let changed = selectors.filter(|new| *new != self.selectors);
        if let Some(new) = &changed {
            self.selectors = new.clone();
        }
        let rekeyed = Rekeyed {
            child: self.id,
            pair: pair.install(false),
            activate,
            selectors: changed.map(|new| new.pairs()),
        };
        ctx.emit(ike, Action::InstallRekeyed(Box::new(rekeyed)));
        if activate {
            self.sending = pair.inbound_spi;
        }
        self.pairs.push(pair);
    }

    /// Sends on the pair from now on, if that is not so yet.
    pub(crate) fn activate(&mut self, ike: IkeId, inbound_spi: u32, ctx: &mut Context<'_>) {
        let child = self.id;
        let Some(pair) = self.pair_mut(inbound_spi) else {
            return;
        };
        if pair.state != PairState::Ready {
            return;
        }
        pair.state = PairState::Active;
        let spi = pair.outbound_spi;
        self.sending = inbound_spi;
        ctx.emit(ike, Action::ActivateOutbound { child, spi });
    }

    /// Takes the outbound SA of a pair out of the dataplane; a pair that waits takes over first.
    pub(crate) fn stop_sending(&mut self, ike: IkeId, inbound_spi: u32, ctx: &mut Context<'_>) {
        let ready = self
            .pairs
            .iter()
            .rev()
            .find(|pair| pair.state == PairState::Ready);
        if let Some(next) = ready.map(|pair| pair.inbound_spi)
            && self.sending == inbound_spi
            && next != inbound_spi
        {
            self.activate(ike, next, ctx);
        }
        let child = self.id;
        let Some(pair) = self.pair_mut(inbound_spi) else {
            return;
        };
        if pair.outbound_up {
            pair.outbound_up = false;
            let spi = pair.outbound_spi;
            ctx.emit(
                ike,
                Action::RemoveSa {
                    child,
                    spi,
                    inbound: false,
                },
            );
        }
    }

    /// Takes a pair out of the dataplane and forgets it.
    pub(crate) fn remove_pair(&mut self, ike: IkeId, inbound_spi: u32, ctx: &mut Context<'_>) {
        if self.pair(inbound_spi).is_none() {
            return;
        }
        self.stop_sending(ike, inbound_spi, ctx);
        self.pairs.retain(|pair| pair.inbound_spi != inbound_spi);
        let child = self.id;
        ctx.emit(
            ike,
            Action::RemoveSa {
                child,
                spi: inbound_spi,
                inbound: true,
            },
        );
    }

    /// Takes everything out of the dataplane.
    pub(crate) fn remove(&mut self, ike: IkeId, ctx: &mut Context<'_>) {
        let child = self.id;
        for pair in self.pairs.drain(..) {
            if pair.outbound_up {
                let spi = pair.outbound_spi;
                ctx.emit(
                    ike,
                    Action::RemoveSa {
                        child,
                        spi,
                        inbound: false,
                    },
                );
            }
            let spi = pair.inbound_spi;
            ctx.emit(
                ike,
                Action::RemoveSa {
                    child,
                    spi,
                    inbound: true,
                },
            );
        }
        ctx.emit(ike, Action::RemoveChild { child });
    }
}

/// Policies and path of a child or a trap.
pub(crate) fn spec(
    child: ChildId,
    connection: &Connection,
    config: &ChildConfig,
    selectors: &Selectors,
    path: PathSpec,
) -> ChildSpec {
    ChildSpec {
        child,
        connection: connection.name.clone(),
        name: config.name.clone(),
        path,
        selectors: selectors.pairs(),
        priority: config.priority,
        copy_df: config.copy_df,
        copy_ecn: config.copy_ecn,
        copy_dscp: config.copy_dscp,
    }
}

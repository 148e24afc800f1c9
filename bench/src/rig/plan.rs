//! Who has which address, SPI and key. Flow `i` of a cell belongs to SA `i`.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | gateway under test | 172.16.0.1 | 2001:db8::1 |
//! | far gateway of flow i | 172.20.0.1 + i | 2001:db8:1::1 + i |
//! | near host | 10.8.0.1 | fd00:8::1 |
//! | far host of flow i | 10.16.0.0 + i | fd00:16::1 + i |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::id::{Geometry, GeometryError, MAX_SAS, SaId};
use api::selector::AddrRange;
use fastrand::Rng;

use super::cell::{Cell, Family};
use crate::soak::packet::Mac;

/// Outbound SPI of flow 0; the others follow.
const SPI_OUT: u32 = 0x1000;
const SALT_BYTES: usize = 4;
/// What the generator's ports are called by their neighbours.
pub(crate) const PORT_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1]];
/// Everybody else on either link.
pub(crate) const PEER_MAC: Mac = [2, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa];

/// Addresses, SPIs and keys of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cell: Cell,
    geometry: Geometry,
    /// Both SAs of a flow fit the table.
    pub(crate) pairs: bool,
    workers: u32,
    /// Packets arrive at the queue of the worker behind the one that owns their SA.
    pub(crate) elsewhere: bool,
}

/// Key and salt of an SA, one behind the other as IKE cuts them.
pub(crate) type Key = Vec<u8>;

impl Plan {
    pub(crate) fn new(cell: Cell, workers: u32) -> Result<Self, GeometryError> {
        let pairs = cell.sas <= MAX_SAS / 2;
        let rows = if pairs { 2 * cell.sas } else { cell.sas };
        Ok(Self {
            cell,
            geometry: Geometry::new(rows.max(2 * workers), workers, 0)?,
            pairs,
            workers,
            elsewhere: false,
        })
    }

    /// The first flows alone, each with the row and addresses that it has here.
    pub(crate) fn first(self, sas: u32) -> Self {
        Self {
            cell: Cell { sas, ..self.cell },
            ..self
        }
    }

    /// The dataplane's `max_sas`.
    pub(crate) fn max_sas(&self) -> u32 {
        self.geometry.max_sas()
    }

    /// The row of a flow's SA: flows go round the shards, so that workers have as many each.
    fn id(&self, flow: u32, upper: bool) -> Option<SaId> {
        let shards = self.geometry.shards();
        let mut index = flow / shards;
        if upper && self.pairs {
            index += self.geometry.rows_per_shard() / 2;
        }
        let shard = u16::try_from(1 + flow % shards).ok()?;
        SaId::new(shard, u16::try_from(index).ok()?, 0)
    }

    /// The inbound SA, whose SPI is its id.
    pub(crate) fn inbound(&self, flow: u32) -> Option<SaId> {
        self.id(flow, false)
    }

    pub(crate) fn outbound(&self, flow: u32) -> Option<SaId> {
        self.id(flow, true)
    }

    /// The SPI in packets to the gateway.
    pub(crate) fn spi_in(&self, flow: u32) -> u32 {
        self.inbound(flow).map_or(0, |id| id.0)
    }

    /// The SPI in packets from the gateway.
    pub(crate) fn spi_out(flow: u32) -> u32 {
        SPI_OUT + flow
    }

    pub(crate) fn flow_of_spi_out(&self, spi: u32) -> Option<u32> {
        spi.checked_sub(SPI_OUT)
            .filter(|flow| *flow < self.cell.sas)
    }

    /// The queue that a flow's packets arrive at: shards go round the workers.
    pub(crate) fn queue(&self, flow: u32) -> usize {
        let owner = flow % self.geometry.shards() % self.workers;
        ((owner + u32::from(self.elsewhere)) % self.workers) as usize
    }

    /// Keying material; anything will do, the same at every call.
    pub(crate) fn key(&self, flow: u32, inbound: bool) -> Key {
        let mut rng = Rng::with_seed(u64::from(flow) << 1 | u64::from(inbound));
        let bytes = usize::from(self.cell.key_bits / 8) + SALT_BYTES;
        (0..bytes).map(|_| rng.u8(..)).collect()
    }

    fn address(&self, v4: [u8; 4], v6: [u16; 3], last: u128, add: u32) -> IpAddr {
        match self.cell.family {
            Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::from(v4).to_bits() + add).into(),
            Family::V6 => {
                let base = Ipv6Addr::new(v6[0], v6[1], v6[2], 0, 0, 0, 0, 0).to_bits();
                Ipv6Addr::from_bits(base + last + u128::from(add)).into()
            }
        }
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.address([172, 16, 0, 1], [0x2001, 0xdb8, 0], 1, 0)
    }

    /// The router that everything far is reached through.
    pub(crate) fn next_hop(&self) -> IpAddr {
        self.address([172, 16, 0, 2], [0x2001, 0xdb8, 0], 2, 0)
    }

    pub(crate) fn far_gateway(&self, flow: u32) -> IpAddr {
        self.address([172, 20, 0, 1], [0x2001, 0xdb8, 1], 1, flow)
    }

    pub(crate) fn near_host(&self) -> IpAddr {
        self.address([10, 8, 0, 1], [0xfd00, 8, 0], 1, 0)
    }

    /// The network of the near host: what selectors name.
    pub(crate) fn near_network(&self) -> AddrRange {
        AddrRange {
            first: self.address([10, 8, 0, 0], [0xfd00, 8, 0], 0, 0),
            last: self.address([10, 8, 255, 255], [0xfd00, 8, 0], u64::MAX.into(), 0),
        }
    }

    pub(crate) fn far_host(&self, flow: u32) -> IpAddr {
        self.address([10, 16, 0, 0], [0xfd00, 0x16, 0], 1, flow)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_sa_has_a_row_of_its_own() {
        for (sas, workers) in [(1, 1), (1, 2), (1000, 2), (1000, 3), (100_000, 1)] {
            let plan = Plan::new(Cell::usual(sas), workers).unwrap();
            let mut rows = HashSet::new();
            for flow in 0..sas {
                for id in [plan.inbound(flow).unwrap(), plan.outbound(flow).unwrap()] {
                    assert!(rows.insert(plan.geometry.row(id).unwrap()), "{sas} {flow}");
                }
            }
        }
    }

    #[test]
    fn a_million_sas_fit_one_way_only() {
        let plan = Plan::new(Cell::usual(1_000_000), 1).unwrap();
        assert!(!plan.pairs && plan.inbound(999_999).is_some());
        assert!(Plan::new(Cell::usual(MAX_SAS + 1), 1).is_err());
    }

    #[test]
    fn elsewhere_is_never_at_home() {
        for workers in [2, 3] {
            let home = Plan::new(Cell::usual(100), workers).unwrap();
            let away = Plan {
                elsewhere: true,
                ..home
            };
            assert!((0..100).all(|flow| home.queue(flow) != away.queue(flow)));
        }
    }

    #[test]
    fn addresses_follow_the_flow() {
        let plan = Plan::new(Cell::usual(1000), 1).unwrap();
        assert_eq!(plan.far_gateway(255).to_string(), "172.20.1.0");
        assert_eq!(plan.far_host(256).to_string(), "10.16.1.0");
        assert_eq!(plan.flow_of_spi_out(Plan::spi_out(7)), Some(7));
        assert_eq!(plan.flow_of_spi_out(Plan::spi_out(1000)), None);
        assert_ne!(plan.key(1, true), plan.key(1, false));
        let v6 = Cell {
            family: Family::V6,
            ..Cell::usual(2)
        };
        let plan = Plan::new(v6, 1).unwrap();
        assert_eq!(plan.far_gateway(1).to_string(), "2001:db8:1::2");
    }
}

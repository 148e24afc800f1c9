//! Who is who: numbers that name SAs, children, paths and policies in every record.
//!
//! ```text
//!  31        22 21            8 7       0
//! ┌────────────┬───────────────┬─────────┐
//! │ shard (10) │  index (14)   │ tweak(8)│  SaId; an inbound SA of IKE has it as its SPI
//! └────────────┴───────────────┴─────────┘
//! ```
//! Shard and index name a row of the state region, the tweak tells users of one row apart.

use core::fmt;

/// Most SAs of a dataplane, rekey overlap included.
pub const MAX_SAS: u32 = 1 << 20;
/// Most workers of a dataplane.
pub const MAX_WORKERS: u32 = 64;
/// Most ports of a dataplane.
pub const MAX_PORTS: usize = 16;
/// Most rows of one shard, and most static rows.
pub const MAX_ROWS_PER_SHARD: u32 = 1 << INDEX_BITS;
/// The shard of static SAs, which come from the dataplane's own configuration.
pub const STATIC_SHARD: u16 = 1023;
/// The first SPI that an SA can have (RFC 4303 2.1 reserves 0 to 255).
pub const FIRST_SPI: u32 = 256;

const INDEX_BITS: u32 = 14;
const TWEAK_BITS: u32 = 8;
/// Set in the ids of children, paths and policies that the dataplane's configuration made.
const STATIC_BIT: u32 = 1 << 31;

/// Names an SA: shard 10 bits, index 14 bits, tweak 8 bits, from high to low.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId(pub u32);

impl SaId {
    /// Puts an id together; `None` when the shard is 0 or above 1023 or the index above 16,383.
    #[must_use]
    pub const fn new(shard: u16, index: u16, tweak: u8) -> Option<Self> {
        if shard == 0 || shard > STATIC_SHARD || index as u32 >= MAX_ROWS_PER_SHARD {
            return None;
        }
        let high = (shard as u32) << (INDEX_BITS + TWEAK_BITS);
        Some(Self(high | (index as u32) << TWEAK_BITS | tweak as u32))
    }

    /// 0 to 1023; 0 is never used by an SA.
    #[must_use]
    pub const fn shard(self) -> u16 {
        (self.0 >> (INDEX_BITS + TWEAK_BITS)) as u16
    }

    /// 0 to 16,383, the place in the shard.
    #[must_use]
    pub const fn index(self) -> u16 {
        ((self.0 >> TWEAK_BITS) & (MAX_ROWS_PER_SHARD - 1)) as u16
    }

    /// Tells the users of one row apart.
    #[must_use]
    pub const fn tweak(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Whether the SA comes from the dataplane's own configuration.
    #[must_use]
    pub const fn is_static(self) -> bool {
        self.shard() == STATIC_SHARD
    }
}

impl fmt::Display for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Debug for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaId({self})")
    }
}

macro_rules! object_id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The id of the `n`th object of the dataplane's own configuration.
            #[must_use]
            pub const fn fixed(n: u32) -> Self {
                Self(n | STATIC_BIT)
            }

            /// Whether the dataplane's own configuration made it: IKE can neither change nor
            /// delete it.
            #[must_use]
            pub const fn is_static(self) -> bool {
                self.0 & STATIC_BIT != 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_static() {
                    write!(f, "static-{}", self.0 & !STATIC_BIT)
                } else {
                    write!(f, "{}", self.0)
                }
            }
        }
    )*};
}

object_id! {
    /// Names a Child: a selector set with its inbound and outbound SAs, across rekeys.
    ChildId
    /// Names a Path: outer addresses and ports.
    PathId
    /// Names a Policy.
    PolicyId
}

/// A virtual routing table; 0 is the default one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vrf(pub u16);

/// A tunnel interface; 0 is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(pub u16);

/// Why a table of SA rows cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// `max_sas` is 0 or above [`MAX_SAS`].
    MaxSas(u32),
    /// `workers` is 0 or above [`MAX_WORKERS`].
    Workers(u32),
    /// `static_rows` is above [`MAX_ROWS_PER_SHARD`].
    StaticRows(u32),
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxSas(n) => write!(f, "max_sas: {n} is not 1 to {MAX_SAS}"),
            Self::Workers(n) => write!(f, "workers: {n} is not 1 to {MAX_WORKERS}"),
            Self::StaticRows(n) => {
                write!(f, "static SAs: {n} is more than {MAX_ROWS_PER_SHARD}")
            }
        }
    }
}

impl core::error::Error for GeometryError {}

/// How shard and index become a row number: shards first, static rows behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    shards: u32,
    rows_per_shard: u32,
    static_rows: u32,
}

impl Geometry {
    /// The table for at least `max_sas` SAs on `workers` workers: shard count and shard size are
    /// powers of two, every worker has a shard.
    ///
    /// # Errors
    /// [`GeometryError`] names the number that is out of range.
    pub fn new(max_sas: u32, workers: u32, static_rows: u32) -> Result<Self, GeometryError> {
        if max_sas == 0 || max_sas > MAX_SAS {
            return Err(GeometryError::MaxSas(max_sas));
        }
        if workers == 0 || workers > MAX_WORKERS {
            return Err(GeometryError::Workers(workers));
        }
        let needed = max_sas.div_ceil(MAX_ROWS_PER_SHARD);
        let shards = needed.max(workers).next_power_of_two();
        let rows_per_shard = max_sas.div_ceil(shards).next_power_of_two();
        Self::from_parts(shards, rows_per_shard, static_rows)
    }

    /// The table that a region's header describes.
    ///
    /// # Errors
    /// [`GeometryError`] when the header describes an impossible table.
    pub fn from_parts(
        shards: u32,
        rows_per_shard: u32,
        static_rows: u32,
    ) -> Result<Self, GeometryError> {
        let max_sas = u64::from(shards) * u64::from(rows_per_shard);
        if max_sas == 0 || max_sas > u64::from(MAX_SAS) || rows_per_shard > MAX_ROWS_PER_SHARD {
            return Err(GeometryError::MaxSas(
                u32::try_from(max_sas).unwrap_or(u32::MAX),
            ));
        }
        if shards >= u32::from(STATIC_SHARD) {
            return Err(GeometryError::Workers(shards));
        }
        if static_rows > MAX_ROWS_PER_SHARD {
            return Err(GeometryError::StaticRows(static_rows));
        }
        Ok(Self {
            shards,
            rows_per_shard,
            static_rows,
        })
    }

    /// Shards in use are 1 to this number.
    #[must_use]
    pub const fn shards(&self) -> u32 {
        self.shards
    }

    /// Indices of a shard are 0 to this number less one.
    #[must_use]
    pub const fn rows_per_shard(&self) -> u32 {
        self.rows_per_shard
    }

    /// Rows kept for static SAs.
    #[must_use]
    pub const fn static_rows(&self) -> u32 {
        self.static_rows
    }

    /// Rows that IKE can allocate.
    #[must_use]
    pub const fn max_sas(&self) -> u32 {
        self.shards * self.rows_per_shard
    }

    /// All rows, static ones included.
    #[inline]
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.max_sas() + self.static_rows
    }

    /// The row of an SA; `None` when this table has no such row.
    #[inline]
    #[must_use]
    pub fn row(&self, id: SaId) -> Option<u32> {
        let (shard, index) = (u32::from(id.shard()), u32::from(id.index()));
        if id.is_static() {
            return (index < self.static_rows).then(|| self.max_sas() + index);
        }
        let known = shard >= 1 && shard <= self.shards && index < self.rows_per_shard;
        known.then(|| (shard - 1) * self.rows_per_shard + index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let id = SaId::new(1022, 16_383, 255).unwrap();
        assert_eq!((id.shard(), id.index(), id.tweak()), (1022, 16_383, 255));
        assert_eq!(SaId::new(1, 0, 0).unwrap().0, 1 << 22);
        assert_eq!(SaId::new(0, 1, 1), None);
        assert_eq!(SaId::new(1024, 0, 0), None);
        assert_eq!(SaId::new(1, 16_384, 0), None);
        assert!(SaId::new(1023, 0, 0).unwrap().is_static());
    }

    #[test]
    fn no_sa_of_ike_has_a_reserved_spi() {
        assert!(SaId::new(1, 0, 0).unwrap().0 >= FIRST_SPI);
    }

    #[test]
    fn rows_are_dense_and_static_ones_follow() {
        let table = Geometry::new(1_000, 3, 5).unwrap();
        assert_eq!((table.shards(), table.rows_per_shard()), (4, 256));
        let mut rows = Vec::new();
        for shard in 1..=4 {
            rows.extend((0..256).map(|i| table.row(SaId::new(shard, i, 7).unwrap()).unwrap()));
        }
        rows.extend((0..5).map(|i| table.row(SaId::new(1023, i, 0).unwrap()).unwrap()));
        assert!(rows.iter().copied().eq(0..table.rows()));
        assert_eq!(table.row(SaId::new(5, 0, 0).unwrap()), None);
        assert_eq!(table.row(SaId::new(1, 256, 0).unwrap()), None);
        assert_eq!(table.row(SaId::new(1023, 5, 0).unwrap()), None);
        assert_eq!(table.row(SaId(0)), None);
    }

    #[test]
    fn limits_have_edges() {
        let most = Geometry::new(MAX_SAS, MAX_WORKERS, MAX_ROWS_PER_SHARD).unwrap();
        assert_eq!(most.max_sas(), MAX_SAS);
        assert_eq!(
            Geometry::new(MAX_SAS + 1, 1, 0),
            Err(GeometryError::MaxSas(MAX_SAS + 1))
        );
        assert_eq!(Geometry::new(0, 1, 0), Err(GeometryError::MaxSas(0)));
        assert_eq!(Geometry::new(1, 65, 0), Err(GeometryError::Workers(65)));
        assert_eq!(
            Geometry::new(1, 1, 16_385),
            Err(GeometryError::StaticRows(16_385))
        );
        assert_eq!(Geometry::new(1, 64, 0).unwrap().max_sas(), 64);
    }
}

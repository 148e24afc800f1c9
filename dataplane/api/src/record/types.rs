//! What IKE tells the dataplane about: Path, Child, SA and Policy.

use core::fmt;
use core::net::IpAddr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::codec::{Reader, Writer};
use super::field::{Field, FieldError};
use crate::id::{ChildId, FIRST_SPI, Interface, PathId, PolicyId, SaId, Vrf};
use crate::selector::Selector;

/// Smallest replay window in bits; 0 turns replay protection off.
pub const MIN_WINDOW_BITS: u32 = 64;
/// Largest replay window in bits.
pub const MAX_WINDOW_BITS: u32 = 65_536;
/// Longest keying material of an SA in bytes.
pub const MAX_KEY_BYTES: usize = 72;
/// Smallest path MTU that can be set, in bytes (RFC 791: every host takes 576).
pub const MIN_PATH_MTU_BYTES: u16 = 576;

/// Seen from this gateway: inbound arrives from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// Outer addresses and ports between two gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pub id: PathId,
    pub vrf: Vrf,
    pub interface: Interface,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// UDP port when encapsulated (RFC 3948), else 0.
    pub local_port: u16,
    /// UDP port when encapsulated (RFC 3948), else 0.
    pub remote_port: u16,
    pub udp_encapsulation: bool,
    /// Path MTU of outer packets; 0 is that of the port.
    pub mtu_bytes: u16,
    /// Fixed DSCP of outer packets, 0 to 63.
    pub dscp: Option<u8>,
}

/// What IKE negotiated (RFC 7296 1.3.1). Only tunnel mode is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Tunnel,
}

/// Where the DSCP is copied between inner and outer header (RFC 4301 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyDscp {
    /// Inner to outer at encapsulation.
    Out,
    /// Outer to inner at decapsulation.
    In,
    Both,
    No,
}

/// A Child SA across its rekeys: policies name it, SAs belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub id: ChildId,
    pub path: PathId,
    /// IKE's own; the dataplane never looks at it.
    pub cookie: u64,
    pub vrf: Vrf,
    pub interface: Interface,
    pub mode: Mode,
    /// Copy DF from the inner to the outer header.
    pub copy_df: bool,
    /// RFC 6040 normal mode; compatibility mode when false.
    pub copy_ecn: bool,
    pub copy_dscp: CopyDscp,
}

/// What protects packets; the number on the wire is IKE's transform id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM with a 16-byte ICV (RFC 4106), transform id 20.
    AesGcm16,
}

impl Algorithm {
    /// Encryption transform id (RFC 7296 3.3.2).
    #[must_use]
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::AesGcm16 => 20,
        }
    }

    /// The algorithm with this transform id, if it is built.
    #[must_use]
    pub const fn from_transform_id(id: u16) -> Option<Self> {
        match id {
            20 => Some(Self::AesGcm16),
            _ => None,
        }
    }

    /// Whether keying material of this many bytes is right; RFC 4106 8.1: key, then 4 bytes salt.
    #[must_use]
    pub const fn takes_key_bytes(self, len: usize) -> bool {
        match self {
            Self::AesGcm16 => matches!(len, 20 | 28 | 36),
        }
    }
}

/// Keying material of one SA as IKE cuts it (RFC 7296 2.17), salt at the tail. Zeroized on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SaKey {
    bytes: [u8; MAX_KEY_BYTES],
    len: u8,
}

impl SaKey {
    /// Copies keying material.
    ///
    /// # Errors
    /// [`Field::SA_KEY`] when it is longer than [`MAX_KEY_BYTES`].
    pub fn new(material: &[u8]) -> Result<Self, FieldError> {
        let too_long = || FieldError::new(Field::SA_KEY, material.len() as u64);
        let len = u8::try_from(material.len()).map_err(|_| too_long())?;
        let mut key = Self {
            bytes: [0; MAX_KEY_BYTES],
            len,
        };
        let room = key.bytes.get_mut(..material.len()).ok_or_else(too_long)?;
        room.copy_from_slice(material);
        Ok(key)
    }

    /// The keying material.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn write(&self, to: &mut Writer) {
        to.u8(self.len);
        to.bytes(&self.bytes);
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        let key = Self {
            len: from.u8(),
            bytes: from.array(),
        };
        let unused = key.bytes.get(usize::from(key.len)..);
        if unused.is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) {
            return Err(FieldError::new(Field::SA_KEY, u64::from(key.len)));
        }
        Ok(key)
    }
}

impl PartialEq for SaKey {
    /// In constant time for one length: all bytes are looked at.
    fn eq(&self, other: &Self) -> bool {
        let mut difference = self.len ^ other.len;
        for (a, b) in self.bytes.iter().zip(&other.bytes) {
            difference = core::hint::black_box(difference | (a ^ b));
        }
        difference == 0
    }
}

impl Eq for SaKey {}

impl fmt::Debug for SaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaKey({} bytes)", self.len)
    }
}

/// How far an SA may be used; 0 is no limit. Hard stops it, soft only sends an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    pub soft_bytes: u64,
    pub hard_bytes: u64,
    pub soft_packets: u64,
    pub hard_packets: u64,
}

impl Limits {
    fn validate(&self) -> Result<(), FieldError> {
        let pairs = [
            (self.soft_bytes, self.hard_bytes),
            (self.soft_packets, self.hard_packets),
        ];
        match pairs
            .into_iter()
            .find(|(soft, hard)| *hard != 0 && soft > hard)
        {
            Some((soft, _)) => Err(FieldError::new(Field::SA_LIMITS, soft)),
            None => Ok(()),
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.u64(self.soft_bytes);
        to.u64(self.hard_bytes);
        to.u64(self.soft_packets);
        to.u64(self.hard_packets);
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        let limits = Self {
            soft_bytes: from.u64(),
            hard_bytes: from.u64(),
            soft_packets: from.u64(),
            hard_packets: from.u64(),
        };
        limits.validate()?;
        Ok(limits)
    }
}

/// What is known of an SA besides its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaInfo {
    pub id: SaId,
    pub child: ChildId,
    pub direction: Direction,
    pub spi: u32,
    pub algorithm: Algorithm,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
    /// Inbound: 0 is off, else 64 to 65,536. Outbound: 0.
    pub window_bits: u32,
    pub limits: Limits,
}

/// One SA. The key leaves the process only in this record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sa {
    pub id: SaId,
    pub child: ChildId,
    pub direction: Direction,
    pub spi: u32,
    pub algorithm: Algorithm,
    pub key: SaKey,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
    /// Inbound: 0 is off, else 64 to 65,536. Outbound: 0.
    pub window_bits: u32,
    /// The last number that is already used; a fresh SA has 0.
    pub start_sequence: u64,
    /// The key may have been used already: sequence and window must be found, not made.
    pub adopt: bool,
    pub limits: Limits,
}

/// What happens to a packet that a policy matches (RFC 4301 4.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Protect(ChildId),
    Bypass,
    Discard,
}

/// One entry of the SPD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub id: PolicyId,
    pub direction: Direction,
    pub action: Action,
    /// Lower comes first.
    pub priority: u32,
    pub vrf: Vrf,
    pub interface: Interface,
    pub selector: Selector,
}

impl Direction {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Inbound => 1,
            Self::Outbound => 2,
        }
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        match from.u8() {
            1 => Ok(Self::Inbound),
            2 => Ok(Self::Outbound),
            other => Err(FieldError::new(Field::DIRECTION, u64::from(other))),
        }
    }
}

impl Path {
    /// On the wire for "no fixed DSCP".
    const NO_DSCP: u8 = 0xff;

    /// Whether packets can be sent along this path.
    ///
    /// # Errors
    /// Names the field: families differ, a port is missing or needless, MTU too small, DSCP.
    pub fn validate(&self) -> Result<(), FieldError> {
        if self.local.is_unspecified() || self.local.is_multicast() {
            return Err(FieldError::new(Field::PATH_LOCAL, 0));
        }
        let same_family = self.local.is_ipv4() == self.remote.is_ipv4();
        if !same_family || self.remote.is_unspecified() || self.remote.is_multicast() {
            return Err(FieldError::new(Field::PATH_REMOTE, 0));
        }
        if self.udp_encapsulation != (self.local_port != 0) {
            return Err(FieldError::new(
                Field::PATH_LOCAL_PORT,
                u64::from(self.local_port),
            ));
        }
        if self.udp_encapsulation != (self.remote_port != 0) {
            return Err(FieldError::new(
                Field::PATH_REMOTE_PORT,
                u64::from(self.remote_port),
            ));
        }
        if self.mtu_bytes != 0 && self.mtu_bytes < MIN_PATH_MTU_BYTES {
            return Err(FieldError::new(Field::PATH_MTU, u64::from(self.mtu_bytes)));
        }
        match self.dscp {
            Some(dscp) if dscp > 63 => Err(FieldError::new(Field::PATH_DSCP, u64::from(dscp))),
            _ => Ok(()),
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.id.0);
        to.u16(self.vrf.0);
        to.u16(self.interface.0);
        to.address(self.local);
        to.address(self.remote);
        to.u16(self.local_port);
        to.u16(self.remote_port);
        to.bool(self.udp_encapsulation);
        to.u16(self.mtu_bytes);
        to.u8(self.dscp.unwrap_or(Self::NO_DSCP));
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        let path = Self {
            id: PathId(from.u32()),
            vrf: Vrf(from.u16()),
            interface: Interface(from.u16()),
            local: from.address(Field::PATH_LOCAL)?,
            remote: from.address(Field::PATH_REMOTE)?,
            local_port: from.u16(),
            remote_port: from.u16(),
            udp_encapsulation: from.bool(Field::PATH_UDP)?,
            mtu_bytes: from.u16(),
            dscp: Some(from.u8()).filter(|dscp| *dscp != Self::NO_DSCP),
        };
        path.validate()?;
        Ok(path)
    }
}

impl Mode {
    /// ESP tunnel mode; 2 is kept for transport.
    const TUNNEL: u8 = 1;

    const fn number(self) -> u8 {
        match self {
            Self::Tunnel => Self::TUNNEL,
        }
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        match from.u8() {
            Self::TUNNEL => Ok(Self::Tunnel),
            other => Err(FieldError::new(Field::CHILD_MODE, u64::from(other))),
        }
    }
}

impl CopyDscp {
    /// Whether encapsulation copies the inner DSCP to the outer header.
    #[must_use]
    pub const fn outwards(self) -> bool {
        matches!(self, Self::Out | Self::Both)
    }

    /// Whether decapsulation copies the outer DSCP to the inner header.
    #[must_use]
    pub const fn inwards(self) -> bool {
        matches!(self, Self::In | Self::Both)
    }

    const fn number(self) -> u8 {
        match self {
            Self::Out => 1,
            Self::In => 2,
            Self::Both => 3,
            Self::No => 4,
        }
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        match from.u8() {
            1 => Ok(Self::Out),
            2 => Ok(Self::In),
            3 => Ok(Self::Both),
            4 => Ok(Self::No),
            other => Err(FieldError::new(Field::CHILD_COPY_DSCP, u64::from(other))),
        }
    }
}

impl Child {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.id.0);
        to.u32(self.path.0);
        to.u64(self.cookie);
        to.u16(self.vrf.0);
        to.u16(self.interface.0);
        to.u8(self.mode.number());
        to.bool(self.copy_df);
        to.bool(self.copy_ecn);
        to.u8(self.copy_dscp.number());
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        Ok(Self {
            id: ChildId(from.u32()),
            path: PathId(from.u32()),
            cookie: from.u64(),
            vrf: Vrf(from.u16()),
            interface: Interface(from.u16()),
            mode: Mode::read(from)?,
            copy_df: from.bool(Field::CHILD_COPY_DF)?,
            copy_ecn: from.bool(Field::CHILD_COPY_ECN)?,
            copy_dscp: CopyDscp::read(from)?,
        })
    }
}

impl SaInfo {
    /// Whether such an SA can exist.
    ///
    /// # Errors
    /// Names the field: shard 0, reserved SPI, an inbound SPI that is not the id, window, limits.
    pub fn validate(&self) -> Result<(), FieldError> {
        if self.id.shard() == 0 {
            return Err(FieldError::new(Field::SA_ID, u64::from(self.id.0)));
        }
        let inbound = self.direction == Direction::Inbound;
        let own = inbound && !self.id.is_static();
        if self.spi < FIRST_SPI || (own && self.spi != self.id.0) {
            return Err(FieldError::new(Field::SA_SPI, u64::from(self.spi)));
        }
        let sized = inbound && (MIN_WINDOW_BITS..=MAX_WINDOW_BITS).contains(&self.window_bits);
        if self.window_bits != 0 && !sized {
            return Err(FieldError::new(
                Field::SA_WINDOW,
                u64::from(self.window_bits),
            ));
        }
        self.limits.validate()
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.id.0);
        to.u32(self.child.0);
        to.u8(self.direction.number());
        to.u32(self.spi);
        to.u16(self.algorithm.transform_id());
        to.bool(self.esn);
        to.u32(self.window_bits);
        self.limits.write(to);
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        let info = Self {
            id: SaId(from.u32()),
            child: ChildId(from.u32()),
            direction: Direction::read(from)?,
            spi: from.u32(),
            algorithm: read_algorithm(from)?,
            esn: from.bool(Field::SA_ESN)?,
            window_bits: from.u32(),
            limits: Limits::read(from)?,
        };
        info.validate()?;
        Ok(info)
    }
}

fn read_algorithm(from: &mut Reader) -> Result<Algorithm, FieldError> {
    let id = from.u16();
    let unknown = FieldError::new(Field::SA_ALGORITHM, u64::from(id));
    Algorithm::from_transform_id(id).ok_or(unknown)
}

impl Sa {
    /// Everything but the key.
    #[must_use]
    pub fn info(&self) -> SaInfo {
        SaInfo {
            id: self.id,
            child: self.child,
            direction: self.direction,
            spi: self.spi,
            algorithm: self.algorithm,
            esn: self.esn,
            window_bits: self.window_bits,
            limits: self.limits,
        }
    }

    /// Whether such an SA can exist.
    ///
    /// # Errors
    /// Names the field, as [`SaInfo::validate`], or the key's length or the start sequence.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.info().validate()?;
        let key_bytes = self.key.as_bytes().len();
        if !self.algorithm.takes_key_bytes(key_bytes) {
            return Err(FieldError::new(Field::SA_KEY, key_bytes as u64));
        }
        if !self.esn && self.start_sequence > u64::from(u32::MAX) {
            return Err(FieldError::new(Field::SA_SEQUENCE, self.start_sequence));
        }
        Ok(())
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.info().write(to);
        self.key.write(to);
        to.u64(self.start_sequence);
        to.bool(self.adopt);
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        let info = SaInfo::read(from)?;
        let sa = Self {
            id: info.id,
            child: info.child,
            direction: info.direction,
            spi: info.spi,
            algorithm: info.algorithm,
            key: SaKey::read(from)?,
            esn: info.esn,
            window_bits: info.window_bits,
            start_sequence: from.u64(),
            adopt: from.bool(Field::SA_ADOPT)?,
            limits: info.limits,
        };
        sa.validate()?;
        Ok(sa)
    }
}

impl Action {
    fn write(self, to: &mut Writer) {
        let (number, child) = match self {
            Self::Protect(child) => (1, child.0),
            Self::Bypass => (2, 0),
            Self::Discard => (3, 0),
        };
        to.u8(number);
        to.u32(child);
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        match (from.u8(), from.u32()) {
            (1, child) => Ok(Self::Protect(ChildId(child))),
            (2, 0) => Ok(Self::Bypass),
            (3, 0) => Ok(Self::Discard),
            (2 | 3, child) => Err(FieldError::new(Field::POLICY_CHILD, u64::from(child))),
            (other, _) => Err(FieldError::new(Field::POLICY_ACTION, u64::from(other))),
        }
    }
}

impl Policy {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.u32(self.id.0);
        to.u8(self.direction.number());
        self.action.write(to);
        to.u32(self.priority);
        to.u16(self.vrf.0);
        to.u16(self.interface.0);
        to.selector(&self.selector);
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        let policy = Self {
            id: PolicyId(from.u32()),
            direction: Direction::read(from)?,
            action: Action::read(from)?,
            priority: from.u32(),
            vrf: Vrf(from.u16()),
            interface: Interface(from.u16()),
            selector: from.selector()?,
        };
        policy.selector.validate()?;
        Ok(policy)
    }
}

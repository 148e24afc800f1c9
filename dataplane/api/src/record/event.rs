//! What the dataplane tells IKE.

use core::fmt;
use core::net::IpAddr;

use super::codec::{Reader, Record, Writer};
use super::field::{Field, FieldError};
use super::types::{Child, Path, Policy, SaInfo};
use crate::id::{ChildId, PolicyId, SaId};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Ok,
    /// It is there already, in the same form where that matters.
    Exists,
    NotFound,
    /// The table, or the memory for replay windows, is full.
    Full,
    /// The field has a value that it cannot have.
    Invalid(Field),
    /// Sequence number or window of that key is not known for certain: rekey.
    Uncertain,
    /// Something still uses it.
    Busy,
}

impl Status {
    /// Whether the object is now as the command wanted it.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Ok | Self::Exists)
    }

    fn write(self, to: &mut Writer) {
        let (number, field) = match self {
            Self::Ok => (0, 0),
            Self::Exists => (1, 0),
            Self::NotFound => (2, 0),
            Self::Full => (3, 0),
            Self::Invalid(field) => (4, field.0),
            Self::Uncertain => (5, 0),
            Self::Busy => (6, 0),
        };
        to.u8(number);
        to.u16(field);
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        match (from.u8(), from.u16()) {
            (0, 0) => Ok(Self::Ok),
            (1, 0) => Ok(Self::Exists),
            (2, 0) => Ok(Self::NotFound),
            (3, 0) => Ok(Self::Full),
            (4, field) => Ok(Self::Invalid(Field(field))),
            (5, 0) => Ok(Self::Uncertain),
            (6, 0) => Ok(Self::Busy),
            (other, _) => Err(FieldError::new(Field::STATUS, u64::from(other))),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("done"),
            Self::Exists => f.write_str("exists already"),
            Self::NotFound => f.write_str("not found"),
            Self::Full => f.write_str("table is full"),
            Self::Invalid(field) => write!(f, "{field} is not valid"),
            Self::Uncertain => f.write_str("sequence number or window is not certain"),
            Self::Busy => f.write_str("still in use"),
        }
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Self {
        Self::Invalid(error.field)
    }
}

/// The packet that wants an SA; ICMP type and code stand in `local_port` as in a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    pub local: IpAddr,
    pub remote: IpAddr,
    pub protocol: u8,
    pub local_port: u16,
    pub remote_port: u16,
}

impl FiveTuple {
    fn write(&self, to: &mut Writer) {
        to.address(self.local);
        to.address(self.remote);
        to.u8(self.protocol);
        to.u16(self.local_port);
        to.u16(self.remote_port);
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        Ok(Self {
            local: from.address(Field::ADDRESS)?,
            remote: from.address(Field::ADDRESS)?,
            protocol: from.u8(),
            local_port: from.u16(),
            remote_port: from.u16(),
        })
    }
}

/// A row of a table, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Path(Path),
    Child(Child),
    Sa(SaInfo),
    Policy(Policy),
}

/// An event. Completions and rows are never lost; the others may be, but then the overflow
/// counter moves and the flags of the state rows tell the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Completed {
        command: u64,
        status: Status,
    },
    /// No worker touches the SA any more: its index is free.
    Deleted {
        sa: SaId,
    },
    Expire {
        sa: SaId,
        hard: bool,
    },
    /// A packet matched a protect policy whose child has no outbound SA.
    Acquire {
        policy: PolicyId,
        child: ChildId,
        packet: FiveTuple,
    },
    /// An authenticated packet came from another outer address or port (RFC 7296 2.23).
    MappingChanged {
        sa: SaId,
        remote: IpAddr,
        port: u16,
    },
    /// The answer to `Get`, number `command`.
    Row {
        command: u64,
        row: Row,
    },
}

mod kind {
    pub(super) const COMPLETED: u16 = 0x101;
    pub(super) const DELETED: u16 = 0x102;
    pub(super) const EXPIRE: u16 = 0x103;
    pub(super) const ACQUIRE: u16 = 0x104;
    pub(super) const MAPPING_CHANGED: u16 = 0x105;
    pub(super) const ROW_PATH: u16 = 0x106;
    pub(super) const ROW_CHILD: u16 = 0x107;
    pub(super) const ROW_SA: u16 = 0x108;
    pub(super) const ROW_POLICY: u16 = 0x109;
}

impl Event {
    /// Whether the event must reach IKE: nothing in a state row would tell the same.
    #[must_use]
    pub const fn must_arrive(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Row { .. })
    }

    /// Puts the event into a record.
    #[must_use]
    pub fn encode(&self) -> Record {
        let mut to = Writer::new(self.kind());
        match self {
            Self::Completed { command, status } => {
                to.u64(*command);
                status.write(&mut to);
            }
            Self::Deleted { sa } => to.u32(sa.0),
            Self::Expire { sa, hard } => {
                to.u32(sa.0);
                to.bool(*hard);
            }
            Self::Acquire {
                policy,
                child,
                packet,
            } => {
                to.u32(policy.0);
                to.u32(child.0);
                packet.write(&mut to);
            }
            Self::MappingChanged { sa, remote, port } => {
                to.u32(sa.0);
                to.address(*remote);
                to.u16(*port);
            }
            Self::Row { command, row } => {
                to.u64(*command);
                match row {
                    Row::Path(path) => path.write(&mut to),
                    Row::Child(child) => child.write(&mut to),
                    Row::Sa(info) => info.write(&mut to),
                    Row::Policy(policy) => policy.write(&mut to),
                }
            }
        }
        to.finish()
    }

    const fn kind(&self) -> u16 {
        match self {
            Self::Completed { .. } => kind::COMPLETED,
            Self::Deleted { .. } => kind::DELETED,
            Self::Expire { .. } => kind::EXPIRE,
            Self::Acquire { .. } => kind::ACQUIRE,
            Self::MappingChanged { .. } => kind::MAPPING_CHANGED,
            Self::Row {
                row: Row::Path(_), ..
            } => kind::ROW_PATH,
            Self::Row {
                row: Row::Child(_), ..
            } => kind::ROW_CHILD,
            Self::Row {
                row: Row::Sa(_), ..
            } => kind::ROW_SA,
            Self::Row {
                row: Row::Policy(_),
                ..
            } => kind::ROW_POLICY,
        }
    }

    /// Takes an event out of a record and checks every field of it.
    ///
    /// # Errors
    /// Names the first field with a value that it cannot have.
    pub fn decode(record: &Record) -> Result<Self, FieldError> {
        let mut from = Reader::new(record);
        let event = Self::read(&mut from)?;
        from.finish()?;
        Ok(event)
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        Ok(match from.u16() {
            kind::COMPLETED => Self::Completed {
                command: from.u64(),
                status: Status::read(from)?,
            },
            kind::DELETED => Self::Deleted {
                sa: SaId(from.u32()),
            },
            kind::EXPIRE => Self::Expire {
                sa: SaId(from.u32()),
                hard: from.bool(Field::SA_HARD)?,
            },
            kind::ACQUIRE => Self::Acquire {
                policy: PolicyId(from.u32()),
                child: ChildId(from.u32()),
                packet: FiveTuple::read(from)?,
            },
            kind::MAPPING_CHANGED => Self::MappingChanged {
                sa: SaId(from.u32()),
                remote: from.address(Field::ADDRESS)?,
                port: from.u16(),
            },
            kind::ROW_PATH => Self::row(from.u64(), Row::Path(Path::read(from)?)),
            kind::ROW_CHILD => Self::row(from.u64(), Row::Child(Child::read(from)?)),
            kind::ROW_SA => Self::row(from.u64(), Row::Sa(SaInfo::read(from)?)),
            kind::ROW_POLICY => Self::row(from.u64(), Row::Policy(Policy::read(from)?)),
            other => return Err(FieldError::new(Field::KIND, u64::from(other))),
        })
    }

    const fn row(command: u64, row: Row) -> Self {
        Self::Row { command, row }
    }
}

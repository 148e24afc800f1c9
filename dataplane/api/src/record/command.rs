//! What IKE asks of the dataplane, with PF_KEY's verbs (RFC 2367).

use super::codec::{Reader, Record, Writer};
use super::field::{Field, FieldError};
use super::types::{Child, Limits, Path, Policy, Sa};
use crate::id::{ChildId, PathId, PolicyId, SaId};

/// One of the dataplane's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Path,
    Child,
    Sa,
    Policy,
}

impl Table {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Path => 1,
            Self::Child => 2,
            Self::Sa => 3,
            Self::Policy => 4,
        }
    }

    pub(crate) fn read(from: &mut Reader) -> Result<Self, FieldError> {
        match from.u8() {
            1 => Ok(Self::Path),
            2 => Ok(Self::Child),
            3 => Ok(Self::Sa),
            4 => Ok(Self::Policy),
            other => Err(FieldError::new(Field::TABLE, u64::from(other))),
        }
    }
}

/// A command. Its number is its position in the ring, from 0 in each session; each gets exactly
/// one [`Event::Completed`](super::Event::Completed), once every worker has seen the effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Policies named until [`Commit`](Self::Commit) become one new version. With `resync`, every
    /// object of IKE that is not named again until then is deleted at the commit.
    Begin {
        resync: bool,
    },
    Commit,
    PathAdd(Path),
    /// Replaces a path in place: MOBIKE, NAT mapping, MTU.
    PathUpdate(Path),
    /// Busy while a child uses it.
    PathDelete(PathId),
    ChildAdd(Child),
    ChildUpdate(Child),
    /// Busy while it has SAs.
    ChildDelete(ChildId),
    SaAdd(Sa),
    SaUpdate {
        id: SaId,
        limits: Limits,
    },
    /// Stops its use at once; [`Event::Deleted`](super::Event::Deleted) frees the index.
    SaDelete(SaId),
    /// Makes `sa` the outbound SA of `child`.
    ActivateOutbound {
        child: ChildId,
        sa: SaId,
    },
    PolicyAdd(Policy),
    PolicyUpdate(Policy),
    PolicyDelete(PolicyId),
    /// Answered by [`Event::Row`](super::Event::Row) before its completion.
    Get {
        table: Table,
        id: u32,
    },
    /// Deletes every object of IKE in the table.
    Flush {
        table: Table,
    },
}

mod kind {
    pub(super) const BEGIN: u16 = 1;
    pub(super) const COMMIT: u16 = 2;
    pub(super) const PATH_ADD: u16 = 3;
    pub(super) const PATH_UPDATE: u16 = 4;
    pub(super) const PATH_DELETE: u16 = 5;
    pub(super) const CHILD_ADD: u16 = 6;
    pub(super) const CHILD_UPDATE: u16 = 7;
    pub(super) const CHILD_DELETE: u16 = 8;
    pub(super) const SA_ADD: u16 = 9;
    pub(super) const SA_UPDATE: u16 = 10;
    pub(super) const SA_DELETE: u16 = 11;
    pub(super) const ACTIVATE_OUTBOUND: u16 = 12;
    pub(super) const POLICY_ADD: u16 = 13;
    pub(super) const POLICY_UPDATE: u16 = 14;
    pub(super) const POLICY_DELETE: u16 = 15;
    pub(super) const GET: u16 = 16;
    pub(super) const FLUSH: u16 = 17;
}

impl Command {
    /// Puts the command into a record.
    #[must_use]
    pub fn encode(&self) -> Record {
        let mut to = Writer::new(self.kind());
        match self {
            Self::Begin { resync } => to.bool(*resync),
            Self::Commit => {}
            Self::PathAdd(path) | Self::PathUpdate(path) => path.write(&mut to),
            Self::ChildAdd(child) | Self::ChildUpdate(child) => child.write(&mut to),
            Self::SaAdd(sa) => sa.write(&mut to),
            Self::SaUpdate { id, limits } => {
                to.u32(id.0);
                limits.write(&mut to);
            }
            Self::PathDelete(PathId(id))
            | Self::ChildDelete(ChildId(id))
            | Self::SaDelete(SaId(id))
            | Self::PolicyDelete(PolicyId(id)) => to.u32(*id),
            Self::ActivateOutbound { child, sa } => {
                to.u32(child.0);
                to.u32(sa.0);
            }
            Self::PolicyAdd(policy) | Self::PolicyUpdate(policy) => policy.write(&mut to),
            Self::Get { table, id } => {
                to.u8(table.number());
                to.u32(*id);
            }
            Self::Flush { table } => to.u8(table.number()),
        }
        to.finish()
    }

    const fn kind(&self) -> u16 {
        match self {
            Self::Begin { .. } => kind::BEGIN,
            Self::Commit => kind::COMMIT,
            Self::PathAdd(_) => kind::PATH_ADD,
            Self::PathUpdate(_) => kind::PATH_UPDATE,
            Self::PathDelete(_) => kind::PATH_DELETE,
            Self::ChildAdd(_) => kind::CHILD_ADD,
            Self::ChildUpdate(_) => kind::CHILD_UPDATE,
            Self::ChildDelete(_) => kind::CHILD_DELETE,
            Self::SaAdd(_) => kind::SA_ADD,
            Self::SaUpdate { .. } => kind::SA_UPDATE,
            Self::SaDelete(_) => kind::SA_DELETE,
            Self::ActivateOutbound { .. } => kind::ACTIVATE_OUTBOUND,
            Self::PolicyAdd(_) => kind::POLICY_ADD,
            Self::PolicyUpdate(_) => kind::POLICY_UPDATE,
            Self::PolicyDelete(_) => kind::POLICY_DELETE,
            Self::Get { .. } => kind::GET,
            Self::Flush { .. } => kind::FLUSH,
        }
    }

    /// Takes a command out of a record and checks every field of it.
    ///
    /// # Errors
    /// Names the first field with a value that it cannot have.
    pub fn decode(record: &Record) -> Result<Self, FieldError> {
        let mut from = Reader::new(record);
        let command = Self::read(&mut from)?;
        from.finish()?;
        Ok(command)
    }

    fn read(from: &mut Reader) -> Result<Self, FieldError> {
        Ok(match from.u16() {
            kind::BEGIN => Self::Begin {
                resync: from.bool(Field::BEGIN_RESYNC)?,
            },
            kind::COMMIT => Self::Commit,
            kind::PATH_ADD => Self::PathAdd(Path::read(from)?),
            kind::PATH_UPDATE => Self::PathUpdate(Path::read(from)?),
            kind::PATH_DELETE => Self::PathDelete(PathId(from.u32())),
            kind::CHILD_ADD => Self::ChildAdd(Child::read(from)?),
            kind::CHILD_UPDATE => Self::ChildUpdate(Child::read(from)?),
            kind::CHILD_DELETE => Self::ChildDelete(ChildId(from.u32())),
            kind::SA_ADD => Self::SaAdd(Sa::read(from)?),
            kind::SA_UPDATE => Self::SaUpdate {
                id: SaId(from.u32()),
                limits: Limits::read(from)?,
            },
            kind::SA_DELETE => Self::SaDelete(SaId(from.u32())),
            kind::ACTIVATE_OUTBOUND => Self::ActivateOutbound {
                child: ChildId(from.u32()),
                sa: SaId(from.u32()),
            },
            kind::POLICY_ADD => Self::PolicyAdd(Policy::read(from)?),
            kind::POLICY_UPDATE => Self::PolicyUpdate(Policy::read(from)?),
            kind::POLICY_DELETE => Self::PolicyDelete(PolicyId(from.u32())),
            kind::GET => Self::Get {
                table: Table::read(from)?,
                id: from.u32(),
            },
            kind::FLUSH => Self::Flush {
                table: Table::read(from)?,
            },
            other => return Err(FieldError::new(Field::KIND, u64::from(other))),
        })
    }
}

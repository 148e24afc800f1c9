//! The one writer of the tables: applies commands and what the kernel says.
//!
//! A change of SAs, paths and children is visible at once; changes of policies, routes, neighbours
//! and local addresses become visible together with [`TablesWriter::publish`]. After that, and
//! after a [`grace`](crate::quiescence::Quiescence::grace), the command is complete.

mod changes;
mod commit;
mod list;
mod objects;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{ChildId, Geometry, PathId, PolicyId, SaId, Vrf};
use api::record::{Command, Field, FieldError, Policy, Row, SaInfo, Status, Table};
use api::state::Elders;
use api::window::WindowSlot;

use super::child::{Child, PathSlot};
use super::fib::{Fib, Locals, Neighbours, NextHops, Route};
use super::sad::{RemovedSa, SadWriter};
use super::{Snapshot, Tables};
use crate::port::{Mac, PortIndex};
use crate::quiescence::Grace;
use crate::state::{Rows, State};
use changes::Since;
pub(super) use slots::MAX_SLOTS as MAX_CHILDREN;
use slots::Slots;

type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

/// What came of a command.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// For the completion.
    pub status: Status,
    /// SAs no longer in use. After a grace period call [`TablesWriter::release`] for each, then
    /// report them deleted.
    pub deleted: Vec<SaId>,
    /// The answer to a `Get`.
    pub row: Option<Row>,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self {
            status,
            deleted: Vec::new(),
            row: None,
        }
    }
}

impl From<FieldError> for Outcome {
    fn from(error: FieldError) -> Self {
        Status::from(error).into()
    }
}

struct PathEntry {
    slot: Arc<PathSlot>,
    children: Vec<ChildId>,
}

struct ChildEntry {
    child: Arc<Child>,
    sas: Vec<SaId>,
    /// Policies that name it: committed ones, and staged changes.
    policies: usize,
}

/// An SA, for operators.
pub struct SaEntry<'w> {
    /// What it was made with, the present limits included.
    pub info: SaInfo,
    /// Its row in the SAD and in the state region.
    pub row: u32,
    /// The child it belongs to.
    pub child: &'w Child,
}

/// What changes with `Commit`, and with `resync` what was named since `Begin`.
struct Stage {
    resync: bool,
    /// New policies, and `None` for those that are deleted.
    policies: BTreeMap<PolicyId, Option<Box<Policy>>>,
    /// How many policies there will be.
    len: usize,
    named: Named,
}

#[derive(Default)]
struct Named {
    paths: HashSet<PathId>,
    children: HashSet<ChildId>,
    sas: HashSet<SaId>,
    policies: HashSet<PolicyId>,
}

/// The control thread's hand on the tables.
pub struct TablesWriter {
    tables: Arc<Tables>,
    sad: SadWriter,
    rows: Rows,
    next: Snapshot,
    dirty: bool,
    paths: HashMap<PathId, PathEntry>,
    children: HashMap<ChildId, ChildEntry>,
    slots: Slots,
    /// The child that each SA belongs to: all else is read in the SAD, there are a million.
    sas: HashMap<SaId, Arc<Child>>,
    /// In boxes: nodes of a tree are half empty when numbers come in order, and what is staged
    /// becomes committed without a second copy.
    policies: BTreeMap<PolicyId, Box<Policy>>,
    /// What is committed and not in the base of the published policies.
    since: Since,
    stage: Option<Stage>,
    /// Old versions that a worker may still look at: the control thread frees them, not the worker
    /// that happens to be the last, for a large one takes many milliseconds.
    retired: VecDeque<(Grace, Arc<Snapshot>)>,
    /// Deleted SAs that a worker may still hold, by row.
    draining: HashMap<u32, (RemovedSa, Option<WindowSlot>)>,
}

impl TablesWriter {
    /// Empty tables of this shape for this many workers, their one writer, and that of the SAs' rows.
    #[must_use]
    pub fn new(geometry: Geometry, workers: u8, crypto_workers: u8, state: Arc<State>) -> Self {
        let (tables, sad) = Tables::new(geometry, workers, crypto_workers);
        let next = Snapshot::clone(&tables.snapshot());
        Self {
            tables: Arc::new(tables),
            sad,
            rows: Rows::new(state),
            next,
            dirty: false,
            paths: HashMap::default(),
            children: HashMap::default(),
            slots: Slots::default(),
            sas: HashMap::default(),
            policies: BTreeMap::new(),
            since: Since::default(),
            stage: None,
            retired: VecDeque::new(),
            draining: HashMap::default(),
        }
    }

    /// The tables that workers read.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The regions of dead dataplanes that IKE brought: SAs added with `adopt` go on from there.
    pub fn set_elders(&mut self, elders: Elders) {
        self.rows.set_elders(elders);
    }

    /// Carries a command out. Policies, once committed, wait for [`publish`](Self::publish).
    pub fn apply(&mut self, command: Command) -> Outcome {
        match command {
            Command::Begin { resync } => self.begin(resync).into(),
            Command::Commit => self.commit(),
            Command::PathAdd(path) => self.path_add(path).into(),
            Command::PathUpdate(path) => self.path_update(path).into(),
            Command::PathDelete(id) => self.path_delete(id).into(),
            Command::ChildAdd(child) => self.child_add(child).into(),
            Command::ChildUpdate(child) => self.child_update(child).into(),
            Command::ChildDelete(id) => self.child_delete(id).into(),
            Command::SaAdd(sa) => self.sa_add(&sa).into(),
            Command::SaUpdate { id, limits } => self.sa_update(id, limits).into(),
            Command::SaDelete(id) => self.sa_delete(id),
            Command::ActivateOutbound { child, sa } => self.activate(child, sa).into(),
            Command::PolicyAdd(policy) => self.policy_add(policy).into(),
            Command::PolicyUpdate(policy) => self.policy_update(policy).into(),
            Command::PolicyDelete(id) => self.policy_delete(id).into(),
            Command::Get { table, id } => self.get(table, id),
            Command::Flush { table } => self.flush(table),
        }
    }

    /// Makes committed policies and mirrored state visible to workers, as one version. To be called
    /// also when nothing changed: it frees old versions.
    pub fn publish(&mut self) {
        self.free_retired();
        if self.since.take_news() {
            self.next.policies = Arc::new(self.link_policies());
            self.next.ways_version += 1;
            self.dirty = true;
        }
        if self.dirty {
            self.next.version += 1;
            let old = self.tables.snapshot.swap(Arc::new(self.next.clone()));
            let grace = self.tables.quiescence.grace();
            self.retired.push_back((grace, old));
            self.dirty = false;
        }
        self.slots.published(&self.tables.quiescence);
    }

    /// Frees versions that no worker looks at any more.
    fn free_retired(&mut self) {
        let quiescence = &self.tables.quiescence;
        let passed = |(grace, _): &&(Grace, _)| grace.passed(quiescence);
        let passed = self.retired.iter().take_while(passed).count();
        self.retired.drain(..passed);
    }

    /// Replaces all routes.
    pub fn set_routes(&mut self, routes: impl IntoIterator<Item = Route>) {
        self.next.fib = Arc::new(Fib::new(routes));
        self.next.ways_version += 1;
        self.hops_changed();
    }

    /// Replaces all neighbours.
    pub fn set_neighbours(&mut self, neighbours: Neighbours) {
        self.next.neighbours = Arc::new(NextHops::new(neighbours));
        self.hops_changed();
    }

    /// Sets one neighbour, or with `None` forgets it.
    pub fn set_neighbour(&mut self, port: PortIndex, address: IpAddr, mac: Option<Mac>) {
        let mut neighbours = self.next.neighbours.all().clone();
        match mac {
            Some(mac) => neighbours.insert((port, address), mac),
            None => neighbours.remove(&(port, address)),
        };
        self.next.neighbours = Arc::new(NextHops::new(neighbours));
        self.hops_changed();
    }

    /// Replaces the gateway's own addresses.
    pub fn set_locals(
        &mut self,
        addresses: impl IntoIterator<Item = (Vrf, IpAddr, Option<PortIndex>)>,
    ) {
        self.next.locals = Arc::new(Locals::new(addresses));
        self.next.ways_version += 1;
        self.hops_changed();
    }

    /// What workers remember of routes and neighbours is out of date with the next version.
    fn hops_changed(&mut self) {
        self.dirty = true;
        self.next.hops_version = self.next.hops_version.wrapping_add(1).max(1);
    }

    /// Takes memory for SAs that will come, some more with every call; false when there is enough.
    /// For times without work: an SA need not wait for the kernel then.
    pub fn take_memory(&mut self) -> bool {
        self.sad.take_memory() || self.rows.take_memory()
    }

    /// Frees the row of a deleted SA. Call after the grace period, before it is reported: earlier
    /// it does nothing.
    pub fn release(&mut self, id: SaId) {
        let Some(row) = self.sad.geometry().row(id) else {
            return;
        };
        let Some((removed, window)) = self.draining.remove(&row) else {
            return;
        };
        match self.sad.reclaim(removed) {
            Ok(()) => self.rows.release(row, window),
            Err(removed) => {
                self.draining.insert(row, (removed, window));
            }
        }
    }

    fn get(&self, table: Table, id: u32) -> Outcome {
        let row = match table {
            Table::Path => self
                .paths
                .get(&PathId(id))
                .map(|path| Row::Path(path.slot.load().as_ref().clone())),
            Table::Child => {
                let entry = self.children.get(&ChildId(id));
                entry.map(|entry| Row::Child(entry.child.settings().record.clone()))
            }
            Table::Sa => {
                let entry = self.sas.get_key_value(&SaId(id));
                let entry = entry.and_then(|(id, child)| self.entry(*id, child));
                entry.map(|entry| Row::Sa(entry.info))
            }
            Table::Policy => {
                let policy = self.policies.get(&PolicyId(id));
                policy.map(|policy| Row::Policy(policy.as_ref().clone()))
            }
        };
        let status = if row.is_some() {
            Status::Ok
        } else {
            Status::NotFound
        };
        Outcome {
            row,
            ..status.into()
        }
    }
}

fn invalid(field: Field) -> Status {
    Status::Invalid(field)
}

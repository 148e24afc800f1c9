//! Paths, children and SAs.

use std::collections::HashSet;
use std::sync::Arc;

use api::id::{ChildId, PathId, SaId};
use api::record::{Child, Direction, Field, Limits, Path, Sa as SaRecord, Status};
use api::state::Flags;
use crypto::KeyContext;

use super::{ChildEntry, Outcome, PathEntry, SaEntry, TablesWriter, invalid};
use crate::tables::child::{self, PathSlot};
use crate::tables::sad::Sa;

impl TablesWriter {
    pub(super) fn path_add(&mut self, path: Path) -> Status {
        if let Err(error) = path.validate() {
            return error.into();
        }
        let id = path.id;
        let held = self.paths.get(&id).map(|entry| entry.slot.load());
        let resync = self.name(|named| named.paths.insert(id));
        match held {
            Some(held) if *held == path => Status::Exists,
            Some(_) if resync => self.path_update(path),
            Some(_) => invalid(Field::PATH_ID),
            None => {
                let entry = PathEntry {
                    slot: Arc::new(PathSlot::new(path)),
                    children: 0,
                };
                self.paths.insert(id, entry);
                Status::Ok
            }
        }
    }

    pub(super) fn path_update(&mut self, path: Path) -> Status {
        if let Err(error) = path.validate() {
            return error.into();
        }
        let id = path.id;
        let Some(entry) = self.paths.get(&id) else {
            return Status::NotFound;
        };
        entry.slot.store(path);
        self.forget_mappings(id);
        self.refile_statics(|child| child.settings().path.id == id);
        Status::Ok
    }

    /// What was noticed of the peer's address counts from the path's new one.
    fn forget_mappings(&self, id: PathId) {
        for entry in self.sas.values() {
            if entry.sa.child.settings().path.id == id {
                self.rows.lower(entry.sa.row, Flags::MAPPING);
            }
        }
    }

    pub(super) fn path_delete(&mut self, id: PathId) -> Status {
        match self.paths.get(&id) {
            None => Status::NotFound,
            Some(entry) if entry.children > 0 => Status::Busy,
            Some(_) => {
                self.paths.remove(&id);
                Status::Ok
            }
        }
    }

    pub(super) fn child_add(&mut self, record: Child) -> Status {
        let id = record.id;
        let held = self.children.get(&id).map(|entry| entry.child.settings());
        let resync = self.name(|named| named.children.insert(id));
        match held {
            Some(held) if held.record == record => return Status::Exists,
            Some(_) if resync => return self.child_update(record),
            Some(_) => return invalid(Field::CHILD_ID),
            None => {}
        }
        let Some(path) = self.paths.get_mut(&record.path) else {
            return invalid(Field::CHILD_PATH);
        };
        let Some(slot) = self.slots.take(&self.tables.quiescence) else {
            return Status::Full;
        };
        path.children += 1;
        let child = Arc::new(child::Child::new(record, Arc::clone(&path.slot), slot));
        self.children.insert(
            id,
            ChildEntry {
                child,
                sas: HashSet::new(),
                policies: 0,
            },
        );
        Status::Ok
    }

    pub(super) fn child_update(&mut self, record: Child) -> Status {
        let id = record.id;
        let Some(entry) = self.children.get(&id) else {
            return Status::NotFound;
        };
        let Some(path) = self.paths.get_mut(&record.path) else {
            return invalid(Field::CHILD_PATH);
        };
        path.children += 1;
        let old = entry.child.settings().path.id;
        entry.child.update(record, Arc::clone(&path.slot));
        self.leave_path(old);
        self.refile_statics(|child| child.id == id);
        Status::Ok
    }

    pub(super) fn child_delete(&mut self, id: ChildId) -> Status {
        match self.children.get(&id) {
            None => Status::NotFound,
            Some(entry) if !entry.sas.is_empty() || entry.policies > 0 => Status::Busy,
            Some(entry) => {
                let path = entry.child.settings().path.id;
                self.slots.put_back(entry.child.slot);
                self.children.remove(&id);
                self.leave_path(path);
                Status::Ok
            }
        }
    }

    fn leave_path(&mut self, id: PathId) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.children = path.children.saturating_sub(1);
        }
    }

    /// Static SAs are found by their path's address, so a change of that moves them.
    fn refile_statics(&self, of: impl Fn(&child::Child) -> bool) {
        for entry in self.sas.values().filter(|entry| of(&entry.sa.child)) {
            if entry.sa.id.is_static() {
                self.tables.sad.refile(&entry.sa);
            }
        }
    }

    pub(super) fn sa_add(&mut self, record: &SaRecord) -> Status {
        if let Err(error) = record.validate() {
            return error.into();
        }
        let id = record.id;
        let Some(row) = self.tables.sad.geometry().row(id) else {
            return invalid(Field::SA_ID);
        };
        let Some(entry) = self.children.get(&record.child) else {
            return invalid(Field::SA_CHILD);
        };
        let child = Arc::clone(&entry.child);
        if self.sas.contains_key(&id) {
            return self.sa_add_again(record, row);
        }
        if self.row_in_use(row) {
            return Status::Busy;
        }
        let Ok(key) = KeyContext::aes_gcm_keymat(record.key.as_bytes(), ICV_BYTES) else {
            return invalid(Field::SA_KEY);
        };
        let mut sa = Sa {
            id,
            row,
            spi: record.spi,
            direction: record.direction,
            esn: record.esn,
            window_bits: record.window_bits,
            window: None,
            limits: record.limits,
            child,
            key: Arc::new(key),
        };
        if self.tables.sad.collides(&sa) {
            return invalid(Field::SA_SPI);
        }
        match self.rows.claim(record, row) {
            Ok(window) => sa.window = window,
            Err(status) => return status,
        }
        self.install(record, Arc::new(sa));
        Status::Ok
    }

    /// The SA lives already: that counts as success if it is the same one.
    fn sa_add_again(&mut self, record: &SaRecord, row: u32) -> Status {
        let same = self.sas.get(&record.id).is_some_and(|entry| {
            let info = record.info();
            entry.info.spi == info.spi
                && entry.info.direction == info.direction
                && entry.info.child == info.child
                && entry.info.esn == info.esn
        });
        if !same || !self.rows.holds(record, row) {
            return if record.adopt {
                Status::Uncertain
            } else {
                Status::Busy
            };
        }
        self.name(|named| named.sas.insert(record.id));
        self.sa_update(record.id, record.limits);
        Status::Exists
    }

    /// True while another SA has the row, or a worker may still hold the last one.
    fn row_in_use(&self, row: u32) -> bool {
        self.draining.contains_key(&row) || self.tables.sad.is_taken(row)
    }

    fn install(&mut self, record: &SaRecord, sa: Arc<Sa>) {
        let id = record.id;
        self.tables.sad.insert(&sa);
        if let Some(entry) = self.children.get_mut(&record.child) {
            entry.sas.insert(id);
        }
        self.sas.insert(
            id,
            SaEntry {
                sa,
                info: record.info(),
            },
        );
        self.name(|named| named.sas.insert(id));
    }

    pub(super) fn sa_update(&mut self, id: SaId, limits: Limits) -> Status {
        let Some(entry) = self.sas.get_mut(&id) else {
            return Status::NotFound;
        };
        let old = &entry.sa;
        let sa = Arc::new(Sa {
            limits,
            child: Arc::clone(&old.child),
            ..Sa::clone(old)
        });
        self.tables.sad.insert(&sa);
        if sa.child.outbound().is_some_and(|active| active.id == id) {
            sa.child.activate(Some(Arc::clone(&sa)));
        }
        entry.info.limits = limits;
        entry.sa = sa;
        Status::Ok
    }

    pub(super) fn sa_delete(&mut self, id: SaId) -> Outcome {
        let Some(entry) = self.sas.remove(&id) else {
            return Status::NotFound.into();
        };
        let sa = entry.sa;
        self.tables.sad.remove(&sa);
        if sa.child.outbound().is_some_and(|active| active.id == id) {
            sa.child.activate(None);
        }
        if let Some(entry) = self.children.get_mut(&sa.child.id) {
            entry.sas.remove(&id);
        }
        self.draining.insert(sa.row, sa.window);
        Outcome {
            deleted: vec![id],
            ..Status::Ok.into()
        }
    }

    pub(super) fn activate(&mut self, child: ChildId, id: SaId) -> Status {
        let (Some(child), Some(entry)) = (self.children.get(&child), self.sas.get(&id)) else {
            return Status::NotFound;
        };
        if entry.sa.direction != Direction::Outbound {
            return invalid(Field::DIRECTION);
        }
        if entry.sa.child.id != child.child.id {
            return invalid(Field::SA_CHILD);
        }
        child.child.activate(Some(Arc::clone(&entry.sa)));
        Status::Ok
    }
}

/// Of AES-GCM with the 16-byte ICV, the only algorithm so far.
const ICV_BYTES: usize = 16;

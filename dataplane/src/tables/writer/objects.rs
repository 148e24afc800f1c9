//! Paths, children and SAs.

use std::sync::Arc;

use api::id::{ChildId, PathId, SaId};
use api::record::{Child, Direction, Field, Limits, Path, Sa as SaRecord, SaInfo, Status};
use api::state::Flags;
use api::window::WindowSlot;
use crypto::KeyContext;
use esp::encap::{Df, Dscp, Tunnel, TunnelConfig};

use super::{ChildEntry, Outcome, PathEntry, TablesWriter, invalid};
use crate::tables::child::{self, PathSlot};
use crate::tables::sad::{HopCache, Marks, Sa, Sending, Way};

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
                    children: Vec::new(),
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
        let Some(entry) = self.paths.get(&path.id) else {
            return Status::NotFound;
        };
        entry.slot.store(path);
        // What was noticed of the peer's address counts from the path's new one.
        for child in entry.children.clone() {
            for row in self.renew_sas(child) {
                self.rows.lower(row, Flags::MAPPING);
            }
        }
        Status::Ok
    }

    /// Gives workers new versions of a child's SAs; their rows.
    fn renew_sas(&mut self, child: ChildId) -> Vec<u32> {
        let mut rows = Vec::new();
        let Some(entry) = self.children.get(&child) else {
            return rows;
        };
        for id in &entry.sas {
            let Some(sa) = self.sad.get(*id) else {
                continue;
            };
            rows.push(sa.row);
            if let Some(sa) = renew(sa, &entry.child, sa.limits) {
                self.sad.replace(sa);
            }
        }
        rows
    }

    pub(super) fn path_delete(&mut self, id: PathId) -> Status {
        match self.paths.get(&id) {
            None => Status::NotFound,
            Some(entry) if !entry.children.is_empty() => Status::Busy,
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
        path.children.push(id);
        let child = Arc::new(child::Child::new(record, Arc::clone(&path.slot), slot));
        self.children.insert(
            id,
            ChildEntry {
                child,
                sas: Vec::new(),
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
        path.children.push(id);
        let old = entry.child.settings().path.id;
        entry.child.update(record, Arc::clone(&path.slot));
        self.leave_path(old, id);
        self.renew_sas(id);
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
                self.leave_path(path, id);
                Status::Ok
            }
        }
    }

    fn leave_path(&mut self, id: PathId, child: ChildId) {
        if let Some(path) = self.paths.get_mut(&id)
            && let Some(at) = path.children.iter().position(|held| *held == child)
        {
            path.children.swap_remove(at);
        }
    }

    pub(super) fn sa_add(&mut self, record: &SaRecord) -> Status {
        if let Err(error) = record.validate() {
            return error.into();
        }
        let id = record.id;
        let Some(row) = self.sad.geometry().row(id) else {
            return invalid(Field::SA_ID);
        };
        // Wanted when the key is expanded.
        self.sad.prefetch(row);
        self.rows.prefetch(row);
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
        let Ok(key) = KeyContext::aes_gcm_keymat(record.key.as_bytes(), ICV_BYTES.into()) else {
            return invalid(Field::SA_KEY);
        };
        let info = record.info();
        let Some(mut sa) = describe(&info, row, None, &child, key) else {
            return invalid(Field::SA_CHILD);
        };
        if self.sad.collides(&sa) {
            return invalid(Field::SA_SPI);
        }
        let window = match self.rows.claim(record, row) {
            Ok(window) => window,
            Err(status) => return status,
        };
        if let Way::Inbound { window: place, .. } = &mut sa.way {
            *place = window;
        }
        if !self.sad.insert(sa) {
            self.rows.release(row, window);
            return Status::Full;
        }
        self.note(id, child);
        Status::Ok
    }

    /// The SA lives already: that counts as success if it is the same one.
    fn sa_add_again(&mut self, record: &SaRecord, row: u32) -> Status {
        let child = self.sas.get(&record.id).map(|child| child.id);
        let same = child == Some(record.child)
            && self.sad.get(record.id).is_some_and(|sa| {
                sa.spi == record.spi && sa.direction() == record.direction && sa.esn() == record.esn
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
        self.draining.contains_key(&row) || self.sad.is_taken(row)
    }

    fn note(&mut self, id: SaId, child: Arc<child::Child>) {
        if let Some(entry) = self.children.get_mut(&child.id) {
            entry.sas.push(id);
        }
        self.sas.insert(id, child);
        self.name(|named| named.sas.insert(id));
    }

    pub(super) fn sa_update(&mut self, id: SaId, limits: Limits) -> Status {
        let (Some(child), Some(sa)) = (self.sas.get(&id), self.sad.get(id)) else {
            return Status::NotFound;
        };
        if sa.limits == limits {
            return Status::Ok;
        }
        if renew(sa, child, limits).is_some_and(|sa| self.sad.replace(sa)) {
            Status::Ok
        } else {
            Status::Full
        }
    }

    pub(super) fn sa_delete(&mut self, id: SaId) -> Outcome {
        let (Some(child), Some(sa)) = (self.sas.remove(&id), self.sad.get(id)) else {
            return Status::NotFound.into();
        };
        let (row, window) = (sa.row, sa.window());
        // Workers must not find the way to an SA that is gone.
        if self.tables.active(child.slot) == Some(id) {
            self.tables.activate(child.slot, None);
        }
        let removed = self.sad.remove(id);
        if let Some(entry) = self.children.get_mut(&child.id) {
            entry.sas.retain(|held| *held != id);
        }
        self.draining.insert(row, (removed, window));
        Outcome {
            deleted: vec![id],
            ..Status::Ok.into()
        }
    }

    pub(super) fn activate(&mut self, child: ChildId, id: SaId) -> Status {
        let (true, Some(of), Some(sa)) = (
            self.children.contains_key(&child),
            self.sas.get(&id),
            self.sad.get(id),
        ) else {
            return Status::NotFound;
        };
        if sa.direction() != Direction::Outbound {
            return invalid(Field::DIRECTION);
        }
        if of.id != child {
            return invalid(Field::SA_CHILD);
        }
        self.tables.activate(of.slot, Some(id));
        Status::Ok
    }
}

/// Of AES-GCM with the 16-byte ICV, the only algorithm so far.
const ICV_BYTES: u8 = 16;

/// An SA as workers see it, with what its child and path say now; `None` if its path makes no
/// tunnel.
fn describe(
    info: &SaInfo,
    row: u32,
    window: Option<WindowSlot>,
    child: &child::Child,
    key: KeyContext,
) -> Option<Sa> {
    let settings = child.settings();
    let (path, record) = (settings.path.load(), &settings.record);
    let outbound = info.direction == Direction::Outbound;
    let limited = info.limits != Limits::default();
    let marks = Marks::default()
        .with_if(Marks::ESN, info.esn)
        .with_if(Marks::UDP, path.udp_encapsulation)
        .with_if(Marks::LIMITED, limited)
        .with_if(Marks::COPY_DSCP, record.copy_dscp.inwards())
        .with_if(Marks::COPY_ECN, record.copy_ecn);
    let (way, sending) = if outbound {
        let config = tunnel_config(&path, record);
        let way = Way::Outbound {
            mtu_bytes: path.mtu_bytes,
        };
        let sending = Sending {
            hop: HopCache::default(),
            spi: info.spi,
            marks,
            tunnel: Tunnel::new(&config).ok()?,
        };
        (way, Some(sending))
    } else {
        let way = Way::Inbound {
            window_bits: info.window_bits,
            window,
            local: path.local,
        };
        (way, None)
    };
    Some(Sa {
        id: info.id,
        spi: info.spi,
        row,
        child: child.slot,
        vrf: path.vrf,
        interface: path.interface,
        inner_vrf: record.vrf,
        icv_bytes: ICV_BYTES,
        marks,
        way,
        sending,
        limits: info.limits,
        peer: (path.remote, path.remote_port),
        key,
    })
}

/// A new version of an SA, with what its child and path say now and these limits.
fn renew(sa: &Sa, child: &child::Child, limits: Limits) -> Option<Sa> {
    let info = SaInfo {
        limits,
        ..sa.info(child.id)
    };
    describe(&info, sa.row, sa.window(), child, sa.key.clone())
}

fn tunnel_config(path: &Path, child: &Child) -> TunnelConfig {
    let dscp = match path.dscp {
        Some(fixed) => Dscp::Fixed(fixed),
        None if child.copy_dscp.outwards() => Dscp::Copy,
        None => Dscp::Fixed(0),
    };
    TunnelConfig {
        local: path.local,
        remote: path.remote,
        udp_ports: path
            .udp_encapsulation
            .then_some((path.local_port, path.remote_port)),
        icv_len: ICV_BYTES.into(),
        df: if child.copy_df { Df::Copy } else { Df::Clear },
        dscp,
        copy_ecn: child.copy_ecn,
    }
}

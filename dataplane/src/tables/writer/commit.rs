//! Policies: staged, committed as one version, and what a resynchronisation deletes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::id::{ChildId, PolicyId, SaId};
use api::record::{Action, Direction, Field, Policy, Status, Table};

use super::{Named, Outcome, Stage, TablesWriter, invalid};
use crate::tables::spd::{Changes, Decision, MAX_POLICIES, Policies, Rule};

/// Which way a count goes.
#[derive(Clone, Copy)]
enum Counting {
    More,
    Less,
}

impl TablesWriter {
    pub(super) fn begin(&mut self, resync: bool) -> Status {
        if self.stage.is_some() {
            return invalid(Field::BATCH);
        }
        self.stage = Some(Stage {
            resync,
            policies: BTreeMap::new(),
            len: self.policies.len(),
            named: Named::default(),
        });
        Status::Ok
    }

    pub(super) fn commit(&mut self) -> Outcome {
        let Some(stage) = self.stage.take() else {
            return invalid(Field::BATCH).into();
        };
        if stage.resync {
            let named = |id: &PolicyId| id.is_static() || stage.named.policies.contains(id);
            let gone: Vec<_> = self
                .policies
                .keys()
                .copied()
                .filter(|id| !named(id))
                .collect();
            for id in gone {
                self.set_committed(id, None);
            }
        }
        for (id, policy) in stage.policies {
            // What was staged is counted already.
            self.put_committed(id, policy);
        }
        self.policies_committed();
        let deleted = if stage.resync {
            self.delete_unnamed(&stage.named)
        } else {
            Vec::new()
        };
        Outcome {
            deleted,
            ..Status::Ok.into()
        }
    }

    /// Ends an unfinished `Begin` whose author is gone: nothing of it takes effect.
    pub fn abandon(&mut self) {
        let stage = self.stage.take();
        for policy in stage
            .into_iter()
            .flat_map(|stage| stage.policies.into_values())
        {
            self.count(policy.as_deref(), Counting::Less);
        }
    }

    /// What is committed so far is but a part: nothing passes before IKE commits its policies.
    pub fn await_ike(&mut self) {
        self.next.committed = false;
        self.dirty = true;
    }

    fn policies_committed(&mut self) {
        self.next.committed = true;
        self.since.commit();
    }

    /// Puts a policy among the committed ones, or with `None` deletes it.
    fn set_committed(&mut self, id: PolicyId, policy: Option<Box<Policy>>) {
        self.count(policy.as_deref(), Counting::More);
        self.put_committed(id, policy);
    }

    /// The same with a policy that is counted.
    fn put_committed(&mut self, id: PolicyId, policy: Option<Box<Policy>>) {
        let held = match policy {
            Some(policy) => self.policies.insert(id, policy),
            None => self.policies.remove(&id),
        };
        self.count(held.as_deref(), Counting::Less);
        self.since.note(id, held.as_deref());
    }

    /// Puts a policy among the staged ones, or with `None` deletes it there.
    fn set_staged(&mut self, id: PolicyId, policy: Option<Box<Policy>>) {
        let was_there = self.present(id).is_some();
        self.count(policy.as_deref(), Counting::More);
        let Some(stage) = &mut self.stage else {
            return;
        };
        stage.len += usize::from(policy.is_some());
        stage.len -= usize::from(was_there);
        let held = stage.policies.insert(id, policy);
        self.count(held.flatten().as_deref(), Counting::Less);
    }

    /// Counts a policy for the child that it names.
    fn count(&mut self, policy: Option<&Policy>, counting: Counting) {
        let action = policy.map(|policy| policy.action);
        let Some(Action::Protect(child)) = action else {
            return;
        };
        if let Some(entry) = self.children.get_mut(&child) {
            entry.policies = match counting {
                Counting::More => entry.policies.saturating_add(1),
                Counting::Less => entry.policies.saturating_sub(1),
            };
        }
    }

    fn delete_unnamed(&mut self, named: &Named) -> Vec<SaId> {
        let gone = |id: &SaId| !id.is_static() && !named.sas.contains(id);
        let sas: Vec<SaId> = self.sas.keys().copied().filter(gone).collect();
        let deleted = sas
            .into_iter()
            .flat_map(|id| self.sa_delete(id).deleted)
            .collect();
        let children: Vec<ChildId> = self.children.keys().copied().collect();
        for id in children.into_iter().filter(|id| !id.is_static()) {
            if !named.children.contains(&id) {
                self.child_delete(id);
            }
        }
        let paths: Vec<_> = self.paths.keys().copied().collect();
        for id in paths.into_iter().filter(|id| !id.is_static()) {
            if !named.paths.contains(&id) {
                self.path_delete(id);
            }
        }
        deleted
    }

    /// During a resynchronisation notes that the object was named again, and is true.
    pub(super) fn name(&mut self, note: impl FnOnce(&mut Named) -> bool) -> bool {
        let Some(stage) = self.stage.as_mut().filter(|stage| stage.resync) else {
            return false;
        };
        note(&mut stage.named);
        true
    }

    pub(super) fn policy_add(&mut self, policy: Policy) -> Status {
        let id = policy.id;
        let same = self.present(id).map(|held| *held == policy);
        let resync = self.name(|named| named.policies.insert(id));
        match same {
            Some(true) => Status::Exists,
            Some(false) if !resync => invalid(Field::POLICY_ID),
            None if self.present_len() >= MAX_POLICIES => Status::Full,
            _ => self.policy_put(policy),
        }
    }

    pub(super) fn policy_update(&mut self, policy: Policy) -> Status {
        if self.present(policy.id).is_none() {
            return Status::NotFound;
        }
        self.name(|named| named.policies.insert(policy.id));
        self.policy_put(policy)
    }

    fn policy_put(&mut self, policy: Policy) -> Status {
        if let Err(error) = policy.selector.validate() {
            return error.into();
        }
        if let Action::Protect(child) = policy.action
            && !self.children.contains_key(&child)
        {
            return invalid(Field::POLICY_CHILD);
        }
        self.change(policy.id, Some(Box::new(policy)));
        Status::Ok
    }

    pub(super) fn policy_delete(&mut self, id: PolicyId) -> Status {
        if self.present(id).is_none() {
            return Status::NotFound;
        }
        self.change(id, None);
        Status::Ok
    }

    /// A policy as the next commit would have it.
    fn present(&self, id: PolicyId) -> Option<&Policy> {
        let staged = self
            .stage
            .as_ref()
            .and_then(|stage| stage.policies.get(&id));
        match staged {
            Some(staged) => staged.as_deref(),
            None => self.policies.get(&id).map(Box::as_ref),
        }
    }

    fn present_len(&self) -> usize {
        let staged = self.stage.as_ref().map(|stage| stage.len);
        staged.unwrap_or(self.policies.len())
    }

    /// Changes a staged policy, or without `Begin` a committed one: a commit of its own.
    fn change(&mut self, id: PolicyId, policy: Option<Box<Policy>>) {
        if self.stage.is_some() {
            self.set_staged(id, policy);
        } else {
            self.set_committed(id, policy);
            self.policies_committed();
        }
    }

    fn flush_policies(&mut self) {
        let staged = self.stage.iter().flat_map(|stage| stage.policies.keys());
        let ids = self.policies.keys().chain(staged).copied();
        let ours: Vec<_> = ids.filter(|id| !id.is_static()).collect();
        for id in ours {
            if self.present(id).is_some() {
                self.change(id, None);
            }
        }
        if self.stage.is_none() {
            self.policies_committed();
        }
    }

    pub(super) fn flush(&mut self, table: Table) -> Outcome {
        match table {
            Table::Policy => {
                self.flush_policies();
                Status::Ok.into()
            }
            Table::Sa => {
                let sas: Vec<SaId> = self.sas.keys().copied().collect();
                let ours = sas.into_iter().filter(|id| !id.is_static());
                let deleted = ours.flat_map(|id| self.sa_delete(id).deleted).collect();
                Outcome {
                    deleted,
                    ..Status::Ok.into()
                }
            }
            Table::Child => {
                let ids: Vec<_> = self.children.keys().copied().collect();
                let ours = ids.into_iter().filter(|id| !id.is_static());
                worst(ours.map(|id| self.child_delete(id)).collect()).into()
            }
            Table::Path => {
                let ids: Vec<_> = self.paths.keys().copied().collect();
                let ours = ids.into_iter().filter(|id| !id.is_static());
                worst(ours.map(|id| self.path_delete(id)).collect()).into()
            }
        }
    }

    /// Puts the committed policies together with their children.
    pub(super) fn link_policies(&mut self) -> Policies {
        if let Some(changes) = self.since.changes() {
            let (mut inbound, mut outbound) = (Changes::default(), Changes::default());
            for (id, place) in changes {
                if let Some(place) = place {
                    let of = of(&mut inbound, &mut outbound, place.direction);
                    of.gone.push((place.priority, id));
                }
                if let Some(policy) = self.policies.get(&id) {
                    let of = of(&mut inbound, &mut outbound, policy.direction);
                    of.rules.push(self.link(policy));
                }
            }
            return self.next.policies.with(inbound, outbound);
        }
        let rules = |direction: Direction| {
            let chosen = self
                .policies
                .values()
                .filter(move |p| p.direction == direction);
            chosen.map(|policy| self.link(policy)).collect()
        };
        let policies = Policies::new(rules(Direction::Inbound), rules(Direction::Outbound));
        self.since.rebased(policies.base_len());
        policies
    }

    fn link(&self, policy: &Policy) -> Rule {
        let decision = match policy.action {
            // A policy's child cannot be deleted; if it were gone, discarding is the safe answer.
            Action::Protect(child) => self
                .children
                .get(&child)
                .map_or(Decision::Discard, |entry| {
                    Decision::Protect(Arc::clone(&entry.child))
                }),
            Action::Bypass => Decision::Bypass,
            Action::Discard => Decision::Discard,
        };
        Rule {
            id: policy.id,
            priority: policy.priority,
            vrf: policy.vrf,
            interface: policy.interface,
            selector: policy.selector,
            decision,
        }
    }
}

fn of<T>(inbound: T, outbound: T, direction: Direction) -> T {
    match direction {
        Direction::Inbound => inbound,
        Direction::Outbound => outbound,
    }
}

/// Busy if any is, else done.
fn worst(statuses: Vec<Status>) -> Status {
    if statuses.contains(&Status::Busy) {
        Status::Busy
    } else {
        Status::Ok
    }
}

//! Policies: staged, committed as one version, and what a resynchronisation deletes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::id::{ChildId, PolicyId, SaId};
use api::record::{Action, Direction, Field, Policy, Status, Table};

use super::{Named, Outcome, Stage, TablesWriter, invalid};
use crate::tables::spd::{Decision, MAX_POLICIES, Policies, Rule};

impl TablesWriter {
    pub(super) fn begin(&mut self, resync: bool) -> Status {
        if self.stage.is_some() {
            return invalid(Field::BATCH);
        }
        let policies = self.policies.clone();
        self.stage = Some(Stage {
            resync,
            policies,
            named: Named::default(),
        });
        Status::Ok
    }

    pub(super) fn commit(&mut self) -> Outcome {
        let Some(mut stage) = self.stage.take() else {
            return invalid(Field::BATCH).into();
        };
        if stage.resync {
            stage
                .policies
                .retain(|id, _| id.is_static() || stage.named.policies.contains(id));
        }
        self.policies = stage.policies;
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
        self.stage = None;
        self.count_policies();
    }

    /// What is committed so far is but a part: nothing passes before IKE commits its policies.
    pub fn await_ike(&mut self) {
        self.next.committed = false;
        self.dirty = true;
    }

    fn policies_committed(&mut self) {
        self.next.committed = true;
        self.policies_changed = true;
        self.count_policies();
    }

    /// Counts anew how many policies name each child.
    fn count_policies(&mut self) {
        let mut counts: HashMap<ChildId, usize> = HashMap::new();
        let staged = self.stage.iter().flat_map(|stage| stage.policies.values());
        for policy in self.policies.values().chain(staged) {
            if let Action::Protect(child) = policy.action {
                *counts.entry(child).or_default() += 1;
            }
        }
        for (id, entry) in &mut self.children {
            entry.policies = counts.get(id).copied().unwrap_or(0);
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

    /// Notes that the object was named again; true during a resynchronisation.
    pub(super) fn name(&mut self, note: impl FnOnce(&mut Named) -> bool) -> bool {
        let Some(stage) = &mut self.stage else {
            return false;
        };
        note(&mut stage.named);
        stage.resync
    }

    pub(super) fn policy_add(&mut self, policy: Policy) -> Status {
        let id = policy.id;
        let held = self.present().get(&id).cloned();
        let resync = self.name(|named| named.policies.insert(id));
        match held {
            Some(held) if held == policy => Status::Exists,
            Some(_) if !resync => invalid(Field::POLICY_ID),
            None if self.present().len() >= MAX_POLICIES => Status::Full,
            _ => self.policy_put(policy),
        }
    }

    pub(super) fn policy_update(&mut self, policy: Policy) -> Status {
        if !self.present().contains_key(&policy.id) {
            return Status::NotFound;
        }
        self.name(|named| named.policies.insert(policy.id));
        self.policy_put(policy)
    }

    fn policy_put(&mut self, policy: Policy) -> Status {
        if let Err(error) = policy.selector.validate() {
            return error.into();
        }
        if let Action::Protect(child) = policy.action {
            let Some(entry) = self.children.get_mut(&child) else {
                return invalid(Field::POLICY_CHILD);
            };
            entry.policies += 1;
        }
        self.change(|policies| policies.insert(policy.id, policy));
        Status::Ok
    }

    pub(super) fn policy_delete(&mut self, id: PolicyId) -> Status {
        let gone = self.change(|policies| policies.remove(&id));
        if gone.is_some() {
            Status::Ok
        } else {
            Status::NotFound
        }
    }

    /// The policies as the next commit would have them.
    fn present(&self) -> &BTreeMap<PolicyId, Policy> {
        self.stage
            .as_ref()
            .map_or(&self.policies, |stage| &stage.policies)
    }

    /// Changes the staged policies, or without `Begin` the committed ones: a commit of its own.
    fn change<T>(&mut self, change: impl FnOnce(&mut BTreeMap<PolicyId, Policy>) -> T) -> T {
        if let Some(stage) = &mut self.stage {
            return change(&mut stage.policies);
        }
        let changed = change(&mut self.policies);
        self.policies_committed();
        changed
    }

    pub(super) fn flush(&mut self, table: Table) -> Outcome {
        match table {
            Table::Policy => {
                self.change(|policies| policies.retain(|id, _| id.is_static()));
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
    pub(super) fn link_policies(&self) -> Policies {
        let rules = |direction: Direction| {
            let chosen = self
                .policies
                .values()
                .filter(move |p| p.direction == direction);
            chosen.map(|policy| self.link(policy)).collect()
        };
        Policies::new(rules(Direction::Inbound), rules(Direction::Outbound))
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

/// Busy if any is, else done.
fn worst(statuses: Vec<Status>) -> Status {
    if statuses.contains(&Status::Busy) {
        Status::Busy
    } else {
        Status::Ok
    }
}

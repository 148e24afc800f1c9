//! Commands of the operator.

use std::collections::VecDeque;

use super::Endpoint;
use crate::child_sa::Child;
use crate::context::{Attempt, Context};
use crate::event::{ChildId, IkeId, Request, Target, Verb};
use crate::host::{Host, Time};
use crate::ike_sa::{IkeSa, State};
use crate::task::{Task, TaskKind};
use crate::verdict::Reason;

/// An SA that a command names.
#[derive(Clone, Copy)]
enum Named {
    Ike(IkeId),
    Child(IkeId, ChildId),
}

impl Endpoint {
    pub(super) fn command(&mut self, now: Time, host: &mut dyn Host, request: Request) {
        let id = request.id;
        match request.verb {
            Verb::Initiate { connection, child } => {
                if self.stopping {
                    self.refuse(now, host, id, Reason::Cancelled, "shutting down".to_owned());
                } else {
                    self.bring_up(now, host, &connection, child.as_deref(), Some(id));
                }
            }
            Verb::Terminate(target) => self.for_each(now, host, id, &target, Self::terminate),
            Verb::Rekey(target) => self.for_each(now, host, id, &target, Self::rekey),
        }
    }

    fn refuse(&mut self, now: Time, host: &mut dyn Host, id: u64, reason: Reason, text: String) {
        let mut ctx = Context {
            now,
            host,
            shared: &mut self.shared,
        };
        ctx.failed(&[id], reason, text);
    }

    /// Brings a child up, or an IKE SA alone: in the IKE SA of the connection, or a new one.
    pub(super) fn bring_up(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        connection: &str,
        child: Option<&str>,
        request: Option<u64>,
    ) {
        let mut ctx = Context {
            now,
            host: &mut *host,
            shared: &mut self.shared,
        };
        let Some(found) = ctx.shared.connection(connection) else {
            let text = format!("no connection is named \"{connection}\"");
            ctx.failed(request.as_slice(), Reason::UnknownConnection, text);
            return;
        };
        let kind = match child {
            None => TaskKind::Establish,
            Some(name) if found.child(name).is_some() => TaskKind::NewChild {
                name: name.to_owned(),
            },
            Some(name) => {
                let text = format!("connection {connection} has no child named \"{name}\"");
                ctx.failed(request.as_slice(), Reason::UnknownChild, text);
                return;
            }
        };
        let task = Task::new(kind, request);
        match self.ike_for(connection) {
            Some(id) => self.with(now, host, id, |sa, ctx| {
                if !sa.is_asking_for(&task.kind, &task.requests) {
                    sa.push(task, ctx);
                }
            }),
            None => {
                let tasks = VecDeque::from([task]);
                self.call(
                    now,
                    host,
                    Attempt {
                        connection: found,
                        tasks,
                        tries: 0,
                    },
                );
            }
        }
    }

    /// The IKE SA of a connection that can take a task: one that is up before one that is coming.
    fn ike_for(&self, connection: &str) -> Option<IkeId> {
        let usable = |sa: &&IkeSa| sa.connection.name == connection;
        let up = self.sas.values().filter(usable).find(|sa| {
            sa.state() == State::Established && !sa.tasks.has(|kind| *kind == TaskKind::DeleteIke)
        });
        let coming = self
            .sas
            .values()
            .filter(usable)
            .find(|sa| matches!(sa.state(), State::Initiated | State::Authenticating));
        up.or(coming).map(|sa| sa.id)
    }

    fn for_each(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        request: u64,
        target: &Target,
        act: fn(&mut Self, Time, &mut dyn Host, Named, Option<u64>),
    ) {
        let named = self.named(target);
        let Some((last, rest)) = named.split_last() else {
            self.refuse(
                now,
                host,
                request,
                Reason::NotFound,
                Reason::NotFound.to_string(),
            );
            return;
        };
        for one in rest {
            act(self, now, host, *one, None);
        }
        // The command is done with the last of them.
        act(self, now, host, *last, Some(request));
    }

    fn named(&self, target: &Target) -> Vec<Named> {
        let live = self.sas.values().filter(|sa| match sa.state() {
            State::Initiated | State::Authenticating | State::Established | State::Deleting => true,
            State::HalfOpen | State::Replaced | State::Lingering | State::Closed => false,
        });
        let children = |sa: &IkeSa, is: &dyn Fn(&Child) -> bool| -> Vec<Named> {
            let wanted = sa.children.iter().filter(|child| is(child));
            wanted.map(|child| Named::Child(sa.id, child.id)).collect()
        };
        match target {
            Target::Connection(name) => live
                .filter(|sa| sa.connection.name == *name)
                .map(|sa| Named::Ike(sa.id))
                .collect(),
            Target::Ike(id) => live
                .filter(|sa| sa.id == *id)
                .map(|sa| Named::Ike(sa.id))
                .collect(),
            Target::ChildName { connection, child } => live
                .filter(|sa| {
                    connection
                        .as_ref()
                        .is_none_or(|name| sa.connection.name == *name)
                })
                .flat_map(|sa| children(sa, &|one| one.config.name == *child))
                .collect(),
            Target::Child(id) => live
                .flat_map(|sa| children(sa, &|one| one.id == *id))
                .collect(),
        }
    }

    fn terminate(&mut self, now: Time, host: &mut dyn Host, named: Named, request: Option<u64>) {
        match named {
            Named::Ike(id) => self.terminate_ike(now, host, id, request),
            Named::Child(ike, child) => self.with(now, host, ike, |sa, ctx| {
                sa.push(Task::new(TaskKind::DeleteChild { child }, request), ctx);
            }),
        }
    }

    fn rekey(&mut self, now: Time, host: &mut dyn Host, named: Named, request: Option<u64>) {
        match named {
            Named::Ike(id) => self.with(now, host, id, |sa, ctx| match sa.state() {
                State::Established => sa.push(Task::new(TaskKind::RekeyIke, request), ctx),
                State::Initiated
                | State::Authenticating
                | State::HalfOpen
                | State::Replaced
                | State::Deleting
                | State::Lingering
                | State::Closed => {
                    ctx.failed(
                        request.as_slice(),
                        Reason::NotFound,
                        "not established".to_owned(),
                    );
                }
            }),
            Named::Child(ike, child) => self.with(now, host, ike, |sa, ctx| {
                let active = sa.child(child).and_then(Child::rekeyable);
                match active.map(|pair| pair.inbound_spi) {
                    Some(spi) => {
                        let kind = TaskKind::RekeyChild { child, spi };
                        sa.push(Task::new(kind, request), ctx);
                    }
                    // It is being rekeyed right now.
                    None => ctx.done(request.as_slice(), &Ok(())),
                }
            }),
        }
    }
}

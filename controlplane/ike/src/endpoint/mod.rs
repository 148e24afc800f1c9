//! The endpoint: all IKE SAs of one gateway.
//!
//! Every event is handled in three steps: one IKE SA takes it, consequences for others are carried
//! out, and then what changed is stored before what depends on it is sent.

mod command;
mod datagram;
mod event;
mod restore;
mod trap;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

pub use view::{ChildView, IkeSaView, SaView};

use crate::checkpoint;
use crate::config::{Connection, Secret, Settings};
use crate::context::{Attempt, Context, Effect, Shared};
use crate::cookie::Cookies;
use crate::event::{Action, IkeId, Level, Output, Request};
use crate::exchange::rekey_ike::LEFT_OVER_S;
use crate::host::{Host, Time};
use crate::ike_sa::{IkeSa, State, StateCounts};
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::verdict::Reason;
use trap::Trap;

/// All IKE SAs of one gateway, without I/O. See the crate documentation.
pub struct Endpoint {
    shared: Shared,
    sas: BTreeMap<IkeId, IkeSa>,
    by_spi: HashMap<u64, IkeId>,
    /// Half-open IKE SAs as responder: by the initiator's address and SPI.
    half_open: HashMap<(SocketAddr, u64), IkeId>,
    /// Earliest timer of each IKE SA.
    timers: BTreeSet<(Time, IkeId)>,
    timer_of: HashMap<IkeId, Time>,
    /// IKE SAs with something to store or to send.
    touched: Vec<IkeId>,
    /// IKE SAs that have a checkpoint.
    stored: HashSet<IkeId>,
    traps: Vec<Trap>,
    /// Connection and name of the children that the last `start` has seen.
    started: HashSet<(String, String)>,
    cookies: Cookies,
    stopping: bool,
}

impl Endpoint {
    /// An endpoint without connections.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            shared: Shared {
                settings,
                ..Shared::default()
            },
            sas: BTreeMap::new(),
            by_spi: HashMap::new(),
            half_open: HashMap::new(),
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            touched: Vec::new(),
            stored: HashSet::new(),
            traps: Vec::new(),
            started: HashSet::new(),
            cookies: Cookies::default(),
            stopping: false,
        }
    }

    /// Replaces connections and secrets. IKE SAs that are up stay, and follow the connection and
    /// the children of the same names from now on. `start` follows.
    pub fn load(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        connections: Vec<Connection>,
        secrets: Vec<Secret>,
    ) {
        self.shared.connections = connections.into_iter().map(Arc::new).collect();
        self.shared.secrets = secrets;
        for sa in self.sas.values_mut() {
            let Some(connection) = self.shared.connection(&sa.connection.name) else {
                continue;
            };
            sa.connection = connection.clone();
            for child in &mut sa.children {
                if let Some(config) = connection.child(&child.config.name) {
                    child.config = Arc::new(config.clone());
                }
                child.connection = connection.clone();
            }
            sa.restart_liveness(now);
            self.touched.push(sa.id);
        }
        self.settle(now, host);
    }

    /// Carries out the `start_action` of children that were not there at the last `start` and are
    /// not up. After `load`, and of a new process after `restore`: what was restored need not
    /// start, and its numbers are taken.
    pub fn start(&mut self, now: Time, host: &mut dyn Host) {
        self.reload_traps(now, host);
        let configured: HashSet<(String, String)> = names(&self.shared.connections).collect();
        let known = std::mem::replace(&mut self.started, configured.clone());
        for (connection, child) in configured.difference(&known) {
            let wanted = self
                .shared
                .connection(connection)
                .is_some_and(|c| c.child(child).is_some_and(|child| child.start_action.start));
            let is_up = self.sas.values().any(|sa| {
                sa.connection.name == *connection
                    && sa.children.iter().any(|one| one.config.name == *child)
            });
            if wanted && !is_up {
                self.bring_up(now, host, connection, Some(child), None);
            }
        }
        self.settle(now, host);
    }

    /// Time of the next `handle_timeout`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What to do next. Take all of it after every call that takes `&mut self`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    /// Handles all timers that are due.
    pub fn handle_timeout(&mut self, now: Time, host: &mut dyn Host) {
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.with(now, host, id, |sa, ctx| {
                while let Some(timer) = sa.timers.pop_due(ctx.now) {
                    event::timer(sa, timer, ctx);
                }
            });
            // Even an IKE SA that is gone must not stay in the set.
            self.timers.remove(&(at, id));
            self.settle(now, host);
        }
    }

    /// Carries out a command.
    pub fn handle_command(&mut self, now: Time, host: &mut dyn Host, request: Request) {
        self.command(now, host, request);
        self.settle(now, host);
    }

    /// Deletes every IKE SA; `is_idle` when that is done. No new ones are made or taken.
    pub fn shutdown(&mut self, now: Time, host: &mut dyn Host) {
        self.stopping = true;
        let ids: Vec<IkeId> = self.sas.keys().copied().collect();
        for id in ids {
            self.terminate_ike(now, host, id, None);
        }
        self.remove_traps();
        self.settle(now, host);
    }

    /// No IKE SA is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sas.values().all(|sa| sa.state() == State::Lingering)
    }

    /// How often IKE SAs have entered each state.
    #[must_use]
    pub const fn state_counts(&self) -> &StateCounts {
        &self.shared.counts
    }

    /// Lets an IKE SA handle something.
    fn with(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        id: IkeId,
        handle: impl FnOnce(&mut IkeSa, &mut Context<'_>),
    ) {
        let Some(sa) = self.sas.get_mut(&id) else {
            return;
        };
        let mut ctx = Context {
            now,
            host,
            shared: &mut self.shared,
        };
        handle(sa, &mut ctx);
        self.touched.push(id);
    }

    /// Carries out consequences, starts tasks, stores and sends.
    fn settle(&mut self, now: Time, host: &mut dyn Host) {
        loop {
            while let Some(effect) = self.shared.effects.pop_front() {
                self.carry_out(now, host, effect);
            }
            let touched: Vec<IkeId> = self.touched.clone();
            for id in &touched {
                if let Some(sa) = self.sas.get_mut(id) {
                    let mut ctx = Context {
                        now,
                        host: &mut *host,
                        shared: &mut self.shared,
                    };
                    sa.start_tasks(&mut ctx);
                }
            }
            if self.shared.effects.is_empty() {
                break;
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        // What is new first: a crash between two checkpoints then leaves a child in two, and the
        // younger counts.
        for id in touched.iter().rev() {
            self.store(*id);
        }
        for id in &touched {
            self.send(*id);
        }
    }

    fn carry_out(&mut self, now: Time, host: &mut dyn Host, effect: Effect) {
        match effect {
            Effect::Adopt(sa) => self.adopt(*sa),
            Effect::Inherit { from, to, end } => self.inherit(now, host, (from, to), end),
            Effect::End { ike, reason } => {
                self.with(now, host, ike, |sa, ctx| sa.linger(reason, ctx));
            }
            Effect::Supersede(ids) => {
                for id in ids {
                    self.terminate_ike(now, host, id, None);
                }
            }
            Effect::Discard(id) => {
                self.with(now, host, id, |sa, ctx| {
                    sa.unsettled = false;
                    sa.dirty = true;
                    sa.timers.set(Timer::GiveUp, ctx.now.after_s(LEFT_OVER_S));
                });
            }
            Effect::Reopen { connection, child } => {
                if !self.stopping {
                    self.bring_up(now, host, &connection, Some(&child), None);
                }
            }
            Effect::Trap { connection, child } => self.set_trap(now, host, &connection, &child),
            Effect::Retry(attempt) => self.call(now, host, *attempt),
        }
    }

    /// Takes in a new IKE SA.
    fn adopt(&mut self, sa: IkeSa) {
        let id = sa.id;
        if let Some(parties) = sa.parties().filter(|_| sa.is_durable()) {
            self.shared.register(parties, id);
        }
        self.by_spi.insert(sa.spi_local, id);
        self.sas.insert(id, sa);
        self.touched.push(id);
    }

    /// A new IKE SA takes over the children of a rekeyed one, their timers, and what was to be done
    /// for them (RFC 7296 2.8).
    fn inherit(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        (from, to): (IkeId, IkeId),
        end: Option<Task>,
    ) {
        let Some(mut old) = self.sas.remove(&from) else {
            return;
        };
        let new = self
            .sas
            .get_mut(&to)
            .filter(|sa| sa.state() == State::Established);
        if let Some(new) = new {
            let mut ctx = Context {
                now,
                host,
                shared: &mut self.shared,
            };
            for child in old.children.drain(..) {
                ctx.shared.owners.insert(child.id, to);
                for pair in &child.pairs {
                    for (timer, at) in old.timers.take_child(pair.inbound_spi) {
                        new.timers.set(timer, at);
                    }
                }
                new.children.push(child);
            }
            while let Some(task) = old.tasks.take(TaskKind::is_for_child) {
                new.push(task, &mut ctx);
            }
            if let Some(end) = end {
                new.push(end, &mut ctx);
            }
            new.unsettled = false;
            new.heard = old.heard;
            new.dirty = true;
            old.dirty = true;
        } else {
            // The peer has deleted the new one already, and the children with it.
            let mut ctx = Context {
                now,
                host,
                shared: &mut self.shared,
            };
            old.linger(Reason::DeletedByPeer, &mut ctx);
            if let Some(end) = end {
                ctx.done(&end.requests, &Ok(()));
            }
        }
        self.sas.insert(from, old);
        self.touched.extend([from, to]);
    }

    /// Stores what changed.
    fn store(&mut self, id: IkeId) {
        let Some(sa) = self.sas.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut sa.dirty) {
            return;
        }
        let action = if sa.is_durable() {
            self.stored.insert(id);
            Action::Checkpoint {
                bytes: checkpoint::write(sa),
            }
        } else if self.stored.remove(&id) {
            Action::Forget
        } else {
            return;
        };
        self.shared.outputs.push_back(Output {
            ike: Some(id),
            action,
        });
    }

    /// Sends what waits, follows the timers, and drops an IKE SA that is closed.
    fn send(&mut self, id: IkeId) {
        let Some(sa) = self.sas.get_mut(&id) else {
            return;
        };
        for datagram in sa.outbox.drain(..) {
            let action = Action::Transmit {
                local: datagram.local,
                remote: datagram.remote,
                bytes: datagram.bytes,
            };
            self.shared.outputs.push_back(Output {
                ike: Some(id),
                action,
            });
        }
        let next = sa.timers.next();
        let state = sa.state();
        if state != State::HalfOpen
            && state != State::Lingering
            && let Some(caller) = sa.caller.take()
        {
            self.half_open.remove(&caller);
        }
        if let Some(old) = self.timer_of.remove(&id) {
            self.timers.remove(&(old, id));
        }
        if state == State::Closed {
            if let Some(sa) = self.sas.remove(&id) {
                self.by_spi.remove(&sa.spi_local);
            }
        } else if let Some(at) = next {
            self.timers.insert((at, id));
            self.timer_of.insert(id, at);
        }
    }

    fn log(&mut self, level: Level, text: String) {
        let action = Action::Log {
            level,
            connection: String::new(),
            text,
        };
        self.shared.outputs.push_back(Output { ike: None, action });
    }

    /// Closes an IKE SA: with a DELETE if the peer knows it.
    fn terminate_ike(&mut self, now: Time, host: &mut dyn Host, id: IkeId, request: Option<u64>) {
        self.with(now, host, id, |sa, ctx| match sa.state() {
            State::Established | State::Replaced => {
                sa.push(Task::new(TaskKind::DeleteIke, request), ctx);
            }
            State::Deleting => {
                if let Some(task) = sa
                    .pending
                    .as_mut()
                    .and_then(|pending| pending.task.as_mut())
                {
                    task.requests.extend(request);
                } else {
                    ctx.done(request.as_slice(), &Ok(()));
                }
            }
            State::Initiated
            | State::Authenticating
            | State::HalfOpen
            | State::Lingering
            | State::Closed => {
                ctx.done(request.as_slice(), &Ok(()));
                sa.close(Reason::Cancelled, ctx);
            }
        });
    }

    /// Starts an IKE SA as initiator.
    fn call(&mut self, now: Time, host: &mut dyn Host, attempt: Attempt) {
        let full = self.sas.len() >= self.shared.settings.ike_sa_limit;
        let mut ctx = Context {
            now,
            host,
            shared: &mut self.shared,
        };
        let started = if full {
            Err((attempt, Reason::Limit))
        } else {
            IkeSa::initiate(attempt, &mut ctx)
        };
        match started {
            Ok(sa) => self.adopt(sa),
            Err((attempt, reason)) => {
                let name = attempt.connection.name.clone();
                let text = format!("cannot initiate {name}: {reason}");
                ctx.log(Level::Warn, &name, text.clone());
                let tasks: VecDeque<Task> = attempt.tasks;
                for task in &tasks {
                    ctx.failed(&task.requests, reason, text.clone());
                }
            }
        }
    }
}

/// Names of all children with those of their connections.
fn names(connections: &[Arc<Connection>]) -> impl Iterator<Item = (String, String)> {
    connections.iter().flat_map(|connection| {
        let names = connection.children.iter();
        names.map(|child| (connection.name.clone(), child.name.clone()))
    })
}

//! One IKE SA: its state, its message numbers, what it waits for, and its children.
//!
//! ```text
//! initiator   Initiated --> Authenticating --+
//!                                            +--> Established --> Deleting --> Closed
//! responder   HalfOpen ----------------------+        |              ^
//!                 |                                   +-> Replaced --+
//!                 +--> Lingering --> Closed   (also after a DELETE of the peer)
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use crate::auth::Identity;
use crate::child_sa::{Child, Pair};
use crate::config::Connection;
use crate::context::{Context, Effect, Parties};
use crate::event::{Action, ChildId, IkeId, Level, PathSpec};
use crate::exchange::{Handshake, Pending};
use crate::host::Time;
use crate::keys::Keys;
use crate::nat::Nat;
use crate::task::{Task, TaskKind, Tasks};
use crate::timer::{Timer, Timers};
use crate::verdict::Reason;

/// Children of one IKE SA; more are refused with NO_ADDITIONAL_SAS. So many fit into a checkpoint,
/// each with a second pair while it is rekeyed.
pub(crate) const MAX_CHILDREN: usize = 100;

/// Where an IKE SA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Initiator: IKE_SA_INIT is sent.
    Initiated,
    /// Initiator: IKE_AUTH is sent.
    Authenticating,
    /// Responder: IKE_SA_INIT is answered.
    HalfOpen,
    /// Both sides are authenticated.
    Established,
    /// Rekeyed: its children have moved, its DELETE is to come.
    Replaced,
    /// Our DELETE is outstanding.
    Deleting,
    /// Over: refused, or deleted by the peer. Repetitions of the last request still get the same
    /// answer for a while.
    Lingering,
    /// To be forgotten.
    Closed,
}

impl State {
    /// Number of states.
    pub const COUNT: usize = 8;

    const fn index(self) -> usize {
        self as usize
    }
}

/// How often each state was entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([u64; State::COUNT]);

impl StateCounts {
    /// Times that an IKE SA has entered the state.
    #[must_use]
    pub fn entered(&self, state: State) -> u64 {
        self.0.get(state.index()).copied().unwrap_or(0)
    }

    fn count(&mut self, state: State) {
        if let Some(count) = self.0.get_mut(state.index()) {
            *count += 1;
        }
    }
}

/// A datagram that waits for the checkpoint before it.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// An IKE SA.
#[derive(Debug)]
pub(crate) struct IkeSa {
    pub(crate) id: IkeId,
    /// We are the original initiator (RFC 7296 3.1).
    pub(crate) initiator: bool,
    pub(crate) spi_local: u64,
    /// 0 until the responder has chosen it.
    pub(crate) spi_remote: u64,
    state: State,
    pub(crate) connection: Arc<Connection>,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) nat: Nat,
    pub(crate) keys: Option<Keys>,
    pub(crate) local_id: Option<Identity>,
    pub(crate) remote_id: Option<Identity>,
    /// The peer can do without a first child (RFC 6023).
    pub(crate) peer_childless: bool,
    /// Kept until both sides are authenticated.
    pub(crate) handshake: Option<Box<Handshake>>,
    /// Message ID of our next request (RFC 7296 2.2).
    pub(crate) next_request: u32,
    /// Message ID of the peer's next request.
    pub(crate) next_expected: u32,
    pub(crate) pending: Option<Box<Pending>>,
    /// Our response to the request before `next_expected`, for when it comes again (RFC 7296 2.1).
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) tasks: Tasks,
    pub(crate) children: Vec<Child>,
    pub(crate) timers: Timers,
    pub(crate) established: Time,
    /// When the peer was last heard.
    pub(crate) heard: Time,
    /// Packets of the children at that time.
    pub(crate) heard_packets: u64,
    /// Sequences of retransmissions that went unanswered before this one (`keyingtries`).
    pub(crate) tries: u32,
    /// Responder: how a repetition of the first message finds this IKE SA.
    pub(crate) caller: Option<(SocketAddr, u64)>,
    /// Made by the peer while our own rekey of its predecessor was outstanding: the children will
    /// come, or it will be deleted. Until then nothing is done about it.
    pub(crate) unsettled: bool,
    /// The IKE SA that took over the children.
    pub(crate) successor: Option<IkeId>,
    /// Something changed that has to be stored.
    pub(crate) dirty: bool,
    pub(crate) outbox: Vec<Datagram>,
}

/// What every new IKE SA needs.
pub(crate) struct Start {
    pub(crate) initiator: bool,
    pub(crate) spi_local: u64,
    pub(crate) spi_remote: u64,
    pub(crate) connection: Arc<Connection>,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: State,
}

impl IkeSa {
    pub(crate) fn new(start: Start, ctx: &mut Context<'_>) -> Self {
        let id = ctx.next_ike();
        Self::with_id(id, start, ctx)
    }

    /// An IKE SA that had this number before.
    pub(crate) fn with_id(id: IkeId, start: Start, ctx: &mut Context<'_>) -> Self {
        ctx.shared.counts.count(start.state);
        Self {
            id,
            initiator: start.initiator,
            spi_local: start.spi_local,
            spi_remote: start.spi_remote,
            state: start.state,
            connection: start.connection,
            local: start.local,
            remote: start.remote,
            nat: Nat::default(),
            keys: None,
            local_id: None,
            remote_id: None,
            peer_childless: false,
            handshake: None,
            next_request: 0,
            next_expected: 0,
            pending: None,
            answer: None,
            tasks: Tasks::default(),
            children: Vec::new(),
            timers: Timers::default(),
            established: ctx.now,
            heard: ctx.now,
            heard_packets: 0,
            tries: 0,
            caller: None,
            unsettled: false,
            successor: None,
            dirty: false,
            outbox: Vec::new(),
        }
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// The one place that changes the state: it logs and counts.
    pub(crate) fn set_state(&mut self, state: State, ctx: &mut Context<'_>) {
        if self.state == state {
            return;
        }
        ctx.shared.counts.count(state);
        let text = format!("{:?} -> {state:?}", self.state);
        self.log(ctx, Level::Debug, text);
        self.state = state;
        self.dirty = true;
    }

    pub(crate) fn log(&self, ctx: &mut Context<'_>, level: Level, text: impl AsRef<str>) {
        let text = format!("IKE SA {}: {}", self.id, text.as_ref());
        ctx.log(level, &self.connection.name, text);
    }

    /// SPIs in the order of the header.
    pub(crate) const fn spis(&self) -> (u64, u64) {
        if self.initiator {
            (self.spi_local, self.spi_remote)
        } else {
            (self.spi_remote, self.spi_local)
        }
    }

    /// Outer addresses for the children.
    pub(crate) const fn path(&self) -> PathSpec {
        PathSpec {
            local: self.local,
            remote: self.remote,
            udp_encapsulation: self.nat.encapsulate,
        }
    }

    /// Identities, once both are known.
    pub(crate) fn parties(&self) -> Option<Parties> {
        Some((
            self.local_id.as_ref()?.to_string(),
            self.remote_id.as_ref()?.to_string(),
        ))
    }

    /// Has something that is worth a checkpoint: it is authenticated and not at its end.
    pub(crate) const fn is_durable(&self) -> bool {
        match self.state {
            State::Established | State::Replaced | State::Deleting => true,
            State::Initiated
            | State::Authenticating
            | State::HalfOpen
            | State::Lingering
            | State::Closed => false,
        }
    }

    pub(crate) fn send(&mut self, bytes: Vec<u8>) {
        self.send_to(self.local, self.remote, bytes);
    }

    pub(crate) fn send_to(&mut self, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        self.outbox.push(Datagram {
            local,
            remote,
            bytes,
        });
    }

    /// Queues a task; tells who asked for it if there is no room.
    pub(crate) fn push(&mut self, task: Task, ctx: &mut Context<'_>) {
        if let Err(task) = self.tasks.push(task) {
            let text = format!("{} tasks wait already", crate::task::MAX_TASKS);
            ctx.failed(&task.requests, Reason::Limit, text);
        }
        self.dirty = true;
    }

    /// Queues a task that nobody asked for.
    pub(crate) fn push_own(&mut self, kind: TaskKind, ctx: &mut Context<'_>) {
        self.push(Task::new(kind, None), ctx);
    }

    pub(crate) fn child(&self, id: ChildId) -> Option<&Child> {
        self.children.iter().find(|child| child.id == id)
    }

    pub(crate) fn child_mut(&mut self, id: ChildId) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id == id)
    }

    /// The child that has a pair with this inbound SPI.
    pub(crate) fn child_with(&mut self, inbound_spi: u32) -> Option<&mut Child> {
        self.children
            .iter_mut()
            .find(|child| child.pair(inbound_spi).is_some())
    }

    /// Child and inbound SPI of the pair that the peer names by its SPI.
    pub(crate) fn pair_of_peer(&self, outbound_spi: u32) -> Option<(ChildId, &Pair)> {
        self.children
            .iter()
            .find_map(|child| Some((child.id, child.pair_of_peer(outbound_spi)?)))
    }

    /// Takes a child out of the dataplane and forgets it.
    pub(crate) fn remove_child(&mut self, id: ChildId, ctx: &mut Context<'_>) -> Option<Child> {
        let found = self.children.iter().position(|child| child.id == id)?;
        let mut child = self.children.remove(found);
        for pair in &child.pairs {
            self.timers.take_child(pair.inbound_spi);
        }
        child.remove(self.id, ctx);
        ctx.shared.owners.remove(&id);
        self.dirty = true;
        Some(child)
    }

    /// A replaced pair takes late packets for a while.
    pub(crate) fn drain_pair(&mut self, inbound_spi: u32, ctx: &mut Context<'_>) {
        let ike = self.id;
        self.timers.take_child(inbound_spi);
        let Some(child) = self.child_with(inbound_spi) else {
            return;
        };
        child.stop_sending(ike, inbound_spi, ctx);
        if let Some(pair) = child.pair_mut(inbound_spi) {
            pair.state = crate::child_sa::PairState::Draining;
        }
        let end = ctx.now.after_s(ctx.shared.settings.drain_s);
        self.timers.set(Timer::Drain(inbound_spi), end);
        self.dirty = true;
    }

    /// Tells the dataplane where the peer is now (RFC 7296 2.23).
    pub(crate) fn follow(&mut self, local: SocketAddr, remote: SocketAddr, ctx: &mut Context<'_>) {
        if (self.local, self.remote) == (local, remote) {
            return;
        }
        self.log(ctx, Level::Info, format!("the peer is at {remote} now"));
        self.local = local;
        self.remote = remote;
        self.dirty = true;
        let path = self.path();
        for child in &self.children {
            ctx.emit(
                self.id,
                Action::UpdatePath {
                    child: child.id,
                    path,
                },
            );
        }
    }

    /// Takes everything down at once, without a word to the peer. Commands that still wait fail.
    pub(crate) fn close(&mut self, reason: Reason, ctx: &mut Context<'_>) {
        if self.state == State::Closed {
            return;
        }
        self.set_state(State::Closed, ctx);
        while let Some(id) = self.children.last().map(|child| child.id) {
            self.remove_child(id, ctx);
        }
        if let Some(rival) = self.take_ike_rival() {
            ctx.effect(Effect::Discard(rival.sa));
        }
        if let Some(pending) = self.pending.take() {
            pending.abandon(ctx);
            if let Some(task) = &pending.task {
                finish(task, reason, ctx);
            }
        }
        for task in self.tasks.drain() {
            finish(&task, reason, ctx);
        }
        if let Some(parties) = self.parties() {
            ctx.shared.unregister(&parties, self.id);
        }
    }

    /// Takes everything down, but keeps the last answer for repetitions of the request that ended
    /// it.
    pub(crate) fn linger(&mut self, reason: Reason, ctx: &mut Context<'_>) {
        self.close(reason, ctx);
        self.set_state(State::Lingering, ctx);
        self.timers = Timers::default();
        let linger_s = ctx.shared.settings.half_open_timeout_s;
        self.timers.set(Timer::GiveUp, ctx.now.after_s(linger_s));
    }

    /// The outstanding request is for the same thing: whoever asks now is answered with it.
    pub(crate) fn is_asking_for(&mut self, kind: &TaskKind, requests: &[u64]) -> bool {
        let task = self
            .pending
            .as_mut()
            .and_then(|pending| pending.task.as_mut());
        let Some(task) = task.filter(|task| task.kind == *kind) else {
            return false;
        };
        task.requests.extend_from_slice(requests);
        true
    }
}

/// Answers who waits for a task of an IKE SA that has come to its end.
fn finish(task: &Task, reason: Reason, ctx: &mut Context<'_>) {
    let wanted = matches!(
        task.kind,
        TaskKind::DeleteIke | TaskKind::DeleteChild { .. }
    );
    if wanted {
        ctx.done(&task.requests, &Ok(()));
    } else {
        ctx.failed(&task.requests, reason, reason.to_string());
    }
}

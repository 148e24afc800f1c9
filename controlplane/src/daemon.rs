//! The daemon: everything that the protocol asks for is done here, in order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::id::SaId;
use api::record::{Event, Status};
use api::state::StateView;
use ike::Endpoint;
use ike::{Action, ChildId, IkeId, Level, Output, SaEvent, Time, Verdict};
use tokio::sync::mpsc;

use crate::admin::{LogLine, Reply};
use crate::admin_server::Call;
use crate::book::{Book, Order, Subject};
use crate::config::Config;
use crate::host::Services;
use crate::link::{Link, LinkEvent};
use crate::order::Sequencer;
use crate::routes::Routes;
use crate::sockets::IkeSockets;
use crate::store::Store;

/// Datagrams that one turn takes from the sockets.
const BURST: usize = 64;
/// How long a shutdown waits for the peers to agree.
const SHUTDOWN: Duration = Duration::from_secs(3);
/// How long the dataplane may take to remove what is left then.
const REMOVAL: Duration = Duration::from_millis(500);
/// How long the answer to a handover may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What waits for commands to the dataplane.
pub(crate) enum Late {
    Transmit {
        local: SocketAddr,
        remote: SocketAddr,
        bytes: Vec<u8>,
    },
    Done {
        request: u64,
        result: Result<(), Verdict>,
    },
}

/// A command of an operator that is not finished.
pub(crate) struct Pending {
    pub(crate) replies: mpsc::UnboundedSender<Reply>,
    pub(crate) until: Instant,
}

/// How the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Peers are told, SAs are removed.
    Shutdown,
    /// The next process goes on with the SAs.
    Handover,
}

pub(crate) struct Daemon {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: Services,
    pub(crate) book: Book,
    pub(crate) link: Link,
    pub(crate) sequencer: Sequencer<Late>,
    pub(crate) sockets: IkeSockets,
    pub(crate) routes: Routes,
    pub(crate) store: Store,
    pub(crate) pending: HashMap<u64, Pending>,
    pub(crate) last_request: u64,
    pub(crate) config_path: PathBuf,
    pub(crate) config: Config,
    pub(crate) started: Instant,
    pub(crate) end: Option<End>,
    /// Who asked for the end, and must get the answer before it.
    pub(crate) farewell: Option<mpsc::UnboundedSender<Reply>>,
    /// Whether there ever was a dataplane.
    pub(crate) attached: bool,
}

/// The endpoint's clock.
pub(crate) fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (s, ns) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Time(s.saturating_mul(1000).saturating_add(ns / 1_000_000))
}

impl Daemon {
    /// Waits for the first session with a dataplane: before that there is nothing to do, and what
    /// the last process left is not known.
    pub(crate) async fn await_dataplane(&mut self, signals: &mut Signals) -> Option<End> {
        while !self.attached {
            tokio::select! {
                () = self.link.wait() => self.link_events(),
                _ = signals.terminate.recv() => return Some(End::Shutdown),
                _ = signals.interrupt.recv() => return Some(End::Shutdown),
            }
        }
        None
    }

    /// Runs until told to end.
    pub(crate) async fn run(
        &mut self,
        mut calls: mpsc::Receiver<Call>,
        mut signals: Signals,
    ) -> End {
        loop {
            self.settle();
            if let Some(end) = self.end {
                return self.finish(end).await;
            }
            let pause = self.pause();
            tokio::select! {
                datagrams = self.sockets.receive(BURST) => self.receive(datagrams),
                () = tokio::time::sleep(pause) => self.timers(),
                () = self.link.wait() => self.link_events(),
                Some(call) = calls.recv() => self.call(call),
                _ = signals.hangup.recv() => self.reload(None),
                _ = signals.terminate.recv() => self.end = Some(End::Shutdown),
                _ = signals.interrupt.recv() => self.end = Some(End::Shutdown),
            }
        }
    }

    /// Until the next timer, of the endpoint or of a command.
    fn pause(&self) -> Duration {
        let timer = self.endpoint.poll_timeout().map_or(IDLE, |at| {
            // One more, so that a timer is due when we wake.
            Duration::from_millis(at.since_ms(now()).saturating_add(1))
        });
        let first = self.pending.values().map(|pending| pending.until).min();
        first
            .map_or(timer, |at| {
                at.saturating_duration_since(Instant::now()).min(timer)
            })
            .min(IDLE)
    }

    fn receive(&mut self, datagrams: Vec<crate::sockets::Datagram>) {
        for datagram in datagrams {
            let crate::sockets::Datagram {
                local,
                remote,
                bytes,
            } = datagram;
            self.endpoint
                .handle_datagram(now(), &mut self.host, local, remote, &bytes);
            self.settle();
        }
    }

    fn timers(&mut self) {
        self.endpoint.handle_timeout(now(), &mut self.host);
        let late = Instant::now();
        self.pending.retain(|_, pending| {
            let alive = pending.until > late && !pending.replies.is_closed();
            if pending.until <= late {
                let _ = pending.replies.send(Reply::Error(
                    "not finished within the timeout; it goes on (see the log)".to_owned(),
                ));
            }
            alive
        });
    }

    /// Does all that the endpoint wants done, then all that need not wait any more.
    fn settle(&mut self) {
        loop {
            self.drain();
            if let Some(region) = self.store.take_fresh() {
                self.link.park(region);
            }
            self.link.flush();
            let ready = self.sequencer.ready();
            if ready.is_empty() {
                return;
            }
            for late in ready {
                self.act_late(late);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            self.act(output);
        }
    }

    fn act(&mut self, Output { ike, action }: Output) {
        match action {
            Action::Transmit {
                local,
                remote,
                bytes,
            } => {
                self.sequencer.push(
                    ike,
                    Late::Transmit {
                        local,
                        remote,
                        bytes,
                    },
                );
            }
            Action::Keepalive { local, remote } => {
                self.sequencer.push(
                    ike,
                    Late::Transmit {
                        local,
                        remote,
                        bytes: vec![0xff],
                    },
                );
            }
            Action::Done { request, result } => {
                self.sequencer.push_last(Late::Done { request, result });
            }
            Action::Checkpoint { bytes } => {
                if let Some(IkeId(id)) = ike {
                    self.store.put(id, &bytes);
                }
            }
            Action::Forget => {
                if let Some(IkeId(id)) = ike {
                    self.store.remove(id);
                }
                self.sequencer.forget(ike);
            }
            Action::Log {
                level,
                connection,
                text,
            } => self.log(level, &connection, &text),
            other => self.program(ike, other),
        }
    }

    /// Changes of the dataplane's tables.
    fn program(&mut self, ike: Option<IkeId>, action: Action) {
        let orders = match action {
            Action::InstallChild(install) => {
                let child = install.spec.child.0;
                self.host.installed(install.pair.inbound.spi);
                let orders =
                    self.book
                        .install(install.spec, Some(install.pair), &mut self.host.pool);
                self.add_routes(child);
                orders
            }
            Action::InstallTrap(spec) => {
                let child = spec.child.0;
                let orders = self.book.install(*spec, None, &mut self.host.pool);
                self.add_routes(child);
                orders
            }
            Action::InstallRekeyed(rekeyed) => {
                self.host.installed(rekeyed.pair.inbound.spi);
                self.book.rekeyed(&rekeyed, &mut self.host.pool)
            }
            Action::ActivateOutbound { child, spi } => self.book.activate(child.0, spi),
            Action::RemoveSa {
                child,
                spi,
                inbound,
            } => self.book.remove_sa(child.0, spi, inbound),
            Action::RemoveChild { child } => {
                self.routes.remove(child.0);
                self.book.remove_child(child.0)
            }
            Action::UpdatePath { child, path } => self.book.update_path(child.0, path),
            Action::Transmit { .. }
            | Action::Keepalive { .. }
            | Action::Checkpoint { .. }
            | Action::Forget
            | Action::Done { .. }
            | Action::Log { .. } => Vec::new(),
        };
        self.order(ike, orders);
    }

    pub(crate) fn order(&mut self, ike: Option<IkeId>, orders: Vec<Order>) {
        for order in orders {
            let tag = self.sequencer.begin(ike);
            self.link.submit(tag, order);
        }
    }

    fn add_routes(&self, child: u32) {
        let Some((peer, selectors)) = self.book.ways(child) else {
            return;
        };
        let local = selectors.iter().map(|pair| pair.local).collect();
        let remote = selectors.iter().map(|pair| pair.remote).collect();
        self.routes.add(child, peer, local, remote);
    }

    fn act_late(&mut self, late: Late) {
        match late {
            Late::Transmit {
                local,
                remote,
                bytes,
            } => {
                if let Err(error) = self.sockets.send(local, remote, &bytes) {
                    tracing::debug!("{local} to {remote}: {error}");
                }
            }
            Late::Done { request, result } => {
                let Some(pending) = self.pending.remove(&request) else {
                    return;
                };
                let _ = pending.replies.send(match result {
                    Ok(()) => Reply::Ok(true),
                    Err(verdict) => Reply::Error(verdict.to_string()),
                });
            }
        }
    }

    pub(crate) fn log(&mut self, level: Level, connection: &str, text: &str) {
        let word = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
        };
        let text = match connection {
            "" => text.to_owned(),
            name => format!("{name}: {text}"),
        };
        match level {
            Level::Debug => tracing::debug!("{text}"),
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
        }
        for pending in self.pending.values() {
            let line = LogLine {
                level: word.to_owned(),
                text: text.clone(),
            };
            let _ = pending.replies.send(Reply::Log(line));
        }
    }

    /// What the dataplane said.
    pub(crate) fn link_events(&mut self) {
        let store = &self.store;
        for event in self.link.events(|| store.region()) {
            match event {
                LinkEvent::Up { state, parked } => self.attach(state, parked),
                LinkEvent::Down => tracing::warn!("dataplane: gone; waiting for it"),
                LinkEvent::Ended { tag, failed } => {
                    self.sequencer.end(tag);
                    if let Some((subject, status)) = failed {
                        self.failed(subject, status);
                    }
                }
                LinkEvent::Resynced { lost } => {
                    for tag in lost {
                        self.sequencer.end(tag);
                    }
                    self.release_unknown();
                }
                LinkEvent::Dataplane(event) => self.dataplane_event(&event),
            }
        }
    }

    /// A session with a dataplane begins: with what the last process left, if this one is new, and
    /// with all that the book has.
    fn attach(&mut self, state: StateView, parked: Option<OwnedFd>) {
        self.host.attach(state);
        if !self.attached {
            self.attached = true;
            let snapshots = self.store.begin(parked);
            let count = snapshots.len();
            let snapshots: Vec<&[u8]> = snapshots.iter().map(|plain| plain.as_slice()).collect();
            self.load();
            self.endpoint.restore(now(), &mut self.host, &snapshots);
            // Into the book only: the link is not open yet, and the resync says it all.
            for output in self.endpoint.children_to_install() {
                self.act(output);
            }
            self.endpoint.start(now(), &mut self.host);
            self.drain();
            self.routes.sweep();
            tracing::info!("{count} IKE SAs restored");
        }
        tracing::info!("dataplane: connected, {} children", self.book.len());
        self.link.open();
        let orders = self.book.resync();
        self.order(None, orders);
    }

    /// Rows that neither the book nor the dataplane has any more.
    fn release_unknown(&mut self) {
        for id in self.host.pool.taken() {
            let inbound = SaId(id.0 & !(1 << 8));
            if !self.book.holds(id) && !self.host.promised(inbound.0) {
                self.host.pool.release(id);
            }
        }
    }

    fn failed(&mut self, subject: Subject, status: Status) {
        let event = match subject {
            Subject::Pair { child, inbound_spi } => SaEvent::InstallFailed {
                child: ChildId(child),
                inbound_spi,
            },
            // Whatever the reason, the dataplane does not have it: a new key, not the end.
            Subject::Adopted { child, spi, .. } => SaEvent::Uncertain {
                child: ChildId(child),
                spi,
            },
            Subject::RemovalOf(id) => {
                // It never was there, so no `Deleted` will come.
                if status == Status::NotFound {
                    self.host.pool.release(id);
                }
                return;
            }
            Subject::Removal | Subject::Resync => {
                tracing::debug!("dataplane: {subject:?}: {status}");
                return;
            }
        };
        tracing::warn!("dataplane: {subject:?}: {status}");
        self.endpoint.handle_sa_event(now(), &mut self.host, event);
    }

    fn dataplane_event(&mut self, event: &Event) {
        let event = match *event {
            Event::Deleted { sa } => {
                self.host.pool.release(sa);
                return;
            }
            Event::Expire { sa, hard } => {
                let Some((child, spi)) = self.book.owner(sa) else {
                    return;
                };
                SaEvent::Expire {
                    child: ChildId(child),
                    spi,
                    hard,
                }
            }
            Event::Acquire { child, .. } => {
                if !self.book.is_trap(child.0) {
                    return;
                }
                SaEvent::Acquire {
                    child: ChildId(child.0),
                }
            }
            Event::MappingChanged { sa, remote, port } => {
                let Some((child, _)) = self.book.owner(sa) else {
                    return;
                };
                let remote = SocketAddr::new(remote, port);
                SaEvent::NewRemote {
                    child: ChildId(child),
                    remote,
                }
            }
            Event::Completed { .. } | Event::Row { .. } => return,
        };
        self.endpoint.handle_sa_event(now(), &mut self.host, event);
    }

    /// What the peers did not agree to in time ends all the same.
    async fn end_rest(&mut self) {
        self.store.clear();
        let orders = self.book.remove_all();
        self.order(None, orders);
        let last = Instant::now() + REMOVAL;
        self.link.flush();
        while !self.link.is_idle() && Instant::now() < last {
            let pause = last.saturating_duration_since(Instant::now());
            if tokio::time::timeout(pause, self.link.wait()).await.is_ok() {
                self.link_events();
                self.link.flush();
            }
        }
    }

    async fn finish(&mut self, end: End) -> End {
        if end == End::Handover {
            if let Some(replies) = self.farewell.take() {
                let _ = tokio::time::timeout(FAREWELL, replies.closed()).await;
            }
            tracing::info!(
                "handover: {} children stay for the next process",
                self.book.len()
            );
            return end;
        }
        tracing::info!("shutting down");
        self.endpoint.shutdown(now(), &mut self.host);
        let last = Instant::now() + SHUTDOWN;
        loop {
            self.settle();
            let idle = self.endpoint.is_idle() && self.link.is_idle();
            let left = last.saturating_duration_since(Instant::now());
            if idle || left.is_zero() {
                break;
            }
            let pause = self.pause().min(left);
            tokio::select! {
                datagrams = self.sockets.receive(BURST) => self.receive(datagrams),
                () = tokio::time::sleep(pause) => self.timers(),
                () = self.link.wait() => self.link_events(),
            }
        }
        self.end_rest().await;
        self.routes.clear().await;
        end
    }
}

/// The signals that the daemon heeds.
pub(crate) struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// # Errors
    /// No handler could be installed.
    pub(crate) fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

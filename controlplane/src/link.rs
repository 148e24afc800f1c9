//! The way to the dataplane: the contract's session, made again whenever the dataplane is new.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use api::record::{Event, Status};
use api::region::CommandSizes;
use api::session::{Connection, MAX_OLDER, Message, SessionError};
use api::side::{IkePreparation, IkeSide, PollError, SideError, SubmitError};
use api::state::StateView;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::book::{Order, Subject};
use crate::order::Tag;

/// Between two attempts to reach the dataplane.
const RETRY: Duration = Duration::from_millis(50);
/// A dataplane that does not welcome us within this is tried again.
const WELCOME: Duration = Duration::from_secs(2);
/// Events that one turn takes, so that messages get their turn too.
const EVENTS: usize = 1024;

/// What the link tells the daemon.
pub(crate) enum LinkEvent {
    /// A session begins; commands go nowhere before [`Link::open`].
    Up {
        state: StateView,
        parked: Option<OwnedFd>,
    },
    /// The dataplane is gone.
    Down,
    /// A command has taken effect, or failed.
    Ended {
        tag: Tag,
        failed: Option<(Subject, Status)>,
    },
    /// Everything has been said again; commands that an earlier dataplane took with it are settled.
    Resynced { lost: Vec<Tag> },
    /// Something else than the end of a command.
    Dataplane(Event),
}

/// The session's socket, in the form that tokio watches.
struct Wire(Connection);

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

enum State {
    Down {
        retry: Instant,
    },
    Greeting {
        connection: AsyncFd<Wire>,
        preparation: IkePreparation,
        until: Instant,
    },
    Up(Box<Session>),
}

struct Session {
    connection: AsyncFd<Wire>,
    side: IkeSide,
    bell: AsyncFd<OwnedFd>,
}

pub(crate) struct Link {
    path: PathBuf,
    state: State,
    /// Orders go out only between the start of a resync and the end of the session.
    open: bool,
    outbox: VecDeque<(Tag, Order)>,
    flying: HashMap<u64, (Tag, Subject)>,
    /// Commands that a resync settles.
    lost: Vec<Tag>,
    /// D regions of this and earlier dataplanes, newest first, until a resync is through.
    regions: Vec<StateView>,
    /// What was found out outside [`Link::events`].
    found: Vec<LinkEvent>,
    complained: bool,
}

impl Link {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: State::Down {
                retry: Instant::now(),
            },
            open: false,
            outbox: VecDeque::new(),
            flying: HashMap::new(),
            lost: Vec::new(),
            regions: Vec::new(),
            found: Vec::new(),
            complained: false,
        }
    }

    /// Whether a session stands.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.flying.is_empty()
    }

    /// From now on orders go out, beginning with a resync.
    pub(crate) fn open(&mut self) {
        self.open = true;
    }

    /// Hands the dataplane a new P region to hold.
    pub(crate) fn park(&self, region: OwnedFd) {
        if let State::Up(session) = &self.state
            && let Err(error) = session.connection.get_ref().0.send(&Message::Park(region))
        {
            tracing::warn!("checkpoints could not be parked: {error}");
        }
    }

    /// Sends an order, as soon as there is room.
    pub(crate) fn submit(&mut self, tag: Tag, order: Order) {
        if self.open {
            self.outbox.push_back((tag, order));
        } else {
            self.lost.push(tag);
        }
    }

    /// Sends what there is room for.
    pub(crate) fn flush(&mut self) {
        let State::Up(session) = &mut self.state else {
            return;
        };
        while let Some((tag, order)) = self.outbox.pop_front() {
            match session.side.submit(&order.command) {
                Ok(number) => {
                    self.flying.insert(number, (tag, order.subject));
                }
                Err(SubmitError::Full) => {
                    self.outbox.push_front((tag, order));
                    return;
                }
                Err(SubmitError::Invalid(error)) => {
                    tracing::debug!("command refused before it left: {error}");
                    let failed = Some((order.subject, Status::from(error)));
                    self.found.push(LinkEvent::Ended { tag, failed });
                }
                Err(SubmitError::Corrupt(error)) => {
                    tracing::error!("dataplane: {error}");
                    self.outbox.push_front((tag, order));
                    self.go_down();
                    return;
                }
            }
        }
    }

    /// Waits until [`Link::events`] has something to do.
    pub(crate) async fn wait(&mut self) {
        if !self.found.is_empty() {
            return;
        }
        match &mut self.state {
            State::Down { retry } => sleep_until(*retry).await,
            State::Greeting {
                connection, until, ..
            } => {
                let _ = tokio::time::timeout_at(*until, connection.readable()).await;
            }
            State::Up(session) => {
                if !matches!(session.side.arm(), Ok(true)) {
                    return;
                }
                tokio::select! {
                    _ = session.bell.readable() => {}
                    _ = session.connection.readable() => {}
                }
            }
        }
    }

    /// Everything that has happened. `park` is the P region, if there is one already.
    pub(crate) fn events(&mut self, park: impl FnOnce() -> Option<OwnedFd>) -> Vec<LinkEvent> {
        match &self.state {
            State::Down { retry } if *retry <= Instant::now() => {
                if let Err(error) = self.greet(park()) {
                    self.complain(&error);
                    self.state = State::Down {
                        retry: Instant::now() + RETRY,
                    };
                }
            }
            State::Down { .. } => {}
            State::Greeting { .. } => self.welcome(),
            State::Up(_) => self.take_events(),
        }
        std::mem::take(&mut self.found)
    }

    fn complain(&mut self, error: &SideError) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::info!(
                "waiting for culvert-dataplane at {}: {error}",
                self.path.display()
            );
        }
    }

    fn greet(&mut self, park: Option<OwnedFd>) -> Result<(), SideError> {
        let connection = Connection::connect(&self.path)?;
        let preparation = IkePreparation::new(&CommandSizes::default())?;
        let older = self
            .regions
            .iter()
            .filter_map(|region| region.read_only_fd().ok())
            .collect();
        connection.send(&Message::Hello(preparation.hello(park, older)?))?;
        let connection = watch(Wire(connection))?;
        let until = Instant::now() + WELCOME;
        self.state = State::Greeting {
            connection,
            preparation,
            until,
        };
        Ok(())
    }

    fn welcome(&mut self) {
        let retry = Instant::now() + RETRY;
        let before = std::mem::replace(&mut self.state, State::Down { retry });
        let State::Greeting {
            connection,
            preparation,
            until,
        } = before
        else {
            return;
        };
        match receive(&connection) {
            Ok(None) if Instant::now() < until => {
                self.state = State::Greeting {
                    connection,
                    preparation,
                    until,
                };
            }
            Ok(None) => tracing::warn!("dataplane: no welcome; trying again"),
            Ok(Some(Message::Welcome(welcome))) => {
                if let Err(error) = self.begin(connection, preparation, welcome) {
                    tracing::error!("dataplane: {error}");
                }
            }
            Ok(Some(Message::Refused)) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!("dataplane: another culvert-ike still holds it; waiting");
                }
            }
            Ok(Some(_)) => tracing::error!("dataplane: an unexpected message; trying again"),
            Err(error) => tracing::debug!("dataplane: {error}"),
        }
    }

    fn begin(
        &mut self,
        connection: AsyncFd<Wire>,
        preparation: IkePreparation,
        welcome: api::session::Welcome,
    ) -> Result<(), SideError> {
        let (side, parked) = preparation.start(welcome)?;
        let bell = side.doorbell().try_clone_to_owned().map_err(system)?;
        let bell = watch(bell)?;
        let state = side.state().clone();
        self.remember(&state);
        self.complained = false;
        self.state = State::Up(Box::new(Session {
            connection,
            side,
            bell,
        }));
        self.found.push(LinkEvent::Up { state, parked });
        Ok(())
    }

    /// The newest region first; a session of the same dataplane has the same region.
    fn remember(&mut self, state: &StateView) {
        self.regions
            .retain(|region| region.generation() != state.generation());
        self.regions.insert(0, state.clone());
        self.regions.truncate(MAX_OLDER);
    }

    fn take_events(&mut self) {
        let State::Up(session) = &mut self.state else {
            return;
        };
        session.side.disarm();
        session
            .bell
            .try_io(Interest::READABLE, |_| Err::<(), _>(blocked()))
            .ok();
        let mut gone = false;
        for _ in 0..EVENTS {
            match session.side.poll() {
                Ok(Some(Event::Completed { command, status })) => {
                    let Some((tag, subject)) = self.flying.remove(&command) else {
                        continue;
                    };
                    if subject == Subject::Resync {
                        self.regions.truncate(1);
                        let lost = std::mem::take(&mut self.lost);
                        self.found.push(LinkEvent::Resynced { lost });
                    }
                    let failed = (!status.is_success()).then_some((subject, status));
                    self.found.push(LinkEvent::Ended { tag, failed });
                }
                Ok(Some(event)) => self.found.push(LinkEvent::Dataplane(event)),
                Ok(None) => break,
                Err(PollError::Invalid(error)) => tracing::warn!("dataplane: {error}"),
                Err(PollError::Corrupt(error)) => {
                    tracing::error!("dataplane: {error}");
                    gone = true;
                    break;
                }
            }
        }
        if session.side.take_scan_due() {
            self.found.extend(flagged(session.side.state()));
        }
        gone |= is_closed(&session.connection);
        if gone {
            self.go_down();
        }
        self.flush();
    }

    fn go_down(&mut self) {
        self.state = State::Down {
            retry: Instant::now(),
        };
        self.open = false;
        self.lost
            .extend(self.flying.drain().map(|(_, (tag, _))| tag));
        self.lost.extend(self.outbox.drain(..).map(|(tag, _)| tag));
        self.found.push(LinkEvent::Down);
    }
}

/// Events that the rows' flags tell, after events were lost or before we were there.
fn flagged(state: &StateView) -> Vec<LinkEvent> {
    use api::state::Flags;
    let mut events = Vec::new();
    for row in state.flagged() {
        let sa = row.id;
        if row.flags.has(Flags::SOFT) {
            events.push(Event::Expire { sa, hard: false });
        }
        if row.flags.has(Flags::HARD) {
            events.push(Event::Expire { sa, hard: true });
        }
        if row.flags.has(Flags::DELETED) {
            events.push(Event::Deleted { sa });
        }
        if row.flags.has(Flags::MAPPING)
            && let Some((remote, port)) = row.mapping
        {
            events.push(Event::MappingChanged { sa, remote, port });
        }
    }
    events.into_iter().map(LinkEvent::Dataplane).collect()
}

/// Readiness of a descriptor that its owner never replaces.
#[expect(
    deprecated,
    reason = "the replacement asks for a promise that types make here"
)]
fn watch<T: AsRawFd>(owner: T) -> Result<AsyncFd<T>, SideError> {
    AsyncFd::with_interest(owner, Interest::READABLE).map_err(system)
}

fn receive(connection: &AsyncFd<Wire>) -> Result<Option<Message>, SessionError> {
    let message = connection.get_ref().0.receive()?;
    if message.is_none() {
        connection
            .try_io(Interest::READABLE, |_| Err::<(), _>(blocked()))
            .ok();
    }
    Ok(message)
}

fn is_closed(connection: &AsyncFd<Wire>) -> bool {
    receive(connection).is_err()
}

/// What makes tokio wait for the next edge.
fn blocked() -> io::Error {
    io::Error::from(io::ErrorKind::WouldBlock)
}

fn system(error: io::Error) -> SideError {
    let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
    SideError::Session(SessionError::System {
        doing: "watch a descriptor",
        errno,
    })
}

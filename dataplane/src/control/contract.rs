//! The dataplane's side of the contract: one IKE process at a time, its commands and our events.
//!
//! Commands are applied in the order in which they came. A batch of them is complete when all
//! workers have seen it; then its completions leave, in order, and what it deleted is free. Packets
//! need no IKE: when it dies, everything it installed stays until the next one says otherwise.

use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use api::id::SaId;
use api::record::{Event, Row, Status};
use api::ring::Corrupt;
use api::session::{Connection, Hello, Listener, Message, SessionError};
use api::side::{DataplaneSide, SideError};

use super::fixed;
use crate::links::Notice;
use crate::quiescence::Grace;
use crate::tables::writer::TablesWriter;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "dataplane.sock";
/// Most commands applied before workers must have seen them.
const BATCH_COMMANDS: usize = 1024;
/// Most batches that workers have not seen yet: more wait in the ring.
const BATCHES: usize = 8;
/// Most notices handed on in one turn.
const TURN_NOTICES: usize = 256;
/// Connections that have not said anything yet.
const MOST_NEWCOMERS: usize = 4;
/// How long a new connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often workers are asked whether they have seen a batch, when there is nothing else to do.
const GRACE_POLL: Duration = Duration::from_micros(50);

/// Commands that were applied together.
struct Batch {
    /// The session they came in; the next one does not know their numbers.
    session: u64,
    grace: Grace,
    outcomes: Outcomes,
}

/// What came of a batch's commands.
#[derive(Default)]
struct Outcomes {
    done: Vec<(u64, Status, Option<Box<Row>>)>,
    deleted: Vec<SaId>,
}

/// The contract: the socket, the rings, and what is under way.
pub struct Contract {
    listener: Listener,
    side: DataplaneSide,
    connection: Option<Connection>,
    newcomers: Vec<(Connection, Instant)>,
    session: u64,
    under_way: VecDeque<Batch>,
    /// Empty ones, to be used again.
    spare: Vec<Outcomes>,
    /// Lost events that the log knows of.
    overflows: u64,
}

impl Contract {
    /// Listens in the run directory.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(run_dir: &Path, side: DataplaneSide) -> Result<Self, SessionError> {
        Ok(Self {
            listener: Listener::bind(&run_dir.join(SOCKET))?,
            side,
            connection: None,
            newcomers: Vec::new(),
            session: 0,
            under_way: VecDeque::new(),
            spare: Vec::new(),
            overflows: 0,
        })
    }

    /// Whether an IKE process holds the contract.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Does what there is to do, without waiting. True if there may be more.
    pub fn turn(
        &mut self,
        writer: &mut TablesWriter,
        notices: &Receiver<Notice>,
        now: Instant,
    ) -> bool {
        self.listen_to_ike(writer);
        self.welcome_newcomers(writer, now);
        let result = self.work(writer, notices);
        let busy = result.unwrap_or_else(|corrupt| {
            log::error!("culvert-ike broke the contract, its session ends: {corrupt}");
            self.part(writer);
            false
        });
        // Nobody to tell: the rows' flags tell the next IKE.
        if !self.is_connected() {
            notices.try_iter().take(TURN_NOTICES).for_each(drop);
        }
        busy
    }

    /// How long to sleep while workers still have to see something.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        (!self.under_way.is_empty()).then_some(GRACE_POLL)
    }

    /// Call before sleeping: false if there is work.
    pub fn may_sleep(&mut self) -> bool {
        // A broken ring shows in the next turn, which must come soon.
        self.side.arm().unwrap_or(false)
    }

    /// Call after sleeping.
    pub fn awake(&mut self) {
        self.side.disarm();
    }

    /// What to wait on.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self
            .newcomers
            .iter()
            .map(|(connection, _)| connection.as_fd());
        let fixed = [self.listener.as_fd(), self.side.doorbell()];
        fixed
            .into_iter()
            .chain(sockets)
            .chain(self.connection.iter().map(AsFd::as_fd))
    }

    fn work(
        &mut self,
        writer: &mut TablesWriter,
        notices: &Receiver<Notice>,
    ) -> Result<bool, Corrupt> {
        self.finish_batches(writer)?;
        let applied = self.apply(writer)?;
        self.finish_batches(writer)?;
        self.tell(notices)?;
        Ok(applied > 0)
    }

    /// Applies what is in the ring as one batch.
    fn apply(&mut self, writer: &mut TablesWriter) -> Result<usize, Corrupt> {
        if self.under_way.len() >= BATCHES {
            return Ok(0);
        }
        let mut outcomes = self.spare.pop().unwrap_or_default();
        let Outcomes { done, deleted } = &mut outcomes;
        let mut health = Ok(());
        while done.len() < BATCH_COMMANDS {
            let (number, command) = match self.side.poll() {
                Ok(Some(next)) => next,
                Ok(None) => break,
                // What was applied before must still be ended, or its rows never come free.
                Err(corrupt) => {
                    health = Err(corrupt);
                    break;
                }
            };
            let outcome = match fixed::touched(&command) {
                Some(field) => Status::Invalid(field).into(),
                None => writer.apply(command),
            };
            done.push((number, outcome.status, outcome.row.map(Box::new)));
            deleted.extend(outcome.deleted);
        }
        let applied = done.len();
        if applied > 0 {
            writer.publish();
            let grace = writer.tables().quiescence.grace();
            self.under_way.push_back(Batch {
                session: self.session,
                grace,
                outcomes,
            });
        } else {
            self.spare.push(outcomes);
        }
        health.map(|()| applied)
    }

    /// Completes the batches that all workers have seen.
    fn finish_batches(&mut self, writer: &mut TablesWriter) -> Result<(), Corrupt> {
        while let Some(batch) = self.under_way.front() {
            if !batch.grace.passed(&writer.tables().quiescence) {
                break;
            }
            let Some(batch) = self.under_way.pop_front() else {
                break;
            };
            let Outcomes {
                mut done,
                mut deleted,
            } = batch.outcomes;
            for id in &deleted {
                writer.release(*id);
            }
            let current = batch.session == self.session && self.is_connected();
            if current {
                for (command, status, row) in done.drain(..) {
                    if let Some(row) = row {
                        self.side.event(&Event::Row { command, row: *row })?;
                    }
                    self.side.complete(command, status)?;
                }
            }
            // What a dead IKE deleted, the next one may want to know.
            for sa in deleted.drain(..) {
                self.side.event(&Event::Deleted { sa })?;
            }
            done.clear();
            self.spare.push(Outcomes { done, deleted });
        }
        Ok(())
    }

    /// Hands on what workers noticed.
    fn tell(&mut self, notices: &Receiver<Notice>) -> Result<(), Corrupt> {
        if !self.is_connected() {
            return Ok(());
        }
        for notice in notices.try_iter().take(TURN_NOTICES) {
            let event = match notice {
                Notice::Acquire {
                    policy,
                    child,
                    packet,
                } => Event::Acquire {
                    policy,
                    child,
                    packet,
                },
                Notice::Expire { sa, hard } => Event::Expire { sa, hard },
                Notice::MappingChanged { sa, remote, port } => {
                    Event::MappingChanged { sa, remote, port }
                }
            };
            self.side.event(&event)?;
        }
        let overflows = self.side.overflows();
        if overflows > self.overflows {
            log::warn!("{overflows} events found the ring full: culvert-ike looks at the rows");
        }
        self.overflows = overflows;
        Ok(())
    }

    /// Reads what the present IKE says over the socket, its end included.
    fn listen_to_ike(&mut self, writer: &mut TablesWriter) {
        while let Some(connection) = &self.connection {
            match connection.receive() {
                Ok(None) => return,
                Ok(Some(Message::Park(park))) => self.side.hold_park(park),
                Ok(Some(_)) => {
                    log::error!("culvert-ike said something out of place, its session ends");
                    self.part(writer);
                }
                Err(SessionError::Closed) => {
                    log::warn!("culvert-ike is gone; its SAs and policies stay in use");
                    self.part(writer);
                }
                Err(error) => {
                    log::error!("{error}");
                    self.part(writer);
                }
            }
        }
    }

    /// Ends the session. What it installed stays, what it staged does not.
    fn part(&mut self, writer: &mut TablesWriter) {
        self.connection = None;
        self.side.detach();
        writer.abandon();
    }

    fn welcome_newcomers(&mut self, writer: &mut TablesWriter, now: Instant) {
        loop {
            match self.listener.accept() {
                Ok(None) => break,
                Ok(Some(connection)) if self.newcomers.len() < MOST_NEWCOMERS => {
                    self.newcomers.push((connection, now));
                }
                Ok(Some(connection)) => refuse(&connection),
                Err(error) => {
                    log::warn!("{error}");
                    break;
                }
            }
        }
        for (connection, since) in std::mem::take(&mut self.newcomers) {
            match connection.receive() {
                Ok(Some(Message::Hello(hello))) => self.welcome(connection, hello, writer),
                Ok(None) if now.duration_since(since) < HELLO_TIMEOUT => {
                    self.newcomers.push((connection, since));
                }
                Ok(_) => log::warn!("a process connected to {SOCKET} and said no hello"),
                Err(error) => log::warn!("{error}"),
            }
        }
    }

    fn welcome(&mut self, connection: Connection, hello: Hello, writer: &mut TablesWriter) {
        if self.is_connected() {
            log::warn!("a second culvert-ike is refused: the first one lives");
            return refuse(&connection);
        }
        match self.start(&connection, hello) {
            Ok(()) => {
                let elders = self.side.elders().clone();
                let pid = connection
                    .peer_pid()
                    .map_or_else(String::new, |pid| pid.to_string());
                log::info!(
                    "culvert-ike (pid {pid}) holds the contract, session {}, {} older regions",
                    self.session,
                    elders.len()
                );
                writer.abandon();
                writer.set_elders(elders);
                self.connection = Some(connection);
            }
            Err(error) => {
                log::error!("culvert-ike cannot be served: {error}");
                self.side.detach();
            }
        }
    }

    fn start(&mut self, connection: &Connection, hello: Hello) -> Result<(), SideError> {
        let welcome = self.side.attach(hello)?;
        self.session = welcome.session;
        Ok(connection.send(&Message::Welcome(welcome))?)
    }
}

fn refuse(connection: &Connection) {
    if let Err(error) = connection.send(&Message::Refused) {
        log::debug!("{error}");
    }
}

/// Removes the socket; whoever finds it gone knows that nobody is there.
pub fn remove_socket(run_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(run_dir.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

//! The two ends of the contract. With them neither process needs to know how memory is laid out.
//!
//! [`DataplaneSide`] lives as long as the dataplane; sessions with IKE come and go in it.
//! [`IkeSide`] is one session.

use core::fmt;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::record::{Command, Event, FieldError, RECORD_WORDS, Record, Status};
use crate::region::{self, CommandRegion, CommandSizes, StateLayout, StateSizes, session_start};
use crate::ring::{Consumer, Corrupt, Producer, PushError};
use crate::session::{Doorbell, Hello, SessionError, Welcome};
use crate::shm::{Region, ShmError, View};
use crate::state::{Elders, StateView, States};
use crate::sync::Ordering;

/// Why a side cannot be made or a session not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideError {
    Shm(ShmError),
    Session(SessionError),
    Corrupt(Corrupt),
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shm(error) => error.fmt(f),
            Self::Session(error) => error.fmt(f),
            Self::Corrupt(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SideError {}

impl From<ShmError> for SideError {
    fn from(error: ShmError) -> Self {
        Self::Shm(error)
    }
}

impl From<SessionError> for SideError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<Corrupt> for SideError {
    fn from(error: Corrupt) -> Self {
        Self::Corrupt(error)
    }
}

/// The dataplane's end: owns the D region.
pub struct DataplaneSide {
    states: States,
    doorbell: Doorbell,
    session: Option<Session>,
    /// What IKE's P region is held by, for the next IKE process.
    park: Option<OwnedFd>,
    elders: Elders,
}

/// What the dataplane has of one IKE process.
struct Session {
    commands: Consumer,
    events: Producer,
    doorbell: Doorbell,
    /// Events that must arrive and found the ring full.
    backlog: VecDeque<Record>,
    overflows: u64,
}

impl DataplaneSide {
    /// Makes the D region.
    ///
    /// # Errors
    /// [`SideError`] when memory or descriptors run out.
    pub fn create(sizes: &StateSizes) -> Result<Self, SideError> {
        let (layout, region) = StateLayout::create(sizes)?;
        Ok(Self {
            states: States { region, layout },
            doorbell: Doorbell::new()?,
            session: None,
            park: None,
            elders: Elders::default(),
        })
    }

    /// The rows, windows and counters, for workers and control thread.
    #[must_use]
    pub fn states(&self) -> &States {
        &self.states
    }

    /// The regions of dead dataplanes that IKE handed over.
    #[must_use]
    pub fn elders(&self) -> &Elders {
        &self.elders
    }

    /// Whether there is a session.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.session.is_some()
    }

    /// Starts a session with what IKE brought and gives the answer for it. Both rings start empty.
    /// The last session, if any, ends: the caller refuses a second IKE while the first lives.
    ///
    /// An older region that cannot be used is left out: its SAs are uncertain, IKE rekeys them.
    ///
    /// # Errors
    /// [`SideError`]; then there is no session, and the parked descriptor is still held.
    pub fn attach(&mut self, hello: Hello) -> Result<Welcome, SideError> {
        self.session = None;
        let view = View::map(hello.commands)?;
        let commands = CommandRegion::read(&view)?.commands;
        let doorbell = Doorbell::from_fd(hello.doorbell)?;
        let number = session_start(&self.states.region);
        let own = &self.states.region;
        let misfit = || SessionError::Message("ring");
        let commands = Consumer::new(own.clone(), view.clone(), commands).ok_or_else(misfit)?;
        let events =
            Producer::new(own.clone(), view, self.states.layout.events).ok_or_else(misfit)?;
        let park = match (hello.park, &self.park) {
            (Some(new), _) => {
                self.park = Some(new);
                None
            }
            (None, Some(held)) => Some(held.try_clone().map_err(dup_failed)?),
            (None, None) => None,
        };
        let welcome = Welcome {
            session: number,
            state: own.read_only_fd()?,
            doorbell: self.doorbell.share()?,
            park,
        };
        self.elders = Elders::new(self.usable(hello.older));
        let backlog = VecDeque::new();
        self.session = Some(Session {
            commands,
            events,
            doorbell,
            backlog,
            overflows: 0,
        });
        Ok(welcome)
    }

    /// Regions that can be read and are not our own.
    fn usable(&self, older: Vec<OwnedFd>) -> Vec<StateView> {
        let own = self.states.view().generation();
        let mapped = older.into_iter().filter_map(|fd| StateView::map(fd).ok());
        mapped.filter(|region| region.generation() != own).collect()
    }

    /// Ends the session: IKE is gone. A process that ended in good order may have sent commands
    /// just before, so [`poll`](Self::poll) until there is none, then detach. SAs, policies and the
    /// parked descriptor stay.
    pub fn detach(&mut self) {
        self.session = None;
    }

    /// Holds IKE's new P region.
    pub fn hold_park(&mut self, park: OwnedFd) {
        self.park = Some(park);
    }

    /// The next command and its number; `None` when there is none, no session, or when so many
    /// completions wait for room that IKE must read first. A command that cannot be decoded is
    /// completed here with [`Status::Invalid`].
    ///
    /// # Errors
    /// [`Corrupt`]: the session is over, call [`detach`](Self::detach).
    pub fn poll(&mut self) -> Result<Option<(u64, Command)>, Corrupt> {
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        session.flush()?;
        while session.backlog.is_empty() {
            let mut record = Record::zeroed();
            let Some(number) = session.commands.pop(&mut record.0)? else {
                break;
            };
            match Command::decode(&record) {
                Ok(command) => return Ok(Some((number, command))),
                Err(error) => {
                    let status = Status::from(error);
                    session.event(
                        &self.states,
                        &Event::Completed {
                            command: number,
                            status,
                        },
                    )?;
                }
            }
        }
        Ok(None)
    }

    /// Says how a command ended; once for each.
    ///
    /// # Errors
    /// [`Corrupt`]: the session is over.
    pub fn complete(&mut self, command: u64, status: Status) -> Result<(), Corrupt> {
        self.event(&Event::Completed { command, status })
    }

    /// Sends an event. Without a session it is lost: the next IKE looks at the rows. When the ring
    /// is full a completion or row waits and anything else is left to the flags of the rows.
    ///
    /// # Errors
    /// [`Corrupt`]: the session is over.
    pub fn event(&mut self, event: &Event) -> Result<(), Corrupt> {
        match &mut self.session {
            Some(session) => session.event(&self.states, event),
            None => Ok(()),
        }
    }

    /// Events that found the ring full in this session.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.overflows)
    }

    /// Says that the control thread is about to sleep. `false`: there is work, do not sleep.
    ///
    /// IKE does not ring when it makes room for completions that wait, so `false` is the answer
    /// then too: come back within milliseconds.
    ///
    /// # Errors
    /// [`Corrupt`]: the session is over.
    pub fn arm(&mut self) -> Result<bool, Corrupt> {
        match &mut self.session {
            Some(session) => {
                session.flush()?;
                Ok(session.backlog.is_empty() && session.commands.arm()?)
            }
            None => Ok(true),
        }
    }

    /// Says that the control thread is awake, and silences the doorbell.
    pub fn disarm(&mut self) {
        self.doorbell.silence();
        if let Some(session) = &mut self.session {
            session.commands.disarm();
        }
    }

    /// What to poll for commands.
    #[must_use]
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

fn dup_failed(error: std::io::Error) -> SessionError {
    let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::MFILE);
    SessionError::System {
        doing: "share the parked region",
        errno,
    }
}

impl Session {
    fn event(&mut self, states: &States, event: &Event) -> Result<(), Corrupt> {
        self.flush()?;
        let record = event.encode();
        if self.backlog.is_empty() && self.push(&record)? {
            return Ok(());
        }
        if event.must_arrive() {
            self.backlog.push_back(record);
        } else {
            self.overflow(states);
        }
        Ok(())
    }

    /// Moves what waits into the ring, as far as there is room.
    fn flush(&mut self) -> Result<(), Corrupt> {
        while let Some(record) = self.backlog.pop_front() {
            if !self.push(&record)? {
                self.backlog.push_front(record);
                break;
            }
        }
        Ok(())
    }

    fn push(&mut self, record: &Record) -> Result<bool, Corrupt> {
        match self.events.push(&record.0) {
            Ok(_) => {
                if self.events.must_wake() {
                    self.doorbell.ring();
                }
                Ok(true)
            }
            Err(PushError::Full) => Ok(false),
            Err(PushError::Corrupt(corrupt)) => Err(corrupt),
        }
    }

    fn overflow(&mut self, states: &States) {
        self.overflows = self.overflows.wrapping_add(1);
        if let Some(word) = states.region.words().get(region::word::OVERFLOWS) {
            word.store(self.overflows, Ordering::Release);
        }
        self.doorbell.ring();
    }
}

/// Why a command was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// So many are under way that there is no room: poll events first.
    Full,
    /// The dataplane would refuse it.
    Invalid(FieldError),
    /// The session is over.
    Corrupt(Corrupt),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("too many commands are under way"),
            Self::Invalid(error) => error.fmt(f),
            Self::Corrupt(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SubmitError {}

/// Why an event cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollError {
    /// The dataplane sent a record that cannot be.
    Invalid(FieldError),
    /// The ring's index cannot be.
    Corrupt(Corrupt),
}

impl fmt::Display for PollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => error.fmt(f),
            Self::Corrupt(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PollError {}

impl From<Corrupt> for PollError {
    fn from(error: Corrupt) -> Self {
        Self::Corrupt(error)
    }
}

/// What IKE has ready before it knows the dataplane: a new I region and a doorbell.
pub struct IkePreparation {
    region: Region,
    layout: CommandRegion,
    doorbell: Doorbell,
}

impl IkePreparation {
    /// Makes the I region of a session.
    ///
    /// # Errors
    /// [`SideError`] when memory or descriptors run out.
    pub fn new(sizes: &CommandSizes) -> Result<Self, SideError> {
        let (layout, region) = CommandRegion::create(sizes)?;
        Ok(Self {
            region,
            layout,
            doorbell: Doorbell::new()?,
        })
    }

    /// The first message: with the P region, if there is one, and the D regions of dead
    /// dataplanes, newest first.
    ///
    /// # Errors
    /// [`SideError`] when descriptors run out.
    pub fn hello(&self, park: Option<OwnedFd>, older: Vec<OwnedFd>) -> Result<Hello, SideError> {
        let commands = self.region.read_only_fd()?;
        Ok(Hello {
            commands,
            doorbell: self.doorbell.share()?,
            park,
            older,
        })
    }

    /// Starts the session with the dataplane's answer, and gives the P region of the last IKE
    /// process if the dataplane kept one.
    ///
    /// # Errors
    /// [`SideError`] when the D region is not as it should be.
    pub fn start(self, welcome: Welcome) -> Result<(IkeSide, Option<OwnedFd>), SideError> {
        let state = StateView::map(welcome.state)?;
        let misfit = || SessionError::Message("ring");
        let commands = Producer::new(
            self.region.clone(),
            state.view.clone(),
            self.layout.commands,
        )
        .ok_or_else(misfit)?;
        let events = Consumer::new(self.region, state.view.clone(), state.layout.events)
            .ok_or_else(misfit)?;
        let side = IkeSide {
            session: welcome.session,
            commands,
            events,
            state,
            bell: Doorbell::from_fd(welcome.doorbell)?,
            doorbell: self.doorbell,
            overflows: 0,
            scan_due: true,
        };
        Ok((side, welcome.park))
    }
}

/// IKE's end of one session.
pub struct IkeSide {
    session: u64,
    commands: Producer,
    events: Consumer,
    state: StateView,
    /// The dataplane's.
    bell: Doorbell,
    /// Ours.
    doorbell: Doorbell,
    overflows: u64,
    scan_due: bool,
}

impl IkeSide {
    /// The session's number.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The D region: rows and counters.
    #[must_use]
    pub fn state(&self) -> &StateView {
        &self.state
    }

    /// Sends a command and gives its number, which its completion will name.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent.
    pub fn submit(&mut self, command: &Command) -> Result<u64, SubmitError> {
        let record = command.encode();
        // The dataplane decodes it the same way; so a mistake shows here, where it was made.
        Command::decode(&record).map_err(SubmitError::Invalid)?;
        let number = self.commands.push(&record.0).map_err(|error| match error {
            PushError::Full => SubmitError::Full,
            PushError::Corrupt(corrupt) => SubmitError::Corrupt(corrupt),
        })?;
        if self.commands.must_wake() {
            self.bell.ring();
        }
        Ok(number)
    }

    /// The next event; `None` when there is none. Also overwrites the keys of commands that the
    /// dataplane has read.
    ///
    /// # Errors
    /// [`PollError`]: after `Corrupt` the session is over; after `Invalid` the next can be polled.
    pub fn poll(&mut self) -> Result<Option<Event>, PollError> {
        self.commands.refresh()?;
        let mut record = Record([0; RECORD_WORDS]);
        let Some(_) = self.events.pop(&mut record.0)? else {
            return Ok(None);
        };
        Event::decode(&record).map(Some).map_err(PollError::Invalid)
    }

    /// Whether the rows must be looked at with [`StateView::flagged`], because events were lost or
    /// the session is new. Asking clears it.
    pub fn take_scan_due(&mut self) -> bool {
        let overflows = self.state.header(region::word::OVERFLOWS);
        let lost = overflows != self.overflows;
        self.overflows = overflows;
        core::mem::take(&mut self.scan_due) || lost
    }

    /// Commands that the dataplane has not read yet, as far as known since the last poll.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.commands.pending()
    }

    /// Says that we are about to wait for the doorbell. `false`: there are events, do not wait.
    ///
    /// # Errors
    /// [`Corrupt`]: the session is over.
    pub fn arm(&mut self) -> Result<bool, Corrupt> {
        if self.state.header(region::word::OVERFLOWS) != self.overflows {
            return Ok(false);
        }
        self.events.arm()
    }

    /// Says that we are awake, and silences the doorbell.
    pub fn disarm(&mut self) {
        self.doorbell.silence();
        self.events.disarm();
    }

    /// What to poll for events; tokio takes a duplicate in an `AsyncFd`.
    #[must_use]
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

#[cfg(test)]
#[cfg(not(any(loom, miri)))]
mod tests;

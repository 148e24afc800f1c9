//! The control thread's loop: everything that is not a packet.
//!
//! Its loop waits on the twins, the kernel's announcements, the contract's sockets and doorbells,
//! and the workers' bell, never longer than [`TICK`].

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::error::Error;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use api::config::DataplaneConfig;
use api::id::SaId;

use super::admin::Admin;
use super::contract::{self, Contract};
use super::exceptions::Exceptions;
use super::lock::{Lock, LockError};
use super::mirror::{Local, Mirror};
use super::ports::OpenPort;
use super::sequences::{SequenceError, Sequences};
use super::start;
use super::workers::{Cores, Workers};
use crate::lending::BusyTime;
use crate::state::State;
use crate::tables::fib::{Neighbours, Route};
use crate::tables::writer::TablesWriter;

/// The longest sleep of the control thread.
const TICK: Duration = Duration::from_millis(100);
/// After so long without work there is time to take memory for SAs that will come.
const REST: Duration = Duration::from_millis(20);
/// How often ports are looked at.
const PORTS_EVERY: Duration = Duration::from_secs(1);

/// Everything the control thread has its hands on.
pub(super) struct Control<'a> {
    pub(super) config: &'a DataplaneConfig,
    pub(super) started: Instant,
    pub(super) hugepages: bool,
    pub(super) cores: Cores,
    /// By crypto worker.
    pub(super) crypto_times: Vec<Arc<BusyTime>>,
    pub(super) ports: Vec<OpenPort>,
    pub(super) state: Arc<State>,
    pub(super) writer: TablesWriter,
    pub(super) exceptions: Exceptions,
    pub(super) mirror: Mirror,
    pub(super) contract: Contract,
    pub(super) routes: Vec<Route>,
    pub(super) locals: Vec<Local>,
    pub(super) neighbours: Neighbours,
    pub(super) sequences: Sequences,
    pub(super) ports_seen: Instant,
}

/// Runs the dataplane until it is told to stop.
///
/// # Errors
/// What kept it from starting, or what ended it.
pub fn run(config: &DataplaneConfig) -> Result<(), Box<dyn Error>> {
    let _lock = Lock::take(&config.run_dir)?;
    let _state_lock = lock_state(config)?;
    let stop = stop_signals()?;
    let (mut control, admin, mut workers) = start::start(config)?;
    let ended = control.until_stopped(&stop, &admin, &workers);
    workers.stop();
    control.finish()?;
    ended
}

/// Two processes must not count the same keys' numbers.
fn lock_state(config: &DataplaneConfig) -> Result<Option<Lock>, LockError> {
    let needed = !config.static_sas.is_empty() && config.state_dir != config.run_dir;
    needed.then(|| Lock::take(&config.state_dir)).transpose()
}

impl Control<'_> {
    fn until_stopped(
        &mut self,
        stop: &UnixStream,
        admin: &Admin,
        workers: &Workers,
    ) -> Result<(), Box<dyn Error>> {
        let mut busy_at = Instant::now();
        while !is_readable(stop)? {
            let now = Instant::now();
            let mut busy = self
                .exceptions
                .turn(&mut self.mirror, &self.neighbours, now);
            if let Err(error) = self.mirror_kernel(now) {
                log::warn!("routes and neighbours could not be read, the last known stay: {error}");
                self.mirror.start_over(now);
            }
            busy |= self
                .contract
                .turn(&mut self.writer, &self.exceptions.links().notices, now);
            self.writer.publish();
            for question in admin.questions() {
                // A client that has left needs no answer.
                let _ = question.answer.send(self.answer(question.table));
            }
            self.watch_ports(now);
            self.sequences
                .advance(|id| sequence(&self.state, &self.writer, id))?;
            self.state
                .publish(self.cores.workers.len(), self.exceptions.counts());
            if workers.one_has_ended() {
                return Err("a worker has ended by itself: stopping, nothing passes".into());
            }
            if busy {
                busy_at = now;
            } else if now.duration_since(busy_at) < REST || !self.writer.take_memory() {
                self.sleep(stop, admin, now)?;
            }
        }
        log::info!(
            "stopped; twins and rules stay and nothing passes until the next start \
             (culvert-dataplane --release gives devices and addresses back to the kernel)"
        );
        Ok(())
    }

    /// Takes over what the kernel changed.
    pub(super) fn mirror_kernel(&mut self, now: Instant) -> Result<(), Box<dyn Error>> {
        let changes = self.mirror.poll(now)?;
        if let Some((routes, locals)) = changes.routes {
            self.writer.set_routes(routes.iter().copied());
            self.writer.set_locals(locals.iter().copied());
            self.locals = locals;
            self.routes = routes;
        }
        if let Some(neighbours) = changes.neighbours {
            self.writer.set_neighbours(neighbours.clone());
            self.writer.publish();
            self.exceptions.neighbours_changed(&neighbours);
            self.neighbours = neighbours;
        }
        self.writer.publish();
        Ok(())
    }

    /// Notices devices that are gone; the others go on.
    fn watch_ports(&mut self, now: Instant) {
        if now.duration_since(self.ports_seen) < PORTS_EVERY {
            return;
        }
        self.ports_seen = now;
        for port in self.ports.iter_mut().filter(|port| !port.removed) {
            if port.device.is_removed() {
                port.removed = true;
                log::error!(
                    "port \"{}\": its device {} is gone; the other ports go on, restart when it \
                     is back",
                    port.info.name,
                    port.device.device()
                );
            }
        }
    }

    fn sleep(
        &mut self,
        stop: &UnixStream,
        admin: &Admin,
        now: Instant,
    ) -> Result<(), Box<dyn Error>> {
        let links = self.exceptions.links();
        links.bell.about_to_sleep();
        let mut patience = self.mirror.patience(now).unwrap_or(TICK).min(TICK);
        patience = patience.min(self.contract.patience().unwrap_or(TICK));
        let queued = !links.exceptions.is_empty() || !links.notices.is_empty();
        let waiting = queued || admin.is_asked();
        if waiting || !self.contract.may_sleep() {
            patience = Duration::ZERO;
        }
        let mut descriptors = vec![
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(links.bell.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.mirror.as_fd(), PollFlags::IN),
        ];
        let others = self
            .exceptions
            .descriptors()
            .chain(self.contract.descriptors());
        descriptors.extend(others.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let timeout = Timespec::try_from(patience)?;
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        links.bell.awake();
        self.contract.awake();
        Ok(())
    }

    /// The workers have stopped: writes down what must be known next time.
    fn finish(&mut self) -> Result<(), Box<dyn Error>> {
        contract::remove_socket(&self.config.run_dir)?;
        self.exceptions.stop();
        self.state
            .publish(self.cores.workers.len(), self.exceptions.counts());
        self.stop_sequences()?;
        Ok(())
    }

    /// No worker runs: the numbers of static SAs are final.
    pub(super) fn stop_sequences(&mut self) -> Result<(), SequenceError> {
        self.sequences
            .stop(|id| sequence(&self.state, &self.writer, id))
    }
}

/// The number that an SA's row says.
fn sequence(state: &State, writer: &TablesWriter, id: SaId) -> Option<u64> {
    let row = writer.tables().sad.geometry().row(id)?;
    state.row(row).map(|row| row.sequence())
}

/// A socket that becomes readable on SIGTERM and SIGINT.
fn stop_signals() -> Result<UnixStream, Box<dyn Error>> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    // The configuration is read at the start only; a closed terminal is no reason to end.
    signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
    Ok(reader)
}

fn is_readable(stop: &UnixStream) -> Result<bool, Box<dyn Error>> {
    let mut descriptor = [PollFd::new(stop, PollFlags::IN)];
    match poll(
        &mut descriptor,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    ) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

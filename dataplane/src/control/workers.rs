//! Worker threads: one a core, started together and stopped together.

use core_affinity::CoreId;
use dpdk::{Queues, Registration};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use api::config::Workers as Configured;

use crate::port::PortIndex;
use crate::worker::{PortQueues, Worker, WorkerParts};

/// All workers of the process.
pub struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a thread for each worker, on its core.
    pub fn start(parts: Vec<WorkerParts>, cores: &[usize]) -> io::Result<Self> {
        // If one cannot be started, dropping this stops those that run.
        let mut workers = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::with_capacity(parts.len()),
        };
        for (parts, core) in parts.into_iter().zip(cores) {
            let (stop, core) = (Arc::clone(&workers.stop), *core);
            let name = format!("worker-{}", parts.index);
            let run = move || work(parts, core, &stop);
            let thread = thread::Builder::new().name(name).spawn(run)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// True when a worker has ended by itself, which none should.
    #[must_use]
    pub fn one_has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops all and waits for them.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a worker had panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(parts: WorkerParts, core: usize, stop: &AtomicBool) {
    let index = parts.index;
    if !core_affinity::set_for_current(CoreId { id: core }) {
        log::warn!("worker {index}: cannot run on core {core} alone");
    }
    // Without it everything works, but every buffer comes from the shared pool.
    let _registration = Registration::new()
        .inspect_err(|error| log::warn!("worker {index}: no buffer cache: {error}"));
    Worker::new(parts).run(stop);
}

/// The core of each worker.
pub fn cores(configured: &Configured) -> Result<Vec<usize>, Box<dyn Error>> {
    let usable: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    match configured {
        Configured::Cores(cores) => match cores.iter().find(|core| !usable.contains(core)) {
            Some(core) => Err(format!(
                "\"dataplane.workers\" names core {core}, which this process may not use \
                     (usable: {usable:?})"
            )
            .into()),
            None => Ok(cores.clone()),
        },
        Configured::Count(count) => {
            if *count > usable.len() {
                log::warn!("{count} workers on {} cores: they share them", usable.len());
            }
            // Several gateways on one machine should not all begin at the same core.
            let first = usize::try_from(std::process::id()).unwrap_or(0);
            let core = |n| {
                usable
                    .get((first + n) % usable.len().max(1))
                    .copied()
                    .unwrap_or(0)
            };
            Ok((0..*count).map(core).collect())
        }
    }
}

/// Deals the queues of all ports out: each worker sends to every port and receives its share.
#[must_use]
pub fn deal(ports: Vec<(PortIndex, Queues)>, workers: usize) -> Vec<Vec<PortQueues>> {
    let mut hands: Vec<Vec<PortQueues>> = (0..workers).map(|_| Vec::new()).collect();
    for (port, queues) in ports {
        let mut transmit = queues.tx.into_iter();
        for hand in &mut hands {
            hand.push(PortQueues {
                port,
                rx: None,
                tx: transmit.next(),
            });
        }
        for (number, queue) in queues.rx.into_iter().enumerate() {
            if let Some(hand) = hands.get_mut(number % workers.max(1)) {
                hand.push(PortQueues {
                    port,
                    rx: Some(queue),
                    tx: None,
                });
            }
        }
    }
    hands
}

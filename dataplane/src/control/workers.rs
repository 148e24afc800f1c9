//! Worker threads: one a core, started together and stopped together; and those of crypto workers.

use core_affinity::CoreId;
use dpdk::{Queues, Registration};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use api::config::Workers as Configured;

use crate::lending::CryptoWorker;
use crate::port::PortIndex;
use crate::worker::{PortQueues, Worker, WorkerParts};

/// All workers of the process.
pub struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Stopped behind the workers, which wait for what they lent.
    crypto_stop: Arc<AtomicBool>,
    crypto_threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a thread for each worker and each crypto worker, on its core.
    pub fn start(
        parts: Vec<WorkerParts>,
        crypto_workers: Vec<CryptoWorker>,
        cores: &Cores,
    ) -> io::Result<Self> {
        // If one cannot be started, dropping this stops those that run.
        let mut workers = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::with_capacity(parts.len()),
            crypto_stop: Arc::new(AtomicBool::new(false)),
            crypto_threads: Vec::with_capacity(crypto_workers.len()),
        };
        for (number, (crypto, core)) in crypto_workers.into_iter().zip(&cores.crypto).enumerate() {
            let (stop, core) = (Arc::clone(&workers.crypto_stop), *core);
            let name = format!("crypto-{number}");
            let run = move || {
                pin(&format!("crypto worker {number}"), core);
                crypto.run(&stop);
            };
            let thread = thread::Builder::new().name(name).spawn(run)?;
            workers.crypto_threads.push(thread);
        }
        for (parts, core) in parts.into_iter().zip(&cores.workers) {
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
        let mut threads = self.threads.iter().chain(&self.crypto_threads);
        threads.any(JoinHandle::is_finished)
    }

    /// Stops all and waits for them.
    pub fn stop(&mut self) {
        for (stop, threads) in [
            (&self.stop, &mut self.threads),
            (&self.crypto_stop, &mut self.crypto_threads),
        ] {
            stop.store(true, Ordering::Relaxed);
            for thread in threads.drain(..) {
                if thread.join().is_err() {
                    log::error!("a worker had panicked");
                }
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
    pin(&format!("worker {index}"), core);
    // Without it everything works, but every buffer comes from the shared pool.
    let _registration = Registration::new()
        .inspect_err(|error| log::warn!("worker {index}: no buffer cache: {error}"));
    Worker::new(parts).run(stop);
}

fn pin(who: &str, core: usize) {
    if !core_affinity::set_for_current(CoreId { id: core }) {
        log::warn!("{who}: cannot run on core {core} alone");
    }
}

/// Which core each thread has.
#[derive(Debug, PartialEq, Eq)]
pub struct Cores {
    /// By worker.
    pub workers: Vec<usize>,
    /// By crypto worker.
    pub crypto: Vec<usize>,
}

/// The core of each worker and crypto worker.
pub fn cores(workers: &Configured, crypto: &Configured) -> Result<Cores, Box<dyn Error>> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let usable: Vec<usize> = ids.iter().map(|core| core.id).collect();
    // Several gateways on one machine should not all begin at the same core.
    let first = usize::try_from(std::process::id()).unwrap_or(0);
    let workers = choose("workers", workers, &usable, (first, &[]))?;
    let crypto = choose("crypto_workers", crypto, &usable, (first, &workers))?;
    Ok(Cores { workers, crypto })
}

/// Cores from `first` on, those that are taken already behind all others.
fn choose(
    key: &str,
    configured: &Configured,
    usable: &[usize],
    (first, taken): (usize, &[usize]),
) -> Result<Vec<usize>, Box<dyn Error>> {
    match configured {
        Configured::Cores(cores) => match cores.iter().find(|core| !usable.contains(core)) {
            Some(core) => Err(format!(
                "\"dataplane.{key}\" names core {core}, which this process may not use \
                     (usable: {usable:?})"
            )
            .into()),
            None => Ok(cores.clone()),
        },
        Configured::Count(count) => {
            if count + taken.len() > usable.len() {
                let all = usable.len();
                log::warn!("{count} {key} on {all} cores: they share them");
            }
            let mut order = usable.to_vec();
            order.rotate_left(first % usable.len().max(1));
            order.sort_by_key(|core| taken.contains(core));
            Ok(order.into_iter().cycle().take(*count).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crypto_workers_get_cores_that_no_worker_has_as_long_as_there_are_some() {
        let usable = [0, 2, 4, 6];
        let choose = |count, taken: &[usize]| {
            choose("workers", &Configured::Count(count), &usable, (7, taken)).unwrap()
        };
        assert_eq!(choose(2, &[]), [6, 0]);
        assert_eq!(choose(1, &[6, 0]), [2]);
        assert_eq!(choose(3, &[6, 0]), [2, 4, 6]);
        assert_eq!(choose(5, &[]), [6, 0, 2, 4, 6]);
        assert!(choose(0, &[6]).is_empty());
    }

    #[test]
    fn only_usable_cores_may_be_named() {
        let named = Configured::Cores(vec![4, 5]);
        assert!(choose("workers", &named, &[4], (0, &[])).is_err());
        assert_eq!(
            choose("workers", &named, &[5, 4], (1, &[4])).unwrap(),
            [4, 5]
        );
    }
}

//! A worker: one thread, one core, its own queues, run to completion.

mod answer;
mod busy;
mod classify;
mod crypto;
mod exits;
mod flight;
mod forward;
mod handover;
mod inbound;
mod limits;
mod line;
mod outbound;
mod passes;
mod recall;
mod search;
mod stage_clock;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::config::ExceptionLimits;
use api::counters::Counter;
use dpdk::{RxQueue, TxQueue};

use crate::idle::Idle;
use crate::lending::Lender;
use crate::links::WorkerLinks;
use crate::port::{PortIndex, PortInfo};
use crate::quiescence::Turn;
use crate::state::{self, State};
use crate::tables::{Snapshot, Tables};
use busy::BusyShare;
use exits::Exits;
use line::Line;
use passes::Work;
use recall::Recall;
use stage_clock::StageClock;

/// Turns with packets between two publications of the counters.
const PUBLISH_TURNS: u32 = 64;

/// What a worker is made of.
pub struct WorkerParts {
    /// Its number, from 0.
    pub index: usize,
    /// What all workers read.
    pub tables: Arc<Tables>,
    /// The rows of SAs and the blocks of counters.
    pub state: Arc<State>,
    /// All ports, by number.
    pub ports: Arc<[PortInfo]>,
    /// Its queues; a port may have no receive queue for this worker.
    pub queues: Vec<PortQueues>,
    /// Its ends of the channels.
    pub links: WorkerLinks,
    /// Its end to crypto workers, if there are some.
    pub lender: Option<Lender>,
    /// Limits of the exception path; each worker has its own share of them.
    pub limits: ExceptionLimits,
    /// Longest sleep in microseconds; 0 polls without end.
    pub max_latency_us: u32,
    /// Count the cycles of each stage.
    pub stage_clock: bool,
}

/// One worker's queues of one port.
pub struct PortQueues {
    /// The port.
    pub port: PortIndex,
    /// What it polls.
    pub rx: Option<RxQueue>,
    /// What it sends by.
    pub tx: Option<TxQueue>,
}

/// What does not change while a worker runs.
struct Fixed {
    index: usize,
    tables: Arc<Tables>,
    state: Arc<State>,
    ports: Arc<[PortInfo]>,
}

/// What all stages of one turn see.
#[derive(Clone, Copy)]
struct View<'a> {
    worker: usize,
    tables: &'a Tables,
    snapshot: &'a Snapshot,
    state: &'a State,
    ports: &'a [PortInfo],
    turn: &'a Turn<'a>,
    now_ms: u64,
}

impl<'a> View<'a> {
    fn port(&self, port: PortIndex) -> Option<&'a PortInfo> {
        self.ports.get(port.index())
    }
}

/// A worker, ready to run.
pub struct Worker {
    fixed: Fixed,
    work: Work,
    idle: Idle,
}

impl Worker {
    /// Puts a worker together.
    #[must_use]
    pub fn new(parts: WorkerParts) -> Self {
        let WorkerParts {
            index,
            tables,
            state,
            ports,
            queues,
            links,
            lender,
            limits,
            ..
        } = parts;
        let recall = Recall::new(tables.sad.geometry().max_sas());
        let mut exits = Exits::new(links, &limits);
        let mut receivers = Vec::new();
        for PortQueues { port, rx, tx } in queues {
            receivers.extend(rx.map(|queue| (port, queue)));
            if let Some(tx) = tx {
                exits.set_queue(port, tx);
            }
        }
        Self {
            fixed: Fixed {
                index,
                tables,
                state,
                ports,
            },
            work: Work::new(
                receivers,
                exits,
                recall,
                Line::new(lender),
                StageClock::new(parts.stage_clock),
            ),
            idle: Idle::new(parts.max_latency_us),
        }
    }

    /// Works until told to stop. Call on the worker's own thread.
    pub fn run(&mut self, stop: &AtomicBool) {
        self.run_by(stop, dpdk::tsc);
    }

    /// Works by any clock: a test has one that it sets.
    fn run_by(&mut self, stop: &AtomicBool, mut clock: impl FnMut() -> u64) {
        let mut unpublished = 0;
        let mut share = BusyShare::new(clock());
        while !stop.load(Ordering::Relaxed) {
            let worked = self.turn();
            share.lap(clock(), worked, &mut self.work.exits.counts);
            unpublished += u32::from(worked);
            // At rest the counters are exact; under load they lag a few turns.
            if unpublished >= PUBLISH_TURNS || (unpublished > 0 && !worked) {
                self.publish();
                unpublished = 0;
            }
            if worked {
                self.idle.busy();
            } else {
                self.rest();
                share.lap(clock(), false, &mut self.work.exits.counts);
            }
        }
        self.work.exits.stop();
        self.publish();
    }

    fn rest(&mut self) {
        let counts = &mut self.work.exits.counts;
        counts.add(Counter::EmptyPolls, 1);
        if self.idle.will_sleep() {
            counts.add(Counter::Sleeps, 1);
        }
        self.idle.wait();
    }

    /// One turn of the loop: a burst of each port, from end to end. True if there was any packet.
    pub fn turn(&mut self) -> bool {
        self.look(Work::turn).is_some_and(|packets| packets > 0)
    }

    /// Does some work with a view of everything that stays as it is for a turn.
    fn look<T>(&mut self, work: impl FnOnce(&mut Work, &View<'_>) -> T) -> Option<T> {
        let Self {
            fixed, work: hands, ..
        } = self;
        let turn = fixed.tables.quiescence.enter(fixed.index)?;
        let snapshot = fixed.tables.snapshot();
        let view = View {
            worker: fixed.index,
            tables: &fixed.tables,
            snapshot: &snapshot,
            state: &fixed.state,
            ports: &fixed.ports,
            turn: &turn,
            now_ms: state::now_ms(),
        };
        hands.exits.start_turn(view.now_ms);
        hands.exits.counts.add(Counter::Rounds, 1);
        let done = work(hands, &view);
        hands.exits.end_turn();
        Some(done)
    }

    /// Makes the counters visible to readers.
    pub fn publish(&mut self) {
        let Fixed { state, index, .. } = &self.fixed;
        state.publish(*index, &self.work.exits.counts);
    }
}

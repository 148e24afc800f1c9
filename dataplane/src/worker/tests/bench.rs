//! Two gateways, each a worker with real ports (rings in memory), and the wires between.
//!
//! ```text
//! host A ── port 0 ▸ A ▸ port 1 ── 192.0.2.0/24, 2001:db8::/64 ── port 1 ▸ B ▸ port 0 ── host B
//! ```
//! Host nets are 10.SITE.0.0/16 and fd00:SITE::/32, where A is site 1 and B is site 2.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use api::config::ExceptionLimits;
use api::counters::{Counter, Counts, DropReason};
use api::id::{ChildId, Geometry, Interface, PathId, PolicyId, SaId, Vrf};
use api::record::{
    Action, Algorithm, Child, Command, Direction, Limits, Path, Policy, Sa, SaKey, Status,
};
use api::region::StateSizes;
use api::selector::{ANY_PORTS, AddrRange, Selector};
use api::side::DataplaneSide;
use dpdk::{
    Batch, Eal, EalOptions, HugePages, Mbuf, Mempool, MempoolConfig, Port, PortConfig, RxQueue,
    TxQueue,
};

use super::packets::frame;
use crate::handover::Frames;
use crate::lending::{self, Borrower};
use crate::links::{self, Class, ControlLinks, Exception, HandedOver, Held, Injected, Notice};
use crate::packet::Origin;
use crate::port::{Mac, PortIndex, PortInfo, Side};
use crate::state::State;
use crate::tables::fib::{Route, Target};
use crate::tables::samples;
use crate::tables::writer::TablesWriter;
use crate::worker::line::Line;
use crate::worker::{PortQueues, Worker, WorkerParts};

pub(super) const INSIDE: usize = 0;
pub(super) const OUTSIDE: usize = 1;
pub(super) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
const MTU_BYTES: u16 = 1500;
/// Threads besides both workers that find SAs.
const CRYPTO_WORKERS: u8 = 2;

/// What a frame that went to the control thread was.
#[derive(Debug, PartialEq)]
pub(super) enum Excepted {
    Punt {
        port: usize,
        class: Class,
        frame: Vec<u8>,
    },
    Held {
        port: usize,
        next_hop: IpAddr,
    },
}

/// How the tunnel between the gateways looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelShape {
    pub(super) outer_v6: bool,
    pub(super) udp: bool,
    pub(super) esn: bool,
    pub(super) key_bytes: usize,
    pub(super) start_sequence: u64,
    pub(super) limits: Limits,
    pub(super) window_bits: u32,
    /// Of all SAs; odd ones belong to the first worker.
    pub(super) shard: u16,
}

impl TunnelShape {
    /// IPv4 without anything special, SAs of the first worker.
    pub(super) const USUAL: Self = Self {
        outer_v6: false,
        udp: false,
        esn: false,
        key_bytes: 20,
        start_sequence: 0,
        limits: Limits {
            soft_bytes: 0,
            hard_bytes: 0,
            soft_packets: 0,
            hard_packets: 0,
        },
        window_bits: 64,
        shard: 1,
    };
}

impl Default for TunnelShape {
    fn default() -> Self {
        Self::USUAL
    }
}

struct Env {
    eal: Eal,
    pool: Mempool,
    rings: Vec<Rings>,
}

/// One EAL for all tests of a process, which use it one at a time.
fn env() -> MutexGuard<'static, Env> {
    static ENV: OnceLock<Mutex<Env>> = OnceLock::new();
    let env = ENV.get_or_init(|| {
        let options = EalOptions {
            memory_mib: 96,
            huge_pages: HugePages::Never,
            ..EalOptions::default()
        };
        let eal = Eal::init(&options).unwrap();
        let config = MempoolConfig {
            mbufs: 8191,
            cache: 0,
            ..MempoolConfig::default()
        };
        let pool = Mempool::new(&eal, "worker-tests", config).unwrap();
        crypto::init(None).unwrap();
        Mutex::new(Env {
            eal,
            pool,
            rings: Vec::new(),
        })
    });
    env.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool() -> Mempool {
    env().pool
}

/// A buffer with this frame in it.
pub(super) fn buffer(frame: &[u8]) -> Mbuf {
    pool().alloc_copy(frame).unwrap()
}

pub(super) fn port(index: usize) -> PortIndex {
    PortIndex::new(index).unwrap()
}

pub(super) fn mac(site: u8, port: usize) -> [u8; 6] {
    [2, 0, 0, 0, site, u8::try_from(port).unwrap()]
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn outer(site: u8, v6: bool) -> IpAddr {
    if v6 {
        address(&format!("2001:db8::{site}"))
    } else {
        address(&format!("192.0.2.{site}"))
    }
}

/// A gateway under test.
pub(super) struct Gateway {
    site: u8,
    shard: u16,
    pub(super) worker: Worker,
    second: Worker,
    pub(super) writer: TablesWriter,
    control: ControlLinks,
    wires: Vec<RxQueue>,
    /// What the control thread would count.
    control_counts: Counts,
    pub(super) excepted: Vec<Excepted>,
    held: Vec<Held>,
    pub(super) state: Arc<State>,
}

impl Gateway {
    /// A gateway with routes, neighbours and addresses, but without policies.
    pub(super) fn bare(site: u8) -> Self {
        let geometry = Geometry::new(64, 2, 4).unwrap();
        let side = DataplaneSide::create(&StateSizes::new(geometry, 2, 4096)).unwrap();
        let state = Arc::new(State::new(side.states().clone()));
        let writer = TablesWriter::new(geometry, 2, CRYPTO_WORKERS, Arc::clone(&state));
        let tables = Arc::clone(writer.tables());
        let (control, worker_links) = links::connect(2).unwrap();
        let Rings { wires, transmit } = Rings::take();
        let queues = (0..).zip(transmit).map(|(index, tx)| PortQueues {
            port: port(index),
            rx: None,
            tx: Some(tx),
        });
        let mut worker_links = worker_links.into_iter();
        let mut worker = |index, queues| {
            Worker::new(WorkerParts {
                index,
                tables: Arc::clone(&tables),
                state: Arc::clone(&state),
                ports: infos(site),
                queues,
                links: worker_links.next().unwrap(),
                lender: None,
                limits: ExceptionLimits::default(),
                max_latency_us: 50,
                stage_clock: true,
            })
        };
        let (worker, second) = (worker(0, queues.collect()), worker(1, Vec::new()));
        let mut gateway = Self {
            site,
            shard: 1,
            worker,
            second,
            writer,
            control,
            wires,
            control_counts: Counts::new(),
            excepted: Vec::new(),
            held: Vec::new(),
            state,
        };
        gateway.learn();
        gateway
    }

    /// A gateway with its side of a tunnel to the other site.
    pub(super) fn new(site: u8, shape: TunnelShape) -> Self {
        let mut gateway = Self::bare(site);
        gateway.shard = shape.shard;
        gateway.tunnel(shape);
        gateway
    }

    fn learn(&mut self) {
        let other = 3 - self.site;
        let route = |prefix: &str, length, to: usize, gateway: Option<IpAddr>| Route {
            vrf: Vrf(0),
            prefix: address(prefix),
            length,
            target: Target::Port {
                port: port(to),
                gateway,
            },
        };
        let site = self.site;
        self.writer.set_routes([
            route(&format!("10.{site}.0.0"), 16, INSIDE, None),
            route(&format!("fd00:{site}::"), 32, INSIDE, None),
            route("192.0.2.0", 24, OUTSIDE, None),
            route("2001:db8::", 64, OUTSIDE, None),
            route("0.0.0.0", 0, OUTSIDE, Some(outer(other, false))),
            route("::", 0, OUTSIDE, Some(outer(other, true))),
        ]);
        for v6 in [false, true] {
            let peer = Some(Mac(mac(other, OUTSIDE)));
            self.writer
                .set_neighbour(port(OUTSIDE), outer(other, v6), peer);
        }
        for host in [format!("10.{site}.0.9"), format!("fd00:{site}::9")] {
            self.writer
                .set_neighbour(port(INSIDE), address(&host), Some(Mac(HOST_MAC)));
        }
        self.writer.set_locals([
            (Vrf(0), outer(site, false), Some(port(OUTSIDE))),
            (Vrf(0), outer(site, true), Some(port(OUTSIDE))),
            (
                Vrf(0),
                address(&format!("10.{site}.0.1")),
                Some(port(INSIDE)),
            ),
            (
                Vrf(0),
                address(&format!("fd00:{site}::1")),
                Some(port(INSIDE)),
            ),
        ]);
        self.writer.publish();
    }

    /// Carries a command out and publishes it.
    pub(super) fn apply(&mut self, command: Command) -> Status {
        let outcome = self.writer.apply(command);
        self.writer.publish();
        for id in outcome.deleted {
            self.writer.release(id);
        }
        outcome.status
    }

    pub(super) fn inbound_id(&self) -> SaId {
        SaId::new(self.shard, u16::from(self.site), 7).unwrap()
    }

    pub(super) fn outbound_id(&self) -> SaId {
        SaId::new(self.shard, u16::from(self.site) + 10, 7).unwrap()
    }

    pub(super) fn path(&self, shape: TunnelShape) -> Path {
        let port = if shape.udp { 4500 } else { 0 };
        Path {
            id: PathId(1),
            vrf: Vrf(0),
            interface: Interface(0),
            local: outer(self.site, shape.outer_v6),
            remote: outer(3 - self.site, shape.outer_v6),
            local_port: port,
            remote_port: port,
            udp_encapsulation: shape.udp,
            mtu_bytes: 0,
            dscp: None,
        }
    }

    pub(super) fn sa(&self, shape: TunnelShape, direction: Direction) -> Sa {
        let from = if direction == Direction::Outbound {
            self.site
        } else {
            3 - self.site
        };
        let mut key = vec![0x10 + from; shape.key_bytes];
        key[0] = 0xa5;
        let peer = SaId::new(self.shard, u16::from(3 - self.site), 7).unwrap();
        let (id, spi, window_bits) = match direction {
            Direction::Inbound => (self.inbound_id(), self.inbound_id().0, shape.window_bits),
            Direction::Outbound => (self.outbound_id(), peer.0, 0),
        };
        Sa {
            id,
            child: ChildId(1),
            direction,
            spi,
            algorithm: Algorithm::AesGcm16,
            key: SaKey::new(&key).unwrap(),
            esn: shape.esn,
            window_bits,
            start_sequence: shape.start_sequence,
            adopt: false,
            limits: shape.limits,
        }
    }

    pub(super) fn child(&self) -> Child {
        samples::child(ChildId(1))
    }

    fn tunnel(&mut self, shape: TunnelShape) {
        let (site, other) = (self.site, 3 - self.site);
        let path = self.path(shape);
        let child = self.child();
        let inbound = self.sa(shape, Direction::Inbound);
        let outbound = self.sa(shape, Direction::Outbound);
        let activate = Command::ActivateOutbound {
            child: ChildId(1),
            sa: self.outbound_id(),
        };
        let mut commands = vec![
            Command::PathAdd(path),
            Command::ChildAdd(child),
            Command::SaAdd(inbound),
            Command::SaAdd(outbound),
            activate,
            Command::Begin { resync: false },
        ];
        for v6 in [false, true] {
            let selector = selector(&net(site, v6), &net(other, v6));
            for direction in [Direction::Inbound, Direction::Outbound] {
                let id =
                    PolicyId(1 + u32::from(v6) * 2 + u32::from(direction == Direction::Inbound));
                let action = Action::Protect(ChildId(1));
                commands.push(Command::PolicyAdd(policy(
                    id, direction, action, 100, selector,
                )));
            }
        }
        commands.push(Command::Commit);
        for command in commands {
            assert_eq!(self.apply(command), Status::Ok);
        }
    }

    /// One turn with these frames off the wire of a port.
    pub(super) fn receive(&mut self, on: usize, frames: &[Vec<u8>]) {
        self.receive_bursts(on, &[frames.to_vec()], |_, _, _| {});
    }

    /// One turn with several bursts. Behind each something is done, with its number, to the tables and
    /// to what was sent.
    pub(super) fn receive_bursts(
        &mut self,
        on: usize,
        bursts: &[Vec<Vec<u8>>],
        mut behind: impl FnMut(usize, &mut TablesWriter, &mut [RxQueue]),
    ) {
        let batches = bursts.iter().map(|frames| {
            let mut batch = Batch::new();
            for frame in frames {
                batch.push(pool().alloc_copy(frame).unwrap()).unwrap();
            }
            batch
        });
        let Self {
            worker,
            writer,
            wires,
            ..
        } = self;
        let mut numbers = 0..;
        let behind = || behind(numbers.next().unwrap(), writer, wires);
        let accepted = worker.look(|work, view| work.take(view, port(on), batches, behind));
        accepted.unwrap();
        self.settle();
    }

    /// One turn with a frame from Linux.
    pub(super) fn inject(&mut self, on: usize, frame: &[u8]) {
        self.control_counts.add(Counter::Injected, 1);
        send_from_linux(&self.control, on, frame);
        assert!(self.worker.turn());
        self.settle();
    }

    /// Runs the worker's loop by a clock with these readings, until the last. Behind a reading with
    /// a frame, the frame comes from Linux.
    pub(super) fn run_by_clock(&mut self, readings: &[(u64, Option<&[u8]>)]) {
        let stop = AtomicBool::new(false);
        let mut left = readings.iter();
        let clock = || {
            let (now, frame) = left.next().expect("the clock is read too often");
            if let Some(frame) = frame {
                self.control_counts.add(Counter::Injected, 1);
                send_from_linux(&self.control, INSIDE, frame);
            }
            stop.store(left.len() == 0, Ordering::Relaxed);
            *now
        };
        self.worker.run_by(&stop, clock);
        self.settle();
    }

    /// One turn of the second worker, which receives from no port. It borrows the first one's
    /// queues to send by.
    pub(super) fn second_turn(&mut self) {
        self.swap_senders();
        assert!(self.second.turn());
        self.swap_senders();
        self.settle();
    }

    /// Gives one worker's queues to send by to the other.
    pub(super) fn swap_senders(&mut self) {
        let (first, second) = (&mut self.worker.work.exits, &mut self.second.work.exits);
        for port in [INSIDE, OUTSIDE].map(port) {
            let queues = (first.take_queue(port), second.take_queue(port));
            if let Some(queue) = queues.0 {
                second.set_queue(port, queue);
            }
            if let Some(queue) = queues.1 {
                first.set_queue(port, queue);
            }
        }
    }

    /// Both workers lend from now on. Gives what crypto workers have, and their numbers.
    pub(super) fn lend(&mut self) -> Vec<(usize, Borrower)> {
        let (lenders, borrowers) = lending::connect(2, CRYPTO_WORKERS.into());
        let workers = [&mut self.worker, &mut self.second];
        for (worker, lender) in workers.into_iter().zip(lenders) {
            worker.work.line = Line::new(Some(lender));
        }
        (2..).zip(borrowers).collect()
    }

    /// The first worker receives from this queue in its turns.
    pub(super) fn receive_from(&mut self, on: usize, queue: RxQueue) {
        self.worker.work.receivers.push((port(on), queue));
    }

    /// Both workers, to run on threads, and what ports send meanwhile.
    pub(super) fn split(&mut self) -> ([&mut Worker; 2], &mut [RxQueue]) {
        ([&mut self.worker, &mut self.second], &mut self.wires)
    }

    /// The second worker ends.
    pub(super) fn stop_second(&mut self) {
        self.second.run(&AtomicBool::new(true));
        self.settle();
    }

    /// One turn of the first worker with a frame that was handed on so often.
    pub(super) fn hand_over_to_first(&mut self, frame: &[u8], hops: u8) {
        let exits = &mut self.second.work.exits;
        let mut frames = Frames::new();
        frames.push(HandedOver {
            frame: pool().alloc_copy(frame).unwrap(),
            port: port(INSIDE),
            origin: Origin::Wire,
            vrf: Vrf(0),
            hops,
        });
        assert_eq!(exits.links.peers[0].send(&mut frames), Ok(()));
        exits.counts.add(Counter::Rx, 1);
        exits.counts.add(Counter::HandedOver, 1);
        assert!(self.worker.turn());
        self.settle();
    }

    /// Gives held frames back to the worker.
    pub(super) fn release_held(&mut self) {
        for held in self.held.drain(..) {
            self.control.workers[0]
                .try_send(Injected::Released(held))
                .ok()
                .unwrap();
        }
        assert!(self.worker.turn());
        self.settle();
    }

    /// Plays the control thread, and looks whether any packet is missing.
    pub(super) fn settle(&mut self) {
        while let Ok(exception) = self.control.exceptions.try_recv() {
            match exception {
                Exception::Punt(punt) => {
                    self.control_counts.add(Counter::Punted, 1);
                    self.excepted.push(Excepted::Punt {
                        port: punt.port.index(),
                        class: punt.class,
                        frame: punt.frame.to_vec(),
                    });
                }
                Exception::Held(held) => {
                    let (port, next_hop) = (held.port.index(), held.next_hop);
                    self.excepted.push(Excepted::Held { port, next_hop });
                    self.held.push(held);
                }
            }
        }
        self.control_counts
            .set(Counter::Held, self.held.len() as u64);
        self.worker.publish();
        self.second.publish();
        self.state.publish(2, &self.control_counts);
        let totals = self.state.totals();
        let under_way = totals.get(Counter::HandedOver) - totals.get(Counter::TakenOver);
        assert_eq!(
            totals.unaccounted(),
            under_way.into(),
            "a packet is missing"
        );
    }

    /// The frames that a port has sent since the last call.
    pub(super) fn sent(&mut self, by: usize) -> Vec<Vec<u8>> {
        let mut batch = Batch::new();
        self.wires[by].rx_burst(&mut batch);
        batch.iter().map(|frame| frame.to_vec()).collect()
    }

    /// The one frame that a port has sent.
    pub(super) fn sent_one(&mut self, by: usize) -> Vec<u8> {
        let mut frames = self.sent(by);
        assert_eq!(frames.len(), 1, "drops: {:?}", self.drops());
        frames.remove(0)
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.state.totals().get(counter)
    }

    /// What was dropped so far, and why.
    pub(super) fn drops(&self) -> Vec<(DropReason, u64)> {
        let totals = self.state.totals();
        let counted = DropReason::ALL
            .iter()
            .map(|&reason| (reason, totals.dropped(reason)));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn notices(&self) -> Vec<Notice> {
        self.control.notices.try_iter().collect()
    }

    /// A frame for the gateway's port from a neighbour.
    pub(super) fn frame_to(&self, on: usize, packet: &[u8]) -> Vec<u8> {
        frame(mac(self.site, on), HOST_MAC, packet)
    }
}

/// Hands the first worker a frame from the twin of a port.
fn send_from_linux(control: &ControlLinks, on: usize, frame: &[u8]) {
    let injected = Injected::FromTwin {
        frame: pool().alloc_copy(frame).unwrap(),
        port: port(on),
    };
    control.workers[0].try_send(injected).ok().unwrap();
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let exits = &mut self.worker.work.exits;
        let transmit = [INSIDE, OUTSIDE]
            .into_iter()
            .filter_map(|at| exits.take_queue(port(at)));
        let transmit = transmit.collect();
        self.sent(INSIDE);
        self.sent(OUTSIDE);
        env().rings.push(Rings {
            wires: std::mem::take(&mut self.wires),
            transmit,
        });
    }
}

/// Rings in memory as ports: what a worker sends by one, the test receives. A process can have only
/// so many, so they are used again.
pub(super) struct Rings {
    pub(super) wires: Vec<RxQueue>,
    pub(super) transmit: Vec<TxQueue>,
}

impl Rings {
    pub(super) fn take() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut env = env();
        if let Some(rings) = env.rings.pop() {
            return rings;
        }
        let (mut wires, mut transmit) = (Vec::new(), Vec::new());
        for _ in [INSIDE, OUTSIDE] {
            let name = format!("net_ring{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let mut device = Port::attach(&env.eal, &name).unwrap();
            let queues = device.start(&PortConfig::default(), &[env.pool]).unwrap();
            wires.extend(queues.rx);
            transmit.extend(queues.tx);
        }
        Self { wires, transmit }
    }
}

fn infos(site: u8) -> Arc<[PortInfo]> {
    let info = |index: usize, side: Side| PortInfo {
        index: port(index),
        name: format!("port{index}"),
        side,
        vrf: Vrf(0),
        interface: Interface(u16::try_from(index).unwrap() + 1),
        mac: Mac(mac(site, index)),
        mtu_bytes: MTU_BYTES,
    };
    [info(INSIDE, Side::Inside), info(OUTSIDE, Side::Outside)].into()
}

pub(super) fn net(site: u8, v6: bool) -> (String, String) {
    if v6 {
        (
            format!("fd00:{site}::"),
            format!("fd00:{site}:ffff:ffff:ffff:ffff:ffff:ffff"),
        )
    } else {
        (format!("10.{site}.0.0"), format!("10.{site}.255.255"))
    }
}

/// A selector over two ranges, all protocols and ports.
pub(super) fn selector(local: &(String, String), remote: &(String, String)) -> Selector {
    let range = |(first, last): &(String, String)| AddrRange {
        first: address(first),
        last: address(last),
    };
    Selector {
        local: range(local),
        remote: range(remote),
        protocol: 0,
        local_ports: ANY_PORTS,
        remote_ports: ANY_PORTS,
    }
}

pub(super) fn policy(
    id: PolicyId,
    direction: Direction,
    action: Action,
    priority: u32,
    selector: Selector,
) -> Policy {
    Policy {
        id,
        direction,
        action,
        priority,
        vrf: Vrf(0),
        interface: Interface(0),
        selector,
    }
}

/// A policy for everything in IPv4.
pub(super) fn any_v4(id: u32, direction: Direction, action: Action) -> Command {
    let all = ("0.0.0.0".to_owned(), "255.255.255.255".to_owned());
    Command::PolicyAdd(policy(
        PolicyId(id),
        direction,
        action,
        1000,
        selector(&all, &all),
    ))
}

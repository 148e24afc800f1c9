//! Installs a cell's SAs in a running dataplane, as the IKE process does it.

use std::collections::VecDeque;
use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use api::id::{ChildId, Interface, PathId, PolicyId, SaId, Vrf};
use api::record::{
    Action, Algorithm, Child, Command, CopyDscp, Direction, Event, Limits, Mode, Path as SaPath,
    Policy, Sa, SaKey, Status,
};
use api::region::CommandSizes;
use api::selector::{ANY_PORTS, AddrRange, Selector};
use api::session::{Connection, Message};
use api::side::{IkePreparation, IkeSide, SubmitError};
use api::state::StateView;

use super::interrupt;
use super::plan::Plan;
use super::traffic::NAT_T_PORT;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Replay window in packets: IKE's default.
pub(crate) const WINDOW_BITS: u32 = 4096;
const PRIORITY: u32 = 10_000;
/// How long the dataplane may take for a welcome, and for any one completion.
const PATIENCE: Duration = Duration::from_secs(60);
const SOCKET: &str = "dataplane.sock";
/// Time for measuring round trips.
const ROUND_TRIPS_MOST: Duration = Duration::from_secs(2);
/// Between looks at a ring in which nothing is.
const POLL: Duration = Duration::from_micros(20);

/// A session with the dataplane.
pub(crate) struct Link {
    side: IkeSide,
    /// The session lives as long as this.
    _connection: Connection,
    submitted: u64,
    completed: u64,
    /// What is under way; completions come in the same order.
    flying: VecDeque<&'static str>,
}

/// What installing took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Installed {
    pub(crate) sas: u32,
    pub(crate) commands: u64,
    pub(crate) seconds: f64,
    /// The commit's part of it: all policies become visible.
    pub(crate) commit_seconds: f64,
}

impl Link {
    /// Connects and waits for the welcome.
    pub(crate) fn connect(run_dir: &Path) -> Result<Self> {
        let connection = Connection::connect(&run_dir.join(SOCKET))?;
        let preparation = IkePreparation::new(&CommandSizes::default())?;
        connection.send(&Message::Hello(preparation.hello(None, Vec::new())?))?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match connection.receive()? {
                Some(Message::Welcome(welcome)) => {
                    let (side, _) = preparation.start(welcome)?;
                    return Ok(Self {
                        side,
                        _connection: connection,
                        submitted: 0,
                        completed: 0,
                        flying: VecDeque::new(),
                    });
                }
                Some(_) => return Err("the dataplane has another IKE process".into()),
                None => std::thread::sleep(POLL),
            }
        }
        Err("the dataplane gives no welcome".into())
    }

    /// Installs all SAs of the plan with paths, children and policies, and commits.
    pub(crate) fn install(&mut self, plan: &Plan) -> Result<Installed> {
        let start = Instant::now();
        let (before, mut sas) = (self.submitted, 0);
        self.submit(&Command::Begin { resync: false })?;
        for flow in 0..plan.cell.sas {
            for command in commands(plan, flow)? {
                sas += u32::from(matches!(command, Command::SaAdd(_)));
                self.submit(&command)?;
            }
        }
        self.settle()?;
        let committing = Instant::now();
        self.submit(&Command::Commit)?;
        self.settle()?;
        Ok(Installed {
            sas,
            commands: self.submitted - before,
            seconds: start.elapsed().as_secs_f64(),
            commit_seconds: committing.elapsed().as_secs_f64(),
        })
    }

    /// Time of one command there and back, nanoseconds, for each of `count` or what time allows.
    pub(crate) fn round_trips(&mut self, plan: &Plan, count: u32) -> Result<Vec<f64>> {
        let update = Command::PathUpdate(path(plan, 0));
        let mut times = Vec::new();
        let end = Instant::now() + ROUND_TRIPS_MOST;
        for _ in 0..count {
            if Instant::now() > end {
                break;
            }
            let start = Instant::now();
            self.submit(&update)?;
            while self.completed < self.submitted {
                self.drain()?;
                std::hint::spin_loop();
            }
            times.push(start.elapsed().as_secs_f64() * 1e9);
        }
        Ok(times)
    }

    /// Gives commands one behind the other and waits until all are complete; the seconds.
    pub(crate) fn carry_out(&mut self, commands: &[Command]) -> Result<f64> {
        let start = Instant::now();
        for command in commands {
            self.submit(command)?;
        }
        self.settle()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Milliseconds that it takes to commit one more child with its policies, for each of `flows`,
    /// as children come one by one; they are deleted afterwards.
    pub(crate) fn one_by_one(&mut self, plan: &Plan, flows: Range<u32>) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for flow in flows.clone() {
            let mut commands = vec![Command::Begin { resync: false }];
            commands.extend(without_sas(plan, flow));
            commands.push(Command::Commit);
            times.push(self.carry_out(&commands)? * 1e3);
        }
        let commands: Vec<_> = deletion(plan, flows, false)?;
        self.carry_out(&commands)?;
        Ok(times)
    }

    /// Rows and counters.
    pub(crate) fn state(&self) -> &StateView {
        self.side.state()
    }

    fn submit(&mut self, command: &Command) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            match self.side.submit(command) {
                Ok(_) => {
                    self.submitted += 1;
                    self.flying.push_back(name(command));
                    return Ok(());
                }
                Err(SubmitError::Full) if Instant::now() < end => {
                    if self.drain()? == 0 {
                        std::thread::sleep(POLL);
                    }
                }
                Err(SubmitError::Full) => return Err("the dataplane takes no commands".into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until everything is complete.
    fn settle(&mut self) -> Result<()> {
        let mut end = Instant::now() + PATIENCE;
        while self.completed < self.submitted {
            interrupt::check()?;
            if self.drain()? > 0 {
                end = Instant::now() + PATIENCE;
            } else if Instant::now() > end {
                return Err("the dataplane completes no commands".into());
            } else {
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// Takes what is there; a command that failed is an error.
    fn drain(&mut self) -> Result<u64> {
        let mut taken = 0;
        while let Some(event) = self.side.poll()? {
            if let Event::Completed { command, status } = event {
                taken += 1;
                let what = self.flying.pop_front().unwrap_or("a command");
                if status != Status::Ok {
                    return Err(refused(what, command, status).into());
                }
            }
        }
        self.completed += taken;
        Ok(taken)
    }
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Begin { .. } => "begin",
        Command::Commit => "commit",
        Command::PathAdd(_) | Command::PathUpdate(_) => "a path",
        Command::ChildAdd(_) => "a child",
        Command::SaAdd(_) => "an SA",
        Command::ActivateOutbound { .. } => "an activation",
        Command::PolicyAdd(_) => "a policy",
        _ => "a command",
    }
}

fn refused(what: &str, number: u64, status: Status) -> String {
    match status {
        Status::Full => format!(
            "the dataplane has no room for {what} (command {number}): fewer SAs, or a higher limit"
        ),
        _ => format!("the dataplane refused {what} (command {number}): {status:?}"),
    }
}

fn path(plan: &Plan, flow: u32) -> SaPath {
    let port = if plan.cell.udp { NAT_T_PORT } else { 0 };
    SaPath {
        id: PathId(flow + 1),
        vrf: Vrf(0),
        interface: Interface(0),
        local: plan.gateway(),
        remote: plan.far_gateway(flow),
        local_port: port,
        remote_port: port,
        udp_encapsulation: plan.cell.udp,
        mtu_bytes: 0,
        dscp: None,
    }
}

fn child(flow: u32) -> Child {
    Child {
        id: ChildId(flow + 1),
        path: PathId(flow + 1),
        cookie: u64::from(flow),
        vrf: Vrf(0),
        interface: Interface(0),
        mode: Mode::Tunnel,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: CopyDscp::Out,
    }
}

fn sa(plan: &Plan, flow: u32, id: SaId, direction: Direction) -> Result<Sa> {
    let inbound = direction == Direction::Inbound;
    Ok(Sa {
        id,
        child: ChildId(flow + 1),
        direction,
        spi: if inbound {
            plan.spi_in(flow)
        } else {
            Plan::spi_out(flow)
        },
        algorithm: Algorithm::AesGcm16,
        key: SaKey::new(&plan.key(flow, inbound))?,
        esn: plan.cell.esn,
        window_bits: if inbound { WINDOW_BITS } else { 0 },
        start_sequence: 0,
        adopt: false,
        limits: Limits::default(),
    })
}

fn policy(plan: &Plan, flow: u32, direction: Direction) -> Policy {
    Policy {
        id: PolicyId(2 * flow + 1 + u32::from(direction == Direction::Inbound)),
        direction,
        action: Action::Protect(ChildId(flow + 1)),
        priority: PRIORITY,
        vrf: Vrf(0),
        interface: Interface(0),
        selector: Selector {
            local: plan.near_network(),
            remote: AddrRange::single(plan.far_host(flow)),
            protocol: 0,
            local_ports: ANY_PORTS,
            remote_ports: ANY_PORTS,
        },
    }
}

fn without_sas(plan: &Plan, flow: u32) -> [Command; 4] {
    [
        Command::PathAdd(path(plan, flow)),
        Command::ChildAdd(child(flow)),
        Command::PolicyAdd(policy(plan, flow, Direction::Inbound)),
        Command::PolicyAdd(policy(plan, flow, Direction::Outbound)),
    ]
}

/// Installs flows in one batch of policies.
pub(crate) fn installation(plan: &Plan, flows: Range<u32>) -> Result<Vec<Command>> {
    let mut all = vec![Command::Begin { resync: false }];
    for flow in flows {
        all.extend(commands(plan, flow)?);
    }
    all.push(Command::Commit);
    Ok(all)
}

/// Gives the children of flows the SAs that are those of as many flows behind them, then deletes
/// the old ones: as IKE rekeys (RFC 7296 1.3.3).
pub(crate) fn rekeying(plan: &Plan, flows: Range<u32>) -> Result<Vec<Command>> {
    let behind = flows.end - flows.start;
    let mut all = Vec::new();
    for flow in flows {
        let (old_in, old_out) = ids(plan, flow)?;
        let (new_in, new_out) = ids(plan, flow + behind)?;
        for (id, direction) in [(new_in, Direction::Inbound), (new_out, Direction::Outbound)] {
            let mut sa = sa(plan, flow + behind, id, direction)?;
            sa.child = ChildId(flow + 1);
            all.push(Command::SaAdd(sa));
        }
        all.push(Command::ActivateOutbound {
            child: ChildId(flow + 1),
            sa: new_out,
        });
        all.extend([old_in, old_out].map(Command::SaDelete));
    }
    Ok(all)
}

/// Deletes flows: policies in one batch, then, if they have rekeyed SAs, these, then the rest.
pub(crate) fn deletion(plan: &Plan, flows: Range<u32>, rekeyed: bool) -> Result<Vec<Command>> {
    let behind = flows.end - flows.start;
    let mut all = vec![Command::Begin { resync: false }];
    for flow in flows.clone() {
        let policies = [Direction::Inbound, Direction::Outbound].map(|d| policy(plan, flow, d).id);
        all.extend(policies.map(Command::PolicyDelete));
    }
    all.push(Command::Commit);
    for flow in flows {
        if rekeyed {
            let (inward, outward) = ids(plan, flow + behind)?;
            all.extend([inward, outward].map(Command::SaDelete));
        }
        all.push(Command::ChildDelete(ChildId(flow + 1)));
        all.push(Command::PathDelete(PathId(flow + 1)));
    }
    Ok(all)
}

fn ids(plan: &Plan, flow: u32) -> Result<(SaId, SaId)> {
    let ids = plan.inbound(flow).zip(plan.outbound(flow));
    ids.ok_or_else(|| format!("flow {flow} has no row").into())
}

/// Everything of one flow, in the order in which IKE says it.
fn commands(plan: &Plan, flow: u32) -> Result<Vec<Command>> {
    use super::cell::Way;
    let mut commands = vec![
        Command::PathAdd(path(plan, flow)),
        Command::ChildAdd(child(flow)),
    ];
    let no_row = || format!("flow {flow} has no row");
    if plan.pairs || plan.cell.way == Way::Dec {
        let id = plan.inbound(flow).ok_or_else(no_row)?;
        commands.push(Command::SaAdd(sa(plan, flow, id, Direction::Inbound)?));
    }
    if plan.pairs || plan.cell.way == Way::Enc {
        let id = plan.outbound(flow).ok_or_else(no_row)?;
        commands.push(Command::SaAdd(sa(plan, flow, id, Direction::Outbound)?));
        commands.push(Command::ActivateOutbound {
            child: ChildId(flow + 1),
            sa: id,
        });
    }
    for direction in [Direction::Inbound, Direction::Outbound] {
        commands.push(Command::PolicyAdd(policy(plan, flow, direction)));
    }
    Ok(commands)
}

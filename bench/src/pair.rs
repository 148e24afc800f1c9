//! Two IKE endpoints in memory, with a wire between them that loses nothing.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fastrand::Rng;
use ike::auth::Identity;
use ike::config::{AddressSpec, ChildConfig, Connection, Secret, Settings};
use ike::proposal::{EspProposal, IkeProposal};
use ike::{
    Action, Endpoint, Host, Level, Output, Request, SelectorSpec, Target, Time, Verb, Verdict,
};

/// Names of the connection and of its child.
const CONNECTION: &str = "site";
const CHILD: &str = "net";
const SECRET: &[u8] = b"only for measurements";
/// The endpoints' addresses.
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];
/// More messages than this in answer to one are a loop.
const MAX_ANSWERS: usize = 200;
/// Draws of 32 bytes that are kept.
const MAX_DRAWS: usize = 16;
/// Lines of the log that are kept.
const MAX_LOG: usize = 20;

/// What the endpoint takes from its surroundings.
pub(crate) struct Surroundings {
    random: Rng,
    next_spi: u32,
    /// Inbound SPIs that are reserved or in use.
    pub(crate) spis: HashSet<u32>,
    /// The first draws of 32 bytes: the private value of X25519 is among them.
    pub(crate) draws: Vec<[u8; 32]>,
}

impl Host for Surroundings {
    fn fill_random(&mut self, out: &mut [u8]) {
        self.random.fill(out);
        if let Ok(draw) = <[u8; 32]>::try_from(&*out)
            && self.draws.len() < MAX_DRAWS
        {
            self.draws.push(draw);
        }
    }

    fn allocate_spi(&mut self) -> Option<u32> {
        self.next_spi = self.next_spi.wrapping_add(1).max(256);
        self.spis.insert(self.next_spi).then_some(self.next_spi)
    }

    fn release_spi(&mut self, spi: u32) {
        self.spis.remove(&spi);
    }

    fn inbound_packets(&self, _: u32) -> u64 {
        0
    }
}

/// One endpoint.
pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: Surroundings,
}

/// A message on the wire.
#[derive(Clone)]
pub(crate) struct Datagram {
    /// Whom it is for: 0 or 1.
    pub(crate) to: usize,
    local: SocketAddr,
    remote: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Datagram {
    /// A message to side `to` that seems to come from the other side, or from another port of it.
    pub(crate) fn forged(to: usize, port: u16, bytes: Vec<u8>) -> Self {
        let (local, remote) = (ADDRESSES[to], ADDRESSES[1 - to]);
        Self {
            to,
            local: (local, 500).into(),
            remote: (remote, port).into(),
            bytes,
        }
    }
}

/// Both endpoints, the wire and the clock.
pub(crate) struct Pair {
    pub(crate) sides: [Side; 2],
    pub(crate) now: Time,
    pub(crate) wire: VecDeque<Datagram>,
    /// Everything that was put on the wire, if it is kept.
    pub(crate) record: Option<Vec<Datagram>>,
    done: Vec<(u64, Result<(), Verdict>)>,
    requests: u64,
    /// The last lines that the endpoints logged.
    log: VecDeque<String>,
}

fn connection(own: usize, proposal: &str) -> Result<Connection, Box<dyn Error>> {
    let proposals = IkeProposal::parse_list(&[proposal])?;
    let identity = |side: usize| Identity::address(ADDRESSES[side]);
    let network = |side: u8| {
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, side + 1, 0, last));
        vec![SelectorSpec::addresses(address(0), address(255))]
    };
    let sides = if own == 0 { (0, 1) } else { (1, 0) };
    let child = ChildConfig {
        local_ts: network(sides.0),
        remote_ts: network(sides.1),
        ..ChildConfig::new(CHILD, EspProposal::parse_list(&["aes256gcm16"])?)
    };
    Ok(Connection {
        local_addrs: vec![AddressSpec::single(ADDRESSES[own])],
        remote_addrs: vec![AddressSpec::single(ADDRESSES[1 - own])],
        children: vec![child],
        ..Connection::new(CONNECTION, proposals, identity(1 - own))
    })
}

impl Pair {
    /// Two endpoints that have each other's secret; `proposal` is that of the IKE SA.
    pub(crate) fn new(proposal: &str, random: &mut Rng) -> Result<Self, Box<dyn Error>> {
        let now = Time(1_000_000);
        let mut side = |own: usize| -> Result<Side, Box<dyn Error>> {
            let mut host = Surroundings {
                random: random.fork(),
                next_spi: 0,
                spis: HashSet::new(),
                draws: Vec::new(),
            };
            let mut endpoint = Endpoint::new(Settings::default());
            let secret = Secret {
                ids: Vec::new(),
                key: SECRET.to_vec().into(),
            };
            endpoint.load(
                now,
                &mut host,
                vec![connection(own, proposal)?],
                vec![secret],
            );
            Ok(Side { endpoint, host })
        };
        let sides = [side(0)?, side(1)?];
        let (wire, log) = (VecDeque::new(), VecDeque::new());
        Ok(Self {
            sides,
            now,
            wire,
            record: None,
            done: Vec::new(),
            requests: 0,
            log,
        })
    }

    /// Gives side `side` a command and returns its number.
    pub(crate) fn command(&mut self, side: usize, verb: Verb) -> u64 {
        self.requests += 1;
        let request = Request {
            id: self.requests,
            verb,
        };
        let Side { endpoint, host } = &mut self.sides[side];
        endpoint.handle_command(self.now, host, request);
        self.collect(side);
        self.requests
    }

    /// Side 0 starts a handshake.
    pub(crate) fn initiate(&mut self) -> u64 {
        let (connection, child) = (CONNECTION.to_owned(), Some(CHILD.to_owned()));
        self.command(0, Verb::Initiate { connection, child })
    }

    /// Side 0 ends every IKE SA.
    pub(crate) fn terminate(&mut self) -> u64 {
        self.command(
            0,
            Verb::Terminate(Target::Connection(CONNECTION.to_owned())),
        )
    }

    /// Side `side` gives the child new keys.
    pub(crate) fn rekey_child(&mut self, side: usize) -> u64 {
        let target = Target::ChildName {
            connection: None,
            child: CHILD.to_owned(),
        };
        self.command(side, Verb::Rekey(target))
    }

    /// Delivers a message and puts the answers on the wire.
    pub(crate) fn deliver(&mut self, datagram: &Datagram) {
        let Datagram {
            to,
            local,
            remote,
            bytes,
        } = datagram;
        let Side { endpoint, host } = &mut self.sides[*to];
        endpoint.handle_datagram(self.now, host, *local, *remote, bytes);
        self.collect(*to);
    }

    /// Delivers until the wire is empty.
    pub(crate) fn settle(&mut self) -> Result<(), Box<dyn Error>> {
        for _ in 0..MAX_ANSWERS {
            let Some(datagram) = self.wire.pop_front() else {
                return Ok(());
            };
            self.deliver(&datagram);
        }
        Err("the endpoints answer each other without end".into())
    }

    /// Lets time pass, in steps that end at timers.
    pub(crate) fn pass_ms(&mut self, ms: u64) -> Result<(), Box<dyn Error>> {
        let end = self.now.after_ms(ms);
        loop {
            let due = self
                .sides
                .iter()
                .filter_map(|side| side.endpoint.poll_timeout())
                .min();
            let Some(at) = due.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            for side in 0..2 {
                let Side { endpoint, host } = &mut self.sides[side];
                endpoint.handle_timeout(self.now, host);
                self.collect(side);
            }
            self.settle()?;
        }
        self.now = end;
        Ok(())
    }

    /// How a command ended, once it has.
    pub(crate) fn result(&mut self, request: u64) -> Option<Result<(), Verdict>> {
        let at = self.done.iter().position(|(id, _)| *id == request)?;
        Some(self.done.swap_remove(at).1)
    }

    /// Carries out what an endpoint wants done.
    fn collect(&mut self, side: usize) {
        while let Some(Output { action, .. }) = self.sides[side].endpoint.poll_output() {
            match action {
                Action::Transmit {
                    local,
                    remote,
                    bytes,
                } => self.send(local, remote, bytes),
                Action::RemoveSa {
                    spi, inbound: true, ..
                } => {
                    self.sides[side].host.spis.remove(&spi);
                }
                Action::Done { request, result } => self.done.push((request, result)),
                Action::Log { level, text, .. } if level > Level::Debug => {
                    self.log.truncate(MAX_LOG - 1);
                    self.log
                        .push_front(format!("{} side {side}: {text}", self.now));
                }
                _ => {}
            }
        }
    }

    /// What the endpoints logged lately, the last line first.
    pub(crate) fn log(&self) -> String {
        self.log.iter().map(|line| format!("\n  {line}")).collect()
    }

    fn send(&mut self, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        let Some(to) = ADDRESSES.iter().position(|address| *address == remote.ip()) else {
            return;
        };
        // What goes to a forged port of the right address goes nowhere.
        if remote.port() != 500 && remote.port() != 4500 {
            return;
        }
        let datagram = Datagram {
            to,
            local: remote,
            remote: local,
            bytes,
        };
        if let Some(record) = &mut self.record {
            record.push(datagram.clone());
        }
        self.wire.push_back(datagram);
    }
}

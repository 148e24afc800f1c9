//! What the kernel knows of routes, addresses and neighbours, mirrored for the workers.
//!
//! Routes and addresses are read anew after the kernel announced a change, at a pace that leaves
//! most of the time to other work; neighbours are followed one by one. When announcements were lost
//! all is read anew. What is known stays in use until something better is known.

use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use api::id::Vrf;

use super::devices;
use super::neighbours::{self, Table};
use super::netlink::{Monitor, Netlink, Notice};
use super::routes::{self, KernelRoute, Twins};
use crate::port::PortIndex;
use crate::tables::fib::{Neighbours, Route};

/// Reading routes anew takes at most one part in this many of the time.
const READ_SHARE: u32 = 10;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Changes come in groups: wait a little for the rest of one.
const SETTLE: Duration = Duration::from_millis(2);

/// An address of this machine, and the port whose twin has it.
pub type Local = (Vrf, IpAddr, Option<PortIndex>);

/// What became known since the last call.
#[derive(Debug, Default)]
pub struct Changes {
    pub routes: Option<(Vec<Route>, Vec<Local>)>,
    pub neighbours: Option<Neighbours>,
}

/// The mirror, and the way to ask the kernel for neighbours.
pub struct Mirror {
    netlink: Netlink,
    monitor: Monitor,
    twins: Twins,
    neighbours: Table,
    neighbours_changed: bool,
    /// When routes may be read anew, if they have to be.
    routes_due: Option<Instant>,
    not_before: Instant,
    lost: bool,
    retry_at: Option<Instant>,
}

impl Mirror {
    /// Starts to listen. `twins` are the interface indices of the ports' twins.
    pub fn open(twins: Twins, now: Instant) -> io::Result<Self> {
        Ok(Self {
            // Listening comes first, so that no change is missed between dump and announcement.
            monitor: Monitor::open()?,
            netlink: Netlink::open()?,
            twins,
            neighbours: Table::default(),
            neighbours_changed: false,
            routes_due: Some(now),
            not_before: now,
            lost: true,
            retry_at: None,
        })
    }

    /// Reads what the kernel announced and what has to be read anew; never waits.
    pub fn poll(&mut self, now: Instant) -> io::Result<Changes> {
        let mut notices = Vec::new();
        self.monitor.read(|notice| notices.push(notice))?;
        for notice in notices {
            match notice {
                Notice::Message(message) => self.hear(&message, now),
                Notice::Lost => {
                    log::info!("netlink: announcements were lost, starting over");
                    self.lost = true;
                }
            }
        }
        if self.retry_at.is_some_and(|retry| now < retry) {
            return Ok(Changes::default());
        }
        self.retry_at = None;
        if self.lost {
            self.read_neighbours(now)?;
            self.routes_due = Some(now);
            self.lost = false;
        }
        self.keep_alive(now);
        let neighbours = std::mem::take(&mut self.neighbours_changed);
        Ok(Changes {
            routes: self.read_routes(now)?,
            neighbours: neighbours.then(|| self.neighbours.resolved()),
        })
    }

    /// Reading failed: all is read anew, but not at once. What is known stays in use.
    pub fn start_over(&mut self, now: Instant) {
        self.lost = true;
        self.retry_at = Some(now + RETRY);
    }

    /// How long the caller may sleep before the next call.
    #[must_use]
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        self.routes_due
            .map(|due| due.max(self.not_before).saturating_duration_since(now))
    }

    /// A worker waits for this neighbour.
    pub fn resolve(&mut self, port: PortIndex, address: IpAddr, now: Instant) {
        if self.neighbours.want((port, address), now) {
            self.ask(port, address);
        }
    }

    /// All neighbours, for the operator.
    #[must_use]
    pub fn neighbours(&self) -> &Table {
        &self.neighbours
    }

    fn hear(&mut self, message: &RouteNetlinkMessage, now: Instant) {
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => self.learn(message, now),
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some(key) = self.key_of(message) {
                    self.neighbours_changed |= self.neighbours.forget(key, now);
                }
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            // Routes vanish unannounced with their device.
            | RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_) => {
                self.routes_due.get_or_insert(now + SETTLE);
            }
            _ => {}
        }
    }

    fn learn(&mut self, message: &NeighbourMessage, now: Instant) {
        if let Some(key) = self.key_of(message) {
            self.neighbours_changed |= self.neighbours.learn(key, message, now);
        }
    }

    fn key_of(&self, message: &NeighbourMessage) -> Option<neighbours::Key> {
        let (port, _) = *self.twins.get(&message.header.ifindex)?;
        Some((port, neighbours::address_of(message)?))
    }

    fn read_neighbours(&mut self, now: Instant) -> io::Result<()> {
        self.neighbours.doubt_all(now);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            for row in self
                .netlink
                .dump(&RouteNetlinkMessage::GetNeighbour(request))?
            {
                if let RouteNetlinkMessage::NewNeighbour(message) = row {
                    self.learn(&message, now);
                }
            }
        }
        self.neighbours_changed = true;
        Ok(())
    }

    fn read_routes(&mut self, now: Instant) -> io::Result<Option<(Vec<Route>, Vec<Local>)>> {
        if self
            .routes_due
            .is_none_or(|due| now < due.max(self.not_before))
        {
            return Ok(None);
        }
        let started = Instant::now();
        let mut kernel = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = RouteNetlinkMessage::GetRoute(routes::dump_request(family));
            for row in self.netlink.dump(&request)? {
                if let RouteNetlinkMessage::NewRoute(message) = row {
                    kernel.extend(KernelRoute::parse(&message));
                }
            }
        }
        let locals = self.read_locals()?;
        self.routes_due = None;
        self.not_before = now + started.elapsed() * (READ_SHARE - 1);
        Ok(Some((routes::merge(&kernel, &self.twins), locals)))
    }

    fn read_locals(&mut self) -> io::Result<Vec<Local>> {
        let addresses = devices::addresses(&mut self.netlink)?;
        let locals = addresses.iter().filter_map(|message| {
            let twin = self.twins.get(&message.header.index);
            let vrf = twin.map_or(Vrf(0), |(_, vrf)| *vrf);
            Some((
                vrf,
                devices::local_of(message)?,
                twin.map(|(port, _)| *port),
            ))
        });
        Ok(locals.collect())
    }

    fn keep_alive(&mut self, now: Instant) {
        let (due, changed) = self.neighbours.keep_alive(now);
        self.neighbours_changed |= changed;
        for (port, address) in due {
            self.ask(port, address);
        }
    }

    fn ask(&mut self, port: PortIndex, address: IpAddr) {
        let twin = self.twins.iter().find(|(_, (held, _))| *held == port);
        let Some((&index, _)) = twin else { return };
        if let Err(error) = neighbours::use_now(&mut self.netlink, index, address) {
            log::debug!("netlink: neighbour {address} of port {port} not asked for: {error}");
        }
    }
}

impl AsFd for Mirror {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

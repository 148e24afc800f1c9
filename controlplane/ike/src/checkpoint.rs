//! An IKE SA as bytes, for a process that goes on where this one stopped.
//!
//! The form is our own, with a version in front: an IKE SA of another version is not restored (its
//! peer finds out by liveness). Everything is big-endian; lists have their length before them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::auth::Identity;
use crate::child_sa::{Child, Pair, PairState, Protection};
use crate::config::{ChildConfig, Connection};
use crate::context::Context;
use crate::event::{ChildId, IkeId, Limits};
use crate::exchange::{ChildOffer, IkeOffer, Ke, Outstanding, Pending, Rival};
use crate::host::Time;
use crate::ike_sa::{IkeSa, Start, State};
use crate::keys::Keys;
use crate::nat::Nat;
use crate::negotiate::{suite_from_bytes, suite_to_bytes};
use crate::selector::Selectors;
use crate::task::{Task, TaskKind};
use crate::timer::Timer;
use crate::wire::{IdType, KeGroup, Reader, TrafficSelector, WireError};

/// Version of the form.
const VERSION: u16 = 1;

/// Room made at once, so that growing leaves few copies of keys behind.
const CAPACITY_BYTES: usize = 16 * 1024;

struct Out(Zeroizing<Vec<u8>>);

impl Out {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }
    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.put(bytes);
    }
    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            write(self, item);
        }
    }
    fn option<T>(&mut self, item: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(item.is_some());
        if let Some(item) = item {
            write(self, item);
        }
    }
    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.u8(4);
                self.put(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.u8(6);
                self.put(&v6.octets());
            }
        }
    }
    fn socket(&mut self, socket: SocketAddr) {
        self.address(socket.ip());
        self.u16(socket.port());
    }
    fn identity(&mut self, identity: &Identity) {
        match identity {
            Identity::Any => self.u8(0),
            Identity::Named { kind, data } => {
                self.u8(kind.0);
                self.bytes(data);
            }
        }
    }
    fn selectors(&mut self, selectors: &Selectors) {
        for side in [&selectors.local, &selectors.remote] {
            self.list(side, |out, ts| {
                out.u8(ts.protocol);
                out.u16(ts.start_port);
                out.u16(ts.end_port);
                out.address(ts.first);
                out.address(ts.last);
            });
        }
    }
    fn ke(&mut self, ke: &Ke) {
        self.u16(ke.group.0);
        self.bytes(&ke.seed);
    }
}

/// Reading fails as one: the bytes are ours or they are not.
type Read<T> = Result<T, WireError>;

const FIELD: &str = "checkpoint";
const INVALID: WireError = WireError::Value(FIELD);

struct In<'a>(Reader<'a>);

impl In<'_> {
    fn u8(&mut self) -> Read<u8> {
        self.0.u8(FIELD)
    }
    fn flag(&mut self) -> Read<bool> {
        Ok(self.u8()? != 0)
    }
    fn u16(&mut self) -> Read<u16> {
        self.0.u16(FIELD)
    }
    fn u32(&mut self) -> Read<u32> {
        self.0.u32(FIELD)
    }
    fn u64(&mut self) -> Read<u64> {
        self.0.u64(FIELD)
    }
    fn bytes(&mut self) -> Read<Vec<u8>> {
        let count = usize::try_from(self.u32()?).map_err(|_| INVALID)?;
        Ok(self.0.take(count, FIELD)?.to_vec())
    }
    fn secret(&mut self) -> Read<Zeroizing<Vec<u8>>> {
        self.bytes().map(Zeroizing::new)
    }
    fn text(&mut self) -> Read<String> {
        String::from_utf8(self.bytes()?).map_err(|_| INVALID)
    }
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        (0..self.u32()?).map(|_| read(self)).collect()
    }
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        if self.flag()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }
    fn address(&mut self) -> Read<IpAddr> {
        match self.u8()? {
            4 => Ok(IpAddr::from(self.0.array::<4>(FIELD)?)),
            6 => Ok(IpAddr::from(self.0.array::<16>(FIELD)?)),
            _ => Err(INVALID),
        }
    }
    fn socket(&mut self) -> Read<SocketAddr> {
        Ok(SocketAddr::new(self.address()?, self.u16()?))
    }
    fn identity(&mut self) -> Read<Identity> {
        match self.u8()? {
            0 => Ok(Identity::Any),
            kind => Ok(Identity::Named {
                kind: IdType(kind),
                data: self.bytes()?,
            }),
        }
    }
    fn selectors(&mut self) -> Read<Selectors> {
        let mut side = || {
            self.list(|from| {
                Ok(TrafficSelector {
                    protocol: from.u8()?,
                    start_port: from.u16()?,
                    end_port: from.u16()?,
                    first: from.address()?,
                    last: from.address()?,
                })
            })
        };
        Ok(Selectors {
            local: side()?,
            remote: side()?,
        })
    }
    fn ke(&mut self) -> Read<Ke> {
        let (group, seed) = (KeGroup(self.u16()?), self.secret()?);
        Ke::replay(group, &seed).map_err(|_| INVALID)
    }
}

const PAIR_STATES: [PairState; 5] = [
    PairState::Ready,
    PairState::Active,
    PairState::Replaced,
    PairState::Deleting,
    PairState::Draining,
];

const STATES: [State; 3] = [State::Established, State::Replaced, State::Deleting];

fn number_of<T: PartialEq>(table: &[T], item: &T) -> u8 {
    let found = table.iter().position(|one| one == item);
    found
        .and_then(|at| u8::try_from(at).ok())
        .unwrap_or(u8::MAX)
}

/// The IKE SA as bytes. They hold its keys.
pub(crate) fn write(sa: &IkeSa) -> Zeroizing<Vec<u8>> {
    let mut out = Out(Zeroizing::new(Vec::with_capacity(CAPACITY_BYTES)));
    out.u16(VERSION);
    out.u64(sa.id.0);
    out.u8(number_of(&STATES, &sa.state()));
    out.flag(sa.initiator);
    out.u64(sa.spi_local);
    out.u64(sa.spi_remote);
    out.bytes(sa.connection.name.as_bytes());
    out.socket(sa.local);
    out.socket(sa.remote);
    for flag in [
        sa.nat.local,
        sa.nat.remote,
        sa.nat.encapsulate,
        sa.peer_childless,
        sa.unsettled,
    ] {
        out.flag(flag);
    }
    out.option(sa.keys.as_ref(), |out, keys| {
        out.bytes(&suite_to_bytes(keys.suite()));
        out.bytes(&keys.secrets());
    });
    out.option(sa.local_id.as_ref(), Out::identity);
    out.option(sa.remote_id.as_ref(), Out::identity);
    out.u32(sa.next_request);
    out.u32(sa.next_expected);
    out.option(sa.answer.as_ref(), |out, answer| out.bytes(answer));
    out.u64(sa.established.0);
    out.option(sa.successor, |out, id| out.u64(id.0));
    out.list(&sa.children, write_child);
    write_timers(sa, &mut out);
    let pending = sa
        .pending
        .as_deref()
        .filter(|pending| kind_of(&pending.outstanding).is_some());
    out.option(pending, write_pending);
    out.0
}

fn write_child(out: &mut Out, child: &Child) {
    out.u32(child.id.0);
    out.u32(child.sending);
    out.bytes(child.config.name.as_bytes());
    out.selectors(&child.selectors);
    out.list(&child.pairs, |out, pair| {
        out.u32(pair.inbound_spi);
        out.u32(pair.outbound_spi);
        out.bytes(&pair.inbound_key);
        out.bytes(&pair.outbound_key);
        out.u16(pair.protection.encryption);
        out.u16(pair.protection.key_bits);
        out.flag(pair.protection.esn);
        out.option(pair.protection.group, |out, group| out.u16(group.0));
        let limits = &pair.limits;
        for limit in [
            limits.soft_bytes,
            limits.hard_bytes,
            limits.soft_packets,
            limits.hard_packets,
        ] {
            out.u64(limit);
        }
        out.u32(pair.window_packets);
        out.u8(number_of(&PAIR_STATES, &pair.state));
        out.u64(pair.created.0);
        out.flag(pair.ours);
        out.flag(pair.outbound_up);
    });
}

const fn timer_number(timer: Timer) -> u8 {
    match timer {
        Timer::Retransmit => 0,
        Timer::GiveUp => 1,
        Timer::Task => 2,
        Timer::Liveness => 3,
        Timer::Keepalive => 4,
        Timer::RekeyIke => 5,
        Timer::ExpireIke => 6,
        Timer::RekeyChild(_) => 7,
        Timer::ExpireChild(_) => 8,
        Timer::Confirm(_) => 9,
        Timer::Drain(_) => 10,
        Timer::Replaced(_) => 11,
    }
}

fn write_timers(sa: &IkeSa, out: &mut Out) {
    let timers: Vec<_> = sa.timers.iter().collect();
    out.list(&timers, |out, (timer, at)| {
        out.u8(timer_number(*timer));
        out.u32(timer.child().unwrap_or(0));
        out.u64(at.0);
    });
}

const fn kind_of(outstanding: &Outstanding) -> Option<u8> {
    match outstanding {
        // The handshake is not stored: who is not authenticated starts over.
        Outstanding::Init | Outstanding::Auth(_) => None,
        Outstanding::NewChild(_) => Some(0),
        Outstanding::RekeyChild(_) => Some(1),
        Outstanding::RekeyIke(_) => Some(2),
        Outstanding::DeletePairs(_) => Some(3),
        Outstanding::DeleteIke => Some(4),
        Outstanding::Liveness => Some(5),
    }
}

fn write_pending(out: &mut Out, pending: &Pending) {
    out.u32(pending.message_id);
    out.bytes(&pending.bytes);
    out.u8(kind_of(&pending.outstanding).unwrap_or(u8::MAX));
    match &pending.outstanding {
        Outstanding::NewChild(offer) | Outstanding::RekeyChild(offer) => {
            write_child_offer(out, offer);
        }
        Outstanding::RekeyIke(offer) => {
            out.u64(offer.spi);
            out.bytes(&offer.nonce);
            out.option(offer.ke.as_ref(), Out::ke);
            out.option(offer.rival.as_ref(), |out, rival| {
                out.u64(rival.sa.0);
                out.bytes(&rival.lowest);
            });
        }
        Outstanding::DeletePairs(spis) => out.list(spis, |out, spi| out.u32(*spi)),
        Outstanding::Init
        | Outstanding::Auth(_)
        | Outstanding::DeleteIke
        | Outstanding::Liveness => {}
    }
}

fn write_child_offer(out: &mut Out, offer: &ChildOffer) {
    out.u32(offer.child.0);
    out.bytes(offer.config.name.as_bytes());
    out.u32(offer.spi);
    out.bytes(&offer.nonce);
    out.option(offer.ke.as_ref(), Out::ke);
    out.selectors(&offer.selectors);
    out.option(offer.replaces, Out::u32);
    out.option(offer.rival.as_ref(), |out, rival| {
        out.u32(rival.sa);
        out.bytes(&rival.lowest);
    });
    out.list(&offer.deleted, |out, spi| out.u32(*spi));
}

/// The IKE SA of a checkpoint. `None` if the bytes are not one of this version.
pub(crate) fn read(bytes: &[u8], ctx: &mut Context<'_>) -> Option<IkeSa> {
    let mut from = In(Reader::new(bytes));
    let sa = read_sa(&mut from, ctx).ok()?;
    from.0.is_empty().then_some(sa)
}

fn read_sa(from: &mut In<'_>, ctx: &mut Context<'_>) -> Read<IkeSa> {
    if from.u16()? != VERSION {
        return Err(INVALID);
    }
    let id = IkeId(from.u64()?);
    let state = *STATES.get(usize::from(from.u8()?)).ok_or(INVALID)?;
    let (initiator, spi_local, spi_remote) = (from.flag()?, from.u64()?, from.u64()?);
    let name = from.text()?;
    let connection = ctx.shared.connection(&name).unwrap_or_else(|| {
        // It is no longer configured: what is up goes on until its lifetime ends.
        Arc::new(Connection::new(&name, Vec::new(), Identity::Any))
    });
    let (local, remote) = (from.socket()?, from.socket()?);
    let start = Start {
        initiator,
        spi_local,
        spi_remote,
        connection,
        local,
        remote,
        state,
    };
    let mut sa = IkeSa::with_id(id, start, ctx);
    sa.nat = Nat {
        local: from.flag()?,
        remote: from.flag()?,
        encapsulate: from.flag()?,
    };
    sa.peer_childless = from.flag()?;
    sa.unsettled = from.flag()?;
    sa.keys = from.option(|from| {
        let suite = from.bytes()?;
        let suite = suite_from_bytes(&suite).ok_or(INVALID)?;
        Keys::restore(suite, &from.secret()?, initiator).ok_or(INVALID)
    })?;
    sa.local_id = from.option(In::identity)?;
    sa.remote_id = from.option(In::identity)?;
    sa.next_request = from.u32()?;
    sa.next_expected = from.u32()?;
    sa.answer = from.option(In::bytes)?;
    sa.established = Time(from.u64()?);
    sa.successor = from.option(In::u64)?.map(IkeId);
    let connection = sa.connection.clone();
    sa.children = from.list(|from| read_child(from, &connection))?;
    for (timer, at) in from.list(|from| Ok((read_timer(from)?, Time(from.u64()?))))? {
        sa.timers.set(timer, at);
    }
    let pending = from.option(|from| read_pending(from, &connection, ctx))?;
    sa.pending = pending.map(Box::new);
    Ok(sa)
}

fn config_of(connection: &Connection, name: &str) -> Arc<ChildConfig> {
    let config = connection.child(name).cloned();
    Arc::new(config.unwrap_or_else(|| ChildConfig::new(name, Vec::new())))
}

fn read_child(from: &mut In<'_>, connection: &Arc<Connection>) -> Read<Child> {
    Ok(Child {
        id: ChildId(from.u32()?),
        sending: from.u32()?,
        connection: connection.clone(),
        config: config_of(connection, &from.text()?),
        selectors: from.selectors()?,
        pairs: from.list(read_pair)?,
    })
}

fn read_pair(from: &mut In<'_>) -> Read<Pair> {
    Ok(Pair {
        inbound_spi: from.u32()?,
        outbound_spi: from.u32()?,
        inbound_key: from.secret()?,
        outbound_key: from.secret()?,
        protection: Protection {
            encryption: from.u16()?,
            key_bits: from.u16()?,
            esn: from.flag()?,
            group: from.option(In::u16)?.map(KeGroup),
        },
        limits: Limits {
            soft_bytes: from.u64()?,
            hard_bytes: from.u64()?,
            soft_packets: from.u64()?,
            hard_packets: from.u64()?,
        },
        window_packets: from.u32()?,
        state: *PAIR_STATES.get(usize::from(from.u8()?)).ok_or(INVALID)?,
        created: Time(from.u64()?),
        ours: from.flag()?,
        outbound_up: from.flag()?,
    })
}

fn read_timer(from: &mut In<'_>) -> Read<Timer> {
    let (number, spi) = (from.u8()?, from.u32()?);
    Ok(match number {
        0 => Timer::Retransmit,
        1 => Timer::GiveUp,
        2 => Timer::Task,
        3 => Timer::Liveness,
        4 => Timer::Keepalive,
        5 => Timer::RekeyIke,
        6 => Timer::ExpireIke,
        7 => Timer::RekeyChild(spi),
        8 => Timer::ExpireChild(spi),
        9 => Timer::Confirm(spi),
        10 => Timer::Drain(spi),
        11 => Timer::Replaced(spi),
        _ => return Err(INVALID),
    })
}

fn read_pending(
    from: &mut In<'_>,
    connection: &Arc<Connection>,
    ctx: &Context<'_>,
) -> Read<Pending> {
    let (message_id, bytes) = (from.u32()?, from.bytes()?);
    let (outstanding, task) = match from.u8()? {
        0 => {
            let offer = read_child_offer(from, connection)?;
            let name = offer.config.name.clone();
            (
                Outstanding::NewChild(Box::new(offer)),
                TaskKind::NewChild { name },
            )
        }
        1 => {
            let offer = read_child_offer(from, connection)?;
            let (child, spi) = (offer.child, offer.replaces.unwrap_or(0));
            (
                Outstanding::RekeyChild(Box::new(offer)),
                TaskKind::RekeyChild { child, spi },
            )
        }
        2 => {
            let offer = IkeOffer {
                spi: from.u64()?,
                nonce: from.bytes()?,
                ke: from.option(In::ke)?,
                rival: from.option(|from| {
                    Ok(Rival {
                        sa: IkeId(from.u64()?),
                        lowest: from.bytes()?,
                    })
                })?,
            };
            (Outstanding::RekeyIke(Box::new(offer)), TaskKind::RekeyIke)
        }
        3 => {
            let spis = from.list(In::u32)?;
            (
                Outstanding::DeletePairs(spis.clone()),
                TaskKind::DeletePairs { spis },
            )
        }
        4 => (Outstanding::DeleteIke, TaskKind::DeleteIke),
        5 => (Outstanding::Liveness, TaskKind::Liveness),
        _ => return Err(INVALID),
    };
    Ok(Pending {
        message_id,
        bytes,
        retransmissions: 0,
        wait_ms: ctx.shared.settings.retransmit_timeout_ms,
        task: Some(Task::new(task, None)),
        outstanding,
    })
}

fn read_child_offer(from: &mut In<'_>, connection: &Arc<Connection>) -> Read<ChildOffer> {
    Ok(ChildOffer {
        child: ChildId(from.u32()?),
        config: config_of(connection, &from.text()?),
        spi: from.u32()?,
        nonce: from.bytes()?,
        ke: from.option(In::ke)?,
        selectors: from.selectors()?,
        replaces: from.option(In::u32)?,
        rival: from.option(|from| {
            Ok(Rival {
                sa: from.u32()?,
                lowest: from.bytes()?,
            })
        })?,
        deleted: from.list(In::u32)?,
    })
}

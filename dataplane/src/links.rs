//! What passes between workers and the control thread: bounded channels, nothing shared.
//!
//! Whoever ends a packet's way counts it. So the control thread counts what it reads from taps as
//! injected (or dropped, when the worker's channel is full), what it writes to taps as punted (or
//! dropped) and what waits for a neighbour as held; a worker counts nothing for a frame that it has
//! sent to the control thread or to another worker.

use std::net::IpAddr;
use std::sync::Arc;

use api::id::{ChildId, PolicyId, SaId, Vrf};
use api::record::FiveTuple;
use crossbeam_channel::{Receiver, Sender, bounded};
use dpdk::Mbuf;

use crate::handover;
use crate::idle::Bell;
use crate::packet::Origin;
use crate::port::PortIndex;

/// Frames on their way to the control thread, from all workers.
pub const PUNT_CHANNEL_FRAMES: usize = 4096;
/// Frames on their way from the control thread to one worker.
pub const INJECT_CHANNEL_FRAMES: usize = 1024;
/// Notices on their way to the control thread, from all workers.
pub const NOTICE_CHANNEL_ENTRIES: usize = 4096;

/// Why a frame goes to the control thread; each class has its own rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// IKE_SA_INIT request without a cookie: what anybody may send.
    IkeInit,
    /// IKE_SA_INIT with a cookie: the sender can be reached at its address.
    IkeInitCookie,
    /// Any other IKE message.
    Ike,
    /// ARP, neighbour discovery, MLD and IGMP.
    Neighbour,
    /// All else for the gateway itself, bypassed or decrypted.
    Rest,
}

impl Class {
    /// Number of classes.
    pub const COUNT: usize = 5;

    /// Its place among the classes.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A frame for the tap twin of its port.
pub struct Punt {
    /// From its Ethernet header on.
    pub frame: Mbuf,
    /// The port it arrived at.
    pub port: PortIndex,
    /// Why.
    pub class: Class,
}

/// A finished frame whose next hop is not resolved; its Ethernet destination is not filled in.
pub struct Held {
    /// From its Ethernet header on.
    pub frame: Mbuf,
    /// Port it leaves by.
    pub port: PortIndex,
    /// Whose address is missing.
    pub next_hop: IpAddr,
}

/// A frame for the control thread.
pub enum Exception {
    /// To the twin.
    Punt(Punt),
    /// To wait for its neighbour.
    Held(Held),
}

/// A frame from the control thread.
pub enum Injected {
    /// Read from the tap twin of the port; it still has to pass the SPD.
    FromTwin {
        /// From its Ethernet header on.
        frame: Mbuf,
        /// The twin's port.
        port: PortIndex,
    },
    /// A held frame: the workers' view has the neighbour now, or it is held again.
    Released(Held),
}

/// A frame for the worker that owns the SA it needs. It is classified again there.
#[derive(Debug)]
pub struct HandedOver {
    /// From its Ethernet header on, as it arrived.
    pub frame: Mbuf,
    /// As in [`Packet`](crate::packet::Packet).
    pub port: PortIndex,
    /// As in [`Packet`](crate::packet::Packet).
    pub origin: Origin,
    /// As in [`Packet`](crate::packet::Packet).
    pub vrf: Vrf,
    /// Hand-overs so far.
    pub hops: u8,
}

impl HandedOver {
    /// Most times that a packet is handed on.
    pub const MAX_HOPS: u8 = 4;
}

/// What the control plane should hear of.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A protect policy found no SA; at most once a second and child.
    Acquire {
        /// The policy.
        policy: PolicyId,
        /// Its child.
        child: ChildId,
        /// The packet that asked for it.
        packet: FiveTuple,
    },
    /// A limit was reached; once for each of soft and hard. The row's flag is set as well.
    Expire {
        /// The SA.
        sa: SaId,
        /// True when it is not used any more.
        hard: bool,
    },
    /// An authenticated packet came from another address or port than the path's.
    MappingChanged {
        /// The SA.
        sa: SaId,
        /// Where it came from.
        remote: IpAddr,
        /// UDP source port.
        port: u16,
    },
}

/// One worker's ends.
pub struct WorkerLinks {
    /// Frames for the control thread.
    pub exceptions: Sender<Exception>,
    /// Notices for the control thread.
    pub notices: Sender<Notice>,
    /// Wakes it.
    pub bell: Arc<Bell>,
    /// Frames from the control thread.
    pub injected: Receiver<Injected>,
    /// Frames from other workers.
    pub handed_over: handover::Inbox,
    /// Frames for other workers, by worker number.
    pub peers: Vec<handover::Sender>,
}

/// The control thread's ends.
pub struct ControlLinks {
    /// Frames from workers.
    pub exceptions: Receiver<Exception>,
    /// Notices from workers.
    pub notices: Receiver<Notice>,
    /// Rung by workers after they sent something.
    pub bell: Arc<Bell>,
    /// Frames for workers, by worker number.
    pub workers: Vec<Sender<Injected>>,
}

/// Makes all channels between the control thread and this many workers.
///
/// # Errors
/// When the process has no descriptor left for the bell.
pub fn connect(workers: usize) -> std::io::Result<(ControlLinks, Vec<WorkerLinks>)> {
    let bell = Arc::new(Bell::new()?);
    let (exceptions, exceptions_out) = bounded(PUNT_CHANNEL_FRAMES);
    let (notices, notices_out) = bounded(NOTICE_CHANNEL_ENTRIES);
    let handover: Vec<_> = (0..workers).map(|_| handover::channel()).collect();
    let peers: Vec<_> = handover.iter().map(|(sender, _)| sender.clone()).collect();
    let mut injectors = Vec::with_capacity(workers);
    let mut ends = Vec::with_capacity(workers);
    for (_, handed_over) in handover {
        let (inject, injected) = bounded(INJECT_CHANNEL_FRAMES);
        injectors.push(inject);
        ends.push(WorkerLinks {
            exceptions: exceptions.clone(),
            notices: notices.clone(),
            bell: Arc::clone(&bell),
            injected,
            handed_over,
            peers: peers.clone(),
        });
    }
    let control = ControlLinks {
        exceptions: exceptions_out,
        notices: notices_out,
        bell,
        workers: injectors,
    };
    Ok((control, ends))
}

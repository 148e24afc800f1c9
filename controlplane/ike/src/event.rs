//! What goes into the endpoint besides messages and timers, and what comes out of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use crate::config::CopyDscp;
use crate::selector::SelectorPair;
use crate::verdict::Verdict;

/// An IKE SA of this endpoint. A rekeyed IKE SA has a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IkeId(pub u64);

/// A Child: one set of policies and, by turns, the SA pairs that serve it. It keeps its number when
/// it is rekeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub u32);

impl fmt::Display for IkeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0)
    }
}

/// A command of the operator. It is answered by one `Action::Done` with the same `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the caller.
    pub id: u64,
    /// What to do.
    pub verb: Verb,
}

/// What an operator can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Bring a child up, with an IKE SA if there is none; without a child, an IKE SA alone. Done
    /// when it is up (at once if it already is).
    Initiate {
        /// Name of the connection.
        connection: String,
        /// Name of the child.
        child: Option<String>,
    },
    /// Delete. Done when the peer has agreed, or does not answer.
    Terminate(Target),
    /// Replace keys. Done when the new SA is in use.
    Rekey(Target),
}

/// SAs that a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every IKE SA of a connection.
    Connection(String),
    /// One IKE SA.
    Ike(IkeId),
    /// Every child of that name, of one connection or of all.
    ChildName {
        /// Name of the connection.
        connection: Option<String>,
        /// Name of the child.
        child: String,
    },
    /// One child.
    Child(ChildId),
}

/// What the dataplane tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaEvent {
    /// An SA (by our inbound or the peer's SPI of its child) has reached a limit of bytes or
    /// packets.
    Expire {
        /// The child.
        child: ChildId,
        /// SPI of the SA.
        spi: u32,
        /// Soft: rekey. Hard: close.
        hard: bool,
    },
    /// A packet matched the policies of a trap.
    Acquire {
        /// The trap.
        child: ChildId,
    },
    /// The dataplane did not take an install of this child.
    InstallFailed {
        /// The child.
        child: ChildId,
        /// Inbound SPI of the pair.
        inbound_spi: u32,
    },
    /// The dataplane cannot say which sequence numbers of this SA were used: rekey it.
    Uncertain {
        /// The child.
        child: ChildId,
        /// SPI of the SA.
        spi: u32,
    },
    /// Authentic packets of this inbound SA come from another address or port (RFC 7296 2.23).
    NewRemote {
        /// The child.
        child: ChildId,
        /// Source of the packets.
        remote: SocketAddr,
    },
}

/// One thing to do. The actions of one IKE SA are done in order; a `Transmit` waits until the
/// installs, activations and checkpoints of the same IKE SA before it have taken effect. Between
/// IKE SAs the commands to the dataplane keep their order too.
#[derive(Clone, Debug)]
pub struct Output {
    /// The IKE SA that acts; `None`: none yet (a cookie, an answer to a command).
    pub ike: Option<IkeId>,
    /// What to do.
    pub action: Action,
}

/// What the caller does for the endpoint.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send an IKE message. On the NAT-T port put the non-ESP marker before it (RFC 3948 2.2).
    Transmit {
        /// Source.
        local: SocketAddr,
        /// Destination.
        remote: SocketAddr,
        /// Message without marker.
        bytes: Vec<u8>,
    },
    /// Send one byte 0xFF, without marker (RFC 3948 2.3).
    Keepalive {
        /// Source, on the NAT-T port.
        local: SocketAddr,
        /// Destination.
        remote: SocketAddr,
    },
    /// Store the state of the IKE SA in place of what was stored for it.
    Checkpoint {
        /// For `Endpoint::restore`; holds keys.
        bytes: Zeroizing<Vec<u8>>,
    },
    /// The IKE SA is gone: drop what is stored for it.
    Forget,
    /// Install a new child: path, child, policies both ways, both SAs, the outbound one active.
    InstallChild(Box<ChildInstall>),
    /// Install policies without SAs; a packet that matches is an `Acquire`.
    InstallTrap(Box<ChildSpec>),
    /// Install a second pair of SAs in a child.
    InstallRekeyed(Box<Rekeyed>),
    /// Send on the outbound SA with this SPI from now on.
    ActivateOutbound {
        /// The child.
        child: ChildId,
        /// SPI of the outbound SA (the peer's).
        spi: u32,
    },
    /// Remove one SA. For an inbound one: free its SPI once the dataplane is done with it.
    RemoveSa {
        /// The child.
        child: ChildId,
        /// Its SPI.
        spi: u32,
        /// True: `spi` is ours.
        inbound: bool,
    },
    /// Remove a child without SAs, or a trap: policies, child, path.
    RemoveChild {
        /// The child.
        child: ChildId,
    },
    /// The peer's address or port has changed.
    UpdatePath {
        /// The child.
        child: ChildId,
        /// Where it leads now.
        path: PathSpec,
    },
    /// A request is finished.
    Done {
        /// Of the request.
        request: u64,
        /// Why it failed.
        result: Result<(), Verdict>,
    },
    /// A line for the log.
    Log {
        /// How important.
        level: Level,
        /// Name of the connection, if it is known.
        connection: String,
        /// What happened. Never a secret.
        text: String,
    },
}

/// Importance of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For finding faults.
    Debug,
    /// What happens in the course of things.
    Info,
    /// Something was refused or lost.
    Warn,
}

/// Outer addresses of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSpec {
    /// Own outer address; the port counts with UDP only.
    pub local: SocketAddr,
    /// Peer's outer address.
    pub remote: SocketAddr,
    /// UDP encapsulation (RFC 3948).
    pub udp_encapsulation: bool,
}

impl PathSpec {
    /// Own and peer's address without ports.
    pub const fn addresses(&self) -> (IpAddr, IpAddr) {
        (self.local.ip(), self.remote.ip())
    }
}

/// A child without its SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSpec {
    /// Number.
    pub child: ChildId,
    /// Name of the connection.
    pub connection: String,
    /// Name of the child's configuration.
    pub name: String,
    /// Outer addresses. Of a trap the remote one is a guess, or unspecified.
    pub path: PathSpec,
    /// One policy in each direction for each.
    pub selectors: Vec<SelectorPair>,
    /// Lower is first, 0: compute it from the selectors. The policies of a trap come after those
    /// of every child.
    pub priority: u32,
    /// DF of the inner to the outer header.
    pub copy_df: bool,
    /// ECN both ways.
    pub copy_ecn: bool,
    /// DSCP.
    pub copy_dscp: CopyDscp,
}

/// A child with its first, or restored, pair of SAs.
#[derive(Clone, Debug)]
pub struct ChildInstall {
    /// Policies and path.
    pub spec: ChildSpec,
    /// The SAs.
    pub pair: SaPair,
}

/// A further pair of SAs for a child.
#[derive(Clone, Debug)]
pub struct Rekeyed {
    /// The child.
    pub child: ChildId,
    /// The SAs.
    pub pair: SaPair,
    /// Use the outbound SA at once; otherwise an `ActivateOutbound` follows.
    pub activate: bool,
    /// New policies, if they are others than before.
    pub selectors: Option<Vec<SelectorPair>>,
}

/// Two SAs, one in each direction, agreed on together.
#[derive(Clone, Debug)]
pub struct SaPair {
    /// Ours.
    pub inbound: SaKeys,
    /// The peer's.
    pub outbound: SaKeys,
    /// ENCR transform: 20 is AES-GCM with a 16-byte ICV.
    pub encryption: u16,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Anti-replay window in packets, 0 is off.
    pub window_packets: u32,
    /// Of each of the SAs.
    pub limits: Limits,
    /// The dataplane may hold the pair already: go on with the numbers it knows, and say
    /// `Uncertain` if it knows none.
    pub adopt: bool,
    /// The inbound SA alone: the outbound one is deleted already (only with `adopt`).
    pub inbound_only: bool,
}

/// SPI and key of one SA.
#[derive(Clone)]
pub struct SaKeys {
    /// SPI in the packets.
    pub spi: u32,
    /// Encryption key, then salt.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SaKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaKeys({:08x})", self.spi)
    }
}

/// Limits of one SA; 0 is none. At the soft one `Expire` comes, the hard one ends its use too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub soft_bytes: u64,
    /// Bytes.
    pub hard_bytes: u64,
    /// Packets.
    pub soft_packets: u64,
    /// Packets.
    pub hard_packets: u64,
}

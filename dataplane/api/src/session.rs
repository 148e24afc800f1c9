//! The handshake: descriptors over a Unix socket, and the end of either process.
//!
//! ```text
//! IKE ── Hello { I region, doorbell for IKE, parked P, older D regions } ──▶ dataplane
//! IKE ◀── Welcome { session, D region, doorbell for D, P of the last IKE } ── dataplane
//! IKE ── Park { P } ──▶ dataplane                          (whenever IKE makes a new P)
//! ```
//! The socket keeps packets apart (`SOCK_SEQPACKET`) and stays open: that it closes tells either
//! side that the other died. Nothing here blocks; all types give their descriptor with `AsFd`.

use core::fmt;
use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};

use crate::region::VERSION;

/// Most D regions of dead dataplanes that IKE keeps and hands over.
pub const MAX_OLDER: usize = 4;
/// Most descriptors of one message.
const MAX_FDS: usize = 3 + MAX_OLDER;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4;
/// Magic, version, kind, counts, session: five words.
const MESSAGE_WORDS: usize = 5;
const MESSAGE_BYTES: usize = MESSAGE_WORDS * 8;
const MAGIC: u64 = u64::from_be_bytes(*b"culvertS");

mod kind {
    pub(super) const HELLO: u64 = 1;
    pub(super) const WELCOME: u64 = 2;
    pub(super) const PARK: u64 = 3;
    pub(super) const REFUSED: u64 = 4;
}

/// Why a session cannot start or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// A system call failed.
    System { doing: &'static str, errno: Errno },
    /// The other process is gone, or has closed the socket.
    Closed,
    /// The other process runs as another user.
    Peer { uid: u32 },
    /// The dataplane serves another IKE process, which lives.
    Refused,
    /// Another dataplane listens on the socket.
    Listening,
    /// The message breaks the protocol: which part does.
    Message(&'static str),
    /// The other process speaks another version.
    Version { found: u64 },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { doing, errno } => write!(f, "session: {doing}: {errno}"),
            Self::Closed => f.write_str("session: the other process closed it"),
            Self::Peer { uid } => write!(f, "session: user {uid} is neither ours nor root"),
            Self::Refused => f.write_str("session: the dataplane has a living IKE process"),
            Self::Listening => f.write_str("session: another dataplane listens on the socket"),
            Self::Message(part) => write!(f, "session: message with a wrong {part}"),
            Self::Version { found } => {
                write!(f, "session: version {found}, this build speaks {VERSION}")
            }
        }
    }
}

impl core::error::Error for SessionError {}

fn failed(doing: &'static str) -> impl FnOnce(Errno) -> SessionError {
    move |errno| SessionError::System { doing, errno }
}

/// IKE's first message.
#[derive(Debug)]
pub struct Hello {
    /// The I region, read-only.
    pub commands: OwnedFd,
    /// The dataplane rings it when there are events.
    pub doorbell: OwnedFd,
    /// The P region, if IKE has one already.
    pub park: Option<OwnedFd>,
    /// D regions of dead dataplanes, newest first, at most [`MAX_OLDER`].
    pub older: Vec<OwnedFd>,
}

/// The dataplane's answer.
#[derive(Debug)]
pub struct Welcome {
    /// Counts the sessions of this dataplane from 1.
    pub session: u64,
    /// The D region, read-only.
    pub state: OwnedFd,
    /// IKE rings it when there are commands.
    pub doorbell: OwnedFd,
    /// The P region of the last IKE process, if the dataplane has one and IKE brought none.
    pub park: Option<OwnedFd>,
}

/// What the two processes say over the socket.
#[derive(Debug)]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    /// IKE made a new P region, which replaces the one the dataplane holds.
    Park(OwnedFd),
    /// There is a living IKE process already.
    Refused,
}

impl Message {
    fn words(&self) -> [u64; MESSAGE_WORDS] {
        let (kind, park, session) = match self {
            Self::Hello(hello) => (kind::HELLO, hello.park.is_some(), 0),
            Self::Welcome(welcome) => (kind::WELCOME, welcome.park.is_some(), welcome.session),
            Self::Park(_) => (kind::PARK, true, 0),
            Self::Refused => (kind::REFUSED, false, 0),
        };
        [MAGIC, VERSION, kind, u64::from(park), session]
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Hello(Hello {
                commands,
                doorbell,
                park,
                older,
            }) => {
                let fixed = [commands, doorbell].into_iter().chain(park);
                fixed.chain(older).map(AsFd::as_fd).collect()
            }
            Self::Welcome(Welcome {
                state,
                doorbell,
                park,
                ..
            }) => [state, doorbell]
                .into_iter()
                .chain(park)
                .map(AsFd::as_fd)
                .collect(),
            Self::Park(park) => vec![park.as_fd()],
            Self::Refused => Vec::new(),
        }
    }

    /// Takes a message apart. Descriptors that do not belong close.
    fn parse(words: [u64; MESSAGE_WORDS], fds: Vec<OwnedFd>) -> Result<Self, SessionError> {
        let [magic, version, kind, park, session] = words;
        if magic != MAGIC {
            return Err(SessionError::Message("magic"));
        }
        if version != VERSION {
            return Err(SessionError::Version { found: version });
        }
        if park > 1 {
            return Err(SessionError::Message("park flag"));
        }
        let mut fds = fds.into_iter();
        let mut next = || {
            fds.next()
                .ok_or(SessionError::Message("number of descriptors"))
        };
        let message = match kind {
            kind::HELLO => {
                let (commands, doorbell) = (next()?, next()?);
                let park = if park == 1 { Some(next()?) } else { None };
                let older: Vec<OwnedFd> = fds.by_ref().collect();
                if older.len() > MAX_OLDER {
                    return Err(SessionError::Message("number of descriptors"));
                }
                Self::Hello(Hello {
                    commands,
                    doorbell,
                    park,
                    older,
                })
            }
            kind::WELCOME => {
                let (state, doorbell) = (next()?, next()?);
                let park = if park == 1 { Some(next()?) } else { None };
                Self::Welcome(Welcome {
                    session,
                    state,
                    doorbell,
                    park,
                })
            }
            kind::PARK => Self::Park(next()?),
            kind::REFUSED => Self::Refused,
            _ => return Err(SessionError::Message("kind")),
        };
        match fds.next() {
            None => Ok(message),
            Some(_) => Err(SessionError::Message("number of descriptors")),
        }
    }
}

/// One end of a session. Dropping it ends the session.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Connects to a dataplane. A Unix socket connects at once or not at all.
    ///
    /// # Errors
    /// [`SessionError::System`] when nobody listens, [`SessionError::Peer`] when a wrong user does.
    pub fn connect(path: &Path) -> Result<Self, SessionError> {
        let socket = socket()?;
        let address = SocketAddrUnix::new(path).map_err(failed("socket path"))?;
        net::connect(&socket, &address).map_err(failed("connect to the dataplane"))?;
        Self::checked(socket)
    }

    /// Makes a pair of connected ends, for tests in one process.
    ///
    /// # Errors
    /// [`SessionError::System`].
    pub fn pair() -> Result<(Self, Self), SessionError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(failed("make a socket pair"))?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Only our own user and root may speak.
    fn checked(socket: OwnedFd) -> Result<Self, SessionError> {
        let uid = sockopt::socket_peercred(&socket)
            .map_err(failed("ask who the other process is"))?
            .uid;
        if !is_trusted(uid.as_raw(), rustix::process::geteuid().as_raw()) {
            return Err(SessionError::Peer { uid: uid.as_raw() });
        }
        Ok(Self { socket })
    }

    /// The process at the other end, as the kernel knows it.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let pid = sockopt::socket_peercred(&self.socket).ok()?.pid;
        u32::try_from(pid.as_raw_nonzero().get()).ok()
    }

    /// Sends a message. The few messages of a session always fit the socket's buffer.
    ///
    /// # Errors
    /// [`SessionError::Closed`] when the other process is gone.
    pub fn send(&self, message: &Message) -> Result<(), SessionError> {
        let bytes = to_bytes(message.words());
        let fds = message.fds();
        if fds.len() > MAX_FDS {
            return Err(SessionError::Message("number of descriptors"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(SessionError::Message("number of descriptors"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(SessionError::Closed),
            Err(errno) => Err(failed("send")(errno)),
        }
    }

    /// Receives a message; `None` when there is none yet.
    ///
    /// # Errors
    /// [`SessionError::Closed`] when the other process is gone; [`SessionError::Message`] or
    /// [`SessionError::Version`] when it cannot be understood. The session is over in each case.
    pub fn receive(&self) -> Result<Option<Message>, SessionError> {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = match net::recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(SessionError::Closed),
            Err(errno) => return Err(failed("receive")(errno)),
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Err(SessionError::Closed);
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        if received.bytes != MESSAGE_BYTES || received.flags.intersects(cut) {
            return Err(SessionError::Message("length"));
        }
        Message::parse(from_bytes(&bytes), fds).map(Some)
    }
}

fn is_trusted(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

fn to_bytes(words: [u64; MESSAGE_WORDS]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn from_bytes(bytes: &[u8; MESSAGE_BYTES]) -> [u64; MESSAGE_WORDS] {
    let mut words = [0; MESSAGE_WORDS];
    for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = from
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    words
}

fn socket() -> Result<OwnedFd, SessionError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(failed("make a socket"))
}

/// The dataplane's listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Listens at `path`, mode 0600. A socket that a dead dataplane left there is replaced.
    ///
    /// # Errors
    /// [`SessionError::Listening`] when a living dataplane listens there.
    pub fn bind(path: &Path) -> Result<Self, SessionError> {
        let address = SocketAddrUnix::new(path).map_err(failed("socket path"))?;
        match net::connect(&socket()?, &address) {
            // AGAIN: it lives and its queue is full. PROTOTYPE: another kind of socket lives there.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => return Err(SessionError::Listening),
            Err(Errno::CONNREFUSED) => fs::unlink(path).map_err(failed("remove a dead socket"))?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("look for another dataplane")(errno)),
        }
        let socket = socket()?;
        net::bind(&socket, &address).map_err(failed("bind the socket"))?;
        fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed("set mode 0600"))?;
        net::listen(&socket, BACKLOG).map_err(failed("listen"))?;
        Ok(Self { socket })
    }

    /// Accepts a connection; `None` when nobody waits. One of another user is closed and reported.
    ///
    /// # Errors
    /// [`SessionError::Peer`] or [`SessionError::System`]; the listener can still be used.
    pub fn accept(&self) -> Result<Option<Connection>, SessionError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match net::accept_with(&self.socket, flags) {
            Ok(socket) => Connection::checked(socket).map(Some),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(failed("accept")(errno)),
        }
    }
}

/// An eventfd that wakes the process that polls it.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Doorbell {
    /// A new one, silent.
    ///
    /// # Errors
    /// [`SessionError::System`].
    pub fn new() -> Result<Self, SessionError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            fd: eventfd(0, flags).map_err(failed("make a doorbell"))?,
        })
    }

    /// Takes a received descriptor, if it is an eventfd, and makes sure that ringing cannot block.
    ///
    /// # Errors
    /// [`SessionError::Message`] when it is something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SessionError> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let name = fs::readlink(path, Vec::new()).map_err(failed("look at a doorbell"))?;
        if name.as_bytes() != b"anon_inode:[eventfd]" {
            return Err(SessionError::Message("doorbell"));
        }
        let flags = fs::fcntl_getfl(&fd).map_err(failed("look at a doorbell"))?;
        fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(failed("set up a doorbell"))?;
        Ok(Self { fd })
    }

    /// A descriptor of the same bell, for the other process.
    ///
    /// # Errors
    /// [`SessionError::System`].
    pub fn share(&self) -> Result<OwnedFd, SessionError> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(failed("share a doorbell"))
    }

    /// Wakes whoever polls. A bell that rings already needs no second ring.
    pub fn ring(&self) {
        let _rings_already = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// Makes the bell silent again. To be called before looking at the ring.
    pub fn silence(&self) {
        let _silent_already = rustix::io::read(&self.fd, &mut [0_u8; 8]);
    }
}

#[cfg(test)]
#[cfg(not(any(loom, miri)))]
mod tests;

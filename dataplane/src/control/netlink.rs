//! A small synchronous rtnetlink client: one socket for requests, one for notifications.
//!
//! Requests wait for the kernel's answer, which it gives before `send` returns, so that the control
//! thread is not held up. Notifications are read without waiting; when the kernel had to drop some
//! of them ([`Notice::Lost`]) the caller starts over from a dump.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{self, Timeout};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Room for one datagram of the kernel, which sends at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// Room for notifications that wait to be read.
const MONITOR_BUFFER_BYTES: usize = 4 << 20;
/// How long to wait for the kernel's answer to a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A dump that changed while it was made is made again this many times.
const DUMP_TRIES: usize = 5;
/// Multicast groups of linux/rtnetlink.h: links, neighbours, addresses and routes of both families.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// The socket for requests.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What the notification socket had to say.
pub enum Notice {
    Message(Box<RouteNetlinkMessage>),
    /// Notifications were lost: what is known may be out of date.
    Lost,
}

/// The socket for notifications.
pub struct Monitor {
    socket: Socket,
}

impl Netlink {
    /// Opens the socket in the network namespace of the process.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers at once; if it ever did not, the control thread must go on.
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// All objects that answer `message`, a `Get…` message.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            if let Some(rows) = self.dump_once(message.clone())? {
                return Ok(rows);
            }
        }
        Err(io::Error::other(
            "the kernel's tables changed during every dump",
        ))
    }

    /// Sends one request (add, delete, change) and waits for the acknowledgement.
    ///
    /// `flags` are added to REQUEST and ACK, such as CREATE or REPLACE.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(message, NLM_F_ACK | flags)?;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = answer.payload {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
            }
        }
    }

    /// One dump; `None` when it was interrupted by a change.
    fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let sequence = self.send(message, NLM_F_DUMP)?;
        let mut rows = Vec::new();
        let mut interrupted = false;
        loop {
            for answer in self.receive()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(row) => rows.push(row),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(rows)),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    fn receive(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        self.socket.recv(&mut datagram, 0)?;
        Ok(parse(&datagram))
    }
}

impl Monitor {
    /// Opens a socket that hears of links, neighbours, addresses and routes.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // More than the default limit needs CAP_NET_ADMIN; less means starting over more often.
        if let Err(error) = socket.set_rx_buf_sz(MONITOR_BUFFER_BYTES) {
            log::debug!("netlink: receive buffer not enlarged: {error}");
        }
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket })
    }

    /// What has been announced since the last call; never waits.
    pub fn read(&self, mut sink: impl FnMut(Notice)) -> io::Result<()> {
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
            match self.socket.recv(&mut datagram, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_overrun(&error) => {
                    sink(Notice::Lost);
                    continue;
                }
                Err(error) => return Err(error),
            }
            for message in parse(&datagram) {
                if let NetlinkPayload::InnerMessage(message) = message.payload {
                    sink(Notice::Message(Box::new(message)));
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// ENOBUFS: the kernel dropped notifications for want of room.
fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// The messages of one datagram; what cannot be parsed is left out.
fn parse(datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Some(length) = message_length(rest) {
        let (one, tail) = rest.split_at(length.min(rest.len()));
        match NetlinkMessage::deserialize(one) {
            Ok(message) => messages.push(message),
            Err(error) => log::debug!("netlink: message of {length} bytes left out: {error}"),
        }
        // Messages start at multiples of four.
        rest = tail.get(length.wrapping_neg() % 4..).unwrap_or_default();
    }
    messages
}

/// The length that a message's header gives, if there is a whole header and the length is sane.
fn message_length(bytes: &[u8]) -> Option<usize> {
    const HEADER_BYTES: usize = 16;
    let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?);
    usize::try_from(length)
        .ok()
        .filter(|length| (HEADER_BYTES..=bytes.len()).contains(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    #[test]
    fn loopback_is_in_a_dump_of_links() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink
            .dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .unwrap();
        assert!(links.iter().any(|link| {
            match link {
                RouteNetlinkMessage::NewLink(link) => link
                    .attributes
                    .contains(&LinkAttribute::IfName("lo".into())),
                _ => false,
            }
        }));
    }

    #[test]
    fn garbage_is_no_message() {
        assert!(parse(&[]).is_empty());
        assert!(parse(&[0xff; 40]).is_empty());
        assert!(parse(&[3, 0, 0, 0, 0, 0, 0, 0]).is_empty());
        // A length that says 16 and a type that nobody knows.
        let mut datagram = [0_u8; 16];
        datagram[0] = 16;
        datagram[4] = 0xff;
        parse(&datagram);
    }

    #[test]
    fn a_refused_request_is_an_error() {
        let mut netlink = Netlink::open().unwrap();
        let mut link = LinkMessage::default();
        link.header.index = 0x7fff_0000;
        let answer = netlink.request(RouteNetlinkMessage::DelLink(link), 0);
        assert!(answer.is_err());
    }
}

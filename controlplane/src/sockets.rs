//! The UDP sockets of IKE: ports 500 and 4500, IPv4 and IPv6.
//!
//! One wildcard socket a port and family. The local address of each datagram is taken from, and
//! given to, the kernel by control messages, so that an answer leaves from the address that was
//! asked. On port 4500 IKE follows four zero bytes (RFC 3948 2.2, RFC 7296 2.23).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{
    self, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Non-ESP marker.
const MARKER: [u8; 4] = [0; 4];
/// Largest UDP payload, bytes.
const DATAGRAM_BYTES: usize = 65_535;
/// Room the kernel keeps for datagrams not yet read, bytes: a burst of new peers fits.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// One IKE message from the network, without marker.
pub(crate) struct Datagram {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// One bound socket.
pub(crate) struct IkeSocket {
    socket: UdpSocket,
    port: u16,
    marked: bool,
}

/// All of them.
pub(crate) struct IkeSockets {
    sockets: Vec<IkeSocket>,
}

impl IkeSockets {
    /// Binds `port` (500) and `port_nat_t` (4500) for both families.
    ///
    /// # Errors
    /// Names the address and port that could not be bound. A machine without IPv6 is fine.
    pub(crate) fn bind(port: u16, port_nat_t: u16) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for (port, marked) in [(port, false), (port_nat_t, true)] {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            sockets.push(IkeSocket::bind(v4, marked)?);
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            match IkeSocket::bind(v6, marked) {
                Ok(socket) => sockets.push(socket),
                Err(error) => tracing::warn!("no IPv6: {error}"),
            }
        }
        Ok(Self { sockets })
    }

    /// Waits until some socket has something, then takes up to `most` datagrams of each, so that a
    /// flood on one port leaves the others alone.
    pub(crate) async fn receive(&self, most: usize) -> Vec<Datagram> {
        let readable = self.sockets.iter().map(|s| Box::pin(s.socket.readable()));
        let _ = first_of(readable.collect()).await;
        let mut taken = Vec::new();
        for socket in &self.sockets {
            let share = taken.len() + most;
            while taken.len() < share {
                match socket.try_receive() {
                    Ok(Some(datagram)) => taken.push(datagram),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
        taken
    }

    /// Sends `bytes` from `local` to `remote`; the local port chooses the socket and so the marker.
    ///
    /// # Errors
    /// What the kernel says; a lost message is retransmitted like any other.
    pub(crate) fn send(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let socket = self
            .sockets
            .iter()
            .find(|s| s.port == local.port() && s.is_ipv4() == remote.is_ipv4())
            .ok_or_else(|| io::Error::other(format!("no socket for {local}")))?;
        socket.send(local.ip(), remote, bytes)
    }
}

/// Resolves when the first of `futures` does.
async fn first_of<F: Future + Unpin>(mut futures: Vec<F>) -> F::Output {
    std::future::poll_fn(move |context| {
        for future in &mut futures {
            if let std::task::Poll::Ready(output) = std::pin::Pin::new(future).poll(context) {
                return std::task::Poll::Ready(output);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

impl IkeSocket {
    fn bind(address: SocketAddr, marked: bool) -> io::Result<Self> {
        Self::try_bind(address, marked)
            .map_err(|error| io::Error::new(error.kind(), format!("UDP {address}: {error}")))
    }

    fn try_bind(address: SocketAddr, marked: bool) -> io::Result<Self> {
        let family = if address.is_ipv4() {
            socket::AddressFamily::Inet
        } else {
            socket::AddressFamily::Inet6
        };
        let flags = socket::SockFlag::SOCK_NONBLOCK | socket::SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(family, socket::SockType::Datagram, flags, None)?;
        if address.is_ipv4() {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        // A smaller buffer than asked for is the kernel's right.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(fd))?;
        Ok(Self {
            port: socket.local_addr()?.port(),
            socket,
            marked,
        })
    }

    fn is_ipv4(&self) -> bool {
        self.socket.local_addr().is_ok_and(|a| a.is_ipv4())
    }

    /// `Ok(None)`: something arrived that is not IKE.
    fn try_receive(&self) -> io::Result<Option<Datagram>> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let (length, local, remote) = self
            .socket
            .try_io(Interest::READABLE, || receive(&self.socket, &mut buffer))?;
        buffer.truncate(length);
        let (Some(local), Some(remote)) = (local, remote) else {
            return Ok(None);
        };
        if self.marked {
            // Without marker it is ESP or a keepalive, and the dataplane's.
            if !buffer.starts_with(&MARKER) {
                return Ok(None);
            }
            buffer.drain(..MARKER.len());
        }
        Ok(Some(Datagram {
            local: SocketAddr::new(local, self.port),
            remote,
            bytes: buffer,
        }))
    }

    fn send(&self, local: IpAddr, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let marker: &[u8] = if self.marked && bytes.len() > 1 {
            &MARKER
        } else {
            &[]
        };
        let parts = [IoSlice::new(marker), IoSlice::new(bytes)];
        let to = SockaddrStorage::from(remote);
        let fd = self.socket.as_raw_fd();
        let send = |info: &[ControlMessage<'_>]| {
            socket::sendmsg(fd, &parts, info, MsgFlags::MSG_DONTWAIT, Some(&to))
        };
        match local {
            IpAddr::V4(address) => send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            })]),
            IpAddr::V6(address) => send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: 0,
            })]),
        }?;
        Ok(())
    }
}

type Received = (usize, Option<IpAddr>, Option<SocketAddr>);

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = socket::recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        flags,
    )?;
    let local = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let remote = message.address.as_ref().and_then(socket_address);
    Ok((message.bytes, local, remote))
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::new(v4.ip(), v4.port())));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddr::V6(SocketAddrV6::new(
        v6.ip(),
        v6.port(),
        0,
        v6.scope_id(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports that nobody else on the machine is likely to use.
    fn ports() -> (u16, u16) {
        let base = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        (base, base + 10_000)
    }

    #[tokio::test]
    async fn a_message_arrives_with_both_addresses_and_without_marker() {
        let (port, port_nat_t) = ports();
        let sockets = IkeSockets::bind(port, port_nat_t).unwrap();
        for (address, port) in [
            ("127.0.0.1", port),
            ("127.0.0.2", port_nat_t),
            ("::1", port_nat_t),
        ] {
            let end = SocketAddr::new(address.parse().unwrap(), port);
            sockets.send(end, end, b"a message").unwrap();
            let taken = sockets.receive(8).await;
            assert_eq!(taken.len(), 1, "{end}");
            assert_eq!((taken[0].local, taken[0].remote), (end, end));
            assert_eq!(taken[0].bytes, b"a message");
        }
    }

    #[tokio::test]
    async fn what_is_not_ike_on_the_nat_port_is_left_out() {
        let (port, port_nat_t) = ports();
        let sockets = IkeSockets::bind(port + 1, port_nat_t + 1).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for bytes in [&[0xff][..], &[1, 2, 3, 4, 5, 6, 7, 8], &[]] {
            sender
                .send_to(bytes, ("127.0.0.1", port_nat_t + 1))
                .unwrap();
        }
        sender
            .send_to(b"\0\0\0\0IKE", ("127.0.0.1", port_nat_t + 1))
            .unwrap();
        let mut taken = Vec::new();
        while taken.is_empty() {
            taken = sockets.receive(8).await;
        }
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].bytes, b"IKE");
    }
}

//! Frames for both ports of a gateway: good ones of every kind, rare ones and damaged ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::mutate;
use super::packet::{
    self, ESP, ETHERTYPE_ARP, Header, ICMPV6, Mac, TCP, UDP, arp, ethernet, ethertype,
};
use super::tunnel::{Plain, SHAPES, Tunnel};

/// Networks beside those of the tunnels, by the second byte of 10.x.0.0/16 (and fd00:x::/64).
pub(crate) const NETWORK_INSIDE: u8 = 1;
pub(crate) const NETWORK_BYPASS: u8 = 9;
pub(crate) const NETWORK_UNRESOLVED: u8 = 10;
pub(crate) const NETWORK_DISCARD: u8 = 66;
const NETWORK_UNKNOWN: u8 = 200;

pub(crate) const GATEWAY_INSIDE: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
pub(crate) const GATEWAY_OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const PEER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
pub(crate) const PEER_MAC: Mac = [2, 0xee, 0, 0, 0, 2];
pub(crate) const HOST_MAC: Mac = [2, 0xaa, 0, 0, 0, 2];

/// Keeps what was sealed lately, to be sent again.
const MEMORY: usize = 64;
const SIZES: [usize; 8] = [0, 1, 18, 36, 300, 540, 1300, 1472];

/// The generator of all frames of a run.
pub(crate) struct Traffic {
    random: Rng,
    pub(crate) tunnels: Vec<Tunnel>,
    /// Ethernet addresses of the inside and the outside port.
    ports: [Mac; 2],
    sealed: Vec<Vec<u8>>,
    /// Ends of the gateway, each family: inside, outside; then the peer.
    gateway: [[IpAddr; 2]; 2],
    peer: [IpAddr; 2],
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Host `host` of network `network`.
fn host(network: u8, host: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(10, network, 0, host).into()
    }
}

/// The tunnels of a run, with keys drawn from its seed.
pub(crate) fn tunnels(random: &mut Rng) -> Vec<Tunnel> {
    let outer = |v6: bool| {
        let family = usize::from(v6);
        (address(PEER[family]), address(GATEWAY_OUTSIDE[family]))
    };
    SHAPES
        .iter()
        .filter_map(|shape| Tunnel::new(*shape, outer(shape.v6), random))
        .collect()
}

impl Traffic {
    pub(crate) fn new(random: Rng, tunnels: Vec<Tunnel>, ports: [Mac; 2]) -> Self {
        Self {
            random,
            tunnels,
            ports,
            sealed: Vec::new(),
            gateway: [GATEWAY_INSIDE.map(address), GATEWAY_OUTSIDE.map(address)],
            peer: PEER.map(address),
        }
    }

    /// A frame for the inside port.
    pub(crate) fn inside(&mut self) -> Vec<u8> {
        let v6 = self.random.bool();
        let networks = [
            2,
            3,
            4,
            5,
            2,
            3,
            4,
            5,
            NETWORK_BYPASS,
            NETWORK_UNRESOLVED,
            NETWORK_DISCARD,
            NETWORK_UNKNOWN,
        ];
        let network = networks[self.random.usize(..networks.len())];
        let source = host(NETWORK_INSIDE, self.random.u8(2..250), v6);
        let packet = match self.random.u8(..32) {
            0 => self.at_gateway(source, self.gateway[0][usize::from(v6)]),
            1 => self.noise(),
            2 => return self.neighbour(0, HOST_MAC),
            _ => {
                let to = self.random.u8(..);
                self.plain(source, host(network, to, v6))
            }
        };
        self.finish(packet, 0, HOST_MAC)
    }

    /// A frame for the outside port.
    pub(crate) fn outside(&mut self) -> Vec<u8> {
        let v6 = self.random.bool();
        let peer = self.peer[usize::from(v6)];
        let gateway = self.gateway[1][usize::from(v6)];
        let network = [2, 3, NETWORK_BYPASS, NETWORK_DISCARD][self.random.usize(..4)];
        let packet = match self.random.u8(..32) {
            0..=19 => self.sealed(),
            20 | 21 => self.again(),
            22 => self.unknown_spi(peer, gateway),
            23 => self.nat_traversal(peer, gateway),
            24 => self.ike(peer, gateway),
            25 => self.at_gateway(peer, gateway),
            26 => self.noise(),
            27 => return self.neighbour(1, PEER_MAC),
            _ => {
                let (from, to) = (self.random.u8(2..250), self.random.u8(..));
                self.plain(host(network, from, v6), host(NETWORK_INSIDE, to, v6))
            }
        };
        self.finish(packet, 1, PEER_MAC)
    }

    /// Damages some, and puts the Ethernet header on.
    fn finish(&mut self, mut packet: Vec<u8>, port: usize, from: Mac) -> Vec<u8> {
        if self.random.u8(..5) < 2 {
            mutate::packet(&mut packet, &mut self.random);
        }
        let mut frame = ethernet(self.ports[port], from, ethertype(&packet), &packet);
        match self.random.u8(..16) {
            0 => mutate::frame(&mut frame, &mut self.random),
            // Short packets are padded on a real wire.
            1..=8 if frame.len() < 60 => frame.resize(60, 0),
            _ => {}
        }
        frame
    }

    fn payload(&mut self) -> Vec<u8> {
        let mut length = SIZES[self.random.usize(..SIZES.len())];
        if self.random.u8(..4) == 0 {
            length = self.random.usize(..1472);
        }
        vec![self.random.u8(..); length]
    }

    /// A correct packet of any kind.
    fn plain(&mut self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut header = Header::new(source, destination, UDP);
        header.df = self.random.bool();
        if self.random.u8(..8) == 0 {
            header.tos = self.random.u8(..);
        }
        let ports = (self.random.u16(1024..), self.random.u16(1..));
        let mut payload = self.payload();
        match self.random.u8(..8) {
            0 => {
                payload.splice(..0, ports.0.to_be_bytes().into_iter().chain([0, 80]));
                payload.resize(payload.len().max(20), 0);
                Header {
                    protocol: TCP,
                    ..header
                }
                .around(&payload)
            }
            1 => header.icmp(if source.is_ipv4() { 8 } else { 128 }, 0, &payload),
            2 => header.icmp(self.random.u8(..), self.random.u8(..4), &payload),
            3 => Header {
                protocol: self.random.u8(..),
                ..header
            }
            .around(&payload),
            _ => header.udp(ports, &payload),
        }
    }

    /// What the gateway itself is asked.
    fn at_gateway(&mut self, source: IpAddr, gateway: IpAddr) -> Vec<u8> {
        let header = Header::new(source, gateway, UDP);
        let payload = self.payload();
        match self.random.u8(..5) {
            0 => header.icmp(if source.is_ipv4() { 8 } else { 128 }, 0, &payload),
            1 => header.udp((self.random.u16(..), 500), &payload),
            2 => Header {
                protocol: 51,
                ..header
            }
            .around(&payload),
            3 => Header {
                protocol: TCP,
                ..header
            }
            .around(&payload),
            _ => self.plain(source, gateway),
        }
    }

    /// ESP of a static SA with the next sequence number.
    fn sealed(&mut self) -> Vec<u8> {
        let index = self.random.usize(..self.tunnels.len());
        let jump = match self.random.u8(..64) {
            0 => self.random.u64(1..20_000),
            1..=4 => self.random.u64(1..100),
            _ => 1,
        };
        self.tunnels[index].sequence += jump;
        let mut sequence = self.tunnels[index].sequence;
        if self.random.u8(..32) == 0 {
            // Old, perhaps too old, perhaps 0.
            sequence = sequence.saturating_sub(self.random.u64(..100_000));
        }
        let (inner, next_header) = self.inner(index);
        let wrong_pad_length = (self.random.u8(..64) == 0).then(|| self.random.u8(..));
        let plain = Plain {
            bytes: &inner,
            next_header,
            wrong_pad_length,
        };
        let tos = if self.random.u8(..8) == 0 {
            self.random.u8(..)
        } else {
            0
        };
        let packet = self.tunnels[index].seal(sequence, &plain, tos);
        if self.sealed.len() < MEMORY {
            self.sealed.push(packet.clone());
        } else {
            self.sealed[self.random.usize(..MEMORY)].clone_from(&packet);
        }
        packet
    }

    /// What is inside: mostly what the SA is for.
    fn inner(&mut self, tunnel: usize) -> (Vec<u8>, u8) {
        let v6 = self.random.bool();
        let network = self.tunnels[tunnel].shape.network;
        let network = if self.random.u8(..16) == 0 {
            NETWORK_DISCARD
        } else {
            network
        };
        let to = if self.random.u8(..16) == 0 {
            1
        } else {
            self.random.u8(..)
        };
        let source = host(network, self.random.u8(2..250), v6);
        let mut inner = self.plain(source, host(NETWORK_INSIDE, to, v6));
        let mut next_header = if v6 { 41 } else { 4 };
        match self.random.u8(..16) {
            0 | 1 => mutate::packet(&mut inner, &mut self.random),
            2 => next_header = self.random.u8(..),
            3 => next_header = 59,
            _ => {}
        }
        (inner, next_header)
    }

    /// A packet that was sent before.
    fn again(&mut self) -> Vec<u8> {
        match self.sealed.len() {
            0 => self.sealed(),
            known => self.sealed[self.random.usize(..known)].clone(),
        }
    }

    fn unknown_spi(&mut self, peer: IpAddr, gateway: IpAddr) -> Vec<u8> {
        let mut esp = self.random.u32(..).to_be_bytes().to_vec();
        if self.random.u8(..4) == 0 {
            esp = self.random.u32(..300).to_be_bytes().to_vec();
        }
        esp.extend(self.payload());
        Header::new(peer, gateway, ESP).around(&esp)
    }

    /// UDP 4500: keepalives, messages with the marker, garbage.
    fn nat_traversal(&mut self, peer: IpAddr, gateway: IpAddr) -> Vec<u8> {
        let mut payload = match self.random.u8(..4) {
            0 => vec![0xff],
            1 => vec![0; 4],
            _ => Vec::new(),
        };
        if payload != [0xff] {
            payload.extend(self.payload());
            let from = payload.len().min(4);
            self.random.fill(&mut payload[from..]);
        }
        let mut packet = Header::new(peer, gateway, UDP).udp((self.random.u16(..), 4500), &payload);
        if self.random.u8(..8) == 0 {
            // No checksum: allowed in IPv4 only.
            let at = if peer.is_ipv4() { 26 } else { 46 };
            packet[at..at + 2].fill(0);
        }
        packet
    }

    /// What looks like an IKE message to the classifier.
    fn ike(&mut self, peer: IpAddr, gateway: IpAddr) -> Vec<u8> {
        let mut message = vec![0; 28 + self.random.usize(..200)];
        self.random.fill(&mut message);
        message[16..20].copy_from_slice(&[[33, 41][self.random.usize(..2)], 0x20, 34, 8]);
        if self.random.bool() {
            message[8..16].fill(0);
        }
        Header::new(peer, gateway, UDP).udp((500, 500), &message)
    }

    /// Bytes that mean nothing.
    fn noise(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.random.usize(..1500)];
        self.random.fill(&mut bytes);
        bytes
    }

    /// ARP and neighbour discovery, good and bad.
    fn neighbour(&mut self, port: usize, from: Mac) -> Vec<u8> {
        let gateway = self.gateway[port];
        let (IpAddr::V4(target), IpAddr::V6(target6)) = (gateway[0], gateway[1]) else {
            return Vec::new();
        };
        let source = Ipv4Addr::from_bits(target.to_bits() + 1);
        let mut frame = if self.random.bool() {
            let operation = self.random.u8(..4);
            let message = arp(operation, (from, source), ([0; 6], target));
            ethernet([0xff; 6], from, ETHERTYPE_ARP, &message)
        } else {
            let source6 = Ipv6Addr::from_bits(target6.to_bits() + 1);
            let header = Header::new(source6.into(), target6.into(), ICMPV6);
            let header = Header {
                ttl: if self.random.bool() { 255 } else { 64 },
                ..header
            };
            let mut body = vec![0; 4];
            body.extend(target6.octets());
            body.extend([1, 1]);
            body.extend(from);
            let message = header.icmp(self.random.u8(130..140), 0, &body);
            ethernet(self.ports[port], from, packet::ETHERTYPE_IPV6, &message)
        };
        if self.random.u8(..4) == 0 {
            mutate::frame(&mut frame, &mut self.random);
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(seed: u64) -> Traffic {
        let mut random = Rng::with_seed(seed);
        let tunnels = tunnels(&mut random);
        Traffic::new(random, tunnels, [[2; 6], [4; 6]])
    }

    #[test]
    fn a_seed_gives_the_same_frames_again() {
        let (mut one, mut two, mut other) = (traffic(7), traffic(7), traffic(8));
        let frames = |traffic: &mut Traffic| -> Vec<_> {
            (0..200)
                .map(|_| (traffic.inside(), traffic.outside()))
                .collect()
        };
        let first = frames(&mut one);
        assert_eq!(first, frames(&mut two));
        assert_ne!(first, frames(&mut other));
    }

    #[test]
    fn sequence_numbers_only_rise() {
        let mut traffic = traffic(1);
        let mut before = vec![0; traffic.tunnels.len()];
        for _ in 0..2000 {
            traffic.outside();
            let now: Vec<_> = traffic
                .tunnels
                .iter()
                .map(|tunnel| tunnel.sequence)
                .collect();
            assert!(now.iter().zip(&before).all(|(now, before)| now >= before));
            before = now;
        }
        assert!(before.iter().all(|sequence| *sequence > 100));
    }
}

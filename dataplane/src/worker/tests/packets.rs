//! Frames to feed to a worker.

use std::net::IpAddr;

use esp::checksum;
use esp::ether;

/// What a test packet looks like. UDP from port 1000 to port 2000.
#[derive(Clone, Copy, Debug)]
pub(super) struct TestPacket {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) df: bool,
    pub(super) payload_bytes: usize,
}

impl TestPacket {
    pub(super) fn new(from: &'static str, to: &'static str) -> Self {
        Self {
            from,
            to,
            ttl: 64,
            tos: 0,
            df: false,
            payload_bytes: 100,
        }
    }

    /// The same after so many routers.
    pub(super) fn after_hops(self, hops: u8) -> Self {
        Self {
            ttl: self.ttl - hops,
            ..self
        }
    }

    /// The IP packet.
    pub(super) fn ip(&self) -> Vec<u8> {
        let payload: Vec<u8> = (0..=250).cycle().take(self.payload_bytes).collect();
        let udp = udp(1000, 2000, &payload);
        let (from, to) = (self.from.parse().unwrap(), self.to.parse().unwrap());
        ip(from, to, 17, self.ttl, self.tos, self.df, &udp)
    }
}

pub(super) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let header = [source, destination, len, 0].map(u16::to_be_bytes).concat();
    [&header, payload].concat()
}

/// An IP packet without options or extension headers.
pub(super) fn ip(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    ttl: u8,
    tos: u8,
    df: bool,
    payload: &[u8],
) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let flags = if df { 0x40 } else { 0 };
            let mut header = vec![
                0x45, tos, len[0], len[1], 0x12, 0x34, flags, 0, ttl, protocol, 0, 0,
            ];
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum::internet(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            [&header, payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let mut header = vec![
                0x60 | tos >> 4,
                tos << 4,
                0,
                0,
                len[0],
                len[1],
                protocol,
                ttl,
            ];
            header.extend(from.octets());
            header.extend(to.octets());
            [&header, payload].concat()
        }
        _ => panic!("families differ"),
    }
}

/// An Ethernet frame around an IP packet.
pub(super) fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 {
        ether::IPV4
    } else {
        ether::IPV6
    };
    frame_of(to, from, ethertype, packet)
}

/// An Ethernet frame around anything.
pub(super) fn frame_of(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

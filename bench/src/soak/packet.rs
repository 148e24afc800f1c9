//! Builds packets from their fields, without any code of the dataplane.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ESP: u8 = 50;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERNET_BYTES: usize = 14;

pub(crate) type Mac = [u8; 6];

/// A length as the 16 bits of a header; what does not fit becomes the largest.
pub(crate) fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Ones' complement sum of RFC 1071, folded and inverted.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !short(sum as usize)
}

/// What an IP header says besides addresses and lengths.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) df: bool,
}

impl Header {
    pub(crate) fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            tos: 0,
            ttl: 64,
            df: false,
        }
    }

    /// The packet around `payload`. Both addresses have to be of one family; of a mixed pair the
    /// source's counts, and the destination becomes the unspecified address.
    pub(crate) fn around(&self, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.v4(source, destination, payload),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.v6(source, destination, payload),
            (IpAddr::V4(source), _) => self.v4(source, Ipv4Addr::UNSPECIFIED, payload),
            (IpAddr::V6(source), _) => self.v6(source, Ipv6Addr::UNSPECIFIED, payload),
        }
    }

    fn v4(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, self.tos];
        packet.extend(short(20 + payload.len()).to_be_bytes());
        packet.extend([
            0x12,
            0x34,
            if self.df { 0x40 } else { 0 },
            0,
            self.ttl,
            self.protocol,
        ]);
        packet.extend([0, 0]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        fix_v4_checksum(&mut packet);
        packet.extend(payload);
        packet
    }

    fn v6(&self, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        packet.extend(short(payload.len()).to_be_bytes());
        packet.extend([self.protocol, self.ttl]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend(payload);
        packet
    }

    /// Sum over the pseudo header and the upper-layer packet (RFC 768, RFC 8200 8.1).
    fn transport_checksum(&self, payload: &[u8]) -> u16 {
        let tail = [0, self.protocol];
        let length = short(payload.len()).to_be_bytes();
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        checksum(&[
            &octets(self.source),
            &octets(self.destination),
            &tail,
            &length,
            payload,
        ])
    }

    /// UDP around `payload`, with its checksum.
    pub(crate) fn udp(&self, (source, destination): (u16, u16), payload: &[u8]) -> Vec<u8> {
        let header = Self {
            protocol: UDP,
            ..*self
        };
        let mut datagram = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        datagram.extend(short(8 + payload.len()).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        // RFC 768: a sum of 0 is sent as all ones.
        let sum = match header.transport_checksum(&datagram) {
            0 => u16::MAX,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        header.around(&datagram)
    }

    /// ICMP or ICMPv6 of this type and code, with its checksum.
    pub(crate) fn icmp(&self, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        let header = Self {
            protocol: if v4 { ICMP } else { ICMPV6 },
            ..*self
        };
        let mut message = vec![kind, code, 0, 0];
        message.extend(body);
        let sum = if v4 {
            checksum(&[&message])
        } else {
            header.transport_checksum(&message)
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        header.around(&message)
    }
}

/// Writes the header checksum anew. Anything that has no whole IPv4 header stays as it is.
pub(crate) fn fix_v4_checksum(packet: &mut [u8]) {
    let bytes = packet
        .first()
        .map_or(0, |first| usize::from(first & 15) * 4);
    if bytes < 20 || packet.len() < bytes {
        return;
    }
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..bytes]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An Ethernet frame.
pub(crate) fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to, &from, &ethertype.to_be_bytes()[..], payload].concat()
}

/// The EtherType that fits the IP version of a packet.
pub(crate) fn ethertype(packet: &[u8]) -> u16 {
    match packet.first().map(|first| first >> 4) {
        Some(6) => ETHERTYPE_IPV6,
        _ => ETHERTYPE_IPV4,
    }
}

/// ARP, request (1) or reply (2).
pub(crate) fn arp(operation: u8, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, address) in [from, to] {
        message.extend(mac);
        message.extend(address.octets());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up_to_nothing() {
        let header = Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), UDP);
        let packet = header.udp((1, 2), b"odd");
        assert_eq!(checksum(&[&packet[..20]]), 0);
        let pseudo = [&packet[12..20], &[0, UDP, 0, 11]].concat();
        assert_eq!(checksum(&[&pseudo, &packet[20..]]), 0);
    }

    #[test]
    fn lengths_are_those_of_the_packet() {
        let header = Header::new(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), TCP);
        let packet = header.around(&[0; 300]);
        assert_eq!(packet.len(), 340);
        assert_eq!(packet[4..6], [1, 44]);
        assert_eq!(ethertype(&packet), ETHERTYPE_IPV6);
    }
}

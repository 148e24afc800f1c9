//! Damage: what makes a good frame a bad one, or a rare one.

use fastrand::Rng;

use super::packet::{ETHERNET_BYTES, fix_v4_checksum, short};

/// Changes an IP packet in one to three ways.
pub(super) fn packet(packet: &mut Vec<u8>, random: &mut Rng) {
    for _ in 0..random.u8(1..=3) {
        one(packet, random);
    }
    // A wrong checksum would hide everything else most of the time.
    if random.u8(..8) != 0 && packet.first().is_some_and(|first| first >> 4 == 4) {
        fix_v4_checksum(packet);
    }
}

fn one(packet: &mut Vec<u8>, random: &mut Rng) {
    match random.u8(..14) {
        0 | 1 => flip(packet, random),
        2 => truncate(packet, random),
        3 => {
            let longer = packet.len() + random_length(random);
            packet.resize(longer, random.u8(..));
        }
        4 => overwrite(packet, random),
        5 => length_field(packet, random),
        6 => header_field(packet, random),
        7 => v4_options(packet, random),
        8 => v4_fragment(packet, random),
        9 | 10 => v6_extensions(packet, random),
        11 => address(packet, random),
        12 => udp_length(packet, random),
        _ => nibble(packet, random),
    }
}

fn random_length(random: &mut Rng) -> usize {
    // Mostly a few bytes; now and then more than an ordinary frame has.
    if random.u8(..64) == 0 {
        random.usize(1500..9200)
    } else {
        random.usize(1..64)
    }
}

fn is_v4(packet: &[u8]) -> bool {
    packet.len() >= 20 && packet[0] >> 4 == 4
}

fn is_v6(packet: &[u8]) -> bool {
    packet.len() >= 40 && packet[0] >> 4 == 6
}

/// Flips one to eight bits, anywhere or in the headers.
pub(super) fn flip(bytes: &mut [u8], random: &mut Rng) {
    let reach = if random.bool() {
        bytes.len()
    } else {
        bytes.len().min(64)
    };
    if reach == 0 {
        return;
    }
    for _ in 0..random.u8(1..=8) {
        bytes[random.usize(..reach)] ^= 1 << random.u8(..8);
    }
}

pub(super) fn truncate(bytes: &mut Vec<u8>, random: &mut Rng) {
    bytes.truncate(random.usize(..=bytes.len()));
}

pub(super) fn overwrite(bytes: &mut [u8], random: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    let end = (at + random.usize(1..16)).min(bytes.len());
    random.fill(&mut bytes[at..end]);
}

/// A length near the truth, or at an edge.
fn odd_length(truth: usize, random: &mut Rng) -> u16 {
    match random.u8(..6) {
        0 => 0,
        1 => u16::MAX,
        2 => random.u16(..),
        3 => short(truth).wrapping_add(random.u16(1..4)),
        4 => short(truth).wrapping_sub(random.u16(1..4)),
        _ => random.u16(..64),
    }
}

fn length_field(packet: &mut [u8], random: &mut Rng) {
    let at = match () {
        () if is_v4(packet) => 2,
        () if is_v6(packet) => 4,
        () => return,
    };
    let length = odd_length(packet.len(), random);
    packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// TTL, protocol, DSCP and ECN, IHL.
fn header_field(packet: &mut [u8], random: &mut Rng) {
    let v4 = is_v4(packet);
    if !v4 && !is_v6(packet) {
        return;
    }
    match random.u8(..4) {
        0 => packet[if v4 { 8 } else { 7 }] = random.u8(..3),
        1 => packet[if v4 { 9 } else { 6 }] = random.u8(..),
        2 => packet[1] = random.u8(..),
        _ => packet[0] = packet[0] & 0xf0 | random.u8(..16),
    }
}

/// Puts options between header and payload: good ones, source routes, and nonsense.
fn v4_options(packet: &mut Vec<u8>, random: &mut Rng) {
    if !is_v4(packet) || packet[0] & 15 != 5 {
        return;
    }
    let words = random.usize(1..=10);
    let mut options = vec![1; words * 4];
    match random.u8(..5) {
        0 => {}
        // Record route, loose and strict source route: type, length, pointer.
        1 => options[..3].copy_from_slice(&[7, short(words * 4 - 1).to_be_bytes()[1], 4]),
        2 => options[..3].copy_from_slice(&[131, short(words * 4 - 1).to_be_bytes()[1], 4]),
        3 => options[..3].copy_from_slice(&[137, random.u8(..), random.u8(..)]),
        _ => random.fill(&mut options),
    }
    packet[0] = 0x45 + short(words).to_be_bytes()[1];
    packet.splice(20..20, options);
    let total = short(packet.len()).to_be_bytes();
    packet[2..4].copy_from_slice(&total);
}

fn v4_fragment(packet: &mut [u8], random: &mut Rng) {
    if !is_v4(packet) {
        return;
    }
    let field = match random.u8(..4) {
        0 => 0x2000,
        1 => 0x2000 | random.u16(..8),
        2 => random.u16(1..0x2000),
        _ => random.u16(..),
    };
    packet[6..8].copy_from_slice(&field.to_be_bytes());
}

/// Puts one to nine extension headers behind the IPv6 header, whole or not (RFC 8200 4).
fn v6_extensions(packet: &mut Vec<u8>, random: &mut Rng) {
    if !is_v6(packet) {
        return;
    }
    let mut next = packet[6];
    for _ in 0..random.u8(1..=9) {
        let kind = [0, 43, 44, 60, 51, 135, 59, 140][random.usize(..8)];
        let eights = if random.u8(..16) == 0 {
            random.u8(..)
        } else {
            random.u8(..3)
        };
        let mut header = vec![0; 8 * (usize::from(eights.min(8)) + 1)];
        random.fill(&mut header);
        if kind == 44 {
            header.truncate(8);
            // Often the only fragment (RFC 6946), whose packet is still whole.
            if random.bool() {
                header[2..4].fill(0);
            }
        } else if random.u8(..4) != 0 {
            // PadN over the whole header.
            let pad = header.len() - 4;
            header[4..].fill(0);
            header[2..4].copy_from_slice(&[1, short(pad).to_be_bytes()[1]]);
        }
        header[0] = next;
        if kind != 44 {
            header[1] = eights;
        }
        packet.splice(40..40, header);
        next = kind;
    }
    packet[6] = next;
    let payload = short(packet.len() - 40).to_be_bytes();
    packet[4..6].copy_from_slice(&payload);
}

/// Addresses that never stand in a good packet, or stand in another's.
fn address(packet: &mut [u8], random: &mut Rng) {
    let field = random.usize(..2);
    if is_v4(packet) {
        let choices = [
            [0, 0, 0, 0],
            [127, 0, 0, 1],
            [224, 0, 0, 5],
            [255; 4],
            [169, 254, 1, 1],
            [10, 1, 0, 1],
            [192, 0, 2, 1],
            [10, 1, 0, 255],
            [240, 0, 0, 1],
        ];
        packet[12 + field * 4..16 + field * 4].copy_from_slice(&choices[random.usize(..9)]);
    } else if is_v6(packet) {
        let at = 8 + field * 16;
        let choices = [
            [0, 0],
            [0xff, 2],
            [0xfe, 0x80],
            [0xff, 1],
            [0x20, 1],
            [0xfd, 0],
        ];
        packet[at..at + 2].copy_from_slice(&choices[random.usize(..6)]);
        if random.bool() {
            packet[at + 2..at + 15].fill(0);
        }
    }
}

fn udp_length(packet: &mut [u8], random: &mut Rng) {
    let at = if is_v4(packet) { 24 } else { 44 };
    let truth = packet.len().saturating_sub(at - 4);
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&odd_length(truth, random).to_be_bytes());
    }
}

fn nibble(packet: &mut [u8], random: &mut Rng) {
    if let Some(first) = packet.first_mut() {
        *first = random.u8(..);
    }
}

/// Changes an Ethernet frame.
pub(super) fn frame(frame: &mut Vec<u8>, random: &mut Rng) {
    match random.u8(..9) {
        0 => flip(frame, random),
        1 => truncate(frame, random),
        2 => frame.truncate(random.usize(..=ETHERNET_BYTES + 4)),
        3 | 4 => vlan(frame, random),
        5 => mac(frame, random),
        6 => overwrite(frame, random),
        7 => frame.resize(random.usize(60..9600), random.u8(..)),
        _ if frame.len() >= ETHERNET_BYTES => random.fill(&mut frame[12..14]),
        _ => {}
    }
}

/// Puts in one to four tags of 802.1Q or 802.1ad.
fn vlan(frame: &mut Vec<u8>, random: &mut Rng) {
    if frame.len() < 12 {
        return;
    }
    for _ in 0..random.u8(1..=4) {
        let [a, b] = random.u16(..).to_be_bytes();
        let (first, second) = if random.bool() {
            (0x81, 0)
        } else {
            (0x88, 0xa8)
        };
        frame.splice(12..12, [first, second, a, b]);
    }
}

fn mac(frame: &mut [u8], random: &mut Rng) {
    if frame.len() < 12 {
        return;
    }
    match random.u8(..4) {
        0 => frame[..6].fill(0xff),
        1 => frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]),
        2 => random.fill(&mut frame[..6]),
        // As if it came from the port itself.
        _ => frame.copy_within(..6, 6),
    }
}

//! Whether what a gateway transmitted is right, by an implementation that is not ours: `ring`.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::cell::{ETHERNET_BYTES, Family, Way};
use super::plan::Plan;
use super::traffic::{NAT_T_PORT, NEXT_IPV4, NEXT_IPV6, inner, ip_header_bytes, order};
use crate::soak::packet::{ESP, UDP, checksum};

type Checked<T> = Result<T, String>;

const ICV_BYTES: usize = 16;
const UDP_BYTES: usize = 8;
/// Wrong frames that an error names.
const TOLD: usize = 3;

/// Checks all frames of a capture and gives how many there were.
pub(crate) fn capture(plan: &Plan, path: &Path) -> Result<usize, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut checker = Checker::new(plan);
    let (mut right, mut wrong) = (0_usize, Vec::new());
    for (number, frame) in frames(&bytes).enumerate() {
        // What the kernel says to a whole link is none of the packets'.
        if frame.first().is_some_and(|first| first & 1 == 1) {
            continue;
        }
        match checker.frame(frame) {
            Ok(()) => right += 1,
            Err(error) => wrong.push(format!("frame {number}: {error}")),
        }
    }
    if !wrong.is_empty() {
        let count = wrong.len();
        wrong.truncate(TOLD);
        let text = wrong.join("; ");
        return Err(format!("{count} of {} frames are wrong: {text}", right + count).into());
    }
    if right == 0 {
        return Err("nothing was transmitted".into());
    }
    Ok(right)
}

/// The frames of a capture in the classic format.
fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = rest.get(8..12)?.try_into().ok().map(u32::from_le_bytes)?;
        let end = 16 + usize::try_from(length).ok()?;
        let frame = rest.get(16..end)?;
        rest = rest.get(end..)?;
        Some(frame)
    })
}

/// Knows what the frames of one run may be.
struct Checker<'a> {
    plan: &'a Plan,
    /// Inner packets as they were offered, without what forwarding changes.
    offered: HashSet<Vec<u8>>,
    used: HashSet<(u32, [u8; 8])>,
}

impl<'a> Checker<'a> {
    fn new(plan: &'a Plan) -> Self {
        let outward = plan.cell.way == Way::Enc;
        let offered = order(plan)
            .into_iter()
            .map(|(flow, length)| masked(&inner(plan, flow, length, outward)));
        Self {
            plan,
            offered: offered.collect(),
            used: HashSet::new(),
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Checked<()> {
        let packet = frame.get(ETHERNET_BYTES..).ok_or("too short")?;
        let packet = trimmed(packet)?;
        let opened = match self.plan.cell.way {
            Way::Enc => self.open(&packet)?,
            Way::Dec => packet,
        };
        forwarded(&opened)?;
        if self.offered.contains(&masked(&opened)) {
            Ok(())
        } else {
            Err("the inner packet is none that was offered".to_owned())
        }
    }

    /// Outer header, ESP and trailer; gives the inner packet.
    fn open(&mut self, packet: &[u8]) -> Checked<Vec<u8>> {
        let esp = self.outer(packet)?;
        let head: [u8; 16] = esp
            .get(..16)
            .and_then(|head| head.try_into().ok())
            .ok_or("no ESP header")?;
        let [s0, s1, s2, s3, q0, q1, q2, q3, iv @ ..] = head;
        let (spi, sequence) = ([s0, s1, s2, s3], [q0, q1, q2, q3]);
        let spi = u32::from_be_bytes(spi);
        let flow = self
            .plan
            .flow_of_spi_out(spi)
            .ok_or_else(|| format!("SPI {spi:#x} is nobody's"))?;
        if u32::from_be_bytes(sequence) == 0 {
            return Err("sequence number 0".to_owned());
        }
        if !self.used.insert((spi, iv)) {
            return Err(format!("a nonce of SPI {spi:#x} is used twice"));
        }
        let inner = self.decrypt(flow, esp, sequence, iv)?;
        self.belongs(flow, packet, &inner)?;
        Ok(inner)
    }

    /// What stands behind the outer header and, with encapsulation, behind UDP's.
    fn outer<'p>(&self, packet: &'p [u8]) -> Checked<&'p [u8]> {
        let v4 = self.plan.cell.family == Family::V4;
        let bytes = ip_header_bytes(self.plan.gateway());
        let (header, rest) = packet.split_at_checked(bytes).ok_or("no outer header")?;
        if v4 && checksum(&[header]) != 0 {
            return Err("bad checksum of the outer header".to_owned());
        }
        let protocol = if v4 { header[9] } else { header[6] };
        if !self.plan.cell.udp {
            return if protocol == ESP {
                Ok(rest)
            } else {
                Err(format!("outer protocol {protocol}"))
            };
        }
        let (udp, esp) = rest.split_at_checked(UDP_BYTES).ok_or("no UDP header")?;
        let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        let ports = (word(0), word(2)) == (NAT_T_PORT, NAT_T_PORT);
        if protocol != UDP || !ports || usize::from(word(4)) != rest.len() {
            return Err("bad UDP encapsulation".to_owned());
        }
        Ok(esp)
    }

    fn decrypt(&self, flow: u32, esp: &[u8], sequence: [u8; 4], iv: [u8; 8]) -> Checked<Vec<u8>> {
        let material = self.plan.key(flow, false);
        let (key, salt) = material.split_at(material.len() - 4);
        let algorithm = if key.len() == 16 {
            &AES_128_GCM
        } else {
            &AES_256_GCM
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| "no key")?;
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(salt);
        nonce[4..].copy_from_slice(&iv);
        let spi = &esp[..4];
        // The first packets of an SA: the high half of an extended number is 0 (RFC 4303 2.2.1).
        let high: &[u8] = if self.plan.cell.esn { &[0; 4] } else { &[] };
        let aad = [spi, high, &sequence].concat();
        let mut body = esp[16..].to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let clear = LessSafeKey::new(key)
            .open_in_place(nonce, Aad::from(aad), &mut body)
            .map_err(|_| "the ICV is wrong")?
            .len();
        body.truncate(clear);
        debug_assert_eq!(clear + ICV_BYTES + 16, esp.len());
        let [.., pad, next] = body[..] else {
            return Err("no ESP trailer".to_owned());
        };
        let end = clear
            .checked_sub(2 + usize::from(pad))
            .ok_or("bad padding")?;
        if !body[end..clear - 2].iter().copied().eq(1..=pad) {
            return Err("bad padding".to_owned());
        }
        let expected = match self.plan.cell.family {
            Family::V4 => NEXT_IPV4,
            Family::V6 => NEXT_IPV6,
        };
        if next != expected {
            return Err(format!("next header {next}"));
        }
        body.truncate(end);
        Ok(body)
    }

    /// Outer and inner addresses are those of the SA's flow.
    fn belongs(&self, flow: u32, packet: &[u8], inner: &[u8]) -> Checked<()> {
        let outer = (self.plan.gateway(), self.plan.far_gateway(flow));
        if addresses(packet)? != outer {
            return Err("wrong outer addresses".to_owned());
        }
        if addresses(inner)?.1 != self.plan.far_host(flow) {
            return Err("the wrong SA for this flow".to_owned());
        }
        Ok(())
    }
}

fn is_v4(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
}

/// The packet without what Ethernet put behind it.
fn trimmed(packet: &[u8]) -> Checked<Vec<u8>> {
    let word = |at: usize| {
        let bytes = packet.get(at..at + 2).and_then(|b| b.try_into().ok());
        bytes.map(|b| usize::from(u16::from_be_bytes(b)))
    };
    let length = if is_v4(packet) {
        word(2)
    } else {
        word(4).map(|payload| payload + 40)
    };
    let whole = length.and_then(|length| packet.get(..length));
    whole
        .map(<[u8]>::to_vec)
        .ok_or_else(|| "cut short".to_owned())
}

fn addresses(packet: &[u8]) -> Checked<(IpAddr, IpAddr)> {
    let cut = || "cut short".to_owned();
    if is_v4(packet) {
        let at = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(octets.into())
        };
        return Ok((at(12).ok_or_else(cut)?, at(16).ok_or_else(cut)?));
    }
    let at = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(octets.into())
    };
    Ok((at(8).ok_or_else(cut)?, at(24).ok_or_else(cut)?))
}

/// TTL as offered or one less, and a checksum that fits.
fn forwarded(packet: &[u8]) -> Checked<()> {
    let v4 = is_v4(packet);
    let ttl = packet.get(if v4 { 8 } else { 7 }).copied();
    if !matches!(ttl, Some(63 | 64)) {
        return Err(format!("inner TTL {ttl:?}"));
    }
    if v4 && checksum(&[packet.get(..20).unwrap_or_default()]) != 0 {
        return Err("bad checksum of the inner header".to_owned());
    }
    Ok(())
}

/// The packet without TTL and header checksum.
fn masked(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let changing = if is_v4(&packet) {
        [8, 10, 11]
    } else {
        [7, 7, 7]
    };
    for at in changing {
        if let Some(byte) = packet.get_mut(at) {
            *byte = 0;
        }
    }
    packet
}

#[cfg(test)]
mod tests;

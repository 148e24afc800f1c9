//! Frames of a cell, as the generator reads them: plain ones, or ESP whose payload is still in
//! clear, with sequence number, IV and ICV of zeros. The generator seals those.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::cell::{ETHERNET_BYTES, Way};
use super::plan::{PEER_MAC, PORT_MACS, Plan};
use crate::soak::packet::{ESP, Header, UDP, ethernet, ethertype, short};
use crate::soak::pcap::Capture;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Frames before the order repeats, at least: sizes and flows do not line up.
const FRAMES_MIN: usize = 1200;
/// The order is the same in every run.
const SEED: u64 = 7;
const PORTS: (u16, u16) = (4000, 5000);
pub(crate) const NAT_T_PORT: u16 = 4500;
pub(crate) const NEXT_IPV4: u8 = 4;
pub(crate) const NEXT_IPV6: u8 = 41;
const UDP_BYTES: usize = 8;
const ICV_BYTES: usize = 16;
/// Sequence number, then IV.
const UNSEALED_BYTES: usize = 4 + 8;

/// What the generator is told to read.
pub(crate) struct Files {
    pub(crate) frames: PathBuf,
    /// Keys, where there is something to seal.
    pub(crate) sas: Option<PathBuf>,
}

/// Flow and frame length of each frame, in order.
pub(crate) fn order(plan: &Plan) -> Vec<(u32, usize)> {
    let mut rng = Rng::with_seed(SEED);
    let mut flows = Vec::new();
    // Shuffled one round at a time: from one packet of an SA to its next it is about one round.
    while flows.len() < FRAMES_MIN {
        let mut round: Vec<u32> = (0..plan.cell.sas).collect();
        rng.shuffle(&mut round);
        flows.extend(round);
    }
    let mut lengths = Vec::new();
    while lengths.len() < flows.len() {
        let mut round = plan.cell.size.lengths();
        rng.shuffle(&mut round);
        lengths.extend(round);
    }
    flows.into_iter().zip(lengths).collect()
}

/// The packet of a flow, `outward` from the near host.
pub(crate) fn inner(plan: &Plan, flow: u32, length: usize, outward: bool) -> Vec<u8> {
    let (near, far) = (plan.near_host(), plan.far_host(flow));
    let (source, destination) = if outward { (near, far) } else { (far, near) };
    let header = Header::new(source, destination, UDP);
    let headers = UDP_BYTES + ip_header_bytes(source);
    let text = format!("{flow:08x}");
    let bytes = (length - ETHERNET_BYTES).saturating_sub(headers);
    let payload: Vec<u8> = text.bytes().cycle().take(bytes).collect();
    header.udp(PORTS, &payload)
}

pub(crate) fn ip_header_bytes(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// ESP in tunnel mode around a packet, nothing encrypted yet (RFC 4303 2).
pub(crate) fn encapsulate(plan: &Plan, flow: u32, packet: &[u8]) -> Vec<u8> {
    let mut esp = plan.spi_in(flow).to_be_bytes().to_vec();
    esp.extend([0; UNSEALED_BYTES]);
    esp.extend(packet);
    let pad = (packet.len() + 2).next_multiple_of(4) - packet.len() - 2;
    let pad = u8::try_from(pad).unwrap_or_default();
    esp.extend(1..=pad);
    let next = match ethertype(packet) {
        crate::soak::packet::ETHERTYPE_IPV6 => NEXT_IPV6,
        _ => NEXT_IPV4,
    };
    esp.extend([pad, next]);
    esp.extend([0; ICV_BYTES]);
    let (from, to) = (plan.far_gateway(flow), plan.gateway());
    if !plan.cell.udp {
        return Header::new(from, to, ESP).around(&esp);
    }
    // RFC 3948 2.1: the checksum is 0.
    let port = NAT_T_PORT.to_be_bytes();
    let mut datagram = [
        port,
        port,
        short(UDP_BYTES + esp.len()).to_be_bytes(),
        [0, 0],
    ]
    .concat();
    datagram.extend(esp);
    Header::new(from, to, UDP).around(&datagram)
}

fn frame(packet: &[u8]) -> Vec<u8> {
    ethernet(PORT_MACS[0], PEER_MAC, ethertype(packet), packet)
}

/// Writes the files of a cell into `dir`: one capture a queue, and keys for what is to be sealed.
pub(crate) fn write(plan: &Plan, workers: usize, dir: &Path) -> Result<Files> {
    let frames = dir.join("frames.pcap");
    let mut captures = Vec::new();
    for queue in 0..workers {
        captures.push(Capture::create(&of_queue(&frames, queue))?);
    }
    for (flow, length) in order(plan) {
        let packet = match plan.cell.way {
            Way::Enc => inner(plan, flow, length, true),
            Way::Dec => encapsulate(plan, flow, &inner(plan, flow, length, false)),
        };
        let queue = plan.queue(flow);
        let capture = captures.get_mut(queue).ok_or("a queue too many")?;
        capture.push(&frame(&packet))?;
    }
    for (queue, capture) in captures.into_iter().enumerate() {
        if capture.finish()? == 0 {
            return Err(format!("{} SAs leave queue {queue} empty", plan.cell.sas).into());
        }
    }
    let sas = match plan.cell.way {
        Way::Enc => None,
        Way::Dec => Some(write_sas(plan, dir)?),
    };
    Ok(Files { frames, sas })
}

/// The capture of a queue: the first has the plain name, the others ".1", ".2" behind it.
fn of_queue(frames: &Path, queue: usize) -> PathBuf {
    let mut name = frames.as_os_str().to_owned();
    if queue > 0 {
        name.push(format!(".{queue}"));
    }
    name.into()
}

/// Lines of SPI, key and salt.
fn write_sas(plan: &Plan, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("sas");
    let mut file = BufWriter::new(File::create(&path)?);
    let esn = if plan.cell.esn { " esn" } else { "" };
    for flow in 0..plan.cell.sas {
        let key = plan.key(flow, true);
        let (key, salt) = key.split_at(key.len() - 4);
        let spi = plan.spi_in(flow);
        writeln!(file, "{spi:x} {} {}{esn}", hex(key, ""), hex(salt, ""))?;
    }
    file.flush()?;
    Ok(path)
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8], between: &str) -> String {
    let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    words.join(between)
}

#[cfg(test)]
mod tests {
    use super::super::cell::{Cell, Family, Size};
    use super::*;

    fn plan(size: Size, family: Family, udp: bool) -> Plan {
        let cell = Cell {
            size,
            way: Way::Dec,
            family,
            udp,
            ..Cell::usual(100)
        };
        Plan::new(cell, 1).unwrap()
    }

    #[test]
    fn every_flow_comes_as_often_and_sizes_keep_their_shares() {
        let order = order(&plan(Size::Imix, Family::V4, false));
        assert_eq!(order.len(), 1200);
        for flow in 0..100 {
            assert_eq!(order.iter().filter(|(f, _)| *f == flow).count(), 12);
        }
        assert_eq!(order.iter().filter(|(_, l)| *l == 64).count(), 700);
        assert_eq!(order.iter().filter(|(_, l)| *l == 1514).count(), 100);
    }

    #[test]
    fn frames_have_the_length_that_was_asked_for() {
        for family in [Family::V4, Family::V6] {
            for length in [64, 570, 1420] {
                let plan = plan(Size::Fixed(length), family, false);
                let packet = inner(&plan, 3, length, true);
                assert_eq!(packet.len() + ETHERNET_BYTES, length);
            }
        }
    }

    #[test]
    fn esp_is_padded_to_words_and_carries_the_spi() {
        for (udp, at) in [(false, 20), (true, 28)] {
            let plan = plan(Size::Fixed(65), Family::V4, udp);
            let packet = encapsulate(&plan, 3, &inner(&plan, 3, 65, false));
            assert_eq!(packet[at..at + 4], plan.spi_in(3).to_be_bytes());
            assert_eq!((packet.len() - at - 16 - 16) % 4, 0);
            assert_eq!(
                usize::from(packet[2]) << 8 | usize::from(packet[3]),
                packet.len()
            );
        }
    }

    #[test]
    fn each_queue_gets_the_flows_of_its_worker_and_all_keys_are_written() {
        let plan = Plan::new(plan(Size::Fixed(64), Family::V4, false).cell, 2).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = write(&plan, 2, dir.path()).unwrap();
        for queue in 0..2 {
            let bytes = std::fs::read(of_queue(&files.frames, queue)).unwrap();
            let frame = 16 + 118;
            assert_eq!((bytes.len() - 24) % frame, 0);
            for frame in bytes[24..].chunks(frame) {
                let spi = u32::from_be_bytes(frame[16 + 34..16 + 38].try_into().unwrap());
                let flow = (0..100).find(|flow| plan.spi_in(*flow) == spi).unwrap();
                assert_eq!(plan.queue(flow), queue);
            }
        }
        let sas = std::fs::read_to_string(files.sas.unwrap()).unwrap();
        assert_eq!(sas.lines().count(), 100);
    }

    #[test]
    fn a_queue_without_flows_is_an_error() {
        let mut cell = plan(Size::Fixed(64), Family::V4, false).cell;
        cell.sas = 1;
        let plan = Plan::new(cell, 2).unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(write(&plan, 2, dir.path()).is_err());
    }
}

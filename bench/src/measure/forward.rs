//! The real dataplane between two software ports: one worker, one SA.
//!
//! A capture repeats without end on the inside port; what leaves is counted and dropped. So the
//! figure has the whole packet path in it, and the copy of each frame that the port makes, but no
//! NIC. Cycles are those that the worker's thread got, so other load on the machine does not count.

use std::error::Error;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use fastrand::Rng;

use super::clock::cycles_per_ns;
use super::table::Section;
use crate::soak::dataplane::{default_binary, prepare};
use crate::soak::packet::{Header, Mac, UDP, ethernet, ethertype};
use crate::soak::pcap::Capture;
use crate::soak::site::{Dataplane, Site};
use crate::soak::traffic::{HOST_MAC, NETWORK_BYPASS, NETWORK_INSIDE, tunnels};
use crate::soak::tunnel::SHAPES;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of an IPv4 packet.
const SIZES_BYTES: [usize; 3] = [64, 352, 1424];
/// IPv4 and UDP header.
const HEADERS_BYTES: usize = 28;
const FRAMES: u8 = 128;
const RUN: Duration = Duration::from_secs(1);
const BASELINE: &str = "in clear";

/// Cycles per packet into a tunnel, and in clear by a bypass policy.
pub(super) fn run(runs: usize) -> Result<Section> {
    let title = "culvert-dataplane, net_pcap to nowhere, one worker, one SA, adaptive idle";
    let mut section = Section::new(title, "forward");
    let binary = default_binary()?;
    let dir = tempfile::Builder::new()
        .prefix("culvert-bench-")
        .tempdir()?;
    let site = Site::new(dir.path(), &binary)?;
    let tunnels = tunnels(&mut Rng::new());
    site.configure(&tunnels, ["", ""])?;
    let [inside, _] = prepare(&site)?;
    site.configure(&tunnels, [",infinite_rx=1", ""])?;
    for size in SIZES_BYTES {
        for (by, network) in tunnel_networks()
            .into_iter()
            .chain([(BASELINE, NETWORK_BYPASS)])
        {
            write_capture(&site, inside, network, size)?;
            let dataplane = site.start()?;
            site.add_routes()?;
            let figures = measure(&dataplane, network != NETWORK_BYPASS, runs)
                .map_err(|error| format!("{by}, {size} B: {error}"))?;
            dataplane.stop()?;
            let (cycles, rates) = figures.into_iter().unzip();
            section.push(format!("{size} B"), by, "cycles/packet", cycles);
            section.push(format!("{size} B"), by, "packets/s", rates);
        }
    }
    section.compare_with(BASELINE);
    Ok(section)
}

/// Tunnels over IPv4 and IPv6, of both key lengths.
fn tunnel_networks() -> Vec<(&'static str, u8)> {
    let names = ["aes128 over IPv4", "aes256-esn over IPv6"];
    let plain = SHAPES.iter().filter(|shape| !shape.udp);
    names
        .into_iter()
        .zip(plain.map(|shape| shape.network))
        .collect()
}

/// Frames of one size and of many flows from the host behind the gateway.
fn write_capture(site: &Site, to: Mac, network: u8, size: usize) -> Result<()> {
    let mut capture = Capture::create(&site.capture(0))?;
    for number in 0..FRAMES {
        let source = IpAddr::from([10, NETWORK_INSIDE, 0, 2 + number % 200]);
        let header = Header::new(source, IpAddr::from([10, network, 0, number]), UDP);
        let payload = vec![number; size - HEADERS_BYTES];
        let packet = header.udp((1000 + u16::from(number), 7), &payload);
        capture.push(&ethernet(to, HOST_MAC, ethertype(&packet), &packet))?;
    }
    capture.finish()?;
    Ok(())
}

/// What is read before and after a run.
struct Reading {
    tx: u64,
    encapsulated: u64,
    cpu_ns: u64,
}

/// Cycles per packet and packets per second of the worker's time, for each run.
fn measure(dataplane: &Dataplane<'_>, protected: bool, runs: usize) -> Result<Vec<(f64, f64)>> {
    std::thread::sleep(RUN / 2);
    let mut figures = Vec::new();
    for _ in 0..runs {
        let scale = cycles_per_ns();
        let before = read(dataplane)?;
        std::thread::sleep(RUN);
        let after = read(dataplane)?;
        let scale = (scale + cycles_per_ns()) / 2.0;
        let packets = number(after.tx - before.tx);
        let encapsulated = number(after.encapsulated - before.encapsulated);
        let expected = if protected { packets } else { 0.0 };
        if packets < 1000.0 || (encapsulated - expected).abs() > packets / 20.0 {
            let rows = dataplane.counters()?.rows;
            let rows: Vec<_> = rows.iter().filter(|row| row.value > 0).collect();
            let text = format!("{packets} packets were sent, {encapsulated} of them in ESP");
            return Err(format!("{text}: {rows:?}").into());
        }
        let cpu_ns = number(after.cpu_ns - before.cpu_ns);
        figures.push((cpu_ns * scale / packets, packets / cpu_ns * 1e9));
    }
    Ok(figures)
}

fn number(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::INFINITY, f64::from)
}

fn read(dataplane: &Dataplane<'_>) -> Result<Reading> {
    let counters = dataplane.counters()?;
    Ok(Reading {
        tx: counters.get("tx"),
        encapsulated: counters.get("encapsulated"),
        cpu_ns: worker_ns(dataplane.pid())?,
    })
}

/// Nanoseconds that the first worker's thread has run.
fn worker_ns(pid: u32) -> Result<u64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == "worker-0" {
            let stat = fs::read_to_string(task.join("schedstat"))?;
            let first = stat.split_whitespace().next().ok_or("schedstat is empty")?;
            return Ok(first.parse()?);
        }
    }
    Err("the dataplane has no thread worker-0".into())
}

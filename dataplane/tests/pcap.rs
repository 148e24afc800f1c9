//! The real binary on capture files: clear packets in, ESP out, and through a second gateway back
//! again. Static SAs; the twins are there before, so that addresses and neighbours are known.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// DPDK gives capture ports these addresses, the last byte counting them.
const PORT_MAC: [u8; 5] = [2, 0x70, 0x63, 0x61, 0x70];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const PACKETS: u16 = 50;
const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace and a directory; both go with it.
struct Place {
    ns: String,
    dir: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let ns = format!("fpcap{}{name}", std::process::id());
        let dir = std::env::temp_dir().join(&ns);
        fs::create_dir_all(dir.join("run")).unwrap();
        sh(&format!("ip netns add {ns}"));
        Self { ns, dir }
    }

    fn run(&self, line: &str) {
        sh(&format!("ip netns exec {} {line}", self.ns));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.ns]).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running dataplane; stopped on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sh(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
}

/// Writes Ethernet frames as a capture file (pcap, version 2.4, little-endian).
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1]
        .map(u32::to_le_bytes)
        .concat();
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap();
        file.extend([0, 0, len, len].map(u32::to_le_bytes).concat());
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

/// The whole frames of a capture file that may still be growing.
fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap_or_default();
    let mut rest = file.get(24..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some(len) = rest.get(8..12) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        let Some(frame) = rest.get(16..16 + len) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// A gateway of site 1 or 2 with these frames on its ports; gives what it sent by `port` to its
/// neighbour there.
fn gateway(site: u8, inside: &[Vec<u8>], outside: &[Vec<u8>], port: &str) -> Vec<Vec<u8>> {
    let place = Place::new(&site.to_string());
    write_pcap(&place.dir.join("inside-in.pcap"), inside);
    write_pcap(&place.dir.join("outside-in.pcap"), outside);
    for (twin, mac, address) in [
        ("cv-inside", 0, format!("10.{site}.0.1/16")),
        ("cv-outside", 1, format!("192.0.2.{site}/24")),
    ] {
        place.run(&format!("ip tuntap add {twin} mode tap"));
        place.run(&format!(
            "ip link set {twin} address 02:70:63:61:70:0{mac} up"
        ));
        place.run(&format!("ip address add {address} dev {twin}"));
    }
    let config = place.dir.join("culvert.toml");
    fs::write(&config, configuration(&place.dir, site)).unwrap();
    let mut running = Running(
        Command::new("ip")
            .args(["netns", "exec", &place.ns])
            .args([env!("CARGO_BIN_EXE_culvert-dataplane"), "-c"])
            .arg(&config)
            .spawn()
            .unwrap(),
    );
    let output = place.dir.join(format!("{port}-out.pcap"));
    let end = Instant::now() + PATIENCE;
    loop {
        // A twin forgets its neighbours when it is set up; packets wait for them.
        let (host, peer) = (format!("10.{site}.0.9"), format!("192.0.2.{}", 3 - site));
        let set = "ip neighbour replace nud permanent";
        place.run(&format!(
            "{set} to {host} lladdr 02:00:00:00:00:09 dev cv-inside"
        ));
        place.run(&format!(
            "{set} to {peer} lladdr 02:70:63:61:70:01 dev cv-outside"
        ));
        let mut frames = read_pcap(&output);
        // Linux looks for neighbours and routers by itself.
        frames.retain(|frame| frame[12..14] == [8, 0] && frame[0] & 1 == 0);
        if frames.len() >= usize::from(PACKETS) {
            return frames;
        }
        assert_eq!(running.0.try_wait().unwrap(), None, "it has ended");
        let counted = counters(&place.dir);
        assert!(Instant::now() < end, "{} frames: {counted}", frames.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the gateway counted, for a test that fails.
fn counters(dir: &Path) -> String {
    let ask = || -> std::io::Result<String> {
        let mut socket = UnixStream::connect(dir.join("run/dataplane-admin.sock"))?;
        socket.write_all(b"{\"get\":\"counters\"}\n")?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|error| error.to_string())
}

fn configuration(dir: &Path, site: u8) -> String {
    let other = 3 - site;
    let run = dir.join("run");
    let port = |name: &str| {
        let dir = dir.display();
        format!(
            "[[dataplane.ports]]\nname = \"{name}\"\nside = \"{name}\"\n\
             device = \"net_pcap_{name},rx_pcap={dir}/{name}-in.pcap,\
             tx_pcap={dir}/{name}-out.pcap\"\n"
        )
    };
    let key = |site: u8| {
        format!(
            "spi = {}\nkey = \"{}\"\nsequence = 7\n",
            5000 + u32::from(site),
            format!("{site:02x}").repeat(20)
        )
    };
    format!(
        "[dataplane]\nrun_dir = \"{}\"\nworkers = 1\nmemory_mib = 96\nmax_sas = 64\n\
         huge = false\nallow_static_keys = true\n{}{}\
         [[dataplane.static_sas]]\nname = \"site\"\nesp_proposal = \"aes128gcm16\"\n\
         local = \"192.0.2.{site}\"\nremote = \"192.0.2.{other}\"\n\
         local_ts = [\"10.{site}.0.0/16\"]\nremote_ts = [\"10.{other}.0.0/16\"]\n\
         [dataplane.static_sas.inbound]\n{}[dataplane.static_sas.outbound]\n{}",
        run.display(),
        port("inside"),
        port("outside"),
        key(site),
        key(other)
    )
}

fn port_mac(port: u8) -> Vec<u8> {
    [&PORT_MAC[..], &[port]].concat()
}

/// The frame of UDP packet `number` from site 1 to site 2, after so many routers.
fn clear(number: u16, hops: u8, to: &[u8], from: &[u8]) -> Vec<u8> {
    let payload = vec![b'x'; usize::from(number) * 20];
    let length = u16::try_from(28 + payload.len()).unwrap().to_be_bytes();
    let id = number.to_be_bytes();
    let mut ip = vec![
        0x45,
        0,
        length[0],
        length[1],
        id[0],
        id[1],
        0,
        0,
        64 - hops,
        17,
        0,
        0,
    ];
    ip.extend([10, 1, 0, 9, 10, 2, 0, 9]);
    let sum = esp::checksum::internet(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let udp = [1000, 2000, 8 + u16::try_from(payload.len()).unwrap(), 0].map(u16::to_be_bytes);
    [to, from, &[8, 0], &ip, &udp.concat(), &payload].concat()
}

#[test]
fn clear_packets_become_esp_and_come_back_whole() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED: needs root, network namespaces and /dev/net/tun");
        return;
    }
    let sent: Vec<_> = (1..=PACKETS)
        .map(|number| clear(number, 0, &port_mac(0), &HOST_MAC))
        .collect();
    let mut esp = gateway(1, &sent, &[], "outside");
    for (number, frame) in (8_u32..).zip(&mut esp) {
        assert_eq!(
            (frame[23], &frame[26..34]),
            (50, &[192, 0, 2, 1, 192, 0, 2, 2][..])
        );
        assert_eq!(frame[34..38], 5002_u32.to_be_bytes(), "SPI");
        assert_eq!(
            frame[38..42],
            number.to_be_bytes(),
            "behind the configured sequence"
        );
        // Both gateways have the same MAC address; on a wire they could not.
        frame[6..12].copy_from_slice(&HOST_MAC);
    }
    let forged = {
        let mut forged = esp[0].clone();
        forged[60] ^= 1;
        forged
    };
    let replayed = esp[1].clone();
    let offered = [vec![forged], esp, vec![replayed]].concat();
    let arrived = gateway(2, &[], &offered, "inside");
    let expected: Vec<_> = (1..=PACKETS)
        .map(|number| clear(number, 2, &HOST_MAC, &port_mac(0)))
        .collect();
    assert_eq!(arrived, expected);
}

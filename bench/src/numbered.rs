//! Numbered UDP both ways at a steady rate: which datagrams arrived, once, in what order.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

/// Number of a datagram that only says that its sender is there.
const HELLO: u64 = u64::MAX;
/// Length of a datagram: number (8 bytes, big-endian) and filling.
const DATAGRAM_BYTES: usize = 200;

#[derive(Args)]
pub(crate) struct Options {
    /// Own address and port
    #[arg(long)]
    local: SocketAddr,
    /// The other end, which runs the same command the other way round
    #[arg(long)]
    remote: SocketAddr,
    /// Datagrams a second
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Stop sending after so many seconds at the latest
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Stop sending as soon as this file exists
    #[arg(long)]
    until: Option<PathBuf>,
    /// Go on receiving for so many milliseconds after the last one was sent
    #[arg(long, default_value_t = 2000)]
    linger_ms: u64,
}

/// What one end saw. Printed as one line of JSON.
#[derive(Default, Serialize)]
struct Report {
    sent: u64,
    received: u64,
    duplicates: u64,
    out_of_order: u64,
    /// Longest time between two datagrams received, milliseconds.
    longest_gap_ms: u128,
}

struct Receiver {
    /// The other end is there, so what is sent now should arrive.
    met: bool,
    seen: HashSet<u64>,
    highest: Option<u64>,
    last: Option<Instant>,
    report: Report,
}

impl Receiver {
    fn take(&mut self, number: u64) {
        self.met = true;
        if number == HELLO {
            return;
        }
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            let gap_ms = now.duration_since(last).as_millis();
            self.report.longest_gap_ms = self.report.longest_gap_ms.max(gap_ms);
        }
        if !self.seen.insert(number) {
            self.report.duplicates += 1;
            return;
        }
        self.report.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.report.out_of_order += 1;
        }
        self.highest = self.highest.max(Some(number));
    }

    /// Takes all that has arrived.
    fn drain(&mut self, socket: &UdpSocket) -> std::io::Result<()> {
        let mut buffer = [0; DATAGRAM_BYTES];
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) if length >= 8 => {
                    let mut number = [0; 8];
                    number.copy_from_slice(&buffer[..8]);
                    self.take(u64::from_be_bytes(number));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // An ICMP error about an earlier datagram: it will show as a loss.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Says hello until something comes back, and once more so that the other end knows, too.
fn meet(
    socket: &UdpSocket,
    receiver: &mut Receiver,
    over: impl Fn() -> bool,
) -> std::io::Result<()> {
    let hello = [0xff; DATAGRAM_BYTES];
    while !over() {
        // Refused while the other end is not there yet.
        let _ = socket.send(&hello);
        if receiver.met {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        receiver.drain(socket)?;
    }
    Ok(())
}

/// Sends and receives until told to stop, then prints a [`Report`].
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let socket = UdpSocket::bind(options.local)?;
    socket.connect(options.remote)?;
    socket.set_nonblocking(true)?;
    let mut receiver = Receiver {
        met: false,
        seen: HashSet::new(),
        highest: None,
        last: None,
        report: Report::default(),
    };
    let last = Instant::now() + Duration::from_secs(options.seconds);
    let over =
        || Instant::now() >= last || options.until.as_ref().is_some_and(|file| file.exists());
    meet(&socket, &mut receiver, over)?;
    let start = Instant::now();
    let period = Duration::from_secs(1) / options.rate.max(1);
    let mut datagram = [0x5a; DATAGRAM_BYTES];
    let mut refused = 0_u64;
    while !over() {
        let due = u64::try_from(start.elapsed().as_nanos() / period.as_nanos().max(1))?;
        while receiver.report.sent + refused < due {
            datagram[..8].copy_from_slice(&receiver.report.sent.to_be_bytes());
            match socket.send(&datagram) {
                Ok(_) => receiver.report.sent += 1,
                // Not sent, so not lost: the kernel's queue was full.
                Err(_) => refused += 1,
            }
        }
        receiver.drain(&socket)?;
        std::thread::sleep(period.min(Duration::from_millis(1)));
    }
    let end = Instant::now() + Duration::from_millis(options.linger_ms);
    while Instant::now() < end {
        receiver.drain(&socket)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{}", serde_json::to_string(&receiver.report)?);
    Ok(())
}

//! Ports at start: devices attached and started, twins made, addresses moved.

use dpdk::{Eal, Mempool, MempoolConfig, PortConfig, Queues};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use api::config::{DataplaneConfig, Port as Configured, Side as ConfiguredSide, shared_device};
use api::id::{Interface, Vrf};

use super::devices;
use super::exceptions::Twin;
use super::netlink::Netlink;
use super::nft;
use super::takeover;
use super::tap::Tap;
use crate::port::{Mac, PortIndex, PortInfo, Side};

/// Descriptors of each queue.
const DESCRIPTORS: u16 = 1024;
/// Ethernet header with a VLAN tag, and what a packet ring puts in front of a frame, in bytes.
const FRAME_OVERHEAD_BYTES: u32 = 18 + 128;
/// The smallest buffer, in bytes: any frame of an ordinary Ethernet.
const FRAME_MIN_BYTES: u16 = 2048;
/// A packet ring of Linux: bytes of a block, and frames in the ring.
const RING_BLOCK_BYTES: u32 = 1 << 16;
const RING_FRAMES: u32 = 2048;
/// Memory of the EAL for everything but the pool, in bytes.
const EAL_RESERVE_BYTES: u64 = 16 << 20;
/// Frames under way outside of queues: exception path, hand-over, batches.
const FRAMES_UNDER_WAY: u32 = 8192;

/// A port that runs. Its device closes when this and its queues are gone.
pub struct OpenPort {
    pub info: PortInfo,
    pub device: dpdk::Port,
    pub queues: u16,
    pub twin: Option<String>,
    pub removed: bool,
}

/// The MTU of a port: as configured, or that of the network device it shares with Linux.
fn mtu_bytes(netlink: &mut Netlink, port: &Configured) -> io::Result<u16> {
    if let Some(mtu) = port.mtu_bytes {
        return Ok(mtu);
    }
    let Some(shared) = shared_device(&port.device) else {
        return Ok(ETHERNET_MTU_BYTES);
    };
    let link = devices::find(netlink, shared)?;
    let mtu = link.map_or_else(|| ETHERNET_MTU_BYTES.into(), |link| link.mtu_bytes);
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// What Ethernet carries unless somebody says otherwise.
const ETHERNET_MTU_BYTES: u16 = 1500;

/// Bytes of a buffer for the frames of an MTU; a power of two, as packet rings want it.
fn frame_bytes(mtu_bytes: u16) -> u16 {
    let needed = (u32::from(mtu_bytes) + FRAME_OVERHEAD_BYTES).next_power_of_two();
    u16::try_from(needed)
        .unwrap_or(1 << 15)
        .max(FRAME_MIN_BYTES)
}

/// Whether the port is a packet socket of Linux.
fn is_packet_port(port: &Configured) -> bool {
    port.device.starts_with("net_af_packet")
}

/// A packet port gets rings for its queues and MTU, unless its string says what it wants.
fn device_string(port: &Configured, mtu_bytes: u16, queues: u16) -> String {
    let mut text = port.device.clone();
    if !is_packet_port(port) {
        return text;
    }
    let wanted = [
        ("qpairs", u32::from(queues)),
        ("blocksz", RING_BLOCK_BYTES),
        ("framesz", frame_bytes(mtu_bytes).into()),
        ("framecnt", RING_FRAMES),
    ];
    for (key, value) in wanted {
        if dpdk::device::argument(&text, key).is_none() {
            text += &format!(",{key}={value}");
        }
    }
    text
}

/// The pool of all ports: as many buffers as they need, or as the memory allows.
pub fn pool(
    eal: &Eal,
    netlink: &mut Netlink,
    config: &DataplaneConfig,
) -> Result<Mempool, Box<dyn Error>> {
    let mut most = FRAME_MIN_BYTES;
    for port in &config.ports {
        most = most.max(frame_bytes(mtu_bytes(netlink, port)?));
    }
    let queues: u32 = config.ports.iter().map(|port| u32::from(port.queues)).sum();
    let needed = queues * 2 * u32::from(DESCRIPTORS) + FRAMES_UNDER_WAY;
    let memory = (u64::from(config.memory_mib) << 20).saturating_sub(EAL_RESERVE_BYTES);
    let mut mbufs = needed.next_power_of_two() - 1;
    let pool = |mbufs| MempoolConfig {
        mbufs,
        frame_bytes: most.saturating_add(128),
        ..MempoolConfig::default()
    };
    while mbufs > 1023 && pool(mbufs).memory_bytes() > memory {
        mbufs /= 2;
    }
    if mbufs < needed {
        log::info!(
            "{mbufs} packet buffers fit into memory_mib = {}, {needed} would serve all queues",
            config.memory_mib
        );
    }
    Ok(Mempool::new(eal, "frames", pool(mbufs))?)
}

/// Attaches and starts a port.
pub fn open(
    eal: &Eal,
    netlink: &mut Netlink,
    (index, port): (PortIndex, &Configured),
    workers: u16,
    pool: Mempool,
    run_dir: &Path,
) -> Result<(OpenPort, Queues), Box<dyn Error>> {
    if let (Some(device), Some(twin)) = (&port.takeover, &port.twin) {
        takeover::remember(netlink, run_dir, device, twin)?;
    }
    let mtu_bytes = mtu_bytes(netlink, port)?;
    // Every worker needs a queue to send by; a packet port has as many to receive by.
    let transmit = port.queues.max(workers);
    let pairs = is_packet_port(port);
    let receive = if pairs { transmit } else { port.queues };
    let mut device = dpdk::Port::attach(eal, &device_string(port, mtu_bytes, transmit))?;
    let start = PortConfig {
        rx_queues: receive,
        tx_queues: transmit,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        rss: true,
        mtu: port.mtu_bytes,
    };
    let queues = device.start(&start, &[pool])?;
    let info = PortInfo {
        index,
        name: port.name.clone(),
        side: match port.side {
            ConfiguredSide::Inside => Side::Inside,
            ConfiguredSide::Outside => Side::Outside,
        },
        vrf: Vrf(port.vrf),
        interface: Interface(port.interface),
        mac: Mac(device.mac()?),
        mtu_bytes,
    };
    let open = OpenPort {
        info,
        device,
        queues: receive,
        twin: port.twin.clone(),
        removed: false,
    };
    Ok((open, queues))
}

/// What the rules of a port are called after: its twin, or itself if it has none.
#[must_use]
pub fn rules_name(port: &Configured) -> &str {
    port.twin.as_deref().unwrap_or(&port.name)
}

/// Puts the rules for a port in place that keep the kernel away from its packets.
pub fn guard(port: &Configured) -> Result<(), nft::NftError> {
    let shared = port
        .takeover
        .as_deref()
        .or_else(|| shared_device(&port.device));
    if port.twin.is_none() && shared.is_none() {
        return Ok(());
    }
    nft::guard(rules_name(port), shared)
}

/// Makes the twin of a port and moves addresses and routes to it.
pub fn make_twin(
    netlink: &mut Netlink,
    run_dir: &Path,
    port: &Configured,
    info: &PortInfo,
) -> Result<Option<Twin>, Box<dyn Error>> {
    let Some(name) = &port.twin else {
        return Ok(None);
    };
    let fresh = devices::find(netlink, name)?.is_none();
    let tap = Tap::open(netlink, name, info.mac, info.mtu_bytes)?;
    let Some(link) = devices::find(netlink, name)? else {
        return Err(format!("twin \"{name}\" is gone already").into());
    };
    if let Some(device) = &port.takeover {
        takeover::take_over(netlink, run_dir, device, &link, fresh)?;
    }
    for prefix in &port.addresses {
        let message = address(link.index, prefix.address, prefix.bits);
        devices::add_address(netlink, message)
            .map_err(|error| format!("twin \"{name}\": address {}: {error}", prefix.address))?;
    }
    Ok(Some(Twin {
        port: info.index,
        name: name.clone(),
        tap,
        lost: false,
    }))
}

/// An address for a twin, usable at once.
fn address(index: u32, address: IpAddr, bits: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = bits;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: &str) -> Configured {
        Configured {
            name: "a".to_owned(),
            interface: 1,
            device: device.to_owned(),
            side: ConfiguredSide::Inside,
            twin: None,
            takeover: None,
            addresses: Vec::new(),
            mtu_bytes: None,
            queues: 2,
            vrf: 0,
        }
    }

    #[test]
    fn a_packet_port_gets_rings_and_others_are_left_alone() {
        let plain = device_string(&port("net_af_packet0,iface=eth1"), 1500, 2);
        let rings = "qpairs=2,blocksz=65536,framesz=2048,framecnt=2048";
        assert_eq!(plain, format!("net_af_packet0,iface=eth1,{rings}"));
        let own = device_string(&port("net_af_packet0,iface=eth1,framecnt=512"), 1500, 2);
        assert!(own.contains("framecnt=512") && !own.contains("framecnt=2048"));
        assert_eq!(device_string(&port("net_null0"), 1500, 2), "net_null0");
    }

    #[test]
    fn buffers_hold_every_frame_of_the_mtu() {
        for mtu in [1280, 1500, 1902, 1903, 9000, 9198] {
            let room = frame_bytes(mtu);
            assert!(u32::from(room) >= u32::from(mtu) + 18 + 32, "{mtu}");
            assert!(room.is_power_of_two());
        }
    }
}

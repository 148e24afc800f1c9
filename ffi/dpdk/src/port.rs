//! Ports: attaching a device, its abilities, its queues, its end.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys::{
    RTE_ETH_DEV_INTR_LSC, RTE_ETH_DEV_INTR_RMV, RTE_ETH_EVENT_INTR_RMV, RTE_ETH_MQ_RX_RSS,
    RTE_ETH_RSS_ESP, RTE_ETH_RX_OFFLOAD_SECURITY, RTE_ETH_TX_OFFLOAD_SECURITY, RTE_MAX_ETHPORTS,
    rte_eth_conf, rte_eth_dev_adjust_nb_rx_tx_desc, rte_eth_dev_callback_register,
    rte_eth_dev_close, rte_eth_dev_configure, rte_eth_dev_get_mtu, rte_eth_dev_get_port_by_name,
    rte_eth_dev_info, rte_eth_dev_info_get, rte_eth_dev_is_removed, rte_eth_dev_start,
    rte_eth_dev_stop, rte_eth_event_type, rte_eth_macaddr_get, rte_eth_promiscuous_disable,
    rte_eth_promiscuous_enable, rte_eth_rx_queue_setup, rte_eth_stats, rte_eth_stats_get,
    rte_eth_tx_queue_setup, rte_ether_addr,
};

use crate::{Eal, Errno, Mempool, RxQueue, TxQueue, device, log};

/// Any NUMA node.
const SOCKET_ANY: u32 = u32::MAX;

const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

/// Ports that have a [`Device`]: probing an attached device again is no error to DPDK.
static ATTACHED: [AtomicBool; RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; RTE_MAX_ETHPORTS as usize];

/// Set by the interrupt thread when a device reports that it is gone.
static REMOVED: [AtomicBool; RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; RTE_MAX_ETHPORTS as usize];

/// What went wrong, and with which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortError {
    /// The device string.
    pub device: String,
    pub fault: PortFault,
}

/// What went wrong with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortFault {
    /// No driver knows the device, or it refuses; with what DPDK logged.
    Attach { errno: Errno, log: Option<String> },
    /// The driver took the device but made no port.
    NoPort,
    /// The device has fewer queues in this direction.
    TooManyQueues {
        direction: &'static str,
        wanted: u16,
        most: u16,
    },
    /// No queue or no pool was asked for.
    NoQueues,
    /// Queues of an earlier start still exist.
    QueuesInUse,
    /// A call of DPDK failed; with what it logged.
    Call {
        what: &'static str,
        errno: Errno,
        log: Option<String>,
    },
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {:?}: ", self.device)?;
        let log = match &self.fault {
            PortFault::Attach { errno, log } => {
                write!(f, "cannot attach the device: {errno}")?;
                log
            }
            PortFault::Call { what, errno, log } => {
                write!(f, "{what}: {errno}")?;
                log
            }
            PortFault::NoPort => return f.write_str("the driver made no port of this device"),
            PortFault::TooManyQueues {
                direction,
                wanted,
                most,
            } => {
                return write!(
                    f,
                    "{wanted} {direction} queues wanted, the device has {most}"
                );
            }
            PortFault::NoQueues => return f.write_str("a port needs queues and a pool"),
            PortFault::QueuesInUse => return f.write_str("its queues are still in use"),
        };
        log.as_ref().map_or(Ok(()), |log| write!(f, " ({log})"))
    }
}

impl std::error::Error for PortError {}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    pub driver: String,
    pub max_rx_queues: u16,
    pub max_tx_queues: u16,
    pub min_mtu: u16,
    pub max_mtu: u16,
    /// Entries of the RSS indirection table, 0 for none.
    pub reta_size: u16,
    /// `RTE_ETH_RSS_*` bits. `net_null` names some without hashing.
    pub rss_types: u64,
    /// Spreads ESP by SPI over the queues.
    pub rss_esp: bool,
    /// Can do ESP crypto inline in both directions.
    pub inline_security: bool,
    /// `RTE_ETH_RX_OFFLOAD_*` bits.
    pub rx_offloads: u64,
    /// `RTE_ETH_TX_OFFLOAD_*` bits.
    pub tx_offloads: u64,
}

/// How a port is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortConfig {
    pub rx_queues: u16,
    pub tx_queues: u16,
    /// Descriptors per queue; the device may round them.
    pub rx_descriptors: u16,
    pub tx_descriptors: u16,
    /// Spread received packets over the queues by what the device can hash of addresses, ports
    /// and SPI.
    pub rss: bool,
    /// Bytes of an IP packet; `None` leaves the device's own.
    pub mtu: Option<u16>,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            rss: true,
            mtu: None,
        }
    }
}

/// The queues of a started port, in order of their index.
#[derive(Debug)]
pub struct Queues {
    pub rx: Vec<RxQueue>,
    pub tx: Vec<TxQueue>,
}

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub up: bool,
    /// 0 or 2^32-1 when not known.
    pub speed_mbps: u32,
}

/// The device's own counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Received and dropped because a queue was full.
    pub rx_missed: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    /// Received and dropped because the pool was empty.
    pub rx_no_mbuf: u64,
}

/// What a port and its queues share; the last of them closes the device.
#[derive(Debug)]
pub(crate) struct Device {
    id: u16,
    string: String,
    started: bool,
    /// The network device of Linux behind a software port, with its index when attached.
    kernel: Option<(String, u32)>,
}

impl Device {
    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    fn error(&self, fault: PortFault) -> PortError {
        PortError {
            device: self.string.clone(),
            fault,
        }
    }

    fn check(&self, what: &'static str, status: i32) -> Result<u32, PortError> {
        Errno::check(status).map_err(|errno| {
            self.error(PortFault::Call {
                what,
                errno,
                log: log::take_recent(),
            })
        })
    }

    fn info(&self) -> Result<rte_eth_dev_info, PortError> {
        let mut info = rte_eth_dev_info::default();
        // SAFETY: the port exists and the structure is DPDK's to fill.
        let status = unsafe { rte_eth_dev_info_get(self.id, &raw mut info) };
        self.check("reading the abilities", status).map(|_| info)
    }
}

impl Drop for Device {
    /// Errors have nobody to go to: the device is given up in any case.
    fn drop(&mut self) {
        let info = self.info();
        // SAFETY: no queue and no port handle is left.
        let _ = unsafe { rte_eth_dev_stop(self.id) };
        // SAFETY: as above.
        let _ = unsafe { rte_eth_dev_close(self.id) };
        if let Ok(info) = info {
            // SAFETY: the device outlives its ports.
            let _ = unsafe { dpdk_sys::rte_dev_remove(info.device) };
        }
        ATTACHED[usize::from(self.id)].store(false, Ordering::Release);
    }
}

/// A device that DPDK drives, from [`Port::attach`] on. Its device is closed when the handle and
/// all its queues are dropped.
#[derive(Debug)]
pub struct Port {
    device: Arc<Device>,
    /// DPDK's functions for one port are called by one thread at a time.
    not_sync: PhantomData<Cell<()>>,
}

impl Port {
    /// Attaches a device: a PCI address that the EAL options named, or a virtual device
    /// (`net_af_packet0,iface=eth1`, `net_pcap0,rx_pcap=in.pcap`, `net_ring0`, `net_null0`, ...).
    ///
    /// # Errors
    /// [`PortFault::Attach`] names the device when its string is wrong, when it is attached
    /// already or when the driver refuses.
    pub fn attach(_eal: &Eal, string: &str) -> Result<Self, PortError> {
        let error = |fault| PortError {
            device: string.to_owned(),
            fault,
        };
        let attach = |errno| {
            error(PortFault::Attach {
                errno,
                log: log::take_recent(),
            })
        };
        let text = CString::new(string).map_err(|_| attach(Errno(EINVAL)))?;
        let name = CString::new(device::port_name(string)).map_err(|_| attach(Errno(EINVAL)))?;
        log::take_recent();
        // PCI devices on the allow list were probed when the EAL started.
        let probed = device::is_pci(string) && port_id(&name).is_some();
        if !probed {
            // SAFETY: the EAL is up and the string is a C string.
            Errno::check(unsafe { dpdk_sys::rte_dev_probe(text.as_ptr()) }).map_err(attach)?;
        }
        let id = port_id(&name).ok_or_else(|| error(PortFault::NoPort))?;
        if ATTACHED[usize::from(id)].swap(true, Ordering::AcqRel) {
            return Err(attach(Errno(EEXIST)));
        }
        let kernel = device::kernel_interface(string)
            .and_then(|name| Some((name.to_owned(), device::interface_index(name)?)));
        let device = Device {
            id,
            string: string.to_owned(),
            started: false,
            kernel,
        };
        watch_removal(&device)?;
        Ok(Self {
            device: Arc::new(device),
            not_sync: PhantomData,
        })
    }

    /// The DPDK number, as in [`crate::Mbuf::port`].
    #[must_use]
    pub fn id(&self) -> u16 {
        self.device.id
    }

    /// The string it was attached with.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device.string
    }

    /// The network device of Linux that a software port shares (or made, for `net_tap`).
    #[must_use]
    pub fn kernel_interface(&self) -> Option<&str> {
        self.device.kernel.as_ref().map(|(name, _)| name.as_str())
    }

    /// What the device can do.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn capabilities(&self) -> Result<Capabilities, PortError> {
        let info = self.device.info()?;
        // SAFETY: a driver's name is a static C string.
        let driver = unsafe { CStr::from_ptr(info.driver_name) };
        let security = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SECURITY != 0
            && info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_SECURITY != 0;
        Ok(Capabilities {
            driver: driver.to_string_lossy().into_owned(),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            reta_size: info.reta_size,
            rss_types: info.flow_type_rss_offloads,
            rss_esp: info.flow_type_rss_offloads & RTE_ETH_RSS_ESP != 0,
            inline_security: security,
            rx_offloads: info.rx_offload_capa,
            tx_offloads: info.tx_offload_capa,
        })
    }

    /// Whether the device can steer one SPI to a queue by a flow rule. Some know only once
    /// started.
    #[must_use]
    pub fn steers_spi(&self) -> bool {
        const ANY_SPI: u32 = 256;
        // SAFETY: the port exists; the rule is checked, not made.
        unsafe { dpdk_sys::dpdk_flow_esp_spi(self.device.id, ANY_SPI) == 0 }
    }

    /// Configures and starts the device, in promiscuous mode, and hands out its queues. Receive
    /// queue `n` takes its buffers from `pools[n % pools.len()]`.
    ///
    /// # Errors
    /// When queues of an earlier start still exist, when the device has fewer than wanted, or
    /// when it refuses; a failed start can be tried again.
    pub fn start(&mut self, config: &PortConfig, pools: &[Mempool]) -> Result<Queues, PortError> {
        log::take_recent();
        self.stop()?;
        self.check_counts(config, pools)?;
        self.configure(config)?;
        self.set_up_queues(config, pools)?;
        // SAFETY: configured above; no queue of it exists, so nobody is in a burst.
        let status = unsafe { rte_eth_dev_start(self.device.id) };
        self.device.check("starting", status)?;
        if let Some(device) = Arc::get_mut(&mut self.device) {
            device.started = true;
        }
        // Not all drivers have a filter to switch off.
        let _ = self.set_promiscuous(true);
        let device = &self.device;
        Ok(Queues {
            rx: (0..config.rx_queues)
                .map(|n| RxQueue::new(Arc::clone(device), n))
                .collect(),
            tx: (0..config.tx_queues)
                .map(|n| TxQueue::new(Arc::clone(device), n))
                .collect(),
        })
    }

    /// Stops the device; nothing to do when it is not started.
    ///
    /// # Errors
    /// [`PortFault::QueuesInUse`] while a queue exists, or when the device refuses.
    pub fn stop(&mut self) -> Result<(), PortError> {
        let Some(device) = Arc::get_mut(&mut self.device) else {
            return Err(self.device.error(PortFault::QueuesInUse));
        };
        if device.started {
            // SAFETY: the only handle, so nobody is in a burst.
            let status = unsafe { rte_eth_dev_stop(device.id) };
            device.check("stopping", status)?;
            device.started = false;
        }
        Ok(())
    }

    fn check_counts(&self, config: &PortConfig, pools: &[Mempool]) -> Result<(), PortError> {
        let info = self.device.info()?;
        let counts = [
            ("receive", config.rx_queues, info.max_rx_queues),
            ("transmit", config.tx_queues, info.max_tx_queues),
        ];
        for (direction, wanted, most) in counts {
            if wanted > most {
                let fault = PortFault::TooManyQueues {
                    direction,
                    wanted,
                    most,
                };
                return Err(self.device.error(fault));
            }
        }
        if config.rx_queues == 0 || config.tx_queues == 0 || pools.is_empty() {
            return Err(self.device.error(PortFault::NoQueues));
        }
        Ok(())
    }

    fn configure(&self, config: &PortConfig) -> Result<(), PortError> {
        let info = self.device.info()?;
        let mut conf = rte_eth_conf::default();
        if config.rss && config.rx_queues > 1 {
            conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & rss_types();
        }
        if let Some(mtu) = config.mtu {
            conf.rxmode.mtu = u32::from(mtu);
        }
        // SAFETY: null or the driver's static flags.
        let flags = unsafe { info.dev_flags.as_ref() }.copied().unwrap_or(0);
        conf.intr_conf
            .set_lsc(u32::from(flags & RTE_ETH_DEV_INTR_LSC != 0));
        conf.intr_conf
            .set_rmv(u32::from(flags & RTE_ETH_DEV_INTR_RMV != 0));
        // SAFETY: the port is stopped; DPDK copies the configuration.
        let status = unsafe {
            rte_eth_dev_configure(
                self.device.id,
                config.rx_queues,
                config.tx_queues,
                &raw const conf,
            )
        };
        self.device.check("configuring", status).map(|_| ())
    }

    fn set_up_queues(&self, config: &PortConfig, pools: &[Mempool]) -> Result<(), PortError> {
        let id = self.device.id;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: the port is configured; both numbers are DPDK's to change.
        let status = unsafe { rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) };
        self.device
            .check("choosing the number of descriptors", status)?;
        for (queue, pool) in (0..config.rx_queues).zip(pools.iter().cycle()) {
            let pool = pool.as_ptr();
            // SAFETY: a configured queue and a pool that lives for ever.
            let status = unsafe {
                rte_eth_rx_queue_setup(id, queue, rx, SOCKET_ANY, core::ptr::null(), pool)
            };
            self.device.check("setting up a receive queue", status)?;
        }
        for queue in 0..config.tx_queues {
            // SAFETY: a configured queue.
            let status =
                unsafe { rte_eth_tx_queue_setup(id, queue, tx, SOCKET_ANY, core::ptr::null()) };
            self.device.check("setting up a transmit queue", status)?;
        }
        Ok(())
    }

    /// Receives frames for any address, or only for its own.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), PortError> {
        let id = self.device.id;
        let call = if on {
            rte_eth_promiscuous_enable
        } else {
            rte_eth_promiscuous_disable
        };
        // SAFETY: the port exists.
        self.device
            .check("setting promiscuous mode", unsafe { call(id) })
            .map(|_| ())
    }

    /// The Ethernet address.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        let mut address = rte_ether_addr::default();
        // SAFETY: the port exists and the structure is DPDK's to fill.
        let status = unsafe { rte_eth_macaddr_get(self.device.id, &raw mut address) };
        self.device.check("reading the address", status)?;
        Ok(address.addr_bytes)
    }

    /// The MTU that DPDK works with. A software port does not know the one of the network device
    /// of Linux behind it: ask Linux.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn mtu(&self) -> Result<u16, PortError> {
        let mut mtu = 0;
        // SAFETY: the port exists and the number is DPDK's to fill.
        let status = unsafe { rte_eth_dev_get_mtu(self.device.id, &raw mut mtu) };
        self.device.check("reading the MTU", status).map(|_| mtu)
    }

    /// State of the link, without waiting for it.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn link(&self) -> Result<Link, PortError> {
        let mut link = Link {
            up: false,
            speed_mbps: 0,
        };
        let (up, speed) = (&raw mut link.up, &raw mut link.speed_mbps);
        // SAFETY: the port exists and both are the shim's to fill.
        let status = unsafe { dpdk_sys::dpdk_link(self.device.id, up, speed) };
        self.device.check("reading the link", status).map(|_| link)
    }

    /// The device's own counters.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let mut stats = rte_eth_stats::default();
        // SAFETY: the port exists and the structure is DPDK's to fill.
        let status = unsafe { rte_eth_stats_get(self.device.id, &raw mut stats) };
        self.device.check("reading the counters", status)?;
        Ok(PortStats {
            rx_packets: stats.ipackets,
            tx_packets: stats.opackets,
            rx_bytes: stats.ibytes,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_mbuf: stats.rx_nombuf,
        })
    }

    /// Whether the device is gone: it said so, its driver finds it gone, or the network device
    /// of Linux behind it no longer exists (in the network namespace of the calling thread).
    /// Bursts on its queues then do nothing of use; drop them and the port.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let id = self.device.id;
        let reported = REMOVED[usize::from(id)].load(Ordering::Relaxed);
        // SAFETY: the port exists.
        let missing = || unsafe { rte_eth_dev_is_removed(id) } != 0;
        let unplugged = || {
            let kernel = self.device.kernel.as_ref();
            kernel.is_some_and(|(name, index)| device::interface_index(name) != Some(*index))
        };
        reported || missing() || unplugged()
    }
}

/// Hash types worth asking for: flows, and the SPI of ESP.
const fn rss_types() -> u64 {
    use dpdk_sys::{RTE_ETH_RSS_IP, RTE_ETH_RSS_TCP, RTE_ETH_RSS_UDP};
    RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_ESP
}

fn port_id(name: &CStr) -> Option<u16> {
    let mut id = 0;
    // SAFETY: a C string and a number that is DPDK's to fill.
    let status = unsafe { rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (status == 0).then_some(id)
}

fn watch_removal(device: &Device) -> Result<(), PortError> {
    REMOVED[usize::from(device.id)].store(false, Ordering::Relaxed);
    // SAFETY: the function lives as long as the process and needs no argument.
    let status = unsafe {
        rte_eth_dev_callback_register(
            device.id,
            RTE_ETH_EVENT_INTR_RMV,
            Some(on_removal),
            core::ptr::null_mut(),
        )
    };
    device.check("watching for removal", status).map(|_| ())
}

extern "C" fn on_removal(
    port: u16,
    _event: rte_eth_event_type,
    _argument: *mut core::ffi::c_void,
    _result: *mut core::ffi::c_void,
) -> i32 {
    if let Some(gone) = REMOVED.get(usize::from(port)) {
        gone.store(true, Ordering::Relaxed);
    }
    0
}

//! The tap twin of a port: the kernel's face of it.
//!
//! A twin is persistent and has the port's Ethernet address, so that its addresses, routes and
//! neighbours stay when this process dies; what the kernel sends to it then goes nowhere. It has no
//! offloads: every frame that is read is one packet with its checksum in place.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::devices;
use super::netlink::Netlink;
use crate::port::Mac;

/// Why a twin could not be made.
#[derive(Debug)]
pub struct TapError {
    name: String,
    step: &'static str,
    cause: io::Error,
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, step, cause } = self;
        write!(f, "twin \"{name}\": cannot {step}: {cause}")?;
        match cause.kind() {
            io::ErrorKind::NotFound => write!(f, " (is /dev/net/tun there? modprobe tun)"),
            io::ErrorKind::PermissionDenied => write!(f, " (needs CAP_NET_ADMIN)"),
            io::ErrorKind::InvalidInput => write!(f, " (is another device called that?)"),
            io::ErrorKind::ResourceBusy => write!(f, " (another process holds it)"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for TapError {}

/// One twin, open.
pub struct Tap {
    device: SyncDevice,
    index: u32,
}

impl Tap {
    /// Makes the tap, or takes over the one that is there; it is up afterwards.
    pub fn open(
        netlink: &mut Netlink,
        name: &str,
        mac: Mac,
        mtu_bytes: u16,
    ) -> Result<Self, TapError> {
        let failed = |step| {
            move |cause| TapError {
                name: name.to_owned(),
                step,
                cause,
            }
        };
        let builder = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .inherit_enable_state();
        let device = builder.build_sync().map_err(failed("open it"))?;
        device.persist().map_err(failed("make it persistent"))?;
        device
            .set_nonblocking(true)
            .map_err(failed("stop it from blocking"))?;
        let index = device.if_index().map_err(failed("find its index"))?;
        devices::configure(netlink, index, mac, mtu_bytes.into()).map_err(failed("set it up"))?;
        Ok(Self { device, index })
    }

    /// Index of the network device.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// One frame that the kernel sent; `None` when there is none.
    pub fn read<'a>(&self, room: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.device.recv(room) {
            Ok(length) => Ok(room.get(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the kernel a frame. False when the kernel has no room for it.
    pub fn write(&self, frame: &[u8]) -> io::Result<bool> {
        match self.device.send(frame) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

//! A packet on its way through a worker.

use api::id::Vrf;
use dpdk::Mbuf;

use crate::port::PortIndex;

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_BYTES: usize = 14;

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Off the wire, in clear or as ESP.
    Wire,
    /// From Linux, through the port's tap twin.
    Twin,
    /// Out of an inbound SA.
    Tunnel,
}

/// One frame, owned, until an exit takes it.
///
/// There is no way to free the frame from here: the exits of a worker are the only ones that can
/// take it out, and each of them counts. Dropping a packet that still has its frame is a fault of
/// ours that tests (debug builds) stop at.
#[must_use = "a packet has to leave through an exit"]
pub struct Packet {
    frame: Option<Mbuf>,
    /// Routing instance it is in now.
    pub vrf: Vrf,
    /// The port it arrived at, or whose twin it came from.
    pub port: PortIndex,
    /// Where it came from.
    pub origin: Origin,
    /// How many times it was handed to another worker.
    pub hops: u8,
}

impl Packet {
    /// No frame at all.
    pub const NONE: Self = Self {
        frame: None,
        vrf: Vrf(0),
        port: PortIndex::FIRST,
        origin: Origin::Wire,
        hops: 0,
    };

    /// Takes a frame that begins with its Ethernet header in the place of none.
    #[inline(always)]
    pub(crate) fn put(&mut self, frame: Mbuf, port: PortIndex, vrf: Vrf, origin: Origin) {
        debug_assert!(self.frame.is_none(), "a packet was overwritten");
        self.frame = Some(frame);
        (self.port, self.vrf, self.origin) = (port, vrf, origin);
    }

    /// A frame that begins with its Ethernet header.
    #[inline(always)]
    pub const fn new(frame: Mbuf, port: PortIndex, vrf: Vrf, origin: Origin) -> Self {
        Self {
            frame: Some(frame),
            vrf,
            port,
            origin,
            hops: 0,
        }
    }

    /// The frame from its Ethernet header on.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.frame.as_deref().unwrap_or_default()
    }

    /// The same, to write.
    #[inline(always)]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.frame.as_deref_mut().unwrap_or_default()
    }

    /// The frame behind its Ethernet header; empty when it is shorter than that.
    #[inline(always)]
    #[must_use]
    pub fn network(&self) -> &[u8] {
        self.bytes().get(ETHERNET_BYTES..).unwrap_or_default()
    }

    /// The same, to write.
    #[inline(always)]
    #[must_use]
    pub fn network_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
            .get_mut(ETHERNET_BYTES..)
            .unwrap_or_default()
    }

    /// The buffer.
    #[inline(always)]
    #[must_use]
    pub const fn frame(&self) -> Option<&Mbuf> {
        self.frame.as_ref()
    }

    /// The buffer, to grow or shrink.
    #[inline(always)]
    pub const fn frame_mut(&mut self) -> Option<&mut Mbuf> {
        self.frame.as_mut()
    }

    /// Puts the frame back that was taken out for a while.
    #[inline(always)]
    pub(crate) fn give_back(&mut self, frame: Mbuf) {
        debug_assert!(self.frame.is_none(), "a packet was overwritten");
        self.frame = Some(frame);
    }

    /// Takes the frame out and leaves an empty shell. For exits, each of which counts the
    /// packet, and for what gives it back.
    #[inline(always)]
    pub(crate) const fn take_frame(&mut self) -> Option<Mbuf> {
        self.frame.take()
    }
}

impl Drop for Packet {
    #[inline(always)]
    fn drop(&mut self) {
        let left = self.frame.is_none() || std::thread::panicking();
        debug_assert!(left, "a packet was freed without being counted");
    }
}

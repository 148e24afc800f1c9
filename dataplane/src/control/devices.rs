//! Network devices and their addresses, through netlink.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;

use super::netlink::Netlink;
use crate::port::Mac;

/// Which frames a device takes besides its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hears {
    pub all_multicast: bool,
    pub promiscuous: bool,
}

/// What we need to know of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu_bytes: u32,
    pub hears: Hears,
    /// A tun or tap device.
    pub is_tap: bool,
}

impl Link {
    /// Reads a link message; `None` for a device without a name.
    #[must_use]
    pub fn parse(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Mac::default(),
            mtu_bytes: 0,
            hears: Hears {
                all_multicast: message.header.flags.contains(LinkFlags::Allmulti),
                promiscuous: message.header.flags.contains(LinkFlags::Promisc),
            },
            is_tap: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu_bytes = *mtu,
                LinkAttribute::Address(bytes) => {
                    link.mac = Mac(bytes.as_slice().try_into().unwrap_or_default());
                }
                LinkAttribute::LinkInfo(infos) => {
                    link.is_tap = infos.contains(&LinkInfo::Kind(InfoKind::Tun));
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

/// All devices of the network namespace.
pub fn all(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let rows = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = rows.iter().filter_map(|row| match row {
        RouteNetlinkMessage::NewLink(message) => Link::parse(message),
        _ => None,
    });
    Ok(links.collect())
}

/// The device with this name, if there is one.
pub fn find(netlink: &mut Netlink, name: &str) -> io::Result<Option<Link>> {
    Ok(all(netlink)?.into_iter().find(|link| link.name == name))
}

/// Gives a device its Ethernet address and its MTU, and sets it up.
pub fn configure(netlink: &mut Netlink, index: u32, mac: Mac, mtu_bytes: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![LinkAttribute::Mtu(mtu_bytes)];
    // Setting an address, even the same, makes the kernel forget the device's neighbours.
    let links = all(netlink)?;
    let as_it_is = links.iter().find(|link| link.index == index);
    if as_it_is.is_none_or(|link| link.mac != mac) {
        message
            .attributes
            .push(LinkAttribute::Address(mac.0.to_vec()));
    }
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets a device up and what it hears.
pub fn set_hears(netlink: &mut Netlink, index: u32, hears: Hears) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message
        .header
        .flags
        .set(LinkFlags::Allmulti, hears.all_multicast);
    message
        .header
        .flags
        .set(LinkFlags::Promisc, hears.promiscuous);
    message.header.change_mask = LinkFlags::Up | LinkFlags::Allmulti | LinkFlags::Promisc;
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Removes a device.
pub fn delete(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    netlink.request(RouteNetlinkMessage::DelLink(message), 0)
}

/// All addresses of the network namespace, in the kernel's order.
pub fn addresses(netlink: &mut Netlink) -> io::Result<Vec<AddressMessage>> {
    let rows = netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let addresses = rows.into_iter().filter_map(|row| match row {
        RouteNetlinkMessage::NewAddress(message) => Some(message),
        _ => None,
    });
    Ok(addresses.collect())
}

/// The address itself (not the other end of a point-to-point link).
#[must_use]
pub fn local_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
    local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
    })
}

/// Adds an address; one that is there already is as good.
pub fn add_address(netlink: &mut Netlink, message: AddressMessage) -> io::Result<()> {
    let added = netlink.request(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    );
    unless(added, &[Errno::EXIST])
}

/// Removes an address; one that is gone already is as good.
pub fn delete_address(netlink: &mut Netlink, message: AddressMessage) -> io::Result<()> {
    let removed = netlink.request(RouteNetlinkMessage::DelAddress(message), 0);
    unless(removed, &[Errno::ADDRNOTAVAIL, Errno::NODEV])
}

/// Turns the errors that mean «nothing to do» into success.
pub fn unless(result: io::Result<()>, harmless: &[Errno]) -> io::Result<()> {
    match result {
        Err(error)
            if harmless
                .iter()
                .any(|h| error.raw_os_error() == Some(h.raw_os_error())) =>
        {
            Ok(())
        }
        other => other,
    }
}

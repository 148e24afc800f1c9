//! Taking a shared network device over: its addresses and routes move to the port's twin.
//!
//! The device stays up, since packet sockets need it, but carries nothing of IP any more: no
//! address, no IPv6, no answer to ARP, no offloads that would hide what is on the wire. Everything
//! is written down first ([`Record`]), and [`put_back`] undoes it.

mod offloads;
mod record;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

pub use record::{Record, Saved, Setting};

use super::devices::{self, Hears, Link};
use super::netlink::Netlink;
use super::routes;

/// Why a device could not be taken over or put back.
#[derive(Debug)]
pub struct TakeoverError {
    device: String,
    step: String,
    cause: io::Error,
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "network device \"{}\": cannot {}: {}",
            self.device, self.step, self.cause
        )
    }
}

impl std::error::Error for TakeoverError {}

/// Makes an error of a step.
fn failed(device: &str, step: impl Into<String>) -> impl FnOnce(io::Error) -> TakeoverError {
    let device = device.to_owned();
    let step = step.into();
    move |cause| TakeoverError {
        device,
        step,
        cause,
    }
}

/// Writes down how a device is, before a port is made of it. Changes nothing if it was done before,
/// or if there is no such device.
pub fn remember(
    netlink: &mut Netlink,
    run_dir: &Path,
    device: &str,
    twin: &str,
) -> Result<(), TakeoverError> {
    let fail = |step: &'static str| failed(device, step);
    let path = Record::path(run_dir, twin);
    if Record::load(&path)
        .map_err(fail("read its takeover record"))?
        .is_some()
    {
        return Ok(());
    }
    let Some(link) = devices::find(netlink, device).map_err(fail("find it"))? else {
        return Ok(());
    };
    first_record(&link, twin)
        .save(&path)
        .map_err(fail("write its takeover record"))
}

/// Moves addresses and routes of `device` to the twin, which is up.
///
/// May be repeated: what was moved by an earlier process stays as it is now on the twin, and what
/// has come to the device since is moved too. `fresh_twin` says that the twin was made just now, so
/// that all of the record must be put on it.
pub fn take_over(
    netlink: &mut Netlink,
    run_dir: &Path,
    device: &str,
    twin: &Link,
    fresh_twin: bool,
) -> Result<(), TakeoverError> {
    let fail = |step: &'static str| failed(device, step);
    let link = devices::find(netlink, device)
        .and_then(|link| link.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(fail("find it"))?;
    let path = Record::path(run_dir, &twin.name);
    let known = Record::load(&path).map_err(fail("read its takeover record"))?;
    let mut record = match known {
        Some(record) => record,
        None => first_record(&link, &twin.name),
    };
    let addresses = addresses_of(netlink, link.index).map_err(fail("list its addresses"))?;
    let routes = routes_of(netlink, link.index).map_err(fail("list its routes"))?;
    let fresh = (addresses.clone(), routes.clone());
    record.merge(addresses, routes);
    record
        .save(&path)
        .map_err(fail("write its takeover record"))?;

    let all = fresh_twin || !record.complete;
    let (addresses, routes) = if all {
        (record.addresses.clone(), record.routes.clone())
    } else {
        fresh
    };
    move_addresses(netlink, &link, twin, &addresses)?;
    silence(netlink, &link)?;
    move_routes(netlink, link.index, twin.index, &routes, device)?;
    offloads::off(device);
    record.complete = true;
    record
        .save(&path)
        .map_err(fail("write its takeover record"))
}

/// Puts back what the record says, removes the twin, and then the record.
pub fn put_back(netlink: &mut Netlink, path: &Path) -> Result<Record, TakeoverError> {
    let text = path.display().to_string();
    let record = Record::load(path)
        .and_then(|record| record.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(failed(&text, "read the takeover record"))?;
    let device = record.device.as_str();
    let fail = |step: &'static str| failed(device, step);
    let link = devices::find(netlink, device).map_err(fail("find it"))?;
    remove_twin(netlink, &record.twin)?;
    if let Some(link) = link {
        restore(netlink, &link, &record)?;
    } else {
        log::warn!("network device \"{device}\" is gone: nothing to put back");
    }
    fs::remove_file(path).map_err(fail("remove its takeover record"))?;
    Ok(record)
}

/// Removes a twin, if it is there.
pub fn remove_twin(netlink: &mut Netlink, twin: &str) -> Result<(), TakeoverError> {
    let found = devices::find(netlink, twin).map_err(failed(twin, "find the twin"))?;
    let Some(link) = found else { return Ok(()) };
    if !link.is_tap {
        log::warn!("\"{twin}\" is no tap: left alone");
        return Ok(());
    }
    devices::delete(netlink, link.index).map_err(failed(twin, "remove the twin"))
}

fn restore(netlink: &mut Netlink, link: &Link, record: &Record) -> Result<(), TakeoverError> {
    let device = link.name.as_str();
    for setting in &record.settings {
        write_setting(&setting.path, &setting.value).map_err(failed(
            device,
            format!("set {} to {}", setting.path, setting.value),
        ))?;
    }
    devices::set_hears(netlink, link.index, record.hears)
        .map_err(failed(device, "restore its flags"))?;
    for saved in &record.addresses {
        let Some(mut message) = saved.to_address() else {
            continue;
        };
        message.header.index = link.index;
        devices::add_address(netlink, message)
            .map_err(failed(device, format!("give it {} back", saved.text)))?;
    }
    add_routes(netlink, link.index, &record.routes, device)?;
    offloads::on(device, &record.offloads);
    Ok(())
}

/// The state of a device before anything was done to it.
fn first_record(link: &Link, twin: &str) -> Record {
    let mut record = Record::new(&link.name, twin);
    record.hears = link.hears;
    record.offloads = offloads::list(&link.name);
    for (path, _) in settings(&link.name) {
        if let Ok(value) = fs::read_to_string(&path) {
            record.settings.push(Setting {
                path,
                value: value.trim().to_owned(),
            });
        }
    }
    record
}

/// What silences a device: no answer to ARP for any address, no IPv6.
fn settings(device: &str) -> [(String, &'static str); 2] {
    [
        (format!("/proc/sys/net/ipv4/conf/{device}/arp_ignore"), "8"),
        (
            format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"),
            "1",
        ),
    ]
}

/// Silences the kernel on the device, and lets the device hear the groups that the twin joins.
fn silence(netlink: &mut Netlink, link: &Link) -> Result<(), TakeoverError> {
    let device = link.name.as_str();
    for (path, value) in settings(device) {
        write_setting(&path, value).map_err(failed(device, format!("set {path} to {value}")))?;
    }
    devices::set_hears(
        netlink,
        link.index,
        Hears {
            all_multicast: true,
            ..link.hears
        },
    )
    .map_err(failed(device, "let it hear multicast"))
}

/// Writes a setting; one that the kernel does not have (IPv6 not built in) needs no silencing.
fn write_setting(path: &str, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn addresses_of(netlink: &mut Netlink, index: u32) -> io::Result<Vec<Saved>> {
    let addresses = devices::addresses(netlink)?;
    let ours = addresses
        .iter()
        .filter(|message| message.header.index == index);
    // The kernel makes link-local addresses of IPv6 by itself, for the twin as for the device.
    Ok(ours
        .filter(|message| !is_link_local(message))
        .map(Saved::address)
        .collect())
}

fn is_link_local(message: &AddressMessage) -> bool {
    matches!(devices::local_of(message), Some(IpAddr::V6(v6)) if v6.is_unicast_link_local())
}

/// Routes that somebody made through the device; what the kernel made comes with the addresses.
fn routes_of(netlink: &mut Netlink, index: u32) -> io::Result<Vec<Saved>> {
    let mut saved = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = RouteNetlinkMessage::GetRoute(routes::dump_request(family));
        for row in netlink.dump(&request)? {
            let RouteNetlinkMessage::NewRoute(message) = row else {
                continue;
            };
            let header = &message.header;
            let made = header.protocol != RouteProtocol::Kernel
                && header.kind == RouteType::Unicast
                && !header.flags.contains(RouteFlags::Cloned);
            if made && leads_through(&message, index) {
                saved.push(Saved::route(&message));
            }
        }
    }
    Ok(saved)
}

fn leads_through(message: &RouteMessage, index: u32) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == index,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
        _ => false,
    })
}

fn move_addresses(
    netlink: &mut Netlink,
    link: &Link,
    twin: &Link,
    saved: &[Saved],
) -> Result<(), TakeoverError> {
    for one in saved {
        let Some(message) = one.to_address() else {
            continue;
        };
        devices::add_address(netlink, for_twin(message.clone(), twin.index)).map_err(failed(
            &link.name,
            format!("give {} to {}", one.text, twin.name),
        ))?;
        let mut old = message;
        old.header.index = link.index;
        devices::delete_address(netlink, old)
            .map_err(failed(&link.name, format!("take {} from it", one.text)))?;
    }
    Ok(())
}

/// An address as the twin gets it: at once, since it was tested where it comes from.
fn for_twin(mut message: AddressMessage, index: u32) -> AddressMessage {
    message.header.index = index;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    message.attributes.retain(|attribute| match attribute {
        AddressAttribute::Flags(given) => {
            flags = *given;
            false
        }
        AddressAttribute::Label(_) => false,
        _ => true,
    });
    if message.header.family == AddressFamily::Inet6 {
        flags |= AddressFlags::Nodad;
    }
    flags -= AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Secondary;
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn move_routes(
    netlink: &mut Netlink,
    from: u32,
    to: u32,
    saved: &[Saved],
    device: &str,
) -> Result<(), TakeoverError> {
    for one in saved {
        let Some(message) = one.to_route() else {
            continue;
        };
        let old = RouteNetlinkMessage::DelRoute(through(message, from));
        // Most went with their addresses already.
        let removed = netlink.request(old, 0);
        devices::unless(removed, &[Errno::SRCH, Errno::NODEV])
            .map_err(failed(device, format!("remove its route {}", one.text)))?;
    }
    add_routes(netlink, to, saved, device)
}

/// Adds routes; those that need others come right in a later round.
fn add_routes(
    netlink: &mut Netlink,
    index: u32,
    saved: &[Saved],
    device: &str,
) -> Result<(), TakeoverError> {
    let mut left: Vec<&Saved> = saved.iter().collect();
    loop {
        let before = left.len();
        let mut errors = Vec::new();
        left.retain(|one| {
            let Some(message) = one.to_route() else {
                return false;
            };
            let route = RouteNetlinkMessage::NewRoute(through(message, index));
            let added = netlink.request(route, NLM_F_CREATE | NLM_F_EXCL);
            let added = devices::unless(added, &[Errno::EXIST]);
            added
                .map_err(|cause| errors.push((one.text.clone(), cause)))
                .is_err()
        });
        let Some((text, cause)) = errors.into_iter().next() else {
            return Ok(());
        };
        if left.len() == before {
            return Err(failed(device, format!("move its route {text}"))(cause));
        }
    }
}

/// A route as it is to be set: through another device, without what the kernel only reports.
fn through(mut message: RouteMessage, index: u32) -> RouteMessage {
    message.header.flags &= RouteFlags::Onlink;
    message.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::CacheInfo(_) | RouteAttribute::NhId(_)
        )
    });
    for attribute in &mut message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => *oif = index,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    hop.interface_index = index;
                    hop.flags &= RouteNextHopFlags::Onlink;
                }
            }
            _ => {}
        }
    }
    message
}

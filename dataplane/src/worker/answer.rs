//! ICMP errors of our own: too big and time exceeded, back to where the packet came from.

use api::counters::DropReason;
use esp::ether;
use esp::icmp;
use esp::ip::{Family, IpPacket};

use super::View;
use super::exits::{Exit, Exits};
use crate::packet::{ETHERNET_BYTES, Origin, Packet};

/// What the sender of a refused packet should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The largest packet that would have passed, in bytes.
    TooBig {
        /// Largest inner packet.
        mtu: u32,
    },
    /// It was on its way for too many hops.
    TimeExceeded,
}

/// Why a packet goes no further, and what its sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: DropReason,
    pub(super) answer: Option<Answer>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self {
            reason,
            answer: None,
        }
    }
}

/// Drops the packet and tells its sender, if it can be told: out of the port it came from, or into
/// the twin. The answer takes over the packet's buffer. Gives the exit for what is in it.
#[cold]
pub(super) fn refuse(
    view: &View<'_>,
    exits: &mut Exits,
    packet: &mut Packet,
    refusal: Refusal,
) -> Exit {
    let Refusal { reason, answer } = refusal;
    let Some(answer) = answer.filter(|_| packet.origin != Origin::Tunnel) else {
        return reason.into();
    };
    let mut error = [0; icmp::MAX_V6_BYTES];
    let Ok(ip) = IpPacket::parse(packet.network()) else {
        return reason.into();
    };
    let Some(len) = build(view, packet, &ip, answer, &mut error) else {
        return reason.into();
    };
    if !exits.may_answer() {
        return DropReason::LimitIcmp.into();
    }
    let answered = if reason == DropReason::TooBig {
        DropReason::TooBigAnswered
    } else {
        reason
    };
    exits.reused(answered);
    let error = error.get(..len).unwrap_or_default();
    match write(view, packet, ip.family, error) {
        Some(()) if packet.origin == Origin::Twin => Exit::ToTwin,
        Some(()) => Exit::Transmit(packet.port),
        None => DropReason::NoHeadroom.into(),
    }
}

fn build(
    view: &View<'_>,
    packet: &Packet,
    ip: &IpPacket,
    answer: Answer,
    out: &mut [u8],
) -> Option<usize> {
    // Linux takes no packet from one of its own addresses, but it takes the word of the host that
    // it wanted to reach.
    let source = match packet.origin {
        Origin::Twin => Some(ip.destination),
        Origin::Wire | Origin::Tunnel => {
            let locals = &view.snapshot.locals;
            locals.source(packet.vrf, packet.port, ip.source)
        }
    }?;
    let offending = packet.network();
    let built = match answer {
        Answer::TooBig { mtu } => icmp::too_big(offending, ip, mtu, source, out),
        Answer::TimeExceeded => icmp::time_exceeded(offending, ip, source, out),
    };
    built.ok()
}

/// Puts the error in place of the packet and turns the Ethernet addresses round.
fn write(view: &View<'_>, reply: &mut Packet, family: Family, error: &[u8]) -> Option<()> {
    let ours = view.port(reply.port)?.mac.0;
    let sender = *reply.bytes().get(6..)?.first_chunk::<6>()?;
    reply
        .frame_mut()?
        .reframe(0, ETHERNET_BYTES + error.len())?;
    let ethertype = match family {
        Family::V4 => ether::IPV4,
        Family::V6 => ether::IPV6,
    };
    ether::write(reply.bytes_mut(), sender, ours, ethertype)?;
    reply.network_mut().copy_from_slice(error);
    Some(())
}

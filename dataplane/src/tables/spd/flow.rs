//! What a packet is matched by, without enums: the flows and answers of the packet path.

use api::id::{Interface, Vrf};

use super::{Decision, Flow, Ports};
use crate::tables::address::Address;

/// A flow of one family; see [`Flow`] for what local and remote mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowOf<A> {
    /// Routing instance.
    pub vrf: Vrf,
    /// The port that the packet crosses the boundary by.
    pub interface: Interface,
    /// Address on the protected side.
    pub local: A,
    /// Address on the unprotected side.
    pub remote: A,
    /// Upper protocol.
    pub protocol: u8,
    /// As in [`Flow::ports`].
    pub ports: Option<Ports>,
}

/// A flow of IPv4.
pub type FlowV4 = FlowOf<u32>;
/// A flow of IPv6.
pub type FlowV6 = FlowOf<u128>;

impl<A: Address> FlowOf<A> {
    /// The flow if both addresses are of this family.
    #[must_use]
    pub fn of(flow: &Flow) -> Option<Self> {
        Some(Self {
            vrf: flow.vrf,
            interface: flow.interface,
            local: A::of(flow.local)?,
            remote: A::of(flow.remote)?,
            protocol: flow.protocol,
            ports: flow.ports,
        })
    }
}

/// What the SPD says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Through the SA of the child with this slot.
    Protect {
        /// [`Child::slot`](crate::tables::child::Child::slot).
        slot: u32,
    },
    /// As it is.
    Bypass,
    /// Not at all.
    Discard,
}

/// The policy that a packet matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its place in the order of its direction: [`Spd::rule`](super::Spd::rule) shows it.
    pub rule: u32,
    /// What it says.
    pub verdict: Verdict,
}

/// A verdict in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tables) struct Packed(u32);

impl Packed {
    const PROTECT: u32 = 1 << 31;
    const BYPASS: u32 = 1 << 30;

    pub(super) fn new(decision: &Decision) -> Self {
        match decision {
            // The writer hands out no slot that is as large as the flag.
            Decision::Protect(child) => Self(Self::PROTECT | child.slot),
            Decision::Bypass => Self(Self::BYPASS),
            Decision::Discard => Self(0),
        }
    }

    #[inline]
    pub(in crate::tables) fn verdict(self) -> Verdict {
        if self.0 & Self::PROTECT != 0 {
            let slot = self.0 & !Self::PROTECT;
            Verdict::Protect { slot }
        } else if self.0 == Self::BYPASS {
            Verdict::Bypass
        } else {
            Verdict::Discard
        }
    }
}

/// The best match so far; none is past every rule.
#[derive(Clone, Copy, Debug)]
pub(in crate::tables) struct Best {
    pub(in crate::tables) rule: u32,
    pub(in crate::tables) verdict: Packed,
}

impl Best {
    pub(in crate::tables) const NONE: Self = Self {
        rule: u32::MAX,
        verdict: Packed(0),
    };

    #[inline]
    pub(in crate::tables) fn found(self) -> Option<Match> {
        (self.rule != u32::MAX).then(|| Match {
            rule: self.rule,
            verdict: self.verdict.verdict(),
        })
    }
}

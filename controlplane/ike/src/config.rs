//! What an operator configures: the keys of swanctl.conf, already parsed and checked.
//!
//! Lifetimes that are `None` have the defaults of swanctl (`connections.<conn>` and `.children`),
//! which depend on one another; see [`Lifetime`].

use std::net::IpAddr;

use zeroize::Zeroizing;

use crate::auth::Identity;
use crate::host::{Host, random_below};
use crate::proposal::{EspProposal, IkeProposal};
use crate::selector::SelectorSpec;

/// Settings of the whole daemon (`charon.*` of strongswan.conf).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Port of IKE without NAT.
    pub port: u16,
    /// Port of IKE and ESP behind a NAT (RFC 7296 2.23).
    pub port_nat_t: u16,
    /// Retransmissions of a request before the peer is taken for dead.
    pub retransmit_tries: u32,
    /// Wait before the first retransmission.
    pub retransmit_timeout_ms: u64,
    /// Each wait is this many hundredths of the one before.
    pub retransmit_base_percent: u32,
    /// Half-open IKE SAs (as responder) from which on a cookie is asked for; 0: never.
    pub cookie_threshold: usize,
    /// Half-open IKE SAs (as responder) above which new ones are not answered.
    pub half_open_limit: usize,
    /// Life of an IKE SA that does not get established.
    pub half_open_timeout_s: u64,
    /// Keepalive interval behind a NAT; 0: never.
    pub keep_alive_s: u64,
    /// How long a replaced inbound SA still takes packets.
    pub drain_s: u64,
    /// IKE SAs of all kinds.
    pub ike_sa_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 500,
            port_nat_t: 4500,
            retransmit_tries: 5,
            retransmit_timeout_ms: 4000,
            retransmit_base_percent: 180,
            cookie_threshold: 30,
            half_open_limit: 10_000,
            half_open_timeout_s: 30,
            keep_alive_s: 20,
            drain_s: 5,
            ike_sa_limit: 100_000,
        }
    }
}

/// Addresses that a side may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpec {
    /// `%any`.
    Any,
    /// `%any4` is false, `%any6` is true.
    AnyOf {
        /// IPv6.
        v6: bool,
    },
    /// A range of one family; a single address is a range of one.
    Range(IpAddr, IpAddr),
}

impl AddressSpec {
    /// One address.
    #[must_use]
    pub const fn single(address: IpAddr) -> Self {
        Self::Range(address, address)
    }

    /// How well the address fits: `None` not at all, otherwise more is better.
    pub(crate) fn rank(&self, address: IpAddr) -> Option<u32> {
        match self {
            Self::Any => Some(1),
            Self::AnyOf { v6 } => (address.is_ipv6() == *v6).then_some(2),
            Self::Range(first, last) if first == last => (*first == address).then_some(4),
            Self::Range(first, last) => {
                let family = first.is_ipv4() == address.is_ipv4();
                (family && *first <= address && address <= *last).then_some(3)
            }
        }
    }
}

/// Best rank of an address in a list; an empty list is `%any`.
pub(crate) fn rank(specs: &[AddressSpec], address: IpAddr) -> Option<u32> {
    match specs {
        [] => Some(1),
        _ => specs.iter().filter_map(|spec| spec.rank(address)).max(),
    }
}

/// RFC 6023, `childless`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Childless {
    /// Take it, do it only for an IKE SA without child.
    #[default]
    Allow,
    /// Do it if the peer can.
    Prefer,
    /// Insist.
    Force,
    /// Refuse.
    Never,
}

/// Several IKE SAs between the same two identities, `unique`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unique {
    /// Allowed, unless the peer says INITIAL_CONTACT.
    #[default]
    No,
    /// Allowed; INITIAL_CONTACT is neither sent nor heeded.
    Never,
    /// The older one stays, the new one is refused.
    Keep,
    /// The new one replaces the older one.
    Replace,
}

/// `start_action`: what to do with a child when it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartAction {
    /// Install policies that ask for the child when a packet matches.
    pub trap: bool,
    /// Initiate at once.
    pub start: bool,
}

/// `close_action` and `dpd_action`: what to do when a child is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// Install policies that ask for it.
    Trap,
    /// Initiate it again.
    Start,
}

/// Soft and hard lifetime in one unit (seconds, bytes or packets), 0 is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Replace after this much (`rekey_*`).
    pub rekey: u64,
    /// Close after this much (`life_*`); default: rekey and a tenth.
    pub life: Option<u64>,
    /// Subtract up to this much at random from `rekey` (`rand_*`); default: life - rekey.
    pub rand: Option<u64>,
}

impl Lifetime {
    /// Without limit.
    pub const NEVER: Self = Self {
        rekey: 0,
        life: None,
        rand: None,
    };

    /// Hard limit, 0 for none.
    pub(crate) fn hard(&self) -> u64 {
        self.life
            .unwrap_or_else(|| self.rekey.saturating_add(self.rekey / 10))
    }

    /// Soft limit with its jitter, 0 for none. It never comes out as 0 by jitter.
    pub(crate) fn soft(&self, host: &mut dyn Host) -> u64 {
        if self.rekey == 0 {
            return 0;
        }
        let rand = self
            .rand
            .unwrap_or_else(|| self.hard().saturating_sub(self.rekey));
        let rand = rand.min(self.rekey.saturating_sub(1));
        self.rekey - random_below(host, rand.saturating_add(1))
    }
}

/// `copy_dscp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyDscp {
    /// Inner to outer header.
    #[default]
    Out,
    /// Outer to inner header.
    In,
    /// Both.
    Both,
    /// Neither.
    No,
}

/// `connections.<conn>.children.<child>`.
#[derive(Clone, Debug)]
pub struct ChildConfig {
    /// Name of the section.
    pub name: String,
    /// In order of preference; all tunnel mode.
    pub esp_proposals: Vec<EspProposal>,
    /// Empty is `dynamic`.
    pub local_ts: Vec<SelectorSpec>,
    /// Empty is `dynamic`.
    pub remote_ts: Vec<SelectorSpec>,
    /// Seconds.
    pub time_s: Lifetime,
    /// Bytes.
    pub bytes: Lifetime,
    /// Packets.
    pub packets: Lifetime,
    /// When loaded.
    pub start_action: StartAction,
    /// When the peer deletes it.
    pub close_action: Action,
    /// When the peer is dead.
    pub dpd_action: Action,
    /// Anti-replay window in packets, 0 is off.
    pub replay_window: u32,
    /// Policy priority, 0 is computed by the installer.
    pub priority: u32,
    /// DF of the inner to the outer header.
    pub copy_df: bool,
    /// ECN both ways.
    pub copy_ecn: bool,
    /// DSCP.
    pub copy_dscp: CopyDscp,
}

impl ChildConfig {
    /// A child with swanctl's defaults.
    #[must_use]
    pub fn new(name: &str, esp_proposals: Vec<EspProposal>) -> Self {
        Self {
            name: name.to_owned(),
            esp_proposals,
            local_ts: Vec::new(),
            remote_ts: Vec::new(),
            time_s: Lifetime {
                rekey: 3600,
                life: None,
                rand: None,
            },
            bytes: Lifetime::NEVER,
            packets: Lifetime::NEVER,
            start_action: StartAction::default(),
            close_action: Action::None,
            dpd_action: Action::None,
            replay_window: 4096,
            priority: 0,
            copy_df: true,
            copy_ecn: true,
            copy_dscp: CopyDscp::Out,
        }
    }
}

/// `connections.<conn>`.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Name of the section.
    pub name: String,
    /// Own addresses; empty is `%any`.
    pub local_addrs: Vec<AddressSpec>,
    /// Peer addresses; empty is `%any`. To initiate, the first single one is called.
    pub remote_addrs: Vec<AddressSpec>,
    /// Own port; only with the standard port the move to the NAT-T port is automatic.
    pub local_port: u16,
    /// Port of the peer.
    pub remote_port: u16,
    /// In order of preference.
    pub proposals: Vec<IkeProposal>,
    /// Force UDP encapsulation.
    pub encap: bool,
    /// Ask whether the peer lives after so long without a packet from it; 0: never.
    pub dpd_delay_s: u64,
    /// RFC 6023.
    pub childless: Childless,
    /// Sequences of retransmissions when initiating; 0: without end.
    pub keyingtries: u32,
    /// Several IKE SAs with this peer.
    pub unique: Unique,
    /// Rekey after; 0: never.
    pub rekey_time_s: u64,
    /// Grace before the hard end; default a tenth of `rekey_time_s`.
    pub over_time_s: Option<u64>,
    /// Subtract up to this much at random; default the lesser of `over_time` and half of rekey.
    pub rand_time_s: Option<u64>,
    /// Own identity; `None`: the own address.
    pub local_id: Option<Identity>,
    /// Identity of the peer, which may have wildcards.
    pub remote_id: Identity,
    /// In order.
    pub children: Vec<ChildConfig>,
}

impl Connection {
    /// A connection with swanctl's defaults, and `dpd_delay` of 30 s.
    #[must_use]
    pub fn new(name: &str, proposals: Vec<IkeProposal>, remote_id: Identity) -> Self {
        Self {
            name: name.to_owned(),
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            local_port: 500,
            remote_port: 500,
            proposals,
            encap: false,
            dpd_delay_s: 30,
            childless: Childless::Allow,
            keyingtries: 1,
            unique: Unique::No,
            rekey_time_s: 4 * 3600,
            over_time_s: None,
            rand_time_s: None,
            local_id: None,
            remote_id,
            children: Vec::new(),
        }
    }

    pub(crate) fn child(&self, name: &str) -> Option<&ChildConfig> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Seconds until rekey and until the hard end of an IKE SA, 0 for never.
    pub(crate) fn lifetime_s(&self, host: &mut dyn Host) -> (u64, u64) {
        let over = self.over_time_s.unwrap_or(self.rekey_time_s / 10);
        let rand = self
            .rand_time_s
            .unwrap_or_else(|| over.min(self.rekey_time_s / 2));
        let life = Lifetime {
            rekey: self.rekey_time_s,
            life: Some(self.rekey_time_s.saturating_add(over)),
            rand: Some(rand),
        };
        let hard = if self.rekey_time_s == 0 {
            0
        } else {
            life.hard()
        };
        (life.soft(host), hard)
    }
}

/// `secrets.ike<suffix>`.
#[derive(Clone)]
pub struct Secret {
    /// Owners; empty is everybody.
    pub ids: Vec<Identity>,
    /// The shared key.
    pub key: Zeroizing<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Host for Fixed {
        fn fill_random(&mut self, out: &mut [u8]) {
            for (byte, value) in out.iter_mut().zip(self.0.to_be_bytes()) {
                *byte = value;
            }
        }
        fn allocate_spi(&mut self) -> Option<u32> {
            None
        }
        fn release_spi(&mut self, _: u32) {}
        fn inbound_packets(&self, _: u32) -> u64 {
            0
        }
    }

    #[test]
    fn lifetimes_have_the_defaults_of_swanctl() {
        let hour = Lifetime {
            rekey: 3600,
            life: None,
            rand: None,
        };
        assert_eq!(hour.hard(), 3960);
        assert_eq!(hour.soft(&mut Fixed(0)), 3600);
        assert_eq!(hour.soft(&mut Fixed(360)), 3240);
        let none = Lifetime {
            rekey: 4,
            life: Some(30),
            rand: Some(0),
        };
        assert_eq!(none.soft(&mut Fixed(u64::MAX)), 4);
        assert_eq!(Lifetime::NEVER.soft(&mut Fixed(9)), 0);
        assert_eq!(Lifetime::NEVER.hard(), 0);
        // More jitter than lifetime does not make it unlimited.
        let silly = Lifetime {
            rekey: 2,
            life: Some(100),
            rand: None,
        };
        assert!((1..=2).contains(&silly.soft(&mut Fixed(u64::MAX))));
    }

    #[test]
    fn addresses_are_ranked_by_how_much_they_say() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let net = AddressSpec::Range("192.0.2.0".parse().unwrap(), "192.0.2.255".parse().unwrap());
        assert_eq!(rank(&[], address), Some(1));
        assert_eq!(rank(&[AddressSpec::Any, net], address), Some(3));
        assert_eq!(rank(&[AddressSpec::single(address)], address), Some(4));
        assert_eq!(rank(&[AddressSpec::AnyOf { v6: true }], address), None);
    }
}

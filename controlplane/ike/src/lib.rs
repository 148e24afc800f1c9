//! IKEv2 (RFC 7296) without I/O: no sockets, no clock, no randomness of its own.
//!
//! The program around an [`Endpoint`] calls it when something happens and then does what it says:
//!
//! * in: [`Endpoint::load`] and [`Endpoint::start`] (configuration), [`Endpoint::handle_datagram`],
//!   [`Endpoint::handle_timeout`], [`Endpoint::handle_command`], [`Endpoint::handle_sa_event`],
//!   [`Endpoint::restore`], [`Endpoint::shutdown`]. Each takes the time and a [`Host`].
//! * out: after every call take [`Endpoint::poll_output`] until it is empty, then sleep until
//!   [`Endpoint::poll_timeout`] or the next event.
//!
//! ```text
//!   loop {
//!       while let Some(output) = endpoint.poll_output() { do it, in order }
//!       select {
//!           datagram on 500 or 4500  => handle_datagram(now, host, local, remote, bytes)
//!           poll_timeout()           => handle_timeout(now, host)
//!           command, dataplane event => handle_command, handle_sa_event
//!       }
//!   }
//! ```
//!
//! **Order.** Outputs are in order. Commands to the dataplane and checkpoints take effect in that
//! order; a `Transmit` waits until the commands for the same IKE SA that came before it are
//! complete. That is what makes a rekey lose no packet: the responder takes packets on the new
//! inbound SA before its response leaves, the initiator installs, switches, and only then deletes.
//!
//! **Rekey of a child.** `InstallRekeyed` adds a pair of SAs to a child that is there;
//! `ActivateOutbound` (or `activate`) switches; `RemoveSa` takes the old outbound SA at once and the
//! old inbound one after `Settings::drain_s`. Policies stay. A child ends with a `RemoveSa` for each
//! of its SAs and one `RemoveChild`.
//!
//! **Restart of this process.** `new`, `load`, `restore` with the newest checkpoint of each IKE SA,
//! `start`, install `children_to_install` with `adopt`, report [`SaEvent::Uncertain`] for SAs of which the
//! dataplane does not know the sequence numbers, then go on as usual. For a new dataplane alone
//! `children_to_install` is all that is needed.
//!
//! **SPIs.** An inbound SPI comes from [`Host::allocate_spi`]. It goes back by
//! [`Host::release_spi`] if it was never installed, otherwise with the `RemoveSa` of its SA.
//!
//! Inside, `wire` < `crypto` < `keymat`, `proposal`, `auth` < `ike_sa`, `child_sa` < `exchange` <
//! `endpoint`.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod crypto;
pub mod keymat;
pub mod proposal;
pub mod wire;

mod checkpoint;
mod child_sa;
mod context;
mod cookie;
mod endpoint;
mod event;
mod exchange;
mod host;
mod ike_sa;
mod keys;
mod nat;
mod negotiate;
mod selector;
mod task;
mod timer;
mod verdict;

pub use endpoint::{ChildView, Endpoint, IkeSaView, SaView};
pub use event::{
    Action, ChildId, ChildInstall, ChildSpec, IkeId, Level, Limits, Output, PathSpec, Rekeyed,
    Request, SaEvent, SaKeys, SaPair, Target, Verb,
};
pub use host::{Host, Time};
pub use ike_sa::{State, StateCounts};
pub use selector::{SelectorPair, SelectorSpec, Selectors};
pub use verdict::{Reason, Verdict};

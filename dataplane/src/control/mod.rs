//! The control thread and what it does: everything that is not a packet on its way.
//!
//! ```text
//! kernel ─netlink─▶ mirror ─▶ TablesWriter ◀─ contract ◀─ culvert-ike
//!   ▲ tap twins                    │
//!   └──────── exceptions ◀──▶ workers
//! ```

pub mod admin;
mod answers;
pub mod contract;
pub mod devices;
pub mod exceptions;
mod fixed;
pub mod lock;
pub mod mirror;
pub mod neighbours;
pub mod netlink;
pub mod nft;
pub mod ports;
pub mod release;
pub mod routes;
pub mod run;
pub mod sequences;
mod start;
pub mod statics;
pub mod takeover;
pub mod tap;
pub mod waiting;
pub mod workers;

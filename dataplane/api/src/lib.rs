//! The contract between the two processes: what IKE tells the dataplane and what it learns back.
//!
//! ```text
//!      culvert-ike                                                culvert-dataplane
//! ┌───────────────────┐   I region: writer IKE, new per session   ┌─────────────────────┐
//! │                   │   ┌─────────────────────────────────┐     │ control thread      │
//! │ IkeSide           │──▶│ header │ command ring           │────▶│ DataplaneSide       │
//! │   submit, poll    │   └─────────────────────────────────┘     │   poll, complete    │
//! │                   │   D region: writer dataplane              │                     │
//! │                   │   ┌────────┬────────────┬──────────┐      │                     │
//! │                   │◀──│ header │ event ring │ counters │◀─────│                     │
//! │   StateView       │   ├────────┴──┬─────────┴──────────┤      │ workers: States     │
//! │                   │◀──│ SA rows   │ replay windows     │◀─────│   SaRow, Counts     │
//! │                   │   └───────────┴────────────────────┘      │                     │
//! │ Park              │   P region: writer IKE, sealed blobs      │ holds the descriptor│
//! └─────────┬─────────┘                                           └──────────┬──────────┘
//!           └──── socket: Hello, Welcome, Park with descriptors; doorbells ──┘
//! ```
//! Each region has one writer and is mapped for reading only by the other process. Each process
//! keeps the other's descriptors, so either may die and its successor goes on.
//!
//! - [`record`]: typed commands and events and their 256-byte form; [`id`], [`selector`]: what they
//!   name. No key leaves a process in any other way, and a key's slot is zeroized once it is read.
//! - [`side`]: the two ends, [`side::DataplaneSide`] and [`side::IkeSide`]. [`session`]: the
//!   handshake. With these neither process needs unsafe code.
//! - [`state`]: the row of an SA, what a successor may adopt of it and what is uncertain;
//!   [`window`]: memory for replay windows. [`counters`]: what is counted and why packets drop.
//! - [`park`]: checkpoints of IKE SAs.
//! - [`shm`], [`ring`], [`region`], [`sync`]: what the rest stands on. Unsafe code is in [`shm`]
//!   only.
//! - [`config`]: the configuration schema of the dataplane.
#![allow(
    unexpected_cfgs,
    reason = "`loom` is set by the command that runs the ring's loom tests"
)]

mod buddy;
pub mod config;
pub mod counters;
pub mod id;
pub mod park;
pub mod record;
pub mod region;
pub mod ring;
pub mod selector;
pub mod session;
pub mod shm;
pub mod side;
pub mod state;
pub mod sync;
pub mod window;

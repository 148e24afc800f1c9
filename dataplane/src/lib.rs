//! The packet process: workers, SAD, SPD, FIB and the control thread.
//!
//! ```text
//! ports ─▶ worker (one a core) ─▶ ports        worker: one turn of the loop, stage by stage
//!            │ links    ▲ tables               tables: what workers read, and their one writer
//!            ▼          │ state                state: rows of SAs that outlive the process
//!        control thread ───▶ culvert-ike
//! ```
#![deny(unsafe_code)]

pub mod control;
pub mod handover;
pub mod idle;
pub mod lending;
pub mod limit;
pub mod links;
#[allow(unsafe_code, reason = "the one place for it")]
pub mod memory;
pub mod packet;
pub mod port;
pub mod process;
pub mod quiescence;
pub mod state;
pub mod tables;
pub mod worker;

//! The real dataplane between two ports of the generator, and a peer in the same place.
//!
//! `cell` and `plan` say what is measured, `traffic` writes the frames and `verify` looks at what
//! came out; `culvert` and `secgw` are the programs; `dataplane` and `compare` are the commands.

mod bars;
mod cache;
mod cell;
pub(crate) mod compare;
pub(crate) mod control;
mod crypto_workers;
mod culvert;
pub(crate) mod dataplane;
mod environment;
mod generator;
mod hop;
mod hugepages;
mod interrupt;
pub(crate) mod latency;
mod link;
pub(crate) mod load;
mod options;
mod plan;
mod progress;
mod report;
mod resident;
mod secgw;
mod traffic;
mod verify;
mod workers;

pub(crate) use report::command;

//! Raw bindings to the installed DPDK (22.11 or later), generated at build time.
//!
//! [`inline`] holds in Rust what DPDK has as inline C on the packet path: bursts, and mbufs to and
//! from the cache of a mempool. Other inline functions are in `shim.c`.

pub mod inline;

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::use_self,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unused_qualifications,
    unreachable_pub,
    dead_code
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

//! Packets through the real pipeline: frames in by one port, frames out by another.

mod bench;
mod busy;
mod forward;
mod handover;
mod inbound;
mod lending;
mod order;
mod outbound;
mod packets;
mod recall;
mod tunnel;

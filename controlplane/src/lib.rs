//! The IKE process `culvert-ike` and the command `culvert`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod process;

mod admin_server;
mod book;
mod command;
mod daemon;
mod host;
mod link;
mod order;
mod pool;
mod priority;
mod routes;
mod seal;
mod show;
mod sockets;
mod store;

//! A small safe layer over DPDK: what a packet-processing process needs and no more.
//!
//! ```text
//! Eal ──▶ Mempool ──▶ Mbuf ──▶ Batch (up to 64)
//!  └────▶ Port ──start──▶ RxQueue, TxQueue (one owner each)
//! ```
//!
//! - [`Eal::init`] runs once per process. There is no clean-up call: nothing it makes outlives the
//!   process, and a pool or port can then never be used after its end.
//! - A [`Mempool`] lives as long as the process, so an [`Mbuf`] never outlives its pool.
//! - An [`Mbuf`] is owned: it is given back to its pool on drop, and so is all that a [`Batch`]
//!   still holds.
//! - [`Port::start`] hands out the queues. They keep the device open and cannot be copied, so no
//!   two threads share one and no burst meets a device that is stopped.
//! - A thread that polls queues registers itself ([`Registration`]); without it every operation
//!   works, but skips the caches of the pools.
//!
//! Only mbufs of one segment give access to all their bytes; [`Mbuf::is_linear`] tells.

pub mod batch;
pub mod device;
pub mod eal;
pub mod error;
pub mod log;
pub mod mbuf;
pub mod mempool;
pub mod port;
pub mod queue;
pub mod thread;

pub use batch::{BATCH_SIZE, Batch};
pub use eal::{Eal, EalError, EalOptions, EalWarning, HugePages};
pub use error::Errno;
pub use log::{LogLevel, LogSink};
pub use mbuf::Mbuf;
pub use mempool::{HEADROOM_BYTES, Mempool, MempoolConfig, MempoolError, TAIL_BYTES};
pub use port::{Capabilities, Link, Port, PortConfig, PortError, PortFault, PortStats, Queues};
pub use queue::{RxQueue, TxQueue};
pub use thread::{Registration, RegistrationError, tsc, tsc_hz};

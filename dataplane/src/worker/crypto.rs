//! The seam between stages and crypto: a batch is lent to an engine, and comes back.
//!
//! The engine here does the work at once. One that lends batches to idle cores or to hardware has
//! the same two calls; a lent batch owns all it needs, keys included, so nothing is freed under it.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use crypto::{ICV_ROOM, KeyContext, Op};
use dpdk::BATCH_SIZE;
use esp::Protected;

use super::inbound::InboundBatch;
use super::outbound::OutboundBatch;
use crate::packet::Packet;

/// A batch on loan.
pub(super) enum Lent {
    /// To be opened.
    Inbound(InboundBatch),
    /// To be sealed.
    Outbound(OutboundBatch),
}

/// A packet that wants crypto.
pub(super) trait Cryptic {
    /// What of the packet, or `None` if nothing.
    fn protected(&self) -> Option<&Protected>;
    /// The packet.
    fn packet_mut(&mut self) -> &mut Packet;
    /// Called with the verdict.
    fn set_ok(&mut self, ok: bool);
}

/// Does the crypto of lent batches, in order.
#[derive(Default)]
pub(super) struct Engine {
    done: VecDeque<Lent>,
}

impl Engine {
    /// Takes a batch.
    pub(super) fn submit(&mut self, mut batch: Lent) {
        match &mut batch {
            Lent::Inbound(batch) => {
                let groups = &batch.groups;
                let key = |group: usize| groups.get(group).map(|group| &*group.sa.key);
                run(&mut batch.items, |item| key(item.group), crypto::open);
            }
            Lent::Outbound(batch) => {
                let groups = &batch.groups;
                let key = |group: usize| groups.get(group).map(|group| &*group.sa.key);
                run(&mut batch.items, |item| key(item.group), crypto::seal);
            }
        }
        self.done.push_back(batch);
    }

    /// Gives back the batch that was lent first, if it is done.
    pub(super) fn complete(&mut self) -> Option<Lent> {
        self.done.pop_front()
    }
}

/// One crypto call for each 64 packets.
fn run<'k, T: Cryptic>(
    items: &mut [T],
    key: impl Fn(&T) -> Option<&'k KeyContext>,
    call: impl Fn(&mut [Op<'_>]),
) {
    for chunk in items.chunks_mut(BATCH_SIZE) {
        let mut ops: ArrayVec<Op<'_>, BATCH_SIZE> = ArrayVec::new();
        let mut asked = 0_u64;
        for (place, item) in chunk.iter_mut().enumerate() {
            let key = key(item);
            if let Some(op) = op(item, key) {
                ops.push(op);
                asked |= 1 << place;
            }
        }
        call(&mut ops);
        let verdicts: ArrayVec<bool, BATCH_SIZE> = ops.iter().map(Op::ok).collect();
        drop(ops);
        let mut verdicts = verdicts.into_iter();
        for (place, item) in chunk.iter_mut().enumerate() {
            let was_asked = asked & (1 << place) != 0;
            if was_asked {
                let scratch = key(item).map_or(0, scratch);
                give_back(item, scratch);
            }
            item.set_ok(was_asked && verdicts.next() == Some(true));
        }
    }
}

/// Bytes behind a short ICV that crypto may write.
fn scratch(key: &KeyContext) -> usize {
    ICV_ROOM - key.icv_len()
}

fn op<'a, T: Cryptic>(item: &'a mut T, key: Option<&'a KeyContext>) -> Option<Op<'a>> {
    let Protected { mut data, iv, aad } = item.protected()?.clone();
    let key = key?;
    let scratch = scratch(key);
    if scratch > 0 {
        item.packet_mut().frame_mut()?.append(scratch)?;
        data.end += scratch;
    }
    let bytes = item.packet_mut().network_mut().get_mut(data)?;
    Op::new(key, iv, aad, bytes).ok()
}

/// Undoes what [`op`] appended.
fn give_back<T: Cryptic>(item: &mut T, scratch: usize) {
    if scratch > 0
        && let Some(frame) = item.packet_mut().frame_mut()
    {
        let _ = frame.trim(scratch);
    }
}

//! Soft and hard limits of an SA (RFC 4301 4.4.2.1), exact to the packet.

use api::counters::DropReason;
use api::record::Limits;
use api::state::{Flags, SaRow};

use super::exits::Exits;
use crate::links::Notice;
use crate::state;
use crate::tables::sad::{Marks, Sa};

/// Whether any packet of an SA with these marks has to be looked at: it has a limit, or has run into one.
#[inline(always)]
pub(super) fn apply(marks: Marks, row: SaRow<'_>) -> bool {
    marks.has(Marks::LIMITED) || row.flags().has(Flags::HARD)
}

/// Refuses a packet that would go past a hard limit, and tells of limits that it reaches. `more`
/// is what the row does not say yet, this packet included: packets and inner bytes. An SA that
/// refused one packet refuses all that follow.
#[inline]
pub(super) fn check(
    sa: &Sa,
    row: SaRow<'_>,
    exits: &mut Exits,
    more: (u64, u64),
) -> Result<(), DropReason> {
    let packets = row.packets().saturating_add(more.0);
    let bytes = row.bytes().saturating_add(more.1);
    let Limits {
        soft_bytes,
        hard_bytes,
        soft_packets,
        hard_packets,
    } = sa.limits;
    let past = |now: u64, limit: u64| limit != 0 && now > limit;
    let reached = |now: u64, limit: u64| limit != 0 && now >= limit;
    if row.flags().has(Flags::HARD) || past(packets, hard_packets) || past(bytes, hard_bytes) {
        expire(sa, row, exits, true);
        return Err(DropReason::HardLimit);
    }
    if reached(packets, soft_packets) || reached(bytes, soft_bytes) {
        expire(sa, row, exits, false);
    }
    if reached(packets, hard_packets) || reached(bytes, hard_bytes) {
        expire(sa, row, exits, true);
    }
    Ok(())
}

/// Sets the flag and sends the notice, once.
#[cold]
pub(super) fn expire(sa: &Sa, row: SaRow<'_>, exits: &mut Exits, hard: bool) {
    let flag = if hard { Flags::HARD } else { Flags::SOFT };
    if state::raise(row, flag) {
        exits.notify(Notice::Expire { sa: sa.id, hard });
    }
}

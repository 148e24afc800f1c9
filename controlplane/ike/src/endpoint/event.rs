//! Timers, and what the dataplane tells.

use super::Endpoint;
use crate::child_sa::PairState;
use crate::config;
use crate::context::Context;
use crate::event::{Action, ChildId, IkeId, Level, SaEvent};
use crate::host::{Host, Time};
use crate::ike_sa::{IkeSa, State};
use crate::task::TaskKind;
use crate::timer::Timer;
use crate::verdict::Reason;

/// A pair that waits for its first packet cannot be rekeyed: look again after this time.
const NOT_YET_S: u64 = 1;

/// A timer of an IKE SA is due.
pub(super) fn timer(sa: &mut IkeSa, timer: Timer, ctx: &mut Context<'_>) {
    match timer {
        Timer::Retransmit => sa.retransmit(ctx),
        Timer::GiveUp => give_up(sa, ctx),
        // The queue is looked at after every event.
        Timer::Task => {}
        Timer::Liveness => sa.check_liveness(ctx),
        Timer::Keepalive => keep_alive(sa, ctx),
        Timer::RekeyIke => {
            if sa.state() == State::Established {
                sa.push_own(TaskKind::RekeyIke, ctx);
            }
        }
        Timer::ExpireIke => expire_ike(sa, ctx),
        Timer::RekeyChild(spi) => rekey_child(sa, spi, ctx),
        Timer::ExpireChild(spi) => {
            sa.log(
                ctx,
                Level::Warn,
                format!("SA {spi:08x} was not rekeyed in time"),
            );
            sa.push_own(TaskKind::DeletePairs { spis: vec![spi] }, ctx);
        }
        Timer::Confirm(spi) => sa.poll_pair(spi, ctx),
        Timer::Drain(spi) => drained(sa, spi, ctx),
        Timer::Replaced(spi) => sa.push_own(TaskKind::DeletePairs { spis: vec![spi] }, ctx),
    }
}

/// An IKE SA that has stayed half-open, or that the peer should have deleted.
fn give_up(sa: &mut IkeSa, ctx: &mut Context<'_>) {
    match sa.state() {
        State::Established | State::Replaced => sa.push_own(TaskKind::DeleteIke, ctx),
        State::Initiated
        | State::Authenticating
        | State::HalfOpen
        | State::Deleting
        | State::Lingering
        | State::Closed => sa.close(Reason::Timeout, ctx),
    }
}

fn keep_alive(sa: &mut IkeSa, ctx: &mut Context<'_>) {
    let every_s = ctx.shared.settings.keep_alive_s;
    if every_s > 0 && sa.state() == State::Established {
        ctx.emit(
            sa.id,
            Action::Keepalive {
                local: sa.local,
                remote: sa.remote,
            },
        );
        sa.timers.set(Timer::Keepalive, ctx.now.after_s(every_s));
    }
}

fn expire_ike(sa: &mut IkeSa, ctx: &mut Context<'_>) {
    if sa.state() != State::Established {
        return;
    }
    sa.log(ctx, Level::Warn, "the IKE SA was not rekeyed in time");
    sa.reopen_children(
        |child| {
            let start = child.config.start_action.start;
            if start {
                config::Action::Start
            } else {
                child.config.close_action
            }
        },
        ctx,
    );
    sa.push_own(TaskKind::DeleteIke, ctx);
}

fn rekey_child(sa: &mut IkeSa, spi: u32, ctx: &mut Context<'_>) {
    let Some(child) = sa.child_with(spi) else {
        return;
    };
    let (id, state) = (child.id, child.pair(spi).map(|pair| pair.state));
    match state {
        Some(PairState::Active) => sa.push_own(TaskKind::RekeyChild { child: id, spi }, ctx),
        Some(PairState::Ready) => {
            sa.timers
                .set(Timer::RekeyChild(spi), ctx.now.after_s(NOT_YET_S));
        }
        Some(PairState::Replaced | PairState::Deleting | PairState::Draining) | None => {}
    }
}

fn drained(sa: &mut IkeSa, spi: u32, ctx: &mut Context<'_>) {
    let ike = sa.id;
    if let Some(child) = sa.child_with(spi) {
        child.remove_pair(ike, spi, ctx);
        sa.dirty = true;
    }
}

impl Endpoint {
    /// Handles what the dataplane tells.
    pub fn handle_sa_event(&mut self, now: Time, host: &mut dyn Host, event: SaEvent) {
        match event {
            SaEvent::Acquire { child } => self.acquire(now, host, child),
            SaEvent::Expire { child, spi, hard } => {
                self.with_pair(now, host, child, spi, |sa, spi, ctx| {
                    if hard {
                        timer(sa, Timer::ExpireChild(spi), ctx);
                    } else {
                        rekey_child(sa, spi, ctx);
                    }
                });
            }
            SaEvent::Uncertain { child, spi } => {
                self.with_pair(now, host, child, spi, |sa, spi, ctx| {
                    sa.log(
                        ctx,
                        Level::Warn,
                        format!("SA {spi:08x} must not be used any more"),
                    );
                    rekey_child(sa, spi, ctx);
                });
            }
            SaEvent::InstallFailed { child, inbound_spi } => {
                self.with_pair(now, host, child, inbound_spi, |sa, spi, ctx| {
                    let text = Reason::InstallFailed.text();
                    sa.log(ctx, Level::Warn, format!("{text} {spi:08x}"));
                    sa.push_own(TaskKind::DeletePairs { spis: vec![spi] }, ctx);
                });
            }
            SaEvent::NewRemote { child, remote } => {
                if let Some(id) = self.owner(child) {
                    self.with(now, host, id, |sa, ctx| {
                        // RFC 7296 2.23: only a peer behind a NAT moves, and only if we do not.
                        if sa.nat.remote && !sa.nat.local {
                            sa.follow(sa.local, remote, ctx);
                        }
                    });
                }
            }
        }
        self.settle(now, host);
    }

    /// The IKE SA of a child.
    pub(super) fn owner(&self, child: ChildId) -> Option<IkeId> {
        self.shared.owners.get(&child).copied()
    }

    /// Handles something about the pair of a child that has `spi` in one direction.
    fn with_pair(
        &mut self,
        now: Time,
        host: &mut dyn Host,
        child: ChildId,
        spi: u32,
        handle: impl FnOnce(&mut IkeSa, u32, &mut Context<'_>),
    ) {
        let Some(id) = self.owner(child) else { return };
        self.with(now, host, id, |sa, ctx| {
            let pair = sa.child(child).and_then(|child| child.pair_with(spi));
            if let Some(inbound_spi) = pair.map(|pair| pair.inbound_spi) {
                handle(sa, inbound_spi, ctx);
            }
        });
    }
}

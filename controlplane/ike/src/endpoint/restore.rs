//! A new process, or a new dataplane: what is up goes on.

use std::collections::HashSet;

use super::Endpoint;
use crate::checkpoint;
use crate::child_sa::{Child, PairState};
use crate::context::Context;
use crate::event::{Action, IkeId, Level, Output, Rekeyed};
use crate::host::{Host, Time};
use crate::ike_sa::{IkeSa, State};
use crate::timer::Timer;

/// Before a rekey that was lost with the last process is tried again.
const REKEY_SOON_S: u64 = 5;

impl Endpoint {
    /// Takes over the IKE SAs of these checkpoints (the newest of each), after `load`. Outstanding
    /// requests go out again; the peer answers a repetition from memory. Install what
    /// `children_to_install` gives before taking the outputs.
    pub fn restore(&mut self, now: Time, host: &mut dyn Host, checkpoints: &[&[u8]]) {
        let mut restored = Vec::new();
        for bytes in checkpoints {
            let mut ctx = Context {
                now,
                host: &mut *host,
                shared: &mut self.shared,
            };
            match checkpoint::read(bytes, &mut ctx) {
                Some(sa) => restored.push(sa),
                None => self.log(Level::Warn, "a checkpoint cannot be read".to_owned()),
            }
        }
        // Youngest first: a child that is in two IKE SAs was on its way to the younger.
        restored.sort_by_key(|sa| std::cmp::Reverse(sa.id));
        let mut taken = HashSet::new();
        for mut sa in restored {
            sa.children.retain(|child| taken.insert(child.id));
            self.resume(now, host, sa);
        }
        self.settle(now, host);
    }

    fn resume(&mut self, now: Time, host: &mut dyn Host, mut sa: IkeSa) {
        let id = sa.id;
        self.shared.last_ike = self.shared.last_ike.max(id.0);
        for child in &sa.children {
            self.shared.last_child = self.shared.last_child.max(child.id.0);
            self.shared.owners.insert(child.id, id);
            for pair in &child.pairs {
                host.reserve_spi(pair.inbound_spi);
            }
        }
        if let Some(pending) = sa.pending.as_mut() {
            let bytes = pending.bytes.clone();
            let wait_ms = pending.wait_ms;
            if let Some(offer) = pending.child_offer() {
                host.reserve_spi(offer.spi);
                self.shared.last_child = self.shared.last_child.max(offer.child.0);
            }
            sa.send(bytes);
            sa.timers.set(Timer::Retransmit, now.after_ms(wait_ms));
        } else {
            sa.timers.stop(Timer::Retransmit);
        }
        resume_rekeys(&mut sa, now);
        // Ask soon whether the peer is still there.
        sa.restart_liveness(now);
        sa.dirty = true;
        self.stored.insert(id);
        self.adopt(sa);
    }

    /// What a dataplane that may have lost something needs: every trap and every child with its
    /// pairs, all to be adopted. Between the begin and the commit of a resync.
    #[must_use]
    pub fn children_to_install(&self) -> Vec<Output> {
        let mut outputs: Vec<Output> = self.traps_to_install().collect();
        for sa in self.sas.values() {
            for child in &sa.children {
                let actions = install_again(sa, child);
                outputs.extend(actions.into_iter().map(|action| output(sa.id, action)));
            }
        }
        outputs
    }
}

/// A rekey that was queued when the last process died is in no checkpoint, and its timer is spent.
fn resume_rekeys(sa: &mut IkeSa, now: Time) {
    let soon = now.after_s(REKEY_SOON_S);
    let mut due: Vec<Timer> = Vec::new();
    for child in &sa.children {
        let limited = child.config.time_s.rekey > 0;
        let active = child
            .pairs
            .iter()
            .filter(|pair| limited && pair.state == PairState::Active);
        due.extend(active.map(|pair| Timer::RekeyChild(pair.inbound_spi)));
    }
    if sa.state() == State::Established && sa.connection.rekey_time_s > 0 {
        due.push(Timer::RekeyIke);
    }
    for timer in due {
        if sa.timers.get(timer).is_none() {
            sa.timers.set(timer, soon);
        }
    }
}

const fn output(id: IkeId, action: Action) -> Output {
    Output {
        ike: Some(id),
        action,
    }
}

/// The child with the pair that is in use, then the others.
fn install_again(sa: &IkeSa, child: &Child) -> Vec<Action> {
    let Some(first) = child.active().or_else(|| child.pairs.first()) else {
        return Vec::new();
    };
    let install = crate::event::ChildInstall {
        spec: child.spec(sa.path()),
        pair: first.install(true),
    };
    let mut actions = vec![Action::InstallChild(Box::new(install))];
    let others = child
        .pairs
        .iter()
        .filter(|pair| pair.inbound_spi != first.inbound_spi);
    for pair in others {
        actions.push(Action::InstallRekeyed(Box::new(Rekeyed {
            child: child.id,
            pair: pair.install(true),
            activate: false,
            selectors: None,
        })));
    }
    debug_assert!(
        child
            .pairs
            .iter()
            .filter(|pair| pair.state == PairState::Active)
            .count()
            <= 1
    );
    actions
}

//! What the parts of one endpoint share while an event is handled.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::auth::Identity;
use crate::config::{ChildConfig, Connection, Secret, Settings};
use crate::event::{Action, ChildId, IkeId, Level, Output};
use crate::host::{Host, Time, random_u64};
use crate::ike_sa::IkeSa;
use crate::ike_sa::StateCounts;
use crate::task::Task;
use crate::verdict::{Reason, Verdict};

/// Consequences of an event beyond the IKE SA that handled it, carried out by the endpoint before
/// any message about the event leaves.
#[derive(Debug)]
pub(crate) enum Effect {
    /// An IKE SA made by rekeying another.
    Adopt(Box<IkeSa>),
    /// The new IKE SA takes over children and tasks of the old one (RFC 7296 2.8).
    /// `end`: somebody had asked to delete the old one, and means the new one now.
    Inherit {
        from: IkeId,
        to: IkeId,
        end: Option<Task>,
    },
    /// The IKE SA is over, by what was just answered.
    End { ike: IkeId, reason: Reason },
    /// Close these: their peer said INITIAL_CONTACT, or `unique` says so.
    Supersede(Vec<IkeId>),
    /// The IKE SA that was made by a rekey which lost against another one.
    Discard(IkeId),
    /// A child is gone and its configuration says that it shall come back.
    Reopen { connection: String, child: String },
    /// A child is gone and shall come back with the first packet for it.
    Trap { connection: String, child: String },
    /// No answer to the first messages; try again as `keyingtries` allows.
    Retry(Box<Attempt>),
}

/// What a further attempt to reach a peer has to do.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) connection: Arc<Connection>,
    pub(crate) tasks: VecDeque<Task>,
    /// Sequences of retransmissions so far.
    pub(crate) tries: u32,
}

/// Identities of both sides of an IKE SA, as text.
pub(crate) type Parties = (String, String);

/// State of the endpoint that IKE SAs may touch.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) connections: Vec<Arc<Connection>>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) effects: VecDeque<Effect>,
    /// Established IKE SAs by their identities.
    pub(crate) parties: HashMap<Parties, Vec<IkeId>>,
    /// IKE SA of each child.
    pub(crate) owners: HashMap<ChildId, IkeId>,
    pub(crate) counts: StateCounts,
    pub(crate) last_ike: u64,
    pub(crate) last_child: u32,
}

/// An event being handled.
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) host: &'a mut dyn Host,
    pub(crate) shared: &'a mut Shared,
}

impl Shared {
    /// A connection by name.
    pub(crate) fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        self.connections
            .iter()
            .find(|connection| connection.name == name)
            .cloned()
    }

    /// Established IKE SAs with these identities.
    pub(crate) fn others(&self, parties: &Parties, except: IkeId) -> Vec<IkeId> {
        let known = self.parties.get(parties).map_or(&[][..], Vec::as_slice);
        known.iter().copied().filter(|id| *id != except).collect()
    }

    /// No IKE SA between these is established; `remote` may be a pattern.
    pub(crate) fn is_first_contact(&self, local: &Identity, remote: &Identity) -> bool {
        let local = local.to_string();
        if remote.is_pattern() {
            return !self.parties.keys().any(|parties| parties.0 == local);
        }
        !self.parties.contains_key(&(local, remote.to_string()))
    }

    pub(crate) fn register(&mut self, parties: Parties, ike: IkeId) {
        let known = self.parties.entry(parties).or_default();
        if !known.contains(&ike) {
            known.push(ike);
        }
    }

    pub(crate) fn unregister(&mut self, parties: &Parties, ike: IkeId) {
        if let Some(known) = self.parties.get_mut(parties) {
            known.retain(|id| *id != ike);
            if known.is_empty() {
                self.parties.remove(parties);
            }
        }
    }
}

impl Context<'_> {
    pub(crate) fn emit(&mut self, ike: IkeId, action: Action) {
        self.shared.outputs.push_back(Output {
            ike: Some(ike),
            action,
        });
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.shared.effects.push_back(effect);
    }

    pub(crate) fn log(&mut self, level: Level, connection: &str, text: String) {
        let action = Action::Log {
            level,
            connection: connection.to_owned(),
            text,
        };
        self.shared.outputs.push_back(Output { ike: None, action });
    }

    /// Answers commands.
    pub(crate) fn done(&mut self, requests: &[u64], result: &Result<(), Verdict>) {
        for request in requests {
            let action = Action::Done {
                request: *request,
                result: result.clone(),
            };
            self.shared.outputs.push_back(Output { ike: None, action });
        }
    }

    /// Answers commands that failed.
    pub(crate) fn failed(&mut self, requests: &[u64], reason: Reason, text: String) {
        self.done(requests, &Err(Verdict { reason, text }));
    }

    pub(crate) fn next_ike(&mut self) -> IkeId {
        self.shared.last_ike += 1;
        IkeId(self.shared.last_ike)
    }

    /// Child numbers stay below 2^31: the other half belongs to the dataplane's own configuration.
    pub(crate) fn next_child(&mut self) -> ChildId {
        self.shared.last_child = (self.shared.last_child + 1) & (u32::MAX >> 1);
        ChildId(self.shared.last_child)
    }

    /// SPI of an IKE SA: random and not zero (RFC 7296 2.6).
    pub(crate) fn ike_spi(&mut self) -> u64 {
        random_u64(self.host).max(1)
    }

    /// `bytes` random bytes: a nonce, an IV.
    pub(crate) fn random(&mut self, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.host.fill_random(&mut out);
        out
    }

    /// The secret that says most about both identities; `None` if there is none.
    pub(crate) fn secret(&self, local: &Identity, remote: &Identity) -> Option<&Secret> {
        let rank = |secret: &Secret| {
            if secret.ids.is_empty() {
                return 1;
            }
            let matches = |id: &Identity| secret.ids.iter().any(|owner| owner.matches(id));
            2 * u32::from(matches(remote)) + u32::from(matches(local)) * 2
        };
        let ranked = self
            .shared
            .secrets
            .iter()
            .map(|secret| (rank(secret), secret));
        let best = ranked
            .filter(|(rank, _)| *rank > 0)
            .max_by_key(|(rank, _)| *rank);
        best.map(|(_, secret)| secret)
    }

    /// Configuration of a child as it is now, else as it was.
    pub(crate) fn child_config(connection: &Connection, name: &str) -> Option<Arc<ChildConfig>> {
        connection.child(name).cloned().map(Arc::new)
    }
}

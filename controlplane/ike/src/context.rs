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

    /// The secret that says most about the peer, then about us; of equals the first. One without
    /// owners is the last resort. `None` if there is none.
    pub(crate) fn secret(&self, local: &Identity, remote: &Identity) -> Option<&Secret> {
        let said = |secret: &Secret, id: &Identity| {
            let owners = secret.ids.iter();
            owners.map(|owner| quality(owner, id)).max().unwrap_or(0)
        };
        let rank = |secret: &Secret| (said(secret, remote), said(secret, local));
        // `max_by_key` gives the last of equals.
        let secrets = self.shared.secrets.iter().rev();
        let fits = secrets.filter(|secret| secret.ids.is_empty() || rank(secret) != (0, 0));
        fits.max_by_key(|secret| rank(secret))
    }

    /// Configuration of a child as it is now, else as it was.
    pub(crate) fn child_config(connection: &Connection, name: &str) -> Option<Arc<ChildConfig>> {
        connection.child(name).cloned().map(Arc::new)
    }
}

/// How much an owner of a secret says about an identity: exactly it 3, a pattern 2, any 1, another 0.
fn quality(owner: &Identity, id: &Identity) -> u32 {
    match owner {
        _ if !owner.matches(id) => 0,
        Identity::Any => 1,
        _ if owner.is_pattern() => 2,
        Identity::Named { .. } => 3,
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    struct NoHost;

    impl Host for NoHost {
        fn fill_random(&mut self, out: &mut [u8]) {
            out.fill(7);
        }
        fn allocate_spi(&mut self) -> Option<u32> {
            None
        }
        fn release_spi(&mut self, _: u32) {}
        fn inbound_packets(&self, _: u32) -> u64 {
            0
        }
    }

    /// The key that is found among secrets, each given as owners and key.
    fn found(secrets: &[(&[&str], &str)], local: &str, remote: &str) -> Option<String> {
        let secret = |(owners, key): &(&[&str], &str)| Secret {
            ids: owners.iter().map(|id| id.parse().unwrap()).collect(),
            key: Zeroizing::new(key.as_bytes().to_vec()),
        };
        let mut shared = Shared {
            secrets: secrets.iter().map(secret).collect(),
            ..Shared::default()
        };
        let ctx = Context {
            now: Time(0),
            host: &mut NoHost,
            shared: &mut shared,
        };
        let secret = ctx.secret(&local.parse().unwrap(), &remote.parse().unwrap())?;
        Some(String::from_utf8(secret.key.to_vec()).unwrap())
    }

    #[test]
    fn the_secret_that_names_the_peer_wins_in_any_order() {
        let secrets: [(&[&str], &str); 5] = [
            (&["%any"], "any"),
            (&["gw.example.org"], "ours"),
            (&["*.example.org"], "pattern"),
            (&["carol.example.org"], "carol"),
            (&[], "nobody's"),
        ];
        let mut turned = secrets;
        turned.reverse();
        for all in [secrets, turned] {
            let key = |remote| found(&all, "gw.example.org", remote);
            assert_eq!(key("carol.example.org").as_deref(), Some("carol"));
            assert_eq!(key("dave.example.org").as_deref(), Some("pattern"));
            assert_eq!(key("dave.example.net").as_deref(), Some("any"));
        }
        let few = [secrets[4], secrets[1]];
        assert_eq!(
            found(&few, "gw.example.org", "x.net").as_deref(),
            Some("ours")
        );
        assert_eq!(
            found(&few, "other.example.org", "x.net").as_deref(),
            Some("nobody's")
        );
        assert_eq!(found(&secrets[3..4], "gw.example.org", "x.net"), None);
    }
}

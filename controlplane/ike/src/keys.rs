//! Keys of one IKE SA, with what they are for.

use crate::context::Context;
use crate::crypto::{OpenError, Prf, Secret, SharedSecret, SkCipher};
use crate::keymat::{ChildKeys, IkeKeys, IkeSpis, Nonces};
use crate::proposal::{EspSuite, IkeSuite};
use crate::wire::{EncrId, Encrypted, KeGroup, Message, WireError};

/// Keys and ciphers of one side of an IKE SA.
#[derive(Debug)]
pub(crate) struct Keys {
    suite: IkeSuite,
    secrets: IkeKeys,
    outgoing: SkCipher,
    incoming: SkCipher,
}

impl Keys {
    /// Keys of a first IKE SA (RFC 7296 2.14). `None` if the suite is not built.
    pub(crate) fn initial(
        suite: &IkeSuite,
        shared: &SharedSecret,
        nonces: Nonces<'_>,
        spis: IkeSpis,
        initiator: bool,
    ) -> Option<Self> {
        let secrets = IkeKeys::initial(suite.prf, suite.sk, shared, nonces, spis);
        Self::new(*suite, secrets.ok()?, initiator)
    }

    /// Keys of an IKE SA that replaces this one (RFC 7296 2.18).
    pub(crate) fn renewed(
        &self,
        suite: &IkeSuite,
        shared: &SharedSecret,
        nonces: Nonces<'_>,
        spis: IkeSpis,
        initiator: bool,
    ) -> Option<Self> {
        let (old_prf, old_sk_d) = (self.suite.prf, &self.secrets.sk_d);
        let secrets =
            IkeKeys::rekeyed(old_prf, old_sk_d, suite.prf, suite.sk, shared, nonces, spis);
        Self::new(*suite, secrets.ok()?, initiator)
    }

    fn new(suite: IkeSuite, secrets: IkeKeys, initiator: bool) -> Option<Self> {
        let of_initiator = secrets.initiator_cipher(suite.sk).ok()?;
        let of_responder = secrets.responder_cipher(suite.sk).ok()?;
        let (outgoing, incoming) = if initiator {
            (of_initiator, of_responder)
        } else {
            (of_responder, of_initiator)
        };
        Some(Self {
            suite,
            secrets,
            outgoing,
            incoming,
        })
    }

    pub(crate) const fn suite(&self) -> &IkeSuite {
        &self.suite
    }

    pub(crate) const fn prf(&self) -> Prf {
        self.suite.prf
    }

    pub(crate) const fn group(&self) -> KeGroup {
        self.suite.group
    }

    /// SK_pi or SK_pr.
    pub(crate) fn sk_p(&self, of_initiator: bool) -> &[u8] {
        if of_initiator {
            &self.secrets.sk_pi
        } else {
            &self.secrets.sk_pr
        }
    }

    /// Encrypts a message of ours. `None` if it cannot be written.
    ///
    /// A message ID is used for one request and one response of ours, so they make an IV of a
    /// counter mode that never comes again; AES-CBC needs one that nobody can guess.
    pub(crate) fn seal(&self, message: &Message, ctx: &mut Context<'_>) -> Option<Vec<u8>> {
        let iv = if self.suite.sk.encr == EncrId::AES_GCM_16 {
            let response = u64::from(message.header.flags.is_response());
            (response << 32 | u64::from(message.header.message_id))
                .to_be_bytes()
                .to_vec()
        } else {
            ctx.random(self.suite.sk.iv_bytes())
        };
        message.seal(&self.outgoing, &iv).ok()
    }

    /// Decrypts a message of the peer. `None` if it is not from the peer.
    pub(crate) fn open(&self, encrypted: &Encrypted<'_>) -> Option<Result<Message, WireError>> {
        match encrypted.open(&self.incoming) {
            Ok(message) => Some(Ok(message)),
            Err(OpenError::Wire(error)) => Some(Err(error)),
            Err(OpenError::Padding) => Some(Err(WireError::Length("padding"))),
            Err(OpenError::Length | OpenError::Integrity) => None,
        }
    }

    /// Keys of a Child SA (RFC 7296 2.17): from the initiator of the exchange, and from its
    /// responder.
    pub(crate) fn child(
        &self,
        suite: &EspSuite,
        shared: Option<&SharedSecret>,
        nonces: Nonces<'_>,
    ) -> Option<(Secret, Secret)> {
        let (prf, sk_d) = (self.suite.prf, &self.secrets.sk_d);
        let keys = ChildKeys::derive(prf, sk_d, shared, nonces, suite.key_bytes());
        let keys = keys.ok()?;
        Some((keys.initiator.encr, keys.responder.encr))
    }

    /// For a checkpoint.
    pub(crate) fn secrets(&self) -> Secret {
        self.secrets.to_bytes()
    }

    /// From a checkpoint.
    pub(crate) fn restore(suite: IkeSuite, secrets: &[u8], initiator: bool) -> Option<Self> {
        Self::new(suite, IkeKeys::from_bytes(secrets)?, initiator)
    }
}

//! Recorded exchanges of two strongSwan daemons: what their log says must come out here too.

use super::*;
use crate::auth::SignedOctets;
use crate::crypto::hex;
use crate::proposal::{
    EspSuite, IkeSuite, accept_esp, accept_ike, offer_esp, offer_ike, select_esp, select_ike,
};
use crate::wire::{
    EncrId, Encrypted, Flags, Identification, IntegId, Message, NotifyType, Parsed, Payload,
    Proposal,
};

const GCM: &str = include_str!("../../tests/vectors/strongswan-gcm.txt");
const CBC: &str = include_str!("../../tests/vectors/strongswan-cbc.txt");

/// Messages in their order, and the log of the first initiator in its order.
struct Recording {
    messages: Vec<(bool, Vec<u8>)>,
    log: std::vec::IntoIter<(String, Vec<u8>)>,
}

impl Recording {
    fn read(text: &str) -> Self {
        let (mut messages, mut log) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, digits) = line.split_once(' ').unwrap();
            match name {
                "i" | "r" => messages.push((name == "i", hex(digits))),
                _ => log.push((name.to_string(), hex(digits))),
            }
        }
        Self {
            messages,
            log: log.into_iter(),
        }
    }

    /// Next line of the log that has this name.
    fn next(&mut self, name: &str) -> Vec<u8> {
        self.log.find(|line| line.0 == name).unwrap().1
    }

    fn plain(&self, index: usize) -> Message {
        match Message::parse(&self.messages[index].1).unwrap() {
            Parsed::Plain(message) => message,
            Parsed::Encrypted(_) => panic!("message {index} is encrypted"),
        }
    }

    fn encrypted(&self, index: usize) -> Encrypted<'_> {
        match Message::parse(&self.messages[index].1).unwrap() {
            Parsed::Encrypted(encrypted) => encrypted,
            Parsed::Plain(_) => panic!("message {index} is in clear"),
        }
    }

    /// Opens a message; `initiated` says whether the first initiator also started this IKE SA.
    fn open(&self, index: usize, keys: &IkeKeys, suite: &IkeSuite, initiated: bool) -> Message {
        let encrypted = self.encrypted(index);
        let by_initiator = self.messages[index].0 == initiated;
        assert_eq!(encrypted.header().flags.is_initiator(), by_initiator);
        let cipher = if by_initiator {
            keys.initiator_cipher(suite.sk).unwrap()
        } else {
            keys.responder_cipher(suite.sk).unwrap()
        };
        let message = encrypted.open(&cipher).unwrap();
        assert_reseals(&encrypted, &message, &cipher);
        assert_damage_is_noticed(&self.messages[index].1, &cipher);
        message
    }

    /// The keys are the logged ones.
    fn assert_keys(&mut self, keys: &IkeKeys) {
        assert_eq!(*keys.sk_d, self.next("sk_d"));
        if !keys.sk_ai.is_empty() {
            assert_eq!(*keys.sk_ai, self.next("sk_ai"));
            assert_eq!(*keys.sk_ar, self.next("sk_ar"));
        }
        assert_eq!(*keys.sk_ei, self.next("sk_ei"));
        assert_eq!(*keys.sk_er, self.next("sk_er"));
        assert_eq!(*keys.sk_pi, self.next("sk_pi"));
        assert_eq!(*keys.sk_pr, self.next("sk_pr"));
        assert_eq!(IkeKeys::from_bytes(&keys.to_bytes()).as_ref(), Some(keys));
    }
}

/// Our encoding of the same payloads under the same IV is the recorded one, byte for byte, except
/// that strongSwan's padding is random: then the last block and the ICV differ.
fn assert_reseals(encrypted: &Encrypted<'_>, message: &Message, cipher: &SkCipher) {
    let iv = &encrypted.split().1[..cipher.algorithm().iv_bytes()];
    let ours = message.seal(cipher, iv).unwrap();
    assert_eq!(ours.len(), encrypted.bytes().len());
    let padded_bytes = if cipher.algorithm().encr == EncrId::AES_CBC {
        16 + 16
    } else {
        0
    };
    let same = ours.len() - padded_bytes;
    assert_eq!(ours[..same], encrypted.bytes()[..same]);
    match Message::parse(&ours).unwrap() {
        Parsed::Encrypted(again) => assert_eq!(again.open(cipher).as_ref(), Ok(message)),
        Parsed::Plain(_) => panic!("not encrypted"),
    }
}

/// No bit of header, IV, ciphertext or ICV may change.
fn assert_damage_is_noticed(bytes: &[u8], cipher: &SkCipher) {
    for index in 0..bytes.len() {
        let mut bytes = bytes.to_vec();
        bytes[index] ^= 1;
        if let Ok(Parsed::Encrypted(encrypted)) = Message::parse(&bytes) {
            assert!(encrypted.open(cipher).is_err(), "byte {index}");
        }
    }
}

fn proposals(message: &Message) -> &[Proposal] {
    let mut payloads = message.payloads.iter();
    let found = payloads.find_map(|payload| match payload {
        Payload::Sa(proposals) => Some(proposals.as_slice()),
        _ => None,
    });
    found.unwrap()
}

fn nonce(message: &Message) -> &[u8] {
    let mut payloads = message.payloads.iter();
    let found = payloads.find_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(nonce.as_slice()),
        _ => None,
    });
    found.unwrap()
}

fn identity(message: &Message, initiator: bool) -> &Identification {
    let mut payloads = message.payloads.iter();
    let found = payloads.find_map(|payload| match (payload, initiator) {
        (Payload::IdI(id), true) | (Payload::IdR(id), false) => Some(id),
        _ => None,
    });
    found.unwrap()
}

fn auth(message: &Message) -> &[u8] {
    let mut payloads = message.payloads.iter();
    let found = payloads.find_map(|payload| match payload {
        Payload::Auth { data, .. } => Some(data.as_slice()),
        _ => None,
    });
    found.unwrap()
}

/// What both sides would agree on from these two messages, if configured like strongSwan was.
fn ike_suite(ours: &str, request: &Message, response: &Message, rekey: bool) -> IkeSuite {
    let ours = [ours.parse().unwrap()];
    let (offered, answered) = (proposals(request), proposals(response));
    let sent = offer_ike(&ours, offered[0].spi_u64());
    assert_eq!(sent, offered, "offer");
    let choice = select_ike(&ours, offered, rekey, None).unwrap();
    assert_eq!(choice.answer(&answered[0].spi), answered, "answer");
    assert_eq!(
        accept_ike(&sent, answered, rekey).unwrap().suite,
        choice.suite
    );
    choice.suite
}

fn esp_suite(ours: &str, request: &Message, response: &Message, key_exchange: bool) -> EspSuite {
    let ours = [ours.parse().unwrap()];
    let (offered, answered) = (proposals(request), proposals(response));
    let sent = offer_esp(&ours, offered[0].spi_u32().unwrap(), key_exchange);
    assert_eq!(sent, offered, "offer");
    let choice = select_esp(&ours, offered, key_exchange, None).unwrap();
    assert_eq!(choice.answer(&answered[0].spi), answered, "answer");
    let accepted = accept_esp(&sent, answered, key_exchange).unwrap();
    assert_eq!(accepted.suite, choice.suite);
    assert_eq!(accepted.spi_u32(), answered[0].spi_u32());
    choice.suite
}

/// IKE_SA_INIT and IKE_AUTH: keys, encrypted payloads, AUTH of both, keys of the first child.
fn establish(recording: &mut Recording, ike: &str, esp: &str) -> (IkeKeys, IkeSuite) {
    let (request, response) = (recording.plain(0), recording.plain(1));
    let suite = ike_suite(ike, &request, &response, false);
    let shared = SharedSecret::new(recording.next("shared"));
    let nonces = Nonces {
        initiator: nonce(&request),
        responder: nonce(&response),
    };
    let spis = IkeSpis {
        initiator: response.header.spi_i,
        responder: response.header.spi_r,
    };
    assert_eq!(
        *skeyseed(suite.prf, &shared, nonces),
        recording.next("skeyseed")
    );
    let keys = IkeKeys::initial(suite.prf, suite.sk, &shared, nonces, spis).unwrap();
    recording.assert_keys(&keys);

    let auth_request = recording.open(2, &keys, &suite, true);
    let auth_response = recording.open(3, &keys, &suite, true);
    assert!(auth_request.notify(NotifyType::INITIAL_CONTACT).is_some());
    let psk = recording.next("psk");
    for (initiator, message) in [(true, &auth_request), (false, &auth_response)] {
        let id_body = identity(message, initiator).body();
        let logged = recording.next("auth");
        let octets = SignedOctets {
            message: &recording.messages[usize::from(!initiator)].1,
            peer_nonce: if initiator {
                nonces.responder
            } else {
                nonces.initiator
            },
            id_body: &id_body,
            sk_p: if initiator { &keys.sk_pi } else { &keys.sk_pr },
        };
        assert_eq!(*octets.psk_auth(suite.prf, &psk), auth(message));
        assert_eq!(auth(message), logged);
        assert!(octets.verify_psk(suite.prf, &psk, auth(message)));
        assert!(!octets.verify_psk(suite.prf, b"another secret", auth(message)));
        assert!(!octets.verify_psk(suite.prf, &psk, &auth(message)[1..]));
        assert!(!octets.verify_psk(suite.prf, &psk, &[]));
    }
    let child = esp_suite(esp, &auth_request, &auth_response, false);
    assert!(!child.esn);
    let child = ChildKeys::derive(suite.prf, &keys.sk_d, None, nonces, child.key_bytes()).unwrap();
    assert_eq!(*child.initiator.encr, recording.next("child_i"));
    assert_eq!(*child.responder.encr, recording.next("child_r"));
    assert!(child.initiator.integ.is_empty());
    (keys, suite)
}

#[test]
fn aes_gcm_prf_sha512_and_two_rekeys_of_the_ike_sa() {
    let mut recording = Recording::read(GCM);
    let ike = "aes256gcm16-prfsha512-x25519";
    let (mut keys, mut suite) = establish(&mut recording, ike, "aes256gcm16");
    assert_eq!(
        suite.to_string(),
        "AES_GCM_16-256/PRF_HMAC_SHA2_512/CURVE_25519"
    );
    // Messages 4 and 5 rekey, 6 and 7 delete the old IKE SA; 8 to 11 the same, by the other side,
    // which makes it the initiator of the third IKE SA (RFC 7296 2.18).
    let mut initiated = true;
    for start in [4, 8] {
        let request = recording.open(start, &keys, &suite, initiated);
        let response = recording.open(start + 1, &keys, &suite, initiated);
        let next = ike_suite(ike, &request, &response, true);
        let shared = SharedSecret::new(recording.next("shared"));
        let nonces = Nonces {
            initiator: nonce(&request),
            responder: nonce(&response),
        };
        let spis = IkeSpis {
            initiator: proposals(&request)[0].spi_u64().unwrap(),
            responder: proposals(&response)[0].spi_u64().unwrap(),
        };
        let skeyseed = skeyseed_rekey(suite.prf, &keys.sk_d, &shared, nonces);
        assert_eq!(*skeyseed, recording.next("skeyseed"));
        let renewed = IkeKeys::rekeyed(
            suite.prf, &keys.sk_d, next.prf, next.sk, &shared, nonces, spis,
        );
        for index in [start + 2, start + 3] {
            recording.open(index, &keys, &suite, initiated);
        }
        (keys, suite) = (renewed.unwrap(), next);
        recording.assert_keys(&keys);
        initiated = recording.messages[start].0;
    }
    recording.open(12, &keys, &suite, initiated);
    recording.open(13, &keys, &suite, initiated);
}

#[test]
fn aes_cbc_hmac_and_two_rekeys_of_the_child_sa_with_pfs() {
    let mut recording = Recording::read(CBC);
    let esp = "aes256gcm16-modp3072";
    let (keys, suite) = establish(&mut recording, "aes256-sha256-modp3072", esp);
    let name = "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_3072";
    assert_eq!(suite.to_string(), name);
    for start in [4, 8] {
        let request = recording.open(start, &keys, &suite, true);
        let response = recording.open(start + 1, &keys, &suite, true);
        assert!(request.notify(NotifyType::REKEY_SA).is_some());
        let child = esp_suite(esp, &request, &response, true);
        assert_eq!(child.to_string(), "AES_GCM_16-256/MODP_3072");
        let nonces = Nonces {
            initiator: nonce(&request),
            responder: nonce(&response),
        };
        let seed = recording.next("child_seed");
        let (shared, rest) = seed.split_at(384);
        assert_eq!(rest, [nonces.initiator, nonces.responder].concat());
        let shared = SharedSecret::new(shared.to_vec());
        let bytes = child.key_bytes();
        let child = ChildKeys::derive(suite.prf, &keys.sk_d, Some(&shared), nonces, bytes).unwrap();
        assert_eq!(*child.initiator.encr, recording.next("child_i"));
        assert_eq!(*child.responder.encr, recording.next("child_r"));
        for index in [start + 2, start + 3] {
            recording.open(index, &keys, &suite, true);
        }
    }
    recording.open(12, &keys, &suite, true);
    recording.open(13, &keys, &suite, true);
}

#[test]
fn integrity_keys_follow_encryption_keys_in_each_direction() {
    let nonces = Nonces {
        initiator: &[1; 16],
        responder: &[2; 16],
    };
    let bytes = KeyBytes {
        encr: 16,
        integ: 32,
    };
    let keys = ChildKeys::derive(Prf::HmacSha256, &[3; 32], None, nonces, bytes).unwrap();
    let stream = Prf::HmacSha256
        .expand(&[3; 32], &[&[1; 16], &[2; 16]], 96)
        .unwrap();
    let parts = [
        &keys.initiator.encr,
        &keys.initiator.integ,
        &keys.responder.encr,
        &keys.responder.integ,
    ];
    assert_eq!(parts.map(|part| part.as_slice()).concat(), *stream);
}

#[test]
fn the_old_prf_makes_the_seed_and_the_new_one_the_keys() {
    let nonces = Nonces {
        initiator: &[1; 16],
        responder: &[2; 16],
    };
    let spis = IkeSpis {
        initiator: 5,
        responder: 6,
    };
    let shared = SharedSecret::new(vec![9; 32]);
    let (old, new) = (Prf::HmacSha512, Prf::HmacSha256);
    let sk = SkAlgorithm {
        encr: EncrId::AES_GCM_16,
        key_bits: 128,
        integ: IntegId::NONE,
    };
    let keys = IkeKeys::rekeyed(old, &[4; 64], new, sk, &shared, nonces, spis).unwrap();
    let seed = old.compute(&[4; 64], &[&[9; 32], &[1; 16], &[2; 16]]);
    let (spi_i, spi_r) = (5_u64.to_be_bytes(), 6_u64.to_be_bytes());
    let sk_d = new
        .expand(&seed, &[&[1; 16], &[2; 16], &spi_i, &spi_r], 32)
        .unwrap();
    assert_eq!(keys.sk_d, sk_d);
}

#[test]
fn checkpoint_bytes_of_other_forms_are_refused() {
    let key = || Zeroizing::new(vec![7; 4]);
    let keys = IkeKeys {
        sk_d: key(),
        sk_ai: Zeroizing::new(vec![]),
        sk_ar: Zeroizing::new(vec![]),
        sk_ei: key(),
        sk_er: key(),
        sk_pi: key(),
        sk_pr: key(),
    };
    let bytes = keys.to_bytes();
    for length in 0..bytes.len() {
        assert!(
            IkeKeys::from_bytes(&bytes[..length]).is_none(),
            "{length} bytes"
        );
    }
    assert!(IkeKeys::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_none());
}

#[test]
fn flags_of_a_response_do_not_change_who_the_initiator_is() {
    assert!(Flags::new(true, true).is_initiator());
    assert_eq!(Flags::new(false, true), Flags::RESPONSE);
}

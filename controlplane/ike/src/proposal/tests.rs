//! Strings, choice and check.

use proptest::prelude::*;

use super::*;
use crate::wire::{Attribute, EncrId, Esn, IntegId, PrfId};

fn ike(text: &str) -> IkeProposal {
    text.parse().unwrap()
}

fn esp(text: &str) -> EspProposal {
    text.parse().unwrap()
}

/// What the peer sends when configured so.
fn offered(texts: &[&str]) -> Vec<Proposal> {
    let ours: Vec<IkeProposal> = texts.iter().map(|text| ike(text)).collect();
    offer_ike(&ours, None)
}

fn selected(ours: &[&str], theirs: &[&str]) -> Option<String> {
    let ours: Vec<IkeProposal> = ours.iter().map(|text| ike(text)).collect();
    select_ike(&ours, &offered(theirs), false, None).map(|choice| choice.suite.to_string())
}

fn selected_esp(ours: &str, theirs: &str, key_exchange: bool) -> Option<String> {
    let offered = offer_esp(&[esp(theirs)], 7, key_exchange);
    let choice = select_esp(&[esp(ours)], &offered, key_exchange, None);
    choice.map(|choice| choice.suite.to_string())
}

#[test]
fn strings_become_the_names_of_strongswan() {
    for (text, names) in [
        (
            "aes256gcm16-prfsha256-x25519",
            "AES_GCM_16-256/PRF_HMAC_SHA2_256/CURVE_25519",
        ),
        (
            "aes128-sha256-modp2048",
            "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
        ),
        (
            "aes256-aes192-sha384-sha512-prfsha384-ecp384-modp3072",
            "AES_CBC-256/AES_CBC-192/HMAC_SHA2_384_192/HMAC_SHA2_512_256/\
             PRF_HMAC_SHA2_384/ECP_384/MODP_3072",
        ),
        // With an AEAD an integrity algorithm names the PRF.
        (
            "aes128gcm128-sha512-ecp256",
            "AES_GCM_16-128/PRF_HMAC_SHA2_512/ECP_256",
        ),
        (
            "AES-SHA256-PRFSHA256-MODP4096",
            "AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_4096",
        ),
        (
            "ecp256-prfsha256-aes128gcm16-ecp256",
            "AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256",
        ),
    ] {
        assert_eq!(ike(text).to_string(), names, "{text}");
    }
    for (text, names) in [
        ("aes256gcm16", "AES_GCM_16-256/NO_EXT_SEQ"),
        ("aes128gcm16-ecp256-esn", "AES_GCM_16-128/ECP_256/EXT_SEQ"),
        (
            "aes128gcm16-sha256-noesn-esn",
            "AES_GCM_16-128/NO_EXT_SEQ/EXT_SEQ",
        ),
        (
            "aes128gcm16-x25519-none",
            "AES_GCM_16-128/CURVE_25519/KE_NONE/NO_EXT_SEQ",
        ),
    ] {
        assert_eq!(esp(text).to_string(), names, "{text}");
    }
}

fn unknown(keyword: &str, nearest: &'static str) -> ProposalError {
    ProposalError::Unknown {
        keyword: keyword.to_string(),
        nearest,
    }
}

fn not_here(keyword: &str, protocol: &'static str) -> ProposalError {
    ProposalError::NotHere {
        keyword: keyword.to_string(),
        protocol,
    }
}

#[test]
fn errors_name_the_keyword_and_the_fix() {
    for (text, error) in [
        (
            "aes256gmc16-prfsha256-x25519",
            unknown("aes256gmc16", "aes256gcm16"),
        ),
        (
            "aes256gcm16-prfsha265-x25519",
            unknown("prfsha265", "prfsha256"),
        ),
        (
            "aes256gcm16--x25519",
            ProposalError::Missing("algorithm between two dashes"),
        ),
        (
            "3des-sha256-modp2048",
            ProposalError::Unbuilt("3des".into()),
        ),
        (
            "aes128-sha1-modp2048",
            ProposalError::Unbuilt("sha1".into()),
        ),
        (
            "aes128-sha256-modp2048-ke1_mlkem768",
            ProposalError::Unbuilt("ke1_mlkem768".into()),
        ),
        ("aes128gcm16-prfsha256-x25519-esn", not_here("esn", "IKE")),
        ("aes128gcm16-prfsha256-none", not_here("none", "IKE")),
        ("aes128gcm16-aes128-sha256-x25519", ProposalError::Mixed),
        (
            "aes128-sha256",
            ProposalError::Missing("key exchange method (such as x25519)"),
        ),
        ("", ProposalError::Missing("algorithm")),
        (
            "x25519",
            ProposalError::Missing("encryption algorithm (such as aes256gcm16)"),
        ),
        (
            "aes128-prfsha256-x25519",
            ProposalError::Missing("integrity algorithm (such as sha256)"),
        ),
        (
            "aes128gcm16-x25519",
            ProposalError::Missing("pseudo-random function (such as prfsha256)"),
        ),
    ] {
        assert_eq!(text.parse::<IkeProposal>(), Err(error), "{text}");
    }
}

#[test]
fn esp_errors_name_the_keyword_and_the_fix() {
    for (text, error) in [
        ("aes128-sha256", not_here("aes128", "ESP")),
        ("aes128gcm16-prfsha256", not_here("prfsha256", "ESP")),
        (
            "chacha20poly1305",
            ProposalError::Unbuilt("chacha20poly1305".into()),
        ),
        (
            "esn",
            ProposalError::Missing("encryption algorithm (such as aes256gcm16)"),
        ),
    ] {
        assert_eq!(text.parse::<EspProposal>(), Err(error), "{text}");
    }
    let long = vec!["aes256gcm16"; 65].join("-");
    assert_eq!(long.parse::<EspProposal>(), Err(ProposalError::TooLong));
    let shown = unknown("aes256gmc16", "aes256gcm16").to_string();
    assert!(shown.contains("aes256gmc16") && shown.contains("aes256gcm16"));
}

#[test]
fn defaults_are_the_documented_ones() {
    let list = IkeProposal::parse_list(&["default"]).unwrap();
    assert_eq!(list, IkeProposal::defaults());
    assert_eq!(list.len(), DEFAULT_IKE.len());
    let groups: Vec<KeGroup> = list[0].groups().collect();
    let [x25519, ecp384, ecp256] = [KeGroup::CURVE_25519, KeGroup::ECP_384, KeGroup::ECP_256];
    assert_eq!(
        groups,
        [
            x25519,
            ecp384,
            ecp256,
            KeGroup::MODP_3072,
            KeGroup::MODP_2048
        ]
    );
    let names = "AES_GCM_16-256/AES_GCM_16-128/EXT_SEQ/NO_EXT_SEQ";
    assert_eq!(
        EspProposal::defaults()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [names]
    );
    let both = IkeProposal::parse_list(&["aes128-sha256-modp2048", " default "]).unwrap();
    assert_eq!(both.len(), 1 + DEFAULT_IKE.len());
    assert!(EspProposal::parse_list(&["default", "aes"]).is_err());
}

#[test]
fn our_order_decides() {
    let gcm = "aes256gcm16-prfsha256-x25519";
    let cbc = "aes128-sha256-modp2048";
    let gcm_name = "AES_GCM_16-256/PRF_HMAC_SHA2_256/CURVE_25519";
    assert_eq!(
        selected(&[gcm, cbc], &[cbc, gcm]).as_deref(),
        Some(gcm_name)
    );
    assert_eq!(
        selected(
            &["aes128gcm16-aes256gcm16-prfsha256-ecp256-x25519"],
            &["aes256gcm16-aes128gcm16-prfsha512-prfsha256-x25519-ecp256"]
        )
        .as_deref(),
        Some("AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256")
    );
    assert_eq!(selected(&[gcm], &[cbc]), None);
    assert_eq!(
        selected(&[gcm], &["aes128gcm16-prfsha256-x25519"]),
        None,
        "key length"
    );
    assert_eq!(
        selected(&[gcm], &["aes256gcm16-prfsha256-ecp256"]),
        None,
        "key exchange"
    );
    assert_eq!(selected(&[], &[gcm]), None);
}

#[test]
fn the_key_exchange_in_hand_is_taken_if_we_allow_it() {
    let ours = [ike("aes256gcm16-prfsha256-x25519-ecp256")];
    let theirs = offered(&["aes256gcm16-prfsha256-ecp384-ecp256-x25519"]);
    let group = |group| {
        select_ike(&ours, &theirs, false, group)
            .unwrap()
            .suite
            .group
    };
    assert_eq!(group(Some(KeGroup::ECP_256)), KeGroup::ECP_256);
    assert_eq!(group(Some(KeGroup::ECP_384)), KeGroup::CURVE_25519);
    assert_eq!(group(None), KeGroup::CURVE_25519);
}

#[test]
fn the_answer_repeats_number_and_types_of_the_proposal() {
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    let mut theirs = offered(&[
        "aes128-sha256-x25519",
        "aes256gcm16-prfsha256-ecp256-x25519",
    ]);
    let transforms = vec![
        Transform::with_key(TransformType::ENCR, EncrId::AES_GCM_16.0, 256),
        Transform::new(TransformType::PRF, PrfId::HMAC_SHA2_256.0),
        Transform::new(TransformType::KE, KeGroup::CURVE_25519.0),
    ];
    let expected = Proposal {
        number: 2,
        protocol: ProtocolId::IKE,
        spi: vec![],
        transforms,
    };
    let choice = select_ike(&ours, &theirs, false, None).unwrap();
    assert_eq!(choice.answer(&[]), std::slice::from_ref(&expected));
    // RFC 7296 3.3.3: an AEAD may come with INTEG NONE, and then it is answered.
    let none = Transform::new(TransformType::INTEG, IntegId::NONE.0);
    theirs[1].transforms.push(none.clone());
    let answer = select_ike(&ours, &theirs, false, None).unwrap().answer(&[]);
    assert!(answer[0].transforms.contains(&none));
    assert!(accept_ike(&theirs, &answer, false).is_some());
    // With a real integrity algorithm only, it is no AEAD proposal.
    *theirs[1].transforms.last_mut().unwrap() =
        Transform::new(TransformType::INTEG, IntegId::HMAC_SHA2_256_128.0);
    assert!(select_ike(&ours, &theirs, false, None).is_none());
}

#[test]
fn what_is_not_understood_is_not_chosen() {
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    let good = offered(&["aes256gcm16-prfsha256-x25519"]);
    assert!(select_ike(&ours, &good, false, None).is_some());
    let change = |change: &dyn Fn(&mut Proposal)| {
        let mut theirs = good.clone();
        change(&mut theirs[0]);
        select_ike(&ours, &theirs, false, None).is_some()
    };
    let odd = Attribute {
        kind: 99,
        short: true,
        value: vec![0, 1],
    };
    assert!(
        !change(&|p| p.transforms[0].unknown.push(odd.clone())),
        "attribute"
    );
    assert!(
        !change(&|p| p.transforms.push(Transform::new(TransformType::ADDKE1, 36))),
        "type"
    );
    assert!(
        !change(&|p| p.transforms[0].key_bits = None),
        "no key length"
    );
    assert!(!change(&|p| p.protocol = ProtocolId::ESP), "protocol");
    assert!(!change(&|p| p.spi = vec![0; 8]), "SPI in a first IKE SA");
    for kind in [TransformType::ENCR, TransformType::PRF, TransformType::KE] {
        assert!(
            !change(&|p| p.transforms.retain(|t| t.kind != kind)),
            "no {kind}"
        );
    }
    // A good transform beside the odd one is still chosen.
    assert!(change(&|p| {
        let mut twin = p.transforms[0].clone();
        twin.unknown.push(odd.clone());
        p.transforms.insert(0, twin);
    }));
}

#[test]
fn rekeys_carry_the_spi_of_the_new_ike_sa() {
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    let sent = offer_ike(&ours, Some(0x0102_0304_0506_0708));
    assert!(select_ike(&ours, &sent, false, None).is_none());
    let choice = select_ike(&ours, &sent, true, None).unwrap();
    assert_eq!(choice.spi_u64(), Some(0x0102_0304_0506_0708));
    let answer = choice.answer(&9_u64.to_be_bytes());
    assert_eq!(accept_ike(&sent, &answer, true).unwrap().spi_u64(), Some(9));
    assert!(accept_ike(&sent, &choice.answer(&[]), true).is_none());
}

#[test]
fn esp_sequence_numbers_and_key_exchange() {
    for (ours, theirs, expected) in [
        ("aes256gcm16", "aes256gcm16", Some("AES_GCM_16-256")),
        (
            "aes256gcm16-esn-noesn",
            "aes256gcm16-noesn-esn",
            Some("AES_GCM_16-256/ESN"),
        ),
        ("aes256gcm16-esn", "aes256gcm16-noesn", None),
        (
            "aes256gcm16-ecp256",
            "aes256gcm16-ecp256-x25519",
            Some("AES_GCM_16-256/ECP_256"),
        ),
        ("aes256gcm16-ecp256", "aes256gcm16", None),
        ("aes256gcm16", "aes256gcm16-ecp256", None),
        (
            "aes256gcm16-ecp256-none",
            "aes256gcm16",
            Some("AES_GCM_16-256"),
        ),
        (
            "aes256gcm16",
            "aes256gcm16-ecp256-none",
            Some("AES_GCM_16-256"),
        ),
        ("aes256gcm16", "aes128gcm16", None),
    ] {
        assert_eq!(
            selected_esp(ours, theirs, true).as_deref(),
            expected,
            "{ours} {theirs}"
        );
    }
    // In IKE_AUTH no key exchange takes place, whatever is configured.
    let name = selected_esp("aes256gcm16-ecp256", "aes256gcm16-x25519", false);
    assert_eq!(name.as_deref(), Some("AES_GCM_16-256"));
    let two = [
        esp("aes256gcm16-ecp256"),
        esp("aes256gcm16-x25519"),
        esp("aes128gcm16"),
    ];
    assert_eq!(offer_esp(&two, 1, true).len(), 3);
    let sent = offer_esp(&two, 1, false);
    assert_eq!(
        sent.iter()
            .map(|proposal| proposal.number)
            .collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn absent_esn_means_32_bits() {
    let mut theirs = offer_esp(&[esp("aes256gcm16")], 5, false);
    theirs[0]
        .transforms
        .retain(|transform| transform.kind != TransformType::ESN);
    let choice = select_esp(&[esp("aes256gcm16-esn-noesn")], &theirs, false, None).unwrap();
    assert!(!choice.suite.esn);
    assert_eq!(choice.spi_u32(), Some(5));
    assert_eq!(choice.answer(&6_u32.to_be_bytes())[0].transforms.len(), 1);
    let sent = offer_esp(&[esp("aes256gcm16-esn-noesn")], 5, false);
    let accepted = accept_esp(&sent, &theirs, false).unwrap();
    assert!(!accepted.suite.esn);
    let sent = offer_esp(&[esp("aes256gcm16-esn")], 5, false);
    assert!(
        accept_esp(&sent, &theirs, false).is_none(),
        "only ESN was offered"
    );
}

#[test]
fn only_a_subset_of_one_sent_proposal_is_accepted() {
    let texts = [
        "aes256gcm16-aes128gcm16-prfsha256-x25519",
        "aes128-sha256-modp2048",
    ];
    let sent = offered(&texts);
    let ours: Vec<IkeProposal> = texts.iter().map(|text| ike(text)).collect();
    let choice = select_ike(&ours, &sent, false, None).unwrap();
    let good = choice.answer(&[]);
    assert_eq!(accept_ike(&sent, &good, false).unwrap().suite, choice.suite);
    let change = |change: &dyn Fn(&mut Vec<Proposal>)| {
        let mut answer = good.clone();
        change(&mut answer);
        accept_ike(&sent, &answer, false).is_some()
    };
    assert!(!change(&Vec::clear), "none");
    assert!(!change(&|a| a.push(a[0].clone())), "two");
    assert!(!change(&|a| a[0].number = 2), "of the other proposal");
    assert!(!change(&|a| a[0].number = 3), "number that was not sent");
    assert!(!change(&|a| a[0].protocol = ProtocolId::ESP), "protocol");
    assert!(!change(&|a| a[0].spi = vec![1; 8]), "SPI");
    assert!(
        !change(&|a| a[0].transforms[0].key_bits = Some(192)),
        "key length not offered"
    );
    assert!(!change(&|a| drop(a[0].transforms.pop())), "type left out");
    assert!(
        !change(&|a| a[0].transforms = sent[0].transforms.clone()),
        "two of a type"
    );
    let esn = Transform::new(TransformType::ESN, Esn::NO.0);
    assert!(
        !change(&|a| a[0].transforms.push(esn.clone())),
        "type that was not sent"
    );
    let sha = Transform::new(TransformType::INTEG, IntegId::HMAC_SHA2_256_128.0);
    assert!(
        !change(&|a| a[0].transforms.push(sha.clone())),
        "integrity with an AEAD"
    );
    let none = Transform::new(TransformType::INTEG, IntegId::NONE.0);
    assert!(
        change(&|a| a[0].transforms.push(none.clone())),
        "INTEG NONE says nothing new"
    );
    assert!(
        change(&|a| a[0].transforms.reverse()),
        "order does not matter"
    );
    let odd = Attribute {
        kind: 99,
        short: true,
        value: vec![0, 1],
    };
    assert!(
        !change(&|a| a[0].transforms[0].unknown.push(odd.clone())),
        "attribute"
    );
}

#[test]
fn suites_know_their_key_lengths() {
    let suite = |text: &str| {
        let sent = offer_esp(&[esp(text)], 7, false);
        select_esp(&[esp(text)], &sent, false, None).unwrap().suite
    };
    assert_eq!(suite("aes128gcm16").key_bytes().encr, 20);
    assert_eq!(suite("aes256gcm16").key_bytes().encr, 36);
    assert_eq!(suite("aes256gcm16").key_bytes().integ, 0);
}

/// Transforms of all kinds, known and not.
fn any_transforms() -> impl Strategy<Value = Vec<Transform>> {
    let bits = prop_oneof![
        Just(None),
        Just(Some(128)),
        Just(Some(256)),
        any::<Option<u16>>()
    ];
    let ids = prop_oneof![4 => 0_u16..40, 1 => any::<u16>()];
    let one = (0_u8..14, ids, bits).prop_map(|(kind, id, key_bits)| Transform {
        key_bits,
        ..Transform::new(TransformType(kind), id)
    });
    proptest::collection::vec(one, 0..30)
}

proptest! {
    #[test]
    fn any_text_is_a_proposal_or_an_error(text in "\\PC{0,60}") {
        let _ = text.parse::<IkeProposal>();
        let _ = text.parse::<EspProposal>();
    }

    #[test]
    fn what_we_choose_the_peer_accepts(
        transforms in any_transforms(),
        number: u8,
        key_exchange: bool,
    ) {
        let ike_offer =
            Proposal { number, protocol: ProtocolId::IKE, spi: vec![], transforms };
        let esp_offer =
            Proposal { protocol: ProtocolId::ESP, spi: vec![1; 4], ..ike_offer.clone() };
        let (ike_offer, esp_offer) = ([ike_offer], [esp_offer]);
        if let Some(choice) = select_ike(&IkeProposal::defaults(), &ike_offer, false, None) {
            let accepted = accept_ike(&ike_offer, &choice.answer(&[]), false);
            prop_assert_eq!(accepted.map(|accepted| accepted.suite), Some(choice.suite));
        }
        if let Some(choice) = select_esp(&EspProposal::defaults(), &esp_offer, key_exchange, None) {
            let accepted = accept_esp(&esp_offer, &choice.answer(&[2; 4]), key_exchange);
            prop_assert_eq!(accepted.map(|accepted| accepted.suite), Some(choice.suite));
        }
    }
}

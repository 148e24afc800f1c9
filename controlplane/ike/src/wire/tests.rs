//! Messages by hand, the payload table, and properties over random and damaged input.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may"
)]

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::crypto::hex;

fn header(exchange: ExchangeType, flags: Flags) -> Header {
    Header {
        spi_i: 0x1122,
        spi_r: 0x3344,
        version: VERSION,
        exchange,
        flags,
        message_id: 7,
    }
}

fn plain(message: &Message) -> Message {
    match Message::parse(&message.encode().unwrap()).unwrap() {
        Parsed::Plain(message) => message,
        Parsed::Encrypted(_) => unreachable!("sent in clear"),
    }
}

fn aes_gcm(bits: u16) -> Transform {
    Transform::with_key(TransformType::ENCR, EncrId::AES_GCM_16.0, bits)
}

fn init_request() -> Message {
    let transforms = vec![
        aes_gcm(256),
        aes_gcm(128),
        Transform::new(TransformType::PRF, PrfId::HMAC_SHA2_256.0),
        Transform::new(TransformType::KE, KeGroup::CURVE_25519.0),
    ];
    let proposal = Proposal {
        number: 1,
        protocol: ProtocolId::IKE,
        spi: vec![],
        transforms,
    };
    let second = Proposal {
        number: 2,
        ..proposal.clone()
    };
    let mut header = header(ExchangeType::IKE_SA_INIT, Flags::INITIATOR);
    (header.spi_r, header.message_id) = (0, 0);
    let payloads = vec![
        Payload::Sa(vec![proposal, second]),
        Payload::Ke {
            group: KeGroup::CURVE_25519,
            data: vec![9; 32],
        },
        Payload::Nonce(vec![7; 32]),
        Payload::notify(NotifyType::NAT_DETECTION_SOURCE_IP, vec![1; 20]),
        Payload::VendorId(b"culvert".to_vec()),
    ];
    Message { header, payloads }
}

fn selector(first: &str, last: &str) -> TrafficSelector {
    let (first, last): (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
    TrafficSelector {
        protocol: 17,
        start_port: 1,
        end_port: 2,
        first,
        last,
    }
}

/// What may stand in an IKE_AUTH request.
fn auth_request() -> Message {
    let attribute = Attribute {
        kind: 1,
        short: false,
        value: vec![1, 2, 3],
    };
    let odd = Transform {
        unknown: vec![attribute],
        ..aes_gcm(128)
    };
    let esn = Transform::new(TransformType::ESN, Esn::YES.0);
    let transforms = vec![aes_gcm(256), odd, esn];
    let spi = vec![1, 2, 3, 4];
    let proposal = Proposal {
        number: 1,
        protocol: ProtocolId::ESP,
        spi,
        transforms,
    };
    let attribute = ConfigurationAttribute {
        kind: 1,
        value: vec![10, 0, 0, 1],
    };
    let configuration = Configuration {
        kind: CfgType::REQUEST,
        attributes: vec![attribute],
    };
    let payloads = vec![
        Payload::IdI(Identification::new(IdType::FQDN, b"a.example.org".to_vec())),
        Payload::Cert {
            encoding: CertEncoding::X509_SIGNATURE,
            data: vec![0x30],
        },
        Payload::CertReq {
            encoding: CertEncoding::X509_SIGNATURE,
            data: vec![5; 20],
        },
        Payload::IdR(Identification::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1])),
        Payload::Auth {
            method: AuthMethod::PSK,
            data: vec![3; 32],
        },
        Payload::Configuration(configuration),
        Payload::Eap(vec![1, 2, 0, 4]),
        Payload::Sa(vec![proposal]),
        Payload::TsI(vec![
            selector("10.0.0.0", "10.0.0.255"),
            selector("::", "ff::"),
        ]),
        Payload::TsR(vec![selector("10.1.0.0", "10.1.0.255")]),
        Payload::Notify(Notify::about(
            NotifyType::REKEY_SA,
            ProtocolId::ESP,
            0xdead_beef,
        )),
        Payload::Unknown {
            kind: PayloadType(200),
            data: vec![1],
        },
    ];
    Message {
        header: header(ExchangeType::IKE_AUTH, Flags::INITIATOR),
        payloads,
    }
}

/// A message with an encrypted payload that `decode` can be tried on.
fn envelope(exchange: ExchangeType, flags: Flags, first: PayloadType) -> Vec<u8> {
    let message = Message {
        header: header(exchange, flags),
        payloads: vec![],
    };
    let mut bytes = message.encode_sk_prefix(40).unwrap();
    bytes[HEADER_BYTES] = first.0;
    bytes.extend([0; 40]);
    bytes
}

fn decode(message: &Message) -> Result<Message, WireError> {
    let first = message
        .payloads
        .first()
        .map_or(PayloadType::NONE, Payload::kind);
    decode_bytes(message, first, &message.encode_payloads()?)
}

fn decode_bytes(
    message: &Message,
    first: PayloadType,
    plaintext: &[u8],
) -> Result<Message, WireError> {
    let bytes = envelope(message.header.exchange, message.header.flags, first);
    let Parsed::Encrypted(encrypted) = Message::parse(&bytes)? else {
        unreachable!("has an encrypted payload");
    };
    encrypted.decode(plaintext)
}

#[test]
fn header_is_written_as_rfc7296_3_1_draws_it() {
    let mut message = init_request();
    message.header.spi_i = 0x0102_0304_0506_0708;
    message.payloads.truncate(3);
    let bytes = message.encode().unwrap();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    assert_eq!(
        bytes[..24],
        hex("0102030405060708 0000000000000000 21202208 00000000")
    );
    assert_eq!(bytes[24..28], length);
    assert_eq!(Header::parse(&bytes).unwrap(), message.header);
}

#[test]
fn sa_payload_is_written_as_rfc7296_3_3_draws_it() {
    let bytes = init_request().encode().unwrap();
    // Proposal 1: number 1, IKE, no SPI, 4 transforms; AES-GCM-16 with key length 256 (TV 14).
    let start = hex("22000064 02000030 01010004 0300000c 01000014 800e0100 0300000c 01000014");
    assert_eq!(bytes[28..28 + start.len()], start);
}

#[test]
fn every_payload_survives_a_round_trip() {
    let request = init_request();
    assert_eq!(plain(&request), request);
    let request = auth_request();
    assert_eq!(
        decode(&request).unwrap(),
        Message {
            header: request.header,
            ..request.clone()
        }
    );
    let delete = Payload::Delete(Delete::esp(vec![1, 0xffff_ffff]));
    let payloads = vec![delete, Payload::Delete(Delete::ike())];
    let request = Message {
        header: header(ExchangeType::INFORMATIONAL, Flags(0)),
        payloads,
    };
    assert_eq!(decode(&request).unwrap(), request);
}

#[test]
fn every_prefix_and_extension_is_refused() {
    let bytes = init_request().encode().unwrap();
    for length in 0..bytes.len() {
        // With the true length in the header, so that the payloads are looked at.
        let mut cut = bytes[..length].to_vec();
        if let Some(field) = cut.get_mut(24..28) {
            field.copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        }
        assert!(Message::parse(&cut).is_err(), "{length} bytes");
    }
    let mut long = bytes.clone();
    long.push(0);
    assert_eq!(
        Message::parse(&long).unwrap_err(),
        WireError::Length("message")
    );
    long[27] += 1;
    assert_eq!(
        Message::parse(&long).unwrap_err(),
        WireError::Trailing("last payload")
    );
}

#[test]
fn other_major_versions_are_told_apart() {
    let mut bytes = init_request().encode().unwrap();
    bytes[17] = 0x21; // minor versions do not matter (RFC 7296 2.5)
    assert!(Message::parse(&bytes).is_ok());
    bytes[17] = 0x30;
    let error = Message::parse(&bytes).unwrap_err();
    assert_eq!(error, WireError::MajorVersion(0x30));
    assert_eq!(error.notify().0, NotifyType::INVALID_MAJOR_VERSION);
}

#[test]
fn critical_counts_for_unknown_payloads_only() {
    let mut message = init_request();
    message.payloads.insert(
        0,
        Payload::Unknown {
            kind: PayloadType(130),
            data: vec![1, 2],
        },
    );
    assert_eq!(plain(&message), message);
    let mut bytes = message.encode().unwrap();
    bytes[29] |= 0x80;
    let error = Message::parse(&bytes).unwrap_err();
    assert_eq!(error, WireError::UnsupportedCritical(PayloadType(130)));
    assert_eq!(
        error.notify(),
        (NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![130])
    );
    let mut bytes = init_request().encode().unwrap();
    bytes[29] |= 0x80;
    assert!(Message::parse(&bytes).is_ok());
}

#[test]
fn reserved_bytes_of_an_identity_are_kept_for_auth() {
    let request = auth_request();
    let mut plaintext = request.encode_payloads().unwrap();
    plaintext[5..8].copy_from_slice(&[1, 2, 3]);
    let message = decode_bytes(&request, PayloadType::ID_I, &plaintext).unwrap();
    let Some(Payload::IdI(id)) = message.payloads.first() else {
        panic!("IDi is first")
    };
    assert_eq!(
        id.body(),
        [&[2, 1, 2, 3], b"a.example.org".as_slice()].concat()
    );
}

#[test]
fn init_needs_sa_ke_and_nonce_once_and_nothing_else() {
    let check = |change: &dyn Fn(&mut Vec<Payload>)| {
        let mut message = init_request();
        change(&mut message.payloads);
        Message::parse(&message.encode().unwrap())
            .map(|_| ())
            .unwrap_err()
    };
    for (index, kind) in [PayloadType::SA, PayloadType::KE, PayloadType::NONCE]
        .iter()
        .enumerate()
    {
        assert_eq!(check(&|p| drop(p.remove(index))), WireError::Missing(*kind));
        assert_eq!(
            check(&|p| p.push(p[index].clone())),
            WireError::Repeated(*kind)
        );
    }
    let auth = Payload::Auth {
        method: AuthMethod::PSK,
        data: vec![],
    };
    assert_eq!(
        check(&|p| p.push(auth.clone())),
        WireError::Unexpected(PayloadType::AUTH)
    );
}

#[test]
fn a_refusing_response_needs_no_payload_but_the_notification() {
    let mut message = init_request();
    message.header.flags = Flags::RESPONSE;
    for (kind, sufficient) in [
        (NotifyType::COOKIE, true),
        (NotifyType::INVALID_KE_PAYLOAD, true),
        (NotifyType::NO_PROPOSAL_CHOSEN, true),
        (NotifyType::NAT_DETECTION_SOURCE_IP, false),
    ] {
        message.payloads = vec![Payload::notify(kind, vec![0, 19])];
        let bytes = message.encode().unwrap();
        assert_eq!(Message::parse(&bytes).is_ok(), sufficient, "{kind}");
    }
    message.header.flags = Flags::INITIATOR;
    message.payloads = vec![Payload::notify(NotifyType::NO_PROPOSAL_CHOSEN, vec![])];
    assert!(
        Message::parse(&message.encode().unwrap()).is_err(),
        "a request cannot refuse"
    );
}

#[test]
fn what_must_be_encrypted_is_refused_in_clear() {
    let parse = |payloads: Vec<Payload>| {
        let header = header(ExchangeType::INFORMATIONAL, Flags::RESPONSE);
        let bytes = Message { header, payloads }.encode().unwrap();
        Message::parse(&bytes).map(|_| ())
    };
    let delete = Payload::Delete(Delete::ike());
    assert_eq!(
        parse(vec![delete]),
        Err(WireError::NotEncrypted(PayloadType::DELETE))
    );
    assert_eq!(parse(vec![]), Err(WireError::Missing(PayloadType::SK)));
    // RFC 7296 1.5: the one kind of message outside of an IKE SA.
    assert_eq!(
        parse(vec![Payload::notify(NotifyType::INVALID_IKE_SPI, vec![])]),
        Ok(())
    );
    let mut bytes = auth_request().encode().unwrap();
    let error = Message::parse(&bytes).unwrap_err();
    assert_eq!(error, WireError::NotEncrypted(PayloadType::ID_I));
    // The same with an encrypted payload behind them.
    let tail = [0, 0, 0, 8, 0, 0, 0, 0];
    let last = bytes.len() - 5; // the unknown payload of one byte is the last one
    bytes[last] = PayloadType::SK.0;
    bytes.extend(tail);
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    bytes[24..28].copy_from_slice(&length);
    let error = Message::parse(&bytes).unwrap_err();
    assert_eq!(error, WireError::NotEncrypted(PayloadType::ID_I));
}

#[test]
fn encrypted_payloads_do_not_nest_and_do_not_belong_into_init() {
    let init = envelope(ExchangeType::IKE_SA_INIT, Flags::INITIATOR, PayloadType::SA);
    let error = Message::parse(&init).unwrap_err();
    assert_eq!(error, WireError::Unexpected(PayloadType::SK));
    let error = decode_bytes(&auth_request(), PayloadType::SK, &[0, 0, 0, 4]).unwrap_err();
    assert_eq!(error, WireError::Unexpected(PayloadType::SK));
    // Nothing follows the encrypted payload (RFC 7296 3.14).
    let mut bytes = envelope(ExchangeType::IKE_AUTH, Flags::INITIATOR, PayloadType::ID_I);
    bytes.extend([0, 0, 0, 4]);
    bytes[27] += 4;
    let error = Message::parse(&bytes).unwrap_err();
    assert_eq!(error, WireError::Trailing("encrypted payload"));
}

#[test]
fn auth_response_needs_idr_and_auth_unless_it_refuses() {
    let mut message = auth_request();
    message.header.flags = Flags::RESPONSE;
    message
        .payloads
        .retain(|payload| payload.kind() == PayloadType::AUTH);
    assert_eq!(decode(&message), Err(WireError::Missing(PayloadType::ID_R)));
    message.payloads = vec![Payload::notify(NotifyType::AUTHENTICATION_FAILED, vec![])];
    assert_eq!(decode(&message).as_ref(), Ok(&message));
}

#[test]
fn counts_are_bounded() {
    let mut message = init_request();
    let filler = Payload::notify(NotifyType::COOKIE2, vec![]);
    message.payloads.resize(MAX_PAYLOADS, filler.clone());
    assert!(Message::parse(&message.encode().unwrap()).is_ok());
    message.payloads.push(filler);
    assert_eq!(message.encode(), Err(WireError::Length("payload count")));
    let proposal = |number| Proposal {
        number,
        protocol: ProtocolId::IKE,
        spi: vec![],
        transforms: vec![aes_gcm(128)],
    };
    let most = u8::try_from(MAX_PROPOSALS).unwrap();
    let mut message = init_request();
    message.payloads[0] = Payload::Sa((1..=most).map(proposal).collect());
    assert_eq!(plain(&message), message);
    message.payloads[0] = Payload::Sa((1..=most + 1).map(proposal).collect());
    assert_eq!(message.encode(), Err(WireError::Length("SA payload")));
}

#[test]
fn more_payloads_than_allowed_are_refused() {
    let header = header(ExchangeType::INFORMATIONAL, Flags::INITIATOR);
    let message = Message {
        header,
        payloads: vec![],
    };
    let one = [PayloadType::NOTIFY.0, 0, 0, 8, 0, 0, 0x40, 0];
    let mut bytes = one.repeat(MAX_PAYLOADS + 1);
    let last = bytes.len() - 8;
    bytes[last] = 0;
    let error = decode_bytes(&message, PayloadType::NOTIFY, &bytes).unwrap_err();
    assert_eq!(error, WireError::Length("payload count"));
    let fewer = &bytes[8..];
    assert!(decode_bytes(&message, PayloadType::NOTIFY, fewer).is_ok());
}

#[test]
fn nonces_have_16_to_256_bytes() {
    for (bytes, fits) in [(15, false), (16, true), (256, true), (257, false)] {
        let mut message = init_request();
        message.payloads[2] = Payload::Nonce(vec![1; bytes]);
        assert_eq!(message.encode().is_ok(), fits, "{bytes}");
    }
    let mut bytes = init_request().encode().unwrap();
    let at = bytes.windows(4).position(|w| w == [41, 0, 0, 36]).unwrap();
    // Ten bytes, then a payload of an unknown type over the rest.
    bytes[at..at + 4].copy_from_slice(&[130, 0, 0, 14]);
    bytes[at + 14..at + 18].copy_from_slice(&[41, 0, 0, 22]);
    assert_eq!(
        Message::parse(&bytes).unwrap_err(),
        WireError::Length("nonce")
    );
}

/// Bytes of a traffic selector payload body in a CREATE_CHILD_SA request.
fn parse_ts(body: &str) -> Result<Vec<TrafficSelector>, WireError> {
    let mut plaintext = vec![0, 0];
    let body = hex(body);
    plaintext.extend(u16::try_from(body.len() + 4).unwrap().to_be_bytes());
    plaintext.extend(body);
    let rest = Message {
        header: header(ExchangeType::CREATE_CHILD_SA, Flags::INITIATOR),
        payloads: vec![
            init_request().payloads[0].clone(),
            Payload::Nonce(vec![0; 16]),
        ],
    };
    let mut all = rest.encode_payloads().unwrap();
    let nonce_header = all.len() - 20;
    all[nonce_header] = PayloadType::TS_I.0;
    all.extend(plaintext);
    let message = decode_bytes(&rest, PayloadType::SA, &all)?;
    match message.payloads.last() {
        Some(Payload::TsI(selectors)) => Ok(selectors.clone()),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn traffic_selectors_are_checked() {
    let v4 = "07 11 0010 0001 0002 0a000000 0a0000ff";
    let expected = selector("10.0.0.0", "10.0.0.255");
    assert_eq!(parse_ts(&format!("01000000 {v4}")), Ok(vec![expected]));
    // A security label (RFC 9478) selects nothing here, but is no error.
    let label = "0a 00 0006 6161";
    assert_eq!(
        parse_ts(&format!("02000000 {label} {v4}")),
        Ok(vec![expected])
    );
    assert_eq!(parse_ts(&format!("01000000 {label}")), Ok(vec![]));
    let opaque = parse_ts("01000000 07 00 0010 ffff 0000 0a000000 0a0000ff").unwrap();
    assert!(opaque[0].opaque_port() && !opaque[0].any_port());
    for (body, error) in [
        (
            format!("02000000 {v4}"),
            WireError::Short("traffic selector"),
        ),
        (format!("01000000 {v4} 00"), WireError::Trailing("payload")),
        (
            "01000000 07 11 000f 0001 0002 0a000000 0a0000".into(),
            WireError::Short("selector address"),
        ),
        (
            "01000000 07 11 0011 0001 0002 0a000000 0a0000ff 00".into(),
            WireError::Trailing("traffic selector"),
        ),
        (
            "01000000 07 11 0003 0001 0002 0a000000 0a0000ff".into(),
            WireError::Length("traffic selector"),
        ),
        (
            "01000000 07 11 0010 0001 0002 0a000001 0a000000".into(),
            WireError::Value("selector addresses"),
        ),
        (
            "01000000 07 11 0010 0003 0002 0a000000 0a0000ff".into(),
            WireError::Value("selector ports"),
        ),
    ] {
        assert_eq!(parse_ts(&body), Err(error), "{body}");
    }
}

#[test]
fn substructures_of_an_sa_payload_have_to_agree() {
    let good = init_request().encode().unwrap();
    // Offsets: 32 proposal 1 (last, length at 34, number 36, protocol, SPI size 38, count 39),
    // 40 transform 1 (last, length at 42), 80 proposal 2.
    for (at, value, error) in [
        (32, 0, WireError::Trailing("SA payload")),
        (32, 1, WireError::Value("last substructure")),
        (80, 2, WireError::Short("SA payload")),
        (35, 3, WireError::Length("proposal")),
        (38, 255, WireError::Short("proposal SPI")),
        (39, 3, WireError::Length("transform count")),
        (39, 0, WireError::Trailing("proposal")),
        (40, 0, WireError::Trailing("proposal")),
        (43, 7, WireError::Short("transform")),
        (84, 1, WireError::Value("proposal number")),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(
            Message::parse(&bytes).unwrap_err(),
            error,
            "byte {at} = {value}"
        );
    }
}

#[test]
fn deletes_of_other_forms_are_refused() {
    let message = Message {
        header: header(ExchangeType::INFORMATIONAL, Flags::INITIATOR),
        payloads: vec![],
    };
    let parse = |body: &str| {
        let body = hex(body);
        let mut bytes = vec![0, 0, 0, u8::try_from(body.len() + 4).unwrap()];
        bytes.extend(body);
        decode_bytes(&message, PayloadType::DELETE, &bytes)
    };
    assert!(parse("03040001 00000001").is_ok());
    assert!(parse("01000000").is_ok());
    assert_eq!(
        parse("03040002 00000001"),
        Err(WireError::Short("delete SPI"))
    );
    assert_eq!(
        parse("03040001 00000001 00"),
        Err(WireError::Trailing("payload"))
    );
    assert_eq!(
        parse("03080001 0000000100000002"),
        Err(WireError::Value("delete"))
    );
    assert_eq!(
        parse("01080001 0000000100000002"),
        Err(WireError::Value("delete"))
    );
    assert_eq!(parse("09040000"), Err(WireError::Value("delete")));
}

#[test]
fn too_long_messages_are_not_written() {
    let mut message = init_request();
    message.payloads.push(Payload::VendorId(vec![0; 65_530]));
    assert_eq!(message.encode(), Err(WireError::Length("message")));
    message.payloads.push(Payload::VendorId(vec![0; 65_532]));
    assert_eq!(message.encode(), Err(WireError::Length("payload")));
    assert_eq!(
        message.encode_sk_prefix(65_504),
        Err(WireError::Length("message"))
    );
    assert!(message.encode_sk_prefix(65_503).is_ok());
}

#[test]
fn numbers_keep_their_value_and_name() {
    assert_eq!(NotifyType(16390).to_string(), "COOKIE");
    assert_eq!(NotifyType(50_000).to_string(), "NotifyType(50000)");
    assert!(NotifyType(16383).is_error() && !NotifyType(16384).is_error());
    assert_eq!(format!("{:?}", ExchangeType(34)), "IKE_SA_INIT");
}

fn any_flags() -> impl Strategy<Value = Flags> {
    (any::<bool>(), any::<bool>()).prop_map(|(i, r)| Flags::new(i, r))
}

fn any_exchange() -> impl Strategy<Value = ExchangeType> {
    (33_u8..39).prop_map(ExchangeType)
}

/// Bytes of a message, a few of them changed, or cut, or doubled.
fn damaged(original: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = original.len();
    let changes = vec((0..length, any::<u8>()), 0..6);
    let cut = prop_oneof![4 => Just(length), 1 => 0..=length];
    (changes, cut, any::<bool>()).prop_map(move |(changes, cut, repair)| {
        let mut bytes = original.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(cut);
        if let Some(field) = bytes.get_mut(24..28).filter(|_| repair) {
            field.copy_from_slice(&u32::try_from(cut).unwrap().to_be_bytes());
        }
        bytes
    })
}

/// What was read can be written, and reads the same again.
fn assert_stable(message: &Message) {
    let bytes = message.encode().unwrap();
    match Message::parse(&bytes).unwrap() {
        Parsed::Plain(again) => assert_eq!(&again, message),
        Parsed::Encrypted(_) => unreachable!("sent in clear"),
    }
    assert_eq!(plain(message).encode().unwrap(), bytes);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Message::parse(&bytes);
        let _ = Header::parse(&bytes);
    }

    #[test]
    fn random_payloads_never_panic(
        exchange in any_exchange(),
        flags in any_flags(),
        first in 33_u8..56,
        plaintext in vec(any::<u8>(), 0..300),
    ) {
        let message = Message { header: header(exchange, flags), payloads: vec![] };
        let _ = decode_bytes(&message, PayloadType(first), &plaintext);
    }

    #[test]
    fn damaged_init_never_panics_and_is_stable(bytes in damaged(init_request().encode().unwrap())) {
        if let Ok(Parsed::Plain(message)) = Message::parse(&bytes) {
            assert_stable(&message);
        }
    }

    #[test]
    fn damaged_auth_never_panics_and_is_stable(
        bytes in damaged(auth_request().encode_payloads().unwrap()),
    ) {
        if let Ok(message) = decode_bytes(&auth_request(), PayloadType::ID_I, &bytes) {
            prop_assert_eq!(decode(&message), Ok(message));
        }
    }

    #[test]
    fn arbitrary_proposals_survive(
        spi in vec(any::<u8>(), 0..9),
        transforms in vec((any::<u8>(), any::<u16>(), any::<Option<u16>>()), 0..40),
    ) {
        let transforms = transforms.into_iter().map(|(kind, id, key_bits)| Transform {
            key_bits,
            ..Transform::new(TransformType(kind), id)
        });
        let transforms = transforms.collect();
        let proposal = Proposal { number: 9, protocol: ProtocolId::ESP, spi, transforms };
        let mut message = init_request();
        message.payloads[0] = Payload::Sa(vec![proposal]);
        assert_stable(&message);
    }

    #[test]
    fn arbitrary_notifications_survive(
        protocol: u8,
        kind: u16,
        spi in vec(any::<u8>(), 0..256),
        data in vec(any::<u8>(), 0..300),
    ) {
        let kind = NotifyType(kind);
        let notify = Notify { protocol: ProtocolId(protocol), spi, kind, data };
        let mut message = init_request();
        message.payloads.push(Payload::Notify(notify));
        assert_stable(&message);
    }
}

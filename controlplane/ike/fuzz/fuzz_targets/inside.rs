//! The content of encrypted payloads, from a peer that has the keys and means harm: exchange,
//! flags, type of the first payload, then the payloads. Then the choice from its proposals.
#![no_main]

use ike::proposal::{EspProposal, IkeProposal, accept_esp, select_esp, select_ike};
use ike::wire::{ExchangeType, Flags, HEADER_BYTES, Header, Message, Parsed, Payload, VERSION};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [exchange, flags, first, plaintext @ ..] = bytes else {
        return;
    };
    let header = Header {
        spi_i: 1,
        spi_r: 2,
        version: VERSION,
        exchange: ExchangeType(*exchange),
        flags: Flags(*flags),
        message_id: 1,
    };
    let empty = Message {
        header,
        payloads: vec![],
    };
    let mut envelope = empty.encode_sk_prefix(32).expect("is short");
    envelope[HEADER_BYTES] = *first;
    envelope.extend([0; 32]);
    let Ok(Parsed::Encrypted(encrypted)) = Message::parse(&envelope) else {
        return;
    };
    let Ok(message) = encrypted.decode(plaintext) else {
        return;
    };
    let encoded = message
        .encode_payloads()
        .expect("what was read can be written");
    let kind = message
        .payloads
        .first()
        .map_or(0, |payload| payload.kind().0);
    envelope[HEADER_BYTES] = kind;
    let Ok(Parsed::Encrypted(encrypted)) = Message::parse(&envelope) else {
        panic!("the envelope is good");
    };
    assert_eq!(encrypted.decode(&encoded).as_ref(), Ok(&message));
    for payload in &message.payloads {
        if let Payload::Sa(proposals) = payload {
            let _ = select_ike(&IkeProposal::defaults(), proposals, true, None);
            if let Some(choice) = select_esp(&EspProposal::defaults(), proposals, true, None) {
                let answer = choice.answer(&[1; 4]);
                assert!(accept_esp(proposals, &answer, true).is_some());
            }
        }
    }
});

//! Datagrams as they come from the network. What parses must encode and parse to the same, and
//! nothing opens without the keys.
#![no_main]

use ike::crypto::{SkAlgorithm, SkCipher};
use ike::wire::{EncrId, IntegId, Message, Parsed};
use libfuzzer_sys::fuzz_target;

fn cipher(encr: EncrId, integ: IntegId) -> SkCipher {
    let algorithm = SkAlgorithm {
        encr,
        key_bits: 256,
        integ,
    };
    let sk_e = vec![1; algorithm.encr_key_bytes()];
    let sk_a = vec![2; algorithm.integ_key_bytes()];
    SkCipher::new(algorithm, &sk_e, &sk_a).expect("is built")
}

fuzz_target!(|bytes: &[u8]| {
    match Message::parse(bytes) {
        Ok(Parsed::Plain(message)) => {
            let encoded = message.encode().expect("what was read can be written");
            let Ok(Parsed::Plain(again)) = Message::parse(&encoded) else {
                panic!("what was written cannot be read");
            };
            assert_eq!(again, message);
            assert_eq!(again.encode().as_ref(), Ok(&encoded));
        }
        Ok(Parsed::Encrypted(encrypted)) => {
            let gcm = cipher(EncrId::AES_GCM_16, IntegId::NONE);
            assert!(encrypted.open(&gcm).is_err());
            let cbc = cipher(EncrId::AES_CBC, IntegId::HMAC_SHA2_256_128);
            assert!(encrypted.open(&cbc).is_err());
        }
        Err(error) => drop(error.notify()),
    }
});

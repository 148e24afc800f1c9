//! Keywords of swanctl proposals.

use crate::wire::{EncrId, Esn, IntegId, KeGroup, PrfId, Transform, TransformType};

/// Where an algorithm is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ike,
    Esp,
    Both,
}

/// A keyword whose algorithm is built.
#[derive(Clone, Copy)]
pub(super) struct Keyword {
    name: &'static str,
    pub(super) kind: TransformType,
    id: u16,
    key_bits: u16,
    pub(super) place: Place,
}

impl Keyword {
    pub(super) const fn transform(&self) -> Transform {
        match self.key_bits {
            0 => Transform::new(self.kind, self.id),
            bits => Transform::with_key(self.kind, self.id, bits),
        }
    }
}

const fn encr(name: &'static str, id: EncrId, key_bits: u16, place: Place) -> Keyword {
    Keyword {
        name,
        kind: TransformType::ENCR,
        id: id.0,
        key_bits,
        place,
    }
}

const fn prf(name: &'static str, id: PrfId) -> Keyword {
    Keyword {
        name,
        kind: TransformType::PRF,
        id: id.0,
        key_bits: 0,
        place: Place::Ike,
    }
}

/// With an AEAD an integrity keyword gives the PRF in IKE and nothing in ESP.
const fn integ(name: &'static str, id: IntegId) -> Keyword {
    Keyword {
        name,
        kind: TransformType::INTEG,
        id: id.0,
        key_bits: 0,
        place: Place::Both,
    }
}

const fn ke(name: &'static str, id: KeGroup, place: Place) -> Keyword {
    Keyword {
        name,
        kind: TransformType::KE,
        id: id.0,
        key_bits: 0,
        place,
    }
}

const fn esn(name: &'static str, id: Esn) -> Keyword {
    Keyword {
        name,
        kind: TransformType::ESN,
        id: id.0,
        key_bits: 0,
        place: Place::Esp,
    }
}

const BUILT: [Keyword; 33] = [
    encr("aes", EncrId::AES_CBC, 128, Place::Ike),
    encr("aes128", EncrId::AES_CBC, 128, Place::Ike),
    encr("aes192", EncrId::AES_CBC, 192, Place::Ike),
    encr("aes256", EncrId::AES_CBC, 256, Place::Ike),
    encr("aes128gcm16", EncrId::AES_GCM_16, 128, Place::Both),
    encr("aes128gcm128", EncrId::AES_GCM_16, 128, Place::Both),
    encr("aes192gcm16", EncrId::AES_GCM_16, 192, Place::Ike),
    encr("aes192gcm128", EncrId::AES_GCM_16, 192, Place::Ike),
    encr("aes256gcm16", EncrId::AES_GCM_16, 256, Place::Both),
    encr("aes256gcm128", EncrId::AES_GCM_16, 256, Place::Both),
    prf("prfsha256", PrfId::HMAC_SHA2_256),
    prf("prfsha2_256", PrfId::HMAC_SHA2_256),
    prf("prfsha384", PrfId::HMAC_SHA2_384),
    prf("prfsha2_384", PrfId::HMAC_SHA2_384),
    prf("prfsha512", PrfId::HMAC_SHA2_512),
    prf("prfsha2_512", PrfId::HMAC_SHA2_512),
    integ("sha256", IntegId::HMAC_SHA2_256_128),
    integ("sha2_256", IntegId::HMAC_SHA2_256_128),
    integ("sha384", IntegId::HMAC_SHA2_384_192),
    integ("sha2_384", IntegId::HMAC_SHA2_384_192),
    integ("sha512", IntegId::HMAC_SHA2_512_256),
    integ("sha2_512", IntegId::HMAC_SHA2_512_256),
    ke("modp2048", KeGroup::MODP_2048, Place::Both),
    ke("modp3072", KeGroup::MODP_3072, Place::Both),
    ke("modp4096", KeGroup::MODP_4096, Place::Both),
    ke("ecp256", KeGroup::ECP_256, Place::Both),
    ke("ecp384", KeGroup::ECP_384, Place::Both),
    ke("x25519", KeGroup::CURVE_25519, Place::Both),
    ke("curve25519", KeGroup::CURVE_25519, Place::Both),
    ke("none", KeGroup::NONE, Place::Esp),
    ke("modpnone", KeGroup::NONE, Place::Esp),
    esn("esn", Esn::YES),
    esn("noesn", Esn::NO),
];

/// Keywords that swanctl knows and this program does not build yet.
const UNBUILT: [&str; 115] = [
    "des",
    "3des",
    "null",
    "cast128",
    "blowfish",
    "blowfish128",
    "blowfish192",
    "blowfish256",
    "serpent",
    "serpent128",
    "serpent192",
    "serpent256",
    "twofish",
    "twofish128",
    "twofish192",
    "twofish256",
    "camellia",
    "camellia128",
    "camellia192",
    "camellia256",
    "chacha20poly1305",
    "chacha20poly1305compat",
    "aes128ctr",
    "camellia128ctr",
    "aes128gmac",
    "aes128ccm8",
    "aes128ccm64",
    "aes128ccm12",
    "aes128ccm96",
    "aes128ccm16",
    "aes128ccm128",
    "camellia128ccm8",
    "camellia128ccm64",
    "camellia128ccm12",
    "camellia128ccm96",
    "camellia128ccm16",
    "camellia128ccm128",
    "aes128gcm8",
    "aes128gcm64",
    "aes128gcm12",
    "aes128gcm96",
    "aes192ctr",
    "camellia192ctr",
    "aes192gmac",
    "aes192ccm8",
    "aes192ccm64",
    "aes192ccm12",
    "aes192ccm96",
    "aes192ccm16",
    "aes192ccm128",
    "camellia192ccm8",
    "camellia192ccm64",
    "camellia192ccm12",
    "camellia192ccm96",
    "camellia192ccm16",
    "camellia192ccm128",
    "aes192gcm8",
    "aes192gcm64",
    "aes192gcm12",
    "aes192gcm96",
    "aes256ctr",
    "camellia256ctr",
    "aes256gmac",
    "aes256ccm8",
    "aes256ccm64",
    "aes256ccm12",
    "aes256ccm96",
    "aes256ccm16",
    "aes256ccm128",
    "camellia256ccm8",
    "camellia256ccm64",
    "camellia256ccm12",
    "camellia256ccm96",
    "camellia256ccm16",
    "camellia256ccm128",
    "aes256gcm8",
    "aes256gcm64",
    "aes256gcm12",
    "aes256gcm96",
    "md5",
    "md5_128",
    "sha",
    "sha1",
    "sha1_160",
    "sha256_96",
    "sha2_256_96",
    "aesxcbc",
    "aescmac",
    "camelliaxcbc",
    "prfmd5",
    "prfsha1",
    "prfaesxcbc",
    "prfaescmac",
    "prfcamelliaxcbc",
    "modpnull",
    "modp768",
    "modp1024",
    "modp1536",
    "modp6144",
    "modp8192",
    "modp1024s160",
    "modp2048s224",
    "modp2048s256",
    "ecp192",
    "ecp224",
    "ecp521",
    "ecp224bp",
    "ecp256bp",
    "ecp384bp",
    "ecp512bp",
    "x448",
    "curve448",
    "mlkem512",
    "mlkem768",
    "mlkem1024",
];

/// What a keyword means.
pub(super) enum Meaning {
    Built(Keyword),
    Unbuilt,
    Unknown { nearest: &'static str },
}

/// Looks a keyword up, without regard to case.
pub(super) fn look_up(word: &str) -> Meaning {
    let same = |name: &str| name.eq_ignore_ascii_case(word);
    if let Some(keyword) = BUILT.iter().find(|keyword| same(keyword.name)) {
        return Meaning::Built(*keyword);
    }
    // Further key exchanges (RFC 9370) are written ke1_mlkem768 and so on.
    let additional = word
        .strip_prefix("ke")
        .and_then(|rest| rest.split_once('_'));
    let additional = additional.is_some_and(|(number, _)| number.parse::<u8>().is_ok());
    if additional || UNBUILT.iter().any(|name| same(name)) {
        return Meaning::Unbuilt;
    }
    let names = BUILT.iter().map(|keyword| keyword.name).chain(UNBUILT);
    let nearest = names
        .min_by_key(|name| distance(word, name))
        .unwrap_or_default();
    Meaning::Unknown { nearest }
}

/// Edits that make one word the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let cost = usize::from(!x.eq_ignore_ascii_case(&y));
            let best = (diagonal + cost).min(*cell + 1).min(left + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

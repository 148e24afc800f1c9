//! Identities as the configuration writes them and as ID payloads carry them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::wire::{IdType, Identification};

/// An identity, or a pattern of identities that a peer may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `%any`: whoever it is.
    Any,
    /// One identity; a name or an e-mail address may start with `*` in place of any beginning.
    Named {
        /// ID type on the wire.
        kind: IdType,
        /// Data of the ID payload.
        data: Vec<u8>,
    },
}

/// Why a text is not an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// Nothing there.
    Empty,
    /// The text after the prefix is not an address of that family.
    Address(String),
    /// The text after `#` is not hexadecimal.
    Hex(String),
    /// The number in `{N}:` is not an ID type.
    Type(String),
    /// Distinguished names need certificates, which are not built.
    Unbuilt(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("identity is empty; write %any for any peer"),
            Self::Address(text) => write!(f, "\"{text}\" is not an address of the type asked for"),
            Self::Hex(text) => write!(f, "\"{text}\" is not hexadecimal"),
            Self::Type(text) => write!(f, "\"{text}\" is not an ID type between 1 and 255"),
            Self::Unbuilt(text) => {
                write!(
                    f,
                    "\"{text}\" is a distinguished name, which is not supported yet"
                )
            }
        }
    }
}

impl std::error::Error for IdentityError {}

/// Prefixes that set the type (swanctl.conf, `id`).
const PREFIXES: [(&str, IdType); 11] = [
    ("ipv4:", IdType::IPV4_ADDR),
    ("ipv6:", IdType::IPV6_ADDR),
    ("rfc822:", IdType::RFC822_ADDR),
    ("email:", IdType::RFC822_ADDR),
    ("userfqdn:", IdType::RFC822_ADDR),
    ("fqdn:", IdType::FQDN),
    ("dns:", IdType::FQDN),
    ("keyid:", IdType::KEY_ID),
    ("asn1dn:", IdType::DER_ASN1_DN),
    ("asn1gn:", IdType::DER_ASN1_GN),
    ("xmppaddr:", IdType::DER_ASN1_GN),
];

impl FromStr for Identity {
    type Err = IdentityError;

    /// Reads an identity as swanctl does: the type is guessed from the form, or set by a prefix
    /// (`ipv4:`, `ipv6:`, `fqdn:`, `dns:`, `email:`, `rfc822:`, `userfqdn:`, `keyid:`, `{N}:`),
    /// whose text may be `#` and hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        match text {
            "" => return Err(IdentityError::Empty),
            "%any" | "%any4" | "%any6" | "*" | "0.0.0.0" | "::" | "0::0" => return Ok(Self::Any),
            _ => {}
        }
        let lower = text.to_ascii_lowercase();
        for (prefix, kind) in PREFIXES {
            if lower.starts_with(prefix) {
                return Self::typed(kind, text.get(prefix.len()..).unwrap_or_default());
            }
        }
        if let Some((number, rest)) = text.strip_prefix('{').and_then(|t| t.split_once("}:")) {
            let kind = number.parse().ok().filter(|kind| *kind != 0);
            let kind = kind.ok_or_else(|| IdentityError::Type(number.into()))?;
            return Self::typed(IdType(kind), rest);
        }
        Self::guessed(text)
    }
}

impl Identity {
    /// An address as identity.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::Named {
                kind: IdType::IPV4_ADDR,
                data: v4.octets().to_vec(),
            },
            IpAddr::V6(v6) => Self::Named {
                kind: IdType::IPV6_ADDR,
                data: v6.octets().to_vec(),
            },
        }
    }

    fn named(kind: IdType, data: &[u8]) -> Self {
        Self::Named {
            kind,
            data: data.to_vec(),
        }
    }

    fn typed(kind: IdType, text: &str) -> Result<Self, IdentityError> {
        if matches!(kind, IdType::DER_ASN1_DN | IdType::DER_ASN1_GN) {
            return Err(IdentityError::Unbuilt(text.into()));
        }
        if let Some(digits) = text.strip_prefix('#') {
            let data = hex(digits).ok_or_else(|| IdentityError::Hex(digits.into()))?;
            return Ok(Self::Named { kind, data });
        }
        let not_address = |_| IdentityError::Address(text.into());
        match kind {
            IdType::IPV4_ADDR => {
                let address: Ipv4Addr = text.parse().map_err(not_address)?;
                Ok(Self::address(address.into()))
            }
            IdType::IPV6_ADDR => {
                let address: Ipv6Addr = text.parse().map_err(not_address)?;
                Ok(Self::address(address.into()))
            }
            _ if text.is_empty() => Err(IdentityError::Empty),
            _ => Ok(Self::named(kind, text.as_bytes())),
        }
    }

    /// Form decides: `@#` hexadecimal key id, `@@` e-mail, `@` name, an address, something with `@`
    /// in it is an e-mail address, with `=` a distinguished name, with `:` a key id, else a name.
    fn guessed(text: &str) -> Result<Self, IdentityError> {
        if let Some(digits) = text.strip_prefix("@#") {
            let data = hex(digits).ok_or_else(|| IdentityError::Hex(digits.into()))?;
            return Ok(Self::Named {
                kind: IdType::KEY_ID,
                data,
            });
        }
        if let Some(name) = text.strip_prefix("@@") {
            return Self::typed(IdType::RFC822_ADDR, name);
        }
        if let Some(name) = text.strip_prefix('@') {
            return Self::typed(IdType::FQDN, name);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::address(address));
        }
        match text {
            _ if text.contains('=') => Err(IdentityError::Unbuilt(text.into())),
            _ if text.contains('@') => Ok(Self::named(IdType::RFC822_ADDR, text.as_bytes())),
            _ if text.contains(':') => Ok(Self::named(IdType::KEY_ID, text.as_bytes())),
            _ => Ok(Self::named(IdType::FQDN, text.as_bytes())),
        }
    }

    /// What an ID payload says.
    #[must_use]
    pub fn from_wire(id: &Identification) -> Self {
        Self::Named {
            kind: id.kind,
            data: id.data.clone(),
        }
    }

    /// The ID payload of this identity; `None` for a pattern, which cannot be claimed.
    #[must_use]
    pub fn to_wire(&self) -> Option<Identification> {
        match self {
            Self::Named { kind, data } if !self.is_pattern() => {
                Some(Identification::new(*kind, data.clone()))
            }
            _ => None,
        }
    }

    /// True if more than one identity matches.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Named { kind, data } => is_text(*kind) && data.first() == Some(&b'*'),
        }
    }

    /// True if `other` is this identity, or one that this pattern allows. Names and e-mail
    /// addresses compare without case; a type matches only itself.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Named { .. }, Self::Any) => false,
            (
                Self::Named { kind, data },
                Self::Named {
                    kind: other_kind,
                    data: other,
                },
            ) => kind == other_kind && data_matches(*kind, data, other),
        }
    }
}

fn data_matches(kind: IdType, pattern: &[u8], data: &[u8]) -> bool {
    if !is_text(kind) {
        return pattern == data;
    }
    match pattern.strip_prefix(b"*") {
        // The tail alone is not enough: `*.example.org` does not stand for `.example.org`.
        Some(tail) => {
            data.len() > tail.len()
                && data
                    .get(data.len() - tail.len()..)
                    .is_some_and(|end| end.eq_ignore_ascii_case(tail))
        }
        None => pattern.eq_ignore_ascii_case(data),
    }
}

const fn is_text(kind: IdType) -> bool {
    matches!(kind, IdType::FQDN | IdType::RFC822_ADDR)
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits).as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|v| u8::try_from(v).ok())
    };
    digits
        .chunks_exact(2)
        .map(|pair| match pair {
            &[high, low] => Some(value(high)? << 4 | value(low)?),
            _ => None,
        })
        .collect()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Named { kind, data } = self else {
            return f.write_str("%any");
        };
        let text = || {
            std::str::from_utf8(data)
                .ok()
                .filter(|t| t.chars().all(is_printable))
        };
        // Shown bare only if it reads back as what it is: a peer chooses these bytes.
        let bare = || text().filter(|t| t.parse().as_ref() == Ok(self));
        match (*kind, data.as_slice()) {
            (IdType::IPV4_ADDR, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).fmt(f),
            (IdType::IPV6_ADDR, bytes) if bytes.len() == 16 => {
                <[u8; 16]>::try_from(bytes).map_or(Ok(()), |b| Ipv6Addr::from(b).fmt(f))
            }
            (IdType::FQDN | IdType::RFC822_ADDR, _) if bare().is_some() => {
                f.write_str(bare().unwrap_or_default())
            }
            (IdType::KEY_ID, _) if text().is_some() => {
                write!(f, "keyid:{}", text().unwrap_or_default())
            }
            _ => {
                write!(f, "{{{}}}:#", kind.0)?;
                data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// What may go to a terminal or a log as it is.
fn is_printable(letter: char) -> bool {
    letter == ' ' || letter.is_ascii_graphic() || (!letter.is_ascii() && letter.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Identity {
        text.parse().unwrap()
    }

    fn named(kind: IdType, data: &[u8]) -> Identity {
        Identity::named(kind, data)
    }

    #[test]
    fn types_are_guessed_as_swanctl_does() {
        for (text, expected) in [
            ("192.0.2.1", named(IdType::IPV4_ADDR, &[192, 0, 2, 1])),
            ("gw.example.org", named(IdType::FQDN, b"gw.example.org")),
            (
                "a@example.org",
                named(IdType::RFC822_ADDR, b"a@example.org"),
            ),
            ("@gw", named(IdType::FQDN, b"gw")),
            ("@@a@b", named(IdType::RFC822_ADDR, b"a@b")),
            ("@#0aFf", named(IdType::KEY_ID, &[10, 255])),
            ("fqdn:192.0.2.1", named(IdType::FQDN, b"192.0.2.1")),
            ("DNS:gw", named(IdType::FQDN, b"gw")),
            ("email:a", named(IdType::RFC822_ADDR, b"a")),
            ("userfqdn:a", named(IdType::RFC822_ADDR, b"a")),
            ("rfc822:a", named(IdType::RFC822_ADDR, b"a")),
            ("keyid:any text", named(IdType::KEY_ID, b"any text")),
            ("keyid:#00ff", named(IdType::KEY_ID, &[0, 255])),
            ("ipv4:10.0.0.1", named(IdType::IPV4_ADDR, &[10, 0, 0, 1])),
            ("{11}:x", named(IdType::KEY_ID, b"x")),
            ("{200}:#01", named(IdType(200), &[1])),
            ("group:one", named(IdType::KEY_ID, b"group:one")),
            (" padded ", named(IdType::FQDN, b"padded")),
        ] {
            assert_eq!(id(text), expected, "{text}");
        }
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(id("2001:db8::1"), named(IdType::IPV6_ADDR, &v6.octets()));
        assert_eq!(id("ipv6:2001:db8::1"), Identity::address(v6.into()));
        for text in ["%any", "*", "0.0.0.0", "%any6"] {
            assert_eq!(id(text), Identity::Any, "{text}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, error) in [
            ("", IdentityError::Empty),
            ("fqdn:", IdentityError::Empty),
            (
                "ipv4:2001:db8::1",
                IdentityError::Address("2001:db8::1".into()),
            ),
            ("ipv6:10.0.0.1", IdentityError::Address("10.0.0.1".into())),
            ("keyid:#0", IdentityError::Hex("0".into())),
            ("@#", IdentityError::Hex(String::new())),
            ("keyid:#zz", IdentityError::Hex("zz".into())),
            ("{0}:x", IdentityError::Type("0".into())),
            ("{256}:x", IdentityError::Type("256".into())),
            ("C=XX, CN=gw", IdentityError::Unbuilt("C=XX, CN=gw".into())),
            ("asn1dn:CN=gw", IdentityError::Unbuilt("CN=gw".into())),
        ] {
            assert_eq!(text.parse::<Identity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, other, expected) in [
            ("%any", "gw.example.org", true),
            ("%any", "192.0.2.1", true),
            ("gw.example.org", "GW.Example.ORG", true),
            ("gw.example.org", "gw.example.com", false),
            ("gw.example.org", "%any", false),
            ("*.example.org", "gw.example.org", true),
            ("*.example.org", "a.b.EXAMPLE.org", true),
            ("*.example.org", "example.org", false),
            ("fqdn:*.example.org", "fqdn:.example.org", false),
            ("*.example.org", "gw.example.org.evil", false),
            ("*.example.org", "email:gw.example.org", false),
            ("*@example.org", "a@example.org", true),
            ("*@example.org", "a@sub.example.org", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "fqdn:192.0.2.1", false),
            ("keyid:a", "keyid:A", false),
            ("keyid:*", "keyid:a", false),
        ] {
            assert_eq!(
                id(pattern).matches(&id(other)),
                expected,
                "{pattern} {other}"
            );
        }
        // The peer's identity is no pattern, whatever it holds.
        assert!(!id("gw.example.org").matches(&named(IdType::FQDN, b"*.example.org")));
    }

    #[test]
    fn only_identities_can_be_claimed() {
        assert_eq!(id("%any").to_wire(), None);
        assert_eq!(id("*.example.org").to_wire(), None);
        let wire = id("gw.example.org").to_wire().unwrap();
        assert_eq!(wire.body(), b"\x02\0\0\0gw.example.org");
        assert_eq!(Identity::from_wire(&wire), id("gw.example.org"));
    }

    #[test]
    fn display_shows_nothing_that_moves_a_cursor() {
        for text in [
            "192.0.2.1",
            "2001:db8::1",
            "gw.example.org",
            "a@b.c",
            "keyid:k",
            "%any",
        ] {
            assert_eq!(id(text).to_string(), text);
        }
        let odd = named(IdType::FQDN, b"a\x1b[2J\n");
        assert_eq!(odd.to_string(), "{2}:#611b5b324a0a");
        assert_eq!(named(IdType::IPV4_ADDR, &[1, 2]).to_string(), "{1}:#0102");
    }

    proptest! {
        #[test]
        fn any_text_is_an_identity_or_an_error(text in "\\PC{0,40}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert!(identity.matches(&identity));
            }
        }

        #[test]
        fn any_identity_is_shown_so_that_it_reads_the_same(
            kind in 1_u8..14,
            data in proptest::collection::vec(any::<u8>(), 1..20),
        ) {
            let identity = named(IdType(kind), &data);
            let shown = identity.to_string();
            prop_assert!(shown.chars().all(is_printable));
            if let (true, Ok(again)) = (shown.starts_with('{'), shown.parse::<Identity>()) {
                prop_assert_eq!(again, identity);
            }
        }
    }
}

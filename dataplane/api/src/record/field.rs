//! Names of the fields of records, so that an error can say which one is wrong.

use core::fmt;

/// A field of a record, as a number that fits in a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field(pub u16);

macro_rules! fields {
    ($($name:ident = $number:literal $text:literal;)*) => {
        impl Field {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// What the field is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "unknown field",
                }
            }
        }

        #[cfg(test)]
        pub(crate) const ALL: &[Field] = &[$(Field($number)),*];
    };
}

fields! {
    KIND = 1 "record kind";
    TRAILING = 2 "bytes behind the record";
    VRF = 3 "vrf";
    INTERFACE = 4 "interface";
    DIRECTION = 5 "direction";
    TABLE = 6 "table";
    OBJECT = 7 "object id";
    PATH_ID = 16 "path id";
    PATH_LOCAL = 17 "path local address";
    PATH_REMOTE = 18 "path remote address";
    PATH_LOCAL_PORT = 19 "path local port";
    PATH_REMOTE_PORT = 20 "path remote port";
    PATH_UDP = 21 "path UDP encapsulation";
    PATH_MTU = 22 "path MTU";
    PATH_DSCP = 23 "path DSCP";
    CHILD_ID = 32 "child id";
    CHILD_MODE = 33 "child mode";
    CHILD_COPY_DF = 34 "child copy DF";
    CHILD_COPY_ECN = 35 "child copy ECN";
    CHILD_COPY_DSCP = 36 "child copy DSCP";
    CHILD_PATH = 37 "child path";
    SA_ID = 48 "SA id";
    SA_SPI = 49 "SA SPI";
    SA_ALGORITHM = 50 "SA algorithm";
    SA_KEY = 51 "SA key length in bytes";
    SA_ESN = 52 "SA ESN";
    SA_WINDOW = 53 "SA replay window in bits";
    SA_SEQUENCE = 54 "SA start sequence";
    SA_ADOPT = 55 "SA adopt";
    SA_LIMITS = 56 "SA limits";
    SA_CHILD = 57 "SA child";
    SA_HARD = 58 "SA expiry kind";
    POLICY_ID = 64 "policy id";
    POLICY_ACTION = 65 "policy action";
    POLICY_CHILD = 66 "policy child";
    SELECTOR_LOCAL = 67 "selector local addresses";
    SELECTOR_REMOTE = 68 "selector remote addresses";
    SELECTOR_LOCAL_PORTS = 69 "selector local ports";
    SELECTOR_REMOTE_PORTS = 70 "selector remote ports";
    BEGIN_RESYNC = 80 "begin resync";
    STATUS = 81 "status";
    ADDRESS = 82 "address";
    BATCH = 83 "begin or commit out of turn";
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown field" => write!(f, "field {}", self.0),
            name => f.write_str(name),
        }
    }
}

/// A field has a value that it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: Field,
    /// The value, or for what is longer than a number something that helps to find it.
    pub value: u64,
}

impl FieldError {
    #[must_use]
    pub const fn new(field: Field, value: u64) -> Self {
        Self { field, value }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: value {} is not allowed", self.field, self.value)
    }
}

impl core::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for field in ALL {
            assert!(seen.insert(field.name()), "{field} twice");
        }
        assert_eq!(Field(999).to_string(), "field 999");
    }
}

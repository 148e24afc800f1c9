//! A reader of TOML that collects every fault. The keys a section knows are the keys its code asks
//! for, so the schema is written once.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults, Severity, hint, position};

/// What a conversion of a value says when it fails: what is wrong and what would be right.
pub type Conversion<T> = Result<T, String>;

/// A parsed file and the faults found in it so far.
pub struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    faults: RefCell<Faults>,
}

impl<'t> Document<'t> {
    /// Parses; faults of syntax are kept with the others, so that reading can go on.
    #[must_use]
    pub fn parse(path: &Path, text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self {
            text,
            root,
            faults: RefCell::new(Faults::new(path)),
        };
        for error in errors {
            let span = error.span().unwrap_or_default();
            document.add(Severity::Error, span.start, error.message().to_owned());
        }
        document
    }

    /// The top of the file.
    #[must_use]
    pub fn root(&self) -> Table<'_> {
        Table::new(
            self,
            String::new(),
            0,
            self.root.get_ref(),
            self.root.span(),
        )
    }

    /// The value if there was no error, with the warnings; else all faults.
    ///
    /// # Errors
    /// Every fault of the file, if one of them is an error or `value` is `None`.
    pub fn finish<T>(self, value: Option<T>) -> Result<(T, Faults), Faults> {
        let mut faults = self.faults.into_inner();
        faults.sort();
        match value {
            Some(value) if !faults.has_errors() => Ok((value, faults)),
            _ => Err(faults),
        }
    }

    fn add(&self, severity: Severity, offset: usize, message: String) {
        let (line, column) = position(self.text, offset);
        self.faults.borrow_mut().list.push(Fault {
            severity,
            line,
            column,
            message,
        });
    }
}

/// One value and its place.
#[derive(Clone, Copy)]
pub(super) struct Value<'d> {
    inner: &'d DeValue<'d>,
    start: usize,
}

impl<'d> Value<'d> {
    fn new(spanned: &'d Spanned<DeValue<'d>>) -> Self {
        Self {
            inner: spanned.get_ref(),
            start: spanned.span().start,
        }
    }

    /// A string, number or bool in the words of swanctl.conf: `300`, `yes`, `30s`.
    fn word(&self) -> Conversion<Cow<'d, str>> {
        match self.inner {
            DeValue::String(text) => Ok(Cow::Borrowed(text)),
            DeValue::Boolean(true) => Ok("yes".into()),
            DeValue::Boolean(false) => Ok("no".into()),
            DeValue::Float(float) => Ok(Cow::Borrowed(float.as_str())),
            DeValue::Integer(integer) => {
                let number = i128::from_str_radix(integer.as_str(), integer.radix());
                number
                    .map(|n| n.to_string().into())
                    .map_err(|_| "is too large for a number; write it in quotes".to_owned())
            }
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(format!("expects one value, found {}", kind(self.inner)))
            }
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a section",
    }
}

/// A key, its place and its value.
type Entry<'d> = (&'d str, Range<usize>, Value<'d>);

/// Whether `name` is `prefix`, alone or with a number or `-suffix` behind it.
#[must_use]
pub fn has_suffix(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    rest.is_some_and(|r| r.is_empty() || r.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
}

/// One section. `take*` reads a key and remembers that it is known; [`Table::finish`] refuses the
/// rest.
pub struct Table<'d> {
    document: &'d Document<'d>,
    name: String,
    /// Where the last part of `name` begins; that part may hold dots.
    own: usize,
    start: usize,
    /// In the order of the file.
    entries: Vec<Entry<'d>>,
    known: BTreeSet<&'static str>,
}

impl<'d> Table<'d> {
    fn new(
        document: &'d Document<'d>,
        name: String,
        own: usize,
        table: &'d DeTable<'d>,
        span: Range<usize>,
    ) -> Self {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), Value::new(value)))
            .collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        Self {
            document,
            name,
            own,
            start: span.start,
            entries,
            known: BTreeSet::new(),
        }
    }

    /// Dotted name, such as `connections.office.children`; empty for the top of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last part of the dotted name.
    #[must_use]
    pub fn own_name(&self) -> &str {
        self.name.get(self.own..).unwrap_or_default()
    }

    /// Dotted name of a key of this section.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// Whether the key is in the file.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, ..)| *name == key)
    }

    /// Whether the key holds an array.
    #[must_use]
    pub fn is_array(&self, key: &str) -> bool {
        self.find(key)
            .is_some_and(|value| matches!(value.inner, DeValue::Array(_)))
    }

    /// The keys of this section in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &'d str> {
        self.entries.iter().map(|(name, ..)| *name)
    }

    /// An error about this section; the message is the whole text.
    pub fn error(&self, message: String) {
        self.document.add(Severity::Error, self.start, message);
    }

    /// An error about one key (at its value, or at the section if it is missing).
    pub fn error_at(&self, key: &str, message: String) {
        self.document.add(Severity::Error, self.place(key), message);
    }

    /// A warning about one key.
    pub fn warn_at(&self, key: &str, message: String) {
        self.document
            .add(Severity::Warning, self.place(key), message);
    }

    fn place(&self, key: &str) -> usize {
        self.find(key).map_or(self.start, |value| value.start)
    }

    fn find(&self, key: &str) -> Option<Value<'d>> {
        self.entries
            .iter()
            .find(|(name, ..)| *name == key)
            .map(|(.., value)| *value)
    }

    fn ask(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.known.insert(key);
        self.find(key)
    }

    /// Keeps a converted value, or reports why it is none.
    fn keep<T>(&self, key: &str, value: Value<'d>, result: Conversion<T>) -> Option<T> {
        result
            .map_err(|text| {
                let message = format!("\"{}\" {text}", self.path_of(key));
                self.document.add(Severity::Error, value.start, message);
            })
            .ok()
    }

    /// One value. `None` if it is absent or wrong (which is then reported).
    pub fn take<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&str) -> Conversion<T>,
    ) -> Option<T> {
        let value = self.ask(key)?;
        let result = value.word().and_then(|word| convert(&word));
        self.keep(key, value, result)
    }

    /// One value, or the default if it is absent (or wrong, which is then reported).
    pub fn take_or<T>(
        &mut self,
        key: &'static str,
        default: T,
        convert: impl Fn(&str) -> Conversion<T>,
    ) -> T {
        self.take(key, convert).unwrap_or(default)
    }

    /// One value that must be there; `why` is the fix to name if it is not.
    pub fn require<T>(
        &mut self,
        key: &'static str,
        why: &str,
        convert: impl Fn(&str) -> Conversion<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.insert(key);
            self.error(format!("\"{}\" is missing: {why}", self.path_of(key)));
            return None;
        }
        self.take(key, convert)
    }

    /// A string that may be a secret: only in quotes, and no message repeats it.
    pub fn take_secret<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&str) -> Conversion<T>,
    ) -> Option<T> {
        let value = self.ask(key)?;
        let result = match value.inner {
            DeValue::String(text) => convert(text),
            other => Err(format!("must be a string in quotes, found {}", kind(other))),
        };
        self.keep(key, value, result)
    }

    /// Several values: an array, or one string with commas as in swanctl.conf. `None` if absent;
    /// values that are wrong are reported and left out.
    pub fn take_list<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&str) -> Conversion<T>,
    ) -> Option<Vec<T>> {
        let value = self.ask(key)?;
        Some(self.convert_list(key, value, &convert))
    }

    fn convert_list<T>(
        &self,
        key: &str,
        value: Value<'d>,
        convert: &impl Fn(&str) -> Conversion<T>,
    ) -> Vec<T> {
        if let DeValue::Array(array) = value.inner {
            let values = array.iter().map(Value::new);
            return values
                .filter_map(|item| {
                    let result = item.word().and_then(|word| convert(word.trim()));
                    self.keep(key, item, result)
                })
                .collect();
        }
        let Some(word) = self.keep(key, value, value.word()) else {
            return Vec::new();
        };
        let words = word
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words
            .filter_map(|word| self.keep(key, value, convert(word)))
            .collect()
    }

    /// A section inside this one.
    pub fn take_table(&mut self, key: &'static str) -> Option<Self> {
        let value = self.ask(key)?;
        self.open(key, value)
    }

    fn open(&self, key: &str, value: Value<'d>) -> Option<Self> {
        let path = self.path_of(key);
        if let DeValue::Table(table) = value.inner {
            let start = value.start;
            let own = path.len().saturating_sub(key.len());
            return Some(Self::new(self.document, path, own, table, start..start));
        }
        let text = format!("must be a section [{path}], found {}", kind(value.inner));
        self.keep(key, value, Err(text))
    }

    /// The sections `[[name]]` of an array.
    pub fn take_tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.inner else {
            let text = format!(
                "must be sections [[{}]], found {}",
                self.path_of(key),
                kind(value.inner)
            );
            self.keep::<()>(key, value, Err(text));
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| self.open(key, Value::new(item)))
            .collect()
    }

    /// Every section inside this one whose name the operator chose, as in `[connections.NAME]`.
    pub fn take_named(&mut self) -> Vec<Self> {
        let entries = std::mem::take(&mut self.entries);
        entries
            .iter()
            .filter_map(|(name, _, value)| self.open(name, *value))
            .collect()
    }

    /// Every section named `prefix` with or without a suffix, as in `[connections.x.local-2]`.
    pub fn take_tables_suffixed(&mut self, prefix: &'static str) -> Vec<Self> {
        let taken = self.take_suffixed(prefix);
        taken
            .iter()
            .filter_map(|(name, _, value)| self.open(name, *value))
            .collect()
    }

    /// Every single value of a key `prefix` with or without a suffix, such as `id` and `id-1`.
    pub fn take_values_suffixed<T>(
        &mut self,
        prefix: &'static str,
        convert: impl Fn(&str) -> Conversion<T>,
    ) -> Vec<T> {
        let taken = self.take_suffixed(prefix);
        let one = |(name, _, value): &Entry<'d>| {
            self.keep(name, *value, value.word().and_then(|word| convert(&word)))
        };
        taken.iter().filter_map(one).collect()
    }

    fn take_suffixed(&mut self, prefix: &'static str) -> Vec<Entry<'d>> {
        self.known.insert(prefix);
        let entries = std::mem::take(&mut self.entries);
        let (taken, left) = entries
            .into_iter()
            .partition(|(name, ..)| has_suffix(name, prefix));
        self.entries = left;
        taken
    }

    /// Takes a key of another reader out of sight: it is known, and not ours to judge.
    pub fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Refuses what nobody asked for: keys in `unbuilt` as known but not built, others with the
    /// nearest key that is known.
    pub fn finish(&self, unbuilt: &[&'static str]) {
        for (key, span, _) in &self.entries {
            if self.known.contains(key) {
                continue;
            }
            let path = self.path_of(key);
            let message = if unbuilt.contains(key) {
                format!("\"{path}\" is known, but not built yet: remove it")
            } else {
                let known = self.known.iter().chain(unbuilt).copied();
                format!("unknown key \"{path}\"{}", hint(key, known))
            };
            self.document.add(Severity::Error, span.start, message);
        }
    }
}

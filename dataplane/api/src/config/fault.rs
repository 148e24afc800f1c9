//! What is wrong with a configuration file: every fault at once, each with its place and its fix.

use std::fmt;
use std::path::{Path, PathBuf};

/// Faults kept of one file: a file of garbage must not fill the screen.
pub const FAULTS_MAX: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, and the operator should know.
    Warning,
}

/// One fault. The message names the key and the fix, and never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    /// From 1; 0 for a fault of the file as a whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub message: String,
}

/// The faults of one file in the order of its lines. Displays as `file:line:column: error: text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub path: PathBuf,
    pub list: Vec<Fault>,
}

impl Faults {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            list: Vec::new(),
        }
    }

    /// A fault of the file as a whole, such as "No such file or directory".
    #[must_use]
    pub fn of_file(path: &Path, message: String) -> Self {
        let fault = Fault {
            severity: Severity::Error,
            line: 0,
            column: 0,
            message,
        };
        Self {
            path: path.to_owned(),
            list: vec![fault],
        }
    }

    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list
            .iter()
            .any(|fault| fault.severity == Severity::Error)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn sort(&mut self) {
        self.list.sort_by_key(|fault| (fault.line, fault.column));
        self.list.dedup();
        self.list.truncate(FAULTS_MAX);
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if fault.line > 0 {
                write!(f, "{}:{}:", fault.line, fault.column)?;
            }
            let kind = match fault.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            write!(f, " {kind}: {}", fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Line and column (both from 1, in characters) of a byte offset.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// The known word nearest to `typed`, if it is near enough to be a slip of the pen.
#[must_use]
pub fn nearest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let allowed = (typed.chars().count() / 3).max(1) + 1;
    known
        .into_iter()
        .map(|word| (strsim::osa_distance(&typed.to_lowercase(), word), word))
        .filter(|(distance, word)| *distance <= allowed && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// `; did you mean "x"?` or nothing.
#[must_use]
pub fn hint<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(typed, known).map_or_else(String::new, |word| format!("; did you mean \"{word}\"?"))
}

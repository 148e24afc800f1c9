//! Sequence numbers of static SAs across restarts, in `<state_dir>/static-sequences.json`.
//!
//! AES-GCM fails completely when a number is used twice with one key (RFC 8221 3), and a key of the
//! configuration outlives the process. So numbers are reserved in blocks before they can be used: a
//! restart goes on behind what was reserved. What was received cannot be reserved; after an orderly
//! stop the highest number is known, after any other end it is not, and the SA is refused until the
//! configuration says where to go on.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::id::SaId;
use api::record::Direction;

use super::statics::StaticRow;

/// Numbers that are reserved ahead of the last one used: seconds of traffic at any rate.
const BLOCK: u64 = 1 << 24;
/// How often the highest number received is written down, at most.
const RECEIVED_EVERY: Duration = Duration::from_secs(1);

/// Why a static SA cannot start, or why its numbers cannot be kept.
#[derive(Debug)]
pub enum SequenceError {
    /// The file cannot be read or written.
    File { path: PathBuf, cause: io::Error },
    /// The highest number received is not known.
    Uncertain {
        name: String,
        path: PathBuf,
        at_least: u64,
    },
}

impl fmt::Display for SequenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, cause } => write!(
                f,
                "{}: {cause}: it keeps which sequence numbers of static SAs are used; if it is \
                 lost, change the keys of all static SAs and remove it",
                path.display()
            ),
            Self::Uncertain {
                name,
                path,
                at_least,
            } => write!(
                f,
                "static SA \"{name}\", \"inbound.sequence\": the dataplane did not stop in order, \
                 so which packets arrived is not certain: change the key, or set \"sequence\" to \
                 the last number that the peer has sent, at least {at_least} (kept in {})",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SequenceError {}

/// What is known of one key in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Outbound: no number above this was used. Inbound: the highest that was seen.
    sequence: u64,
    /// False while a process uses the key.
    stopped: bool,
}

/// The numbers of all static SAs of this configuration.
#[derive(Debug)]
pub struct Sequences {
    path: PathBuf,
    /// By fingerprint; keys of earlier configurations are kept, they may come back.
    known: BTreeMap<String, Known>,
    rows: Vec<Row>,
    kept: Instant,
}

#[derive(Debug)]
struct Row {
    id: SaId,
    direction: Direction,
    fingerprint: String,
    start: u64,
}

impl Sequences {
    /// Finds out where each static SA goes on. Writes nothing: a start that fails uses no number.
    pub fn open(state_dir: &Path, rows: &[StaticRow<'_>]) -> Result<Self, SequenceError> {
        let path = state_dir.join("static-sequences.json");
        let known = load(&path).map_err(|cause| SequenceError::File {
            path: path.clone(),
            cause,
        })?;
        let mut all = Self {
            path,
            known,
            rows: Vec::new(),
            kept: Instant::now(),
        };
        for row in rows {
            let start = all.start_of(row)?;
            let fingerprint = fingerprint(row);
            all.rows.push(Row {
                id: row.id,
                direction: row.direction,
                fingerprint,
                start,
            });
        }
        Ok(all)
    }

    /// Reserves the first blocks. Call before the workers start: from here on the keys are in use.
    pub fn begin(&mut self) -> Result<(), SequenceError> {
        self.keep(|row| row.start, false)
    }

    /// The last number already used, of a row given to [`open`](Self::open).
    #[must_use]
    pub fn start(&self, id: SaId) -> u64 {
        self.rows
            .iter()
            .find(|row| row.id == id)
            .map_or(u64::MAX, |row| row.start)
    }

    /// Writes down how far the SAs are; `sequence` reads a row's present number. Cheap while the
    /// reserved blocks last. Call several times a second.
    pub fn advance(&mut self, sequence: impl Fn(SaId) -> Option<u64>) -> Result<(), SequenceError> {
        let second = self.kept.elapsed() >= RECEIVED_EVERY;
        let due = self.rows.iter().any(|row| {
            let known = self
                .known
                .get(&row.fingerprint)
                .copied()
                .unwrap_or_default();
            let now = sequence(row.id).unwrap_or(row.start);
            match row.direction {
                Direction::Outbound => now.saturating_add(BLOCK / 2) > known.sequence,
                Direction::Inbound => second && now > known.sequence,
            }
        });
        if due {
            self.keep(|row| sequence(row.id).unwrap_or(row.start), false)
        } else {
            Ok(())
        }
    }

    /// The workers have stopped: the numbers are final.
    pub fn stop(&mut self, sequence: impl Fn(SaId) -> Option<u64>) -> Result<(), SequenceError> {
        self.keep(|row| sequence(row.id).unwrap_or(row.start), true)
    }

    fn start_of(&self, row: &StaticRow<'_>) -> Result<u64, SequenceError> {
        let configured = row.key.sequence;
        let Some(known) = self.known.get(&fingerprint(row)) else {
            return Ok(configured);
        };
        let goes_on = known.stopped || row.direction == Direction::Outbound;
        if goes_on || configured > known.sequence {
            return Ok(configured.max(known.sequence));
        }
        Err(SequenceError::Uncertain {
            name: row.name.to_owned(),
            path: self.path.clone(),
            at_least: known.sequence.saturating_add(1),
        })
    }

    fn keep(&mut self, now: impl Fn(&Row) -> u64, stopped: bool) -> Result<(), SequenceError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        for row in &self.rows {
            let ahead = !stopped && row.direction == Direction::Outbound;
            let sequence = now(row).saturating_add(if ahead { BLOCK } else { 0 });
            self.known
                .insert(row.fingerprint.clone(), Known { sequence, stopped });
        }
        self.kept = Instant::now();
        save(&self.path, &self.known).map_err(|cause| SequenceError::File {
            path: self.path.clone(),
            cause,
        })
    }
}

/// Names a key and its direction without giving anything of it away. The SPI is no part of it: the
/// nonce is salt and sequence number, so a key under another SPI goes on where it was.
fn fingerprint(row: &StaticRow<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update([u8::from(row.direction == Direction::Inbound)]);
    hash.update(row.key.key.as_slice());
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn load(path: &Path) -> io::Result<BTreeMap<String, Known>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

fn save(path: &Path, known: &BTreeMap<String, Known>) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(known)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    // The new name lasts only when the directory is on the disk too.
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::config::StaticKey;
    use api::id::STATIC_SHARD;
    use zeroize::Zeroizing;

    fn run_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("culvert-seq-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn begun(dir: &Path, rows: &[StaticRow<'_>]) -> Sequences {
        let mut sequences = Sequences::open(dir, rows).unwrap();
        sequences.begin().unwrap();
        sequences
    }

    fn key(sequence: u64) -> StaticKey {
        StaticKey {
            spi: 4096,
            key: Zeroizing::new(vec![7; 20]),
            sequence,
        }
    }

    fn row(key: &StaticKey, direction: Direction) -> StaticRow<'_> {
        StaticRow {
            id: SaId::new(STATIC_SHARD, 0, 0).unwrap(),
            name: "site",
            direction,
            key,
        }
    }

    #[test]
    fn a_killed_dataplane_goes_on_behind_its_reservation() {
        let (dir, key) = (run_dir("killed"), key(5));
        let row = row(&key, Direction::Outbound);
        let id = row.id;
        let rows = [row];
        let mut first = begun(&dir, &rows);
        assert_eq!(first.start(id), 5);
        first.advance(|_| Some(1000)).unwrap();
        drop(first);
        let second = Sequences::open(&dir, &rows).unwrap();
        assert!(second.start(id) >= 1000);
        assert_eq!(
            second.start(id),
            5 + BLOCK,
            "nothing new was reserved for 1000"
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_orderly_stop_loses_no_number() {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let (dir, key) = (run_dir("orderly"), key(5));
            let rows = [row(&key, direction)];
            begun(&dir, &rows).stop(|_| Some(77)).unwrap();
            assert_eq!(Sequences::open(&dir, &rows).unwrap().start(rows[0].id), 77);
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn after_a_kill_what_arrived_must_be_said() {
        let (dir, old) = (run_dir("inbound"), key(5));
        let mut first = begun(&dir, &[row(&old, Direction::Inbound)]);
        first.kept -= RECEIVED_EVERY;
        first.advance(|_| Some(900)).unwrap();
        drop(first);
        let refused = Sequences::open(&dir, &[row(&old, Direction::Inbound)]).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("\"site\"") && text.contains("at least 901"),
            "{text}"
        );
        let said = key(901);
        let rows = [row(&said, Direction::Inbound)];
        assert_eq!(Sequences::open(&dir, &rows).unwrap().start(rows[0].id), 901);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_damaged_file_stops_the_start() {
        let (dir, key) = (run_dir("damaged"), key(5));
        fs::write(dir.join("static-sequences.json"), "{").unwrap();
        let error = Sequences::open(&dir, &[row(&key, Direction::Outbound)]).unwrap_err();
        assert!(error.to_string().contains("static-sequences.json"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_file_has_no_key_in_it() {
        let (dir, key) = (run_dir("secret"), key(5));
        begun(&dir, &[row(&key, Direction::Outbound)]);
        let text = fs::read_to_string(dir.join("static-sequences.json")).unwrap();
        assert!(!text.contains("07070707"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_start_that_fails_changes_nothing() {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let (dir, key) = (run_dir("failed"), key(5));
            let rows = [row(&key, direction)];
            begun(&dir, &rows).stop(|_| Some(77)).unwrap();
            drop(Sequences::open(&dir, &rows).unwrap());
            assert_eq!(Sequences::open(&dir, &rows).unwrap().start(rows[0].id), 77);
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn a_key_under_another_spi_goes_on_where_it_was() {
        let (dir, old) = (run_dir("spi"), key(5));
        let rows = [row(&old, Direction::Outbound)];
        begun(&dir, &rows).stop(|_| Some(77)).unwrap();
        let renamed = StaticKey {
            spi: 4097,
            ..key(0)
        };
        let rows = [row(&renamed, Direction::Outbound)];
        assert_eq!(Sequences::open(&dir, &rows).unwrap().start(rows[0].id), 77);
        fs::remove_dir_all(dir).unwrap();
    }
}

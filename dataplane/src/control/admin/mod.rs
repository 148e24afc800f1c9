//! The admin socket: a thread of its own talks to clients, the control thread answers questions.
//!
//! A slow client holds up the next one, never the control thread.

pub mod rows;

use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rows::{Get, Table, TableName};

use crate::idle::Bell;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "dataplane-admin.sock";
/// Longest request, in bytes.
const REQUEST_BYTES: u64 = 1024;
/// A client that is slower than this is left.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client's question, and where the answer goes.
pub struct Question {
    pub table: TableName,
    pub answer: Sender<Table>,
}

/// The socket's file and the thread's questions.
pub struct Admin {
    path: PathBuf,
    questions: Receiver<Question>,
}

impl Admin {
    /// Listens in the run directory (mode 0600); `bell` is rung for each question.
    pub fn listen(run_dir: &Path, bell: Arc<Bell>) -> io::Result<Self> {
        let path = run_dir.join(SOCKET);
        let listener = listen(&path)?;
        let (sender, questions) = bounded(16);
        thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                for client in listener.incoming().flatten() {
                    if let Err(error) = serve(&client, &sender, &bell) {
                        log::debug!("admin client: {error}");
                    }
                }
            })?;
        Ok(Self { path, questions })
    }

    /// Whether a client waits.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.questions.is_empty()
    }

    /// Questions that wait for an answer.
    pub fn questions(&self) -> impl Iterator<Item = Question> + '_ {
        self.questions.try_iter()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Whoever finds it gone knows that nobody is there.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds a stream socket that only this user can connect to, instead of one left behind.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn serve(client: &UnixStream, questions: &Sender<Question>, bell: &Bell) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(client.take(REQUEST_BYTES)).read_line(&mut line)?;
    let table = match serde_json::from_str::<Get>(&line) {
        Ok(get) => ask(get.get, questions, bell),
        Err(error) => Table::Error(format!(
            "{error}: send {{\"get\":\"TABLE\"}} with one of status, counters, ports, policies, \
             sas, routes, neighbours"
        )),
    };
    let mut text = serde_json::to_vec(&table)?;
    text.push(b'\n');
    let mut client = client;
    client.write_all(&text)
}

fn ask(table: TableName, questions: &Sender<Question>, bell: &Bell) -> Table {
    let gone = || Table::Error("the dataplane is stopping".to_owned());
    let (answer, answers) = bounded(1);
    if questions.send(Question { table, answer }).is_err() {
        return gone();
    }
    bell.ring();
    answers
        .recv_timeout(CLIENT_TIMEOUT)
        .unwrap_or_else(|_| gone())
}

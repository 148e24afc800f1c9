//! Talks to the admin sockets: one line out, lines back.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::admin::{DATAPLANE_SOCKET, Get, IKE_SOCKET, LINE_MAX_BYTES, Reply, Request, Table};
use crate::admin::{IkeSa, IkeStatus, TableName};

/// How long an answer may take that does not wait for a peer.
pub(super) const PATIENCE_S: u64 = 10;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody listens at the socket.
    NotRunning {
        process: &'static str,
        socket: PathBuf,
    },
    /// The socket cannot be used.
    Socket {
        process: &'static str,
        socket: PathBuf,
        error: io::Error,
    },
    /// The answer did not come in time.
    Late { process: &'static str, after_s: u64 },
    /// The process went away or said something else than it should.
    Garbled { process: &'static str, text: String },
    /// The process says no.
    Refused(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { process, socket } => write!(
                f,
                "{process} is not running: nobody listens at {} (start it, or name its directory \
                 with --run-dir)",
                socket.display()
            ),
            Self::Socket {
                process,
                socket,
                error,
            } => {
                write!(f, "cannot reach {process} at {}: {error}", socket.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    write!(f, " (run as root, or as the user of {process})")?;
                }
                Ok(())
            }
            Self::Late { process, after_s } => {
                write!(f, "{process} did not answer within {after_s} s")
            }
            Self::Garbled { process, text } => write!(f, "{process} gave a wrong answer: {text}"),
            Self::Refused(text) => f.write_str(text),
            Self::Output(error) => write!(f, "cannot write: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The two sockets of a run directory.
pub(super) struct Client {
    run_dir: PathBuf,
}

impl Client {
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self { run_dir }
    }

    /// One table of the dataplane.
    pub(super) fn dataplane(&self, get: TableName) -> Result<Table, Failure> {
        let mut line = Line::open("culvert-dataplane", self.run_dir.join(DATAPLANE_SOCKET))?;
        line.send(&Get { get }, PATIENCE_S)?;
        match line.receive()? {
            Table::Error(text) => Err(Failure::Refused(format!("culvert-dataplane: {text}"))),
            table => Ok(table),
        }
    }

    /// Sends a request to culvert-ike and hands on every reply before the last.
    pub(super) fn ike(
        &self,
        request: &Request,
        timeout_s: u64,
        mut each: impl FnMut(Reply) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut line = Line::open("culvert-ike", self.run_dir.join(IKE_SOCKET))?;
        // culvert-ike knows the timeout too and gives the better reason: let it speak first.
        line.send(request, timeout_s.saturating_add(PATIENCE_S))?;
        loop {
            match line.receive()? {
                Reply::Ok(true) => return Ok(()),
                Reply::Ok(false) => return Err(Failure::Refused("failed".to_owned())),
                Reply::Error(text) => return Err(Failure::Refused(text)),
                reply => each(reply)?,
            }
        }
    }

    /// The status of culvert-ike.
    pub(super) fn ike_status(&self) -> Result<IkeStatus, Failure> {
        let mut status = None;
        self.ike(&Request::Status, PATIENCE_S, |reply| {
            if let Reply::Status(found) = reply {
                status = Some(found);
            }
            Ok(())
        })?;
        let text = "no status in it".to_owned();
        status.ok_or(Failure::Garbled {
            process: "culvert-ike",
            text,
        })
    }

    /// The IKE SAs of culvert-ike.
    pub(super) fn ike_sas(&self) -> Result<Vec<IkeSa>, Failure> {
        let mut sas = Vec::new();
        self.ike(&Request::ListSas, PATIENCE_S, |reply| {
            if let Reply::Sa(sa) = reply {
                sas.push(*sa);
            }
            Ok(())
        })?;
        Ok(sas)
    }
}

/// A connection that carries lines of JSON.
struct Line {
    process: &'static str,
    timeout_s: u64,
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

impl Line {
    fn open(process: &'static str, socket: PathBuf) -> Result<Self, Failure> {
        let stream = connect(process, &socket)?;
        Ok(Self {
            process,
            timeout_s: 0,
            stream: BufReader::new(stream),
            socket,
        })
    }

    fn failure(&self, error: io::Error) -> Failure {
        use io::ErrorKind::{TimedOut, WouldBlock};
        let (process, socket) = (self.process, self.socket.clone());
        match error.kind() {
            WouldBlock | TimedOut => Failure::Late {
                process,
                after_s: self.timeout_s,
            },
            _ => Failure::Socket {
                process,
                socket,
                error,
            },
        }
    }

    fn send(&mut self, value: &impl Serialize, timeout_s: u64) -> Result<(), Failure> {
        self.timeout_s = timeout_s;
        let timeout = Some(Duration::from_secs(timeout_s.max(1)));
        let mut line = serde_json::to_vec(value).map_err(|e| self.garbled(&e.to_string()))?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        let sent = stream
            .set_read_timeout(timeout)
            .and_then(|()| stream.set_write_timeout(timeout))
            .and_then(|()| stream.write_all(&line));
        sent.map_err(|error| self.failure(error))
    }

    fn receive<T: for<'de> serde::Deserialize<'de>>(&mut self) -> Result<T, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.stream)
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut line);
        if read.map_err(|error| self.failure(error))? == 0 {
            return Err(self.garbled("it closed the connection (did it stop? see its log)"));
        }
        serde_json::from_slice(&line).map_err(|error| self.garbled(&error.to_string()))
    }

    fn garbled(&self, text: &str) -> Failure {
        Failure::Garbled {
            process: self.process,
            text: text.to_owned(),
        }
    }
}

fn connect(process: &'static str, socket: &Path) -> Result<UnixStream, Failure> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    UnixStream::connect(socket).map_err(|error| {
        let socket = socket.to_owned();
        match error.kind() {
            NotFound | ConnectionRefused => Failure::NotRunning { process, socket },
            _ => Failure::Socket {
                process,
                socket,
                error,
            },
        }
    })
}

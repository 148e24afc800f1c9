//! The admin socket `<run_dir>/ike.sock`: one request a connection, answered by lines of JSON.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::admin::{Reply, Request};

/// Longest request, bytes.
const REQUEST_MAX_BYTES: u64 = 64 << 10;
/// Requests that wait for the daemon's attention.
const QUEUE: usize = 64;

/// One request and where its answer goes.
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) replies: mpsc::UnboundedSender<Reply>,
}

/// Listens; whoever may open the socket (mode 0600) may command.
///
/// # Errors
/// The socket could not be made.
pub(crate) fn listen(path: &Path) -> io::Result<mpsc::Receiver<Call>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(named(error));
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
    let (calls, queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve(stream, calls.clone()));
                }
                // Out of descriptors, say: others come and go.
                Err(error) => {
                    tracing::warn!("admin socket: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(queue)
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_MAX_BYTES));
    if reader.read_line(&mut line).await.is_err() {
        return;
    }
    let (replies, mut answers) = mpsc::unbounded_channel();
    match serde_json::from_str(&line) {
        Ok(request) => {
            let _ = calls.send(Call { request, replies }).await;
        }
        Err(error) => {
            let _ = replies.send(Reply::Error(format!("request not understood: {error}")));
            drop(replies);
        }
    }
    while let Some(reply) = answers.recv().await {
        let Ok(mut text) = serde_json::to_string(&reply) else {
            return;
        };
        text.push('\n');
        if write.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        if matches!(reply, Reply::Ok(_) | Reply::Error(_)) {
            return;
        }
    }
}

//! The serving end: a Unix socket on an ordinary async runtime, outside the pinned cores.

mod connection;
mod socket;
#[cfg(test)]
pub(crate) mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::error::RpcError;
use socket::SocketFile;

/// How many connections are served at a time: SPDK's number. One more is told so and closed.
pub const CONNECTIONS_MAX: usize = 64;

/// What the methods do. The program implements it, usually as `match Call::parse(method, params)? { ... }`.
pub trait Handler: Send + Sync + 'static {
    /// Does one call. It may take long; it holds up only the connection it came over. It runs to its end even if the
    /// caller has gone. A panic in it is answered with -32603 and harms nothing else.
    fn call(&self, method: &str, params: Value) -> impl Future<Output = Result<Value, RpcError>> + Send;
}

/// Why a server could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another process answers there.
    #[error("another process serves {}; end it (longrun rpc spdk_kill_instance '{{\"sig_name\": \"SIGTERM\"}}') or choose another --rpc-socket", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there; it is left alone.
    #[error("{} exists and is no socket; move it away or choose another --rpc-socket", .path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {source}; check the directory and its permissions, or choose another --rpc-socket", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// A bound socket.
pub struct Server<H> {
    listener: UnixListener,
    file: SocketFile,
    handler: Arc<H>,
}

impl<H: Handler> Server<H> {
    /// Binds `path`, for this user only (mode 0600). A socket left behind by a process that has gone is replaced; one
    /// that is served is not. Must be called within a tokio runtime that has I/O and time enabled.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(path: impl AsRef<Path>, handler: Arc<H>) -> Result<Self, ServerError> {
        let path = path.as_ref();
        let (file, listener) = SocketFile::bind(path)?;
        let io = |source| ServerError::Io { path: path.to_owned(), doing: "listen on", source };
        listener.set_nonblocking(true).map_err(io)?;
        let listener = UnixListener::from_std(listener).map_err(io)?;
        Ok(Self { listener, file, handler })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Serves until `shutdown` is ready, then removes the socket. Calls that run then are run to their end by the
    /// runtime as long as it lives.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: waiting is what can be done, and spinning is what must not be.
                    tracing::warn!(%error, "cannot accept an RPC connection; trying again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let handler = Arc::clone(&self.handler);
                    tokio::spawn(async move {
                        connection::serve(stream, handler).await;
                        drop(slot);
                    });
                }
                Err(_) => {
                    tracing::warn!(connections = CONNECTIONS_MAX, "one RPC connection too many; closed");
                    tokio::spawn(connection::turn_away(stream));
                }
            }
        }
    }
}

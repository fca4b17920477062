//! The calling end, for the command line and for tests: blocking, with a time limit for each call.

#[cfg(test)]
mod tests;

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::error::RpcError;
use crate::framing::{self, Splitter};
use crate::methods::{Method, to_params};

/// How long a call may take unless [`Client::set_timeout`] says otherwise. A takeover replays a journal.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// The longest answer taken. A server with thousands of volumes lists them all in one.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// Why a call failed. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody is there.
    #[error("no Longrun answers at {}: {source}; is `longrun serve` running, with --rpc-socket {}?", .path.display(), .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to {} broke: {source}; look at the log of `longrun serve`", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// How.
        source: std::io::Error,
    },
    /// The server closed the connection without an answer.
    #[error("{} was closed without an answer to {method}; look at the log of `longrun serve`", .path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// The call.
        method: String,
    },
    /// No answer in time. The call may still be carried out.
    #[error("{} has not answered {method} within {} s; it may still be at it: look before calling again, or give a longer --timeout", .path.display(), .limit.as_secs_f64())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// The call.
        method: String,
        /// The time limit.
        limit: Duration,
    },
    /// What came is no answer.
    #[error("what answers at {} does not speak JSON-RPC 2.0: {what}; is it Longrun's --rpc-socket?", .path.display())]
    NotAnAnswer {
        /// The socket.
        path: PathBuf,
        /// What came.
        what: String,
    },
    /// The server's answer is an error.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// A connection to a running Longrun.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    splitter: Splitter,
    next_id: u64,
    timeout: Duration,
    /// Set when an answer may still be on its way to a call that gave up: the stream is then out of step.
    spent: bool,
}

#[derive(Deserialize)]
struct Response {
    id: Value,
    #[serde(default, deserialize_with = "present")]
    result: Option<Value>,
    error: Option<RpcError>,
}

/// `null` is a result too.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let stream = connect(&path)?;
        Ok(Self {
            stream,
            path,
            splitter: Splitter::new(RESPONSE_BYTES_MAX),
            next_id: 1,
            timeout: TIMEOUT_DEFAULT,
            spent: false,
        })
    }

    /// Connects, and tries again until it works or `patience` is over: for a server that is being started.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect_within(path: impl AsRef<Path>, patience: Duration) -> Result<Self, ClientError> {
        let until = Instant::now() + patience;
        loop {
            match Self::connect(path.as_ref()) {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// How long each call may take from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Calls a method by name. `params` is an object, or `null` for none.
    ///
    /// # Errors
    /// [`ClientError`]; the server's own errors as [`ClientError::Rpc`].
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, ClientError> {
        if self.spent {
            self.stream = connect(&self.path)?;
            self.splitter = Splitter::new(RESPONSE_BYTES_MAX);
        }
        self.spent = true;
        let id = self.next_id;
        self.next_id += 1;
        let until = Instant::now() + self.timeout;
        let sent = self.send(&framing::request(id, method, &params), method, until);
        let response = match (self.receive(method, until), sent) {
            (Ok(response), _) => response,
            // A server that refused may have closed before all was sent: what it said counts more.
            (Err(ClientError::Io { .. } | ClientError::Closed { .. }), Err(error)) => return Err(error),
            (Err(error), _) => return Err(error),
        };
        match response {
            Response { error: Some(error), .. } => {
                // With a null id the request was not understood, and the server closes.
                self.spent = response.id != id;
                Err(ClientError::Rpc(error))
            }
            Response { id: got, result: Some(result), .. } if got == id => {
                self.spent = false;
                Ok(result)
            }
            Response { id: got, .. } => {
                Err(self.not_an_answer(format!("its answer has id {got}, the call has id {id}")))
            }
        }
    }

    /// Calls a method with its own types.
    ///
    /// # Errors
    /// As [`Self::call`]; an answer of another form is [`ClientError::NotAnAnswer`].
    pub fn invoke<M: Method>(&mut self, params: &M) -> Result<M::Result, ClientError> {
        let params = match to_params(params) {
            Value::Object(map) if map.is_empty() => Value::Null,
            params => params,
        };
        let result = self.call(M::NAME, params)?;
        serde_json::from_value(result)
            .map_err(|error| self.not_an_answer(format!("its answer to {} is of another form: {error}", M::NAME)))
    }

    fn send(&mut self, bytes: &[u8], method: &str, until: Instant) -> Result<(), ClientError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(self.remaining(method, until)?)).map_err(|source| self.io(source))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(self.io(ErrorKind::WriteZero.into())),
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if retriable(&error) => {}
                Err(source) => return Err(self.io(source)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, method: &str, until: Instant) -> Result<Response, ClientError> {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let text = self.splitter.next_text().map_err(|error| self.not_an_answer(error.message))?;
            if let Some(text) = text {
                return serde_json::from_slice(&text).map_err(|error| self.not_an_answer(error.to_string()));
            }
            self.stream.set_read_timeout(Some(self.remaining(method, until)?)).map_err(|source| self.io(source))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed { path: self.path.clone(), method: method.to_owned() }),
                Ok(got) => self.splitter.push(chunk.get(..got).unwrap_or_default()),
                Err(error) if retriable(&error) => {}
                Err(source) => return Err(self.io(source)),
            }
        }
    }

    /// The time left for the call; never zero, which a socket takes for no limit.
    fn remaining(&self, method: &str, until: Instant) -> Result<Duration, ClientError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::TimedOut {
                path: self.path.clone(),
                method: method.to_owned(),
                limit: self.timeout,
            });
        }
        Ok(left.max(Duration::from_millis(1)))
    }

    fn io(&self, source: std::io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), source }
    }

    fn not_an_answer(&self, what: String) -> ClientError {
        ClientError::NotAnAnswer { path: self.path.clone(), what }
    }
}

fn connect(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).map_err(|source| ClientError::Connect { path: path.to_owned(), source })
}

/// Whether the time limit decides, rather than this error. A socket's own time-out is `WouldBlock`.
fn retriable(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

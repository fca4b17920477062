//! One connection: read, call, answer, in the order of the requests.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{CONNECTIONS_MAX, Handler};
use crate::error::{RpcError, code};
use crate::framing::{Incoming, Item, Request, Splitter, parse_incoming, parse_request, response};

/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 16 * 1024;

/// How long a peer that is turned away may take to read why.
const TURN_AWAY_MS: u64 = 1000;

/// Serves one connection to its end.
pub(super) async fn serve<H: Handler>(mut stream: UnixStream, handler: Arc<H>) {
    if let Err(error) = serve_until_closed(&mut stream, &handler).await {
        // The peer went without reading: its affair.
        tracing::debug!(%error, "RPC connection ended");
    }
}

async fn serve_until_closed<H: Handler>(stream: &mut UnixStream, handler: &Arc<H>) -> std::io::Result<()> {
    let mut splitter = Splitter::default();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        loop {
            let incoming = match splitter.next_text() {
                Ok(None) => break,
                Ok(Some(text)) => parse_incoming(&text),
                Err(error) => Err(error),
            };
            match incoming {
                Ok(incoming) => answer(stream, handler, incoming).await?,
                Err(error) => return refuse(stream, error).await,
            }
        }
        let got = stream.read(&mut chunk).await?;
        if got == 0 {
            return match splitter.finish() {
                Ok(()) => Ok(()),
                Err(error) => refuse(stream, error).await,
            };
        }
        splitter.push(chunk.get(..got).unwrap_or_default());
    }
}

/// Answers what was asked. A batch's answers are sent as they come, so that a batch holds no more memory than one
/// answer does.
async fn answer<H: Handler>(stream: &mut UnixStream, handler: &Arc<H>, incoming: Incoming) -> std::io::Result<()> {
    match incoming {
        Incoming::Single(entry) => {
            if let Some(answer) = perform(handler, entry).await {
                send(stream, "", &answer, "\n").await?;
            }
        }
        Incoming::Batch(entries) => {
            let mut before = "[";
            for entry in entries {
                if let Some(answer) = perform(handler, entry).await {
                    send(stream, before, &answer, "").await?;
                    before = ",";
                }
            }
            // A batch of notifications only gets no answer at all (JSON-RPC 2.0, section 6).
            if before == "," {
                stream.write_all(b"]\n").await?;
            }
        }
    }
    Ok(())
}

/// The answer to one request; none to a notification.
async fn perform<H: Handler>(handler: &Arc<H>, entry: Value) -> Option<Value> {
    match parse_request(entry) {
        Item::Refused(id, error) => Some(response(id, Err(error))),
        Item::Request(Request { id, method, params }) => {
            let outcome = guarded_call(handler, method, params).await;
            id.map(|id| response(id, outcome))
        }
    }
}

/// The call in a task of its own: it outlives the connection, and its panic is an answer, not the connection's end.
async fn guarded_call<H: Handler>(handler: &Arc<H>, method: String, params: Value) -> Result<Value, RpcError> {
    let handler = Arc::clone(handler);
    let name = method.clone();
    match tokio::spawn(async move { handler.call(&method, params).await }).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(method = name, %error, "an RPC call failed inside");
            let shown = crate::error::shorten(&name);
            Err(RpcError::internal(format!("{shown} failed inside Longrun; its log says where, please report it")))
        }
    }
}

async fn send(stream: &mut UnixStream, before: &str, answer: &Value, after: &str) -> std::io::Result<()> {
    let text = format!("{before}{answer}{after}");
    stream.write_all(text.as_bytes()).await
}

/// The last word on a connection whose bytes can no longer be understood.
async fn refuse(stream: &mut UnixStream, error: RpcError) -> std::io::Result<()> {
    tracing::debug!(%error, "RPC connection refused");
    send(stream, "", &response(Value::Null, Err(error)), "\n").await?;
    stream.shutdown().await
}

/// Tells a connection beyond the limit that it is one.
pub(super) async fn turn_away(mut stream: UnixStream) {
    let error = RpcError::new(
        code::BUSY,
        format!("{CONNECTIONS_MAX} connections are open, which is the limit; close one and try again"),
    );
    let told = tokio::time::timeout(Duration::from_millis(TURN_AWAY_MS), refuse(&mut stream, error)).await;
    if !matches!(told, Ok(Ok(()))) {
        tracing::debug!("the connection beyond the limit did not read why");
    }
}

//! Bytes to requests and back (JSON-RPC 2.0; SPDK's socket convention: objects back to back, without a length).
//!
//! [`Splitter`] finds where one JSON text ends and the next begins, byte by byte, however the socket cuts them;
//! [`parse_incoming`] reads one such text. Neither does I/O, and neither panics or grows beyond
//! [`REQUEST_BYTES_MAX`], whatever the bytes ([`exercise`] is the fuzz target that says so).
//!
//! What the design gives up: the splitter counts brackets and knows strings, nothing else, so that a wrong text is
//! noticed when its brackets close, when it is too long, or when the peer ends, not at its first wrong byte.

use serde_json::{Map, Value};

use crate::error::RpcError;

#[cfg(test)]
mod tests;

/// The longest request, or batch of requests, in bytes: SPDK's limit.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// Cuts a stream of bytes into JSON texts.
#[derive(Debug)]
pub struct Splitter {
    /// Bytes that have arrived. Never longer than `bytes_max` plus one push, as long as texts are taken out.
    buffer: Vec<u8>,
    /// Where in `buffer` the next text begins; what is before has been handed out.
    start: usize,
    /// How much of `buffer` has been looked at.
    scanned: usize,
    /// Brackets open at `scanned`.
    depth: usize,
    /// Whether `scanned` is inside a string, and whether behind a backslash there.
    string: StringState,
    /// The longest text.
    bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringState {
    Outside,
    Inside,
    Escape,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new(REQUEST_BYTES_MAX)
    }
}

impl Splitter {
    /// A splitter of texts of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0, depth: 0, string: StringState::Outside, bytes_max }
    }

    /// Takes bytes as they came. Take all texts out by [`Self::next_text`] before the next call: that bounds the memory.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole text, if there is one.
    ///
    /// # Errors
    /// -32700 where what follows can be no request: a text that does not begin with a bracket, or a too long one.
    /// JSON without lengths has no place to start again from, so the connection must then be closed.
    pub fn next_text(&mut self) -> Result<Option<Vec<u8>>, RpcError> {
        if self.depth == 0 {
            let fresh = self.buffer.get(self.start..).unwrap_or_default();
            self.start += fresh.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
            self.scanned = self.start;
            match self.buffer.get(self.start) {
                None => return Ok(None),
                Some(b'{' | b'[') => {}
                Some(other) => {
                    return Err(RpcError::parse_error(format!(
                        "found {:?} where a request must begin with {{ (or a batch with [)",
                        char::from(*other)
                    )));
                }
            }
        }
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        for (at, byte) in fresh.iter().enumerate() {
            match (self.string, byte) {
                (StringState::Outside, b'{' | b'[') => self.depth += 1,
                (StringState::Outside, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                (StringState::Outside, b'"') => self.string = StringState::Inside,
                (StringState::Inside, b'\\') => self.string = StringState::Escape,
                (StringState::Inside, b'"') => self.string = StringState::Outside,
                (StringState::Escape, _) => self.string = StringState::Inside,
                _ => {}
            }
            if self.depth == 0 {
                let end = self.scanned + at + 1;
                if end - self.start > self.bytes_max {
                    return Err(self.too_long());
                }
                let text = self.buffer.get(self.start..end).unwrap_or_default().to_vec();
                self.start = end;
                self.scanned = end;
                return Ok(Some(text));
            }
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() - self.start > self.bytes_max { Err(self.too_long()) } else { Ok(None) }
    }

    /// Call when the peer has ended its side.
    ///
    /// # Errors
    /// -32700 where it ended in the middle of a text.
    pub fn finish(&self) -> Result<(), RpcError> {
        if self.depth == 0 {
            Ok(())
        } else {
            Err(RpcError::parse_error(format!(
                "the request ends after {} bytes with {} brackets open; close them, and check the quotes",
                self.buffer.len() - self.start,
                self.depth
            )))
        }
    }

    fn too_long(&self) -> RpcError {
        RpcError::parse_error(format!(
            "the request is longer than {} bytes, the most a request may have; split it into several",
            self.bytes_max
        ))
    }
}

/// What one JSON text on the socket holds. Its entries are read one by one, by [`parse_request`]: a batch of a hundred
/// thousand zeroes fits the limit, and a hundred thousand refusals at a time would be a way to use up memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// One entry.
    Single(Value),
    /// Several, to be answered together; never empty.
    Batch(Vec<Value>),
}

/// One entry of what came: a request, or the answer to something that is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// To be called.
    Request(Request),
    /// To be answered with this error, under this id (`null` where none could be read).
    Refused(Value, RpcError),
}

/// A request of the right form.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the answer repeats: a text, a number or `null`; `None` for a notification, which gets no answer.
    pub id: Option<Value>,
    /// The method's name.
    pub method: String,
    /// An object or a list; `null` where there was none.
    pub params: Value,
}

/// Reads one text from a [`Splitter`].
///
/// # Errors
/// -32700 for what is not JSON (the connection must then be closed).
pub fn parse_incoming(text: &[u8]) -> Result<Incoming, RpcError> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| RpcError::parse_error(format!("not JSON: {error}")))?;
    Ok(match value {
        Value::Array(list) if !list.is_empty() => Incoming::Batch(list),
        other => Incoming::Single(other),
    })
}

/// Reads one request (JSON-RPC 2.0, section 4).
pub fn parse_request(value: Value) -> Item {
    let Value::Object(mut map) = value else {
        return Item::Refused(
            Value::Null,
            RpcError::invalid_request("a request is an object with a \"method\", a batch a list of at least one"),
        );
    };
    let id = map.remove("id");
    let shown_id = match &id {
        Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
        _ => Value::Null,
    };
    match parse_members(&id, &mut map) {
        Ok((method, params)) => Item::Request(Request { id, method, params }),
        Err(sentence) => Item::Refused(shown_id, RpcError::invalid_request(sentence)),
    }
}

fn parse_members(id: &Option<Value>, map: &mut Map<String, Value>) -> Result<(String, Value), &'static str> {
    // SPDK's server takes a request without a version; a wrong one is wrong for both.
    if map.remove("jsonrpc").is_some_and(|version| version != "2.0") {
        return Err("\"jsonrpc\" is not \"2.0\", the only version spoken here");
    }
    if !matches!(id, None | Some(Value::Null | Value::String(_) | Value::Number(_))) {
        return Err("\"id\" must be a text, a number or null");
    }
    let method = match map.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return Err("\"method\" must be a text"),
        None => return Err("\"method\" is missing"),
    };
    let params = match map.remove("params") {
        None => Value::Null,
        Some(params @ (Value::Null | Value::Object(_) | Value::Array(_))) => params,
        Some(_) => return Err("\"params\" must be an object"),
    };
    if map.is_empty() {
        Ok((method, params))
    } else {
        Err(
            "a request has no members but \"jsonrpc\", \"id\", \"method\" and \"params\"; put parameters into \"params\"",
        )
    }
}

/// A request as a client sends it. Without parameters there is no `params` member.
pub fn request(id: u64, method: &str, params: &Value) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("jsonrpc".to_owned(), "2.0".into());
    map.insert("id".to_owned(), id.into());
    map.insert("method".to_owned(), method.into());
    if !params.is_null() {
        map.insert("params".to_owned(), params.clone());
    }
    Value::Object(map).to_string().into_bytes()
}

/// A response, without the newline that ends it on the socket.
pub fn response(id: Value, outcome: Result<Value, RpcError>) -> Value {
    let mut map = Map::new();
    map.insert("jsonrpc".to_owned(), "2.0".into());
    map.insert("id".to_owned(), id);
    match outcome {
        Ok(result) => map.insert("result".to_owned(), result),
        Err(error) => map.insert("error".to_owned(), serde_json::to_value(error).unwrap_or_default()),
    };
    Value::Object(map)
}

/// The fuzz target of this module, its tests and the tests in tests/fuzz: any bytes, cut anywhere, are split and read
/// without panic and within bounds, and the same texts are found however they are cut. Parameters are read too.
///
/// # Panics
/// If one of these promises is broken.
pub fn exercise(bytes: &[u8]) {
    let whole = split_all(bytes, bytes.len().max(1));
    let cut = bytes.first().map_or(1, |byte| usize::from(*byte % 7) + 1);
    assert_eq!(whole, split_all(bytes, cut), "the texts found depend on how the socket cut them");
    for text in whole.0 {
        assert!(text.len() <= REQUEST_BYTES_MAX, "a text of {} bytes passed", text.len());
        let entries = match parse_incoming(&text) {
            Ok(Incoming::Single(entry)) => vec![entry],
            Ok(Incoming::Batch(entries)) => entries,
            Err(error) => {
                assert_eq!(error.code, crate::error::code::PARSE_ERROR);
                continue;
            }
        };
        for entry in entries {
            if let Item::Request(request) = parse_request(entry)
                && let Err(error) = crate::methods::Call::parse(&request.method, request.params)
            {
                assert!(error.message.len() < 4096, "a message of {} bytes", error.message.len());
            }
        }
    }
}

/// The texts in `bytes`, handed over in pieces of `piece` bytes, and whether it ended in an error.
fn split_all(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut splitter = Splitter::default();
    let mut texts = Vec::new();
    for chunk in bytes.chunks(piece) {
        splitter.push(chunk);
        loop {
            match splitter.next_text() {
                Ok(Some(text)) => texts.push(text),
                Ok(None) => break,
                Err(_) => return (texts, true),
            }
        }
    }
    (texts, splitter.finish().is_err())
}

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;

use serde_json::json;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::error::code;

/// Answers `echo` with its parameters, waits in `wait` until told, panics in `panic`, counts `count` and ended `wait`s.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) release: Notify,
    pub(crate) counted: std::sync::atomic::AtomicU64,
}

impl Handler for Echo {
    async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            "echo" => Ok(params),
            "wait" => {
                self.release.notified().await;
                self.counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok(json!("released"))
            }
            "panic" => panic!("on purpose"),
            "count" => Ok(self.counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst).into()),
            other => Err(RpcError::method_not_found(other)),
        }
    }
}

/// A server in a thread of its own, ended when dropped.
pub(crate) struct Running {
    pub(crate) path: PathBuf,
    pub(crate) handler: Arc<Echo>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rpc.sock");
        let handler = Arc::new(Echo::default());
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (path, handler) = (path.clone(), Arc::clone(&handler));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let server = Server::bind(&path, handler).unwrap();
                    bound.send(()).unwrap();
                    server.run(async { drop(stopped.await) }).await;
                });
            }
        });
        is_bound.recv().unwrap();
        Self { path, handler, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    pub(crate) fn connect(&self) -> StdStream {
        let stream = StdStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn bind_again(&self) -> Result<Server<Echo>, ServerError> {
        bind(&self.path)
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind(path: &Path) -> Result<Server<Echo>, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Server::bind(path, Arc::new(Echo::default())) })
}

/// One line from the stream.
fn line(stream: &mut StdStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 {
        if byte == *b"\n" {
            return String::from_utf8(bytes).unwrap();
        }
        bytes.extend(byte);
    }
    panic!("the connection ended after {:?}", String::from_utf8_lossy(&bytes));
}

fn answer(stream: &mut StdStream) -> Value {
    serde_json::from_str(&line(stream)).unwrap()
}

fn everything(stream: &mut StdStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn requests_back_to_back_are_answered_in_order_each_with_a_newline() {
    let server = Running::start();
    let mut stream = server.connect();
    stream
        .write_all(br#"{"id":1,"method":"echo","params":{"a":1}}{"id":"two","method":"echo"} {"id":3,"method":"nope"}"#)
        .unwrap();
    assert_eq!(answer(&mut stream), json!({"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}));
    assert_eq!(answer(&mut stream), json!({"jsonrpc": "2.0", "id": "two", "result": null}));
    let error = answer(&mut stream);
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(3), &json!(code::METHOD_NOT_FOUND)));
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_answered() {
    let server = Running::start();
    let mut stream = server.connect();
    for byte in br#"{"id":1,"method":"echo","params":{"text":"\"}{"}}"# {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(answer(&mut stream)["result"]["text"], "\"}{");
}

#[test]
fn a_batch_gets_one_list_without_its_notifications() {
    let server = Running::start();
    let mut stream = server.connect();
    stream.write_all(br#"[{"id":1,"method":"echo"},{"method":"count"},7,{"id":2,"method":"nope"}]"#).unwrap();
    let answers = answer(&mut stream);
    let codes: Vec<_> = answers.as_array().unwrap().iter().map(|a| (&a["id"], &a["error"]["code"])).collect();
    let (null, one, two) = (Value::Null, json!(1), json!(2));
    assert_eq!(codes, [(&one, &null), (&null, &json!(code::INVALID_REQUEST)), (&two, &json!(code::METHOD_NOT_FOUND))]);
    assert_eq!(server.handler.counted.load(std::sync::atomic::Ordering::SeqCst), 1, "the notification was carried out");

    stream.write_all(br#"[{"method":"count"}]{"method":"count"}[]{"id":9,"method":"echo"}"#).unwrap();
    assert_eq!(answer(&mut stream)["error"]["code"], code::INVALID_REQUEST, "an empty batch is a wrong request");
    assert_eq!(answer(&mut stream)["id"], 9, "notifications get no answer, not even an empty list");
}

#[test]
fn garbage_is_answered_and_closed_and_other_connections_live_on() {
    let server = Running::start();
    let mut other = server.connect();
    let long = format!("{{\"x\":\"{}", "y".repeat(300_000));
    for garbage in [b"\xff\x00garbage".as_slice(), b"{]", b"{\"id\":1,}", b"{\"id\": 1 \"x\"}", long.as_bytes()] {
        let mut stream = server.connect();
        // The server may close before it has taken all of it.
        let _ = stream.write_all(garbage);
        let error = answer(&mut stream);
        assert_eq!((&error["id"], &error["error"]["code"]), (&Value::Null, &json!(code::PARSE_ERROR)), "{error}");
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "the connection is still open");
        other.write_all(br#"{"id":1,"method":"echo"}"#).unwrap();
        assert_eq!(answer(&mut other)["id"], 1);
    }
}

#[test]
fn a_peer_that_ends_in_the_middle_of_a_request_is_told() {
    let server = Running::start();
    let mut stream = server.connect();
    stream.write_all(br#"{"id":1,"method":"echo"}{"id":2,"#).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let text = everything(&mut stream);
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2, "{text}");
    assert_eq!((&answers[0]["id"], &answers[1]["error"]["code"]), (&json!(1), &json!(code::PARSE_ERROR)));
}

#[test]
fn a_long_call_holds_up_only_its_own_connection() {
    let server = Running::start();
    let mut slow = server.connect();
    slow.write_all(br#"{"id":1,"method":"wait"}"#).unwrap();
    let mut quick = server.connect();
    for _ in 0..10 {
        quick.write_all(br#"{"id":2,"method":"echo"}"#).unwrap();
        assert_eq!(answer(&mut quick)["id"], 2);
    }
    server.handler.release.notify_one();
    assert_eq!(answer(&mut slow)["result"], "released");
}

#[test]
fn a_panic_in_a_call_is_an_internal_error_and_the_connection_lives_on() {
    let server = Running::start();
    let mut stream = server.connect();
    stream.write_all(br#"{"id":1,"method":"panic"}{"id":2,"method":"echo"}"#).unwrap();
    assert_eq!(answer(&mut stream)["error"]["code"], code::INTERNAL_ERROR);
    assert_eq!(answer(&mut stream)["id"], 2);
}

#[test]
fn a_call_is_carried_out_even_if_its_caller_has_gone() {
    let server = Running::start();
    let mut gone = server.connect();
    gone.write_all(br#"{"id":1,"method":"wait"}"#).unwrap();
    // An answer to another connection, asked for later, shows that the first request has been read.
    let mut other = server.connect();
    other.write_all(br#"{"id":3,"method":"echo"}"#).unwrap();
    assert_eq!(answer(&mut other)["id"], 3);
    drop(gone);
    server.handler.release.notify_one();
    for attempt in 0.. {
        if server.handler.counted.load(std::sync::atomic::Ordering::SeqCst) == 1 {
            break;
        }
        assert!(attempt < 500, "the call was dropped with its caller");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_sixty_fifth_connection_is_told_so_and_a_place_that_becomes_free_is_used() {
    let server = Running::start();
    let mut streams: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(br#"{"id":1,"method":"echo"}"#).unwrap();
        assert_eq!(answer(stream)["id"], 1);
    }
    let mut refused = server.connect();
    let error = answer(&mut refused);
    assert_eq!(error["error"]["code"], code::BUSY);
    assert!(error["error"]["message"].as_str().unwrap().contains("64 connections"), "{error}");

    streams.pop();
    for attempt in 0.. {
        let mut stream = server.connect();
        let _ = stream.write_all(br#"{"id":5,"method":"echo"}"#);
        if answer(&mut stream)["id"] == 5 {
            break;
        }
        assert!(attempt < 500, "the place of the closed connection never became free");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn many_connections_at_once_each_get_their_own_answers() {
    let server = Running::start();
    std::thread::scope(|scope| {
        for client in 0..32_u64 {
            let mut stream = server.connect();
            scope.spawn(move || {
                for request in 0..50_u64 {
                    let id = client * 1000 + request;
                    let text = json!({"id": id, "method": "echo", "params": {"id": id}}).to_string();
                    for piece in text.as_bytes().chunks(7) {
                        stream.write_all(piece).unwrap();
                    }
                    let answer = answer(&mut stream);
                    assert_eq!((&answer["id"], &answer["result"]["id"]), (&json!(id), &json!(id)));
                }
            });
        }
    });
}

#[test]
fn the_socket_is_for_its_owner_only_and_goes_with_the_server() {
    let mut server = Running::start();
    let mode = std::fs::metadata(&server.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    server.end();
    let left: Vec<_> = std::fs::read_dir(server.path.parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_socket_that_is_served_is_left_alone_and_named() {
    let server = Running::start();
    let error = server.bind_again().err().unwrap();
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another process serves"), "{error}");
    let mut stream = server.connect();
    stream.write_all(br#"{"id":1,"method":"echo"}"#).unwrap();
    assert_eq!(answer(&mut stream)["id"], 1, "the first server still answers");
}

#[test]
fn a_socket_served_by_somebody_without_our_lock_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    let _foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = bind(&path).err().unwrap();
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
    assert!(StdStream::connect(&path).is_ok());
}

#[test]
fn a_socket_left_behind_by_a_dead_process_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpc.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    std::fs::write(directory.path().join("rpc.sock.lock"), "").unwrap();
    assert!(path.exists(), "std leaves the file");
    let server = bind(&path).unwrap();
    assert_eq!(server.path(), path);
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = bind(&path).err().unwrap();
    assert!(matches!(error, ServerError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    let error = bind(&directory.path().join("no/such/dir.sock")).err().unwrap();
    assert!(matches!(error, ServerError::Io { .. }) && error.to_string().contains("choose another"), "{error}");
    let error = bind(&directory.path().join("x".repeat(200))).err().unwrap();
    assert!(matches!(error, ServerError::Io { .. }), "{error}");
}

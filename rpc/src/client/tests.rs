use std::os::unix::net::UnixListener;

use serde_json::json;

use super::*;
use crate::error::code;
use crate::server::tests::Running;

/// A server of one connection that answers the first request with these bytes and then closes.
fn one_answer(bytes: &'static [u8]) -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(bytes).unwrap();
    });
    (directory, client)
}

#[test]
fn calls_over_one_connection_get_their_results_and_errors() {
    let server = Running::start();
    let mut client = Client::connect(&server.path).unwrap();
    for n in 0..100 {
        assert_eq!(client.call("echo", json!({"n": n})).unwrap(), json!({"n": n}));
        let error = client.call("nope", Value::Null).unwrap_err();
        assert!(matches!(error, ClientError::Rpc(RpcError { code: code::METHOD_NOT_FOUND, .. })), "{error}");
    }
    assert_eq!(client.call("echo", Value::Null).unwrap(), Value::Null, "null is a result");
}

#[test]
fn an_answer_of_megabytes_is_read_whole() {
    let server = Running::start();
    let mut client = Client::connect(&server.path).unwrap();
    let text = "y".repeat(250_000);
    assert_eq!(client.call("echo", json!({"text": text.clone()})).unwrap()["text"], text);
}

#[test]
fn a_request_beyond_the_limit_gets_the_servers_own_words_and_the_next_call_works() {
    let server = Running::start();
    let mut client = Client::connect(&server.path).unwrap();
    let error = client.call("echo", json!({"text": "y".repeat(3 << 20)})).unwrap_err();
    assert!(matches!(&error, ClientError::Rpc(RpcError { code: code::PARSE_ERROR, .. })), "{error}");
    assert_eq!(client.call("echo", json!({"n": 1})).unwrap(), json!({"n": 1}), "connected anew");
}

#[test]
fn a_call_without_answer_ends_at_its_time_limit_and_the_next_one_is_not_given_its_answer() {
    let server = Running::start();
    let mut client = Client::connect(&server.path).unwrap();
    client.set_timeout(Duration::from_millis(50));
    let error = client.call("wait", Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }) && error.to_string().contains("0.05 s"), "{error}");
    server.handler.release.notify_one();
    client.set_timeout(TIMEOUT_DEFAULT);
    assert_eq!(client.call("echo", json!({"n": 2})).unwrap(), json!({"n": 2}));
}

#[test]
fn a_socket_that_nobody_serves_says_what_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent");
    let error = Client::connect(&path).unwrap_err().to_string();
    assert!(error.contains("is `longrun serve` running") && error.contains("absent"), "{error}");
    assert!(Client::connect_within(&path, Duration::from_millis(30)).is_err());
}

#[test]
fn a_server_that_is_being_started_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let starting = std::thread::spawn({
        let path = path.clone();
        move || {
            std::thread::sleep(Duration::from_millis(100));
            UnixListener::bind(path).unwrap()
        }
    });
    assert!(Client::connect_within(&path, Duration::from_secs(20)).is_ok());
    drop(starting.join().unwrap());
}

#[test]
fn what_is_no_answer_is_said_to_be_none() {
    for bytes in [
        b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
        b"{\"id\":77,\"result\":true}",
        b"{\"id\":1}",
        b"{\"id\":1,\"error\":5}",
        b"[1,2]",
    ] {
        let (_directory, mut client) = one_answer(bytes);
        let error = client.call("echo", Value::Null).unwrap_err();
        assert!(matches!(error, ClientError::NotAnAnswer { .. }), "{bytes:?}: {error:?}");
    }
    for bytes in [b"".as_slice(), b"{\"id\":1,\"res"] {
        let (_directory, mut client) = one_answer(bytes);
        let error = client.call("echo", Value::Null).unwrap_err();
        assert!(matches!(error, ClientError::Closed { .. } | ClientError::Io { .. }), "{bytes:?}: {error:?}");
    }
}

#[test]
fn a_typed_call_checks_the_form_of_its_answer() {
    let (_directory, mut client) = one_answer(b"{\"id\":1,\"result\":[\"m0\"]}\n");
    assert_eq!(client.invoke(&crate::methods::framework::RpcGetMethods::default()).unwrap(), ["m0"]);
    let (_directory, mut client) = one_answer(b"{\"id\":1,\"result\":5}\n");
    let error = client.invoke(&crate::methods::link::LinkGet::default()).unwrap_err();
    assert!(error.to_string().contains("link_get is of another form"), "{error}");
}

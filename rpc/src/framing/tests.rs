use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::code;

/// All texts in `bytes`, pushed in pieces of `piece` bytes; the error that ended it, if one did.
fn split(bytes: &[u8], piece: usize) -> (Vec<String>, Option<RpcError>) {
    let mut splitter = Splitter::default();
    let mut texts = Vec::new();
    for chunk in bytes.chunks(piece) {
        splitter.push(chunk);
        loop {
            match splitter.next_text() {
                Ok(Some(text)) => texts.push(String::from_utf8(text).unwrap()),
                Ok(None) => break,
                Err(error) => return (texts, Some(error)),
            }
        }
    }
    (texts, splitter.finish().err())
}

fn refusal(value: Value) -> (Value, RpcError) {
    match parse_request(value) {
        Item::Refused(id, error) => (id, error),
        Item::Request(request) => panic!("{request:?} was accepted"),
    }
}

#[test]
fn objects_back_to_back_are_told_apart_however_the_socket_cuts_them() {
    let stream = "{\"a\":\"}{\\\"\"}{\"b\":[1,{}]}\n\r\t [{},{}]{}";
    for piece in 1..=stream.len() {
        let (texts, error) = split(stream.as_bytes(), piece);
        assert_eq!(texts, ["{\"a\":\"}{\\\"\"}", "{\"b\":[1,{}]}", "[{},{}]", "{}"], "pieces of {piece}");
        assert_eq!(error, None);
    }
}

#[test]
fn indented_requests_are_requests() {
    let (texts, error) = split(b"{\n  \"method\": \"spdk_get_version\",\n  \"id\": 1\n}\n", 5);
    assert_eq!(error, None);
    let Incoming::Single(entry) = parse_incoming(texts[0].as_bytes()).unwrap() else { panic!("a batch") };
    let Item::Request(request) = parse_request(entry) else { panic!("refused") };
    assert_eq!(
        (request.method.as_str(), request.id, request.params),
        ("spdk_get_version", Some(json!(1)), Value::Null)
    );
}

#[test]
fn what_begins_with_no_bracket_is_refused_at_once() {
    for garbage in ["garbage", "1", "\"text\"", "}", "\0", "null\n", "\u{7f}ELF"] {
        let (texts, error) = split(garbage.as_bytes(), 64);
        assert_eq!((texts.len(), error.map(|e| e.code)), (0, Some(code::PARSE_ERROR)), "{garbage:?}");
    }
}

#[test]
fn the_longest_request_passes_and_one_byte_more_does_not() {
    for piece in [1000, 4096, REQUEST_BYTES_MAX + 8] {
        let fits = format!("{{\"x\":\"{}\"}}", "y".repeat(REQUEST_BYTES_MAX - 8));
        assert_eq!(fits.len(), REQUEST_BYTES_MAX);
        assert_eq!(split(fits.as_bytes(), piece), (vec![fits.clone()], None), "pieces of {piece}");
        let long = fits.replacen('y', "yy", 1);
        let error = split(long.as_bytes(), piece).1.unwrap();
        assert_eq!(error.code, code::PARSE_ERROR);
        assert!(error.message.contains("262144 bytes") && error.message.contains("split it"), "{}", error.message);
    }
}

#[test]
fn an_endless_request_never_holds_more_than_the_limit_and_one_piece() {
    let mut splitter = Splitter::default();
    splitter.push(b"{\"x\":\"");
    let mut pushes = 0;
    let error = loop {
        splitter.push(&[b'y'; 4096]);
        pushes += 1;
        match splitter.next_text() {
            Ok(text) => assert_eq!(text, None),
            Err(error) => break error,
        }
        assert!(splitter.buffer.len() <= REQUEST_BYTES_MAX + 4096);
    };
    assert_eq!((pushes, error.code), (REQUEST_BYTES_MAX / 4096, code::PARSE_ERROR));
}

#[test]
fn endless_blanks_are_not_kept() {
    let mut splitter = Splitter::default();
    for _ in 0..1000 {
        splitter.push(&[b' '; 4096]);
        assert_eq!(splitter.next_text().unwrap(), None);
        assert!(splitter.buffer.len() <= 4096);
    }
}

#[test]
fn a_request_that_ends_in_its_middle_is_a_parse_error() {
    let (texts, error) = split(b"{}{\"method\":\"x", 3);
    let error = error.unwrap();
    assert_eq!((texts.len(), error.code), (1, code::PARSE_ERROR));
    assert!(error.message.contains("12 bytes with 1 brackets open"), "{}", error.message);
}

#[test]
fn nesting_beyond_reason_is_an_error_and_not_a_stack_overflow() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (texts, error) = split(deep.as_bytes(), 4096);
    assert_eq!(error, None);
    assert_eq!(parse_incoming(texts[0].as_bytes()).unwrap_err().code, code::PARSE_ERROR);
}

#[test]
fn a_request_is_refused_under_its_own_id_with_the_member_that_is_wrong() {
    let cases = [
        (json!(17), Value::Null, "an object"),
        (json!([]), Value::Null, "at least one"),
        (json!({"id": 1}), json!(1), "\"method\" is missing"),
        (json!({"id": "a", "method": 5}), json!("a"), "\"method\" must be a text"),
        (json!({"id": 1, "method": "m", "params": 5}), json!(1), "\"params\""),
        (json!({"id": 1, "method": "m", "jsonrpc": "1.0"}), json!(1), "\"2.0\""),
        (json!({"id": 1, "method": "m", "jsonrpc": 2.0}), json!(1), "\"2.0\""),
        (json!({"id": {}, "method": "m"}), Value::Null, "\"id\""),
        (json!({"id": 1, "method": "m", "name": "x"}), json!(1), "into \"params\""),
    ];
    for (request, id, part) in cases {
        let (got, error) = refusal(request.clone());
        assert_eq!((got, error.code), (id, code::INVALID_REQUEST), "{request}");
        assert!(error.message.contains(part), "{request}: {}", error.message);
    }
}

#[test]
fn a_request_without_id_is_a_notification_and_one_with_null_is_not() {
    let id = |value| match parse_request(value) {
        Item::Request(request) => request.id,
        Item::Refused(_, error) => panic!("{error}"),
    };
    assert_eq!(id(json!({"method": "m"})), None);
    assert_eq!(id(json!({"method": "m", "id": null})), Some(Value::Null));
}

#[test]
fn a_request_without_parameters_has_no_params_member() {
    assert_eq!(String::from_utf8(request(7, "m", &Value::Null)).unwrap(), r#"{"id":7,"jsonrpc":"2.0","method":"m"}"#);
    assert!(String::from_utf8(request(7, "m", &json!({"a": 1}))).unwrap().contains(r#""params":{"a":1}"#));
}

proptest! {
    #[test]
    fn any_bytes_are_split_and_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        exercise(&bytes);
    }

    #[test]
    fn any_mixture_of_json_tokens_is_split_and_read_without_panic(
        tokens in proptest::collection::vec(
            prop_oneof![
                Just("{"), Just("}"), Just("["), Just("]"), Just("\""), Just("\\"), Just(":"), Just(","), Just("null"),
                Just("\"method\""), Just("\"params\""), Just("\"id\""), Just("\"pair_create\""), Just("\"name\""),
                Just("1e999"), Just("-1"), Just("\n"), Just("\u{e9}"), Just("\"jsonrpc\":\"2.0\""),
            ],
            0..200,
        )
    ) {
        exercise(tokens.concat().as_bytes());
    }

    #[test]
    fn what_a_client_sends_is_what_a_server_reads(
        id in any::<u64>(), method in "\\PC{0,40}", text in "\\PC{0,200}", piece in 1usize..50,
    ) {
        let params = json!({"text": text, "list": [{}, "}"]});
        let (texts, error) = split(&request(id, &method, &params), piece);
        prop_assert_eq!((texts.len(), error), (1, None));
        let Incoming::Single(entry) = parse_incoming(texts[0].as_bytes()).unwrap() else { panic!("a batch") };
        prop_assert_eq!(parse_request(entry), Item::Request(Request { id: Some(id.into()), method, params }));
    }
}

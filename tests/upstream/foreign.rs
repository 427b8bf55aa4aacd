//! What answers where a relay or a Tap should is named in one line, in the log and by `/readyz`, with what to change.

use atkafka_fixtures::relay::wire::{self, BINARY, TEXT};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig};

use crate::SOON;
use crate::answering::{http, server};
use crate::support::*;

const JETSTREAM: &str = r#"{"did":"did:plc:a","time_us":1725911162329308,"kind":"identity","identity":{"seq":1}}"#;

/// The same answer to whatever is asked.
fn always(status: &'static str, head: &'static str, body: &'static str) -> String {
    server(move |_| http(status, head, body))
}

/// 404, but for the first page.
fn with_root(status: &'static str, body: &'static str, root: &'static str) -> String {
    server(move |head| if head.starts_with("GET / ") { http("200 OK", "", root) } else { http(status, "", body) })
}

/// A websocket that says one thing.
fn says(opcode: u8, payload: &[u8]) -> String {
    let message = wire::message(opcode, payload);
    server(move |head| {
        let key = head.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
        [wire::upgrade(key).as_bytes(), &message].concat()
    })
}

/// Starts one for each address, and waits for the words in the log and in /readyz: together, since each waits on its own.
fn names(command: &[&str], cases: &[(String, &str)]) {
    let bridges: Vec<Bridge> =
        cases.iter().map(|(url, _)| Bridge::start(&[command, &[url.as_str()]].concat())).collect();
    for ((url, says), bridge) in cases.iter().zip(bridges) {
        bridge.wait(&format!("{url}: {says}"), SOON, |b| {
            b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains(says))
                && b.log().iter().any(|line| line.contains(says))
        });
        let log = bridge.log();
        // One line each time that it is tried, and no second one.
        let lines: Vec<&String> = log.iter().filter(|l| l.contains(says)).collect();
        let line = lines.first().unwrap_or_else(|| panic!("{says}: {log:?}"));
        assert!(lines.iter().all(|l| l.contains("connecting again in") && l.contains("WARN")), "{lines:?}");
        assert!(line.chars().count() < 500, "{line}");
        assert_eq!(bridge.stop().0, Some(0));
    }
}

#[test]
fn what_is_no_relay_is_named() {
    let relay_page = "This is an atproto [https://atproto.com] relay instance, running the 'relay' codebase";
    let ws = |address: String| format!("ws://{address}");
    let html = "content-type: text/html; charset=utf-8\r\n";
    let tap = Tap::start(TapConfig::default()).expect("a Tap");
    let secret_tap = Tap::start(TapConfig { password: Some("p".into()), ..TapConfig::default() }).expect("a Tap");
    let not_implemented = r#"{"error":"MethodNotImplemented","message":"Method Not Implemented"}"#;
    names(
        &["firehose", "relay", "--relay-host"],
        &[
            (
                ws(always("200 OK", "", "<!doctype html><title>Welcome</title>")),
                "HTTP 200, a web page (\"Welcome\"): is --relay-host a relay or PDS",
            ),
            (ws(always("404 Not Found", html, "")), "HTTP 404, a web page: is --relay-host"),
            (
                ws(server(|_| b"HTTP/1.0 404 File not found\r\ncontent-type: text/html\r\n\r\n<p>".to_vec())),
                "a web server of HTTP/1.0 answers, which knows no websockets: is --relay-host a relay?",
            ),
            (
                ws(with_root("404 Not Found", "404 page not found\n", "Welcome to Jetstream")),
                "it is a Jetstream, whose JSON cannot be verified",
            ),
            (ws(says(TEXT, JETSTREAM.as_bytes())), "its messages are JSON: it is a Jetstream"),
            (
                ws(with_root("404 Not Found", "", relay_page)),
                "it is a relay, but a proxy or its version does not let the firehose",
            ),
            (
                ws(with_root("501 Not Implemented", not_implemented, "(AppView) for the \"bsky.app\" application")),
                "HTTP 501 MethodNotImplemented Method Not Implemented; it is an AppView, not a relay or PDS",
            ),
            (ws(with_root("501 Not Implemented", not_implemented, "")), "has no firehose (subscribeRepos)"),
            (ws(always("404 Not Found", "", "gone")) + "/subscribe", "is the path /subscribe of --relay-host right?"),
            (tap.url(), "it is a Tap, not a relay: `atkafka firehose tap --tap-host` reads it"),
            (secret_tap.url(), "it wants a login, as no relay does"),
            (ws(always("407 Proxy Authentication Required", "", "")), "a proxy that wants a login"),
            (ws(always("426 Upgrade Required", "", "")), "a reverse proxy in front of it that passes no websockets on"),
            (ws(always("502 Bad Gateway", html, "<title>502</title>")), "says that the relay is away"),
            (ws(always("503 Service Unavailable", "", "")), "says that it is away"),
            (
                ws(always("308 Permanent Redirect", "location: https://relay.example.com/x?y\r\n", "")),
                "a redirect to https://relay.example.com: if that is the relay, give it as --relay-host",
            ),
            ("wss://no-such-host.invalid".into(), "the name has no address: is --relay-host right"),
            ("ws://127.0.0.1:1".into(), "127.0.0.1:1: Connection refused (os error 111); is the relay running"),
            (ws(server(|_| b"\x15\x03\x01\x00\x02\x02\x46".to_vec())), "give --relay-host with wss://"),
            (
                ws(always("400 Bad Request", "", "Client sent an HTTP request to an HTTPS server.\n")),
                "a server that speaks HTTPS at this port: give --relay-host with wss://",
            ),
            (format!("wss://{}", always("400 Bad Request", "", "")), "speaks no TLS at this port: is it ws://?"),
        ],
    );
}

#[test]
fn what_is_no_tap_is_named() {
    let ws = |address: String| format!("ws://{address}");
    let frames = vec![atkafka_fixtures::frames::info_frame("a", None)];
    let relay = Relay::start(RelayConfig::looped(frames.clone(), 1)).expect("a relay");
    names(
        &["firehose", "tap", "--tap-host"],
        &[
            (relay.url(), "it is a relay or PDS, not a Tap: `atkafka firehose relay --relay-host` reads it"),
            (ws(says(BINARY, &frames[0])), "its messages are not a Tap's: it is a relay or PDS, not a Tap"),
            (ws(says(TEXT, JETSTREAM.as_bytes())), "it is a Jetstream, not a Tap"),
            (ws(with_root("404 Not Found", "", "Welcome to Jetstream")), "it is a Jetstream, not a Tap"),
            (ws(always("404 Not Found", "", "")), "is this a Tap? Its usual address is ws://localhost:2480"),
            (ws(always("200 OK", "", "<title>Wifi</title>")), "a web page (\"Wifi\"): is --tap-host a Tap"),
            ("ws://no-such-host.invalid".into(), "the name has no address: is --tap-host right"),
            ("ws://127.0.0.1:1".into(), "is the Tap running, is the port right?"),
            (ws(server(|_| b"\x15\x03\x01\x00\x02\x02\x46".to_vec())), "give --tap-host with wss://"),
            (format!("wss://{}", always("400 Bad Request", "", "")), "speaks no TLS at this port: is it ws://?"),
        ],
    );
}

#[test]
fn http_in_place_of_ws_is_understood() {
    let frames = atkafka_fixtures::frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst"));
    let relay = Relay::start(RelayConfig::looped(frames.expect("the fixture"), 50)).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url().replace("ws://", "http://")]);
    bridge.wait_delivered(50, SOON);
    assert_eq!(bridge.stop().0, Some(0));
}

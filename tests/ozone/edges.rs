//! What answers where a PDS or an Ozone should, clocks that are wrong, and answers without an end.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use atkafka_fixtures::ozone::{Draft, IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD};

use super::support::*;
use super::{SOON, bridge, fails, late, line_ids, now_ms, start, wait_lines};

/// Answers each request with these bytes, and then again and again with `tail`.
fn server(head: &'static [u8], tail: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = socket.read(&mut [0; 4096]);
                let mut alive = socket.write_all(head).is_ok();
                while alive && !tail.is_empty() {
                    alive = socket.write_all(&tail.repeat(1000)).is_ok();
                }
            });
        }
    });
    address.to_string()
}

fn to_host(url: &str) -> Bridge {
    let args = ["ozone-events", "--pds-host", url, "--identifier", IDENTIFIER, "--labeler-did", LABELER];
    Bridge::start_with(&args, &[("ATKAFKA_OZONE_PASSWORD", PASSWORD)])
}

fn answering(method: &str, status: u16, body: &str) -> Ozone {
    let ozone = start(OzoneConfig::default());
    ozone.answer_raw(method, Some((status, body.into())));
    ozone
}

#[test]
fn what_is_no_pds_is_named_and_ends_the_start() {
    let relay = "This is an atproto [https://atproto.com] relay instance, running the 'relay' codebase";
    for (status, body, root, says) in [
        (200, "<!doctype html><title>Welcome</title>", "", "a web page (\"Welcome\")"),
        (404, "404 page not found\n", "Welcome to Jetstream", "a Jetstream"),
        (404, r#"{"message":"Not Found"}"#, relay, "a relay"),
        (200, r#"{"status":"ok"}"#, "{}", "the answer is no session"),
        (400, "Client sent an HTTP request to an HTTPS server.\n", "", "give --pds-host with https://"),
        (407, "", "", "a proxy that wants a login"),
    ] {
        let ozone = answering("createSession", status, body);
        ozone.answer_raw("/", Some((200, root.into())));
        let log = fails(&ozone, &[], PASSWORD);
        let said = log.lines().find(|l| l.contains("ERROR")).expect("a reason");
        assert!(said.contains(says) && said.contains("createSession"), "{says}: {said}");
    }
    let at = server(b"HTTP/1.1 308 X\r\nlocation: https://pds.example.com/xrpc?a=b\r\ncontent-length: 0\r\n\r\n", b"");
    let mut bridge = to_host(&format!("http://{at}"));
    assert_eq!(bridge.end(SOON).code(), Some(2), "{:?}", bridge.log());
    bridge.wait("the target", SOON, |b| b.log_contains("a redirect to https://pds.example.com: if that is the PDS"));
}

#[test]
fn a_pds_without_an_ozone_behind_it_is_said() {
    for (status, body, says) in [
        (501, r#"{"error":"MethodNotImplemented","message":"Method Not Implemented"}"#, "there is no Ozone"),
        (404, "404 page not found", "there is no Ozone"),
        (200, "<html><title>Ozone</title>", "something else than an Ozone: HTTP 200, a web page (\"Ozone\")"),
    ] {
        let log = fails(&answering("queryEvents", status, body), &[], PASSWORD);
        assert!(log.contains(says), "{says}: {log}");
    }
    let ozone = answering("queryEvents", 502, r#"{"error":"UpstreamFailure","message":"pipethrough network error"}"#);
    let bridge = bridge(&ozone, &[]);
    bridge.wait("the reason", SOON, |b| b.log_contains("the PDS does not reach the Ozone"));
}

#[test]
fn a_host_that_does_not_answer_as_http_is_said_and_tried_again() {
    let tls = server(b"\x15\x03\x01\x00\x02\x02\x46", b"");
    let web = server(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", b"");
    let plain = start(OzoneConfig::default());
    for (url, says) in [
        ("http://127.0.0.1:1".to_string(), "is the PDS running, is the port right?"),
        ("https://no-such-host.invalid".to_string(), "the name has no address"),
        (format!("https://{web}"), "the server speaks no TLS at this port"),
        (plain.url().replace("http://", "https://"), "give --pds-host with http://"),
        (format!("http://{tls}"), "give --pds-host with https://"),
    ] {
        let bridge = to_host(&url);
        bridge
            .wait(says, SOON, |b| b.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains(says)));
        assert!(bridge.log_contains(says), "{:?}", bridge.log());
        assert_eq!(bridge.stop().0, Some(0));
    }
}

#[test]
fn an_answer_without_an_end_is_given_up() {
    let at = server(b"HTTP/1.1 200 OK\r\n\r\n", b"{\"accessJwt\":\"xxxxxxxx");
    let bridge = to_host(&format!("http://{at}"));
    bridge.wait("the reason", SOON, |b| b.log_contains("that is no answer of a PDS"));
    assert!(bridge.peak_memory() < 60 << 20, "{}", bridge.peak_memory());
    assert_eq!(bridge.stop().0, Some(0));
    let at = server(b"HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n");
    let bridge = to_host(&format!("http://{at}"));
    bridge.wait("another attempt", SOON, |b| b.log_contains("again in"));
    assert!(bridge.peak_memory() < 60 << 20, "{}", bridge.peak_memory());
}

#[test]
fn a_page_of_far_more_events_than_asked_for_is_refused_and_takes_little_memory() {
    for (events, says) in
        [(5_000_000, "a page of 5000000 events, and 100 were asked for"), (16_000_000, "queryEvents: ")]
    {
        let ozone = answering("queryEvents", 200, &format!(r#"{{"events":[{}1]}}"#, "1,".repeat(events - 1)));
        let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
        bridge.wait(says, SOON, |b| b.log_contains(says));
        bridge.wait("another attempt", SOON, |_| ozone.stats().queries.len() >= 2);
        assert!(bridge.peak_memory() < 100 << 20, "{}", bridge.peak_memory());
        assert_eq!(bridge.lines().len(), 0);
        ozone.answer_raw("queryEvents", None);
        ozone.add(&late(1, 0));
        wait_lines(&bridge, 1);
        assert_eq!(bridge.stop().0, Some(0));
    }
}

#[test]
fn an_event_of_the_future_comes_once_and_hides_nothing() {
    let ozone = start(OzoneConfig::default());
    let ahead = |ms| Draft { created_ms: Some(now_ms() + ms), ..late(1, 0) };
    let future = [ozone.add(&ahead(3_600_000)), ozone.add(&ahead(4_000))];
    let bridge = bridge(&ozone, &["--poll-interval", "100ms", "--look-back", "1s"]);
    wait_lines(&bridge, 2);
    // Past the look-back, and past the time of one of them.
    thread::sleep(Duration::from_secs(8));
    let now = ozone.add(&late(2, 0));
    wait_lines(&bridge, 3);
    let mut ids = line_ids(&bridge);
    ids.sort_unstable();
    assert_eq!(ids, [future[0], future[1], now], "each once");
}

#[test]
fn a_second_factor_is_explained_and_asked_for_once() {
    let body = r#"{"error":"AuthFactorTokenRequired","message":"A sign in code has been sent to your email address"}"#;
    let ozone = answering("createSession", 401, body);
    let log = fails(&ozone, &[], PASSWORD);
    assert!(log.contains("second factor") && log.contains("app password"), "{log}");
    assert_eq!(ozone.stats().requests, 1, "each attempt sends a mail");
}

#[test]
fn a_login_that_is_limited_without_a_time_is_not_tried_soon_and_says_why() {
    let ozone = answering("createSession", 429, r#"{"error":"RateLimitExceeded","message":"Rate Limit Exceeded"}"#);
    let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
    bridge.wait("the reason", SOON, |b| b.log_contains("RateLimitExceeded"));
    thread::sleep(Duration::from_secs(5));
    assert_eq!(ozone.stats().requests, 1);
    let log = bridge.log();
    let said = log.iter().find_map(|l| l.split("; again in ").nth(1)).expect("when");
    let seconds: f64 = said.trim_end_matches(" s").parse().expect("seconds");
    assert!((30.0..32.0).contains(&seconds), "{said}");
}

#[test]
fn a_clock_that_differs_from_the_servers_is_said_and_renews_nothing() {
    for (ahead_s, says) in [(-3 * 3600, "ahead of the server's"), (3 * 3600, "behind the server's")] {
        let ozone = start(OzoneConfig { clock_ahead_s: ahead_s, ..OzoneConfig::default() });
        let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
        bridge.wait("twelve polls", SOON, |_| ozone.stats().queries.len() >= 12);
        let stats = ozone.stats();
        assert_eq!((stats.logins.len(), stats.refreshes), (1, 0), "a token of two hours does for all");
        let log = bridge.log();
        let said = log.iter().find(|l| l.contains("the clock of this machine")).expect("said");
        let seconds = said.split(" is ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(said.contains(says) && seconds.is_some_and(|s| s.abs_diff(3 * 3600) < 20), "{said}");
    }
}

#[test]
fn a_cursor_that_repeats_ends_the_round() {
    let ozone = start(OzoneConfig { repeat_pages: true, ..OzoneConfig::default() });
    let first: Vec<u64> = (0..150).map(|i| ozone.add(&late(i, 0))).collect();
    let bridge = bridge(&ozone, &["--poll-interval", "1s"]);
    wait_lines(&bridge, 100);
    bridge.wait("it is said", SOON, |b| b.log_contains("the same pages again and again"));
    let before = ozone.stats().queries.len();
    thread::sleep(Duration::from_secs(5));
    let polls = ozone.stats().queries.len() - before;
    assert!(polls <= 25, "{polls} requests in 5 s");
    assert_eq!(bridge.metric("atkafka_connected"), 1.0);
    assert_eq!(line_ids(&bridge), first[..100], "each once");
}

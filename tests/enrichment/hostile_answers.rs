//! Answers that want to do harm: documents that are none, memory without end, and private addresses.

use std::time::{Duration, Instant};

use atkafka_fixtures::directory::{CREATED_AT, Directory, How, Kind, Reply, audit_log, document};
use atkafka_fixtures::relay::RelayConfig;
use sonic_rs::JsonValueTrait;

use crate::{
    PDS, SOON, Stage, assert_complete, did, event, events, everybody, handle, parts, post, relay, start, stop, text,
};

/// With huge pages each of 256 threads for look-ups would keep more than a megabyte.
#[test]
fn huge_pages_are_off() {
    let stage = Stage::new();
    let bridge = stage.start(&[]);
    assert_complete(&stage.event_of(&bridge, &did(1)));
    let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).expect("its status");
    assert!(status.lines().any(|line| line == "THP_enabled:\t0"), "{status}");
    stop(bridge);
}

/// Documents as long as they may be, audit logs of a megabyte, and none of it twice. Before, 256 look-ups held 256 MB of logs,
/// and their threads the pages that the documents of the cache were scattered over. Fetchers that have nothing to do end.
#[test]
fn look_ups_take_little_memory_besides_the_caches_whatever_the_directory_answers() {
    const MB: u64 = 1 << 20;
    let (accounts, cache) = (6_000, 64 * MB);
    let directory = everybody();
    directory.set_latency(Duration::from_millis(200));
    directory.fill(Kind::Document, 15_500);
    directory.fill(Kind::AuditLog, 1_000_000);
    let list: Vec<Vec<u8>> = (1..=accounts).map(|n| post(&did(n), n as u64)).collect();
    let relay = relay(RelayConfig { rate: 650.0, ..RelayConfig::script(list) });
    let bridge = start(&relay, &directory, &["--metadata-cache", "64MiB", "--metadata-timeout", "30s"]);
    let mut held = 0.0_f64;
    bridge.wait("all events", SOON, |b| {
        held = held.max(b.metric("atkafka_cache_bytes{"));
        b.metric("atkafka_last_seq_delivered") == accounts as f64
    });
    let (peak, threads) = (bridge.peak_memory(), bridge.metric("process_threads"));
    println!("{} MB at the peak, {} MB in the caches at most, {threads} threads", peak / MB, held as u64 / MB);
    assert!(held > 0.6 * cache as f64 && held <= cache as f64, "{held}");
    // What is promised holds for an optimised build.
    let over = if cfg!(debug_assertions) { 200 * MB } else { 143 * MB };
    assert!(peak < cache + over, "{} MB", peak / MB);
    assert_eq!(bridge.metric("atkafka_metadata_missing"), 0.0);
    bridge.wait("idle fetchers end", SOON, |b| b.metric("process_threads") < 12.0);
    bridge.wait("all lines", SOON, |b| b.lines().len() == accounts);
    events(&bridge, accounts).iter().for_each(assert_complete);
    // One of each kind is enough.
    let after = directory.requests();
    relay.push(&post(&did(accounts + 1), accounts as u64 + 1));
    assert_complete(&event(&bridge, accounts as u64 + 1));
    assert_eq!(directory.requests(), after + 2);
    stop(bridge);
}

/// What each of these is given for a document is none; nobody else is harmed, and memory has its bound.
#[test]
fn hostile_answers_are_no_documents() {
    let (stage, elsewhere) = (Stage::new(), everybody());
    let text = |who: &str| document(who, &handle(who), PDS);
    let start_of = |who: &str| format!(r#"{{"id":"{who}","alsoKnownAs":["at://a.example"],"x":"#);
    let ok = |body: String| Reply::new(200, body);
    let moved = |status, who: &str| Reply::new(status, "").header(&format!("Location: {}/{who}", elsewhere.url()));
    let raw =
        |head: &str, who: &str| Reply::new(0, format!("HTTP/1.1 200 X\r\n{head}\r\n\r\n{}", text(who))).how(How::Raw);
    type Make<'a> = &'a dyn Fn(&str) -> Reply;
    let replies: [(&str, Make<'_>); 27] = [
        ("301", &|who| moved(301, who)),
        ("302", &|who| moved(302, who)),
        ("307", &|who| moved(307, who)),
        ("308 with a document", &|who| Reply { body: text(who).into_bytes().into(), ..moved(308, who) }),
        ("another account's", &|_| ok(text(&did(77)))),
        ("without an id", &|who| ok(text(who).replace(r#""id":"did:plc"#, r#""di":"did:plc"#))),
        ("a number for an id", &|_| ok(r#"{"id":7}"#.into())),
        ("empty", &|_| ok(String::new())),
        ("HTML", &|_| ok("<html><body>Please log in</body></html>".into()).header("Content-Type: text/html")),
        ("a list", &|who| ok(format!("[{}]", text(who)))),
        ("null", &|_| ok("null".into())),
        ("two documents", &|who| ok(text(who).repeat(2))),
        ("half of it", &|who| ok(text(who)[..200].into())),
        ("cut off", &|who| ok(text(who)).how(How::CutOff)),
        ("no UTF-8", &|who| Reply::new(200, [start_of(who).as_bytes(), b"\"\xff\"}"].concat())),
        ("a control character", &|who| ok(start_of(who) + "\"\u{1}\"}")),
        ("deep lists", &|who| ok(start_of(who) + &"[".repeat(100_000) + &"]".repeat(100_000) + "}")),
        ("deep objects", &|who| ok(start_of(who) + &"{\"a\":".repeat(100_000))),
        ("20 MB", &|who| ok(text(who)).how(How::Filled(20 << 20))),
        ("without an end", &|who| ok(text(who)).how(How::Endless)),
        ("no HTTP", &|_| Reply::new(0, "SSH-2.0-OpenSSH_9.6\r\n").how(How::Raw)),
        ("a binary answer", &|_| Reply::new(0, [0, 255, 13, 10, 7].repeat(999)).how(How::Raw)),
        ("a huge header", &|who| ok(text(who)).header(&format!("X-A: {}", "a".repeat(5 << 20)))),
        ("nothing", &|_| Reply::new(0, "").how(How::Closed)),
        ("part of it", &|who| Reply::new(206, text(who))),
        ("a wrong length", &|who| raw("Content-Length: 99999999999999999999", who)),
        ("a length that is short", &|who| raw("Content-Length: 200", who)),
    ];
    let bridge = stage.start(&["--metadata-timeout", "1s"]);
    assert_complete(&stage.event_of(&bridge, &did(0)));
    let before = bridge.peak_memory();
    for (n, (what, make)) in replies.iter().enumerate() {
        let who = did(100 + n);
        stage.directory.answer_about(Kind::Document, &who, Some(make(&who)));
        let event = stage.event_of(&bridge, &who);
        assert!(!parts(&event).iter().any(|p| ["didDocument", "pdsHost", "handle"].contains(p)), "{what}: {event}");
        // Failures are never ten in a row.
        assert_complete(&stage.event_of(&bridge, &did(1_000 + n)));
    }
    assert_eq!(elsewhere.stats().connections, 0, "no redirect is followed");
    let grown = bridge.peak_memory().saturating_sub(before);
    println!("peak memory grew by {} MB", grown >> 20);
    assert!(grown < 96 << 20, "{grown}");
    assert!(!bridge.log().iter().any(|l| l.contains("panicked")), "{:?}", bridge.log());
    stop(bridge);
}

/// Its first entry is what counts.
#[test]
fn a_long_audit_log_is_read() {
    let stage = Stage::new();
    let times: Vec<&str> = [CREATED_AT].into_iter().chain(["2024-01-01T00:00:00.000Z"; 400]).collect();
    let log = audit_log(&did(1), &times);
    println!("a log of {} bytes", log.len());
    stage.directory.set_log(&did(1), &log);
    let bridge = stage.start(&[]);
    assert_complete(&stage.event_of(&bridge, &did(1)));
    stop(bridge);
}

#[test]
fn a_web_account_of_this_machine_is_asked_for_where_that_is_allowed() {
    let (stage, web) = (Stage::new(), Directory::start().expect("a directory"));
    let who = format!("did:web:localhost%3A{}", web.port());
    web.set_document(&who, &document(&who, "ada.example", PDS));
    let bridge = stage.start(&["--allow-private-did-web"]);
    let found = stage.event_of(&bridge, &who);
    assert_eq!(parts(&found), ["didDocument", "handle", "pdsHost"], "nobody says when it was made: {found}");
    assert_eq!(text(&found, "handle"), Some("ada.example"));
    let targets: Vec<_> = web.stats().requests.iter().map(|r| r.target.to_string()).collect();
    assert_eq!(targets, ["/.well-known/did.json"]);
    // It moves elsewhere, and redirects are not followed here either; then the document is of another account.
    let moved = Reply::new(302, "").header(&format!("Location: {}/{}", stage.directory.url(), did(1)));
    for reply in [moved, Reply::new(200, document(&did(1), "ada.example", PDS))] {
        web.answer(Kind::Web, Some(reply));
        let seq = stage.identity(&who);
        assert_eq!(parts(&event(&bridge, seq)), [""; 0]);
    }
    assert_eq!(stage.directory.requests(), 0, "PLC knows nothing of it");
    stop(bridge);
}

#[test]
fn private_addresses_are_refused_before_any_connection() {
    let (stage, web) = (Stage::new(), Directory::start().expect("a directory"));
    let local =
        ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"]
            .map(|host| format!("did:web:{host}%3A{}", web.port()));
    let odd = [
        "%5B%3A%3A1%5D%3APORT",
        "localhost%3APORT:user:ada",
        "localhost%3APORT%2Fada",
        "a%40localhost%3APORT",
        "localhost.%3APORT",
    ]
    .map(|rest| format!("did:web:{rest}").replace("PORT", &web.port().to_string()));
    let others = ["10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "[fd00::1]", "localhost", "", "%00", "."]
        .map(|host| format!("did:web:{host}"));
    let names: Vec<String> = local.into_iter().chain(odd).chain(others).collect();
    let seqs: Vec<u64> = names.iter().map(|who| stage.post(who)).collect();
    let began = Instant::now();
    let bridge = stage.start(&["--metadata-timeout", "20s"]);
    for (seq, who) in seqs.iter().zip(&names) {
        let event = event(&bridge, *seq);
        assert!(event["eventMetadata"].is_null(), "{who}: {event}");
    }
    assert!(began.elapsed() < Duration::from_secs(19), "refused, not tried: {:?}", began.elapsed());
    assert_eq!((web.stats().connections, stage.directory.stats().connections), (0, 0));
    stop(bridge);
}

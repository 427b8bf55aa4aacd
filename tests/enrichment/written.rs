//! What is looked up and written beside an event, and what is not known.

use std::time::Duration;

use atkafka_fixtures::directory::{CREATED_AT, Kind, Presence, Reply, audit_log, document};
use atkafka_fixtures::network::builder::{
    A_TIME, Commit, Op, account_frame, commit_block, identity_frame, record, sync_frame,
};
use atkafka_fixtures::{car, frames};
use ipld_core::ipld;
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{
    AGE, FROM_PLC, PDS, REV, SOON, Stage, assert_complete, did, event, events, everybody, handle, json, line, missing,
    parts, stop, sum, text,
};

#[test]
fn nothing_is_looked_up_unless_it_is_asked_for() {
    let stage = Stage::new();
    stage.post(&did(1));
    stage.identity(&did(1));
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &stage.relay.url()]);
    for event in events(&bridge, 2) {
        assert!(event.get("eventMetadata").is_none(), "{event}");
    }
    assert!(!bridge.log_contains("plc.directory"), "{:?}", bridge.log());
    for metric in ["atkafka_plc_requests", "atkafka_api_requests", "atkafka_metadata_missing", "atkafka_cache_size"] {
        assert_eq!(bridge.metric(metric), 0.0, "{metric}");
    }
    stop(bridge);
}

#[test]
fn each_event_of_an_account_has_its_metadata_before_its_own_part() {
    let stage = Stage::new();
    let who = did(7);
    // Blanks, numbers that no float holds, escapes and letters as they are.
    let raw = format!(
        r##"{{ "id" : "{who}","alsoKnownAs":["https://x.example","at://ada.example","at://second.example"],"n":[9007199254740993,1.0,-0,1E-7],"t":"\u00e9\/é\"","verificationMethod":[],"service":[{{"id":"#bsky_fg","type":"BskyFeedGenerator","serviceEndpoint":"https://feed.example"}},{{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"https://pds.example:8443/"}}] }}"##
    );
    stage.directory.set_document(&who, &raw);
    stage.directory.set_log(&who, &audit_log(&who, &[CREATED_AT, "2024-02-02T02:02:02.222Z"]));
    let content = record(&ipld!({ "$type": "app.bsky.feed.post", "text": "hello" }));
    let (create, cid) = (Op::create("app.bsky.feed.post/a", &content), car::cid_of(&content));
    stage.push(|seq| Commit::new(&who, REV).op(create.clone()).frame(seq));
    stage.push(|seq| Commit::new(&who, REV).op(Op::update("app.bsky.feed.post/a", &content, Some(cid))).frame(seq));
    stage.push(|seq| Commit::new(&who, REV).op(Op::delete("app.bsky.feed.post/a", Some(cid))).frame(seq));
    stage.push(|seq| account_frame(seq, &who, A_TIME, false, Some("deactivated")));
    stage.push(|seq| identity_frame(seq, &who, A_TIME, Some("ada.example")));
    let block = commit_block(&who, REV, &cid, None);
    stage.push(|seq| sync_frame(seq, &who, REV, A_TIME, &block));
    stage.relay.push(&frames::info_frame("OutdatedCursor", Some("too old")));
    stage.push(|seq| Commit::new(&who, REV).ops([create, Op::delete("app.bsky.feed.post/b", Some(cid))]).frame(seq));
    let bridge = stage.start(&[]);
    events(&bridge, 9);
    let metadata = format!(
        r#""eventMetadata":{{"didDocument":{raw},"pdsHost":"https://pds.example:8443","handle":"ada.example","didCreatedAt":"{CREATED_AT}","accountAge":{AGE}}},"#
    );
    let lines = bridge.lines();
    let start = |seq: u64, rev: bool| {
        let rev = if rev { format!(r#""rev":"{REV}","#) } else { String::new() };
        format!(r#"{{"did":"{who}","timestamp":"{A_TIME}","seq":{seq},{rev}"#)
    };
    for (line, begin, own) in [
        (&lines[0], start(1, true), r#""operation":{"action":"create","#),
        (&lines[1], start(2, true), r#""operation":{"action":"update","#),
        (&lines[2], start(3, true), r#""operation":{"action":"delete","#),
        (&lines[3], start(4, false), r#""account":{"active":false,"#),
        (&lines[4], start(5, false), r#""identity":{"seq":5,"#),
        (&lines[5], start(6, true), r#""sync":{"seq":6,"#),
        (&lines[7], start(7, true), r#""operation":{"action":"create","#),
        (&lines[8], start(7, true), r#""operation":{"action":"delete","#),
    ] {
        let wanted = format!("{begin}{metadata}{own}");
        assert!(line.starts_with(&wanted), "{line}\nshould begin with\n{wanted}");
    }
    assert!(lines[6].contains(r#""info":{"#) && !lines[6].contains("eventMetadata"), "{}", lines[6]);
    stop(bridge);
}

/// What the document's host wrote over many lines is still one event on one line, and says the same.
#[test]
fn a_document_over_many_lines_stays_one_event() {
    let stage = Stage::new();
    let pretty = document(&did(1), &handle(&did(1)), PDS).replace(',', ",\r\n\t").replace('{', "{\n  ");
    stage.directory.set_document(&did(1), &format!("\n{pretty}\n"));
    stage.post(&did(1));
    let bridge = stage.start(&[]);
    let event = &events(&bridge, 1)[0];
    assert_complete(event);
    assert_eq!(event["eventMetadata"]["didDocument"], json(&pretty));
    stop(bridge);
}

#[test]
fn every_flag_has_its_variable() {
    let stage = Stage::new();
    stage.post(&did(1));
    stage.post("did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF");
    stage.directory.set_document(&did(2), &document(&did(2), &handle(&did(2)), "https://other.example"));
    stage.post(&did(2));
    let (plc, api) = (format!("{}/plc/", stage.directory.url()), format!("{}/", stage.directory.url()));
    let state = folder("state");
    let env = [
        ("ATKAFKA_PLC_HOST", plc.as_str()),
        ("ATKAFKA_API_HOST", &api),
        ("ATKAFKA_WATCHED_SERVICES", "*.example,https://pds.example"),
        ("ATKAFKA_IGNORED_SERVICES", "other.example"),
        ("ATKAFKA_UNRESOLVED_SERVICES", "drop"),
        ("ATKAFKA_METADATA_TIMEOUT", "20s"),
        ("ATKAFKA_METADATA_REQUIRED", "true"),
        ("ATKAFKA_METADATA_CACHE", "1000"),
        ("ATKAFKA_METADATA_TTL", "1h"),
        ("ATKAFKA_LOOKUP_CONCURRENCY", "2"),
        ("ATKAFKA_LOOKUP_RATE", "500"),
        ("ATKAFKA_METADATA_SNAPSHOT", "true"),
        ("ATKAFKA_ALLOW_PRIVATE_DID_WEB", "true"),
        ("ATKAFKA_STATE_DIR", state.to_str().expect("UTF-8")),
    ];
    let bridge = Bridge::start_with(&["firehose", "relay", "--relay-host", &stage.relay.url()], &env);
    bridge.wait_delivered(3, SOON);
    let event = &events(&bridge, 1)[0];
    assert_eq!(parts(event), ["accountAge", "didCreatedAt", "didDocument", "handle", "pdsHost", "profile"]);
    assert_eq!(bridge.metric("atkafka_filtered_events"), 2.0, "the other service and the unresolved account");
    let stats = stage.directory.stats();
    let plc = stats.requests.iter().filter(|r| matches!(r.kind, Kind::Document | Kind::AuditLog));
    assert!(plc.clone().count() >= 3 && plc.into_iter().all(|r| r.target.starts_with("/plc/did:plc:")), "{stats:?}");
    stop(bridge);
    for (name, _) in env {
        let (code, _, err) = run(&["firehose", "relay"], &[(name, "\u{1}")]);
        // A folder may have any name.
        assert!(code == Some(2) || name == "ATKAFKA_STATE_DIR", "{name}: {code:?} {err}");
        if code == Some(2) {
            let flag = format!("--{}", name["ATKAFKA_".len()..].replace('_', "-").to_lowercase());
            assert!(err.contains(&flag) && err.lines().count() == 1, "{name}: {err}");
        }
        if name == "ATKAFKA_UNRESOLVED_SERVICES" {
            break;
        }
    }
}

#[test]
fn what_is_not_known_is_absent_and_counted() {
    let stage = Stage::new();
    let directory = &stage.directory;
    let [unknown, gone, bare, no_log, empty_log, odd_time, young, broken_log, key] =
        [1, 2, 3, 4, 5, 6, 7, 8, 9].map(did);
    let key = format!("did:key:{key}");
    stage.unknown(&unknown);
    directory.answer_about(Kind::Document, &gone, Some(Reply::tombstone(&gone)));
    directory.set_document(&bare, &format!(r#"{{"id":"{bare}"}}"#));
    directory.answer_about(Kind::AuditLog, &no_log, Some(Reply::unknown(&no_log)));
    directory.set_log(&empty_log, "[]");
    directory.set_log(&odd_time, &audit_log(&odd_time, &["soon"]));
    directory.set_log(&young, &audit_log(&young, &["2025-06-15T12:00:01.000Z"]));
    directory.set_log(&broken_log, &audit_log(&broken_log, &[CREATED_AT])[..40]);
    let without_time = ["didDocument", "handle", "pdsHost"];
    let cases = [
        (&unknown, &[][..]),
        (&gone, &["accountAge", "didCreatedAt"]),
        (&bare, &["accountAge", "didCreatedAt", "didDocument"]),
        (&no_log, &without_time),
        (&empty_log, &without_time),
        (&young, &FROM_PLC),
        (&broken_log, &without_time),
        (&key, &[]),
    ];
    let seqs: Vec<u64> = cases.iter().map(|(did, _)| stage.post(did)).collect();
    let odd = stage.post(&odd_time);
    let bridge = stage.start(&["--metadata-timeout", "10s"]);
    for (seq, (did, wanted)) in seqs.iter().zip(cases) {
        let event = event(&bridge, *seq);
        assert_eq!(parts(&event), wanted, "{did}: {event}");
        assert_eq!(event["eventMetadata"].is_null(), wanted.is_empty(), "{event}");
    }
    assert!(event(&bridge, odd)["eventMetadata"].get("accountAge").is_none(), "no age since no time");
    let young = event(&bridge, seqs[5]);
    assert_eq!(young["eventMetadata"]["accountAge"].as_u64(), Some(0), "made after its event: {young}");
    for line in bridge.lines() {
        let metadata = line.split(r#""operation":"#).next().unwrap_or_default().replace(r#""eventMetadata":null"#, "");
        assert!(![":null", r#":"""#, ":-1", "{}"].iter().any(|empty| metadata.contains(empty)), "{line}");
    }
    assert!(missing(&bridge, "did_document") >= 2.0, "{:?}", bridge.metrics());
    assert!(missing(&bridge, "did_created_at") >= 3.0, "{:?}", bridge.metrics());
    assert_eq!(missing(&bridge, "profile"), 0.0, "nobody asked for profiles");
    assert_eq!(directory.stats().requests.iter().filter(|r| r.target.contains("did:key")).count(), 0);
    // What the directory does not know is known not to be there.
    for again in [&unknown, &gone, &no_log] {
        stage.event_of(&bridge, again);
    }
    let asked = [Kind::Document, Kind::AuditLog].map(|kind| directory.asked(kind, &unknown));
    assert_eq!(
        (asked, directory.asked(Kind::Document, &gone), directory.asked(Kind::AuditLog, &no_log)),
        ([1, 1], 1, 1)
    );
    stop(bridge);
}

#[test]
fn the_pds_host_is_scheme_and_host_without_a_slash() {
    let stage = Stage::new();
    let service = |id: &str, endpoint: &str| {
        format!(r#"{{"id":"{id}","type":"AtprotoPersonalDataServer","serviceEndpoint":{endpoint}}}"#)
    };
    let cases = [
        (service("#atproto_pds", r#""https://pds.example/""#), Some("https://pds.example")),
        (service("DID#atproto_pds", r#""https://pds.example""#), Some("https://pds.example")),
        (service("#atproto_pds", r#""https://pds.example:8443/xrpc/""#), Some("https://pds.example:8443")),
        (service("#atproto_pds", r#""http://localhost:2583""#), Some("http://localhost:2583")),
        (service("#atproto_pds", r#""https:\/\/pds.example""#), Some("https://pds.example")),
        (service("#atproto_labeler", r#""https://pds.example""#), None),
        (service("#atproto_pds", r#""pds.example""#), None),
        (service("#atproto_pds", r#"{"uri":"https://pds.example"}"#), None),
        (service("#atproto_pds", "null"), None),
        (service("#atproto_pds", r#""https://""#), None),
        (service("#atproto_pds", r#""https://a\"b\nc""#), None),
    ];
    let mut seqs = Vec::new();
    for (n, (service, _)) in cases.iter().enumerate() {
        let document = format!(r#"{{"id":"{}","alsoKnownAs":[],"service":[{service}]}}"#, did(n));
        stage.directory.set_document(&did(n), &document.replace("DID", &did(n)));
        seqs.push(stage.post(&did(n)));
    }
    let bridge = stage.start(&[]);
    for (seq, (service, wanted)) in seqs.iter().zip(&cases) {
        assert_eq!(text(&event(&bridge, *seq), "pdsHost"), *wanted, "{service}");
    }
    stop(bridge);
}

#[test]
fn the_api_host_gives_the_profile_and_verifies_the_handle() {
    let stage = Stage::new();
    let directory = &stage.directory;
    let [right, elsewhere, nowhere, silent, no_profile] = [1, 2, 3, 4, 5].map(did);
    let raw = format!(r#"{{ "did":"{right}","displayName":"\u00e9 é", "followersCount":9007199254740993,"x":[ ] }}"#);
    directory.set_profile(&right, Some(&raw));
    directory.set_handle(&handle(&elsewhere), Some(&right));
    directory.set_handle(&handle(&nowhere), None);
    directory.answer_about(Kind::Handle, &handle(&silent), Some(Reply::new(500, "{}")));
    directory.set_profile(&no_profile, None);
    let bridge = stage.start(&["API", "--metadata-timeout", "2s"]);
    // One after another, so that no profile is asked for in a batch with another.
    let event = |who: &str| stage.event_of(&bridge, who);
    let first = event(&right);
    assert_eq!(text(&first, "handle"), Some(handle(&right).as_str()));
    let first_line = line(&bridge, 1);
    assert!(first_line.contains(&format!(r#","profile":{raw}}},"operation":"#)), "untouched: {first_line}");
    assert_eq!(text(&event(&elsewhere), "handle"), Some("handle.invalid"));
    assert_eq!(text(&event(&nowhere), "handle"), Some("handle.invalid"));
    let unverified = event(&silent);
    let rest = ["accountAge", "didCreatedAt", "didDocument", "pdsHost", "profile"];
    assert_eq!(parts(&unverified), rest, "neither right nor wrong: {unverified}");
    assert_eq!(parts(&event(&no_profile)), FROM_PLC);
    assert!(missing(&bridge, "handle") >= 1.0 && missing(&bridge, "profile") >= 1.0, "{:?}", bridge.metrics());
    assert!(sum(&bridge, "atkafka_api_requests", &["kind=\"handle\"", "status=\"ok\""]) >= 2.0);
    stop(bridge);
}

#[test]
fn an_api_host_alone_gives_profiles_and_a_dead_one_takes_nothing_else_away() {
    let stage = Stage::new();
    let api = everybody();
    stage.post(&did(1));
    let (relay, api_url) = (stage.relay.url(), api.url());
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay, "--api-host", &api_url]);
    assert_eq!(parts(&events(&bridge, 1)[0]), ["profile"]);
    assert_eq!((api.requests(), missing(&bridge, "did_document")), (1, 0.0), "nothing else was asked for");
    stop(bridge);
    api.set_presence(Presence::Refuses);
    let bridge = stage.start(&["--api-host", &api_url, "--metadata-timeout", "2s"]);
    stage.posts(2..400);
    let from_plc = ["accountAge", "didCreatedAt", "didDocument", "pdsHost"];
    events(&bridge, 399).iter().for_each(|e| assert_eq!(parts(e), from_plc, "{e}"));
    assert_eq!((missing(&bridge, "handle"), missing(&bridge, "profile")), (399.0, 399.0));
    for (host, open) in [(&api_url, 1.0), (&stage.directory.url(), 0.0)] {
        assert_eq!(sum(&bridge, "atkafka_breaker_open", &[&format!("host=\"{host}\"")]), open, "{host}");
    }
    stop(bridge);
}

#[test]
fn a_slow_app_view_takes_no_document_away() {
    let stage = Stage::new();
    let api = everybody();
    api.set_presence(Presence::Hangs);
    let api_url = api.url();
    let bridge = stage.start(&["--api-host", &api_url, "--metadata-timeout", "1s", "--lookup-concurrency", "4"]);
    // More than its fetchers can ask about at once.
    stage.posts(0..40);
    let from_plc = ["accountAge", "didCreatedAt", "didDocument", "pdsHost"];
    events(&bridge, 40).iter().for_each(|e| assert_eq!(parts(e), from_plc, "{e}"));
    stop(bridge);
}

#[test]
fn readyz_says_that_a_directory_is_waited_for() {
    let stage = Stage::new();
    stage.directory.set_presence(Presence::Refuses);
    stage.post(&did(1));
    let bridge = stage.start(&["--metadata-required"]);
    bridge.wait("503 for the sake of the directory", SOON, |b| {
        b.get("/readyz")
            .is_some_and(|(status, body)| status == 503 && body.contains("waits for") && body.contains("a directory"))
    });
    stage.directory.set_presence(Presence::Up);
    events(&bridge, 1).iter().for_each(assert_complete);
    bridge.wait("200 again", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
    stop(bridge);
}

#[test]
fn profiles_are_asked_for_together_while_requests_pile_up() {
    let stage = Stage::new();
    stage.directory.set_latency(Duration::from_millis(50));
    // Somebody without a profile among them; an AppView leaves it out.
    let count = 100;
    let known = |did: &str| did != self::did(17);
    stage.directory.make(move |did| known(did).then(|| (handle(did), PDS.into())));
    stage.posts(0..count);
    let bridge = stage.start(&["API", "--lookup-concurrency", "4", "--metadata-timeout", "50s"]);
    for event in events(&bridge, count) {
        let who = event["did"].as_str().expect("a DID").to_string();
        let profile = event["eventMetadata"]["profile"]["did"].as_str();
        assert_eq!(profile, known(&who).then_some(who.as_str()), "its own: {event}");
    }
    let stats = stage.directory.stats();
    let batches: Vec<usize> = stats.requests.iter().filter(|r| r.kind == Kind::Profiles).map(|r| r.accounts).collect();
    println!("{} accounts, {} getProfile, batches {batches:?}", count, stats.count(Kind::Profile));
    assert!(batches.iter().all(|n| (1..=25).contains(n)), "{batches:?}");
    assert!(batches.len() + stats.count(Kind::Profile) <= count / 2, "together");
    for n in 0..count {
        assert_eq!(stats.of(Kind::Profile, &did(n)), 1, "account {n}");
    }
    stop(bridge);
}

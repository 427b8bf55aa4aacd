//! JSON nested so deep that reading it by recursion would overflow the stack: refused wherever it comes from, and the process
//! goes on.

use std::path::Path;
use std::time::Duration;

use atkafka_fixtures::directory::{Directory, Kind, Reply};
use atkafka_fixtures::network::builder::{A_TIME, Commit, Op, identity_frame};
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, comment};
use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;

const SOON: Duration = Duration::from_secs(60);
const LEVELS: usize = 200_000;

/// An object with `before`, and behind it a member that is nested.
fn deep(before: &str, levels: usize) -> String {
    format!(r#"{{{before}"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

#[test]
fn every_answer_of_a_pds_may_be_nested() {
    let claims = |text: String| format!("h.{}.s", data_encoding::BASE64URL_NOPAD.encode(text.as_bytes()));
    // The answer with two of them stays under the limit of 1 MB.
    let token = claims(deep(r#""exp":1,"#, LEVELS / 4));
    let tokens = format!(r#"{{"accessJwt":"{token}","refreshJwt":"{token}"}}"#);
    let objects = format!("{}1{}", r#"{"x":"#.repeat(LEVELS), "}".repeat(LEVELS));
    for (method, status, body, says) in [
        ("createSession", 200, deep(r#""accessJwt":"a","refreshJwt":"b","#, LEVELS), "the answer is no session"),
        ("createSession", 500, deep(r#""error":"X","#, LEVELS), "createSession: HTTP 500"),
        // Too long for a header, too. It is read when it is used again.
        ("createSession", 200, tokens, "queryEvents: protocol"),
        ("queryEvents", 200, deep(r#""events":[],"#, LEVELS), "nested deeper"),
        ("queryEvents", 200, format!(r#"{{"events":[{objects}]}}"#), "nested deeper"),
        ("queryEvents", 400, deep(r#""error":"ExpiredToken","#, LEVELS), "queryEvents: HTTP 400"),
        ("queryEvents", 502, objects.clone(), "queryEvents: HTTP 502"),
    ] {
        let ozone = Ozone::start(OzoneConfig::default()).expect("a port");
        ozone.add(&comment("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "a note"));
        ozone.answer_raw(method, Some((status, body)));
        let url = ozone.url();
        let args =
            ["ozone-events", "--pds-host", &url, "--identifier", IDENTIFIER, "--labeler-did", LABELER, "--password"];
        let mut bridge = Bridge::start(&[&args[..], &[PASSWORD]].concat());
        if says.ends_with("no session") {
            // What is no PDS is not asked again.
            assert_eq!(bridge.end(SOON).code(), Some(2), "{method} {status}");
            assert!(bridge.log_contains(says), "{:?}", bridge.log());
            continue;
        }
        let times = if says.ends_with("protocol") { 2 } else { 1 };
        bridge.wait(&format!("{method} {status}: {says}"), SOON, |b| {
            b.log().iter().filter(|l| l.contains(says) && l.contains("WARN")).count() >= times
        });
        if method == "queryEvents" {
            // It goes on when the answers are right again.
            ozone.answer_raw(method, None);
            bridge.wait("the event", SOON, |b| b.lines().len() == 1);
        }
        assert_eq!(bridge.get("/healthz").map(|(status, _)| status), Some(200), "{method} {status}");
        assert_eq!(bridge.stop().0, Some(0), "{method} {status}");
    }
}

fn did(n: usize) -> String {
    format!("did:plc:{}", "abcdefgh".chars().nth(n).expect("few").to_string().repeat(24))
}

#[test]
fn every_answer_of_a_directory_may_be_nested() {
    let directory = Directory::start().expect("a directory");
    directory.make(|did| Some((format!("{}.example", &did[8..12]), "https://pds.example".into())));
    let ok = |body: String| Some(Reply::new(200, body));
    let created = r#"[{"createdAt":"2023-01-01T00:00:00.000Z","#;
    // What is larger than a document may be is not looked at: nested as deep as fits.
    directory.answer_about(Kind::Document, &did(0), ok(deep(&format!(r#""id":"{}","#, did(0)), 8_000)));
    directory.answer_about(Kind::AuditLog, &did(1), ok(format!("{created}{}", &deep("", LEVELS)[1..])));
    directory.answer_about(Kind::Profile, &did(2), ok(deep(&format!(r#""did":"{}","#, did(2)), 8_000)));
    directory.answer_about(Kind::Handle, "dddd.example", ok(deep(&format!(r#""did":"{}","#, did(3)), 2_000)));
    let web = format!("did:web:localhost%3A{}", directory.port());
    directory.answer_about(Kind::Web, &web, ok(deep(&format!(r#""id":"{web}","#), 8_000)));
    let relay = Relay::start(RelayConfig::script(vec![])).expect("a relay");
    let (url, hosts) = (relay.url(), directory.url());
    let args = ["firehose", "relay", "--relay-host", &url, "--plc-host", &hosts, "--api-host", &hosts];
    let bridge = Bridge::start(&[&args[..], &["--metadata-timeout", "2s", "--allow-private-did-web"]].concat());
    for (i, who) in (0..5).map(did).chain([web]).enumerate() {
        relay.push(&identity_frame(i as u64 + 1, &who, A_TIME, None));
        bridge.wait(&format!("the event of {who}"), SOON, |b| b.lines().len() == i + 1);
    }
    // Several accounts at once are one request for their profiles.
    directory.answer(Kind::Profiles, ok(deep(r#""profiles":[],"#, LEVELS)));
    for seq in 7..60 {
        relay.push(&identity_frame(seq, &format!("did:plc:{seq:x>24}"), A_TIME, None));
    }
    bridge.wait("all events", SOON, |b| b.lines().len() == 59);
    let lines = bridge.lines();
    for (i, part) in
        ["\"didDocument\":", "\"didCreatedAt\":", "\"profile\":", "\"pdsHost\":\"https://pds.example\",\"handle\":"]
            .iter()
            .enumerate()
    {
        assert!(!lines[i].contains(part), "{part} {:.999}", lines[i]);
        assert!(lines[4].contains(part), "another account has {part} {:.999}", lines[4]);
    }
    assert!(!lines[5].contains("didDocument"), "{:.300}", lines[5]);
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn damaged_files_may_be_nested() {
    let relay = Relay::start(RelayConfig::script(vec![
        Commit::new("did:plc:a", "3kaaaaaaaaaa2").op(Op::delete("a.b.c/1", None)).frame(1),
    ]))
    .expect("a relay");
    let hosts = Directory::start().expect("a directory");
    hosts.make(|_| Some(("a.example".into(), "https://pds.example".into())));
    let (url, plc, state) = (relay.url(), hosts.url(), folder("state"));
    let state_dir = state.to_str().expect("UTF-8");
    let args = ["firehose", "relay", "--relay-host", &url, "--state-dir", state_dir, "--cursor=oldest"];
    let with = [&args[..], &["--plc-host", &plc, "--metadata-snapshot"]].concat();
    let bridge = Bridge::start(&with);
    bridge.wait_delivered(1, SOON);
    assert_eq!(bridge.stop().0, Some(0));
    let file = |what: &str| {
        let entries = std::fs::read_dir(Path::new(state_dir)).expect("the folder").map(|e| e.expect("an entry").path());
        let mut found = entries.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().ends_with(what)));
        found.next().unwrap_or_else(|| panic!("no {what} in {state_dir}"))
    };
    let snapshot = zstd::encode_all(deep(r#""kind":"from","did":"","until":0,"#, LEVELS).as_bytes(), 3).expect("zstd");
    std::fs::write(file("metadata.jsonl.zst"), snapshot).expect("written");
    let bridge = Bridge::start(&with);
    bridge.wait("the snapshot is passed over", SOON, |b| {
        b.log().iter().any(|l| l.contains("WARN") && l.contains("metadata"))
    });
    assert_eq!(bridge.stop().0, Some(0));
    std::fs::write(file(".json"), deep(r#""version":1,"host":"h","output":"o","saved_at":"","seq":1,"#, LEVELS))
        .expect("written");
    let (code, _, err) = run(&args, &[]);
    assert!(code == Some(1) && err.contains("nested deeper") && err.contains("delete it"), "{code:?} {err}");
}

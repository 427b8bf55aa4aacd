//! Metadata in the Osprey envelope and in Tap's events, and what the Go program wrote for the same accounts.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use atkafka_fixtures::directory::{CREATED_AT, Directory, Kind, audit_log, document, profile};
use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::A_TIME;
use atkafka_fixtures::relay::RelayConfig;
use atkafka_fixtures::tap::{Tap, TapConfig, TapEvent};
use sonic_rs::{JsonValueTrait, Value};

use crate::golden;
use crate::support::*;
use crate::{AGE, PDS, SOON, Stage, did, events, everybody, handle, parts, relay, start, stop, text};

/// The paths and types of `osprey.md`, section 2.
#[test]
fn osprey_finds_every_feature_with_its_type() {
    let stage = Stage::new();
    let who = did(1);
    stage.directory.set_profile(&who, Some(&profile(&who, &handle(&who), "Ada")));
    stage.post(&who);
    stage.unknown(&did(2));
    stage.post(&did(2));
    let bridge = stage.start(&["API", "--osprey-compatible"]);
    let lines = events(&bridge, 2);
    let data = &lines[0]["data"]["data"];
    let metadata = &data["eventMetadata"];
    assert_eq!(metadata["handle"].as_str(), Some(handle(&who).as_str()));
    assert_eq!(metadata["pdsHost"].as_str(), Some(PDS));
    assert_eq!(metadata["didCreatedAt"].as_str(), Some(CREATED_AT));
    assert!(metadata["accountAge"].is_u64() && metadata["accountAge"].as_u64() == Some(AGE), "an integer: {metadata}");
    for (name, number) in [("followersCount", 12), ("followsCount", 34), ("postsCount", 56)] {
        assert_eq!(metadata["profile"][name].as_u64(), Some(number), "{metadata}");
    }
    for name in ["displayName", "description", "avatar"] {
        assert!(metadata["profile"][name].is_str(), "{name}: {metadata}");
    }
    assert!(metadata["didDocument"].is_object(), "{metadata}");
    assert_eq!(data["operation"]["action"].as_str(), Some("create"));
    assert_eq!(lines[0]["data"]["action_name"].as_str(), Some("operation#create"));
    assert!(lines[1]["data"]["data"]["eventMetadata"].is_null(), "{}", lines[1]);
    stop(bridge);
}

#[test]
fn tap_events_have_it_too_and_its_identity_events_purge() {
    let directory = everybody();
    let tap = Tap::start(TapConfig::default()).expect("a tap");
    let who = did(1);
    let post = |live| {
        let tail = r#""rev":"3jzfcijpj2z2a","collection":"app.bsky.feed.post","rkey":"k","action":"delete""#;
        TapEvent::record(&did(1), live, tail)
    };
    let (tap_url, plc) = (tap.url(), directory.url());
    let args = ["firehose", "tap", "--tap-host", &tap_url, "--plc-host", &plc, "--api-host", &plc];
    let bridge = Bridge::start(&args);
    tap.push([post(false)]);
    let first = &events(&bridge, 1)[0];
    assert_eq!(parts(first), ["accountAge", "didCreatedAt", "didDocument", "handle", "pdsHost", "profile"]);
    // 2023-06-30T15:03:01.887Z, which its rev says.
    assert_eq!(first["eventMetadata"]["accountAge"].as_u64(), Some(5_194_981), "at the event's time: {first}");
    let line = &bridge.lines()[0];
    assert!(line.contains(r#","live":false,"eventMetadata":{"didDocument":{"#), "{line}");
    directory.set_document(&who, &document(&who, "new.example", "https://new.example"));
    directory.set_handle("new.example", Some(&who));
    tap.push([TapEvent::identity(&who, r#""handle":"new.example","is_active":false,"status":"takendown""#)]);
    tap.push([post(true)]);
    let all = events(&bridge, 4);
    for (event, kind) in all[1..].iter().zip(["identity", "account", "operation"]) {
        assert!(event.get(kind).is_some(), "{kind}: {event}");
        assert_eq!(text(event, "pdsHost"), Some("https://new.example"), "{event}");
        assert_eq!(text(event, "handle"), Some("new.example"), "{event}");
    }
    bridge.wait("an empty outbox", SOON, |_| tap.outbox() == 0);
    assert_eq!((directory.asked(Kind::Document, &who), directory.asked(Kind::AuditLog, &who)), (2, 1));
    stop(bridge);
}

/// The sets of `golden/README.md` with what the Go program found about their accounts.
#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn enriched_events_equal_what_the_go_program_wrote() {
    let Some(broker) = broker(KAFKA) else { return };
    let documents = shared("data/jetstream-corpus/did_docs.json.zst");
    let documents = frames::read_bytes(documents).expect("documents");
    let documents: HashMap<String, sonic_rs::OwnedLazyValue> = sonic_rs::from_slice(&documents).expect("an object");
    let mut report = Vec::new();
    for (name, file, options) in golden::SETS {
        let path = shared(file);
        let tsv = shared(&format!("golden/{name}.tsv"));
        let list = golden::frames_of(name, &path);
        let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
        let golden = golden::records(name, &tsv);
        let directory = Directory::start().expect("a directory");
        let osprey = name.ends_with("osprey");
        let of = |v: &Value| if osprey { v["data"]["data"].clone() } else { v.clone() };
        for (who, value) in &golden {
            let found = &of(value)["eventMetadata"]["didDocument"];
            match documents.get(who) {
                Some(document) => directory.set_document(who, &sonic_rs::to_string(document).expect("JSON")),
                None if found["id"].as_str() == Some(who) => directory.set_document(who, &found.to_string()),
                None => continue,
            }
            directory.set_log(who, &audit_log(who, &[CREATED_AT, A_TIME]));
        }
        let (relay, topic, state) = (relay(RelayConfig::script(list)), unique(name), folder("state"));
        let state = state.to_string_lossy();
        let to = ["--bootstrap-servers", &broker, "--output-topic", &topic, "--state-dir", &state];
        let bridge = start(&relay, &directory, &[&to[..], &["--metadata-timeout", "30s"], options].concat());
        bridge.wait_delivered(last, SOON);
        stop(bridge);
        let arrived = consume(&broker, &topic);
        let problems = golden::differences(name, &golden, true, &arrived);
        let (mut with, mut handles) = (0, 0);
        for event in arrived.iter().map(|a| of(&a.json())) {
            if event["eventMetadata"].is_null() {
                continue;
            }
            with += 1;
            // Nobody verified it.
            let named =
                event["eventMetadata"]["didDocument"]["alsoKnownAs"][0].as_str().and_then(|h| h.strip_prefix("at://"));
            assert_eq!(text(&event, "handle"), named, "{name}: {event}");
            handles += usize::from(named.is_some());
        }
        println!(
            "{name}: {} golden, {} ours, {with} with metadata, {handles} handles, {} differences",
            golden.len(),
            arrived.len(),
            problems.len()
        );
        assert!(with >= 2 || name == "indigo42", "{name}");
        report.extend(problems.into_iter().map(|p| format!("{name}: {p}")));
        report.extend(by_golden_diff(name, &tsv, &arrived).into_iter().map(|p| format!("{name}: golden_diff.py: {p}")));
    }
    assert!(report.is_empty(), "{} differences:\n{}", report.len(), report[..report.len().min(40)].join("\n"));
}

/// What `golden_diff.py --enriched` finds. Where the Go program found nothing of an account it wrote zero values in some
/// events; the script is given the golden file with null in their place, which is what ours has.
fn by_golden_diff(name: &str, tsv: &Path, arrived: &[Arrived]) -> Option<String> {
    let script = shared("check/golden_diff.py");
    // It compares repeated and falling seqs as well, which ours passes over.
    if name == "scen-seq_ordering" {
        return None;
    }
    let dir = folder("golden");
    let (golden, ours) = (dir.join("golden.tsv"), dir.join("ours.tsv"));
    let text = std::fs::read_to_string(tsv).expect("the golden file");
    let nothing = r#""eventMetadata":{"didDocument":{"id":""},"accountAge":-1,"profile":null},"#;
    std::fs::write(&golden, text.replace(nothing, r#""eventMetadata":null,"#)).expect("written");
    let line =
        |a: &Arrived| format!("{}\t{}\n", a.key.as_deref().unwrap_or_default(), String::from_utf8_lossy(&a.value));
    std::fs::write(&ours, arrived.iter().map(line).collect::<String>()).expect("written");
    let mut command = Command::new("python3");
    command.arg(script).args([&golden, &ours]).arg("--enriched").args(name.ends_with("osprey").then_some("--osprey"));
    let Ok(out) = command.stdin(Stdio::null()).output() else {
        println!("skipped: golden_diff.py, there is no python3");
        return None;
    };
    let said = String::from_utf8_lossy(&out.stdout).trim().to_string();
    println!("golden_diff.py {name} --enriched: {}", said.lines().last().unwrap_or_default());
    (!out.status.success()).then_some(said)
}

//! Against foreign expectations: what the Go program wrote for recorded genuine frames, and what production Jetstream
//! made of the same events. Both are in `../shared`, which is no part of the project: without it these tests skip.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::{JsonContainerTrait, JsonType, JsonValueTrait, Value};
use support::*;

const SOON: Duration = Duration::from_secs(60);
/// The sets of `golden/README.md`, each with its frames and its options.
const SETS: [(&str, &str, &[&str]); 10] = [
    ("corpus-plain", "data/jetstream-corpus/frames.bin.zst", &[]),
    ("corpus-osprey", "data/jetstream-corpus/frames.bin.zst", &["--osprey-compatible"]),
    ("indigo42", "golden/frames/indigo-commits.bin", &[]),
    ("scen-account_lifecycle", "golden/frames/scen-account_lifecycle.bin", &[]),
    ("scen-deactivation", "golden/frames/scen-deactivation.bin", &[]),
    ("scen-legacy", "golden/frames/scen-legacy.bin", &[]),
    ("scen-post_lifecycle", "golden/frames/scen-post_lifecycle.bin", &[]),
    ("scen-post_lifecycle_legacy", "golden/frames/scen-post_lifecycle_legacy.bin", &[]),
    ("scen-rev_ordering", "golden/frames/scen-rev_ordering.bin", &[]),
    ("scen-seq_ordering", "golden/frames/scen-seq_ordering.bin", &[]),
];
/// The seqs that the frames of scen-legacy had when the Go program was captured.
const LEGACY_SEQ: u64 = 31_527_015_322;

/// The frames of a set, as they were captured.
fn frames_of(name: &str, file: &Path) -> Vec<Vec<u8>> {
    let list = frames::read(file).expect("frames");
    match name {
        "scen-legacy" => list.iter().zip(LEGACY_SEQ..).map(|(frame, seq)| frames::with_seq(frame, seq)).collect(),
        _ => list,
    }
}

fn parse(line: &str) -> Value {
    sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// Key and value of each record of a golden file.
fn golden(name: &str, file: &Path) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(file).expect("the golden file");
    let mut rows: Vec<(String, Value)> = text
        .lines()
        .map(|line| line.split_once('\t').map(|(key, value)| (key.to_string(), parse(value))).expect("key TAB value"))
        .collect();
    if name == "scen-seq_ordering" {
        // The second frame repeats the first one's seq, the third falls to 5: skipped and counted.
        rows.retain(|(_, v)| v.get("account").is_none());
        let commits: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].1.get("operation").is_some()).collect();
        assert_eq!(commits.len(), 2, "one of the two commits is of seq 5");
        rows.remove(commits[0]);
    }
    rows
}

/// What names an event, whoever wrote it.
fn identity(event: &Value) -> String {
    let text = |v: &Value, key: &str| v.get(key).and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default();
    let (did, time) = (text(event, "did"), text(event, "timestamp"));
    if let Some(op) = event.get("operation") {
        return format!("op {did} {} {} {} {time}", text(op, "path"), text(op, "action"), text(op, "cid"));
    }
    for kind in ["account", "identity"] {
        if let Some(body) = event.get(kind) {
            return format!("{kind} {did} {:?} {time}", body.get("seq").as_u64());
        }
    }
    let kind = ["sync", "info"].into_iter().find(|k| event.get(*k).is_some()).unwrap_or("?");
    format!("{kind} {did} {:?} {time}", event.get("seq").as_u64())
}

fn number(v: &Value) -> String {
    v.to_string()
}

/// Notes where `ours` lacks what `golden` has, with the differences that golden/README.md allows.
fn compare(golden: &Value, ours: &Value, at: &str, problems: &mut Vec<String>) {
    match golden.get_type() {
        JsonType::Object if ours.is_object() => {
            for (key, want) in golden.as_object().expect("an object") {
                let there = format!("{at}.{key}");
                let got = ours.get(key);
                let allowed = match key {
                    // Nothing was asked for.
                    "eventMetadata" => got.is_none(),
                    // A delete has none.
                    "record" => want.is_null() && got.is_none(),
                    // An #identity without a handle.
                    "handle" => want.as_str() == Some("") && got.is_none(),
                    // They differ in each run.
                    "send_time" | "action_id" => got.is_some(),
                    _ => false,
                };
                match got {
                    _ if allowed => {}
                    Some(got) => compare(want, got, &there, problems),
                    None => problems.push(format!("{there}: missing")),
                }
            }
        }
        JsonType::Array if ours.is_array() => {
            let (a, b) = (golden.as_array().expect("an array"), ours.as_array().expect("an array"));
            if a.len() != b.len() {
                problems.push(format!("{at}: {} entries became {}", a.len(), b.len()));
            }
            for (i, (a, b)) in a.iter().zip(b.iter()).enumerate() {
                compare(a, b, &format!("{at}[{i}]"), problems);
            }
        }
        // As text: an integer stays one, and keeps every digit.
        JsonType::Number if ours.is_number() && number(golden) == number(ours) => {}
        JsonType::String | JsonType::Boolean | JsonType::Null if golden == ours => {}
        _ => problems.push(format!("{at}: {golden} became {ours}")),
    }
}

/// All differences between the golden set and what arrived.
fn differences(name: &str, golden: &[(String, Value)], arrived: &[Arrived]) -> Vec<String> {
    let osprey = name.ends_with("osprey");
    let event = |v: &Value| if osprey { v["data"]["data"].clone() } else { v.clone() };
    let mut ours: HashMap<String, Vec<(Option<String>, Value)>> = HashMap::new();
    for a in arrived {
        let value = a.json();
        ours.entry(identity(&event(&value))).or_default().push((a.key.clone(), value));
    }
    let mut problems = Vec::new();
    for (key, value) in golden {
        let id = identity(&event(value));
        match ours.get_mut(&id).and_then(Vec::pop) {
            None => problems.push(format!("{id}: missing")),
            Some((our_key, our_value)) => {
                if our_key.as_ref() != Some(key) {
                    problems.push(format!("{id}: key {our_key:?}"));
                }
                compare(value, &our_value, &id, &mut problems);
            }
        }
    }
    for (id, rest) in ours {
        // The Go program writes no #sync.
        if !rest.is_empty() && !id.starts_with("sync ") {
            problems.push(format!("{id}: {} more than in the golden", rest.len()));
        }
    }
    problems
}

/// Every set through the binary into that broker.
fn equals_golden(broker: &str, client: &[&str]) {
    let mut report = Vec::new();
    for (name, file, options) in SETS {
        let Some(path) = shared(file) else { return };
        let Some(tsv) = shared(&format!("golden/{name}.tsv")) else { return };
        let list = frames_of(name, &path);
        let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
        let golden = golden(name, &tsv);
        let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
        let (url, topic, state) = (relay.url(), unique(name), folder("state"));
        let state = state.to_string_lossy();
        let mut args = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker];
        args.extend(["--output-topic", &topic, "--state-dir", &state]);
        args.extend(options);
        args.extend(client);
        let bridge = Bridge::start(&args);
        bridge.wait_delivered(last, SOON);
        let repeats = bridge.metric("atkafka_repeated_frames");
        assert_eq!(repeats, if name == "scen-seq_ordering" { 2.0 } else { 0.0 }, "{name}");
        assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0, "{name}: {:?}", bridge.log());
        let (code, log) = bridge.stop();
        assert_eq!(code, Some(0), "{name}: {log:?}");
        let arrived = consume(broker, &topic);
        let problems = differences(name, &golden, &arrived);
        println!("{name}: {} golden, {} ours, {} differences", golden.len(), arrived.len(), problems.len());
        report.extend(problems.into_iter().map(|p| format!("{name}: {p}")));
    }
    assert!(report.is_empty(), "{} differences:\n{}", report.len(), report[..report.len().min(40)].join("\n"));
}

#[test]
fn equals_what_the_go_program_wrote_by_librdkafka_into_kafka_4() {
    let Some(broker) = broker(KAFKA) else { return };
    equals_golden(&broker, &[]);
}

#[test]
fn equals_what_the_go_program_wrote_by_the_kafka_crate_into_kafka_3() {
    let Some(broker) = broker(KAFKA_39) else { return };
    equals_golden(&broker, &["--kafka-client", "kafka"]);
}

#[test]
fn the_comparison_finds_differences() {
    let golden = [(
        "k".to_string(),
        parse(
            r#"{"did":"k","timestamp":"t","operation":{"path":"a/b","action":"create","cid":"c","record":{"n":1,"l":[1,2]}}}"#,
        ),
    )];
    let arrived = |json: &str| {
        vec![Arrived {
            partition: 0,
            key: Some("k".into()),
            value: json.as_bytes().to_vec(),
            time_ms: None,
            headers: vec![],
        }]
    };
    let same = r#"{"timestamp":"t","did":"k","seq":4,"operation":{"path":"a/b","action":"create","cid":"c","record":{"l":[1,2],"n":1}}}"#;
    assert_eq!(differences("x", &golden, &arrived(same)), Vec::<String>::new());
    for (from, to) in [
        (r#""n":1"#, r#""n":2"#),
        (r#""n":1"#, r#""n":"1""#),
        (r#""n":1"#, r#""n":true"#),
        (r#""n":1"#, r#""m":1"#),
        ("[1,2]", "[1]"),
        ("[1,2]", "[2,1]"),
        (r#""cid":"c""#, r#""cid":"d""#),
        (r#""path":"a/b""#, r#""path":"a/c""#),
        (r#""did":"k""#, r#""did":"j""#),
    ] {
        assert!(!differences("x", &golden, &arrived(&same.replace(from, to))).is_empty(), "{from} as {to}");
    }
    assert!(!differences("x", &golden, &[]).is_empty(), "a missing record");
    let twice = [arrived(same), arrived(same)].concat();
    assert!(!differences("x", &golden, &twice).is_empty(), "a repeated record");
}

#[test]
fn every_op_of_the_corpus_equals_production_jetstream() {
    let Some(expected) = shared("data/jetstream-corpus/expected_v1.jsonl") else { return };
    let Some(file) = shared("data/jetstream-corpus/frames.bin.zst") else { return };
    let list = frames::read(file).expect("frames");
    let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let mut bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait_delivered(last, SOON);
    bridge.signal("TERM");
    assert_eq!(bridge.end(SOON).code(), Some(0));
    std::thread::sleep(Duration::from_millis(100));
    let text = |v: &Value, key: &str| v.get(key).and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default();
    let mut ours: HashMap<[String; 5], Value> = HashMap::new();
    for event in bridge.lines().iter().map(|l| parse(l)) {
        let Some(op) = event.get("operation") else { continue };
        let rev = text(&event, "rev");
        let name = [text(&event, "did"), rev, text(op, "collection"), text(op, "rkey"), text(op, "action")];
        assert!(ours.insert(name, op.clone()).is_none(), "each op once");
    }
    let (mut compared, mut problems) = (0, Vec::new());
    for event in std::fs::read_to_string(expected).expect("expected_v1.jsonl").lines().map(parse) {
        let Some(commit) = event.get("commit") else { continue };
        let rev = text(commit, "rev");
        let name =
            [text(&event, "did"), rev, text(commit, "collection"), text(commit, "rkey"), text(commit, "operation")];
        let at = name.join(" ");
        let Some(op) = ours.remove(&name) else {
            problems.push(format!("{at}: missing"));
            continue;
        };
        if text(&op, "cid") != text(commit, "cid") {
            problems.push(format!("{at}: CID"));
        }
        match (commit.get("record"), op.get("record")) {
            (None, None) => {}
            (Some(want), Some(got)) => {
                // Both ways: nothing lost, nothing invented.
                compare(want, got, &at, &mut problems);
                compare(got, want, &at, &mut problems);
            }
            (want, got) => problems.push(format!("{at}: {want:?} became {got:?}")),
        }
        compared += 1;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!((compared, ours.len()), (150, 0), "all of them, and no other");
}

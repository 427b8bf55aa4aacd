//! Against foreign expectations: what the Go program wrote for recorded genuine frames, and what production Jetstream made of
//! the same events. Both are in `../shared`, which is no part of the project: without it these tests are ignored. What
//! Bluesky's own consumer made of simulated frames is in `fixtures/`, and compared everywhere.

#[path = "support/golden.rs"]
mod golden;
mod support;

use std::collections::HashMap;
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use golden::{SETS, compare, differences, frames_of, parse};
use sonic_rs::{JsonValueTrait, Value};
use support::*;

const SOON: Duration = Duration::from_secs(60);

/// Every set through the binary into that broker.
fn equals_golden(broker: &str, client: &[&str]) {
    let mut report = Vec::new();
    for (name, file, options) in SETS {
        let path = shared(file);
        let tsv = shared(&format!("golden/{name}.tsv"));
        let list = frames_of(name, &path);
        let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
        let golden = golden::records(name, &tsv);
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
        let problems = differences(name, &golden, false, &arrived);
        println!("{name}: {} golden, {} ours, {} differences", golden.len(), arrived.len(), problems.len());
        report.extend(problems.into_iter().map(|p| format!("{name}: {p}")));
    }
    assert!(report.is_empty(), "{} differences:\n{}", report.len(), report[..report.len().min(40)].join("\n"));
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn equals_what_the_go_program_wrote_by_librdkafka_into_kafka_4() {
    let Some(broker) = broker(KAFKA) else { return };
    equals_golden(&broker, &[]);
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
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
    assert_eq!(differences("x", &golden, false, &arrived(same)), Vec::<String>::new());
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
        assert!(!differences("x", &golden, false, &arrived(&same.replace(from, to))).is_empty(), "{from} as {to}");
    }
    assert!(!differences("x", &golden, false, &[]).is_empty(), "a missing record");
    let twice = [arrived(same), arrived(same)].concat();
    assert!(!differences("x", &golden, false, &twice).is_empty(), "a repeated record");
}

/// An op by DID, rev, collection, rkey and action.
type Ops = HashMap<[String; 5], Value>;

fn text(v: &Value, key: &str) -> String {
    v.get(key).and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
}

/// What the binary writes of each op in these frames, as lines.
fn ours(list: Vec<Vec<u8>>) -> Ops {
    let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let mut bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait_delivered(last, SOON);
    bridge.signal("TERM");
    assert_eq!(bridge.end(SOON).code(), Some(0));
    std::thread::sleep(Duration::from_millis(100));
    let mut ops = Ops::new();
    for event in bridge.lines().iter().map(|l| parse(l)) {
        let Some(op) = event.get("operation") else { continue };
        let rev = text(&event, "rev");
        let name = [text(&event, "did"), rev, text(op, "collection"), text(op, "rkey"), text(op, "action")];
        assert!(ops.insert(name, op.clone()).is_none(), "each op once");
    }
    ops
}

/// Takes the op of that name out of ours, and notes where it is not what is expected: its CID, and its record both ways,
/// nothing lost and nothing invented.
fn take(ours: &mut Ops, name: [String; 5], cid: &str, record: Option<&Value>, problems: &mut Vec<String>) {
    let at = name.join(" ");
    let Some(op) = ours.remove(&name) else {
        problems.push(format!("{at}: missing"));
        return;
    };
    if text(&op, "cid") != cid {
        problems.push(format!("{at}: CID"));
    }
    match (record, op.get("record")) {
        (None, None) => {}
        (Some(want), Some(got)) => {
            compare(want, got, false, &at, problems);
            compare(got, want, false, &at, problems);
        }
        (want, got) => problems.push(format!("{at}: {want:?} became {got:?}")),
    }
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn every_op_of_the_corpus_equals_production_jetstream() {
    let expected = shared("data/jetstream-corpus/expected_v1.jsonl");
    let mut ours = ours(frames::read(shared("data/jetstream-corpus/frames.bin.zst")).expect("frames"));
    let (mut compared, mut problems) = (0, Vec::new());
    for event in std::fs::read_to_string(expected).expect("expected_v1.jsonl").lines().map(parse) {
        let Some(commit) = event.get("commit") else { continue };
        let name = ["rev", "collection", "rkey", "operation"].map(|key| text(commit, key));
        let [rev, collection, rkey, action] = name;
        let name = [text(&event, "did"), rev, collection, rkey, action];
        take(&mut ours, name, &text(commit, "cid"), commit.get("record"), &mut problems);
        compared += 1;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!((compared, ours.len()), (150, 0), "all of them, and no other");
}

/// The same in every clone: frames of the simulated network, and what Bluesky's own consumer, npm's `@atproto/sync`, made of
/// them (`scripts/check/golden.mjs`).
#[test]
fn every_op_of_the_fixture_equals_blueskys_own_consumer() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let expected = frames::read_bytes(fixtures.join("network.sync.jsonl.zst")).expect("the expectation");
    let mut ours = ours(frames::read(fixtures.join("network.bin.zst")).expect("frames"));
    let (mut compared, mut problems) = (0, Vec::new());
    for event in String::from_utf8(expected).expect("UTF-8").lines().map(parse) {
        if event.get("collection").is_none() {
            continue;
        }
        let name = ["did", "rev", "collection", "rkey", "event"].map(|key| text(&event, key));
        take(&mut ours, name, &text(&event, "cid"), event.get("record"), &mut problems);
        compared += 1;
    }
    assert!(problems.is_empty(), "{} differences:\n{}", problems.len(), problems.join("\n"));
    // It refuses six frames with an empty `since`, as relays send it, and one with an integer over 2^53.
    assert_eq!((compared, ours.len()), (1_569, 7));
}

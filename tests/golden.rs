//! Against foreign expectations: what the Go program wrote for recorded genuine frames, and what production Jetstream
//! made of the same events. Both are in `../shared`, which is no part of the project: without it these tests skip.

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
        let Some(path) = shared(file) else { return };
        let Some(tsv) = shared(&format!("golden/{name}.tsv")) else { return };
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
                compare(want, got, false, &at, &mut problems);
                compare(got, want, false, &at, &mut problems);
            }
            (want, got) => problems.push(format!("{at}: {want:?} became {got:?}")),
        }
        compared += 1;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!((compared, ours.len()), (150, 0), "all of them, and no other");
}

//! The golden files of `../shared`, and how what arrived differs from them.
#![allow(dead_code)] // each test file uses a part of it

use std::collections::HashMap;
use std::path::Path;

use atkafka_fixtures::frames;
use sonic_rs::{JsonContainerTrait, JsonType, JsonValueTrait, Value};

use crate::support::Arrived;

/// The sets of `golden/README.md`, each with its frames and its options.
pub const SETS: [(&str, &str, &[&str]); 10] = [
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
pub fn frames_of(name: &str, file: &Path) -> Vec<Vec<u8>> {
    let list = frames::read(file).expect("frames");
    match name {
        "scen-legacy" => list.iter().zip(LEGACY_SEQ..).map(|(frame, seq)| frames::with_seq(frame, seq)).collect(),
        _ => list,
    }
}

pub fn parse(line: &str) -> Value {
    sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// Key and value of each record of a golden file.
pub fn records(name: &str, file: &Path) -> Vec<(String, Value)> {
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
pub fn identity(event: &Value) -> String {
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
pub fn compare(golden: &Value, ours: &Value, enriched: bool, at: &str, problems: &mut Vec<String>) {
    match golden.get_type() {
        JsonType::Object if ours.is_object() => {
            let metadata = at.ends_with(".eventMetadata");
            for (key, want) in golden.as_object().expect("an object") {
                let there = format!("{at}.{key}");
                let got = ours.get(key);
                let allowed = match key {
                    // Nothing was asked for.
                    "eventMetadata" if !enriched => got.is_none(),
                    // Go's zero values stand for an account that it could not find.
                    "eventMetadata" => {
                        got.is_some_and(|got| got.is_null())
                            && (want.is_null() || want["didDocument"]["id"].as_str() == Some(""))
                    }
                    // Neither could be asked for when it was captured.
                    "handle" | "profile" if metadata => true,
                    // By the clock there, at the event's time here.
                    "accountAge" if metadata => got.is_some_and(|age| age.is_u64()),
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
                    Some(got) => compare(want, got, enriched, &there, problems),
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
                compare(a, b, enriched, &format!("{at}[{i}]"), problems);
            }
        }
        // As text: an integer stays one, and keeps every digit.
        JsonType::Number if ours.is_number() && number(golden) == number(ours) => {}
        JsonType::String | JsonType::Boolean | JsonType::Null if golden == ours => {}
        _ => problems.push(format!("{at}: {golden} became {ours}")),
    }
}

/// All differences between the golden set and what arrived.
pub fn differences(name: &str, golden: &[(String, Value)], enriched: bool, arrived: &[Arrived]) -> Vec<String> {
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
                compare(value, &our_value, enriched, &id, &mut problems);
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

//! `cursor show|set|delete` on state files. Those in Kafka: `tests/exactly_once/cursor_tool.rs`.

use std::path::Path;
use std::time::Duration;

use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use crate::support::*;

const SOON: Duration = Duration::from_secs(60);
const FRAMES: u64 = 50;

fn relay() -> Relay {
    let frames: Vec<_> =
        (1..=FRAMES).map(|seq| identity_frame(seq, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", A_TIME, None)).collect();
    Relay::start(RelayConfig { from_start: false, ..RelayConfig::script(frames) }).expect("a relay")
}

/// atkafka with its position in `state`, into standard output.
fn start(relay: &Relay, state: &str) -> Bridge {
    Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest", "--state-dir", state])
}

fn cursor(args: &[&str], state: &str) -> (Option<i32>, String, String) {
    run(&[&["cursor"], args, &["--state-dir", state]].concat(), &[])
}

fn shown(state: &str, more: &[&str]) -> Vec<Value> {
    let (code, out, err) = cursor(&[&["show", "--json"], more].concat(), state);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    out.lines().map(|line| sonic_rs::from_str(line).expect("JSON")).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name().into_string();
    let mut names: Vec<String> = entries.map(|entry| name(entry).expect("UTF-8")).collect();
    names.retain(|name| !name.ends_with(".lock"));
    names.sort();
    names
}

#[test]
fn positions_in_files_are_shown_set_and_deleted_and_no_instance_that_runs_is_touched() {
    let (relay, dir) = (relay(), folder("cursor"));
    let state = dir.to_string_lossy().into_owned();
    let position = format!("relay/127.0.0.1:{}", relay.port());
    let (code, out, _) = cursor(&["show"], &state);
    assert_eq!((code, out), (Some(0), format!("--state-dir {state}: no position is saved\n")));

    let bridge = start(&relay, &state);
    bridge.wait_delivered(FRAMES, SOON);
    bridge.wait("a save", SOON, |_| shown(&state, &[]).first().is_some_and(|p| p["seq"].as_u64() == Some(FRAMES)));
    assert_eq!(shown(&state, &[])[0]["in_use"].as_bool(), Some(true));
    for change in [&["set", "--to", "10"][..], &["delete"]] {
        let (code, out, err) = cursor(change, &state);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("is in use: an atkafka that runs has it; stop that first"), "{err}");
    }
    assert_eq!(bridge.stop().0, Some(0));

    let all = shown(&state, &[]);
    let object = all[0].as_object().expect("an object");
    let text = |name: &str| object.get(&name).and_then(|value| value.as_str()).unwrap_or_default().to_string();
    assert_eq!((all.len(), object.get(&"seq").and_then(|seq| seq.as_u64())), (1, Some(FRAMES)));
    assert_eq!((text("source"), text("output"), text("instance")), ("relay".into(), "stdout".into(), "".into()));
    assert!(position.ends_with(&text("host")) && text("path").starts_with(&state), "{object:?}");
    assert!(text("time").ends_with('Z') && text("saved_at").ends_with('Z'), "{object:?}");
    let (_, table, _) = cursor(&["show"], &state);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("POSITION") && !lines[0].contains("IN USE"), "{table}");
    assert!(lines[1].starts_with(&position) && lines[1].ends_with(" ago") && lines[1].contains(" 50 "), "{table}");

    let (code, out, err) = cursor(&["set", "--to", "40"], &state);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].contains(": before: seq 50, events up to ") && lines[1].contains(": now: seq 40, saved "),
        "{out}"
    );
    let bridge = start(&relay, &state);
    bridge.wait_delivered(FRAMES, SOON);
    assert!(bridge.log_contains("going on behind the saved seq 40"), "{:?}", bridge.log());
    let lines = bridge.lines();
    assert_eq!(lines.len(), 10, "{lines:?}");
    assert_eq!(bridge.stop().0, Some(0));

    let (code, out, err) = cursor(&["delete", "--position", &position], &state);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.contains("before: seq 50") && out.contains("now: none; the next start begins where --cursor says"),
        "{out}"
    );
    assert!(files(&dir).is_empty() && shown(&state, &[]).is_empty());

    // One that is not there yet.
    let (code, _, err) = cursor(&["set", "--to", "45"], &state);
    assert!(code == Some(1) && err.contains("a new one needs --position SOURCE/HOST and --output-topic"), "{err}");
    let new = ["set", "--to", "45", "--position", &position, "--output-topic", "stdout"];
    let (code, out, err) = cursor(&new, &state);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("before: none") && out.contains("now: seq 45"), "{out}");
    let bridge = start(&relay, &state);
    bridge.wait_delivered(FRAMES, SOON);
    assert_eq!(bridge.lines().len(), 5);
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn of_several_positions_one_is_chosen_and_a_damaged_one_can_be_deleted() {
    let dir = folder("cursor");
    let state = dir.to_string_lossy().into_owned();
    let set = |position: &str, output: &str, to: &str| {
        cursor(&["set", "--position", position, "--output-topic", output, "--to", to], &state)
    };
    for (position, output, to) in [
        ("relay/a.example", "events", "7"),
        ("relay/a.example", "others", "8"),
        ("jetstream/b.example", "events", "2026-01-01T00:00:00Z"),
        ("ozone/pds.example+did:plc:x", "events", "2h ago"),
    ] {
        assert_eq!(set(position, output, to).0, Some(0), "{position}");
    }
    assert_eq!(shown(&state, &[]).len(), 4);
    assert_eq!(shown(&state, &["--output-topic", "events"]).len(), 3);
    let jetstream = shown(&state, &["--position", "jetstream/b.example"]);
    assert_eq!(jetstream[0]["time"].as_str(), Some("2026-01-01T00:00:00.000Z"));
    let (code, _, err) = cursor(&["delete", "--position", "relay/a.example"], &state);
    assert_eq!(code, Some(2));
    assert!(err.contains("2 positions are meant") && err.contains("a.example into others"), "{err}");
    for (position, output, to, part) in [
        ("relay/a.example", "events", "2h ago", "its position is a seq"),
        ("ozone/pds.example+did:plc:x", "events", "7", "its position is a time"),
    ] {
        let (code, _, err) = set(position, output, to);
        assert!(code == Some(2) && err.contains(part), "{position}: {err}");
    }
    let (code, _, err) = cursor(&["show", "--position", "relay/nobody"], &state);
    assert!(code == Some(1) && err.contains("no position of relay/nobody is saved"), "{err}");
    let instance = ["delete", "--instance-id", "blue"];
    assert_eq!(cursor(&instance, &state).0, Some(1), "files have no instances");

    // Damaged, copied, and of others.
    let damaged = dir.join("relay-a.example~others.json");
    std::fs::write(&damaged, "{\"version\":1,").expect("written");
    std::fs::copy(dir.join("relay-a.example~events.json"), dir.join("relay-c.example~events.json")).expect("copied");
    std::fs::write(dir.join("notes.json"), "{}").expect("written");
    let all = shown(&state, &["--position", "relay/a.example", "--output-topic", "others"]);
    assert!(all[0]["error"].as_str().is_some_and(|why| why.contains("is damaged")), "{all:?}");
    let (_, table, _) = cursor(&["show"], &state);
    assert!(table.contains("is damaged") && table.contains("was it copied or renamed?"), "{table}");
    let this = ["--position", "relay/a.example", "--output-topic", "others"];
    let (code, _, err) = cursor(&[&["set", "--to", "9"][..], &this].concat(), &state);
    assert!(code == Some(1) && err.contains("is damaged") && err.contains("delete it first"), "{err}");
    let (code, out, _) = cursor(&[&["delete"][..], &this].concat(), &state);
    assert!(code == Some(0) && out.contains("before: is damaged"), "{out}");
    assert!(!damaged.exists());
    assert_eq!(cursor(&["delete", "--position", "relay/c.example"], &state).0, Some(0));
    assert_eq!(files(&dir).len(), 4, "{:?}", files(&dir));
}

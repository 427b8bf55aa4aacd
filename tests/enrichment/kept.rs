//! Look-ups lose no event and keep the order, also over kills and stops; what the snapshot on disk holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use atkafka_fixtures::directory::{Directory, Kind, Presence, document};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::JsonValueTrait;

use crate::oracle::{self, Traffic, compare};
use crate::support::*;
use crate::{SOON, Stage, assert_complete, did, events, everybody, parts, relay, start, stop, text};

#[test]
fn order_and_every_event_are_kept_whatever_answers_first() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    println!("latency seed {seed}");
    let traffic = Traffic::network(41, 300, 3_000);
    let directory = everybody();
    directory.set_latency_between(seed, Duration::ZERO, Duration::from_millis(120));
    let relay = relay(RelayConfig::looped(traffic.frames.clone(), 3_000));
    // Some are late for the deadline, some are not.
    let limits = ["--metadata-timeout", "200ms", "--metadata-cache", "100", "--lookup-concurrency", "16"];
    let bridge = start(&relay, &directory, &[&["API"], &limits[..]].concat());
    bridge.wait_delivered(3_000, SOON);
    let expected = traffic.served(1, 0..3_000);
    bridge.wait("the lines", SOON, |b| b.lines().len() >= expected.len());
    let (with, all) = (bridge.lines().iter().filter(|l| l.contains(r#""didDocument":"#)).count(), expected.len());
    println!("{with} of {all} have a document");
    assert!(with > all / 20, "some were in time");
    compare(&expected, &oracle::of_lines(&bridge.lines())).once();
    stop(bridge);
}

/// Where one run writes, and what it keeps.
struct Place {
    broker: String,
    topic: String,
    state: PathBuf,
}

impl Place {
    fn new(name: &str) -> Option<Place> {
        Some(Place { broker: broker(KAFKA)?, topic: unique(name), state: folder("state") })
    }

    fn start(&self, relay: &Relay, directory: &Directory, more: &[&str]) -> Bridge {
        let state = self.state.to_str().expect("UTF-8");
        let to = ["--bootstrap-servers", &self.broker, "--output-topic", &self.topic, "--state-dir", state];
        start(relay, directory, &[&to[..], &["--topic-partitions", "4", "--cursor", "oldest"], more].concat())
    }
}

#[test]
fn killed_in_the_middle_of_look_ups_nothing_is_missing() {
    let Some(place) = Place::new("killed") else { return };
    let (traffic, total) = (Traffic::network(43, 400, 4_000), 4_000);
    let directory = everybody();
    directory.set_latency_between(43, Duration::from_millis(50), Duration::from_millis(400));
    let looped = RelayConfig::looped(traffic.frames.clone(), total);
    let relay = relay(RelayConfig { rate: 1_000.0, live_limit: Some(total - 50), ..looped });
    for end in 1..=3 {
        let bridge = place.start(&relay, &directory, &["API"]);
        bridge.wait("frames, some of them in flight", SOON, |b| {
            relay.stats().highest_seq >= Some(total * end / 5) && b.metric("atkafka_frames_in_flight") > 0.0
        });
        bridge.kill();
    }
    relay.set_live_limit(total);
    let bridge = place.start(&relay, &directory, &["API"]);
    bridge.wait_delivered(total, SOON);
    stop(bridge);
    compare(&traffic.served(1, 0..total), &consume(&place.broker, &place.topic)).at_least_once();
}

#[test]
fn stopped_in_the_middle_of_look_ups_nothing_is_missing_or_repeated() {
    let Some(place) = Place::new("stopped") else { return };
    let (traffic, total) = (Traffic::network(47, 200, 1_000), 1_000);
    let directory = everybody();
    let relay = relay(RelayConfig::looped(traffic.frames.clone(), total));
    for (presence, more) in [
        (Presence::Hangs, &["--metadata-timeout", "30s"][..]),
        (Presence::Refuses, &["--metadata-required", "--metadata-timeout", "300ms"]),
    ] {
        directory.set_presence(presence);
        let bridge = place.start(&relay, &directory, more);
        bridge.wait("frames in flight", SOON, |b| b.metric("atkafka_frames_in_flight") > 0.0);
        std::thread::sleep(Duration::from_millis(300));
        stop(bridge);
    }
    directory.set_presence(Presence::Up);
    let bridge = place.start(&relay, &directory, &["--metadata-required"]);
    bridge.wait_delivered(total, SOON);
    stop(bridge);
    compare(&traffic.served(1, 0..total), &consume(&place.broker, &place.topic)).once();
}

#[test]
fn a_snapshot_spares_a_restart_its_requests_and_a_damaged_one_is_passed_over() {
    let stage = Stage::new();
    let state = folder("state");
    let state_dir = state.to_str().expect("UTF-8");
    let args = ["API", "--state-dir", state_dir, "--metadata-snapshot", "--metadata-timeout", "20s"];
    let accounts = 60;
    let nobody = did(1_000);
    stage.unknown(&nobody);
    let round = || {
        let bridge = stage.start(&args);
        stage.posts((0..accounts).chain([1_000]));
        for event in events(&bridge, accounts + 1) {
            let known = event["did"].as_str() != Some(&nobody);
            assert_eq!(parts(&event).len(), if known { 6 } else { 0 }, "{event}");
        }
        let log = bridge.log();
        stop(bridge);
        let asked = stage.directory.requests();
        stage.directory.forget();
        (asked, log)
    };
    assert!(round().0 > accounts);
    let (asked, log) = round();
    assert_eq!(asked, 0, "{log:?}");
    assert!(!log.iter().any(|l| l.contains("WARN")), "{log:?}");
    let snapshot = snapshot_of(&state);
    let whole = std::fs::read(&snapshot).expect("the snapshot");
    println!("{}: {} bytes", snapshot.display(), whole.len());
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x55;
    for (what, bytes) in [
        ("garbage", b"garbage".to_vec()),
        ("half of it", whole[..whole.len() / 2].to_vec()),
        ("a flipped byte", flipped),
        ("nothing", Vec::new()),
    ] {
        std::fs::write(&snapshot, bytes).expect("written");
        let (asked, log) = round();
        assert!(asked > 0, "{what}: {log:?}");
        assert!(log.iter().any(|l| l.contains("WARN") && l.contains("metadata")), "{what}: {log:?}");
    }
    assert_eq!(round().0, 0, "written anew");
}

/// The only file in the state directory that is no cursor.
fn snapshot_of(state: &Path) -> PathBuf {
    let entries = std::fs::read_dir(state).expect("the state directory").map(|e| e.expect("an entry").path());
    let is_snapshot = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().contains("metadata"));
    let found: Vec<PathBuf> = entries.filter(is_snapshot).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn what_a_snapshot_holds_is_not_believed_for_longer() {
    let stage = Stage::new();
    let state = folder("state");
    let args = ["--state-dir", state.to_str().expect("UTF-8"), "--metadata-snapshot", "--metadata-ttl", "1s"];
    let bridge = stage.start(&args);
    assert_complete(&stage.event_of(&bridge, &did(1)));
    stop(bridge);
    stage.directory.set_document(&did(1), &document(&did(1), "new.example", "https://new.example"));
    std::thread::sleep(Duration::from_millis(1_200));
    let bridge = stage.start(&args);
    assert_eq!(text(&stage.event_of(&bridge, &did(1)), "pdsHost"), Some("https://new.example"));
    let asked = [Kind::Document, Kind::AuditLog].map(|kind| stage.directory.asked(kind, &did(1)));
    assert_eq!(asked, [2, 1]);
    stop(bridge);
}

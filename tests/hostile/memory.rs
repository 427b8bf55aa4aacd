//! Frames that become many times what they are, while nothing is delivered: memory stays under its limit.

use std::time::Duration;

use atkafka_fixtures::network::builder::{self, Commit, Op};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use ipld_core::ipld;

use crate::support::*;

const SOON: Duration = Duration::from_secs(90);
const MB: u64 = 1 << 20;
/// Over the limit for frames in flight: what is promised, which holds for an optimised build.
const OVER: u64 = if cfg!(debug_assertions) { 96 * MB } else { 64 * MB };

/// 40 ops on one record of 2.4 MB: 100 MB of events.
fn swelling(seq: u64) -> Vec<u8> {
    let large = builder::record(&ipld!({ "$type": "com.example.thing", "text": "x".repeat(2_400_000) }));
    let ops: Vec<Op> = (0..40).map(|i| Op::create(&format!("com.example.thing/{i}"), &large)).collect();
    Commit::new("did:plc:hostilehostilehostile22", "3mptbypluud2a").ops(ops).frame(seq)
}

fn good(seq: u64) -> Vec<u8> {
    let op = Op::delete(&format!("com.example.thing/{seq}"), None);
    Commit::new("did:plc:innocentinnocentinnocent", "3mptbypluud2a").op(op).frame(seq)
}

/// Thousands of deletes, each of which is small in the frame and large as an event and in the client.
fn deletes(seq: u64) -> Vec<u8> {
    let ops: Vec<Op> = (0..40_000).map(|i| Op::delete(&format!("a/{i}"), None)).collect();
    Commit::new("did:plc:hostilehostilehostile22", "3mptbypluud2a").ops(ops).frame(seq)
}

/// A text that is six times as long in JSON.
fn nuls(seq: u64) -> Vec<u8> {
    builder::identity_frame(
        seq,
        "did:plc:hostilehostilehostile22",
        "2026-01-01T00:00:00Z",
        Some(&"\0".repeat(5_300_000)),
    )
}

#[test]
fn frames_that_swell_stay_under_the_memory_limit_while_nothing_is_delivered() {
    stays_under_the_limit((1..=120).map(|seq| if seq % 3 == 0 { deletes(seq) } else { swelling(seq) }).collect());
}

#[test]
fn frames_of_control_characters_stay_under_the_memory_limit_while_nothing_is_delivered() {
    stays_under_the_limit((1..=40).map(nuls).collect());
}

fn stays_under_the_limit(list: Vec<Vec<u8>>) {
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let (url, state) = (relay.url(), folder("state"));
    let args = ["firehose", "relay", "--relay-host", &url, "--cursor=oldest", "--memory-limit", "64MiB"];
    // Nobody listens there.
    let output = ["--bootstrap-servers", "127.0.0.1:1", "--output-topic", "t", "--workers", "4"];
    let more = ["--state-dir", &state.to_string_lossy()];
    let mut bridge = Bridge::start(&[&args[..], &output, &more].concat());
    bridge.wait("the limit is reached", SOON, |b| b.metric("atkafka_bytes_in_flight") > (48 * MB) as f64);
    std::thread::sleep(Duration::from_secs(5));
    let (in_flight, peak) = (bridge.metric("atkafka_bytes_in_flight") as u64, bridge.peak_memory());
    println!("{} MB in flight, {} MB of memory at the peak", in_flight / MB, peak / MB);
    assert!(in_flight <= 64 * MB, "{in_flight}");
    assert!(peak < 64 * MB + OVER, "{} MB", peak / MB);
    bridge.signal("TERM");
    bridge.end(Duration::from_secs(12));
}

#[test]
fn what_is_too_much_of_a_frame_is_one_dead_letter_and_the_rest_arrives() {
    let list = vec![good(1), swelling(2), good(3), deletes(4), good(5)];
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest", "--memory-limit", "64MiB"];
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(5, SOON);
    assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"too_large\"}"), 2.0, "{:?}", bridge.log());
    let has = |seq: u64| bridge.lines().iter().filter(|l| l.contains(&format!("\"seq\":{seq},"))).count();
    bridge.wait("the last line", SOON, |_| has(5) == 1);
    assert_eq!((has(1), has(3), has(5)), (1, 1, 1));
    assert!((1..10).contains(&has(2)), "the first ones of it: {} {:?}", has(2), bridge.log());
    assert!((1_000..40_000).contains(&has(4)), "{}", has(4));
    // A moment after the last line, on a busy machine.
    bridge.wait("everything is given back", SOON, |b| b.metric("atkafka_bytes_in_flight") == 0.0);
    assert_eq!(bridge.stop().0, Some(0));
}

/// The largest commit of honest deletes that fits into a hand-over: nothing of it is too much.
#[test]
fn honest_commits_are_never_too_much() {
    let ops = |seq: u64| (0..200).map(move |i| Op::delete(&format!("app.bsky.feed.like/3lrng4h6oms{seq}-{i}"), None));
    let list: Vec<Vec<u8>> = (1..=400)
        .map(|seq| Commit::new("did:plc:honesthonesthonesthonest", "3mptbypluud2a").ops(ops(seq)).frame(seq))
        .collect();
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest", "--memory-limit", "16MiB"];
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(400, SOON);
    assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0, "{:?}", bridge.log());
    assert_eq!(bridge.metric("atkafka_produced_events{status=\"ok\"}"), 80_000.0);
    assert_eq!(bridge.stop().0, Some(0));
}

/// A host that sends nothing readable for a minute is no source of events, though it is connected.
#[test]
fn a_host_whose_frames_are_all_unreadable_is_not_ready() {
    let relay = Relay::start(RelayConfig { rate: 20.0, ..RelayConfig::script(vec![b"hello".to_vec(); 3_000]) });
    let relay = relay.expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    let ready = |b: &Bridge| b.get("/readyz").unwrap_or_default();
    bridge.wait("dead letters", SOON, |b| b.metric("atkafka_dead_letters{reason=\"bad_frame\"}") > 20.0);
    assert_eq!(ready(&bridge).0, 200, "a few bad frames are no reason");
    bridge.wait("not ready", SOON, |b| ready(b).1.contains("no frame of 127.0.0.1"));
    assert_eq!(ready(&bridge).0, 503);
    assert!(bridge.metric("atkafka_dead_letters{reason=\"bad_frame\"}") > 1_000.0);
    assert_eq!(bridge.stop().0, Some(0));
}

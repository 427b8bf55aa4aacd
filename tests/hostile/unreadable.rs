//! Messages that cannot be read, and hosts that send nothing else: what is readable is not passed over, each message is one
//! dead letter, and a host that gives nothing is not asked all the time.

use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::Commit;
use atkafka_fixtures::relay::{CursorRule, Inject, Relay, RelayConfig, wire};
use sonic_rs::JsonValueTrait;

use crate::seqs::saved;
use crate::support::*;
use crate::{DID, PATIENCE, REV, identity};

/// What a message that breaks the websocket begins with: servers may not mask.
const MASKED: [u8; 7] = [0x82, 0x81, 1, 2, 3, 4, 5];

fn large(seq: u64) -> Vec<u8> {
    Commit::new(DID, REV).car(&vec![1; 5_600_000]).frame(seq)
}

fn start(relay: &Relay, more: &[&str]) -> Bridge {
    Bridge::start(&[&["firehose", "relay", "--relay-host", &relay.url()], more].concat())
}

/// The seqs of the events, and the names of the `info` events, in order.
fn arrived(bridge: &Bridge) -> Vec<String> {
    let parse = |line: &String| sonic_rs::from_str::<sonic_rs::Value>(line).expect("JSON");
    let say = |v: sonic_rs::Value| match v["info"]["name"].as_str() {
        Some(name) => name.to_string(),
        None => v["seq"].as_u64().unwrap_or(0).to_string(),
    };
    bridge.lines().iter().map(parse).map(say).collect()
}

fn arrives(bridge: &Bridge, expected: &[&str]) {
    bridge.wait("every event", PATIENCE, |b| b.lines().len() >= expected.len());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(arrived(bridge), expected, "{:?}", bridge.log());
}

#[test]
fn a_large_event_between_sparse_seqs_is_passed_alone() {
    for cursor in [CursorRule::Exclusive, CursorRule::Inclusive] {
        let list = vec![identity(1), identity(2), large(1_002), identity(1_003), identity(1_004)];
        let relay = Relay::start(RelayConfig { cursor, ..RelayConfig::script(list) }).expect("a relay");
        let bridge = start(&relay, &["--cursor=oldest"]);
        arrives(&bridge, &["1", "2", "over_limit", "seq_gap", "1003", "1004"]);
        assert!(bridge.log_contains("seq 1002, is over the limit"), "{:?}", bridge.log());
        assert_eq!(bridge.metric("atkafka_dead_letters"), 1.0);
        assert_eq!(relay.stats().connections.len(), 1);
        assert_eq!(bridge.stop().0, Some(0));
    }
}

/// Nothing may come behind it for days: it is not met again at each start.
#[test]
fn a_large_event_is_part_of_the_position() {
    let relay = Relay::start(RelayConfig::script(vec![identity(1), identity(2), large(3)])).expect("a relay");
    let state = folder("state");
    let args = ["--cursor=oldest", "--state-dir", state.to_str().expect("UTF-8")];
    let bridge = start(&relay, &args);
    arrives(&bridge, &["1", "2", "over_limit"]);
    bridge.wait("its position", PATIENCE, |_| saved(&state) == Some(3));
    assert_eq!(bridge.stop().0, Some(0));
}

/// In one piece and in many, as the library of indigo sends them.
#[test]
fn a_large_message_that_is_no_event_costs_none() {
    let unknown = [frames::header("#something"), vec![0; 9_000_000]].concat();
    let notice = frames::info_frame("Long", Some(&"x".repeat(6_000_000)));
    let event = large(3);
    let mut pieces = wire::fragment(false, wire::BINARY, &event[..4_000]);
    for piece in event[4_000..].chunks(900_000) {
        pieces.extend(wire::fragment(false, wire::CONTINUATION, piece));
        pieces.extend(wire::message(wire::PING, b"between"));
    }
    pieces.extend(wire::fragment(true, wire::CONTINUATION, b""));
    let list: Vec<Vec<u8>> = [1, 2, 4, 5, 6, 7].map(identity).to_vec();
    let mut config = RelayConfig::script(list);
    config.faults.inject = vec![
        Inject::raw(2, pieces),
        Inject::binary(3, &unknown),
        Inject::text(4, &"\u{e9}".repeat(3_000_000)),
        Inject::binary(5, &notice),
    ];
    let relay = Relay::start(config).expect("a relay");
    let bridge = start(&relay, &["--cursor=oldest"]);
    arrives(&bridge, &["1", "2", "over_limit", "4", "5", "6", "7"]);
    assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"over_limit\"}"), 4.0);
    assert_eq!(bridge.metric("atkafka_dead_letters"), 4.0);
    assert!(bridge.log_contains("which is no event"), "{:?}", bridge.log());
    assert_eq!(relay.stats().connections.len(), 1);
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_message_that_breaks_connections_between_sparse_seqs_is_passed_alone() {
    // What stands right behind it is met only with it. Before the second one stands an event whose jump is not confirmed:
    // it comes again on each connection.
    let places = [(2, ["1", "2", "over_limit", "1003", "1004"]), (3, ["1", "2", "1002", "over_limit", "1004"])];
    let passed = |cursor, (before, expected): (u64, [&str; 5])| {
        let list: Vec<Vec<u8>> = [1, 2, 1_002, 1_003, 1_004].map(identity).to_vec();
        let mut config = RelayConfig { cursor, ..RelayConfig::script(list) };
        config.faults.inject = vec![Inject::raw(before, MASKED.to_vec())];
        let relay = Relay::start(config).expect("a relay");
        let bridge = start(&relay, &["--cursor=oldest"]);
        arrives(&bridge, &expected);
        assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"bad_frame\"}"), 1.0);
        assert_eq!(bridge.metric("atkafka_dead_letters"), 1.0);
        assert_eq!(bridge.stop().0, Some(0));
    };
    std::thread::scope(|scope| {
        for place in places {
            for cursor in [CursorRule::Exclusive, CursorRule::Inclusive] {
                scope.spawn(move || passed(cursor, place));
            }
        }
    });
}

/// Nothing may come behind it for days, and the connection may end before something does.
#[test]
fn a_live_start_whose_first_event_is_too_large_begins_there() {
    let list = vec![large(5_000), identity(5_001), identity(5_002)];
    let mut config = RelayConfig { from_start: false, live_limit: Some(0), ..RelayConfig::script(list) };
    (config.faults.drop_every, config.faults.drop_times) = (Some(1), Some(1));
    for (limit, expected) in [(1, &["over_limit"][..]), (3, &["over_limit", "5001", "5002"])] {
        let relay = Relay::start(config.clone()).expect("a relay");
        let state = folder("state");
        let bridge = start(&relay, &["--state-dir", state.to_str().expect("UTF-8")]);
        bridge.wait("a live connection", PATIENCE, |_| relay.stats().connections.len() == 1);
        // Nothing that comes to be after the end of the first connection is new to a second one that is live.
        relay.set_live_limit(limit);
        arrives(&bridge, expected);
        bridge.wait("its position", PATIENCE, |_| saved(&state) == Some(4_999 + limit));
        bridge.wait("a second connection", PATIENCE, |_| relay.stats().connections.len() == 2);
        let cursors: Vec<_> = relay.stats().connections.iter().map(|c| c.cursor.clone()).collect();
        assert_eq!(cursors, [None, Some("5000".to_string())]);
        assert_eq!(bridge.stop().0, Some(0));
    }
}

/// Connections in ten seconds, and the log.
fn asked_in_ten_seconds(broken: &[u8]) -> (usize, Bridge) {
    let mut config = RelayConfig { from_start: true, ..RelayConfig::script(vec![identity(1)]) };
    config.faults.inject = vec![Inject::raw(0, broken.to_vec())];
    let relay = Relay::start(config).expect("a relay");
    let bridge = start(&relay, &[]);
    std::thread::sleep(Duration::from_secs(10));
    (relay.stats().connections.len(), bridge)
}

#[test]
fn a_host_that_breaks_each_message_of_a_live_start_is_left_alone_for_a_while() {
    let (connections, bridge) = asked_in_ten_seconds(&MASKED);
    assert!((2..20).contains(&connections), "{connections}: {:?}", bridge.log());
    assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0);
    assert!(!bridge.log_contains("cursor"), "none was asked for: {:?}", bridge.log());
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_host_that_compresses_without_being_asked_is_told_so() {
    let (connections, bridge) = asked_in_ten_seconds(&[0xc2, 3, 1, 2, 3]);
    assert!((2..20).contains(&connections), "{connections}: {:?}", bridge.log());
    assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0);
    assert!(bridge.log_contains("compresses its messages (permessage-deflate)"), "{:?}", bridge.log());
    let (status, body) = bridge.get("/readyz").expect("an answer");
    assert!(status == 503 && body.contains("permessage-deflate"), "{body}");
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_host_that_gives_events_before_each_end_is_asked_again_soon() {
    let list: Vec<Vec<u8>> = (1..=3_000).map(identity).collect();
    let mut config = RelayConfig::script(list);
    config.faults.drop_every = Some(300);
    let relay = Relay::start(config).expect("a relay");
    let bridge = start(&relay, &["--cursor=oldest"]);
    bridge.wait_delivered(3_000, PATIENCE);
    let waits = bridge
        .log()
        .iter()
        .filter_map(|line| line.split_once("connecting again in ")?.1.split_once(" s")?.0.parse::<f64>().ok())
        .collect::<Vec<_>>();
    assert!(waits.len() >= 9, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 1.0), "{waits:?}");
    assert_eq!(bridge.stop().0, Some(0));
}

//! A frame with a wrong seq: no other frame is skipped for it, and the cursor file never holds it. A gap is reported.

use std::path::Path;

use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{PATIENCE, identity};

/// The largest seq that a relay can send.
const BROKEN: u64 = (1 << 53) - 1;

/// The seq in the one cursor file.
pub fn saved(state: &Path) -> Option<u64> {
    let files = std::fs::read_dir(state).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files.filter(|path| path.extension().is_some_and(|e| e == "json")).last()?;
    let text = std::fs::read_to_string(file).ok()?;
    sonic_rs::from_str::<sonic_rs::Value>(&text).ok()?.get("seq")?.as_u64()
}

/// The seqs of the identity events.
fn seqs(bridge: &Bridge) -> Vec<u64> {
    let value = |line: &String| sonic_rs::from_str::<sonic_rs::Value>(line).expect("JSON");
    bridge.lines().iter().filter_map(|line| value(line).get("seq")?.as_u64()).collect()
}

/// Serves `list` until frame `pause`, where the cursor file has to hold `paused`; then to the end.
fn arrives_whole(list: &[u64], cursor: &str, pause: u64, paused: u64) {
    let frames: Vec<_> = list.iter().map(|seq| identity(*seq)).collect();
    let config = RelayConfig { live_limit: Some(pause), ..RelayConfig::script(frames) };
    let relay = Relay::start(config).expect("a relay");
    let (state, url) = (folder("state"), relay.url());
    let dir = state.to_str().expect("UTF-8");
    let args = ["firehose", "relay", "--relay-host", &url, "--state-dir", dir, "--cursor", cursor];
    let bridge = Bridge::start(&args);
    bridge.wait("the frames before the pause", PATIENCE, |b| seqs(b).len() as u64 == pause);
    bridge.wait("its position", PATIENCE, |_| saved(&state) == Some(paused));
    // Longer than the pause between two saves.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(saved(&state), Some(paused), "{list:?}");
    relay.set_live_limit(list.len() as u64);
    bridge.wait("every frame", PATIENCE, |b| seqs(b).len() == list.len());
    assert_eq!(seqs(&bridge), list, "in the order of the wire");
    bridge.wait("the last position", PATIENCE, |_| saved(&state) == list.last().copied());
    assert_eq!(bridge.metric("atkafka_repeated_frames"), 0.0);
    assert_eq!(bridge.stop().0, Some(0));
    assert_eq!(saved(&state), list.last().copied());
}

#[test]
fn a_wrong_seq_between_others_skips_nothing_and_is_not_saved() {
    arrives_whole(&[1, 2, 3, BROKEN, 5, 6, 7], "oldest", 4, 3);
}

#[test]
fn a_wrong_first_seq_of_a_live_start_skips_nothing() {
    arrives_whole(&[BROKEN, 1_001, 1_002, 1_003], "live", 2, 1_001);
}

/// It waits a second for another one, and then counts: a host may be quiet for days.
#[test]
fn a_wrong_first_seq_that_stays_alone_skips_nothing() {
    arrives_whole(&[BROKEN, 1_001, 1_002, 1_003], "live", 1, BROKEN);
}

#[test]
fn a_gap_inside_a_connection_is_counted_each_time_and_said_once_a_minute() {
    let list = [1, 2, 500, 501, 900, 901];
    let relay = Relay::start(RelayConfig::script(list.map(identity).to_vec())).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
    bridge.wait("every frame and one info event", PATIENCE, |b| b.lines().len() == list.len() + 1);
    assert_eq!(seqs(&bridge), list);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"seq_gap\"}"), 2.0);
    assert!(bridge.lines()[3].contains("\"seq_gap\""), "once the next frame confirms it: {:?}", bridge.lines());
    assert!(bridge.log_contains("events between 2 and 500 may be missing"));
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0));
    assert_eq!(log.iter().filter(|line| line.contains("seq_gap")).count(), 1);
}

/// As a PDS does, whose seqs are of more than its events: no gap, and the position goes on.
#[test]
fn a_host_that_leaves_out_many_seqs_has_no_gaps() {
    let list: Vec<u64> = (1..=20).map(|i| i * 1_000).collect();
    let relay = Relay::start(RelayConfig::script(list.iter().map(|seq| identity(*seq)).collect::<Vec<_>>()));
    let (relay, state) = (relay.expect("a relay"), folder("state"));
    let dir = state.to_str().expect("UTF-8");
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--state-dir", dir, "--cursor", "oldest"];
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(20_000, PATIENCE);
    bridge.wait("the position of the one before the last", PATIENCE, |_| saved(&state) == Some(19_000));
    assert_eq!(bridge.metric("atkafka_gaps"), 0.0);
    assert_eq!(bridge.stop().0, Some(0));
    // The last one was never confirmed: it comes again.
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(20_000, PATIENCE);
    bridge.wait("its line", PATIENCE, |b| seqs(b) == [20_000]);
    assert_eq!(bridge.stop().0, Some(0));
}

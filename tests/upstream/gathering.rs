//! Messages that come within a window go on together; where many come, none waits for its end.

use std::time::Duration;

use atkafka_fixtures::network::Network;
use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::SOON;
use crate::support::*;

fn relay(rate: f64, total: u64) -> Relay {
    let frames: Vec<Vec<u8>> = Network::new(7, 50).frames(500).into_iter().map(|frame| frame.bytes).collect();
    Relay::start(RelayConfig { rate, ..RelayConfig::looped(frames, total) }).expect("a relay")
}

fn start(relay: &Relay, linger: &str) -> Bridge {
    Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest", "--linger", linger])
}

/// Hand-overs from the reader to the workers.
fn jobs(bridge: &Bridge) -> f64 {
    bridge.metric("atkafka_decode_seconds_count")
}

#[test]
fn frames_that_come_within_a_window_are_handed_over_together() {
    let (to_many, to_each) = (relay(100.0, 400), relay(100.0, 400));
    let (many, each) = (start(&to_many, "100ms"), start(&to_each, "0ms"));
    many.wait_delivered(400, SOON);
    each.wait_delivered(400, SOON);
    assert_eq!((many.lines().len() > 300, many.lines()), (true, each.lines()), "the same events in the same order");
    // 100 frames a second, in windows of 100 ms: ten at a time. Half of that is left for a busy machine.
    assert!(jobs(&many) < 80.0, "{} hand-overs of 400 frames", jobs(&many));
    assert!(jobs(&each) > 2.0 * jobs(&many), "{} without a window, {} with", jobs(&each), jobs(&many));
    for bridge in [many, each] {
        assert_eq!(bridge.stop().0, Some(0));
    }
}

#[test]
fn a_stop_within_a_window_delivers_what_is_in_it() {
    let relay = relay(40.0, 100_000);
    let state = folder("gathering");
    let state = state.to_str().expect("UTF-8");
    let url = relay.url();
    let args = ["firehose", "relay", "--relay-host", &url, "--cursor=oldest", "--linger=100ms", "--state-dir", state];
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(20, SOON);
    assert_eq!(bridge.stop().0, Some(0));
    let rest = Bridge::start(&args);
    rest.wait("more frames", SOON, |b| b.lines().len() > 20);
    let cursor = relay.stats().connections.last().and_then(|c| c.cursor.as_deref()?.parse::<u64>().ok());
    let first = rest.lines()[0].clone();
    assert_eq!(rest.stop().0, Some(0));
    let cursor = cursor.expect("a position was saved");
    assert!(cursor >= 20 && first.contains(&format!(r#""seq":{}"#, cursor + 1)), "behind {cursor}: {first}");
}

/// Of 60,000 frames each 64 would wait for 100 ms: a minute and a half.
#[test]
fn a_backlog_is_read_without_waiting() {
    let relay = relay(0.0, 60_000);
    let bridge = start(&relay, "100ms");
    bridge.wait_delivered(60_000, Duration::from_secs(60));
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_host_that_pings_within_windows_is_answered() {
    let frames: Vec<Vec<u8>> = Network::new(7, 50).frames(500).into_iter().map(|frame| frame.bytes).collect();
    let mut config = RelayConfig { rate: 50.0, ..RelayConfig::looped(frames, 200) };
    config.faults.ping_every = Some(5);
    let relay = Relay::start(config).expect("a relay");
    let bridge = start(&relay, "100ms");
    bridge.wait_delivered(200, SOON);
    assert!(relay.wait_until(SOON, |stats| stats.pongs >= 39), "{:?}", relay.stats());
    assert_eq!(relay.stats().connections.len(), 1);
    assert_eq!(bridge.stop().0, Some(0));
}

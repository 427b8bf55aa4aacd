//! A connection that answers pings and brings nothing any more: left when the host was busy, and for ever kept otherwise.

use std::time::Duration;

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;
use crate::{PATIENCE, identity};

/// Frames a second of a busy host.
const RATE: f64 = 20.0;

fn start(relay: &Relay, silence: &str) -> Bridge {
    Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest", "--silence", silence])
}

/// All frames but the last five, and then nothing but pongs.
fn falls_silent(rate: f64, total: u64) -> Relay {
    let list: Vec<Vec<u8>> = (1..=total).map(identity).collect();
    let config = RelayConfig { rate, now: true, live_limit: Some(total - 5), ..RelayConfig::script(list) };
    Relay::start(config).expect("a relay")
}

#[test]
fn a_busy_host_that_falls_silent_is_told_left_and_asked_again() {
    let relay = falls_silent(RATE, 400);
    let bridge = start(&relay, "6s");
    bridge.wait_delivered(395, PATIENCE);
    let ready = |b: &Bridge| b.get("/readyz").unwrap_or_default();
    bridge.wait("/readyz tells it", PATIENCE, |b| ready(b).0 == 503);
    assert!(ready(&bridge).1.contains("no event of 127.0.0.1"), "{:?}", ready(&bridge));
    bridge.wait("the lag has it", PATIENCE, |b| b.metric("atkafka_lag_seconds") > 1.5);
    let lag = bridge.metric("atkafka_lag_seconds");
    bridge.wait("the lag rises", PATIENCE, |b| b.metric("atkafka_lag_seconds") > lag + 2.0);
    bridge.wait("a new connection", PATIENCE, |_| relay.stats().connections.len() == 2);
    let cursor = relay.stats().connections.last().and_then(|c| c.cursor.clone());
    assert_eq!(cursor.as_deref(), Some("395"));
    assert_eq!(bridge.metric("atkafka_silent_connections"), 1.0);
    assert!(bridge.log_contains("over one a second before; the connection is left (--silence)"), "{:?}", bridge.log());
    // It has nothing: the next one is left later.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(relay.stats().connections.len(), 2);
    relay.set_live_limit(400);
    bridge.wait_delivered(400, PATIENCE);
    bridge.wait("ready again", PATIENCE, |b| ready(b).0 == 200);
    bridge.wait("the lag is that of the last event", PATIENCE, |b| b.metric("atkafka_lag_seconds") < 60.0);
    assert_eq!(bridge.lines().len(), 400);
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_quiet_host_and_one_without_a_limit_keep_their_connections() {
    let quiet = falls_silent(0.8, 15);
    let busy = falls_silent(RATE, 200);
    let to_quiet = start(&quiet, "2s");
    let to_busy = start(&busy, "off");
    to_quiet.wait_delivered(10, PATIENCE);
    to_busy.wait_delivered(195, PATIENCE);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!((quiet.stats().connections.len(), busy.stats().connections.len()), (1, 1));
    assert_eq!(to_quiet.get("/readyz").map(|(status, _)| status), Some(200));
    assert!(to_quiet.metric("atkafka_lag_seconds") < 10.0, "the lag of its last event");
    for bridge in [to_quiet, to_busy] {
        assert_eq!(bridge.metric("atkafka_silent_connections"), 0.0);
        assert_eq!(bridge.stop().0, Some(0));
    }
}

//! A socket that never runs dry, and gives no event any more: what came before it is not held back, and a stop is heard.

use std::time::{Duration, Instant};

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::wire;

use crate::flood::Flood;
use crate::support::*;
use crate::{PATIENCE, identity};

/// Of a live start, whose first event waits for a second one, and of one with a cursor.
#[test]
fn a_flood_of_what_is_no_event_holds_nothing_back() {
    let event = |seq| wire::message(wire::BINARY, &identity(seq));
    let floods = [
        ("pings", wire::message(wire::PING, b"x")),
        ("unknown types", wire::message(wire::BINARY, &[frames::header("#something"), vec![0xa0]].concat())),
        ("repeats", event(2)),
    ];
    for (name, again) in floods {
        for (first, cursor) in [(vec![1, 2, 3], "oldest"), (vec![1, 2], "live"), (vec![], "oldest")] {
            if first.is_empty() && name == "repeats" {
                continue;
            }
            let host = Flood::start(first.iter().flat_map(|seq| event(*seq)).collect(), again.clone());
            let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &host.url(), "--cursor", cursor]);
            bridge.wait(&format!("{name}: what came before"), PATIENCE, |b| b.lines().len() == first.len());
            bridge.wait("a connection", PATIENCE, |b| b.metric("atkafka_connected") == 1.0);
            assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200), "{name}");
            let asked = Instant::now();
            let (code, log) = bridge.stop();
            assert_eq!(code, Some(0), "{name}: {log:?}");
            assert!(asked.elapsed() < Duration::from_secs(5), "{name}: {:?}", asked.elapsed());
        }
    }
}

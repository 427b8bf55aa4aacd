//! Connections that are dropped, refused, reset, stalled or silent.

use std::time::Duration;

use atkafka_fixtures::relay::{DropHow, Faults, Relay, RelayConfig};

use crate::oracle::compare;
use crate::support::*;
use crate::{Place, SOON, TRAFFIC, cursors, each_2000, looped, settled, stop};

/// Runs once over a relay with `faults`, each 2,000 frames a drop. The counted reconnects.
fn survives(name: &str, faults: Faults) -> Option<u64> {
    let broker = broker(KAFKA)?;
    let total = 10_000;
    let drops = faults.drop_every.map_or(0, |every| (total / every).min(faults.drop_times.unwrap_or(u64::MAX)));
    let resets = faults.drop_how == DropHow::Rst;
    let relay = Relay::start(RelayConfig { rate: 4_000.0, faults, ..looped(total) }).expect("a relay");
    let place = Place::new(&broker, name);
    let bridge = place.start(&relay, &[]);
    bridge.wait_delivered(total, SOON);
    // The last drop may come behind the last frame.
    assert!(relay.wait_until(SOON, |s| s.connections.len() as u64 == drops + 1 && s.open == 1), "{:?}", relay.stats());
    settled(&bridge, total);
    assert_eq!(bridge.get("/healthz").map(|(status, _)| status), Some(200), "the same process");
    let reconnects = bridge.metric("atkafka_reconnects") as u64;
    stop(bridge);

    let asked = cursors(&relay);
    assert_eq!(asked[0], None, "live at first");
    for (i, asked) in asked[1..].iter().enumerate() {
        let sent = 2_000 * (i as u64 + 1);
        // A reset takes along what is under way.
        assert!(*asked == Some(sent) || (resets && *asked < Some(sent)), "drop {i}: asked for {asked:?} behind {sent}");
    }
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();
    Some(reconnects)
}

#[test]
fn connections_that_end_lose_and_repeat_nothing() {
    let Some(reconnects) = survives("fin", each_2000(DropHow::Fin)) else { return };
    assert_eq!(reconnects, 5);
}

#[test]
fn connections_with_a_close_frame_lose_and_repeat_nothing() {
    let Some(reconnects) = survives("close", each_2000(DropHow::Close(1001, "going away".into()))) else { return };
    assert_eq!(reconnects, 5);
}

#[test]
fn connections_that_are_refused_lose_and_repeat_nothing() {
    let refused = Faults { refuse_for: Duration::from_millis(1_200), drop_times: Some(3), ..each_2000(DropHow::Fin) };
    let Some(reconnects) = survives("refused", refused) else { return };
    assert!(reconnects >= 3, "{reconnects}");
}

#[test]
fn a_stall_loses_and_repeats_nothing_and_is_no_reconnect() {
    let stall = Faults { stall: Some((3_000, Duration::from_secs(4))), ..Faults::default() };
    let Some(reconnects) = survives("stall", stall) else { return };
    assert_eq!(reconnects, 0);
}

/// Each drop takes frames along, so that more connections come than the frames say.
#[test]
fn connections_that_are_reset_lose_and_repeat_nothing() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 10_000;
    let faults = each_2000(DropHow::Rst);
    let relay = Relay::start(RelayConfig { rate: 4_000.0, faults, ..looped(total) }).expect("a relay");
    let place = Place::new(&broker, "rst");
    let bridge = place.start(&relay, &[]);
    bridge.wait_delivered(total, SOON);
    settled(&bridge, total);
    let reconnects = bridge.metric("atkafka_reconnects");
    assert!(reconnects >= 4.0, "{reconnects}");
    stop(bridge);
    let asked = cursors(&relay);
    assert!(asked.len() > 4 && asked.is_sorted(), "{asked:?}");
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();
}

/// Both minutes at once: nothing is heard of one relay any more, the other has nothing to say but answers pings.
#[test]
fn a_silent_connection_is_left_in_a_minute_and_an_idle_one_is_kept() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 4_000;
    let faults = Faults { silent_after: Some(2_000), ..Faults::default() };
    let silent = Relay::start(RelayConfig { faults, ..looped(total) }).expect("a relay");
    let idle = Relay::start(looped(1_000)).expect("a relay");
    let (place, quiet) = (Place::new(&broker, "silent"), Place::new(&broker, "idle"));
    let (bridge, other) = (place.start(&silent, &[]), quiet.start(&idle, &[]));
    bridge.wait_delivered(2_000, SOON);
    other.wait_delivered(1_000, SOON);

    assert!(silent.wait_until(Duration::from_secs(75), |s| s.connections.len() == 2), "{:?}", silent.stats());
    let connections = silent.stats().connections;
    let noticed = connections[1].at - connections[0].at;
    println!("the silence was noticed after {noticed:?}");
    assert!(noticed >= Duration::from_secs(59), "not while an answer may still come: {noticed:?}");
    assert_eq!(connections[1].cursor.as_deref(), Some("2000"));
    settled(&bridge, total);
    assert_eq!(bridge.metric("atkafka_reconnects"), 1.0);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();

    // The idle one is a little older than 70 s then.
    std::thread::sleep(Duration::from_secs(72).saturating_sub(idle.stats().connections[0].at + noticed));
    let stats = idle.stats();
    assert_eq!((stats.connections.len(), stats.open), (1, 1), "{stats:?}");
    assert_eq!(stats.pings, 2, "one each 30 s");
    let seq = idle.push(&TRAFFIC.frames[1_000]);
    settled(&other, seq);
    assert_eq!(other.metric("atkafka_reconnects"), 0.0);
    stop(other);
    compare(&TRAFFIC.served(1, 0..1_001), &quiet.arrived()).once();
}

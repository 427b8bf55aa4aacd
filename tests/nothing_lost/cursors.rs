//! Cursors that the host no longer has, hosts that count anew, and where a start begins.

use std::time::Duration;

use atkafka_fixtures::relay::{CursorRule, DropHow, Faults, HttpAnswer, Numbering, OnBadCursor, Relay, RelayConfig};

use crate::oracle::{compare, seq_of};
use crate::support::*;
use crate::{Place, SOON, TRAFFIC, cursor_files, cursors, each_2000, held_back, looped, settled, stop};

#[test]
fn a_server_with_inclusive_cursors_repeats_nothing() {
    let Some(broker) = broker(KAFKA) else { return };
    let config = RelayConfig {
        cursor: CursorRule::Inclusive,
        live_limit: Some(6_000),
        faults: each_2000(DropHow::Fin),
        ..looped(10_000)
    };
    let relay = Relay::start(config).expect("a relay");
    let place = Place::new(&broker, "inclusive");
    let mut before = 0;
    for seq in [6_000, 10_000] {
        relay.set_live_limit(seq);
        let bridge = place.start(&relay, &[]);
        settled(&bridge, seq);
        bridge.wait("each connection with a cursor begins with a repeat", SOON, |b| {
            let asked = cursors(&relay)[before..].iter().flatten().count();
            asked >= 2 && b.metric("atkafka_repeated_frames") == asked as f64
        });
        before = cursors(&relay).len();
        stop(bridge);
    }
    compare(&TRAFFIC.served(1, 0..10_000), &place.arrived()).once();
}

/// Stopped for longer than the relay keeps events: the frames 1,001 to 3,000 are gone.
fn outdated(told: OnBadCursor) {
    let Some(broker) = broker(KAFKA) else { return };
    let config = RelayConfig { outdated: told, live_limit: Some(1_000), ..looped(5_000) };
    let relay = Relay::start(config).expect("a relay");
    let place = Place::new(&broker, "outdated");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 1_000);
    stop(bridge);
    relay.set_live_limit(5_000);
    relay.set_oldest(3_001);
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 5_000);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"outdated_cursor\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_gaps"), 1.0, "one gap is one");
    let (line, info) = match told {
        OnBadCursor::Tell => ("#info OutdatedCursor", "OutdatedCursor"),
        OnBadCursor::Silent => ("outdated_cursor: asked to go on from 1000, the host began at 3001", "outdated_cursor"),
    };
    assert!(bridge.log_contains(line), "{:?}", bridge.log());
    stop(bridge);
    let expected = [TRAFFIC.served(1, 0..1_000), TRAFFIC.served(1, 3_000..5_000)].concat();
    let verdict = compare(&expected, &place.arrived());
    assert_eq!(verdict.once().infos, [info]);
}

#[test]
fn an_outdated_cursor_is_reported_when_the_host_tells() {
    outdated(OnBadCursor::Tell);
}

#[test]
fn an_outdated_cursor_is_reported_when_the_host_is_silent() {
    outdated(OnBadCursor::Silent);
}

/// The host comes back with lower seqs, at the same address, while we wait for it.
fn reset(told: OnBadCursor) {
    let Some(broker) = broker(KAFKA) else { return };
    let high = Numbering::Step { first: 100_001, step: 1 };
    let relay = Relay::start(RelayConfig { numbering: high, ..looped(1_000) }).expect("a relay");
    let place = Place::new(&broker, "reset");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 101_000);
    let port = relay.port();
    relay.stop();
    let config = RelayConfig { port, future: told, live_limit: Some(500), ..looped(2_000) };
    let relay = Relay::start(config).expect("the same port");
    assert!(relay.wait_until(SOON, |s| s.connections.last().is_some_and(|c| c.cursor.is_some())), "a reconnect");
    assert_eq!(cursors(&relay)[0], Some(101_000));
    // Told, we read from the oldest event; else we are live, and only what comes from now on can be had.
    let behind = match told {
        OnBadCursor::Tell => 0,
        OnBadCursor::Silent => 500,
    };
    relay.set_live_limit(2_000);
    bridge.wait("delivered, from low seqs", SOON, |b| b.metric("atkafka_last_seq_delivered") == 2_000.0);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"host_reset\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_gaps"), 1.0, "one gap is one");
    assert!(bridge.log_contains("host_reset"), "{:?}", bridge.log());
    stop(bridge);
    let last = place.start(&relay, &[]);
    assert!(relay.wait_until(SOON, |s| s.connections.last().is_some_and(|c| c.cursor.as_deref() == Some("2000"))));
    stop(last);

    let arrived = place.arrived();
    let (high, low): (Vec<_>, Vec<_>) = arrived.into_iter().partition(|a| seq_of(a) > Some(100_000));
    compare(&TRAFFIC.served(100_001, 0..1_000), &high).once();
    let verdict = compare(&TRAFFIC.served(1, behind..2_000), &low);
    assert_eq!(verdict.once().infos, ["host_reset"]);
}

#[test]
fn a_host_that_counts_anew_is_reported_and_read_when_it_tells() {
    reset(OnBadCursor::Tell);
}

#[test]
fn a_host_that_counts_anew_is_reported_and_read_when_it_is_silent() {
    reset(OnBadCursor::Silent);
}

#[test]
fn a_host_that_calls_us_too_slow_is_reported_and_nothing_is_missing() {
    let Some(broker) = broker(KAFKA) else { return };
    let faults = Faults { too_slow: Some((3_000, true)), ..Faults::default() };
    let relay = Relay::start(RelayConfig { rate: 3_000.0, faults, ..looped(6_000) }).expect("a relay");
    let place = Place::new(&broker, "slow");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 6_000);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"consumer_too_slow\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_error_frames{error=\"ConsumerTooSlow\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_reconnects"), 1.0);
    assert!(bridge.log_contains("consumer_too_slow"), "{:?}", bridge.log());
    stop(bridge);
    assert_eq!(cursors(&relay), [None, Some(3_000)]);
    let verdict = compare(&TRAFFIC.served(1, 0..6_000), &place.arrived());
    assert_eq!(verdict.once().infos, ["consumer_too_slow"]);
}

#[test]
fn refusals_by_http_are_tried_again_and_retry_after_is_honoured() {
    let Some(broker) = broker(KAFKA) else { return };
    let http = vec![HttpAnswer::too_many(3), HttpAnswer::status(500), HttpAnswer::status(503)];
    let faults = Faults { http, ..Faults::default() };
    let relay = Relay::start(RelayConfig { faults, ..looped(500) }).expect("a relay");
    let place = Place::new(&broker, "refusals");
    let bridge = place.start(&relay, &[]);
    bridge.wait("/readyz says why not", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("HTTP 429"))
    });
    settled(&bridge, 500);
    assert_eq!(bridge.metric("atkafka_reconnects"), 3.0);
    stop(bridge);
    let connections = relay.stats().connections;
    assert_eq!(connections.iter().map(|c| c.status).collect::<Vec<_>>(), [429, 500, 503, 101]);
    let waited = connections[1].at - connections[0].at;
    assert!(waited >= Duration::from_secs(3), "asked again after {waited:?}");
    compare(&TRAFFIC.served(1, 0..500), &place.arrived()).once();
}

#[test]
fn a_second_instance_and_a_damaged_cursor_are_refused_with_a_line_that_helps() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(looped(500)).expect("a relay");
    let place = Place::new(&broker, "second");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 500);
    let url = relay.url();
    let listen = format!("127.0.0.1:{}", free_port());
    let args = place.args(&[&url], &["--metrics-listen-address", &listen]);
    let (code, _, error) = run(&args, &[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("another atkafka") && error.contains("another output"), "{error}");
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200), "the first one goes on");
    stop(bridge);

    let [file] = &cursor_files(&place.state)[..] else { panic!("one cursor file") };
    for damaged in ["", "{\"version\":1,\"seq\":", "\u{0}\u{0}\u{0}\u{0}"] {
        std::fs::write(file, damaged).expect("written");
        let (code, _, error) = run(&args, &[]);
        assert_eq!(code, Some(1), "{damaged:?}: {error}");
        let line = error.lines().find(|l| l.contains("damaged")).unwrap_or_else(|| panic!("{error}"));
        assert!(line.contains(&*file.to_string_lossy()) && line.contains("delete it"), "{line}");
        assert_eq!(std::fs::read_to_string(file).expect("read"), damaged, "left as it is");
    }
    assert_eq!(relay.stats().connections.len(), 1, "nobody asked the relay");
    compare(&TRAFFIC.served(1, 0..500), &place.arrived()).once();
}

#[test]
fn the_cursor_flag_says_where_a_first_start_begins_and_a_saved_cursor_goes_before_it() {
    let Some(broker) = broker(KAFKA) else { return };
    for (flag, asked, behind) in [("oldest", Some(0), 0), ("700", Some(700), 700), ("live", None, 1_000)] {
        let config = RelayConfig { from_start: false, live_limit: Some(1_000), ..looped(3_000) };
        let relay = Relay::start(config).expect("a relay");
        let place = Place::new(&broker, "flag");
        let bridge = place.start(&relay, &["--cursor", flag]);
        assert!(relay.wait_until(SOON, |s| s.connections.len() == 1), "connected");
        relay.set_live_limit(2_000);
        settled(&bridge, 2_000);
        stop(bridge);
        relay.set_live_limit(3_000);
        // A saved one goes before whatever the flag says now.
        let bridge = place.start(&relay, &["--cursor", "5"]);
        settled(&bridge, 3_000);
        stop(bridge);
        assert_eq!(cursors(&relay), [asked, Some(2_000)], "--cursor {flag}");
        compare(&TRAFFIC.served(1, behind..3_000), &place.arrived()).once();
    }
}

#[test]
fn two_relays_have_a_cursor_and_an_order_each() {
    let Some(broker) = broker(KAFKA) else { return };
    let far = 1_000_000;
    let config = |first| RelayConfig {
        rate: 2_000.0,
        numbering: Numbering::Step { first, step: 1 },
        faults: Faults { drop_every: Some(1_500), ..Faults::default() },
        ..held_back(looped(5_000))
    };
    let near_relay = Relay::start(config(1)).expect("a relay");
    let far_relay = Relay::start(config(far)).expect("a relay");
    let (near_url, far_url) = (near_relay.url(), far_relay.url());
    let urls = [near_url.as_str(), far_url.as_str()];
    let place = Place::new(&broker, "two");
    let bridge = Bridge::start(&place.args(&urls, &[]));
    bridge.wait("both", SOON, |_| [&near_relay, &far_relay].iter().all(|r| r.frames_sent() > 2_000));
    stop(bridge);
    assert_eq!(cursor_files(&place.state).len(), 2);
    near_relay.set_live_limit(5_000);
    far_relay.set_live_limit(5_000);
    // Each belongs to its host, not to its place on the command line.
    let bridge = Bridge::start(&place.args(&[urls[1], urls[0]], &[]));
    bridge.wait("both to their ends", SOON, |b| {
        let metrics = b.metrics();
        let delivered = metrics.iter().filter(|(name, _)| name.starts_with("atkafka_last_seq_delivered"));
        let mut delivered: Vec<f64> = delivered.map(|(_, seq)| *seq).collect();
        delivered.sort_by(f64::total_cmp);
        delivered == [5_000.0, (far + 4_999) as f64]
    });
    stop(bridge);
    let (near, far_off): (Vec<_>, Vec<_>) = place.arrived().into_iter().partition(|a| seq_of(a) < Some(far));
    compare(&TRAFFIC.served(1, 0..5_000), &near).once();
    compare(&TRAFFIC.served(far, 0..5_000), &far_off).once();
}

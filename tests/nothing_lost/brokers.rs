//! A broker that is killed and comes back, with both clients.

use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::oracle::compare;
use crate::own_broker::Broker;
use crate::support::*;
use crate::{Place, SOON, TRAFFIC, looped, number_from, settled, stop};

/// How long the broker is away; `ATKAFKA_TEST_OUTAGE` raises it. Above the 15 s after which `/readyz` says so.
const OUTAGE: u64 = 20;

#[test]
fn a_broker_that_is_killed_loses_nothing_and_memory_stays_bounded() {
    if broker(KAFKA).is_none() {
        return;
    }
    let broker = Broker::start("4.3.1", 31_092, "plain");
    let outage = Duration::from_secs(number_from("ATKAFKA_TEST_OUTAGE", OUTAGE));
    let rate = 2_000.0;
    // Frames come until the broker is back.
    let first = (rate * (outage.as_secs_f64() + 5.0)) as u64;
    let total = first + 5_000;
    let relay = Relay::start(RelayConfig { rate, live_limit: Some(first), ..looped(total) }).expect("a relay");
    let place = Place::new(&broker.address(), "outage");
    let limited = ["--memory-limit", "32MiB"];
    let bridge = place.start(&relay, &limited);
    bridge.wait_delivered(4_000, SOON);
    broker.kill();
    let until = Instant::now() + outage;
    bridge.wait("/readyz says why not", outage, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("output: "))
    });
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(503));
    assert_eq!(bridge.get("/healthz").map(|(status, _)| status), Some(200), "the process lives");
    let in_flight = bridge.metric("atkafka_bytes_in_flight");
    assert!(in_flight > f64::from(16 << 20) && in_flight <= f64::from(33 << 20), "the limit is reached: {in_flight}");
    broker.again();
    settled(&bridge, first);
    let peak = bridge.peak_memory();
    println!("{} MB at the peak", peak >> 20);
    // Not optimised, decoding is slower than the relay: the whole limit is frames then, besides what is in the client.
    let room: u64 = if cfg!(debug_assertions) { 128 } else { 64 };
    assert!(peak > 8 << 20 && peak < (32 + room) << 20, "{peak} bytes at the peak");

    // Again, and this time it is stopped before the broker is back.
    broker.kill();
    relay.set_live_limit(total);
    bridge.wait("frames in flight", SOON, |b| b.metric("atkafka_last_seq_received") > first as f64);
    stop(bridge);
    broker.again();
    let bridge = place.start(&relay, &limited);
    settled(&bridge, total);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).at_least_once();
}

#[test]
fn the_kafka_crate_loses_nothing_when_its_broker_is_killed() {
    if broker(KAFKA_39).is_none() {
        return;
    }
    let broker = Broker::start("3.9.1", 31_592, "plain");
    let total = 12_000;
    let relay = Relay::start(RelayConfig { rate: 2_000.0, ..looped(total) }).expect("a relay");
    let place = Place::new(&broker.address(), "crate");
    let bridge = place.start(&relay, &["--kafka-client", "kafka"]);
    bridge.wait_delivered(4_000, SOON);
    broker.kill();
    bridge.wait("/readyz says why not", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("output: "))
    });
    broker.again();
    settled(&bridge, total);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).at_least_once();
}

#[test]
fn the_kafka_crate_stops_in_order_on_its_own_kind_of_broker_and_refuses_another() {
    let (Some(old), Some(new)) = (broker(KAFKA_39), broker(KAFKA)) else { return };
    let relay = Relay::start(RelayConfig { live_limit: Some(1_500), ..looped(3_000) }).expect("a relay");
    let place = Place::new(&old, "crate-stop");
    for seq in [1_500, 3_000] {
        relay.set_live_limit(seq);
        let bridge = place.start(&relay, &["--kafka-client", "kafka"]);
        bridge.wait_delivered(seq, SOON);
        stop(bridge);
    }
    compare(&TRAFFIC.served(1, 0..3_000), &place.arrived()).once();

    let place = Place::new(&new, "crate-new");
    let mut bridge = place.start(&relay, &["--kafka-client", "kafka"]);
    assert_eq!(bridge.end(SOON).code(), Some(1));
    bridge.wait("the line that helps", SOON, |b| b.log_contains("--kafka-client librdkafka"));
}

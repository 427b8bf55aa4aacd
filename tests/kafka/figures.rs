//! What the Kafka client says of itself and of the brokers.

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;
use crate::{SOON, frames};

#[test]
fn the_brokers_are_told_as_the_client_sees_them() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay =
        Relay::start(RelayConfig { rate: 50.0, ..RelayConfig::looped(frames(1..=100), 1_000_000) }).expect("a relay");
    let (topic, state) = (unique("figures"), folder("figures").display().to_string());
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--bootstrap-servers", &broker];
    let bridge = Bridge::start(&[&args[..], &["--output-topic", &topic, "--state-dir", &state]].concat());
    let of = |name: &str| format!("atkafka_kafka_broker_{name}{{broker=\"{broker}\"");
    bridge.wait("the first figures", SOON, |b| b.metric(&of("up")) == 1.0);
    let round_trip = bridge.metric(&format!("{},quantile=\"0.99\"", of("round_trip_seconds")));
    assert!((0.0..5.0).contains(&round_trip) && round_trip > 0.0, "{round_trip} s");
    assert_eq!(bridge.metric(&of("retries")), 0.0);
    assert_eq!(bridge.stop().0, Some(0));
}

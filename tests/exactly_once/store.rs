//! Positions in Kafka with delivery at least once.

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::oracle::compare;
use crate::support::*;
use crate::{Place, SOON, TRAFFIC, create_topic, end, looped};

const KAFKA_STORE: &[&str] = &["--cursor-store", "kafka"];

#[test]
fn killed_three_times_nothing_is_missing_and_no_disk_is_needed() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 15_000;
    let relay = Relay::start(looped(total)).expect("a relay");
    let place = Place::new(&broker, "store-killed");
    for kill in 1..=3 {
        let bridge = place.relay(&relay, KAFKA_STORE);
        bridge.wait("frames", SOON, |_| relay.stats().highest_seq >= Some(total * kill / 4));
        bridge.kill();
    }
    end(place.relay(&relay, KAFKA_STORE), total);
    let verdict = compare(&TRAFFIC.served(1, 0..total), &place.committed());
    verdict.at_least_once();
    assert!(verdict.step_back < 15_000, "a save each second: {verdict}");
    assert_eq!(place.seq(), Some(total));
    assert_eq!(std::fs::read_dir(&place.state).expect("there").count(), 0, "no file");
}

#[test]
fn a_second_instance_ends_the_first() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 30_000;
    let relay = Relay::start(RelayConfig { live_limit: Some(total / 2), ..looped(total) }).expect("a relay");
    let place = Place::new(&broker, "store-fenced");
    let mut first = place.relay(&relay, KAFKA_STORE);
    first.wait_delivered(5_000, SOON);
    let second = place.relay(&relay, KAFKA_STORE);
    second.wait("its start", SOON, |b| b.log_contains("connected"));
    relay.set_live_limit(total);
    assert_eq!(first.end(SOON).code(), Some(1), "{}", first.log().join("\n"));
    assert!(first.log_contains("fenced: another atkafka"), "{}", first.log().join("\n"));
    end(second, total);
    compare(&TRAFFIC.served(1, 0..total), &place.committed()).at_least_once();
}

#[test]
fn a_state_file_is_taken_over_once() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(looped(9_000)).expect("a relay");
    relay.set_live_limit(3_000);
    let place = Place::new(&broker, "taken-over");
    end(place.relay(&relay, &[]), 3_000);
    relay.set_live_limit(6_000);
    let bridge = place.relay(&relay, &["--delivery", "exactly-once"]);
    bridge.wait_delivered(6_000, SOON);
    assert!(bridge.log_contains("taking over the position"), "{:?}", bridge.log());
    assert!(bridge.log_contains("going on behind the saved seq 3000"), "{:?}", bridge.log());
    end(bridge, 6_000);
    let names: Vec<String> = std::fs::read_dir(&place.state)
        .expect("there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".json.moved")), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with(".json")), "{names:?}");
    relay.set_live_limit(9_000);
    end(place.relay(&relay, &["--delivery", "exactly-once"]), 9_000);
    compare(&TRAFFIC.served(1, 0..9_000), &place.committed()).once();
}

#[test]
fn a_topic_that_is_not_compacted_and_a_position_of_another_cluster_are_refused() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(looped(1_000)).expect("a relay");
    let place = Place::new(&broker, "refused");
    let topic = format!("{}.cursor", place.topic);
    create_topic(&broker, &topic, 1, &[]);
    let mut bridge = place.relay(&relay, KAFKA_STORE);
    assert_eq!(bridge.end(SOON).code(), Some(2));
    assert!(bridge.log_contains("cleanup.policy=delete"), "{:?}", bridge.log());

    let place = Place::new(&broker, "refused");
    end(place.relay(&relay, &[]), 1_000);
    let file = std::fs::read_dir(&place.state)
        .expect("there")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|e| e == "json"))
        .expect("a state file");
    let text = std::fs::read_to_string(&file).expect("read");
    let (before, rest) = text.split_once("\"cluster\":\"").expect("a cluster");
    let (_, after) = rest.split_once('"').expect("its end");
    std::fs::write(&file, format!("{before}\"cluster\":\"another\"{after}")).expect("written");
    let mut bridge = place.relay(&relay, KAFKA_STORE);
    assert_eq!(bridge.end(SOON).code(), Some(2));
    assert!(bridge.log_contains("is of the Kafka cluster another"), "{:?}", bridge.log());
}

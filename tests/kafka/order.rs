//! The main job: a relay's frames into a real Kafka, whole and in order.

use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::JsonValueTrait;

use crate::support::*;

#[test]
fn every_event_of_the_fixture_arrives_in_order() {
    let Some(broker) = broker(KAFKA) else { return };
    let frames = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    let total = frames.len() as u64;
    let relay = Relay::start(RelayConfig::looped(frames, total)).expect("a relay");
    let (topic, state) = (unique("fixture"), folder("state"));
    let bridge = Bridge::start(&[
        "firehose",
        "relay",
        "--relay-host",
        &relay.url(),
        "--bootstrap-servers",
        &broker,
        "--output-topic",
        &topic,
        "--state-dir",
        &state.to_string_lossy(),
        "--topic-partitions",
        "4",
    ]);
    bridge.wait_delivered(total, Duration::from_secs(30));
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    let (code, _) = bridge.stop();
    assert_eq!(code, Some(0));

    let arrived = consume(&broker, &topic);
    let truth =
        frames::read_bytes(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.truth.jsonl.zst")).expect("truth");
    let truth = String::from_utf8(truth).expect("UTF-8");
    let ops = arrived.iter().filter(|a| a.json().get("operation").is_some()).count();
    assert_eq!(ops, truth.lines().count(), "each op once");
    for partition in 0..4 {
        let seqs: Vec<u64> =
            arrived.iter().filter(|a| a.partition == partition).filter_map(|a| a.json().get("seq").as_u64()).collect();
        assert!(!seqs.is_empty() && seqs.is_sorted(), "partition {partition} is in the relay's order");
    }
}

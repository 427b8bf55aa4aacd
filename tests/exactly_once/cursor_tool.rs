//! `cursor show|set|delete` on positions in Kafka, those in files: `tests/command_line/cursor.rs`; and what is in the topic besides.

use std::time::Duration;

use atkafka_fixtures::relay::{Relay, RelayConfig};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminOptions;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sonic_rs::{JsonValueTrait, Value};

use crate::oracle::compare;
use crate::support::*;
use crate::{ONCE, Place, SOON, TRAFFIC, admin, create_topic, end, looped};

const KAFKA_STORE: &[&str] = &["--cursor-store", "kafka"];

impl Place {
    fn cursor(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let kafka = ["--bootstrap-servers", &self.broker, "--output-topic", &self.topic, "--cursor-store", "kafka"];
        run(&[&["cursor"], args, &kafka].concat(), &[])
    }

    fn shown(&self) -> Vec<Value> {
        let (code, out, err) = self.cursor(&["show", "--json"]);
        assert!(code == Some(0) || err.contains("no position"), "{err}");
        out.lines().map(|line| sonic_rs::from_str(line).expect("JSON")).collect()
    }
}

fn shown_set_and_deleted(broker: &str) {
    let relay = Relay::start(looped(9_000)).expect("a relay");
    relay.set_live_limit(6_000);
    let place = Place::new(broker, "cursor");
    let (code, _, err) = place.cursor(&["show"]);
    assert!(code == Some(1) && err.contains(".cursor does not exist"), "{err}");
    end(place.relay(&relay, ONCE), 6_000);
    let shown = place.shown();
    let text = |name: &str| shown[0][name].as_str().unwrap_or_default().to_string();
    assert_eq!((shown.len(), shown[0]["seq"].as_u64()), (1, Some(6_000)), "{shown:?}");
    assert_eq!(
        (text("source"), text("output"), text("topic")),
        ("relay".into(), place.topic.clone(), format!("{}.cursor", place.topic))
    );
    assert!(text("transactional_id").starts_with("atkafka-relay-") && !text("cluster").is_empty(), "{shown:?}");
    let (_, table, _) = place.cursor(&["show"]);
    assert!(table.starts_with("POSITION") && table.contains(" 6000 ") && table.contains(" ago"), "{table}");

    let (code, out, err) = place.cursor(&["set", "--to", "2h ago"]);
    assert!(code == Some(2) && out.is_empty() && err.contains("its position is a seq"), "nobody is fenced: {out}{err}");
    let (code, out, err) = place.cursor(&["set", "--to", "5000"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains(&format!("the transactional id {} is fenced", text("transactional_id"))), "{out}");
    assert!(lines[1].contains(": before: seq 6000, events up to "), "{out}");
    assert!(lines[2].contains(": now: seq 5000, saved ") && lines.len() == 3, "{out}");
    assert_eq!(place.shown()[0]["cluster"].as_str(), Some(text("cluster").as_str()), "it stays of its cluster");

    relay.set_live_limit(9_000);
    let bridge = place.relay(&relay, ONCE);
    bridge.wait_delivered(9_000, SOON);
    assert!(bridge.log_contains("going on behind the saved seq 5000"), "{:?}", bridge.log());
    end(bridge, 9_000);
    let verdict = compare(&TRAFFIC.served(1, 0..9_000), &place.committed());
    let again = TRAFFIC.served(1, 5_000..6_000).len();
    assert_eq!((verdict.missing.len(), verdict.repeated), (0, again), "those behind the seq came again: {verdict}");

    let (code, out, err) = place.cursor(&["delete"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("before: seq 9000") && out.contains("now: none; the next start begins"), "{out}");
    assert!(place.shown().is_empty() && place.positions().is_empty());
    let (code, _, err) = place.cursor(&["delete"]);
    assert!(code == Some(1) && err.contains("no position"), "{err}");

    // A position that is not there yet.
    let name = format!("relay/127.0.0.1:{}", relay.port());
    let (code, out, err) = place.cursor(&["set", "--to", "8000", "--position", &name]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("before: none") && out.contains("now: seq 8000"), "{out}");
    let bridge = place.relay(&relay, ONCE);
    bridge.wait("the start", SOON, |b| b.log_contains("going on behind the saved seq 8000"));
    end(bridge, 9_000);
}

#[test]
fn positions_in_kafka_are_shown_set_and_deleted() {
    for variable in [KAFKA, KAFKA_39] {
        if let Some(broker) = broker(variable) {
            shown_set_and_deleted(&broker);
        }
    }
}

/// A change while it runs: it is fenced, says so, ends with 1, and what it has not committed comes from the position that was set.
fn ends_the_instance(broker: &str, delivery: &[&str]) {
    // More comes when the position is changed: one that has nothing to write does not learn of it.
    let relay = Relay::start(RelayConfig { live_limit: Some(10_000), ..looped(30_000) }).expect("a relay");
    let place = Place::new(broker, "cursor-fence");
    let mut running = place.relay(&relay, delivery);
    running.wait_delivered(5_000, SOON);
    running.wait("a save", SOON, |_| place.seq() > Some(2_000));
    let (code, out, err) = place.cursor(&["set", "--to", "1000"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    relay.set_live_limit(20_000);
    assert_eq!(running.end(SOON).code(), Some(1), "{}", running.log().join("\n"));
    assert!(running.log_contains("fenced: another atkafka"), "{}", running.log().join("\n"));
    assert_eq!(place.seq(), Some(1_000), "nothing was written behind it");
    let mut running = place.relay(&relay, delivery);
    running.wait_delivered(5_000, SOON);
    assert!(running.log_contains("going on behind the saved seq 1000"), "{:?}", running.log());
    running.wait("a save", SOON, |_| place.seq() > Some(2_000));
    let (code, out, err) = place.cursor(&["delete"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    relay.set_live_limit(30_000);
    assert_eq!(running.end(SOON).code(), Some(1), "{}", running.log().join("\n"));
    assert_eq!(place.seq(), None);
}

#[test]
fn a_change_ends_the_instance_that_runs() {
    for variable in [KAFKA, KAFKA_39] {
        if let Some(broker) = broker(variable) {
            ends_the_instance(&broker, ONCE);
            ends_the_instance(&broker, KAFKA_STORE);
        }
    }
}

/// A standby goes on from where the position was set to.
#[test]
fn a_change_hands_over_to_the_standby() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(RelayConfig { live_limit: Some(10_000), ..looped(20_000) }).expect("a relay");
    let place = Place::new(&broker, "cursor-standby");
    let flags = ["--delivery", "exactly-once", "--standby", "--takeover-after", "6s", "--instance-id", &place.topic];
    let mut first = place.relay(&relay, &flags);
    first.wait_delivered(2_000, SOON);
    let second = place.relay(&relay, &flags);
    second.wait("a standby", SOON, |b| b.metric("atkafka_standby") == 1.0);
    let (code, out, err) = place.cursor(&["set", "--to", "1000", "--instance-id", &place.topic]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains(&format!("the transactional id atkafka-{} is fenced", place.topic)), "{out}");
    relay.set_live_limit(20_000);
    assert_eq!(first.end(SOON).code(), Some(1), "{}", first.log().join("\n"));
    second.wait("it goes on", SOON, |b| b.log_contains("going on behind the saved seq 1000"));
    second.wait_delivered(2_000, SOON);
}

#[test]
fn of_several_positions_in_a_topic_one_is_chosen() {
    let Some(broker) = broker(KAFKA) else { return };
    let topic = unique("cursors");
    create_topic(&broker, &topic, 1, &[("cleanup.policy", "compact")]);
    let cursor = |args: &[&str]| {
        run(&[&["cursor"], args, &["--bootstrap-servers", &broker, "--cursor-topic", &topic]].concat(), &[])
    };
    let set = |position: &str, more: &[&str]| {
        let (code, _, err) = cursor(&[&["set", "--position", position, "--output-topic", "events"], more].concat());
        assert_eq!(code, Some(0), "{err}");
    };
    set("relay/a.example", &["--to", "7"]);
    set("relay/a.example", &["--to", "8", "--instance-id", "blue"]);
    set("ozone/pds.example+did:plc:x", &["--to", "2026-01-01T00:00:00Z"]);
    let (_, table, _) = cursor(&["show"]);
    assert!(table.lines().count() == 4 && table.contains("INSTANCE") && table.contains("blue"), "{table}");
    let (code, _, err) = cursor(&["delete"]);
    assert!(code == Some(2) && err.contains("3 positions are meant"), "{err}");
    let (code, out, _) = cursor(&["delete", "--position", "relay/a.example", "--instance-id", "blue"]);
    assert!(code == Some(0) && out.contains("atkafka-blue") && out.contains("before: seq 8"), "{out}");
    let (code, out, _) = cursor(&["delete", "--position", "relay/a.example"]);
    assert!(code == Some(0) && out.contains("before: seq 7"), "{out}");
    let (_, table, _) = cursor(&["show"]);
    assert!(table.lines().count() == 2 && table.contains("2026-01-01T00:00:00.000Z"), "{table}");
    // Who had a position that is deleted is fenced for a new one: an instance with several hosts has another identity.
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &broker).create().expect("a producer");
    let key = "{\"source\":\"relay\",\"host\":\"c.example\",\"output\":\"events\",\"instance\":\"\"}";
    let headers = OwnedHeaders::new().insert(Header { key: "writer", value: Some("atkafka-of-many") });
    let record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&topic).partition(0).key(key).headers(headers);
    producer.send(record).map_err(|(e, _)| e).expect("queued");
    producer.flush(SOON).expect("delivered");
    assert_eq!(cursor(&["show"]).1.lines().count(), 2, "none of them is shown");
    let new = ["set", "--position", "relay/c.example", "--output-topic", "events", "--to", "9"];
    let (code, out, err) = cursor(&new);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("the transactional id atkafka-of-many is fenced") && out.contains("before: none"), "{out}");
}

/// Records of others in the cursor topic, also such as look like positions of ours, cost no memory.
#[test]
fn what_others_write_to_the_cursor_topic_costs_no_memory() {
    let Some(broker) = broker(KAFKA) else { return };
    const VALUE: usize = 100_000;
    const RECORDS: usize = 2_000;
    let relay = Relay::start(looped(3_000)).expect("a relay");
    let place = Place::new(&broker, "cursor-foreign");
    let quiet = place.relay(&relay, ONCE);
    quiet.wait_delivered(3_000, SOON);
    let before = quiet.peak_memory();
    end(quiet, 3_000);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker)
        .set("queue.buffering.max.kbytes", "400000")
        .create()
        .expect("a producer");
    let (topic, value) = (format!("{}.cursor", place.topic), vec![b'x'; VALUE]);
    for i in 0..RECORDS {
        let key = match i % 3 {
            0 => format!("{{\"source\":\"relay\",\"host\":\"h{i}\",\"output\":\"{}\",\"instance\":\"\"}}", place.topic),
            1 => format!("{{\"source\":\"relay\",\"host\":\"{}\",\"output\":\"t\"}}", "h".repeat(20_000)),
            _ => format!("no key of ours {i}"),
        };
        let sent = producer.send(BaseRecord::to(&topic).partition(0).key(&key).payload(&value));
        sent.map_err(|(e, _)| e).expect("queued");
    }
    producer.flush(Duration::from_secs(60)).expect("delivered");
    let bridge = place.relay(&relay, ONCE);
    bridge.wait("the position", SOON, |b| b.log_contains("going on behind the saved seq 3000"));
    let after = bridge.peak_memory();
    end(bridge, 3_000);
    // 200 MB are read.
    assert!(after < before + (48 << 20), "{} MiB before, {} MiB with them", before >> 20, after >> 20);
    assert_eq!(place.shown().iter().filter(|p| p["seq"].as_u64() == Some(3_000)).count(), 1);
    // The broker is shared.
    let deleted = pollster::block_on(admin(&broker).delete_topics(&[&topic], &AdminOptions::new()));
    deleted.expect("an answer").into_iter().for_each(|deleted| drop(deleted.expect("deleted")));
}

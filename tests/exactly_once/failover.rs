//! `--standby`: of two instances one works, and the other takes over when it is killed, stopped or silent. A consumer that reads
//! committed records sees each event once.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{Relay, RelayConfig};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sonic_rs::JsonValueTrait;

use crate::cluster::Cluster;
use crate::oracle::compare;
use crate::support::*;
use crate::{Place, SOON, TRAFFIC, create_topic, end, looped};

const FRAMES: u64 = 30_000;
/// So many are there for the first instance: some are left for whoever takes over, however slow the machine is.
const FIRST: u64 = 20_000;
const RATE: f64 = 1_000.0;
const STANDBY: &[&str] = &["--delivery", "exactly-once", "--standby", "--takeover-after", "6s"];
/// So long that a take-over within the time of a test has another reason.
const PATIENT: &[&str] = &["--delivery", "exactly-once", "--standby", "--takeover-after", "5m"];

fn relay() -> Relay {
    Relay::start(RelayConfig { rate: RATE, live_limit: Some(FIRST), ..looped(FRAMES) }).expect("a relay")
}

fn delivered(bridge: &Bridge) -> f64 {
    bridge.metric("atkafka_produced_events{status=\"ok\"}")
}

fn standby(place: &Place, relay: &Relay, more: &[&str]) -> Bridge {
    let bridge = place.relay(relay, more);
    stands_by(&bridge);
    bridge
}

fn stands_by(bridge: &Bridge) {
    bridge.wait("standby", SOON, |b| b.get("/readyz") == Some((200, "standby\n".into())));
}

/// One at work, which has delivered something, and one in wait.
fn pair(place: &Place, relay: &Relay, more: &[&str]) -> (Bridge, Bridge) {
    let first = place.relay(relay, more);
    first.wait_delivered(1_000, SOON);
    (first, standby(place, relay, more))
}

/// The standby delivers, up to `frames`. How long it took until it had begun.
fn takes_over(bridge: &Bridge, relay: &Relay, frames: u64) -> Duration {
    let began = Instant::now();
    relay.set_live_limit(frames);
    bridge.wait("it has taken over", SOON, |b| delivered(b) > 0.0);
    assert_eq!(bridge.metric("atkafka_standby"), 0.0);
    began.elapsed()
}

fn each_once(place: &Place, total: u64) {
    compare(&TRAFFIC.served(1, 0..total), &place.committed()).once();
    assert_eq!(place.seq(), Some(total), "the position is that of the last event");
}

fn brokers() -> impl Iterator<Item = String> {
    [KAFKA, KAFKA_39].into_iter().filter_map(broker)
}

#[test]
fn when_the_instance_at_work_is_killed_the_standby_goes_on_and_each_event_is_seen_once() {
    for broker in brokers() {
        let (relay, place) = (relay(), Place::new(&broker, "standby-killed"));
        let (first, second) = pair(&place, &relay, STANDBY);
        first.kill();
        println!("{broker}: killed, and the standby delivers after {:?}", takes_over(&second, &relay, FRAMES));
        end(second, FRAMES);
        each_once(&place, FRAMES);
    }
}

#[test]
fn an_instance_that_was_frozen_is_fenced_says_so_and_ends_with_1() {
    for broker in brokers() {
        let (relay, place) = (relay(), Place::new(&broker, "standby-frozen"));
        let (mut first, second) = pair(&place, &relay, STANDBY);
        first.signal("STOP");
        println!("{broker}: frozen, and the standby delivers after {:?}", takes_over(&second, &relay, FRAMES));
        first.signal("CONT");
        assert_eq!(first.end(SOON).code(), Some(1), "{}", first.log().join("\n"));
        let fenced: Vec<String> =
            first.log().into_iter().filter(|line| line.contains("fenced: another atkafka")).collect();
        assert_eq!(fenced.len(), 1, "{}", first.log().join("\n"));
        end(second, FRAMES);
        each_once(&place, FRAMES);
    }
}

#[test]
fn a_stop_hands_over_at_once_and_others_that_come_and_go_take_nothing_away() {
    for broker in brokers() {
        let (relay, place) = (relay(), Place::new(&broker, "standby-stopped"));
        let (first, second) = pair(&place, &relay, PATIENT);
        let third = standby(&place, &relay, PATIENT);
        let (code, log) = third.stop();
        assert_eq!(code, Some(0), "{log:?}");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!((first.metric("atkafka_standby"), second.metric("atkafka_standby")), (0.0, 1.0));
        let (code, log) = first.stop();
        assert_eq!(code, Some(0), "{log:?}");
        println!("{broker}: stopped, and the standby delivers after {:?}", takes_over(&second, &relay, FRAMES - 5_000));
        // And back.
        let first = standby(&place, &relay, PATIENT);
        let (code, log) = second.stop();
        assert_eq!(code, Some(0), "{log:?}");
        takes_over(&first, &relay, FRAMES);
        end(first, FRAMES);
        each_once(&place, FRAMES);
    }
}

#[test]
fn a_standby_is_well_and_says_that_it_waits() {
    let Some(broker) = broker(KAFKA) else { return };
    let (relay, place) = (relay(), Place::new(&broker, "standby-well"));
    let first = place.relay(&relay, PATIENT);
    first.wait_delivered(100, SOON);
    let manager = folder("manager").join("socket");
    let socket = UnixDatagram::bind(&manager).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("set");
    let url = relay.url();
    let source = ["firehose", "relay", "--relay-host", &url, "--cursor", "oldest"];
    let kafka = ["--bootstrap-servers", &broker, "--output-topic", &place.topic, "--state-dir", &place.state];
    let path = manager.to_string_lossy();
    let env = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "1000000")];
    let second = Bridge::start_with(&[&source[..], &kafka, PATIENT].concat(), &env);
    stands_by(&second);
    assert_eq!((second.metric("atkafka_standby"), first.metric("atkafka_standby")), (1.0, 0.0));
    let status: sonic_rs::Value = sonic_rs::from_str(&second.get("/status").expect("an answer").1).expect("JSON");
    assert_eq!(status.get("standby").as_bool(), Some(true));
    assert_eq!(status.get("ready").as_bool(), Some(true));
    let source = status.get("sources").and_then(|sources| sources.get(0).cloned()).expect("a source");
    assert_eq!(source.get("state").as_str(), Some("standby"));
    assert!(source.get("lag_seconds").is_null(), "{source:?}");
    // What the watchdog and `systemctl status` hear.
    let mut heard = Vec::new();
    while heard.iter().filter(|text| *text == "WATCHDOG=1").count() < 4 {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("the watchdog is fed");
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    assert!(heard.contains(&"READY=1\nSTATUS=standby".into()), "{heard:?}");
    second.wait("a status line", SOON, |b| b.log_contains("standby: another instance works; received 0/s"));
    let alerting: Vec<String> =
        second.metrics().into_keys().filter(|name| name.starts_with("atkafka_connected")).collect();
    assert!(alerting.is_empty(), "it is not connected to anything, and should not be: {alerting:?}");
    let (code, log) = second.stop();
    assert_eq!(code, Some(0), "{log:?}");
    assert!(!log.iter().any(|line| line.contains(" WARN ") || line.contains(" ERROR ")), "{log:?}");
}

#[test]
fn each_instance_id_has_a_position_and_transactions_of_its_own() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 3_000;
    let relay = Relay::start(looped(total)).expect("a relay");
    let place = Place::new(&broker, "standby-ids");
    end(place.relay(&relay, &["--delivery", "exactly-once"]), total);
    let ids = ["one", "two"].map(|id| [&["--delivery", "exactly-once", "--instance-id", id][..]].concat());
    // Neither fences the other.
    let both = ids.each_ref().map(|id| place.relay(&relay, id));
    for bridge in both {
        // Whoever gives a name later is told that the position is another one.
        bridge.wait("a warning", SOON, |b| b.log_contains("leave out --instance-id"));
        end(bridge, total);
    }
    let verdict = compare(&TRAFFIC.served(1, 0..total), &place.committed());
    assert_eq!((verdict.missing.len(), verdict.repeated), (0, 2 * TRAFFIC.served(1, 0..total).len()), "{verdict}");
    let again = place.relay(&relay, &ids[1]);
    again.wait("it goes on", SOON, |b| b.log_contains("going on behind the saved seq 3000"));
}

#[test]
fn what_cannot_stand_by_is_refused_with_the_reason() {
    let base = ["firehose", "relay", "--bootstrap-servers", "127.0.0.1:1", "--output-topic", "t"];
    let once = ["--delivery", "exactly-once"];
    for (flags, part) in [
        (&["--standby"][..], "--standby: needs --delivery exactly-once"),
        (&["--standby", "--cursor-store", "kafka"], "--standby: needs --delivery exactly-once"),
        (&["--takeover-after", "7s"], "goes with --standby"),
        (&["--instance-id", "a"], "goes with --cursor-store kafka"),
        (&[&once[..], &["--instance-id", "a b"]].concat(), "--instance-id"),
        (&[&once[..], &["--standby", "--takeover-after", "5s"]].concat(), "from 6s to 5m"),
        (&[&once[..], &["--standby", "--takeover-after", "6m"]].concat(), "from 6s to 5m"),
        (&[&once[..], &["--standby", "--kafka-client", "kafka"]].concat(), "has no transactions"),
    ] {
        let (code, _, err) = run(&[&base, flags].concat(), &[]);
        assert!(code == Some(2) && err.contains(part), "{flags:?}: {code:?} {err}");
    }
    let (code, _, err) = run(&["firehose", "relay", "--standby"], &[]);
    assert!(code == Some(2) && err.contains("--standby: needs --bootstrap-servers"), "{err}");
}

/// Each of two instances would have one partition, and take itself for the one that works.
#[test]
fn a_standby_needs_a_cursor_topic_of_one_partition() {
    let Some(broker) = broker(KAFKA) else { return };
    let (relay, place) = (relay(), Place::new(&broker, "standby-partitions"));
    create_topic(&broker, &format!("{}.cursor", place.topic), 2, &[("cleanup.policy", "compact")]);
    let mut bridge = place.relay(&relay, STANDBY);
    assert_eq!(bridge.end(SOON).code(), Some(2), "{}", bridge.log().join("\n"));
    assert!(bridge.log_contains("has 2 partitions"), "{}", bridge.log().join("\n"));
    // Without a standby only the first one is used.
    let bridge = place.relay(&relay, &["--delivery", "exactly-once"]);
    bridge.wait_delivered(1_000, SOON);
}

/// The broker that coordinates `id`, which is a group or a transactional id: the leader of a partition of `topic`.
fn coordinator(brokers: &str, topic: &str, id: &str) -> i32 {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), SOON).expect("metadata");
    let partitions = metadata.topics()[0].partitions();
    // As Java's String.hashCode.
    let hash = id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    let partition = (hash & i32::MAX) % partitions.len() as i32;
    partitions.iter().find(|p| p.id() == partition).expect("the partition").leader()
}

/// With a replica of everything on each of three brokers, those that coordinate the group and the transactions are killed.
#[test]
fn brokers_that_coordinate_are_killed_and_each_event_is_seen_once() {
    if broker(KAFKA).is_none() {
        return;
    }
    let cluster = Cluster::start("4.3.1", 31_792, folder("cluster"));
    let relay =
        Relay::start(RelayConfig { rate: RATE, live_limit: Some(FIRST / 2), ..looped(FRAMES) }).expect("a relay");
    let place = Place::new(&cluster.addresses(), "standby-cluster");
    // Longer than the brokers take to see that one of them is gone.
    let named = ["--delivery", "exactly-once", "--standby", "--takeover-after", "20s", "--instance-id", "cluster"];
    let (first, second) = pair(&place, &relay, &named);
    for (topic, frames) in [("__consumer_offsets", FIRST), ("__transaction_state", FRAMES - 5_000)] {
        let node = coordinator(&cluster.addresses(), topic, "atkafka-cluster");
        println!("{topic}: node {node} is killed");
        cluster.kill(node);
        relay.set_live_limit(frames);
        first.wait_delivered(frames, SOON);
        cluster.again(node);
    }
    stands_by(&second);
    first.kill();
    println!("killed, and the standby delivers after {:?}", takes_over(&second, &relay, FRAMES));
    end(second, FRAMES);
    each_once(&place, FRAMES);
}

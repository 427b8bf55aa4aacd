//! What the broker refuses while events flow: the others arrive, in order, and soon.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use atkafka::atproto::time::parse_ms;
use atkafka::clock::now_ms;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use sonic_rs::JsonValueTrait;

use crate::oracle::{Traffic, compare};
use crate::support::kafka_script::Lists;
use crate::support::*;
use crate::{SASL, SOON, admin};

const FRAMES: u64 = 12_000;
/// Frames a second.
const RATE: f64 = 2_000.0;

/// A topic that keeps the old events of the tests.
fn create_topic(broker: &str, topic: &str, partitions: i32) {
    crate::create_topic(broker, topic, partitions, &[("retention.ms", "-1")]);
}

/// Sets one property of a topic; the others go back to their defaults, but for the retention.
fn set(broker: &str, topic: &str, property: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("retention.ms", "-1").set(property, value);
    let answer = pollster::block_on(admin(broker).alter_configs([&change], &AdminOptions::new())).expect("an answer");
    answer.into_iter().for_each(|a| drop(a.expect("changed")));
}

struct Flowing {
    traffic: Traffic,
    relay: Relay,
    bridge: Bridge,
}

fn start(broker: &str, topic: &str, dead: &str) -> Flowing {
    start_with(broker, topic, &["--dead-letter-topic", dead])
}

fn start_with(broker: &str, topic: &str, more: &[&str]) -> Flowing {
    let traffic = Traffic::network(53, 60, 3_000);
    let config = RelayConfig { rate: RATE, from_start: true, ..RelayConfig::looped(traffic.frames.clone(), FRAMES) };
    let relay = Relay::start(config).expect("a relay");
    let (url, state) = (relay.url(), folder("state"));
    let state = state.to_string_lossy();
    let args = ["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker, "--output-topic", topic];
    let bridge = Bridge::start(&[&args[..], &["--state-dir", &state, "--cursor", "oldest"], more].concat());
    Flowing { traffic, relay, bridge }
}

/// One topic, whose limit falls below some of the events while 2,000 a second flow, and rises again. What is over the limit
/// meanwhile is a dead letter; everything else arrives in order, at the speed of before.
#[test]
fn a_limit_that_is_lowered_and_raised_costs_only_the_records_over_it() {
    let Some(broker) = broker(KAFKA) else { return };
    let (topic, dead) = (unique("lowered"), unique("lowered-dead"));
    create_topic(&broker, &topic, 4);
    create_topic(&broker, &dead, 1);
    let run = start(&broker, &topic, &dead);
    run.bridge.wait_delivered(FRAMES / 6, SOON);
    const LIMIT: usize = 900;
    set(&broker, &topic, "max.message.bytes", &LIMIT.to_string());
    run.bridge.wait_delivered(FRAMES / 2, SOON);
    set(&broker, &topic, "max.message.bytes", "1048588");
    let back = Instant::now();
    run.bridge.wait_delivered(FRAMES, SOON);
    println!("the last {} frames in {:.1} s", FRAMES / 2, back.elapsed().as_secs_f64());
    let (code, log) = run.bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");

    let arrived = consume(&broker, &topic);
    let letters = letters(&broker, &dead);
    assert!(!letters.is_empty(), "some are over the limit");
    for letter in &letters {
        assert!(letter.value.len() > LIMIT / 2, "{}", String::from_utf8_lossy(&letter.value));
        assert_eq!(letter.header("reason").as_deref(), Some("too_large"));
    }
    let expected = run.traffic.served(1, 0..FRAMES);
    let verdict = compare(&expected, &arrived);
    assert!(verdict.out_of_order.is_empty() && verdict.foreign.is_empty(), "{verdict}");
    assert_eq!(verdict.missing.len(), letters.len(), "each is there or a dead letter: {verdict}");
    let missing: HashSet<u64> = verdict.missing.iter().map(|event| event.seq).collect();
    for letter in &letters {
        let seq = letter.json()["seq"].as_u64().expect("seq");
        assert!(missing.contains(&seq), "{seq} is there and a dead letter");
    }
}

/// The simulated events are of 2024. A topic that takes only the last hour gets them all, with times of its own choice, and
/// in order; also where the limit comes while they flow.
#[test]
fn a_time_that_the_topic_refuses_is_moved_and_nothing_is_lost() {
    let Some(broker) = broker(KAFKA) else { return };
    const HOUR: i64 = 3_600_000;
    for limited_from_the_start in [true, false] {
        let (topic, dead) = (unique("times"), unique("times-dead"));
        create_topic(&broker, &topic, 4);
        create_topic(&broker, &dead, 1);
        let limit = || set(&broker, &topic, "message.timestamp.before.max.ms", &HOUR.to_string());
        if limited_from_the_start {
            limit();
        }
        let began = now_ms();
        let run = start(&broker, &topic, &dead);
        if !limited_from_the_start {
            run.bridge.wait_delivered(FRAMES / 4, SOON);
            limit();
        }
        run.bridge.wait_delivered(FRAMES, SOON);
        assert!(run.bridge.metric("atkafka_moved_timestamps") > 0.0);
        assert_eq!(run.bridge.metric("atkafka_dead_letters"), 0.0);
        let (code, log) = run.bridge.stop();
        assert_eq!(code, Some(0), "{log:?}");
        let said = log.iter().filter(|l| l.contains("does not take the times of some events")).count();
        assert_eq!(said, 1, "{log:?}");

        let arrived = consume(&broker, &topic);
        let verdict = compare(&run.traffic.served(1, 0..FRAMES), &arrived);
        assert!(verdict.missing.is_empty() && verdict.out_of_order.is_empty(), "{verdict}");
        assert!(letters(&broker, &dead).is_empty());
        let own = |a: &Arrived| a.json()["timestamp"].as_str().and_then(parse_ms);
        let moved: Vec<&Arrived> = arrived.iter().filter(|a| a.time_ms != own(a)).collect();
        assert!(moved.len() > arrived.len() / 2, "{} of {}", moved.len(), arrived.len());
        assert!(limited_from_the_start == (moved.len() == arrived.len()), "{} of {}", moved.len(), arrived.len());
        // Nearest: an hour before the broker's clock, and not the present.
        for record in moved {
            let at = record.time_ms.expect("a time");
            assert!((began - HOUR..now_ms() - HOUR / 2).contains(&at), "{at}");
        }
    }
}

/// The same where the first record that is refused is alone in its batch, so that it is known which one is meant.
#[test]
fn a_time_that_is_refused_of_a_record_alone_is_moved() {
    let Some(broker) = broker(KAFKA) else { return };
    for delivery in ["at-least-once", "exactly-once"] {
        let (topic, dead) = (unique("times-alone"), unique("times-alone-dead"));
        create_topic(&broker, &topic, 4);
        create_topic(&broker, &dead, 1);
        let run = start_with(&broker, &topic, &["--dead-letter-topic", &dead, "--delivery", delivery]);
        let alone = (2_000..FRAMES).find(|n| run.traffic.served(1, *n..n + 1).len() == 1).expect("one event");
        run.relay.set_live_limit(alone);
        run.bridge.wait_delivered(alone, SOON);
        set(&broker, &topic, "message.timestamp.before.max.ms", "3600000");
        // Until the broker goes by it.
        std::thread::sleep(Duration::from_secs(2));
        for more in 1..=3 {
            run.relay.set_live_limit(alone + more);
            run.bridge.wait_delivered(alone + more, SOON);
        }
        let expected = run.traffic.served(1, 0..alone + 3);
        let moved = run.traffic.served(1, alone..alone + 3).len() as f64;
        // One may be moved several times, if its transaction is sent again.
        assert!(run.bridge.metric("atkafka_moved_timestamps") >= moved, "{delivery}");
        assert_eq!(run.bridge.metric("atkafka_dead_letters"), 0.0, "{delivery}: {:?}", run.bridge.log());
        let (code, log) = run.bridge.stop();
        assert_eq!(code, Some(0), "{log:?}");
        // A topic of transactions ends in what is no record: `tests/exactly_once` reads those.
        if delivery == "at-least-once" {
            let verdict = compare(&expected, &consume(&broker, &topic));
            assert!(verdict.missing.is_empty() && verdict.out_of_order.is_empty(), "{verdict}");
        }
    }
}

/// Taken away and given back while 2,000 a second flow: the records wait, and arrive in order. The user may not read the
/// limits of the topic, which takes only times of the last hour: that is learned from the first refusal.
#[test]
fn a_right_that_is_taken_away_and_given_back_costs_nothing_but_time() {
    let (Some(broker), Some(sasl)) = (broker(KAFKA), broker(SASL)) else { return };
    for times_are_limited in [true, false] {
        rights_come_and_go(&broker, &sasl, times_are_limited);
    }
}

fn rights_come_and_go(broker: &str, sasl: &str, times_are_limited: bool) {
    let topic = unique("rights");
    create_topic(broker, &topic, 4);
    if times_are_limited {
        set(broker, &topic, "message.timestamp.before.max.ms", "3600000");
    }
    let (lists, resource) = (Lists::of(broker), ["--topic", &topic]);
    lists.allow("Describe", &resource);
    lists.allow("Write", &resource);
    let login = ["--sasl-mechanism", "PLAIN", "--sasl-username", "limited", "--sasl-password", "secret"];
    let run = start_with(sasl, &topic, &login);
    // The script takes as long as it likes.
    run.relay.set_live_limit(FRAMES / 2);
    run.bridge.wait_delivered(FRAMES / 6, SOON);
    assert!(run.bridge.log_contains("the limits of topic"), "{:?}", run.bridge.log());
    lists.take_away("Write", &resource);
    run.relay.set_live_limit(FRAMES);
    run.bridge.wait("it says so", SOON, |b| {
        b.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("authoriz"))
    });
    let stopped_at = run.bridge.metric("atkafka_last_seq_delivered");
    assert!(stopped_at < FRAMES as f64);
    lists.allow("Write", &resource);
    run.bridge.wait_delivered(FRAMES, SOON);
    assert_eq!(run.bridge.metric("atkafka_dead_letters"), 0.0);
    let (code, log) = run.bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");
    let arrived = consume(broker, &topic);
    let verdict = compare(&run.traffic.served(1, 0..FRAMES), &arrived);
    assert!(verdict.missing.is_empty() && verdict.out_of_order.is_empty(), "{verdict}");
    // What was refused and sent again has the time of before.
    let own = |a: &Arrived| a.json()["timestamp"].as_str().and_then(parse_ms);
    let moved = arrived.iter().filter(|a| a.time_ms != own(a)).count();
    assert_eq!(moved, if times_are_limited { arrived.len() } else { 0 });
    println!("refused at seq {stopped_at}; {verdict}");
}

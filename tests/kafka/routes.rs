//! Events by topic: `--route`.

use std::collections::{BTreeMap, HashMap};

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::{JsonValueTrait, Value};

use crate::support::*;
use crate::{SOON, create_topic};

fn fixture(count: usize) -> Vec<Vec<u8>> {
    let mut all = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    all.truncate(count);
    all
}

/// What an event is routed by: its collection, or its kind.
fn kind(event: &Value) -> String {
    let collection = event.pointer(["operation", "collection"]).and_then(|c| c.as_str());
    collection
        .or_else(|| ["identity", "account", "sync", "info"].into_iter().find(|kind| event.get(kind).is_some()))
        .unwrap_or("?")
        .into()
}

/// The same by hand.
fn expected(kind: &str) -> &'static str {
    match kind {
        "app.bsky.feed.post" => "posts",
        "identity" | "account" => "accounts",
        kind if kind.starts_with("app.bsky.feed.") => "feed",
        kind if kind.starts_with("app.bsky.") => "bsky",
        _ => "rest",
    }
}

#[test]
fn each_event_goes_to_its_topic_in_order() {
    for (variable, client) in [(KAFKA, "librdkafka"), (KAFKA_39, "kafka")] {
        let Some(broker) = broker(variable) else { return };
        let count = 3_000;
        let relay = Relay::start(RelayConfig { from_start: true, ..RelayConfig::looped(fixture(2_000), count) })
            .expect("a relay");
        let name = |topic: &str| format!("{}-{topic}", relay.url().rsplit(':').next().unwrap_or_default());
        let run = unique("routes");
        let topic = |topic: &str| format!("{run}-{}-{topic}", name("t"));
        let routes = [
            format!("app.bsky.feed.post={}", topic("posts")),
            format!("app.bsky.feed.*={}", topic("feed")),
            format!("kind:identity={}", topic("accounts")),
            format!("kind:account={}", topic("accounts")),
            format!("app.bsky.*={}", topic("bsky")),
        ];
        let state = folder("routes");
        let state = state.display().to_string();
        let (output, url) = (topic("rest"), relay.url());
        let start = |routes: &[String]| {
            let mut args = vec!["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--state-dir", &state];
            args.extend(["--bootstrap-servers", &broker, "--output-topic", &output, "--kafka-client", client]);
            for route in routes {
                args.extend(["--route", route]);
            }
            Bridge::start(&args)
        };
        let bridge = start(&routes);
        bridge.wait_delivered(count, SOON);
        let mut of_each: BTreeMap<&str, usize> = BTreeMap::new();
        for to in ["posts", "feed", "accounts", "bsky", "rest"] {
            let mut last: HashMap<i32, u64> = HashMap::new();
            let arrived = consume(&broker, &topic(to));
            for record in &arrived {
                let event = record.json();
                assert_eq!(expected(&kind(&event)), to, "{event:?}");
                let seq = event.get("seq").and_then(|seq| seq.as_u64()).unwrap_or(0);
                let last = last.entry(record.partition).or_default();
                assert!(seq >= *last, "{to}: {seq} behind {last}");
                *last = seq;
            }
            let counted = bridge.metric(&format!("atkafka_topic_events{{status=\"ok\",topic=\"{}\"}}", topic(to)));
            assert_eq!(counted as usize, arrived.len(), "{to}");
            of_each.insert(to, arrived.len());
        }
        let all = bridge.metric("atkafka_produced_events{status=\"ok\"}") as usize;
        assert_eq!(of_each.values().sum::<usize>(), all, "{of_each:?}");
        assert!(of_each.values().all(|count| *count > 0), "the fixture has some for each: {of_each:?}");
        assert_eq!(bridge.stop().0, Some(0));
        // The position is of the whole set.
        let bridge = start(&routes[..1]);
        bridge.wait("the changed set", SOON, |b| b.log_contains("other routes than those of the saved position"));
        bridge.wait("the position", SOON, |b| b.log_contains("going on behind the saved seq"));
        assert_eq!(bridge.stop().0, Some(0));
    }
}

#[test]
fn each_topic_has_limits_of_its_own_and_a_dead_letter_names_it() {
    let Some(broker) = broker(KAFKA) else { return };
    let topic = unique("route-limits");
    let (likes, dead) = (format!("{topic}-likes"), format!("{topic}-dead"));
    create_topic(&broker, &likes, 1, &[("max.message.bytes", "300"), ("retention.ms", "-1")]);
    let relay = Relay::start(RelayConfig::looped(fixture(1_500), 1_500)).expect("a relay");
    let route = format!("app.bsky.feed.like={likes}");
    let args =
        ["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest", "--bootstrap-servers", &broker];
    let state = folder("route-limits").display().to_string();
    let more = ["--output-topic", &topic, "--route", &route, "--dead-letter-topic", &dead, "--state-dir", &state];
    let bridge = Bridge::start(&[&args[..], &more].concat());
    bridge.wait_delivered(1_500, SOON);
    let letters = consume(&broker, &dead);
    assert!(letters.len() > 5, "{}", letters.len());
    for letter in &letters {
        assert_eq!(letter.header("reason").as_deref(), Some("too_large"));
        assert_eq!(letter.header("topic").as_deref(), Some(likes.as_str()));
    }
    assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"too_large\"}") as usize, letters.len());
    assert!(consume(&broker, &topic).iter().any(|record| record.value.len() > 300), "the other topic takes more");
}

#[test]
fn routes_that_cannot_work_are_refused_at_the_start() {
    let base = ["firehose", "relay", "--bootstrap-servers", "127.0.0.1:1", "--output-topic", "t"];
    for (more, words) in [
        (vec!["--route", "posts"], "PATTERN=TOPIC"),
        (vec!["--route", "app.bsky.feed.post=a b"], "no name of a topic"),
        (vec!["--route", "kind:commit=a"], "kind:identity"),
        (vec!["--route", "app.bsky.*=dead", "--dead-letter-topic", "dead"], "the same as a topic of events"),
    ] {
        let (code, _, log) = run(&[&base[..], &more].concat(), &[]);
        assert!(code == Some(2) && log.contains(words) && log.lines().count() == 1, "{more:?}: {log}");
    }
    let (code, _, log) = run(&["firehose", "relay", "--route", "app.bsky.*=a"], &[]);
    assert!(code == Some(2) && log.contains("--bootstrap-servers"), "{log}");
}

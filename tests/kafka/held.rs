//! A topic that refuses for long, beside others that do not.

use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::oracle::{Event, Traffic, compare};
use crate::support::kafka_script::Lists;
use crate::support::*;
use crate::{SASL, SOON, create_topic};

const FRAMES: u64 = 40_000;
/// Frames that are delivered before.
const BEFORE: u64 = 4_000;
const NAMES: [&str; 5] = ["posts", "likes", "feed", "graph", "rest"];
const ROUTES: [(&str, &str); 4] = [
    ("app.bsky.feed.post", "posts"),
    ("app.bsky.feed.like", "likes"),
    ("app.bsky.feed.*", "feed"),
    ("app.bsky.graph.*", "graph"),
];

/// The right to write likes is taken away, or all rights, so that the topic seems not to exist. The other topics flow on until
/// the memory limit is in flight, the position waits, and with the rights back everything arrives in order.
#[test]
fn a_topic_that_refuses_holds_the_others_only_when_the_memory_limit_is_in_flight() {
    for rights in [&["Write"][..], &["Write", "Describe"]] {
        without(rights);
    }
}

fn without(rights: &[&str]) {
    let (Some(broker), Some(sasl)) = (broker(KAFKA), broker(SASL)) else { return };
    let traffic = Traffic::network(54, 60, 3_000);
    let config = RelayConfig { live_limit: Some(BEFORE), ..RelayConfig::looped(traffic.frames.clone(), FRAMES) };
    let relay = Relay::start(config).expect("a relay");
    let run = unique("held");
    let topic = |name: &str| format!("{run}-{name}");
    NAMES.iter().for_each(|name| create_topic(&broker, &topic(name), 4, &[("retention.ms", "-1")]));
    let likes = topic("likes");
    let (lists, resource) = (Lists::of(&broker), ["--topic", &likes]);
    lists.allow("Describe", &resource);
    lists.allow("Write", &resource);
    let routes = ROUTES.map(|(pattern, name)| format!("--route={pattern}={}", topic(name)));
    let (url, state, rest) = (relay.url(), folder("state").display().to_string(), topic("rest"));
    let mut args = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &sasl];
    args.extend(["--output-topic", &rest, "--state-dir", &state, "--cursor", "oldest", "--memory-limit", "96MiB"]);
    args.extend(["--sasl-mechanism", "PLAIN", "--sasl-username", "limited", "--sasl-password", "secret"]);
    args.extend(routes.iter().map(String::as_str));
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(BEFORE, SOON);

    let ok = |name: &str| bridge.metric(&format!("atkafka_topic_events{{status=\"ok\",topic=\"{}\"}}", topic(name)));
    // While there are rules for a topic, whoever is not named in them may do nothing.
    lists.allow("AlterConfigs", &resource);
    rights.iter().for_each(|right| lists.take_away(right, &resource));
    let before = NAMES.map(ok);
    relay.set_live_limit(FRAMES);
    bridge.wait("it names the topic", SOON, |b| {
        b.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains(&likes) && why.contains("authoriz"))
    });
    // How far they come is a matter of the limit: 96 MiB are some 17,000 of these frames.
    let began = Instant::now();
    let mut seen = (-1.0, before);
    bridge.wait("the memory limit", SOON, |b| {
        std::thread::sleep(Duration::from_secs(2));
        let now = (b.metric("atkafka_frames_in_flight"), NAMES.map(ok));
        std::mem::replace(&mut seen, now) == now
    });
    let (in_flight, delivered) = seen;
    let more: Vec<f64> = delivered.iter().zip(before).map(|(now, before)| now - before).collect();
    println!("{in_flight} frames in flight after {:.1} s, of each topic {more:?} more", began.elapsed().as_secs_f64());
    assert!(in_flight > 5_000.0);
    for (name, more) in NAMES.iter().zip(&more).filter(|(name, _)| **name != "likes") {
        assert!(*more > 100.0, "{name} flow on: {more}");
    }
    let position = bridge.metric("atkafka_last_seq_delivered");
    assert!(position < BEFORE as f64 + 1_000.0, "the position waits: {position}");
    assert!(bridge.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains(&likes)));

    rights.iter().for_each(|right| lists.allow(right, &resource));
    bridge.wait_delivered(FRAMES, SOON * 2);
    assert!(bridge.log_contains(&format!("topic {likes} takes records again")), "{:?}", bridge.log());
    bridge.wait("ready again", SOON, |b| b.get("/readyz").is_some_and(|(code, _)| code == 200));
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");
    let expected = traffic.served(1, 0..FRAMES);
    for name in NAMES {
        let of_one: Vec<Event> = expected.iter().filter(|event| goes_to(event) == name).cloned().collect();
        compare(&of_one, &consume(&broker, &topic(name))).at_least_once();
    }
}

fn goes_to(event: &Event) -> &'static str {
    let collection = event.what.split([' ', '/']).nth(1).unwrap_or_default();
    let takes = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => collection.starts_with(prefix),
        None => collection == pattern,
    };
    ROUTES.iter().find(|(pattern, _)| takes(pattern)).map_or("rest", |(_, name)| name)
}

//! Tap: its messages as events, its acknowledgements behind the broker's, and what is killed, dropped, refused or silent.

#[path = "tap/connections.rs"]
mod connections;
#[path = "support/flood.rs"]
mod endless;
#[path = "tap/messages.rs"]
mod messages;
#[path = "support/own_broker.rs"]
mod own_broker;
mod support;

use std::collections::{BTreeSet, HashMap};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use atkafka_fixtures::tap::{Flood, Stats, Tap, TapConfig, TapEvent, TapMessage};
use atkafka_fixtures::tid;
use own_broker::Broker;
use sonic_rs::{JsonValueTrait, Value};
use support::*;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// After a SIGTERM.
const STOP: Duration = Duration::from_secs(10);
/// An example of the TID specification, and its time. Not for Kafka, which removes what is so old.
const REV: &str = "3jzfcijpj2z2a";
const CID: &str = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a";
/// A `rev` of now: Kafka keeps for seven days what says when it was.
static NOW: LazyLock<String> = LazyLock::new(|| tid::tid(now_ms() * 1000, 7));

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis()) as u64
}

fn tap(config: TapConfig) -> Tap {
    Tap::start(config).expect("a tap")
}

fn quick() -> TapConfig {
    TapConfig { retry: Duration::from_secs(2), ..TapConfig::default() }
}

fn start(url: &str, more: &[&str]) -> Bridge {
    Bridge::start(&[&["firehose", "tap", "--tap-host", url], more].concat())
}

fn to_kafka<'a>(broker: &'a str, topic: &'a str) -> Vec<&'a str> {
    vec!["--bootstrap-servers", broker, "--output-topic", topic, "--topic-partitions", "4"]
}

/// SIGTERM, which has to end it in order and soon.
fn stop(mut bridge: Bridge) {
    bridge.signal("TERM");
    let status = bridge.end(STOP);
    assert_eq!(status.code(), Some(0), "{}", bridge.log().join("\n"));
}

/// A create of a post that says `n`.
fn post(did: &str, live: bool, n: usize) -> TapEvent {
    let tail = format!(
        r#""rev":"{}","collection":"app.bsky.feed.post","rkey":"k{n}","action":"create","record":{{"$type":"app.bsky.feed.post","n":{n}}},"cid":"{CID}""#,
        *NOW
    );
    TapEvent::record(did, live, &tail)
}

fn did(account: usize) -> String {
    format!("did:plc:account{account}")
}

/// Account and number of a [`post`] that arrived.
fn number(event: &Value) -> (String, usize) {
    let n = event.pointer(sonic_rs::pointer!["operation", "record", "n"]).as_u64().expect("a post");
    (event["did"].as_str().expect("a DID").into(), n as usize)
}

fn numbers(arrived: &[Arrived]) -> Vec<(String, usize)> {
    arrived.iter().map(|a| number(&a.json())).collect()
}

/// Each account's posts came in order, repeats aside. Gives the distinct ones.
fn in_order(arrived: &[(String, usize)]) -> BTreeSet<(String, usize)> {
    let mut last: HashMap<&str, usize> = HashMap::new();
    let mut seen = BTreeSet::new();
    for (did, n) in arrived {
        if seen.insert((did.clone(), *n)) {
            let before = last.insert(did, *n);
            assert!(before.is_none_or(|b| b < *n), "{did}: {n} behind {before:?}");
        }
    }
    seen
}

/// Everything is acknowledged, and only on the connection that carried it.
fn settled(bridge: &Bridge, tap: &Tap) -> Stats {
    bridge.wait("an empty outbox", SOON, |_| tap.outbox() == 0);
    let stats = tap.stats();
    assert_eq!((stats.foreign_acks, &stats.bad_frames), (0, &Vec::new()));
    bridge.wait("empty buffers", SOON, |b| {
        let metrics = b.metrics();
        metrics.get("atkafka_tap_event_buffer_size") == Some(&0.0)
            && metrics.get("atkafka_tap_ack_event_buffer_size") == Some(&0.0)
    });
    stats
}

/// Each waits for the acknowledgement of the one before: a quarter of a second of delay in each would fail it.
#[test]
fn a_chain_of_live_events_is_acknowledged_at_once() {
    let Some(broker) = broker(KAFKA) else { return };
    let tap = tap(TapConfig::default());
    let topic = unique("chain");
    let bridge = start(&tap.url(), &to_kafka(&broker, &topic));
    tap.push([post("did:plc:first", true, 0)]);
    settled(&bridge, &tap);
    let began = Instant::now();
    tap.push((1..=200).map(|n| post("did:plc:chain", true, n)));
    bridge.wait("the whole chain", Duration::from_secs(40), |_| tap.outbox() == 0);
    println!("200 live events of one account: {:?}", began.elapsed());
    stop(bridge);
    let arrived = numbers(&consume(&broker, &topic));
    let chain: Vec<usize> = arrived.iter().filter(|(did, _)| did == "did:plc:chain").map(|(_, n)| *n).collect();
    assert_eq!(chain, (1..=200).collect::<Vec<_>>());
}

/// Connections end right behind messages, and acknowledgements wait for the broker (a long linger) until the next one.
#[test]
fn acknowledgements_of_an_old_connection_never_come_on_a_new_one() {
    let Some(broker) = broker(KAFKA) else { return };
    let tap = tap(TapConfig { endings: (4, 150), ..quick() });
    let topic = unique("drops");
    let args = [&to_kafka(&broker, &topic)[..], &["--kafka-config", "linger.ms=1500"]].concat();
    let total = 1_200;
    tap.push((0..total).map(|n| post(&did(n % 40), n % 10 == 0, n)));
    let bridge = start(&tap.url(), &args);
    bridge.wait("an empty outbox", 3 * SOON, |_| tap.outbox() == 0);
    let stats = settled(&bridge, &tap);
    assert_eq!(stats.connections, 5, "one more than end");
    assert_eq!(bridge.metric("atkafka_reconnects"), 4.0);
    stop(bridge);
    let seen = in_order(&numbers(&consume(&broker, &topic)));
    assert!(seen == (0..total).map(|n| (did(n % 40), n)).collect(), "{} of {total} arrived", seen.len());
    println!("{} messages sent for {total} events", stats.sent.len());
}

#[test]
fn killed_three_times_every_event_arrives_in_the_order_of_its_account() {
    let Some(broker) = broker(KAFKA) else { return };
    let tap = tap(quick());
    let topic = unique("killed");
    let total = 6_000;
    tap.push((0..total).map(|n| post(&did(n % 60), n % 4 == 0, n)));
    for end in 1..=3 {
        let bridge = start(&tap.url(), &to_kafka(&broker, &topic));
        let before = tap.outbox();
        bridge.wait("some of it", SOON, |_| tap.outbox() + 200 * end < before);
        bridge.kill();
    }
    let bridge = start(&tap.url(), &to_kafka(&broker, &topic));
    let stats = settled(&bridge, &tap);
    assert!(stats.connections >= 4);
    stop(bridge);
    let arrived = numbers(&consume(&broker, &topic));
    let seen = in_order(&arrived);
    assert!(seen == (0..total).map(|n| (did(n % 60), n)).collect(), "{} of {total} arrived", seen.len());
    println!("{} records for {total} events", arrived.len());
}

#[test]
fn at_a_stop_all_that_was_delivered_is_acknowledged() {
    let Some(broker) = broker(KAFKA) else { return };
    for round in 0..3 {
        let tap = tap(TapConfig::default());
        let topic = unique("stopped");
        let total = 60_000;
        tap.push((0..total).map(|n| post(&did(n % 5_000), false, n)));
        // What is in flight at the stop is delivered: with the usual limit that could be all of it.
        let args = [to_kafka(&broker, &topic), vec!["--memory-limit", "16MiB"]].concat();
        let bridge = start(&tap.url(), &args);
        bridge.wait("some of it", SOON, |_| tap.outbox() < total - 2_000 * (round + 1));
        stop(bridge);
        let until = Instant::now() + SOON;
        while tap.stats().open > 0 {
            assert!(Instant::now() < until, "the connection is closed");
        }
        let delivered: BTreeSet<u64> = numbers(&consume(&broker, &topic)).iter().map(|(_, n)| *n as u64 + 1).collect();
        let acked: BTreeSet<u64> = tap.stats().acks.iter().map(|(_, id)| *id).collect();
        println!("{} delivered, {} acknowledged, of {total}", delivered.len(), acked.len());
        assert!(delivered.len() < total, "it was stopped in the middle");
        assert_eq!(acked.difference(&delivered).count(), 0, "acknowledged and not delivered");
        assert_eq!(delivered.difference(&acked).count(), 0, "delivered and not acknowledged");
    }
}

#[test]
fn nothing_is_acknowledged_while_the_broker_is_away_and_all_of_it_once_it_is_back() {
    if broker(KAFKA).is_none() {
        return;
    }
    let broker = Broker::start("4.3.1", 34_092, "plain");
    let address = broker.address();
    let tap = tap(quick());
    let topic = unique("away");
    let bridge = start(&tap.url(), &to_kafka(&address, &topic));
    tap.push((0..100).map(|n| post(&did(n % 10), n % 2 == 0, n)));
    settled(&bridge, &tap);
    broker.kill();
    tap.push((100..200).map(|n| post(&did(n % 10), n % 2 == 0, n)));
    bridge.wait("events in flight", SOON, |b| b.metric("atkafka_tap_event_buffer_size") > 0.0);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(tap.outbox(), 100, "no acknowledgement without the broker's");
    // What is in flight dies with the process, too.
    bridge.kill();
    broker.again();
    let bridge = start(&tap.url(), &to_kafka(&address, &topic));
    settled(&bridge, &tap);
    broker.kill();
    tap.push((200..300).map(|n| post(&did(n % 10), n % 2 == 0, n)));
    bridge.wait("events in flight", SOON, |b| b.metric("atkafka_tap_event_buffer_size") > 0.0);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(tap.outbox(), 100, "no acknowledgement without the broker's");
    broker.again();
    settled(&bridge, &tap);
    stop(bridge);
    let arrived = numbers(&consume(&address, &topic));
    assert_eq!(in_order(&arrived), (0..300).map(|n| (did(n % 10), n)).collect());
}

#[test]
fn without_acknowledgements_a_tap_that_wants_none_is_read() {
    let tap = tap(TapConfig { fire_and_forget: true, ..TapConfig::default() });
    tap.push((0..500).map(|n| post(&did(n % 10), n % 2 == 0, n)));
    let bridge = start(&tap.url(), &["--disable-acks"]);
    bridge.wait("the lines", SOON, |b| b.lines().len() == 500);
    settled(&bridge, &tap);
    assert_eq!((tap.stats().acks.len(), bridge.metric("atkafka_acks_sent")), (0, 0.0));
    stop(bridge);
    // And with them, which does no harm.
    let bridge = start(&tap.url(), &[]);
    tap.push((500..1000).map(|n| post(&did(n % 10), n % 2 == 0, n)));
    bridge.wait("the lines", SOON, |b| b.lines().len() == 500);
    bridge.wait("acknowledgements", SOON, |_| tap.stats().acks.len() == 500);
    settled(&bridge, &tap);
    stop(bridge);
}

#[test]
fn four_connections_share_the_queue() {
    let Some(broker) = broker(KAFKA) else { return };
    let tap = tap(quick());
    let topic = unique("four");
    let args = [&to_kafka(&broker, &topic)[..], &["--tap-connections", "4"]].concat();
    let bridge = start(&tap.url(), &args);
    bridge.wait("four connections", SOON, |b| {
        tap.stats().open == 4 && b.get("/readyz").is_some_and(|(status, _)| status == 200)
    });
    let total = 4_000;
    for n in 0..total {
        tap.push([post(&did(n % 100), true, n)]);
    }
    let stats = settled(&bridge, &tap);
    let used: BTreeSet<u64> = stats.sent.iter().map(|(connection, _)| *connection).collect();
    assert!(used.len() > 1, "{used:?}");
    assert_eq!(stats.acks.len(), stats.sent.len(), "each once");
    stop(bridge);
    // All of them are live: their order is that of their acknowledgements, over connections.
    let seen = in_order(&numbers(&consume(&broker, &topic)));
    assert!(seen == (0..total).map(|n| (did(n % 100), n)).collect(), "{} of {total} arrived", seen.len());
}

/// Messages of 700 bytes, as posts are with their facets.
fn flood(total: usize) -> std::sync::Arc<Flood> {
    let more = r#""createdAt":"2026-01-02T03:04:05.678Z","langs":["en"],"reply":{"root":{"cid":"CID","uri":"at://did:plc:abc/app.bsky.feed.post/3kabc"}},"facets":[{"index":{"byteStart":10,"byteEnd":25},"features":[{"$type":"app.bsky.richtext.facet#link","uri":"https://example.com/a/path"}]}],"text":"Some words that go on for a while, \"quoted\" and é \ud83d\ude00, as people write them.","n":"#;
    let rests: Vec<String> = (0..997)
        .map(|n| match post(&did(n), false, n).message {
            TapMessage::Rest(rest) => rest.replace(r#""n":"#, more),
            TapMessage::Raw(..) => unreachable!("posts have an id"),
        })
        .collect();
    Flood::new(&rests, total)
}

/// As fast as they are read: all of them handled, and each acknowledged once.
#[test]
fn a_flood_is_acknowledged_whole() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 50_000;
    for (name, connections) in [("flood", "1"), ("floods", "3")] {
        let flood = flood(total);
        let tap = tap(TapConfig { flood: Some(flood.clone()), ..TapConfig::default() });
        let topic = unique(name);
        let args = [&to_kafka(&broker, &topic)[..], &["--tap-connections", connections]].concat();
        let bridge = start(&tap.url(), &args);
        bridge.wait("all acknowledgements", SOON, |_| flood.acked() == total as u64);
        assert_eq!(flood.repeats(), 0);
        bridge.wait("empty buffers", SOON, |b| {
            b.metric("atkafka_tap_event_buffer_size") == 0.0 && b.metric("atkafka_tap_ack_event_buffer_size") == 0.0
        });
        assert_eq!(bridge.metric("atkafka_acks_sent"), total as f64);
        stop(bridge);
        assert_eq!(consume(&broker, &topic).len(), total);
    }
}

/// Events a second and CPU of the process, into lines and into Kafka. Only a release build says something:
/// `cargo test --release --test tap -- --ignored --nocapture speed`, or any binary in `ATKAFKA_TEST_BINARY`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(broker) = broker(KAFKA) else { return };
    let binary = std::env::var("ATKAFKA_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_atkafka").into());
    // In flight are 200,000 at most: behind the first 400,000 the reader is as fast as the rest.
    let (total, warm) = (1_000_000, 400_000);
    for round in 0..4 {
        let topic = unique("speed");
        let (to, args) = if round % 2 == 0 { ("lines", vec![]) } else { ("Kafka", to_kafka(&broker, &topic)) };
        let flood = flood(total);
        let tap = tap(TapConfig { flood: Some(flood.clone()), ..TapConfig::default() });
        let mut child = Command::new(&binary)
            .args(["firehose", "tap", "--metrics-listen-address", "none", "--tap-host", &tap.url()])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let reached = |acked: u64| {
            let until = Instant::now() + SOON;
            while flood.acked() < acked && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            (flood.acked(), Instant::now())
        };
        let (connected, (_, first)) = (Instant::now(), reached(1));
        let ((_, at_200k), (from, began)) = (reached(200_000), reached(warm));
        let (_, end) = reached(total as u64);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("stat");
        let fields: Vec<i64> = stat.rsplit(')').next().expect("fields").split(' ').flat_map(str::parse).collect();
        // utime and stime, in hundredths; the state before them is a letter.
        let cpu_us = (fields[10] + fields[11]) * 10_000;
        println!(
            "{to}: {:.0} events/s, {:.2} us of CPU an event, {} of {total} acknowledged, {} repeats; first ack {:?}, 200,000 {:?} after the start",
            (total as u64 - from) as f64 / (end - began).as_secs_f64(),
            cpu_us as f64 / total as f64,
            flood.acked(),
            flood.repeats(),
            first - connected,
            at_200k - connected
        );
        child.kill().and_then(|()| child.wait().map(drop)).expect("ended");
    }
}

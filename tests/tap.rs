//! Tap: its messages as events, its acknowledgements behind the broker's, and what is killed, dropped, refused or silent.

#[path = "support/flood.rs"]
mod endless;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use atkafka_fixtures::relay::wire;
use atkafka_fixtures::tap::{Flood, Stats, Tap, TapConfig, TapEvent, TapMessage};
use atkafka_fixtures::tid;
use sonic_rs::{JsonValueTrait, Value};
use support::*;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// After a SIGTERM.
const STOP: Duration = Duration::from_secs(10);
/// An example of the TID specification, and its time. Not for Kafka, which removes what is so old.
const REV: &str = "3jzfcijpj2z2a";
const REV_TIME: &str = "2023-06-30T15:03:01.887Z";
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

// --- what becomes of a message --------------------------------------------------------------

#[test]
fn every_kind_of_message_becomes_its_event_and_is_acknowledged_once() {
    let tap = tap(TapConfig { first_id: 41, ..TapConfig::default() });
    let op = |did: &str, live, tail: &str| {
        TapEvent::record(did, live, &format!(r#""rev":"{REV}","collection":"a.b.c","rkey":"k",{tail}"#))
    };
    tap.push([
        op("did:plc:a", false, &format!(r#""action":"create","record":{{"x":1}},"cid":"{CID}""#)),
        op("did:plc:b", true, &format!(r#""action":"update","record":{{"x":2}},"cid":"{CID}","new":[{{}}]"#)),
        op("did:plc:c", true, r#""action":"delete""#),
        op("did:plc:d", false, &format!(r#""action":"create","cid":"{CID}""#)),
        TapEvent::record("did:plc:e", false, r#""rev":"soon","collection":"a.b.c","rkey":"k","action":"delete""#),
        TapEvent::identity("did:plc:f", r#""handle":"f.example","is_active":true,"status":"active""#),
        TapEvent::identity("did:plc:g", r#""handle":"g.example","is_active":false,"status":"takendown""#),
        TapEvent::identity("did:plc:h", r#""handle":"","is_active":false,"status":"newer""#),
        TapEvent::rest("did:plc:i", r#""type":"weather","weather":{"sunny":true}}"#),
    ]);
    let bridge = start(&tap.url(), &[]);
    let stats = settled(&bridge, &tap);
    assert_eq!(stats.acks_by_id(), (41..50).map(|id| (id, 1)).collect::<BTreeMap<_, _>>());
    bridge.wait("the lines", SOON, |b| b.lines().len() == 10);
    let lines = bridge.lines();
    let find = |did: &str| lines.iter().filter(|l| l.contains(did)).map(String::as_str).collect::<Vec<_>>();
    let start = |did: &str| format!(r#"{{"did":"{did}","timestamp":"{REV_TIME}","rev":"{REV}","#);
    let place = |did: &str| format!(r#""collection":"a.b.c","rkey":"k","uri":"at://{did}/a.b.c/k""#);
    for (did, live, action, rest) in [
        ("did:plc:a", false, "create", format!(r#","cid":"{CID}","path":"a.b.c/k","record":{{"x":1}}"#)),
        ("did:plc:b", true, "update", format!(r#","cid":"{CID}","path":"a.b.c/k","record":{{"x":2}}"#)),
        ("did:plc:c", true, "delete", r#","cid":"","path":"a.b.c/k""#.into()),
        ("did:plc:d", false, "create", format!(r#","cid":"{CID}","path":"a.b.c/k""#)),
    ] {
        let due = format!(r#"{}"live":{live},"operation":{{"action":"{action}",{}{rest}}}}}"#, start(did), place(did));
        assert_eq!(find(did), [due], "{did}");
    }
    let odd: Value = sonic_rs::from_str(find("did:plc:e")[0]).expect("JSON");
    assert!(odd["timestamp"].as_str().expect("a time").starts_with("20"), "the time of arrival: {odd}");
    assert_eq!((odd["rev"].as_str(), odd["live"].as_bool()), (Some("soon"), Some(false)));
    assert_eq!(find("did:plc:f").len(), 1);
    for (did, status) in [("did:plc:g", "takendown"), ("did:plc:h", "newer")] {
        let events = find(did);
        assert_eq!(events.len(), 2, "{did}");
        assert!(events[0].contains(r#""identity":{"#), "{}", events[0]);
        let account: Value = sonic_rs::from_str(events[1]).expect("JSON");
        assert_eq!(account.pointer(sonic_rs::pointer!["account", "active"]).as_bool(), Some(false));
        assert_eq!(account.pointer(sonic_rs::pointer!["account", "status"]).as_str(), Some(status));
    }
    for (metric, value) in [
        ("atkafka_acks_sent", 9.0),
        ("atkafka_received_frames", 9.0),
        ("atkafka_unknown_frames", 1.0),
        ("atkafka_events_without_record", 1.0),
        ("atkafka_dead_letters", 0.0),
        ("atkafka_handled_events{action_name=\"operation#delete\",collection=\"a.b.c\"}", 2.0),
        ("atkafka_handled_events{action_name=\"identity\"", 3.0),
        ("atkafka_handled_events{action_name=\"account\"", 2.0),
    ] {
        assert_eq!(bridge.metric(metric), value, "{metric}");
    }
    stop(bridge);
}

/// Numbers that no float holds, the order of keys and keys twice, escapes as they were, and letters that some escape.
#[test]
fn the_record_passes_through_byte_for_byte() {
    let Some(broker) = broker(KAFKA) else { return };
    let records = [
        r#"{"z":9007199254740993,"a":-9223372036854775808,"m":18446744073709551615,"b":123456789012345678901234567890}"#,
        r#"{"f":1.0,"g":-0,"h":1E400,"i":0.1000,"j":1e-7,"k":-0.0}"#,
        r#"{"a":1,"a":2,"":{},"$type":"x","text":"\u2028\u0041\/\b\f\n\r\t\"\\\ud83d\ude00"}"#,
        "{\"raw\":\"\u{2028}\u{2029}\u{7f}<>&é\u{1F600}\u{FEFF}\",\"lone\":\"\\ud800\"}",
        r#"{ "spaces" : [ 1 , 2 ] ,"link":{"$link":"bafy"},"bytes":{"$bytes":"AAA="},"n":null,"t":[true,false,[[]]]}"#,
        "\"a string\"",
        &format!("{}{}", "[".repeat(128), "]".repeat(128)),
        &format!(r#"{{"a":"{}\\\"{}"}}"#, "[".repeat(500), "{".repeat(500)),
    ];
    let tap = tap(TapConfig::default());
    let tail = |i: usize, r: &str| {
        format!(r#""rev":"{}","collection":"a.b.c","rkey":"k{i}","action":"create","record":{r},"cid":"{CID}""#, *NOW)
    };
    tap.push(records.iter().enumerate().map(|(i, r)| TapEvent::record("did:plc:a", false, &tail(i, r))));
    let topic = unique("raw");
    let bridge = start(&tap.url(), &to_kafka(&broker, &topic));
    settled(&bridge, &tap);
    assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0, "{:?}", bridge.log());
    stop(bridge);
    let arrived = consume(&broker, &topic);
    for (i, record) in records.iter().enumerate() {
        let value = String::from_utf8(arrived[i].value.clone()).expect("UTF-8");
        assert!(value.ends_with(&format!(r#","record":{record}}}}}"#)), "{record} in {value}");
        assert_eq!(arrived[i].key.as_deref(), Some("did:plc:a"));
        assert_eq!(arrived[i].time_ms, tid::micros(&NOW).map(|us| us as i64 / 1000), "the time of rev");
    }
}

/// What people write as the time of a record may be anything, or nothing; and an rkey has up to 512 characters.
#[test]
fn the_time_in_a_record_is_not_that_of_its_event_and_a_long_rkey_passes() {
    let tap = tap(TapConfig::default());
    let rkey = "k".repeat(512);
    let times = [
        r#""0001-01-01T00:00:00Z""#,
        r#""""#,
        r#""tomorrow""#,
        r#""9999-12-31T23:59:59Z""#,
        "-62135596800",
        "null",
        "{}",
    ];
    tap.push(times.map(|time| {
        let op = format!(r#""rev":"{REV}","collection":"a.b.c","rkey":"{rkey}","action":"update""#);
        TapEvent::record("did:plc:a", true, &format!(r#"{op},"record":{{"createdAt":{time}}},"cid":"{CID}""#))
    }));
    let bridge = start(&tap.url(), &[]);
    settled(&bridge, &tap);
    bridge.wait("the lines", SOON, |b| b.lines().len() == times.len());
    for (line, time) in bridge.lines().iter().zip(times) {
        assert!(line.contains(&format!(r#""timestamp":"{REV_TIME}""#)), "{line}");
        assert!(line.contains(&format!(r#""rkey":"{rkey}""#)), "{line}");
        assert!(line.contains(&format!(r#""record":{{"createdAt":{time}}}"#)), "{line}");
    }
    assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0);
    stop(bridge);
}

#[test]
fn what_is_malformed_is_a_dead_letter_and_acknowledged_where_its_id_can_be_read() {
    let Some(broker) = broker(KAFKA) else { return };
    let tap = tap(quick());
    let op = |tail: &str| TapEvent::record("did:plc:a", false, &format!(r#""rev":"{REV}",{tail}"#));
    let with_id = [
        TapEvent::rest("did:plc:m", r#""type":5}"#),
        TapEvent::rest("did:plc:m", r#""type":"record"}"#),
        TapEvent::rest("did:plc:m", r#""type":"record","record":{"did":5}}"#),
        TapEvent::rest("did:plc:m", r#""type":"record","record":{"did":"did:plc:m"}}"#),
        TapEvent::rest("did:plc:m", r#""type":"record","record":{"did":"#),
        TapEvent::rest("did:plc:m", r#""type":"identity","identity":[]}"#),
        TapEvent::rest("did:plc:m", &format!(r#""type":"record","record":{{"record":{}"#, "[".repeat(300_000))),
        TapEvent::rest("did:plc:m", &format!(r#""new":{}{}}}"#, r#"{"a":"#.repeat(300_000), "}".repeat(300_000))),
        op(r#""collection":"a.b.c","rkey":"k","action":"rename","cid":"b""#),
        op(r#""collection":"a.b.c","rkey":"","action":"delete""#),
        op(r#""collection":"a.b.c","rkey":"k","action":"create","cid":"\"","record":{}"#),
        op(r#""collection":"a.b.c","rkey":"k","action":"create","cid":"b","record":{"a":tru}"#),
        op(r#""collection":"a.b.c","rkey":"k","action":"create","cid":"b","record":{"a":"\x"}"#),
        op("\"collection\":\"a.b.c\",\"rkey\":\"k\",\"action\":\"create\",\"cid\":\"b\",\"record\":{\"a\":\"\u{1}\"}"),
    ];
    let without = [
        TapEvent::raw(wire::TEXT, b"hello"),
        TapEvent::raw(wire::TEXT, b""),
        TapEvent::raw(wire::TEXT, br#"{"type":"identity","identity":{"did":"did:plc:a"}}"#),
        TapEvent::raw(wire::TEXT, br#"{"id":-1,"type":"x"}"#),
        TapEvent::raw(wire::TEXT, br#"{"id":"1","type":"x"}"#),
        TapEvent::raw(wire::TEXT, &b"[".repeat(200_000)),
        TapEvent::raw(wire::BINARY, b"\x00\xff"),
    ];
    let (readable, unreadable) = (with_id.len(), without.len());
    tap.push(with_id);
    tap.push(without);
    tap.push([post("did:plc:good", true, 1)]);
    let (topic, dead) = (unique("malformed"), unique("dead"));
    let args = [&to_kafka(&broker, &topic)[..], &["--dead-letter-topic", &dead]].concat();
    let bridge = start(&tap.url(), &args);
    let stats = settled(&bridge, &tap);
    assert_eq!((stats.connections, stats.acks.len()), (1, readable + 1), "{:?}", bridge.log());
    stop(bridge);
    assert_eq!(numbers(&consume(&broker, &topic)), [("did:plc:good".into(), 1)]);
    let letters = consume(&broker, &dead);
    assert_eq!(letters.len(), readable + unreadable);
    let has = |bytes: &[u8], reason: &str| {
        letters.iter().any(|l| l.value == bytes && l.header("reason").as_deref() == Some(reason))
    };
    assert!(has(b"hello", "bad_frame") && has(b"", "bad_frame") && has(b"\x00\xff", "bad_frame"));
    assert!(has(br#"{"id":1,"type":5}"#, "bad_frame"));
    assert_eq!(letters.iter().filter(|l| l.header("reason").as_deref() == Some("bad_op")).count(), 3);
}

#[test]
fn what_the_filters_leave_out_is_counted_and_acknowledged() {
    let tap = tap(TapConfig::default());
    let like = |did: &str| {
        TapEvent::record(
            did,
            true,
            &format!(r#""rev":"{REV}","collection":"app.bsky.feed.like","rkey":"k","action":"delete""#),
        )
    };
    let identity = |did: &str| TapEvent::identity(did, r#""handle":"x.example","is_active":true,"status":"active""#);
    tap.push([post("did:plc:a", true, 1), like("did:plc:a"), post("did:plc:b", true, 2), identity("did:plc:b")]);
    tap.push([post("did:plc:a", true, 3), identity("did:plc:a")]);
    let filters = ["--watched-collections", "app.bsky.feed.post", "--ignored-dids", "did:plc:b"];
    let bridge = start(&tap.url(), &filters);
    let stats = settled(&bridge, &tap);
    assert_eq!(stats.acks.len(), 6);
    bridge.wait("the lines", SOON, |b| b.lines().len() == 3);
    assert!(bridge.lines().iter().all(|l| l.contains("did:plc:a") && !l.contains("feed.like")));
    assert_eq!(bridge.metric("atkafka_filtered_events"), 3.0);
    stop(bridge);
}

#[test]
fn the_osprey_envelope_holds_what_the_plain_form_says() {
    let tap = tap(TapConfig::default());
    let both = || {
        [
            post("did:plc:a", true, 7),
            TapEvent::identity("did:plc:b", r#""handle":"b.example","is_active":true,"status":"active""#),
        ]
    };
    tap.push(both());
    let bridge = start(&tap.url(), &["--osprey-compatible"]);
    settled(&bridge, &tap);
    bridge.wait("the lines", SOON, |b| b.lines().len() == 2);
    let events: Vec<Value> = bridge.lines().iter().map(|l| sonic_rs::from_str(l).expect("JSON")).collect();
    let post = events.iter().find(|e| e["data"]["action_name"].as_str() == Some("operation#create")).expect("the post");
    assert_eq!(number(&post["data"]["data"]), ("did:plc:a".into(), 7));
    assert_eq!(post["data"]["data"]["live"].as_bool(), Some(true));
    assert_eq!(post["data"]["data"]["rev"].as_str(), Some(NOW.as_str()));
    assert_eq!(post["data"]["timestamp"], post["data"]["data"]["timestamp"]);
    assert!(post["data"]["action_id"].as_u64().is_some_and(|id| id > 0));
    assert!(events.iter().any(|e| e["data"]["action_name"].as_str() == Some("identity")));
    stop(bridge);
}

// --- acknowledgements -----------------------------------------------------------------------

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
        let bridge = start(&tap.url(), &to_kafka(&broker, &topic));
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

/// A broker of our own, which may be killed.
struct Broker(String);

impl Broker {
    fn start(base: u16) -> Broker {
        let port = Self::script(&["free-port", "--port", &base.to_string()]);
        let broker = Broker(port.trim().into());
        broker.again();
        broker
    }

    fn script(args: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");
        let out = Command::new(script).args(args).stdin(Stdio::null()).output().expect("scripts/kafka.sh runs");
        assert!(out.status.success(), "kafka.sh {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn again(&self) {
        Self::script(&["start", "--version", "4.3.1", "--port", &self.0]);
    }

    fn kill(&self) {
        Self::script(&["kill", "--port", &self.0]);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        Self::script(&["kill", "--clean", "--port", &self.0]);
    }
}

#[test]
fn nothing_is_acknowledged_while_the_broker_is_away_and_all_of_it_once_it_is_back() {
    if broker(KAFKA).is_none() {
        return;
    }
    let broker = Broker::start(34_092);
    let address = format!("127.0.0.1:{}", broker.0);
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

// --- connections ----------------------------------------------------------------------------

#[test]
fn the_admin_password_comes_from_a_flag_a_file_or_the_environment() {
    let tap = tap(TapConfig { password: Some("sécret:1".into()), ..TapConfig::default() });
    let file = folder("password").join("password");
    std::fs::write(&file, "sécret:1\n").expect("written");
    let url = tap.url();
    let args = ["firehose", "tap", "--tap-host", &url];
    for (n, bridge) in [
        Bridge::start(&[&args[..], &["--tap-password", "sécret:1"]].concat()),
        Bridge::start(&[&args[..], &["--tap-password-file", &file.to_string_lossy()]].concat()),
        Bridge::start_with(&args, &[("ATKAFKA_TAP_PASSWORD", "sécret:1")]),
    ]
    .into_iter()
    .enumerate()
    {
        bridge.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
        tap.push([post("did:plc:a", true, n)]);
        settled(&bridge, &tap);
        assert!(!bridge.log_contains("cret:1"), "{:?}", bridge.log());
        stop(bridge);
    }
    let stats = tap.stats();
    assert!(stats.requests.iter().any(|r| r.target == "/health" && r.status == 200), "{:?}", stats.requests);

    for more in [&["--tap-password", "guess"][..], &[]] {
        let bridge = start(&url, more);
        bridge.wait("the advice", SOON, |b| b.log_contains("401") && b.log_contains("--tap-password"));
        bridge.wait("not ready", SOON, |b| {
            b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("401"))
        });
        assert!(!bridge.log_contains("guess"), "{:?}", bridge.log());
        stop(bridge);
    }
}

#[test]
fn a_tap_in_webhook_mode_is_named_as_such() {
    let tap = tap(TapConfig { webhook: true, ..TapConfig::default() });
    let bridge = start(&tap.url(), &[]);
    bridge.wait("the advice", SOON, |b| b.log_contains("400") && b.log_contains("TAP_WEBHOOK_URL"));
    bridge.wait("not ready", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("TAP_WEBHOOK_URL"))
    });
    assert!(!bridge.log_contains("cursor"), "Tap has none: {:?}", bridge.log());
    stop(bridge);
}

#[test]
fn http_addresses_and_paths_work_and_a_tap_that_was_away_is_read_on() {
    let tap = tap(TapConfig { prefix: "/deep/tap".into(), ..quick() });
    tap.refuse(true);
    let http = tap.url().replace("ws://", "http://");
    for (n, url) in [http.clone(), format!("{http}/"), format!("{}/channel", tap.url())].iter().enumerate() {
        tap.refuse(true);
        let bridge = start(url, &[]);
        bridge.wait("a refusal", SOON, |b| b.log_contains("503") && b.metric("atkafka_connected") == 0.0);
        tap.push([post("did:plc:a", true, n)]);
        tap.refuse(false);
        settled(&bridge, &tap);
        bridge.wait("ready", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
        tap.drop_connections();
        tap.push([post("did:plc:a", true, n + 100)]);
        settled(&bridge, &tap);
        bridge.wait("the lines", SOON, |b| b.lines().len() >= 2);
        stop(bridge);
    }
    let stats = tap.stats();
    assert!(stats.requests.iter().all(|r| ["/deep/tap/channel", "/deep/tap/health"].contains(&r.target.as_str())));
    assert!(stats.requests.iter().all(|r| r.user_agent.as_deref().is_some_and(|a| a.starts_with("atkafka/"))));
}

/// It is not kept in memory; it ends the connection, and what stands behind it comes on the next one. A Tap sends none:
/// its records have 1 MB at most.
#[test]
fn a_message_over_the_limit_is_counted_and_ends_its_connection() {
    let tap = tap(quick());
    let bridge = start(&tap.url(), &[]);
    bridge.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
    tap.push([post("did:plc:a", true, 0), TapEvent::raw(wire::TEXT, &vec![b'x'; 17 << 20])]);
    tap.push((1..50).map(|n| post(&did(n), n % 2 == 0, n)));
    let stats = settled(&bridge, &tap);
    assert_eq!(stats.connections, 2);
    assert_eq!(bridge.metric(r#"atkafka_dead_letters{reason="over_limit"}"#), 1.0);
    assert!(bridge.log_contains("over the limit of 16777216"), "{:?}", bridge.log());
    stop(bridge);
}

/// A minute for three: a link that died is noticed, an idle one is legal, and so is one that was not read for a minute
/// since the output took nothing.
#[test]
fn a_dead_link_is_left_after_a_minute_and_a_living_one_is_not() {
    let (dead, idle, full) = (tap(quick()), tap(quick()), tap(TapConfig::default()));
    let to_dead = start(&dead.url(), &[]);
    let to_idle = start(&idle.url(), &[]);
    // More than fits into the pipe, the memory limit, and the socket's buffers.
    full.push((0..60_000).map(|n| post(&did(n), false, n)));
    let mut to_full = Command::new(env!("CARGO_BIN_EXE_atkafka"))
        .args(["firehose", "tap", "--tap-host", &full.url(), "--memory-limit", "16MiB"])
        .args(["--metrics-listen-address", "none"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    to_dead.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
    to_idle.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
    dead.deafen(true);
    std::thread::sleep(Duration::from_secs(50));
    assert_eq!(dead.stats().connections, 1);
    to_dead.wait("the end of the dead link", SOON, |b| b.log_contains("silent for"));
    dead.deafen(false);
    dead.push([post("did:plc:a", true, 1)]);
    settled(&to_dead, &dead);
    assert!(dead.stats().connections > 1);
    stop(to_dead);

    std::thread::sleep(Duration::from_secs(5));
    let stats = idle.stats();
    assert!(stats.connections == 1 && stats.pings >= 2, "{} {}", stats.connections, stats.pings);
    idle.push([post("did:plc:a", true, 1)]);
    settled(&to_idle, &idle);
    stop(to_idle);

    assert!(full.outbox() > 0, "the output was blocked");
    let mut out = to_full.stdout.take().expect("piped");
    let reading = std::thread::spawn(move || {
        let (mut buffer, mut lines) = (vec![0; 1 << 16], 0);
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            lines += buffer[..n].iter().filter(|b| **b == b'\n').count();
        }
        lines
    });
    let until = Instant::now() + SOON;
    while full.outbox() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = full.stats();
    let killed = to_full.kill().and_then(|()| to_full.wait());
    assert!(killed.is_ok());
    assert_eq!((stats.outbox, stats.connections), (0, 1), "one connection for all of it");
    assert!(reading.join().expect("read") >= 60_000);
}

/// Live events hold their accounts in Tap until they are acknowledged.
#[test]
fn pings_without_end_hold_back_neither_messages_nor_acknowledgements_nor_a_stop() {
    let tail = format!(r#""rev":"{REV}","collection":"a.b.c","rkey":"k","action":"delete""#);
    let text = |id| match TapEvent::record("did:plc:a", true, &tail).message {
        TapMessage::Rest(rest) => wire::message(wire::TEXT, format!(r#"{{"id":{id},{rest}"#).as_bytes()),
        TapMessage::Raw(..) => unreachable!("records have an id"),
    };
    let tap = endless::Flood::start((1..=3).flat_map(text).collect(), wire::message(wire::PING, b"x"));
    let bridge = start(&tap.url(), &[]);
    bridge.wait("the lines", SOON, |b| b.lines().len() == 3);
    bridge.wait("the acknowledgements", SOON, |_| tap.texts().len() == 3);
    assert!(tap.texts().iter().all(|text| text.contains(r#""type":"ack""#)), "{:?}", tap.texts());
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    stop(bridge);
}

// --- speed ----------------------------------------------------------------------------------

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

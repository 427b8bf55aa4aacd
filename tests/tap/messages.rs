//! What becomes of a message of Tap: its event, its dead letter, or a count.

use std::collections::BTreeMap;

use atkafka_fixtures::relay::wire;
use atkafka_fixtures::tap::{TapConfig, TapEvent};
use atkafka_fixtures::tid;
use sonic_rs::{JsonValueTrait, Value};

use crate::support::*;
use crate::{CID, NOW, REV, SOON, number, numbers, post, quick, settled, start, stop, tap, to_kafka};

const REV_TIME: &str = "2023-06-30T15:03:01.887Z";

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
    let letters = letters(&broker, &dead);
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

//! What an event holds: the values of the API, the Osprey envelope, and what is no event.

use std::collections::BTreeMap;

use atkafka_fixtures::ozone::{Draft, OzoneConfig};
use sonic_rs::{JsonValueTrait, Value};

use crate::support::*;
use crate::{SOON, bridge, id_of, late, now_ms, start, wait_lines};

/// Emits these events, by id, and checks that each arrives byte for byte.
fn arrive_byte_for_byte(raw: &BTreeMap<u64, String>) -> Option<Vec<Arrived>> {
    let broker = broker(KAFKA)?;
    let ozone = start(OzoneConfig::default());
    for (id, json) in raw {
        let value: Value = sonic_rs::from_str(json).expect("JSON");
        let created = value.get("createdAt").as_str().expect("a time").parse::<Stamp>().expect("a time");
        ozone.add_raw(*id, created.0, json);
    }
    let topic = unique("ozone-values");
    let state = folder("state");
    let bridge = bridge(
        &ozone,
        &["--bootstrap-servers", &broker, "--output-topic", &topic, "--state-dir", &state.to_string_lossy()],
    );
    bridge.wait("all are delivered", SOON, |b| b.metric("atkafka_produced_events{status=\"ok\"}") >= raw.len() as f64);
    assert_eq!(bridge.stop().0, Some(0));
    let arrived = consume(&broker, &topic);
    assert_eq!(arrived.len(), raw.len());
    for a in &arrived {
        assert_eq!(String::from_utf8_lossy(&a.value), raw[&id_of(&a.json())], "byte for byte");
    }
    Some(arrived)
}

#[test]
fn values_are_those_of_the_api_unknown_kinds_included() {
    // What no client may touch: order of keys, escapes, spaces, numbers beyond 2^53 and with zeros, twice the same key.
    let kinds = [
        (r#""$type":"com.atproto.admin.defs#repoRef","did":"did:plc:repo""#, "did:plc:repo"),
        (r#""cid":"b","uri":"at://did:plc:strong/a.b.c/1","$type":"com.atproto.repo.strongRef""#, "did:plc:strong"),
        (
            r#""$type":"chat.bsky.convo.defs#messageRef","did":"did:plc:message","convoId":"x","messageId":"y""#,
            "did:plc:message",
        ),
        (r#""$type":"chat.bsky.convo.defs#convoRef","did":"did:plc:convo","convoId":"x""#, "did:plc:convo"),
        (r#""$type":"tools.ozone.new#thing","did":"did:plc:unknown""#, "did:plc:unknown"),
        (r#""$type":"tools.ozone.new#nobody""#, ""),
    ];
    let (mut raw, mut keys) = (BTreeMap::new(), BTreeMap::new());
    for (i, (subject, key)) in kinds.iter().enumerate() {
        let id = 9_007_199_254_740_993 + i as u64;
        let event = r#"{"$type":"tools.ozone.new.defs#modEventFrobnicate","z":1.00,"a":12345678901234567890,"t":"\u0041\/<b>\u2028 é","d":1,"d":2}"#;
        let json = format!(
            r#"{{"subject": {{{subject}}},  "createdAt":"2026-11-24T11:00:00.00{i}Z","event":{event},"new":[ ],"id":{id}}}"#
        );
        keys.insert(id, key.to_string());
        raw.insert(id, json);
    }
    for a in arrive_byte_for_byte(&raw).into_iter().flatten() {
        assert_eq!(a.key.as_deref().unwrap_or(""), keys[&id_of(&a.json())]);
        assert_eq!(a.time_ms.map(|ms| ms / 1000), Some(1_795_518_000), "createdAt is the record's time");
    }
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn values_are_those_of_a_real_ozone() {
    let mut raw: BTreeMap<u64, String> = BTreeMap::new();
    for line in std::fs::read_to_string(shared("golden/ozone.jsonl")).expect("readable").lines() {
        let value: sonic_rs::LazyValue<'_> = sonic_rs::get_from_str(line, ["upstream"]).expect("upstream");
        let id = id_of(&sonic_rs::from_str(value.as_raw_str()).expect("JSON"));
        raw.insert(id, value.as_raw_str().to_string());
    }
    assert!(raw.len() >= 39);
    for a in arrive_byte_for_byte(&raw).into_iter().flatten() {
        let key = a.key.as_deref().unwrap_or("");
        assert!(key.starts_with("did:") && raw[&id_of(&a.json())].contains(key), "{key}");
    }
}

/// Milliseconds since 1970 of `2026-11-24T10:32:39.073Z`.
struct Stamp(i64);

impl std::str::FromStr for Stamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        atkafka::atproto::time::parse_ms(text).map(Stamp).ok_or_else(|| text.to_string())
    }
}

#[test]
fn osprey_reads_an_envelope_with_the_kind_as_action() {
    let ozone = start(OzoneConfig::default());
    let id = ozone.add(&Draft { created_ms: Some(1_767_225_600_123), ..late(1, 0) });
    let bridge = bridge(&ozone, &["--osprey-compatible"]);
    wait_lines(&bridge, 1);
    let value: Value = sonic_rs::from_str(&bridge.lines()[0]).expect("JSON");
    assert_eq!(value.pointer(["data", "action_name"]).as_str(), Some("ozone#modEventComment"));
    assert_eq!(value.pointer(["data", "data", "id"]).as_u64(), Some(id));
    assert_eq!(value.pointer(["data", "timestamp"]).as_str(), Some("2026-01-01T00:00:00.123Z"));
    assert_eq!(value.pointer(["data", "encoding"]).as_str(), Some("UTF8"));
    assert!(
        value.pointer(["data", "secret_data"]).is_object() && value.pointer(["data", "action_id"]).as_u64() > Some(0)
    );
    assert_eq!(value.get("send_time").as_str(), Some("2026-01-01T00:00:00.123Z"));
}

#[test]
fn an_event_that_cannot_be_known_again_comes_once_and_what_is_no_object_is_a_dead_letter() {
    let ozone = start(OzoneConfig::default());
    let now = now_ms();
    let time = atkafka::atproto::time::format_ms(now);
    ozone.add_raw(1, now, &format!(r#"{{"id":"text","event":{{"$type":"a#b"}},"createdAt":"{time}"}}"#));
    ozone.add_raw(2, now, "17");
    ozone.add_raw(3, now, r#"{"id":3,"event":null,"createdAt":"no time"}"#);
    let last = ozone.add(&late(1, 0));
    let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
    bridge.wait("some polls", SOON, |b| b.metric("atkafka_ozone_pages") > 12.0);
    let lines = bridge.lines();
    assert_eq!(lines.iter().filter(|l| l.contains("\"text\"")).count(), 1, "{lines:?}");
    assert_eq!(lines.iter().filter(|l| l.contains(&format!("\"id\":{last},"))).count(), 1, "{lines:?}");
    let dead = bridge.metric("atkafka_dead_letters");
    assert!((1.0..=2.0).contains(&dead), "{dead}: each once\n{:?}", bridge.log());
}

//! The Osprey envelope, and the headers of a record.

use std::collections::{BTreeSet, HashMap};

use atkafka::clock::now_ms;
use atkafka_fixtures::network::builder::{
    A_TIME, Commit, Op, account_frame, commit_block, identity_frame, record, sync_frame,
};
use atkafka_fixtures::relay::RelayConfig;
use atkafka_fixtures::{car, frames};
use ipld_core::ipld;
use sonic_rs::{JsonValueTrait, Value};

use crate::support::*;
use crate::{DID, REV, commit, create, keys, run_kafka, set, text};

/// What Osprey's worker does with a record (osprey.md, section 1), and what the rules need of it.
fn osprey_event(a: &Arrived) -> (u64, String, Value) {
    let v = a.json();
    assert_eq!(keys(&v), set(&["data", "send_time"]), "{v}");
    let data = &v["data"];
    assert_eq!(keys(data), set(&["action_name", "action_id", "data", "timestamp", "secret_data", "encoding"]), "{v}");
    assert!(data["action_id"].is_u64(), "a JSON integer: {v}");
    let id = data["action_id"].as_u64().expect("an integer");
    assert!((1..=i64::MAX as u64).contains(&id), "{id}");
    assert_eq!(text(data, &["encoding"]), "UTF8");
    assert!(keys(&data["secret_data"]).is_empty());
    let event = data["data"].clone();
    assert!(event.is_object() && event.get("osprey_skip_async").is_none(), "Osprey would drop it: {v}");
    assert!(event.get("did").is_some_and(|d| d.is_str()), "the rules demand a did: {v}");
    let name = text(data, &["action_name"]);
    if let Some(op) = event.get("operation") {
        for key in ["action", "collection", "path", "cid", "rkey", "uri"] {
            assert!(op.get(key).is_some_and(|v| v.is_str()), "{key}: {v}");
        }
        assert_eq!(name, format!("operation#{}", text(op, &["action"])));
        assert!(!text(op, &["path"]).starts_with('/'));
        assert!(op.get("record").is_none_or(|r| r.is_object()), "absent or an object, never null: {v}");
    }
    (id, name, event)
}

#[test]
fn osprey_events_are_what_its_worker_reads() {
    let Some(broker) = broker(KAFKA) else { return };
    // A record may try: the key that makes Osprey drop an event stands inside it, not at the top.
    let sly = record(&ipld!({ "$type": "app.bsky.feed.post", "osprey_skip_async": true, "text": "x" }));
    let mut list = vec![
        commit()
            .ops([Op::create("app.bsky.feed.post/1", &sly), Op::update("app.bsky.feed.post/2", &sly, None)])
            .frame(1),
        commit().op(Op::delete("app.bsky.feed.post/1", None)).frame(2),
        account_frame(3, DID, A_TIME, false, Some("deleted")),
        identity_frame(4, DID, A_TIME, Some("a.example")),
        sync_frame(5, DID, REV, A_TIME, &commit_block(DID, REV, &car::cid_of(b""), None)),
        frames::info_frame("Announcement", Some("hello")),
    ];
    // Enough for more than 4096 ids in one millisecond's neighbourhood, over several accounts.
    for i in 0..60u64 {
        let ops = (0..100).map(|n| create(&format!("a.b.c/{n}")));
        list.push(Commit::new(&format!("did:plc:{i}"), REV).ops(ops).frame(6 + i));
    }
    let ids = ["--snowflake-worker-id", "7", "--snowflake-data-center-id", "3"];
    let args = [&["--osprey-compatible", "--topic-partitions", "3"][..], &ids].concat();
    let before = now_ms();
    let (arrived, _) = run_kafka(&broker, RelayConfig::script(list), 65, &args);
    assert_eq!(arrived.len(), 7 + 6_000);
    let (mut all, mut last, mut names) = (BTreeSet::new(), HashMap::new(), BTreeSet::new());
    for a in &arrived {
        let (id, name, event) = osprey_event(a);
        assert!(all.insert(id), "{id} twice");
        let previous = last.insert(a.partition, id).unwrap_or(0);
        assert!(id > previous, "ids rise in partition {}: {previous}, {id}", a.partition);
        assert_eq!(((id >> 17) & 31, (id >> 12) & 31), (3, 7), "data center and worker");
        let at = (id >> 22) as i64 + 1_420_070_400_000;
        assert!((before - 1_000..now_ms() + 10_000).contains(&at), "the time in it is of now: {at}");
        if name == "info" {
            assert_eq!((text(&event, &["did"]).as_str(), a.key.as_deref()), ("", None));
        } else {
            assert_eq!(text(&a.json(), &["send_time"]), A_TIME, "the event's time");
        }
        names.insert(name);
    }
    assert_eq!(
        names,
        set(&["operation#create", "operation#update", "operation#delete", "account", "identity", "sync", "info"])
    );
}

#[test]
fn record_headers_tell_seq_action_and_collection() {
    let Some(broker) = broker(KAFKA) else { return };
    let list = vec![
        commit().ops([create("app.bsky.feed.post/1"), Op::delete("a.b.c/2", None)]).frame(41),
        identity_frame(42, DID, A_TIME, None),
    ];
    let args = ["--record-headers", "--topic-partitions", "1"];
    let (arrived, _) = run_kafka(&broker, RelayConfig::script(list), 42, &args);
    let headers: Vec<Vec<(String, String)>> = arrived
        .iter()
        .map(|a| a.headers.iter().map(|(k, v)| (k.clone(), String::from_utf8_lossy(v).into_owned())).collect())
        .collect();
    let of = |seq: &str, action: &str, collection: &str| {
        [("seq", seq), ("action", action), ("collection", collection)]
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .to_vec()
    };
    assert_eq!(
        headers,
        [
            of("41", "operation#create", "app.bsky.feed.post"),
            of("41", "operation#delete", "a.b.c"),
            of("42", "identity", "")
        ]
    );
}

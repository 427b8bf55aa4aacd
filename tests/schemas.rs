//! The schemas themselves: that they tell what atkafka writes from what it does not, that `atkafka schema` prints them whole,
//! and that other versions' events are readable by them. That everything written fits them is held in tests/support, for
//! whatever any test reads.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::schema::fits;
use support::*;

fn printed(name: &str) -> Value {
    let (code, out, err) = run(&["schema", name], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{name}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{name}: {e}: {out}"))
}

fn op() -> Value {
    json!({"did": "did:plc:a", "timestamp": "2026-01-01T00:00:00.000Z", "seq": 1, "rev": "3k", "operation": {
        "action": "create", "collection": "a.b.c", "rkey": "d", "uri": "at://did:plc:a/a.b.c/d", "cid": "bafy",
        "path": "a.b.c/d", "record": {"$type": "a.b.c"}
    }})
}

fn enveloped(name: &str, data: &Value) -> Value {
    json!({"data": {"action_id": 1, "action_name": name, "data": data, "timestamp": "t", "secret_data": {},
        "encoding": "UTF8"}, "send_time": "2026-01-01T00:00:00.000Z"})
}

fn is_fit(event: &Value) -> bool {
    fits(event.to_string().as_bytes()).is_ok()
}

#[test]
fn what_is_not_written_does_not_fit() {
    let (op, info) = (op(), json!({"timestamp": "t", "info": {"name": "n", "message": "m"}}));
    let ozone = json!({"id": 1, "event": {"$type": "x#y"}, "subject": {"did": "did:plc:a"}, "createdBy": "did:plc:b",
        "createdAt": "t", "newer": 1});
    for event in [&op, &info, &ozone, &enveloped("operation#create", &op), &enveloped("ozone#y", &ozone)] {
        assert!(is_fit(event), "{event}: {:?}", fits(event.to_string().as_bytes()));
    }
    let changed = |pointer: &str, value: Value| {
        let mut event = op.clone();
        let (at, key) = pointer.rsplit_once('/').expect("a pointer");
        let object = event.pointer_mut(at).and_then(Value::as_object_mut).expect("an object");
        match value {
            Value::Null => object.remove(key),
            value => object.insert(key.into(), value),
        };
        event
    };
    for event in [
        changed("/did", Value::Null),
        changed("/timestamp", Value::Null),
        changed("/seq", json!("1")),
        changed("/seq", json!(1.5)),
        changed("/operation", Value::Null),
        changed("/account", json!({"active": true})),
        changed("/unheard", json!(1)),
        changed("/operation/unheard", json!(1)),
        changed("/operation/action", json!("delete")),
        changed("/operation/action", json!("frob")),
        changed("/operation/cid", Value::Null),
        changed("/eventMetadata", json!({})),
        changed("/eventMetadata", json!({"accountAge": "1"})),
        changed("/eventMetadata", json!({"handle": "a.b", "unheard": 1})),
        enveloped("operation#create", &info),
        enveloped("ozone#y", &json!({"createdAt": 1})),
        enveloped("identity", &changed("/did", Value::Null)),
        json!({"timestamp": "t", "did": "did:plc:a", "info": {"name": "n", "message": "m"}}),
        json!({"id": 1, "event": {}, "subject": {"did": 7}, "createdBy": "did:plc:b", "createdAt": "t"}),
        json!([]),
    ] {
        assert!(!is_fit(&event), "{event}");
    }
    for metadata in [json!({"accountAge": 7}), json!({"handle": "a.b", "pdsHost": "https://p", "profile": {}})] {
        assert!(is_fit(&changed("/eventMetadata", metadata)));
    }
    let mut unknown = op.clone();
    unknown["eventMetadata"] = Value::Null;
    assert!(is_fit(&unknown), "null: nothing is known");
}

#[test]
fn each_is_printed_whole_and_reads_what_a_later_version_adds() {
    for (name, event) in [("event", op()), ("osprey", enveloped("operation#create", &op()))] {
        let schema = printed(name);
        // Nothing is fetched: the features for that are off.
        let validator = jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(validator.is_valid(&event), "{name}");
        let mut later = event.clone();
        later["added"] = json!({"later": true});
        assert!(validator.is_valid(&later), "{name}: readers must take fields that they do not know");
        assert!(!validator.is_valid(&json!({"added": 1})), "{name}");
    }
    assert_eq!(printed("ozone")["$id"], "https://atkafka.invalid/schema/ozone.json");
    assert_eq!(run(&["schema"], &[]).0, Some(2));
}

#[test]
fn the_files_refer_to_each_other_by_name_in_the_same_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    let (mut files, mut references) = (0, 0);
    for entry in std::fs::read_dir(&folder).expect("schema/") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let schema: Value = serde_json::from_str(&text).expect("JSON");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert_eq!(schema["$id"], format!("https://atkafka.invalid/schema/{name}"));
        for reference in text.split("\"$ref\": \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            references += 1;
            assert!(!reference.contains('/') && folder.join(reference).exists(), "{name}: {reference}");
        }
        files += 1;
    }
    assert!(files >= 5 && references >= 4, "{files} files, {references} references");
}

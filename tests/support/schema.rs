//! Holds that what the program wrote is as `atkafka schema` says, and has no field that is not described there.

use std::collections::HashMap;
use std::sync::LazyLock;

use atkafka::event::schema::bundle;
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::Value;

static VALIDATORS: LazyLock<HashMap<&str, Validator>> =
    LazyLock::new(|| ["event", "osprey", "ozone"].into_iter().map(|name| (name, strict(name))).collect());

/// Those who read events allow fields that a later version may add; here a field that nobody described is a mistake.
fn strict(name: &str) -> Validator {
    let mut schema: Value = serde_json::from_str(&bundle(name)).expect("a schema is JSON");
    jsonschema::meta::validate(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
    close(&mut schema);
    jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Forbids all but the described fields in every object that atkafka makes; what Ozone sends is Ozone's.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            if keywords.get("$id").and_then(Value::as_str).is_some_and(|id| id.ends_with("/ozone.json")) {
                return;
            }
            if keywords.get("type").is_some_and(|t| t == "object") && keywords.contains_key("properties") {
                keywords.insert("additionalProperties".into(), false.into());
            }
            keywords.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

const UNHELD: [&str; 3] = ["number out of range", "unexpected end of hex escape", "lone leading surrogate"];

/// Checks each whole line.
pub fn check_lines(out: &[u8]) {
    let whole = out.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let lines = out[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.for_each(check);
}

/// Checks one event, of whichever source and form it is.
pub fn check(event: &[u8]) {
    if let Err(why) = fits(event) {
        let text = String::from_utf8_lossy(event);
        panic!("not as schema/ says: {why}: {}", text.chars().take(2_000).collect::<String>());
    }
}

/// Whether an event is as the schemas say.
pub fn fits(event: &[u8]) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(event);
    // Records may be deeper than what serde_json takes by itself.
    reader.disable_recursion_limit();
    let event = match Value::deserialize(&mut reader) {
        // A Tap's record passes through as it is, and may have what is JSON all the same and serde_json cannot hold: a number
        // that no f64 has, half of a surrogate pair.
        Err(e) if UNHELD.iter().any(|what| e.to_string().starts_with(what)) => return Ok(()),
        event => event.map_err(|e| e.to_string())?,
    };
    reader.end().map_err(|e| e.to_string())?;
    let has = |key: &str| event.get(key).is_some();
    let name = match has("send_time") {
        true => "osprey",
        false if has("timestamp") => "event",
        false if has("createdAt") || has("subject") => "ozone",
        false => "event",
    };
    VALIDATORS[name].validate(&event).map_err(|e| format!("{name}.json: {} at {:?}", e, e.instance_path().to_string()))
}

//! Reads what hosts answered about accounts. Bodies come from the network: nothing in them is trusted, and what cannot be used
//! is `None`. Pure.

use std::sync::Arc;

use serde::Deserialize;

use super::directory::LINES;
use super::document::{Document, checked};
use super::{Created, Value};
use crate::atproto::json_input::{self, JsonValueTrait, LazyValue, SHALLOW};
use crate::atproto::time;

/// The document of `did`. `None`, and a line in the log: it cannot be used.
pub fn document(did: &str, body: &[u8]) -> Option<Value> {
    match Document::parse(did, body) {
        Ok(document) => Some(Value::Document(Arc::new(document))),
        Err(e) => {
            log::warn!(
                at_most = LINES, event = "bad_document", did = did, error = e;
                "{did}: its document cannot be used: {e}"
            );
            None
        }
    }
}

/// The creation time in an audit log of `did`. `None`, and a line in the log: it has none.
pub fn created(did: &str, body: &[u8]) -> Option<Value> {
    let text = first_entry(body);
    let created = text.and_then(|text| Some(Created { ms: time::parse_ms(&text)?, text: text.into() }));
    if created.is_none() {
        log::warn!(
            at_most = LINES, event = "bad_audit_log", did = did;
            "{did}: its audit log has no time in the first entry"
        );
    }
    created.map(|created| Value::Created(Arc::new(created)))
}

/// The DID in an answer of `com.atproto.identity.resolveHandle`.
pub fn resolved(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Resolved {
        did: String,
    }
    json_input::read::<Resolved>(body, SHALLOW).ok().map(|resolved| resolved.did)
}

/// `createdAt` of the first entry of an audit log. What stands behind it is not looked at: a long log may be cut off.
fn first_entry(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let begin = text.find('{')?;
    let entry = json_input::member(&text[begin..], 2 * SHALLOW, "createdAt")?;
    json_input::part(&entry).ok()
}

/// A profile, checked and otherwise as it is. `None`: it cannot be written into an event.
pub fn profile(raw: &[u8]) -> Option<Value> {
    checked(raw).ok()?;
    Some(Value::Profile(raw.into()))
}

/// The profiles in an answer of `app.bsky.actor.getProfiles`, raw, with their DIDs. `None`: it is no such answer.
pub fn profiles(body: &[u8]) -> Option<Vec<(String, LazyValue<'_>)>> {
    #[derive(Deserialize)]
    struct Profiles<'a> {
        #[serde(borrow)]
        profiles: Vec<LazyValue<'a>>,
    }
    let list: Profiles<'_> = json_input::read(body, 2 * SHALLOW).ok()?;
    let did = |raw: &LazyValue<'_>| raw.get("did").and_then(|did| did.as_str().map(str::to_string));
    Some(list.profiles.into_iter().filter_map(|raw| Some((did(&raw)?, raw))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_a_log() {
        let entry = |at: &str| format!(r#"{{"did":"did:plc:a","operation":{{"createdAt":"no"}},"createdAt":"{at}"}}"#);
        let log = format!("[{},{}]", entry("2023-05-01T12:00:00.000Z"), entry("2024-05-01T12:00:00.000Z"));
        assert_eq!(first_entry(log.as_bytes()).as_deref(), Some("2023-05-01T12:00:00.000Z"));
        // Cut off behind the first one.
        assert_eq!(first_entry(&log.as_bytes()[..log.len() - 20]).as_deref(), Some("2023-05-01T12:00:00.000Z"));
        let deep = "[".repeat(1 << 20);
        for wrong in [
            &format!("\"{{\"a\":{deep}"),
            &format!("[{{\"a\":{deep}"),
            "[]",
            "",
            "[{}]",
            r#"[{"createdAt":7}]"#,
            "null",
            "{",
        ] {
            assert_eq!(first_entry(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn profiles_of_an_answer() {
        let body = br#"{"profiles":[{"did":"did:plc:a","n":12345678901234567890},{"handle":"x"},{"did":"did:plc:b"}]}"#;
        let found = profiles(body).expect("profiles");
        let raw: Vec<(&str, &str)> = found.iter().map(|(did, raw)| (did.as_str(), raw.as_raw_str())).collect();
        assert_eq!(
            raw,
            [("did:plc:a", r#"{"did":"did:plc:a","n":12345678901234567890}"#), ("did:plc:b", r#"{"did":"did:plc:b"}"#)]
        );
        assert_eq!(resolved(br#"{"did":"did:plc:a"}"#).as_deref(), Some("did:plc:a"));
        for wrong in ["", "<html>", "{}", "7", r#"{"did":7}"#, &format!(r#"{{"a":{}"#, "[".repeat(4000))] {
            assert_eq!(resolved(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(profiles(b"{}").is_none() && profiles(b"[").is_none());
    }
}

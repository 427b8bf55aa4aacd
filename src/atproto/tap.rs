//! Messages of a Tap (indigo `cmd/tap`; JSON), and what is sent back to it.

use std::borrow::Cow;

use serde::Deserialize;

use super::json;
use super::json_input::{self, JsonValueTrait, LazyValue};

/// Levels of a message: the limit is that of the relay's records, which stand two levels down here.
const DEEPEST: usize = json::MAX_DEPTH as usize + 2;

/// Every message has an id and a type; the rest is by type.
#[derive(Deserialize)]
pub struct Message<'a> {
    pub id: u64,
    #[serde(borrow, default, rename = "type")]
    pub kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub record: Option<LazyValue<'a>>,
    #[serde(borrow, default)]
    pub identity: Option<LazyValue<'a>>,
}

/// The body of a `record` message.
#[derive(Deserialize)]
pub struct RecordEvent<'a> {
    #[serde(default)]
    pub live: bool,
    #[serde(borrow)]
    pub did: Cow<'a, str>,
    #[serde(borrow, default)]
    pub rev: Cow<'a, str>,
    #[serde(borrow)]
    pub collection: Cow<'a, str>,
    #[serde(borrow)]
    pub rkey: Cow<'a, str>,
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    #[serde(borrow, default)]
    pub cid: Option<Cow<'a, str>>,
    /// Passes through as it is: no number is read and written again.
    #[serde(borrow, default)]
    pub record: Option<LazyValue<'a>>,
}

/// The body of an `identity` message.
#[derive(Deserialize)]
pub struct IdentityEvent<'a> {
    #[serde(borrow)]
    pub did: Cow<'a, str>,
    #[serde(borrow, default)]
    pub handle: Option<Cow<'a, str>>,
    #[serde(default)]
    pub is_active: Option<bool>,
    #[serde(borrow, default)]
    pub status: Option<Cow<'a, str>>,
}

impl<'a> Message<'a> {
    /// Reads a message. The error names what is wrong, in one line.
    pub fn read(text: &'a [u8]) -> Result<Self, String> {
        json_input::read(text, DEEPEST)
    }
}

/// The id of a message whose rest may be anything. Tap writes it first.
pub fn readable_id(text: &[u8]) -> Option<u64> {
    let beginning = String::from_utf8_lossy(&text[..text.len().min(DEEPEST)]);
    json_input::member(beginning.as_ref(), DEEPEST, "id")?.as_u64()
}

/// The message that acknowledges the event with this id.
pub fn acknowledgement(id: u64) -> String {
    format!("{{\"type\":\"ack\",\"id\":{id}}}")
}

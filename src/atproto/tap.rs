//! Messages of a Tap (indigo `cmd/tap`; JSON), and what is sent back to it. It reads what the decoder looks at; records
//! stay the text that they are. Pure.

use std::borrow::Cow;

use serde::Deserialize;

use super::json;
use super::json_input::{self, JsonValueTrait, LazyValue};

/// Levels of a message: the limit is that of the relay's records, which stand two levels down here.
const DEEPEST: usize = json::MAX_DEPTH as usize + 2;

/// Every message has an id and a type; the rest is by type.
#[derive(Deserialize)]
pub struct Message<'a> {
    /// What an acknowledgement names: unique on one connection.
    pub id: u64,
    /// `record` or `identity`; others are of a later version.
    #[serde(borrow, default, rename = "type")]
    pub kind: Cow<'a, str>,
    /// The body of a `record` message, or the record in it, still as JSON.
    #[serde(borrow, default)]
    pub record: Option<LazyValue<'a>>,
    /// The body of an `identity` message, still as JSON.
    #[serde(borrow, default)]
    pub identity: Option<LazyValue<'a>>,
}

/// The body of a `record` message.
#[derive(Deserialize)]
pub struct RecordEvent<'a> {
    /// Whether it is an event of now, not of a backfill.
    #[serde(default)]
    pub live: bool,
    /// The account.
    #[serde(borrow)]
    pub did: Cow<'a, str>,
    /// The revision of the repository; empty when absent.
    #[serde(borrow, default)]
    pub rev: Cow<'a, str>,
    /// The record's collection.
    #[serde(borrow)]
    pub collection: Cow<'a, str>,
    /// The record's key in it.
    #[serde(borrow)]
    pub rkey: Cow<'a, str>,
    /// `create`, `update` or `delete`.
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    /// The record's CID as text; absent for a delete.
    #[serde(borrow, default)]
    pub cid: Option<Cow<'a, str>>,
    /// Passes through as it is: no number is read and written again.
    #[serde(borrow, default)]
    pub record: Option<LazyValue<'a>>,
}

/// The body of an `identity` message.
#[derive(Deserialize)]
pub struct IdentityEvent<'a> {
    /// The account.
    #[serde(borrow)]
    pub did: Cow<'a, str>,
    /// The account's handle.
    #[serde(borrow, default)]
    pub handle: Option<Cow<'a, str>>,
    /// Whether the account's repository can be fetched.
    #[serde(default)]
    pub is_active: Option<bool>,
    /// The hosting status, such as `active` or `takendown`.
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

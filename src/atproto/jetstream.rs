//! The messages of Jetstream (`bluesky-social/jetstream`), JSON texts in one of two wires: what a message says, whichever
//! wire it came on. Pure; it knows neither sockets nor cursors that were asked for. Readers and workers call it.
//!
//! Version 1 (`/subscribe`) sends bare objects with `time_us`, its cursor. Version 2
//! (`network.bsky.jetstream.subscribeEvents`) wraps each event in a `payload` and numbers it by `seq`, its cursor. The record
//! of a commit is never parsed: it passes as the bytes that came.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::frame::SEQ_END;
use super::json_input::{self, LazyValue};
use super::{json, time};

/// The limit is that of the relay's records, which stand two levels down here.
const DEEPEST: usize = json::MAX_DEPTH as usize + 2;
/// What the `$type` of a payload begins with; the kind follows.
const PAYLOAD: &str = "network.bsky.jetstream.subscribeEvents#";

/// One message.
pub enum Message<'a> {
    /// Something that happened.
    Event(Box<Event<'a>>),
    /// A notice about the stream, without a place in it: `OutdatedCursor`, `FutureCursor`. Version 2 only.
    Info(Notice<'a>),
    /// The server closes next: `ConsumerTooSlow`. Version 2 only.
    Error(Notice<'a>),
}

/// A name that programs read, and a message for people, which may be empty.
pub struct Notice<'a> {
    /// Such as `OutdatedCursor`.
    pub name: Cow<'a, str>,
    /// In any words.
    pub message: Cow<'a, str>,
}

/// An event and its place in the stream.
pub struct Event<'a> {
    /// The account; empty where the message names none, which is no event.
    pub did: Cow<'a, str>,
    /// Version 2: the server's own number of the event, its cursor. `None` in version 1, and where it is not in 1..2^53.
    pub seq: Option<u64>,
    /// When the server saw the event, in microseconds since 1970; the cursor of version 1. `None` where it is no such time.
    pub time_us: Option<u64>,
    /// The time of the event as RFC 3339: the upstream relay's where the message has that, else the server's.
    pub time: Cow<'a, str>,
    /// What happened.
    pub body: Body<'a>,
}

/// What happened.
pub enum Body<'a> {
    /// One record changed.
    Commit(Commit<'a>),
    /// The account's handle or document may have changed.
    Identity(Upstream<'a>),
    /// Its hosting status.
    Account(Upstream<'a>),
    /// The repository's state is declared anew. Version 2 only.
    Sync(Upstream<'a>),
    /// A kind that this version does not know; it is passed over.
    Unknown,
}

/// One change of one record.
#[derive(Deserialize, Default)]
pub struct Commit<'a> {
    /// The revision of the repository.
    #[serde(borrow, default)]
    pub rev: Cow<'a, str>,
    /// `create`, `update` or `delete`.
    #[serde(borrow, default)]
    pub operation: Cow<'a, str>,
    /// The kind of record, an NSID.
    #[serde(borrow, default)]
    pub collection: Cow<'a, str>,
    /// The record's name in the collection.
    #[serde(borrow, default)]
    pub rkey: Cow<'a, str>,
    /// As it came.
    #[serde(borrow, default)]
    pub record: Option<LazyValue<'a>>,
    /// The record's CID; absent for a delete. Anything may stand there.
    #[serde(borrow, default)]
    pub cid: Option<Cow<'a, str>>,
}

/// What the upstream relay said of an account, with the relay's own seq and time.
#[derive(Deserialize, Default)]
pub struct Upstream<'a> {
    /// The relay's number of the event.
    #[serde(default)]
    pub seq: Option<u64>,
    /// The relay's time of it.
    #[serde(borrow, default)]
    pub time: Option<Cow<'a, str>>,
    /// Of an identity, where the relay says it.
    #[serde(borrow, default)]
    pub handle: Option<Cow<'a, str>>,
    /// Of an account: whether it is hosted.
    #[serde(default)]
    pub active: Option<bool>,
    /// Of an account: why it is not.
    #[serde(borrow, default)]
    pub status: Option<Cow<'a, str>>,
    /// Of a sync: the revision of the repository.
    #[serde(borrow, default)]
    pub rev: Option<Cow<'a, str>>,
    /// The CAR with the commit of a `sync`.
    #[serde(borrow, default)]
    pub blocks: Option<Bytes<'a>>,
}

/// Bytes as the data model writes them in JSON: base64.
#[derive(Deserialize)]
pub struct Bytes<'a> {
    /// With or without padding; anything may stand there.
    #[serde(borrow, rename = "$bytes")]
    pub base64: Cow<'a, str>,
}

/// The fields of both wires: which of them are there tells the wire.
#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow, default)]
    did: Cow<'a, str>,
    #[serde(default)]
    time_us: Option<u64>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    commit: Option<Commit<'a>>,
    #[serde(borrow, default)]
    identity: Option<Upstream<'a>>,
    #[serde(borrow, default)]
    account: Option<Upstream<'a>>,

    #[serde(borrow, default, rename = "$type")]
    envelope: Cow<'a, str>,
    #[serde(borrow, default)]
    payload: Option<Payload<'a>>,
    #[serde(borrow, default)]
    error: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// The fields of [`Commit`] stand beside the others here.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, default, rename = "$type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(borrow, default)]
    did: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
    /// Newer servers: when the server saw the event, where its operator gave it another `time`.
    #[serde(borrow, default, rename = "witnessedAt")]
    witnessed_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    rev: Cow<'a, str>,
    #[serde(borrow, default)]
    operation: Cow<'a, str>,
    #[serde(borrow, default)]
    collection: Cow<'a, str>,
    #[serde(borrow, default)]
    rkey: Cow<'a, str>,
    #[serde(borrow, default)]
    record: Option<LazyValue<'a>>,
    #[serde(borrow, default)]
    cid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    identity: Option<Upstream<'a>>,
    #[serde(borrow, default)]
    account: Option<Upstream<'a>>,
    #[serde(borrow, default)]
    sync: Option<Upstream<'a>>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// Reads a message of either wire. Fails, in one line without anything of the text, for what is no message of Jetstream.
pub fn parse(text: &[u8]) -> Result<Message<'_>, String> {
    let text: Text<'_> = json_input::read(text, DEEPEST)?;
    match text.payload {
        Some(payload) => of_payload(payload),
        None if text.envelope == "error" => Ok(Message::Error(Notice { name: text.error, message: text.message })),
        None => of_bare(text),
    }
}

/// Version 1.
fn of_bare(text: Text<'_>) -> Result<Message<'_>, String> {
    if text.kind.is_empty() {
        return Err("neither a kind nor a payload".into());
    }
    let body = match (text.kind.as_ref(), text.commit, text.identity, text.account) {
        ("commit", Some(commit), ..) => Body::Commit(commit),
        ("identity", _, Some(identity), _) => Body::Identity(identity),
        ("account", .., Some(account)) => Body::Account(account),
        ("commit" | "identity" | "account", ..) => return Err("a kind without its body".into()),
        _ => Body::Unknown,
    };
    let time_us = text.time_us.filter(in_range);
    let time = Cow::Owned(time_us.map(format_us).unwrap_or_default());
    Ok(event(text.did, None, time_us, time, body))
}

/// Version 2.
fn of_payload(payload: Payload<'_>) -> Result<Message<'_>, String> {
    let Some(kind) = payload.kind.strip_prefix(PAYLOAD) else {
        return Err("a payload of another stream".into());
    };
    let body = match (kind, payload.identity, payload.account, payload.sync) {
        ("info", ..) => return Ok(Message::Info(Notice { name: payload.name, message: payload.message })),
        ("commit", ..) => Body::Commit(Commit {
            rev: payload.rev,
            operation: payload.operation,
            collection: payload.collection,
            rkey: payload.rkey,
            record: payload.record,
            cid: payload.cid,
        }),
        ("identity", Some(identity), ..) => Body::Identity(identity),
        ("account", _, Some(account), _) => Body::Account(account),
        ("sync", .., Some(sync)) => Body::Sync(sync),
        ("identity" | "account" | "sync", ..) => return Err("a kind without its body".into()),
        _ => Body::Unknown,
    };
    let seen = payload.witnessed_at.as_deref().unwrap_or(&payload.time);
    let time_us = time::parse_ms(seen).and_then(|ms| u64::try_from(ms).ok()?.checked_mul(1_000)).filter(in_range);
    Ok(event(payload.did, payload.seq.filter(in_range), time_us, payload.time, body))
}

fn event<'a>(
    did: Cow<'a, str>,
    seq: Option<u64>,
    time_us: Option<u64>,
    time: Cow<'a, str>,
    body: Body<'a>,
) -> Message<'a> {
    let mut event = Event { did, seq, time_us, time, body };
    if let Body::Identity(upstream) | Body::Account(upstream) | Body::Sync(upstream) = &mut event.body
        && let Some(upstream) = upstream.time.take().filter(|time| !time.is_empty())
    {
        event.time = upstream;
    }
    Message::Event(Box::new(event))
}

fn in_range(n: &u64) -> bool {
    (1..SEQ_END).contains(n)
}

/// `2026-07-04T14:38:08.085434Z`: always UTC, always six decimals, as version 2 writes its times.
fn format_us(us: u64) -> String {
    let time = i64::try_from(us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    time.map(|time| format!("{time:.6}")).unwrap_or_default()
}

impl Event<'_> {
    /// What names the event on any server and on both wires: of two events with one id the second is the first again. The
    /// same in each build, since ids are kept in state files. An event of an unknown kind is named by its time.
    pub fn id(&self) -> u64 {
        let (kind, parts): (&str, [&str; 4]) = match &self.body {
            Body::Commit(c) => (&c.operation, [&c.rev, &c.collection, &c.rkey, c.cid.as_deref().unwrap_or_default()]),
            Body::Identity(_) => ("identity", Default::default()),
            Body::Account(_) => ("account", Default::default()),
            Body::Sync(_) => ("sync", Default::default()),
            Body::Unknown => ("", Default::default()),
        };
        let number = match &self.body {
            Body::Commit(_) => 0,
            Body::Identity(u) | Body::Account(u) | Body::Sync(u) => u.seq.or(self.time_us).unwrap_or(0),
            Body::Unknown => self.time_us.unwrap_or(0),
        };
        let mut hash = Sha256::new();
        for part in [&self.did, kind].into_iter().chain(parts) {
            hash.update(part);
            // No name has this byte, so that the parts cannot run into one another.
            hash.update([0]);
        }
        hash.update(number.to_be_bytes());
        first_eight(&hash.finalize())
    }
}

/// The same for a message of which nothing can be read: the bytes name it.
pub fn id_of_bytes(text: &[u8]) -> u64 {
    first_eight(&Sha256::digest(text))
}

fn first_eight(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;

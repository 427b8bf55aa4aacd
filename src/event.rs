//! What is written to Kafka: plain JSON, or the envelope that Osprey's worker reads. Pure.

use crate::atproto::json;
use crate::atproto::time;

/// What happened, with the names that Osprey rules and metrics use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Create,
    Update,
    Delete,
    Account,
    Identity,
    Sync,
    Info,
    /// An event of Ozone: which, is in its `$type`.
    Ozone,
}

impl Action {
    /// All of them, for tables by action.
    pub const ALL: [Action; 8] = [
        Action::Create,
        Action::Update,
        Action::Delete,
        Action::Account,
        Action::Identity,
        Action::Sync,
        Action::Info,
        Action::Ozone,
    ];

    /// The `action_name` of Osprey and of the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Action::Create => "operation#create",
            Action::Update => "operation#update",
            Action::Delete => "operation#delete",
            Action::Account => "account",
            Action::Identity => "identity",
            Action::Sync => "sync",
            Action::Info => "info",
            Action::Ozone => "ozone",
        }
    }

    /// The verb of an op, as the firehose has it.
    pub fn of_op(verb: &str) -> Option<Action> {
        match verb {
            "create" => Some(Action::Create),
            "update" => Some(Action::Update),
            "delete" => Some(Action::Delete),
            _ => None,
        }
    }

    fn verb(self) -> &'static str {
        self.name().rsplit('#').next().unwrap_or("")
    }
}

/// Which of the two forms is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Plain,
    Osprey,
}

/// When something happened, as text and as a number.
#[derive(Clone, Copy)]
pub struct When<'a> {
    /// As upstream wrote it, or the time of arrival where that is not a time.
    pub text: &'a str,
    /// Milliseconds since 1970.
    pub ms: i64,
}

/// What every event says.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub action: Action,
    /// The account; an `info` event has none.
    pub did: Option<&'a str>,
    pub when: When<'a>,
    pub seq: Option<u64>,
    /// Empty where upstream has none.
    pub rev: &'a str,
    /// Tap says whether an event is live or of a backfill.
    pub live: Option<bool>,
}

/// Where the snowflake stands in an Osprey event: [`stamp`] fills it in when the order is known.
const ID_PREFIX: &[u8] = br#"{"data":{"action_id":"#;
/// Digits of a snowflake: 19 from July 2022 until the sign bit in 2084.
const ID_LEN: usize = 19;

/// Appends one event. `body` appends the part that only this kind has, such as `"operation":{...}`; when it fails,
/// `out` holds a part and the caller truncates.
pub fn write<E>(
    out: &mut Vec<u8>,
    format: Format,
    head: Head<'_>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    envelope(out, format, head.action.name(), head.when, |out| inner(out, format, head, body))
}

/// Appends what `data` appends: as it is, or in Osprey's envelope.
pub fn envelope<E>(
    out: &mut Vec<u8>,
    format: Format,
    action_name: &str,
    when: When<'_>,
    data: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    if format == Format::Plain {
        return data(out);
    }
    out.extend_from_slice(ID_PREFIX);
    out.extend_from_slice(&[b'0'; ID_LEN]);
    field(out, b",\"action_name\":", action_name);
    out.extend_from_slice(b",\"data\":");
    data(out)?;
    field(out, b",\"timestamp\":", when.text);
    out.extend_from_slice(br#","secret_data":{},"encoding":"UTF8"},"send_time":"#);
    // Osprey's parser drops offsets and takes a time without a zone as local: always UTC, always with Z.
    if when.text.len() == 24 && when.text.ends_with('Z') {
        json::string(out, when.text);
    } else {
        json::string(out, &time::format_ms(when.ms));
    }
    out.push(b'}');
    Ok(())
}

fn inner<E>(
    out: &mut Vec<u8>,
    format: Format,
    head: Head<'_>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    match head.did {
        Some(did) => {
            field(out, b"{\"did\":", did);
            field(out, b",\"timestamp\":", head.when.text);
        }
        // Osprey's rules demand a did, and take an empty one.
        None if format == Format::Osprey => field(out, b"{\"did\":\"\",\"timestamp\":", head.when.text),
        None => field(out, b"{\"timestamp\":", head.when.text),
    }
    if let Some(seq) = head.seq {
        out.extend_from_slice(b",\"seq\":");
        json::integer(out, seq);
    }
    if !head.rev.is_empty() {
        field(out, b",\"rev\":", head.rev);
    }
    if let Some(live) = head.live {
        out.extend_from_slice(if live { b",\"live\":true" } else { b",\"live\":false" });
    }
    out.push(b',');
    body(out)?;
    out.push(b'}');
    Ok(())
}

/// What is known of the account behind an event, at the event's time. What is not known is left out.
#[derive(Default)]
pub struct Metadata<'a> {
    /// JSON, and written as it is.
    pub did_document: Option<&'a [u8]>,
    pub pds_host: Option<&'a str>,
    pub handle: Option<&'a str>,
    pub created_at: Option<&'a str>,
    /// Seconds.
    pub account_age: Option<u64>,
    /// JSON, and written as it is.
    pub profile: Option<&'a [u8]>,
}

/// Appends `"eventMetadata":{...},`, which stands before the part that only this kind of event has; `null` where nothing is
/// known, as the Go program has it.
pub fn metadata(out: &mut Vec<u8>, known: &Metadata<'_>) {
    let start = out.len();
    out.extend_from_slice(br#""eventMetadata":{"#);
    let empty = out.len();
    if let Some(document) = known.did_document {
        out.extend_from_slice(br#""didDocument":"#);
        json::raw(out, document);
        out.push(b',');
    }
    for (name, text) in [
        (&br#""pdsHost":"#[..], known.pds_host),
        (br#""handle":"#, known.handle),
        (br#""didCreatedAt":"#, known.created_at),
    ] {
        if let Some(text) = text {
            field(out, name, text);
            out.push(b',');
        }
    }
    if let Some(age) = known.account_age {
        out.extend_from_slice(br#""accountAge":"#);
        json::integer(out, age);
        out.push(b',');
    }
    if let Some(profile) = known.profile {
        out.extend_from_slice(br#""profile":"#);
        json::raw(out, profile);
        out.push(b',');
    }
    if out.len() == empty {
        out.truncate(start);
        out.extend_from_slice(br#""eventMetadata":null,"#);
    } else {
        out.pop();
        out.extend_from_slice(b"},");
    }
}

/// `prefix` and a string.
fn field(out: &mut Vec<u8>, prefix: &[u8], text: &str) {
    out.extend_from_slice(prefix);
    json::string(out, text);
}

/// An op of a commit, ready to be written.
pub struct Operation<'a> {
    pub action: Action,
    pub did: &'a str,
    pub collection: &'a str,
    pub rkey: &'a str,
    /// As text; empty for a delete, since Osprey's rules demand the field.
    pub cid: &'a [u8],
    /// The record's block, absent for a delete and where the commit was too big to carry it.
    pub record: Option<Record<'a>>,
}

/// A record as upstream gave it.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    DagCbor(&'a [u8]),
    /// Passes through untouched.
    Json(&'a [u8]),
}

impl Operation<'_> {
    /// Appends `"operation":{...}`, and says in what the record is odd. Fails when it is not of the data model.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<json::Oddities, crate::atproto::cbor::CborError> {
        let mut odd = json::Oddities::default();
        field(out, br#""operation":{"action":"#, self.action.verb());
        field(out, br#","collection":"#, self.collection);
        field(out, br#","rkey":"#, self.rkey);
        out.extend_from_slice(br#","uri":"at://"#);
        json::escaped(out, self.did);
        for part in [self.collection, self.rkey] {
            out.push(b'/');
            json::escaped(out, part);
        }
        out.extend_from_slice(br#"","cid":""#);
        out.extend_from_slice(self.cid);
        out.extend_from_slice(br#"","path":""#);
        json::escaped(out, self.collection);
        out.push(b'/');
        json::escaped(out, self.rkey);
        out.push(b'"');
        if let Some(record) = self.record {
            out.extend_from_slice(b",\"record\":");
            match record {
                Record::DagCbor(block) => odd = json::record(block, out)?,
                Record::Json(text) => json::raw(out, text),
            }
        }
        out.push(b'}');
        Ok(odd)
    }
}

/// Appends `"account":{...}`.
pub fn account(out: &mut Vec<u8>, active: bool, seq: Option<u64>, status: Option<&str>) {
    out.extend_from_slice(if active { br#""account":{"active":true"# } else { br#""account":{"active":false"# });
    if let Some(seq) = seq {
        out.extend_from_slice(b",\"seq\":");
        json::integer(out, seq);
    }
    if let Some(status) = status {
        field(out, b",\"status\":", status);
    }
    out.push(b'}');
}

/// Appends `"identity":{...}`.
pub fn identity(out: &mut Vec<u8>, seq: Option<u64>, handle: Option<&str>) {
    out.extend_from_slice(br#""identity":{"#);
    if let Some(seq) = seq {
        out.extend_from_slice(b"\"seq\":");
        json::integer(out, seq);
    }
    if let Some(handle) = handle {
        field(out, if seq.is_some() { b",\"handle\":" } else { b"\"handle\":" }, handle);
    }
    out.push(b'}');
}

/// Appends `"sync":{...}`: the repository is declared anew at `rev`, with the commit `cid` where it could be read.
pub fn sync(out: &mut Vec<u8>, seq: u64, rev: &str, cid: Option<&str>) {
    out.extend_from_slice(br#""sync":{"seq":"#);
    json::integer(out, seq);
    field(out, b",\"rev\":", rev);
    if let Some(cid) = cid {
        field(out, b",\"cid\":", cid);
    }
    out.push(b'}');
}

/// Appends `"info":{...}`.
pub fn info(out: &mut Vec<u8>, name: &str, message: &str) {
    field(out, br#""info":{"name":"#, name);
    field(out, b",\"message\":", message);
    out.push(b'}');
}

/// Writes `id` into an Osprey event made by [`write`].
pub fn stamp(value: &mut [u8], id: u64) {
    debug_assert!(value.starts_with(ID_PREFIX), "only Osprey events are stamped");
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(id).as_bytes();
    // A clock before July 2022 gives fewer digits; JSON has no leading zeros, but blanks before a number are legal.
    let field = &mut value[ID_PREFIX.len()..ID_PREFIX.len() + ID_LEN];
    field.fill(b' ');
    field[ID_LEN - digits.len()..].copy_from_slice(digits);
}

/// Osprey's action ids: 41 bits of milliseconds since 2015, 5 of data center, 5 of worker, 12 of sequence.
///
/// They rise strictly, also when the clock steps back or more than 4096 fall into one millisecond (then they borrow
/// from the next). Taken in the order of delivery, so that each partition's ids rise too. A clock that steps back
/// over a restart of the process can repeat ids.
pub struct Snowflake {
    /// Milliseconds and sequence of the last one.
    last: u64,
    place: u64,
}

/// 2015-01-01T00:00:00Z, as Osprey has it.
const EPOCH_MS: i64 = 1_420_070_400_000;

impl Snowflake {
    /// `data_center` and `worker` from 0 to 31: two generators with the same pair can give the same id.
    pub fn new(data_center: u8, worker: u8) -> Self {
        Snowflake { last: 0, place: ((data_center as u64 & 31) << 17) | ((worker as u64 & 31) << 12) }
    }

    pub fn next(&mut self, now_ms: i64) -> u64 {
        let now = (now_ms.saturating_sub(EPOCH_MS)).clamp(0, (1 << 41) - 1) as u64;
        self.last = (now << 12).max(self.last + 1);
        ((self.last >> 12) << 22) | self.place | (self.last & 0xfff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snowflakes_rise_when_the_clock_stands_still_or_steps_back() {
        let mut ids = Snowflake::new(0, 1);
        let mut last = 0;
        for now in [1_785_000_000_000i64, 1_785_000_000_000, 1_700_000_000_000, 1_785_000_000_001] {
            for _ in 0..5000 {
                let id = ids.next(now);
                assert!(id > last);
                assert_eq!((id >> 12) & 1023, 1);
                last = id;
            }
        }
        // What Osprey reads out of it again.
        assert_eq!((Snowflake::new(0, 0).next(1_785_000_000_000) >> 22) as i64 + EPOCH_MS, 1_785_000_000_000);
    }

    #[test]
    fn metadata_has_what_is_known_and_nothing_else() {
        let text = |known: &Metadata<'_>| {
            let mut out = Vec::new();
            metadata(&mut out, known);
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(text(&Metadata::default()), r#""eventMetadata":null,"#);
        let age = Metadata { account_age: Some(0), ..Metadata::default() };
        assert_eq!(text(&age), r#""eventMetadata":{"accountAge":0},"#);
        let all = Metadata {
            did_document: Some(b"{\n}"),
            pds_host: Some("https://p"),
            handle: Some("a.b"),
            created_at: Some("t"),
            account_age: Some(7),
            profile: Some(br#"{"n":1}"#),
        };
        assert_eq!(
            text(&all),
            r#""eventMetadata":{"didDocument":{ },"pdsHost":"https://p","handle":"a.b","didCreatedAt":"t","accountAge":7,"profile":{"n":1}},"#
        );
    }

    #[test]
    fn an_osprey_event_has_each_field_that_is_read() {
        let mut out = Vec::new();
        let when = When { text: "2023-07-01T13:58:07.7841234", ms: 1_688_219_887_784 };
        let head = Head { action: Action::Identity, did: Some("did:plc:x"), when, seq: Some(7), rev: "", live: None };
        write(&mut out, Format::Osprey, head, |out| {
            identity(out, Some(7), Some("a.example"));
            Ok::<_, ()>(())
        })
        .expect("written");
        stamp(&mut out, 1_532_000_000_000_000_001);
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            concat!(
                r#"{"data":{"action_id":1532000000000000001,"action_name":"identity","data":"#,
                r#"{"did":"did:plc:x","timestamp":"2023-07-01T13:58:07.7841234","seq":7,"identity":{"seq":7,"handle":"a.example"}},"#,
                r#""timestamp":"2023-07-01T13:58:07.7841234","secret_data":{},"encoding":"UTF8"},"send_time":"2023-07-01T13:58:07.784Z"}"#
            )
        );
    }
}

//! What is written to Kafka: plain JSON, or the same in the [envelope](osprey) that Osprey's worker reads. Pure: it appends
//! bytes, and knows neither batches nor the clock.

pub mod osprey;
pub mod schema;

use crate::atproto::{json, json_output, time};

/// What happened, with the names that Osprey rules and metrics use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A record was made.
    Create,
    /// A record was replaced.
    Update,
    /// A record was removed.
    Delete,
    /// The hosting status of an account.
    Account,
    /// A handle or document may have changed.
    Identity,
    /// A repository is declared anew.
    Sync,
    /// Something that the host or atkafka itself has to say.
    Info,
    /// An event of Ozone: which, is in its `$type`.
    Ozone,
}

impl Action {
    /// Whether it is something done to a record.
    pub fn is_op(self) -> bool {
        matches!(self, Action::Create | Action::Update | Action::Delete)
    }

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
    /// JSON as at-kafka writes it.
    Plain,
    /// The same in Osprey's envelope.
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

impl<'a> When<'a> {
    /// A time that upstream did not write; its text is put into `buffer`.
    pub fn at(ms: i64, buffer: &'a mut String) -> Self {
        *buffer = time::format_ms(ms);
        When { text: buffer, ms }
    }

    /// The time that upstream gives, or of arrival where that is not a time.
    pub fn given(text: &'a str, arrived_ms: i64, buffer: &'a mut String) -> Self {
        match time::parse_ms(text) {
            Some(ms) => When { text, ms },
            None => When::at(arrived_ms, buffer),
        }
    }
}

/// What every event says.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// What happened.
    pub action: Action,
    /// The account; an `info` event has none.
    pub did: Option<&'a str>,
    /// The event's time.
    pub when: When<'a>,
    /// The host's sequence number, where it has one.
    pub seq: Option<u64>,
    /// Empty where upstream has none.
    pub rev: &'a str,
    /// Tap says whether an event is live or of a backfill.
    pub live: Option<bool>,
}

impl Head<'_> {
    /// A head that says what happened, and nothing else yet.
    pub fn of(action: Action) -> Self {
        Head { action, did: None, when: When { text: "", ms: 0 }, seq: None, rev: "", live: None }
    }
}

/// Appends the beginning of an event, up to where the part that only its kind has begins, such as `"operation":{...}`.
pub fn open(out: &mut Vec<u8>, format: Format, head: &Head<'_>) {
    if format == Format::Osprey {
        osprey::open(out, head.action.name());
    }
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
        json_output::integer(out, seq);
    }
    if !head.rev.is_empty() {
        field(out, b",\"rev\":", head.rev);
    }
    if let Some(live) = head.live {
        out.extend_from_slice(if live { b",\"live\":true" } else { b",\"live\":false" });
    }
    out.push(b',');
}

/// Appends the end of an event that [`open`] began.
pub fn close(out: &mut Vec<u8>, format: Format, when: &When<'_>) {
    out.push(b'}');
    if format == Format::Osprey {
        osprey::close(out, when);
    }
}

/// What is known of the account behind an event, at the event's time. What is not known is left out.
#[derive(Default)]
pub struct Metadata<'a> {
    /// JSON, and written as it is.
    pub did_document: Option<&'a [u8]>,
    /// `https://host`, with the port where it is not the usual one.
    pub pds_host: Option<&'a str>,
    /// The handle, or `handle.invalid`.
    pub handle: Option<&'a str>,
    /// When the account was created, RFC 3339.
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
        json_output::raw(out, document);
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
        json_output::integer(out, age);
        out.push(b',');
    }
    if let Some(profile) = known.profile {
        out.extend_from_slice(br#""profile":"#);
        json_output::raw(out, profile);
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
    json_output::string(out, text);
}

/// An op of a commit, ready to be written.
pub struct Operation<'a> {
    /// What happened.
    pub action: Action,
    /// The account.
    pub did: &'a str,
    /// The record's collection.
    pub collection: &'a str,
    /// The record's key in it.
    pub rkey: &'a str,
    /// As text; empty for a delete, since Osprey's rules demand the field.
    pub cid: &'a [u8],
    /// The record, absent for a delete and where the commit was too big to carry it.
    pub record: Option<RawRecord<'a>>,
}

/// A record as upstream gave it.
#[derive(Clone, Copy)]
pub enum RawRecord<'a> {
    /// One block of a CAR; it is converted to JSON.
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
        json_output::escaped(out, self.did);
        for part in [self.collection, self.rkey] {
            out.push(b'/');
            json_output::escaped(out, part);
        }
        out.extend_from_slice(br#"","cid":""#);
        out.extend_from_slice(self.cid);
        out.extend_from_slice(br#"","path":""#);
        json_output::escaped(out, self.collection);
        out.push(b'/');
        json_output::escaped(out, self.rkey);
        out.push(b'"');
        if let Some(record) = self.record {
            out.extend_from_slice(b",\"record\":");
            match record {
                RawRecord::DagCbor(block) => odd = json::record(block, out)?,
                RawRecord::Json(text) => json_output::raw(out, text),
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
        json_output::integer(out, seq);
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
        json_output::integer(out, seq);
    }
    if let Some(handle) = handle {
        field(out, if seq.is_some() { b",\"handle\":" } else { b"\"handle\":" }, handle);
    }
    out.push(b'}');
}

/// Appends `"sync":{...}`: the repository is declared anew at `rev`, with the commit `cid` where it could be read.
pub fn sync(out: &mut Vec<u8>, seq: u64, rev: &str, cid: Option<&str>) {
    out.extend_from_slice(br#""sync":{"seq":"#);
    json_output::integer(out, seq);
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

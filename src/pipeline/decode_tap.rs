//! One message of Tap to records and dead letters (indigo `cmd/tap`; JSON).

use std::borrow::Cow;

use serde::Deserialize;

use super::batch::Batch;
use super::decode::{Decoder, short};
use super::event_writer::EventWriter;
use crate::atproto::json_input::{self, JsonValueTrait, LazyValue};
use crate::atproto::{json, tid};
use crate::checkpoint::Position;
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{self, Action, Head, Operation, Record, When};
use crate::source::job::Seen;

/// Every message has an id and a type; the rest is by type.
#[derive(Deserialize)]
struct Message<'a> {
    id: u64,
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    record: Option<LazyValue<'a>>,
    #[serde(borrow, default)]
    identity: Option<LazyValue<'a>>,
}

#[derive(Deserialize)]
struct TapRecord<'a> {
    #[serde(default)]
    live: bool,
    #[serde(borrow)]
    did: Cow<'a, str>,
    #[serde(borrow, default)]
    rev: Cow<'a, str>,
    #[serde(borrow)]
    collection: Cow<'a, str>,
    #[serde(borrow)]
    rkey: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, default)]
    cid: Option<Cow<'a, str>>,
    /// Passes through as it is: no number is read and written again.
    #[serde(borrow, default)]
    record: Option<LazyValue<'a>>,
}

#[derive(Deserialize)]
struct TapIdentity<'a> {
    #[serde(borrow)]
    did: Cow<'a, str>,
    #[serde(borrow, default)]
    handle: Option<Cow<'a, str>>,
    #[serde(default)]
    is_active: Option<bool>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
}

/// What is wrong with a message, for its dead letter.
type Wrong = (Reason, String);

impl Decoder<'_> {
    /// Appends what the message gives, and notes its id for the acknowledgement.
    pub fn tap(&mut self, text: &[u8], seen: &Seen, out: &mut Batch) {
        let message = match seen {
            Seen::Binary => Err((Reason::BadFrame, "a binary message".into())),
            _ => json_input::read::<Message<'_>>(text, DEEPEST)
                .map_err(|e| (Reason::BadFrame, format!("not a message of Tap: {e}"))),
        };
        // Acknowledged with the batch, whatever the message turns out to be: else Tap sends it for ever.
        let id = message.as_ref().map_or_else(|_| readable_id(text), |m| Some(m.id));
        if let Some(Position::Tap(tap)) = &mut out.position {
            tap.ids.extend(id);
        }
        if let Err((reason, detail)) = message.and_then(|m| self.tap_message(&m, out)) {
            out.bury(DeadLetter { reason, detail, seq: 0, bytes: text.to_vec() });
        }
    }

    fn tap_message(&mut self, message: &Message<'_>, out: &mut Batch) -> Result<(), Wrong> {
        match (message.kind.as_ref(), &message.record, &message.identity) {
            ("record", Some(record), _) => {
                let record = parse::<TapRecord<'_>>(record, "record")?;
                self.tap_record(&record, out)
            }
            ("identity", _, Some(identity)) => {
                let identity = parse::<TapIdentity<'_>>(identity, "identity")?;
                self.tap_identity(&identity, out);
                Ok(())
            }
            ("record" | "identity", ..) => {
                Err((Reason::BadFrame, format!("{} without its body", short(&message.kind))))
            }
            _ => {
                self.metrics.unknown_frames.inc();
                Ok(())
            }
        }
    }

    fn tap_record(&mut self, r: &TapRecord<'_>, out: &mut Batch) -> Result<(), Wrong> {
        if !self.rules.filter.did(&r.did) || !self.rules.filter.collection(&r.collection) {
            self.metrics.filtered.inc();
            return Ok(());
        }
        let detail = |what: &str| format!("at://{}/{}/{}: {what}", short(&r.did), short(&r.collection), short(&r.rkey));
        let action = Action::of_op(&r.action)
            // Not quoted: a Tap that repeats what it was sent may have its password there.
            .ok_or_else(|| (Reason::BadOp, detail("unknown action")))?;
        if r.did.is_empty() || r.collection.is_empty() || r.rkey.is_empty() {
            return Err((Reason::BadOp, detail("an empty part")));
        }
        let record = r.record.as_ref().filter(|_| action != Action::Delete).map(|raw| raw.as_raw_str());
        if record.is_none() && action != Action::Delete {
            self.metrics.without_record.inc();
        }
        let mut text = String::new();
        let when = match tid::time_ms(&r.rev) {
            Some(ms) => When::at(ms, &mut text),
            None => When::at(out.arrived_ms, &mut text),
        };
        out.saw_time(when.ms);
        let operation = Operation {
            action,
            did: &r.did,
            collection: &r.collection,
            rkey: &r.rkey,
            cid: r.cid.as_deref().unwrap_or_default().as_bytes(),
            record: record.map(|raw| Record::Json(raw.as_bytes())),
        };
        let head = Head { action, did: Some(&r.did), when, seq: None, rev: &r.rev, live: Some(r.live) };
        // A CID is text of the network here: it is written as such.
        if operation.cid.iter().any(|b| !b.is_ascii_alphanumeric()) {
            return Err((Reason::BadOp, detail("the CID is not one")));
        }
        let mut event = EventWriter::begin(out, &self.rules, head, &r.collection);
        operation.write(event.body()).map_err(|e| (Reason::BadRecord, detail(&e.to_string())))?;
        event.finish();
        Ok(())
    }

    fn tap_identity(&mut self, i: &TapIdentity<'_>, out: &mut Batch) {
        if !self.rules.filter.did(&i.did) {
            self.metrics.filtered.inc();
            return;
        }
        let mut text = String::new();
        let when = When::at(out.arrived_ms, &mut text);
        let head = |action| Head { did: Some(i.did.as_ref()), when, ..Head::of(action) };
        let mut event = EventWriter::begin(out, &self.rules, head(Action::Identity), "");
        event::identity(event.body(), None, i.handle.as_deref());
        event.finish();
        let active = i.is_active.unwrap_or(true);
        let status = i.status.as_deref().filter(|s| *s != "active" && !s.is_empty());
        if !active || status.is_some() {
            let mut event = EventWriter::begin(out, &self.rules, head(Action::Account), "");
            event::account(event.body(), active, None, status);
            event.finish();
        }
    }
}

/// The limit is that of the relay's records, which stand two levels down here.
const DEEPEST: usize = json::MAX_DEPTH as usize + 2;

/// The id of a message whose rest may be anything. Tap writes it first.
fn readable_id(text: &[u8]) -> Option<u64> {
    let beginning = String::from_utf8_lossy(&text[..text.len().min(DEEPEST)]);
    json_input::member(beginning.as_ref(), DEEPEST, "id")?.as_u64()
}

fn parse<'a, T: Deserialize<'a>>(raw: &'a LazyValue<'a>, what: &str) -> Result<T, Wrong> {
    json_input::part(raw).map_err(|e| (Reason::BadFrame, format!("{what}: {e}")))
}

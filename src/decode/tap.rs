//! One message of Tap to records and dead letters, and the ids that may be acknowledged with the batch. It knows no
//! connection. On the worker's thread.

use serde::Deserialize;

use super::event_writer::EventWriter;
use super::{Batch, Workbench, short, unreadable};
use crate::atproto::json_input::{self, LazyValue};
use crate::atproto::tap::{self, IdentityEvent, Message, RecordEvent};
use crate::atproto::tid;
use crate::dead_letter::Reason;
use crate::event::{self, Action, Head, Operation, RawRecord, When};
use crate::source::job::Seen;

/// What is wrong with a message, for its dead letter.
type Wrong = (Reason, String);

/// Appends what a message gives, and notes its id for the acknowledgement.
pub fn message(bench: &mut Workbench, text: &[u8], seen: &Seen, out: &mut Batch) {
    let message = match seen {
        Seen::Binary => Err((Reason::BadFrame, "a binary message".into())),
        _ => Message::read(text).map_err(|e| (Reason::BadFrame, format!("not a message of Tap: {e}"))),
    };
    // Acknowledged with the batch, whatever the message turns out to be: else Tap sends it for ever.
    let id = message.as_ref().map_or_else(|_| tap::readable_id(text), |m| Some(m.id));
    out.acknowledge(id);
    if let Err((reason, detail)) = message.and_then(|m| bench.tap_message(&m, out)) {
        unreadable(text, reason, detail, out);
    }
}

impl Workbench {
    fn tap_message(&mut self, message: &Message<'_>, out: &mut Batch) -> Result<(), Wrong> {
        match (message.kind.as_ref(), &message.record, &message.identity) {
            ("record", Some(record), _) => {
                let record = parse::<RecordEvent<'_>>(record, "record")?;
                self.tap_record(&record, out)
            }
            ("identity", _, Some(identity)) => {
                let identity = parse::<IdentityEvent<'_>>(identity, "identity")?;
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

    fn tap_record(&mut self, r: &RecordEvent<'_>, out: &mut Batch) -> Result<(), Wrong> {
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
            record: record.map(|raw| RawRecord::Json(raw.as_bytes())),
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

    fn tap_identity(&mut self, i: &IdentityEvent<'_>, out: &mut Batch) {
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

fn parse<'a, T: Deserialize<'a>>(raw: &'a LazyValue<'a>, what: &str) -> Result<T, Wrong> {
    json_input::part(raw).map_err(|e| (Reason::BadFrame, format!("{what}: {e}")))
}

//! One message of Jetstream, of either wire, to a record or a dead letter.
//!
//! Nothing of it can be verified: there is neither a block that hashes to the CID nor a signature.

use super::event_writer::EventWriter;
use super::{Batch, Workbench, short, unreadable};
use crate::atproto::frame;
use crate::atproto::jetstream::{self, Body, Commit, Event, Message, Upstream};
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{self, Action, Head, Operation, RawRecord, When};
use crate::source::job::Seen;

/// What is wrong with a message, for its dead letter.
type Wrong = (Reason, String);

/// Appends what a message gives.
pub fn message(bench: &mut Workbench, text: &[u8], seen: &Seen, out: &mut Batch) {
    let given = match seen {
        Seen::Binary => Err((Reason::BadFrame, "a binary message that could not be unpacked".into())),
        Seen::Bad(detail) => Err((Reason::BadFrame, short(detail).into())),
        Seen::BadSeq => Err((Reason::BadSeq, "neither a seq nor a time_us in 1..2^53".into())),
        _ => match jetstream::parse(text) {
            Ok(Message::Event(event)) => bench.jetstream_event(text, &event, out),
            Ok(Message::Info(notice)) => {
                bench.notice(&notice.name, &notice.message, out);
                Ok(())
            }
            // The reader acts on it.
            Ok(Message::Error(_)) => Ok(()),
            Err(e) => Err((Reason::BadFrame, format!("not a message of Jetstream: {e}"))),
        },
    };
    if let Err((reason, detail)) = given {
        unreadable(text, reason, detail, out);
    }
}

impl Workbench {
    fn jetstream_event(&mut self, text: &[u8], e: &Event<'_>, out: &mut Batch) -> Result<(), Wrong> {
        if let Body::Unknown = e.body {
            self.metrics.unknown_frames.inc();
            return Ok(());
        }
        if e.did.is_empty() {
            return Err((Reason::BadFrame, "no did".into()));
        }
        let mut arrival = String::new();
        let when = When::given(&e.time, out.arrived_ms, &mut arrival);
        out.saw_time(when.ms);
        if !self.rules.filter.did(&e.did) {
            self.metrics.filtered.inc();
            return Ok(());
        }
        let head = |action, seq| Head { did: Some(e.did.as_ref()), when, seq, ..Head::of(action) };
        match &e.body {
            Body::Commit(commit) => self.jetstream_commit(commit, head(Action::Create, e.seq), out)?,
            // On version 1 they have the relay's seq alone, which is what relay mode has.
            Body::Identity(i) => {
                let mut event = EventWriter::begin(out, &self.rules, head(Action::Identity, e.seq.or(i.seq)), "");
                event::identity(event.body(), i.seq, i.handle.as_deref());
                event.finish();
            }
            Body::Account(a) => {
                let active = a.active.ok_or((Reason::BadFrame, "an account that is neither active nor not".into()))?;
                let mut event = EventWriter::begin(out, &self.rules, head(Action::Account, e.seq.or(a.seq)), "");
                event::account(event.body(), active, a.seq, a.status.as_deref());
                event.finish();
            }
            Body::Sync(sync) => self.jetstream_sync(text, sync, head(Action::Sync, e.seq), out),
            Body::Unknown => {}
        }
        Ok(())
    }

    fn jetstream_commit(&mut self, c: &Commit<'_>, head: Head<'_>, out: &mut Batch) -> Result<(), Wrong> {
        if !self.rules.filter.collection(&c.collection) {
            self.metrics.filtered.inc();
            return Ok(());
        }
        let did = head.did.unwrap_or_default();
        let detail = |what: &str| format!("at://{}/{}/{}: {what}", short(did), short(&c.collection), short(&c.rkey));
        let action = Action::of_op(&c.operation).ok_or_else(|| (Reason::BadOp, detail("unknown operation")))?;
        if c.collection.is_empty() || c.rkey.is_empty() {
            return Err((Reason::BadOp, detail("an empty part")));
        }
        let cid = c.cid.as_deref().filter(|_| action != Action::Delete).unwrap_or_default();
        // A CID is text of the network here: it is written as such.
        if cid.bytes().any(|b| !b.is_ascii_alphanumeric()) {
            return Err((Reason::BadOp, detail("the CID is not one")));
        }
        let record = c.record.as_ref().filter(|_| action != Action::Delete).map(|raw| raw.as_raw_str());
        if record.is_none() && action != Action::Delete {
            self.metrics.without_record.inc();
        }
        let operation = Operation {
            action,
            did,
            collection: &c.collection,
            rkey: &c.rkey,
            cid: cid.as_bytes(),
            record: record.map(|raw| RawRecord::Json(raw.as_bytes())),
        };
        let head = Head { action, rev: &c.rev, ..head };
        let mut event = EventWriter::begin(out, &self.rules, head, &c.collection);
        operation.write(event.body()).map_err(|e| (Reason::BadRecord, detail(&e.to_string())))?;
        event.finish();
        Ok(())
    }

    fn jetstream_sync(&mut self, text: &[u8], sync: &Upstream<'_>, head: Head<'_>, out: &mut Batch) {
        let rev = sync.rev.as_deref().unwrap_or_default();
        let base64 = sync.blocks.as_ref().map(|blocks| blocks.base64.trim_end_matches('=')).unwrap_or_default();
        let cid = data_encoding::BASE64_NOPAD
            .decode(base64.as_bytes())
            .map_err(|_| "the blocks are no base64".to_string())
            .and_then(|blocks| frame::sync_commit(&blocks).map_err(|e| e.to_string()));
        let did = short(head.did.unwrap_or_default()).to_string();
        let seq = head.seq.unwrap_or(0);
        let mut event = EventWriter::begin(out, &self.rules, Head { rev, ..head }, "");
        event::sync(event.body(), sync.seq.unwrap_or(seq), rev, cid.as_deref().ok());
        event.finish();
        // The event says that the repository was reset, which holds whatever its CAR is worth.
        if let Err(e) = cid {
            let detail = format!("sync of {did}: {e}");
            out.bury(DeadLetter { reason: Reason::BadCar, detail, seq, bytes: text.to_vec() });
        }
    }
}

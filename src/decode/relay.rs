//! One frame of a firehose to records and dead letters. It checks commits and records; which frames are new, the reader
//! has judged. On the worker's thread.

use super::batch::{Batch, YIELD, YIELD_ALWAYS};
use super::event_writer::EventWriter;
use super::{Workbench, short, unreadable};
use crate::atproto::frame::{self, Commit, Kind, Op};
use crate::atproto::json::{Oddities, Oddity};
use crate::atproto::{cbor::CborError, cid};
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{self, Action, Head, Operation, When};
use crate::source::job::Seen;

/// A dead letter without the frame in it.
const LETTER: usize = 1 << 10;

/// How far the blocks of a commit were read.
#[derive(Default)]
struct Blocks {
    /// The index is made when the first op needs a block: a commit of deletes, or one that the filter leaves out, does not.
    indexed: Option<Result<(), &'static str>>,
    /// Bytes of blocks that were decoded.
    spent: usize,
}

/// Why one op cannot become an event.
struct BadOp {
    reason: Reason,
    detail: String,
}

impl From<CborError> for BadOp {
    fn from(e: CborError) -> Self {
        let reason = if e == CborError::Float { Reason::Float } else { Reason::BadRecord };
        BadOp { reason, detail: e.to_string() }
    }
}

/// Appends what a frame gives.
pub fn message(bench: &mut Workbench, frame: &[u8], seen: &Seen, out: &mut Batch) {
    match seen {
        Seen::Binary | Seen::Json => unreadable(frame, Reason::BadFrame, "not of this source", out),
        Seen::Text => unreadable(frame, Reason::TextFrame, "a text message", out),
        // A library's words may hold the input.
        Seen::Bad(detail) => unreadable(frame, Reason::BadFrame, short(detail), out),
        Seen::BadSeq => unreadable(frame, Reason::BadSeq, "no seq in 1..2^53", out),
        Seen::Frame { kind, body, seq } => {
            if let Err(detail) = bench.frame(*kind, frame, *body, out) {
                let detail = short(&detail).to_string();
                out.bury(DeadLetter { reason: Reason::BadFrame, detail, seq: *seq, bytes: frame.to_vec() });
            }
        }
    }
}

impl Workbench {
    fn frame(&mut self, kind: Kind, frame: &[u8], body: usize, out: &mut Batch) -> Result<(), String> {
        let bytes = &frame[body..];
        match kind {
            Kind::Commit => {
                let commit = Commit::parse(bytes).map_err(|e| format!("#commit: {e}"))?;
                self.commit(&commit, frame, out);
            }
            Kind::Identity => {
                let m: frame::Identity<'_> = frame::body(bytes).map_err(|e| format!("#identity: {e}"))?;
                let head = Head { did: Some(m.did), seq: Some(m.seq), ..Head::of(Action::Identity) };
                self.timed(m.time, head, out, |o| event::identity(o, Some(m.seq), m.handle));
            }
            Kind::Account => {
                let m: frame::Account<'_> = frame::body(bytes).map_err(|e| format!("#account: {e}"))?;
                let head = Head { did: Some(m.did), seq: Some(m.seq), ..Head::of(Action::Account) };
                self.timed(m.time, head, out, |o| event::account(o, m.active, Some(m.seq), m.status));
            }
            Kind::Sync => {
                let m: frame::Sync<'_> = frame::body(bytes).map_err(|e| format!("#sync: {e}"))?;
                let cid = frame::sync_commit(m.blocks.unwrap_or_default());
                let rev = m.rev.unwrap_or_default();
                let head = Head { did: Some(m.did), seq: Some(m.seq), rev, ..Head::of(Action::Sync) };
                self.timed(m.time, head, out, |o| event::sync(o, m.seq, rev, cid.as_deref().ok()));
                // The event says that the repository was reset, which holds whatever its CAR is worth.
                if let Err(e) = cid {
                    let detail = format!("#sync of {}: {e}", short(m.did));
                    out.bury(DeadLetter { reason: Reason::BadCar, detail, seq: m.seq, bytes: frame.to_vec() });
                }
            }
            Kind::Info => {
                let m: frame::Info<'_> = frame::body(bytes).map_err(|e| format!("#info: {e}"))?;
                self.notice(m.name, m.message.unwrap_or_default(), out);
            }
            // The reader acts on errors and counts unknown kinds; neither is an event.
            Kind::Error | Kind::Unknown => {}
        }
        Ok(())
    }

    fn commit(&mut self, commit: &Commit<'_>, frame: &[u8], out: &mut Batch) {
        if commit.ops_len == 0 {
            self.metrics.empty_commits.inc();
        }
        if !self.rules.filter.did(commit.repo) {
            self.metrics.filtered.inc_by(commit.ops_len);
            return;
        }
        let mut text = String::new();
        let when = When::given(commit.time, out.arrived_ms, &mut text);
        out.saw_time(when.ms);
        let mut blocks = Blocks::default();
        let first_dead = out.dead.len();
        // Both the work, in bytes of blocks, and what comes of it have a bound. A dead letter with the frame always fits.
        let (before, limit) = (out.needs(), YIELD * frame.len() + YIELD_ALWAYS);
        let room = limit.min(out.cost.saturating_sub(before + frame.len() + LETTER));
        for (done, op) in (0..commit.ops_len).zip(commit.ops()) {
            let mark = out.mark();
            let result = match op {
                Ok(op) => self.op(commit, when, &op, &mut blocks, out).map_err(|bad| (op.path.to_string(), bad)),
                Err(e) => Err((String::new(), BadOp { reason: Reason::BadOp, detail: e.to_string() })),
            };
            // The frame is kept once, however many of its ops are bad: 200 letters of 5 MB each would be a weapon.
            let bytes = |out: &Batch| if out.dead.len() == first_dead { frame.to_vec() } else { Vec::new() };
            if let Err((path, BadOp { reason, detail })) = result {
                let detail = format!("at://{}/{}: {detail}", short(commit.repo), short(&path));
                let bytes = bytes(out);
                out.bury(DeadLetter { reason, detail, seq: commit.seq, bytes });
            }
            let mut left = commit.ops_len - done - 1;
            if out.needs() - before > room {
                out.back_to(&mark);
                left += 1;
            } else if blocks.spent <= limit {
                continue;
            }
            if left > 0 {
                let detail =
                    format!("the last {left} ops are left out: the commit takes more memory than {room} bytes");
                let bytes = bytes(out);
                out.bury(DeadLetter { reason: Reason::TooLarge, detail, seq: commit.seq, bytes });
            }
            break;
        }
    }

    fn op(
        &mut self,
        commit: &Commit<'_>,
        when: When<'_>,
        op: &Op<'_>,
        blocks: &mut Blocks,
        out: &mut Batch,
    ) -> Result<(), BadOp> {
        let bad = |reason, detail: &str| BadOp { reason, detail: detail.into() };
        let (collection, rkey) = match op.path.split_once('/') {
            Some((collection, rkey)) if !collection.is_empty() && !rkey.is_empty() => (collection, rkey),
            _ => return Err(bad(Reason::BadOp, "the path is not collection/rkey")),
        };
        if !self.rules.filter.collection(collection) {
            self.metrics.filtered.inc();
            return Ok(());
        }
        let action = Action::of_op(op.action)
            .ok_or_else(|| bad(Reason::BadOp, &format!("unknown action {:?}", short(op.action))))?;
        let text;
        let mut odd = Oddities::default();
        let mut operation = Operation { action, did: commit.repo, collection, rkey, cid: b"", record: None };
        if action != Action::Delete {
            let bytes = op.cid.ok_or_else(|| bad(Reason::BadOp, "no CID"))?;
            let known = cid::check(bytes).ok_or_else(|| bad(Reason::BadOp, "the CID is not one of atproto"))?;
            text = cid::text(known);
            let indexed = *blocks.indexed.get_or_insert_with(|| self.car.read(commit.blocks, commit.ops_len as usize));
            let block = self.car.get(commit.blocks, known);
            blocks.spent += block.map_or(0, <[u8]>::len);
            match block {
                Some(block) => {
                    let fits = if self.rules.verify { cid::hashes(known, block) } else { Some(true) };
                    match fits {
                        Some(true) => {}
                        Some(false) => return Err(bad(Reason::CidMismatch, "the block does not hash to the CID")),
                        None => return Err(bad(Reason::BadOp, "the CID is not of SHA-256, as those of records are")),
                    }
                    if !cid::is_record_form(known) {
                        odd.add(Oddity::Cid);
                    }
                    operation.record = Some(event::RawRecord::DagCbor(block));
                }
                None if commit.too_big => self.metrics.without_record.inc(),
                None => {
                    return Err(match indexed {
                        Ok(()) => bad(Reason::MissingBlock, "the CAR has no block for it"),
                        Err(e) => bad(Reason::BadCar, e),
                    });
                }
            }
            operation.cid = &text;
        }
        let head = Head { action, did: Some(commit.repo), when, seq: Some(commit.seq), rev: commit.rev, live: None };
        let mut event = EventWriter::begin(out, &self.rules, head, collection);
        let of_record = operation.write(event.body())?;
        event.finish();
        for oddity in odd.iter().chain(of_record.iter()) {
            self.metrics.noncanonical(oddity).inc();
        }
        Ok(())
    }

    /// An event other than an op, at the time that upstream gives as `text`.
    fn timed(&mut self, text: Option<&str>, head: Head<'_>, out: &mut Batch, body: impl FnOnce(&mut Vec<u8>)) {
        let mut arrival = String::new();
        let when = When::given(text.unwrap_or_default(), out.arrived_ms, &mut arrival);
        out.saw_time(when.ms);
        if !self.rules.filter.did(head.did.unwrap_or_default()) {
            self.metrics.filtered.inc();
            return;
        }
        let mut event = EventWriter::begin(out, &self.rules, Head { when, ..head }, "");
        body(event.body());
        event.finish();
    }
}

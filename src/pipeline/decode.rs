//! One frame to records and dead letters. Pure but for counters.

use crate::atproto::car::CarIndex;
use crate::atproto::frame::{self, Commit, Kind, Op};
use crate::atproto::json::{Oddities, Oddity};
use crate::atproto::{cbor::CborError, cid, time};
use crate::dead_letter::{DeadLetter, Reason};
use crate::enrich::Forget;
use crate::event::{self, Action, Format, Head, Operation, When};
use crate::filter::Filter;
use crate::metrics::{Handled, Metrics};
use crate::pipeline::batch::{Batch, Hole, Record, YIELD, YIELD_ALWAYS};
use crate::source::job::Seen;

/// A dead letter without the frame in it.
const LETTER: usize = 1 << 10;
/// Records of this collection are what profiles are made of.
const PROFILE: &str = "app.bsky.actor.profile";

/// What a worker does with each frame.
#[derive(Clone)]
pub struct Rules {
    pub format: Format,
    pub filter: Filter,
    /// Whether each record is hashed and compared with its CID.
    pub verify: bool,
    /// Whether something of the accounts is to be known: for metadata, or for the filter of services.
    pub enrich: bool,
}

/// A worker's state: its rules and the buffers that it reuses.
pub struct Decoder<'m> {
    pub(super) rules: Rules,
    car: CarIndex,
    /// Bytes of blocks decoded for the present commit.
    spent: usize,
    pub(super) metrics: &'m Metrics,
    pub(super) handled: Handled<'m>,
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

impl<'m> Decoder<'m> {
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn new(rules: Rules, metrics: &'m Metrics) -> Self {
        Decoder { rules, car: CarIndex::default(), spent: 0, metrics, handled: Handled::new(metrics) }
    }

    /// Appends to `out` what the frame gives.
    pub fn frame(&mut self, frame: &[u8], seen: &Seen, out: &mut Batch) {
        let letter = |reason, detail: String, seq| DeadLetter {
            reason,
            // A library's words may hold the input.
            detail: short(&detail).to_string(),
            seq,
            bytes: frame.to_vec(),
        };
        match seen {
            Seen::Binary | Seen::Json => out.bury(letter(Reason::BadFrame, "not of this source".into(), 0)),
            Seen::Text => out.bury(letter(Reason::TextFrame, "a text message".into(), 0)),
            Seen::Bad(detail) => out.bury(letter(Reason::BadFrame, detail.clone(), 0)),
            Seen::BadSeq => out.bury(letter(Reason::BadSeq, "no seq in 1..2^53".into(), 0)),
            Seen::Frame { kind, body, seq } => {
                if let Err(detail) = self.message(*kind, frame, *body, out) {
                    out.bury(letter(Reason::BadFrame, detail, *seq));
                }
            }
        }
    }

    /// An `info` event of our own making, at the time of arrival.
    pub fn notice(&mut self, name: &str, message: &str, out: &mut Batch) {
        let now = Arrival::now();
        self.other(Action::Info, None, now.when(), None, "", out, |o| event::info(o, name, message));
    }

    fn message(&mut self, kind: Kind, frame: &[u8], body: usize, out: &mut Batch) -> Result<(), String> {
        let bytes = &frame[body..];
        match kind {
            Kind::Commit => {
                let commit = Commit::parse(bytes).map_err(|e| format!("#commit: {e}"))?;
                self.commit(&commit, frame, out);
            }
            Kind::Identity => {
                let m: frame::Identity<'_> = frame::body(bytes).map_err(|e| format!("#identity: {e}"))?;
                self.timed(m.time, Action::Identity, m.did, m.seq, "", out, |o| {
                    event::identity(o, Some(m.seq), m.handle)
                });
            }
            Kind::Account => {
                let m: frame::Account<'_> = frame::body(bytes).map_err(|e| format!("#account: {e}"))?;
                self.timed(m.time, Action::Account, m.did, m.seq, "", out, |o| {
                    event::account(o, m.active, Some(m.seq), m.status)
                });
            }
            Kind::Sync => {
                let m: frame::Sync<'_> = frame::body(bytes).map_err(|e| format!("#sync: {e}"))?;
                let cid = frame::sync_commit(m.blocks.unwrap_or_default());
                let rev = m.rev.unwrap_or_default();
                self.timed(m.time, Action::Sync, m.did, m.seq, rev, out, |o| {
                    event::sync(o, m.seq, rev, cid.as_deref().ok())
                });
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
        let arrival;
        let when = match time::parse_ms(commit.time) {
            Some(ms) => When { text: commit.time, ms },
            None => {
                arrival = Arrival::now();
                arrival.when()
            }
        };
        out.saw_time(when.ms);
        // Read when the first op needs a block: a commit of deletes, or one that the filter leaves out, does not.
        let mut car: Option<Result<(), &'static str>> = None;
        let first_dead = out.dead.len();
        // Both the work, in bytes of blocks, and what comes of it have a bound. A dead letter with the frame always fits.
        let (before, limit) = (out.needs(), YIELD * frame.len() + YIELD_ALWAYS);
        let room = limit.min(out.cost.saturating_sub(before + frame.len() + LETTER));
        self.spent = 0;
        for (done, op) in (0..commit.ops_len).zip(commit.ops()) {
            let mark = out.mark();
            let result = match op {
                Ok(op) => self.op(commit, when, &op, &mut car, out).map_err(|bad| (op.path.to_string(), bad)),
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
            } else if self.spent <= limit {
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
        car: &mut Option<Result<(), &'static str>>,
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
            let indexed = *car.get_or_insert_with(|| self.car.read(commit.blocks, commit.ops_len as usize));
            let block = self.car.get(commit.blocks, known);
            self.spent += block.map_or(0, <[u8]>::len);
            match block {
                Some(block) => {
                    match cid::hashes(known, block) {
                        _ if !self.rules.verify => {}
                        Some(true) => {}
                        Some(false) => return Err(bad(Reason::CidMismatch, "the block does not hash to the CID")),
                        None => return Err(bad(Reason::BadOp, "the CID is not of SHA-256, as those of records are")),
                    }
                    if !cid::is_record_form(known) {
                        odd.add(Oddity::Cid);
                    }
                    operation.record = Some(event::Record::DagCbor(block));
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
        let mut of_record = Oddities::default();
        self.append(out, head, collection, |o| operation.write(o).map(|odd| of_record = odd))?;
        for oddity in odd.iter().chain(of_record.iter()) {
            self.metrics.noncanonical(oddity).inc();
        }
        Ok(())
    }

    /// An event other than an op, at the time that upstream gives, or of arrival where that is not a time.
    #[allow(clippy::too_many_arguments)]
    fn timed(
        &mut self,
        text: Option<&str>,
        action: Action,
        did: &str,
        seq: u64,
        rev: &str,
        out: &mut Batch,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let arrival;
        let when = match text.and_then(|text| Some(When { text, ms: time::parse_ms(text)? })) {
            Some(when) => when,
            None => {
                arrival = Arrival::now();
                arrival.when()
            }
        };
        out.saw_time(when.ms);
        if self.rules.filter.did(did) {
            self.other(action, Some(did), when, Some(seq), rev, out, body);
        } else {
            self.metrics.filtered.inc();
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn other(
        &mut self,
        action: Action,
        did: Option<&str>,
        when: When<'_>,
        seq: Option<u64>,
        rev: &str,
        out: &mut Batch,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let head = Head { action, did, when, seq, rev, live: None };
        let infallible: Result<(), std::convert::Infallible> = self.append(out, head, "", |o| {
            body(o);
            Ok(())
        });
        infallible.unwrap_or_else(|never| match never {});
    }

    /// Appends one record of the common form.
    pub(super) fn append<E>(
        &self,
        out: &mut Batch,
        head: Head<'_>,
        collection: &str,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (did, seq) = (head.did.unwrap_or_default(), head.seq.unwrap_or(0));
        let format = self.rules.format;
        let mut at = 0;
        self.append_value(out, did, collection, head.when.ms, head.action, seq, |o| {
            event::write(o, format, head, |o| {
                at = o.len();
                body(o)
            })
        })?;
        if self.rules.enrich && !did.is_empty() {
            let forget = match head.action {
                Action::Identity => Forget::Identity,
                _ if collection == PROFILE => Forget::Profile,
                _ => Forget::Nothing,
            };
            out.holes.push(Hole { record: out.records.len() - 1, at, time_ms: head.when.ms, forget });
        }
        Ok(())
    }

    /// Appends one record: its key, its collection (for headers), and the value that `write` appends.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn append_value<E>(
        &self,
        out: &mut Batch,
        key: &str,
        collection: &str,
        time_ms: i64,
        action: Action,
        seq: u64,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(key.as_bytes());
        let key = start..out.bytes.len();
        out.bytes.extend_from_slice(collection.as_bytes());
        let collection = key.end..out.bytes.len();
        if let Err(e) = write(&mut out.bytes) {
            out.bytes.truncate(start);
            return Err(e);
        }
        let value = collection.end..out.bytes.len();
        out.records.push(Record { key, value, time_ms: record_time(time_ms), action, collection, seq });
        Ok(())
    }
}

/// At most 256 bytes, for people: a path or a DID may be megabytes.
pub(super) fn short(text: &str) -> &str {
    let end = (0..=text.len().min(256)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

/// How far a record's timestamp may be ahead of the clock. Brokers refuse more than an hour (the default of
/// `message.timestamp.after.max.ms`), and a host's clock, or its malice, must not stop the topic.
const AHEAD_MS: i64 = 10 * 60 * 1000;

/// The Kafka timestamp of an event: its time, or that of arrival where Kafka could not take it.
fn record_time(ms: i64) -> i64 {
    let now = time::now_ms();
    if (1..=now + AHEAD_MS).contains(&ms) { ms } else { now }
}

/// The clock, for what has no time of its own.
pub(super) struct Arrival {
    text: String,
    ms: i64,
}

impl Arrival {
    pub(super) fn now() -> Self {
        let ms = time::now_ms();
        Arrival { text: time::format_ms(ms), ms }
    }

    pub(super) fn when(&self) -> When<'_> {
        When { text: &self.text, ms: self.ms }
    }
}

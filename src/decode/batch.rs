//! What a worker makes of one job: records and dead letters, in order. It owns the memory of a batch and keeps it within
//! the job's room; it knows no format. A batch belongs to one thread at a time: a worker, perhaps the enricher, then the
//! producer.

use std::ops::Range;
use std::time::Instant;

use super::Decode;
use crate::checkpoint::{Payload, Position};
use crate::dead_letter::DeadLetter;
use crate::enrich::Forget;
use crate::event::Action;
use crate::metrics::decode::Handled;
use crate::source::job::{BYTES, FRAMES, Work};

/// Work with its place in the order. Jobs of one source carry the ordinals 0, 1, 2, ...; each gives exactly one [`Batch`].
pub struct Job {
    /// Index of the reader.
    pub source: usize,
    /// Its place in the order of its source.
    pub ordinal: u64,
    /// What is to be decoded.
    pub work: Work,
    /// What each message of it becomes.
    pub decode: Decode,
    /// Where upstream stands behind it, where it is known.
    pub position: Option<Position>,
    /// When the reader read the first message of it.
    pub received: Instant,
    /// When it was handed over, in milliseconds since 1970: decoders read no clock.
    pub arrived_ms: i64,
    /// What it holds of the memory limit, in bytes.
    pub cost: usize,
    /// What its batch may take: it holds that as well until the batch is made.
    pub room: usize,
}

/// What a message may become: so many times its bytes, and a little. Honest ones give eight times at most (commits of deletes
/// alone). Without a bound thousands of ops on one block of megabytes, or an endless DID, would fill the memory.
pub const YIELD: usize = 16;
/// The little, in bytes.
pub const YIELD_ALWAYS: usize = 16 << 10;
/// A job of many messages is never larger: so none of them has less room for the sake of the others.
const ROOM_OF_MANY: usize = YIELD * BYTES + FRAMES * YIELD_ALWAYS;

/// What the batch of `work` may take, where `share` is the most that one job may grow to.
pub fn room(work: &Work, share: usize) -> usize {
    let most = YIELD * work.bytes() + YIELD_ALWAYS * work.frames().max(1);
    most.min(share.max(ROOM_OF_MANY))
}

/// One Kafka record, by ranges into [`Batch::bytes`].
#[derive(Debug, Clone)]
pub struct Record {
    /// The account's DID; empty for an `info` event.
    pub key: Range<usize>,
    /// The event.
    pub value: Range<usize>,
    /// Milliseconds since 1970: the event's time.
    pub time_ms: i64,
    /// What happened.
    pub action: Action,
    /// The record's collection; empty for other events.
    pub collection: Range<usize>,
    /// The host's sequence number; 0 where it has none.
    pub seq: u64,
    /// Index of its topic (see [`Routes`](crate::route::Routes)).
    pub topic: u16,
}

/// Where the metadata of a record's account is to stand. The account is the record's key.
#[derive(Debug, Clone)]
pub struct Hole {
    /// Index into [`Batch::records`].
    pub record: usize,
    /// Offset into [`Batch::bytes`].
    pub at: usize,
    /// The event's time, as upstream has it.
    pub time_ms: i64,
    /// What the event itself says about the caches.
    pub forget: Forget,
}

/// What a record costs in the Kafka client besides its bytes (measured: 234 B at 1 kB records).
const PER_RECORD: usize = 300;

/// Memory that a batch need not give back.
const ALWAYS: usize = 64 << 10;

/// The answer to one job.
pub struct Batch {
    /// Index of the reader.
    pub source: usize,
    /// Its place in the order of its source.
    pub ordinal: u64,
    /// Keys and values.
    pub bytes: Vec<u8>,
    /// In the order of the messages.
    pub records: Vec<Record>,
    /// One a record that has an account, in order; none without enrichment, and once they are filled.
    pub holes: Vec<Hole>,
    /// What could not become an event, in the same order.
    pub dead: Vec<DeadLetter>,
    /// Bytes that the dead letters hold.
    letters: usize,
    /// Frames of which nothing could be read.
    pub unreadable: usize,
    /// Where upstream stands once all records and dead letters of the batch are acknowledged.
    pub position: Option<Position>,
    /// When the reader read the first message of it.
    pub received: Instant,
    /// When its job arrived, in milliseconds since 1970.
    pub arrived_ms: i64,
    /// Messages of the job.
    pub frames: usize,
    /// What it holds of the memory limit, in bytes.
    pub cost: usize,
}

/// How far a batch is.
pub struct Mark {
    bytes: usize,
    records: usize,
    holes: usize,
    /// Dead letters so far.
    pub dead: usize,
    letters: usize,
}

impl Batch {
    /// An empty batch that answers `job`.
    pub fn answering(job: &Job) -> Self {
        Batch {
            source: job.source,
            ordinal: job.ordinal,
            bytes: Vec::new(),
            records: Vec::new(),
            holes: Vec::new(),
            dead: Vec::new(),
            letters: 0,
            unreadable: 0,
            position: job.position.clone(),
            received: job.received,
            arrived_ms: job.arrived_ms,
            frames: job.work.frames(),
            cost: job.cost + job.room,
        }
    }

    /// Adds a dead letter.
    pub fn bury(&mut self, letter: DeadLetter) {
        self.letters += size_of::<DeadLetter>() + letter.detail.len() + letter.bytes.len();
        self.dead.push(letter);
    }

    /// How far it is, for [`Batch::back_to`].
    pub fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            records: self.records.len(),
            holes: self.holes.len(),
            dead: self.dead.len(),
            letters: self.letters,
        }
    }

    /// Takes back what was added since.
    pub fn back_to(&mut self, mark: &Mark) {
        self.bytes.truncate(mark.bytes);
        self.records.truncate(mark.records);
        self.holes.truncate(mark.holes);
        self.dead.truncate(mark.dead);
        self.letters = mark.letters;
    }

    /// Gives back what was written and taken back: it is not counted.
    pub fn shrink(&mut self) {
        if self.bytes.capacity() > 2 * self.bytes.len() + ALWAYS {
            self.bytes.shrink_to_fit();
        }
        if self.records.capacity() > 2 * self.records.len() + ALWAYS / PER_RECORD {
            self.records.shrink_to_fit();
        }
    }

    /// What it takes of the memory limit by itself, in bytes.
    pub fn needs(&self) -> usize {
        self.bytes.len() + self.records.len() * PER_RECORD + self.letters
    }

    /// The account of a record; empty where it has none.
    pub fn did(&self, record: usize) -> &str {
        self.text(&self.records[record].key)
    }

    /// Counts the records that it has in the end.
    pub fn count(&self, handled: &mut Handled) {
        for record in &self.records {
            handled.record(record.action, self.text(&record.collection));
        }
    }

    /// Keys and collections are text.
    fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.bytes[range.clone()]).unwrap_or_default()
    }

    /// Notes the time of an event, for lag.
    pub fn saw_time(&mut self, ms: i64) {
        if let Some(position) = &mut self.position {
            position.time_ms = ms;
        }
    }

    /// Notes the id of a message, which upstream is told once the batch is acknowledged.
    pub fn acknowledge(&mut self, id: Option<u64>) {
        if let Some(Position { payload: Payload::Acks(acks), .. }) = &mut self.position {
            acks.ids.extend(id);
        }
    }
}

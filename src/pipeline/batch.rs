//! What a worker makes of one job: records and dead letters, in order.

use std::ops::Range;
use std::time::Instant;

use crate::checkpoint::Position;
use crate::dead_letter::DeadLetter;
use crate::enrich::Forget;
use crate::event::Action;
use crate::metrics::Handled;
use crate::source::job::Work;

/// Work with its place in the order. Jobs of one source carry the ordinals 0, 1, 2, ...; each gives exactly one [`Batch`].
pub struct Job {
    /// Index of the reader.
    pub source: usize,
    pub ordinal: u64,
    pub work: Work,
    pub position: Option<Position>,
    pub received: Instant,
    /// What it holds of the memory limit, in bytes.
    pub cost: usize,
}

/// One Kafka record, by ranges into [`Batch::bytes`].
#[derive(Debug, Clone)]
pub struct Record {
    pub key: Range<usize>,
    pub value: Range<usize>,
    /// Milliseconds since 1970: the event's time.
    pub time_ms: i64,
    pub action: Action,
    pub collection: Range<usize>,
    pub seq: u64,
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

/// The answer to one job.
pub struct Batch {
    pub source: usize,
    pub ordinal: u64,
    pub bytes: Vec<u8>,
    pub records: Vec<Record>,
    /// One a record that has an account, in order; none without enrichment, and once they are filled.
    pub holes: Vec<Hole>,
    pub dead: Vec<DeadLetter>,
    /// Where upstream stands once all records and dead letters of the batch are acknowledged.
    pub position: Option<Position>,
    pub received: Instant,
    pub frames: usize,
    pub cost: usize,
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
            position: job.position.clone(),
            received: job.received,
            frames: job.work.frames(),
            cost: job.cost,
        }
    }

    /// What it takes of the memory limit by itself, in bytes.
    pub fn needs(&self) -> usize {
        let letters: usize = self.dead.iter().map(|d| d.bytes.len()).sum();
        self.bytes.len() + self.records.len() * PER_RECORD + letters
    }

    /// The account of a record; empty where it has none.
    pub fn did(&self, record: usize) -> &str {
        self.text(&self.records[record].key)
    }

    /// Counts the records that it has in the end.
    pub fn count(&self, handled: &mut Handled<'_>) {
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
            position.saw_time(ms);
        }
    }
}

//! Where readers put their work: it takes a permit and a place in the order, and goes to a worker. It does not look into
//! the work. On the reader's thread, which waits here for memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::checkpointer::Beginning;
use super::permits::{Failed, Permits};
use super::worker::Workers;
use crate::checkpoint::Position;
use crate::clock;
use crate::decode::Decode;
use crate::decode::batch::{self, Job};
use crate::source::job::{self, Stopped, Work};

/// How often a wait looks whether it should stop.
const LOOK_UP: Duration = Duration::from_millis(200);
/// What a frame costs besides its bytes: its records in the Kafka client, and bookkeeping.
const PER_FRAME: usize = 512;

/// A reader's way into the pipeline: it takes permits and numbers jobs.
pub struct Intake {
    source: usize,
    decode: Decode,
    ordinal: u64,
    /// The same for the producer, which sees by it that a batch is missing.
    handed_over: Arc<AtomicU64>,
    workers: Workers,
    permits: Arc<Permits>,
    beginnings: Sender<Beginning>,
}

impl Intake {
    /// `source` is the index of the reader; `beginnings` leads to the checkpointer.
    pub fn new(
        source: usize,
        decode: Decode,
        handed_over: Arc<AtomicU64>,
        workers: Workers,
        permits: Arc<Permits>,
        beginnings: Sender<Beginning>,
    ) -> Self {
        Intake { source, decode, ordinal: 0, handed_over, workers, permits, beginnings }
    }
}

impl job::Intake for Intake {
    fn put(&mut self, work: Work, position: Option<Position>) -> Result<(), Stopped> {
        let frames = work.frames();
        let cost = work.bytes() + position.as_ref().map_or(0, Position::bytes) + PER_FRAME * (frames + 1);
        let (received, arrived_ms) = (work.since().unwrap_or_else(Instant::now), clock::now_ms());
        let room = batch::room(&work, self.permits.share());
        self.permits.acquire(frames, cost + room)?;
        let (source, ordinal, decode) = (self.source, self.ordinal, self.decode);
        let job = Job { source, ordinal, work, decode, position, received, arrived_ms, cost, room };
        self.ordinal += 1;
        self.handed_over.store(self.ordinal, Ordering::Relaxed);
        self.workers.give(job).map_err(|_| Stopped)
    }

    fn begin(&mut self, position: Position) -> Result<(), Stopped> {
        let (saved_in, saved) = bounded(1);
        self.beginnings.send(Beginning { source: self.source, position, saved: saved_in }).map_err(|_| Stopped)?;
        loop {
            match saved.recv_timeout(LOOK_UP) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if !self.stopped() => {}
                Err(_) => return Err(Stopped),
            }
        }
    }

    fn fail(&self, reason: String) {
        self.permits.fail(Failed::Settings(reason));
    }

    fn stopped(&self) -> bool {
        self.permits.is_closed()
    }

    fn drained(&self) -> bool {
        self.permits.is_idle()
    }
}

//! What survives a restart: the position of a source up to which everything is acknowledged, in a file or as
//! acknowledgements to upstream. It owns files and locks; what a position means, only its source knows, and when one is
//! saved, the pipeline decides. Values go from the reader's thread through the producer's to the thread `checkpoint`.

pub mod acks;
mod disk;
pub mod file;
mod file_name;
mod lock;
pub mod look;
pub mod saved;
pub mod topic;

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where upstream stands once everything up to here is acknowledged.
#[derive(Debug, Clone)]
pub struct Position {
    /// The last seq that was read, where upstream has one. It is ahead of what is saved while nothing has confirmed it.
    pub seq: Option<u64>,
    /// Time of the newest event up to here, in milliseconds since 1970; 0 when unknown.
    pub time_ms: i64,
    /// What a restart or upstream needs of it.
    pub payload: Payload,
}

/// What is done with a position: one of these for each way to keep it, not for each source.
#[derive(Debug, Clone)]
pub enum Payload {
    /// It is saved, and a restart goes on from it.
    State(Arc<dyn State>),
    /// Upstream is told.
    Acks(Acks),
}

/// What a source goes on from after a restart. Each source has its own form, which nobody else looks into.
pub trait State: Debug + Send + Sync {
    /// The object of JSON that is saved; `time_ms` is that of the position. Fails with one line.
    fn json(&self, time_ms: i64) -> Result<String, String>;

    /// Bytes that it holds besides its own size.
    fn bytes(&self) -> usize {
        0
    }
}

/// Messages that may be acknowledged to upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks {
    /// Which connection: an id means nothing on another one.
    pub connection: u64,
    /// The decoder notes them.
    pub ids: Vec<u64>,
    /// Messages, also those without a readable id.
    pub messages: usize,
}

impl Position {
    /// Of a stream of frames: `saved` is what a restart goes on behind, `reached` the last seq read.
    pub fn of_seqs((saved, reached): (u64, u64)) -> Self {
        let state = Arc::new(SeqPosition { seq: saved, time_ms: 0 });
        Position { seq: Some(reached), ..Position::of_state(0, state) }
    }

    /// Of a source without seqs.
    pub fn of_state(time_ms: i64, state: Arc<dyn State>) -> Self {
        Position { seq: None, time_ms, payload: Payload::State(state) }
    }

    /// Of `messages` of a connection, whose ids are not known yet.
    pub fn of_messages(connection: u64, messages: usize) -> Self {
        let acks = Acks { connection, ids: Vec::with_capacity(messages), messages };
        Position { seq: None, time_ms: 0, payload: Payload::Acks(acks) }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        match &self.payload {
            Payload::State(state) => state.bytes(),
            Payload::Acks(acks) => acks.messages * size_of::<u64>(),
        }
    }

    /// Whether it is this very one: another one may say the same.
    pub fn is(&self, other: &Position) -> bool {
        let same = match (&self.payload, &other.payload) {
            (Payload::State(this), Payload::State(that)) => Arc::ptr_eq(this, that),
            _ => false,
        };
        same && self.time_ms == other.time_ms
    }
}

/// No host counts further: JavaScript, which the protocol takes its integers from, does not.
const MAX_SEQ: u64 = 1 << 53;
/// The end of the year 9999, as far as times are written.
const MAX_TIME_MS: i64 = 253_402_300_799_999;

/// A cursor of an upstream that counts its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqPosition {
    /// The last seq that is acknowledged, and all before it.
    pub seq: u64,
    /// Milliseconds since 1970; 0 when unknown.
    #[serde(default)]
    pub time_ms: i64,
}

impl State for SeqPosition {
    fn json(&self, time_ms: i64) -> Result<String, String> {
        sonic_rs::to_string(&SeqPosition { time_ms, ..*self }).map_err(|e| e.to_string())
    }
}

impl file::Stored for SeqPosition {
    fn check(&self) -> Result<(), String> {
        if self.seq > MAX_SEQ { Err(format!("seq {} is above 2^53", self.seq)) } else { Ok(()) }
    }
}

/// Where the reading of Ozone's events stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OzonePosition {
    /// The newest `createdAt` seen, in milliseconds since 1970.
    pub high_water_ms: i64,
    /// Events of the look-back window that were delivered: `(createdAt in milliseconds, id)`.
    pub window: Arc<Vec<(i64, u64)>>,
}

impl OzonePosition {
    /// Events that a window may have: 22 MB of a state file, and over 16,000 events a second for the default look-back.
    pub const MAX_WINDOW: usize = 500_000;
}

impl State for OzonePosition {
    fn json(&self, _: i64) -> Result<String, String> {
        sonic_rs::to_string(self).map_err(|e| e.to_string())
    }

    fn bytes(&self) -> usize {
        self.window.len() * size_of::<(i64, u64)>()
    }
}

impl file::Stored for OzonePosition {
    fn check(&self) -> Result<(), String> {
        match self.high_water_ms {
            0..=MAX_TIME_MS => Ok(()),
            ms => Err(format!("high_water_ms {ms} is no time")),
        }
    }
}

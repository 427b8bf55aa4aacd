//! What survives a restart: the position up to which everything is acknowledged.

pub mod acks;
pub mod file;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where upstream stands once everything up to here is acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// What is saved, and the last seq that was read: it is ahead while nothing has confirmed it.
    Relay(RelayPosition, u64),
    Tap(TapPosition),
    Ozone(OzonePosition),
}

impl Position {
    /// Of a stream of frames: `saved` is what a restart goes on behind, `reached` the last seq read.
    pub fn of_seqs((saved, reached): (u64, u64)) -> Self {
        Position::Relay(RelayPosition { seq: saved, time_ms: 0 }, reached)
    }

    /// Time of the newest event up to here, in milliseconds since 1970; 0 when unknown.
    pub fn time_ms(&self) -> i64 {
        match self {
            Position::Relay(p, _) => p.time_ms,
            Position::Tap(p) => p.time_ms,
            Position::Ozone(p) => p.high_water_ms,
        }
    }

    /// The last seq up to here, where upstream has one.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Position::Relay(_, reached) => Some(*reached),
            Position::Tap(_) | Position::Ozone(_) => None,
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Position::Relay(..) => 0,
            Position::Tap(p) => p.messages * size_of::<u64>(),
            Position::Ozone(p) => p.window.len() * size_of::<(i64, u64)>(),
        }
    }

    /// Notes the time of an event.
    pub fn saw_time(&mut self, ms: i64) {
        match self {
            Position::Relay(p, _) => p.time_ms = ms,
            Position::Tap(p) => p.time_ms = ms,
            Position::Ozone(_) => {}
        }
    }
}

/// No host counts further: JavaScript, which the protocol takes its integers from, does not.
const MAX_SEQ: u64 = 1 << 53;
/// The end of the year 9999, as far as times are written.
const MAX_TIME_MS: i64 = 253_402_300_799_999;

/// A relay's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayPosition {
    pub seq: u64,
    /// Milliseconds since 1970; 0 when unknown.
    #[serde(default)]
    pub time_ms: i64,
}

impl file::Stored for RelayPosition {
    fn check(&self) -> Result<(), String> {
        if self.seq > MAX_SEQ { Err(format!("seq {} is above 2^53", self.seq)) } else { Ok(()) }
    }
}

/// Events of a Tap connection that may be acknowledged to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapPosition {
    /// Which connection: an id means nothing on another one.
    pub connection: u64,
    pub ids: Vec<u64>,
    /// Messages, also those without a readable id.
    pub messages: usize,
    pub time_ms: i64,
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

impl file::Stored for OzonePosition {
    fn check(&self) -> Result<(), String> {
        match self.high_water_ms {
            0..=MAX_TIME_MS => Ok(()),
            ms => Err(format!("high_water_ms {ms} is no time")),
        }
    }
}

//! What all readers share: where the state of a source is told, and how a reader pauses. It owns no connection. On the
//! reader's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::{Frames, Stopped};
use crate::checkpoint::Position;
use crate::health::Health;
use crate::metrics::source::{HostMetrics, SourceMetrics};

/// How often a reader that pauses looks whether it should stop.
pub const LOOK_UP: Duration = Duration::from_millis(500);
/// A source: who it is, and where its state is told.
pub struct Link {
    /// What the source is called in logs and metrics.
    pub name: String,
    /// Its place among the sources.
    pub index: usize,
    /// The gauges of the host.
    pub gauges: HostMetrics,
    /// The counters of all sources.
    pub metrics: Arc<SourceMetrics>,
    /// Where it says whether it is connected.
    pub health: Arc<Health>,
}

impl Link {
    /// A link that is not connected yet.
    pub fn new(name: &str, index: usize, metrics: Arc<SourceMetrics>, health: Arc<Health>) -> Self {
        Link { name: name.into(), index, gauges: metrics.host(name), metrics, health }
    }

    /// Counts what is handed over, and tells how far upstream was read with it.
    pub fn received(&self, frames: &Frames, position: Option<&Position>) {
        self.metrics.received_frames.inc_by(frames.list.len() as u64);
        self.metrics.received_bytes.inc_by(frames.bytes.len() as u64);
        if let Some(seq) = position.and_then(|position| position.seq) {
            self.gauges.last_seq_received.set(seq as i64);
        }
    }

    /// Says that the connection is there.
    pub fn connected(&self) {
        self.gauges.connected.set(1);
        self.health.source(self.index, Ok(()));
    }
}

/// Waits, unless the end is asked for.
pub fn pause(stopped: impl Fn() -> bool, wait: Duration) -> Result<(), Stopped> {
    let until = Instant::now() + wait;
    loop {
        if stopped() {
            return Err(Stopped);
        }
        match until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(LOOK_UP)),
            _ => return Ok(()),
        }
    }
}

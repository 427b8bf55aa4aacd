//! Telling gaps: by the metric, in the log, and as an `info` event in the stream itself. On the reader's thread.

use std::time::{Duration, Instant};

use super::job::Work;
use super::link::Link;
use super::resume::{Gap, SEQ_GAP};

/// Between two reports of jumps inside a connection: PDSes leave out many seqs.
pub const SAY_SEQ_GAP: Duration = Duration::from_secs(60);

/// What was told of one source.
pub struct Gaps {
    /// Between two reports of jumps inside a connection.
    pause: Duration,
    /// When a jump inside a connection was last reported, and how many were only counted since.
    said: Option<Instant>,
    unsaid: u64,
}

impl Gaps {
    /// `pause` lies between two reports of jumps inside a connection; those in between are only counted. None of a recording,
    /// which says the same however fast it is read.
    pub fn new(pause: Duration) -> Gaps {
        Gaps { pause, said: None, unsaid: 0 }
    }

    /// Counts a gap and says it in the log. Gives the `info` event; `None` where it is only counted.
    pub fn tell(&mut self, link: &Link, mut gap: Gap) -> Option<Work> {
        link.metrics.gap(gap.kind);
        if gap.kind == SEQ_GAP {
            if self.said.is_some_and(|said| said.elapsed() < self.pause) {
                self.unsaid += 1;
                return None;
            }
            self.said = Some(Instant::now());
            match std::mem::take(&mut self.unsaid) {
                0 => {}
                n => gap.message.push_str(&format!(" (and {n} more of this kind before, only counted)")),
            }
        }
        link.health.examples.gap(&link.name, gap.kind, &gap.message);
        log::warn!(
            event = "gap", host = link.name, reason = gap.kind;
            "{}: {}: {}", link.name, gap.kind, gap.message
        );
        Some(Work::Notice { name: gap.kind, message: format!("{}: {}", link.name, gap.message) })
    }
}

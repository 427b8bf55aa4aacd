//! Which batches are acknowledged whole, and how far the frontier of a source has come. A value of the producer's thread;
//! it does not know what a position means.

use std::collections::VecDeque;
use std::time::Instant;

use crate::checkpoint::Position;
use crate::health::InFlight;

/// A batch on its way.
#[derive(Debug)]
pub struct Pending {
    /// How many of its records and dead letters are not acknowledged, sent or not.
    pub unacknowledged: usize,
    /// Where upstream stands behind it, where it is known.
    pub position: Option<Position>,
    /// When the reader read the first message of it.
    pub received: Instant,
    /// Messages of the batch.
    pub frames: usize,
    /// What it holds of the memory limit, in bytes.
    pub cost: usize,
}

/// The batches of one source from the frontier on, by ordinal.
#[derive(Default)]
pub struct Tracker {
    frontier: u64,
    pending: VecDeque<Pending>,
}

impl Tracker {
    /// The next ordinal begins to be sent.
    pub fn begin(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// One record of batch `ordinal` is acknowledged.
    pub fn acknowledge(&mut self, ordinal: u64) {
        let place = (ordinal - self.frontier) as usize;
        let pending = &mut self.pending[place];
        debug_assert!(pending.unacknowledged > 0, "each record is acknowledged once");
        pending.unacknowledged -= 1;
    }

    /// The first batch, once it is acknowledged whole: the frontier moves past it.
    pub fn advance(&mut self) -> Option<Pending> {
        if self.pending.front()?.unacknowledged > 0 {
            return None;
        }
        self.frontier += 1;
        self.pending.pop_front()
    }

    /// The oldest batch on its way.
    pub fn oldest(&self) -> Option<InFlight> {
        self.pending.front().map(|p| InFlight {
            received: p.received,
            time_ms: p.position.as_ref().map_or(0, |position| position.time_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(records: usize, seq: u64) -> Pending {
        Pending {
            unacknowledged: records,
            position: Some(Position::of_seqs((seq, seq))),
            received: Instant::now(),
            frames: 1,
            cost: 1,
        }
    }

    /// Against a plain model: the frontier never passes a record that is not acknowledged, and ends at the end.
    #[test]
    fn the_frontier_never_passes_what_is_not_acknowledged() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut tracker = Tracker::default();
            let counts: Vec<usize> = (0..rng.usize(1..40)).map(|_| rng.usize(0..4)).collect();
            let mut open: Vec<u64> = Vec::new();
            for (ordinal, count) in counts.iter().enumerate() {
                tracker.begin(pending(*count, ordinal as u64));
                open.extend(std::iter::repeat_n(ordinal as u64, *count));
            }
            rng.shuffle(&mut open);
            let mut passed = 0;
            loop {
                while let Some(p) = tracker.advance() {
                    assert_eq!(p.position.and_then(|p| p.seq), Some(passed), "seed {seed}");
                    assert!(!open.contains(&passed), "seed {seed}: passed an open record");
                    passed += 1;
                }
                match open.pop() {
                    Some(ordinal) => tracker.acknowledge(ordinal),
                    None => break,
                }
            }
            assert_eq!(passed as usize, counts.len(), "seed {seed}");
        }
    }
}

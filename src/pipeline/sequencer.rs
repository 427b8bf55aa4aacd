//! Puts the batches of one source back into their order, whichever worker was faster. A value of the producer's thread;
//! it looks at nothing but ordinals.

use std::collections::VecDeque;
use std::time::Instant;

use crate::decode::batch::Batch;

/// A ring from the next ordinal on. Its size is bounded by the permits: each batch in it holds some.
#[derive(Default)]
pub struct Sequencer {
    next: u64,
    ring: VecDeque<Option<Batch>>,
    /// The next ordinal at the last look, and since when it is that one.
    looked: Option<(u64, Instant)>,
}

impl Sequencer {
    /// Takes a batch, in any order.
    pub fn put(&mut self, batch: Batch) {
        debug_assert!(batch.ordinal >= self.next, "each ordinal comes once");
        let place = (batch.ordinal - self.next) as usize;
        if place >= self.ring.len() {
            self.ring.resize_with(place + 1, || None);
        }
        self.ring[place] = Some(batch);
    }

    /// The next batch in order, when it is there.
    pub fn take(&mut self) -> Option<Batch> {
        let batch = self.ring.front_mut()?.take()?;
        self.ring.pop_front();
        self.next += 1;
        Some(batch)
    }

    /// Since when the next batch has been missing, of jobs `0..handed_over`. To be asked now and then.
    pub fn missing_since(&mut self, handed_over: u64, now: Instant) -> Option<Instant> {
        if handed_over <= self.next {
            self.looked = None;
            return None;
        }
        let (_, since) =
            *self.looked.insert(self.looked.filter(|(next, _)| *next == self.next).unwrap_or((self.next, now)));
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{self, batch::Job};
    use crate::source::job::Work;
    use std::time::Duration;

    fn batch(ordinal: u64) -> Batch {
        Batch::answering(&Job {
            source: 0,
            ordinal,
            work: Work::Notice { name: "", message: String::new() },
            decode: decode::relay::message,
            position: None,
            received: Instant::now(),
            arrived_ms: 0,
            cost: 0,
            room: 0,
        })
    }

    #[test]
    fn a_batch_that_does_not_come_is_noticed_and_one_that_comes_is_not() {
        let mut s = Sequencer::default();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let [start, later, end] = [at(0), at(20), at(40)];
        assert_eq!(s.missing_since(0, start), None, "nothing is handed over");
        assert_eq!(s.missing_since(2, start), Some(start));
        // The one behind it does not fill the hole.
        s.put(batch(1));
        assert_eq!(s.missing_since(2, later), Some(start));
        s.put(batch(0));
        while s.take().is_some() {}
        assert_eq!(s.missing_since(2, end), None);
        assert_eq!(s.missing_since(3, end), Some(end), "another one, from now on");
        // Each look finds another one missing: it moves.
        s.put(batch(2));
        s.take();
        assert_eq!(s.missing_since(9, at(60)).map(|since| since > end), Some(true));
    }

    #[test]
    fn any_order_in_comes_out_in_order() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let mut order: Vec<u64> = (0..rng.u64(1..80)).collect();
            let want = order.clone();
            rng.shuffle(&mut order);
            let (mut s, mut got) = (Sequencer::default(), Vec::new());
            for ordinal in order {
                s.put(batch(ordinal));
                while let Some(batch) = s.take() {
                    got.push(batch.ordinal);
                }
            }
            assert_eq!(got, want);
        }
    }
}

//! Puts the batches of one source back into their order, whichever worker was faster.

use std::collections::VecDeque;

use super::batch::Batch;

/// A ring from the next ordinal on. Its size is bounded by the permits: each batch in it holds some.
#[derive(Default)]
pub struct Sequencer {
    next: u64,
    ring: VecDeque<Option<Batch>>,
}

impl Sequencer {
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
}

#[cfg(test)]
mod tests {
    use super::super::batch::Job;
    use super::*;
    use crate::source::job::Work;
    use std::time::Instant;

    #[test]
    fn any_order_in_comes_out_in_order() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let mut order: Vec<u64> = (0..rng.u64(1..80)).collect();
            let want = order.clone();
            rng.shuffle(&mut order);
            let (mut s, mut got) = (Sequencer::default(), Vec::new());
            for ordinal in order {
                let job = Job {
                    source: 0,
                    ordinal,
                    work: Work::Notice { name: "", message: String::new() },
                    position: None,
                    received: Instant::now(),
                    cost: 0,
                };
                s.put(Batch::answering(&job));
                while let Some(batch) = s.take() {
                    got.push(batch.ordinal);
                }
            }
            assert_eq!(got, want);
        }
    }
}

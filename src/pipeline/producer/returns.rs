//! Deliveries back: what became of each record, and how far the frontiers move. On the producer's thread.

use super::outstanding::Owner;
use super::{Again, Run};
use crate::sink::{Delivery, End, Failure, Token, Topic, Verdict};

impl Run {
    /// One record of a batch, or a dead letter of it, is done with.
    pub(super) fn acknowledge(&mut self, owner: Owner) {
        self.p.lanes[owner.source].tracker.acknowledge(owner.ordinal);
    }

    /// Takes in what became of records, and moves the frontiers.
    pub(super) fn collect(&mut self) -> Result<(), End> {
        let mut done = std::mem::take(&mut self.done);
        self.p.sink.poll(&mut done)?;
        let mut delivered = 0;
        for Delivery { token, result } in done.drain(..) {
            // A report that comes again says nothing new.
            if self.outstanding.is_settled(token) || self.again.contains_key(&token) || self.aside.contains(token) {
                continue;
            }
            self.with_sink -= 1;
            match result {
                Ok(()) => {
                    if let Some(topic) = self.aside.tried(token) {
                        self.release(topic);
                    }
                    if let Some(owner) = self.outstanding.settle(token) {
                        if let Some(topic) = owner.topic.and_then(|topic| self.p.topics.get(usize::from(topic))) {
                            topic.ok.inc();
                            delivered += 1;
                        }
                        self.acknowledge(owner);
                    }
                }
                Err(failure) => self.came_back(token, *failure),
            }
        }
        self.done = done;
        if delivered > 0 {
            self.p.metrics.produced_ok.inc_by(delivered);
            if self.again.is_empty() && self.aside.is_empty() {
                self.p.health.sink(Ok(()));
            }
        }
        for source in 0..self.p.lanes.len() {
            let lane = &mut self.p.lanes[source];
            let mut reached = None;
            while let Some(batch) = lane.tracker.advance() {
                self.p.metrics.delivery_seconds.observe(batch.received.elapsed().as_secs_f64());
                if let Some(position) = batch.position {
                    reached = Some((position.time_ms, position.seq));
                    self.p.frontier.moved(source, position);
                }
                // Last: who sees that nothing is in flight also finds the last position.
                self.p.permits.release(batch.frames, batch.cost);
            }
            if let Some((time_ms, seq)) = reached {
                self.p.has_reached(source, time_ms, seq);
            }
        }
        Ok(())
    }

    /// A record was not delivered: it is sent again in its place, or it is what its batch was refused for.
    fn came_back(&mut self, token: Token, failure: Failure) {
        let topic = failure.record.topic;
        if let Topic::Events(index) = topic
            && let Some(topic) = self.p.topics.get(usize::from(index))
            && failure.verdict != Verdict::Collateral
        {
            topic.error.inc();
        }
        let suspect = match failure.verdict {
            Verdict::Never(reason) => {
                self.p.metrics.produced_error.inc();
                log::warn!(
                    at_most = 1, event = "output_refused", error = failure.error;
                    "output: {}; the batch is sent again in halves, to find the record that is meant",
                    failure.error
                );
                // The topic takes others.
                self.release(topic);
                self.flow.refused();
                self.refused += 1;
                self.refusal = Some((token, reason, failure.error));
                true
            }
            Verdict::Later => {
                self.wait(topic, token, &failure.error);
                self.flow.refused();
                false
            }
            Verdict::Collateral => {
                self.flow.refused();
                false
            }
        };
        self.come_again(token, Again { record: failure.record, suspect });
    }
}

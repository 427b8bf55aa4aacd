//! How a transaction ends: committed, aborted, or with a client that broke, after which the cursor topic tells what became
//! of it. On the producer's thread.

use std::time::Instant;

use super::super::flow::PAUSE;
use super::{Held, Next, Once};
use crate::checkpoint::Position;
use crate::decode::batch::Batch;
use crate::pipeline::inbox::Inbox;
use crate::pipeline::ledger;
use crate::sink::transaction::Trouble;
use crate::sink::{End, Start, State};

impl Once {
    /// Commits what was sent, with the positions behind it.
    pub(super) fn commit(&mut self, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<Next, End> {
        let began = Instant::now();
        let whole = self.at.0;
        let mut moved: Vec<Option<Position>> = vec![None; self.p.lanes.len()];
        for held in self.queue.range(..whole) {
            if let Some(position) = &held.batch.position {
                moved[held.batch.source] = Some(position.clone());
            }
        }
        let saved: Vec<(usize, Position)> =
            moved.iter().enumerate().filter_map(|(source, position)| Some((source, position.clone()?))).collect();
        self.saving = true;
        if let Err(refused) = self.ledger.save(self.p.sink.as_mut(), &saved) {
            return self.abort(Some(ledger::reason(refused)), inbox, start);
        }
        loop {
            match self.transactions(|t| t.commit()) {
                Ok(()) => break,
                Err(Trouble::Again(why)) => {
                    log::debug!("the commit goes on: {why}");
                    if let State::Hindered(why) = self.p.sink.state() {
                        self.p.health.sink(Err(why));
                    }
                    if self.look_around(inbox) == Next::Stop {
                        return Ok(Next::Stop);
                    }
                }
                Err(Trouble::Abort(why)) => {
                    self.collect()?;
                    let why = match self.failed.take() {
                        // The record's own reason. The commit was not asked for.
                        Some(known) => known,
                        None => {
                            self.is_doubtful = true;
                            Some(why)
                        }
                    };
                    return self.abort(why, inbox, start);
                }
                Err(Trouble::Lost(why)) => return self.lost(&why, inbox, start),
            }
        }
        self.ledger.committed();
        self.p.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        self.committed(whole);
        Ok(Next::On)
    }

    /// The first `whole` batches are committed.
    pub(super) fn committed(&mut self, whole: usize) {
        self.p.metrics.transactions_committed.inc();
        self.p.health.sink(Ok(()));
        let mut reached = vec![None; self.p.lanes.len()];
        let mut delivered = 0;
        for Held { batch, .. } in self.queue.drain(..whole) {
            delivered += batch.records.len() as u64;
            for record in &batch.records {
                if let Some(topic) = self.p.topics.get(usize::from(record.topic)) {
                    topic.ok.inc();
                }
            }
            self.p.metrics.delivery_seconds.observe(batch.received.elapsed().as_secs_f64());
            if let Some(position) = &batch.position {
                reached[batch.source] = Some((position.time_ms, position.seq));
            }
            self.p.permits.release(batch.frames, batch.cost);
        }
        self.p.metrics.produced_ok.inc_by(delivered);
        self.p.frontier.saved();
        for (source, reached) in reached.into_iter().enumerate() {
            let Some((time_ms, seq)) = reached else { continue };
            self.p.has_reached(source, time_ms, seq);
            self.p.health.saved(source);
        }
        self.first += whole as u64;
        self.plan.committed(self.first);
        self.again();
    }

    /// The next transaction begins at the front of the queue.
    pub(super) fn again(&mut self) {
        self.base += self.sent.len();
        self.sent.clear();
        (self.at, self.bytes, self.frames, self.saving) = ((0, 0), 0, 0, false);
        (self.failed, self.is_doubtful) = (None, false);
    }

    pub(super) fn abort(&mut self, why: Option<String>, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<Next, End> {
        // Where the client knows the cause, records that came back have no reason of their own, or only that the client gave up.
        let refusal = self.p.sink.transactions().and_then(|transactions| transactions.refusal());
        if let Some(why) = &refusal.or(why) {
            self.p.metrics.produced_error.inc();
            log::warn!(
                at_most = 1, event = "output_error", error = why;
                "output: {why}; the transaction is aborted, and sent again until it is committed"
            );
            self.p.health.sink(Err(why.clone()));
            self.pause = Some(Instant::now() + PAUSE);
        }
        loop {
            match self.transactions(|t| t.abort()) {
                Ok(()) => break,
                Err(Trouble::Again(why)) => {
                    log::debug!("the abort goes on: {why}");
                    if self.look_around(inbox) == Next::Stop {
                        return Ok(Next::Stop);
                    }
                }
                Err(Trouble::Abort(why) | Trouble::Lost(why)) => return self.lost(&why, inbox, start),
            }
        }
        self.collect()?;
        if std::mem::take(&mut self.is_doubtful) {
            match self.ledger.is_committed(self.p.sink.as_mut()) {
                Ok(false) => {}
                Ok(true) => {
                    self.committed(self.at.0);
                    return Ok(Next::On);
                }
                Err(why) => return self.lost(&why.text(), inbox, start),
            }
        }
        self.p.metrics.transactions_aborted.inc();
        self.restart();
        if std::mem::take(&mut self.too_large) {
            return self.lost(
                "a batch is too large for its topic, whose limit may be another one by now",
                inbox,
                start,
            );
        }
        Ok(Next::On)
    }

    /// The transaction is aborted: what it held comes again, without the record that was refused alone.
    fn restart(&mut self) {
        if self.p.sink.takes_other_times() {
            // Whatever was refused gets another time, and shows again if that was not the reason.
            self.plan.lost(self.first);
        } else if let Some(culprit) = self.plan.aborted(self.first) {
            self.replace(culprit.place, culprit.reason, culprit.detail, None);
        }
        self.again();
    }

    /// The client is of no use any more. A new one fences it; then the topic says what became of the transaction.
    pub(super) fn lost(&mut self, why: &str, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<Next, End> {
        log::warn!(
            at_most = 10, event = "output_error", error = why;
            "output: {why}; a new client finds out what was committed, and goes on behind it"
        );
        self.p.metrics.produced_error.inc();
        self.p.health.sink(Err(why.into()));
        let whole = self.at.0;
        match self.open(inbox, start)? {
            None => return Ok(Next::Stop),
            Some(true) if self.saving => self.committed(whole),
            Some(_) => {
                self.p.metrics.transactions_aborted.inc();
                self.plan.lost(self.first);
                self.again();
            }
        }
        Ok(Next::On)
    }
}

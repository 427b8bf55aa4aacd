//! Records on their way into the open transaction, what came back of them, and what is never taken. It does not end a
//! transaction; it notes that it has to be aborted. On the producer's thread.

use std::time::Instant;

use super::super::letter;
use super::super::transaction::Place;
use super::{Held, Once};
use crate::clock;
use crate::dead_letter::{DeadLetter, Reason};
use crate::pipeline::ledger;
use crate::sink::transaction::{POSITION, Trouble};
use crate::sink::{Delivery, End, Failure, Refused, Returned, Topic, Verdict};

impl Once {
    /// Counts a dead letter. The record for its topic, if there is one; else it goes to the log.
    pub(super) fn letter(&self, source: usize, dead: &DeadLetter, topic: Option<u16>) -> Option<Returned> {
        let name = &self.p.lanes[source].name;
        self.p.health.examples.dead_letter(name, dead.reason.name(), dead.seq, &dead.detail, &dead.bytes);
        self.p.metrics.dead_letter(dead.reason).inc();
        if self.p.letters.have_topic() {
            let topic = topic.and_then(|topic| self.p.topics.get(usize::from(topic)));
            let topic = topic.map(|topic| topic.name.as_str());
            return Some(letter::record(name, dead, topic));
        }
        letter::log_line(name, dead.reason.name(), dead.seq, &dead.detail);
        None
    }

    /// Hands records to the sink, up to the end of the queue or of the transaction.
    pub(super) fn send(&mut self) -> Result<(), End> {
        if self.failed.is_some() || self.pause.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.pause = None;
        while self.at.0 < self.queue.len() && !self.is_due() {
            if !self.plan.is_open() {
                match self.transactions(|t| t.begin()) {
                    Ok(()) => self.plan.begun(Instant::now()),
                    Err(Trouble::Lost(why)) => {
                        self.failed = Some(None);
                        log::debug!("a new client is needed: {why}");
                        return Ok(());
                    }
                    Err(trouble) => {
                        self.failed = Some(Some(ledger::text(trouble)));
                        return Ok(());
                    }
                }
            }
            let (batch, index) = self.at;
            if index == self.queue[batch].items() {
                let held = &self.queue[batch].batch;
                self.bytes += held.cost;
                self.frames += held.frames;
                self.at = (batch + 1, 0);
                continue;
            }
            let place = (self.first + batch as u64, index);
            if !self.plan.may_send(place) {
                return Ok(());
            }
            match self.hand_over(batch, index) {
                Ok(()) => {
                    self.plan.sent(place);
                    self.sent.push(place);
                    self.at.1 += 1;
                }
                Err(Refused::Full) => return Ok(()),
                Err(Refused::TooLarge { detail, excess }) => {
                    self.replace(place, Reason::TooLarge, detail, Some(excess))
                }
                Err(Refused::Error(why)) => {
                    let event = self.queue[batch].batch.records.get(index);
                    let topic = event.map_or(Topic::DeadLetters, |event| Topic::Events(event.topic));
                    self.failed = Some(Some(format!("{}: {why}", self.p.name(topic))));
                    return Ok(());
                }
                Err(Refused::Broken) => {
                    self.failed = Some(None);
                    return Ok(());
                }
                Err(Refused::Ended(end)) => return Err(end),
            }
        }
        Ok(())
    }

    pub(super) fn hand_over(&mut self, batch: usize, index: usize) -> Result<(), Refused> {
        let token = self.base + self.sent.len();
        let Held { batch, letters } = &mut self.queue[batch];
        if let Some(letter) = index.checked_sub(batch.records.len()) {
            return self.p.send_own(&letters[letter], clock::now_ms(), token);
        }
        self.p.send_event(batch, index, token)
    }

    /// A record that the broker never takes: an event becomes a dead letter, a dead letter a shorter one, or a log line.
    pub(super) fn replace(&mut self, (number, index): Place, reason: Reason, detail: String, excess: Option<usize>) {
        let held = &mut self.queue[(number - self.first) as usize];
        let source = held.batch.source;
        let name = self.p.lanes[source].name.clone();
        match index.checked_sub(held.batch.records.len()) {
            None => {
                let record = held.batch.records.remove(index);
                let bytes = held.batch.bytes[record.value.clone()].to_vec();
                let key = String::from_utf8_lossy(&held.batch.bytes[record.key.clone()]);
                let letter = DeadLetter { reason, detail: format!("event of {key}: {detail}"), seq: record.seq, bytes };
                if let Some(letter) = self.letter(source, &letter, Some(record.topic)) {
                    self.queue[(number - self.first) as usize].letters.push(letter);
                }
            }
            Some(at) => {
                let letter = &mut held.letters[at];
                let excess = excess.unwrap_or(letter.value.len() / 2);
                if reason != Reason::TooLarge || !letter::shorten(letter, excess) {
                    let letter = held.letters.remove(at);
                    letter::log_buried(&name, &letter, &detail);
                }
            }
        }
    }

    /// Takes in what became of records.
    pub(super) fn collect(&mut self) -> Result<(), End> {
        let mut done = std::mem::take(&mut self.done);
        self.p.sink.poll(&mut done)?;
        for Delivery { token, result } in done.drain(..) {
            if token == POSITION {
                // One that comes while none is on its way is of a client that broke.
                if let Err(failure) = result
                    && self.saving
                {
                    let topic = self.ledger.topic();
                    self.failed.get_or_insert(Some(format!("topic {topic} refuses positions: {}", failure.error)));
                }
                continue;
            }
            // Others are of an earlier transaction, or of a client that broke.
            let Some(place) = token.checked_sub(self.base).and_then(|at| self.sent.get(at).copied()) else { continue };
            match result {
                Ok(()) => self.plan.delivered(),
                Err(failure) => self.came_back(place, *failure),
            }
        }
        self.done = done;
        Ok(())
    }

    pub(super) fn came_back(&mut self, place: Place, failure: Failure) {
        let Failure { error, verdict, record } = failure;
        match verdict {
            Verdict::Never(reason) => {
                self.p.metrics.produced_error.inc();
                log::warn!(
                    at_most = 1, event = "output_refused", error = error;
                    "output: {error}; the transaction is aborted and sent again in halves, to find the record that is meant"
                );
                self.too_large |= reason == Reason::TooLarge;
                self.plan.returned(place, Some((reason, error)));
                self.failed.get_or_insert(None);
            }
            Verdict::Later => {
                self.plan.returned(place, None);
                self.failed = Some(Some(format!("{} refuses records: {error}", self.p.name(record.topic))));
            }
            Verdict::Collateral => {
                self.plan.returned(place, None);
                self.failed.get_or_insert(None);
            }
        }
    }
}

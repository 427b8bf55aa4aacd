//! Records out: what came back first, then dead letters, then what is new, as far as the flow allows and the sink takes. On
//! the producer's thread.

use std::time::Instant;

use super::flow::PAUSE;
use super::outstanding::Owner;
use super::{Run, Sending};
use crate::clock;
use crate::dead_letter::{DeadLetter, Reason};
use crate::sink::{End, Refused};

impl Run {
    /// Hands records to the sink, as many as may be sent and it takes: first those that came back.
    pub(super) fn send(&mut self) -> Result<(), End> {
        while self.flow.allowance() > 0 {
            // Sent again under its number, so that it keeps its place if it comes back again.
            let Some((token, again)) = self.again.pop_first() else { break };
            let time_ms = self.outstanding.time_ms(token).unwrap_or_else(clock::now_ms);
            let result = self.p.send_own(&again.record, time_ms, token);
            match self.sort(result)? {
                None => {}
                Some(Refused::TooLarge { detail, excess }) => {
                    self.never(token, again.record, Reason::TooLarge, detail, Some(excess));
                }
                Some(_) => {
                    self.again.insert(token, again);
                    return Ok(());
                }
            }
        }
        while self.flow.allowance() > 0
            && let Some((owner, letter)) = self.letters.pop_front()
        {
            let (token, now) = (self.outstanding.next(), clock::now_ms());
            let result = self.p.send_own(&letter, now, token);
            match self.sort(result)? {
                None => self.outstanding.add(owner, now),
                Some(Refused::TooLarge { detail, excess }) => self.shorten(owner, letter, excess, &detail),
                Some(_) => {
                    self.letters.push_front((owner, letter));
                    return Ok(());
                }
            }
        }
        while self.flow.allowance() > 0
            && let Some(mut sending) = self.outbox.pop_front()
        {
            if !self.send_batch(&mut sending)? {
                self.outbox.push_front(sending);
                break;
            }
        }
        Ok(())
    }

    /// Notes what a refusal says. `None` when the record was taken.
    fn sort(&mut self, result: Result<(), Refused>) -> Result<Option<Refused>, End> {
        match result {
            Ok(()) => {
                self.with_sink += 1;
                self.flow.sent();
                return Ok(None);
            }
            Err(Refused::Ended(end)) => return Err(end),
            Err(Refused::Error(reason)) => {
                self.trouble(&reason);
                self.flow.refused(Instant::now() + PAUSE);
            }
            Err(Refused::Broken) => self.flow.refused(Instant::now()),
            Err(refused) => return Ok(Some(refused)),
        }
        Ok(Some(Refused::Full))
    }

    pub(super) fn trouble(&mut self, reason: &str) {
        self.p.metrics.produced_error.inc();
        log::warn!(
            at_most = 1, event = "output_error", error = reason;
            "output: {reason}; it is sent again until it is taken"
        );
        self.p.health.sink(Err(reason.into()));
    }

    /// `true` when all of the batch was taken, or disposed of.
    fn send_batch(&mut self, sending: &mut Sending) -> Result<bool, End> {
        let (source, ordinal) = (sending.batch.source, sending.batch.ordinal);
        while let Some(record) = sending.batch.records.get(sending.record) {
            if self.flow.allowance() == 0 {
                return Ok(false);
            }
            let owner = Owner { source, ordinal, topic: Some(record.topic) };
            let result = self.p.send_event(&mut sending.batch, sending.record, self.outstanding.next());
            let record = &sending.batch.records[sending.record];
            match self.sort(result)? {
                None => self.outstanding.add(owner, record.time_ms),
                Some(Refused::TooLarge { detail, .. }) => {
                    let letter = DeadLetter {
                        reason: Reason::TooLarge,
                        detail,
                        seq: record.seq,
                        bytes: sending.batch.bytes[record.value.clone()].to_vec(),
                    };
                    self.dead_letter(owner, &letter);
                }
                Some(_) => return Ok(false),
            }
            sending.record += 1;
        }
        while let Some(letter) = sending.batch.dead.get(sending.dead) {
            self.dead_letter(Owner { source, ordinal, topic: None }, letter);
            sending.dead += 1;
        }
        Ok(true)
    }
}

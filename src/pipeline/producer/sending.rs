//! Records out: what came back first, then dead letters, then what is new, as far as the flow allows and the sink takes. On
//! the producer's thread.

use std::time::Instant;

use super::outstanding::Owner;
use super::{Again, Run, Sending};
use crate::clock;
use crate::dead_letter::{DeadLetter, Reason};
use crate::sink::{End, Refused, Returned, Token, Topic};

impl Run {
    /// Hands records to the sink, as many as may be sent and it takes: first those that came back.
    pub(super) fn send(&mut self) -> Result<(), End> {
        // Not while little may be sent: a try may take long, where the topic does not exist.
        if !self.aside.is_empty() && self.flow.is_free() {
            self.again.extend(self.aside.due(Instant::now()));
        }
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
                Some(Refused::Error(reason)) => {
                    self.wait(again.record.topic, token, &reason);
                    self.aside.keep(token, again);
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
            if self.aside.waits(Topic::DeadLetters) {
                self.set_aside(owner, now, letter);
                continue;
            }
            let result = self.p.send_own(&letter, now, token);
            match self.sort(result)? {
                None => self.outstanding.add(owner, now),
                Some(Refused::TooLarge { detail, excess }) => self.shorten(owner, letter, excess, &detail),
                Some(Refused::Error(reason)) => {
                    self.wait(Topic::DeadLetters, token, &reason);
                    self.set_aside(owner, now, letter);
                }
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
                Ok(None)
            }
            Err(Refused::Ended(end)) => Err(end),
            Err(refused) => {
                if matches!(refused, Refused::Broken) {
                    self.flow.refused();
                }
                Ok(Some(refused))
            }
        }
    }

    /// The topic refused the record `token` for now: all of its records wait aside, so that the other topics flow on.
    pub(super) fn wait(&mut self, topic: Topic, token: Token, reason: &str) {
        self.p.metrics.produced_error.inc();
        let reason = match topic {
            Topic::Events(_) if self.p.topics.len() < 2 => reason.into(),
            _ => format!("{}: {reason}", self.p.name(topic)),
        };
        log::warn!(
            at_most = 1, event = "output_error", error = reason;
            "output: {reason}; it is sent again until it is taken"
        );
        if self.aside.refused(topic, token, &reason, Instant::now()) {
            let all = std::mem::take(&mut self.again);
            for (token, again) in all {
                self.come_again(token, again);
            }
        }
        self.tell_aside();
    }

    /// Keeps a record that came back until it is sent again: aside, where its topic waits.
    pub(super) fn come_again(&mut self, token: Token, again: Again) {
        match self.aside.waits(again.record.topic) {
            true => self.aside.keep(token, again),
            false => drop(self.again.insert(token, again)),
        }
    }

    /// A new record whose topic waits.
    fn set_aside(&mut self, owner: Owner, time_ms: i64, record: Returned) {
        let token = self.outstanding.next();
        self.outstanding.add(owner, time_ms);
        self.aside.keep(token, Again { record, suspect: false });
    }

    /// Says what waits, if anything does: the other topics may be well.
    pub(super) fn tell_aside(&self) {
        if let Some(reason) = self.aside.reason() {
            self.p.health.sink(Err(reason.into()));
        }
    }

    /// The topic takes records again: what waited is sent, as carefully as after any refusal.
    pub(super) fn release(&mut self, topic: Topic) {
        let Some(records) = self.aside.release(topic) else { return };
        log::info!(event = "output_ready"; "output: {} takes records again", self.p.name(topic));
        self.again.extend(records);
        self.flow.refused();
    }

    /// `true` when all of the batch was taken, or disposed of.
    fn send_batch(&mut self, sending: &mut Sending) -> Result<bool, End> {
        let (source, ordinal) = (sending.batch.source, sending.batch.ordinal);
        while let Some(record) = sending.batch.records.get(sending.record) {
            if self.flow.allowance() == 0 {
                return Ok(false);
            }
            let owner = Owner { source, ordinal, topic: Some(record.topic) };
            let (topic, time_ms) = (Topic::Events(record.topic), record.time_ms);
            if self.aside.waits(topic) {
                let event = self.p.kept_event(&mut sending.batch, sending.record);
                self.set_aside(owner, time_ms, event);
                sending.record += 1;
                continue;
            }
            let result = self.p.send_event(&mut sending.batch, sending.record, self.outstanding.next());
            let record = &sending.batch.records[sending.record];
            match self.sort(result)? {
                None => self.outstanding.add(owner, time_ms),
                Some(Refused::Error(reason)) => {
                    self.wait(topic, self.outstanding.next(), &reason);
                    continue;
                }
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

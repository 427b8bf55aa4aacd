//! Dead letters: to their topic, or to the log. Part of the producer, on its thread.

use super::outstanding::Owner;
use super::{Letters, Run, letter};
use crate::dead_letter::{DeadLetter, Reason};
use crate::sink::{Returned, Token, Topic};

impl Run {
    /// Counts a dead letter and disposes of it: to its topic, or to the log. Where a topic does not take an event, the owner
    /// names that topic.
    pub(super) fn dead_letter(&mut self, owner: Owner, letter: &DeadLetter) {
        self.p.metrics.dead_letter(letter.reason).inc();
        let host = &self.p.lanes[owner.source].name;
        self.p.health.examples.dead_letter(host, letter.reason.name(), letter.seq, &letter.detail, &letter.bytes);
        if self.p.letters.have_topic() {
            let topic = owner.topic.and_then(|topic| self.p.topics.get(usize::from(topic)));
            let record = letter::record(host, letter, topic.map(|topic| topic.name.as_str()));
            self.letters.push_back((Owner { topic: None, ..owner }, record));
        }
        if self.p.letters != Letters::Topic {
            let host = &self.p.lanes[owner.source].name;
            letter::log_line(host, letter.reason.name(), letter.seq, &letter.detail);
        }
        if !self.p.letters.have_topic() {
            self.acknowledge(owner);
        }
    }

    /// A record that came back and that the broker never takes: an event becomes a dead letter, a dead letter a shorter one, or
    /// a log line. `excess`: by so many bytes it is too large, where that is known.
    pub(super) fn never(
        &mut self,
        token: Token,
        record: Returned,
        reason: Reason,
        detail: String,
        excess: Option<usize>,
    ) {
        if let Some(topic) = self.aside.tried(token) {
            self.release(topic);
        }
        let Some(owner) = self.outstanding.settle(token) else { return };
        match record.topic {
            Topic::Events(_) => {
                let key = String::from_utf8_lossy(&record.key);
                let letter =
                    DeadLetter { reason, detail: format!("event of {key}: {detail}"), seq: 0, bytes: record.value };
                self.dead_letter(owner, &letter);
            }
            Topic::DeadLetters if reason == Reason::TooLarge => {
                let half = record.value.len() / 2;
                self.shorten(owner, record, excess.unwrap_or(half), &detail);
            }
            Topic::DeadLetters => self.bury(owner, &record, &detail),
        }
    }

    /// A dead letter that is larger than its topic takes, by `excess` bytes: it goes there without its end.
    pub(super) fn shorten(&mut self, owner: Owner, mut letter: Returned, excess: usize, detail: &str) {
        if !letter::shorten(&mut letter, excess) {
            return self.bury(owner, &letter, detail);
        }
        self.letters.push_front((owner, letter));
    }

    /// A dead letter that its topic does not take: it goes to the log.
    pub(super) fn bury(&mut self, owner: Owner, letter: &Returned, detail: &str) {
        letter::log_buried(&self.p.lanes[owner.source].name, letter, detail);
        self.acknowledge(owner);
    }
}

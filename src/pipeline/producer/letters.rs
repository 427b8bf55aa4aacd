//! Dead letters: to their topic, or to the log. Part of the producer, on its thread.

use super::outstanding::Owner;
use super::{DEAD_LETTER_LINES, Run};
use crate::dead_letter::{DeadLetter, Reason};
use crate::sink::{Returned, Token, Topic};

/// Header of a dead letter that was cut: how many bytes it had.
const CUT_FROM: &str = "cut_from_bytes";
/// What it adds to a record at most.
const CUT_HEADER_BYTES: usize = 40;

impl Run {
    /// Counts a dead letter and disposes of it: to its topic, or to the log. Where a topic does not take an event, the owner
    /// names that topic.
    pub(super) fn dead_letter(&mut self, owner: Owner, letter: &DeadLetter) {
        self.p.metrics.dead_letter(letter.reason).inc();
        let host = &self.p.lanes[owner.source].name;
        self.p.health.examples.dead_letter(host, letter.reason.name(), letter.seq, &letter.detail, &letter.bytes);
        if self.p.dead_letter_topic {
            let header = |key: &str, value: &str| (key.to_string(), value.as_bytes().to_vec());
            let mut headers = vec![
                header("reason", letter.reason.name()),
                header("host", &self.p.lanes[owner.source].name),
                header("seq", &letter.seq.to_string()),
                header("detail", &letter.detail),
            ];
            let topic = owner.topic.and_then(|topic| self.p.topics.get(usize::from(topic)));
            headers.extend(topic.map(|topic| header("topic", &topic.name)));
            let record = Returned { topic: Topic::DeadLetters, key: Vec::new(), value: letter.bytes.clone(), headers };
            self.letters.push_back((Owner { topic: None, ..owner }, record));
        }
        if !self.p.dead_letter_topic || !self.p.sink.has_headers() {
            self.log_letter(owner, letter.reason.name(), letter.seq, &letter.detail);
        }
        if !self.p.dead_letter_topic {
            self.acknowledge(owner);
        }
    }

    /// `seq`: 0 where it is not known.
    fn log_letter(&self, owner: Owner, reason: &str, seq: u64, detail: &str) {
        let name = &self.p.lanes[owner.source].name;
        log::warn!(
            at_most = DEAD_LETTER_LINES, event = "dead_letter", host = name, seq = seq, reason = reason, error = detail;
            "dead letter: {reason}: {name} seq {seq}: {detail}"
        );
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
        let size = letter.value.len();
        let keep = size.saturating_sub(excess + CUT_HEADER_BYTES);
        if keep == 0 {
            return self.bury(owner, &letter, detail);
        }
        letter.value.truncate(keep);
        if !letter.headers.iter().any(|(key, _)| key == CUT_FROM) {
            letter.headers.push((CUT_FROM.into(), size.to_string().into_bytes()));
        }
        self.letters.push_front((owner, letter));
    }

    /// A dead letter that its topic does not take: it goes to the log.
    pub(super) fn bury(&mut self, owner: Owner, letter: &Returned, detail: &str) {
        let header = |name: &str| {
            let found = letter.headers.iter().find(|(k, _)| k == name);
            found.map(|(_, v)| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
        };
        let detail = format!("{} (not in the dead-letter topic: {detail})", header("detail"));
        self.log_letter(owner, &header("reason"), header("seq").parse().unwrap_or(0), &detail);
        self.acknowledge(owner);
    }
}

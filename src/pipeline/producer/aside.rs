//! Topics that refuse for now, such as for a missing right, and their records, which wait aside so that the other topics
//! flow on. Pure: the clock is handed in. A value of the producer's thread; it does not send.
//!
//! All records of such a topic wait, those that came back and those that are new, so that none passes another. From time
//! to time the first of them is tried alone: each refusal breaks the client, and costs the other topics a moment.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::Again;
use super::flow::PAUSE;
use crate::sink::{Token, Topic};

/// Between two tries of one topic at most, where there are others; it is [`PAUSE`] at first, and doubles.
const LONGEST: Duration = Duration::from_secs(4);

/// The topics that refuse for now.
pub struct Aside {
    topics: HashMap<Topic, Waiting>,
    longest: Duration,
}

struct Waiting {
    records: BTreeMap<Token, Again>,
    /// The next try is not before this, and the one after that so much later.
    until: Instant,
    pause: Duration,
    /// The record that is being tried.
    tried: Option<Token>,
    /// What was said last.
    reason: String,
}

impl Aside {
    /// For so many topics, that of dead letters among them. Where there is one alone, nobody is held up by tries, and they come as often as they can.
    pub fn new(topics: usize) -> Aside {
        Aside { topics: HashMap::new(), longest: if topics > 1 { LONGEST } else { PAUSE } }
    }

    /// Whether no topic waits.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether records of the topic belong here.
    pub fn waits(&self, topic: Topic) -> bool {
        self.topics.contains_key(&topic)
    }

    /// Whether the record is here.
    pub fn contains(&self, token: Token) -> bool {
        self.topics.values().any(|topic| topic.records.contains_key(&token))
    }

    /// What one of the topics said last, if any waits.
    pub fn reason(&self) -> Option<&str> {
        self.topics.values().map(|waiting| waiting.reason.as_str()).next()
    }

    /// The topic refused the record `token`: from now on it waits. `true` when it did not before.
    pub fn refused(&mut self, topic: Topic, token: Token, reason: &str, now: Instant) -> bool {
        let is_new = !self.waits(topic);
        let first = || Waiting {
            records: BTreeMap::new(),
            until: now + PAUSE,
            pause: PAUSE,
            tried: None,
            reason: String::new(),
        };
        let waiting = self.topics.entry(topic).or_insert_with(first);
        waiting.reason = reason.into();
        if waiting.tried == Some(token) {
            waiting.pause = (waiting.pause * 2).min(self.longest);
            (waiting.until, waiting.tried) = (now + waiting.pause, None);
        }
        is_new
    }

    /// Keeps a record of a topic that waits. One that came back by no fault of its topic is tried again as soon as may be.
    pub fn keep(&mut self, token: Token, again: Again) {
        let Some(waiting) = self.topics.get_mut(&again.record.topic) else { return };
        waiting.tried = waiting.tried.filter(|tried| *tried != token);
        waiting.records.insert(token, again);
    }

    /// Takes out the first record of each topic that is to be tried now.
    pub fn due(&mut self, now: Instant) -> Vec<(Token, Again)> {
        let due = |waiting: &&mut Waiting| waiting.tried.is_none() && now >= waiting.until;
        let first = |waiting: &mut Waiting| {
            let first = waiting.records.pop_first()?;
            waiting.tried = Some(first.0);
            Some(first)
        };
        self.topics.values_mut().filter(due).filter_map(first).collect()
    }

    /// The topic of the record, if that is being tried.
    pub fn tried(&self, token: Token) -> Option<Topic> {
        self.topics.iter().find(|(_, waiting)| waiting.tried == Some(token)).map(|(topic, _)| *topic)
    }

    /// The topic waits no longer. Gives its records.
    pub fn release(&mut self, topic: Topic) -> Option<BTreeMap<Token, Again>> {
        self.topics.remove(&topic).map(|waiting| waiting.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Returned;

    const ONE: Topic = Topic::Events(1);
    const OTHER: Topic = Topic::DeadLetters;

    fn record(topic: Topic) -> Again {
        Again { record: Returned { topic, key: vec![], value: vec![], headers: vec![] }, suspect: false }
    }

    fn due(aside: &mut Aside, now: Instant) -> Vec<Token> {
        aside.due(now).into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn the_first_record_is_tried_alone_and_ever_later() {
        let mut now = Instant::now();
        let mut aside = Aside::new(2);
        assert!(aside.refused(ONE, 8, "no", now) && !aside.refused(ONE, 7, "no right", now));
        assert_eq!(aside.reason(), Some("no right"));
        for token in [8, 7, 9] {
            aside.keep(token, record(ONE));
        }
        for pause in [250, 500, 1_000, 2_000, 4_000, 4_000] {
            assert!(due(&mut aside, now + Duration::from_millis(pause - 1)).is_empty());
            now += Duration::from_millis(pause);
            assert_eq!(due(&mut aside, now), [7]);
            assert!(due(&mut aside, now).is_empty(), "one at a time");
            assert!(!aside.contains(7) && aside.contains(8) && aside.waits(ONE) && !aside.waits(OTHER));
            assert!(!aside.refused(ONE, 7, "no", now));
            aside.keep(7, record(ONE));
        }
        now += LONGEST;
        assert_eq!(due(&mut aside, now), [7]);
        assert_eq!((aside.tried(8), aside.tried(7)), (None, Some(ONE)));
        assert_eq!(aside.release(ONE).map(|records| records.into_keys().collect::<Vec<_>>()), Some(vec![8, 9]));
        assert!(aside.is_empty() && aside.reason().is_none());
    }

    #[test]
    fn a_try_that_comes_back_for_another_record_is_made_again_at_once() {
        let now = Instant::now();
        let mut aside = Aside::new(1);
        for (token, topic) in [(1, ONE), (2, OTHER)] {
            aside.refused(topic, token, "no", now);
            aside.keep(token, record(topic));
        }
        let mut both = due(&mut aside, now + PAUSE);
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
        aside.refused(ONE, 1, "no", now + PAUSE);
        aside.keep(1, record(ONE));
        aside.keep(2, record(OTHER));
        assert_eq!(due(&mut aside, now + PAUSE), [2]);
        assert_eq!(due(&mut aside, now + PAUSE * 2), [1], "alone, it is tried as often as can be");
    }
}

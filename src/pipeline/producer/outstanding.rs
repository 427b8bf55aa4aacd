//! What was handed to the sink and is not settled: each record has a number, in the order in which it was sent first. A
//! value of the producer's thread; it does not send.

use std::collections::{BTreeMap, VecDeque};

use crate::sink::Token;

/// Longer than this the list does not grow behind records that are not settled for long. Above what one source has in flight.
const LISTED: usize = 1 << 18;

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Index of the lane.
    pub source: usize,
    pub ordinal: u64,
    /// Which topic of events it goes to. `None`: it is a dead letter, whose delivery is not that of an event.
    pub topic: Option<u16>,
}

/// Records by number. A record that came back keeps its number, so that it is sent again in its place.
#[derive(Debug, Default)]
pub struct Outstanding {
    /// Number of the first in the list.
    first: Token,
    /// Owner and time, in milliseconds since 1970, of each. `None`: settled.
    list: VecDeque<Option<(Owner, i64)>>,
    /// Those before the list that are not settled: the topic of one may refuse for hours, while others go on.
    before: BTreeMap<Token, (Owner, i64)>,
}

impl Outstanding {
    /// The number that the next record gets.
    pub fn next(&self) -> Token {
        self.first.wrapping_add(self.list.len())
    }

    /// The sink has taken the next record.
    pub fn add(&mut self, owner: Owner, time_ms: i64) {
        self.list.push_back(Some((owner, time_ms)));
        if self.list.len() > LISTED {
            if let Some(Some(first)) = self.list.pop_front() {
                self.before.insert(self.first, first);
            }
            self.first = self.first.wrapping_add(1);
            self.skip();
        }
    }

    /// The list begins with a record that is not settled.
    fn skip(&mut self) {
        while let Some(None) = self.list.front() {
            self.list.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    fn get(&self, token: Token) -> Option<&(Owner, i64)> {
        match self.list.get(token.wrapping_sub(self.first)) {
            Some(listed) => listed.as_ref(),
            None => self.before.get(&token),
        }
    }

    /// The time of a record that is not settled. librdkafka does not give it back with a record that failed.
    pub fn time_ms(&self, token: Token) -> Option<i64> {
        self.get(token).map(|(_, time_ms)| *time_ms)
    }

    /// Whether the record is done with.
    pub fn is_settled(&self, token: Token) -> bool {
        self.get(token).is_none()
    }

    /// The record is done with. Gives its owner; `None` for a report that comes again.
    pub fn settle(&mut self, token: Token) -> Option<Owner> {
        let settled = match self.list.get_mut(token.wrapping_sub(self.first)) {
            Some(listed) => listed.take(),
            None => self.before.remove(&token),
        };
        self.skip();
        settled.map(|(owner, _)| owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_reports_count_once() {
        let mut all = Outstanding::default();
        let owner = |ordinal| Owner { source: 0, ordinal, topic: Some(0) };
        let tokens: Vec<Token> = (0..5)
            .map(|i| {
                let token = all.next();
                all.add(owner(i), i as i64);
                token
            })
            .collect();
        assert_eq!(all.time_ms(tokens[1]), Some(1));
        assert_eq!(all.settle(tokens[1]), Some(owner(1)));
        assert_eq!(all.time_ms(tokens[1]), None);
        assert_eq!(all.settle(tokens[1]), None, "a second report");
        assert_eq!(all.settle(tokens[0]), Some(owner(0)));
        assert_eq!(all.settle(tokens[0]), None, "a late second report");
        assert_eq!(all.next(), 5);
        assert_eq!(all.settle(99), None, "a number that was never given");
    }

    /// One topic refuses for hours, and its record stays at the front.
    #[test]
    fn a_record_that_waits_for_long_does_not_keep_those_behind_it() {
        let mut all = Outstanding::default();
        let owner = Owner { source: 0, ordinal: 0, topic: Some(0) };
        all.add(owner, 41);
        for _ in 0..3 * LISTED {
            let token = all.next();
            all.add(Owner { source: 1, ..owner }, 1);
            assert!(all.settle(token).is_some());
        }
        assert!(all.list.len() <= LISTED && all.before.len() <= 1, "{} {}", all.list.len(), all.before.len());
        assert!(!all.is_settled(0) && all.is_settled(1) && all.is_settled(3 * LISTED));
        assert_eq!((all.time_ms(0), all.settle(0), all.settle(0)), (Some(41), Some(owner), None));
        assert_eq!(all.next(), 3 * LISTED + 1);
    }
}

//! What was handed to the sink and is not settled: each record has a number, in the order in which it was sent first. A
//! value of the producer's thread; it does not send.

use std::collections::VecDeque;

use crate::sink::Token;

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
}

impl Outstanding {
    /// The number that the next record gets.
    pub fn next(&self) -> Token {
        self.first.wrapping_add(self.list.len())
    }

    /// The sink has taken the next record.
    pub fn add(&mut self, owner: Owner, time_ms: i64) {
        self.list.push_back(Some((owner, time_ms)));
    }

    /// The time of a record that is not settled. librdkafka does not give it back with a record that failed.
    pub fn time_ms(&self, token: Token) -> Option<i64> {
        self.list.get(token.wrapping_sub(self.first))?.map(|(_, time_ms)| time_ms)
    }

    /// Whether the record is done with.
    pub fn is_settled(&self, token: Token) -> bool {
        !matches!(self.list.get(token.wrapping_sub(self.first)), Some(Some(_)))
    }

    /// The record is done with. Gives its owner; `None` for a report that comes again.
    pub fn settle(&mut self, token: Token) -> Option<Owner> {
        let settled = self.list.get_mut(token.wrapping_sub(self.first))?.take();
        while let Some(None) = self.list.front() {
            self.list.pop_front();
            self.first = self.first.wrapping_add(1);
        }
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
}

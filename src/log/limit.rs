//! How often each kind of line is said: what upstream can cause, it can cause without end. A value that is told the time
//! and writes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use log::Level;

/// Lines of one kind are counted over so long.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Kinds that are told apart. Over it, the lines of one place count together, whatever the host.
const MOST_KINDS: usize = 1_000;
/// Characters of a line that are repeated where it is said how many more there were.
const EXAMPLE: usize = 160;

/// Lines of one place in the source about one host or file are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The source file of the log line.
    pub file: &'static str,
    /// Its line there.
    pub line: u32,
    /// The host or file that it is about; empty for none.
    pub about: String,
}

struct Said {
    since: Instant,
    lines: u64,
    held_back: u64,
    level: Level,
    /// The beginning of the last line that was said.
    example: String,
}

/// Lines that were held back, for one line that says so.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The level of the lines.
    pub level: Level,
    /// How many there were.
    pub count: u64,
    /// The beginning of one of them.
    pub example: String,
}

/// What was said lately.
pub struct Limits(BTreeMap<Kind, Said>);

impl Limits {
    /// A constant, for a `static`.
    pub const fn none() -> Self {
        Limits(BTreeMap::new())
    }

    /// Whether a line of this kind may be said now, as the `most`th of its period at the latest: then with how many were
    /// held back in the period before, which the line tells.
    pub fn admit(&mut self, kind: &mut Kind, level: Level, most: u64, now: Instant) -> Option<u64> {
        if self.0.len() >= MOST_KINDS && !self.0.contains_key(kind) {
            kind.about.clear();
        }
        let fresh = || Said { since: now, lines: 0, held_back: 0, level, example: String::new() };
        let said = self.0.entry(kind.clone()).or_insert_with(fresh);
        let mut before = 0;
        if now.duration_since(said.since) >= PERIOD {
            before = said.held_back;
            *said = fresh();
        }
        if said.lines >= most {
            said.held_back += 1;
            return None;
        }
        said.lines += 1;
        said.level = level;
        Some(before)
    }

    /// Notes a line that was said.
    pub fn said(&mut self, kind: &Kind, line: &str) {
        if let Some(said) = self.0.get_mut(kind) {
            said.example = line.chars().take(EXAMPLE).collect();
        }
    }

    /// What was held back and that no later line of its kind tells, because none came for a period. `None`: because none
    /// comes any more.
    pub fn settle(&mut self, now: Option<Instant>) -> Vec<HeldBack> {
        let mut all = Vec::new();
        self.0.retain(|_, said| {
            let patience = if said.held_back > 0 { 2 * PERIOD } else { PERIOD };
            if now.is_some_and(|now| now.duration_since(said.since) < patience) {
                return true;
            }
            if said.held_back > 0 {
                all.push(HeldBack {
                    level: said.level,
                    count: said.held_back,
                    example: std::mem::take(&mut said.example),
                });
            }
            false
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: u32, about: &str) -> Kind {
        Kind { file: "relay.rs", line, about: about.into() }
    }

    #[test]
    fn each_kind_has_its_lines_a_period_and_the_rest_is_counted() {
        let mut limits = Limits::none();
        let start = Instant::now();
        let said = |limits: &mut Limits, mut kind: Kind, seconds| {
            let before = limits.admit(&mut kind, Level::Warn, 3, start + Duration::from_secs(seconds));
            if before.is_some() {
                limits.said(&kind, &format!("said at {seconds}"));
            }
            before
        };
        let first: Vec<_> = (0..5).map(|second| said(&mut limits, kind(7, "a"), second)).collect();
        assert_eq!(first, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(said(&mut limits, kind(7, "b"), 5), Some(0), "another host");
        assert_eq!(said(&mut limits, kind(8, "a"), 5), Some(0), "another place");
        assert_eq!(limits.settle(Some(start + PERIOD)), [], "the next line may tell it");
        assert_eq!(said(&mut limits, kind(7, "a"), 11), Some(2));
        assert_eq!(said(&mut limits, kind(7, "a"), 12), Some(0), "told once");
        for second in 13..18 {
            said(&mut limits, kind(7, "a"), second);
        }
        assert_eq!(limits.settle(Some(start + 3 * PERIOD)), []);
        let expected = HeldBack { level: Level::Warn, count: 4, example: "said at 13".into() };
        assert_eq!(limits.settle(Some(start + 4 * PERIOD)), [expected], "nothing of its kind came");
        assert_eq!(limits.settle(None), []);
        for second in 50..54 {
            said(&mut limits, kind(7, "a"), second);
        }
        assert_eq!(limits.settle(None).first().map(|h| h.count), Some(1), "at the end, at once");
    }

    #[test]
    fn hosts_without_end_take_no_memory() {
        let mut limits = Limits::none();
        let now = Instant::now();
        let said =
            (0..MOST_KINDS * 3).filter(|i| limits.admit(&mut kind(1, &i.to_string()), Level::Warn, 2, now).is_some());
        assert_eq!(said.count(), MOST_KINDS + 2);
        assert_eq!(limits.0.len(), MOST_KINDS + 1);
        assert_eq!(limits.settle(Some(now + 2 * PERIOD)).len(), 1);
        assert_eq!(limits.0.len(), 0);
    }
}

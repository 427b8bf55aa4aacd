//! What is wrong with the brokers while the program runs: in the log once, and again when the cause changes; and for
//! `/readyz` for as long as nothing is delivered. It is told what the client says, and mends nothing. A value; the sink has
//! it behind a lock.

use std::time::{Duration, Instant};

/// A single error, such as that of one broker of several, is over sooner.
const LASTS: Duration = Duration::from_secs(1);
/// A cause that did not show for so long is said again: the next outage is another one.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Different lines of one outage that are remembered: those of some brokers.
const LINES: usize = 16;

#[derive(Debug, Default)]
pub struct Complaint {
    /// The first error since the last delivery.
    since: Option<Instant>,
    newest: Option<String>,
    /// What was said, and when it last came.
    said: Vec<(String, Instant)>,
    /// Somebody was told that nothing is delivered.
    shown: bool,
}

impl Complaint {
    /// An error whose cause is not known yet.
    pub fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The cause. `true` when it is to be logged.
    pub fn cause(&mut self, line: &str) -> bool {
        self.begin();
        self.newest = Some(line.into());
        let now = Instant::now();
        if let Some((_, last)) = self.said.iter_mut().find(|(said, _)| said == line) {
            return now - std::mem::replace(last, now) > FORGOTTEN;
        }
        if self.said.len() == LINES {
            self.said.remove(0);
        }
        self.said.push((line.into(), now));
        true
    }

    /// A record was delivered. `true` when that is to be logged: people were told of the contrary.
    pub fn delivered(&mut self) -> bool {
        (self.since, self.newest) = (None, None);
        let shown = std::mem::take(&mut self.shown);
        if shown {
            self.said.clear();
        }
        shown
    }

    /// Why nothing is delivered, where that has lasted for a moment.
    pub fn current(&mut self) -> Option<&str> {
        self.since.filter(|at| at.elapsed() >= LASTS)?;
        let newest = self.newest.as_deref();
        self.shown |= newest.is_some();
        newest
    }

    /// Whether an error came `age` ago, nothing was delivered since, and nobody knows why.
    pub fn is_unexplained(&self, age: Duration) -> bool {
        self.newest.is_none() && self.since.is_some_and(|at| at.elapsed() >= age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(complaint: &mut Complaint) {
        complaint.since = Instant::now().checked_sub(LASTS);
    }

    #[test]
    fn a_cause_is_said_once_an_outage() {
        let mut c = Complaint::default();
        assert!(c.cause("a: refused") && c.cause("b: refused"));
        assert!(!c.cause("a: refused") && !c.cause("b: refused"), "several brokers, in turn");
        assert_eq!(c.current(), None, "a moment is nothing");
        earlier(&mut c);
        assert_eq!(c.current(), Some("b: refused"));
        assert!(c.delivered() && !c.delivered());
        assert_eq!(c.current(), None);
        assert!(c.cause("a: refused"), "another outage");
        // The others deliver, so that nobody was told of an outage: it is the same one still.
        assert!(!c.delivered() && !c.cause("a: refused"));
        for i in 0..100 {
            assert!(c.cause(&i.to_string()));
        }
        assert_eq!(c.said.len(), LINES);
    }

    #[test]
    fn an_error_without_a_cause_waits_for_one() {
        let mut c = Complaint::default();
        assert!(!c.is_unexplained(Duration::ZERO));
        c.begin();
        earlier(&mut c);
        assert!(c.is_unexplained(LASTS) && !c.is_unexplained(LASTS * 60));
        assert_eq!(c.current(), None);
        c.cause("x");
        earlier(&mut c);
        assert!(!c.is_unexplained(LASTS));
        assert_eq!(c.current(), Some("x"));
    }
}

//! Which seqs are new, which are repeats, and where some are missing. No socket, no clock: a value that eats seqs.
//!
//! Servers differ (indigo sends seqs above the cursor, rsky from it on; some say that a cursor is too old or in the
//! future, indigo says neither), so what is missing is seen in the seqs.

/// What one frame's seq means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New: handle it.
    New,
    /// Not above the last one: skip it.
    Repeat,
    /// New, and something is to be said before it.
    Gap(Gap),
}

/// Where events may be missing.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    /// The label of `atkafka_gaps`, and the name in the `info` event.
    pub kind: &'static str,
    pub message: String,
}

/// A jump of more than this from the cursor to the first frame is more than the few seqs that relays leave out.
const SILENT_JUMP: u64 = 100;
/// A jump inside a connection that is believed only when the next frame goes on from there: one broken seq must not
/// make everything after it a repeat.
const LEAP: u64 = 1_000_000;

/// State over the connections to one host.
#[derive(Debug, Default)]
pub struct Resume {
    /// The last seq taken; 0 before the first.
    last: u64,
    /// What the present connection was asked to go on from.
    asked: Option<u64>,
    /// No frame of the present connection was seen yet.
    first: bool,
    /// Upstream said itself that the cursor was too old.
    told: bool,
    /// The seq before an unconfirmed leap.
    before_leap: Option<u64>,
}

impl Resume {
    /// Begins behind `cursor`, when there is one.
    pub fn new(cursor: Option<u64>) -> Self {
        Resume { last: cursor.unwrap_or(0), ..Resume::default() }
    }

    /// The last seq taken.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// A connection begins that was asked to go on from `asked` (`None`: live).
    pub fn connected(&mut self, asked: Option<u64>) {
        (self.asked, self.first, self.told) = (asked, true, false);
    }

    /// What to ask the next connection for, from what is safe against a broken seq.
    pub fn cursor(&self) -> u64 {
        self.before_leap.unwrap_or(self.last)
    }

    /// Upstream sent `#info OutdatedCursor`: a jump has been reported.
    pub fn told_outdated(&mut self) {
        self.told = true;
    }

    /// Upstream starts from nothing again: so do we.
    pub fn reset(&mut self) {
        *self = Resume::default();
    }

    /// Judges the next frame's seq.
    pub fn judge(&mut self, seq: u64) -> Verdict {
        let first = std::mem::replace(&mut self.first, false);
        if first && let Some(asked) = self.asked.filter(|asked| *asked > 0) {
            if seq < asked {
                self.take(seq);
                return Verdict::Gap(Gap {
                    kind: "host_reset",
                    message: format!(
                        "the cursor {asked} is in the host's future: it goes on at seq {seq}, and what it had in between is unknown"
                    ),
                });
            }
            if seq - asked > SILENT_JUMP && seq > self.last && !self.told {
                self.take(seq);
                return Verdict::Gap(Gap {
                    kind: "outdated_cursor",
                    message: format!(
                        "asked to go on from {asked}, the host began at {seq}: events between may be missing"
                    ),
                });
            }
        }
        if seq > self.last {
            // Confirmed when two frames in a row are above.
            let leapt = self.last > 0 && !first && seq - self.last > LEAP;
            let before = self.last;
            self.take(seq);
            self.before_leap = leapt.then_some(before);
            return Verdict::New;
        }
        if let Some(before) = self.before_leap.filter(|before| seq > *before) {
            let broken = self.last;
            self.take(seq);
            return Verdict::Gap(Gap {
                kind: "seq_leap",
                message: format!(
                    "seq leapt from {before} to {broken} and came back to {seq}: the leap is taken for a broken frame"
                ),
            });
        }
        Verdict::Repeat
    }

    fn take(&mut self, seq: u64) {
        self.last = seq;
        self.before_leap = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cursor: u64) -> Resume {
        let mut r = Resume::new(Some(cursor));
        r.connected(Some(cursor));
        r
    }

    fn gap(v: Verdict) -> &'static str {
        match v {
            Verdict::Gap(gap) => gap.kind,
            other => panic!("no gap: {other:?}"),
        }
    }

    #[test]
    fn exclusive_and_inclusive_servers_alike() {
        let mut exclusive = at(10);
        assert_eq!(exclusive.judge(11), Verdict::New);
        let mut inclusive = at(10);
        assert_eq!(inclusive.judge(10), Verdict::Repeat);
        assert_eq!(inclusive.judge(11), Verdict::New);
        assert_eq!(inclusive.judge(11), Verdict::Repeat);
        assert_eq!(inclusive.judge(5), Verdict::Repeat, "falling inside a connection");
        assert_eq!(inclusive.judge(14), Verdict::New, "small gaps are normal");
    }

    #[test]
    fn a_silent_jump_is_a_gap_once() {
        let mut r = at(10);
        assert_eq!(gap(r.judge(5_000)), "outdated_cursor");
        assert_eq!(r.judge(5_001), Verdict::New);
        let mut r = at(10);
        r.told_outdated();
        assert_eq!(r.judge(5_000), Verdict::New, "upstream said it itself");
        let mut live = Resume::new(None);
        live.connected(None);
        assert_eq!(live.judge(5_000), Verdict::New);
        let mut oldest = at(0);
        assert_eq!(oldest.judge(5_000), Verdict::New, "the oldest was asked for");
    }

    #[test]
    fn a_host_that_begins_below_the_cursor_was_reset() {
        let mut r = at(1_000_000);
        assert_eq!(gap(r.judge(7)), "host_reset");
        assert_eq!(r.judge(8), Verdict::New, "nothing is dropped for ever");
        assert_eq!(r.cursor(), 8);
    }

    #[test]
    fn one_broken_seq_does_not_swallow_the_rest() {
        let mut r = at(10);
        assert_eq!(r.judge(11), Verdict::New);
        assert_eq!(r.judge(9_000_000_000), Verdict::New);
        assert_eq!(r.cursor(), 11, "not confirmed");
        assert_eq!(gap(r.judge(12)), "seq_leap");
        assert_eq!(r.judge(13), Verdict::New);
        assert_eq!(r.cursor(), 13);
        assert_eq!(r.judge(9_000_000_000), Verdict::New);
        assert_eq!(r.judge(9_000_000_001), Verdict::New);
        assert_eq!(r.cursor(), 9_000_000_001, "two in a row are a leap of the host");
        assert_eq!(r.judge(14), Verdict::Repeat);
    }
}

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

/// The kind of a jump inside a connection. PDSes leave out many seqs, so it is said less often than the others.
pub const SEQ_GAP: &str = "seq_gap";

/// Where events may be missing.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    /// The label of `atkafka_gaps`, and the name in the `info` event.
    pub kind: &'static str,
    /// The same in words.
    pub message: String,
}

/// A jump of more than this is more than the few seqs that relays leave out.
pub const JUMP: u64 = 100;

/// State over the connections to one host. One frame with a wrong seq, wherever it stands, makes no other frame a
/// repeat, unless it has the very seq of the frame behind it.
#[derive(Debug, Default)]
pub struct Resume {
    /// The last seq taken; 0 before the first.
    last: u64,
    /// The one before it. A frame between the two shows that `last` was wrong; at or below this one it is a repeat.
    before: u64,
    /// What counts as the position while `last` is a jump that no frame above it has confirmed.
    held: Option<u64>,
    /// Where jumps inside the connection began: reported once the host goes on densely. Jump after jump is a host that
    /// leaves out many seqs.
    jump: Option<u64>,
    /// `last` came on the present connection.
    here: bool,
    /// What the present connection was asked to go on from.
    asked: Option<u64>,
    /// No frame of the present connection was seen yet.
    first: bool,
    /// Upstream said itself that the cursor was too old.
    told: bool,
}

impl Resume {
    /// Begins behind `cursor`, when there is one.
    pub fn new(cursor: Option<u64>) -> Self {
        let last = cursor.unwrap_or(0);
        Resume { last, before: last, ..Resume::default() }
    }

    /// The last seq taken.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// A connection begins that was asked to go on from `asked` (`None`: live).
    pub fn connected(&mut self, asked: Option<u64>) {
        (self.asked, self.first, self.told, self.here) = (asked, true, false, false);
    }

    /// What to ask the next connection for, and what to save: an unconfirmed jump is not in it.
    pub fn cursor(&self) -> u64 {
        self.held.unwrap_or(self.last)
    }

    /// The first frame of a live start was waited for long enough: its seq counts, until a lower one comes.
    pub fn settle(&mut self) {
        self.held = None;
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
        let asked = self.asked.filter(|asked| first && *asked > 0);
        if let Some(asked) = asked.filter(|asked| seq < *asked) {
            // This seq may be the wrong one: whatever follows is new, and the position stays until a frame agrees.
            (self.last, self.before, self.held, self.jump, self.here) = (seq, 0, Some(asked), None, true);
            let message = format!(
                "the cursor {asked} is in the host's future: it goes on at seq {seq}, and what it had in between is unknown"
            );
            return Verdict::Gap(Gap { kind: "host_reset", message });
        }
        if seq > self.last {
            return self.rise(seq, asked);
        }
        if seq == self.last && self.here {
            // Two frames agree: what falls below them is a repeat.
            self.before = seq;
        }
        if seq <= self.before || seq == self.last {
            return Verdict::Repeat;
        }
        self.here = true;
        let (before, wrong) = (self.before, self.last);
        let base = self.held.unwrap_or(before);
        self.held = (base > 0 && seq.abs_diff(base) > JUMP).then_some(base);
        (self.last, self.before, self.jump) = (seq, seq, None);
        if wrong - before <= JUMP {
            return Verdict::New;
        }
        let message =
            format!("seq leapt from {before} to {wrong} and came back to {seq}: the leap is taken for a broken frame");
        Verdict::Gap(Gap { kind: "seq_leap", message })
    }

    /// A seq above the last one: it confirms that one.
    fn rise(&mut self, seq: u64, asked: Option<u64>) -> Verdict {
        // A first frame below the cursor, and this one behind the cursor: the first one was wrong, and no reset.
        let from = self.held.filter(|held| *held > self.last && seq > *held).unwrap_or(self.last);
        let jumped = seq - from > JUMP;
        self.held = jumped.then_some(from);
        let (jump, to) = (self.jump.take(), self.last);
        (self.before, self.last, self.here) = (self.last, seq, true);
        if let Some(asked) = asked.filter(|asked| seq - asked > JUMP) {
            if self.told {
                return Verdict::New;
            }
            let message =
                format!("asked to go on from {asked}, the host began at {seq}: events between may be missing");
            return Verdict::Gap(Gap { kind: "outdated_cursor", message });
        }
        // Several jumps in a row are one gap, and the first frame at all jumps from nowhere.
        let began = jump.or((jumped && from > 0).then_some(from));
        match began {
            Some(began) if !jumped => {
                let message = format!("seqs leapt within a connection: events between {began} and {to} may be missing");
                Verdict::Gap(Gap { kind: SEQ_GAP, message })
            }
            began => {
                self.jump = began;
                Verdict::New
            }
        }
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
        assert_eq!(gap(r.judge(9_000_000_001)), SEQ_GAP, "two in a row are a jump of the host");
        assert_eq!(r.cursor(), 9_000_000_001);
        assert_eq!(r.judge(14), Verdict::Repeat);
    }

    #[test]
    fn a_seq_that_falls_below_what_two_frames_agree_on_is_a_repeat() {
        let mut r = Resume::new(None);
        r.connected(None);
        // Of the recording `seq_ordering`.
        assert_eq!(r.judge(1_000), Verdict::New);
        assert_eq!(r.judge(1_000), Verdict::Repeat);
        assert_eq!(r.judge(5), Verdict::Repeat);
        assert_eq!(r.judge(2_000), Verdict::New);
        assert_eq!(r.cursor(), 1_000);
        let mut r = at(1_000);
        for seq in [1_001, 1_002] {
            assert_eq!(r.judge(seq), Verdict::New);
        }
        for seq in [997, 1_000, 1_001, 1_002] {
            assert_eq!(r.judge(seq), Verdict::Repeat);
        }
    }

    #[test]
    fn a_gap_inside_a_connection_is_reported_where_the_host_is_dense() {
        let mut r = at(1);
        assert_eq!(r.judge(2), Verdict::New);
        assert_eq!(r.judge(500), Verdict::New, "the next frame shows that it was a gap");
        assert_eq!(r.cursor(), 2);
        assert_eq!(gap(r.judge(600)), SEQ_GAP);
        assert_eq!(r.cursor(), 600);
        assert_eq!(r.judge(700), Verdict::New, "100 is normal");
        for seq in (2_000..10_000).step_by(1_000) {
            assert_eq!(r.judge(seq), Verdict::New, "a host that leaves out many");
            assert!(r.cursor() >= seq - 1_300, "each frame confirms the one before");
        }
        assert_eq!(gap(r.judge(9_001)), SEQ_GAP);
    }

    #[test]
    fn a_broken_first_frame_swallows_nothing() {
        let broken = (1 << 53) - 1;
        let mut live = Resume::new(None);
        live.connected(None);
        assert_eq!(live.judge(broken), Verdict::New);
        live.settle();
        assert_eq!(gap(live.judge(1_001)), "seq_leap");
        assert_eq!(live.cursor(), 1_001);
        assert_eq!(live.judge(1_002), Verdict::New);
        assert_eq!(live.cursor(), 1_002);
        // From the oldest.
        let mut oldest = at(0);
        assert_eq!(oldest.judge(broken), Verdict::New);
        assert_eq!(oldest.cursor(), 0);
        assert_eq!(gap(oldest.judge(1)), "seq_leap");
        assert_eq!(oldest.cursor(), 1);
        // On a later connection, too high and too low.
        let mut r = at(1_000);
        assert_eq!(gap(r.judge(broken)), "outdated_cursor");
        assert_eq!(r.cursor(), 1_000);
        assert_eq!(gap(r.judge(1_001)), "seq_leap");
        assert_eq!(r.cursor(), 1_001);
        let mut r = at(1_000);
        assert_eq!(gap(r.judge(3)), "host_reset");
        assert_eq!(r.cursor(), 1_000);
        assert_eq!(r.judge(1_002), Verdict::New, "it was no reset");
        assert_eq!(r.cursor(), 1_002);
        // A host that was reset, and whose first frame is wrong besides.
        let mut r = at(1_000);
        assert_eq!(gap(r.judge(900)), "host_reset");
        assert_eq!(gap(r.judge(2)), "seq_leap");
        assert_eq!(r.judge(3), Verdict::New);
        assert_eq!(r.cursor(), 3);
    }

    #[test]
    fn an_unconfirmed_frame_that_comes_again_is_a_repeat() {
        let mut r = at(10);
        assert_eq!(gap(r.judge(5_000)), "outdated_cursor");
        r.connected(Some(r.cursor()));
        assert_eq!(r.judge(10), Verdict::Repeat, "the host is inclusive");
        assert_eq!(r.judge(5_000), Verdict::Repeat);
        assert_eq!(r.cursor(), 10, "the same frame confirms nothing");
        assert_eq!(r.judge(5_001), Verdict::New);
        assert_eq!(r.cursor(), 5_001);
    }

    /// Rising seqs, dense and sparse, with reconnects, and one of them replaced by anything. One that has the very seq of
    /// the frame behind it cannot be told from a repeat.
    #[test]
    fn one_wrong_seq_never_makes_another_frame_a_repeat() {
        for seed in 0..20_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let steps = [2, 60, 300][rng.usize(0..3)];
            let live = rng.bool();
            let start = rng.u64(0..3) * 1_000;
            let mut seqs = vec![start + 1];
            for _ in 0..rng.usize(2..20) {
                seqs.push(seqs[seqs.len() - 1] + rng.u64(1..=steps));
            }
            let wrong = rng.usize(0..seqs.len());
            let value = match rng.u8(0..3) {
                0 => (1 << 53) - 1,
                1 => rng.u64(1..seqs[seqs.len() - 1] + 500),
                _ => seqs[rng.usize(0..seqs.len())],
            };
            if seqs.get(wrong + 1) == Some(&value) {
                continue;
            }
            let asked = (!live).then_some(start);
            let mut r = Resume::new(asked);
            r.connected(asked);
            for (i, seq) in seqs.iter().enumerate() {
                let verdict = r.judge(if i == wrong { value } else { *seq });
                assert!(i == wrong || verdict != Verdict::Repeat, "seed {seed}: {seqs:?}, {value} at {wrong}: {i}");
                if i == 0 && live {
                    r.settle();
                }
                if i == wrong && value > seq + JUMP && !(i == 0 && live) {
                    assert!(r.cursor() <= *seq, "seed {seed}: {seqs:?}, {value} at {wrong} would be saved");
                }
                if i > wrong {
                    assert!(r.cursor() <= *seq, "seed {seed}: {seqs:?}, {value} at {wrong}: {} at {i}", r.cursor());
                }
                if i != wrong && i.abs_diff(wrong) > 1 && rng.u8(0..4) == 0 {
                    r.connected(Some(r.cursor()));
                    if rng.bool() {
                        r.judge(r.cursor());
                    }
                }
            }
        }
    }
}

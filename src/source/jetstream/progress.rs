//! Where the reading stands on either wire: what the next connection is asked for, which events are new, and the position
//! that is saved. A value without a socket; the clock is handed in. The reader owns one, over all connections to its host.

use std::sync::Arc;

use super::overlap::Overlap;
use super::position::JetstreamPosition;
use super::query::Wire;
use crate::atproto::jetstream::Event;
use crate::atproto::time;
use crate::checkpoint::Position;
use crate::source::Start;
use crate::source::resume::{Resume, SEQ_GAP, Verdict};

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Live,
    Oldest,
    /// What came since a time of an earlier event, in microseconds since 1970.
    Since(u64),
    /// What stands behind a seq. Version 2 only.
    Seq(u64),
}

pub struct Progress {
    start: Start,
    /// The time, in microseconds since 1970, that a first start begins at, until an event came or the host refused it.
    since_us: Option<u64>,
    /// What the present connection speaks, and began with.
    wire: Wire,
    pub asked: Asked,
    /// Version 1. The newest time is kept on both wires: it leads from one to the other, and to another archive.
    overlap: Overlap,
    /// Version 2.
    resume: Resume,
    /// A position is saved, or asked to be.
    begun: bool,
    /// The position moved since it was last taken.
    moved: bool,
}

impl Progress {
    /// `saved` is the position of an earlier run; it goes before `start`.
    pub fn new(saved: Option<JetstreamPosition>, start: Start) -> Self {
        let begun = saved.is_some();
        let since_us = match start {
            Start::Time(ms) if !begun => u64::try_from(ms).ok().and_then(|ms| ms.checked_mul(1_000)),
            _ => None,
        };
        let seq = match (&saved, start) {
            (Some(saved), _) => saved.seq,
            (None, Start::At(seq)) => Some(seq),
            (None, Start::Live | Start::Time(_)) => None,
        };
        let (newest_us, window) = saved.map_or((0, Vec::new()), |saved| (saved.time_us, saved.window.to_vec()));
        Progress {
            start,
            since_us,
            wire: Wire::Two,
            asked: Asked::Live,
            overlap: Overlap::new(newest_us, window),
            resume: Resume::new(seq.filter(|seq| *seq > 0)),
            begun,
            moved: false,
        }
    }

    /// The last seq that counts; 0 where there is none.
    pub fn seq(&self) -> u64 {
        self.resume.cursor()
    }

    /// Whether anything came before the present connection, in this run or an earlier one.
    pub fn goes_on(&self) -> bool {
        self.overlap.newest_us() > 0
    }

    /// What the next connection is asked for, on this wire.
    pub fn ask(&mut self, wire: Wire) -> Asked {
        self.wire = wire;
        self.asked = match (self.resume.cursor(), self.overlap.cursor().or(self.since_us), self.start) {
            (seq @ 1.., ..) if wire == Wire::Two => Asked::Seq(seq),
            (_, Some(time_us), _) => Asked::Since(time_us),
            (_, None, Start::Live) if !self.begun => Asked::Live,
            _ => Asked::Oldest,
        };
        self.asked
    }

    /// The connection is there. `filtered`: the server leaves events out.
    pub fn connected(&mut self, filtered: bool, now_us: u64) {
        let (seq, since) = match self.asked {
            Asked::Seq(seq) => (Some(seq), None),
            // Nothing was delivered before, so that nothing can be missing.
            Asked::Since(_) if self.is_seeking() => (None, None),
            Asked::Since(us) => (None, Some(us)),
            Asked::Live | Asked::Oldest => (None, None),
        };
        self.resume.connected(seq);
        self.overlap.connected(since, filtered, now_us);
    }

    /// Nothing more is there to be read.
    pub fn through(&mut self) {
        self.overlap.through();
    }

    /// Whether the message with this id, which has no place in the stream, is new. On version 2 it cannot be known again.
    pub fn is_new(&mut self, id: u64) -> bool {
        self.wire == Wire::Two || self.overlap.judge(None, id) != Verdict::Repeat
    }

    /// Whether the event says where it stands.
    pub fn is_placed(&self, event: &Event<'_>) -> bool {
        match self.wire {
            Wire::One => event.time_us.is_some(),
            Wire::Two => event.seq.is_some(),
        }
    }

    /// The position to save before the first event of all is handed over: without one, a kill before the first save would
    /// start live again.
    pub fn begins(&mut self, event: &Event<'_>) -> Option<Position> {
        if std::mem::replace(&mut self.begun, true) {
            return None;
        }
        let seq = event.seq.filter(|_| self.wire == Wire::Two).map(|seq| seq.saturating_sub(1).max(1));
        let state = JetstreamPosition { seq, time_us: event.time_us.unwrap_or(0), window: Arc::default() };
        Some(Position { seq, ..Position::of_state(0, Arc::new(state)) })
    }

    /// Judges an event that has a place. `true` beside a repeat: the connection comes on through the overlap.
    pub fn judge(&mut self, event: &Event<'_>) -> (Verdict, bool) {
        let before = self.overlap.cursor();
        let verdict = match (self.wire, event.seq) {
            (Wire::Two, Some(seq)) => self.judge_seq(seq, event),
            _ => self.overlap.judge(event.time_us, event.id()),
        };
        self.moved |= verdict != Verdict::Repeat;
        (verdict, self.overlap.cursor() > before)
    }

    /// Version 2. Seqs rise by one an event before the server's filter: jumps say nothing.
    fn judge_seq(&mut self, seq: u64, event: &Event<'_>) -> Verdict {
        let begins = self.resume.last() == 0;
        let verdict = match self.resume.judge(seq) {
            Verdict::Gap(gap) if gap.kind == SEQ_GAP || gap.kind == "outdated_cursor" => Verdict::New,
            verdict => verdict,
        };
        if begins {
            // Whatever it is, it is where the stream began.
            self.resume.settle();
        }
        if verdict == Verdict::New {
            // What version 1 delivered before.
            if matches!(self.asked, Asked::Since(_)) && self.overlap.knows(event.id()) {
                return Verdict::Repeat;
            }
            self.overlap.at(event.time_us);
        }
        verdict
    }

    /// The host refuses the seq as older than what it keeps. What is missing then; `None` where the floor that its message names
    /// is the next seq: so it is after a kill right behind a start with the oldest event.
    pub fn too_old(&self, message: &str) -> Option<String> {
        let seq = self.seq();
        let mut numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
        let is_next = numbers.any(|number| number == seq + 1);
        (!is_next).then(|| format!("events behind seq {seq} are older than what the host keeps ({message})"))
    }

    /// Seqs mean nothing any more: the next connection goes on by the time.
    pub fn reset(&mut self) {
        self.resume.reset();
        self.since_us = None;
    }

    /// Whether the first event at or after a given time is still waited for.
    pub fn is_seeking(&self) -> bool {
        self.since_us.is_some()
    }

    /// The first event of all. Where a time was asked for, says how near to it the host came.
    pub fn found(&mut self, host: &str, event: &Event<'_>) {
        let (Some(asked_us), Some(found_us)) = (self.since_us.take(), event.time_us) else { return };
        let later = found_us.saturating_sub(asked_us) / 1_000_000;
        let [asked, found] = [asked_us, found_us].map(|us| time::format_ms((us / 1_000) as i64));
        log::info!(
            event = "position", host = host, seq = event.seq;
            "{host}: asked for events since {asked}, the first one is of {found}, {later} s later"
        );
    }

    /// The position behind what was judged, where it moved since it was last taken.
    pub fn take(&mut self) -> Option<Position> {
        if !std::mem::take(&mut self.moved) {
            return None;
        }
        let time_us = self.overlap.newest_us();
        let (seq, saved, window) = match self.wire {
            Wire::One => (None, None, self.overlap.window()),
            Wire::Two => (Some(self.resume.last()), Some(self.resume.cursor()), Arc::default()),
        };
        let state = JetstreamPosition { seq: saved.filter(|seq| *seq > 0), time_us, window };
        Some(Position { seq, ..Position::of_state(0, Arc::new(state)) })
    }
}

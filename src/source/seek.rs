//! The search for the seq at which a given time begins, on a host that knows only seqs: halving. No socket, no clock: a value
//! that takes answers, and says what to ask next.
//!
//! One answer holds the first few events behind a seq. Their times are those of many servers, some of them wrong, so what
//! counts is the median of several, and a doubt moves the start to an earlier place: what is read in vain can be
//! dropped, what is skipped is lost.

/// Connections at most. Halving needs one for each bit: 27 for the 100 million events of three days.
pub const MOST: u32 = 40;
/// Events in one answer, where the host has as many.
pub const SAMPLE: usize = 9;
/// So near before the time, in milliseconds, is near enough: times of neighbours differ by as much.
const NEAR_MS: i64 = 1_000;
/// Connections that end without an answer, one behind the other, before the place counts as one without events.
const BREAKS: u32 = 8;
/// A host that sends nothing live has no known end. It is looked for this far behind the base, and each time so many times
/// as far.
const FIRST_STEP: u64 = 1_000;
const WIDER: u64 = 16;
/// No seq is larger.
const LARGEST: u64 = crate::atproto::frame::SEQ_END - 1;

/// An event, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The host's sequence number.
    pub seq: u64,
    /// Its time, in milliseconds since 1970.
    pub time_ms: i64,
}

/// What a connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The events behind this seq; 0 is the oldest that is kept.
    Behind(u64),
    /// The next events that happen.
    Live,
}

/// What came of a connection.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// The first events that came, up to [`SAMPLE`].
    Events(&'a [Event]),
    /// The host has no event there, or says that this is its future.
    Nothing,
    /// It ended before there was an answer.
    Broke,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A connection that asks for this; its [`Answer`] is waited for.
    Ask(Ask),
    /// Nothing: this is where to begin.
    Found(Found),
}

/// Where the time begins, as near as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Begin behind this seq. Nothing behind it that the host has was passed over.
    pub seq: u64,
    /// What stands there.
    pub place: Place,
    /// Connections that it took.
    pub connections: u32,
}

/// What stands at the place where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The event with the seq is the last one that is known to be before the time, and of this time.
    Behind(i64),
    /// The same, and the host had no event behind it.
    Newest(i64),
    /// The host's oldest event, of this time, is not before the time that is looked for.
    Oldest(i64),
    /// The host gave no event.
    Empty,
}

/// The search.
#[derive(Debug)]
pub struct Seek {
    since_ms: i64,
    /// The last event that is known to be before the time; at first none, and everything is behind it.
    base: Event,
    /// No event behind this seq is before the time.
    top: Option<u64>,
    /// How far behind the base the end is looked for, while there is no `top`.
    step: u64,
    asked_oldest: bool,
    asked_live: bool,
    connections: u32,
    /// Connections without an answer, one behind the other.
    broke: u32,
    place: Option<Place>,
}

impl Seek {
    /// For the first event at or after `since_ms`, in milliseconds since 1970.
    pub fn new(since_ms: i64) -> Seek {
        Seek {
            since_ms,
            base: Event { seq: 0, time_ms: 0 },
            top: None,
            step: FIRST_STEP,
            asked_oldest: false,
            asked_live: false,
            connections: 0,
            broke: 0,
            place: None,
        }
    }

    /// What to do now.
    pub fn next(&self) -> Next {
        let base = self.base.seq;
        if let Some(place) = self.place {
            return Next::Found(Found { seq: base, place, connections: self.connections });
        }
        Next::Ask(match self.top {
            _ if !self.asked_oldest => Ask::Behind(0),
            _ if !self.asked_live => Ask::Live,
            None => Ask::Behind(base.saturating_add(self.step).min(LARGEST)),
            Some(top) if top > base => Ask::Behind(base + (top - base) / 2),
            // That nothing behind the base is before the time is yet to be seen there.
            Some(_) => Ask::Behind(base),
        })
    }

    /// Takes what came of the connection that [`Seek::next`] asked for.
    pub fn answer(&mut self, answer: Answer<'_>) {
        let Next::Ask(ask) = self.next() else { return };
        self.connections += 1;
        let events = match answer {
            Answer::Broke if self.broke + 1 < BREAKS && self.connections < MOST => {
                self.broke += 1;
                return;
            }
            Answer::Events(events) => events,
            Answer::Nothing | Answer::Broke => &[],
        };
        self.broke = 0;
        match ask {
            Ask::Behind(seq) => self.behind(seq, events),
            Ask::Live => {
                self.asked_live = true;
                // They happen now, whatever time they have. One of several seqs may be wrong.
                self.top = events.iter().map(|event| event.seq).min();
            }
        }
        if self.connections >= MOST && self.place.is_none() {
            self.place = Some(Place::Behind(self.base.time_ms));
        }
    }

    /// The events behind `seq`: `answer`.
    fn behind(&mut self, seq: u64, answer: &[Event]) {
        self.asked_oldest = true;
        let events = rising(seq, answer);
        let mut times: Vec<i64> = events.iter().map(|event| event.time_ms).collect();
        times.sort_unstable();
        // One event alone may have a wrong time: it proves nothing of those between the base and `seq`.
        let median = times.get(times.len() / 2).filter(|_| times.len() > 1 || seq == self.base.seq);
        // Nothing confirms the seq of the last one.
        let sure = &events[..events.len() - usize::from(events.len() > 1)];
        let earlier = sure.iter().take_while(|event| event.time_ms < self.since_ms).last();
        match (median, events.first()) {
            (Some(median), Some(first)) if *median < self.since_ms => {
                self.base = *earlier.unwrap_or(first);
                match self.top {
                    None if self.asked_live => self.step = self.step.saturating_mul(WIDER),
                    // It was wrong, whoever said it.
                    Some(top) if top <= seq => (self.top, self.step) = (None, FIRST_STEP),
                    _ => {}
                }
                let near = |time_ms: i64| (0..=NEAR_MS).contains(&(self.since_ms - time_ms));
                if near(*median) && near(self.base.time_ms) {
                    self.place = Some(Place::Behind(self.base.time_ms));
                }
            }
            (_, first) if seq == self.base.seq => {
                self.place = Some(match (earlier, first) {
                    (Some(event), _) => {
                        self.base = *event;
                        Place::Behind(event.time_ms)
                    }
                    (None, Some(first)) if seq == 0 => {
                        self.base.seq = first.seq - 1;
                        Place::Oldest(first.time_ms)
                    }
                    (None, None) if seq == 0 => Place::Empty,
                    (None, Some(_)) => Place::Behind(self.base.time_ms),
                    (None, None) => Place::Newest(self.base.time_ms),
                });
            }
            _ => self.top = Some(seq),
        }
    }
}

/// The events behind `seq` whose seqs rise: some hosts begin with the event of the cursor itself, one that has no such seq
/// may go live with lower ones, and a broken frame may have any.
fn rising(seq: u64, answer: &[Event]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::with_capacity(answer.len());
    for event in answer.iter().rev().filter(|event| event.seq > seq) {
        if events.last().is_none_or(|next| event.seq < next.seq) {
            events.push(*event);
        }
    }
    events.reverse();
    events
}

#[cfg(test)]
mod tests;

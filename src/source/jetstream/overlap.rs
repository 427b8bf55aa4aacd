//! Which events of Jetstream's version 1 are new, and where some are missing. A value that is told times and ids: no socket,
//! and the clock is handed in. The reader owns one, over all connections to its host.
//!
//! The cursor of version 1 is a time that several events may share and that does not rise strictly. So each connection goes
//! back [`BACK_US`] before the newest event, and what it sends again is known by its [id](crate::atproto::jetstream::Event::id).
//! The newest time and the ids of the overlap are the position that is saved.

use std::collections::HashSet;
use std::sync::Arc;

use crate::source::resume::{Gap, Verdict};

/// How far before the newest event a connection begins, in microseconds.
pub const BACK_US: u64 = 2_000_000;
/// A time that is this much newer than any before counts once another event agrees.
const JUMP_US: u64 = 600_000_000;
/// A first event that is this much newer than the cursor does not follow on what came before.
const SLACK_US: u64 = 60_000_000;
/// What servers keep at least: the older ones 24 hours, the others 36.
const KEPT_US: u64 = 24 * 3_600_000_000;
/// Ids that are kept at most: 16 bytes each here, 30 in the state file, and 50,000 events a second for the overlap.
const MAX_WINDOW: usize = 100_000;

/// Times and ids of events, in the order in which they came.
pub type Window = Vec<(u64, u64)>;

/// Where version 1 stands, and what was delivered around there.
pub struct Overlap {
    /// The newest time, in microseconds since 1970; 0 before the first event.
    newest_us: u64,
    /// A time far above it that no other event has confirmed.
    jump_us: Option<u64>,
    window: Window,
    ids: HashSet<u64>,
    /// The newest time has no second event that agrees with it.
    alone: bool,
    /// Up to where the overlap was sent again since the last new event.
    passed_us: u64,
    asked: Option<Asked>,
    /// Nothing of the present connection was judged yet.
    first: bool,
}

/// What the present connection was asked to go on from.
struct Asked {
    cursor_us: u64,
    /// Whether a first event that is much newer is a gap, and no stream that is quiet.
    clamps: bool,
}

impl Overlap {
    /// Goes on from a saved position; `newest_us` is 0 where there is none.
    pub fn new(newest_us: u64, window: Window) -> Self {
        let ids = window.iter().map(|(_, id)| *id).collect();
        Overlap { newest_us, jump_us: None, window, ids, alone: newest_us == 0, passed_us: 0, asked: None, first: true }
    }

    /// The newest time, in microseconds since 1970; 0 before the first event.
    pub fn newest_us(&self) -> u64 {
        self.newest_us
    }

    /// Whether an event with this id was delivered, and stands in the overlap.
    pub fn knows(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Notes the time of an event that was judged by its seq.
    pub fn at(&mut self, time_us: Option<u64>) {
        time_us.into_iter().for_each(|time_us| self.rise(time_us));
    }

    /// What to ask the next connection for; `None` before the first event. One that ended inside the overlap is followed by
    /// one that begins where it ended: with the same overlap again it might end there for ever.
    pub fn cursor(&self) -> Option<u64> {
        (self.newest_us > 0).then(|| self.newest_us.saturating_sub(BACK_US).max(self.passed_us).max(1))
    }

    /// Nothing more is there to be read: the connection is through the overlap, and so will be the next one.
    pub fn through(&mut self) {
        self.passed_us = 0;
    }

    /// A connection begins that was asked to go on from what [`Overlap::cursor`] gave, or for something else (`None`).
    /// `filtered`: the server leaves events out, so that a first event may be of any time; then only who was away longer than
    /// servers keep events can have missed some.
    pub fn connected(&mut self, cursor_us: Option<u64>, filtered: bool, now_us: u64) {
        self.first = true;
        self.asked = cursor_us
            .map(|cursor_us| Asked { cursor_us, clamps: !filtered || now_us.saturating_sub(cursor_us) > KEPT_US });
    }

    /// Judges the next event. `time_us` is `None` where the message has none: it is new unless its id is known.
    pub fn judge(&mut self, time_us: Option<u64>, id: u64) -> Verdict {
        let first = std::mem::replace(&mut self.first, false);
        if !self.ids.insert(id) {
            self.passed_us = self.passed_us.max(time_us.unwrap_or(0).min(self.newest_us));
            return Verdict::Repeat;
        }
        self.passed_us = 0;
        self.window.push((time_us.unwrap_or(self.newest_us), id));
        let Some(time_us) = time_us else { return Verdict::New };
        let gap = self.asked.as_ref().filter(|_| first).and_then(|asked| asked.gap(time_us));
        if gap.as_ref().is_some_and(|gap| gap.kind == "host_reset") {
            (self.newest_us, self.jump_us, self.alone) = (time_us, None, true);
        } else {
            self.rise(time_us);
        }
        gap.map_or(Verdict::New, Verdict::Gap)
    }

    /// Moves the newest time. One wrong time, wherever it stands, moves it nowhere: a cursor in the future would lose events.
    fn rise(&mut self, time_us: u64) {
        if let Some(jump_us) = self.jump_us {
            if time_us.saturating_add(BACK_US) >= jump_us {
                (self.newest_us, self.jump_us) = (jump_us, None);
            } else if time_us <= self.newest_us.saturating_add(JUMP_US) {
                self.jump_us = None;
            }
        }
        if self.newest_us == 0 || self.alone && time_us.saturating_add(JUMP_US) < self.newest_us {
            // Of two that do not agree the lower one counts.
            self.newest_us = time_us;
        } else if time_us <= self.newest_us.saturating_add(JUMP_US) {
            (self.newest_us, self.alone) = (self.newest_us.max(time_us), false);
        } else {
            self.jump_us = Some(time_us);
        }
    }

    /// The ids of the overlap, to be saved with [`Overlap::newest_us`].
    pub fn window(&mut self) -> Arc<Window> {
        let (from_us, ids) = (self.newest_us.saturating_sub(BACK_US), &mut self.ids);
        let excess = self.window.len().saturating_sub(MAX_WINDOW);
        let mut place = 0;
        self.window.retain(|(time_us, id)| {
            place += 1;
            let keep = *time_us >= from_us && place > excess;
            if !keep {
                ids.remove(id);
            }
            keep
        });
        Arc::new(self.window.clone())
    }
}

impl Asked {
    fn gap(&self, time_us: u64) -> Option<Gap> {
        let cursor_us = self.cursor_us;
        if time_us.saturating_add(SLACK_US) < cursor_us {
            let behind = (cursor_us - time_us) / 1_000_000;
            let message = format!(
                "the cursor is in the host's future: its first event is {behind} s before it, and what it had in between is unknown"
            );
            return Some(Gap { kind: "host_reset", message });
        }
        let missing_us = time_us.saturating_sub(cursor_us.saturating_add(BACK_US));
        if !self.clamps || missing_us <= SLACK_US {
            return None;
        }
        let message = format!(
            "the first event is {} s newer than the last one that was delivered: events in between are most likely older than what the host keeps",
            missing_us / 1_000_000
        );
        Some(Gap { kind: "outdated_cursor", message })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3_600_000_000;
    const NOW: u64 = 1_783_175_888_085_434;

    fn gap(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Gap(gap) => gap.kind,
            Verdict::New => "new",
            Verdict::Repeat => "repeat",
        }
    }

    /// With one event at `at`, connected anew.
    fn after(at: u64, filtered: bool, now: u64) -> Overlap {
        let mut o = Overlap::new(0, Vec::new());
        o.connected(None, filtered, at);
        assert_eq!(o.judge(Some(at), 1), Verdict::New);
        let cursor = o.cursor();
        assert_eq!(cursor, Some(at - BACK_US));
        o.connected(cursor, filtered, now);
        o
    }

    #[test]
    fn a_connection_that_ended_inside_the_overlap_is_followed_by_one_that_begins_there() {
        let mut o = Overlap::new(0, Vec::new());
        for (id, time_us) in [(1, NOW), (2, NOW + 500_000), (3, NOW + 1_500_000)] {
            o.judge(Some(time_us), id);
        }
        assert_eq!(o.cursor(), Some(NOW - 500_000));
        assert_eq!(o.judge(Some(NOW), 1), Verdict::Repeat);
        assert_eq!(o.cursor(), Some(NOW));
        assert_eq!(o.judge(Some(NOW + 500_000), 2), Verdict::Repeat);
        assert_eq!(o.cursor(), Some(NOW + 500_000));
        assert_eq!(o.judge(Some(NOW + 1_500_000), 3), Verdict::Repeat);
        assert_eq!(o.cursor(), Some(NOW + 1_500_000));
        assert_eq!(o.judge(Some(NOW + 1_500_000), 4), Verdict::New, "another event of the same time");
        assert_eq!(o.cursor(), Some(NOW - 500_000));
    }

    #[test]
    fn a_first_event_that_is_much_newer_is_a_gap_where_the_server_leaves_nothing_out() {
        let later = NOW + 3_600_000_000;
        assert_eq!(gap(after(NOW, false, later).judge(Some(later), 2)), "outdated_cursor");
        let mut quiet = after(NOW, false, later);
        assert_eq!(quiet.judge(Some(NOW), 1), Verdict::Repeat, "the host still has the last one");
        assert_eq!(quiet.judge(Some(later), 2), Verdict::New);
        assert_eq!(after(NOW, false, later).judge(Some(NOW + 30_000_000), 2), Verdict::New);
    }

    #[test]
    fn with_server_filters_only_a_long_absence_makes_a_gap() {
        for (away, said) in [(3_600_000_000, "new"), (DAY - 60_000_000, "new"), (DAY + 60_000_000, "outdated_cursor")] {
            let later = NOW + away;
            assert_eq!(gap(after(NOW, true, later).judge(Some(later), 2)), said, "{away}");
        }
        assert_eq!(after(NOW, true, NOW + 3 * DAY).judge(Some(NOW), 1), Verdict::Repeat);
    }

    #[test]
    fn a_host_whose_clock_is_behind_is_a_reset_and_is_followed() {
        let mut o = after(NOW, false, NOW);
        let earlier = NOW - 3_600_000_000;
        assert_eq!(gap(o.judge(Some(earlier), 2)), "host_reset");
        assert_eq!(o.judge(Some(earlier + 1), 3), Verdict::New);
        assert_eq!(o.cursor(), Some(earlier + 1 - BACK_US));
    }

    #[test]
    fn one_wrong_time_does_not_move_the_cursor() {
        let mut o = after(NOW, false, NOW);
        assert_eq!(o.judge(Some(NOW), 1), Verdict::Repeat);
        let broken = (1 << 53) - 1;
        assert_eq!(o.judge(Some(broken), 2), Verdict::New);
        assert_eq!(o.newest_us(), NOW);
        assert_eq!(o.judge(Some(NOW + 5), 3), Verdict::New);
        assert_eq!(o.newest_us(), NOW + 5);
        assert_eq!(o.judge(Some(NOW + DAY), 4), Verdict::New);
        assert_eq!(o.newest_us(), NOW + 5, "a pause of a day, which the next event confirms");
        assert_eq!(o.judge(Some(NOW + DAY - 3), 5), Verdict::New);
        assert_eq!(o.newest_us(), NOW + DAY);
        assert_eq!(o.judge(None, 6), Verdict::New);
        assert_eq!(o.judge(None, 6), Verdict::Repeat);
        // The first one of all.
        let mut o = Overlap::new(0, Vec::new());
        for (id, time_us) in [(1, broken), (2, NOW), (3, NOW + 1)] {
            assert_eq!(o.judge(Some(time_us), id), Verdict::New);
        }
        assert_eq!(o.newest_us(), NOW + 1);
    }

    #[test]
    fn the_window_is_the_overlap_and_bounded() {
        let mut o = Overlap::new(0, Vec::new());
        for id in 0..10 {
            o.judge(Some(NOW + id * 1_000_000), id);
        }
        let ids: Vec<u64> = o.window().iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, [7, 8, 9]);
        for id in 0..MAX_WINDOW as u64 + 10 {
            o.judge(Some(NOW + 9_000_000), 100 + id);
        }
        assert_eq!(o.window().len(), MAX_WINDOW);
        assert_eq!((o.ids.len(), o.window.len()), (MAX_WINDOW, MAX_WINDOW));
    }

    /// The times of events in the order in which a host makes them: they rise, each but for so much that it is late, and one
    /// may be wrong or missing.
    fn times(latest: u64) -> impl Strategy<Value = Vec<Option<u64>>> {
        let step = prop_oneof![0..3u64, 0..400_000u64, 0..30_000_000u64, Just(3_000_000_000)];
        let wrong = prop_oneof![Just(None), (NOW + 10 * DAY..1 << 53).prop_map(Some)];
        let steps = prop::collection::vec((step, 0..=latest), 2..60);
        (steps, prop::option::of((any::<prop::sample::Index>(), wrong))).prop_map(|(steps, wrong)| {
            let mut now = NOW;
            let time = |(step, late): &(u64, u64)| {
                now += step;
                Some(now - late)
            };
            let mut times: Vec<Option<u64>> = steps.iter().map(time).collect();
            if let Some((place, wrong)) = wrong {
                let place = 1 + place.index(times.len() - 1);
                times[place] = wrong;
            }
            times
        })
    }

    /// What a connection is sent when the host has `made` events: those from the cursor on by their time, and then each as it
    /// is made. The host finds what has no time again whatever it is asked for.
    fn sent(times: &[Option<u64>], cursor: Option<u64>, made: usize) -> Vec<usize> {
        let mut list: Vec<usize> = match cursor {
            None => Vec::new(),
            Some(cursor) => (0..made).filter(|i| times[*i].is_none_or(|time| time >= cursor)).collect(),
        };
        list.sort_by_key(|i| times[*i]);
        list.extend(made..times.len());
        list
    }

    /// How the connections of one run end: each after so many messages, so many events are made until the next one, and the
    /// process may end with it and fall back to a position that is so many older than the newest.
    fn ends() -> impl Strategy<Value = Vec<(usize, usize, bool, usize)>> {
        prop::collection::vec((1..25usize, 0..20usize, any::<bool>(), 0..4usize), 0..30)
    }

    /// What is missing at the end. With `passing` no connection ends inside the overlap.
    fn missing(times: &[Option<u64>], ends: &[(usize, usize, bool, usize)], passing: bool) -> Vec<usize> {
        let mut o = Overlap::new(0, Vec::new());
        // Positions, and what was delivered up to each as the broker acknowledged it.
        let mut saved: Vec<(u64, Arc<Window>, HashSet<usize>)> = Vec::new();
        let mut delivered: HashSet<usize> = HashSet::new();
        let (mut crashed, mut made) = (false, 0);
        for (messages, more, crash, unsaved) in ends.iter().chain([&(usize::MAX, 0, false, 0)]) {
            let cursor = o.cursor();
            o.connected(cursor, true, NOW);
            let mut left = *messages;
            for i in sent(times, cursor, made) {
                made = made.max(i + 1);
                if o.judge(times[i], i as u64) != Verdict::Repeat {
                    assert!(delivered.insert(i) || crashed || times[i].is_none(), "{i} twice");
                    saved.push((o.newest_us(), o.window(), delivered.clone()));
                } else if passing && left == 1 {
                    continue;
                }
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            if left > 0 {
                o.through();
            }
            if *crash && !saved.is_empty() {
                crashed = true;
                // The first one is saved before anything is delivered.
                saved.truncate(saved.len().saturating_sub(*unsaved).max(1));
                let (newest, window, up_to) = saved[saved.len() - 1].clone();
                o = Overlap::new(newest, window.to_vec());
                delivered = up_to;
            }
            made = times.len().min(made + more);
        }
        (0..times.len()).filter(|i| !delivered.contains(i)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Connections that end anywhere lose nothing and repeat nothing; a process that ends anywhere, with a position that
        /// was saved at any time before, loses nothing.
        #[test]
        fn nothing_is_lost_whatever_ends(times in times(0), ends in ends()) {
            prop_assert_eq!(missing(&times, &ends, false), Vec::<usize>::new());
        }

        /// The same on a host whose events may be late, where connections get through the overlap.
        #[test]
        fn nothing_that_is_late_is_lost(times in times(900_000), ends in ends()) {
            prop_assert_eq!(missing(&times, &ends, true), Vec::<usize>::new());
        }
    }
}

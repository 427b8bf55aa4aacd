//! A made-up host answers the search, for thousands of seeded histories. A seed that fails is in the message.

use fastrand::Rng;

use super::*;

/// A host and its whims.
struct Made {
    rng: Rng,
    /// Everything that it ever had; what stands before `oldest` is gone.
    history: Vec<Event>,
    oldest: usize,
    /// It gives the event of the cursor itself, too.
    inclusive: bool,
    /// To a cursor in the future it sends what happens from now on.
    goes_live: bool,
    /// Events happen all the time.
    busy: bool,
    /// In a hundred: connections that end at once, and ones on which few events come in time.
    breaks: u32,
    slow: u32,
    /// History that goes away with each connection.
    forgets: usize,
    now_ms: i64,
}

impl Made {
    fn answer(&mut self, ask: Ask) -> Option<Vec<Event>> {
        if self.rng.u32(0..100) < self.breaks {
            return None;
        }
        let end = self.history.len();
        let newest = self.history.last().map_or(0, |event| event.seq);
        let cursor = match ask {
            Ask::Behind(seq) => seq,
            Ask::Live => newest,
        };
        let at = |seq: u64| self.history.partition_point(|event| event.seq < seq);
        let from = match ask {
            Ask::Live => end,
            Ask::Behind(seq) if seq > newest && !self.goes_live => return Some(Vec::new()),
            Ask::Behind(seq) if seq > newest => end,
            Ask::Behind(0) => self.oldest,
            Ask::Behind(seq) => at(seq + u64::from(!self.inclusive)).max(self.oldest),
        };
        if self.busy && (newest < cursor || from == end || self.rng.bool()) {
            self.happens();
        }
        let few = self.rng.u32(0..100) < self.slow;
        let most = if few { self.rng.usize(0..3) } else { SAMPLE };
        let events = self.history.iter().skip(from).take(most).copied().collect();
        self.oldest = (self.oldest + self.forgets).min(self.history.len().saturating_sub(1));
        Some(events)
    }

    fn happens(&mut self) {
        for _ in 0..self.rng.usize(1..12) {
            let seq = self.history.last().map_or(1, |event| event.seq + 1);
            self.now_ms += self.rng.i64(0..300);
            self.history.push(Event { seq, time_ms: self.now_ms });
        }
    }
}

fn search(since_ms: i64, host: &mut Made) -> Found {
    let mut seek = Seek::new(since_ms);
    let mut asked = 0;
    loop {
        match seek.next() {
            Next::Found(found) => {
                assert_eq!(found.connections, asked);
                return found;
            }
            Next::Ask(ask) => {
                asked += 1;
                assert!(asked <= MOST, "too many connections");
                match host.answer(ask) {
                    None => seek.answer(Answer::Broke),
                    Some(events) if events.is_empty() => seek.answer(Answer::Nothing),
                    Some(events) => seek.answer(Answer::Events(&events)),
                }
            }
        }
    }
}

/// Rising times, with holes in the seqs and in time.
fn history(rng: &mut Rng) -> Vec<Event> {
    let (seqs, times) = ([2, 60, 5_000, 1 << 30][rng.usize(0..4)], [1, 40, 2_000, 3_600_000][rng.usize(0..4)]);
    let mut event = Event { seq: rng.u64(0..3) * rng.u64(1..1 << 40), time_ms: 1_700_000_000_000 };
    let mut all = Vec::new();
    let most = [2, 12, 3_000][rng.usize(0..3)];
    for _ in 0..rng.usize(0..most) {
        event.seq += rng.u64(1..=seqs);
        event.time_ms += rng.i64(0..=times);
        if rng.u8(..) == 0 {
            event.seq += rng.u64(1..1 << 41);
            event.time_ms += rng.i64(0..10_000_000);
        }
        all.push(event);
    }
    all
}

/// A time before, inside or behind the history.
fn some_time(rng: &mut Rng, history: &[Event]) -> i64 {
    let (first, last) = match history {
        [] => (0, 0),
        [first, .., last] => (first.time_ms, last.time_ms),
        [one] => (one.time_ms, one.time_ms),
    };
    match rng.u8(0..8) {
        0 => first - rng.i64(0..5_000),
        1 => last + rng.i64(0..5_000),
        2 if !history.is_empty() => history[rng.usize(0..history.len())].time_ms,
        _ => rng.i64(first..=last),
    }
}

fn made(rng: &mut Rng, history: Vec<Event>, newest: Option<&Event>) -> Made {
    let now_ms = newest.map_or(1_700_000_000_000, |event| event.time_ms) + rng.i64(0..10_000);
    Made {
        history,
        oldest: 0,
        inclusive: rng.bool(),
        goes_live: rng.bool(),
        busy: rng.bool(),
        breaks: 0,
        slow: 0,
        forgets: 0,
        now_ms,
        rng: rng.fork(),
    }
}

#[test]
fn a_well_kept_history_is_met_to_the_event_or_the_second() {
    let (mut exact, mut near, mut most) = (0, 0, 0);
    for seed in 0..6_000 {
        let mut rng = Rng::with_seed(seed);
        let history = history(&mut rng);
        let since = some_time(&mut rng, &history);
        let mut host = made(&mut rng, history.clone(), history.last());
        let found = search(since, &mut host);
        let at = host.history.partition_point(|event| event.time_ms < since);
        let (before, behind) = (at.checked_sub(1).map(|i| host.history[i]), host.history.get(at));
        let says = format!("seed {seed}: {found:?}, {before:?}, {behind:?}");
        assert!(behind.is_none_or(|event| found.seq < event.seq), "passed over: {says}");
        most = most.max(found.connections);
        match (found.place, before) {
            (Place::Empty, _) => assert!(host.history.iter().all(|event| event.time_ms >= since), "{says}"),
            (Place::Oldest(ms), None) => {
                assert!(behind.is_some_and(|first| (found.seq + 1, ms) == (first.seq, first.time_ms)), "{says}");
            }
            (Place::Behind(ms) | Place::Newest(ms), Some(event)) => {
                let is_exact = (found.seq, ms) == (event.seq, event.time_ms);
                let is_wide = host.history[host.history.len() - 1].seq - host.history[0].seq > 1 << 30;
                assert!(is_exact || (0..=1_000).contains(&(since - ms)) || found.connections == MOST, "{says}");
                assert!(found.connections < MOST || is_wide, "{says}");
                if is_exact {
                    exact += 1
                } else {
                    near += 1
                }
                let is_newest = matches!(found.place, Place::Newest(_));
                assert!(!is_newest || behind.is_none() || host.busy, "{says}");
            }
            _ => panic!("{says}"),
        }
    }
    assert!(exact > 1_000 && near > 100, "{exact} exact, {near} near, {most} connections");
}

#[test]
fn nothing_is_passed_over_whatever_the_host_does() {
    let mut exhausted = 0;
    for seed in 0..12_000 {
        let mut rng = Rng::with_seed(seed);
        let mut history = history(&mut rng);
        // Servers whose clocks differ by a little, and here and there one whose clock is anywhere.
        let jitter = [0, 50, 60_000][rng.usize(0..3)];
        let (true_times, mut last) = (history.clone(), 0);
        for (i, event) in history.iter_mut().enumerate() {
            event.time_ms += rng.i64(-jitter..=jitter);
            if i >= last + SAMPLE && rng.u8(0..20) == 0 {
                last = i;
                event.time_ms = [0, rng.i64(0..4_000_000_000_000)][rng.usize(0..2)];
            }
        }
        let since = some_time(&mut rng, &true_times);
        let mut host = made(&mut rng, history, true_times.last());
        host.breaks = [0, 0, 20, 90, 100][rng.usize(0..5)];
        host.slow = [0, 0, 50][rng.usize(0..3)];
        host.forgets = [0, 0, 1, 100][rng.usize(0..4)];
        let found = search(since, &mut host);
        exhausted += u32::from(found.connections == MOST);
        for (had, event) in true_times.iter().zip(&host.history).skip(host.oldest) {
            let is_late = had.time_ms >= since + 2 * jitter && event.time_ms >= since;
            assert!(!is_late || event.seq > found.seq, "seed {seed}: {found:?} passes over {event:?}");
        }
    }
    assert!(exhausted > 0);
}

#[test]
fn a_relay_of_three_days_takes_less_than_thirty_connections() {
    // 300 a second, of which every third is seen; too many for a list.
    let begin = 1_700_000_000_000;
    let time_of = |seq: u64| begin + (seq as i64 - 9_000_000_000) * 10 / 3;
    let (oldest, newest) = (9_000_000_000, 9_077_760_000);
    for since in [begin + 1_000, begin + 3_600_000 * 24 + 7, begin + 3_600_000 * 71] {
        let mut seek = Seek::new(since);
        let found = loop {
            let behind = match seek.next() {
                Next::Found(found) => break found,
                Next::Ask(Ask::Live) => newest,
                Next::Ask(Ask::Behind(seq)) => seq.max(oldest - 1),
            };
            let events: Vec<Event> = (behind + 1..)
                .filter(|seq| seq % 3 == 0)
                .take(SAMPLE)
                .map(|seq| Event { seq, time_ms: time_of(seq) })
                .collect();
            seek.answer(Answer::Events(&events));
        };
        assert!(found.connections < 30, "{found:?}");
        assert!((0..=1_000).contains(&(since - time_of(found.seq))), "{found:?}");
    }
}

#[test]
fn one_broken_seq_leads_nowhere() {
    let broken = LARGEST;
    let event = |seq: u64| Event { seq, time_ms: seq as i64 * 1_000 };
    let mut seek = Seek::new(500_000);
    assert_eq!(seek.next(), Next::Ask(Ask::Behind(0)));
    seek.answer(Answer::Events(&[event(1), Event { seq: broken, time_ms: 0 }, event(2), event(3)]));
    assert_eq!(seek.next(), Next::Ask(Ask::Live));
    seek.answer(Answer::Events(&[Event { seq: broken, time_ms: 0 }, event(901)]));
    assert_eq!(seek.next(), Next::Ask(Ask::Behind(2 + (901 - 2) / 2)));
}

#[test]
fn a_wrong_time_just_before_the_one_that_is_looked_for_ends_nothing() {
    let times = [100_000, 100_001, 499_500, 100_003];
    let events: Vec<Event> = (100..).zip(times).map(|(seq, time_ms)| Event { seq, time_ms }).collect();
    let mut seek = Seek::new(500_000);
    seek.answer(Answer::Events(&events));
    assert_eq!(seek.next(), Next::Ask(Ask::Live));
}

#[test]
fn a_live_event_below_the_oldest_is_no_end() {
    let events: Vec<Event> = (100..109).map(|seq| Event { seq, time_ms: seq as i64 * 1_000 }).collect();
    let mut seek = Seek::new(500_000);
    seek.answer(Answer::Events(&events[..2]));
    seek.answer(Answer::Events(&[Event { seq: 3, time_ms: 600_000 }]));
    assert_eq!(seek.next(), Next::Ask(Ask::Behind(100)));
    seek.answer(Answer::Events(&events[1..]));
    assert_eq!(seek.next(), Next::Ask(Ask::Behind(107 + FIRST_STEP)), "the end is not known");
}

#[test]
fn a_place_where_each_connection_breaks_counts_as_one_without_events() {
    let mut seek = Seek::new(500_000);
    seek.answer(Answer::Events(&[Event { seq: 100, time_ms: 100_000 }, Event { seq: 200, time_ms: 200_000 }]));
    seek.answer(Answer::Events(&[Event { seq: 900, time_ms: 900_000 }]));
    for _ in 0..8 {
        assert_eq!(seek.next(), Next::Ask(Ask::Behind(500)));
        seek.answer(Answer::Broke);
    }
    assert_eq!(seek.next(), Next::Ask(Ask::Behind(300)));
    let mut away = Seek::new(500_000);
    for _ in 0..8 {
        assert_eq!(away.next(), Next::Ask(Ask::Behind(0)));
        away.answer(Answer::Broke);
    }
    assert_eq!(away.next(), Next::Found(Found { seq: 0, place: Place::Empty, connections: 8 }));
}

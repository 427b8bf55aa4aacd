//! Whether the process does its job: who is connected, and whether deliveries come. Every thread reports its part here, and
//! `/readyz`, the log and systemd's watchdog ask. It owns only what was reported, behind one lock that nobody holds for long,
//! and knows none of those who report.

mod cause;
pub mod examples;
mod source;
mod verdict;

pub use cause::{Cause, human};
pub use source::{InFlight, Stand};

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use crate::clock;
use cause::note;
use examples::Examples;
use source::Source;

/// What the threads report, and the answers to those who ask.
#[derive(Default)]
pub struct Health {
    state: Mutex<State>,
    /// The last dead letters and gaps.
    pub examples: Examples,
}

struct State {
    sources: Vec<Source>,
    /// Each of the sources by itself matters little: events flow while most of them give some.
    is_many: bool,
    /// Why the sink takes nothing, and since when.
    sink: Option<Cause>,
    oldest_unknown: Option<Instant>,
    oldest_undecoded: Option<Instant>,
    /// By source: when the first and the last came of the unreadable frames behind the last readable one.
    unreadable: Vec<Option<(Instant, Instant)>>,
    turns: u64,
    /// By source: positions that cannot be saved.
    not_saved: BTreeMap<usize, NotSaved>,
    /// Since when a save is under way.
    saving: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        State {
            sources: Vec::new(),
            is_many: false,
            sink: Some(Cause::since("connecting", Instant::now())),
            oldest_unknown: None,
            oldest_undecoded: None,
            unreadable: Vec::new(),
            turns: 0,
            not_saved: BTreeMap::new(),
            saving: None,
        }
    }
}

struct NotSaved {
    since: Instant,
    why: String,
    /// It is the first one: nothing is delivered before it is saved.
    first: bool,
}

impl Health {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Adds a source, in the order of their indices. `is_live`: the age of its events at delivery is its lag.
    pub fn add_source(&self, name: &str, is_live: bool) {
        let away = Some(Cause::since("connecting", Instant::now()));
        self.with(|s| {
            s.sources.push(Source {
                name: name.into(),
                away,
                is_live,
                silent: None,
                in_flight: None,
                delivered: None,
                frames: 0,
            })
        });
    }

    /// There are so many sources that events flow while most of them give some.
    pub fn expect_many(&self) {
        self.with(|s| s.is_many = true);
    }

    /// Whether each of the sources by itself matters little.
    pub fn is_of_many(&self) -> bool {
        self.with(|s| s.is_many)
    }

    /// The names of the sources.
    pub fn sources(&self) -> Vec<String> {
        self.with(|s| s.sources.iter().map(|source| source.name.clone()).collect())
    }

    /// How each source stands, in the order of their indices.
    pub fn stands(&self) -> Vec<Stand> {
        let (now, now_ms) = (Instant::now(), clock::now_ms());
        self.with(|s| s.sources.iter().map(|source| source.stand(now, now_ms)).collect())
    }

    /// Source `index` is connected, or why not.
    pub fn source(&self, index: usize, state: Result<(), String>) {
        self.with(|s| note(&mut s.sources[index].away, state));
    }

    /// Source `index`, whose host was busy, has sent nothing since then; `None`: it does again.
    pub fn silent(&self, index: usize, since: Option<Instant>) {
        self.with(|s| s.sources.get_mut(index).map(|source| source.silent = since));
    }

    /// The sink takes records, or why not.
    pub fn sink(&self, state: Result<(), String>) {
        self.with(|s| note(&mut s.sink, state));
    }

    /// The oldest batch of source `index` that is not acknowledged.
    pub fn in_flight(&self, index: usize, oldest: Option<InFlight>) {
        self.with(|s| s.sources.get_mut(index).map(|source| source.in_flight = oldest));
    }

    /// A batch of source `index` was acknowledged, so many seconds after the time of its last event.
    pub fn delivered(&self, index: usize, lag: f64) {
        self.with(|s| s.sources.get_mut(index).map(|source| source.delivered = Some((lag, Instant::now()))));
    }

    /// The lag of the last delivery of source `index`; `None` before the first.
    pub fn delivered_lag(&self, index: usize) -> Option<f64> {
        self.with(|s| s.sources.get(index)?.delivered.map(|(lag, _)| lag))
    }

    /// By source, how many seconds it is behind: at the last delivery, and more while nothing is delivered. `None` where
    /// nothing is known yet.
    pub fn lags(&self) -> Vec<Option<f64>> {
        let (now, now_ms) = (Instant::now(), clock::now_ms());
        self.with(|s| s.sources.iter().map(|source| source.lag(now, now_ms)).collect())
    }

    /// When the oldest batch that waits for what its accounts are was read.
    pub fn enriching_since(&self, oldest: Option<Instant>) {
        self.with(|s| s.oldest_unknown = oldest);
    }

    /// Since when the next batch in order has been missing, although its frames were handed to the workers.
    pub fn undecoded_since(&self, oldest: Option<Instant>) {
        self.with(|s| s.oldest_undecoded = oldest);
    }

    /// Frames of source `index` were decoded, so many of them not readable.
    pub fn decoded(&self, index: usize, frames: usize, unreadable: usize) {
        self.decoded_at(Instant::now(), index, frames, unreadable);
    }

    fn decoded_at(&self, now: Instant, index: usize, frames: usize, unreadable: usize) {
        if frames == 0 {
            return;
        }
        self.with(|s| {
            if s.unreadable.len() <= index {
                s.unreadable.resize(index + 1, None);
            }
            s.sources.get_mut(index).into_iter().for_each(|source| source.frames += frames as u64);
            let place = &mut s.unreadable[index];
            *place = (unreadable == frames).then(|| (place.map_or(now, |(first, _)| first), now));
        });
    }

    /// The position of source `index` cannot be saved, and why. `first`: nothing of it is delivered before.
    pub fn not_saved(&self, index: usize, why: &str, first: bool) {
        self.with(|s| {
            let since = s.not_saved.get(&index).map_or_else(Instant::now, |before| before.since);
            s.not_saved.insert(index, NotSaved { since, why: why.into(), first });
        });
    }

    /// It is saved.
    pub fn saved(&self, index: usize) {
        self.with(|s| s.not_saved.remove(&index));
    }

    /// A save has begun, or is over.
    pub fn saving(&self, since: Option<Instant>) {
        self.with(|s| s.saving = since);
    }

    /// The producer has come round: it hangs nowhere, whether or not anything can be delivered.
    pub fn turn(&self) {
        self.with(|s| s.turns += 1);
    }

    /// How often it has.
    pub fn turns(&self) -> u64 {
        self.with(|s| s.turns)
    }

    /// `Err` with the reasons when events do not flow.
    pub fn ready(&self) -> Result<(), String> {
        match self.causes() {
            causes if causes.is_empty() => Ok(()),
            causes => Err(causes.iter().map(Cause::to_string).collect::<Vec<_>>().join("; ")),
        }
    }

    /// Why events do not flow, the nearest cause first. None when they do.
    pub fn causes(&self) -> Vec<Cause> {
        self.with(|s| s.causes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::verdict::*;
    use super::*;

    fn well() -> Health {
        let h = Health::default();
        h.add_source("a", true);
        h.add_source("b", true);
        h.source(0, Ok(()));
        h.source(1, Ok(()));
        h.sink(Ok(()));
        assert_eq!(h.ready(), Ok(()));
        h
    }

    #[test]
    fn a_worker_that_hangs_is_said() {
        let h = well();
        h.undecoded_since(Instant::now().checked_sub(UNDECODED_AFTER / 2));
        assert_eq!(h.ready(), Ok(()));
        h.undecoded_since(Instant::now().checked_sub(UNDECODED_AFTER * 2));
        let why = h.ready().unwrap_err();
        assert!(why.contains("waited 20 s to be decoded"), "{why}");
        // The enricher holds it: it says so itself.
        h.enriching_since(Instant::now().checked_sub(UNDECODED_AFTER * 3));
        let why = h.ready().unwrap_err();
        assert!(why.contains("directory") && !why.contains("decoded"), "{why}");
        h.enriching_since(None);
        h.undecoded_since(None);
        assert_eq!(h.ready(), Ok(()));
    }

    #[test]
    fn of_many_hosts_most_count_and_one_is_named() {
        let h = Health::default();
        h.expect_many();
        h.sink(Ok(()));
        for host in ["a", "b", "c", "d", "e"] {
            h.add_source(host, true);
        }
        for index in 0..3 {
            h.source(index, Ok(()));
        }
        assert_eq!(h.ready(), Ok(()), "two of five are away");
        h.silent(1, Instant::now().checked_sub(UNDECODED_AFTER));
        let why = h.ready().unwrap_err();
        assert!(why.starts_with("3 of 5 hosts give nothing: no event of b for 10 s"), "{why}");
        h.silent(1, None);
        for index in 0..5 {
            h.not_saved(index, &format!("{index}.json: cannot be saved: the disk is full"), true);
        }
        let why = h.ready().unwrap_err();
        assert!(why.contains("2.json") && !why.contains("3.json") && why.contains("2 more positions"), "{why}");
    }

    #[test]
    fn a_busy_host_that_is_silent_is_said() {
        let h = well();
        h.silent(1, Instant::now().checked_sub(UNDECODED_AFTER * 2));
        let why = h.ready().unwrap_err();
        assert!(why.contains("no event of b for 20 s"), "{why}");
        h.silent(1, None);
        assert_eq!(h.ready(), Ok(()));
    }

    #[test]
    fn a_host_of_which_no_frame_is_readable_is_said() {
        let h = well();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        h.decoded_at(at(0), 1, 5, 5);
        h.decoded_at(at(59), 1, 1, 1);
        h.decoded_at(at(59), 1, 0, 0);
        assert_eq!(h.ready(), Ok(()));
        h.decoded_at(at(61), 1, 1, 1);
        h.decoded_at(at(61), 0, 9, 0);
        let why = h.ready().unwrap_err();
        assert!(why.contains("no frame of b was readable for 61 s"), "{why}");
        h.decoded_at(at(62), 1, 7, 6);
        assert_eq!(h.ready(), Ok(()), "one was readable");
        h.decoded_at(at(63), 1, 7, 7);
        assert_eq!(h.ready(), Ok(()));
    }

    #[test]
    fn says_each_reason() {
        let h = Health::default();
        h.add_source("a", true);
        h.add_source("b", true);
        assert!(h.ready().is_err());
        h.source(0, Ok(()));
        h.source(1, Ok(()));
        h.sink(Ok(()));
        assert_eq!(h.ready(), Ok(()));
        h.source(1, Err("refused".into()));
        h.in_flight(1, Some(InFlight { received: ago(STUCK_AFTER * 2), time_ms: 0 }));
        let why = h.ready().unwrap_err();
        assert!(why.contains("b: refused") && why.contains("waits for 30 s"), "{why}");
        // The cause instead of what follows from it.
        h.sink(Err("b:9092: connection refused".into()));
        let why = h.ready().unwrap_err();
        assert!(why.ends_with("output: b:9092: connection refused"), "{why}");
    }

    fn ago(age: Duration) -> Instant {
        Instant::now().checked_sub(age).expect("the machine runs for longer")
    }

    #[test]
    fn a_cause_says_since_when_whatever_its_words_become() {
        let h = well();
        h.sink(Err("connection refused".into()));
        h.with(|s| s.sink.as_mut().expect("there").since = Some(ago(Duration::from_secs(25))));
        h.sink(Err("timed out".into()));
        assert_eq!(h.ready(), Err("output: timed out (for 25 s)".into()));
        h.sink(Ok(()));
        h.sink(Err("again".into()));
        assert_eq!(h.ready(), Err("output: again".into()));
    }

    #[test]
    fn the_lag_grows_while_nothing_is_delivered() {
        let h = well();
        let about = |lag: Option<f64>, seconds: f64| lag.is_some_and(|lag| (lag - seconds).abs() < 0.5);
        assert_eq!(h.lags(), [None, None]);
        h.delivered(0, 0.2);
        assert!(about(h.lags()[0], 0.2));
        // In flight for a moment, as always.
        h.in_flight(0, Some(InFlight { received: Instant::now(), time_ms: clock::now_ms() - 300 }));
        assert!(about(h.lags()[0], 0.2));
        // The broker is away: the age of the oldest event.
        h.in_flight(0, Some(InFlight { received: ago(Duration::from_secs(30)), time_ms: clock::now_ms() - 40_000 }));
        assert!(about(h.lags()[0], 40.0), "{:?}", h.lags());
        h.in_flight(0, Some(InFlight { received: ago(Duration::from_secs(30)), time_ms: 0 }));
        assert!(about(h.lags()[0], 30.0), "{:?}", h.lags());
        h.in_flight(0, None);
        // The host is away. Before that it was quiet: an hour without events is no lag.
        h.with(|s| s.sources[0].delivered = Some((0.2, ago(Duration::from_secs(3600)))));
        h.source(0, Err("refused".into()));
        h.with(|s| s.sources[0].away.as_mut().expect("away").since = Some(ago(Duration::from_secs(20))));
        assert!(about(h.lags()[0], 20.2), "{:?}", h.lags());
        h.source(0, Ok(()));
        assert!(about(h.lags()[0], 0.2));
        assert_eq!(h.lags()[1], None, "of the other nothing is known");
    }

    #[test]
    fn positions_that_cannot_be_saved() {
        let h = Health::default();
        h.sink(Ok(()));
        h.not_saved(0, "x.json: no space", false);
        assert_eq!(h.ready(), Ok(()), "a moment is nothing");
        h.with(|s| {
            for not_saved in s.not_saved.values_mut() {
                not_saved.since = Instant::now().checked_sub(STUCK_AFTER * 2).expect("a clock");
            }
        });
        h.not_saved(0, "x.json: no space left", false);
        let why = h.ready().unwrap_err();
        assert!(why.contains("x.json: no space left (for 30 s"), "{why}");
        h.saved(0);
        assert_eq!(h.ready(), Ok(()));
        h.not_saved(1, "y.json: read-only", true);
        assert!(h.ready().unwrap_err().contains("y.json: read-only (nothing"));
        h.saved(1);
        h.saving(Instant::now().checked_sub(STUCK_AFTER * 2));
        assert!(h.ready().unwrap_err().contains("hangs"));
        h.saving(None);
        assert_eq!(h.ready(), Ok(()));
    }
}

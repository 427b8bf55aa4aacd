//! Whether the process does its job, for `/readyz` and the log: who is connected, and whether deliveries come.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::atproto::time;

/// A batch older than this, unacknowledged, means that nothing is delivered.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// Frames that have not become a batch for so long: decoding takes milliseconds.
const UNDECODED_AFTER: Duration = Duration::from_secs(10);
/// Where no frame of a host was readable for so long, it is not a single bad one.
const UNREADABLE_AFTER: Duration = Duration::from_secs(60);

/// An event in flight for longer than this does not flow: its age is the lag.
const FLOWS_WITHIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Health {
    state: Mutex<State>,
}

struct State {
    sources: Vec<Source>,
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

struct Source {
    name: String,
    is_live: bool,
    /// Why it is not connected, and since when.
    away: Option<Cause>,
    /// Since when it has sent nothing, where it was busy before.
    silent: Option<Instant>,
    in_flight: Option<InFlight>,
    /// The lag in seconds at the last delivery, and when that was.
    delivered: Option<(f64, Instant)>,
}

/// The oldest batch of a source that is not acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// When it was read.
    pub received: Instant,
    /// The time of its last event, in milliseconds since 1970; 0 when unknown.
    pub time_ms: i64,
}

impl Source {
    /// Seconds by which what is delivered is behind. It grows while nothing is.
    fn lag(&self, now: Instant, now_ms: i64) -> Option<f64> {
        if !self.is_live {
            return None;
        }
        let delivered = self.delivered.map(|(lag, _)| lag);
        let waits = self.in_flight.and_then(|oldest| {
            let age = now.duration_since(oldest.received);
            let lag = if oldest.time_ms == 0 { age.as_secs_f64() } else { (now_ms - oldest.time_ms) as f64 / 1000.0 };
            (age > FLOWS_WITHIN).then_some(lag)
        });
        let away = self.away.as_ref().and_then(|away| away.since);
        let away = away.into_iter().chain(self.silent).min().map(|since| {
            // What happened meanwhile is not known: at least the time since then.
            let (lag, at) = self.delivered.unwrap_or((0.0, since));
            lag + now.duration_since(since.max(at)).as_secs_f64()
        });
        [delivered, waits, away].into_iter().flatten().reduce(f64::max)
    }
}

/// Why events do not flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub what: String,
    pub since: Option<Instant>,
}

impl Cause {
    fn since(what: &str, since: Instant) -> Self {
        Cause { what: what.into(), since: Some(since) }
    }

    /// It speaks of a time itself.
    fn now(what: String) -> Self {
        Cause { what, since: None }
    }

    /// The same seen from farther away.
    fn of(&self, what: &str) -> Self {
        Cause { what: format!("{what}: {}", self.what), since: self.since }
    }

    /// ` for 25 s`, or nothing for what is new.
    pub fn age(&self) -> String {
        match self.since.map(|at| at.elapsed().as_secs_f64()) {
            Some(age @ 1.0..120.0) => format!("for {} s", age.floor()),
            Some(age @ 120.0..) => format!("for {}", human(age)),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.age() {
            age if age.is_empty() => Ok(()),
            age => write!(f, " ({age})"),
        }
    }
}

/// Seconds as people say them.
pub fn human(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

struct NotSaved {
    since: Instant,
    why: String,
    /// It is the first one: nothing is delivered before it is saved.
    first: bool,
}

/// Notes a cause. It began when the first one did, whatever its words are now.
fn note(place: &mut Option<Cause>, state: Result<(), String>) {
    *place = state.err().map(|what| {
        let since = place.as_ref().and_then(|before| before.since).unwrap_or_else(Instant::now);
        Cause { what, since: Some(since) }
    });
}

impl Health {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Adds a source, in the order of their indices. `is_live`: the age of its events at delivery is its lag.
    pub fn add_source(&self, name: &str, is_live: bool) {
        let away = Some(Cause::since("connecting", Instant::now()));
        self.with(|s| {
            s.sources.push(Source { name: name.into(), away, is_live, silent: None, in_flight: None, delivered: None })
        });
    }

    /// The names of the sources.
    pub fn sources(&self) -> Vec<String> {
        self.with(|s| s.sources.iter().map(|source| source.name.clone()).collect())
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
        let (now, now_ms) = (Instant::now(), time::now_ms());
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
        self.with(|s| {
            let mut causes: Vec<Cause> = s
                .sources
                .iter()
                .filter_map(|s| s.away.as_ref().map(|away| away.of(&format!("not connected to {}", s.name))))
                .chain(s.sink.as_ref().map(|why| why.of("output")))
                .collect();
            let oldest = s.sources.iter().filter_map(|source| source.in_flight).map(|oldest| oldest.received).min();
            // Where the sink says why, this is only what follows from it.
            if let Some(age) = oldest.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER && s.sink.is_none()) {
                causes.push(Cause::now(format!(
                    "nothing delivered: the oldest event in flight waits for {} s",
                    age.as_secs()
                )));
            }
            if let Some(age) = s.oldest_unknown.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
                causes.push(Cause::now(format!(
                    "nothing delivered: the oldest event waits for {} s for a directory (--metadata-required, --metadata-timeout)",
                    age.as_secs()
                )));
            }
            // A batch that waits for a directory is decoded.
            let waits = |age: &Duration| s.oldest_unknown.is_some_and(|at| at.elapsed() >= *age);
            let undecoded = s.oldest_undecoded.map(|at| at.elapsed());
            if let Some(age) = undecoded.filter(|age| *age > UNDECODED_AFTER && !waits(age)) {
                causes.push(Cause::now(format!(
                    "nothing delivered: the oldest frames have waited {} s to be decoded: a worker hangs or has no CPU; restart atkafka if it stays so",
                    age.as_secs()
                )));
            }
            for source in &s.sources {
                if let Some(since) = source.silent {
                    causes.push(Cause::now(format!(
                        "no event of {} for {} s, and over one a second before",
                        source.name,
                        since.elapsed().as_secs()
                    )));
                }
            }
            for (i, unreadable) in s.unreadable.iter().enumerate() {
                if let Some(age) = unreadable.map(|(first, last)| last - first).filter(|age| *age >= UNREADABLE_AFTER) {
                    causes.push(Cause::now(format!(
                        "no frame of {} was readable for {} s: is it a relay or PDS? The dead letters say what is wrong",
                        s.sources.get(i).map_or("a host", |source| source.name.as_str()),
                        age.as_secs()
                    )));
                }
            }
            for NotSaved { since, why, first } in s.not_saved.values() {
                if *first {
                    causes.push(Cause::now(format!("{why} (nothing of this host is delivered until its first position is saved)")));
                } else if since.elapsed() > STUCK_AFTER {
                    causes.push(Cause::now(format!("{why} (for {} s: a restart would repeat the events since)", since.elapsed().as_secs())));
                }
            }
            if let Some(age) = s.saving.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
                causes.push(Cause::now(format!("the disk of --state-dir hangs: a save has taken {} s so far", age.as_secs())));
            }
            causes
        })
    }
}

#[cfg(test)]
mod tests {
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
        h.in_flight(0, Some(InFlight { received: Instant::now(), time_ms: time::now_ms() - 300 }));
        assert!(about(h.lags()[0], 0.2));
        // The broker is away: the age of the oldest event.
        h.in_flight(0, Some(InFlight { received: ago(Duration::from_secs(30)), time_ms: time::now_ms() - 40_000 }));
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
    fn seconds_as_people_say_them() {
        let said = [0.25, 119.0, 300.0, 10_800.0, 259_200.0].map(human);
        assert_eq!(said, ["0.2 s", "119.0 s", "5.0 min", "3.0 h", "3.0 days"]);
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

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
    /// Another instance works, and this one is ready to take over.
    stands_by: bool,
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
            stands_by: false,
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
        // Whoever waits to take over is not behind.
        self.with(|s| s.sources.iter().map(|source| source.lag(now, now_ms).filter(|_| !s.stands_by)).collect())
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

    /// Another instance works and this one waits to take over, or not any more. Whether it waited before.
    pub fn stands_by(&self, stands_by: bool) -> bool {
        self.with(|s| {
            if stands_by || s.stands_by {
                // Nobody has asked the sources for anything yet.
                let connecting = Cause::since("connecting", Instant::now());
                s.sources.iter_mut().for_each(|source| source.away = Some(connecting.clone()));
                s.sink = Some(connecting);
            }
            std::mem::replace(&mut s.stands_by, stands_by)
        })
    }

    /// Whether another instance works, and this one is ready to take over.
    pub fn is_standby(&self) -> bool {
        self.with(|s| s.stands_by)
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
mod tests;

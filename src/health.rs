//! Whether the process does its job, for `/readyz` and the log: who is connected, and whether deliveries come.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A batch older than this, unacknowledged, means that nothing is delivered.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// Frames that have not become a batch for so long: decoding takes milliseconds.
const UNDECODED_AFTER: Duration = Duration::from_secs(10);
/// Where no frame of a host was readable for so long, it is not a single bad one.
const UNREADABLE_AFTER: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By source: its name, and why it is not connected.
    sources: Vec<(String, Result<(), String>)>,
    sink: Option<Result<(), String>>,
    oldest_in_flight: Option<Instant>,
    oldest_unknown: Option<Instant>,
    oldest_undecoded: Option<Instant>,
    /// By source: when the first and the last came of the unreadable frames behind the last readable one.
    unreadable: Vec<Option<(Instant, Instant)>>,
    /// By source: since when a host that was busy has sent nothing.
    silent: BTreeMap<usize, Instant>,
    turns: u64,
    /// By source: positions that cannot be saved.
    not_saved: BTreeMap<usize, NotSaved>,
    /// Since when a save is under way.
    saving: Option<Instant>,
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

    /// Adds a source, in the order of their indices.
    pub fn add_source(&self, name: &str) {
        self.with(|s| s.sources.push((name.into(), Err("connecting".into()))));
    }

    /// Source `index` is connected, or why not.
    pub fn source(&self, index: usize, state: Result<(), String>) {
        self.with(|s| s.sources[index].1 = state);
    }

    /// Source `index`, whose host was busy, has sent nothing since then; `None`: it does again.
    pub fn silent(&self, index: usize, since: Option<Instant>) {
        self.with(|s| match since {
            Some(since) => drop(s.silent.insert(index, since)),
            None => drop(s.silent.remove(&index)),
        });
    }

    /// The sink takes records, or why not.
    pub fn sink(&self, state: Result<(), String>) {
        self.with(|s| s.sink = Some(state));
    }

    /// When the oldest batch that is not acknowledged was read.
    pub fn in_flight_since(&self, oldest: Option<Instant>) {
        self.with(|s| s.oldest_in_flight = oldest);
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
        self.with(|s| {
            let mut reasons: Vec<String> = s
                .sources
                .iter()
                .filter_map(|(name, state)| state.as_ref().err().map(|e| format!("not connected to {name}: {e}")))
                .collect();
            match &s.sink {
                None => reasons.push("output: connecting".into()),
                Some(Err(e)) => reasons.push(format!("output: {e}")),
                Some(Ok(())) => {}
            }
            if let Some(age) = s.oldest_in_flight.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
                reasons.push(format!("nothing delivered: the oldest event in flight waits for {} s", age.as_secs()));
            }
            if let Some(age) = s.oldest_unknown.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
                reasons.push(format!(
                    "nothing delivered: the oldest event waits for {} s for a directory (--metadata-required, --metadata-timeout)",
                    age.as_secs()
                ));
            }
            // A batch that waits for a directory is decoded.
            let waits = |age: &Duration| s.oldest_unknown.is_some_and(|at| at.elapsed() >= *age);
            let undecoded = s.oldest_undecoded.map(|at| at.elapsed());
            if let Some(age) = undecoded.filter(|age| *age > UNDECODED_AFTER && !waits(age)) {
                reasons.push(format!(
                    "nothing delivered: the oldest frames have waited {} s to be decoded: a worker hangs or has no CPU; restart atkafka if it stays so",
                    age.as_secs()
                ));
            }
            for (i, since) in &s.silent {
                reasons.push(format!(
                    "no event of {} for {} s, and over one a second before",
                    s.sources.get(*i).map_or("a host", |(name, _)| name),
                    since.elapsed().as_secs()
                ));
            }
            for (i, unreadable) in s.unreadable.iter().enumerate() {
                if let Some(age) = unreadable.map(|(first, last)| last - first).filter(|age| *age >= UNREADABLE_AFTER) {
                    reasons.push(format!(
                        "no frame of {} was readable for {} s: is it a relay or PDS? The dead letters say what is wrong",
                        s.sources.get(i).map_or("a host", |(name, _)| name),
                        age.as_secs()
                    ));
                }
            }
            for NotSaved { since, why, first } in s.not_saved.values() {
                if *first {
                    reasons.push(format!("{why} (nothing of this host is delivered until its first position is saved)"));
                } else if since.elapsed() > STUCK_AFTER {
                    reasons.push(format!("{why} (for {} s: a restart would repeat the events since)", since.elapsed().as_secs()));
                }
            }
            if let Some(age) = s.saving.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
                reasons.push(format!("the disk of --state-dir hangs: a save has taken {} s so far", age.as_secs()));
            }
            if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Health {
        let h = Health::default();
        h.add_source("a");
        h.add_source("b");
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
        h.add_source("a");
        h.add_source("b");
        assert!(h.ready().is_err());
        h.source(0, Ok(()));
        h.source(1, Ok(()));
        h.sink(Ok(()));
        assert_eq!(h.ready(), Ok(()));
        h.source(1, Err("refused".into()));
        h.in_flight_since(Instant::now().checked_sub(STUCK_AFTER * 2));
        let why = h.ready().unwrap_err();
        assert!(why.contains("b: refused") && why.contains("waits for 30 s"), "{why}");
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

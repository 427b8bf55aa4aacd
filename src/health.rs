//! Whether the process does its job, for `/readyz` and the log: who is connected, and whether deliveries come.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A batch older than this, unacknowledged, means that nothing is delivered.
const STUCK_AFTER: Duration = Duration::from_secs(15);

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
    turns: u64,
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
            if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

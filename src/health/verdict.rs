//! What the state of the process means: the reasons why events do not flow. Where one follows from another, only the nearest
//! cause is said. Reads the state, and changes nothing.

use std::time::Duration;

use super::{Cause, NotSaved, State};

/// A batch older than this, unacknowledged, means that nothing is delivered.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(15);
/// Frames that have not become a batch for so long: decoding takes milliseconds.
pub(super) const UNDECODED_AFTER: Duration = Duration::from_secs(10);
/// Where no frame of a host was readable for so long, it is not a single bad one.
pub(super) const UNREADABLE_AFTER: Duration = Duration::from_secs(60);

impl State {
    /// The nearest cause first. None when events flow.
    pub(super) fn causes(&self) -> Vec<Cause> {
        let mut causes: Vec<Cause> = self
            .sources
            .iter()
            .filter_map(|s| s.away.as_ref().map(|away| away.of(&format!("not connected to {}", s.name))))
            .chain(self.sink.as_ref().map(|why| why.of("output")))
            .collect();
        let oldest = self.sources.iter().filter_map(|source| source.in_flight).map(|oldest| oldest.received).min();
        // Where the sink says why, this is only what follows from it.
        if let Some(age) = oldest.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER && self.sink.is_none()) {
            causes.push(Cause::now(format!(
                "nothing delivered: the oldest event in flight waits for {} s",
                age.as_secs()
            )));
        }
        if let Some(age) = self.oldest_unknown.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
            causes.push(Cause::now(format!(
                "nothing delivered: the oldest event waits for {} s for a directory (--metadata-required, --metadata-timeout)",
                age.as_secs()
            )));
        }
        // A batch that waits for a directory is decoded.
        let waits = |age: &Duration| self.oldest_unknown.is_some_and(|at| at.elapsed() >= *age);
        let undecoded = self.oldest_undecoded.map(|at| at.elapsed());
        if let Some(age) = undecoded.filter(|age| *age > UNDECODED_AFTER && !waits(age)) {
            causes.push(Cause::now(format!(
                "nothing delivered: the oldest frames have waited {} s to be decoded: a worker hangs or has no CPU; restart atkafka if it stays so",
                age.as_secs()
            )));
        }
        for source in &self.sources {
            if let Some(since) = source.silent {
                causes.push(Cause::now(format!(
                    "no event of {} for {} s, and over one a second before",
                    source.name,
                    since.elapsed().as_secs()
                )));
            }
        }
        for (i, unreadable) in self.unreadable.iter().enumerate() {
            if let Some(age) = unreadable.map(|(first, last)| last - first).filter(|age| *age >= UNREADABLE_AFTER) {
                causes.push(Cause::now(format!(
                    "no frame of {} was readable for {} s: is it a relay or PDS? The dead letters say what is wrong",
                    self.sources.get(i).map_or("a host", |source| source.name.as_str()),
                    age.as_secs()
                )));
            }
        }
        for NotSaved { since, why, first } in self.not_saved.values() {
            if *first {
                causes.push(Cause::now(format!(
                    "{why} (nothing of this host is delivered until its first position is saved)"
                )));
            } else if since.elapsed() > STUCK_AFTER {
                causes.push(Cause::now(format!(
                    "{why} (for {} s: a restart would repeat the events since)",
                    since.elapsed().as_secs()
                )));
            }
        }
        if let Some(age) = self.saving.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
            causes.push(Cause::now(format!(
                "the disk of --state-dir hangs: a save has taken {} s so far",
                age.as_secs()
            )));
        }
        causes
    }
}

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

/// Causes of one kind that are said one by one.
const SOME: usize = 3;

impl State {
    /// The nearest cause first. None when events flow.
    pub(super) fn causes(&self) -> Vec<Cause> {
        // That nothing flows is as it should be.
        if self.stands_by {
            return Vec::new();
        }
        let mut causes: Vec<Cause> = self.of_sources();
        causes.extend(self.sink.as_ref().map(|why| why.of("output")));
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
        let not_saved: Vec<Cause> = self.not_saved().collect();
        if !self.is_many || 2 * not_saved.len() >= self.sources.len() {
            causes.extend(some(not_saved));
        }
        if let Some(age) = self.saving.map(|at| at.elapsed()).filter(|age| *age > STUCK_AFTER) {
            causes.push(Cause::now(format!(
                "the disk of --state-dir hangs: a save has taken {} s so far",
                age.as_secs()
            )));
        }
        causes
    }
    /// Why sources give nothing. Of many, one cause for all; and none as long as most of them give something.
    fn of_sources(&self) -> Vec<Cause> {
        let all: Vec<Cause> = (0..self.sources.len()).filter_map(|index| self.of_source(index)).collect();
        let (ill, sources) = (all.len(), self.sources.len());
        match all.first() {
            Some(first) if self.is_many && 2 * ill >= sources => {
                vec![Cause { what: format!("{ill} of {sources} hosts give nothing: {}", first.what), ..first.clone() }]
            }
            _ if self.is_many => Vec::new(),
            _ => all,
        }
    }

    /// Why this source gives nothing.
    fn of_source(&self, index: usize) -> Option<Cause> {
        let source = &self.sources[index];
        if let Some(away) = &source.away {
            return Some(away.of(&format!("not connected to {}", source.name)));
        }
        if let Some(since) = source.silent {
            return Some(Cause::now(format!(
                "no event of {} for {} s, and over one a second before",
                source.name,
                since.elapsed().as_secs()
            )));
        }
        let (first, last) = self.unreadable.get(index).copied().flatten()?;
        let age = last - first;
        (age >= UNREADABLE_AFTER).then(|| {
            Cause::now(format!(
                "no frame of {} was readable for {} s: is it a relay or PDS? The dead letters say what is wrong",
                source.name,
                age.as_secs()
            ))
        })
    }

    /// The positions that cannot be saved.
    fn not_saved(&self) -> impl Iterator<Item = Cause> {
        self.not_saved.values().filter_map(|NotSaved { since, why, first }| {
            if *first {
                return Some(Cause::now(format!(
                    "{why} (nothing of this host is delivered until its first position is saved)"
                )));
            }
            (since.elapsed() > STUCK_AFTER).then(|| {
                Cause::now(format!(
                    "{why} (for {} s: a restart would repeat the events since)",
                    since.elapsed().as_secs()
                ))
            })
        })
    }
}

/// The first ones, and how many more there are: one disk has the files of all hosts.
fn some(mut causes: Vec<Cause>) -> Vec<Cause> {
    let more = causes.len().saturating_sub(SOME);
    causes.truncate(SOME);
    causes.extend((more > 0).then(|| Cause::now(format!("{more} more positions cannot be saved"))));
    causes
}

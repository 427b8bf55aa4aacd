//! When a transaction is committed, and which records are sent alone after one was aborted.
//!
//! The broker refuses a whole batch of its own because of one record, and any refusal ends the transaction. The same records
//! sent again in the same way would be refused for ever. So after a refusal the suspects, which are the records of the
//! refused batch, are sent in a window that holds half as many, with nothing else in flight, until the record that is
//! refused is alone. All of that happens inside transactions that end on the boundary of one of our batches, so that
//! what is committed always fits the position that is committed with it.
//!
//! Pure: no clock is read here, and no sink is known. The thread of the producer owns it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::dead_letter::Reason;

/// The place of a record: the number of its batch, counted from the start of the process, and its index in the batch.
pub type Place = (u64, usize);

/// Frames of one transaction at most: half of what may be in flight.
const FRAMES: usize = 100_000;

/// A record that was refused while nothing else was in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// Where it stands.
    pub place: Place,
    /// Why it is refused.
    pub reason: Reason,
    /// The broker's words.
    pub detail: String,
}

/// What is open, and what is known from the transactions before it.
#[derive(Debug)]
pub struct Plan {
    interval: Duration,
    /// Bytes of one transaction at most.
    bytes: usize,
    /// When the open transaction was begun.
    begun: Option<Instant>,
    in_flight: usize,
    /// The transaction ends with this batch.
    last: Option<u64>,
    suspects: BTreeSet<Place>,
    /// Suspects that may be in flight together.
    window: usize,
    /// Suspects that were sent since nothing was in flight; `None`: what is in flight are no suspects.
    alone: Option<usize>,
    /// Records that may be in flight together. Less than all only after a batch was too large for its topic.
    most: usize,
    /// What was refused in the open transaction.
    refused: Vec<Culprit>,
}

impl Plan {
    /// Commits after `interval`, or when `bytes` are reached.
    pub fn new(interval: Duration, bytes: usize) -> Self {
        Plan {
            interval,
            bytes,
            begun: None,
            in_flight: 0,
            last: None,
            suspects: BTreeSet::new(),
            window: 0,
            alone: None,
            most: usize::MAX,
            refused: Vec::new(),
        }
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.begun.is_some()
    }

    /// A transaction was opened.
    pub fn begun(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// How long the open transaction may still go on.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.begun.map(|begun| self.interval.saturating_sub(now - begun))
    }

    /// Whether the open transaction is to be committed, at the next boundary of a batch: `bytes` and `frames` are in it, and
    /// `batch` would be next.
    pub fn is_due(&self, now: Instant, bytes: usize, frames: usize, batch: u64) -> bool {
        self.left(now) == Some(Duration::ZERO) || bytes >= self.bytes || frames >= FRAMES || self.is_behind(batch)
    }

    /// Whether a batch stands behind the last one of the transaction.
    pub fn is_behind(&self, batch: u64) -> bool {
        self.last.is_some_and(|last| batch > last)
    }

    /// Whether the record may be sent now. If not, then once nothing is in flight.
    pub fn may_send(&mut self, place: Place) -> bool {
        if self.in_flight == 0 {
            if self.alone.take().is_some_and(|sent| sent > 1) {
                // The window passed.
                self.window = self.window.saturating_mul(2);
            }
            return true;
        }
        match (self.suspects.contains(&place), self.alone) {
            (false, None) => self.in_flight < self.most,
            (true, Some(sent)) => sent < self.window,
            _ => false,
        }
    }

    /// The sink has taken the record.
    pub fn sent(&mut self, place: Place) {
        if self.suspects.contains(&place) {
            *self.alone.get_or_insert(0) += 1;
        }
        self.in_flight += 1;
    }

    /// The broker has taken one record.
    pub fn delivered(&mut self) {
        self.in_flight -= 1;
    }

    /// The record was not delivered. `refused`: its batch was refused for good, maybe because of this record.
    pub fn returned(&mut self, place: Place, refused: Option<(Reason, String)>) {
        self.in_flight -= 1;
        if let Some((reason, detail)) = refused {
            self.refused.push(Culprit { place, reason, detail });
        }
    }

    /// The transaction is aborted, and the client holds nothing. `first`: the first batch that is to be sent again. Gives the
    /// record that was refused alone: it is to be replaced before anything is sent again.
    pub fn aborted(&mut self, first: u64) -> Option<Culprit> {
        self.begun = None;
        self.in_flight = 0;
        let alone = self.alone.take();
        let mut refused = std::mem::take(&mut self.refused);
        let culprit = match refused.len() {
            0 => None,
            // A batch of one record.
            1 => refused.pop(),
            n => {
                self.window = n.div_ceil(2);
                if refused.iter().any(|one| one.reason == Reason::TooLarge) {
                    // It may be the batch that is too large, and none of its records.
                    self.most = self.most.min(self.window);
                }
                self.suspects = refused.into_iter().map(|one| one.place).collect();
                None
            }
        };
        if let Some(culprit) = &culprit {
            if alone.is_none() {
                self.suspects.clear();
            }
            let (batch, index) = culprit.place;
            // Those behind it in its batch move up by one.
            self.suspects.remove(&culprit.place);
            let moved: Vec<Place> = self.suspects.range((batch, index)..=(batch, usize::MAX)).copied().collect();
            for place in &moved {
                self.suspects.remove(place);
            }
            self.suspects.extend(moved.iter().map(|(batch, index)| (*batch, index - 1)));
            self.window = 1;
        }
        self.extent(first);
        culprit
    }

    /// The client is gone, and the transaction is to be sent again from batch `first` on. Not all reports may have come, so that
    /// a record which seems to be refused alone may be one of many: what was refused shows again.
    pub fn lost(&mut self, first: u64) {
        self.refused.clear();
        self.aborted(first);
    }

    /// The transaction is committed; `first` is the first batch behind it.
    pub fn committed(&mut self, first: u64) {
        self.begun = None;
        self.in_flight = 0;
        self.alone = None;
        self.refused.clear();
        self.suspects = self.suspects.split_off(&(first, 0));
        if self.suspects.is_empty() {
            self.most = usize::MAX;
        }
        self.extent(first);
    }

    /// The batches before the first suspect have a transaction of their own, so that little is sent again with each half.
    fn extent(&mut self, first: u64) {
        self.last = match (self.suspects.first(), self.suspects.last()) {
            (Some((batch, _)), _) if *batch > first => Some(batch - 1),
            (_, Some((batch, _))) => Some(*batch),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends batches of `sizes` records to a broker that takes `together` records at once at most and refuses those in `bad`.
    /// The records that were given up, and how many transactions it took.
    fn run(sizes: &[usize], bad: &BTreeSet<Place>, together: usize, seed: u64) -> (BTreeSet<Place>, usize) {
        let mut rng = fastrand::Rng::with_seed(seed);
        // By batch, the records that are left, by their index at the start.
        let mut batches: Vec<Vec<usize>> = sizes.iter().map(|n| (0..*n).collect()).collect();
        let mut plan = Plan::new(Duration::from_secs(1), usize::MAX);
        let (mut given_up, mut rounds, mut first) = (BTreeSet::new(), 0, 0);
        let now = Instant::now();
        while first < batches.len() {
            rounds += 1;
            assert!(rounds < 5_000, "seed {seed}: no end");
            plan.begun(now);
            let (mut batch, mut at, mut held) = (first, 0, Vec::<Place>::new());
            let refused = loop {
                let mut all = false;
                while let Some(place) = Some((batch as u64, at)) {
                    if batch == batches.len() || plan.is_behind(batch as u64) {
                        all = true;
                        break;
                    }
                    if at == batches[batch].len() {
                        (batch, at) = (batch + 1, 0);
                        continue;
                    }
                    if !plan.may_send(place) {
                        break;
                    }
                    plan.sent(place);
                    held.push(place);
                    at += 1;
                    if rng.u8(0..20) == 0 {
                        break;
                    }
                }
                if all && held.is_empty() {
                    break false;
                }
                // The broker's batch.
                let size = rng.usize(1..=held.len().min(200));
                let taken: Vec<Place> = held.drain(..size).collect();
                let is_bad = |place: &Place| bad.contains(&(place.0, batches[place.0 as usize][place.1]));
                let reason = if size > together { Some(Reason::TooLarge) } else { None };
                if let Some(reason) = reason.or(taken.iter().any(is_bad).then_some(Reason::Refused)) {
                    for place in taken {
                        plan.returned(place, Some((reason, String::new())));
                    }
                    for place in held.drain(..) {
                        plan.returned(place, None);
                    }
                    break true;
                }
                taken.iter().for_each(|_| plan.delivered());
            };
            if refused {
                if let Some(culprit) = plan.aborted(first as u64) {
                    let (batch, index) = culprit.place;
                    let original = batches[batch as usize].remove(index);
                    assert!(bad.contains(&(batch, original)), "seed {seed}: an innocent one is given up");
                    given_up.insert((batch, original));
                }
            } else {
                first = batch;
                plan.committed(first as u64);
            }
        }
        (given_up, rounds)
    }

    #[test]
    fn exactly_the_records_that_never_pass_are_given_up() {
        for seed in 0..400 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let sizes: Vec<usize> = (0..rng.usize(1..30)).map(|_| rng.usize(0..60)).collect();
            let mut bad = BTreeSet::new();
            for _ in 0..rng.usize(0..6) {
                let batch = rng.usize(0..sizes.len());
                if sizes[batch] > 0 {
                    bad.insert((batch as u64, rng.usize(0..sizes[batch])));
                }
            }
            let together = if rng.bool() { usize::MAX } else { rng.usize(1..50) };
            assert_eq!(run(&sizes, &bad, together, seed).0, bad, "seed {seed}");
        }
    }

    #[test]
    fn one_bad_record_of_many_is_found_in_few_transactions() {
        let sizes = [1_000; 10];
        for bad in [(0, 0), (4, 500), (9, 999)] {
            let (given_up, rounds) = run(&sizes, &BTreeSet::from([bad]), usize::MAX, 7);
            assert_eq!(given_up, BTreeSet::from([bad]));
            assert!(rounds <= 14, "{rounds} transactions");
        }
        let all: BTreeSet<Place> = (0..200).map(|index| (3, index)).collect();
        let (given_up, rounds) = run(&sizes, &all, usize::MAX, 7);
        assert_eq!(given_up, all);
        assert!(rounds <= 300, "{rounds} transactions for 200 in a row");
    }

    #[test]
    fn it_is_due_by_time_by_bytes_and_behind_the_last_suspect() {
        let now = Instant::now();
        let mut plan = Plan::new(Duration::from_secs(1), 100);
        assert_eq!(plan.left(now), None);
        plan.begun(now);
        assert!(!plan.is_due(now, 99, 0, 1) && plan.is_due(now, 100, 0, 1) && plan.is_due(now, 0, FRAMES, 1));
        assert!(plan.is_due(now + Duration::from_secs(1), 0, 0, 1));
        for place in [(2, 0), (2, 1), (4, 0), (4, 1)] {
            plan.sent(place);
            plan.returned(place, Some((Reason::Refused, String::new())));
        }
        assert_eq!(plan.aborted(0), None);
        assert!(!plan.is_behind(1) && plan.is_behind(2), "first those before the suspects");
        plan.committed(2);
        assert!(!plan.is_behind(4) && plan.is_behind(5));
    }
}

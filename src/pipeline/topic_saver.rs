//! Saves positions in the cursor topic once a second, behind the acknowledgements of the events: `--cursor-store kafka` with
//! delivery at least once. It has a Kafka client of its own, which writes nothing else, and runs on the checkpointer's thread.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select};

use super::checkpointer::{Beginning, INTERVAL, SOONEST};
use super::ledger::{self, Ledger};
use super::permits::{Failed, Permits};
use crate::checkpoint::Position;
use crate::health::Health;
use crate::metrics::checkpoint::CheckpointMetrics;
use crate::sink::transaction::Trouble;
use crate::sink::{NotReady, Sink, Start};

/// A save at the end that takes longer has failed.
const LAST: Duration = Duration::from_secs(5);

/// What it is made of.
pub struct TopicSaver {
    pub ledger: Ledger,
    pub sink: Box<dyn Sink>,
    /// The newest position of each source.
    pub latest: Arc<Mutex<Vec<Option<Position>>>>,
    /// Wakes it before the second is over; its end is the end of the work.
    pub woken: Receiver<()>,
    pub beginnings: Receiver<Beginning>,
    pub permits: Arc<Permits>,
    pub metrics: Arc<CheckpointMetrics>,
    pub health: Arc<Health>,
}

/// Why a save was not made.
enum Failure {
    /// It is tried again.
    Passing(String),
    Ended(String),
}

impl TopicSaver {
    /// Runs until the other end of `woken` is dropped. Fails when the last save fails, or when another instance has taken over.
    pub fn run(mut self, start: Start<'_>) -> Result<(), String> {
        let mut said = None;
        while let Err(refused) = self.open(start) {
            match refused {
                Failure::Ended(why) => return Err(why),
                Failure::Passing(why) => {
                    if said.as_ref() != Some(&why) {
                        log::warn!(
                            event = "not_saved", topic = self.ledger.topic(), error = why;
                            "positions: {why} (it is tried again until it works; nothing is read before)"
                        );
                    }
                    self.not_saved(&why, true);
                    said = Some(why);
                }
            }
            if self.over(Instant::now() + INTERVAL) {
                return Ok(());
            }
        }
        self.well();
        let mut beginnings = self.beginnings.clone();
        let mut begun: Vec<Sender<()>> = Vec::new();
        let mut saved: Vec<Option<Position>> = vec![None; self.latest().len()];
        let mut failing: Option<Instant> = None;
        let mut saved_at = Instant::now();
        loop {
            let mut over = false;
            select! {
                recv(self.woken) -> woken => match woken {
                    Ok(()) => std::thread::sleep(SOONEST.saturating_sub(saved_at.elapsed())),
                    Err(_) => over = true,
                },
                recv(beginnings) -> beginning => match beginning {
                    Ok(Beginning { source, position, saved }) => {
                        let mut latest = self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        latest[source] = Some(position);
                        begun.push(saved);
                    }
                    // The readers are gone.
                    Err(_) => beginnings = never(),
                },
                default(INTERVAL) => {}
            }
            saved_at = Instant::now();
            match self.save(&mut saved, over, start) {
                Ok(()) => {
                    self.well();
                    if let Some(since) = failing.take() {
                        log::info!(
                            event = "saved_again", topic = self.ledger.topic();
                            "positions: saved again, after {} s", since.elapsed().as_secs()
                        );
                    }
                    for begun in begun.drain(..) {
                        // A reader that stops meanwhile does not listen any more.
                        let _ = begun.send(());
                    }
                }
                Err(Failure::Ended(why)) => return Err(why),
                Err(Failure::Passing(why)) => {
                    failing.get_or_insert_with(Instant::now);
                    self.metrics.checkpoint_error.inc();
                    log::warn!(
                        at_most = 1, event = "not_saved", topic = self.ledger.topic(), error = why;
                        "positions cannot be saved: {why}. Events go on; a restart now would repeat those since the last save. It is tried each second"
                    );
                    self.not_saved(&why, !begun.is_empty());
                    if over {
                        return Err(format!("the last positions cannot be saved: {why}"));
                    }
                }
            }
            if over {
                return Ok(());
            }
        }
    }

    fn latest(&self) -> Vec<Option<Position>> {
        self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Waits. Whether the work has ended meanwhile.
    fn over(&self, until: Instant) -> bool {
        loop {
            match self.woken.recv_deadline(until) {
                Ok(()) => {}
                Err(e) => return e.is_disconnected(),
            }
        }
    }

    fn not_saved(&self, why: &str, first: bool) {
        for source in 0..self.latest().len() {
            if self.ledger.keeps(source) {
                self.health.not_saved(source, &format!("topic {}: {why}", self.ledger.topic()), first);
            }
        }
    }

    fn well(&self) {
        for source in 0..self.latest().len() {
            self.health.saved(source);
        }
    }

    /// A new client. Whether the last transaction of the one before was committed.
    fn open(&mut self, start: Start<'_>) -> Result<bool, Failure> {
        match self.ledger.open(self.sink.as_mut(), start) {
            Ok(committed) => Ok(committed),
            Err(NotReady::Yet(why)) => Err(Failure::Passing(why)),
            Err(NotReady::Ever(why)) => {
                self.permits.fail(Failed::Run(why.clone()));
                Err(Failure::Ended(why))
            }
            Err(NotReady::Settings(why)) => {
                self.permits.fail(Failed::Settings(why.clone()));
                Err(Failure::Ended(why))
            }
        }
    }

    /// Writes what has moved, in one transaction.
    fn save(&mut self, saved: &mut [Option<Position>], last: bool, start: Start<'_>) -> Result<(), Failure> {
        let latest = self.latest();
        let is_new = |(source, position): (usize, &Option<Position>)| {
            let position = position.as_ref()?;
            let known = saved[source].as_ref().is_some_and(|saved| saved.is(position));
            (!known && self.ledger.keeps(source)).then(|| (source, position.clone()))
        };
        let moved: Vec<(usize, Position)> = latest.iter().enumerate().filter_map(is_new).collect();
        if moved.is_empty() {
            return Ok(());
        }
        self.health.saving(Some(Instant::now()));
        let written = self.transaction(&moved, last);
        self.health.saving(None);
        // Reports say nothing that the commit does not say.
        let _ = self.sink.poll(&mut Vec::new());
        let committed = match written {
            Ok(()) => {
                self.ledger.committed();
                true
            }
            Err(Trouble::Lost(why)) => {
                log::warn!(
                    at_most = 10, event = "not_saved", topic = self.ledger.topic(), error = why;
                    "positions: {why}; a new client finds out what was saved"
                );
                self.open(start)?
            }
            Err(trouble) => return Err(Failure::Passing(ledger::text(trouble))),
        };
        if !committed {
            return Err(Failure::Passing("the transaction was not committed".into()));
        }
        self.metrics.checkpoint_ok.inc();
        for (source, position) in moved {
            saved[source] = Some(position);
        }
        Ok(())
    }

    fn transaction(&mut self, moved: &[(usize, Position)], last: bool) -> Result<(), Trouble> {
        let none = || Trouble::Lost("no transactions".into());
        // What an earlier attempt left open.
        self.sink.transactions().ok_or_else(none)?.begin().or_else(|_| {
            self.abort()?;
            self.sink.transactions().ok_or_else(none)?.begin()
        })?;
        if let Err(refused) = self.ledger.save(self.sink.as_mut(), moved) {
            self.abort()?;
            return Err(Trouble::Abort(ledger::reason(refused)));
        }
        let until = Instant::now() + LAST;
        loop {
            match self.sink.transactions().ok_or_else(none)?.commit() {
                Ok(()) => return Ok(()),
                Err(Trouble::Again(why)) if last && Instant::now() > until => return Err(Trouble::Again(why)),
                Err(Trouble::Again(why)) => {
                    self.not_saved(&why, false);
                    if self.permits.is_closed() && Instant::now() > until {
                        return Err(Trouble::Again(why));
                    }
                }
                Err(Trouble::Abort(why)) => {
                    self.abort()?;
                    return Err(Trouble::Abort(why));
                }
                Err(lost) => return Err(lost),
            }
        }
    }

    fn abort(&mut self) -> Result<(), Trouble> {
        let until = Instant::now() + LAST;
        loop {
            match self.sink.transactions().map_or(Ok(()), |transactions| transactions.abort()) {
                Ok(()) => return Ok(()),
                Err(Trouble::Again(_)) if Instant::now() < until => {}
                // The next client ends what is open.
                Err(trouble) => return Err(Trouble::Lost(ledger::text(trouble))),
            }
        }
    }
}

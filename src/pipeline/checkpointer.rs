//! Saves the positions that the producer reports: once a second, and at the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::checkpoint::Position;
use crate::checkpoint::acks::AckQueue;
use crate::checkpoint::file::StateFile;
use crate::log::Periodic;
use crate::metrics::Metrics;

/// Between two saves: what repeats after kill -9 is bounded by it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where the positions of a source go.
pub enum Keep {
    Nowhere,
    /// Saved once a second.
    File(StateFile),
    /// Back to Tap at once: an event that is not acknowledged holds its account there.
    Acks(Arc<AckQueue>),
}

type Latest = Arc<Mutex<Vec<Option<Position>>>>;

/// The producer's end: tells positions.
pub struct Frontier {
    latest: Latest,
    wake: Sender<()>,
    told: Vec<bool>,
    acks: Vec<Option<Arc<AckQueue>>>,
}

/// The saving end, for a thread of its own: a slow disk must not hold the producer.
pub struct Checkpointer {
    files: Vec<Option<StateFile>>,
    latest: Latest,
    saved: Vec<Option<Position>>,
    woken: Receiver<()>,
    metrics: Arc<Metrics>,
    errors: Periodic,
}

/// Both ends, for each source in turn.
pub fn new(keeps: Vec<Keep>, metrics: Arc<Metrics>) -> (Frontier, Checkpointer) {
    let latest: Latest = Arc::new(Mutex::new(vec![None; keeps.len()]));
    let (wake, woken) = bounded(1);
    let (told, saved) = (vec![false; keeps.len()], vec![None; keeps.len()]);
    let (files, acks) = keeps
        .into_iter()
        .map(|keep| match keep {
            Keep::Nowhere => (None, None),
            Keep::File(file) => (Some(file), None),
            Keep::Acks(acks) => (None, Some(acks)),
        })
        .unzip();
    let frontier = Frontier { latest: latest.clone(), wake, told, acks };
    (frontier, Checkpointer { files, latest, saved, woken, metrics, errors: Periodic::new(1) })
}

impl Frontier {
    /// Everything of `source` up to `position` is acknowledged.
    pub fn moved(&mut self, source: usize, position: Position) {
        if let (Some(acks), Position::Tap(position)) = (&self.acks[source], &position) {
            acks.push(position);
            return;
        }
        self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[source] = Some(position);
        // The first position is saved at once: without it a kill in the first second would start live again.
        if !std::mem::replace(&mut self.told[source], true) {
            let _ = self.wake.try_send(());
        }
    }
}

impl Checkpointer {
    /// Runs until the [`Frontier`] is dropped. Fails when the last save fails.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            let over = self.woken.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected);
            let result = self.save();
            match result {
                Ok(()) if over => return Ok(()),
                Ok(()) => {}
                Err(e) if over => return Err(e),
                Err(e) => self
                    .errors
                    .warn(&format!("{e}; events go on, a restart now would repeat those since the last save")),
            }
        }
    }

    fn save(&mut self) -> Result<(), String> {
        let latest = self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        for ((file, latest), saved) in self.files.iter().zip(latest).zip(&mut self.saved) {
            let (Some(file), Some(position)) = (file, latest) else { continue };
            if saved.as_ref() == Some(&position) {
                continue;
            }
            let result = match &position {
                Position::Relay(relay) => file.save(relay),
                Position::Ozone(ozone) => file.save(ozone),
                Position::Tap(_) => Ok(()),
            };
            if let Err(e) = result {
                self.metrics.checkpoint_error.inc();
                return Err(format!("{}: cannot be saved: {e}", file.path().display()));
            }
            self.metrics.checkpoint_ok.inc();
            *saved = Some(position);
        }
        Ok(())
    }
}

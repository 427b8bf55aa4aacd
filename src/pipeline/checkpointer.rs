//! Saves the positions that the producer reports: once a second, and at the end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use crate::checkpoint::Position;
use crate::checkpoint::acks::AckQueue;
use crate::checkpoint::file::StateFile;
use crate::log::Periodic;
use crate::metrics::Metrics;

/// Between two saves: what repeats after kill -9 is bounded by it.
const INTERVAL: Duration = Duration::from_secs(1);
/// While catching up a second holds very many frames: then it is saved after so many seqs, too,
const SEQS: u64 = 2_000;
/// but no sooner than this after the last save.
const SOONEST: Duration = Duration::from_millis(50);

/// Where the positions of a source go.
pub enum Keep {
    Nowhere,
    /// Saved once a second.
    File(StateFile),
    /// Back to Tap at once: an event that is not acknowledged holds its account there.
    Acks(Arc<AckQueue>),
}

type Latest = Arc<Mutex<Vec<Option<Position>>>>;

/// Where a source began: to be on disk before anything behind it is delivered.
pub struct Beginning {
    pub source: usize,
    pub position: Position,
    /// Told when it is.
    pub saved: Sender<()>,
}

/// The producer's end: tells positions.
pub struct Frontier {
    latest: Latest,
    wake: Sender<()>,
    /// The seq of each source at the last wake-up.
    woke_at: Vec<u64>,
    acks: Vec<Option<Arc<AckQueue>>>,
    metrics: Arc<Metrics>,
}

/// The saving end, for a thread of its own: a slow disk must not hold the producer.
pub struct Checkpointer {
    files: Vec<Option<StateFile>>,
    latest: Latest,
    saved: Vec<Option<Position>>,
    woken: Receiver<()>,
    beginnings: Receiver<Beginning>,
    metrics: Arc<Metrics>,
    errors: Periodic,
}

/// Both ends, for each source in turn. `beginnings` come from the readers.
pub fn new(keeps: Vec<Keep>, beginnings: Receiver<Beginning>, metrics: Arc<Metrics>) -> (Frontier, Checkpointer) {
    let latest: Latest = Arc::new(Mutex::new(vec![None; keeps.len()]));
    let (wake, woken) = bounded(1);
    let (woke_at, saved) = (vec![0; keeps.len()], vec![None; keeps.len()]);
    let (files, acks) = keeps
        .into_iter()
        .map(|keep| match keep {
            Keep::Nowhere => (None, None),
            Keep::File(file) => (Some(file), None),
            Keep::Acks(acks) => (None, Some(acks)),
        })
        .unzip();
    let frontier = Frontier { latest: latest.clone(), wake, woke_at, acks, metrics: metrics.clone() };
    let errors = Periodic::new(1);
    (frontier, Checkpointer { files, latest, saved, woken, beginnings, metrics, errors })
}

impl Frontier {
    /// Everything of `source` up to `position` is acknowledged.
    pub fn moved(&mut self, source: usize, position: Position) {
        if let Position::Tap(position) = &position {
            self.metrics.tap_events.sub(position.messages as i64);
            if let Some(acks) = &self.acks[source] {
                self.metrics.tap_acks.add(acks.push(position) as i64);
            }
            return;
        }
        let seq = position.seq().unwrap_or(0);
        self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[source] = Some(position);
        if seq.abs_diff(self.woke_at[source]) >= SEQS {
            self.woke_at[source] = seq;
            // Full: it is about to wake.
            let _ = self.wake.try_send(());
        }
    }
}

impl Checkpointer {
    /// Runs until the [`Frontier`] is dropped. Fails when the last save fails.
    pub fn run(mut self) -> Result<(), String> {
        let mut beginnings = self.beginnings.clone();
        let mut waiting: Vec<Sender<()>> = Vec::new();
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
                        self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[source] = Some(position);
                        waiting.push(saved);
                    }
                    // The readers are gone.
                    Err(_) => beginnings = never(),
                },
                default(INTERVAL) => {}
            }
            match self.save() {
                Ok(()) => {
                    saved_at = Instant::now();
                    for saved in waiting.drain(..) {
                        // A reader that stops meanwhile does not listen any more.
                        let _ = saved.send(());
                    }
                    if over {
                        return Ok(());
                    }
                }
                Err(e) if over => return Err(e),
                Err(e) => self.errors.warn(&format!(
                    "{e}; it is tried again, a restart now would repeat the events since the last save"
                )),
            }
        }
    }

    fn save(&mut self) -> Result<(), String> {
        let latest = self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let mut failed = Ok(());
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
                failed = Err(format!("{}: cannot be saved: {e}", file.path().display()));
                continue;
            }
            self.metrics.checkpoint_ok.inc();
            *saved = Some(position);
        }
        failed
    }
}

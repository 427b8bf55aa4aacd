//! Saves the positions that the producer reports: once a second, and at the end. It owns the state files, and tries again
//! what fails; it does not know what a position means. The thread `checkpoint` runs it; the [`Frontier`] is the
//! producer's end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use super::ledger;
use crate::checkpoint::acks::AckQueue;
use crate::checkpoint::file::StateFile;
use crate::checkpoint::{Payload, Position};
use crate::health::Health;
use crate::metrics::checkpoint::CheckpointMetrics;

/// Between two saves: what repeats after kill -9 is bounded by it.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// While catching up a second holds very many frames: then it is saved after so many seqs, too,
const SEQS: u64 = 2_000;
/// but no sooner than this after the last save.
pub(super) const SOONEST: Duration = Duration::from_millis(50);

/// Where the positions of a source go.
pub enum Keep {
    /// It is not kept: a restart begins anew.
    Nowhere,
    /// Saved once a second.
    File(StateFile),
    /// A record of the cursor topic.
    Topic(ledger::Place),
    /// Back to Tap at once: an event that is not acknowledged holds its account there.
    Acks(Arc<AckQueue>),
}

pub(super) type Latest = Arc<Mutex<Vec<Option<Position>>>>;

/// Where a source began: to be on disk before anything behind it is delivered.
pub struct Beginning {
    /// Index of the source.
    pub source: usize,
    /// Where it begins.
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
    /// The files whose positions are of a cluster that they name: path and id.
    clusters: Vec<(PathBuf, String)>,
    cluster: Arc<OnceLock<String>>,
    metrics: Arc<CheckpointMetrics>,
}

/// The saving end, for a thread of its own: a slow disk must not hold the producer.
pub struct Checkpointer {
    slots: Vec<Slot>,
    latest: Latest,
    woken: Receiver<()>,
    beginnings: Receiver<Beginning>,
    cluster: Arc<OnceLock<String>>,
    metrics: Arc<CheckpointMetrics>,
    health: Arc<Health>,
}

/// What is saved for one source. Each fails and is tried again by itself.
struct Slot {
    file: Option<StateFile>,
    saved: Option<Position>,
    /// A reader that waits for its first position to be on disk.
    begun: Option<Sender<()>>,
    failing: Option<Failing>,
}

#[derive(Clone, Copy)]
struct Failing {
    since: Instant,
    last: Instant,
}

/// Both ends, for each source in turn. `beginnings` come from the readers.
pub fn new(
    keeps: Vec<Keep>,
    beginnings: Receiver<Beginning>,
    metrics: Arc<CheckpointMetrics>,
    health: Arc<Health>,
) -> (Frontier, Checkpointer) {
    let latest: Latest = Arc::new(Mutex::new(vec![None; keeps.len()]));
    let (wake, woken) = bounded(1);
    let woke_at = vec![0; keeps.len()];
    let cluster = Arc::new(OnceLock::new());
    let (mut slots, mut acks, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
    for keep in keeps {
        let (file, ack) = match keep {
            // Those of the topic are with who writes them: a reader's first position is saved when it begins.
            Keep::Nowhere | Keep::Topic(_) => (None, None),
            Keep::File(file) => (Some(file), None),
            Keep::Acks(acks) => (None, Some(acks)),
        };
        if let Some((file, id)) = file.as_ref().and_then(|file| Some((file, file.cluster()?))) {
            clusters.push((file.path().to_path_buf(), id.to_string()));
        }
        slots.push(Slot { file, saved: None, begun: None, failing: None });
        acks.push(ack);
    }
    let frontier = Frontier {
        latest: latest.clone(),
        wake,
        woke_at,
        acks,
        clusters,
        cluster: cluster.clone(),
        metrics: metrics.clone(),
    };
    (frontier, Checkpointer { slots, latest, woken, beginnings, cluster, metrics, health })
}

impl Frontier {
    /// The output is the Kafka cluster `id`. To be called before the first record is sent. Fails when a saved position is
    /// of another cluster: the events up to it are not in this one's topic, and would be skipped.
    pub fn cluster(&self, id: &str) -> Result<(), String> {
        if let Some((path, other)) = self.clusters.iter().find(|(_, other)| other != id) {
            return Err(format!(
                "{}: this position is of the Kafka cluster {other}, and --bootstrap-servers is the cluster {id}, whose topic does not have the events up to it. Check --bootstrap-servers; or delete the file to start anew there; or, where the topic was copied to the new cluster, delete only its member \"cluster\"",
                path.display()
            ));
        }
        // A second call has the same id, or failed above.
        let _ = self.cluster.set(id.into());
        Ok(())
    }

    /// Everything of `source` up to `position` is acknowledged.
    pub fn moved(&mut self, source: usize, position: Position) {
        if let Payload::Acks(acknowledged) = &position.payload {
            self.metrics.tap_events.sub(acknowledged.messages as i64);
            if let Some(acks) = &self.acks[source] {
                self.metrics.tap_acks.add(acks.push(acknowledged) as i64);
            }
            return;
        }
        let seq = position.seq.unwrap_or(0);
        self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[source] = Some(position);
        if seq.abs_diff(self.woke_at[source]) >= SEQS {
            self.woke_at[source] = seq;
            // Full: it is about to wake.
            let _ = self.wake.try_send(());
        }
    }
}

impl Frontier {
    /// The positions are saved by other means.
    pub fn saved(&self) {
        self.metrics.checkpoint_ok.inc();
    }
}

impl Checkpointer {
    /// The same work by another way: what [`super::topic_saver::TopicSaver`] needs of this one.
    pub(super) fn parts(self) -> (Latest, Receiver<()>, Receiver<Beginning>) {
        (self.latest, self.woken, self.beginnings)
    }

    /// Runs until the [`Frontier`] is dropped. Fails when the last save fails.
    pub fn run(mut self) -> Result<(), String> {
        let mut beginnings = self.beginnings.clone();
        let mut saved_at = Instant::now();
        loop {
            let mut over = false;
            select! {
                recv(self.woken) -> woken => match woken {
                    // A round over many files takes long, and one host that catches up is no reason for one after the other.
                    Ok(()) => {
                        let soonest = (SOONEST * self.slots.len() as u32).min(INTERVAL);
                        std::thread::sleep(soonest.saturating_sub(saved_at.elapsed()));
                    }
                    Err(_) => over = true,
                },
                recv(beginnings) -> beginning => match beginning {
                    Ok(first) => {
                        // Hundreds of hosts begin together: one round saves them all.
                        let all: Vec<Beginning> = std::iter::once(first).chain(beginnings.try_iter()).collect();
                        let mut latest = self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        for Beginning { source, position, saved } in all {
                            latest[source] = Some(position);
                            self.slots[source].begun = Some(saved);
                        }
                    }
                    // The readers are gone.
                    Err(_) => beginnings = never(),
                },
                default(INTERVAL) => {}
            }
            let failed = self.save(over, StateFile::sync);
            saved_at = Instant::now();
            if over {
                return if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) };
            }
        }
    }

    /// Saves what has moved. Each file fails by itself, and the directory is synced once for all of them. Gives what failed.
    /// Without `last`, a file that failed less than [`INTERVAL`] ago waits. `sync` makes sure of the new files of a directory.
    fn save(&mut self, last: bool, sync: impl Fn(&StateFile) -> Result<(), String>) -> Vec<String> {
        let latest = self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let mut results = Vec::new();
        for (source, (slot, position)) in self.slots.iter_mut().zip(latest).enumerate() {
            let Some(file) = &mut slot.file else {
                // Kept nowhere: no reader may wait for it.
                slot.tell();
                continue;
            };
            let Some(position) = position else { continue };
            let Payload::State(state) = &position.payload else { continue };
            if slot.saved.as_ref().is_some_and(|saved| saved.is(&position)) {
                // This very position is saved already.
                slot.tell();
                continue;
            }
            if slot.failing.is_some_and(|failing| failing.last.elapsed() < INTERVAL) && !last {
                continue;
            }
            if let Some(id) = self.cluster.get() {
                file.set_cluster(id);
            }
            self.health.saving(Some(Instant::now()));
            results.push((source, file.write(state.as_ref(), position.time_ms).map(|()| position)));
        }
        let written = results.iter().find(|(_, result)| result.is_ok());
        let synced = written.and_then(|(source, _)| self.slots[*source].file.as_ref()).map_or(Ok(()), sync);
        self.health.saving(None);
        let results =
            results.into_iter().map(|(source, result)| (source, result.and_then(|p| synced.clone().map(|()| p))));
        results.filter_map(|(source, result)| self.saved(source, result).err()).collect()
    }

    /// Tells what became of a save.
    fn saved(&mut self, source: usize, result: Result<Position, String>) -> Result<(), String> {
        let slot = &mut self.slots[source];
        let Some(path) = slot.file.as_ref().map(|file| file.path().display()) else { return Ok(()) };
        match result {
            Ok(position) => {
                self.metrics.checkpoint_ok.inc();
                self.health.saved(source);
                slot.saved = Some(position);
                if let Some(failing) = slot.failing.take() {
                    log::info!(
                        event = "saved_again", path:% = path;
                        "{path}: saved again, after {} s", failing.since.elapsed().as_secs()
                    );
                }
                slot.tell();
                Ok(())
            }
            Err(e) => {
                self.metrics.checkpoint_error.inc();
                let now = Instant::now();
                slot.failing.get_or_insert(Failing { since: now, last: now }).last = now;
                let first = slot.begun.is_some();
                let what = if first {
                    format!(
                        "the first position cannot be saved: {e}. Nothing of this host is delivered until it is; it is tried each second"
                    )
                } else {
                    format!(
                        "the position cannot be saved: {e}. Events go on; a restart now would repeat those since the last save. It is tried each second"
                    )
                };
                log::warn!(
                    at_most = 1, event = "not_saved", path:% = path, error = e;
                    "{path}: {what}"
                );
                let what = format!("{path}: cannot be saved: {e}");
                self.health.not_saved(source, &what, first);
                Err(what)
            }
        }
    }
}

impl Slot {
    /// Tells the reader that waits for its first position that it is safe. One that stops meanwhile does not listen any more.
    fn tell(&mut self) {
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(());
        }
    }
}

#[cfg(test)]
mod tests;

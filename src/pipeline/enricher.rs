//! The loop of the thread `enricher`: batches of accounts that are not in the caches come in, their look-ups go out to the
//! [threads that ask](super::fetcher), and batches leave when nothing is missing any more, or nothing that is worth waiting
//! for. It owns those threads and [`LookUps`], which decides everything; it does not put batches back in order, which the
//! sequencer does. What waits here is bounded by the permits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never, select};

use super::fetcher::{Answered, Pool};
use super::inbox::Inlet;
use super::metadata::{Metadata, Unfinished};
use crate::clock;
use crate::decode::batch::Batch;
use crate::enrich::Knowledge;
use crate::enrich::directory::Directory;
use crate::enrich::lookups::{Arrival, LookUps, Now, Wanted};
use crate::enrich::question::Provider;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::metrics::decode::Handled;

/// How often it looks around at least, and says how it stands.
const LOOK_UP: Duration = Duration::from_millis(250);
/// How often threads end that were idle since the last time.
const REST: Duration = Duration::from_secs(10);
/// Threads for the hosts of `did:web`, of which there are some hundreds.
const WEB: usize = 8;

/// What the thread works with.
pub struct Enricher {
    /// The caches.
    pub knowledge: Arc<Knowledge>,
    /// Who asks.
    pub directory: Arc<Directory>,
    /// Who fills batches.
    pub metadata: Metadata,
    /// All of them: it counts events as workers do.
    pub metrics: Arc<Metrics>,
    /// Where it says since when batches wait.
    pub health: Arc<Health>,
    /// Batches that lack something.
    pub unfinished: Receiver<Unfinished>,
    /// Where they go when they are complete.
    pub batches: Inlet<Batch>,
}

struct Run {
    e: Enricher,
    handled: Handled,
    lookups: LookUps<Batch>,
    /// By [`Provider`].
    pools: [Pool; Provider::ALL.len()],
}

impl Enricher {
    /// Runs until the workers are gone and nothing waits.
    pub fn run(self) {
        let n = self.knowledge.settings.concurrency;
        // Each thread has room for an answer, and each pool for one without a thread.
        let (answers_in, answers) = bounded(2 * n + WEB + 2 * Provider::ALL.len());
        let pools = Provider::ALL.map(|provider| {
            let threads = match provider {
                Provider::Plc => n,
                Provider::DidWeb => WEB,
                // Both go to one host. A question for profiles is for up to 25 accounts, and so is the memory of its answer.
                Provider::Profiles => n.div_ceil(8),
                Provider::Handles => (n - n.div_ceil(8)).max(1),
            };
            Pool::new(provider, threads, self.directory.clone(), answers_in.clone())
        });
        let lookups = LookUps::new(self.knowledge.clone());
        Run { handled: Handled::new(self.metrics.decode.clone()), e: self, lookups, pools }.run(&answers);
    }
}

impl Run {
    fn run(&mut self, answers: &Receiver<Answered>) {
        let mut unfinished = self.e.unfinished.clone();
        let mut open = true;
        let (mut looked, mut rested) = (Instant::now(), Instant::now());
        loop {
            let deadline = self.lookups.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let waits = Provider::ALL.into_iter().filter(|provider| self.lookups.has_backlog(*provider));
            let start = waits.filter_map(|provider| self.pools[provider as usize].next_start());
            let until = start.chain(deadline).fold(LOOK_UP, Duration::min);
            select! {
                recv(unfinished) -> message => match message {
                    Ok(message) => {
                        self.accept(message);
                        while let Ok(message) = unfinished.try_recv() {
                            self.accept(message);
                        }
                    }
                    // The workers are gone: nothing comes any more.
                    Err(_) => (open, unfinished) = (false, never()),
                },
                recv(answers) -> answered => if let Ok(answered) = answered {
                    self.answered(answered);
                    while let Ok(answered) = answers.try_recv() {
                        self.answered(answered);
                    }
                },
                default(until) => {}
            }
            // In this order: with a deadline of 0 nobody waits, and the answer is still for the next event.
            self.ask();
            self.lookups.expire(now());
            self.forward();
            if looked.elapsed() >= LOOK_UP {
                looked = Instant::now();
                self.report();
            }
            if rested.elapsed() >= REST {
                rested = Instant::now();
                self.pools.iter_mut().for_each(Pool::rest);
            }
            if self.lookups.is_idle() && !open {
                self.report();
                return;
            }
        }
    }

    fn accept(&mut self, unfinished: Unfinished) {
        let Unfinished { batch, accounts, missing } = unfinished;
        let did = |hole: usize| batch.did(batch.holes[hole].record).into();
        let wanted = missing.iter().map(|m| Wanted {
            account: m.hole,
            kind: m.kind,
            did: did(m.hole),
            fresh: m.forget.covers(m.kind),
        });
        let wanted = wanted.collect();
        self.lookups.arrive(Arrival { received: batch.received, batch, accounts, wanted }, now());
        self.forward();
    }

    fn answered(&mut self, answered: Answered) {
        let Answered { provider, question, outcomes } = answered;
        self.pools[provider as usize].answered();
        self.lookups.answered(question, outcomes, now());
        self.forward();
    }

    /// Gives the threads what they can take.
    fn ask(&mut self) {
        for provider in Provider::ALL {
            loop {
                if self.e.directory.is_closed(provider) {
                    self.lookups.give_up(provider, now());
                    break;
                }
                let pool = &mut self.pools[provider as usize];
                if !pool.has_room() {
                    break;
                }
                let Some(question) = self.lookups.next_question(provider) else { break };
                pool.ask(question);
            }
        }
    }

    /// Sends the batches on that wait for nothing any more.
    fn forward(&mut self) {
        for complete in self.lookups.take_complete() {
            let mut batch = complete.batch;
            self.e.metadata.fill(&mut batch, &complete.accounts);
            batch.count(&mut self.handled);
            // Fails when the producer is gone: then nobody needs it any more.
            let _ = self.e.batches.send(batch);
        }
    }

    fn report(&self) {
        self.e.health.enriching_since(self.lookups.oldest());
        self.e.metrics.enrich.fetch_queue.set(self.lookups.unanswered() as i64);
        for (kind, entries, bytes) in self.e.knowledge.sizes() {
            self.e.metrics.enrich.cache(kind, entries, bytes);
        }
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), ms: clock::now_ms() }
}

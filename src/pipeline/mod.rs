//! Readers, workers and the producer, tied together: queues, permits, the order and delivery. Besides `main` the only
//! place that starts threads; each has a name, and one that panics ends the run with an error. It knows neither formats
//! nor which sources and sinks there are.

pub mod checkpointer;
pub mod enricher;
pub mod fetcher;
pub mod inbox;
pub mod intake;
pub mod ledger;
pub mod metadata;
pub mod permits;
pub mod producer;
pub mod saved;
pub mod sequencer;
mod topic_saver;
pub mod tracker;
pub mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::decode::{Decode, Rules};
use crate::enrich::Knowledge;
use crate::enrich::directory::Directory;
use crate::event::osprey::Snowflake;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::sink::transaction::client_memory;
use crate::sink::{self, Sink};
use checkpointer::Keep;
use enricher::Enricher;
use intake::Intake;
use ledger::Ledger;
use metadata::Metadata;
use permits::{Failed, Permits};
use producer::once::Once;
use producer::{Lane, Letters, Producer};
use topic_saver::TopicSaver;
use worker::{Worker, Workers};

/// Jobs that wait for a worker, and batches that wait for the producer. The permits bound what is in them.
const QUEUE: usize = 256;
/// Readers may be in the middle of connecting when all is delivered: they hold nothing, and are not waited for longer.
/// Tap's reader still sends acknowledgements, for which it needs the processor: on a busy machine half a second was too short.
/// The other threads have nothing left to do; the one that serves the Kafka client may be in a call of some seconds.
const FAREWELL: Duration = Duration::from_millis(1500);

/// One upstream to read.
pub struct Source {
    /// What it is called in logs and metrics.
    pub name: String,
    /// Where its position is kept.
    pub keep: Keep,
    /// Whether its events are of now, so that their age at delivery says how far it is behind.
    pub is_live: bool,
    /// What becomes of each message that `read` hands over.
    pub decode: Decode,
    /// Reads until the intake says stopped, or to the end of what it reads. When all sources have ended, what they gave is
    /// delivered, however long it takes, and the pipeline ends well.
    pub read: Box<dyn FnOnce(Intake) + Send>,
}

/// What a pipeline is made of.
pub struct Parts {
    /// At least one.
    pub sources: Vec<Source>,
    /// Where records go.
    pub sink: Box<dyn Sink>,
    /// What is made of each message.
    pub rules: Rules,
    /// What is known of accounts, where events are to say it or filters need it.
    pub knowledge: Option<Arc<Knowledge>>,
    /// Threads that decode.
    pub workers: usize,
    /// Bytes in flight.
    pub memory_limit: usize,
    /// Data centre and worker of the ids in Osprey's envelope, 0 to 31 each.
    pub snowflake: (u8, u8),
    /// Whether Kafka records get headers.
    pub record_headers: bool,
    /// The topics of events, by the index that routes give.
    pub topics: Vec<String>,
    /// Where dead letters go.
    pub letters: Letters,
    /// Where positions are, besides files.
    pub store: Store,
}

/// Where the positions are of sources that have [`Keep::Topic`].
pub enum Store {
    /// No source has.
    None,
    /// In `topic`, behind the events: written by a client of its own.
    Behind {
        /// The cursor topic.
        topic: String,
        /// Writes positions only.
        client: Box<dyn Sink>,
    },
    /// In `topic`, in the same transactions as the events, one each `interval`.
    Together {
        /// The cursor topic.
        topic: String,
        /// How long a transaction stays open.
        interval: Duration,
    },
}

/// A pipeline at work.
pub struct Pipeline {
    permits: Arc<Permits>,
    metrics: Arc<Metrics>,
    ended: Receiver<Result<(), Failed>>,
    readers: Vec<JoinHandle<()>>,
    threads: Vec<JoinHandle<()>>,
    producer: JoinHandle<()>,
}

/// Starts a named thread. Fails only when the system has none left, which a start cannot survive.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    try_spawn(name, work).expect("the system has threads left at the start")
}

fn try_spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    // Address space only: sonic-rs takes up to 20 kB for each level of a JSON value where it is not optimised.
    thread::Builder::new().name(name.into()).stack_size(8 << 20).spawn(work)
}

/// Threads that do the work of a sink, until it is over.
struct Helpers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Helpers {
    fn new(over: Arc<AtomicBool>) -> Self {
        Helpers { over, threads: Vec::new() }
    }

    fn start(&mut self, sink::Background { name, mut work }: sink::Background) {
        let over = self.over.clone();
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.push(spawn(name, move || while !over.load(Ordering::Relaxed) && work() {}));
    }

    fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl Pipeline {
    /// Starts all threads. [`Pipeline::wait`] says how it ended, to the thread that calls this.
    pub fn start(parts: Parts, metrics: Arc<Metrics>, health: Arc<Health>) -> Pipeline {
        let limit = match &parts.store {
            // The client has a second copy of what it sends.
            Store::Together { .. } => parts.memory_limit - client_memory(parts.memory_limit),
            _ => parts.memory_limit,
        };
        let permits = Arc::new(Permits::new(limit));
        let (jobs_in, jobs) = bounded(QUEUE);
        let (inlet, inbox) = inbox::inbox(QUEUE);
        let (ended_in, ended) = bounded(1);
        let (mut readers, mut threads) = (Vec::new(), Vec::new());

        let enriching = parts.knowledge.map(|knowledge| {
            let metadata = Metadata::new(knowledge.clone(), parts.rules.filter.clone(), permits.clone(), &metrics);
            let (unfinished_in, unfinished) = bounded(QUEUE);
            let enricher = Enricher {
                directory: Arc::new(Directory::new(knowledge.settings.clone(), metrics.enrich.clone())),
                knowledge,
                metadata: metadata.clone(),
                metrics: metrics.clone(),
                health: health.clone(),
                unfinished,
                batches: inlet.clone(),
            };
            let failing = permits.clone();
            threads.push(spawn("enricher", move || {
                if catch_unwind(AssertUnwindSafe(|| enricher.run())).is_err() {
                    failing.fail(Failed::Run("the enricher panicked: a bug, please report it".into()));
                }
            }));
            (metadata, unfinished_in)
        });
        let outlets = worker::Outlets { permits: permits.clone(), batches: inlet, enriching };
        let workers = Workers::new(jobs_in, Worker::new(parts.rules.clone(), metrics.clone(), outlets.clone()));

        let count = parts.sources.len();
        let handed_over: Vec<Arc<AtomicU64>> = parts.sources.iter().map(|_| Arc::default()).collect();
        let lanes = parts
            .sources
            .iter()
            .zip(&handed_over)
            .map(|(s, n)| Lane::new(&s.name, s.is_live, n.clone(), &metrics.pipeline))
            .collect();
        let (beginnings_in, beginnings) = bounded(parts.sources.len());
        let (mut keeps, mut places) = (Vec::new(), Vec::new());
        for (i, source) in parts.sources.into_iter().enumerate() {
            let (keep, place) = match source.keep {
                Keep::Topic(place) => (Keep::Nowhere, Some(place)),
                keep => (keep, None),
            };
            keeps.push(keep);
            places.push(place);
            let intake = Intake::new(
                i,
                source.decode,
                handed_over[i].clone(),
                workers.clone(),
                permits.clone(),
                beginnings_in.clone(),
            );
            let read = source.read;
            let failing = permits.clone();
            let without = permits.clone();
            let reader = try_spawn(&format!("reader-{i}"), move || {
                if catch_unwind(AssertUnwindSafe(|| read(intake))).is_err() {
                    failing.fail(Failed::Run(format!("reader {i} panicked: a bug, please report it")));
                }
            });
            match reader {
                Ok(reader) => readers.push(reader),
                Err(e) => without.fail(Failed::Run(format!(
                    "no thread for source {} of {count}: {e}; raise the limit of threads (ulimit -u, TasksMax=, pids.limit)",
                    i + 1
                ))),
            }
        }
        // Only readers hold the queue open: workers end when the last reader does.
        drop((workers, beginnings_in));
        for i in 0..parts.workers {
            let worker = Worker::new(parts.rules.clone(), metrics.clone(), outlets.clone());
            let jobs = jobs.clone();
            let failing = permits.clone();
            threads.push(spawn(&format!("worker-{i}"), move || {
                if catch_unwind(AssertUnwindSafe(|| worker.run(jobs))).is_err() {
                    failing.fail(Failed::Run(format!("worker {i} panicked: a bug, please report it")));
                }
            }));
        }
        drop((jobs, outlets));

        let (frontier, checkpointer) = checkpointer::new(keeps, beginnings, metrics.checkpoint.clone(), health.clone());
        let producer = Producer {
            sink: parts.sink,
            lanes,
            frontier,
            permits: permits.clone(),
            metrics: metrics.pipeline.clone(),
            health: health.clone(),
            format: parts.rules.format,
            snowflake: Snowflake::new(parts.snowflake.0, parts.snowflake.1),
            record_headers: parts.record_headers,
            topics: parts.topics.iter().map(|name| metrics.pipeline.topic(name)).collect(),
            letters: parts.letters,
        };
        let over = Arc::new(AtomicBool::new(false));
        type Save = Box<dyn FnOnce() -> Result<(), String> + Send>;
        let (save, produce): (Save, producer::Work) = match parts.store {
            Store::None => (Box::new(move || checkpointer.run()), producer::Work::Each(Box::new(producer))),
            Store::Behind { topic, client } => {
                let (latest, woken, beginnings) = checkpointer.parts();
                let saver = TopicSaver {
                    ledger: Ledger::new(&topic, parts.rules.routes.given(), places),
                    sink: client,
                    latest,
                    woken,
                    beginnings,
                    permits: permits.clone(),
                    metrics: metrics.checkpoint.clone(),
                    health,
                };
                let save = move || {
                    let over = Arc::new(AtomicBool::new(false));
                    let mut background = Helpers::new(over.clone());
                    let saved = saver.run(&mut |work| background.start(work));
                    // Not waited for: a call of theirs may last some seconds, and has nothing left to tell.
                    over.store(true, Ordering::Relaxed);
                    saved
                };
                (Box::new(save), producer::Work::Each(Box::new(producer)))
            }
            Store::Together { topic, interval } => {
                let once =
                    Once::new(producer, Ledger::new(&topic, parts.rules.routes.given(), places), interval, limit / 2);
                (Box::new(move || checkpointer.run()), producer::Work::Together(Box::new(once)))
            }
        };
        let failing = permits.clone();
        let waiting = thread::current();
        let producer = spawn("producer", move || {
            let saving = thread::Builder::new().name("checkpoint".into()).spawn(save);
            let saving = saving.expect("the system has threads left at the start");
            let mut background = Helpers::new(over.clone());
            // The producer is consumed by its run, and the frontier with it: that ends the checkpointer.
            let result = match produce {
                producer::Work::Each(producer) => producer.run(&inbox, |work| background.start(work)),
                producer::Work::Together(once) => once.run(&inbox, |work| background.start(work)),
            };
            let saved = saving.join().unwrap_or_else(|_| Err("the checkpoint thread panicked".into()));
            over.store(true, Ordering::Relaxed);
            let failed = failing.failure().map_or(Ok(()), Err);
            let _ = ended_in.send(failed.and(result.and(saved).map_err(Failed::Run)));
            waiting.unpark();
            background.join();
        });
        permits.report(&metrics.pipeline);
        Pipeline { permits, metrics, ended, readers, threads, producer }
    }

    /// Asks for the end: nothing new is read, what is in flight is delivered.
    pub fn stop(&self) {
        self.permits.close();
        self.producer.thread().unpark();
    }

    /// The outcome, when the pipeline ends within `timeout`, or before this thread is unparked.
    pub fn wait(&self, timeout: Duration) -> Option<Result<(), Failed>> {
        self.permits.report(&self.metrics.pipeline);
        if self.ended.is_empty() {
            thread::park_timeout(timeout);
        }
        // A producer that panicked says nothing.
        let is_gone = self.producer.is_finished();
        let panicked = || Err(Failed::Run("the producer thread panicked: a bug, please report it".into()));
        self.ended.try_recv().ok().or_else(|| is_gone.then(panicked))
    }

    /// Gives the readers a moment to end by themselves.
    pub fn join(self) {
        let until = Instant::now() + FAREWELL;
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let threads = self.readers.into_iter().chain(self.threads).chain([self.producer]);
        for thread in threads.filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

//! The producer: batches in, records out in order, deliveries back, the frontier forward. All of it is the private state
//! of one thread.
//!
//! This file is the loop. `sending` hands records to the sink, `returns` takes in what became of them, [`flow`] says how
//! much may be sent, `outstanding` numbers what was sent, `aside` keeps what a topic refuses for now, `letters` disposes of what
//! the broker never takes. [`once`] delivers in transactions instead; what both ways do alike is in `output`.

mod aside;
pub mod flow;
mod letter;
mod letters;
pub mod once;
mod output;
mod outstanding;
mod returns;
mod sending;
pub mod transaction;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::checkpointer::Frontier;
use super::inbox::Inbox;
use super::permits::Permits;
use super::sequencer::Sequencer;
use super::tracker::{Pending, Tracker};
use crate::dead_letter::Reason;
use crate::decode::batch::Batch;
use crate::event::Format;
use crate::event::osprey::Snowflake;
use crate::health::Health;
use crate::metrics::pipeline::{PipelineMetrics, TopicMetrics};
use crate::sink::{Background, Delivery, End, Returned, Sink, Start, State, Token};
use aside::Aside;
use flow::Flow;
use outstanding::{Outstanding, Owner};
use prometheus::{Gauge, IntGauge};

/// How long it waits at most before it looks around: for the end, a retry, or a wake-up that a sink does not give.
const LOOK_UP: Duration = Duration::from_millis(250);
/// The same with nothing in flight: a batch and a stop wake it.
const IDLE: Duration = Duration::from_millis(500);
/// The same when nothing comes any more: a sink that needs no time gives no wake-up, and the rest is to leave soon.
const ENDING: Duration = Duration::from_millis(5);
/// Between two attempts to make the sink ready.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);
/// What is in flight at a stop has so long to be delivered. What is not is read again after the restart.
pub const DRAIN: Duration = Duration::from_secs(8);

/// A source as the producer sees it.
pub struct Lane {
    name: String,
    last_seq_delivered: IntGauge,
    lag: Option<Gauge>,
    /// Jobs that the reader has handed over.
    handed_over: Arc<AtomicU64>,
    sequencer: Sequencer,
    tracker: Tracker,
}

impl Lane {
    /// `is_live`: the age of its events at delivery is its lag.
    pub fn new(name: &str, is_live: bool, handed_over: Arc<AtomicU64>, metrics: &PipelineMetrics) -> Self {
        Lane {
            name: name.into(),
            last_seq_delivered: metrics.last_seq_delivered(name),
            lag: is_live.then(|| metrics.lag(name)),
            handed_over,
            sequencer: Sequencer::default(),
            tracker: Tracker::default(),
        }
    }
}

/// What the producer's thread works with.
pub struct Producer {
    /// Where records go.
    pub sink: Box<dyn Sink>,
    /// One for each source, in their order.
    pub lanes: Vec<Lane>,
    /// Where it tells positions.
    pub frontier: Frontier,
    /// Where it gives back what batches held.
    pub permits: Arc<Permits>,
    /// Records, errors and times of delivery.
    pub metrics: Arc<PipelineMetrics>,
    /// Where it says what holds delivery up.
    pub health: Arc<Health>,
    /// Which form `info` events and ids have.
    pub format: Format,
    /// The ids of Osprey's envelope.
    pub snowflake: Snowflake,
    /// Whether Kafka records get headers.
    pub record_headers: bool,
    /// The topics of events, by index.
    pub topics: Vec<TopicMetrics>,
    /// Where dead letters go.
    pub letters: Letters,
}

/// Where dead letters go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    /// To the log alone.
    Log,
    /// To their topic.
    Topic,
    /// To their topic, and without the bytes to the log: the records of the topic have no headers, so no reason.
    Both,
}

impl Letters {
    /// Whether there is a topic of them.
    pub fn have_topic(self) -> bool {
        self != Letters::Log
    }
}

/// The two ways to deliver.
pub enum Work {
    /// Each record by itself, at least once.
    Each(Box<Producer>),
    /// In transactions, exactly once.
    Together(Box<once::Once>),
}

/// A batch that is being sent: how far it is.
struct Sending {
    batch: Batch,
    record: usize,
    dead: usize,
}

/// A record that came back and is to be sent again.
struct Again {
    record: Returned,
    /// The broker refused its batch for good: it may be the reason.
    suspect: bool,
}

/// What lives only while the producer runs.
struct Run {
    p: Producer,
    outbox: VecDeque<Sending>,
    /// What was handed to the sink.
    outstanding: Outstanding,
    /// Records that came back, by the number of their first sending: they are sent again in that order, before anything new.
    again: BTreeMap<Token, Again>,
    /// Records of topics that refuse for now.
    aside: Aside,
    /// Dead letters on their way to their topic.
    letters: VecDeque<(Owner, Returned)>,
    /// Records that the sink has taken and not reported.
    with_sink: usize,
    flow: Flow,
    /// Records whose batch was refused for good since the sink was last empty: alone, it is the reason. With what was said.
    refused: usize,
    refusal: Option<(Token, Reason, String)>,
    /// The sink was ready once.
    prepared: bool,
    done: Vec<Delivery>,
}

impl Producer {
    /// Runs until all sources have ended or the permits are closed, and nothing is in flight; once they are closed, for
    /// [`DRAIN`] at most. `start` starts a thread of the sink.
    pub fn run(self, inbox: &Inbox<Batch>, mut start: impl FnMut(Background)) -> Result<(), String> {
        let start: Start<'_> = &mut start;
        let mut run = Run {
            aside: Aside::new(self.topics.len() + usize::from(self.letters.have_topic())),
            p: self,
            outbox: VecDeque::new(),
            outstanding: Outstanding::default(),
            again: BTreeMap::new(),
            letters: VecDeque::new(),
            with_sink: 0,
            flow: Flow::default(),
            refused: 0,
            refusal: None,
            prepared: false,
            done: Vec::new(),
        };
        let ended = run.prepare(inbox, start).and_then(|()| run.deliver(inbox, start));
        // Readers must not wait for permits that nobody gives back any more.
        run.p.permits.close();
        match ended {
            Ok(()) => Ok(()),
            Err(End::Closed) => {
                log::info!(event = "stopping"; "the reader of our output closed it");
                Ok(())
            }
            Err(End::Failed(reason)) => Err(reason),
        }
    }
}

impl Run {
    /// Makes the sink ready, or ready again after it broke: tries until it is, or until the end is asked for.
    fn prepare(&mut self, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<(), End> {
        let mut said = None;
        loop {
            self.p.health.turn();
            // Readers only wait meanwhile, and nothing was saved that is not in the files already.
            match self.p.sink.prepare(&|id| self.p.frontier.cluster(id), start) {
                Ok(()) => break,
                Err(why) => self.p.not_ready(why, &mut said)?,
            }
            // They wait here, so that their age is known.
            inbox.take(|batch| self.accept(batch));
            self.in_flight();
            let until = Instant::now() + PREPARE_AGAIN;
            while Instant::now() < until {
                if self.p.permits.is_closed() {
                    return Ok(());
                }
                std::thread::sleep(LOOK_UP);
            }
        }
        self.prepared = true;
        self.p.is_ready(said);
        self.tell_aside();
        Ok(())
    }

    fn deliver(&mut self, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<(), End> {
        if !self.prepared {
            // Stopped before: waiting would not help.
            if !self.p.permits.is_idle() {
                log::warn!(
                    event = "not_delivered";
                    "the output was never ready: what is in flight is read again after the restart"
                );
            }
            return Ok(());
        }
        let mut drain_until = None;
        let mut finished = false;
        let mut looked = Instant::now();
        loop {
            let longest = match finished {
                true => ENDING,
                false if self.p.permits.is_idle() => IDLE,
                false => LOOK_UP,
            };
            inbox.wait(self.p.sink.nap().map_or(longest, |nap| nap.min(longest)));
            // The workers are gone, which they are only when the readers are: what is left is to wait for deliveries.
            finished |= !inbox.take(|batch| self.accept(batch));
            if self.with_sink == 0 && !self.empty(inbox, start)? {
                return Ok(());
            }
            self.send()?;
            if inbox.is_empty() || !self.outbox.is_empty() {
                self.p.sink.flush()?;
            }
            self.collect()?;

            let now = Instant::now();
            if now - looked >= LOOK_UP {
                looked = now;
                self.p.health.turn();
                let oldest = self.in_flight();
                match self.p.sink.state() {
                    // Nothing waits: whether a broker is away does not matter, and nobody would hear that it is back.
                    _ if oldest.is_none() => self.p.health.sink(Ok(())),
                    State::Hindered(why) => self.p.health.sink(Err(why)),
                    State::Well | State::Broken => {}
                }
                if self.p.permits.is_closed() {
                    let until = *drain_until.get_or_insert(now + DRAIN);
                    if now >= until {
                        log::warn!(
                            event = "not_delivered";
                            "not everything in flight was delivered in {} s: it is read again after the restart",
                            DRAIN.as_secs()
                        );
                        return Ok(());
                    }
                }
            }
            if (finished || self.p.permits.is_closed()) && self.p.permits.is_idle() {
                return Ok(());
            }
        }
    }

    /// Tells what waits for a worker, and what to be acknowledged. When the oldest batch was read.
    fn in_flight(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let lanes = self.p.lanes.iter_mut();
        let missing = lanes.filter_map(|l| l.sequencer.missing_since(l.handed_over.load(Ordering::Relaxed), now));
        self.p.health.undecoded_since(missing.min());
        let oldest = self.p.lanes.iter().enumerate().filter_map(|(source, lane)| {
            let oldest = lane.tracker.oldest();
            self.p.health.in_flight(source, oldest);
            oldest.map(|oldest| oldest.received)
        });
        oldest.min()
    }

    /// Puts a batch into its place; what is next in order goes to the outbox.
    fn accept(&mut self, mut batch: Batch) {
        let needs = batch.needs();
        if needs > batch.cost {
            self.p.permits.grow(needs - batch.cost);
            batch.cost = needs;
        }
        self.p.health.decoded(batch.source, batch.frames, batch.unreadable);
        let lane = &mut self.p.lanes[batch.source];
        lane.sequencer.put(batch);
        while let Some(mut batch) = lane.sequencer.take() {
            lane.tracker.begin(Pending {
                unacknowledged: batch.records.len() + batch.dead.len(),
                position: batch.position.take(),
                received: batch.received,
                frames: batch.frames,
                cost: batch.cost,
            });
            self.outbox.push_back(Sending { batch, record: 0, dead: 0 });
        }
    }

    /// The sink holds nothing: after a refusal, what comes next. `false` when the end was asked for meanwhile.
    fn empty(&mut self, inbox: &Inbox<Batch>, start: Start<'_>) -> Result<bool, End> {
        if self.flow.is_free() {
            return Ok(true);
        }
        if self.flow.is_draining() && self.p.sink.state() == State::Broken {
            self.prepared = false;
            self.prepare(inbox, start)?;
            if !self.prepared {
                return Ok(false);
            }
        }
        // A batch of one record: this is the reason. Unless it was the time, and gets another one now.
        if let (1, Some((token, reason, detail))) = (std::mem::take(&mut self.refused), self.refusal.take())
            && !self.p.sink.takes_other_times()
            && let Some(culprit) = self.again.remove(&token)
        {
            self.never(token, culprit.record, reason, detail, None);
        }
        self.flow.empty(self.again.values().filter(|again| again.suspect).count());
        Ok(true)
    }
}

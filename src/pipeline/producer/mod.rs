//! The producer: batches in, records out in order, deliveries back, the frontier forward. All of it is the private state
//! of one thread.
//!
//! [`flow`] says how much may be sent, [`outstanding`] numbers what was sent, `letters` disposes of what the broker never
//! takes.

pub mod flow;
mod letters;
mod outstanding;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::checkpointer::Frontier;
use super::permits::{Failed, Permits};
use super::sequencer::Sequencer;
use super::tracker::{Pending, Tracker};
use crate::atproto::time;
use crate::dead_letter::{DeadLetter, Reason};
use crate::decode::batch::Batch;
use crate::event::Format;
use crate::event::osprey::{self, Snowflake};
use crate::health::Health;
use crate::metrics::pipeline::PipelineMetrics;
use crate::sink::{
    Background, Delivery, End, Failure, NotReady, Outgoing, Refused, Returned, Sink, Token, Topic, Verdict,
};
use flow::{Flow, PAUSE};
use outstanding::{Outstanding, Owner};
use prometheus::{Gauge, IntGauge};

/// How long it waits at most before it looks around: for the end, a retry, or a wake-up that a sink does not give.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Between two attempts to make the sink ready.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);
/// What is in flight at a stop has so long to be delivered. What is not is read again after the restart.
pub const DRAIN: Duration = Duration::from_secs(8);
/// After so long without a delivery, and again each time, the sink is nudged.
const NUDGE_AFTER: Duration = Duration::from_secs(15);
/// Log lines about dead letters in ten seconds.
const DEAD_LETTER_LINES: u64 = 50;

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
    /// Whether there is a topic for dead letters.
    pub dead_letter_topic: bool,
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
    /// [`DRAIN`] at most. `start_background` starts a thread
    /// for the sink, each time that it is made ready.
    pub fn run(self, batches: &Receiver<Batch>, mut start_background: impl FnMut(Background)) -> Result<(), String> {
        let mut run = Run {
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
        let ended =
            run.prepare(batches, &mut start_background).and_then(|()| run.deliver(batches, &mut start_background));
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
    fn prepare(&mut self, batches: &Receiver<Batch>, start_background: &mut impl FnMut(Background)) -> Result<(), End> {
        let mut said = None;
        loop {
            self.p.health.turn();
            // Readers only wait meanwhile, and nothing was saved that is not in the files already.
            match self.p.sink.prepare(&|id| self.p.frontier.cluster(id)) {
                Ok(()) => break,
                Err(NotReady::Ever(reason)) => return Err(End::Failed(reason)),
                Err(NotReady::Settings(reason)) => {
                    self.p.permits.fail(Failed::Settings(reason.clone()));
                    return Err(End::Failed(reason));
                }
                Err(NotReady::Yet(reason)) => {
                    self.p.metrics.kafka_errors.inc();
                    // Once, and again when the cause changes; until then it stands in the status and in /readyz.
                    if said.as_ref() != Some(&reason) {
                        log::warn!(
                            event = "output_not_ready", reason = reason;
                            "output: {reason} (it is tried again until it works)"
                        );
                        said = Some(reason.clone());
                    }
                    self.p.health.sink(Err(reason));
                }
            }
            // They wait here, so that their age is known.
            for batch in batches.try_iter() {
                self.accept(batch);
            }
            self.in_flight();
            let until = Instant::now() + PREPARE_AGAIN;
            while Instant::now() < until {
                if self.p.permits.is_closed() {
                    return Ok(());
                }
                std::thread::sleep(LOOK_UP);
            }
        }
        if said.is_some() {
            log::info!(event = "output_ready"; "output: connected");
        }
        self.prepared = true;
        self.p.health.sink(Ok(()));
        if let Some(work) = self.p.sink.background() {
            start_background(work);
        }
        Ok(())
    }

    fn deliver(&mut self, batches: &Receiver<Batch>, start_background: &mut impl FnMut(Background)) -> Result<(), End> {
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
        let ready = self.p.sink.ready();
        let mut drain_until = None;
        let mut finished = false;
        let (mut looked, mut nudged) = (Instant::now(), Instant::now());
        loop {
            select! {
                recv(batches) -> batch => match batch {
                    Ok(batch) => {
                        self.accept(batch);
                        for batch in batches.try_iter() {
                            self.accept(batch);
                        }
                    }
                    // The workers are gone, which they are only when the readers are: what is left is to wait for deliveries.
                    Err(_) => {
                        finished = true;
                        std::thread::sleep(Duration::from_millis(5));
                    }
                },
                recv(ready) -> _ => {}
                default(LOOK_UP) => {}
            }
            if self.with_sink == 0 && !self.empty(batches, start_background)? {
                return Ok(());
            }
            self.send()?;
            if batches.is_empty() || !self.outbox.is_empty() {
                self.p.sink.flush()?;
            }
            self.collect()?;

            let now = Instant::now();
            if now - looked >= LOOK_UP {
                looked = now;
                self.p.health.turn();
                let oldest = self.in_flight();
                match self.p.sink.complaint() {
                    // Nothing waits: whether a broker is away does not matter, and nobody would hear that it is back.
                    _ if oldest.is_none() => self.p.health.sink(Ok(())),
                    Some(complaint) => self.p.health.sink(Err(complaint)),
                    None => {}
                }
                if oldest.is_some_and(|at| at.elapsed() >= NUDGE_AFTER) && nudged.elapsed() >= NUDGE_AFTER {
                    nudged = now;
                    self.p.sink.nudge();
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
    fn empty(&mut self, batches: &Receiver<Batch>, start_background: &mut impl FnMut(Background)) -> Result<bool, End> {
        if self.flow.is_free() || !self.flow.pause_is_over(Instant::now()) {
            return Ok(true);
        }
        if self.flow.is_draining() && self.p.sink.broken() {
            self.prepared = false;
            self.prepare(batches, start_background)?;
            if !self.prepared {
                return Ok(false);
            }
        }
        // A batch of one record: this is the reason.
        if let (1, Some((token, reason, detail))) = (std::mem::take(&mut self.refused), self.refusal.take())
            && let Some(culprit) = self.again.remove(&token)
        {
            self.never(token, culprit.record, reason, detail, None);
        }
        self.flow.empty(self.again.values().filter(|again| again.suspect).count());
        Ok(true)
    }

    /// Hands records to the sink, as many as may be sent and it takes: first those that came back.
    fn send(&mut self) -> Result<(), End> {
        while self.flow.allowance() > 0 {
            // Sent again under its number, so that it keeps its place if it comes back again.
            let Some((token, again)) = self.again.pop_first() else { break };
            let time_ms = self.outstanding.time_ms(token).unwrap_or_else(time::now_ms);
            match self.hand_over(&again.record, time_ms, token)? {
                None => {}
                Some(Refused::TooLarge { detail, excess }) => {
                    self.never(token, again.record, Reason::TooLarge, detail, Some(excess));
                }
                Some(_) => {
                    self.again.insert(token, again);
                    return Ok(());
                }
            }
        }
        while self.flow.allowance() > 0
            && let Some((owner, letter)) = self.letters.pop_front()
        {
            let (token, now) = (self.outstanding.next(), time::now_ms());
            match self.hand_over(&letter, now, token)? {
                None => self.outstanding.add(owner, now),
                Some(Refused::TooLarge { detail, excess }) => self.shorten(owner, letter, excess, &detail),
                Some(_) => {
                    self.letters.push_front((owner, letter));
                    return Ok(());
                }
            }
        }
        while self.flow.allowance() > 0
            && let Some(mut sending) = self.outbox.pop_front()
        {
            if !self.send_batch(&mut sending)? {
                self.outbox.push_front(sending);
                break;
            }
        }
        Ok(())
    }

    /// Hands a record of our own to the sink.
    fn hand_over(&mut self, record: &Returned, time_ms: i64, token: Token) -> Result<Option<Refused>, End> {
        let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        let out = Outgoing { topic: record.topic, key: &record.key, value: &record.value, time_ms, headers: &headers };
        let result = self.p.sink.send(&out, token);
        self.sort(result)
    }

    /// Notes what a refusal says. `None` when the record was taken.
    fn sort(&mut self, result: Result<(), Refused>) -> Result<Option<Refused>, End> {
        match result {
            Ok(()) => {
                self.with_sink += 1;
                self.flow.sent();
                return Ok(None);
            }
            Err(Refused::Ended(end)) => return Err(end),
            Err(Refused::Error(reason)) => {
                self.trouble(&reason);
                self.flow.refused(Instant::now() + PAUSE);
            }
            Err(Refused::Broken) => self.flow.refused(Instant::now()),
            Err(refused) => return Ok(Some(refused)),
        }
        Ok(Some(Refused::Full))
    }

    fn trouble(&mut self, reason: &str) {
        self.p.metrics.produced_error.inc();
        log::warn!(
            at_most = 1, event = "output_error", error = reason;
            "output: {reason}; it is sent again until it is taken"
        );
        self.p.health.sink(Err(reason.into()));
    }

    /// `true` when all of the batch was taken, or disposed of.
    fn send_batch(&mut self, sending: &mut Sending) -> Result<bool, End> {
        let owner = Owner { source: sending.batch.source, ordinal: sending.batch.ordinal, letter: false };
        while let Some(record) = sending.batch.records.get(sending.record) {
            if self.flow.allowance() == 0 {
                return Ok(false);
            }
            if self.p.format == Format::Osprey {
                osprey::stamp(&mut sending.batch.bytes[record.value.clone()], self.p.snowflake.next(time::now_ms()));
            }
            let bytes = &sending.batch.bytes;
            let mut seq = itoa::Buffer::new();
            let headers = [
                ("seq", seq.format(record.seq).as_bytes()),
                ("action", record.action.name().as_bytes()),
                ("collection", &bytes[record.collection.clone()]),
            ];
            let out = Outgoing {
                topic: Topic::Events,
                key: &bytes[record.key.clone()],
                value: &bytes[record.value.clone()],
                time_ms: record.time_ms,
                headers: if self.p.record_headers { &headers } else { &[] },
            };
            let result = self.p.sink.send(&out, self.outstanding.next());
            match self.sort(result)? {
                None => self.outstanding.add(owner, record.time_ms),
                Some(Refused::TooLarge { detail, .. }) => {
                    let letter = DeadLetter {
                        reason: Reason::TooLarge,
                        detail,
                        seq: record.seq,
                        bytes: bytes[record.value.clone()].to_vec(),
                    };
                    self.dead_letter(owner, &letter);
                }
                Some(_) => return Ok(false),
            }
            sending.record += 1;
        }
        while let Some(letter) = sending.batch.dead.get(sending.dead) {
            self.dead_letter(owner, letter);
            sending.dead += 1;
        }
        Ok(true)
    }

    /// One record of a batch, or a dead letter of it, is done with.
    fn acknowledge(&mut self, owner: Owner) {
        self.p.lanes[owner.source].tracker.acknowledge(owner.ordinal);
    }

    /// Takes in what became of records, and moves the frontiers.
    fn collect(&mut self) -> Result<(), End> {
        let mut done = std::mem::take(&mut self.done);
        self.p.sink.poll(&mut done)?;
        let mut delivered = 0;
        for Delivery { token, result } in done.drain(..) {
            // A report that comes again says nothing new.
            if self.outstanding.is_settled(token) || self.again.contains_key(&token) {
                continue;
            }
            self.with_sink -= 1;
            match result {
                Ok(()) => {
                    if let Some(owner) = self.outstanding.settle(token) {
                        delivered += u64::from(!owner.letter);
                        self.acknowledge(owner);
                    }
                }
                Err(failure) => self.came_back(token, *failure),
            }
        }
        self.done = done;
        if delivered > 0 {
            self.p.metrics.produced_ok.inc_by(delivered);
            if self.again.is_empty() {
                self.p.health.sink(Ok(()));
            }
        }
        for source in 0..self.p.lanes.len() {
            let lane = &mut self.p.lanes[source];
            let mut reached = None;
            while let Some(batch) = lane.tracker.advance() {
                self.p.metrics.delivery_seconds.observe(batch.received.elapsed().as_secs_f64());
                if let Some(position) = batch.position {
                    reached = Some((position.time_ms, position.seq));
                    self.p.frontier.moved(source, position);
                }
                // Last: who sees that nothing is in flight also finds the last position.
                self.p.permits.release(batch.frames, batch.cost);
            }
            if let Some((time_ms, seq)) = reached {
                if let Some(seq) = seq {
                    lane.last_seq_delivered.set(seq as i64);
                }
                if let Some(gauge) = lane.lag.as_ref().filter(|_| time_ms != 0) {
                    let lag = (time::now_ms() - time_ms) as f64 / 1000.0;
                    gauge.set(lag);
                    self.p.health.delivered(source, lag);
                }
            }
        }
        Ok(())
    }

    /// A record was not delivered: it is sent again in its place, or it is what its batch was refused for.
    fn came_back(&mut self, token: Token, failure: Failure) {
        let now = Instant::now();
        let suspect = match failure.verdict {
            Verdict::Never(reason) => {
                self.p.metrics.produced_error.inc();
                log::warn!(
                    at_most = 1, event = "output_refused", error = failure.error;
                    "output: {}; the batch is sent again in halves, to find the record that is meant",
                    failure.error
                );
                self.flow.refused(now);
                self.refused += 1;
                self.refusal = Some((token, reason, failure.error));
                true
            }
            Verdict::Later => {
                self.trouble(&failure.error);
                self.flow.refused(now + PAUSE);
                false
            }
            Verdict::Collateral => {
                self.flow.refused(now);
                false
            }
        };
        self.again.insert(token, Again { record: failure.record, suspect });
    }
}

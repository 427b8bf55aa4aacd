//! The producer: batches in, records out in order, deliveries back, the frontier forward. All of it is the private
//! state of one thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::batch::Batch;
use super::checkpointer::Frontier;
use super::permits::{Failed, Permits};
use super::sequencer::Sequencer;
use super::tracker::{Pending, Tracker};
use crate::atproto::time;
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{self, Format, Snowflake};
use crate::health::Health;
use crate::log::Periodic;
use crate::metrics::{Metrics, SourceMetrics};
use crate::sink::{Delivery, End, NotReady, Outgoing, Refused, Returned, Sink, Token, Topic};

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
    gauges: SourceMetrics,
    /// Jobs that the reader has handed over.
    handed_over: Arc<AtomicU64>,
    sequencer: Sequencer,
    tracker: Tracker,
}

impl Lane {
    pub fn new(name: &str, handed_over: Arc<AtomicU64>, metrics: &Metrics) -> Self {
        Lane {
            name: name.into(),
            gauges: metrics.source(name),
            handed_over,
            sequencer: Sequencer::default(),
            tracker: Tracker::default(),
        }
    }
}

pub struct Producer {
    pub sink: Box<dyn Sink>,
    pub lanes: Vec<Lane>,
    pub frontier: Frontier,
    pub permits: Arc<Permits>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub format: Format,
    pub snowflake: Snowflake,
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

/// What lives only while the producer runs.
struct Run {
    p: Producer,
    outbox: VecDeque<Sending>,
    /// Dead letters on their way to their topic, and records that came back: sent before anything new.
    again: VecDeque<(Token, Returned)>,
    /// Records of a batch that the broker refused for good, for one of them. Each is sent once more, alone: the
    /// innocent ones pass, and the other shows.
    suspects: VecDeque<(Token, Returned)>,
    /// A suspect is on its way, with nothing else.
    probing: bool,
    /// Records that the sink has taken and not reported.
    with_sink: usize,
    /// Something came back: until the sink is empty, and a moment has passed, nothing is sent. So the order stays, and
    /// an error that lasts does not go round at full speed.
    held: Option<Instant>,
    /// The sink was ready once.
    prepared: bool,
    done: Vec<Delivery>,
    errors: Periodic,
    dead_letter_log: Periodic,
}

/// Bits of a token that are the ordinal; the source is above them. 2^47 batches are 4,400 years at 1,000 a second.
const ORDINAL_BITS: u32 = 47;
/// Set in the token of a dead letter: its delivery is not that of an event.
const LETTER: Token = 1 << 63;

fn token(source: usize, ordinal: u64) -> Token {
    (source << ORDINAL_BITS) | ordinal as usize
}

fn source(token: Token) -> usize {
    (token & !LETTER) >> ORDINAL_BITS
}

impl Producer {
    /// Runs until the permits are closed and nothing is in flight, or [`DRAIN`] is over. `start_background` starts the
    /// sink's own thread, once it is ready.
    pub fn run(
        self,
        batches: &Receiver<Batch>,
        start_background: impl FnOnce(Box<dyn FnMut() + Send>),
    ) -> Result<(), String> {
        let mut run = Run {
            p: self,
            outbox: VecDeque::new(),
            again: VecDeque::new(),
            suspects: VecDeque::new(),
            probing: false,
            with_sink: 0,
            held: None,
            prepared: false,
            done: Vec::new(),
            errors: Periodic::new(1),
            dead_letter_log: Periodic::new(DEAD_LETTER_LINES),
        };
        let ended = run.prepare(start_background).and_then(|()| run.deliver(batches));
        // Readers must not wait for permits that nobody gives back any more.
        run.p.permits.close();
        match ended {
            Ok(()) => Ok(()),
            Err(End::Closed) => {
                log::info!("the reader of our output closed it");
                Ok(())
            }
            Err(End::Failed(reason)) => Err(reason),
        }
    }
}

impl Run {
    fn prepare(&mut self, start_background: impl FnOnce(Box<dyn FnMut() + Send>)) -> Result<(), End> {
        loop {
            self.p.health.turn();
            match self.p.sink.prepare() {
                Ok(()) => break,
                Err(NotReady::Ever(reason)) => return Err(End::Failed(reason)),
                Err(NotReady::Yet(reason)) => {
                    self.errors.warn(&format!("output: {reason}; it is tried again until it works"));
                    self.p.health.sink(Err(reason));
                }
            }
            let until = Instant::now() + PREPARE_AGAIN;
            while Instant::now() < until {
                if self.p.permits.is_closed() {
                    return Ok(());
                }
                std::thread::sleep(LOOK_UP);
            }
        }
        // Before the first record: readers only wait meanwhile, and nothing was saved that is not in the files already.
        if let Some(Err(reason)) = self.p.sink.cluster().map(|id| self.p.frontier.cluster(&id)) {
            self.p.permits.fail(Failed::Settings(reason.clone()));
            return Err(End::Failed(reason));
        }
        self.prepared = true;
        self.p.health.sink(Ok(()));
        if let Some(work) = self.p.sink.background() {
            start_background(work);
        }
        Ok(())
    }

    fn deliver(&mut self, batches: &Receiver<Batch>) -> Result<(), End> {
        if !self.prepared {
            // Stopped before: waiting would not help.
            if !self.p.permits.is_idle() {
                log::warn!("the output was never ready: what is in flight is read again after the restart");
            }
            return Ok(());
        }
        let ready = self.p.sink.ready();
        let mut drain_until = None;
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
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                },
                recv(ready) -> _ => {}
                default(LOOK_UP) => {}
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
                if let Some(complaint) = self.p.sink.complaint() {
                    self.p.health.sink(Err(complaint));
                }
                let oldest = self.p.lanes.iter().filter_map(|l| l.tracker.oldest()).min();
                self.p.health.in_flight_since(oldest);
                let missing = self
                    .p
                    .lanes
                    .iter_mut()
                    .filter_map(|l| l.sequencer.missing_since(l.handed_over.load(Ordering::Relaxed), now));
                self.p.health.undecoded_since(missing.min());
                if oldest.is_some_and(|at| at.elapsed() >= NUDGE_AFTER) && nudged.elapsed() >= NUDGE_AFTER {
                    nudged = now;
                    self.p.sink.nudge();
                }
                if self.p.permits.is_closed() {
                    let until = *drain_until.get_or_insert(now + DRAIN);
                    if now >= until {
                        log::warn!(
                            "not everything in flight was delivered in {} s: it is read again after the restart",
                            DRAIN.as_secs()
                        );
                        return Ok(());
                    }
                }
            }
            if self.p.permits.is_closed() && self.p.permits.is_idle() {
                return Ok(());
            }
        }
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

    /// Hands records to the sink, as many as it takes.
    fn send(&mut self) -> Result<(), End> {
        if let Some(since) = self.held {
            if self.with_sink > 0 || since.elapsed() < LOOK_UP {
                return Ok(());
            }
            self.held = None;
        }
        if self.probing || !self.suspects.is_empty() {
            if self.with_sink == 0 && self.again.is_empty() {
                self.again.extend(self.suspects.pop_front());
                self.probing = true;
            }
            self.send_again()?;
            // A suspect that the sink itself refused is not on its way.
            self.probing &= self.with_sink > 0 || !self.again.is_empty();
            return Ok(());
        }
        if !self.send_again()? {
            return Ok(());
        }
        while let Some(mut sending) = self.outbox.pop_front() {
            if !self.send_batch(&mut sending)? {
                self.outbox.push_front(sending);
                return Ok(());
            }
        }
        // Dead letters of these batches.
        self.send_again().map(drop)
    }

    /// Sends what is to be sent before anything new. `true` when all of it was taken.
    fn send_again(&mut self) -> Result<bool, End> {
        while let Some((token, record)) = self.again.pop_front() {
            let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
            let out = Outgoing {
                topic: record.topic,
                key: &record.key,
                value: &record.value,
                time_ms: record.time_ms,
                headers: &headers,
            };
            let result = self.p.sink.send(&out, token);
            if let Some(refused) = self.sort(result)? {
                match refused {
                    Refused::TooLarge(detail) => self.never(token, &record, Reason::TooLarge, detail),
                    _ => {
                        self.again.push_front((token, record));
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Notes what a refusal says. `None` when the record was taken.
    fn sort(&mut self, result: Result<(), Refused>) -> Result<Option<Refused>, End> {
        match result {
            Ok(()) => {
                self.with_sink += 1;
                Ok(None)
            }
            Err(Refused::Ended(end)) => Err(end),
            Err(Refused::Error(reason)) => {
                self.trouble(&reason);
                Ok(Some(Refused::Error(reason)))
            }
            Err(refused) => Ok(Some(refused)),
        }
    }

    fn trouble(&mut self, reason: &str) {
        self.p.metrics.produced_error.inc();
        self.errors.warn(&format!("output: {reason}; it is sent again until it is taken"));
        self.p.health.sink(Err(reason.into()));
    }

    /// `true` when all of the batch was taken.
    fn send_batch(&mut self, sending: &mut Sending) -> Result<bool, End> {
        let token = token(sending.batch.source, sending.batch.ordinal);
        while let Some(record) = sending.batch.records.get(sending.record) {
            if self.p.format == Format::Osprey {
                event::stamp(&mut sending.batch.bytes[record.value.clone()], self.p.snowflake.next(time::now_ms()));
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
            let result = self.p.sink.send(&out, token);
            match self.sort(result)? {
                None => {}
                Some(Refused::TooLarge(detail)) => {
                    let letter = DeadLetter {
                        reason: Reason::TooLarge,
                        detail,
                        seq: record.seq,
                        bytes: bytes[record.value.clone()].to_vec(),
                    };
                    self.dead_letter(token, &letter);
                }
                Some(_) => return Ok(false),
            }
            sending.record += 1;
        }
        while let Some(letter) = sending.batch.dead.get(sending.dead) {
            self.dead_letter(token, letter);
            sending.dead += 1;
        }
        Ok(true)
    }

    /// Counts a dead letter and disposes of it: to its topic, or to the log.
    fn dead_letter(&mut self, token: Token, letter: &DeadLetter) {
        self.p.metrics.dead_letter(letter.reason).inc();
        let lane = &self.p.lanes[source(token)];
        if self.p.dead_letter_topic {
            let header = |key: &str, value: &str| (key.to_string(), value.as_bytes().to_vec());
            let record = Returned {
                topic: Topic::DeadLetters,
                key: Vec::new(),
                value: letter.bytes.clone(),
                time_ms: time::now_ms(),
                headers: vec![
                    header("reason", letter.reason.name()),
                    header("host", &lane.name),
                    header("seq", &letter.seq.to_string()),
                    header("detail", &letter.detail),
                ],
            };
            self.again.push_back((token | LETTER, record));
        }
        if !self.p.dead_letter_topic || !self.p.sink.has_headers() {
            self.log_letter(token, letter.reason.name(), &letter.seq.to_string(), &letter.detail);
        }
        if !self.p.dead_letter_topic {
            self.acknowledge(token);
        }
    }

    fn log_letter(&self, token: Token, reason: &str, seq: &str, detail: &str) {
        let name = &self.p.lanes[source(token)].name;
        self.dead_letter_log.warn(&format!("dead letter: {reason}: {name} seq {seq}: {detail}"));
    }

    /// A record that the broker never takes: an event becomes a dead letter, a dead letter a log line.
    fn never(&mut self, token: Token, record: &Returned, reason: Reason, detail: String) {
        match record.topic {
            Topic::Events => {
                let key = String::from_utf8_lossy(&record.key);
                let letter = DeadLetter {
                    reason,
                    detail: format!("event of {key}: {detail}"),
                    seq: 0,
                    bytes: record.value.clone(),
                };
                self.dead_letter(token, &letter);
            }
            Topic::DeadLetters => {
                let header = |name: &str| {
                    record
                        .headers
                        .iter()
                        .find(|(k, _)| k == name)
                        .map(|(_, v)| String::from_utf8_lossy(v).into_owned())
                        .unwrap_or_default()
                };
                let detail = format!("{} (not in the dead-letter topic: {detail})", header("detail"));
                self.log_letter(token, &header("reason"), &header("seq"), &detail);
                self.acknowledge(token);
            }
        }
    }

    fn acknowledge(&mut self, token: Token) {
        let lane = &mut self.p.lanes[source(token)];
        lane.tracker.acknowledge((token & ((1 << ORDINAL_BITS) - 1)) as u64);
    }

    /// Takes in what became of records, and moves the frontiers.
    fn collect(&mut self) -> Result<(), End> {
        let mut done = std::mem::take(&mut self.done);
        self.p.sink.poll(&mut done)?;
        let mut delivered = 0;
        for Delivery { token, result } in done.drain(..) {
            self.with_sink -= 1;
            // Only one record is on its way then: this one.
            let alone = std::mem::take(&mut self.probing);
            match result {
                Ok(()) => {
                    delivered += u64::from(token & LETTER == 0);
                    self.acknowledge(token);
                }
                Err(failure) => match failure.never {
                    Some(reason) if alone => self.never(token, &failure.record, reason, failure.error),
                    Some(_) => {
                        self.p.metrics.produced_error.inc();
                        self.errors
                            .warn(&format!("output: {}; each record of that batch is sent alone", failure.error));
                        self.suspects.push_back((token, failure.record));
                    }
                    None => {
                        self.trouble(&failure.error);
                        self.held = Some(Instant::now());
                        self.again.push_back((token, failure.record));
                    }
                },
            }
        }
        self.done = done;
        if delivered > 0 {
            self.p.metrics.produced_ok.inc_by(delivered);
            if self.again.is_empty() && self.suspects.is_empty() {
                self.p.health.sink(Ok(()));
            }
        }
        for source in 0..self.p.lanes.len() {
            let lane = &mut self.p.lanes[source];
            let mut reached = None;
            while let Some(batch) = lane.tracker.advance() {
                self.p.metrics.delivery_seconds.observe(batch.received.elapsed().as_secs_f64());
                if let Some(position) = batch.position {
                    reached = Some((position.time_ms(), position.seq()));
                    self.p.frontier.moved(source, position);
                }
                // Last: who sees that nothing is in flight also finds the last position.
                self.p.permits.release(batch.frames, batch.cost);
            }
            if let Some((time_ms, seq)) = reached {
                if let Some(seq) = seq {
                    lane.gauges.last_seq_delivered.set(seq as i64);
                }
                if time_ms != 0 {
                    lane.gauges.lag.set((time::now_ms() - time_ms) as f64 / 1000.0);
                }
            }
        }
        Ok(())
    }
}

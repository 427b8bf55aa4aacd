//! The default client: every broker, TLS, SASL, idempotence, all codecs. By librdkafka's synchronous interface alone.
//!
//! It owns the client and makes it anew when it broke or its files were renewed. It knows the topics, and neither batches
//! nor the order in which what failed is sent again, which is the producer's matter. The producer's thread calls it;
//! `delivery` serves callbacks (see [`queue`]) and `renewal` watches files, each on a thread of its own.

mod config;
mod context;
mod delivery;
mod figures;
mod group;
pub mod inspect;
mod queue;
mod renewal;
mod cursor_topic;
mod topics;
mod transactions;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::diagnosis::Client;
use super::files::{self, Files, Seen};
use super::kafka_options::{Kafka, Sasl};
use super::limits::Limits;
use super::oauth::Tokens;
use super::transaction::{Identity, Transactions};
use super::{
    Background, Delivery, End, NotReady, Outgoing, Refused, SameCluster, Sink, Start, State, Token, Topic, locked,
};
use crate::clock;
use crate::metrics::sink::SinkMetrics;
use config::{broken_promise, config, refused};
use context::{Context, Shared};
use delivery::Serving;
use group::Member;
use queue::{NAP, Queue};
use renewal::Renewal;
use topics::Topics;

/// How long one question to the brokers may take.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// Between two questions for the limit of a topic that takes less than a record has.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// What the client lets pass at most, and the limit of a topic whose own cannot be read: the broker decides. Above any
/// frame.
const CLIENT_MAX_MESSAGE: usize = 16 << 20;
/// How librdkafka calls the error INVALID_TIMESTAMP.
const TIME_REFUSED: &str = "Broker: Invalid timestamp";
/// Bytes that a batch of one record adds to key, value and headers (61 of the batch, at most 30 of the record).
const RECORD_OVERHEAD: usize = 100;
/// librdkafka fills batches up to this (its default), as far as the topic takes it.
const BATCH: usize = 1_000_000;

/// The client librdkafka, idempotent and in order.
pub struct Librdkafka {
    options: Kafka,
    client: Arc<Client>,
    tokens: Option<Arc<Tokens>>,
    config: ClientConfig,
    /// `None`: without transactions.
    identity: Option<Identity>,
    metrics: Arc<SinkMetrics>,
    shared: Arc<Shared>,
    open: Option<Open>,
    /// With turns.
    member: Option<Member>,
    /// The last attempt to make a client did not get that far.
    failed: bool,
    /// The files of the flags, and what was in them when they were last read for a client.
    files: Arc<Files>,
    seen: Seen,
    /// The broker refused the time of a record.
    time_refused: bool,
    /// The limits of the topics on times were read again, and are not what they were when records were last sent.
    other_times: bool,
    /// Topics of which it was said that times are moved, and that limits cannot be read.
    said_moved_time: HashSet<String>,
    said_unknown: RefCell<HashSet<String>>,
    /// Topics of which it was said that they delete old events.
    said_deleted: HashSet<String>,
}

/// What there is once the brokers have answered.
struct Open {
    // Before the client, which it belongs to.
    queue: Arc<Queue>,
    producer: Arc<BaseProducer<Context>>,
    /// Of each topic of events.
    events: Vec<Limits>,
    /// `None`: there is no topic for them.
    dead_letters: Option<Limits>,
    /// When the limit of a topic was last asked for because a record is larger.
    asked: HashMap<Topic, Instant>,
    /// Records were sent since the producer's thread was last about to sleep.
    has_sent: bool,
    /// When the producer's thread last noticed that.
    sent_at: Instant,
    /// Files were renewed and work: this client takes nothing more, so that a new one can be made when it is empty.
    retired: Arc<AtomicBool>,
}

impl Librdkafka {
    /// Checks the options without talking to anybody. Fails with librdkafka's own words for a property it refuses.
    pub fn new(options: Kafka, metrics: Arc<SinkMetrics>) -> Result<Self, String> {
        let config = config(&options);
        for (key, value) in &options.config {
            if let Some(why) = broken_promise(key, value) {
                return Err(format!("{key}={value}: {why}"));
            }
        }
        config.create_native_config().map_err(refused)?;
        // What contradicts one another shows only with a client, which is gone before it has connected. Where the fault is
        // not in these properties, it is told when the brokers are first needed.
        let fault = |config: &ClientConfig| config.create::<BaseProducer>().err();
        if !options.config.is_empty()
            && let Some(error) = fault(&config)
            && fault(&self::config::config(&Kafka { config: Vec::new(), ..options.clone() })).is_none()
        {
            let text = error.to_string();
            let quotes = |(_, value): &(String, String)| value.len() > 3 && text.contains(value.as_str());
            return Err(match options.config.iter().any(quotes) {
                true => "librdkafka refuses these properties together".into(),
                false => text,
            });
        }
        Ok(Self::of(options, metrics))
    }

    /// For options that were checked.
    fn of(options: Kafka, metrics: Arc<SinkMetrics>) -> Self {
        Librdkafka {
            client: Arc::new(Client::of(&options)),
            tokens: match &options.sasl {
                Some(Sasl::Token(oauth)) => Some(Arc::new(Tokens::new(oauth.clone()))),
                _ => None,
            },
            config: config(&options),
            files: Arc::new(Files::of(&options)),
            seen: Seen::new(),
            options,
            identity: None,
            metrics,
            shared: Arc::default(),
            open: None,
            member: None,
            failed: false,
            time_refused: false,
            other_times: false,
            said_moved_time: HashSet::new(),
            said_unknown: RefCell::default(),
            said_deleted: HashSet::new(),
        }
    }

    /// The next client is made with these options.
    fn adopt(&mut self, options: Kafka) {
        let Librdkafka { client, tokens, config, options, .. } = Self::of(options, self.metrics.clone());
        (self.client, self.tokens, self.config, self.options) = (client, tokens, config, options);
        self.with_transactions();
    }

    fn context(&self, runs: bool) -> Context {
        Context {
            shared: self.shared.clone(),
            client: self.client.clone(),
            tokens: self.tokens.clone(),
            runs,
            metrics: self.metrics.clone(),
            topics: self.options.topics.clone(),
        }
    }

    /// Takes what the files of secrets have now, where no client works with what they had. Where a login failed, the file may
    /// have another password by now. One that broke otherwise is made with what worked.
    fn read_files_again(&mut self) {
        if self.failed || self.open.as_ref().is_none_or(Open::is_retired) {
            // Before they are read, so that a change meanwhile shows.
            self.seen = self.files.look();
            // What cannot be read is as it was.
            if let Ok(Some(options)) = files::read_again(&self.options) {
                self.adopt(options);
            }
        }
    }

    /// Makes the client with which records are sent.
    fn connect(&mut self, same_cluster: SameCluster<'_>) -> Result<(), NotReady> {
        let Topics { events, dead_letters } = self.ask(same_cluster)?;
        let before = self.open.as_ref().map(|open| &open.events);
        self.other_times =
            before.is_some_and(|all| !all.iter().map(Limits::times).eq(events.iter().map(Limits::times)));
        let mut config = self.config.clone();
        // A batch over the topic's limit would be refused whole, with the innocent records in it.
        let smallest = events.iter().chain(&dead_letters).map(|limits| limits.bytes).min().unwrap_or(BATCH);
        if !self.options.config.iter().any(|(key, _)| key == "batch.size") {
            config.set("batch.size", BATCH.min(smallest.saturating_sub(RECORD_OVERHEAD)).max(1).to_string());
        }
        let producer =
            BaseProducer::from_config_and_context(&config, self.context(true)).map_err(|e| self.unusable(e))?;
        self.authorize(producer.client())?;
        if let Some(identity) = &self.identity {
            self.fence(&producer, identity)?;
        }
        let (queue, producer, retired) = (Arc::new(Queue::of(&producer)), Arc::new(producer), Arc::default());
        let (asked, has_sent, sent_at) = (HashMap::new(), false, Instant::now());
        self.open = Some(Open { queue, producer, events, dead_letters, asked, has_sent, sent_at, retired });
        Ok(())
    }

    /// The work that `open` needs threads for.
    fn work(&self, open: &Open) -> Vec<Background> {
        let mut serving = Serving::of(self, open);
        let mut all = vec![Background { name: "delivery", work: Box::new(move || serving.turn()) }];
        if !self.files.is_empty() {
            let mut renewal = Renewal::of(self, open);
            all.push(Background { name: "renewal", work: Box::new(move || renewal.turn()) });
        }
        all
    }
}

impl Sink for Librdkafka {
    fn prepare(&mut self, same_cluster: SameCluster<'_>, start: Start<'_>) -> Result<(), NotReady> {
        if let Some(open) = &self.open {
            open.queue.to_delivery();
        }
        self.read_files_again();
        let result = self.connect(same_cluster);
        self.failed = result.is_err();
        if let (Ok(()), Some(open)) = (&result, &self.open) {
            self.work(open).into_iter().for_each(start);
        }
        result
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        let Some(open) = &self.open else { return Err(Refused::Error("not connected yet".into())) };
        if open.is_retired() {
            return Err(Refused::Broken);
        }
        let topic = self.options.name(record.topic);
        let mut limits = match record.topic {
            Topic::Events(index) => open.events[usize::from(index)],
            Topic::DeadLetters => open.dead_letters.unwrap_or(Limits::of_bytes(0)),
        };
        let headers_size: usize = record.headers.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
        let size = record.key.len() + record.value.len() + headers_size + RECORD_OVERHEAD;
        if size > limits.bytes && open.asked.get(&record.topic).is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            limits = self.limits_now(&[topic]).pop().flatten().unwrap_or(limits);
            if let Some(open) = &mut self.open {
                match record.topic {
                    Topic::Events(index) => open.events[usize::from(index)] = limits,
                    Topic::DeadLetters => open.dead_letters = Some(limits),
                }
                open.asked.insert(record.topic, Instant::now());
            }
        }
        let max = limits.bytes;
        if size > max {
            let detail = format!("{size} bytes, topic {topic} takes {max}");
            return Err(Refused::TooLarge { detail, excess: size - max });
        }
        let Some(open) = &mut self.open else { return Err(Refused::Error("not connected yet".into())) };
        let now_ms = clock::now_ms();
        if limits.deletes(record.time_ms, now_ms) && !self.said_deleted.contains(topic) {
            self.said_deleted.insert(topic.to_string());
            let days = |ms: i64| crate::health::human(ms as f64 / 1_000.0);
            log::warn!(
                event = "retention", topic = topic;
                "topic {topic} keeps records for {} (retention.ms), and the first of these events is {} old: Kafka deletes them soon; retention.ms=-1 keeps them",
                days(limits.keeps_ms),
                days(now_ms - record.time_ms)
            );
        }
        let time_ms = limits.nearest(record.time_ms, now_ms);
        if time_ms != record.time_ms {
            self.metrics.moved_times.inc();
            if !self.said_moved_time.contains(topic) {
                self.said_moved_time.insert(topic.to_string());
                log::warn!(
                    event = "moved_times", topic = topic;
                    "topic {topic} does not take the times of some events: their records get the nearest times that it takes (message.timestamp.before.max.ms, message.timestamp.after.max.ms)"
                );
            }
        }
        let mut out = BaseRecord::with_opaque_to(topic, token).payload(record.value).timestamp(time_ms);
        if !record.key.is_empty() {
            out = out.key(record.key);
        }
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            out = out.headers(
                record.headers.iter().fold(headers, |h, (key, value)| h.insert(Header { key, value: Some(*value) })),
            );
        }
        match open.producer.send(out) {
            Ok(()) => {
                open.has_sent = true;
                Ok(())
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Err(Refused::Full),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                // Ours, or one that --kafka-config lowers: by how much is not said.
                Err(Refused::TooLarge { detail: format!("{size} bytes"), excess: record.value.len() / 2 })
            }
            Err(_) if open.is_broken() => Err(Refused::Broken),
            Err((error, _)) => Err(Refused::Error(error.to_string())),
        }
    }

    fn flush(&mut self) -> Result<(), End> {
        // librdkafka sends by itself, after linger.ms.
        Ok(())
    }

    fn nap(&mut self) -> Option<Duration> {
        let open = self.open.as_mut()?;
        let in_flight = usize::try_from(open.producer.in_flight_count()).unwrap_or_default();
        let now = Instant::now();
        if std::mem::take(&mut open.has_sent) {
            open.sent_at = now;
        }
        let since = now.saturating_duration_since(open.sent_at);
        thread::sleep(queue::hold(in_flight, since));
        // To fetch a token may take long, and is the matter of the thread `delivery`.
        if self.tokens.is_some() { None } else { open.queue.nap(in_flight, NAP.saturating_sub(since)) }
    }

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        if let Some(open) = &self.open {
            open.queue.serve_few(&open.producer);
        }
        done.append(&mut locked(&self.shared.done));
        Ok(())
    }

    fn takes_other_times(&mut self) -> bool {
        std::mem::take(&mut self.other_times)
    }

    fn state(&mut self) -> State {
        let Some(open) = &self.open else { return State::Well };
        match locked(&self.shared.complaint).current() {
            _ if open.is_broken() => State::Broken,
            // What nobody waits for is no reason not to be ready.
            Some(why) if open.producer.in_flight_count() > 0 => State::Hindered(why.to_string()),
            _ => State::Well,
        }
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        self.identity.is_some().then_some(self as &mut dyn Transactions)
    }
}

impl Open {
    /// Whether this client takes nothing any more: an error came after which it cannot, or it is to be replaced.
    fn is_broken(&self) -> bool {
        self.is_retired() || self.producer.client().fatal_error().is_some()
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

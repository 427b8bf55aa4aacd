//! The default client: every broker, TLS, SASL, idempotence, all codecs. Its synchronous interface only.

use std::cell::Cell;
use std::error::Error;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::Message;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client as RdClient, ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaRespErr;

use super::complaint::Complaint;
use super::diagnosis::{self, Client, Words};
use super::kafka_options::{Kafka, Sasl};
use super::limits::{self, Limits};
use super::oauth::{self, Tokens};
use super::{
    Background, Delivery, End, Failure, NotReady, Outgoing, Refused, Returned, SameCluster, Sink, Token, Topic,
    Verdict, created, locked,
};
use crate::atproto::time;
use crate::dead_letter::Reason;
use crate::metrics::sink::SinkMetrics;

/// How long one question to the brokers may take.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// By then it is mostly clear whether a broker can be reached at all.
const FIRST_ASK: Duration = Duration::from_secs(1);
/// An error that librdkafka does not explain, and that did not pass by then, is looked into.
const LOOK_INTO: Duration = Duration::from_secs(5);
/// Lines of librdkafka that are kept for that.
const WORDS: usize = 32;
/// One call that serves callbacks.
const SERVE: Duration = Duration::from_secs(5);
/// Between two questions for the limit of a topic that takes less than a record has.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// What the client lets pass at most, and the limit of a topic whose own cannot be read: the broker decides. Above any
/// frame.
const CLIENT_MAX_MESSAGE: usize = 16 << 20;
/// `max.message.bytes` of a topic that we create. A record has at most 1 MB, and JSON needs up to six bytes for one of
/// them (control characters); a dead letter has up to 5.5 MB.
const CREATED_MAX_MESSAGE: &str = "8388608";
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
    metrics: Arc<SinkMetrics>,
    ready: (Sender<()>, Receiver<()>),
    shared: Arc<Shared>,
    open: Option<Open>,
    /// The broker refused the time of a record.
    time_refused: bool,
    /// It was said that times are moved, and that limits cannot be read.
    said_moved_time: bool,
    said_unknown: Cell<bool>,
}

/// What there is once the brokers have answered.
struct Open {
    producer: Arc<BaseProducer<Context>>,
    events: Limits,
    /// `None`: there is no topic for them.
    dead_letters: Option<Limits>,
    /// When the limit was last asked for because a record is larger.
    asked: Option<Instant>,
}

/// What the callbacks leave for the producer thread.
#[derive(Default)]
struct Shared {
    done: Mutex<Vec<Delivery>>,
    /// What librdkafka said since the last success.
    words: Mutex<Vec<Words>>,
    complaint: Mutex<Complaint>,
    /// Something is in one of the two.
    troubled: AtomicBool,
}

impl Shared {
    fn keep(&self, words: Words) {
        let mut all = locked(&self.words);
        if all.len() == WORDS {
            all.remove(0);
        }
        all.push(words);
        self.troubled.store(true, Ordering::Relaxed);
    }

    fn delivered(&self) {
        if self.troubled.swap(false, Ordering::Relaxed) {
            locked(&self.words).clear();
            if locked(&self.complaint).delivered() {
                log::info!(event = "kafka_again"; "kafka: records are delivered again");
            }
        }
    }

    fn complain(&self, line: &str) {
        self.troubled.store(true, Ordering::Relaxed);
        if locked(&self.complaint).cause(line) {
            log::warn!(event = "kafka_error", error = line; "kafka: {line} (it is tried again until it works)");
        }
    }

    /// The newest words, without the time that they took.
    fn last_words(&self) -> Option<String> {
        locked(&self.words).last().map(Words::to_string)
    }
}

struct Context {
    shared: Arc<Shared>,
    client: Arc<Client>,
    tokens: Option<Arc<Tokens>>,
    /// The brokers have answered before: what is said now is no failure to start, which [`Librdkafka::prepare`] reports.
    runs: bool,
    ready: Sender<()>,
    metrics: Arc<SinkMetrics>,
    events_topic: String,
}

impl Context {
    /// An error. What is about a broker is kept, until it is clear what it means; the rest is said.
    fn report(&self, error: &str) {
        self.metrics.kafka_errors.inc();
        let Some(words) = Words::read(error) else {
            log::warn!(
                at_most = 1, event = "kafka_error", error = error;
                "kafka: {error} (it is tried again until it works)"
            );
            return;
        };
        log::debug!("librdkafka: {error}");
        if self.runs {
            match diagnosis::while_running(&self.client, &words) {
                Some(line) => self.shared.complain(&line),
                None => locked(&self.shared.complaint).begin(),
            }
        }
        self.shared.keep(words);
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// Called when most of a token's life is over. Only the client that runs serves this; the others are gone by then.
    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let Some(tokens) = &self.tokens else {
            return Err("no --sasl-oauth-token-url is given".into());
        };
        match tokens.get() {
            Ok(oauth::Token { text, principal, ends_ms }) => {
                Ok(OAuthToken { token: text, principal_name: principal, lifetime_ms: ends_ms })
            }
            Err(why) => {
                self.metrics.kafka_errors.inc();
                self.shared.complain(&why);
                Err(why.into())
            }
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // A warning at each start: that the property is experimental.
            _ if message.contains("enable.gapless.guarantee") => log::debug!("librdkafka {facility}: {message}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => self.report(message),
            _ => {
                log::debug!("librdkafka {facility}: {message}");
                // A connection that the broker closed is no error to librdkafka, and often all that there is.
                if facility == "FAIL"
                    && let Some(words) = Words::read(message)
                {
                    self.shared.keep(words);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // It follows each failed attempt and says nothing of why: the reason came before it.
            Some(RDKafkaErrorCode::AllBrokersDown) => log::debug!("librdkafka: {error}: {reason}"),
            // Told by who asked for it.
            _ if reason.starts_with("Failed to acquire SASL OAUTHBEARER token") => log::debug!("librdkafka: {reason}"),
            // Its reason begins with the broker's name, as a line of the log does.
            _ if Words::read(reason).is_some() => self.report(reason),
            _ => self.report(&format!("{error}: {reason}")),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Token;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Token) {
        let result = match result {
            Ok(_) => {
                self.shared.delivered();
                Ok(())
            }
            Err((error, message)) => {
                let headers = message.headers().into_iter().flat_map(|h| h.iter());
                let record = Returned {
                    topic: if message.topic() == self.events_topic { Topic::Events } else { Topic::DeadLetters },
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().unwrap_or_default().to_vec(),
                    headers: headers.map(|h| (h.key.to_string(), h.value.unwrap_or_default().to_vec())).collect(),
                };
                let verdict = error.rdkafka_error_code().map_or(Verdict::Later, verdict);
                Err(Box::new(Failure { error: error.to_string(), verdict, record }))
            }
        };
        locked(&self.shared.done).push(Delivery { token, result });
        // Full means that the producer thread has been woken already.
        let _ = self.ready.try_send(());
    }
}

/// What an error of a delivery report means.
fn verdict(code: RDKafkaErrorCode) -> Verdict {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => {
            Verdict::Never(Reason::TooLarge)
        }
        RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidTimestamp | RDKafkaErrorCode::InvalidMessage => {
            Verdict::Never(Reason::Refused)
        }
        // Once a batch is refused, the client gives back what it has not sent; what it had sent behind that batch, the broker
        // refuses for its sequence number.
        RDKafkaErrorCode::PurgeQueue
        | RDKafkaErrorCode::PurgeInflight
        | RDKafkaErrorCode::Fatal
        | RDKafkaErrorCode::GaplessGuarantee
        | RDKafkaErrorCode::OutOfOrderSequenceNumber
        | RDKafkaErrorCode::InvalidDifferentRecord => Verdict::Collateral,
        _ => Verdict::Later,
    }
}

/// Why a property that librdkafka would take is refused: with it a promise does not hold.
fn broken_promise(key: &str, value: &str) -> Option<&'static str> {
    let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(value));
    let no = is(&["false", "0", "f"]);
    match key {
        "transactional.id" => Some("transactions are not supported"),
        "delivery.report.only.error" if !no => Some("without delivery reports nothing is known to be safe"),
        "acks" | "request.required.acks" if is(&["0"]) => {
            Some("without acknowledgements nothing is known to be safe; leave it out, it is all")
        }
        "acks" | "request.required.acks" if value.parse::<i16>().is_ok_and(|n| n > 0) => Some(
            "an event that only one broker has is lost with it, though it counted as safe; leave it out, it is all",
        ),
        "enable.idempotence" if no => {
            Some("without it a connection that breaks repeats events and changes their order; leave it out, it is true")
        }
        "enable.gapless.guarantee" if no => {
            Some("without it a later event could pass a refused one; leave it out, it is true")
        }
        "queuing.strategy" if is(&["lifo"]) => Some("events would leave in the wrong order"),
        "partitioner" if is(&["random"]) => Some(
            "the events of an account would be on different partitions, so in no order; murmur2_random keeps them on one",
        ),
        _ => None,
    }
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
            && fault(&self::config(&Kafka { config: Vec::new(), ..options.clone() })).is_none()
        {
            let text = error.to_string();
            let quotes = |(_, value): &(String, String)| value.len() > 3 && text.contains(value.as_str());
            return Err(match options.config.iter().any(quotes) {
                true => "librdkafka refuses these properties together".into(),
                false => text,
            });
        }
        Ok(Librdkafka {
            client: Arc::new(Client::of(&options)),
            tokens: match &options.sasl {
                Some(Sasl::Token(oauth)) => Some(Arc::new(Tokens::new(oauth.clone()))),
                _ => None,
            },
            options,
            config,
            metrics,
            ready: bounded(1),
            shared: Arc::default(),
            open: None,
            time_refused: false,
            said_moved_time: false,
            said_unknown: Cell::new(false),
        })
    }

    fn context(&self, runs: bool) -> Context {
        Context {
            shared: self.shared.clone(),
            client: self.client.clone(),
            tokens: self.tokens.clone(),
            runs,
            ready: self.ready.0.clone(),
            metrics: self.metrics.clone(),
            events_topic: self.options.topic.clone(),
        }
    }

    /// Gives a new client its token, where there are any: it would ask for one by a callback that nobody serves yet.
    fn authorize(&self, client: &RdClient<impl ClientContext>) -> Result<(), NotReady> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let token = tokens.get().map_err(NotReady::Yet)?;
        let unusable = || NotReady::Yet("the token endpoint gives a token that librdkafka cannot use".into());
        let text = CString::new(token.text).map_err(|_| unusable())?;
        let principal = CString::new(token.principal).map_err(|_| unusable())?;
        // SAFETY: the client and both texts live until the call returns, which copies them; without extensions and without
        // a place for an error's text, as it may be called.
        let code = unsafe {
            rdkafka::bindings::rd_kafka_oauthbearer_set_token(
                client.native_ptr(),
                text.as_ptr(),
                token.ends_ms,
                principal.as_ptr(),
                std::ptr::null_mut(),
                0,
                std::ptr::null_mut(),
                0,
            )
        };
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            _ => Err(unusable()),
        }
    }

    /// Why `error` came: by its cause, where that can be found, else with the newest that the client said. `brokers`: the
    /// addresses that an answer named, if there was one.
    fn yet(&self, error: &str, brokers: &[String]) -> NotReady {
        let words = locked(&self.shared.words).clone();
        NotReady::Yet(diagnosis::of(&self.client, &words, brokers).unwrap_or_else(|| match self.shared.last_words() {
            None => error.into(),
            Some(last) => format!("{error} ({last})"),
        }))
    }

    /// What the brokers say of themselves and their topics.
    fn metadata(&self, probe: &BaseProducer<Context>) -> Result<Metadata, NotReady> {
        let mut error = None;
        for patience in [FIRST_ASK, ASK - FIRST_ASK] {
            match probe.client().fetch_metadata(None, patience) {
                Ok(metadata) => return Ok(metadata),
                Err(e) => error = Some(e),
            }
            // Logs and errors wait in the main queue, which only this empties; the admin client never does.
            probe.poll(Duration::from_millis(50));
            if diagnosis::is_sure(&self.client, &locked(&self.shared.words)) {
                break;
            }
        }
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        Err(self.yet(&format!("no answer from {}: {error}", self.options.servers.join(",")), &[]))
    }

    /// What the topic takes, after making the topic where it is absent and may be made.
    fn topic(
        &self,
        probe: &BaseProducer<Context>,
        admin: &AdminClient<AdminContext>,
        name: &str,
    ) -> Result<Limits, NotReady> {
        let metadata = self.metadata(probe)?;
        let brokers: Vec<String> = metadata.brokers().iter().map(|b| format!("{}:{}", b.host(), b.port())).collect();
        if !metadata.topics().iter().any(|t| t.name() == name) {
            self.create(probe, admin, name, &brokers)?;
        }
        match limits::read(admin, name) {
            Ok(limits) => Ok(limits),
            Err(why) => {
                // Where nobody answered, it may be that no broker can be reached at the address that it goes by.
                let words = locked(&self.shared.words).clone();
                if why.is_silence
                    && let Some(line) = diagnosis::of(&self.client, &words, &brokers)
                {
                    return Err(NotReady::Yet(line));
                }
                // Not again for each client that is made.
                let level = if self.said_unknown.replace(true) { log::Level::Debug } else { log::Level::Warn };
                log::log!(
                    level, event = "limits_unknown", topic = name, error = why.text;
                    "the limits of topic {name} cannot be read ({}): records of any size and time are sent, and the broker decides; the right DescribeConfigs on the topic lets atkafka know them",
                    why.text
                );
                let unknown = Limits::of_bytes(CLIENT_MAX_MESSAGE);
                // Which times it takes is not known, but that it takes the present one.
                Ok(if self.time_refused { Limits { before_ms: 0, after_ms: 0, ..unknown } } else { unknown })
            }
        }
    }

    /// How many partitions a topic has that was just made: the brokers may need a moment to know it. `None`: not known by then.
    fn partitions(&self, probe: &BaseProducer<Context>, name: &str) -> Option<usize> {
        let until = Instant::now() + FIRST_ASK;
        while Instant::now() < until {
            let metadata = probe.client().fetch_metadata(Some(name), FIRST_ASK).ok()?;
            let found = metadata.topics().iter().find(|t| t.name() == name).map_or(0, |t| t.partitions().len());
            if found > 0 {
                return Some(found);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// The topic's limit as it is now: somebody may have raised it since the start. `None` where that is not known.
    /// A client only for this: one that is kept would collect errors which nobody takes out of its queue.
    fn limits_now(&self, name: &str) -> Option<Limits> {
        let admin = AdminClient::from_config_and_context(&self.config, AdminContext(self.context(true))).ok()?;
        self.authorize(admin.inner()).ok()?;
        limits::read(&admin, name).ok()
    }

    fn create(
        &self,
        probe: &BaseProducer<Context>,
        admin: &AdminClient<AdminContext>,
        name: &str,
        brokers: &[String],
    ) -> Result<(), NotReady> {
        let new = &self.options.new_topic;
        if !new.create {
            return Err(NotReady::Yet(format!("topic {name} does not exist, and --no-create-topic is given")));
        }
        let topic =
            NewTopic::new(name, new.partitions.unwrap_or(-1), TopicReplication::Fixed(new.replication.unwrap_or(-1)))
                .set("max.message.bytes", CREATED_MAX_MESSAGE);
        let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
        let answer = pollster::block_on(admin.create_topics([&topic], &options))
            .map_err(|e| self.yet(&format!("topic {name} cannot be created: {e}"), brokers))?;
        match answer.into_iter().next() {
            Some(Ok(_)) => {
                log::info!(
                    event = "topic_created", topic = name;
                    "{}", created(name, self.partitions(probe, name), new.partitions.is_none())
                );
                Ok(())
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => {
                Err(NotReady::Yet(format!("topic {name} does not exist and cannot be created: {code}")))
            }
            None => Err(NotReady::Yet(format!("no answer about topic {name}"))),
        }
    }
}

/// Callbacks of the admin client: what they hear is reported as that of the producer is.
struct AdminContext(Context);

impl ClientContext for AdminContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

/// Why librdkafka refuses a property, without its value, which may be a password.
fn refused(error: KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, key, value) => match why.contains(&value) && !value.is_empty() {
            true => format!("{key}: librdkafka refuses this value"),
            false => format!("{key}: {why}"),
        },
        other => other.to_string(),
    }
}

fn config(options: &Kafka) -> ClientConfig {
    let mut c = ClientConfig::new();
    c.set("bootstrap.servers", options.servers.join(","))
        .set("client.id", "atkafka")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // After a batch that the broker refuses for good, librdkafka would number what follows anew, and a later record of the
        // same account could pass the refused one. With this it gives everything back, and a new client sends it in order.
        .set("enable.gapless.guarantee", "true")
        // Nothing is given up: the default of five minutes would drop records.
        .set("message.timeout.ms", "0")
        .set("linger.ms", "5")
        .set("compression.type", options.codec.name())
        // The default of Java and franz-go: an account stays on the partition where other producers put it.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", CLIENT_MAX_MESSAGE.to_string())
        .set("batch.size", BATCH.to_string())
        // The permits bound what is in flight; these bound it again, as the client counts.
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", (options.memory_limit >> 10).clamp(1 << 10, 2_097_151).to_string())
        // The default of 10 s lags a broker that comes back by 9 s.
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("log.connection.close", "false");
    // `--kafka-config debug=...` wants all of it.
    let debug = options.config.iter().any(|(key, _)| key == "debug");
    c.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    let (tls, sasl) = (&options.tls, &options.sasl);
    let protocol = match (tls.is_some(), sasl.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    c.set("security.protocol", protocol);
    if let Some(tls) = tls {
        // An OpenSSL of our own knows the system's roots only when told to look for them.
        if cfg!(feature = "vendored") {
            c.set("ssl.ca.location", "probe");
        }
        for (key, value) in [
            ("ssl.ca.location", &tls.ca_file),
            ("ssl.certificate.location", &tls.cert_file),
            ("ssl.key.location", &tls.key_file),
        ] {
            if let Some(value) = value {
                c.set(key, value);
            }
        }
    }
    if let Some(sasl) = sasl {
        c.set("sasl.mechanism", sasl.mechanism().name());
        if let Sasl::Password { user, password, .. } = sasl {
            c.set("sasl.username", user).set("sasl.password", password);
        }
    }
    for (key, value) in &options.config {
        c.set(key, value);
    }
    c
}

impl Sink for Librdkafka {
    fn prepare(&mut self, same_cluster: SameCluster<'_>) -> Result<(), NotReady> {
        let ever = |e: KafkaError| NotReady::Ever(e.to_string());
        locked(&self.shared.words).clear();
        // Of the records themselves it is only said that they are not valid.
        let fatal = self.open.as_ref().and_then(|open| open.producer.client().fatal_error());
        self.time_refused |= fatal.is_some_and(|(_, why)| why.contains(TIME_REFUSED));
        let admin =
            AdminClient::from_config_and_context(&self.config, AdminContext(self.context(false))).map_err(ever)?;
        let probe: BaseProducer<Context> =
            BaseProducer::from_config_and_context(&self.config, self.context(false)).map_err(ever)?;
        self.authorize(admin.inner())?;
        self.authorize(probe.client())?;
        // With its answer the client has the cluster's id, too; very old brokers have none.
        self.metadata(&probe)?;
        if let Some(id) = probe.client().fetch_cluster_id(ASK) {
            same_cluster(&id).map_err(NotReady::Settings)?;
        }
        let events = self.topic(&probe, &admin, &self.options.topic)?;
        let dead_letters = match &self.options.dead_letter_topic {
            Some(name) => Some(self.topic(&probe, &admin, name)?),
            None => None,
        };
        let mut config = self.config.clone();
        // A batch over the topic's limit would be refused whole, with the innocent records in it.
        let smallest = dead_letters.map_or(events.bytes, |letters| letters.bytes.min(events.bytes));
        if !self.options.config.iter().any(|(key, _)| key == "batch.size") {
            config.set("batch.size", BATCH.min(smallest.saturating_sub(RECORD_OVERHEAD)).max(1).to_string());
        }
        let producer = BaseProducer::from_config_and_context(&config, self.context(true)).map_err(ever)?;
        self.authorize(producer.client())?;
        self.open = Some(Open { producer: Arc::new(producer), events, dead_letters, asked: None });
        Ok(())
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        let Some(open) = &self.open else { return Err(Refused::Error("not connected yet".into())) };
        let (topic, mut limits) = match record.topic {
            Topic::Events => (self.options.topic.as_str(), open.events),
            Topic::DeadLetters => (
                self.options.dead_letter_topic.as_deref().unwrap_or_default(),
                open.dead_letters.unwrap_or(Limits::of_bytes(0)),
            ),
        };
        let headers_size: usize = record.headers.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
        let size = record.key.len() + record.value.len() + headers_size + RECORD_OVERHEAD;
        if size > limits.bytes && open.asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            limits = self.limits_now(topic).unwrap_or(limits);
            if let Some(open) = &mut self.open {
                match record.topic {
                    Topic::Events => open.events = limits,
                    Topic::DeadLetters => open.dead_letters = Some(limits),
                }
                open.asked = Some(Instant::now());
            }
        }
        let max = limits.bytes;
        if size > max {
            let detail = format!("{size} bytes, topic {topic} takes {max}");
            return Err(Refused::TooLarge { detail, excess: size - max });
        }
        let Some(open) = &self.open else { return Err(Refused::Error("not connected yet".into())) };
        let time_ms = limits.nearest(record.time_ms, time::now_ms());
        if time_ms != record.time_ms {
            self.metrics.moved_times.inc();
            if !self.said_moved_time {
                self.said_moved_time = true;
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
            Ok(()) => Ok(()),
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

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        done.append(&mut locked(&self.shared.done));
        Ok(())
    }

    fn complaint(&mut self) -> Option<String> {
        // What nobody waits for is no reason not to be ready.
        self.open.as_ref().filter(|open| open.producer.in_flight_count() > 0)?;
        locked(&self.shared.complaint).current().map(str::to_string)
    }

    fn broken(&self) -> bool {
        self.open.as_ref().is_some_and(Open::is_broken)
    }

    /// A cluster of one node that is just fenced answers metadata with no broker, and then librdkafka (2.12.1) has none
    /// left to ask, for ever (seen 2 times in some hundred outages). Naming the servers again is harmless where they are known.
    fn nudge(&mut self) {
        let Some(open) = &self.open else { return };
        let Ok(servers) = CString::new(self.options.servers.join(",")) else { return };
        // SAFETY: the client lives as long as `open`, the text until the call returns, which copies it.
        unsafe { rdkafka::bindings::rd_kafka_brokers_add(open.producer.client().native_ptr(), servers.as_ptr()) };
    }

    fn ready(&self) -> Receiver<()> {
        self.ready.1.clone()
    }

    fn background(&self) -> Option<Background> {
        let producer = self.open.as_ref()?.producer.clone();
        let (shared, client) = (self.shared.clone(), self.client.clone());
        // It lasts the whole time and runs the callbacks as they come; its last millisecond it spins, so that shorter
        // calls would cost an idle process more. A client that broke has given everything back by the time that it is
        // replaced.
        Some(Box::new(move || {
            producer.poll(SERVE);
            // Nothing is delivered, so that nothing waits for this thread while it asks.
            if producer.in_flight_count() > 0 && locked(&shared.complaint).is_unexplained(LOOK_INTO) {
                let words = locked(&shared.words).clone();
                if let Some(line) = diagnosis::of(&client, &words, &[]).or_else(|| shared.last_words()) {
                    shared.complain(&line);
                }
            }
            producer.client().fatal_error().is_none() || producer.in_flight_count() > 0
        }))
    }
}

impl Open {
    /// Whether an error came after which this client takes nothing any more.
    fn is_broken(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }
}

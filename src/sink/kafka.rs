//! The `kafka` crate: a client in pure Rust for brokers up to 3.9, at least once. It owns the connection, what waits to be
//! sent, and the choice of the partition. On the producer's thread, which waits for each request.
//!
//! It speaks version 0 of each request. So: no TLS, SASL, headers, timestamps or idempotence, and after an answer that got
//! lost the batch is sent again. Its own partitioner differs from everybody's: the partition is given here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::client::{Compression, KafkaClient, RequiredAcks};
use kafka::error::KafkaCode;
use kafka::producer::{Producer, Record};

use super::complaint::Complaint;
use super::diagnosis::{self, Client};
use super::kafka_options::{Codec, Kafka};
use super::probe::{self, Budget};
use super::{
    Delivery, End, Failure, NotReady, Outgoing, Refused, Returned, SameCluster, Sink, Start, State, Token, Topic,
    Verdict, created,
};
use crate::dead_letter::Reason;
use crate::metrics::sink::SinkMetrics;

/// Bytes and records of one request.
const REQUEST_BYTES: usize = 900_000;
const REQUEST_RECORDS: usize = 10_000;
/// Bytes that may wait while the broker is away; then the producer is told `Full`.
const WAITING_BYTES: usize = 16 << 20;
/// Between two attempts after an error.
const RETRY: Duration = Duration::from_secs(1);
/// The broker's default of `max.message.bytes`; version 0 of the protocol has no way to ask.
const MAX_MESSAGE: usize = 1_048_588;

/// The client of the `kafka` crate, for brokers before 4.0.
pub struct KafkaSink {
    options: Kafka,
    client: Client,
    metrics: Arc<SinkMetrics>,
    producer: Option<Producer>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    done: Vec<Delivery>,
    not_before: Option<Instant>,
    /// So many records go one to a request: among them is one that is too large. The others keep their places.
    one_by_one: usize,
    complaint: Complaint,
    unkeyed: u32,
}

struct Waiting {
    record: Returned,
    token: Token,
}

impl Waiting {
    fn size(&self) -> usize {
        self.record.key.len() + self.record.value.len()
    }
}

impl KafkaSink {
    /// Not connected yet.
    pub fn new(options: Kafka, metrics: Arc<SinkMetrics>) -> Self {
        KafkaSink {
            client: Client::of(&options),
            options,
            metrics,
            producer: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            done: Vec::new(),
            not_before: None,
            one_by_one: 0,
            complaint: Complaint::default(),
            unkeyed: 0,
        }
    }

    fn connect(&self) -> Result<Producer, String> {
        let mut client = KafkaClient::new(self.options.servers.clone());
        client.set_client_id("atkafka".into());
        // Asking for the topic by name creates it, where the broker allows that; the first answer comes too early.
        let topics: Vec<&str> = self.options.names().collect();
        let mut absent = topics.clone();
        if self.options.new_topic.create {
            client.load_metadata_all().map_err(|e| e.to_string())?;
            absent.retain(|topic| !client.topics().contains(topic));
            for _ in 0..2 {
                client.load_metadata(&topics).map_err(|e| e.to_string())?;
            }
        }
        client.load_metadata_all().map_err(|e| e.to_string())?;
        for topic in topics {
            if client.topics().partitions(topic).is_none_or(|p| p.is_empty()) {
                return Err(format!("topic {topic} does not exist (yet)"));
            }
        }
        if self.options.new_topic.create {
            for topic in absent {
                let partitions = client.topics().partitions(topic).map(|p| p.len());
                log::info!(event = "topic_created", topic = topic; "{}", created(topic, partitions, true));
            }
        }
        let codec = match self.options.codec {
            Codec::Gzip => Compression::GZIP,
            Codec::Snappy => Compression::SNAPPY,
            // Others are refused with the options.
            Codec::None | Codec::Lz4 | Codec::Zstd => Compression::NONE,
        };
        Producer::from_client(client)
            .with_compression(codec)
            .with_ack_timeout(Duration::from_secs(30))
            .with_required_acks(RequiredAcks::All)
            .create()
            .map_err(|e| e.to_string())
    }

    /// Why `error` came, where the brokers' ports tell.
    fn why(&self, error: String) -> String {
        let mut brokers: Vec<String> = Vec::new();
        if let Some(producer) = &self.producer {
            for topic in producer.client().topics() {
                brokers.extend(topic.partitions().iter().filter_map(|p| Some(p.leader()?.host().to_string())));
            }
        }
        diagnosis::of(&self.client, &[], &brokers).unwrap_or(error)
    }

    /// Sends what fits one request. `Ok(false)` when nothing waits.
    fn request(&mut self) -> Result<bool, String> {
        let mut bytes = 0;
        let count = self
            .waiting
            .iter()
            .take(if self.one_by_one > 0 { 1 } else { REQUEST_RECORDS })
            .take_while(|w| {
                bytes += w.size();
                bytes <= REQUEST_BYTES || bytes == w.size()
            })
            .count();
        if count == 0 {
            return Ok(false);
        }
        if self.producer.is_none() {
            self.producer = Some(self.connect()?);
        }
        let Some(producer) = &mut self.producer else { return Ok(false) };
        let mut records = Vec::with_capacity(count);
        let mut places = Vec::with_capacity(count);
        for w in self.waiting.iter().take(count) {
            let topic = self.options.name(w.record.topic);
            let partitions = producer.client().topics().partitions(topic).map_or(0, |p| p.len()) as u32;
            if partitions == 0 {
                return Err(format!("topic {topic} has no partitions"));
            }
            let hash = if w.record.key.is_empty() {
                self.unkeyed = self.unkeyed.wrapping_add(1);
                self.unkeyed
            } else {
                murmur2(&w.record.key)
            };
            let partition = ((hash & 0x7fff_ffff) % partitions) as i32;
            places.push((w.record.topic, partition));
            records.push(
                Record::from_key_value(topic, w.record.key.as_slice(), w.record.value.as_slice())
                    .with_partition(partition),
            );
        }
        let confirms = producer.send_all(&records).map_err(|e| e.to_string())?;

        // What each partition said. One that said nothing counts as failed: it is sent again.
        let mut said: HashMap<(Topic, i32), Result<(), KafkaCode>> = HashMap::new();
        for confirm in confirms {
            let topic = self.options.topic(&confirm.topic);
            for partition in confirm.partition_confirms {
                said.insert((topic, partition.partition), partition.offset.map(drop));
            }
        }
        self.one_by_one = self.one_by_one.saturating_sub(1);
        let mut again = Vec::new();
        let mut failed = None;
        for (w, place) in self.waiting.drain(..count).zip(places) {
            match said.get(&place) {
                Some(Ok(())) => {
                    self.waiting_bytes -= w.size();
                    self.done.push(Delivery { token: w.token, result: Ok(()) });
                }
                Some(Err(code)) if refused(*code).is_some() && count == 1 => {
                    self.waiting_bytes -= w.size();
                    let error = format!("the broker says {code:?}");
                    let failure = Failure {
                        error,
                        verdict: refused(*code).map_or(Verdict::Later, Verdict::Never),
                        record: w.record,
                    };
                    self.done.push(Delivery { token: w.token, result: Err(Box::new(failure)) });
                }
                Some(Err(code)) if refused(*code).is_some() => {
                    self.one_by_one = count;
                    again.push(w);
                }
                other => {
                    failed = Some(match other {
                        Some(Err(code)) => format!("{code:?} for a partition of {}", self.options.name(place.0)),
                        _ => "a partition did not answer".into(),
                    });
                    again.push(w);
                }
            }
        }
        for w in again.into_iter().rev() {
            self.waiting.push_front(w);
        }
        failed.map_or(Ok(true), Err)
    }
}

impl Sink for KafkaSink {
    fn prepare(&mut self, _same_cluster: SameCluster<'_>, _start: Start<'_>) -> Result<(), NotReady> {
        for server in &self.options.servers {
            match least_fetch_version(server) {
                Some(0) => {
                    self.producer = Some(self.connect().map_err(|e| NotReady::Yet(self.why(e)))?);
                    return Ok(());
                }
                Some(least) => {
                    return Err(NotReady::Ever(format!(
                        "{server} is Kafka 4 or later (its Fetch begins at version {least}), the kafka crate speaks version 0 of each request: use --kafka-client librdkafka"
                    )));
                }
                None => {}
            }
        }
        Err(NotReady::Yet(self.why(format!("no answer from {}", self.options.servers.join(",")))))
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        let size = record.key.len() + record.value.len() + 34;
        if size > MAX_MESSAGE {
            let detail = format!("{size} bytes, topic {} takes {MAX_MESSAGE}", self.options.name(record.topic));
            return Err(Refused::TooLarge { detail, excess: size - MAX_MESSAGE });
        }
        if self.waiting_bytes >= WAITING_BYTES {
            return Err(Refused::Full);
        }
        let record = Returned {
            topic: record.topic,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
            headers: Vec::new(),
        };
        let waiting = Waiting { record, token };
        self.waiting_bytes += waiting.size();
        self.waiting.push_back(waiting);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), End> {
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.not_before = None;
        loop {
            match self.request() {
                Ok(true) => {
                    if self.complaint.delivered() {
                        log::info!(event = "kafka_again"; "kafka: records are delivered again");
                    }
                }
                Ok(false) => return Ok(()),
                Err(e) => {
                    self.metrics.kafka_errors.inc();
                    let line = self.why(e);
                    // After an error this client fails for ever: a new one is made.
                    self.producer = None;
                    self.not_before = Some(Instant::now() + RETRY);
                    if self.complaint.cause(&line) {
                        log::warn!(
                            event = "kafka_error", error = line;
                            "kafka: {line} (it is tried again until it works)"
                        );
                    }
                    return Ok(());
                }
            }
        }
    }

    fn state(&mut self) -> State {
        self.complaint.current().map_or(State::Well, |why| State::Hindered(why.to_string()))
    }

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        done.append(&mut self.done);
        Ok(())
    }
}

/// Whether the broker refuses for good, and what the dead letter says then.
fn refused(code: KafkaCode) -> Option<Reason> {
    match code {
        KafkaCode::MessageSizeTooLarge | KafkaCode::InvalidMessageSize => Some(Reason::TooLarge),
        KafkaCode::CorruptMessage => Some(Reason::Refused),
        _ => None,
    }
}

/// The oldest version of Fetch that the broker takes: the crate cannot ask, and Kafka 4 only closes the connection on what
/// the crate sends. Of Produce a broker of Kafka 4 says 0, though it takes 3 at least (a courtesy to old clients, measured);
/// Fetch rose to 4 with the same removal (KIP-896). `None` where nothing answers as Kafka does.
pub(super) fn least_fetch_version(server: &str) -> Option<i16> {
    const FETCH: i16 = 1;
    let versions = probe::api_versions(&mut probe::connect(server, Budget::new()).ok()?).ok()?;
    versions.iter().find(|(key, ..)| *key == FETCH).map(|(_, oldest, _)| *oldest)
}

/// Kafka's own hash of keys (murmur2 with seed 0x9747b28c), as Java's default partitioner has it.
pub fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u32, |t, b| t << 8 | *b as u32);
        h = (h ^ tail).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Java's `Utils.murmur2`, from Apache Kafka's own test.
    #[test]
    fn murmur2_equals_java() {
        for (key, want) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, want, "{key}");
        }
    }
}

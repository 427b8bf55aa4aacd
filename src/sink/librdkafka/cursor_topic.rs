//! The topic of positions: made, checked, and read to its committed end.
//!
//! It is compacted, so that the newest record of each position stays, and only its first partition is used. What a record
//! says is the matter of [`crate::checkpoint::topic`].

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::bindings::{rd_kafka_get_watermark_offsets, rd_kafka_resp_err_t};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::producer::BaseProducer;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::context::{AdminContext, Context};
use super::transactions::{NUMBER, RUN, WRITER};
use super::{ASK, Librdkafka};
use crate::checkpoint::topic::{Entry, Key, Mark, for_standby};
use crate::sink::NotReady;
use crate::sink::transaction::Identity;

/// How a topic of positions is made, besides one partition. Small segments, compacted early: a start reads all of it.
const SETTINGS: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    // The largest window of Ozone fits.
    ("max.message.bytes", "33554432"),
    ("segment.bytes", "67108864"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];
/// How long the committed end may stay behind the end: as long as somebody has a transaction open there.
const HIDDEN: Duration = Duration::from_secs(5);
/// Without a record for so long, reading has failed. `atkafka cursor` does not try again; brokers that have only just started,
/// on a busy machine, took more than 5 s.
const SILENCE: Duration = Duration::from_secs(15);

/// What the client reads ahead.
const AHEAD_KB: &str = "2048";

/// Callbacks of the client that reads.
struct Reading(AdminContext);

impl ClientContext for Reading {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match facility {
            // It says that properties of a producer mean nothing to it.
            "CONFWARN" => log::debug!("librdkafka {facility}: {message}"),
            _ => self.0.log(level, facility, message),
        }
    }

    /// Whoever reads is told them, too: the end of the topic is one, and what counts of the others is said there.
    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("librdkafka {error}: {reason}");
    }
}

/// The client asks for the coordinator of the group that it is named after. It takes no part in it, so that no right to it is
/// needed.
fn is_of_the_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

impl ConsumerContext for Reading {}

impl Librdkafka {
    /// Makes the topic of positions where it is absent, and refuses one that would lose positions.
    pub(super) fn cursor_topic(
        &self,
        probe: &BaseProducer<Context>,
        admin: &AdminClient<AdminContext>,
        identity: &Identity,
    ) -> Result<(), NotReady> {
        let name = &identity.cursor_topic;
        match self.metadata(probe)?.topics().iter().find(|topic| topic.name() == name) {
            None => self.create_cursor_topic(admin, name)?,
            Some(topic) if identity.takeover_after.is_some() => {
                for_standby(name, topic.partitions().len()).map_err(NotReady::Settings)?;
            }
            Some(_) => {}
        }
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let unknown = match pollster::block_on(admin.describe_configs([&ResourceSpecifier::Topic(name)], &options)) {
            Err(e) => return Err(self.yet(&format!("topic {name}: no answer about its settings: {e}"), &[])),
            Ok(answers) => match answers.into_iter().next() {
                Some(Ok(resource)) => {
                    let setting = |name| resource.get(name).and_then(|entry| entry.value.clone());
                    match setting("cleanup.policy") {
                        Some(policy) => {
                            return checked(name, &policy, setting("max.message.bytes"), identity.largest);
                        }
                        // Without the right to read them the answer is empty.
                        None => "the answer does not name them".into(),
                    }
                }
                Some(Err(code)) => code.to_string(),
                None => "no answer".into(),
            },
        };
        let is_new = self.said_unknown.borrow_mut().insert(name.clone());
        let level = if is_new { log::Level::Warn } else { log::Level::Debug };
        log::log!(
            level, event = "cursor_topic", topic = name.as_str(), error = unknown;
            "topic {name}: its settings cannot be read ({unknown}), for which it needs DescribeConfigs; make sure that it has cleanup.policy=compact, or positions are deleted after its retention time"
        );
        Ok(())
    }

    fn create_cursor_topic(&self, admin: &AdminClient<AdminContext>, name: &str) -> Result<(), NotReady> {
        let new = &self.options.new_topic;
        if !new.create {
            return Err(NotReady::Yet(format!("topic {name} does not exist, and --no-create-topic is given")));
        }
        let topic = SETTINGS.iter().fold(
            NewTopic::new(name, 1, TopicReplication::Fixed(new.replication.unwrap_or(-1))),
            |topic, (key, value)| topic.set(key, value),
        );
        let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
        let answer = pollster::block_on(admin.create_topics([&topic], &options))
            .map_err(|e| self.yet(&format!("topic {name} cannot be created: {e}"), &[]))?;
        match answer.into_iter().next() {
            Some(Ok(_)) => {
                log::info!(event = "topic_created", topic = name; "topic {name} created for positions, compacted");
                Ok(())
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => {
                let hidden = match code {
                    RDKafkaErrorCode::TopicAuthorizationFailed => ", or this client may not see it (Describe),",
                    _ => "",
                };
                Err(NotReady::Yet(format!("topic {name} does not exist{hidden} and cannot be created: {code}")))
            }
            None => Err(NotReady::Yet(format!("no answer about topic {name}"))),
        }
    }

    /// The newest committed record of each of these positions, in the order in which they were written, up to the end that the
    /// topic has now.
    pub(super) fn read_positions(&self, wanted: &[Key]) -> Result<Vec<Entry>, NotReady> {
        let Some(identity) = self.identity.as_ref() else { return Ok(Vec::new()) };
        let wanted: HashSet<&Key> = wanted.iter().collect();
        let mut found: HashMap<Key, (i64, Entry)> = HashMap::new();
        self.each_position(&identity.cursor_topic, &|key| wanted.contains(key), &mut |offset, entry| {
            found.insert(entry.key.clone(), (offset, entry));
        })?;
        let mut all: Vec<(i64, Entry)> = found.into_values().collect();
        all.sort_by_key(|(offset, _)| *offset);
        Ok(all.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Gives `found` each committed record of the wanted positions, with its offset, up to the end that the topic has now. A
    /// position may come several times: the last one counts. Nothing is kept, so that what others write there costs no memory.
    pub(super) fn each_position(
        &self,
        topic: &str,
        wanted: &dyn Fn(&Key) -> bool,
        found: &mut dyn FnMut(i64, Entry),
    ) -> Result<(), NotReady> {
        let failed = |e: KafkaError| self.yet(&format!("topic {topic} cannot be read: {e}"), &[]);
        // What is written already counts, whether it is committed yet or not.
        let (_, end) = self.consumer("read_uncommitted")?.fetch_watermarks(topic, 0, ASK).map_err(failed)?;
        let consumer = self.consumer("read_committed")?;
        let until = Instant::now() + HIDDEN;
        let begin = loop {
            let (begin, committed) = consumer.fetch_watermarks(topic, 0, ASK).map_err(failed)?;
            if committed >= end {
                break begin;
            }
            if Instant::now() > until {
                return Err(NotReady::Yet(format!(
                    "topic {topic}: a transaction that somebody has open hides its newest positions; they show when it ends"
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if begin >= end {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Beginning).map_err(failed)?;
        consumer.assign(&list).map_err(failed)?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if let Some(key) = message.key().and_then(Key::read).filter(|key| wanted(key)) {
                        found(message.offset(), entry(key, &message));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) if high_watermark(&consumer, topic) >= end => return Ok(()),
                // A leader that was only just chosen may not know yet how far the records are that it has.
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(e)) if is_of_the_group(&e) => {}
                Some(Err(e)) => return Err(failed(e)),
                None if heard.elapsed() > SILENCE => {
                    return Err(NotReady::Yet(format!("topic {topic} cannot be read: no answer")));
                }
                None => {}
            }
        }
    }

    /// Whether the transaction that hides the newest positions was begun by this run. No, where nothing is hidden.
    pub(super) fn hides_positions(&self, run: &str) -> Result<bool, NotReady> {
        let Some(Identity { cursor_topic: topic, .. }) = &self.identity else { return Ok(false) };
        let failed = |e: KafkaError| self.yet(&format!("topic {topic} cannot be read: {e}"), &[]);
        let reader = self.consumer("read_uncommitted")?;
        let (_, end) = reader.fetch_watermarks(topic, 0, ASK).map_err(failed)?;
        let (_, committed) = self.consumer("read_committed")?.fetch_watermarks(topic, 0, ASK).map_err(failed)?;
        if committed >= end {
            return Ok(false);
        }
        // The committed end is the first record of the oldest transaction that is open.
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(committed)).map_err(failed)?;
        reader.assign(&list).map_err(failed)?;
        let until = Instant::now() + SILENCE;
        while Instant::now() < until {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => return Ok(mark(&message).is_some_and(|mark| mark.run == run)),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(false),
                Some(Err(e)) if is_of_the_group(&e) => {}
                Some(Err(e)) => return Err(failed(e)),
                None => {}
            }
        }
        Err(NotReady::Yet(format!("topic {topic} cannot be read: no answer")))
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer<Reading>, NotReady> {
        let mut config = self.config.clone();
        config
            // It joins no group: the client only wants a name.
            .set("group.id", "atkafka")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", isolation)
            // Beside the record that is read; its default of 64 MiB would not be within what the process may take.
            .set("queued.max.messages.kbytes", AHEAD_KB)
            .remove("transactional.id");
        let context = Reading(AdminContext(self.context(false)));
        let consumer = BaseConsumer::from_config_and_context(&config, context)
            .map_err(|e| NotReady::Ever(format!("no reader of positions: {e}")))?;
        self.authorize(consumer.client())?;
        Ok(consumer)
    }
}

/// The high watermark of the first partition, as the last fetch had it; 0 before there was one.
fn high_watermark(consumer: &BaseConsumer<Reading>, topic: &str) -> i64 {
    let Ok(topic) = CString::new(topic) else { return 0 };
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client and the text live until the call returns, which writes two numbers of ours.
    let code = unsafe {
        rd_kafka_get_watermark_offsets(consumer.client().native_ptr(), topic.as_ptr(), 0, &raw mut low, &raw mut high)
    };
    if code == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { high } else { 0 }
}

fn entry(key: Key, message: &BorrowedMessage<'_>) -> Entry {
    let value = message.payload().map(<[u8]>::to_vec);
    Entry { key, value, mark: mark(message), writer: header(message, WRITER) }
}

fn mark(message: &BorrowedMessage<'_>) -> Option<Mark> {
    Some(Mark { run: header(message, RUN)?, number: header(message, NUMBER)?.parse().ok()? })
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let found = message.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}

/// Whether a topic keeps positions of `largest` bytes for ever.
fn checked(topic: &str, policy: &str, limit: Option<String>, largest: usize) -> Result<(), NotReady> {
    match policy {
        "compact" => {}
        policy => {
            return Err(NotReady::Settings(format!(
                "--cursor-topic {topic}: it has cleanup.policy={policy}, so that positions would be deleted some day; kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact, or another topic"
            )));
        }
    }
    match limit.and_then(|text| text.parse::<usize>().ok()) {
        Some(limit) if limit < largest => Err(NotReady::Settings(format!(
            "--cursor-topic {topic}: it takes records of {limit} bytes, and a position of this source may have {largest}; kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config max.message.bytes={largest}, or another topic"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_would_lose_positions_is_refused() {
        let ask = |policy: &str, limit: &str| match checked("t", policy, Some(limit.into()), 1_000) {
            Ok(()) => String::new(),
            Err(NotReady::Settings(why)) => why,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(ask("compact", "1000"), "");
        for policy in ["delete", "compact,delete"] {
            let why = ask(policy, "1000");
            assert!(why.contains("--cursor-topic t") && why.contains("cleanup.policy=compact"), "{why}");
        }
        assert!(ask("compact", "999").contains("max.message.bytes=1000"));
        assert!(checked("t", "compact", None, 1_000).is_ok());
    }
}

//! The topic of one run, and what its records say of the way there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const PARTITIONS: i32 = 8;
const ASK: Duration = Duration::from_secs(20);

/// It is deleted at the end, with that of its positions.
pub struct Topic {
    broker: String,
    name: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Topic {
    /// `appended`: records get the time at which the broker wrote them.
    pub fn make(broker: &str, appended: bool) -> Topic {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("atkafka-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker);
        let admin: AdminClient<_> = config.create().expect("an admin client");
        let times = if appended { "LogAppendTime" } else { "CreateTime" };
        let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            .set("message.timestamp.type", times);
        let made = pollster::block_on(admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(ASK))));
        made.expect("a broker").into_iter().for_each(|topic| drop(topic.expect("a topic")));
        Topic { broker: broker.into(), name, admin }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Half and 99 of 100 events were in the broker's log within so many milliseconds after the relay had them. Those of the
    /// first `skipped` do not count.
    pub fn latencies(&self, skipped: Duration) -> (f64, f64) {
        quantiles(self.records(), skipped)
    }

    /// Reads what is committed while it is written, until the watch ends.
    pub fn watch(&self) -> Watch {
        let (consumer, _) = self.consumer();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
                let seen = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
                times.extend(time(message.expect("a record").payload().unwrap_or_default()).map(|at| (at, seen)));
            }
            times
        });
        Watch { end, thread }
    }

    /// When each event came to exist, and when the broker wrote it, in milliseconds.
    fn records(&self) -> Vec<(i64, i64)> {
        let (consumer, mut left) = self.consumer();
        let (mut records, until) = (Vec::new(), Instant::now() + ASK);
        while left > 0 && Instant::now() < until {
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            let message = message.expect("a record");
            left -= 1;
            if let (Some(at), Some(appended)) =
                (time(message.payload().unwrap_or_default()), message.timestamp().to_millis())
            {
                records.push((at, appended));
            }
        }
        records
    }

    /// One that reads all of the topic from its beginning, committed records only, and how many records that is now.
    fn consumer(&self) -> (BaseConsumer, i64) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.broker).set("group.id", "bench").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        let mut records = 0;
        for partition in 0..PARTITIONS {
            let until = Instant::now() + ASK;
            let (low, high) = loop {
                match consumer.fetch_watermarks(&self.name, partition, ASK) {
                    Ok(marks) => break marks,
                    // A partition of a new topic has no leader in its first moments.
                    Err(e) => assert!(Instant::now() < until, "no answer about a partition: {e}"),
                }
                std::thread::sleep(Duration::from_millis(100));
            };
            records += high - low;
            list.add_partition_offset(&self.name, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("partitions");
        (consumer, records)
    }
}

/// A consumer that reads along.
pub struct Watch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(i64, i64)>>,
}

impl Watch {
    /// Half and 99 of 100 events reached the consumer within so many milliseconds after the relay had them. Those of the first
    /// `skipped` do not count. Ends the watch.
    pub fn latencies(self, skipped: Duration) -> (f64, f64) {
        self.end.store(true, Ordering::Relaxed);
        quantiles(self.thread.join().expect("a watch"), skipped)
    }
}

/// `times`: when something happened, and when it was seen.
fn quantiles(mut times: Vec<(i64, i64)>, skipped: Duration) -> (f64, f64) {
    let first = times.iter().map(|(at, _)| *at).min().unwrap_or(0) + skipped.as_millis() as i64;
    times.retain(|(at, _)| *at >= first);
    let mut late: Vec<i64> = times.iter().map(|(at, seen)| seen - at).collect();
    assert!(!late.is_empty(), "no record arrived");
    late.sort_unstable();
    (late[late.len() / 2] as f64, late[late.len() * 99 / 100] as f64)
}

/// The first time in an event.
fn time(event: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(event).ok()?;
    let at = ["\"timestamp\":\"", "\"send_time\":\""].iter().find_map(|key| Some(text.find(key)? + key.len()))?;
    atkafka::atproto::time::parse_ms(text[at..].split('"').next()?)
}

impl Drop for Topic {
    fn drop(&mut self) {
        // The second one is that of positions, if there is one.
        let both = [self.name.as_str(), &format!("{}.cursor", self.name)];
        let _ = pollster::block_on(self.admin.delete_topics(&both, &AdminOptions::new()));
    }
}

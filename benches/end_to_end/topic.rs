//! The topic of one run, and what its records say of the way there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const PARTITIONS: i32 = 8;
const ASK: Duration = Duration::from_secs(20);

/// It is deleted at the end.
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
        let mut times = self.records();
        let first = times.iter().map(|(at, _)| *at).min().unwrap_or(0) + skipped.as_millis() as i64;
        times.retain(|(at, _)| *at >= first);
        let mut late: Vec<i64> = times.iter().map(|(at, appended)| appended - at).collect();
        assert!(!late.is_empty(), "no record arrived");
        late.sort_unstable();
        (late[late.len() / 2] as f64, late[late.len() * 99 / 100] as f64)
    }

    /// When each event came to exist, and when the broker wrote it, in milliseconds.
    fn records(&self) -> Vec<(i64, i64)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.broker).set("group.id", "bench").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        let mut left = 0;
        for partition in 0..PARTITIONS {
            let (low, high) = consumer.fetch_watermarks(&self.name, partition, ASK).expect("a partition");
            left += high - low;
            list.add_partition_offset(&self.name, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("partitions");
        let (mut records, until) = (Vec::new(), Instant::now() + ASK);
        while left > 0 && Instant::now() < until {
            let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
            let message = message.expect("a record");
            left -= 1;
            let text = message.payload().unwrap_or_default();
            if let (Some(at), Some(appended)) = (time(text), message.timestamp().to_millis()) {
                records.push((at, appended));
            }
        }
        records
    }
}

/// The first time in an event.
fn time(event: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(event).ok()?;
    let at = ["\"timestamp\":\"", "\"send_time\":\""].iter().find_map(|key| Some(text.find(key)? + key.len()))?;
    atkafka::atproto::time::parse_ms(text[at..].split('"').next()?)
}

impl Drop for Topic {
    fn drop(&mut self) {
        let _ = pollster::block_on(self.admin.delete_topics(&[&self.name], &AdminOptions::new()));
    }
}

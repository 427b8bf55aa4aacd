//! Where positions are kept, and whether events are delivered in transactions with them.

use std::time::Duration;

use super::flags::Writing;
use super::values::{duration, is_topic, one_of};
use crate::config::{Checked, invalid};
use crate::sink::kafka_options::{Kafka, KafkaClient};

/// Bytes of a topic's name at most.
const LONGEST_TOPIC: usize = 249;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Longer, and `/readyz` would take the wait for a stop of delivery.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// Positions that are kept in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorTopic {
    /// Its name.
    pub topic: String,
    /// Events are delivered exactly once, in transactions of this length. `None`: at least once.
    pub interval: Option<Duration>,
}

/// `None`: positions are kept in files.
pub(super) fn cursor_topic(f: &Writing, kafka: &Kafka) -> Checked<Option<CursorTopic>> {
    const DELIVERY: [(&str, bool); 2] = [("at-least-once", false), ("exactly-once", true)];
    let exactly_once = one_of("--delivery", f.delivery.as_deref(), &DELIVERY)?.unwrap_or(false);
    let store = one_of("--cursor-store", f.cursor_store.as_deref(), &[("file", false), ("kafka", true)])?;
    if exactly_once && store == Some(false) {
        return Err(invalid(
            "--cursor-store",
            "file",
            "contradicts --delivery exactly-once, which keeps positions in Kafka, together with the events",
        ));
    }
    if !exactly_once && f.commit_interval.is_some() {
        return Err(invalid("--commit-interval", "", "goes with --delivery exactly-once"));
    }
    if !exactly_once && store != Some(true) {
        return match &f.cursor_topic {
            Some(_) => Err(invalid("--cursor-topic", "", "goes with --cursor-store kafka")),
            None => Ok(None),
        };
    }
    if kafka.client == KafkaClient::Kafka {
        let flag = if exactly_once { "--delivery exactly-once" } else { "--cursor-store kafka" };
        return Err(invalid(flag, "", "--kafka-client kafka has no transactions; --kafka-client librdkafka has"));
    }
    let topic = f.cursor_topic.clone().unwrap_or_else(|| format!("{}.cursor", kafka.topics[0]));
    if !is_topic(&topic) {
        let what = match topic.len() > LONGEST_TOPIC && f.cursor_topic.is_none() {
            true => "the default name is too long for a topic: give a shorter one",
            false => "1 to 249 letters, digits, dots, underscores and hyphens",
        };
        return Err(invalid("--cursor-topic", &topic, what));
    }
    if kafka.topics.contains(&topic) || Some(&topic) == kafka.dead_letter_topic.as_ref() {
        return Err(invalid(
            "--cursor-topic",
            &topic,
            "has events or dead letters: positions need a topic of their own",
        ));
    }
    let interval = match &f.commit_interval {
        None => DEFAULT_INTERVAL,
        Some(text) => duration(text)
            .filter(|d| (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(d))
            .ok_or_else(|| invalid("--commit-interval", text, "from 10ms to 10s, such as 100ms or 1s"))?,
    };
    Ok(Some(CursorTopic { topic, interval: exactly_once.then_some(interval) }))
}

/// Refuses what a source cannot do, whose positions Kafka cannot hold, with the reason.
pub(in crate::config) fn refuse(positions: Option<&CursorTopic>, why: &str) -> Checked<()> {
    match positions {
        None => Ok(()),
        Some(CursorTopic { interval: Some(_), .. }) => Err(invalid("--delivery", "exactly-once", why)),
        Some(_) => Err(invalid("--cursor-store", "kafka", why)),
    }
}

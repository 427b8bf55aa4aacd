//! Where positions are kept, and whether events are delivered in transactions with them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::{Storing, Writing};
use super::kafka;
use super::values::{duration, is_topic, one_of};
use crate::config::{Checked, Input, invalid};
use crate::sink::kafka_options::{Kafka, KafkaClient};

/// Bytes of a topic's name at most.
const LONGEST_TOPIC: usize = 249;
const DEFAULT_STATE_DIR: &str = "./atkafka-state";
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Longer, and `/readyz` would take the wait for a stop of delivery.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const DEFAULT_TAKEOVER: Duration = Duration::from_secs(10);
/// What brokers take for the session timeout of a group by default: `group.min.session.timeout.ms`.
const SHORTEST_TAKEOVER: Duration = Duration::from_secs(6);
const LONGEST_TAKEOVER: Duration = Duration::from_secs(300);
/// Characters of an instance's name at most: a transactional id is made of it.
const LONGEST_INSTANCE: usize = 200;

/// Positions that are kept in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorTopic {
    /// Its name.
    pub topic: String,
    /// Events are delivered exactly once, in transactions of this length. `None`: at least once.
    pub interval: Option<Duration>,
    /// The name of the instance. Empty: the identity is made of the hosts and the output topic.
    pub instance: String,
    /// Instances of the same identity take turns: the next one takes over when the one at work is silent for so long.
    pub takeover_after: Option<Duration>,
}

/// Where the commands about positions find them.
pub enum Kept {
    /// State files, in this directory.
    Files(PathBuf),
    /// Records of a topic. It is never created by these commands.
    Topic {
        /// How to speak to its brokers.
        kafka: Box<Kafka>,
        /// Its name.
        topic: String,
    },
}

/// `None`: positions are kept in files.
pub(super) fn cursor_topic(f: &Writing, kafka: &Kafka) -> Checked<Option<CursorTopic>> {
    let (exactly_once, store) = asked(f)?;
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
    if !exactly_once && f.standby {
        return Err(invalid(
            "--standby",
            "",
            "needs --delivery exactly-once: without it, what the last instance had delivered and not yet saved would come twice",
        ));
    }
    if !f.standby && f.takeover_after.is_some() {
        return Err(invalid("--takeover-after", "", "goes with --standby"));
    }
    if !exactly_once && store != Some(true) && f.instance_id.is_some() {
        return Err(invalid("--instance-id", "", "goes with --cursor-store kafka"));
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
    let topic = topic(f, &kafka.topics[0])?;
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
    let takeover_after = match &f.takeover_after {
        None => DEFAULT_TAKEOVER,
        Some(text) => duration(text)
            .filter(|d| (SHORTEST_TAKEOVER..=LONGEST_TAKEOVER).contains(d))
            .ok_or_else(|| invalid("--takeover-after", text, "from 6s to 5m, such as 10s"))?,
    };
    let instance = f.instance_id.clone().unwrap_or_default();
    if f.instance_id.is_some() && (!is_topic(&instance) || instance.len() > LONGEST_INSTANCE) {
        return Err(invalid("--instance-id", &instance, "1 to 200 letters, digits, dots, underscores and hyphens"));
    }
    Ok(Some(CursorTopic {
        topic,
        interval: exactly_once.then_some(interval),
        instance,
        takeover_after: f.standby.then_some(takeover_after),
    }))
}

/// Whether delivery is exactly once, and what `--cursor-store` says: `true` for Kafka.
fn asked(f: &Writing) -> Checked<(bool, Option<bool>)> {
    const DELIVERY: [(&str, bool); 2] = [("at-least-once", false), ("exactly-once", true)];
    const STORES: [(&str, bool); 2] = [("file", false), ("kafka", true)];
    let exactly_once = one_of("--delivery", f.delivery.as_deref(), &DELIVERY)?.unwrap_or(false);
    Ok((exactly_once, one_of("--cursor-store", f.cursor_store.as_deref(), &STORES)?))
}

/// The cursor topic of an output topic.
fn topic(f: &Writing, output: &str) -> Checked<String> {
    let topic = f.cursor_topic.clone().unwrap_or_else(|| format!("{output}.cursor"));
    if is_topic(&topic) {
        return Ok(topic);
    }
    let what = match topic.len() > LONGEST_TOPIC && f.cursor_topic.is_none() {
        true => "the default name is too long for a topic: give a shorter one",
        false => "1 to 249 letters, digits, dots, underscores and hyphens",
    };
    Err(invalid("--cursor-topic", &topic, what))
}

/// The directory of state files: systemd gives several with colons between, and the first is ours.
pub(super) fn directory(given: Option<&String>, env: &HashMap<String, String>) -> PathBuf {
    let systemd = || env.get("STATE_DIRECTORY")?.split(':').next().filter(|dir| !dir.is_empty());
    PathBuf::from(given.map(String::as_str).or_else(systemd).unwrap_or(DEFAULT_STATE_DIR))
}

/// Where a service with these settings keeps its positions. `--cursor-topic` alone says Kafka, too.
pub(in crate::config) fn store(f: Storing, servers: Vec<String>, input: &Input<'_>) -> Checked<Kept> {
    let mut f = Writing { bootstrap_servers: servers, ..f.into() };
    let (exactly_once, store) = asked(&f)?;
    if store == Some(false) || !(exactly_once || store == Some(true) || f.cursor_topic.is_some()) {
        return Ok(Kept::Files(directory(f.state_dir.as_ref(), &input.env.all)));
    }
    if f.bootstrap_servers.is_empty() {
        return Err(invalid("--bootstrap-servers", "", "required for positions that are kept in Kafka"));
    }
    let topic = match (&f.output_topic, &f.cursor_topic) {
        (None, None) => {
            let why = "required for positions in Kafka, or --output-topic, from which its default name comes";
            return Err(invalid("--cursor-topic", "", why));
        }
        (output, _) => topic(&f, output.as_deref().unwrap_or_default())?,
    };
    // Nothing is written to a topic of events.
    f.output_topic.get_or_insert_with(|| topic.clone());
    let mut kafka = kafka::settings(&f, input)?;
    kafka.topics.clear();
    kafka.new_topic.create = false;
    Ok(Kept::Topic { kafka: Box::new(kafka), topic })
}

/// Refuses what a source cannot do, whose positions Kafka cannot hold, with the reason.
pub(in crate::config) fn refuse(positions: Option<&CursorTopic>, why: &str) -> Checked<()> {
    match positions {
        None => Ok(()),
        Some(CursorTopic { interval: Some(_), .. }) => Err(invalid("--delivery", "exactly-once", why)),
        Some(_) => Err(invalid("--cursor-store", "kafka", why)),
    }
}

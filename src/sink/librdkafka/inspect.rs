//! What a cluster, its topics and this client's rights are, asked without changing anything: for `atkafka check`
//! and `atkafka cursor`.
//!
//! It uses the same client settings and the same explanations of errors as [`Librdkafka`], and never asks for a topic by its
//! name in a way that creates it. Each question takes some seconds at most. It runs on a thread of the check.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer};

use super::context::{AdminContext, Context};
use super::{ASK, Librdkafka};
use crate::checkpoint::topic::{Entry, Key};
use crate::metrics::Metrics;
use crate::sink::kafka_options::Kafka;
use crate::sink::limits::{self, Limits};
pub use crate::sink::probe::Facts;
use crate::sink::probe::{self, Budget};
use crate::sink::rights::{self, Right};
use crate::sink::{NotReady, kafka};

/// `metadata.version` of each version of Kafka, as `kafka-features.sh version-mapping` of 4.3.1 lists them.
const LEVELS: &[(i16, &str)] = &[
    (7, "3.3"),
    (8, "3.4"),
    (11, "3.5"),
    (14, "3.6"),
    (19, "3.7"),
    (20, "3.8"),
    (21, "3.9"),
    (25, "4.0"),
    (27, "4.1"),
    (29, "4.2"),
    (30, "4.3"),
];

/// A cluster that answers.
pub struct Inspector {
    sink: Librdkafka,
    probe: BaseProducer<Context>,
    admin: AdminClient<AdminContext>,
    metadata: Metadata,
}

/// A topic as the cluster knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many it has.
    pub partitions: usize,
    /// Of the partition that has the fewest.
    pub replicas: usize,
    /// Replicas in sync, of the partition that has the fewest.
    pub in_sync: usize,
    /// Partitions without a leader: nothing can be written there now.
    pub leaderless: usize,
}

/// Settings of a topic that decide what becomes of records.
#[derive(Debug)]
pub struct TopicSettings {
    /// What it takes.
    pub limits: Limits,
    /// `retention.ms`; `None`: for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes` of each partition; `None`: without limit.
    pub retention_bytes: Option<i64>,
    /// `cleanup.policy` has `delete`.
    pub deletes: bool,
    /// `cleanup.policy` has `compact`.
    pub compacts: bool,
    /// `min.insync.replicas`: with fewer in sync nothing can be written.
    pub min_in_sync: usize,
}

impl Inspector {
    /// Connects. Fails with one line: for settings that librdkafka refuses, or why the brokers cannot be used.
    pub fn connect(options: Kafka) -> Result<Inspector, String> {
        let sink = Librdkafka::new(options, Metrics::default().sink).map_err(|e| format!("--kafka-config: {e}"))?;
        let text = |e: rdkafka::error::KafkaError| e.to_string();
        let admin =
            AdminClient::from_config_and_context(&sink.config, AdminContext(sink.context(false))).map_err(text)?;
        let probe = BaseProducer::from_config_and_context(&sink.config, sink.context(false)).map_err(text)?;
        sink.authorize(admin.inner()).map_err(NotReady::text)?;
        sink.authorize(probe.client()).map_err(NotReady::text)?;
        let metadata = sink.metadata(&probe).map_err(NotReady::text)?;
        Ok(Inspector { sink, probe, admin, metadata })
    }

    /// `host:port` of each broker, as the cluster names them.
    pub fn brokers(&self) -> Vec<String> {
        self.metadata.brokers().iter().map(|b| format!("{}:{}", b.host(), b.port())).collect()
    }

    /// `None` for very old brokers.
    pub fn cluster_id(&self) -> Option<String> {
        self.probe.client().fetch_cluster_id(ASK)
    }

    /// `None` where the cluster has no such topic, or does not show it to this client.
    pub fn topic(&self, name: &str) -> Option<Shape> {
        let topic = self.metadata.topics().iter().find(|t| t.name() == name)?;
        let least = |of: fn(&rdkafka::metadata::MetadataPartition) -> usize| {
            topic.partitions().iter().map(of).min().unwrap_or(0)
        };
        Some(Shape {
            partitions: topic.partitions().len(),
            replicas: least(|p| p.replicas().len()),
            in_sync: least(|p| p.isr().len()),
            leaderless: topic.partitions().iter().filter(|p| p.leader() < 0).count(),
        })
    }

    /// Fails with the broker's words, such as for a missing right.
    pub fn settings(&self, name: &str) -> Result<TopicSettings, String> {
        let resource =
            limits::describe(&self.admin, &ResourceSpecifier::Topic(name)).map_err(|unknown| unknown.text)?;
        // Without the right to read them the answer is empty.
        let limits = limits::of(&resource).ok_or("the broker does not say them")?;
        let number = |key: &str| text(&resource, key).and_then(|value| value.parse::<i64>().ok());
        let policy = text(&resource, "cleanup.policy").unwrap_or("delete");
        Ok(TopicSettings {
            limits,
            retention_ms: number("retention.ms").filter(|ms| *ms >= 0),
            retention_bytes: number("retention.bytes").filter(|bytes| *bytes >= 0),
            deletes: policy.contains("delete"),
            compacts: policy.contains("compact"),
            min_in_sync: number("min.insync.replicas").map_or(1, |n| n.max(1) as usize),
        })
    }

    /// Has the broker say whether it would create the topic, without doing it. Fails with its words.
    pub fn would_create(&self, name: &str) -> Result<(), String> {
        let new = &self.sink.options.new_topic;
        let replication = TopicReplication::Fixed(new.replication.unwrap_or(-1));
        let topic = NewTopic::new(name, new.partitions.unwrap_or(-1), replication);
        let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK)).validate_only(true);
        let answer = pollster::block_on(self.admin.create_topics([&topic], &options)).map_err(|e| e.to_string())?;
        match answer.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            // It is there, and this client may not see it.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                Err("it exists, and this client has no right to see it (Describe)".into())
            }
            Some(Err((_, code))) => Err(format!("it does not exist and would not be created: {code}")),
            None => Err("no answer".into()),
        }
    }

    /// Partitions and replicas that a topic gets when none are asked for: what a broker is set to, where that can be read.
    pub fn defaults(&self) -> (Option<i64>, Option<i64>) {
        let Some(broker) = self.metadata.brokers().first() else { return (None, None) };
        let Ok(resource) = limits::describe(&self.admin, &ResourceSpecifier::Broker(broker.id())) else {
            return (None, None);
        };
        let number = |key: &str| text(&resource, key).and_then(|value| value.parse().ok());
        (number("num.partitions"), number("default.replication.factor"))
    }

    /// Gives `found` each committed record of the wanted positions in a cursor topic, with its offset; of several of one position
    /// the last one counts. Fails with one line.
    pub fn positions(
        &self,
        topic: &str,
        wanted: &dyn Fn(&Key) -> bool,
        found: &mut dyn FnMut(i64, Entry),
    ) -> Result<(), String> {
        self.sink.each_position(topic, wanted, found).map_err(NotReady::text)
    }

    /// The rights of this client on a topic that is there. Fails with why they are not known.
    pub fn rights(&self, name: &str) -> Result<Vec<Right>, String> {
        rights::on_topic(self.admin.inner(), name, ASK)
    }
}

fn text<'a>(resource: &'a ConfigResource, key: &str) -> Option<&'a str> {
    resource.get(key).and_then(|entry| entry.value.as_deref())
}

/// Asks the first server that answers for its certificate and its version.
pub fn facts(servers: &[String], tls: bool) -> Facts {
    let budget = Budget::new();
    let all = servers.iter().take_while(|_| !budget.is_spent()).map(|server| probe::facts(server, tls, budget));
    all.into_iter().find(|facts| *facts != Facts::default()).unwrap_or_default()
}

/// The version of Kafka that has a `metadata.version`, as people write it.
pub fn version(level: i16) -> String {
    match LEVELS.iter().find(|(newest, _)| level <= *newest) {
        Some((_, name)) => name.to_string(),
        None => format!("newer than {}", LEVELS.last().map_or("", |(_, name)| name)),
    }
}

/// Whether `--kafka-client kafka` can speak to a broker: it needs version 0 of each request, which Kafka 4 has removed.
pub fn takes_version_0(server: &str) -> Option<bool> {
    kafka::least_fetch_version(server).map(|least| least == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_kafka_lists() {
        for (level, name) in [(1, "3.3"), (7, "3.3"), (21, "3.9"), (22, "4.0"), (25, "4.0"), (30, "4.3")] {
            assert_eq!(version(level), name);
        }
        assert_eq!(version(31), "newer than 4.3");
    }
}

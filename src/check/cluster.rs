//! The Kafka cluster: whether its brokers can be used with these settings, its version and certificate, and the topics. On
//! the thread of the check that has the output.

use super::{History, Out, Positions, cursor_topic, host, topic};
use crate::sink::kafka_options::{Kafka, KafkaClient, Sasl};
use crate::sink::librdkafka::inspect::{self, Inspector};

/// `positions`: those that are kept in the cluster, where they are.
pub fn check(options: Kafka, history: History, positions: Option<Positions>, out: &Out) {
    let servers = options.servers.join(",");
    let inspector = match Inspector::connect(options.clone()) {
        Ok(inspector) => inspector,
        Err(why) => return out.failed("broker", why),
    };
    let brokers = inspector.brokers();
    let id = inspector.cluster_id().map_or(String::new(), |id| format!(", cluster {id}"));
    out.ok("broker", format!("{servers} answers: {} ({}){id}", plural(brokers.len(), "broker"), brokers.join(", ")));
    out.ok("login", login(&options));
    facts(&options, out);
    if options.client == KafkaClient::Kafka
        && options.servers.iter().any(|server| inspect::takes_version_0(server) == Some(false))
    {
        out.failed("client", "--kafka-client kafka speaks only to brokers up to 3.9: --kafka-client librdkafka does");
    }
    for name in &options.topics {
        topic::check(&inspector, &options, name, history, out);
    }
    if let Some(name) = &options.dead_letter_topic {
        topic::check(&inspector, &options, name, History::None, out);
    }
    if let Some(positions) = positions {
        cursor_topic::check(&inspector, &options, positions, out);
    }
}

/// How the brokers were spoken to. `--kafka-config` may say otherwise, which counts.
fn login(options: &Kafka) -> String {
    let tls = if options.tls.is_some() { "over TLS" } else { "in plain" };
    let by = match &options.sasl {
        Some(sasl @ Sasl::Password { user, .. }) => format!("as {user} by {}", sasl.mechanism().name()),
        Some(sasl @ Sasl::Token(oauth)) => format!("as {} by {}", oauth.client_id, sasl.mechanism().name()),
        None => "without a login".into(),
    };
    match options.config.iter().any(|(key, _)| key.starts_with("sasl.") || key == "security.protocol") {
        true => "as --kafka-config says".into(),
        false => format!("{by}, {tls}"),
    }
}

fn facts(options: &Kafka, out: &Out) {
    let protocol = options.config.iter().rev().find(|(key, _)| key == "security.protocol").map(|(_, value)| value);
    let tls = protocol.map_or(options.tls.is_some(), |protocol| protocol.to_ascii_lowercase().contains("ssl"));
    let facts = inspect::facts(&options.servers, tls);
    match facts.level {
        Some(level) => out.ok("version", format!("Kafka {}", inspect::version(level))),
        None => out.not_checked("version", "the broker does not say it: before 3.3, or not Apache's"),
    }
    if let Some(der) = facts.certificate {
        host::certificate(&options.servers.join(","), &der, out);
    }
}

/// `1 broker`, `3 brokers`.
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

//! Where the records go in Kafka, and how to speak to its brokers.

use super::flags::Writing;
use super::sasl;
use super::values::{self, CA_FILE, is_topic, list, number, one_of, properties};
use super::writing::{Output, memory_limit};
use crate::config::{Checked, Input, dotenv, invalid};
use crate::route::Routes;
use crate::sink::kafka_options::{Codec, Kafka, KafkaClient, NewTopic, Tls};

/// Flags that mean nothing without a broker.
pub(super) const KAFKA_ONLY: &[&str] = &[
    "--output-topic",
    "--route",
    "--dead-letter-topic",
    "--kafka-client",
    "--kafka-config",
    "--compression",
    "--tls",
    "--tls-ca-file",
    "--tls-cert-file",
    "--tls-key-file",
    "--sasl-mechanism",
    "--sasl-username",
    "--sasl-password",
    "--sasl-password-file",
    "--sasl-oauth-token-url",
    "--sasl-oauth-client-id",
    "--sasl-oauth-client-secret",
    "--sasl-oauth-client-secret-file",
    "--sasl-oauth-scope",
    "--topic-partitions",
    "--topic-replication",
    "--no-create-topic",
    "--record-headers",
    "--delivery",
    "--commit-interval",
    "--cursor-store",
    "--cursor-topic",
    "--instance-id",
    "--standby",
    "--takeover-after",
];

/// Without servers events go to standard output, and flags that only Kafka has are a mistake.
pub(super) fn output(f: &Writing, input: &Input<'_>) -> Checked<Output> {
    if !list(&f.bootstrap_servers).is_empty() {
        return Ok(Output::Kafka(Box::new(settings(f, input)?)));
    }
    match KAFKA_ONLY.iter().find(|flag| input.has(flag)) {
        Some(flag) => Err(invalid(flag, "", "needs --bootstrap-servers host:port")),
        None => Ok(Output::Lines),
    }
}

/// How to speak to the brokers, and what is written there.
pub(super) fn settings(f: &Writing, input: &Input<'_>) -> Checked<Kafka> {
    let servers = list(&f.bootstrap_servers);
    for server in &servers {
        values::server(server)?;
    }
    let topic = |flag, name: &Option<String>| match name {
        Some(name) if is_topic(name) => Ok(Some(name.clone())),
        Some(name) => Err(invalid(flag, name, "1 to 249 letters, digits, dots, underscores and hyphens")),
        None => Ok(None),
    };
    let client = one_of(
        "--kafka-client",
        f.kafka_client.as_deref(),
        &[("librdkafka", KafkaClient::Librdkafka), ("kafka", KafkaClient::Kafka)],
    )?
    .unwrap_or(KafkaClient::Librdkafka);
    let codec = one_of("--compression", f.compression.as_deref(), &Codec::NAMES)?;
    let sasl = sasl::sasl(f, &input.env.all)?;
    let tls =
        Tls { ca_file: f.tls_ca_file.clone(), cert_file: f.tls_cert_file.clone(), key_file: f.tls_key_file.clone() };
    if !f.tls && (tls.ca_file.is_some() || tls.cert_file.is_some() || tls.key_file.is_some()) {
        return Err(invalid("--tls-ca-file, --tls-cert-file, --tls-key-file", "", "go with --tls"));
    }
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        return Err(invalid("--tls-cert-file", "", "goes with --tls-key-file"));
    }
    if client == KafkaClient::Kafka {
        let unable = [
            ("--tls", f.tls),
            ("--sasl-mechanism", sasl.is_some()),
            ("--kafka-config", !f.kafka_config.is_empty()),
            ("--record-headers", f.record_headers),
            ("--topic-partitions", f.topic_partitions.is_some()),
            ("--topic-replication", f.topic_replication.is_some()),
            ("--compression lz4", codec == Some(Codec::Lz4)),
            ("--compression zstd", codec == Some(Codec::Zstd)),
        ];
        if let Some((flag, _)) = unable.iter().find(|(_, given)| *given) {
            return Err(invalid(flag, "", "--kafka-client kafka cannot do it; --kafka-client librdkafka can"));
        }
    }
    for (flag, file) in
        [("--tls-ca-file", &tls.ca_file), ("--tls-cert-file", &tls.cert_file), ("--tls-key-file", &tls.key_file)]
    {
        if let Some(path) = file {
            // The others may be pipes, which the Kafka client reads: a key need not be on a disk.
            if flag == "--tls-ca-file" {
                dotenv::limited_file(flag, path, CA_FILE, dotenv::Takes::Files)?;
            }
            std::fs::File::open(path).map_err(|e| invalid(flag, path, &format!("cannot be read: {e}")))?;
        }
    }
    let events = topic("--output-topic", &f.output_topic)?
        .ok_or_else(|| invalid("--output-topic", "", "required with --bootstrap-servers"))?;
    let dead_letters = topic("--dead-letter-topic", &f.dead_letter_topic)?;
    let mut topics = vec![events];
    let routes =
        Routes::new(&list(&f.route), &mut topics, is_topic).map_err(|(rule, why)| invalid("--route", &rule, &why))?;
    if let Some(same) = dead_letters.as_ref().filter(|letters| topics.contains(letters)) {
        return Err(invalid(
            "--dead-letter-topic",
            same,
            "the same as a topic of events (--output-topic, --route): it needs one of its own",
        ));
    }
    let plain = f.osprey_compatible || client == KafkaClient::Kafka;
    Ok(Kafka {
        topics,
        routes,
        dead_letter_topic: dead_letters,
        servers,
        client,
        codec: codec.unwrap_or(if plain { Codec::None } else { Codec::Lz4 }),
        config: properties(&f.kafka_config)?,
        tls: f.tls.then_some(tls),
        sasl,
        new_topic: NewTopic {
            create: !f.no_create_topic,
            partitions: number("--topic-partitions", f.topic_partitions.as_deref(), 1..=100_000)?.map(|n| n as i32),
            replication: number("--topic-replication", f.topic_replication.as_deref(), 1..=1_000)?.map(|n| n as i32),
        },
        memory_limit: memory_limit(f)?,
    })
}

//! librdkafka's properties: ours, what the flags say, and `--kafka-config` over them. Values in, values out; no client is known.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::{BATCH, CLIENT_MAX_MESSAGE};
use crate::sink::kafka_options::{Kafka, Sasl};

/// Why a property that librdkafka would take is refused: with it a promise does not hold.
pub(super) fn broken_promise(key: &str, value: &str) -> Option<&'static str> {
    let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(value));
    let no = is(&["false", "0", "f"]);
    match key {
        "transactional.id" | "transaction.timeout.ms" => Some("--delivery exactly-once sets it"),
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

/// Why librdkafka refuses a property, without its value, which may be a password.
pub(super) fn refused(error: KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, key, value) => match why.contains(&value) && !value.is_empty() {
            true => format!("{key}: librdkafka refuses this value"),
            false => format!("{key}: {why}"),
        },
        other => other.to_string(),
    }
}

pub(super) fn config(options: &Kafka) -> ClientConfig {
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
        // The reader has gathered already. To wait here as well would cost a wake-up and a millisecond for each batch.
        .set("linger.ms", "0")
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
        .set("statistics.interval.ms", super::figures::EVERY_MS)
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
            c.set("sasl.username", user).set("sasl.password", &password.text);
        }
    }
    for (key, value) in &options.config {
        c.set(key, value);
    }
    c
}

//! librdkafka's own figures (its `STATISTICS.md`): what waits in the client, and how each broker answers. Called by the thread
//! that serves the client, every [`EVERY_MS`]; it only sets metrics.

use std::collections::HashMap;

use serde::Deserialize;

use crate::atproto::json_input;
use crate::metrics::sink::{BrokerMetrics, SinkMetrics};

/// Between two of them, in milliseconds.
pub(super) const EVERY_MS: &str = "15000";
/// Levels of the text: brokers, their windows, and the topics, which are passed over.
const DEEPEST: usize = 16;
/// Brokers with metrics of their own. Clusters have some dozen.
const MAX_BROKERS: usize = 100;

#[derive(Deserialize)]
struct Figures {
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    msg_size: u64,
    #[serde(default)]
    brokers: HashMap<String, Broker>,
}

#[derive(Deserialize)]
struct Broker {
    /// `host:port`.
    #[serde(default)]
    nodename: String,
    /// -1: one of the servers that were given, before its id is known. It is there again under its id.
    #[serde(default)]
    nodeid: i64,
    #[serde(default)]
    state: String,
    #[serde(default)]
    txretries: u64,
    /// Microseconds.
    #[serde(default)]
    rtt: Window,
    /// Milliseconds.
    #[serde(default)]
    throttle: Window,
}

/// What was measured since the last time.
#[derive(Deserialize, Default)]
struct Window {
    #[serde(default)]
    avg: f64,
    #[serde(default)]
    p50: f64,
    #[serde(default)]
    p99: f64,
}

/// What was told of the brokers so far.
#[derive(Default)]
pub(super) struct Told {
    brokers: HashMap<String, (BrokerMetrics, u64)>,
}

impl Told {
    /// Sets the metrics from the text. One that cannot be read is passed over: it says nothing that is needed.
    pub(super) fn tell(&mut self, text: &[u8], metrics: &SinkMetrics) {
        let figures: Figures = match json_input::read(text, DEEPEST) {
            Ok(figures) => figures,
            Err(e) => {
                log::debug!("librdkafka's statistics: {e}");
                return;
            }
        };
        metrics.queued_records.set(figures.msg_cnt as i64);
        metrics.queued_bytes.set(figures.msg_size as i64);
        for broker in figures.brokers.into_values().filter(|broker| broker.nodeid >= 0 && !broker.nodename.is_empty()) {
            if self.brokers.len() >= MAX_BROKERS && !self.brokers.contains_key(&broker.nodename) {
                continue;
            }
            let (of, retries) =
                self.brokers.entry(broker.nodename.clone()).or_insert_with(|| (metrics.broker(&broker.nodename), 0));
            of.up.set(i64::from(broker.state == "UP"));
            of.round_trip_p50.set(broker.rtt.p50 / 1e6);
            of.round_trip_p99.set(broker.rtt.p99 / 1e6);
            of.throttle.set(broker.throttle.avg / 1e3);
            // A new client counts from 0.
            let before = if broker.txretries < *retries { 0 } else { *retries };
            of.retries.inc_by(broker.txretries - before);
            *retries = broker.txretries;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn text(retries: u64, state: &str) -> String {
        format!(
            r#"{{"name":"x","msg_cnt":7,"msg_size":900,"brokers":{{
                "b1:9092/1":{{"name":"b1:9092/1","nodeid":1,"nodename":"b1:9092","state":"{state}","txretries":{retries},
                    "rtt":{{"min":1,"avg":2000,"p50":1500,"p99":40000}},"throttle":{{"avg":30,"p50":0,"p99":0}}}},
                "b1:9092/bootstrap":{{"nodeid":-1,"nodename":"b1:9092","state":"INIT","txretries":9}}}},
                "topics":{{"t":{{"partitions":{{"0":{{"msgq_cnt":1}}}}}}}}}}"#
        )
    }

    #[test]
    fn brokers_are_told_and_a_new_client_counts_anew() {
        let metrics = Metrics::default();
        let mut told = Told::default();
        told.tell(text(3, "UP").as_bytes(), &metrics.sink);
        told.tell(b"no JSON", &metrics.sink);
        told.tell(text(2, "DOWN").as_bytes(), &metrics.sink);
        let all = metrics.text();
        for line in [
            "atkafka_kafka_queue_records 7",
            "atkafka_kafka_queue_bytes 900",
            "atkafka_kafka_broker_up{broker=\"b1:9092\"} 0",
            "atkafka_kafka_broker_retries{broker=\"b1:9092\"} 5",
            "atkafka_kafka_broker_round_trip_seconds{broker=\"b1:9092\",quantile=\"0.5\"} 0.0015",
            "atkafka_kafka_broker_round_trip_seconds{broker=\"b1:9092\",quantile=\"0.99\"} 0.04",
            "atkafka_kafka_broker_throttle_seconds{broker=\"b1:9092\"} 0.03",
        ] {
            assert!(all.lines().any(|found| found == line), "{line}\n{all}");
        }
        let many: Vec<String> = (0..MAX_BROKERS + 5)
            .map(|n| format!(r#""b{n}":{{"nodeid":{n},"nodename":"n{n}:1","state":"UP"}}"#))
            .collect();
        told.tell(format!(r#"{{"brokers":{{{}}}}}"#, many.join(",")).as_bytes(), &metrics.sink);
        assert_eq!(metrics.text().matches("atkafka_kafka_broker_up{").count(), MAX_BROKERS);
    }
}

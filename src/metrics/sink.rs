//! What outputs count.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Register;

/// The metrics of the output.
pub struct SinkMetrics {
    /// Errors of the Kafka client that it goes on after.
    pub kafka_errors: IntCounter,
    /// Records whose time the topic refuses.
    pub moved_times: IntCounter,
    /// Records in the Kafka client that no broker has acknowledged.
    pub queued_records: IntGauge,
    /// Their bytes.
    pub queued_bytes: IntGauge,
    broker_up: IntGaugeVec,
    broker_round_trip: GaugeVec,
    broker_throttle: GaugeVec,
    broker_retries: IntCounterVec,
}

/// How one broker answers, as the Kafka client sees it.
pub struct BrokerMetrics {
    /// 1: connected.
    pub up: IntGauge,
    /// Seconds from a request to its answer: the median, and what 99 of 100 stay below.
    pub round_trip_p50: Gauge,
    /// See [`BrokerMetrics::round_trip_p50`].
    pub round_trip_p99: Gauge,
    /// Seconds by which it slows us down with each answer (a quota).
    pub throttle: Gauge,
    /// Requests that were sent again.
    pub retries: IntCounter,
}

impl SinkMetrics {
    pub(super) fn new(r: Register<'_>) -> Self {
        SinkMetrics {
            kafka_errors: r.counter("atkafka_kafka_errors", "Errors that the Kafka client reported; it goes on trying"),
            moved_times: r.counter(
                "atkafka_moved_timestamps",
                "Records that got the nearest time that the topic takes, in place of the event's",
            ),
            queued_records: r.gauge("atkafka_kafka_queue_records", "Records in the Kafka client, not yet acknowledged"),
            queued_bytes: r.gauge("atkafka_kafka_queue_bytes", "Bytes of the records in the Kafka client"),
            broker_up: r.gauges("atkafka_kafka_broker_up", "1 when the client is connected to the broker", &["broker"]),
            broker_round_trip: r.fractions(
                "atkafka_kafka_broker_round_trip_seconds",
                "Time from a request to the broker's answer, over the last 15 seconds",
                &["broker", "quantile"],
            ),
            broker_throttle: r.fractions(
                "atkafka_kafka_broker_throttle_seconds",
                "Time by which the broker slows the client down (a quota), mean over the last 15 seconds",
                &["broker"],
            ),
            broker_retries: r.counters(
                "atkafka_kafka_broker_retries",
                "Requests to the broker that were sent again",
                &["broker"],
            ),
        }
    }

    /// Of one broker, `host:port`.
    pub fn broker(&self, name: &str) -> BrokerMetrics {
        BrokerMetrics {
            up: self.broker_up.with_label_values(&[name]),
            round_trip_p50: self.broker_round_trip.with_label_values(&[name, "0.5"]),
            round_trip_p99: self.broker_round_trip.with_label_values(&[name, "0.99"]),
            throttle: self.broker_throttle.with_label_values(&[name]),
            retries: self.broker_retries.with_label_values(&[name]),
        }
    }
}

//! What outputs count.

use prometheus::IntCounter;

use super::Register;

/// The metrics of the output.
pub struct SinkMetrics {
    /// Errors of the Kafka client that it goes on after.
    pub kafka_errors: IntCounter,
    /// Records whose time the topic refuses.
    pub moved_times: IntCounter,
}

impl SinkMetrics {
    pub(super) fn new(r: Register<'_>) -> Self {
        SinkMetrics {
            kafka_errors: r.counter("atkafka_kafka_errors", "Errors that the Kafka client reported; it goes on trying"),
            moved_times: r.counter(
                "atkafka_moved_timestamps",
                "Records that got the nearest time that the topic takes, in place of the event's",
            ),
        }
    }
}

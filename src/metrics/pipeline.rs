//! What the pipeline counts: from the queue of jobs to the acknowledgement.

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{DeadLetters, Register};
use crate::dead_letter::Reason;

/// The metrics of queues, the memory limit and delivery.
pub struct PipelineMetrics {
    dead_letters: DeadLetters,
    /// Records that were acknowledged.
    pub produced_ok: IntCounter,
    /// Records that were refused: each is sent again, or becomes a dead letter.
    pub produced_error: IntCounter,
    topics: IntCounterVec,
    lag: GaugeVec,
    last_seq_delivered: IntGaugeVec,
    /// Frames between the socket and the acknowledgement.
    pub frames_in_flight: IntGauge,
    /// Bytes that they hold of the memory limit.
    pub bytes_in_flight: IntGauge,
    /// The memory limit, in bytes.
    pub memory_limit: IntGauge,
    /// Jobs that wait for a worker.
    pub queue_depth: IntGauge,
    /// Seconds that one job takes a worker.
    pub decode_seconds: Histogram,
    /// Seconds from reading a job to the acknowledgement of its last record.
    pub delivery_seconds: Histogram,
    /// Transactions that were committed.
    pub transactions_committed: IntCounter,
    /// Transactions that were aborted; what they held is sent again.
    pub transactions_aborted: IntCounter,
    /// Seconds that a commit takes.
    pub commit_seconds: Histogram,
    /// 1 while another instance works and this one waits to take over.
    pub standby: IntGauge,
    /// Shared with the sink: errors of the client that the producer sees.
    pub kafka_errors: IntCounter,
}

/// What became of the records of one topic.
pub struct TopicMetrics {
    /// Its name.
    pub name: String,
    /// Records that were acknowledged.
    pub ok: IntCounter,
    /// Records that were refused: each is sent again, or becomes a dead letter.
    pub error: IntCounter,
}

impl PipelineMetrics {
    pub(super) fn new(
        r: Register<'_>,
        dead_letters: DeadLetters,
        last_seq_delivered: IntGaugeVec,
        kafka_errors: IntCounter,
    ) -> Self {
        let produced = r.counters(
            "atkafka_produced_events",
            "Records by what became of them: ok, or error (sent again, or a dead letter)",
            &["status"],
        );
        let transactions = r.counters(
            "atkafka_transactions",
            "Transactions with --delivery exactly-once: committed, or aborted and sent again",
            &["outcome"],
        );
        PipelineMetrics {
            dead_letters,
            transactions_committed: transactions.with_label_values(&["committed"]),
            transactions_aborted: transactions.with_label_values(&["aborted"]),
            commit_seconds: r.histogram(
                "atkafka_commit_seconds",
                "Time to commit a transaction, from its last record on",
                &[1e-3, 2e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0],
            ),
            standby: r.gauge(
                "atkafka_standby",
                "1 while another instance works and this one waits to take over (--standby), else 0",
            ),
            produced_ok: produced.with_label_values(&["ok"]),
            produced_error: produced.with_label_values(&["error"]),
            topics: r.counters(
                "atkafka_topic_events",
                "Records by topic and what became of them: ok, or error (sent again, or a dead letter)",
                &["topic", "status"],
            ),
            lag: r.fractions(
                "atkafka_lag_seconds",
                "Age of the last delivered event at its delivery; it grows while nothing is delivered",
                &["host"],
            ),
            last_seq_delivered,
            frames_in_flight: r.gauge("atkafka_frames_in_flight", "Frames read and not yet acknowledged"),
            bytes_in_flight: r
                .gauge("atkafka_bytes_in_flight", "Bytes of the frames in flight, held under the memory limit"),
            memory_limit: r.gauge("atkafka_memory_limit_bytes", "The limit for bytes in flight"),
            queue_depth: r.gauge("atkafka_queue_depth", "Batches of frames that wait for a worker"),
            decode_seconds: r.histogram(
                "atkafka_decode_seconds",
                "Time to decode, verify and encode one batch of frames",
                &[1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2, 0.1],
            ),
            delivery_seconds: r.histogram(
                "atkafka_delivery_seconds",
                "Time from reading a batch of frames to the acknowledgement of its last record",
                &[1e-3, 2e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0],
            ),
            kafka_errors,
        }
    }

    /// The counter of dead letters of one reason.
    pub fn dead_letter(&self, reason: Reason) -> &IntCounter {
        self.dead_letters.of(reason)
    }

    /// Dead letters of every reason, also those that sources counted.
    pub fn dead_letters_total(&self) -> u64 {
        self.dead_letters.total()
    }

    /// The lag of one upstream host in seconds, for those whose events are of now.
    pub fn lag(&self, host: &str) -> Gauge {
        self.lag.with_label_values(&[host])
    }

    /// The last seq of one upstream host up to which all is acknowledged.
    pub fn last_seq_delivered(&self, host: &str) -> IntGauge {
        self.last_seq_delivered.with_label_values(&[host])
    }

    /// Of one topic of events.
    pub fn topic(&self, name: &str) -> TopicMetrics {
        let of = |status| self.topics.with_label_values(&[name, status]);
        TopicMetrics { name: name.into(), ok: of("ok"), error: of("error") }
    }
}

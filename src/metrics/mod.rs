//! Every metric, its labels and their bounds. Each room has a struct of its own, which it gets instead of the whole; all are
//! registered in one registry, which only [`Metrics::text`] reads. Nothing here knows what is counted, or when. Any thread
//! counts, and the HTTP server's thread reads.
//!
//! Handles are looked up once and kept: a count is one atomic addition. Label values that come from the network are bounded
//! (for example by [`decode::MAX_COLLECTIONS`]); what is over the bound is counted as [`OTHER`].

pub mod checkpoint;
pub mod decode;
pub mod enrich;
pub mod pipeline;
pub mod sink;
pub mod source;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::dead_letter::Reason;

/// The label for what is over a bound.
pub const OTHER: &str = "other";

/// All metrics of the process, by room. A clone of a room's struct counts in the same place.
pub struct Metrics {
    registry: Registry,
    /// What the readers count.
    pub source: Arc<source::SourceMetrics>,
    /// What the decoders count.
    pub decode: Arc<decode::DecodeMetrics>,
    /// Look-ups and caches.
    pub enrich: Arc<enrich::EnrichMetrics>,
    /// From the queue of jobs to the acknowledgement.
    pub pipeline: Arc<pipeline::PipelineMetrics>,
    /// What the outputs count.
    pub sink: Arc<sink::SinkMetrics>,
    /// Saved positions.
    pub checkpoint: Arc<checkpoint::CheckpointMetrics>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let r = Register(&registry);
        r.gauges("atkafka_build_info", "1, with the version", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("registered once");
        let dead_letters = DeadLetters::new(r);
        let last_seq_delivered =
            r.gauges("atkafka_last_seq_delivered", "The last seq up to which all is acknowledged", &["host"]);
        let source = source::SourceMetrics::new(r, dead_letters.clone(), last_seq_delivered.clone());
        let sink = sink::SinkMetrics::new(r);
        Metrics {
            decode: Arc::new(decode::DecodeMetrics::new(r, source.unknown_frames.clone())),
            enrich: Arc::new(enrich::EnrichMetrics::new(r)),
            pipeline: Arc::new(pipeline::PipelineMetrics::new(
                r,
                dead_letters,
                last_seq_delivered,
                sink.kafka_errors.clone(),
            )),
            checkpoint: Arc::new(checkpoint::CheckpointMetrics::new(
                r,
                source.tap_events.clone(),
                source.tap_acks.clone(),
            )),
            source: Arc::new(source),
            sink: Arc::new(sink),
            registry,
        }
    }
}

impl Metrics {
    /// The counters and gauges of now, by name: each with the value of its first label, where it has one.
    pub fn values(&self) -> HashMap<String, Vec<(String, f64)>> {
        let value = |kind: MetricType, metric: &Metric| match kind {
            MetricType::COUNTER => metric.get_counter().get_value(),
            _ => metric.get_gauge().get_value(),
        };
        let label = |metric: &Metric| metric.get_label().first().map(|l| l.value().to_string()).unwrap_or_default();
        let families = self.registry.gather();
        let families = families.iter().filter(|f| f.get_field_type() != MetricType::HISTOGRAM);
        let of = |f: &MetricFamily| f.get_metric().iter().map(|m| (label(m), value(f.get_field_type(), m))).collect();
        families.map(|family| (family.name().to_string(), of(family))).collect()
    }

    /// All metrics in the text format that Prometheus scrapes (version 0.0.4).
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Fails only on a writer that fails; a Vec does not.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The counters of `atkafka_dead_letters`, which several rooms count in.
#[derive(Clone)]
pub struct DeadLetters(Arc<[IntCounter]>);

impl DeadLetters {
    fn new(r: Register<'_>) -> Self {
        let dead = r.counters("atkafka_dead_letters", "What could not become an event, by reason", &["reason"]);
        DeadLetters(Reason::ALL.iter().map(|r| dead.with_label_values(&[r.name()])).collect())
    }

    /// The counter of one reason.
    pub fn of(&self, reason: Reason) -> &IntCounter {
        &self.0[reason as usize]
    }

    /// Dead letters of every reason.
    pub fn total(&self) -> u64 {
        self.0.iter().map(IntCounter::get).sum()
    }
}

/// Makes metrics and registers them. Names and labels are constants of this room, so that it fails only on a bug here, and at
/// the start.
#[derive(Clone, Copy)]
struct Register<'r>(&'r Registry);

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(self, collector: Result<C, prometheus::Error>) -> C {
        let collector = collector.expect("a metric's name and labels are valid");
        self.0.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }

    fn counter(self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn fractions(self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }
}

/// `value`, or [`OTHER`] when it would be one label too many.
fn bounded<'a>(seen: &Mutex<HashSet<String>>, value: &'a str, limit: usize) -> &'a str {
    let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if seen.contains(value) {
        value
    } else if seen.len() < limit && value.len() <= 256 {
        seen.insert(value.to_string());
        value
    } else {
        OTHER
    }
}

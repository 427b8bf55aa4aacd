//! Every metric, its labels and their bounds.
//!
//! Handles are looked up once and kept. Label values that come from the network are bounded: collections by
//! [`MAX_COLLECTIONS`], error names by [`MAX_ERRORS`]; the rest is counted as `other`.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::atproto::json::Oddity;
use crate::dead_letter::Reason;
use crate::event::Action;

/// Distinct `collection` labels. The network had about 60 collections of note and a long tail (measured 2026).
pub const MAX_COLLECTIONS: usize = 300;
/// Distinct `error` labels of upstream error frames.
pub const MAX_ERRORS: usize = 20;
/// Distinct kinds of Ozone's events; there were 22 (Ozone 0.4.2).
pub const MAX_OZONE_KINDS: usize = 100;
/// The label for what is over a bound.
pub const OTHER: &str = "other";

/// The labels of look-ups. `status` is ok, not_found or error.
const LOOKUP: &[&str] = &["kind", "status", "cached"];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    handled: IntCounterVec,
    collections: Mutex<HashSet<String>>,
    error_names: Mutex<HashSet<String>>,
    ozone_kinds: Mutex<HashSet<String>>,
    pub produced_ok: IntCounter,
    pub produced_error: IntCounter,
    dead_letters: Vec<IntCounter>,
    pub filtered: IntCounter,
    pub without_record: IntCounter,
    pub empty_commits: IntCounter,
    noncanonical: Vec<IntCounter>,
    pub received_frames: IntCounter,
    pub received_bytes: IntCounter,
    pub repeats: IntCounter,
    pub unknown_frames: IntCounter,
    error_frames: IntCounterVec,
    gaps: IntCounterVec,
    reconnects: IntCounterVec,
    silent: IntCounterVec,
    connected: IntGaugeVec,
    lag: GaugeVec,
    last_seq_received: IntGaugeVec,
    last_seq_delivered: IntGaugeVec,
    pub frames_in_flight: IntGauge,
    pub bytes_in_flight: IntGauge,
    pub memory_limit: IntGauge,
    pub queue_depth: IntGauge,
    pub decode_seconds: Histogram,
    pub delivery_seconds: Histogram,
    pub kafka_errors: IntCounter,
    pub moved_times: IntCounter,
    pub acks_sent: IntCounter,
    pub tap_events: IntGauge,
    pub tap_acks: IntGauge,
    pub ozone_pages: IntCounter,
    pub ozone_repeats: IntCounter,
    ozone_requests: IntCounterVec,
    pub checkpoint_ok: IntCounter,
    pub checkpoint_error: IntCounter,
    plc_requests: IntCounterVec,
    api_requests: IntCounterVec,
    cache_size: IntGaugeVec,
    cache_bytes: IntGaugeVec,
    metadata_missing: IntCounterVec,
    pub fetch_queue: IntGauge,
    breaker_open: IntGaugeVec,
}

/// The handles of one upstream connection.
#[derive(Clone)]
pub struct SourceMetrics {
    pub connected: IntGauge,
    /// Seconds between an event's time and its delivery, of the last one delivered.
    pub last_seq_received: IntGauge,
    pub last_seq_delivered: IntGauge,
}

/// Registers a collector. Names and labels are constants of this file, so that this fails only on a bug here, and at start.
fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: Result<C, prometheus::Error>) -> C {
    let collector = collector.expect("a metric's name and labels are valid");
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

impl Default for Metrics {
    fn default() -> Self {
        let r = Registry::new();
        let counter = |name: &str, help: &str| register(&r, IntCounter::new(name, help));
        let counters =
            |name: &str, help: &str, labels: &[&str]| register(&r, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name: &str, help: &str| register(&r, IntGauge::new(name, help));
        let gauges =
            |name: &str, help: &str, labels: &[&str]| register(&r, IntGaugeVec::new(Opts::new(name, help), labels));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            register(&r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        let produced = counters(
            "atkafka_produced_events",
            "Records by what became of them: ok, or error (sent again, or a dead letter)",
            &["status"],
        );
        let dead = counters("atkafka_dead_letters", "What could not become an event, by reason", &["reason"]);
        let noncanonical = counters(
            "atkafka_noncanonical_records",
            "Records passed on although they are not encoded in the canonical way, by what is odd",
            &["kind"],
        );
        let saves = counters("atkafka_checkpoint_saves", "Cursor files written", &["status"]);
        register(&r, IntGaugeVec::new(Opts::new("atkafka_build_info", "1, with the version"), &["version"]))
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        r.register(Box::new(prometheus::process_collector::ProcessCollector::for_self())).expect("registered once");
        Metrics {
            handled: counters("atkafka_handled_events", "Events received and handled", &["action_name", "collection"]),
            collections: Mutex::default(),
            error_names: Mutex::default(),
            ozone_kinds: Mutex::default(),
            produced_ok: produced.with_label_values(&["ok"]),
            produced_error: produced.with_label_values(&["error"]),
            dead_letters: Reason::ALL.iter().map(|r| dead.with_label_values(&[r.name()])).collect(),
            filtered: counter("atkafka_filtered_events", "Events and ops that the filters left out"),
            without_record: counter(
                "atkafka_events_without_record",
                "Creates and updates of commits too big to carry the record",
            ),
            empty_commits: counter("atkafka_empty_commits", "Commits without any op: they give no event"),
            noncanonical: Oddity::ALL.iter().map(|odd| noncanonical.with_label_values(&[odd.name()])).collect(),
            received_frames: counter("atkafka_received_frames", "Messages received, of any kind"),
            received_bytes: counter("atkafka_received_bytes", "Bytes of the messages received"),
            repeats: counter("atkafka_repeated_frames", "Frames skipped because their seq is not above the last one"),
            unknown_frames: counter("atkafka_unknown_frames", "Frames of a type or op that this version does not know"),
            error_frames: counters("atkafka_error_frames", "Error frames, by the name in them", &["error"]),
            gaps: counters(
                "atkafka_gaps",
                "Places where upstream events may be missing, by how it was noticed",
                &["kind"],
            ),
            reconnects: counters("atkafka_reconnects", "Connections that ended, by host", &["host"]),
            silent: counters(
                "atkafka_silent_connections",
                "Connections that were left since a busy host sent no event any more",
                &["host"],
            ),
            connected: gauges("atkafka_connected", "1 while connected to the host", &["host"]),
            lag: register(
                &r,
                GaugeVec::new(
                    Opts::new(
                        "atkafka_lag_seconds",
                        "Age of the last delivered event at its delivery; it grows while nothing is delivered",
                    ),
                    &["host"],
                ),
            ),
            last_seq_received: gauges("atkafka_last_seq_received", "The last seq read from the host", &["host"]),
            last_seq_delivered: gauges(
                "atkafka_last_seq_delivered",
                "The last seq up to which all is acknowledged",
                &["host"],
            ),
            frames_in_flight: gauge("atkafka_frames_in_flight", "Frames read and not yet acknowledged"),
            bytes_in_flight: gauge(
                "atkafka_bytes_in_flight",
                "Bytes of the frames in flight, held under the memory limit",
            ),
            memory_limit: gauge("atkafka_memory_limit_bytes", "The limit for bytes in flight"),
            queue_depth: gauge("atkafka_queue_depth", "Batches of frames that wait for a worker"),
            decode_seconds: histogram(
                "atkafka_decode_seconds",
                "Time to decode, verify and encode one batch of frames",
                &[1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2, 0.1],
            ),
            delivery_seconds: histogram(
                "atkafka_delivery_seconds",
                "Time from reading a batch of frames to the acknowledgement of its last record",
                &[1e-3, 2e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0],
            ),
            moved_times: counter(
                "atkafka_moved_timestamps",
                "Records that got the nearest time that the topic takes, in place of the event's",
            ),
            kafka_errors: counter("atkafka_kafka_errors", "Errors that the Kafka client reported; it goes on trying"),
            acks_sent: counter("atkafka_acks_sent", "Acknowledgements sent to Tap"),
            tap_events: gauge(
                "atkafka_tap_event_buffer_size",
                "Tap events read and not yet acknowledged by the broker",
            ),
            tap_acks: gauge(
                "atkafka_tap_ack_event_buffer_size",
                "Tap events acknowledged by the broker whose acknowledgement waits for the socket",
            ),
            ozone_pages: counter("atkafka_ozone_pages", "Pages of events that Ozone gave"),
            ozone_repeats: counter(
                "atkafka_ozone_repeats",
                "Events of the look-back window that were delivered before, skipped",
            ),
            ozone_requests: counters(
                "atkafka_ozone_requests",
                "Requests to the PDS and, through it, to Ozone",
                &["method", "status"],
            ),
            checkpoint_ok: saves.with_label_values(&["ok"]),
            checkpoint_error: saves.with_label_values(&["error"]),
            plc_requests: counters(
                "atkafka_plc_requests",
                "DID documents and audit logs: answers of the PLC directory (and of did:web hosts), and of the cache",
                LOOKUP,
            ),
            api_requests: counters(
                "atkafka_api_requests",
                "Profiles and handles: answers of the AppView, and of the cache",
                LOOKUP,
            ),
            cache_size: gauges("atkafka_cache_size", "Accounts in the caches of enrichment", &["kind"]),
            cache_bytes: gauges("atkafka_cache_bytes", "Bytes of the caches of enrichment", &["kind"]),
            metadata_missing: counters(
                "atkafka_metadata_missing",
                "Parts of metadata that an event went on without",
                &["part"],
            ),
            fetch_queue: gauge("atkafka_fetch_queue", "Look-ups of accounts that are not answered yet"),
            breaker_open: gauges(
                "atkafka_breaker_open",
                "1 while a directory is left alone because it is down",
                &["host"],
            ),
            registry: r,
        }
    }
}

impl Metrics {
    /// The handles for one upstream host.
    pub fn source(&self, host: &str) -> SourceMetrics {
        self.reconnects.with_label_values(&[host]).inc_by(0);
        self.silent.with_label_values(&[host]).inc_by(0);
        SourceMetrics {
            connected: self.connected.with_label_values(&[host]),
            last_seq_received: self.last_seq_received.with_label_values(&[host]),
            last_seq_delivered: self.last_seq_delivered.with_label_values(&[host]),
        }
    }

    /// A frame that was taken before.
    pub fn repeated_frame(&self) {
        self.received_frames.inc();
        self.repeats.inc();
    }

    /// A frame of a kind that is not known.
    pub fn unknown_frame(&self) {
        self.received_frames.inc();
        self.unknown_frames.inc();
    }

    pub fn dead_letter(&self, reason: Reason) -> &IntCounter {
        &self.dead_letters[reason as usize]
    }

    pub fn noncanonical(&self, oddity: Oddity) -> &IntCounter {
        &self.noncanonical[oddity as usize]
    }

    /// Dead letters of every reason.
    pub fn dead_letters_total(&self) -> u64 {
        self.dead_letters.iter().map(IntCounter::get).sum()
    }

    /// The lag of one upstream host, for those whose events are of now.
    pub fn lag(&self, host: &str) -> Gauge {
        self.lag.with_label_values(&[host])
    }

    /// `kind` is a name from the program, not from the network.
    pub fn gap(&self, kind: &'static str) {
        self.gaps.with_label_values(&[kind]).inc();
    }

    /// `method` is a name from the program, `status` an HTTP status or 0 when there was no answer.
    pub fn ozone_request(&self, method: &'static str, status: u16) {
        self.ozone_requests.with_label_values(&[method, itoa::Buffer::new().format(status)]).inc();
    }

    /// An answer to a look-up. The kind is a name from the program.
    pub fn lookup(&self, kind: &'static str, status: LookedUp) {
        self.lookups(kind).with_label_values(&[kind, status.name(), "false"]).inc();
    }

    fn lookups(&self, kind: &str) -> &IntCounterVec {
        if matches!(kind, "did_doc" | "audit_log") { &self.plc_requests } else { &self.api_requests }
    }

    /// The gauge of a directory's circuit breaker.
    pub fn breaker(&self, host: &str) -> IntGauge {
        if host.is_empty() {
            // Nobody is asked: it has no sample.
            return IntGauge::new("unused", "unused").expect("a valid name");
        }
        self.breaker_open.with_label_values(&[host])
    }

    pub fn cache(&self, kind: &'static str, entries: usize, bytes: usize) {
        self.cache_size.with_label_values(&[kind]).set(entries as i64);
        self.cache_bytes.with_label_values(&[kind]).set(bytes as i64);
    }

    /// The counter of events that went on without this part.
    pub fn metadata_missing(&self, part: &'static str) -> IntCounter {
        self.metadata_missing.with_label_values(&[part])
    }

    pub fn reconnect(&self, host: &str) {
        self.reconnects.with_label_values(&[host]).inc();
    }

    /// A connection was left since a busy host sent no event any more.
    pub fn silent_connection(&self, host: &str) {
        self.silent.with_label_values(&[host]).inc();
    }

    pub fn error_frame(&self, name: &str) {
        let name = bounded(&self.error_names, name, MAX_ERRORS);
        self.error_frames.with_label_values(&[name]).inc();
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Fails only on a writer that fails; a Vec does not.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
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

/// What came of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookedUp {
    Ok,
    NotFound,
    Error,
}

impl LookedUp {
    const ALL: [LookedUp; 3] = [LookedUp::Ok, LookedUp::NotFound, LookedUp::Error];

    fn name(self) -> &'static str {
        match self {
            LookedUp::Ok => "ok",
            LookedUp::NotFound => "not_found",
            LookedUp::Error => "error",
        }
    }
}

/// The counters of what the caches answered: looked up once.
pub struct CacheHits(Vec<[IntCounter; 3]>);

impl CacheHits {
    /// For these kinds of look-up.
    pub fn new(metrics: &Metrics, kinds: &[&'static str]) -> Self {
        let counters =
            |kind| LookedUp::ALL.map(|status| metrics.lookups(kind).with_label_values(&[kind, status.name(), "true"]));
        CacheHits(kinds.iter().map(|kind| counters(kind)).collect())
    }

    /// A look-up of the kind at this place of the list was answered from the cache.
    #[inline]
    pub fn hit(&self, kind: usize, status: LookedUp) {
        self.0[kind][status as usize].inc();
    }
}

/// The first actions are ops, which have a collection.
const OPS: usize = 3;

/// The counters of `atkafka_handled_events` that one worker has met: a look-up without a lock.
pub struct Handled<'m> {
    metrics: &'m Metrics,
    ops: HashMap<String, [IntCounter; 3]>,
    others: Vec<IntCounter>,
}

impl<'m> Handled<'m> {
    pub fn new(metrics: &'m Metrics) -> Self {
        let others = Action::ALL[OPS..].iter().map(|a| metrics.handled.with_label_values(&[a.name(), ""])).collect();
        Handled { metrics, ops: HashMap::new(), others }
    }

    /// A record that was made: an op by its collection, another event by its action.
    pub fn record(&mut self, action: Action, collection: &str) {
        match action {
            Action::Create | Action::Update | Action::Delete => self.op(action, collection),
            // Counted by its type, where that is known.
            Action::Ozone => {}
            _ => self.others[action as usize - OPS].inc(),
        }
    }

    fn op(&mut self, action: Action, collection: &str) {
        if let Some(counters) = self.ops.get(collection) {
            counters[action as usize].inc();
            return;
        }
        let name = bounded(&self.metrics.collections, collection, MAX_COLLECTIONS);
        let counters = [Action::Create, Action::Update, Action::Delete]
            .map(|a| self.metrics.handled.with_label_values(&[a.name(), name]));
        counters[action as usize].inc();
        // The local table has the bound of the global one: collections over it take the slow way each time.
        if name == collection {
            self.ops.insert(collection.to_string(), counters);
        }
    }

    /// An event of Ozone, by the last part of its type.
    pub fn ozone(&mut self, kind: &str) {
        let name = bounded(&self.metrics.ozone_kinds, kind, MAX_OZONE_KINDS);
        self.metrics.handled.with_label_values(&[&format!("ozone#{name}"), ""]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_from_the_network_are_bounded() {
        let metrics = Metrics::default();
        let mut handled = Handled::new(&metrics);
        for i in 0..MAX_COLLECTIONS * 3 {
            handled.op(Action::Create, &format!("com.example.c{i}"));
        }
        for i in 0..MAX_ERRORS * 2 {
            metrics.error_frame(&format!("E{i}"));
        }
        let text = metrics.text();
        let lines = |prefix: &str| text.lines().filter(|l| l.starts_with(prefix)).count();
        assert_eq!(lines("atkafka_handled_events{action_name=\"operation#create\",collection=\"com"), MAX_COLLECTIONS);
        assert!(text.contains(&format!(
            "atkafka_handled_events{{action_name=\"operation#create\",collection=\"other\"}} {}",
            MAX_COLLECTIONS * 2
        )));
        assert_eq!(lines("atkafka_error_frames"), MAX_ERRORS + 1);
    }
}

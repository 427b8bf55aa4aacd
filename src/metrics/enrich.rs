//! What look-ups of accounts count.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Register;

/// The labels of look-ups. `status` is ok, not_found or error.
const LOOKUP: &[&str] = &["kind", "status", "cached"];

/// The metrics of look-ups and caches.
pub struct EnrichMetrics {
    plc_requests: IntCounterVec,
    api_requests: IntCounterVec,
    cache_size: IntGaugeVec,
    cache_bytes: IntGaugeVec,
    metadata_missing: IntCounterVec,
    /// Look-ups that are not answered.
    pub fetch_queue: IntGauge,
    breaker_open: IntGaugeVec,
}

impl EnrichMetrics {
    pub(super) fn new(r: Register<'_>) -> Self {
        EnrichMetrics {
            plc_requests: r.counters(
                "atkafka_plc_requests",
                "DID documents and audit logs: answers of the PLC directory (and of did:web hosts), and of the cache",
                LOOKUP,
            ),
            api_requests: r.counters(
                "atkafka_api_requests",
                "Profiles and handles: answers of the AppView, and of the cache",
                LOOKUP,
            ),
            cache_size: r.gauges("atkafka_cache_size", "Accounts in the caches of enrichment", &["kind"]),
            cache_bytes: r.gauges("atkafka_cache_bytes", "Bytes of the caches of enrichment", &["kind"]),
            metadata_missing: r.counters(
                "atkafka_metadata_missing",
                "Parts of metadata that an event went on without",
                &["part"],
            ),
            fetch_queue: r.gauge("atkafka_fetch_queue", "Look-ups of accounts that are not answered yet"),
            breaker_open: r.gauges(
                "atkafka_breaker_open",
                "1 while a directory is left alone because it is down",
                &["host"],
            ),
        }
    }

    /// Counts an answer to a look-up. The kind is a name from the program.
    pub fn lookup(&self, kind: &'static str, status: LookedUp) {
        self.lookups(kind).with_label_values(&[kind, status.name(), "false"]).inc();
    }

    fn lookups(&self, kind: &str) -> &IntCounterVec {
        if matches!(kind, "did_doc" | "audit_log") { &self.plc_requests } else { &self.api_requests }
    }

    /// The gauge of a directory's circuit breaker: 1 while it is open.
    pub fn breaker(&self, host: &str) -> IntGauge {
        if host.is_empty() {
            // Nobody is asked: it has no sample.
            return IntGauge::new("unused", "unused").expect("a valid name");
        }
        self.breaker_open.with_label_values(&[host])
    }

    /// Sets the size of the cache of this kind.
    pub fn cache(&self, kind: &'static str, entries: usize, bytes: usize) {
        self.cache_size.with_label_values(&[kind]).set(entries as i64);
        self.cache_bytes.with_label_values(&[kind]).set(bytes as i64);
    }

    /// The counter of events that went on without this part.
    pub fn metadata_missing(&self, part: &'static str) -> IntCounter {
        self.metadata_missing.with_label_values(&[part])
    }
}

/// What came of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookedUp {
    /// There was an answer.
    Ok,
    /// There is no such account.
    NotFound,
    /// Nobody could say it.
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
    pub fn new(metrics: &EnrichMetrics, kinds: &[&'static str]) -> Self {
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

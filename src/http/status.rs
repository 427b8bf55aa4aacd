//! `/status`: how it goes, as JSON. Its fields are described in docs/operating.md, where they are only added to. It reads the
//! counters, the health and the history when somebody asks, on the HTTP server's thread, and keeps nothing itself. Texts of
//! the network are made harmless here, once for everybody who shows them.

use std::collections::HashMap;

use data_encoding::BASE64;
use serde::Serialize;

use super::history::History;
use crate::atproto::time;
use crate::clock;
use crate::health::examples::Example;
use crate::health::{Cause, Health, Stand};
use crate::log::plain::plain;
use crate::metrics::Metrics;

/// Bytes of a text at most.
const TEXT: usize = 1_000;
/// Actions and collections that are listed: those with most events now.
const EVENTS: usize = 50;

/// One setting, for those on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// Such as `--relay-host`.
    pub flag: String,
    /// `true` for a switch, `***` for a secret.
    pub value: String,
    /// `flag`, or the name of the variable.
    pub from: String,
}

/// What does not change.
#[derive(Default)]
pub struct Process {
    /// The topic, or `stdout`.
    pub output: String,
    /// What was set, without secrets.
    pub settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Status<'p> {
    version: &'static str,
    time: String,
    started: String,
    uptime_seconds: u64,
    ready: bool,
    standby: bool,
    reasons: Vec<String>,
    output: &'p str,
    sources: Vec<Source>,
    waiting: Waiting,
    totals: Totals,
    events: Vec<Events>,
    dead_letters: DeadLetters,
    gaps: Gaps,
    caches: Vec<Cache>,
    resident_bytes: u64,
    history: Samples,
    local: bool,
    settings: Option<&'p [Setting]>,
}

#[derive(Serialize)]
struct Source {
    name: String,
    state: &'static str,
    reason: Option<String>,
    since_seconds: Option<u64>,
    lag_seconds: Option<f64>,
    frames: u64,
    frames_per_second: f64,
}

#[derive(Serialize)]
struct Waiting {
    frames: u64,
    bytes: u64,
    limit_bytes: u64,
    batches: u64,
    lookups: u64,
}

#[derive(Serialize)]
struct Totals {
    received: u64,
    received_bytes: u64,
    filtered: u64,
    delivered: u64,
    refused: u64,
    reconnects: u64,
}

#[derive(Serialize)]
struct Events {
    action: String,
    collection: String,
    count: u64,
    per_second: f64,
}

#[derive(Serialize)]
struct DeadLetters {
    count: u64,
    by_reason: Vec<Count>,
    last: Vec<Letter>,
}

#[derive(Serialize)]
struct Letter {
    time: String,
    host: String,
    reason: &'static str,
    seq: u64,
    detail: String,
    size: usize,
    /// The first bytes in base64; only for this machine.
    bytes: Option<String>,
}

#[derive(Serialize)]
struct Gaps {
    count: u64,
    by_kind: Vec<Count>,
    last: Vec<Gap>,
}

#[derive(Serialize)]
struct Gap {
    time: String,
    host: String,
    kind: &'static str,
    detail: String,
}

#[derive(Serialize)]
struct Count {
    name: String,
    count: u64,
}

#[derive(Serialize)]
struct Cache {
    kind: String,
    entries: u64,
    bytes: u64,
}

/// A column for each, the oldest sample first.
#[derive(Serialize)]
struct Samples {
    seconds: u64,
    time: Vec<String>,
    received_per_second: Vec<f64>,
    delivered_per_second: Vec<f64>,
    lag_seconds: Vec<Option<f64>>,
    delivery_seconds: Vec<Option<f64>>,
}

/// `/status`. `local`: whoever asks is on this machine, and may see settings and the bytes of dead letters.
pub fn json(metrics: &Metrics, health: &Health, history: &History, process: &Process, local: bool) -> String {
    let values = Values(metrics.values());
    let (causes, standby) = (health.causes(), health.is_standby());
    let stands = health.stands();
    let frames: Vec<u64> = stands.iter().map(|stand| stand.frames).collect();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        time: time::format_ms(clock::now_ms()),
        started: time::format_ms(history.started_ms),
        uptime_seconds: history.started.elapsed().as_secs(),
        ready: causes.is_empty(),
        standby,
        reasons: causes.iter().map(|cause| plain(&cause.to_string(), TEXT)).collect(),
        output: &process.output,
        sources: stands.into_iter().zip(history.frame_rates(&frames)).map(|of| source(of, standby)).collect(),
        waiting: Waiting {
            frames: values.sum("atkafka_frames_in_flight"),
            bytes: values.sum("atkafka_bytes_in_flight"),
            limit_bytes: values.sum("atkafka_memory_limit_bytes"),
            batches: values.sum("atkafka_queue_depth"),
            lookups: values.sum("atkafka_fetch_queue"),
        },
        totals: Totals {
            received: values.sum("atkafka_received_frames"),
            received_bytes: values.sum("atkafka_received_bytes"),
            filtered: values.sum("atkafka_filtered_events"),
            delivered: metrics.pipeline.produced_ok.get(),
            refused: metrics.pipeline.produced_error.get(),
            reconnects: values.sum("atkafka_reconnects"),
        },
        events: events(metrics, history),
        dead_letters: DeadLetters {
            count: values.sum("atkafka_dead_letters"),
            by_reason: values.counts("atkafka_dead_letters"),
            last: health.examples.dead_letters().into_iter().map(|example| letter(example, local)).collect(),
        },
        gaps: Gaps {
            count: values.sum("atkafka_gaps"),
            by_kind: values.counts("atkafka_gaps"),
            last: health.examples.gaps().into_iter().map(gap).collect(),
        },
        caches: values.caches(),
        resident_bytes: values.sum("process_resident_memory_bytes"),
        history: samples(history),
        local,
        settings: local.then_some(&process.settings),
    };
    // Fails only on keys that are no strings.
    sonic_rs::to_string(&status).unwrap_or_default()
}

/// The metrics by name: label and value.
struct Values(HashMap<String, Vec<(String, f64)>>);

impl Values {
    fn of(&self, name: &str) -> &[(String, f64)] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn sum(&self, name: &str) -> u64 {
        self.of(name).iter().map(|(_, value)| *value).sum::<f64>().max(0.0) as u64
    }

    /// Those that are not 0, the most frequent first.
    fn counts(&self, name: &str) -> Vec<Count> {
        let found = self.of(name).iter().filter(|(_, value)| *value > 0.0);
        let mut counts: Vec<Count> =
            found.map(|(label, value)| Count { name: plain(label, TEXT), count: *value as u64 }).collect();
        counts.sort_by_key(|c| std::cmp::Reverse(c.count));
        counts
    }

    fn caches(&self) -> Vec<Cache> {
        let bytes =
            |kind: &str| self.of("atkafka_cache_bytes").iter().find(|(k, _)| k == kind).map_or(0.0, |(_, v)| *v);
        let sizes = self.of("atkafka_cache_size").iter();
        sizes.map(|(kind, n)| Cache { kind: kind.clone(), entries: *n as u64, bytes: bytes(kind) as u64 }).collect()
    }
}

fn source((stand, frames_per_second): (Stand, f64), standby: bool) -> Source {
    let seconds = |since: std::time::Instant| since.elapsed().as_secs();
    let away = stand.away.as_ref().filter(|_| !standby);
    let (state, since) = match (away, stand.silent) {
        _ if standby => ("standby", None),
        (Some(away), _) => ("away", away.since),
        (None, Some(since)) => ("silent", Some(since)),
        (None, None) => ("connected", None),
    };
    Source {
        name: plain(&stand.name, TEXT),
        state,
        reason: away.map(|Cause { what, .. }| plain(what, TEXT)),
        since_seconds: since.map(seconds),
        lag_seconds: stand.lag.filter(|_| !standby).map(rounded),
        frames: stand.frames,
        frames_per_second: rounded(frames_per_second),
    }
}

/// Those with the highest rates, or counts where nothing comes.
fn events(metrics: &Metrics, history: &History) -> Vec<Events> {
    let rates = history.event_rates(metrics.decode.events());
    let mut events: Vec<Events> = rates
        .into_iter()
        .filter(|(_, count, _)| *count > 0)
        .map(|((action, collection), count, rate)| Events {
            action: plain(&action, TEXT),
            collection: plain(&collection, TEXT),
            count,
            per_second: rounded(rate),
        })
        .collect();
    events.sort_by(|a, b| {
        b.per_second.total_cmp(&a.per_second).then(b.count.cmp(&a.count)).then(a.collection.cmp(&b.collection))
    });
    events.truncate(EVENTS);
    events
}

fn letter(example: Example, local: bool) -> Letter {
    Letter {
        time: time::format_ms(example.time_ms),
        host: plain(&example.host, TEXT),
        reason: example.kind,
        seq: example.seq,
        detail: plain(&example.detail, TEXT),
        size: example.size,
        bytes: local.then(|| BASE64.encode(&example.bytes)),
    }
}

fn gap(example: Example) -> Gap {
    Gap {
        time: time::format_ms(example.time_ms),
        host: plain(&example.host, TEXT),
        kind: example.kind,
        detail: plain(&example.detail, TEXT),
    }
}

fn samples(history: &History) -> Samples {
    let samples = history.samples();
    Samples {
        seconds: super::history::EVERY.as_secs(),
        time: samples.iter().map(|s| time::format_ms(s.time_ms)).collect(),
        received_per_second: samples.iter().map(|s| rounded(s.received)).collect(),
        delivered_per_second: samples.iter().map(|s| rounded(s.delivered)).collect(),
        lag_seconds: samples.iter().map(|s| s.lag.map(rounded)).collect(),
        delivery_seconds: samples.iter().map(|s| s.delivery.map(rounded)).collect(),
    }
}

/// Three digits behind the point are enough for everybody.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

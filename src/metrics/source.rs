//! What readers count: messages, connections, gaps, and what Tap and Ozone have besides.

use std::collections::HashSet;
use std::sync::Mutex;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{DeadLetters, Register, bounded};
use crate::dead_letter::Reason;

/// Distinct `error` labels of upstream error frames.
pub const MAX_ERRORS: usize = 20;

/// The metrics of all sources.
pub struct SourceMetrics {
    error_names: Mutex<HashSet<String>>,
    dead_letters: DeadLetters,
    /// Messages of any kind.
    pub received_frames: IntCounter,
    /// Their bytes.
    pub received_bytes: IntCounter,
    repeats: IntCounter,
    /// Also counted by the decoder of Tap, whose reader does not look at kinds.
    pub unknown_frames: IntCounter,
    error_frames: IntCounterVec,
    gaps: IntCounterVec,
    reconnects: IntCounterVec,
    silent: IntCounterVec,
    stream_events: IntCounterVec,
    connected: IntGaugeVec,
    last_seq_received: IntGaugeVec,
    last_seq_delivered: IntGaugeVec,
    /// Acknowledgements sent to Tap.
    pub acks_sent: IntCounter,
    /// Tap's events between the socket and the broker's acknowledgement.
    pub tap_events: IntGauge,
    /// Tap's events between the broker's acknowledgement and ours.
    pub tap_acks: IntGauge,
    /// Pages that Ozone gave.
    pub ozone_pages: IntCounter,
    /// Events of the look-back window that were delivered before.
    pub ozone_repeats: IntCounter,
    ozone_requests: IntCounterVec,
}

/// The gauges of one upstream host.
#[derive(Clone)]
pub struct HostMetrics {
    /// 1 while connected.
    pub connected: IntGauge,
    /// Events of a stream that is followed, such as a relay's, whether new or not.
    pub stream_events: IntCounter,
    /// The last seq that was read.
    pub last_seq_received: IntGauge,
    /// The last seq up to which all is acknowledged.
    pub last_seq_delivered: IntGauge,
}

impl SourceMetrics {
    pub(super) fn new(r: Register<'_>, dead_letters: DeadLetters, last_seq_delivered: IntGaugeVec) -> Self {
        SourceMetrics {
            error_names: Mutex::default(),
            dead_letters,
            received_frames: r.counter("atkafka_received_frames", "Messages received, of any kind"),
            received_bytes: r.counter("atkafka_received_bytes", "Bytes of the messages received"),
            repeats: r.counter("atkafka_repeated_frames", "Frames skipped because their seq is not above the last one"),
            unknown_frames: r
                .counter("atkafka_unknown_frames", "Frames of a type or op that this version does not know"),
            error_frames: r.counters("atkafka_error_frames", "Error frames, by the name in them", &["error"]),
            gaps: r.counters(
                "atkafka_gaps",
                "Places where upstream events may be missing, by how it was noticed",
                &["kind"],
            ),
            reconnects: r.counters("atkafka_reconnects", "Connections that ended, by host", &["host"]),
            silent: r.counters(
                "atkafka_silent_connections",
                "Connections that were left since a busy host sent no event any more",
                &["host"],
            ),
            stream_events: r.counters(
                "atkafka_stream_events",
                "Events of a stream that is followed (a relay's, a Jetstream's), new or not",
                &["host"],
            ),
            connected: r.gauges("atkafka_connected", "1 while connected to the host", &["host"]),
            last_seq_received: r.gauges("atkafka_last_seq_received", "The last seq read from the host", &["host"]),
            last_seq_delivered,
            acks_sent: r.counter("atkafka_acks_sent", "Acknowledgements sent to Tap"),
            tap_events: r
                .gauge("atkafka_tap_event_buffer_size", "Tap events read and not yet acknowledged by the broker"),
            tap_acks: r.gauge(
                "atkafka_tap_ack_event_buffer_size",
                "Tap events acknowledged by the broker whose acknowledgement waits for the socket",
            ),
            ozone_pages: r.counter("atkafka_ozone_pages", "Pages of events that Ozone gave"),
            ozone_repeats: r
                .counter("atkafka_ozone_repeats", "Events of the look-back window that were delivered before, skipped"),
            ozone_requests: r.counters(
                "atkafka_ozone_requests",
                "Requests to the PDS and, through it, to Ozone",
                &["method", "status"],
            ),
        }
    }

    /// The gauges of one host. From now on its counters are shown, with 0.
    pub fn host(&self, host: &str) -> HostMetrics {
        self.reconnects.with_label_values(&[host]).inc_by(0);
        self.silent.with_label_values(&[host]).inc_by(0);
        HostMetrics {
            connected: self.connected.with_label_values(&[host]),
            stream_events: self.stream_events.with_label_values(&[host]),
            last_seq_received: self.last_seq_received.with_label_values(&[host]),
            last_seq_delivered: self.last_seq_delivered.with_label_values(&[host]),
        }
    }

    /// The counter of dead letters of one reason.
    pub fn dead_letter(&self, reason: Reason) -> &IntCounter {
        self.dead_letters.of(reason)
    }

    /// Counts a frame that was taken before.
    pub fn repeated_frame(&self) {
        self.received_frames.inc();
        self.repeats.inc();
    }

    /// Counts a frame of a kind that is not known.
    pub fn unknown_frame(&self) {
        self.received_frames.inc();
        self.unknown_frames.inc();
    }

    /// Counts a gap. `kind` is a name from the program, not from the network.
    pub fn gap(&self, kind: &'static str) {
        self.gaps.with_label_values(&[kind]).inc();
    }

    /// Counts a connection that ended.
    pub fn reconnect(&self, host: &str) {
        self.reconnects.with_label_values(&[host]).inc();
    }

    /// Counts a connection that was left since a busy host sent no event any more.
    pub fn silent_connection(&self, host: &str) {
        self.silent.with_label_values(&[host]).inc();
    }

    /// Counts an error frame by its name, up to [`MAX_ERRORS`] of them.
    pub fn error_frame(&self, name: &str) {
        let name = bounded(&self.error_names, name, MAX_ERRORS);
        self.error_frames.with_label_values(&[name]).inc();
    }

    /// Counts a request. `method` is a name from the program, `status` an HTTP status or 0 when there was no answer.
    pub fn ozone_request(&self, method: &'static str, status: u16) {
        self.ozone_requests.with_label_values(&[method, itoa::Buffer::new().format(status)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn names_of_error_frames_are_bounded() {
        let metrics = Metrics::default();
        for i in 0..MAX_ERRORS * 2 {
            metrics.source.error_frame(&format!("E{i}"));
        }
        let text = metrics.text();
        assert_eq!(text.lines().filter(|l| l.starts_with("atkafka_error_frames")).count(), MAX_ERRORS + 1);
    }
}

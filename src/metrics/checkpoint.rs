//! What the thread that saves positions counts.

use prometheus::{IntCounter, IntGauge};

use super::Register;

/// The metrics of saved positions, and of Tap's acknowledgements, which take the same way.
pub struct CheckpointMetrics {
    /// Saves that succeeded.
    pub checkpoint_ok: IntCounter,
    /// Saves that failed; each is tried again.
    pub checkpoint_error: IntCounter,
    /// Shared with the source, which adds to it.
    pub tap_events: IntGauge,
    /// Shared with the source, which subtracts from it.
    pub tap_acks: IntGauge,
}

impl CheckpointMetrics {
    pub(super) fn new(r: Register<'_>, tap_events: IntGauge, tap_acks: IntGauge) -> Self {
        let saves = r.counters("atkafka_checkpoint_saves", "Saves of positions, in files or in Kafka", &["status"]);
        CheckpointMetrics {
            checkpoint_ok: saves.with_label_values(&["ok"]),
            checkpoint_error: saves.with_label_values(&["error"]),
            tap_events,
            tap_acks,
        }
    }
}

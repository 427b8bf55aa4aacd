//! What decoders count: events by action and collection, and what was left out or odd.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use prometheus::core::Collector;
use prometheus::proto::Metric;
use prometheus::{IntCounter, IntCounterVec};

use super::{Register, bounded};
use crate::atproto::json::Oddity;
use crate::event::Action;

/// Distinct `collection` labels. The network had about 60 collections of note and a long tail (measured 2026).
pub const MAX_COLLECTIONS: usize = 300;
/// Distinct kinds of Ozone's events; there were 22 (Ozone 0.4.2).
pub const MAX_OZONE_KINDS: usize = 100;

/// The metrics of decoders.
pub struct DecodeMetrics {
    handled: IntCounterVec,
    collections: Mutex<HashSet<String>>,
    ozone_kinds: Mutex<HashSet<String>>,
    /// Events and ops that a filter left out.
    pub filtered: IntCounter,
    /// Creates and updates whose commit was too big to carry the record.
    pub without_record: IntCounter,
    /// Commits without any op.
    pub empty_commits: IntCounter,
    noncanonical: Vec<IntCounter>,
    /// Shared with the sources, which count most of them.
    pub unknown_frames: IntCounter,
}

impl DecodeMetrics {
    pub(super) fn new(r: Register<'_>, unknown_frames: IntCounter) -> Self {
        let noncanonical = r.counters(
            "atkafka_noncanonical_records",
            "Records passed on although they are not encoded in the canonical way, by what is odd",
            &["kind"],
        );
        DecodeMetrics {
            handled: r.counters(
                "atkafka_handled_events",
                "Events received and handled",
                &["action_name", "collection"],
            ),
            collections: Mutex::default(),
            ozone_kinds: Mutex::default(),
            filtered: r.counter("atkafka_filtered_events", "Events and ops that the filters left out"),
            without_record: r
                .counter("atkafka_events_without_record", "Creates and updates of commits too big to carry the record"),
            empty_commits: r.counter("atkafka_empty_commits", "Commits without any op: they give no event"),
            noncanonical: Oddity::ALL.iter().map(|odd| noncanonical.with_label_values(&[odd.name()])).collect(),
            unknown_frames,
        }
    }

    /// Events by action and collection, since the start.
    pub fn events(&self) -> HashMap<(String, String), u64> {
        let families = self.handled.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let label = |metric: &Metric, name: &str| {
            let found = metric.get_label().iter().find(|label| label.name() == name);
            found.map(|label| label.value().to_string()).unwrap_or_default()
        };
        let count = |m: &Metric| m.get_counter().get_value() as u64;
        metrics.map(|m| ((label(m, "action_name"), label(m, "collection")), count(m))).collect()
    }

    /// The counter of records that are odd in this way.
    pub fn noncanonical(&self, oddity: Oddity) -> &IntCounter {
        &self.noncanonical[oddity as usize]
    }
}

/// The first actions are ops, which have a collection.
const OPS: usize = 3;

/// The counters of `atkafka_handled_events` that one worker has met: a look-up without a lock.
pub struct Handled {
    metrics: Arc<DecodeMetrics>,
    ops: HashMap<String, [IntCounter; 3]>,
    others: Vec<IntCounter>,
}

impl Handled {
    /// Of a worker that has met nothing yet.
    pub fn new(metrics: Arc<DecodeMetrics>) -> Self {
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
    use super::super::Metrics;
    use super::*;

    #[test]
    fn names_of_collections_are_bounded() {
        let metrics = Metrics::default();
        let mut handled = Handled::new(metrics.decode.clone());
        for i in 0..MAX_COLLECTIONS * 3 {
            handled.op(Action::Create, &format!("com.example.c{i}"));
        }
        let text = metrics.text();
        let lines = |prefix: &str| text.lines().filter(|l| l.starts_with(prefix)).count();
        assert_eq!(lines("atkafka_handled_events{action_name=\"operation#create\",collection=\"com"), MAX_COLLECTIONS);
        assert!(text.contains(&format!(
            "atkafka_handled_events{{action_name=\"operation#create\",collection=\"other\"}} {}",
            MAX_COLLECTIONS * 2
        )));
    }
}

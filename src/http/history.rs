//! What has been over the last 15 minutes, for the chart of the status page, and the rates of now. It owns a bounded ring of
//! samples and two earlier looks at the counters, and must not know who reads them. The main thread adds a sample every five
//! seconds, which is a few loads of atomics; the HTTP server's thread reads, when somebody asks.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::clock;
use crate::health::Health;
use crate::metrics::Metrics;

/// Between two samples.
pub const EVERY: Duration = Duration::from_secs(5);
/// Samples: 15 minutes of them.
pub const SAMPLES: usize = 180;
/// Between two looks at the counts by collection, of which there may be hundreds.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What is said of five seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Their end, in milliseconds since 1970.
    pub time_ms: i64,
    /// Messages a second.
    pub received: f64,
    /// Records acknowledged a second.
    pub delivered: f64,
    /// Seconds, of the source that is farthest behind.
    pub lag: Option<f64>,
    /// Seconds from reading to the acknowledgement, the mean of what was delivered in them.
    pub delivery: Option<f64>,
}

/// Events by action and collection.
pub type Events = HashMap<(String, String), u64>;

struct Look<T> {
    at: Instant,
    counts: T,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    received: u64,
    delivered: u64,
    deliveries: u64,
    delivery_seconds: f64,
}

impl Counts {
    fn of(metrics: &Metrics) -> Self {
        let p = &metrics.pipeline;
        Counts {
            received: metrics.source.received_frames.get(),
            delivered: p.produced_ok.get(),
            deliveries: p.delivery_seconds.get_sample_count(),
            delivery_seconds: p.delivery_seconds.get_sample_sum(),
        }
    }
}

struct State {
    samples: VecDeque<Sample>,
    last: Look<Counts>,
    /// Frames by source at the last samples, the oldest first: at least one.
    frames: VecDeque<Look<Vec<u64>>>,
    /// Of 30 to 60 seconds ago, and of up to 30 seconds ago.
    events: [Look<Events>; 2],
}

/// The samples, and what rates are reckoned from.
pub struct History {
    /// When the process began, as a time and for reckoning.
    pub started_ms: i64,
    /// The same.
    pub started: Instant,
    state: Mutex<State>,
}

impl Default for History {
    fn default() -> Self {
        let at = Instant::now();
        let events = || Look { at, counts: Events::new() };
        let state = State {
            samples: VecDeque::with_capacity(SAMPLES),
            last: Look { at, counts: Counts::default() },
            frames: VecDeque::from([Look { at, counts: Vec::new() }]),
            events: [events(), events()],
        };
        History { started_ms: clock::now_ms(), started: at, state: Mutex::new(state) }
    }
}

impl History {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Adds a sample when it is time.
    pub fn tick(&self, metrics: &Metrics, health: &Health) {
        self.tick_at(Instant::now(), metrics, health);
    }

    fn tick_at(&self, now: Instant, metrics: &Metrics, health: &Health) {
        self.with(|s| {
            let elapsed = now.saturating_duration_since(s.last.at);
            if elapsed < EVERY {
                return;
            }
            let (counts, before, seconds) = (Counts::of(metrics), s.last.counts, elapsed.as_secs_f64());
            let deliveries = counts.deliveries.saturating_sub(before.deliveries);
            if s.samples.len() == SAMPLES {
                s.samples.pop_front();
            }
            s.samples.push_back(Sample {
                time_ms: clock::now_ms(),
                received: counts.received.saturating_sub(before.received) as f64 / seconds,
                delivered: counts.delivered.saturating_sub(before.delivered) as f64 / seconds,
                lag: health.lags().into_iter().flatten().reduce(f64::max),
                delivery: (deliveries > 0)
                    .then(|| (counts.delivery_seconds - before.delivery_seconds).max(0.0) / deliveries as f64),
            });
            s.last = Look { at: now, counts };
            if s.frames.len() > 2 {
                s.frames.pop_front();
            }
            s.frames.push_back(Look { at: now, counts: health.stands().iter().map(|stand| stand.frames).collect() });
            if now.saturating_duration_since(s.events[1].at) >= LOOK_EVERY {
                s.events.swap(0, 1);
                s.events[1] = Look { at: now, counts: metrics.decode.events() };
            }
        });
    }

    /// The samples, the oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.with(|s| s.samples.iter().copied().collect())
    }

    /// Frames a second of each source over the last 10 to 15 seconds, given their counts of now.
    pub fn frame_rates(&self, now: &[u64]) -> Vec<f64> {
        self.with(|s| {
            let Some(before) = s.frames.front() else { return vec![0.0; now.len()] };
            let seconds = before.at.elapsed().as_secs_f64().max(1.0);
            let of = |i: usize| before.counts.get(i).copied().unwrap_or(0);
            now.iter().enumerate().map(|(i, n)| n.saturating_sub(of(i)) as f64 / seconds).collect()
        })
    }

    /// Each action and collection with its count of now, and how many a second there were over the last 30 to 60 seconds.
    pub fn event_rates(&self, now: Events) -> Vec<((String, String), u64, f64)> {
        self.with(|s| {
            let before = &s.events[0];
            let seconds = before.at.elapsed().as_secs_f64().max(1.0);
            let rate = |key: &(String, String), n: u64| {
                n.saturating_sub(before.counts.get(key).copied().unwrap_or(0)) as f64 / seconds
            };
            now.into_iter().map(|(key, n)| (rate(&key, n), key, n)).map(|(rate, key, n)| (key, n, rate)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_a_sample_is_of_its_five_seconds() {
        let (history, metrics, health) = (History::default(), Metrics::default(), Health::default());
        health.add_source("a", true);
        let begin = history.started;
        history.tick_at(begin + EVERY / 2, &metrics, &health);
        assert!(history.samples().is_empty(), "it is not time");
        for i in 1..=SAMPLES as u32 * 2 {
            metrics.source.received_frames.inc_by(50);
            metrics.pipeline.produced_ok.inc_by(100);
            if i % 2 == 0 {
                metrics.pipeline.delivery_seconds.observe(0.25);
            }
            history.tick_at(begin + EVERY * i, &metrics, &health);
        }
        let samples = history.samples();
        assert_eq!(samples.len(), SAMPLES);
        assert!(samples.iter().all(|s| (s.received, s.delivered) == (10.0, 20.0)), "{samples:?}");
        assert_eq!(samples.iter().filter(|s| s.delivery == Some(0.25)).count(), SAMPLES / 2);
        assert!(samples.iter().all(|s| s.lag.is_some_and(|lag| lag >= 0.0)), "not connected: it grows");
        assert_eq!(history.with(|s| s.frames.len()), 3);
    }
}

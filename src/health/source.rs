//! How one source stands: whether it is connected, and by how much what is delivered of it is behind. A value that others
//! fill in.

use std::time::{Duration, Instant};

use super::Cause;

/// An event in flight for longer than this does not flow: its age is the lag.
const FLOWS_WITHIN: Duration = Duration::from_secs(1);

pub struct Source {
    pub name: String,
    pub is_live: bool,
    /// Why it is not connected, and since when.
    pub away: Option<Cause>,
    /// Since when it has sent nothing, where it was busy before.
    pub silent: Option<Instant>,
    pub in_flight: Option<InFlight>,
    /// The lag in seconds at the last delivery, and when that was.
    pub delivered: Option<(f64, Instant)>,
    /// Frames that were decoded.
    pub frames: u64,
}

/// The oldest batch of a source that is not acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// When it was read.
    pub received: Instant,
    /// The time of its last event, in milliseconds since 1970; 0 when unknown.
    pub time_ms: i64,
}

/// How a source stands at a moment.
pub struct Stand {
    /// Its name in logs and metrics.
    pub name: String,
    /// Why it is not connected, and since when.
    pub away: Option<Cause>,
    /// Since when it has sent nothing, where it was busy before.
    pub silent: Option<Instant>,
    /// Seconds that what is delivered of it is behind.
    pub lag: Option<f64>,
    /// Frames of it that were decoded, since the start.
    pub frames: u64,
}

impl Source {
    /// How it stands now.
    pub fn stand(&self, now: Instant, now_ms: i64) -> Stand {
        Stand {
            name: self.name.clone(),
            away: self.away.clone(),
            silent: self.silent,
            lag: self.lag(now, now_ms),
            frames: self.frames,
        }
    }

    /// Seconds by which what is delivered is behind. It grows while nothing is.
    pub fn lag(&self, now: Instant, now_ms: i64) -> Option<f64> {
        if !self.is_live {
            return None;
        }
        let delivered = self.delivered.map(|(lag, _)| lag);
        let waits = self.in_flight.and_then(|oldest| {
            let age = now.duration_since(oldest.received);
            let lag = if oldest.time_ms == 0 { age.as_secs_f64() } else { (now_ms - oldest.time_ms) as f64 / 1000.0 };
            (age > FLOWS_WITHIN).then_some(lag)
        });
        let away = self.away.as_ref().and_then(|away| away.since);
        let away = away.into_iter().chain(self.silent).min().map(|since| {
            // What happened meanwhile is not known: at least the time since then.
            let (lag, at) = self.delivered.unwrap_or((0.0, since));
            lag + now.duration_since(since.max(at)).as_secs_f64()
        });
        [delivered, waits, away].into_iter().flatten().reduce(f64::max)
    }
}

//! The silence of a busy host: told, and ended by leaving the connection. When it is one says [`pace`](super::pace). On the
//! reader's thread.

use std::time::{Duration, Instant};

use super::link::Link;
use super::pace::{NEAR, Pace};
use super::websocket::Ended;

/// Whether the host is busy, or has fallen silent.
pub struct Silence {
    pace: Pace,
    /// It was told.
    told: bool,
}

impl Silence {
    /// `patience`: how long a busy host may be silent before a new connection; `None`: for ever.
    pub fn new(patience: Option<Duration>) -> Silence {
        Silence { pace: Pace::new(patience), told: false }
    }

    pub fn connected(&mut self, now: Instant) {
        self.pace.connected(now);
    }

    /// An event came, whether new or not.
    pub fn heard(&mut self, link: &Link) {
        link.gauges.stream_events.inc();
        self.pace.event(Instant::now(), || link.health.delivered_lag(link.index).is_none_or(|lag| lag < NEAR));
        if std::mem::take(&mut self.told) {
            link.health.silent(link.index, None);
        }
    }

    /// Nothing is there to be read: tells the silence of a busy host, and leaves the connection when it is too long.
    pub fn told(&mut self, link: &Link) -> Result<(), Ended> {
        let now = Instant::now();
        let Some(silent) = self.pace.silent(now) else { return Ok(()) };
        self.told = true;
        // The lag grows with it.
        link.health.silent(link.index, now.checked_sub(silent));
        if let Some(here) = self.pace.leave(now) {
            link.metrics.silent_connection(&link.name);
            return Err(Ended::Lost(format!(
                "no event for {} s, and over one a second before; the connection is left (--silence)",
                here.as_secs()
            )));
        }
        Ok(())
    }
}

//! How it goes: a log line each ten seconds, or a status line on a terminal; and the service manager hears it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::health::Health;
use crate::metrics::Metrics;
use crate::systemd::Systemd;

const LINE_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_millis(500);

pub struct Report {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    status_line: bool,
    systemd: Option<Systemd>,
    since: Instant,
    produced: u64,
}

impl Report {
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>, status_line: bool, systemd: Option<Systemd>) -> Self {
        Report { metrics, health, status_line, systemd, since: Instant::now(), produced: 0 }
    }

    /// Says something when it is time.
    pub fn tick(&mut self) {
        if let Some(systemd) = &mut self.systemd {
            systemd.tick(&self.health);
        }
        if self.since.elapsed() < if self.status_line { STATUS_EVERY } else { LINE_EVERY } {
            return;
        }
        let text = self.text();
        if self.status_line {
            crate::log::status(&text);
        } else {
            log::info!("{text}");
        }
        if let Some(systemd) = &self.systemd {
            systemd.status(&text);
        }
        (self.since, self.produced) = (Instant::now(), self.metrics.produced_ok.get());
    }

    /// It comes to its end, and why.
    pub fn stopping(&mut self, why: &str) {
        if let Some(systemd) = &mut self.systemd {
            systemd.stopping(why);
        }
    }

    /// The last words.
    pub fn last(&self) {
        let dead = self.metrics.dead_letters_total();
        log::info!("delivered {} records, {dead} dead letters", self.metrics.produced_ok.get());
    }

    fn text(&self) -> String {
        let produced = self.metrics.produced_ok.get();
        let rate = (produced - self.produced) as f64 / self.since.elapsed().as_secs_f64();
        let mut text = format!("{rate:.0} records/s");
        // Before the first delivery it would say 0.
        for (host, seconds) in self.metrics.lags().into_iter().filter(|_| produced > 0) {
            text += &format!(", lag {} ({host})", human(seconds));
        }
        text += &format!(
            ", in flight {} frames {:.1} MB, delivered {produced}, dead letters {}",
            self.metrics.frames_in_flight.get(),
            self.metrics.bytes_in_flight.get() as f64 / 1e6,
            self.metrics.dead_letters_total()
        );
        if let Err(why) = self.health.ready() {
            text += &format!("; not ready: {why}");
        }
        text
    }
}

/// Seconds as people say them.
fn human(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

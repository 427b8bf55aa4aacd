//! Keeping a connection up for ever: what the readers of websockets share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::job::{Frames, Stopped};
use super::socket::ConnectError;
use crate::health::Health;
use crate::metrics::{Metrics, SourceMetrics};

/// How often a reader that waits looks whether it should stop.
pub const LOOK_UP: Duration = Duration::from_millis(500);
/// A socket may never run dry, of pings alone: what was read goes on, and timers and the end are looked at, this often.
pub const LATE: Duration = Duration::from_millis(100);

/// Why a connection ended, or did not come about.
pub enum Ended {
    Stopped,
    Lost(String),
    Refused(ConnectError),
    /// On purpose: the next one follows after this.
    Again(Duration),
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Self {
        Ended::Stopped
    }
}

/// What the connections of one source have in common: who it is, and where its state is told.
pub struct Link {
    pub name: String,
    pub index: usize,
    pub gauges: SourceMetrics,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

impl Link {
    pub fn new(name: &str, index: usize, metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Link { name: name.into(), index, gauges: metrics.source(name), metrics, health }
    }

    /// Counts what is handed over.
    pub fn received(&self, frames: &Frames) {
        self.metrics.received_frames.inc_by(frames.list.len() as u64);
        self.metrics.received_bytes.inc_by(frames.bytes.len() as u64);
    }

    pub fn connected(&self) {
        self.gauges.connected.set(1);
        self.health.source(self.index, Ok(()));
    }
}

/// A reader, one connection at a time.
pub trait Session {
    fn link(&self) -> &Link;
    /// Whether the end was asked for.
    fn stopped(&self) -> bool;
    /// One connection, to its end.
    fn connection(&mut self) -> Ended;
    /// New messages of the last connection.
    fn fresh(&self) -> u64;
}

/// Connects again and again until the end is asked for.
pub fn keep(session: &mut impl Session) {
    let mut backoff = Backoff::default();
    while !session.stopped() {
        let began = Instant::now();
        let ended = session.connection();
        let link = session.link();
        link.gauges.connected.set(0);
        let (reason, asked) = match ended {
            Ended::Stopped => break,
            Ended::Again(wait) => {
                link.metrics.reconnect(&link.name);
                if pause(|| session.stopped(), wait).is_err() {
                    break;
                }
                continue;
            }
            Ended::Lost(reason) => (reason, None),
            Ended::Refused(refused) => (refused.message, refused.retry_after),
        };
        link.metrics.reconnect(&link.name);
        backoff.ended(began.elapsed(), session.fresh());
        let wait = backoff.next(asked);
        // Some reasons name the host themselves.
        let reason = reason.strip_prefix(&format!("{}: ", link.name)).unwrap_or(&reason).to_string();
        log::warn!(
            event = "disconnected", host = link.name, reason = reason;
            "{}: {reason}; connecting again in {:.1} s", link.name, wait.as_secs_f64()
        );
        link.health.source(link.index, Err(reason));
        if pause(|| session.stopped(), wait).is_err() {
            break;
        }
    }
}

/// Waits, unless the end is asked for.
pub fn pause(stopped: impl Fn() -> bool, wait: Duration) -> Result<(), Stopped> {
    let until = Instant::now() + wait;
    loop {
        if stopped() {
            return Err(Stopped);
        }
        match until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(LOOK_UP)),
            _ => return Ok(()),
        }
    }
}

//! Whether a host that was busy has fallen silent. No socket; the clock is handed in.
//!
//! A relay whose fan-out hangs answers pings and sends nothing any more. Only a host that gave events steadily is
//! suspected: a quiet one may send nothing for days. What comes of a backlog says nothing: a quiet host too gives its
//! events of days in minutes.

use std::time::{Duration, Instant};

/// How long a busy host may be silent before a new connection, where nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Silence of a busy host is told after this.
const TELL: Duration = Duration::from_secs(10);
/// Busy: over one event a second in each of so many parts, which have this length together.
const PARTS: u32 = 3;
/// Events older than so many seconds are of a backlog. Those that a quiet host has of so long come in an instant, which
/// makes no busy part.
pub const NEAR: f64 = 300.0;
/// Between connections that bring nothing, which wait twice as long each time.
const LONGEST: Duration = Duration::from_secs(3600);

/// How fast events of one connection come, and whether its silence means that it is dead.
#[derive(Debug)]
pub struct Pace {
    /// `None`: connections are never left.
    patience: Option<Duration>,
    /// The present part: since when, and its events.
    part: Option<(Instant, u32)>,
    /// Busy parts in a row.
    busy: u32,
    last: Option<Instant>,
    connected: Option<Instant>,
    /// Connections that were left since the last event.
    left: u32,
}

impl Pace {
    /// `patience`: how long a busy host may be silent. `None`: for ever.
    pub fn new(patience: Option<Duration>) -> Pace {
        Pace { patience, part: None, busy: 0, last: None, connected: None, left: 0 }
    }

    fn part_length(&self) -> Duration {
        self.patience.unwrap_or(PATIENCE) / PARTS
    }

    /// A new connection is there.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// An event came. `near`: whether the host's events are of about now; asked once a part.
    pub fn event(&mut self, now: Instant, near: impl Fn() -> bool) {
        (self.last, self.left) = (Some(now), 0);
        let (since, events) = self.part.get_or_insert((now, 0));
        *events = events.saturating_add(1);
        let (lasted, events) = (now - *since, *events);
        if lasted >= self.part_length() {
            let busy = f64::from(events) > lasted.as_secs_f64() && near();
            self.busy = if busy { self.busy.saturating_add(1) } else { 0 };
            self.part = Some((now, 0));
        }
    }

    /// For how long nothing has come of a host that was busy.
    pub fn silent(&self, now: Instant) -> Option<Duration> {
        let silent = now - self.last.filter(|_| self.busy >= PARTS)?;
        (silent >= TELL.min(self.part_length())).then_some(silent)
    }

    /// Whether to leave the connection, on which nothing came for so long.
    pub fn leave(&mut self, now: Instant) -> Option<Duration> {
        let since = self.last.max(self.connected).filter(|_| self.busy >= PARTS)?;
        let patience = self.patience?;
        let longest = patience.saturating_mul(1 << self.left.min(16)).min(LONGEST.max(patience));
        let silent = now - since;
        if silent < longest {
            return None;
        }
        self.left += 1;
        Some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Events at a steady rate for so long, of now or of a backlog.
    fn events(pace: &mut Pace, from: Instant, a_second: f64, seconds: u32, near: bool) -> Instant {
        let mut now = from;
        pace.connected(now);
        while now - from < SECOND * seconds {
            pace.event(now, || near);
            now += SECOND.div_f64(a_second);
        }
        now
    }

    fn steady(pace: &mut Pace, from: Instant, a_second: f64, seconds: u32) -> Instant {
        events(pace, from, a_second, seconds, true)
    }

    #[test]
    fn a_busy_host_that_is_silent_is_left_again_and_again_but_ever_later() {
        let mut pace = Pace::new(Some(PATIENCE));
        let mut now = steady(&mut pace, Instant::now(), 2.0, 100);
        assert_eq!((pace.silent(now + SECOND * 5), pace.leave(now + SECOND * 80)), (None, None));
        assert!(pace.silent(now + SECOND * 15).is_some());
        for patience in [90, 180, 360, 720, 1_440, 2_880, 3_600, 3_600] {
            assert_eq!(pace.leave(now + SECOND * (patience - 2)), None);
            now += SECOND * patience;
            assert!(pace.leave(now).is_some(), "{patience}");
            pace.connected(now);
            assert!(pace.silent(now).is_some(), "a connection alone is no event");
        }
        pace.event(now, || true);
        assert_eq!(pace.silent(now + SECOND * 5), None);
    }

    #[test]
    fn a_quiet_host_that_gave_a_backlog_is_let_alone_and_a_busy_one_is_not() {
        let day = SECOND * 86_400;
        let mut pace = Pace::new(Some(PATIENCE));
        let now = events(&mut pace, Instant::now(), 1_000.0, 200, false);
        // The last of it is of now, and so is an event each minute.
        let now = steady(&mut pace, now, 1_000.0, 5);
        let now = steady(&mut pace, now + SECOND * 60, 1.0 / 60.0, 600);
        assert_eq!((pace.silent(now + day), pace.leave(now + day)), (None, None));
        let mut pace = Pace::new(Some(PATIENCE));
        let now = events(&mut pace, Instant::now(), 1_000.0, 200, false);
        assert_eq!((pace.silent(now + day), pace.leave(now + day)), (None, None));
        let now = steady(&mut pace, now, 10.0, 130);
        assert!(pace.silent(now + SECOND * 15).is_some() && pace.leave(now + SECOND * 100).is_some());
    }

    #[test]
    fn a_quiet_host_and_a_burst_are_let_alone() {
        let start = Instant::now();
        let day = SECOND * 86_400;
        let mut quiet = Pace::new(Some(PATIENCE));
        let now = steady(&mut quiet, start, 0.5, 1_000);
        assert_eq!((quiet.silent(now + day), quiet.leave(now + day)), (None, None));
        let mut burst = Pace::new(Some(PATIENCE));
        let now = steady(&mut burst, start, 1_000.0, 30);
        assert_eq!((burst.silent(now + day), burst.leave(now + day)), (None, None));
        let mut fresh = Pace::new(Some(PATIENCE));
        fresh.connected(start);
        assert_eq!((fresh.silent(start + day), fresh.leave(start + day)), (None, None));
    }

    #[test]
    fn silence_is_told_where_connections_are_never_left() {
        let mut pace = Pace::new(None);
        let now = steady(&mut pace, Instant::now(), 5.0, 100) + SECOND * 1_000;
        assert!(pace.silent(now).is_some());
        assert_eq!(pace.leave(now), None);
    }
}

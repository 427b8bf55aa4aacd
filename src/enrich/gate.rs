//! How often a host is asked: so many requests a second, a pause where it asks for one, and a circuit breaker that leaves a
//! dead host alone. It knows no request. The threads `fetch-N` share one for each host, and wait in it.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

/// Failures in a row, after which a host is taken to be down.
const DOWN_AFTER: u32 = 10;
/// It is asked again after this long, then twice as long, up to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);
/// A turn is waited for when it comes within so long.
const QUEUE: Duration = Duration::from_millis(200);
/// Requests may come in bursts of so much time's worth.
const BURST: Duration = Duration::from_millis(100);

/// One host's.
pub struct Gate {
    host: String,
    /// Between two requests.
    interval: Duration,
    open: IntGauge,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Failures in a row.
    failures: u32,
    /// How often it was closed in a row.
    closed: u32,
    /// It is down: nobody passes before.
    until: Option<Instant>,
    /// It asked for a pause: nobody passes before, whatever else it answers meanwhile.
    paused: Option<Instant>,
    /// Somebody looks whether the host is back.
    probing: bool,
    /// When the next request may begin.
    next: Option<Instant>,
}

impl Gate {
    /// `rate` requests a second. `open` is set to 1 while the breaker is open.
    pub fn new(host: &str, rate: u32, open: IntGauge) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Gate { host: host.into(), interval, open, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at any instant.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Asks to pass, and waits for its turn when that is near. `Err`: come again after so long at least.
    pub fn pass(&self) -> Result<(), Duration> {
        let turn = {
            let mut state = self.state();
            let now = Instant::now();
            if let Some(wait) = closed_for(&state, now) {
                return Err(wait);
            }
            let next = state.next.map_or(now, |next| next.max(now - BURST)) + self.interval;
            let turn = next.saturating_duration_since(now);
            // Else those who wait would queue up without an end, for turns that come too late for all of them.
            if turn > QUEUE.max(self.interval) {
                return Err(turn);
            }
            state.next = Some(next);
            turn
        };
        std::thread::sleep(turn);
        let mut state = self.state();
        // It may have been closed meanwhile.
        if let Some(wait) = closed_for(&state, Instant::now()) {
            return Err(wait);
        }
        // After a pause one goes first.
        state.probing = opens(&state).is_some();
        Ok(())
    }

    /// Whether waiting would not help: it is down, or its pause is longer than `patience`.
    pub fn is_closed(&self, patience: Duration) -> bool {
        let state = self.state();
        let left = closed_for(&state, Instant::now());
        left.is_some_and(|left| state.closed > 0 || left > patience)
    }

    /// The host answered.
    pub fn answered(&self) {
        let mut state = self.state();
        let was_down = state.closed > 0;
        (state.failures, state.closed, state.until, state.probing) = (0, 0, None, false);
        let now = Instant::now();
        state.paused = state.paused.filter(|until| *until > now);
        drop(state);
        self.open.set(0);
        if was_down {
            log::info!(event = "lookups_again", host = self.host; "{}: it answers again", self.host);
        }
    }

    /// The host gave no answer, or one that says that it is in trouble.
    pub fn failed(&self, reason: &str) {
        let mut state = self.state();
        state.failures += 1;
        let looked = std::mem::take(&mut state.probing);
        // One that looks whether a dead host is back is enough; those that were under way when it closed say nothing new.
        let again = looked && state.closed > 0;
        if !again && (state.failures < DOWN_AFTER || state.until.is_some()) {
            return;
        }
        let wait = FIRST.saturating_mul(1 << state.closed.min(6)).min(LONGEST);
        state.closed += 1;
        state.until = Some(Instant::now() + wait);
        let first = state.closed == 1;
        drop(state);
        self.open.set(1);
        if first {
            log::warn!(
                event = "lookups_stopped", host = self.host, reason = reason;
                "{}: {DOWN_AFTER} failures in a row, the last: {reason}; it is left alone for some seconds each time until it answers",
                self.host
            );
        }
    }

    /// The host asked for a pause.
    pub fn pause(&self, wait: Duration) {
        let mut state = self.state();
        state.probing = false;
        let until = Instant::now() + wait;
        // Requests that were under way bring the same answer.
        let is_news = state.paused.is_none_or(|before| until > before + Duration::from_secs(1));
        state.paused = state.paused.max(Some(until));
        drop(state);
        if is_news {
            log::warn!(
                event = "lookups_paused", host = self.host;
                "{}: it asks for a pause of {} s", self.host, wait.as_secs()
            );
        }
    }
}

/// When somebody may pass again. `None`: it is open.
fn opens(state: &State) -> Option<Instant> {
    state.until.max(state.paused)
}

fn closed_for(state: &State, now: Instant) -> Option<Duration> {
    let until = opens(state)?;
    match until.checked_duration_since(now) {
        Some(left) if !left.is_zero() => Some(left),
        _ => state.probing.then_some(BURST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new("https://plc.example", 1_000_000, IntGauge::new("g", "g").expect("a gauge"))
    }

    #[test]
    fn closes_after_failures_in_a_row_and_lets_one_look() {
        let gate = gate();
        for _ in 0..DOWN_AFTER - 1 {
            gate.failed("refused");
        }
        gate.answered();
        for _ in 0..DOWN_AFTER - 1 {
            assert!(gate.pass().is_ok());
            gate.failed("refused");
        }
        assert!(!gate.is_closed(Duration::MAX));
        gate.failed("refused");
        assert!(gate.is_closed(Duration::MAX) && gate.open.get() == 1);
        assert!(gate.pass().is_err_and(|wait| wait <= FIRST));
        // One that was under way.
        gate.failed("refused");
        assert!(gate.pass().is_err_and(|wait| wait <= FIRST));
        gate.state().until = Some(Instant::now());
        assert!(gate.pass().is_ok(), "one looks");
        assert!(gate.pass().is_err(), "the others wait for it");
        gate.failed("refused");
        assert!(gate.pass().is_err_and(|wait| wait > FIRST && wait <= FIRST * 2), "and longer");
        gate.state().until = Some(Instant::now());
        assert!(gate.pass().is_ok());
        gate.answered();
        assert!(gate.pass().is_ok() && gate.pass().is_ok() && gate.open.get() == 0);
    }

    #[test]
    fn a_pause_is_kept_and_is_no_failure() {
        let gate = gate();
        gate.pause(Duration::from_secs(30));
        assert!(gate.pass().is_err_and(|wait| wait > Duration::from_secs(29)));
        assert!(gate.is_closed(Duration::from_secs(3)) && !gate.is_closed(Duration::from_secs(31)));
        gate.pause(Duration::from_secs(3));
        assert!(gate.pass().is_err_and(|wait| wait > Duration::from_secs(29)), "the longer one counts");
        // One that was under way.
        gate.answered();
        assert!(gate.pass().is_err_and(|wait| wait > Duration::from_secs(29)), "and an answer does not end it");
        assert_eq!(gate.open.get(), 0);
        gate.state().paused = Some(Instant::now());
        assert!(gate.pass().is_ok(), "one looks");
        gate.failed("refused");
        assert!(gate.open.get() == 0 && gate.pass().is_ok(), "one failure is not ten");
        gate.answered();
        gate.state().paused = Some(Instant::now());
        assert!(gate.pass().is_ok() && gate.pass().is_err(), "one looks");
        gate.answered();
        assert!(gate.pass().is_ok() && gate.pass().is_ok());
    }

    #[test]
    fn whoever_waits_for_a_turn_sees_that_it_closed() {
        let gate = std::sync::Arc::new(Gate::new("h", 10, IntGauge::new("g", "g").expect("a gauge")));
        gate.state().next = Some(Instant::now() + Duration::from_millis(80));
        let waiting = gate.clone();
        let waiting = std::thread::spawn(move || waiting.pass());
        std::thread::sleep(Duration::from_millis(20));
        gate.pause(Duration::from_secs(30));
        assert!(waiting.join().expect("no panic").is_err_and(|wait| wait > Duration::from_secs(29)));
        // And nobody queues up for turns that are far away.
        let gate = Gate::new("h", 1, IntGauge::new("g", "g").expect("a gauge"));
        gate.state().next = Some(Instant::now() + Duration::from_secs(5));
        assert!(gate.pass().is_err_and(|wait| wait > Duration::from_secs(5)));
    }

    #[test]
    fn holds_its_rate() {
        let gate = Gate::new("h", 200, IntGauge::new("g", "g").expect("a gauge"));
        let began = Instant::now();
        for _ in 0..60 {
            while let Err(wait) = gate.pass() {
                std::thread::sleep(wait);
            }
        }
        // 60 at 200 a second are 300 ms, of which the burst saves 100.
        assert!(began.elapsed() >= Duration::from_millis(180), "{:?}", began.elapsed());
    }
}

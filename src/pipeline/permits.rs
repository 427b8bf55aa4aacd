//! How much may be in flight: frames and bytes, from the reader to the acknowledgement.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::metrics::Metrics;
use crate::source::job::Stopped;

/// Frames in flight, besides the bytes: each also costs records, headers and bookkeeping that its bytes do not show.
const FRAMES: usize = 200_000;

/// A budget that readers take from, and the producer gives back to.
pub struct Permits {
    state: Mutex<State>,
    freed: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    frames: usize,
    bytes: usize,
    closed: bool,
    /// Why a source ended the run.
    failure: Option<String>,
}

impl Permits {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Self {
        Permits { state: Mutex::default(), freed: Condvar::new(), limit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: whole at any instant.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until `bytes` more fit. Something larger than the whole budget passes when nothing else is in flight.
    pub fn acquire(&self, frames: usize, bytes: usize) -> Result<(), Stopped> {
        let mut state = self.state();
        loop {
            if state.closed {
                return Err(Stopped);
            }
            if (state.bytes + bytes <= self.limit && state.frames < FRAMES) || state.bytes == 0 {
                state.bytes += bytes;
                state.frames += frames;
                return Ok(());
            }
            // The timeout only guards against a wake-up that somebody forgot.
            state = self
                .freed
                .wait_timeout(state, Duration::from_secs(1))
                .map(|(state, _)| state)
                .unwrap_or_else(|p| p.into_inner().0);
        }
    }

    /// What was taken turned out to need `bytes` more (a record may be longer than its frame). Does not wait.
    pub fn grow(&self, bytes: usize) {
        self.state().bytes += bytes;
    }

    /// The same for something that can be done without: refused when it would be more than a quarter over the limit.
    pub fn grow_within(&self, bytes: usize) -> bool {
        let mut state = self.state();
        let fits = state.bytes + bytes <= self.limit + self.limit / 4;
        if fits {
            state.bytes += bytes;
        }
        fits
    }

    pub fn release(&self, frames: usize, bytes: usize) {
        let mut state = self.state();
        debug_assert!(state.bytes >= bytes && state.frames >= frames);
        state.bytes -= bytes;
        state.frames -= frames;
        drop(state);
        self.freed.notify_all();
    }

    /// From now on nothing is given out: what is in flight only gets less.
    pub fn close(&self) {
        self.state().closed = true;
        self.freed.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// A source cannot go on: closes, and keeps the reason (the first one).
    pub fn fail(&self, reason: String) {
        self.state().failure.get_or_insert(reason);
        self.close();
    }

    /// Why a source ended the run, if one did.
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.state().bytes == 0
    }

    /// Sets the gauges.
    pub fn report(&self, metrics: &Metrics) {
        let state = self.state();
        metrics.frames_in_flight.set(state.frames as i64);
        metrics.bytes_in_flight.set(state.bytes as i64);
        metrics.memory_limit.set(self.limit as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn waits_for_room_and_ends_when_closed() {
        let permits = Arc::new(Permits::new(100));
        permits.acquire(1, 500).expect("an oversize frame passes alone");
        let other = permits.clone();
        let waiting = std::thread::spawn(move || {
            other.acquire(1, 60).expect("room after the release");
            other.acquire(1, 60)
        });
        permits.release(1, 500);
        while permits.is_idle() {
            std::thread::yield_now();
        }
        permits.close();
        assert!(waiting.join().expect("no panic").is_err(), "closed while it waited");
        assert!(!permits.is_idle());
        assert!(permits.grow_within(65) && !permits.grow_within(1), "a quarter over the limit");
        permits.release(1, 125);
        assert!(permits.is_idle());
    }
}

//! How much may be in flight: frames and bytes, from the reader to the acknowledgement. It owns the memory limit and
//! counts, and does not know what the bytes are.
//!
//! Only readers wait here, first come, first served, and a reader that waits holds nothing. What a job may grow to is taken
//! together with its bytes, and the rest given back once it is decoded. So a worker never waits for memory, and neither does
//! anybody who holds the next batch in order: that would be a deadlock, since memory comes back in that order.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::metrics::pipeline::PipelineMetrics;
use crate::source::job::Stopped;

/// Frames in flight, besides the bytes: each also costs records, headers and bookkeeping that its bytes do not show.
const FRAMES: usize = 200_000;

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// A new start may go better.
    Run(String),
    /// No new start goes better before people change something.
    Settings(String),
}

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
    /// Tickets given to those who came, and the one whose turn it is.
    tickets: u64,
    turn: u64,
    closed: bool,
    /// Why the run cannot go on.
    failure: Option<Failed>,
}

impl State {
    /// A place in the queue.
    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets - 1
    }

    /// Whether it is this one's turn and there is room: then it is taken. Something larger than the whole budget passes when
    /// nothing else is in flight.
    fn admit(&mut self, ticket: u64, frames: usize, bytes: usize, limit: usize) -> bool {
        let fits = (self.bytes + bytes <= limit && self.frames < FRAMES) || self.bytes == 0;
        if ticket != self.turn || !fits {
            return false;
        }
        self.turn += 1;
        self.bytes += bytes;
        self.frames += frames;
        true
    }
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

    /// Waits until all who came before have passed, and `bytes` more fit: else a large frame of one host would wait for ever
    /// behind the small ones of another.
    pub fn acquire(&self, frames: usize, bytes: usize) -> Result<(), Stopped> {
        let mut state = self.state();
        let ticket = state.ticket();
        loop {
            if state.closed {
                return Err(Stopped);
            }
            if state.admit(ticket, frames, bytes, self.limit) {
                // There may be room for the next one, too.
                self.tell(state);
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

    /// What one job may grow to at most, so that a few of them never take all of the memory.
    pub fn share(&self) -> usize {
        self.limit / 16
    }

    /// Gives back what was acquired.
    pub fn release(&self, frames: usize, bytes: usize) {
        let mut state = self.state();
        debug_assert!(state.bytes >= bytes && state.frames >= frames);
        state.bytes -= bytes;
        state.frames -= frames;
        self.tell(state);
    }

    /// Wakes who waits, if anybody does: it is a system call, also where nobody hears it.
    fn tell(&self, state: MutexGuard<'_, State>) {
        let somebody = state.tickets != state.turn;
        drop(state);
        if somebody {
            self.freed.notify_all();
        }
    }

    /// From now on nothing is given out: what is in flight only gets less.
    pub fn close(&self) {
        self.state().closed = true;
        self.freed.notify_all();
    }

    /// Whether nothing new is to be read.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The run cannot go on: closes, and keeps the reason (the first one).
    pub fn fail(&self, reason: Failed) {
        self.state().failure.get_or_insert(reason);
        self.close();
    }

    /// Why the run could not go on, if it could not.
    pub fn failure(&self) -> Option<Failed> {
        self.state().failure.clone()
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.state().bytes == 0
    }

    /// Sets the gauges.
    pub fn report(&self, metrics: &PipelineMetrics) {
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

    /// Two readers, one with frames of 5 MB and one with small ones, and deliveries in any order of time: each is served in the
    /// order in which it came, and the limit holds.
    #[test]
    fn whoever_came_first_is_served_first() {
        const LIMIT: usize = 16 << 20;
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut state = State::default();
            let mut in_flight = std::collections::VecDeque::new();
            let mut waiting: [Option<(u64, usize)>; 2] = [None, None];
            let (mut served, mut admitted) = ([0u32; 2], 0);
            for _ in 0..2_000 {
                let who = rng.usize(0..2);
                let (ticket, bytes) = *waiting[who].get_or_insert_with(|| {
                    let bytes = if who == 0 { rng.usize(4 << 20..6 << 20) } else { rng.usize(1..200_000) };
                    (state.ticket(), bytes)
                });
                if state.admit(ticket, 1, bytes, LIMIT) {
                    assert_eq!(ticket, admitted, "seed {seed}: in the order of arrival");
                    assert!(state.bytes <= LIMIT, "seed {seed}: {} bytes", state.bytes);
                    admitted += 1;
                    served[who] += 1;
                    waiting[who] = None;
                    in_flight.push_back(bytes);
                }
                // Deliveries are slower than the small reader, so that the budget is nearly always full.
                if rng.u8(0..3) == 0
                    && let Some(bytes) = in_flight.pop_front()
                {
                    state.bytes -= bytes;
                    state.frames -= 1;
                }
            }
            let [large, small] = served;
            assert!(large > 100 && small > 100 && large.abs_diff(small) <= small / 2, "seed {seed}: {served:?}");
            // Everything is delivered: who still waits is served, and all permits are back at the end.
            while !in_flight.is_empty() || waiting.iter().any(Option::is_some) {
                let before = (in_flight.len(), admitted);
                if let Some(bytes) = in_flight.pop_front() {
                    state.bytes -= bytes;
                    state.frames -= 1;
                }
                for place in &mut waiting {
                    if let Some((ticket, bytes)) = *place
                        && state.admit(ticket, 1, bytes, LIMIT)
                    {
                        admitted += 1;
                        in_flight.push_back(bytes);
                        *place = None;
                    }
                }
                assert_ne!((in_flight.len(), admitted), before, "seed {seed}: nobody is served any more");
            }
            assert_eq!((state.bytes, state.frames), (0, 0), "seed {seed}: all permits are back");
        }
    }

    #[test]
    fn a_large_frame_does_not_wait_behind_small_ones_for_ever() {
        let permits = Arc::new(Permits::new(1_000));
        permits.acquire(1, 600).expect("room");
        let (large, small) = (permits.clone(), permits.clone());
        let large = std::thread::spawn(move || large.acquire(1, 900));
        while permits.state().tickets < 2 {
            std::thread::yield_now();
        }
        let small = std::thread::spawn(move || small.acquire(1, 10));
        while permits.state().tickets < 3 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(permits.state().bytes, 600, "the small one has room, and waits for its turn");
        permits.release(1, 600);
        large.join().expect("no panic").expect("served");
        small.join().expect("no panic").expect("served");
        assert_eq!(permits.state().bytes, 910);
    }

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

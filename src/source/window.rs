//! Gathering: how long a reader waits for more messages, so that the threads behind it wake once for many of them.
//!
//! It owns the decision alone. The clock is handed in, and [`websocket`](super::websocket) waits; of messages it knows only
//! how many there are. On the reader's thread.
//!
//! A window opens with the first message after a pause, and lasts for the linger time. While messages keep coming, the next
//! window follows at once: its end is the only time at which the reader wakes.

use std::time::{Duration, Instant};

/// The longest linger time. A stop, a ping and an acknowledgement for Tap may have to wait for the end of a window.
pub const LONGEST: Duration = Duration::from_millis(100);
/// What a relay and a Jetstream are read with, unless the settings say otherwise.
pub const LINGER: Duration = Duration::from_millis(10);
/// The same for a Tap, which holds the next event of an account back until this one is acknowledged.
pub const LINGER_TAP: Duration = Duration::from_millis(2);
/// With fewer messages in a window, the next message is waited for without one: the window would mostly be empty.
const COMPANY: usize = 2;

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    linger: Duration,
    /// When the window that is open ends.
    until: Option<Instant>,
    /// Enough came before its end.
    enough: bool,
}

impl Window {
    /// No window is open. Without a linger time none ever is.
    pub fn new(linger: Duration) -> Window {
        Window { linger: linger.min(LONGEST), until: None, enough: false }
    }

    /// The socket has nothing more, and `waiting` messages wait for a hand-over: how long to wait for more of them. `None`:
    /// the hand-over is due, if anything waits.
    pub fn rest(&mut self, waiting: usize, now: Instant) -> Option<Duration> {
        if self.until.is_none() && waiting > 0 {
            self.open(now);
        }
        let rest = self.until.filter(|_| !self.enough)?.saturating_duration_since(now);
        (!rest.is_zero()).then_some(rest)
    }

    /// Enough came to hand it over, before the end of the window.
    pub fn enough(&mut self) {
        self.enough = true;
    }

    /// What waited, so many messages, is handed over. The next window: how long to wait for it to fill. `None`: the next
    /// message is waited for.
    pub fn handed_over(&mut self, messages: usize, now: Instant) -> Option<Duration> {
        (self.until, self.enough) = (None, false);
        if messages >= COMPANY {
            self.open(now);
        }
        self.until.map(|_| self.linger)
    }

    fn open(&mut self, now: Instant) {
        if !self.linger.is_zero() {
            (self.until, self.enough) = (Some(now + self.linger), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_first_message_waits_for_company_and_no_longer_than_the_window() {
        let (mut window, now) = (Window::new(LINGER), Instant::now());
        assert_eq!(window.rest(0, now), None, "nothing waits, so the next message is waited for");
        assert_eq!(window.rest(1, now), Some(LINGER));
        // Something else woke the reader: it waits for the rest.
        assert_eq!(window.rest(1, now + MS * 4), Some(MS * 6));
        assert_eq!(window.rest(3, now + LINGER), None);
        assert_eq!(window.rest(3, now + MS * 50), None);
    }

    #[test]
    fn while_messages_come_windows_follow_one_another() {
        let (mut window, mut now) = (Window::new(LINGER), Instant::now());
        assert_eq!(window.rest(1, now), Some(LINGER));
        for _ in 0..5 {
            now += LINGER;
            assert_eq!(window.rest(5, now), None);
            assert_eq!(window.handed_over(5, now), Some(LINGER));
        }
        // The last window stays empty: from now on the next message is waited for, and begins one.
        now += LINGER;
        assert_eq!(window.rest(0, now), None);
        assert_eq!(window.handed_over(0, now), None);
        assert_eq!(window.rest(0, now), None);
        assert_eq!(window.rest(1, now + MS), Some(LINGER));
        assert_eq!(window.handed_over(1, now + MS * 11), None, "one message an hour needs no second window");
    }

    #[test]
    fn enough_ends_a_window_early() {
        let (mut window, now) = (Window::new(LINGER), Instant::now());
        assert_eq!(window.rest(1, now), Some(LINGER));
        window.enough();
        assert_eq!(window.rest(20, now + MS), None);
        assert_eq!(window.handed_over(20, now + MS), Some(LINGER));
        assert_eq!(window.rest(1, now + MS * 3), Some(MS * 8), "the next one lasts again");
    }

    #[test]
    fn without_a_linger_time_nothing_waits() {
        let (mut window, now) = (Window::new(Duration::ZERO), Instant::now());
        assert_eq!(window.rest(1, now), None);
        assert_eq!(window.handed_over(60, now), None);
        assert_eq!(window.rest(0, now), None);
        assert_eq!(Window::new(MS * 5_000).rest(1, now), Some(LONGEST), "a stop waits no longer than that");
    }
}

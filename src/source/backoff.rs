//! How long to wait before the next attempt. A value of its reader, which does the waiting.

use std::time::Duration;

/// Full jitter between nothing and a ceiling that doubles from 1 s to 60 s.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A connection that lasted this long was good. So was one that brought anything new: a host that drops us each few
/// seconds, and still feeds us, is not to be waited for a minute.
const STABLE: Duration = Duration::from_secs(60);

impl Backoff {
    /// After a connection that lasted `lived` and brought `frames` new frames.
    pub fn ended(&mut self, lived: Duration, frames: u64) {
        if lived >= STABLE || frames > 0 {
            self.failures = 0;
        }
    }

    /// The wait before the next attempt. `asked` is what the server asked for (Retry-After): at least that.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let wait = ceiling.mul_f64(fastrand::f64());
        match asked {
            // Jitter on top, so that a thousand clients do not come back in the same instant.
            Some(asked) => asked + wait.min(FIRST),
            None => wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_minute_and_starts_anew_after_a_good_connection() {
        let mut b = Backoff::default();
        for attempt in 0..20u32 {
            assert!(b.next(None) <= Duration::from_secs(1 << attempt.min(6)).min(LONGEST));
        }
        b.ended(Duration::from_secs(5), 0);
        let longest = (0..50).map(|_| b.next(None)).max().unwrap_or_default();
        assert!(
            longest > Duration::from_secs(20),
            "a short connection that brought nothing does not reset: {longest:?}"
        );
        b.ended(Duration::from_secs(61), 0);
        assert!(b.next(None) <= FIRST);
        b.failures = 9;
        b.ended(Duration::from_secs(1), 1);
        assert!(b.next(None) <= FIRST);
        assert!(b.next(Some(Duration::from_secs(30))) >= Duration::from_secs(30));
    }
}

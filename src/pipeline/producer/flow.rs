//! How much may be handed to the sink now, so that the order holds over every refusal.
//!
//! A record that is refused must not be overtaken by a later one of its partition. So after a refusal nothing is sent until
//! the sink has reported everything that it holds; then what came back is sent again in the original order, before anything
//! new, a limited number at a time. Pure: no clock is read here, and no sink is known.

use std::time::Duration;

/// The first window, at the start and after a passing error.
const FIRST: usize = 100;
/// From this window on nothing is limited any more.
const WIDE: usize = 10_000;
/// After a passing error, such as a missing right, so that it does not go round at full speed.
pub const PAUSE: Duration = Duration::from_millis(250);

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As much as the sink takes.
    Free,
    /// Nothing, until the sink has reported everything it holds. The next window is smaller than the one that was refused, so
    /// that in the end a record is alone.
    Draining { limit: usize },
    /// `left` more of a window, then nothing until the sink has reported everything. While there are suspects, the window
    /// is half of them, which finds the record that the broker refuses in few steps; else it doubles each time.
    Window { size: usize, left: usize },
}

/// What may be sent, and what the last refusals said.
#[derive(Debug)]
pub struct Flow(State);

impl Default for Flow {
    /// Begins with a small window: a broker accepts any first sequence number of a producer that it does not know, so that
    /// a refusal right at the start could be overtaken.
    fn default() -> Self {
        Flow(State::Window { size: FIRST, left: FIRST })
    }
}

impl Flow {
    /// How many records may be sent now.
    pub fn allowance(&self) -> usize {
        match self.0 {
            State::Free => usize::MAX,
            State::Draining { .. } => 0,
            State::Window { left, .. } => left,
        }
    }

    /// One was sent.
    pub fn sent(&mut self) {
        if let State::Window { left, .. } = &mut self.0 {
            *left = left.saturating_sub(1);
        }
    }

    /// A record came back: what else the sink holds comes first.
    pub fn refused(&mut self) {
        self.0 = match self.0 {
            State::Free => State::Draining { limit: usize::MAX },
            State::Window { size, .. } => State::Draining { limit: (size / 2).max(1) },
            draining @ State::Draining { .. } => draining,
        };
    }

    /// Whether everything waits for the sink to be empty.
    pub fn is_draining(&self) -> bool {
        matches!(self.0, State::Draining { .. })
    }

    /// Whether nothing is limited.
    pub fn is_free(&self) -> bool {
        self.0 == State::Free
    }

    /// The sink holds nothing: what comes next. `suspects` of the records that came back were in a
    /// batch that the broker refused for good, for at least one of them.
    pub fn empty(&mut self, suspects: usize) {
        let size = match (suspects, self.0) {
            (1.., State::Draining { limit }) => suspects.div_ceil(2).min(limit),
            (1.., _) => suspects.div_ceil(2),
            (0, State::Draining { .. }) => FIRST,
            (0, State::Window { size, .. }) => size.saturating_mul(2).max(FIRST),
            (0, State::Free) => return,
        };
        self.0 = if suspects == 0 && size >= WIDE { State::Free } else { State::Window { size, left: size } };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record that is refused is found in a number of steps that grows with the logarithm of the batch.
    #[test]
    fn a_bad_record_is_found_by_halves() {
        for (total, bad) in [(1usize, 0usize), (2, 1), (7, 0), (1000, 0), (1000, 613), (1000, 999)] {
            let mut flow = Flow::default();
            // Records that are left, and whether each is a suspect.
            let mut left: Vec<(usize, bool)> = (0..total).map(|i| (i, true)).collect();
            flow.refused();
            let mut rounds = 0;
            while left.iter().any(|(i, _)| *i == bad) {
                rounds += 1;
                assert!(rounds < 60, "{total} {bad}");
                flow.empty(left.iter().filter(|(_, s)| *s).count());
                let window = flow.allowance().min(left.len());
                if left[..window].iter().any(|(i, _)| *i == bad) {
                    if window == 1 {
                        left.remove(0);
                        continue;
                    }
                    for (i, record) in left.iter_mut().enumerate() {
                        record.1 = i < window;
                    }
                    flow.refused();
                } else {
                    left.drain(..window);
                }
            }
            assert!(rounds <= 2 * (total.ilog2() as usize + 1), "{total} {bad}: {rounds} rounds");
        }
    }

    #[test]
    fn after_a_passing_error_the_window_grows_until_nothing_is_limited() {
        let mut flow = Flow::default();
        flow.refused();
        flow.refused();
        assert_eq!(flow.allowance(), 0);
        flow.empty(0);
        let mut seen = Vec::new();
        while !flow.is_free() {
            seen.push(flow.allowance());
            for _ in 0..flow.allowance() {
                flow.sent();
            }
            assert_eq!(flow.allowance(), 0);
            flow.empty(0);
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400]);
        assert_eq!(flow.allowance(), usize::MAX);
    }
}

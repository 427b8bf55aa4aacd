//! The way past a message that breaks every connection: the lowest cursor behind it, found by asking. No socket, no clock.
//!
//! Whatever is asked for below that message meets it again; the first cursor that does not is the one behind it, and
//! nothing readable is passed over. Where seqs are sparse it may be far: the distance doubles first, and then halves.

/// The farthest step: no host leaves out so many seqs between two events.
const FARTHEST: u64 = 1 << 23;

/// What to do with a connection that did not break.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// The message is passed: go on here.
    Behind,
    /// It is not known yet which cursor is the lowest: ask for [`Past::ask`].
    Again,
    /// Nothing breaks any more: it was the host that was ill.
    Well,
}

/// A search, in seqs behind the cursor.
#[derive(Debug)]
pub struct Past {
    /// Where it was met.
    from: u64,
    /// The highest that met it.
    low: u64,
    /// The lowest that did not.
    high: Option<u64>,
    step: u64,
    /// It was met again at `from` after `high` had not met it: the host is well.
    sure: bool,
}

impl Past {
    /// It was met at `from`, several times.
    pub fn new(from: u64) -> Past {
        Past { from, low: from, high: None, step: 1, sure: false }
    }

    /// What to ask for next.
    pub fn ask(&self) -> u64 {
        match self.high {
            None => self.low + self.step,
            Some(_) if !self.sure => self.from,
            Some(high) if high - self.low > 1 => self.low.midpoint(high),
            Some(high) => high,
        }
    }

    /// Whether the place is found.
    pub fn is_found(&self) -> bool {
        self.sure && self.high == Some(self.low + 1)
    }

    /// The connection broke. False: there is no way past.
    pub fn broke(&mut self) -> bool {
        let asked = self.ask();
        match self.high {
            None => (self.low, self.step) = (asked, self.step * 2),
            Some(_) if !self.sure => self.sure = true,
            Some(_) => self.low = asked,
        }
        self.low - self.from < FARTHEST
    }

    /// The connection did not break.
    pub fn passed(&mut self) -> Way {
        let asked = self.ask();
        match self.high {
            None => self.high = Some(asked),
            // Behind an earlier one the host is still not well.
            Some(_) if !self.sure => return if self.from == 0 { Way::Well } else { Way::Behind },
            Some(_) if self.is_found() => return Way::Behind,
            Some(_) => self.high = Some(asked),
        }
        Way::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against hosts that are dense and sparse, by either meaning of a cursor: the place found is the lowest behind it.
    #[test]
    fn the_lowest_cursor_behind_the_message_is_found() {
        for seed in 0..5_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let inclusive = rng.bool();
            let far = [2, 100, 3_000, 1_000_000][rng.usize(0..4)];
            let broken = rng.u64(1..far);
            let meets = |ask: u64| if inclusive { broken >= ask } else { broken > ask };
            let mut past = Past::new(0);
            let mut connections = 0;
            loop {
                connections += 1;
                assert!(connections < 60, "seed {seed}");
                if meets(past.ask()) {
                    assert!(past.broke(), "seed {seed}");
                } else if past.passed() == Way::Behind {
                    break;
                }
            }
            assert!(past.is_found() && !meets(past.ask()) && meets(past.ask() - 1), "seed {seed}: {past:?}, {broken}");
        }
    }

    #[test]
    fn an_ill_host_is_given_up_and_a_well_one_is_noticed() {
        let mut past = Past::new(0);
        let mut connections = 1;
        while past.broke() {
            connections += 1;
        }
        assert!(connections < 30, "{connections}");
        let mut past = Past::new(0);
        assert!(past.broke() && past.broke());
        assert_eq!(past.passed(), Way::Again);
        assert_eq!((past.ask(), past.passed()), (0, Way::Well));
    }
}

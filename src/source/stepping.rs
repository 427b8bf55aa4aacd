//! When to look for the way [`past`](super::past) a message that breaks every connection, and when that is over. Part of
//! the relay's reader, on its thread.

use std::time::Duration;

use super::link::Link;
use super::past::{Past, Way};
use super::websocket::Ended;
use crate::dead_letter::Reason;

/// Between connections that look for the way past a message that breaks them.
const PAUSE: Duration = Duration::from_millis(200);
/// So many connections in a row that break in the same place are more than a bad line.
const BROKEN: u32 = 4;
/// A connection that was silent for so long did not break.
const UNBROKEN: Duration = Duration::from_secs(5);

/// What broke so far, and the search that came of it.
#[derive(Default)]
pub struct Stepping {
    /// Connections in a row that broke before they brought anything.
    broken: u32,
    past: Option<Past>,
}

impl Stepping {
    /// How far behind the cursor the next connection begins, in seqs.
    pub fn ask(&self) -> u64 {
        self.past.as_ref().map_or(0, Past::ask)
    }

    /// Whether the next event stands behind a message that is passed over.
    pub fn is_on(&self) -> bool {
        self.past.is_some()
    }

    /// What came is no websocket. Once that is a bad line; when it comes again in the same place the host keeps it.
    /// Without `asked`, the connection had no cursor, and there is no place.
    pub fn broke(&mut self, link: &Link, asked: Option<u64>, reason: String) -> Ended {
        if let Some(past) = self.past.as_mut().filter(|past| !past.is_found()) {
            if past.broke() {
                return Ended::Again(PAUSE);
            }
            // Nothing in one place: the host is ill as a whole. From the cursor again, and slowly.
            self.forget();
            return Ended::Lost(reason);
        }
        self.broken += 1;
        if self.broken < BROKEN || asked.is_none() {
            return Ended::Lost(reason);
        }
        log::warn!(
            event = "stepping_past", host = link.name, reason = reason;
            "{}: {reason}; {BROKEN} times in the same place: looking for the lowest cursor behind it", link.name
        );
        self.broken = 0;
        // Behind one that is passed there may be another one.
        let from = self.past.take().map_or(0, |past| {
            link.metrics.dead_letter(Reason::BadFrame).inc();
            past.ask()
        });
        self.past = Some(Past::new(from));
        Ended::Again(PAUSE)
    }

    /// This connection does not break where others did.
    pub fn unbroken(&mut self) -> Result<(), Ended> {
        self.broken = 0;
        match self.past.as_mut().map(Past::passed) {
            None | Some(Way::Behind) => Ok(()),
            Some(Way::Again) => Err(Ended::Again(PAUSE)),
            Some(Way::Well) => {
                self.past = None;
                Ok(())
            }
        }
    }

    /// Nothing came on this connection for so long.
    pub fn silent(&mut self, for_so_long: Duration) -> Result<(), Ended> {
        let searching = self.past.as_ref().is_some_and(|past| !past.is_found());
        if searching && for_so_long > UNBROKEN { self.unbroken() } else { Ok(()) }
    }

    /// An event came, and the message that broke connections is behind us: whether there was one.
    pub fn passed_over(&mut self, link: &Link) -> bool {
        let passed = self.past.take().is_some();
        if passed {
            link.metrics.dead_letter(Reason::BadFrame).inc();
        }
        passed
    }

    pub fn forget(&mut self) {
        *self = Stepping::default();
    }
}

//! The reader of Ozone's moderation events: pages of `queryEvents`, again and again. It owns the window of what was
//! delivered; the login is the [session](super::ozone_session)'s. On a reader thread.
//!
//! An event gets its `createdAt` before it can be seen, so that a cursor which only moves forward misses those that commit
//! late (4 to 7 % were, measured). So each round begins a look-back before the newest event seen, and what was delivered
//! before is known by its id. A round is short for the same reason: on a busy Ozone there is always a next page, and one
//! that only followed the cursor would be such a forward cursor.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::backoff::Backoff;
use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::link::{self, Link};
use super::ozone_session::{Account, Failure, Session};
use crate::atproto::json_input::LazyValue;
use crate::atproto::ozone::{MAX_EVENTS, PAGE, Page, Stamp};
use crate::atproto::time;
use crate::checkpoint::{OzonePosition, Position};
use crate::clock;
use crate::health::Health;
use crate::metrics::source::SourceMetrics;

/// Pages of one round before a poll rests for as many tenths of a second: a PDS allows 3,000 requests in five minutes.
const PAGE_REST: Duration = Duration::from_millis(100);
/// But no longer: where a long catch-up was too much, the PDS says so with 429.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Events as old as this are committed: a round over them may be as long as it likes.
const SETTLED_MS: i64 = 600_000;

/// How the events are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Milliseconds since 1970; `None`: from the first event on. For a first start.
    pub since_ms: Option<i64>,
    /// How far before the newest event is read again: events may commit late.
    pub look_back: Duration,
    /// How long it waits after it has caught up.
    pub poll_interval: Duration,
}

/// The reader of Ozone's events, by polls.
pub struct Ozone<I> {
    session: Session,
    reading: Reading,
    intake: I,
    link: Link,
    /// The newest `createdAt` seen.
    high_water_ms: Option<i64>,
    window: Window,
    /// Whether it was said that the window is full.
    full: bool,
    /// Events handed over so far.
    fresh: u64,
}

/// What a round did.
struct Round {
    /// Whether it ended with the newest event.
    caught_up: bool,
    pages: u32,
}

impl<I: Intake> Ozone<I> {
    /// `saved` is the position of an earlier run; it goes before `reading.since_ms`.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        account: Account,
        name: &str,
        index: usize,
        reading: Reading,
        saved: Option<OzonePosition>,
        intake: I,
        metrics: Arc<SourceMetrics>,
        health: Arc<Health>,
    ) -> Self {
        let window = saved.as_ref().map(|s| s.window.to_vec()).unwrap_or_default();
        Ozone {
            session: Session::new(account, metrics.clone()),
            link: Link::new(name, index, metrics, health),
            window: Window::new(window),
            full: false,
            high_water_ms: saved.map(|s| s.high_water_ms),
            reading,
            intake,
            fresh: 0,
        }
    }

    /// Reads until the end is asked for. What fails is tried again; what no retry mends ends the run.
    pub fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let before = self.fresh;
            let rest = match self.round() {
                Ok(Round { caught_up, pages }) => {
                    backoff = Backoff::default();
                    let rest = self.reading.poll_interval.max((PAGE_REST * pages).min(LONGEST_REST));
                    if caught_up { rest.saturating_sub(began.elapsed()) } else { Duration::ZERO }
                }
                Err(Ended::Stopped) => break,
                Err(Ended::Failed(Failure::Ever(reason))) => {
                    self.intake.fail(format!("{}: {reason}", self.link.name));
                    break;
                }
                Err(Ended::Failed(Failure::Later { reason, wait })) => {
                    backoff.ended(began.elapsed(), self.fresh - before);
                    let wait = backoff.next(wait);
                    log::warn!(
                        event = "disconnected", host = self.link.name, reason = reason;
                        "{}: {reason}; again in {:.1} s", self.link.name, wait.as_secs_f64()
                    );
                    self.link.gauges.connected.set(0);
                    self.link.metrics.reconnect(&self.link.name);
                    self.link.health.source(self.link.index, Err(reason));
                    wait
                }
            };
            if link::pause(|| self.intake.stopped(), rest).is_err() {
                break;
            }
        }
        self.link.gauges.connected.set(0);
    }

    /// From the look-back towards the newest event.
    fn round(&mut self) -> Result<Round, Ended> {
        let look_back = self.reading.look_back.as_millis() as i64;
        let since_ms = self.reading.since_ms;
        let from_ms = match self.high_water_ms {
            // Not before the start that was asked for, unless the saved position is.
            Some(ms) => Some((ms - look_back).max(since_ms.filter(|since| *since <= ms).unwrap_or(i64::MIN))),
            None => since_ms,
        };
        let created_after = from_ms.map(time::format_ms);
        self.window.forget_before(from_ms.unwrap_or(i64::MIN));
        let mut began_ms = self.high_water_ms;
        let (mut cursor, mut pages) = (None, 0);
        let (known, mut repeats, mut cursors) = (self.window.ids.len(), 0, Loop::default());
        loop {
            if self.intake.stopped() {
                return Err(Ended::Stopped);
            }
            let body = self.session.page(created_after.as_deref(), cursor.as_deref()).map_err(Ended::Failed)?;
            let page = Page::read(&body).map_err(|what| {
                let reason = format!(
                    "queryEvents: the answer is no page of events ({what}): is the service of --labeler-did an Ozone?"
                );
                Ended::Failed(Failure::Later { reason, wait: None })
            })?;
            let (events, count) = (page.events.taken, page.events.count);
            if count > MAX_EVENTS {
                let reason = format!(
                    "queryEvents: a page of {count} events, and {PAGE} were asked for: is the service of --labeler-did an Ozone?"
                );
                return Err(Ended::Failed(Failure::Later { reason, wait: None }));
            }
            pages += 1;
            self.link.metrics.ozone_pages.inc();
            self.link.connected();
            if events.is_empty() {
                return Ok(Round { caught_up: true, pages });
            }
            let before = self.fresh;
            let read_at = Instant::now();
            self.hand_over(&events)?;
            // Held up by the output: what committed late meanwhile stands behind the cursor.
            let held_up = read_at.elapsed() > self.reading.look_back / 2;
            // Without anything new another round would not come further than this one.
            if self.fresh > before {
                if count < PAGE {
                    return Ok(Round { caught_up: true, pages });
                }
                let (now_ms, high_water_ms) = (clock::now_ms(), self.high_water_ms.unwrap_or(0));
                let passed_ms = high_water_ms - *began_ms.get_or_insert(high_water_ms);
                if held_up || passed_ms > look_back / 2 && high_water_ms > now_ms - SETTLED_MS {
                    return Ok(Round { caught_up: false, pages });
                }
            }
            // An empty page has none: the old one stays.
            cursor = page.cursor.or(cursor);
            let Some(next) = &cursor else { return Ok(Round { caught_up: true, pages }) };
            // More repeats than there are events to repeat: the server goes round, whatever its cursors are.
            repeats += count - (self.fresh - before) as usize;
            if cursors.closes(next) || repeats > known {
                log::warn!(
                    at_most = 1, event = "endless_pages", host = self.link.name;
                    "{}: queryEvents gives the same pages again and again: the round is ended after {pages} pages",
                    self.link.name
                );
                return Ok(Round { caught_up: true, pages });
            }
        }
    }

    fn hand_over(&mut self, events: &[LazyValue<'_>]) -> Result<(), Ended> {
        let mut frames = Frames::default();
        for event in events {
            let raw = event.as_raw_str();
            let (id, ms) = match Stamp::of(event) {
                Ok(Stamp { id, created_at }) => {
                    let id = id.as_raw_str();
                    (id.parse().unwrap_or_else(|_| hash(id)), time::parse_ms(&created_at))
                }
                // Without an id it is known again by what it says.
                Err(_) => (hash(raw), None),
            };
            if !self.window.ids.insert(id) {
                self.link.metrics.ozone_repeats.inc();
                continue;
            }
            // A clock that ran ahead must not hide what comes after it was put right.
            self.high_water_ms = self.high_water_ms.max(ms.map(|ms| ms.min(clock::now_ms())));
            // One without a time is never forgotten when nothing came before it. One of the future is in each round until then.
            self.window.entries.push((ms.or(self.high_water_ms).unwrap_or(i64::MAX), id));
            self.fresh += 1;
            frames.push(raw.as_bytes(), Seen::Json);
        }
        let Some(frames) = frames.take() else { return Ok(()) };
        self.link.received(&frames, None);
        let high_water_ms = self.high_water_ms.unwrap_or(0);
        self.window.forget_before(high_water_ms - self.reading.look_back.as_millis() as i64);
        if self.window.forget_above(OzonePosition::MAX_WINDOW) && !std::mem::replace(&mut self.full, true) {
            log::warn!(
                event = "window_full", host = self.link.name;
                "{}: over {} events are in the look-back window or in the future: the oldest are forgotten, and may be delivered again",
                self.link.name,
                OzonePosition::MAX_WINDOW
            );
        }
        let state = OzonePosition { high_water_ms, window: Arc::new(self.window.entries.clone()) };
        self.intake
            .put(Work::Frames(frames), Some(Position::of_state(high_water_ms, Arc::new(state))))
            .map_err(|Stopped| Ended::Stopped)
    }
}

/// Events that were handed over and that a later round reads again, in the order in which they came.
struct Window {
    /// `(createdAt, id)`.
    entries: Vec<(i64, u64)>,
    ids: HashSet<u64>,
}

impl Window {
    fn new(entries: Vec<(i64, u64)>) -> Self {
        Window { ids: entries.iter().map(|(_, id)| *id).collect(), entries }
    }

    /// Events older than the next round reads need not be known any more.
    fn forget_before(&mut self, ms: i64) {
        let ids = &mut self.ids;
        self.entries.retain(|(at, id)| {
            let keep = *at >= ms;
            if !keep {
                ids.remove(id);
            }
            keep
        });
    }

    /// Keeps the `most` that came last. Whether there were more.
    fn forget_above(&mut self, most: usize) -> bool {
        let excess = self.entries.len().saturating_sub(most);
        for (_, id) in self.entries.drain(..excess) {
            self.ids.remove(&id);
        }
        excess > 0
    }
}

/// The same in each build: it is kept in state files.
fn hash(text: &str) -> u64 {
    Sha256::digest(text).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// Sees when a server gives the same cursor again, by memory for one of them: a cursor of each round of ever more pages is
/// compared with those that follow (Brent). A page costs no more for it, and a loop is seen after three times its length.
#[derive(Default)]
struct Loop {
    kept: Option<String>,
    pages: u32,
    keep_for: u32,
}

impl Loop {
    fn closes(&mut self, cursor: &str) -> bool {
        if self.kept.as_deref() == Some(cursor) {
            return true;
        }
        self.pages += 1;
        if self.pages > self.keep_for {
            self.kept = Some(cursor.into());
            (self.pages, self.keep_for) = (0, self.keep_for.saturating_mul(2).max(1));
        }
        false
    }
}

enum Ended {
    Stopped,
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_comes_again_is_seen_and_no_other() {
        for (lead, length) in [(0, 1), (1, 1), (0, 2), (5, 7), (100, 3)] {
            let mut seen = Loop::default();
            let cursors =
                (0..lead + length * 9 + lead * 3).map(|i: i32| if i < lead { i } else { lead + (i - lead) % length });
            let closed = cursors.clone().position(|cursor| seen.closes(&cursor.to_string())).expect("a loop");
            assert!(closed >= (lead + length) as usize, "{lead} {length}: {closed}");
        }
        let mut seen = Loop::default();
        assert!(!(0..10_000).any(|cursor: i32| seen.closes(&cursor.to_string())));
    }

    #[test]
    fn a_window_keeps_what_came_last() {
        let mut window = Window::new((1..=10).map(|id| (i64::MAX - id, id as u64)).collect());
        assert!(!window.forget_above(10));
        assert!(window.forget_above(4));
        assert_eq!(window.entries.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [7, 8, 9, 10]);
        assert!(window.ids.len() == 4 && window.entries.iter().all(|(_, id)| window.ids.contains(id)));
        window.forget_before(i64::MAX - 8);
        assert_eq!(window.entries.len(), 2);
        assert_eq!(window.ids.len(), 2);
    }

    #[test]
    fn of_a_long_list_only_the_first_events_are_taken() {
        let page =
            |events: usize, rest: &str| format!(r#"{{"cursor":"c","events":[{}]{rest}}}"#, vec!["1"; events].join(","));
        for events in [0, 1, MAX_EVENTS, MAX_EVENTS + 1, 300_000] {
            let text = page(events, "");
            let read = Page::read(text.as_bytes()).expect("a page");
            assert_eq!((read.events.taken.len(), read.events.count), (events.min(MAX_EVENTS), events));
            assert_eq!(read.cursor.as_deref(), Some("c"));
            assert!(Page::read(page(events, "]").as_bytes()).is_err());
        }
        let error = Page::read(br#"{"events":"Bearer x"}"#).err();
        assert_eq!(error.as_deref(), Some("invalid type: string, expected a sequence at line 1 column 20"));
    }

    #[test]
    fn the_hash_in_state_files_stays_what_it_is() {
        assert_eq!(hash("\"text\""), 2_169_907_247_541_024_506);
    }
}

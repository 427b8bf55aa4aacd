//! One line an entry on standard error, as text or as JSON.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};

use crate::atproto::{json, time};

struct Logger {
    json: bool,
}

/// Whether the last thing on the terminal is a status line, which the next entry overwrites.
static STATUS: AtomicBool = AtomicBool::new(false);

/// Starts logging. A second call changes only the level.
pub fn start(level: LevelFilter, json: bool) {
    // Fails when a logger is there already, as in tests that start twice.
    let _ = log::set_boxed_logger(Box::new(Logger { json }));
    log::set_max_level(level);
}

/// Whether people watch: then there is a status line instead of a periodic entry.
pub fn on_terminal(json: bool) -> bool {
    !json && std::io::stderr().is_terminal()
}

/// Replaces the status line.
pub fn status(text: &str) {
    let mut err = std::io::stderr().lock();
    // Nobody is left to be told when standard error is closed.
    let _ = write!(err, "\r\x1b[K{text}");
    let _ = err.flush();
    STATUS.store(true, Ordering::Relaxed);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata())
            || !(record.target().starts_with("atkafka") || record.level() <= log::Level::Warn)
        {
            return;
        }
        let now = time::format_ms(time::now_ms());
        let message = record.args().to_string();
        let mut line = Vec::with_capacity(message.len() + 64);
        if self.json {
            line.extend_from_slice(b"{\"time\":");
            json::string(&mut line, &now);
            line.extend_from_slice(b",\"level\":");
            json::string(&mut line, &record.level().as_str().to_lowercase());
            line.extend_from_slice(b",\"message\":");
            json::string(&mut line, &message);
            line.extend_from_slice(b"}\n");
        } else {
            // What upstream says may hold anything: an entry stays one line, and no terminal obeys it.
            let clean: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            line.extend_from_slice(format!("{now} {:5} {clean}\n", record.level()).as_bytes());
        }
        let mut err = std::io::stderr().lock();
        if STATUS.swap(false, Ordering::Relaxed) {
            let _ = err.write_all(b"\r\x1b[K");
        }
        let _ = err.write_all(&line);
    }

    fn flush(&self) {}
}

/// The period of [`Periodic`].
const PERIOD: Duration = Duration::from_secs(10);

/// A complaint that may come thousands of times: said a few times at once, then counted to the end of the period.
pub struct Periodic {
    burst: u64,
    state: Mutex<Said>,
}

struct Said {
    since: Instant,
    said: u64,
    held_back: u64,
}

impl Periodic {
    /// Says up to `burst` in each period of ten seconds.
    pub fn new(burst: u64) -> Self {
        Periodic { burst, state: Mutex::new(Said { since: Instant::now(), said: 0, held_back: 0 }) }
    }

    pub fn warn(&self, message: &str) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut before = 0;
        if state.since.elapsed() >= PERIOD {
            before = state.held_back;
            *state = Said { since: Instant::now(), said: 0, held_back: 0 };
        }
        if state.said >= self.burst {
            state.held_back += 1;
            return;
        }
        state.said += 1;
        drop(state);
        match before {
            0 => log::warn!("{message}"),
            n => log::warn!("{message} (and {n} more of this kind before, not shown)"),
        }
    }
}

//! One line an entry on standard error, as text or as JSON; and the [status line](status) of a terminal. It owns the
//! terminal and the limits, and knows none of the callers. On the thread that logs, behind a lock.
//!
//! Every line is [`plain`](mod@plain), has a [length](LINE), and has a [`limit`] for its kind: with that no host and no broker can
//! fill a disk or fool a terminal, whatever the caller passes on. Callers name what they speak of as fields of the entry,
//! `log::warn!(event = "gap", host = name; ...)`, which JSON shows; `at_most` is how often a kind is said in ten seconds,
//! where the usual is not right.

pub mod bar;
pub mod limit;
pub mod plain;
pub mod status;

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::atproto::{json_output, time};
use crate::clock;
use limit::{HeldBack, Kind, Limits};
use plain::{Plain, plain};

/// Bytes of a message at most.
const LINE: usize = 2_000;
/// Bytes of a field at most.
const FIELD: usize = 500;
/// Lines of one kind in ten seconds.
const AT_MOST: u64 = 10;
/// The same for debugging, where whoever asks for it wants to see what happens.
const AT_MOST_DEBUG: u64 = 10_000;

struct Logger;

static JSON: AtomicBool = AtomicBool::new(false);
static LIMITS: Mutex<Limits> = Mutex::new(Limits::none());

/// Starts logging. A second call changes level and format.
pub fn start(level: LevelFilter, json: bool) {
    JSON.store(json, Ordering::Relaxed);
    // Fails when it is there already, as in tests that start twice.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
}

/// A line for whoever typed the command, without time and level: what is wrong before there is a log.
pub fn say(text: &str) {
    write_line(format!("{}\n", plain(text, 2 * LINE)).as_bytes());
}

/// Says how many lines were held back where no later one tells it. To be called now and then.
pub fn settle() {
    say_held_back(Some(Instant::now()));
}

/// The same for all: nothing more is logged. What follows on the terminal begins a line.
pub fn finish() {
    say_held_back(None);
    status::leave();
}

fn say_held_back(now: Option<Instant>) {
    let all = limits(|limits| limits.settle(now));
    for held_back in all {
        let HeldBack { level, count, example } = held_back;
        let message = format!("and {count} more like it before: {example}");
        write_line(&line(level, &message, &[("event", "held_back")]));
    }
}

fn limits<T>(f: impl FnOnce(&mut Limits) -> T) -> T {
    // Counts only: whole at any instant.
    f(&mut LIMITS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let ours = record.target().starts_with("atkafka");
        if !self.enabled(record.metadata()) || !(ours || record.level() <= Level::Warn) {
            return;
        }
        let fields = record.key_values();
        let about = ["host", "path"].iter().find_map(|key| fields.get(Key::from(*key)));
        let about = about.map(|about| text(&about)).unwrap_or_default();
        let usual = if record.level() >= Level::Debug { AT_MOST_DEBUG } else { AT_MOST };
        let most = fields.get(Key::from("at_most")).and_then(|most| most.to_u64()).unwrap_or(usual);
        let mut kind = Kind { file: record.file_static().unwrap_or_default(), line: record.line().unwrap_or(0), about };
        // Before it is put into words: what is held back costs next to nothing.
        let Some(before) = limits(|limits| limits.admit(&mut kind, record.level(), most, Instant::now())) else {
            return;
        };
        let mut message = Plain::new(LINE);
        // Fails only where a value's own words fail; then it is what they were until there.
        let _ = message.write_fmt(*record.args());
        let mut message = message.finish();
        limits(|limits| limits.said(&kind, &message));
        if before > 0 {
            let _ = write!(message, " (and {before} more like it before)");
        }
        write_line(&line(record.level(), &message, fields));
    }

    fn flush(&self) {
        say_held_back(None);
    }
}

/// A value of a field, as it is shown.
fn text(value: &Value<'_>) -> String {
    let mut out = Plain::new(FIELD);
    let _ = write!(out, "{value}");
    out.finish()
}

/// Appends fields to a JSON object.
struct Fields<'a>(&'a mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if key.as_str() == "at_most" {
            return Ok(());
        }
        self.0.push(b',');
        json_output::string(self.0, key.as_str());
        self.0.push(b':');
        match value.to_u64() {
            Some(number) => self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            None => json_output::string(self.0, &text(&value)),
        }
        Ok(())
    }
}

/// An entry with its line end. The message is plain.
fn line(level: Level, message: &str, fields: &dyn kv::Source) -> Vec<u8> {
    let now = time::format_ms(clock::now_ms());
    if !JSON.load(Ordering::Relaxed) {
        return format!("{now} {level:5} {message}\n").into_bytes();
    }
    let mut line = Vec::with_capacity(message.len() + 128);
    line.extend_from_slice(b"{\"time\":");
    json_output::string(&mut line, &now);
    line.extend_from_slice(b",\"level\":");
    json_output::string(&mut line, &level.as_str().to_lowercase());
    line.extend_from_slice(b",\"message\":");
    json_output::string(&mut line, message);
    // It fails where our visitor does, which it does not.
    let _ = fields.visit(&mut Fields(&mut line));
    line.extend_from_slice(b"}\n");
    line
}

fn write_line(line: &[u8]) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(status::erase().as_bytes());
    // Nobody is left to be told when standard error is closed.
    let _ = err.write_all(line);
}

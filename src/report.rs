//! How it goes: a log line each ten seconds, or a status line on a terminal; and the service manager hears it. It reads
//! metrics and health, and changes neither. On the main thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::health::{Cause, Health, human};
use crate::http::history::History;
use crate::log::bar::{Bar, Extent, OF_FRAMES};
use crate::log::status::{columns, cut, draw};
use crate::metrics::Metrics;
use crate::systemd::Systemd;

const LINE_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// What is said a second is a mean over about so long: messages come in batches.
const MEAN: Duration = Duration::from_secs(3);
/// After so long without an event upstream, or one that passes the filters, that is said.
const QUIET: Duration = Duration::from_secs(10);
const STANDBY: &str = "standby: another instance works";
/// Columns of a status line that a cause takes at most, where the numbers would not fit otherwise.
const BRIEF: usize = 52;

/// What is said while it runs: status lines, on a terminal or in the log, and to systemd.
pub struct Report {
    metrics: Arc<Metrics>,
    history: Arc<History>,
    health: Arc<Health>,
    status_line: bool,
    systemd: Option<Systemd>,
    /// Of a run that has an end.
    bar: Option<Bar>,
    names: Vec<String>,
    at: Instant,
    /// The last looks, the oldest first: at least one.
    looks: VecDeque<(Instant, Counts)>,
    /// When messages were last received, and records last delivered.
    received_at: Instant,
    delivered_at: Instant,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    received: u64,
    filtered: u64,
    delivered: u64,
}

impl Report {
    /// `history` gets its samples from here. `status_line`: whether there is a terminal that shows one.
    pub fn new(
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        history: Arc<History>,
        status_line: bool,
        systemd: Option<Systemd>,
    ) -> Self {
        let names = health.sources();
        let now = Instant::now();
        Report {
            metrics,
            history,
            health,
            status_line,
            systemd,
            bar: None,
            names,
            at: now,
            looks: VecDeque::from([(now, Counts::default())]),
            received_at: now,
            delivered_at: now,
        }
    }

    /// Says how far it is, too.
    pub fn of(mut self, extent: Arc<Extent>) -> Self {
        self.bar = Some(Bar::new(extent, self.status_line, ""));
        self
    }

    /// Says something when it is time.
    pub fn tick(&mut self) {
        // Between deliveries nobody else tells how it grows.
        for (name, lag) in self.names.iter().zip(self.health.lags()) {
            if let Some(lag) = lag {
                self.metrics.pipeline.lag(name).set(lag);
            }
        }
        self.history.tick(&self.metrics, &self.health);
        if let Some(systemd) = &mut self.systemd {
            systemd.tick(&self.health);
        }
        if self.at.elapsed() < if self.status_line { STATUS_EVERY } else { LINE_EVERY } {
            return;
        }
        let glance = self.glance();
        let bar = self.bar.as_ref().and_then(Bar::text);
        if self.status_line {
            draw(|width| glance.row_behind(bar, width));
        } else {
            let line = bar.into_iter().chain([glance.line()]).collect::<Vec<_>>().join("; ");
            let reasons: Vec<String> = glance.causes.iter().map(Cause::to_string).collect();
            match reasons.is_empty() {
                true => log::info!(event = "status"; "{line}"),
                false => log::info!(event = "status", reason = reasons.join("; "); "{line}"),
            }
        }
        if let Some(systemd) = &self.systemd {
            systemd.status(&glance.line());
        }
    }

    /// It comes to its end, and why.
    pub fn stopping(&mut self, why: &str) {
        if let Some(systemd) = &mut self.systemd {
            systemd.stopping(why);
        }
    }

    /// The last words.
    pub fn last(&self) {
        let dead = self.metrics.pipeline.dead_letters_total();
        log::info!(event = "end"; "delivered {} records, {dead} dead letters", self.metrics.pipeline.produced_ok.get());
    }

    /// How it goes since the last look.
    fn glance(&mut self) -> Glance {
        let now = Instant::now();
        let counts = Counts {
            received: self.metrics.source.received_frames.get(),
            filtered: self.metrics.decode.filtered.get(),
            delivered: self.metrics.pipeline.produced_ok.get(),
        };
        self.at = now;
        let (_, last) = self.looks.back().copied().unwrap_or((now, counts));
        if counts.received > last.received {
            self.received_at = now;
        }
        if counts.delivered > last.delivered {
            self.delivered_at = now;
        }
        while self.looks.len() > 1 && self.looks.front().is_some_and(|(at, _)| now.duration_since(*at) > MEAN) {
            self.looks.pop_front();
        }
        let (since, before) = self.looks.front().copied().unwrap_or((now, counts));
        self.looks.push_back((now, counts));
        let seconds = now.duration_since(since).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let mut causes = self.health.causes();
        let well = causes.is_empty();
        if well {
            causes.extend(self.quiet(now, counts.filtered > before.filtered));
        }
        let lags = self.health.lags().into_iter().zip(&self.names);
        let lag = lags.filter_map(|(lag, name)| Some((lag?, name))).reduce(|a, b| if b.0 > a.0 { b } else { a });
        Glance {
            causes,
            well,
            received: rate(counts.received, before.received),
            filtered: rate(counts.filtered, before.filtered),
            delivered: rate(counts.delivered, before.delivered),
            // Of one host everybody knows which it is.
            lag: lag.map(|(lag, name)| (lag, (self.names.len() > 1).then(|| name.clone()))),
            in_flight: self.metrics.pipeline.frames_in_flight.get().max(0) as u64,
            megabytes: self.metrics.pipeline.bytes_in_flight.get().max(0) as f64 / 1e6,
            dead: self.metrics.pipeline.dead_letters_total(),
            total: counts.delivered,
        }
    }

    /// Why nothing is delivered although nothing is wrong.
    fn quiet(&self, now: Instant, filters: bool) -> Option<Cause> {
        let (what, since) = match filters {
            _ if self.health.is_standby() => return Some(Cause { what: STANDBY.into(), since: None }),
            true => ("nothing passes the filters", self.delivered_at),
            false => ("nothing comes from upstream", self.received_at),
        };
        (now.duration_since(since) >= QUIET).then(|| Cause { what: what.into(), since: Some(since) })
    }
}

/// How far a run is that only counts frames: on a terminal a bar, else a line each ten seconds.
pub struct Progress {
    bar: Bar,
    on_terminal: bool,
    at: Instant,
}

impl Progress {
    /// `status_line`: whether there is a terminal that shows one.
    pub fn new(extent: Arc<Extent>, on_terminal: bool) -> Self {
        Progress { bar: Bar::new(extent, on_terminal, OF_FRAMES), on_terminal, at: Instant::now() }
    }

    /// Says something when it is time.
    pub fn tick(&mut self) {
        if self.at.elapsed() < if self.on_terminal { STATUS_EVERY } else { LINE_EVERY } {
            return;
        }
        self.at = Instant::now();
        match self.bar.text() {
            Some(text) if self.on_terminal => draw(|_| text),
            Some(text) => log::info!(event = "status"; "{text}"),
            None => {}
        }
    }
}

/// What there is to see at a moment.
struct Glance {
    /// Why nothing flows.
    causes: Vec<Cause>,
    /// Nothing is wrong, even if nothing flows.
    well: bool,
    /// Messages, events that were left out, and records, a second.
    received: f64,
    filtered: f64,
    delivered: f64,
    /// The longest, in seconds, and whose.
    lag: Option<(f64, Option<String>)>,
    in_flight: u64,
    megabytes: f64,
    dead: u64,
    total: u64,
}

impl Glance {
    /// All of it, for the log and the service manager.
    fn line(&self) -> String {
        let numbers = format!(
            "received {:.0}/s, filtered {:.0}/s, delivered {:.0}/s{}, in flight {} frames {:.1} MB, dead letters {}, \
             delivered {} in all",
            self.received,
            self.filtered,
            self.delivered,
            self.lag.as_ref().map(|lag| format!(", {}", lag_text(lag))).unwrap_or_default(),
            self.in_flight,
            self.megabytes,
            self.dead,
            self.total
        );
        let causes: Vec<String> = self.causes.iter().map(Cause::to_string).chain([numbers]).collect();
        causes.join("; ")
    }

    /// The bar first, unless something is wrong: then that counts.
    fn row_behind(&self, bar: Option<String>, width: usize) -> String {
        let Some(bar) = bar.filter(|bar| self.well && columns(bar) < width) else { return self.row(width) };
        let separator = ", ";
        match self.row(width.saturating_sub(columns(&bar) + separator.len())) {
            row if row.is_empty() => bar,
            row => format!("{bar}{separator}{row}"),
        }
    }

    /// What fits into so many columns: all of it, or the cause in brief and short numbers, the more important ones first.
    fn row(&self, width: usize) -> String {
        let line = self.line();
        if columns(&line) <= width {
            return line;
        }
        let rates = [
            format!("in {}/s", short(self.received)),
            format!("filtered {}/s", short(self.filtered)),
            format!("out {}/s", short(self.delivered)),
        ];
        let lag = self.lag.as_ref().map(|(lag, _)| format!("lag {}", human(*lag)));
        let in_flight = format!("in flight {}", short(self.in_flight as f64));
        let dead = format!("dead letters {}", short(self.dead as f64));
        let Some(first) = self.causes.first() else {
            return fitting(String::new(), rates.into_iter().chain(lag).chain([in_flight, dead]), width);
        };
        let more = if self.causes.len() > 1 { format!(" (and {} more)", self.causes.len() - 1) } else { String::new() };
        let tail = match first.age() {
            age if age.is_empty() => more,
            age => format!(" {age}{more}"),
        };
        let waiting = lag.into_iter().chain([in_flight, dead]);
        let numbers: Vec<String> = match self.well {
            true => rates.into_iter().chain(waiting).collect(),
            false => waiting.chain(rates).collect(),
        };
        let all: usize = numbers.iter().map(|number| columns(number) + ", ".len()).sum();
        let room = width.saturating_sub(all + columns(&tail)).max(BRIEF);
        let what = brief(&first.what, room.min(width.saturating_sub(columns(&tail))));
        fitting(cut(&format!("{what}{tail}"), width).to_string(), numbers, width)
    }
}

fn lag_text((seconds, host): &(f64, Option<String>)) -> String {
    let host = host.as_ref().map(|host| format!(" ({host})")).unwrap_or_default();
    format!("lag {}{host}", human(*seconds))
}

/// A count in few columns.
fn short(count: f64) -> String {
    match count {
        n if n < 9_999.5 => format!("{n:.0}"),
        n if n < 999_500.0 => format!("{:.0}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}

/// The beginning of a reason, where possible whole parts of it: what follows is what to do.
fn brief(text: &str, most: usize) -> &str {
    let begin = cut(text, most);
    let rest = &text[begin.len()..];
    let ends = [": ", "; ", ", ", " ("];
    if rest.is_empty() || ends.iter().any(|end| rest.starts_with(end)) {
        return begin;
    }
    let end = ends.iter().filter_map(|end| begin.rfind(end)).max();
    end.filter(|end| *end > most * 7 / 10).map_or(begin, |end| &begin[..end])
}

/// As many of the numbers as fit: none is cut, since that would be another number.
fn fitting(mut text: String, numbers: impl IntoIterator<Item = String>, width: usize) -> String {
    let mut separator = if text.is_empty() { "" } else { "; " };
    for number in numbers {
        if columns(&text) + separator.len() + columns(&number) > width {
            break;
        }
        text += separator;
        text += &number;
        separator = ", ";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance() -> Glance {
        Glance {
            causes: Vec::new(),
            well: true,
            received: 412.0,
            filtered: 12.0,
            delivered: 400.0,
            lag: Some((1.25, None)),
            in_flight: 512,
            megabytes: 2.1,
            dead: 3,
            total: 1_234_567,
        }
    }

    fn cause(what: &str, age: u64) -> Cause {
        Cause { what: what.into(), since: Instant::now().checked_sub(Duration::from_secs(age)) }
    }

    #[test]
    fn a_row_has_all_numbers_at_eighty_columns() {
        let g = glance();
        assert_eq!(g.row(79), "in 412/s, filtered 12/s, out 400/s, lag 1.2 s, in flight 512, dead letters 3");
        assert_eq!(
            g.row(199),
            "received 412/s, filtered 12/s, delivered 400/s, lag 1.2 s, in flight 512 frames 2.1 MB, dead letters 3, \
             delivered 1234567 in all"
        );
        let g = Glance { received: 48_210.0, filtered: 0.0, delivered: 48_204.0, lag: Some((11_000.0, None)), ..g };
        let g = Glance { in_flight: 123_456, dead: 0, ..g };
        assert_eq!(g.row(79), "in 48k/s, filtered 0/s, out 48k/s, lag 3.1 h, in flight 123k, dead letters 0");
        assert_eq!(g.row(20), "in 48k/s", "whole numbers only");
    }

    #[test]
    fn a_bar_stands_before_the_numbers_but_not_before_a_cause() {
        let bar = || Some("[==========>         ] 50 %, 32s left".to_string());
        assert_eq!(
            glance().row_behind(bar(), 79),
            "[==========>         ] 50 %, 32s left, in 412/s, filtered 12/s, out 400/s"
        );
        assert_eq!(glance().row_behind(bar(), 40), "[==========>         ] 50 %, 32s left");
        let g = Glance { causes: vec![cause("output: away", 25)], well: false, ..glance() };
        assert!(g.row_behind(bar(), 79).starts_with("output: away for 25 s"));
    }

    #[test]
    fn a_row_begins_with_the_cause_when_nothing_flows() {
        let away = "output: 127.0.0.1:9092: connection refused: is the broker running, is the port right?";
        let g =
            Glance { causes: vec![cause(away, 25)], well: false, delivered: 0.0, lag: Some((25.0, None)), ..glance() };
        assert_eq!(g.row(79), "output: 127.0.0.1:9092: connection refused for 25 s; lag 25.0 s, in flight 512");
        assert!(g.row(250).starts_with(&format!("{away} (for 25 s); received 412/s")));
        assert!(g.line().starts_with(&format!("{away} (for 25 s); received 412/s")));
        let two =
            vec![cause("not connected to 127.0.0.1:23456: connection refused: is the relay up?", 9), cause(away, 25)];
        let g = Glance { causes: two, ..g };
        assert_eq!(g.row(79), "not connected to 127.0.0.1:23456: connection refused for 9 s (and 1 more)");
        let quiet = vec![cause("nothing passes the filters", 15)];
        let filtered = Glance { causes: quiet, filtered: 420.0, delivered: 0.0, ..glance() };
        assert_eq!(filtered.row(79), "nothing passes the filters for 15 s; in 412/s, filtered 420/s, out 0/s");
        for width in 0..300 {
            assert!(columns(&g.row(width)) <= width, "{width}: {}", g.row(width));
        }
    }
}

//! The reader of a relay (or a PDS): `com.atproto.sync.subscribeRepos`.
//!
//! It reads messages, looks only at their kind and seq, and hands them over. It owns reconnecting, pings, the cursor
//! that it asks for, and the detection of gaps. Nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::diagnosis::{Found, Meant};
use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::link::{self, Ended, LATE, LOOK_UP, Link};
use super::pace::{NEAR, PATIENCE, Pace};
use super::past::{Past, Way};
use super::resume::{Gap, JUMP, Resume, SEQ_GAP, Verdict};
use super::socket::{Event, Socket};
use super::{Host, Start};
use crate::atproto::frame::{self, ErrorBody, Kind};
use crate::checkpoint::Position;
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::log::plain::plain;
use crate::metrics::Metrics;

/// How long the first frame of a live start waits for a second one that agrees with its seq.
const AGREE: Duration = Duration::from_secs(1);
/// Between two reports of jumps inside a connection: PDSes leave out many seqs.
const SAY_SEQ_GAP: Duration = Duration::from_secs(60);
const PATH: &str = "/xrpc/com.atproto.sync.subscribeRepos";
/// Bytes of one message at most: relays send frames up to 5 MB (indigo), and a little more for the envelope.
pub(super) const MAX_MESSAGE: usize = 5_500_000;
/// Between connections that look for the way past a message that breaks them.
const PAST: Duration = Duration::from_millis(200);
/// So many connections in a row that break in the same place are more than a bad line.
const BROKEN: u32 = 4;
/// Bytes of an error frame's name and of its message that are passed on.
const WORD: usize = 64;
const WORDS: usize = 500;
/// While that way is looked for: a connection that was silent for so long did not break.
const UNBROKEN: Duration = Duration::from_secs(5);

pub struct Relay<I> {
    host: Host,
    start: Start,
    intake: I,
    link: Link,
    resume: Resume,
    frames: Frames,
    /// Where upstream stands behind `frames`: what to save, and the last seq in them.
    position: Option<(u64, u64)>,
    /// The first frame of a live start, which waits in `frames` for a second one: its seq, and since when.
    alone: Option<(u64, Instant)>,
    /// When a jump inside a connection was last reported, and how many were only counted since.
    said_seq_gap: Option<Instant>,
    unsaid_seq_gaps: u64,
    /// Whether the host is busy, or has fallen silent.
    pace: Pace,
    /// Its silence was told.
    told_silent: bool,
    /// New frames of this connection.
    fresh: u64,
    /// Connections in a row that broke before they brought anything.
    broken: u32,
    /// The way past a message that breaks each of them.
    past: Option<Past>,
    /// When [`Relay::in_between`] last did something.
    looked: Instant,
}

impl<I: Intake> Relay<I> {
    /// `saved` is the cursor of an earlier run; it goes before `start`.
    pub fn new(
        host: Host,
        index: usize,
        start: Start,
        saved: Option<u64>,
        intake: I,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        let start = saved.map_or(start, Start::At);
        let resume = Resume::new(match start {
            Start::Live => None,
            Start::At(seq) => Some(seq),
        });
        let link = Link::new(&host.name, index, metrics, health);
        if let Some(seq) = saved {
            // Until the first new event that is where we are.
            link.gauges.last_seq_received.set(seq as i64);
            link.gauges.last_seq_delivered.set(seq as i64);
        }
        Relay {
            host,
            start,
            intake,
            link,
            resume,
            frames: Frames::default(),
            position: None,
            alone: None,
            said_seq_gap: None,
            unsaid_seq_gaps: 0,
            pace: Pace::new(Some(PATIENCE)),
            told_silent: false,
            fresh: 0,
            broken: 0,
            past: None,
            looked: Instant::now(),
        }
    }

    /// How long a busy host may be silent before a new connection; `None`: for ever.
    pub fn silence(mut self, patience: Option<Duration>) -> Self {
        self.pace = Pace::new(patience);
        self
    }

    /// Reads until the end is asked for. Whatever happens to the connection, it comes back.
    pub fn run(mut self) {
        link::keep(&mut self);
    }

    /// What came is no websocket. Once that is a bad line; when it comes again in the same place the host keeps it.
    fn broken(&mut self, asked: Option<u64>, reason: String) -> Ended {
        if let Some(past) = self.past.as_mut().filter(|past| !past.is_found()) {
            if past.broke() {
                return Ended::Again(PAST);
            }
            // Nothing in one place: the host is ill as a whole. From the cursor again, and slowly.
            self.forget_past();
            return Ended::Lost(reason);
        }
        self.broken += 1;
        if self.broken < BROKEN || asked.is_none() {
            return Ended::Lost(reason);
        }
        log::warn!(
            event = "stepping_past", host = self.host.name, reason = reason;
            "{}: {reason}; {BROKEN} times in the same place: looking for the lowest cursor behind it", self.host.name
        );
        self.broken = 0;
        // Behind one that is passed there may be another one.
        let from = self.past.take().map_or(0, |past| {
            self.link.metrics.dead_letter(Reason::BadFrame).inc();
            past.ask()
        });
        self.past = Some(Past::new(from));
        Ended::Again(PAST)
    }

    /// Whether an event with this seq shows that the connection got past the place where others broke. Two do not, since
    /// each connection may begin with them: the cursor's own event, where cursors are inclusive, and the one behind a jump
    /// that is not confirmed. A lower one is of a host that counts anew.
    fn is_past(&self, seq: Option<u64>) -> bool {
        seq.is_some_and(|seq| seq != self.resume.cursor() && seq != self.resume.last())
    }

    /// This connection does not break where others did.
    fn unbroken(&mut self) -> Result<(), Ended> {
        self.broken = 0;
        let Some(past) = &mut self.past else { return Ok(()) };
        match past.passed() {
            Way::Behind => Ok(()),
            Way::Again => Err(Ended::Again(PAST)),
            Way::Well => {
                self.past = None;
                Ok(())
            }
        }
    }

    fn forget_past(&mut self) {
        (self.past, self.broken) = (None, 0);
    }

    /// A message that was not read whole: a dead letter, and a gap where it may have been an event.
    fn too_long(&mut self, size: u64, start: &[u8]) -> Result<(), Ended> {
        let (event, seq) = match frame::header(start) {
            Ok((Kind::Commit | Kind::Sync | Kind::Identity | Kind::Account, body)) => {
                (true, frame::seq(&start[body..]))
            }
            _ => (false, None),
        };
        if event {
            self.heard();
        }
        if self.is_past(seq) {
            self.unbroken()?;
        }
        self.release(seq)?;
        let mut position = None;
        if let Some(seq) = seq {
            let begins = self.begins();
            if begins {
                self.intake.begin(Position::of_seqs((seq - 1, seq - 1)))?;
            }
            if !self.is_new(seq)? {
                return Ok(());
            }
            if begins {
                // It cannot wait for a second one, and without its seq the next connection would be live again.
                self.resume.settle();
            }
            self.fresh += 1;
            position = Some((self.resume.cursor(), seq));
        }
        self.link.metrics.received_frames.inc();
        self.link.metrics.dead_letter(Reason::OverLimit).inc();
        if !event {
            log::warn!(
                event = "over_limit", host = self.host.name, bytes = size;
                "{}: a message of {size} bytes or more, over the limit of {MAX_MESSAGE}, which is no event: passed over",
                self.host.name
            );
            return Ok(());
        }
        let which = seq.map(|seq| format!(", seq {seq},")).unwrap_or_default();
        let message =
            format!("an event of {size} bytes or more{which} is over the limit of {MAX_MESSAGE}: it was not read");
        Ok(self.gap(Gap { kind: "over_limit", message }, position)?)
    }

    fn connect_and_read(&mut self) -> Ended {
        self.fresh = 0;
        let past = self.past.as_ref().map_or(0, Past::ask);
        let asked = match (self.resume.cursor(), self.start) {
            (0, Start::Live) => None,
            (cursor, _) => Some(cursor + past),
        };
        let query = asked.map(|seq| format!("?cursor={seq}")).unwrap_or_default();
        let path = format!("{PATH}{query}");
        let stopped = || self.intake.stopped();
        let mut socket = match Socket::connect(&self.host, Meant::Relay, &path, MAX_MESSAGE, &stopped) {
            Ok(socket) => socket,
            Err(_) if stopped() => return Ended::Stopped,
            Err(refused) => return Ended::Refused(refused),
        };
        let host = &self.host.name;
        match asked {
            Some(0) => log::info!(event = "connected", host = host; "{host}: connected, from the oldest event kept"),
            Some(seq) => {
                log::info!(event = "connected", host = host, seq = seq; "{host}: connected, going on behind seq {seq}");
            }
            None => log::info!(event = "connected", host = host; "{host}: connected, live"),
        }
        let began = Instant::now();
        self.link.connected();
        self.pace.connected(began);
        self.resume.connected(asked.map(|seq| seq - past));
        let ended = self.read(&mut socket, asked, began);
        // What was read whole is handed over, whatever became of the connection.
        let ended = self.hand_over().map_or(Ended::Stopped, |()| ended);
        socket.close();
        ended
    }

    fn read(&mut self, socket: &mut Socket, asked: Option<u64>, began: Instant) -> Ended {
        loop {
            let before = self.frames.list.len();
            let step = match socket.read() {
                Event::Binary(bytes) => self.binary(&bytes),
                Event::Text(text) => self.text(&text),
                Event::Control => Ok(()),
                Event::Nothing => self.nothing(socket, began),
                Event::Closed(reason) => Err(Ended::Lost(reason)),
                Event::Broken(reason) => Err(self.broken(asked, reason)),
                Event::TooLong(size, start) => self.too_long(size, &start),
            };
            // Whatever was not added to a hand-over: messages that are, fill it sooner or later, and cost no clock.
            let added = self.frames.list.len() > before;
            let step = step.and_then(|()| if added { Ok(()) } else { self.in_between(socket) });
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// A relay sends none. What sends one first may be known by it.
    fn text(&mut self, text: &str) -> Result<(), Ended> {
        self.keep(text.as_bytes(), Seen::Text, None)?;
        match Found::by_text(text).filter(|_| self.fresh == 0) {
            Some(found) => Err(Ended::Lost(format!("its messages are JSON: {}", found.in_place_of(Meant::Relay)))),
            None => Ok(()),
        }
    }

    /// More may be there to be read, without end: hands over what waited long enough, and runs the timers. Of silence it
    /// says nothing: after a hand-over that took long, events may be there.
    fn in_between(&mut self, socket: &mut Socket) -> Result<(), Ended> {
        let now = Instant::now();
        if now - self.looked < LATE {
            return Ok(());
        }
        self.looked = now;
        self.nothing_more()?;
        if self.intake.stopped() {
            return Err(Ended::Stopped);
        }
        socket.tick().map_err(Ended::Lost)
    }

    /// Nothing is there to be read now: hands over, runs the timers, and waits.
    fn nothing(&mut self, socket: &mut Socket, began: Instant) -> Result<(), Ended> {
        // A hand-over may take long, and then something is there.
        let idle = self.frames.list.is_empty();
        self.nothing_more()?;
        if self.intake.stopped() {
            return Err(Ended::Stopped);
        }
        if self.past.as_ref().is_some_and(|past| !past.is_found()) && began.elapsed() > UNBROKEN {
            self.unbroken()?;
        }
        if idle {
            self.silent(Instant::now())?;
        }
        let longest = self.alone.map_or(LOOK_UP, |(_, since)| AGREE.saturating_sub(since.elapsed()));
        socket.wait(longest.min(LOOK_UP), None);
        socket.tick().map_err(Ended::Lost)
    }

    /// Tells the silence of a busy host, and leaves the connection when it is too long.
    fn silent(&mut self, now: Instant) -> Result<(), Ended> {
        let Some(silent) = self.pace.silent(now) else { return Ok(()) };
        self.told_silent = true;
        // The lag grows with it.
        self.link.health.silent(self.link.index, now.checked_sub(silent));
        if let Some(here) = self.pace.leave(now) {
            self.link.metrics.silent_connection(&self.link.name);
            return Err(Ended::Lost(format!(
                "no event for {} s, and over one a second before; the connection is left (--silence)",
                here.as_secs()
            )));
        }
        Ok(())
    }

    /// An event came, whether new or not.
    fn heard(&mut self) {
        let near = || self.link.health.delivered_lag(self.link.index).is_none_or(|lag| lag < NEAR);
        self.pace.event(Instant::now(), near);
        if std::mem::take(&mut self.told_silent) {
            self.link.health.silent(self.link.index, None);
        }
    }

    fn binary(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let (kind, body) = match frame::header(bytes) {
            Ok(header) => header,
            Err(detail) => return Ok(self.keep(bytes, Seen::Bad(detail), None)?),
        };
        match kind {
            Kind::Error => return self.error_frame(&bytes[body..]),
            Kind::Unknown => {
                self.link.metrics.unknown_frame();
                return Ok(());
            }
            Kind::Info => {
                if let Ok(info) = frame::body::<frame::Info<'_>>(&bytes[body..]) {
                    let message = info.message.unwrap_or_default();
                    log::warn!(
                        event = "info_frame", host = self.host.name, reason = info.name, error = message;
                        "{}: #info {}: {message}", self.host.name, info.name
                    );
                    if info.name == "OutdatedCursor" {
                        self.link.metrics.gap("outdated_cursor");
                        self.resume.told_outdated();
                    }
                }
                return Ok(self.keep(bytes, Seen::Frame { kind, body, seq: 0 }, None)?);
            }
            Kind::Commit | Kind::Sync | Kind::Identity | Kind::Account => {}
        }
        self.heard();
        let seq = frame::seq(&bytes[body..]);
        if self.is_past(seq) {
            self.unbroken()?;
        }
        let Some(seq) = seq else {
            return Ok(self.keep(bytes, Seen::BadSeq, None)?);
        };
        if self.past.is_some() {
            // Said below, and with a better reason than an old cursor.
            self.resume.told_outdated();
        }
        let begins = self.begins();
        self.release(Some(seq))?;
        if !self.is_new(seq)? {
            return Ok(());
        }
        if self.past.take().is_some() {
            self.link.metrics.dead_letter(Reason::BadFrame).inc();
            let message = format!(
                "a message that breaks each connection was passed over: events before seq {seq} may be missing"
            );
            self.gap(Gap { kind: "over_limit", message }, None)?;
        }
        self.fresh += 1;
        if begins {
            // It waits alone: what came before it does not.
            self.hand_over()?;
            self.alone = Some((seq, Instant::now()));
        }
        Ok(self.keep(bytes, Seen::Frame { kind, body, seq }, Some((self.resume.cursor(), seq)))?)
    }

    /// Whether the next event is the first of a live start.
    fn begins(&self) -> bool {
        self.resume.last() == 0 && self.start == Start::Live
    }

    /// Whether the event with this seq is new. A repeat is counted, and a gap is reported.
    fn is_new(&mut self, seq: u64) -> Result<bool, Stopped> {
        match self.resume.judge(seq) {
            Verdict::Repeat => {
                self.link.metrics.repeated_frame();
                return Ok(false);
            }
            Verdict::New => {}
            Verdict::Gap(gap) => self.gap(gap, None)?,
        }
        Ok(true)
    }

    /// Nothing more is waited for: what was read goes on, but for a first frame that waits for a second one.
    fn nothing_more(&mut self) -> Result<(), Stopped> {
        match self.alone {
            Some((_, since)) if since.elapsed() < AGREE && !self.intake.stopped() => Ok(()),
            _ => self.hand_over(),
        }
    }

    /// Ends the wait of a live start's first frame. From now on nothing may be lost: without a position, a kill before
    /// the first save would start live again. Where the two frames do not agree, one of them is wrong, and the lower seq
    /// counts.
    fn release(&mut self, second: Option<u64>) -> Result<(), Stopped> {
        let Some((first, _)) = self.alone.take() else { return Ok(()) };
        self.resume.settle();
        let lowest = second.map_or(first, |second| second.min(first)) - 1;
        let agreed = second.is_none_or(|second| second >= first && second - first <= JUMP);
        self.position = Some((if agreed { first } else { lowest }, first));
        self.intake.begin(Position::of_seqs((lowest, lowest)))
    }

    /// Says a gap in the metric, the log, and an `info` event, with which `position` is reached.
    fn gap(&mut self, mut gap: Gap, reached: Option<(u64, u64)>) -> Result<(), Stopped> {
        self.link.metrics.gap(gap.kind);
        if gap.kind == SEQ_GAP {
            if self.said_seq_gap.is_some_and(|said| said.elapsed() < SAY_SEQ_GAP) {
                self.unsaid_seq_gaps += 1;
                return Ok(());
            }
            self.said_seq_gap = Some(Instant::now());
            match std::mem::take(&mut self.unsaid_seq_gaps) {
                0 => {}
                n => gap.message.push_str(&format!(" (and {n} more of this kind before, only counted)")),
            }
        }
        log::warn!(
            event = "gap", host = self.host.name, reason = gap.kind;
            "{}: {}: {}", self.host.name, gap.kind, gap.message
        );
        self.hand_over()?;
        let notice = Work::Notice { name: gap.kind, message: format!("{}: {}", self.host.name, gap.message) };
        self.intake.put(notice, reached.map(Position::of_seqs))
    }

    fn error_frame(&mut self, body: &[u8]) -> Result<(), Ended> {
        self.link.metrics.received_frames.inc();
        let (name, message) = match frame::body::<ErrorBody<'_>>(body) {
            Ok(error) => (plain(error.error, WORD), plain(error.message.unwrap_or_default(), WORDS)),
            Err(e) => ("unreadable".into(), e),
        };
        self.link.metrics.error_frame(&name);
        match name.as_str() {
            // Our own step, not a host that counts anew.
            "FutureCursor" if self.past.as_ref().is_some_and(|past| past.ask() > 0) => {
                self.unbroken()?;
                self.forget_past();
                Err(Ended::Lost("FutureCursor behind a message that cannot be read".into()))
            }
            "FutureCursor" => {
                let message = format!(
                    "the cursor {} is in the host's future ({message}): reading from the oldest event that it keeps",
                    self.resume.cursor()
                );
                self.gap(Gap { kind: "host_reset", message }, None)?;
                self.resume.reset();
                self.start = Start::At(0);
                Err(Ended::Lost("FutureCursor".into()))
            }
            "ConsumerTooSlow" => {
                let message = format!("the host says so ({message}); going on behind seq {}", self.resume.cursor());
                Ok(self.gap(Gap { kind: "consumer_too_slow", message }, None)?)
            }
            // The host closes next, if it means it.
            _ => {
                log::warn!(
                    event = "error_frame", host = self.host.name, reason = name, error = message;
                    "{}: error frame {name}: {message}", self.host.name
                );
                Ok(())
            }
        }
    }

    /// Adds a message to the next hand-over. `position` is what it is then, where it has a seq.
    fn keep(&mut self, bytes: &[u8], seen: Seen, position: Option<(u64, u64)>) -> Result<(), Stopped> {
        if !self.frames.has_room(bytes.len()) {
            self.hand_over()?;
        }
        self.frames.push(bytes, seen);
        self.position = position.or(self.position);
        if self.frames.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        self.release(None)?;
        let Some(frames) = self.frames.take() else { return Ok(()) };
        self.link.received(&frames);
        let reached = self.position.take();
        if let Some((_, seq)) = reached {
            self.link.gauges.last_seq_received.set(seq as i64);
        }
        self.intake.put(Work::Frames(frames), reached.map(Position::of_seqs))
    }
}

impl<I: Intake> link::Session for Relay<I> {
    fn link(&self) -> &Link {
        &self.link
    }

    fn stopped(&self) -> bool {
        self.intake.stopped()
    }

    fn connection(&mut self) -> Ended {
        self.connect_and_read()
    }

    fn fresh(&self) -> u64 {
        self.fresh
    }
}

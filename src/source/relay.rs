//! The reader of a relay (or a PDS): `com.atproto.sync.subscribeRepos`.
//!
//! It reads messages, looks only at their kind and seq, and hands them over. It owns reconnecting, pings, the cursor
//! that it asks for, and the detection of gaps. Nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::job::{FrameAt, Frames, Intake, Seen, Stopped, Work};
use super::resume::{Gap, Resume, Verdict};
use super::socket::{Event, Socket};
use super::{Host, Start};
use crate::atproto::frame::{self, ErrorBody, Kind};
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::metrics::{Metrics, SourceMetrics};

/// A hand-over is due at so many frames or bytes, or when the socket has nothing more.
const FRAMES: usize = 64;
const BYTES: usize = 128 << 10;
/// How often a reader that waits looks whether it should stop.
const LOOK_UP: Duration = Duration::from_millis(500);
/// Behind a message over the limit: between attempts to get past it.
const PAST: Duration = Duration::from_millis(200);
/// So many attempts step by one seq, the next ones by twice as many each.
const SINGLE_STEPS: u64 = 32;

pub struct Relay<I> {
    host: Host,
    index: usize,
    start: Start,
    intake: I,
    metrics: Arc<Metrics>,
    gauges: SourceMetrics,
    health: Arc<Health>,
    resume: Resume,
    frames: Frames,
    /// The last seq in `frames`.
    seq: Option<u64>,
    /// Bytes of the last hand-over: the next one will need as much.
    usual: usize,
    /// New frames of this connection.
    fresh: u64,
    /// How many seqs to ask beyond the cursor, to get past a message over the limit.
    past: u64,
    past_attempts: u64,
}

/// Why a connection ended.
enum Ended {
    Stopped,
    Lost(String),
    /// At a message over the limit.
    TooLong,
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Self {
        Ended::Stopped
    }
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
        let gauges = metrics.source(&host.name);
        if let Some(seq) = saved {
            // Until the first new event that is where we are.
            gauges.last_seq_received.set(seq as i64);
            gauges.last_seq_delivered.set(seq as i64);
        }
        let start = saved.map_or(start, Start::At);
        let resume = Resume::new(match start {
            Start::Live => None,
            Start::At(seq) => Some(seq),
        });
        Relay {
            host,
            index,
            start,
            intake,
            metrics,
            gauges,
            health,
            resume,
            frames: Frames::default(),
            seq: None,
            usual: 0,
            fresh: 0,
            past: 0,
            past_attempts: 0,
        }
    }

    /// Reads until the end is asked for. Whatever happens to the connection, it comes back.
    pub fn run(mut self) {
        let mut backoff = Backoff::default();
        while !self.intake.stopped() {
            let began = Instant::now();
            self.fresh = 0;
            let (reason, asked) = match self.connection() {
                Err(Ended::Stopped) => break,
                Err(Ended::TooLong) => {
                    self.step_past();
                    if self.pause(PAST).is_err() {
                        break;
                    }
                    (None, None)
                }
                Err(Ended::Lost(reason)) => (Some(reason), None),
                Ok(refused) => (Some(refused.message), refused.retry_after),
            };
            self.gauges.connected.set(0);
            self.metrics.reconnect(&self.host.name);
            backoff.ended(began.elapsed(), self.fresh);
            let Some(reason) = reason else { continue };
            self.health.source(self.index, Err(reason.clone()));
            let wait = backoff.next(asked);
            log::warn!("{}: {reason}; connecting again in {:.1} s", self.host.name, wait.as_secs_f64());
            if self.pause(wait).is_err() {
                break;
            }
        }
        self.gauges.connected.set(0);
    }

    fn pause(&self, wait: Duration) -> Result<(), Stopped> {
        let until = Instant::now() + wait;
        loop {
            if self.intake.stopped() {
                return Err(Stopped);
            }
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(LOOK_UP)),
                _ => return Ok(()),
            }
        }
    }

    fn step_past(&mut self) {
        self.metrics.dead_letter(Reason::OverLimit).inc();
        self.past_attempts += 1;
        self.past += if self.past_attempts <= SINGLE_STEPS { 1 } else { self.past };
        log::warn!(
            "{}: a message over {} bytes; trying to go on {} seqs behind the cursor",
            self.host.name,
            super::socket::MAX_MESSAGE,
            self.past
        );
    }

    /// One connection, to its end. `Ok` when there was none.
    fn connection(&mut self) -> Result<super::socket::ConnectError, Ended> {
        let asked = match (self.resume.cursor(), self.start) {
            (0, Start::Live) => None,
            (cursor, _) => Some(cursor + self.past),
        };
        let query = asked.map(|seq| format!("?cursor={seq}")).unwrap_or_default();
        let mut socket = match Socket::connect(&self.host, &format!("/xrpc/com.atproto.sync.subscribeRepos{query}")) {
            Ok(socket) => socket,
            Err(refused) => return Ok(refused),
        };
        match asked {
            Some(0) => log::info!("{}: connected, from the oldest event kept", self.host.name),
            Some(seq) => log::info!("{}: connected, going on behind seq {seq}", self.host.name),
            None => log::info!("{}: connected, live", self.host.name),
        }
        self.gauges.connected.set(1);
        self.health.source(self.index, Ok(()));
        self.resume.connected(asked);
        let ended = self.read(&mut socket);
        // What was read whole is handed over, whatever became of the connection.
        let ended = self.hand_over().map_or(Ended::Stopped, |()| ended);
        socket.close();
        Err(ended)
    }

    fn read(&mut self, socket: &mut Socket) -> Ended {
        loop {
            let step = match socket.read() {
                Event::Binary(bytes) => self.binary(&bytes),
                Event::Text(text) => self.keep(text.as_bytes(), Seen::Text, None).map_err(Ended::from),
                Event::Control => Ok(()),
                Event::Nothing => match self.hand_over() {
                    Ok(()) if self.intake.stopped() => Err(Ended::Stopped),
                    Ok(()) => {
                        socket.wait(LOOK_UP);
                        socket.tick().map_err(Ended::Lost)
                    }
                    Err(Stopped) => Err(Ended::Stopped),
                },
                Event::Closed(reason) => Err(Ended::Lost(reason)),
                Event::TooLong(_) => Err(Ended::TooLong),
            };
            // Timers also run while frames never stop.
            let step = step
                .and_then(|()| if self.frames.list.is_empty() { socket.tick().map_err(Ended::Lost) } else { Ok(()) });
            if let Err(ended) = step {
                return ended;
            }
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
                self.metrics.received_frames.inc();
                self.metrics.unknown_frames.inc();
                return Ok(());
            }
            Kind::Info => {
                if let Ok(info) = frame::body::<frame::Info<'_>>(&bytes[body..]) {
                    let message = info.message.unwrap_or_default();
                    log::warn!("{}: #info {}: {message}", self.host.name, info.name);
                    if info.name == "OutdatedCursor" {
                        self.metrics.gap("outdated_cursor");
                        self.resume.told_outdated();
                    }
                }
                return Ok(self.keep(bytes, Seen::Frame { kind, body, seq: 0 }, None)?);
            }
            Kind::Commit | Kind::Sync | Kind::Identity | Kind::Account => {}
        }
        let Some(seq) = frame::seq(&bytes[body..]) else {
            return Ok(self.keep(bytes, Seen::BadSeq, None)?);
        };
        if self.resume.last() == 0 && self.start == Start::Live {
            // From now on nothing may be lost: where we began is saved before the first event is delivered.
            self.intake.put(Work::Start, Some(seq - 1))?;
        }
        match self.resume.judge(seq) {
            Verdict::Repeat => {
                self.metrics.received_frames.inc();
                self.metrics.repeats.inc();
                return Ok(());
            }
            Verdict::New => {}
            Verdict::Gap(gap) => self.gap(gap)?,
        }
        if self.past > 0 {
            let message = format!(
                "a message over {} bytes could not be read: events before seq {seq} are missing",
                super::socket::MAX_MESSAGE
            );
            self.gap(Gap { kind: "over_limit", message })?;
            (self.past, self.past_attempts) = (0, 0);
        }
        self.fresh += 1;
        Ok(self.keep(bytes, Seen::Frame { kind, body, seq }, Some(seq))?)
    }

    /// Says a gap in the log, the metric, and an `info` event.
    fn gap(&mut self, gap: Gap) -> Result<(), Stopped> {
        log::warn!("{}: {}: {}", self.host.name, gap.kind, gap.message);
        self.metrics.gap(gap.kind);
        self.hand_over()?;
        self.intake.put(Work::Notice { name: gap.kind, message: format!("{}: {}", self.host.name, gap.message) }, None)
    }

    fn error_frame(&mut self, body: &[u8]) -> Result<(), Ended> {
        self.metrics.received_frames.inc();
        let (name, message) = match frame::body::<ErrorBody<'_>>(body) {
            Ok(error) => (error.error.to_string(), error.message.unwrap_or_default().to_string()),
            Err(e) => ("unreadable".into(), e),
        };
        self.metrics.error_frame(&name);
        match name.as_str() {
            "FutureCursor" => {
                let message = format!(
                    "the cursor {} is in the host's future ({message}): reading from the oldest event that it keeps",
                    self.resume.cursor()
                );
                self.gap(Gap { kind: "host_reset", message })?;
                self.resume.reset();
                self.start = Start::At(0);
                Err(Ended::Lost("FutureCursor".into()))
            }
            "ConsumerTooSlow" => {
                self.gap(Gap {
                    kind: "consumer_too_slow",
                    message: format!("the host says so ({message}); going on behind seq {}", self.resume.cursor()),
                })?;
                Ok(())
            }
            // The host closes next, if it means it.
            _ => {
                log::warn!("{}: error frame {name}: {message}", self.host.name);
                Ok(())
            }
        }
    }

    /// Adds a message to the next hand-over.
    fn keep(&mut self, bytes: &[u8], seen: Seen, seq: Option<u64>) -> Result<(), Stopped> {
        if !self.frames.list.is_empty() && self.frames.bytes.len() + bytes.len() > BYTES {
            self.hand_over()?;
        }
        let start = self.frames.bytes.len();
        if start == 0 {
            self.frames.bytes.reserve(bytes.len().max(self.usual));
        }
        self.frames.bytes.extend_from_slice(bytes);
        self.frames.list.push(FrameAt { range: start..self.frames.bytes.len(), seen });
        self.seq = seq.or(self.seq);
        if self.frames.list.len() >= FRAMES { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        if self.frames.list.is_empty() {
            return Ok(());
        }
        let frames = std::mem::take(&mut self.frames);
        self.metrics.received_frames.inc_by(frames.list.len() as u64);
        self.metrics.received_bytes.inc_by(frames.bytes.len() as u64);
        self.usual = frames.bytes.len();
        let seq = self.seq.take();
        if let Some(seq) = seq {
            self.gauges.last_seq_received.set(seq as i64);
        }
        self.intake.put(Work::Frames(frames), seq)
    }
}

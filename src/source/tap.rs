//! The reader of a Tap (indigo `cmd/tap`): its `/channel`, a websocket of JSON texts.
//!
//! It reads messages and hands them over, and sends the acknowledgements that the producer allows, at once: a live event
//! holds its account in Tap until its acknowledgement is there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Host;
use super::diagnosis::{self, Answer, Found, Meant};
use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::link::{self, Ended, LATE, LOOK_UP, Link};
use super::ozone_answer::{HIDDEN, repeats};
use super::socket::{Event, Socket};
use crate::checkpoint::acks::AckQueue;
use crate::checkpoint::{Position, TapPosition};
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::metrics::Metrics;

/// Bytes of one message at most: a record has 1 MB at most, and Go escapes some characters to six bytes.
const MAX_MESSAGE: usize = 16 << 20;

pub struct Tap<I> {
    host: Host,
    intake: I,
    link: Link,
    /// `None`: Tap runs without acknowledgements.
    acks: Option<Arc<AckQueue>>,
    frames: Frames,
    fresh: u64,
    /// Counts the connections: acknowledgements belong to one.
    connection: u64,
    /// When [`Tap::in_between`] last did something.
    looked: Instant,
}

impl<I: Intake> Tap<I> {
    pub fn new(
        host: Host,
        name: &str,
        index: usize,
        acks: Option<Arc<AckQueue>>,
        intake: I,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        let link = Link::new(name, index, metrics, health);
        Tap { host, intake, link, acks, frames: Frames::default(), fresh: 0, connection: 0, looked: Instant::now() }
    }

    /// Reads until the end is asked for, and a moment longer: what is in flight is still acknowledged.
    pub fn run(mut self) {
        link::keep(&mut self);
    }

    fn connect_and_read(&mut self) -> Ended {
        self.fresh = 0;
        self.connection += 1;
        if let Some(acks) = &self.acks {
            let dropped = acks.connected(self.connection);
            self.link.metrics.tap_acks.sub(dropped as i64);
        }
        let mut socket =
            match Socket::connect(&self.host, Meant::Tap, "/channel", MAX_MESSAGE, &|| self.intake.stopped()) {
                Ok(socket) => socket,
                Err(_) if self.intake.stopped() => return Ended::Stopped,
                Err(refused) => return Ended::Refused(refused),
            };
        log::info!(event = "connected", host = self.link.name; "{}: connected", self.link.name);
        self.link.connected();
        let ended = self.read(&mut socket);
        // What was read belongs to this connection: its ids must not be acknowledged on the next one.
        let ended = self.hand_over().map_or_else(|stopped| stopped, |()| ended);
        if let Ended::Stopped = ended {
            self.last_acks(&mut socket);
            socket.leave(GOODBYE);
        } else {
            socket.close();
        }
        ended
    }

    fn read(&mut self, socket: &mut Socket) -> Ended {
        loop {
            let before = self.frames.list.len();
            let step = match socket.read() {
                Event::Text(text) => self.keep(text.as_bytes(), Seen::Json, || Found::by_text(&text)),
                Event::Binary(bytes) => self.keep(&bytes, Seen::Binary, || Found::by_binary(&bytes)),
                Event::Control => Ok(()),
                Event::Nothing => match self.hand_over().and_then(|()| self.send_acks(socket)) {
                    Ok(()) if self.intake.stopped() => Err(Ended::Stopped),
                    Ok(()) => {
                        socket.wait(LOOK_UP, self.acks.as_deref().map(|a| a as &dyn AsFd));
                        self.send_acks(socket)
                    }
                    Err(ended) => Err(ended),
                },
                Event::Closed(reason) | Event::Broken(reason) => Err(Ended::Lost(reason)),
                Event::TooLong(size, _) => {
                    // It comes again until it is acknowledged, which cannot be: its id was not read.
                    self.link.metrics.dead_letter(Reason::OverLimit).inc();
                    Err(Ended::Lost(format!("a message of {size} bytes, over the limit of {MAX_MESSAGE}")))
                }
            };
            let added = self.frames.list.len() > before;
            let step = step.and_then(|()| if added { Ok(()) } else { self.in_between(socket) });
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// More may be there to be read, without end: hands over what waited long enough, acknowledges, and runs the timers.
    fn in_between(&mut self, socket: &mut Socket) -> Result<(), Ended> {
        let now = Instant::now();
        if now - self.looked >= LATE {
            self.looked = now;
            self.hand_over()?;
            if self.intake.stopped() {
                return Err(Ended::Stopped);
            }
        } else if !self.frames.list.is_empty() {
            return Ok(());
        }
        self.send_acks(socket)?;
        socket.tick().map_err(Ended::Lost)
    }

    /// `found`: what sends such a message, if it is the first one.
    fn keep(&mut self, bytes: &[u8], seen: Seen, found: impl Fn() -> Option<Found>) -> Result<(), Ended> {
        if !self.frames.has_room(bytes.len()) {
            self.hand_over()?;
        }
        self.fresh += 1;
        self.frames.push(bytes, seen);
        if self.fresh == 1
            && let Some(other) = found().filter(|found| *found != Found::Tap)
        {
            return Err(Ended::Lost(format!("its messages are not a Tap's: {}", other.in_place_of(Meant::Tap))));
        }
        if self.frames.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Ended> {
        let Some(frames) = self.frames.take() else { return Ok(()) };
        self.link.received(&frames);
        let messages = frames.list.len();
        self.link.metrics.tap_events.add(messages as i64);
        let position =
            TapPosition { connection: self.connection, ids: Vec::with_capacity(messages), messages, time_ms: 0 };
        self.intake.put(Work::Tap(frames), Some(Position::Tap(position))).map_err(|Stopped| Ended::Stopped)
    }

    fn send_acks(&self, socket: &mut Socket) -> Result<(), Ended> {
        let Some(acks) = &self.acks else { return Ok(()) };
        let ids = acks.take();
        for id in &ids {
            socket.queue(format!("{{\"type\":\"ack\",\"id\":{id}}}")).map_err(Ended::Lost)?;
        }
        self.link.metrics.acks_sent.inc_by(ids.len() as u64);
        self.link.metrics.tap_acks.sub(ids.len() as i64);
        socket.flush().map_err(Ended::Lost)
    }

    /// After the end was asked for: acknowledges what the broker still takes, so that Tap does not send it again.
    fn last_acks(&self, socket: &mut Socket) {
        let Some(acks) = &self.acks else { return };
        while !self.intake.drained() {
            socket.wait(LOOK_UP / 10, Some(acks.as_ref()));
            if self.send_acks(socket).is_err() {
                return;
            }
        }
        let _ = self.send_acks(socket);
    }
}

impl<I: Intake> link::Session for Tap<I> {
    fn link(&self) -> &Link {
        &self.link
    }

    fn stopped(&self) -> bool {
        self.intake.stopped()
    }

    fn connection(&mut self) -> Ended {
        match self.connect_and_read() {
            // A close frame may say anything.
            Ended::Lost(reason) if repeats(&reason, &self.host.secrets()) => {
                Ended::Lost(format!("closed by the host {HIDDEN}"))
            }
            ended => ended,
        }
    }

    fn fresh(&self) -> u64 {
        self.fresh
    }
}

/// Asks Tap how it is, once at the start: says early what a connection would only show later.
pub fn check(host: &Host) -> Result<(), String> {
    let url = host.url(&format!("{}/health", host.prefix));
    let mut request = host.client.agent(&url, HEALTH, 1).get(&url);
    if let Some(authorization) = &host.authorization {
        request = request.header("authorization", authorization);
    }
    match request.call() {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => {
            let status = answer.status().as_u16();
            Err(format!("{url}: {}", diagnosis::refused(&Answer { status, ..Answer::default() }, host, Meant::Tap)))
        }
        Err(e) => Err(format!("{url}: {}", diagnosis::http_failed(&e, host.tls, Meant::Tap))),
    }
}

/// Until Tap has read the last acknowledgements, at a stop.
const GOODBYE: Duration = Duration::from_secs(1);
/// The check of `/health`, to its end.
const HEALTH: Duration = Duration::from_secs(5);

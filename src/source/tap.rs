//! The reader of a Tap (indigo `cmd/tap`): its `/channel`, a websocket of JSON texts. It knows of a message only its id and
//! kind. On a reader thread, which owns the socket.
//!
//! It reads messages and hands them over, and sends the acknowledgements that the producer allows, at once: a live event
//! holds its account in Tap until its acknowledgement is there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::Host;
use super::diagnosis::{self, Answer, Found, Meant};
use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::link::LOOK_UP;
use super::socket::{Event, Request, Socket};
use super::websocket::{self, Channel, Ended, Endpoint};
use crate::atproto::tap::acknowledgement;
use crate::checkpoint::Position;
use crate::checkpoint::acks::AckQueue;
use crate::dead_letter::Reason;
use crate::health::Health;
use crate::metrics::source::SourceMetrics;

/// Bytes of one message at most: a record has 1 MB at most, and Go escapes some characters to six bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// The reader of one connection to a Tap.
pub struct Tap<I> {
    endpoint: Endpoint<I>,
    /// `None`: Tap runs without acknowledgements.
    acks: Option<Arc<AckQueue>>,
    frames: Frames,
    /// Counts the connections: acknowledgements belong to one.
    connection: u64,
}

impl<I: Intake> Tap<I> {
    /// Not connected yet. `acks`: whether this Tap wants acknowledgements.
    pub fn new(
        host: Host,
        name: &str,
        index: usize,
        acks: Option<Arc<AckQueue>>,
        intake: I,
        metrics: Arc<SourceMetrics>,
        health: Arc<Health>,
    ) -> Self {
        let endpoint = Endpoint::new(host, name, index, intake, metrics, health);
        Tap { endpoint, acks, frames: Frames::default(), connection: 0 }
    }

    /// How long a first message waits for more of them.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.endpoint.linger = linger;
        self
    }

    /// Reads until the end is asked for, and a moment longer: what is in flight is still acknowledged.
    pub fn run(mut self) {
        websocket::run(&mut self);
    }

    /// `found`: what sends such a message, if it is the first one.
    fn keep(&mut self, bytes: &[u8], seen: Seen, found: impl Fn() -> Option<Found>) -> Result<(), Ended> {
        if !self.frames.has_room(bytes.len()) {
            self.hand_over()?;
        }
        self.endpoint.fresh += 1;
        self.frames.push(bytes, seen);
        if self.endpoint.fresh == 1
            && let Some(other) = found().filter(|found| *found != Found::Tap)
        {
            return Err(Ended::Lost(format!("its messages are not a Tap's: {}", other.in_place_of(Meant::Tap))));
        }
        if self.frames.is_full() { Ok(self.hand_over()?) } else { Ok(()) }
    }

    fn send_acks(&self, socket: &mut Socket) -> Result<(), Ended> {
        let Some(acks) = &self.acks else { return Ok(()) };
        let ids = acks.take();
        for id in &ids {
            socket.queue(acknowledgement(*id)).map_err(Ended::Lost)?;
        }
        let metrics = &self.endpoint.link.metrics;
        metrics.acks_sent.inc_by(ids.len() as u64);
        metrics.tap_acks.sub(ids.len() as i64);
        socket.flush().map_err(Ended::Lost)
    }

    /// After the end was asked for: acknowledges what the broker still takes, so that Tap does not send it again.
    fn last_acks(&self, socket: &mut Socket) {
        let Some(acks) = &self.acks else { return };
        while !self.endpoint.intake.drained() {
            socket.wait(LOOK_UP / 10, Some(acks.as_ref()));
            if self.send_acks(socket).is_err() {
                return;
            }
        }
        let _ = self.send_acks(socket);
    }
}

impl<I: Intake> Channel for Tap<I> {
    type Intake = I;
    const MEANT: Meant = Meant::Tap;
    const MAX_MESSAGE: usize = MAX_MESSAGE;

    fn endpoint(&self) -> &Endpoint<I> {
        &self.endpoint
    }

    fn endpoint_mut(&mut self) -> &mut Endpoint<I> {
        &mut self.endpoint
    }

    fn request(&mut self) -> Result<Request, Ended> {
        self.connection += 1;
        if let Some(acks) = &self.acks {
            let dropped = acks.connected(self.connection);
            self.endpoint.link.metrics.tap_acks.sub(dropped as i64);
        }
        Ok(Request::of("/channel"))
    }

    fn connected(&mut self) {
        let name = &self.endpoint.link.name;
        log::info!(event = "connected", host = name; "{name}: connected");
    }

    fn message(&mut self, event: Event) -> Result<(), Ended> {
        match event {
            Event::Text(text) => self.keep(text.as_bytes(), Seen::Json, || Found::by_text(&text)),
            Event::Binary(bytes) => self.keep(&bytes, Seen::Binary, || Found::by_binary(&bytes)),
            Event::TooLong(size, _) => {
                // It comes again until it is acknowledged, which cannot be: its id was not read.
                self.endpoint.link.metrics.dead_letter(Reason::OverLimit).inc();
                Err(Ended::Lost(format!("a message of {size} bytes, over the limit of {MAX_MESSAGE}")))
            }
            Event::Broken(reason) => Err(Ended::Lost(reason)),
            Event::Control | Event::Nothing | Event::Closed(_) => Ok(()),
        }
    }

    fn waiting(&self) -> usize {
        self.frames.list.len()
    }

    /// What was read belongs to this connection: its ids must not be acknowledged on the next one.
    fn hand_over(&mut self) -> Result<(), Stopped> {
        let Some(frames) = self.frames.take() else { return Ok(()) };
        let messages = frames.list.len();
        let position = Position::of_messages(self.connection, messages);
        self.endpoint.link.received(&frames, None);
        self.endpoint.link.metrics.tap_events.add(messages as i64);
        self.endpoint.intake.put(Work::Frames(frames), Some(position))
    }

    fn speak(&mut self, socket: &mut Socket) -> Result<(), Ended> {
        self.send_acks(socket)
    }

    fn wake(&self) -> Option<&dyn AsFd> {
        self.acks.as_deref().map(|acks| acks as &dyn AsFd)
    }

    fn leave(&mut self, mut socket: Socket) {
        self.last_acks(&mut socket);
        socket.leave(GOODBYE);
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

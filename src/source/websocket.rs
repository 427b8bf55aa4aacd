//! Reading a websocket for ever: what its readers share. Connecting, the loop over messages, hand-overs, timers, the end,
//! and the wait before the next connection.
//!
//! It knows nothing of what messages mean: that is the [`Channel`]'s. It runs on the reader's thread.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Host;
use super::backoff::Backoff;
use super::diagnosis::{Answer, Meant};
use super::job::{Intake, Stopped};
use super::link::{self, LOOK_UP, Link};
use super::ozone_answer::{HIDDEN, repeats};
use super::socket::{ConnectError, Event, Request, Socket};
use super::window::Window;
use crate::health::Health;
use crate::metrics::source::SourceMetrics;

/// A socket may never run dry, of pings alone: what was read goes on, and timers and the end are looked at, this often.
const LATE: Duration = Duration::from_millis(100);

/// Why a connection ended, or did not come about.
pub enum Ended {
    /// A stop was asked for.
    Stopped,
    /// It was there, and ended: why, in one line.
    Lost(String),
    /// The host did not take the connection: why, and how long it asked to wait.
    Refused(String, Option<Duration>),
    /// On purpose: the next one follows after this.
    Again(Duration),
    /// It brought what it was made for: the next one follows at once, and is no reconnect.
    Served,
    /// The same, and there is no next one.
    Done,
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Self {
        Ended::Stopped
    }
}

/// What a reader of a websocket has at hand.
pub struct Endpoint<I> {
    /// Where to connect.
    pub host: Host,
    /// Where messages are handed over.
    pub intake: I,
    /// Name, health and metrics.
    pub link: Link,
    /// New messages of this connection: with some, the next one follows soon.
    pub fresh: u64,
    /// How long a first message waits for more, at most. Zero: not at all.
    pub linger: Duration,
}

impl<I: Intake> Endpoint<I> {
    /// `name` is what the source is called in logs and metrics, `index` its place among the sources.
    pub fn new(
        host: Host,
        name: &str,
        index: usize,
        intake: I,
        metrics: Arc<SourceMetrics>,
        health: Arc<Health>,
    ) -> Endpoint<I> {
        let link = Link::new(name, index, metrics, health);
        Endpoint { host, intake, link, fresh: 0, linger: Duration::ZERO }
    }
}

/// One kind of upstream that is read from a websocket: what is its own.
pub trait Channel {
    /// Where its messages go.
    type Intake: Intake;
    /// What the host is meant to be, for an error that says what it is in place of that.
    const MEANT: Meant;
    /// Bytes of one message at most. A longer one is passed over, and given as [`Event::TooLong`].
    const MAX_MESSAGE: usize;

    /// What every reader of a websocket has.
    fn endpoint(&self) -> &Endpoint<Self::Intake>;
    /// The same, to change it.
    fn endpoint_mut(&mut self) -> &mut Endpoint<Self::Intake>;

    /// What the next connection asks for.
    fn request(&mut self) -> Result<Request, Ended>;

    /// The host answered with something else than a websocket. `None`: that it is not what was meant, or is away.
    fn refused(&mut self, _answer: &Answer) -> Result<Option<Ended>, Stopped> {
        Ok(None)
    }

    /// The connection is there.
    fn connected(&mut self);

    /// Something came: [`Event::Binary`], [`Event::Text`], [`Event::TooLong`] or [`Event::Broken`].
    fn message(&mut self, event: Event) -> Result<(), Ended>;

    /// Messages that wait for the next hand-over.
    fn waiting(&self) -> usize;

    /// Hands over what waits.
    fn hand_over(&mut self) -> Result<(), Stopped>;

    /// Nothing more is waited for: hands over what need not wait for company.
    fn pass_on(&mut self) -> Result<(), Stopped> {
        self.hand_over()
    }

    /// Nothing is there to be read. Gives how long to wait at most before it is asked again. With `idle` nothing waited for a
    /// hand-over either; without, the hand-over may have taken long, and something may be there by now.
    fn quiet(&mut self, _idle: bool) -> Result<Duration, Ended> {
        Ok(LOOK_UP)
    }

    /// Says to the host what there is to say.
    fn speak(&mut self, _socket: &mut Socket) -> Result<(), Ended> {
        Ok(())
    }

    /// What else ends a wait for messages.
    fn wake(&self) -> Option<&dyn AsFd> {
        None
    }

    /// The end was asked for, and everything is handed over.
    fn leave(&mut self, socket: Socket) {
        socket.close();
    }
}

/// Connects again and again until the end is asked for, or the channel is done.
pub fn run(channel: &mut impl Channel) {
    let mut backoff = Backoff::default();
    let mut said: Option<String> = None;
    while !channel.endpoint().intake.stopped() {
        let began = Instant::now();
        let ended = connection(channel);
        let Endpoint { host, link, fresh, .. } = channel.endpoint();
        link.gauges.connected.set(0);
        backoff.ended(began.elapsed(), *fresh);
        let (reason, asked) = match ended {
            Ended::Stopped | Ended::Done => break,
            Ended::Served => continue,
            Ended::Again(wait) => {
                link.metrics.reconnect(&link.name);
                if link::pause(|| channel.endpoint().intake.stopped(), wait).is_err() {
                    break;
                }
                continue;
            }
            // A close frame may say anything.
            Ended::Lost(reason) if repeats(&reason, &host.secrets()) => (format!("closed by the host {HIDDEN}"), None),
            Ended::Lost(reason) => (reason, None),
            Ended::Refused(reason, asked) => (reason, asked),
        };
        link.metrics.reconnect(&link.name);
        let wait = backoff.next(asked);
        // Some reasons name the host themselves.
        let reason = reason.strip_prefix(&format!("{}: ", link.name)).unwrap_or(&reason).to_string();
        // Of hundreds some are always away: what was said of one is not said again before it was there meanwhile.
        let is_news = !link.health.is_of_many() || *fresh > 0 || said.as_ref() != Some(&reason);
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(
            level, event = "disconnected", host = link.name, reason = reason;
            "{}: {reason}; connecting again in {:.1} s", link.name, wait.as_secs_f64()
        );
        said = Some(reason.clone());
        link.health.source(link.index, Err(reason));
        if link::pause(|| channel.endpoint().intake.stopped(), wait).is_err() {
            break;
        }
    }
}

/// One connection, to its end.
fn connection<C: Channel>(channel: &mut C) -> Ended {
    channel.endpoint_mut().fresh = 0;
    let asked = match channel.request() {
        Ok(asked) => asked,
        Err(ended) => return ended,
    };
    let endpoint = channel.endpoint();
    let mut socket =
        match Socket::connect(&endpoint.host, C::MEANT, &asked, C::MAX_MESSAGE, &|| endpoint.intake.stopped()) {
            Ok(socket) => socket,
            Err(_) if endpoint.intake.stopped() => return Ended::Stopped,
            Err(error) => {
                if let ConnectError::Refused(answer) = &error {
                    match channel.refused(answer) {
                        Ok(None) => {}
                        Ok(Some(ended)) => return ended,
                        Err(Stopped) => return Ended::Stopped,
                    }
                }
                let (reason, asked) = error.explained(&channel.endpoint().host, C::MEANT);
                return Ended::Refused(reason, asked);
            }
        };
    endpoint.link.connected();
    channel.connected();
    let ended = read(channel, &mut socket);
    // What was read whole is handed over, whatever became of the connection.
    let ended = channel.hand_over().map_or(Ended::Stopped, |()| ended);
    match ended {
        Ended::Stopped => channel.leave(socket),
        _ => socket.close(),
    }
    ended
}

fn read<C: Channel>(channel: &mut C, socket: &mut Socket) -> Ended {
    let mut looked = Instant::now();
    let mut window = Window::new(channel.endpoint().linger);
    loop {
        let before = channel.waiting();
        let step = match socket.read() {
            Event::Control => Ok(()),
            Event::Nothing => nothing(channel, socket, &mut window),
            Event::Closed(reason) => Err(Ended::Lost(reason)),
            event => channel.message(event),
        };
        // Whatever was not added to a hand-over: messages that are, fill it sooner or later, and cost no clock.
        let added = channel.waiting() > before;
        let step = step.and_then(|()| if added { Ok(()) } else { in_between(channel, socket, &mut looked) });
        if let Err(ended) = step {
            return ended;
        }
    }
}

/// More may be there to be read, without end: hands over what waited long enough, and runs the timers.
fn in_between<C: Channel>(channel: &mut C, socket: &mut Socket, looked: &mut Instant) -> Result<(), Ended> {
    channel.speak(socket)?;
    let now = Instant::now();
    if now - *looked < LATE {
        return Ok(());
    }
    *looked = now;
    channel.pass_on()?;
    if channel.endpoint().intake.stopped() {
        return Err(Ended::Stopped);
    }
    socket.tick().map_err(Ended::Lost)
}

/// Nothing is there to be read now: waits for company of what was read, or hands it over, runs the timers, and waits.
fn nothing<C: Channel>(channel: &mut C, socket: &mut Socket, window: &mut Window) -> Result<(), Ended> {
    let waiting = channel.waiting();
    if let Some(rest) = window.rest(waiting, Instant::now()) {
        channel.speak(socket)?;
        if channel.endpoint().intake.stopped() {
            return Err(Ended::Stopped);
        }
        gather(channel, socket, window, rest);
        return Ok(());
    }
    channel.pass_on()?;
    channel.speak(socket)?;
    if channel.endpoint().intake.stopped() {
        return Err(Ended::Stopped);
    }
    let longest = channel.quiet(waiting == 0)?;
    match window.handed_over(waiting - channel.waiting(), Instant::now()) {
        Some(linger) => gather(channel, socket, window, linger),
        None => socket.wait(longest, channel.wake()),
    }
    socket.tick().map_err(Ended::Lost)
}

/// Waits for the end of the window, or for so much that a hand-over is worth it.
fn gather<C: Channel>(channel: &C, socket: &mut Socket, window: &mut Window, rest: Duration) {
    if socket.gather(rest, channel.wake()) {
        window.enough();
    }
}

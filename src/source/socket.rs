//! A websocket whose reads end when nothing is there, so that the reader's timers run. It knows no upstream. On the
//! reader's thread.

use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{HandshakeError, Message, WebSocket};

use super::Host;
use super::diagnosis::{self, Answer, Meant};
use super::transport::{self, Open, Patience, Refused, Transport};
use super::trim::Trim;
use crate::client::dial;

/// A ping goes out this often, whether or not data flows.
pub const PING_EVERY: Duration = Duration::from_secs(30);
/// [`Socket::tick`] is called each half second; after a longer pause nobody listened, and silence says nothing.
const HELD_UP: Duration = Duration::from_secs(5);
/// Without a byte for so long, the link is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(60);
/// tungstenite fills its buffer with zeros before each read: a small one is cheaper than a large one (measured).
const READ_BUFFER: usize = 32 << 10;

/// No cursor helps against this.
const COMPRESSED: &str = "the host, or a proxy before it, compresses its messages (permessage-deflate), which was not asked for: it has to stop that";
/// Received bytes that end [`Socket::gather`] early: half of a hand-over (see [`job`](super::job)). Above this the kernel would make
/// its buffer for the connection larger than it otherwise does at first.
const ENOUGH: usize = 64 << 10;
/// Bytes that wait to be written at most; then the connection ends.
const MAX_UNWRITTEN: usize = 16 << 20;

/// Why there is no connection.
pub enum ConnectError {
    /// What happened, and what to do.
    Away(String),
    /// The host answered, but with no websocket. Nothing in it repeats a secret of ours.
    Refused(Answer),
}

impl ConnectError {
    /// In one line that says what answered in place of what was `meant`, which may be asked for it; and what `Retry-After`
    /// asked for.
    pub fn explained(self, host: &Host, meant: Meant) -> (String, Option<Duration>) {
        match self {
            ConnectError::Away(message) => (message, None),
            ConnectError::Refused(answer) => (diagnosis::refused(&answer, host, meant), answer.wait),
        }
    }
}

/// What a host is asked for.
pub struct Request {
    /// As it stands behind the host and its prefix.
    pub path_and_query: String,
    /// The subprotocol of the websocket, which the host has to accept.
    pub protocol: Option<&'static str>,
}

impl Request {
    /// For a path and a query, without a subprotocol.
    pub fn of(path_and_query: impl Into<String>) -> Request {
        Request { path_and_query: path_and_query.into(), protocol: None }
    }
}

/// What a read gives.
pub enum Event {
    /// A binary message.
    Binary(tungstenite::Bytes),
    /// A text message.
    Text(tungstenite::Utf8Bytes),
    /// A ping, pong, or something else that is answered already.
    Control,
    /// Nothing is there now: [`Socket::wait`].
    Nothing,
    /// The connection is over, and why.
    Closed(String),
    /// What came is no websocket: the connection cannot go on.
    Broken(String),
    /// A message over the limit: its size, or more, and its beginning. The connection goes on.
    TooLong(u64, tungstenite::Bytes),
}

/// A websocket that is polled together with other descriptors.
pub struct Socket {
    ws: WebSocket<Trim<Transport>>,
    fd: TcpStream,
    last_byte: Rc<Cell<Instant>>,
    last_ping: Instant,
    last_tick: Instant,
    /// The next message was cut: its size.
    cut: Option<u64>,
    /// Something waits in the buffer that the socket did not take.
    unwritten: bool,
    /// The kernel calls the socket readable from [`ENOUGH`] on, not from the first byte.
    gathers: bool,
}

impl Socket {
    /// Connects to the host, which was `meant` to be that, and asks for `asked`. Messages have `max_message` bytes at most.
    /// It waits no longer than until the end is asked for.
    pub fn connect(
        host: &Host,
        meant: Meant,
        asked: &Request,
        max_message: usize,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Socket, ConnectError> {
        let away = |text: &str| ConnectError::Away(diagnosis::unreachable(text, host.tls, meant));
        let open = transport::open(host, stopped).map_err(|refused| match refused {
            Refused::Host(why) => away(&why),
            Refused::Proxy(why) => ConnectError::Away(why),
        })?;
        Socket::upgrade(open, host, meant, asked, max_message, stopped)
    }

    /// The same over a connection that is there already: the handshake of the websocket.
    pub fn upgrade(
        open: Open,
        host: &Host,
        meant: Meant,
        asked: &Request,
        max_message: usize,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Socket, ConnectError> {
        let away = |text: &str| ConnectError::Away(diagnosis::unreachable(text, host.tls, meant));
        let wrong = |e: &dyn std::fmt::Display| ConnectError::Away(e.to_string());
        let Open { transport, fd, last_byte } = open;
        let scheme = if host.tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}:{}{}{}", host.host, host.port, host.prefix, asked.path_and_query);
        let mut request = url.into_client_request().map_err(|e| wrong(&e))?;
        let agent = HeaderValue::from_str(&host.client.user_agent).map_err(|e| wrong(&e))?;
        request.headers_mut().insert(HeaderName::from_static("user-agent"), agent);
        if let Some(authorization) = &host.authorization {
            let value = HeaderValue::from_str(authorization).map_err(|e| wrong(&e))?;
            request.headers_mut().insert(HeaderName::from_static("authorization"), value);
        }
        if let Some(protocol) = asked.protocol {
            let value = HeaderValue::from_static(protocol);
            request.headers_mut().insert(HeaderName::from_static("sec-websocket-protocol"), value);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message))
            // What the other side does not read is kept only so far.
            .max_write_buffer_size(MAX_UNWRITTEN);
        let transport = Trim::new(transport, max_message);
        let patience = Patience::new(&fd, stopped);
        let mut step = tungstenite::client::client_with_config(request, transport, Some(config));
        let (ws, _) = loop {
            step = match step {
                Ok(done) => break done,
                Err(HandshakeError::Interrupted(under_way)) => {
                    patience.wait().map_err(|why| away(&why))?;
                    under_way.handshake()
                }
                Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                    return Err(ConnectError::Refused(answer(&response, host)));
                }
                Err(HandshakeError::Failure(e)) => return Err(away(&e.to_string())),
            };
        };
        last_byte.set(Instant::now());
        Ok(Socket {
            ws,
            fd,
            last_byte,
            last_ping: Instant::now(),
            last_tick: Instant::now(),
            cut: None,
            unwritten: false,
            gathers: false,
        })
    }

    /// The next message, or [`Event::Nothing`].
    pub fn read(&mut self) -> Event {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError;
        match self.ws.read() {
            Ok(Message::Binary(bytes)) => match self.cut.take() {
                Some(size) => Event::TooLong(size, bytes),
                None => Event::Binary(bytes),
            },
            Ok(Message::Text(text)) => match self.cut.take() {
                Some(size) => Event::TooLong(size, tungstenite::Bytes::new()),
                None => Event::Text(text),
            },
            Ok(Message::Close(frame)) => Event::Closed(match frame {
                Some(frame) => format!("closed by the host: {} {}", frame.code, frame.reason),
                None => "closed by the host".into(),
            }),
            Ok(Message::Pong(payload)) => {
                self.cut = self.ws.get_ref().size_in(&payload).or(self.cut);
                Event::Control
            }
            Ok(_) => Event::Control,
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Event::Nothing,
            Err(e @ Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Event::Closed(e.to_string()),
            Err(Error::Protocol(ProtocolError::NonZeroReservedBits)) if self.ws.get_ref().compressed() => {
                Event::Closed(COMPRESSED.into())
            }
            Err(e @ (Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_))) => Event::Broken(e.to_string()),
            Err(e) => Event::Closed(e.to_string()),
        }
    }

    /// Waits for bytes, `longest` at most; also for room where something waits to be written, and for `wake`.
    pub fn wait(&mut self, longest: Duration, wake: Option<&dyn AsFd>) {
        self.readable_from(false);
        self.poll(longest, wake);
    }

    /// Waits `longest` for much to read, or for `wake`, and gives whether it ended for what the socket has: a second wait would
    /// end at once. What comes meanwhile does not wake the thread.
    pub fn gather(&mut self, longest: Duration, wake: Option<&dyn AsFd>) -> bool {
        self.readable_from(true);
        self.poll(longest, wake)
    }

    /// Has the kernel call the socket readable only when [`ENOUGH`] is there, or with the first byte. If it cannot, a wait
    /// only ends early.
    fn readable_from(&mut self, enough: bool) {
        if self.gathers != enough {
            self.gathers = enough;
            let _ = dial::set_low_water(&self.fd, if enough { ENOUGH } else { 1 });
        }
    }

    /// Whether the socket has something to read, is closed or failed.
    fn poll(&self, longest: Duration, wake: Option<&dyn AsFd>) -> bool {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, self.unwritten);
        let mut fds = vec![PollFd::new(&self.fd, flags)];
        let wake = wake.map(AsFd::as_fd);
        fds.extend(wake.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // An error here (a signal) only ends the wait early.
        let _ = dial::wait(&mut fds, longest);
        fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
    }

    /// Puts a text message behind what waits to be written.
    pub fn queue(&mut self, text: String) -> Result<(), String> {
        self.unwritten = true;
        written(self.ws.write(Message::Text(text.into()))).map(drop)
    }

    /// Writes what waits, as far as the socket takes it now.
    pub fn flush(&mut self) -> Result<(), String> {
        if self.unwritten {
            self.unwritten = !written(self.ws.flush())?;
        }
        Ok(())
    }

    /// Runs the timers: pings when due. An error means that the link is dead.
    pub fn tick(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if now - std::mem::replace(&mut self.last_tick, now) > HELD_UP {
            self.last_byte.set(now);
        }
        self.flush()?;
        let silent = self.last_byte.get().elapsed();
        if silent >= DEAD_AFTER {
            return Err(format!("silent for {} s", silent.as_secs()));
        }
        if self.last_ping.elapsed() >= PING_EVERY {
            self.last_ping = Instant::now();
            self.unwritten |= !written(self.ws.send(Message::Ping(tungstenite::Bytes::new())))?;
        }
        Ok(())
    }

    /// Says goodbye and waits, `longest` at most, until the host does as well. A connection that is closed with something
    /// unread in it is reset, and what was written last may be lost with it.
    pub fn leave(mut self, longest: Duration) {
        let until = Instant::now() + longest;
        let _ = self.ws.close(None);
        self.unwritten = true;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.flush().is_err() {
                return;
            }
            match self.read() {
                Event::Closed(_) | Event::Broken(_) => return,
                Event::Nothing => self.wait(left, None),
                _ => {}
            }
        }
    }

    /// Says goodbye, as far as the socket takes it at once.
    pub fn close(mut self) {
        let _ = self.ws.close(None);
        let _ = self.ws.flush();
    }
}

/// Whether all was written; what was not stays in the buffer, and goes with a later write.
fn written(result: tungstenite::Result<()>) -> Result<bool, String> {
    match result {
        Ok(()) => Ok(true),
        Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(format!("cannot be written to: {e}")),
    }
}

/// It is HTTP that answered, but not with the websocket.
fn answer(response: &tungstenite::handshake::client::Response, host: &Host) -> Answer {
    let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    let answer = Answer {
        status: response.status().as_u16(),
        wait: text("retry-after").and_then(crate::client::retry_after),
        location: text("location").map(str::to_string),
        html: text("content-type").is_some_and(|kind| kind.starts_with("text/html")),
        body: response.body().clone().unwrap_or_default(),
    };
    answer.without(&host.secrets())
}

//! The connection below a websocket: TCP, the proxy's CONNECT, TLS. Everything here waits with a deadline, and no longer
//! than until the end is asked for. It knows no websocket. On the reader's thread.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use native_tls::{TlsConnector, TlsStream};
use rustix::event::{PollFd, PollFlags};
use ureq::{Proxy, ProxyProtocol};

use super::Host;
use crate::client::{dial, proxy};

/// Connecting, the proxy, TLS and the handshake, each.
const CONNECT: Duration = Duration::from_secs(15);
/// How often a wait looks whether it should end.
const LOOK_UP: Duration = Duration::from_millis(200);
/// Bytes of a proxy's answer.
const MAX_HEAD: usize = 16 << 10;

/// The TCP stream, noting when bytes last came.
#[derive(Debug)]
pub struct Heard {
    tcp: TcpStream,
    last_byte: Rc<Cell<Instant>>,
}

impl Read for Heard {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.tcp.read(buf)?;
        if n > 0 {
            self.last_byte.set(Instant::now());
        }
        Ok(n)
    }
}

impl Write for Heard {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tcp.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

#[derive(Debug)]
/// What bytes go over.
pub enum Transport {
    /// TCP alone.
    Plain(Heard),
    /// Twice, where the proxy speaks TLS as well.
    Tls(Box<TlsStream<Transport>>),
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(s) => s.read(buf),
            Transport::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(s) => s.write(buf),
            Transport::Tls(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(s) => s.flush(),
            Transport::Tls(s) => s.flush(),
        }
    }
}

impl Transport {
    /// The host's certificate, as DER. `None` without TLS.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.peer_certificate().ok()??.to_der().ok(),
        }
    }
}

/// What is open to the host, non-blocking.
pub struct Open {
    /// Connected, with TLS where the host wants it.
    pub transport: Transport,
    /// The same socket, to wait for.
    pub fd: TcpStream,
    /// When bytes last came.
    pub last_byte: Rc<Cell<Instant>>,
}

/// Why it is not open.
pub enum Refused {
    /// By the host, in words that say no more than what happened.
    Host(String),
    /// By the proxy, in words that say what to do.
    Proxy(String),
}

/// Waits for the socket.
pub struct Patience<'a> {
    fd: &'a TcpStream,
    until: Instant,
    stopped: &'a dyn Fn() -> bool,
}

impl<'a> Patience<'a> {
    /// For the steps of one connection.
    pub fn new(fd: &'a TcpStream, stopped: &'a dyn Fn() -> bool) -> Self {
        Patience { fd, until: Instant::now() + CONNECT, stopped }
    }

    /// Returns when the socket may have something, and fails when it took too long.
    pub fn wait(&self) -> Result<(), String> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || (self.stopped)() {
            return Err("no answer to the handshake in time".into());
        }
        // What is written here is small, and waits for nothing but what comes back.
        let _ = dial::wait(&mut [PollFd::new(self.fd, PollFlags::IN)], left.min(LOOK_UP));
        Ok(())
    }
}

/// Connects to the host, through its proxy where it has one.
pub fn open(host: &Host, stopped: &dyn Fn() -> bool) -> Result<Open, Refused> {
    let proxy = host.client.proxy(&host.url(""));
    let (name, port) = proxy.map_or((host.host.as_str(), host.port), |proxy| (proxy.host(), proxy.port()));
    let refused = |why: String| match proxy {
        Some(proxy) => Refused::Proxy(format!(
            "the proxy {}: {why}; is HTTPS_PROXY or ALL_PROXY right? What is in NO_PROXY is reached without",
            proxy::shown(proxy)
        )),
        None => Refused::Host(why),
    };
    let addresses = dial::resolve(name, port).map_err(refused)?;
    let fd = dial::race(&addresses, Instant::now() + CONNECT, stopped).map_err(refused)?;
    let io = |e: io::Error| refused(e.to_string());
    fd.set_nodelay(true).map_err(io)?;
    let last_byte = Rc::new(Cell::new(Instant::now()));
    let mut transport = Transport::Plain(Heard { tcp: fd.try_clone().map_err(io)?, last_byte: last_byte.clone() });
    let connector = || host.client.tls().map_err(|e| refused(format!("TLS: {e}")));
    if let Some(proxy) = proxy {
        if proxy.protocol() == ProxyProtocol::Https {
            transport = tls(&connector()?, name, transport, &Patience::new(&fd, stopped)).map_err(refused)?;
        }
        tunnel(&mut transport, proxy, host, &Patience::new(&fd, stopped))
            .map_err(|why| Refused::Proxy(format!("the proxy {}: {why}", proxy::shown(proxy))))?;
    }
    if host.tls {
        transport = tls(&connector()?, &host.host, transport, &Patience::new(&fd, stopped)).map_err(Refused::Host)?;
    }
    Ok(Open { transport, fd, last_byte })
}

fn tls(
    connector: &TlsConnector,
    name: &str,
    transport: Transport,
    patience: &Patience<'_>,
) -> Result<Transport, String> {
    let mut step = connector.connect(name.trim_matches(['[', ']']), transport);
    loop {
        step = match step {
            Ok(tls) => return Ok(Transport::Tls(Box::new(tls))),
            Err(native_tls::HandshakeError::Failure(e)) => return Err(format!("TLS: {e}")),
            Err(native_tls::HandshakeError::WouldBlock(under_way)) => {
                patience.wait().map_err(|why| format!("TLS: {why}"))?;
                under_way.handshake()
            }
        };
    }
}

/// Has the proxy connect to the host.
fn tunnel(transport: &mut Transport, proxy: &Proxy, host: &Host, patience: &Patience<'_>) -> Result<(), String> {
    let target = format!("{}:{}", host.host, host.port);
    let mut request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {}\r\n", host.client.user_agent);
    if proxy.username().is_some() || proxy.password().is_some() {
        let login = format!("{}:{}", proxy.username().unwrap_or_default(), proxy.password().unwrap_or_default());
        request += &format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(login.as_bytes()));
    }
    request += "\r\n";
    transport.write_all(request.as_bytes()).and_then(|()| transport.flush()).map_err(|e| e.to_string())?;
    // One by one: what follows the head is the host's.
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match transport.read(&mut byte) {
            Ok(0) => return Err("it hung up: is it an HTTP proxy?".into()),
            Ok(_) if head.len() == MAX_HEAD => return Err("that is no answer of an HTTP proxy".into()),
            Ok(_) => head.push(byte[0]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => patience.wait()?,
            Err(e) => return Err(e.to_string()),
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    if answer.parse(&head).is_err() {
        return Err("that is no answer of an HTTP proxy".into());
    }
    let advice = match answer.code {
        Some(200..=299) => return Ok(()),
        Some(407) => "it wants a login: put user and password into HTTPS_PROXY, as http://USER:PASSWORD@HOST:PORT",
        Some(403 | 405) => "it does not let this host or port through",
        Some(502..=504) => "it does not reach the host",
        _ => "it does not connect to the host",
    };
    Err(format!("HTTP {}, {advice}", answer.code.unwrap_or_default()))
}

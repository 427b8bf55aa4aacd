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
/// Bytes that one system call reads below TLS: some frames of a relay, each of which is a TLS record or more.
const AHEAD: usize = 32 << 10;
/// Bytes of a proxy's answer.
const MAX_HEAD: usize = 16 << 10;

/// The TCP stream, noting when bytes last came.
#[derive(Debug)]
pub struct Heard {
    tcp: TcpStream,
    last_byte: Rc<Cell<Instant>>,
    /// Below TLS, which asks for the header and the body of each record by itself: what one system call gave, of which
    /// `ahead[at..end]` was not asked for yet. Empty without TLS.
    ahead: Box<[u8]>,
    at: usize,
    end: usize,
}

impl Heard {
    fn new(tcp: TcpStream, last_byte: Rc<Cell<Instant>>) -> Heard {
        Heard { tcp, last_byte, ahead: Box::default(), at: 0, end: 0 }
    }

    /// Whether something was read that was not asked for yet.
    fn is_ahead(&self) -> bool {
        self.at < self.end
    }
}

impl Read for Heard {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.is_ahead() {
            let direct = self.ahead.is_empty();
            let n = self.tcp.read(if direct { &mut *buf } else { &mut self.ahead })?;
            if n > 0 {
                self.last_byte.set(Instant::now());
            }
            if direct {
                return Ok(n);
            }
            (self.at, self.end) = (0, n);
        }
        let n = buf.len().min(self.end - self.at);
        buf[..n].copy_from_slice(&self.ahead[self.at..self.at + n]);
        self.at += n;
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
    Tls(Box<Secured>),
}

/// TLS over a transport.
#[derive(Debug)]
pub struct Secured {
    stream: TlsStream<Transport>,
    /// Came behind bytes that were given before it.
    failed: Option<io::Error>,
}

impl Secured {
    /// OpenSSL gives one record at a time. As long as others are here, they are part of the same read: who reads pays for each
    /// call, whatever it gives.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let mut n = self.stream.read(buf)?;
        while n > 0 && n < buf.len() && self.stream.get_ref().is_ahead() {
            match self.stream.read(&mut buf[n..]) {
                // The end comes again with the next read.
                Ok(0) => break,
                Ok(more) => n += more,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    self.failed = Some(e);
                    break;
                }
            }
        }
        Ok(n)
    }
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
            Transport::Tls(s) => s.stream.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(s) => s.flush(),
            Transport::Tls(s) => s.stream.flush(),
        }
    }
}

impl Transport {
    /// Reads ahead from now on: TLS is spoken over it.
    fn read_ahead(&mut self) {
        match self {
            Transport::Plain(s) if s.ahead.is_empty() => s.ahead = vec![0; AHEAD].into(),
            // TLS over TLS: the records of the inner one come in those of the outer one, which reads ahead already.
            _ => {}
        }
    }

    /// Whether something was read ahead.
    fn is_ahead(&self) -> bool {
        match self {
            Transport::Plain(s) => s.is_ahead(),
            Transport::Tls(s) => s.stream.get_ref().is_ahead(),
        }
    }

    /// The host's certificate, as DER. `None` without TLS.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(s) => s.stream.peer_certificate().ok()??.to_der().ok(),
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
    let mut transport = Transport::Plain(Heard::new(fd.try_clone().map_err(io)?, last_byte.clone()));
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
    mut transport: Transport,
    patience: &Patience<'_>,
) -> Result<Transport, String> {
    transport.read_ahead();
    let mut step = connector.connect(name.trim_matches(['[', ']']), transport);
    loop {
        step = match step {
            Ok(stream) => return Ok(Transport::Tls(Box::new(Secured { stream, failed: None }))),
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn below_tls_one_system_call_reads_all_that_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (mut other, _) = listener.accept().expect("the same");
        let long_ago = Instant::now();
        let last_byte = Rc::new(Cell::new(long_ago));
        let kernel = tcp.try_clone().expect("a descriptor");
        let mut plain = Transport::Plain(Heard::new(tcp, last_byte.clone()));
        let mut buffer = [0; 100];
        other.write_all(b"as it is").expect("written");
        assert_eq!(plain.read(&mut buffer[..2]).ok(), Some(2));
        assert!(!plain.is_ahead(), "without TLS the rest stays in the kernel");
        assert_eq!(plain.read(&mut buffer).ok(), Some(6));

        plain.read_ahead();
        other.write_all(b"12345record").expect("written");
        assert_eq!(plain.read(&mut buffer[..5]).ok(), Some(5));
        assert!(plain.is_ahead() && last_byte.get() > long_ago);
        kernel.set_nonblocking(true).expect("a socket");
        assert!(kernel.peek(&mut [0; 10]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock), "it was read");
        assert_eq!(plain.read(&mut buffer).ok(), Some(6), "what is there, and no more is waited for");
        assert_eq!(&buffer[..6], b"record");
        assert!(plain.read(&mut buffer).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) && !plain.is_ahead());
        drop(other);
        assert_eq!(plain.read(&mut buffer).ok(), Some(0), "the end");
    }
}

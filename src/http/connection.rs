//! One connection to the HTTP port: a request's head in, one answer out, the end. No poll and no clock of its own, so that
//! tests need no socket. Bodies are never read, whatever the head says of them, and nothing follows the first request.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Bytes of a request's head at most. Prometheus sends about 300.
pub const MAX_HEAD: usize = 8 << 10;
/// A whole head has to be there after so long, however it drips in,
const HEAD: Duration = Duration::from_secs(5);
/// and the whole answer has to be taken after so long.
const ANSWER: Duration = Duration::from_secs(10);
/// After the answer: what the client still sends is read and thrown away for a moment. A socket that is closed with unread
/// bytes sends a reset, and the client may lose the answer.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes read at once.
const READ: usize = 4 << 10;

/// A request, as far as anybody here wants to know it.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Head {
        method: &'a str,
        target: &'a str,
        /// Whether it may come from this machine, as far as its headers say: it names this machine as the host, and no
        /// proxy has passed it on. A page of somebody else's, whose name was made to lead here, is not local.
        local: bool,
    },
    /// No HTTP.
    Garbage,
    /// Over [`MAX_HEAD`], or with too many headers.
    TooLarge,
}

/// What the socket has to be able to do.
pub trait Stream: Read + Write {
    /// Says that nothing more is written.
    fn finish(&mut self);
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Answer { bytes: Vec<u8>, written: usize },
    Goodbye,
}

pub struct Connection<S> {
    pub stream: S,
    state: State,
    deadline: Instant,
}

impl<S: Stream> Connection<S> {
    pub fn new(stream: S, now: Instant) -> Self {
        Connection { stream, state: State::Head(Vec::new()), deadline: now + HEAD }
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it waits for room to write; else it waits for bytes.
    pub fn writes(&self) -> bool {
        matches!(self.state, State::Answer { .. })
    }

    /// Whether its request is not there yet.
    pub fn is_without_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Goes on as far as the stream lets it. `false`: it is over.
    pub fn go_on(&mut self, now: Instant, mut answer: impl FnMut(Request<'_>) -> Vec<u8>) -> bool {
        self.step(now, &mut answer).is_ok()
    }

    fn step(&mut self, now: Instant, answer: &mut impl FnMut(Request<'_>) -> Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; READ];
        if now >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        loop {
            match &mut self.state {
                State::Head(head) => {
                    let Some(n) = ready(self.stream.read(&mut buffer))? else { return Ok(()) };
                    if n == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    head.extend_from_slice(&buffer[..n]);
                    if let Some(request) = request(head) {
                        let bytes = answer(request);
                        (self.state, self.deadline) = (State::Answer { bytes, written: 0 }, now + ANSWER);
                    }
                }
                State::Answer { bytes, written } => {
                    let Some(n) = ready(self.stream.write(&bytes[*written..]))? else { return Ok(()) };
                    if n == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    *written += n;
                    if *written == bytes.len() {
                        self.stream.finish();
                        (self.state, self.deadline) = (State::Goodbye, now + GOODBYE);
                        // Others have their turn before its leftovers are read.
                        return Ok(());
                    }
                }
                State::Goodbye => match ready(self.stream.read(&mut buffer))? {
                    Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => return Ok(()),
                },
            }
        }
    }
}

/// `None` where the stream has nothing, or no room, for now.
fn ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The request, once enough of it is there.
fn request(head: &[u8]) -> Option<Request<'_>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(end)) if end <= MAX_HEAD => {
            let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
            Some(Request::Head { method, target, local: parsed.version == Some(1) && is_local(parsed.headers) })
        }
        Err(httparse::Error::TooManyHeaders) => Some(Request::TooLarge),
        Err(_) => Some(Request::Garbage),
        Ok(_) if head.len() > MAX_HEAD => Some(Request::TooLarge),
        Ok(_) => None,
    }
}

/// Whether a request is for this machine by its own words. Without a host, or by HTTP/1.0, a proxy may have made it: nginx does
/// by default, and names nothing of who asked it.
fn is_local(headers: &[httparse::Header<'_>]) -> bool {
    let has_host = headers.iter().any(|header| header.name.eq_ignore_ascii_case("host"));
    has_host
        && headers.iter().all(|header| match header.name.to_ascii_lowercase().as_str() {
            "host" => is_this_machine(header.value),
            "forwarded" | "via" | "x-real-ip" => false,
            name => !name.starts_with("x-forwarded-"),
        })
}

/// `localhost` or a loopback address, with or without a port.
fn is_this_machine(host: &[u8]) -> bool {
    let host = String::from_utf8_lossy(host);
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A stream of pieces; `None` is a moment without any.
    #[derive(Default)]
    struct Script {
        gives: VecDeque<Option<Vec<u8>>>,
        takes: usize,
        taken: Vec<u8>,
        finished: bool,
    }

    impl Read for Script {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.gives.pop_front() {
                Some(Some(piece)) => {
                    let n = piece.len().min(buf.len());
                    buf[..n].copy_from_slice(&piece[..n]);
                    if n < piece.len() {
                        self.gives.push_front(Some(piece[n..].to_vec()));
                    }
                    Ok(n)
                }
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        }
    }

    impl Write for Script {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let n = buf.len().min(std::mem::take(&mut self.takes));
            self.taken.extend_from_slice(&buf[..n]);
            if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Script {
        fn finish(&mut self) {
            self.finished = true;
        }
    }

    fn connection(pieces: &[&[u8]], now: Instant) -> Connection<Script> {
        let gives = pieces.iter().flat_map(|p| [Some(p.to_vec()), None]).collect();
        Connection::new(Script { gives, ..Script::default() }, now)
    }

    fn said(request: Request<'_>) -> Vec<u8> {
        format!("{request:?}").into_bytes()
    }

    #[test]
    fn a_head_in_pieces_is_answered_once_in_pieces() {
        let now = Instant::now();
        let mut c =
            connection(&[b"GET /met", b"rics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n", b"\r\n"], now);
        let mut answers = 0;
        for turn in 0..200 {
            c.stream.takes = 7;
            let alive = c.go_on(now, |r| {
                answers += 1;
                said(r)
            });
            assert!(alive, "turn {turn}");
        }
        assert_eq!(answers, 1);
        assert_eq!(
            String::from_utf8_lossy(&c.stream.taken),
            "Head { method: \"GET\", target: \"/metrics\", local: false }"
        );
        assert!(c.stream.finished);
        // What follows is thrown away, and only for a moment.
        c.stream.gives.push_back(Some(b"GET / HTTP/1.1\r\n\r\n".to_vec()));
        assert!(c.go_on(now, |_| panic!("one answer a connection")));
        assert!(!c.go_on(now + GOODBYE, said));
    }

    #[test]
    fn who_is_not_of_this_machine_is_known_by_the_headers() {
        for (headers, want) in [
            ("", false),
            ("Host: localhost:6009\r\n", true),
            ("hOST: 127.0.0.1\r\nUser-Agent: x\r\n", true),
            ("Host: [::1]:6009\r\n", true),
            ("Host: evil.example\r\n", false),
            ("Host: localhost.evil.example\r\n", false),
            ("Host: 127.0.0.1.evil.example\r\n", false),
            ("Host: localhost\r\nX-Forwarded-For: 1.2.3.4\r\n", false),
            ("Host: localhost\r\nforwarded: for=1.2.3.4\r\n", false),
            ("Host: localhost\r\nVia: 1.1 proxy\r\n", false),
        ] {
            let head = format!("GET / HTTP/1.1\r\n{headers}\r\n");
            let Some(Request::Head { local, .. }) = request(head.as_bytes()) else { panic!("{headers}") };
            assert_eq!(local, want, "{headers}");
            let head = format!("GET / HTTP/1.0\r\n{headers}\r\n");
            let Some(Request::Head { local, .. }) = request(head.as_bytes()) else { panic!("{headers}") };
            assert!(!local, "a proxy that says nothing of itself, as nginx by default: {headers}");
        }
    }

    #[test]
    fn each_state_has_its_deadline() {
        let now = Instant::now();
        let mut slow = connection(&[b"G", b"E", b"T", b" "], now);
        assert!(slow.go_on(now + HEAD / 2, said), "bytes do not move the deadline");
        assert!(!slow.go_on(now + HEAD, said));
        let mut deaf = connection(&[b"GET / HTTP/1.0\r\n\r\n"], now);
        assert!(deaf.go_on(now, said) && deaf.writes());
        deaf.stream.takes = 1;
        assert!(deaf.go_on(now + ANSWER / 2, said));
        assert!(!deaf.go_on(now + ANSWER, said));
        let mut gone = connection(&[b"GET / HT", b""], now);
        assert!(gone.go_on(now, said));
        assert!(!gone.go_on(now, said), "half a head and the end");
    }

    #[test]
    fn what_is_no_request_or_too_long_is_known_early() {
        let verdict = |bytes: &[u8]| request(bytes).map(said).map(|v| String::from_utf8_lossy(&v).into_owned());
        let is = |bytes: &[u8], want: &str| assert_eq!(verdict(bytes).as_deref(), Some(want));
        is(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Garbage");
        is(b"GET /\r\n\r\n", "Garbage");
        is(b"GET / HTTP/9.9\r\n\r\n", "Garbage");
        is(format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD)).as_bytes(), "TooLarge");
        is(format!("GET /{}", "x".repeat(MAX_HEAD)).as_bytes(), "TooLarge");
        is(format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65)).as_bytes(), "TooLarge");
        assert_eq!(verdict(b"GET / HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(verdict(b""), None);
    }
}

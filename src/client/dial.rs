//! From a name to a TCP connection: within a time, and over whichever of its addresses answers first. It knows neither
//! TLS nor proxies. The thread that calls waits.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Between two attempts, RFC 8305.
const NEXT: Duration = Duration::from_millis(250);
/// How often a wait looks whether it should end.
const LOOK_UP: Duration = Duration::from_millis(200);
/// DNS has so long: longer than the five seconds after which the system asks its second server, shorter than a stop may take.
pub const DNS: Duration = Duration::from_secs(8);
/// Addresses that an error names.
const NAMED: usize = 4;

/// The addresses of a name, or one line that says why there are none.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let name = host.trim_matches(['[', ']']);
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let uri: Uri = format!("http://{host}:{port}").parse().map_err(|e| format!("{name}: {e}"))?;
    let timeout = NextTimeout { after: DNS.into(), ..NextTimeout::default() };
    match DefaultResolver::default().resolve(&uri, &ureq::config::Config::default(), timeout) {
        Ok(found) => Ok(found.to_vec()),
        Err(ureq::Error::Timeout(_)) => Err(format!("{name}: DNS gave no answer in {} s", DNS.as_secs())),
        Err(e) => Err(format!("{name}: {}", e.to_string().trim_start_matches("io: "))),
    }
}

/// Connects to the addresses, each a quarter of a second after the one before or as soon as that failed, the two families in
/// turn: the first that connects is it (RFC 8305). The stream is non-blocking. The error names the addresses.
pub fn race(addresses: &[SocketAddr], until: Instant, stopped: &dyn Fn() -> bool) -> Result<TcpStream, String> {
    let mut waiting = in_turn(addresses).into_iter();
    let mut under_way: Vec<(OwnedFd, SocketAddr)> = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next || under_way.is_empty() {
            match waiting.next() {
                Some(address) => {
                    match begin(&address) {
                        Ok(socket) => {
                            under_way.push((socket, address));
                            next = now + NEXT;
                        }
                        Err(e) => failed.push(format!("{address}: {e}")),
                    }
                    continue;
                }
                None if under_way.is_empty() => return Err(named(&failed)),
                None => next = until,
            }
        }
        if now >= until || stopped() {
            failed.extend(under_way.iter().map(|(_, address)| format!("{address}: connection timed out")));
            return Err(named(&failed));
        }
        let longest = (next.min(until) - now).min(LOOK_UP);
        let mut fds: Vec<PollFd<'_>> = under_way.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::OUT)).collect();
        // An error here (a signal) only ends the wait early.
        let _ = wait(&mut fds, longest);
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for i in (0..ready.len()).rev().filter(|i| ready[*i]) {
            let (socket, address) = under_way.swap_remove(i);
            match sockopt::socket_error(&socket).and_then(|outcome| outcome) {
                Ok(()) => {
                    if !failed.is_empty() {
                        log::debug!("{address} answered; others did not: {}", named(&failed));
                    }
                    return Ok(TcpStream::from(socket));
                }
                Err(e) => {
                    failed.push(format!("{address}: {}", std::io::Error::from(e)));
                    // The next one need not wait for its turn.
                    next = now;
                }
            }
        }
    }
}

fn begin(address: &SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

/// One of each family in turn, beginning with that of the first; else in the system's order.
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        if address.is_ipv4() == first { one.push(*address) } else { other.push(*address) }
    }
    let mut out = Vec::with_capacity(addresses.len());
    for i in 0..one.len().max(other.len()) {
        out.extend(one.get(i));
        out.extend(other.get(i));
    }
    out
}

fn named(failed: &[String]) -> String {
    if failed.is_empty() {
        return "the name has no address".into();
    }
    let more = failed.len().saturating_sub(NAMED);
    let text = failed[..failed.len() - more].join(", ");
    if more == 0 { text } else { format!("{text}, and {more} more") }
}

/// Waits for one of `fds` to be ready, `longest` at most. Gives how many are; a signal ends it with an error.
pub fn wait(fds: &mut [PollFd<'_>], longest: Duration) -> rustix::io::Result<usize> {
    let timeout = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    poll(fds, Some(&timeout))
}

/// Has the kernel call the socket readable only when `bytes` are there, the connection is over, or the other side can send no
/// more before something is read. Reading is the same as ever.
pub fn set_low_water(socket: &TcpStream, bytes: usize) -> std::io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value` during the call, and `socket` is open for as long.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// An address that answers nothing: its queue of connections is full.
    fn silent() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::empty(), None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        rustix::net::listen(&socket, 0).expect("listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("an address");
        let brief = Duration::from_millis(300);
        let held = std::iter::from_fn(|| TcpStream::connect_timeout(&address, brief).ok()).take(100).collect();
        (listener, held, address)
    }

    #[test]
    fn families_take_turns() {
        let all: Vec<SocketAddr> = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"].map(parse).to_vec();
        assert_eq!(in_turn(&all), ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"].map(parse));
        assert_eq!(in_turn(&all[3..]), all[3..]);
        assert!(in_turn(&[]).is_empty());
    }

    fn parse(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_that_is_dead_costs_a_quarter_of_a_second() {
        let (_listener, _held, dead) = silent();
        let alive = TcpListener::bind("127.0.0.1:0").expect("a port");
        let began = Instant::now();
        let stream = race(&[dead, alive.local_addr().expect("bound")], soon(), &|| false).expect("one answers");
        assert_eq!(stream.peer_addr().ok(), alive.local_addr().ok());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn the_addresses_that_failed_are_named() {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let (_listener, _held, dead) = silent();
        let until = Instant::now() + Duration::from_secs(1);
        let error = race(&[free, dead], until, &|| false).expect_err("nobody answers");
        assert_eq!(error, format!("{free}: Connection refused (os error 111), {dead}: connection timed out"));
        // A stop is not waited for.
        let began = Instant::now();
        assert!(race(&[dead], soon(), &|| began.elapsed() > Duration::from_millis(100)).is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn names_and_addresses_are_resolved() {
        assert_eq!(resolve("[::1]", 7), Ok(vec![parse("[::1]:7")]));
        assert_eq!(resolve("127.0.0.1", 7), Ok(vec![parse("127.0.0.1:7")]));
        assert!(resolve("localhost", 7).is_ok_and(|all| all.iter().all(|a| a.ip().is_loopback())));
        let error = resolve("no-such-host.invalid", 7).expect_err("there is none");
        assert!(error.starts_with("no-such-host.invalid: "), "{error}");
    }

    #[test]
    fn a_low_water_mark_holds_a_wait_until_there_is_enough_or_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let reader = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (mut writer, _) = listener.accept().expect("the same");
        let readable = |longest| {
            let mut fds = [PollFd::new(&reader, PollFlags::IN)];
            wait(&mut fds, longest).expect("a wait");
            !fds[0].revents().is_empty()
        };
        let (brief, long) = (Duration::from_millis(200), Duration::from_secs(20));
        set_low_water(&reader, 64 << 10).expect("taken");
        writer.write_all(&[7; 1_000]).expect("written");
        assert!(!readable(brief), "a little is not enough");
        reader.set_nonblocking(true).expect("a socket");
        let mut buffer = vec![0; 100];
        assert_eq!((&reader).read(&mut buffer).ok(), Some(100), "but it can be read");
        writer.write_all(&[7; 70 << 10]).expect("written");
        assert!(readable(long), "enough");
        buffer.resize(80 << 10, 0);
        while (&reader).read(&mut buffer).is_ok() {}
        writer.write_all(&[7]).expect("written");
        assert!(!readable(brief));
        set_low_water(&reader, 1).expect("taken");
        assert!(readable(long), "from the first byte on");
        set_low_water(&reader, 64 << 10).expect("taken");
        drop(writer);
        assert!(readable(long), "the end is told");
    }
}

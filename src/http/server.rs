//! The listener in front of the pages: one thread, non-blocking sockets and poll(2). Whatever clients do, the number of
//! connections, the bytes and the time that each may cost are limited, and none waits for another.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::connection::{Connection, Request, Stream};

/// Connections at once. Two Prometheus servers, a health check and a person need fewer.
const MAX_CONNECTIONS: usize = 32;
/// But no more than this part of the descriptors that the process may have: the rest belongs to state files and brokers.
const SHARE: u64 = 8;
/// Where nothing can be accepted, and nothing closed for it: until the next attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// A client, and whether it connected from this machine.
struct Socket(TcpStream, bool);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn finish(&mut self) {
        // Fails when the client is gone, which the next read tells.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// Answers for as long as the process lives: with the request, and whether the connection is of this machine.
pub fn serve(listener: &TcpListener, mut answer: impl FnMut(Request<'_>, bool) -> Vec<u8>) {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = MAX_CONNECTIONS.min(descriptors.map_or(MAX_CONNECTIONS, |n| (n / SHARE) as usize)).max(2);
    let mut connections: Vec<Connection<Socket>> = Vec::new();
    let mut paused: Option<Instant> = None;
    loop {
        let now = Instant::now();
        paused = paused.filter(|until| *until > now);
        let next = connections.iter().map(Connection::deadline).chain(paused).min();
        let timeout = next.map(|at| {
            // A millisecond later, so that it is over then.
            let left = at.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let accepts = if paused.is_some() { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![PollFd::new(listener, accepts)];
        for c in &connections {
            fds.push(PollFd::new(&c.stream.0, if c.writes() { PollFlags::OUT } else { PollFlags::IN }));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // The kernel has no memory: it may have some in a moment.
            Err(_) => std::thread::sleep(PAUSE),
        }
        let due: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let now = Instant::now();
        let mut i = 0;
        connections.retain_mut(|c| {
            i += 1;
            let turn = due[i] || c.deadline() <= now;
            let from_here = c.stream.1;
            !turn || c.go_on(now, |request| answer(request, from_here))
        });
        if due[0] && !accept(listener, &mut connections, most, now) {
            paused = Some(now + PAUSE);
        }
    }
}

/// Takes in who waits, one for each that may be there. `false`: there was no descriptor for it.
fn accept(listener: &TcpListener, connections: &mut Vec<Connection<Socket>>, most: usize, now: Instant) -> bool {
    for _ in 0..most {
        let socket = match listener.accept() {
            // Loopback is written in IPv6 where the port takes both kinds of address.
            Ok((socket, peer)) => Socket(socket, peer.ip().to_canonical().is_loopback()),
            Err(e) => match e.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // One of ours gives way, so that a health check finds a place even so.
                    if !make_room(connections) {
                        return false;
                    }
                    continue;
                }
                // Nobody waits any more, or the one who waited has gone.
                Some(Errno::WOULDBLOCK) => return true,
                _ => continue,
            },
        };
        if connections.len() >= most {
            make_room(connections);
        }
        // Fails for a client that is gone.
        if socket.0.set_nonblocking(true).is_ok() {
            let _ = socket.0.set_nodelay(true);
            connections.push(Connection::new(socket, now));
        }
    }
    true
}

/// Closes the one that has waited longest without a whole head; where all have one, the oldest.
fn make_room(connections: &mut Vec<Connection<Socket>>) -> bool {
    // The order is that of their coming.
    let at = connections.iter().position(Connection::is_without_head).unwrap_or(0);
    let is_there = at < connections.len();
    if is_there {
        connections.remove(at);
    }
    is_there
}

//! What the service manager is told (sd_notify(3)): ready, how it goes, alive, stopping. It owns the socket of the
//! manager, and asks `health` what is the case. On the main thread.
//!
//! By hand: it is one datagram, and the `sd-notify` crate knows no abstract sockets and reads the environment by itself.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::health::Health;
use crate::log::plain::plain;

/// Between two signs of life, at most; a watchdog may want them more often.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How much longer a start may take after each sign of life. One look for a broker takes some seconds with librdkafka, and
/// up to two minutes for each server with the `kafka` crate.
const MORE_TIME: Duration = Duration::from_secs(300);
/// Bytes of a status. What upstream says may hold line ends, and a line is an assignment.
const STATUS: usize = 2_000;
/// A manager that does not read must not hold us up.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the environment says of the manager.
#[derive(Debug, Clone)]
pub struct Manager {
    /// A path, or `@` and an abstract name.
    pub socket: String,
    /// It ends us after so long without a sign of life.
    pub watchdog: Option<Duration>,
}

/// The line to the manager.
pub struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
    ready: bool,
    stopping: bool,
    /// The producer's turns at the last sign of life.
    turns: u64,
    alive: Option<Instant>,
}

impl Systemd {
    /// Talks to this manager. Fails when its address cannot be one, or no socket can be made.
    pub fn new(manager: &Manager) -> io::Result<Systemd> {
        let address = match manager.socket.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&manager.socket)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let watchdog = manager.watchdog;
        Ok(Systemd { socket, address, watchdog, ready: false, stopping: false, turns: 0, alive: None })
    }

    /// Says that all is connected, or that another instance works, once, and that we live, as long as the producer comes round: whether it delivers then
    /// does not matter, since no restart brings a broker or a relay back.
    pub fn tick(&mut self, health: &Health) {
        if !self.ready && !self.stopping && health.ready().is_ok() {
            let status = if health.is_standby() { "standby" } else { "connected" };
            self.ready = self.tell(&format!("READY=1\nSTATUS={status}"));
        }
        let every = self.watchdog.map_or(ALIVE_EVERY, |w| ALIVE_EVERY.min(w / 4));
        let turns = health.turns();
        if turns == self.turns || self.alive.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        let told = match (self.ready, self.watchdog) {
            // The watchdog is not awake yet: a start has a time of its own.
            (false, _) => self.tell(&format!("EXTEND_TIMEOUT_USEC={}", MORE_TIME.as_micros())),
            (true, Some(_)) => self.tell("WATCHDOG=1"),
            (true, None) => true,
        };
        if told {
            (self.turns, self.alive) = (turns, Some(Instant::now()));
        }
    }

    /// How it goes, for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}", plain(text, STATUS)));
    }

    /// We are about to end, and why.
    pub fn stopping(&mut self, why: &str) {
        self.stopping = true;
        self.tell(&format!("STOPPING=1\nSTATUS={}", plain(why, STATUS)));
    }

    /// Whether the manager took it. It may be away for a moment, while it starts itself anew.
    fn tell(&self, message: &str) -> bool {
        self.socket.send_to_addr(message.as_bytes(), &self.address).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        while let Ok(n) = socket.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        all
    }

    #[test]
    fn signs_of_life_follow_the_producer_and_no_text_can_say_ready() {
        let name = format!("atkafka-systemd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("an abstract socket");
        manager.set_nonblocking(true).expect("set");
        let watchdog = Some(Duration::from_millis(40));
        let mut systemd = Systemd::new(&Manager { socket: format!("@{name}"), watchdog }).expect("a line");
        let wait = || std::thread::sleep(Duration::from_millis(11));
        let health = Health::default();
        health.add_source("relay", true);
        systemd.tick(&health);
        assert_eq!(heard(&manager), Vec::<String>::new(), "the producer has not come round");
        health.turn();
        systemd.tick(&health);
        assert_eq!(heard(&manager), ["EXTEND_TIMEOUT_USEC=300000000"]);
        health.source(0, Ok(()));
        health.sink(Ok(()));
        wait();
        systemd.tick(&health);
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=connected"], "no turn since the last sign of life");
        health.turn();
        systemd.tick(&health);
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
        health.turn();
        systemd.tick(&health);
        assert_eq!(heard(&manager), Vec::<String>::new(), "a quarter of the watchdog's time is not over");
        wait();
        health.source(0, Err("away\nREADY=1".into()));
        systemd.tick(&health);
        assert_eq!(heard(&manager), ["WATCHDOG=1"], "an outage is no hang");
        systemd.status(&health.ready().expect_err("not connected"));
        systemd.stopping("asked");
        assert_eq!(
            heard(&manager),
            ["STATUS=not connected to relay: away\\nREADY=1", "STOPPING=1\nSTATUS=asked"].map(String::from)
        );
    }
}

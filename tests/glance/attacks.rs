//! What anybody who reaches the HTTP port may do to it: the process lives, delivers, saves its position and answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;
use crate::{DID, SOON};

/// What the port may cost under any of this.
const MORE_MEMORY: u64 = 16 << 20;

fn events(seqs: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    seqs.map(|seq| identity_frame(seq, DID, A_TIME, None)).collect()
}

struct Target {
    bridge: Bridge,
    relay: Relay,
    before: u64,
    state: PathBuf,
}

impl Target {
    fn start() -> Target {
        let relay = Relay::start(RelayConfig::script(events(1..=50))).expect("a relay");
        let state = folder("state");
        let bridge = Bridge::start(&[
            "firehose",
            "relay",
            "--relay-host",
            &relay.url(),
            "--cursor",
            "oldest",
            "--state-dir",
            &state.to_string_lossy(),
        ]);
        bridge.wait_delivered(50, SOON);
        let before = bridge.peak_memory();
        Target { bridge, relay, before, state }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.bridge.port)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        socket.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        socket
    }

    /// What `bytes` are answered with.
    fn say(&self, bytes: &[u8]) -> String {
        let mut socket = self.connect();
        socket.write_all(bytes).expect("written");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer and the end");
        answer
    }

    /// `/healthz` within a second, now.
    fn answers(&self, beside: &str) {
        let asked = Instant::now();
        assert_eq!(self.bridge.get("/healthz"), Some((200, "ok\n".into())), "beside {beside}");
        assert!(asked.elapsed() < Duration::from_secs(1), "beside {beside}: {:?}", asked.elapsed());
    }

    /// It answers, is not much larger, and ends as it should with its position saved.
    fn end_well(self, after: &str) {
        self.answers(after);
        let more = self.bridge.peak_memory().saturating_sub(self.before);
        assert!(more <= MORE_MEMORY, "{after}: {more} bytes more");
        assert_eq!(self.bridge.stop().0, Some(0), "{after}");
        assert!(std::fs::read_dir(self.state).expect("there").count() > 0);
        drop(self.relay);
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[test]
fn bodies_are_never_waited_for_nor_given_room() {
    let target = Target::start();
    for length in ["999999999999999", "9223372036854775808", "99999999999999999999999", "5000", "-1", "x"] {
        let answer =
            target.say(format!("GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes());
        assert_eq!(status(&answer), "200", "{length}: {answer}");
    }
    let chunked = b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(status(&target.say(chunked)), "405");
    // A client that sends its body all the same reads the answer, and no reset.
    let body = [&b"POST /metrics HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"[..], &[b'x'; 60_000]].concat();
    let answer = target.say(&body);
    assert!(status(&answer) == "405" && answer.contains("Allow: GET, HEAD"), "{answer}");
    target.end_well("bodies");
}

#[test]
fn a_head_has_a_limit() {
    let target = Target::start();
    let long = format!("GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(9_000));
    assert_eq!(status(&target.say(long.as_bytes())), "431");
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(70));
    assert_eq!(status(&target.say(many.as_bytes())), "431");
    assert_eq!(status(&target.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")), "400");
    assert_eq!(status(&target.say(&[0; 100])), "400");
    // A header line without end.
    let mut socket = target.connect();
    socket.write_all(b"GET / HTTP/1.1\r\nA: ").expect("written");
    let (mut sent, began) = (0u64, Instant::now());
    while began.elapsed() < Duration::from_secs(10) && socket.write_all(&[b'x'; 1 << 16]).is_ok() {
        sent += 1 << 16;
    }
    assert!(began.elapsed() < Duration::from_secs(8), "it is cut off: {sent} bytes in {:?}", began.elapsed());
    target.end_well("a head without end");
}

#[test]
fn idle_connections_hold_nobody_up() {
    let target = Target::start();
    let idle: Vec<TcpStream> = (0..600).map(|_| target.connect()).collect();
    target.answers("600 idle connections");
    drop(idle);
    let halves: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut socket = target.connect();
            let _ = socket.write_all(b"GET /me");
            socket
        })
        .collect();
    target.answers("halves of requests");
    for socket in &halves {
        let _ = socket.shutdown(Shutdown::Write);
    }
    target.answers("half-closed connections");
    // One that sends a byte now and then is cut off in the end.
    let (mut slow, began) = (target.connect(), Instant::now());
    while began.elapsed() < Duration::from_secs(10) && slow.write_all(b"G").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    target.end_well("idle connections");
}

#[test]
fn clients_that_do_not_read_hold_nobody_up() {
    let target = Target::start();
    let deaf: Vec<TcpStream> = (0..600)
        .filter_map(|_| {
            let mut socket = target.connect();
            socket.write_all(&b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20)).ok()?;
            Some(socket)
        })
        .collect();
    assert!(deaf.len() > 500, "{}", deaf.len());
    target.answers("600 scrapes that nobody reads");
    // One answer a connection.
    let answer = target.say(&b"GET /healthz HTTP/1.1\r\n\r\n".repeat(20));
    assert_eq!(answer.matches("HTTP/1.0 200").count(), 1, "{answer}");
    // Who has sent all that he wants to say, and listens.
    let mut half = target.connect();
    half.write_all(b"HEAD /metrics HTTP/1.0\r\n\r\n").expect("written");
    half.shutdown(Shutdown::Write).expect("half closed");
    let mut answer = String::new();
    half.read_to_string(&mut answer).expect("an answer");
    assert!(status(&answer) == "200" && answer.ends_with("\r\n\r\n"), "{answer}");
    target.end_well("clients that do not read");
}

#[test]
fn with_64_descriptors_it_still_delivers_saves_and_answers() {
    let config = RelayConfig { rate: 20.0, ..RelayConfig::script(events(1..=4_000)) };
    let relay = Relay::start(config).expect("a relay");
    let (port, state) = (free_port(), folder("state"));
    let script = format!(
        "ulimit -n 64; exec {} firehose relay --relay-host {} --cursor oldest --state-dir {} --metrics-listen-address 127.0.0.1:{port}",
        env!("CARGO_BIN_EXE_atkafka"),
        relay.url(),
        state.display()
    );
    let mut child = std::process::Command::new("sh")
        .args(["-c", &script])
        .env_clear()
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    let metric = |name: &str| -> Option<f64> {
        let (_, text) = http_get(port, "/metrics")?;
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    };
    let saved = || metric("atkafka_checkpoint_saves{status=\"ok\"}").unwrap_or(0.0);
    let until = Instant::now() + SOON;
    while saved() < 1.0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let idle: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    assert!(idle.len() > 150, "{}", idle.len());
    let before = saved();
    let until = Instant::now() + SOON;
    while saved() < before + 2.0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (after, failed) = (saved(), metric("atkafka_checkpoint_saves{status=\"error\"}"));
    child.kill().expect("killed");
    child.wait().expect("waited");
    assert!(after >= before + 2.0 && failed == Some(0.0), "saved {before}, then {after}; failed {failed:?}");
}

//! A relay that sends what no honest one does: everything else arrives, in order; each bad thing is counted with its reason;
//! the process stays up and ends with 0.

#[path = "hostile/bad_frames.rs"]
mod bad_frames;
#[path = "hostile/deep.rs"]
mod deep;
#[path = "support/flood.rs"]
mod flood;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/seqs.rs"]
mod seqs;
#[path = "hostile/silence.rs"]
mod silence;
mod support;
#[path = "hostile/unreadable.rs"]
mod unreadable;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use atkafka_fixtures::network::builder::{self, Commit, Op};
use atkafka_fixtures::network::{Kind, Network};
use atkafka_fixtures::relay::{CursorRule, DropHow, Inject, Numbering, Relay, RelayConfig, wire};
use atkafka_fixtures::{car, frames};
use ipld_core::ipld;
use sonic_rs::JsonValueTrait;
use support::*;

const SEED: u64 = 20_260_704;
const DID: &str = "did:plc:hostilehostilehostile22";
const REV: &str = "3mptbypluud2a";
const PATIENCE: Duration = Duration::from_secs(90);

/// What the relay sends, and what has to come of it.
struct Script {
    frames: Vec<Vec<u8>>,
    injects: Vec<Inject>,
    /// Every event in order: seq and what it says.
    events: Vec<(u64, String)>,
    dead: BTreeMap<&'static str, u64>,
    seq: u64,
    network: Network,
}

impl Script {
    fn new(accounts: usize) -> Script {
        println!("seed {SEED}");
        Script {
            frames: Vec::new(),
            injects: Vec::new(),
            events: Vec::new(),
            dead: BTreeMap::new(),
            seq: 0,
            network: Network::with_records(SEED, accounts, 100),
        }
    }

    fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Honest frames of the network, and each fifth one a commit of several ops.
    fn good(&mut self, count: usize) {
        for i in 0..count {
            let seq = self.next();
            if i % 5 == 4 {
                self.many(seq);
                continue;
            }
            let frame = self.network.next_frame();
            self.frames.push(frames::with_seq(&frame.bytes, seq));
            match frame.kind {
                Kind::Commit => {
                    for op in &frame.truth {
                        let cid = op.cid.as_deref().unwrap_or_default();
                        self.events.push((seq, format!("{} {}/{} {cid}", op.action, op.collection, op.rkey)));
                    }
                }
                Kind::Sync => self.events.push((seq, format!("sync {}", frame.did))),
                Kind::Identity => self.events.push((seq, format!("identity {}", frame.did))),
                Kind::Account => self.events.push((seq, format!("account {}", frame.did))),
            }
        }
    }

    fn many(&mut self, seq: u64) {
        let mut commit = Commit::new(DID, REV);
        for i in 0..6 {
            let op = sibling(seq, i);
            self.events.push((seq, say(&op)));
            commit = commit.op(op);
        }
        self.frames.push(commit.frame(seq));
    }

    /// A frame that gives nothing but a dead letter for each reason.
    fn bad(&mut self, bytes: Vec<u8>, reasons: &[&'static str]) {
        self.frames.push(bytes);
        self.count(reasons);
        self.good(2);
    }

    fn count(&mut self, reasons: &[&'static str]) {
        for reason in reasons {
            *self.dead.entry(reason).or_default() += 1;
        }
    }

    /// A commit with bad ops between two good ones.
    fn ops(&mut self, bad: Vec<Op>, reasons: &[&'static str]) {
        let seq = self.next();
        let (first, last) = (sibling(seq, 0), sibling(seq, 1));
        self.events.extend([(seq, say(&first)), (seq, say(&last))]);
        let commit = Commit::new(DID, REV).op(first).ops(bad).op(last);
        self.bad(commit.frame(seq), reasons);
    }

    /// A commit, with what its ops give.
    fn commit(&mut self, commit: &Commit, arrive: &[Op], reasons: &[&'static str]) {
        let seq = self.next();
        self.events.extend(arrive.iter().map(|op| (seq, say(op))));
        self.bad(commit.frame(seq), reasons);
    }

    fn inject(&mut self, inject: impl FnOnce(u64) -> Inject) {
        self.injects.push(inject(self.frames.len() as u64).once());
    }

    fn config(&self) -> RelayConfig {
        let mut config = RelayConfig::script(self.frames.clone());
        config.faults.inject = self.injects.clone();
        config
    }
}

/// A good op that is like no other.
fn sibling(seq: u64, i: u32) -> Op {
    let record = builder::record(&ipld!({ "$type": "com.example.thing", "seq": seq as i128, "i": i }));
    let path = format!("com.example.thing/{seq}-{i}");
    if i % 3 == 1 { Op::delete(&path, None) } else { Op::create(&path, &record) }
}

fn say(op: &Op) -> String {
    let cid = op.cid.map(|c| c.to_string()).unwrap_or_default();
    format!("{} {} {cid}", op.action, op.path)
}

/// The same words of an event that arrived.
fn said(event: &sonic_rs::Value) -> (u64, String) {
    let text = |v: &sonic_rs::Value| v.as_str().unwrap_or_default().to_string();
    let seq = event["seq"].as_u64().unwrap_or(0);
    let op = &event["operation"];
    if op.is_object() {
        return (seq, format!("{} {} {}", text(&op["action"]), text(&op["path"]), text(&op["cid"])));
    }
    let kind = ["sync", "identity", "account"].into_iter().find(|kind| event[*kind].is_object());
    match kind {
        Some(kind) => (seq, format!("{kind} {}", text(&event["did"]))),
        None => (0, format!("info {}", text(&event["info"]["name"]))),
    }
}

fn compare(arrived: &[(u64, String)], expected: &[(u64, String)]) {
    if let Some(i) = arrived.iter().zip(expected).position(|(a, b)| a != b) {
        panic!(
            "event {i}: arrived {:?}, expected {:?}",
            &arrived[i..arrived.len().min(i + 3)],
            &expected[i..expected.len().min(i + 3)]
        );
    }
    assert_eq!(arrived.len(), expected.len(), "events in all");
}

fn check_dead(bridge: &Bridge, expected: &BTreeMap<&'static str, u64>) {
    let metrics = bridge.metrics();
    for reason in atkafka::dead_letter::Reason::ALL.map(|r| r.name()) {
        let counted = metrics.get(&format!("atkafka_dead_letters{{reason=\"{reason}\"}}")).copied().unwrap_or(-1.0);
        assert_eq!(counted, expected.get(reason).copied().unwrap_or(0) as f64, "dead letters for {reason}");
    }
}

fn identity(seq: u64) -> Vec<u8> {
    builder::identity_frame(seq, DID, builder::A_TIME, Some("a.example"))
}

/// What breaks the websocket: the connection ends, another one goes on behind the last frame.
#[test]
fn a_broken_websocket_is_opened_again_and_nothing_is_lost() {
    let close = |payload: &[u8]| wire::message(wire::CLOSE, payload);
    let masked = |payload: &[u8]| {
        let mut out = vec![0x82, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        out.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(b, m)| b ^ m));
        out
    };
    let breaks: Vec<(&str, Vec<u8>)> = vec![
        ("a masked frame", masked(b"hello")),
        ("a reserved opcode", wire::message(3, b"x")),
        ("a reserved control opcode", wire::message(0xb, b"x")),
        ("a reserved bit", vec![0xc2, 0x01, 0x00]),
        ("a continuation of nothing", wire::fragment(true, wire::CONTINUATION, b"x")),
        ("a message inside another", {
            [wire::fragment(false, wire::BINARY, b"x"), wire::message(wire::BINARY, b"y")].concat()
        }),
        ("a ping in fragments", wire::fragment(false, wire::PING, b"x")),
        ("a ping of 126 bytes", wire::message(wire::PING, &[0; 126])),
        ("a text that is not UTF-8", wire::message(wire::TEXT, b"\xc3\x28")),
        ("HTTP", format!("HTTP/1.1 500 Internal Server Error\r\n\r\n{}", "oops ".repeat(60)).into_bytes()),
        ("a close without a code", close(b"")),
        ("a close of one byte", close(b"\x03")),
        ("a close with code 0", wire::close(0, "")),
        ("a close with code 999", wire::close(999, "odd")),
        ("a close with code 1005", wire::close(1005, "")),
        ("a close with code 1012", wire::close(1012, "service restart")),
        ("a close with code 65535", wire::close(65_535, "x")),
        ("a close that is not UTF-8", close(b"\x03\xe8\xff\xff")),
    ];
    let mut s = Script::new(2);
    // New frames make a connection a good one, so that the wait before the next is short.
    let many = |s: &mut Script| {
        for _ in 0..1_000 {
            let seq = s.next();
            let op = Op::delete(&format!("com.example.thing/{seq}"), None);
            s.events.push((seq, say(&op)));
            s.frames.push(Commit::new(DID, REV).op(op).frame(seq));
        }
    };
    many(&mut s);
    // What is odd and allowed: a message in pieces with a ping between them, pings and pongs of any size.
    let seq = s.next();
    let op = sibling(seq, 0);
    s.events.push((seq, say(&op)));
    let frame = Commit::new(DID, REV).op(op).frame(seq);
    let (a, rest) = frame.split_at(1);
    let (b, c) = rest.split_at(rest.len() / 2);
    let pieces = [
        wire::fragment(false, wire::BINARY, a),
        wire::message(wire::PING, &[7; 125]),
        wire::fragment(false, wire::CONTINUATION, b),
        wire::fragment(false, wire::CONTINUATION, b""),
        wire::message(wire::PONG, b"unasked"),
        wire::fragment(true, wire::CONTINUATION, c),
    ];
    s.inject(|at| Inject::raw(at, pieces.concat()));
    many(&mut s);
    // Where each connection ends.
    let mut ends = Vec::new();
    for (_, bytes) in &breaks {
        ends.push(s.frames.len() as u64);
        s.inject(|at| Inject::raw(at, bytes.clone()));
        many(&mut s);
    }
    // Error frames that the relay means.
    ends.push(s.frames.len() as u64);
    s.inject(|at| {
        let frame = frames::error_frame("ConsumerTooSlow", Some("too slow"));
        Inject::binary(at, &frame).then(DropHow::Close(1008, "ConsumerTooSlow".into()))
    });
    s.events.push((0, "info consumer_too_slow".into()));
    many(&mut s);
    ends.push(s.frames.len() as u64);
    s.inject(|at| Inject::binary(at, &frames::error_frame("InternalError", None)).then(DropHow::Rst));
    many(&mut s);

    // The relay gives no frames beyond the next break, since those would be on their way when it comes, and lost.
    let relay = Relay::start(RelayConfig { live_limit: Some(0), ..s.config() }).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
    // Beyond the message in pieces, and not yet to the first break, which could overtake the pong.
    relay.set_live_limit(1_500);
    assert!(relay.wait_until(PATIENCE, |s| s.pongs >= 1), "the ping between the pieces was answered");
    for (i, end) in ends.iter().enumerate() {
        relay.set_live_limit(*end);
        let name = breaks.get(i).map_or("an error frame", |b| b.0);
        bridge.wait(&format!("a new connection after {name}"), PATIENCE, |_| relay.stats().connections.len() == i + 2);
    }
    relay.set_live_limit(s.frames.len() as u64);
    bridge.wait_delivered(s.seq, PATIENCE);
    bridge.wait("every event is out", PATIENCE, |b| b.lines().len() >= s.events.len());
    let parse = |line: &String| said(&sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:.200}")));
    compare(&bridge.lines().iter().map(parse).collect::<Vec<_>>(), &s.events);
    check_dead(&bridge, &BTreeMap::new());
    let stats = relay.stats();
    assert_eq!(stats.connections.len(), breaks.len() + 3, "each break ended one connection, and nothing else did");
    assert_eq!(bridge.metric("atkafka_reconnects"), (breaks.len() + 2) as f64);
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|l| l.contains("panicked")), "{}", log.join("\n"));
}

/// A frame over the limit cannot be read; the bridge gets past it, says so, and goes on, whatever the cursor means to the host.
#[test]
fn a_message_over_the_limit_is_passed_and_reported_as_a_gap() {
    for rule in [CursorRule::Exclusive, CursorRule::Inclusive] {
        let mut s = Script::new(5);
        s.good(30);
        let seq = s.next();
        s.frames.push(Commit::new(DID, REV).car(&vec![1; 6_000_000]).frame(seq));
        s.events.push((0, "info over_limit".into()));
        s.good(10);
        // Two in a row.
        for _ in 0..2 {
            let seq = s.next();
            s.frames.push(Commit::new(DID, REV).car(&vec![1; 7_000_000]).frame(seq));
            s.events.push((0, "info over_limit".into()));
        }
        s.good(30);
        let config = RelayConfig { cursor: rule, numbering: Numbering::AsIs, ..s.config() };
        let relay = Relay::start(config).expect("a relay");
        let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
        bridge.wait_delivered(s.seq, PATIENCE);
        bridge.wait("every event is out", PATIENCE, |b| b.lines().len() >= s.events.len());
        let parse = |line: &String| said(&sonic_rs::from_str(line).expect("JSON"));
        compare(&bridge.lines().iter().map(parse).collect::<Vec<_>>(), &s.events);
        assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"over_limit\"}"), 3.0, "{rule:?}");
        assert_eq!(bridge.metric("atkafka_gaps{kind=\"over_limit\"}"), 3.0, "{rule:?}");
        assert_eq!(relay.stats().connections.len(), 1, "{rule:?}");
        let (code, _) = bridge.stop();
        assert_eq!(code, Some(0));
    }
}

/// A line error comes once; a message that the host keeps comes with each connection, and must not hold us for ever.
#[test]
fn a_message_that_breaks_every_connection_is_passed_and_reported_as_a_gap() {
    for rule in [CursorRule::Exclusive, CursorRule::Inclusive] {
        let mut s = Script::new(6);
        s.good(30);
        // What stands behind the broken message is given up with it.
        let seq = s.next();
        s.frames.push(Commit::new(DID, REV).frame(seq));
        s.events.push((0, "info over_limit".into()));
        s.good(30);
        let mut config = RelayConfig { cursor: rule, numbering: Numbering::AsIs, ..s.config() };
        // A masked frame, which no server may send.
        config.faults.inject.push(Inject::raw(30, vec![0x82, 0x81, 1, 2, 3, 4, 5]));
        let relay = Relay::start(config).expect("a relay");
        let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
        bridge.wait_delivered(s.seq, PATIENCE);
        bridge.wait("every event is out", PATIENCE, |b| b.lines().len() >= s.events.len());
        let parse = |line: &String| said(&sonic_rs::from_str(line).expect("JSON"));
        compare(&bridge.lines().iter().map(parse).collect::<Vec<_>>(), &s.events);
        assert_eq!(bridge.metric("atkafka_gaps{kind=\"over_limit\"}"), 1.0);
        assert_eq!(bridge.metric("atkafka_dead_letters"), 1.0, "one letter a message");
        let (code, _) = bridge.stop();
        assert_eq!(code, Some(0));
    }
}

/// A host that answers each upgrade and then sends no websocket, until it is well again: what it has is not passed over.
#[test]
fn a_host_that_is_ill_for_a_while_loses_nothing() {
    let mut s = Script::new(7);
    s.good(60);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let url = format!("ws://127.0.0.1:{port}");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &url, "--cursor", "oldest"]);
    // Four in the same place are a message that the host keeps: some more, and it is being passed.
    for _ in 0..7 {
        let (mut stream, _) = listener.accept().expect("a connection");
        let request = wire::read_request(&mut stream).expect("a request");
        let answer = [wire::upgrade(&request.key.expect("a key")).into_bytes(), vec![0xff; 40]].concat();
        stream.write_all(&answer).expect("an answer");
    }
    drop(listener);
    let relay = Relay::start(RelayConfig { port, numbering: Numbering::AsIs, ..s.config() }).expect("a relay");
    bridge.wait_delivered(s.seq, PATIENCE);
    bridge.wait("every event is out", PATIENCE, |b| b.lines().len() >= s.events.len());
    let parse = |line: &String| said(&sonic_rs::from_str(line).expect("JSON"));
    compare(&bridge.lines().iter().map(parse).collect::<Vec<_>>(), &s.events);
    assert!(relay.stats().connections.len() < 10);
    let (code, _) = bridge.stop();
    assert_eq!(code, Some(0));
}

/// The largest message that is allowed, and the commit in it: good.
#[test]
fn a_frame_just_under_the_limit_is_read() {
    let mut s = Script::new(5);
    s.good(3);
    let op = sibling(9, 0);
    let mut commit = Commit::new(DID, REV).op(op.clone());
    commit.blocks.push((car::cid_of(&vec![3; 5_300_000]), vec![3; 5_300_000]));
    s.commit(&commit, &[op], &[]);
    let relay = Relay::start(s.config()).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
    bridge.wait_delivered(s.seq, PATIENCE);
    bridge.wait("every event is out", PATIENCE, |b| b.lines().len() >= s.events.len());
    let parse = |line: &String| said(&sonic_rs::from_str(line).expect("JSON"));
    compare(&bridge.lines().iter().map(parse).collect::<Vec<_>>(), &s.events);
    assert_eq!(relay.stats().connections.len(), 1);
    assert_eq!(bridge.stop().0, Some(0));
}

//! Who is behind an event: what is looked up and written, what is not known and how long an event waits for it, what
//! makes an answer old, what a hostile or dead directory does, and the filters by service.

#[path = "enrichment/freshness.rs"]
mod freshness;
#[path = "support/golden.rs"]
mod golden;
#[path = "enrichment/osprey.rs"]
mod osprey;
#[path = "enrichment/hostile_answers.rs"]
mod hostile_answers;
#[path = "enrichment/kept.rs"]
mod kept;
#[path = "support/oracle.rs"]
mod oracle;
#[path = "enrichment/outages.rs"]
mod outages;
#[path = "enrichment/rates.rs"]
mod rates;
#[path = "enrichment/services.rs"]
mod services;
mod support;
#[path = "enrichment/written.rs"]
mod written;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use atkafka_fixtures::directory::{Directory, Kind, Reply};
use atkafka_fixtures::network::builder::{A_TIME, Commit, Op, identity_frame, record};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use ipld_core::ipld;
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};
use support::*;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// After a SIGTERM.
const STOP: Duration = Duration::from_secs(12);
const PDS: &str = "https://pds.example";
const REV: &str = "3kaaaaaaaaaa2";
/// From CREATED_AT to A_TIME, in seconds.
const AGE: u64 = 67_046_400;
/// All that a PLC directory tells, in the order of the alphabet.
const FROM_PLC: [&str; 5] = ["accountAge", "didCreatedAt", "didDocument", "handle", "pdsHost"];

/// The DID of account `n`.
fn did(n: usize) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyz234567";
    let id: String = (0..24).rev().map(|i| char::from(letters[n.checked_shr(5 * i).unwrap_or(0) & 31])).collect();
    format!("did:plc:{id}")
}

/// The handle that the directory of a [`Stage`] gives to an account that nobody wrote down.
fn handle(did: &str) -> String {
    format!("{}.example", did.trim_start_matches("did:plc:"))
}

/// A post by `did`, of which there is one with each seq.
fn post(did: &str, seq: u64) -> Vec<u8> {
    let content = record(&ipld!({ "$type": "app.bsky.feed.post", "text": "hello" }));
    Commit::new(did, REV).op(Op::create(&format!("app.bsky.feed.post/k{seq}"), &content)).frame(seq)
}

/// A directory that knows every did:plc, and a relay to which a test adds events, numbered from 1.
struct Stage {
    directory: Directory,
    relay: Relay,
    seq: Cell<u64>,
}

impl Stage {
    fn new() -> Stage {
        Stage { directory: everybody(), relay: relay(RelayConfig::script(vec![])), seq: Cell::new(0) }
    }

    /// With `--plc-host`, and `--api-host` when `more` asks for it with `API`.
    fn start(&self, more: &[&str]) -> Bridge {
        start(&self.relay, &self.directory, more)
    }

    fn push(&self, frame: impl FnOnce(u64) -> Vec<u8>) -> u64 {
        self.seq.set(self.seq.get() + 1);
        self.relay.push(&frame(self.seq.get()))
    }

    fn post(&self, did: &str) -> u64 {
        self.push(|seq| post(did, seq))
    }

    /// One post of each of these accounts.
    fn posts(&self, accounts: impl IntoIterator<Item = usize>) {
        for n in accounts {
            self.post(&did(n));
        }
    }

    /// Whom nobody knows.
    fn unknown(&self, did: &str) {
        for kind in [Kind::Document, Kind::AuditLog] {
            self.directory.answer_about(kind, did, Some(Reply::unknown(did)));
        }
        self.directory.set_profile(did, None);
    }

    fn identity(&self, did: &str) -> u64 {
        self.push(|seq| identity_frame(seq, did, A_TIME, None))
    }

    /// Post after post by `did`, until one has all metadata.
    fn becomes_complete(&self, bridge: &Bridge, did: &str, within: Duration) {
        let until = Instant::now() + within;
        let mut last = self.event_of(bridge, did);
        while parts(&last) != FROM_PLC && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
            last = self.event_of(bridge, did);
        }
        assert_complete(&last);
    }

    /// One more post by `did`, as the event that it becomes.
    fn event_of(&self, bridge: &Bridge, did: &str) -> Value {
        let seq = self.post(did);
        event(bridge, seq)
    }
}

fn relay(config: RelayConfig) -> Relay {
    Relay::start(config).expect("a relay")
}

/// A directory that knows every did:plc.
fn everybody() -> Directory {
    let directory = Directory::start().expect("a directory");
    directory.make(|did| Some((handle(did), PDS.into())));
    directory
}

/// With `--plc-host`; `API` stands for `--api-host URL`.
fn start(relay: &Relay, directory: &Directory, more: &[&str]) -> Bridge {
    let (url, plc) = (relay.url(), directory.url());
    let mut args = vec!["firehose", "relay", "--relay-host", &url, "--plc-host", &plc];
    for arg in more {
        match *arg {
            "API" => args.extend(["--api-host", &plc]),
            arg => args.push(arg),
        }
    }
    Bridge::start(&args)
}

fn json(line: &str) -> Value {
    sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// The only event with this seq, when it has come.
fn event(bridge: &Bridge, seq: u64) -> Value {
    json(&line(bridge, seq))
}

fn line(bridge: &Bridge, seq: u64) -> String {
    let mark = format!(r#","seq":{seq},"#);
    let find = |b: &Bridge| b.lines().into_iter().find(|l| l.contains(&mark) && l.ends_with('}'));
    bridge.wait(&format!("the event of seq {seq}"), SOON, |b| find(b).is_some());
    find(bridge).expect("just seen")
}

/// All events when there are `count`, in order; not more.
fn events(bridge: &Bridge, count: usize) -> Vec<Value> {
    bridge.wait(&format!("{count} events"), SOON, |b| b.lines().len() >= count);
    let lines = bridge.lines();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines.iter().map(|l| json(l)).collect()
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {event}"))
}

/// The names in an event's metadata, in the order of the alphabet.
fn parts(event: &Value) -> Vec<&str> {
    let metadata = event.get("eventMetadata").and_then(|m| m.as_object());
    let names: BTreeSet<&str> = metadata.into_iter().flat_map(|m| m.iter().map(|(name, _)| name)).collect();
    names.into_iter().collect()
}

/// A text in an event's metadata.
fn text<'a>(event: &'a Value, part: &str) -> Option<&'a str> {
    event.get("eventMetadata")?.get(part)?.as_str()
}

#[track_caller]
fn assert_complete(event: &Value) {
    let did = event["did"].as_str().expect("a DID");
    assert_eq!(parts(event), FROM_PLC, "{event}");
    assert_eq!(event["eventMetadata"]["didDocument"]["id"].as_str(), Some(did), "{event}");
    assert_eq!(text(event, "handle"), Some(handle(did).as_str()), "{event}");
}

/// SIGTERM, which has to end it in order and soon.
fn stop(mut bridge: Bridge) {
    bridge.signal("TERM");
    let status = bridge.end(STOP);
    assert_eq!(status.code(), Some(0), "{}", bridge.log().join("\n"));
}

/// The sum of the samples of `metric` that have all of these labels.
fn sum(bridge: &Bridge, metric: &str, labels: &[&str]) -> f64 {
    let metrics = bridge.metrics();
    let mine = metrics.iter().filter(|(name, _)| name.split('{').next() == Some(metric));
    mine.filter(|(name, _)| labels.iter().all(|l| name.contains(l))).map(|(_, v)| v).sum()
}

fn missing(bridge: &Bridge, part: &str) -> f64 {
    sum(bridge, "atkafka_metadata_missing", &[&format!("part=\"{part}\"")])
}

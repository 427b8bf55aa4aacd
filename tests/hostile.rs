//! A relay that sends what no honest one does: everything else arrives, in order; each bad thing is counted with its reason;
//! the process stays up and ends with 0.

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

use atkafka_fixtures::cbor::Writer;
use atkafka_fixtures::network::builder::{self, Commit, Op};
use atkafka_fixtures::network::{Kind, Network};
use atkafka_fixtures::relay::{CursorRule, DropHow, Inject, Numbering, Relay, RelayConfig, wire};
use atkafka_fixtures::{car, frames};
use ipld_core::cid::{Cid, multihash::Multihash};
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

/// Everything a frame can be that still leaves the connection intact.
fn bad_frames() -> Script {
    let mut s = Script::new(200);
    s.good(20);

    // Not frames.
    let mut rng = fastrand::Rng::with_seed(SEED);
    let garbage = |rng: &mut fastrand::Rng, n: usize| {
        let mut bytes = vec![0xff; n];
        rng.fill(&mut bytes[1..]);
        bytes
    };
    s.bad(garbage(&mut rng, 300), &["bad_frame"]);
    s.bad(garbage(&mut rng, 3_000_000), &["bad_frame"]);
    s.bad(Vec::new(), &["bad_frame"]);
    s.bad(vec![0], &["bad_frame"]);
    for text in ["", "{\"hello\": 1}", "é"] {
        s.inject(|at| Inject::text(at, text));
        s.count(&["text_frame"]);
        s.good(1);
    }
    let seq = s.next();
    let whole = Commit::new(DID, REV).op(sibling(seq, 0)).op(sibling(seq, 1)).frame(seq);
    let (_, body) = atkafka::atproto::frame::header(&whole).expect("a header");
    for cut in (0..whole.len()).step_by(whole.len() / 23).chain([body - 1, body, body + 1, whole.len() - 1]) {
        // A cut before the seq leaves none; one behind it takes the seq along, so each needs its own.
        let seq = s.next();
        let cut = &frames::with_seq(&whole, seq)[..cut];
        let no_seq = cut.len() >= body && atkafka::atproto::frame::seq(&cut[body..]).is_none();
        s.bad(cut.to_vec(), if no_seq { &["bad_seq"] } else { &["bad_frame"] });
    }
    let seq = s.next();
    s.bad([Commit::new(DID, REV).op(sibling(seq, 0)).frame(seq), b"\0".to_vec()].concat(), &["bad_frame"]);
    let seq = s.next();
    s.bad([identity(seq), identity(seq)].concat(), &["bad_frame"]);

    // Headers.
    s.bad(frames::header("#handle"), &[]);
    s.bad([frames::header("#something"), b"\xff\xff".to_vec()].concat(), &[]);
    s.bad(b"\xa1\x62op\x07\xa0".to_vec(), &[]);
    s.bad(b"\xa1\x62op\x01\xa0".to_vec(), &["bad_frame"]);
    s.bad(b"\xa1\x61t\x67#commit\xa0".to_vec(), &["bad_frame"]);
    s.bad(b"\xa2\x61t\x01\x62op\x01\xa0".to_vec(), &["bad_frame"]);
    s.bad(b"\x82\x61t\x01".to_vec(), &["bad_frame"]);
    let mut op_first = Commit::new(DID, REV).op(sibling(1, 7));
    op_first.op_first = true;
    s.commit(&op_first, &[sibling(1, 7)], &[]);
    s.bad(frames::error_frame("Trouble", Some("but no close")), &[]);
    s.bad(frames::error_frame("", None), &[]);
    s.bad(b"\xa1\x62op\x20\xff".to_vec(), &[]);
    s.frames.push(frames::error_frame("ConsumerTooSlow", None));
    s.events.push((0, "info consumer_too_slow".into()));
    s.good(2);
    s.frames.push(frames::info_frame("SomethingNew", Some("\u{0} \" \\")));
    s.events.push((0, "info SomethingNew".into()));
    s.good(2);
    s.bad([frames::header("#info"), b"\xa0".to_vec()].concat(), &["bad_frame"]);

    // Seqs.
    let last = s.frames.iter().rev().find(|f| frames::seq_of(f) == Some(s.seq)).expect("the last one").clone();
    s.bad(last, &[]);
    let low = s.seq - 5;
    s.bad(Commit::new(DID, REV).op(sibling(2, 7)).frame(low), &[]);
    s.bad(Commit::new(DID, REV).frame(0), &["bad_seq"]);
    s.bad(Commit::new(DID, REV).frame(1 << 53), &["bad_seq"]);
    s.bad(Commit::new(DID, REV).frame(u64::MAX), &["bad_seq"]);
    let mut negative = Commit::new(DID, REV).frame(1);
    let at = frames::seq_range(&negative).expect("a seq").start;
    negative[at] = 0x20;
    s.bad(negative, &["bad_seq"]);
    let no_seq = Writer::new().map(1).text("did").text(DID).0.clone();
    s.bad([frames::header("#identity"), no_seq].concat(), &["bad_seq"]);
    // One broken seq, far ahead: what follows is not taken for repeats.
    let giant = (1 << 53) - 1;
    s.frames.push(Commit::new(DID, REV).op(sibling(3, 6)).frame(giant));
    s.events.push((giant, say(&sibling(3, 6))));
    s.events.push((0, "info seq_leap".into()));
    s.good(3);

    // Bodies.
    let seq = s.next();
    let body = Writer::new().map(3).text("ops").uint(1).text("seq").uint(seq).text("repo").text(DID).0.clone();
    s.bad([frames::header("#commit"), body].concat(), &["bad_frame"]);
    let seq = s.next();
    let body = Writer::new().map(3).text("ops").array(0).text("seq").uint(seq).text("repo").uint(9).0.clone();
    s.bad([frames::header("#commit"), body].concat(), &["bad_frame"]);
    let seq = s.next();
    let body = Writer::new().map(2).text("seq").uint(seq).text("did").null().0.clone();
    s.bad([frames::header("#account"), body].concat(), &["bad_frame"]);
    // Whose event is it?
    let seq = s.next();
    let mut body = Writer::new();
    body.map(5).text("ops").array(0).text("rev").text(REV).text("seq").uint(seq);
    body.text("repo").text(DID).text("repo").text("did:plc:somebodyelse");
    s.bad([frames::header("#commit"), body.0].concat(), &["bad_frame"]);
    // The reader takes the first; the one behind it must not be believed.
    let seq = s.next();
    let mut body = Writer::new();
    body.map(4).text("ops").array(0).text("seq").uint(seq).text("seq").uint(seq + 9_000).text("repo").text(DID);
    s.bad([frames::header("#commit"), body.0].concat(), &["bad_frame"]);
    let seq = s.next();
    let mut body = Writer::new();
    body.map(3).text("did").text(DID).text("seq").uint(seq).text("did").text("did:plc:somebodyelse");
    s.bad([frames::header("#identity"), body.0].concat(), &["bad_frame"]);
    s.bad(b"\xa3\x61t\x67#commit\x61t\x65#sync\x62op\x01\xa0".to_vec(), &["bad_frame"]);
    let seq = s.next();
    let mut body = Writer::new();
    body.map(4).text("did").text(DID).text("seq").uint(seq).text("time").text("now").text("blocks").bytes(b"junk");
    s.events.push((seq, format!("sync {DID}")));
    s.bad([frames::header("#sync"), body.0].concat(), &["bad_car"]);
    s.commit(&Commit::new(DID, REV).time("yesterday").op(sibling(4, 6)), &[sibling(4, 6)], &[]);
    s.commit(
        &Commit::new(DID, REV).extra("new", b"\x82\x01\xfb\0\0\0\0\0\0\0\0").op(sibling(5, 6)),
        &[sibling(5, 6)],
        &[],
    );
    s.commit(&Commit::new(DID, REV), &[], &[]);

    // Ops.
    let record = builder::record(&ipld!({ "$type": "com.example.thing", "text": "x" }));
    for path in ["noslash", "", "com.example.thing/", "/rkey", "/"] {
        s.ops(vec![Op::create(path, &record), Op::delete(path, None)], &["bad_op", "bad_op"]);
    }
    for n in [490, 512, 3_000] {
        let op = Op::create(&format!("com.example.thing/{}", "k".repeat(n)), &record);
        s.commit(&Commit::new(DID, REV).op(op.clone()), &[op], &[]);
    }
    let odd = Op::create("a----.--0.keep.going/\"\\\u{1}😀 /x", &record);
    s.commit(&Commit::new(DID, REV).op(odd.clone()), &[odd], &[]);
    let action = |a: &str| Op::create("com.example.thing/x", &record).action(a);
    s.ops(vec![action("frob"), action(""), action("CREATE")], &["bad_op"; 3]);
    s.ops(vec![Op::create("com.example.thing/x", &record).with_cid(None)], &["bad_op"]);
    s.ops(vec![Op::update("com.example.thing/x", &record, None).with_cid(None)], &["bad_op"]);
    let multihash = Multihash::wrap(0x12, &[5; 32]).expect("a hash");
    let version_0 = Cid::new_v0(multihash).expect("a CID");
    s.ops(vec![Op::create("com.example.thing/x", &record).with_cid(Some(version_0))], &["bad_op"]);
    let seq = s.next();
    let (first, last) = (Op::delete("com.example.thing/first", None), Op::delete("com.example.thing/last", None));
    s.events.extend([(seq, say(&first)), (seq, say(&last))]);
    s.bad(garbage_ops(seq), &["bad_op"; 7]);

    // CARs.
    let three = |n: u64| Commit::new(DID, REV).op(sibling(n, 0)).op(sibling(n, 1)).op(sibling(n, 2));
    s.commit(&three(10).car(b""), &[sibling(10, 1)], &["bad_car", "bad_car"]);
    s.commit(&three(11).car(b"junk of some length"), &[sibling(11, 1)], &["bad_car", "bad_car"]);
    s.commit(&three(12).car(&[0xff; 500]), &[sibling(12, 1)], &["bad_car", "bad_car"]);
    let (_, whole) = three(13).car_bytes();
    s.commit(&three(13).car(&whole[..whole.len() - 5]), &[sibling(13, 0), sibling(13, 1)], &["bad_car"]);
    s.commit(
        &three(14).car(&[&whole[..whole.len() - 3], b"\xff\xff\xff"].concat()),
        &[sibling(14, 1)],
        &["missing_block"; 2],
    );
    let wrong = car::cid_of(b"something else");
    s.ops(vec![Op::create("com.example.thing/x", &record).with_cid(Some(wrong))], &["cid_mismatch"]);
    s.ops(vec![Op::create("com.example.thing/x", &record).without_block()], &["missing_block"]);
    let raw = car::cid_with(0x55, &sha256(&record));
    let raw = Op::create("com.example.thing/x", &record).with_cid(Some(raw));
    s.commit(&Commit::new(DID, REV).op(raw.clone()), &[raw], &[]);
    let raw = car::cid_with(0x55, &sha256(b"something else"));
    s.ops(vec![Op::create("com.example.thing/x", &record).with_cid(Some(raw))], &["cid_mismatch"]);
    let blake3 = Cid::new_v1(0x71, Multihash::wrap(0x1e, &[5; 32]).expect("a hash"));
    s.ops(vec![Op::create("com.example.thing/x", &record).with_cid(Some(blake3))], &["bad_op"]);
    let mut with_version_0 = three(15);
    with_version_0.blocks.push((version_0, b"whatever".to_vec()));
    s.commit(&with_version_0, &[0, 1, 2].map(|i| sibling(15, i)), &[]);
    // The blocks left out as the network did it before 2025: the op arrives without its record.
    s.commit(&three(16).too_big(), &[0, 1, 2].map(|i| sibling(16, i)), &[]);

    // Records.
    let mut deep = vec![0xa1, 0x61, b'a'];
    deep.extend(vec![0x81; 50_000]);
    deep.push(0x80);
    for (block, reason) in [
        (&b"\xa1\x61a\xfb\x3f\xf8\0\0\0\0\0\0"[..], "float"),
        (b"\xa1\x61a\xf9\x3e\0", "float"),
        (b"\xa2\x61a\x01\x61a\x02", "bad_record"),
        (b"\x63abc", "bad_record"),
        (b"\x81\x01", "bad_record"),
        (b"", "bad_record"),
        (b"\xa1\x61a\x62\xc3\x28", "bad_record"),
        (b"\xa1\x62\xc3\x28\x01", "bad_record"),
        (b"\xa1\x61a\x01\x00", "bad_record"),
        (b"\xa3\x61b\x01\x61a\x02\x61b\x03", "bad_record"),
        (b"\xa1\x61a\xd8\x2a\x45\0\x01\x55\0\x01", "bad_record"),
        (b"\xbf\x61a\x01\xff", "bad_record"),
        (b"\xa1\x61a\xf7", "bad_record"),
        (b"\xa1\x61a\xc1\x01", "bad_record"),
        (b"\xa1\x01\x01", "bad_record"),
        (b"\xa1\x61a", "bad_record"),
        (b"\xa1\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "bad_record"),
        (b"\xa1\x65$type\x60", "bad_record"),
        (&deep, "bad_record"),
    ] {
        s.ops(vec![Op::create("com.example.thing/x", block)], &[reason]);
    }

    // Odd, with one meaning: they pass, and are counted.
    for block in [
        &b"\xa2\x61b\x01\x61a\x02"[..],
        b"\xa1\x61a\x18\x01",
        b"\xa1\x61a\xd8\x2a\x45\0\x01\x55\0\0",
        &[&b"\xa1\x61a\xd8\x2a\x58\x23\0"[..], &version_0.to_bytes()].concat(),
    ] {
        let op = Op::create("com.example.thing/odd", block);
        s.commit(&Commit::new(DID, REV).op(op.clone()), &[op], &[]);
    }

    // Large, and good.
    let large: Vec<Op> = (0..3)
        .map(|i| {
            let text = "large ".repeat(140_000 + i);
            let block = builder::record(&ipld!({ "$type": "com.example.thing", "text": text }));
            Op::create(&format!("com.example.thing/large{i}"), &block)
        })
        .collect();
    s.commit(&Commit::new(DID, REV).ops(large.clone()), &large, &[]);
    let twohundred: Vec<Op> = (0..200).map(|i| sibling(30, 100 + i)).collect();
    s.commit(&Commit::new(DID, REV).ops(twohundred.clone()), &twohundred, &[]);
    s.good(50);
    s
}

fn identity(seq: u64) -> Vec<u8> {
    builder::identity_frame(seq, DID, builder::A_TIME, Some("a.example"))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

/// A commit whose ops are anything, with two good deletes at the ends.
fn garbage_ops(seq: u64) -> Vec<u8> {
    let delete = |w: &mut Writer, path: &str| {
        w.map(3).text("cid").null().text("path").text(path).text("action").text("delete");
    };
    let mut w = Writer(frames::header("#commit"));
    w.map(5).text("ops").array(9);
    delete(&mut w, "com.example.thing/first");
    w.uint(1).text("delete").null().array(1).uint(1).map(0).bytes(b"\0");
    w.map(3).text("cid").uint(3).text("path").text("com.example.thing/x").text("action").text("create");
    delete(&mut w, "com.example.thing/last");
    w.text("rev").text(REV).text("seq").uint(seq).text("repo").text(DID).text("time").text(builder::A_TIME);
    w.0
}

#[test]
fn bad_frames_are_counted_and_everything_else_arrives_in_order() {
    let script = bad_frames();
    let relay = Relay::start(script.config()).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
    bridge.wait_delivered(script.seq, PATIENCE);
    bridge.wait("every event is out", PATIENCE, |b| b.lines().len() >= script.events.len());
    let parse = |line: &String| said(&sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:.200}")));
    compare(&bridge.lines().iter().map(parse).collect::<Vec<_>>(), &script.events);
    check_dead(&bridge, &script.dead);
    let metrics = bridge.metrics();
    assert_eq!(metrics.get("atkafka_unknown_frames"), Some(&3.0));
    assert_eq!(metrics.get("atkafka_repeated_frames"), Some(&2.0));
    assert_eq!(metrics.get("atkafka_events_without_record"), Some(&2.0));
    assert_eq!(metrics.get("atkafka_error_frames{error=\"Trouble\"}"), Some(&1.0));
    assert_eq!(metrics.get("atkafka_error_frames{error=\"unreadable\"}"), Some(&1.0));
    assert_eq!(metrics.get("atkafka_gaps{kind=\"seq_leap\"}"), Some(&1.0));
    assert_eq!(metrics.get("atkafka_empty_commits"), Some(&1.0));
    for (kind, count) in [("key_order", 1.0), ("long_integer", 1.0), ("link", 2.0), ("cid", 1.0)] {
        let name = format!("atkafka_noncanonical_records{{kind=\"{kind}\"}}");
        assert_eq!(metrics.get(&name), Some(&count), "{name}");
    }
    assert_eq!(relay.stats().connections.len(), 1, "no frame ended the connection");
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|l| l.contains("panicked")), "{}", log.join("\n"));
}

#[test]
fn bad_frames_reach_the_dead_letter_topic_with_reason_and_bytes() {
    let Some(broker) = broker(KAFKA) else { return };
    let script = bad_frames();
    let relay = Relay::start(script.config()).expect("a relay");
    let (topic, dead, state) = (unique("hostile"), unique("dead"), folder("state"));
    let bridge = Bridge::start(&[
        "firehose",
        "relay",
        "--relay-host",
        &relay.url(),
        "--cursor=oldest",
        "--bootstrap-servers",
        &broker,
        "--output-topic",
        &topic,
        "--dead-letter-topic",
        &dead,
        "--topic-partitions=1",
        "--state-dir",
        &state.to_string_lossy(),
    ]);
    bridge.wait_delivered(script.seq, PATIENCE);
    check_dead(&bridge, &script.dead);
    let (code, _) = bridge.stop();
    assert_eq!(code, Some(0));
    let arrived: Vec<(u64, String)> = consume(&broker, &topic).iter().map(|a| said(&a.json())).collect();
    compare(&arrived, &script.events);

    let letters = consume(&broker, &dead);
    let mut by_reason = BTreeMap::new();
    for letter in &letters {
        *by_reason.entry(letter.header("reason").expect("a reason")).or_insert(0u64) += 1;
        assert_eq!(letter.header("host").as_deref(), Some(relay.url().trim_start_matches("ws://")));
    }
    // The garbage of 3 MB too: the topic is made for frames of 5 MB.
    let expected: BTreeMap<String, u64> = script.dead.iter().map(|(k, v)| (k.to_string(), *v)).collect();
    assert_eq!(by_reason, expected);
    // Bytes stand in the first letter of each frame, as they were sent.
    let sent: std::collections::HashSet<&[u8]> = script.frames.iter().map(|f| &f[..]).collect();
    let texts: [&[u8]; 3] = [b"", b"{\"hello\": 1}", "é".as_bytes()];
    let whole = letters.iter().filter(|l| !l.value.is_empty());
    for letter in whole {
        assert!(sent.contains(&letter.value[..]) || texts.contains(&&letter.value[..]), "not what was sent");
    }
    assert!(letters.iter().any(|l| l.header("reason").as_deref() == Some("cid_mismatch") && !l.value.is_empty()));
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

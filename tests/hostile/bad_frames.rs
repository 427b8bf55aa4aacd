//! Hundreds of bad frames among good ones: each is one dead letter with its reason, and everything else arrives in order.

use std::collections::BTreeMap;

use atkafka_fixtures::cbor::Writer;
use atkafka_fixtures::network::builder::{self, Commit, Op};
use atkafka_fixtures::relay::{Inject, Relay};
use atkafka_fixtures::{car, frames};
use ipld_core::cid::{Cid, multihash::Multihash};
use ipld_core::ipld;

use crate::support::*;
use crate::{DID, PATIENCE, REV, SEED, Script, check_dead, compare, identity, said, say, sibling};

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

    let letters = letters(&broker, &dead);
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

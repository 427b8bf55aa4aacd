//! Recorded input, broken at random: nothing panics or overflows the stack, what comes out is JSON and bounded, and what passes
//! without a remark is what the libraries read too.
//!
//! Each test runs a fixed number of rounds, or for `ATKAFKA_TEST_FUZZ_SECONDS`.

use std::time::{Duration, Instant};

use atkafka::atproto::car::CarIndex;
use atkafka::atproto::cbor::CborError;
use atkafka::atproto::json::Oddities;
use atkafka::atproto::{cid, frame, json};
use atkafka::checkpoint::Position;
use atkafka::dead_letter::Reason;
use atkafka::decode::batch::{self, Batch, Job};
use atkafka::decode::{Decode, Workbench, ozone, tap};
use atkafka::enrich::document::Document;
use atkafka::metrics::Metrics;
use atkafka::pipeline::worker;
use atkafka::source::job::{FrameAt, Frames, Seen, Work};
use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::{self, Commit, Op};
use atkafka_fixtures::ozone::comment;
use ipld_core::ipld::Ipld;

use crate::{FIXTURE, decoder, slow, work};

/// Rounds, each with its number, and the seed for its report.
fn rounds(usual: u64, mut round: impl FnMut(&mut fastrand::Rng, &dyn Fn(&[u8]) -> String)) -> u64 {
    let seed = atkafka_fixtures::seeds::one();
    let mut rng = fastrand::Rng::with_seed(seed);
    let seconds = std::env::var("ATKAFKA_TEST_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let until = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let mut n = 0;
    while until.map_or(n < usual, |until| Instant::now() < until) {
        round(&mut rng, &|bytes| format!("round {n}, seed {seed}: {}", data_encoding::HEXLOWER.encode(bytes)));
        n += 1;
    }
    n
}

fn break_some(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>], heads: &[&[u8]]) {
    for _ in 0..rng.usize(1..=4) {
        mutate(rng, bytes, others, heads);
    }
}

fn mutate(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>], heads: &[&[u8]]) {
    if bytes.is_empty() {
        bytes.push(rng.u8(..));
    }
    let at = rng.usize(0..bytes.len());
    // Most of a frame is the inside of blocks: look at its ends more often.
    let at = if rng.bool() { at } else { at.min(rng.usize(0..200)) };
    match rng.u8(0..8) {
        0 => bytes[at] = rng.u8(..),
        1 => bytes[at] ^= 1 << rng.u8(0..8),
        2 => bytes.insert(at, rng.u8(..)),
        3 => drop(bytes.remove(at)),
        4 => {
            let end = bytes.len().min(at + rng.usize(1..64));
            bytes.drain(at..end);
        }
        5 => {
            let end = bytes.len().min(at + rng.usize(1..64));
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        6 => {
            let other = &others[rng.usize(0..others.len())];
            let from = rng.usize(0..other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let head = heads[rng.usize(0..heads.len())];
            for (i, byte) in head.iter().enumerate() {
                if let Some(to) = bytes.get_mut(at + i) {
                    *to = *byte;
                }
            }
        }
    }
}

/// Lengths that lie, floats, tags, breaks, integers longer than needed.
const CBOR: [&[u8]; 12] = [
    b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x9f",
    b"\xff",
    b"\xfb\x3f\xf0\0\0\0\0\0\0",
    b"\xd8\x2a",
    b"\x9a\xff\xff\xff\xff",
    b"\x78\x00",
    b"\x18\x01",
    b"\xd8\x2a\x45\0\x01\x55\0\0",
    b"\xa2\x61a\x01\x61a\x01",
    b"\x81\x81\x81\x81\x81\x81\x81\x81",
];

/// Escapes, numbers and nesting.
const JSON: [&[u8]; 10] =
    [b"\\u0000", b"\\ud800", b"\"", b"\\", b"[[[[[[[[", b"{\"a\":{\"a\":", b"1e999", b"-0", b"\xff\xfe", b"null"];

/// What comes out is bounded by the frame, is JSON on one line, and holds no panic.
fn check(batch: &Batch, bytes: &[u8], say: &dyn Fn(&[u8]) -> String) {
    assert!(batch.dead.iter().all(|d| d.reason != Reason::Panic), "panic: {}", say(bytes));
    let letters: usize = batch.dead.iter().map(|d| d.bytes.len() + d.detail.len()).sum();
    for (what, size) in [("events", batch.bytes.len()), ("dead letters", letters), ("memory", batch.needs())] {
        assert!(size <= 64 * bytes.len() + 65_536, "{what} of {size} bytes: {}", say(bytes));
    }
    for record in &batch.records {
        let value = &batch.bytes[record.value.clone()];
        // What passes untouched may have half a surrogate pair as an escape, which the grammar allows and a String does not.
        let valid = sonic_rs::from_slice::<sonic_rs::LazyValue<'_>>(value).is_ok();
        assert!(valid, "not JSON: {} from {}", String::from_utf8_lossy(value), say(bytes));
        assert!(!value.contains(&b'\n'), "not one line: {}", say(bytes));
    }
}

#[test]
fn frames() {
    let metrics = Metrics::default();
    let mut decoder = decoder(&metrics.decode);
    let mut all = frames::read(FIXTURE).expect("the fixture");
    all.truncate(300);
    let big: Vec<Op> = (0..150)
        .map(|i| Op::create(&format!("com.example.thing/{i}"), &builder::record(&ipld_core::ipld!({ "n": i }))))
        .collect();
    all.push(Commit::new("did:plc:many", "3aaa").ops(big).frame(7));
    all.push(frames::info_frame("OutdatedCursor", Some("x")));
    all.push(frames::error_frame("FutureCursor", Some("x")));
    let (mut dead, mut events) = (0, 0);
    let n = rounds(10_000, |rng, say| {
        let mut bytes = all[rng.usize(0..all.len())].clone();
        break_some(rng, &mut bytes, &all, &CBOR);
        let batch = work(&mut decoder, &[&bytes]);
        check(&batch, &bytes, say);
        dead += batch.dead.len();
        events += batch.records.len();
    });
    println!("{n} mutations: {dead} dead letters, {events} events");
    assert!(dead > 1_000 && events > 300, "the mutations hit: {dead} dead letters, {events} events");
}

/// The CARs of the fixture's commits.
fn cars() -> Vec<Vec<u8>> {
    let all = frames::read(FIXTURE).expect("the fixture");
    let car = |frame: &Vec<u8>| {
        let (frame::Kind::Commit, body) = frame::header(frame).expect("a frame") else { return None };
        Some(frame::Commit::parse(&frame[body..]).expect("a commit").blocks.to_vec())
    };
    all.iter().filter_map(car).filter(|car| !car.is_empty()).take(200).collect()
}

fn blocks(cars: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let of = |car: &Vec<u8>| crate::car::blocks(car).into_iter().map(|(cid, block)| (cid.to_bytes(), block));
    cars.iter().flat_map(of).collect()
}

#[test]
fn records() {
    let all: Vec<Vec<u8>> = blocks(&cars()).into_iter().map(|(_, block)| block).collect();
    let (mut canonical, mut odd, mut refused) = (0, 0, 0);
    let n = rounds(60_000, |rng, say| {
        let mut bytes = all[rng.usize(0..all.len())].clone();
        break_some(rng, &mut bytes, &all, &CBOR);
        let mut out = Vec::new();
        let verdict = json::any(&bytes, &mut out);
        let strict = serde_ipld_dagcbor::from_slice::<Ipld>(&bytes);
        match verdict {
            Ok(oddities) => {
                assert!(sonic_rs::from_slice::<sonic_rs::Value>(&out).is_ok(), "not JSON: {}", say(&bytes));
                if oddities == Oddities::default() {
                    let ipld = strict.unwrap_or_else(|e| panic!("{e}, and no remark: {}", say(&bytes)));
                    assert_eq!(String::from_utf8_lossy(&out), slow(&ipld).expect("of the model"), "{}", say(&bytes));
                    canonical += 1;
                } else {
                    odd += 1;
                }
            }
            // The library takes bytes for a key, and a CID with something behind it.
            Err(CborError::KeyNotText | CborError::Link) => refused += 1,
            // It takes a text of indefinite length, too, where a key stands.
            Err(CborError::Unsupported) if bytes.contains(&0x7f) => refused += 1,
            Err(_) => {
                let ours = strict.ok().and_then(|ipld| slow(&ipld).ok()).filter(|text| text.len() < 100_000);
                assert_eq!(ours, None, "refused, and of the model: {}", say(&bytes));
                refused += 1;
            }
        }
    });
    println!("{n} mutations: {canonical} canonical, {odd} odd, {refused} refused");
    assert!(canonical > 1_000 && odd > 100 && refused > 1_000);
}

#[test]
fn cars_and_cids() {
    let all = cars();
    let cids: Vec<Vec<u8>> = blocks(&all).into_iter().map(|(cid, _)| cid).collect();
    let (mut whole, mut found, mut texts) = (0, 0, 0);
    let n = rounds(20_000, |rng, say| {
        let mut car = all[rng.usize(0..all.len())].clone();
        break_some(rng, &mut car, &all, &CBOR);
        let mut few = CarIndex::default();
        let mut many = CarIndex::default();
        let verdict = few.read(&car, 1);
        assert_eq!(verdict, many.read(&car, 1_000), "{}", say(&car));
        whole += usize::from(verdict.is_ok());
        for _ in 0..20 {
            let name = &cids[rng.usize(0..cids.len())];
            let name = cid::check(name).expect("an atproto CID");
            assert_eq!(few.get(&car, name), many.get(&car, name), "{}", say(&car));
            found += usize::from(few.get(&car, name).is_some());
        }
        let mut name = cids[rng.usize(0..cids.len())].clone();
        break_some(rng, &mut name, &cids, &[b"\x12\x20", b"\x01\x70", b"\x01\x55\0", b"\x01\x71\x13\x40"]);
        if let Some(text) = cid::any_text(&name) {
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}: {}", say(&name));
            texts += 1;
        }
    });
    println!("{n} mutations: {whole} CARs can be walked, {found} blocks found, {texts} texts of CIDs");
    assert!(whole > 1_000 && found > 500 && texts > 1_000);
}

/// Texts through the worker, as the readers of Tap and Ozone hand them over.
fn texts(decoder: &mut Workbench, text: &[u8], of_tap: bool) -> Batch {
    let list = vec![FrameAt { range: 0..text.len(), seen: Seen::Json }];
    let mut frames = Frames::default();
    frames.bytes = text.to_vec().into();
    frames.list = list;
    let (decode, position): (Decode, _) =
        if of_tap { (tap::message, Some(Position::of_messages(0, 1))) } else { (ozone::message, None) };
    let work = Work::Frames(frames);
    let (cost, room) = (work.bytes(), batch::room(&work, usize::MAX));
    worker::work(
        decoder,
        &Job { source: 0, ordinal: 0, work, decode, position, received: Instant::now(), arrived_ms: 0, cost, room },
    )
}

#[test]
fn messages_in_json() {
    // As large as a worker's: not optimised, each level takes some kilobytes.
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(json_of_others).expect("a thread");
    thread.join().expect("no panic");
}

fn json_of_others() {
    const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
    let metrics = Metrics::default();
    let mut decoder = decoder(&metrics.decode);
    let record = r#"{"$type":"app.bsky.feed.post","text":"a \"quote\" \u00e9 \\ 😀","n":[1,-2,9007199254740993],"o":{"a":null,"b":true}}"#;
    let tap = |rest: &str| {
        format!(
            r#"{{"id":7,"type":"record","record":{{"live":true,"did":"{DID}","rev":"3kaaaaaaaaaa2","collection":"a.b.c","rkey":"k",{rest}}}}}"#
        )
    };
    let all: Vec<Vec<u8>> = [
        tap(&format!(r#""action":"create","cid":"bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454","record":{record}"#)),
        tap(r#""action":"delete""#),
        format!(r#"{{"id":8,"type":"identity","identity":{{"did":"{DID}","handle":"a.example","is_active":false,"status":"takendown"}}}}"#),
        format!(r#"{{"id":3,{},"createdAt":"2025-06-15T12:00:00.000Z"}}"#, comment(DID, "a note").body),
        atkafka_fixtures::directory::document(DID, "a.example", "https://pds.example"),
    ]
    .map(String::into_bytes)
    .into();
    let (mut dead, mut events, mut documents) = (0, 0, 0);
    let n = rounds(40_000, |rng, say| {
        let mut text = all[rng.usize(0..all.len())].clone();
        break_some(rng, &mut text, &all, &JSON);
        if rng.u8(..) == 0 {
            let at = rng.usize(0..text.len());
            let nested = [&b"["[..], b"{\"x\":", b"[{\"x\":"][rng.usize(0..3)].repeat(rng.usize(1..50_000));
            text.splice(at..at, nested);
        }
        for tap in [true, false] {
            let batch = texts(&mut decoder, &text, tap);
            check(&batch, &text, say);
            dead += batch.dead.len();
            events += batch.records.len();
        }
        documents += usize::from(Document::parse(DID, &text).is_ok());
    });
    println!("{n} mutations: {dead} dead letters, {events} events, {documents} documents");
    assert!(dead > 1_000 && events > 1_000 && documents > 100);
}

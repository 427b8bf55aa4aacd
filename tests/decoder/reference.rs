//! The same events as a slow decoder makes that is built of libraries.

use atkafka::atproto::car::CarIndex;
use atkafka::atproto::frame::{self, Kind};
use atkafka::atproto::json::Oddities;
use atkafka::atproto::{cid, json};
use atkafka::metrics::Metrics;
use atkafka_fixtures::frames;
use ipld_core::ipld::Ipld;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sha2::{Digest, Sha256};

use crate::car;
use crate::support::*;
use crate::{FIXTURE, decoder, json_file, slow, text, to_ipld, value, work};

const CORPUS: &str = "data/jetstream-corpus/frames.bin.zst";

#[test]
fn every_op_of_the_fixture_equals_the_reference() {
    let frames = frames::read(FIXTURE).expect("the fixture");
    let ops = compare_with_reference(&frames);
    println!("{ops} ops of {} frames", frames.len());
    assert!(ops > 1_000);
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn every_op_of_genuine_frames_equals_the_reference() {
    let (corpus, indigo) = (shared(CORPUS), shared("data/indigo-firehose-commits"));
    assert_eq!(compare_with_reference(&frames::read(corpus).expect("the corpus")), 150);
    let mut commits = Vec::new();
    for entry in std::fs::read_dir(indigo).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("firehose_commit")) {
            let body = serde_ipld_dagcbor::to_vec(&to_ipld(&json_file(&path))).expect("CBOR");
            commits.push([frames::header("#commit"), body].concat());
        }
    }
    assert_eq!(commits.len(), 4);
    assert_eq!(compare_with_reference(&commits), 45);
}

/// Each frame through the worker, each op next to what libraries make of it. Gives the number of ops.
fn compare_with_reference(frames: &[Vec<u8>]) -> usize {
    let metrics = Metrics::default();
    let mut decoder = decoder(&metrics.decode);
    let mut ops = 0;
    for frame in frames {
        let (kind, body) = frame::header(frame).expect("a frame");
        if kind != Kind::Commit {
            continue;
        }
        let batch = work(&mut decoder, &[frame]);
        assert!(batch.dead.is_empty(), "{:?}", batch.dead.iter().map(|d| &d.detail).collect::<Vec<_>>());
        let commit: Ipld = serde_ipld_dagcbor::from_slice(&frame[body..]).expect("a body");
        let expected = reference(&commit);
        assert_eq!(batch.records.len(), expected.len(), "one event for each op");
        for (record, (path, cid, json)) in batch.records.iter().zip(expected) {
            let value = &batch.bytes[record.value.clone()];
            let event: sonic_rs::Value = sonic_rs::from_slice(value).expect("JSON");
            let (Ipld::String(repo), Ipld::String(time)) = (field(&commit, "repo"), field(&commit, "time")) else {
                panic!("repo and time")
            };
            let op = &event["operation"];
            assert_eq!(text(&event["did"]), *repo);
            assert_eq!(&batch.bytes[record.key.clone()], repo.as_bytes());
            assert_eq!(text(&event["timestamp"]), *time);
            assert_eq!(text(&op["path"]), path);
            assert_eq!(format!("{}/{}", text(&op["collection"]), text(&op["rkey"])), path);
            assert_eq!(text(&op["uri"]), format!("at://{repo}/{path}"));
            assert_eq!(text(&op["cid"]), cid.unwrap_or_default());
            let raw = sonic_rs::get(value, &["operation", "record"]).ok();
            assert_eq!(raw.as_ref().map(|r| r.as_raw_str()), json.as_deref(), "{path}");
            ops += 1;
        }
    }
    ops
}

type Expected = (String, Option<String>, Option<String>);

/// Path, CID and record of each op, by libraries.
fn reference(commit: &Ipld) -> Vec<Expected> {
    let Ipld::Bytes(car) = field(commit, "blocks") else { panic!("blocks") };
    let Ipld::List(ops) = field(commit, "ops") else { panic!("ops") };
    let blocks = car::blocks(car);
    let one = |op: &Ipld| {
        let Ipld::String(path) = field(op, "path") else { panic!("path") };
        let Ipld::Link(cid) = field(op, "cid") else { return (path.clone(), None, None) };
        let (_, block) = blocks.iter().find(|(c, _)| c == cid).expect("the block");
        assert_eq!(cid.hash().digest(), &Sha256::digest(block)[..]);
        let record: Ipld = serde_ipld_dagcbor::from_slice(block).expect("a record");
        (path.clone(), Some(cid.to_string()), Some(slow(&record).expect("of the model")))
    };
    ops.iter().map(one).collect()
}

fn field<'a>(map: &'a Ipld, name: &str) -> &'a Ipld {
    let Ipld::Map(map) = map else { panic!("not a map") };
    map.get(name).unwrap_or(&Ipld::Null)
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn whole_repositories_equal_the_reference() {
    let dir = shared("data/repo-stream-cars");
    let mut records = 0;
    for name in ["empty.car", "tiny.car", "little.car", "midsize.car"] {
        let car = std::fs::read(dir.join(name)).expect("a CAR");
        let blocks = car::blocks(&car);
        // Sorted, for many look-ups, and walked, for few.
        for (lookups, step) in [(blocks.len().max(16), 1), (1, 61)] {
            let mut index = CarIndex::default();
            assert_eq!(index.read(&car, lookups), Ok(()), "{name}");
            for (cid, block) in blocks.iter().step_by(step) {
                let bytes = cid.to_bytes();
                let known = cid::check(&bytes).expect("an atproto CID");
                assert_eq!(index.get(&car, known), Some(&block[..]), "{name}: {cid}");
            }
            let absent = [&[1, 0x71, 0x12, 32][..], &[9; 32]].concat();
            assert_eq!(index.get(&car, cid::check(&absent).expect("a CID")), None);
        }
        for (cid, block) in &blocks {
            let bytes = cid.to_bytes();
            assert_eq!(cid::hashes(cid::check(&bytes).expect("checked"), block), Some(true), "{name}: {cid} verifies");
            assert_eq!(String::from_utf8_lossy(&cid::text(cid::check(&bytes).expect("checked"))), cid.to_string());
            let ipld: Ipld = serde_ipld_dagcbor::from_slice(block).expect("a block of a repository");
            let mut out = Vec::new();
            assert_eq!(json::record(block, &mut out), Ok(Oddities::default()), "{name}: {cid}");
            assert_eq!(String::from_utf8(out).expect("UTF-8"), slow(&ipld).expect("of the model"), "{name}: {cid}");
            let Ipld::Map(map) = &ipld else { panic!("a map") };
            records += usize::from(map.contains_key("$type"));
        }
    }
    println!("{records} records");
    assert!(records > 11_000);
}

#[test]
fn any_value_equals_the_reference_or_is_refused_by_both() {
    let seed = atkafka_fixtures::seeds::one();
    let mut bytes = [0; 32];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    let config = Config { cases: 3_000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (good, bad) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let result = runner.run(&(value(), 0usize..110), |(value, depth)| {
        let value = (0..depth).fold(value, |v, i| {
            if i % 2 == 0 { Ipld::List(vec![v]) } else { Ipld::Map([("k".to_string(), v)].into()) }
        });
        let block = serde_ipld_dagcbor::to_vec(&value).expect("CBOR");
        let mut out = Vec::new();
        let verdict = json::any(&block, &mut out);
        match slow(&value) {
            Ok(text) => {
                prop_assert!(verdict.is_ok());
                prop_assert!(sonic_rs::from_slice::<sonic_rs::Value>(&out).is_ok() || depth > 60);
                prop_assert_eq!(String::from_utf8_lossy(&out), text);
                good.set(good.get() + 1);
            }
            Err(why) => {
                prop_assert!(verdict.is_err(), "accepted: {}", why);
                bad.set(bad.get() + 1);
            }
        }
        Ok(())
    });
    println!("{} equal, {} refused by both", good.get(), bad.get());
    result.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert!(good.get() > 1_000 && bad.get() > 50);
}

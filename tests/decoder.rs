//! The decoder against garbage, against foreign test suites, and against a slow reference made of libraries.
//!
//! Seeds are printed; `ATKAFKA_TEST_SEED` sets one.

#[path = "decoder/fuzz.rs"]
mod fuzz;
mod support;

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Instant;

use atkafka::atproto::car::CarIndex;
use atkafka::atproto::cbor::CborError;
use atkafka::atproto::frame::{self, Kind};
use atkafka::atproto::json::{Oddities, Oddity};
use atkafka::atproto::{cid, json, time};
use atkafka::dead_letter::Reason;
use atkafka::decode::batch::{self, Batch, Job};
use atkafka::decode::{Rules, Workbench, relay};
use atkafka::event::Format;
use atkafka::filter::{Filter, Lists};
use atkafka::metrics::Metrics;
use atkafka::pipeline::worker;
use atkafka::source::job::{Frames, Work};
use atkafka::source::stream::Arrival;
use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::{self, Commit, Op};
use data_encoding::{BASE64, BASE64_NOPAD};
use ipld_core::cid::{Cid, multihash::Multihash};
use ipld_core::ipld::Ipld;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sha2::{Digest, Sha256};
use sonic_rs::{JsonContainerTrait, JsonType, JsonValueTrait};
use support::*;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
const CORPUS: &str = "data/jetstream-corpus/frames.bin.zst";

// --- garbage ------------------------------------------------------------------------------------------------------------

#[test]
fn every_truncation_of_a_frame_is_one_dead_letter_and_no_event() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let metrics = Metrics::default();
    let mut decoder = decoder(&metrics);
    let all = frames::read(FIXTURE).expect("the fixture");
    // One of each kind that the fixture has, and commits.
    let mut chosen: Vec<&Vec<u8>> = ["#identity", "#account", "#sync"]
        .iter()
        .filter_map(|kind| all.iter().find(|f| frames::kind_of(f) == Some(kind)))
        .collect();
    while chosen.len() < 20 {
        chosen.push(&all[rng.usize(0..all.len())]);
    }
    for (i, whole) in chosen.iter().enumerate() {
        assert!(work(&mut decoder, &[whole]).dead.is_empty(), "the whole frame {i} is good");
        for cut in 0..whole.len() {
            let batch = work(&mut decoder, &[&whole[..cut]]);
            let reasons: Vec<Reason> = batch.dead.iter().map(|d| d.reason).collect();
            assert!(batch.records.is_empty(), "frame {i} cut at {cut} gives an event");
            assert!(
                matches!(reasons[..], [Reason::BadFrame | Reason::BadSeq]),
                "frame {i} cut at {cut}: {reasons:?} (seed {seed})"
            );
        }
    }
}

/// What one frame gives is bounded by what it is, not by how often it names the same thing.
#[test]
fn a_frame_cannot_make_a_thousand_times_more_than_it_is() {
    // Honest commits of nothing but deletes give some eight times their size: the DID and path stand in each event often.
    let enough = |frame: &[u8]| 32 * frame.len() + (1 << 20);
    let metrics = Metrics::default();
    let mut decoder = decoder(&metrics);
    let large = builder::record(&ipld_core::ipld!({ "text": "x".repeat(200_000) }));
    let one_block: Vec<Op> = (0..2_000).map(|i| Op::create(&format!("com.example.thing/{i}"), &large)).collect();
    let long = format!("did:plc:{}", "a".repeat(100_000));
    let mut frame = Commit::new("did:plc:a", "3aaa").ops(one_block).frame(1);
    let batch = work(&mut decoder, &[&frame]);
    assert!(!batch.records.is_empty(), "the first ones arrive");
    assert!(!batch.dead.is_empty() || batch.records.len() == 2_000, "what is left out is said");
    let size = batch.bytes.len();
    assert!(size <= enough(&frame), "2,000 ops on one block: a frame of {} bytes gives {size}", frame.len());

    let deletes = (0..2_000).map(|i| Op::delete(&format!("com.example.thing/{i}"), None));
    frame = Commit::new(&long, "3aaa").ops(deletes).frame(1);
    let batch = work(&mut decoder, &[&frame]);
    let size = batch.bytes.len();
    assert!(size <= enough(&frame), "2,000 deletes of a long DID: a frame of {} bytes gives {size}", frame.len());

    let junk = (0..2_000).map(|i| Op::delete(&format!("no-slash-{i}"), None));
    frame = Commit::new(&long, "3aaa").ops(junk).frame(1);
    let batch = work(&mut decoder, &[&frame]);
    let size: usize = batch.dead.iter().map(|d| d.detail.len() + d.bytes.len()).sum();
    assert!(!batch.dead.is_empty());
    assert!(
        size <= enough(&frame),
        "2,000 bad ops of a long DID: a frame of {} bytes gives letters of {size}",
        frame.len()
    );
}

/// Blocks whose CIDs begin alike (nobody has checked them) are found about as fast as others: the fault that this shows is a
/// factor of thousands.
#[test]
fn a_car_of_equal_digest_prefixes_does_not_stall_the_look_ups() {
    const BLOCKS: u32 = 60_000;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut took = Vec::new();
    for alike in [false, true] {
        let cids: Vec<Cid> = (0..BLOCKS)
            .map(|n| {
                let mut digest = [7; 32];
                if !alike {
                    rng.fill(&mut digest);
                }
                digest[28..].copy_from_slice(&n.to_be_bytes());
                Cid::new_v1(0x71, Multihash::wrap(0x12, &digest).expect("a hash"))
            })
            .collect();
        let car = atkafka_fixtures::car::write(&cids[0], cids.iter().map(|c| (c, &b"x"[..])));
        let mut index = CarIndex::default();
        let began = Instant::now();
        index.read(&car, BLOCKS as usize).expect("a CAR");
        for cid in cids.iter().step_by(7) {
            let bytes = cid.to_bytes();
            assert_eq!(index.get(&car, cid::check(&bytes).expect("an atproto CID")), Some(&b"x"[..]));
        }
        took.push(began.elapsed());
    }
    println!("{} look-ups among {BLOCKS} blocks: {:?}, with equal beginnings {:?}", BLOCKS / 7, took[0], took[1]);
    assert!(took[1] < took[0] * 10 + std::time::Duration::from_secs(1), "{took:?}");
}

// --- foreign suites -----------------------------------------------------------------------------------------------------

/// Cases that a strict decoder refuses, and that pass here and are counted, beside integers and lengths that are longer than
/// needed: they have one meaning, and other consumers of the network take them.
const PASSED_HERE: [(&str, &str); 8] = [
    ("CIDv0", "link"),
    ("CIDv1 that isn't raw or cbor", "link"),
    ("disallowed hash type (SHA-1)", "link"),
    ("empty CID", "link"),
    ("long CID tag", "long_integer"),
    ("long hash digest", "link"),
    ("map keys in incorrect order", "key_order"),
    ("short hash digest", "link"),
];

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn dasl_testing_cases_get_the_right_verdict() {
    let dir = shared("data/dasl-testing/cbor");
    let (mut accepted, mut refused, mut floats, mut passed) = (0, 0, 0, Vec::new());
    for entry in std::fs::read_dir(dir).expect("the folder") {
        let path = entry.expect("an entry").path();
        for case in array(&json_file(&path)) {
            let tags = array(&case["tags"]);
            let ours = |t: &sonic_rs::Value| matches!(t.as_str(), Some("basic" | "dag-cbor" | "dasl-cid"));
            if !tags.iter().any(ours) {
                continue;
            }
            let bytes = data_encoding::HEXLOWER.decode(text(&case["data"]).as_bytes()).expect("hex");
            let name = format!("{}: {}", path.display(), text(&case["name"]));
            let mut out = Vec::new();
            let verdict = json::any(&bytes, &mut out);
            match text(&case["type"]).as_str() {
                "roundtrip" if bytes[0] == 0xfb => {
                    assert_eq!(verdict, Err(CborError::Float), "{name}: the atproto data model has no floats");
                    floats += 1;
                }
                "roundtrip" => {
                    assert_eq!(verdict, Ok(Oddities::default()), "{name}");
                    let ipld: Ipld = serde_ipld_dagcbor::from_slice(&bytes).expect("the library takes it too");
                    assert_eq!(String::from_utf8(out).expect("UTF-8"), slow(&ipld).expect("of the model"), "{name}");
                    accepted += 1;
                }
                "invalid_in" => match verdict {
                    Ok(odd) => passed.push((text(&case["name"]), odd.iter().map(Oddity::name).collect::<Vec<_>>())),
                    Err(_) => refused += 1,
                },
                "invalid_out" => {} // about encoders
                other => panic!("{name}: an unknown type of case, {other}"),
            }
        }
    }
    println!("dasl-testing: {accepted} accepted, {refused} refused, {floats} floats refused");
    let mut here: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, odd) in PASSED_HERE {
        here.push((name.to_string(), vec![odd]));
    }
    for width in ["one", "two", "four", "eight"] {
        let things = ["array", "byte string", "map definition", "negative integer", "string", "unsigned integer"];
        here.extend(things.map(|thing| (format!("unnecessary {width}-byte {thing}"), vec!["long_integer"])));
    }
    here.sort();
    passed.sort();
    assert_eq!(passed, here, "strict: refused, here: passed and counted");
    assert!(accepted >= 20 && refused >= 28 && floats >= 3);
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn the_data_model_cases_of_atproto_get_the_right_verdict() {
    let dir = shared("data/atproto-interop-tests/data-model");
    let file = |name: &str| array(&json_file(&dir.join(name)));
    let encode = |value: &sonic_rs::Value| serde_ipld_dagcbor::to_vec(&to_ipld(value)).expect("CBOR");
    for case in file("data-model-valid.json") {
        let (note, mut out) = (text(&case["note"]), Vec::new());
        assert_eq!(json::record(&encode(&case["json"]), &mut out), Ok(Oddities::default()), "{note}");
        assert_eq!(String::from_utf8(out).expect("UTF-8"), slow(&to_ipld(&case["json"])).expect("valid"), "{note}");
    }
    let mut refused = 0;
    for case in file("data-model-invalid.json") {
        let mut out = Vec::new();
        let verdict = json::record(&encode(&case["json"]), &mut out);
        assert!(verdict.is_err(), "{}: accepted as {}", text(&case["note"]), String::from_utf8_lossy(&out));
        refused += 1;
    }
    assert!(refused >= 12);
    for case in file("data-model-fixtures.json") {
        let block = encode(&case["json"]);
        let base64 = text(&case["cbor_base64"]);
        assert_eq!(BASE64_NOPAD.encode(&block), base64.trim_end_matches('='));
        let mut bytes = [0; cid::LEN];
        bytes[..4].copy_from_slice(&[1, 0x71, 0x12, 32]);
        bytes[4..].copy_from_slice(&Sha256::digest(&block));
        assert_eq!(String::from_utf8_lossy(&cid::text(&bytes)), text(&case["cid"]));
        assert!(cid::hashes(&bytes, &block) == Some(true));
        let mut out = Vec::new();
        json::record(&block, &mut out).expect("valid");
        let back: sonic_rs::Value = sonic_rs::from_slice(&out).expect("JSON");
        assert_eq!(to_ipld(&back), to_ipld(&case["json"]), "the JSON that it came from");
    }
}

// --- the reference ------------------------------------------------------------------------------------------------------

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
    let mut decoder = decoder(&metrics);
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
    let blocks = car_blocks(car);
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

fn car_blocks(car: &[u8]) -> Vec<(Cid, Vec<u8>)> {
    pollster::block_on(async {
        let mut reader = iroh_car::CarReader::new(car).await.expect("a CAR");
        let mut blocks = Vec::new();
        while let Some((cid, block)) = reader.next_block().await.expect("a block") {
            blocks.push((Cid::try_from(&cid.to_bytes()[..]).expect("a CID"), block));
        }
        blocks
    })
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn whole_repositories_equal_the_reference() {
    let dir = shared("data/repo-stream-cars");
    let mut records = 0;
    for name in ["empty.car", "tiny.car", "little.car", "midsize.car"] {
        let car = std::fs::read(dir.join(name)).expect("a CAR");
        let blocks = car_blocks(&car);
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
    let seed = seed();
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

/// Any value that CBOR can hold, with the reserved keys of the data model more often than chance has them.
fn value() -> impl Strategy<Value = Ipld> {
    let text = || {
        prop_oneof![
            4 => proptest::collection::vec(any::<char>(), 0..24).prop_map(|c| c.into_iter().collect::<String>()),
            4 => "[ -~]{0,40}",
            1 => "[\\x00-\\x20\"\\\\]{0,20}",
            1 => Just("\u{2028}\u{7f}\u{ffff}\u{10ffff}é日😀".to_string()),
        ]
    };
    let integer = prop_oneof![
        (-(1i128 << 64)..(1i128 << 64)),
        any::<i16>().prop_map(i128::from),
        proptest::sample::select(vec![
            0,
            23,
            24,
            255,
            256,
            65_535,
            65_536,
            (1 << 32) - 1,
            1 << 32,
            (1 << 53) + 1,
            i64::MAX as i128,
            u64::MAX as i128,
            -1,
            -24,
            -25,
            i64::MIN as i128,
            -(1i128 << 64),
        ]),
    ];
    let link = (any::<[u8; 32]>(), any::<bool>(), any::<bool>()).prop_map(|(digest, raw, blake)| {
        let hash = Multihash::wrap(if blake { 0x1e } else { 0x12 }, &digest).expect("a hash");
        Ipld::Link(Cid::new_v1(if raw { 0x55 } else { 0x71 }, hash))
    });
    let leaf = prop_oneof![
        10 => Just(Ipld::Null),
        10 => any::<bool>().prop_map(Ipld::Bool),
        20 => integer.prop_map(Ipld::Integer),
        40 => text().prop_map(Ipld::String),
        10 => proptest::collection::vec(any::<u8>(), 0..100).prop_map(Ipld::Bytes),
        10 => link,
        1 => proptest::sample::select(vec![0.0, 1.5, -2.0e300]).prop_map(Ipld::Float),
    ];
    let key = prop_oneof![
        20 => text(),
        1 => proptest::sample::select(vec!["$type", "$link", "$bytes", "ref", "size", "mimeType"])
            .prop_map(str::to_string),
    ];
    let blob = (0u8..8, any::<u32>()).prop_map(|(missing, size)| {
        let cid = Cid::new_v1(0x55, Multihash::wrap(0x12, &[1; 32]).expect("a hash"));
        let mut map = std::collections::BTreeMap::from([
            ("$type".to_string(), Ipld::String("blob".into())),
            ("ref".to_string(), Ipld::Link(cid)),
            ("size".to_string(), Ipld::Integer(size.into())),
            ("mimeType".to_string(), Ipld::String("a/b".into())),
        ]);
        if let Some(key) = ["ref", "size", "mimeType"].get(missing as usize) {
            map.remove(*key);
        }
        Ipld::Map(map)
    });
    prop_oneof![30 => leaf, 1 => blob].prop_recursive(6, 120, 12, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..12).prop_map(Ipld::List),
            2 => proptest::collection::btree_map(key.clone(), inner, 0..12).prop_map(Ipld::Map),
        ]
    })
}

// --- the slow way -------------------------------------------------------------------------------------------------------

/// The JSON of a value as the specification says it, straight from <https://atproto.com/specs/data-model>. An error where
/// the value is not of the model.
fn slow(value: &Ipld) -> Result<String, &'static str> {
    Ok(match value {
        Ipld::Null => "null".into(),
        Ipld::Bool(b) => b.to_string(),
        Ipld::Integer(i) => i.to_string(),
        Ipld::Float(_) => return Err("a float"),
        Ipld::String(text) => quoted(text),
        Ipld::Bytes(bytes) => format!("{{\"$bytes\":\"{}\"}}", BASE64.encode(bytes).trim_end_matches('=')),
        Ipld::Link(cid) => format!("{{\"$link\":\"{cid}\"}}"),
        Ipld::List(list) => {
            let items: Result<Vec<String>, _> = list.iter().map(slow).collect();
            format!("[{}]", items?.join(","))
        }
        Ipld::Map(map) => {
            check_reserved(map)?;
            let mut entries: Vec<(&String, &Ipld)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| (key.len(), *key));
            let entry = |(k, v): (&String, &Ipld)| slow(v).map(|v| format!("{}:{v}", quoted(k)));
            let entries: Result<Vec<String>, _> = entries.into_iter().map(entry).collect();
            format!("{{{}}}", entries?.join(","))
        }
    })
}

fn check_reserved(map: &std::collections::BTreeMap<String, Ipld>) -> Result<(), &'static str> {
    match map.get("$type") {
        None => {}
        Some(Ipld::String(name)) if name.is_empty() => return Err("an empty $type"),
        Some(Ipld::String(name)) if name == "blob" => {
            let parts = (map.get("ref"), map.get("size"), map.get("mimeType"));
            if !matches!(parts, (Some(Ipld::Link(_)), Some(Ipld::Integer(_)), Some(Ipld::String(_)))) {
                return Err("a blob without its parts");
            }
        }
        Some(Ipld::String(_)) => {}
        Some(_) => return Err("a $type that is not text"),
    }
    for (key, fits) in [("$link", is_cid as fn(&str) -> bool), ("$bytes", is_base64)] {
        match map.get(key) {
            None => {}
            Some(Ipld::String(text)) if map.len() == 1 && fits(text) => {}
            Some(_) => return Err("a $link or $bytes that is none"),
        }
    }
    Ok(())
}

fn is_cid(text: &str) -> bool {
    Cid::from_str(text).is_ok_and(|cid| cid.to_string() == text)
}

fn is_base64(text: &str) -> bool {
    BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes()).is_ok()
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32).expect("a String takes it"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// JSON to the data model: `$link` and `$bytes` become links and bytes where they are well-formed, and stay maps where not.
fn to_ipld(value: &sonic_rs::Value) -> Ipld {
    match value.get_type() {
        JsonType::Null => Ipld::Null,
        JsonType::Boolean => Ipld::Bool(value.as_bool().expect("a boolean")),
        JsonType::Number => match (value.as_i64(), value.as_u64(), value.as_f64().expect("a number")) {
            (Some(i), ..) => Ipld::Integer(i.into()),
            (_, Some(u), _) => Ipld::Integer(u.into()),
            // The specification's libraries take `123.0` for an integer.
            (.., f) if f.fract() == 0.0 => Ipld::Integer(f as i128),
            (.., f) => Ipld::Float(f),
        },
        JsonType::String => Ipld::String(text(value)),
        JsonType::Array => Ipld::List(array(value).iter().map(to_ipld).collect()),
        JsonType::Object => {
            let object = value.as_object().expect("an object");
            if object.len() == 1 {
                if let Some(cid) = value["$link"].as_str().and_then(|t| Cid::from_str(t).ok()) {
                    return Ipld::Link(cid);
                }
                let bytes = value["$bytes"].as_str().map(|t| BASE64_NOPAD.decode(t.trim_end_matches('=').as_bytes()));
                if let Some(Ok(bytes)) = bytes {
                    return Ipld::Bytes(bytes);
                }
            }
            Ipld::Map(object.iter().map(|(k, v)| (k.to_string(), to_ipld(v))).collect())
        }
    }
}

// --- helpers ------------------------------------------------------------------------------------------------------------

fn seed() -> u64 {
    let given = std::env::var("ATKAFKA_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (ATKAFKA_TEST_SEED={seed})");
    seed
}

fn json_file(path: &std::path::Path) -> sonic_rs::Value {
    let bytes = std::fs::read(path).expect("the file");
    sonic_rs::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn array(value: &sonic_rs::Value) -> Vec<sonic_rs::Value> {
    value.as_array().expect("an array").iter().cloned().collect()
}

fn text(value: &sonic_rs::Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is not text")).to_string()
}

fn decoder(metrics: &Metrics) -> Workbench<'_> {
    let filter = Filter::new(&Lists::default()).expect("no filter");
    Workbench::new(Rules { format: Format::Plain, filter, verify: true, enrich: false }, metrics)
}

/// Frames through the whole worker, as a reader hands them over.
fn work(decoder: &mut Workbench<'_>, list: &[&[u8]]) -> Batch {
    let mut frames = Frames::default();
    for bytes in list {
        // The reader keeps the others to itself.
        if let Some(seen) = Arrival::of(bytes).seen() {
            frames.push(bytes, seen);
        }
    }
    let (work, received, arrived_ms) = (Work::Frames(frames), Instant::now(), time::now_ms());
    let (cost, room, decode) = (work.bytes(), batch::room(&work, usize::MAX), relay::message);
    worker::work(
        decoder,
        &Job { source: 0, ordinal: 0, work, decode, position: None, received, arrived_ms, cost, room },
    )
}

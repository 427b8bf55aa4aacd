//! The decoder against garbage, against foreign test suites, and against a slow reference made of libraries.
//!
//! Seeds are printed; `ATKAFKA_TEST_SEED` sets one.

#[path = "support/car.rs"]
mod car;
#[path = "decoder/fuzz.rs"]
mod fuzz;
#[path = "decoder/reference.rs"]
mod reference;
#[path = "decoder/suites.rs"]
mod suites;
mod support;

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use atkafka::atproto::car::CarIndex;
use atkafka::atproto::cid;
use atkafka::clock;
use atkafka::dead_letter::Reason;
use atkafka::decode::batch::{self, Batch, Job};
use atkafka::decode::{Rules, Workbench, relay};
use atkafka::event::Format;
use atkafka::filter::{Filter, Lists};
use atkafka::metrics::Metrics;
use atkafka::metrics::decode::DecodeMetrics;
use atkafka::pipeline::worker;
use atkafka::route::Routes;
use atkafka::source::job::{Frames, Work};
use atkafka::source::stream::Arrival;
use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::{self, Commit, Op};
use data_encoding::{BASE64, BASE64_NOPAD};
use ipld_core::cid::{Cid, multihash::Multihash};
use ipld_core::ipld::Ipld;
use proptest::prelude::*;
use sonic_rs::{JsonContainerTrait, JsonType, JsonValueTrait};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");

#[test]
fn every_truncation_of_a_frame_is_one_dead_letter_and_no_event() {
    let seed = atkafka_fixtures::seeds::one();
    let mut rng = fastrand::Rng::with_seed(seed);
    let metrics = Metrics::default();
    let mut decoder = decoder(&metrics.decode);
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
    let mut decoder = decoder(&metrics.decode);
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

fn decoder(metrics: &Arc<DecodeMetrics>) -> Workbench {
    let filter = Filter::new(&Lists::default()).expect("no filter");
    Workbench::new(
        Rules { format: Format::Plain, filter, routes: Routes::default(), verify: true, enrich: false },
        metrics.clone(),
    )
}

/// Frames through the whole worker, as a reader hands them over.
fn work(decoder: &mut Workbench, list: &[&[u8]]) -> Batch {
    let mut frames = Frames::default();
    for bytes in list {
        // The reader keeps the others to itself.
        if let Some(seen) = Arrival::of(bytes).seen() {
            frames.push(bytes, seen);
        }
    }
    let (work, received, arrived_ms) = (Work::Frames(frames), Instant::now(), clock::now_ms());
    let (cost, room, decode) = (work.bytes(), batch::room(&work, usize::MAX), relay::message);
    worker::work(
        decoder,
        &Job { source: 0, ordinal: 0, work, decode, position: None, received, arrived_ms, cost, room },
    )
}

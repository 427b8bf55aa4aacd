//! The test suites of others for DAG-CBOR and for atproto's data model.

use atkafka::atproto::cbor::CborError;
use atkafka::atproto::json::{Oddities, Oddity};
use atkafka::atproto::{cid, json};
use data_encoding::BASE64_NOPAD;
use ipld_core::ipld::Ipld;
use sha2::{Digest, Sha256};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{array, json_file, slow, text, to_ipld};

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

//! What cannot be an event, and why: dead letters, and the limits of the data model.

use atkafka::clock::now_ms;
use atkafka_fixtures::network::builder::{A_TIME, Op, identity_frame, record};
use atkafka_fixtures::relay::{Inject, RelayConfig};
use atkafka_fixtures::{car, frames};
use ipld_core::cid::Cid;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use sonic_rs::{JsonValueTrait, Value};

use crate::support::*;
use crate::{DID, commit, create, run_kafka, run_lines, same, text};

#[test]
fn dead_letters_have_the_raw_bytes_and_say_why_and_from_where() {
    let Some(broker) = broker(KAFKA) else { return };
    let float = record(&ipld!({ "$type": "app.bsky.feed.post", "n": 1.5 }));
    let wrong = Some(car::cid_of(b"something else"));
    let list = vec![
        commit().ops([create("a.b.c/0"), Op::create("a.b.c/1", &float)]).frame(1),
        commit().op(create("no-slash")).frame(2),
        commit().op(create("a.b.c/2").action("frob")).frame(3),
        commit().op(create("a.b.c/3").with_cid(None)).frame(4),
        commit().op(create("a.b.c/4").without_block()).frame(5),
        commit().op(create("a.b.c/5").with_cid(wrong)).frame(6),
        commit().op(create("a.b.c/6")).car(b"junk").frame(7),
        commit().op(Op::create("a.b.c/7", b"\xff\xff")).frame(8),
        frames::with_seq(&identity_frame(1, DID, A_TIME, None), 0),
        // Two bad ops of one frame: the frame is kept once.
        commit().ops([Op::create("a.b.c/8", &float), Op::create("a.b.c/9", &float)]).frame(9),
        identity_frame(10, DID, A_TIME, None),
    ];
    let garbage: &[u8] = b"\xde\xad\xbe\xef";
    let mut config = RelayConfig::script(list.clone());
    config.faults.inject.extend([Inject::binary(1, garbage), Inject::binary(1, b""), Inject::text(2, "hello")]);
    let relay_port = free_port();
    config.port = relay_port;
    let before = now_ms();
    let (arrived, dead) = run_kafka(&broker, config, 10, &["--topic-partitions", "1", "--osprey-compatible"]);
    assert_eq!(arrived.len(), 2, "the sibling of the float, and the last one");
    let got: Vec<(String, String, Vec<u8>)> = dead
        .iter()
        .map(|d| (d.header("reason").expect("reason"), d.header("seq").expect("seq"), d.value.clone()))
        .collect();
    let of = |reason: &str, seq: u64, bytes: &[u8]| (reason.to_string(), seq.to_string(), bytes.to_vec());
    let want = [
        of("float", 1, &list[0]),
        of("bad_frame", 0, garbage),
        of("bad_frame", 0, b""),
        of("bad_op", 2, &list[1]),
        of("text_frame", 0, b"hello"),
        of("bad_op", 3, &list[2]),
        of("bad_op", 4, &list[3]),
        of("missing_block", 5, &list[4]),
        of("cid_mismatch", 6, &list[5]),
        of("bad_car", 7, &list[6]),
        of("bad_record", 8, &list[7]),
        of("bad_seq", 0, &list[8]),
        of("float", 9, &list[9]),
        of("float", 9, b""),
    ];
    let names =
        |l: &[(String, String, Vec<u8>)]| l.iter().map(|(r, s, b)| format!("{r} {s} {}", b.len())).collect::<Vec<_>>();
    assert_eq!(names(&got), names(&want));
    assert!(got == want, "byte for byte");
    for d in &dead {
        assert_eq!(d.key, None);
        assert_eq!(d.header("host"), Some(format!("127.0.0.1:{relay_port}")));
        assert!(d.time_ms.is_some_and(|ms| ms >= before - 1_000), "when it was found");
    }
}

#[test]
fn the_data_model_is_exact() {
    // Bytes of CBOR by hand where Ipld cannot say it, and the JSON that they mean.
    let cid = "bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454";
    let link = Ipld::Link(cid.parse::<Cid>().expect("a CID"));
    let text = "a\"b\\c/\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}é日本😀👩‍👩‍👧‍👦\u{2028}\u{feff}";
    let value = ipld!({
        "$type": "com.example.model",
        "big": 9_007_199_254_740_993i64,
        "bytes": Ipld::Bytes(vec![1, 2, 3, 0xff]),
        "empty": Ipld::Bytes(vec![]),
        "largest": Ipld::Integer(u64::MAX as i128),
        "link": link.clone(),
        "list": [true, false, Ipld::Null, [], {}],
        "lowest": i64::MIN,
        "negative": -1,
        "text": text,
        "zero": 0,
        "é 😀": "key",
        "blob": { "$type": "blob", "ref": link, "mimeType": "image/jpeg", "size": 12_345 },
    });
    let run = run_lines(vec![commit().op(Op::create("com.example.model/1", &record(&value))).frame(1)], &[]);
    assert_eq!(run.lines.len(), 1, "{:?}", run.log);
    let line = &run.lines[0];
    for part in [
        r#""big":9007199254740993"#,
        r#""bytes":{"$bytes":"AQID/w"}"#,
        r#""empty":{"$bytes":""}"#,
        r#""largest":18446744073709551615"#,
        &format!(r#""link":{{"$link":"{cid}"}}"#),
        r#""list":[true,false,null,[],{}]"#,
        r#""lowest":-9223372036854775808"#,
        r#""negative":-1"#,
        r#""zero":0"#,
        r#""é 😀":"key""#,
        r#""size":12345"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let record = &run.events()[0]["operation"]["record"];
    assert_eq!(record["text"].as_str(), Some(text), "every character, escaped where JSON demands it");
    let blob: Value = sonic_rs::from_str(&format!(
        r#"{{"$type":"blob","ref":{{"$link":"{cid}"}},"mimeType":"image/jpeg","size":12345}}"#
    ))
    .expect("JSON");
    same(&blob, &record["blob"], "blob");
    assert!(!line.chars().any(|c| c < ' '), "one line, no raw control characters");
}

#[test]
fn floats_are_refused_wherever_they_hide_and_siblings_arrive() {
    let hidden = [
        ipld!({ "n": 1.5 }),
        ipld!({ "n": 1.0 }),
        ipld!({ "a": [1, [2, 3.25]] }),
        ipld!({ "a": { "b": { "c": -0.0 } } }),
    ];
    let mut ops: Vec<Op> =
        hidden.iter().enumerate().map(|(i, v)| Op::create(&format!("a.b.c/{i}"), &record(v))).collect();
    ops.insert(2, create("a.b.c/sibling"));
    let run = run_lines(vec![commit().ops(ops).frame(1)], &[]);
    assert_eq!(run.dead("float"), 4.0, "{:?}", run.log);
    let rkeys: Vec<String> = run.events().iter().map(|e| text(e, &["operation", "rkey"])).collect();
    assert_eq!(rkeys, ["sibling"]);
    assert!(run.log.iter().filter(|l| l.contains("dead letter: float")).count() == 4, "{:?}", run.log);
}

#[test]
fn no_verify_passes_a_record_that_does_not_hash_to_its_cid() {
    let wrong = car::cid_of(b"something else");
    let list = vec![commit().op(create("a.b.c/1").with_cid(Some(wrong))).frame(1)];
    let run = run_lines(list.clone(), &[]);
    assert_eq!((run.lines.len(), run.dead("cid_mismatch")), (0, 1.0));
    let run = run_lines(list, &["--no-verify"]);
    assert_eq!((run.lines.len(), run.dead("cid_mismatch")), (1, 0.0));
    let event = &run.events()[0];
    assert_eq!(text(event, &["operation", "cid"]), wrong.to_string());
    assert_eq!(text(event, &["operation", "record", "text"]), "a.b.c/1");
}

//! What is written: plain JSON, the envelope of Osprey, headers, dead letters, and what the filters leave.

#[path = "formats/dead_letters.rs"]
mod dead_letters;
#[path = "formats/filters.rs"]
mod filters;
#[path = "formats/osprey.rs"]
mod osprey;
mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use atkafka::atproto::time::{format_ms, parse_ms};
use atkafka::clock::now_ms;
use atkafka_fixtures::network::builder::{
    A_TIME, Commit, Op, account_frame, commit_block, identity_frame, record, sync_frame,
};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::{car, cbor, frames};
use ipld_core::ipld;
use sonic_rs::{JsonContainerTrait, JsonType, JsonValueTrait, Value};
use support::*;

const SOON: Duration = Duration::from_secs(60);
const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER_DID: &str = "did:web:other.example";
const REV: &str = "3kaaaaaaaaaa2";
/// A_TIME in milliseconds.
const A_TIME_MS: i64 = 1_749_988_800_000;

fn commit() -> Commit {
    Commit::new(DID, REV)
}

fn post(text: &str) -> Vec<u8> {
    record(&ipld!({ "$type": "app.bsky.feed.post", "text": text }))
}

fn create(path: &str) -> Op {
    Op::create(path, &post(path))
}

/// What a run wrote on standard output, and its metrics at the end.
struct Run {
    lines: Vec<String>,
    metrics: HashMap<String, f64>,
    log: Vec<String>,
}

impl Run {
    /// The events, as JSON.
    fn events(&self) -> Vec<Value> {
        self.lines.iter().map(|l| sonic_rs::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    fn dead(&self, reason: &str) -> f64 {
        self.metrics[&format!("atkafka_dead_letters{{reason=\"{reason}\"}}")]
    }
}

/// Sends the frames (the last of them has the highest seq) to standard output.
fn run_lines(list: Vec<Vec<u8>>, args: &[&str]) -> Run {
    let last = list.last().and_then(|f| frames::seq_of(f)).expect("the last frame has a seq");
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let url = relay.url();
    let args: Vec<&str> = ["firehose", "relay", "--relay-host", &url].iter().chain(args).copied().collect();
    let mut bridge = Bridge::start(&args);
    bridge.wait_delivered(last, SOON);
    let metrics = bridge.metrics();
    bridge.signal("TERM");
    assert_eq!(bridge.end(SOON).code(), Some(0));
    std::thread::sleep(Duration::from_millis(100));
    Run { lines: bridge.lines(), metrics, log: bridge.log() }
}

/// Sends what a relay has, up to seq `last`, into a new topic of Kafka: what arrived there and in `TOPIC-dead`.
fn run_kafka(broker: &str, config: RelayConfig, last: u64, args: &[&str]) -> (Vec<Arrived>, Vec<Arrived>) {
    let relay = Relay::start(config).expect("a relay");
    let (topic, state) = (unique("formats"), folder("state"));
    let dead = format!("{topic}-dead");
    let (url, state) = (relay.url(), state.to_string_lossy().into_owned());
    let mut all = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker];
    all.extend(["--output-topic", &topic, "--state-dir", &state, "--cursor", "oldest", "--dead-letter-topic", &dead]);
    all.extend(args);
    let bridge = Bridge::start(&all);
    bridge.wait_delivered(last, SOON);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");
    (consume(broker, &topic), letters(broker, &dead))
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").iter().map(|(k, _)| k.to_string()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| n.to_string()).collect()
}

/// The text at a path of keys.
fn text(value: &Value, path: &[&str]) -> String {
    let at = path.iter().try_fold(value, |v, key| v.get(*key)).unwrap_or_else(|| panic!("no {path:?} in {value}"));
    at.as_str().unwrap_or_else(|| panic!("{path:?} is no text in {value}")).to_string()
}

#[test]
fn plain_events_have_the_fields_of_the_seed_with_seq_and_rev() {
    let content = record(&ipld!({
        "$type": "app.bsky.feed.post", "createdAt": A_TIME, "text": "Hello world!",
    }));
    let cid = car::cid_of(&content);
    let block = commit_block(DID, "3kaaaaaaaaaa4", &car::cid_of(b""), None);
    let run = run_lines(
        vec![
            commit().op(Op::create("app.bsky.feed.post/some-rkey", &content)).frame(11),
            commit().op(Op::update("app.bsky.feed.post/some-rkey", &content, Some(cid))).frame(12),
            commit().op(Op::delete("app.bsky.feed.post/some-rkey", Some(cid))).frame(13),
            account_frame(14, DID, A_TIME, true, None),
            account_frame(15, DID, A_TIME, false, Some("takendown")),
            identity_frame(16, DID, A_TIME, Some("user.bsky.social")),
            sync_frame(17, DID, "3kaaaaaaaaaa4", A_TIME, &block),
            frames::info_frame("OutdatedCursor", Some("it is too old")),
            frames::info_frame("Silent", None),
            identity_frame(18, DID, A_TIME, None),
        ],
        &[],
    );
    let op = |verb: &str, seq: u64, cid: &str, record: &str| {
        format!(
            concat!(
                r#"{{"did":"{did}","timestamp":"{time}","seq":{seq},"rev":"{rev}","operation":{{"action":"{verb}","#,
                r#""collection":"app.bsky.feed.post","rkey":"some-rkey","uri":"at://{did}/app.bsky.feed.post/some-rkey","#,
                r#""cid":"{cid}","path":"app.bsky.feed.post/some-rkey"{record}}}}}"#
            ),
            did = DID,
            time = A_TIME,
            seq = seq,
            rev = REV,
            verb = verb,
            cid = cid,
            record = record
        )
    };
    let record = format!(r#","record":{{"text":"Hello world!","$type":"app.bsky.feed.post","createdAt":"{A_TIME}"}}"#);
    let head = |seq: u64| format!(r#"{{"did":"{DID}","timestamp":"{A_TIME}","seq":{seq},"#);
    let wanted = [
        op("create", 11, &cid.to_string(), &record),
        op("update", 12, &cid.to_string(), &record),
        op("delete", 13, "", ""),
        head(14) + r#""account":{"active":true,"seq":14}}"#,
        head(15) + r#""account":{"active":false,"seq":15,"status":"takendown"}}"#,
        head(16) + r#""identity":{"seq":16,"handle":"user.bsky.social"}}"#,
        format!(
            r#"{}"rev":"3kaaaaaaaaaa4","sync":{{"seq":17,"rev":"3kaaaaaaaaaa4","cid":"{}"}}}}"#,
            head(17),
            car::cid_of(&block)
        ),
    ];
    let events = run.events();
    assert_eq!(events.len(), 10);
    for (i, want) in wanted.iter().enumerate() {
        // The order of keys means nothing: compared as values.
        let want: Value = sonic_rs::from_str(want).expect("JSON");
        same(&want, &events[i], &format!("event {i}"));
    }
    for (i, name, message) in [(7, "OutdatedCursor", "it is too old"), (8, "Silent", "")] {
        assert_eq!(keys(&events[i]), set(&["timestamp", "info"]), "an info has no account: {}", run.lines[i]);
        assert_eq!(text(&events[i], &["info", "name"]), name);
        assert_eq!(text(&events[i], &["info", "message"]), message);
        assert!(parse_ms(&text(&events[i], &["timestamp"])).is_some_and(|ms| (now_ms() - ms).abs() < 600_000));
    }
    assert_eq!(keys(&events[9]["identity"]), set(&["seq"]), "no handle in it, none made up");
}

/// Fails unless both are equal as JSON values, down to the types.
fn same(want: &Value, got: &Value, at: &str) {
    assert_eq!(want.get_type(), got.get_type(), "{at}: {want} became {got}");
    match want.get_type() {
        JsonType::Object => {
            assert_eq!(keys(want), keys(got), "{at}: {got}");
            for (key, value) in want.as_object().expect("an object") {
                same(value, &got[key], &format!("{at}.{key}"));
            }
        }
        JsonType::Array => {
            let (a, b) = (want.as_array().expect("an array"), got.as_array().expect("an array"));
            assert_eq!(a.len(), b.len(), "{at}: {got}");
            for (i, (a, b)) in a.iter().zip(b.iter()).enumerate() {
                same(a, b, &format!("{at}[{i}]"));
            }
        }
        JsonType::Number => assert_eq!(want.to_string(), got.to_string(), "{at}"),
        _ => assert_eq!(want, got, "{at}"),
    }
}

#[test]
fn commits_too_big_or_without_ops_and_deletes_without_blocks() {
    let cid = car::cid_of(b"elsewhere");
    let run = run_lines(
        vec![
            commit()
                .ops([
                    Op::create("a.b.c/1", &post("1")).with_cid(Some(cid)).without_block(),
                    Op::update("a.b.c/2", &post("2"), None).with_cid(Some(cid)).without_block(),
                    Op::delete("a.b.c/3", None),
                ])
                .too_big()
                .frame(1),
            commit().frame(2),
            // A delete needs no block, whatever the CAR is worth; nor do its siblings lose by a bad op.
            commit().ops([Op::delete("a.b.c/4", None), create("a.b.c/5")]).car(b"junk").frame(3),
            commit().op(Op::delete("a.b.c/6", None)).car(b"").frame(4),
            commit().ops([create("a.b.c/7"), create("a.b.c/8").without_block(), create("a.b.c/9")]).frame(5),
        ],
        &[],
    );
    let ops: Vec<(String, String, String, bool)> = run
        .events()
        .iter()
        .map(|e| {
            let of = |key| text(e, &["operation", key]);
            (of("action"), of("rkey"), of("cid"), e["operation"].get("record").is_some())
        })
        .collect();
    let want =
        |action: &str, rkey: &str, cid: &str, record| (action.to_string(), rkey.to_string(), cid.to_string(), record);
    let seven = car::cid_of(&post("a.b.c/7")).to_string();
    let nine = car::cid_of(&post("a.b.c/9")).to_string();
    assert_eq!(
        ops,
        [
            want("create", "1", &cid.to_string(), false),
            want("update", "2", &cid.to_string(), false),
            want("delete", "3", "", false),
            want("delete", "4", "", false),
            want("delete", "6", "", false),
            want("create", "7", &seven, true),
            want("create", "9", &nine, true),
        ]
    );
    assert_eq!(run.metrics["atkafka_events_without_record"], 2.0);
    assert_eq!((run.dead("bad_car"), run.dead("missing_block")), (1.0, 1.0), "{:?}", run.log);
    let letters: Vec<&String> = run.log.iter().filter(|l| l.contains("dead letter:")).collect();
    assert!(letters.len() == 2 && letters.iter().any(|l| l.contains("a.b.c/8") && l.contains("seq 5")), "{letters:?}");
}

/// A key, and what writes its value.
type Field<'a> = (&'a str, &'a dyn Fn(&mut cbor::Writer));

/// A body made by hand: fields of any sort.
fn body(kind: &str, fields: &[Field<'_>]) -> Vec<u8> {
    let mut w = cbor::Writer(frames::header(kind));
    w.map(fields.len());
    for (key, value) in fields {
        w.text(key);
        value(&mut w);
    }
    w.0
}

#[test]
fn times_pass_as_they_are_and_what_is_none_becomes_the_arrival() {
    let Some(broker) = broker(KAFKA) else { return };
    let did = |w: &mut cbor::Writer| _ = w.text(DID);
    let no_time = |seq: u64| body("#identity", &[("did", &did), ("seq", &move |w| _ = w.uint(seq))]);
    let null_time =
        |seq: u64| body("#identity", &[("did", &did), ("seq", &move |w| _ = w.uint(seq)), ("time", &|w| _ = w.null())]);
    // text in the frame, and its milliseconds
    let known = [
        ("2025-06-15T12:00:00.000Z", A_TIME_MS),
        ("2025-06-15T12:00:00Z", A_TIME_MS),
        ("2023-07-01T13:58:07.7841234", 1_688_219_887_784),
        ("2023-07-01T15:58:07.784+02:00", 1_688_219_887_784),
        ("2023-07-01T13:58:07.784123456Z", 1_688_219_887_784),
    ];
    let unknown = ["", "yesterday", "2023-13-01T00:00:00Z", "0", "12:00:00"];
    let mut list = Vec::new();
    for (text, _) in known {
        list.push(commit().time(text).op(create("a.b.c/1")).frame(list.len() as u64 + 1));
    }
    for text in unknown {
        list.push(commit().time(text).op(create("a.b.c/1")).frame(list.len() as u64 + 1));
    }
    list.extend([no_time(11), null_time(12), identity_frame(13, DID, "never", None)]);
    list.push(account_frame(14, DID, "2023-07-01T13:58:07.7841234", true, None));
    let before = now_ms();
    let (plain, dead) = run_kafka(&broker, RelayConfig::script(list.clone()), 14, &["--topic-partitions", "1"]);
    let (osprey, _) =
        run_kafka(&broker, RelayConfig::script(list), 14, &["--topic-partitions", "1", "--osprey-compatible"]);
    let after = now_ms();
    assert!(dead.is_empty(), "no odd time costs an event");
    assert_eq!((plain.len(), osprey.len()), (14, 14));
    for (i, (plain, osprey)) in plain.iter().zip(&osprey).enumerate() {
        let (value, envelope) = (plain.json(), osprey.json());
        assert_eq!(value["seq"].as_u64(), Some(i as u64 + 1));
        let (timestamp, ms) = (text(&value, &["timestamp"]), plain.time_ms.expect("a time"));
        let expected = known.get(i).copied().or((i == 13).then_some(known[2]));
        if let Some((as_sent, millis)) = expected {
            assert_eq!((timestamp.as_str(), ms), (as_sent, millis), "as upstream wrote it");
        } else {
            assert!((before..=after).contains(&ms), "event {i}: the arrival, not {ms}");
            assert_eq!(parse_ms(&timestamp), Some(ms), "JSON and Kafka agree");
            assert_eq!(timestamp, format_ms(ms));
        }
        // Osprey's parser needs a zone, and rules drop offsets: send_time is the same instant in UTC with Z.
        let send_time = text(&envelope, &["send_time"]);
        assert!(send_time.ends_with('Z') && send_time.len() == 24, "{send_time}");
        assert_eq!(parse_ms(&send_time), osprey.time_ms);
        if let Some((as_sent, millis)) = expected {
            assert_eq!(osprey.time_ms, Some(millis));
            assert_eq!(text(&envelope, &["data", "timestamp"]), as_sent);
        }
        assert_eq!(text(&envelope, &["data", "data", "timestamp"]), text(&envelope, &["data", "timestamp"]));
    }
}

#[test]
fn the_key_is_the_account_and_an_info_has_none() {
    let Some(broker) = broker(KAFKA) else { return };
    let list = vec![
        commit().op(create("a.b.c/1")).frame(1),
        Commit::new(OTHER_DID, REV).ops([create("a.b.c/1"), Op::delete("a.b.c/2", None)]).frame(2),
        identity_frame(3, OTHER_DID, A_TIME, None),
        frames::info_frame("Announcement", Some("hello")),
        account_frame(4, DID, A_TIME, true, None),
        sync_frame(5, DID, REV, A_TIME, &commit_block(DID, REV, &car::cid_of(b""), None)),
    ];
    let (arrived, _) = run_kafka(&broker, RelayConfig::script(list), 5, &["--topic-partitions", "3"]);
    assert_eq!(arrived.len(), 7);
    let mut places: HashMap<String, BTreeSet<i32>> = HashMap::new();
    for a in &arrived {
        let value = a.json();
        assert!(a.headers.is_empty(), "headers come only with --record-headers");
        match value.get("did").as_str() {
            Some(did) => {
                assert_eq!(a.key.as_deref(), Some(did));
                assert_eq!(a.time_ms, Some(A_TIME_MS), "the record's time is the event's");
                places.entry(did.to_string()).or_default().insert(a.partition);
            }
            None => assert_eq!((a.key.as_deref(), value.get("info").is_some()), (None, true)),
        }
    }
    assert!(places.len() == 2 && places.values().all(|p| p.len() == 1), "one partition an account: {places:?}");
}

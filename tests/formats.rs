//! What is written: plain JSON, the envelope of Osprey, headers, dead letters, and what the filters leave.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use atkafka::atproto::time::{format_ms, now_ms, parse_ms};
use atkafka_fixtures::network::builder::{
    A_TIME, Commit, Op, account_frame, commit_block, identity_frame, record, sync_frame,
};
use atkafka_fixtures::relay::{Inject, Relay, RelayConfig};
use atkafka_fixtures::{car, cbor, frames};
use ipld_core::cid::Cid;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
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
    (consume(broker, &topic), consume(broker, &dead))
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

// --- plain --------------------------------------------------------------------------------------

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

// --- Osprey -------------------------------------------------------------------------------------

/// What Osprey's worker does with a record (osprey.md, section 1), and what the rules need of it.
fn osprey_event(a: &Arrived) -> (u64, String, Value) {
    let v = a.json();
    assert_eq!(keys(&v), set(&["data", "send_time"]), "{v}");
    let data = &v["data"];
    assert_eq!(keys(data), set(&["action_name", "action_id", "data", "timestamp", "secret_data", "encoding"]), "{v}");
    assert!(data["action_id"].is_u64(), "a JSON integer: {v}");
    let id = data["action_id"].as_u64().expect("an integer");
    assert!((1..=i64::MAX as u64).contains(&id), "{id}");
    assert_eq!(text(data, &["encoding"]), "UTF8");
    assert!(keys(&data["secret_data"]).is_empty());
    let event = data["data"].clone();
    assert!(event.is_object() && event.get("osprey_skip_async").is_none(), "Osprey would drop it: {v}");
    assert!(event.get("did").is_some_and(|d| d.is_str()), "the rules demand a did: {v}");
    let name = text(data, &["action_name"]);
    if let Some(op) = event.get("operation") {
        for key in ["action", "collection", "path", "cid", "rkey", "uri"] {
            assert!(op.get(key).is_some_and(|v| v.is_str()), "{key}: {v}");
        }
        assert_eq!(name, format!("operation#{}", text(op, &["action"])));
        assert!(!text(op, &["path"]).starts_with('/'));
        assert!(op.get("record").is_none_or(|r| r.is_object()), "absent or an object, never null: {v}");
    }
    (id, name, event)
}

#[test]
fn osprey_events_are_what_its_worker_reads() {
    let Some(broker) = broker(KAFKA) else { return };
    // A record may try: the key that makes Osprey drop an event stands inside it, not at the top.
    let sly = record(&ipld!({ "$type": "app.bsky.feed.post", "osprey_skip_async": true, "text": "x" }));
    let mut list = vec![
        commit()
            .ops([Op::create("app.bsky.feed.post/1", &sly), Op::update("app.bsky.feed.post/2", &sly, None)])
            .frame(1),
        commit().op(Op::delete("app.bsky.feed.post/1", None)).frame(2),
        account_frame(3, DID, A_TIME, false, Some("deleted")),
        identity_frame(4, DID, A_TIME, Some("a.example")),
        sync_frame(5, DID, REV, A_TIME, &commit_block(DID, REV, &car::cid_of(b""), None)),
        frames::info_frame("Announcement", Some("hello")),
    ];
    // Enough for more than 4096 ids in one millisecond's neighbourhood, over several accounts.
    for i in 0..60u64 {
        let ops = (0..100).map(|n| create(&format!("a.b.c/{n}")));
        list.push(Commit::new(&format!("did:plc:{i}"), REV).ops(ops).frame(6 + i));
    }
    let ids = ["--snowflake-worker-id", "7", "--snowflake-data-center-id", "3"];
    let args = [&["--osprey-compatible", "--topic-partitions", "3"][..], &ids].concat();
    let before = now_ms();
    let (arrived, _) = run_kafka(&broker, RelayConfig::script(list), 65, &args);
    assert_eq!(arrived.len(), 7 + 6_000);
    let (mut all, mut last, mut names) = (BTreeSet::new(), HashMap::new(), BTreeSet::new());
    for a in &arrived {
        let (id, name, event) = osprey_event(a);
        assert!(all.insert(id), "{id} twice");
        let previous = last.insert(a.partition, id).unwrap_or(0);
        assert!(id > previous, "ids rise in partition {}: {previous}, {id}", a.partition);
        assert_eq!(((id >> 17) & 31, (id >> 12) & 31), (3, 7), "data center and worker");
        let at = (id >> 22) as i64 + 1_420_070_400_000;
        assert!((before - 1_000..now_ms() + 10_000).contains(&at), "the time in it is of now: {at}");
        if name == "info" {
            assert_eq!((text(&event, &["did"]).as_str(), a.key.as_deref()), ("", None));
        } else {
            assert_eq!(text(&a.json(), &["send_time"]), A_TIME, "the event's time");
        }
        names.insert(name);
    }
    assert_eq!(
        names,
        set(&["operation#create", "operation#update", "operation#delete", "account", "identity", "sync", "info"])
    );
}

// --- headers ------------------------------------------------------------------------------------

#[test]
fn record_headers_tell_seq_action_and_collection() {
    let Some(broker) = broker(KAFKA) else { return };
    let list = vec![
        commit().ops([create("app.bsky.feed.post/1"), Op::delete("a.b.c/2", None)]).frame(41),
        identity_frame(42, DID, A_TIME, None),
    ];
    let args = ["--record-headers", "--topic-partitions", "1"];
    let (arrived, _) = run_kafka(&broker, RelayConfig::script(list), 42, &args);
    let headers: Vec<Vec<(String, String)>> = arrived
        .iter()
        .map(|a| a.headers.iter().map(|(k, v)| (k.clone(), String::from_utf8_lossy(v).into_owned())).collect())
        .collect();
    let of = |seq: &str, action: &str, collection: &str| {
        [("seq", seq), ("action", action), ("collection", collection)]
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .to_vec()
    };
    assert_eq!(
        headers,
        [
            of("41", "operation#create", "app.bsky.feed.post"),
            of("41", "operation#delete", "a.b.c"),
            of("42", "identity", "")
        ]
    );
}

// --- filters ------------------------------------------------------------------------------------

#[test]
fn filters_pass_what_they_say_and_count_the_rest() {
    let file = folder("filters").join("dids");
    std::fs::write(&file, format!("# watched\n\n  {OTHER_DID}  \r\ndid:plc:nobody\n")).expect("a file");
    let at_file = format!("@{}", file.display());
    let collections = ["app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.feed.postgate", "fm.teal.alpha.play"];
    let three = |did: &str, first: u64| {
        let ops = collections.map(|c| create(&format!("{c}/1")));
        vec![
            Commit::new(did, REV).ops(ops).frame(first),
            identity_frame(first + 1, did, A_TIME, None),
            account_frame(first + 2, did, A_TIME, true, None),
            sync_frame(first + 3, did, REV, A_TIME, &commit_block(did, REV, &car::cid_of(b""), None)),
        ]
    };
    let list = [three(DID, 1), three(OTHER_DID, 5), vec![identity_frame(9, "did:plc:end", A_TIME, None)]].concat();
    let [post, like, gate, play] = [0, 1, 2, 3];
    // flags; which collections pass; which of the accounts DID, OTHER_DID, did:plc:end pass
    type Case<'a> = (Vec<&'a str>, Vec<usize>, [bool; 3]);
    let all = [true; 3];
    let cases: Vec<Case<'_>> = vec![
        (vec![], vec![post, like, gate, play], all),
        (vec!["--watched-collections", "app.bsky.feed.post"], vec![post], all),
        (vec!["--watched-collections", "app.bsky.*"], vec![post, like, gate], all),
        (vec!["--watched-collections", "*"], vec![post, like, gate, play], all),
        (vec!["--watched-collections", "fm.teal.*,app.bsky.feed.like"], vec![like, play], all),
        (vec!["--ignored-collections", "app.bsky.*"], vec![play], all),
        (vec!["--ignored-collections=app.bsky.feed.post", "--ignored-collections=fm.*"], vec![like, gate], all),
        (vec!["--watched-dids", DID], vec![post, like, gate, play], [true, false, false]),
        (vec!["--ignored-dids", DID], vec![post, like, gate, play], [false, true, true]),
        (vec!["--watched-dids", &at_file], vec![post, like, gate, play], [false, true, false]),
        (
            vec!["--watched-dids", &at_file, "--watched-collections", "app.bsky.feed.post"],
            vec![post],
            [false, true, false],
        ),
        (vec!["--ignored-dids", &at_file, "--ignored-collections", "app.bsky.feed.*"], vec![play], [true, false, true]),
    ];
    for (args, passing, dids) in cases {
        let run = run_lines(list.clone(), &args);
        let mut want = Vec::new();
        for (did, passes, end) in [(DID, dids[0], false), (OTHER_DID, dids[1], false), ("did:plc:end", dids[2], true)] {
            if !passes {
                continue;
            }
            if !end {
                want.extend(passing.iter().map(|c| format!("{did} {}", collections[*c])));
            }
            want.push(format!("{did} identity"));
            if !end {
                want.extend([format!("{did} account"), format!("{did} sync")]);
            }
        }
        let got: Vec<String> = run
            .events()
            .iter()
            .map(|e| {
                let kind = ["identity", "account", "sync"].iter().find(|k| e.get(**k).is_some());
                let what = kind.map_or_else(|| text(e, &["operation", "collection"]), |k| k.to_string());
                format!("{} {what}", text(e, &["did"]))
            })
            .collect();
        assert_eq!(got, want, "{args:?}");
        assert_eq!(run.metrics["atkafka_filtered_events"], 15.0 - want.len() as f64, "{args:?}");
    }
}

#[test]
fn filtered_ops_are_not_decoded() {
    let float = record(&ipld!({ "$type": "x.y.z", "n": 0.5 }));
    let list = vec![
        commit()
            .ops([Op::create("x.y.z/1", &float), create("a.b.c/1").without_block(), create("app.bsky.feed.post/1")])
            .frame(1),
        commit().op(create("a.b.c/1")).car(b"junk").frame(2),
        identity_frame(3, DID, A_TIME, None),
    ];
    let run = run_lines(list, &["--watched-collections", "app.bsky.*"]);
    assert_eq!(run.lines.len(), 2);
    let dead: f64 = run.metrics.iter().filter(|(k, _)| k.starts_with("atkafka_dead_letters")).map(|(_, v)| v).sum();
    assert_eq!(dead, 0.0, "what nobody asked for is no dead letter: {:?}", run.log);
    assert_eq!(run.metrics["atkafka_filtered_events"], 3.0);
}

// --- dead letters -------------------------------------------------------------------------------

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

// --- the data model -----------------------------------------------------------------------------

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

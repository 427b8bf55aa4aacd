//! What the user says about Kafka: encryption and passwords, codecs, topics, properties, sizes, and the two clients.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use atkafka_fixtures::network::builder::{A_TIME, Commit, Op, identity_frame, record};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::{car, frames};
use ipld_core::ipld;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{CA, SASL, SASL_SSL, SOON, SSL, admin, create_topic, frames};

const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const REV: &str = "3kaaaaaaaaaa2";
/// What scripts/kafka.sh makes its brokers with.
const USER: &str = "atkafka";
const PASSWORD: &str = "secret";

/// A create whose record is `size` bytes and a little.
fn create(path: &str, size: usize) -> Op {
    Op::create(path, &record(&ipld!({ "$type": "a.b.c", "text": "x".repeat(size) })))
}

/// `count` small events of as many accounts.
fn events(count: u64) -> Vec<Vec<u8>> {
    frames(1..=count)
}

/// A relay with these frames, and the bridge to the topic; `args` say the rest.
fn start(list: Vec<Vec<u8>>, broker: &str, topic: &str, args: &[&str], env: &[(&str, &str)]) -> (Relay, Bridge) {
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let (url, state) = (relay.url(), folder("state"));
    let state = state.to_string_lossy();
    let mut all = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker];
    all.extend(["--output-topic", topic, "--state-dir", &state, "--cursor", "oldest"]);
    all.extend(args);
    let bridge = Bridge::start_with(&all, env);
    (relay, bridge)
}

/// The same, until all up to `last` is acknowledged; then what the topic has.
fn through(list: Vec<Vec<u8>>, last: u64, broker: &str, topic: &str, args: &[&str]) -> Vec<Arrived> {
    let (_relay, bridge) = start(list, broker, topic, args, &[]);
    bridge.wait_delivered(last, SOON);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{args:?}: {log:?}");
    consume(broker, topic)
}

/// How many partitions the topic has; 0 when it does not exist.
fn partitions(broker: &str, topic: &str) -> usize {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("allow.auto.create.topics", "false").set("group.id", "tests");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(20)).expect("metadata");
    metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len())
}

// --- batches as they lie in the log --------------------------------------------------------------

/// The codecs of the batches in partition 0, by a Fetch request (version 4) made by hand: clients do not tell.
fn codecs(broker: &str, topic: &str) -> BTreeSet<&'static str> {
    const NAMES: [&str; 8] = ["none", "gzip", "snappy", "lz4", "zstd", "?", "?", "?"];
    let mut body = vec![0, 1, 0, 4, 0, 0, 0, 9, 0, 5];
    body.extend(b"tests");
    body.extend((-1i32).to_be_bytes()); // replica
    body.extend(1_000i32.to_be_bytes()); // longest wait
    body.extend(1i32.to_be_bytes()); // least bytes
    body.extend((16i32 << 20).to_be_bytes()); // most bytes
    body.push(0); // isolation
    body.extend(1i32.to_be_bytes()); // topics
    body.extend((topic.len() as u16).to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1i32.to_be_bytes()); // partitions
    body.extend(0i32.to_be_bytes()); // number 0
    body.extend(0i64.to_be_bytes()); // from offset 0
    body.extend((16i32 << 20).to_be_bytes());
    let mut socket = TcpStream::connect(broker).expect("the broker");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    socket.write_all(&(body.len() as u32).to_be_bytes()).and_then(|()| socket.write_all(&body)).expect("written");
    let mut size = [0; 4];
    socket.read_exact(&mut size).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    socket.read_exact(&mut answer).expect("the whole answer");
    // correlation, throttle, topics, name, partitions, number, error, high watermark, last stable, aborted
    let int = |at: usize| i32::from_be_bytes(answer[at..at + 4].try_into().expect("four bytes"));
    let mut at = 4 + 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[at..at + 2], [0, 0], "no error");
    at += 2 + 8 + 8;
    at += 4 + int(at).max(0) as usize * 16;
    let (from, len) = (at + 4, int(at) as usize);
    let mut batches = &answer[from..from + len];
    let mut found = BTreeSet::new();
    while batches.len() >= 61 {
        assert_eq!(batches[16], 2, "batches of version 2");
        found.insert(NAMES[(batches[22] & 7) as usize]);
        let size = u32::from_be_bytes(batches[8..12].try_into().expect("four bytes")) as usize + 12;
        batches = batches.get(size..).unwrap_or_default();
    }
    found
}

#[test]
fn each_codec_is_used_as_asked_and_arrives() {
    let Some(broker) = broker(KAFKA) else { return };
    // Long enough that every codec makes it shorter: clients send what does not shrink as it is.
    let list: Vec<Vec<u8>> =
        (1..=20).map(|i| Commit::new(DID, REV).op(create(&format!("a.b.c/{i}"), 2_000)).frame(i)).collect();
    for (args, want) in [
        (&["--compression", "none"][..], "none"),
        (&["--compression", "gzip"], "gzip"),
        (&["--compression", "snappy"], "snappy"),
        (&["--compression", "lz4"], "lz4"),
        (&["--compression", "zstd"], "zstd"),
        (&[], "lz4"),
        // Stock Osprey skips whole batches of lz4, snappy and zstd.
        (&["--osprey-compatible"], "none"),
        (&["--osprey-compatible", "--compression", "gzip"], "gzip"),
    ] {
        let topic = unique("codec");
        let args = [args, &["--topic-partitions", "1"]].concat();
        let arrived = through(list.clone(), 20, &broker, &topic, &args);
        assert_eq!(arrived.len(), 20, "{args:?}");
        assert!(arrived.iter().all(|a| a.json().is_object()));
        assert_eq!(codecs(&broker, &topic), BTreeSet::from([want]), "{args:?}");
    }
    let Some(old) = crate::support::broker(KAFKA_39) else { return };
    for (codec, want) in [
        (&["--compression", "none"][..], "none"),
        (&["--compression", "gzip"], "gzip"),
        (&["--compression", "snappy"], "snappy"),
        (&[], "none"),
    ] {
        let topic = unique("codec");
        create_topic(&old, &topic, 1, &[]);
        let arrived = through(list.clone(), 20, &old, &topic, &[codec, &["--kafka-client", "kafka"]].concat());
        assert_eq!(arrived.len(), 20, "{codec:?}");
        assert_eq!(codecs(&old, &topic), BTreeSet::from([want]), "--kafka-client kafka {codec:?}");
    }
}

// --- TLS and SASL -------------------------------------------------------------------------------

#[test]
fn tls_and_sasl_in_every_form() {
    let Some(plain) = broker(KAFKA) else { return };
    let (Some(sasl), Some(ssl), Some(sasl_ssl), Some(ca)) = (broker(SASL), broker(SSL), broker(SASL_SSL), broker(CA))
    else {
        return;
    };
    let file = folder("secret").join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("a file");
    let file = file.to_string_lossy();
    let tls = ["--tls", "--tls-ca-file", &ca];
    let user = ["--sasl-username", USER];
    let by_flag = ["--sasl-password", PASSWORD];
    let by_file = ["--sasl-password-file", &file];
    let by_env = [("ATKAFKA_SASL_PASSWORD", PASSWORD)];
    let mechanism = |name: &'static str| ["--sasl-mechanism", name];
    type Env<'a> = &'a [(&'a str, &'a str)];
    let cases: Vec<(&str, Vec<&str>, Env<'_>)> = vec![
        (&ssl, tls.to_vec(), &[]),
        (&sasl, [&mechanism("PLAIN")[..], &user, &by_flag].concat(), &[]),
        (&sasl, [&mechanism("SCRAM-SHA-256")[..], &user].concat(), &by_env),
        (&sasl, [&mechanism("SCRAM-SHA-512")[..], &user, &by_file].concat(), &[]),
        (&sasl_ssl, [&tls[..], &mechanism("PLAIN"), &user, &by_file].concat(), &[]),
        (&sasl_ssl, [&tls[..], &mechanism("SCRAM-SHA-256"), &user, &by_flag].concat(), &[]),
        (&sasl_ssl, [&tls[..], &mechanism("scram-sha-512"), &user].concat(), &by_env),
    ];
    // All at once: what costs time is each start.
    let topics: Vec<String> = cases.iter().map(|_| unique("secure")).collect();
    let runs: Vec<(Relay, Bridge)> = cases
        .iter()
        .zip(&topics)
        .map(|((broker, args, env), topic)| start(events(30), broker, topic, args, env))
        .collect();
    for ((_relay, bridge), ((broker, args, env), topic)) in runs.into_iter().zip(cases.iter().zip(&topics)) {
        bridge.wait_delivered(30, SOON);
        assert_eq!(bridge.get("/readyz").map(|(s, _)| s), Some(200));
        let (code, log) = bridge.stop();
        assert_eq!(code, Some(0), "{broker} {args:?} {env:?}: {log:?}");
        // The same broker without any of it: it has what came the secure way, if both are of one broker.
        if partitions(&plain, topic) > 0 {
            assert_eq!(consume(&plain, topic).len(), 30, "{args:?}");
        }
    }
}

// --- topics -------------------------------------------------------------------------------------

#[test]
fn absent_topics_are_created_and_existing_ones_left_as_they_are() {
    let Some(broker) = broker(KAFKA) else { return };
    let (seven, default, existing) = (unique("seven"), unique("default"), unique("existing"));
    let dead = format!("{seven}-dead");
    let args = ["--topic-partitions", "7", "--topic-replication", "1", "--dead-letter-topic", &dead];
    let (_relay, bridge) = start(events(5), &broker, &seven, &args, &[]);
    bridge.wait_delivered(5, SOON);
    for topic in [&seven, &dead] {
        assert!(bridge.log_contains(&format!("topic {topic} created with 7 partitions: so many consumers")));
    }
    assert_eq!(bridge.stop().0, Some(0));
    assert_eq!(consume(&broker, &seven).len(), 5);
    assert_eq!(partitions(&broker, &seven), 7);
    assert_eq!(partitions(&broker, &dead), 7, "dead letters, too");

    let (_relay, bridge) = start(events(5), &broker, &default, &[], &[]);
    bridge.wait_delivered(5, SOON);
    let count = match partitions(&broker, &default) {
        1 => "1 partition".to_string(),
        n => format!("{n} partitions"),
    };
    let line = format!("topic {default} created with {count} (the broker's default): so many consumers");
    assert!(bridge.log_contains(&line) && bridge.log_contains("give --topic-partitions before it is made"));
    assert_eq!(bridge.stop().0, Some(0));
    assert_eq!(consume(&broker, &default).len(), 5);
    let reference = unique("reference");
    create_topic(&broker, &reference, -1, &[]);
    assert_eq!(partitions(&broker, &default), partitions(&broker, &reference), "the broker's own default");

    create_topic(&broker, &existing, 2, &[]);
    assert_eq!(through(events(5), 5, &broker, &existing, &["--topic-partitions", "9"]).len(), 5);
    assert_eq!(partitions(&broker, &existing), 2);
}

#[test]
fn no_create_topic_waits_until_somebody_creates_it() {
    let Some(broker) = broker(KAFKA) else { return };
    let topic = unique("later");
    let (_relay, bridge) = start(events(5), &broker, &topic, &["--no-create-topic"], &[]);
    bridge.wait("it says what it waits for", SOON, |b| {
        b.log().iter().any(|l| l.contains(" WARN ") && l.contains(&topic) && l.contains("--no-create-topic"))
    });
    bridge.wait("and is not ready", SOON, |b| {
        b.get("/readyz").is_some_and(|(s, body)| s == 503 && body.contains(&topic))
    });
    assert_eq!(partitions(&broker, &topic), 0, "it is not made on the quiet");
    create_topic(&broker, &topic, 3, &[]);
    bridge.wait_delivered(5, SOON);
    assert_eq!(bridge.get("/readyz").map(|(s, _)| s), Some(200));
    assert_eq!(bridge.stop().0, Some(0));
    assert_eq!((consume(&broker, &topic).len(), partitions(&broker, &topic)), (5, 3));
}

// --- properties ---------------------------------------------------------------------------------

#[test]
fn kafka_config_reaches_librdkafka_and_wrong_properties_stop_the_start() {
    let Some(broker) = broker(KAFKA) else { return };
    let topic = unique("properties");
    // A codec of its own is seen in the log of the topic; a partitioner in where the keys are.
    let list: Vec<Vec<u8>> =
        (1..=20).map(|i| Commit::new(DID, REV).op(create(&format!("a.b.c/{i}"), 2_000)).frame(i)).collect();
    let args = [
        "--topic-partitions",
        "1",
        "--kafka-config",
        "compression.type=gzip,linger.ms=1",
        "--kafka-config=client.id=x,y",
    ];
    assert_eq!(through(list, 20, &broker, &topic, &args).len(), 20);
    assert_eq!(codecs(&broker, &topic), BTreeSet::from(["gzip"]));
    for (property, part) in [
        ("no.such.property=1", "no.such.property"),
        ("linger.ms=soon", "linger.ms"),
        ("compression.type=brotli", "compression.type"),
        ("acks=lots", "acks"),
        // What librdkafka takes, and no promise would survive.
        ("acks=0", "acks=0: without acknowledgements"),
        ("linger.ms=5,acks=1", "acks=1: an event that only one broker has"),
        ("enable.idempotence=false", "enable.idempotence=false: without it a connection that breaks repeats"),
        ("enable.gapless.guarantee=false", "could pass a refused one"),
        ("partitioner=random", "murmur2_random"),
        ("queuing.strategy=lifo", "wrong order"),
        ("transactional.id=x", "--delivery exactly-once sets it"),
        // What contradicts our own.
        ("max.in.flight=10", "max.in.flight"),
        ("retries=0", "retries"),
    ] {
        let url = "ws://127.0.0.1:1";
        let args = ["firehose", "relay", "--relay-host", url, "--bootstrap-servers", &broker, "--output-topic", &topic];
        let (code, out, err) = run(&[&args[..], &["--kafka-config", property]].concat(), &[]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{property}: {err}");
        assert!(err.lines().count() == 1 && err.contains("--kafka-config") && err.contains(part), "{property}: {err}");
    }
}

// --- sizes --------------------------------------------------------------------------------------

#[test]
fn what_a_topic_never_takes_is_a_dead_letter_and_the_rest_arrives_in_order() {
    let Some(broker) = broker(KAFKA) else { return };
    sizes(&broker, &[], 200, true);
}

#[test]
fn what_a_topic_never_takes_is_a_dead_letter_with_the_kafka_crate_as_well() {
    let Some(broker) = broker(KAFKA_39) else { return };
    // Fewer: the crate waits a second after each refusal.
    sizes(&broker, &["--kafka-client", "kafka"], 70, false);
}

#[test]
fn a_limit_that_is_raised_while_running_holds_at_once_and_topics_of_ours_take_large_records() {
    let Some(broker) = broker(KAFKA) else { return };
    let (topic, dead) = (unique("raised"), unique("raised-dead"));
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "20000")]);
    let large = |i: u64| Commit::new(DID, REV).op(create(&format!("a.b.c/{i}"), 1_200_000)).frame(i);
    let (relay, bridge) = start(vec![large(1)], &broker, &topic, &["--dead-letter-topic", &dead], &[]);
    bridge.wait_delivered(1, SOON);
    assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"too_large\"}"), 1.0);
    let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(20)));
    let raised = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "2000000");
    let answer = pollster::block_on(admin(&broker).alter_configs([&raised], &options)).expect("an answer");
    answer.into_iter().for_each(|a| drop(a.expect("altered")));
    // The limit is asked for once a second at most.
    std::thread::sleep(Duration::from_millis(1_500));
    relay.push(&large(2));
    bridge.wait_delivered(2, SOON);
    assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"too_large\"}"), 1.0, "the second is an event");
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");
    assert_eq!(consume(&broker, &topic).len(), 1);
    // The dead-letter topic is one that we made.
    assert_eq!(letters(&broker, &dead).len(), 1);
    let ours = unique("ours");
    assert_eq!(through(vec![large(1)], 1, &broker, &ours, &[]).len(), 1, "and so is this topic of events");
}

/// The start of what does not fit, with a header that says how long it was: by a limit that is known, and by one that is not
/// (it falls while running; the crate never knows it).
#[test]
fn a_dead_letter_that_is_too_large_for_its_topic_is_cut() {
    let cases = [(broker(KAFKA), &[][..]), (broker(KAFKA_39), &["--kafka-client", "kafka"])];
    for (broker, args) in cases {
        let Some(broker) = broker else { return };
        let headers = args.is_empty();
        let (topic, dead) = (unique("cut"), unique("cut-dead"));
        create_topic(&broker, &topic, 1, &[("max.message.bytes", "20000")]);
        create_topic(&broker, &dead, 1, &[("max.message.bytes", "20000")]);
        let large = |i: u64, size| Commit::new(DID, REV).op(create(&format!("a.b.c/{i}"), size)).frame(i);
        let list = vec![large(1, 60_000), large(2, 100)];
        let (relay, bridge) = start(list, &broker, &topic, &[args, &["--dead-letter-topic", &dead]].concat(), &[]);
        bridge.wait_delivered(2, SOON);
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(20)));
        let lowered = AlterConfig::new(ResourceSpecifier::Topic(&dead)).set("max.message.bytes", "9000");
        let answer = pollster::block_on(admin(&broker).alter_configs([&lowered], &options)).expect("an answer");
        answer.into_iter().for_each(|a| drop(a.expect("altered")));
        relay.push(&large(3, 70_000));
        relay.push(&large(4, 100));
        bridge.wait_delivered(4, SOON);
        let (code, log) = bridge.stop();
        assert_eq!(code, Some(0), "{log:?}");
        let seqs: Vec<u64> = consume(&broker, &topic).iter().map(|a| a.json()["seq"].as_u64().expect("seq")).collect();
        assert_eq!(seqs, [2, 4]);
        let letters = letters(&broker, &dead);
        assert_eq!(letters.len(), 2, "{log:?}");
        for (letter, (size, limit)) in letters.iter().zip([(60_000, 20_000), (70_000, 9_000)]) {
            let text = String::from_utf8_lossy(&letter.value);
            assert!(text.starts_with("{\"did\":\"did:plc:") && text.len() > limit / 3, "{}: {text:.50}", text.len());
            if headers {
                let whole: usize = letter.header("cut_from_bytes").expect("the header").parse().expect("a number");
                assert!((size..size + 500).contains(&whole), "{whole}");
                assert_eq!(letter.header("reason").as_deref(), Some("too_large"));
            }
        }
        if headers {
            assert!(letters[0].value.len() > 19_500, "as much as fits: {}", letters[0].value.len());
        }
    }
}

fn sizes(broker: &str, args: &[&str], count: u64, headers: bool) {
    let (topic, dead) = (unique("small"), unique("small-dead"));
    create_topic(broker, &topic, 2, &[("max.message.bytes", "20000")]);
    create_topic(broker, &dead, 1, &[]);
    // Every seventh is far above; some are just below, and their sum fills batches.
    let size = |i: u64| match i % 7 {
        0 => 60_000,
        1 | 2 => 15_000,
        _ => 200,
    };
    let did = |i: u64| format!("did:plc:{:024}", i % 5);
    let list: Vec<Vec<u8>> =
        (1..=count).map(|i| Commit::new(&did(i), REV).op(create(&format!("a.b.c/{i}"), size(i))).frame(i)).collect();
    let all = [args, &["--dead-letter-topic", &dead]].concat();
    let (_relay, bridge) = start(list, broker, &topic, &all, &[]);
    bridge.wait_delivered(count, SOON);
    let too_large = (1..=count).filter(|i| size(*i) > 20_000).count();
    assert_eq!(bridge.metric("atkafka_dead_letters{reason=\"too_large\"}"), too_large as f64);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");

    let arrived = consume(broker, &topic);
    let mut by_partition: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    for a in &arrived {
        by_partition.entry(a.partition).or_default().push(a.json().get("seq").as_u64().expect("seq"));
    }
    let mut seqs: Vec<u64> = by_partition.values().flatten().copied().collect();
    seqs.sort_unstable();
    let want: Vec<u64> = (1..=count).filter(|i| size(*i) < 20_000).collect();
    assert_eq!(seqs, want, "each other one once");
    for (partition, seqs) in &by_partition {
        assert!(seqs.is_sorted(), "partition {partition} is in the relay's order: {seqs:?}");
    }
    let letters = letters(broker, &dead);
    let mut dead_seqs: Vec<u64> =
        letters.iter().map(|l| l.json().get("seq").as_u64().expect("the event's seq")).collect();
    dead_seqs.sort_unstable();
    assert_eq!(
        dead_seqs,
        (1..=count).filter(|i| size(*i) > 20_000).collect::<Vec<_>>(),
        "the events as they would have been"
    );
    for letter in &letters {
        assert_eq!(letter.key, None);
        if headers {
            assert_eq!(letter.header("reason").as_deref(), Some("too_large"));
            assert!(letter.header("host").is_some_and(|h| h.starts_with("127.0.0.1:")));
            assert_eq!(letter.header("seq"), letter.json().get("seq").as_u64().map(|s| s.to_string()));
        }
    }
}

// --- the two clients ----------------------------------------------------------------------------

#[test]
fn both_clients_put_an_account_on_the_same_partition() {
    let Some(broker) = broker(KAFKA_39) else { return };
    let (one, other) = (unique("librdkafka"), unique("crate"));
    for topic in [&one, &other] {
        create_topic(&broker, topic, 7, &[]);
    }
    // Accounts of every length of key, so that each remainder of the hash's words is met.
    let list: Vec<Vec<u8>> = (1..=300u64)
        .map(|i| {
            let did = if i % 3 == 0 {
                format!("did:web:host{i}.example")
            } else {
                format!("did:plc:{}{i}", "z".repeat(i as usize % 9))
            };
            identity_frame(i, &did, A_TIME, None)
        })
        .collect();
    let places = |topic: &str, args: &[&str]| -> BTreeMap<String, i32> {
        let arrived = through(list.clone(), 300, &broker, topic, args);
        assert_eq!(arrived.len(), 300, "{args:?}");
        arrived.into_iter().map(|a| (a.key.expect("a key"), a.partition)).collect()
    };
    let by_librdkafka = places(&one, &[]);
    assert_eq!(by_librdkafka.values().collect::<BTreeSet<_>>().len(), 7, "all partitions are used");
    assert_eq!(places(&other, &["--kafka-client", "kafka"]), by_librdkafka);
}

#[test]
fn the_kafka_crate_writes_dead_letters_and_events_whole() {
    let Some(broker) = broker(KAFKA_39) else { return };
    let (topic, dead) = (unique("crate"), unique("crate-dead"));
    let float = record(&ipld!({ "$type": "a.b.c", "n": 1.5 }));
    let list = vec![
        Commit::new(DID, REV).ops([create("a.b.c/1", 10), Op::create("a.b.c/2", &float)]).frame(1),
        frames::info_frame("Announcement", Some("hello")),
        Commit::new(DID, REV).op(create("a.b.c/3", 10).with_cid(Some(car::cid_of(b"wrong")))).frame(2),
        identity_frame(3, DID, A_TIME, None),
    ];
    // Neither topic exists: asking for them makes them.
    let args = ["--kafka-client", "kafka", "--dead-letter-topic", &dead];
    let (_relay, bridge) = start(list.clone(), &broker, &topic, &args, &[]);
    bridge.wait_delivered(3, SOON);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0));
    // The crate has no headers: the reasons are in the log.
    for reason in ["dead letter: float", "dead letter: cid_mismatch"] {
        assert!(log.iter().any(|l| l.contains(reason)), "{reason}: {log:?}");
    }
    let arrived = consume(&broker, &topic);
    let kinds: BTreeSet<(Option<String>, bool)> =
        arrived.iter().map(|a| (a.key.clone(), a.json().get("info").is_some())).collect();
    assert_eq!((arrived.len(), kinds), (3, BTreeSet::from([(Some(DID.to_string()), false), (None, true)])));
    let mut letters: Vec<Vec<u8>> = letters(&broker, &dead).into_iter().map(|l| l.value).collect();
    letters.sort();
    let mut want = vec![list[0].clone(), list[2].clone()];
    want.sort();
    assert!(letters == want, "the raw frames, byte for byte: {} letters", letters.len());
}

#[test]
fn the_kafka_crate_says_that_a_broker_of_kafka_4_is_not_for_it() {
    let Some(broker) = broker(KAFKA) else { return };
    let (_relay, mut bridge) = start(events(3), &broker, &unique("too-new"), &["--kafka-client", "kafka"], &[]);
    assert_eq!(bridge.end(SOON).code(), Some(1));
    std::thread::sleep(Duration::from_millis(100));
    let log = bridge.log();
    let line = log.iter().find(|l| l.contains(" ERROR ")).expect("an error");
    assert!(line.contains(&broker) && line.contains("--kafka-client librdkafka"), "{line}");
}

//! The commands of the documents for consumers, as they stand there, against a real broker.

use std::collections::{HashMap, HashSet};
use std::process::Command;

use atkafka::sink::kafka::murmur2;
use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{SOON, create_topic};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
const FRAMES: usize = 1_000;

/// The lines of the documents for consumers that begin with this, and stand in a block of commands.
fn commands(beginning: &str) -> Vec<String> {
    let text = ["consumers.md", "coming-from-at-kafka.md"]
        .map(|name| std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name))
        .concat();
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).filter(|line| line.starts_with(beginning));
    lines.map(|line| line.split("    #").next().unwrap_or_default().trim().to_string()).collect()
}

/// What a command of the documents prints with this broker and topic, and no longer than some seconds.
fn printed(command: &str, broker: &str, topic: &str) -> String {
    let here = command.replace("localhost:9092", broker).replace("atproto-events", topic);
    assert_ne!(here, command);
    let out = Command::new("timeout").args(["8", "bash", "-c", &here]).output().expect("bash");
    String::from_utf8(out.stdout).expect("UTF-8")
}

#[test]
fn kcat_reads_what_is_written() {
    let Some(broker) = broker(KAFKA) else { return };
    let list: Vec<Vec<u8>> = frames::read(FIXTURE).expect("the fixture").into_iter().take(FRAMES).collect();
    let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let (topic, state) = (unique("consumers"), folder("state"));
    let (url, state) = (relay.url(), state.to_string_lossy());
    let bridge = Bridge::start(&[
        "firehose",
        "relay",
        "--relay-host",
        &url,
        "--cursor",
        "oldest",
        "--bootstrap-servers",
        &broker,
        "--output-topic",
        &topic,
        "--state-dir",
        &state,
    ]);
    bridge.wait_delivered(last, SOON);
    bridge.stop();
    let arrived = consume(&broker, &topic);

    let commands = commands("kcat ");
    let (mut tails, mut keys, mut seqs) = (0, 0, 0);
    for command in &commands {
        let out = printed(command, &broker, &topic);
        if command.contains("-o -5 ") {
            tails += 1;
            let partitions: HashSet<i32> = arrived.iter().map(|a| a.partition).collect();
            let all: Vec<&str> = out.lines().collect();
            assert!(!all.is_empty() && all.len() <= 5 * partitions.len(), "{command}: {} lines", all.len());
            assert!(all.iter().all(|line| line.starts_with("{\"did\":")), "{command}: {out}");
        } else if command.contains("'%k %S\\n'") {
            keys += 1;
            let mut want: Vec<String> =
                arrived.iter().map(|a| format!("{} {}", a.key.clone().unwrap_or_default(), a.value.len())).collect();
            let mut got: Vec<String> = out.lines().map(str::to_string).collect();
            want.sort();
            got.sort();
            assert_eq!(got, want, "{command}");
        } else if command.contains("tail -1") {
            seqs += 1;
            let of = |a: &Arrived| {
                let event = a.json();
                ["account", "identity"].iter().find_map(|kind| event.get(kind).get("seq").as_u64())
            };
            let newest = arrived.iter().filter_map(of).max();
            assert!(newest.is_some(), "the fixture has such events");
            assert_eq!(out.trim().parse::<u64>().ok(), newest, "{command}: {out}");
        } else {
            // Shows what arrives, for people.
            assert!(out.lines().count() >= arrived.len(), "{command}: {} lines", out.lines().count());
        }
    }
    assert_eq!((tails, keys, seqs), (1, 1, 1), "{commands:#?}");
}

#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn a_running_topic_of_at_kafka_goes_on_with_the_same_keys_on_the_same_partitions() {
    const PARTITIONS: i32 = 7;
    let Some(broker) = broker(KAFKA) else { return };
    let file = shared("data/jetstream-corpus/frames.bin.zst");
    let golden = shared("golden/corpus-plain.tsv");
    let topic = unique("switch");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker);
    create_topic(&broker, &topic, PARTITIONS, &[]);
    // What at-kafka left there.
    let producer: BaseProducer = config.create().expect("a producer");
    let rows = std::fs::read_to_string(golden).expect("golden");
    for (key, value) in rows.lines().filter_map(|line| line.split_once('\t')) {
        let partition = ((murmur2(key.as_bytes()) & 0x7fff_ffff) % PARTITIONS as u32) as i32;
        producer.send(BaseRecord::to(&topic).key(key).payload(value).partition(partition)).expect("sent");
    }
    producer.flush(SOON).expect("delivered");

    let list = frames::read(file).expect("frames");
    let last = list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let (url, state) = (relay.url(), folder("state"));
    let mut args =
        vec!["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--bootstrap-servers", &broker];
    let state = state.to_string_lossy();
    args.extend(["--output-topic", &topic, "--state-dir", &state]);
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(last, SOON);
    bridge.stop();

    let mut places: HashMap<String, Vec<i32>> = HashMap::new();
    for record in consume_with(&broker, &topic, &[]) {
        places.entry(record.key.expect("each has a key")).or_default().push(record.partition);
    }
    assert_eq!(places.values().map(Vec::len).sum::<usize>(), 2 * rows.lines().count(), "theirs and ours");
    for (key, partitions) in &places {
        assert!(partitions.len() >= 2 && partitions.iter().all(|p| *p == partitions[0]), "{key}: {partitions:?}");
    }
    let used: HashSet<i32> = places.values().map(|p| p[0]).collect();
    assert_eq!(used.len(), PARTITIONS as usize, "all partitions have accounts");
}

/// What the documents say of consumers of transactions, for those that are here: kcat and Java.
#[test]
fn kcat_reads_committed_records_by_default_and_java_when_it_is_asked() {
    for (variable, version) in [(KAFKA, "4.3.1"), (KAFKA_39, "3.9.1")] {
        let Some(broker) = broker(variable) else { continue };
        let topic = unique("transactions");
        create_topic(&broker, &topic, 1, &[]);
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &broker)
            .set("transactional.id", &topic)
            .create()
            .expect("a producer");
        producer.init_transactions(SOON).expect("an id");
        let begin = |value: &str| {
            producer.begin_transaction().expect("begun");
            producer.send(BaseRecord::to(&topic).key("k").payload(value)).map_err(|(e, _)| e).expect("queued");
            producer.flush(SOON).expect("sent");
        };
        begin("aborted");
        producer.abort_transaction(SOON).expect("aborted");
        begin("committed");
        producer.commit_transaction(SOON).expect("committed");
        begin("open");
        let said = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
            let text = String::from_utf8(out.stdout).expect("UTF-8");
            text.lines().map(|line| line.rsplit('\t').next().unwrap_or_default().to_string()).collect::<Vec<_>>()
        };
        let kcat = |more: &[&str]| said("kcat", &[&["-b", &broker, "-t", &topic, "-C", "-e", "-q"], more].concat());
        assert_eq!(kcat(&[]), ["committed"]);
        assert_eq!(kcat(&["-X", "isolation.level=read_uncommitted"]), ["aborted", "committed", "open"]);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");
        let port = broker.rsplit_once(':').expect("a port").1;
        let base = ["consume", "--version", version, "--port", port, "--topic", &topic, "--from-beginning"];
        let java = |more: &[&str]| said(script, &[&base[..], more].concat());
        // As many as there are: it waits for more.
        assert_eq!(java(&["--max", "3"]), ["aborted", "committed", "open"]);
        assert_eq!(java(&["--max", "1", "--isolation-level", "read_committed"]), ["committed"]);
        producer.abort_transaction(SOON).expect("aborted");
    }
}

//! `atkafka check`: what it says of settings that are right and of each mistake, the exit code, and that it changes nothing.

#[path = "check/cursor_topic.rs"]
mod cursor_topic;
mod support;
#[path = "support/answering.rs"]
mod answering;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use answering::{http, server};
use atkafka_fixtures::directory::Directory;
use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, Refusal};
use atkafka_fixtures::relay::wire::{self, TEXT};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig};
use openssl::asn1::Asn1Time;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, Producer};
use sonic_rs::{JsonValueTrait, Value};
use support::kafka_script::{LIMITED, Lists};
use support::*;

const SOON: Duration = Duration::from_secs(60);
const SASL: &str = "ATKAFKA_TEST_KAFKA_SASL";
const SASL_SSL: &str = "ATKAFKA_TEST_KAFKA_SASL_SSL";
const CA: &str = "ATKAFKA_TEST_KAFKA_CA";

/// What a check said.
struct Report {
    code: Option<i32>,
    lines: Vec<Value>,
    text: String,
}

impl Report {
    /// The texts with this state and subject.
    fn texts(&self, state: &str, about: &str) -> Vec<&str> {
        let is = |line: &&Value| line.get("state").as_str() == Some(state) && line.get("about").as_str() == Some(about);
        self.lines.iter().filter(is).filter_map(|line| line["text"].as_str()).collect()
    }

    #[track_caller]
    fn says(&self, state: &str, about: &str, parts: &[&str]) -> &Report {
        let all = self.texts(state, about);
        let good = all.iter().any(|text| parts.iter().all(|part| text.contains(part)));
        assert!(good, "no line {state} {about} {parts:?}:\n{}", self.text);
        self
    }

    /// Ends with 1, for the sake of this one line.
    #[track_caller]
    fn fails(&self, about: &str, parts: &[&str]) -> &Report {
        self.says("failed", about, parts);
        assert_eq!((self.code, self.count("failed")), (Some(1), 1), "{}", self.text);
        self
    }

    /// Ends with 0, and nothing but `warnings` lines is strange.
    #[track_caller]
    fn is_well(&self, warnings: usize) -> &Report {
        assert_eq!((self.code, self.count("failed")), (Some(0), 0), "{}", self.text);
        assert_eq!(self.count("warning"), warnings, "{}", self.text);
        self
    }

    fn count(&self, state: &str) -> usize {
        self.lines.iter().filter(|line| line["state"].as_str() == Some(state)).count()
    }
}

fn report(out: std::process::Output) -> Report {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines = text.lines().map(|line| sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    Report { code: out.status.code(), lines, text }
}

/// The settings in `args`, without a port for metrics.
fn check_with(args: &[&str], env: &[(&str, &str)]) -> Report {
    let all = [&["check", "--json"], args, &["--metrics-listen-address", "none"]].concat();
    report(command(&all, env).stdin(Stdio::null()).output().expect("the binary runs"))
}

fn check(args: &[&str]) -> Report {
    check_with(args, &[])
}

fn relay() -> Relay {
    let frames: Vec<Vec<u8>> =
        (1..=3).map(|i| identity_frame(i, &format!("did:plc:{i:024}"), A_TIME, Some("a.example"))).collect();
    Relay::start(RelayConfig { from_start: true, ..RelayConfig::script(frames) }).expect("a relay")
}

fn create_topic(broker: &str, topic: &str, retention_ms: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker).create().expect("an admin client");
    let new = NewTopic::new(topic, 2, TopicReplication::Fixed(1)).set("retention.ms", retention_ms);
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let answer = pollster::block_on(admin.create_topics([&new], &options)).expect("an answer");
    answer.into_iter().for_each(|a| drop(a.expect("created")));
}

fn has_topic(broker: &str, topic: &str) -> bool {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker).create().expect("a client");
    let metadata = producer.client().fetch_metadata(None, Duration::from_secs(20)).expect("metadata");
    metadata.topics().iter().any(|t| t.name() == topic)
}

// --- Settings that are right -------------------------------------------------------------------

#[test]
fn a_relay_into_kafka_with_look_ups_is_well_and_nothing_is_made() {
    let Some(broker) = broker(KAFKA) else { return };
    let (relay, directory) = (relay(), Directory::start().expect("a directory"));
    let (topic, dead, state) = (unique("check"), unique("check-dead"), folder("check").join("not/there"));
    create_topic(&broker, &topic, "-1");
    let (url, plc) = (relay.url(), directory.url());
    let mut args = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &broker];
    let dir = state.to_str().expect("UTF-8");
    args.extend(["--output-topic", &topic, "--dead-letter-topic", &dead, "--topic-partitions", "7"]);
    args.extend(["--state-dir", dir, "--plc-host", &plc, "--api-host", &plc]);
    let report = check(&args);
    report.is_well(0);
    for (about, part) in [
        ("TCP", "answers in"),
        ("websocket", "takes the connection"),
        ("first frame", "of the kind identity"),
        ("host", "is a relay or a PDS"),
        ("PLC", "answers in"),
        ("AppView", "answers in"),
        ("broker", "answers: 1 broker"),
        ("login", "without a login, in plain"),
        ("version", "Kafka 4."),
        ("limits", "records of up to 1048588 bytes"),
        ("retention", "keeps everything"),
        ("rights", "Write"),
        ("state", "is absent and will be created"),
        ("position", "none is saved yet"),
    ] {
        report.says("ok", about, &[part]);
    }
    report.says("ok", "topic", &[&topic, "2 partitions, 1 replica"]);
    report.says("ok", "topic", &[&dead, "does not exist; it will be created, 7 partitions, 1 replica"]);
    assert!(!state.exists() && !state.parent().expect("a folder").exists(), "the state directory was made");
    assert!(!has_topic(&broker, &dead), "the topic was made");
    assert!(consume(&broker, &topic).is_empty(), "something was written");
    // A last look at what people see: each finding is one line where no terminal wraps it.
    let mut shown = args.clone();
    shown.insert(0, "check");
    shown.extend(["--metrics-listen-address", "none"]);
    let (code, out, err) = run(&shown, &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.last(), Some(&"Everything that was tried is well."), "{out}");
    assert_eq!(lines.len(), report.lines.len() + 2, "{out}");
    assert!(out.contains("\nok          version     Kafka 4."), "{out}");
}

#[test]
fn a_tap_is_asked_and_its_events_are_left_to_whoever_acknowledges() {
    let tap = Tap::start(TapConfig { password: Some("hunter2".into()), ..TapConfig::default() }).expect("a Tap");
    let url = tap.url();
    let base = ["firehose", "tap", "--tap-host", &url];
    let report = check_with(&base, &[("ATKAFKA_TAP_PASSWORD", "hunter2")]);
    report.is_well(0).says("ok", "health", &["/health is ok"]).says("ok", "channel", &["lets this client in"]);
    report.says("not checked", "first frame", &["would send only once"]);
    assert_eq!(tap.stats().connections, 0, "no websocket was opened");
    check(&base).fails("health", &["401", "give it with --tap-password"]);
    let webhook = Tap::start(TapConfig { webhook: true, ..TapConfig::default() }).expect("a Tap");
    check(&["firehose", "tap", "--tap-host", &webhook.url()]).fails("channel", &["Unset TAP_WEBHOOK_URL"]);
    let relay = relay();
    let report = check(&["firehose", "tap", "--tap-host", &relay.url()]);
    assert_eq!(report.code, Some(1), "{}", report.text);
}

#[test]
fn an_ozone_is_asked_for_events_and_role_and_the_session_ends() {
    let start = |refuse| Ozone::start(OzoneConfig { refuse, ..OzoneConfig::default() }).expect("a port");
    let ozone = start(None);
    let args = |url: &str| {
        ["ozone-events", "--pds-host", url, "--identifier", IDENTIFIER, "--labeler-did", LABELER].map(str::to_string)
    };
    let ask = |ozone: &Ozone, password: &str| {
        let args = args(&ozone.url());
        check_with(&args.each_ref().map(String::as_str), &[("ATKAFKA_OZONE_PASSWORD", password)])
    };
    let report = ask(&ozone, PASSWORD);
    report.is_well(0).says("ok", "events", &["may read the events"]).says("ok", "role", &["roleModerator"]);
    report.says("ok", "logout", &["deleted again"]);
    assert!(!report.text.contains(PASSWORD));
    let stats = ozone.stats();
    assert_eq!((stats.logins.len(), stats.deleted_sessions, stats.queries.len()), (1, 1, 1));

    ask(&ozone, "wrong").fails("login", &["check --identifier and --password"]);
    assert_eq!(ozone.stats().deleted_sessions, 1, "there was none");
    let stranger = start(Some(Refusal::no_role()));
    ask(&stranger, PASSWORD).fails("events", &["has to be an active member of the team"]);
    assert_eq!(stranger.stats().deleted_sessions, 1, "also where the events are refused");
}

#[test]
fn recordings_are_looked_into() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
    check(&["firehose", "replay", "--file", fixture]).is_well(0).says("ok", "recording", &["begins with seq"]);
    let (relay, dir) = (relay(), folder("check"));
    let (url, output) = (relay.url(), dir.join("frames.bin"));
    let record = |path: &Path| {
        let args = ["check", "--json", "record", "--relay-host", &url, "--output"];
        let out = command(&args, &[]).arg(path).stdin(Stdio::null()).output().expect("the binary runs");
        report(out)
    };
    record(&output).is_well(0).says("ok", "file", &["can be written"]);
    assert!(!output.exists());
    std::fs::write(&output, "there").expect("written");
    record(&output).fails("file", &["is there already", "--append"]);
    record(&dir.join("absent/frames.bin")).fails("file", &["does not exist: create it"]);
}

#[test]
fn settings_say_where_they_come_from_and_secrets_are_hidden() {
    let (relay, dir) = (relay(), folder("check"));
    std::fs::write(dir.join(".env"), "ATKAFKA_WORKERS=3\nATKAFKA_CURSOR=oldest\nATKAFKA_SASL_PASSWORD=hunter2\n")
        .expect("written");
    let url = relay.url();
    let mut run = command(&["check", "--json", "firehose", "relay", "--relay-host", &url], &[]);
    run.current_dir(&dir).env("ATKAFKA_CURSOR", "live").env("METRICS_LISTEN_ADDRESS", "none");
    run.args(["--bootstrap-servers", "127.0.0.1:1", "--output-topic", "t", "--sasl-mechanism", "PLAIN"]);
    run.args(["--sasl-username", "me", "--kafka-config", "linger.ms=7,ssl.key.password=hunter2"]);
    let report = report(run.stdin(Stdio::null()).output().expect("the binary runs"));
    assert_eq!(report.code, Some(1), "no broker is there: {}", report.text);
    for (flag, value, from) in [
        ("--relay-host", url.as_str(), "flag"),
        ("--cursor", "live", "ATKAFKA_CURSOR"),
        ("--workers", "3", "ATKAFKA_WORKERS in .env"),
        ("--sasl-password", "***", "ATKAFKA_SASL_PASSWORD in .env"),
        ("--kafka-config", "linger.ms=***,ssl.key.password=***", "flag"),
        ("--metrics-listen-address", "none", "METRICS_LISTEN_ADDRESS"),
        ("--compression", "lz4", "default"),
        ("--silence", "90s", "default"),
    ] {
        let line = report.lines.iter().find(|line| line.get("flag").as_str() == Some(flag));
        let line = line.unwrap_or_else(|| panic!("{flag}: {}", report.text));
        assert_eq!((line["value"].as_str(), line["from"].as_str()), (Some(value), Some(from)), "{flag}");
    }
    assert!(!report.text.contains("hunter2"), "{}", report.text);
    report.says("warning", "setting", &["PLAIN without --tls"]);
}

#[test]
fn what_is_no_command_line_ends_as_the_command_would() {
    for (args, part) in [
        (&["check", "firehose", "relay", "--workers", "0"][..], "--workers \"0\": a number from 1 to 256"),
        (&["check"], "one of these has to follow: firehose, ozone-events, record"),
        (&["check", "healthcheck"], "no such command"),
    ] {
        let (code, out, err) = run(args, &[]);
        assert!(code == Some(2) && out.is_empty() && err.contains(part), "{args:?}: {code:?} {err}");
    }
}

// --- Hosts -------------------------------------------------------------------------------------

#[test]
fn what_is_wrong_with_a_host_is_named() {
    let jetstream = server(|head| match head.starts_with("GET / ") {
        true => http("200 OK", "", "Welcome to Jetstream"),
        false => http("404 Not Found", "", "404 page not found\n"),
    });
    let page = server(|_| http("200 OK", "", "<!doctype html><title>Welcome</title>"));
    let text =
        wire::message(TEXT, br#"{"did":"did:plc:a","time_us":1725911162329308,"kind":"identity","identity":{}}"#);
    let texts = server(move |head| {
        let key = head.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
        [wire::upgrade(key).as_bytes(), &text].concat()
    });
    let (relay, tap) = (relay(), Tap::start(TapConfig::default()).expect("a Tap"));
    for (url, about, parts) in [
        ("wss://no-such-host.invalid".to_string(), "DNS", &["the name has no address: is --relay-host right"][..]),
        (format!("ws://127.0.0.1:{}", free_port()), "TCP", &["Connection refused", "is the relay running"]),
        (format!("wss://127.0.0.1:{}", relay.port()), "TLS", &["give --relay-host with ws://"]),
        (format!("ws://{page}"), "websocket", &["a web page (\"Welcome\")", "is --relay-host a relay or PDS"]),
        (format!("ws://{jetstream}"), "websocket", &["it is a Jetstream"]),
        (format!("ws://{texts}"), "first frame", &["it is a Jetstream"]),
        (tap.url(), "websocket", &["it is a Tap, not a relay"]),
    ] {
        check(&["firehose", "relay", "--relay-host", &url]).fails(about, parts);
    }
    // Two hosts: one line each, and the good one is well.
    let report = check(&["firehose", "relay", "--relay-host", &relay.url(), "--relay-host", &tap.url()]);
    report.fails("websocket", &["it is a Tap"]).says("ok", "host", &["is a relay or a PDS"]);
}

/// A certificate for `localhost`, of its own CA, which ends in so many days. Gives the file of the CA and the port of a
/// server that takes TLS off in front of `relay`.
fn behind_tls(dir: &Path, days: i64, relay: u16) -> (String, u16) {
    let key = PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let at = |days: i64| Asn1Time::from_unix(now + days * 86_400).expect("a time");
    let mut name = X509NameBuilder::new().expect("a name");
    name.append_entry_by_text("CN", "localhost").expect("a name");
    let name = name.build();
    let mut made = X509::builder().expect("a certificate");
    made.set_version(2).expect("version");
    made.set_subject_name(&name).and_then(|()| made.set_issuer_name(&name)).expect("names");
    made.set_pubkey(&key).expect("a key");
    made.set_not_before(&at(-10)).and_then(|()| made.set_not_after(&at(days))).expect("times");
    made.append_extension(BasicConstraints::new().critical().ca().build().expect("a CA")).expect("a CA");
    let alternative = SubjectAlternativeName::new().dns("localhost").build(&made.x509v3_context(None, None));
    made.append_extension(alternative.expect("a name")).expect("a name");
    made.sign(&key, openssl::hash::MessageDigest::sha256()).expect("signed");
    let pem = made.build().to_pem().expect("PEM");
    let ca = dir.join(format!("{days}.pem"));
    std::fs::write(&ca, &pem).expect("written");
    let pkcs8 = key.private_key_to_pem_pkcs8().expect("PEM");
    let identity = native_tls::Identity::from_pkcs8(&pem, &pkcs8).expect("an identity");
    let acceptor = native_tls::TlsAcceptor::new(identity).expect("an acceptor");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let acceptor = acceptor.clone();
            thread::spawn(move || {
                let Ok(mut client) = acceptor.accept(client) else { return };
                let mut relay = TcpStream::connect(("127.0.0.1", relay)).expect("the relay");
                let short = Some(Duration::from_millis(2));
                client
                    .get_ref()
                    .set_read_timeout(short)
                    .and_then(|()| relay.set_read_timeout(short))
                    .expect("timeouts");
                while pass(&mut client, &mut relay) && pass(&mut relay, &mut client) {}
            });
        }
    });
    (ca.to_string_lossy().into_owned(), port)
}

/// What is there goes to the other side. `false` at the end.
fn pass(from: &mut impl Read, to: &mut impl Write) -> bool {
    let mut buffer = [0; 1 << 16];
    match from.read(&mut buffer) {
        Ok(0) => false,
        Ok(n) => to.write_all(&buffer[..n]).is_ok(),
        Err(e) => matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

#[test]
fn certificates_and_their_end() {
    let (relay, dir) = (relay(), folder("check"));
    let ask = |days: i64| {
        let (ca, port) = behind_tls(&dir, days, relay.port());
        let url = format!("wss://localhost:{port}");
        (check(&["firehose", "relay", "--relay-host", &url, "--ca-file", &ca]), url)
    };
    ask(61).0.is_well(0).says("ok", "TLS", &["its certificate ends in 6"]).says("ok", "DNS", &["localhost is "]);
    ask(5).0.is_well(1).says("warning", "TLS", &["ends in ", "connections fail then"]);
    let (expired, url) = ask(-2);
    expired.fails("TLS", &["certificate has expired", "it is to be renewed"]);
    // By the system's CAs.
    check(&["firehose", "relay", "--relay-host", &url]).fails("TLS", &["localhost"]);
    let port = url.rsplit(':').next().expect("a port");
    let plain = check(&["firehose", "relay", "--relay-host", &format!("ws://localhost:{port}")]);
    plain.fails("websocket", &["give --relay-host with wss://"]);
}

#[test]
fn directories_that_are_none() {
    let relay = relay();
    let page = format!("http://{}", server(|_| http("200 OK", "", "<!doctype html><title>Welcome</title>")));
    let away = format!("http://127.0.0.1:{}", free_port());
    let url = relay.url();
    let base = ["firehose", "relay", "--relay-host", &url];
    check(&[&base[..], &["--plc-host", &page]].concat()).fails("PLC", &["a web page", "--plc-host"]);
    check(&[&base[..], &["--api-host", &away]].concat()).fails("AppView", &["refused", "is the AppView running"]);
}

// --- Brokers and topics ------------------------------------------------------------------------

#[test]
fn what_is_wrong_with_a_broker_is_named() {
    let (Some(broker), Some(sasl), Some(sasl_ssl), Some(ca)) =
        (broker(KAFKA), broker(SASL), broker(SASL_SSL), broker(CA))
    else {
        return;
    };
    let (relay, topic) = (relay(), unique("check"));
    let url = relay.url();
    let dir = folder("check");
    let state = dir.to_string_lossy();
    let ask = |broker: &str, more: &[&str]| {
        let base = ["firehose", "relay", "--relay-host", &url, "--output-topic", &topic, "--state-dir", &state];
        check_with(
            &[&base[..], &["--bootstrap-servers", broker], more].concat(),
            &[("ATKAFKA_SASL_USERNAME", ""), ("ATKAFKA_LOG_LEVEL", "debug")],
        )
    };
    let closed = format!("127.0.0.1:{}", free_port());
    ask(&closed, &[]).fails("broker", &["connection refused: is the broker running"]);
    ask("no-such-host.invalid:9092", &[]).fails("broker", &["the name does not resolve"]);
    ask(&sasl, &[]).fails("broker", &["the broker wants a login: give --sasl-mechanism ("]);
    ask(&sasl_ssl, &[]).fails("broker", &["the port speaks TLS", "give --tls"]);
    let login =
        |password| ["--sasl-mechanism", "SCRAM-SHA-512", "--sasl-username", "atkafka", "--sasl-password", password];
    ask(&sasl, &login("wrong")).fails("broker", &["the broker refuses the login of atkafka by SCRAM-SHA-512"]);
    let tls = ["--tls", "--tls-ca-file", &ca];
    let report = ask(&sasl_ssl, &[&login("secret")[..], &tls].concat());
    // A password on the command line.
    report.is_well(1).says("ok", "login", &["as atkafka by SCRAM-SHA-512, over TLS"]);
    report.says("ok", "TLS", &[&sasl_ssl, "its certificate ends in"]).says("ok", "version", &["Kafka 4."]);
    ask(&sasl_ssl, &[&login("secret")[..], &["--tls"]].concat())
        .fails("broker", &["give the CA's certificate with --tls-ca-file"]);
    ask(&broker, &["--kafka-client", "kafka"]).fails("client", &["up to 3.9"]);
    ask(&broker, &["--kafka-config", "linger.ms=never"]).fails("broker", &["--kafka-config: linger.ms"]);
}

#[test]
fn topics_that_are_absent_or_delete_history() {
    let Some(broker) = broker(KAFKA) else { return };
    let (relay, state) = (relay(), folder("check"));
    let (url, state) = (relay.url(), state.to_string_lossy().into_owned());
    let tap = Tap::start(TapConfig::default()).expect("a Tap");
    let ask = |topic: &str, more: &[&str]| {
        let base = ["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &broker, "--state-dir", &state];
        check(&[&base[..], &["--output-topic", topic], more].concat())
    };
    let absent = unique("absent");
    ask(&absent, &[]).is_well(0).says("ok", "topic", &["does not exist; it will be created, ", "partition"]);
    ask(&absent, &["--no-create-topic"]).fails("topic", &["does not exist", "--no-create-topic is given"]);
    ask(&absent, &["--topic-replication", "9"]).fails("topic", &["does not exist and would not be created"]);
    assert!(!has_topic(&broker, &absent));
    let (hour, week) = (unique("hour"), unique("week"));
    create_topic(&broker, &hour, "3600000");
    create_topic(&broker, &week, "604800000");
    ask(&hour, &[]).is_well(1).says("warning", "retention", &["deletes after 1 hour"]);
    ask(&hour, &["--cursor", "oldest"]).is_well(1).says(
        "warning",
        "retention",
        &["what --cursor asks for may be older"],
    );
    ask(&week, &[]).is_well(0).says("ok", "retention", &["deletes after 7 days"]);
    let args = ["firehose", "tap", "--tap-host", &tap.url(), "--bootstrap-servers", &broker, "--output-topic", &week];
    check(&args).is_well(1).says("warning", "retention", &["history older than that is deleted", "retention.ms=-1"]);
}

#[test]
fn rights_that_are_missing_are_named() {
    let (Some(broker), Some(sasl)) = (broker(KAFKA), broker(SASL)) else { return };
    let (relay, state) = (relay(), folder("check"));
    let (url, state) = (relay.url(), state.to_string_lossy().into_owned());
    let ask = |topic: &str| {
        let mut args = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &sasl];
        args.extend(["--state-dir", &state, "--output-topic", topic, "--sasl-mechanism", "PLAIN"]);
        check_with(&args, &LIMITED)
    };
    let (topic, hidden) = (unique("rights"), unique("rights-hidden"));
    create_topic(&broker, &topic, "-1");
    let lists = Lists::of(&broker);
    lists.allow("Describe", &["--topic", &topic]);
    ask(&topic).fails("rights", &[&topic, "may not write there: give it the right Write"]);
    lists.allow("Write", &["--topic", &topic]);
    let report = ask(&topic);
    // A login in plain; limits that this client may not read.
    report.is_well(2).says("warning", "limits", &["the right DescribeConfigs"]).says("ok", "rights", &["Write"]);
    // Once there is an ACL, whatever it does not name is forbidden.
    create_topic(&broker, &hidden, "-1");
    lists.allow("Create", &["--topic", &hidden]);
    ask(&hidden).fails("topic", &[&hidden, "no right to see it (Describe)", "the rights Create, Describe and Write"]);
}

// --- This machine ------------------------------------------------------------------------------

#[test]
fn a_second_instance_finds_lock_and_port_taken() {
    let Some(broker) = broker(KAFKA) else { return };
    let (relay, topic, state) = (relay(), unique("check"), folder("check"));
    let (url, dir) = (relay.url(), state.to_string_lossy().into_owned());
    create_topic(&broker, &topic, "-1");
    let mut args = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &broker];
    args.extend(["--output-topic", &topic, "--state-dir", &dir, "--cursor", "oldest"]);
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(3, SOON);
    check(&args).fails("position", &["another atkafka already writes this host into this output"]);
    let port = format!("127.0.0.1:{}", bridge.port);
    let out = command(&["check", "--json", "firehose", "tap", "--metrics-listen-address", &port], &[]).output();
    report(out.expect("the binary runs")).says("failed", "metrics", &[&port, "give another address"]);
    assert_eq!(bridge.stop().0, Some(0));
    check(&args).is_well(0).says("ok", "position", &["goes on from what was saved at 2"]);
    // Not a directory, and one that holds something else in place of a position.
    let file = state.join("file");
    std::fs::write(&file, "x").expect("written");
    let position = args.iter().position(|arg| *arg == dir).expect("it is there");
    let at = file.to_string_lossy().into_owned();
    args[position] = &at;
    check(&args).fails("state", &["is not a directory"]);
}

/// In a mount namespace of its own: a small disk, which is filled or made read-only.
#[test]
fn a_state_directory_that_is_read_only_or_full() {
    let can = Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|out| out.status.success());
    if !can {
        println!("skipped: unshare cannot make a namespace here");
        return;
    }
    let (relay, dir) = (relay(), folder("check"));
    let ask = |prepare: &str, state: &str| {
        let script = format!(
            "mount -t tmpfs -o size=2m none '{dir}' && cd '{dir}' && {{ {prepare}; }} 2>/dev/null; cd /; exec '{binary}' check --json \
             firehose relay --relay-host {url} --state-dir '{dir}/{state}' --metrics-listen-address none",
            dir = dir.display(),
            binary = env!("CARGO_BIN_EXE_atkafka"),
            url = relay.url(),
        );
        let out = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output();
        report(out.expect("unshare runs"))
    };
    ask("mkdir state; mount -o remount,ro .", "state")
        .fails("state", &["Read-only file system", "must be able to write"]);
    ask("mount -o remount,ro .", "state").fails("state", &["cannot be created", "Read-only file system"]);
    ask("mkdir state; cat /dev/zero > zeros", "state").fails("state", &["0 KiB are free: make room on its volume"]);
    ask("mkdir state", "state").is_well(1).says("warning", "state", &["are free on its volume"]);
}

/// Nobody answers anything. It ends all the same, with a line for each.
#[test]
fn it_ends_by_itself() {
    let silent: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let at = |i: usize| silent[i].local_addr().expect("bound").to_string();
    let (relay, plc, kafka) = (format!("wss://{}", at(0)), format!("http://{}", at(1)), at(2));
    let mut args = vec!["firehose", "relay", "--relay-host", &relay, "--plc-host", &plc, "--api-host", &plc];
    let state = folder("check").to_string_lossy().into_owned();
    args.extend(["--bootstrap-servers", &kafka, "--output-topic", "t", "--state-dir", &state]);
    let began = Instant::now();
    let report = check(&args);
    let took = began.elapsed();
    assert_eq!(report.code, Some(1), "{}", report.text);
    for (about, part) in [("TLS", "in time"), ("PLC", "timeout"), ("broker", "answers nothing")] {
        report.says("failed", about, &[part]);
    }
    assert!(took < Duration::from_secs(35), "{took:?}");
}

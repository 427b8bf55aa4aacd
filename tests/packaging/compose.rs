//! The compose files start the program as they say, with the variables of the page of at-kafka, and name only what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atkafka_fixtures::jetstream::{Event, Jetstream, JetstreamConfig};
use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, comment};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig, TapEvent};
use serde_yaml_ng::{Mapping, Value};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{SOON, image_env, image_health_check, read, root, text};

const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const RELAY: &str = "docker-compose.yml";
const JETSTREAM: &str = "docker-compose.jetstream.yml";
const TAP: &str = "docker-compose.tap.yml";
const OZONE: &str = "docker-compose.ozone.yml";
/// What the Ozone file does not start without.
const OZONE_ACCOUNT: [(&str, &str); 4] = [
    ("ATKAFKA_OZONE_PDS_HOST", "https://pds.example.com"),
    ("ATKAFKA_OZONE_IDENTIFIER", "your.handle"),
    ("ATKAFKA_OZONE_PASSWORD", "password"),
    ("ATKAFKA_OZONE_LABELER_DID", "did:plc:labeler"),
];

/// A file with its values filled in from `env`, its `extends` followed. `Err` names a required variable.
fn compose(file: &str, env: &[(&str, &str)]) -> Result<Value, String> {
    let load = |file: &str| {
        let mut all: Value = serde_yaml_ng::from_str(&read(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        all.apply_merge().expect("merge keys");
        fill_in(&mut all, env).map(|()| all)
    };
    let (mut all, common) = (load(file)?, load("packaging/services.yml")?);
    for (_, service) in all["services"].as_mapping_mut().expect("services") {
        let Some(extends) = service.as_mapping_mut().and_then(|s| s.remove("extends")) else { continue };
        assert_eq!(extends["file"], "packaging/services.yml");
        let own = std::mem::replace(service, common["services"][&extends["service"]].clone());
        merge(service, own);
    }
    Ok(all)
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Sequence(base), Value::Sequence(over)) => base.extend(over),
        (base, over) => *base = over,
    }
}

fn fill_in(value: &mut Value, env: &[(&str, &str)]) -> Result<(), String> {
    match value {
        Value::String(text) => *text = interpolate(text, env)?,
        Value::Sequence(list) => list.iter_mut().try_for_each(|v| fill_in(v, env))?,
        Value::Mapping(map) => map.iter_mut().try_for_each(|(_, v)| fill_in(v, env))?,
        _ => {}
    }
    Ok(())
}

/// `$$`, `${NAME:-default}` and `${NAME:?message}`.
fn interpolate(text: &str, env: &[(&str, &str)]) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(escaped) = rest.strip_prefix('$') {
            (out, rest) = (out + "$", escaped);
            continue;
        }
        let end = rest.find('}').unwrap_or_else(|| panic!("{text}"));
        let (name, default) = rest[1..end].split_once(':').unwrap_or_else(|| panic!("{text}"));
        match (env.iter().find(|(n, v)| *n == name && !v.is_empty()), default.split_at(1)) {
            (Some((_, value)), _) => out += value,
            (None, ("-", default)) => out += default,
            (None, (_, message)) => return Err(format!("{name}: {message}")),
        }
        rest = &rest[end + 1..];
    }
    Ok(out + rest)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_sequence().unwrap_or_else(|| panic!("a list: {list:?}")).iter().map(text).collect()
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    let map = service["environment"].as_mapping().expect("an environment");
    map.iter().map(|(k, v)| (text(k), text(v))).collect()
}

fn services(all: &Value) -> &Mapping {
    all["services"].as_mapping().expect("services")
}

/// The arguments of the health check `[CMD, atkafka, ...]`.
fn health_check(test: &[String]) -> Vec<String> {
    assert_eq!(test[..2], ["CMD", "atkafka"]);
    test[2..].to_vec()
}

/// Runs `atkafka` of a compose file: its command, its environment, and `.env` with `dotenv`, which both fills in the file
/// and is handed on. Waits for `events` in the topic, asks the health checks, and stops it.
fn starts_as_it_says(file: &str, dotenv: &[(&str, &str)], events: usize) -> Vec<Arrived> {
    let broker = std::env::var(KAFKA).expect("asked before");
    let topic = unique("compose");
    let dotenv = [dotenv, &[("ATKAFKA_BOOTSTRAP_SERVERS", &broker), ("ATKAFKA_OUTPUT_TOPIC", &topic)]].concat();
    let all = compose(file, &dotenv).expect("each required variable is given");
    let service = &all["services"]["atkafka"];

    let command = texts(&service["command"]);
    let mut env: BTreeMap<String, String> = dotenv.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    env.extend(environment(service));
    // The image's: the volume's place, which is a folder here.
    let volumes = texts(&service["volumes"]);
    let place = image_env()["STATE_DIRECTORY"].clone();
    assert_eq!(volumes, [format!("state:{place}")]);
    let state = folder("state");
    env.insert("STATE_DIRECTORY".into(), state.to_string_lossy().into_owned());

    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let bridge = Bridge::start_with(&command, &env);
    bridge.wait("the events", SOON, |b| b.metric("atkafka_produced_events{status=\"ok\"}") >= events as f64);

    // In a container the port is the default one; here it is one that no other test has.
    let listen = format!("0.0.0.0:{}", bridge.port);
    for test in [texts(&service["healthcheck"]["test"]), image_health_check()] {
        let check = health_check(&test);
        let check: Vec<&str> = check.iter().map(String::as_str).collect();
        let here = [&env[..], &[("METRICS_LISTEN_ADDRESS", &listen)]].concat();
        let (code, _, err) = run(&check, &here);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{check:?}");
        let (code, _, err) = run(&check, &[("METRICS_LISTEN_ADDRESS", "127.0.0.1:1")]);
        assert!(code == Some(1) && err.contains("http://127.0.0.1:1/"), "where nobody listens: {code:?}, {err}");
    }
    let arrived = consume(&broker, &topic);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{}", log.join("\n"));
    arrived
}

#[test]
fn the_relay_file_brings_an_event_to_kafka() {
    if broker(KAFKA).is_none() {
        return;
    }
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(1, DID, A_TIME, None)])).expect("a relay");
    let arrived = starts_as_it_says(RELAY, &[("ATKAFKA_RELAY_HOST", &relay.url()), ("ATKAFKA_CURSOR", "oldest")], 1);
    assert_eq!(arrived[0].key.as_deref(), Some(DID));
    assert!(arrived[0].json().get("identity").is_some());
}

#[test]
fn the_jetstream_file_brings_an_event_to_kafka() {
    if broker(KAFKA).is_none() {
        return;
    }
    let server = Jetstream::start(JetstreamConfig::default()).expect("a Jetstream");
    server.push([Event::post(DID, 1_783_175_888_085_434, 7)]);
    let url = server.url();
    let dotenv = [("ATKAFKA_JETSTREAM_HOST", url.as_str()), ("ATKAFKA_CURSOR", "oldest")];
    let arrived = starts_as_it_says(JETSTREAM, &dotenv, 1);
    assert_eq!(arrived[0].key.as_deref(), Some(DID));
    assert!(arrived[0].json().get("operation").is_some());
}

#[test]
fn the_tap_file_brings_an_event_to_kafka() {
    if broker(KAFKA).is_none() {
        return;
    }
    let tap = Tap::start(TapConfig { password: Some("secret".into()), ..TapConfig::default() }).expect("a tap");
    tap.push([TapEvent::identity(DID, r#""handle":"a.example","is_active":true,"status":"active""#)]);
    // Both the page's form and `http` are URLs of a Tap.
    let url = tap.url();
    let dotenv =
        [("ATKAFKA_TAP_HOST", url.as_str()), ("ATKAFKA_TAP_PASSWORD", "secret"), ("ATKAFKA_OSPREY_COMPATIBLE", "true")];
    let arrived = starts_as_it_says(TAP, &dotenv, 1);
    assert_eq!(arrived[0].json()["data"]["action_name"].as_str(), Some("identity"));
    assert_eq!(tap.outbox(), 0, "acknowledged");
}

#[test]
fn the_ozone_file_brings_an_event_to_kafka() {
    if broker(KAFKA).is_none() {
        return;
    }
    let ozone = Ozone::start(OzoneConfig::default()).expect("a port");
    ozone.add(&comment(DID, "a note"));
    let url = ozone.url();
    let dotenv = [
        ("ATKAFKA_OZONE_PDS_HOST", url.as_str()),
        ("ATKAFKA_OZONE_IDENTIFIER", IDENTIFIER),
        ("ATKAFKA_OZONE_PASSWORD", PASSWORD),
        ("ATKAFKA_OZONE_LABELER_DID", LABELER),
    ];
    let arrived = starts_as_it_says(OZONE, &dotenv, 1);
    assert_eq!(arrived[0].key.as_deref(), Some(DID));
}

/// The variables of the page: in which file, with which default, and another value that goes through. Where the page
/// says `localhost`, which is the container itself, the service's name stands.
#[test]
fn variables_of_the_page_work_in_the_compose_files() {
    let kafka = ("ATKAFKA_BOOTSTRAP_SERVERS", "kafka:29092");
    let osprey = ("ATKAFKA_OSPREY_COMPATIBLE", "false");
    let filters = ["WATCHED_SERVICES", "IGNORED_SERVICES", "WATCHED_COLLECTIONS", "IGNORED_COLLECTIONS"]
        .map(|name| (format!("ATKAFKA_{name}"), ""));
    let filters = filters.each_ref().map(|(name, default)| (name.as_str(), *default));
    let relay = [("ATKAFKA_RELAY_HOST", "wss://bsky.network"), ("ATKAFKA_OUTPUT_TOPIC", "atproto-events")];
    let jetstream = [
        ("ATKAFKA_JETSTREAM_HOST", "wss://jetstream2.us-east.bsky.network"),
        ("ATKAFKA_JETSTREAM_COMPRESSION", "none"),
        ("ATKAFKA_OUTPUT_TOPIC", "atproto-events"),
    ];
    let tap = [
        ("ATKAFKA_TAP_HOST", "ws://tap:2480"),
        ("ATKAFKA_DISABLE_ACKS", "false"),
        ("ATKAFKA_OUTPUT_TOPIC", "atproto-events"),
    ];
    let ozone = [&OZONE_ACCOUNT[..], &[("ATKAFKA_OUTPUT_TOPIC", "ozone-events")]].concat();
    for (file, command, wanted) in [
        (RELAY, &["firehose", "relay"][..], [&relay[..], &[kafka, osprey], &filters].concat()),
        (JETSTREAM, &["firehose", "jetstream"], [&jetstream[..], &[kafka, osprey], &filters].concat()),
        (TAP, &["firehose", "tap"], [&tap[..], &[kafka, osprey], &filters].concat()),
        (OZONE, &["ozone-events"], [&ozone[..], &[kafka, osprey]].concat()),
    ] {
        let all = compose(file, &OZONE_ACCOUNT).expect("as it is");
        let service = &all["services"]["atkafka"];
        assert_eq!(texts(&service["command"]), command);
        let env = environment(service);
        for (name, default) in wanted {
            assert_eq!(env.get(name).map(String::as_str), Some(default), "{file}: {name}");
            let other = compose(file, &[&[(name, "other")], &OZONE_ACCOUNT[..]].concat()).expect("given");
            assert_eq!(environment(&other["services"]["atkafka"])[name], "other", "{file}: {name}");
        }
        // Every other variable comes by way of `.env`, which need not be there.
        assert_eq!(service["env_file"][0]["path"], "../.env");
        assert_eq!(service["env_file"][0]["required"], false);
    }
    for (name, _) in OZONE_ACCOUNT {
        let others: Vec<_> = OZONE_ACCOUNT.into_iter().filter(|(n, _)| *n != name).collect();
        let error = compose(OZONE, &others).expect_err(name);
        assert!(error.starts_with(&format!("{name}: ")) && error.len() > name.len() + 10, "{error}");
    }
}

#[test]
fn compose_files_name_only_what_is_there_and_keep_what_matters() {
    for file in [RELAY, JETSTREAM, TAP, OZONE] {
        let all = compose(file, &OZONE_ACCOUNT).expect("as it is");
        let declared = all["volumes"].as_mapping().expect("volumes");
        let mut mounted = BTreeSet::new();
        for (name, service) in services(&all) {
            let name = format!("{file}: {}", text(name));
            for key in ["image", "restart", "healthcheck", "logging", "security_opt", "ports"] {
                assert!(service.get(key).is_some(), "{name} has no {key}");
            }
            // Nothing but this machine reaches them: Kafka has no password here.
            for port in texts(&service["ports"]) {
                assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            }
            for volume in texts(&service["volumes"]) {
                let source = volume.split(':').next().unwrap_or_default();
                if source.starts_with('.') {
                    // Seen from the file that says it.
                    assert!(root().join("packaging").join(source).exists(), "{name}: {source}");
                } else {
                    assert!(declared.contains_key(source), "{name}: {source}");
                    mounted.insert(source.to_string());
                }
            }
            if let Some(others) = service.get("depends_on") {
                for (other, how) in others.as_mapping().expect("a mapping") {
                    let other = &all["services"][other];
                    assert!(other.get("healthcheck").is_some() && how["condition"] == "service_healthy", "{name}");
                }
            }
            let observes = ["prometheus", "grafana"].iter().any(|n| name.ends_with(n));
            let profile = service.get("profiles").map(texts);
            assert_eq!(profile, observes.then(|| vec!["observability".to_string()]), "{name}");
        }
        assert_eq!(mounted.len(), declared.len(), "{file}: a volume that nothing mounts");

        let service = &all["services"]["atkafka"];
        assert_eq!(text(&service["ports"][0]), "127.0.0.1:6009:6009");
        assert_eq!(service["read_only"], true);
        assert_eq!(texts(&service["cap_drop"]), ["ALL"]);
        let grace: u64 = text(&service["stop_grace_period"]).trim_end_matches('s').parse().expect("seconds");
        assert!(Duration::from_secs(grace) > atkafka::pipeline::producer::DRAIN * 2);

        let kafka = environment(&all["services"]["kafka"]);
        // kcat of the host, as on the page.
        assert!(kafka["KAFKA_ADVERTISED_LISTENERS"].contains("//localhost:9092"), "{kafka:?}");
        assert!(kafka["KAFKA_ADVERTISED_LISTENERS"].contains("//kafka:29092"), "{kafka:?}");
        // docs/kafka.md, "Retention": for ever where events are old, else longer than a relay goes back.
        let retention: i64 = kafka["KAFKA_LOG_RETENTION_MS"].parse().expect("a number");
        assert_eq!(retention, if [RELAY, JETSTREAM].contains(&file) { 7 * 24 * 3_600_000 } else { -1 }, "{file}");
    }
}

#[test]
fn a_health_check_says_what_is_wrong() {
    let url = format!("ws://127.0.0.1:{}", free_port());
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &url]);
    let address = format!("127.0.0.1:{}", bridge.port);
    bridge.wait("alive", SOON, |b| b.get("/healthz").is_some());
    let ask = |more: &[&str]| run(&[&["healthcheck", "--metrics-listen-address", &address], more].concat(), &[]);
    assert_eq!(ask(&[]).0, Some(0));
    let (code, out, err) = ask(&["--ready"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("not connected to 127.0.0.1"), "{err}");
    let (code, _, err) = run(&["healthcheck"], &[("METRICS_LISTEN_ADDRESS", "none")]);
    assert!(code == Some(2) && err.contains("nothing to ask"), "{err}");
}

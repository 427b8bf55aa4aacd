//! What is shipped beside the program: the compose files start it as they say, with the variables of the page of at-kafka;
//! the image, the dashboard and the alerts name only what is there.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atkafka::dead_letter::Reason;
use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, comment};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig, TapEvent};
use serde_yaml_ng::{Mapping, Value};
use sonic_rs::{JsonContainerTrait, JsonValueTrait};
use support::*;

const SOON: Duration = Duration::from_secs(60);
const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";
const RELAY: &str = "docker-compose.yml";
const TAP: &str = "docker-compose.tap.yml";
const OZONE: &str = "docker-compose.ozone.yml";
/// What the Ozone file does not start without.
const OZONE_ACCOUNT: [(&str, &str); 4] = [
    ("ATKAFKA_OZONE_PDS_HOST", "https://pds.example.com"),
    ("ATKAFKA_OZONE_IDENTIFIER", "your.handle"),
    ("ATKAFKA_OZONE_PASSWORD", "password"),
    ("ATKAFKA_OZONE_LABELER_DID", "did:plc:labeler"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

// --- compose, as far as these files use it --------------------------------------------------

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

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => serde_yaml_ng::to_string(other).expect("a scalar").trim().to_string(),
    }
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
    let tap = [
        ("ATKAFKA_TAP_HOST", "ws://tap:2480"),
        ("ATKAFKA_DISABLE_ACKS", "false"),
        ("ATKAFKA_OUTPUT_TOPIC", "atproto-events"),
    ];
    let ozone = [&OZONE_ACCOUNT[..], &[("ATKAFKA_OUTPUT_TOPIC", "ozone-events")]].concat();
    for (file, command, wanted) in [
        (RELAY, &["firehose", "relay"][..], [&relay[..], &[kafka, osprey], &filters].concat()),
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
    for file in [RELAY, TAP, OZONE] {
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
        assert_eq!(retention, if file == RELAY { 7 * 24 * 3_600_000 } else { -1 }, "{file}");
    }
}

// --- image ----------------------------------------------------------------------------------

/// Lines of the Dockerfile's last stage that begin with `word`, without it.
fn dockerfile(word: &str) -> Vec<String> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let last = text.rfind("\nFROM ").expect("stages");
    text[last..].lines().filter_map(|l| l.strip_prefix(word)?.strip_prefix(' ').map(str::to_string)).collect()
}

fn image_env() -> HashMap<String, String> {
    dockerfile("ENV").iter().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn image_health_check() -> Vec<String> {
    let line = dockerfile("HEALTHCHECK").pop().expect("a health check");
    let (_, list) = line.split_once("CMD ").expect("a command");
    let list: Vec<String> = sonic_rs::from_str(list).expect("in the form of a list");
    [vec!["CMD".to_string()], list].concat()
}

#[test]
fn the_image_is_what_the_compose_files_and_the_program_take_it_for() {
    let help = run(&["firehose", "relay", "--help"], &[]).1;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("(default 0.0.0.0:6009)"), "{help}");
    assert_eq!(dockerfile("EXPOSE"), ["6009"]);
    assert_eq!(dockerfile("ENTRYPOINT"), [r#"["atkafka"]"#]);
    assert_eq!(dockerfile("STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(dockerfile("USER"), ["10001:10001"]);
    assert_eq!(dockerfile("VOLUME"), [image_env()["STATE_DIRECTORY"].clone()]);
    assert_eq!(image_health_check(), ["CMD", "atkafka", "healthcheck"]);
    // What the build copies has to pass .dockerignore, and is there.
    let ignore = read(".dockerignore");
    let copied = read("Dockerfile");
    let copied = copied.lines().filter_map(|l| l.strip_prefix("COPY ")).filter(|l| !l.starts_with("--from"));
    for source in copied.flat_map(|l| l.split_whitespace().rev().skip(1)) {
        assert!(ignore.lines().any(|l| l == format!("!{source}")), "{source} is kept out by .dockerignore");
        assert!(root().join(source).exists(), "{source}");
    }
    // The toolchain of the build is new enough.
    let minor = |text: &str| text.split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
    let cargo = read("Cargo.toml");
    let least = cargo.lines().find_map(|l| l.strip_prefix("rust-version = \"")).expect("a version");
    let image = read("Dockerfile");
    let image = image.lines().find_map(|l| l.strip_prefix("FROM rust:")?.split('-').next()).expect("a rust image");
    assert!(minor(image) >= minor(least.trim_end_matches('"')), "{image}, {least}");
}

// --- workflows ------------------------------------------------------------------------------

#[test]
fn the_workflows_do_what_ci_run_and_the_make_targets_do() {
    let load = |name: &str| -> Value {
        let file = format!(".github/workflows/{name}.yml");
        assert!(read(&file).starts_with("# Not run so far"), "{file} says that it was not tried");
        serde_yaml_ng::from_str(&read(&file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    let steps = |job: &Value| -> Vec<String> {
        job["steps"].as_sequence().expect("steps").iter().filter_map(|s| Some(s["run"].as_str()?.to_string())).collect()
    };
    let (ci, release) = (load("ci"), load("release"));
    assert!(steps(&ci["jobs"]["test"]).iter().any(|run| run == ".ci/run"));
    let programs = steps(&release["jobs"]["programs"]).join("\n");
    assert!(programs.contains("make dist") && programs.contains("sha256sum") && programs.contains("cyclonedx"));
    let runners = release["jobs"]["programs"]["strategy"]["matrix"]["include"].as_sequence().expect("a matrix");
    assert_eq!(runners.iter().map(|r| text(&r["runner"])).collect::<Vec<_>>(), ["ubuntu-24.04", "ubuntu-24.04-arm"]);
    let image = release["jobs"]["image"]["steps"].as_sequence().expect("steps");
    assert!(image.iter().any(|s| s["with"]["platforms"].as_str() == Some("linux/amd64,linux/arm64")));
    // One Rust everywhere.
    let rust =
        read("Dockerfile").lines().find_map(|l| Some(l.strip_prefix("FROM rust:")?.split('-').next()?.to_string()));
    let rust = rust.expect("a rust image");
    assert_eq!(text(&ci["env"]["RUST"]), rust);
    assert_eq!(text(&release["jobs"]["programs"]["container"]), format!("rust:{rust}-bookworm"));

    match Command::new("actionlint").current_dir(root()).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout)),
        Err(_) => println!("skipped: actionlint is not installed (make lint says how to get it)"),
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

// --- dashboard and alerts -------------------------------------------------------------------

/// Each metric of the program with its labels: the names that stand in src/metrics.rs, and the labels behind each.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let source = read("src/metrics.rs");
    let mut source = source.split("#[cfg(test)]").next().unwrap_or_default().to_string();
    // Lists of labels that have a name.
    while let Some((before, (name, (list, after)))) = source.split_once("\nconst ").and_then(|(before, rest)| {
        let (name, rest) = rest.split_once(": &[&str] = ")?;
        Some((before, (name, rest.split_once(";\n")?)))
    }) {
        source = format!("{before}\n{}", after.replace(&format!("{name},"), &format!("{list},")));
    }
    let is_name = |s: &str| s.starts_with("atkafka_") && s.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut last, mut in_list) = (String::new(), false);
    let mut parts = source.split('"');
    // Outside and inside of quotes in turn; `\"` is not used there.
    while let (Some(outside), Some(inside)) = (parts.next(), parts.next()) {
        let begins = outside.ends_with("&[") && !outside.ends_with("with_label_values(&[");
        in_list = begins || (in_list && outside.trim() == ",");
        if is_name(inside) {
            last = inside.to_string();
            out.insert(last.clone(), BTreeSet::new());
        } else if in_list && let Some(labels) = out.get_mut(&last) {
            labels.insert(inside.to_string());
        }
    }
    for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "threads", "start_time_seconds"] {
        out.insert(format!("process_{name}"), BTreeSet::new());
    }
    assert_eq!(out["atkafka_handled_events"], ["action_name", "collection"].map(String::from).into());
    assert_eq!(out["atkafka_build_info"], ["version".to_string()].into());
    assert_eq!(out["atkafka_plc_requests"], ["cached", "kind", "status"].map(String::from).into());
    assert!(out["atkafka_filtered_events"].is_empty() && out["atkafka_delivery_seconds"].is_empty(), "{out:?}");
    out
}

/// Every query of the dashboard and of the alerts, with where it stands.
fn queries() -> Vec<(String, String)> {
    let mut out = Vec::new();
    let dashboard: sonic_rs::Value =
        sonic_rs::from_str(&read("packaging/grafana/dashboards/atkafka.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    // A folded row holds its panels.
    for panel in panels.flat_map(|p| std::iter::once(p).chain(p["panels"].as_array().into_iter().flatten())) {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            out.push((format!("panel {title}"), target["expr"].as_str().expect("a query").to_string()));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        out.push(("annotations".into(), annotation["expr"].as_str().expect("a query").to_string()));
    }
    for (name, rule) in alerts() {
        out.push((format!("alert {name}"), text(&rule["expr"])));
    }
    assert!(out.len() > 50, "{}", out.len());
    out
}

#[test]
fn panels_say_what_they_mean_and_what_is_normal() {
    let dashboard: sonic_rs::Value =
        sonic_rs::from_str(&read("packaging/grafana/dashboards/atkafka.json")).expect("JSON");
    let mut rows = 0;
    for top in dashboard["panels"].as_array().expect("panels") {
        let inner = top["panels"].as_array().into_iter().flatten();
        for panel in std::iter::once(top).chain(inner) {
            let title = panel["title"].as_str().expect("a title");
            if panel["type"] == "row" {
                assert_eq!(panel["collapsed"].as_bool(), Some(rows > 0), "{title}: all rows but the first are folded");
                rows += 1;
                continue;
            }
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(description.contains("Normal: ") || title == "Version", "{title}: {description}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_str(), "{title} has no unit");
        }
    }
    assert!(rows >= 5, "{rows} rows");
}

fn alerts() -> Vec<(String, Value)> {
    let all: Value = serde_yaml_ng::from_str(&read("packaging/prometheus/alerts.yml")).expect("YAML");
    let groups = all["groups"].as_sequence().expect("groups");
    let rules = groups.iter().flat_map(|g| g["rules"].as_sequence().expect("rules").clone());
    rules.map(|rule| (text(&rule["alert"]), rule)).collect()
}

/// The words of a query outside of strings, each with the character behind it.
fn words(query: &str) -> Vec<(String, char)> {
    let mut out = Vec::new();
    for (i, outside) in query.split('"').enumerate().filter(|(i, _)| i % 2 == 0) {
        let mut word = String::new();
        // The end of a part is a string, unless it is the end of the query.
        for c in outside.chars().chain([if i + 1 < query.split('"').count() { '"' } else { ' ' }]) {
            if c.is_ascii_alphanumeric() || c == '_' || c == '$' {
                word.push(c);
            } else if !word.is_empty() {
                out.push((std::mem::take(&mut word), c));
            }
        }
    }
    out
}

#[test]
fn dashboard_and_alerts_use_metrics_and_labels_that_exist() {
    let known = metrics();
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (place, query) in queries() {
        let mut labels: BTreeSet<String> = ["instance", "job"].map(String::from).into();
        let words = words(&query);
        let is_metric = |w: &str| w.starts_with("atkafka_") || w.starts_with("process_");
        for (word, _) in words.iter().filter(|(w, _)| is_metric(w)) {
            let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
            let name = histogram.filter(|name| name.ends_with("_seconds")).unwrap_or(word);
            match known.get(name) {
                Some(own) => labels.extend(own.iter().cloned()),
                None => wrong.push(format!("{place}: no metric {word}")),
            }
            if word.ends_with("_bucket") {
                labels.insert("le".into());
            }
            used.insert(name.to_string());
        }
        if query.contains("ALERTS") {
            labels.extend(["alertstate", "alertname"].map(String::from));
        }
        // Labels: compared with something, or listed behind `by` and `on`.
        let lists = query.match_indices(" by (").chain(query.match_indices(" on (")).map(|(at, by)| {
            let list = &query[at + by.len()..];
            list[..list.find(')').expect("closed")].split(',').map(|l| l.trim().to_string()).collect::<Vec<_>>()
        });
        let lists: Vec<String> = lists.flatten().collect();
        let compared = selectors(&query);
        for label in lists.iter().chain(&compared) {
            if !labels.contains(label) {
                wrong.push(format!("{place}: no label {label}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What the program counts is shown.
    let unused: Vec<&String> = known.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "on no panel and in no alert: {unused:?}");

    // Values, too, where the program has a closed list of them.
    let reasons = Reason::ALL.map(|r| r.name());
    for (place, query) in queries() {
        for list in query.split("reason=~\"").skip(1) {
            for reason in list[..list.find('"').expect("closed")].split('|') {
                assert!(reasons.contains(&reason), "{place}: {reason}");
            }
        }
    }
}

/// The label names in `{...}` of a query.
fn selectors(query: &str) -> Vec<String> {
    let inside = query.split('{').skip(1).filter_map(|part| part.split('}').next());
    let pairs = inside.flat_map(|list| list.split("\", ").map(str::to_string).collect::<Vec<_>>());
    pairs.filter_map(|pair| pair.split(['=', '!']).next().map(|label| label.trim().to_string())).collect()
}

#[test]
fn process_metrics_of_the_dashboard_are_in_the_answer() {
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", "ws://127.0.0.1:1"]);
    bridge.wait("metrics", SOON, |b| b.get("/metrics").is_some());
    let answer = bridge.metrics();
    for name in metrics().keys().filter(|name| name.starts_with("process_")) {
        assert!(answer.contains_key(name), "{name}");
    }
}

#[test]
fn alerts_say_what_they_mean_and_the_documents_what_to_do() {
    let document = read("docs/operating.md");
    let section = document.split("\n## Alerts\n").nth(1).expect("a section Alerts");
    let section = section.split("\n## ").next().unwrap_or_default();
    let tests = read("packaging/prometheus/alerts.test.yml");
    for (name, rule) in alerts() {
        for key in ["summary", "description", "runbook"] {
            assert!(text(&rule["annotations"][key]).len() > 10, "{name}: {key}");
        }
        assert_eq!(text(&rule["annotations"]["runbook"]), format!("docs/operating.md#{}", name.to_lowercase()));
        assert!(["warning", "critical"].contains(&text(&rule["labels"]["severity"]).as_str()), "{name}");
        assert!(section.contains(&format!("\n### {name}\n")), "{name} has no section in docs/operating.md");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} has no test");
    }
    let listed = section.lines().filter(|l| l.starts_with("### Atkafka")).count();
    assert_eq!(listed, alerts().len(), "docs/operating.md has an alert that is not there");
}

#[test]
fn alerts_fire_and_do_not_fire() {
    if Command::new("promtool").arg("--version").output().is_err() {
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "promtool is missing in CI");
        println!("skipped: promtool is not installed (make deploy-check installs it)");
        return;
    }
    let dir: PathBuf = root().join("packaging/prometheus");
    for args in
        [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"], ["check", "config", "--syntax-only"]]
    {
        let mut command = Command::new("promtool");
        command.args(args).current_dir(&dir);
        if args[1] == "config" {
            command.arg("prometheus.yml");
        }
        let out = command.output().expect("promtool runs");
        let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        assert!(out.status.success(), "promtool {args:?}\n{said}");
    }
}

//! The command line as users meet it: where flags may stand, which source of a value wins, what a mistake is answered
//! with, what the log holds and what it never holds, recording, and the two signals.

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::identity_frame;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::{JsonValueTrait, Value};
use support::*;

const SOON: Duration = Duration::from_secs(30);
const BINARY: &str = env!("CARGO_BIN_EXE_atkafka");
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
const TIME: &str = "2026-07-04T14:38:07.784Z";

fn fixture(count: usize) -> Vec<Vec<u8>> {
    let mut all = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    all.truncate(count);
    all
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs the binary in `dir` to its end.
fn run_in(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// The only line that a start with a mistake says.
fn refusal(what: &str, (code, stdout, stderr): &(Option<i32>, String, String)) -> String {
    assert_eq!(*code, Some(2), "{what}: {stderr}");
    assert_eq!(stdout, "", "{what}");
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "{what}: one line, not {stderr:?}");
    stderr.trim_end().to_string()
}

// --- help and version ---------------------------------------------------------------------------

#[test]
fn help_and_version_of_each_command_end_well_and_name_only_what_there_is() {
    for line in ["--help", "-h", "help", "firehose --help", "firehose relay --help", "record --help", "--help firehose"]
    {
        let (code, out, err) = run(&words(line), &[]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{line}");
        assert!(out.contains("Usage: atkafka"), "{line}: {out}");
    }
    let (_, top, _) = run(&["--help"], &[]);
    // Each line of the list is a command that is there, not one to come.
    let listed = top.split_once("Commands").map_or("", |(_, list)| list).lines().filter(|l| l.starts_with("  "));
    let commands: Vec<&str> = listed.filter_map(|l| l.trim().split_once("  ").map(|(name, _)| name)).collect();
    assert!(commands.contains(&"firehose relay") && commands.contains(&"record"), "{top}");
    for command in commands {
        let (code, out, err) = run(&words(&format!("{command} --help")), &[]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{command}");
        // Those that only print a text of ours have no flags.
        let prints = command.starts_with("completions") || command == "man";
        let (usage, least) = if prints { ("\n", 1) } else { (" [flags]", 3) };
        assert!(
            out.contains(&format!("Usage: atkafka {command}{usage}")) && entries(&out).len() > least,
            "{command}: {out}"
        );
    }
    for line in ["--version", "-V", "firehose relay --version"] {
        let want = format!("atkafka {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(&words(line), &[]), (Some(0), want, String::new()), "{line}");
    }
}

/// The entries of a help text: flag, and everything said of it on one line.
fn entries(help: &str) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for line in help.lines().filter(|l| l.starts_with("  ")) {
        if line.starts_with("  --") {
            let (flag, text) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            out.push((flag.to_string(), text.trim().to_string()));
        } else if let Some((_, text)) = out.last_mut() {
            *text += &format!(" {}", line.trim());
        }
    }
    out
}

#[test]
fn every_flag_in_the_help_has_its_variable_and_its_default() {
    for command in ["firehose relay", "record"] {
        let (_, help, _) = run(&words(&format!("{command} --help")), &[]);
        let entries = entries(&help);
        assert!(entries.len() > 8, "{help}");
        for (flag, text) in &entries {
            let variable = match flag.as_str() {
                "--help" | "--version" => continue,
                "--debug" => "DEBUG".to_string(),
                "--metrics-listen-address" => "METRICS_LISTEN_ADDRESS".to_string(),
                _ => format!("ATKAFKA_{}", flag[2..].replace('-', "_").to_uppercase()),
            };
            assert!(text.contains(&format!("[{variable}]")), "{command} {flag}: {text}");
        }
        for (flag, default) in [
            ("--relay-host", "wss://bsky.network"),
            ("--cursor", "live"),
            ("--silence", "90s"),
            ("--log-level", "info"),
            ("--log-format", "text"),
            ("--frames", "10000"),
            ("--memory-limit", "256MiB"),
            ("--state-dir", "./atkafka-state"),
            ("--compression", "lz4"),
            ("--kafka-client", "librdkafka"),
            ("--metrics-listen-address", "0.0.0.0:6009"),
        ] {
            if let Some((_, text)) = entries.iter().find(|(f, _)| f == flag) {
                assert!(text.contains("default") && text.contains(default), "{command} {flag}: {text}");
            }
        }
    }
}

// --- where values come from ---------------------------------------------------------------------

#[test]
fn a_flag_wins_over_the_environment_and_that_over_dot_env() {
    // The value that counts is the one that the refusal names.
    let dir = folder("dotenv");
    std::fs::write(dir.join(".env"), "# comment\nATKAFKA_CURSOR=from-dot-env\nexport ATKAFKA_WORKERS=\"3\"\n")
        .expect(".env");
    let cursor = |args: &str, env: &[(&str, &str)]| {
        let out = run_in(&dir, &words(args), env);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let env = [("ATKAFKA_CURSOR", "from-environment")];
    for (args, env, want) in [
        ("firehose relay", &[][..], "from-dot-env"),
        ("firehose relay", &env, "from-environment"),
        ("firehose relay --cursor from-flag", &env, "from-flag"),
    ] {
        let (code, err) = cursor(args, env);
        assert_eq!(code, Some(2), "{args} {env:?}: {err}");
        assert!(err.contains(&format!("--cursor \"{want}\"")), "{args} {env:?}: {err}");
    }
}

#[test]
fn each_variable_reaches_its_flag() {
    for (variable, value, flag) in [
        ("ATKAFKA_RELAY_HOST", "ftp://x", "--relay-host"),
        ("ATKAFKA_CURSOR", "soon", "--cursor"),
        ("ATKAFKA_BOOTSTRAP_SERVERS", "no-port", "--bootstrap-servers"),
        ("ATKAFKA_OUTPUT_TOPIC", "topic", "--output-topic"),
        ("ATKAFKA_WATCHED_COLLECTIONS", "post", "--watched-collections"),
        ("ATKAFKA_IGNORED_COLLECTIONS", "post", "--ignored-collections"),
        ("ATKAFKA_WATCHED_DIDS", "alice", "--watched-dids"),
        ("ATKAFKA_IGNORED_DIDS", "alice", "--ignored-dids"),
        ("ATKAFKA_WORKERS", "none", "--workers"),
        ("ATKAFKA_MEMORY_LIMIT", "all", "--memory-limit"),
        ("ATKAFKA_SNOWFLAKE_WORKER_ID", "32", "--snowflake-worker-id"),
        ("ATKAFKA_LOG_LEVEL", "loud", "--log-level"),
        ("ATKAFKA_LOG_FORMAT", "xml", "--log-format"),
        ("METRICS_LISTEN_ADDRESS", "nowhere", "--metrics-listen-address"),
        ("ATKAFKA_METRICS_LISTEN_ADDRESS", "nowhere", "--metrics-listen-address"),
        ("ATKAFKA_OSPREY_COMPATIBLE", "perhaps", "ATKAFKA_OSPREY_COMPATIBLE"),
        ("ATKAFKA_DEBUG", "perhaps", "ATKAFKA_DEBUG"),
    ] {
        let line = refusal(variable, &run(&["firehose", "relay"], &[(variable, value)]));
        assert!(line.contains(flag), "{variable}: {line}");
    }
}

#[test]
fn flags_stand_anywhere_and_lists_repeat_or_have_commas() {
    let relay = Relay::start(RelayConfig::script(fixture(60))).expect("a relay");
    let url = relay.url();
    let lines_of = |line: &str, env: &[(&str, &str)]| {
        let line = line.replace("URL", &url);
        let bridge = Bridge::start_with(&words(&line), env);
        bridge.wait("all frames are handled", SOON, |b| b.metric("atkafka_last_seq_delivered") >= 60.0);
        let (code, log) = bridge_lines(bridge);
        assert_eq!(code, Some(0), "{line}");
        log
    };
    let want = lines_of(
        "firehose relay --relay-host URL --watched-collections app.bsky.feed.post --watched-collections app.bsky.graph.*",
        &[],
    );
    assert!(!want.is_empty());
    let both = ["\"collection\":\"app.bsky.feed.post\"", "\"collection\":\"app.bsky.graph."];
    assert!(both.iter().all(|c| want.iter().any(|l| l.contains(c))), "the fixture's start has both collections");
    for line in [
        "--relay-host=URL firehose --watched-collections app.bsky.feed.post,app.bsky.graph.* relay",
        "--watched-collections=app.bsky.feed.post --watched-collections=app.bsky.graph.* --relay-host URL firehose relay",
    ] {
        assert_eq!(lines_of(line, &[]), want, "{line}");
    }
    let env =
        [("ATKAFKA_RELAY_HOST", url.as_str()), ("ATKAFKA_WATCHED_COLLECTIONS", "app.bsky.feed.post, app.bsky.graph.*")];
    assert_eq!(lines_of("firehose relay", &env), want, "by the environment");
}

/// Stops the bridge, and gives what it wrote on standard output.
fn bridge_lines(mut bridge: Bridge) -> (Option<i32>, Vec<String>) {
    bridge.signal("TERM");
    let status = bridge.end(SOON);
    std::thread::sleep(Duration::from_millis(100));
    (status.code(), bridge.lines())
}

#[test]
fn booleans_as_docker_writes_them_and_dot_env_drive_a_real_run() {
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(7, "did:plc:a", TIME, Some("a.example"))]))
        .expect("a relay");
    let dir = folder("dotenv");
    for (value, env, args, osprey) in [
        ("true", &[][..], &[][..], true),
        ("1", &[], &[], true),
        ("TRUE", &[("ATKAFKA_OSPREY_COMPATIBLE", "false")], &[], false),
        ("false", &[], &[], false),
        ("no", &[], &["--osprey-compatible"], true),
        ("yes", &[], &["--osprey-compatible=false"], false),
    ] {
        let port = free_port();
        std::fs::write(
            dir.join(".env"),
            format!(
                "ATKAFKA_RELAY_HOST='{}'\nATKAFKA_OSPREY_COMPATIBLE={value}\nMETRICS_LISTEN_ADDRESS=127.0.0.1:{port}\n",
                relay.url()
            ),
        )
        .expect(".env");
        let mut child = Command::new(BINARY)
            .args(["firehose", "relay"])
            .args(args)
            .env_clear()
            .envs(env.iter().copied())
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let until = Instant::now() + SOON;
        let delivered =
            |body: &str| body.lines().any(|l| l.starts_with("atkafka_last_seq_delivered") && l.ends_with(" 7"));
        while !http_get(port, "/metrics").is_some_and(|(_, body)| delivered(&body)) {
            assert!(Instant::now() < until, "METRICS_LISTEN_ADDRESS in .env is where it listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(child.id(), "TERM");
        let mut out = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut out).expect("UTF-8");
        assert!(child.wait().expect("waited").success());
        let event: Value = sonic_rs::from_str(out.trim()).expect("one event");
        assert_eq!(
            event.get("send_time").is_some(),
            osprey,
            ".env {value}, environment {env:?}, flags {args:?}: {out}"
        );
    }
}

fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(done.is_ok_and(|s| s.success()), "kill -{name}");
}

// --- mistakes -----------------------------------------------------------------------------------

#[test]
fn wrong_and_contradicting_values_are_answered_with_one_line_that_says_what_is_allowed() {
    let dir = folder("mistakes");
    let empty = dir.join("empty");
    std::fs::write(&empty, "# nobody\n\n").expect("a file");
    let password = dir.join("password");
    std::fs::write(&password, "secret\n").expect("a file");
    let (empty, password) = (empty.to_string_lossy(), password.to_string_lossy());
    let long = "t".repeat(250);
    let relay = "firehose relay";
    let kafka = "firehose relay --bootstrap-servers b:9092 --output-topic t";
    let cases: Vec<(String, Vec<&str>)> = [
        // commands and flags
        ("", vec!["command", "firehose", "record"]),
        ("firehose", vec!["command", "firehose", "relay"]),
        ("firehose relays", vec!["\"relays\"", "relay"]),
        ("relay", vec!["\"relay\"", "did you mean firehose relay?", "record"]),
        ("frobnicate", vec!["\"frobnicate\"", "firehose", "record"]),
        ("firehose relay more", vec!["\"more\"", "no word is expected"]),
        ("firehose relay --relay-hots ws://a", vec!["--relay-hots", "--relay-host"]),
        ("firehose relay --nonsense", vec!["--nonsense", "no such flag"]),
        ("firehose relay -x", vec!["-x", "no such flag"]),
        ("firehose relay --frames 3", vec!["--frames", "firehose relay"]),
        ("record --output x --osprey-compatible", vec!["--osprey-compatible", "record"]),
        ("firehose relay --cursor", vec!["--cursor", "value"]),
        ("firehose relay --cursor 1 --cursor 2", vec!["--cursor", "more than once"]),
        ("firehose relay --osprey-compatible=maybe", vec!["--osprey-compatible", "\"maybe\"", "true or false"]),
        ("record", vec!["--output", "required"]),
        ("record --output x --frames 0", vec!["--frames", "\"0\"", "from 1"]),
        ("record --output x --frames many", vec!["--frames", "\"many\"", "number"]),
        ("record --output x --relay-host a", vec!["--relay-host", "\"a\"", "wss://"]),
    ]
    .map(|(line, parts)| (line.to_string(), parts))
    .into_iter()
    .chain(
        [
            // the relay
            ("--relay-host ftp://a", vec!["--relay-host", "\"ftp://a\"", "wss://"]),
            ("--relay-host bsky.network", vec!["--relay-host", "\"bsky.network\"", "wss://"]),
            ("--relay-host ws://", vec!["--relay-host", "\"ws://\"", "wss://"]),
            ("--relay-host ws://a:99999", vec!["--relay-host", "\"ws://a:99999\"", "65535"]),
            ("--relay-host ws://a:0", vec!["--relay-host", "\"ws://a:0\"", "65535"]),
            ("--relay-host=", vec!["--relay-host", "empty"]),
            ("--relay-host --cursor 5", vec!["--relay-host", "--cursor is a flag"]),
            ("--osprey-compatible true", vec!["--osprey-compatible=true"]),
            ("--topic t", vec!["--topic", "did you mean --output-topic?"]),
            ("--relay-host ws://a?cursor=1", vec!["--relay-host", "ws://a?cursor=1", "--cursor"]),
            ("--relay-host ws://a,ws://b,ws://a", vec!["--relay-host", "\"ws://a\"", "twice"]),
            ("--relay-host ws://a/ --relay-host http://a", vec!["--relay-host", "\"http://a\"", "twice"]),
            ("--cursor now", vec!["--cursor", "\"now\"", "live, oldest"]),
            ("--silence 500ms", vec!["--silence", "\"500ms\"", "off"]),
            ("--silence never", vec!["--silence", "\"never\"", "90s"]),
            ("--cursor -5", vec!["--cursor", "\"-5\"", "live, oldest"]),
            ("--cursor 1.5", vec!["--cursor", "\"1.5\"", "2^53"]),
            ("--cursor 9007199254740992", vec!["--cursor", "\"9007199254740992\"", "2^53"]),
            // what makes no sense without Kafka
            ("--output-topic t", vec!["--output-topic", "--bootstrap-servers"]),
            ("--dead-letter-topic t", vec!["--dead-letter-topic", "--bootstrap-servers"]),
            ("--compression lz4", vec!["--compression", "--bootstrap-servers"]),
            ("--kafka-client kafka", vec!["--kafka-client", "--bootstrap-servers"]),
            ("--kafka-config linger.ms=1", vec!["--kafka-config", "--bootstrap-servers"]),
            ("--tls", vec!["--tls", "--bootstrap-servers"]),
            ("--tls-ca-file ca.pem", vec!["--tls-ca-file", "--bootstrap-servers"]),
            ("--sasl-mechanism PLAIN", vec!["--sasl-mechanism", "--bootstrap-servers"]),
            ("--sasl-username u", vec!["--sasl-username", "--bootstrap-servers"]),
            ("--topic-partitions 3", vec!["--topic-partitions", "--bootstrap-servers"]),
            ("--topic-replication 3", vec!["--topic-replication", "--bootstrap-servers"]),
            ("--no-create-topic", vec!["--no-create-topic", "--bootstrap-servers"]),
            ("--record-headers", vec!["--record-headers", "--bootstrap-servers"]),
            // Kafka's address and topic
            ("--bootstrap-servers b:9092", vec!["--output-topic", "required"]),
            ("--bootstrap-servers b --output-topic t", vec!["--bootstrap-servers", "\"b\"", "host:port"]),
            ("--bootstrap-servers b: --output-topic t", vec!["--bootstrap-servers", "\"b:\"", "host:port"]),
            ("--bootstrap-servers :9092 --output-topic t", vec!["--bootstrap-servers", "\":9092\"", "host:port"]),
            ("--bootstrap-servers b:0 --output-topic t", vec!["--bootstrap-servers", "\"b:0\"", "host:port"]),
            ("--bootstrap-servers b:70000 --output-topic t", vec!["--bootstrap-servers", "\"b:70000\"", "host:port"]),
            ("--bootstrap-servers b:9092,c --output-topic t", vec!["--bootstrap-servers", "\"c\"", "host:port"]),
            ("--bootstrap-servers kafka://b --output-topic t", vec!["\"kafka://b\"", "host:port", "write b:9092"]),
            ("--bootstrap-servers b:9092 --output-topic a/b", vec!["--output-topic", "\"a/b\"", "249"]),
            ("--bootstrap-servers b:9092 --output-topic ..", vec!["--output-topic", "\"..\"", "249"]),
            ("--bootstrap-servers b:9092 --output-topic=", vec!["--output-topic", "empty"]),
            ("--bootstrap-servers b:9092 --output-topic LONG", vec!["--output-topic", "ttt", "249"]),
            // filters
            (
                "--watched-collections a.b.c --ignored-collections a.b.*",
                vec!["--watched-collections", "\"a.b.c\"", "everything is left out"],
            ),
            (
                "--watched-dids did:plc:a --ignored-dids did:plc:a",
                vec!["--watched-dids", "did:plc:a", "everything is left out"],
            ),
            ("--watched-collections app.bsky*", vec!["--watched-collections", "\"app.bsky*\"", "app.bsky.*"]),
            ("--watched-collections post", vec!["--watched-collections", "\"post\"", "app.bsky.*"]),
            ("--ignored-collections *", vec!["--ignored-collections", "\"*\"", "everything is left out"]),
            ("--watched-dids alice.example", vec!["--watched-dids", "\"alice.example\"", "a handle", "did:plc:"]),
            ("--ignored-dids alice", vec!["--ignored-dids", "\"alice\"", "not a DID"]),
            ("--ignored-dids @/nowhere", vec!["--ignored-dids", "@/nowhere", "read"]),
            ("--watched-dids @EMPTY", vec!["--watched-dids", "EMPTY", "no DID"]),
            // numbers and names
            ("--workers 0", vec!["--workers", "\"0\"", "1 to 256"]),
            ("--workers 257", vec!["--workers", "\"257\"", "1 to 256"]),
            ("--workers two", vec!["--workers", "\"two\"", "1 to 256"]),
            ("--memory-limit 1MiB", vec!["--memory-limit", "\"1MiB\"", "16MiB"]),
            ("--memory-limit 64QB", vec!["--memory-limit", "\"64QB\"", "GiB"]),
            ("--memory-limit 99999999999999999999GiB", vec!["--memory-limit", "GiB"]),
            ("--snowflake-worker-id 32", vec!["--snowflake-worker-id", "\"32\"", "0 to 31"]),
            ("--snowflake-data-center-id -1", vec!["--snowflake-data-center-id", "\"-1\"", "0 to 31"]),
            ("--metrics-listen-address 6009", vec!["--metrics-listen-address", "\"6009\"", "ip:port", "none"]),
            (
                "--metrics-listen-address 1.2.3.4:99999",
                vec!["--metrics-listen-address", "\"1.2.3.4:99999\"", "ip:port"],
            ),
            ("--log-level loud", vec!["--log-level", "\"loud\"", "error, warn, info, debug"]),
            ("--log-format xml", vec!["--log-format", "\"xml\"", "text, json"]),
        ]
        .map(|(rest, parts)| (format!("{relay} {rest}"), parts)),
    )
    .chain(
        [
            // with a broker
            ("--output-topic u", vec!["--output-topic", "more than once"]),
            ("--dead-letter-topic a,b", vec!["--dead-letter-topic", "\"a,b\"", "249"]),
            ("--dead-letter-topic t", vec!["--dead-letter-topic", "\"t\"", "--output-topic"]),
            ("--kafka-client franz", vec!["--kafka-client", "\"franz\"", "librdkafka, kafka"]),
            ("--compression brotli", vec!["--compression", "\"brotli\"", "none, gzip, snappy, lz4, zstd"]),
            ("--topic-partitions 0", vec!["--topic-partitions", "\"0\"", "1 to 100000"]),
            ("--topic-partitions many", vec!["--topic-partitions", "\"many\"", "1 to 100000"]),
            ("--topic-replication 0", vec!["--topic-replication", "\"0\"", "1 to 1000"]),
            ("--sasl-mechanism GSSAPI", vec!["--sasl-mechanism", "\"GSSAPI\"", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"]),
            ("--sasl-mechanism PLAIN", vec!["--sasl-mechanism", "--sasl-username", "--sasl-password"]),
            ("--sasl-username u --sasl-password p", vec!["--sasl-mechanism", "--sasl-username"]),
            (
                "--sasl-mechanism PLAIN --sasl-username u --sasl-password p --sasl-password-file PASSWORD",
                vec!["--sasl-password", "--sasl-password-file", "one of them"],
            ),
            (
                "--sasl-mechanism PLAIN --sasl-username u --sasl-password-file /nowhere",
                vec!["--sasl-password-file", "\"/nowhere\"", "read"],
            ),
            ("--tls-ca-file PASSWORD", vec!["--tls-ca-file", "--tls"]),
            ("--tls --tls-ca-file /nowhere", vec!["--tls-ca-file", "/nowhere", "read"]),
            ("--tls --tls-cert-file PASSWORD", vec!["--tls-cert-file", "--tls-key-file"]),
            ("--kafka-config linger", vec!["--kafka-config", "key=value"]),
            ("--kafka-config =5", vec!["--kafka-config", "key=value"]),
            ("--kafka-config no.such.property=5", vec!["--kafka-config", "no.such.property"]),
            ("--kafka-config linger.ms=soon", vec!["--kafka-config", "linger.ms", "nvalid value"]),
            ("--kafka-config transactional.id=x", vec!["--kafka-config", "transactional.id"]),
            // what the pure-Rust client cannot do
            ("--kafka-client kafka --compression lz4", vec!["--compression lz4", "--kafka-client kafka", "librdkafka"]),
            (
                "--kafka-client kafka --compression zstd",
                vec!["--compression zstd", "--kafka-client kafka", "librdkafka"],
            ),
            ("--kafka-client kafka --tls", vec!["--tls", "--kafka-client kafka", "librdkafka"]),
            (
                "--kafka-client kafka --sasl-mechanism PLAIN --sasl-username u --sasl-password p",
                vec!["--sasl-mechanism", "--kafka-client kafka", "librdkafka"],
            ),
            (
                "--kafka-client kafka --kafka-config linger.ms=1",
                vec!["--kafka-config", "--kafka-client kafka", "librdkafka"],
            ),
            ("--kafka-client kafka --record-headers", vec!["--record-headers", "--kafka-client kafka", "librdkafka"]),
            (
                "--kafka-client kafka --topic-partitions 3",
                vec!["--topic-partitions", "--kafka-client kafka", "librdkafka"],
            ),
            (
                "--kafka-client kafka --topic-replication 3",
                vec!["--topic-replication", "--kafka-client kafka", "librdkafka"],
            ),
        ]
        .map(|(rest, parts)| (format!("{kafka} {rest}"), parts)),
    )
    .collect();

    let mut wrong = Vec::new();
    for (line, parts) in &cases {
        let line = line.replace("LONG", &long).replace("EMPTY", &empty).replace("PASSWORD", &password);
        // A case that is accepted starts a bridge: it must not run on.
        let (code, out, err) = run_for(&words(&line), Duration::from_secs(5));
        let parts: Vec<String> = parts.iter().map(|p| p.replace("EMPTY", &empty)).collect();
        let one_line = err.ends_with('\n') && err.lines().count() == 1;
        if code != Some(2) || !out.is_empty() || !one_line || !parts.iter().all(|p| err.contains(p.as_str())) {
            wrong.push(format!("{line}\n    exit {code:?}, wanted 2 and {parts:?}: {err:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Runs the binary until it ends, or kills it after `patience` (then there is no code).
fn run_for(args: &[&str], patience: Duration) -> (Option<i32>, String, String) {
    let mut child = Command::new(BINARY)
        .args(args)
        .env_clear()
        .env("METRICS_LISTEN_ADDRESS", "none")
        .env("ATKAFKA_RELAY_HOST", "ws://127.0.0.1:1")
        .current_dir(folder("cwd"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let until = Instant::now() + patience;
    while child.try_wait().expect("waited").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let out = child.wait_with_output().expect("output");
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn a_broken_dot_env_and_values_with_line_ends_are_still_one_line() {
    let dir = folder("dotenv");
    std::fs::write(dir.join(".env"), "ATKAFKA_CURSOR=5\nthis is no assignment\n").expect(".env");
    let out = run_in(&dir, &["firehose", "relay"], &[]);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    let line = refusal(".env", &(out.status.code(), String::new(), err));
    assert!(line.contains(".env line 2") && !line.contains("assignment"), "{line}");
    let line = refusal("a value", &run(&["firehose", "relay", "--cursor", "a\nb"], &[]));
    assert!(line.contains(r#""a\nb""#), "{line}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let dir = folder("pipes");
    let pipe = dir.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()));
    let pipe = pipe.to_string_lossy();
    let to_kafka = "firehose relay --bootstrap-servers b:1 --output-topic t --tls";
    for (line, says) in [
        ("firehose relay --watched-dids @/dev/zero".to_string(), "not a regular file"),
        (format!("firehose relay --ignored-dids @{pipe}"), "not a regular file"),
        (format!("firehose relay --ca-file {pipe}"), "not a regular file"),
        (format!("{to_kafka} --tls-ca-file {pipe}"), "not a regular file"),
        // Who has it open for writing would be waited for.
        (format!("firehose tap --tap-password-file {pipe}"), "empty"),
    ] {
        let said = refusal(&line, &run_for(&words(&line), SOON));
        assert!(said.contains(says), "{line}: {said}");
    }
    std::fs::rename(&*pipe, dir.join(".env")).expect("renamed");
    // Else a start that waits for the pipe would hold the test up.
    let out = Command::new("timeout")
        .args(["20", BINARY, "firehose", "relay"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir(&dir)
        .output()
        .expect("it runs");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(2) && err.contains(".env") && err.contains("not a regular file"), "{err}");
}

#[test]
fn only_the_dot_env_of_this_folder_counts_and_a_dollar_is_literal() {
    let parent = folder("dotenv-parent");
    let dir = parent.join("below");
    std::fs::create_dir_all(&dir).expect("a folder");
    let said = || String::from_utf8_lossy(&run_in(&dir, &["firehose", "relay"], &[]).stderr).into_owned();
    // `parent` is refused as a cursor, and so is what stands in the file of this folder: which of them is seen.
    std::fs::write(parent.join(".env"), "ATKAFKA_CURSOR=parent\n").expect("written");
    std::fs::write(dir.join(".env"), "\u{feff}ATKAFKA_CURSOR=pa$word\r\n").expect("written");
    assert!(said().contains("\"pa$word\""), "{}", said());
    std::fs::write(dir.join(".env"), "ATKAFKA_WORKERS=x\n").expect("written");
    assert!(said().contains("--workers") && !said().contains("parent"), "{}", said());
    std::fs::remove_file(dir.join(".env")).expect("removed");
    let out = run_in(&dir, &["firehose", "relay", "--workers", "y"], &[]);
    assert!(!String::from_utf8_lossy(&out.stderr).contains("parent"), "the file of the parent folder is read");
}

#[test]
fn a_refused_setting_never_quotes_a_secret() {
    let dir = folder("secrets");
    std::fs::write(dir.join(".env"), "").expect("written");
    let to_kafka = "firehose relay --bootstrap-servers b:1 --output-topic t";
    for line in [
        "firehose relay --relay-host wss://user:MARKER@a".to_string(),
        "firehose relay --relay-host wss://user:MAR,KER@a".to_string(),
        "firehose tap --tap-host ws://user:MARKER@a".to_string(),
        "firehose relay --plc-host https://user:MARKER@a".to_string(),
        "ozone-events --pds-host https://user:MARKER@a".to_string(),
        "firehose relay --bootstrap-servers user:MARKER@a:x --output-topic t".to_string(),
        format!("{to_kafka} --kafka-config sasl.pasword=MARKER"),
        format!("{to_kafka} --kafka-config sasl.mechanism=PLAIN,security.protocol=MARKER"),
        format!("{to_kafka} --kafka-config MARKER"),
        "firehose tap --tap-password-file /dev/zero".to_string(),
    ] {
        let out = run_in(&dir, &words(&line), &[]);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        let said = refusal(&line, &(out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned(), err));
        assert!(!said.contains("MARKER") && !said.contains("MAR\"") && !said.contains("KER"), "{line}: {said}");
    }
}

// --- logs ---------------------------------------------------------------------------------------

/// A relay with one event, and a notice whose text is made to break logs.
fn noisy_relay() -> Relay {
    let evil = "two\nlines \"quoted\" \\ \u{1b}[2J and a \u{0} \u{2028}";
    let list = vec![frames::info_frame("Announcement", Some(evil)), identity_frame(7, "did:plc:a", TIME, None)];
    Relay::start(RelayConfig::script(list)).expect("a relay")
}

/// The log of one run against that relay.
fn log_of(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let relay = noisy_relay();
    let url = relay.url();
    let args: Vec<&str> = ["firehose", "relay", "--relay-host", &url].iter().chain(args).copied().collect();
    let bridge = Bridge::start_with(&args, env);
    bridge.wait_delivered(7, SOON);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:?}");
    log
}

#[test]
fn json_logs_have_time_level_and_message_in_every_line() {
    let log = log_of(&["--log-format", "json"], &[]);
    assert!(log.len() >= 4, "{log:?}");
    let mut levels = Vec::new();
    for line in &log {
        let entry: Value = sonic_rs::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        let time = entry.get("time").and_then(|t| t.as_str().map(str::to_string)).expect("time");
        assert!(time.len() == 24 && time.ends_with('Z') && time.starts_with("20"), "{line}");
        levels.push(entry.get("level").and_then(|l| l.as_str().map(str::to_string)).expect("level"));
        assert!(entry.get("message").as_str().is_some_and(|m| !m.is_empty()), "{line}");
    }
    assert!(levels.iter().all(|l| ["error", "warn", "info", "debug"].contains(&l.as_str())), "{levels:?}");
    let evil = log.iter().find(|l| l.contains("Announcement")).expect("the notice is logged");
    let entry: Value = sonic_rs::from_str(evil).expect("JSON");
    assert!(
        entry.get("message").as_str().is_some_and(|m| m.contains("two\\nlines \"quoted\" \\ \\u{1b}[2J")),
        "{evil}"
    );
    assert_eq!(entry.get("event").as_str(), Some("info_frame"), "{evil}");
    assert_eq!(entry.get("reason").as_str(), Some("Announcement"), "{evil}");
}

#[test]
fn text_logs_stay_one_line_an_entry_and_levels_hold() {
    // time, level, message
    let level_of = |line: &String| words(line).get(1).map(|w| w.to_string()).unwrap_or_default();
    let levels = |log: &[String]| {
        let mut levels: Vec<String> = log.iter().map(level_of).collect();
        levels.sort();
        levels.dedup();
        levels
    };
    let log = log_of(&[], &[]);
    assert_eq!(levels(&log), ["INFO", "WARN"], "info is the default: {log:?}");
    let evil = log.iter().find(|l| l.contains("Announcement")).expect("the notice is logged");
    assert!(evil.contains("two\\nlines") && !evil.chars().any(char::is_control), "{evil:?}");
    assert_eq!(levels(&log_of(&["--log-level", "warn"], &[])), ["WARN"]);
    assert_eq!(levels(&log_of(&[], &[("ATKAFKA_LOG_LEVEL", "warn")])), ["WARN"]);
    assert_eq!(log_of(&["--log-level", "error"], &[]), Vec::<String>::new(), "nothing failed");
}

#[test]
fn debug_by_flag_and_by_variable_shows_more() {
    let Some(broker) = broker(KAFKA) else { return };
    for (args, env, more) in [
        (&["--debug"][..], &[][..], true),
        (&[], &[("DEBUG", "true")], true),
        (&[], &[("DEBUG", "1")], true),
        (&["--log-level", "debug"], &[], true),
        (&[], &[("DEBUG", "false")], false),
    ] {
        let (topic, state) = (unique("debug"), folder("state"));
        let state = state.to_string_lossy();
        let mut all = vec!["--bootstrap-servers", &broker, "--output-topic", &topic, "--state-dir", &state];
        all.extend(["--kafka-config", "debug=broker"]);
        all.extend(args);
        let log = log_of(&all, env);
        assert_eq!(log.iter().any(|l| l.contains(" DEBUG ")), more, "{args:?} {env:?}: {log:?}");
    }
}

#[test]
fn passwords_never_get_into_the_log() {
    const PASSWORD: &str = "pa55word-0f-n0b0dy";
    let file = folder("secret").join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("a file");
    let file = file.to_string_lossy().into_owned();
    // A broker with SASL says no; without one, nobody answers. Either way there is much to log.
    let broker = std::env::var("ATKAFKA_TEST_KAFKA_SASL").unwrap_or_else(|_| format!("127.0.0.1:{}", free_port()));
    let relay = noisy_relay();
    let (url, state) = (relay.url(), folder("state"));
    let state = state.to_string_lossy();
    let flag = ["--sasl-password", PASSWORD];
    for (args, env) in [
        (&flag[..], &[][..]),
        (&[][..], &[("ATKAFKA_SASL_PASSWORD", PASSWORD)]),
        (&["--sasl-password-file", &file], &[]),
    ] {
        let mut all = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &broker];
        all.extend(["--output-topic", "t", "--state-dir", &state, "--debug", "--kafka-config", "debug=all"]);
        all.extend(["--sasl-mechanism", "PLAIN", "--sasl-username", "somebody"]);
        all.extend(args);
        let mut bridge = Bridge::start_with(&all, env);
        bridge.wait("it says what is wrong, at length", SOON, |b| {
            b.log().iter().any(|l| l.contains(" WARN ") && l.contains("output: "))
                && b.log_contains(" DEBUG librdkafka")
        });
        std::thread::sleep(Duration::from_millis(500));
        let pages: Vec<String> = ["/metrics", "/readyz"].iter().filter_map(|p| Some(bridge.get(p)?.1)).collect();
        bridge.signal("KILL");
        bridge.end(SOON);
        let log = bridge.log().join("\n");
        assert!(!log.contains(PASSWORD) && !pages.join("\n").contains(PASSWORD), "{args:?} {env:?}: {log}");
    }
    // Nor into what a mistake is answered with.
    let base = "firehose relay --bootstrap-servers b:9092 --output-topic t --sasl-password";
    for rest in
        ["", "--sasl-password-file /nowhere", "--sasl-mechanism GSSAPI", "--kafka-config nonsense=1", "--workers x"]
    {
        let line = format!("{base} {PASSWORD} {rest}");
        let err = refusal(&line, &run(&words(&line), &[]));
        assert!(!err.contains(PASSWORD), "{err}");
    }
    let line = format!("{base} {PASSWORD} --sasl-password {PASSWORD}");
    assert!(!refusal(&line, &run(&words(&line), &[])).contains(PASSWORD));
}

// --- record -------------------------------------------------------------------------------------

#[test]
fn record_writes_the_frames_byte_for_byte() {
    let list = fixture(300);
    let relay = Relay::start(RelayConfig::script(list.clone())).expect("a relay");
    let dir = folder("record");
    for (name, count) in [("all.bin", 300), ("all.bin.zst", 300), ("some.bin", 77)] {
        let count_text = count.to_string();
        let url = relay.url();
        let out = run_in(&dir, &["record", "--relay-host", &url, "--output", name, "--frames", &count_text], &[]);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(0), 0), "{err}");
        assert!(err.contains(&format!("{count} frames")) && err.contains(name), "{err}");
        let got = frames::read(dir.join(name)).expect("a file of frames");
        assert!(got == list[..count], "{name}: {} frames", got.len());
    }
    assert!(
        std::fs::metadata(dir.join("all.bin.zst")).expect("there").len() * 5
            < std::fs::metadata(dir.join("all.bin")).expect("there").len() * 4
    );
}

#[test]
fn record_replaces_no_file_and_goes_on_in_one() {
    let list = fixture(300);
    let relay = Relay::start(RelayConfig::script(list.clone())).expect("a relay");
    let (url, dir) = (relay.url(), folder("record"));
    let record = |name: &str, more: &[&str]| {
        let args = ["record", "--relay-host", &url, "--cursor", "oldest", "--output", name, "--frames"];
        let out = run_in(&dir, &[&args[..], more].concat(), &[]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for name in ["some.bin", "some.bin.zst"] {
        assert_eq!(record(name, &["100"]).0, Some(0));
        let (code, err) = record(name, &["100"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("--append") && err.contains("--force"), "{err}");
        let read = || frames::read(dir.join(name)).expect("a file of frames");
        assert!(read() == list[..100], "it was not touched");
        if name == "some.bin" {
            // As a recorder leaves it that was killed.
            let path = dir.join(name);
            let length = std::fs::metadata(&path).expect("there").len();
            std::fs::File::options().write(true).open(&path).expect("there").set_len(length - 5).expect("cut");
            assert_eq!(record(name, &["1", "--append"]).0, Some(0));
        }
        assert_eq!(record(name, &["50", "--append"]).0, Some(0));
        assert!(read() == list[..150], "{name}: {} frames", read().len());
        assert_eq!(record(name, &["7", "--force"]).0, Some(0));
        assert!(read() == list[..7]);
    }
    let (code, err) = record("some.bin", &["7", "--force", "--append"]);
    assert_eq!(code, Some(2), "{err}");
    std::fs::write(dir.join("text.bin"), "this is no recording").expect("written");
    assert_eq!(record("text.bin", &["7", "--append"]).0, Some(1));
    assert_eq!(std::fs::read(dir.join("text.bin")).expect("there"), b"this is no recording");
    assert_eq!(record("new.bin", &["7", "--append"]).0, Some(0), "there is nothing to go on behind");
    // What is there decides about the packing, not its name.
    for (made, called) in [("a.bin.zst", "packed.bin"), ("a.bin", "plain.zst")] {
        assert_eq!(record(made, &["100"]).0, Some(0));
        std::fs::rename(dir.join(made), dir.join(called)).expect("renamed");
        assert_eq!(record(called, &["50", "--append"]).0, Some(0));
        std::fs::rename(dir.join(called), dir.join(made)).expect("renamed");
        assert!(frames::read(dir.join(made)).is_ok_and(|read| read == list[..150]), "{called}");
    }
    assert!(Command::new("mkfifo").arg(dir.join("pipe")).status().is_ok_and(|s| s.success()));
    let (code, err) = record("pipe", &["7", "--append"]);
    assert!(code == Some(1) && err.contains("not a regular file"), "{err}");
}

#[test]
fn a_stop_ends_record_while_it_looks_for_the_end_of_a_file() {
    let dir = folder("record");
    let file = dir.join("bomb.bin.zst");
    std::fs::write(&file, frames_without_end()).expect("written");
    let before = std::fs::read(&file).expect("there");
    let mut child = Command::new(BINARY)
        .args(["record", "--append", "--relay-host", "ws://127.0.0.1:1", "--output"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(child.try_wait().expect("waited"), None, "it reads");
    signal(child.id(), "TERM");
    let asked = Instant::now();
    assert_eq!(child.wait().expect("waited").code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(std::fs::read(&file).expect("there") == before, "nothing is written behind what is not known");
}

#[test]
fn record_keeps_what_it_has_on_sigterm() {
    let list = fixture(200);
    let relay = Relay::start(RelayConfig::script(list.clone())).expect("a relay");
    let dir = folder("record");
    for (name, how) in [("cut.bin", "TERM"), ("cut.bin.zst", "INT")] {
        let before = relay.frames_sent();
        let mut child = Command::new(BINARY)
            .args(["record", "--relay-host", &relay.url(), "--output", name, "--frames", "1000000"])
            .env_clear()
            .current_dir(&dir)
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        assert!(relay.wait_until(SOON, |s| s.frames_sent >= before + 200), "all frames are sent");
        // What is sent still has to be read.
        std::thread::sleep(Duration::from_secs(1));
        signal(child.id(), how);
        assert_eq!(child.wait().expect("waited").code(), Some(0), "{name}");
        let got = frames::read(dir.join(name)).expect("a file of whole frames");
        assert!(got == list, "{name}: {} of 200 frames", got.len());
    }
}

#[test]
fn record_that_cannot_write_fails_and_says_so() {
    let (code, _, err) = run(&["record", "--relay-host", "ws://127.0.0.1:1", "--output", "/nowhere/at/all.bin"], &[]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("--output") && err.contains("/nowhere/at/all.bin"), "{err}");
}

// --- signals ------------------------------------------------------------------------------------

#[test]
fn a_second_signal_ends_at_once_with_130_unless_it_is_the_same_one() {
    // It takes connections and never answers: what is in flight cannot be delivered.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let broker = format!("127.0.0.1:{}", deaf.local_addr().expect("bound").port());
    let relay = Relay::start(RelayConfig::script(fixture(50))).expect("a relay");
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let state = folder("state");
        let mut bridge = Bridge::start(&[
            "firehose",
            "relay",
            "--relay-host",
            &relay.url(),
            "--bootstrap-servers",
            &broker,
            "--output-topic",
            "t",
            "--state-dir",
            &state.to_string_lossy(),
        ]);
        bridge.wait("frames are in flight", SOON, |b| b.metric("atkafka_last_seq_received") >= 1.0);
        // GNU `timeout` sends two at once: they are one.
        let both = format!("kill -{first} {0}; kill -{second} {0}", bridge.pid());
        assert!(Command::new("sh").args(["-c", &both]).status().is_ok_and(|status| status.success()));
        bridge.wait("it stops", SOON, |b| b.log_contains("stopping"));
        std::thread::sleep(Duration::from_secs(1));
        assert!(Path::new(&format!("/proc/{}/fd/0", bridge.pid())).exists(), "a second one so soon is the same");
        bridge.signal(second);
        assert_eq!(bridge.end(SOON).code(), Some(130), "{first}, {second}: {:?}", bridge.log());
        let log = bridge.log().join("\n");
        assert!(!log.contains("not everything in flight"), "at once, not at the end of the drain: {log}");
    }
}

#[test]
fn a_stop_that_cannot_deliver_says_so_and_moves_no_cursor() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let broker = format!("127.0.0.1:{}", deaf.local_addr().expect("bound").port());
    let relay = Relay::start(RelayConfig::script(fixture(50))).expect("a relay");
    let state = folder("state");
    let mut bridge = Bridge::start(&[
        "firehose",
        "relay",
        "--relay-host",
        &relay.url(),
        "--bootstrap-servers",
        &broker,
        "--output-topic",
        "t",
        "--state-dir",
        &state.to_string_lossy(),
        "--cursor",
        "oldest",
    ]);
    bridge.wait("frames are in flight", SOON, |b| b.metric("atkafka_last_seq_received") >= 1.0);
    bridge.signal("TERM");
    bridge.end(Duration::from_secs(20));
    let log = bridge.log().join("\n");
    assert!(log.contains("read again after the restart"), "{log}");
    let saved: Vec<String> = std::fs::read_dir(&state)
        .expect("the state directory")
        .filter_map(|e| std::fs::read_to_string(e.ok()?.path()).ok())
        .collect();
    for text in saved.iter().filter(|t| t.contains("seq")) {
        let seq = sonic_rs::from_str::<Value>(text).ok().and_then(|v| v.get("seq").as_u64());
        assert!(seq.unwrap_or(0) == 0, "nothing was delivered, and yet: {text}");
    }
}

#[test]
fn settings_that_are_most_likely_not_meant_are_warned_about() {
    let dir = folder("warnings");
    let password = dir.join("password");
    std::fs::write(&password, "secret").expect("written");
    let mode =
        |bits| std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(bits)).expect("set");
    mode(0o644);
    let file = password.to_string_lossy().into_owned();
    let kafka =
        ["--bootstrap-servers", "127.0.0.1:1", "--output-topic", "t", "--state-dir", &file.replace("password", "s")];
    let sasl = [&kafka[..], &["--sasl-mechanism", "plain", "--sasl-username", "u"]].concat();
    let in_file = [&sasl[..], &["--sasl-password-file", &file]].concat();
    let in_flag = [&sasl[..], &["--sasl-password", "MARKER"]].concat();
    let with_tls = [&in_file[..], &["--tls"]].concat();
    let others = "every user of this machine may read it";
    for (args, env, says, says_not) in [
        (&in_file[..], &[][..], vec!["PLAIN without --tls", others], vec!["list of processes"]),
        (&in_flag, &[], vec!["list of processes", "ATKAFKA_SASL_PASSWORD"], vec![others, "MARKER"]),
        (&with_tls, &[], vec![others], vec!["PLAIN"]),
        (&kafka, &[("DEBUG", "*")], vec!["DEBUG=\"*\" is neither true nor false"], vec!["DEBUG librdkafka"]),
        (&["--memory-limit", "100000GiB"], &[], vec!["--memory-limit is", "this machine has"], vec![]),
        (&["--watched-dids", "did:plc:abc"], &[], vec!["\"did:plc:abc\"", "24 characters"], vec![]),
        (
            &[],
            &[("ATKAFKA_MATCHED_COLLECTIONS", "app.bsky.feed.post"), ("ATKAFKA_MATCHED_SERVICES", "")],
            vec!["ATKAFKA_MATCHED_COLLECTIONS is the old name of ATKAFKA_WATCHED_COLLECTIONS"],
            vec!["no flag has", "SERVICES"],
        ),
    ] {
        let all = [&["firehose", "relay", "--relay-host", "ws://127.0.0.1:1"], args].concat();
        let mut bridge = Bridge::start_with(&all, env);
        bridge.wait("it runs", SOON, |b| b.log_contains("in flight at most"));
        let warned: Vec<String> = bridge.log().into_iter().filter(|l| l.contains(" WARN ")).collect();
        bridge.signal("KILL");
        bridge.end(SOON);
        assert!(says.iter().all(|s| warned.iter().any(|l| l.contains(s))), "{args:?} {env:?}: {warned:?}");
        let log = bridge.log().join("\n");
        assert!(says_not.iter().all(|s| !log.contains(s)), "{args:?} {env:?}: {log}");
    }
    mode(0o600);
    let all = [&["firehose", "relay", "--relay-host", "ws://127.0.0.1:1"], &with_tls[..]].concat();
    let mut bridge = Bridge::start(&all);
    bridge.wait("it runs", SOON, |b| b.log_contains("in flight at most"));
    bridge.signal("KILL");
    bridge.end(SOON);
    assert!(!bridge.log_contains(others), "{:?}", bridge.log());
}

#[test]
fn a_name_that_was_meant_as_a_beginning_is_warned_about() {
    let relay = Relay::start(RelayConfig::looped(fixture(1_000), 15_000)).expect("a relay");
    let url = relay.url();
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &url, "--watched-collections", "app.bsky.feed"]);
    bridge.wait("the warning", SOON, |b| b.log_contains("no record of app.bsky.feed among the first 10,000"));
    assert!(bridge.log_contains("app.bsky.feed.* takes all below it"));
    bridge.stop();
}

#[test]
fn a_variable_of_no_flag_is_named_in_the_log() {
    let env =
        [("ATKAFKA_RELAY_HOS", "wss://a.example"), ("ATKAFKA_COMMAND", "x"), ("ATKAFKA_OZONE_PASSWORD", "of another")];
    let mut bridge = Bridge::start_with(&["firehose", "relay", "--relay-host", "ws://127.0.0.1:1"], &env);
    bridge.wait("the warning", SOON, |b| b.log_contains("ATKAFKA_RELAY_HOS: no flag has this variable"));
    assert!(!bridge.log_contains("ATKAFKA_COMMAND") && !bridge.log_contains("ATKAFKA_OZONE_PASSWORD"));
    bridge.wait("the host once", SOON, |b| b.log().iter().any(|l| l.contains("127.0.0.1:1: Connection refused")));
    assert!(!bridge.log_contains("127.0.0.1:1: 127.0.0.1:1"), "{:?}", bridge.log());
    bridge.signal("TERM");
    assert_eq!(bridge.end(SOON).code(), Some(0));
}

#[test]
fn a_cursor_that_is_not_used_is_said() {
    let state = folder("state");
    std::fs::create_dir_all(&state).expect("a folder");
    let frames = frames::read(FIXTURE).expect("the fixture").into_iter().take(20).collect::<Vec<_>>();
    let last = frames.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs");
    let relay = Relay::start(RelayConfig::script(frames)).expect("a relay");
    let (url, state) = (relay.url(), state.to_string_lossy().into_owned());
    let args = ["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--state-dir", &state];
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(last, SOON);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|l| l.contains("--cursor is not used")), "the first start uses it: {log:?}");
    let bridge = Bridge::start(&args);
    bridge.wait("the warning", SOON, |b| b.log_contains("--cursor is not used"));
    bridge.stop();
}

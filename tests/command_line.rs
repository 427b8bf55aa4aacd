//! The command line as users meet it: where flags may stand, which source of a value wins, what a mistake is answered
//! with, what the log holds and what it never holds, recording, and the two signals.

#[path = "command_line/cursor.rs"]
mod cursor;
#[path = "command_line/logs.rs"]
mod logs;
#[path = "command_line/mistakes.rs"]
mod mistakes;
#[path = "command_line/record.rs"]
mod record;
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
        let prints = command.starts_with("completions") || command.starts_with("schema") || command == "man";
        let (usage, least) = match command {
            _ if prints => ("\n", 1),
            // Its flags are those of the command behind it, but for one.
            "check" => (" <command> [flags]", 2),
            _ => (" [flags]", 3),
        };
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
            ("--memory-limit", "128MiB"),
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

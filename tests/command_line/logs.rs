//! The log: its two forms, its levels, and no password in it.

use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::identity_frame;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::{JsonValueTrait, Value};

use crate::support::*;
use crate::{SOON, TIME, refusal, words};

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

//! Wrong and contradicting values: one line that says what is allowed, and quotes no secret.

use std::process::Command;
use std::time::Duration;

use crate::support::*;
use crate::{BINARY, SOON, refusal, run_in, words};

/// For what a mistake that is not seen would start.
const NOWHERE: [(&str, &str); 2] = [("METRICS_LISTEN_ADDRESS", "none"), ("ATKAFKA_RELAY_HOST", "ws://127.0.0.1:1")];

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
        let (code, out, err) = run_for(&words(&line), &NOWHERE, Duration::from_secs(5));
        let parts: Vec<String> = parts.iter().map(|p| p.replace("EMPTY", &empty)).collect();
        let one_line = err.ends_with('\n') && err.lines().count() == 1;
        if code != Some(2) || !out.is_empty() || !one_line || !parts.iter().all(|p| err.contains(p.as_str())) {
            wrong.push(format!("{line}\n    exit {code:?}, wanted 2 and {parts:?}: {err:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
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
        let said = refusal(&line, &run_for(&words(&line), &NOWHERE, SOON));
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

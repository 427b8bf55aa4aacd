//! What operators see: every metric with its labels and values after a run that is known, health and readiness with
//! their reasons, the bounds of labels, and the line in the log.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atkafka::atproto::time::format_ms;
use atkafka::clock::now_ms;
use atkafka_fixtures::network::builder::{
    A_TIME, Commit, Op, account_frame, commit_block, identity_frame, record, sync_frame,
};
use atkafka_fixtures::relay::{DropHow, Inject, Relay, RelayConfig};
use atkafka_fixtures::{car, cbor, frames};
use ipld_core::ipld;

use crate::support::*;
use crate::{DID, SOON};

fn commit() -> Commit {
    Commit::new(DID, "3kaaaaaaaaaa2")
}

fn post(text: &str) -> Vec<u8> {
    record(&ipld!({ "$type": "app.bsky.feed.post", "text": text }))
}

/// A record with a float, which the data model does not have.
fn float() -> Vec<u8> {
    record(&ipld!({ "$type": "app.bsky.feed.post", "n": 1.5 }))
}

#[test]
fn metrics_say_what_a_known_run_did() {
    let Some(broker) = broker(KAFKA) else { return };
    // 100 s ago: the lag.
    let ago = format_ms(now_ms() - 100_000);
    let block = commit_block(DID, "3kaaaaaaaaaa3", &car::cid_of(b""), None);
    let mut unknown = frames::header("#handle");
    unknown.extend(cbor::Writer::new().map(1).text("seq").uint(10).0.iter());
    let broken = commit().op(Op::create("app.bsky.feed.post/gone", &post("gone")).without_block());
    let list = vec![
        commit()
            .ops([Op::create("app.bsky.feed.post/1", &post("1")), Op::create("app.bsky.feed.like/1", &post("like"))])
            .frame(1),
        commit()
            .ops([
                Op::create("app.bsky.feed.post/2", &post("2")),
                Op::update("app.bsky.feed.post/1", &post("11"), None),
            ])
            .frame(2),
        commit()
            .ops([Op::delete("app.bsky.feed.post/1", None), Op::create("com.example.thing/1", &post("no"))])
            .frame(3),
        identity_frame(4, DID, A_TIME, Some("a.example")),
        account_frame(5, DID, A_TIME, false, Some("suspended")),
        sync_frame(6, DID, "3kaaaaaaaaaa3", A_TIME, &block),
        frames::info_frame("OutdatedCursor", Some("too old")),
        commit()
            .ops([Op::create("app.bsky.feed.post/f", &float()), Op::create("app.bsky.feed.like/2", &post("l"))])
            .frame(7),
        commit().op(Op::create("no-slash", &post("x"))).frame(8),
        broken.frame(9),
        broken.frame(9),
        unknown,
        frames::error_frame("OddError", Some("go on")),
        identity_frame(11, DID, &ago, None),
    ];
    let messages = list.len() as f64 + 1.0;
    let mut config = RelayConfig::script(list);
    config.faults.inject.push(Inject::text(8, "words"));
    let relay = Relay::start(config).expect("a relay");
    let host = relay.url().replace("ws://", "");
    let (topic, state) = (unique("metrics"), folder("state"));
    let bridge = Bridge::start(&[
        "firehose",
        "relay",
        "--relay-host",
        &relay.url(),
        "--bootstrap-servers",
        &broker,
        "--output-topic",
        &topic,
        "--state-dir",
        &state.to_string_lossy(),
        "--cursor",
        "oldest",
        "--ignored-collections",
        "com.example.*",
        "--memory-limit",
        "64MiB",
    ]);
    bridge.wait_delivered(11, SOON);
    bridge.wait("nothing is in flight", SOON, |b| {
        b.metric("atkafka_frames_in_flight") == 0.0 && b.metric("atkafka_checkpoint_saves{status=\"ok\"}") >= 1.0
    });
    let metrics = bridge.metrics();
    let op = |action: &str, collection: &str| {
        format!("atkafka_handled_events{{action_name=\"operation#{action}\",collection=\"{collection}\"}}")
    };
    let other = |action: &str| format!("atkafka_handled_events{{action_name=\"{action}\",collection=\"\"}}");
    let mut wrong = Vec::new();
    for (name, want) in [
        (op("create", "app.bsky.feed.post"), 2.0),
        (op("create", "app.bsky.feed.like"), 2.0),
        (op("update", "app.bsky.feed.post"), 1.0),
        (op("delete", "app.bsky.feed.post"), 1.0),
        (other("identity"), 2.0),
        (other("account"), 1.0),
        (other("sync"), 1.0),
        (other("info"), 1.0),
        ("atkafka_produced_events{status=\"ok\"}".into(), 11.0),
        ("atkafka_produced_events{status=\"error\"}".into(), 0.0),
        ("atkafka_filtered_events".into(), 1.0),
        ("atkafka_events_without_record".into(), 0.0),
        ("atkafka_received_frames".into(), messages),
        ("atkafka_repeated_frames".into(), 1.0),
        ("atkafka_unknown_frames".into(), 1.0),
        ("atkafka_error_frames{error=\"OddError\"}".into(), 1.0),
        ("atkafka_gaps{kind=\"outdated_cursor\"}".into(), 1.0),
        ("atkafka_dead_letters{reason=\"float\"}".into(), 1.0),
        ("atkafka_dead_letters{reason=\"bad_op\"}".into(), 1.0),
        ("atkafka_dead_letters{reason=\"missing_block\"}".into(), 1.0),
        ("atkafka_dead_letters{reason=\"text_frame\"}".into(), 1.0),
        ("atkafka_dead_letters{reason=\"too_large\"}".into(), 0.0),
        ("atkafka_dead_letters{reason=\"panic\"}".into(), 0.0),
        (format!("atkafka_reconnects{{host=\"{host}\"}}"), 0.0),
        (format!("atkafka_connected{{host=\"{host}\"}}"), 1.0),
        (format!("atkafka_last_seq_received{{host=\"{host}\"}}"), 11.0),
        (format!("atkafka_last_seq_delivered{{host=\"{host}\"}}"), 11.0),
        ("atkafka_frames_in_flight".into(), 0.0),
        ("atkafka_bytes_in_flight".into(), 0.0),
        ("atkafka_queue_depth".into(), 0.0),
        ("atkafka_memory_limit_bytes".into(), (64 << 20) as f64),
        ("atkafka_kafka_errors".into(), 0.0),
        ("atkafka_checkpoint_saves{status=\"error\"}".into(), 0.0),
        (format!("atkafka_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
    ] {
        if metrics.get(&name) != Some(&want) {
            wrong.push(format!("{name}: {:?}, wanted {want}", metrics.get(&name)));
        }
    }
    assert!(wrong.is_empty(), "{}\nlog:\n{}", wrong.join("\n"), bridge.log().join("\n"));
    assert_eq!(bridge.metric("atkafka_handled_events"), 11.0, "each event is counted once");
    let lag = metrics[&format!("atkafka_lag_seconds{{host=\"{host}\"}}")];
    assert!((100.0..400.0).contains(&lag), "lag {lag}");
    assert!(metrics["atkafka_received_bytes"] > 1_000.0);
    for histogram in ["atkafka_decode_seconds", "atkafka_delivery_seconds"] {
        let count = metrics[&format!("{histogram}_count")];
        assert!(count >= 1.0 && count <= messages, "{histogram}: {count}");
        assert!(metrics[&format!("{histogram}_sum")] > 0.0);
        assert_eq!(metrics[&format!("{histogram}_bucket{{le=\"+Inf\"}}")], count);
    }
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_threads", "process_start_time_seconds"] {
        assert!(metrics.get(name).is_some_and(|v| *v > 0.0), "{name}: {:?}", metrics.get(name));
    }
    assert!(metrics.contains_key("process_cpu_seconds_total"), "in whole seconds, so mostly 0 by now");

    // Each metric of the program has its type and a help text.
    let (status, mut text) = bridge.get("/metrics").expect("an answer");
    assert_eq!(status, 200);
    // Those with labels are there when something is looked up of accounts.
    let nobody = "http://127.0.0.1:1";
    let enriching =
        Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--plc-host", nobody, "--api-host", nobody]);
    enriching.wait("its metrics", SOON, |b| b.get("/metrics").is_some_and(|(_, t)| t.contains("atkafka_cache_size")));
    text += &enriching.get("/metrics").expect("an answer").1;
    let production = metrics_source();
    // What only Ozone has, with labels, is not there before Ozone is asked; what is said of brokers not before some seconds.
    let later = |s: &str| s.starts_with("atkafka_ozone_") || s.starts_with("atkafka_kafka_broker_");
    let ours = |s: &&str| s.starts_with("atkafka_") && !s.contains(['{', ' ']) && !later(s);
    let names: HashSet<&str> = production.split('"').filter(ours).collect();
    assert!(names.len() >= 24, "{names:?}");
    for name in names {
        let typed = ["counter", "gauge", "histogram"].iter().any(|t| text.contains(&format!("# TYPE {name} {t}\n")));
        assert!(typed && text.contains(&format!("# HELP {name} ")), "{name}");
    }
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn readyz_says_why_not_and_comes_back() {
    // Nobody listens there yet.
    let port = free_port();
    let url = format!("ws://127.0.0.1:{port}");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &url]);
    let is = |status: u16, part: &'static str| {
        move |b: &Bridge| b.get("/readyz").is_some_and(|(s, body)| s == status && body.contains(part))
    };
    bridge.wait("503 before the relay is there", SOON, is(503, "not connected to 127.0.0.1"));
    bridge.wait("the reason is told", SOON, is(503, "refused"));
    assert_eq!(bridge.get("/healthz"), Some((200, "ok\n".into())), "the process lives all the same");
    let config = RelayConfig { port, ..RelayConfig::script(vec![identity_frame(1, DID, A_TIME, None)]) };
    let relay = Relay::start(config).expect("a relay");
    bridge.wait("200 when connected", SOON, is(200, "ok"));
    relay.pause(DropHow::Rst);
    bridge.wait("503 when the relay is away", SOON, is(503, "not connected to 127.0.0.1"));
    assert_eq!(bridge.metric("atkafka_connected"), 0.0);
    assert!(bridge.metric("atkafka_reconnects") >= 1.0);
    relay.resume();
    bridge.wait("200 when it is back", SOON, is(200, "ok"));
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn readyz_names_a_broker_that_is_away_and_what_waits_is_in_flight() {
    let broker = format!("127.0.0.1:{}", free_port());
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(1, DID, A_TIME, None)])).expect("a relay");
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
    bridge.wait("503 that names the broker", SOON, |b| {
        b.get("/readyz").is_some_and(|(s, body)| s == 503 && body.contains("output") && body.contains(&broker))
    });
    assert_eq!(bridge.get("/healthz").map(|(s, _)| s), Some(200));
    bridge.wait("the log says so, too", SOON, |b| {
        b.log().iter().any(|l| l.contains(" WARN ") && l.contains(&broker) && l.contains("again"))
    });
    bridge.wait("the event is in flight", SOON, |b| {
        b.metric("atkafka_frames_in_flight") == 1.0 && b.metric("atkafka_bytes_in_flight") > 0.0
    });
    assert_eq!(bridge.metric("atkafka_last_seq_delivered"), 0.0);
    assert_eq!(bridge.metric("atkafka_produced_events{status=\"ok\"}"), 0.0);
    bridge.signal("KILL");
    bridge.end(SOON);
}

/// A request by hand: status and the whole answer.
fn request(port: u16, method: &str, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(socket, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").expect("written");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    (text.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), text)
}

#[test]
fn pages_that_are_not_there_and_methods_that_are_not_allowed() {
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(1, DID, A_TIME, None)])).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait_delivered(1, SOON);
    let port = bridge.port;
    for (method, path, want) in [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/metrics?x=1", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/nothing", 404),
        ("GET", "/metrics/more", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/healthz", 405),
        ("PUT", "/readyz", 405),
    ] {
        let (status, text) = request(port, method, path);
        assert_eq!(status, want, "{method} {path}: {text}");
    }
    let (status, text) = request(port, "HEAD", "/metrics");
    assert_eq!(status, 200);
    assert!(text.ends_with("\r\n\r\n"), "no body for HEAD: {text}");
    let (_, text) = request(port, "GET", "/metrics");
    assert!(text.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{text}");
    let (_, index) = request(port, "GET", "/");
    for path in ["status", "metrics", "healthz", "readyz"] {
        assert!(index.contains(&format!("href=\"{path}\"")), "{path}: {index}");
    }
}

#[test]
fn a_client_that_says_nothing_does_not_hold_the_pages() {
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(1, DID, A_TIME, None)])).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait_delivered(1, SOON);
    let idle: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", bridge.port)).expect("connected")).collect();
    // One that comes in the very moment of the burst may have to ask again: tiny_http queues it behind the silent ones.
    bridge.wait(&format!("/healthz beside {} silent connections", idle.len()), SOON, |b| {
        b.get("/healthz").is_some_and(|(status, _)| status == 200)
    });
}

#[test]
fn a_busy_port_fails_with_a_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let (code, out, err) =
        run(&["firehose", "relay", "--relay-host", "ws://127.0.0.1:1", "--metrics-listen-address", &address], &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    let line = err.lines().find(|l| l.contains("ERROR")).unwrap_or_default();
    assert!(line.contains("--metrics-listen-address") && line.contains(&address) && line.contains("in use"), "{err}");
}

/// How many ports of TCP the process listens on.
fn listening(pid: u32) -> usize {
    let sockets: HashSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its files")
        .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|t| std::fs::read_to_string(format!("/proc/{pid}/net/{t}")).unwrap_or_default());
    tables
        .iter()
        .flat_map(|t| t.lines())
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|f| f.get(3) == Some(&"0A") && f.get(9).is_some_and(|inode| sockets.contains(*inode)))
        .count()
}

#[test]
fn none_listens_nowhere() {
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(1, DID, A_TIME, None)])).expect("a relay");
    let url = relay.url();
    let start = |listen: &str| -> Child {
        Command::new(env!("CARGO_BIN_EXE_atkafka"))
            .args(["firehose", "relay", "--relay-host", &url, "--metrics-listen-address", listen])
            .env_clear()
            .current_dir(folder("cwd"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    };
    for (listen, want) in [("none", 0), ("127.0.0.1:0", 1)] {
        let mut child = start(listen);
        // Its first event is out: it has started whole.
        let mut first = [0; 1];
        child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("an event");
        let count = listening(child.id());
        child.kill().expect("killed");
        child.wait().expect("waited");
        assert_eq!(count, want, "--metrics-listen-address {listen}");
    }
}

#[test]
fn labels_from_the_network_are_bounded_in_number_and_length() {
    let mut list: Vec<Vec<u8>> = (0..5)
        .map(|c| {
            let ops = (0..200).map(|i| Op::create(&format!("com.example.c{}/1", c * 200 + i), &post("x")));
            commit().ops(ops).frame(c + 1)
        })
        .collect();
    list.extend((0..60).map(|i| frames::error_frame(&format!("Error{i}"), None)));
    let strange = ["quote\"d.a\\b.c", "line\nend.a.b", "blank in.a.b"];
    list.push(commit().ops(strange.map(|c| Op::create(&format!("{c}/1"), &post("x")))).frame(6));
    list.push(identity_frame(7, DID, A_TIME, None));
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait_delivered(7, SOON);
    assert_eq!(bridge.lines().len(), 1004, "each event is out, whatever its label");
    let metrics = bridge.metrics();
    let labels = |name: &str| metrics.keys().filter(|k| k.starts_with(name)).count();
    assert!(labels("atkafka_handled_events{action_name=\"operation#create\"") <= 301, "300 and the rest");
    assert_eq!(bridge.metric("atkafka_handled_events{action_name=\"operation#create\""), 1003.0, "none is uncounted");
    assert_eq!(metrics["atkafka_handled_events{action_name=\"operation#create\",collection=\"other\"}"], 703.0);
    assert!(labels("atkafka_error_frames") <= 21);
    assert_eq!(bridge.metric("atkafka_error_frames"), 60.0);
    drop(bridge);

    // A NSID has at most 317 characters; whoever sends longer ones gets no label of his own.
    let long = format!("com.example.{}", "l".repeat(100_000));
    let list = vec![
        commit().ops(strange.map(|c| Op::create(&format!("{c}/1"), &post("x")))).frame(1),
        commit().op(Op::create(&format!("{long}/1"), &post("x"))).frame(2),
        frames::error_frame(&"E".repeat(100_000), None),
        identity_frame(3, DID, A_TIME, None),
    ];
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait_delivered(3, SOON);
    assert_eq!(bridge.lines().len(), 5);
    assert_eq!(bridge.metric("atkafka_handled_events{action_name=\"operation#create\""), 4.0);
    let (_, text) = bridge.get("/metrics").expect("an answer");
    for line in text.lines() {
        assert!(line.len() < 1_000, "a line of {} bytes: {}...", line.len(), &line[..80]);
        let well_formed = line.starts_with('#') || line.rsplit_once(' ').is_some_and(|(_, v)| v.parse::<f64>().is_ok());
        assert!(well_formed, "{line}");
    }
}

#[test]
fn a_line_each_ten_seconds_has_rate_lag_and_in_flight() {
    let ago = format_ms(now_ms() - 100_000);
    let relay = Relay::start(RelayConfig::script(vec![identity_frame(1, DID, &ago, None)])).expect("a relay");
    let began = Instant::now();
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait("a line of how it goes", SOON, |b| b.log_contains("received "));
    assert!(began.elapsed() >= Duration::from_secs(9), "not more often");
    let log = bridge.log();
    let line = log.iter().find(|l| l.contains("received ")).expect("there");
    for part in [" INFO ", "lag 1", "s, in flight 0 frames", "delivered 1", "dead letters 0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

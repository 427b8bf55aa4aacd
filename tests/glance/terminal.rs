//! What people see of a running process: the log, the status line, `/readyz`, and `systemctl status`. Nothing that comes
//! over the network fills a disk, fools a terminal, or looks like a line of ours.

use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::identity_frame;
use atkafka_fixtures::relay::{DropHow, Inject, Numbering, Relay, RelayConfig};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use sonic_rs::{JsonValueTrait, Value};

use crate::SOON;
use crate::support::*;

const TIME: &str = "2026-07-04T14:38:07.784Z";
/// ESC, a line end, C1, the separators, and marks that turn the direction of writing.
const EVIL: &str = "a\u{1b}[2J\n\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}\u{7f}z";
const SHOWN: &str = "a\\u{1b}[2J\\n\\u{9b}31m\\u{85}\\u{2028}\\u{2029}\\u{202e}\\u{2066}\\u{200f}\\u{7f}z";

fn fixture(count: usize) -> Vec<Vec<u8>> {
    let mut all = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    all.truncate(count);
    all
}

/// Whether a line has nothing that a terminal would obey.
fn is_harmless(line: &str) -> bool {
    let harmful = |c: char| c.is_control() || "\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}".contains(c);
    !line.contains(harmful)
}

/// A relay that says evil things in each way that it has, and then closes each connection.
fn evil_relay() -> Relay {
    let list = vec![
        frames::info_frame(&format!("Info{EVIL}"), Some(EVIL)),
        frames::error_frame(&format!("Error{EVIL}"), Some(EVIL)),
        frames::error_frame("ConsumerTooSlow", Some(EVIL)),
        identity_frame(7, "did:plc:a", TIME, Some(&format!("handle{EVIL}"))),
    ];
    let mut config = RelayConfig::script(list);
    let close = DropHow::Close(1008, format!("closed {EVIL}"));
    config.faults.inject.push(Inject::binary(3, &frames::error_frame("Last", Some(EVIL))).then(close));
    Relay::start(config).expect("a relay")
}

#[test]
fn what_upstream_says_is_escaped_in_every_way_out() {
    for format in ["text", "json"] {
        let relay = evil_relay();
        let name = unique("atkafka-evil");
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        manager.set_nonblocking(true).expect("set");
        let socket = format!("@{name}");
        let mut bridge = Bridge::start_with(
            &["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest", "--log-format", format],
            &[("NOTIFY_SOCKET", &socket)],
        );
        let closed = format!("closed {SHOWN}");
        let ready = |b: &Bridge| b.get("/readyz").unwrap_or_default().1;
        bridge.wait("the close reason in /readyz", SOON, |b| ready(b).contains(&closed));
        let readyz = ready(&bridge);
        assert!(is_harmless(readyz.trim_end_matches('\n')), "{readyz:?}");
        // Once each ten seconds.
        let mut heard = String::new();
        bridge.wait("the close reason in the status", SOON, |_| {
            let mut buffer = [0; 8192];
            while let Ok(n) = manager.recv(&mut buffer) {
                heard += &format!("{}\n", String::from_utf8_lossy(&buffer[..n]));
            }
            heard.contains(&closed)
        });
        assert!(heard.lines().all(is_harmless), "{heard:?}");
        let metrics = bridge.get("/metrics").unwrap_or_default().1;
        assert!(metrics.lines().all(is_harmless), "{metrics:?}");
        bridge.signal("TERM");
        assert_eq!(bridge.end(SOON).code(), Some(0));
        let log = bridge.log();
        assert!(log.iter().all(|line| is_harmless(line)), "{log:#?}");
        let entry = |start: &str| {
            let line = log.iter().find(|line| line.contains(start));
            line.unwrap_or_else(|| panic!("no {start}: {log:#?}")).clone()
        };
        for start in [": #info Info", ": error frame Error", "consumer_too_slow: ", "closed by the host: 1008"] {
            let line = entry(start);
            if format == "text" {
                assert!(line.contains(SHOWN), "{line}");
                continue;
            }
            let value: Value = sonic_rs::from_str(&line).expect("JSON");
            let message = value["message"].as_str().expect("a message");
            assert!(message.contains(SHOWN) && is_harmless(message), "{line}");
        }
    }
}

/// Endless frames of the kinds that only give a log line. 136 MB and 300 MB of log came of it in 8 s.
#[test]
fn error_frames_and_infos_without_end_fill_neither_log_nor_memory() {
    let (rounds, long) = (60_000, "x".repeat(200));
    let list = vec![
        frames::error_frame("Trouble", Some(&format!("no close, {}", "y".repeat(5_000)))),
        frames::error_frame("ConsumerTooSlow", Some(&"z".repeat(5_000))),
        frames::info_frame("Something", Some(&long)),
    ];
    let config = RelayConfig { numbering: Numbering::AsIs, ..RelayConfig::looped(list, rounds * 3) };
    let relay = Relay::start(config).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest"]);
    let errors = |b: &Bridge| b.metric("atkafka_error_frames");
    bridge.wait("all of it", Duration::from_secs(90), |b| errors(b) >= (2 * rounds) as f64);
    let peak = bridge.peak_memory() >> 20;
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0));
    let bytes: usize = log.iter().map(String::len).sum();
    println!("{} lines, {bytes} bytes of log, {peak} MB of memory", log.len());
    assert!(peak < 200, "{peak} MB, of which 128 MiB may be in flight");
    assert!(bytes < 200_000 && log.iter().all(|line| line.len() < 4_000), "{bytes} bytes of log");
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert!((1..=100).contains(&count("error frame Trouble")), "{}", count("error frame Trouble"));
    // What is held back is said, at the end at the latest.
    let more = log.iter().filter_map(|line| {
        let (before, _) = line.split_once(" more like it before")?;
        before.rsplit_once("and ")?.1.parse::<u64>().ok()
    });
    assert!(more.sum::<u64>() > 3 * rounds - 1_000);
}

/// One host that is loud takes no line from another.
#[test]
fn each_host_has_lines_of_its_own() {
    let loud = RelayConfig {
        numbering: Numbering::AsIs,
        ..RelayConfig::looped(vec![frames::error_frame("Loud", None)], 50_000)
    };
    let loud = Relay::start(loud).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &loud.url(), "--relay-host", "ws://127.0.0.1:1"]);
    bridge.wait("loud", SOON, |b| b.metric("atkafka_error_frames") >= 1_000.0);
    bridge.wait("the other one", SOON, |b| b.log_contains("127.0.0.1:1: Connection refused"));
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn json_logs_have_fields_for_what_a_line_is_about() {
    let Some(broker) = broker(KAFKA) else { return };
    let list = vec![
        identity_frame(7, "did:plc:a", TIME, None),
        frames::error_frame("Trouble", Some("no close")),
        b"no frame".to_vec(),
        identity_frame(900, "did:plc:a", TIME, None),
        identity_frame(901, "did:plc:a", TIME, None),
    ];
    let mut config = RelayConfig::script(list);
    config.faults.drop_every = Some(3);
    config.faults.drop_times = Some(1);
    let relay = Relay::start(config).expect("a relay");
    let (host, topic, state) = (relay.url().replace("ws://", ""), unique("fields"), folder("state"));
    let state = state.to_string_lossy();
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--cursor=oldest", "--log-format=json"];
    let output = ["--bootstrap-servers", &broker, "--output-topic", &topic, "--state-dir", &state];
    let bridge = Bridge::start(&[&args[..], &output].concat());
    bridge.wait_delivered(901, SOON);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    let entries: Vec<Value> = log.iter().map(|line| sonic_rs::from_str(line).expect("JSON")).collect();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_string();
    assert!(entries.iter().all(|entry| !text(entry, "event").is_empty()), "{log:#?}");
    let find = |event: &str, fields: &[(&str, &str)]| {
        let fits = |e: &&Value| text(e, "event") == event && fields.iter().all(|(k, v)| text(e, k) == *v);
        let found = entries.iter().find(fits);
        found.unwrap_or_else(|| panic!("no {event} with {fields:?}: {log:#?}"))
    };
    find("start", &[("topic", &topic)]);
    find("topic_created", &[("topic", &topic)]);
    find("position", &[("host", &host)]);
    find("connected", &[("host", &host)]);
    find("error_frame", &[("host", &host), ("reason", "Trouble"), ("error", "no close")]);
    find("dead_letter", &[("host", &host), ("reason", "bad_frame")]);
    let again = find("disconnected", &[("host", &host)]);
    assert!(!text(again, "reason").is_empty(), "{again}");
    assert!(entries.iter().any(|e| text(e, "event") == "connected" && e["seq"].as_u64() == Some(7)), "{log:#?}");
}

// --- the status line --------------------------------------------------------------------------------

/// The program on a terminal, which `script` of util-linux makes.
struct Terminal {
    child: Child,
    pid: u32,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(columns: u32, args: &[&str]) -> Terminal {
        let pid_file = folder("terminal").join("pid");
        let words: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
        let pid_path = pid_file.to_string_lossy();
        let binary = env!("CARGO_BIN_EXE_atkafka");
        let line = format!("stty cols {columns} rows 24; echo $$ > '{pid_path}'; exec '{binary}' {}", words.join(" "));
        let mut child = Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SHELL", "/bin/sh")
            .env("METRICS_LISTEN_ADDRESS", "none")
            .current_dir(folder("cwd"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script of util-linux");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (all, mut stdout) = (shown.clone(), child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                all.lock().expect("shown").extend_from_slice(&buffer[..n]);
            }
        });
        let until = Instant::now() + SOON;
        let pid = loop {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n').and_then(|pid| pid.parse().ok()) {
                break pid;
            }
            assert!(Instant::now() < until, "it does not start");
            std::thread::sleep(Duration::from_millis(20));
        };
        Terminal { child, pid, shown }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("shown")).into_owned()
    }

    fn wait(&self, what: &str, seen: impl Fn(&str) -> bool) {
        let until = Instant::now() + SOON;
        while !seen(&self.shown()) {
            assert!(Instant::now() < until, "not seen: {what}\n{:?}", self.shown());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn resize(&self, columns: u32) {
        let terminal = std::fs::read_link(format!("/proc/{}/fd/2", self.pid)).expect("a terminal");
        let done = Command::new("stty").arg("-F").arg(terminal).args(["cols", &columns.to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "stty");
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.pid.to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill");
    }

    fn end(&mut self) -> Option<i32> {
        let Some(status) = end_of(&mut self.child, SOON) else { panic!("it does not end: {:?}", self.shown()) };
        // The thread that reads the terminal sees its end a moment later.
        std::thread::sleep(Duration::from_millis(100));
        status.code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.pid.to_string()]).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status lines in what a terminal was sent: what stands between a removal and the next, or a line end.
fn rows(shown: &str) -> Vec<String> {
    let parts = shown.split(['\r', '\n']).map(|part| part.rsplit("\u{1b}[J").next().unwrap_or(part).to_string());
    let of_the_log = |part: &String| part.starts_with("20");
    let parts = parts.filter(|part| !of_the_log(part));
    parts.filter(|part| part.contains("/s") || part.contains(" for ") || part.contains("lag ")).collect()
}

#[test]
fn the_status_line_is_one_row_of_any_terminal_with_the_numbers_and_the_cause() {
    let config = RelayConfig { rate: 300.0, now: true, ..RelayConfig::looped(fixture(500), 1_000_000) };
    let relay = Relay::start(config).expect("a relay");
    let broker = format!("127.0.0.1:{}", free_port());
    let args =
        ["firehose", "relay", "--relay-host", &relay.url(), "--bootstrap-servers", &broker, "--output-topic", "t"];
    let mut terminal = Terminal::start(80, &args);
    let away = format!("output: {broker}: connection refused for ");
    terminal.wait("the cause, since when, and the lag", |shown| {
        rows(shown).iter().any(|row| row.starts_with(&away) && row.contains(" s; lag ") && row.contains("in flight "))
    });
    let narrow = |row: &String| row.chars().count() < 80;
    assert!(rows(&terminal.shown()).iter().all(narrow), "{:#?}", rows(&terminal.shown()));
    // It may have been wrapped by a terminal that became narrower: all its rows are removed.
    let before = terminal.shown().len();
    terminal.resize(40);
    std::thread::sleep(Duration::from_secs(2));
    let after = terminal.shown()[before..].to_string();
    assert!(after.contains("\r\u{1b}[A\u{1b}[J"), "{after:?}");
    let after = rows(after.rsplit_once("\u{1b}[A").expect("there").1);
    assert!(!after.is_empty() && after.iter().all(|row| row.chars().count() < 40), "{after:#?}");
    terminal.resize(200);
    terminal.wait("all of it", |shown| {
        rows(shown).iter().any(|row| row.contains(&format!("{broker}: connection refused: is the broker running")))
    });
    terminal.signal("TERM");
    terminal.end();
    let shown = terminal.shown();
    assert!(shown.ends_with('\n'), "{:?}", &shown[shown.len() - 300..]);
}

#[test]
fn a_normal_status_line_fits_into_eighty_columns_and_a_hard_exit_ends_its_row() {
    let Some(broker) = broker(KAFKA) else { return };
    let config = RelayConfig { rate: 300.0, now: true, ..RelayConfig::looped(fixture(500), 1_000_000) };
    let relay = Relay::start(config).expect("a relay");
    let topic = unique("glance");
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--bootstrap-servers", &broker];
    let mut terminal = Terminal::start(80, &[&args[..], &["--output-topic", &topic]].concat());
    let parts = ["in ", "filtered ", "out ", "lag ", "in flight ", "dead letters 0"];
    terminal.wait("the numbers", |shown| rows(shown).iter().any(|row| parts.iter().all(|part| row.contains(part))));
    assert!(rows(&terminal.shown()).iter().all(|row| row.chars().count() < 80), "{:#?}", rows(&terminal.shown()));
    terminal.signal("TERM");
    assert_eq!(terminal.end(), Some(0));
    assert!(terminal.shown().ends_with('\n'));

    // What takes connections and never answers: the status line stands there until the second signal.
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let broker = format!("127.0.0.1:{}", deaf.local_addr().expect("bound").port());
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--bootstrap-servers", &broker];
    let mut terminal = Terminal::start(80, &[&args[..], &["--output-topic", "t", "--log-level=error"]].concat());
    terminal.wait("a status line", |shown| !rows(shown).is_empty());
    terminal.signal("INT");
    std::thread::sleep(Duration::from_millis(700));
    terminal.signal("INT");
    assert_eq!(terminal.end(), Some(130));
    let shown = terminal.shown();
    assert!(shown.ends_with("\r\n") && !shown.ends_with("\n\r\n"), "{shown:?}");
}

#[test]
fn a_run_that_has_an_end_shows_how_far_it_is() {
    let Some(broker) = broker(KAFKA) else { return };
    let dir = folder("bar");
    let (recorded, topic) = (dir.join("recorded.bin").display().to_string(), unique("bar"));
    let relay =
        Relay::start(RelayConfig { rate: 300.0, ..RelayConfig::looped(fixture(500), 1_000_000) }).expect("a relay");
    let args = ["record", "--relay-host", &relay.url(), "--cursor", "oldest", "--frames", "900", "--output", &recorded];
    let mut terminal = Terminal::start(80, &args);
    terminal.wait("a bar", |shown| {
        rows(shown).iter().any(|row| row.starts_with("[=") && row.contains(" %, ") && row.contains(" of 900 frames"))
    });
    assert_eq!(terminal.end(), Some(0), "{}", terminal.shown());
    assert!(rows(&terminal.shown()).iter().all(|row| row.chars().count() < 80), "{:#?}", rows(&terminal.shown()));
    let args = ["firehose", "replay", "--file", &recorded, "--rate", "300", "--bootstrap-servers", &broker];
    let mut terminal = Terminal::start(80, &[&args[..], &["--output-topic", &topic]].concat());
    terminal.wait("a bar and the rates", |shown| {
        let is_half = |row: &String| row.starts_with("[=====") && row.contains(" %, ") && row.contains("s left, in ");
        rows(shown).iter().any(is_half)
    });
    assert_eq!(terminal.end(), Some(0), "{}", terminal.shown());
    assert!(rows(&terminal.shown()).iter().all(|row| row.chars().count() < 80), "{:#?}", rows(&terminal.shown()));
    // A log has the same in words.
    let args = ["firehose", "replay", "--file", &recorded, "--rate", "60", "--metrics-listen-address", "none"];
    let (code, _, log) = run(&args, &[]);
    assert_eq!(code, Some(0), "{log}");
    let status = log.lines().find(|line| line.contains(" %, ")).unwrap_or_else(|| panic!("{log}"));
    assert!(status.contains(" left; received "), "{status}");
}

// --- why nothing flows ------------------------------------------------------------------------------

#[test]
fn the_lag_grows_while_the_broker_is_away_and_the_cause_is_named_with_its_age() {
    let config = RelayConfig { rate: 50.0, now: true, ..RelayConfig::looped(fixture(200), 1_000_000) };
    let relay = Relay::start(config).expect("a relay");
    let cluster = MockCluster::<DefaultProducerContext>::new(1).expect("a simulated cluster");
    cluster.create_topic("events", 1, 1).expect("a topic");
    let servers = cluster.bootstrap_servers();
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--bootstrap-servers", &servers];
    let bridge = Bridge::start(&[&args[..], &["--output-topic", "events"]].concat());
    let lag = |b: &Bridge| b.metric("atkafka_lag_seconds");
    let ready = |b: &Bridge| b.get("/readyz").unwrap_or_default();
    bridge.wait("it flows", SOON, |b| b.metric("atkafka_last_seq_delivered") > 50.0 && ready(b).0 == 200);
    assert!(lag(&bridge) < 5.0, "{}", lag(&bridge));
    cluster.broker_down(1).expect("down");
    bridge.wait("the lag grows", SOON, |b| lag(b) > 8.0);
    let (status, why) = ready(&bridge);
    println!("{why}");
    assert!(status == 503 && why.starts_with(&format!("output: {servers}: ")) && why.contains("(for "), "{why}");
    assert!(!why.contains("in flight waits"), "the cause, not what follows from it: {why}");
    bridge.wait("the log says it", SOON, |b| {
        b.log().iter().any(|l| l.contains("INFO  output: ") && l.contains("(for ") && l.contains("delivered 0/s, lag "))
    });
    cluster.broker_up(1).expect("up");
    bridge.wait("it flows again", SOON, |b| lag(b) < 2.0 && ready(b).0 == 200);
    // Nothing comes from the relay: what is delivered grows older as well.
    relay.pause(DropHow::Rst);
    bridge.wait("the lag grows again", SOON, |b| lag(b) > 4.0);
    assert!(ready(&bridge).1.starts_with("not connected to 127.0.0.1:"), "{:?}", ready(&bridge));
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_filter_that_lets_nothing_through_does_not_look_like_a_dead_relay() {
    let frames: Vec<Vec<u8>> =
        fixture(500).into_iter().filter(|frame| frames::kind_of(frame) == Some("#commit")).collect();
    let relay = Relay::start(RelayConfig { rate: 100.0, now: true, ..RelayConfig::looped(frames, 1_000_000) });
    let relay = relay.expect("a relay");
    let args = ["firehose", "relay", "--relay-host", &relay.url(), "--watched-collections", "com.example.none"];
    let bridge = Bridge::start(&args);
    let status = |b: &Bridge, begin: &str| {
        b.log().iter().any(|line| {
            let rate =
                |name: &str| line.split(name).nth(1).and_then(|rest| rest.split('/').next()?.parse::<f64>().ok());
            line.contains(begin) && rate("received ") > Some(0.0) && rate("filtered ") > Some(0.0)
        })
    };
    bridge.wait("the numbers", SOON, |b| status(b, "delivered 0/s"));
    bridge.wait("what it is", SOON, |b| status(b, "INFO  nothing passes the filters (for "));
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    assert!(bridge.metric("atkafka_lag_seconds") < 5.0);
    assert_eq!(bridge.stop().0, Some(0));
}

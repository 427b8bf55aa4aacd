//! The promises of delivery: what is killed, stopped, dropped, silent, too slow or away, and what arrives all the same.
//!
//! Each event of each frame that the relay served is compared with what is in the topic.

#[path = "nothing_lost/brokers.rs"]
mod brokers;
#[path = "nothing_lost/connections.rs"]
mod connections;
#[path = "nothing_lost/cursors.rs"]
mod cursors;
#[path = "support/oracle.rs"]
mod oracle;
#[path = "nothing_lost/many_hosts.rs"]
mod many_hosts;
#[path = "nothing_lost/positions.rs"]
mod positions;
#[path = "support/own_broker.rs"]
mod own_broker;
#[path = "nothing_lost/times.rs"]
mod times;
mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{DropHow, Faults, Relay, RelayConfig};
use oracle::{Traffic, compare, of_lines, seq_of};
use support::*;

/// Frames of a run with five ends of the process; `ATKAFKA_TEST_FRAMES` raises it.
const FRAMES: u64 = 25_000;
/// Frames a second in such a run.
const RATE: f64 = 5_000.0;
/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Frames that exist only before the last start, so that it has something to deliver.
const HELD_BACK: u64 = 100;
/// After a SIGTERM.
const STOP: Duration = Duration::from_secs(10);
static TRAFFIC: LazyLock<Traffic> = LazyLock::new(|| Traffic::network(31, 100, 5_000));

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default).max(default)
}

fn looped(total: u64) -> RelayConfig {
    RelayConfig::looped(TRAFFIC.frames.clone(), total)
}

fn held_back(config: RelayConfig) -> RelayConfig {
    RelayConfig { live_limit: Some(config.total - HELD_BACK), ..config }
}

/// Where one run writes, and what it keeps.
struct Place {
    broker: String,
    topic: String,
    state: PathBuf,
}

impl Place {
    fn new(broker: &str, name: &str) -> Place {
        Place { broker: broker.into(), topic: unique(name), state: folder("state") }
    }

    fn args<'a>(&'a self, relays: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["firehose", "relay"];
        for relay in relays {
            args.extend(["--relay-host", relay]);
        }
        args.extend(["--bootstrap-servers", &self.broker, "--output-topic", &self.topic]);
        args.extend(["--state-dir", self.state.to_str().expect("UTF-8")]);
        // The kafka crate has no way to say it.
        if !more.contains(&"kafka") {
            args.extend(["--topic-partitions", "4"]);
        }
        args.extend(more);
        args
    }

    fn start(&self, relay: &Relay, more: &[&str]) -> Bridge {
        Bridge::start(&self.args(&[&relay.url()], more))
    }

    fn arrived(&self) -> Vec<Arrived> {
        consume(&self.broker, &self.topic)
    }
}

/// The cursor files in a state directory.
fn cursor_files(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state).expect("the state directory");
    entries.map(|e| e.expect("an entry").path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect()
}

/// SIGTERM, which has to end it in order and soon.
fn stop(mut bridge: Bridge) {
    bridge.signal("TERM");
    let status = bridge.end(STOP);
    assert_eq!(status.code(), Some(0), "{}", bridge.log().join("\n"));
}

/// SIGKILL; what it wrote to standard output until then.
fn kill_for_lines(mut bridge: Bridge) -> Vec<String> {
    bridge.signal("KILL");
    bridge.end(SOON);
    std::thread::sleep(Duration::from_millis(300));
    bridge.lines()
}

fn cursors(relay: &Relay) -> Vec<Option<u64>> {
    relay.stats().connections.iter().map(|c| c.cursor.as_ref().map(|c| c.parse().expect("a number"))).collect()
}

/// All of `seq` is delivered, the connection stands, and the process says so.
fn settled(bridge: &Bridge, seq: u64) {
    bridge.wait_delivered(seq, SOON);
    bridge.wait("connected and ready", SOON, |b| {
        b.metric("atkafka_connected") == 1.0 && b.get("/readyz").is_some_and(|(status, _)| status == 200)
    });
}

#[test]
fn killed_five_times_nothing_is_missing_and_a_second_repeats() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = number_from("ATKAFKA_TEST_FRAMES", FRAMES);
    let relay = Relay::start(held_back(RelayConfig { rate: RATE, ..looped(total) })).expect("a relay");
    let place = Place::new(&broker, "killed");
    let mut in_flight: f64 = 0.0;
    for end in 0..5 {
        let bridge = place.start(&relay, &["--cursor", "oldest"]);
        if end == 0 {
            // Before the first second, and the first save that it brings.
            std::thread::sleep(Duration::from_millis(400));
        } else {
            bridge.wait("frames", SOON, |_| relay.stats().highest_seq >= Some(total * end / 5));
        }
        in_flight = in_flight.max(bridge.metric("atkafka_frames_in_flight"));
        bridge.kill();
    }
    relay.set_live_limit(total);
    let bridge = place.start(&relay, &["--cursor", "oldest"]);
    settled(&bridge, total);
    stop(bridge);

    let verdict = compare(&TRAFFIC.served(1, 0..total), &place.arrived());
    verdict.at_least_once();
    // A save each second, in which also comes what piled up while it started; a busy machine doubles both.
    let bound = 3.0 * RATE + in_flight;
    assert!((verdict.step_back as f64) < bound, "one restart repeats less than {bound} frames: {verdict}");
    assert!(cursors(&relay).len() >= 5, "{:?}", cursors(&relay));
}

#[test]
fn stopped_five_times_nothing_is_missing_or_repeated() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = number_from("ATKAFKA_TEST_FRAMES", FRAMES);
    let relay = Relay::start(held_back(RelayConfig { rate: RATE, ..looped(total) })).expect("a relay");
    let place = Place::new(&broker, "stopped");
    for end in 1..=5 {
        let bridge = place.start(&relay, &["--cursor", "oldest"]);
        // The relay may have sent as many while the one before was stopping: this one has to be up, too.
        bridge.wait("frames", SOON, |b| {
            relay.stats().highest_seq >= Some(total * end / 6) && b.metric("atkafka_connected") == 1.0
        });
        stop(bridge);
    }
    relay.set_live_limit(total);
    let bridge = place.start(&relay, &["--cursor", "oldest"]);
    settled(&bridge, total);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();
}

/// Without a cursor a restart is live again, and this relay has no past for who does not ask for it.
#[test]
fn a_live_start_killed_at_once_misses_nothing_behind_its_first_event() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 6_000;
    let config = RelayConfig { rate: 1_000.0, backlog: 500, from_start: false, ..looped(total) };
    let relay = Relay::start(held_back(config)).expect("a relay");
    let killed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for delay in [0, 0, 0, 10, 50, 300] {
            let (relay, broker, killed) = (&relay, &broker, &killed);
            scope.spawn(move || {
                let place = Place::new(broker, "live");
                let bridge = place.start(relay, &[]);
                let until = Instant::now() + SOON;
                while bridge.metric("atkafka_produced_events{status=\"ok\"}") == 0.0 {
                    assert!(Instant::now() < until, "nothing produced: {:?}", bridge.log());
                }
                std::thread::sleep(Duration::from_millis(delay));
                bridge.kill();
                std::thread::sleep(Duration::from_millis(500));
                if killed.fetch_add(1, Ordering::Relaxed) == 5 {
                    relay.set_live_limit(total);
                }
                let bridge = place.start(relay, &[]);
                settled(&bridge, total);
                stop(bridge);

                let arrived = place.arrived();
                let first = arrived.iter().filter_map(seq_of).min().expect("events");
                println!("killed {delay} ms behind the first event, of seq {first}");
                compare(&TRAFFIC.served(1, first - 1..total), &arrived).at_least_once();
            });
        }
    });
}

/// A folder stands where the first cursor is written. Nothing that would be lost with it is delivered meanwhile.
#[test]
fn a_live_start_delivers_nothing_before_its_cursor_is_on_disk() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(looped(1_000)).expect("a relay");
    let place = Place::new(&broker, "first");
    let file = format!("relay-127.0.0.1%3A{}~{}.json.tmp", relay.port(), place.topic);
    let obstacle = place.state.join(file);
    std::fs::create_dir(&obstacle).expect("created");
    let bridge = place.start(&relay, &[]);
    bridge.wait("frames", SOON, |b| b.metric("atkafka_connected") > 0.0 && b.log_contains("created"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bridge.metric("atkafka_produced_events{status=\"ok\"}"), 0.0, "delivered without a cursor");
    std::fs::remove_dir(&obstacle).expect("removed");
    settled(&bridge, 1_000);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..1_000), &place.arrived()).once();
}

fn each_2000(drop_how: DropHow) -> Faults {
    Faults { drop_every: Some(2_000), drop_how, ..Faults::default() }
}

#[test]
fn lines_with_a_state_directory_miss_nothing_over_a_kill() {
    let total = 10_000;
    let relay = Relay::start(held_back(RelayConfig { rate: 4_000.0, ..looped(total) })).expect("a relay");
    let (state, url) = (folder("state"), relay.url());
    let args = ["firehose", "relay", "--relay-host", &url, "--state-dir", state.to_str().expect("UTF-8")];
    let bridge = Bridge::start(&args);
    bridge.wait_delivered(6_000, SOON);
    let mut arrived = of_lines(&kill_for_lines(bridge));
    relay.set_live_limit(total);
    let bridge = Bridge::start(&args);
    settled(&bridge, total);
    arrived.extend(of_lines(&kill_for_lines(bridge)));
    let verdict = compare(&TRAFFIC.served(1, 0..total), &arrived);
    verdict.at_least_once();
    assert!(verdict.step_back < 10_000, "{verdict}");
    assert!(cursors(&relay)[1] > Some(0), "it went on from a cursor: {:?}", cursors(&relay));
}

#[test]
fn lines_without_a_state_directory_leave_no_file() {
    let relay = Relay::start(looped(1_000)).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url()]);
    bridge.wait("all lines", SOON, |b| b.metric("atkafka_last_seq_delivered") == 1_000.0);
    let folder = std::fs::read_link(format!("/proc/{}/cwd", bridge.pid())).expect("its working directory");
    bridge.signal("TERM");
    let mut bridge = bridge;
    assert_eq!(bridge.end(STOP).code(), Some(0));
    std::thread::sleep(Duration::from_millis(300));
    compare(&TRAFFIC.served(1, 0..1_000), &of_lines(&bridge.lines())).once();
    let left: Vec<_> = std::fs::read_dir(&folder).expect("the folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// `atkafka firehose relay | head -1`.
#[test]
fn a_reader_that_has_enough_ends_it_cleanly() {
    let relay = Relay::start(RelayConfig { rate: 2_000.0, ..looped(1_000_000) }).expect("a relay");
    let mut child = Command::new(env!("CARGO_BIN_EXE_atkafka"))
        .args(["firehose", "relay", "--relay-host", &relay.url()])
        .arg(format!("--metrics-listen-address=127.0.0.1:{}", free_port()))
        .env_clear()
        .current_dir(folder("cwd"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with('{') && line.ends_with("}\n"), "{line}");
    let status = end_of(&mut child, STOP).expect("it still runs");
    assert_eq!(status.code(), Some(0));
}

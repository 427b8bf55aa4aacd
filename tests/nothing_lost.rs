//! The promises of delivery: what is killed, stopped, dropped, silent, too slow or away, and what arrives all the same.
//!
//! Each event of each frame that the relay served is compared with what is in the topic.

#[path = "support/oracle.rs"]
mod oracle;
#[path = "nothing_lost/positions.rs"]
mod positions;
mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{CursorRule, DropHow, Faults, HttpAnswer, Numbering, OnBadCursor, Relay, RelayConfig};
use oracle::{Traffic, compare, of_lines, seq_of};
use support::*;

/// Frames of a run with five ends of the process; `ATKAFKA_TEST_FRAMES` raises it.
const FRAMES: u64 = 25_000;
/// Frames a second in such a run.
const RATE: f64 = 5_000.0;
/// How long the broker is away; `ATKAFKA_TEST_OUTAGE` raises it. Above the 15 s after which `/readyz` says so.
const OUTAGE: u64 = 20;
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

// --- ends of the process --------------------------------------------------------------------

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

// --- ends of the connection -----------------------------------------------------------------

/// Runs once over a relay with `faults`, each 2,000 frames a drop. The counted reconnects.
fn survives(name: &str, faults: Faults) -> Option<u64> {
    let broker = broker(KAFKA)?;
    let total = 10_000;
    let drops = faults.drop_every.map_or(0, |every| (total / every).min(faults.drop_times.unwrap_or(u64::MAX)));
    let resets = faults.drop_how == DropHow::Rst;
    let relay = Relay::start(RelayConfig { rate: 4_000.0, faults, ..looped(total) }).expect("a relay");
    let place = Place::new(&broker, name);
    let bridge = place.start(&relay, &[]);
    bridge.wait_delivered(total, SOON);
    // The last drop may come behind the last frame.
    assert!(relay.wait_until(SOON, |s| s.connections.len() as u64 == drops + 1 && s.open == 1), "{:?}", relay.stats());
    settled(&bridge, total);
    assert_eq!(bridge.get("/healthz").map(|(status, _)| status), Some(200), "the same process");
    let reconnects = bridge.metric("atkafka_reconnects") as u64;
    stop(bridge);

    let asked = cursors(&relay);
    assert_eq!(asked[0], None, "live at first");
    for (i, asked) in asked[1..].iter().enumerate() {
        let sent = 2_000 * (i as u64 + 1);
        // A reset takes along what is under way.
        assert!(*asked == Some(sent) || (resets && *asked < Some(sent)), "drop {i}: asked for {asked:?} behind {sent}");
    }
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();
    Some(reconnects)
}

fn each_2000(drop_how: DropHow) -> Faults {
    Faults { drop_every: Some(2_000), drop_how, ..Faults::default() }
}

#[test]
fn connections_that_end_lose_and_repeat_nothing() {
    let Some(reconnects) = survives("fin", each_2000(DropHow::Fin)) else { return };
    assert_eq!(reconnects, 5);
}

#[test]
fn connections_with_a_close_frame_lose_and_repeat_nothing() {
    let Some(reconnects) = survives("close", each_2000(DropHow::Close(1001, "going away".into()))) else { return };
    assert_eq!(reconnects, 5);
}

#[test]
fn connections_that_are_refused_lose_and_repeat_nothing() {
    let refused = Faults { refuse_for: Duration::from_millis(1_200), drop_times: Some(3), ..each_2000(DropHow::Fin) };
    let Some(reconnects) = survives("refused", refused) else { return };
    assert!(reconnects >= 3, "{reconnects}");
}

#[test]
fn a_stall_loses_and_repeats_nothing_and_is_no_reconnect() {
    let stall = Faults { stall: Some((3_000, Duration::from_secs(4))), ..Faults::default() };
    let Some(reconnects) = survives("stall", stall) else { return };
    assert_eq!(reconnects, 0);
}

/// Each drop takes frames along, so that more connections come than the frames say.
#[test]
fn connections_that_are_reset_lose_and_repeat_nothing() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 10_000;
    let faults = each_2000(DropHow::Rst);
    let relay = Relay::start(RelayConfig { rate: 4_000.0, faults, ..looped(total) }).expect("a relay");
    let place = Place::new(&broker, "rst");
    let bridge = place.start(&relay, &[]);
    bridge.wait_delivered(total, SOON);
    settled(&bridge, total);
    let reconnects = bridge.metric("atkafka_reconnects");
    assert!(reconnects >= 4.0, "{reconnects}");
    stop(bridge);
    let asked = cursors(&relay);
    assert!(asked.len() > 4 && asked.is_sorted(), "{asked:?}");
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();
}

/// Both minutes at once: nothing is heard of one relay any more, the other has nothing to say but answers pings.
#[test]
fn a_silent_connection_is_left_in_a_minute_and_an_idle_one_is_kept() {
    let Some(broker) = broker(KAFKA) else { return };
    let total = 4_000;
    let faults = Faults { silent_after: Some(2_000), ..Faults::default() };
    let silent = Relay::start(RelayConfig { faults, ..looped(total) }).expect("a relay");
    let idle = Relay::start(looped(1_000)).expect("a relay");
    let (place, quiet) = (Place::new(&broker, "silent"), Place::new(&broker, "idle"));
    let (bridge, other) = (place.start(&silent, &[]), quiet.start(&idle, &[]));
    bridge.wait_delivered(2_000, SOON);
    other.wait_delivered(1_000, SOON);

    assert!(silent.wait_until(Duration::from_secs(75), |s| s.connections.len() == 2), "{:?}", silent.stats());
    let connections = silent.stats().connections;
    let noticed = connections[1].at - connections[0].at;
    println!("the silence was noticed after {noticed:?}");
    assert!(noticed >= Duration::from_secs(59), "not while an answer may still come: {noticed:?}");
    assert_eq!(connections[1].cursor.as_deref(), Some("2000"));
    settled(&bridge, total);
    assert_eq!(bridge.metric("atkafka_reconnects"), 1.0);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).once();

    // The idle one is a little older than 70 s then.
    std::thread::sleep(Duration::from_secs(72).saturating_sub(idle.stats().connections[0].at + noticed));
    let stats = idle.stats();
    assert_eq!((stats.connections.len(), stats.open), (1, 1), "{stats:?}");
    assert_eq!(stats.pings, 2, "one each 30 s");
    let seq = idle.push(&TRAFFIC.frames[1_000]);
    settled(&other, seq);
    assert_eq!(other.metric("atkafka_reconnects"), 0.0);
    stop(other);
    compare(&TRAFFIC.served(1, 0..1_001), &quiet.arrived()).once();
}

// --- the broker -----------------------------------------------------------------------------

/// A broker of our own, which may be killed.
struct Broker {
    version: &'static str,
    port: String,
}

impl Broker {
    fn start(version: &'static str, base: u16) -> Broker {
        let free = Self::script(&["free-port", "--port", &base.to_string()]);
        let broker = Broker { version, port: free.trim().into() };
        broker.again();
        broker
    }

    fn script(args: &[&str]) -> String {
        let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("scripts/kafka.sh runs");
        assert!(out.status.success(), "kafka.sh {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn again(&self) {
        Self::script(&["start", "--version", self.version, "--port", &self.port]);
    }

    fn kill(&self) {
        Self::script(&["kill", "--port", &self.port]);
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        Self::script(&["kill", "--clean", "--port", &self.port]);
    }
}

#[test]
fn a_broker_that_is_killed_loses_nothing_and_memory_stays_bounded() {
    if broker(KAFKA).is_none() {
        return;
    }
    let broker = Broker::start("4.3.1", 31_092);
    let outage = Duration::from_secs(number_from("ATKAFKA_TEST_OUTAGE", OUTAGE));
    let rate = 2_000.0;
    // Frames come until the broker is back.
    let first = (rate * (outage.as_secs_f64() + 5.0)) as u64;
    let total = first + 5_000;
    let relay = Relay::start(RelayConfig { rate, live_limit: Some(first), ..looped(total) }).expect("a relay");
    let place = Place::new(&broker.address(), "outage");
    let limited = ["--memory-limit", "32MiB"];
    let bridge = place.start(&relay, &limited);
    bridge.wait_delivered(4_000, SOON);
    broker.kill();
    let until = Instant::now() + outage;
    bridge.wait("/readyz says why not", outage, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("output: "))
    });
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(503));
    assert_eq!(bridge.get("/healthz").map(|(status, _)| status), Some(200), "the process lives");
    let in_flight = bridge.metric("atkafka_bytes_in_flight");
    assert!(in_flight > f64::from(16 << 20) && in_flight <= f64::from(33 << 20), "the limit is reached: {in_flight}");
    broker.again();
    settled(&bridge, first);
    let peak = bridge.peak_memory();
    println!("{} MB at the peak", peak >> 20);
    // Not optimised, decoding is slower than the relay: the whole limit is frames then, besides what is in the client.
    let room: u64 = if cfg!(debug_assertions) { 128 } else { 64 };
    assert!(peak > 8 << 20 && peak < (32 + room) << 20, "{peak} bytes at the peak");

    // Again, and this time it is stopped before the broker is back.
    broker.kill();
    relay.set_live_limit(total);
    bridge.wait("frames in flight", SOON, |b| b.metric("atkafka_last_seq_received") > first as f64);
    stop(bridge);
    broker.again();
    let bridge = place.start(&relay, &limited);
    settled(&bridge, total);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).at_least_once();
}

#[test]
fn the_kafka_crate_loses_nothing_when_its_broker_is_killed() {
    if broker(KAFKA_39).is_none() {
        return;
    }
    let broker = Broker::start("3.9.1", 31_592);
    let total = 12_000;
    let relay = Relay::start(RelayConfig { rate: 2_000.0, ..looped(total) }).expect("a relay");
    let place = Place::new(&broker.address(), "crate");
    let bridge = place.start(&relay, &["--kafka-client", "kafka"]);
    bridge.wait_delivered(4_000, SOON);
    broker.kill();
    bridge.wait("/readyz says why not", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("output: "))
    });
    broker.again();
    settled(&bridge, total);
    stop(bridge);
    compare(&TRAFFIC.served(1, 0..total), &place.arrived()).at_least_once();
}

#[test]
fn the_kafka_crate_stops_in_order_on_its_own_kind_of_broker_and_refuses_another() {
    let (Some(old), Some(new)) = (broker(KAFKA_39), broker(KAFKA)) else { return };
    let relay = Relay::start(RelayConfig { live_limit: Some(1_500), ..looped(3_000) }).expect("a relay");
    let place = Place::new(&old, "crate-stop");
    for seq in [1_500, 3_000] {
        relay.set_live_limit(seq);
        let bridge = place.start(&relay, &["--kafka-client", "kafka"]);
        bridge.wait_delivered(seq, SOON);
        stop(bridge);
    }
    compare(&TRAFFIC.served(1, 0..3_000), &place.arrived()).once();

    let place = Place::new(&new, "crate-new");
    let mut bridge = place.start(&relay, &["--kafka-client", "kafka"]);
    assert_eq!(bridge.end(SOON).code(), Some(1));
    bridge.wait("the line that helps", SOON, |b| b.log_contains("--kafka-client librdkafka"));
}

// --- cursors --------------------------------------------------------------------------------

#[test]
fn a_server_with_inclusive_cursors_repeats_nothing() {
    let Some(broker) = broker(KAFKA) else { return };
    let config = RelayConfig {
        cursor: CursorRule::Inclusive,
        live_limit: Some(6_000),
        faults: each_2000(DropHow::Fin),
        ..looped(10_000)
    };
    let relay = Relay::start(config).expect("a relay");
    let place = Place::new(&broker, "inclusive");
    let mut before = 0;
    for seq in [6_000, 10_000] {
        relay.set_live_limit(seq);
        let bridge = place.start(&relay, &[]);
        settled(&bridge, seq);
        bridge.wait("each connection with a cursor begins with a repeat", SOON, |b| {
            let asked = cursors(&relay)[before..].iter().flatten().count();
            asked >= 2 && b.metric("atkafka_repeated_frames") == asked as f64
        });
        before = cursors(&relay).len();
        stop(bridge);
    }
    compare(&TRAFFIC.served(1, 0..10_000), &place.arrived()).once();
}

/// Stopped for longer than the relay keeps events: the frames 1,001 to 3,000 are gone.
fn outdated(told: OnBadCursor) {
    let Some(broker) = broker(KAFKA) else { return };
    let config = RelayConfig { outdated: told, live_limit: Some(1_000), ..looped(5_000) };
    let relay = Relay::start(config).expect("a relay");
    let place = Place::new(&broker, "outdated");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 1_000);
    stop(bridge);
    relay.set_live_limit(5_000);
    relay.set_oldest(3_001);
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 5_000);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"outdated_cursor\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_gaps"), 1.0, "one gap is one");
    let (line, info) = match told {
        OnBadCursor::Tell => ("#info OutdatedCursor", "OutdatedCursor"),
        OnBadCursor::Silent => ("outdated_cursor: asked to go on from 1000, the host began at 3001", "outdated_cursor"),
    };
    assert!(bridge.log_contains(line), "{:?}", bridge.log());
    stop(bridge);
    let expected = [TRAFFIC.served(1, 0..1_000), TRAFFIC.served(1, 3_000..5_000)].concat();
    let verdict = compare(&expected, &place.arrived());
    assert_eq!(verdict.once().infos, [info]);
}

#[test]
fn an_outdated_cursor_is_reported_when_the_host_tells() {
    outdated(OnBadCursor::Tell);
}

#[test]
fn an_outdated_cursor_is_reported_when_the_host_is_silent() {
    outdated(OnBadCursor::Silent);
}

/// The host comes back with lower seqs, at the same address, while we wait for it.
fn reset(told: OnBadCursor) {
    let Some(broker) = broker(KAFKA) else { return };
    let high = Numbering::Step { first: 100_001, step: 1 };
    let relay = Relay::start(RelayConfig { numbering: high, ..looped(1_000) }).expect("a relay");
    let place = Place::new(&broker, "reset");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 101_000);
    let port = relay.port();
    relay.stop();
    let config = RelayConfig { port, future: told, live_limit: Some(500), ..looped(2_000) };
    let relay = Relay::start(config).expect("the same port");
    assert!(relay.wait_until(SOON, |s| s.connections.last().is_some_and(|c| c.cursor.is_some())), "a reconnect");
    assert_eq!(cursors(&relay)[0], Some(101_000));
    // Told, we read from the oldest event; else we are live, and only what comes from now on can be had.
    let behind = match told {
        OnBadCursor::Tell => 0,
        OnBadCursor::Silent => 500,
    };
    relay.set_live_limit(2_000);
    bridge.wait("delivered, from low seqs", SOON, |b| b.metric("atkafka_last_seq_delivered") == 2_000.0);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"host_reset\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_gaps"), 1.0, "one gap is one");
    assert!(bridge.log_contains("host_reset"), "{:?}", bridge.log());
    stop(bridge);
    let last = place.start(&relay, &[]);
    assert!(relay.wait_until(SOON, |s| s.connections.last().is_some_and(|c| c.cursor.as_deref() == Some("2000"))));
    stop(last);

    let arrived = place.arrived();
    let (high, low): (Vec<_>, Vec<_>) = arrived.into_iter().partition(|a| seq_of(a) > Some(100_000));
    compare(&TRAFFIC.served(100_001, 0..1_000), &high).once();
    let verdict = compare(&TRAFFIC.served(1, behind..2_000), &low);
    assert_eq!(verdict.once().infos, ["host_reset"]);
}

#[test]
fn a_host_that_counts_anew_is_reported_and_read_when_it_tells() {
    reset(OnBadCursor::Tell);
}

#[test]
fn a_host_that_counts_anew_is_reported_and_read_when_it_is_silent() {
    reset(OnBadCursor::Silent);
}

#[test]
fn a_host_that_calls_us_too_slow_is_reported_and_nothing_is_missing() {
    let Some(broker) = broker(KAFKA) else { return };
    let faults = Faults { too_slow: Some((3_000, true)), ..Faults::default() };
    let relay = Relay::start(RelayConfig { rate: 3_000.0, faults, ..looped(6_000) }).expect("a relay");
    let place = Place::new(&broker, "slow");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 6_000);
    assert_eq!(bridge.metric("atkafka_gaps{kind=\"consumer_too_slow\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_error_frames{error=\"ConsumerTooSlow\"}"), 1.0);
    assert_eq!(bridge.metric("atkafka_reconnects"), 1.0);
    assert!(bridge.log_contains("consumer_too_slow"), "{:?}", bridge.log());
    stop(bridge);
    assert_eq!(cursors(&relay), [None, Some(3_000)]);
    let verdict = compare(&TRAFFIC.served(1, 0..6_000), &place.arrived());
    assert_eq!(verdict.once().infos, ["consumer_too_slow"]);
}

#[test]
fn refusals_by_http_are_tried_again_and_retry_after_is_honoured() {
    let Some(broker) = broker(KAFKA) else { return };
    let http = vec![HttpAnswer::too_many(3), HttpAnswer::status(500), HttpAnswer::status(503)];
    let faults = Faults { http, ..Faults::default() };
    let relay = Relay::start(RelayConfig { faults, ..looped(500) }).expect("a relay");
    let place = Place::new(&broker, "refusals");
    let bridge = place.start(&relay, &[]);
    bridge.wait("/readyz says why not", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("HTTP 429"))
    });
    settled(&bridge, 500);
    assert_eq!(bridge.metric("atkafka_reconnects"), 3.0);
    stop(bridge);
    let connections = relay.stats().connections;
    assert_eq!(connections.iter().map(|c| c.status).collect::<Vec<_>>(), [429, 500, 503, 101]);
    let waited = connections[1].at - connections[0].at;
    assert!(waited >= Duration::from_secs(3), "asked again after {waited:?}");
    compare(&TRAFFIC.served(1, 0..500), &place.arrived()).once();
}

#[test]
fn a_second_instance_and_a_damaged_cursor_are_refused_with_a_line_that_helps() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(looped(500)).expect("a relay");
    let place = Place::new(&broker, "second");
    let bridge = place.start(&relay, &[]);
    settled(&bridge, 500);
    let url = relay.url();
    let listen = format!("127.0.0.1:{}", free_port());
    let args = place.args(&[&url], &["--metrics-listen-address", &listen]);
    let (code, _, error) = run(&args, &[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("another atkafka") && error.contains("another output"), "{error}");
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200), "the first one goes on");
    stop(bridge);

    let [file] = &cursor_files(&place.state)[..] else { panic!("one cursor file") };
    for damaged in ["", "{\"version\":1,\"seq\":", "\u{0}\u{0}\u{0}\u{0}"] {
        std::fs::write(file, damaged).expect("written");
        let (code, _, error) = run(&args, &[]);
        assert_eq!(code, Some(1), "{damaged:?}: {error}");
        let line = error.lines().find(|l| l.contains("damaged")).unwrap_or_else(|| panic!("{error}"));
        assert!(line.contains(&*file.to_string_lossy()) && line.contains("delete it"), "{line}");
        assert_eq!(std::fs::read_to_string(file).expect("read"), damaged, "left as it is");
    }
    assert_eq!(relay.stats().connections.len(), 1, "nobody asked the relay");
    compare(&TRAFFIC.served(1, 0..500), &place.arrived()).once();
}

#[test]
fn the_cursor_flag_says_where_a_first_start_begins_and_a_saved_cursor_goes_before_it() {
    let Some(broker) = broker(KAFKA) else { return };
    for (flag, asked, behind) in [("oldest", Some(0), 0), ("700", Some(700), 700), ("live", None, 1_000)] {
        let config = RelayConfig { from_start: false, live_limit: Some(1_000), ..looped(3_000) };
        let relay = Relay::start(config).expect("a relay");
        let place = Place::new(&broker, "flag");
        let bridge = place.start(&relay, &["--cursor", flag]);
        assert!(relay.wait_until(SOON, |s| s.connections.len() == 1), "connected");
        relay.set_live_limit(2_000);
        settled(&bridge, 2_000);
        stop(bridge);
        relay.set_live_limit(3_000);
        // A saved one goes before whatever the flag says now.
        let bridge = place.start(&relay, &["--cursor", "5"]);
        settled(&bridge, 3_000);
        stop(bridge);
        assert_eq!(cursors(&relay), [asked, Some(2_000)], "--cursor {flag}");
        compare(&TRAFFIC.served(1, behind..3_000), &place.arrived()).once();
    }
}

#[test]
fn two_relays_have_a_cursor_and_an_order_each() {
    let Some(broker) = broker(KAFKA) else { return };
    let far = 1_000_000;
    let config = |first| RelayConfig {
        rate: 2_000.0,
        numbering: Numbering::Step { first, step: 1 },
        faults: Faults { drop_every: Some(1_500), ..Faults::default() },
        ..held_back(looped(5_000))
    };
    let near_relay = Relay::start(config(1)).expect("a relay");
    let far_relay = Relay::start(config(far)).expect("a relay");
    let (near_url, far_url) = (near_relay.url(), far_relay.url());
    let urls = [near_url.as_str(), far_url.as_str()];
    let place = Place::new(&broker, "two");
    let bridge = Bridge::start(&place.args(&urls, &[]));
    bridge.wait("both", SOON, |_| [&near_relay, &far_relay].iter().all(|r| r.frames_sent() > 2_000));
    stop(bridge);
    assert_eq!(cursor_files(&place.state).len(), 2);
    near_relay.set_live_limit(5_000);
    far_relay.set_live_limit(5_000);
    // Each belongs to its host, not to its place on the command line.
    let bridge = Bridge::start(&place.args(&[urls[1], urls[0]], &[]));
    bridge.wait("both to their ends", SOON, |b| {
        let metrics = b.metrics();
        let delivered = metrics.iter().filter(|(name, _)| name.starts_with("atkafka_last_seq_delivered"));
        let mut delivered: Vec<f64> = delivered.map(|(_, seq)| *seq).collect();
        delivered.sort_by(f64::total_cmp);
        delivered == [5_000.0, (far + 4_999) as f64]
    });
    stop(bridge);
    let (near, far_off): (Vec<_>, Vec<_>) = place.arrived().into_iter().partition(|a| seq_of(a) < Some(far));
    compare(&TRAFFIC.served(1, 0..5_000), &near).once();
    compare(&TRAFFIC.served(far, 0..5_000), &far_off).once();
}

// --- lines ----------------------------------------------------------------------------------

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
    let until = Instant::now() + STOP;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it still runs");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

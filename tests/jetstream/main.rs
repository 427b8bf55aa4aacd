//! Jetstream: its messages on both wires as the events that relay mode makes, and what is killed, dropped, clamped, refused,
//! packed or filtered on the way.

mod gaps;
#[path = "../support/golden.rs"]
mod golden;
mod lost;
mod messages;
#[path = "../support/mod.rs"]
mod support;
mod asking;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use atkafka_fixtures::directory::Directory;
use atkafka_fixtures::jetstream::{Event, Jetstream, JetstreamConfig, dictionary};
use atkafka_fixtures::relay::{Relay, RelayConfig, wire};
use sonic_rs::{JsonContainerTrait, JsonValueMutTrait, JsonValueTrait, Value};
use support::*;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// After a SIGTERM.
const STOP: Duration = Duration::from_secs(10);
const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;
/// The wires, each with its options.
const WIRES: [&[&str]; 3] = [
    &["--jetstream-version", "1"],
    &["--jetstream-version", "2"],
    &["--jetstream-version", "2", "--jetstream-compression", "zstd"],
];

fn now_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_micros()) as u64
}

fn server(config: JetstreamConfig) -> Jetstream {
    let server = Jetstream::start(config).expect("a Jetstream");
    server.set_dictionary(dictionary(1));
    server
}

fn start(server: &Jetstream, more: &[&str]) -> Bridge {
    Bridge::start(&[&["firehose", "jetstream", "--jetstream-host", &server.url()], more].concat())
}

/// Into lines, with a position that is kept.
fn start_kept(server: &Jetstream, state: &Path, more: &[&str]) -> Bridge {
    start(server, &[&["--state-dir", state.to_str().expect("UTF-8")], more].concat())
}

/// SIGTERM, which has to end it in order and soon.
fn stop(mut bridge: Bridge) -> Vec<String> {
    bridge.signal("TERM");
    let status = bridge.end(STOP);
    assert_eq!(status.code(), Some(0), "{}", bridge.log().join("\n"));
    std::thread::sleep(Duration::from_millis(100));
    bridge.lines()
}

/// Connected, and sent whatever is there.
fn connected(bridge: &Bridge) {
    bridge.wait("connected", SOON, |b| b.metric("atkafka_connected") >= 1.0);
}

fn posts(numbers: std::ops::Range<usize>, from_us: u64, step_us: u64) -> Vec<Event> {
    let did = |n: usize| format!("did:plc:account{}", n % 37);
    let first = numbers.start;
    numbers.map(|n| Event::post(&did(n), from_us + (n - first) as u64 * step_us, n)).collect()
}

/// The number of each post among these lines, in order.
fn numbers(lines: &[String]) -> Vec<u64> {
    lines.iter().filter_map(|line| number(&golden::parse(line))).collect()
}

fn number(event: &Value) -> Option<u64> {
    event.pointer(sonic_rs::pointer!["operation", "record", "n"])?.as_u64()
}

fn infos(lines: &[String]) -> Vec<String> {
    let name =
        |line: &String| golden::parse(line).pointer(sonic_rs::pointer!["info", "name"])?.as_str().map(str::to_string);
    lines.iter().filter_map(name).collect()
}

//! What people see of a running process: the log, the status line, `/readyz`, and `systemctl status`. Nothing that comes
//! over the network fills a disk, fools a terminal, or looks like a line of ours.

mod support;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::identity_frame;
use atkafka_fixtures::relay::{DropHow, Inject, Numbering, Relay, RelayConfig};
use sonic_rs::{JsonValueTrait, Value};
use support::*;

const SOON: Duration = Duration::from_secs(60);
const TIME: &str = "2026-07-04T14:38:07.784Z";
/// ESC, a line end, C1, the separators, and marks that turn the direction of writing.
const EVIL: &str = "a\u{1b}[2J\n\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}\u{7f}z";
const SHOWN: &str = "a\\u{1b}[2J\\n\\u{9b}31m\\u{85}\\u{2028}\\u{2029}\\u{202e}\\u{2066}\\u{200f}\\u{7f}z";

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
    assert!(peak < 300, "{peak} MB, of which 256 MiB may be in flight");
    assert!(bytes < 200_000 && log.iter().all(|line| line.len() < 4_000), "{bytes} bytes of log");
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert!((1..=100).contains(&count("error frame Trouble")), "{}", count("error frame Trouble"));
    // What is held back is said, at the end at the latest.
    let more =
        log.iter().filter_map(|l| l.split("and ").nth(1)?.split(" more like it before").next()?.parse::<u64>().ok());
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

//! The connections to Tap: addresses, passwords, limits, and links that die or never fall silent.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atkafka_fixtures::relay::wire;
use atkafka_fixtures::tap::{TapConfig, TapEvent, TapMessage};

use crate::endless;
use crate::support::*;
use crate::{REV, SOON, did, post, quick, settled, start, stop, tap};

#[test]
fn the_admin_password_comes_from_a_flag_a_file_or_the_environment() {
    let tap = tap(TapConfig { password: Some("sécret:1".into()), ..TapConfig::default() });
    let file = folder("password").join("password");
    std::fs::write(&file, "sécret:1\n").expect("written");
    let url = tap.url();
    let args = ["firehose", "tap", "--tap-host", &url];
    for (n, bridge) in [
        Bridge::start(&[&args[..], &["--tap-password", "sécret:1"]].concat()),
        Bridge::start(&[&args[..], &["--tap-password-file", &file.to_string_lossy()]].concat()),
        Bridge::start_with(&args, &[("ATKAFKA_TAP_PASSWORD", "sécret:1")]),
    ]
    .into_iter()
    .enumerate()
    {
        bridge.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
        tap.push([post("did:plc:a", true, n)]);
        settled(&bridge, &tap);
        assert!(!bridge.log_contains("cret:1"), "{:?}", bridge.log());
        stop(bridge);
    }
    let stats = tap.stats();
    assert!(stats.requests.iter().any(|r| r.target == "/health" && r.status == 200), "{:?}", stats.requests);

    for more in [&["--tap-password", "guess"][..], &[]] {
        let bridge = start(&url, more);
        bridge.wait("the advice", SOON, |b| b.log_contains("401") && b.log_contains("--tap-password"));
        bridge.wait("not ready", SOON, |b| {
            b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("401"))
        });
        assert!(!bridge.log_contains("guess"), "{:?}", bridge.log());
        stop(bridge);
    }
}

#[test]
fn a_tap_in_webhook_mode_is_named_as_such() {
    let tap = tap(TapConfig { webhook: true, ..TapConfig::default() });
    let bridge = start(&tap.url(), &[]);
    bridge.wait("the advice", SOON, |b| b.log_contains("400") && b.log_contains("TAP_WEBHOOK_URL"));
    bridge.wait("not ready", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("TAP_WEBHOOK_URL"))
    });
    assert!(!bridge.log_contains("cursor"), "Tap has none: {:?}", bridge.log());
    stop(bridge);
}

#[test]
fn http_addresses_and_paths_work_and_a_tap_that_was_away_is_read_on() {
    let tap = tap(TapConfig { prefix: "/deep/tap".into(), ..quick() });
    tap.refuse(true);
    let http = tap.url().replace("ws://", "http://");
    for (n, url) in [http.clone(), format!("{http}/"), format!("{}/channel", tap.url())].iter().enumerate() {
        tap.refuse(true);
        let bridge = start(url, &[]);
        bridge.wait("a refusal", SOON, |b| b.log_contains("503") && b.metric("atkafka_connected") == 0.0);
        tap.push([post("did:plc:a", true, n)]);
        tap.refuse(false);
        settled(&bridge, &tap);
        bridge.wait("ready", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
        tap.drop_connections();
        tap.push([post("did:plc:a", true, n + 100)]);
        settled(&bridge, &tap);
        bridge.wait("the lines", SOON, |b| b.lines().len() >= 2);
        stop(bridge);
    }
    let stats = tap.stats();
    assert!(stats.requests.iter().all(|r| ["/deep/tap/channel", "/deep/tap/health"].contains(&r.target.as_str())));
    assert!(stats.requests.iter().all(|r| r.user_agent.as_deref().is_some_and(|a| a.starts_with("atkafka/"))));
}

/// It is not kept in memory; it ends the connection, and what stands behind it comes on the next one. A Tap sends none:
/// its records have 1 MB at most.
#[test]
fn a_message_over_the_limit_is_counted_and_ends_its_connection() {
    let tap = tap(quick());
    let bridge = start(&tap.url(), &[]);
    bridge.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
    tap.push([post("did:plc:a", true, 0), TapEvent::raw(wire::TEXT, &vec![b'x'; 17 << 20])]);
    tap.push((1..50).map(|n| post(&did(n), n % 2 == 0, n)));
    let stats = settled(&bridge, &tap);
    assert_eq!(stats.connections, 2);
    assert_eq!(bridge.metric(r#"atkafka_dead_letters{reason="over_limit"}"#), 1.0);
    assert!(bridge.log_contains("over the limit of 16777216"), "{:?}", bridge.log());
    stop(bridge);
}

/// A minute for three: a link that died is noticed, an idle one is legal, and so is one that was not read for a minute
/// since the output took nothing.
#[test]
fn a_dead_link_is_left_after_a_minute_and_a_living_one_is_not() {
    let (dead, idle, full) = (tap(quick()), tap(quick()), tap(TapConfig::default()));
    let to_dead = start(&dead.url(), &[]);
    let to_idle = start(&idle.url(), &[]);
    // More than fits into the pipe, the memory limit, and the socket's buffers.
    full.push((0..60_000).map(|n| post(&did(n), false, n)));
    let mut to_full = Command::new(env!("CARGO_BIN_EXE_atkafka"))
        .args(["firehose", "tap", "--tap-host", &full.url(), "--memory-limit", "16MiB"])
        .args(["--metrics-listen-address", "none"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    to_dead.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
    to_idle.wait("a connection", SOON, |b| b.metric("atkafka_connected") == 1.0);
    dead.deafen(true);
    std::thread::sleep(Duration::from_secs(50));
    assert_eq!(dead.stats().connections, 1);
    to_dead.wait("the end of the dead link", SOON, |b| b.log_contains("silent for"));
    dead.deafen(false);
    dead.push([post("did:plc:a", true, 1)]);
    settled(&to_dead, &dead);
    assert!(dead.stats().connections > 1);
    stop(to_dead);

    std::thread::sleep(Duration::from_secs(5));
    let stats = idle.stats();
    assert!(stats.connections == 1 && stats.pings >= 2, "{} {}", stats.connections, stats.pings);
    idle.push([post("did:plc:a", true, 1)]);
    settled(&to_idle, &idle);
    stop(to_idle);

    assert!(full.outbox() > 0, "the output was blocked");
    let mut out = to_full.stdout.take().expect("piped");
    let reading = std::thread::spawn(move || {
        let (mut buffer, mut lines) = (vec![0; 1 << 16], 0);
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            lines += buffer[..n].iter().filter(|b| **b == b'\n').count();
        }
        lines
    });
    let until = Instant::now() + SOON;
    while full.outbox() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = full.stats();
    let killed = to_full.kill().and_then(|()| to_full.wait());
    assert!(killed.is_ok());
    assert_eq!((stats.outbox, stats.connections), (0, 1), "one connection for all of it");
    assert!(reading.join().expect("read") >= 60_000);
}

/// Live events hold their accounts in Tap until they are acknowledged.
#[test]
fn pings_without_end_hold_back_neither_messages_nor_acknowledgements_nor_a_stop() {
    let tail = format!(r#""rev":"{REV}","collection":"a.b.c","rkey":"k","action":"delete""#);
    let text = |id| match TapEvent::record("did:plc:a", true, &tail).message {
        TapMessage::Rest(rest) => wire::message(wire::TEXT, format!(r#"{{"id":{id},{rest}"#).as_bytes()),
        TapMessage::Raw(..) => unreachable!("records have an id"),
    };
    let tap = endless::Flood::start((1..=3).flat_map(text).collect(), wire::message(wire::PING, b"x"));
    let bridge = start(&tap.url(), &[]);
    bridge.wait("the lines", SOON, |b| b.lines().len() == 3);
    bridge.wait("the acknowledgements", SOON, |_| tap.texts().len() == 3);
    assert!(tap.texts().iter().all(|text| text.contains(r#""type":"ack""#)), "{:?}", tap.texts());
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    stop(bridge);
}

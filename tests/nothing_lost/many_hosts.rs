//! Hundreds of hosts in one process, from a file.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;
use crate::{SOON, looped};

/// Each at ten a second.
const HOSTS: usize = 300;
const FRAMES: u64 = 100;
/// Of so many nobody is there.
const DEAD: usize = 20;

#[test]
fn three_hundred_hosts_are_all_delivered_and_the_dead_ones_do_not_crowd_the_log() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(RelayConfig { rate: 10.0, ..looped(FRAMES) }).expect("a relay");
    let dir = folder("many");
    let mut list = "# PDSes\n\n".to_string();
    // One server, and for the program as many hosts as there are paths.
    for host in 0..HOSTS {
        let _ = writeln!(list, "{}/h{host}", relay.url());
    }
    let dead = format!("127.0.0.1:{}", free_port());
    for host in 0..DEAD {
        let _ = writeln!(list, "ws://{dead}/h{host}");
    }
    let (file, state, topic) = (dir.join("hosts.txt"), dir.join("state"), unique("many"));
    std::fs::write(&file, list).expect("written");
    let hosts = format!("@{}", file.display());
    let args = ["firehose", "relay", "--relay-host", &hosts, "--bootstrap-servers", &broker, "--output-topic", &topic];
    let state_dir = state.display().to_string();
    let bridge = Bridge::start(&[&args[..], &["--cursor", "oldest", "--state-dir", &state_dir]].concat());
    let frames = (HOSTS as u64 * FRAMES) as f64;
    bridge.wait("all frames", SOON * 2, |b| b.metric("atkafka_received_frames") >= frames);
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200), "most hosts are there");
    assert_eq!(bridge.metric("atkafka_connected{") as usize, HOSTS);
    bridge.wait("nothing in flight", SOON, |b| b.metric("atkafka_frames_in_flight") == 0.0);
    // Dead ones are tried again and again, and said once.
    let until = Instant::now() + SOON;
    while bridge.metric("atkafka_reconnects") < 3.0 * DEAD as f64 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
    }
    let log = bridge.log();
    let about_dead = log.iter().filter(|line| line.contains(&dead)).count();
    assert!((DEAD..DEAD + 3).contains(&about_dead) && log.len() < DEAD + 20, "{about_dead} of {}: {log:#?}", log.len());
    assert!(log.iter().any(|line| line.contains("320 hosts, 0 of them with a saved position")), "{log:#?}");
    let peak = bridge.peak_memory();
    println!("peak memory of {HOSTS} hosts: {} MiB", peak >> 20);
    assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    let (code, log) = bridge.stop();
    assert_eq!(code, Some(0), "{log:#?}");
    let saved = std::fs::read_dir(&state).expect("the state").filter_map(|entry| {
        let text = std::fs::read_to_string(entry.ok()?.path()).ok()?;
        text.contains(&format!("\"seq\":{FRAMES},")).then_some(())
    });
    assert_eq!(saved.count(), HOSTS, "a cursor for each");
    // Each event of each host, as often as there are hosts.
    let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
    for record in consume(&broker, &topic) {
        *counts.entry(record.value).or_default() += 1;
    }
    assert!(counts.len() > 50 && counts.values().all(|count| *count == HOSTS), "{} events", counts.len());
}

#[test]
fn without_most_of_its_hosts_it_is_not_ready_and_names_one() {
    let relay = Relay::start(looped(10)).expect("a relay");
    let dir = folder("few");
    let file = dir.join("hosts.txt");
    let dead = free_port();
    std::fs::write(&file, format!("{}\nws://127.0.0.1:{dead}/a\nws://127.0.0.1:{dead}/b\n", relay.url()))
        .expect("written");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &format!("@{}", file.display())]);
    let says = format!("2 of 3 hosts give nothing: not connected to 127.0.0.1:{dead}/a: ");
    bridge.wait("the count and one host", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains(&says))
    });
}

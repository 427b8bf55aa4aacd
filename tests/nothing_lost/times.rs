//! A first start at a time, on hosts that know only seqs.

use std::path::Path;
use std::time::SystemTime;

use atkafka_fixtures::frames;
use atkafka_fixtures::network::builder::identity_frame;
use atkafka_fixtures::network::records::datetime;
use atkafka_fixtures::relay::{CursorRule, DropHow, Faults, HttpAnswer, OnBadCursor, Relay, RelayConfig};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{SOON, STOP, cursor_files, cursors, kill_for_lines, stop};

/// Connections of a search at most.
const MOST: usize = 40;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The seq of event `n`: with holes.
fn seq(n: u64) -> u64 {
    5_000_000 + n + n / 100 * 90
}

/// `count` events, every `step` milliseconds from `begin` on.
fn history(count: u64, begin: u64, step: u64) -> Vec<Vec<u8>> {
    let event = |n: u64| identity_frame(seq(n), "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", &datetime(begin + n * step), None);
    (0..count).map(event).collect()
}

fn relay(config: RelayConfig) -> Relay {
    Relay::start(RelayConfig { from_start: false, ..config }).expect("a relay")
}

/// The same, with something new each 100 ms behind the first `count` events.
fn busy(frames: Vec<Vec<u8>>, count: u64, config: RelayConfig) -> Relay {
    let RelayConfig { cursor, outdated, future, oldest, faults, .. } = config;
    let script = RelayConfig::script(frames);
    relay(RelayConfig { rate: 10.0, backlog: count, cursor, outdated, future, oldest, faults, ..script })
}

fn start(relay: &Relay, state: &Path, cursor: &str) -> Bridge {
    let state = state.to_str().expect("UTF-8");
    Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--state-dir", state, "--cursor", cursor])
}

fn seqs(lines: &[String]) -> Vec<u64> {
    let seq = |line: &String| sonic_rs::get(line.as_str(), ["seq"]).ok().and_then(|seq| seq.as_u64());
    lines.iter().filter_map(seq).collect()
}

/// What the log says that was found.
fn found(bridge: &Bridge) -> String {
    bridge.wait("found", SOON, |b| b.log_contains("asked for events since"));
    bridge.log().into_iter().find(|line| line.contains("asked for events since")).unwrap_or_default()
}

#[test]
fn a_first_start_of_a_relay_begins_at_a_time_and_a_saved_position_goes_before_it() {
    for (cursor, bad) in [(CursorRule::Exclusive, OnBadCursor::Silent), (CursorRule::Inclusive, OnBadCursor::Tell)] {
        let begin = now_ms() - 10 * HOUR;
        let config = RelayConfig { cursor, outdated: bad, future: bad, ..RelayConfig::script(vec![]) };
        let relay = busy(history(5_000, begin, 2 * SECOND), 4_000, config);
        let state = folder("state");
        // Between the events 2,999 and 3,000.
        let asked = datetime(begin + 5_999 * SECOND);
        let bridge = start(&relay, &state, &asked);
        let says = found(&bridge);
        let before = datetime(begin + 5_998 * SECOND);
        for part in [&asked, &format!("behind seq {}, which is of {before}", seq(2_999)), "connections)"] {
            assert!(says.contains(part), "{part}: {says}");
        }
        bridge.wait("a thousand events", SOON, |b| b.lines().len() > 1_000);
        assert_eq!((bridge.metric("atkafka_gaps{"), bridge.metric("atkafka_reconnects")), (0.0, 0.0), "{cursor:?}");
        assert!(bridge.get("/readyz").is_some_and(|(status, _)| status == 200));
        let asked_for = cursors(&relay);
        assert!(asked_for.len() <= MOST, "{asked_for:?}");
        assert_eq!(asked_for.last(), Some(&Some(seq(2_999))));
        let mut lines = kill_for_lines(bridge);
        let bridge = start(&relay, &state, &asked);
        bridge.wait("more", SOON, |b| b.lines().len() > 5);
        assert!(bridge.log_contains("--cursor is not used"), "{:?}", bridge.log());
        assert_eq!(cursors(&relay).len(), asked_for.len() + 1, "a saved position is not looked for");
        lines.extend(kill_for_lines(bridge));
        let mut arrived = seqs(&lines);
        arrived.sort_unstable();
        arrived.dedup();
        let expected: Vec<u64> = (3_000..).map(seq).take(arrived.len()).collect();
        assert_eq!(arrived, expected, "{cursor:?}");
    }
}

#[test]
fn a_quiet_host_is_searched_too() {
    let begin = now_ms() - 50 * HOUR;
    let config = RelayConfig::script(history(20, begin, HOUR));
    let relay = relay(RelayConfig { future: OnBadCursor::Tell, ..config });
    let bridge = start(&relay, &folder("state"), &datetime(begin + 15 * HOUR));
    bridge.wait("looking", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("looking for the seq at which"))
    });
    bridge.wait("what is newer", SOON, |b| seqs(&b.lines()) == [15, 16, 17, 18, 19].map(seq));
    stop(bridge);
}

#[test]
fn a_time_before_everything_that_a_relay_keeps_is_its_oldest_and_no_gap() {
    // The cursor before the oldest event is told to be outdated where cursors are inclusive.
    for cursor in [CursorRule::Exclusive, CursorRule::Inclusive] {
        let begin = now_ms() - HOUR;
        let config =
            RelayConfig { cursor, outdated: OnBadCursor::Tell, oldest: Some(seq(250)), ..RelayConfig::script(vec![]) };
        let relay = busy(history(400, begin, SECOND), 300, config);
        let bridge = start(&relay, &folder("state"), "2h ago");
        let oldest = datetime(begin + 250 * SECOND);
        let says = found(&bridge);
        assert!(
            says.contains(&format!("is later, seq {}, of {oldest}: beginning with it (1 conn", seq(250))),
            "{says}"
        );
        bridge.wait("what is kept", SOON, |b| seqs(&b.lines()).starts_with(&[250, 251, 252].map(seq)));
        assert_eq!(bridge.metric("atkafka_gaps{"), 0.0, "{:?}", bridge.log());
        assert_eq!(bridge.log_contains("OutdatedCursor"), cursor == CursorRule::Inclusive, "{:?}", bridge.log());
        stop(bridge);
    }
}

#[test]
fn history_that_goes_away_during_the_search_is_no_gap() {
    let begin = now_ms() - HOUR;
    let config = RelayConfig { outdated: OnBadCursor::Tell, ..RelayConfig::script(vec![]) };
    let relay = busy(history(3_000, begin, SECOND), 2_900, config);
    std::thread::scope(|scope| {
        let forgets = scope.spawn(|| {
            relay.wait_until(SOON, |stats| stats.connections.len() >= 2);
            relay.set_oldest(seq(2_500));
        });
        let bridge = start(&relay, &folder("state"), &datetime(begin + 1_000 * SECOND));
        bridge.wait("what is kept", SOON, |b| seqs(&b.lines()).starts_with(&[2_500, 2_501].map(seq)));
        assert_eq!(bridge.metric("atkafka_gaps{"), 0.0, "{:?}", bridge.log());
        stop(bridge);
        forgets.join().expect("joined");
    });
}

#[test]
fn a_time_after_the_newest_event_is_live_and_one_in_the_future_is_refused() {
    let begin = now_ms() - HOUR;
    let frames = history(100, begin, SECOND);
    let relay = relay(RelayConfig { future: OnBadCursor::Tell, ..RelayConfig::script(frames.clone()) });
    let bridge = start(&relay, &folder("state"), "10m ago");
    let says = found(&bridge);
    assert!(says.contains(&format!("beginning live, behind the newest one, seq {}", seq(99))), "{says}");
    let pushed = relay.push(&frames::with_seq(&frames[0], seq(100)));
    bridge.wait("what is new", SOON, |b| seqs(&b.lines()) == [pushed]);
    assert_eq!(bridge.metric("atkafka_gaps{"), 0.0);
    stop(bridge);
    for words in [&["firehose", "relay"][..], &["record", "--output", "a.bin"]] {
        let (code, _, error) = run(&[words, &["--cursor", "2999-01-01T00:00:00Z"]].concat(), &[]);
        assert!(code == Some(2) && error.contains("--cursor") && error.contains("in the past"), "{error}");
    }
}

#[test]
fn a_search_outlasts_a_host_that_fails_and_ends_with_a_stop() {
    let begin = now_ms() - HOUR;
    let faults = Faults {
        http: vec![HttpAnswer::status(503), HttpAnswer::too_many(2)],
        drop_every: Some(4),
        drop_how: DropHow::Rst,
        drop_times: Some(5),
        ..Faults::default()
    };
    let relay = busy(history(1_500, begin, SECOND), 1_000, RelayConfig { faults, ..RelayConfig::script(vec![]) });
    let state = folder("state");
    let asked = datetime(begin + 500 * SECOND);
    let bridge = start(&relay, &state, &asked);
    bridge.wait("/readyz says why not", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("HTTP"))
    });
    bridge.kill();
    assert!(cursor_files(&state).is_empty(), "nothing is saved before it is found");
    let bridge = start(&relay, &state, &asked);
    bridge.wait("what is newer", SOON, |b| b.lines().len() >= 100);
    let first = seqs(&bridge.lines())[0];
    // One second before the time is near enough, and a connection that is reset may bring nothing.
    assert!((seq(490)..=seq(500)).contains(&first), "{first}: {:?}", bridge.log());
    stop(bridge);

    let silent = self::relay(RelayConfig::script(vec![]));
    let mut bridge = start(&silent, &folder("state"), "2h ago");
    assert!(silent.wait_until(SOON, |stats| stats.open == 1), "connected");
    bridge.signal("TERM");
    assert_eq!(bridge.end(STOP).code(), Some(0));
    assert_eq!(silent.stats().connections.len(), 1);
}

#[test]
fn each_of_several_hosts_is_searched_by_itself() {
    let begin = now_ms() - HOUR;
    let none = RelayConfig::script(vec![]);
    let one = busy(history(500, begin, SECOND), 400, none.clone());
    let other = busy(history(500, begin + 100 * SECOND, SECOND), 400, none);
    let file = folder("hosts").join("hosts.txt");
    std::fs::write(&file, format!("{}\n{}\n", one.url(), other.url())).expect("written");
    let (hosts, state, asked) = (format!("@{}", file.display()), folder("state"), datetime(begin + 200 * SECOND));
    let state = state.to_str().expect("UTF-8");
    let args = ["firehose", "relay", "--relay-host", &hosts, "--state-dir", state, "--cursor", &asked, "--debug"];
    let bridge = Bridge::start(&args);
    bridge.wait("both", SOON, |b| b.lines().len() > 500);
    for (relay, behind) in [(&one, 199), (&other, 99)] {
        let asked_for = cursors(relay);
        assert_eq!(asked_for.last(), Some(&Some(seq(behind))), "{asked_for:?}");
        assert!(asked_for.len() <= MOST, "{asked_for:?}");
    }
    stop(bridge);
}

#[test]
fn a_recording_begins_at_a_time() {
    let begin = now_ms() - HOUR;
    let all = history(500, begin, SECOND);
    let relay = busy(all.clone(), 400, RelayConfig::script(vec![]));
    let (dir, asked) = (folder("record"), datetime(begin + 300 * SECOND));
    let file = dir.join("some.bin");
    let path = file.to_str().expect("UTF-8");
    let record = |more: &[&str]| {
        let args = ["record", "--relay-host", &relay.url(), "--output", path, "--frames", "20", "--cursor", &asked];
        run(&[&args, more].concat(), &[])
    };
    let (code, _, log) = record(&[]);
    assert!(code == Some(0) && log.contains(&format!("behind seq {}", seq(299))), "{log}");
    assert!(frames::read(&file).expect("frames") == all[300..320]);
    let connections = relay.stats().connections.len();
    assert_eq!(record(&["--append"]).0, Some(0));
    assert!(frames::read(&file).expect("frames") == all[300..340]);
    assert_eq!(relay.stats().connections.len(), connections + 1, "what is recorded says where to go on");
}

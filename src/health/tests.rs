use std::time::Duration;

use super::verdict::*;
use super::*;

fn well() -> Health {
    let h = Health::default();
    h.add_source("a", true);
    h.add_source("b", true);
    h.source(0, Ok(()));
    h.source(1, Ok(()));
    h.sink(Ok(()));
    assert_eq!(h.ready(), Ok(()));
    h
}

#[test]
fn a_worker_that_hangs_is_said() {
    let h = well();
    h.undecoded_since(Instant::now().checked_sub(UNDECODED_AFTER / 2));
    assert_eq!(h.ready(), Ok(()));
    h.undecoded_since(Instant::now().checked_sub(UNDECODED_AFTER * 2));
    let why = h.ready().unwrap_err();
    assert!(why.contains("waited 20 s to be decoded"), "{why}");
    // The enricher holds it: it says so itself.
    h.enriching_since(Instant::now().checked_sub(UNDECODED_AFTER * 3));
    let why = h.ready().unwrap_err();
    assert!(why.contains("directory") && !why.contains("decoded"), "{why}");
    h.enriching_since(None);
    h.undecoded_since(None);
    assert_eq!(h.ready(), Ok(()));
}

#[test]
fn of_many_hosts_most_count_and_one_is_named() {
    let h = Health::default();
    h.expect_many();
    h.sink(Ok(()));
    for host in ["a", "b", "c", "d", "e"] {
        h.add_source(host, true);
    }
    for index in 0..3 {
        h.source(index, Ok(()));
    }
    assert_eq!(h.ready(), Ok(()), "two of five are away");
    h.silent(1, Instant::now().checked_sub(UNDECODED_AFTER));
    let why = h.ready().unwrap_err();
    assert!(why.starts_with("3 of 5 hosts give nothing: no event of b for 10 s"), "{why}");
    h.silent(1, None);
    for index in 0..5 {
        h.not_saved(index, &format!("{index}.json: cannot be saved: the disk is full"), true);
    }
    let why = h.ready().unwrap_err();
    assert!(why.contains("2.json") && !why.contains("3.json") && why.contains("2 more positions"), "{why}");
}

#[test]
fn a_busy_host_that_is_silent_is_said() {
    let h = well();
    h.silent(1, Instant::now().checked_sub(UNDECODED_AFTER * 2));
    let why = h.ready().unwrap_err();
    assert!(why.contains("no event of b for 20 s"), "{why}");
    h.silent(1, None);
    assert_eq!(h.ready(), Ok(()));
}

#[test]
fn a_host_of_which_no_frame_is_readable_is_said() {
    let h = well();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    h.decoded_at(at(0), 1, 5, 5);
    h.decoded_at(at(59), 1, 1, 1);
    h.decoded_at(at(59), 1, 0, 0);
    assert_eq!(h.ready(), Ok(()));
    h.decoded_at(at(61), 1, 1, 1);
    h.decoded_at(at(61), 0, 9, 0);
    let why = h.ready().unwrap_err();
    assert!(why.contains("no frame of b was readable for 61 s"), "{why}");
    h.decoded_at(at(62), 1, 7, 6);
    assert_eq!(h.ready(), Ok(()), "one was readable");
    h.decoded_at(at(63), 1, 7, 7);
    assert_eq!(h.ready(), Ok(()));
}

#[test]
fn says_each_reason() {
    let h = Health::default();
    h.add_source("a", true);
    h.add_source("b", true);
    assert!(h.ready().is_err());
    h.source(0, Ok(()));
    h.source(1, Ok(()));
    h.sink(Ok(()));
    assert_eq!(h.ready(), Ok(()));
    h.source(1, Err("refused".into()));
    h.in_flight(1, Some(InFlight { received: ago(STUCK_AFTER * 2), time_ms: 0 }));
    let why = h.ready().unwrap_err();
    assert!(why.contains("b: refused") && why.contains("waits for 30 s"), "{why}");
    // The cause instead of what follows from it.
    h.sink(Err("b:9092: connection refused".into()));
    let why = h.ready().unwrap_err();
    assert!(why.ends_with("output: b:9092: connection refused"), "{why}");
}

fn ago(age: Duration) -> Instant {
    Instant::now().checked_sub(age).expect("the machine runs for longer")
}

#[test]
fn a_cause_says_since_when_whatever_its_words_become() {
    let h = well();
    h.sink(Err("connection refused".into()));
    h.with(|s| s.sink.as_mut().expect("there").since = Some(ago(Duration::from_secs(25))));
    h.sink(Err("timed out".into()));
    assert_eq!(h.ready(), Err("output: timed out (for 25 s)".into()));
    h.sink(Ok(()));
    h.sink(Err("again".into()));
    assert_eq!(h.ready(), Err("output: again".into()));
}

#[test]
fn the_lag_grows_while_nothing_is_delivered() {
    let h = well();
    let about = |lag: Option<f64>, seconds: f64| lag.is_some_and(|lag| (lag - seconds).abs() < 0.5);
    assert_eq!(h.lags(), [None, None]);
    h.delivered(0, 0.2);
    assert!(about(h.lags()[0], 0.2));
    // In flight for a moment, as always.
    h.in_flight(0, Some(InFlight { received: Instant::now(), time_ms: clock::now_ms() - 300 }));
    assert!(about(h.lags()[0], 0.2));
    // The broker is away: the age of the oldest event.
    h.in_flight(0, Some(InFlight { received: ago(Duration::from_secs(30)), time_ms: clock::now_ms() - 40_000 }));
    assert!(about(h.lags()[0], 40.0), "{:?}", h.lags());
    h.in_flight(0, Some(InFlight { received: ago(Duration::from_secs(30)), time_ms: 0 }));
    assert!(about(h.lags()[0], 30.0), "{:?}", h.lags());
    h.in_flight(0, None);
    // The host is away. Before that it was quiet: an hour without events is no lag.
    h.with(|s| s.sources[0].delivered = Some((0.2, ago(Duration::from_secs(3600)))));
    h.source(0, Err("refused".into()));
    h.with(|s| s.sources[0].away.as_mut().expect("away").since = Some(ago(Duration::from_secs(20))));
    assert!(about(h.lags()[0], 20.2), "{:?}", h.lags());
    h.source(0, Ok(()));
    assert!(about(h.lags()[0], 0.2));
    assert_eq!(h.lags()[1], None, "of the other nothing is known");
}

#[test]
fn positions_that_cannot_be_saved() {
    let h = Health::default();
    h.sink(Ok(()));
    h.not_saved(0, "x.json: no space", false);
    assert_eq!(h.ready(), Ok(()), "a moment is nothing");
    h.with(|s| {
        for not_saved in s.not_saved.values_mut() {
            not_saved.since = Instant::now().checked_sub(STUCK_AFTER * 2).expect("a clock");
        }
    });
    h.not_saved(0, "x.json: no space left", false);
    let why = h.ready().unwrap_err();
    assert!(why.contains("x.json: no space left (for 30 s"), "{why}");
    h.saved(0);
    assert_eq!(h.ready(), Ok(()));
    h.not_saved(1, "y.json: read-only", true);
    assert!(h.ready().unwrap_err().contains("y.json: read-only (nothing"));
    h.saved(1);
    h.saving(Instant::now().checked_sub(STUCK_AFTER * 2));
    assert!(h.ready().unwrap_err().contains("hangs"));
    h.saving(None);
    assert_eq!(h.ready(), Ok(()));
}

#[test]
fn a_standby_is_well_and_not_behind() {
    let h = Health::default();
    h.add_source("a", true);
    assert!(h.ready().is_err() && !h.stands_by(false));
    assert!(!h.stands_by(true), "it did not before");
    assert!(h.ready() == Ok(()) && h.is_standby() && h.lags() == [None]);
    assert!(h.stands_by(false), "it did before");
    let why = h.ready().unwrap_err();
    assert!(why.contains("not connected to a: connecting") && why.contains("output: connecting"), "{why}");
}

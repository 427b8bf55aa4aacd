//! Moderation events of an Ozone: each once although they commit late, sessions that go on by themselves, and values as
//! the API gave them.

#[path = "ozone/edges.rs"]
mod edges;
#[path = "ozone/sessions.rs"]
mod sessions;
#[path = "support/own_broker.rs"]
mod own_broker;
mod support;
#[path = "ozone/values.rs"]
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use atkafka_fixtures::ozone::{Draft, IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, comment};
use own_broker::Broker;
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};
use support::*;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn start(config: OzoneConfig) -> Ozone {
    Ozone::start(config).expect("a port")
}

fn did(i: usize) -> String {
    format!("did:plc:subject{:017}", i % 20).replace('0', "a").replace('1', "b").replace('8', "c").replace('9', "d")
}

/// A comment on one of twenty accounts, made now and seen `hidden` later.
fn late(i: usize, hidden_ms: u64) -> Draft {
    Draft { hidden: Duration::from_millis(hidden_ms), ..comment(&did(i), &format!("note {i}")) }
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn args(ozone: &Ozone, more: &[&str]) -> Vec<String> {
    let url = ozone.url();
    let base = ["ozone-events", "--pds-host", &url, "--identifier", IDENTIFIER, "--labeler-did", LABELER];
    base.iter().chain(more).map(|s| s.to_string()).collect()
}

/// The bridge with the right password.
fn bridge(ozone: &Ozone, more: &[&str]) -> Bridge {
    bridge_with(ozone, more, &[("ATKAFKA_OZONE_PASSWORD", PASSWORD)])
}

fn bridge_with(ozone: &Ozone, more: &[&str], env: &[(&str, &str)]) -> Bridge {
    let args = args(ozone, more);
    Bridge::start_with(&args.iter().map(String::as_str).collect::<Vec<_>>(), env)
}

fn id_of(value: &Value) -> u64 {
    value.get("id").as_u64().unwrap_or_else(|| panic!("no id in {value}"))
}

/// The ids on standard output, in order.
fn line_ids(bridge: &Bridge) -> Vec<u64> {
    bridge.lines().iter().map(|l| id_of(&sonic_rs::from_str(l).expect("a line of JSON"))).collect()
}

fn wait_lines(bridge: &Bridge, count: usize) {
    bridge.wait(&format!("{count} lines"), SOON, |b| b.lines().len() >= count);
}

/// How often each id arrived.
fn counts(ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, usize> {
    let mut out = BTreeMap::new();
    for id in ids {
        *out.entry(id).or_default() += 1;
    }
    out
}

fn topic_counts(broker: &str, topic: &str) -> BTreeMap<u64, usize> {
    counts(consume(broker, topic).iter().map(|a| id_of(&a.json())))
}

fn assert_each_once(counts: &BTreeMap<u64, usize>, ids: &BTreeSet<u64>) {
    let have: BTreeSet<u64> = counts.keys().copied().collect();
    let missing: Vec<_> = ids.difference(&have).collect();
    let repeated: Vec<_> = counts.iter().filter(|(_, n)| **n > 1).collect();
    assert!(missing.is_empty() && repeated.is_empty(), "missing {missing:?}, repeated {repeated:?}");
    assert_eq!(have.len(), ids.len(), "and nothing else");
}

fn state_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the state directory");
    entries.map(|e| e.expect("an entry").path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect()
}

/// High water and ids of the window in the only state file; `None` while there is none.
fn saved(dir: &Path) -> Option<(i64, BTreeSet<u64>)> {
    let text = std::fs::read_to_string(state_files(dir).first()?).ok()?;
    let value: Value = sonic_rs::from_str(&text).expect("a state file is whole at any instant");
    let window = value.get("window")?.as_array()?.iter().filter_map(|pair| pair.get(1).as_u64()).collect();
    Some((value.get("high_water_ms").as_i64()?, window))
}

/// Waits until `id` is in the saved window.
fn wait_saved(bridge: &Bridge, dir: &Path, id: u64) {
    bridge.wait(&format!("{id} is saved"), SOON, |_| saved(dir).is_some_and(|(_, ids)| ids.contains(&id)));
}

/// Traffic that commits up to 1.3 s late, behind newer events, and one transaction of 400 in one millisecond.
fn emit(ozone: &Ozone, events: usize, seed: u64) -> BTreeSet<u64> {
    let mut random = seed;
    let mut ids = BTreeSet::new();
    for i in 0..events {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let hidden = if random >> 62 == 0 { 700 + (random >> 33) % 600 } else { (random >> 33) % 50 };
        ids.insert(ozone.add(&late(i, hidden)));
        if i == events / 2 {
            let ms = now_ms();
            ids.extend((0..400).map(|i| ozone.add(&Draft { created_ms: Some(ms), ..late(i, 1_300) })));
        }
        thread::sleep(Duration::from_millis(8));
    }
    ids
}

#[test]
fn late_commits_arrive_once_over_polls_and_a_restart_repeats_nothing() {
    let Some(broker) = broker(KAFKA) else { return };
    let ozone = start(OzoneConfig::default());
    let (topic, state) = (unique("ozone-late"), folder("state"));
    let more = ["--bootstrap-servers", &broker, "--output-topic", &topic, "--topic-partitions", "3"];
    let more = [&more[..], &["--state-dir", state.to_str().expect("UTF-8"), "--poll-interval", "200ms"]].concat();
    let mut ids: BTreeSet<u64> = (0..250).map(|i| ozone.add(&late(i, 0))).collect();
    let first = bridge(&ozone, &more);
    let emitted = thread::scope(|scope| {
        let emitter = scope.spawn(|| emit(&ozone, 700, 11));
        first.wait("some are delivered", SOON, |b| b.metric("atkafka_produced_events{status=\"ok\"}") > 500.0);
        assert!(first.metric("atkafka_ozone_repeats") > 0.0, "the window was read again");
        assert!(first.metric("atkafka_ozone_pages") >= 4.0, "pages until empty");
        assert_eq!(first.metric("atkafka_connected"), 1.0);
        let (code, log) = first.stop();
        assert_eq!(code, Some(0), "{log:?}");
        let second = bridge(&ozone, &more);
        let emitted = emitter.join().expect("no panic");
        let last = *emitted.last().expect("some");
        wait_saved(&second, &state, last);
        // The last of them may still be hidden.
        second.wait("all are delivered", SOON, |_| topic_counts(&broker, &topic).len() >= 250 + emitted.len());
        let name = "atkafka_handled_events{action_name=\"ozone#modEventComment\"";
        assert!(second.metric(name) > 0.0, "{:?}", second.metrics());
        assert!(second.metric("atkafka_ozone_requests{method=\"queryEvents\",status=\"200\"}") > 0.0);
        assert_eq!(second.stop().0, Some(0));
        emitted
    });
    ids.extend(emitted);
    let arrived = consume(&broker, &topic);
    assert_each_once(&counts(arrived.iter().map(|a| id_of(&a.json()))), &ids);
    let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for a in &arrived {
        let value = a.json();
        let subject = value.pointer(["subject", "did"]).as_str().expect("a subject").to_string();
        assert_eq!(a.key.as_deref(), Some(subject.as_str()));
        partitions.entry(subject).or_default().insert(a.partition);
    }
    assert!(partitions.len() == 20 && partitions.values().all(|p| p.len() == 1));
    let (_, window) = saved(&state).expect("a state file");
    let new = ids.iter().rev().take(100).filter(|id| window.contains(id)).count();
    assert_eq!(new, 100, "the ids of the look-back window are in the file");
    let queries = ozone.stats().queries;
    let times: Vec<_> = queries.iter().filter_map(|q| q.created_after.clone()).collect();
    assert!(times.iter().all(|t| t.len() == 24 && t.ends_with('Z')), "compared as text: {times:?}");
}

#[test]
fn killed_nothing_is_missing_and_only_what_was_not_saved_repeats() {
    let Some(broker) = broker(KAFKA) else { return };
    let ozone = start(OzoneConfig::default());
    let (topic, state) = (unique("ozone-kill"), folder("state"));
    let more = ["--bootstrap-servers", &broker, "--output-topic", &topic, "--topic-partitions", "3"];
    let more = [&more[..], &["--state-dir", state.to_str().expect("UTF-8"), "--poll-interval", "200ms"]].concat();
    let (ids, at_kills) = thread::scope(|scope| {
        let emitter = scope.spawn(|| emit(&ozone, 900, 12));
        let mut at_kills = Vec::new();
        for _ in 0..2 {
            let before = at_kills.last().map_or(0, |(ms, _)| *ms);
            let bridge = bridge(&ozone, &more);
            bridge.wait("a new position is saved", SOON, |_| saved(&state).is_some_and(|(ms, _)| ms > before + 1_000));
            bridge.kill();
            at_kills.push(saved(&state).expect("a state file"));
        }
        let last = bridge(&ozone, &more);
        let ids = emitter.join().expect("no panic");
        last.wait("all are delivered", SOON, |_| topic_counts(&broker, &topic).len() >= ids.len());
        assert_eq!(last.stop().0, Some(0));
        (ids, at_kills)
    });
    let counts = topic_counts(&broker, &topic);
    assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), ids, "nothing is missing");
    let repeated: Vec<u64> = counts.iter().filter(|(_, n)| **n > 1).map(|(id, _)| *id).collect();
    println!("{} events, {} repeated after two kills", ids.len(), repeated.len());
    for id in &repeated {
        assert!(!at_kills.iter().all(|(_, window)| window.contains(id)), "{id} was saved before both kills");
    }
    let final_kill = &at_kills[1].1;
    let twice_saved = at_kills[0].1.intersection(final_kill).filter(|id| counts[id] > 1).count();
    assert_eq!(twice_saved, 0, "what the file knows is not sent again");
}

#[test]
fn on_an_ozone_that_is_never_quiet_the_window_is_read_again_all_the_same() {
    // There is a next event whenever a page comes: a round that reads until nothing is left never ends.
    let ozone = start(OzoneConfig { latency: Duration::from_millis(60), ..OzoneConfig::default() });
    let bridge = bridge(&ozone, &["--poll-interval", "100ms", "--look-back", "4s"]);
    wait_lines(&bridge, 0);
    let mut ids = BTreeSet::new();
    for part in 0..2 {
        ids.extend(emit(&ozone, 700, 13 + part));
    }
    let ids = ids;
    bridge.wait("all are delivered", SOON, |b| line_ids(b).len() >= ids.len());
    assert_each_once(&counts(line_ids(&bridge)), &ids);
}

#[test]
fn while_the_broker_is_away_reading_goes_on_and_the_position_stays() {
    if broker(KAFKA).is_none() {
        return;
    }
    let own = Broker::start("4.3.1", 9_752, "plain");
    let ozone = start(OzoneConfig::default());
    let (topic, state, address) = (unique("ozone-away"), folder("state"), own.address());
    let more = ["--bootstrap-servers", &address, "--output-topic", &topic, "--topic-partitions", "1"];
    let more = [&more[..], &["--state-dir", state.to_str().expect("UTF-8"), "--poll-interval", "200ms"]].concat();
    let mut ids: BTreeSet<u64> = (0..50).map(|i| ozone.add(&late(i, 0))).collect();
    let bridge = bridge(&ozone, &more);
    wait_saved(&bridge, &state, *ids.last().expect("some"));
    let before = saved(&state).expect("a state file");
    own.kill();
    let new: Vec<u64> = (0..1_000).map(|i| ozone.add(&late(i, 0))).collect();
    bridge.wait("pages are read although nothing is delivered", SOON, |b| {
        b.metric("atkafka_frames_in_flight") >= 1_000.0
    });
    thread::sleep(Duration::from_secs(3));
    assert_eq!(saved(&state), Some(before), "the position is behind the broker");
    ids.extend(new);
    own.again();
    wait_saved(&bridge, &state, *ids.last().expect("some"));
    assert_eq!(bridge.stop().0, Some(0));
    assert_each_once(&topic_counts(&address, &topic), &ids);
}

#[test]
fn a_backlog_is_read_at_twenty_pages_a_second_and_the_next_event_does_not_wait_long() {
    let ozone = start(OzoneConfig { latency: Duration::from_millis(5), ..OzoneConfig::default() });
    let begin = now_ms() - 3_600_000;
    let backlog: BTreeSet<u64> = (0..40_000)
        .map(|i| ozone.add(&Draft { created_ms: Some(begin + i * 50), ..comment(&did(i as usize), "old") }))
        .collect();
    let bridge = bridge(&ozone, &[]);
    wait_lines(&bridge, backlog.len());
    let queries = ozone.stats().queries;
    let pages: Vec<_> = queries.iter().filter(|q| q.events == 100).collect();
    let took = pages[pages.len() - 1].at - pages[0].at;
    println!("{} pages in {took:?}, {:.0} a second", pages.len(), pages.len() as f64 / took.as_secs_f64());
    assert!(pages.len() >= 400 && took < Duration::from_secs(20), "{} pages in {took:?}", pages.len());
    let new = ozone.add(&late(1, 0));
    let added = Instant::now();
    bridge.wait("the next event", Duration::from_secs(20), |b| b.lines().len() > backlog.len());
    println!("the next event after {:?}", added.elapsed());
    let ids: BTreeSet<u64> = backlog.into_iter().chain([new]).collect();
    assert_each_once(&counts(line_ids(&bridge)), &ids);
}

#[test]
fn since_counts_for_the_first_start_and_the_saved_position_after_it() {
    let ozone = start(OzoneConfig::default());
    let state = folder("state");
    let at = |ms| Draft { created_ms: Some(ms), ..late(1, 0) };
    // 2026-01-01T00:00:00Z
    let since = 1_767_225_600_000;
    ozone.add(&at(since - 1));
    let wanted = [ozone.add(&at(since)), ozone.add(&at(since + 1))];
    let more = ["--state-dir", state.to_str().expect("UTF-8"), "--ozone-since", "2026-01-01T00:00:00Z"];
    let first = bridge(&ozone, &more);
    wait_lines(&first, 2);
    wait_saved(&first, &state, wanted[1]);
    assert_eq!(line_ids(&first), wanted);
    assert_eq!(first.stop().0, Some(0));
    let next = ozone.add(&at(since + 2));
    let second = bridge(&ozone, &[&more[..3], &["2040-01-01T00:00:00Z"]].concat());
    wait_lines(&second, 1);
    wait_saved(&second, &state, next);
    let ids = line_ids(&second);
    assert!(ids.contains(&next) && !ids.contains(&wanted[1]), "the saved position goes before --ozone-since: {ids:?}");
    drop(second);

    let file = &state_files(&state)[0];
    for damage in
        ["", "{\"version\":1,\"high_water_ms\":", "{\"version\":1,\"host\":\"\",\"output\":\"\",\"saved_at\":\"\"}"]
    {
        std::fs::write(file, damage).expect("written");
        let args = args(&ozone, &more);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--metrics-listen-address=none"]).collect();
        let (code, out, err) = run(&args, &[("ATKAFKA_OZONE_PASSWORD", PASSWORD)]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("damaged") && err.contains("delete it"), "{err}");
        assert_eq!(std::fs::read_to_string(file).expect("still there"), damage, "a damaged file is left alone");
    }
}

#[test]
fn each_labeler_has_a_position_of_its_own() {
    let ozone = start(OzoneConfig::default());
    let state = folder("state");
    let id = ozone.add(&late(1, 0));
    let bridge = bridge(&ozone, &["--state-dir", state.to_str().expect("UTF-8")]);
    wait_saved(&bridge, &state, id);
    let files = state_files(&state);
    let name = files[0].file_name().expect("a name").to_string_lossy().into_owned();
    assert!(name.contains("labelerlabeler"), "ids of one Ozone mean nothing at another one: {name}");
}

/// Runs to the end, which has to be an error; the log.
fn fails(ozone: &Ozone, more: &[&str], password: &str) -> String {
    let mut bridge = bridge_with(ozone, more, &[("ATKAFKA_OZONE_PASSWORD", password)]);
    // No restart makes it right: systemd makes none on 2.
    assert_eq!(bridge.end(SOON).code(), Some(2), "{:?}", bridge.log());
    thread::sleep(Duration::from_millis(100));
    let log = bridge.log().join("\n");
    assert!(log.lines().any(|l| l.contains("ERROR")), "{log}");
    log
}

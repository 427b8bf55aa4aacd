//! What is killed, dropped and sent again, and what arrives all the same.

use crate::support::*;
use crate::*;

/// What arrived: every post, and each account's in order but for repeats. Gives the repeats.
fn nothing_missing(broker: &str, topic: &str, total: usize) -> usize {
    let arrived = consume(broker, topic);
    let (mut seen, mut last): (BTreeSet<u64>, HashMap<String, u64>) = (BTreeSet::new(), HashMap::new());
    for record in &arrived {
        let n = number(&record.json()).expect("a post");
        if seen.insert(n) {
            let key = record.key.clone().expect("a key");
            let before = last.insert(key, n);
            assert!(before.is_none_or(|before| before < n), "{n} behind {before:?}");
        }
    }
    let missing: Vec<u64> = (0..total as u64).filter(|n| !seen.contains(n)).collect();
    assert!(missing.is_empty(), "{} missing: {:?}", missing.len(), &missing[..missing.len().min(20)]);
    arrived.len() - total
}

/// Kills, drops, and cursors that several events share, while events come.
#[test]
fn killed_and_dropped_again_and_again_nothing_is_missing_in_kafka() {
    let Some(broker) = broker(KAFKA) else { return };
    const TOTAL: usize = 24_000;
    for more in WIRES {
        let server = server(JetstreamConfig { drop_every: Some(3_000), ..JetstreamConfig::default() });
        let (topic, state) = (unique("jetstream"), folder("state"));
        let into = ["--bootstrap-servers", &broker, "--output-topic", &topic, "--topic-partitions", "4"];
        let options = [&into[..], &["--cursor", "oldest"], more].concat();
        let done = AtomicBool::new(false);
        let repeats = std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (0..TOTAL).step_by(20) {
                    // Twenty of one time: the cursor repeats them.
                    server.push(posts(n..n + 20, now_us(), 0));
                    std::thread::sleep(Duration::from_millis(8));
                }
                done.store(true, SeqCst);
            });
            for _ in 0..3 {
                let bridge = start_kept(&server, &state, &options);
                bridge.wait("some delivered", SOON, |b| b.metric("atkafka_handled_events") > 1_500.0);
                bridge.kill();
            }
            let bridge = start_kept(&server, &state, &options);
            bridge.wait("all read", SOON, |b| {
                done.load(SeqCst) && b.metric("atkafka_lag_seconds") < 60.0 && {
                    let before = b.metric("atkafka_handled_events");
                    std::thread::sleep(Duration::from_secs(3));
                    b.metric("atkafka_handled_events") == before && b.metric("atkafka_connected") == 1.0
                }
            });
            stop(bridge);
            nothing_missing(&broker, &topic, TOTAL)
        });
        let drops = server.stats().drops;
        assert!(drops > 3, "{drops} drops");
        println!("{more:?}: {TOTAL} events, 3 kills, {drops} drops: 0 missing, {repeats} repeated");
    }
}

/// A stop in order repeats nothing, whatever is sent again.
#[test]
fn what_comes_again_at_the_cursor_is_dropped() {
    let from = now_us() - 10 * SECOND;
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        server.push(posts(0..100, from, 50_000));
        server.push(posts(100..110, from + 5 * SECOND, 0));
        let state = folder("state");
        let options = [&["--cursor", "oldest"], more].concat();
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("all", SOON, |b| b.lines().len() >= 110);
        server.drop_connections();
        bridge.wait("a second connection", SOON, |b| b.metric("atkafka_repeated_frames") > 0.0);
        server.push(posts(110..120, from + 5 * SECOND, 0));
        bridge.wait("ten more", SOON, |b| b.lines().len() >= 120);
        let mut lines = stop(bridge);
        let bridge = start_kept(&server, &state, &options);
        connected(&bridge);
        server.push(posts(120..130, from + 6 * SECOND, 1));
        bridge.wait("the last ten", SOON, |b| b.lines().len() >= 10);
        lines.extend(stop(bridge));
        assert_eq!(numbers(&lines), (0..130).collect::<Vec<_>>(), "{more:?}");
        assert!(infos(&lines).is_empty(), "{more:?}");
    }
}

/// Each connection ends inside the overlap of two seconds.
#[test]
fn a_host_that_ends_connections_inside_the_overlap_is_read_on() {
    let server = server(JetstreamConfig { drop_every: Some(40), ..JetstreamConfig::default() });
    server.push(posts(0..130, now_us() - 5 * SECOND, 10_000));
    let bridge = start(&server, &["--cursor", "oldest", "--jetstream-version", "1"]);
    bridge.wait("all", SOON, |b| b.lines().len() >= 130);
    assert_eq!(numbers(&stop(bridge)), (0..130).collect::<Vec<_>>());
}

/// One wire today, the other one tomorrow.
#[test]
fn a_position_of_one_version_is_gone_on_from_on_the_other() {
    let from = now_us() - 10 * SECOND;
    let server = server(JetstreamConfig::default());
    let state = folder("state");
    let mut seen = Vec::new();
    for (i, more) in [WIRES[0], WIRES[2], WIRES[0], WIRES[1]].into_iter().enumerate() {
        server.push(posts(i * 100..(i + 1) * 100, from + i as u64 * SECOND, 10_000));
        let bridge = start_kept(&server, &state, &[&["--cursor", "oldest"], more].concat());
        let last = format!(r#""n":{}}}"#, i * 100 + 99);
        bridge.wait("the last one", SOON, |b| b.lines().iter().any(|line| line.contains(&last)));
        let now = numbers(&stop(bridge));
        if more == WIRES[0] && i > 0 {
            assert!(now.len() <= 100 + 2 * 100 + 1, "two seconds at most are repeated");
        } else {
            assert_eq!(now.len(), 100, "nothing is repeated: {i}");
        }
        seen.extend(now);
    }
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 400);
}

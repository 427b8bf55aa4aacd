//! Where events may be missing, and where they only seem to be.

use crate::support::*;
use crate::*;

/// Delivers one post of `hours` ago, and stops.
fn delivered(server: &Jetstream, state: &Path, hours: u64, more: &[&str]) {
    server.push(posts(0..1, now_us() - hours * HOUR, 0));
    let bridge = start_kept(server, state, &[&["--cursor", "oldest"], more].concat());
    bridge.wait("it", SOON, |b| b.lines().len() == 1);
    assert!(infos(&stop(bridge)).is_empty(), "oldest is no gap");
}

#[test]
fn a_cursor_that_is_older_than_what_is_kept_is_a_gap_on_every_wire() {
    for (more, filtered) in WIRES.iter().flat_map(|more| [(more, false), (more, true)]) {
        let server = server(JetstreamConfig::default());
        let state = folder("state");
        let mut options = more.to_vec();
        if filtered {
            options.extend(["--watched-collections", "app.bsky.feed.post"]);
        }
        delivered(&server, &state, 48, &options);
        server.push(posts(1..5, now_us() - 40 * HOUR, 1));
        server.push(posts(5..9, now_us() - 10 * HOUR, 1));
        server.forget_before(5);
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("the rest", SOON, |b| numbers(&b.lines()).len() == 4);
        assert_eq!(bridge.metric("atkafka_gaps{"), 1.0, "{options:?}: {:#?}", bridge.log());
        let lines = stop(bridge);
        assert_eq!(
            (numbers(&lines), infos(&lines)),
            (vec![5, 6, 7, 8], vec!["outdated_cursor".to_string()]),
            "{options:?}"
        );
        // It is told once.
        server.push(posts(9..10, now_us(), 0));
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("the last", SOON, |b| numbers(&b.lines()).len() == 1);
        assert!(infos(&stop(bridge)).is_empty(), "{options:?}");
    }
}

/// The first position stands before the first event, and a host of version 2 refuses a seq before its oldest one.
#[test]
fn a_kill_right_behind_a_start_with_the_oldest_event_is_no_gap() {
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        server.push(posts(0..5, now_us() - HOUR, 1));
        let (state, broker) = (folder("state"), "127.0.0.1:9");
        // The first position is saved, and nothing is ever delivered.
        let nowhere = [&["--cursor", "oldest", "--bootstrap-servers", broker, "--output-topic", "t"], more].concat();
        let bridge = start_kept(&server, &state, &nowhere);
        let saved = || {
            std::fs::read_dir(&state)
                .is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "json"))))
        };
        bridge.wait("the first position", SOON, |_| saved());
        bridge.kill();
        let file = std::fs::read_dir(&state).expect("the folder").filter_map(Result::ok).map(|e| e.path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|x| x == "json")).expect("saved");
        let text = std::fs::read_to_string(&file).expect("read");
        // The same position of an output that is there.
        let to = file.with_file_name(file.file_name().expect("a name").to_string_lossy().replace("~t.", "~stdout."));
        std::fs::write(to, text.replace("\"output\":\"t\"", "\"output\":\"stdout\"")).expect("written");
        let bridge = start_kept(&server, &state, more);
        bridge.wait("all", SOON, |b| numbers(&b.lines()).len() == 5);
        assert!(infos(&stop(bridge)).is_empty(), "{more:?}");
    }
}

#[test]
fn a_quiet_host_and_a_filter_of_the_server_make_no_gap() {
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        let state = folder("state");
        delivered(&server, &state, 20, more);
        server.push([Event::of(
            "commit",
            "did:plc:b",
            now_us(),
            r#"{"rev":"3k","operation":"delete","collection":"a.b.c","rkey":"k"}"#,
        )]);
        server.push(posts(1..3, now_us() - HOUR, 1));
        let options = [&["--watched-collections", "app.bsky.feed.post"], more].concat();
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("the rest", SOON, |b| numbers(&b.lines()).len() == 2);
        assert_eq!(bridge.metric("atkafka_gaps{"), 0.0, "{more:?}");
        stop(bridge);
    }
}

/// Another archive under the same address: its seqs begin anew, and the time leads to what came since.
#[test]
fn a_host_that_counts_anew_is_a_reset_and_is_read_on_by_the_time() {
    for tells_future in [false, true] {
        let server = server(JetstreamConfig { tells_future, first_seq: 1, ..JetstreamConfig::default() });
        let state = folder("state");
        let from = now_us() - HOUR;
        server.push(posts(0..1_000, from, 1_000));
        let options = ["--cursor", "oldest", "--jetstream-version", "2"];
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("all", SOON, |b| b.lines().len() == 1_000);
        stop(bridge);
        server.reset();
        server.push(posts(1_000..1_010, from + 10 * SECOND, 1_000));
        let bridge = start_kept(&server, &state, &options);
        connected(&bridge);
        // Without a word of the host it shows with the next event.
        server.push(posts(1_010..1_020, from + 20 * SECOND, 1_000));
        bridge.wait("the new ones", SOON, |b| numbers(&b.lines()).len() >= 20);
        let lines = stop(bridge);
        assert_eq!((numbers(&lines), infos(&lines)), ((1_000..1_020).collect(), vec!["host_reset".to_string()]));
    }
}

#[test]
fn a_live_start_that_is_killed_at_once_does_not_start_live_again() {
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        server.push(posts(0..10, now_us() - HOUR, 1));
        let state = folder("state");
        let bridge = start_kept(&server, &state, more);
        connected(&bridge);
        let from = now_us();
        server.push(posts(10..11, from, 1));
        bridge.wait("one", SOON, |b| numbers(&b.lines()) == [10]);
        bridge.kill();
        server.push(posts(11..20, from + 5, 1));
        let bridge = start_kept(&server, &state, more);
        bridge.wait("what came meanwhile", SOON, |b| numbers(&b.lines()).last() == Some(&19));
        let seen = numbers(&stop(bridge));
        assert!(seen == (11..20).collect::<Vec<_>>() || seen == (10..20).collect::<Vec<_>>(), "{more:?}: {seen:?}");
    }
}

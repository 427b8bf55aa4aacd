//! `atkafka record`: the frames byte for byte, which file it takes, and how it ends.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;
use crate::{BINARY, SOON, fixture, run_in, signal};

#[test]
fn record_writes_the_frames_byte_for_byte() {
    let list = fixture(300);
    let relay = Relay::start(RelayConfig::script(list.clone())).expect("a relay");
    let dir = folder("record");
    for (name, count) in [("all.bin", 300), ("all.bin.zst", 300), ("some.bin", 77)] {
        let count_text = count.to_string();
        let url = relay.url();
        let out = run_in(&dir, &["record", "--relay-host", &url, "--output", name, "--frames", &count_text], &[]);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(0), 0), "{err}");
        assert!(err.contains(&format!("{count} frames")) && err.contains(name), "{err}");
        let got = frames::read(dir.join(name)).expect("a file of frames");
        assert!(got == list[..count], "{name}: {} frames", got.len());
    }
    assert!(
        std::fs::metadata(dir.join("all.bin.zst")).expect("there").len() * 5
            < std::fs::metadata(dir.join("all.bin")).expect("there").len() * 4
    );
}

#[test]
fn record_replaces_no_file_and_goes_on_in_one() {
    let list = fixture(300);
    let relay = Relay::start(RelayConfig::script(list.clone())).expect("a relay");
    let (url, dir) = (relay.url(), folder("record"));
    let record = |name: &str, more: &[&str]| {
        let args = ["record", "--relay-host", &url, "--cursor", "oldest", "--output", name, "--frames"];
        let out = run_in(&dir, &[&args[..], more].concat(), &[]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for name in ["some.bin", "some.bin.zst"] {
        assert_eq!(record(name, &["100"]).0, Some(0));
        let (code, err) = record(name, &["100"]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("--append") && err.contains("--force"), "{err}");
        let read = || frames::read(dir.join(name)).expect("a file of frames");
        assert!(read() == list[..100], "it was not touched");
        if name == "some.bin" {
            // As a recorder leaves it that was killed.
            let path = dir.join(name);
            let length = std::fs::metadata(&path).expect("there").len();
            std::fs::File::options().write(true).open(&path).expect("there").set_len(length - 5).expect("cut");
            assert_eq!(record(name, &["1", "--append"]).0, Some(0));
        }
        assert_eq!(record(name, &["50", "--append"]).0, Some(0));
        assert!(read() == list[..150], "{name}: {} frames", read().len());
        assert_eq!(record(name, &["7", "--force"]).0, Some(0));
        assert!(read() == list[..7]);
    }
    let (code, err) = record("some.bin", &["7", "--force", "--append"]);
    assert_eq!(code, Some(2), "{err}");
    std::fs::write(dir.join("text.bin"), "this is no recording").expect("written");
    assert_eq!(record("text.bin", &["7", "--append"]).0, Some(1));
    assert_eq!(std::fs::read(dir.join("text.bin")).expect("there"), b"this is no recording");
    assert_eq!(record("new.bin", &["7", "--append"]).0, Some(0), "there is nothing to go on behind");
    // What is there decides about the packing, not its name.
    for (made, called) in [("a.bin.zst", "packed.bin"), ("a.bin", "plain.zst")] {
        assert_eq!(record(made, &["100"]).0, Some(0));
        std::fs::rename(dir.join(made), dir.join(called)).expect("renamed");
        assert_eq!(record(called, &["50", "--append"]).0, Some(0));
        std::fs::rename(dir.join(called), dir.join(made)).expect("renamed");
        assert!(frames::read(dir.join(made)).is_ok_and(|read| read == list[..150]), "{called}");
    }
    assert!(Command::new("mkfifo").arg(dir.join("pipe")).status().is_ok_and(|s| s.success()));
    let (code, err) = record("pipe", &["7", "--append"]);
    assert!(code == Some(1) && err.contains("not a regular file"), "{err}");
}

#[test]
fn a_stop_ends_record_while_it_looks_for_the_end_of_a_file() {
    let dir = folder("record");
    let file = dir.join("bomb.bin.zst");
    std::fs::write(&file, frames_without_end()).expect("written");
    let before = std::fs::read(&file).expect("there");
    let mut child = Command::new(BINARY)
        .args(["record", "--append", "--relay-host", "ws://127.0.0.1:1", "--output"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(child.try_wait().expect("waited"), None, "it reads");
    signal(child.id(), "TERM");
    let asked = Instant::now();
    assert_eq!(child.wait().expect("waited").code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(std::fs::read(&file).expect("there") == before, "nothing is written behind what is not known");
}

#[test]
fn record_keeps_what_it_has_on_sigterm() {
    let list = fixture(200);
    let relay = Relay::start(RelayConfig::script(list.clone())).expect("a relay");
    let dir = folder("record");
    for (name, how) in [("cut.bin", "TERM"), ("cut.bin.zst", "INT")] {
        let before = relay.frames_sent();
        let mut child = Command::new(BINARY)
            .args(["record", "--relay-host", &relay.url(), "--output", name, "--frames", "1000000"])
            .env_clear()
            .current_dir(&dir)
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        assert!(relay.wait_until(SOON, |s| s.frames_sent >= before + 200), "all frames are sent");
        // What is sent still has to be read.
        std::thread::sleep(Duration::from_secs(1));
        signal(child.id(), how);
        assert_eq!(child.wait().expect("waited").code(), Some(0), "{name}");
        let got = frames::read(dir.join(name)).expect("a file of whole frames");
        assert!(got == list, "{name}: {} of 200 frames", got.len());
    }
}

#[test]
fn record_that_cannot_write_fails_and_says_so() {
    let (code, _, err) = run(&["record", "--relay-host", "ws://127.0.0.1:1", "--output", "/nowhere/at/all.bin"], &[]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("--output") && err.contains("/nowhere/at/all.bin"), "{err}");
}

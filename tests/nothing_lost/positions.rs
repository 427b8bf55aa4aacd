//! Positions on disk: a disk that is full, a file that cannot be written, and a cluster that is another one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atkafka_fixtures::relay::{Relay, RelayConfig};

use super::support::*;
use super::{Place, SOON, cursor_files, looped, settled, stop};

/// A file system of some kilobytes. Mounting needs root, which CI has; elsewhere this says that it does not run.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = folder("disk");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&dir).output();
        if mounted.is_ok_and(|out| out.status.success()) {
            return Some(SmallDisk(dir));
        }
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "no tmpfs can be mounted in CI");
        println!("skipped: no tmpfs can be mounted without root");
        None
    }

    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        assert!(fs::write(&ballast, vec![1; 1 << 20]).is_err(), "it is larger than the disk");
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Makes each save of this host fail, for any user, and lets them pass again.
fn obstacle(state: &Path, relay: &Relay) -> PathBuf {
    let host = relay.url().trim_start_matches("ws://").replace(':', "%3A");
    state.join(format!("relay-{host}~stdout.json.tmp"))
}

fn ready(bridge: &Bridge) -> (u16, String) {
    bridge.get("/readyz").expect("an answer")
}

/// A live start that cannot save where it begins, until `mend` has been called.
fn first_position_cannot_be_saved(state: &Path, relay: &Relay, reason: &str, mend: impl FnOnce()) {
    let url = relay.url();
    let bridge =
        Bridge::start(&["firehose", "relay", "--relay-host", &url, "--state-dir", state.to_str().expect("UTF-8")]);
    bridge.wait("not ready, with the reason", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains(reason))
    });
    let (_, body) = ready(&bridge);
    assert!(body.contains("nothing of this host is delivered"), "{body}");
    bridge.wait("the reason in the log", SOON, |b| {
        b.log_contains("the first position cannot be saved") && b.log_contains(reason)
    });
    bridge.wait("what the alert looks at", SOON, |b| b.metric("atkafka_checkpoint_saves{status=\"error\"}") >= 2.0);
    assert!(bridge.lines().is_empty(), "nothing before the first position is on disk");
    mend();
    bridge.wait("events flow", SOON, |b| !b.lines().is_empty());
    bridge.wait("ready", SOON, |b| ready(b).0 == 200);
    assert!(bridge.log_contains("saved again"), "{:?}", bridge.log());
    stop(bridge);
    assert_eq!(cursor_files(state).len(), 1);
}

#[test]
fn a_full_disk_at_the_start_is_said_and_mended_without_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let relay = Relay::start(RelayConfig { rate: 200.0, ..looped(1_000_000) }).expect("a relay");
    let ballast = disk.fill();
    first_position_cannot_be_saved(&disk.0, &relay, "make room on the volume", || {
        fs::remove_file(ballast).expect("removed");
    });
}

#[test]
fn a_first_position_that_cannot_be_written_is_said_and_mended_without_a_restart() {
    let relay = Relay::start(RelayConfig { rate: 200.0, ..looped(1_000_000) }).expect("a relay");
    let state = folder("state");
    let obstacle = obstacle(&state, &relay);
    fs::create_dir(&obstacle).expect("created");
    first_position_cannot_be_saved(&state, &relay, "a directory stands where a file of ours should", || {
        fs::remove_dir(&obstacle).expect("removed");
    });
}

#[test]
fn later_saves_that_fail_make_it_not_ready_after_a_while_and_events_go_on() {
    let relay = Relay::start(RelayConfig { rate: 200.0, ..looped(1_000_000) }).expect("a relay");
    let state = folder("state");
    let (url, obstacle) = (relay.url(), obstacle(&state, &relay));
    let bridge =
        Bridge::start(&["firehose", "relay", "--relay-host", &url, "--state-dir", state.to_str().expect("UTF-8")]);
    bridge.wait("a save", SOON, |b| b.metric("atkafka_checkpoint_saves{status=\"ok\"}") >= 2.0);
    fs::create_dir(&obstacle).expect("created");
    bridge.wait("a failed save", SOON, |b| b.metric("atkafka_checkpoint_saves{status=\"error\"}") >= 1.0);
    assert_eq!(ready(&bridge).0, 200, "events flow");
    let delivered = bridge.lines().len();
    bridge.wait("not ready", SOON, |b| ready(b).0 == 503);
    let (_, body) = ready(&bridge);
    assert!(body.contains("~stdout.json: cannot be saved") && body.contains("a restart would repeat"), "{body}");
    assert!(bridge.lines().len() > delivered, "events go on");
    assert!(bridge.log_contains("the position cannot be saved"), "{:?}", bridge.log());
    fs::remove_dir(&obstacle).expect("removed");
    bridge.wait("ready again", SOON, |b| ready(b).0 == 200);
    stop(bridge);
}

/// The member `cluster` of the only cursor file, and its text without it.
fn cluster_of(state: &Path) -> (Option<String>, String) {
    let text = fs::read_to_string(&cursor_files(state)[0]).expect("readable");
    let Some((before, rest)) = text.split_once("\"cluster\":\"") else { return (None, text) };
    let (id, after) = rest.split_once("\",").expect("a text");
    (Some(id.to_string()), format!("{before}{after}"))
}

#[test]
fn a_topic_of_the_same_name_on_another_cluster_does_not_skip_its_history() {
    let (Some(here), Some(there)) = (broker(KAFKA), broker(KAFKA_39)) else { return };
    let relay = Relay::start(looped(500)).expect("a relay");
    let mut place = Place::new(&here, "cluster");
    let oldest = ["--cursor", "oldest"];
    let bridge = place.start(&relay, &oldest);
    settled(&bridge, 500);
    stop(bridge);
    let (id, without) = cluster_of(&place.state);
    let id = id.expect("the file says which cluster");
    let file = cursor_files(&place.state).remove(0);
    let before = fs::read(&file).expect("readable");

    place.broker = there.clone();
    let mut bridge = place.start(&relay, &oldest);
    assert_eq!(bridge.end(SOON).code(), Some(2), "{:?}", bridge.log());
    std::thread::sleep(Duration::from_millis(200));
    let log = bridge.log();
    let said = log.iter().find(|l| l.contains("ERROR")).expect("a reason");
    assert!(said.contains(&id) && said.contains("delete") && said.contains("--bootstrap-servers"), "{said}");
    assert_eq!(fs::read(&file).expect("readable"), before, "the position is as it was");
    assert!(!bridge.log_contains("created"), "no topic was made there: {log:?}");

    // A file of 0.1 names none: it is taken, and names this one from then on.
    fs::write(&file, without.replace("\"seq\":500", "\"seq\":400")).expect("written");
    let bridge = place.start(&relay, &oldest);
    settled(&bridge, 500);
    stop(bridge);
    assert!(!place.arrived().is_empty());
    let (new, _) = cluster_of(&place.state);
    assert!(new.is_some_and(|new| new != id));
    // The `kafka` crate cannot tell: it leaves what is there.
    let bridge = place.start(&relay, &["--kafka-client", "kafka"]);
    bridge.wait("connected", SOON, |b| b.metric("atkafka_connected") == 1.0);
    stop(bridge);
    assert!(cluster_of(&place.state).0.is_some());
}

#[test]
fn the_longest_topic_has_a_position() {
    let Some(broker) = broker(KAFKA) else { return };
    let relay = Relay::start(looped(100)).expect("a relay");
    let mut place = Place::new(&broker, "x");
    // Capitals take three bytes each in a file name.
    place.topic = format!("{}{}", unique("L"), "X".repeat(249))[..249].to_string();
    for _ in 0..2 {
        let bridge = place.start(&relay, &["--cursor", "oldest"]);
        settled(&bridge, 100);
        stop(bridge);
    }
    assert_eq!(relay.stats().connections.last().and_then(|c| c.cursor.clone()).as_deref(), Some("100"));
}

#[test]
fn the_directory_that_everybody_may_write_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let relay = Relay::start(looped(100)).expect("a relay");
    let state = folder("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("set");
    let bridge = Bridge::start(&[
        "firehose",
        "relay",
        "--relay-host",
        &relay.url(),
        "--state-dir",
        state.to_str().expect("UTF-8"),
    ]);
    bridge.wait("connected", SOON, |b| b.metric("atkafka_connected") == 1.0);
    assert!(bridge.log_contains("every user of this machine may write there"), "{:?}", bridge.log());
    stop(bridge);
}

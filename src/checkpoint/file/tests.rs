//! Tests of the [`file`](super).

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, symlink};

use rustix::fs::OFlags;

use super::super::{OzonePosition, SeqPosition};
use super::*;

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("atkafka-cursor-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

fn open(dir: &Path) -> (StateFile, Option<SeqPosition>) {
    StateFile::open(dir, "relay", "h", "o").expect("open")
}

fn refused(dir: &Path) -> String {
    let error = StateFile::open::<SeqPosition>(dir, "relay", "h", "o").err().expect("refused");
    assert!(!error.contains('\n'), "{error}");
    error
}

fn at(seq: u64) -> SeqPosition {
    SeqPosition { seq, time_ms: 1 }
}

#[test]
fn saved_positions_come_back_and_may_go_down() {
    let dir = dir("back");
    let (mut file, first) = StateFile::open(&dir, "relay", "bsky.network", "events").expect("open");
    assert_eq!(first, None::<SeqPosition>);
    for seq in [31_527_015_322, 7] {
        file.save(&at(seq), 1).expect("saved");
    }
    drop(file);
    let (_, again) = StateFile::open::<SeqPosition>(&dir, "relay", "bsky.network", "events").expect("open");
    assert_eq!(again.map(|p| p.seq), Some(7), "a host that was reset counts from below");
    let (_, other) = StateFile::open::<SeqPosition>(&dir, "relay", "bsky.network", "other").expect("open");
    assert_eq!(other, None, "each output has its own");
    assert!(fs::read_dir(&dir).expect("dir").all(|e| !e.expect("entry").path().ends_with(".tmp")));
}

#[test]
fn a_second_instance_is_refused() {
    let dir = dir("lock");
    let held = open(&dir);
    let error = refused(&dir);
    assert!(error.contains("another atkafka"), "{error}");
    drop(held);
    open(&dir);
}

#[test]
fn a_damaged_file_is_an_error_that_says_what_to_do() {
    let dir = dir("damaged");
    let path = open(&dir).0.path().to_path_buf();
    for bytes in [
        &b""[..],
        b"{\"version\":1,\"seq\":",
        b"{}",
        b"\xff\xfe",
        b"{\"version\":9,\"host\":\"h\",\"output\":\"o\",\"seq\":1,\"saved_at\":\"\"}",
        b"{\"version\":1,\"host\":\"h\",\"output\":\"o\",\"seq\":9007199254740993,\"saved_at\":\"\"}",
        b"{\"version\":1,\"host\":\"h\",\"output\":\"o\",\"seq\":-1,\"saved_at\":\"\"}",
    ] {
        fs::write(&path, bytes).expect("write");
        assert!(refused(&dir).contains("delete it"));
    }
    fs::remove_file(&path).expect("removed");
    for (what, made) in [("a directory", fs::create_dir(&path)), ("an endless one", symlink("/dev/zero", &path))] {
        if made.is_err() {
            fs::remove_dir(&path).expect("removed");
            symlink("/dev/zero", &path).expect("linked");
        }
        assert!(refused(&dir).contains("not a regular file"), "{what}");
    }
}

/// Each format that a release has written stays readable. A new format gets a new file in `tests/state`, and the old
/// ones stay as they are.
#[test]
fn files_of_every_release_are_read() {
    let read =
        |name: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state").join(name)).expect("a fixture");
    let relay = |name: &str| parse::<SeqPosition>(&read(name)).expect("read");
    for (name, cluster) in [("relay-0.1.json", None), ("relay-0.2.json", Some("4L6g3nShT-eMCtK--X86sw"))] {
        let saved = relay(name);
        assert_eq!((saved.host.as_str(), saved.output.as_str()), ("bsky.network", "atproto-events"));
        assert_eq!(saved.position, SeqPosition { seq: 31_527_015_322, time_ms: 1_795_517_559_073 });
        assert_eq!(saved.cluster.as_deref(), cluster, "{name}");
    }
    for (name, cluster) in [("ozone-0.1.json", None), ("ozone-0.2.json", Some("4L6g3nShT-eMCtK--X86sw"))] {
        let saved = parse::<OzonePosition>(&read(name)).expect("read");
        assert_eq!(saved.host, "pds.example.com+did:plc:labelerlabelerlabelerlab");
        assert_eq!(saved.position.high_water_ms, 1_795_517_559_073);
        assert_eq!(*saved.position.window, [(1_795_517_559_001, 41), (1_795_517_559_073, 9_007_199_254_740_993)]);
        assert_eq!(saved.cluster.as_deref(), cluster, "{name}");
    }
}

#[test]
fn what_is_written_is_the_newest_format() {
    let dir = dir("format");
    let (mut file, _) = StateFile::open::<SeqPosition>(&dir, "relay", "bsky.network", "atproto-events").expect("open");
    file.set_cluster("4L6g3nShT-eMCtK--X86sw");
    file.save(&SeqPosition { seq: 31_527_015_322, time_ms: 0 }, 1_795_517_559_073).expect("saved");
    let without_time = |text: &str| {
        let (before, rest) = text.split_once("\"saved_at\":\"").expect("a time");
        format!("{before}{}", &rest[24..])
    };
    let fixture = include_str!("../../../tests/state/relay-0.2.json");
    let written = fs::read_to_string(file.path()).expect("read");
    assert_eq!(without_time(&written), without_time(fixture), "a new format needs a fixture of its own");
}

#[test]
fn the_file_of_another_host_or_output_is_refused() {
    let dir = dir("other");
    let (mut file, _) = StateFile::open::<SeqPosition>(&dir, "relay", "other", "o").expect("open");
    file.save(&at(5), 1).expect("saved");
    fs::copy(file.path(), dir.join("relay-h~o.json")).expect("copied");
    let error = refused(&dir);
    assert!(error.contains("of other into o, not of h into o"), "{error}");
}

#[test]
fn a_position_of_ozone_out_of_range_is_refused() {
    let ozone = |high_water_ms, window| OzonePosition { high_water_ms, window: std::sync::Arc::new(window) };
    assert_eq!(ozone(0, vec![(i64::MAX, 1)]).check(), Ok(()), "an event without a time");
    assert!(ozone(i64::MIN, Vec::new()).check().is_err());
    assert!(ozone(i64::MAX, Vec::new()).check().is_err());
}

#[test]
fn the_largest_window_is_read_again_and_what_would_not_be_is_not_written() {
    let dir = dir("large");
    let open = || StateFile::open::<OzonePosition>(&dir, "ozone", "h", "o").expect("read");
    // The longest texts that numbers have.
    let ozone = |events: usize| OzonePosition {
        high_water_ms: super::super::MAX_TIME_MS,
        window: std::sync::Arc::new((0..events as u64).map(|id| (i64::MAX, u64::MAX - id)).collect()),
    };
    let (mut file, _) = open();
    let largest = ozone(OzonePosition::MAX_WINDOW);
    file.save(&largest, 0).expect("saved");
    let error = file.save(&ozone(1_700_000), 0).expect_err("refused");
    assert!(error.contains("MiB") && error.contains("64"), "{error}");
    drop(file);
    assert_eq!(fs::read_dir(&dir).expect("dir").count(), 2, "the file and its lock");
    assert!(open().1 == Some(largest), "the earlier one stays");
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn a_deleted_or_replaced_lock_is_taken_again_unless_another_process_has_it() {
    let dir = dir("unlocked");
    let (mut file, _) = open(&dir);
    let lock = dir.join("relay-h~o.lock");
    fs::remove_file(&lock).expect("removed");
    file.save(&at(1), 1).expect("saved");
    assert!(refused(&dir).contains("another atkafka"), "locked again");
    fs::remove_file(&lock).expect("removed");
    let other = open(&dir);
    assert!(file.save(&at(2), 1).expect_err("not ours any more").contains("another atkafka"));
    assert_eq!(other.1, Some(at(1)));
    drop(other);
    file.save(&at(2), 1).expect("ours again");
    fs::remove_dir_all(&dir).expect("removed");
    let error = file.save(&at(3), 1).expect_err("no directory");
    assert!(error.contains("was deleted: create it again"), "{error}");
    fs::create_dir(&dir).expect("created");
    file.save(&at(3), 1).expect("saved");
    assert!(refused(&dir).contains("another atkafka"));
}

#[test]
fn links_in_place_of_our_files_are_not_followed() {
    let dir = dir("links");
    fs::create_dir_all(&dir).expect("created");
    let victim = dir.join("victim");
    fs::write(&victim, "mine").expect("written");
    let (mut file, _) = open(&dir);
    symlink(&victim, dir.join("relay-h~o.json.tmp")).expect("linked");
    file.save(&at(1), 1).expect("saved");
    assert_eq!(fs::read(&victim).expect("read"), b"mine");
    assert!(fs::symlink_metadata(file.path()).expect("there").is_file());
    drop(file);
    let lock = dir.join("relay-h~o.lock");
    fs::remove_file(&lock).expect("removed");
    symlink(&victim, &lock).expect("linked");
    assert!(refused(&dir).contains("symbolic link"));
}

#[test]
fn a_pipe_in_place_of_the_lock_is_refused_and_not_waited_for() {
    let dir = dir("pipe");
    fs::create_dir_all(&dir).expect("created");
    let lock = dir.join("relay-h~o.lock");
    assert!(std::process::Command::new("mkfifo").arg(&lock).status().is_ok_and(|s| s.success()));
    assert!(refused(&dir).contains("not a regular file"), "nobody reads it");
    let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&lock);
    assert!(reader.is_ok() && refused(&dir).contains("not a regular file"), "somebody reads it");
}

#[test]
fn names_that_no_file_system_takes_are_shortened_in_the_same_way_for_ever() {
    let dir = dir("long");
    let topic = "T".repeat(249);
    for output in [&topic[..], &topic[..248]] {
        let (mut file, first) = StateFile::open::<SeqPosition>(&dir, "relay", "bsky.network", output).expect("open");
        assert_eq!(first, None, "each has its own");
        file.save(&at(output.len() as u64), 0).expect("saved");
    }
    assert_eq!(
        file_name::of("relay", "bsky.network", &topic)[160..],
        *"~~4c37284c6bdf098682bebb8db8d59264",
        "another name would be another position"
    );
    // As long as 0.1 could have them: these stay.
    let longest = "a".repeat(file_name::MAX_NAME - "relay-h~".len());
    assert_eq!(file_name::of("relay", "h", &longest), format!("relay-h~{longest}"));
    StateFile::open::<SeqPosition>(&dir, "relay", "h", &longest).expect("open").0.save(&at(1), 1).expect("saved");
}

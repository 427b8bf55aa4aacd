//! Recordings through the whole program: what relay mode makes of the same frames, once, in order, and to the end; over kills,
//! in parts, from standard input, and from files that are cut off or damaged.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use support::*;

const SOON: Duration = Duration::from_secs(60);
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
const BINARY: &str = env!("CARGO_BIN_EXE_atkafka");

fn fixture(count: usize) -> Vec<Vec<u8>> {
    let mut all = frames::read(FIXTURE).expect("the fixture");
    all.truncate(count);
    all
}

/// The events of a run to its end: exit code, lines, log.
fn replay(args: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let all = [&["firehose", "replay", "--metrics-listen-address", "none"], args].concat();
    let (code, out, log) = run(&all, &[]);
    (code, out.lines().map(str::to_string).collect(), log)
}

fn last_seq(list: &[Vec<u8>]) -> u64 {
    list.iter().filter_map(|f| frames::seq_of(f)).max().expect("seqs")
}

/// What relay mode makes of the same frames.
fn by_relay(list: Vec<Vec<u8>>) -> Vec<String> {
    let last = last_seq(&list);
    let relay = Relay::start(RelayConfig::script(list)).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
    bridge.wait_delivered(last, SOON);
    bridge.signal("TERM");
    let mut bridge = bridge;
    assert_eq!(bridge.end(SOON).code(), Some(0));
    std::thread::sleep(Duration::from_millis(200));
    bridge.lines().into_iter().filter(|line| !line.contains("\"info\":")).collect()
}

fn write(path: &Path, list: &[Vec<u8>]) -> String {
    frames::write(path, list).expect("written");
    path.to_string_lossy().into_owned()
}

#[test]
fn every_form_of_a_recording_gives_what_the_relay_gives() {
    let list = fixture(900);
    let want = by_relay(list.clone());
    assert!(want.len() > 500, "{} events", want.len());
    let dir = folder("replay");
    let plain = write(&dir.join("all, in one.bin"), &list);
    let packed = write(&dir.join("all.bin.zst"), &list);
    let first = write(&dir.join("first.bin"), &list[..400]);
    // They overlap, as two recordings of one relay may.
    let second = write(&dir.join("second.bin.zst"), &list[350..]);
    for args in [
        &["--file", &plain][..],
        &["--file", &packed],
        &["--file", &first, "--file", &second],
        &["--file", &plain, "--rate", "2000"],
        &["--file", &plain, "--workers", "3"],
    ] {
        let (code, got, log) = replay(args);
        assert_eq!(code, Some(0), "{args:?}: {log}");
        assert!(got == want, "{args:?}: {} events, wanted {}", got.len(), want.len());
        assert!(log.contains("900 frames replayed"), "{log}");
    }
    let out = Command::new(BINARY)
        .args(["firehose", "replay", "--metrics-listen-address", "none", "--file", "-"])
        .stdin(std::fs::File::open(&packed).expect("there"))
        .output()
        .expect("it runs");
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).lines().eq(want.iter()), "from standard input");
}

#[test]
fn what_is_missing_in_a_recording_is_told_as_a_relays_gap_is() {
    let list = fixture(900);
    let dir = folder("replay-gap");
    let (first, second) = (write(&dir.join("1.bin"), &list[..150]), write(&dir.join("2.bin"), &list[400..500]));
    let third = write(&dir.join("3.bin"), &list[750..]);
    let (code, lines, log) = replay(&["--file", &first, "--file", &second, "--file", &third]);
    assert_eq!(code, Some(0), "{log}");
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("\"info\":")).collect();
    assert!(told.len() == 2, "each of them, however fast it is read: {told:#?}");
    assert!(told.iter().all(|line| line.contains("seq_gap") && line.contains("may be missing")), "{told:#?}");
    assert!(log.contains("seq_gap"), "{log}");
}

#[test]
fn a_part_is_what_stands_between_the_two_seqs() {
    let list = fixture(900);
    let seqs: Vec<u64> = list.iter().filter_map(|f| frames::seq_of(f)).collect();
    let (from, to) = (seqs[300], seqs[600]);
    let dir = folder("replay");
    let all = write(&dir.join("all.bin"), &list);
    let part = write(
        &dir.join("part.bin"),
        &list
            .iter()
            .filter(|f| frames::seq_of(f).is_some_and(|s| (from..=to).contains(&s)))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let (code, got, log) = replay(&["--file", &all, "--from-seq", &from.to_string(), "--to-seq", &to.to_string()]);
    assert_eq!(code, Some(0), "{log}");
    let (_, want, _) = replay(&["--file", &part]);
    assert!(want.len() > 100 && got == want, "{} of {} events", got.len(), want.len());
}

#[test]
fn what_is_whole_in_a_damaged_file_is_delivered_and_the_damage_is_named() {
    let list = fixture(200);
    let dir = folder("replay");
    let (_, want, _) = replay(&["--file", &write(&dir.join("half.bin"), &list[..100])]);
    let whole: usize = list[..100].iter().map(|f| f.len() + 4).sum();
    let plain = dir.join("plain.bin");
    write(&plain, &list);
    let bytes = std::fs::read(&plain).expect("there");
    let mut wrong_length = bytes.clone();
    wrong_length[whole..whole + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut too_long = wrong_length.clone();
    too_long[whole..whole + 4].copy_from_slice(&5_500_001_u32.to_le_bytes());
    let mut packed = zstd::encode_all(&bytes[..], 3).expect("packed");
    packed.truncate(packed.len() / 2);
    for (name, bytes, says) in [
        ("cut.bin", bytes[..whole + 10].to_vec(), format!("is cut off at byte {whole}")),
        ("cut-in-length.bin", bytes[..whole + 2].to_vec(), format!("is cut off at byte {whole}")),
        ("wrong.bin", wrong_length, format!("damaged, at byte {whole}")),
        ("too-long.bin", too_long, format!("damaged, at byte {whole}")),
        ("cut.bin.zst", packed, "is cut off at byte".to_string()),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).expect("written");
        let (code, got, log) = replay(&["--file", &path.to_string_lossy()]);
        assert_eq!(code, Some(1), "{name}: {log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(name) && last.contains(&says) && last.contains("whole frames"), "{name}: {last}");
        match name {
            "cut.bin.zst" => assert!(!got.is_empty() && got.len() < 2 * want.len(), "{} events", got.len()),
            _ => assert!(got == want, "{name}: {} events, wanted {}", got.len(), want.len()),
        }
    }
    for (name, bytes) in [("text.bin", &b"this is a text, and no recording at all"[..]), ("short.bin", b"\x01")] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).expect("written");
        let (code, got, log) = replay(&["--file", &path.to_string_lossy()]);
        assert_eq!((code, got.len()), (Some(1), 0), "{name}: {log}");
    }
    let packed = dir.join("frames.bin.gz");
    std::fs::write(&packed, b"\x1f\x8b\x08\0\0").expect("written");
    assert!(replay(&["--file", &packed.to_string_lossy()]).2.contains("packed by gzip"));
    let zeros = dir.join("zeros.bin");
    std::fs::write(&zeros, [&std::fs::read(dir.join("half.bin")).expect("there")[..], &[0; 64]].concat())
        .expect("written");
    let (code, got, log) = replay(&["--file", &zeros.to_string_lossy()]);
    assert!(code == Some(1) && got == want && log.contains(&format!("damaged, at byte {whole}")), "{log}");
    let (code, got, log) = replay(&["--file", &dir.join("half.bin").to_string_lossy(), "--from-seq", "99999999"]);
    assert!(code == Some(0) && got.is_empty() && log.contains("no frame that is wanted: they have seq"), "{log}");
    let bomb = dir.join("zeros.bin.zst");
    std::fs::write(&bomb, zstd::encode_all(&vec![0; 64 << 20][..], 3).expect("packed").repeat(5_000)).expect("written");
    let (code, got, log) = replay(&["--file", &bomb.to_string_lossy()]);
    assert!(code == Some(1) && got.is_empty() && log.contains("damaged, at byte 0"), "{log}");
    // One of no frames is whole.
    let empty = dir.join("empty.bin");
    std::fs::write(&empty, b"").expect("written");
    let (code, got, log) = replay(&["--file", &empty.to_string_lossy()]);
    assert_eq!((code, got.len()), (Some(0), 0), "{log}");
}

#[test]
fn killed_three_times_it_goes_on_and_a_finished_one_has_nothing_left() {
    let Some(broker) = broker(KAFKA) else { return };
    let list = fixture(6_000);
    let dir = folder("replay");
    let file = write(&dir.join("all.bin.zst"), &list);
    let (_, want, _) = replay(&["--file", &file]);
    let (topic, state) = (unique("replay"), folder("state"));
    let state = state.to_string_lossy();
    let args = ["firehose", "replay", "--file", &file, "--bootstrap-servers", &broker, "--output-topic", &topic];
    let args = [&args[..], &["--state-dir", &state, "--topic-partitions", "3"]].concat();
    let slow = [&args[..], &["--rate", "400"]].concat();
    let last = last_seq(&list);
    let mut reached = 0.0;
    for _ in 0..3 {
        let bridge = Bridge::start(&slow);
        bridge.wait("it goes on", SOON, |b| b.metric("atkafka_last_seq_delivered") > reached + 300.0);
        assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
        let metrics = bridge.metrics();
        assert!(metrics.keys().all(|name| !name.starts_with("atkafka_lag_seconds")), "a recording has no lag");
        reached = bridge.metric("atkafka_last_seq_delivered");
        assert!(reached < last as f64);
        bridge.kill();
    }
    let mut bridge = Bridge::start(&args);
    assert_eq!(bridge.end(SOON).code(), Some(0), "{:?}", bridge.log());
    assert!(bridge.log_contains("going on behind the saved seq"), "{:?}", bridge.log());
    let arrived = consume(&broker, &topic);
    let mut got: Vec<(i32, String)> =
        arrived.iter().map(|a| (a.partition, String::from_utf8_lossy(&a.value).into_owned())).collect();
    let delivered = got.len();
    // Each event at least once, and a first time in order on its partition.
    let mut seen = std::collections::HashSet::new();
    got.retain(|(_, value)| seen.insert(value.clone()));
    assert_eq!(got.len(), want.len(), "{delivered} records");
    let place: std::collections::HashMap<&str, usize> = want.iter().enumerate().map(|(i, v)| (v.as_str(), i)).collect();
    let mut latest = std::collections::HashMap::new();
    for (partition, value) in &got {
        let at = place[value.as_str()];
        if let Some(before) = latest.insert(*partition, at) {
            assert!(before < at, "partition {partition}: {before} before {at}");
        }
    }
    let mut bridge = Bridge::start(&args);
    assert_eq!(bridge.end(SOON).code(), Some(0));
    assert!(bridge.log_contains("nothing left"), "{:?}", bridge.log());
    assert_eq!(consume(&broker, &topic).len(), delivered, "a finished one delivers nothing");
    println!("{} events, {} repeated over 3 kills", want.len(), delivered - want.len());
}

#[test]
fn a_stop_in_the_middle_saves_the_position() {
    let dir = folder("replay");
    let file = write(&dir.join("all.bin"), &fixture(3_000));
    let state = folder("state");
    let args = ["firehose", "replay", "--file", &file, "--state-dir", &state.to_string_lossy(), "--rate", "500"]
        .map(String::from);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let bridge = Bridge::start(&args);
    bridge.wait("some", SOON, |b| b.lines().len() > 200);
    let mut bridge = bridge;
    bridge.signal("TERM");
    assert_eq!(bridge.end(SOON).code(), Some(0));
    std::thread::sleep(Duration::from_millis(200));
    let before = bridge.lines();
    let fast = &args[..args.len() - 2];
    let (code, after, log) = run(&[fast, &["--metrics-listen-address", "none"]].concat(), &[]);
    assert_eq!(code, Some(0), "{log}");
    let (_, want, _) = replay(&["--file", &file]);
    let got: Vec<String> = before.into_iter().chain(after.lines().map(str::to_string)).collect();
    assert!(got == want, "{} events, wanted {}", got.len(), want.len());
}

#[test]
fn standard_input_that_waits_is_no_obstacle_to_a_stop() {
    let mut child = Command::new(BINARY)
        .args(["firehose", "replay", "--file", "-", "--metrics-listen-address", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(&[1, 0]).expect("written");
    std::thread::sleep(Duration::from_millis(500));
    stop(&mut child);
}

/// Ends by SIGTERM, soon and well.
fn stop(child: &mut Child) {
    assert!(Command::new("kill").arg(child.id().to_string()).status().is_ok_and(|s| s.success()));
    let status = end_of(child, Duration::from_secs(10)).expect("it hangs");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_stop_ends_a_small_file_of_endless_frames() {
    let dir = folder("replay");
    let file = dir.join("bomb.bin.zst");
    std::fs::write(&file, frames_without_end()).expect("written");
    let mut bridge = Bridge::start(&["firehose", "replay", "--file", &file.to_string_lossy()]);
    // The first seq is looked for before anything answers.
    bridge.wait("it reads", SOON, |b| b.metric("atkafka_unknown_frames") > 20_000.0);
    bridge.signal("TERM");
    assert_eq!(bridge.end(Duration::from_secs(10)).code(), Some(0), "{:?}", bridge.log());
}

#[test]
fn a_pipe_that_pauses_holds_no_whole_frame_back_and_a_stop_loses_none() {
    let list = fixture(40);
    let dir = folder("replay");
    let events = |count: usize| replay(&["--file", &write(&dir.join(format!("{count}.bin")), &list[..count])]).1;
    let (some, all) = (events(20), events(40));
    assert!(some.len() > 5 && all.len() > some.len() + 5);
    let bytes = |list: &[Vec<u8>]| -> Vec<u8> {
        list.iter().flat_map(|f| [&(f.len() as u32).to_le_bytes()[..], f].concat()).collect()
    };
    let (first, rest) = (bytes(&list[..20]), bytes(&list[20..]));
    // The pause is in the middle of a frame, and in that of a length.
    for (packed, cut, ends) in [(false, 100, false), (false, 2, true), (true, 100, true), (true, 2, false)] {
        let what = format!("packed {packed}, {cut} bytes of the next frame, to its end {ends}");
        let mut child = Command::new(BINARY)
            .args(["firehose", "replay", "--file", "-", "--metrics-listen-address", "none"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let (line_in, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| line_in.send(line).is_ok()));
        let mut input = child.stdin.take().expect("piped");
        let mut packer = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
        let mut pack = |bytes: &[u8]| {
            if !packed {
                return bytes.to_vec();
            }
            packer.write_all(bytes).and_then(|()| packer.flush()).expect("packed");
            std::mem::take(packer.get_mut())
        };
        let part = pack(&[&first[..], &rest[..cut]].concat());
        // A pipe may give its first bytes one by one.
        for byte in part[..6].chunks(1) {
            input.write_all(byte).expect("written");
            std::thread::sleep(Duration::from_millis(20));
        }
        input.write_all(&part[6..]).expect("written");
        let got: Vec<String> = (0..some.len()).map(|_| lines.recv_timeout(SOON).expect(&what)).collect();
        assert!(got == some, "{what}");
        assert!(lines.recv_timeout(Duration::from_millis(300)).is_err(), "{what}: too many");
        if ends {
            input.write_all(&pack(&rest[cut..])).expect("written");
            if packed {
                // Its end: an empty last block.
                input.write_all(&[1, 0, 0]).expect("written");
            }
            drop(input);
            assert_eq!(child.wait().expect("waited").code(), Some(0), "{what}");
            assert!(lines.iter().eq(all[some.len()..].iter().cloned()), "{what}");
        } else {
            stop(&mut child);
            assert_eq!(lines.iter().count(), 0, "{what}");
        }
    }
}

#[test]
fn a_named_pipe_is_read_and_one_that_nobody_writes_is_no_obstacle_to_a_stop() {
    let list = fixture(40);
    let dir = folder("replay");
    let file = write(&dir.join("all.bin"), &list);
    let pipe = dir.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()));
    let start = || {
        Command::new(BINARY)
            .args(["firehose", "replay", "--metrics-listen-address", "none", "--file"])
            .arg(&pipe)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts")
    };
    let reader = start();
    std::fs::write(&pipe, std::fs::read(&file).expect("there")).expect("written");
    let out = reader.wait_with_output().expect("waited");
    assert!(out.status.success());
    let want = replay(&["--file", &file]).1;
    assert!(String::from_utf8_lossy(&out.stdout).lines().eq(want.iter()));
    let mut waiting = start();
    std::thread::sleep(Duration::from_millis(500));
    stop(&mut waiting);
}

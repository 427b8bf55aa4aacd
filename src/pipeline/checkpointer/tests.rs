//! Tests of the [`checkpointer`](super).

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::checkpoint::SeqPosition;
use crate::metrics::Metrics;

fn metrics() -> Arc<CheckpointMetrics> {
    Metrics::default().checkpoint
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("atkafka-checkpointer-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

fn keep(dir: &Path, host: &str) -> Keep {
    Keep::File(StateFile::open::<SeqPosition>(dir, "relay", host, "o").expect("open").0)
}

fn at(seq: u64) -> Position {
    Position::of_seqs((seq, seq))
}

#[test]
fn a_file_that_cannot_be_saved_holds_up_no_other_and_says_so_until_it_can() {
    let dir = folder("two");
    let obstacle = dir.join("relay-ill~o.json.tmp");
    let (metrics, health) = (metrics(), Arc::<Health>::default());
    let (begin, beginnings) = bounded(2);
    let keeps = vec![keep(&dir, "ill"), keep(&dir, "well")];
    let (mut frontier, checkpointer) = new(keeps, beginnings, metrics.clone(), health.clone());
    health.sink(Ok(()));
    fs::create_dir(&obstacle).expect("created");
    let saving = crate::pipeline::spawn("checkpoint", || drop(checkpointer.run()));
    let started = |source| {
        let (saved_in, saved) = bounded(1);
        begin.send(Beginning { source, position: at(1), saved: saved_in }).expect("it listens");
        saved
    };
    let (ill, well) = (started(0), started(1));
    well.recv_timeout(Duration::from_secs(20)).expect("the other one is saved");
    assert!(ill.recv_timeout(Duration::from_millis(1_500)).is_err());
    let why = health.ready().expect_err("not ready");
    assert!(why.contains("relay-ill~o.json") && why.contains("is delivered until"), "{why}");
    assert!((1..6).contains(&metrics.checkpoint_error.get()), "{}", metrics.checkpoint_error.get());
    frontier.moved(1, at(5));
    let well = dir.join("relay-well~o.json");
    let until = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(&well).expect("read").contains("\"seq\":5") {
        assert!(Instant::now() < until, "the other one goes on being saved");
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::remove_dir(&obstacle).expect("removed");
    ill.recv_timeout(Duration::from_secs(20)).expect("saved now");
    assert_eq!(health.ready(), Ok(()));
    fs::create_dir(&obstacle).expect("created");
    frontier.moved(0, at(7));
    drop(frontier);
    let _ = saving.join();
    assert_eq!(health.ready(), Ok(()), "a later save may fail for a moment");
}

#[test]
fn a_reader_whose_position_is_kept_nowhere_does_not_wait() {
    let (beginnings_in, beginnings) = bounded(1);
    let (frontier, checkpointer) = new(vec![Keep::Nowhere], beginnings, metrics(), Arc::default());
    let running = std::thread::spawn(|| checkpointer.run());
    let (saved, begun) = bounded(1);
    beginnings_in.send(Beginning { source: 0, position: at(7), saved }).expect("it listens");
    assert_eq!(begun.recv_timeout(Duration::from_secs(10)), Ok(()));
    drop(frontier);
    assert_eq!(running.join().expect("no panic"), Ok(()));
}

#[test]
fn a_position_of_another_cluster_is_refused_and_one_without_is_adopted() {
    let dir = folder("cluster");
    let start = || {
        let (_, beginnings) = bounded(1);
        new(vec![keep(&dir, "h")], beginnings, metrics(), Arc::default())
    };
    let (mut frontier, checkpointer) = start();
    frontier.moved(0, at(1));
    drop(frontier);
    checkpointer.run().expect("saved, without a cluster: as 0.1 did");
    let (mut frontier, checkpointer) = start();
    frontier.cluster("one").expect("adopted");
    frontier.moved(0, at(2));
    drop(frontier);
    checkpointer.run().expect("saved");
    let (frontier, checkpointer) = start();
    let error = frontier.cluster("two").expect_err("refused");
    for part in ["cluster one", "cluster two", "relay-h~o.json", "--bootstrap-servers", "delete"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    drop((frontier, checkpointer));
    // An output that cannot tell its cluster leaves the id as it is.
    let (mut frontier, checkpointer) = start();
    frontier.moved(0, at(3));
    drop(frontier);
    checkpointer.run().expect("saved");
    let (frontier, _checkpointer) = start();
    assert!(frontier.cluster("two").is_err());
    frontier.cluster("one").expect("the same one");
}

/// A rename is safe once its directory is synced. Hundreds of hosts have one directory, and two syncs a file each second would
/// wear out a disk.
#[test]
fn the_directory_is_synced_once_a_round_and_nobody_is_told_before() {
    let dir = folder("sync");
    let (_begin, beginnings) = bounded(1);
    let keeps = (0..20).map(|host| keep(&dir, &format!("host-{host}"))).collect();
    let (mut frontier, mut checkpointer) = new(keeps, beginnings, metrics(), Arc::default());
    let mut begun = Vec::new();
    for (source, slot) in checkpointer.slots.iter_mut().enumerate() {
        frontier.moved(source, at(3));
        let (saved, told) = bounded(1);
        slot.begun = Some(saved);
        begun.push(told);
    }
    let synced = std::cell::Cell::new(0);
    let failed = checkpointer.save(false, |_| {
        synced.set(synced.get() + 1);
        assert!(begun.iter().all(|told| told.is_empty()), "told before the directory is synced");
        Err("no space left on device".into())
    });
    assert_eq!((synced.get(), failed.len()), (1, 20), "{failed:?}");
    assert!(failed[0].contains("no space left"), "{failed:?}");
    assert!(begun.iter().all(|told| told.is_empty()), "told, though it is not synced");
    // Tried again, as what was not written is.
    let failed = checkpointer.save(true, |_| {
        synced.set(synced.get() + 1);
        Ok(())
    });
    assert_eq!((synced.get(), failed.len()), (2, 0));
    assert!(begun.iter().all(|told| told.try_recv().is_ok()), "each reader may go on");
    // Nothing has moved, so that nothing is written.
    assert!(checkpointer.save(true, |_| panic!("nothing to sync")).is_empty());
}

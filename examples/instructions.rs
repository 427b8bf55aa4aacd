//! How many instructions a genuine frame costs in each stage of the hot path, counted by valgrind and compared with the
//! figures in `instructions.txt`. Unlike a time, the count is the same on a busy machine. `make instructions` runs it.
//!
//! The program runs itself under valgrind's callgrind, which counts only inside [`measured`] and writes a file for each call
//! of it. All stages are the product's own functions, on one thread, behind one another. Which code the library of SHA-256
//! takes depends on the processor, so one pass of it over the records is counted as well and taken off the worker's count: a
//! record that is hashed twice still shows.

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs};

use atkafka::atproto::car::CarIndex;
use atkafka::atproto::cid;
use atkafka::atproto::frame::{self, Commit, Kind};
use atkafka::checkpoint::Position;
use atkafka::decode::batch::{self, Batch, Job};
use atkafka::decode::{Rules, relay};
use atkafka::event::Format;
use atkafka::event::osprey::Snowflake;
use atkafka::filter::{Filter, Lists};
use atkafka::health::Health;
use atkafka::metrics::Metrics;
use atkafka::pipeline::checkpointer::{self, Keep};
use atkafka::pipeline::inbox::{Inbox, inbox};
use atkafka::pipeline::permits::Permits;
use atkafka::pipeline::producer::{Lane, Letters, Producer};
use atkafka::pipeline::worker::{Outlets, Worker};
use atkafka::route::Routes;
use atkafka::sink::{Delivery, End, NotReady, Outgoing, Refused, SameCluster, Sink, Start, Token};
use atkafka::source::job::{Frames, Work};
use atkafka::source::stream::Arrival;
use atkafka_fixtures::frames;
use crossbeam_channel::bounded;
use sha2::{Digest, Sha256};

// As in the program, and the same on every system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/instructions.txt");
/// In per cent, in both directions: figures that have become better are to be written as well, or the next loss hides in them.
const TOLERANCE: f64 = 5.0;
/// The same for another compiler than that of the figures.
const TOLERANCE_OF_ANOTHER: f64 = 20.0;
/// More than what is ever in flight here.
const MEMORY: usize = 1 << 30;

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("count") => {
            count();
            ExitCode::SUCCESS
        }
        Some("check") => check(false),
        Some("write") => check(true),
        _ => {
            eprintln!("usage: instructions check|write (make instructions runs it)");
            ExitCode::from(2)
        }
    }
}

/// Names, and what they are.
const STAGES: [(&str, &str); 5] = [
    ("read", "a frame's header and seq, and its copy into a job"),
    ("decode", "its commit, ops and blocks, as the worker reads them"),
    ("plain", "the worker, from a job to a batch of plain events, less one SHA-256 of each record"),
    ("osprey", "the same in Osprey's form"),
    ("produce", "the producer, from a batch to the sink and back"),
];

/// Stages that hash each record once.
const HASHING: [&str; 2] = ["plain", "osprey"];

/// All that callgrind counts.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

/// Runs inside valgrind. Each stage runs once before, so that what is done only once is not counted.
fn count() {
    let frames = frames::read(FIXTURE).expect("the fixture");
    let metrics = Arc::new(Metrics::default());
    for call in [|work: &mut dyn FnMut()| work(), measured] {
        let mut jobs = Vec::new();
        call(&mut || jobs = read(&frames));
        drop(jobs);
        let mut car = CarIndex::default();
        call(&mut || decode(&frames, &mut car, &mut |block| _ = black_box(block)));
        let mut batches = None;
        for format in [Format::Plain, Format::Osprey] {
            batches = Some(work(&frames, format, &metrics, call));
        }
        let (permits, received) = batches.expect("of the last");
        produce(permits, received, &metrics, call);
        let mut records = Vec::new();
        decode(&frames, &mut car, &mut |block| records.push(block));
        call(&mut || records.iter().for_each(|record| _ = black_box(Sha256::digest(record))));
    }
    println!("{}", frames.len());
}

type Call = fn(&mut dyn FnMut());

/// Jobs as a reader that never waits hands them over.
fn read(frames: &[Vec<u8>]) -> Vec<Job> {
    let (mut jobs, mut waiting, mut last) = (Vec::new(), Frames::default(), 0);
    let mut hand_over = |waiting: &mut Frames, seq| {
        let Some(frames) = waiting.take() else { return };
        let work = Work::Frames(frames);
        jobs.push(Job {
            source: 0,
            ordinal: jobs.len() as u64,
            decode: relay::message,
            position: Some(Position::of_seqs((seq, seq))),
            received: Instant::now(),
            arrived_ms: 0,
            cost: work.bytes(),
            room: batch::room(&work, MEMORY / 16),
            work,
        });
    };
    for frame in frames {
        let arrival = Arrival::of(frame);
        if waiting.is_full() || !waiting.has_room(frame.len()) {
            hand_over(&mut waiting, last);
        }
        if let Arrival::Event { seq: Some(seq), .. } = &arrival {
            last = *seq;
        }
        if let Some(seen) = arrival.seen() {
            waiting.push(frame, seen);
        }
    }
    hand_over(&mut waiting, last);
    jobs
}

/// What the decoder of a relay reads of each commit, up to the bytes of each record.
fn decode<'a>(frames: &'a [Vec<u8>], car: &mut CarIndex, each: &mut dyn FnMut(&'a [u8])) {
    for frame in frames {
        let Ok((Kind::Commit, body)) = frame::header(frame) else { continue };
        let commit = Commit::parse(&frame[body..]).expect("a commit");
        car.read(commit.blocks, commit.ops_len as usize).expect("a CAR");
        for op in commit.ops() {
            let cid = op.expect("an op").cid.and_then(cid::check);
            cid.and_then(|cid| car.get(commit.blocks, cid)).into_iter().for_each(&mut *each);
        }
    }
}

/// A worker with all jobs, and what it made of them.
fn work(frames: &[Vec<u8>], format: Format, metrics: &Arc<Metrics>, call: Call) -> (Arc<Permits>, Inbox<Batch>) {
    let permits = Arc::new(Permits::new(MEMORY));
    let (jobs_in, jobs) = bounded(frames.len());
    for job in read(frames) {
        permits.acquire(job.work.frames(), job.cost + job.room).expect("room");
        jobs_in.send(job).expect("open");
    }
    drop(jobs_in);
    let filter = Filter::new(&Lists::default()).expect("no filter");
    let rules = Rules { format, filter, routes: Routes::default(), verify: true, enrich: false };
    let (inlet, received) = inbox(frames.len());
    let outlets = Outlets { permits: permits.clone(), batches: inlet, enriching: None };
    let mut parts = Some((Worker::new(rules, metrics.clone(), outlets), jobs));
    call(&mut || {
        let (worker, jobs) = parts.take().expect("called once");
        worker.run(jobs);
    });
    (permits, received)
}

/// The producer with all batches, until they are acknowledged.
fn produce(permits: Arc<Permits>, inbox: Inbox<Batch>, metrics: &Arc<Metrics>, call: Call) {
    let health = Arc::new(Health::default());
    health.add_source("relay", true);
    let (_beginnings_in, beginnings) = bounded(1);
    let (frontier, _checkpointer) =
        checkpointer::new(vec![Keep::Nowhere], beginnings, metrics.checkpoint.clone(), health.clone());
    let mut producer = Some(Producer {
        sink: Box::new(Nothing::default()),
        lanes: vec![Lane::new("relay", true, Arc::default(), &metrics.pipeline)],
        frontier,
        permits: permits.clone(),
        metrics: metrics.pipeline.clone(),
        health,
        format: Format::Osprey,
        snowflake: Snowflake::new(0, 0),
        record_headers: true,
        topics: vec![metrics.pipeline.topic("events")],
        letters: Letters::Log,
    });
    call(&mut || producer.take().expect("called once").run(&inbox, |_| {}).expect("it ends well"));
    assert!(permits.is_idle() && metrics.pipeline.dead_letters_total() == 0, "all is delivered");
}

/// Acknowledges at once, and keeps nothing.
#[derive(Default)]
struct Nothing(Vec<Token>);

impl Sink for Nothing {
    fn prepare(&mut self, _: SameCluster<'_>, _: Start<'_>) -> Result<(), NotReady> {
        Ok(())
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        black_box(record);
        self.0.push(token);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), End> {
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        done.extend(self.0.drain(..).map(|token| Delivery { token, result: Ok(()) }));
        Ok(())
    }
}

/// Counts, and compares with the figures or writes them.
fn check(write: bool) -> ExitCode {
    let own = env::current_exe().expect("our own path");
    let counts = valgrind(&own);
    let compiler = compiler();
    if write {
        let mut text = String::from(
            "# Instructions for each frame of fixtures/network.bin.zst; examples/instructions.rs says what is counted.\n\
             # Written by `make instructions WRITE=1`: the commit says why they have changed.\n",
        );
        _ = writeln!(text, "compiler\t{compiler}");
        for ((name, _), count) in STAGES.iter().zip(&counts) {
            _ = writeln!(text, "{name}\t{count:.1}");
        }
        fs::write(FIGURES, text).expect("the figures are written");
    }
    let text = fs::read_to_string(FIGURES).unwrap_or_else(|e| panic!("{FIGURES}: {e}"));
    let figure = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('\t'));
    let of = figure("compiler").unwrap_or_default();
    let tolerance = if of == compiler { TOLERANCE } else { TOLERANCE_OF_ANOTHER };
    println!("{:8} {:>10} {:>10} {:>8}", "stage", "expected", "measured", "change");
    let mut failed = String::new();
    for ((name, what), count) in STAGES.iter().zip(&counts) {
        let expected = figure(name).and_then(|f| f.parse::<f64>().ok());
        let expected = expected.unwrap_or_else(|| panic!("{FIGURES} has no {name}"));
        let change = (count / expected - 1.0) * 100.0;
        println!("{name:8} {expected:10.1} {count:10.1} {change:+7.2}%  {what}");
        if change.abs() > tolerance {
            _ = writeln!(
                failed,
                "instructions: {name}: {expected:.1} expected, {count:.1} measured for each frame: {change:+.1}%, \
                 and {tolerance}% is the tolerance"
            );
        }
    }
    println!("instructions for each frame of fixtures/network.bin.zst; the tolerance is {tolerance}%");
    if of != compiler {
        println!("the figures are of {of}, this is {compiler}, so the tolerance is not {TOLERANCE}%");
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprint!("{failed}");
    eprintln!(
        "instructions: if that is meant, write the new figures by `make instructions WRITE=1` and say in the commit why"
    );
    ExitCode::FAILURE
}

/// `rustc 1.95.0`
fn compiler() -> String {
    let said = Command::new("rustc").arg("--version").output().expect("rustc");
    String::from_utf8_lossy(&said.stdout).split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// What the stages cost for each frame.
fn valgrind(own: &Path) -> Vec<f64> {
    let folder = env::temp_dir().join(format!("atkafka-instructions-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let out = folder.join("out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind", "--toggle-collect=instructions::measured"]);
    valgrind.args(["--dump-after=instructions::measured", "--compress-strings=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(own).arg("count");
    // The copying functions of the C library are chosen by the processor: those that every one has. mimalloc gives memory
    // back to the system by the clock.
    let kept = ["PATH", "TMPDIR", "VALGRIND_LIB"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    valgrind.env_clear().envs(kept).env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-ERMS,-FSRM");
    valgrind.env("MIMALLOC_PURGE_DELAY", "-1");
    let output = valgrind.stderr(Stdio::inherit()).output().expect("valgrind (apt-get install valgrind)");
    assert!(output.status.success(), "valgrind: {}", output.status);
    let frames: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a count of frames");
    // One file for each call of `measured`: the stages, then SHA-256.
    let count = |call: usize| total(&folder.join(format!("out.{call}")));
    let hash = count(STAGES.len() + 1);
    let stages = STAGES.iter().zip(1..);
    let each = stages.map(|((name, _), n)| count(n) - if HASHING.contains(name) { hash } else { 0.0 });
    let each = each.map(|count| count / frames).collect();
    fs::remove_dir_all(&folder).expect("removed");
    each
}

/// The instructions in one file of callgrind.
fn total(path: &Path) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let total = text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    total.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{}: no total", path.display()))
}

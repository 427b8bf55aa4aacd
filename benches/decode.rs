//! What one frame costs on its way through a worker, next to one SHA-256 pass over the same bytes.
//!
//! `cargo bench --bench decode`, over `fixtures/network.bin.zst` or the recording named by `ATKAFKA_BENCH_FRAMES`
//! (`atkafka record` makes one). The table at the end has ratios measured in interleaved rounds: they hold on a noisy
//! machine, where absolute times of two runs do not compare.

#[path = "../tests/support/car.rs"]
mod car;

use std::hint::black_box;
use std::time::{Duration, Instant};

use atkafka::atproto::frame;
use atkafka::decode::batch::Job;
use atkafka::decode::{Rules, Workbench, relay};
use atkafka::event::Format;
use atkafka::filter::{Filter, Lists};
use atkafka::metrics::Metrics;
use atkafka::pipeline::worker;
use atkafka::route::Routes;
use atkafka::source::job::{Frames, Work};
use atkafka::source::stream::Arrival;
use atkafka_fixtures::frames;
use criterion::{Criterion, Throughput};
use sha2::{Digest, Sha256};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
/// Frames of one job, as a reader that never waits hands them over.
const JOB: usize = 64;
/// Interleaved rounds for the ratios, and how long they may take.
const ROUNDS: usize = 60;
const ROUNDS_FOR: Duration = Duration::from_secs(12);

fn main() {
    let path = std::env::var("ATKAFKA_BENCH_FRAMES").unwrap_or_else(|_| FIXTURE.into());
    let frames = frames::read(&path).unwrap_or_else(|e| panic!("ATKAFKA_BENCH_FRAMES={path}: {e}"));
    assert!(!frames.is_empty(), "{path} has no frames");
    let bytes: usize = frames.iter().map(Vec::len).sum();
    println!("{}: {} frames of {} bytes on average", path, frames.len(), bytes / frames.len());

    let mut passes = passes(&frames);
    let mut criterion =
        Criterion::default().sample_size(30).measurement_time(Duration::from_secs(5)).configure_from_args();
    for (unit, throughput) in
        [("bytes", Throughput::Bytes(bytes as u64)), ("frames", Throughput::Elements(frames.len() as u64))]
    {
        let mut group = criterion.benchmark_group(format!("decode, {unit}"));
        group.throughput(throughput);
        for (name, pass) in &mut passes {
            group.bench_function(*name, |b| b.iter(&mut *pass));
        }
        group.finish();
    }
    criterion.final_summary();
    // Not when cargo only lists the benches or tries them out.
    if std::env::args().any(|a| a == "--bench") {
        ratios(&mut passes, frames.len());
    }
}

type Pass<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// One pass over all the frames, done in each way. The first is what the others are compared with.
fn passes(frames: &[Vec<u8>]) -> Vec<Pass<'_>> {
    let fast = |format, verify| -> Box<dyn FnMut() + '_> {
        let jobs = jobs(frames);
        let metrics = Metrics::default();
        let filter = Filter::new(&Lists::default()).expect("no filter");
        let rules = Rules { format, filter, routes: Routes::default(), verify, enrich: false };
        let mut decoder = Workbench::new(rules, metrics.decode);
        Box::new(move || {
            for job in &jobs {
                black_box(worker::work(&mut decoder, job));
            }
        })
    };
    vec![
        (
            "one SHA-256 pass",
            Box::new(move || {
                for frame in frames {
                    black_box(Sha256::digest(frame));
                }
            }),
        ),
        ("worker, plain", fast(Format::Plain, true)),
        ("worker, osprey", fast(Format::Osprey, true)),
        ("worker, plain, unverified", fast(Format::Plain, false)),
        (
            "reference: serde_ipld_dagcbor, iroh-car, sonic-rs",
            Box::new(move || {
                let mut out = Vec::new();
                for frame in frames {
                    out.clear();
                    reference::frame(frame, &mut out);
                    black_box(&out);
                }
            }),
        ),
        (
            "header and seq",
            Box::new(move || {
                for frame in frames {
                    black_box(frame::header(frame).map(|(kind, body)| (kind, frame::seq(&frame[body..])))).ok();
                }
            }),
        ),
    ]
}

/// The frames as a reader hands them over.
fn jobs(frames: &[Vec<u8>]) -> Vec<Job> {
    let job = |(ordinal, some): (usize, &[Vec<u8>])| {
        let mut frames = Frames::default();
        for frame in some {
            frames.push(frame, Arrival::of(frame).seen().expect("a frame"));
        }
        let (work, received) = (Work::Frames(frames), Instant::now());
        Job {
            source: 0,
            ordinal: ordinal as u64,
            work,
            decode: relay::message,
            position: None,
            received,
            arrived_ms: 0,
            cost: 0,
            room: usize::MAX / 2,
        }
    };
    frames.chunks(JOB).enumerate().map(job).collect()
}

/// Each pass next to the first one of the same round: the median of the rounds, and their fastest.
fn ratios(passes: &mut [Pass<'_>], frames: usize) {
    let mut times = vec![Vec::new(); passes.len()];
    let until = Instant::now() + ROUNDS_FOR;
    for round in 0..ROUNDS {
        if round >= 5 && Instant::now() > until {
            break;
        }
        for ((_, pass), times) in passes.iter_mut().zip(&mut times) {
            let began = Instant::now();
            pass();
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let fastest = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    println!("| stage, {} interleaved rounds | CPU | part of one SHA-256 pass |", times[0].len());
    println!("|---|---|---|");
    for ((name, _), own) in passes.iter().zip(&times) {
        let mut ratios: Vec<f64> = own.iter().zip(&times[0]).map(|(own, sha)| own / sha).collect();
        ratios.sort_by(f64::total_cmp);
        let (median, least) = (ratios[ratios.len() / 2], fastest(own) / fastest(&times[0]));
        let each = fastest(own) / frames as f64 * 1e6;
        println!("| {name} | {each:.2} µs a frame | {median:.3} (the fastest: {least:.3}) |");
    }
}

/// The same work with nothing but libraries: what the hand-made way has to be worth.
mod reference {
    use atkafka::atproto::frame;
    use data_encoding::BASE64_NOPAD;
    use ipld_core::cid::Cid;
    use ipld_core::ipld::Ipld;
    use serde::ser::{Serialize, SerializeMap, Serializer};
    use serde::{Deserialize, Serialize as DeriveSerialize};
    use sha2::{Digest, Sha256};

    #[derive(Deserialize)]
    struct Commit<'a> {
        seq: u64,
        repo: &'a str,
        rev: &'a str,
        time: &'a str,
        #[serde(borrow)]
        blocks: &'a [u8],
        #[serde(borrow)]
        ops: Vec<Op<'a>>,
    }

    #[derive(Deserialize)]
    struct Op<'a> {
        action: &'a str,
        path: &'a str,
        cid: Option<Cid>,
    }

    #[derive(DeriveSerialize)]
    struct Event<'a> {
        did: &'a str,
        timestamp: &'a str,
        seq: u64,
        rev: &'a str,
        operation: Operation<'a>,
    }

    #[derive(DeriveSerialize)]
    struct Operation<'a> {
        action: &'a str,
        collection: &'a str,
        rkey: &'a str,
        uri: String,
        cid: String,
        path: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        record: Option<Json>,
    }

    struct Json(Ipld);

    impl Serialize for Json {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            value(&self.0, s)
        }
    }

    struct Borrowed<'a>(&'a Ipld);

    impl Serialize for Borrowed<'_> {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            value(self.0, s)
        }
    }

    fn value<S: Serializer>(ipld: &Ipld, s: S) -> Result<S::Ok, S::Error> {
        match ipld {
            Ipld::Null => s.serialize_unit(),
            Ipld::Bool(b) => s.serialize_bool(*b),
            Ipld::Integer(i) => match i64::try_from(*i) {
                Ok(i) => s.serialize_i64(i),
                Err(_) => s.serialize_u64(*i as u64),
            },
            Ipld::Float(f) => s.serialize_f64(*f),
            Ipld::String(text) => s.serialize_str(text),
            Ipld::Bytes(bytes) => one(s, "$bytes", &BASE64_NOPAD.encode(bytes)),
            Ipld::List(list) => s.collect_seq(list.iter().map(Borrowed)),
            Ipld::Map(map) => s.collect_map(map.iter().map(|(k, v)| (k, Borrowed(v)))),
            Ipld::Link(cid) => one(s, "$link", &cid.to_string()),
        }
    }

    fn one<S: Serializer>(s: S, key: &str, text: &str) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(1))?;
        map.serialize_entry(key, text)?;
        map.end()
    }

    /// Appends the events of a commit; other kinds are too rare to count.
    pub fn frame(frame: &[u8], out: &mut Vec<u8>) {
        let (frame::Kind::Commit, body) = frame::header(frame).expect("a frame") else { return };
        let commit: Commit<'_> = serde_ipld_dagcbor::from_slice(&frame[body..]).expect("a commit");
        let blocks = super::car::blocks(commit.blocks);
        for op in &commit.ops {
            let (collection, rkey) = op.path.split_once('/').expect("a path");
            let record = op.cid.map(|cid| {
                let (_, block) = blocks.iter().find(|(other, _)| *other == cid).expect("the block");
                assert_eq!(cid.hash().digest(), &Sha256::digest(block)[..], "the block's hash");
                Json(serde_ipld_dagcbor::from_slice(block).expect("a record"))
            });
            let event = Event {
                did: commit.repo,
                timestamp: commit.time,
                seq: commit.seq,
                rev: commit.rev,
                operation: Operation {
                    action: op.action,
                    collection,
                    rkey,
                    uri: format!("at://{}/{}", commit.repo, op.path),
                    cid: op.cid.map_or(String::new(), |cid| cid.to_string()),
                    path: op.path,
                    record,
                },
            };
            sonic_rs::to_writer(&mut *out, &event).expect("JSON");
        }
    }
}

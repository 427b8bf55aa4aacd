//! The whole pipeline: a relay on the loopback interface, the reader, workers, the producer, and lines into nothing.
//!
//! The relay runs in the same process and takes its share of the machine; Kafka is not here. `ATKAFKA_BENCH_FRAMES` names
//! another recording.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atkafka::client::Client;
use atkafka::decode::Rules;
use atkafka::event::Format;
use atkafka::filter::{Filter, Lists};
use atkafka::health::Health;
use atkafka::metrics::Metrics;
use atkafka::pipeline::producer::Letters;
use atkafka::pipeline::{Parts, Pipeline, Source};
use atkafka::route::Routes;
use atkafka::sink::lines::Lines;
use atkafka::source::relay::Relay as Reader;
use atkafka::source::{Host, Start};
use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use criterion::{BenchmarkId, Criterion, Throughput};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
/// Frames of one iteration: enough to make the start and the stop of the threads small.
const FRAMES: u64 = 30_000;
const MEMORY: usize = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let path = std::env::var("ATKAFKA_BENCH_FRAMES").unwrap_or_else(|_| FIXTURE.into());
    let frames = Arc::new(frames::read(&path).unwrap_or_else(|e| panic!("ATKAFKA_BENCH_FRAMES={path}: {e}")));
    assert!(!frames.is_empty(), "{path} has no frames");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(6))
        .configure_from_args();
    let mut group = criterion.benchmark_group("pipeline, relay to lines");
    group.throughput(Throughput::Elements(FRAMES));
    for (format, name) in [(Format::Plain, "plain"), (Format::Osprey, "osprey")] {
        for workers in [1, 2] {
            let id = BenchmarkId::new(name, format!("{workers} workers"));
            group.bench_function(id, |b| {
                b.iter_custom(|iterations| (0..iterations).map(|_| run(&frames, format, workers)).sum());
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

/// From the start of the pipeline to the delivery of the last frame.
fn run(frames: &Arc<Vec<Vec<u8>>>, format: Format, workers: usize) -> Duration {
    let relay = Relay::start(RelayConfig::looped(frames.clone(), FRAMES)).expect("a relay");
    let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
    let host = Host {
        tls: false,
        host: "127.0.0.1".into(),
        port: relay.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("the relay's port"),
        name: "relay".into(),
        prefix: String::new(),
        client: Client::new(None),
        authorization: None,
    };
    health.add_source(&host.name, true);
    let delivered = metrics.pipeline.last_seq_delivered(&host.name);
    let (m, h) = (metrics.source.clone(), health.clone());
    let read = Box::new(move |intake| Reader::new(host, 0, Start::At(0), None, intake, m, h).run());
    let written = Arc::new(AtomicU64::new(0));
    let parts = Parts {
        store: atkafka::pipeline::Store::None,
        sources: vec![Source {
            name: "relay".into(),
            keep: atkafka::pipeline::checkpointer::Keep::Nowhere,
            is_live: true,
            decode: atkafka::decode::relay::message,
            read,
        }],
        topics: vec!["stdout".into()],
        sink: Box::new(Lines::new(Counting(written.clone()))),
        rules: Rules {
            format,
            filter: Filter::new(&Lists::default()).expect("no filter"),
            routes: Routes::default(),
            verify: true,
            enrich: false,
        },
        knowledge: None,
        workers,
        memory_limit: MEMORY,
        snowflake: (0, 0),
        record_headers: false,
        letters: Letters::Log,
    };
    let began = Instant::now();
    let pipeline = Pipeline::start(parts, metrics.clone(), health);
    while delivered.get() < FRAMES as i64 {
        assert!(began.elapsed() < PATIENCE, "{} of {FRAMES} frames after {PATIENCE:?}", delivered.get());
        std::thread::sleep(Duration::from_micros(200));
    }
    let took = began.elapsed();
    pipeline.stop();
    let outcome = pipeline.wait(PATIENCE).expect("an end");
    outcome.expect("a good one");
    pipeline.join();
    assert_eq!(metrics.pipeline.dead_letters_total(), 0);
    assert!(written.load(Ordering::Relaxed) > FRAMES * 100, "every event was written");
    took
}

/// Nothing that counts.
struct Counting(Arc<AtomicU64>);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

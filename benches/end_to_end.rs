//! What an event costs from a relay to a broker: CPU, context switches, latency and memory of the whole process.
//!
//! It starts the program itself, relays on the loopback interface, and writes to the broker that `ATKAFKA_BENCH_KAFKA`
//! names; without one it says so, and measures only what needs none. `ATKAFKA_BENCH_PROGRAMS=old/atkafka,new/atkafka`
//! measures several programs in turn, which is the way to compare two versions: noise of the machine meets both.
//! `ATKAFKA_BENCH_ONLY` names parts of the rows to measure, with semicolons between; `ATKAFKA_BENCH_SECONDS` and
//! `ATKAFKA_BENCH_ROUNDS` change how long and how often.

#[path = "end_to_end/process.rs"]
mod process;
#[path = "end_to_end/raw.rs"]
mod raw;
#[path = "end_to_end/tls.rs"]
mod tls;
#[path = "end_to_end/topic.rs"]
mod topic;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atkafka_fixtures::directory::Directory;
use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Faults, Relay, RelayConfig};
use process::{Program, Usage};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
/// Frames of a run at full speed.
const BACKLOG: u64 = 300_000;
/// Nothing is measured until so long after the first delivery: connections and buffers are there by then.
const WARM_UP: Duration = Duration::from_secs(5);
/// Until everything is delivered.
const PATIENCE: Duration = Duration::from_secs(180);

/// How fast events come.
#[derive(Clone, Copy, PartialEq)]
enum Speed {
    /// As fast as they are taken.
    Full,
    /// So many a second.
    Rate(f64),
    /// Not at all.
    Idle,
}

/// One row of the table.
struct Row {
    name: &'static str,
    speed: Speed,
    relays: usize,
    tls: bool,
    to: To,
    args: &'static [&'static str],
}

/// Where events go.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Kafka,
    /// Lines on standard output, which nobody reads.
    Lines,
    /// Nowhere: the bytes are read by OpenSSL, or from the socket, and not looked at. There is no program.
    Nothing,
}

/// One relay without TLS, into Kafka.
const PLAIN: Row = Row { name: "", speed: Speed::Full, relays: 1, tls: false, to: To::Kafka, args: &[] };

const ENRICHED: &[&str] = &["--plc-host", "DIRECTORY"];
const ONCE: &[&str] = &["--delivery", "exactly-once"];
const ONCE_SOON: &[&str] = &["--delivery", "exactly-once", "--commit-interval", "100ms"];
const ROWS: &[Row] = &[
    Row { name: "full speed, ws, plain", ..PLAIN },
    Row { name: "full speed, ws, osprey", args: &["--osprey-compatible"], ..PLAIN },
    Row { name: "full speed, ws, enriched", args: ENRICHED, ..PLAIN },
    Row { name: "full speed, ws, exactly once", args: ONCE, ..PLAIN },
    Row { name: "full speed, wss, plain", tls: true, ..PLAIN },
    Row { name: "full speed, wss, bytes only, by OpenSSL alone", tls: true, to: To::Nothing, ..PLAIN },
    Row { name: "full speed, ws, bytes only, from the socket", to: To::Nothing, ..PLAIN },
    Row { name: "full speed, two relays, plain", relays: 2, ..PLAIN },
    Row { name: "full speed, ws, into lines, one worker", to: To::Lines, args: &["--workers=1"], ..PLAIN },
    Row {
        name: "full speed, two relays, into lines, one worker",
        relays: 2,
        to: To::Lines,
        args: &["--workers=1"],
        ..PLAIN
    },
    Row {
        name: "full speed, two relays, into lines, two workers",
        relays: 2,
        to: To::Lines,
        args: &["--workers=2"],
        ..PLAIN
    },
    Row { name: "2,000/s, ws, plain", speed: Speed::Rate(2_000.0), ..PLAIN },
    Row { name: "500/s, ws, plain", speed: Speed::Rate(500.0), ..PLAIN },
    Row { name: "500/s, ws, osprey", speed: Speed::Rate(500.0), args: &["--osprey-compatible"], ..PLAIN },
    Row { name: "500/s, ws, enriched", speed: Speed::Rate(500.0), args: ENRICHED, ..PLAIN },
    Row { name: "500/s, wss, plain", speed: Speed::Rate(500.0), tls: true, ..PLAIN },
    Row { name: "500/s, ws, exactly once", speed: Speed::Rate(500.0), args: ONCE, ..PLAIN },
    Row { name: "500/s, ws, exactly once each 100 ms", speed: Speed::Rate(500.0), args: ONCE_SOON, ..PLAIN },
    Row { name: "50/s, ws, plain", speed: Speed::Rate(50.0), ..PLAIN },
    Row { name: "idle, ws, plain", speed: Speed::Idle, ..PLAIN },
];

/// What one run gave.
#[derive(Clone, Default)]
struct Figures {
    /// Microseconds of CPU and context switches for each frame; when idle, for each second.
    cpu: f64,
    switches: f64,
    frames_per_second: f64,
    /// Milliseconds from the relay to the broker's log; with exactly once, to a consumer of what is committed.
    p50: f64,
    p99: f64,
    peak_mb: f64,
}

fn main() {
    // Not when cargo only lists the benches or tries them out.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let broker = std::env::var("ATKAFKA_BENCH_KAFKA").ok();
    if broker.is_none() {
        println!("end to end: no row into Kafka, since ATKAFKA_BENCH_KAFKA names no broker (make bench starts one)");
    }
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let programs: Vec<PathBuf> = match std::env::var("ATKAFKA_BENCH_PROGRAMS") {
        Ok(list) => list.split(',').map(PathBuf::from).collect(),
        Err(_) => vec![env!("CARGO_BIN_EXE_atkafka").into()],
    };
    let only = std::env::var("ATKAFKA_BENCH_ONLY").unwrap_or_default();
    let wanted = |row: &&Row| only.split(';').any(|part| row.name.contains(part.trim()));
    let path = std::env::var("ATKAFKA_BENCH_FRAMES").unwrap_or_else(|_| FIXTURE.into());
    let bench = Bench {
        broker,
        frames: Arc::new(frames::read(&path).unwrap_or_else(|e| panic!("ATKAFKA_BENCH_FRAMES={path}: {e}"))),
        seconds: Duration::from_secs(number("ATKAFKA_BENCH_SECONDS", 20)),
        backlog: number("ATKAFKA_BENCH_BACKLOG", BACKLOG),
    };
    let rounds = number("ATKAFKA_BENCH_ROUNDS", 3) as usize;
    println!("| from a relay into Kafka | CPU | context switches | frames/s | p50 | p99 | peak memory |");
    println!("|---|---|---|---|---|---|---|");
    let possible = |row: &&Row| bench.broker.is_some() || row.to != To::Kafka;
    for row in ROWS.iter().filter(wanted).filter(possible) {
        let mut all = vec![Vec::new(); programs.len()];
        for _ in 0..rounds {
            for (program, runs) in programs.iter().zip(&mut all) {
                runs.push(bench.run(row, program));
            }
        }
        for (program, runs) in programs.iter().zip(&all) {
            let program = if programs.len() == 1 { String::new() } else { format!(", {}", program.display()) };
            print_row(&format!("{}{program}", row.name), row.speed, runs);
        }
    }
}

/// The median of the runs; of CPU the least and the greatest as well, which is the noise.
fn print_row(name: &str, speed: Speed, runs: &[Figures]) {
    let sorted = |part: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |part| {
        let values = sorted(part);
        values[values.len() / 2]
    };
    let cpu = sorted(|f| f.cpu);
    let (low, high) = (cpu[0], cpu[cpu.len() - 1]);
    let (cpu, switches) = (median(|f| f.cpu), median(|f| f.switches));
    let peak = median(|f| f.peak_mb);
    if speed == Speed::Idle {
        println!("| {name} | {:.3} % of a core | {switches:.1} a second | | | | {peak:.0} MB |", cpu / 1e4);
        return;
    }
    let rate = median(|f| f.frames_per_second);
    let latency = match speed {
        Speed::Rate(_) => format!("{:.1} ms | {:.1} ms", median(|f| f.p50), median(|f| f.p99)),
        _ => " | ".into(),
    };
    println!(
        "| {name} | {cpu:.2} µs a frame ({low:.2} to {high:.2}) | {switches:.2} a frame | {rate:.0} | {latency} | {peak:.0} MB |"
    );
}

struct Bench {
    broker: Option<String>,
    frames: Arc<Vec<Vec<u8>>>,
    seconds: Duration,
    backlog: u64,
}

impl Bench {
    fn run(&self, row: &Row, program: &std::path::Path) -> Figures {
        // Whoever counts no frames has to be told the end.
        let drop_every = (row.to == To::Nothing).then_some(self.backlog);
        let faults = Faults { drop_every, ..Faults::default() };
        let config = match row.speed {
            Speed::Full => RelayConfig { faults, ..RelayConfig::looped(self.frames.clone(), self.backlog) },
            Speed::Rate(rate) => {
                RelayConfig { rate, now: true, ..RelayConfig::looped(self.frames.clone(), 10_000_000) }
            }
            // One event, so that everything is connected.
            Speed::Idle => RelayConfig::looped(self.frames.clone(), 1),
        };
        let relays: Vec<Relay> = (0..row.relays).map(|_| Relay::start(config.clone()).expect("a relay")).collect();
        let front = row.tls.then(|| tls::Front::start(relays[0].port()));
        let urls = match &front {
            Some(front) => front.url(),
            None => relays.iter().map(Relay::url).collect::<Vec<_>>().join(","),
        };
        if row.to == To::Nothing {
            return self.raw(relays, &urls, front.as_ref());
        }
        let directory = row.args.contains(&"DIRECTORY").then(|| {
            let directory = Directory::start().expect("a directory");
            directory.make(|did| Some((format!("{}.example", did.replace(':', "-")), "https://pds.example".into())));
            directory
        });
        let plc = directory.as_ref().map(Directory::url).unwrap_or_default();
        let mut args = vec!["firehose", "relay", "--relay-host", &urls, "--cursor", "oldest"];
        let broker = self.broker.as_deref().filter(|_| row.to == To::Kafka);
        let topic = broker.map(|broker| topic::Topic::make(broker, row.speed != Speed::Full));
        if let (Some(broker), Some(topic)) = (broker, &topic) {
            args.extend(["--bootstrap-servers", broker, "--output-topic", topic.name()]);
        }
        args.extend(row.args.iter().map(|arg| if *arg == "DIRECTORY" { plc.as_str() } else { arg }));
        if let Some(front) = &front {
            args.extend(["--ca-file", front.ca()]);
        }
        let is_rate = matches!(row.speed, Speed::Rate(_));
        let committed = row.args.contains(&"exactly-once");
        let watch = topic.as_ref().filter(|_| committed && is_rate).map(topic::Topic::watch);
        let program = Program::start(program, &args);
        let mut figures = match row.speed {
            Speed::Full => self.backlog(&program, row.relays),
            _ => self.steady(row.speed, &program),
        };
        drop(program);
        if let Some(topic) = topic.filter(|_| is_rate) {
            (figures.p50, figures.p99) = match watch {
                Some(watch) => watch.latencies(WARM_UP),
                None => topic.latencies(WARM_UP),
            };
        }
        figures
    }

    /// From the start of the process to the delivery of the last frame.
    fn backlog(&self, program: &Program, relays: usize) -> Figures {
        let (began, frames) = (Instant::now(), self.backlog * relays as u64);
        program.wait_delivered(frames, PATIENCE);
        let (used, took) = (program.usage(), began.elapsed());
        let mut figures = figures(used, frames as f64, program);
        figures.frames_per_second = frames as f64 / took.as_secs_f64();
        figures
    }

    /// The bytes of a relay, which ends the connection behind the last frame.
    fn raw(&self, relays: Vec<Relay>, url: &str, front: Option<&tls::Front>) -> Figures {
        let (used, took) = raw::read(url.rsplit('/').next().expect("a host"), front);
        let frames = self.backlog as f64;
        let sent: u64 = relays.into_iter().map(|relay| relay.stop().frames_sent).sum();
        assert_eq!(sent, self.backlog, "it ended before");
        Figures {
            cpu: used.cpu_us / frames,
            switches: used.switches / frames,
            frames_per_second: frames / took.as_secs_f64(),
            ..Figures::default()
        }
    }

    fn steady(&self, speed: Speed, program: &Program) -> Figures {
        program.wait_delivered(1, PATIENCE);
        std::thread::sleep(WARM_UP);
        let (frames, before, began) = (program.metric("atkafka_received_frames"), program.usage(), Instant::now());
        std::thread::sleep(self.seconds);
        let (after, took) = (program.usage(), began.elapsed().as_secs_f64());
        let frames = program.metric("atkafka_received_frames") - frames;
        let count = if speed == Speed::Idle { took } else { frames };
        let mut figures = figures(after.since(&before), count, program);
        figures.frames_per_second = frames / took;
        figures
    }
}

fn figures(used: Usage, count: f64, program: &Program) -> Figures {
    Figures {
        cpu: used.cpu_us / count,
        switches: used.switches / count,
        peak_mb: program.peak_mb(),
        ..Figures::default()
    }
}

//! Parse, run, exit code: 0 stopped as asked, 1 failed, 2 wrong usage, 130 ended by a second signal.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atkafka::checkpoint::file::CursorFile;
use atkafka::config::{self, Command, Output, Writing};
use atkafka::health::Health;
use atkafka::metrics::Metrics;
use atkafka::pipeline::{self, Parts, Pipeline, Source, producer};
use atkafka::sink::Sink;
use atkafka::sink::kafka::KafkaSink;
use atkafka::sink::kafka_options::{Kafka, KafkaClient};
use atkafka::sink::librdkafka::Librdkafka;
use atkafka::sink::lines::Lines;
use atkafka::source::relay::Relay;
use atkafka::{http, record, report};
use signal_hook::consts::{SIGINT, SIGTERM};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the main thread looks for a signal.
const LOOK_UP: Duration = Duration::from_millis(200);
/// After a stop: the drain, and a little for the last save. Then something hangs, such as a pipe that nobody reads.
const PATIENCE: Duration = Duration::from_millis(1500).saturating_add(producer::DRAIN);

/// Why the process ends with something else than 0.
enum Failure {
    Usage(String),
    Run(String),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("atkafka: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Run(message)) => {
            // The logger is there by now; without one this says nothing, so both.
            if log::max_level() == log::LevelFilter::Off {
                eprintln!("atkafka: {message}");
            } else {
                log::error!("{message}");
            }
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<(), Failure> {
    // Lossy: a variable that is not UTF-8 is none of ours.
    let own = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let args: Result<Vec<String>, _> = std::env::args_os().skip(1).map(|a| a.into_string()).collect();
    let args = args.map_err(|a| Failure::Usage(format!("{a:?}: not UTF-8")))?;
    let command = config::environment(own)
        .and_then(|env| config::command(&args, &env))
        .map_err(|e| Failure::Usage(e.to_string()))?;
    match command {
        Command::Print(text) => {
            // A closed pipe (`| head`) is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Command::Relay(relay) => firehose_relay(relay),
        Command::Record(options) => record_frames(options),
    }
}

/// A flag that the first SIGTERM or SIGINT sets; the second one ends the process at once.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|e| Failure::Run(format!("signals cannot be handled: {e}")))?;
    }
    Ok(stop)
}

fn firehose_relay(relay: config::Relay) -> Result<(), Failure> {
    atkafka::log::start(relay.logging.level, relay.logging.json);
    let stop = stop_flag()?;
    let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
    let (output_name, sink) = sink(&relay.writing, &metrics)?;

    let mut sources = Vec::new();
    for (index, host) in relay.hosts.into_iter().enumerate() {
        let (cursor, saved) = match &relay.writing.state_dir {
            Some(dir) => CursorFile::open(dir, &host.name, &output_name)
                .map(|(file, saved)| (Some(file), saved))
                .map_err(Failure::Run)?,
            None => (None, None),
        };
        match (&cursor, saved) {
            (Some(file), Some(seq)) => log::info!("{}: cursor {seq} from {}", host.name, file.path().display()),
            (Some(file), None) => log::info!("{}: no cursor in {} yet", host.name, file.path().display()),
            (None, _) => log::info!("{}: no cursor is kept (--state-dir keeps one)", host.name),
        }
        health.add_source(&host.name);
        let name = host.name.clone();
        let (start, metrics, health) = (relay.start, metrics.clone(), health.clone());
        let read = Box::new(move |intake| Relay::new(host, index, start, saved, intake, metrics, health).run());
        sources.push(Source { name, cursor, read });
    }

    let writing = relay.writing;
    serve_http(&writing, &metrics, &health)?;
    let dead_letter_topic = matches!(&writing.output, Output::Kafka(kafka) if kafka.dead_letter_topic.is_some());
    let parts = Parts {
        sources,
        sink,
        rules: writing.rules,
        workers: writing.workers,
        memory_limit: writing.memory_limit,
        snowflake: writing.snowflake,
        record_headers: writing.record_headers,
        dead_letter_topic,
    };
    log::info!(
        "atkafka {}: into {output_name}, {} workers, {} MiB in flight at most",
        env!("CARGO_PKG_VERSION"),
        parts.workers,
        parts.memory_limit >> 20
    );
    // A status line would mix with events on the same terminal.
    let status_line = matches!(writing.output, Output::Kafka(_)) && atkafka::log::on_terminal(relay.logging.json);
    let pipeline = Pipeline::start(parts, metrics.clone(), health.clone());
    supervise(pipeline, &stop, report::Report::new(metrics, health, status_line))
}

/// The sink, and what the output is called in logs and cursor files.
fn sink(writing: &Writing, metrics: &Arc<Metrics>) -> Result<(String, Box<dyn Sink>), Failure> {
    match &writing.output {
        Output::Lines => Ok(("stdout".into(), Box::new(Lines::new(std::io::stdout())))),
        Output::Kafka(kafka) => {
            let options = Kafka::clone(kafka);
            let sink: Box<dyn Sink> = match kafka.client {
                KafkaClient::Librdkafka => Box::new(
                    Librdkafka::new(options, metrics.clone())
                        .map_err(|e| Failure::Usage(format!("--kafka-config: {e}")))?,
                ),
                KafkaClient::Kafka => Box::new(KafkaSink::new(options, metrics.clone())),
            };
            Ok((kafka.topic.clone(), sink))
        }
    }
}

fn serve_http(writing: &Writing, metrics: &Arc<Metrics>, health: &Arc<Health>) -> Result<(), Failure> {
    let Some(address) = writing.listen else { return Ok(()) };
    let http = http::bind(address).map_err(Failure::Run)?;
    log::info!("metrics on http://{}/metrics", http.address());
    let (metrics, health) = (metrics.clone(), health.clone());
    // It ends with the process.
    pipeline::spawn("http", move || http.serve(metrics, health));
    Ok(())
}

/// Waits for the end, asked for or not, and reports on the way.
fn supervise(pipeline: Pipeline, stop: &AtomicBool, mut report: report::Report) -> Result<(), Failure> {
    let mut stopping: Option<Instant> = None;
    loop {
        if let Some(outcome) = pipeline.wait(LOOK_UP) {
            report.last();
            pipeline.join();
            return outcome.map_err(Failure::Run);
        }
        if stop.load(Ordering::Relaxed) && stopping.is_none() {
            log::info!("stopping: what is in flight is delivered first; a second signal ends at once");
            stopping = Some(Instant::now());
            pipeline.stop();
        }
        if stopping.is_some_and(|at| at.elapsed() > PATIENCE) {
            return Err(Failure::Run(
                "the output does not take what is in flight; what is not delivered is read again after the restart"
                    .into(),
            ));
        }
        report.tick();
    }
}

fn record_frames(options: config::Record) -> Result<(), Failure> {
    atkafka::log::start(options.logging.level, options.logging.json);
    let stop = stop_flag()?;
    let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
    health.add_source(&options.host.name);
    let (recorder, recording) = record::new(&options.output, options.frames, stop.clone()).map_err(Failure::Run)?;
    let relay = Relay::new(options.host, 0, options.start, None, recorder, metrics, health);
    let reader = pipeline::spawn("reader-0", move || relay.run());
    let mut said = Instant::now();
    while !reader.is_finished() {
        std::thread::sleep(LOOK_UP);
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            log::info!("{} of {} frames", recording.progress().0, options.frames);
        }
    }
    let _ = reader.join();
    let (frames, bytes) =
        recording.finish().map_err(|e| Failure::Run(format!("--output {}: {e}", options.output.display())))?;
    log::info!("{frames} frames, {bytes} bytes, in {}", options.output.display());
    Ok(())
}

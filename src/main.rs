//! Parse, run, exit code: 0 stopped as asked, 1 failed, 2 wrong usage or settings, 130 ended by a second signal. It alone
//! reads arguments and the environment, pairs readers with decoders and a sink, and ends the process. The main thread
//! waits here for the end.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atkafka::checkpoint::acks::AckQueue;
use atkafka::checkpoint::file::{StateFile, Stored};
use atkafka::checkpoint::topic::{self, Key};
use atkafka::checkpoint::{OzonePosition, SeqPosition};
use atkafka::config::{self, Command, CursorTopic, Logging, Output, Writing};
use atkafka::decode;
use atkafka::enrich::Knowledge;
use atkafka::health::Health;
use atkafka::http::Shown;
use atkafka::http::history::History;
use atkafka::http::status::Process;
use atkafka::log::bar::Extent;
use atkafka::metrics::Metrics;
use atkafka::pipeline::checkpointer::Keep;
use atkafka::pipeline::permits::Failed;
use atkafka::pipeline::saved::Saved;
use atkafka::pipeline::{self, Parts, Pipeline, Source, Store, producer};
use atkafka::sink::Sink;
use atkafka::sink::kafka::KafkaSink;
use atkafka::sink::kafka_options::{Kafka, KafkaClient};
use atkafka::sink::librdkafka::Librdkafka;
use atkafka::sink::lines::Lines;
use atkafka::sink::transaction::Identity;
use atkafka::source::Start;
use atkafka::source::jetstream::dictionary::Dictionary;
use atkafka::source::jetstream::{Jetstream, JetstreamPosition};
use atkafka::source::job::Stopped;
use atkafka::source::ozone::Ozone;
use atkafka::source::recording;
use atkafka::source::relay::Relay;
use atkafka::source::replay::{Progress, Replay};
use atkafka::source::tap::{self, Tap};
use atkafka::systemd::Systemd;
use atkafka::{check, cursors, http, record, report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the main thread looks for a signal.
const LOOK_UP: Duration = Duration::from_millis(200);
/// A signal so soon after the first is the same one: `timeout` of GNU sends it to the process and to its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// After a stop: the drain, and a little for the last save. Then something hangs, such as a pipe that nobody reads.
const PATIENCE: Duration = Duration::from_millis(1500).saturating_add(producer::DRAIN);

/// Why the process ends with something else than 0.
enum Failure {
    /// It has been said already what is wrong.
    Found,
    Usage(String),
    Run(String),
    /// What is set cannot work, as a server said: as for wrong usage, a new start makes nothing right.
    Settings(String),
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Failure {
        match failed {
            Failed::Run(reason) => Failure::Run(reason),
            Failed::Settings(reason) => Failure::Settings(reason),
        }
    }
}

fn main() -> ExitCode {
    // mimalloc asks the kernel for huge pages: each of the many threads then keeps 2 MiB where it uses some kilobytes. Before
    // there are threads and memory to speak of; a kernel that cannot do it only costs that memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    log_panics();
    let code = ended(run());
    atkafka::log::finish();
    code
}

fn ended(outcome: Result<(), Failure>) -> ExitCode {
    // The reason of a failure is the last line: what was held back comes before it.
    log::logger().flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(1),
        Err(Failure::Usage(message)) => {
            atkafka::log::say(&format!("atkafka: {message}"));
            ExitCode::from(2)
        }
        Err(Failure::Settings(message)) => {
            log::error!(event = "failed", error = message; "{message}");
            ExitCode::from(2)
        }
        Err(Failure::Run(message)) => {
            // The logger is there by now; without one this says nothing, so both.
            if log::max_level() == log::LevelFilter::Off {
                atkafka::log::say(&format!("atkafka: {message}"));
            } else {
                log::error!(event = "failed", error = message; "{message}");
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
        Command::Tap(tap) => firehose_tap(tap),
        Command::Jetstream(jetstream) => firehose_jetstream(jetstream),
        Command::Replay(replay) => firehose_replay(replay),
        Command::Ozone(ozone) => ozone_events(ozone),
        Command::Record(options) => record_frames(options),
        Command::Check(check) => check_settings(*check),
        Command::Cursor(cursor) => change_cursors(*cursor),
        Command::Healthcheck(path, address) => http::ask(address, path).map_err(Failure::Run),
    }
}

/// Exit code 1 where a line says that something failed; a warning is none.
fn check_settings(check: config::Check) -> Result<(), Failure> {
    let (json, stdout) = (check.json, std::io::stdout());
    let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|c| *c > 0);
    // As they are found: a slow host is waited for. A closed pipe (`| head`) is no failure.
    let print = |text: String| drop(stdout.lock().write_all(text.as_bytes()));
    let tally = check::run(check, &mut |finding| {
        print(if json { check::json(finding) } else { check::text(finding, columns) });
    });
    if !json {
        print(check::summary(tally));
    }
    if tally.failed == 0 { Ok(()) } else { Err(Failure::Found) }
}

/// Shows or changes saved positions.
fn change_cursors(cursor: config::Cursor) -> Result<(), Failure> {
    let stdout = std::io::stdout();
    // A closed pipe (`| head`) is no failure. What is said before a change is seen before it.
    let mut print = |text: &str| {
        let mut stdout = stdout.lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    };
    cursors::run(cursor, &mut print).map_err(|failed| match failed {
        cursors::Failed::Usage(why) => Failure::Usage(why),
        cursors::Failed::Run(why) => Failure::Run(why),
    })
}

/// A flag that the first SIGTERM or SIGINT sets; a second one ends the process at once.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|e| Failure::Run(format!("signals cannot be handled: {e}")))?;
    let asked = stop.clone();
    // It ends with the process.
    pipeline::spawn("signals", move || {
        let mut first: Option<Instant> = None;
        for _ in signals.forever() {
            asked.store(true, Ordering::Relaxed);
            if first.get_or_insert_with(Instant::now).elapsed() >= SAME_SIGNAL {
                atkafka::log::status::leave();
                // Without what runs at an orderly exit: something of it may hang.
                signal_hook::low_level::exit(130);
            }
        }
    });
    Ok(stop)
}

/// A panic is an entry of the log as others are: its text may hold what came over the network.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let entry = format!("thread {} panicked at {place}: {text}", thread.name().unwrap_or("?"));
        if log::max_level() == log::LevelFilter::Off {
            atkafka::log::say(&entry);
        } else {
            log::error!(event = "panic"; "{entry}");
        }
        // For whoever sets RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            eprintln!("{backtrace}");
        }
    }));
}

fn firehose_relay(relay: config::Relay) -> Result<(), Failure> {
    Run::new(relay.logging)?.go(relay.writing, |run, writing, output| {
        if relay.is_many {
            run.health.expect_many();
            room_for_connections(relay.hosts.len());
        }
        let (mut sources, mut resumed) = (Vec::new(), 0);
        for (index, host) in relay.hosts.into_iter().enumerate() {
            let (keep, saved) = run.position::<SeqPosition>(writing, "relay", &host.name, output)?;
            host.client.announce(&host.url(""));
            resumed += usize::from(matches!(saved, Saved::Known(Some(_))));
            let level = run.of_a_host();
            let name = host.name.clone();
            let (start, silence) = (relay.start, relay.silence);
            let (metrics, health) = (run.metrics.source.clone(), run.health.clone());
            let read = Box::new(move |intake| {
                let Ok(saved) = going_on(level, &host.name, saved) else { return };
                if saved.is_some() && start != Start::Live {
                    log::log!(
                        if level == log::Level::Info { log::Level::Warn } else { level },
                        event = "position", host = host.name;
                        "{}: --cursor is not used, since a position is saved: without it (another --cursor-topic, or the file deleted) it would begin there",
                        host.name
                    );
                }
                Relay::new(host, index, start, saved, intake, metrics, health).silence(silence).run()
            });
            sources.push(Source { name, keep, is_live: true, decode: decode::relay::message, read });
        }
        if relay.is_many {
            log::info!(
                event = "position";
                "{} hosts, {resumed} of them with a saved position; what is said of each at its start is logged with --debug",
                sources.len()
            );
        }
        Ok(sources)
    })
}

fn firehose_tap(tap: config::Tap) -> Result<(), Failure> {
    Run::new(tap.logging)?.go(tap.writing, |run, _, _| {
        tap.host.client.announce(&tap.host.url(""));
        match tap::check(&tap.host) {
            Ok(()) => log::info!(event = "connected", host = tap.host.name; "{}: /health is ok", tap.host.name),
            // The first connection says so too, and where it stands.
            Err(e) => log::debug!("{e}; connecting all the same"),
        }
        let mut sources = Vec::new();
        for index in 0..tap.connections {
            let name = if tap.connections == 1 { tap.host.name.clone() } else { format!("{}#{index}", tap.host.name) };
            let acks = match tap.acks {
                true => Some(Arc::new(AckQueue::new().map_err(|e| Failure::Run(e.to_string()))?)),
                false => None,
            };
            let keep = acks.clone().map_or(Keep::Nowhere, Keep::Acks);
            let (host, called, metrics, health) =
                (tap.host.clone(), name.clone(), run.metrics.source.clone(), run.health.clone());
            let read = Box::new(move |intake| Tap::new(host, &called, index, acks, intake, metrics, health).run());
            sources.push(Source { name, keep, is_live: true, decode: decode::tap::message, read });
        }
        Ok(sources)
    })
}

fn firehose_jetstream(jetstream: config::Jetstream) -> Result<(), Failure> {
    Run::new(jetstream.logging)?.go(jetstream.writing, |run, writing, output| {
        let host = jetstream.host;
        let (keep, saved) = run.position::<JetstreamPosition>(writing, "jetstream", &host.name, output)?;
        host.client.announce(&host.url(""));
        let name = host.name.clone();
        let dictionary = Dictionary::new(writing.state_dir.as_deref(), &name);
        let (metrics, health) = (run.metrics.source.clone(), run.health.clone());
        let read = Box::new(move |intake| {
            let Ok(saved) = saved.wait() else { return };
            if let Some(position) = &saved {
                let at = atkafka::atproto::time::format_ms((position.time_us / 1_000) as i64);
                log::info!(event = "position", host = host.name; "{}: going on from {at}", host.name);
                if jetstream.reading.start != Start::Live {
                    log::warn!(
                        event = "position", host = host.name;
                        "{}: --cursor is not used, since a position is saved: without it (another --cursor-topic, or the file deleted) it would begin there", host.name
                    );
                }
            }
            Jetstream::new(host, 0, jetstream.reading, dictionary, saved, intake, metrics, health).run()
        });
        Ok(vec![Source { name, keep, is_live: true, decode: decode::jetstream::message, read }])
    })
}

fn firehose_replay(replay: config::Replay) -> Result<(), Failure> {
    let progress = Arc::new(Progress::default());
    let (told, extent) = (progress.clone(), progress.extent.clone());
    Run::new(replay.logging)?.with_an_end(extent).go(replay.writing, |run, writing, output| {
        let reading = replay.reading;
        // A pipe gives its bytes once: there is no going on in it.
        let is_file = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|found| found.is_file());
        let (name, keep, saved) = match reading.files.iter().all(is_file) {
            false => ("stdin".to_string(), Keep::Nowhere, Saved::Known(None)),
            true => {
                let first = reading.files[0].canonicalize().map_err(|e| Failure::Run(format!("--file: {e}")))?;
                let seq = recording::first_seq(&first, &run.stop).map_err(Failure::Run)?.unwrap_or(0);
                let name = format!("{}#{seq}", first.display());
                let (keep, saved) = run.position::<SeqPosition>(writing, "replay", &name, output)?;
                (name, keep, saved)
            }
        };
        let (called, metrics, health) = (name.clone(), run.metrics.source.clone(), run.health.clone());
        let read = Box::new(move |intake| {
            let Ok(saved) = going_on(log::Level::Info, &called, saved) else { return };
            Replay::new(&called, reading, saved, intake, told, metrics, health).run();
        });
        Ok(vec![Source { name, keep, is_live: false, decode: decode::relay::message, read }])
    })?;
    if let Some(why) = progress.failure() {
        return Err(Failure::Run(why.into()));
    }
    match progress.frames.load(Ordering::Relaxed) {
        0 if progress.done.load(Ordering::Relaxed) && !progress.resumed.load(Ordering::Relaxed) => {
            log::info!(event = "end"; "the files have no frame that is wanted{}", progress.seqs());
        }
        0 if progress.done.load(Ordering::Relaxed) => {
            log::info!(event = "end"; "nothing left: everything that is wanted was delivered before")
        }
        frames => log::info!(event = "end"; "{frames} frames replayed"),
    }
    Ok(())
}

fn ozone_events(ozone: config::Ozone) -> Result<(), Failure> {
    Run::new(ozone.logging)?.go(ozone.writing, |run, writing, output| {
        // Ids are serials of one Ozone: each labeler has a position of its own.
        let from = format!("{}+{}", ozone.name, ozone.account.labeler_did);
        let (keep, saved) = run.position::<OzonePosition>(writing, "ozone", &from, output)?;
        ozone.account.client.announce(&ozone.account.pds);
        let name = ozone.name.clone();
        let (metrics, health) = (run.metrics.source.clone(), run.health.clone());
        let read = Box::new(move |intake| {
            let Ok(saved) = saved.wait() else { return };
            if let Some(position) = &saved {
                log::info!(
                    event = "position", host = ozone.name;
                    "{}: going on from {}", ozone.name, atkafka::atproto::time::format_ms(position.high_water_ms)
                );
            }
            Ozone::new(ozone.account, &ozone.name, 0, ozone.reading, saved, intake, metrics, health).run()
        });
        Ok(vec![Source { name, keep, is_live: true, decode: decode::ozone::message, read }])
    })
}

/// The saved seq of a host, once it is known, and the line about it.
fn going_on(level: log::Level, host: &str, saved: Saved<SeqPosition>) -> Result<Option<u64>, Stopped> {
    let saved = saved.wait()?.map(|position| position.seq);
    if let Some(seq) = saved {
        log::log!(level, event = "position", host = host, seq = seq; "{host}: going on behind the saved seq {seq}");
    }
    Ok(saved)
}

/// What every command has that writes events.
struct Run {
    logging: Logging,
    stop: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    /// How far it is, where it has an end.
    extent: Option<Arc<Extent>>,
}

impl Run {
    fn new(logging: Logging) -> Result<Run, Failure> {
        atkafka::log::start(logging.level, logging.json);
        Ok(Run { logging, stop: stop_flag()?, metrics: Arc::default(), health: Arc::default(), extent: None })
    }

    fn with_an_end(self, extent: Arc<Extent>) -> Run {
        Run { extent: Some(extent), ..self }
    }

    /// How much what is said of one host matters: of hundreds not as much.
    fn of_a_host(&self) -> log::Level {
        if self.health.is_of_many() { log::Level::Debug } else { log::Level::Info }
    }

    /// The saved position of a host, and where the next ones are kept.
    fn position<T: Stored + Send + 'static>(
        &self,
        writing: &Writing,
        kind: &str,
        host: &str,
        output: &str,
    ) -> Result<(Keep, Saved<T>), Failure> {
        if let Some(CursorTopic { topic, .. }) = &writing.cursor_topic {
            let existing = |dir: &PathBuf| StateFile::existing::<T>(dir, kind, host, output).map_err(Failure::Run);
            let file = writing.state_dir.as_ref().map(existing).transpose()?.flatten();
            let key = Key { source: kind.into(), host: host.into(), output: output.into(), instance: String::new() };
            log::log!(self.of_a_host(), event = "position", host = host, topic = topic; "{host}: position in topic {topic}");
            return Ok(Saved::in_topic(key, file));
        }
        let Some(dir) = &writing.state_dir else {
            log::log!(self.of_a_host(), event = "position", host = host; "{host}: its position is not kept (--state-dir keeps it)");
            return Ok((Keep::Nowhere, Saved::Known(None)));
        };
        let (mut file, saved) = StateFile::open(dir, kind, host, output).map_err(Failure::Run)?;
        let (now, before) = (writing.rules.routes.given(), file.set_routes(writing.rules.routes.given()));
        if saved.is_some() && before != now {
            let text = |routes: &[String]| if routes.is_empty() { "none".into() } else { routes.join(", ") };
            log::warn!(
                event = "routes", host = host;
                "{host}: other routes than those of the saved position ({} before, {} now): events up to it stay in the topics where they are",
                text(&before),
                text(now)
            );
        }
        let path = file.path().display();
        let none_yet = if saved.is_some() { "" } else { ", none yet" };
        log::log!(self.of_a_host(), event = "position", host = host, path:% = path; "{host}: position in {path}{none_yet}");
        Ok((Keep::File(file), Saved::Known(saved)))
    }

    /// Runs the pipeline over what `sources` gives, to its end.
    fn go(
        self,
        writing: Writing,
        sources: impl FnOnce(&Run, &Writing, &str) -> Result<Vec<Source>, Failure>,
    ) -> Result<(), Failure> {
        for warning in &writing.warnings {
            log::warn!(at_most = 100, event = "setting"; "{warning}");
        }
        let (output, sink) = sink(&writing, &self.metrics)?;
        let sources = sources(&self, &writing, &output)?;
        let (sink, store) = with_store(sink, &writing, &sources, &self.metrics)?;
        for source in &sources {
            self.health.add_source(&source.name, source.is_live);
        }
        let history = Arc::new(History::default());
        serve_http(&writing, &output, &self.metrics, &self.health, &history)?;
        let knowledge = knowledge(&writing, &self.metrics);
        let parts = Parts {
            sources,
            knowledge: knowledge.clone(),
            sink,
            rules: writing.rules,
            workers: writing.workers,
            memory_limit: writing.memory_limit,
            snowflake: writing.snowflake,
            record_headers: writing.record_headers,
            topics: match &writing.output {
                Output::Kafka(kafka) => kafka.topics.clone(),
                Output::Lines => vec![output.clone()],
            },
            store,
            dead_letter_topic: matches!(&writing.output, Output::Kafka(kafka) if kafka.dead_letter_topic.is_some()),
        };
        let systemd = writing
            .manager
            .as_ref()
            .map(Systemd::new)
            .transpose()
            .map_err(|e| Failure::Run(format!("NOTIFY_SOCKET: {e}")))?;
        log::info!(
            event = "start", topic = output;
            "atkafka {}: into {output}, {} workers, {} MiB in flight at most",
            env!("CARGO_PKG_VERSION"),
            parts.workers,
            parts.memory_limit >> 20
        );
        // A status line would mix with events on the same terminal.
        let status_line =
            matches!(writing.output, Output::Kafka(_)) && atkafka::log::status::on_terminal(self.logging.json);
        let pipeline = Pipeline::start(parts, self.metrics.clone(), self.health.clone());
        let mut report = report::Report::new(self.metrics, self.health, history, status_line, systemd);
        if let Some(extent) = self.extent {
            report = report.of(extent);
        }
        let ended = supervise(pipeline, &self.stop, report);
        // Where something hangs, the end does not wait for the disk as well.
        if ended.is_ok() {
            knowledge.iter().for_each(keep);
        }
        ended
    }
}

/// Each connection takes a descriptor, and some systems allow 1,024 by default, where the process may ask for more.
fn room_for_connections(hosts: usize) {
    let limit = getrlimit(Resource::Nofile);
    let Some(maximum) = limit.maximum.filter(|_| limit.current.is_some()) else { return };
    // Fails only where another process lowered the maximum meanwhile.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), ..limit });
    // A state file's lock for each, and the rest of the process.
    let wanted = 2 * hosts as u64 + 200;
    if maximum < wanted {
        log::warn!(
            event = "setting";
            "{hosts} hosts take {wanted} file descriptors, and this process may have {maximum}: raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
}

/// What is known of accounts, where anything is to be: as the last run left it, if it did.
fn knowledge(writing: &Writing, metrics: &Metrics) -> Option<Arc<Knowledge>> {
    let settings = writing.enrich.clone()?;
    for (what, host) in [("documents", &settings.plc), ("profiles and handles", &settings.api)] {
        if let Some(host) = host {
            log::info!(event = "start", host = host; "{what} of accounts from {host}");
            settings.client.announce(host);
        }
    }
    let knowledge = Knowledge::new(settings, &metrics.enrich);
    if let Some(path) = &knowledge.settings.snapshot {
        match knowledge.load(path) {
            Ok(entries) => {
                log::info!(
                    event = "snapshot", path:% = path.display();
                    "{}: {entries} answers of directories", path.display()
                )
            }
            Err(e) => {
                log::warn!(
                    event = "snapshot", path:% = path.display(), error:% = e;
                    "{}: {e}; what follows in it is looked up anew", path.display()
                )
            }
        }
    }
    Some(Arc::new(knowledge))
}

/// Keeps the caches for the next run.
fn keep(knowledge: &Arc<Knowledge>) {
    let Some(path) = &knowledge.settings.snapshot else { return };
    match knowledge.save(path) {
        Ok(entries) => {
            log::info!(
                event = "snapshot", path:% = path.display();
                "{}: {entries} answers of directories kept", path.display()
            )
        }
        Err(e) => {
            log::warn!(
                event = "snapshot", path:% = path.display(), error:% = e;
                "{}: {e}: the next start looks everything up anew", path.display()
            )
        }
    }
}

/// The sink, and what the output is called in logs and cursor files.
fn sink(writing: &Writing, metrics: &Arc<Metrics>) -> Result<(String, Box<dyn Sink>), Failure> {
    match &writing.output {
        Output::Lines => Ok(("stdout".into(), Box::new(Lines::new(std::io::stdout())))),
        Output::Kafka(kafka) => {
            let options = Kafka::clone(kafka);
            let sink: Box<dyn Sink> = match kafka.client {
                KafkaClient::Librdkafka => Box::new(
                    Librdkafka::new(options, metrics.sink.clone())
                        .map_err(|e| Failure::Usage(format!("--kafka-config: {e}")))?,
                ),
                KafkaClient::Kafka => Box::new(KafkaSink::new(options, metrics.sink.clone())),
            };
            Ok((kafka.topics[0].clone(), sink))
        }
    }
}

/// The sink, and where positions are kept, when that is Kafka: then a client has an identity, which says whose positions it has.
fn with_store(
    sink: Box<dyn Sink>,
    writing: &Writing,
    sources: &[Source],
    metrics: &Arc<Metrics>,
) -> Result<(Box<dyn Sink>, Store), Failure> {
    let (Some(CursorTopic { topic, interval }), Output::Kafka(kafka)) = (&writing.cursor_topic, &writing.output) else {
        return Ok((sink, Store::None));
    };
    let key = |source: &Source| match &source.keep {
        Keep::Topic(place) => Some(place.key.clone()),
        _ => None,
    };
    let keys: Vec<Key> = sources.iter().filter_map(key).collect();
    let identity = Identity {
        transactional_id: topic::transactional_id(&keys),
        cursor_topic: topic.clone(),
        largest: keys.iter().map(topic::largest).max().unwrap_or(0),
        positions_only: interval.is_none(),
    };
    let topic = topic.clone();
    let client = Librdkafka::new(Kafka::clone(kafka), metrics.sink.clone())
        .map_err(|e| Failure::Usage(format!("--kafka-config: {e}")))?
        .transactional(identity);
    Ok(match interval {
        Some(interval) => (Box::new(client), Store::Together { topic, interval: *interval }),
        None => (sink, Store::Behind { topic, client: Box::new(client) }),
    })
}

fn serve_http(
    writing: &Writing,
    output: &str,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    history: &Arc<History>,
) -> Result<(), Failure> {
    let Some(address) = writing.listen else { return Ok(()) };
    let http = http::bind(address).map_err(Failure::Run)?;
    log::info!(event = "start"; "metrics on http://{0}/metrics, the status page on http://{0}/", http.address());
    let process = Process { output: output.into(), settings: writing.settings.clone() };
    let shown = Shown { metrics: metrics.clone(), health: health.clone(), history: history.clone(), process };
    // It ends with the process.
    pipeline::spawn("http", move || http.serve(&shown));
    Ok(())
}

/// Waits for the end, asked for or not, and reports on the way.
fn supervise(pipeline: Pipeline, stop: &AtomicBool, mut report: report::Report) -> Result<(), Failure> {
    let mut stopping: Option<Instant> = None;
    loop {
        if let Some(outcome) = pipeline.wait(LOOK_UP) {
            report.last();
            if let Err(Failed::Run(why) | Failed::Settings(why)) = &outcome {
                report.stopping(why);
            }
            pipeline.join();
            return outcome.map_err(Failure::from);
        }
        if stop.load(Ordering::Relaxed) && stopping.is_none() {
            log::info!(
                event = "stopping";
                "stopping: what is in flight is delivered first; a second signal ends at once"
            );
            report.stopping("stopping: what is in flight is delivered");
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
        atkafka::log::settle();
    }
}

fn record_frames(options: config::Record) -> Result<(), Failure> {
    atkafka::log::start(options.logging.level, options.logging.json);
    let stop = stop_flag()?;
    let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
    health.add_source(&options.host.name, true);
    let (recorder, recording, last) =
        record::new(&options.output, options.existing, options.frames, stop.clone()).map_err(Failure::Run)?;
    if let Some(seq) = last {
        log::info!(event = "position", seq = seq; "{}: going on behind its last seq {seq}", options.output.display());
    }
    options.host.client.announce(&options.host.url(""));
    let relay = Relay::new(options.host, 0, options.start, last, recorder, metrics.source.clone(), health);
    let on_terminal = atkafka::log::status::on_terminal(options.logging.json);
    let reader = pipeline::spawn("reader-0", move || relay.run());
    let mut progress = report::Progress::new(recording.extent(), on_terminal);
    while !reader.is_finished() {
        std::thread::sleep(LOOK_UP);
        atkafka::log::settle();
        progress.tick();
    }
    let _ = reader.join();
    let (frames, bytes) =
        recording.finish().map_err(|e| Failure::Run(format!("--output {}: {e}", options.output.display())))?;
    log::info!(
        event = "end", path:% = options.output.display();
        "{frames} frames, {bytes} bytes, in {}", options.output.display()
    );
    Ok(())
}

//! What every command that writes events shares: signals, the sink, where positions are kept, the HTTP port, the caches of
//! accounts, and the wait for the end. It does not know which sources there are. The main thread runs it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atkafka::checkpoint::file::{StateFile, Stored};
use atkafka::checkpoint::topic::{self, Key};
use atkafka::config::{CursorTopic, Logging, Output, Writing};
use atkafka::enrich::Knowledge;
use atkafka::health::Health;
use atkafka::http::Shown;
use atkafka::http::history::History;
use atkafka::http::status::Process;
use atkafka::log::bar::Extent;
use atkafka::metrics::Metrics;
use atkafka::pipeline::checkpointer::Keep;
use atkafka::pipeline::permits::Failed;
use atkafka::pipeline::producer::Letters;
use atkafka::pipeline::saved::Saved;
use atkafka::pipeline::{self, Parts, Pipeline, Source, Store, producer};
use atkafka::sink::Sink;
use atkafka::sink::kafka::KafkaSink;
use atkafka::sink::kafka_options::{Kafka, KafkaClient};
use atkafka::sink::librdkafka::Librdkafka;
use atkafka::sink::lines::Lines;
use atkafka::sink::transaction::Identity;
use atkafka::systemd::Systemd;
use atkafka::{http, report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Failure;

/// How often the main thread reports, where nothing wakes it.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// A signal so soon after the first is the same one: `timeout` of GNU sends it to the process and to its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// After a stop: the drain, and a little for the last save. Then something hangs, such as a pipe that nobody reads.
const PATIENCE: Duration = Duration::from_millis(1500).saturating_add(producer::DRAIN);

/// What every command has that writes events.
pub(crate) struct Run {
    logging: Logging,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    /// How far it is, where it has an end.
    extent: Option<Arc<Extent>>,
}

impl Run {
    pub(crate) fn new(logging: Logging) -> Result<Run, Failure> {
        atkafka::log::start(logging.level, logging.json);
        Ok(Run { logging, stop: stop_flag()?, metrics: Arc::default(), health: Arc::default(), extent: None })
    }

    pub(crate) fn with_an_end(self, extent: Arc<Extent>) -> Run {
        Run { extent: Some(extent), ..self }
    }

    /// How much what is said of one host matters: of hundreds not as much.
    pub(crate) fn of_a_host(&self) -> log::Level {
        if self.health.is_of_many() { log::Level::Debug } else { log::Level::Info }
    }

    /// The saved position of a host, and where the next ones are kept.
    pub(crate) fn position<T: Stored + Send + 'static>(
        &self,
        writing: &Writing,
        kind: &str,
        host: &str,
        output: &str,
    ) -> Result<(Keep, Saved<T>), Failure> {
        if let Some(CursorTopic { topic, instance, .. }) = &writing.cursor_topic {
            let existing = |dir: &PathBuf| StateFile::existing::<T>(dir, kind, host, output).map_err(Failure::Run);
            let file = writing.state_dir.as_ref().map(existing).transpose()?.flatten();
            let key = Key { source: kind.into(), host: host.into(), output: output.into(), instance: instance.clone() };
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
    pub(crate) fn go(
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
            letters: match &writing.output {
                Output::Kafka(kafka) if kafka.dead_letter_topic.is_none() => Letters::Log,
                // Its records have no headers.
                Output::Kafka(kafka) if kafka.client == KafkaClient::Kafka => Letters::Both,
                Output::Kafka(_) => Letters::Topic,
                Output::Lines => Letters::Log,
            },
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

/// A flag that the first SIGTERM or SIGINT sets; each unparks the thread that called this. A second one ends the process at
/// once.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|e| Failure::Run(format!("signals cannot be handled: {e}")))?;
    let (asked, main) = (stop.clone(), std::thread::current());
    // It ends with the process.
    pipeline::spawn("signals", move || {
        let mut first: Option<Instant> = None;
        for _ in signals.forever() {
            asked.store(true, Ordering::Relaxed);
            main.unpark();
            if first.get_or_insert_with(Instant::now).elapsed() >= SAME_SIGNAL {
                atkafka::log::status::leave();
                // Without what runs at an orderly exit: something of it may hang.
                signal_hook::low_level::exit(130);
            }
        }
    });
    Ok(stop)
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
    let (Some(CursorTopic { topic, interval, takeover_after, .. }), Output::Kafka(kafka)) =
        (&writing.cursor_topic, &writing.output)
    else {
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
        takeover_after: *takeover_after,
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
                    "{}: {e}; it is not used, and everything is looked up anew", path.display()
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

/// Waits for the end, asked for or not, and reports on the way.
fn supervise(pipeline: Pipeline, stop: &AtomicBool, mut report: report::Report) -> Result<(), Failure> {
    let mut stopping: Option<Instant> = None;
    loop {
        if let Some(outcome) = pipeline.wait(TICK) {
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

/// Each connection takes a descriptor, and some systems allow 1,024 by default, where the process may ask for more.
pub(crate) fn room_for_connections(hosts: usize) {
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

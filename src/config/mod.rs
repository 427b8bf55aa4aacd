//! Flags, environment and `.env` to one checked value per command. Only `main` reads those; everybody else gets
//! the part that is his.

mod dotenv;
mod enriching;
pub mod flags;
pub mod help;
pub mod layers;
mod man;
mod sasl;
mod values;
mod warnings;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use argh_complete::{Generator, bash, fish, zsh};
use log::LevelFilter;

use crate::client::Client;
use crate::enrich::Settings;
use crate::event::Format;
use crate::filter::{Filter, Lists};
use crate::pipeline::decode::Rules;
use crate::record::Existing;
use crate::sink::kafka_options::{Codec, Kafka, KafkaClient, NewTopic, Tls};
use crate::source::ozone_session::Account;
use crate::source::replay::Reading;
use crate::source::{Host, Start, ozone};
use crate::systemd::Manager;
use values::{
    CA_FILE, client, did_list, duration, host, is_topic, list, listen, memory, number, one_of, properties, secret,
    silence, start,
};

/// A value that cannot be used: one line that names the flag, the value and what is allowed.
#[derive(Debug)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn invalid(flag: &str, value: &str, allowed: &str) -> Invalid {
    let value = if value.is_empty() { String::new() } else { format!("{:?}", values::without_user_info(value)) };
    let between = if flag.is_empty() || value.is_empty() { "" } else { " " };
    Invalid(format!("{flag}{between}{value}: {allowed}"))
}

type Checked<T> = Result<T, Invalid>;

/// What to do.
pub enum Command {
    Relay(Relay),
    Tap(Tap),
    Replay(Replay),
    Ozone(Ozone),
    Record(Record),
    /// Which of `/healthz` and `/readyz` to ask, and where.
    Healthcheck(&'static str, SocketAddr),
    /// A text to print.
    Print(String),
}

/// `firehose relay`.
pub struct Relay {
    pub hosts: Vec<Host>,
    pub start: Start,
    /// How long a busy host may be silent; `None`: for ever.
    pub silence: Option<Duration>,
    pub writing: Writing,
    pub logging: Logging,
}

/// `firehose tap`.
pub struct Tap {
    pub host: Host,
    pub connections: usize,
    pub acks: bool,
    pub writing: Writing,
    pub logging: Logging,
}

/// `firehose replay`.
pub struct Replay {
    pub reading: Reading,
    pub writing: Writing,
    pub logging: Logging,
}

/// `ozone-events`.
pub struct Ozone {
    pub account: Account,
    /// What the PDS is called in logs, metrics and the state file.
    pub name: String,
    pub reading: ozone::Reading,
    pub writing: Writing,
    pub logging: Logging,
}

/// What every command has that writes events.
pub struct Writing {
    pub output: Output,
    pub rules: Rules,
    /// `None`: nothing is looked up of the accounts.
    pub enrich: Option<Settings>,
    pub snowflake: (u8, u8),
    pub record_headers: bool,
    /// `None`: nothing is kept.
    pub state_dir: Option<PathBuf>,
    pub workers: usize,
    /// Bytes.
    pub memory_limit: usize,
    /// `None`: no HTTP.
    pub listen: Option<SocketAddr>,
    /// What can be used and is most likely not meant, each one line for the log.
    pub warnings: Vec<String>,
    /// `None`: no service manager waits for news.
    pub manager: Option<Manager>,
}

pub enum Output {
    Lines,
    Kafka(Box<Kafka>),
}

/// `record`.
pub struct Record {
    pub host: Host,
    pub output: PathBuf,
    pub frames: u64,
    pub existing: Existing,
    pub start: Start,
    pub logging: Logging,
}

#[derive(Debug, Clone, Copy)]
pub struct Logging {
    pub level: LevelFilter,
    pub json: bool,
}

const DEFAULT_RELAY: &str = "wss://bsky.network";
const DEFAULT_TAP: &str = "ws://localhost:2480";
const DEFAULT_LISTEN: &str = "0.0.0.0:6009";
const DEFAULT_STATE_DIR: &str = "./atkafka-state";
const DEFAULT_MEMORY: usize = 256 << 20;

/// Where values come from.
struct Input<'a> {
    /// The command line as it was typed, without the program's name.
    line: &'a [String],
    /// The arguments of the command, with those that variables gave.
    args: &'a [String],
    env: &'a Environment,
}

/// The variables that count: the process's own, and those of `.env` that it does not have.
#[derive(Debug, Default)]
pub struct Environment {
    all: HashMap<String, String>,
    /// Names of those that came from `.env`.
    from_file: HashSet<String>,
}

/// From `line` (without the program's name) and the environment.
pub fn command(line: &[String], env: &Environment) -> Checked<Command> {
    let args = match layers::sort_out(line, &env.all)? {
        layers::Asked::Print(text) => return Ok(Command::Print(text)),
        layers::Asked::Run(args) => args,
    };
    let input = Input { line, args: &args, env };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let top =
        flags::TopLevel::from_args(&["atkafka"], &args).map_err(|e| Invalid(e.output.trim().replace('\n', " ")))?;
    match top.command {
        flags::Command::Firehose(flags::Firehose { mode: flags::Mode::Relay(f) }) => {
            relay(f, &input).map(Command::Relay)
        }
        flags::Command::Firehose(flags::Firehose { mode: flags::Mode::Tap(f) }) => tap(f, &input).map(Command::Tap),
        flags::Command::Firehose(flags::Firehose { mode: flags::Mode::Replay(f) }) => {
            replay(f, &input).map(Command::Replay)
        }
        flags::Command::Ozone(f) => ozone_events(f, &input).map(Command::Ozone),
        flags::Command::Record(f) => record(f, &input).map(Command::Record),
        flags::Command::Healthcheck(f) => {
            let address = listen(f.metrics_listen_address.as_deref().unwrap_or(DEFAULT_LISTEN))?
                .ok_or_else(|| invalid("--metrics-listen-address", "none", "then there is nothing to ask"))?;
            Ok(Command::Healthcheck(if f.ready { "/readyz" } else { "/healthz" }, address))
        }
        flags::Command::Completions(f) => {
            let all = flags::TopLevel::get_args_info();
            Ok(Command::Print(match f.shell {
                flags::Shell::Bash(_) => bash::Bash::generate("atkafka", &all),
                flags::Shell::Zsh(_) => zsh::Zsh::generate("atkafka", &all),
                // `-x` came with fish 4; Debian 12 has 3.6, and the old name works in both.
                flags::Shell::Fish(_) => {
                    fish::Fish::generate("atkafka", &all).replace("commandline -x", "commandline -o")
                }
            }))
        }
        flags::Command::Man(_) => Ok(Command::Print(man::page())),
    }
}

/// The variables that count: `.env` in the working directory, and over it the process's own.
pub fn environment(own: impl Iterator<Item = (String, String)>) -> Checked<Environment> {
    let mut all = HashMap::new();
    // Only here: a `.env` of a parent directory is of another program.
    if let Some(text) = dotenv::text_file(".env", ".env", dotenv::SMALL, dotenv::Takes::Files)? {
        all.extend(dotenv::parse(".env", &text)?);
    }
    let mut from_file: HashSet<String> = all.keys().cloned().collect();
    for (name, value) in own {
        from_file.remove(&name);
        all.insert(name, value);
    }
    Ok(Environment { all, from_file })
}

fn relay(f: flags::Relay, input: &Input<'_>) -> Checked<Relay> {
    let client = client(f.contact.as_deref(), f.ca_file.as_deref(), &input.env.all)?;
    let mut hosts = Vec::new();
    let given = list(&f.relay_host);
    for url in if given.is_empty() { vec![DEFAULT_RELAY.to_string()] } else { given } {
        let host = host("--relay-host", &url, &client)?;
        if hosts.iter().any(|h: &Host| h.name == host.name) {
            return Err(invalid("--relay-host", &url, "the same host twice"));
        }
        hosts.push(host);
    }
    let start = start(f.cursor.as_deref())?;
    let w = f.writing();
    let logging = logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?;
    let silence = silence(f.silence.as_deref())?;
    Ok(Relay { hosts, start, silence, writing: writing(&w, Some((&f.enriching(), &client)), input)?, logging })
}

fn tap(f: flags::Tap, input: &Input<'_>) -> Checked<Tap> {
    let client = client(f.contact.as_deref(), f.ca_file.as_deref(), &input.env.all)?;
    let mut w = f.writing();
    let enriching = f.enriching();
    if let Some(workers) = f.tap_workers {
        if w.workers.as_ref().is_some_and(|w| *w != workers) {
            return Err(invalid(
                "--tap-workers",
                &workers,
                "contradicts --workers: they mean the same, give one of them",
            ));
        }
        number("--tap-workers", Some(&workers), 1..=256)?;
        w.workers = Some(workers);
    }
    let url = f.tap_host.as_deref().unwrap_or(DEFAULT_TAP);
    let mut host = host("--tap-host", url, &client)?;
    host.prefix = host.prefix.trim_end_matches("/channel").to_string();
    let password = secret("--tap-password", &f.tap_password, "--tap-password-file", &f.tap_password_file)?;
    host.authorization =
        password.map(|p| format!("Basic {}", data_encoding::BASE64.encode(format!("admin:{p}").as_bytes())));
    Ok(Tap {
        host,
        connections: number("--tap-connections", f.tap_connections.as_deref(), 1..=32)?.unwrap_or(1) as usize,
        acks: !f.disable_acks,
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing: writing(&w, Some((&enriching, &client)), input)?,
    })
}

fn replay(f: flags::Replay, input: &Input<'_>) -> Checked<Replay> {
    let client = client(f.contact.as_deref(), f.ca_file.as_deref(), &input.env.all)?;
    let w = f.writing();
    if f.file.is_empty() {
        return Err(invalid("--file", "", "required: a recording, or - for standard input"));
    }
    // A comma may be part of a name: the flag repeats instead.
    for (i, file) in f.file.iter().enumerate() {
        // A pipe is not opened and closed again: that would end who writes it.
        if file != "-" && !std::fs::metadata(file).is_ok_and(|found| found.file_type().is_fifo()) {
            std::fs::File::open(file).map_err(|e| invalid("--file", file, &format!("cannot be read: {e}")))?;
        }
        if f.file[..i].contains(file) {
            return Err(invalid("--file", file, "given twice"));
        }
    }
    let rate = f.rate.as_deref().map(|text| match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err(invalid("--rate", text, "frames a second, such as 500")),
    });
    let seq = |flag, text: &Option<String>| number(flag, text.as_deref(), 1..=crate::atproto::frame::SEQ_END - 1);
    let (from_seq, to_seq) = (seq("--from-seq", &f.from_seq)?.unwrap_or(1), seq("--to-seq", &f.to_seq)?);
    if to_seq.is_some_and(|to| to < from_seq) {
        return Err(invalid("--to-seq", f.to_seq.as_deref().unwrap_or_default(), "not below --from-seq"));
    }
    let files = f.file.iter().map(PathBuf::from).collect();
    Ok(Replay {
        reading: Reading { files, rate: rate.transpose()?, from_seq, to_seq },
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing: writing(&w, Some((&f.enriching(), &client)), input)?,
    })
}

fn ozone_events(f: flags::Ozone, input: &Input<'_>) -> Checked<Ozone> {
    let client = client(f.contact.as_deref(), f.ca_file.as_deref(), &input.env.all)?;
    let w = f.writing();
    let required = |flag: &str, value: &Option<String>, what: &str| {
        value.clone().ok_or_else(|| invalid(flag, "", &format!("required: {what}")))
    };
    let pds = required("--pds-host", &f.pds_host, "the PDS of the moderator's account, https://...")?;
    let host = host("--pds-host", &pds, &client)?;
    let scheme = if host.tls { "https" } else { "http" };
    let password = secret("--password", &f.password, "--password-file", &f.password_file)?;
    let labeler_did = required("--labeler-did", &f.labeler_did, "did:plc:... of the labeler")?;
    if !crate::filter::is_did(&labeler_did) {
        return Err(invalid("--labeler-did", &labeler_did, "a DID such as did:plc:..."));
    }
    let since_ms = f.ozone_since.as_deref().map(|text| {
        crate::atproto::time::parse_ms(text)
            .ok_or_else(|| invalid("--ozone-since", text, "a time such as 2026-01-01T00:00:00Z"))
    });
    let hour = Duration::from_secs(3600);
    let span = |flag, text: &Option<String>, least, default| match text {
        None => Ok(default),
        Some(text) => duration(text)
            .filter(|d| (least..=hour).contains(d))
            .ok_or_else(|| invalid(flag, text, &format!("from {least:?} to 1h, such as 500ms, 30s or 2m"))),
    };
    Ok(Ozone {
        account: Account {
            pds: format!("{scheme}://{}", host.name),
            identifier: required("--identifier", &f.identifier, "handle, DID or e-mail of a member of Ozone's team")?,
            password: required("--password", &password, "or --password-file")?,
            labeler_did,
            client,
        },
        name: host.name,
        reading: ozone::Reading {
            since_ms: since_ms.transpose()?,
            look_back: span("--look-back", &f.look_back, Duration::ZERO, Duration::from_secs(30))?,
            poll_interval: span(
                "--poll-interval",
                &f.poll_interval,
                Duration::from_millis(100),
                Duration::from_secs(1),
            )?,
        },
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing: writing(&w, None, input)?,
    })
}

fn record(f: flags::Record, input: &Input<'_>) -> Checked<Record> {
    let client = client(f.contact.as_deref(), f.ca_file.as_deref(), &input.env.all)?;
    let existing = match (f.append, f.force) {
        (false, false) => Existing::Refuse,
        (false, true) => Existing::Replace,
        (true, false) => Existing::Append,
        (true, true) => return Err(invalid("--append", "", "contradicts --force: give one of them")),
    };
    Ok(Record {
        host: host("--relay-host", f.relay_host.as_deref().unwrap_or(DEFAULT_RELAY), &client)?,
        output: f.output.map(PathBuf::from).ok_or_else(|| invalid("--output", "", "required: the file to write"))?,
        frames: number("--frames", f.frames.as_deref(), 1..=u64::MAX)?.unwrap_or(10_000),
        existing,
        start: start(f.cursor.as_deref())?,
        logging: logging(f.debug, f.log_level.as_deref(), f.log_format.as_deref())?,
    })
}

fn writing(f: &flags::Writing, enriching: Option<(&flags::Enriching, &Client)>, input: &Input<'_>) -> Checked<Writing> {
    let env = &input.env.all;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let format = if f.osprey_compatible { Format::Osprey } else { Format::Plain };
    let servers = list(&f.bootstrap_servers);
    let output = if servers.is_empty() { lines_only(f)? } else { Output::Kafka(Box::new(kafka(f, servers, env)?)) };
    let state_dir = match (&f.state_dir, &output) {
        (Some(dir), _) => Some(PathBuf::from(dir)),
        (None, Output::Lines) => None,
        // systemd gives several directories with colons between; the first is ours.
        (None, Output::Kafka(_)) => {
            let systemd =
                env.get("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next()).filter(|dir| !dir.is_empty());
            Some(PathBuf::from(systemd.unwrap_or(DEFAULT_STATE_DIR)))
        }
    };
    let enrich = match enriching {
        Some((f, client)) => enriching::settings(f, state_dir.as_deref(), client)?,
        None => None,
    };
    let lists = lists(f, enriching.map(|(f, _)| f))?;
    let filter = Filter::new(&lists).map_err(|bad| invalid(&format!("--{}", bad.list), &bad.pattern, bad.reason))?;
    let small = |flag, value: &Option<String>| number(flag, value.as_deref(), 0..=31).map(|n| n.map(|n| n as u8));
    Ok(Writing {
        output,
        snowflake: (
            small("--snowflake-data-center-id", &f.snowflake_data_center_id)?.unwrap_or(0),
            small("--snowflake-worker-id", &f.snowflake_worker_id)?.unwrap_or(1),
        ),
        record_headers: f.record_headers,
        state_dir,
        workers: number("--workers", f.workers.as_deref(), 1..=256)?.unwrap_or(cores.saturating_sub(2).clamp(1, 8))
            as usize,
        memory_limit: f.memory_limit.as_deref().map(memory).transpose()?.unwrap_or(DEFAULT_MEMORY),
        listen: listen(f.metrics_listen_address.as_deref().unwrap_or(DEFAULT_LISTEN))?,
        manager: manager(env),
        warnings: warnings::all(input, &lists),
        rules: Rules { format, filter, verify: !f.no_verify, enrich: enrich.is_some() },
        enrich,
    })
}

/// What systemd says in the environment of a service with `Type=notify` and `WatchdogSec=`.
fn manager(env: &HashMap<String, String>) -> Option<Manager> {
    let socket = env.get("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?.clone();
    // The watchdog of a parent is none of ours.
    let ours = env.get("WATCHDOG_PID").is_none_or(|pid| *pid == std::process::id().to_string());
    let micros = env.get("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|micros| ours && *micros > 0);
    Some(Manager { socket, watchdog: micros.map(Duration::from_micros) })
}

/// Without servers, flags that only Kafka has are a mistake.
fn lines_only(f: &flags::Writing) -> Checked<Output> {
    let kafka_only = [
        ("--output-topic", f.output_topic.is_some()),
        ("--dead-letter-topic", f.dead_letter_topic.is_some()),
        ("--kafka-client", f.kafka_client.is_some()),
        ("--kafka-config", !f.kafka_config.is_empty()),
        ("--compression", f.compression.is_some()),
        ("--tls", f.tls),
        ("--tls-ca-file", f.tls_ca_file.is_some()),
        ("--tls-cert-file", f.tls_cert_file.is_some()),
        ("--tls-key-file", f.tls_key_file.is_some()),
        ("--sasl-mechanism", f.sasl_mechanism.is_some()),
        ("--sasl-username", f.sasl_username.is_some()),
        ("--sasl-password", f.sasl_password.is_some()),
        ("--sasl-password-file", f.sasl_password_file.is_some()),
        ("--sasl-oauth-token-url", f.sasl_oauth_token_url.is_some()),
        ("--sasl-oauth-client-id", f.sasl_oauth_client_id.is_some()),
        ("--sasl-oauth-client-secret", f.sasl_oauth_client_secret.is_some()),
        ("--sasl-oauth-client-secret-file", f.sasl_oauth_client_secret_file.is_some()),
        ("--sasl-oauth-scope", f.sasl_oauth_scope.is_some()),
        ("--topic-partitions", f.topic_partitions.is_some()),
        ("--topic-replication", f.topic_replication.is_some()),
        ("--no-create-topic", f.no_create_topic),
        ("--record-headers", f.record_headers),
    ];
    match kafka_only.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(invalid(flag, "", "needs --bootstrap-servers host:port")),
        None => Ok(Output::Lines),
    }
}

fn kafka(f: &flags::Writing, servers: Vec<String>, env: &HashMap<String, String>) -> Checked<Kafka> {
    for server in &servers {
        values::server(server)?;
    }
    let topic = |flag, name: &Option<String>| match name {
        Some(name) if is_topic(name) => Ok(Some(name.clone())),
        Some(name) => Err(invalid(flag, name, "1 to 249 letters, digits, dots, underscores and hyphens")),
        None => Ok(None),
    };
    let client = one_of(
        "--kafka-client",
        f.kafka_client.as_deref(),
        &[("librdkafka", KafkaClient::Librdkafka), ("kafka", KafkaClient::Kafka)],
    )?
    .unwrap_or(KafkaClient::Librdkafka);
    let codec = one_of("--compression", f.compression.as_deref(), &Codec::NAMES)?;
    let sasl = sasl::sasl(f, env)?;
    let tls =
        Tls { ca_file: f.tls_ca_file.clone(), cert_file: f.tls_cert_file.clone(), key_file: f.tls_key_file.clone() };
    if !f.tls && (tls.ca_file.is_some() || tls.cert_file.is_some() || tls.key_file.is_some()) {
        return Err(invalid("--tls-ca-file, --tls-cert-file, --tls-key-file", "", "go with --tls"));
    }
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        return Err(invalid("--tls-cert-file", "", "goes with --tls-key-file"));
    }
    if client == KafkaClient::Kafka {
        let unable = [
            ("--tls", f.tls),
            ("--sasl-mechanism", sasl.is_some()),
            ("--kafka-config", !f.kafka_config.is_empty()),
            ("--record-headers", f.record_headers),
            ("--topic-partitions", f.topic_partitions.is_some()),
            ("--topic-replication", f.topic_replication.is_some()),
            ("--compression lz4", codec == Some(Codec::Lz4)),
            ("--compression zstd", codec == Some(Codec::Zstd)),
        ];
        if let Some((flag, _)) = unable.iter().find(|(_, given)| *given) {
            return Err(invalid(flag, "", "--kafka-client kafka cannot do it; --kafka-client librdkafka can"));
        }
    }
    for (flag, file) in
        [("--tls-ca-file", &tls.ca_file), ("--tls-cert-file", &tls.cert_file), ("--tls-key-file", &tls.key_file)]
    {
        if let Some(path) = file {
            // The others may be pipes, which the Kafka client reads: a key need not be on a disk.
            if flag == "--tls-ca-file" {
                dotenv::limited_file(flag, path, CA_FILE, dotenv::Takes::Files)?;
            }
            std::fs::File::open(path).map_err(|e| invalid(flag, path, &format!("cannot be read: {e}")))?;
        }
    }
    let events = topic("--output-topic", &f.output_topic)?
        .ok_or_else(|| invalid("--output-topic", "", "required with --bootstrap-servers"))?;
    let dead_letters = topic("--dead-letter-topic", &f.dead_letter_topic)?;
    if dead_letters.as_ref() == Some(&events) {
        return Err(invalid("--dead-letter-topic", &events, "the same as --output-topic: it needs one of its own"));
    }
    let plain = f.osprey_compatible || client == KafkaClient::Kafka;
    Ok(Kafka {
        topic: events,
        dead_letter_topic: dead_letters,
        servers,
        client,
        codec: codec.unwrap_or(if plain { Codec::None } else { Codec::Lz4 }),
        config: properties(&f.kafka_config)?,
        tls: f.tls.then_some(tls),
        sasl,
        new_topic: NewTopic {
            create: !f.no_create_topic,
            partitions: number("--topic-partitions", f.topic_partitions.as_deref(), 1..=100_000)?.map(|n| n as i32),
            replication: number("--topic-replication", f.topic_replication.as_deref(), 1..=1_000)?.map(|n| n as i32),
        },
        memory_limit: f.memory_limit.as_deref().map(memory).transpose()?.unwrap_or(DEFAULT_MEMORY),
    })
}

fn lists(f: &flags::Writing, enriching: Option<&flags::Enriching>) -> Checked<Lists> {
    let services = |of: fn(&flags::Enriching) -> &Vec<String>| enriching.map(|e| list(of(e))).unwrap_or_default();
    let policy = enriching.and_then(|e| e.unresolved_services.as_deref());
    Ok(Lists {
        watched_collections: list(&f.watched_collections),
        ignored_collections: list(&f.ignored_collections),
        watched_dids: did_list("--watched-dids", &f.watched_dids)?,
        ignored_dids: did_list("--ignored-dids", &f.ignored_dids)?,
        watched_services: services(|e| &e.watched_services),
        ignored_services: services(|e| &e.ignored_services),
        drop_unresolved: one_of("--unresolved-services", policy, &[("pass", false), ("drop", true)])?.unwrap_or(false),
    })
}

fn logging(debug: bool, level: Option<&str>, format: Option<&str>) -> Checked<Logging> {
    let levels = [
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
    ];
    let level = one_of("--log-level", level, &levels)?;
    let json = one_of("--log-format", format, &[("text", false), ("json", true)])?.unwrap_or(false);
    Ok(Logging { level: if debug { LevelFilter::Debug } else { level.unwrap_or(LevelFilter::Info) }, json })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Relay, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        match command(&args, &Environment::default()) {
            Ok(Command::Relay(relay)) => Ok(relay),
            Ok(_) => Err("another command".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn hosts() {
        let host = |url| values::host("--relay-host", url, &Client::new(None)).map(|h| (h.tls, h.port, h.name));
        assert_eq!(host("wss://bsky.network").ok(), Some((true, 443, "bsky.network".into())));
        assert_eq!(host("https://bsky.network:443/").ok(), Some((true, 443, "bsky.network".into())));
        assert_eq!(host("ws://127.0.0.1:2470/a/b/").ok(), Some((false, 2470, "127.0.0.1:2470/a/b".into())));
        for bad in
            ["bsky.network", "ftp://a", "ws://", "", "ws://a:0", "ws://a:x", "ws://u:p@a", "ws://a?cursor=1", "ws://a:"]
        {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contradictions_and_wrong_values_name_flag_value_and_what_is_allowed() {
        let base = "firehose relay --bootstrap-servers b:9092 --output-topic t";
        assert!(parse(base).is_ok());
        for (line, parts) in [
            ("firehose relay --output-topic t", vec!["--output-topic", "--bootstrap-servers"]),
            ("firehose relay --bootstrap-servers b:1", vec!["--output-topic", "required"]),
            ("firehose relay --relay-host bsky.network", vec!["--relay-host", "\"bsky.network\"", "wss://"]),
            (&format!("{base} --watched-services bsky*"), vec!["--watched-services", "bsky*", "*.bsky.network"]),
            (&format!("{base} --ignored-services *"), vec!["--ignored-services", "everything"]),
            (&format!("{base} --unresolved-services drop"), vec!["--unresolved-services", "--watched-services"]),
            (&format!("{base} --metadata-timeout 1s"), vec!["--metadata-timeout", "--plc-host"]),
            (&format!("{base} --plc-host plc.directory"), vec!["--plc-host", "https://plc.directory"]),
            (&format!("{base} --plc-host http://a --metadata-timeout 2h"), vec!["--metadata-timeout", "1m"]),
            (&format!("{base} --plc-host http://a --lookup-rate 0"), vec!["--lookup-rate", "1 to"]),
            (&format!("{base} --watched-collections app.bsky*"), vec!["app.bsky*", "app.bsky.*"]),
            (&format!("{base} --compression zip"), vec!["--compression", "\"zip\"", "none, gzip, snappy, lz4, zstd"]),
            (&format!("{base} --kafka-client kafka --tls"), vec!["--tls", "librdkafka"]),
            (&format!("{base} --cursor newest"), vec!["--cursor", "newest", "live, oldest"]),
            (&format!("{base} --memory-limit 1k"), vec!["--memory-limit", "16MiB"]),
            (&format!("{base} --workers 0"), vec!["--workers", "1 to 256"]),
            (&format!("{base} --sasl-username u"), vec!["--sasl-mechanism"]),
            (&format!("{base} --sasl-oauth-scope u"), vec!["--sasl-oauth-scope", "OAUTHBEARER"]),
            (&format!("{base} --sasl-mechanism OAUTHBEARER"), vec!["--sasl-oauth-token-url", "client-secret-file"]),
            (&format!("{base} --sasl-mechanism oauthbearer --sasl-username u"), vec!["--sasl-oauth-client-id"]),
            (
                &format!("{base} --sasl-mechanism AWS_MSK_IAM"),
                vec!["not supported", "SCRAM-SHA-512", "--tls-cert-file"],
            ),
            (&format!("{base} --metrics-listen-address 9"), vec!["--metrics-listen-address", "0.0.0.0:6009"]),
            ("firehose relay --bootstrap-servers b --output-topic t", vec!["--bootstrap-servers", "write b:9092"]),
            ("firehose relay --bootstrap-servers kafka://b --output-topic t", vec!["no URL", "write b:9092"]),
            ("firehose relay --bootstrap-servers http://b:1/ --output-topic t", vec!["no URL", "write b:1"]),
            (
                "firehose relay --bootstrap-servers SASL_SSL://b:1 --output-topic t",
                vec!["b:1 with --tls and --sasl-mech"],
            ),
            ("firehose relay --bootstrap-servers ssl://b:1 --output-topic t", vec!["write b:1 with --tls"]),
            ("firehose relay --bootstrap-servers u:p@b:1 --output-topic t", vec!["***@b:1", "--sasl-username"]),
            ("firehose relay --bootstrap-servers kafka://u:p@b:1 --output-topic t", vec!["***@b:1", "--sasl-username"]),
            ("firehose relay --bootstrap-servers b:0 --output-topic t", vec!["1 to 65535"]),
            ("firehose relay --bootstrap-servers :9092 --output-topic t", vec!["host:port"]),
            ("firehose relay --bootstrap-servers ::1 --output-topic t", vec!["[::1]:9092"]),
            ("firehose relay --bootstrap-servers b:1 --output-topic a/b", vec!["--output-topic", "\"a/b\""]),
            ("firehose relay --watched-dids @/nowhere", vec!["--watched-dids", "/nowhere"]),
            ("firehose relay --relay-host ws://a --relay-host http://a", vec!["twice"]),
        ] {
            let error = parse(line).err().unwrap_or_default();
            assert!(!error.contains('\n') && parts.iter().all(|p| error.contains(p)), "{line}: {error}");
        }
    }

    #[test]
    fn defaults_follow_the_output() {
        let lines = parse("firehose relay").expect("valid");
        assert!(lines.writing.state_dir.is_none() && matches!(lines.writing.output, Output::Lines));
        assert_eq!(lines.writing.listen.map(|a| a.port()), Some(6009));
        let codec = |line: &str| match parse(line).expect("valid").writing.output {
            Output::Kafka(kafka) => kafka.codec,
            Output::Lines => panic!("Kafka was asked for"),
        };
        let base = "firehose relay --bootstrap-servers b:9092 --output-topic t";
        assert_eq!(codec(base), Codec::Lz4);
        assert_eq!(codec(&format!("{base} --osprey-compatible")), Codec::None, "stock Osprey cannot read lz4");
        assert_eq!(codec(&format!("{base} --kafka-client kafka")), Codec::None);
    }

    #[test]
    fn kafka_properties_keep_commas_inside_values() {
        let given = ["a=1,b=x,y".to_string(), "c=d=e".to_string()];
        let want = [("a", "1"), ("b", "x,y"), ("c", "d=e")].map(|(k, v)| (k.to_string(), v.to_string()));
        assert_eq!(properties(&given).ok(), Some(want.to_vec()));
        assert!(properties(&["novalue".to_string()]).is_err());
    }
}

//! What every command has that writes events.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::positions::{self, CursorTopic};
use super::values::{entries, list, listen, memory, number, one_of};
use super::{enriching, flags, kafka, settings, warnings};
use crate::client::Client;
use crate::config::{Checked, Input, invalid};
use crate::decode::Rules;
use crate::enrich::Settings;
use crate::event::Format;
use crate::filter::{Filter, Lists};
use crate::http::status::Setting;
use crate::route::Routes;
use crate::sink::kafka_options::Kafka;
use crate::systemd::Manager;

pub(crate) const DEFAULT_LISTEN: &str = "0.0.0.0:6009";
const DEFAULT_MEMORY: usize = 128 << 20;

/// What every command has that writes events.
pub struct Writing {
    /// Where events go.
    pub output: Output,
    /// What is made of each message.
    pub rules: Rules,
    /// `None`: nothing is looked up of the accounts.
    pub enrich: Option<Settings>,
    /// Data centre and worker of the ids in Osprey's envelope, 0 to 31 each.
    pub snowflake: (u8, u8),
    /// Whether Kafka records get headers.
    pub record_headers: bool,
    /// `None`: positions are kept in files.
    pub cursor_topic: Option<CursorTopic>,
    /// `None`: nothing is kept.
    pub state_dir: Option<PathBuf>,
    /// Threads that decode.
    pub workers: usize,
    /// Bytes.
    pub memory_limit: usize,
    /// What was set, for the status page: without secrets.
    pub settings: Vec<Setting>,
    /// `None`: no HTTP.
    pub listen: Option<SocketAddr>,
    /// What can be used and is most likely not meant, each one line for the log.
    pub warnings: Vec<String>,
    /// `None`: no service manager waits for news.
    pub manager: Option<Manager>,
}

/// Where events go.
pub enum Output {
    /// Standard output, a line for each event.
    Lines,
    /// A Kafka topic.
    Kafka(Box<Kafka>),
}

pub(crate) fn writing(
    f: &flags::Writing,
    enriching: Option<(&flags::Enriching, &Client)>,
    input: &Input<'_>,
) -> Checked<Writing> {
    let env = &input.env.all;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let format = if f.osprey_compatible { Format::Osprey } else { Format::Plain };
    let output = kafka::output(f, input)?;
    let cursor_topic = match &output {
        Output::Kafka(kafka) => positions::cursor_topic(f, kafka)?,
        Output::Lines => None,
    };
    let state_dir = match (&f.state_dir, &output) {
        (Some(dir), _) => Some(PathBuf::from(dir)),
        (None, Output::Lines) => None,
        (None, Output::Kafka(_)) => Some(positions::directory(None, env)),
    };
    let enrich = match enriching {
        Some((f, client)) => enriching::settings(f, state_dir.as_deref(), client, input)?,
        None => None,
    };
    let routes = match &output {
        Output::Kafka(kafka) => kafka.routes.clone(),
        Output::Lines => Routes::default(),
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
        cursor_topic,
        state_dir,
        workers: number("--workers", f.workers.as_deref(), 1..=256)?.unwrap_or(cores.saturating_sub(2).clamp(1, 8))
            as usize,
        memory_limit: memory_limit(f)?,
        settings: settings::shown(input.given),
        listen: listen(f.metrics_listen_address.as_deref().unwrap_or(DEFAULT_LISTEN))?,
        manager: manager(env),
        warnings: warnings::all(input, &lists),
        rules: Rules { format, filter, routes, verify: !f.no_verify, enrich: enrich.is_some() },
        enrich,
    })
}

fn lists(f: &flags::Writing, enriching: Option<&flags::Enriching>) -> Checked<Lists> {
    let services = |of: fn(&flags::Enriching) -> &Vec<String>| enriching.map(|e| list(of(e))).unwrap_or_default();
    let policy = enriching.and_then(|e| e.unresolved_services.as_deref());
    Ok(Lists {
        watched_collections: list(&f.watched_collections),
        ignored_collections: list(&f.ignored_collections),
        watched_dids: entries("--watched-dids", &f.watched_dids, "DID")?,
        ignored_dids: entries("--ignored-dids", &f.ignored_dids, "DID")?,
        watched_services: services(|e| &e.watched_services),
        ignored_services: services(|e| &e.ignored_services),
        drop_unresolved: one_of("--unresolved-services", policy, &[("pass", false), ("drop", true)])?.unwrap_or(false),
    })
}

/// Bytes of frames in flight.
pub(super) fn memory_limit(f: &flags::Writing) -> Checked<usize> {
    f.memory_limit.as_deref().map(memory).transpose().map(|given| given.unwrap_or(DEFAULT_MEMORY))
}

/// What systemd says in the environment of a service with `Type=notify` and `WatchdogSec=`.
fn manager(env: &HashMap<String, String>) -> Option<Manager> {
    let socket = env.get("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?.clone();
    // The watchdog of a parent is none of ours.
    let ours = env.get("WATCHDOG_PID").is_none_or(|pid| *pid == std::process::id().to_string());
    let micros = env.get("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|micros| ours && *micros > 0);
    Some(Manager { socket, watchdog: micros.map(Duration::from_micros) })
}

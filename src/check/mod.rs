//! `atkafka check`: tries the settings of a command without running it, one file for each thing that is tried.
//!
//! Only `main` uses it. It writes nothing, neither to a topic nor to a disk; what it opens it closes again, and a session at
//! a PDS is deleted. It does not know how its findings are shown: [`run`] gives them one by one, in an order that does not
//! depend on who answers first. Each subject is tried on a thread of its own, so that all are done in [`ALL`].

mod cluster;
mod cursor_topic;
mod host;
mod lookups;
mod ozone;
mod place;
mod recordings;
mod report;
mod tap;
mod topic;

use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

pub use report::{json, summary, text};

use crate::checkpoint::file::Stored;
use crate::checkpoint::topic::Key;
use crate::checkpoint::{OzonePosition, SeqPosition};
use crate::config::{Check, Command, CursorTopic, Output, Writing};
use crate::http::status::Setting;
use crate::pipeline;
use crate::source::Start;
use crate::source::jetstream::JetstreamPosition;

/// The whole check. A little is left of 30 s for what was begun.
const ALL: Duration = Duration::from_secs(28);
/// Findings of one subject that wait to be shown.
const WAITING: usize = 64;
/// Hosts of which more are not tried: they are checked by running.
const HOSTS: usize = 16;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It works.
    Ok,
    /// It works, and may not be what is meant.
    Warning,
    /// The command would not work.
    Failed,
    /// Nobody could say.
    NotChecked,
}

/// One line of the check.
#[derive(Debug)]
pub struct Finding {
    /// How it stands.
    pub state: State,
    /// What it is about, in one or two words.
    pub about: &'static str,
    /// What was found and, unless it is well, what to do.
    pub text: String,
    /// For a setting: the flag, and where its value comes from.
    pub setting: Option<Setting>,
}

/// How many findings are not well.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// [`State::Failed`].
    pub failed: usize,
    /// [`State::Warning`].
    pub warnings: usize,
    /// [`State::NotChecked`].
    pub not_checked: usize,
}

/// Where what tries something says what it found.
struct Out {
    findings: Sender<Finding>,
    /// By when it has to be done.
    until: Instant,
}

impl Out {
    fn say(&self, state: State, about: &'static str, text: impl Into<String>) {
        // Nobody takes it when the time is over.
        let _ = self.findings.send(Finding { state, about, text: text.into(), setting: None });
    }

    fn ok(&self, about: &'static str, text: impl Into<String>) {
        self.say(State::Ok, about, text);
    }

    fn warning(&self, about: &'static str, text: impl Into<String>) {
        self.say(State::Warning, about, text);
    }

    fn failed(&self, about: &'static str, text: impl Into<String>) {
        self.say(State::Failed, about, text);
    }

    fn not_checked(&self, about: &'static str, text: impl Into<String>) {
        self.say(State::NotChecked, about, text);
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Something that is tried: what it is called where it does not end in time, and how.
struct Trial(&'static str, Box<dyn FnOnce(&Out) + Send>);

/// Positions that are kept in Kafka.
struct Positions {
    /// The cursor topic.
    topic: String,
    /// Whether instances take turns, as the topic tells them.
    standby: bool,
    /// Gives their keys, for which a file may have to be read.
    keys: Box<dyn FnOnce() -> Vec<Key> + Send>,
}

/// Whether a topic has to keep what is older than a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    /// Events are written as they happen.
    None,
    /// What the relay still has: some days.
    Days,
    /// Of any age.
    All,
}

/// Tries everything and gives each finding to `show`.
pub fn run(check: Check, show: &mut dyn FnMut(&Finding)) -> Tally {
    let until = Instant::now() + ALL;
    let mut tally = Tally::default();
    let mut found = |finding: &Finding| {
        match finding.state {
            State::Ok => {}
            State::Warning => tally.warnings += 1,
            State::Failed => tally.failed += 1,
            State::NotChecked => tally.not_checked += 1,
        }
        show(finding);
    };
    settings(check.settings, &check.command, &mut found);
    let under_way: Vec<_> = trials(check.command)
        .into_iter()
        .map(|Trial(about, work)| {
            let (findings, receiver) = bounded(WAITING);
            pipeline::spawn("check", move || work(&Out { findings, until }));
            (about, receiver)
        })
        .collect();
    for (about, receiver) in under_way {
        loop {
            match receiver.recv_deadline(until) {
                Ok(finding) => found(&finding),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let text = format!("no answer within {} s; what comes behind this was not tried", ALL.as_secs());
                    found(&Finding { state: State::Failed, about, text, setting: None });
                    break;
                }
            }
        }
    }
    tally
}

/// The settings as they are understood, and what is strange about them.
fn settings(settings: Vec<Setting>, command: &Command, found: &mut dyn FnMut(&Finding)) {
    let writing = writing(command);
    for mut setting in settings {
        // A default may depend on the machine: what it comes to.
        let value = match (setting.flag.as_str(), writing, setting.from.as_str()) {
            ("--state-dir", Some(w), "default") => {
                Some(w.state_dir.as_ref().map_or("none".into(), |dir| dir.display().to_string()))
            }
            ("--workers", Some(w), "default") => Some(w.workers.to_string()),
            ("--compression", Some(Writing { output: Output::Kafka(kafka), .. }), "default") => {
                Some(kafka.codec.name().into())
            }
            _ => None,
        };
        setting.value = value.unwrap_or(setting.value);
        let text = format!("{} {} ({})", setting.flag, setting.value, setting.from);
        found(&Finding { state: State::Ok, about: "setting", text, setting: Some(setting) });
    }
    for warning in writing.map_or(&[][..], |w| &w.warnings) {
        found(&Finding { state: State::Warning, about: "setting", text: warning.clone(), setting: None });
    }
}

fn writing(command: &Command) -> Option<&Writing> {
    match command {
        Command::Relay(c) => Some(&c.writing),
        Command::Tap(c) => Some(&c.writing),
        Command::Jetstream(c) => Some(&c.writing),
        Command::Replay(c) => Some(&c.writing),
        Command::Ozone(c) => Some(&c.writing),
        Command::Record(_) | Command::Check(_) | Command::Cursor(_) | Command::Healthcheck(..) | Command::Print(_) => {
            None
        }
    }
}

/// What is tried for a command, in the order that it is shown in.
fn trials(command: Command) -> Vec<Trial> {
    let mut all = Vec::new();
    let mut add = |about, work: Box<dyn FnOnce(&Out) + Send>| all.push(Trial(about, work));
    match command {
        Command::Relay(relay) => {
            let names: Vec<String> = relay.hosts.iter().map(|host| host.name.clone()).collect();
            let (count, history) = (relay.hosts.len(), history_of(relay.start));
            for host in relay.hosts.into_iter().take(HOSTS) {
                add("relay", Box::new(move |out| host::relay(&host, out)));
            }
            if count > HOSTS {
                let text = format!("{} hosts more than {HOSTS} are not tried", count - HOSTS);
                add("relay", Box::new(move |out| out.not_checked("relay", text)));
            }
            state::<SeqPosition>(relay.writing, history, "relay", names, &mut add);
        }
        Command::Tap(tap) => {
            add("Tap", Box::new(move |out| tap::check(&tap.host, out)));
            written(tap.writing, History::All, None, &mut add);
        }
        Command::Jetstream(jetstream) => {
            let (host, history) = (jetstream.host, history_of(jetstream.reading.start));
            let names = vec![host.name.clone()];
            add("Jetstream", Box::new(move |out| host::jetstream(&host, jetstream.reading.wire, out)));
            state::<JetstreamPosition>(jetstream.writing, history, "jetstream", names, &mut add);
        }
        Command::Replay(replay) => {
            let (reading, output) = (replay.reading, output(&replay.writing));
            let first = reading.files.clone();
            let keys = move |output: String| {
                recordings::name(&first).map(|host| key("replay", host, output)).into_iter().collect()
            };
            let positions = positions(&replay.writing, keys);
            let dir = replay.writing.state_dir.clone().filter(|_| positions.is_none());
            let in_topic = positions.is_some();
            add("recording", Box::new(move |out| recordings::read(&reading, dir, in_topic, &output, out)));
            written(replay.writing, History::All, positions, &mut add);
        }
        Command::Ozone(ozone) => {
            let names = vec![format!("{}+{}", ozone.name, ozone.account.labeler_did)];
            let account = ozone.account;
            add("Ozone", Box::new(move |out| ozone::check(account, out)));
            state::<OzonePosition>(ozone.writing, History::All, "ozone", names, &mut add);
        }
        Command::Record(record) => {
            let (path, existing) = (record.output, record.existing);
            add("relay", Box::new(move |out| host::relay(&record.host, out)));
            add("file", Box::new(move |out| recordings::written(&path, existing, out)));
        }
        Command::Check(_) | Command::Cursor(_) | Command::Healthcheck(..) | Command::Print(_) => {}
    }
    all
}

/// What the output is called where positions are kept.
fn output(writing: &Writing) -> String {
    match &writing.output {
        Output::Lines => "stdout".to_string(),
        Output::Kafka(kafka) => kafka.topics.first().cloned().unwrap_or_default(),
    }
}

fn key(kind: &str, host: String, output: String) -> Key {
    Key { source: kind.into(), host, output, instance: String::new() }
}

/// `None`: they are kept in files, or nowhere.
fn positions(writing: &Writing, keys: impl FnOnce(String) -> Vec<Key> + Send + 'static) -> Option<Positions> {
    let CursorTopic { topic, instance, takeover_after, .. } = writing.cursor_topic.clone()?;
    let output = output(writing);
    let keys = move || keys(output).into_iter().map(|key| Key { instance: instance.clone(), ..key }).collect();
    Some(Positions { topic, standby: takeover_after.is_some(), keys: Box::new(keys) })
}

/// What is written, and the positions of these hosts.
fn state<T: Stored>(
    writing: Writing,
    history: History,
    kind: &'static str,
    hosts: Vec<String>,
    add: &mut impl FnMut(&'static str, Box<dyn FnOnce(&Out) + Send>),
) {
    let (dir, output, all) = (writing.state_dir.clone(), output(&writing), hosts.clone());
    let positions =
        positions(&writing, move |output| all.into_iter().map(|host| key(kind, host, output.clone())).collect());
    let in_files = positions.is_none();
    written(writing, history, positions, add);
    if in_files {
        add("state", Box::new(move |out| place::state::<T>(dir, kind, &hosts, &output, out)));
    }
}

/// What every command has that writes events.
fn written(
    writing: Writing,
    history: History,
    positions: Option<Positions>,
    add: &mut impl FnMut(&'static str, Box<dyn FnOnce(&Out) + Send>),
) {
    if let Some(settings) = writing.enrich {
        add("look-ups", Box::new(move |out| lookups::check(&settings, out)));
    }
    match writing.output {
        Output::Lines => add("output", Box::new(|out| out.ok("output", "standard output, one event a line"))),
        Output::Kafka(kafka) => add("Kafka", Box::new(move |out| cluster::check(*kafka, history, positions, out))),
    }
    if let Some(address) = writing.listen {
        add("metrics", Box::new(move |out| place::port(address, out)));
    }
}

fn history_of(start: Start) -> History {
    match start {
        Start::Live => History::None,
        Start::At(_) | Start::Time(_) => History::Days,
    }
}

//! `atkafka cursor`: saved positions, shown and changed by hand, in state files or in Kafka.
//!
//! Only `main` uses it. `position` knows what a position says, `table` how it is shown; `files` and `topic` are the two stores.
//! It never runs beside whoever writes the same position: a state file is locked, and a Kafka client is fenced. It runs on the
//! main thread.

mod files;
mod position;
mod table;
mod topic;

use crate::checkpoint::topic::Key;
use crate::clock;
use crate::config::{Chosen, Cursor, CursorAction, Kept, To};
use crate::sink::kafka_options::Kafka;
use position::Position;

/// Why a command did not do what it was asked for, in one line.
#[derive(Debug)]
pub enum Failed {
    /// What was asked for cannot be meant.
    Usage(String),
    /// It went wrong.
    Run(String),
}

/// A saved position as it was found.
struct Found {
    key: Key,
    /// Fails with what is wrong with it, as a predicate.
    position: Result<Position, String>,
    place: Place,
}

impl Found {
    /// Whether there is a position. One that cannot be read is there.
    fn is_saved(&self) -> bool {
        self.position.as_ref().map_or(true, |position| !position.saved_at.is_empty())
    }
}

/// Where a position was found.
enum Place {
    /// A state file, and whether a process has its lock.
    File { path: String, in_use: bool },
    /// A record, with the transactional id of who wrote it.
    Record { topic: String, writer: Option<String> },
}

/// What becomes of a position.
enum Change {
    Set(To),
    Delete,
}

/// Does what was asked for. `print` is given what it has to say, line by line.
pub fn run(cursor: Cursor, print: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    let Cursor { action, kept, chosen } = cursor;
    let change = match action {
        CursorAction::Show { json } => return show(&kept, &chosen, json, print),
        CursorAction::Set(to) => Change::Set(to),
        CursorAction::Delete => Change::Delete,
    };
    // One that is damaged can be deleted.
    let found = the_one(found(&kept, &chosen)?.0, &kept, &chosen, &change)?;
    if let (Change::Set(_), Err(why)) = (&change, &found.position) {
        return Err(Failed::Run(format!("the position of {} {why}: delete it first", found.key)));
    }
    match &kept {
        Kept::Files(dir) => files::change(dir, &found, &change, print),
        Kept::Topic { kafka, topic } => topic::change(Kafka::clone(kafka), topic, &found, &change, print),
    }
}

/// The chosen positions, with those that are deleted, and whether there are more than are taken.
fn found(kept: &Kept, chosen: &Chosen) -> Result<(Vec<Found>, bool), Failed> {
    match kept {
        Kept::Files(dir) => files::all(dir, chosen).map(|all| (all, false)).map_err(Failed::Run),
        Kept::Topic { kafka, topic } => topic::all(Kafka::clone(kafka), topic, chosen).map_err(Failed::Run),
    }
}

fn show(kept: &Kept, chosen: &Chosen, json: bool, print: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    let (mut all, more) = found(kept, chosen)?;
    all.retain(Found::is_saved);
    if all.is_empty() && *chosen != Chosen::default() {
        return Err(Failed::Run(none(kept, chosen)));
    }
    match json {
        true => all.iter().for_each(|found| print(&table::json(found))),
        false if all.is_empty() => print(&format!("{}: no position is saved\n", place(kept))),
        false => print(&table::text(&all, clock::now_ms())),
    }
    match more {
        true => Err(Failed::Run(format!(
            "{}: there are more; --position, --output-topic and --instance-id choose",
            place(kept)
        ))),
        false => Ok(()),
    }
}

/// The only position that is chosen; for a new one, what it would be.
fn the_one(all: Vec<Found>, kept: &Kept, chosen: &Chosen, change: &Change) -> Result<Found, Failed> {
    let (mut all, deleted): (Vec<Found>, Vec<Found>) = all.into_iter().partition(Found::is_saved);
    if all.len() > 1 {
        // Without a name that of the default instance is meant, where it is there.
        let is_default = |found: &Found| chosen.instance.is_none() && found.key.instance.is_empty();
        let named = chosen.position.is_some() && all.iter().filter(|found| is_default(found)).count() == 1;
        if named {
            all.retain(is_default);
        } else {
            let names: Vec<String> = all.iter().take(10).map(|found| found.key.to_string()).collect();
            return Err(Failed::Usage(format!(
                "{} positions are meant: choose one by --position, --output-topic and --instance-id ({}{})",
                all.len(),
                names.join("; "),
                if all.len() > names.len() { "; ..." } else { "" }
            )));
        }
    }
    if let Some(found) = all.pop() {
        return Ok(found);
    }
    match (change, &chosen.position, &chosen.output) {
        (Change::Set(_), Some((source, host)), Some(output)) => {
            let instance = chosen.instance.clone().unwrap_or_default();
            let key = Key { source: source.clone(), host: host.clone(), output: output.clone(), instance };
            // An instance that runs, and has none of this host yet, has written that.
            if let Some(found) = deleted.into_iter().find(|found| found.key == key) {
                return Ok(found);
            }
            let place = match kept {
                Kept::Files(_) => Place::File { path: String::new(), in_use: false },
                Kept::Topic { topic, .. } => Place::Record { topic: topic.clone(), writer: None },
            };
            Ok(Found { key, position: Ok(Position::default()), place })
        }
        (Change::Set(_), ..) => Err(Failed::Run(format!(
            "{}; a new one needs --position SOURCE/HOST and --output-topic",
            none(kept, chosen)
        ))),
        (Change::Delete, ..) => Err(Failed::Run(none(kept, chosen))),
    }
}

fn none(kept: &Kept, chosen: &Chosen) -> String {
    let mut what = String::new();
    if let Some((source, host)) = &chosen.position {
        what += &format!(" of {source}/{host}");
    }
    if let Some(output) = &chosen.output {
        what += &format!(" into {output}");
    }
    if let Some(instance) = &chosen.instance {
        what += &format!(" of instance {instance}");
    }
    format!("{}: no position{what} is saved (atkafka cursor show lists those that are)", place(kept))
}

fn place(kept: &Kept) -> String {
    match kept {
        Kept::Files(dir) => format!("--state-dir {}", dir.display()),
        Kept::Topic { topic, .. } => format!("topic {topic}"),
    }
}

impl Chosen {
    /// Whether the position of this key is meant.
    fn takes(&self, key: &Key) -> bool {
        self.position.as_ref().is_none_or(|(source, host)| *source == key.source && *host == key.host)
            && self.output.as_ref().is_none_or(|output| *output == key.output)
            && self.instance.as_ref().is_none_or(|instance| *instance == key.instance)
    }
}

/// The two lines about a change.
fn changed(key: &Key, before: &Result<Position, String>, after: Option<&Position>, print: &mut dyn FnMut(&str)) {
    let now_ms = clock::now_ms();
    let before = match before {
        Ok(position) => position.text(now_ms),
        Err(why) => why.clone(),
    };
    let after = after.map_or("none; the next start begins where --cursor says".into(), |after| after.text(now_ms));
    print(&format!("{key}: before: {before}\n{key}: now: {after}\n"));
}

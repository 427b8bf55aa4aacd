//! `cursor show`, `cursor set` and `cursor delete`: saved positions, looked at and changed by hand. Their settings are those of
//! the command whose positions they are, so that the environment of a service serves them as it is.

use argh::{ArgsInfo, FromArgs};

use super::Examples;
use crate::atproto::frame::SEQ_END;
use crate::clock;
use crate::config::shared::{Kept, store};
use crate::config::{Checked, Input, cursor, invalid};

/// Shows and changes saved positions, in state files or in Kafka.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "cursor")]
pub struct Flags {
    #[argh(subcommand)]
    pub command: Words,
}

/// What to do with positions.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Words {
    Show(show::Flags),
    Set(set::Flags),
    Delete(delete::Flags),
}

pub mod show {
    command_flags! {
        /// Shows the saved positions.
        #[argh(subcommand, name = "show")]
        (storing, choosing)
        {
            /// print JSON, one object a line
            #[argh(switch)]
            pub json: bool,
        }
    }
}

pub mod set {
    command_flags! {
        /// Sets a saved position: the next start goes on behind it. An atkafka that runs is stopped first (files) or ended by it (Kafka).
        #[argh(subcommand, name = "set")]
        (storing, choosing)
        {
            /// where the next start goes on: behind a seq (relay, replay, jetstream), or at a time, 2h ago or RFC 3339 (jetstream, ozone) (required)
            #[argh(option, arg_name = "seq|time")]
            pub to: Option<String>,
        }
    }
}

pub mod delete {
    command_flags! {
        /// Deletes a saved position: the next start begins where --cursor says. An atkafka that runs is stopped first (files) or ended by it (Kafka).
        #[argh(subcommand, name = "delete")]
        (storing, choosing)
        {}
    }
}

/// What is done with the positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorAction {
    /// They are shown.
    Show {
        /// One object of JSON a line, in place of text.
        json: bool,
    },
    /// One is set.
    Set(To),
    /// One is deleted.
    Delete,
}

/// Where a position is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Behind this seq.
    Seq(u64),
    /// At this time, in milliseconds since 1970.
    Time(i64),
}

/// Which positions are meant. What is `None` is of no concern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Kind of the source, and host.
    pub position: Option<(String, String)>,
    /// The output topic.
    pub output: Option<String>,
    /// The instance.
    pub instance: Option<String>,
}

/// `cursor`.
pub struct Cursor {
    /// What is done.
    pub action: CursorAction,
    /// Where they are.
    pub kept: Kept,
    /// Which are meant.
    pub chosen: Chosen,
}

const TO: &str = "a seq from 1 to 2^53, or a time, such as 2h ago or 2026-11-26T10:00:00Z";

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Cursor> {
    let (action, (storing, choosing)) = match f.command {
        Words::Show(f) => (CursorAction::Show { json: f.json }, (f.storing(), f.choosing())),
        Words::Set(f) => (CursorAction::Set(to(f.to.as_deref(), clock::now_ms())?), (f.storing(), f.choosing())),
        Words::Delete(f) => (CursorAction::Delete, (f.storing(), f.choosing())),
    };
    let position = choosing.position.as_deref().map(|name| match name.split_once('/') {
        Some((source, host)) if SOURCES.contains(&source) && !host.is_empty() => Ok((source.into(), host.into())),
        _ => {
            let allowed = format!("SOURCE/HOST, such as relay/bsky.network; sources: {}", SOURCES.join(", "));
            Err(invalid("--position", name, &allowed))
        }
    });
    let chosen = Chosen {
        position: position.transpose()?,
        output: storing.output_topic.clone(),
        instance: choosing.instance_id.clone(),
    };
    Ok(Cursor { action, kept: store(storing, choosing.bootstrap_servers, input)?, chosen })
}

/// The sources that have positions.
pub const SOURCES: [&str; 4] = ["relay", "jetstream", "replay", "ozone"];

fn to(text: Option<&str>, now_ms: i64) -> Checked<To> {
    let text = text.ok_or_else(|| invalid("--to", "", &format!("required: {TO}")))?;
    if let Some(ms) = cursor::past("--to", text, now_ms)? {
        return Ok(To::Time(ms));
    }
    match text.parse::<u64>() {
        Ok(seq @ 1..SEQ_END) => Ok(To::Seq(seq)),
        _ => Err(invalid("--to", text, TO)),
    }
}

pub(super) const SHOW: Examples = [
    ("Those in state files:", "atkafka cursor show --state-dir /var/lib/atkafka/relay"),
    (
        "Those in Kafka:",
        "atkafka cursor show --bootstrap-servers kafka:9092 --cursor-store kafka --output-topic atproto-events",
    ),
    ("With the settings of the environment and .env, as JSON:", "atkafka cursor show --json"),
];

pub(super) const SET: Examples = [
    (
        "The next start of a stopped service goes on behind this seq:",
        "atkafka cursor set --state-dir /var/lib/atkafka/relay --position relay/bsky.network --to 25000000000",
    ),
    (
        "In Kafka, which ends the instance that runs; its service starts it again from there:",
        "atkafka cursor set --bootstrap-servers kafka:9092 --cursor-topic atproto-events.cursor --to 25000000000",
    ),
    (
        "A Jetstream or an Ozone again from two hours ago:",
        "atkafka cursor set --position jetstream/jetstream2.us-east.bsky.network --to '2h ago'",
    ),
];

pub(super) const DELETE: Examples = [
    (
        "The next start of a stopped service begins where --cursor says:",
        "atkafka cursor delete --state-dir /var/lib/atkafka/relay --position relay/bsky.network",
    ),
    (
        "The position of one of several outputs:",
        "atkafka cursor delete --position relay/bsky.network --output-topic atproto-events",
    ),
    (
        "In Kafka, of an instance that has a name:",
        "atkafka cursor delete --bootstrap-servers kafka:9092 --cursor-topic atproto-events.cursor --instance-id blue",
    ),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Command, Environment, command};

    fn parse(line: &str, env: &[(&str, &str)]) -> Result<Cursor, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        let mut environment = Environment::default();
        environment.all.extend(env.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        match command(&args, &environment) {
            Ok(Command::Cursor(cursor)) => Ok(*cursor),
            Ok(_) => Err("another command".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn the_store_is_that_of_a_service_with_the_same_environment() {
        let files = |env: &[(&str, &str)]| match parse("cursor show", env).map(|cursor| cursor.kept) {
            Ok(Kept::Files(dir)) => dir,
            Ok(Kept::Topic { topic, .. }) => panic!("topic {topic}"),
            Err(e) => panic!("{e}"),
        };
        assert_eq!(files(&[]), Path::new("./atkafka-state"));
        assert_eq!(files(&[("STATE_DIRECTORY", "/var/lib/a:/b")]), Path::new("/var/lib/a"));
        let service = [("ATKAFKA_BOOTSTRAP_SERVERS", "b:1"), ("ATKAFKA_OUTPUT_TOPIC", "events")];
        assert_eq!(files(&[&service[..], &[("ATKAFKA_STATE_DIR", "/s")]].concat()), Path::new("/s"));
        let topic = |line: &str, more: &[(&str, &str)]| match parse(line, &[&service[..], more].concat()) {
            Ok(Cursor { kept: Kept::Topic { kafka, topic }, .. }) => {
                assert!(!kafka.new_topic.create && kafka.topics.is_empty() && kafka.servers == ["b:1"]);
                topic
            }
            Ok(_) => panic!("files"),
            Err(e) => panic!("{e}"),
        };
        assert_eq!(topic("cursor show", &[("ATKAFKA_DELIVERY", "exactly-once")]), "events.cursor");
        assert_eq!(topic("cursor show", &[("ATKAFKA_CURSOR_STORE", "kafka")]), "events.cursor");
        assert_eq!(topic("cursor delete --cursor-topic c", &[]), "c");
    }

    #[test]
    fn what_is_chosen_and_where_it_is_set_to() {
        let set = |line: &str| parse(&format!("cursor set {line}"), &[]);
        let cursor = set("--position replay//data/a.bin#1 --output-topic t --instance-id i --to 7").expect("valid");
        let position = Some(("replay".to_string(), "/data/a.bin#1".to_string()));
        assert_eq!(cursor.chosen, Chosen { position, output: Some("t".into()), instance: Some("i".into()) });
        assert_eq!(cursor.action, CursorAction::Set(To::Seq(7)));
        let now = 1_795_687_200_000; // 2026-11-26T10:00:00Z
        assert_eq!(to(Some("2h ago"), now).ok(), Some(To::Time(now - 7_200_000)));
        assert_eq!(to(Some("2026-11-26T09:59:59Z"), now).ok(), Some(To::Time(now - 1_000)));
        for wrong in ["0", "9007199254740993", "-1", "live", "2026-11-26T10:00:01Z", "1999-01-01T00:00:00Z", "ago"] {
            assert!(to(Some(wrong), now).is_err_and(|e| e.to_string().contains("--to")), "{wrong}");
        }
        for (line, part) in [
            ("cursor set", "--to: required"),
            ("cursor set --to 7 --position bsky.network", "SOURCE/HOST"),
            ("cursor set --to 7 --position tap/x", "sources: relay, jetstream, replay, ozone"),
            ("cursor show --cursor-store kafka", "--bootstrap-servers: required"),
            ("cursor show --cursor-store kafka --bootstrap-servers b:1", "--cursor-topic: required"),
            ("cursor show --cursor-topic a/b --bootstrap-servers b:1", "--cursor-topic \"a/b\""),
            ("cursor", "show, set, delete"),
        ] {
            let error = parse(line, &[]).err().unwrap_or_default();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}

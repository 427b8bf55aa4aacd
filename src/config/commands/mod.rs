//! One file per command, with its flags (`Flags`), the checked value that `main` receives, the function that turns the one
//! into the other (`checked`), and its examples. A new command is one more file and one line in each list below.

mod check;
mod cursor;
mod healthcheck;
mod jetstream;
mod ozone;
mod printed;
mod record;
mod relay;
mod replay;
mod tap;

use std::net::SocketAddr;

use argh::{ArgsInfo, FromArgs};

use super::{Checked, Input};
pub use check::Check;
pub use cursor::{Chosen, Cursor, CursorAction, SOURCES, To};
pub use jetstream::Jetstream;
pub use ozone::Ozone;
pub use record::Record;
pub use relay::Relay;
pub use replay::Replay;
pub use tap::Tap;

/// What to do.
pub enum Command {
    /// `firehose relay`.
    Relay(Relay),
    /// `firehose tap`.
    Tap(Tap),
    /// `firehose jetstream`.
    Jetstream(Jetstream),
    /// `firehose replay`.
    Replay(Replay),
    /// `ozone-events`.
    Ozone(Ozone),
    /// `record`.
    Record(Record),
    /// Settings to try, without running the command that they are of.
    Check(Box<Check>),
    /// `cursor`.
    Cursor(Box<Cursor>),
    /// Which of `/healthz` and `/readyz` to ask, and where.
    Healthcheck(&'static str, SocketAddr),
    /// A text to print.
    Print(String),
}

/// AT Protocol events to Kafka: nothing lost, in order.
#[derive(FromArgs, ArgsInfo, Debug)]
pub(super) struct TopLevel {
    #[argh(subcommand)]
    words: Words,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Words {
    Firehose(Firehose),
    Ozone(ozone::Flags),
    Record(record::Flags),
    Check(check::Flags),
    Cursor(cursor::Flags),
    Healthcheck(healthcheck::Flags),
    Completions(printed::Completions),
    Man(printed::Man),
    Schema(printed::Schema),
}

/// Reads repository events.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "firehose")]
pub struct Firehose {
    #[argh(subcommand)]
    mode: Mode,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Mode {
    Relay(relay::Flags),
    Tap(tap::Flags),
    Jetstream(jetstream::Flags),
    Replay(replay::Flags),
}

impl TopLevel {
    pub(super) fn checked(self, input: &Input<'_>) -> Checked<Command> {
        match self.words {
            Words::Firehose(f) => firehose(f, input),
            Words::Ozone(f) => ozone::checked(f, input).map(Command::Ozone),
            Words::Record(f) => record::checked(f, input).map(Command::Record),
            Words::Check(f) => check::checked(f, input).map(|check| Command::Check(Box::new(check))),
            Words::Cursor(f) => cursor::checked(f, input).map(|cursor| Command::Cursor(Box::new(cursor))),
            Words::Healthcheck(f) => healthcheck::checked(f),
            Words::Completions(f) => Ok(Command::Print(printed::completions(&f))),
            Words::Schema(f) => Ok(Command::Print(printed::schema(&f))),
            Words::Man(_) => Ok(Command::Print(super::help::man::page())),
        }
    }
}

fn firehose(f: Firehose, input: &Input<'_>) -> Checked<Command> {
    match f.mode {
        Mode::Relay(f) => relay::checked(f, input).map(Command::Relay),
        Mode::Tap(f) => tap::checked(f, input).map(Command::Tap),
        Mode::Jetstream(f) => jetstream::checked(f, input).map(Command::Jetstream),
        Mode::Replay(f) => replay::checked(f, input).map(Command::Replay),
    }
}

/// Three command lines of a command: what for, and the line.
type Examples = [(&'static str, &'static str); 3];

/// The examples of each command that has flags.
pub(super) const EXAMPLES: &[(&str, Examples)] = &[
    ("firehose relay", relay::EXAMPLES),
    ("firehose tap", tap::EXAMPLES),
    ("firehose jetstream", jetstream::EXAMPLES),
    ("firehose replay", replay::EXAMPLES),
    ("ozone-events", ozone::EXAMPLES),
    ("record", record::EXAMPLES),
    ("check", check::EXAMPLES),
    ("cursor show", cursor::SHOW),
    ("cursor set", cursor::SET),
    ("cursor delete", cursor::DELETE),
    ("healthcheck", healthcheck::EXAMPLES),
];

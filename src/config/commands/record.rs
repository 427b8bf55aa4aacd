//! `record`: its flags, and what they mean.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::Examples;
use crate::clock;
use crate::config::cursor;
use crate::config::shared::values::{client, host, number};
use crate::config::shared::{Logging, logging};
use crate::config::{Checked, DEFAULT_RELAY, Input, invalid};
use crate::record::Existing;
use crate::source::{Host, Start};

/// Saves frames of a live firehose to a file, for tests and benches.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "record")]
pub struct Flags {
    /// relay to read, ws:// or wss:// (default wss://bsky.network)
    #[argh(option, arg_name = "url")]
    pub relay_host: Option<String>,
    /// file to write; zstd-compressed when it ends in .zst (required)
    #[argh(option, arg_name = "file")]
    pub output: Option<String>,
    /// frames to save (default 10000)
    #[argh(option, arg_name = "n")]
    pub frames: Option<String>,
    /// go on behind the last frame of the file, if it is there
    #[argh(switch)]
    pub append: bool,
    /// replace the file, if it is there
    #[argh(switch)]
    pub force: bool,
    /// where to begin: live, oldest, a seq, or a time (2h ago, or RFC 3339) (default live)
    #[argh(option, arg_name = "start")]
    pub cursor: Option<String>,
    /// certificates to trust instead of the system's, for HTTPS and wss://, a PEM file
    #[argh(option, arg_name = "file")]
    pub ca_file: Option<String>,
    /// contact address that the host sees in the User-Agent: an e-mail address or a URL
    #[argh(option, arg_name = "contact")]
    pub contact: Option<String>,
    /// error, warn, info or debug (default info)
    #[argh(option, arg_name = "level")]
    pub log_level: Option<String>,
    /// text or json (default text)
    #[argh(option, arg_name = "format")]
    pub log_format: Option<String>,
    /// the same as --log-level debug
    #[argh(switch)]
    pub debug: bool,
}

/// `record`.
pub struct Record {
    /// Whose firehose is recorded.
    pub host: Host,
    /// The file; packed where its name ends with `.zst`.
    pub output: PathBuf,
    /// How many frames.
    pub frames: u64,
    /// What becomes of a file that is there already.
    pub existing: Existing,
    /// Where to begin.
    pub start: Start,
    /// How is logged.
    pub logging: Logging,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Record> {
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
        start: cursor::start(f.cursor.as_deref(), cursor::SEQ, clock::now_ms())?,
        logging: logging(f.debug, f.log_level.as_deref(), f.log_format.as_deref())?,
    })
}

pub(super) const EXAMPLES: Examples = [
    ("Ten thousand frames of the public firehose:", "atkafka record --output frames.bin.zst"),
    ("A million more, behind those:", "atkafka record --output frames.bin.zst --append --frames 1000000"),
    (
        "Of a relay of one's own, from the oldest frame that it has:",
        "atkafka record --relay-host ws://localhost:2470 --cursor oldest --output frames.bin",
    ),
];

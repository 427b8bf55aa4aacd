//! `firehose relay`: its flags, and what they mean.

use std::collections::HashSet;
use std::time::Duration;

use super::Examples;
use crate::clock;
use crate::config::cursor;
use crate::config::shared::values::{client, entries, host, linger, list, silence};
use crate::config::shared::{Logging, Writing, logging, writing};
use crate::config::{Checked, DEFAULT_RELAY, Input, invalid};
use crate::source::window::LINGER;
use crate::source::{Host, Start};

command_flags! {
    /// Reads the firehose of a relay, or of a PDS.
    #[argh(subcommand, name = "relay")]
    (writing, enriching)
    {
        /// relay to read, ws:// or wss://, or @file with one a line; may repeat, each with a connection, cursor and order of its own (default wss://bsky.network)
        #[argh(option, arg_name = "url|@file")]
        pub relay_host: Vec<String>,
        /// where the first start begins: live, oldest, a seq, or a time (2h ago, or RFC 3339); ignored once a position is saved (default live)
        #[argh(option, arg_name = "start")]
        pub cursor: Option<String>,
        /// connect again when a host that gave over one event a second gives none for so long, 1s..24h, or off (default 90s)
        #[argh(option, arg_name = "time")]
        pub silence: Option<String>,
        /// how long an event waits for others that go on together with it, up to 100ms; less costs more CPU an event (default 10ms)
        #[argh(option, arg_name = "time")]
        pub linger: Option<String>,
    }
}

/// With more hosts than this each of them counts for less; `packaging/prometheus/alerts.yml` has the same number.
const MANY: usize = 10;

/// `firehose relay`.
pub struct Relay {
    /// At least one.
    pub hosts: Vec<Host>,
    /// They come from a file, or are many: some are always away, and each by itself matters little.
    pub is_many: bool,
    /// Where each of them begins without a saved position.
    pub start: Start,
    /// How long a busy host may be silent; `None`: for ever.
    pub silence: Option<Duration>,
    /// How long an event waits for others.
    pub linger: Duration,
    /// What is written, and where.
    pub writing: Writing,
    /// How is logged.
    pub logging: Logging,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Relay> {
    let (w, enriching) = (f.writing(), f.enriching());
    let client = client(enriching.contact.as_deref(), w.ca_file.as_deref(), &input.env.all)?;
    let mut hosts = Vec::new();
    let mut names = HashSet::new();
    let from_file = list(&f.relay_host).iter().any(|item| item.starts_with('@'));
    let given = entries("--relay-host", &f.relay_host, "host")?;
    for url in if given.is_empty() { vec![DEFAULT_RELAY.to_string()] } else { given } {
        let host = host("--relay-host", &url, &client)?;
        if !names.insert(host.name.clone()) {
            return Err(invalid("--relay-host", &url, "the same host twice"));
        }
        hosts.push(host);
    }
    let start = cursor::start(f.cursor.as_deref(), cursor::SEQ, clock::now_ms())?;
    let logging = logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?;
    let silence = silence(f.silence.as_deref())?;
    let linger = linger(f.linger.as_deref(), LINGER)?;
    let is_many = from_file || hosts.len() > MANY;
    let writing = writing(&w, Some((&enriching, &client)), input)?;
    Ok(Relay { hosts, is_many, start, silence, linger, writing, logging })
}

pub(super) const EXAMPLES: Examples = [
    ("The public firehose on standard output, one event a line:", "atkafka firehose relay"),
    (
        "Into a topic of a local broker:",
        "atkafka firehose relay --bootstrap-servers localhost:9092 --output-topic atproto-events",
    ),
    (
        "Only posts and likes, from the oldest event that the relay still has:",
        "atkafka firehose relay --cursor oldest --watched-collections app.bsky.feed.post,app.bsky.feed.like",
    ),
];

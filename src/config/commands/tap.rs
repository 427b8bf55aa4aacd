//! `firehose tap`: its flags, and what they mean.

use std::time::Duration;

use super::Examples;
use crate::config::shared::values::{client, host, linger, number, secret};
use crate::config::shared::{Logging, Writing, logging, refuse, writing};
use crate::config::{Checked, Input, invalid};
use crate::source::Host;
use crate::source::window::LINGER_TAP;

const DEFAULT_TAP: &str = "ws://localhost:2480";

command_flags! {
    /// Reads a Tap: whole repositories, then live.
    #[argh(subcommand, name = "tap")]
    (writing, enriching)
    {
        /// address of the Tap to read, ws:// or wss:// (default ws://localhost:2480)
        #[argh(option, arg_name = "url")]
        pub tap_host: Option<String>,
        /// connections that share Tap's queue, 1..32 (default 1)
        #[argh(option, arg_name = "n")]
        pub tap_connections: Option<String>,
        /// the same as --workers
        #[argh(option, arg_name = "n")]
        pub tap_workers: Option<String>,
        /// send no acknowledgements: for a Tap that runs without
        #[argh(switch)]
        pub disable_acks: bool,
        /// password of Tap's admin; better in the environment or in a file
        #[argh(option, arg_name = "password")]
        pub tap_password: Option<String>,
        /// file that holds Tap's admin password
        #[argh(option, arg_name = "file")]
        pub tap_password_file: Option<String>,
        /// how long an event waits for others that go on together with it, up to 100ms; less costs more CPU an event (default 2ms)
        #[argh(option, arg_name = "time")]
        pub linger: Option<String>,
    }
}

/// `firehose tap`.
pub struct Tap {
    /// The Tap.
    pub host: Host,
    /// Connections at once.
    pub connections: usize,
    /// Whether this Tap wants acknowledgements.
    pub acks: bool,
    /// How long an event waits for others.
    pub linger: Duration,
    /// What is written, and where.
    pub writing: Writing,
    /// How is logged.
    pub logging: Logging,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Tap> {
    let (mut w, enriching) = (f.writing(), f.enriching());
    let client = client(enriching.contact.as_deref(), w.ca_file.as_deref(), &input.env.all)?;
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
    let writing = writing(&w, Some((&enriching, &client)), input)?;
    refuse(
        writing.cursor_topic.as_ref(),
        "Tap has no position that could be stored: an event is acknowledged to it, and such an acknowledgement cannot be part of a transaction",
    )?;
    Ok(Tap {
        host,
        connections: number("--tap-connections", f.tap_connections.as_deref(), 1..=32)?.unwrap_or(1) as usize,
        acks: !f.disable_acks,
        linger: linger(f.linger.as_deref(), LINGER_TAP)?,
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing,
    })
}

pub(super) const EXAMPLES: Examples = [
    ("What a Tap on this machine gives, on standard output:", "atkafka firehose tap"),
    (
        "Into a topic:",
        "atkafka firehose tap --tap-host ws://tap:2480 --bootstrap-servers kafka:9092 --output-topic tap-events",
    ),
    (
        "Eight connections that share the queue of one Tap:",
        "atkafka firehose tap --tap-connections 8 --bootstrap-servers kafka:9092 --output-topic tap-events",
    ),
];

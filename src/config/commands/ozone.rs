//! `ozone-events`: its flags, and what they mean.

use std::time::Duration;

use super::Examples;
use crate::config::shared::values::{client, duration, host, secret};
use crate::config::shared::{Logging, Writing, logging, writing};
use crate::config::{Checked, Input, invalid};
use crate::source::ozone;
use crate::source::ozone_session::Account;

command_flags! {
    /// Reads the moderation events of an Ozone.
    #[argh(subcommand, name = "ozone-events")]
    (writing)
    {
        /// the account's PDS, https://; Ozone is asked through it (required)
        #[argh(option, arg_name = "url")]
        pub pds_host: Option<String>,
        /// handle, DID or e-mail of an account in Ozone's team (required)
        #[argh(option, arg_name = "name")]
        pub identifier: Option<String>,
        /// its password, or an app password; better in the environment or in a file (required)
        #[argh(option, arg_name = "password")]
        pub password: Option<String>,
        /// file that holds the password
        #[argh(option, arg_name = "file")]
        pub password_file: Option<String>,
        /// DID of the labeler whose Ozone it is (required)
        #[argh(option, arg_name = "did")]
        pub labeler_did: Option<String>,
        /// where the first start begins, a time such as 2026-01-01T00:00:00Z; ignored once a position is saved (default: the first event)
        #[argh(option, arg_name = "time")]
        pub ozone_since: Option<String>,
        /// how far before the newest event each round begins, since events commit late, 0s..1h (default 30s)
        #[argh(option, arg_name = "time")]
        pub look_back: Option<String>,
        /// between two rounds, 100ms..1h (default 1s)
        #[argh(option, arg_name = "time")]
        pub poll_interval: Option<String>,
        /// contact address that the host sees in the User-Agent: an e-mail address or a URL
        #[argh(option, arg_name = "contact")]
        pub contact: Option<String>,
    }
}

/// `ozone-events`.
pub struct Ozone {
    /// Whom to log in as.
    pub account: Account,
    /// What the PDS is called in logs, metrics and the state file.
    pub name: String,
    /// How events are read.
    pub reading: ozone::Reading,
    /// What is written, and where.
    pub writing: Writing,
    /// How is logged.
    pub logging: Logging,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Ozone> {
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

pub(super) const EXAMPLES: Examples = [
    (
        "All moderation events on standard output (the password is in ATKAFKA_OZONE_PASSWORD):",
        "atkafka ozone-events --pds-host https://pds.example.com --identifier mod.example.com --labeler-did did:plc:ewvi7nxzyoun6zhxrhs64oiz",
    ),
    (
        "Only those since a time, into a topic:",
        "atkafka ozone-events --ozone-since 2026-01-01T00:00:00Z --bootstrap-servers kafka:9092 --output-topic ozone-events",
    ),
    (
        "With the password in a file:",
        "atkafka ozone-events --password-file /run/secrets/ozone --bootstrap-servers kafka:9092 --output-topic ozone-events",
    ),
];

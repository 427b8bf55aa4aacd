//! `firehose jetstream`: its flags, and what they mean.

use super::Examples;
use crate::clock;
use crate::config::cursor;
use crate::config::shared::values::{client, entries, host, linger, list, one_of, silence};
use crate::config::shared::{Logging, Writing, logging, writing};
use crate::config::{Checked, Input, invalid};
use crate::source::jetstream::Reading;
use crate::source::jetstream::query::{Wanted, Wire};
use crate::source::window::LINGER;
use crate::source::{Host, Start};

const DEFAULT_JETSTREAM: &str = "wss://jetstream2.us-east.bsky.network";

command_flags! {
    /// Reads a Jetstream: the firehose as JSON, for less bandwidth, and not verifiable.
    #[argh(subcommand, name = "jetstream")]
    (writing, enriching)
    {
        /// address of the Jetstream to read, ws:// or wss:// (default wss://jetstream2.us-east.bsky.network)
        #[argh(option, arg_name = "url")]
        pub jetstream_host: Option<String>,
        /// version of its protocol: 1, 2, or auto, which is 2 and falls back to 1 where the host has no 2 (default auto)
        #[argh(option, arg_name = "version")]
        pub jetstream_version: Option<String>,
        /// how the host packs its messages: none, or zstd, with version 2 (default none)
        #[argh(option, arg_name = "method")]
        pub jetstream_compression: Option<String>,
        /// where the first start begins: live, oldest, a time (2h ago, or RFC 3339), or with --jetstream-version 2 a seq; ignored once a position is saved (default live)
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

/// Which seqs `--cursor` takes.
const SEQ: &str = "with --jetstream-version 2 a seq below 2^53";

/// `firehose jetstream`.
pub struct Jetstream {
    /// `--jetstream-host`.
    pub host: Host,
    /// How it is read.
    pub reading: Reading,
    /// What becomes of the events.
    pub writing: Writing,
    /// The log.
    pub logging: Logging,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Jetstream> {
    let (w, enriching) = (f.writing(), f.enriching());
    let client = client(enriching.contact.as_deref(), w.ca_file.as_deref(), &input.env.all)?;
    let mut host = host("--jetstream-host", f.jetstream_host.as_deref().unwrap_or(DEFAULT_JETSTREAM), &client)?;
    for path in ["/subscribe", "/xrpc/network.bsky.jetstream.subscribeEvents"] {
        if let Some(prefix) = host.prefix.strip_suffix(path).map(str::to_string) {
            host.name = host.name.trim_end_matches(path).to_string();
            host.prefix = prefix;
        }
    }
    let versions = [("auto", None), ("1", Some(Wire::One)), ("2", Some(Wire::Two))];
    let wire = one_of("--jetstream-version", f.jetstream_version.as_deref(), &versions)?.flatten();
    let methods = [("none", false), ("zstd", true)];
    let packed = one_of("--jetstream-compression", f.jetstream_compression.as_deref(), &methods)?.unwrap_or(false);
    if packed && wire == Some(Wire::One) {
        return Err(invalid(
            "--jetstream-compression",
            "zstd",
            "none with --jetstream-version 1, whose dictionary is part of the server's program",
        ));
    }
    let start = cursor::start(f.cursor.as_deref(), SEQ, clock::now_ms())?;
    if matches!(start, Start::At(1..)) && wire != Some(Wire::Two) {
        let text = f.cursor.as_deref().unwrap_or_default();
        return Err(invalid("--cursor", text, "live, oldest or a time; a seq needs --jetstream-version 2"));
    }
    let silence = silence(f.silence.as_deref())?;
    let linger = linger(f.linger.as_deref(), LINGER)?;
    let mut writing = writing(&w, Some((&enriching, &client)), input)?;
    let dids = entries("--watched-dids", &w.watched_dids, "DID")?;
    let (wanted, kept) = Wanted::new(list(&w.watched_collections), dids);
    writing.warnings.extend(kept);
    Ok(Jetstream {
        host,
        reading: Reading { wire, start, wanted, packed, silence, linger },
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing,
    })
}

pub(super) const EXAMPLES: Examples = [
    ("The public Jetstream on standard output, one event a line:", "atkafka firehose jetstream"),
    (
        "Posts alone, packed by zstd, into a topic of a local broker:",
        "atkafka firehose jetstream --watched-collections app.bsky.feed.post --jetstream-compression zstd --bootstrap-servers localhost:9092 --output-topic posts",
    ),
    (
        "A server of your own that has only the older version, from the oldest event that it keeps:",
        "atkafka firehose jetstream --jetstream-host ws://localhost:6008 --jetstream-version 1 --cursor oldest",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, Environment, command};

    fn parse(line: &str) -> Result<Jetstream, String> {
        let args: Vec<String> = format!("firehose jetstream {line}").split_whitespace().map(str::to_string).collect();
        match command(&args, &Environment::default()) {
            Ok(Command::Jetstream(jetstream)) => Ok(jetstream),
            Ok(_) => Err("another command".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn the_address_may_be_that_of_the_stream() {
        for url in [
            "wss://a.example",
            "wss://a.example/subscribe",
            "wss://a.example/xrpc/network.bsky.jetstream.subscribeEvents",
        ] {
            let host = parse(&format!("--jetstream-host {url}")).expect("valid").host;
            assert_eq!((host.name.as_str(), host.prefix.as_str()), ("a.example", ""), "{url}");
        }
        let host = parse("--jetstream-host ws://a:1/b/subscribe").expect("valid").host;
        assert_eq!((host.name.as_str(), host.prefix.as_str()), ("a:1/b", "/b"));
    }

    #[test]
    fn what_a_version_does_not_have_is_refused() {
        for (line, says) in [
            ("--jetstream-version 1 --jetstream-compression zstd", "none with --jetstream-version 1"),
            ("--jetstream-version 3", "auto, 1, 2"),
            ("--jetstream-compression gzip", "none, zstd"),
            ("--cursor 7", "--jetstream-version 2"),
            ("--cursor yesterday", "2h ago"),
            ("--cursor 2999-01-01T00:00:00Z", "in the past"),
            ("--jetstream-version 1 --cursor 7", "--jetstream-version 2"),
        ] {
            let error = parse(line).err().unwrap_or_default();
            assert!(error.contains(says), "{line}: {error}");
        }
        assert!(parse("--jetstream-version 2 --cursor 7 --jetstream-compression zstd").is_ok());
        let since = parse("--cursor 2026-01-01T00:00:00Z").expect("valid").reading;
        assert_eq!(since.start, Start::Time(1_767_225_600_000));
        let odd = parse("--watched-collections app.*").expect("valid");
        assert!(!odd.reading.wanted.is_filter() && odd.writing.warnings.iter().any(|w| w.contains("app.*")));
    }
}

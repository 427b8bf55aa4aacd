//! `firehose jetstream`: its flags, and what they mean.

use super::Examples;
use crate::atproto::time;
use crate::config::shared::values::{client, duration, entries, host, list, one_of, silence, start};
use crate::config::shared::{Logging, Writing, logging, writing};
use crate::config::{Checked, Input, invalid};
use crate::source::jetstream::Reading;
use crate::source::jetstream::query::{Wanted, Wire};
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
    }
}

/// Times before this one, in milliseconds since 1970, are none of the network: to a Jetstream they would be a seq.
const LEAST_TIME_MS: i64 = 1_000_000_000_000;
const CURSOR: &str =
    "live, oldest, a time (2h ago, or 2026-11-26T10:00:00Z), or with --jetstream-version 2 a seq below 2^53";

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
    let cursor = f.cursor.as_deref();
    let since_ms = cursor.map(|text| past(text, time::now_ms())).transpose()?.flatten();
    let start = match since_ms {
        Some(_) => Start::At(0),
        None => start(cursor).map_err(|_| invalid("--cursor", cursor.unwrap_or_default(), CURSOR))?,
    };
    if matches!(start, Start::At(1..)) && wire != Some(Wire::Two) {
        let text = f.cursor.as_deref().unwrap_or_default();
        return Err(invalid("--cursor", text, "live, oldest or a time; a seq needs --jetstream-version 2"));
    }
    let mut writing = writing(&w, Some((&enriching, &client)), input)?;
    let dids = entries("--watched-dids", &w.watched_dids, "DID")?;
    let (wanted, kept) = Wanted::new(list(&w.watched_collections), dids);
    writing.warnings.extend(kept);
    Ok(Jetstream {
        host,
        reading: Reading { wire, start, since_ms, wanted, packed, silence: silence(f.silence.as_deref())? },
        logging: logging(w.debug, w.log_level.as_deref(), w.log_format.as_deref())?,
        writing,
    })
}

/// A time in the past, in milliseconds since 1970: `2h ago`, or RFC 3339. `None` when the text has neither form.
fn past(text: &str, now_ms: i64) -> Checked<Option<i64>> {
    let ms = match text.strip_suffix(" ago") {
        Some(long) => duration(long.trim_end())
            .and_then(|long| i64::try_from(long.as_millis()).ok())
            .and_then(|long| now_ms.checked_sub(long)),
        None => time::parse_ms(text),
    };
    match ms {
        Some(ms) if ms > now_ms => Err(invalid("--cursor", text, "a time in the past")),
        Some(ms) if ms < LEAST_TIME_MS => Err(invalid("--cursor", text, "a time after the year 2001")),
        ms => Ok(ms),
    }
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
        assert_eq!((since.start, since.since_ms), (Start::At(0), Some(1_767_225_600_000)));
        let odd = parse("--watched-collections app.*").expect("valid");
        assert!(!odd.reading.wanted.is_filter() && odd.writing.warnings.iter().any(|w| w.contains("app.*")));
    }

    #[test]
    fn a_time_in_the_past_has_two_forms() {
        let now = 1_795_687_200_000; // 2026-11-26T10:00:00Z
        let parsed = |text: &str| past(text, now).map_err(|e| e.to_string());
        assert_eq!(parsed("2h ago"), Ok(Some(now - 7_200_000)));
        assert_eq!(parsed("90 ago"), Ok(Some(now - 90_000)));
        assert_eq!(parsed("2026-11-26T10:00:00Z"), Ok(Some(now)));
        assert_eq!(parsed("2026-11-26T11:30:00.5+02:00"), Ok(Some(now - 1_799_500)));
        for other in ["live", "oldest", "7", "ago", " ago", "2 weeks ago", "2h", "yesterday", "-2h ago"] {
            assert_eq!(parsed(other), Ok(None), "{other}");
        }
        for (text, says) in
            [("2026-11-26T10:00:00.001Z", "in the past"), ("1999-01-01T00:00:00Z", "2001"), ("5000000h ago", "2001")]
        {
            assert!(parsed(text).is_err_and(|e| e.contains(says)), "{text}");
        }
    }
}

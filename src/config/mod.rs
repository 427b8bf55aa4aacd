//! Turns flags, environment and `.env` into one checked value per command. Only `main` reads argv and the environment;
//! every other module receives checked settings. It runs once, on the main thread, before any other thread starts.
//!
//! - `commands`: a file for each command, with its flags and what they mean. A new command is added there.
//! - `shared`: what several commands have in common. A new flag of all of them is declared in `shared::flags`. A flag of
//!   one command is declared in that command's file. Both get a heading in `help::headings`; a test fails without one.
//! - `cursor`: the values of `--cursor`, which several commands have.
//! - `layers`: merges the command line, the environment and `.env` into one list of flags; `meant` suggests the flag or
//!   command that was probably meant by a word that is unknown.
//! - `help`: the texts about the flags: `--help`, `docs/options.md` and the manual page.

// First: its macros are seen only by what stands behind it.
#[macro_use]
mod shared;
mod commands;
mod cursor;
mod dotenv;
pub mod help;
mod layers;
mod meant;

use std::fmt;

use argh::FromArgs;

use commands::TopLevel;
pub use commands::{
    Check, Chosen, Command, Cursor, CursorAction, Jetstream, Ozone, Record, Relay, Replay, SOURCES, Tap, To,
};
use layers::Input;
pub use layers::{Environment, environment};
pub use shared::{CursorTopic, Kept, Logging, Output, Writing};

const DEFAULT_RELAY: &str = "wss://bsky.network";

/// A value that cannot be used: one line that names the flag, the value and what is allowed.
#[derive(Debug)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn invalid(flag: &str, value: &str, allowed: &str) -> Invalid {
    let value =
        if value.is_empty() { String::new() } else { format!("{:?}", shared::values::without_user_info(value)) };
    let between = if flag.is_empty() || value.is_empty() { "" } else { " " };
    Invalid(format!("{flag}{between}{value}: {allowed}"))
}

type Checked<T> = Result<T, Invalid>;

/// From `line` (without the program's name) and the environment.
pub fn command(line: &[String], env: &Environment) -> Checked<Command> {
    let (words, given) = match layers::sort_out(line, &env.all)? {
        layers::Asked::Print(text) => return Ok(Command::Print(text)),
        layers::Asked::Run(words, given) => (words, given),
    };
    let args = layers::arguments(&words, &given);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let typed = TopLevel::from_args(&["atkafka"], &args).map_err(|e| Invalid(e.output.trim().replace('\n', " ")))?;
    let words: Vec<String> = words.into_iter().filter(|word| !word.starts_with("--")).collect();
    typed.checked(&Input { line, words: &words, given: &given, env })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::sink::kafka_options::Codec;
    use shared::values::{self, properties};

    fn parse(line: &str) -> Result<Relay, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        match command(&args, &Environment::default()) {
            Ok(Command::Relay(relay)) => Ok(relay),
            Ok(_) => Err("another command".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn hosts() {
        let host = |url| values::host("--relay-host", url, &Client::new(None)).map(|h| (h.tls, h.port, h.name));
        assert_eq!(host("wss://bsky.network").ok(), Some((true, 443, "bsky.network".into())));
        assert_eq!(host("https://bsky.network:443/").ok(), Some((true, 443, "bsky.network".into())));
        assert_eq!(host("ws://127.0.0.1:2470/a/b/").ok(), Some((false, 2470, "127.0.0.1:2470/a/b".into())));
        for bad in
            ["bsky.network", "ftp://a", "ws://", "", "ws://a:0", "ws://a:x", "ws://u:p@a", "ws://a?cursor=1", "ws://a:"]
        {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contradictions_and_wrong_values_name_flag_value_and_what_is_allowed() {
        let base = "firehose relay --bootstrap-servers b:9092 --output-topic t";
        assert!(parse(base).is_ok());
        for (line, parts) in [
            ("firehose relay --output-topic t", vec!["--output-topic", "--bootstrap-servers"]),
            ("firehose relay --bootstrap-servers b:1", vec!["--output-topic", "required"]),
            ("firehose relay --relay-host bsky.network", vec!["--relay-host", "\"bsky.network\"", "wss://"]),
            (&format!("{base} --watched-services bsky*"), vec!["--watched-services", "bsky*", "*.bsky.network"]),
            (&format!("{base} --ignored-services *"), vec!["--ignored-services", "everything"]),
            (&format!("{base} --unresolved-services drop"), vec!["--unresolved-services", "--watched-services"]),
            (&format!("{base} --metadata-timeout 1s"), vec!["--metadata-timeout", "--plc-host"]),
            (&format!("{base} --plc-host plc.directory"), vec!["--plc-host", "https://plc.directory"]),
            (&format!("{base} --plc-host http://a --metadata-timeout 2h"), vec!["--metadata-timeout", "1m"]),
            (&format!("{base} --plc-host http://a --lookup-rate 0"), vec!["--lookup-rate", "1 to"]),
            (&format!("{base} --watched-collections app.bsky*"), vec!["app.bsky*", "app.bsky.*"]),
            (&format!("{base} --compression zip"), vec!["--compression", "\"zip\"", "none, gzip, snappy, lz4, zstd"]),
            (&format!("{base} --kafka-client kafka --tls"), vec!["--tls", "librdkafka"]),
            (&format!("{base} --cursor newest"), vec!["--cursor", "newest", "live, oldest"]),
            (&format!("{base} --memory-limit 1k"), vec!["--memory-limit", "16MiB"]),
            (&format!("{base} --workers 0"), vec!["--workers", "1 to 256"]),
            (&format!("{base} --sasl-username u"), vec!["--sasl-mechanism"]),
            (&format!("{base} --sasl-oauth-scope u"), vec!["--sasl-oauth-scope", "OAUTHBEARER"]),
            (&format!("{base} --sasl-mechanism OAUTHBEARER"), vec!["--sasl-oauth-token-url", "client-secret-file"]),
            (&format!("{base} --sasl-mechanism oauthbearer --sasl-username u"), vec!["--sasl-oauth-client-id"]),
            (
                &format!("{base} --sasl-mechanism AWS_MSK_IAM"),
                vec!["not supported", "SCRAM-SHA-512", "--tls-cert-file"],
            ),
            (&format!("{base} --metrics-listen-address 9"), vec!["--metrics-listen-address", "0.0.0.0:6009"]),
            ("firehose relay --bootstrap-servers b --output-topic t", vec!["--bootstrap-servers", "write b:9092"]),
            ("firehose relay --bootstrap-servers kafka://b --output-topic t", vec!["no URL", "write b:9092"]),
            ("firehose relay --bootstrap-servers http://b:1/ --output-topic t", vec!["no URL", "write b:1"]),
            (
                "firehose relay --bootstrap-servers SASL_SSL://b:1 --output-topic t",
                vec!["b:1 with --tls and --sasl-mech"],
            ),
            ("firehose relay --bootstrap-servers ssl://b:1 --output-topic t", vec!["write b:1 with --tls"]),
            ("firehose relay --bootstrap-servers u:p@b:1 --output-topic t", vec!["***@b:1", "--sasl-username"]),
            ("firehose relay --bootstrap-servers kafka://u:p@b:1 --output-topic t", vec!["***@b:1", "--sasl-username"]),
            ("firehose relay --bootstrap-servers b:0 --output-topic t", vec!["1 to 65535"]),
            ("firehose relay --bootstrap-servers :9092 --output-topic t", vec!["host:port"]),
            ("firehose relay --bootstrap-servers ::1 --output-topic t", vec!["[::1]:9092"]),
            ("firehose relay --bootstrap-servers b:1 --output-topic a/b", vec!["--output-topic", "\"a/b\""]),
            ("firehose relay --watched-dids @/nowhere", vec!["--watched-dids", "/nowhere"]),
            ("firehose relay --relay-host ws://a --relay-host http://a", vec!["twice"]),
            ("firehose relay --delivery exactly-once", vec!["--delivery", "--bootstrap-servers"]),
            (&format!("{base} --delivery once"), vec!["--delivery", "at-least-once, exactly-once"]),
            (&format!("{base} --delivery exactly-once --cursor-store file"), vec!["--cursor-store", "contradicts"]),
            (&format!("{base} --commit-interval 1s"), vec!["--commit-interval", "exactly-once"]),
            (
                &format!("{base} --delivery exactly-once --commit-interval 11s"),
                vec!["--commit-interval", "10ms to 10s"],
            ),
            (&format!("{base} --cursor-topic c"), vec!["--cursor-topic", "--cursor-store kafka"]),
            (&format!("{base} --cursor-store kafka --cursor-topic t"), vec!["--cursor-topic", "of their own"]),
            (&format!("{base} --delivery exactly-once --kafka-client kafka"), vec!["no transactions", "librdkafka"]),
            (&format!("{base} --cursor-store kafka --kafka-client kafka"), vec!["no transactions", "librdkafka"]),
        ] {
            let error = parse(line).err().unwrap_or_default();
            assert!(!error.contains('\n') && parts.iter().all(|p| error.contains(p)), "{line}: {error}");
        }
    }

    #[test]
    fn defaults_follow_the_output() {
        let lines = parse("firehose relay").expect("valid");
        assert!(lines.writing.state_dir.is_none() && matches!(lines.writing.output, Output::Lines));
        assert_eq!(lines.writing.listen.map(|a| a.port()), Some(6009));
        let codec = |line: &str| match parse(line).expect("valid").writing.output {
            Output::Kafka(kafka) => kafka.codec,
            Output::Lines => panic!("Kafka was asked for"),
        };
        let base = "firehose relay --bootstrap-servers b:9092 --output-topic t";
        assert_eq!(codec(base), Codec::Lz4);
        assert_eq!(codec(&format!("{base} --osprey-compatible")), Codec::None, "stock Osprey cannot read lz4");
        assert_eq!(codec(&format!("{base} --kafka-client kafka")), Codec::None);
    }

    #[test]
    fn a_consumer_that_cannot_read_transactions_is_warned_about() {
        let base = "firehose relay --bootstrap-servers b:9092 --output-topic t --delivery exactly-once";
        let warned = |line: &str| {
            let warnings = parse(line).expect("valid").writing.warnings;
            warnings.iter().any(|warning| warning.contains("kafka-python 1.4.7"))
        };
        assert!(!warned(base) && warned(&format!("{base} --osprey-compatible")));
    }

    #[test]
    fn kafka_properties_keep_commas_inside_values() {
        let given = ["a=1,b=x,y".to_string(), "c=d=e".to_string()];
        let want = [("a", "1"), ("b", "x,y"), ("c", "d=e")].map(|(k, v)| (k.to_string(), v.to_string()));
        assert_eq!(properties(&given).ok(), Some(want.to_vec()));
        assert!(properties(&["novalue".to_string()]).is_err());
    }
}

//! `check`: another command's settings, to be tried and not run. Its words and flags are those of that command.

use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};

use super::{Command, Examples, Firehose, TopLevel, firehose, ozone, record};
use crate::config::Checked;
use crate::config::layers::Input;
use crate::config::shared::{has_no_use, settings};
use crate::http::status::Setting;

/// Tries the settings of a command without running it: hosts, brokers, rights, state directory. It writes nothing.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "check")]
pub struct Flags {
    /// print JSON, one object a line
    #[argh(switch)]
    pub json: bool,
    #[argh(subcommand)]
    pub command: Words,
}

/// The commands that can be checked.
// Parsed once, so that its size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Words {
    Firehose(Firehose),
    Ozone(ozone::Flags),
    Record(record::Flags),
}

/// `check`.
pub struct Check {
    /// What would be run.
    pub command: Command,
    /// Its flags in the order of their declaration: those that are set, and those that have a default.
    pub settings: Vec<Setting>,
    /// One object of JSON a line, in place of text.
    pub json: bool,
}

pub(super) fn checked(f: Flags, input: &Input<'_>) -> Checked<Check> {
    let command = match f.command {
        Words::Firehose(f) => firehose(f, input)?,
        Words::Ozone(f) => ozone::checked(f, input).map(Command::Ozone)?,
        Words::Record(f) => record::checked(f, input).map(Command::Record)?,
    };
    Ok(Check { command, settings: all(input), json: f.json })
}

fn all(input: &Input<'_>) -> Vec<Setting> {
    let top = TopLevel::get_args_info();
    let mut command: &CommandInfoWithArgs = &top;
    for word in input.words {
        command = match command.commands.iter().find(|sub| sub.name == *word) {
            Some(sub) => &sub.command,
            None => return Vec::new(),
        };
    }
    let of = |flag: &'static str, description: &str| {
        let given = input.given.iter().find(|given| given.flag == flag);
        let (value, from) = match given {
            None if has_no_use(flag, input) => return None,
            None => (default(description)?, "default".to_string()),
            Some(given) => (
                shown(flag, input),
                match &given.variable {
                    None => "flag".into(),
                    Some(name) if input.env.from_file.contains(name) => format!("{name} in .env"),
                    Some(name) => name.clone(),
                },
            ),
        };
        Some(Setting { flag: flag.to_string(), value, from })
    };
    command.flags.iter().filter_map(|flag| of(flag.long, flag.description)).collect()
}

/// The values of a flag, several with commas, without secrets.
fn shown(flag: &str, input: &Input<'_>) -> String {
    let of_flag = input.given.iter().filter(|given| given.flag == flag);
    of_flag.map(|given| settings::value(flag, given.value.as_deref())).collect::<Vec<_>>().join(",")
}

/// The default that a description states: what stands behind `(default`, without the brackets.
fn default(description: &str) -> Option<String> {
    let rest = description.rsplit_once("(default")?.1.trim_start_matches(':').trim();
    rest.strip_suffix(')').map(str::to_string)
}

pub(super) const EXAMPLES: Examples = [
    (
        "Before the first start, and after each change of the settings:",
        "atkafka check firehose relay --bootstrap-servers kafka:9092 --output-topic atproto-events",
    ),
    ("With what the environment and .env say, as JSON:", "atkafka check --json firehose tap"),
    ("Whether the account may read an Ozone (the settings are in the environment):", "atkafka check ozone-events"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, command};

    fn settings_of(line: &str) -> Vec<Setting> {
        let args: Vec<String> = line.split(' ').map(str::to_string).collect();
        let mut env = Environment::default();
        env.all.insert("ATKAFKA_OUTPUT_TOPIC".into(), "events".into());
        env.all.insert("ATKAFKA_SASL_PASSWORD".into(), "hunter2".into());
        env.from_file.insert("ATKAFKA_SASL_PASSWORD".into());
        match command(&args, &env) {
            Ok(Command::Check(check)) => check.settings,
            Ok(_) => panic!("{line}: another command"),
            Err(e) => panic!("{line}: {e}"),
        }
    }

    #[test]
    fn settings_say_where_they_come_from_and_hide_secrets() {
        let line = "check firehose relay --bootstrap-servers b:1 --sasl-mechanism PLAIN --sasl-username me \
                    --kafka-config linger.ms=7,ssl.key.password=hunter2,x=hunter2 --relay-host ws://a,ws://b --tls";
        let all = settings_of(&line.split_whitespace().collect::<Vec<_>>().join(" "));
        let of = |flag: &str| {
            all.iter().find(|s| s.flag == flag).map(|s| (s.value.as_str(), s.from.as_str())).unwrap_or_default()
        };
        assert_eq!(of("--bootstrap-servers"), ("b:1", "flag"));
        assert_eq!(of("--output-topic"), ("events", "ATKAFKA_OUTPUT_TOPIC"));
        assert_eq!(of("--sasl-password"), ("***", "ATKAFKA_SASL_PASSWORD in .env"));
        assert_eq!(of("--kafka-config"), ("linger.ms=***,ssl.key.password=***,x=***", "flag"));
        assert_eq!(of("--relay-host"), ("ws://a,ws://b", "flag"));
        assert_eq!(of("--tls"), ("true", "flag"));
        assert_eq!(of("--cursor"), ("live", "default"));
        assert_eq!(of("--topic-partitions"), ("the broker's default", "default"));
        // Nothing is looked up.
        assert_eq!(of("--metadata-timeout"), ("", ""));
        assert!(!format!("{all:?}").contains("hunter2"));
    }

    #[test]
    fn a_check_takes_the_flags_of_its_command_and_its_own_anywhere() {
        let json = |line: &str| {
            let args: Vec<String> = line.split(' ').map(str::to_string).collect();
            match command(&args, &Environment::default()) {
                Ok(Command::Check(check)) => Ok(check.json),
                Ok(_) => Err("another command".into()),
                Err(e) => Err(e.to_string()),
            }
        };
        assert_eq!(json("check firehose tap"), Ok(false));
        for line in ["check --json firehose tap", "--json check firehose tap", "check firehose tap --workers 2 --json"]
        {
            assert_eq!(json(line), Ok(true), "{line}");
        }
        for (line, part) in [
            ("check", "one of these has to follow: firehose, ozone-events, record"),
            ("check man", "no such command"),
            ("firehose tap --json", "--json: not a flag of firehose tap, but of check"),
            ("check firehose tap --relay-host ws://a", "not a flag of check firehose tap, but of firehose relay"),
            ("check firehose relay --workers 0", "--workers \"0\": a number from 1 to 256"),
        ] {
            assert!(json(line).is_err_and(|e: String| e.contains(part)), "{line}: {:?}", json(line));
        }
    }
}

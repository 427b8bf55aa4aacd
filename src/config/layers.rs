//! From the command line, the environment and `.env` to the arguments of one command, whichever place of the line a
//! flag stood at. argh has neither environment nor `--a=b` nor flags before the command: this gives it what it wants.

use std::collections::{HashMap, HashSet};

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::commands::TopLevel;
use super::meant::{unknown_flag, unknown_word};
use super::{Checked, Invalid, dotenv, help, invalid};

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// A command: its words, each with the flags of its own behind it, and the flags of the last word, in the order of
    /// their declaration.
    Run(Vec<String>, Vec<Given>),
    /// A text to print, and then to end well.
    Print(String),
}

/// One value of a flag. A flag that repeats has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub flag: &'static str,
    /// `None`: a switch that is on.
    pub value: Option<String>,
    /// The variable that it comes from; `None`: the command line.
    pub variable: Option<String>,
}

/// Where values come from.
pub(super) struct Input<'a> {
    /// The command line as it was typed, without the program's name.
    pub line: &'a [String],
    /// The command: `firehose`, `relay`.
    pub words: &'a [String],
    /// What the flags of the command are set to, wherever it comes from.
    pub given: &'a [Given],
    pub env: &'a Environment,
}

impl Input<'_> {
    /// Whether a flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.given.iter().any(|given| given.flag == flag)
    }

    /// The values of a flag.
    pub fn values(&self, flag: &str) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |given| given.flag == flag).filter_map(|given| given.value.as_deref())
    }

    /// The first value of a flag.
    pub fn value(&self, flag: &str) -> Option<&str> {
        self.values(flag).next()
    }
}

/// The variables that count: the process's own, and those of `.env` that it does not have.
#[derive(Debug, Default)]
pub struct Environment {
    pub(super) all: HashMap<String, String>,
    /// Names of those that came from `.env`.
    pub(super) from_file: HashSet<String>,
}

/// The variables that count: `.env` in the working directory, and over it the process's own.
pub fn environment(own: impl Iterator<Item = (String, String)>) -> Checked<Environment> {
    let mut all = HashMap::new();
    // Only here: a `.env` of a parent directory is of another program.
    if let Some(text) = dotenv::text_file(".env", ".env", dotenv::SMALL, dotenv::Takes::Files)? {
        all.extend(dotenv::parse(".env", &text)?);
    }
    let mut from_file: HashSet<String> = all.keys().cloned().collect();
    for (name, value) in own {
        from_file.remove(&name);
        all.insert(name, value);
    }
    Ok(Environment { all, from_file })
}

/// The variables of a flag, the one that counts first.
pub fn variables(flag: &str) -> Vec<String> {
    let own = format!("ATKAFKA_{}", flag.trim_start_matches("--").replace('-', "_").to_uppercase());
    match flag {
        "--metrics-listen-address" | "--debug" => vec![own["ATKAFKA_".len()..].to_string(), own],
        // As at-kafka has them.
        "--pds-host" | "--identifier" | "--password" | "--password-file" | "--labeler-did" | "--look-back"
        | "--poll-interval" => vec![own.replacen("ATKAFKA_", "ATKAFKA_OZONE_", 1)],
        "--watched-services" | "--watched-collections" => vec![own.clone(), own.replace("WATCHED", "MATCHED")],
        _ => vec![own],
    }
}

/// Variables of at-kafka's first versions, each with the one that took its place: both are read.
pub const OLD_VARIABLES: [(&str, &str); 2] = [
    ("ATKAFKA_MATCHED_SERVICES", "ATKAFKA_WATCHED_SERVICES"),
    ("ATKAFKA_MATCHED_COLLECTIONS", "ATKAFKA_WATCHED_COLLECTIONS"),
];

/// Ours, and of no flag: the unit's command line, and the image of the compose files.
const NO_FLAGS: [&str; 2] = ["ATKAFKA_COMMAND", "ATKAFKA_IMAGE"];

/// Variables named like ours that no flag of any command has.
pub fn unknown_variables(env: &HashMap<String, String>) -> Vec<String> {
    let top = TopLevel::get_args_info();
    let mut all = Vec::new();
    flags_below(&top, &mut all);
    let known: Vec<String> = all.iter().flat_map(|flag| variables(flag.long)).collect();
    let is_known = |name: &str| NO_FLAGS.contains(&name) || known.iter().any(|k| k == name);
    let mut unknown: Vec<String> = env.keys().filter(|n| n.starts_with("ATKAFKA_") && !is_known(n)).cloned().collect();
    unknown.sort();
    unknown
}

/// Sorts out `args` (without the program's name). `env` looks up a variable; the environment proper goes before `.env`.
pub fn sort_out(args: &[String], env: &HashMap<String, String>) -> Result<Asked, Invalid> {
    let top = TopLevel::get_args_info();
    let mut all = Vec::new();
    flags_below(&top, &mut all);

    let mut words: Vec<&str> = Vec::new();
    let mut typed: Vec<(String, Option<String>)> = Vec::new();
    let (mut help, mut version) = (false, false);
    // The switch just before, which a word may have been meant for.
    let mut switch = None;
    let mut args = args.iter().map(String::as_str).peekable();
    while let Some(arg) = args.next() {
        let before = std::mem::take(&mut switch);
        match arg {
            "--help" | "-h" | "help" => help = true,
            "--version" | "-V" | "-v" | "version" => version = true,
            _ if arg.starts_with('-') && arg.len() > 1 => {
                let (name, mut value) = match arg.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_string())),
                    None => (arg, None),
                };
                let flag = *all.iter().find(|f| f.long == name).ok_or_else(|| unknown_flag(name, &all))?;
                if is_switch(flag) {
                    switch = value.is_none().then_some(name);
                } else if value.is_none() {
                    let next = args.next().ok_or_else(|| invalid(name, "", "a value has to follow"))?;
                    let next_name = next.split_once('=').map_or(next, |(name, _)| name);
                    if all.iter().any(|f| f.long == next_name) {
                        return Err(invalid(name, "", &format!("a value has to follow, and {next_name} is a flag")));
                    }
                    value = Some(next.to_string());
                }
                // A variable may be empty and is unset then; a flag was typed for a reason.
                if value.as_deref().is_some_and(|value| value.trim().is_empty()) {
                    return Err(invalid(name, "", "a value has to follow, and it is empty"));
                }
                typed.push((name.to_string(), value));
            }
            _ => {
                if let (Some(name), Ok(_)) = (before, boolean("", arg)) {
                    return Err(invalid(name, "", &format!("a value of a switch follows a \"=\": {name}={arg}")));
                }
                words.push(arg);
            }
        }
    }
    if version {
        return Ok(Asked::Print(format!("atkafka {}\n", env!("CARGO_PKG_VERSION"))));
    }

    let mut command = &top;
    // Flags of the words before the last one.
    let mut outer: Vec<&FlagInfo<'_>> = Vec::new();
    for word in &words {
        outer.extend(command.flags.iter().filter(|f| f.long != "--help"));
        command = match command.commands.iter().find(|c| c.name == *word) {
            Some(sub) => &sub.command,
            None => return Err(unknown_word(word, &words, command, &top)),
        };
    }
    if help {
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col as usize);
        return Ok(Asked::Print(help::text(&words, command, columns.filter(|columns| *columns > 0))));
    }
    if !command.commands.is_empty() {
        return Err(invalid(
            "command",
            &words.join(" "),
            &format!("one of these has to follow: {} (--help says more)", command_names(command)),
        ));
    }
    for (name, _) in &typed {
        if !command.flags.iter().any(|f| f.long == name) && !outer.iter().any(|f| f.long == name) {
            let mut commands = Vec::new();
            help::runnable(&mut commands, "", &top);
            let has = |c: &CommandInfoWithArgs| c.flags.iter().any(|f| f.long == name);
            let of: Vec<&str> = commands.iter().filter(|(_, c)| has(c)).map(|(words, _)| words.as_str()).collect();
            let message = format!("not a flag of {}, but of {}", words.join(" "), of.join(", "));
            return Err(invalid(name, "", &message));
        }
    }

    let mut out = Vec::new();
    for flag in outer.iter().copied().chain(command.flags.iter().filter(|f| f.long != "--help")) {
        let on_line: Vec<Option<&str>> =
            typed.iter().filter(|(n, _)| n == flag.long).map(|(_, v)| v.as_deref()).collect();
        let from_env = || {
            variables(flag.long).into_iter().find_map(|name| {
                // Compose passes an unset variable on as an empty one.
                env.get(&name).filter(|v| !v.is_empty()).map(|v| (name, v.clone()))
            })
        };
        if is_switch(flag) {
            let (on, variable) = match (on_line.last(), from_env()) {
                (Some(None), _) => (true, None),
                (Some(Some(value)), _) => (boolean(flag.long, value)?, None),
                // Programs of Node.js have a variable of that name for something else, such as DEBUG=*.
                (None, Some((name, value))) if name == "DEBUG" => (boolean(&name, &value).unwrap_or(false), Some(name)),
                (None, Some((name, value))) => (boolean(&name, &value)?, Some(name)),
                (None, None) => (false, None),
            };
            if on {
                out.push(Given { flag: flag.long, value: None, variable });
            }
        } else if !on_line.is_empty() {
            if on_line.len() > 1 && flag.optionality != Optionality::Repeating {
                return Err(invalid(flag.long, "", "given more than once"));
            }
            for value in on_line.into_iter().flatten() {
                out.push(Given { flag: flag.long, value: Some(value.to_string()), variable: None });
            }
        } else if let Some((name, value)) = from_env() {
            out.push(Given { flag: flag.long, value: Some(value), variable: Some(name) });
        }
    }
    // Only the first word of several has flags of its own.
    let (own, out): (Vec<Given>, Vec<Given>) = out.into_iter().partition(|g| outer.iter().any(|f| f.long == g.flag));
    let (first, others) = words.split_at(words.len().min(1));
    let first = arguments(&first.iter().map(|w| w.to_string()).collect::<Vec<_>>(), &own);
    Ok(Asked::Run(first.into_iter().chain(others.iter().map(|w| w.to_string())).collect(), out))
}

/// What argh is given: the words of the command, then its flags.
pub(super) fn arguments(words: &[String], given: &[Given]) -> Vec<String> {
    let flags = given.iter().flat_map(|given| [Some(given.flag.to_string()), given.value.clone()]);
    words.iter().cloned().map(Some).chain(flags).flatten().collect()
}

fn flags_below<'a>(command: &'a CommandInfoWithArgs, out: &mut Vec<&'a FlagInfo<'static>>) {
    out.extend(command.flags);
    for sub in &command.commands {
        flags_below(&sub.command, out);
    }
}

fn is_switch(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Switch)
}

pub(super) fn command_names(command: &CommandInfoWithArgs) -> String {
    command.commands.iter().map(|c| c.name).collect::<Vec<_>>().join(", ")
}

pub fn boolean(name: &str, value: &str) -> Result<bool, Invalid> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(invalid(name, value, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use argh::FromArgs;

    use super::*;
    use crate::config::meant::MEANT;

    fn run(line: &str, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        match sort_out(&args, &env) {
            Ok(Asked::Run(words, given)) => Ok(arguments(&words, &given)),
            Ok(Asked::Print(text)) => Ok(vec![text]),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn flags_stand_anywhere_in_both_forms() {
        let want = run("firehose relay --relay-host ws://a --output-topic t --bootstrap-servers b:1", &[]);
        assert!(want.as_ref().is_ok_and(|w| w.len() == 8), "{want:?}");
        for line in [
            "--relay-host=ws://a firehose --output-topic t relay --bootstrap-servers=b:1",
            "--bootstrap-servers b:1 --output-topic=t firehose relay --relay-host ws://a",
        ] {
            assert_eq!(run(line, &[]), want, "{line}");
        }
    }

    #[test]
    fn a_flag_goes_before_the_environment_and_empty_variables_are_unset() {
        let env = [("ATKAFKA_OUTPUT_TOPIC", "env"), ("ATKAFKA_LOG_LEVEL", ""), ("METRICS_LISTEN_ADDRESS", ":1")];
        assert_eq!(
            run("firehose relay --output-topic line", &env).expect("valid"),
            ["firehose", "relay", "--output-topic", "line", "--metrics-listen-address", ":1"]
        );
        assert!(run("firehose relay", &env).expect("valid").contains(&"env".to_string()));
    }

    #[test]
    fn booleans_as_docker_writes_them() {
        let osprey = |value| run("firehose relay", &[("ATKAFKA_OSPREY_COMPATIBLE", value)]);
        assert_eq!(osprey("false").expect("valid").len(), 2);
        assert_eq!(osprey("TRUE").expect("valid").len(), 3);
        assert_eq!(osprey("maybe"), Err("ATKAFKA_OSPREY_COMPATIBLE \"maybe\": true or false".into()));
        let both = run("firehose relay --osprey-compatible=false", &[("ATKAFKA_OSPREY_COMPATIBLE", "true")]);
        assert_eq!(both.expect("valid").len(), 2, "the flag wins, also when it says no");
    }

    #[test]
    fn mistakes_name_the_flag() {
        assert_eq!(
            run("firehose relay --relay-hots x", &[]),
            Err("--relay-hots: no such flag; did you mean --relay-host?".into())
        );
        assert_eq!(run("firehose relay --relay-host", &[]), Err("--relay-host: a value has to follow".into()));
        assert!(
            run("record --osprey-compatible", &[]).unwrap_err().contains("not a flag of record, but of firehose relay")
        );
        assert!(run("", &[]).unwrap_err().contains("firehose"));
        assert!(run("firehose relay --cursor 1 --cursor 2", &[]).unwrap_err().contains("more than once"));
    }

    #[test]
    fn what_was_probably_meant_is_named() {
        for (line, part) in [
            ("firehose tape", "did you mean tap? Allowed here: relay, tap"),
            ("relay", "did you mean firehose relay?"),
            ("ozone", "did you mean ozone-events?"),
            ("firehose relay more", "\"more\": no word is expected behind firehose relay, only flags"),
            ("firehose relay --topic t", "--topic: no such flag; did you mean --output-topic?"),
            ("firehose relay --brokers b:1", "did you mean --bootstrap-servers?"),
            ("firehose relay --osprey-compatible true", "--osprey-compatible=true"),
            ("firehose relay --relay-host --cursor 5", "--relay-host: a value has to follow, and --cursor is a flag"),
            ("firehose relay --relay-host --cursor=5", "--cursor is a flag"),
        ] {
            assert!(run(line, &[]).is_err_and(|e| e.contains(part)), "{line}: {:?}", run(line, &[]));
        }
        for line in ["version", "-v", "-V", "--version"] {
            assert!(run(line, &[]).is_ok_and(|out| out[0].starts_with("atkafka ")), "{line}");
        }
        for (names, ours) in MEANT {
            let top = TopLevel::get_args_info();
            let mut all = Vec::new();
            flags_below(&top, &mut all);
            assert!(all.iter().any(|f| f.long == *ours), "{ours}");
            assert!(names.iter().all(|name| all.iter().all(|f| f.long != *name)), "{names:?}");
        }
    }

    #[test]
    fn old_and_foreign_variables() {
        let matched = [("ATKAFKA_MATCHED_COLLECTIONS", "a.b.c"), ("DEBUG", "*")];
        assert_eq!(run("firehose relay", &matched).expect("valid")[2..], ["--watched-collections", "a.b.c"]);
        let both = [("ATKAFKA_MATCHED_COLLECTIONS", "a.b.c"), ("ATKAFKA_WATCHED_COLLECTIONS", "a.b.d")];
        assert_eq!(run("firehose relay", &both).expect("valid")[3], "a.b.d");
    }

    #[test]
    fn help_lists_each_flag_with_its_variable() {
        let help = run("firehose relay --help", &[]).expect("help").remove(0);
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let TopLevel { .. } = TopLevel::from_args(&["atkafka"], &["firehose", "relay"]).expect("no flag is required");
        for part in [
            "--relay-host <url|@file>",
            "[ATKAFKA_RELAY_HOST]",
            "[METRICS_LISTEN_ADDRESS]",
            "default wss://bsky.network",
            "[DEBUG]",
        ] {
            assert!(help.contains(part), "{part} in\n{help}");
        }
        assert!(run("--help", &[]).expect("help")[0].contains("firehose relay"));
    }
}

//! From the command line, the environment and `.env` to the arguments of one command, whichever place of the line a
//! flag stood at. argh has neither environment nor `--a=b` nor flags before the command: this gives it what it wants.

use std::collections::HashMap;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::flags::TopLevel;
use super::{Invalid, invalid};

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// Arguments for argh, command words first.
    Run(Vec<String>),
    /// A text to print, and then to end well.
    Print(String),
}

/// The variables of a flag, the one that counts first.
pub fn variables(flag: &str) -> Vec<String> {
    let own = format!("ATKAFKA_{}", flag.trim_start_matches("--").replace('-', "_").to_uppercase());
    match flag {
        "--metrics-listen-address" | "--debug" => vec![own["ATKAFKA_".len()..].to_string(), own],
        // As at-kafka has them.
        "--pds-host" | "--identifier" | "--password" | "--password-file" | "--labeler-did" | "--look-back"
        | "--poll-interval" => vec![own.replacen("ATKAFKA_", "ATKAFKA_OZONE_", 1)],
        _ => vec![own],
    }
}

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
    let mut given: Vec<(String, Option<String>)> = Vec::new();
    let (mut help, mut version) = (false, false);
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--help" | "-h" | "help" => help = true,
            "--version" | "-V" => version = true,
            _ if arg.starts_with('-') => {
                let (name, mut value) = match arg.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_string())),
                    None => (arg, None),
                };
                let flag = *all.iter().find(|f| f.long == name).ok_or_else(|| unknown(name, &all))?;
                if value.is_none() && !is_switch(flag) {
                    value = Some(
                        args.next().map(str::to_string).ok_or_else(|| invalid(name, "", "a value has to follow"))?,
                    );
                }
                given.push((name.to_string(), value));
            }
            _ => words.push(arg),
        }
    }
    if version {
        return Ok(Asked::Print(format!("atkafka {}\n", env!("CARGO_PKG_VERSION"))));
    }

    let mut command = &top;
    for word in &words {
        command = match command.commands.iter().find(|c| c.name == *word) {
            Some(sub) => &sub.command,
            None => return Err(invalid("command", word, &format!("allowed here: {}", command_names(command)))),
        };
    }
    if help {
        return Ok(Asked::Print(help_text(&words, command)));
    }
    if !command.commands.is_empty() {
        return Err(invalid(
            "command",
            &words.join(" "),
            &format!("one of these has to follow: {} (--help says more)", command_names(command)),
        ));
    }
    for (name, _) in &given {
        if !command.flags.iter().any(|f| f.long == name) {
            return Err(invalid(name, "", &format!("not a flag of {}", words.join(" "))));
        }
    }

    let mut out: Vec<String> = words.iter().map(|w| w.to_string()).collect();
    for flag in command.flags.iter().filter(|f| f.long != "--help") {
        let on_line: Vec<Option<&str>> =
            given.iter().filter(|(n, _)| n == flag.long).map(|(_, v)| v.as_deref()).collect();
        let from_env = || {
            variables(flag.long).into_iter().find_map(|name| {
                // Compose passes an unset variable on as an empty one.
                env.get(&name).filter(|v| !v.is_empty()).map(|v| (name, v.clone()))
            })
        };
        if is_switch(flag) {
            let on = match (on_line.last(), from_env()) {
                (Some(None), _) => true,
                (Some(Some(value)), _) => boolean(flag.long, value)?,
                (None, Some((name, value))) => boolean(&name, &value)?,
                (None, None) => false,
            };
            if on {
                out.push(flag.long.to_string());
            }
        } else if !on_line.is_empty() {
            if on_line.len() > 1 && flag.optionality != Optionality::Repeating {
                return Err(invalid(flag.long, "", "given more than once"));
            }
            for value in on_line.into_iter().flatten() {
                out.extend([flag.long.to_string(), value.to_string()]);
            }
        } else if let Some((_, value)) = from_env() {
            out.extend([flag.long.to_string(), value]);
        }
    }
    Ok(Asked::Run(out))
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

fn command_names(command: &CommandInfoWithArgs) -> String {
    command.commands.iter().map(|c| c.name).collect::<Vec<_>>().join(", ")
}

fn boolean(name: &str, value: &str) -> Result<bool, Invalid> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(invalid(name, value, "true or false")),
    }
}

/// Names the flag that was probably meant.
fn unknown(name: &str, all: &[&FlagInfo<'_>]) -> Invalid {
    let close =
        all.iter().map(|f| f.long).min_by_key(|long| distance(long, name)).filter(|long| distance(long, name) <= 3);
    match close {
        Some(close) => invalid(name, "", &format!("no such flag; did you mean {close}?")),
        None => invalid(name, "", "no such flag; --help lists them"),
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = (corner + usize::from(x != *y)).min(up + 1).min(row[j] + 1);
            corner = up;
        }
    }
    row[b.len()]
}

/// Columns of a help text.
const WIDTH: usize = 110;
const INDENT: usize = 34;

fn help_text(words: &[&str], command: &CommandInfoWithArgs) -> String {
    let mut out = format!("{}\n\n", command.description.trim());
    let name = ["atkafka"].iter().chain(words).copied().collect::<Vec<_>>().join(" ");
    if command.commands.is_empty() {
        let flags: Vec<_> = command.flags.iter().filter(|f| f.long != "--help").collect();
        if flags.is_empty() {
            out += &format!("Usage: {name}\n\n");
        } else {
            out += &format!(
                "Usage: {name} [flags]\n\nFlags, at any place of the line, as --flag value or --flag=value; lists repeated or with commas.\n"
            );
            out += "In brackets the variable that does the same; a flag goes before it, and it before a line of ./.env.\n\n";
        }
        for flag in flags {
            let left = match flag.kind {
                FlagInfoKind::Switch => flag.long.to_string(),
                FlagInfoKind::Option { arg_name } => format!("{} <{arg_name}>", flag.long),
            };
            entry(&mut out, &left, &format!("{} [{}]", flag.description.trim(), variables(flag.long)[0]));
        }
        entry(&mut out, "--help", "print this");
        entry(&mut out, "--version", "print the version");
    } else {
        out += &format!("Usage: {name} <command> [flags]\n\nCommands (each has --help):\n\n");
        commands_below(&mut out, words, command);
    }
    out
}

fn commands_below(out: &mut String, words: &[&str], command: &CommandInfoWithArgs) {
    for sub in &command.commands {
        let words: Vec<&str> = words.iter().copied().chain([sub.name]).collect();
        if sub.command.commands.is_empty() {
            entry(out, &words.join(" "), sub.command.description.trim());
        } else {
            commands_below(out, &words, &sub.command);
        }
    }
}

/// A line of two columns, the right one wrapped.
fn entry(out: &mut String, left: &str, right: &str) {
    let mut line = format!("  {left:<width$}", width = INDENT - 2);
    if line.len() > INDENT {
        line += &format!("\n{:INDENT$}", "");
    }
    let mut used = INDENT;
    for word in right.split_whitespace() {
        if used > INDENT && used + word.len() > WIDTH {
            line.truncate(line.trim_end().len());
            line += &format!("\n{:INDENT$}", "");
            used = INDENT;
        }
        line += word;
        line.push(' ');
        used += word.len() + 1;
    }
    *out += line.trim_end();
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        match sort_out(&args, &env) {
            Ok(Asked::Run(args)) => Ok(args),
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
        assert!(run("firehose tape", &[]).unwrap_err().contains("allowed here: relay, tap"));
        assert!(run("record --osprey-compatible", &[]).unwrap_err().contains("not a flag of record"));
        assert!(run("", &[]).unwrap_err().contains("firehose"));
        assert!(run("firehose relay --cursor 1 --cursor 2", &[]).unwrap_err().contains("more than once"));
    }

    #[test]
    fn help_lists_each_flag_with_its_variable() {
        let help = run("firehose relay --help", &[]).expect("help").remove(0);
        let TopLevel { .. } = TopLevel::from_args(&["atkafka"], &["firehose", "relay"]).expect("no flag is required");
        for part in [
            "--relay-host <url>",
            "[ATKAFKA_RELAY_HOST]",
            "[METRICS_LISTEN_ADDRESS]",
            "default wss://bsky.network",
            "[DEBUG]",
        ] {
            assert!(help.contains(part), "{part} in\n{help}");
        }
        assert!(run("--help", &[]).expect("help")[0].contains("firehose relay"));
        assert!(help.lines().all(|l| l.len() <= WIDTH + 30), "lines are wrapped");
    }

    use argh::FromArgs;
}

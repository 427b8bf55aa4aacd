//! What is said of the commands and flags: `--help`, and `docs/options.md`. Both come from the declarations in `flags`,
//! put under the headings of this file; the manual page takes its examples from here.

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::flags::TopLevel;
use super::layers::variables;

/// The headings, in the order of the help, each with its flags. A test holds that every flag stands here once.
const HEADINGS: &[(&str, &[&str])] = &[
    (
        "Source",
        &[
            "--relay-host",
            "--cursor",
            "--silence",
            "--tap-host",
            "--tap-connections",
            "--tap-workers",
            "--disable-acks",
            "--tap-password",
            "--tap-password-file",
            "--pds-host",
            "--identifier",
            "--password",
            "--password-file",
            "--labeler-did",
            "--ozone-since",
            "--look-back",
            "--poll-interval",
            "--file",
            "--rate",
            "--from-seq",
            "--to-seq",
            "--frames",
            "--contact",
            "--ca-file",
        ],
    ),
    (
        "Output",
        &[
            "--bootstrap-servers",
            "--output-topic",
            "--dead-letter-topic",
            "--osprey-compatible",
            "--snowflake-worker-id",
            "--snowflake-data-center-id",
            "--record-headers",
            "--output",
            "--append",
            "--force",
        ],
    ),
    (
        "Filters",
        &[
            "--watched-collections",
            "--ignored-collections",
            "--watched-dids",
            "--ignored-dids",
            "--watched-services",
            "--ignored-services",
            "--unresolved-services",
        ],
    ),
    (
        "Account metadata",
        &[
            "--plc-host",
            "--api-host",
            "--metadata-timeout",
            "--metadata-required",
            "--metadata-cache",
            "--metadata-ttl",
            "--metadata-snapshot",
            "--lookup-concurrency",
            "--lookup-rate",
            "--allow-private-did-web",
        ],
    ),
    (
        "Kafka",
        &[
            "--kafka-client",
            "--compression",
            "--kafka-config",
            "--topic-partitions",
            "--topic-replication",
            "--no-create-topic",
        ],
    ),
    (
        "Security of the connection to Kafka",
        &[
            "--tls",
            "--tls-ca-file",
            "--tls-cert-file",
            "--tls-key-file",
            "--sasl-mechanism",
            "--sasl-username",
            "--sasl-password",
            "--sasl-password-file",
            "--sasl-oauth-token-url",
            "--sasl-oauth-client-id",
            "--sasl-oauth-client-secret",
            "--sasl-oauth-client-secret-file",
            "--sasl-oauth-scope",
        ],
    ),
    ("State and limits", &["--state-dir", "--memory-limit", "--workers", "--no-verify"]),
    ("Logs and metrics", &["--metrics-listen-address", "--ready", "--log-level", "--log-format", "--debug"]),
];

/// Three command lines of each command that has flags: what for, and the line.
type Examples = [(&'static str, &'static str); 3];
const EXAMPLES: &[(&str, Examples)] = &[
    (
        "firehose relay",
        [
            ("The public firehose on standard output, one event a line:", "atkafka firehose relay"),
            (
                "Into a topic of a local broker:",
                "atkafka firehose relay --bootstrap-servers localhost:9092 --output-topic atproto-events",
            ),
            (
                "Only posts and likes, from the oldest event that the relay still has:",
                "atkafka firehose relay --cursor oldest --watched-collections app.bsky.feed.post,app.bsky.feed.like",
            ),
        ],
    ),
    (
        "firehose tap",
        [
            ("What a Tap on this machine gives, on standard output:", "atkafka firehose tap"),
            (
                "Into a topic:",
                "atkafka firehose tap --tap-host ws://tap:2480 --bootstrap-servers kafka:9092 --output-topic tap-events",
            ),
            (
                "Eight connections that share the queue of one Tap:",
                "atkafka firehose tap --tap-connections 8 --bootstrap-servers kafka:9092 --output-topic tap-events",
            ),
        ],
    ),
    (
        "firehose replay",
        [
            ("A recording on standard output:", "atkafka firehose replay --file frames.bin.zst"),
            (
                "Two recordings, one behind the other, into a topic:",
                "atkafka firehose replay --file a.bin.zst --file b.bin.zst --bootstrap-servers kafka:9092 --output-topic past",
            ),
            (
                "A part of one at 500 frames a second, as on an ordinary day:",
                "atkafka firehose replay --file frames.bin --rate 500 --from-seq 1000 --to-seq 9000",
            ),
        ],
    ),
    (
        "ozone-events",
        [
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
        ],
    ),
    (
        "record",
        [
            ("Ten thousand frames of the public firehose:", "atkafka record --output frames.bin.zst"),
            ("A million more, behind those:", "atkafka record --output frames.bin.zst --append --frames 1000000"),
            (
                "Of a relay of one's own, from the oldest frame that it has:",
                "atkafka record --relay-host ws://localhost:2470 --cursor oldest --output frames.bin",
            ),
        ],
    ),
    (
        "healthcheck",
        [
            ("Whether the process lives:", "atkafka healthcheck"),
            ("Whether it is connected and delivers:", "atkafka healthcheck --ready"),
            ("On another port:", "atkafka healthcheck --metrics-listen-address 127.0.0.1:6010"),
        ],
    ),
];

/// Examples of the command that these words name; none for those that only print a text.
pub(super) fn examples(words: &str) -> &'static [(&'static str, &'static str)] {
    EXAMPLES.iter().find(|(name, _)| *name == words).map_or(&[], |(_, examples)| examples)
}

/// Flags of a command under their headings.
fn under_headings<'a>(
    flags: &'a [&'a FlagInfo<'static>],
) -> impl Iterator<Item = (&'static str, Vec<&'a FlagInfo<'static>>)> {
    HEADINGS.iter().filter_map(move |(heading, names)| {
        let under: Vec<_> = names.iter().filter_map(|n| flags.iter().find(|f| f.long == *n).copied()).collect();
        (!under.is_empty()).then_some((*heading, under))
    })
}

/// The flag with the name of its value.
fn with_value(flag: &FlagInfo<'_>) -> String {
    match flag.kind {
        FlagInfoKind::Switch => flag.long.to_string(),
        FlagInfoKind::Option { arg_name } => format!("{} <{arg_name}>", flag.long),
    }
}

fn flags_of(command: &CommandInfoWithArgs) -> Vec<&FlagInfo<'static>> {
    command.flags.iter().filter(|f| f.long != "--help").collect()
}

/// Every command that can be run, with its words.
pub(super) fn runnable<'a>(
    out: &mut Vec<(String, &'a CommandInfoWithArgs)>,
    words: &str,
    command: &'a CommandInfoWithArgs,
) {
    if command.commands.is_empty() {
        out.push((words.to_string(), command));
    }
    for sub in &command.commands {
        runnable(out, format!("{words} {}", sub.name).trim_start(), &sub.command);
    }
}

// --- --help ------------------------------------------------------------------------------------

/// Columns of a help text that does not go to a terminal.
const WIDTH: usize = 100;
/// Columns of the flags; what they mean stands beside them.
const INDENT: usize = 34;

/// The help of a command, for a terminal with so many columns.
pub(super) fn text(words: &[&str], command: &CommandInfoWithArgs, columns: Option<usize>) -> String {
    let width = columns.unwrap_or(WIDTH).clamp(60, 120);
    let mut out = String::new();
    paragraph(&mut out, command.description.trim(), 0, width);
    out.push('\n');
    let name = ["atkafka"].iter().chain(words).copied().collect::<Vec<_>>().join(" ");
    if !command.commands.is_empty() {
        out += &format!("Usage: {name} <command> [flags]\n\nCommands (each has --help):\n\n");
        let mut commands = Vec::new();
        runnable(&mut commands, &words.join(" "), command);
        for (words, command) in commands {
            entry(&mut out, &words, command.description.trim(), width);
        }
        return out;
    }
    let flags = flags_of(command);
    if flags.is_empty() {
        out += &format!("Usage: {name}\n");
    } else {
        out += &format!("Usage: {name} [flags]\n\n");
        paragraph(
            &mut out,
            "Flags stand at any place of the line, as --flag value or --flag=value; lists are repeated or have commas. In \
             brackets is the variable that does the same; a flag goes before it, and it before a line of ./.env.",
            0,
            width,
        );
    }
    for (heading, flags) in under_headings(&flags) {
        out += &format!("\n{heading}:\n");
        for flag in flags {
            let right = format!("{} [{}]", flag.description.trim(), variables(flag.long)[0]);
            entry(&mut out, &with_value(flag), &right, width);
        }
    }
    out += "\nEvery command:\n";
    entry(&mut out, "--help", "print this", width);
    entry(&mut out, "--version", "print the version", width);
    let examples = examples(&words.join(" "));
    if !examples.is_empty() {
        out += "\nExamples:\n";
    }
    for (what, line) in examples {
        paragraph(&mut out, what, 2, width);
        // Not wrapped: it is to be copied.
        out += &format!("    {line}\n");
    }
    out
}

/// A line of two columns, the right one wrapped; in a narrow terminal the right one stands below.
fn entry(out: &mut String, left: &str, right: &str, width: usize) {
    let indent = if width < 80 { 6 } else { INDENT };
    *out += &format!("  {left}");
    match indent.checked_sub(left.len() + 3) {
        Some(gap) => *out += &" ".repeat(gap + 1),
        None => *out += &format!("\n{:indent$}", ""),
    }
    let mut text = String::new();
    paragraph(&mut text, right, indent, width);
    *out += text.trim_start();
}

/// Wrapped at the blanks, each line so far from the left.
fn paragraph(out: &mut String, text: &str, indent: usize, width: usize) {
    let mut used = 0;
    for word in text.split_whitespace() {
        if used > 0 && used + 1 + word.len() <= width {
            out.push(' ');
            used += 1 + word.len();
        } else {
            *out += &format!("{}{:indent$}", if used > 0 { "\n" } else { "" }, "");
            used = indent + word.len();
        }
        *out += word;
    }
    out.push('\n');
}

// --- docs/options.md ---------------------------------------------------------------------------

const INTRODUCTION: &str = "\
# Options

<!-- Written by `make options` from src/config/flags.rs and src/config/help.rs; a test compares it. -->

Flags stand anywhere on the line, as `--flag value` or `--flag=value`. Each has a variable, named in the second column.
A flag goes before the environment, and the environment before a line of `./.env`. An empty variable counts as unset;
a variable that begins with `ATKAFKA_` and belongs to no flag is named in the log. Lists are repeated or have commas
(only `--file` repeats, since a comma may be part of a name). Switches have no value, or `=true` and `=false`; their
variables take `true`, `false`, `1`, `0`, `yes`, `no`, `on` and `off`.

`.env` is read from the working directory only. Its lines are `NAME=value`; `export`, single and double quotes, and
comments that begin with `#` are understood, and a `$` stands for itself.

Sizes are bytes, or have a unit: `64MiB`, `1GB`; only `--metadata-cache` without a unit counts accounts. Times are
seconds, or have a unit: `500ms`, `30s`, `2m`, `1h`.
";

const CLOSING: &str = "
`atkafka COMMAND --help` has them too. `completions bash|zsh|fish` and `man` print what `make install` puts in its
place.
";

/// `docs/options.md`: every flag under its heading, with its variable, the commands that have it, and what it does.
pub fn markdown() -> String {
    let top = TopLevel::get_args_info();
    let mut commands = Vec::new();
    runnable(&mut commands, "", &top);
    let mut out = INTRODUCTION.to_string();
    let all: Vec<&FlagInfo<'static>> = commands.iter().flat_map(|(_, c)| flags_of(c)).collect();
    for (heading, flags) in under_headings(&all) {
        out += &format!("\n## {heading}\n\n| flag | variable | commands | |\n|---|---|---|---|\n");
        for flag in flags {
            let of: Vec<&str> = commands
                .iter()
                .filter(|(_, command)| command.flags.iter().any(|f| f.long == flag.long))
                .map(|(words, _)| words.strip_prefix("firehose ").unwrap_or(words))
                .collect();
            let text = flag.description.trim().replace('|', "\\|");
            let flag_text = with_value(flag).replace('|', "\\|");
            out += &format!("| `{flag_text}` | `{}` | {} | {text} |\n", variables(flag.long)[0], of.join(", "));
        }
    }
    out += "\n## Examples\n";
    for (words, examples) in EXAMPLES {
        out += &format!("\n`{words}`:\n\n");
        for (what, line) in examples {
            out += &format!("- {what} `{line}`\n");
        }
    }
    out + CLOSING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_one_heading_and_every_heading_only_flags() {
        let top = TopLevel::get_args_info();
        let mut commands = Vec::new();
        runnable(&mut commands, "", &top);
        let listed: Vec<&str> = HEADINGS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for name in &listed {
            assert_eq!(listed.iter().filter(|n| n == &name).count(), 1, "{name} stands twice");
            assert!(commands.iter().any(|(_, c)| c.flags.iter().any(|f| f.long == *name)), "{name} is no flag");
        }
        for (words, command) in &commands {
            for flag in flags_of(command) {
                assert!(listed.contains(&flag.long), "{words} {}: under no heading", flag.long);
            }
            assert_eq!(examples(words).is_empty(), flags_of(command).is_empty(), "{words}: examples");
        }
    }

    #[test]
    fn help_keeps_to_the_width() {
        let top = TopLevel::get_args_info();
        let mut commands = Vec::new();
        runnable(&mut commands, "", &top);
        for columns in [20, 60, 79, 80, 100, 200] {
            for (words, command) in &commands {
                let words: Vec<&str> = words.split(' ').collect();
                let text = text(&words, command, Some(columns));
                let examples = text.find("\nExamples:").unwrap_or(text.len());
                let width = columns.clamp(60, 120);
                for line in text[..examples].lines() {
                    assert!(line.len() <= width && line.trim_end() == line, "{columns} {words:?}: {line:?}");
                }
            }
        }
    }
}

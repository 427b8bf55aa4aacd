//! What is said of the commands and flags: `--help` here, `docs/options.md` and the manual page in files of their own. All
//! comes from the declarations of the flags, put under the headings of `headings`, and from the examples of the commands.

mod headings;
pub(super) mod man;
mod markdown;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::commands::EXAMPLES;
use super::layers::variables;
use headings::HEADINGS;
pub use markdown::markdown;

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

/// Every command that can be run, with its words. One that is followed by another command and has flags of its own (`check`)
/// stands for itself: its flags are those of the other.
pub(super) fn runnable<'a>(
    out: &mut Vec<(String, &'a CommandInfoWithArgs)>,
    words: &str,
    command: &'a CommandInfoWithArgs,
) {
    if command.commands.is_empty() || !flags_of(command).is_empty() {
        out.push((words.to_string(), command));
        return;
    }
    for sub in &command.commands {
        runnable(out, format!("{words} {}", sub.name).trim_start(), &sub.command);
    }
}

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
    let flags = flags_of(command);
    if !command.commands.is_empty() {
        out += &format!("Usage: {name} <command> [flags]\n\nCommands (each has --help):\n\n");
        let mut commands = Vec::new();
        for sub in &command.commands {
            runnable(&mut commands, format!("{} {}", words.join(" "), sub.name).trim_start(), &sub.command);
        }
        for (words, command) in commands {
            entry(&mut out, &words, command.description.trim(), width);
        }
        if flags.is_empty() {
            return out;
        }
    } else if flags.is_empty() {
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
pub(crate) fn paragraph(out: &mut String, text: &str, indent: usize, width: usize) {
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

#[cfg(test)]
mod tests {
    use argh::ArgsInfo;

    use super::*;
    use crate::config::commands::TopLevel;

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

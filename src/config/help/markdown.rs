//! `docs/options.md`: every flag under its heading, and the examples of the commands.

use argh::{ArgsInfo, FlagInfo};

use super::{flags_of, runnable, under_headings, with_value};
use crate::config::commands::{EXAMPLES, TopLevel};
use crate::config::layers::variables;

const INTRODUCTION: &str = "\
# Options

<!-- Written by `make options` from the flags in src/config; a test compares it. -->

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
place. `schema event|osprey|ozone` prints the [JSON Schema](events.md#schemas) of what is written.
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
            out += &format!("- {what}\n  `{line}`\n");
        }
    }
    out + CLOSING
}

//! The manual page, in roff: the commands and flags from their table, and what is said of all of them.

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::{examples, runnable};
use crate::config::commands::TopLevel;
use crate::config::layers::variables;

const DESCRIPTION: &str = "\
Takes AT Protocol events and writes each to a Kafka topic, or without brokers to standard output, one a line. The position is
saved only behind what the broker has acknowledged, so that nothing is lost over restarts, dropped connections and outages.

SIGTERM and SIGINT end it in order: what is in flight is delivered, the position saved. A second one ends it at once.";

const COMMANDS: &str = "\
Flags stand at any place of the line, as \\-\\-flag value or \\-\\-flag=value. Lists are repeated or have commas.";

const ENVIRONMENT: &str = "\
Each flag has the variable in brackets. A flag goes before the environment, and that before a line of \\fI.env\\fR in the working
directory. An empty variable counts as unset.";

const FILES: &[(&str, &str)] = &[
    (
        "./atkafka-state",
        "Positions, one JSON file for each host and topic, unless \\-\\-state\\-dir or $STATE_DIRECTORY is given.",
    ),
    ("/etc/atkafka/INSTANCE.env", "Settings of the systemd unit atkafka@INSTANCE."),
    ("/var/lib/atkafka/INSTANCE", "Positions of that unit."),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Stopped as asked, or the reader of its output closed the pipe."),
    (
        "1",
        "Failed; the last line of the log says why. For check: a line says that something failed. Also fenced: another instance, or atkafka cursor, has taken over the position.",
    ),
    ("2", "Wrong usage; one line names the flag, the value and what is allowed."),
    ("130", "Ended by a second signal."),
];

const SERVICE: (&str, &str) =
    ("As a service, once /etc/atkafka/relay.env is filled in:", "systemctl enable --now atkafka@relay");

/// The whole page. It has no date: the same version gives the same page.
pub fn page() -> String {
    let top = TopLevel::get_args_info();
    let mut commands = Vec::new();
    runnable(&mut commands, "", &top);
    // A flag of several commands is described once.
    let shared = |flag: &&FlagInfo<'_>| commands.iter().filter(|(_, c)| has(c, flag)).count() > 1;

    let mut out = format!(".TH ATKAFKA 1 \"\" \"atkafka {}\" \"User Commands\"\n.nh\n", env!("CARGO_PKG_VERSION"));
    out += &format!(".SH NAME\natkafka \\- {}\n", text(top.description.trim().trim_end_matches('.')));
    let synopsis = commands.iter().map(|(name, command)| {
        let other = if command.commands.is_empty() { "" } else { " \\fIcommand\\fR" };
        let flags = if flags(command).next().is_some() { format!("{other} [\\fIflags\\fR]") } else { String::new() };
        format!("\\fBatkafka {}\\fR{flags}\n", text(name))
    });
    out += &format!(".SH SYNOPSIS\n{}", synopsis.collect::<Vec<_>>().join(".br\n"));
    out += &format!(".SH DESCRIPTION\n{}\n", DESCRIPTION.replace("\n\n", "\n.PP\n"));
    out += &format!(".SH COMMANDS\n{COMMANDS}\n");
    for (name, command) in &commands {
        out += &format!(".SS atkafka {}\n{}\n", text(name), text(command.description.trim()));
        let (others, own): (Vec<_>, Vec<_>) = flags(command).partition(shared);
        own.into_iter().for_each(|flag| entry(&mut out, flag));
        if !others.is_empty() {
            out += &format!(".PP\nAnd {} of the common flags below; \\-\\-help lists them.\n", others.len());
        }
    }
    out += ".SS Flags of several commands\n";
    let mut described = Vec::new();
    for flag in commands.iter().flat_map(|(_, command)| flags(command)).filter(shared) {
        if !described.contains(&flag.long) {
            described.push(flag.long);
            entry(&mut out, flag);
        }
    }
    out += ".SS Every command\n.TP\n.B \\-\\-help\nPrint the flags.\n.TP\n.B \\-\\-version\nPrint the version.\n";
    out += &format!(".SH ENVIRONMENT\n{ENVIRONMENT}\n");
    list(&mut out, "FILES", FILES);
    list(&mut out, "EXIT STATUS", EXIT_STATUS);
    out += ".SH EXAMPLES\n";
    let examples = commands.iter().flat_map(|(name, _)| examples(name));
    for (what, line) in examples.chain(&[SERVICE]) {
        out += &format!("{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n.PP\n", text(what), text(line));
    }
    out + ".SH SEE ALSO\n.BR systemd.service (5),\n.BR systemd.exec (5)\n"
}

fn flags(command: &CommandInfoWithArgs) -> impl Iterator<Item = &FlagInfo<'static>> {
    command.flags.iter().filter(|f| f.long != "--help")
}

fn has(command: &CommandInfoWithArgs, flag: &FlagInfo<'_>) -> bool {
    command.flags.iter().any(|f| f.long == flag.long && f.description == flag.description)
}

fn entry(out: &mut String, flag: &FlagInfo<'_>) {
    let value = match flag.kind {
        FlagInfoKind::Switch => String::new(),
        FlagInfoKind::Option { arg_name } => format!(" \\fI{}\\fR", text(arg_name)),
    };
    let variable = text(&variables(flag.long)[0]);
    *out += &format!(".TP\n\\fB{}\\fR{value}\n{} [{variable}]\n", text(flag.long), text(flag.description.trim()));
}

fn list(out: &mut String, title: &str, entries: &[(&str, &str)]) {
    *out += &format!(".SH {title}\n");
    for (name, what) in entries {
        *out += &format!(".TP\n.B {name}\n{what}\n");
    }
}

/// What roff would take for its own is marked as plain: backslashes, hyphens, and a dot or quote that begins a line.
fn text(plain: &str) -> String {
    let marked = plain.replace('\\', "\\e").replace('-', "\\-");
    if marked.starts_with(['.', '\'']) { format!("\\&{marked}") } else { marked }
}

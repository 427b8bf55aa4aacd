//! For a flag or a command that does not exist: the one that was probably meant.

use argh::{CommandInfoWithArgs, FlagInfo};

use super::layers::command_names;
use super::{Invalid, help, invalid};

/// Names that other programs have for flags and commands of ours.
pub(super) const MEANT: &[(&[&str], &str)] = &[
    (&["--brokers", "--broker", "--bootstrap-server", "--kafka", "--servers", "-b"], "--bootstrap-servers"),
    (&["--topic", "-t"], "--output-topic"),
    (&["--dlq", "--dlq-topic", "--dead-letter"], "--dead-letter-topic"),
    (&["--host", "--url", "--relay", "--relay-url", "--upstream"], "--relay-host"),
    (&["--tap", "--tap-url"], "--tap-host"),
    (&["--pds", "--pds-url"], "--pds-host"),
    (&["--plc", "--plc-url", "--plc-directory"], "--plc-host"),
    (&["--appview", "--appview-host", "--api"], "--api-host"),
    (&["--collections", "--collection", "--matched-collections", "--wanted-collections"], "--watched-collections"),
    (&["--dids", "--did", "--wanted-dids"], "--watched-dids"),
    (&["--services", "--matched-services"], "--watched-services"),
    (&["--user", "--username"], "--sasl-username"),
    (&["--partitions"], "--topic-partitions"),
    (&["--replication", "--replication-factor"], "--topic-replication"),
    (&["--metrics", "--metrics-port", "--metrics-address", "--listen", "--port"], "--metrics-listen-address"),
    (&["--osprey"], "--osprey-compatible"),
    (&["--verbose", "-vv", "-d"], "--debug"),
    (&["--memory", "--max-memory"], "--memory-limit"),
    (&["--threads"], "--workers"),
    (&["--since", "--seq", "--from"], "--cursor"),
    (&["--state", "--data-dir", "--cursor-file"], "--state-dir"),
    (&["--codec", "--compression-type"], "--compression"),
    (&["-X", "--producer-property", "--config"], "--kafka-config"),
];

/// Names the flag that was probably meant, by its meaning or its letters.
pub(super) fn unknown_flag(name: &str, all: &[&FlagInfo<'_>]) -> Invalid {
    let meant = MEANT.iter().find(|(others, _)| others.contains(&name)).map(|(_, ours)| *ours);
    let close =
        || all.iter().map(|f| f.long).min_by_key(|long| distance(long, name)).filter(|l| distance(l, name) <= 3);
    match meant.or_else(close) {
        Some(flag) => invalid(name, "", &format!("no such flag; did you mean {flag}?")),
        None => invalid(name, "", "no such flag; --help lists them"),
    }
}

/// A word that stands where none is expected, or that is no command here.
pub(super) fn unknown_word(
    word: &str,
    words: &[&str],
    command: &CommandInfoWithArgs,
    top: &CommandInfoWithArgs,
) -> Invalid {
    if command.commands.is_empty() {
        let before: Vec<&str> = words.iter().copied().take_while(|w| w != &word).collect();
        return invalid("", word, &format!("no word is expected behind {}, only flags", before.join(" ")));
    }
    let mut commands = Vec::new();
    help::runnable(&mut commands, "", top);
    // `atkafka relay` for `atkafka firehose relay`.
    let whole = commands.iter().find(|(name, _)| name.split(' ').next_back() == Some(word));
    let close = || {
        let names = command.commands.iter().map(|c| c.name);
        names.min_by_key(|name| distance(name, word)).filter(|name| distance(name, word) <= 2)
    };
    let meant = match word {
        "ozone" => Some("ozone-events"),
        "jetstream" | "subscribe" | "firehose-relay" => Some("firehose relay"),
        "health" => Some("healthcheck"),
        "test" | "doctor" | "validate" | "verify" | "dry-run" => Some("check"),
        _ => whole.map(|(name, _)| name.as_str()).or_else(close),
    };
    let names = command_names(command);
    let allowed = match meant {
        Some(meant) => format!("no such command; did you mean {meant}? Allowed here: {names}"),
        None => format!("no such command; allowed here: {names}"),
    };
    invalid("command", word, &allowed)
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

//! Settings that can be used and are most likely not meant, or give something away: each a line for the log at the start.

use std::os::unix::fs::PermissionsExt;

use super::values;
use crate::config::{Input, layers};
use crate::filter::Lists;

/// Flags that hold a secret, with the better place for it.
pub(super) const SECRETS: [&str; 4] = ["--sasl-password", "--sasl-oauth-client-secret", "--tap-password", "--password"];
/// Characters of a did:plc behind its prefix, by the method's specification.
const PLC_LENGTH: usize = 24;

pub(super) fn all(input: &Input<'_>, lists: &Lists) -> Vec<String> {
    let mut out = Vec::new();
    for name in layers::unknown_variables(&input.env.all) {
        out.push(format!("{name}: no flag has this variable, it is not used"));
    }
    for (old, new) in layers::OLD_VARIABLES {
        if input.env.all.get(old).is_some_and(|value| !value.is_empty()) {
            out.push(format!("{old} is the old name of {new}: please write that"));
        }
    }
    if let Some(value) = input.env.all.get("DEBUG").filter(|v| !v.is_empty() && layers::boolean("", v).is_err()) {
        out.push(format!("DEBUG={value:?} is neither true nor false and is not used; --log-level debug shows more"));
    }
    for flag in SECRETS {
        if input.line.iter().any(|arg| arg == flag || arg.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=')))
        {
            let variable = &layers::variables(flag)[0];
            out.push(format!(
                "{flag}: every user of this machine can read it in the list of processes; {variable} or {flag}-file hide it"
            ));
        }
    }
    for flag in SECRETS {
        let file_flag = format!("{flag}-file");
        if let Some(path) = input.value(&file_flag).filter(|path| others_may_read(path)) {
            out.push(format!("{file_flag} {path:?}: every user of this machine may read it; chmod o-r ends that"));
        }
    }
    let in_dot_env = |flag: &&str| layers::variables(flag).iter().any(|name| input.env.from_file.contains(name));
    if SECRETS.iter().any(in_dot_env) && others_may_read(".env") {
        out.push(".env holds a password, and every user of this machine may read it; chmod o-r ends that".into());
    }
    let plain = input.value("--sasl-mechanism").is_some_and(|name| name.eq_ignore_ascii_case("PLAIN"));
    let protocol_given = input.values("--kafka-config").any(|value| value.contains("security.protocol="));
    if plain && !input.has("--tls") && !protocol_given {
        out.push("--sasl-mechanism PLAIN without --tls: user and password go over the network as they are".into());
    }
    let oauth = input.value("--sasl-mechanism").is_some_and(|name| name.eq_ignore_ascii_case("OAUTHBEARER"));
    if oauth && !input.has("--tls") && !protocol_given {
        out.push("--sasl-mechanism OAUTHBEARER without --tls: tokens go over the network as they are".into());
    }
    if let Some(url) = input.value("--sasl-oauth-token-url").filter(|url| url.starts_with("http://")) {
        out.push(format!("--sasl-oauth-token-url {url}: the client's secret goes over the network as it is"));
    }
    if input.has("--osprey-compatible")
        && input.value("--delivery").is_some_and(|how| how.eq_ignore_ascii_case("exactly-once"))
    {
        out.push(
            "--osprey-compatible with --delivery exactly-once: Osprey's stock consumer (kafka-python 1.4.7) cannot read committed records only, and takes each end of a transaction for an event that it cannot read; --delivery at-least-once has none".into(),
        );
    }
    let limit = input.value("--memory-limit").and_then(|text| values::memory(text).ok());
    let machine = rustix::system::sysinfo();
    let has = machine.totalram as u128 * u128::from(machine.mem_unit.max(1));
    if let Some(limit) = limit.filter(|limit| *limit as u128 > has) {
        let (limit, has) = (limit as u128 >> 20, has >> 20);
        out.push(format!(
            "--memory-limit is {limit} MiB, and this machine has {has} MiB: it would be out of memory first"
        ));
    }
    for (flag, dids) in [("--watched-dids", &lists.watched_dids), ("--ignored-dids", &lists.ignored_dids)] {
        if let Some(did) = dids.iter().find(|did| did.strip_prefix("did:plc:").is_some_and(|id| id.len() != PLC_LENGTH))
        {
            out.push(format!(
                "{flag} {did:?}: a did:plc has {PLC_LENGTH} characters behind did:plc:, so it is of no account"
            ));
        }
    }
    out
}

fn others_may_read(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0)
}

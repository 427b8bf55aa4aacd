//! `healthcheck`: its flags, and what they mean.

use argh::{ArgsInfo, FromArgs};

use super::{Command, Examples};
use crate::config::shared::DEFAULT_LISTEN;
use crate::config::shared::values::listen;
use crate::config::{Checked, invalid};

/// Asks a running atkafka whether it lives: exit code 0 or 1. For containers.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "healthcheck")]
pub struct Flags {
    /// ask whether it is connected and delivers (/readyz), not only whether it lives (/healthz)
    #[argh(switch)]
    pub ready: bool,
    /// where it listens (default 0.0.0.0:6009)
    #[argh(option, arg_name = "ip:port")]
    pub metrics_listen_address: Option<String>,
}

pub(super) fn checked(f: Flags) -> Checked<Command> {
    let address = listen(f.metrics_listen_address.as_deref().unwrap_or(DEFAULT_LISTEN))?
        .ok_or_else(|| invalid("--metrics-listen-address", "none", "then there is nothing to ask"))?;
    Ok(Command::Healthcheck(if f.ready { "/readyz" } else { "/healthz" }, address))
}

pub(super) const EXAMPLES: Examples = [
    ("Whether the process lives:", "atkafka healthcheck"),
    ("Whether it is connected and delivers:", "atkafka healthcheck --ready"),
    ("On another port:", "atkafka healthcheck --metrics-listen-address 127.0.0.1:6010"),
];

//! What people see of a running process: metrics, health and readiness, the log, and the status line of a terminal.

mod attacks;
mod pages;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod terminal;

use std::time::Duration;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const DID: &str = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa";

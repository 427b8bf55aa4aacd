//! The way to a relay, a Tap or a PDS: what answers in their place, TLS, proxies, and the secrets that none of it may show.

mod foreign;
mod gathering;
mod proxies;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/answering.rs"]
mod answering;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod wss;

use std::time::Duration;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

//! What several commands have in common. `flags` declares their flags; one file per group checks them; `values` parses
//! single values. Nothing here knows a single command.

#[macro_use]
pub(super) mod flags;
mod enriching;
mod kafka;
mod logging;
mod sasl;
mod settings;
pub(super) mod values;
mod warnings;
mod writing;

pub use logging::Logging;
pub(super) use logging::logging;
pub(super) use writing::{DEFAULT_LISTEN, writing};
pub use writing::{Output, Writing};

//! What several commands have in common. `flags` declares their flags; one file per group checks them; `values` parses
//! single values. Nothing here knows a single command.

#[macro_use]
pub(super) mod flags;
mod enriching;
mod kafka;
mod logging;
mod positions;
mod sasl;
pub(super) mod settings;
pub(super) mod values;
mod warnings;
mod writing;

pub use logging::Logging;
pub(super) use logging::logging;
pub use positions::{CursorTopic, Kept};
pub(super) use positions::{refuse, store};
pub(super) use writing::{DEFAULT_LISTEN, writing};

use super::Input;

/// Whether a flag would change nothing, since what it is about is not used: Kafka, or look-ups.
pub(super) fn has_no_use(flag: &str, input: &Input<'_>) -> bool {
    kafka::KAFKA_ONLY.contains(&flag) && !input.has("--bootstrap-servers")
        || enriching::LOOK_UPS_ONLY.contains(&flag) && !enriching::looks_up(input)
}

pub use writing::{Output, Writing};

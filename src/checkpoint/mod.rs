//! What survives a restart: the position up to which everything is acknowledged.

pub mod file;

/// Where upstream stands once everything up to here is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub seq: u64,
    /// Time of the newest event up to here, in milliseconds since 1970; 0 when unknown.
    pub time_ms: i64,
}

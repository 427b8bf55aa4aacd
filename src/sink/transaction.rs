//! What a sink with transactions offers: events and positions become visible together, or never. No client is known here.

use std::time::Duration;

use super::{NotReady, Refused, Token};
use crate::checkpoint::topic::{Entry, Key, Mark};

/// The broker ends a transaction that is open for longer. It is librdkafka's default, and below every broker's limit.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// With what a client takes part in transactions.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Kafka lets one client at a time work under it: the newest one.
    pub transactional_id: String,
    /// The topic of positions.
    pub cursor_topic: String,
    /// Bytes that a position may have.
    pub largest: usize,
    /// Whether the client writes nothing but positions.
    pub positions_only: bool,
}

/// The token of positions. Records have small ones.
pub const POSITION: Token = Token::MAX;

/// What a step of a transaction ran into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It takes longer: call the same again.
    Again(String),
    /// The transaction cannot be committed: abort it.
    Abort(String),
    /// The client is of no use any more, and what became of an open transaction is not known.
    Lost(String),
}

/// A sink with transactions. One transaction at a time, between [`Transactions::begin`] and a successful commit or abort.
pub trait Transactions {
    /// The newest committed record of each of these positions, in the order in which they were written. Once
    /// [`super::Sink::prepare`] has fenced, nothing of an earlier client can come behind them. Blocks some seconds, or for as long
    /// as the topic is being read.
    fn look(&mut self, wanted: &[Key]) -> Result<Vec<Entry>, NotReady>;

    /// Opens a transaction. Does not wait.
    fn begin(&mut self) -> Result<(), Trouble>;

    /// Puts a position into the open transaction; `None` deletes it. Reported under [`POSITION`].
    fn save(&mut self, key: &[u8], value: Option<&[u8]>, mark: &Mark) -> Result<(), Refused>;

    /// Waits for half a second at most.
    fn commit(&mut self) -> Result<(), Trouble>;

    /// Waits for half a second at most. Afterwards everything that was sent is reported.
    fn abort(&mut self) -> Result<(), Trouble>;
}

/// Bytes that the client's queue may have, of the memory limit.
pub fn client_memory(memory_limit: usize) -> usize {
    (memory_limit / 8).clamp(2 << 20, 256 << 20)
}

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
    /// Instances with the same identity take turns: the next one has it when the one at work is not heard of for so long.
    /// `None`: they do not, and the newest one works.
    pub takeover_after: Option<Duration>,
}

/// Whose turn it is to work, of the instances that share an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This one's.
    Ours,
    /// Another one's: this one is ready to take over.
    Others,
    /// Kafka has not said it yet.
    Unknown,
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
    /// Whose turn it is. Called a few times a second for as long as the process runs, by which it stays one of those who have
    /// turns. It waits for the brokers only as long as [`super::Sink::prepare`] has not succeeded, some seconds at most.
    fn turn(&mut self) -> Result<Turn, NotReady> {
        Ok(Turn::Ours)
    }

    /// The newest committed record of each of these positions, in the order in which they were written. Once
    /// [`super::Sink::prepare`] has fenced, nothing of an earlier client can come behind them. Blocks some seconds, or for as long
    /// as the topic is being read.
    fn look(&mut self, wanted: &[Key]) -> Result<Vec<Entry>, NotReady>;

    /// Whether the newest positions are hidden by a transaction that this run has left open, see [`Mark::run`]. Whoever takes over
    /// ends it first, so that nobody has. Blocks some seconds at most.
    fn has_open(&mut self, _run: &str) -> Result<bool, NotReady> {
        Ok(false)
    }

    /// Opens a transaction. Does not wait.
    fn begin(&mut self) -> Result<(), Trouble>;

    /// Puts a position into the open transaction; `None` deletes it. Reported under [`POSITION`].
    fn save(&mut self, key: &[u8], value: Option<&[u8]>, mark: &Mark) -> Result<(), Refused>;

    /// Waits for half a second at most.
    fn commit(&mut self) -> Result<(), Trouble>;

    /// Why the open transaction cannot be committed, where the client knows more than what it says of the records.
    fn refusal(&mut self) -> Option<String> {
        None
    }

    /// Waits for half a second at most. Afterwards everything that was sent is reported.
    fn abort(&mut self) -> Result<(), Trouble>;
}

/// Bytes that the client's queue may have, of the memory limit.
pub fn client_memory(memory_limit: usize) -> usize {
    (memory_limit / 8).clamp(2 << 20, 256 << 20)
}
